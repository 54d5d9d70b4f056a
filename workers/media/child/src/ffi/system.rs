//! System calls without a safe wrapper.

use std::mem::MaybeUninit;

/// What the process used so far.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct ProcessUsage {
    /// User and system time over all threads.
    pub(crate) cpu_seconds: f64,
    /// Largest resident set.
    pub(crate) rss_bytes_max: u64,
}

/// Reads what the process used so far.
pub(crate) fn read_process_usage() -> ProcessUsage {
    let mut usage = MaybeUninit::<libc::rusage>::zeroed();
    // SAFETY: the target is large enough; all-zero bytes are a valid value should the call fail.
    let usage = unsafe {
        libc::getrusage(libc::RUSAGE_SELF, usage.as_mut_ptr());
        usage.assume_init()
    };
    #[expect(
        clippy::cast_precision_loss,
        reason = "seconds and microseconds of a process are far below 2^52"
    )]
    let seconds = |time: libc::timeval| time.tv_sec as f64 + time.tv_usec as f64 / 1e6;
    ProcessUsage {
        cpu_seconds: seconds(usage.ru_utime) + seconds(usage.ru_stime),
        // The kernel counts in units of 1024 bytes.
        rss_bytes_max: u64::try_from(usage.ru_maxrss).unwrap_or(0).saturating_mul(1024),
    }
}

/// Keeps the C library from reserving address space for every thread, which the limit on it would count.
pub(crate) fn limit_arenas() {
    // SAFETY: only changes a setting of the allocator; called before any thread is started.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::mallopt(libc::M_ARENA_MAX, 4);
    }
}

/// Ends the process at once, from any thread, without running destructors.
pub(crate) fn exit_now(status: i32) -> ! {
    // SAFETY: ends the process; nothing after it can observe a broken state.
    unsafe { libc::_exit(status) }
}

/// Whether starting a process is refused; a process that could be started ends at once.
pub(crate) fn fork_is_refused() -> bool {
    // SAFETY: the only thing that a copy of the process does is to end, which is allowed after a fork of a process
    // with threads. The parent waits for it, so that none is left behind.
    unsafe {
        match libc::fork() {
            0 => libc::_exit(0),
            copy if copy > 0 => {
                libc::waitpid(copy, std::ptr::null_mut(), 0);
                false
            }
            _ => true,
        }
    }
}

/// Threads that a decoder may use: the wanted number, or one per processor up to eight.
pub(crate) fn thread_count(wanted: u16) -> usize {
    match wanted {
        0 => std::thread::available_parallelism().map_or(1, |count| count.get().min(8)),
        wanted => usize::from(wanted.min(64)),
    }
}

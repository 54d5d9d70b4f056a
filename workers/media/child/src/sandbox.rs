//! The cage that the child builds around itself before it reads a byte.
//!
//! Limits: address space and CPU seconds as given, 16 files, no file growth, no core. The seccomp filter is an
//! allow-list: memory, threads, clocks, and the pipes that are open already. Landlock takes away the whole file
//! system where the kernel has it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek};
use std::net::UdpSocket;
use std::os::unix::process::CommandExt;
use std::process::Command;

use landlock::{ABI, Access, AccessFs, AccessNet, Ruleset, RulesetAttr, RulesetStatus};
use media::SandboxReport;
use rustix::process::{Resource, Rlimit, Signal, getppid, set_parent_process_death_signal, setrlimit};
use rustix::thread::{
    CapabilitySet, CapabilitySets, capabilities, clear_ambient_capability_set,
    remove_capability_from_bounding_set, set_capabilities, set_no_new_privs,
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter,
};

use crate::error::{MediaChildError, MediaChildResult};

/// Open files: the three pipes, the process's status, and what thread libraries need for a moment.
const FILES_MAX: u64 = 16;

/// What the parent asks for on the command line.
#[derive(Debug, Clone, Default)]
pub(crate) struct SandboxOptions {
    pub(crate) memory_bytes_max: u64,
    pub(crate) cpu_seconds_max: u64,
    /// Process id of the parent; 0 when run by hand.
    pub(crate) parent: u32,
    pub(crate) unsandboxed: bool,
}

/// What is in force.
#[derive(Debug)]
pub(crate) struct SandboxState {
    /// What the kernel says of this process, opened while that was allowed; none where it says nothing.
    pub(crate) status: Option<File>,
    pub(crate) has_no_capabilities: bool,
    pub(crate) has_seccomp: bool,
    pub(crate) has_landlock: bool,
}

/// Sets limits and filters. Fails when neither seccomp nor landlock can be had, unless asked to go on without.
pub(crate) fn enter_sandbox(ask: &SandboxOptions) -> MediaChildResult<SandboxState> {
    die_with_parent(ask)?;
    let status = File::open("/proc/self/status").ok();
    set_resource_limit(Resource::As, ask.memory_bytes_max)?;
    set_resource_limit(Resource::Cpu, ask.cpu_seconds_max)?;
    set_resource_limit(Resource::Nofile, FILES_MAX)?;
    // Of files only: pipes have no such limit.
    set_resource_limit(Resource::Fsize, 0)?;
    set_resource_limit(Resource::Core, 0)?;
    let has_no_capabilities = drop_capabilities();
    let has_landlock = matches!(restrict_files(), Ok(true));
    let has_seccomp = install_seccomp().is_some();
    if !has_landlock && !has_seccomp && !ask.unsandboxed {
        return Err(MediaChildError::Failed("neither seccomp nor landlock can be had".into()));
    }
    Ok(SandboxState { status, has_no_capabilities, has_seccomp, has_landlock })
}

impl SandboxState {
    /// Largest size of the address space so far, in bytes; 0 where the kernel does not say.
    pub(crate) fn address_space_bytes_max(&self) -> u64 {
        let Some(mut file) = self.status.as_ref() else { return 0 };
        let mut text = String::new();
        if file.rewind().is_err() || file.read_to_string(&mut text).is_err() {
            return 0;
        }
        let line = text.lines().find_map(|line| line.strip_prefix("VmPeak:"));
        let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
        kib.unwrap_or(0).saturating_mul(1024)
    }
}

fn die_with_parent(ask: &SandboxOptions) -> MediaChildResult<()> {
    if ask.parent == 0 {
        return Ok(());
    }
    set_parent_process_death_signal(Some(Signal::KILL))
        .map_err(|error| MediaChildError::Failed(error.to_string()))?;
    // A parent that died before the line above sends no signal any more.
    let parent = getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
    if parent == Some(ask.parent) {
        Ok(())
    } else {
        Err(MediaChildError::Failed("the parent is gone".into()))
    }
}

fn set_resource_limit(resource: Resource, value: u64) -> MediaChildResult<()> {
    let limit = Rlimit { current: Some(value), maximum: Some(value) };
    setrlimit(resource, limit)
        .map_err(|error| MediaChildError::Failed(format!("limit {resource:?}: {error}")))
}

/// Gives up every capability for good, those of root too; false when one is left.
fn drop_capabilities() -> bool {
    // Which there are depends on the kernel: one that it does not know is none to drop, and without the right to change the
    // bounding set there is none in it that could come back, since no new privileges are to be had.
    for capability in CapabilitySet::all() {
        let _unknown = remove_capability_from_bounding_set(capability);
    }
    let _old_kernel = clear_ambient_capability_set();
    let none = CapabilitySets {
        effective: CapabilitySet::empty(),
        permitted: CapabilitySet::empty(),
        inheritable: CapabilitySet::empty(),
    };
    // Also what the kernel asks for before it lets a process without rights install filters.
    set_no_new_privs(true).is_ok()
        && set_capabilities(None, none).is_ok()
        && capabilities(None).is_ok_and(|left| left == none)
}

/// Refuses every access to files and TCP; false when the kernel has no landlock.
fn restrict_files() -> std::result::Result<bool, landlock::RulesetError> {
    let status = Ruleset::default()
        .handle_access(AccessFs::from_all(ABI::V5))?
        .handle_access(AccessNet::from_all(ABI::V5))?
        .create()?
        .restrict_self()?;
    Ok(status.ruleset != RulesetStatus::NotEnforced)
}

/// Puts the filters in force; none when the kernel has no seccomp or the machine is not one they were written for.
fn install_seccomp() -> Option<()> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> =
        list_allowed_syscalls().into_iter().map(|call| (call, Vec::new())).collect();
    // Threads, yes; processes, no.
    let thread = u64::try_from(libc::CLONE_THREAD).ok()?;
    rules.insert(libc::SYS_clone, vec![build_syscall_rule(0, SeccompCmpOp::MaskedEq(thread), thread)?]);
    // A crash may kill the process itself, and nobody else.
    let own = u64::from(std::process::id());
    for call in [libc::SYS_kill, libc::SYS_tgkill] {
        rules.insert(call, vec![build_syscall_rule(0, SeccompCmpOp::Eq, own)?]);
    }
    // No filter can see the flags of clone3, and glibc falls back to clone only when it does not exist at all. One
    // filter has one way to refuse, so this call has a filter of its own.
    let clone3 = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    apply_filter(&compile_filter(clone3, SeccompAction::Allow, errno_action(libc::ENOSYS)?)?).ok()?;
    // Last: it does not allow the call that installs another filter.
    apply_filter(&compile_filter(rules, errno_action(libc::EPERM)?, SeccompAction::Allow)?).ok()
}

fn compile_filter(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    mismatch: SeccompAction,
    matched: SeccompAction,
) -> Option<BpfProgram> {
    let arch = std::env::consts::ARCH.try_into().ok()?;
    SeccompFilter::new(rules, mismatch, matched, arch).ok()?.try_into().ok()
}

fn errno_action(number: i32) -> Option<SeccompAction> {
    u32::try_from(number).ok().map(SeccompAction::Errno)
}

fn build_syscall_rule(argument: u8, operator: SeccompCmpOp, value: u64) -> Option<SeccompRule> {
    let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Qword, operator, value).ok()?;
    SeccompRule::new(vec![condition]).ok()
}

/// Calls without conditions: none opens a file, makes a socket, or starts or touches another process.
fn list_allowed_syscalls() -> Vec<i64> {
    let mut calls = vec![
        libc::SYS_read,
        libc::SYS_readv,
        libc::SYS_write,
        libc::SYS_writev,
        libc::SYS_close,
        libc::SYS_lseek,
        libc::SYS_fstat,
        libc::SYS_dup,
        libc::SYS_ppoll,
        libc::SYS_mmap,
        libc::SYS_munmap,
        libc::SYS_mremap,
        libc::SYS_mprotect,
        libc::SYS_madvise,
        libc::SYS_brk,
        libc::SYS_futex,
        // Refused by the first filter, with the error that makes glibc use clone.
        libc::SYS_clone3,
        libc::SYS_set_robust_list,
        libc::SYS_get_robust_list,
        libc::SYS_rseq,
        libc::SYS_membarrier,
        libc::SYS_set_tid_address,
        libc::SYS_gettid,
        libc::SYS_getpid,
        libc::SYS_getppid,
        libc::SYS_exit,
        libc::SYS_exit_group,
        libc::SYS_rt_sigaction,
        libc::SYS_rt_sigprocmask,
        libc::SYS_rt_sigreturn,
        libc::SYS_sigaltstack,
        libc::SYS_restart_syscall,
        libc::SYS_sched_yield,
        libc::SYS_sched_getaffinity,
        libc::SYS_sched_getparam,
        libc::SYS_sched_getscheduler,
        libc::SYS_getpriority,
        libc::SYS_nanosleep,
        libc::SYS_clock_nanosleep,
        libc::SYS_clock_gettime,
        libc::SYS_clock_getres,
        libc::SYS_gettimeofday,
        libc::SYS_getrusage,
        libc::SYS_getrandom,
        libc::SYS_uname,
        libc::SYS_sysinfo,
    ];
    #[cfg(target_arch = "x86_64")]
    calls.extend([libc::SYS_poll, libc::SYS_time, libc::SYS_arch_prctl]);
    // Naming threads; nothing else that these offer undoes the limits above.
    calls.extend([libc::SYS_prctl, libc::SYS_fcntl]);
    calls
}

/// Tries what must not work, and threads, which must.
pub(crate) fn probe_sandbox(cage: &SandboxState) -> SandboxReport {
    let refuses_open = ["/", "/etc/passwd", "/proc/self/maps"].iter().all(|path| File::open(path).is_err());
    let refuses_socket = UdpSocket::bind(("127.0.0.1", 0)).is_err();
    // A program that cannot be started proves nothing about the fork before it, so both are tried.
    let refuses_fork = crate::ffi::fork_is_refused();
    let allows_threads = std::thread::Builder::new().spawn(|| ()).is_ok_and(|thread| thread.join().is_ok());
    let refused = Command::new("/bin/true").exec();
    let refuses_exec = refused.raw_os_error().is_some_and(|errno| errno != libc::ENOENT);
    SandboxReport {
        has_seccomp: cage.has_seccomp,
        has_landlock: cage.has_landlock,
        refuses_open,
        refuses_socket,
        refuses_fork,
        refuses_exec,
        has_no_capabilities: cage.has_no_capabilities,
        allows_threads,
    }
}

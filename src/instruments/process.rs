//! What the kernel says of this process.
//!
//! Limits: three small files of `/proc` each time that metrics are read, and one entry for each open file.

use std::{
    fmt, fs,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::encoding::DescriptorEncoder;

use crate::{
    Collector,
    encode::{encode_descriptor, encode_gauge, encode_gauges},
    table::{
        BUILD_INFO, PROCESS_CPU_SECONDS, PROCESS_MAX_FDS, PROCESS_OPEN_FDS, PROCESS_RESIDENT_MEMORY_BYTES,
        PROCESS_START_TIME_SECONDS, PROCESS_THREADS,
    },
};

/// CPU, memory, files and the version of this process.
#[derive(Debug)]
pub struct ProcessMetrics {
    version: &'static str,
    started_s: f64,
}

impl ProcessMetrics {
    /// Those of a process of this version that begins now.
    pub fn new(version: &'static str) -> Self {
        let started_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        Self { version, started_s }
    }
}

impl Collector for ProcessMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        encode_gauges(encoder, &BUILD_INFO, [([("version", self.version)], 1_i64)])?;
        encode_gauge(encoder, &PROCESS_START_TIME_SECONDS, self.started_s)?;
        let cpu_s = read_cpu_s();
        encode_descriptor(encoder, &PROCESS_CPU_SECONDS)?
            .encode_counter::<prometheus_client::encoding::NoLabelSet, _, f64>(&cpu_s, None)?;
        let (resident_bytes, threads) = read_status();
        encode_gauge(encoder, &PROCESS_RESIDENT_MEMORY_BYTES, resident_bytes)?;
        encode_gauge(encoder, &PROCESS_THREADS, threads)?;
        let open = fs::read_dir("/proc/self/fd").map_or(0, Iterator::count);
        // The listing itself is one of them.
        encode_gauge(encoder, &PROCESS_OPEN_FDS, i64::try_from(open).unwrap_or(i64::MAX).saturating_sub(1))?;
        let most = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        let most = most.map_or(i64::MAX, |most| i64::try_from(most).unwrap_or(i64::MAX));
        encode_gauge(encoder, &PROCESS_MAX_FDS, most)
    }
}

/// CPU time of all threads so far, in seconds; 0 where it can't be read.
fn read_cpu_s() -> f64 {
    fs::read_to_string("/proc/self/stat").map_or(0.0, |stat| parse_cpu_s(&stat))
}

/// The times in user and kernel mode of proc_pid_stat(5), fields 14 and 15: hundredths of a second (USER_HZ).
fn parse_cpu_s(stat: &str) -> f64 {
    // The name of the program is the second field, in brackets, and may have any character.
    let fields = stat.rsplit_once(')').map_or("", |(_, rest)| rest).split_ascii_whitespace();
    let ticks: u64 = fields.skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
    ticks as f64 / 100.0
}

/// Resident memory in bytes, and threads; 0 where they can't be read.
fn read_status() -> (i64, i64) {
    fs::read_to_string("/proc/self/status").map_or((0, 0), |status| parse_status(&status))
}

fn parse_status(status: &str) -> (i64, i64) {
    let number = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name))?;
        line.split_ascii_whitespace().next()?.parse::<i64>().ok()
    };
    (number("VmRSS:").unwrap_or(0).saturating_mul(1_024), number("Threads:").unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_says_what_it_uses() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194304 10 0 0 0 250 50 9 9 20 0 3 0 100";
        assert!((parse_cpu_s(stat) - 3.0).abs() < 1e-9);
        assert_eq!(parse_status("Name:\ta\nVmRSS:\t    12 kB\nThreads:\t3\n"), (12_288, 3));
        assert!(parse_cpu_s("nonsense").abs() < 1e-9);
        assert_eq!(parse_status(""), (0, 0));
        let (resident_bytes, threads) = read_status();
        assert!(resident_bytes > 100_000 && threads >= 1, "{resident_bytes} {threads}");
    }
}

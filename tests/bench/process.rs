//! Processes of a measured installation: where the program lies, and what a process has used, by `/proc`.

use std::path::PathBuf;

/// The binary of the same profile that lies two folders above this example.
pub(crate) fn binary() -> PathBuf {
    let example = std::env::current_exe().unwrap();
    example.ancestors().nth(2).unwrap().join("streamgate")
}

/// Memory of a process, in units of 1,024 bytes.
pub(crate) fn resident_kb(pid: u32) -> f64 {
    status_field(pid, "VmRSS:")
}

/// Time that a process has used on all cores, in seconds.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // Behind the name, which may have blanks: fields 14 and 15, in units of 10 ms.
    let fields: Vec<&str> = text.rsplit(')').next().unwrap().split_whitespace().collect();
    fields[11..13].iter().map(|ticks| ticks.parse::<f64>().unwrap()).sum::<f64>() / 100.0
}

/// The most memory that a process has had, in units of 1,024 bytes.
pub(crate) fn peak_resident_kb(pid: u32) -> f64 {
    status_field(pid, "VmHWM:")
}

/// A field of `/proc/PID/status` that is a number, in the unit that stands there.
pub(crate) fn status_field(pid: u32, name: &str) -> f64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(name)).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

//! Times as WebVTT writes them.

/// `HH:MM:SS.mmm`.
pub(crate) fn format_time(ms: u64) -> String {
    format!("{:02}:{:02}:{:02}.{:03}", ms / 3_600_000, ms / 60_000 % 60, ms / 1_000 % 60, ms % 1_000)
}

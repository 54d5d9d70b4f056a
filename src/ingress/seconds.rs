//! Times as people and documents have them, and as they are kept.
//!
//! Limits: [`SECONDS_MAX`].

/// Latest time of a part, in seconds: longer than any medium.
pub(crate) const SECONDS_MAX: f64 = 1_000_000.0;

/// Seconds to the millisecond; `None` for what is no time of a medium.
pub(crate) fn to_millis(seconds: f64) -> Option<u64> {
    let is_time = (0.0..=SECONDS_MAX).contains(&seconds);
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it is in the range just checked"
    )]
    is_time.then(|| (seconds * 1_000.0).round() as u64)
}

/// Seconds of a time in milliseconds.
pub(crate) fn to_seconds(ms: u64) -> f64 {
    std::time::Duration::from_millis(ms).as_secs_f64()
}

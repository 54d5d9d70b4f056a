//! When a schedule fires: its times, those that were missed, and what is due now. No IO, and no clock: the caller says what time it
//! is.
//!
//! Limits: a schedule whose next time is later than [`LATE_MS_MAX`] ago has missed it, and makes up for at most [`CATCH_UP_MAX`] times;
//! no time is farther away than [`AHEAD_MS_MAX`].

mod due;
#[cfg(test)]
mod tests;
mod timing;

pub use due::{DueRun, find_due_run};
pub use timing::{Timing, TimingError};

/// How long after its time a schedule still fires as planned, in milliseconds; what is older was missed.
pub const LATE_MS_MAX: u64 = 60_000;

/// Most missed times that are made up for.
pub const CATCH_UP_MAX: usize = 100;

/// How far ahead of the present a time may lie, in milliseconds: ten years.
pub const AHEAD_MS_MAX: u64 = 3_653 * 24 * 3_600_000;

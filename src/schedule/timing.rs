//! The times of a schedule.
//!
//! Cron expressions are read by croner in five fields. Around a change of the clocks on the walls it is as with Vixie cron: a fixed time
//! that a spring night leaves out comes right behind the gap, and one that an autumn night has twice comes the first time only; of an
//! interval, with a `*` or a step in minute or hour, what a gap leaves out does not come, and what comes twice comes twice. Croner takes
//! lists and ranges for intervals, and leaves out what a gap moves to a day that the expression does not name, so it is asked for fixed
//! times as a wall shows them, and what they are in the zone is worked out here.

use std::collections::VecDeque;

use croner::{
    Cron,
    parser::{CronParser, Seconds, Year},
};
// Croner knows no newer one; times cross to and from it as milliseconds.
use jiff_for_croner::{
    SignedDuration, Timestamp, Zoned,
    civil::DateTime,
    tz::{AmbiguousOffset, TimeZone},
};
use schemas::schedule::{EXPRESSION_BYTES_MAX, INTERVAL_MS_MAX, INTERVAL_MS_MIN, ScheduleTiming};

use crate::AHEAD_MS_MAX;

/// A minute: cron knows nothing finer.
const MINUTE_MS: u64 = 60_000;

/// More than clocks on walls were ever changed by at once, in milliseconds: islands that went over the date line left out a day.
const WALL_CLOCK_CHANGE_MS_MAX: u64 = 25 * 3_600_000;

/// Why nothing can be scheduled like that. Each says it for people, and where in the timing it stands.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum TimingError {
    /// No cron expression.
    #[error(
        "this is no cron expression of five fields (minute, hour, day of the month, month, day of the week): {0}"
    )]
    Expression(String),
    /// No time zone.
    #[error("there is no such time zone; name one as the IANA database does, such as Europe/Berlin or UTC")]
    TimeZone,
    /// The expression names no time that comes.
    #[error("it names no time within the next ten years")]
    Never,
    /// The interval is too short, or too long.
    #[error("an interval is a minute to 366 days: {INTERVAL_MS_MIN} to {INTERVAL_MS_MAX} ms")]
    Interval,
    /// The time is too far away.
    #[error("it lies more than ten years ahead")]
    TooFar,
    /// The time has passed.
    #[error("it lies in the past")]
    Past,
}

impl TimingError {
    /// The member of the timing that is wrong.
    pub const fn member(&self, timing: &ScheduleTiming) -> &'static str {
        match (self, timing) {
            (Self::TimeZone, _) => "time_zone",
            (Self::Interval, _) => "interval_ms",
            (_, ScheduleTiming::Once { .. }) => "at_ms",
            (_, ScheduleTiming::Cron { .. }) => "expression",
            (_, ScheduleTiming::Every { .. }) => "first_at_ms",
        }
    }
}

/// A timing that was understood.
#[derive(Debug, Clone)]
pub struct Timing(Times);

#[derive(Debug, Clone)]
enum Times {
    Once {
        at_ms: u64,
    },
    /// Times on walls, and no interval.
    Fixed {
        cron: Box<Cron>,
        zone: TimeZone,
    },
    /// An interval on walls.
    Interval {
        cron: Box<Cron>,
        zone: TimeZone,
    },
    Every {
        first_at_ms: u64,
        interval_ms: u64,
    },
}

impl Timing {
    /// Reads a timing of a schedule that is made at `created_at_ms`.
    ///
    /// # Errors
    /// [`TimingError`], but not [`TimingError::Never`], [`TimingError::Past`] and [`TimingError::TooFar`], which [`Timing::find_first`]
    /// knows.
    pub fn parse(timing: &ScheduleTiming, created_at_ms: u64) -> Result<Self, TimingError> {
        Ok(Self(match timing {
            ScheduleTiming::Once { at_ms } => Times::Once { at_ms: *at_ms },
            ScheduleTiming::Every { interval_ms, first_at_ms } => {
                if !(INTERVAL_MS_MIN..=INTERVAL_MS_MAX).contains(interval_ms) {
                    return Err(TimingError::Interval);
                }
                let first_at_ms = first_at_ms.unwrap_or_else(|| created_at_ms.saturating_add(*interval_ms));
                Times::Every { first_at_ms, interval_ms: *interval_ms }
            }
            ScheduleTiming::Cron { expression, time_zone } => {
                if expression.len() > EXPRESSION_BYTES_MAX {
                    return Err(TimingError::Expression(format!("it has over {EXPRESSION_BYTES_MAX} bytes")));
                }
                // A path or `posix/...` is a name to the database, too.
                let is_name = time_zone.len() <= EXPRESSION_BYTES_MAX && !time_zone.contains("..");
                let zone = is_name.then(|| TimeZone::get(time_zone).ok()).flatten();
                let fields: Vec<&str> = expression.split_whitespace().collect();
                let [minute, hour, _, _, _] = fields.as_slice() else {
                    return Err(TimingError::Expression(format!("it has {} fields", fields.len())));
                };
                let parser =
                    CronParser::builder().seconds(Seconds::Disallowed).year(Year::Disallowed).build();
                let parsed = parser.parse(expression);
                let cron = Box::new(parsed.map_err(|error| TimingError::Expression(error.to_string()))?);
                let zone = zone.ok_or(TimingError::TimeZone)?;
                if [minute, hour].iter().any(|field| field.contains(['*', '/', '?'])) {
                    Times::Interval { cron, zone }
                } else {
                    Times::Fixed { cron, zone }
                }
            }
        }))
    }

    /// The first time of a schedule that is made, or changed, at `now_ms`.
    ///
    /// # Errors
    /// [`TimingError::Never`], [`TimingError::Past`], [`TimingError::TooFar`].
    pub fn find_first(&self, now_ms: u64) -> Result<u64, TimingError> {
        let none = if matches!(self.0, Times::Once { .. }) { TimingError::Past } else { TimingError::Never };
        let first_at_ms = self.find_from(now_ms).ok_or(none)?;
        if first_at_ms > now_ms.saturating_add(AHEAD_MS_MAX) {
            let is_cron = matches!(self.0, Times::Fixed { .. } | Times::Interval { .. });
            return Err(if is_cron { TimingError::Never } else { TimingError::TooFar });
        }
        Ok(first_at_ms)
    }

    /// The first time at `from_ms` or later.
    pub fn find_from(&self, from_ms: u64) -> Option<u64> {
        match &self.0 {
            Times::Once { at_ms } => Some(*at_ms).filter(|at_ms| *at_ms >= from_ms),
            Times::Every { first_at_ms, interval_ms } => {
                let steps = from_ms.saturating_sub(*first_at_ms).div_ceil(*interval_ms);
                first_at_ms.checked_add(steps.checked_mul(*interval_ms)?)
            }
            Times::Fixed { cron, zone } => find_fixed_time(cron, zone, from_ms),
            Times::Interval { cron, zone } => find_interval_time(cron, zone, from_ms),
        }
    }

    /// The first time later than `ms`.
    pub fn find_after(&self, ms: u64) -> Option<u64> {
        self.find_from(ms.checked_add(1)?)
    }

    /// The last time at `ms` or earlier.
    pub fn find_last(&self, ms: u64) -> Option<u64> {
        self.list_last(ms, 1).pop_front()
    }

    /// The last `count` times at `ms` or earlier, the earliest first.
    pub fn list_last(&self, ms: u64, count: usize) -> VecDeque<u64> {
        let mut last = VecDeque::new();
        let Some(from_ms) = self.estimate_last(ms, count) else { return last };
        let all = std::iter::successors(self.find_from(from_ms), |ms| self.find_after(*ms));
        for found_ms in all.take_while(|found_ms| *found_ms <= ms) {
            if last.len() == count {
                last.pop_front();
            }
            last.push_back(found_ms);
        }
        last
    }

    /// A time with `count` times or more, but not many more, between it and `ms`, if there are as many.
    fn estimate_last(&self, ms: u64, count: usize) -> Option<u64> {
        match &self.0 {
            Times::Once { .. } => Some(0),
            Times::Every { interval_ms, .. } => {
                Some(ms.saturating_sub(interval_ms.saturating_mul(u64::try_from(count).ok()?)))
            }
            // Only about: backwards croner finds other times than forwards where clocks on walls change, and forwards is what fires.
            Times::Fixed { cron, zone } | Times::Interval { cron, zone } => {
                let now = zone.to_datetime(to_timestamp(ms)?);
                let older = |time: &DateTime| cron.find_previous_occurrence(time, false).ok();
                let oldest = std::iter::successors(Some(now), older).take(count + 1).last()?;
                Some(resolve_on_wall(zone, oldest)?.saturating_sub(WALL_CLOCK_CHANGE_MS_MAX))
            }
        }
    }
}

/// The first time of an interval at `from_ms` or later.
fn find_interval_time(cron: &Cron, zone: &TimeZone, from_ms: u64) -> Option<u64> {
    // Times of whole minutes, from one before.
    let before_ms = (from_ms / MINUTE_MS * MINUTE_MS).saturating_sub(MINUTE_MS);
    let next = |time: &Zoned| cron.find_next_occurrence(time, false).ok();
    let start = to_timestamp(before_ms)?.to_zoned(zone.clone());
    let mut times = std::iter::successors(next(&start), next);
    times.find_map(|time| to_ms(time.timestamp()).filter(|found_ms| *found_ms >= from_ms))
}

/// The first fixed time at `from_ms` or later.
fn find_fixed_time(cron: &Cron, zone: &TimeZone, from_ms: u64) -> Option<u64> {
    let from = to_timestamp(from_ms)?;
    // What a gap moved to its end stands before it on the wall.
    let changed_ms = find_last_change(zone, from).and_then(to_ms);
    let is_recent = changed_ms.is_some_and(|ms| from_ms.saturating_sub(ms) < WALL_CLOCK_CHANGE_MS_MAX);
    let back_ms = MINUTE_MS + if is_recent { WALL_CLOCK_CHANGE_MS_MAX } else { 0 };
    let start = zone.to_datetime(from).checked_sub(to_duration(back_ms)?).ok()?;
    let next = |time: &DateTime| cron.find_next_occurrence(time, false).ok();
    let mut times = std::iter::successors(next(&start), next);
    times.find_map(|time| resolve_on_wall(zone, time).filter(|found_ms| *found_ms >= from_ms))
}

/// When a wall of `zone` shows `time`, in Unix milliseconds: the first time where it does twice, and the end of the gap where it never
/// does.
fn resolve_on_wall(zone: &TimeZone, time: DateTime) -> Option<u64> {
    let (AmbiguousOffset::Unambiguous { offset }
    | AmbiguousOffset::Fold { before: offset, .. }
    | AmbiguousOffset::Gap { before: offset, .. }) = zone.to_ambiguous_timestamp(time).offset();
    let shown = offset.to_timestamp(time).ok()?;
    let is_gap = zone.to_offset(shown) != offset;
    to_ms(if is_gap { find_last_change(zone, shown)? } else { shown })
}

/// The last change of the clocks on the walls of `zone` at `time` or before.
fn find_last_change(zone: &TimeZone, time: Timestamp) -> Option<Timestamp> {
    let behind = time.checked_add(to_duration(1)?).ok()?;
    zone.preceding(behind).next().map(|change| change.timestamp())
}

fn to_duration(ms: u64) -> Option<SignedDuration> {
    Some(SignedDuration::from_millis(i64::try_from(ms).ok()?))
}

fn to_timestamp(ms: u64) -> Option<Timestamp> {
    Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()
}

fn to_ms(time: Timestamp) -> Option<u64> {
    u64::try_from(time.as_millisecond()).ok()
}

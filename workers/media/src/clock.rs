//! The clock of a file that jumps: joined recordings, streams that were started again.
//!
//! Limits: [`CLOCK_MARKS_MAX`] marks.

use serde::{Deserialize, Serialize};

/// Most marks of one file.
pub const CLOCK_MARKS_MAX: usize = 512;

/// From a place of the file on, its time stamps are read with an offset.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockMark {
    /// First byte of the file to which it applies.
    pub position_bytes: u64,
    /// What is added to time stamps from there on, in microseconds.
    pub offset_us: i64,
    /// The time of the first packet there, in microseconds, the offset added: decoding may begin here for what comes later.
    pub at_us: i64,
}

/// The marks of a file by their place; none for a file whose clock runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClockMap(pub Vec<ClockMark>);

impl ClockMap {
    /// Whether the file's own time stamps count.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What is added to the time stamps of a packet that begins at a byte of the file, in microseconds.
    #[must_use]
    pub fn offset_us(&self, position_bytes: u64) -> i64 {
        let marks = self.0.partition_point(|mark| mark.position_bytes <= position_bytes);
        marks.checked_sub(1).and_then(|last| self.0.get(last)).map_or(0, |mark| mark.offset_us)
    }

    /// The last byte at which reading may begin for what is shown at a time; none when only the beginning will do.
    #[must_use]
    pub fn start_bytes(&self, at_us: i64) -> Option<u64> {
        self.0.iter().rev().find(|mark| mark.at_us <= at_us).map(|mark| mark.position_bytes)
    }

    /// Checks what came from elsewhere; says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        let is_sorted = self.0.is_sorted_by(|one, next| one.position_bytes < next.position_bytes);
        if self.0.len() > CLOCK_MARKS_MAX || !is_sorted {
            return Err("clock has too many marks, or marks out of order".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_follow_places_and_reading_begins_before_a_time() {
        let mark = |position_bytes, offset_us, at_us| ClockMark { position_bytes, offset_us, at_us };
        let map = ClockMap(vec![mark(100, 0, 0), mark(500, 7_000, 3_000), mark(900, -2_000, 8_000)]);
        assert_eq!(
            [0, 100, 499, 500, 899, 5_000].map(|at| map.offset_us(at)),
            [0, 0, 0, 7_000, 7_000, -2_000]
        );
        assert_eq!(
            [-1, 0, 2_999, 3_000, 99_000].map(|at| map.start_bytes(at)),
            [None, Some(100), Some(100), Some(500), Some(900)]
        );
        assert!(map.check().is_ok());
        assert!(ClockMap(vec![mark(2, 0, 0), mark(2, 0, 0)]).check().is_err());
        assert!(ClockMap((0..600).map(|n| mark(n, 0, 0)).collect()).check().is_err());
        assert_eq!(ClockMap::default().offset_us(5), 0);
    }
}

//! How a medium played for its viewers: sums by the hour, as players reported it (CTA-5004-B, "CMCD").
//!
//! Limits: a record has the hours of [`HOURS_KEPT`]; no sum says who watched.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::MediaId;

/// Hours that a record has, the running one among them.
pub const HOURS_KEPT: usize = 24;
/// Milliseconds of an hour.
pub const HOUR_MS: u64 = 3_600_000;

/// Upper bounds of the classes of start times, in milliseconds: ten to a decade (ISO 3, R10), the last one for whatever is longer.
pub const START_BOUNDS_MS: [u32; 30] = [
    100, 125, 160, 200, 250, 315, 400, 500, 630, 800, 1_000, 1_250, 1_600, 2_000, 2_500, 3_150, 4_000, 5_000,
    6_300, 8_000, 10_000, 12_500, 16_000, 20_000, 25_000, 31_500, 40_000, 50_000, 63_000, 600_000,
];

/// What players reported of one medium.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
#[schemars(rename = "ExperienceSum")]
pub struct ExperienceSum {
    /// Views that began.
    pub views: u64,
    /// Views that a player gave up.
    pub failed_views: u64,
    /// How many views began in each class of [`START_BOUNDS_MS`]; classes at the end in which none did are left out.
    pub starts: Vec<u64>,
    /// Times at which playing stood still for want of data.
    pub stalls: u64,
    /// Milliseconds for which it did.
    pub stalled_ms: u64,
    /// Milliseconds that were played.
    pub played_ms: u64,
    /// Those of them whose bitrate is known.
    pub rated_ms: u64,
    /// Bytes of the media that were played in them, by that bitrate.
    pub rated_bytes: u64,
}

impl ExperienceSum {
    /// Adds a view that began after `start_ms`.
    pub fn add_start(&mut self, start_ms: u32) {
        let last = START_BOUNDS_MS.len() - 1;
        let class = START_BOUNDS_MS.partition_point(|bound| *bound < start_ms).min(last);
        if self.starts.len() <= class {
            self.starts.resize(class + 1, 0);
        }
        if let Some(count) = self.starts.get_mut(class) {
            *count = count.saturating_add(1);
        }
    }

    /// Adds another sum.
    pub fn add(&mut self, other: &Self) {
        let pairs = [
            (&mut self.views, other.views),
            (&mut self.failed_views, other.failed_views),
            (&mut self.stalls, other.stalls),
            (&mut self.stalled_ms, other.stalled_ms),
            (&mut self.played_ms, other.played_ms),
            (&mut self.rated_ms, other.rated_ms),
            (&mut self.rated_bytes, other.rated_bytes),
        ];
        for (own, more) in pairs {
            *own = own.saturating_add(more);
        }
        let others = other.starts.get(..other.starts.len().min(START_BOUNDS_MS.len())).unwrap_or_default();
        if self.starts.len() < others.len() {
            self.starts.resize(others.len(), 0);
        }
        for (own, more) in self.starts.iter_mut().zip(others) {
            *own = own.saturating_add(*more);
        }
    }

    /// The time in milliseconds in which `percent` of the views whose start is known had begun, rounded up to a bound of
    /// [`START_BOUNDS_MS`]; `None` where none is known.
    pub fn start_percentile_ms(&self, percent: u64) -> Option<u32> {
        let total: u64 = self.starts.iter().fold(0, |sum, count| sum.saturating_add(*count));
        let wanted = total.saturating_mul(percent).div_ceil(100).max(1);
        let mut passed = 0_u64;
        let class = self.starts.iter().position(|count| {
            passed = passed.saturating_add(*count);
            passed >= wanted
        })?;
        START_BOUNDS_MS.get(class).copied()
    }

    /// Share of the time of playing and standing still in which it stood still; `None` where nothing was played.
    pub fn stalled_ratio(&self) -> Option<f64> {
        let total_ms = self.played_ms.saturating_add(self.stalled_ms);
        (total_ms > 0).then(|| self.stalled_ms as f64 / total_ms as f64)
    }

    /// Average bits per second of what was played; `None` where no bitrate is known.
    pub fn average_bps(&self) -> Option<u64> {
        let bits = u128::from(self.rated_bytes) * 8;
        let average = (bits * 1_000).checked_div(u128::from(self.rated_ms))?;
        u64::try_from(average).ok()
    }
}

/// The sum of one hour.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "ExperienceHour")]
pub struct ExperienceHour {
    /// Unix time in milliseconds at which it began, by the broker's clock.
    pub hour_ms: u64,
    /// What was reported in it.
    pub sum: ExperienceSum,
}

/// How a medium played in its last [`HOURS_KEPT`] hours with reports, in the bucket `experience`.
///
/// Replicas add what they were sent once a minute: a crash in between counts too little, never too much.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MediaExperience")]
pub struct MediaExperience {
    /// The medium.
    pub media_id: MediaId,
    /// The hours, oldest first.
    pub hours: Vec<ExperienceHour>,
}

impl MediaExperience {
    /// The beginning of the hour in which this Unix time in milliseconds lies.
    pub const fn hour_of_ms(at_ms: u64) -> u64 {
        at_ms - at_ms % HOUR_MS
    }

    /// What the record is once `sum` of the hour that began at `hour_ms` is added to what was `found`, if there is one.
    #[must_use]
    pub fn with_added(found: Option<&Self>, media_id: MediaId, hour_ms: u64, sum: &ExperienceSum) -> Self {
        let mut hours = found.map(|found| found.hours.clone()).unwrap_or_default();
        // Clocks of replicas differ a little: an hour that is over may still get something.
        let place = hours.partition_point(|hour| hour.hour_ms < hour_ms);
        match hours.get_mut(place).filter(|hour| hour.hour_ms == hour_ms) {
            Some(hour) => hour.sum.add(sum),
            None => hours.insert(place, ExperienceHour { hour_ms, sum: sum.clone() }),
        }
        hours.drain(..hours.len().saturating_sub(HOURS_KEPT));
        Self { media_id, hours }
    }

    /// The sum of the hours from the one that began at `since_ms` on.
    pub fn sum_since(&self, since_ms: u64) -> ExperienceSum {
        let mut total = ExperienceSum::default();
        self.hours.iter().filter(|hour| hour.hour_ms >= since_ms).for_each(|hour| total.add(&hour.sum));
        total
    }
}

impl crate::KvRecord for MediaExperience {
    const BUCKET: &'static str = "experience";
    fn key(&self) -> String {
        self.media_id.to_string()
    }
    /// Once its newest hour is too old to be asked for, and one more: clocks differ.
    fn expires_at_ms(&self) -> Option<u64> {
        let newest_ms = self.hours.last().map_or(0, |hour| hour.hour_ms);
        Some(newest_ms.saturating_add((HOURS_KEPT as u64 + 1) * HOUR_MS))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::KvRecord as _;

    const FILM: MediaId = MediaId::from_bytes([7; 16]);

    fn view(start_ms: u32) -> ExperienceSum {
        let mut sum = ExperienceSum { views: 1, ..ExperienceSum::default() };
        sum.add_start(start_ms);
        sum
    }

    #[test]
    fn percentiles_are_bounds_of_the_classes_in_which_views_began() {
        assert_eq!(ExperienceSum::default().start_percentile_ms(50), None);
        for (start_ms, shown_ms) in
            [(0, 100), (100, 100), (101, 125), (1_000, 1_000), (63_001, 600_000), (u32::MAX, 600_000)]
        {
            assert_eq!(view(start_ms).start_percentile_ms(50), Some(shown_ms), "{start_ms}");
        }
        let mut sum = ExperienceSum::default();
        (0..94).for_each(|_| sum.add(&view(700)));
        (0..6).for_each(|_| sum.add(&view(9_000)));
        assert_eq!(sum.views, 100);
        assert_eq!(
            [50, 94, 95, 100].map(|p| sum.start_percentile_ms(p).unwrap()),
            [800, 800, 10_000, 10_000]
        );
        assert!(START_BOUNDS_MS.is_sorted());
    }

    #[test]
    fn ratios_are_there_once_something_was_played() {
        let nothing = ExperienceSum::default();
        assert_eq!((nothing.stalled_ratio(), nothing.average_bps()), (None, None));
        let sum = ExperienceSum {
            played_ms: 9_000,
            stalled_ms: 1_000,
            rated_ms: 8_000,
            rated_bytes: 2_000_000,
            ..nothing
        };
        assert_eq!((sum.stalled_ratio(), sum.average_bps()), (Some(0.1), Some(2_000_000)));
        let large = ExperienceSum { rated_ms: 1, rated_bytes: u64::MAX, ..ExperienceSum::default() };
        assert_eq!(large.average_bps(), None, "nobody has that");
    }

    #[test]
    fn a_record_has_the_newest_hours_in_their_order() {
        let add = |found: Option<&MediaExperience>, hour: u64| {
            MediaExperience::with_added(found, FILM, hour * HOUR_MS, &view(700))
        };
        let mut record = add(None, 5);
        for hour in [7, 6, 7] {
            record = add(Some(&record), hour);
        }
        let hours: Vec<_> =
            record.hours.iter().map(|hour| (hour.hour_ms / HOUR_MS, hour.sum.views)).collect();
        assert_eq!(hours, [(5, 1), (6, 1), (7, 2)]);
        assert_eq!(record.sum_since(6 * HOUR_MS).views, 3);
        assert_eq!(record.expires_at_ms(), Some(32 * HOUR_MS));
        for hour in 8..100 {
            record = add(Some(&record), hour);
        }
        assert_eq!((record.hours.len(), record.hours[0].hour_ms), (HOURS_KEPT, 76 * HOUR_MS));
        assert_eq!(add(Some(&record), 3).hours, record.hours, "what is older than all of them is not kept");
    }
}

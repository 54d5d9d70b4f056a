//! What a day brings, how long it is kept, and the limits that follow from it.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de::Error as _};

use super::quantity::ByteSize;

/// The least a derived limit is, in bytes: a few thousand records, and room for the server's own.
const LEAST_BYTES: u64 = 16 << 20;
const DAY_S: u64 = 86_400;

/// What a day brings, and how long history is kept. Limits of streams and buckets are made for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExpectedLoad {
    /// Uploads of a day.
    pub uploads_per_day: u64,
    /// Openings of playback of a day.
    pub views_per_day: u64,
    /// Days for which events and dead letters are kept.
    pub retention_days: u64,
}

impl ExpectedLoad {
    /// How long history is kept.
    pub(super) const fn retention_period(&self) -> Duration {
        Duration::from_secs(self.retention_days.saturating_mul(DAY_S))
    }
}

/// The load that the limits in the file are made for.
impl Default for ExpectedLoad {
    fn default() -> Self {
        Self { uploads_per_day: 200, views_per_day: 15_000, retention_days: 90 }
    }
}

/// What comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum LoadUnit {
    Upload,
    View,
}

/// How long it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RetentionTime {
    /// As long as history.
    Retention,
    /// So long.
    For(Duration),
}

impl<'de> Deserialize<'de> for RetentionTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if text == "retention" {
            return Ok(Self::Retention);
        }
        humantime::parse_duration(&text)
            .map(Self::For)
            .map_err(|e| D::Error::custom(format!("{text:?}: {e}")))
    }
}

/// One thing that fills a stream or bucket: so many bytes for each unit, for so long.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct StorageDemand {
    by: LoadUnit,
    bytes: ByteSize,
    kept: RetentionTime,
}

impl StorageDemand {
    /// Bytes that are there once as much goes as comes.
    fn expected_bytes(&self, load: &ExpectedLoad) -> u64 {
        let per_day = match self.by {
            LoadUnit::Upload => load.uploads_per_day,
            LoadUnit::View => load.views_per_day,
        };
        let kept_s = match self.kept {
            RetentionTime::Retention => load.retention_days.saturating_mul(DAY_S),
            RetentionTime::For(time) => time.as_secs(),
        };
        let bytes = u128::from(per_day) * u128::from(self.bytes.as_u64()) * u128::from(kept_s);
        u64::try_from(bytes / u128::from(DAY_S)).unwrap_or(u64::MAX)
    }
}

/// Bytes that `fills` add up to under `load`, with a quarter more, so that a busy week is no alarm.
pub(super) fn demand_limit_bytes(fills: &[StorageDemand], load: &ExpectedLoad) -> i64 {
    let sum = fills.iter().map(|filling| filling.expected_bytes(load)).fold(0, u64::saturating_add);
    i64::try_from(sum.saturating_add(sum / 4).max(LEAST_BYTES)).unwrap_or(i64::MAX)
}

/// True for what is kept as long as history.
pub(super) fn is_kept_as_history(fills: &[StorageDemand]) -> bool {
    fills.iter().any(|filling| filling.kept == RetentionTime::Retention)
}

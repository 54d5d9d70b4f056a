//! How full streams and buckets are.
//!
//! Limits: [`REQUESTS_MAX`] questions at once.

use async_nats::jetstream::{ErrorCode, response::Response, stream};
use futures::{StreamExt, TryStreamExt};

use crate::{Bus, BusError};

const DAY_S: u64 = 86_400;

/// Most questions at once.
const REQUESTS_MAX: usize = 8;

/// What a stream may hold, and holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamUsage {
    /// The stream; `KV_<bucket>` for a bucket.
    pub stream: String,
    /// Its limit in bytes.
    pub limit_bytes: u64,
    /// What it holds in bytes.
    pub used_bytes: u64,
    /// Unix time in milliseconds at which the oldest message that it holds was stored; 0 when it is empty.
    pub oldest_ms: u64,
    /// How long it keeps a message, in seconds; 0 for ever, or as long as each message says.
    pub age_s_max: u64,
    /// True when what is new makes room for itself: it is never too full to take more.
    pub drops_oldest: bool,
}

impl StreamUsage {
    /// What the state of a stream says; `None` when it has no limit.
    pub fn from_stream_info(info: &stream::Info) -> Option<Self> {
        let limit_bytes = u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0)?;
        let oldest_ms = info.state.first_timestamp.unix_timestamp_nanos() / 1_000_000;
        let is_empty = info.state.messages == 0;
        Some(Self {
            stream: info.config.name.clone(),
            limit_bytes,
            used_bytes: info.state.bytes,
            oldest_ms: if is_empty { 0 } else { u64::try_from(oldest_ms).unwrap_or(0) },
            age_s_max: info.config.max_age.as_secs(),
            drops_oldest: info.config.discard == stream::DiscardPolicy::Old,
        })
    }

    /// Days until it is full if it goes on as it came; `None` when what is old goes before that.
    pub fn days_left(&self, now_ms: u64) -> Option<u64> {
        let age_s = (now_ms.saturating_sub(self.oldest_ms) / 1_000).max(DAY_S);
        let free_bytes = self.limit_bytes.saturating_sub(self.used_bytes);
        if self.used_bytes == 0 || self.drops_oldest {
            return None;
        }
        // In wide numbers: bytes times seconds.
        let bytes_in = |seconds: u64| u128::from(self.used_bytes) * u128::from(seconds) / u128::from(age_s);
        if self.age_s_max > 0 && bytes_in(self.age_s_max) <= u128::from(self.limit_bytes) {
            return None;
        }
        let per_day = bytes_in(DAY_S).max(1);
        Some(u64::try_from(u128::from(free_bytes) / per_day).unwrap_or(u64::MAX))
    }

    /// How full it is, in whole percent.
    pub fn used_percent(&self) -> u64 {
        let percent = u128::from(self.used_bytes) * 100 / u128::from(self.limit_bytes.max(1));
        u64::try_from(percent).unwrap_or(u64::MAX)
    }
}

impl Bus {
    /// How full every stream and bucket is that has a limit, by name; needs the right to list streams.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn all_stream_usage(&self) -> Result<Vec<StreamUsage>, BusError> {
        let infos: Vec<stream::Info> =
            self.context().streams().try_collect().await.map_err(BusError::unavailable)?;
        let mut fills: Vec<StreamUsage> = infos.iter().filter_map(StreamUsage::from_stream_info).collect();
        fills.sort_by(|a, b| a.stream.cmp(&b.stream));
        Ok(fills)
    }

    /// How full `streams` are, as their leaders say. One that is absent or has no limit is left out.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer for one of them.
    pub async fn stream_usage(&self, streams: &[&str]) -> Result<Vec<StreamUsage>, BusError> {
        let fill = |name: &&str| {
            let subject = format!("STREAM.INFO.{name}");
            async move {
                let answer = self.context().request(subject, &serde_json::json!({})).await;
                match answer.map_err(BusError::unavailable)? {
                    Response::Ok(info) => Ok(StreamUsage::from_stream_info(&info)),
                    Response::Err { error } if error.error_code() == ErrorCode::STREAM_NOT_FOUND => Ok(None),
                    Response::Err { error } => Err(BusError::unavailable(error)),
                }
            }
        };
        let fills = futures::stream::iter(streams.iter().map(fill)).buffered(REQUESTS_MAX);
        fills.try_filter_map(|fill| std::future::ready(Ok(fill))).try_collect().await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY_MS: u64 = 1_000 * DAY_S;

    fn fill(used_bytes: u64, days: u64, age_days_max: u64) -> StreamUsage {
        StreamUsage {
            stream: "S".into(),
            limit_bytes: 1_000,
            used_bytes,
            oldest_ms: (100 - days) * DAY_MS,
            age_s_max: age_days_max * DAY_S,
            drops_oldest: false,
        }
    }

    #[test]
    fn days_left_follow_from_what_came_so_far() {
        let now_ms = 100 * DAY_MS;
        for (used_bytes, days, age_days_max, wanted) in [
            (0, 10, 0, None),
            (100, 10, 0, Some(90)),
            (100, 10, 90, None),
            (100, 10, 101, Some(90)),
            (500, 0, 0, Some(1)),
            (1_000, 10, 0, Some(0)),
            (1_200, 10, 90, Some(0)),
        ] {
            let found = fill(used_bytes, days, age_days_max).days_left(now_ms);
            assert_eq!(found, wanted, "{used_bytes} bytes in {days} days, kept {age_days_max}");
        }
        let dropping = StreamUsage { drops_oldest: true, ..fill(999, 10, 0) };
        assert_eq!(dropping.days_left(now_ms), None);
    }
}

//! How long a stream still has room, from how it grew lately.
//!
//! Limits: [`SAMPLES_MAX`] sizes a stream, [`SAMPLE_PERIOD_MS`] apart: an hour.

use std::collections::{HashMap, VecDeque};

use crate::stats::StreamStats;

/// Most sizes that are kept of a stream.
const SAMPLES_MAX: usize = 61;
/// Least time between two of them, in milliseconds.
const SAMPLE_PERIOD_MS: u64 = 60_000;
/// Longest time that is shown, in seconds: ten years.
pub(crate) const ROOM_SECONDS_MAX: f64 = 315_360_000.0;

/// A size in bytes at a Unix time in milliseconds.
#[derive(Debug, Clone, Copy)]
struct StreamSize {
    at_ms: u64,
    size_bytes: u64,
}

/// Earlier sizes of streams, by name.
#[derive(Debug, Default)]
pub(crate) struct StreamGrowth {
    sizes: HashMap<String, VecDeque<StreamSize>>,
}

impl StreamGrowth {
    /// Takes a size, and answers in how many seconds the stream is full if it goes on like that. What has no limit, discards its
    /// oldest messages or does not grow has room for [`ROOM_SECONDS_MAX`].
    pub(crate) fn note_size(&mut self, stream: &StreamStats, now_ms: u64) -> f64 {
        let now = StreamSize { at_ms: now_ms, size_bytes: stream.size_bytes };
        let sizes = self.sizes.entry(stream.stream.clone()).or_default();
        // A clock that was set back begins anew, and so does what became smaller: messages went, so growth from before says nothing.
        sizes.retain(|size| size.at_ms <= now_ms);
        if sizes.back().is_some_and(|last| last.size_bytes > stream.size_bytes) {
            sizes.clear();
        }
        let is_due = sizes.back().is_none_or(|last| now_ms - last.at_ms >= SAMPLE_PERIOD_MS);
        if is_due {
            if sizes.len() >= SAMPLES_MAX {
                sizes.pop_front();
            }
            sizes.push_back(now);
        }
        let Some(limit_bytes) =
            stream.limit_bytes.filter(|limit_bytes| *limit_bytes > 0 && !stream.discards_old)
        else {
            return ROOM_SECONDS_MAX;
        };
        let left_bytes = limit_bytes.saturating_sub(stream.size_bytes);
        if left_bytes == 0 {
            return 0.0;
        }
        let grown = sizes.front().and_then(|first| {
            let grown_bytes = now.size_bytes.checked_sub(first.size_bytes).filter(|grown| *grown > 0)?;
            let took_ms = (now_ms - first.at_ms).max(SAMPLE_PERIOD_MS);
            Some(grown_bytes as f64 / (took_ms as f64 / 1_000.0))
        });
        grown.map_or(ROOM_SECONDS_MAX, |bytes_per_s| (left_bytes as f64 / bytes_per_s).min(ROOM_SECONDS_MAX))
    }

    /// Forgets streams that are no more.
    pub(crate) fn keep_only(&mut self, streams: &[StreamStats]) {
        self.sizes.retain(|name, _| streams.iter().any(|stream| stream.stream == *name));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream(size_bytes: u64, limit_bytes: Option<u64>) -> StreamStats {
        StreamStats {
            stream: "EVENTS".into(),
            messages: 1,
            size_bytes,
            limit_bytes,
            discards_old: false,
            fill_ratio: 0.0,
            first_sequence: 1,
            last_sequence: 1,
        }
    }

    #[test]
    fn room_ends_as_fast_as_it_went_lately() {
        let mut growth = StreamGrowth::default();
        let minute = |n: u64| n * SAMPLE_PERIOD_MS;
        let is_near = |found: f64, wanted: f64| (found - wanted).abs() < 1.0;
        assert!(is_near(growth.note_size(&stream(0, Some(1_000_000)), minute(1)), ROOM_SECONDS_MAX));
        // 6,000 bytes in a minute are 100 a second.
        assert!(is_near(growth.note_size(&stream(6_000, Some(1_000_000)), minute(2)), 9_940.0));
        for n in 3..200 {
            growth.note_size(&stream(6_000, Some(1_000_000)), minute(n));
        }
        let still = growth.note_size(&stream(6_000, Some(1_000_000)), minute(200));
        assert!(is_near(still, ROOM_SECONDS_MAX), "an hour without growth");
        assert_eq!(growth.sizes["EVENTS"].len(), SAMPLES_MAX);
        assert!(is_near(growth.note_size(&stream(2_000_000, Some(1_000_000)), minute(201)), 0.0), "full");
        assert!(is_near(growth.note_size(&stream(9_000_000, None), minute(202)), ROOM_SECONDS_MAX));
        let old = StreamStats { discards_old: true, ..stream(9_000_000, Some(1)) };
        assert!(is_near(growth.note_size(&old, minute(203)), ROOM_SECONDS_MAX), "it makes room itself");
        growth.note_size(&stream(100, Some(1_000_000)), minute(204));
        assert_eq!(growth.sizes["EVENTS"].len(), 1, "it became smaller");
        assert!(is_near(growth.note_size(&stream(6_100, Some(1_000_000)), minute(205)), 9_939.0));
        growth.keep_only(&[]);
        assert!(growth.sizes.is_empty());
    }
}

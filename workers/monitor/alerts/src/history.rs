//! What counters amounted to within the last hour: sums of how much their series grew, so that a process that begins anew counts on.
//!
//! As in Prometheus, a series counts from the first value that is seen of it on.
//!
//! Limits: [`SERIES_MAX`] series, [`GROUPS_MAX`] groups of them, [`POINTS_MAX`] points a group. What is beyond is not counted,
//! and a track knows that it left something out.

use std::collections::{BTreeMap, HashMap, VecDeque};

use crate::{
    rule::{Selector, WINDOW_MS_MAX},
    sample::MetricPoint,
};

/// Most series whose last value is kept.
pub const SERIES_MAX: usize = 32_768;
/// Most groups of series.
pub const GROUPS_MAX: usize = 1_024;
/// Most points of a group.
pub const POINTS_MAX: usize = 242;

/// Labels of a group.
pub(crate) type GroupLabels = BTreeMap<String, String>;

/// What is counted together.
#[derive(Debug)]
struct CounterGroup {
    /// All that its series grew since they are seen.
    total: f64,
    /// Earlier totals by Unix time in milliseconds.
    points: VecDeque<(u64, f64)>,
}

impl CounterGroup {
    fn note_total(&mut self, window_ms: u64, now_ms: u64) {
        let spacing_ms = window_ms / (POINTS_MAX as u64 - 2);
        if self.points.back().is_none_or(|(at_ms, _)| now_ms.saturating_sub(*at_ms) >= spacing_ms) {
            self.points.push_back((now_ms, self.total));
        }
        let start_ms = now_ms.saturating_sub(window_ms);
        // One point at or before the start of the window stays: growth is counted from it.
        while self.points.get(1).is_some_and(|(at_ms, _)| *at_ms <= start_ms)
            || self.points.len() > POINTS_MAX
        {
            self.points.pop_front();
        }
    }

    fn increase(&self, window_ms: u64, now_ms: u64) -> f64 {
        let start_ms = now_ms.saturating_sub(window_ms);
        let before = self.points.iter().rev().find(|(at_ms, _)| *at_ms <= start_ms);
        before.or(self.points.front()).map_or(0.0, |(_, total)| self.total - total)
    }
}

#[derive(Debug)]
struct LastValue {
    value: f64,
    seen_at_ms: u64,
}

/// The counters that one selector means.
#[derive(Debug)]
pub(crate) struct CounterTrack {
    of: Selector,
    by: Vec<String>,
    window_ms: u64,
    began_at_ms: Option<u64>,
    series: HashMap<BTreeMap<String, String>, LastValue>,
    groups: BTreeMap<GroupLabels, CounterGroup>,
    /// Unix time in milliseconds at which a series was left out last.
    omitted_at_ms: Option<u64>,
    omitted_count: u64,
}

impl CounterTrack {
    pub(crate) fn new(of: Selector, by: Vec<String>, window_ms: u64) -> Self {
        let window_ms = window_ms.min(WINDOW_MS_MAX);
        Self {
            of,
            by,
            window_ms,
            began_at_ms: None,
            series: HashMap::new(),
            groups: BTreeMap::new(),
            omitted_at_ms: None,
            omitted_count: 0,
        }
    }

    pub(crate) fn metric(&self) -> &str {
        &self.of.metric
    }

    /// Takes the values of a moment. `room` is how many series all tracks together may still begin.
    pub(crate) fn observe(&mut self, points: &[&MetricPoint], now_ms: u64, room: &mut usize) {
        // A clock that was set back begins anew.
        if self.began_at_ms.is_some_and(|began_at_ms| began_at_ms > now_ms) {
            self.groups.clear();
            self.began_at_ms = None;
            self.omitted_at_ms = None;
        }
        let mut omitted_count = 0;
        self.began_at_ms.get_or_insert(now_ms);
        let before = self.series.len();
        self.series.retain(|_, last| now_ms.saturating_sub(last.seen_at_ms) <= WINDOW_MS_MAX);
        *room += before - self.series.len();
        for point in points.iter().filter(|point| self.of.matches_labels(&point.labels)) {
            if !point.value.is_finite() {
                continue;
            }
            let grown = match self.series.get_mut(&point.labels) {
                Some(last) => {
                    let grown =
                        if point.value >= last.value { point.value - last.value } else { point.value };
                    *last = LastValue { value: point.value, seen_at_ms: now_ms };
                    grown
                }
                None if *room == 0 => {
                    omitted_count += 1;
                    continue;
                }
                None => {
                    *room -= 1;
                    let last = LastValue { value: point.value, seen_at_ms: now_ms };
                    self.series.insert(point.labels.clone(), last);
                    0.0
                }
            };
            let group = point.pick_labels(&self.by);
            if self.groups.len() >= GROUPS_MAX && !self.groups.contains_key(&group) {
                omitted_count += 1;
                continue;
            }
            let group = self
                .groups
                .entry(group)
                .or_insert_with(|| CounterGroup { total: 0.0, points: VecDeque::new() });
            group.total += grown;
        }
        self.omitted_count = omitted_count;
        if omitted_count > 0 {
            self.omitted_at_ms = Some(now_ms);
        }
        for group in self.groups.values_mut() {
            group.note_total(self.window_ms, now_ms);
        }
    }

    /// How much each group grew within a window.
    pub(crate) fn increases(&self, window_ms: u64, now_ms: u64) -> impl Iterator<Item = (&GroupLabels, f64)> {
        self.groups.iter().map(move |(labels, group)| (labels, group.increase(window_ms, now_ms)))
    }

    /// How many series were left out when values were taken last.
    pub(crate) const fn omitted_count(&self) -> u64 {
        self.omitted_count
    }

    /// Whether no series was left out within a window.
    pub(crate) fn is_whole(&self, window_ms: u64, now_ms: u64) -> bool {
        self.omitted_at_ms.is_none_or(|at_ms| now_ms.saturating_sub(at_ms) >= window_ms)
    }

    /// Whether a whole window has been seen, and all series in it.
    pub(crate) fn is_covered(&self, window_ms: u64, now_ms: u64) -> bool {
        self.is_whole(window_ms, now_ms)
            && self.began_at_ms.is_some_and(|began_at_ms| now_ms.saturating_sub(began_at_ms) >= window_ms)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn point(instance: &str, value: f64) -> MetricPoint {
        let labels = BTreeMap::from([("instance".to_owned(), instance.to_owned())]);
        MetricPoint { name: "a_total".into(), labels, value }
    }

    fn track() -> CounterTrack {
        let of = Selector { metric: "a_total".into(), labels: BTreeMap::new(), not_labels: BTreeMap::new() };
        CounterTrack::new(of, Vec::new(), 600_000)
    }

    fn grown(track: &CounterTrack, now_ms: u64) -> f64 {
        track.increases(600_000, now_ms).map(|(_, grown)| grown).sum()
    }

    #[test]
    fn growth_is_counted_within_the_window_over_processes_that_begin_anew() {
        let (mut track, mut room) = (track(), 10);
        let mut see = |track: &mut CounterTrack, minute: u64, points: &[MetricPoint]| {
            let points: Vec<&MetricPoint> = points.iter().collect();
            track.observe(&points, minute * 60_000, &mut room);
            grown(track, minute * 60_000)
        };
        assert!(see(&mut track, 0, &[point("a", 100.0)]).abs() < 1e-9, "what was before is not counted");
        assert!((see(&mut track, 1, &[point("a", 103.0)]) - 3.0).abs() < 1e-9);
        assert!((see(&mut track, 2, &[point("a", 2.0)]) - 5.0).abs() < 1e-9, "it began anew and counted 2");
        assert!((see(&mut track, 3, &[point("a", 2.0), point("b", 7.0)]) - 5.0).abs() < 1e-9);
        assert!((see(&mut track, 4, &[point("a", 2.0), point("b", 8.0)]) - 6.0).abs() < 1e-9);
        assert!((see(&mut track, 5, &[point("b", 8.0)]) - 6.0).abs() < 1e-9, "what grew stays grown");
        assert!(!track.is_covered(600_000, 5 * 60_000));
        for minute in 6..=13 {
            see(&mut track, minute, &[point("b", 8.0)]);
        }
        assert!((grown(&track, 13 * 60_000) - 1.0).abs() < 1e-9, "only what came within ten minutes");
        assert!(see(&mut track, 14, &[point("b", 8.0)]).abs() < 1e-9);
        assert!(track.is_covered(600_000, 14 * 60_000));
    }

    #[test]
    fn what_is_kept_is_bounded() {
        let (mut track, mut room) = (track(), 2);
        for step in 0..2_000_u64 {
            let points = [point("a", step as f64), point("b", step as f64), point("c", step as f64)];
            track.observe(&points.iter().collect::<Vec<_>>(), step * 500, &mut room);
        }
        assert_eq!((track.series.len(), room), (2, 0), "the third has no place");
        assert!(!track.is_covered(600_000, 1_999 * 500) && track.omitted_count() == 1);
        assert!(track.groups.values().all(|group| group.points.len() <= POINTS_MAX));
        let all = grown(&track, 1_999 * 500);
        assert!((all - 2_400.0).abs() < 12.0, "600 s of two series that grow by 2 a second: {all}");
        track.observe(&[], 1_999 * 500 + WINDOW_MS_MAX + 1, &mut room);
        assert_eq!((track.series.len(), room), (0, 2), "what was not seen for an hour is forgotten");
    }
}

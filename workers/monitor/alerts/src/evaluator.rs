//! Which conditions hold, by the values of a moment and what counters did within the last hour.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    history::{CounterTrack, SERIES_MAX},
    rule::{
        Aggregate, AlertRule, BurnWindow, Comparison, Condition, Operator, SERIES_OF_FAMILY_MAX, Selector,
        ServiceObjective,
    },
    rule_set::RuleSet,
    sample::MetricPoint,
};

/// A condition that holds.
#[derive(Debug, Clone, PartialEq)]
pub struct ConditionHolding {
    /// The place of its rule in the set.
    pub rule: usize,
    /// Labels of what it is about.
    pub labels: BTreeMap<String, String>,
    /// What was measured.
    pub value: f64,
}

/// Values by the name of their series.
struct PointIndex<'a> {
    by_name: HashMap<&'a str, Vec<&'a MetricPoint>>,
}

impl<'a> PointIndex<'a> {
    fn new(points: &'a [MetricPoint]) -> Self {
        let mut by_name = HashMap::<&str, Vec<&MetricPoint>>::new();
        for point in points {
            by_name.entry(&point.name).or_default().push(point);
        }
        Self { by_name }
    }

    fn all(&self, name: &str) -> &[&'a MetricPoint] {
        self.by_name.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    fn find<'s>(&'s self, of: &'s Selector) -> impl Iterator<Item = &'a MetricPoint> + 's {
        self.all(&of.metric).iter().copied().filter(move |point| of.matches_labels(&point.labels))
    }
}

/// Evaluates rules step by step. Its memory is that of the process: a new one knows nothing of earlier values.
#[derive(Debug)]
pub struct Evaluator {
    set: RuleSet,
    /// Of each rule: the counters that it follows.
    tracks: Vec<Vec<CounterTrack>>,
    series_room: usize,
}

impl Evaluator {
    /// One that has seen nothing.
    pub fn new(set: RuleSet) -> Self {
        let tracks = set.rules.iter().map(make_tracks).collect();
        Self { set, tracks, series_room: SERIES_MAX }
    }

    /// The rules.
    pub fn rules(&self) -> &RuleSet {
        &self.set
    }

    /// Takes the values of a moment and answers what holds then. `now_ms` is a Unix time in milliseconds.
    pub fn observe(&mut self, points: &[MetricPoint], now_ms: u64) -> Vec<ConditionHolding> {
        let index = PointIndex::new(points);
        let mut holding = Vec::new();
        for (at, (rule, tracks)) in self.set.rules.iter().zip(&mut self.tracks).enumerate() {
            if !rule.is_evaluated() {
                continue;
            }
            for track in tracks.iter_mut() {
                let points = index.all(track.metric());
                track.observe(points, now_ms, &mut self.series_room);
            }
            let found = evaluate_condition(&rule.condition, tracks, (&index, points), now_ms);
            holding.extend(found.into_iter().map(|(labels, value)| ConditionHolding {
                rule: at,
                labels,
                value,
            }));
        }
        holding
    }

    /// How many series the last step left out, all rules together: for those beyond [`SERIES_MAX`] there is no place.
    pub fn omitted_series_count(&self) -> u64 {
        self.tracks.iter().flatten().map(CounterTrack::omitted_count).sum()
    }

    /// Rules about whose window too little has been seen for saying that their condition is over.
    pub fn uncovered_rules(&self, now_ms: u64) -> BTreeSet<usize> {
        let is_uncovered = |(rule, tracks): (&AlertRule, &Vec<CounterTrack>)| {
            let window_ms = match &rule.condition {
                Condition::Increase { window_ms, .. } => *window_ms,
                // The short window alone ends it.
                Condition::Burn { window, .. } => window.short_ms,
                _ => return false,
            };
            rule.is_evaluated() && !tracks.iter().all(|track| track.is_covered(window_ms, now_ms))
        };
        let all = self.set.rules.iter().zip(&self.tracks).enumerate();
        all.filter(|(_, pair)| is_uncovered(*pair)).map(|(at, _)| at).collect()
    }
}

fn make_tracks(rule: &AlertRule) -> Vec<CounterTrack> {
    match &rule.condition {
        Condition::Increase { of, by, window_ms, .. } => {
            vec![CounterTrack::new(of.clone(), by.clone(), *window_ms)]
        }
        Condition::Burn { objective, window } if rule.is_evaluated() => {
            let ServiceObjective { total, bad, good, .. } = &**objective;
            let counted = bad.as_ref().or(good.as_ref()).unwrap_or(total);
            let track = |of: &Selector| CounterTrack::new(of.clone(), Vec::new(), window.long_ms);
            vec![track(total), track(counted)]
        }
        _ => Vec::new(),
    }
}

type Measured = (BTreeMap<String, String>, f64);

fn evaluate_condition(
    condition: &Condition,
    tracks: &[CounterTrack],
    (index, points): (&PointIndex<'_>, &[MetricPoint]),
    now_ms: u64,
) -> Vec<Measured> {
    let keep = |measured: Vec<Measured>, op: Operator, wanted: f64| -> Vec<Measured> {
        measured.into_iter().filter(|(_, value)| op.holds(*value, wanted)).collect()
    };
    match condition {
        Condition::Threshold { of, aggregate, by, missing, absolute, op, value, and } => {
            let size = |value: f64| if *absolute { value.abs() } else { value };
            let found = index.find(of).map(|point| (point, size(point.value)));
            let mut measured = if let Some(aggregate) = aggregate {
                group_values(found, *aggregate, by)
            } else {
                let own = found.map(|(point, value)| (point.labels.clone(), value));
                own.take(SERIES_OF_FAMILY_MAX).collect()
            };
            if measured.is_empty() {
                measured.extend(missing.map(|value| (BTreeMap::new(), value)));
            }
            let mut kept = keep(measured, *op, value.to_number());
            if let Some(and) = and {
                kept.retain(|(labels, _)| also_holds(index, and, labels));
            }
            kept
        }
        Condition::Quotient { part, whole, op, value } => {
            let wholes: HashMap<_, _> =
                index.all(whole).iter().map(|point| (&point.labels, point.value)).collect();
            let share = |point: &MetricPoint| {
                let whole = wholes.get(&point.labels).filter(|whole| **whole > 0.0)?;
                Some((point.labels.clone(), point.value / whole))
            };
            keep(index.find(part).filter_map(share).take(SERIES_OF_FAMILY_MAX).collect(), *op, *value)
        }
        Condition::Increase { window_ms, op, value, .. } => {
            let grown = tracks.iter().flat_map(|track| track.increases(*window_ms, now_ms));
            keep(grown.map(|(labels, grown)| (labels.clone(), grown)).collect(), *op, *value)
        }
        Condition::Age { of, value } => {
            let newest = index.find(of).map(|point| point.value).reduce(f64::max);
            let age = newest.map(|newest| (BTreeMap::new(), now_ms as f64 / 1_000.0 - newest));
            keep(age.into_iter().collect(), Operator::Above, value.to_number())
        }
        Condition::Absent { of } => match index.find(of).next() {
            Some(_) => Vec::new(),
            None => vec![(BTreeMap::new(), 1.0)],
        },
        Condition::Overflow => {
            let is_over = |point: &&MetricPoint| {
                point.name.starts_with("streamgate_")
                    && point.labels.get("overflow").is_some_and(|v| v == "true")
            };
            let count = points.iter().filter(is_over).count() as f64;
            keep(vec![(BTreeMap::new(), count)], Operator::Above, 0.0)
        }
        Condition::Always => vec![(BTreeMap::new(), 1.0)],
        Condition::Burn { objective, window } => burned_share(objective, window, tracks, now_ms)
            .map(|share| {
                let labels =
                    BTreeMap::from([("window".to_owned(), crate::amount::format_duration(window.long_ms))]);
                (labels, share)
            })
            .into_iter()
            .collect(),
    }
}

fn group_values<'a>(
    found: impl Iterator<Item = (&'a MetricPoint, f64)>,
    aggregate: Aggregate,
    by: &[String],
) -> Vec<Measured> {
    let mut groups = BTreeMap::<BTreeMap<String, String>, f64>::new();
    for (point, value) in found {
        let labels = point.pick_labels(by);
        let joined = match (groups.get(&labels), aggregate) {
            (None, _) => value,
            (Some(other), Aggregate::Max) => other.max(value),
            (Some(other), Aggregate::Min) => other.min(value),
            (Some(other), Aggregate::Sum) => other + value,
        };
        groups.insert(labels, joined);
    }
    groups.into_iter().collect()
}

fn also_holds(index: &PointIndex<'_>, and: &Comparison, labels: &BTreeMap<String, String>) -> bool {
    let mut same = index.all(&and.metric).iter().filter(|point| point.labels == *labels);
    same.any(|point| and.op.holds(point.value, and.value.to_number()))
}

/// The share that failed within the long window, where that and the share of the short one use the budget up too fast.
fn burned_share(
    objective: &ServiceObjective,
    window: &BurnWindow,
    tracks: &[CounterTrack],
    now_ms: u64,
) -> Option<f64> {
    let [all, counted] = tracks else { return None };
    // What one of the two left out would look like failures.
    if !tracks.iter().all(|track| track.is_whole(window.long_ms, now_ms)) {
        return None;
    }
    let limit = window.factor * objective.budget();
    let share = |window_ms: u64| {
        let total: f64 = all.increases(window_ms, now_ms).map(|(_, grown)| grown).sum();
        let part: f64 = counted.increases(window_ms, now_ms).map(|(_, grown)| grown).sum();
        let failed = if objective.bad.is_some() { part } else { total - part };
        (total > 0.0).then_some(failed / total).filter(|share| *share > limit)
    };
    share(window.short_ms).and_then(|_| share(window.long_ms))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_of_counters_that_were_left_out_in_part_does_not_hold() {
        let mut set = RuleSet::built_in().unwrap();
        set.rules.retain(|rule| {
            let is_playable = |objective: &ServiceObjective| objective.good.is_some();
            let burns =
                matches!(&rule.condition, Condition::Burn { objective, .. } if is_playable(objective));
            burns && rule.is_evaluated()
        });
        let Condition::Burn { objective, .. } = set.rules[0].condition.clone() else { panic!("{set:?}") };
        let point = |of: &Selector| {
            let labels = of.labels.iter().map(|(name, values)| (name.clone(), values[0].clone())).collect();
            MetricPoint { name: of.metric.clone(), labels, value: 0.0 }
        };
        let (total, good) = (point(&objective.total), point(objective.good.as_ref().unwrap()));
        for (room, is_holding) in [(SERIES_MAX, true), (1, false)] {
            let mut evaluator = Evaluator::new(set.clone());
            evaluator.series_room = room;
            evaluator.observe(&[total.clone(), good.clone()], 1_000);
            let grown = MetricPoint { value: 100.0, ..total.clone() };
            let holding = evaluator.observe(&[grown, good.clone()], 61_000);
            assert_eq!(!holding.is_empty(), is_holding, "{holding:?}");
            assert_eq!(evaluator.omitted_series_count() > 0, !is_holding);
            assert!(evaluator.uncovered_rules(61_000).contains(&0));
        }
    }
}

//! What clients were answered: times by operation, and errors by what they say.
//!
//! Limits: times up to an hour, with three digits; [`ERRORS_MAX`] kinds of errors of an operation, the rest together.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use parking_lot::Mutex;
use serde::Serialize;

/// Longest time that is measured, in microseconds.
const LONGEST_US: u64 = 3_600_000_000;
/// Most kinds of errors of an operation.
const ERRORS_MAX: usize = 32;

/// All that was asked.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    operations: Mutex<BTreeMap<&'static str, OperationTally>>,
}

#[derive(Debug)]
struct OperationTally {
    times_us: Histogram<u64>,
    errors: BTreeMap<String, u64>,
    left_out: u64,
}

/// One operation in a report; times in milliseconds.
#[derive(Debug, Serialize)]
pub(crate) struct OperationRow {
    pub(crate) operation: &'static str,
    pub(crate) count: u64,
    pub(crate) p50_ms: f64,
    pub(crate) p90_ms: f64,
    pub(crate) p99_ms: f64,
    pub(crate) max_ms: f64,
    /// How often each error came.
    pub(crate) errors: BTreeMap<String, u64>,
    /// Clients that were left out, since as many as may be were served.
    pub(crate) left_out: u64,
}

impl Tally {
    fn change(&self, operation: &'static str, change: impl FnOnce(&mut OperationTally)) {
        let fresh = || OperationTally {
            times_us: Histogram::new_with_max(LONGEST_US, 3).unwrap(),
            errors: BTreeMap::new(),
            left_out: 0,
        };
        change(self.operations.lock().entry(operation).or_insert_with(fresh));
    }

    /// Counts what took `time` and went well.
    pub(crate) fn count(&self, operation: &'static str, time: Duration) {
        let time_us = u64::try_from(time.as_micros()).unwrap_or(LONGEST_US);
        self.change(operation, |tally| tally.times_us.saturating_record(time_us));
    }

    /// Counts an error; its time is none of those that are shown.
    pub(crate) fn count_error(&self, operation: &'static str, error: String) {
        self.change(operation, |tally| {
            let is_kept = tally.errors.len() < ERRORS_MAX || tally.errors.contains_key(&error);
            *tally.errors.entry(if is_kept { error } else { "others".into() }).or_default() += 1;
        });
    }

    /// Counts a client for whom there was no place.
    pub(crate) fn count_left_out(&self, operation: &'static str) {
        self.change(operation, |tally| tally.left_out += 1);
    }

    /// Clients for whom there was no place, of the operation with most of them.
    pub(crate) fn most_left_out(&self) -> Option<(&'static str, u64)> {
        let operations = self.operations.lock();
        let counts = operations.iter().map(|(name, tally)| (*name, tally.left_out));
        counts.filter(|(_, count)| *count > 0).max_by_key(|(_, count)| *count)
    }

    /// Requests so far, and how many of them ended with an error.
    pub(crate) fn totals(&self) -> (u64, u64) {
        let operations = self.operations.lock();
        operations.values().fold((0, 0), |(count, errors), tally| {
            let of_it: u64 = tally.errors.values().sum();
            (count + tally.times_us.len() + of_it, errors + of_it)
        })
    }

    /// Each operation, by name.
    pub(crate) fn rows(&self) -> Vec<OperationRow> {
        let operations = self.operations.lock();
        let rows = operations.iter().map(|(operation, tally)| {
            let at = |quantile: f64| tally.times_us.value_at_quantile(quantile) as f64 / 1_000.0;
            OperationRow {
                operation,
                count: tally.times_us.len(),
                p50_ms: at(0.5),
                p90_ms: at(0.9),
                p99_ms: at(0.99),
                max_ms: tally.times_us.max() as f64 / 1_000.0,
                errors: tally.errors.clone(),
                left_out: tally.left_out,
            }
        });
        rows.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_counted_beside_times() {
        let tally = Tally::default();
        for ms in 1..=100 {
            tally.count("read", Duration::from_millis(ms));
        }
        tally.count_error("read", "503 busy".into());
        tally.count_left_out("upload");
        let rows = tally.rows();
        assert_eq!((rows[0].operation, rows[0].count, rows[0].errors["503 busy"]), ("read", 100, 1));
        assert!((rows[0].p50_ms - 50.0).abs() < 0.5 && (rows[0].max_ms - 100.0).abs() < 0.5, "{rows:?}");
        assert_eq!((tally.totals(), tally.most_left_out()), ((101, 1), Some(("upload", 1))));
    }

    #[test]
    fn errors_of_many_kinds_are_counted_together() {
        let tally = Tally::default();
        (0..100).for_each(|number| tally.count_error("read", format!("error {number}")));
        let errors = &tally.rows()[0].errors;
        assert_eq!((errors.len(), errors["others"]), (ERRORS_MAX + 1, 68));
    }
}

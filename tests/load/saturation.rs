//! Which resource first passed its threshold: of the machine, of this program, and of what the product says of itself.

use std::{collections::BTreeMap, fs};

use serde::Serialize;
use serde_json::Value;

use crate::gateway::Gateway;

/// Share of the processors' time from which on they are saturated, in percent.
const BUSY_PERCENT_MAX: f64 = 90.0;
/// Share of the memory that may be unavailable, in percent.
const UNAVAILABLE_PERCENT_MAX: f64 = 90.0;

/// A metric of the product, and from where on it says that something is saturated.
struct Threshold {
    metric: &'static str,
    /// The label that says which one; series of other labels are added up. None for the largest of all.
    label: &'static str,
    /// Only series with this value of a label.
    only: Option<(&'static str, &'static str)>,
    above: f64,
    what: &'static str,
}

const THRESHOLDS: [Threshold; 10] = [
    Threshold {
        metric: "streamgate_http_problems_total",
        label: "code",
        only: Some(("code", "busy")),
        above: 0.0,
        what: "requests refused, since as many as may be are served or kept:",
    },
    Threshold {
        metric: "streamgate_limit_requests_total",
        label: "group",
        only: Some(("outcome", "denied")),
        above: 0.0,
        what: "requests refused by the rate limit",
    },
    Threshold {
        metric: "streamgate_dispatch_waiting_jobs",
        label: "queue",
        only: None,
        above: 10.0,
        what: "jobs that wait for workers of the queue",
    },
    Threshold {
        metric: "streamgate_durable_pending_messages",
        label: "durable",
        only: None,
        above: 50.0,
        what: "messages not delivered to the durable",
    },
    Threshold {
        metric: "streamgate_durable_oldest_age_seconds",
        label: "durable",
        only: None,
        above: 15.0,
        what: "seconds that the oldest message has waited for the durable",
    },
    Threshold {
        metric: "streamgate_index_lag_seconds",
        label: "bucket",
        only: None,
        above: 2.0,
        what: "seconds by which the index is behind the bucket",
    },
    Threshold {
        metric: "streamgate_audit_lag_seconds",
        label: "",
        only: None,
        above: 2.0,
        what: "seconds by which the audit log is behind",
    },
    Threshold {
        metric: "streamgate_broker_write_age_seconds",
        label: "role",
        only: None,
        above: 15.0,
        what: "seconds without a confirmed write of the role",
    },
    Threshold {
        metric: "streamgate_stream_fill_ratio",
        label: "stream",
        only: None,
        above: 0.9,
        what: "of the room is used in the stream",
    },
    Threshold {
        metric: "streamgate_capacity_full",
        label: "limit",
        only: None,
        above: 0.0,
        what: "no room is left in",
    },
];

/// A resource that was saturated.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct SaturatedResource {
    /// When it was seen first, since the beginning of the run, in seconds.
    pub(crate) at_s: f64,
    pub(crate) resource: String,
    /// What is known of the cause; empty where nothing is.
    pub(crate) detail: String,
    /// What was measured then.
    pub(crate) value: f64,
    /// From where on it counts.
    pub(crate) threshold: f64,
    /// The most that was measured.
    pub(crate) most: f64,
}

/// Resources that passed their thresholds.
#[derive(Debug, Default)]
pub(crate) struct Saturation {
    passed: BTreeMap<String, SaturatedResource>,
    /// Looks at metrics that got no answer.
    pub(crate) unanswered: u64,
}

impl Saturation {
    fn note(&mut self, at_s: f64, (resource, detail): (&str, String), value: f64, threshold: f64) {
        let resource = resource.to_owned();
        let fresh =
            SaturatedResource { at_s, resource: resource.clone(), detail, value, threshold, most: value };
        let known = self.passed.entry(resource).or_insert(fresh);
        known.most = known.most.max(value);
    }

    /// Those that passed, the first one first.
    pub(crate) fn in_order(&self) -> Vec<SaturatedResource> {
        let mut passed: Vec<SaturatedResource> = self.passed.values().cloned().collect();
        passed.sort_by(|a, b| a.at_s.total_cmp(&b.at_s));
        passed
    }

    /// Looks at processors and memory.
    pub(crate) fn note_machine(&mut self, at_s: f64, before: &mut Machine, busiest: &str) {
        let now = Machine::look();
        let busy = now.busy_percent(before);
        *before = now;
        if busy > BUSY_PERCENT_MAX {
            let detail =
                format!("of the installation's processes, without their children, most by {busiest}");
            self.note(at_s, ("processors of this machine, percent", detail), busy, BUSY_PERCENT_MAX);
        }
        let unavailable = before.unavailable_percent;
        if unavailable > UNAVAILABLE_PERCENT_MAX {
            let resource = ("memory of this machine, percent", String::new());
            self.note(at_s, resource, unavailable, UNAVAILABLE_PERCENT_MAX);
        }
    }

    /// Looks at clients of this program that found no place.
    pub(crate) fn note_clients(&mut self, at_s: f64, left_out: Option<(&'static str, u64)>) {
        if let Some((kind, count)) = left_out {
            let detail = format!("most of them: {kind}");
            self.note(at_s, ("clients of this program that found no place", detail), count as f64, 0.0);
        }
    }

    /// Looks at what the product says of itself.
    pub(crate) async fn note_metrics(&mut self, at_s: f64, gateway: &Gateway) {
        for threshold in &THRESHOLDS {
            let path = format!("/v1/monitor/metrics?limit=1&prefix={}", threshold.metric);
            match gateway.read_json(&path).await {
                Ok(page) => self.note_family(at_s, threshold, &page["items"][0]["samples"]),
                Err(_) => self.unanswered += 1,
            }
        }
    }

    fn note_family(&mut self, at_s: f64, threshold: &Threshold, samples: &Value) {
        let mut by_label: BTreeMap<&str, f64> = BTreeMap::new();
        for sample in samples.as_array().into_iter().flatten() {
            let labels = &sample["labels"];
            if threshold.only.is_some_and(|(name, value)| labels[name] != value) {
                continue;
            }
            let value = sample["value"].as_str().and_then(|text| text.parse().ok()).unwrap_or(0.0);
            let most = by_label.entry(labels[threshold.label].as_str().unwrap_or_default()).or_default();
            *most = most.max(value);
        }
        for (label, value) in by_label {
            if value > threshold.above {
                let resource = format!("{} {label}", threshold.what);
                self.note(at_s, (resource.trim_end(), String::new()), value, threshold.above);
            }
        }
    }
}

/// Processors and memory at a time.
#[derive(Debug)]
pub(crate) struct Machine {
    busy: f64,
    all: f64,
    unavailable_percent: f64,
}

impl Machine {
    /// Now, by `/proc/stat` and `/proc/meminfo`.
    pub(crate) fn look() -> Self {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        let memory = fs::read_to_string("/proc/meminfo").unwrap();
        Self::parse(&stat, &memory)
    }

    fn parse(stat: &str, memory: &str) -> Self {
        let first = stat.lines().next().unwrap();
        // user, nice, system, idle, iowait, irq, softirq, steal: the rest is in those.
        let ticks: Vec<f64> =
            first.split_whitespace().skip(1).take(8).map(|ticks| ticks.parse().unwrap()).collect();
        let all: f64 = ticks.iter().sum();
        let field = |name: &str| -> f64 {
            let line = memory.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let available = field("MemAvailable:") / field("MemTotal:");
        Self { busy: all - ticks[3] - ticks[4], all, unavailable_percent: 100.0 * (1.0 - available) }
    }

    fn busy_percent(&self, before: &Self) -> f64 {
        100.0 * (self.busy - before.busy) / (self.all - before.all).max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_first_that_passes_is_the_first() {
        let mut saturation = Saturation::default();
        let pending = THRESHOLDS.iter().find(|one| one.metric.contains("pending")).unwrap();
        let limits = THRESHOLDS.iter().find(|one| one.metric.contains("limit_requests")).unwrap();
        let denied = |value: &str| {
            json!([
                { "labels": { "group": "upload", "outcome": "passed" }, "value": "900" },
                { "labels": { "group": "upload", "outcome": "denied" }, "value": value },
            ])
        };
        saturation.note_family(1.0, limits, &denied("0"));
        saturation.note_family(1.0, pending, &json!([{ "labels": { "durable": "index" }, "value": "50" }]));
        assert!(saturation.in_order().is_empty());
        saturation.note_family(2.0, pending, &json!([{ "labels": { "durable": "index" }, "value": "51" }]));
        saturation.note_family(3.0, limits, &denied("4"));
        saturation.note_family(4.0, pending, &json!([{ "labels": { "durable": "index" }, "value": "80" }]));
        let passed = saturation.in_order();
        assert_eq!(passed.len(), 2);
        assert_eq!(passed[0].resource, "messages not delivered to the durable index");
        assert_eq!((passed[0].at_s, passed[0].value, passed[0].most), (2.0, 51.0, 80.0));
        assert_eq!(passed[1].resource, "requests refused by the rate limit upload");
    }

    #[test]
    fn waiting_is_not_busy() {
        let memory = "MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: 250 kB\n";
        let before = Machine::parse("cpu 100 0 100 800 0 0 0 0 0 0\n", memory);
        let after = Machine::parse("cpu 150 0 110 830 10 0 0 0 0 0\n", memory);
        assert!((after.busy_percent(&before) - 60.0).abs() < 1e-9);
        assert!((after.unavailable_percent - 75.0).abs() < 1e-9);
    }
}

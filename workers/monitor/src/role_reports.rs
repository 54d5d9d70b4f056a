//! The metrics of other processes, as they report them on the bus, beside those of this one.
//!
//! - Consumes: core `stat.<role>.<instance>`, a document of OpenMetrics every [`subjects::REPORT_PERIOD_S`] seconds.
//! - Limits: [`INSTANCES_MAX`] processes, each until [`AGE_MAX`] after its last report; [`subjects::REPORT_BYTES_MAX`] bytes and
//!   [`SAMPLES_MAX`] samples a report.
//!
//! A report is read line by line, and only samples of declared families are taken over: what a process of another version counts
//! besides is left out. Each gets the labels `role` and `instance`; a family that has a label `role` of its own keeps it.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use nats::{
    Role,
    metrics::{
        Collector, DescriptorEncoder, MetricDeclaration, MetricKind, encode_gauges, find_declaration,
        labels::ReportOutcome,
        table::{REPORTING_INSTANCES, ROLE_REPORTS},
    },
};
use parking_lot::Mutex;
use schemas::subjects;

use crate::sample::{self, MetricSample};

/// Most processes whose metrics are shown; a new one beyond them is refused.
pub(crate) const INSTANCES_MAX: usize = 64;
/// How long a process is shown after its last report.
pub(crate) const AGE_MAX: Duration = Duration::from_secs(60);
/// Most samples of a report.
pub(crate) const SAMPLES_MAX: usize = 8_000;

/// Samples of a process by family, each a line with its end.
type ReportedFamilies = BTreeMap<&'static str, String>;

/// What one process reported last.
#[derive(Debug)]
struct RoleReport {
    role: &'static str,
    received_at: Instant,
    families: ReportedFamilies,
}

#[derive(Debug, Default)]
struct ReportState {
    /// This process, which shows its metrics itself.
    own_instance: String,
    by_instance: BTreeMap<String, RoleReport>,
}

/// The last reports of all processes. Cheap to clone; clones share them.
#[derive(Debug, Clone, Default)]
pub struct RoleReports {
    state: Arc<Mutex<ReportState>>,
}

impl RoleReports {
    /// Says which instance this process is.
    pub fn set_own_instance(&self, instance: &str) {
        instance.clone_into(&mut self.state.lock().own_instance);
    }

    /// Takes a report, if it is one.
    pub(crate) fn receive(&self, subject: &str, payload: &[u8]) {
        ROLE_REPORTS.increment(self.take_report(subject, payload, Instant::now()));
    }

    fn take_report(&self, subject: &str, payload: &[u8], now: Instant) -> ReportOutcome {
        let Some((role, instance)) = subjects::parse_stat_subject(subject) else {
            return ReportOutcome::Refused;
        };
        let Some(role) = Role::ALL.into_iter().map(Role::name).find(|name| *name == role) else {
            return ReportOutcome::Refused;
        };
        if self.state.lock().own_instance == instance {
            return ReportOutcome::Own;
        }
        let is_small = payload.len() <= subjects::REPORT_BYTES_MAX;
        let Some(document) = is_small.then(|| std::str::from_utf8(payload).ok()).flatten() else {
            return ReportOutcome::Refused;
        };
        let Some(families) = read_families(document, role, instance) else { return ReportOutcome::Refused };
        let mut state = self.state.lock();
        state.drop_old(now);
        if state.by_instance.len() >= INSTANCES_MAX && !state.by_instance.contains_key(instance) {
            return ReportOutcome::Refused;
        }
        state.by_instance.insert(instance.to_owned(), RoleReport { role, received_at: now, families });
        ReportOutcome::Taken
    }

    /// The document of this process with the samples of all others behind its own, family by family.
    pub fn merge(&self, own: &str) -> String {
        self.merge_at(own, Instant::now())
    }

    fn merge_at(&self, own: &str, now: Instant) -> String {
        let mut state = self.state.lock();
        state.drop_old(now);
        let mut rest: BTreeMap<&str, String> = BTreeMap::new();
        for report in state.by_instance.values() {
            for (family, samples) in &report.families {
                rest.entry(family).or_default().push_str(samples);
            }
        }
        drop(state);
        let mut merged = String::with_capacity(own.len() + rest.values().map(String::len).sum::<usize>());
        let mut current = None;
        for line in own.lines() {
            if line.starts_with("# HELP ") || line == "# EOF" {
                let samples = current.take().and_then(|family| rest.remove(family));
                merged.push_str(samples.as_deref().unwrap_or_default());
            }
            if let Some((family, _)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                current = Some(family);
            }
            if line != "# EOF" {
                merged.push_str(line);
                merged.push('\n');
            }
        }
        for (family, samples) in rest {
            if let Some(declared) = find_declaration(family) {
                merged.push_str(&describe_family(declared));
                merged.push_str(&samples);
            }
        }
        merged.push_str("# EOF\n");
        merged
    }

    fn count_by_role(&self) -> BTreeMap<&'static str, i64> {
        let mut state = self.state.lock();
        state.drop_old(Instant::now());
        let mut counts = BTreeMap::new();
        for report in state.by_instance.values() {
            *counts.entry(report.role).or_default() += 1;
        }
        counts
    }
}

impl Collector for RoleReports {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counts = self.count_by_role();
        encode_gauges(
            &mut encoder,
            &REPORTING_INSTANCES,
            counts.into_iter().map(|(role, count)| ([("role", role)], count)),
        )
    }
}

impl ReportState {
    fn drop_old(&mut self, now: Instant) {
        self.by_instance.retain(|_, report| now.saturating_duration_since(report.received_at) < AGE_MAX);
    }
}

fn describe_family(declared: &MetricDeclaration) -> String {
    let MetricDeclaration { name, help, kind, .. } = declared;
    let unit = declared.unit().map_or_else(String::new, |unit| format!("# UNIT {name} {}\n", unit.as_str()));
    format!("# HELP {name} {help}.\n# TYPE {name} {}\n{unit}", kind.name())
}

/// The samples of the declared families of a document, with their new labels; `None` where it is no document, or has too many.
fn read_families(document: &str, role: &str, instance: &str) -> Option<ReportedFamilies> {
    let mut families = ReportedFamilies::new();
    let mut current: Option<&'static MetricDeclaration> = None;
    let mut count = 0;
    for line in document.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            current = find_declaration(name).filter(|declared| declared.kind.name() == kind);
        }
        if line.starts_with('#') {
            continue;
        }
        count += 1;
        let sample = sample::parse_sample(line).filter(|_| count <= SAMPLES_MAX)?;
        if let Some(declared) = current.filter(|declared| belongs_to(&sample, declared)) {
            let own = if sample.has_label("role") { "" } else { &format!("role=\"{role}\",") };
            let MetricSample { name, labels, value } = sample;
            let comma = if labels.is_empty() { "" } else { "," };
            let line = format!("{name}{{{own}instance=\"{instance}\"{comma}{labels}}} {value}\n");
            families.entry(declared.name).or_default().push_str(&line);
        }
    }
    document.ends_with("# EOF\n").then_some(families)
}

/// Whether a sample is one of a family, by its name and its labels.
fn belongs_to(sample: &MetricSample<'_>, declared: &MetricDeclaration) -> bool {
    let Some(end) = sample.name.strip_prefix(declared.name) else { return false };
    let is_named = match declared.kind {
        MetricKind::Counter => end == "_total",
        MetricKind::Gauge => end.is_empty(),
        MetricKind::Histogram => ["_bucket", "_sum", "_count"].contains(&end),
    };
    let is_known = |label: &str| {
        label == "overflow"
            || (label == "le" && end == "_bucket")
            || declared.labels.iter().any(|known| known.name == label)
    };
    is_named && sample.label_names().all(is_known)
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: &str =
        "# HELP streamgate_ready Ready.\n# TYPE streamgate_ready gauge\nstreamgate_ready 1\n# EOF\n";
    const OTHER: &str = "# TYPE streamgate_ready gauge\nstreamgate_ready 0\n\
        # TYPE streamgate_task_restarts counter\nstreamgate_task_restarts_total{role=\"index\",task=\"a\\\"b\"} 3\n\
        # TYPE streamgate_upload_append_seconds histogram\nstreamgate_upload_append_seconds_bucket{le=\"+Inf\"} 2\n\
        streamgate_upload_append_seconds_sum 0.5\n# TYPE streamgate_new_thing gauge\nstreamgate_new_thing 7\n# EOF\n";

    fn taken(reports: &RoleReports, subject: &str, document: &str) -> ReportOutcome {
        reports.take_report(subject, document.as_bytes(), Instant::now())
    }

    #[test]
    fn samples_of_others_stand_behind_our_own() {
        let reports = RoleReports::default();
        reports.set_own_instance("0000000000000001");
        assert_eq!(taken(&reports, "stat.monitor.0000000000000001", OTHER), ReportOutcome::Own);
        assert_eq!(reports.merge(OWN), OWN);
        assert_eq!(taken(&reports, "stat.index.00000000000000aa", OTHER), ReportOutcome::Taken);
        let merged = reports.merge(OWN);
        let wanted = "# HELP streamgate_ready Ready.\n# TYPE streamgate_ready gauge\nstreamgate_ready 1\n\
            streamgate_ready{role=\"index\",instance=\"00000000000000aa\"} 0\n\
            # HELP streamgate_task_restarts Background tasks that ended and were started again.\n\
            # TYPE streamgate_task_restarts counter\n\
            streamgate_task_restarts_total{instance=\"00000000000000aa\",role=\"index\",task=\"a\\\"b\"} 3\n";
        assert!(merged.starts_with(wanted), "{merged}");
        assert!(merged.contains("# TYPE streamgate_upload_append_seconds histogram\n"), "{merged}");
        assert!(!merged.contains("new_thing"), "another version may have it: {merged}");
        assert_eq!((merged.matches("# EOF").count(), merged.ends_with("# EOF\n")), (1, true));
        assert_eq!(reports.count_by_role(), BTreeMap::from([("index", 1)]));
        let later = Instant::now() + AGE_MAX;
        assert_eq!(reports.merge_at(OWN, later), OWN, "it has not reported for a minute");
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let reports = RoleReports::default();
        let large = "x".repeat(subjects::REPORT_BYTES_MAX + 1);
        let samples = format!(
            "# TYPE streamgate_ready gauge\n{}# EOF\n",
            "streamgate_ready 1\n".repeat(SAMPLES_MAX + 1)
        );
        for (subject, document) in [
            ("stat.index", OTHER),
            ("stat.somebody.00000000000000aa", OTHER),
            ("stat.index.00000000000000aa.x", OTHER),
            ("stat.index.\"} 1", OTHER),
            ("stat.index.00000000000000aa", "# TYPE streamgate_ready gauge\nstreamgate_ready 1\n"),
            ("stat.index.00000000000000aa", "# TYPE streamgate_ready gauge\nstreamgate_ready one\n# EOF\n"),
            (
                "stat.index.00000000000000aa",
                "# TYPE streamgate_ready gauge\nstreamgate_ready{a=\"1} 1\n# EOF\n",
            ),
            ("stat.index.00000000000000aa", &samples),
            ("stat.index.00000000000000aa", &large),
        ] {
            let outcome = taken(&reports, subject, document);
            assert_eq!(outcome, ReportOutcome::Refused, "{subject} {document:.80}");
        }
        // A family that is none of the sample's, or a label that it does not have: left out.
        let forged =
            "# TYPE streamgate_ready gauge\nstreamgate_broker_up 1\nstreamgate_ready{owner=\"a\"} 1\n# EOF\n";
        assert_eq!(taken(&reports, "stat.index.00000000000000aa", forged), ReportOutcome::Taken);
        assert_eq!(reports.merge(OWN), OWN);
    }

    #[test]
    fn only_so_many_processes_are_shown() {
        let reports = RoleReports::default();
        for number in 0..INSTANCES_MAX {
            assert_eq!(taken(&reports, &format!("stat.upload.{number:016x}"), OTHER), ReportOutcome::Taken);
        }
        assert_eq!(taken(&reports, "stat.upload.00000000000000ff", OTHER), ReportOutcome::Refused);
        assert_eq!(taken(&reports, "stat.upload.0000000000000000", OTHER), ReportOutcome::Taken);
    }
}

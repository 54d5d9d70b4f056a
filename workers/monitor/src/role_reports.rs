//! The metrics of other processes, as they report them on the bus, beside those of this one.
//!
//! - Consumes: core `stat.<role>.<instance>`, a document of OpenMetrics every [`subjects::REPORT_PERIOD_S`] seconds.
//! - Limits: [`ROLE_INSTANCES_MAX`] processes and [`ROLE_BYTES_MAX`] bytes a role, [`TOTAL_BYTES_MAX`] bytes of all; samples until
//!   [`AGE_MAX`] after the last report, its age until [`AGE_SHOWN_MAX`]; [`subjects::REPORT_BYTES_MAX`] bytes, and the lines of
//!   `read_report.rs`, a report.
//!
//! A report is read line by line, and only samples of declared families are taken over, written anew: what a process of another
//! version counts besides is left out, and so are the families of the monitor, unless a monitor reports them. Each sample gets the labels
//! `role` and `instance` of the subject, which the broker checks; where its own label `role` says another, as in a process of several
//! roles, that is `exported_role`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use nats::{
    Role,
    metrics::{
        Collector, DescriptorEncoder, MetricDeclaration, encode_gauges, find_declaration,
        labels::ReportOutcome,
        table::{REPORTING_INSTANCES, ROLE_REPORT_AGE_SECONDS, ROLE_REPORTS},
    },
};
use parking_lot::Mutex;
use schemas::subjects;

use crate::read_report::{ReportedFamilies, read_families};

/// Most processes of a role whose metrics are shown; a new one beyond them is refused.
pub(crate) const ROLE_INSTANCES_MAX: usize = 24;
/// Most bytes of samples that are kept of a role.
pub(crate) const ROLE_BYTES_MAX: usize = 24 * 1024 * 1024;
/// Most bytes of samples that are kept of all roles.
pub(crate) const TOTAL_BYTES_MAX: usize = 64 * 1024 * 1024;
/// How long a process is shown after its last report.
pub(crate) const AGE_MAX: Duration = Duration::from_secs(60);
/// How long the age of the last report of a process is shown.
pub(crate) const AGE_SHOWN_MAX: Duration = Duration::from_secs(3_600);

/// What one process reported last.
#[derive(Debug)]
struct RoleReport {
    role: &'static str,
    received_at: Instant,
    size_bytes: usize,
    /// Shared with those who write a document of it. Empty once it is too old to be shown.
    families: Arc<ReportedFamilies>,
}

impl RoleReport {
    fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.received_at)
    }
}

#[derive(Debug, Default)]
struct ReportState {
    /// This process, which shows its metrics itself.
    own_instance: String,
    by_instance: BTreeMap<String, RoleReport>,
    /// When it was said last that there is no room.
    warned_at: Option<Instant>,
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
        let size_bytes = families.values().map(String::len).sum();
        let report = RoleReport { role, received_at: now, size_bytes, families: Arc::new(families) };
        let mut state = self.state.lock();
        state.drop_old(now);
        if !state.has_room(instance, &report) {
            if state.warned_at.is_none_or(|at| now.saturating_duration_since(at) >= AGE_MAX) {
                state.warned_at = Some(now);
                tracing::warn!(role, instance, size_bytes, "there is no room for the metrics of a process");
            }
            return ReportOutcome::Refused;
        }
        state.by_instance.insert(instance.to_owned(), report);
        ReportOutcome::Taken
    }

    /// The document of this process with the samples of all others behind its own, family by family.
    pub fn merge(&self, own: &str) -> String {
        self.merge_at(own, Instant::now())
    }

    fn merge_at(&self, own: &str, now: Instant) -> String {
        let reports: Vec<Arc<ReportedFamilies>> = {
            let mut state = self.state.lock();
            state.drop_old(now);
            state.by_instance.values().map(|report| Arc::clone(&report.families)).collect()
        };
        let mut rest: BTreeSet<&'static str> =
            reports.iter().flat_map(|families| families.keys().copied()).collect();
        let samples_of = |family| reports.iter().filter_map(move |families| families.get(family));
        let mut merged = String::with_capacity(own.len());
        let mut current = None;
        for line in own.lines() {
            if (line.starts_with("# HELP ") || line == "# EOF")
                && let Some(family) = current.take().and_then(|family| rest.take(family))
            {
                merged.extend(samples_of(family).map(String::as_str));
            }
            if let Some((family, _)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
                current = Some(family);
            }
            if line != "# EOF" {
                merged.push_str(line);
                merged.push('\n');
            }
        }
        for family in rest {
            if let Some(declared) = find_declaration(family) {
                merged.push_str(&describe_family(declared));
                merged.extend(samples_of(family).map(String::as_str));
            }
        }
        merged.push_str("# EOF\n");
        merged
    }

    fn count_by_role(&self, now: Instant) -> BTreeMap<&'static str, i64> {
        let state = self.state.lock();
        let mut counts = BTreeMap::new();
        for report in state.by_instance.values() {
            *counts.entry(report.role).or_default() += i64::from(report.age(now) < AGE_MAX);
        }
        counts
    }

    /// Role, instance and age in seconds of each last report.
    fn ages(&self, now: Instant) -> Vec<(&'static str, String, f64)> {
        let mut state = self.state.lock();
        state.drop_old(now);
        let of = |(instance, report): (&String, &RoleReport)| {
            (report.role, instance.clone(), report.age(now).as_secs_f64())
        };
        state.by_instance.iter().map(of).collect()
    }
}

impl Collector for RoleReports {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let now = Instant::now();
        let ages = self.ages(now);
        // A description without series is no family to some parsers.
        if ages.is_empty() {
            return Ok(());
        }
        let counts = self.count_by_role(now);
        encode_gauges(
            &mut encoder,
            &REPORTING_INSTANCES,
            counts.into_iter().map(|(role, count)| ([("role", role)], count)),
        )?;
        encode_gauges(
            &mut encoder,
            &ROLE_REPORT_AGE_SECONDS,
            ages.iter()
                .map(|(role, instance, age_s)| ([("role", *role), ("process", instance.as_str())], *age_s)),
        )
    }
}

impl ReportState {
    fn drop_old(&mut self, now: Instant) {
        self.by_instance.retain(|_, report| report.age(now) < AGE_SHOWN_MAX);
        for report in self.by_instance.values_mut().filter(|report| report.age(now) >= AGE_MAX) {
            (report.size_bytes, report.families) = (0, Arc::default());
        }
    }

    /// Whether a report can be kept in place of the last one of its process. What is too old to be shown gives way.
    fn has_room(&mut self, instance: &str, report: &RoleReport) -> bool {
        let others = || self.by_instance.iter().filter(|(name, _)| *name != instance).map(|(_, other)| other);
        let of_role = || others().filter(|other| other.role == report.role);
        let is_within = |used: usize, limit: usize| used.saturating_add(report.size_bytes) <= limit;
        if !is_within(of_role().map(|other| other.size_bytes).sum(), ROLE_BYTES_MAX)
            || !is_within(others().map(|other| other.size_bytes).sum(), TOTAL_BYTES_MAX)
        {
            return false;
        }
        if of_role().count() < ROLE_INSTANCES_MAX {
            return true;
        }
        let is_silent = |other: &RoleReport| other.age(report.received_at) >= AGE_MAX;
        let oldest = self
            .by_instance
            .iter()
            .filter(|(_, other)| other.role == report.role && is_silent(other))
            .min_by_key(|(_, other)| other.received_at)
            .map(|(name, _)| name.clone());
        oldest.is_some_and(|oldest| self.by_instance.remove(&oldest).is_some())
    }
}

fn describe_family(declared: &MetricDeclaration) -> String {
    let MetricDeclaration { name, help, kind, .. } = declared;
    let unit = declared.unit().map_or_else(String::new, |unit| format!("# UNIT {name} {}\n", unit.as_str()));
    format!("# HELP {name} {help}.\n# TYPE {name} {}\n{unit}", kind.name())
}

#[cfg(test)]
mod tests {
    use std::fmt::Write as _;

    use super::*;
    use crate::read_report::{COMMENTS_MAX, SAMPLES_MAX};

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
            streamgate_task_restarts_total{role=\"index\",instance=\"00000000000000aa\",task=\"a\\\"b\"} 3\n";
        assert!(merged.starts_with(wanted), "{merged}");
        assert!(merged.contains("# TYPE streamgate_upload_append_seconds histogram\n"), "{merged}");
        assert!(!merged.contains("new_thing"), "another version may have it: {merged}");
        assert_eq!((merged.matches("# EOF").count(), merged.ends_with("# EOF\n")), (1, true));
        assert_eq!(reports.count_by_role(Instant::now()), BTreeMap::from([("index", 1)]));
        let later = Instant::now() + AGE_MAX;
        assert_eq!(reports.merge_at(OWN, later), OWN, "it has not reported for a minute");
        assert_eq!(reports.count_by_role(later), BTreeMap::from([("index", 0)]));
        let shown = reports.ages(later);
        let [(role, process, silent_s)] = shown.as_slice() else { panic!("{shown:?}") };
        assert_eq!((*role, process.as_str()), ("index", "00000000000000aa"));
        assert!(*silent_s >= 60.0, "its age is shown after it is gone: {silent_s}");
        assert!(reports.ages(later + AGE_SHOWN_MAX).is_empty());
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let reports = RoleReports::default();
        let large = "x".repeat(subjects::REPORT_BYTES_MAX + 1);
        let samples = format!(
            "# TYPE streamgate_ready gauge\n{}# EOF\n",
            "streamgate_ready 1\n".repeat(SAMPLES_MAX + 1)
        );
        let comments = format!("{}# EOF\n", "# TYPE streamgate_ready gauge\n".repeat(COMMENTS_MAX));
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
            (
                "stat.index.00000000000000aa",
                "# TYPE streamgate_task_restarts counter\n\
                 streamgate_task_restarts_total{role=\"a\"task=\"b\"} 1\n# EOF\n",
            ),
            (
                "stat.index.00000000000000aa",
                "# TYPE streamgate_ready gauge\nstreamgate_ready 1\nstreamgate_ready 1\n# EOF\n",
            ),
            ("stat.index.00000000000000aa", &comments),
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
    fn a_role_speaks_for_itself_alone() {
        let reports = RoleReports::default();
        let document = "# TYPE streamgate_broker_up gauge\nstreamgate_broker_up 0\n\
            # TYPE streamgate_audit_records counter\nstreamgate_audit_records_total 2\n\
            # TYPE streamgate_task_restarts counter\n\
            streamgate_task_restarts_total{role=\"ingress\",task=\"a\"} 3\n# EOF\n";
        assert_eq!(taken(&reports, "stat.audit.00000000000000aa", document), ReportOutcome::Taken);
        let merged = reports.merge(OWN);
        assert!(!merged.contains("streamgate_broker_up"), "{merged}");
        let by = "role=\"audit\",instance=\"00000000000000aa\"";
        assert!(merged.contains(&format!("\nstreamgate_audit_records_total{{{by}}} 2\n")), "{merged}");
        let restarts =
            format!("\nstreamgate_task_restarts_total{{{by},exported_role=\"ingress\",task=\"a\"}} 3\n");
        assert!(merged.contains(&restarts), "{merged}");
        assert_eq!(taken(&reports, "stat.monitor.00000000000000bb", document), ReportOutcome::Taken);
        let other = "\nstreamgate_broker_up{role=\"monitor\",instance=\"00000000000000bb\"} 0\n";
        assert!(reports.merge(OWN).contains(other));
    }

    #[test]
    fn a_role_has_only_so_many_processes_and_takes_no_room_of_others() {
        let reports = RoleReports::default();
        for number in 0..ROLE_INSTANCES_MAX {
            assert_eq!(taken(&reports, &format!("stat.upload.{number:016x}"), OTHER), ReportOutcome::Taken);
        }
        assert_eq!(taken(&reports, "stat.upload.00000000000000ff", OTHER), ReportOutcome::Refused);
        assert_eq!(taken(&reports, "stat.upload.0000000000000000", OTHER), ReportOutcome::Taken);
        assert_eq!(taken(&reports, "stat.index.00000000000000ff", OTHER), ReportOutcome::Taken);
        let later = Instant::now() + AGE_MAX;
        let outcome = reports.take_report("stat.upload.00000000000000fe", OTHER.as_bytes(), later);
        assert_eq!(outcome, ReportOutcome::Taken, "one that is silent gives way");
    }

    #[test]
    fn reports_have_only_so_many_bytes_together() {
        let reports = RoleReports::default();
        let label = "x".repeat(70);
        let samples: String = (0..7_900).fold(String::new(), |mut samples, number| {
            _ = writeln!(samples, "streamgate_task_restarts_total{{task=\"{number}{label}\"}} 1");
            samples
        });
        let large = format!("# TYPE streamgate_task_restarts counter\n{samples}# EOF\n");
        let mut taken_count = 0;
        for number in 0..ROLE_INSTANCES_MAX {
            let outcome = taken(&reports, &format!("stat.upload.{number:016x}"), &large);
            taken_count += usize::from(outcome == ReportOutcome::Taken);
        }
        let size_bytes: usize = reports.state.lock().by_instance.values().map(|r| r.size_bytes).sum();
        assert!(
            size_bytes <= ROLE_BYTES_MAX && taken_count < ROLE_INSTANCES_MAX,
            "{size_bytes} {taken_count}"
        );
        assert_eq!(taken(&reports, "stat.index.00000000000000ff", OTHER), ReportOutcome::Taken);
    }
}

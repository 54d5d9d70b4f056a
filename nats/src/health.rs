//! What a process knows of its own ability to work: writes the broker confirmed, tasks, readers, the store.
//!
//! Probes ask [`ProcessHealth::problems`], which reads memory only. What lies in the process counts at once; what replicas share
//! counts only after [`SHARED_GRACE`], because otherwise all of them would leave together and clients would lose the 503
//! that says when to come back.
//!
//! Limits: one entry for each task, connection, stream and reader of the process.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use crate::{
    ReaderStatus, Role,
    metrics::{
        Collector, DescriptorEncoder, encode_counter, encode_counters, encode_gauge, encode_gauges,
        table::{
            BROKER_WRITE_AGE_SECONDS, BROKER_WRITE_BROKEN, BROKER_WRITE_ERRORS, READY,
            STREAM_UNCONFIRMED_SECONDS, TASK_RESTARTS,
        },
    },
};

/// How long what replicas share may be away before a process says that it can't work.
pub const SHARED_GRACE: Duration = Duration::from_secs(30);
/// How often a connection on which nothing else was written writes to prove that it can.
pub const HEARTBEAT_PERIOD: Duration = Duration::from_secs(2);
/// How long the last failed write to a stream is held against it when nothing is written to it any more.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(60);

/// Why a process can't work.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthProblem {
    /// A stable code.
    pub code: &'static str,
    /// What is wrong, for people; names no secret and nothing that clients sent.
    pub detail: String,
}

/// What a process knows of itself. Cheap to clone; all clones share it, and so do all connections of the process.
#[derive(Debug, Clone, Default)]
pub struct ProcessHealth {
    // What a panic leaves behind is complete: each change is one assignment.
    known: Arc<Mutex<HealthState>>,
}

#[derive(Debug, Default)]
struct HealthState {
    /// By role.
    links: BTreeMap<&'static str, ConnectionHealth>,
    /// By name of the stream.
    streams: BTreeMap<String, FailingStream>,
    /// By role and name.
    tasks: BTreeMap<(&'static str, &'static str), TaskHealth>,
    /// Every reader that has to follow its stream, until it is dropped.
    readers: Vec<(Role, ReaderStatus)>,
    /// By what is looked at: the store.
    shared: BTreeMap<&'static str, DependencyHealth>,
    /// What the broker itself says about streams that it can't write any more.
    write_error: Option<String>,
    write_errors: u64,
}

#[derive(Debug)]
struct ConnectionHealth {
    confirmed: Instant,
}

/// A stream to which the last writes failed.
#[derive(Debug)]
struct FailingStream {
    since: Instant,
    last: Instant,
}

#[derive(Debug, Default)]
struct TaskHealth {
    /// Since when it is not running, and whether that is because of something shared.
    down: Option<(Instant, bool)>,
    restarts: u64,
}

#[derive(Debug)]
struct DependencyHealth {
    good: Instant,
    problem: Option<String>,
}

impl ProcessHealth {
    /// Nothing is known yet, so nothing is wrong.
    pub fn new() -> Self {
        Self::default()
    }

    /// From now on the connection of `role` has to have its writes confirmed.
    pub(crate) fn expect_writes(&self, role: Role) {
        self.known.lock().links.insert(role.name(), ConnectionHealth { confirmed: Instant::now() });
    }

    /// The connection of `role` is not needed any more.
    pub(crate) fn expect_no_writes(&self, role: Role) {
        self.known.lock().links.remove(role.name());
    }

    /// The broker has confirmed a write.
    pub(crate) fn record_confirmed_write(&self, role: Role, stream: &str) {
        let mut known = self.known.lock();
        known.streams.remove(stream);
        if let Some(link) = known.links.get_mut(role.name()) {
            link.confirmed = Instant::now();
        }
    }

    /// A write was not confirmed.
    pub(crate) fn record_unconfirmed_write(&self, stream: &str) {
        let now = Instant::now();
        let mut known = self.known.lock();
        match known.streams.get_mut(stream) {
            Some(failing) if now.duration_since(failing.last) < FAILURE_AGE_MAX => failing.last = now,
            _ => {
                known.streams.insert(stream.to_owned(), FailingStream { since: now, last: now });
            }
        }
    }

    /// Since when the connection of `role` has had no write confirmed; `None` when nobody expects one.
    pub(crate) fn unconfirmed_for(&self, role: Role) -> Option<Duration> {
        self.known.lock().links.get(role.name()).map(|link| link.confirmed.elapsed())
    }

    /// What the broker says about streams that it can't write any more; `None` when it says nothing of the kind.
    pub(crate) fn set_write_error(&self, error: Option<String>) {
        let mut known = self.known.lock();
        if error.is_some() && known.write_error.is_none() {
            known.write_errors += 1;
        }
        known.write_error = error;
    }

    /// A task runs.
    pub(crate) fn mark_task_up(&self, role: Role, name: &'static str) {
        self.known.lock().tasks.entry((role.name(), name)).or_default().down = None;
    }

    /// A task has ended and will be started again.
    pub(crate) fn mark_task_down(&self, role: Role, name: &'static str, is_shared: bool) {
        let mut known = self.known.lock();
        let task = known.tasks.entry((role.name(), name)).or_default();
        task.restarts += 1;
        let since = task.down.map_or_else(Instant::now, |(since, _)| since);
        task.down = Some((since, is_shared));
    }

    /// A task is not wanted any more.
    pub(crate) fn forget_task(&self, role: Role, name: &'static str) {
        if let Some(task) = self.known.lock().tasks.get_mut(&(role.name(), name)) {
            task.down = None;
        }
    }

    /// From now on `reader` of `role` has to follow its stream, until it is dropped.
    pub(crate) fn expect_following(&self, role: Role, reader: ReaderStatus) {
        let mut known = self.known.lock();
        known.readers.retain(|(_, reader)| reader.is_open());
        known.readers.push((role, reader));
    }

    /// The readers of `role` that have to follow, whether they do or not.
    pub(crate) fn reader_statuses(&self, role: Role) -> Vec<ReaderStatus> {
        let known = self.known.lock();
        let readers = known.readers.iter().filter(|(of, reader)| *of == role && reader.is_open());
        readers.map(|(_, reader)| reader.clone()).collect()
    }

    /// What replicas share was looked at: `what` names it, `problem` says what is wrong with it.
    pub fn record_dependency(&self, what: &'static str, problem: Option<String>) {
        let now = Instant::now();
        let mut known = self.known.lock();
        let shared = known.shared.entry(what).or_insert(DependencyHealth { good: now, problem: None });
        if problem.is_none() {
            shared.good = now;
        }
        shared.problem = problem;
    }

    /// How often `task` of `role` was started again.
    pub fn restart_count(&self, role: Role, task: &str) -> u64 {
        let known = self.known.lock();
        known.tasks.iter().find(|((r, t), _)| *r == role.name() && *t == task).map_or(0, |(_, t)| t.restarts)
    }

    /// Why this process can't work; empty when it can.
    pub fn problems(&self) -> Vec<HealthProblem> {
        self.problems_at(Instant::now())
    }

    /// Why this process can't work at `now`.
    fn problems_at(&self, now: Instant) -> Vec<HealthProblem> {
        let known = self.known.lock();
        let too_long = |since: Instant| now.saturating_duration_since(since) > SHARED_GRACE;
        let mut causes = Vec::new();
        for (role, link) in &known.links {
            if too_long(link.confirmed + HEARTBEAT_PERIOD) {
                let age_s = now.saturating_duration_since(link.confirmed).as_secs();
                let detail = format!("the broker has confirmed no write of the role {role} for {age_s} s");
                causes.push(HealthProblem { code: "broker_unavailable", detail });
            }
        }
        // A stream that nobody writes to any more can't recover here by a confirmed write: its failure gets old
        // instead.
        for (stream, failing) in &known.streams {
            let is_recent = now.saturating_duration_since(failing.last) < FAILURE_AGE_MAX;
            if is_recent && too_long(failing.since) {
                let detail = format!("the broker confirms no write to {stream}");
                causes.push(HealthProblem { code: "broker_unavailable", detail });
            }
        }
        for ((role, name), task) in &known.tasks {
            if let Some((since, is_shared)) = task.down
                && (!is_shared || too_long(since))
            {
                let detail = format!("the task {name} of the role {role} is not running");
                causes.push(HealthProblem { code: "task_down", detail });
            }
        }
        for (role, reader) in &known.readers {
            if reader.is_open() && !reader.is_following() && too_long(reader.last_received_at()) {
                let detail =
                    format!("the reader {} of the role {} does not follow", reader.name(), role.name());
                causes.push(HealthProblem { code: "reader_lost", detail });
            }
        }
        for (what, shared) in &known.shared {
            if too_long(shared.good) {
                let problem = shared.problem.as_deref().unwrap_or("it does not answer");
                causes
                    .push(HealthProblem { code: "store_unavailable", detail: format!("{what}: {problem}") });
            }
        }
        causes
    }
}

impl Collector for ProcessHealth {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let is_ready = i64::from(self.problems().is_empty());
        let known = self.known.lock();
        encode_gauge(encoder, &READY, is_ready)?;
        encode_counters(
            encoder,
            &TASK_RESTARTS,
            known.tasks.iter().map(|((role, task), state)| {
                ([("role", role.to_string()), ("task", (*task).to_string())], state.restarts)
            }),
        )?;
        encode_gauges(
            encoder,
            &BROKER_WRITE_AGE_SECONDS,
            known.links.iter().map(|(role, link)| ([("role", role.to_string())], age_s(link.confirmed))),
        )?;
        let failing = known.streams.iter().filter(|(_, failing)| failing.last.elapsed() < FAILURE_AGE_MAX);
        encode_gauges(
            encoder,
            &STREAM_UNCONFIRMED_SECONDS,
            failing.map(|(stream, failing)| ([("stream", stream.clone())], age_s(failing.since))),
        )?;
        encode_gauge(encoder, &BROKER_WRITE_BROKEN, i64::from(known.write_error.is_some()))?;
        encode_counter(encoder, &BROKER_WRITE_ERRORS, known.write_errors)
    }
}

/// Time since `moment` in seconds, to a tenth.
fn age_s(moment: Instant) -> f64 {
    (moment.elapsed().as_secs_f64() * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reader_status::ReaderStatusSender;

    fn codes(health: &ProcessHealth, later_s: u64) -> Vec<&'static str> {
        let now = Instant::now() + Duration::from_secs(later_s);
        health.problems_at(now).into_iter().map(|cause| cause.code).collect()
    }

    #[test]
    fn what_is_shared_counts_after_its_grace() {
        let health = ProcessHealth::new();
        assert_eq!(codes(&health, 3_600), [""; 0], "nobody expects anything");
        health.expect_writes(Role::Ingress);
        assert_eq!(codes(&health, 29), [""; 0]);
        assert_eq!(codes(&health, 34), ["broker_unavailable"]);
        health.record_confirmed_write(Role::Upload, "EVENTS");
        assert_eq!(codes(&health, 34), ["broker_unavailable"], "another connection proves nothing");
        health.expect_no_writes(Role::Ingress);
        assert_eq!(codes(&health, 34), [""; 0]);

        health.record_dependency("store", None);
        assert_eq!(codes(&health, 29), [""; 0]);
        health.record_dependency("store", Some("its marker is gone".into()));
        assert_eq!(codes(&health, 29), [""; 0]);
        assert_eq!(codes(&health, 31), ["store_unavailable"]);
        health.record_dependency("store", None);
        assert_eq!(codes(&health, 29), [""; 0]);
    }

    #[test]
    fn a_stream_that_takes_nothing_counts_while_others_do() {
        let health = ProcessHealth::new();
        health.record_unconfirmed_write("EVENTS");
        assert_eq!(codes(&health, 29), [""; 0]);
        assert_eq!(codes(&health, 31), ["broker_unavailable"]);
        health.record_confirmed_write(Role::Ingress, "KV_jobs");
        assert_eq!(codes(&health, 31), ["broker_unavailable"]);
        assert_eq!(codes(&health, 61), [""; 0], "nobody writes to it any more");
        health.record_confirmed_write(Role::Ingress, "EVENTS");
        assert_eq!(codes(&health, 31), [""; 0]);
    }

    #[test]
    fn a_reader_that_does_not_follow_counts_until_it_is_dropped() {
        let health = ProcessHealth::new();
        let (sender, reader) = ReaderStatusSender::new("events");
        health.expect_following(Role::Ingress, reader);
        assert_eq!(codes(&health, 29), [""; 0], "it may just begin");
        assert_eq!(codes(&health, 31), ["reader_lost"]);
        sender.mark_received();
        assert_eq!(codes(&health, 31), [""; 0]);
        sender.mark_lost();
        assert_eq!(codes(&health, 29), [""; 0]);
        assert_eq!(codes(&health, 31), ["reader_lost"]);
        drop(sender);
        assert_eq!(codes(&health, 31), [""; 0], "nobody needs it any more");
    }

    #[test]
    fn a_task_of_this_process_counts_at_once() {
        let health = ProcessHealth::new();
        health.mark_task_up(Role::Ingress, "events");
        assert_eq!(codes(&health, 3_600), [""; 0]);
        health.mark_task_down(Role::Ingress, "events", true);
        assert_eq!(codes(&health, 29), [""; 0], "the broker is away for all");
        assert_eq!(codes(&health, 31), ["task_down"]);
        health.mark_task_down(Role::Ingress, "events", false);
        assert_eq!(codes(&health, 0), ["task_down"]);
        assert_eq!(health.restart_count(Role::Ingress, "events"), 2);
        health.mark_task_up(Role::Ingress, "events");
        assert_eq!(codes(&health, 0), [""; 0]);
        assert!(
            crate::metrics::render_collector(health.clone())
                .contains("streamgate_task_restarts_total{role=\"ingress\",task=\"events\"} 2\n")
        );
    }
}

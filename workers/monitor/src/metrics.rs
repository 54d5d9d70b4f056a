//! The metrics: one table of names, the families behind it, and the same numbers as a snapshot.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, atomic::AtomicU64},
};

use parking_lot::Mutex;
use prometheus_client::{
    encoding::text,
    metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram},
    registry::{Metric, Registry},
};
use schemas::{
    Event, catalog,
    job::{self, Succeeded},
    subjects::{Class, event_parts},
};
use serde::Serialize;

use crate::{measure, name::Name, poll::Polled};

type Label = [(&'static str, String); 1];
type Labels = [(&'static str, String); 2];
type Ratio = Gauge<f64, AtomicU64>;

/// Kinds of jobs that are counted by name.
const TASK_KINDS: [&str; 1] = [job::TRANSCODE];

/// The label value of everything a family does not count by name.
pub(crate) const OTHER: &str = "other";

/// Bounds of the job durations, in seconds.
const DURATION_BOUNDS: [f64; 12] =
    [1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 14_400.0];

/// All metrics of one monitor. Cheap to clone; all clones share the numbers.
#[derive(Clone)]
pub struct Metrics {
    inner: Arc<Inner>,
}

impl fmt::Debug for Metrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

/// A family of counters with a fixed set of values of its one label; all begin at 0, so that none is missing.
struct Known {
    counters: BTreeMap<String, Counter>,
    other: Counter,
}

impl Known {
    fn new(
        family: &Family<Label, Counter>,
        label: &'static str,
        values: impl IntoIterator<Item = String>,
    ) -> Self {
        let counter = |value: String| family.get_or_create_owned(&[(label, value)]);
        let counters = values.into_iter().map(|value| (value.clone(), counter(value))).collect();
        Self { counters, other: counter(OTHER.into()) }
    }

    fn of(&self, value: &str) -> &Counter {
        self.counters.get(value).unwrap_or(&self.other)
    }

    fn numbers(&self) -> BTreeMap<String, u64> {
        let mut all: BTreeMap<_, _> = self.counters.iter().map(|(k, c)| (k.clone(), c.get())).collect();
        *all.entry(OTHER.into()).or_default() += self.other.get();
        all
    }
}

struct Inner {
    registry: Registry,
    messages: Known,
    bytes: Known,
    events: Known,
    tasks: Known,
    advisories: Known,
    polls: Known,
    dropped: Counter,
    job_wall: Histogram,
    job_cpu: Histogram,
    streams: Streams,
    durables: Durables,
    dead: Family<Label, Gauge>,
    audit_lag_events: Gauge,
    audit_lag_seconds: Ratio,
    broker_up: Gauge,
    poll_timestamp: Ratio,
    last: Mutex<Last>,
}

/// What the last poll found, and what was added to counters so far.
#[derive(Default)]
struct Last {
    polled: Polled,
    at_ms: u64,
    appends: HashMap<String, u64>,
    dropped: u64,
}

#[derive(Default)]
struct Streams {
    appends: Family<Label, Counter>,
    messages: Family<Label, Gauge>,
    bytes: Family<Label, Gauge>,
    limit_bytes: Family<Label, Gauge>,
    fill: Family<Label, Ratio>,
}

#[derive(Default)]
struct Durables {
    pending: Family<Labels, Gauge>,
    unacknowledged: Family<Labels, Gauge>,
    redelivered: Family<Labels, Gauge>,
    waiting: Family<Labels, Gauge>,
    oldest: Family<Labels, Ratio>,
}

/// State of one stream.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stream {
    /// Its name.
    pub stream: String,
    /// Messages in it.
    pub messages: u64,
    /// Their bytes.
    pub size_bytes: u64,
    /// Its limit in bytes, if it has one.
    pub limit_bytes: Option<u64>,
    /// Share of the limit that is used.
    pub fill_ratio: f64,
    /// Its oldest sequence.
    pub first_sequence: u64,
    /// Its newest sequence, which counts everything ever appended.
    pub last_sequence: u64,
}

/// State of one durable.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Durable {
    /// Stream it reads.
    pub stream: String,
    /// Its name.
    pub durable: String,
    /// Messages not yet delivered.
    pub pending: u64,
    /// Messages delivered and not yet acknowledged.
    pub unacknowledged: u64,
    /// Of these, how many were delivered more than once.
    pub redelivered: u64,
    /// Pull requests that wait for a message.
    pub waiting_pulls: u64,
    /// Age in seconds of the oldest message that is not acknowledged; 0 when there is none.
    pub oldest_age_seconds: f64,
}

/// All numbers at one moment, for JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Snapshot {
    /// Unix time in milliseconds of the poll that found streams and durables; 0 before the first.
    pub polled_at_ms: u64,
    /// True when the last poll was answered.
    pub broker_up: bool,
    /// Streams and buckets by name.
    pub streams: Vec<Stream>,
    /// Durables by stream and name.
    pub durables: Vec<Durable>,
    /// Dead letters by stage.
    pub dead_letters: BTreeMap<String, u64>,
    /// Events that are not audited yet.
    pub audit_lag_events: u64,
    /// Age in seconds of the oldest of them.
    pub audit_lag_seconds: f64,
    /// Messages heard since the start, by class.
    pub messages_by_class: BTreeMap<String, u64>,
    /// Events heard since the start, by type.
    pub events_by_type: BTreeMap<String, u64>,
    /// Advisories heard since the start, by kind.
    pub advisories_by_kind: BTreeMap<String, u64>,
    /// Messages this monitor was too slow to hear; a lower bound.
    pub dropped_messages: u64,
}

fn add<M: Metric + Clone>(registry: &mut Registry, name: Name, metric: &M) {
    registry.register(name.text(), name.help(), metric.clone());
}

fn known(
    registry: &mut Registry,
    name: Name,
    label: &'static str,
    values: impl IntoIterator<Item = String>,
) -> Known {
    let family = Family::<Label, Counter>::default();
    add(registry, name, &family);
    Known::new(&family, label, values)
}

fn owned(values: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    values.into_iter().map(str::to_owned).collect()
}

impl Metrics {
    /// All metrics at 0.
    pub fn new() -> Self {
        let mut registry = Registry::default();
        let r = &mut registry;
        let classes = || owned(Class::ALL.map(Class::name));
        let inner = Inner {
            messages: known(r, Name::BusMessages, "class", classes()),
            bytes: known(r, Name::BusPayloadBytes, "class", classes()),
            events: known(r, Name::Events, "type", catalog::events().into_iter().map(|entry| entry.name)),
            tasks: known(r, Name::QueuedTasks, "kind", owned(TASK_KINDS)),
            advisories: known(r, Name::Advisories, "kind", owned(measure::ADVISORIES)),
            polls: known(r, Name::Polls, "result", owned(["answered", "failed", "partial"])),
            dropped: Counter::default(),
            job_wall: Histogram::new(DURATION_BOUNDS),
            job_cpu: Histogram::new(DURATION_BOUNDS),
            streams: Streams::default(),
            durables: Durables::default(),
            dead: Family::default(),
            audit_lag_events: Gauge::default(),
            audit_lag_seconds: Ratio::default(),
            broker_up: Gauge::default(),
            poll_timestamp: Ratio::default(),
            last: Mutex::default(),
            registry: Registry::default(),
        };
        let inner = inner.registered(registry);
        inner.dead.get_or_create(&[("stage", OTHER.into())]).set(0);
        Self { inner: Arc::new(inner) }
    }

    /// OpenMetrics text of all metrics.
    pub fn encode(&self) -> String {
        let mut text = String::new();
        match text::encode(&mut text, &self.inner.registry) {
            Ok(()) => text,
            Err(error) => {
                tracing::error!(%error, "the metrics can't be written");
                "# EOF\n".into()
            }
        }
    }

    /// The same numbers for JSON.
    pub fn snapshot(&self) -> Snapshot {
        let inner = &self.inner;
        let last = inner.last.lock();
        Snapshot {
            polled_at_ms: last.at_ms,
            broker_up: inner.broker_up.get() == 1,
            streams: last.polled.streams.clone(),
            durables: last.polled.durables.clone(),
            dead_letters: last.polled.dead_letters.clone(),
            audit_lag_events: last.polled.audit_lag_events,
            audit_lag_seconds: last.polled.audit_lag_seconds,
            messages_by_class: inner.messages.numbers(),
            events_by_type: inner.events.numbers(),
            advisories_by_kind: inner.advisories.numbers(),
            dropped_messages: inner.dropped.get(),
        }
    }

    /// Counts one message that was heard.
    pub(crate) fn heard(&self, subject: &str, payload: &[u8]) {
        let inner = &self.inner;
        let class = Class::of(subject);
        inner.messages.of(class.name()).inc();
        inner.bytes.of(class.name()).inc_by(payload.len() as u64);
        match class {
            Class::Event => {
                inner.events.of(measure::event_type(subject).unwrap_or_default()).inc();
                self.job_ended(subject, payload);
            }
            Class::Task => {
                inner.tasks.of(measure::task_kind(subject)).inc();
            }
            Class::Advisory => {
                inner.advisories.of(&measure::advisory_kind(subject)).inc();
            }
            _ => {}
        }
    }

    fn job_ended(&self, subject: &str, payload: &[u8]) {
        let Some((Succeeded::ENTITY, Succeeded::VERB, _)) = event_parts(subject) else { return };
        match nats::decode::<Succeeded>(subject, payload) {
            Ok(event) => {
                self.inner.job_wall.observe(event.wall_ms as f64 / 1_000.0);
                self.inner.job_cpu.observe(event.cpu_ms as f64 / 1_000.0);
            }
            Err(error) => tracing::debug!(%error, "an event that can't be decoded"),
        }
    }

    /// Notes that the broker did not answer a poll.
    pub(crate) fn poll_failed(&self) {
        self.inner.polls.of("failed").inc();
        self.inner.broker_up.set(0);
    }

    /// Takes over what a poll found at `now_ms`; `dropped` counts the messages lost since the start.
    pub(crate) fn polled(&self, polled: Polled, dropped: u64, now_ms: u64) {
        let inner = &self.inner;
        let mut last = inner.last.lock();
        inner.polls.of(if polled.unread.is_empty() { "answered" } else { "partial" }).inc();
        inner.broker_up.set(1);
        inner.poll_timestamp.set(now_ms as f64 / 1_000.0);
        inner.dropped.inc_by(dropped.saturating_sub(last.dropped));
        last.dropped = dropped;
        inner.audit_lag_events.set(signed(polled.audit_lag_events));
        inner.audit_lag_seconds.set(polled.audit_lag_seconds);
        for stream in &polled.streams {
            inner.streams.set(stream, &mut last.appends);
        }
        for durable in &polled.durables {
            inner.durables.set(durable);
        }
        for (stage, count) in &polled.dead_letters {
            inner.dead.get_or_create(&[("stage", stage.clone())]).set(signed(*count));
        }
        inner.forget(&last.polled, &polled);
        last.polled = polled;
        last.at_ms = now_ms;
    }
}

impl Inner {
    /// Puts every metric that is no family with fixed values into the registry.
    fn registered(mut self, mut registry: Registry) -> Self {
        let r = &mut registry;
        add(r, Name::DroppedMessages, &self.dropped);
        add(r, Name::JobWallSeconds, &self.job_wall);
        add(r, Name::JobCpuSeconds, &self.job_cpu);
        add(r, Name::StreamAppends, &self.streams.appends);
        add(r, Name::StreamMessages, &self.streams.messages);
        add(r, Name::StreamBytes, &self.streams.bytes);
        add(r, Name::StreamLimitBytes, &self.streams.limit_bytes);
        add(r, Name::StreamFillRatio, &self.streams.fill);
        add(r, Name::DurablePendingMessages, &self.durables.pending);
        add(r, Name::DurableUnacknowledgedMessages, &self.durables.unacknowledged);
        add(r, Name::DurableRedeliveredMessages, &self.durables.redelivered);
        add(r, Name::DurableWaitingPulls, &self.durables.waiting);
        add(r, Name::DurableOldestAgeSeconds, &self.durables.oldest);
        add(r, Name::DeadLetterMessages, &self.dead);
        add(r, Name::AuditLagEvents, &self.audit_lag_events);
        add(r, Name::AuditLagSeconds, &self.audit_lag_seconds);
        add(r, Name::BrokerUp, &self.broker_up);
        add(r, Name::PollTimestampSeconds, &self.poll_timestamp);
        self.registry = registry;
        self
    }

    /// Removes the series of streams, durables and stages that are no more.
    fn forget(&self, before: &Polled, now: &Polled) {
        for gone in before.streams.iter().filter(|old| !now.streams.iter().any(|s| s.stream == old.stream)) {
            self.streams.remove(&gone.stream);
        }
        let same = |a: &Durable, b: &Durable| a.stream == b.stream && a.durable == b.durable;
        for gone in before.durables.iter().filter(|old| !now.durables.iter().any(|d| same(d, old))) {
            self.durables.remove(gone);
        }
        for stage in before.dead_letters.keys().filter(|stage| !now.dead_letters.contains_key(*stage)) {
            self.dead.remove(&[("stage", stage.clone())]);
        }
    }
}

impl Streams {
    fn set(&self, stream: &Stream, appends: &mut HashMap<String, u64>) {
        let label: Label = [("stream", stream.stream.clone())];
        // A stream made anew begins at 1 again; all of it is new then.
        let seen = appends.insert(stream.stream.clone(), stream.last_sequence).unwrap_or(0);
        let fresh =
            if stream.last_sequence < seen { stream.last_sequence } else { stream.last_sequence - seen };
        self.appends.get_or_create(&label).inc_by(fresh);
        self.messages.get_or_create(&label).set(signed(stream.messages));
        self.bytes.get_or_create(&label).set(signed(stream.size_bytes));
        self.limit_bytes.get_or_create(&label).set(signed(stream.limit_bytes.unwrap_or(0)));
        self.fill.get_or_create(&label).set(stream.fill_ratio);
    }

    fn remove(&self, stream: &str) {
        let label: Label = [("stream", stream.to_owned())];
        self.appends.remove(&label);
        self.messages.remove(&label);
        self.bytes.remove(&label);
        self.limit_bytes.remove(&label);
        self.fill.remove(&label);
    }
}

impl Durables {
    fn set(&self, durable: &Durable) {
        let labels = labels(durable);
        self.pending.get_or_create(&labels).set(signed(durable.pending));
        self.unacknowledged.get_or_create(&labels).set(signed(durable.unacknowledged));
        self.redelivered.get_or_create(&labels).set(signed(durable.redelivered));
        self.waiting.get_or_create(&labels).set(signed(durable.waiting_pulls));
        self.oldest.get_or_create(&labels).set(durable.oldest_age_seconds);
    }

    fn remove(&self, durable: &Durable) {
        let labels = labels(durable);
        self.pending.remove(&labels);
        self.unacknowledged.remove(&labels);
        self.redelivered.remove(&labels);
        self.waiting.remove(&labels);
        self.oldest.remove(&labels);
    }
}

fn labels(durable: &Durable) -> Labels {
    [("stream", durable.stream.clone()), ("durable", durable.durable.clone())]
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

//! The metrics: one table of names, the families behind it, and the same numbers as a snapshot.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    fmt,
    sync::{Arc, atomic::AtomicU64},
    time::{Duration, Instant},
};

use nats::metrics::{
    MetricDeclaration, Registry, register_metric,
    table::{
        ADVISORIES, AUDIT_LAG_EVENTS, AUDIT_LAG_SECONDS, BROKER_UP, BUS_MESSAGES, BUS_PAYLOAD_BYTES,
        DEAD_LETTER_MESSAGES, DROPPED_MESSAGES, DURABLE_OLDEST_AGE_SECONDS, DURABLE_PENDING_MESSAGES,
        DURABLE_REDELIVERED_MESSAGES, DURABLE_UNACKNOWLEDGED_LIMIT, DURABLE_UNACKNOWLEDGED_MESSAGES,
        DURABLE_WAITING_PULLS, EVENTS, JOB_CPU_SECONDS, JOB_SECONDS_BOUNDS, JOB_WALL_SECONDS,
        MEDIA_PLAYABLE_SECONDS, POLL_TIMESTAMP_SECONDS, POLLS, QUEUED_TASKS, STREAM_APPENDS, STREAM_BYTES,
        STREAM_FILL_RATIO, STREAM_LIMIT_BYTES, STREAM_MESSAGES, STREAM_ROOM_SECONDS,
    },
};
use parking_lot::Mutex;
use prometheus_client::metrics::{counter::Counter, family::Family, gauge::Gauge, histogram::Histogram};
use schemas::{
    BusEvent, catalog,
    ids::MediaId,
    job::{self, JobSucceeded},
    media::{MediaPlayable, MediaReady, MediaRejected, MediaRemoved},
    subjects::{MessageClass, parse_event_subject},
    upload::UploadReceived,
};
use serde::Serialize;

use crate::{
    growth::StreamGrowth,
    measure::{self, OTHER},
    process_log::ProcessLog,
    role_reports::RoleReports,
    stats::{DurableStats, PollResult, StreamStats},
};

type SingleLabel = [(&'static str, String); 1];
type LabelPair = [(&'static str, String); 2];
type FloatGauge = Gauge<f64, AtomicU64>;

/// Most media whose upload was received that are waited for; of older ones the time is not measured.
const RECEIVED_MAX: usize = 4_096;
/// How long they are waited for: the time of the objective `Playable`. What can't be played then is counted as taking longer.
const PLAYABLE_TIME_MAX: Duration = Duration::from_secs(300);
/// Kinds of jobs that are counted by name.
const TASK_KINDS: [&str; 2] = [job::TRANSCODE, job::VERIFY];

/// All metrics of one monitor. Cheap to clone; all clones share the numbers.
#[derive(Clone)]
pub struct MonitorMetrics {
    inner: Arc<MetricFamilies>,
    reports: RoleReports,
    processes: ProcessLog,
}

impl fmt::Debug for MonitorMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// A family of counters with a fixed set of values of its one label; all begin at 0, so that none is missing.
struct FixedLabelCounters {
    counters: BTreeMap<String, Counter>,
    other: Counter,
}

impl FixedLabelCounters {
    fn new(
        family: &Family<SingleLabel, Counter>,
        label: &'static str,
        values: impl IntoIterator<Item = String>,
    ) -> Self {
        let counter = |value: String| family.get_or_create_owned(&[(label, value)]);
        let counters = values.into_iter().map(|value| (value.clone(), counter(value))).collect();
        Self { counters, other: counter(OTHER.into()) }
    }

    fn counter_for(&self, value: &str) -> &Counter {
        self.counters.get(value).unwrap_or(&self.other)
    }

    fn read_counts(&self) -> BTreeMap<String, u64> {
        let mut all: BTreeMap<_, _> = self.counters.iter().map(|(k, c)| (k.clone(), c.get())).collect();
        *all.entry(OTHER.into()).or_default() += self.other.get();
        all
    }
}

struct MetricFamilies {
    messages: FixedLabelCounters,
    bytes: FixedLabelCounters,
    events: FixedLabelCounters,
    tasks: FixedLabelCounters,
    advisories: FixedLabelCounters,
    polls: FixedLabelCounters,
    dropped: Counter,
    job_wall: Histogram,
    job_cpu: Histogram,
    playable: Histogram,
    received: Mutex<ReceivedMedia>,
    streams: StreamMetrics,
    durables: DurableMetrics,
    dead: Family<SingleLabel, Gauge>,
    audit_lag_events: Gauge,
    audit_lag_seconds: FloatGauge,
    broker_up: Gauge,
    poll_timestamp: FloatGauge,
    last: Mutex<LastPoll>,
}

/// Media whose upload was received and that can't be played yet, the newest [`RECEIVED_MAX`].
#[derive(Default)]
struct ReceivedMedia {
    at: HashMap<MediaId, Instant>,
    order: VecDeque<MediaId>,
}

impl ReceivedMedia {
    fn note(&mut self, media_id: MediaId, now: Instant) {
        if self.at.insert(media_id, now).is_some() {
            return;
        }
        self.order.push_back(media_id);
        if self.order.len() > RECEIVED_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            self.at.remove(&oldest);
        }
    }

    fn take(&mut self, media_id: MediaId) -> Option<Instant> {
        self.at.remove(&media_id)
    }

    /// One that was received more than [`PLAYABLE_TIME_MAX`] before `now`: for how long it is waited for.
    fn take_missed(&mut self, now: Instant) -> Option<Duration> {
        while let Some(oldest) = self.order.front() {
            if let Some(received_at) = self.at.get(oldest) {
                let waited = now.saturating_duration_since(*received_at);
                if waited <= PLAYABLE_TIME_MAX {
                    return None;
                }
                self.at.remove(oldest);
                self.order.pop_front();
                return Some(waited);
            }
            self.order.pop_front();
        }
        None
    }
}

/// What the last poll found, and what was added to counters so far.
#[derive(Default)]
struct LastPoll {
    polled: PollResult,
    at_ms: u64,
    appends: HashMap<String, u64>,
    growth: StreamGrowth,
    dropped: u64,
}

#[derive(Default)]
struct StreamMetrics {
    appends: Family<SingleLabel, Counter>,
    messages: Family<SingleLabel, Gauge>,
    bytes: Family<SingleLabel, Gauge>,
    limit_bytes: Family<SingleLabel, Gauge>,
    fill: Family<SingleLabel, FloatGauge>,
    room: Family<SingleLabel, FloatGauge>,
}

#[derive(Default)]
struct DurableMetrics {
    pending: Family<LabelPair, Gauge>,
    unacknowledged: Family<LabelPair, Gauge>,
    unacknowledged_limit: Family<LabelPair, Gauge>,
    redelivered: Family<LabelPair, Gauge>,
    waiting: Family<LabelPair, Gauge>,
    oldest: Family<LabelPair, FloatGauge>,
}

/// All numbers at one moment, for JSON.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct MonitorSnapshot {
    /// Unix time in milliseconds of the poll that found streams and durables; 0 before the first.
    pub polled_at_ms: u64,
    /// True when the last poll was answered.
    pub broker_up: bool,
    /// Streams and buckets by name.
    pub streams: Vec<StreamStats>,
    /// Durables by stream and name.
    pub durables: Vec<DurableStats>,
    /// Dead letters about which nobody did anything yet, by stage.
    pub dead_letters: BTreeMap<String, u64>,
    /// Events that are not audited yet.
    pub audit_lag_events: u64,
    /// Age in seconds of the oldest of them.
    pub audit_lag_seconds: f64,
    /// Messages received since the start, by class.
    pub messages_by_class: BTreeMap<String, u64>,
    /// Events received since the start, by type.
    pub events_by_type: BTreeMap<String, u64>,
    /// Advisories received since the start, by kind.
    pub advisories_by_kind: BTreeMap<String, u64>,
    /// Messages this monitor was too slow to receive; a lower bound.
    pub dropped_messages: u64,
}

fn register_counters(
    registry: &mut Registry,
    declared: &MetricDeclaration,
    label: &'static str,
    values: impl IntoIterator<Item = String>,
) -> FixedLabelCounters {
    let family = Family::<SingleLabel, Counter>::default();
    register_metric(registry, declared, &family);
    FixedLabelCounters::new(&family, label, values)
}

fn to_strings(values: impl IntoIterator<Item = &'static str>) -> Vec<String> {
    values.into_iter().map(str::to_owned).collect()
}

impl MonitorMetrics {
    /// All metrics at 0, shown by `registry`.
    pub fn register(registry: &mut Registry) -> Self {
        let r = &mut *registry;
        let classes = || to_strings(MessageClass::ALL.map(MessageClass::name));
        let inner = MetricFamilies {
            messages: register_counters(r, &BUS_MESSAGES, "class", classes()),
            bytes: register_counters(r, &BUS_PAYLOAD_BYTES, "class", classes()),
            events: register_counters(
                r,
                &EVENTS,
                "type",
                catalog::event_entries().into_iter().map(|entry| entry.name),
            ),
            tasks: register_counters(r, &QUEUED_TASKS, "kind", to_strings(TASK_KINDS)),
            advisories: register_counters(r, &ADVISORIES, "kind", to_strings(measure::ADVISORIES)),
            polls: register_counters(r, &POLLS, "result", to_strings(["answered", "failed", "partial"])),
            dropped: Counter::default(),
            job_wall: Histogram::new(JOB_SECONDS_BOUNDS.iter().copied()),
            job_cpu: Histogram::new(JOB_SECONDS_BOUNDS.iter().copied()),
            playable: Histogram::new(JOB_SECONDS_BOUNDS.iter().copied()),
            received: Mutex::default(),
            streams: StreamMetrics::default(),
            durables: DurableMetrics::default(),
            dead: Family::default(),
            audit_lag_events: Gauge::default(),
            audit_lag_seconds: FloatGauge::default(),
            broker_up: Gauge::default(),
            poll_timestamp: FloatGauge::default(),
            last: Mutex::default(),
        };
        inner.register_all(registry);
        inner.dead.get_or_create(&[("stage", OTHER.into())]).set(0);
        let reports = RoleReports::default();
        registry.register_collector(Box::new(reports.clone()));
        Self { inner: Arc::new(inner), reports, processes: ProcessLog::default() }
    }

    /// What all processes say of themselves.
    pub(crate) const fn process_log(&self) -> &ProcessLog {
        &self.processes
    }

    /// What other processes reported.
    pub fn role_reports(&self) -> &RoleReports {
        &self.reports
    }

    /// The numbers for JSON.
    pub fn snapshot(&self) -> MonitorSnapshot {
        let inner = &self.inner;
        let last = inner.last.lock();
        MonitorSnapshot {
            polled_at_ms: last.at_ms,
            broker_up: inner.broker_up.get() == 1,
            streams: last.polled.streams.clone(),
            durables: last.polled.durables.clone(),
            dead_letters: last.polled.dead_letters.clone(),
            audit_lag_events: last.polled.audit_lag_events,
            audit_lag_seconds: last.polled.audit_lag_seconds,
            messages_by_class: inner.messages.read_counts(),
            events_by_type: inner.events.read_counts(),
            advisories_by_kind: inner.advisories.read_counts(),
            dropped_messages: inner.dropped.get(),
        }
    }

    /// Counts one message that was received.
    pub(crate) fn count_message(&self, subject: &str, payload: &[u8]) {
        let inner = &self.inner;
        let class = MessageClass::from_subject(subject);
        inner.messages.counter_for(class.name()).inc();
        inner.bytes.counter_for(class.name()).inc_by(payload.len() as u64);
        match class {
            MessageClass::Event => {
                inner.events.counter_for(measure::event_type(subject).unwrap_or_default()).inc();
                self.observe_job(subject, payload);
                self.observe_playable(subject, payload);
            }
            MessageClass::Task => {
                inner.tasks.counter_for(measure::task_kind(subject)).inc();
            }
            MessageClass::Stat => self.reports.receive(subject, payload),
            MessageClass::Log => {
                let role = subject.strip_prefix("log.").unwrap_or_default();
                if !self.processes.receive(role, payload, Instant::now()) {
                    tracing::debug!(subject, "this is no report of a process");
                }
            }
            MessageClass::Advisory => {
                inner.advisories.counter_for(&measure::advisory_kind(subject)).inc();
            }
            _ => {}
        }
    }

    fn observe_job(&self, subject: &str, payload: &[u8]) {
        let Some((JobSucceeded::ENTITY, JobSucceeded::VERB, _)) = parse_event_subject(subject) else {
            return;
        };
        match nats::decode_message::<JobSucceeded>(subject, payload) {
            Ok(event) => {
                self.inner.job_wall.observe(event.wall_ms as f64 / 1_000.0);
                self.inner.job_cpu.observe(event.cpu_ms as f64 / 1_000.0);
            }
            Err(error) => tracing::debug!(%error, "an event that can't be decoded"),
        }
    }

    /// Counts media that can't be played `now` although their uploads were received more than [`PLAYABLE_TIME_MAX`] ago.
    pub(crate) fn count_missed(&self, now: Instant) {
        let mut received = self.inner.received.lock();
        while let Some(waited) = received.take_missed(now) {
            self.inner.playable.observe(waited.as_secs_f64());
        }
    }

    /// The time from an upload that was received until its medium can be played.
    fn observe_playable(&self, subject: &str, payload: &[u8]) {
        let now = Instant::now();
        match parse_event_subject(subject) {
            Some((UploadReceived::ENTITY, UploadReceived::VERB, _)) => {
                // Who has the encode wait does not wait for it.
                if let Ok(event) = nats::decode_message::<UploadReceived>(subject, payload)
                    && !event.settings.paused
                {
                    self.inner.received.lock().note(event.media_id, now);
                }
            }
            Some((MediaPlayable::ENTITY, MediaPlayable::VERB, _)) => {
                if let Ok(event) = nats::decode_message::<MediaPlayable>(subject, payload) {
                    self.observe_wait(event.media_id, now);
                }
            }
            // A short one is ready before it was playable.
            Some((MediaReady::ENTITY, MediaReady::VERB, _)) => {
                if let Ok(event) = nats::decode_message::<MediaReady>(subject, payload) {
                    self.observe_wait(event.media_id, now);
                }
            }
            // Nobody waits for what is no film or was taken away.
            Some((MediaRejected::ENTITY, MediaRejected::VERB, _)) => {
                if let Ok(event) = nats::decode_message::<MediaRejected>(subject, payload) {
                    self.inner.received.lock().take(event.media_id);
                }
            }
            Some((MediaRemoved::ENTITY, MediaRemoved::VERB, _)) => {
                if let Ok(event) = nats::decode_message::<MediaRemoved>(subject, payload) {
                    self.inner.received.lock().take(event.media_id);
                }
            }
            _ => {}
        }
    }

    /// Another encode of a medium that plays already, and an event that comes again, find nothing.
    fn observe_wait(&self, media_id: MediaId, now: Instant) {
        if let Some(received_at) = self.inner.received.lock().take(media_id) {
            self.inner.playable.observe(now.saturating_duration_since(received_at).as_secs_f64());
        }
    }

    /// Notes that the broker did not answer a poll.
    pub(crate) fn record_poll_failure(&self) {
        self.inner.polls.counter_for("failed").inc();
        self.inner.broker_up.set(0);
    }

    /// Takes over what a poll found at `now_ms`; `dropped` counts the messages lost since the start.
    pub(crate) fn record_poll(&self, polled: PollResult, dropped: u64, now_ms: u64) {
        let inner = &self.inner;
        self.count_missed(Instant::now());
        let mut last = inner.last.lock();
        inner.polls.counter_for(if polled.unread.is_empty() { "answered" } else { "partial" }).inc();
        inner.broker_up.set(1);
        inner.poll_timestamp.set(now_ms as f64 / 1_000.0);
        inner.dropped.inc_by(dropped.saturating_sub(last.dropped));
        last.dropped = dropped;
        inner.audit_lag_events.set(saturating_i64(polled.audit_lag_events));
        inner.audit_lag_seconds.set(polled.audit_lag_seconds);
        for stream in &polled.streams {
            let room_seconds = last.growth.note_size(stream, now_ms);
            inner.streams.update_series(stream, &mut last.appends, room_seconds);
        }
        for durable in &polled.durables {
            inner.durables.update_series(durable);
        }
        for (stage, count) in &polled.dead_letters {
            inner.dead.get_or_create(&[("stage", stage.clone())]).set(saturating_i64(*count));
        }
        inner.remove_stale_series(&last.polled, &polled);
        last.growth.keep_only(&polled.streams);
        last.polled = polled;
        last.at_ms = now_ms;
    }
}

impl MetricFamilies {
    /// Puts every metric that is no family with fixed values into the registry.
    fn register_all(&self, r: &mut Registry) {
        register_metric(r, &DROPPED_MESSAGES, &self.dropped);
        register_metric(r, &JOB_WALL_SECONDS, &self.job_wall);
        register_metric(r, &JOB_CPU_SECONDS, &self.job_cpu);
        register_metric(r, &MEDIA_PLAYABLE_SECONDS, &self.playable);
        register_metric(r, &STREAM_APPENDS, &self.streams.appends);
        register_metric(r, &STREAM_MESSAGES, &self.streams.messages);
        register_metric(r, &STREAM_BYTES, &self.streams.bytes);
        register_metric(r, &STREAM_LIMIT_BYTES, &self.streams.limit_bytes);
        register_metric(r, &STREAM_FILL_RATIO, &self.streams.fill);
        register_metric(r, &STREAM_ROOM_SECONDS, &self.streams.room);
        register_metric(r, &DURABLE_PENDING_MESSAGES, &self.durables.pending);
        register_metric(r, &DURABLE_UNACKNOWLEDGED_MESSAGES, &self.durables.unacknowledged);
        register_metric(r, &DURABLE_UNACKNOWLEDGED_LIMIT, &self.durables.unacknowledged_limit);
        register_metric(r, &DURABLE_REDELIVERED_MESSAGES, &self.durables.redelivered);
        register_metric(r, &DURABLE_WAITING_PULLS, &self.durables.waiting);
        register_metric(r, &DURABLE_OLDEST_AGE_SECONDS, &self.durables.oldest);
        register_metric(r, &DEAD_LETTER_MESSAGES, &self.dead);
        register_metric(r, &AUDIT_LAG_EVENTS, &self.audit_lag_events);
        register_metric(r, &AUDIT_LAG_SECONDS, &self.audit_lag_seconds);
        register_metric(r, &BROKER_UP, &self.broker_up);
        register_metric(r, &POLL_TIMESTAMP_SECONDS, &self.poll_timestamp);
    }

    /// Removes the series of streams, durables and stages that are no more.
    fn remove_stale_series(&self, before: &PollResult, now: &PollResult) {
        for gone in before.streams.iter().filter(|old| !now.streams.iter().any(|s| s.stream == old.stream)) {
            self.streams.remove_series(&gone.stream);
        }
        let same = |a: &DurableStats, b: &DurableStats| a.stream == b.stream && a.durable == b.durable;
        for gone in before.durables.iter().filter(|old| !now.durables.iter().any(|d| same(d, old))) {
            self.durables.remove_series(gone);
        }
        for stage in before.dead_letters.keys().filter(|stage| !now.dead_letters.contains_key(*stage)) {
            self.dead.remove(&[("stage", stage.clone())]);
        }
    }
}

impl StreamMetrics {
    fn update_series(&self, stream: &StreamStats, appends: &mut HashMap<String, u64>, room_seconds: f64) {
        let label: SingleLabel = [("stream", stream.stream.clone())];
        // A stream made anew begins at 1 again; all of it is new then.
        let seen = appends.insert(stream.stream.clone(), stream.last_sequence).unwrap_or(0);
        let fresh =
            if stream.last_sequence < seen { stream.last_sequence } else { stream.last_sequence - seen };
        self.appends.get_or_create(&label).inc_by(fresh);
        self.messages.get_or_create(&label).set(saturating_i64(stream.messages));
        self.bytes.get_or_create(&label).set(saturating_i64(stream.size_bytes));
        self.limit_bytes.get_or_create(&label).set(saturating_i64(stream.limit_bytes.unwrap_or(0)));
        self.fill.get_or_create(&label).set(stream.fill_ratio);
        self.room.get_or_create(&label).set(room_seconds);
    }

    fn remove_series(&self, stream: &str) {
        let label: SingleLabel = [("stream", stream.to_owned())];
        self.appends.remove(&label);
        self.messages.remove(&label);
        self.bytes.remove(&label);
        self.limit_bytes.remove(&label);
        self.fill.remove(&label);
        self.room.remove(&label);
    }
}

impl DurableMetrics {
    fn update_series(&self, durable: &DurableStats) {
        let labels = durable_labels(durable);
        self.pending.get_or_create(&labels).set(saturating_i64(durable.pending));
        self.unacknowledged.get_or_create(&labels).set(saturating_i64(durable.unacknowledged));
        self.unacknowledged_limit.get_or_create(&labels).set(saturating_i64(durable.unacknowledged_limit));
        self.redelivered.get_or_create(&labels).set(saturating_i64(durable.redelivered));
        self.waiting.get_or_create(&labels).set(saturating_i64(durable.waiting_pulls));
        self.oldest.get_or_create(&labels).set(durable.oldest_age_seconds);
    }

    fn remove_series(&self, durable: &DurableStats) {
        let labels = durable_labels(durable);
        self.pending.remove(&labels);
        self.unacknowledged.remove(&labels);
        self.unacknowledged_limit.remove(&labels);
        self.redelivered.remove(&labels);
        self.waiting.remove(&labels);
        self.oldest.remove(&labels);
    }
}

fn durable_labels(durable: &DurableStats) -> LabelPair {
    [("stream", durable.stream.clone()), ("durable", durable.durable.clone())]
}

fn saturating_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

//! Against a real broker, with the rights of the monitor role.

use std::time::Duration;

use async_nats::{HeaderMap, jetstream::AckKind, jetstream::consumer::pull};
use futures::StreamExt;
use nats::{Bus, ReaderStart, Role, dead_letter::LetterMark, testing::TestBroker};
use schemas::{
    ids::JobId,
    subjects::{self, JobPriority},
};
use tokio::{
    task::JoinHandle,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{ShownMetrics, exported};
use crate::{DurableStats, MonitorConfig, MonitorError, MonitorSnapshot};

/// Longest wait for anything; many times what it takes.
const DEADLINE: Duration = Duration::from_secs(30);

/// A running monitor and what stops it.
struct Running {
    metrics: ShownMetrics,
    stop: CancellationToken,
    task: JoinHandle<Result<(), MonitorError>>,
}

impl Running {
    /// Starts one, and returns once it receives messages and has polled.
    async fn start(broker: &TestBroker, config: MonitorConfig) -> Self {
        let (metrics, stop) = (ShownMetrics::new(), CancellationToken::new());
        let config = MonitorConfig { poll_ms: 100, poll_timeout_ms: 1_000, ..config };
        let bus = broker.bus(Role::Monitor).await;
        let document: crate::MetricsDocument = std::sync::Arc::new(|| "# EOF\n".to_owned());
        let task = tokio::spawn(crate::run(bus, config, metrics.clone(), document, stop.clone()));
        let running = Self { metrics, stop, task };
        running.until("the first poll", |snapshot| snapshot.broker_up).await;
        running
    }

    async fn until(&self, what: &str, holds: impl Fn(&MonitorSnapshot) -> bool) -> MonitorSnapshot {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let snapshot = self.metrics.snapshot();
            if holds(&snapshot) {
                return snapshot;
            }
            assert!(Instant::now() < deadline, "{what} did not happen: {snapshot:?}");
            sleep(Duration::from_millis(5)).await;
        }
    }

    async fn stop(self) {
        self.stop.cancel();
        timeout(DEADLINE, self.task).await.unwrap().unwrap().unwrap();
    }
}

async fn publish(bus: &Bus, stream: &str, subject: &str) {
    bus.publish_raw(stream, subject, subject, HeaderMap::new(), b"payload".to_vec()).await.unwrap();
}

fn durable<'a>(snapshot: &'a MonitorSnapshot, name: &str) -> &'a DurableStats {
    snapshot.durables.iter().find(|durable| durable.durable == name).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deliveries_are_not_counted_again() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let monitor = Running::start(&broker, MonitorConfig::default()).await;
    let mut all = admin.subscribe_core(subjects::ALL.into()).await.unwrap();
    for n in 0..3 {
        publish(&admin, subjects::EVENTS, &format!("evt.media.stored.m{n}")).await;
    }
    let reading = nats::reader::ReaderConfig::new(subjects::EVENTS, vec!["evt.>".into()], ReaderStart::All);
    let mut reader = broker.bus(Role::Audit).await.open_reader(reading).await.unwrap();
    for _ in 0..3 {
        timeout(DEADLINE, reader.next()).await.unwrap().unwrap();
    }
    // What was published and delivered before this one is received before it.
    publish(&admin, subjects::EVENTS, "evt.media.ready.m0").await;
    let snapshot =
        monitor.until("the last event", |snapshot| snapshot.events_by_type["media.ready"] == 1).await;
    assert_eq!((snapshot.events_by_type["media.stored"], snapshot.messages_by_class["event"]), (3, 4));

    let mut deliveries = 0;
    loop {
        let message = timeout(DEADLINE, all.next()).await.unwrap().unwrap();
        let is_delivery = message.reply.as_ref().is_some_and(|reply| reply.starts_with("$JS.ACK"));
        match message.subject.as_str() {
            "evt.media.ready.m0" => break,
            subject if subject.starts_with("evt.media.stored.") && is_delivery => deliveries += 1,
            _ => {}
        }
    }
    // To the reader, and to the mirror of the stream.
    assert!(deliveries >= 3, "the same subject is on the bus once more for each delivery: {deliveries}");
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn depth_and_age_of_a_queue_are_those_of_its_unfinished_messages() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let monitor = Running::start(&broker, MonitorConfig::default()).await;
    let name = "transcode-p1";
    let idle = monitor.metrics.snapshot();
    assert_eq!((durable(&idle, name).pending, durable(&idle, name).oldest_age_seconds), (0, 0.0));

    for part in ["v0", "v1"] {
        let subject =
            subjects::job_part_subject("transcode", JobPriority::P1, JobId::from_bytes([1; 16]), part);
        publish(&admin, subjects::JOBS, &subject).await;
    }
    let waiting = monitor
        .until("an ageing queue", |s| {
            durable(s, name).pending == 2 && durable(s, name).oldest_age_seconds >= 0.2
        })
        .await;
    assert_eq!(durable(&waiting, name).unacknowledged, 0);
    assert_eq!(durable(&waiting, "transcode-p0").pending, 0, "the other priorities are not concerned");

    let stream = admin.context().get_stream(subjects::JOBS).await.unwrap();
    let consumer = stream.get_consumer::<pull::Config>(name).await.unwrap();
    let take = async || {
        let mut messages = consumer.fetch().max_messages(1).messages().await.unwrap();
        messages.next().await.unwrap().unwrap()
    };
    take().await.ack_with(AckKind::Nak(None)).await.unwrap();
    monitor.until("the advisory of a refusal", |s| s.advisories_by_kind["consumer_msg_naked"] == 1).await;
    let again = take().await;
    let taken = monitor.until("a retried message", |s| durable(s, name).redelivered == 1).await;
    assert_eq!((durable(&taken, name).pending, durable(&taken, name).unacknowledged), (1, 1));
    assert!(durable(&taken, name).oldest_age_seconds >= 0.2, "taken is not finished");

    again.double_ack().await.unwrap();
    take().await.double_ack().await.unwrap();
    let done = monitor
        .until("an empty queue", |s| durable(s, name).pending + durable(s, name).unacknowledged == 0)
        .await;
    assert_eq!((durable(&done, name).oldest_age_seconds, durable(&done, name).redelivered), (0.0, 0));
    assert_eq!(done.messages_by_class["task"], 2);
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dead_letters_are_counted_by_stage_within_the_bound() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let config = MonitorConfig { dead_stages_max: 3, ..MonitorConfig::default() };
    let monitor = Running::start(&broker, config).await;
    publish(&admin, subjects::DEAD, &subjects::dead_letter_subject("upload", subjects::EVENTS, 1)).await;
    publish(&admin, subjects::DEAD, &subjects::dead_letter_subject("upload", subjects::EVENTS, 2)).await;
    publish(&admin, subjects::DEAD, &subjects::dead_letter_subject("transcode", subjects::JOBS, 1)).await;
    let total = |snapshot: &MonitorSnapshot| snapshot.dead_letters.values().sum::<u64>();
    let found = monitor.until("three letters", |s| total(s) == 3).await;
    let letters: Vec<_> = found.dead_letters.iter().map(|(stage, count)| (stage.as_str(), *count)).collect();
    assert_eq!(letters, [("other", 0), ("transcode", 1), ("upload", 2)]);
    // What somebody has dealt with waits for nobody: the alert about it ends.
    let page = admin.dead_letters(0, 10, |letter| letter.stage == "upload").await.unwrap();
    for mark in [LetterMark::Redriven, LetterMark::Discarded] {
        admin.mark_dead_letter(&page.letters[0], mark).await.unwrap();
    }
    let found = monitor.until("two letters", |s| total(s) == 2).await;
    assert_eq!(found.dead_letters.get("upload"), Some(&1), "{:?}", found.dead_letters);

    for n in 1..=5 {
        publish(&admin, subjects::DEAD, &subjects::dead_letter_subject(&format!("a{}", 9 - n), "X", n)).await;
        monitor.until("one more letter", |s| total(s) == 2 + n).await;
        let shown: Vec<_> = exported(&monitor.metrics)
            .into_iter()
            .filter(|((name, _), _)| name == "streamgate_dead_letter_messages")
            .collect();
        assert_eq!(shown.len(), 3, "{shown:?}");
    }
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_audit_is_behind_by_the_events_it_has_not_recorded() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let monitor = Running::start(&broker, MonitorConfig::default()).await;
    for n in 0..3 {
        publish(&admin, subjects::EVENTS, &format!("evt.media.stored.m{n}")).await;
    }
    monitor.until("a lag", |s| s.audit_lag_events == 3 && s.audit_lag_seconds >= 0.1).await;
    for (audited, lag) in [(2, 1), (3, 0)] {
        let line = format!(r#"{{"source":{{"stream":"EVENTS","sequence":{audited},"id":"i"}}}}"#);
        let record = subjects::audit_subject("media", "stored");
        let id = format!("{audited}");
        admin.publish_raw(subjects::AUDIT, &record, &id, HeaderMap::new(), line.into_bytes()).await.unwrap();
        let found = monitor.until("a shorter lag", |s| s.audit_lag_events == lag).await;
        assert_eq!(found.audit_lag_seconds > 0.0, lag > 0);
    }
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_stream_and_durable_is_shown_and_the_text_is_valid() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let monitor = Running::start(&broker, MonitorConfig::default()).await;
    publish(&admin, subjects::EVENTS, "evt.media.stored.m1").await;
    let found = monitor
        .until("the event in its stream", |s| {
            s.streams.iter().any(|stream| stream.stream == subjects::EVENTS && stream.last_sequence == 1)
        })
        .await;
    let streams: Vec<&str> = found.streams.iter().map(|stream| stream.stream.as_str()).collect();
    for name in ["EVENTS", "JOBS", "AUDIT", "DEAD", "PROGRESS", "KV_media", "KV_secrets"] {
        assert!(streams.contains(&name), "{name} in {streams:?}");
    }
    let durables: Vec<&str> = found.durables.iter().map(|durable| durable.durable.as_str()).collect();
    assert_eq!(
        durables,
        [
            "index",
            "transcode-plan",
            "upload",
            "tasks-p0",
            "tasks-p1",
            "tasks-p2",
            "transcode-p0",
            "transcode-p1",
            "transcode-p2",
        ]
    );
    let series = exported(&monitor.metrics);
    let key = ("streamgate_stream_appends".to_owned(), vec!["stream=EVENTS".to_owned()]);
    assert_eq!(series.get(&key), Some(&1.0));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_and_durables_beyond_the_bound_are_left_out() {
    let broker = TestBroker::start().await;
    let config = MonitorConfig { streams_max: 4, durables_max: 2, ..MonitorConfig::default() };
    let monitor = Running::start(&broker, config).await;
    let found = monitor.metrics.snapshot();
    assert_eq!(found.streams.len(), 4);
    assert!(found.durables.len() <= 2, "{:?}", found.durables);
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_is_away_is_reported_and_counting_goes_on_when_it_is_back() {
    let broker = TestBroker::start().await;
    let monitor = Running::start(&broker, MonitorConfig::default()).await;
    let before = monitor.metrics.snapshot().polled_at_ms;
    broker.kill_and_wait().await;
    let admin = broker.bus(Role::Admin).await;
    let mut n = 0;
    // An event that is published before the monitor is connected again is not received, but it is in the stream.
    while monitor.metrics.snapshot().events_by_type["media.stored"] == 0 {
        n += 1;
        assert!(n < 1_000, "the monitor does not receive again");
        publish(&admin, subjects::EVENTS, &format!("evt.media.stored.m{n}")).await;
        sleep(Duration::from_millis(20)).await;
    }
    let found = monitor
        .until("a new poll", |s| {
            s.polled_at_ms > before
                && s.streams.iter().any(|t| t.stream == subjects::EVENTS && t.last_sequence == n)
        })
        .await;
    assert!(found.broker_up);

    drop(broker);
    let found = monitor.until("a failed poll", |s| !s.broker_up).await;
    assert!(found.polled_at_ms > before, "what was found last is still shown");
    let up = ("streamgate_broker_up".to_owned(), Vec::new());
    assert_eq!(exported(&monitor.metrics).get(&up), Some(&0.0));
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_of_the_audit_log_that_are_no_records_freeze_nothing() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let monitor = Running::start(&broker, MonitorConfig::default()).await;
    publish(&admin, subjects::EVENTS, "evt.media.stored.m1").await;
    publish(&admin, subjects::EVENTS, "evt.media.stored.m2").await;
    // More than are looked at for a record.
    for n in 0..40 {
        publish(&admin, subjects::AUDIT, &format!("audit.media.noise{n}")).await;
    }
    monitor.until("every event waits", |s| s.audit_lag_events == 2).await;
    let record = serde_json::json!({ "source": { "stream": "EVENTS", "sequence": 1, "id": "" } });
    let sent = admin.context().publish("audit.media.stored", record.to_string().into()).await.unwrap();
    sent.await.unwrap();
    monitor.until("one event waits", |s| s.audit_lag_events == 1).await;
    publish(&admin, subjects::AUDIT, "audit.media.noise").await;
    publish(&admin, subjects::EVENTS, "evt.media.stored.m3").await;
    let found = monitor.until("two events wait", |s| s.audit_lag_events == 2).await;
    assert!(found.audit_lag_seconds >= 0.0 && found.broker_up);
    // Of another life of EVENTS nothing counts.
    let record =
        serde_json::json!({ "source": { "stream": "EVENTS", "sequence": 3, "id": "", "epoch": "1" } });
    let sent = admin.context().publish("audit.media.stored", record.to_string().into()).await.unwrap();
    sent.await.unwrap();
    monitor.until("every event waits", |s| s.audit_lag_events == 3).await;
    monitor.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_that_nobody_answers_stops_no_poll() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    // The monitor may not read messages of this stream, and so never learns how old what waits in it is.
    publish(&admin, "KV_media", "$KV.media.m1").await;
    let media = admin.context().get_stream("KV_media").await.unwrap();
    let config = pull::Config { durable_name: Some("foreign".into()), ..pull::Config::default() };
    media.create_consumer(config).await.unwrap();
    let monitor = Running::start(&broker, MonitorConfig::default()).await;
    for n in 1..=2 {
        publish(&admin, subjects::EVENTS, &format!("evt.media.stored.m{n}")).await;
        let found = monitor
            .until("the event in its stream", |s| {
                s.streams.iter().any(|t| t.stream == subjects::EVENTS && t.last_sequence == n)
            })
            .await;
        assert!(found.broker_up && found.audit_lag_events == n);
        assert!(found.durables.iter().any(|durable| durable.durable == "upload"));
    }
    let partial = ("streamgate_polls".to_owned(), vec!["result=partial".to_owned()]);
    assert!(exported(&monitor.metrics)[&partial] >= 2.0);
    monitor.stop().await;
}

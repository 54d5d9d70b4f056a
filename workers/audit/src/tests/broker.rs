//! Appending and verifying on a real broker, with the rights of the audit role.

use std::time::Duration;

use async_nats::jetstream::stream;
use futures::StreamExt;
use nats::{
    Bus, ReaderStart, Role,
    atomic_batch::BatchPublisher,
    metrics::{labels::AuditLogFault, table::AUDIT_FAULTS},
    testing::TestBroker,
    topology::{self, TopologySettings},
};
use schemas::{
    audit::{AuditRange, AuditRecord},
    headers, subjects,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{Publisher, Stored, entry, log, soon};
use crate::{
    AuditConfig, AuditError, AuditFault, AuditHead, AuditLogStatus, ReplayQuery, append, replay_records,
    verify_log,
};

/// A writer at work without the lease, as one that lost it and has not noticed.
struct Writer {
    stop: CancellationToken,
    task: JoinHandle<Result<(), AuditError>>,
}

impl Writer {
    async fn start(broker: &TestBroker, config: AuditConfig) -> Self {
        let (bus, stop) = (broker.bus(Role::Audit).await, CancellationToken::new());
        let held = stop.clone();
        let task = tokio::spawn(async move { append::run_term(&bus, &config, &held).await });
        Self { stop, task }
    }

    async fn stop(self) -> Result<(), AuditError> {
        self.stop.cancel();
        soon("the end of a term", self.task).await.unwrap()
    }

    /// Ends it wherever it is: nothing of it runs after this.
    async fn crash(self) {
        self.task.abort();
        assert!(self.task.await.unwrap_err().is_cancelled());
    }
}

/// The stage in a process of its own.
async fn stage(broker: &TestBroker, stop: &CancellationToken) -> JoinHandle<Result<(), AuditError>> {
    let bus = broker.bus(Role::Audit).await;
    tokio::spawn(crate::run(bus, AuditConfig::default(), stop.clone()))
}

/// Waits until record `n` is stored.
async fn recorded(bus: &Bus, n: u64) {
    let query = ReplayQuery { from: Some(n), follow: true, ..ReplayQuery::default() };
    let mut lines = Box::pin(replay_records(bus, query).await.unwrap());
    assert_eq!(soon("the record", lines.next()).await.unwrap().unwrap().n, n);
}

async fn lines(bus: &Bus) -> Vec<Vec<u8>> {
    let lines = replay_records(bus, ReplayQuery::default()).await.unwrap();
    soon("the end of the replay", lines.map(|line| line.unwrap().line.to_vec()).collect()).await
}

/// Asserts that the log holds each of `events` events, once and in order, and that its chain is whole.
async fn assert_complete(bus: &Bus, events: u64) {
    let all = vec![subjects::EVENTS_ALL.to_owned()];
    let mut reader = bus
        .open_reader(nats::reader::ReaderConfig::new(subjects::EVENTS, all, ReaderStart::All))
        .await
        .unwrap();
    assert_eq!(reader.pending_at_start(), events);
    let lines = lines(bus).await;
    for (n, line) in (1..).zip(&lines) {
        let record: AuditRecord = serde_json::from_slice(line).unwrap();
        let event = soon("the event", reader.next()).await.unwrap();
        let id = event.headers.get_last(headers::ID).unwrap().as_str();
        assert_eq!((record.n, record.source.sequence, record.source.id.as_str()), (n, event.sequence, id));
        assert_eq!((&record.subject, record.owner.as_deref()), (&event.subject, Some("ann")));
    }
    assert_eq!(u64::try_from(lines.len()).unwrap(), events);
    let head = AuditHead::from_line(events, lines.last().unwrap()).unwrap();
    assert_eq!(
        verify_log(bus).await.unwrap(),
        AuditLogStatus::Sound { head, events_missing: 0, notes: Vec::new() }
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_event_is_recorded_once_and_in_order() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    publisher.publish(10).await;
    let stop = CancellationToken::new();
    let stage = stage(&broker, &stop).await;
    publisher.publish(10).await;
    recorded(&bus, publisher.events()).await;
    stop.cancel();
    soon("the end of the stage", stage).await.unwrap().unwrap();
    assert_complete(&bus, publisher.events()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_whose_confirmation_was_never_read_are_not_doubled() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    publisher.publish(3).await;
    let all = vec![subjects::EVENTS_ALL.to_owned()];
    let mut events = bus
        .open_reader(nats::reader::ReaderConfig::new(subjects::EVENTS, all, ReaderStart::All))
        .await
        .unwrap();
    let mut head = AuditHead::empty();
    for _ in 0..3 {
        let line = head.event_line(&events.next().await.unwrap(), 10_000).unwrap();
        head = line.head;
        drop(bus.context().publish(line.subject, line.bytes.into()).await.unwrap());
    }
    let writer = Writer::start(&broker, AuditConfig::default()).await;
    recorded(&bus, publisher.events()).await;
    writer.stop().await.unwrap();
    assert_complete(&bus, publisher.events()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_that_crash_while_they_append_leave_a_whole_log() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    for round in 1..=8 {
        let next = publisher.events() + round % 5 + 1;
        publisher.publish(6).await;
        let writer = Writer::start(&broker, AuditConfig::default()).await;
        recorded(&bus, next).await;
        writer.crash().await;
    }
    let writer = Writer::start(&broker, AuditConfig::default()).await;
    recorded(&bus, publisher.events()).await;
    writer.stop().await.unwrap();
    assert_complete(&bus, publisher.events()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_goes_on_after_the_broker_was_killed() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    let stop = CancellationToken::new();
    let stage = stage(&broker, &stop).await;
    for _ in 0..2 {
        let first = publisher.events() + 1;
        publisher.publish(10).await;
        recorded(&bus, first).await;
        broker.kill_and_wait().await;
        recorded(&bus, publisher.events()).await;
    }
    stop.cancel();
    soon("the end of the stage", stage).await.unwrap().unwrap();
    assert_complete(&bus, publisher.events()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_writers_the_displaced_one_ends_and_writes_nothing() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    let mut one = Writer::start(&broker, AuditConfig::default()).await;
    // Its lines differ from those of the first, as those of another version may: the log shows whose is whose.
    let mut two = Writer::start(&broker, AuditConfig { line_bytes_max: 100, ..AuditConfig::default() }).await;
    let (displaced, left) = soon("a displaced writer", async {
        loop {
            publisher.publish(1).await;
            recorded(&bus, publisher.events()).await;
            tokio::select! {
                biased;
                ended = &mut one.task => return (ended.unwrap(), two),
                ended = &mut two.task => return (ended.unwrap(), one),
                () = tokio::task::yield_now() => {}
            }
        }
    })
    .await;
    assert!(matches!(displaced, Err(AuditError::Fenced { .. })), "{displaced:?}");
    publisher.publish(5).await;
    recorded(&bus, publisher.events()).await;
    left.stop().await.unwrap();
    assert_complete(&bus, publisher.events()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_process_takes_over_from_one_that_crashed() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    let stop = CancellationToken::new();
    let first = stage(&broker, &stop).await;
    publisher.publish(2).await;
    recorded(&bus, publisher.events()).await;
    let second = stage(&broker, &stop).await;
    publisher.publish(2).await;
    recorded(&bus, publisher.events()).await;
    first.abort();
    publisher.publish(2).await;
    recorded(&bus, publisher.events()).await;
    stop.cancel();
    soon("the end of the stage", second).await.unwrap().unwrap();
    assert_complete(&bus, publisher.events()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_other_events_is_not_gone_on_with() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    publisher.publish(1).await;
    let line = AuditHead::empty().event_line(&entry(5, "evt.media.stored.m1", vec![0xC0]), 10_000).unwrap();
    bus.context().publish(line.subject, line.bytes.clone().into()).await.unwrap().await.unwrap();
    let ended = Writer::start(&broker, AuditConfig::default()).await.stop().await;
    assert!(matches!(ended, Err(AuditError::SourceBehind { events_last: 2, audited: 5 })), "{ended:?}");
    assert_eq!(lines(&bus).await, [line.bytes]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_of_events_that_were_made_anew_is_not_gone_on_with() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    publisher.publish(2).await;
    let writer = Writer::start(&broker, AuditConfig::default()).await;
    recorded(&bus, publisher.events()).await;
    let admin = broker.bus(Role::Admin).await;
    admin.context().delete_stream(subjects::EVENTS).await.unwrap();
    topology::apply_topology(admin.context(), &TopologySettings::default()).await.unwrap();
    // More than there was: only its creation time shows that it is another stream.
    publisher.publish(3).await;
    let ended = soon("the end of the term", writer.task).await.unwrap();
    assert!(matches!(ended, Err(AuditError::Bus(nats::BusError::Reset { .. }))), "{ended:?}");
    let ended = Writer::start(&broker, AuditConfig::default()).await.stop().await;
    assert!(matches!(ended, Err(AuditError::SourceReset { .. })), "{ended:?}");
    assert_eq!(lines(&bus).await.len(), 4, "nothing was appended");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn messages_that_are_no_records_stop_nobody() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    let noise = async |bytes: &'static str| {
        bus.context().publish("audit.media.stored", bytes.into()).await.unwrap().await.unwrap();
    };
    noise("in an empty log").await;
    publisher.publish(1).await;
    let stop = CancellationToken::new();
    let stage = stage(&broker, &stop).await;
    recorded(&bus, 4).await;
    noise("behind a writer at work").await;
    noise("{\"n\":6}").await;
    publisher.publish(1).await;
    recorded(&bus, 9).await;
    stop.cancel();
    soon("the end of the stage", stage).await.unwrap().unwrap();
    let AuditLogStatus::Sound { head, events_missing, notes } = verify_log(&bus).await.unwrap() else {
        panic!("{:?}", verify_log(&bus).await.unwrap())
    };
    assert_eq!((head.n, head.source_sequence, events_missing), (9, 4, 0));
    assert!(AUDIT_FAULTS.count(AuditLogFault::Foreign) >= 2);
    let skipped: Vec<_> = notes.iter().map(|(n, note)| (*n, note.skipped)).collect();
    assert_eq!(
        skipped,
        [(2, Some(AuditRange { from: 1, to: 1 })), (7, Some(AuditRange { from: 5, to: 6 })),]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_doubled_once_goes_on_and_is_sound() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    publisher.publish(2).await;
    // As the stage wrote it before: with no life of EVENTS in its records, and all of it twice.
    let mut head = AuditHead::empty();
    for _ in 0..2 {
        head.source_sequence = 0;
        let all = vec![subjects::EVENTS_ALL.to_owned()];
        let reading = nats::reader::ReaderConfig::new(subjects::EVENTS, all, ReaderStart::All);
        let mut events = bus.open_reader(reading).await.unwrap();
        for _ in 0..4 {
            let line = head.event_line(&events.next().await.unwrap(), 10_000).unwrap();
            head = line.head;
            bus.context().publish(line.subject, line.bytes.into()).await.unwrap().await.unwrap();
        }
    }
    assert!(matches!(verify_log(&bus).await.unwrap(), AuditLogStatus::Broken { n: 5, .. }));
    for _ in 0..2 {
        publisher.publish(1).await;
        let writer = Writer::start(&broker, AuditConfig::default()).await;
        recorded(&bus, 5 + publisher.events()).await;
        writer.stop().await.unwrap();
    }
    let AuditLogStatus::Sound { head, events_missing, notes } = verify_log(&bus).await.unwrap() else {
        panic!("{:?}", verify_log(&bus).await.unwrap())
    };
    assert_eq!((head.n, head.source_sequence, events_missing), (13, 8, 0));
    assert_eq!(notes.len(), 1);
    assert_eq!((notes[0].0, notes[0].1.repeated.as_slice()), (9, [AuditRange { from: 5, to: 8 }].as_slice()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_event_that_is_offered_again_is_not_recorded_again() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Audit).await;
    let (config, mut batches) = (AuditConfig::default(), batches(&bus).await);
    let mut head = AuditHead::empty();
    for together in [&[1][..], &[2, 1], &[2], &[2, 3, 3, 4], &[4]] {
        let mut lines = append::AuditLines::new(head, &config);
        for sequence in together {
            lines.push(&entry(*sequence, "evt.media.stored.m1", vec![0xC0])).unwrap();
        }
        head = append::append_lines(&bus, &mut batches, lines).await.unwrap();
    }
    assert_eq!((head.n, head.source_sequence, lines(&bus).await.len()), (4, 4, 4));
    assert!(AUDIT_FAULTS.count(AuditLogFault::Repeated) >= 4);
}

async fn batches(bus: &Bus) -> BatchPublisher {
    BatchPublisher::new(bus, Duration::from_secs(5)).await.unwrap()
}

/// Lines of events behind a head.
fn lines_behind(head: &AuditHead, config: &AuditConfig, count: u64) -> Vec<AuditHead> {
    let mut heads = vec![head.clone()];
    for _ in 0..count {
        let last = heads.last().unwrap();
        let event = entry(last.source_sequence + 1, "evt.media.stored.m1", vec![0xC0]);
        heads.push(last.event_line(&event, config.line_bytes_max).unwrap().head);
    }
    heads
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn of_two_batches_behind_the_same_record_one_is_stored_whole_and_the_other_not_at_all() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Audit).await;
    let config = AuditConfig::default();
    let batch = |first: u64, count: u64| {
        let mut lines = append::AuditLines::new(AuditHead::empty(), &config);
        for sequence in first..first + count {
            lines.push(&entry(sequence, "evt.media.stored.m1", vec![0xC0])).unwrap();
        }
        lines
    };
    let (mut one, mut two) = (batches(&bus).await, batches(&bus).await);
    // Events 1 to 7, and 1 to 5: what differs is how far they go.
    let (first, second) = tokio::join!(
        append::append_lines(&bus, &mut one, batch(1, 7)),
        append::append_lines(&bus, &mut two, batch(1, 5)),
    );
    let (stored, refused) = match (first, second) {
        (Ok(head), Err(refused)) | (Err(refused), Ok(head)) => (head, refused),
        both => panic!("one of them: {both:?}"),
    };
    assert!(matches!(refused, AuditError::Fenced { n: 1 }), "{refused:?}");
    assert_eq!(lines(&bus).await.len() as u64, stored.n);
    assert_eq!(stored, *lines_behind(&AuditHead::empty(), &config, stored.n).last().unwrap());
    // The one that was refused leaves nothing behind, and its publisher goes on.
    let mut next = append::AuditLines::new(stored.clone(), &config);
    for sequence in stored.source_sequence + 1..=stored.source_sequence + 3 {
        next.push(&entry(sequence, "evt.media.stored.m1", vec![0xC0])).unwrap();
    }
    let head = append::append_lines(&bus, &mut two, next).await.unwrap();
    assert_eq!((head.n, lines(&bus).await.len() as u64), (stored.n + 3, stored.n + 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_of_before_that_takes_no_batches_gets_single_records() {
    let broker = TestBroker::start().await;
    let (bus, admin) = (broker.bus(Role::Audit).await, broker.bus(Role::Admin).await);
    let mut stream = admin.context().get_stream(subjects::AUDIT).await.unwrap().cached_info().config.clone();
    stream.allow_atomic_publish = false;
    admin.context().update_stream(stream).await.unwrap();
    let mut publisher = Publisher::new(&broker).await;
    publisher.publish(40).await;
    let stop = CancellationToken::new();
    let stage = stage(&broker, &stop).await;
    recorded(&bus, publisher.events()).await;
    stop.cancel();
    soon("the end of the stage", stage).await.unwrap().unwrap();
    assert_complete(&bus, publisher.events()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn even_operations_can_remove_nothing() {
    let broker = TestBroker::start().await;
    let (bus, mut publisher) = (broker.bus(Role::Audit).await, Publisher::new(&broker).await);
    publisher.publish(1).await;
    let writer = Writer::start(&broker, AuditConfig::default()).await;
    recorded(&bus, publisher.events()).await;
    writer.stop().await.unwrap();
    let admin = broker.bus(Role::Admin).await;
    let audit = admin.context().get_stream(subjects::AUDIT).await.unwrap();
    assert!(audit.delete_message(1).await.is_err());
    assert!(audit.purge().await.is_err());
    assert_complete(&bus, publisher.events()).await;
}

/// A log as somebody may have restored it: stored again without the guards of the topology, and then without `removed`.
async fn restored(admin: &Bus, log: &[Stored], removed: &[u64]) {
    let context = admin.context();
    if context.get_stream(subjects::AUDIT).await.is_ok() {
        context.delete_stream(subjects::AUDIT).await.unwrap();
    }
    let config = stream::Config {
        name: subjects::AUDIT.into(),
        subjects: vec![subjects::AUDIT_ALL.into()],
        ..stream::Config::default()
    };
    let deadline = tokio::time::Instant::now() + std::time::Duration::from_secs(20);
    let audit = loop {
        match context.create_stream(config.clone()).await {
            Ok(audit) => break audit,
            // A busy server may still be at the files of the stream of that name that it answered to have deleted.
            Err(error) => assert!(tokio::time::Instant::now() < deadline, "{error}"),
        }
    };
    for stored in log {
        let sent = context.publish(stored.subject.clone(), stored.line.clone().into()).await.unwrap();
        sent.await.unwrap();
    }
    for n in removed {
        audit.delete_message(*n).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_that_was_tampered_with_is_broken_where_it_was() {
    let broker = TestBroker::start_empty().await;
    let (bus, admin) = (broker.bus(Role::Audit).await, broker.bus(Role::Admin).await);
    let whole = log(6);
    restored(&admin, &whole, &[]).await;
    let head = AuditHead::from_line(6, &whole[5].line).unwrap();
    assert_eq!(
        verify_log(&bus).await.unwrap(),
        AuditLogStatus::Sound { head, events_missing: 0, notes: Vec::new() }
    );

    for (removed, bad, fault) in [
        (vec![1, 2], 3, AuditFault::Missing { from: 1, to: 2 }),
        (vec![4], 5, AuditFault::Missing { from: 4, to: 4 }),
    ] {
        restored(&admin, &whole, &removed).await;
        assert_eq!(verify_log(&bus).await.unwrap(), AuditLogStatus::Broken { n: bad, fault });
    }

    let mut closed_up = whole.clone();
    closed_up.remove(2);
    restored(&admin, &closed_up, &[]).await;
    assert_eq!(
        verify_log(&bus).await.unwrap(),
        AuditLogStatus::Broken { n: 3, fault: AuditFault::Number { found: 4 } }
    );

    let mut changed = whole.clone();
    let text = String::from_utf8(changed[2].line.clone()).unwrap();
    changed[2].line = text.replace("\"entity_id\":\"m3\"", "\"entity_id\":\"m9\"").into_bytes();
    assert_ne!(changed, whole);
    restored(&admin, &changed, &[]).await;
    let expected = AuditHead::from_line(3, &changed[2].line).unwrap().hash;
    let found = AuditHead::from_line(3, &whole[2].line).unwrap().hash;
    let fault = AuditFault::Chain { expected, found };
    assert_eq!(verify_log(&bus).await.unwrap(), AuditLogStatus::Broken { n: 4, fault });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn events_that_left_before_they_were_recorded_are_counted() {
    let broker = TestBroker::start_empty().await;
    let (bus, admin) = (broker.bus(Role::Audit).await, broker.bus(Role::Admin).await);
    let mut head = AuditHead::empty();
    let mut gaps = Vec::new();
    for sequence in [2, 3, 6] {
        let line = head.event_line(&entry(sequence, "evt.media.stored.m1", vec![0xC0]), 10_000).unwrap();
        head = line.head;
        gaps.push(Stored { subject: line.subject, line: line.bytes });
    }
    restored(&admin, &gaps, &[]).await;
    assert_eq!(
        verify_log(&bus).await.unwrap(),
        AuditLogStatus::Sound { head, events_missing: 3, notes: Vec::new() }
    );
}

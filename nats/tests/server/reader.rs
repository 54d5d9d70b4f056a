//! Readers under the shipped permissions: frozen brokers, consumers that vanish, servers that are behind, streams made anew.

use std::time::Duration;

use futures::StreamExt;
use nats::{
    Bus, BusError, ReaderStart, Role,
    reader::{self, StreamEntry, StreamPosition, StreamReader},
    testing::TestBroker,
    topology::{self, TopologySettings},
};
use schemas::subjects;
use tokio::time::timeout;

const HEARTBEAT: Duration = Duration::from_millis(200);

fn events(start: ReaderStart) -> reader::ReaderConfig {
    let all = vec![subjects::EVENTS_ALL.to_owned()];
    reader::ReaderConfig { heartbeat: HEARTBEAT, ..reader::ReaderConfig::new(subjects::EVENTS, all, start) }
}

async fn publish(bus: &Bus, subject: &str) -> u64 {
    let sent = bus.context().publish(subject.to_owned(), "x".into()).await.unwrap();
    sent.await.unwrap().sequence
}

async fn event(bus: &Bus) -> u64 {
    publish(bus, "evt.upload.expired.U").await
}

async fn next(reader: &mut StreamReader) -> Result<StreamEntry, BusError> {
    timeout(crate::WAIT_MAX, reader.next()).await.unwrap()
}

async fn is_following(reader: &StreamReader, wanted: bool) {
    let mut following = reader.status();
    let turned = async {
        while following.is_following() != wanted {
            following.wait_for_change().await;
        }
    };
    timeout(crate::WAIT_MAX, turned).await.unwrap_or_else(|_| panic!("following never became {wanted}"));
}

/// Deletes every ephemeral consumer of a stream, as its server does when it forgets them.
async fn delete_ephemerals(admin: &Bus, stream: &str) {
    let stream = admin.context().get_stream(stream).await.unwrap();
    let mut consumers = stream.consumers();
    let mut deleted = 0;
    while let Some(consumer) = consumers.next().await {
        let consumer = consumer.unwrap();
        if consumer.config.durable_name.is_none() {
            stream.delete_consumer(&consumer.name).await.unwrap();
            deleted += 1;
        }
    }
    assert!(deleted > 0, "there was a reader");
}

#[tokio::test]
async fn a_reader_of_any_role_goes_on_after_its_consumer_was_deleted() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    for (role, stream, subject) in [
        (Role::Ingress, "EVENTS", "evt.upload.expired.U"),
        (Role::Ingress, "AUDIT", "audit.upload.expired"),
        (Role::Ingress, "PROGRESS", "progress.J.v0"),
        (Role::Audit, "EVENTS", "evt.upload.expired.U"),
        (Role::Audit, "AUDIT", "audit.upload.expired"),
        (Role::Monitor, "EVENTS", "evt.upload.expired.U"),
        (Role::Index, "KV_media", "$KV.media.M"),
        (Role::Index, "KV_jobs", "$KV.jobs.J"),
        (Role::Keeper, "KV_uploads", "$KV.uploads.U"),
        (Role::Keeper, "KV_grants", "$KV.grants.P"),
    ] {
        publish(&admin, subject).await;
        let bus = broker.bus(role).await;
        // Nothing was read when the consumer goes: what begins anew must not begin with the oldest.
        let config = reader::ReaderConfig {
            heartbeat: HEARTBEAT,
            ..reader::ReaderConfig::new(stream, vec![], ReaderStart::New)
        };
        let mut reader = bus.follow_stream("it", config);
        is_following(&reader, true).await;
        for _ in 0..2 {
            delete_ephemerals(&admin, stream).await;
            let sequence = publish(&admin, subject).await;
            assert_eq!(next(&mut reader).await.unwrap().sequence, sequence, "{role:?} {stream}");
        }
    }
}

#[tokio::test]
async fn a_frozen_broker_is_said_and_recovered_from() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let config = nats::BusConfig { request_timeout_ms: 500, ..broker.config(Role::Ingress) };
    let bus = Bus::connect(&config).await.unwrap();
    event(&admin).await;
    let mut reader = bus.follow_stream("events", events(ReaderStart::New));
    is_following(&reader, true).await;
    for _ in 0..2 {
        broker.freeze();
        is_following(&reader, false).await;
        assert!(!bus.reader_statuses()[0].is_following());
        broker.thaw();
        let sequence = event(&admin).await;
        assert_eq!(next(&mut reader).await.unwrap().sequence, sequence);
        is_following(&reader, true).await;
    }
}

#[tokio::test]
async fn what_a_server_offers_again_is_not_read_again() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    for _ in 0..3 {
        event(&admin).await;
    }
    let bus = broker.bus(Role::Ingress).await;
    for (name, start) in [("by sequence", ReaderStart::Sequence(4)), ("new", ReaderStart::New)] {
        let mut requests = admin.client().subscribe("$JS.API.CONSUMER.MSG.NEXT.EVENTS.*").await.unwrap();
        admin.client().flush().await.unwrap();
        let last = admin.context().get_stream("EVENTS").await.unwrap().cached_info().state.last_sequence;
        let mut reader = bus.follow_stream(name, events(start));
        is_following(&reader, true).await;
        let inbox = requests.next().await.unwrap().reply.unwrap();
        // As a server whose stream is not loaded yet, and begins with the first message.
        for n in 1..=last {
            let reply = format!("$JS.ACK.EVENTS.c.1.{n}.{n}.1700000000000000000.0");
            admin.client().publish_with_reply(inbox.clone(), reply, "x".into()).await.unwrap();
        }
        admin.client().flush().await.unwrap();
        let sequence = event(&admin).await;
        assert_eq!(next(&mut reader).await.unwrap().sequence, sequence, "{name}");
    }
}

#[tokio::test]
async fn a_stream_that_ends_before_the_position_is_waited_for() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    event(&admin).await;
    let bus = broker.bus(Role::Audit).await;
    let created_at_ms = bus
        .open_reader(events(ReaderStart::All))
        .await
        .unwrap()
        .wait_until_open()
        .await
        .unwrap()
        .created_at_ms;
    let behind = ReaderStart::Behind(StreamPosition { created_at_ms, sequence: 3 });
    let refused = bus.open_reader(events(behind)).await.unwrap_err();
    assert!(matches!(refused, BusError::Unavailable(_)), "{refused}");
    let mut reader = bus.follow_stream("events", events(behind));
    event(&admin).await;
    event(&admin).await;
    assert!(!reader.status().is_following());
    let sequence = event(&admin).await;
    assert_eq!((sequence, next(&mut reader).await.unwrap().sequence), (4, 4));
}

#[tokio::test]
async fn a_stream_made_anew_is_a_reset() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    event(&admin).await;
    let bus = broker.bus(Role::Ingress).await;
    let mut reader = bus.follow_stream("events", events(ReaderStart::All));
    assert_eq!(next(&mut reader).await.unwrap().sequence, 1);
    let created_at_ms = reader.wait_until_open().await.unwrap().created_at_ms;
    admin.context().delete_stream("EVENTS").await.unwrap();
    topology::apply_topology(admin.context(), &TopologySettings::default()).await.unwrap();
    event(&admin).await;
    for _ in 0..2 {
        let reset = next(&mut reader).await.unwrap_err();
        assert!(matches!(&reset, BusError::Reset { stream } if stream == "EVENTS"), "{reset}");
    }
    assert!(!reader.status().is_following());
    let behind = ReaderStart::Behind(StreamPosition { created_at_ms, sequence: 1 });
    assert!(matches!(bus.open_reader(events(behind)).await, Err(BusError::Reset { .. })));
    let mut anew = bus.follow_stream("events", events(ReaderStart::All));
    assert_eq!(next(&mut anew).await.unwrap().sequence, 1);
}

#[tokio::test]
async fn a_follower_begins_once_there_is_a_stream_and_is_known_until_it_is_dropped() {
    let broker = TestBroker::start_empty().await;
    let (admin, bus) = (broker.bus(Role::Admin).await, broker.bus(Role::Ingress).await);
    let mut reader = bus.follow_stream("events", events(ReaderStart::All));
    let hint =
        bus.follow_stream_hints("progress", reader::ReaderConfig::new("PROGRESS", vec![], ReaderStart::All));
    let names: Vec<String> = bus.reader_statuses().iter().map(|f| f.name().to_owned()).collect();
    assert_eq!(
        (names.as_slice(), bus.reader_statuses()[0].is_following()),
        (["events".to_owned()].as_slice(), false)
    );
    let absent = bus.open_reader(events(ReaderStart::All)).await.unwrap_err();
    assert!(matches!(absent, BusError::Unavailable(_)), "{absent}");
    topology::apply_topology(admin.context(), &TopologySettings::default()).await.unwrap();
    event(&admin).await;
    assert_eq!(next(&mut reader).await.unwrap().sequence, 1);
    assert!(reader.wait_until_open().await.unwrap().created_at_ms > 0);
    is_following(&hint, true).await;
    assert!(bus.reader_statuses()[0].following_since().is_some());
    drop((reader, hint));
    crate::until("it is forgotten", || async { bus.reader_statuses().is_empty() }).await;
}

#[tokio::test]
async fn a_role_that_may_not_pull_does_not_follow() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    event(&admin).await;
    // It may ask for the state of every stream, and reads only some.
    let bus = broker.bus(Role::Monitor).await;
    let config = reader::ReaderConfig {
        heartbeat: HEARTBEAT,
        ..reader::ReaderConfig::new("AUDIT", vec![], ReaderStart::All)
    };
    let reader = bus.follow_stream("audit", config);
    let mut following = reader.status();
    assert!(
        timeout(HEARTBEAT * 10, following.wait_for_change()).await.is_err(),
        "it never says that it follows"
    );
}

//! Events that a crash left in their record are sent once, however late somebody repairs it.

use std::{collections::HashSet, time::Duration};

use bytes::Bytes;
use futures::StreamExt;
use nats::{Bus, Outbox, ReaderStart, Role, VersionedRecord, reader, testing::TestBroker};
use schemas::{
    KvRecord as _,
    document::{MediaChanged, MediaDocumentRecord, SegmentEncryption},
    envelope::RecordEnvelope,
    ids::MediaId,
    subjects,
};

const MEDIA: MediaId = MediaId::from_bytes([7; 16]);
const WINDOW: Duration = Duration::from_secs(1);

/// A broker that forgets message ids after a second.
async fn forgetful() -> (TestBroker, Bus) {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let mut stream = admin.context().get_stream(subjects::EVENTS).await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    config.duplicate_window = WINDOW;
    admin.context().update_stream(config).await.unwrap();
    (broker, admin)
}

fn document(title: &str) -> MediaDocumentRecord {
    MediaDocumentRecord { title: title.into(), ..MediaDocumentRecord::new(MEDIA, "ann".into(), 1) }
}

fn changed(title: &str) -> MediaChanged {
    MediaChanged::new(&document(title), "ann", &[])
}

/// Titles and ids of all that was published about the medium, in order.
async fn published(admin: &Bus) -> Vec<(String, String)> {
    let config =
        reader::ReaderConfig::new(subjects::EVENTS, vec![subjects::EVENTS_ALL.into()], ReaderStart::All);
    let mut events = admin.open_reader(config).await.unwrap();
    let (mut found, mut left) = (Vec::new(), events.pending_at_start());
    while left > 0 {
        let entry = events.next().await.unwrap();
        left = entry.pending;
        if let Ok(event) = nats::decode_message::<MediaChanged>(&entry.subject, &entry.payload) {
            let id = entry.headers.get("Nats-Msg-Id").unwrap().as_str().to_owned();
            found.push((event.title, id));
        }
    }
    let ids: HashSet<&String> = found.iter().map(|(_, id)| id).collect();
    assert_eq!(ids.len(), found.len(), "ids are unique: {found:?}");
    found
}

fn titles(found: &[(String, String)]) -> Vec<&str> {
    found.iter().map(|(title, _)| title.as_str()).collect()
}

/// Commits a change with its events and answers the record as it lay there before they were cleared.
async fn commit(bus: &Bus, admin: &Bus, outbox: Outbox) -> RecordEnvelope {
    let subject = subjects::kv_subject(MediaDocumentRecord::BUCKET, &MEDIA.to_string());
    let mut written = admin.subscribe_core(subject).await.unwrap();
    admin.client().flush().await.unwrap();
    bus.commit_record(&mut VersionedRecord::new(document("first")), outbox).await.unwrap();
    let first = written.next().await.unwrap();
    nats::decode_message("envelope", &first.payload).unwrap()
}

/// Puts the record back as a crash leaves it.
async fn crash(admin: &Bus, envelope: &RecordEnvelope) {
    let payload: Bytes = nats::encode_message("envelope", envelope).unwrap().into();
    let subject = subjects::kv_subject(MediaDocumentRecord::BUCKET, &MEDIA.to_string());
    admin.context().publish(subject, payload).await.unwrap().await.unwrap();
}

/// Waits until the broker has forgotten the ids of all that was published before.
async fn forgotten(admin: &Bus) {
    let publish = async || {
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("Nats-Msg-Id", "probe");
        let subject = "evt.upload.expired.probe";
        let ack = admin.context().publish_with_headers(subject, headers, Bytes::new()).await.unwrap();
        ack.await.unwrap().duplicate
    };
    assert!(!publish().await);
    crate::until("the window has passed", || async { !publish().await }).await;
}

#[tokio::test]
async fn a_record_repaired_after_the_window_publishes_nothing_twice() {
    let (broker, admin) = forgetful().await;
    let ingress = broker.bus(Role::Ingress).await;
    let envelope =
        commit(&ingress, &admin, Outbox::new().with_event(&changed("a")).with_event(&changed("b"))).await;
    assert_eq!(envelope.unsent.len(), 2);
    // Others publish to the subject behind them.
    ingress.publish_event(&changed("foreign"), "test").await.unwrap();
    crash(&admin, &envelope).await;
    forgotten(&admin).await;

    let keeper = broker.bus(Role::Keeper).await;
    assert!(keeper.sweep_record(MediaDocumentRecord::BUCKET, &MEDIA.to_string()).await.unwrap());
    assert_eq!(titles(&published(&admin).await), ["a", "b", "foreign"]);
    assert!(
        !keeper.sweep_record(MediaDocumentRecord::BUCKET, &MEDIA.to_string()).await.unwrap(),
        "nothing is left"
    );
}

#[tokio::test]
async fn only_what_is_missing_is_sent_and_in_order() {
    let (broker, admin) = forgetful().await;
    let ingress = broker.bus(Role::Ingress).await;
    let outbox = Outbox::new().with_event(&changed("a")).with_event(&changed("b")).with_event(&changed("c"));
    // The crash came after the first of three.
    let mut envelope = commit(&ingress, &admin, outbox).await;
    for (event, name) in envelope.unsent.iter_mut().zip(["a", "lost b", "lost c"]) {
        if name != "a" {
            event.id = name.into();
        }
    }
    crash(&admin, &envelope).await;
    forgotten(&admin).await;
    let keeper = broker.bus(Role::Keeper).await;
    assert!(keeper.sweep_record(MediaDocumentRecord::BUCKET, &MEDIA.to_string()).await.unwrap());
    let found = published(&admin).await;
    assert_eq!(titles(&found), ["a", "b", "c", "b", "c"]);
    let ids: Vec<&str> = found.iter().skip(3).map(|(_, id)| id.as_str()).collect();
    assert_eq!(ids, ["lost b", "lost c"], "in their order");
}

#[tokio::test]
async fn the_next_writer_of_a_record_sends_only_what_is_missing() {
    let (broker, admin) = forgetful().await;
    let ingress = broker.bus(Role::Ingress).await;
    let envelope = commit(&ingress, &admin, Outbox::new().with_event(&changed("a"))).await;
    crash(&admin, &envelope).await;
    forgotten(&admin).await;
    let key = MEDIA.to_string();
    let change = |found: Option<&MediaDocumentRecord>| {
        let next = MediaDocumentRecord { title: "second".into(), ..found.unwrap().clone() };
        Some((next, Outbox::new().with_event(&changed("z"))))
    };
    let held = ingress.change_record::<MediaDocumentRecord>(&key, change).await.unwrap().unwrap();
    assert_eq!(titles(&published(&admin).await), ["a", "z"]);
    let raw = admin.read_value(MediaDocumentRecord::BUCKET, &key).await.unwrap().unwrap();
    assert_eq!(raw.revision, held.revision());
    let stored: RecordEnvelope = nats::decode_message("envelope", &raw.value.unwrap()).unwrap();
    assert_eq!(stored.unsent, [], "both are cleared");
}

#[tokio::test]
async fn several_repair_one_record_at_once() {
    let (broker, admin) = forgetful().await;
    let ingress = broker.bus(Role::Ingress).await;
    let mut envelope = commit(&ingress, &admin, Outbox::new().with_event(&changed("a"))).await;
    envelope.unsent.iter_mut().for_each(|event| event.id = "lost".into());
    crash(&admin, &envelope).await;
    let keepers = [broker.bus(Role::Keeper).await, broker.bus(Role::Keeper).await, ingress];
    let key = MEDIA.to_string();
    let swept = keepers.iter().map(|bus| bus.sweep_record(MediaDocumentRecord::BUCKET, &key));
    let swept = futures::future::try_join_all(swept).await.unwrap();
    assert!(swept.contains(&true), "who loses the race is no error: {swept:?}");
    assert_eq!(titles(&published(&admin).await), ["a", "a"]);
}

#[tokio::test]
async fn a_record_that_is_made_anew_names_its_events_anew() {
    let (broker, admin) = forgetful().await;
    let ingress = broker.bus(Role::Ingress).await;
    commit(&ingress, &admin, Outbox::new().with_event(&changed("a"))).await;
    // Expired, as the broker does it.
    let stream =
        admin.context().get_stream(subjects::kv_stream_name(MediaDocumentRecord::BUCKET)).await.unwrap();
    stream.purge().await.unwrap();
    commit(&ingress, &admin, Outbox::new().with_event(&changed("a"))).await;
    assert_eq!(titles(&published(&admin).await), ["a", "a"]);
}

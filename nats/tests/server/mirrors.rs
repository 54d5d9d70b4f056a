//! What programs of the operator may do in their account, and that nothing of it reaches what is ours.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::consumer::pull;
use nats::{
    Bus, ReaderStart, Role,
    reader::ReaderConfig,
    testing::TestBroker,
    topology::{self, TopologySettings},
};
use serde_json::{Value, json};

/// The streams that have a mirror, with a subject of each.
const MIRRORED: [(&str, &str); 4] = [
    ("EVENTS", "evt.media.stored.M"),
    ("AUDIT", "audit.media.stored"),
    ("VIEWS", "view.3.opened.M"),
    ("PROGRESS", "progress.J.v0"),
];

/// Consumers of one mirror in `topology.toml`.
const CONSUMERS_MAX: usize = 64;
/// The server's code for one consumer too many.
const TOO_MANY_CONSUMERS: u64 = 10026;

async fn publish(bus: &Bus, subject: &str) {
    bus.context().publish(subject.to_owned(), "x".into()).await.unwrap().await.unwrap();
}

/// A request for a consumer as clients send it: an empty action creates or updates.
fn consumer_request(stream: &str, more: &Value) -> String {
    let mut config = json!({ "ack_policy": "none", "deliver_policy": "all", "replay_policy": "instant" });
    for (key, value) in more.as_object().unwrap() {
        config[key] = value.clone();
    }
    json!({ "stream_name": stream, "config": config, "action": "" }).to_string()
}

async fn ask(bus: &Bus, subject: &str, body: String) -> Value {
    let answer = bus.client().request(subject.to_owned(), body.into()).await.unwrap();
    serde_json::from_slice(&answer.payload).unwrap()
}

async fn create(bus: &Bus, stream: &str, more: Value) -> Value {
    ask(bus, &format!("reader.API.CONSUMER.CREATE.{stream}"), consumer_request(stream, &more)).await
}

/// All that is ours: the last sequence and the consumers of every stream, and every durable as it is.
async fn what_is_ours(admin: &Bus) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let names = ask(admin, "$JS.API.STREAM.NAMES", String::new()).await;
    for name in names["streams"].as_array().unwrap() {
        let name = name.as_str().unwrap();
        let info = ask(admin, &format!("$JS.API.STREAM.INFO.{name}"), String::new()).await;
        found.insert(name.to_owned(), format!("{} {}", info["state"]["last_seq"], info["state"]["messages"]));
        let consumers = ask(admin, &format!("$JS.API.CONSUMER.LIST.{name}"), String::new()).await;
        for consumer in consumers["consumers"].as_array().unwrap() {
            let (config, waiting) = (&consumer["config"], &consumer["num_ack_pending"]);
            found.insert(format!("{name} {}", consumer["name"]), format!("{config} {waiting}"));
        }
    }
    found
}

#[tokio::test]
async fn a_reader_reads_four_streams_with_several_filters() {
    let broker = TestBroker::start().await;
    let (admin, reader) = (broker.bus(Role::Admin).await, broker.bus(Role::Reader).await);
    for (stream, subject) in MIRRORED {
        publish(&admin, subject).await;
        let stored = admin.context().get_stream(stream).await.unwrap().cached_info().state.last_sequence;
        let (class, _) = subject.split_once('.').unwrap();
        let filters = vec![format!("{class}.nothing.>"), subject.to_owned()];
        let config = ReaderConfig::new(stream, filters, ReaderStart::All);
        let mut entries = reader.open_reader(config).await.unwrap();
        let entry = tokio::time::timeout(crate::WAIT_MAX, entries.next()).await.unwrap().unwrap();
        assert_eq!((entry.subject.as_str(), entry.sequence), (subject, stored), "as in the stream itself");
    }
}

/// Where answers and messages may be sent to that a reader asks for: subjects of ours, of the API, of others.
const ELSEWHERE: [&str; 16] = [
    "job.transcode.p0.J.v0",
    "evt.media.removed.M",
    "$KV.media.M",
    "audit.media.stored",
    "_INBOX_ingress.x",
    "media.API.CONSUMER.CREATE.EVENTS",
    "media.API.CONSUMER.CREATE.EVENTS.index",
    "media.API.CONSUMER.CREATE.EVENTS.index.evt.nothing.>",
    "mirrors.API.STREAM.DELETE.EVENTS",
    "$JS.API.STREAM.DELETE.EVENTS",
    "$JS.API.CONSUMER.DELETE.EVENTS.index",
    "$JS.API.STREAM.PURGE.PROGRESS",
    "reader.API.STREAM.DELETE.EVENTS",
    "reader.API.CONSUMER.CREATE.EVENTS",
    "mirrored.EVENTS.x",
    "$JS.FC.EVENTS.x",
];

/// Asks for all that is sent to a subject, by answers and by consumers.
async fn send_elsewhere(reader: &Bus, reply: &'static str, [name, empty]: [&str; 2]) {
    let request = consumer_request("EVENTS", &json!({ "name": "index", "filter_subject": "evt.nothing.>" }));
    for (subject, body) in [
        ("reader.API.CONSUMER.CREATE.EVENTS".to_owned(), request.clone()),
        ("reader.API.STREAM.INFO.EVENTS".to_owned(), String::new()),
        (format!("reader.API.CONSUMER.MSG.NEXT.EVENTS.{name}"), "10".to_owned()),
        // What finds nothing is answered with an empty message, which is a request where one may delete.
        (
            format!("reader.API.CONSUMER.MSG.NEXT.EVENTS.{empty}"),
            json!({ "batch": 1, "no_wait": true }).to_string(),
        ),
    ] {
        reader.client().publish_with_reply(subject, reply, body.into()).await.unwrap();
    }
    for more in [
        json!({ "headers_only": true }),
        json!({ "idle_heartbeat": 100_000_000_u64, "deliver_policy": "new" }),
    ] {
        let mut push = json!({ "deliver_subject": reply, "inactive_threshold": 1_000_000_000_u64 });
        push.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let answer = create(reader, "EVENTS", push).await;
        if reply.ends_with('>') {
            assert_eq!(answer["error"]["err_code"], 10079, "one with wildcards: {answer}");
        } else {
            // The server makes all others. What they come to is below.
            assert_eq!(answer["config"]["deliver_subject"], json!(reply), "{answer}");
        }
    }
}

#[tokio::test]
async fn nothing_that_a_reader_asks_changes_what_is_ours() {
    let broker = TestBroker::start().await;
    let (admin, reader) = (broker.bus(Role::Admin).await, broker.bus(Role::Reader).await);
    publish(&admin, "evt.media.stored.M").await;
    let made = create(&reader, "EVENTS", json!({})).await;
    let name = made["name"].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    let made = create(&reader, "EVENTS", json!({ "deliver_policy": "new" })).await;
    let empty = made["name"].as_str().unwrap().to_owned();
    let before = what_is_ours(&admin).await;
    // Durables: neither made, nor changed by a request that names one.
    for more in [json!({ "durable_name": "mine" }), json!({ "durable_name": "index", "name": "index" })] {
        let refused = create(&reader, "EVENTS", more).await;
        assert_eq!(refused["error"]["err_code"], 10020, "{refused}");
    }
    let named =
        create(&reader, "EVENTS", json!({ "name": "index", "filter_subject": "evt.nothing.>" })).await;
    assert_eq!(named["config"]["name"], "index", "one of its own: {named}");
    let mut strays = admin.subscribe_core("_INBOX_ingress.>".into()).await.unwrap();
    admin.context().query_account().await.unwrap();
    for reply in ELSEWHERE {
        send_elsewhere(&reader, reply, [&name, &empty]).await;
    }
    // The server takes the commands of a connection in order. While this one waits for its end, heartbeats come a few times.
    let waiting = json!({ "batch": 1, "expires": 500_000_000_u64 }).to_string();
    let next = format!("reader.API.CONSUMER.MSG.NEXT.EVENTS.{empty}");
    reader.client().request(next, waiting.into()).await.unwrap();
    assert_eq!(what_is_ours(&admin).await, before);
    let pushed = ask(&admin, "mirrors.API.CONSUMER.LIST.EVENTS", json!({ "offset": 0 }).to_string()).await;
    for consumer in pushed["consumers"].as_array().unwrap() {
        // In MIRRORS nobody subscribes to anything but what it imports by a whole name, so that nothing is sent: neither to the API of
        // that account nor to what stands in `permissions.conf` with a wildcard. What goes to the one that is left is a message and no
        // request: a server that is strict refuses it, and `before` would show a consumer more.
        let (to, sent) = (&consumer["config"]["deliver_subject"], &consumer["delivered"]["consumer_seq"]);
        let is_imported = to == "media.API.CONSUMER.CREATE.EVENTS";
        assert!(to.is_null() || is_imported || *sent == 0, "{consumer}");
    }
    // Nor is a mirror, or what another program made there, gone.
    for (subject, what) in [
        ("reader.API.STREAM.INFO.EVENTS".to_owned(), "the mirror"),
        (format!("reader.API.CONSUMER.INFO.EVENTS.{name}"), "a consumer"),
    ] {
        let info = ask(&reader, &subject, String::new()).await;
        assert!(info["error"].is_null(), "{what} is gone: {info}");
    }
    let stray = tokio::time::timeout(Duration::from_millis(1), futures::StreamExt::next(&mut strays)).await;
    assert!(stray.is_err(), "{stray:?}");
    let index =
        admin.context().get_consumer_from_stream::<pull::Config, _, _>("index", "EVENTS").await.unwrap();
    assert_eq!(index.cached_info().config.durable_name.as_deref(), Some("index"));
}

#[tokio::test]
async fn a_flood_of_consumers_and_connections_ends_at_its_limit_and_hurts_no_role() {
    let broker = TestBroker::start().await;
    let reader = broker.bus(Role::Reader).await;
    for (stream, _) in MIRRORED {
        for count in 0..CONSUMERS_MAX {
            let made = create(&reader, stream, json!({})).await;
            assert!(made["error"].is_null(), "{stream} {count}: {made}");
            // Nobody can keep one that is not used.
            assert_eq!(made["config"]["inactive_threshold"], 300_000_000_000_u64);
        }
        let refused = create(&reader, stream, json!({})).await;
        assert_eq!(refused["error"]["err_code"], TOO_MANY_CONSUMERS, "{refused}");
    }
    let refused = create(&reader, "EVENTS", json!({ "inactive_threshold": 3_600_000_000_000_u64 })).await;
    assert_eq!(refused["error"]["code"], 400, "{refused}");
    let mut connections = vec![reader];
    let refused = loop {
        match Bus::connect(&broker.config(Role::Reader)).await {
            Ok(bus) => connections.push(bus),
            Err(error) => break error,
        }
        assert!(connections.len() <= 64, "there is an end");
    };
    assert!(!refused.to_string().is_empty());
    // Every role still connects, and reads and writes.
    for role in [Role::Ingress, Role::Audit, Role::Keeper] {
        let bus = broker.bus(role).await;
        topology::verify_topology(bus.context(), role).await.unwrap();
        let mut events =
            bus.open_reader(ReaderConfig::new("EVENTS", vec![], ReaderStart::New)).await.unwrap();
        let subject = format!("evt.media.stored.{}", role.name());
        publish(&broker.bus(Role::Admin).await, &subject).await;
        let entry = tokio::time::timeout(crate::WAIT_MAX, events.next()).await.unwrap().unwrap();
        assert_eq!(entry.subject, subject);
    }
}

#[tokio::test]
async fn a_mirror_that_can_not_be_changed_is_made_again() {
    let settings = TopologySettings::default();
    let broker = TestBroker::start_with(&settings).await;
    let (admin, reader) = (broker.bus(Role::Admin).await, broker.bus(Role::Reader).await);
    for _ in 0..3 {
        publish(&admin, "audit.media.stored").await;
    }
    let copied = async || {
        let stream = reader.context().get_stream("AUDIT").await.unwrap();
        stream.cached_info().state.messages
    };
    crate::until("the mirror is filled", || async { copied().await == 3 }).await;
    // Another stream of the same name, which begins again.
    let mut config = admin.context().get_stream("AUDIT").await.unwrap().cached_info().config.clone();
    config.metadata.clear();
    admin.context().delete_stream("AUDIT").await.unwrap();
    admin.context().create_stream(config).await.unwrap();
    publish(&admin, "audit.media.removed").await;
    let found = topology::diff_topology(admin.context(), &settings).await.unwrap();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(found, ["mirror AUDIT: last sequence is 3, should be at most 1"]);
    topology::apply_topology(admin.context(), &settings).await.unwrap();
    crate::until("the mirror is filled anew", || async { copied().await == 1 }).await;
    assert_eq!(topology::diff_topology(admin.context(), &settings).await.unwrap(), []);
}

#[tokio::test]
async fn what_the_server_sends_to_by_itself_ends_when_the_topology_is_applied() {
    let settings = TopologySettings::default();
    let broker = TestBroker::start_with(&settings).await;
    let (admin, reader) = (broker.bus(Role::Admin).await, broker.bus(Role::Reader).await);
    let pulled = create(&reader, "AUDIT", json!({})).await["name"].as_str().unwrap().to_owned();
    let push = json!({ "name": "pushed", "deliver_subject": "_INBOX_reader.x" });
    let made = create(&reader, "AUDIT", push.clone()).await;
    assert!(made["error"].is_null(), "{made}");
    let found = topology::diff_topology(admin.context(), &settings).await.unwrap();
    let found: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert_eq!(
        found,
        ["consumer pushed of mirror AUDIT: deliver_subject is _INBOX_reader.x, should be none"]
    );
    topology::apply_topology(admin.context(), &settings).await.unwrap();
    assert_eq!(topology::diff_topology(admin.context(), &settings).await.unwrap(), []);
    let info = ask(&reader, &format!("reader.API.CONSUMER.INFO.AUDIT.{pulled}"), String::new()).await;
    assert!(info["error"].is_null(), "who pulls is left alone: {info}");
    create(&reader, "AUDIT", push).await;
    assert_eq!(topology::remove_push_consumers(admin.context()).await.unwrap(), 1);
}

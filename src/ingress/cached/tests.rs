//! The cache API, and what two replicas know of each other's changes.

use std::{sync::Arc, time::Duration};

use nats::{Bus, Role, testing::TestBroker};
use schemas::access::PrincipalRole;
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::tests::{Answer, Site};

const PLACE: &str = "/v1/cache/entries/";

/// Somebody who speaks to one ingress.
struct Client {
    site: Site,
    authorization: String,
}

impl Client {
    async fn new(change: impl FnOnce(&mut CachedConfig)) -> Self {
        let site = Site::start(|config| change(&mut config.cache)).await;
        let authorization = format!("Authorization: Bearer {}\r\n", site.key);
        Self { site, authorization }
    }

    async fn ask(&self, method: &str, path: &str, headers: &str, body: &str) -> Answer {
        self.site.ask(method, path, &format!("{}{headers}", self.authorization), body).await
    }

    async fn put(&self, key: &str, value: &str) -> u16 {
        self.ask("PUT", &format!("{PLACE}{key}"), "", value).await.status
    }

    async fn post(&self, path: &str, body: &Value) -> (u16, Value) {
        let headers = "Content-Type: application/json\r\n";
        let answer = self.ask("POST", path, headers, &body.to_string()).await;
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    async fn stats(&self) -> Value {
        serde_json::from_str(&self.ask("GET", "/v1/cache/stats", "", "").await.body).unwrap()
    }
}

fn code(answer: &Answer) -> (u16, String) {
    let problem: Value = serde_json::from_str(&answer.body).unwrap();
    (answer.status, problem["code"].as_str().unwrap().to_owned())
}

/// Asks again and again until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let asking = async {
        let mut ticks = tokio::time::interval(Duration::from_millis(20));
        while !is_so().await {
            ticks.tick().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap_or_else(|_| panic!("{what}"));
}

#[tokio::test]
async fn an_entry_is_what_was_put_until_it_is_removed() {
    let client = Client::new(|_| {}).await;
    let path = format!("{PLACE}profile:7");
    assert_eq!(code(&client.ask("GET", &path, "", "").await), (404, "cache_miss".into()));
    assert_eq!(code(&client.ask("DELETE", &path, "", "").await), (404, "cache_miss".into()));
    let typed = "Content-Type: application/json; charset=utf-8\r\n";
    let made = client.ask("PUT", &format!("{path}?ttl_s=60"), typed, "{\"a\":1}").await;
    let document: Value = serde_json::from_str(&made.body).unwrap();
    assert_eq!((made.status, &document["size_bytes"]), (201, &json!(7)), "{made:?}");
    let found = client.ask("GET", &path, "", "").await;
    assert_eq!((found.status, found.body.as_str()), (200, "{\"a\":1}"));
    assert_eq!(found.header("content-type"), Some("application/json"));
    assert_eq!(
        (found.header("etag"), found.header("content-disposition")),
        (made.header("etag"), Some("attachment"))
    );
    let known = format!("If-None-Match: {}\r\n", found.header("etag").unwrap());
    assert_eq!(client.ask("GET", &path, &known, "").await.status, 304);
    // One's own change is seen at once, also after it was read.
    for value in ["b", "", "c"] {
        assert_eq!(client.put("profile:7", value).await, 200);
        assert_eq!(client.ask("GET", &path, "", "").await.body, value);
    }
    assert_eq!(client.ask("DELETE", &path, "", "").await.status, 204);
    assert_eq!(client.ask("GET", &path, "", "").await.status, 404);
    assert_eq!(client.put("profile:7", "again").await, 201, "its place is free at once");
    assert_eq!(client.ask("GET", &path, "", "").await.body, "again");
}

#[tokio::test]
async fn a_put_can_name_what_it_replaces() {
    let client = Client::new(|_| {}).await;
    let path = format!("{PLACE}lock");
    let absent = "If-None-Match: *\r\n";
    let made = client.ask("PUT", &path, absent, "ann").await;
    assert_eq!(made.status, 201);
    assert_eq!(code(&client.ask("PUT", &path, absent, "bo").await), (412, "precondition_failed".into()));
    let seen = format!("If-Match: {}\r\n", made.header("etag").unwrap());
    assert_eq!(client.ask("PUT", &path, &seen, "cy").await.status, 200);
    assert_eq!(code(&client.ask("PUT", &path, &seen, "di").await), (412, "precondition_failed".into()));
    assert_eq!(code(&client.ask("DELETE", &path, &seen, "").await), (412, "precondition_failed".into()));
    assert_eq!(client.ask("GET", &path, "", "").await.body, "cy");
}

#[tokio::test]
async fn what_can_not_be_an_entry_is_refused() {
    let client = Client::new(|config| config.value_bytes_max = 10).await;
    for (key, query, headers, value, status, wanted) in [
        ("-a", "", "", "", 400, "cache_key_malformed"),
        ("a%20b", "", "", "", 400, "cache_key_malformed"),
        ("a%2Fb", "", "", "", 400, "cache_key_malformed"),
        (&"a".repeat(201), "", "", "", 400, "cache_key_malformed"),
        ("a", "?ttl_s=0", "", "", 400, "request_invalid"),
        ("a", "?ttl_s=86401", "", "", 400, "request_invalid"),
        ("a", "?ttl=1", "", "", 400, "query_malformed"),
        ("a", "", "Content-Type: text\r\n", "", 400, "header_invalid"),
        ("a", "", "", "eleven byte", 413, "body_too_large"),
    ] {
        let path = format!("{PLACE}{key}{query}");
        let refused = code(&client.ask("PUT", &path, headers, value).await);
        assert_eq!((refused.0, refused.1.as_str()), (status, wanted), "{path}");
    }
    assert_eq!(client.put(&"a".repeat(200), "ten bytes!").await, 201);
}

#[tokio::test]
async fn nobody_reads_what_another_principal_keeps() {
    let client = Client::new(|_| {}).await;
    assert_eq!(client.put("a", "secret").await, 201);
    let body = json!({ "owner": "bo", "role": "owner" }).to_string();
    let headers = "Content-Type: application/json\r\n";
    let made = client.ask("POST", "/v1/auth/keys", headers, &body).await;
    let key: Value = serde_json::from_str(&made.body).unwrap();
    let other =
        format!("Authorization: Bearer {}\r\n", key["key"].as_str().unwrap_or_else(|| panic!("{made:?}")));
    let other = async |method, path: &str, body| client.site.ask(method, path, &other, body).await;
    assert_eq!(other("GET", "/v1/cache/entries/a", "").await.status, 404);
    assert_eq!(other("DELETE", "/v1/cache/entries/a", "").await.status, 404);
    assert_eq!(other("PUT", "/v1/cache/entries/a", "of bo").await.status, 201);
    assert_eq!(client.ask("GET", "/v1/cache/entries/a", "", "").await.body, "secret");
    assert_eq!(code(&other("DELETE", "/v1/cache", "").await), (403, "operators_only".into()));
    let stats: Value = serde_json::from_str(&other("GET", "/v1/cache/stats", "").await.body).unwrap();
    assert_eq!(stats["caches"], json!([]), "of the replica only operators see something");
}

#[tokio::test]
async fn many_are_read_put_and_removed_at_once() {
    let client = Client::new(|_| {}).await;
    assert_eq!(client.put("raw", "\u{1}").await, 201);
    let (status, done) = client
        .post(
            "/v1/cache/batch",
            &json!({ "operations": [
                { "type": "put", "key": "a", "value": { "n": [1, null] }, "ttl_s": 9 },
                { "type": "get", "key": "a" },
                { "type": "get", "key": "raw" },
                { "type": "delete", "key": "a" },
                { "type": "delete", "key": "a" },
                { "type": "get", "key": "a" },
                { "type": "put", "key": "b", "value": "x".repeat(70_000) },
            ] }),
        )
        .await;
    assert_eq!(status, 200, "{done}");
    let outcomes: Vec<&Value> =
        done["items"].as_array().unwrap().iter().map(|item| &item["outcome"]).collect();
    assert_eq!(outcomes, ["stored", "hit", "hit", "removed", "miss", "miss", "refused"]);
    assert_eq!(done["items"][1]["value"], json!({ "n": [1, null] }));
    // As it was put, not as a parser understands it.
    let text = "{\"a\":1,\"a\":12345678901234567890123}";
    let typed = "Content-Type: application/json\r\n";
    assert_eq!(client.ask("PUT", "/v1/cache/entries/json", typed, text).await.status, 201);
    let body = json!({ "operations": [{ "type": "get", "key": "json" }] }).to_string();
    let read = client.ask("POST", "/v1/cache/batch", typed, &body).await.body;
    assert!(read.contains(&format!("\"value\":{text}}}")), "{read}");
    assert_eq!(
        (&done["items"][2]["value_base64"], &done["items"][2]["value"]),
        (&json!("AQ=="), &Value::Null)
    );
    assert_eq!(done["items"][6]["problem"]["code"], "body_too_large");
    let wrong = json!({ "operations": [
        { "type": "put", "key": "c", "value": 1 }, { "type": "delete", "key": "no key" },
    ] });
    let (status, refused) = client.post("/v1/cache/batch", &wrong).await;
    assert_eq!((status, &refused["code"]), (400, &json!("cache_key_malformed")), "{refused}");
    assert_eq!(refused["errors"][0]["pointer"], "/operations/1/key", "{refused}");
    assert_eq!(client.ask("GET", "/v1/cache/entries/c", "", "").await.status, 404, "nothing was done");
    let none = client.post("/v1/cache/batch", &json!({ "operations": [] })).await;
    assert_eq!((none.0, &none.1["code"]), (400, &json!("request_invalid")));
    let absent = "06db00820dt0303jc5mn0r355k";
    let wanted = json!({ "keys": ["raw", "a"], "media_ids": [absent] });
    let (status, warmed) = client.post("/v1/cache/warm", &wanted).await;
    let said = json!({ "warmed": 1, "absent_keys": ["a"], "absent_media_ids": [absent] });
    assert_eq!((status, warmed), (200, said));
}

#[tokio::test]
async fn memory_answers_once_ticks_come_back_and_is_counted() {
    let client = Client::new(|_| {}).await;
    assert_eq!(client.put("a", "value").await, 201);
    let entries = async || client.stats().await["caches"][0].clone();
    until("memory answers", async || {
        client.ask("GET", "/v1/cache/entries/a", "", "").await;
        entries().await["hits"].as_u64().unwrap() >= 3 && client.stats().await["is_coherent"] == true
    })
    .await;
    let (stats, entries) = (client.stats().await, entries().await);
    assert_eq!(entries["name"], "entries", "{stats}");
    assert!(
        entries["size_bytes"].as_u64().unwrap() >= 5 && entries["entries"].as_u64().unwrap() >= 1,
        "{entries}"
    );
    assert!(stats["own"]["entries"] == 1 && stats["own"]["stored_bytes"].as_u64().unwrap() > 5, "{stats}");
    // What is cleared is gone for everybody, and what is put then is there.
    assert_eq!(client.ask("DELETE", "/v1/cache", "", "").await.status, 204);
    assert_eq!(client.ask("GET", "/v1/cache/entries/a", "", "").await.status, 404);
    assert_eq!(client.put("a", "new").await, 201);
    assert_eq!(client.ask("GET", "/v1/cache/entries/a", "", "").await.body, "new");
}

#[tokio::test]
async fn an_owner_has_as_many_entries_as_one_may() {
    let client = Client::new(|config| config.owner_entries_max = 2).await;
    assert_eq!((client.put("a", "1").await, client.put("b", "2").await), (201, 201));
    until("both are counted", async || client.stats().await["own"]["entries"] == 2).await;
    assert_eq!(code(&client.ask("PUT", "/v1/cache/entries/c", "", "3").await), (507, "cache_full".into()));
    assert_eq!(nats::metrics::table::CACHE_REFUSALS.count(()), 1);
    assert_eq!(client.put("a", "4").await, 200, "in the place of another one there is room");
    assert_eq!(client.ask("DELETE", "/v1/cache/entries/b", "", "").await.status, 204);
    until("there is room again", async || client.put("c", "5").await == 201).await;
}

#[tokio::test]
async fn an_entry_ends_by_its_time() {
    let client = Client::new(|_| {}).await;
    assert_eq!(client.ask("PUT", "/v1/cache/entries/a?ttl_s=1", "", "short").await.status, 201);
    let admin = client.site.broker.bus(Role::Admin).await;
    let stored = async || {
        let keys = admin.context().get_key_value("cache").await.unwrap().keys().await.unwrap();
        let keys: Vec<String> = futures::TryStreamExt::try_collect(keys).await.unwrap();
        keys.into_iter().filter(|key| key.starts_with("entry.")).count()
    };
    assert_eq!(stored().await, 1);
    until("it is gone", async || client.ask("GET", "/v1/cache/entries/a", "", "").await.status == 404).await;
    // By the time that its writer gave it: the broker may be a moment ahead.
    until("it counts no more", async || client.stats().await["own"]["entries"] == 0).await;
    until("the broker keeps nothing of it", async || stored().await == 0).await;
}

#[tokio::test]
async fn what_is_put_with_the_epoch_of_before_replaces_nothing_of_now() {
    let broker = TestBroker::start().await;
    let replica = Replica::start(&broker).await;
    let name = EntryName::new(&Principal::new("ann", PrincipalRole::Owner), "lock");
    let entry = |epoch, value: &str| CachedEntry {
        owner_digest: name.owner_digest.clone(),
        key_digest: name.key_digest.clone(),
        content_type: "text/plain".into(),
        value: ByteBuf::from(value.as_bytes().to_vec()),
        epoch,
        expires_at_ms: u64::MAX,
        writer_expires_at_ms: nats::now_ms() + 60_000,
    };
    let put = async |entry: CachedEntry| replica.entries.replace(&replica.bus, &entry, |_| Ok(())).await;
    assert!(!put(entry(2, "of now")).await.unwrap());
    assert_eq!(put(entry(1, "of before")).await.unwrap_err().code(), "conflict");
    assert!(put(entry(2, "next")).await.unwrap());
}

/// Entries of one replica, which follows the others.
struct Replica {
    bus: Bus,
    entries: Arc<CachedEntries>,
    _following: JoinSet<()>,
}

impl Replica {
    async fn start(broker: &TestBroker) -> Self {
        let bus = Bus::connect(&nats::BusConfig { request_timeout_ms: 500, ..broker.config(Role::Ingress) })
            .await
            .unwrap();
        let entries = Arc::new(CachedEntries::new(CachedConfig::default()).unwrap());
        let mut following = JoinSet::new();
        let (run, beside) = (Arc::clone(&entries), bus.clone());
        following.spawn(async move { run.run(&beside, || {}, CancellationToken::new()).await.unwrap() });
        Self { bus, entries, _following: following }
    }

    async fn put(&self, name: &EntryName, value: &str) {
        let value = ("text/plain".to_owned(), ByteBuf::from(value.as_bytes().to_vec()));
        self.entries.put(&self.bus, name, value, 60, |_| Ok(())).await.unwrap();
    }

    async fn read(&self, name: &EntryName) -> Result<Option<String>, BusError> {
        let found = self.entries.read(&self.bus, name).await?;
        Ok(found.map(|entry| String::from_utf8(entry.value.into_vec()).unwrap()))
    }

    /// Answers out of memory only.
    fn remembered(&self, name: &EntryName) -> Option<String> {
        let found = self.entries.memory.get(&name.bucket_key(), 0)?;
        Some(String::from_utf8(found.value.into_vec()).unwrap())
    }

    async fn until_remembered(&self, name: &EntryName) {
        until("it is remembered", async || {
            self.read(name).await.unwrap();
            self.remembered(name).is_some()
        })
        .await;
    }
}

#[tokio::test]
async fn what_one_replica_changes_another_one_forgets_and_a_silent_broker_is_not_believed() {
    let broker = TestBroker::start().await;
    let (one, two) = (Replica::start(&broker).await, Replica::start(&broker).await);
    let name = EntryName::new(&Principal::new("ann", PrincipalRole::Owner), "a");
    one.put(&name, "first").await;
    two.until_remembered(&name).await;
    one.put(&name, "second").await;
    until("the change comes", async || two.read(&name).await.unwrap().as_deref() == Some("second")).await;
    two.until_remembered(&name).await;
    one.entries.remove(&one.bus, &name, |_| Ok(())).await.unwrap();
    until("the removal comes", async || two.read(&name).await.unwrap().is_none()).await;

    one.put(&name, "third").await;
    two.until_remembered(&name).await;
    broker.freeze();
    // For a moment memory answers; then nothing proves that it is right, and the leader does not answer.
    until("nothing is believed any more", async || two.remembered(&name).is_none()).await;
    assert!(two.read(&name).await.is_err());
    broker.thaw();
    until("it answers again", async || two.remembered(&name).is_some() || two.read(&name).await.is_err())
        .await;
    two.until_remembered(&name).await;
    assert_eq!(two.remembered(&name).as_deref(), Some("third"));
}

#[tokio::test]
async fn what_one_replica_clears_another_one_forgets_and_one_that_comes_new_does_not_count() {
    let broker = TestBroker::start().await;
    let (one, two) = (Replica::start(&broker).await, Replica::start(&broker).await);
    let name = EntryName::new(&Principal::new("ann", PrincipalRole::Owner), "a");
    one.put(&name, "first").await;
    two.until_remembered(&name).await;
    let next = |found: Option<&cached::CacheEpoch>| {
        let epoch = found.map_or(0, |found| found.epoch) + 1;
        Some((cached::CacheEpoch { epoch }, Outbox::new()))
    };
    // Without the mark beside the entries: a tick finds that the epoch is another one.
    one.bus.change_record(cached::CacheEpoch::KEY, next).await.unwrap();
    until("it is forgotten", async || two.read(&name).await.unwrap().is_none()).await;
    one.put(&name, "second").await;
    two.until_remembered(&name).await;
    let held = one.bus.change_record(cached::CacheEpoch::KEY, next).await.unwrap().unwrap();
    let flush = cached::CacheFlush { epoch: held.record.epoch };
    one.bus.put_live_record(&flush, Duration::from_secs(60)).await.unwrap();
    until("it is forgotten", async || two.read(&name).await.unwrap().is_none()).await;
    let usage = |replica: &Replica| replica.entries.tally.usage(&name.owner_digest, 0).entries;
    until("it counts no more", async || usage(&two) == 0).await;
    let three = Replica::start(&broker).await;
    let other = EntryName::new(&Principal::new("ann", PrincipalRole::Owner), "b");
    one.put(&other, "third").await;
    until("what is put then counts", async || usage(&three) == 1).await;
}

//! Many at once over HTTP: of those who change one version one wins and nothing is lost, and a list that is read page by page while
//! others add to it shows what was there exactly once.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use futures::future::join_all;
use nats::{Bus, Outbox, VersionedRecord};
use reqwest::{Method, StatusCode, header};
use schemas::{document::MediaDocumentRecord, ids::MediaId};
use serde_json::{Value, json};

use crate::harness::{Cluster, Options, WAIT_MAX};

/// Writers that change one thing at the same time.
const WRITERS: usize = 100;
/// How often they do.
const ROUNDS: usize = 10;

/// An installation without workers where no limit answers instead of a handler.
async fn site() -> Cluster {
    let rates = "\n[ingress.limit.rates]\nmetadata = { capacity = 1000000, refill_per_s = 100000 }\n";
    Cluster::start_with(Options { without_workers: true, ..Options::default() }, rates).await
}

/// A document as an upload leaves it; answers its revision.
async fn put(bus: &Bus, media_id: MediaId, created_at_ms: u64) -> u64 {
    let mut held = VersionedRecord::new(MediaDocumentRecord {
        title: "by".into(),
        ..MediaDocumentRecord::new(media_id, "admin".into(), created_at_ms)
    });
    bus.commit_record(&mut held, Outbox::new()).await.unwrap();
    held.revision()
}

fn fresh() -> MediaId {
    MediaId::from_bytes(nats::new_id_bytes())
}

/// Returns once the index has seen this revision; who starts does not answer yet.
async fn index_has_seen(cluster: &Cluster, revision: u64) {
    let path = format!("/v1/media?limit=1&min_revision={revision}");
    let began = Instant::now();
    while !cluster.request(Method::GET, &path).send().await.unwrap().status().is_success() {
        assert!(began.elapsed() < WAIT_MAX, "the index never sees revision {revision}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Reads what is there: its tag and itself.
async fn read(cluster: &Cluster, path: &str) -> (String, Value) {
    let answer = cluster.request(Method::GET, path).send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let tag = answer.headers()[header::ETAG].to_str().unwrap().to_owned();
    (tag, answer.json().await.unwrap())
}

/// Has [`WRITERS`] write at once, each on top of the version `tag`; answers the one that won, and the tag of what it made.
async fn one_wins(
    cluster: &Cluster,
    method: Method,
    path: &str,
    tag: &str,
    body: impl Fn(usize) -> Value,
) -> (usize, String) {
    let requests = (0..WRITERS).map(|writer| {
        let request = cluster.request(method.clone(), path).header(header::IF_MATCH, tag).json(&body(writer));
        async move {
            let answer = request.send().await.unwrap();
            let tag = answer.headers().get(header::ETAG).map(|tag| tag.to_str().unwrap().to_owned());
            let status = answer.status();
            let document: Value = answer.json().await.unwrap();
            if status != StatusCode::OK {
                assert_eq!(
                    (status, &document["code"]),
                    (StatusCode::PRECONDITION_FAILED, &json!("precondition_failed"))
                );
            }
            (writer, status, tag)
        }
    });
    let answers = join_all(requests).await;
    let mut winners = answers.iter().filter(|(_, status, _)| *status == StatusCode::OK);
    let (writer, _, made) = winners.next().expect("one wins").clone();
    assert_eq!(winners.count(), 0, "more than one changed the same version: {answers:?}");
    let made = made.unwrap();
    assert_ne!(made, tag);
    (writer, made)
}

#[tokio::test]
async fn of_a_hundred_writers_of_a_document_one_wins_and_no_change_is_lost() {
    let mut cluster = site().await;
    let media_id = fresh();
    put(&cluster.bus, media_id, nats::now_ms()).await;
    let path = format!("/v1/media/{media_id}");
    let mut wanted = "by".to_owned();
    for _ in 0..ROUNDS {
        let (tag, document) = read(&cluster, &path).await;
        assert_eq!(document["title"], wanted.as_str());
        let body = |writer| json!({ "title": format!("{wanted} {writer}") });
        let (writer, made) = one_wins(&cluster, Method::PATCH, &path, &tag, body).await;
        wanted = format!("{wanted} {writer}");
        assert_eq!(read(&cluster, &path).await.0, made);
    }
    assert_eq!(read(&cluster, &path).await.1["title"], wanted.as_str());
    let published = cluster.all_events().await.into_iter().filter(|event| event.kind == "media.changed");
    assert_eq!(published.count(), ROUNDS, "every change is published, and nothing that was none");
}

#[tokio::test]
async fn of_a_hundred_writers_of_a_rule_one_wins_and_no_change_is_lost() {
    let mut cluster = site().await;
    let media_id = fresh();
    put(&cluster.bus, media_id, nats::now_ms()).await;
    let path = format!("/v1/media/{media_id}/gate");
    let mut wanted: Vec<String> = Vec::new();
    for round in 0..ROUNDS {
        let (tag, gate) = read(&cluster, &path).await;
        if round > 0 {
            assert_eq!(gate["rule"]["addresses"], json!(wanted));
        }
        let mine = |writer: usize| format!("0x{:040}", round * WRITERS + writer + 1);
        let body = |writer| {
            let addresses: Vec<String> = wanted.iter().cloned().chain([mine(writer)]).collect();
            json!({ "kind": "allow_list", "addresses": addresses })
        };
        let (writer, made) = one_wins(&cluster, Method::PUT, &path, &tag, body).await;
        wanted.push(mine(writer));
        assert_eq!(read(&cluster, &path).await.0, made);
    }
    assert_eq!(read(&cluster, &path).await.1["rule"]["addresses"], json!(wanted));
    let published = cluster.all_events().await.into_iter().filter(|event| event.kind == "gate.changed");
    assert_eq!(published.count(), ROUNDS);
}

#[tokio::test]
async fn a_list_shows_what_was_there_exactly_once_while_others_add_to_it() {
    const ITEMS: u64 = 150;
    const TIME: u64 = 1_763_900_000_000;
    let mut cluster = site().await;
    cluster.spawn("index", &["worker", "index"]);
    let (mut first, mut newest) = (BTreeSet::new(), 0);
    for n in 0..ITEMS {
        let media_id = fresh();
        first.insert(media_id.to_string());
        // Three share a moment.
        newest = put(&cluster.bus, media_id, TIME + n / 3).await;
    }
    let mut seen: BTreeMap<String, usize> = BTreeMap::new();
    let (mut cursor, mut pages) = (String::new(), 0);
    loop {
        index_has_seen(&cluster, newest).await;
        let path = format!("/v1/media?limit=10{cursor}");
        // While it is read, others add what is newest, what belongs into the middle, and what is oldest.
        let add = |moment| put(&cluster.bus, fresh(), TIME + moment);
        let (page, ..) = tokio::join!(cluster.get(&path), add(ITEMS), add(ITEMS / 6), add(0));
        newest = add(ITEMS + pages).await;
        for item in page["items"].as_array().unwrap() {
            *seen.entry(item["media_id"].as_str().unwrap().to_owned()).or_default() += 1;
        }
        pages += 1;
        let Some(next) = page["next_cursor"].as_str() else { break };
        cursor = format!("&cursor={next}");
    }
    assert!(pages > ITEMS / 10, "{pages}: what was added behind the cursor is shown, too");
    assert!(seen.values().all(|times| *times == 1), "{seen:?}");
    let missing: Vec<_> = first.iter().filter(|media_id| !seen.contains_key(*media_id)).collect();
    assert_eq!(missing, Vec::<&String>::new());
}

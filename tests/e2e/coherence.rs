//! What replicas keep in memory, while others change it: three of them, one of which is frozen meanwhile.

use std::time::{Duration, Instant};

use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::harness::{Cluster, Options, WAIT_MAX, poll, sample};

/// How long memory answers without a sign that it is up to date.
const COHERENT_MAX: Duration = Duration::from_secs(2);

/// An entry, a document and the status of an upload, as one replica answers them.
struct Replica<'a> {
    cluster: &'a Cluster,
    url: String,
    media_id: &'a str,
    upload_id: &'a str,
}

#[derive(Debug, PartialEq, Eq)]
struct Answers {
    entry: String,
    title: String,
    upload: String,
}

impl Replica<'_> {
    fn ask(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.cluster.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.cluster.key)
    }

    async fn answers(&self) -> Answers {
        let text = async |path: &str| {
            let answer = self.ask(Method::GET, path).send().await.unwrap();
            let (status, text) = (answer.status(), answer.text().await.unwrap());
            assert!(status == 200 || status == 404 || status == 410, "{path}: {text}");
            text
        };
        let document: Value =
            serde_json::from_str(&text(&format!("/v1/media/{}", self.media_id)).await).unwrap();
        let upload: Value =
            serde_json::from_str(&text(&format!("/v1/uploads/{}/status", self.upload_id)).await).unwrap();
        Answers {
            entry: text("/v1/cache/entries/number").await,
            title: if document["media_id"] == self.media_id {
                document["title"].as_str().unwrap()
            } else {
                "gone"
            }
            .to_owned(),
            upload: upload["media"]["status"].as_str().unwrap_or("none").to_owned(),
        }
    }

    async fn change(&self, number: usize) {
        let path = format!("/v1/media/{}", self.media_id);
        let renaming = self.ask(Method::PATCH, &path).header(header::IF_MATCH, "*");
        let changed = renaming.json(&json!({ "title": format!("title {number}") })).send().await.unwrap();
        assert_eq!(changed.status(), 200, "{}", changed.text().await.unwrap());
        let put = self.ask(Method::PUT, "/v1/cache/entries/number").body(format!("value {number}"));
        let put = put.send().await.unwrap();
        assert!(put.status().is_success(), "{}", put.text().await.unwrap());
    }

    /// Hits of the caches that are looked at here.
    async fn hits(&self) -> [u64; 3] {
        let stats: Value =
            self.ask(Method::GET, "/v1/cache/stats").send().await.unwrap().json().await.unwrap();
        ["entries", "metadata", "uploads"].map(|wanted| {
            let mut caches = stats["caches"].as_array().unwrap().iter();
            caches.find(|cache| cache["name"] == wanted).unwrap()["hits"].as_u64().unwrap()
        })
    }

    /// Asks until memory has answered each of the three.
    async fn until_memory_answers(&self) {
        let before = self.hits().await;
        let answered = poll(WAIT_MAX, async || {
            self.answers().await;
            let now = self.hits().await;
            now.iter().zip(before).all(|(now, before)| *now > before).then_some(())
        });
        assert!(answered.await.is_some(), "{:?}", self.hits().await);
    }
}

fn changed(number: usize) -> Answers {
    Answers { entry: format!("value {number}"), title: format!("title {number}"), upload: "ready".into() }
}

#[tokio::test]
async fn three_replicas_agree_and_a_frozen_one_never_answers_what_was_before() {
    let settings = "[ingress.limit.rates]\nmetadata = { capacity = 100000, refill_per_s = 10000 }\n\
         upload = { capacity = 100000, refill_per_s = 10000 }\ncache = { capacity = 100000, refill_per_s = 10000 }\n\
         api = { capacity = 100000, refill_per_s = 10000 }\n";
    let mut cluster = Cluster::start_with(Options::default(), settings).await;
    let urls = ["ingress-2", "ingress-3"].map(|name| {
        let ready = cluster.spawn(name, &["ingress", "--listen", "127.0.0.1:0"]);
        ready["url"].as_str().unwrap().to_owned()
    });
    let media_id = cluster.upload(sample(2, "320x180", "25"), "short.mp4").await;
    let received = cluster.media_event("upload.received", &media_id).await;
    let upload_id = received.data["upload_id"].as_str().unwrap().to_owned();
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    let replica = |url: &str| Replica {
        cluster: &cluster,
        url: url.to_owned(),
        media_id: &media_id,
        upload_id: &upload_id,
    };
    let (writer, reader, sleeper) = (replica(&cluster.url), replica(&urls[0]), replica(&urls[1]));
    for number in 0..20 {
        writer.change(number).await;
        // Who changed it sees it at once, whatever the others have.
        assert_eq!(writer.answers().await, changed(number));
        for other in [&reader, &sleeper] {
            let seen = poll(WAIT_MAX, async || (other.answers().await == changed(number)).then_some(()));
            assert!(seen.await.is_some(), "{number}: {:?}", other.answers().await);
        }
        if number % 10 == 0 {
            reader.until_memory_answers().await;
            sleeper.until_memory_answers().await;
        }
    }
    sleeper.until_memory_answers().await;

    cluster.signal("ingress-3", "STOP");
    let (frozen, mut number) = (Instant::now(), 20);
    while frozen.elapsed() <= COHERENT_MAX || number == 20 {
        writer.change(number).await;
        let seen = poll(WAIT_MAX, async || (reader.answers().await == changed(number)).then_some(()));
        assert!(seen.await.is_some(), "{number}: {:?}", reader.answers().await);
        number += 1;
    }
    cluster.signal("ingress-3", "CONT");
    // Its memory is full of what was before, and nothing has said so yet.
    assert_eq!(sleeper.answers().await, changed(number - 1));
    sleeper.until_memory_answers().await;
    assert_eq!(sleeper.answers().await, changed(number - 1));

    // The same where the medium, and with it the status of its upload, goes.
    cluster.signal("ingress-3", "STOP");
    let frozen = Instant::now();
    let removed = writer
        .ask(Method::DELETE, &format!("/v1/media/{media_id}?permanent=true"))
        .header(header::IF_MATCH, "*");
    assert_eq!(removed.send().await.unwrap().status(), 204);
    let gone = Answers { title: "gone".into(), upload: "none".into(), ..changed(number - 1) };
    let elapsed = poll(WAIT_MAX, async || {
        assert_eq!(writer.answers().await, gone);
        (frozen.elapsed() > COHERENT_MAX).then_some(())
    });
    assert!(elapsed.await.is_some());
    cluster.signal("ingress-3", "CONT");
    assert_eq!(sleeper.answers().await, gone);
}

//! What a client of the HTTP surface sees: its own things only, ranges, tags, exact resumption, and problems that say why.

use reqwest::{Method, StatusCode, header};
use schemas::access;
use serde_json::{Value, json};

use crate::{
    flow::{STORY, playback, text},
    harness::{Cluster, Options, WAIT_MAX, sample},
};

/// An installation with one finished medium of its admin.
async fn with_a_medium() -> (Cluster, String) {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(4, "320x180", "25"), "Grandma's film.mp4").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    (cluster, media_id)
}

/// A request with another key.
async fn ask(cluster: &Cluster, key: &str, method: Method, path: &str) -> (StatusCode, Value) {
    let answer =
        cluster.http.request(method, format!("{}{path}", cluster.url)).bearer_auth(key).send().await.unwrap();
    let status = answer.status();
    let is_problem = answer.headers()[header::CONTENT_TYPE] == "application/problem+json";
    assert_eq!(is_problem, !status.is_success(), "{path}");
    (status, answer.json().await.unwrap())
}

/// Reads the frames of an event stream.
pub(crate) struct EventFrames {
    answer: reqwest::Response,
    rest: String,
}

impl EventFrames {
    pub(crate) fn new(answer: reqwest::Response) -> Self {
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
        Self { answer, rest: String::new() }
    }

    /// The next frame that says what happened: `(id, event, data)`, with an empty id where it has none.
    pub(crate) async fn next(&mut self) -> (String, String, Value) {
        self.next_or_end().await.expect("the stream ended")
    }

    /// The same; `None` when the stream has ended.
    pub(crate) async fn next_or_end(&mut self) -> Option<(String, String, Value)> {
        loop {
            while let Some((frame, after)) = self.rest.split_once("\n\n") {
                let field = |name: &str| {
                    let found = frame.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                    found.unwrap_or_default().to_owned()
                };
                let (id, event, data) = (field("id"), field("event"), field("data"));
                let read = self.rest.len() - after.len();
                self.rest.drain(..read);
                if !event.is_empty() {
                    return Some((id, event, serde_json::from_str(&data).unwrap()));
                }
            }
            let chunk = self.answer.chunk().await.unwrap()?;
            self.rest.push_str(std::str::from_utf8(&chunk).unwrap());
        }
    }
}

/// The next events of a stream, each `(id, event, data)`, until one is called `last`.
async fn frames_until(answer: reqwest::Response, last: &str) -> Vec<(String, String, Value)> {
    let reading = async {
        let (mut stream, mut frames) = (EventFrames::new(answer), Vec::new());
        loop {
            let frame = stream.next().await;
            let is_last = frame.1 == last;
            if frame.1 != "job.progress" {
                frames.push(frame);
            }
            if is_last {
                return frames;
            }
        }
    };
    tokio::time::timeout(WAIT_MAX, reading).await.expect("the event never came")
}

#[tokio::test]
async fn events_resume_exactly_and_repeat_what_was_before() {
    let (cluster, media_id) = with_a_medium().await;
    let path = format!("/v1/events?media={media_id}&since=0-0");
    let story = cluster.request(Method::GET, &path).send().await.unwrap();
    let story = frames_until(story, "job.succeeded").await;
    let kinds: Vec<&str> = story.iter().map(|(_, event, _)| event.as_str()).collect();
    assert_eq!(kinds, STORY);
    assert!(story.iter().all(|(_, event, data)| data["type"] == *event && data["media_id"] == *media_id));
    for from in 0..story.len() - 1 {
        let request = cluster.request(Method::GET, &path).header("last-event-id", &story[from].0);
        let again = frames_until(request.send().await.unwrap(), "job.succeeded").await;
        assert_eq!(again, story[from + 1..], "behind {}", story[from].0);
    }
    let of_its_job = story.iter().position(|(_, event, _)| event == "job.queued").unwrap();
    let job_id = story[of_its_job].2["job_id"].as_str().unwrap();
    let of_job =
        cluster.request(Method::GET, &format!("/v1/events?job={job_id}&since=0-0")).send().await.unwrap();
    assert_eq!(frames_until(of_job, "job.succeeded").await, story[of_its_job..]);
    let malformed = ask(&cluster, &cluster.key, Method::GET, "/v1/events?since=nonsense").await;
    assert_eq!((malformed.0, &malformed.1["code"]), (StatusCode::BAD_REQUEST, &json!("event_id_malformed")));
}

/// What the description says of a JSON text.
async fn described(cluster: &Cluster, name: &str) -> jsonschema::Validator {
    let document = cluster.http.get(format!("{}/openapi.json", cluster.url)).send().await.unwrap();
    let mut schema = json!({ "$ref": format!("#/components/schemas/{name}") });
    schema["components"] = document.json::<Value>().await.unwrap()["components"].take();
    jsonschema::validator_for(&schema).unwrap()
}

/// Frames of one stream, until the job succeeded; progress is compared with the job's own document as it comes.
async fn watch_job(cluster: &Cluster, answer: reqwest::Response) -> Vec<(String, Value)> {
    let (event_data, progress_data) =
        (described(cluster, "EventData").await, described(cluster, "JobProgressData").await);
    let (mut stream, mut seen) = (EventFrames::new(answer), Vec::new());
    loop {
        let (id, event, data) = stream.next().await;
        let is_progress = event == "job.progress";
        let validator = if is_progress { &progress_data } else { &event_data };
        let faults: Vec<String> = validator.iter_errors(&data).map(|fault| fault.to_string()).collect();
        assert_eq!(faults, Vec::<String>::new(), "{event} {data}");
        assert_eq!(id.is_empty(), is_progress, "{event} {data}");
        if is_progress {
            let job = cluster.get(&format!("/v1/jobs/{}", data["job_id"].as_str().unwrap())).await;
            let (reported, found) = (&data["percent"], &job["progress"]["percent"]);
            assert!(found.as_u64() >= reported.as_u64(), "{data} and then {}", job["progress"]);
            assert_eq!(job["progress"]["total_ms"], data["total_ms"]);
        }
        let is_last = event == "job.succeeded";
        seen.push((event, data));
        if is_last {
            return seen;
        }
    }
}

#[tokio::test]
async fn a_medium_is_followed_and_spoken_of_from_the_creation_of_its_upload_on() {
    let cluster = Cluster::start(Options::default()).await;
    let clip = sample(4, "320x180", "25");
    let tus = |method, path: &str| cluster.request(method, path).header("tus-resumable", "1.0.0");
    let opened = tus(Method::POST, "/v1/uploads").header("upload-length", clip.len()).send().await.unwrap();
    let named = |name: &str| opened.headers()[name].to_str().unwrap().to_owned();
    let (media_id, location) = (named("streamgate-media-id"), named("location"));
    let upload = reqwest::Url::parse(&location).map_or(location, |url| url.path().to_owned());
    let medium = format!("/v1/media/{media_id}");
    let story = format!("/v1/events?media={media_id}&since=0-0");
    let live = cluster.request(Method::GET, &story).send().await.unwrap();
    let found = cluster.get(&medium).await;
    assert_eq!((&found["status"], &found["source"]), (&json!("uploading"), &Value::Null), "{found}");
    let change = |method, path: &str| cluster.request(method, path).header(header::IF_MATCH, "*");
    let changed = change(Method::PATCH, &medium).json(&json!({ "title": "By the sea" }));
    assert_eq!(changed.send().await.unwrap().status(), 200);
    let gated = change(Method::PUT, &format!("{medium}/gate")).json(&json!({ "kind": "public" }));
    assert_eq!(gated.send().await.unwrap().status(), 200);
    let early = cluster.http.post(format!("{}{medium}/playback", cluster.url)).send().await.unwrap();
    let early: Value = early.json().await.unwrap();
    assert_eq!(early["code"], "not_playable", "a visitor of a public medium waits: {early}");
    let bytes = tus(Method::PATCH, &upload).header("upload-offset", "0").body(clip);
    let bytes = bytes.header(header::CONTENT_TYPE, "application/offset+octet-stream");
    let (sent, seen) = tokio::join!(bytes.send(), tokio::time::timeout(WAIT_MAX, watch_job(&cluster, live)));
    assert_eq!(sent.unwrap().status(), 204);
    let seen = seen.expect("the job ends");
    let mut kinds: Vec<&str> = seen.iter().map(|(event, _)| event.as_str()).collect();
    assert!(kinds.iter().filter(|kind| **kind == "job.progress").count() > 0, "{kinds:?}");
    assert_eq!(seen.iter().rfind(|(event, _)| event == "job.progress").unwrap().1["percent"], 100);
    kinds.retain(|kind| *kind != "job.progress");
    let wanted = [&STORY[..1], &["media.changed", "gate.changed"], &STORY[1..]].concat();
    // Who may play it is decided when it is, and its visitor was let in.
    kinds.retain(|kind| *kind != "gate.granted");
    assert_eq!(kinds, wanted);
    assert_eq!(cluster.get(&medium).await["title"], "By the sea");
}

#[tokio::test]
async fn an_owner_sees_and_plays_only_its_own() {
    let (cluster, media_id) = with_a_medium().await;
    let jobs = cluster.get(&format!("/v1/jobs?media_id={media_id}")).await;
    let job_id = jobs["items"][0]["job_id"].as_str().unwrap().to_owned();
    let bob = auth::create_api_key(&cluster.bus, "bob", access::PrincipalRole::Owner).await.unwrap();
    for (method, path) in [
        (Method::GET, format!("/v1/media/{media_id}")),
        (Method::GET, format!("/v1/jobs/{job_id}")),
        (Method::POST, format!("/v1/media/{media_id}/playback")),
        (Method::GET, format!("/v1/events?media={media_id}")),
        (Method::GET, format!("/v1/events?job={job_id}")),
    ] {
        let (status, problem) = ask(&cluster, &bob, method, &path).await;
        assert_eq!((status, problem["code"].as_str()), (StatusCode::NOT_FOUND, Some("not_found")), "{path}");
    }
    for path in ["/v1/media", "/v1/jobs"] {
        let (status, page) = ask(&cluster, &bob, Method::GET, path).await;
        assert_eq!((status, page["items"].as_array().map(Vec::len)), (StatusCode::OK, Some(0)), "{path}");
    }
    let (status, problem) = ask(&cluster, &bob, Method::GET, "/v1/audit").await;
    assert_eq!((status, problem["code"].as_str()), (StatusCode::FORBIDDEN, Some("operators_only")));
    for key in ["", "sg_00000000000000000000000000_00", "sg_x_y", bob.strip_suffix(|_: char| true).unwrap()] {
        let (status, problem) = ask(&cluster, key, Method::GET, "/v1/media").await;
        assert_eq!(
            (status, problem["code"].as_str()),
            (StatusCode::UNAUTHORIZED, Some("unauthorized")),
            "{key}"
        );
    }
}

#[tokio::test]
async fn playback_speaks_ranges_and_tags_and_refuses_what_it_did_not_sign() {
    let (cluster, media_id) = with_a_medium().await;
    let session = playback(&cluster, &media_id).await;
    let master = session["hls_url"].as_str().unwrap();
    let segment = format!("{}{}", cluster.url, master.replace("master.m3u8", "v180/1.m4s"));
    let get = |url: &str| cluster.http.get(url.to_owned());

    let whole = get(&segment).send().await.unwrap();
    assert_eq!(whole.headers()[header::CONTENT_TYPE], "video/mp4");
    let etag = whole.headers()[header::ETAG].clone();
    let whole = whole.bytes().await.unwrap();
    let part = get(&segment).header(header::RANGE, "bytes=10-19").send().await.unwrap();
    assert_eq!(part.status(), StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.headers()[header::CONTENT_RANGE], format!("bytes 10-19/{}", whole.len()));
    assert_eq!(part.bytes().await.unwrap(), whole[10..20]);
    let beyond = get(&segment).header(header::RANGE, format!("bytes={}-", whole.len())).send().await.unwrap();
    assert_eq!(beyond.status(), StatusCode::RANGE_NOT_SATISFIABLE);
    let known = get(&segment).header(header::IF_NONE_MATCH, etag).send().await.unwrap();
    assert_eq!(known.status(), StatusCode::NOT_MODIFIED);
    let head = cluster.http.head(&segment).send().await.unwrap();
    assert_eq!(head.headers()[header::CONTENT_LENGTH], whole.len().to_string());
    assert!(text(&cluster, session["dash_url"].as_str().unwrap()).await.contains("<MPD"));

    let token = session["token"].as_str().unwrap();
    let other = format!("{}{}", if token.starts_with('A') { 'B' } else { 'A' }, token.split_at(1).1);
    let elsewhere = "00000000000000000000000000";
    for (url, status) in [
        (segment.replace(token, &other), StatusCode::FORBIDDEN),
        (segment.replace(token, "x"), StatusCode::FORBIDDEN),
        (segment.replace(&media_id, elsewhere), StatusCode::FORBIDDEN),
        (segment.replace("v180/1.m4s", "v180/999.m4s"), StatusCode::NOT_FOUND),
        (segment.replace("v180/1.m4s", "report.json"), StatusCode::NOT_FOUND),
        (segment.replace("v180/1.m4s", "..%2f..%2f..%2fsource"), StatusCode::NOT_FOUND),
    ] {
        let answer = get(&url).send().await.unwrap();
        assert_eq!(answer.status(), status, "{url}");
        assert_eq!(answer.headers()[header::CONTENT_TYPE], "application/problem+json", "{url}");
    }
}

#[tokio::test]
async fn lists_are_paged_and_wrong_questions_are_explained() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut all = Vec::new();
    for n in 0..5 {
        all.push(cluster.upload(vec![n; 20], "no film.bin").await);
    }
    for media_id in &all {
        cluster.media_event("media.rejected", media_id).await;
    }
    let revision = cluster.get("/v1/media?limit=1").await["revision"].as_u64().unwrap();
    let mut found = Vec::new();
    let mut path = format!("/v1/media?status=rejected&limit=2&min_revision={revision}");
    loop {
        let page = cluster.get(&path).await;
        found.extend(page["items"].as_array().unwrap().iter().map(|item| item["media_id"].clone()));
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/v1/media?status=rejected&limit=2&cursor={cursor}");
    }
    all.reverse();
    assert_eq!(found, all, "newest first, each once");
    let elsewhere = "00000000000000000000000000";
    let some = cluster.get(&format!("/v1/media?ids={},{elsewhere},{}&status=rejected", all[3], all[1])).await;
    let some: Vec<_> =
        some["items"].as_array().unwrap().iter().map(|item| item["media_id"].clone()).collect();
    assert_eq!(some, [all[1].clone(), all[3].clone()], "those that there are, newest first");
    let page = cluster.get("/v1/media?status=rejected&limit=2").await;
    a_cursor_is_good_in_its_own_list_only(&cluster, page["next_cursor"].as_str().unwrap()).await;
    for (path, status, code) in [
        ("/v1/media?limit=0", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/media?limit=201", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/media?status=good", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/media?ids=", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/media?ids=abc", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/media?colour=red", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/media?cursor=abc", StatusCode::BAD_REQUEST, "cursor_malformed"),
        ("/v1/media?cursor=%00%ff", StatusCode::BAD_REQUEST, "cursor_malformed"),
        ("/v1/media?min_revision=18446744073709551615", StatusCode::CONFLICT, "revision_unknown"),
        ("/v1/jobs?min_revision=18446744073709551615", StatusCode::CONFLICT, "revision_unknown"),
        ("/v1/jobs?media_id=abc", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/jobs/abc", StatusCode::NOT_FOUND, "not_found"),
        ("/v1/audit?since=yesterday", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/audit?filter=a.b.c", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/audit?filter=nonsense", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/audit?filter=media.nonsense", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/audit?limit=0", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/audit?to=0", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/audit?media_id=abc", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/audit?owner=", StatusCode::BAD_REQUEST, "query_malformed"),
        ("/v1/nothing", StatusCode::NOT_FOUND, "not_found"),
    ] {
        let (found, problem) = ask(&cluster, &cluster.key, Method::GET, path).await;
        assert_eq!((found, problem["code"].as_str()), (status, Some(code)), "{path}: {problem}");
        assert!(problem["request_id"].is_string(), "{path}");
    }
    let (status, problem) = ask(&cluster, &cluster.key, Method::DELETE, "/v1/jobs").await;
    assert_eq!(
        (status, problem["code"].as_str()),
        (StatusCode::METHOD_NOT_ALLOWED, Some("method_not_allowed"))
    );
}

/// `cursor` is one of the administrator's list of rejected media.
async fn a_cursor_is_good_in_its_own_list_only(cluster: &Cluster, cursor: &str) {
    let bob = auth::create_api_key(&cluster.bus, "bob", access::PrincipalRole::Owner).await.unwrap();
    let list = "/v1/media?status=rejected";
    let (rest, end) = cursor.split_at(cursor.len() - 1);
    let changed = format!("{rest}{}", if end == "0" { '4' } else { '0' });
    // As the index gives it to the ingress.
    let bare = cursor.split_at(39).0;
    for (key, list, cursor, status) in [
        (&cluster.key, list, cursor, StatusCode::OK),
        (&cluster.key, "/v1/media?limit=200&status=rejected&min_revision=1", cursor, StatusCode::OK),
        (&cluster.key, "/v1/media?limit=2", cursor, StatusCode::BAD_REQUEST),
        (&cluster.key, "/v1/media?status=ready", cursor, StatusCode::BAD_REQUEST),
        (&cluster.key, "/v1/jobs?limit=2", cursor, StatusCode::BAD_REQUEST),
        (&cluster.key, "/v1/jobs?status=failed", cursor, StatusCode::BAD_REQUEST),
        (&bob, list, cursor, StatusCode::BAD_REQUEST),
        (&cluster.key, list, &changed, StatusCode::BAD_REQUEST),
        (&cluster.key, list, &cursor.to_uppercase(), StatusCode::BAD_REQUEST),
        (&cluster.key, list, bare, StatusCode::BAD_REQUEST),
    ] {
        let path = format!("{list}&cursor={cursor}");
        let (found, answer) = ask(cluster, key, Method::GET, &path).await;
        assert_eq!(found, status, "{path}: {answer}");
        if status == StatusCode::OK {
            assert!(!answer["items"].as_array().unwrap().is_empty(), "{path}: {answer}");
        } else {
            assert_eq!(answer["code"], "cursor_malformed", "{path}");
        }
    }
}

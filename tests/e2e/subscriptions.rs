//! Following events over replicas, cuts and slow readers, by server-sent events and WebSockets; and histories.

use std::{collections::BTreeMap, time::Duration};

use futures::{SinkExt, StreamExt};
use nats::{Bus, ReaderStart, reader};
use reqwest::{Method, StatusCode, header};
use schemas::{access::PrincipalRole, envelope::UnsentEvent, headers, subjects};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{self, Message, client::IntoClientRequest},
};

use crate::{
    harness::{Cluster, Options, WAIT_MAX, poll, sample},
    http::EventFrames,
};

/// An installation with nobody who does anything by itself.
async fn start(settings: &str) -> Cluster {
    Cluster::start_with(Options { without_workers: true, ..Options::default() }, settings).await
}

/// Opens an upload; answers its medium.
async fn open_upload(cluster: &Cluster) -> String {
    let opened = cluster.request(Method::POST, "/v1/uploads").header("tus-resumable", "1.0.0");
    let opened = opened.header("upload-length", 5).send().await.unwrap();
    assert_eq!(opened.status(), StatusCode::CREATED);
    opened.headers()["streamgate-media-id"].to_str().unwrap().to_owned()
}

async fn set_title(cluster: &Cluster, media_id: &str, title: &str) {
    let change = cluster.request(Method::PATCH, &format!("/v1/media/{media_id}"));
    let changed = change.header(header::IF_MATCH, "*").json(&json!({ "title": title })).send().await.unwrap();
    assert_eq!(changed.status(), StatusCode::OK);
}

/// Follows at a replica, behind an event if one is named.
async fn follow(cluster: &Cluster, url: &str, query: &str, behind: Option<&str>) -> EventFrames {
    let mut request = cluster.http.get(format!("{url}/v1/events{query}")).bearer_auth(&cluster.key);
    if let Some(id) = behind {
        request = request.header("last-event-id", id);
    }
    EventFrames::new(request.send().await.unwrap())
}

async fn next(frames: &mut EventFrames) -> (String, String, Value) {
    timeout(WAIT_MAX, frames.next()).await.expect("nothing came")
}

/// An event about a medium that nothing but this test makes, of `bytes` bytes.
async fn publish_event(bus: &Bus, owner: &str, media_id: &str, number: usize, bytes: usize) {
    let payload = rmp_serde::to_vec_named(&json!({ "number": number, "text": "x".repeat(bytes) })).unwrap();
    let headers = [(headers::OWNER, owner), (headers::MEDIA_ID, media_id)];
    let event = UnsentEvent {
        subject: format!("evt.media.changed.{media_id}"),
        id: format!("{media_id}-{number}"),
        headers: headers.map(|(name, value)| (name.to_owned(), value.to_owned())).into(),
        payload: ByteBuf::from(payload),
        once: false,
        after_sequence: None,
    };
    bus.publish_unsent(&event).await.unwrap();
}

#[tokio::test]
async fn a_stream_begins_with_how_things_stand_and_goes_on_over_replicas() {
    let mut cluster = start("").await;
    let second = cluster.spawn("second", &["ingress", "--listen", "127.0.0.1:0"]);
    let urls = [cluster.url.clone(), second["url"].as_str().unwrap().to_owned()];
    let media_id = open_upload(&cluster).await;
    let query = format!("?media={media_id}");
    let mut frames = follow(&cluster, &urls[0], &query, None).await;
    let (cursor, kind, data) = next(&mut frames).await;
    assert_eq!((kind.as_str(), &data["cursor"]), ("snapshot", &json!(cursor)));
    assert_eq!(data["media"], cluster.get(&format!("/v1/media/{media_id}")).await);
    let (mut last, mut seen) = (cursor, Vec::new());
    for round in 0..6 {
        // Two happen while it is followed, and one while it is not.
        for change in 0..2 {
            set_title(&cluster, &media_id, &format!("{round}.{change}")).await;
            let (id, kind, data) = next(&mut frames).await;
            assert_eq!((kind.as_str(), &data["media_id"]), ("media.changed", &json!(media_id)));
            seen.push(id.clone());
            last = id;
        }
        drop(frames);
        set_title(&cluster, &media_id, &format!("{round}.2")).await;
        frames = follow(&cluster, &urls[(round + 1) % 2], &query, Some(&last)).await;
        let (id, kind, _) = next(&mut frames).await;
        assert_eq!(kind, "media.changed", "what was missed comes first, and no snapshot");
        seen.push(id);
    }
    // A restart of a replica is no more than another cut.
    drop(frames);
    set_title(&cluster, &media_id, "while it is away").await;
    let again = cluster.restart("second");
    let mut frames =
        follow(&cluster, again["url"].as_str().unwrap(), &query, Some(seen.last().unwrap())).await;
    seen.push(next(&mut frames).await.0);
    let mut story = follow(&cluster, &urls[0], &format!("{query}&since=0-0&type=media.changed"), None).await;
    let mut kept = Vec::new();
    while kept.len() < seen.len() {
        kept.push(next(&mut story).await.0);
    }
    assert_eq!(seen, kept, "each once, in order");
}

#[tokio::test]
async fn what_cant_be_given_without_a_gap_is_said_and_how_things_stand_follows() {
    let cluster = start("").await;
    let media_id = open_upload(&cluster).await;
    let query = format!("?media={media_id}");
    let resync = async |id: &str| {
        let mut frames = follow(&cluster, &cluster.url, &query, Some(id)).await;
        let (id, kind, data) = next(&mut frames).await;
        assert_eq!((id.as_str(), kind.as_str()), ("", "resync"), "{data}");
        let (cursor, kind, snapshot) = next(&mut frames).await;
        assert_eq!((kind.as_str(), &snapshot["media"]["media_id"]), ("snapshot", &json!(media_id)));
        assert_eq!(data["cursor"], cursor);
        (data["reason"].as_str().unwrap().to_owned(), cursor, frames)
    };
    let (reason, cursor, _) = resync("12345-1").await;
    assert_eq!(reason, "stream_replaced");
    let epoch = cursor.split('-').next().unwrap().to_owned();
    assert_eq!(resync(&format!("{epoch}-99999")).await.0, "unknown");
    // All there is becomes too old, and then nothing does.
    set_title(&cluster, &media_id, "old").await;
    let mut stream = cluster.bus.context().get_stream(subjects::EVENTS).await.unwrap();
    let mut config = stream.info().await.unwrap().config.clone();
    let (kept, age) = (config.clone(), Duration::from_secs(1));
    (config.max_age, config.duplicate_window) = (age, age);
    cluster.bus.context().update_stream(config).await.unwrap();
    let dropped = poll(WAIT_MAX, async || {
        let state = stream.info().await.unwrap().state.clone();
        (state.messages == 0).then_some(())
    });
    dropped.await.expect("events grow old");
    cluster.bus.context().update_stream(kept).await.unwrap();
    let (reason, cursor, mut frames) = resync(&format!("{epoch}-1")).await;
    assert_eq!(reason, "dropped");
    set_title(&cluster, &media_id, "new").await;
    let (id, kind, data) = next(&mut frames).await;
    assert_eq!((kind.as_str(), &data["data"]["title"]), ("media.changed", &json!("new")), "{data}");
    assert_ne!(id, cursor);
}

#[tokio::test]
async fn a_slow_reader_learns_where_to_go_on_and_misses_nothing() {
    const EVENTS: usize = 200;
    let cluster = start("[ingress.events]\nqueue_items_max = 8").await;
    let media_id = open_upload(&cluster).await;
    let query = format!("?media={media_id}&type=media.changed");
    // Small buffers on both sides, so that it shows soon that nobody reads.
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let address = cluster.url.strip_prefix("http://").unwrap();
    let mut slow = socket.connect(address.parse().unwrap()).await.unwrap();
    let head =
        format!("GET /v1/events{query} HTTP/1.0\r\nHost: a\r\nAuthorization: Bearer {}\r\n\r\n", cluster.key);
    slow.write_all(head.as_bytes()).await.unwrap();
    // The quick one goes on all the while.
    let mut quick = follow(&cluster, &cluster.url, &query, None).await;
    let (cursor, ..) = next(&mut quick).await;
    let mut begun = [0; 15];
    slow.read_exact(&mut begun).await.unwrap();
    let mut wanted = Vec::new();
    for number in 0..EVENTS {
        publish_event(&cluster.bus, "admin", &media_id, number, 100_000).await;
        wanted.push(next(&mut quick).await.0);
    }
    let mut text = String::new();
    timeout(WAIT_MAX, slow.read_to_string(&mut text)).await.expect("it is closed").unwrap();
    let ids: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("id: ")).collect();
    let kinds: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("event: ")).collect();
    assert_eq!(kinds.first(), Some(&"snapshot"), "it follows {cursor}");
    assert_eq!((kinds.last(), kinds.iter().filter(|kind| **kind == "lagged").count()), (Some(&"lagged"), 1));
    let (last, received) = (ids[ids.len() - 1], &ids[1..ids.len() - 1]);
    assert!(received.len() < EVENTS, "it was slow");
    assert_eq!(received, &wanted[..received.len()]);
    let mut rest = follow(&cluster, &cluster.url, &query, Some(last)).await;
    for id in &wanted[received.len()..] {
        assert_eq!(next(&mut rest).await.0, *id);
    }
}

type Socket = WebSocketStream<TcpStream>;

/// Opens a WebSocket; the refusal's status where it is none.
async fn open_socket(cluster: &Cluster, more: &[(&'static str, &str)]) -> Result<Socket, u16> {
    let mut request =
        format!("{}/v1/events/ws", cluster.url.replace("http", "ws")).into_client_request().unwrap();
    for (name, value) in more {
        request.headers_mut().insert(*name, value.parse().unwrap());
    }
    let stream = TcpStream::connect(cluster.url.strip_prefix("http://").unwrap()).await.unwrap();
    match client_async(request, stream).await {
        Ok((socket, _)) => Ok(socket),
        Err(tungstenite::Error::Http(answer)) => Err(answer.status().as_u16()),
        Err(error) => panic!("{error}"),
    }
}

async fn say(socket: &mut Socket, message: Value) {
    socket.send(Message::text(message.to_string())).await.unwrap();
}

/// The next message, or the code by which the connection was closed.
async fn receive(socket: &mut Socket) -> Result<Value, u16> {
    loop {
        match timeout(WAIT_MAX, socket.next()).await.expect("nothing came") {
            Some(Ok(Message::Text(text))) => return Ok(serde_json::from_str(&text).unwrap()),
            Some(Ok(Message::Close(frame))) => return Err(frame.map_or(0, |frame| frame.code.into())),
            Some(Ok(_)) => {}
            other => panic!("cut: {other:?}"),
        }
    }
}

#[tokio::test]
async fn a_socket_speaks_the_same_cursors_and_takes_a_token_as_its_first_message() {
    let cluster = start("[ingress.manners]\norigins = [\"https://app.example.org\"]").await;
    let media_id = open_upload(&cluster).await;
    for (origin, wanted) in [
        ("https://evil.example", Some(403)),
        ("null", Some(403)),
        ("https://app.example.org", None),
        (cluster.url.as_str(), None),
    ] {
        assert_eq!(open_socket(&cluster, &[("origin", origin)]).await.err(), wanted, "{origin}");
    }
    let bearer = format!("Bearer {}", cluster.key);
    assert_eq!(open_socket(&cluster, &[("authorization", "Bearer sg_x_y")]).await.err(), Some(401));
    let plain = cluster.request(Method::GET, "/v1/events/ws").send().await.unwrap();
    assert_eq!(plain.status(), StatusCode::UPGRADE_REQUIRED);
    let token = json!({ "type": "authenticate", "token": cluster.key });
    let subscription = json!({ "type": "subscribe", "media": media_id });
    for (messages, wanted) in [
        (vec![json!({ "type": "authenticate", "token": "sg_x_y" })], 4_401),
        (vec![subscription.clone()], 4_401),
        (vec![token.clone(), token.clone()], 4_400),
        (vec![token.clone(), json!({ "type": "subscribe", "types": ["*"] })], 4_400),
        (vec![token.clone(), json!({ "type": "subscribe", "media": "0".repeat(26) })], 4_404),
        (vec![json!(7)], 4_400),
    ] {
        let mut socket = open_socket(&cluster, &[]).await.unwrap();
        for message in &messages {
            say(&mut socket, message.clone()).await;
        }
        assert_eq!(receive(&mut socket).await, Err(wanted), "{messages:?}");
    }
    let mut socket = open_socket(&cluster, &[]).await.unwrap();
    say(&mut socket, token).await;
    say(&mut socket, subscription).await;
    let snapshot = receive(&mut socket).await.unwrap();
    assert_eq!((&snapshot["type"], &snapshot["event"]), (&json!("event"), &json!("snapshot")), "{snapshot}");
    assert_eq!(snapshot["data"]["media"]["media_id"], media_id);
    set_title(&cluster, &media_id, "one").await;
    let one = receive(&mut socket).await.unwrap();
    assert_eq!((&one["event"], &one["data"]["media_id"]), (&json!("media.changed"), &json!(media_id)));
    // A cursor of one goes on in the other.
    set_title(&cluster, &media_id, "two").await;
    let two = receive(&mut socket).await.unwrap();
    let mut frames = follow(&cluster, &cluster.url, &format!("?media={media_id}"), one["id"].as_str()).await;
    assert_eq!(next(&mut frames).await.0, two["id"].as_str().unwrap());
    let mut other = open_socket(&cluster, &[("authorization", &bearer)]).await.unwrap();
    say(&mut other, json!({ "type": "subscribe", "media": media_id, "since": one["id"] })).await;
    assert_eq!(receive(&mut other).await.unwrap(), two);
    socket.send(Message::binary(vec![0; 70_000])).await.unwrap();
    assert_eq!(receive(&mut socket).await, Err(1_009), "a message of more than 64 KiB");
}

#[tokio::test]
async fn nobody_sees_what_others_do_and_streams_end_with_their_key() {
    let cluster = start("[ingress.events]\nfollowers_per_principal_max = 2").await;
    let bob = auth::create_api_key(&cluster.bus, "bob", PrincipalRole::Owner).await.unwrap();
    let key_id = bob.split('_').nth(1).unwrap().parse().unwrap();
    let media_id = open_upload(&cluster).await;
    let bearer = format!("Bearer {bob}");
    let by_bob =
        |query: &str| cluster.http.get(format!("{}/v1/events{query}", cluster.url)).bearer_auth(&bob);
    let mut frames = EventFrames::new(by_bob("").send().await.unwrap());
    assert_eq!(next(&mut frames).await.1, "snapshot");
    let mut socket = open_socket(&cluster, &[("authorization", &bearer)]).await.unwrap();
    say(&mut socket, json!({ "type": "subscribe" })).await;
    assert_eq!(receive(&mut socket).await.unwrap()["event"], "snapshot");
    for (query, status, code) in [
        ("?owner=admin".to_owned(), 403, "operators_only"),
        ("?type=media".to_owned(), 400, "query_malformed"),
        (String::new(), 429, "streams_too_many"),
    ] {
        let refused = by_bob(&query).send().await.unwrap();
        assert_eq!(refused.status().as_u16(), status, "{query}");
        assert_eq!(refused.json::<Value>().await.unwrap()["code"], code);
    }
    set_title(&cluster, &media_id, "not bob's").await;
    let own = "00000000000000000000000001";
    publish_event(&cluster.bus, "bob", own, 1, 1).await;
    assert_eq!(next(&mut frames).await.2["media_id"], own, "the first event that comes is bob's");
    assert_eq!(receive(&mut socket).await.unwrap()["data"]["media_id"], own);
    let by = ("admin", schemas::ids::RequestId::from_bytes([7; 16]));
    assert!(auth::key::revoke_key(&cluster.bus, key_id, |_| true, by).await.unwrap());
    let ended = async {
        // The event about the key itself is the owner's to see.
        while frames.next_or_end().await.is_some() {}
        loop {
            if let Err(code) = receive(&mut socket).await {
                return code;
            }
        }
    };
    let code = timeout(Duration::from_secs(2), ended).await.expect("both end within two seconds");
    assert_eq!(code, 4_401);
}

#[tokio::test]
async fn a_key_for_events_alone_gets_no_documents() {
    let cluster = start("").await;
    let media_id = open_upload(&cluster).await;
    let made = cluster.request(Method::POST, "/v1/auth/keys");
    let made = made.json(&json!({ "scopes": ["events"] })).send().await.unwrap();
    let made: Value = made.json().await.unwrap();
    let key = made["key"].as_str().unwrap_or_else(|| panic!("{made}"));
    let follow = async |media_id: &str| {
        let url = format!("{}/v1/events?media={media_id}", cluster.url);
        cluster.http.get(url).bearer_auth(key).send().await.unwrap()
    };
    let mut frames = EventFrames::new(follow(&media_id).await);
    let (cursor, kind, data) = next(&mut frames).await;
    assert_eq!((kind.as_str(), data), ("snapshot", json!({ "cursor": cursor })));
    set_title(&cluster, &media_id, "a title").await;
    assert_eq!(next(&mut frames).await.1, "media.changed");
    assert_eq!(follow(&"0".repeat(26)).await.status(), StatusCode::NOT_FOUND);
}

/// What EVENTS has about a medium: ids of events by kind, in order.
async fn stored(cluster: &Cluster, name: &str, id: &str) -> Vec<(u64, String)> {
    let all = vec![subjects::EVENTS_ALL.to_owned()];
    let config = reader::ReaderConfig::new(subjects::EVENTS, all, ReaderStart::All);
    let mut entries = cluster.bus.open_reader(config).await.unwrap();
    let mut found = Vec::new();
    while let Some(entry) = entries.next_pending().await.unwrap() {
        if entry.headers.get_last(name).is_some_and(|value| value.as_str() == id) {
            found.push((entry.sequence, entry.subject.clone()));
        }
    }
    found
}

/// All pages of a history: sequences and subjects.
async fn read_history(cluster: &Cluster, path: &str) -> Vec<(u64, String)> {
    let (mut found, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = cluster.get(&format!("{path}/history?limit=4{cursor}")).await;
        let items = page["items"].as_array().unwrap();
        assert!(items.len() <= 4, "{page}");
        found.extend(items.iter().map(|item| {
            let sequence = item["id"].as_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
            (sequence, item["data"]["subject"].as_str().unwrap().to_owned())
        }));
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return found,
        }
    }
}

#[tokio::test]
async fn a_history_has_all_that_the_stream_has_also_of_what_is_removed() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(2, "320x180", "25"), "clip.mp4").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    let path = format!("/v1/media/{media_id}");
    set_title(&cluster, &media_id, "a title").await;
    let history = read_history(&cluster, &path).await;
    assert_eq!(history, stored(&cluster, headers::MEDIA_ID, &media_id).await, "one's own change is in it");
    assert!(history[0].1.starts_with("evt.upload.created."), "{history:?}");
    let jobs = cluster.get(&format!("/v1/jobs?media_id={media_id}")).await;
    let job_id = jobs["items"][0]["job_id"].as_str().unwrap();
    let of_job = read_history(&cluster, &format!("/v1/jobs/{job_id}")).await;
    assert_eq!(of_job, stored(&cluster, headers::JOB_ID, job_id).await);
    assert!(of_job.len() > 2, "{of_job:?}");
    let bob = auth::create_api_key(&cluster.bus, "bob", PrincipalRole::Owner).await.unwrap();
    for path in [format!("{path}/history"), format!("/v1/jobs/{job_id}/history")] {
        let refused =
            cluster.http.get(format!("{}{path}", cluster.url)).bearer_auth(&bob).send().await.unwrap();
        assert_eq!(refused.status(), StatusCode::NOT_FOUND, "{path}");
    }
    let removal = cluster.request(Method::DELETE, &path).header(header::IF_MATCH, "*").send().await.unwrap();
    assert_eq!(removal.status(), StatusCode::NO_CONTENT);
    let removed = read_history(&cluster, &path).await;
    assert!(removed.last().unwrap().1.starts_with("evt.media.removed."), "{removed:?}");
    let command = std::process::Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["media", "history", &media_id, "--json", "--url", &cluster.url, "--api-key", &cluster.key])
        .output();
    let printed = command.unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    assert_eq!(printed.lines().count(), removed.len(), "{printed}");
    let kinds: BTreeMap<String, usize> = printed.lines().fold(BTreeMap::new(), |mut kinds, line| {
        let event: Value = serde_json::from_str(line).unwrap();
        *kinds.entry(event["event"].as_str().unwrap().to_owned()).or_default() += 1;
        kinds
    });
    assert_eq!((kinds["upload.created"], kinds["media.removed"]), (1, 1), "{kinds:?}");
}

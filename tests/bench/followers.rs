//! Many followers of events on one replica: what each costs, and whether each gets all, in order.
//!
//! Each gets the whole stream of an admin, over a connection of its own; those come from several loopback addresses, since one may have
//! a quarter of all connections only. Descriptors have to be raised for it: `ulimit -n 65536`.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use reqwest::{Method, header};
use serde_json::json;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpSocket, TcpStream},
    sync::watch,
    task::JoinSet,
};

use crate::{
    Aim, Row,
    process::{cpu_seconds, resident_kb},
    server::Server,
    size,
};

/// Connections from one address.
const PER_ADDRESS: usize = 2_500;
/// Events that may be on their way to the slowest follower.
const WINDOW: usize = 50;
/// Connections that are opened at the same time.
const OPENING: usize = 64;

/// Limits that are for many clients of one owner.
const SETTINGS: &str = "[ingress.events]\nfollowers_max = 20000\nfollowers_per_principal_max = 20000\n\
    [ingress.limit.rates]\napi = { capacity = 1000000, refill_per_s = 100000 }\n\
    metadata = { capacity = 1000000, refill_per_s = 100000 }\nupload = { capacity = 1000, refill_per_s = 1000 }\n";

/// How far all followers are: the number of events that every one of them has.
struct Counts {
    /// How many followers have that many events.
    by_count: Vec<AtomicUsize>,
    /// Followers whose events came in another order, or not all of them.
    wrong: AtomicUsize,
    all_have: watch::Sender<usize>,
}

async fn connect(address: SocketAddr, number: usize, key: &str) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    let from = Ipv4Addr::new(127, 0, 1, u8::try_from(number / PER_ADDRESS).unwrap());
    socket.bind((from, 0).into()).unwrap();
    let mut stream = socket.connect(address).await.unwrap();
    let head = format!(
        "GET /v1/events HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer {key}\r\nAccept: text/event-stream\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The snapshot is there: the follower has its place.
    let (mut text, mut piece) = (String::new(), [0; 2_048]);
    while !text.contains("event: snapshot") {
        let read = stream.read(&mut piece).await.unwrap();
        assert!(read > 0, "{text}");
        text.push_str(&String::from_utf8_lossy(&piece[..read]));
    }
    stream
}

/// Reads events and counts those of the bench, whose titles are numbers.
async fn read_events(mut stream: TcpStream, counts: Arc<Counts>, followers: usize, events: usize) {
    let (mut rest, mut piece, mut next) = (Vec::<u8>::new(), [0; 4_096], 0);
    let marker = b"\"title\":\"bench ";
    while next < events {
        let read = stream.read(&mut piece).await.unwrap_or(0);
        if read == 0 {
            break;
        }
        rest.extend_from_slice(&piece[..read]);
        let mut from = 0;
        while let Some(at) = rest[from..].windows(marker.len()).position(|bytes| bytes == marker) {
            let begin = from + at + marker.len();
            let Some(end) = rest[begin..].iter().position(|byte| *byte == b'"') else { break };
            let number: usize = std::str::from_utf8(&rest[begin..begin + end]).unwrap().parse().unwrap();
            if number != next {
                counts.wrong.fetch_add(1, Ordering::Relaxed);
                return;
            }
            next += 1;
            from = begin + end;
            if counts.by_count[number].fetch_add(1, Ordering::Relaxed) + 1 == followers {
                counts.all_have.send_replace(number + 1);
            }
        }
        // What may be the beginning of a title stays.
        let keep = rest.len().saturating_sub(from).min(64);
        rest.drain(..rest.len() - keep);
    }
}

pub(crate) async fn many_followers() -> Vec<Row> {
    let followers = usize::try_from(size("BENCH_FOLLOWERS", 10_000)).unwrap();
    let events = usize::try_from(size("BENCH_FOLLOWED", 1_000)).unwrap();
    let server = Server::start(SETTINGS);
    let client = reqwest::Client::new();
    let ask =
        |method, path: &str| client.request(method, format!("{}{path}", server.url)).bearer_auth(&server.key);
    let opened = ask(Method::POST, "/v1/uploads").header("tus-resumable", "1.0.0").header("upload-length", 5);
    let opened = opened.send().await.unwrap();
    let media_id = opened.headers()["streamgate-media-id"].to_str().unwrap().to_owned();
    let address: SocketAddr = server.url.strip_prefix("http://").unwrap().parse().unwrap();
    let mut streams = Vec::with_capacity(followers);
    // What the first connections make the server set up is no follower's.
    for number in 0..OPENING.min(followers) {
        streams.push(connect(address, number, &server.key).await);
    }
    let (before_kb, opened_before) = (resident_kb(server.pid()), streams.len());
    let key: Arc<str> = server.key.as_str().into();
    while streams.len() < followers {
        let mut opening = JoinSet::new();
        for number in streams.len()..followers.min(streams.len() + OPENING) {
            let key = Arc::clone(&key);
            opening.spawn(async move { connect(address, number, &key).await });
        }
        streams.extend(opening.join_all().await);
    }
    let idle_kb = resident_kb(server.pid());
    let counts = Arc::new(Counts {
        by_count: (0..events).map(|_| AtomicUsize::new(0)).collect(),
        wrong: AtomicUsize::new(0),
        all_have: watch::Sender::new(0),
    });
    let mut reading = JoinSet::new();
    for stream in streams {
        reading.spawn(read_events(stream, Arc::clone(&counts), followers, events));
    }
    let (cpu_before, begun) = (cpu_seconds(server.pid()), Instant::now());
    let mut all_have = counts.all_have.subscribe();
    for number in 0..events {
        let wait = all_have.wait_for(|have| have + WINDOW > number);
        tokio::time::timeout(Duration::from_secs(60), wait).await.expect("all followers get it").unwrap();
        let change = ask(Method::PATCH, &format!("/v1/media/{media_id}")).header(header::IF_MATCH, "*");
        let title = format!("bench {number}");
        let changed = change.json(&json!({ "title": title })).send().await.unwrap();
        assert_eq!(changed.status(), 200, "{}", changed.text().await.unwrap());
    }
    while reading.join_next().await.is_some() {}
    let (cpu_s, wall_s) = (cpu_seconds(server.pid()) - cpu_before, begun.elapsed().as_secs_f64());
    let done_kb = resident_kb(server.pid());
    let complete = counts.by_count[events - 1].load(Ordering::Relaxed);
    eprintln!(
        "{complete} of {followers} got all {events} events in order, {} did not, in {wall_s:.1} s",
        counts.wrong.load(Ordering::Relaxed)
    );
    let each = |kb: f64| (kb - before_kb) / (followers - opened_before) as f64;
    let row =
        |name, ours, unit, aim| Row { name, ours, baseline: 1.0, unit, against: "none", aim: Aim::Most(aim) };
    vec![
        row("memory of a follower that waits", each(idle_kb), "KiB", 20.0),
        row("the same after 1,000 events", each(done_kb), "KiB", 20.0),
        row("followers without all events", (followers - complete) as f64, "", 0.0),
        row(
            "CPU of the server for 1,000 events to each of 1,000 followers",
            cpu_s * 1e6 / (followers * events) as f64,
            "s",
            10.0,
        ),
    ]
}

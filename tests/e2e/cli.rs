//! The real binary as people use it: help, exit statuses, and commands against a running installation.

use std::{
    io::{BufRead, BufReader},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use clap::CommandFactory;
use nats::{
    Role,
    testing::{TestBroker, store_dead_letter},
};
use parking_lot::Mutex;
use schemas::{
    ids::{MediaId, UploadId},
    media, subjects,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{
        Notify,
        mpsc::{self, UnboundedReceiver},
    },
};

use crate::{
    audit_replay,
    harness::{Cluster, Options, WAIT_MAX, poll, sample},
    messages::problem,
};

/// The program in `folder`, which is also its home, without settings from outside.
pub(crate) fn program(folder: &Path, args: &[&str]) -> Command {
    program_at(Path::new(env!("CARGO_BIN_EXE_streamgate")), folder, args)
}

/// The same of a copy of the program.
pub(crate) fn program_at(path: &Path, folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(path);
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("STREAMGATE_")) {
        command.env_remove(name);
    }
    command.args(args).current_dir(folder).env("XDG_STATE_HOME", folder.join("state")).stdin(Stdio::null());
    command
}

/// How a command ended and what it said.
#[derive(Debug)]
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) out: String,
    pub(crate) err: String,
}

impl From<Output> for Said {
    fn from(output: Output) -> Self {
        Self {
            status: output.status.code().unwrap(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

impl Said {
    pub(crate) fn json(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// Runs a command to its end, off the thread that the test's own servers run on.
pub(crate) async fn run(mut command: Command) -> Said {
    let output = tokio::task::spawn_blocking(move || command.output().unwrap());
    tokio::time::timeout(WAIT_MAX, output).await.unwrap().unwrap().into()
}

async fn plain(args: &[&str]) -> Said {
    let dir = tempfile::tempdir().unwrap();
    run(program(dir.path(), args)).await
}

/// Starts a command; what it prints comes line by line, read off the thread that the test's own servers run on.
pub(crate) fn start(mut command: Command) -> (Child, UnboundedReceiver<Value>) {
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let out = BufReader::new(child.stdout.take().unwrap());
    let (sender, lines) = mpsc::unbounded_channel();
    std::thread::spawn(move || {
        for line in out.lines().map_while(Result::ok) {
            sender.send(serde_json::from_str(&line).unwrap()).ok();
        }
    });
    (child, lines)
}

pub(crate) async fn next(lines: &mut UnboundedReceiver<Value>) -> Value {
    tokio::time::timeout(WAIT_MAX, lines.recv()).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_wrong_command_line_ends_with_2() {
    for args in [
        &["--nonsense"][..],
        &["nonsense"],
        &[],
        &["up", "--replicas", "many"],
        &["media", "ls", "--limit", "201"],
        &["audit", "replay", "--from", "1", "--since", "1h"],
        &["audit", "replay", "--limit", "0"],
        &["audit", "replay", "--to", "0"],
        &["dead", "redrive"],
        &["dead", "redrive", "3", "--all"],
        &["worker", "nothing"],
        &["completions", "tcsh"],
    ] {
        let said = plain(args).await;
        assert_eq!(said.status, 2, "{args:?}: {said:?}");
        assert_eq!(said.out, "", "{args:?}");
        assert!(said.err.contains("--help"), "{args:?}: {said:?}");
    }
}

#[tokio::test]
async fn a_wrong_setting_ends_with_64_and_is_named() {
    let dir = tempfile::tempdir().unwrap();
    for (text, name) in [
        ("[ingres]\n", "ingres"),
        ("[transcode]\nprofile = \"none\"\n", "transcode.profile"),
        ("[broker]\nreplicas = 2\n", "broker.replicas"),
        ("[ingress]\npublic_url = \"media.example.org\"\n", "ingress.public_url"),
    ] {
        std::fs::write(dir.path().join("s.toml"), text).unwrap();
        for command in [&["up"][..], &["demo"], &["config"], &["doctor"], &["nats", "diff"]] {
            let said = run(program(dir.path(), &[command, &["--config", "s.toml"]].concat())).await;
            assert_eq!(said.status, 64, "{command:?} {text}: {said:?}");
            assert!(said.err.contains(name) && said.out.is_empty(), "{command:?} {text}: {said:?}");
        }
    }
    for (args, name) in [
        (&["up", "--config", "absent.toml"][..], "absent.toml"),
        (&["config", "--log", "a=b=c"], "log"),
        (&["media", "ls", "--url", "ftp://h"], "--url"),
    ] {
        let said = run(program(dir.path(), args)).await;
        assert_eq!(said.status, 64, "{said:?}");
        assert!(said.err.contains(name), "{said:?}");
    }
    assert!(!dir.path().join("data").exists(), "nothing was started");
}

#[tokio::test]
async fn every_command_explains_itself() {
    fn walk(command: &clap::Command, path: &[&str], found: &mut Vec<Vec<String>>) {
        found.push(path.iter().map(|word| (*word).to_owned()).collect());
        for below in command.get_subcommands() {
            walk(below, &[path, &[below.get_name()]].concat(), found);
        }
    }
    let mut paths = Vec::new();
    walk(&streamgate::cli::Cli::command(), &[], &mut paths);
    assert!(paths.len() > 20, "{paths:?}");
    for path in paths {
        let args: Vec<&str> = path.iter().map(String::as_str).chain(["--help"]).collect();
        let said = plain(&args).await;
        assert_eq!((said.status, said.err.as_str()), (0, ""), "{args:?}");
        assert!(said.out.contains("Usage: streamgate"), "{args:?}: {}", said.out);
        // What is a command's own stands first, what is everywhere last.
        let heads = ["Usage:", "Options:", "Settings:", "Server:", "Everywhere:"];
        let places: Vec<usize> =
            heads.iter().filter_map(|head| said.out.find(&format!("\n{head}"))).collect();
        assert!(places.is_sorted(), "{args:?}: {}", said.out);
    }
}

#[tokio::test]
async fn help_of_a_command_begins_with_its_own_flags() {
    for (command, own, shared) in [
        (
            &["upload"][..],
            &["--title", "--public", "--wait", "--name", "--type"][..],
            &["--url", "--data-dir", "--config"][..],
        ),
        (&["dead", "ls"], &["--limit"], &["--listen", "--nats-url", "--config"]),
        (&["watch"], &["--media", "--since"], &["--url", "--log"]),
    ] {
        let said = plain(&[command, &["--help"]].concat()).await;
        let is_of = |line: &str, flag: &str| line.split_whitespace().next() == Some(flag);
        let place = |flag: &&str| said.out.lines().position(|line| is_of(line, flag)).unwrap();
        let last_own = own.iter().map(place).max().unwrap();
        let first_shared = shared.iter().map(place).min().unwrap();
        assert!(last_own < first_shared, "{command:?}: {}", said.out);
        assert!(said.out.contains("\nOptions:"), "{command:?}: {}", said.out);
    }
}

#[tokio::test]
async fn settings_are_printed_without_secrets() {
    let dir = tempfile::tempdir().unwrap();
    let text = "[broker]\nurls = [\"nats://ann:hunter2@h:4222\"]\n[store]\nurl = \"s3://bucket\"\n\
                [store.options]\naws_secret_access_key = \"hunter3\"\n";
    std::fs::write(dir.path().join("s.toml"), text).unwrap();
    let said = run(program(dir.path(), &["config", "--config", "s.toml", "--listen", "127.0.0.1:9"])).await;
    assert_eq!(said.status, 0, "{said:?}");
    assert!(!said.out.contains("hunter") && !said.err.contains("hunter"), "{said:?}");
    let settings: toml::Table = said.out.parse().unwrap();
    assert_eq!(settings["ingress"]["listen"].as_str(), Some("127.0.0.1:9"));
    assert_eq!(settings["store"]["url"].as_str(), Some("s3://bucket"));
    // Each setting is explained above it; those of an array of tables once.
    let mut before = "";
    let mut explained: Vec<(&str, &str)> = Vec::new();
    let mut table = "";
    for line in said.out.lines() {
        if line.starts_with('[') {
            table = line;
        } else if let Some((key, _)) = line.split_once(" = ").filter(|_| !line.starts_with(['#', ' ', '"'])) {
            let is_known = before.starts_with('#') || explained.contains(&(table, key));
            assert!(is_known || table == "[store.options]", "{table} {line}");
            explained.push((table, key));
        }
        before = line;
    }
    assert!(explained.len() > 200, "{}", explained.len());
    let said = run(program(dir.path(), &["config", "--json"])).await;
    assert_eq!(said.json()[0]["ingress"]["listen"], "127.0.0.1:8080");
}

#[tokio::test]
async fn settings_in_the_old_form_are_read_and_the_new_form_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("s.toml"), "[ingress]\ngrace_ms = 90000\n").unwrap();
    let warning = "ingress.grace_ms = 90000 is the old form; write grace = \"1m 30s\"";
    for args in
        [&["config"][..], &["config", "--json"], &["doctor"], &["nats", "diff", "--nats-url", "127.0.0.1:1"]]
    {
        let said = run(program(dir.path(), &[args, &["--config", "s.toml"]].concat())).await;
        assert_eq!(said.err.matches(warning).count(), 1, "{args:?}: {said:?}");
    }
    let said = run(program(dir.path(), &["config", "--config", "s.toml"])).await;
    std::fs::write(dir.path().join("s.toml"), &said.out).unwrap();
    let again = run(program(dir.path(), &["config", "--config", "s.toml"])).await;
    assert_eq!((again.status, again.err.as_str(), again.out), (0, "", said.out));
    let said = run(program(dir.path(), &["config", "--config", "s.toml", "--json"])).await;
    assert_eq!(said.json()[0]["ingress"]["grace"], "1m 30s");
}

#[tokio::test]
async fn completions_know_the_commands() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let said = plain(&["completions", shell]).await;
        assert_eq!((said.status, said.err.as_str()), (0, ""), "{shell}");
        assert!(said.out.contains("redrive") && said.out.contains("nats-seed-file"), "{shell}");
    }
}

#[tokio::test]
async fn the_doctor_says_what_is_missing_and_how_to_get_it() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = program(
        dir.path(),
        &["doctor", "--json", "--listen", &address, "--media-child", "/nowhere/streamgate-media"],
    );
    command.env("NATS_SERVER", "/nowhere/nats-server");
    let said = run(command).await;
    assert_eq!(said.status, 1, "{said:?}");
    let report = &said.json()[0];
    assert_eq!(report["ok"], false);
    for (name, advice) in
        [("nats-server", "make setup"), ("streamgate-media", "--media-child"), ("public port", "--listen")]
    {
        let found = report["checks"].as_array().unwrap().iter().find(|check| check["name"] == name).unwrap();
        assert_eq!(found["ok"], false, "{found}");
        assert!(found["advice"].as_str().unwrap().contains(advice), "{found}");
    }
    let well = run(program(dir.path(), &["doctor", "--listen", "127.0.0.1:0"])).await;
    assert_eq!(well.status, 0, "{well:?}");
    assert!(!dir.path().join("data").exists(), "it only looks");
}

/// A medium of each kind that is given up, as it lies in the records, and the letters that belong to them.
struct GivenUp {
    media_id: MediaId,
    letter: u64,
}

async fn rejected(bus: &nats::Bus, root: &Path, has_source: bool) -> GivenUp {
    let media_id = MediaId::from_bytes(nats::new_id_bytes());
    let key = schemas::keys::source_key(media_id);
    if has_source {
        let path = root.join(&key);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, b"bytes").unwrap();
    }
    let received = schemas::upload::UploadReceived {
        upload_id: UploadId::from_bytes(nats::new_id_bytes()),
        media_id,
        owner: "owner".into(),
        key,
        size_bytes: 5,
        filename: None,
        content_type: None,
        digest: None,
        settings: schemas::encode::EncodeSettings::default(),
    };
    let record = media_record(media_id, media::MediaStatus::Rejected);
    bus.commit_record(&mut nats::VersionedRecord::new(record), nats::Outbox::new()).await.unwrap();
    let subject = subjects::event_subject(&received);
    let payload = nats::encode_message("test", &received).unwrap();
    GivenUp {
        media_id,
        letter: store_dead_letter(bus, "upload", (subjects::EVENTS, &subject), payload).await,
    }
}

fn media_record(media_id: MediaId, status: media::MediaStatus) -> media::MediaRecord {
    media::MediaRecord {
        code: Some("store_unavailable".into()),
        ..media::MediaRecord::new(media_id, "owner".into(), status, 1)
    }
}

#[tokio::test]
async fn dead_letters_get_a_second_chance_once() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Admin).await;
    let folder = broker.data_dir().to_owned();
    let root = folder.join("store");
    let (good, gone) = (rejected(&bus, &root, true).await, rejected(&bus, &root, false).await);
    let junk = nats::encode_message("test", &json!({ "number": 1 })).unwrap();
    let unreadable =
        store_dead_letter(&bus, "transcode", (subjects::JOBS, "job.transcode.p1.x.v0000"), junk).await;
    let dead = |args: &[&str]| {
        let args: Vec<String> = ["dead"].iter().chain(args).map(|arg| (*arg).to_owned()).collect();
        let folder = folder.clone();
        async move {
            let args: Vec<&str> = args.iter().map(String::as_str).collect();
            // The folder of a running `up` is all it needs.
            run(program(&folder, &[&args[..], &["--data-dir", "."]].concat())).await
        }
    };
    // Without its marker a store is away, and nothing is said of what lies in it.
    let away = dead(&["redrive", &gone.letter.to_string(), "--json"]).await;
    assert_eq!((away.status, &away.json()[0]["code"]), (1, &json!("store_unavailable")), "{away:?}");
    let adopted = run(program(&folder, &["store", "adopt", "--data-dir", "."])).await;
    assert_eq!(adopted.status, 0, "{adopted:?}");
    let listed = dead(&["ls"]).await;
    assert_eq!(listed.status, 0, "{listed:?}");
    assert!(listed.out.contains("crashed") && !listed.out.contains('\u{1b}'), "{listed:?}");
    let shown = dead(&["show", &unreadable.to_string(), "--json"]).await;
    assert_eq!(shown.json()[0]["payload"], json!({ "number": 1 }), "{shown:?}");
    let absent = dead(&["show", "99"]).await;
    assert_eq!(absent.status, 1);
    assert!(absent.err.contains("dead ls"), "{absent:?}");

    let refused = dead(&["redrive", "--all", "--stage", "transcode", "--json"]).await;
    assert_eq!((refused.status, &refused.json()[0]["code"]), (1, &json!("letter_unreadable")), "{refused:?}");
    let refused = dead(&["redrive", &gone.letter.to_string(), "--json"]).await;
    assert_eq!((refused.status, &refused.json()[0]["code"]), (1, &json!("source_gone")), "{refused:?}");
    let media_id = good.media_id.to_string();
    let first = dead(&["redrive", &good.letter.to_string()]).await;
    assert_eq!(first.status, 0, "{first:?}");
    assert!(first.out.contains(&media_id) && first.out.contains("attempt 1"), "{first:?}");
    let record = bus.load_record::<media::MediaRecord>(&media_id).await.unwrap().unwrap().record;
    assert_eq!((record.status, record.attempt.number, record.code), (media::MediaStatus::Uploading, 1, None));
    let again = dead(&["redrive", &good.letter.to_string(), "--json"]).await;
    assert_eq!((again.status, &again.json()[0]["result"]), (0, &json!("superseded")), "{again:?}");
    let rest = dead(&["redrive", "--all", "--json"]).await;
    assert_eq!((rest.status, rest.json().len()), (1, 2), "what was refused still waits: {rest:?}");
    let discarded = dead(&["discard", &unreadable.to_string(), "99", "--json"]).await;
    assert_eq!((discarded.status, discarded.json().len()), (1, 1), "{discarded:?}");
    assert!(discarded.err.contains("there is no dead letter 99"), "{discarded:?}");
    let rest = dead(&["redrive", "--all", "--json"]).await;
    assert_eq!((rest.status, rest.json().len()), (1, 1), "what was discarded waits for nobody: {rest:?}");
    let states: Vec<Value> =
        dead(&["ls", "--json"]).await.json().iter().map(|letter| letter["state"].clone()).collect();
    assert_eq!(states, ["redriven", "waiting", "discarded"]);
    let stream = bus.context().get_stream(subjects::EVENTS).await.unwrap();
    // And one for each change of a letter.
    assert_eq!(stream.cached_info().state.messages, 1 + 3, "one new attempt, and nothing twice");
}

#[tokio::test]
async fn the_topology_is_compared_and_applied() {
    let broker = TestBroker::start_empty().await;
    let folder = broker.data_dir();
    let nats = |verb| run(program(folder, &["nats", verb, "--data-dir", ".", "--json"]));
    let missing = nats("diff").await;
    assert_eq!(missing.status, 1, "{missing:?}");
    assert!(missing.json().iter().any(|d| d["asset"] == "stream EVENTS" && d["class"] == "absent"));
    let applied = nats("apply").await;
    assert_eq!(
        (applied.status, applied.out.lines().count()),
        (0, missing.out.lines().count()),
        "{applied:?}"
    );
    let (same, again) = (nats("diff").await, nats("apply").await);
    assert_eq!((same.status, same.out.as_str()), (0, ""), "{same:?}");
    assert_eq!((again.status, again.out.as_str()), (0, ""), "{again:?}");
    assert!(same.err.contains("DAYS LEFT") && same.err.contains("KV_uploads"), "{same:?}");
    let doctor = async || {
        let command = program(folder, &["doctor", "--data-dir", ".", "--json", "--listen", "127.0.0.1:0"]);
        let said = run(command).await;
        let report = said.json()[0].clone();
        let checks = report["checks"].as_array().unwrap();
        (said.status, checks.iter().find(|check| check["name"] == "room on the broker").unwrap().clone())
    };
    let (status, room) = doctor().await;
    assert_eq!((status, &room["ok"]), (0, &json!(true)), "{room}");
    let bus = broker.bus(Role::Admin).await;
    bus.context().get_key_value("uploads").await.unwrap().put("x", vec![0; 1000].into()).await.unwrap();
    let info = bus.context().get_stream("KV_uploads").await.unwrap().cached_info().clone();
    let mut config = info.config;
    config.max_bytes = i64::try_from(info.state.bytes).unwrap();
    bus.context().update_stream(&config).await.unwrap();
    let (status, room) = doctor().await;
    assert_eq!((status, &room["ok"]), (1, &json!(false)), "{room}");
    assert!(room["found"].as_str().unwrap().starts_with("KV_uploads holds "), "{room}");
    assert!(room["advice"].as_str().unwrap().contains("[capacity]"), "{room}");
    let nowhere = plain(&["nats", "diff"]).await;
    assert_eq!(nowhere.status, 1);
    assert!(nowhere.err.contains("--nats-url"), "{nowhere:?}");
}

/// A way to the ingress that can be blocked and led to another place.
pub(crate) struct Proxy {
    pub(crate) url: String,
    target: Arc<Mutex<SocketAddr>>,
    /// Bytes from clients so far, and how many are let through.
    passed: Arc<AtomicU64>,
    passed_max: Arc<AtomicU64>,
    blocked: Arc<Notify>,
}

fn address(url: &str) -> SocketAddr {
    url.strip_prefix("http://").unwrap().parse().unwrap()
}

impl Proxy {
    pub(crate) async fn start(target: &str, passed_max: u64) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let proxy = Self {
            url: format!("http://{}", listener.local_addr().unwrap()),
            target: Arc::new(Mutex::new(address(target))),
            passed: Arc::default(),
            passed_max: Arc::new(AtomicU64::new(passed_max)),
            blocked: Arc::default(),
        };
        let (target, passed) = (Arc::clone(&proxy.target), Arc::clone(&proxy.passed));
        let (passed_max, blocked) = (Arc::clone(&proxy.passed_max), Arc::clone(&proxy.blocked));
        tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let target = *target.lock();
                let (passed, passed_max, blocked) =
                    (Arc::clone(&passed), Arc::clone(&passed_max), Arc::clone(&blocked));
                tokio::spawn(async move {
                    // A target that is away looks like a server that closes at once.
                    let Ok(server) = TcpStream::connect(target).await else { return };
                    let (mut from_client, mut to_client) = client.into_split();
                    let (mut from_server, mut to_server) = server.into_split();
                    let up = async {
                        let mut piece = vec![0; 16 * 1024];
                        while let Ok(count @ 1..) = from_client.read(&mut piece).await {
                            let count_u64 = count as u64;
                            let before = passed.fetch_add(count_u64, Ordering::SeqCst);
                            if before + count_u64 > passed_max.load(Ordering::SeqCst) {
                                blocked.notify_one();
                                std::future::pending::<()>().await;
                            }
                            if to_server.write_all(&piece[..count]).await.is_err() {
                                return;
                            }
                        }
                    };
                    tokio::select! {
                        () = up => {}
                        _ = tokio::io::copy(&mut from_server, &mut to_client) => {}
                    }
                });
            }
        });
        proxy
    }

    /// Leads to another place from the next connection on.
    pub(crate) fn lead_to(&self, url: &str) {
        *self.target.lock() = address(url);
    }
}

#[tokio::test]
async fn an_upload_that_was_cut_goes_on_and_its_end_is_waited_for() {
    const CUT_BYTES: u64 = 24 << 20;
    let mut cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&cluster.url, CUT_BYTES).await;
    // A film with so much behind it that it can be cut.
    let mut film = sample(4, "320x180", "25");
    let padding = (40_usize << 20) - film.len();
    film.extend_from_slice(&u32::try_from(padding).unwrap().to_be_bytes());
    film.extend_from_slice(b"free");
    film.resize(40 << 20, 0);
    std::fs::write(home.path().join("film.mp4"), &film).unwrap();
    let (proxy_url, key) = (proxy.url.clone(), cluster.key.clone());
    let upload = |extra: &[&str]| {
        let args = ["upload", "film.mp4", "--url", &proxy_url, "--api-key", &key];
        program(home.path(), &[&args[..], extra].concat())
    };
    let mut cut = upload(&[]).spawn().unwrap();
    tokio::time::timeout(WAIT_MAX, proxy.blocked.notified()).await.unwrap();
    cut.kill().unwrap();
    cut.wait().unwrap();
    // What had come is kept, once the server has met the end of the connection.
    let upload_id = cluster.event("upload.created", |event| event.kind == "upload.created").await.id;
    let status = format!("/v1/uploads/{upload_id}/status");
    let kept = poll(WAIT_MAX, async || {
        (cluster.get(&status).await["offset_bytes"].as_u64().unwrap() > 0).then_some(())
    });
    kept.await.unwrap();
    proxy.passed_max.store(u64::MAX, Ordering::SeqCst);
    let before = proxy.passed.load(Ordering::SeqCst);
    let said = run(upload(&["--wait", "--json"])).await;
    assert_eq!(said.status, 0, "{said:?}\n{}", cluster.logs());
    let sent = proxy.passed.load(Ordering::SeqCst) - before;
    assert!(sent < film.len() as u64, "{sent} bytes were sent again");
    assert!(said.err.contains("Going on behind"), "{said:?}");
    let answer = &said.json()[0];
    assert_eq!(answer["status"], "ready", "{answer}");
    let media_id = answer["media_id"].as_str().unwrap();
    assert_eq!(cluster.end_of(media_id).await.kind, "job.succeeded");
    let created = cluster.all_events().await.iter().filter(|event| event.kind == "upload.created").count();
    assert_eq!(created, 1, "one upload, in two runs");
    let master = cluster.http.get(answer["hls_url"].as_str().unwrap()).send().await.unwrap();
    assert!(master.text().await.unwrap().starts_with("#EXTM3U"));
    looks_back(&cluster, home.path(), media_id).await;
}

/// What can be read of it afterwards.
async fn looks_back(cluster: &Cluster, home: &Path, media_id: &str) {
    let ask = |args: &[&str]| {
        let server = ["--url", &cluster.url, "--api-key", &cluster.key];
        run(program(home, &[args, &server].concat()))
    };
    let media = ask(&["media", "ls", "--status", "ready", "--json"]).await;
    assert_eq!(media.json()[0]["media_id"], media_id, "{media:?}");
    let shown = ask(&["media", "show", media_id]).await;
    assert!(shown.out.contains("title: film.mp4"), "{shown:?}");
    let jobs = ask(&["jobs", "ls", "--media", media_id]).await;
    assert!(jobs.out.contains("succeeded"), "{jobs:?}");
    let watched = ask(&["watch", "--media", media_id, "--json"]).await;
    assert_eq!((watched.status, &watched.json().last().unwrap()["event"]), (0, &json!("media.ready")));
    let verified = ask(&["audit", "verify", "--json"]).await;
    assert_eq!((verified.status, &verified.json()[0]["sound"]), (0, &json!(true)), "{verified:?}");
    let events = cluster.bus.context().get_stream(subjects::EVENTS).await.unwrap();
    audit_replay::replays_what_is_asked_for(&ask, media_id, events.cached_info().state.last_sequence).await;
    let absent = ask(&["media", "show", "00000000000000000000000000"]).await;
    assert_eq!(absent.status, 1);
    assert!(absent.err.contains("not_found") && absent.out.is_empty(), "{absent:?}");
    let absent = problem(&ask(&["media", "show", "00000000000000000000000000", "--json"]).await);
    assert_eq!(absent["type"], format!("{}/docs#problem-not_found", cluster.url), "{absent}");
    assert_eq!((&absent["status"], &absent["code"]), (&json!(404), &json!("not_found")), "{absent}");
    let stranger = run(program(home, &["media", "ls", "--url", &cluster.url])).await;
    assert_eq!(stranger.status, 1);
    assert!(stranger.err.contains("needs an API key, and there is none in data/api-key"), "{stranger:?}");
    assert!(stranger.err.contains("--api-key") && !stranger.err.contains("Bearer"), "{stranger:?}");
    let wrong = run(program(home, &["media", "ls", "--url", &cluster.url, "--api-key", "sg_wrong"])).await;
    assert!(wrong.err.contains("does not take the key from --api-key"), "{wrong:?}");
    assert!(wrong.err.contains("revoked") && wrong.err.contains("--data-dir"), "{wrong:?}");
}

/// How a visitor without a credential is answered who wants to play a medium.
async fn status_for_visitor(cluster: &Cluster, media_id: &str) -> u16 {
    let url = format!("{}/v1/media/{media_id}/playback", cluster.url);
    cluster.http.post(url).send().await.unwrap().status().as_u16()
}

#[tokio::test]
async fn a_medium_is_public_from_its_upload_on_and_until_it_is_taken_back() {
    let mut cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("film.mp4"), sample(2, "320x180", "25")).unwrap();
    let ask = |args: &[&str]| {
        let server = ["--url", &cluster.url, "--api-key", &cluster.key];
        run(program(home.path(), &[args, &server].concat()))
    };
    let said = ask(&["upload", "film.mp4", "--public", "--title", "By the sea", "--wait", "--json"]).await;
    assert_eq!(said.status, 0, "{said:?}");
    let media_id = said.json()[0]["media_id"].as_str().unwrap().to_owned();
    let shown = ask(&["media", "show", &media_id]).await;
    assert!(shown.out.contains("title: By the sea"), "{shown:?}");
    assert_eq!(status_for_visitor(&cluster, &media_id).await, 200);

    // Several at once; what can't be read is said before one is sent.
    std::fs::write(home.path().join("other.mp4"), sample(2, "160x90", "25")).unwrap();
    let refused = ask(&["upload", "other.mp4", "absent.mp4"]).await;
    assert!(refused.status == 1 && refused.err.contains("absent.mp4 can't be read"), "{refused:?}");
    let refused = ask(&["upload", "other.mp4", "film.mp4", "--title", "Both"]).await;
    assert!(refused.status == 1 && refused.err.contains("are for one file"), "{refused:?}");
    let listed = ask(&["media", "ls", "--json"]).await;
    assert_eq!(listed.json().len(), 1, "{listed:?}");
    let both = ask(&["upload", "other.mp4", "film.mp4", "--wait", "--json"]).await;
    let statuses: Vec<_> = both.json().iter().map(|answer| answer["status"].clone()).collect();
    assert_eq!((both.status, statuses), (0, vec![json!("ready"), json!("ready")]), "{both:?}");

    let edit = ["media", "edit", &media_id];
    let nothing = ask(&edit).await;
    assert!(nothing.status == 1 && nothing.err.contains("nothing to change"), "{nothing:?}");
    let said =
        ["--tag", "sea", "--tag", "summer", "--language", "ger", "--link", "https://example.org/ More"];
    let edited = ask(&[&edit[..], &said, &["--attributes", r#"{"shelf":7}"#, "--json"]].concat()).await;
    let document = &edited.json()[0];
    assert_eq!((edited.status, &document["tags"]), (0, &json!(["sea", "summer"])), "{edited:?}");
    assert_eq!((&document["language"], &document["attributes"]["shelf"]), (&json!("de"), &json!(7)));
    assert_eq!(document["links"], json!([{ "url": "https://example.org/", "label": "More" }]));
    let refused = ask(&[&edit[..], &["--link", "javascript:alert(1)"]].concat()).await;
    assert!(refused.status == 1 && refused.err.contains("/links/0/url"), "{refused:?}");
    let edited = ask(&[&edit[..], &["--tag", "", "--json"]].concat()).await;
    assert_eq!((&edited.json()[0]["tags"], &edited.json()[0]["language"]), (&Value::Null, &json!("de")));

    assert_eq!(ask(&["media", "unpublish", &media_id]).await.status, 0);
    assert_eq!(status_for_visitor(&cluster, &media_id).await, 401);
    // What is so already stays so.
    assert_eq!(ask(&["media", "unpublish", &media_id]).await.status, 0);
    for _ in 0..2 {
        let published = ask(&["media", "publish", &media_id]).await;
        assert_eq!(
            (published.status, published.out.trim()),
            (0, &*format!("{}/watch/{media_id}", cluster.url))
        );
    }
    assert_eq!(status_for_visitor(&cluster, &media_id).await, 200);

    let rule = json!({ "kind": "allow_list", "addresses": ["0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359"] });
    let gate = format!("{}/v1/media/{media_id}/gate", cluster.url);
    let put = cluster.http.put(gate).bearer_auth(&cluster.key).header("if-match", "*").json(&rule);
    assert_eq!(put.send().await.unwrap().status(), 200);
    for verb in ["publish", "unpublish"] {
        let refused = ask(&["media", verb, &media_id]).await;
        assert!(refused.status == 1 && refused.err.contains("rule"), "{refused:?}");
    }
    assert_eq!(status_for_visitor(&cluster, &media_id).await, 401, "a rule of its own is left alone");
    assert_eq!(ask(&["media", "publish", "--replace", &media_id]).await.status, 0);
    assert_eq!(status_for_visitor(&cluster, &media_id).await, 200);
    let changes = cluster.all_events().await.into_iter().filter(|event| event.kind == "gate.changed").count();
    assert_eq!(changes, 5, "each change is an event, that of the upload too");
}

#[tokio::test]
async fn values_are_kept_read_and_removed_by_commands() {
    let mut cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().unwrap();
    let (url, key) = (cluster.url.clone(), cluster.key.clone());
    let server = ["--url", &url, "--api-key", &key];
    let ask = async |args: &[&str]| run(program(home.path(), &[&["cache"], args, &server].concat())).await;
    let refused = ask(&["get", "greeting"]).await;
    assert!(refused.status == 1 && refused.err.contains("cache_miss"), "{refused:?}");
    let put = ask(&["put", "greeting", "Good morning", "--ttl", "60", "--json"]).await;
    assert_eq!((put.status, &put.json()[0]["size_bytes"]), (0, &json!(12)), "{put:?}");
    let found = ask(&["get", "greeting"]).await;
    assert_eq!((found.status, found.out.as_str()), (0, "Good morning"), "{found:?}");
    let refused = ask(&["put", "-", "a"]).await;
    assert!(refused.status == 1 && refused.err.contains("cache_key_malformed"), "{refused:?}");
    let stats = ask(&["stats"]).await;
    assert!(stats.status == 0 && stats.out.contains("entries_max: 10000"), "{stats:?}");
    assert_eq!(ask(&["rm", "greeting"]).await.status, 0);
    assert_eq!(ask(&["get", "greeting"]).await.status, 1);
    assert_eq!(ask(&["put", "greeting", "a"]).await.status, 0);
    assert_eq!(ask(&["clear"]).await.status, 0);
    assert_eq!(ask(&["get", "greeting"]).await.status, 1, "it is cleared");
    let cleared =
        cluster.all_events().await.into_iter().filter(|event| event.kind == "cache.cleared").count();
    assert_eq!(cleared, 1);
}

#[tokio::test]
async fn a_rejected_file_ends_with_1() {
    let cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().unwrap();
    std::fs::write(home.path().join("no-film.mp4"), b"no film".repeat(100)).unwrap();
    let args = ["upload", "no-film.mp4", "--wait", "--url", &cluster.url, "--api-key", &cluster.key];
    let said = run(program(home.path(), &args)).await;
    assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.contains("media.rejected") && said.err.contains("(unsupported_type)"), "{said:?}");
    // What is taken is said, and what to do.
    assert!(said.err.contains("MP4, MOV, MKV") && said.err.contains("What to do: Convert it"), "{said:?}");
    let said = run(program(home.path(), &[&args[..], &["--json"]].concat())).await;
    let answer = &said.json()[0];
    assert_eq!((said.status, &answer["code"]), (1, &json!("unsupported_type")), "{said:?}");
    assert!(answer["detail"].as_str().unwrap().contains("MKV"), "{answer}");
    assert!(answer["advice"].as_str().unwrap().starts_with("Convert it"), "{answer}");
    let docs = cluster.http.get(format!("{}/docs", cluster.url)).send().await.unwrap().text().await.unwrap();
    let entry =
        docs.split("id=\"rejection-unsupported_type\"").nth(1).unwrap().split("</dd>").next().unwrap();
    assert!(entry.contains("MP4, MOV, MKV"), "{entry}");
}

#[tokio::test]
async fn watching_goes_on_over_a_restart_without_gap_or_repeat() {
    let mut cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().unwrap();
    let proxy = Proxy::start(&cluster.url, u64::MAX).await;
    let args = ["watch", "--json", "--url", &proxy.url, "--api-key", &cluster.key];
    let (mut watcher, mut lines) = start(program(home.path(), &[&args[..], &["--since", "0-0"]].concat()));
    let first = next(&mut lines).await;
    assert_eq!(first["event"], "admin.key_created", "{first}");
    let ready = cluster.restart("ingress");
    cluster.url = ready["url"].as_str().unwrap().to_owned();
    proxy.lead_to(&cluster.url);
    let media_id = cluster.upload(b"no film".repeat(100), "no-film.mp4").await;
    cluster.media_event("media.rejected", &media_id).await;
    let wanted: Vec<String> = cluster.all_events().await.into_iter().map(|event| event.kind).collect();
    let mut seen = vec![first];
    while seen.last().unwrap()["event"] != "media.rejected" {
        seen.push(next(&mut lines).await);
    }
    watcher.kill().unwrap();
    watcher.wait().unwrap();
    let kinds: Vec<&str> = seen.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(kinds, wanted);
}

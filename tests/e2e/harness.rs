//! One installation for a test: a real broker, a store in a temporary folder or an S3 server, and roles as processes of the
//! real binary, so that each can be killed alone.

use std::{
    collections::{BTreeMap, HashMap},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use futures::StreamExt;
use nats::{
    Bus, ReaderStart, Role, StreamReader, reader,
    testing::{TestBroker, TestCluster},
};
use schemas::{ids::MediaId, subjects};
use serde_json::Value;
use sha2::{Digest, Sha256};
use tempfile::TempDir;

/// Longest wait for anything a test waits for; the slowest machine needs a fraction of it.
pub(crate) const WAIT_MAX: Duration = Duration::from_secs(150);

/// The workers of one installation; each is one process.
pub(crate) const WORKERS: [&str; 6] = ["upload", "transcode", "tasks", "index", "audit", "monitor"];

/// One running process of the product.
#[derive(Debug)]
struct Process {
    child: Child,
    args: Vec<String>,
    /// The line it printed when it could be used.
    ready: Value,
}

/// What an installation stands on: one broker, or three with three copies of everything.
pub(crate) enum Brokers {
    One(TestBroker),
    Three(TestCluster),
}

impl Brokers {
    async fn start(are_three: bool) -> Self {
        if are_three { Self::Three(TestCluster::start().await) } else { Self::One(TestBroker::start().await) }
    }

    fn config(&self, role: Role) -> nats::BusConfig {
        match self {
            Self::One(broker) => broker.config(role),
            Self::Three(cluster) => cluster.config(role),
        }
    }

    /// As the command line takes them.
    fn urls(&self) -> String {
        self.config(Role::Admin).urls.join(",")
    }

    /// The single broker.
    pub(crate) fn one(&self) -> &TestBroker {
        match self {
            Self::One(broker) => broker,
            Self::Three(_) => panic!("there are three brokers"),
        }
    }

    /// The three brokers.
    pub(crate) fn three(&mut self) -> &mut TestCluster {
        match self {
            Self::One(_) => panic!("there is one broker"),
            Self::Three(cluster) => cluster,
        }
    }
}

/// A whole installation.
pub(crate) struct Cluster {
    pub(crate) dir: TempDir,
    pub(crate) brokers: Brokers,
    pub(crate) bus: Bus,
    pub(crate) store: store::Store,
    pub(crate) http: reqwest::Client,
    pub(crate) url: String,
    pub(crate) key: String,
    store_args: Vec<(String, String)>,
    processes: HashMap<String, Process>,
    events: StreamReader,
    seen: Vec<Event>,
    _s3: Option<store::testing::TestS3Server>,
}

/// An event as it went over the bus.
#[derive(Debug, Clone)]
pub(crate) struct Event {
    pub(crate) sequence: u64,
    pub(crate) kind: String,
    pub(crate) id: String,
    pub(crate) media_id: Option<String>,
    pub(crate) data: Value,
}

/// What differs between tests.
#[derive(Debug, Clone, Copy, Default)]
#[expect(clippy::struct_excessive_bools, reason = "each is on or off, in any combination")]
pub(crate) struct Options {
    /// Objects lie on an S3 server instead of a folder.
    pub(crate) remote_store: bool,
    /// The ladder of the product instead of two small rungs.
    pub(crate) full_ladder: bool,
    /// Start no worker; the test does.
    pub(crate) without_workers: bool,
    /// Three brokers instead of one.
    pub(crate) three_brokers: bool,
}

/// A client that gives idle connections up before the server does, which waits 15 seconds for the next head: a request on one that is just
/// being closed would fail.
fn http_client() -> reqwest::Client {
    reqwest::Client::builder().pool_idle_timeout(Duration::from_secs(5)).build().unwrap()
}

impl Cluster {
    /// Everything of a small installation, ready to take uploads.
    pub(crate) async fn start(options: Options) -> Self {
        Self::start_with(options, "").await
    }

    /// The same with more settings, as TOML.
    pub(crate) async fn start_with(options: Options, more: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let brokers = Brokers::start(options.three_brokers).await;
        let bus = Bus::connect(&brokers.config(Role::Admin)).await.unwrap();
        let seed = |role| brokers.config(role).seed.unwrap();
        let seeds = Role::ALL.map(|role| format!("{} {}\n", role.name(), seed(role)));
        std::fs::write(dir.path().join("seeds"), seeds.concat()).unwrap();
        let s3 = if options.remote_store {
            Some(store::testing::TestS3Server::start().await.unwrap())
        } else {
            None
        };
        let settings = match &s3 {
            Some(s3) => s3.store_config(),
            None => store::StoreConfig::from_url(format!("file://{}", dir.path().join("store").display())),
        };
        std::fs::create_dir_all(dir.path().join("store")).unwrap();
        write_config(dir.path(), &settings, options.full_ladder, more);
        let store = store::testing::open_test_store(settings).unwrap();
        let events = bus
            .open_reader(reader::ReaderConfig::new(
                subjects::EVENTS,
                vec![subjects::EVENTS_ALL.into()],
                ReaderStart::All,
            ))
            .await
            .unwrap();
        let mut cluster = Self {
            dir,
            brokers,
            bus,
            store,
            events,
            _s3: s3,
            http: http_client(),
            url: String::new(),
            key: String::new(),
            store_args: Vec::new(),
            processes: HashMap::new(),
            seen: Vec::new(),
        };
        let ready = cluster.spawn("ingress", &["ingress", "--listen", "127.0.0.1:0"]);
        ready["url"].as_str().unwrap().clone_into(&mut cluster.url);
        ready["api_key"].as_str().unwrap().clone_into(&mut cluster.key);
        cluster.spawn("keeper", &["keeper"]);
        if !options.without_workers {
            for stage in WORKERS {
                cluster.spawn(stage, &["worker", stage]);
            }
        }
        cluster
    }

    /// Starts a process of the product and waits until it says that it can be used.
    pub(crate) fn spawn(&mut self, name: &str, args: &[&str]) -> Value {
        let args: Vec<String> = args.iter().map(|arg| (*arg).to_owned()).collect();
        let process = self.launch(name, &args);
        let ready = process.ready.clone();
        assert!(self.processes.insert(name.to_owned(), process).is_none(), "{name} runs already");
        ready
    }

    fn launch(&self, name: &str, args: &[String]) -> Process {
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.log_path(name)).unwrap();
        let mut child = Command::new(crate::program_path())
            .args(args)
            .args([
                "--config",
                "streamgate.toml",
                "--json",
                "--nats-url",
                &self.brokers.urls(),
                "--nats-seed-file",
                "seeds",
            ])
            .args(["--data-dir", &format!("data-{name}")])
            .envs(self.store_args.iter().cloned())
            .env("STREAMGATE_LOG", "info,async_nats=warn")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready = serde_json::from_str(&line)
            .unwrap_or_else(|e| panic!("{name} did not start ({e}): {line:?}\n{}", self.log(name)));
        Process { child, args: args.to_vec(), ready }
    }

    /// Runs a command of the product to its end.
    pub(crate) fn run(&self, args: &[&str]) -> std::process::Output {
        Command::new(crate::program_path())
            .args(args)
            .args([
                "--config",
                "streamgate.toml",
                "--nats-url",
                &self.brokers.urls(),
                "--nats-seed-file",
                "seeds",
            ])
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .output()
            .unwrap()
    }

    fn log_path(&self, name: &str) -> PathBuf {
        self.dir.path().join(format!("{name}.log"))
    }

    /// What a process said so far.
    pub(crate) fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.log_path(name)).unwrap_or_default()
    }

    /// Process id of a running process.
    pub(crate) fn pid(&self, name: &str) -> u32 {
        self.processes[name].child.id()
    }

    /// Sends a signal, such as `STOP`, to one process.
    pub(crate) fn signal(&self, name: &str, signal: &str) {
        let status =
            Command::new("kill").args([format!("-{signal}"), self.pid(name).to_string()]).status().unwrap();
        assert!(status.success(), "signal {signal} to {name}");
    }

    /// kill -9, and waits until it is gone.
    pub(crate) fn kill(&mut self, name: &str) {
        let mut process = self.processes.remove(name).unwrap();
        process.child.kill().unwrap();
        process.child.wait().unwrap();
    }

    /// kill -9 and start again with the same arguments.
    pub(crate) fn restart(&mut self, name: &str) -> Value {
        let args = self.processes[name].args.clone();
        self.kill(name);
        let process = self.launch(name, &args);
        let ready = process.ready.clone();
        self.processes.insert(name.to_owned(), process);
        ready
    }

    /// SIGTERM, and how it ended.
    pub(crate) fn stop(&mut self, name: &str) -> std::process::ExitStatus {
        self.signal(name, "TERM");
        let mut process = self.processes.remove(name).unwrap();
        process.child.wait().unwrap()
    }

    /// A request with the API key.
    pub(crate) fn request(&self, method: reqwest::Method, path: &str) -> reqwest::RequestBuilder {
        self.http.request(method, format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// GET that has to succeed.
    pub(crate) async fn get(&self, path: &str) -> Value {
        let answer = self.request(reqwest::Method::GET, path).send().await.unwrap();
        let status = answer.status();
        let text = answer.text().await.unwrap();
        assert!(status.is_success(), "GET {path}: {status} {text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Uploads a whole file in one request; answers the medium.
    pub(crate) async fn upload(&self, bytes: Vec<u8>, name: &str) -> String {
        let answer = self
            .request(reqwest::Method::POST, "/v1/media")
            .header("content-type", "video/mp4")
            .header("content-disposition", format!("attachment; filename=\"{name}\""))
            .body(bytes)
            .send()
            .await
            .unwrap();
        let status = answer.status();
        let media_id = answer.headers().get("streamgate-media-id").map(|v| v.to_str().unwrap().to_owned());
        assert_eq!(status, 201, "{}", answer.text().await.unwrap());
        media_id.unwrap()
    }

    /// Waits for the first event that `wanted` accepts, among those seen and those to come.
    pub(crate) async fn event(&mut self, what: &str, wanted: impl Fn(&Event) -> bool) -> Event {
        if let Some(found) = self.seen.iter().find(|event| wanted(event)) {
            return found.clone();
        }
        let search = async {
            loop {
                let event = event_of(&self.events.next().await.unwrap());
                self.seen.push(event.clone());
                if wanted(&event) {
                    return event;
                }
            }
        };
        let found = tokio::time::timeout(WAIT_MAX, search).await.ok();
        found.unwrap_or_else(|| {
            panic!("no {what} within {WAIT_MAX:?}; seen: {:#?}\n{}", kinds(&self.seen), self.logs())
        })
    }

    /// Waits for `kind` of one medium.
    pub(crate) async fn media_event(&mut self, kind: &str, media_id: &str) -> Event {
        self.event(&format!("{kind} of {media_id}"), |e| {
            e.kind == kind && e.media_id.as_deref() == Some(media_id)
        })
        .await
    }

    /// Waits until a medium is ready, rejected or failed.
    pub(crate) async fn end_of(&mut self, media_id: &str) -> Event {
        let ends = ["job.succeeded", "media.rejected", "job.failed"];
        self.event(&format!("end of {media_id}"), |e| {
            ends.contains(&e.kind.as_str()) && e.media_id.as_deref() == Some(media_id)
        })
        .await
    }

    /// All events of the installation so far.
    pub(crate) async fn all_events(&mut self) -> Vec<Event> {
        let stream = self.bus.context().get_stream(subjects::EVENTS).await.unwrap();
        let last = stream.cached_info().state.last_sequence;
        self.event("the newest event", |event| event.sequence >= last).await;
        self.seen.clone()
    }

    /// Objects below a medium's folder: path relative to it, and SHA-256 of the bytes.
    pub(crate) async fn objects(&self, media_id: &str) -> BTreeMap<String, String> {
        let folder = schemas::keys::media_prefix(media_id.parse::<MediaId>().unwrap());
        let mut found = BTreeMap::new();
        let mut list = self.store.list(&folder);
        while let Some(meta) = list.next().await {
            let meta = meta.unwrap();
            let bytes = self.store.get(&meta.key, 1 << 30).await.unwrap();
            let path = meta.key.strip_prefix(&format!("{folder}/")).unwrap().to_owned();
            found.insert(path, data_encoding::HEXLOWER.encode(&Sha256::digest(&bytes)));
        }
        found
    }

    /// Every process of the product runs.
    pub(crate) fn check_running(&mut self) {
        for (name, process) in &mut self.processes {
            let ended = process.child.try_wait().unwrap();
            assert!(ended.is_none(), "{name} ended: {ended:?}");
        }
    }

    /// The logs of all processes, for a failed test.
    pub(crate) fn logs(&self) -> String {
        let tail = |name: &String| {
            let log = self.log(name);
            let lines: Vec<&str> = log.lines().collect();
            format!("--- {name}\n{}\n", lines[lines.len().saturating_sub(40)..].join("\n"))
        };
        self.processes.keys().map(tail).collect()
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for process in self.processes.values_mut() {
            process.child.kill().ok();
            process.child.wait().ok();
        }
    }
}

/// Looks again and again until something is found; `None` once `limit` is over.
pub(crate) async fn poll<T>(limit: Duration, mut look: impl AsyncFnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        let found = look().await;
        if found.is_some() || Instant::now() >= deadline {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn write_config(dir: &Path, store: &store::StoreConfig, full_ladder: bool, more: &str) {
    // A part whose holder is gone is taken over soon: the broker's ack wait is short in tests, too.
    let mut settings: toml::Table =
        "[transcode]\nclaim_fresh = \"4s\"\nrenew_interval = \"500ms\"\n".parse().unwrap();
    if !full_ladder {
        merge(&mut settings, "[transcode]\nprofile = \"tiny\"\n".parse().unwrap());
    }
    let store = toml::Table::from_iter([("store".to_owned(), toml::Value::try_from(store).unwrap())]);
    merge(&mut settings, streamgate::config::tree::to_file_form(store));
    merge(&mut settings, more.parse().unwrap());
    std::fs::write(dir.join("streamgate.toml"), settings.to_string()).unwrap();
}

/// Adds settings to others; of two values the added one stays.
fn merge(settings: &mut toml::Table, more: toml::Table) {
    for (key, value) in more {
        match (settings.get_mut(&key), value) {
            (Some(toml::Value::Table(known)), toml::Value::Table(more)) => merge(known, more),
            (_, value) => drop(settings.insert(key, value)),
        }
    }
}

fn event_of(entry: &reader::StreamEntry) -> Event {
    let mut tokens = entry.subject.split('.').skip(1);
    let (entity, verb, id) = (tokens.next().unwrap(), tokens.next().unwrap(), tokens.next().unwrap());
    Event {
        sequence: entry.sequence,
        kind: format!("{entity}.{verb}"),
        id: id.to_owned(),
        media_id: entry.headers.get(schemas::headers::MEDIA_ID).map(ToString::to_string),
        data: rmp_serde::from_slice(&entry.payload).unwrap(),
    }
}

fn kinds(events: &[Event]) -> Vec<String> {
    events.iter().map(|event| format!("{} {} {}", event.sequence, event.kind, event.id)).collect()
}

/// A clip made by the ffmpeg CLI from `args`, cached by nobody: each test knows its input exactly.
pub(crate) fn clip(args: &[&str], extension: &str) -> Vec<u8> {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join(format!("clip.{extension}"));
    let output = Command::new("ffmpeg")
        .args(["-hide_banner", "-loglevel", "error", "-nostdin", "-y"])
        .args(args)
        .arg(&path)
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    std::fs::read(path).unwrap()
}

/// A clip with picture and tone, `seconds` long.
pub(crate) fn sample(seconds: u32, size: &str, rate: &str) -> Vec<u8> {
    let video = format!("testsrc2=duration={seconds}:size={size}:rate={rate}");
    let audio = format!("sine=frequency=440:duration={seconds}:sample_rate=48000");
    clip(
        &[
            "-f",
            "lavfi",
            "-i",
            &video,
            "-f",
            "lavfi",
            "-i",
            &audio,
            "-c:v",
            "libx264",
            "-preset",
            "ultrafast",
            "-pix_fmt",
            "yuv420p",
            "-g",
            "60",
            "-c:a",
            "aac",
            "-shortest",
        ],
        "mp4",
    )
}

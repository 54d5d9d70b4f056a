//! What `compose.yaml` starts: three brokers, an S3 server and every role, each with the command and the environment that stand
//! there. Only names of hosts, addresses to listen on, folders and the secrets of `.env` are those of this machine.

use std::{
    collections::BTreeMap,
    fmt::Write,
    fs::{self, File},
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use serde_json::Value;
use store::testing::TestS3Server;

use crate::harness::{WAIT_MAX, sample};

/// Names of the brokers.
const BROKERS: [&str; 3] = ["nats-1", "nats-2", "nats-3"];
/// Services that do their work and end.
const ONCE: [&str; 3] = ["keys", "topology", "dashboards"];

/// A part of the file: the lines below `head`, which are indented more.
fn section<'a>(text: &'a str, head: &str) -> Vec<&'a str> {
    let mut lines = text.lines().skip_while(|line| *line != head);
    let head = lines.next().unwrap_or_else(|| panic!("compose.yaml has no line {head:?}"));
    let indent = head.len() - head.trim_start().len();
    lines.take_while(|line| line.trim().is_empty() || line.len() - line.trim_start().len() > indent).collect()
}

/// `NAME: value` of an environment.
fn pairs(lines: &[&str]) -> BTreeMap<String, String> {
    let is_said = |line: &&&str| !line.trim().is_empty() && !line.trim_start().starts_with(['<', '#']);
    let lines = lines.iter().filter(is_said);
    let pairs = lines.map(|line| line.trim().split_once(": ").unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.trim_matches('"').to_owned())).collect()
}

/// The words of `key: [a, b]` below a service.
fn words(service: &[&str], key: &str) -> Option<Vec<String>> {
    let list = service.iter().find_map(|line| line.trim().strip_prefix(&format!("{key}: [")))?;
    Some(list.strip_suffix(']').unwrap().split(", ").map(|word| word.trim_matches('"').to_owned()).collect())
}

/// A service that runs our own image.
struct Service {
    name: String,
    command: Vec<String>,
    environment: BTreeMap<String, String>,
}

/// Those services, in their order.
fn services(text: &str) -> Vec<Service> {
    let common = pairs(&section(text, "  environment: &environment"));
    let all = section(text, "services:");
    let names = all.iter().filter_map(|line| line.strip_prefix("  ")?.strip_suffix(':'));
    let mut found = Vec::new();
    for name in names.filter(|name| !name.starts_with(' ')) {
        let service = section(text, &format!("  {name}:"));
        if !service.contains(&"    <<: *role") {
            continue;
        }
        let mut environment = common.clone();
        if service.contains(&"    environment:") {
            environment.extend(pairs(&section(&service.join("\n"), "    environment:")));
        }
        let command = words(&service, "command").unwrap_or_else(|| panic!("{name} has no command"));
        found.push(Service { name: name.to_owned(), command, environment });
    }
    found
}

/// A port that nobody uses now.
fn free_port() -> u16 {
    TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port()
}

/// What the services run on here.
struct Host {
    folder: tempfile::TempDir,
    s3: TestS3Server,
    /// What stands in the file, and what it is here; the longer before what it contains.
    replaced: Vec<(String, String)>,
    listen: String,
    running: Vec<(String, Child)>,
}

impl Host {
    async fn start() -> Self {
        let (folder, s3) = (tempfile::tempdir().unwrap(), TestS3Server::start().await.unwrap());
        let options = s3.store_config().options;
        let listen = format!("127.0.0.1:{}", free_port());
        let mut replaced = vec![
            (
                "${S3_ACCESS_KEY:?set it in the environment or in .env}".into(),
                options["aws_access_key_id"].clone(),
            ),
            (
                "${S3_SECRET_KEY:?set it in the environment or in .env}".into(),
                options["aws_secret_access_key"].clone(),
            ),
            // Nobody takes traces here.
            ("${STREAMGATE_OTLP_ENDPOINT-http://tempo:4318}".into(), String::new()),
            ("http://s3:7070".into(), options["aws_endpoint"].clone()),
            ("0.0.0.0:8080".into(), listen.clone()),
            ("0.0.0.0:9090".into(), "127.0.0.1:0".into()),
            ("/keys".into(), folder.path().join("keys").display().to_string()),
            ("/dashboards".into(), folder.path().join("dashboards").display().to_string()),
        ];
        for name in BROKERS {
            for port in [4222, 6222] {
                replaced.push((format!("{name}:{port}"), format!("127.0.0.1:{}", free_port())));
            }
        }
        Self { folder, s3, replaced, listen, running: Vec::new() }
    }

    fn here(&self, text: &str) -> String {
        self.replaced.iter().fold(text.to_owned(), |text, (there, here)| text.replace(there, here))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// A process in a folder of its own, with nothing of our own environment but where programs are.
    fn command(&self, name: &str, program: &Path, environment: &BTreeMap<String, String>) -> Command {
        let (folder, log) = (self.folder.path().join(name), File::create(self.log(name)).unwrap());
        fs::create_dir_all(&folder).unwrap();
        let mut command = Command::new(program);
        command
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .envs(environment.iter().map(|(name, value)| (name, self.here(value))))
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log);
        command
    }

    /// Starts the brokers with the entry point of the file.
    fn start_brokers(&mut self, text: &str) {
        let broker = section(text, "x-nats: &nats");
        let environment = pairs(&section(text, "x-nats-environment: &nats-environment"));
        let line =
            broker.iter().find_map(|line| line.trim().strip_prefix("entrypoint: [sh, -c, \"")).unwrap();
        let script = line.strip_suffix("\"]").unwrap();
        for name in BROKERS {
            let mut environment = environment.clone();
            environment.insert("NATS_NAME".into(), name.into());
            environment.insert("NATS_LISTEN".into(), format!("{name}:4222"));
            environment.insert("NATS_CLUSTER_LISTEN".into(), format!("{name}:6222"));
            environment.insert("NATS_STORE".into(), self.folder.path().join(name).display().to_string());
            let configuration = Path::new(env!("CARGO_MANIFEST_DIR")).join("nats");
            let script = self
                .here(script)
                .replace("/etc/nats", &configuration.display().to_string())
                .replace("exec nats-server", "exec \"$NATS_SERVER\"")
                .replace("8222", &free_port().to_string());
            let mut command = self.command(name, Path::new("sh"), &environment);
            command.env("NATS_SERVER", std::env::var("NATS_SERVER").unwrap_or("nats-server".into()));
            let child = command.args(["-c", &script]).spawn().unwrap();
            self.running.push((name.to_owned(), child));
        }
    }

    fn service(&self, service: &Service) -> Command {
        let program = Path::new(env!("CARGO_BIN_EXE_streamgate"));
        let mut command = self.command(&service.name, program, &service.environment);
        command.args(service.command.iter().map(|word| self.here(word)));
        command
    }

    /// Starts a service; one that does its work and ends is started again until it did, as `restart: on-failure` says.
    async fn start_service(&mut self, service: &Service) {
        if ONCE.contains(&service.name.as_str()) {
            let done = async || self.service(service).status().unwrap().success().then_some(());
            self.until(&service.name, done).await;
        } else {
            let child = self.service(service).spawn().unwrap();
            self.running.push((service.name.clone(), child));
        }
    }

    /// What was printed, the end of each.
    fn logs(&self) -> String {
        let mut text = String::new();
        for file in fs::read_dir(self.folder.path()).unwrap().flatten() {
            if file.path().extension().is_some_and(|extension| extension == "log") {
                let log = fs::read_to_string(file.path()).unwrap();
                let lines: Vec<&str> = log.lines().collect();
                let end = lines[lines.len().saturating_sub(12)..].join("\n");
                write!(text, "--- {}\n{end}\n", file.path().display()).unwrap();
            }
        }
        text
    }

    /// Asks until `wanted` takes the answer.
    async fn until<T>(&self, what: &str, wanted: impl AsyncFn() -> Option<T>) -> T {
        let mut ticks = tokio::time::interval(Duration::from_millis(200));
        let asking = async {
            loop {
                ticks.tick().await;
                if let Some(found) = wanted().await {
                    return found;
                }
            }
        };
        let found = tokio::time::timeout(WAIT_MAX, asking).await;
        found.unwrap_or_else(|_| panic!("{what}: not within {WAIT_MAX:?}\n{}", self.logs()))
    }

    /// The first API key, as the ingress printed it.
    fn key(&self) -> Option<String> {
        let log = fs::read_to_string(self.log("ingress")).ok()?;
        let is_key = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (_, rest) = log.split_once("sg_")?;
        Some(format!("sg_{}", rest.chars().take_while(|c| is_key(*c)).collect::<String>()))
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        for (_, child) in self.running.iter_mut().rev() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

/// Frames of picture that a player decodes.
fn frames(url: &str) -> String {
    let output = Command::new("ffprobe")
        .args(["-v", "error", "-select_streams", "v:0", "-count_frames"])
        .args(["-show_entries", "stream=nb_read_frames", "-of", "csv=p=0", url])
        .output()
        .unwrap();
    String::from_utf8(output.stdout).unwrap().lines().find(|line| !line.is_empty()).unwrap_or_default().into()
}

// The S3 server runs in this process while a player is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_compose_file_starts_takes_a_video_and_plays_it() {
    let text = fs::read_to_string("compose.yaml").unwrap();
    let services = services(&text);
    let names: Vec<&str> = services.iter().map(|service| service.name.as_str()).collect();
    assert_eq!(
        names,
        [
            "keys",
            "topology",
            "ingress",
            "upload",
            "transcode",
            "tasks",
            "index",
            "audit",
            "monitor",
            "keeper",
            "dashboards"
        ]
    );
    let mut host = Host::start().await;
    host.start_service(&services[0]).await;
    // That of programs is in a file of its own.
    let seeds =
        ["keys/seeds", "keys/reader-seed"].map(|file| fs::read_to_string(host.folder.path().join(file)));
    let count: usize = seeds.into_iter().map(|text| text.unwrap().lines().count()).sum();
    assert_eq!(count, nats::Role::ALL.len(), "a key for every role");
    host.start_brokers(&text);
    for service in &services[1..] {
        host.start_service(service).await;
    }
    let http = reqwest::Client::new();
    let url = |path: &str| format!("http://{}{path}", host.listen);
    let key = host.until("the first API key", async || host.key()).await;
    let ready = async || http.get(url("/readyz")).send().await.ok()?.status().is_success().then_some(());
    host.until("the ingress", ready).await;
    let upload = http.post(url("/v1/media")).bearer_auth(&key).header("content-type", "video/mp4");
    let answer = upload.body(sample(2, "320x180", "25")).send().await.unwrap();
    let (status, body) = (answer.status(), answer.text().await.unwrap());
    assert_eq!(status, 201, "{body}\n{}", host.logs());
    let body: Value = serde_json::from_str(&body).unwrap();
    let media = format!("/v1/media/{}", body["media_id"].as_str().unwrap());
    let document = async || -> Option<Value> {
        let answer = http.get(url(&media)).bearer_auth(&key).send().await.ok()?;
        let document: Value = answer.json().await.ok()?;
        ["ready", "rejected", "failed"].contains(&document["status"].as_str()?).then_some(document)
    };
    let document = host.until("the end of the medium", document).await;
    assert_eq!(document["status"], "ready", "{document}\n{}", host.logs());
    let playback = http.post(url(&format!("{media}/playback"))).bearer_auth(&key).send().await.unwrap();
    let playback: Value = playback.error_for_status().unwrap().json().await.unwrap();
    let playlist = playback["hls_url"].as_str().unwrap();
    let playlist = if playlist.starts_with('/') { url(playlist) } else { playlist.to_owned() };
    assert_eq!(frames(&playlist).trim_matches(','), "50");
    assert!(host.folder.path().join("dashboards/overview.json").exists(), "{}", host.logs());
    assert_eq!(host.s3.multipart_files().unwrap(), 0, "the objects are in S3, and nothing is left half done");
}

/// The files of this repository that a service has mounted.
fn mounted(service: &[&str]) -> Vec<String> {
    let places = service.iter().flat_map(|line| line.split(['"', ' ', '[', ']', ',']));
    places.filter_map(|place| place.strip_prefix("./")?.split(':').next().map(str::to_owned)).collect()
}

/// Who looks at the installation: no password that is known, nothing that others reach, nothing that is kept for ever.
#[test]
fn what_shows_metrics_and_traces_is_closed_and_forgets() {
    let text = fs::read_to_string("compose.yaml").unwrap();
    let grafana = section(&text, "  grafana:");
    let environment = pairs(&section(&grafana.join("\n"), "    environment:"));
    assert_eq!(
        environment["GF_SECURITY_ADMIN_PASSWORD"],
        "${GRAFANA_PASSWORD:?set it in the environment or in .env}",
        "it has no default"
    );
    assert_eq!(environment["GF_AUTH_ANONYMOUS_ENABLED"], "false");
    assert_eq!(words(&grafana, "ports"), Some(vec!["127.0.0.1:9097:3000".to_owned()]));
    let tempo = section(&text, "  tempo:");
    assert_eq!((words(&tempo, "ports"), words(&tempo, "networks")), (None, Some(vec!["inside".to_owned()])));
    let prometheus = words(&section(&text, "  prometheus:"), "command").unwrap();
    for flag in ["--storage.tsdb.retention.time=30d", "--enable-feature=exemplar-storage"] {
        assert!(prometheus.contains(&flag.to_owned()), "{prometheus:?}");
    }
    let traces = fs::read_to_string(".container/tempo.yml").unwrap();
    assert_eq!(traces.matches("block_retention: 168h").count(), 2, "who plans the removal, and who does it");

    // Everything that is mounted is there, and each of the three knows the others by the names of services.
    for service in ["prometheus", "alertmanager", "grafana", "tempo"] {
        let files = mounted(&section(&text, &format!("  {service}:")));
        assert!(!files.is_empty(), "{service}");
        for file in files {
            assert!(Path::new(&file).exists(), "{service}: {file}");
        }
    }
    let sources = fs::read_to_string(".container/grafana/datasources.yml").unwrap();
    for known in ["http://prometheus:9090", "http://tempo:3200", "name: trace_id", "datasourceUid: tempo"] {
        assert!(sources.contains(known), "{known}");
    }
    assert!(traces.contains("http_listen_port: 3200") && traces.contains("endpoint: 0.0.0.0:4318"));
    let provider = fs::read_to_string(".container/grafana/dashboards.yml").unwrap();
    let folder = provider.lines().find_map(|line| line.trim().strip_prefix("path: ")).unwrap();
    assert!(grafana.iter().any(|line| line.contains(&format!("dashboards:{folder}:ro"))));
    let home = &environment["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"];
    let home = home.strip_prefix(folder).unwrap().trim_start_matches('/');
    assert_eq!(home, "overview.json");
    let writer = section(&text, "  dashboards:");
    let written = words(&writer, "command").unwrap().pop().unwrap();
    assert!(writer.iter().any(|line| line.contains(&format!("\"dashboards:{written}\""))), "{writer:?}");
}

//! `up` as one process.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::Permissions,
    io::{BufRead, BufReader},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use serde_json::Value;

use crate::harness::{WAIT_MAX, sample};

/// A running `up`.
pub(crate) struct Up {
    child: Child,
    pub(crate) url: String,
    pub(crate) key: String,
    /// The key, when it was printed.
    printed_key: Option<String>,
    pub(crate) http: reqwest::Client,
}

impl Up {
    /// Starts it with `folder` as its working folder; its data lies in `data` there.
    pub(crate) fn start(folder: &Path) -> Self {
        Self::start_with(folder, "")
    }

    /// The same with more settings.
    pub(crate) fn start_with(folder: &Path, more: &str) -> Self {
        let settings = "[transcode]\nprofile = \"tiny\"\nclaim_fresh = \"4s\"\nrenew_interval = \"500ms\"\n";
        std::fs::write(folder.join("streamgate.toml"), format!("{settings}{more}")).unwrap();
        let log = std::fs::OpenOptions::new().create(true).append(true).open(folder.join("log")).unwrap();
        // Under the most careless mask there is.
        let script = "umask 000; exec \"$0\" up --json --listen 127.0.0.1:0 --config streamgate.toml";
        let mut child = Command::new("sh")
            .args(["-c", script, env!("CARGO_BIN_EXE_streamgate")])
            .current_dir(folder)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|error| {
            panic!("up did not start ({error}): {}", std::fs::read_to_string(folder.join("log")).unwrap())
        });
        let url = ready["url"].as_str().unwrap().to_owned();
        let printed_key = ready["api_key"].as_str().map(str::to_owned);
        let key = std::fs::read_to_string(folder.join("data/api-key")).unwrap().trim().to_owned();
        Self { child, url, key, printed_key, http: reqwest::Client::new() }
    }

    /// What somebody else on this machine may read or enter below `folder`.
    fn open_to_others(folder: &Path) -> Vec<PathBuf> {
        let mut open = Vec::new();
        let mut folders = vec![folder.to_owned()];
        while let Some(folder) = folders.pop() {
            for entry in std::fs::read_dir(&folder).unwrap().map(Result::unwrap) {
                let (path, Ok(facts)) = (entry.path(), entry.metadata()) else { continue };
                if facts.is_dir() {
                    folders.push(path.clone());
                }
                if facts.permissions().mode() & 0o077 != 0 {
                    open.push(path);
                }
            }
        }
        open
    }

    /// GET with the API key.
    pub(crate) fn get(&self, path: &str) -> reqwest::RequestBuilder {
        self.http.get(format!("{}{path}", self.url)).bearer_auth(&self.key)
    }

    /// Reads the medium's events until one is called `wanted`.
    pub(crate) async fn until(&self, media_id: &str, wanted: &str) {
        let mut events = self.get(&format!("/v1/events?media={media_id}&since=0-0")).send().await.unwrap();
        let reading = async {
            let mut text = String::new();
            while !text.contains(&format!("event: {wanted}\n")) {
                text.push_str(std::str::from_utf8(&events.chunk().await.unwrap().unwrap()).unwrap());
            }
        };
        tokio::time::timeout(WAIT_MAX, reading).await.expect(wanted);
    }

    fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }
}

#[tokio::test]
async fn up_is_killed_and_started_again() {
    let folder = tempfile::tempdir().unwrap();
    // A folder that was made by hand, for all to see.
    let data = folder.path().join("data");
    std::fs::create_dir(&data).unwrap();
    std::fs::set_permissions(&data, Permissions::from_mode(0o755)).unwrap();
    let mut up = Up::start(folder.path());
    assert_eq!(up.printed_key.as_ref(), Some(&up.key));
    assert_eq!(std::fs::metadata(&data).unwrap().permissions().mode() & 0o777, 0o700);
    let upload = up.http.post(format!("{}/v1/media", up.url)).bearer_auth(&up.key);
    let upload = upload.header("content-type", "video/mp4").body(sample(60, "320x180", "25"));
    let answer = upload.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let media_id = answer.headers()["streamgate-media-id"].to_str().unwrap().to_owned();
    up.until(&media_id, "media.playable").await;
    assert_eq!(Up::open_to_others(&data), Vec::<PathBuf>::new());
    let key = up.key.clone();
    up.kill();
    // The broker of the first goes with it, the second takes over its folder, and the first key still opens everything.
    let up = Up::start(folder.path());
    assert_eq!((up.key.as_str(), &up.printed_key), (key.as_str(), &None), "the key is printed once");
    up.until(&media_id, "job.succeeded").await;
    let audit = up.get("/v1/audit").send().await.unwrap().text().await.unwrap();
    let numbers: Vec<u64> = audit
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["source"]["sequence"].as_u64().unwrap())
        .collect();
    let expected: Vec<u64> = (1..=u64::try_from(numbers.len()).unwrap()).collect();
    assert_eq!(numbers, expected, "each event once and in order");
    let second = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["up", "--listen", "127.0.0.1:0"])
        .current_dir(folder.path())
        .output()
        .unwrap();
    let complaint = String::from_utf8_lossy(&second.stderr).into_owned();
    assert!(!second.status.success() && complaint.contains("is in use"), "{complaint}");
}

/// Each family of OpenMetrics text as `<name> <type> <labels>`; `-` where no series has a label.
fn metric_families(text: &str) -> BTreeMap<String, (String, BTreeSet<String>)> {
    let mut families = BTreeMap::new();
    let mut last = String::new();
    for line in text.lines() {
        if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' ')) {
            name.clone_into(&mut last);
            families.insert(name.to_owned(), (kind.to_owned(), BTreeSet::new()));
        } else if let Some((_, labels)) = line.split_once('{').filter(|_| line.starts_with(&last)) {
            let names = labels.split("=\"").filter_map(|part| part.rsplit([',', ' ']).next());
            let names = names.map(|name| name.trim_start_matches('"').to_owned());
            let known = &mut families.get_mut(&last).unwrap().1;
            known.extend(names.filter(|name| name.chars().all(|c| c.is_ascii_lowercase() || c == '_')));
        }
    }
    families
}

/// Dashboards and alerts of people are made of these.
#[tokio::test]
async fn metrics_keep_their_names_types_and_labels() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let wanted = include_str!("fixtures/metrics.txt");
    let deadline = Instant::now() + WAIT_MAX;
    loop {
        let asked = up.get("/metrics").header("accept", "application/openmetrics-text; version=1.0.0");
        let text = asked.send().await.unwrap().text().await.unwrap();
        let found = metric_families(&text).into_iter().map(|(name, (kind, labels))| {
            let labels = labels.into_iter().collect::<Vec<_>>().join(",");
            format!("{name} {kind} {}\n", if labels.is_empty() { "-" } else { &labels })
        });
        let found: String = found.collect();
        if found == wanted {
            return;
        }
        // The first poll of the broker brings the series of streams and durables.
        if Instant::now() >= deadline {
            let found: BTreeSet<&str> = found.lines().collect();
            let wanted: BTreeSet<&str> = wanted.lines().collect();
            let (more, fewer) = (&found - &wanted, &wanted - &found);
            panic!("fixtures/metrics.txt does not have {more:#?}; /metrics does not have {fewer:#?}");
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

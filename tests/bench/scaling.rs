//! How much sooner a long title is ready when more workers encode it: each is a process of its own with one slot.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
};

use nats::{Role, testing::TestBroker};
use serde_json::Value;
use tempfile::TempDir;

use crate::{Aim, Row, ladder, process, size};

/// Roles as processes on one broker and one store.
struct Deployment {
    broker: TestBroker,
    dir: TempDir,
    children: Vec<Child>,
}

impl Drop for Deployment {
    fn drop(&mut self) {
        for child in &mut self.children {
            Command::new("kill").args(["-TERM", &child.id().to_string()]).status().ok();
            child.wait().ok();
        }
    }
}

impl Deployment {
    async fn start() -> Self {
        let (broker, dir) = (TestBroker::start().await, tempfile::tempdir_in("target").unwrap());
        let seeds = Role::ALL.map(|role| format!("{} {}\n", role.name(), broker.seed(role)));
        std::fs::write(dir.path().join("seeds"), seeds.concat()).unwrap();
        let store = dir.path().join("store");
        std::fs::create_dir_all(&store).unwrap();
        let store = std::fs::canonicalize(store).unwrap();
        let settings =
            format!("[transcode.parts]\nslots = 1\n[store]\nurl = \"file://{}\"\n", store.display());
        std::fs::write(dir.path().join("streamgate.toml"), settings).unwrap();
        Self { broker, dir, children: Vec::new() }
    }

    /// Starts a role and waits until it can be used.
    fn spawn(&mut self, args: &[&str]) -> Value {
        let data = format!("data-{}", self.children.len());
        let log = std::fs::File::create(self.dir.path().join(format!("{data}.log"))).unwrap();
        let binary = std::fs::canonicalize(process::binary()).unwrap();
        let mut child = Command::new(binary)
            .args(args)
            .args(["--json", "--config", "streamgate.toml", "--data-dir", &data])
            .args(["--nats-url", self.broker.url(), "--nats-seed-file", "seeds"])
            .env("STREAMGATE_LOG", "warn")
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        self.children.push(child);
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{args:?} did not start: {error}"))
    }
}

/// Seconds from the upload to ready with so many workers.
async fn seconds_to_ready(workers: usize, seconds: u64) -> f64 {
    let mut deployment = Deployment::start().await;
    let ready = deployment.spawn(&["ingress", "--listen", "127.0.0.1:0"]);
    deployment.spawn(&["keeper"]);
    deployment.spawn(&["worker", "upload"]);
    deployment.spawn(&["worker", "index"]);
    for _ in 0..workers {
        deployment.spawn(&["worker", "transcode"]);
    }
    let site = ladder::Address {
        url: ready["url"].as_str().unwrap().to_owned(),
        key: ready["api_key"].as_str().unwrap().to_owned(),
    };
    let source = ladder::clip(deployment.dir.path(), seconds, "640x360");
    ladder::run(&site, &source).await.seconds_to_ready
}

/// The same title with two and three workers, against one.
pub(crate) async fn workers() -> [Row; 2] {
    let seconds = size("BENCH_TITLE_SECONDS", 600);
    let one = seconds_to_ready(1, seconds).await;
    let row = |name, ours| Row {
        name,
        ours,
        baseline: one,
        unit: "s",
        against: "one worker with one slot",
        aim: Aim::RatioMost(1.0),
    };
    [
        row("a 10-minute title until ready, two workers", seconds_to_ready(2, seconds).await),
        row("the same with three workers", seconds_to_ready(3, seconds).await),
    ]
}

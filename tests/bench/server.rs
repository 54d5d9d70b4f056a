//! `streamgate up` as a process, as a person starts it.

use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::Instant,
};

use serde_json::Value;
use tempfile::TempDir;

use crate::{Aim, Row, median, process::binary};

/// A running installation in a temporary folder.
pub(crate) struct Server {
    child: Child,
    pub(crate) dir: TempDir,
    pub(crate) url: String,
    pub(crate) key: String,
    pub(crate) seconds_to_ready: f64,
}

impl Server {
    pub(crate) fn start(config: &str) -> Self {
        let dir = tempfile::tempdir_in("target").unwrap();
        std::fs::write(dir.path().join("streamgate.toml"), config).unwrap();
        let started = Instant::now();
        let mut child = Command::new(binary())
            .args([
                "up",
                "--json",
                "--listen",
                "127.0.0.1:0",
                "--config",
                "streamgate.toml",
                "--data-dir",
                "data",
            ])
            .env("STREAMGATE_LOG", "warn")
            .current_dir(dir.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(std::fs::File::create(dir.path().join("log")).unwrap())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let seconds_to_ready = started.elapsed().as_secs_f64();
        let ready: Value = serde_json::from_str(&line).unwrap_or_else(|e| {
            panic!("up did not start ({e}): {}", std::fs::read_to_string(dir.path().join("log")).unwrap())
        });
        let text = |name: &str| ready[name].as_str().unwrap().to_owned();
        Self { child, dir, url: text("url"), key: text("api_key"), seconds_to_ready }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status().ok();
        self.child.wait().ok();
    }
}

pub(crate) fn cold_start() -> Row {
    let seconds = (0..5).map(|_| Server::start("").seconds_to_ready).collect();
    Row {
        name: "cold start of `up` to ready",
        ours: median(seconds),
        baseline: 1.0,
        unit: "s",
        against: "-",
        aim: Aim::Most(1.0),
    }
}

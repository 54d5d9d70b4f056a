//! Finds out that the server has given up writing: after a disk was full or failed, a stream takes nothing any more, says
//! nothing to those who publish, and stays so after there is room again. Only the server's own health says so.
//!
//! A server that does not answer is no such case: it is never restarted for a time-out.
//!
//! Limits: it is asked once a period; at most [`RESTARTS_MAX`] restarts in [`RESTARTS_WINDOW`].

use std::{
    collections::VecDeque,
    net::Ipv4Addr,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use crate::ProcessHealth;

/// Most restarts of a server that can't write, within [`RESTARTS_WINDOW`].
pub const RESTARTS_MAX: usize = 3;
/// The time in which restarts are counted.
pub const RESTARTS_WINDOW: Duration = Duration::from_secs(30 * 60);
/// Longest wait for the server's answer.
const ANSWER_MAX: Duration = Duration::from_secs(2);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: u64 = 256 * 1024;
/// Most characters of the server's words that are reported.
const WORDS_MAX: usize = 300;

/// Watches one server after the other.
#[derive(Debug)]
pub(super) struct WriteWatchdog {
    health: ProcessHealth,
    folder: PathBuf,
    period: Duration,
    room_bytes_min: u64,
    restarts: RestartBudget,
}

impl WriteWatchdog {
    pub(super) fn new(health: ProcessHealth, folder: PathBuf, period: Duration, room_bytes_min: u64) -> Self {
        Self { health, folder, period, room_bytes_min, restarts: RestartBudget::default() }
    }

    /// Comes when the server can't write a stream any more, there is room, and a restart is due.
    pub(super) async fn wait_until_broken(&mut self, port: Option<u16>) {
        let Some(port) = port else { return std::future::pending().await };
        let (mut said, mut alarmed) = (None, false);
        loop {
            tokio::time::sleep(self.period).await;
            // Without an answer nothing is known.
            let Some(BrokerWriteStatus { error }) = query_write_status(port).await else { continue };
            if error != said {
                if let Some(why) = &error {
                    tracing::error!(why, "the broker can't write any more");
                } else {
                    tracing::info!("the broker writes again");
                }
                said.clone_from(&error);
            }
            let is_broken = error.is_some();
            self.health.set_write_error(error);
            if !is_broken || !self.has_free_space() {
                continue;
            }
            if self.restarts.try_take(Instant::now()) {
                tracing::warn!("there is room again: the broker is restarted, so that it writes again");
                return;
            }
            if !alarmed {
                alarmed = true;
                let window_min = RESTARTS_WINDOW.as_secs() / 60;
                tracing::error!(
                    restarts = RESTARTS_MAX,
                    window_min,
                    "the broker can't write, and restarts did not help: look at its disk"
                );
            }
        }
    }

    fn has_free_space(&self) -> bool {
        match free_bytes(&self.folder) {
            Ok(bytes) => bytes >= self.room_bytes_min,
            Err(error) => {
                tracing::warn!(%error, folder = %self.folder.display(), "the room for the broker is unknown");
                false
            }
        }
    }
}

fn free_bytes(folder: &Path) -> std::io::Result<u64> {
    let found = rustix::fs::statvfs(folder)?;
    Ok(found.f_bavail.saturating_mul(found.f_frsize))
}

/// When a server was restarted because it could not write.
#[derive(Debug, Default)]
struct RestartBudget {
    times: VecDeque<Instant>,
}

impl RestartBudget {
    /// Counts a restart; false when there were enough.
    fn try_take(&mut self, now: Instant) -> bool {
        while self.times.front().is_some_and(|time| now.duration_since(*time) >= RESTARTS_WINDOW) {
            self.times.pop_front();
        }
        if self.times.len() >= RESTARTS_MAX {
            return false;
        }
        self.times.push_back(now);
        true
    }
}

#[derive(Debug, Deserialize)]
struct HealthzResponse {
    #[serde(default)]
    errors: Vec<HealthzError>,
}

#[derive(Debug, Deserialize)]
struct HealthzError {
    #[serde(default, rename = "type")]
    kind: String,
    #[serde(default)]
    error: String,
}

/// What the server says of itself.
#[derive(Debug, PartialEq, Eq)]
struct BrokerWriteStatus {
    /// About the first stream that it can't write.
    error: Option<String>,
}

/// Asks the server; `None` when it does not answer.
async fn query_write_status(port: u16) -> Option<BrokerWriteStatus> {
    let asking = async {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?;
        // HTTP/1.0: the server closes the connection at the end and sends no chunks, so reading to the end is
        // enough.
        stream.write_all(b"GET /healthz?details=true HTTP/1.0\r\nHost: localhost\r\n\r\n").await?;
        let mut answer = Vec::new();
        stream.take(ANSWER_BYTES_MAX).read_to_end(&mut answer).await?;
        std::io::Result::Ok(answer)
    };
    let answer = tokio::time::timeout(ANSWER_MAX, asking).await.ok()?.ok()?;
    let body = answer.windows(4).position(|four| four == b"\r\n\r\n").map(|at| at + 4)?;
    parse_write_status(answer.get(body..)?)
}

/// Reads an answer.
fn parse_write_status(body: &[u8]) -> Option<BrokerWriteStatus> {
    let answer: HealthzResponse = serde_json::from_slice(body).ok()?;
    let found = answer.errors.into_iter().find(|e| e.kind == "STREAM" && e.error.contains("' write error: "));
    let words = |item: HealthzError| item.error.chars().filter(|c| !c.is_control()).take(WORDS_MAX).collect();
    Some(BrokerWriteStatus { error: found.map(words) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_write_error_of_a_stream_counts() {
        let said = |body: &str| parse_write_status(body.as_bytes());
        assert_eq!(said(r#"{"status":"ok"}"#), Some(BrokerWriteStatus { error: None }));
        let slow = r#"{"status":"error","errors":[{"type":"STREAM","account":"A","stream":"S","error":"JetStream stream 'A > S' is not current"},
            {"type":"CONSUMER","error":"JetStream consumer 'A > S > c' write error: x"},{"type":"CONN","error":"' write error: "}]}"#;
        assert_eq!(said(slow), Some(BrokerWriteStatus { error: None }));
        let full = r#"{"status":"error","errors":[{"type":"STREAM","account":"A","stream":"S","error":"JetStream stream 'A > S' write error: no space left on device"}]}"#;
        assert_eq!(
            said(full),
            Some(BrokerWriteStatus {
                error: Some("JetStream stream 'A > S' write error: no space left on device".into())
            })
        );
        assert_eq!(said("half"), None);
    }

    #[test]
    fn three_restarts_in_half_an_hour_are_enough() {
        let (mut restarts, start) = (RestartBudget::default(), Instant::now());
        let after = |minutes: u64| start + Duration::from_secs(minutes * 60);
        for (minutes, due) in
            [(0, true), (1, true), (2, true), (3, false), (29, false), (30, true), (30, false), (31, true)]
        {
            assert_eq!(restarts.try_take(after(minutes)), due, "after {minutes} minutes");
        }
    }
}

//! The embedded broker, its topology and its permissions, on real servers.
#![expect(clippy::unwrap_used, reason = "what a test can't set up fails it at once")]

mod broker;
mod cluster;
mod full_disk;
mod mirrors;
mod permissions;
mod reader;
mod repair;
mod tasks;
mod topology;
mod traces;
mod waits;

use std::{
    future::Future,
    time::{Duration, Instant},
};

/// Longest wait for anything; a hundred times what it takes.
const WAIT_MAX: Duration = Duration::from_secs(20);

/// Asks again until the answer is yes.
async fn until<F: Future<Output = bool>>(what: &str, mut holds: impl FnMut() -> F) {
    let deadline = Instant::now() + WAIT_MAX;
    while !holds().await {
        assert!(Instant::now() < deadline, "{what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

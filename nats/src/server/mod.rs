//! The embedded broker: a nats-server child on loopback, for installations of one machine.
//!
//! The data folder is locked before the server starts, and the server inherits the lock, so that two servers never open
//! one store, even while the server of a killed process is still ending. The server has a process group of its own, is
//! started again when it dies, and ends with its parent whatever ends that. Every role has its own user; only public
//! keys stand in the server's configuration.
//!
//! A server whose streams take nothing any more because its disk was full is restarted once there is room: [`RESTARTS_MAX`]
//! times in [`RESTARTS_WINDOW`] at most. It reports its state on a port of its own, on loopback.
//!
//! Limits: [`BrokerConfig`] names the stores' sizes and the waits. Restarts are spaced by at most [`RESTART_DELAY_MAX`].

mod binary;
mod child;
mod folder;
pub mod program;
mod renew;
mod supervise;
mod write_watchdog;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{sync::watch, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{ProcessHealth, Role};

pub use binary::parse_version as version;
pub use binary::{NatsServerBinary, VERSION_MIN, find_nats_server};
pub use renew::{RenewedKey, renew_key};
pub use supervise::RESTART_DELAY_MAX;
pub use write_watchdog::{RESTARTS_MAX, RESTARTS_WINDOW};

/// What every role may publish and subscribe, in the server's own syntax: one variable a role.
pub const PERMISSIONS: &str = include_str!("../../permissions.conf");

/// How the broker runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BrokerConfig {
    /// Folder of its own for configuration, keys, log and store; made when missing.
    pub data_dir: PathBuf,
    /// The program; absent: `NATS_SERVER`, then `.tools/bin` in a folder above this program, then `PATH`.
    pub binary: Option<PathBuf>,
    /// Limit of all streams kept in files, in bytes. The streams reserve their limits from it.
    pub file_store_bytes_max: u64,
    /// Limit of all streams kept in memory, in bytes.
    pub memory_store_bytes_max: u64,
    /// Longest wait of the server for the key of a new connection, in milliseconds; with TLS before it, for both.
    pub authentication_ms_max: u64,
    /// Longest wait for a started server to be ready, in milliseconds; a large store is read first.
    pub start_ms_max: u64,
    /// Longest wait for a server that was asked to stop, in milliseconds; then it is killed.
    pub stop_ms_max: u64,
    /// How often the server is asked whether it can write, in milliseconds.
    pub watch_period_ms: u64,
    /// Room on the store's disk, in bytes, from which on a server that could not write is restarted.
    pub room_bytes_min: u64,
}

impl Default for BrokerConfig {
    fn default() -> Self {
        Self {
            data_dir: PathBuf::from("nats-data"),
            binary: None,
            file_store_bytes_max: 32 << 30,
            memory_store_bytes_max: 256 << 20,
            authentication_ms_max: 2_000,
            start_ms_max: 30_000,
            stop_ms_max: 10_000,
            watch_period_ms: 5_000,
            room_bytes_min: 64 << 20,
        }
    }
}

/// Why the embedded broker does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BrokerError {
    /// Another process has the data folder.
    #[error(
        "the data folder {} is in use by another `streamgate up`{}; stop that one, or choose another folder",
        path.display(),
        pid.map(|pid| format!(" (process {pid})")).unwrap_or_default()
    )]
    InUse {
        /// The data folder.
        path: PathBuf,
        /// The process that has it, where known.
        pid: Option<u32>,
    },
    /// There is no usable nats-server.
    #[error(
        "no nats-server {major}.{minor} or newer; looked at {looked}. Get one with `make setup`, or put one of \
         https://github.com/nats-io/nats-server/releases in PATH, or name it in NATS_SERVER, or use --nats-url",
        major = VERSION_MIN.0,
        minor = VERSION_MIN.1
    )]
    Missing {
        /// Where it was looked for, and what was found there.
        looked: String,
    },
    /// A file of the data folder can't be used.
    #[error("its file {} can't be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A user's key can't be made or read.
    #[error("the broker keys in {}", path.display())]
    Keys {
        /// The file with the keys.
        path: PathBuf,
        /// Why.
        #[source]
        source: nkeys::error::Error,
    },
    /// The server ended or did not get ready in time.
    #[error("nats-server did not start: {reason}")]
    Start {
        /// What is known, with the end of its log.
        reason: String,
    },
}

/// A running server; killed when dropped, ended in order by [`EmbeddedBroker::stop`].
pub struct EmbeddedBroker {
    url: String,
    keys: folder::BrokerKeys,
    state: watch::Receiver<supervise::BrokerState>,
    stop: CancellationToken,
    supervisor: Option<JoinHandle<()>>,
}

impl std::fmt::Debug for EmbeddedBroker {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Broker")
            .field("url", &self.url)
            .field("state", &*self.state.borrow())
            .finish_non_exhaustive()
    }
}

impl EmbeddedBroker {
    /// Locks the data folder, starts the server and waits until it takes connections.
    ///
    /// The port of the last start is used again when it is free.
    ///
    /// # Errors
    /// [`BrokerError::InUse`] when another process has the folder, [`BrokerError::Missing`] without a usable server, and the others
    /// when the folder or the server can't be used.
    pub async fn start(config: BrokerConfig) -> Result<Self, BrokerError> {
        Self::start_with_health(config, ProcessHealth::new()).await
    }

    /// As [`EmbeddedBroker::start`]; `health` is notified when the server can't write any more.
    ///
    /// # Errors
    /// As [`EmbeddedBroker::start`].
    pub async fn start_with_health(config: BrokerConfig, health: ProcessHealth) -> Result<Self, BrokerError> {
        let folder = folder::BrokerDataDir::open(&config.data_dir).await?;
        let keys = folder.load_or_create_keys()?;
        let binary = binary::find_nats_server(config.binary.as_deref()).await?.path;
        let period = Duration::from_millis(config.watch_period_ms.max(1));
        let watch = write_watchdog::WriteWatchdog::new(
            health,
            folder.file_path("store"),
            period,
            config.room_bytes_min,
        );
        let launch = child::BrokerLauncher::new(config, binary, folder);
        let running = launch.start_on_last_port().await?;
        let url = format!("nats://127.0.0.1:{}", running.port);
        let (sender, state) = watch::channel(supervise::BrokerState::from_process(&running, 1));
        let stop = CancellationToken::new();
        let supervisor =
            tokio::spawn(supervise::supervise_broker(launch, running, watch, sender, stop.clone()));
        Ok(Self { url, keys, state, stop, supervisor: Some(supervisor) })
    }

    /// Address for clients; the same over all restarts of the server.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The nkey seed of `role`: a secret.
    pub fn seed(&self, role: Role) -> &str {
        self.keys.seed(role)
    }

    /// Process id of the server; `None` while it is being started again.
    pub fn pid(&self) -> Option<u32> {
        self.state.borrow().pid
    }

    /// How often the server was started, from 1.
    pub fn start_count(&self) -> u64 {
        self.state.borrow().starts
    }

    /// Waits until the server was started more than `starts` times and is ready. False when it will not be any more.
    pub async fn wait_for_restart(&self, starts: u64) -> bool {
        let mut state = self.state.clone();
        state.wait_for(|state| state.starts > starts && state.pid.is_some()).await.is_ok()
    }

    /// Asks the server to end, kills it after the limit, and waits until it is gone.
    pub async fn stop(mut self) {
        self.stop.cancel();
        if let Some(supervisor) = self.supervisor.take()
            && let Err(error) = supervisor.await
        {
            tracing::error!(%error, "the broker's supervisor ended unexpectedly");
        }
    }
}

impl Drop for EmbeddedBroker {
    fn drop(&mut self) {
        if let Some(supervisor) = self.supervisor.take() {
            supervisor.abort();
            if let Some(pid) = self.pid() {
                child::send_signal(pid, rustix::process::Signal::KILL);
            }
        }
    }
}

/// Address of the server that was last started in `data_dir`, and the file with the seeds of its roles (lines `role seed`), beside which is that of the reader;
/// `None` when none ever was. Whether it runs now is for a connection to find out.
pub fn last_started_broker(data_dir: &Path) -> Option<(String, PathBuf)> {
    let port: u16 = std::fs::read_to_string(data_dir.join(folder::PORT)).ok()?.trim().parse().ok()?;
    Some((format!("nats://127.0.0.1:{port}"), data_dir.join(Role::Admin.seeds_file())))
}

/// Kills a process (SIGKILL), for tests of what a crash leaves behind.
#[cfg(feature = "testing")]
pub(crate) fn kill_broker_process(pid: u32) {
    child::send_signal(pid, rustix::process::Signal::KILL);
}

//! One run of the server process.

use std::{
    fs::{self, File},
    net::{Ipv4Addr, TcpListener},
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use serde::Deserialize;
use tokio::{
    io::AsyncWriteExt,
    process::{Child, ChildStdin},
};

use super::{
    BrokerConfig, BrokerError,
    folder::{self, BrokerDataDir, file_error},
    program,
};

const POLL: Duration = Duration::from_millis(2);
/// Most of the server's log that goes into an error, in bytes.
const LOG_TAIL_BYTES_MAX: usize = 600;

/// All that a start needs.
#[derive(Debug)]
pub(super) struct BrokerLauncher {
    pub(super) config: BrokerConfig,
    binary: PathBuf,
    folder: BrokerDataDir,
}

/// A server that takes connections.
#[derive(Debug)]
pub(super) struct BrokerProcess {
    pub(super) child: Child,
    pub(super) pid: u32,
    pub(super) port: u16,
    /// Port of the server's monitoring endpoint.
    pub(super) monitor: Option<u16>,
    guard: ChildStdin,
}

impl BrokerLauncher {
    pub(super) const fn new(config: BrokerConfig, binary: PathBuf, folder: BrokerDataDir) -> Self {
        Self { config, binary, folder }
    }

    /// Starts on the port of the last time when it is free, else on any.
    pub(super) async fn start_on_last_port(&self) -> Result<BrokerProcess, BrokerError> {
        if let Some(port) = self.folder.read_number::<u16>(folder::PORT).filter(|port| is_port_free(*port)) {
            match self.start_on_port(port.into()).await {
                Ok(running) => return Ok(running),
                Err(error) => tracing::warn!(%error, port, "the broker's last port can't be used"),
            }
        }
        let running = self.start_on_port(-1).await?;
        // Clients of other processes read it: the address should survive a restart of this one.
        self.folder.replace_file(folder::PORT, running.port.to_string().as_bytes(), 0o600)?;
        Ok(running)
    }

    /// Starts on `port` (-1: any) and waits until connections are taken.
    pub(super) async fn start_on_port(&self, port: i32) -> Result<BrokerProcess, BrokerError> {
        // From the file: the key of a reader may have been renewed since the last start.
        let keys = self.folder.write_config_of_keys(&self.config, port, None)?;
        self.clear_ports()?;
        let errors = self.folder.file_path("nats-server.err");
        let stderr = File::create(&errors).map_err(|source| file_error(&errors, source))?;
        let mut child = program::guarded_command(&self.binary)
            .arg("--config")
            .arg(self.folder.file_path(folder::CONFIG))
            // Nothing is ever written there: the open handle keeps the folder locked as long as the server lives.
            .stdout(self.folder.clone_lock()?)
            .stderr(stderr)
            .spawn()
            .map_err(|source| file_error(&self.binary, source))?;
        let (Some(guard), Some(pid)) = (child.stdin.take(), child.id()) else {
            return Err(BrokerError::Start { reason: "it ended at once".into() });
        };
        let ready = self.wait_until_ready(&mut child, pid).await?;
        // Renewed while it started: the server may not have been found yet.
        if self.folder.write_config_of_keys(&self.config, port, keys.as_ref())?.is_some() {
            send_signal(pid, Signal::HUP);
        }
        let (port, monitor) = ready;
        Ok(BrokerProcess { child, pid, port, monitor, guard })
    }

    async fn wait_until_ready(&self, child: &mut Child, pid: u32) -> Result<(u16, Option<u16>), BrokerError> {
        let file = self.folder.file_path(&format!("ports/nats-server_{pid}.ports"));
        let deadline = Instant::now() + Duration::from_millis(self.config.start_ms_max);
        loop {
            if let Some(ports) = fs::read(&file).ok().and_then(|bytes| parse_ports(&bytes)) {
                return Ok(ports);
            }
            match child.try_wait() {
                Ok(None) => {}
                Ok(Some(status)) => {
                    return Err(BrokerError::Start { reason: format!("{status}; {}", self.log_tail()) });
                }
                Err(source) => return Err(file_error(&self.binary, source)),
            }
            if Instant::now() >= deadline {
                let waited_ms = self.config.start_ms_max;
                return Err(BrokerError::Start {
                    reason: format!("not ready after {waited_ms} ms; {}", self.log_tail()),
                });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A killed server leaves its ports file behind, and process ids come back.
    fn clear_ports(&self) -> Result<(), BrokerError> {
        let folder = self.folder.file_path("ports");
        let cleared = || {
            for entry in fs::read_dir(&folder)? {
                fs::remove_file(entry?.path())?;
            }
            Ok(())
        };
        cleared().map_err(|source| file_error(&folder, source))
    }

    fn log_tail(&self) -> String {
        let mut text = String::new();
        for name in ["nats-server.log", "nats-server.err"] {
            let bytes = fs::read(self.folder.file_path(name)).unwrap_or_default();
            let tail = bytes.get(bytes.len().saturating_sub(LOG_TAIL_BYTES_MAX)..).unwrap_or_default();
            text.push_str(&String::from_utf8_lossy(tail));
        }
        text.lines().rev().take(4).collect::<Vec<_>>().into_iter().rev().collect::<Vec<_>>().join("; ")
    }
}

impl BrokerProcess {
    /// Notifies the guard that the server has ended by itself, so that it does not signal a process id that may come back.
    pub(super) async fn release_guard(mut self) {
        if let Err(error) = self.guard.write_all(b"\n").await {
            tracing::debug!(%error, "the broker's guard is gone already");
        }
    }

    /// Asks the server to end, kills it after `limit`, and waits until it is gone.
    pub(super) async fn stop(mut self, limit: Duration) {
        send_signal(self.pid, Signal::TERM);
        if let Ok(ended) = tokio::time::timeout(limit, self.child.wait()).await {
            tracing::debug!(?ended, "the broker has stopped");
        } else {
            tracing::warn!(limit_ms = limit.as_millis(), "the broker did not stop in time and is killed");
            if let Err(error) = self.child.kill().await {
                tracing::error!(%error, "the broker can't be killed");
            }
        }
        self.release_guard().await;
    }
}

#[derive(Deserialize)]
struct PortsFile {
    nats: Vec<String>,
    #[serde(default)]
    monitoring: Vec<String>,
}

/// The ports for clients and of the server's health in a ports file; `None` while it is not written completely.
fn parse_ports(bytes: &[u8]) -> Option<(u16, Option<u16>)> {
    let ports: PortsFile = serde_json::from_slice(bytes).ok()?;
    let first = |addresses: &[String]| addresses.first()?.rsplit(':').next()?.parse().ok();
    Some((first(&ports.nats)?, first(&ports.monitoring)))
}

fn is_port_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// True when there is a process with this id that has not ended.
pub(super) fn is_alive(pid: u32) -> bool {
    let Some(id) = parse_pid(pid) else { return false };
    !matches!(test_kill_process(id), Err(rustix::io::Errno::SRCH)) && !is_zombie(pid)
}

/// True for a process that has ended and whose parent has not asked how: it holds nothing any more.
fn is_zombie(pid: u32) -> bool {
    let Ok(stat) = fs::read_to_string(format!("/proc/{pid}/stat")) else { return false };
    // Behind the name, which may hold anything.
    stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with(['Z', 'X']))
}

/// Sends a signal; a process that is gone is no error.
pub(super) fn send_signal(pid: u32, signal: Signal) {
    let Some(id) = parse_pid(pid) else { return };
    if let Err(error) = kill_process(id, signal) {
        tracing::debug!(%error, pid, "the broker is gone already");
    }
}

fn parse_pid(pid: u32) -> Option<Pid> {
    Pid::from_raw(i32::try_from(pid).ok()?)
}

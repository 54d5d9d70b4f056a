//! A real nats-server per test, on a free port, with a temporary store that is removed at the end.
#![expect(clippy::expect_used, reason = "a test that has no broker fails at once")]

mod cluster;
mod dead_letters;
mod disk;

use std::{path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use schemas::job::JobRecord;
use tempfile::TempDir;

use crate::{
    Bus, BusConfig, Role,
    server::{self, EmbeddedBroker},
    topology::{self, TopologySettings},
};

pub use cluster::{SERVERS, TestCluster};
pub use dead_letters::store_dead_letter;
pub use disk::SmallDisk;

/// Ack wait of every durable: short, so that redelivery is soon.
pub const ACK_WAIT: Duration = Duration::from_secs(2);

/// Waits until the broker has taken what `bus` has sent, subscriptions among it: a flush ends once that is written. A question on the same
/// connection is answered behind it. For roles that read jobs.
///
/// # Panics
/// When the broker does not answer.
pub async fn wait_until_taken(bus: &Bus) {
    bus.load_record::<JobRecord>("none").await.expect("the broker answers");
}

/// A running broker with the whole topology; gone when dropped.
#[derive(Debug)]
pub struct TestBroker {
    // Dropped first, so that the server is gone before its folder.
    broker: EmbeddedBroker,
    folder: TempDir,
}

impl TestBroker {
    /// Starts one with the topology applied and [`ACK_WAIT`].
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start() -> Self {
        Self::start_with(&TopologySettings { ack_wait: Some(ACK_WAIT), ..TopologySettings::default() }).await
    }

    /// Starts one with the topology applied as `settings` say.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_with(settings: &TopologySettings) -> Self {
        let broker = Self::start_empty().await;
        let bus = broker.bus(Role::Admin).await;
        topology::apply_topology(bus.context(), settings).await.expect("the topology is applied");
        bus.close().await.expect("the connection closes");
        broker
    }

    /// Starts one without any stream.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn start_empty() -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let config =
            server::BrokerConfig { data_dir: folder.path().join("nats"), ..server::BrokerConfig::default() };
        let broker = EmbeddedBroker::start(config).await.expect("a nats-server");
        Self { broker, folder }
    }

    /// Address for clients; the same over all restarts.
    pub fn url(&self) -> &str {
        self.broker.url()
    }

    /// The nkey seed of `role`.
    pub fn seed(&self, role: Role) -> &str {
        self.broker.seed(role)
    }

    /// Settings of a connection with the rights of `role`.
    pub fn config(&self, role: Role) -> BusConfig {
        BusConfig::new(vec![self.url().to_owned()], role, Some(self.seed(role).to_owned()))
    }

    /// A connection with the rights of `role`.
    ///
    /// # Panics
    /// When it can't be made.
    pub async fn bus(&self, role: Role) -> Bus {
        Bus::connect(&self.config(role)).await.expect("a connection")
    }

    /// The server's data folder.
    pub fn data_dir(&self) -> &Path {
        self.folder.path()
    }

    /// The broker underneath.
    pub const fn broker(&self) -> &EmbeddedBroker {
        &self.broker
    }

    /// Stops the server where it is (SIGSTOP): connections stay, and nobody answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze(&self) {
        self.send_signal(Signal::STOP);
    }

    /// Lets a frozen server go on (SIGCONT).
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw(&self) {
        self.send_signal(Signal::CONT);
    }

    fn send_signal(&self, signal: Signal) {
        let pid = self.broker.pid().and_then(|pid| Pid::from_raw(pid.try_into().ok()?));
        kill_process(pid.expect("a running broker"), signal).expect("a signal");
    }

    /// Kills the server (SIGKILL) and waits until its supervisor has started it again.
    ///
    /// # Panics
    /// When it does not come back.
    pub async fn kill_and_wait(&self) {
        let starts = self.broker.start_count();
        let pid = self.broker.pid().expect("a running broker");
        server::kill_broker_process(pid);
        assert!(self.broker.wait_for_restart(starts).await, "the broker comes back");
    }
}

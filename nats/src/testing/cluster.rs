//! Three real servers with the configuration that is delivered, on free ports, with temporary stores.

use std::{
    fs::File,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use nkeys::KeyPair;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::{
    Bus, BusConfig, Role,
    topology::{self, TopologySettings},
};

/// Servers of a cluster.
pub const SERVERS: usize = 3;

/// Longest wait for the cluster; many times what it takes.
const WAIT_MAX: Duration = Duration::from_secs(30);

/// Three running servers; gone when dropped.
#[derive(Debug)]
pub struct TestCluster {
    // Dropped first, so that the servers are gone before their folder.
    servers: Vec<TestClusterServer>,
    keys: Vec<(Role, KeyPair)>,
    system: String,
    folder: TempDir,
}

#[derive(Debug)]
struct TestClusterServer {
    child: Option<Child>,
    client: u16,
    route: u16,
}

impl Drop for TestClusterServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().ok();
            child.wait().ok();
        }
    }
}

impl TestCluster {
    /// Starts three servers without any stream.
    ///
    /// # Panics
    /// When they can't be started.
    pub fn start_empty() -> Self {
        let held: Vec<TcpListener> =
            (0..SERVERS * 2).map(|_| TcpListener::bind("127.0.0.1:0").expect("a port")).collect();
        let mut ports = held.iter().map(|listener| listener.local_addr().expect("an address").port());
        let servers = std::iter::from_fn(|| {
            Some(TestClusterServer { child: None, client: ports.next()?, route: ports.next()? })
        });
        let mut cluster = Self {
            servers: servers.collect(),
            keys: Role::ALL.map(|role| (role, KeyPair::new_user())).into(),
            system: KeyPair::new_user().public_key(),
            folder: tempfile::tempdir().expect("a temporary folder"),
        };
        drop(held);
        for index in 0..SERVERS {
            cluster.launch_server(index);
        }
        cluster
    }

    /// Starts three servers with the whole topology in three copies.
    ///
    /// # Panics
    /// When they can't be started.
    pub async fn start() -> Self {
        let cluster = Self::start_empty();
        let bus = cluster.bus(Role::Admin).await;
        let settings = TopologySettings { replicas: SERVERS, ..TopologySettings::default() };
        let deadline = Instant::now() + WAIT_MAX;
        // A cluster that has just been started has no leader yet and says so.
        while let Err(error) = topology::apply_topology(bus.context(), &settings).await {
            assert!(Instant::now() < deadline, "the topology is applied: {error}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        cluster
    }

    /// Starts a server that does not run, on its own store, and does not wait for it.
    ///
    /// # Panics
    /// When there is no such server or it can't be started.
    pub fn launch_server(&mut self, index: usize) {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let program = std::env::var("NATS_SERVER")
            .unwrap_or_else(|_| root.join("../.tools/bin/nats-server").display().to_string());
        let routes: Vec<String> =
            self.servers.iter().map(|server| format!("nats://127.0.0.1:{}", server.route)).collect();
        let server = self.servers.get_mut(index).expect("one of three");
        let store = self.folder.path().join(server.client.to_string());
        let log = File::options().create(true).append(true).open(store.with_extension("log"));
        let mut command = Command::new(&program);
        command
            .arg("--config")
            .arg(root.join("server.conf"))
            .env("NATS_NAME", format!("n{}", server.client))
            .env("NATS_LISTEN", format!("127.0.0.1:{}", server.client))
            .env("NATS_CLUSTER_LISTEN", format!("127.0.0.1:{}", server.route))
            .env("NATS_ROUTES", format!("[{}]", routes.join(", ")))
            .env("NATS_STORE", &store)
            .env("NKEY_SYSTEM", &self.system)
            .stdin(Stdio::null())
            .stderr(log.expect("a log"));
        for (role, pair) in &self.keys {
            command.env(format!("NKEY_{}", role.name().to_uppercase()), pair.public_key());
        }
        server.child = Some(command.spawn().expect("a nats-server"));
    }

    /// Kills a server (SIGKILL).
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_server(&mut self, index: usize) {
        let child = self.servers.get_mut(index).and_then(|server| server.child.take());
        let mut child = child.expect("a running server");
        child.kill().expect("a signal");
        child.wait().expect("its end");
    }

    /// Stops a server where it is (SIGSTOP): connections stay, and nobody answers.
    ///
    /// # Panics
    /// When it does not run.
    pub fn freeze_server(&self, index: usize) {
        self.signal_server(index, Signal::STOP);
    }

    /// Lets a frozen server go on (SIGCONT).
    ///
    /// # Panics
    /// When it does not run.
    pub fn thaw_server(&self, index: usize) {
        self.signal_server(index, Signal::CONT);
    }

    fn signal_server(&self, index: usize, signal: Signal) {
        let child = self.servers.get(index).and_then(|server| server.child.as_ref());
        let pid = child.and_then(|child| Pid::from_raw(child.id().try_into().ok()?));
        kill_process(pid.expect("a running server"), signal).expect("a signal");
    }

    /// Which server a connection is to.
    pub fn server_of(&self, bus: &Bus) -> Option<usize> {
        let port = bus.client().server_info().port;
        self.servers.iter().position(|server| server.client == port)
    }

    /// Which server has a name, as the cluster shows it.
    pub fn index_of_name(&self, name: &str) -> Option<usize> {
        self.servers.iter().position(|server| name == format!("n{}", server.client))
    }

    /// Settings of a connection with the rights of `role`.
    ///
    /// # Panics
    /// Never: every role has a key.
    pub fn config(&self, role: Role) -> BusConfig {
        let urls = self.servers.iter().map(|server| format!("nats://127.0.0.1:{}", server.client)).collect();
        let pair = self.keys.iter().find(|(other, _)| *other == role).map(|(_, pair)| pair);
        let seed = pair.expect("a key").seed().expect("a seed");
        BusConfig { request_timeout_ms: 2_000, ..BusConfig::new(urls, role, Some(seed)) }
    }

    /// A connection with the rights of `role`, once a server takes it.
    ///
    /// # Panics
    /// When none does.
    pub async fn bus(&self, role: Role) -> Bus {
        let deadline = Instant::now() + WAIT_MAX;
        loop {
            match Bus::connect(&self.config(role)).await {
                Ok(bus) => return bus,
                Err(error) => assert!(Instant::now() < deadline, "a connection: {error}"),
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

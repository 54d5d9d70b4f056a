use std::{
    fs::File,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use nats::{
    Bus, Config, Role,
    topology::{self, Settings},
};
use nkeys::KeyPair;

/// One of three servers; killed when dropped.
struct Server {
    child: Child,
    url: String,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Ports nobody has now.
fn ports(count: usize) -> Vec<u16> {
    let held: Vec<TcpListener> = (0..count).map(|_| TcpListener::bind("127.0.0.1:0").unwrap()).collect();
    held.iter().map(|listener| listener.local_addr().unwrap().port()).collect()
}

/// Three servers with the configuration that is delivered.
fn start(folder: &Path, keys: &[(Role, KeyPair)]) -> Vec<Server> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = std::env::var("NATS_SERVER")
        .unwrap_or_else(|_| root.join("../.tools/bin/nats-server").display().to_string());
    let ports = ports(6);
    let (clients, others) = ports.split_at(3);
    let routes: Vec<String> = others.iter().map(|port| format!("nats://127.0.0.1:{port}")).collect();
    clients
        .iter()
        .zip(others)
        .map(|(client, other)| {
            let store = folder.join(client.to_string());
            let mut command = Command::new(&program);
            command
                .arg("--config")
                .arg(root.join("server.conf"))
                .env("NATS_NAME", format!("n{client}"))
                .env("NATS_LISTEN", format!("127.0.0.1:{client}"))
                .env("NATS_CLUSTER_LISTEN", format!("127.0.0.1:{other}"))
                .env("NATS_ROUTES", format!("[{}]", routes.join(", ")))
                .env("NATS_STORE", &store)
                .env("NKEY_SYSTEM", KeyPair::new_user().public_key())
                .stdin(Stdio::null())
                .stderr(File::create(store.with_extension("log")).unwrap());
            for (role, pair) in keys {
                command.env(format!("NKEY_{}", role.name().to_uppercase()), pair.public_key());
            }
            Server { child: command.spawn().unwrap(), url: format!("nats://127.0.0.1:{client}") }
        })
        .collect()
}

async fn connect(servers: &[Server], keys: &[(Role, KeyPair)], role: Role) -> Bus {
    let urls = servers.iter().map(|server| server.url.clone()).collect();
    let seed = keys.iter().find(|(other, _)| *other == role).unwrap().1.seed().unwrap();
    let config = Config { request_timeout_ms: 2_000, ..Config::new(urls, role, Some(seed)) };
    let mut bus = Bus::connect(&config).await;
    for _ in 0..100 {
        if bus.is_ok() {
            break;
        }
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        bus = Bus::connect(&config).await;
    }
    bus.unwrap()
}

#[tokio::test]
async fn three_servers_keep_everything_three_times() {
    let folder = tempfile::tempdir().unwrap();
    let keys: Vec<(Role, KeyPair)> = Role::ALL.map(|role| (role, KeyPair::new_user())).into();
    let mut servers = start(folder.path(), &keys);
    let bus = connect(&servers, &keys, Role::Admin).await;
    let settings = Settings { replicas: 3, ..Settings::default() };
    // A cluster that has just been started has no leader yet and says so.
    crate::until("the topology is applied", || async {
        topology::apply(bus.context(), &settings).await.is_ok()
    })
    .await;
    assert_eq!(topology::diff(bus.context(), &settings).await.unwrap(), []);
    assert_eq!(topology::apply(bus.context(), &settings).await.unwrap(), []);
    for role in Role::ALL {
        let bus = connect(&servers, &keys, role).await;
        topology::verify(bus.context(), role)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", role.name()));
    }
    // One server less: writes go on.
    servers.pop();
    crate::until("an event is stored", || async {
        match bus.context().publish("evt.media.stored.M", "x".into()).await {
            Ok(stored) => stored.await.is_ok(),
            Err(_) => false,
        }
    })
    .await;
}

#[tokio::test]
async fn one_server_runs_the_same_configuration_with_keys_that_were_made_for_it() {
    let folder = tempfile::tempdir().unwrap();
    nats::keys::make(folder.path()).unwrap();
    let text = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let (seeds, variables) = (text(nats::keys::SEEDS), text(nats::keys::VARIABLES));
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = std::env::var("NATS_SERVER")
        .unwrap_or_else(|_| root.join("../.tools/bin/nats-server").display().to_string());
    let port = ports(1)[0];
    let mut command = Command::new(&program);
    command.arg("--config").arg(root.join("node.conf"));
    command.env("NATS_NAME", "n1").env("NATS_LISTEN", format!("127.0.0.1:{port}"));
    command.env("NATS_STORE", folder.path().join("store"));
    command.envs(variables.lines().filter_map(|line| line.split_once('=')));
    let log = File::create(folder.path().join("log")).unwrap();
    let child = command.stdin(Stdio::null()).stderr(log).spawn().unwrap();
    let servers = [Server { child, url: format!("nats://127.0.0.1:{port}") }];
    let keys: Vec<(Role, KeyPair)> = Role::ALL
        .into_iter()
        .map(|role| {
            let line = seeds.lines().find_map(|line| line.strip_prefix(role.name())).unwrap();
            (role, KeyPair::from_seed(line.trim()).unwrap())
        })
        .collect();
    let bus = connect(&servers, &keys, Role::Admin).await;
    topology::apply(bus.context(), &Settings::default()).await.unwrap();
    for role in Role::ALL {
        let bus = connect(&servers, &keys, role).await;
        topology::verify(bus.context(), role)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", role.name()));
    }
    // Who shows no key is let in nowhere.
    let nobody =
        Config { request_timeout_ms: 2_000, ..Config::new(vec![servers[0].url.clone()], Role::Admin, None) };
    assert!(Bus::connect(&nobody).await.is_err());
}

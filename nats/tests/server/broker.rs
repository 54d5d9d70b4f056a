use std::{
    fs,
    io::{BufRead, BufReader, Write},
    net::TcpListener,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::{Command, Stdio},
    sync::Arc,
    time::Duration,
};

use async_nats::jetstream::stream;
use nats::{
    Bus, BusConfig, ConnectionState, ReaderStart, Role, reader,
    server::{self, BrokerError, EmbeddedBroker},
    testing::TestBroker,
};
use parking_lot::Mutex;
use schemas::subjects;

/// Folder that another process of this test works in.
const FOLDER: &str = "STREAMGATE_TEST_BROKER_FOLDER";

fn config(folder: &Path) -> server::BrokerConfig {
    server::BrokerConfig { data_dir: folder.to_path_buf(), ..server::BrokerConfig::default() }
}

async fn admin(broker: &EmbeddedBroker) -> Bus {
    let seed = broker.seed(Role::Admin).to_owned();
    Bus::connect(&BusConfig::new(vec![broker.url().to_owned()], Role::Admin, Some(seed))).await.unwrap()
}

/// Stores one message whose ack means that it is on disk.
async fn store(broker: &EmbeddedBroker) {
    let bus = admin(broker).await;
    let kept = stream::Config { name: "KEPT".into(), ..stream::Config::default() };
    bus.context().get_or_create_stream(kept).await.unwrap();
    bus.context().publish("KEPT", "x".into()).await.unwrap().await.unwrap();
}

async fn stored(broker: &EmbeddedBroker) -> u64 {
    let bus = admin(broker).await;
    bus.context().get_stream("KEPT").await.unwrap().cached_info().state.messages
}

#[tokio::test]
async fn a_killed_server_comes_back_at_the_same_address_with_its_store() {
    let broker = TestBroker::start_empty().await;
    store(broker.broker()).await;
    let bus = broker.bus(Role::Admin).await;
    for round in 1..=3 {
        let before = broker.broker().pid();
        broker.kill_and_wait().await;
        assert_ne!(broker.broker().pid(), before);
        crate::until("the connection is made again", || async { bus.is_up() }).await;
        assert_eq!(stored(broker.broker()).await, round);
        store(broker.broker()).await;
    }
}

#[tokio::test]
async fn a_reader_of_what_is_new_misses_nothing_while_the_broker_is_away() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Admin).await;
    let publish = async |subject: &'static str| {
        bus.context().publish(subject, "x".into()).await.unwrap().await.unwrap();
    };
    publish("evt.upload.expired.before").await;
    let all = vec![subjects::EVENTS_ALL.to_owned()];
    let settings = reader::ReaderConfig::new(subjects::EVENTS, all, ReaderStart::New);
    let mut events = bus.open_reader(settings).await.unwrap();
    broker.kill_and_wait().await;
    crate::until("the connection is made again", || async { bus.is_up() }).await;
    // The consumer is gone, and the reader has not noticed yet.
    publish("evt.upload.expired.after").await;
    let next = tokio::time::timeout(Duration::from_secs(20), events.next());
    assert_eq!(next.await.expect("it is received").unwrap().subject, "evt.upload.expired.after");
}

#[tokio::test]
async fn the_first_connection_is_no_reconnect() {
    let broker = TestBroker::start_empty().await;
    for _ in 0..20 {
        let bus = broker.bus(Role::Audit).await;
        let mut connection = bus.watch_connection();
        assert_eq!(*connection.borrow_and_update(), ConnectionState { epoch: 1, up: true });
        bus.context().query_account().await.unwrap();
        assert!(!connection.has_changed().unwrap());
    }
}

#[tokio::test]
async fn a_second_broker_never_opens_the_same_folder() {
    let folder = tempfile::tempdir().unwrap();
    let first = EmbeddedBroker::start(config(folder.path())).await.unwrap();
    let error = EmbeddedBroker::start(config(folder.path())).await.unwrap_err();
    assert!(
        matches!(error, BrokerError::InUse { pid: Some(pid), .. } if pid == std::process::id()),
        "{error}"
    );
    assert!(error.to_string().contains("is in use by another `streamgate up` (process "), "{error}");
    store(&first).await;
    first.stop().await;
}

#[tokio::test]
async fn a_stopped_broker_starts_again_with_address_keys_and_store() {
    let folder = tempfile::tempdir().unwrap();
    let first = EmbeddedBroker::start(config(folder.path())).await.unwrap();
    store(&first).await;
    let (url, seed) = (first.url().to_owned(), first.seed(Role::Keeper).to_owned());
    first.stop().await;
    assert!(async_nats::connect(&url).await.is_err(), "it is gone");

    let second = EmbeddedBroker::start(config(folder.path())).await.unwrap();
    assert_eq!((second.url(), second.seed(Role::Keeper)), (url.as_str(), seed.as_str()));
    assert_eq!(stored(&second).await, 1);
    second.stop().await;

    let port = url.rsplit(':').next().unwrap();
    let _taken = TcpListener::bind(format!("127.0.0.1:{port}")).unwrap();
    let third = EmbeddedBroker::start(config(folder.path())).await.unwrap();
    assert_ne!(third.url(), url);
    assert_eq!(stored(&third).await, 1);
    third.stop().await;
}

/// A broker in this process; started as a process of its own, it stays until that is killed.
#[tokio::test]
async fn a_broker_is_alone_in_its_process_group_and_gone_when_stopped() {
    let named = std::env::var_os(FOLDER);
    let folder = tempfile::tempdir().unwrap();
    let path = named.as_ref().map_or(folder.path(), Path::new);
    let broker = EmbeddedBroker::start(config(path)).await.unwrap();
    let pid = broker.pid().unwrap();
    if named.is_some() {
        let mut out = std::io::stdout();
        writeln!(out, "\nbroker {pid} {}", broker.url()).unwrap();
        std::future::pending::<()>().await;
    }
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let group = stat.rsplit(')').next().unwrap().split_whitespace().nth(2).unwrap();
    assert_eq!(group, pid.to_string(), "Ctrl-C of the parent does not reach it");
    broker.stop().await;
    assert!(!Path::new(&format!("/proc/{pid}")).exists());
}

#[tokio::test]
async fn a_broker_goes_with_its_parent_even_by_kill_9() {
    let folder = tempfile::tempdir().unwrap();
    let mut parent = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "broker::a_broker_is_alone_in_its_process_group_and_gone_when_stopped",
            "--nocapture",
        ])
        .env(FOLDER, folder.path())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(parent.stdout.take().unwrap()).lines();
    let line = lines.find_map(|line| Some(line.ok()?.strip_prefix("broker ")?.to_owned())).unwrap();
    let url = line.split(' ').nth(1).unwrap();
    let refused = EmbeddedBroker::start(config(folder.path())).await.unwrap_err();
    assert!(matches!(refused, BrokerError::InUse { pid: Some(pid), .. } if pid == parent.id()), "{refused}");

    // It is killed while the next one starts already, and nobody has asked yet how it ended.
    let kills = async { parent.kill().unwrap() };
    // The lock is free only once the old server is gone, and only then can its port be bound again.
    let (next, ()) = tokio::join!(EmbeddedBroker::start(config(folder.path())), kills);
    let next = next.unwrap();
    parent.wait().unwrap();
    assert_eq!(next.url(), url);
    next.stop().await;
}

#[tokio::test]
async fn only_keys_of_the_broker_get_in() {
    let folder = tempfile::tempdir().unwrap();
    let broker = EmbeddedBroker::start(config(folder.path())).await.unwrap();
    assert!(async_nats::connect(broker.url()).await.is_err(), "no key");
    let stranger = nkeys::KeyPair::new_user().seed().unwrap();
    assert!(
        async_nats::ConnectOptions::with_nkey(stranger).connect(broker.url()).await.is_err(),
        "wrong key"
    );
    for name in ["seeds", "reader-seed", "nats-server.conf"] {
        let mode = fs::metadata(folder.path().join(name)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{name}");
    }
    let written = fs::read_to_string(folder.path().join("nats-server.conf")).unwrap();
    assert!(Role::ALL.iter().all(|role| !written.contains(broker.seed(*role))), "only public keys");
    assert!(written.contains("host: 127.0.0.1"));
    broker.stop().await;
}

#[tokio::test]
async fn a_key_that_is_taken_back_lets_nobody_in_and_cuts_who_is() {
    let broker = nats::testing::TestBroker::start().await;
    let folder = broker.data_dir().join("nats");
    let stolen = broker.config(Role::Reader);
    let reader = nats::Bus::connect(&stolen).await.unwrap();
    let ingress = broker.bus(Role::Ingress).await;
    let renewed = server::renew_key(&folder, Role::Reader).await.unwrap();
    assert_eq!(renewed, server::RenewedKey::InForce, "the server runs");
    assert!(nats::Bus::connect(&stolen).await.is_err());
    let mut connection = reader.watch_connection();
    tokio::time::timeout(crate::WAIT_MAX, connection.wait_for(|state| !state.up)).await.unwrap().unwrap();
    let renewed = async || {
        let (url, seeds) = nats::server::last_started_broker(&folder).unwrap();
        let others = fs::read_to_string(&seeds).unwrap();
        assert_eq!(others.lines().count(), Role::ALL.len() - 1);
        let seed = fs::read_to_string(seeds.with_file_name("reader-seed")).unwrap();
        let seed = seed.trim().strip_prefix("reader ").unwrap().to_owned();
        nats::Bus::connect(&nats::BusConfig::new(vec![url], Role::Reader, Some(seed))).await
    };
    renewed().await.unwrap();
    assert!(ingress.watch_connection().borrow().up, "nobody else is cut");
    // The mirrors go on copying in the accounts that were loaded anew.
    let admin = broker.bus(Role::Admin).await;
    let stored = admin.context().publish("evt.media.stored.after", "x".into()).await.unwrap().await.unwrap();
    let again = renewed().await.unwrap();
    crate::until("the mirror has it", || async {
        let mirror = again.context().get_stream(subjects::EVENTS).await.unwrap();
        mirror.cached_info().state.last_sequence >= stored.sequence
    })
    .await;
    // A server that is started again has the new key, too.
    broker.kill_and_wait().await;
    renewed().await.unwrap();
    assert!(nats::Bus::connect(&stolen).await.is_err());
}

#[tokio::test]
async fn an_unusable_server_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let program = |name: &str, says: &str| {
        let path = folder.path().join(name);
        fs::write(&path, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    };
    let cases = [
        (program("old", "nats-server: v2.9.10"), "/old (2.9, too old)"),
        (program("other", "hello"), "/other (not a nats-server)"),
        (folder.path().join("none"), "/none (No such file"),
    ];
    for (binary, says) in cases {
        let config = server::BrokerConfig { binary: Some(binary), ..config(&folder.path().join("data")) };
        let error = EmbeddedBroker::start(config).await.unwrap_err();
        assert!(matches!(error, BrokerError::Missing { .. }), "{error}");
        for says in ["no nats-server 2.12 or newer", says, "make setup"] {
            assert!(error.to_string().contains(says), "{error}");
        }
    }
}

#[tokio::test]
async fn a_server_that_does_not_start_says_why() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("store"), "in the way").unwrap();
    let error = EmbeddedBroker::start(config(folder.path())).await.unwrap_err();
    assert!(matches!(error, BrokerError::Start { .. }), "{error}");
    assert!(error.to_string().contains("not a directory"), "{error}");
    fs::remove_file(folder.path().join("store")).unwrap();
    EmbeddedBroker::start(config(folder.path())).await.unwrap().stop().await;
}

/// Who begins again after a start that failed half way.
#[tokio::test]
async fn the_newest_observer_of_writes_is_the_one_that_is_asked() {
    let broker = TestBroker::start().await;
    let bus = Bus::connect(&broker.config(Role::Ingress)).await.unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    for start in ["first", "second"] {
        let seen = Arc::clone(&seen);
        bus.observe_writes(move |bucket, key| seen.lock().push((start, bucket.to_owned(), key.to_owned())));
    }
    bus.clone().purge_key("media", "a-key", Duration::from_secs(60)).await.unwrap();
    assert_eq!(*seen.lock(), [("second", "media".to_owned(), "a-key".to_owned())]);
}

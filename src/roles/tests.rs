//! A role waits for a broker that is away, ends when it is refused, and stops in time whatever the broker does.

use std::{process::Command, time::Instant};

use nats::server::{self, EmbeddedBroker};

use super::*;

fn site(folder: &Path, url: String, seeds: RoleSeeds) -> Runtime {
    Runtime {
        config: Arc::new(Settings { data_dir: Some(folder.to_owned()), ..Settings::default() }),
        urls: vec![url],
        seeds,
        shutdown: CancellationToken::new(),
        metrics: registry::MetricsRegistry::default(),
        chains: evm::ChainCounters::default(),
        dispatched: dispatch::DispatchMetrics::default(),
        webhooks: crate::keeper::webhooks::metrics::WebhookMetrics::default(),
        health: ProcessHealth::new(),
    }
}

/// A broker with its topology; started again in the same folder, it has the same address.
async fn start(folder: &Path) -> EmbeddedBroker {
    let broker = EmbeddedBroker::start(server::BrokerConfig {
        data_dir: folder.join("nats"),
        ..server::BrokerConfig::default()
    });
    let broker = broker.await.unwrap();
    let seed = broker.seed(Role::Admin).to_owned();
    let admin = nats::BusConfig::new(vec![broker.url().to_owned()], Role::Admin, Some(seed));
    let admin = Bus::connect(&admin).await.unwrap();
    nats::topology::apply_topology(admin.context(), &nats::topology::TopologySettings::default())
        .await
        .unwrap();
    broker
}

fn seeds(broker: &EmbeddedBroker) -> RoleSeeds {
    RoleSeeds::new(Role::ALL.map(|role| (role, broker.seed(role).to_owned())))
}

#[test]
fn every_role_but_reader_and_admin_runs_and_a_worker_is_named_like_its_role() {
    let runs = ProcessRole::ALL.map(ProcessRole::bus_role);
    assert_eq!([runs.as_slice(), &[Role::Reader, Role::Admin]].concat(), Role::ALL);
    for kind in ProcessRole::value_variants() {
        assert_eq!(kind.to_possible_value().unwrap().get_name(), kind.bus_role().name());
    }
}

#[tokio::test]
async fn a_broker_that_is_away_at_start_is_waited_for() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let site = site(folder.path(), broker.url().to_owned(), seeds(&broker));
    broker.stop().await;
    let (ready, mut is_ready) = oneshot::channel();
    let running = tokio::spawn(run_roles(site.clone(), &[ProcessRole::Audit], Some(ready)));
    // It has tried, and goes on trying.
    while site.health.restart_count(Role::Audit, "connection") < 2 {
        assert!(!running.is_finished(), "it waits");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert!(is_ready.try_recv().is_err(), "it is not ready");
    let broker = start(folder.path()).await;
    tokio::time::timeout(Duration::from_secs(60), is_ready).await.expect("it runs").unwrap();
    assert_eq!(site.health.problems(), []);
    site.shutdown.cancel();
    running.await.unwrap().unwrap();
    broker.stop().await;
}

#[tokio::test]
async fn a_role_that_is_refused_ends_and_says_why() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let elsewhere = tempfile::tempdir().unwrap();
    let other = start(elsewhere.path()).await;
    let site = site(folder.path(), broker.url().to_owned(), seeds(&other));
    other.stop().await;
    let ended =
        tokio::time::timeout(Duration::from_secs(20), run_roles(site, &[ProcessRole::Audit], None)).await;
    let error = format!("{:#}", ended.expect("it ends").unwrap_err());
    for words in ["role audit", "refuses the seed of the role audit", "authorization violation"] {
        assert!(error.contains(words), "{error}");
    }
    broker.stop().await;
}

#[tokio::test]
async fn all_roles_stop_in_time_while_the_broker_is_frozen() {
    let folder = tempfile::tempdir().unwrap();
    let broker = start(folder.path()).await;
    let mut site = site(folder.path(), broker.url().to_owned(), seeds(&broker));
    let mut config = Settings::clone(&site.config);
    config.ingress.grace_ms = 1_000;
    for stage in [
        &mut config.upload.consume,
        &mut config.transcode.planner,
        &mut config.transcode.parts,
        &mut config.tasks.parts,
        &mut config.index.consume,
    ] {
        stage.grace_ms = 1_000;
    }
    site.config = Arc::new(config);
    let (ready, is_ready) = oneshot::channel();
    let kinds = [ProcessRole::Audit, ProcessRole::Keeper, ProcessRole::Index, ProcessRole::Monitor];
    let shutdown = site.shutdown.clone();
    let running = tokio::spawn(async move { run_roles(site, &kinds, Some(ready)).await });
    is_ready.await.unwrap();
    let pid = broker.pid().unwrap().to_string();
    assert!(Command::new("kill").args(["-STOP", &pid]).status().unwrap().success());
    let begun = Instant::now();
    shutdown.cancel();
    running.await.unwrap().unwrap();
    let took = begun.elapsed();
    assert!(Command::new("kill").args(["-CONT", &pid]).status().unwrap().success());
    assert!(took < Duration::from_secs(3) + CLOSING_MAX, "{took:?}");
    broker.stop().await;
}

#[test]
fn a_role_of_a_newer_version_is_left_out_and_the_seed_of_the_reader_is_beside_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let seeds = folder.path().join("seeds");
    std::fs::write(&seeds, "later SULATER\naudit SUAUDIT\n").unwrap();
    let read = RoleSeeds::from_file(&seeds).unwrap();
    assert_eq!(read.seed_of(Role::Audit).as_deref(), Some("SUAUDIT"));
    assert_eq!(RoleSeeds::from_file_of(&seeds, Role::Reader).unwrap().seed_of(Role::Reader), None);
    std::fs::write(folder.path().join("reader-seed"), "reader SUREADER\n").unwrap();
    let reader = RoleSeeds::from_file_of(&seeds, Role::Reader).unwrap();
    assert_eq!(reader.seed_of(Role::Reader).as_deref(), Some("SUREADER"));
    std::fs::write(&seeds, "later SULATER\n").unwrap();
    assert!(RoleSeeds::from_file(&seeds).unwrap_err().to_string().contains("has no seed"));
}

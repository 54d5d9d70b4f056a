//! A disk that was full for a while: the server gives up writing for good, and is restarted once there is room.

use std::time::Duration;

use async_nats::jetstream::stream;
use nats::{
    Bus, BusConfig, ProcessHealth, Role,
    server::{self, EmbeddedBroker},
    testing::SmallDisk,
};

const DISK_BYTES: u64 = 64 << 20;

async fn connect(broker: &EmbeddedBroker, health: &ProcessHealth) -> Bus {
    let seed = broker.seed(Role::Admin).to_owned();
    let config = BusConfig::new(vec![broker.url().to_owned()], Role::Admin, Some(seed));
    Bus::connect(&BusConfig { request_timeout_ms: 300, health: health.clone(), ..config }).await.unwrap()
}

#[tokio::test]
async fn a_server_that_gave_up_writing_is_restarted_once_there_is_room() {
    let name = "full_disk::a_server_that_gave_up_writing_is_restarted_once_there_is_room";
    let Some(disk) = SmallDisk::for_test(name, DISK_BYTES) else { return };
    let health = ProcessHealth::new();
    let config = server::BrokerConfig {
        data_dir: disk.path().join("nats"),
        watch_period_ms: 50,
        room_bytes_min: 16 << 20,
        ..server::BrokerConfig::default()
    };
    let broker = EmbeddedBroker::start_with_health(config, health.clone()).await.unwrap();
    let bus = connect(&broker, &health).await;
    let kept = stream::Config { name: "KEPT".into(), ..stream::Config::default() };
    bus.context().get_or_create_stream(kept).await.unwrap();
    let store = async |bytes: usize| match bus.context().publish("KEPT", vec![1; bytes].into()).await {
        Ok(ack) => ack.await.is_ok(),
        Err(_) => false,
    };
    assert!(store(10).await);
    disk.fill();
    crate::until("nothing can be written", || async { !store(10_000).await }).await;
    let says = |what: &str| nats::metrics::render_collector(health.clone()).contains(what);
    crate::until("the server says so", || async { says("streamgate_broker_write_broken 1\n") }).await;
    assert_eq!(broker.start_count(), 1, "without room a restart helps nobody");

    disk.free();
    let back = tokio::time::timeout(Duration::from_secs(20), broker.wait_for_restart(1));
    assert!(back.await.expect("it is restarted once there is room"));
    crate::until("it writes again", || async { store(10).await }).await;
    crate::until("the server says so", || async { says("streamgate_broker_write_broken 0\n") }).await;
    assert_eq!(broker.start_count(), 2);
    assert!(
        says("streamgate_broker_write_errors_total 1\n"),
        "{}",
        nats::metrics::render_collector(health.clone())
    );
    broker.stop().await;
}

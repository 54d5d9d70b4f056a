//! What waits for the broker goes on once it is back, and knows a refusal from an outage.

use std::{
    process::Command,
    time::{Duration, Instant},
};

use nats::{Bus, BusConfig, BusError, Outbox, Role, VersionedRecord, testing::TestBroker};
use schemas::{document::MediaDocumentRecord, ids::MediaId, upload::UploadTerminated};

fn record(first: u8) -> MediaDocumentRecord {
    MediaDocumentRecord {
        title: "a".into(),
        ..MediaDocumentRecord::new(MediaId::from_bytes([first; 16]), "ann".into(), 1)
    }
}

fn terminated(first: u8) -> UploadTerminated {
    UploadTerminated {
        upload_id: schemas::ids::UploadId::from_bytes([first; 16]),
        media_id: MediaId::from_bytes([first; 16]),
        owner: "ann".into(),
        offset_bytes: 0,
        code: None,
    }
}

fn freeze(pid: u32) {
    assert!(Command::new("kill").args(["-STOP", &pid.to_string()]).status().unwrap().success());
}

#[tokio::test]
async fn a_request_in_flight_when_the_broker_dies_is_repeated_when_it_is_back() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Ingress).await;
    bus.commit_record(&mut VersionedRecord::new(record(1)), Outbox::new()).await.unwrap();
    // Known before, so that the publish below is the only request.
    bus.publish_event(&terminated(9), "before").await.unwrap();
    freeze(broker.broker().pid().unwrap());
    let key = record(1).media_id.to_string();
    let mut held = VersionedRecord::new(record(2));
    let (one, event) = (record(2).media_id.to_string(), terminated(3));
    let asked = async {
        tokio::join!(
            bus.read_value("media", &key),
            bus.commit_record(&mut held, Outbox::new()),
            bus.publish_event(&event, "now")
        )
    };
    let dies = async {
        // Written to the connection behind the requests, which the frozen server does not read.
        tokio::task::yield_now().await;
        bus.client().flush().await.unwrap();
        let begun = Instant::now();
        broker.kill_and_wait().await;
        begun
    };
    let ((read, committed, reported), begun) = tokio::join!(asked, dies);
    assert!(read.unwrap().is_some());
    committed.unwrap();
    reported.unwrap();
    let waited = begun.elapsed();
    assert!(waited < Duration::from_secs(4), "{waited:?}; a request alone would wait for 5 s");
    assert!(bus.read_value("media", &one).await.unwrap().is_some());
    let stream = bus.context().get_stream("EVENTS").await.unwrap();
    assert_eq!(stream.cached_info().state.messages, 2, "each event once");
}

#[tokio::test]
async fn refused_credentials_are_no_outage() {
    let broker = TestBroker::start_empty().await;
    let stranger = nkeys::KeyPair::new_user().seed().unwrap();
    for seed in [Some(stranger), Some("no seed".into()), None] {
        let config = BusConfig { seed, ..broker.config(Role::Ingress) };
        let refused = Bus::connect(&config).await.unwrap_err();
        assert!(matches!(refused, BusError::Credentials { .. }), "{refused:?}");
    }
    // Nobody listens there.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let config = BusConfig { urls: vec![format!("nats://{free}")], ..broker.config(Role::Ingress) };
    let away = Bus::connect(&config).await.unwrap_err();
    assert!(matches!(away, BusError::Unavailable(_)), "{away:?}");
    let config = BusConfig { urls: vec!["nats://[".into()], ..broker.config(Role::Ingress) };
    let invalid = Bus::connect(&config).await.unwrap_err();
    assert!(matches!(invalid, BusError::Invalid { .. }), "{invalid:?}");
}

#[tokio::test]
async fn a_lease_whose_stream_is_gone_keeps_nobody_from_stopping() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let bus = broker.bus(Role::Keeper).await;
    let shutdown = tokio_util::sync::CancellationToken::new();
    let (taken, on_taken) = tokio::sync::oneshot::channel();
    let mut taken = Some(taken);
    let holding = bus.run_with_lease("outbox", shutdown.clone(), |held| {
        let taken = taken.take();
        async move {
            if let Some(taken) = taken {
                taken.send(()).unwrap();
            }
            held.cancelled().await;
        }
    });
    let stopping = async {
        on_taken.await.unwrap();
        admin.context().delete_stream("KV_leases").await.unwrap();
        let begun = Instant::now();
        shutdown.cancel();
        begun
    };
    let ((), begun) = tokio::join!(holding, stopping);
    assert!(begun.elapsed() < Duration::from_secs(3), "{:?}", begun.elapsed());
    // Nobody holds it, and it can't even be asked for.
    let shutdown = tokio_util::sync::CancellationToken::new();
    let stop = async {
        let begun = Instant::now();
        shutdown.cancel();
        begun
    };
    let ((), begun) = tokio::join!(bus.run_with_lease("outbox", shutdown.clone(), |_| async {}), stop);
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_process_knows_whether_its_writes_are_confirmed() {
    let broker = TestBroker::start().await;
    let roles = Role::ALL.into_iter().filter(|role| !matches!(role, Role::Admin | Role::Reader));
    let proven = roles.map(|role| prove(&broker, role));
    futures::future::join_all(proven).await;
}

async fn prove(broker: &TestBroker, role: Role) {
    let bus = broker.bus(role).await;
    let shutdown = tokio_util::sync::CancellationToken::new();
    let subject = format!("$KV.workers.{}.*", role.name());
    let mut beats = broker.bus(Role::Admin).await.subscribe_core(subject).await.unwrap();
    let seen = async {
        futures::StreamExt::next(&mut beats).await.unwrap();
        let first = Instant::now();
        futures::StreamExt::next(&mut beats).await.unwrap();
        // One that is not confirmed is followed by another only after its 5 s.
        assert!(first.elapsed() < Duration::from_secs(4), "{:?}", first.elapsed());
        shutdown.cancel();
    };
    let (proved, ()) = tokio::join!(bus.run_write_heartbeat(&shutdown), seen);
    proved.unwrap();
    let stream = broker.bus(Role::Admin).await.context().get_stream("KV_workers").await.unwrap();
    assert!(stream.cached_info().state.messages >= 1);
    assert_eq!(bus.health().problems(), []);
}

#[tokio::test]
async fn a_live_record_is_put_over_what_is_there_and_ends_by_itself() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Transcode).await;
    let mut live = schemas::worker::WorkerRecord {
        worker: "ab01".into(),
        queue: "transcode".into(),
        slots: 1,
        held: Vec::new(),
        state: schemas::worker::WorkerState::Running,
        version: "1.0.0".into(),
        options_version: "transcode/3".into(),
        other_version_wait_ms: 600_000,
        host: String::new(),
        started_at_ms: 1,
        speed: None,
    };
    bus.put_live_record(&live, Duration::from_secs(60)).await.unwrap();
    live.slots = 2;
    bus.put_live_record(&live, Duration::from_secs(1)).await.unwrap();
    let admin = broker.bus(Role::Admin).await;
    let read =
        async || admin.read_value("workers", "transcode.ab01").await.unwrap().and_then(|raw| raw.value);
    let (envelope, stored) =
        nats::decode_record::<schemas::worker::WorkerRecord>("ab01", &read().await.unwrap()).unwrap();
    assert_eq!((stored, envelope.unsent), (live, vec![]));
    let begun = Instant::now();
    while read().await.is_some() {
        assert!(begun.elapsed() < Duration::from_secs(10));
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

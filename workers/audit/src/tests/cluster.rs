//! Three servers that are restarted in turn, or frozen, while events are written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use nats::{
    Bus, ReaderStart, Role, reader,
    testing::{SERVERS, TestCluster},
};
use schemas::{
    ids::{MediaId, UploadId},
    subjects,
    upload::UploadExpired,
};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::soon;
use crate::{AuditConfig, AuditError, AuditLogStatus, verify_log};

/// What happens while events are written.
struct Scene {
    cluster: TestCluster,
    audit: Bus,
    ingress: Bus,
    events: nats::StreamReader,
    written: Arc<AtomicU64>,
    stop: CancellationToken,
    writing: JoinHandle<()>,
    stage: JoinHandle<Result<(), AuditError>>,
}

impl Scene {
    async fn start() -> Self {
        let cluster = TestCluster::start().await;
        let (audit, ingress) = (cluster.bus(Role::Audit).await, cluster.bus(Role::Ingress).await);
        let all = vec![subjects::EVENTS_ALL.to_owned()];
        let config = reader::ReaderConfig {
            heartbeat: Duration::from_millis(300),
            ..reader::ReaderConfig::new(subjects::EVENTS, all, ReaderStart::All)
        };
        let events = ingress.follow_stream("events", config);
        let (stop, written) = (CancellationToken::new(), Arc::default());
        let stage = tokio::spawn(crate::run(audit.clone(), AuditConfig::default(), CancellationToken::new()));
        let writing = tokio::spawn(write(ingress.clone(), stop.clone(), Arc::clone(&written)));
        let scene = Self { cluster, audit, ingress, events, written, stop, writing, stage };
        scene.writes(20).await;
        scene
    }

    /// Waits until so many more events are written.
    async fn writes(&self, count: u64) {
        let until = self.written.load(Ordering::SeqCst) + count;
        let written = async {
            while self.written.load(Ordering::SeqCst) < until {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        soon("more events", written).await;
    }

    /// Ends the writing: the log has each event once, readers got each once, and all of them follow.
    async fn end(mut self) {
        self.stop.cancel();
        soon("the end of the writing", self.writing).await.unwrap();
        let count = self.written.load(Ordering::SeqCst);
        let audited = async {
            loop {
                match verify_log(&self.audit).await {
                    Ok(AuditLogStatus::Sound { head, .. }) if head.n < count => {}
                    Ok(found) => return found,
                    Err(AuditError::Bus(error)) if error.is_transient() => {}
                    Err(error) => panic!("{error}"),
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        let found = soon("the last record", audited).await;
        let AuditLogStatus::Sound { head, events_missing, notes } = found else { panic!("{found:?}") };
        assert_eq!((head.n, head.source_sequence, events_missing, notes.len()), (count, count, 0, 0));
        for sequence in 1..=count {
            assert_eq!(soon("an event", self.events.next()).await.unwrap().sequence, sequence);
        }
        for bus in [&self.audit, &self.ingress] {
            let following = bus.reader_statuses();
            assert_eq!(following.len(), 1);
            assert!(following[0].is_following(), "{}", following[0].name());
        }
        assert!(!self.stage.is_finished(), "the stage goes on");
        self.stage.abort();
    }
}

/// Publishes event after event, each until it is stored.
async fn write(bus: Bus, stop: CancellationToken, written: Arc<AtomicU64>) {
    for n in 1_u64.. {
        if stop.is_cancelled() {
            return;
        }
        let mut id = [0; 16];
        id[..8].copy_from_slice(&n.to_be_bytes());
        let (upload_id, media_id) = (UploadId::from_bytes(id), MediaId::from_bytes(id));
        let event = UploadExpired { upload_id, media_id, owner: "ann".into(), offset_bytes: n };
        while let Err(error) = bus.publish_event(&event, "once").await {
            assert!(error.is_transient(), "{error}");
        }
        written.store(n, Ordering::SeqCst);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn servers_that_are_restarted_in_turn_double_lose_and_stop_nothing() {
    let mut scene = Scene::start().await;
    for index in 0..SERVERS {
        scene.cluster.kill_server(index);
        scene.cluster.launch_server(index);
        // Nobody waits for it to be well again.
        scene.writes(10).await;
    }
    scene.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_server_doubles_loses_and_stops_nothing() {
    let scene = Scene::start().await;
    let mut following = scene.events.status();
    // The one that the reader's consumer is on, wherever that is, is among them.
    for index in 0..SERVERS {
        scene.cluster.freeze_server(index);
        tokio::select! {
            () = following.wait_for_change() => {}
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        scene.cluster.thaw_server(index);
        scene.writes(10).await;
    }
    scene.end().await;
}

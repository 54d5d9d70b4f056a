//! kill -9, one process at a time: the job finishes, nothing is lost or doubled, the objects are the same bytes.

use std::collections::{BTreeMap, BTreeSet};

use nats::{ReaderStart, reader};
use reqwest::Method;
use schemas::subjects;

use crate::harness::{Cluster, Event, Options, sample};

/// Events that report a retry come only with a fault; all others must be the same with and without.
const ONLY_WITH_FAULTS: [&str; 1] = ["job.retried"];

async fn undisturbed(source: &[u8]) -> BTreeMap<String, String> {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(source.to_vec(), "clip.mp4").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    media_objects(&cluster, &media_id).await
}

/// All objects. The folder of an encode is named after its options and its
/// source, which is another one in another run: only what lies in it is compared.
async fn media_objects(cluster: &Cluster, media_id: &str) -> BTreeMap<String, String> {
    let within_encode = |path: String| match path.splitn(3, '/').collect::<Vec<_>>().as_slice() {
        [encode, _, rest] => format!("{encode}/{rest}"),
        _ => path,
    };
    let objects = cluster.objects(media_id).await.into_iter();
    objects.map(|(path, digest)| (within_encode(path), digest)).collect()
}

/// AUDIT holds each event once and in order.
pub(crate) async fn check_audit(cluster: &mut Cluster) {
    let events: Vec<u64> = cluster.all_events().await.iter().map(|event| event.sequence).collect();
    let mut audit = cluster
        .bus
        .open_reader(reader::ReaderConfig::new(subjects::AUDIT, vec!["audit.>".into()], ReaderStart::All))
        .await
        .unwrap();
    let mut audited = Vec::new();
    let read = async {
        while audited.len() < events.len() {
            let entry = audit.next().await.unwrap();
            let line: serde_json::Value = serde_json::from_slice(&entry.payload).unwrap();
            audited.push(line["source"]["sequence"].as_u64().unwrap());
        }
    };
    tokio::time::timeout(crate::harness::WAIT_MAX, read).await.expect("the audit log did not catch up");
    assert_eq!(audited, events);
}

fn check_once(events: &[Event], media_id: &str) {
    let mut seen = BTreeSet::new();
    for event in events.iter().filter(|event| event.media_id.as_deref() == Some(media_id)) {
        if !ONLY_WITH_FAULTS.contains(&event.kind.as_str()) {
            assert!(seen.insert(event.kind.clone()), "{} twice", event.kind);
        }
    }
}

/// Kills `victim` once `trigger` was seen, starts it again, and compares the outcome with an undisturbed run.
async fn survives(victim: &str, trigger: &str) {
    let source = sample(40, "320x180", "25");
    let expected = undisturbed(&source).await;
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(source, "clip.mp4").await;
    cluster.media_event(trigger, &media_id).await;
    let ready = cluster.restart(victim);
    if victim == "ingress" {
        cluster.url = ready["url"].as_str().unwrap().to_owned();
    }
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{end:?}");
    assert_eq!(media_objects(&cluster, &media_id).await, expected);
    let events = cluster.all_events().await;
    check_once(&events, &media_id);
    check_audit(&mut cluster).await;
}

#[tokio::test]
async fn the_upload_worker_is_killed() {
    survives("upload", "upload.received").await;
}

#[tokio::test]
async fn the_transcode_worker_is_killed_half_way() {
    survives("transcode", "media.playable").await;
}

#[tokio::test]
async fn the_index_is_killed() {
    survives("index", "media.stored").await;
}

#[tokio::test]
async fn the_audit_is_killed() {
    survives("audit", "job.started").await;
}

#[tokio::test]
async fn the_keeper_is_killed() {
    survives("keeper", "job.queued").await;
}

#[tokio::test]
async fn the_broker_is_killed() {
    let source = sample(40, "320x180", "25");
    let expected = undisturbed(&source).await;
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(source, "clip.mp4").await;
    cluster.media_event("job.started", &media_id).await;
    cluster.brokers.one().kill_and_wait().await;
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{end:?}");
    assert_eq!(media_objects(&cluster, &media_id).await, expected);
    let events = cluster.all_events().await;
    check_once(&events, &media_id);
    check_audit(&mut cluster).await;
}

#[tokio::test]
async fn a_media_child_is_killed() {
    let source = sample(40, "320x180", "25");
    let expected = undisturbed(&source).await;
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(source, "clip.mp4").await;
    cluster.media_event("media.playable", &media_id).await;
    kill_children(cluster.pid("transcode"));
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{end:?}");
    assert_eq!(media_objects(&cluster, &media_id).await, expected);
    check_audit(&mut cluster).await;
}

/// kill -9 of every media child of one worker.
pub(crate) fn kill_children(worker: u32) {
    let children =
        std::fs::read_to_string(format!("/proc/{worker}/task/{worker}/children")).unwrap_or_default();
    let mut all: Vec<String> = children.split_whitespace().map(ToOwned::to_owned).collect();
    for task in std::fs::read_dir(format!("/proc/{worker}/task")).unwrap().flatten() {
        let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
        all.extend(children.split_whitespace().map(ToOwned::to_owned));
    }
    assert!(!all.is_empty(), "the worker has no media child to kill");
    for pid in all {
        std::process::Command::new("kill").args(["-9", &pid]).status().unwrap();
    }
}

#[tokio::test]
async fn the_ingress_is_killed_in_the_middle_of_a_patch() {
    let source = sample(20, "640x360", "25");
    let expected = undisturbed(&source).await;
    let mut cluster = Cluster::start(Options::default()).await;
    let (location, media_id) = crate::tus::create(&cluster, source.len()).await;
    let half = source.len() / 2;
    crate::tus::start_patch(&cluster, &location, &source[..half], source.len()).await;
    let ready = cluster.restart("ingress");
    cluster.url = ready["url"].as_str().unwrap().to_owned();
    let offset = crate::tus::offset(&cluster, &location).await;
    assert!(offset <= half, "{offset} of {half}");
    assert_eq!(crate::tus::patch(&cluster, &location, offset, &source[offset..]).await, source.len());
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{end:?}");
    assert_eq!(media_objects(&cluster, &media_id).await, expected);
    check_audit(&mut cluster).await;
}

#[tokio::test]
async fn events_a_crash_left_in_their_record_are_published() {
    let mut cluster = Cluster::start(Options { without_workers: true, ..Options::default() }).await;
    let (location, _) = crate::tus::create(&cluster, 1000).await;
    let upload_id = location.rsplit('/').next().unwrap().to_owned();
    // The record as a crash between state and event leaves it: changed, and its event unsent.
    let raw = cluster.bus.read_value("uploads", &upload_id).await.unwrap().unwrap();
    let (mut envelope, record) =
        nats::decode_record::<schemas::upload::UploadRecord>(&upload_id, &raw.value.unwrap()).unwrap();
    let event = schemas::upload::UploadTerminated {
        upload_id: record.upload_id,
        media_id: record.media_id,
        owner: record.owner.clone(),
        offset_bytes: 0,
        code: None,
    };
    envelope.unsent = vec![schemas::envelope::UnsentEvent {
        subject: subjects::event_subject(&event),
        id: "left-behind".into(),
        headers: [(schemas::headers::MEDIA_ID.to_owned(), record.media_id.to_string())].into(),
        payload: serde_bytes::ByteBuf::from(nats::encode_message("event", &event).unwrap()),
        once: true,
        after_sequence: None,
    }];
    let payload = nats::encode_message("envelope", &envelope).unwrap();
    cluster
        .bus
        .context()
        .publish(subjects::kv_subject("uploads", &upload_id), payload.into())
        .await
        .unwrap()
        .await
        .unwrap();
    let swept = cluster.media_event("upload.terminated", &record.media_id.to_string()).await;
    assert_eq!(swept.id, upload_id);
}

#[tokio::test]
async fn a_stop_under_load_redelivers_nothing_that_was_finished() {
    let mut cluster = Cluster::start(Options::default()).await;
    let mut all = Vec::new();
    for _ in 0..4 {
        all.push(cluster.upload(sample(6, "320x180", "25"), "load.mp4").await);
    }
    cluster.media_event("media.ready", &all[0]).await;
    let started = std::time::Instant::now();
    let status = cluster.stop("transcode");
    assert!(status.success(), "{status}\n{}", cluster.log("transcode"));
    assert!(started.elapsed().as_secs() < 12, "{:?}", started.elapsed());
    cluster.spawn("transcode", &["worker", "transcode"]);
    for media_id in &all {
        assert_eq!(cluster.end_of(media_id).await.kind, "job.succeeded");
    }
    let events = cluster.all_events().await;
    for media_id in &all {
        check_once(&events, media_id);
    }
    let retried: Vec<&Event> = events.iter().filter(|event| event.kind == "job.retried").collect();
    let finished_first: Vec<&&Event> =
        retried.iter().filter(|event| event.media_id.as_deref() == Some(&all[0])).collect();
    assert!(finished_first.is_empty(), "{finished_first:?}");
    let health = cluster.request(Method::GET, "/readyz").send().await.unwrap();
    assert!(health.status().is_success());
}

//! Removing a medium while it is being made and played, with every role in a process of its own.

use std::{collections::BTreeMap, process::Command, time::Duration};

use futures::TryStreamExt;
use reqwest::{Method, header};
use serde_json::Value;

use crate::{
    flow::playback,
    harness::{Cluster, Options, WAIT_MAX, poll, sample},
};

/// Messages in every bucket but those of leases and workers, which come and go by themselves; and objects in the store.
async fn counts(cluster: &Cluster) -> BTreeMap<String, u64> {
    let context = cluster.bus.context();
    let names: Vec<String> = context.stream_names().try_collect().await.unwrap();
    let mut counts = BTreeMap::new();
    let counted = |name: &String| name.starts_with("KV_") && name != "KV_leases" && name != "KV_workers";
    for name in names.into_iter().filter(counted) {
        let stream = context.get_stream(&name).await.unwrap();
        // What fires is written whenever a monitor has looked.
        let alerts = stream.get_last_raw_message_by_subject("$KV.limits.alerts").await;
        counts.insert(name, stream.cached_info().state.messages - u64::from(alerts.is_ok()));
    }
    let objects: Vec<_> = cluster.store.list("media").try_collect().await.unwrap();
    counts.insert("objects".into(), objects.len() as u64);
    counts
}

async fn until(what: &str, limit: Duration, cluster: &Cluster, holds: impl AsyncFn() -> bool) {
    let held = poll(limit, async || holds().await.then_some(())).await;
    assert!(held.is_some(), "{what}: {:?}\n{}", counts(cluster).await, cluster.logs());
}

/// Media children of the transcode worker.
pub(crate) fn children(cluster: &Cluster) -> usize {
    let pid = cluster.pid("transcode");
    let children = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    let mut count = children.split_whitespace().count();
    for task in std::fs::read_dir(format!("/proc/{pid}/task")).unwrap().flatten() {
        if task.file_name() != pid.to_string().as_str() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            count += children.split_whitespace().count();
        }
    }
    count
}

async fn remove(cluster: &Cluster, media_id: &str) {
    let path = format!("/v1/media/{media_id}");
    let shown = cluster.request(Method::GET, &path).send().await.unwrap();
    let tag = shown.headers()[header::ETAG].clone();
    let removed = cluster.request(Method::DELETE, &path).header(header::IF_MATCH, tag).send().await.unwrap();
    assert_eq!(removed.status(), 204, "{}", removed.text().await.unwrap());
    assert_eq!(cluster.request(Method::GET, &path).send().await.unwrap().status(), 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_medium_removed_while_it_is_made_and_played_ends_everywhere_and_leaves_nothing() {
    let keep = "\n[retention]\nremoved = \"0s\"\n\n[keeper.purge]\ngrace = \"1s\"\nmark = \"1s\"\nperiod = \"200ms\"\n";
    let mut cluster = Cluster::start_with(Options::default(), keep).await;
    // What belongs to an owner and not to a medium is there after the first upload.
    let first = cluster.upload(b"no video".to_vec(), "first.mp4").await;
    cluster.end_of(&first).await;
    remove(&cluster, &first).await;
    let steady = async |cluster: &Cluster| counts(cluster).await["objects"] == 0;
    until("the first is purged", WAIT_MAX, &cluster, async || steady(&cluster).await).await;
    until("its marks are gone", WAIT_MAX, &cluster, async || counts(&cluster).await["KV_media"] == 0).await;
    let before = counts(&cluster).await;

    // A second replica, on which it is played.
    let other = cluster.spawn("ingress-2", &["ingress", "--listen", "127.0.0.1:0"]);
    let other = other["url"].as_str().unwrap().to_owned();
    let media_id = cluster.upload(sample(90, "1280x720", "30"), "film.mp4").await;
    cluster.media_event("media.playable", &media_id).await;
    let address = playback(&cluster, &media_id).await["hls_url"].as_str().unwrap().to_owned();
    let play = async || cluster.http.get(format!("{other}{address}")).send().await.unwrap().status().as_u16();
    assert_eq!(play().await, 200);
    assert!(children(&cluster) > 0, "it is still being made");
    remove(&cluster, &media_id).await;
    until("nobody plays it", Duration::from_secs(2), &cluster, async || play().await >= 400).await;
    until("no child is left", Duration::from_secs(2), &cluster, async || children(&cluster) == 0).await;
    until("all is as before", WAIT_MAX, &cluster, async || counts(&cluster).await == before).await;
    let page: Value = cluster.get("/v1/media").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 0, "{page}");
    let page: Value = cluster.get("/v1/jobs").await;
    assert_eq!(page["items"].as_array().unwrap().len(), 0, "{page}");
    let events = cluster.all_events().await;
    let kinds: Vec<&str> = events
        .iter()
        .filter(|event| event.media_id.as_deref() == Some(media_id.as_str()))
        .map(|event| event.kind.as_str())
        .collect();
    for (kind, count) in [("media.removed", 1), ("job.cancelled", 1), ("media.ready", 0), ("job.failed", 0)] {
        assert_eq!(kinds.iter().filter(|one| **one == kind).count(), count, "{kind}: {kinds:?}");
    }

    // The command line does the same.
    let last = cluster.upload(b"no video either".to_vec(), "last.mp4").await;
    cluster.end_of(&last).await;
    let done = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["--json", "media", "rm", &last, "--url", &cluster.url, "--api-key", &cluster.key])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said} {}", String::from_utf8_lossy(&done.stderr));
    let said: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((&said["media_id"], &said["removed"]), (&last.into(), &true.into()));
    until("all is as before", WAIT_MAX, &cluster, async || counts(&cluster).await == before).await;
}

/// Runs the command line against the cluster; answers what it printed as JSON.
fn run_media(cluster: &Cluster, arguments: &[&str]) -> Vec<Value> {
    let done = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["--json", "media"])
        .args(arguments)
        .args(["--url", &cluster.url, "--api-key", &cluster.key])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&done.stdout).into_owned();
    assert!(done.status.success(), "{said} {}", String::from_utf8_lossy(&done.stderr));
    said.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_medium_removed_while_it_is_made_is_restored_made_and_in_the_end_purged() {
    let keep = "\n[retention]\nremoved = \"20s\"\n\n[keeper]\nclear_period = \"200ms\"\n\n[keeper.purge]\ngrace = \"1s\"\nmark = \"1s\"\nperiod = \"200ms\"\n";
    let mut cluster = Cluster::start_with(Options::default(), keep).await;
    let media_id = cluster.upload(sample(20, "640x360", "30"), "film.mp4").await;
    cluster.media_event("media.playable", &media_id).await;
    assert!(run_media(&cluster, &["ls", "--removed"]).is_empty());
    run_media(&cluster, &["rm", &media_id]);
    until("no child is left", Duration::from_secs(2), &cluster, async || children(&cluster) == 0).await;
    let path = format!("/v1/media/{media_id}");
    let gone = cluster.request(Method::GET, &path).send().await.unwrap();
    assert_eq!(gone.status(), 410);
    assert!(run_media(&cluster, &["ls"]).is_empty());
    let listed = run_media(&cluster, &["ls", "--removed"]);
    assert_eq!((listed.len(), &listed[0]["media_id"]), (1, &media_id.as_str().into()), "{listed:?}");
    let restored = run_media(&cluster, &["restore", &media_id]);
    assert_eq!(restored[0]["media_id"], media_id.as_str(), "{restored:?}");
    cluster.media_event("media.ready", &media_id).await;
    let address = playback(&cluster, &media_id).await["hls_url"].as_str().unwrap().to_owned();
    let played = cluster.http.get(format!("{}{address}", cluster.url)).send().await.unwrap();
    assert_eq!(played.status(), 200);
    assert_eq!(run_media(&cluster, &["ls"]).len(), 1);

    // Removed once more and left alone, it goes when its time is over.
    run_media(&cluster, &["rm", &media_id]);
    cluster.media_event("media.purged", &media_id).await;
    until("nothing is left", WAIT_MAX, &cluster, async || {
        let counts = counts(&cluster).await;
        counts["objects"] == 0 && counts["KV_media"] == 0 && counts["KV_assets"] == 0
    })
    .await;
    let late = cluster.request(Method::POST, &format!("{path}/restore")).send().await.unwrap();
    assert_eq!(late.status(), 404);
    // For good is at once, also for what was removed before.
    let last = cluster.upload(b"no video".to_vec(), "last.mp4").await;
    cluster.end_of(&last).await;
    run_media(&cluster, &["rm", &last]);
    run_media(&cluster, &["rm", "--permanent", &last]);
    cluster.media_event("media.purged", &last).await;
    assert!(run_media(&cluster, &["ls", "--removed"]).is_empty());
}

//! Several workers on one job.

use std::collections::BTreeMap;

use crate::{
    flow::check_plays,
    harness::{Cluster, Options, sample},
};

/// Who did which part, and at which attempt.
async fn parts(cluster: &Cluster, media_id: &str) -> BTreeMap<String, (String, u64)> {
    let jobs = cluster.get(&format!("/v1/jobs?media_id={media_id}")).await;
    let job_id = jobs["items"][0]["job_id"].as_str().unwrap();
    let job = cluster.get(&format!("/v1/jobs/{job_id}")).await;
    let parts = job["parts"].as_array().unwrap();
    parts
        .iter()
        .filter(|part| part["worker"].is_string())
        .map(|part| {
            let name = part["part"].as_str().unwrap().to_owned();
            (name, (part["worker"].as_str().unwrap().to_owned(), part["attempt"].as_u64().unwrap()))
        })
        .collect()
}

#[tokio::test]
async fn two_workers_share_a_job_and_one_is_killed() {
    let mut cluster = Cluster::start(Options { without_workers: true, ..Options::default() }).await;
    for stage in ["upload", "index", "audit"] {
        cluster.spawn(stage, &["worker", stage]);
    }
    cluster.spawn("transcode", &["worker", "transcode"]);
    cluster.spawn("transcode-2", &["worker", "transcode"]);
    let media_id = cluster.upload(sample(180, "320x180", "25"), "three minutes.mp4").await;
    cluster.media_event("media.playable", &media_id).await;
    let before = parts(&cluster, &media_id).await;
    cluster.kill("transcode-2");
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    let after = parts(&cluster, &media_id).await;
    let workers: std::collections::BTreeSet<&String> = before.values().map(|(worker, _)| worker).collect();
    assert!(workers.len() >= 2, "both took parts: {before:?}");
    let survivor = &after["finish"].0;
    for (part, (worker, attempt)) in &after {
        // Only what the killed one had in hand was done again.
        let was_in_its_hands = before.get(part).is_none_or(|(holder, _)| holder != survivor);
        assert!(
            *attempt == 1 || was_in_its_hands,
            "{part} by {worker}: {attempt} attempts; before: {before:?}"
        );
    }
    check_plays(&cluster, &media_id, 180.0, 0.04).await;
}

#[tokio::test]
async fn a_worker_that_sleeps_through_its_lease_changes_nothing() {
    let mut cluster = Cluster::start(Options { without_workers: true, ..Options::default() }).await;
    for stage in ["upload", "index", "audit"] {
        cluster.spawn(stage, &["worker", stage]);
    }
    cluster.spawn("sleeper", &["worker", "transcode"]);
    let media_id = cluster.upload(sample(60, "320x180", "25"), "sleep.mp4").await;
    cluster.media_event("job.started", &media_id).await;
    cluster.signal("sleeper", "STOP");
    cluster.spawn("awake", &["worker", "transcode"]);
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    let before = cluster.objects(&media_id).await;
    cluster.signal("sleeper", "CONT");
    let status = cluster.stop("sleeper");
    assert!(status.success(), "{status}\n{}", cluster.log("sleeper"));
    assert_eq!(cluster.objects(&media_id).await, before);
    let events = cluster.all_events().await;
    let succeeded = events.iter().filter(|event| event.kind == "job.succeeded").count();
    assert_eq!(succeeded, 1);
    check_plays(&cluster, &media_id, 60.0, 0.04).await;
}

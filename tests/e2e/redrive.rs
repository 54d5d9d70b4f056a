//! What was given up gets a second chance by hand: a failed encode becomes a new one, a part that lost its workers goes on.

use serde_json::{Value, json};

use crate::{
    faults::kill_children,
    harness::{Cluster, Options, WAIT_MAX, poll, sample},
};

/// What `streamgate dead` answers, a document a line.
fn dead(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let ran = cluster.run(&[&["dead"], args, &["--json"]].concat());
    assert!(ran.status.success(), "{args:?}: {}", String::from_utf8_lossy(&ran.stderr));
    let text = String::from_utf8(ran.stdout).unwrap();
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Gives every letter of a medium's work its second chance; answers what became of each.
fn redrive_all(cluster: &Cluster, code: &str) -> Vec<Value> {
    let letters = dead(cluster, &["ls"]);
    assert!(!letters.is_empty());
    let answers = letters.iter().map(|letter| {
        assert_eq!(letter["code"], code, "{letter}");
        let answer = dead(cluster, &["redrive", &letter["sequence"].to_string()]);
        answer[0]["result"].clone()
    });
    answers.collect()
}

#[tokio::test]
async fn a_failed_encode_becomes_a_new_one_that_keeps_what_was_made() {
    let settings = "[transcode.parts]\nattempts_max = 1\n";
    let mut cluster = Cluster::start_with(Options::default(), settings).await;
    let media_id = cluster.upload(sample(40, "320x180", "25"), "clip.mp4").await;
    cluster.media_event("media.playable", &media_id).await;
    kill_children(cluster.pid("transcode"));
    let failed = cluster.end_of(&media_id).await;
    assert_eq!(failed.kind, "job.failed", "{failed:?}");
    // The medium follows its job.
    let path = format!("/v1/media/{media_id}");
    let has_failed = async || (cluster.get(&path).await["status"] == "failed").then_some(());
    assert!(poll(WAIT_MAX, has_failed).await.is_some(), "the medium of a failed job fails");
    let answers = redrive_all(&cluster, "media_child_crashed");
    assert_eq!(answers[0], "reopened");
    assert!(answers[1..].iter().all(|answer| answer == "superseded"), "{answers:?}");
    let succeeded = cluster.media_event("job.succeeded", &media_id).await;
    assert_ne!(succeeded.id, failed.id, "another job");
    let document = cluster.get(&format!("/v1/media/{media_id}")).await;
    assert_eq!((&document["status"], &document["code"]), (&json!("ready"), &Value::Null), "{document}");
    let jobs = cluster.get(&format!("/v1/jobs?media_id={media_id}")).await;
    let job_ids = [&jobs["items"][0]["job_id"], &jobs["items"][1]["job_id"]].map(|id| id.as_str().unwrap());
    let job = cluster.get(&format!("/v1/jobs/{}", job_ids[0])).await;
    assert_eq!((&job["encode"], &job["retry_of"]), (&json!(2), &json!(job_ids[1])), "{job}");
    let objects = cluster.objects(&media_id).await;
    assert!(
        objects.keys().all(|path| !path.starts_with("e2/")),
        "it goes on in the same folder: {objects:?}"
    );
}

#[tokio::test]
async fn a_part_that_was_put_aside_goes_on() {
    let settings = "[transcode]\nlost_workers_max = 1\nlost_park = \"1ms\"\nlost_delay = \"100ms\"\n";
    let mut cluster = Cluster::start_with(Options::default(), settings).await;
    let media_id = cluster.upload(sample(40, "1280x720", "25"), "clip.mp4").await;
    cluster.media_event("job.started", &media_id).await;
    cluster.restart("transcode");
    cluster.media_event("job.retried", &media_id).await;
    cluster.restart("transcode");
    cluster.media_event("job.parked", &media_id).await;
    let path = format!("/v1/media/{media_id}");
    let waits = async || (cluster.get(&path).await["waiting"]["code"] == "workers_lost").then_some(());
    assert!(poll(WAIT_MAX, waits).await.is_some(), "nothing says what it waits for");
    let answers = redrive_all(&cluster, "workers_lost");
    assert!(answers.iter().all(|answer| answer == "resumed"), "{answers:?}");
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{end:?}");
    let document = cluster.get(&format!("/v1/media/{media_id}")).await;
    assert_eq!((&document["status"], &document["waiting"]), (&json!("ready"), &Value::Null), "{document}");
}

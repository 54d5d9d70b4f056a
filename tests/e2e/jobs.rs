//! Cancelling a job while it runs and trying it again, with every role in a process of its own and by the command line.

use std::{process::Command, time::Duration};

use futures::TryStreamExt;
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;

use crate::{
    cli::{next, program, run, start},
    harness::{Cluster, Options, WAIT_MAX, poll, sample},
    removal::children,
};

/// Runs `streamgate jobs ACTION ID --json`; answers whether it went well, and the last line of what it printed.
fn act(cluster: &Cluster, action: &str, job_id: &str) -> (bool, Value) {
    let done = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["--json", "jobs", action, job_id, "--url", &cluster.url, "--api-key", &cluster.key])
        .output()
        .unwrap();
    let text = if done.status.success() { &done.stdout } else { &done.stderr };
    let text = String::from_utf8_lossy(text);
    (done.status.success(), serde_json::from_str(text.lines().last().unwrap()).unwrap())
}

async fn job_of(cluster: &Cluster, media_id: &str) -> String {
    let found = poll(WAIT_MAX, async || {
        let page: Value = cluster.get(&format!("/v1/jobs?media_id={media_id}")).await;
        page["items"][0]["job_id"].as_str().map(str::to_owned)
    });
    found.await.unwrap()
}

async fn becomes(cluster: &Cluster, path: &str, member: &str, wanted: &str) -> Value {
    let found = poll(WAIT_MAX, async || {
        let document: Value = cluster.get(path).await;
        (document[member] == *wanted).then_some(document)
    });
    found.await.unwrap_or_else(|| panic!("{path} never has {member} {wanted}\n{}", cluster.logs()))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_running_job_is_cancelled_and_tried_again() {
    let mut cluster = Cluster::start_with(Options::default(), "\n[keeper]\nclear_period = \"200ms\"\n").await;
    let media_id = cluster.upload(sample(60, "1280x720", "30"), "film.mp4").await;
    let running = poll(WAIT_MAX, async || (children(&cluster) > 0).then_some(()));
    running.await.expect("it is being made");
    let job_id = job_of(&cluster, &media_id).await;
    let (went_well, said) = act(&cluster, "cancel", &job_id);
    assert!(went_well, "{said}");
    let quiet = poll(Duration::from_secs(2), async || (children(&cluster) == 0).then_some(()));
    quiet.await.expect("no child is left");
    let job = becomes(&cluster, &format!("/v1/jobs/{job_id}"), "state", "cancelled").await;
    assert!(job["parts"].as_array().unwrap().iter().all(|part| part["status"] != "claimed"), "{job}");
    let media = format!("/v1/media/{media_id}");
    assert_eq!(becomes(&cluster, &media, "status", "failed").await["code"], "job_cancelled");
    // What was made of it goes, what came in stays.
    let objects = async || {
        let objects: Vec<_> = cluster.store.list(&format!("media/{media_id}")).try_collect().await.unwrap();
        objects.len()
    };
    let cleared = poll(WAIT_MAX, async || (objects().await == 1).then_some(()));
    cleared.await.expect("the source alone is there");
    let (went_well, problem) = act(&cluster, "retry", "06db008a0lt0303jc5mn0r355k");
    assert!(!went_well && problem["code"] == "not_found", "{problem}");

    let (went_well, retried) = act(&cluster, "retry", &job_id);
    assert!(went_well, "{retried}");
    assert_eq!(retried["retry_of"], *job_id);
    let ready = becomes(&cluster, &media, "status", "ready").await;
    assert_eq!(ready["code"], Value::Null);
    let next = retried["job_id"].as_str().unwrap();
    let job = becomes(&cluster, &format!("/v1/jobs/{next}"), "state", "succeeded").await;
    assert_eq!(job["retry_of"], *job_id);
    let (went_well, problem) = act(&cluster, "cancel", next);
    assert!(!went_well && problem["code"] == "job_ended", "{problem}");
    let events = cluster.all_events().await;
    for (kind, count) in [("job.cancelled", 1), ("job.succeeded", 1), ("media.ready", 1), ("job.failed", 0)] {
        let found = events.iter().filter(|event| event.kind == kind).count();
        assert_eq!(found, count, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_waits_and_says_why_it_does_not_run() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(sample(60, "1280x720", "30"), "film.mp4").await;
    let running = poll(WAIT_MAX, async || (children(&cluster) > 0).then_some(()));
    running.await.expect("it is being made");
    let job_id = job_of(&cluster, &media_id).await;
    let path = format!("/v1/jobs/{job_id}");
    assert_eq!(act(&cluster, "why", &job_id).1["reason"], "running");
    let (went_well, said) = act(&cluster, "pause", &job_id);
    assert!(went_well, "{said}");
    // What is under way is made to its end, and nothing new is begun.
    becomes(&cluster, &path, "state", "paused").await;
    let quiet = poll(WAIT_MAX, async || (children(&cluster) == 0).then_some(()));
    quiet.await.expect("no child is left");
    let (_, why) = act(&cluster, "why", &job_id);
    assert_eq!(why["sentence"], "It is paused until somebody resumes it.");
    // Another medium goes by.
    let other = cluster.upload(sample(2, "320x180", "30"), "short.mp4").await;
    becomes(&cluster, &format!("/v1/media/{other}"), "status", "ready").await;
    let paused = cluster.get(&path).await;
    assert_eq!((&paused["state"], &paused["status"]), (&"paused".into(), &"active".into()), "{paused}");
    assert_ne!(paused["progress"]["percent"], 100, "{paused}");

    // Without a keeper nothing is let in, and the answer says so.
    cluster.kill("keeper");
    let (went_well, said) = act(&cluster, "resume", &job_id);
    assert!(went_well, "{said}");
    let why = becomes(&cluster, &format!("{path}/why"), "reason", "no_keeper").await;
    assert!(why["sentence"].as_str().unwrap().contains("streamgate keeper"), "{why}");
    cluster.spawn("keeper", &["keeper"]);
    becomes(&cluster, &format!("/v1/media/{media_id}"), "status", "ready").await;
    assert_eq!(act(&cluster, "why", &job_id).1["sentence"], "It succeeded.");
    let events = cluster.all_events().await;
    for (kind, count) in [("job.paused", 1), ("job.resumed", 1), ("job.succeeded", 2), ("job.failed", 0)] {
        let found = events.iter().filter(|event| event.kind == kind).count();
        assert_eq!(found, count, "{kind}");
    }
}

/// Runs `streamgate ARGS --json`; answers its exit status, and the last line of what it printed.
fn streamgate(cluster: &Cluster, args: &[&str]) -> (Option<i32>, Value) {
    let done = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .arg("--json")
        .args(args)
        .args(["--url", &cluster.url, "--api-key", &cluster.key])
        .output()
        .unwrap();
    let text = if done.stdout.is_empty() { &done.stderr } else { &done.stdout };
    let last = String::from_utf8_lossy(text).lines().last().unwrap_or("null").to_owned();
    (done.status.code(), serde_json::from_str(&last).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_paused_for_everybody_is_cancelled_and_tried_again_by_one_command_each() {
    let mut cluster = Cluster::start(Options::default()).await;
    let pause = ["queue", "pause", "--kind", "transcode", "--reason", "upgrade"];
    assert_eq!(streamgate(&cluster, &pause).0, Some(0));
    let mut media = Vec::new();
    for number in 0..3 {
        media.push(cluster.upload(sample(2, "320x180", "30"), &format!("{number}.mp4")).await);
    }
    let mut jobs = Vec::new();
    for media_id in &media {
        jobs.push(job_of(&cluster, media_id).await);
    }
    let why = becomes(&cluster, &format!("/v1/jobs/{}/why", jobs[0]), "reason", "queue_paused").await;
    let sentence =
        "All jobs of the kind transcode are paused by admin (upgrade), until an admin resumes them.";
    assert_eq!(why["sentence"], sentence);
    // What makes no encode goes on meanwhile, and does what is asked for.
    let counts = |job: &Value| {
        let count = |name: &str| job["acted"][name].as_u64().unwrap_or_else(|| panic!("{job}"));
        [count("matched"), count("changed"), count("unchanged"), count("refused")]
    };
    let cancel = ["jobs", "act", "cancel", "--kind", "transcode"];
    let (status, job) = streamgate(&cluster, &[&cancel[..], &["--dry-run"]].concat());
    assert_eq!((status, counts(&job)), (Some(0), [3, 3, 0, 0]), "{job}");
    assert_eq!((&job["kind"], &job["state"]), (&"job_action".into(), &"succeeded".into()), "{job}");
    let act = |args: &[&str]| {
        let (status, job) = streamgate(&cluster, args);
        assert_eq!(status, Some(0), "{job}");
        counts(&job)
    };
    let lower = ["jobs", "act", "prioritize", "--to", "p2", "--media", &media[0]];
    assert_eq!(act(&lower), [1, 1, 0, 0]);
    assert_eq!(act(&[&lower[..5], &["--status", "active", "--kind", "transcode"]].concat()), [3, 2, 1, 0]);
    assert_eq!(act(&cancel), [3, 3, 0, 0]);
    for media_id in &media {
        let failed = becomes(&cluster, &format!("/v1/media/{media_id}"), "status", "failed").await;
        assert_eq!(failed["code"], "job_cancelled");
    }
    assert_eq!(act(&cancel), [0, 0, 0, 0], "none goes on");
    let retry = ["jobs", "act", "retry", "--status", "cancelled", "--since", "1h"];
    assert_eq!(act(&retry), [3, 3, 0, 0]);
    let (status, job) = streamgate(&cluster, &retry);
    assert_eq!((status, counts(&job)), (Some(1), [3, 0, 0, 3]), "they go on, and the command ends with 1");
    assert_eq!(job["acted"]["first_refusals"][0]["code"], "job_goes_on", "{job}");
    assert_eq!(streamgate(&cluster, &["queue", "resume", "--kind", "transcode"]).0, Some(0));
    for media_id in &media {
        becomes(&cluster, &format!("/v1/media/{media_id}"), "status", "ready").await;
    }
    let (_, load) = streamgate(&cluster, &["workers", "load"]);
    let profile = &load["profiles"][0];
    assert_eq!((&profile["succeeded"], &profile["cancelled"]), (&3.into(), &3.into()), "{load}");
    assert!(profile["speed"].as_u64().is_some_and(|speed| speed > 0), "{load}");
    assert!(load["queue"]["queue_parts_max"].is_u64() && load["slots"]["slots"] != 0, "{load}");
    let events = cluster.all_events().await;
    for (kind, count) in
        [("queue.paused", 1), ("queue.resumed", 1), ("job.cancelled", 3), ("media.reopened", 3)]
    {
        let found = events.iter().filter(|event| event.kind == kind).count();
        assert_eq!(found, count, "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_watched_until_nothing_goes_on() {
    let cluster = Cluster::start(Options::default()).await;
    let home = tempfile::tempdir().unwrap();
    let args = ["jobs", "watch", "--until-idle", "--json", "--url", &cluster.url, "--api-key", &cluster.key];
    let media_id = cluster.upload(sample(60, "1280x720", "30"), "film.mp4").await;
    let running = poll(WAIT_MAX, async || (children(&cluster) > 0).then_some(()));
    running.await.expect("it is being made");
    let job_id = job_of(&cluster, &media_id).await;
    let (mut watcher, mut lines) = start(program(home.path(), &args));
    let until = async |lines: &mut UnboundedReceiver<Value>, state: &str| loop {
        let line = next(lines).await;
        assert_eq!(
            (&line["job_id"], &line["media_id"]),
            (&job_id.as_str().into(), &media_id.as_str().into()),
            "{line}"
        );
        if line["state"] == *state {
            return line["percent"].as_u64().unwrap();
        }
    };
    let begun = until(&mut lines, "running").await;
    assert!(begun < 100, "{begun}");
    assert!(act(&cluster, "pause", &job_id).0);
    until(&mut lines, "paused").await;
    // Who begins to watch now learns that from the list.
    let listed = format!("/v1/jobs?media_id={media_id}");
    let is_paused = async || cluster.get(&listed).await["items"][0]["paused_at_ms"].is_u64().then_some(());
    poll(WAIT_MAX, is_paused).await.expect("the list says so");
    let (mut late, mut late_lines) = start(program(home.path(), &args));
    assert_eq!(next(&mut late_lines).await["state"], "paused");
    assert!(act(&cluster, "resume", &job_id).0);
    assert!(act(&cluster, "cancel", &job_id).0);
    until(&mut lines, "cancelled").await;
    until(&mut late_lines, "cancelled").await;
    for (watcher, lines) in [(&mut watcher, &mut lines), (&mut late, &mut late_lines)] {
        assert_eq!(lines.recv().await, None, "nothing more is said");
        assert_eq!(watcher.wait().unwrap().code(), Some(1), "a job was cancelled meanwhile");
    }
    let quiet = run(program(home.path(), &args)).await;
    assert_eq!((quiet.status, quiet.out.as_str()), (0, ""), "nothing goes on: {}", quiet.err);
}

//! A medium that is encoded again at set times, by the command line and with every role in a process of its own; also when no keeper
//! runs at its time.

use std::{
    process::Command,
    time::{SystemTime, UNIX_EPOCH},
};

use serde_json::Value;

use crate::harness::{Cluster, Options, WAIT_MAX, poll, sample};

/// What the command prints, a document a line.
fn streamgate(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let ran = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["--json"])
        .args(args)
        .args(["--url", &cluster.url, "--api-key", &cluster.key])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    assert!(ran.status.success(), "{args:?}: {err}");
    out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn now_ms() -> u128 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis()
}

/// The newest run of a schedule, once it has begun a job.
async fn wait_for_run(cluster: &Cluster, schedule_id: &str) -> Value {
    let begun = poll(WAIT_MAX, async || {
        let schedule = cluster.get(&format!("/v1/schedules/{schedule_id}")).await;
        schedule["runs"][0]["job_id"].is_string().then(|| schedule["runs"][0].clone())
    });
    begun.await.unwrap_or_else(|| panic!("it never fires\n{}", cluster.logs()))
}

async fn wait_for_success(cluster: &Cluster, job_id: &str) -> Value {
    let ended = poll(WAIT_MAX, async || {
        let answer =
            cluster.request(reqwest::Method::GET, &format!("/v1/jobs/{job_id}")).send().await.unwrap();
        let job: Value = answer.json().await.unwrap();
        (job["state"] == "succeeded").then_some(job)
    });
    ended.await.unwrap_or_else(|| panic!("it never succeeds\n{}", cluster.logs()))
}

#[tokio::test(flavor = "multi_thread")]
async fn media_are_encoded_again_at_their_times_also_when_no_keeper_ran() {
    // They are asked again and again.
    let limits = "[ingress.limit.rates.worker]\ncapacity = 10000\nrefill_per_s = 1000\n";
    let mut cluster = Cluster::start_with(Options::default(), limits).await;
    let media_id = cluster.upload(sample(4, "320x180", "25"), "film.mp4").await;
    cluster.media_event("media.ready", &media_id).await;

    let plan = ["schedules", "transcode", &media_id, "--profile", "tiny", "--priority", "p2", "--at", "2s"];
    let made = streamgate(&cluster, &plan);
    let schedule_id = made[0]["schedule_id"].as_str().unwrap().to_owned();
    let run = wait_for_run(&cluster, &schedule_id).await;
    let late_ms = run["fired_at_ms"].as_u64().unwrap() - run["planned_at_ms"].as_u64().unwrap();
    assert!(late_ms < 60_000 && run["trigger"] == "time", "{run}");
    let job = wait_for_success(&cluster, run["job_id"].as_str().unwrap()).await;
    assert_eq!(
        (&job["plan"]["profile"], &job["priority"], &job["encode"]),
        (&"tiny".into(), &"p2".into(), &2.into())
    );
    let scheduled = &job["scheduled"];
    assert_eq!(
        (&scheduled["schedule_id"], &scheduled["planned_at_ms"]),
        (&made[0]["schedule_id"], &run["planned_at_ms"])
    );
    let ended = cluster.get(&format!("/v1/schedules/{schedule_id}")).await;
    assert_eq!(
        (&ended["state"], &ended["upcoming_at_ms"]),
        (&"ended".into(), &serde_json::json!([])),
        "{ended}"
    );

    // Its time comes while no keeper runs: the next keeper makes up for it.
    cluster.kill("keeper");
    let made = streamgate(&cluster, &["schedules", "transcode", &media_id, "--at", "1s"]);
    let at_ms = made[0]["timing"]["at_ms"].as_u64().unwrap();
    let passed = poll(WAIT_MAX, async || (now_ms() > u128::from(at_ms)).then_some(()));
    passed.await.unwrap();
    let schedule_id = made[0]["schedule_id"].as_str().unwrap();
    assert_eq!(cluster.get(&format!("/v1/schedules/{schedule_id}")).await["runs"], serde_json::json!([]));
    cluster.spawn("keeper", &["keeper"]);
    let run = wait_for_run(&cluster, schedule_id).await;
    assert_eq!(wait_for_success(&cluster, run["job_id"].as_str().unwrap()).await["encode"], 3);

    // Out of turn; its own times stay.
    let made = streamgate(
        &cluster,
        &["schedules", "transcode", &media_id, "--cron", "0 3 * * *", "--time-zone", "Asia/Tokyo"],
    );
    let schedule_id = made[0]["schedule_id"].as_str().unwrap();
    let run = streamgate(&cluster, &["schedules", "run", schedule_id]);
    assert_eq!((&run[0]["trigger"], &run[0]["state"]), (&"person".into(), &"begun".into()), "{run:?}");
    wait_for_success(&cluster, run[0]["job_id"].as_str().unwrap()).await;
    let listed = streamgate(&cluster, &["schedules", "ls"]);
    let same = listed.iter().find(|item| item["schedule_id"] == schedule_id).unwrap();
    assert_eq!((listed.len(), &same["upcoming_at_ms"]), (3, &made[0]["upcoming_at_ms"]));
    streamgate(&cluster, &["schedules", "rm", schedule_id]);
    assert_eq!(streamgate(&cluster, &["schedules", "ls"]).len(), 2);

    let fired = cluster.all_events().await.iter().filter(|event| event.kind == "schedule.fired").count();
    assert_eq!(fired, 3, "each once");
}

/// By day it is brought, by night it is made: what waits takes no more of its owner's day than once.
#[tokio::test(flavor = "multi_thread")]
async fn an_encode_that_waits_is_made_at_the_time_of_a_schedule() {
    let quota = "[ingress.quotas.each]\ndaily_encode_max = \"3s\"\n";
    let mut cluster = Cluster::start_with(Options::default(), quota).await;
    let film = tempfile::Builder::new().suffix(".mp4").tempfile().unwrap();
    std::fs::write(film.path(), sample(2, "320x180", "25")).unwrap();
    let uploaded = streamgate(&cluster, &["upload", "--encode-paused", film.path().to_str().unwrap()]);
    let media_id = uploaded[0]["media_id"].as_str().unwrap().to_owned();
    let paused = cluster.media_event("job.paused", &media_id).await;

    let plan = ["schedules", "transcode", &media_id, "--profile", "tiny", "--at", "1s"];
    let made = streamgate(&cluster, &plan);
    let run = wait_for_run(&cluster, made[0]["schedule_id"].as_str().unwrap()).await;
    let cancelled = cluster.media_event("job.cancelled", &media_id).await;
    assert_eq!(cancelled.data["job_id"], paused.data["job_id"]);
    let job = wait_for_success(&cluster, run["job_id"].as_str().unwrap()).await;
    assert_eq!((&job["plan"]["profile"], &job["encode"]), (&"tiny".into(), &2.into()));
    cluster.media_event("media.ready", &media_id).await;
}

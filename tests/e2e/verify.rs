//! A medium compared with what was written down when it was stored, by the command line and with every role in a process of its own.

use std::process::Command;

use serde_json::Value;

use crate::harness::{Cluster, Options, WAIT_MAX, poll, sample};

/// What the command prints, a document a line, and whether it went well.
fn streamgate(cluster: &Cluster, args: &[&str]) -> (bool, Vec<Value>, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["--json"])
        .args(args)
        .args(["--url", &cluster.url, "--api-key", &cluster.key])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    (ran.status.success(), out.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), err)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bit_that_flips_in_the_store_is_found_and_named() {
    let mut cluster = Cluster::start_with(Options::default(), "").await;
    let media_id = cluster.upload(sample(4, "320x180", "25"), "film.mp4").await;
    cluster.media_event("media.ready", &media_id).await;

    let (went_well, found, said) = streamgate(&cluster, &["media", "verify", &media_id]);
    assert!(went_well, "{said}\n{}", cluster.logs());
    let report = &found[0]["verified"];
    assert_eq!((&report["faults"], &report["sized_bytes"]), (&0.into(), &0.into()), "{report}");
    // All that is stored of it but the lists of checksums themselves.
    let folder = format!("media/{media_id}");
    let objects = cluster.objects(&media_id).await;
    let (mut count, mut bytes) = (0_u64, 0_u64);
    for path in objects.keys().filter(|path| !path.contains("/checksums/")) {
        let size_bytes = cluster.store.head(&format!("{folder}/{path}")).await.unwrap().size_bytes;
        (count, bytes) = (count + 1, bytes + size_bytes);
    }
    assert_eq!((&report["objects"], &report["read_bytes"]), (&count.into(), &bytes.into()), "{report}");

    let path = objects.keys().find(|path| path.ends_with("/1.m4s")).unwrap();
    let key = format!("{folder}/{path}");
    let intact = cluster.store.get(&key, 1 << 30).await.unwrap();
    let mut damaged = intact.to_vec();
    let middle = damaged.len() / 2;
    damaged[middle] ^= 1;
    cluster.store.put(&key, damaged).await.unwrap();
    let (went_well, found, said) = streamgate(&cluster, &["media", "verify", &media_id]);
    assert!(!went_well && said.contains("1 fault:"), "{said}");
    let fault = &found[0]["verified"]["first_faults"][0];
    assert_eq!((&fault["object"], &fault["code"]), (&path.as_str().into(), &"digest_differs".into()));
    let failed = cluster.all_events().await.into_iter().find(|event| event.kind == "job.failed").unwrap();
    assert_eq!((&failed.data["kind"], &failed.data["code"]), (&"verify".into(), &"media_damaged".into()));
    assert_eq!(cluster.get(&format!("/v1/media/{media_id}")).await["status"], "ready", "it plays on");

    // Nobody does such jobs for a while: they wait, and say what for.
    cluster.store.put(&key, intact).await.unwrap();
    cluster.stop("tasks");
    let (_, begun, said) = streamgate(&cluster, &["media", "verify", "--detach", &media_id]);
    let job_id = begun.first().unwrap_or_else(|| panic!("{said}"))["job_id"].as_str().unwrap().to_owned();
    let why = poll(WAIT_MAX, async || {
        let why = cluster.get(&format!("/v1/jobs/{job_id}/why")).await;
        (why["reason"] == "no_worker").then_some(why)
    });
    let why = why.await.unwrap_or_else(|| panic!("it never says so\n{}", cluster.logs()));
    assert!(why["sentence"].as_str().unwrap().contains("streamgate worker tasks"), "{why}");
    // Who follows it reads the same without asking.
    let waiting = cluster.event("why it waits", |event| {
        event.kind == "job.waiting" && event.data["job_id"] == job_id.as_str()
    });
    let waiting = waiting.await;
    let said = (&waiting.data["reason"], &waiting.data["sentence"]);
    assert_eq!(said, (&why["reason"], &why["sentence"]), "{waiting:?}");
    cluster.spawn("tasks", &["worker", "tasks"]);
    let ended = poll(WAIT_MAX, async || {
        let job = cluster.get(&format!("/v1/jobs/{job_id}")).await;
        (job["state"] == "succeeded").then_some(job)
    });
    ended.await.unwrap_or_else(|| panic!("it never ends\n{}", cluster.logs()));
    let (_, workers, _) = streamgate(&cluster, &["workers", "ls"]);
    assert!(workers.iter().any(|worker| worker["queue"] == "tasks"), "{workers:?}");
}

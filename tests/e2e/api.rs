//! The description against the real thing: schemathesis, which shares no code with ours, asks for what `/openapi.json` allows and
//! for what it forbids, and holds every answer against it.
//!
//! `schemathesis/schemathesis.toml` says what is left out and why, `schemathesis/hooks.py` what a valid request needs beyond its
//! schema. The seed is fixed: the same questions in every run, and enough of them for all phases in two minutes.

use std::{fmt::Write as _, process::Command};

use serde_json::Value;

use crate::harness::{Cluster, Options, sample};

/// Names the questions.
const SEED: &str = "1";
/// Most questions to one operation in the random phases.
const EXAMPLES_MAX: &str = "15";

/// Settings under which no limit answers instead of the handler.
fn without_limits() -> String {
    let mut text = String::from(
        "\n[auth]\nchallenges_per_prefix_max = 1000000\nkeys_per_owner_max = 100000\n\n[ingress.limit.rates]\n",
    );
    let groups = [
        "api",
        "upload",
        "streaming",
        "metadata",
        "cache",
        "auth",
        "worker",
        "transcoder",
        "monitor",
        "credential",
    ];
    for group in groups {
        writeln!(text, "{group} = {{ capacity = 1000000, refill_per_s = 100000 }}").unwrap();
    }
    text
}

#[tokio::test]
async fn every_answer_is_as_the_description_says() {
    // Whatever disk there is has room for the largest upload, so that 507 is no answer to a well-made request.
    let settings = format!("{}\n[ingress.uploads]\nsize_max = \"16MiB\"\n", without_limits());
    let mut cluster = Cluster::start_with(Options::default(), &settings).await;
    // Something to read, to play, to gate.
    let media_id = cluster.upload(sample(2, "320x180", "25"), "sea.mp4").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    let description = cluster.http.get(format!("{}/openapi.json", cluster.url)).send().await.unwrap();
    let description: Value = description.json().await.unwrap();
    let paths = description["paths"].as_object().unwrap();
    let operations: usize = paths.values().map(|item| item.as_object().unwrap().len()).sum();
    let root = std::env::current_dir().unwrap();
    let folder = root.join("tests/e2e/schemathesis");
    let path = std::env::join_paths([root.join(".tools/schemathesis"), folder.clone()]).unwrap();
    let output = Command::new("python3")
        .env("PYTHONPATH", path)
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .env("SCHEMATHESIS_HOOKS", "hooks")
        .args(["-m", "schemathesis.cli", "--no-color", "--config-file"])
        .arg(folder.join("schemathesis.toml"))
        .args(["run", &format!("{}/openapi.json", cluster.url)])
        .args(["--header", &format!("Authorization: Bearer {}", cluster.key)])
        .args(["--checks", "all", "--seed", SEED, "--max-examples", EXAMPLES_MAX])
        // It keeps what it found beside where it runs.
        .current_dir(cluster.dir.path())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{printed}\n{}", String::from_utf8_lossy(&output.stderr));
    // An empty run would be a success, too. Left out are a stream without an end, a WebSocket and, by schemathesis,
    // the description itself.
    let tested = format!("Tested: {}\n", operations - 3);
    assert!(
        operations > 30 && printed.contains(&tested) && printed.contains("Stateful"),
        "{tested}{printed}"
    );
}

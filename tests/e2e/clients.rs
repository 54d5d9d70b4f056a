//! The example clients in `tests/clients`, run as their headers say.

use std::{path::Path, process::Command};

use crate::harness::{Cluster, Options, sample};

/// The clients, each as the command that starts it. Cargo builds examples with all tests.
fn clients() -> [(&'static str, Command); 3] {
    let client = |program: &str, script: &str| {
        let mut command = Command::new(program);
        command.arg(format!("tests/clients/{script}"));
        command
    };
    let rust = Path::new(env!("CARGO_BIN_EXE_streamgate")).with_file_name("examples").join("client");
    assert!(rust.exists(), "the Rust client is missing: run `cargo build --example client`");
    [
        ("Python", client("python3", "client.py")),
        ("JavaScript", client("node", "client.mjs")),
        ("Rust", Command::new(rust)),
    ]
}

/// Runs a client to its end: whether it succeeded, its stdout and its stderr.
fn run(client: &mut Command, cluster: &Cluster, key: &str, file: &Path) -> (bool, String, String) {
    let output = client
        .arg(file)
        .env("STREAMGATE_URL", &cluster.url)
        .env("STREAMGATE_API_KEY", key)
        .output()
        .unwrap_or_else(|error| panic!("{client:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    (output.status.success(), text(&output.stdout), text(&output.stderr))
}

#[tokio::test]
async fn each_example_uploads_waits_and_prints_what_plays() {
    let cluster = Cluster::start(Options::default()).await;
    let film = cluster.dir.path().join("a fílm.mp4");
    std::fs::write(&film, sample(4, "320x180", "25")).unwrap();
    for (name, mut client) in clients() {
        let (succeeded, printed, logged) = run(&mut client, &cluster, &cluster.key, &film);
        assert!(succeeded, "{name}: {logged}\n{}", cluster.logs());
        assert!(logged.contains("media.playable"), "{name} followed no events: {logged}");
        let url = printed.strip_suffix('\n').filter(|url| !url.contains('\n'));
        let url = url.unwrap_or_else(|| panic!("{name} printed more than one line: {printed}"));
        let master = cluster.http.get(url).send().await.unwrap().text().await.unwrap();
        assert!(master.starts_with("#EXTM3U"), "{name}: {url}: {master}");
    }
}

#[tokio::test]
async fn each_example_says_why_it_was_refused() {
    let cluster = Cluster::start(Options::default()).await;
    let no_film = cluster.dir.path().join("notes.mp4");
    std::fs::write(&no_film, b"no film".repeat(100)).unwrap();
    for (key, code) in [(cluster.key.as_str(), "media.rejected"), ("sg_wrong", "unauthorized")] {
        for (name, mut client) in clients() {
            let (succeeded, printed, logged) = run(&mut client, &cluster, key, &no_film);
            assert!(!succeeded && printed.is_empty(), "{name}: {printed}{logged}");
            assert!(logged.contains(code), "{name}: {logged}");
        }
    }
}

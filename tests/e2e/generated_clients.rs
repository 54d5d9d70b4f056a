//! Clients that generators make of `/openapi.json`, as they are, and what linters of descriptions say of it.

use std::path::{Path, PathBuf};

use tokio::process::Command;

use crate::harness::{Cluster, Options, sample};

fn sources() -> PathBuf {
    std::env::current_dir().unwrap().join("tests/e2e/generated_clients")
}

fn tools() -> PathBuf {
    std::env::current_dir().unwrap().join(".tools")
}

/// A program that npm installed, run in `folder`.
fn node_program(name: &str, folder: &Path) -> Command {
    let mut command = Command::new(tools().join("generated_clients/node_modules/.bin").join(name));
    command.current_dir(folder);
    command
}

/// What a program prints that succeeds.
async fn output_of(command: &mut Command) -> String {
    let output = command.output().await.unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}\n{}{}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// An installation, its description as a file, and beside it a clip and the packages that npm installed.
async fn described() -> (Cluster, PathBuf) {
    let cluster = Cluster::start(Options::default()).await;
    let folder = cluster.dir.path().join("clients");
    std::fs::create_dir(&folder).unwrap();
    let description = cluster.http.get(format!("{}/openapi.json", cluster.url)).send().await.unwrap();
    std::fs::write(folder.join("openapi.json"), description.bytes().await.unwrap()).unwrap();
    std::fs::write(folder.join("clip.mp4"), sample(2, "320x180", "25")).unwrap();
    let packages = tools().join("generated_clients/node_modules");
    std::os::unix::fs::symlink(packages, folder.join("node_modules")).unwrap();
    (cluster, folder)
}

/// Plays what a client printed.
async fn check_playlist(cluster: &Cluster, printed: &str) {
    let url = reqwest::Url::parse(&cluster.url).unwrap().join(printed.trim()).unwrap();
    let playlist = cluster.http.get(url).send().await.unwrap().text().await.unwrap();
    assert!(playlist.starts_with("#EXTM3U"), "{printed}: {playlist}");
}

#[tokio::test]
async fn a_python_client_of_the_description_uploads_waits_lists_and_plays() {
    let (cluster, folder) = described().await;
    std::fs::write(folder.join("config.yaml"), "post_hooks: []\n").unwrap();
    let python = || {
        let mut command = Command::new("python3");
        let path = std::env::join_paths([tools().join("openapi_client"), folder.clone()]).unwrap();
        command.env("PYTHONPATH", path).env("PYTHONDONTWRITEBYTECODE", "1").current_dir(&folder);
        command
    };
    output_of(python().args(["-m", "openapi_python_client", "generate", "--path", "openapi.json"]).args([
        "--output-path",
        "streamgate_client",
        "--meta",
        "none",
        "--config",
        "config.yaml",
    ]))
    .await;
    let script = sources().join("client.py");
    let printed = output_of(python().arg(script).args([&cluster.url, &cluster.key, "clip.mp4"])).await;
    check_playlist(&cluster, &printed).await;
}

#[tokio::test]
async fn a_typescript_client_of_the_description_uploads_waits_lists_and_plays() {
    let (cluster, folder) = described().await;
    for file in ["client.ts", "tsconfig.json"] {
        std::fs::copy(sources().join(file), folder.join(file)).unwrap();
    }
    std::fs::write(folder.join("package.json"), r#"{ "type": "module" }"#).unwrap();
    output_of(node_program("openapi-typescript", &folder).args(["openapi.json", "--output", "api.d.ts"]))
        .await;
    output_of(&mut node_program("tsc", &folder)).await;
    let mut client = Command::new("node");
    client.args(["client.js", &cluster.url, &cluster.key, "clip.mp4"]).current_dir(&folder);
    let printed = output_of(&mut client).await;
    check_playlist(&cluster, &printed).await;
}

#[tokio::test]
async fn linters_find_no_error_in_the_description() {
    let (_cluster, folder) = described().await;
    std::fs::write(folder.join("rules.yaml"), "extends: [\"spectral:oas\"]\n").unwrap();
    let mut spectral = node_program("spectral", &folder);
    let said = output_of(spectral.args(["lint", "openapi.json", "--ruleset", "rules.yaml"])).await;
    assert!(said.contains("(0 errors,"), "{said}");
    let mut redocly = Command::new("node");
    redocly.arg(sources().join("lint.mjs")).arg("openapi.json").current_dir(&folder);
    assert_eq!(output_of(&mut redocly).await, "");
}

//! The walkthroughs of the README as they stand, in one shell after the other, against `up`.

use std::{os::unix::fs::symlink, path::Path};

use tokio::process::Command;

use crate::{harness::WAIT_MAX, whole::Up};

/// Where the README says that `up` listens.
const ADDRESS: &str = "http://127.0.0.1:8080";

/// Every command and program of a document that stands between ``` and is named `sh` or `python`, as one script.
fn script_of(document: &str) -> String {
    let mut script = String::from("set -euo pipefail\n");
    let mut lines = document.lines();
    while let Some(line) = lines.next() {
        let block: Vec<&str> = match line {
            "```sh" | "```python" => lines.by_ref().take_while(|line| *line != "```").collect(),
            _ => continue,
        };
        let block = block.join("\n");
        if line == "```sh" {
            script.extend([&block, "\n"]);
        } else {
            script.extend(["python3 - <<'PYTHON'\n", &block, "\nPYTHON\n"]);
        }
    }
    script
}

/// A program of the walkthrough that this machine has under another name, or must not run.
fn write_program(folder: &Path, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt;
    let path = folder.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn the_walkthroughs_of_the_readme_run_as_they_stand() {
    let folder = tempfile::tempdir().unwrap();
    let up = Up::start(folder.path());
    let root = std::env::current_dir().unwrap();
    symlink(root.join("tests"), folder.path().join("tests")).unwrap();
    let program = Path::new(env!("CARGO_BIN_EXE_streamgate"));
    std::fs::create_dir_all(folder.path().join("target/release")).unwrap();
    symlink(program, folder.path().join("target/release/streamgate")).unwrap();
    let programs = tempfile::tempdir().unwrap();
    // No window: every frame and sample is decoded all the same.
    write_program(programs.path(), "ffplay", "exec ffmpeg -v error -i \"$2\" -f null -");
    write_program(
        programs.path(),
        "python3",
        &format!(
            "[ \"$2\" = pip ] && exit\nexport PATH=\"$REST\" PYTHONPATH='{}'\nexec python3 \"$@\"",
            root.join(".tools/python").display()
        ),
    );
    let rest = std::env::var("PATH").unwrap();
    let script = script_of(&std::fs::read_to_string("README.md").unwrap()).replace(ADDRESS, &up.url);
    let mut shell = Command::new("bash");
    shell.args(["-c", &script]).current_dir(folder.path()).env("REST", &rest);
    shell.env("PATH", format!("{}:{rest}", programs.path().display()));
    let output = tokio::time::timeout(WAIT_MAX, shell.output()).await.expect("it ends").unwrap();
    let (said, complained) =
        (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}\n{complained}");
    for (wanted, count) in [
        ("event: upload.created\n", 1),
        ("event: media.playable\n", 1),
        ("event: job.succeeded\n", 1),
        ("\"status\":\"ready\"", 1),
        ("HTTP/1.1 104 Upload Resumption Supported", 1),
    ] {
        assert!(said.matches(wanted).count() >= count, "{wanted} {said}\n{complained}");
    }
    // All three ways brought in the clip, and the last one is known, too.
    let media: serde_json::Value = up.get("/v1/media").send().await.unwrap().json().await.unwrap();
    assert_eq!(media["items"].as_array().unwrap().len(), 3, "{media}");
}

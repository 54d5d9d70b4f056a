//! What commands say when they can't: what happened, to what, and what to do next; with `--json` as a problem document.

use std::{
    io::{BufRead, BufReader},
    os::unix::{fs::PermissionsExt, process::CommandExt},
    path::Path,
    process::{Child, Command, Stdio},
};

use nats::testing::SmallDisk;
use serde_json::Value;

use crate::cli::{Said, program, program_at, run};

/// The user that owns nothing.
const NOBODY: u32 = 65_534;

/// A nats-server with a configuration of its own; killed when dropped.
struct Server {
    child: Child,
    url: String,
}

impl Server {
    async fn start(folder: &Path, config: &str) -> Self {
        let file = folder.join("nats.conf");
        std::fs::write(&file, format!("listen: \"127.0.0.1:-1\"\n{config}")).unwrap();
        let binary = nats::server::find_nats_server(None).await.unwrap().path;
        let mut child = Command::new(binary)
            .arg("--config")
            .arg(&file)
            .stdin(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map_while(Result::ok);
        let begin = "Listening for client connections on ";
        let address = lines.find_map(|line| Some(line.split_once(begin)?.1.to_owned())).unwrap();
        // It goes on logging.
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, url: format!("nats://{address}") }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// The address of a port that nothing listens on.
fn closed_port() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

/// The problem document that a command ends with.
pub(crate) fn problem(said: &Said) -> Value {
    let line = said.err.lines().last().unwrap_or_else(|| panic!("{said:?}"));
    let problem: Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    for name in ["type", "title", "detail"] {
        assert!(problem[name].as_str().is_some_and(|text| !text.is_empty()), "{name}: {problem}");
    }
    problem
}

#[tokio::test]
async fn each_way_a_broker_refuses_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let keys = run(program(dir.path(), &["nats", "keys", "keys"])).await;
    assert_eq!(keys.status, 0, "{keys:?}");
    let diff = async |url: &str, more: &[&str]| {
        let args = [&["nats", "diff", "--nats-url", url][..], more].concat();
        let said = run(program(dir.path(), &args)).await;
        assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
        assert!(said.err.contains(url) && !said.err.contains("let the role"), "{said:?}");
        said
    };
    let away = diff(&format!("nats://{}", closed_port()), &[]).await;
    assert!(
        away.err.contains("no broker answers at") && away.err.contains("(Connection refused"),
        "{away:?}"
    );
    assert!(away.err.contains("start it, or name another with --nats-url"), "{away:?}");
    assert_eq!(away.err.lines().count(), 1, "one sentence: {away:?}");

    let plain = Server::start(dir.path(), "").await;
    let without = diff(&plain.url, &[]).await;
    assert!(without.err.contains("it has no JetStream: start nats-server with --jetstream"), "{without:?}");

    let guarded = Server::start(dir.path(), "authorization { user: \"ann\", password: \"secret\" }").await;
    let unnamed = diff(&guarded.url, &[]).await;
    assert!(
        unnamed.err.contains("asks for credentials") && unnamed.err.contains("--nats-seed-file"),
        "{unnamed:?}"
    );
    let wrong = diff(&guarded.url, &["--nats-seed-file", "keys/seeds"]).await;
    assert!(wrong.err.contains("refuses the seed of the role admin"), "{wrong:?}");
    assert!(wrong.err.contains("`streamgate nats keys FOLDER`"), "{wrong:?}");
    std::fs::write(dir.path().join("junk"), "junk").unwrap();
    let junk = diff(&guarded.url, &["--nats-seed-file", "junk"]).await;
    assert!(junk.err.contains("the seed is none"), "{junk:?}");

    let forbids = format!(
        "jetstream {{ store_dir: \"{}\" }}\nno_auth_user: ann\nauthorization {{ users: [{{ user: ann, password: x, \
         permissions: {{ publish: [\"other\"], subscribe: [\">\"] }} }}] }}",
        dir.path().join("js").display()
    );
    let forbids = Server::start(dir.path(), &forbids).await;
    let forbidden = diff(&forbids.url, &[]).await;
    assert!(forbidden.err.contains("does not permit the role admin what it needs"), "{forbidden:?}");
    assert!(
        forbidden.err.contains("$JS.API.INFO") && forbidden.err.contains("nats/permissions.conf"),
        "{forbidden:?}"
    );
    let as_json = run(program(dir.path(), &["nats", "diff", "--nats-url", &forbids.url, "--json"])).await;
    assert_eq!(
        (as_json.status, &problem(&as_json)["code"]),
        (1, &"broker_unavailable".into()),
        "{as_json:?}"
    );

    // A role ends for the same reason with the same words.
    let role = run(program(dir.path(), &["worker", "audit", "--nats-url", &guarded.url])).await;
    assert!(role.status == 1 && role.err.contains("there are none for the role audit"), "{role:?}");
}

#[tokio::test]
async fn a_data_folder_that_can_not_be_used_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::set_permissions(dir.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    std::fs::create_dir(dir.path().join("theirs")).unwrap();
    let up = |folder: &str| program(dir.path(), &["up", "--data-dir", folder, "--listen", "127.0.0.1:0"]);
    for (folder, wanted) in [
        ("file", "/file is a file; move the file away"),
        ("file/below", "/file is a file; move the file away"),
        ("/proc/streamgate", "the data folder /proc/streamgate can't be used: /proc"),
    ] {
        let said = run(up(folder)).await;
        assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
        assert!(said.err.contains(wanted) && said.err.contains("--data-dir"), "{said:?}");
        let doctor = run(program(dir.path(), &["doctor", "--data-dir", folder])).await;
        assert!(doctor.status == 1 && doctor.out.contains(wanted), "{doctor:?}");
    }
    if is_root() {
        // Nobody may not enter the folder of this checkout everywhere, such as below that of root.
        let copy = dir.path().join("streamgate");
        std::fs::copy(env!("CARGO_BIN_EXE_streamgate"), &copy).unwrap();
        for folder in ["theirs", "ours"] {
            let mut command =
                program_at(&copy, dir.path(), &["up", "--data-dir", folder, "--listen", "127.0.0.1:0"]);
            command.uid(NOBODY).gid(NOBODY);
            let said = run(command).await;
            assert!(said.status == 1 && said.err.contains("belongs to another user (number 0"), "{said:?}");
            assert!(said.err.contains("chown") && said.err.contains("--data-dir"), "{said:?}");
        }
    }
    let mut as_json = up("file");
    as_json.arg("--json");
    let said = run(as_json).await;
    assert_eq!(
        (said.out.as_str(), &problem(&said)["code"]),
        ("", &"data_folder_unusable".into()),
        "{said:?}"
    );
}

#[tokio::test]
async fn a_media_child_that_is_missing_is_said_with_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    let args =
        ["up", "--media-child", "/nowhere/streamgate-media", "--listen", "127.0.0.1:0", "--log", "error"];
    let said = run(program(dir.path(), &args)).await;
    assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.contains("/nowhere/streamgate-media can't be started: No such file"), "{said:?}");
    assert!(
        said.err.contains("cargo build --release -p media-child") && said.err.contains("--media-child"),
        "{said:?}"
    );
    let said = run(program(dir.path(), &[&args[..], &["--json"]].concat())).await;
    assert_eq!(problem(&said)["code"], "media_child_missing", "{said:?}");
}

#[tokio::test]
async fn a_full_disk_is_said_with_what_to_do() {
    let Some(disk) = SmallDisk::for_test("messages::a_full_disk_is_said_with_what_to_do", 64 << 20) else {
        return;
    };
    disk.fill();
    let home = tempfile::tempdir().unwrap();
    let folder = disk.path().join("data");
    let args = ["up", "--listen", "127.0.0.1:0", "--log", "error", "--data-dir", folder.to_str().unwrap()];
    let said = run(program(home.path(), &args)).await;
    assert_eq!((said.status, said.out.as_str()), (1, ""), "{said:?}");
    assert!(said.err.contains("make room on its disk") && said.err.contains("--data-dir"), "{said:?}");
}

#[tokio::test]
async fn a_disk_that_is_nearly_full_is_said_at_the_start_and_to_who_uploads() {
    let home = tempfile::tempdir().unwrap();
    // Any disk on which something lies is nearly full by this.
    let settings = "[ingress.capacity]\npercent_max = 1\ndisk_free_enough = \"1PiB\"\n";
    std::fs::write(home.path().join("s.toml"), settings).unwrap();
    std::fs::write(home.path().join("film.mp4"), "no film").unwrap();
    let mut command =
        program(home.path(), &["up", "--listen", "127.0.0.1:0", "--config", "s.toml", "--json"]);
    let log = std::fs::File::create(home.path().join("log")).unwrap();
    let mut server = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
    let mut line = String::new();
    BufReader::new(server.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let log = std::fs::read_to_string(home.path().join("log")).unwrap();
    assert!(log.contains("is nearly full") && log.contains("--data-dir"), "{log}");
    let ready: Value = serde_json::from_str(&line).unwrap();
    let upload = ["upload", "film.mp4", "--url", ready["url"].as_str().unwrap()];
    let said = run(program(home.path(), &upload)).await;
    assert!(said.status == 1 && said.err.contains("What to do: The operator has to"), "{said:?}");
    let said = run(program(home.path(), &[&upload[..], &["--json"]].concat())).await;
    let problem = problem(&said);
    assert_eq!((&problem["status"], problem["free_bytes"].is_u64()), (&507.into(), true), "{problem}");
    let stop = Command::new("kill").args(["-TERM", &server.id().to_string()]).status().unwrap();
    assert!(stop.success() && server.wait().unwrap().success());
}

#[tokio::test]
async fn with_json_a_failure_is_a_problem_document() {
    let dir = tempfile::tempdir().unwrap();
    let url = format!("http://{}", closed_port());
    for (args, status, code) in [
        (&["media", "ls", "--url", &url, "--json"][..], 1, "server_unreachable"),
        (&["up", "--config", "absent.toml", "--json"], 64, "settings_invalid"),
        (&["media", "ls", "--json", "--limit", "9999"], 2, "command_line_invalid"),
        (&["nats", "diff", "--json"], 1, "command_failed"),
        (&["upload", "absent.mp4", "--json"], 1, "command_failed"),
    ] {
        let said = run(program(dir.path(), args)).await;
        assert_eq!((said.status, said.out.as_str()), (status, ""), "{said:?}");
        let problem = problem(&said);
        assert_eq!((&problem["code"], problem.get("status")), (&code.into(), None), "{problem}");
        assert_eq!(problem["type"], format!("urn:streamgate:problem:{code}"));
        assert_eq!(said.err.lines().count(), 1, "{said:?}");
        // People read the same as a sentence.
        let words: Vec<&str> = args.iter().copied().filter(|word| *word != "--json").collect();
        let said = run(program(dir.path(), &words)).await;
        assert!(said.status == status && !said.err.starts_with('{'), "{said:?}");
    }
    let help = run(program(dir.path(), &["--help"])).await;
    assert!(help.out.contains("RFC 9457") && help.out.contains("stderr"), "{help:?}");
}

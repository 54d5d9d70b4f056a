//! The programs of the page `/docs/programs`, as they stand there, with the clients of NATS in three languages.
//!
//! Limits: a program has [`WAIT_MAX`] for a job.

use std::{
    fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::Stdio,
};

use async_nats::HeaderMap;
use nats::{Role, testing::TestBroker};
use rcgen::{CertificateParams, CertifiedIssuer, KeyPair};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader, Lines},
    process::{Child, ChildStdout, Command},
};

use crate::{
    harness::{WAIT_MAX, poll, sample},
    whole::Up,
};

/// The programs, by their languages.
const PROGRAMS: [&str; 3] = ["Python", "JavaScript", "Rust"];

/// A program that follows `job_id`, in a folder of its own. Cargo builds examples with all tests.
fn program(language: &str, folder: &Path, job_id: &str) -> Command {
    let root = std::env::current_dir().unwrap();
    let (sources, tools) = (root.join("src/ingress/openapi/programs"), root.join(".tools"));
    let own = folder.join(language);
    fs::create_dir_all(&own).unwrap();
    let mut command = match language {
        "Python" => {
            let mut python = Command::new("python3");
            python.arg(sources.join("follow.py")).env("PYTHONPATH", tools.join("nats_python"));
            python
        }
        "JavaScript" => {
            // A module finds its packages beside itself.
            fs::copy(sources.join("follow.mjs"), own.join("follow.mjs")).unwrap();
            std::os::unix::fs::symlink(tools.join("nats_programs/node_modules"), own.join("node_modules"))
                .ok();
            let mut node = Command::new("node");
            node.arg("follow.mjs");
            node
        }
        _ => {
            let built = Path::new(env!("CARGO_BIN_EXE_streamgate")).with_file_name("examples").join("follow");
            assert!(built.exists(), "the Rust program is missing: run `cargo build --example follow`");
            Command::new(built)
        }
    };
    command.arg(job_id).current_dir(own).kill_on_drop(true);
    for name in ["READER_URL", "READER_SEED", "READER_INBOX", "READER_CA"] {
        command.env_remove(name);
    }
    command
}

/// The variables that `streamgate nats credentials` prints, read by a shell as the page says.
fn credentials(folder: &Path, more: &[&str]) -> Vec<(String, String)> {
    let printed = std::process::Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["nats", "credentials", "reader", "--config", "streamgate.toml"])
        .args(more)
        .current_dir(folder)
        .output()
        .unwrap();
    assert!(printed.status.success(), "{}", String::from_utf8_lossy(&printed.stderr));
    fs::write(folder.join("reader.env"), printed.stdout).unwrap();
    let read = std::process::Command::new("sh")
        .args(["-c", ". ./reader.env && env"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .current_dir(folder)
        .output()
        .unwrap();
    let text = String::from_utf8(read.stdout).unwrap();
    let pairs =
        text.lines().filter(|line| line.starts_with("READER_")).map(|line| line.split_once('=').unwrap());
    pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// What a program printed, a line for each event; it went well.
async fn run(mut program: Command, credentials: &[(String, String)]) -> Vec<String> {
    let output = program.envs(credentials.iter().cloned()).output();
    let output = tokio::time::timeout(WAIT_MAX, output).await.expect("the program ends").unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{program:?}: {out}\n{err}");
    out.lines().map(str::to_owned).collect()
}

/// Sequence and type of the events that were printed.
fn kinds(lines: &[String]) -> Vec<(u64, String)> {
    let words = lines.iter().map(|line| {
        let mut words = line.split(' ');
        (words.next().unwrap().parse().unwrap(), words.next().unwrap().to_owned())
    });
    words.collect()
}

/// A certificate for this machine by an authority of its own: settings of a listener on a free port, and its address.
fn listener_settings(folder: &Path) -> (String, String) {
    let mut authority = CertificateParams::default();
    authority.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    // Without a name of its own it has that of every certificate here, and Node.js takes what it signed for self-signed.
    authority.distinguished_name.push(rcgen::DnType::CommonName, "authority of this test");
    let authority = CertifiedIssuer::self_signed(authority, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    // nats.js compares the name of a host alone, and takes an IP address for `localhost`.
    let names = vec!["127.0.0.1".to_owned(), "localhost".to_owned()];
    let certificate = CertificateParams::new(names).unwrap();
    let certificate = certificate.signed_by(&key, &authority).unwrap();
    for (name, text) in [
        ("certificate.pem", certificate.pem()),
        ("key.pem", key.serialize_pem()),
        ("authority.pem", authority.pem()),
    ] {
        fs::write(folder.join(name), text).unwrap();
    }
    let port = TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
    let settings = format!(
        "[broker.listener]\nlisten = \"0.0.0.0:{port}\"\ncertificate_file = \"certificate.pem\"\nkey_file = \"key.pem\"\n\
         authority_file = \"authority.pem\"\npublic_url = \"tls://127.0.0.1:{port}\"\n"
    );
    (settings, format!("tls://127.0.0.1:{port}"))
}

/// Uploads a clip; answers its job.
async fn upload(up: &Up) -> String {
    let upload = up.http.post(format!("{}/v1/media", up.url)).bearer_auth(&up.key);
    let answer =
        upload.header("content-type", "video/mp4").body(sample(2, "320x180", "25")).send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let media_id = answer.headers()["streamgate-media-id"].to_str().unwrap().to_owned();
    let job = poll(WAIT_MAX, async || {
        let jobs: Value = up.get("/v1/jobs").send().await.unwrap().json().await.unwrap();
        let mut jobs = jobs["items"].as_array()?.clone().into_iter();
        Some(jobs.find(|job| job["media_id"] == json!(media_id))?["job_id"].as_str()?.to_owned())
    });
    job.await.expect("a job")
}

#[tokio::test]
async fn each_program_of_the_page_follows_a_job_to_its_end_and_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let (settings, url) = listener_settings(folder.path());
    let up = Up::start_with(folder.path(), &settings);
    let page = up.http.get(format!("{}/docs/programs", up.url)).send().await.unwrap().text().await.unwrap();
    let reader = credentials(folder.path(), &[]);
    let value = |name: &str| reader.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str());
    assert_eq!(value("READER_URL"), Some(url.as_str()));
    assert!(
        reader.iter().all(|(name, _)| page.contains(name.as_str())),
        "the page explains each: {reader:?}"
    );
    let job_id = upload(&up).await;
    let programs = PROGRAMS.map(|language| run(program(language, folder.path(), &job_id), &reader));
    let printed = futures::future::join_all(programs).await;
    let known = kinds(&printed[0]);
    assert_eq!(known.first().unwrap().1, "job.queued");
    assert_eq!(known.last().unwrap().1, "job.succeeded");
    for (language, lines) in PROGRAMS.iter().zip(&printed) {
        assert_eq!(kinds(lines), known, "{language}");
        assert!(
            lines.iter().all(|line| line.contains(&job_id) || line.contains("media_id")),
            "{language}: {lines:?}"
        );
        // Started again, behind the first event.
        let position = folder.path().join(language).join(format!("{job_id}.position"));
        assert_eq!(fs::read_to_string(&position).unwrap(), known.last().unwrap().0.to_string());
        fs::write(&position, known[0].0.to_string()).unwrap();
        let again = run(program(language, folder.path(), &job_id), &reader).await;
        assert_eq!(kinds(&again), known[1..], "{language}");
    }
    // Taken back: the old seed is refused, the new one works, and nothing else has noticed.
    let renewed = credentials(folder.path(), &["--renew"]);
    let refused = poll(WAIT_MAX, async || {
        fs::remove_file(folder.path().join("Rust").join(format!("{job_id}.position"))).ok();
        let ended =
            program("Rust", folder.path(), &job_id).envs(reader.iter().cloned()).output().await.unwrap();
        (!ended.status.success()).then(|| String::from_utf8(ended.stderr).unwrap())
    });
    let refused = refused.await.expect("a refusal");
    assert!(refused.contains("authorization violation"), "{refused}");
    fs::remove_file(folder.path().join("Python").join(format!("{job_id}.position"))).unwrap();
    assert_eq!(kinds(&run(program("Python", folder.path(), &job_id), &renewed).await), known);
    upload(&up).await;
}

struct Followed {
    _child: Child,
    lines: Lines<BufReader<ChildStdout>>,
}

impl Followed {
    fn start(mut program: Command, broker: &TestBroker) -> Self {
        program
            .env("READER_URL", broker.url())
            .env("READER_SEED", broker.seed(Role::Reader))
            .env("READER_INBOX", Role::Reader.inbox_prefix())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        let mut child = program.spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { _child: child, lines }
    }

    async fn next(&mut self, language: &str) -> Option<String> {
        let line = tokio::time::timeout(WAIT_MAX, self.lines.next_line()).await;
        line.unwrap_or_else(|_| panic!("{language} prints nothing")).unwrap()
    }
}

/// Stores an event of the job as the roles do.
async fn store_event(broker: &TestBroker, job_id: &str, verb: &str) -> u64 {
    let bus = broker.bus(Role::Admin).await;
    let mut headers = HeaderMap::new();
    headers.insert(schemas::headers::TYPE, format!("job.{verb}"));
    let payload = rmp_serde::to_vec_named(&json!({ "job_id": job_id })).unwrap();
    let stored =
        bus.context().publish_with_headers(format!("evt.job.{verb}.{job_id}"), headers, payload.into());
    stored.await.unwrap().await.unwrap().sequence
}

#[tokio::test]
async fn each_program_goes_on_when_the_broker_was_away() {
    let folder = tempfile::tempdir().unwrap();
    let broker = TestBroker::start().await;
    let job_id = "0000000000000000000000000j";
    let queued = store_event(&broker, job_id, "queued").await;
    let mut following = Vec::new();
    for language in PROGRAMS {
        let mut followed = Followed::start(program(language, folder.path(), job_id), &broker);
        let line = followed.next(language).await.unwrap();
        assert!(line.starts_with(&format!("{queued} job.queued ")), "{language}: {line}");
        following.push((language, followed));
    }
    broker.kill_and_wait().await;
    for verb in ["started", "succeeded"] {
        store_event(&broker, job_id, verb).await;
    }
    for (language, mut followed) in following {
        for verb in ["started", "succeeded"] {
            let line = followed.next(language).await.unwrap();
            assert!(line.contains(&format!(" job.{verb} ")), "{language}: {line}");
        }
        assert_eq!(followed.next(language).await, None, "{language} ends with the job");
    }
}

#[test]
fn credentials_say_what_is_missing() {
    let folder = tempfile::tempdir().unwrap();
    let seeds = folder.path().join("seeds");
    fs::write(&seeds, "ingress SUINGRESS\n").unwrap();
    let data: PathBuf = folder.path().join("data");
    let ask = |more: &[&str]| {
        let ran = std::process::Command::new(env!("CARGO_BIN_EXE_streamgate"))
            .args(["nats", "credentials", "reader", "--data-dir", data.to_str().unwrap()])
            .args(more)
            .output()
            .unwrap();
        assert!(!ran.status.success() && ran.stdout.is_empty());
        String::from_utf8(ran.stderr).unwrap()
    };
    assert!(ask(&[]).contains("start `streamgate up`"));
    let named = ["--nats-url", "nats://127.0.0.1:1"];
    assert!(ask(&named).contains("--nats-seed-file"));
    let with_seeds = [&named[..], &["--nats-seed-file", seeds.to_str().unwrap()]].concat();
    assert!(ask(&with_seeds).contains("no seed of the role reader"));
    assert!(
        ask(&[&with_seeds[..], &["--renew"]].concat()).contains("streamgate nats keys FOLDER --renew reader")
    );
}

//! Webhooks with every role in a process of its own, by the command line, and a receiver on loopback. What is sent is verified by the
//! libraries of Standard Webhooks.

use std::{
    collections::BTreeSet,
    io::Write as _,
    net::SocketAddr,
    process::{Command, Stdio},
    sync::Arc,
};

use axum::{
    Router,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse as _, Response},
    routing::post,
};
use parking_lot::Mutex;
use reqwest::Method;
use serde_json::{Value, json};
use tokio::net::TcpListener;

use crate::harness::{Cluster, Event, Options, WAIT_MAX, poll, sample};

/// Retries come soon, and a removed medium goes soon.
const SETTINGS: &str = "[outbound]\nallow = [\"127.0.0.0/8\"]\n[keeper.webhooks]\nretry_delay = \"100ms\"\nretry_delay_max = \"400ms\"\n\
    [retention]\nremoved = \"0s\"\n[keeper.purge]\ngrace = \"1s\"\nperiod = \"200ms\"\n";

/// What happens to a medium that is uploaded and encoded.
const ENTITIES: [&str; 4] = ["upload", "media", "job", "gate"];

/// What a receiver was sent.
#[derive(Debug, Clone)]
struct Received {
    headers: Value,
    body: String,
    is_taken: bool,
}

impl Received {
    fn event_id(&self) -> &str {
        self.headers["webhook-id"].as_str().unwrap()
    }
}

/// A receiver, which answers as the test says.
struct Receiver {
    address: SocketAddr,
    status: Mutex<StatusCode>,
    received: Mutex<Vec<Received>>,
}

impl Receiver {
    async fn start() -> Arc<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let receiver =
            Arc::new(Self { address, status: Mutex::new(StatusCode::OK), received: Mutex::default() });
        let router = Router::new().route("/hook", post(take)).with_state(Arc::clone(&receiver));
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        receiver
    }

    fn url(&self) -> String {
        format!("http://{}/hook?key=5up3rs3cr3t", self.address)
    }

    fn answer_with(&self, status: StatusCode) {
        *self.status.lock() = status;
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().clone()
    }

    /// Subjects of the events of a medium in the order in which each was first taken.
    fn taken_of(&self, media_id: &str) -> Vec<String> {
        taken_of(&self.received(), media_id)
    }
}

fn taken_of(received: &[Received], media_id: &str) -> Vec<String> {
    let (mut ids, mut subjects) = (BTreeSet::new(), Vec::new());
    for received in received.iter().filter(|received| received.is_taken) {
        let event: Value = serde_json::from_str(&received.body).unwrap();
        if event["media_id"] == media_id && ids.insert(received.event_id()) {
            subjects.push(event["subject"].as_str().unwrap().to_owned());
        }
    }
    subjects
}

async fn take(State(receiver): State<Arc<Receiver>>, headers: HeaderMap, body: String) -> Response {
    let text = |name: &str| headers.get(name).map(|value| value.to_str().unwrap());
    let names = ["webhook-id", "webhook-timestamp", "webhook-signature", "content-type"];
    let headers = names.map(|name| (name.to_owned(), json!(text(name)))).into_iter().collect();
    let status = *receiver.status.lock();
    receiver.received.lock().push(Received { headers, body, is_taken: status.is_success() });
    if status.is_redirection() {
        return (status, [(header::LOCATION, "http://10.0.0.1/")]).into_response();
    }
    (status, "the receiver's own words").into_response()
}

fn run(cluster: &Cluster, args: &[&str]) -> (bool, Vec<Value>, String) {
    let ran = Command::new(env!("CARGO_BIN_EXE_streamgate"))
        .args(["--json", "hooks"])
        .args(args)
        .args(["--url", &cluster.url, "--api-key", &cluster.key])
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8(ran.stdout).unwrap(), String::from_utf8(ran.stderr).unwrap());
    (ran.status.success(), out.lines().map(|line| serde_json::from_str(line).unwrap()).collect(), err)
}

/// What `streamgate hooks` prints, a document a line.
fn hooks(cluster: &Cluster, args: &[&str]) -> Vec<Value> {
    let (went_well, printed, said) = run(cluster, args);
    assert!(went_well, "{args:?}: {said}\n{}", cluster.logs());
    printed
}

/// Makes a hook: its id and its secret.
fn make_hook(cluster: &Cluster, receiver: &Receiver, more: &[&str]) -> (String, String) {
    let url = receiver.url();
    let made = hooks(cluster, &[&["create", &url], more].concat());
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    (text(&made[0]["hook"]["hook_id"]), text(&made[0]["secret"]))
}

/// Subjects of the events of a medium and of these entities, in the order of EVENTS.
async fn events_of(cluster: &mut Cluster, media_id: &str, entities: &[&str]) -> Vec<String> {
    let is_wanted = |event: &Event| {
        event.media_id.as_deref() == Some(media_id)
            && entities.iter().any(|entity| event.kind.starts_with(&format!("{entity}.")))
    };
    let all = cluster.all_events().await.into_iter().filter(is_wanted);
    all.map(|event| format!("evt.{}.{}", event.kind, event.id)).collect()
}

/// Waits until the receiver took all events of a medium that there are, and compares their order.
async fn wait_for_all(cluster: &mut Cluster, receiver: &Receiver, media_id: &str, entities: &[&str]) {
    let wanted = events_of(cluster, media_id, entities).await;
    let taken = poll(WAIT_MAX, async || {
        Some(receiver.taken_of(media_id)).filter(|taken| taken.len() >= wanted.len())
    });
    let taken = taken
        .await
        .unwrap_or_else(|| panic!("{wanted:?}: {:?}\n{}", receiver.taken_of(media_id), cluster.logs()));
    assert_eq!(taken, wanted);
}

/// Has a program with a library verify what was sent.
fn verify_with(mut program: Command, sent: &[(&str, &Received)]) -> Result<String, String> {
    let mut child =
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    for (secret, received) in sent {
        let line = json!({ "secret": secret, "headers": received.headers, "body": received.body });
        writeln!(input, "{line}").unwrap();
    }
    drop(input);
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
}

/// The programs that verify, by npm's library and by that of PyPI.
fn verifiers() -> [Command; 2] {
    let folder = std::env::current_dir().unwrap();
    let (sources, tools) = (folder.join("tests/e2e/webhook_libraries"), folder.join(".tools"));
    let mut node = Command::new("node");
    node.arg(sources.join("verify.mjs")).current_dir(tools.join("webhook_libraries"));
    let mut python = Command::new("python3");
    python.arg(sources.join("verify.py")).env("PYTHONPATH", tools.join("webhooks"));
    python.env("PYTHONDONTWRITEBYTECODE", "1");
    [node, python]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_gets_what_happens_to_a_medium_signed_as_the_libraries_verify_it() {
    let mut cluster = Cluster::start_with(Options::default(), SETTINGS).await;
    let receiver = Receiver::start().await;
    let (hook_id, secret) = make_hook(&cluster, &receiver, &["--name", "catalogue"]);
    let media_id = cluster.upload(sample(2, "320x180", "25"), "film.mp4").await;
    cluster.media_event("job.succeeded", &media_id).await;
    wait_for_all(&mut cluster, &receiver, &media_id, &ENTITIES).await;
    let all = receiver.received();
    let sent: Vec<(&str, &Received)> = all.iter().map(|received| (secret.as_str(), received)).collect();
    for verifier in verifiers() {
        let printed = verify_with(verifier, &sent).unwrap_or_else(|said| panic!("{said}"));
        assert_eq!(printed.lines().count(), sent.len());
        assert!(printed.contains("media.ready") && !printed.contains("hook."), "{printed}");
    }
    // The libraries do notice what is wrong.
    let changed = Received { body: all[0].body.replace('{', "{ "), ..all[0].clone() };
    for verifier in verifiers() {
        assert!(verify_with(verifier, &[(&secret, &changed)]).is_err());
    }

    // While a secret is rotated, each delivery is signed by both.
    let rotated = hooks(&cluster, &["rotate", &hook_id]);
    let new_secret = rotated[0]["secret"].as_str().unwrap().to_owned();
    let tested = hooks(&cluster, &["test", &hook_id]);
    assert_eq!((&tested[0]["event_type"], &tested[0]["status"]), (&json!("hook.test"), &json!(200)));
    let last = receiver.received().pop().unwrap();
    for verifier in verifiers() {
        let printed = verify_with(verifier, &[(&secret, &last), (&new_secret, &last)]);
        assert_eq!(printed.as_deref(), Ok("hook.test\nhook.test\n"));
    }

    // What was sent is shown with its bodies, and can be sent again.
    let listed = hooks(&cluster, &["deliveries", &hook_id, "--limit", "50"]);
    let ready = listed.iter().find(|item| item["event_type"] == "media.ready").unwrap();
    let body: Value = serde_json::from_str(ready["body"].as_str().unwrap()).unwrap();
    assert_eq!((&body["media_id"], &body["type"]), (&json!(media_id), &json!("media.ready")));
    assert_eq!(
        (&ready["answer"], &ready["outcome"]),
        (&json!("the receiver's own words"), &json!("delivered"))
    );
    let before = receiver.received().len();
    hooks(&cluster, &["redeliver", &hook_id, ready["delivery_id"].as_str().unwrap()]);
    let again = poll(WAIT_MAX, async || receiver.received().get(before).cloned()).await.unwrap();
    assert_eq!(again.event_id(), ready["event_id"]);
    assert_eq!(again.body, ready["body"].as_str().unwrap());
    hooks(&cluster, &["replay", &hook_id, "--behind", "0-0"]);
    let all = events_of(&mut cluster, &media_id, &ENTITIES).await;
    let replayed = poll(WAIT_MAX, async || {
        (taken_of(&receiver.received()[before + 1..], &media_id) == all).then_some(())
    });
    replayed.await.unwrap_or_else(|| panic!("not all of it is sent again\n{}", cluster.logs()));

    // Nothing of a removed medium stays in the log, and nothing of a removed hook.
    let removed = cluster
        .request(Method::DELETE, &format!("/v1/media/{media_id}"))
        .header("If-Match", "*")
        .send()
        .await
        .unwrap();
    assert_eq!(removed.status(), 204);
    let path = format!("/v1/hooks/{hook_id}/deliveries?limit=50");
    let clean = poll(WAIT_MAX, async || {
        let text = cluster.get(&path).await["items"].to_string();
        (!text.contains(&format!("\\\"media_id\\\":\\\"{media_id}"))).then_some(())
    });
    clean.await.unwrap_or_else(|| panic!("bodies of a removed medium stay in the log\n{}", cluster.logs()));
    let mut texts = vec![cluster.logs(), cluster.get("/v1/hooks").await.to_string()];
    texts.extend(cluster.all_events().await.iter().map(|event| event.data.to_string()));
    for hidden in ["5up3rs3cr3t", &secret, &new_secret] {
        assert!(texts.iter().all(|text| !text.contains(hidden)), "{hidden} stands elsewhere");
    }
    hooks(&cluster, &["remove", &hook_id]);
    let log = cluster.bus.context().get_stream(schemas::subjects::HOOKLOG).await.unwrap();
    let empty = poll(WAIT_MAX, async || (log.get_info().await.unwrap().state.messages == 0).then_some(()));
    empty.await.unwrap_or_else(|| panic!("the log of a removed hook stays\n{}", cluster.logs()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_was_away_gets_everything_also_from_another_keeper() {
    let mut cluster = Cluster::start_with(Options::default(), SETTINGS).await;
    let receiver = Receiver::start().await;
    let (hook_id, _) = make_hook(&cluster, &receiver, &["--type", "media", "--type", "job"]);
    receiver.answer_with(StatusCode::SERVICE_UNAVAILABLE);
    let films = [
        cluster.upload(sample(2, "320x180", "25"), "a.mp4").await,
        cluster.upload(sample(2, "320x180", "24"), "b.mp4").await,
    ];
    for media_id in &films {
        cluster.media_event("job.succeeded", media_id).await;
    }
    let failing = poll(WAIT_MAX, async || {
        let hook = cluster.get(&format!("/v1/hooks/{hook_id}")).await;
        let waits = hook["progress"]["waiting_events"].as_u64().unwrap() >= 8;
        (hook["state"] == "failing" && waits).then_some(hook)
    });
    let hook = failing.await.unwrap_or_else(|| panic!("it does not fail\n{}", cluster.logs()));
    assert_eq!(hook["progress"]["waiting_media"], 2, "{hook}");
    let (_, _, said) = run(&cluster, &["test", &hook_id]);
    assert!(said.contains("status_refused"), "{said}");

    cluster.kill("keeper");
    receiver.answer_with(StatusCode::OK);
    cluster.spawn("keeper", &["keeper"]);
    for media_id in &films {
        wait_for_all(&mut cluster, &receiver, media_id, &["media", "job"]).await;
    }
    let active = poll(WAIT_MAX, async || {
        let hook = cluster.get(&format!("/v1/hooks/{hook_id}")).await;
        (hook["state"] == "active" && hook["progress"]["waiting_events"] == 0).then_some(())
    });
    active.await.unwrap_or_else(|| panic!("something waits\n{}", cluster.logs()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_gone_pauses_its_hook_and_a_redirect_leads_nowhere() {
    let mut cluster = Cluster::start_with(Options::default(), SETTINGS).await;
    let receiver = Receiver::start().await;
    let (hook_id, _) = make_hook(&cluster, &receiver, &["--type", "upload"]);
    receiver.answer_with(StatusCode::FOUND);
    let (went_well, _, said) = run(&cluster, &["test", &hook_id]);
    assert!(!went_well && said.contains("redirect_refused"), "{said}");
    receiver.answer_with(StatusCode::GONE);
    let media_id = cluster.upload(sample(2, "320x180", "25"), "film.mp4").await;
    let paused = cluster.event("hook.paused", |event| event.kind == "hook.paused").await;
    assert_eq!((&paused.data["reason"], &paused.data["hook_id"]), (&json!("gone"), &json!(hook_id)));
    let listed = hooks(&cluster, &["list"]);
    assert_eq!((&listed[0]["state"], &listed[0]["paused"]["reason"]), (&json!("paused"), &json!("gone")));
    receiver.answer_with(StatusCode::OK);
    assert_eq!(receiver.taken_of(&media_id), Vec::<String>::new());
    hooks(&cluster, &["resume", &hook_id]);
    let taken = poll(WAIT_MAX, async || (!receiver.taken_of(&media_id).is_empty()).then_some(()));
    taken.await.unwrap_or_else(|| panic!("what waited never comes\n{}", cluster.logs()));
    for address in ["http://[::ffff:10.0.0.1]/", "http://167772161/", "http://192.168.1.1/"] {
        let (went_well, _, said) = run(&cluster, &["create", address]);
        assert!(!went_well && said.contains("hook_url_refused"), "{address}: {said}");
    }
    hooks(&cluster, &["edit", &hook_id, "--name", "another", "--type", "media.ready"]);
    hooks(&cluster, &["pause", &hook_id]);
    let shown = hooks(&cluster, &["show", &hook_id]);
    assert_eq!((&shown[0]["name"], &shown[0]["types"]), (&json!("another"), &json!(["media.ready"])));
    assert_eq!(shown[0]["paused"]["reason"], "person");
}

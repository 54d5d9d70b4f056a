//! Alerts against a real broker, with receivers of webhooks and of mail on this host.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use axum::{
    Router,
    body::Bytes,
    http::{HeaderMap, StatusCode},
    routing::post,
};
use nats::{Bus, ReaderStart, Role, StreamReader, reader::ReaderConfig, testing::TestBroker};
use parking_lot::Mutex;
use schemas::{
    alert::{AlertBoard, AlertMark, AlertPhase},
    subjects,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader},
    net::TcpListener,
    sync::mpsc,
    task::JoinHandle,
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::*;

const DEADLINE: Duration = Duration::from_secs(60);
/// What keeps every rule quiet that looks for something that is not there.
const QUIET: &str = "streamgate_broker_up 1\nstreamgate_dispatch_leading{queue=\"transcode\"} 1\nstreamgate_dispatch_leading{queue=\"tasks\"} 1\n";

/// What the monitors of a test show.
#[derive(Clone, Default)]
struct Shown(Arc<Mutex<String>>);

impl Shown {
    fn letters(&self, count: u32) {
        *self.0.lock() =
            format!("{QUIET}streamgate_dead_letter_messages{{stage=\"index\"}} {count}\n# EOF\n");
    }

    fn document(&self) -> MetricsDocument {
        let shown = Arc::clone(&self.0);
        Arc::new(move || shown.lock().clone())
    }
}

struct Running(CancellationToken, JoinHandle<()>);

impl Running {
    async fn start(broker: &TestBroker, shown: &Shown, config: MonitorAlertsConfig) -> Self {
        let stop = CancellationToken::new();
        let bus = broker.bus(Role::Monitor).await;
        let config = MonitorAlertsConfig { time_scale: 120, group_ms: 100, ..config };
        let period = Duration::from_millis(100);
        Self(stop.clone(), tokio::spawn(run_alerts(bus, config, shown.document(), period, stop)))
    }

    async fn stop(self) {
        self.0.cancel();
        timeout(DEADLINE, self.1).await.unwrap().unwrap();
    }
}

async fn follow_alerts(broker: &TestBroker) -> StreamReader {
    let config = ReaderConfig::new(subjects::EVENTS, vec!["evt.alert.>".into()], ReaderStart::All);
    broker.bus(Role::Audit).await.open_reader(config).await.unwrap()
}

/// The next event about dead letters: its verb.
async fn next_verb(events: &mut StreamReader) -> String {
    loop {
        let event = timeout(DEADLINE, events.next()).await.unwrap().unwrap();
        let verb = event.subject.split('.').nth(2).unwrap().to_owned();
        let found: Value = rmp(&event.payload);
        if found["name"] == "StreamGateDeadLetters" {
            return verb;
        }
    }
}

fn rmp(payload: &[u8]) -> Value {
    nats::decode_message::<Value>("an event", payload).unwrap()
}

async fn board(bus: &Bus) -> AlertBoard {
    bus.load_record::<AlertBoard>(AlertBoard::KEY).await.unwrap().map(|held| held.record).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_monitors_fire_an_alert_once_and_a_new_one_remembers_it() {
    let broker = TestBroker::start().await;
    let mut events = follow_alerts(&broker).await;
    let shown = Shown::default();
    shown.letters(2);
    let one = Running::start(&broker, &shown, MonitorAlertsConfig::default()).await;
    let two = Running::start(&broker, &shown, MonitorAlertsConfig::default()).await;
    assert_eq!(next_verb(&mut events).await, "fired");
    one.stop().await;
    two.stop().await;
    let bus = broker.bus(Role::Monitor).await;
    let fired =
        board(&bus).await.alerts.into_iter().find(|alert| alert.name == "StreamGateDeadLetters").unwrap();
    assert_eq!(fired.phase, AlertPhase::Firing);
    let third = Running::start(&broker, &shown, MonitorAlertsConfig::default()).await;
    // It evaluates: the board is written by it.
    let written = board(&bus).await.evaluated_at_ms;
    let silence = |found: Option<&AlertBoard>| {
        let mut board = found?.clone();
        let mark = AlertMark { made_at_ms: 1, until_ms: u64::MAX, made_by: "admin".into(), reason: None };
        board.silences.insert("StreamGateDeadLetters".into(), mark);
        Some((board, Outbox::new()))
    };
    bus.change_record(AlertBoard::KEY, silence).await.unwrap();
    shown.letters(0);
    assert_eq!(next_verb(&mut events).await, "resolved", "it did not fire a second time");
    assert!(board(&bus).await.evaluated_at_ms >= written);
    shown.letters(1);
    let event = loop {
        let event = timeout(DEADLINE, events.next()).await.unwrap().unwrap();
        let found = rmp(&event.payload);
        if found["name"] == "StreamGateDeadLetters" {
            break found;
        }
    };
    assert_eq!(event["is_silenced"], true, "{event}");
    assert_ne!(event["fired_at_ms"], fired.fired_at_ms.unwrap());
    third.stop().await;
}

/// A receiver that refuses the first `refusals` requests, and passes on what it takes.
async fn start_receiver(refusals: usize) -> (String, mpsc::UnboundedReceiver<(HeaderMap, Value)>) {
    let (sender, received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alerts", listener.local_addr().unwrap());
    let asked = Arc::new(AtomicUsize::new(0));
    let take = move |headers: HeaderMap, body: Bytes| {
        let (sender, asked) = (sender.clone(), Arc::clone(&asked));
        async move {
            if asked.fetch_add(1, Ordering::SeqCst) < refusals {
                return StatusCode::SERVICE_UNAVAILABLE;
            }
            sender.send((headers, serde_json::from_slice(&body).unwrap())).ok();
            StatusCode::OK
        }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/alerts", post(take))).await });
    (url, received)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receiver_that_was_away_learns_what_still_fires_and_that_it_is_over() {
    let broker = TestBroker::start().await;
    let (url, mut received) = start_receiver(2).await;
    let secret = format!("whsec_{}", data_encoding::BASE64.encode(&[7; 32]));
    let webhook = WebhookReceiverConfig { url, secret: Some(secret) };
    let base_url = Some("https://media.example/".to_owned());
    let config = MonitorAlertsConfig { webhooks: vec![webhook], base_url, ..MonitorAlertsConfig::default() };
    let shown = Shown::default();
    shown.letters(3);
    let running = Running::start(&broker, &shown, config).await;
    let mut next = async |status: &str| loop {
        let (headers, body) = timeout(DEADLINE, received.recv()).await.unwrap().unwrap();
        if body["commonLabels"]["alertname"] == "StreamGateDeadLetters" {
            assert_eq!(body["status"], status, "{body}");
            return (headers, body);
        }
    };
    let (headers, body) = next("firing").await;
    let signed = headers["webhook-signature"].to_str().unwrap();
    let (id, at) = (headers["webhook-id"].to_str().unwrap(), headers["webhook-timestamp"].to_str().unwrap());
    let text = serde_json::to_vec(&body).unwrap();
    let wanted = webhooks::signature::sign(id, at.parse().unwrap(), &text, [[7; 32].as_slice()]);
    assert_eq!(signed, wanted);
    assert_eq!((body["version"].as_str(), body["receiver"].as_str()), (Some("4"), Some("webhook-1")));
    let alert = &body["alerts"][0];
    assert_eq!(alert["annotations"]["summary"], "3 dead letters of index; see `streamgate dead ls`");
    assert_eq!(
        alert["annotations"]["runbook_url"],
        "https://media.example/docs/runbooks/StreamGateDeadLetters"
    );
    shown.letters(0);
    let (_, over) = next("resolved").await;
    assert_eq!(over["alerts"][0]["fingerprint"], alert["fingerprint"]);
    running.stop().await;
}

/// A mail server that takes one mail and passes its text on.
async fn start_mail_server() -> (String, mpsc::UnboundedReceiver<String>) {
    let (sender, received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = listener.local_addr().unwrap().to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (reading, mut writing) = stream.into_split();
            let mut lines = BufReader::new(reading).lines();
            writing.write_all(b"220 mail.example ready\r\n").await.unwrap();
            let (mut text, mut is_body) = (String::new(), false);
            while let Ok(Some(line)) = lines.next_line().await {
                let answer: &[u8] = match line.as_str() {
                    "." if is_body => {
                        is_body = false;
                        sender.send(std::mem::take(&mut text)).ok();
                        b"250 taken\r\n"
                    }
                    line if is_body => {
                        text.push_str(line);
                        text.push('\n');
                        continue;
                    }
                    "DATA" => {
                        is_body = true;
                        b"354 go on\r\n"
                    }
                    "QUIT" => b"221 bye\r\n",
                    _ => b"250 fine\r\n",
                };
                writing.write_all(answer).await.unwrap();
            }
        }
    });
    (server, received)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mail_says_what_fires_and_what_is_over() {
    let broker = TestBroker::start().await;
    let (server, mut mails) = start_mail_server().await;
    let smtp = SmtpConfig {
        server,
        from: "StreamGate <gate@media.example>".into(),
        to: vec!["ops@media.example".into()],
        user: None,
        password_file: None,
        tls: SmtpEncryption::None,
    };
    let config = MonitorAlertsConfig { smtp: Some(smtp), ..MonitorAlertsConfig::default() };
    let shown = Shown::default();
    shown.letters(3);
    let running = Running::start(&broker, &shown, config).await;
    let mail = timeout(DEADLINE, mails.recv()).await.unwrap().unwrap();
    assert!(mail.contains("Subject: [1 firing, 0 resolved] StreamGateDeadLetters\n"), "{mail}");
    assert!(mail.contains("To: ops@media.example\n") && mail.contains("3 dead letters of index"), "{mail}");
    assert!(!mail.contains("StreamGateWatchdog"), "{mail}");
    shown.letters(0);
    let mail = timeout(DEADLINE, mails.recv()).await.unwrap().unwrap();
    assert!(mail.contains("Subject: [0 firing, 1 resolved] StreamGateDeadLetters\n"), "{mail}");
    running.stop().await;
}

#[test]
fn receivers_that_can_not_work_are_refused_with_their_setting() {
    let of = |change: &dyn Fn(&mut MonitorAlertsConfig)| {
        let mut config = MonitorAlertsConfig::default();
        change(&mut config);
        config.check().unwrap_err()
    };
    let webhook = |url: &str, secret: Option<&str>| WebhookReceiverConfig {
        url: url.into(),
        secret: secret.map(Into::into),
    };
    let (field, reason) = of(&|config| config.webhooks = vec![webhook("ftp://x", None)]);
    assert_eq!(field, "webhooks[0].url", "{reason}");
    let (_, reason) = of(&|config| config.webhooks = vec![webhook("http://127.0.0.1/", Some("secret"))]);
    assert!(reason.contains("whsec_"), "{reason}");
    let smtp = |server: &str, to: &str, file: Option<&str>| SmtpConfig {
        server: server.into(),
        from: "a@b.example".into(),
        to: vec![to.into()],
        user: file.map(|_| "user".into()),
        password_file: file.map(Into::into),
        tls: SmtpEncryption::Starttls,
    };
    for (server, to, file, wanted) in [
        ("mail.example:port", "a@b.example", None, "smtp.server"),
        ("mail.example", "nobody", None, "smtp.to"),
    ] {
        let (field, reason) = of(&|config| config.smtp = Some(smtp(server, to, file)));
        assert_eq!(field, wanted, "{reason}");
    }
    let unread = Some(smtp("mail.example", "a@b.example", Some("/nowhere")));
    let config = MonitorAlertsConfig { smtp: unread, ..MonitorAlertsConfig::default() };
    assert_eq!(config.check(), Ok(()), "a role that sends no mail reads no password");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_group_that_is_refused_keeps_no_other_one_and_none_is_repeated() {
    let broker = TestBroker::start().await;
    let (sender, mut received) = mpsc::unbounded_channel();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/alerts", listener.local_addr().unwrap());
    let take = move |body: Bytes| {
        let body: Value = serde_json::from_slice(&body).unwrap();
        let name = body["commonLabels"]["alertname"].as_str().unwrap_or_default().to_owned();
        let status = if name == "StreamGateDeadLetters" { StatusCode::BAD_REQUEST } else { StatusCode::OK };
        sender.send(name).ok();
        async move { status }
    };
    tokio::spawn(async move { axum::serve(listener, Router::new().route("/alerts", post(take))).await });
    let webhooks = vec![WebhookReceiverConfig { url, secret: None }];
    let shown = Shown::default();
    shown.letters(3);
    let running =
        Running::start(&broker, &shown, MonitorAlertsConfig { webhooks, ..MonitorAlertsConfig::default() })
            .await;
    let mut names = Vec::new();
    // It is sent again and again, and what is behind it by name once.
    while names.iter().filter(|name| *name == "StreamGateDeadLetters").count() < 3 {
        names.push(timeout(DEADLINE, received.recv()).await.unwrap().unwrap());
    }
    let watchdogs = names.iter().filter(|name| *name == "StreamGateWatchdog").count();
    assert_eq!(watchdogs, 1, "{names:?}");
    running.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_answers_and_writes_nothing_keeps_no_page() {
    let broker = TestBroker::start().await;
    let (url, mut received) = start_receiver(0).await;
    let webhooks = vec![WebhookReceiverConfig { url, secret: None }];
    let shown = Shown::default();
    shown.letters(0);
    let running =
        Running::start(&broker, &shown, MonitorAlertsConfig { webhooks, ..MonitorAlertsConfig::default() })
            .await;
    let mut next = async |name: &str| loop {
        let (_, body) = timeout(DEADLINE, received.recv()).await.unwrap().unwrap();
        if body["commonLabels"]["alertname"] == name {
            return body;
        }
    };
    next("StreamGateWatchdog").await;
    let admin = broker.bus(Role::Admin).await;
    let stream = admin.context().get_stream("KV_limits").await.unwrap();
    let full = async_nats::jetstream::stream::Config {
        max_bytes: 1,
        discard: async_nats::jetstream::stream::DiscardPolicy::New,
        ..stream.cached_info().config.clone()
    };
    admin.context().update_stream(full).await.unwrap();
    let held = board(&admin).await;
    assert!(held.evaluated_at_ms > 0, "it is read as before");
    *shown.0.lock() = format!("{QUIET}streamgate_broker_write_broken{{stream=\"EVENTS\"}} 1\n# EOF\n");
    let body = next("StreamGateBrokerCannotWrite").await;
    assert_eq!(body["status"], "firing", "{body}");
    assert_eq!(board(&admin).await.evaluated_at_ms, held.evaluated_at_ms, "nothing was written");
    running.stop().await;
}

fn fired(alert_id: &str) -> AlertState {
    AlertState {
        alert_id: alert_id.into(),
        name: "StreamGateDeadLetters".into(),
        severity: schemas::alert::AlertSeverity::Page,
        labels: std::collections::BTreeMap::new(),
        phase: AlertPhase::Firing,
        summary: String::new(),
        value: 1.0,
        since_ms: 1,
        fired_at_ms: Some(2),
        resolved_at_ms: None,
        notified_at_ms: std::collections::BTreeMap::new(),
    }
}

#[test]
fn what_ended_while_it_was_sent_is_resolved_for_its_receiver() {
    use super::notify::{TakenAlerts, note_taken};

    let taken = |alert: AlertState, is_sure| {
        [TakenAlerts { receiver: "webhook-1".into(), alerts: vec![alert], at_ms: 9, is_sure }]
    };
    let mut gone = AlertBoard::default();
    assert!(note_taken(&mut gone, &taken(fired("a"), true)));
    assert_eq!((gone.alerts[0].phase, gone.alerts[0].notified_at_ms["webhook-1"]), (AlertPhase::Resolved, 0));
    let over = gone.alerts[0].clone();
    let mut known = AlertBoard { alerts: vec![over.clone()], ..AlertBoard::default() };
    known.alerts[0].notified_at_ms.clear();
    assert!(note_taken(&mut known, &taken(fired("a"), true)));
    assert_eq!(known, gone, "it is kept for another receiver");
    assert!(!note_taken(&mut known, &taken(over.clone(), false)), "whether it knows is not known");
    assert!(note_taken(&mut known, &taken(over, true)) && known.alerts[0].notified_at_ms.is_empty());
    let mut firing = AlertBoard { alerts: vec![fired("a")], ..AlertBoard::default() };
    assert!(note_taken(&mut firing, &taken(fired("a"), false)));
    assert_eq!(firing.alerts[0].notified_at_ms["webhook-1"], 0, "it is sent again");
    assert!(note_taken(&mut firing, &taken(fired("a"), true)));
    assert_eq!(firing.alerts[0].notified_at_ms["webhook-1"], 9);
}

#[test]
fn samples_are_read_with_what_their_labels_hold() {
    let points = observe::read_points(
        "# TYPE a gauge\na{b=\"c\\\"d\\\\e\"} +Inf\nb 2 # {trace_id=\"x\"} 1\nnonsense\n# EOF\n",
    );
    assert_eq!(points.len(), 2);
    assert_eq!(points[0].labels["b"], "c\"d\\e");
    assert!(points[0].value.is_infinite() && (points[1].value - 2.0).abs() < 1e-9);
}

//! Traces, as a receiver of OTLP sees them that is not ours: one upload is one trace over all processes; secrets are in none; a receiver
//! that hangs costs nothing but spans.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use axum::{Router, body::Bytes, extract::State, http::HeaderMap, routing::post};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{KeyValue, any_value::Value as AnyValue},
};
use parking_lot::Mutex;
use prost::Message as _;
use reqwest::Method;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::{
    flow,
    harness::{Cluster, Options, WAIT_MAX, poll, sample},
};

const FOREIGN: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
const FOREIGN_TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const TUS: (&str, &str) = ("tus-resumable", "1.0.0");

/// A span as it came.
#[derive(Debug, Clone)]
struct SeenSpan {
    service: String,
    name: String,
    trace: String,
    id: String,
    parent: String,
    links: Vec<(String, String)>,
    attributes: BTreeMap<String, String>,
}

/// A receiver of OTLP over HTTP.
#[derive(Clone, Default)]
struct Sink {
    spans: Arc<Mutex<Vec<SeenSpan>>>,
    bytes: Arc<Mutex<Vec<u8>>>,
    authorized: Arc<Mutex<BTreeSet<String>>>,
}

impl Sink {
    /// Listens; answers the address, too.
    async fn start() -> (Self, String) {
        let sink = Self::default();
        let router = Router::new().route("/v1/traces", post(take)).with_state(sink.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
        (sink, address)
    }

    /// All spans of a trace so far.
    fn of_trace(&self, trace: &str) -> Vec<SeenSpan> {
        self.spans.lock().iter().filter(|span| span.trace == trace).cloned().collect()
    }

    /// The first span with this name.
    async fn find(&self, name: &str) -> SeenSpan {
        let look = async || self.spans.lock().iter().find(|span| span.name == name).cloned();
        poll(WAIT_MAX, look).await.unwrap_or_else(|| panic!("no {name} among {:#?}", self.names()))
    }

    fn names(&self) -> BTreeSet<String> {
        self.spans.lock().iter().map(|span| format!("{} {}", span.service, span.name)).collect()
    }
}

async fn take(State(sink): State<Sink>, headers: HeaderMap, body: Bytes) {
    assert_eq!(headers["content-type"], "application/x-protobuf");
    let authorization = headers.get("authorization").map(|value| value.to_str().unwrap().to_owned());
    sink.authorized.lock().extend(authorization);
    sink.bytes.lock().extend_from_slice(&body);
    let request = ExportTraceServiceRequest::decode(body).unwrap();
    let hex = |bytes: &[u8]| data_encoding::HEXLOWER.encode(bytes);
    let mut seen = Vec::new();
    for resource in request.resource_spans {
        let service = texts(&resource.resource.unwrap().attributes)["service.name"].clone();
        for span in resource.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            assert!(span.end_time_unix_nano >= span.start_time_unix_nano && span.events.is_empty());
            assert!(span.trace_state.is_empty());
            let links = span.links.iter().map(|link| (hex(&link.trace_id), hex(&link.span_id))).collect();
            seen.push(SeenSpan {
                service: service.clone(),
                trace: hex(&span.trace_id),
                id: hex(&span.span_id),
                parent: hex(&span.parent_span_id),
                links,
                attributes: texts(&span.attributes),
                name: span.name,
            });
        }
    }
    // At once: who looks meanwhile sees a request as a whole or not at all.
    sink.spans.lock().extend(seen);
}

fn texts(attributes: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |entry: &KeyValue| match entry.value.clone().unwrap().value.unwrap() {
        AnyValue::StringValue(text) => text,
        AnyValue::IntValue(number) => number.to_string(),
        other => panic!("{other:?}"),
    };
    attributes.iter().map(|entry| (entry.key.clone(), text(entry))).collect()
}

fn settings(endpoint: &str, more: &str) -> String {
    format!("[telemetry.tracing]\nendpoint = \"{endpoint}\"\n{more}\n")
}

/// Begins an upload by tus as a client that brings a trace along, and sends it in two requests; answers the medium and the trace ids of
/// their answers, which have none of the client's. All of it goes to the ingress at `url`.
async fn upload_in_pieces(cluster: &Cluster, url: &str, bytes: &[u8]) -> String {
    let request = |method: Method, path: &str| {
        cluster.http.request(method, format!("{url}{path}")).bearer_auth(&cluster.key)
    };
    let name = data_encoding::BASE64.encode(b"planted-name.mp4");
    let asked = request(Method::POST, "/v1/uploads")
        .header(TUS.0, TUS.1)
        .header("upload-length", bytes.len())
        .header("upload-metadata", format!("filename {name}"))
        .header("traceparent", FOREIGN)
        .header("tracestate", "vendor=planted-state")
        .header("baggage", "user=planted-baggage");
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 201);
    let media_id = answer.headers()["streamgate-media-id"].to_str().unwrap().to_owned();
    let location = answer.headers()["location"].to_str().unwrap();
    let path = location.split_once("/v1/").map(|(_, path)| format!("/v1/{path}")).unwrap();
    let (first, rest) = bytes.split_at(bytes.len() / 2);
    for (offset, piece) in [(0, first), (first.len(), rest)] {
        let sent = request(Method::PATCH, &path)
            .header(TUS.0, TUS.1)
            .header("upload-offset", offset)
            .header("content-type", "application/offset+octet-stream")
            .body(piece.to_vec());
        assert_eq!(sent.send().await.unwrap().status(), 204);
    }
    media_id
}

/// Spans that the trace of an upload has, by the process.
const STORY: [(&str, &str); 16] = [
    ("streamgate-ingress", "POST /v1/uploads"),
    ("streamgate-ingress", "send evt.upload.created.{id}"),
    ("streamgate-ingress", "append to upload"),
    ("streamgate-ingress", "send evt.upload.received.{id}"),
    ("streamgate-upload", "process evt.upload.received.{id}"),
    ("streamgate-upload", "media child probe"),
    ("streamgate-upload", "send evt.media.stored.{id}"),
    ("streamgate-transcode", "process evt.media.stored.{id}"),
    ("streamgate-index", "process evt.media.stored.{id}"),
    ("streamgate-transcode", "send evt.job.queued.{id}"),
    ("streamgate-transcode", "make video part"),
    ("streamgate-transcode", "media child encode"),
    ("streamgate-transcode", "make finish part"),
    ("streamgate-transcode", "send evt.media.ready.{id}"),
    ("streamgate-transcode", "send evt.job.succeeded.{id}"),
    ("streamgate-index", "process evt.media.ready.{id}"),
];

/// Waits until the trace has all of them, and of each the one that it is a part of.
async fn whole_trace(sink: &Sink, trace: &str) -> Vec<SeenSpan> {
    let complete = async || {
        let spans = sink.of_trace(trace);
        let has = |(service, name): &(&str, &str)| {
            spans.iter().any(|span| span.service == *service && span.name == *name)
        };
        let is_let_in = |span: &SeenSpan| {
            span.service == "streamgate-keeper" && span.name.starts_with("send job.transcode.")
        };
        let ids: BTreeSet<&str> = spans.iter().map(|span| span.id.as_str()).collect();
        let is_part = |span: &SeenSpan| span.parent.is_empty() || ids.contains(span.parent.as_str());
        let appends = spans.iter().filter(|span| span.name == "append to upload").count();
        let is_whole =
            STORY.iter().all(has) && appends == 2 && spans.iter().any(is_let_in) && spans.iter().all(is_part);
        is_whole.then_some(spans)
    };
    poll(WAIT_MAX, complete).await.unwrap_or_else(|| {
        let names: Vec<_> =
            sink.of_trace(trace).iter().map(|span| format!("{} {}", span.service, span.name)).collect();
        panic!("the trace lacks a part: {names:#?}\nof {:#?}", sink.names())
    })
}

#[tokio::test]
async fn one_upload_is_one_trace_over_all_processes() {
    let (sink, endpoint) = Sink::start().await;
    let more = "reads_per_million = 1000000\nheaders_file = \"headers\"";
    let folder = tempfile::tempdir().unwrap();
    let secrets = folder.path().join("headers");
    std::fs::write(&secrets, "Authorization: Bearer planted-bearer\n").unwrap();
    let more = more.replace("\"headers\"", &format!("{:?}", secrets.display().to_string()));
    let mut cluster = Cluster::start_with(Options::default(), &settings(&endpoint, &more)).await;
    let media_id = upload_in_pieces(&cluster, &cluster.url, &sample(6, "320x180", "25")).await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");

    let first = sink.find("POST /v1/uploads").await;
    let spans = whole_trace(&sink, &first.trace).await;
    assert_ne!(first.trace, FOREIGN_TRACE, "a client names no trace of ours");
    assert_eq!(first.links, [(FOREIGN_TRACE.to_owned(), "00f067aa0ba902b7".to_owned())]);
    check_tree(&spans, &first);
    check_patches(&sink, &spans, &first.trace).await;
    check_names_and_ids(&spans, &media_id);
    check_events_and_audit(&mut cluster, &media_id, &first.trace).await;
    play_and_fail(&cluster, &sink, &media_id).await;
    check_secrets(&sink, &cluster);
    assert_eq!(*sink.authorized.lock(), BTreeSet::from(["Bearer planted-bearer".to_owned()]));
    check_exemplars(&cluster, &sink).await;
    wait_for_series(&cluster, "streamgate_trace_queue_spans", |waiting| waiting == 0).await;
}

/// One root, and every other span is a part of one that is there.
fn check_tree(spans: &[SeenSpan], first: &SeenSpan) {
    let by_id: HashMap<&str, &SeenSpan> = spans.iter().map(|span| (span.id.as_str(), span)).collect();
    assert_eq!(by_id.len(), spans.len(), "ids are unique");
    let roots: Vec<_> = spans.iter().filter(|span| span.parent.is_empty()).collect();
    assert_eq!(roots.iter().map(|root| &root.id).collect::<Vec<_>>(), [&first.id], "{roots:#?}");
    for span in spans.iter().filter(|span| !span.parent.is_empty()) {
        assert!(by_id.contains_key(span.parent.as_str()), "whose part is {span:#?}");
    }
    let finish = spans.iter().find(|span| span.name == "make finish part").unwrap();
    assert!(!finish.links.is_empty(), "a finish has links to the parts it comes of");
    let services: BTreeSet<_> = spans.iter().map(|span| span.service.as_str()).collect();
    assert!(services.len() >= 5, "{services:?}");
}

/// Each PATCH is a trace of its own, linked with that of the upload, in which its bytes are taken.
async fn check_patches(sink: &Sink, spans: &[SeenSpan], trace: &str) {
    let appends: Vec<_> = spans.iter().filter(|span| span.name == "append to upload").collect();
    assert_eq!(appends.len(), 2);
    for append in appends {
        let (patch_trace, patch_id) = append.links.first().unwrap();
        let patch = async || sink.of_trace(patch_trace).into_iter().find(|span| span.id == *patch_id);
        let patch = poll(WAIT_MAX, patch).await.unwrap();
        assert_eq!(patch.name, "PATCH /v1/uploads/{upload_id}");
        assert!(patch.links.iter().any(|(linked, _)| linked == trace), "{patch:?}");
    }
}

fn check_names_and_ids(spans: &[SeenSpan], media_id: &str) {
    for span in spans {
        assert!(!span.name.contains(media_id), "names are templates: {}", span.name);
        if span.name.starts_with("send ") || span.name.starts_with("process ") {
            assert_eq!(span.attributes["messaging.system"], "nats", "{span:?}");
            let template = &span.attributes["messaging.destination.template"];
            assert_eq!(span.name.split_once(' ').unwrap().1, template);
        }
    }
    let stored = spans.iter().find(|span| span.name == "process evt.media.stored.{id}").unwrap();
    assert_eq!(stored.attributes["streamgate.media.id"], media_id);
    assert!(stored.attributes.contains_key("messaging.consumer.group.name"));
}

/// Events and audit records of the medium name the trace.
async fn check_events_and_audit(cluster: &mut Cluster, media_id: &str, trace: &str) {
    let last = cluster.all_events().await.last().unwrap().sequence;
    let look = async || {
        let answer = cluster.request(Method::GET, "/v1/audit").send().await.unwrap().text().await.unwrap();
        let records: Vec<Value> = answer.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        records.iter().any(|record| record["source"]["sequence"] == last).then_some(records)
    };
    let records = poll(WAIT_MAX, look).await.unwrap();
    let of_medium: Vec<_> = records.iter().filter(|record| record["media_id"] == media_id).collect();
    let kinds: BTreeSet<_> = of_medium.iter().map(|record| record["type"].as_str().unwrap()).collect();
    for kind in
        ["upload.created", "upload.received", "media.stored", "job.queued", "job.started", "media.ready"]
    {
        assert!(kinds.contains(kind), "{kinds:?}");
    }
    for record in of_medium {
        assert_eq!(record["trace_id"], trace, "{record}");
    }
}

/// Plays what was made, and asks for what is not there.
async fn play_and_fail(cluster: &Cluster, sink: &Sink, media_id: &str) {
    let session = flow::playback(cluster, media_id).await;
    let playlist = session["hls_url"].as_str().unwrap();
    let path = playlist.strip_prefix(&cluster.url).unwrap_or(playlist);
    assert!(flow::text(cluster, path).await.contains("#EXTM3U"));
    let token = path.split('/').find(|step| step.len() > 40).unwrap();
    let played = async || sink.names().into_iter().find(|name| name.contains(" GET /play/"));
    let name = poll(WAIT_MAX, played).await.unwrap();
    assert!(!name.contains(token), "{name}");
    assert!(!contains(&sink.bytes.lock(), token), "the token of {path} is in a span");

    let wrong =
        cluster.request(Method::GET, "/v1/media/planted-id?title=planted-query").send().await.unwrap();
    let problem: Value = wrong.json().await.unwrap();
    let trace = problem["trace_id"].as_str().unwrap();
    let failed = async || sink.of_trace(trace).into_iter().find(|span| span.parent.is_empty());
    let failed = poll(WAIT_MAX, failed).await.unwrap();
    assert_eq!(failed.attributes["error.type"], problem["code"].as_str().unwrap());
    assert_eq!(failed.attributes["streamgate.request.id"], problem["request_id"].as_str().unwrap());
}

fn check_secrets(sink: &Sink, cluster: &Cluster) {
    let bytes = sink.bytes.lock();
    for secret in ["planted-", "cGxhbnRlZC", cluster.key.as_str()] {
        assert!(!contains(&bytes, secret), "{secret} is in a span");
    }
}

fn contains(bytes: &[u8], text: &str) -> bool {
    bytes.windows(text.len()).any(|window| window == text.as_bytes())
}

/// Buckets of latency name traces that are there.
async fn check_exemplars(cluster: &Cluster, sink: &Sink) {
    let asked = cluster
        .request(Method::GET, "/metrics")
        .header("accept", "application/openmetrics-text; version=1.0.0");
    let document = asked.send().await.unwrap().text().await.unwrap();
    let exemplars: Vec<&str> = document
        .lines()
        .filter(|line| line.starts_with("streamgate_http_request_seconds_bucket{"))
        .filter_map(|line| line.split_once(" # {trace_id=\"")?.1.split('"').next())
        .collect();
    assert!(!exemplars.is_empty(), "{document}");
    for trace in exemplars {
        let found = async || (!sink.of_trace(trace).is_empty()).then_some(());
        poll(WAIT_MAX, found).await.unwrap_or_else(|| panic!("{trace} is not there"));
    }
    let plain = cluster.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    assert!(!plain.contains("trace_id"), "the older format has no exemplars");
}

#[tokio::test]
async fn an_error_of_a_request_that_is_not_sampled_is_in_the_log() {
    let (sink, endpoint) = Sink::start().await;
    let options = Options { without_workers: true, ..Options::default() };
    let mut cluster = Cluster::start_with(options, &settings(&endpoint, "reads_per_million = 0")).await;
    let ready = cluster.spawn("second", &["ingress", "--listen", "127.0.0.1:0", "--log-format", "json"]);
    let second = ready["url"].as_str().unwrap();
    // Nobody answers lists.
    let asked = cluster.http.get(format!("{second}/v1/media")).bearer_auth(&cluster.key);
    let answer = asked.send().await.unwrap();
    assert_eq!(answer.status(), 503);
    let problem: Value = answer.json().await.unwrap();
    let lines: Vec<Value> =
        cluster.log("second").lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let line = lines.iter().find(|line| line["fields"]["message"] == "answered 503").unwrap();
    for name in ["trace_id", "request_id"] {
        assert!(problem[name].is_string() && line[name] == problem[name], "{line}\n{problem}");
    }
    assert_eq!(line["span_id"].as_str().unwrap().len(), 16);
    // What changes something is sampled; in the same process nothing older waits behind it.
    upload_in_pieces(&cluster, second, b"0123456789").await;
    sink.find("POST /v1/uploads").await;
    assert!(sink.of_trace(problem["trace_id"].as_str().unwrap()).is_empty());
}

/// Resident memory of a process in bytes.
fn resident_bytes(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().strip_suffix(" kB").unwrap().parse::<u64>().unwrap() * 1024
}

/// Waits until the value of a series in the metrics of the ingress is as `wanted`.
async fn wait_for_series(cluster: &Cluster, name: &str, wanted: impl Fn(u64) -> bool) {
    let look = async || {
        let document = cluster.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        let value = document.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok());
        value.is_some_and(&wanted).then_some(())
    };
    poll(WAIT_MAX, look).await.unwrap_or_else(|| panic!("{name} never was as it should be"));
}

#[tokio::test]
async fn a_receiver_that_hangs_costs_spans_and_nothing_else() {
    // It accepts, and never answers.
    let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", hanging.local_addr().unwrap());
    let options = Options { without_workers: true, ..Options::default() };
    let more = "reads_per_million = 1000000\nqueue_spans = 512\ntimeout = \"500ms\"\n\
                [ingress.limit.rates.monitor]\ncapacity = 100000\nrefill_per_s = 10000";
    let mut cluster = Cluster::start_with(options, &settings(&endpoint, more)).await;
    let ask = async |times: usize| {
        for _ in 0..times {
            let answer = cluster.http.get(format!("{}/livez", cluster.url)).send().await.unwrap();
            assert_eq!(answer.status(), 200);
            answer.bytes().await.unwrap();
        }
    };
    let full = async || {
        ask(500).await;
        let document = cluster.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
        let name = "streamgate_trace_spans_total{outcome=\"queue_full\"}";
        let dropped: u64 = document.lines().find_map(|line| line.strip_prefix(name)?.trim().parse().ok())?;
        (dropped > 0).then_some(())
    };
    poll(WAIT_MAX, full).await.expect("the queue gets full");
    let before = resident_bytes(cluster.pid("ingress"));
    ask(6_000).await;
    let grown = resident_bytes(cluster.pid("ingress")).saturating_sub(before);
    assert!(grown < 16 << 20, "{grown} bytes more");
    wait_for_series(&cluster, "streamgate_trace_queue_spans", |waiting| waiting <= 512).await;
    // What was tried often enough is given up.
    wait_for_series(&cluster, "streamgate_trace_spans_total{outcome=\"unsent\"}", |count| count > 0).await;
    let log = cluster.log("ingress");
    assert!(log.matches("spans can't be sent").count() <= 1, "it is said once: {log}");
    assert!(cluster.stop("ingress").success());
    drop(hanging);
}

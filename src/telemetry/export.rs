//! Sends spans to who keeps traces, by OTLP over HTTP. Nothing waits for it: a span goes into a bounded queue when it ends, or is dropped
//! and counted when that is full; a task takes them out.
//!
//! Limits: `queue_spans` wait; a request has at most `BATCH_SPANS_MAX` of them, and is sent `BATCH_PERIOD` after its first at the
//! latest. It is tried at most `TRIES_MAX` times, with `timeout_ms` each and at most `RETRY_PAUSE_MAX` in between; then its spans
//! are dropped, and counted. All tries behind [`SpanExport::finish`] have `timeout_ms` together. `ANSWER_BYTES_MAX` bytes of an answer
//! are read, and `HEADERS_FILE_BYTES_MAX` of the file of headers, which may have no more.

use std::{io::Read as _, path::Path, time::Duration};

use anyhow::Context as _;
use nats::{
    metrics::{
        labels::SpanOutcome,
        table::{TRACE_QUEUE_SPANS, TRACE_SPANS},
    },
    spans::{self, FinishedSpan},
};
use reqwest::{
    StatusCode, Url,
    header::{self, HeaderMap, HeaderName, HeaderValue},
};
use tokio::{
    sync::mpsc::{self, error::TrySendError},
    task::JoinHandle,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use super::{
    otlp::{ExportResource, PartialAnswer, read_partial},
    tracing_config::TracingConfig,
};

/// Most spans of one request.
const BATCH_SPANS_MAX: usize = 512;
/// Longest time that a span waits for others.
const BATCH_PERIOD: Duration = Duration::from_secs(1);
/// Most tries of one request.
const TRIES_MAX: u32 = 5;
/// Pause after the first try; doubles each time.
const RETRY_PAUSE_MIN: Duration = Duration::from_millis(500);
/// Longest pause, also where the receiver asks for a longer one.
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(30);
/// Most bytes of an answer that are read.
const ANSWER_BYTES_MAX: usize = 64 * 1024;
/// Largest file of headers.
const HEADERS_FILE_BYTES_MAX: u64 = 64 * 1024;

/// The task that sends. Spans that end later than [`SpanExport::finish`] are dropped, and counted.
#[derive(Debug)]
pub struct SpanExport {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl SpanExport {
    /// Has all spans of this process sent as `config` says, in the name of `service`; `None` where it says nothing.
    ///
    /// # Errors
    /// When the address or the file of headers can't be used.
    pub fn start(config: &TracingConfig, service: String) -> anyhow::Result<Option<Self>> {
        let endpoint =
            config.parse_endpoint().map_err(anyhow::Error::msg).context("telemetry.tracing.endpoint")?;
        let Some(endpoint) = endpoint else { return Ok(None) };
        let timeout = Duration::from_millis(config.timeout_ms);
        let mut headers = HeaderMap::new();
        if let Some(path) = &config.headers_file {
            headers = read_headers(path).with_context(|| format!("the headers file {}", path.display()))?;
        }
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-protobuf"));
        let client = outbound::configured_client()
            .timeout(timeout)
            .default_headers(headers)
            .build()
            .context("the client of traces")?;
        let (sender, received) = mpsc::channel(config.queue_spans);
        let stop = CancellationToken::new();
        let instance = data_encoding::HEXLOWER.encode(&nats::new_id_bytes());
        let sending = SpanSender {
            client,
            endpoint,
            resource: ExportResource { service, instance },
            stop: stop.clone(),
            timeout,
            is_failing: false,
            is_partly_refused: false,
        };
        spans::export_to(move |span| enqueue_span(&sender, span));
        Ok(Some(Self { task: tokio::spawn(sending.run(received)), stop }))
    }

    /// Sends what waits, once, and ends. Takes as long as one try may; what is left then counts as unsent.
    pub async fn finish(self) {
        self.stop.cancel();
        if let Err(source) = self.task.await {
            tracing::error!(%source, "the task that sends spans ended unexpectedly");
        }
    }
}

/// Takes a span without waiting.
fn enqueue_span(sender: &mpsc::Sender<FinishedSpan>, span: FinishedSpan) {
    match sender.try_send(span) {
        Ok(()) => {}
        Err(TrySendError::Full(_)) => TRACE_SPANS.increment(SpanOutcome::QueueFull),
        // It ended after the task that sends.
        Err(TrySendError::Closed(_)) => return TRACE_SPANS.increment(SpanOutcome::Unsent),
    }
    note_waiting(sender.max_capacity() - sender.capacity());
}

fn note_waiting(count: usize) {
    TRACE_QUEUE_SPANS.set((), i64::try_from(count).unwrap_or(i64::MAX));
}

fn note_unsent(count: usize) {
    TRACE_SPANS.add(SpanOutcome::Unsent, u64::try_from(count).unwrap_or(u64::MAX));
}

/// Reads lines `name: value`.
fn read_headers(path: &Path) -> anyhow::Result<HeaderMap> {
    let mut text = String::new();
    let file = std::fs::File::open(path)?;
    let size_bytes = file.take(HEADERS_FILE_BYTES_MAX + 1).read_to_string(&mut text)?;
    // The rest would be missing without a word.
    let is_whole = u64::try_from(size_bytes).is_ok_and(|size_bytes| size_bytes <= HEADERS_FILE_BYTES_MAX);
    anyhow::ensure!(
        is_whole,
        "it has more than {HEADERS_FILE_BYTES_MAX} bytes; keep the headers alone in it"
    );
    let mut headers = HeaderMap::new();
    for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
        // Without the line itself: it holds a secret.
        let wrong = || format!("line {} is no header; write `name: value`", number + 1);
        let (name, value) = line.split_once(':').with_context(wrong)?;
        let name = HeaderName::from_bytes(name.trim().as_bytes()).ok().with_context(wrong)?;
        let mut value = HeaderValue::from_str(value.trim()).ok().with_context(wrong)?;
        value.set_sensitive(true);
        headers.insert(name, value);
    }
    Ok(headers)
}

/// What came of one try.
#[derive(Debug)]
enum TryOutcome {
    /// It was taken, but for what the answer says.
    Taken(PartialAnswer),
    /// It may be taken later, after this pause where the receiver names one.
    Later { why: String, pause: Option<Duration> },
    /// It will not be taken.
    Refused { why: String },
}

struct SpanSender {
    client: reqwest::Client,
    endpoint: Url,
    resource: ExportResource,
    stop: CancellationToken,
    /// Of one try, and of all of them once it has to stop.
    timeout: Duration,
    /// True while nothing can be sent: that is logged once.
    is_failing: bool,
    /// True once the receiver took a request in part: that is logged once.
    is_partly_refused: bool,
}

impl SpanSender {
    async fn run(mut self, mut received: mpsc::Receiver<FinishedSpan>) {
        let (stop, timeout) = (self.stop.clone(), self.timeout);
        let deadline = async move {
            stop.cancelled().await;
            tokio::time::sleep(timeout).await;
        };
        tokio::pin!(deadline);
        let mut left = 0;
        loop {
            let batch = self.collect_batch(&mut received).await;
            if batch.is_empty() {
                break;
            }
            tokio::select! {
                biased;
                // Counts them when it ends, and not before.
                () = self.send_batch(&batch) => {}
                () = &mut deadline => {
                    left = batch.len();
                    break;
                }
            }
        }
        received.close();
        while received.try_recv().is_ok() {
            left += 1;
        }
        note_waiting(0);
        if left > 0 {
            note_unsent(left);
            tracing::warn!(spans = left, "spans of the last moments could not be sent in time");
        }
    }

    /// The next spans; none once it has to stop and nothing waits.
    async fn collect_batch(&self, received: &mut mpsc::Receiver<FinishedSpan>) -> Vec<FinishedSpan> {
        let mut batch = Vec::new();
        tokio::select! {
            biased;
            _ = received.recv_many(&mut batch, BATCH_SPANS_MAX) => note_waiting(received.len()),
            () = self.stop.cancelled() => return batch,
        }
        let deadline = Instant::now() + BATCH_PERIOD;
        while batch.len() < BATCH_SPANS_MAX {
            let room = BATCH_SPANS_MAX - batch.len();
            tokio::select! {
                biased;
                count = received.recv_many(&mut batch, room) => {
                    note_waiting(received.len());
                    if count == 0 {
                        break;
                    }
                }
                () = tokio::time::sleep_until(deadline) => break,
                () = self.stop.cancelled() => break,
            }
        }
        batch
    }

    async fn send_batch(&mut self, batch: &[FinishedSpan]) {
        let count = u64::try_from(batch.len()).unwrap_or(u64::MAX);
        let body = bytes::Bytes::from(self.resource.encode_request(batch));
        let mut pause = RETRY_PAUSE_MIN;
        for attempt in 1..=TRIES_MAX {
            match self.try_request(body.clone()).await {
                TryOutcome::Taken(partial) => {
                    let rejected = partial.rejected.min(count);
                    self.note_partial(&partial);
                    TRACE_SPANS.add(SpanOutcome::Sent, count - rejected);
                    TRACE_SPANS.add(SpanOutcome::Refused, rejected);
                    if std::mem::take(&mut self.is_failing) {
                        tracing::info!("spans are sent again");
                    }
                    return;
                }
                TryOutcome::Refused { why } => {
                    self.note_failure(&why);
                    return TRACE_SPANS.add(SpanOutcome::Refused, count);
                }
                TryOutcome::Later { why, pause: asked } => {
                    self.note_failure(&why);
                    if attempt == TRIES_MAX || self.stop.is_cancelled() {
                        break;
                    }
                    tokio::select! {
                        () = tokio::time::sleep(asked.unwrap_or(pause).min(RETRY_PAUSE_MAX)) => {}
                        () = self.stop.cancelled() => {}
                    }
                    pause = (pause * 2).min(RETRY_PAUSE_MAX);
                }
            }
        }
        note_unsent(batch.len());
    }

    /// Says once what the receiver has to say about spans that it takes, or does not.
    fn note_partial(&mut self, partial: &PartialAnswer) {
        let says_something = partial.rejected > 0 || !partial.why.is_empty();
        if says_something && !std::mem::replace(&mut self.is_partly_refused, true) {
            let PartialAnswer { rejected, why } = partial;
            tracing::warn!(
                rejected,
                why,
                "the receiver of spans does not take all; more of that is counted alone"
            );
        }
    }

    /// Says once that nothing can be sent.
    fn note_failure(&mut self, why: &str) {
        if !std::mem::replace(&mut self.is_failing, true) {
            tracing::warn!(why, "spans can't be sent; they are dropped and counted meanwhile");
        }
    }

    async fn try_request(&self, body: bytes::Bytes) -> TryOutcome {
        let later = |error: reqwest::Error| TryOutcome::Later {
            why: schemas::fault::error_chain(&error.without_url()),
            pause: None,
        };
        let mut response = match self.client.post(self.endpoint.clone()).body(body).send().await {
            Ok(response) => response,
            Err(error) => return later(error),
        };
        let status = response.status();
        if status.is_success() {
            let mut answer = Vec::new();
            // The spans are there, whatever becomes of the rest of the answer.
            while let Ok(Some(chunk)) = response.chunk().await {
                answer.extend_from_slice(&chunk);
                if answer.len() > ANSWER_BYTES_MAX {
                    break;
                }
            }
            return TryOutcome::Taken(read_partial(&answer));
        }
        let why = format!("the receiver answers {status}");
        // OTLP specification, "Retryable Response Codes".
        let is_retryable = matches!(
            status,
            StatusCode::TOO_MANY_REQUESTS
                | StatusCode::BAD_GATEWAY
                | StatusCode::SERVICE_UNAVAILABLE
                | StatusCode::GATEWAY_TIMEOUT
        );
        if !is_retryable {
            return TryOutcome::Refused { why };
        }
        let asked = response.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
        let pause = asked.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        TryOutcome::Later { why, pause }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use nats::spans::{SpanKind, TraceContext};

    use super::*;

    #[test]
    fn headers_come_from_a_file_and_are_secrets() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("headers");
        std::fs::write(&path, "authorization: Bearer s3cret\n\nX-Scope-OrgID: us\n").unwrap();
        let headers = read_headers(&path).unwrap();
        assert_eq!(headers["x-scope-orgid"], "us");
        assert!(!format!("{headers:?}").contains("s3cret"));
        std::fs::write(&path, "authorization Bearer s3cret\n").unwrap();
        let refused = format!("{:#}", read_headers(&path).unwrap_err());
        assert!(refused.contains("line 1") && !refused.contains("s3cret"), "{refused}");
        let line = "x-name: s3cret\n";
        std::fs::write(&path, line.repeat(64 * 1024 / line.len() + 1)).unwrap();
        let refused = format!("{:#}", read_headers(&path).unwrap_err());
        assert!(refused.contains("65536 bytes") && !refused.contains("s3cret"), "{refused}");
    }

    fn finished_span() -> FinishedSpan {
        FinishedSpan {
            context: TraceContext::new_root(true),
            parent: None,
            name: "GET".into(),
            kind: SpanKind::Server,
            began_at: SystemTime::now(),
            took: Duration::ZERO,
            attributes: Vec::new(),
            links: Vec::new(),
            links_left_out: 0,
            error: None,
        }
    }

    #[tokio::test]
    async fn each_span_that_a_stop_leaves_behind_is_counted_and_none_waits() {
        // It accepts, and never answers.
        let hanging = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let stop = CancellationToken::new();
        let sending = SpanSender {
            client: outbound::configured_client().build().unwrap(),
            endpoint: format!("http://{}", hanging.local_addr().unwrap()).parse().unwrap(),
            resource: ExportResource { service: "streamgate-ingress".into(), instance: "1".into() },
            stop: stop.clone(),
            timeout: Duration::from_millis(100),
            is_failing: false,
            is_partly_refused: false,
        };
        let (sender, received) = mpsc::channel(2 * BATCH_SPANS_MAX);
        let (unsent, full) =
            (TRACE_SPANS.count(SpanOutcome::Unsent), TRACE_SPANS.count(SpanOutcome::QueueFull));
        for _ in 0..=(2 * BATCH_SPANS_MAX) {
            enqueue_span(&sender, finished_span());
        }
        SpanExport { task: tokio::spawn(sending.run(received)), stop }.finish().await;
        enqueue_span(&sender, finished_span());
        let all = u64::try_from(2 * BATCH_SPANS_MAX).unwrap() + 1;
        assert_eq!(TRACE_SPANS.count(SpanOutcome::Unsent) - unsent, all);
        assert_eq!(TRACE_SPANS.count(SpanOutcome::QueueFull) - full, 1);
        drop(hanging);
    }
}

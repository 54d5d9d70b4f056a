//! What this process says of itself to the monitor: that it lives, what stands in its way, and what it logs.
//!
//! What is logged goes to stderr as before; the monitor gets a copy, at most once. What is logged on the way of the copy is left out of it,
//! or each line would make the next.
//!
//! Limits: `LINES_PER_S_MAX` lines a second with bursts of as many, `QUEUE_LINES_MAX` that wait; what is more is counted as dropped. Texts of more than
//! [`process_report::TEXT_BYTES_MAX`] bytes are cut.

use std::{
    collections::{BTreeMap, VecDeque},
    fmt,
    sync::{Arc, LazyLock},
    time::{Duration, Instant},
};

use nats::{Bus, ProcessHealth, Role};
use parking_lot::Mutex;
use schemas::{
    process_report::{self, HealthCause, LogLine, LogSeverity, ProcessReport},
    subjects,
};
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;
use tracing::{
    Subscriber,
    field::{Field, Visit},
    span::{Attributes, Id, Record},
};
use tracing_subscriber::{Layer, layer::Context, registry::LookupSpan};

/// Lines that go to the monitor in a second.
const LINES_PER_S_MAX: u32 = 100;
/// Lines that wait for the next report.
const QUEUE_LINES_MAX: usize = 1_000;
/// Modules whose lines stay here: the way of the report itself.
const SILENT_TARGETS: [&str; 3] = ["streamgate::process_reports", "async_nats", "nats::publish"];
/// How soon a line goes out: those of the same moment go together.
const GATHERING: Duration = Duration::from_millis(200);

/// Where the lines of this process wait. There is one log in a process, as there is one stderr.
static WAITING: LazyLock<Arc<WaitingLines>> = LazyLock::new(Arc::default);

#[derive(Debug, Default)]
struct WaitingLines {
    queue: Mutex<LineQueue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct LineQueue {
    lines: VecDeque<LogLine>,
    dropped: u64,
    /// When the second of `taken` began.
    since: Option<Instant>,
    taken: u32,
    /// False while nobody sends: then nothing is kept.
    is_sent: bool,
}

impl LineQueue {
    /// Whether a line has a place; one that has none is counted.
    fn reserve(&mut self, now: Instant, is_urgent: bool) -> bool {
        if !self.is_sent {
            return false;
        }
        if self.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            (self.since, self.taken) = (Some(now), 0);
        }
        // Half of it is left to warnings and errors, whatever else is logged.
        let (taken_max, queue_max) = if is_urgent {
            (LINES_PER_S_MAX, QUEUE_LINES_MAX)
        } else {
            (LINES_PER_S_MAX / 2, QUEUE_LINES_MAX / 2)
        };
        if self.taken >= taken_max || self.lines.len() >= queue_max {
            self.dropped += 1;
            return false;
        }
        self.taken += 1;
        true
    }

    /// The lines of the next report, as many as have room in it.
    fn take_report(&mut self) -> Vec<LogLine> {
        let (mut taken, mut size_bytes) = (Vec::new(), 0);
        while taken.len() < process_report::LINES_MAX
            && let Some(line) = self.lines.front()
        {
            size_bytes += line.size_bytes();
            if size_bytes > process_report::LINES_BYTES_MAX && !taken.is_empty() {
                break;
            }
            taken.extend(self.lines.pop_front());
        }
        taken
    }
}

/// Copies what passes the filter of the log.
#[derive(Debug, Default)]
pub struct LogCopy;

/// The fields of a span, which its lines have, too.
struct SpanFields(BTreeMap<String, String>);

#[derive(Default)]
struct FieldReader {
    message: String,
    fields: BTreeMap<String, String>,
}

impl FieldReader {
    fn take(&mut self, field: &Field, text: String) {
        if field.name() == "message" {
            self.message = cut_text(text);
        } else if self.fields.len() < process_report::FIELDS_MAX {
            self.fields.insert(field.name().to_owned(), cut_text(text));
        }
    }
}

impl Visit for FieldReader {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.take(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.take(field, format!("{value:?}"));
    }
}

/// At most so many bytes of a text, whole characters.
fn cut_text(mut text: String) -> String {
    if text.len() > process_report::TEXT_BYTES_MAX {
        let room_bytes = process_report::TEXT_BYTES_MAX - '…'.len_utf8();
        let end = (0..=room_bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text
}

impl<S: Subscriber + for<'a> LookupSpan<'a>> Layer<S> for LogCopy {
    fn on_new_span(&self, attributes: &Attributes<'_>, id: &Id, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut reader = FieldReader::default();
        attributes.record(&mut reader);
        span.extensions_mut().insert(SpanFields(reader.fields));
    }

    fn on_record(&self, id: &Id, values: &Record<'_>, context: Context<'_, S>) {
        let Some(span) = context.span(id) else { return };
        let mut reader = FieldReader::default();
        values.record(&mut reader);
        if let Some(SpanFields(fields)) = span.extensions_mut().get_mut() {
            fields.extend(reader.fields);
        }
    }

    fn on_event(&self, event: &tracing::Event<'_>, context: Context<'_, S>) {
        let target = event.metadata().target();
        if SILENT_TARGETS.iter().any(|silent| target.starts_with(silent)) {
            return;
        }
        let is_urgent = *event.metadata().level() <= tracing::Level::WARN;
        if !WAITING.queue.lock().reserve(Instant::now(), is_urgent) {
            return;
        }
        // Without the lock: what writes a value may log by itself.
        let line = read_line(event, &context);
        WAITING.queue.lock().lines.push_back(line);
        WAITING.arrived.notify_one();
    }
}

fn read_line<S: Subscriber + for<'a> LookupSpan<'a>>(
    event: &tracing::Event<'_>,
    context: &Context<'_, S>,
) -> LogLine {
    let mut reader = FieldReader::default();
    event.record(&mut reader);
    let mut fields = reader.fields;
    for span in context.event_scope(event).into_iter().flatten() {
        if let Some(SpanFields(around)) = span.extensions().get() {
            for (name, value) in around {
                if fields.len() < process_report::FIELDS_MAX && !fields.contains_key(name) {
                    fields.insert(name.clone(), value.clone());
                }
            }
        }
    }
    if let Some(trace) = nats::spans::current() {
        fields.insert("trace_id".to_owned(), trace.trace_id_text());
    }
    if let Some(id) = web::request::current_id() {
        fields.insert("request.id".to_owned(), id.to_string());
    }
    LogLine {
        at_ms: nats::now_ms(),
        severity: match *event.metadata().level() {
            tracing::Level::ERROR => LogSeverity::Error,
            tracing::Level::WARN => LogSeverity::Warn,
            tracing::Level::INFO => LogSeverity::Info,
            tracing::Level::DEBUG => LogSeverity::Debug,
            tracing::Level::TRACE => LogSeverity::Trace,
        },
        target: cut_text(event.metadata().target().to_owned()),
        message: reader.message,
        fields,
    }
}

/// What a process says of itself beside its log.
#[derive(Debug, Clone)]
pub struct ProcessIdentity {
    /// Names it until it ends: 16 hexadecimal digits.
    pub instance: String,
    /// What it runs.
    pub roles: Vec<String>,
    /// Unix time in milliseconds.
    pub started_at_ms: u64,
}

/// Speaks under `role` until the shutdown. A report that the broker does not take is lost: the next one says how things stand then.
pub async fn send_reports(
    bus: &Bus,
    role: Role,
    identity: &ProcessIdentity,
    health: &ProcessHealth,
    shutdown: &CancellationToken,
) {
    let subject = subjects::log_subject(role.name());
    let mut ticks = tokio::time::interval(Duration::from_secs(process_report::PERIOD_S));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    WAITING.queue.lock().is_sent = true;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
            () = WAITING.arrived.notified() => tokio::time::sleep(GATHERING).await,
        }
        let report = build_report(identity, health);
        let Ok(payload) = nats::encode_message(&subject, &report) else { continue };
        let sent = tokio::time::timeout(
            Duration::from_secs(process_report::PERIOD_S),
            bus.publish_core(subject.clone(), payload),
        );
        // Not logged: it would be sent, too, and the next report is soon.
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = sent => {}
        }
        if !WAITING.queue.lock().lines.is_empty() {
            WAITING.arrived.notify_one();
        }
    }
}

fn build_report(identity: &ProcessIdentity, health: &ProcessHealth) -> ProcessReport {
    let causes = health.problems().into_iter().take(process_report::LINES_MAX);
    let causes =
        causes.map(|cause| HealthCause { code: cause.code.to_owned(), detail: cut_text(cause.detail) });
    let mut queue = WAITING.queue.lock();
    ProcessReport {
        instance: identity.instance.clone(),
        roles: identity.roles.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        started_at_ms: identity.started_at_ms,
        causes: causes.collect(),
        lines: queue.take_report(),
        dropped_lines: queue.dropped,
    }
}

#[cfg(test)]
mod tests {
    use tracing_subscriber::layer::SubscriberExt as _;

    use super::*;

    fn line(text: &str) -> LogLine {
        LogLine {
            at_ms: 0,
            severity: LogSeverity::Info,
            target: String::new(),
            message: text.into(),
            fields: BTreeMap::new(),
        }
    }

    #[test]
    fn only_so_many_lines_go_in_a_second_and_the_others_are_counted() {
        let (mut queue, now) = (LineQueue { is_sent: true, ..LineQueue::default() }, Instant::now());
        let push = |queue: &mut LineQueue, now| {
            if queue.reserve(now, true) {
                queue.lines.push_back(line("x"));
            }
        };
        for _ in 0..LINES_PER_S_MAX + 7 {
            push(&mut queue, now);
        }
        assert_eq!((queue.lines.len(), queue.dropped), (LINES_PER_S_MAX as usize, 7));
        for second in 1..100 {
            for _ in 0..LINES_PER_S_MAX {
                push(&mut queue, now + Duration::from_secs(second));
            }
        }
        assert_eq!(queue.lines.len(), QUEUE_LINES_MAX, "nobody fetches them");
        let mut noisy = LineQueue { is_sent: true, ..LineQueue::default() };
        let taken = (0..LINES_PER_S_MAX).filter(|_| noisy.reserve(now, false)).count();
        assert_eq!(taken, LINES_PER_S_MAX as usize / 2);
        assert!(noisy.reserve(now, true), "an error has a place beside them");
        let mut unsent = LineQueue::default();
        assert!(!unsent.reserve(now, true), "it is not made for nobody");
        assert_eq!((unsent.lines.len(), unsent.dropped), (0, 0));
        let mut large = LineQueue { is_sent: true, ..LineQueue::default() };
        large.lines = (0..200).map(|_| line(&"x".repeat(process_report::LINES_BYTES_MAX / 10))).collect();
        let first = large.take_report();
        assert!((2..=10).contains(&first.len()), "{}", first.len());
        assert_eq!(large.lines.len(), 200 - first.len(), "the rest goes next");
    }

    #[test]
    fn a_line_has_its_own_fields_and_those_around_it() {
        WAITING.queue.lock().is_sent = true;
        let subscriber = tracing_subscriber::registry().with(LogCopy);
        tracing::subscriber::with_default(subscriber, || {
            let span = tracing::info_span!("request", request_id = "r1", media.id = tracing::field::Empty);
            let _entered = span.enter();
            span.record("media.id", "m1");
            tracing::warn!(target: "upload::verify", code = "bad_file", text = "ä".repeat(5_000), "it is no video");
            tracing::info!(target: "async_nats::connection", "the way itself");
        });
        let mut queue = WAITING.queue.lock();
        let lines: Vec<LogLine> =
            queue.lines.drain(..).filter(|line| line.target.starts_with("upload::verify")).collect();
        let [line] = lines.as_slice() else { panic!("{lines:?}") };
        assert_eq!((line.severity, line.message.as_str()), (LogSeverity::Warn, "it is no video"));
        for (name, value) in [("request_id", "r1"), ("media.id", "m1"), ("code", "bad_file")] {
            assert_eq!(line.fields[name], value);
        }
        assert!(
            line.fields["text"].len() <= process_report::TEXT_BYTES_MAX && line.fields["text"].ends_with('…')
        );
    }
}

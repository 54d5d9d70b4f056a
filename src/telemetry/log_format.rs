//! Log lines with the ids of what they were written for: trace, span, request.
//!
//! As JSON each line has them in front, where there are any. For people only warnings and errors have the trace, at the end.

use std::fmt;

use nats::spans;
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{Format, Full, Json, Writer},
    },
    registry::LookupSpan,
};

/// One JSON object a line.
#[derive(Debug)]
pub(super) struct JsonLines(Format<Json>);

impl JsonLines {
    pub(super) fn new() -> Self {
        Self(Format::default().json())
    }
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let mut object = String::new();
        self.0.format_event(context, Writer::new(&mut object), event)?;
        let Some(members) = object.strip_prefix('{') else { return line.write_str(&object) };
        // Ids are letters and digits.
        line.write_char('{')?;
        if let Some(trace) = spans::current() {
            write!(line, r#""trace_id":"{}","span_id":"{}","#, trace.trace_id_text(), trace.span_id_text())?;
        }
        if let Some(id) = web::request::current_id() {
            write!(line, r#""request_id":"{id}","#)?;
        }
        line.write_str(members)
    }
}

/// One line a record, for people.
#[derive(Debug)]
pub(super) struct TextLines(Format<Full>);

impl TextLines {
    pub(super) fn new(has_colours: bool) -> Self {
        Self(Format::default().with_target(false).with_ansi(has_colours))
    }
}

impl<S, N> FormatEvent<S, N> for TextLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'w> FormatFields<'w> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut line: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let trace = spans::current().filter(|_| *event.metadata().level() <= Level::WARN);
        let Some(trace) = trace else { return self.0.format_event(context, line, event) };
        let mut text = String::new();
        self.0.format_event(context, Writer::new(&mut text), event)?;
        writeln!(line, "{} trace_id={}", text.trim_end_matches('\n'), trace.trace_id_text())
    }
}

#[cfg(test)]
mod tests {
    use std::{io, sync::Arc};

    use nats::spans::{Span, SpanKind};
    use parking_lot::Mutex;
    use tracing_subscriber::fmt::MakeWriter;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    impl MakeWriter<'_> for Lines {
        type Writer = Self;

        fn make_writer(&self) -> Self {
            self.clone()
        }
    }

    /// The lines of an error outside of all, of one inside of a span, and of what is no warning there.
    fn written(subscriber: impl Subscriber + Send + Sync + 'static, lines: &Lines) -> (String, Vec<String>) {
        let span = Span::root(SpanKind::Server, false, || "GET /".into());
        let trace = span.context().trace_id_text();
        tracing::subscriber::with_default(subscriber, || {
            tracing::error!(code = "a\"b\n", "outside");
            futures::executor::block_on(span.run(async {
                tracing::error!("inside");
                tracing::info!("well");
            }));
        });
        let text = String::from_utf8(lines.0.lock().clone()).unwrap();
        (trace, text.lines().map(str::to_owned).collect())
    }

    #[test]
    fn a_line_of_json_names_its_trace_also_where_it_is_not_sampled() {
        let lines = Lines::default();
        let subscriber = tracing_subscriber::fmt()
            .fmt_fields(tracing_subscriber::fmt::format::JsonFields::new())
            .event_format(JsonLines::new())
            .with_writer(lines.clone())
            .finish();
        let (trace, lines) = written(subscriber, &lines);
        let parsed: Vec<serde_json::Value> =
            lines.iter().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(parsed[0]["fields"]["code"], "a\"b\n");
        assert_eq!(parsed[0]["trace_id"], serde_json::Value::Null);
        assert_eq!(
            (parsed[1]["trace_id"].as_str(), &parsed[1]["fields"]["message"]),
            (Some(&*trace), &"inside".into())
        );
        assert_eq!(parsed[2]["span_id"].as_str().map(str::len), Some(16));
    }

    #[test]
    fn a_line_for_people_names_the_trace_of_trouble() {
        let lines = Lines::default();
        let subscriber =
            tracing_subscriber::fmt().event_format(TextLines::new(false)).with_writer(lines.clone()).finish();
        let (trace, lines) = written(subscriber, &lines);
        assert!(!lines[0].contains("trace_id"), "{lines:?}");
        assert!(lines[1].ends_with(&format!("inside trace_id={trace}")), "{lines:?}");
        assert!(lines[2].ends_with("well"), "{lines:?}");
    }
}

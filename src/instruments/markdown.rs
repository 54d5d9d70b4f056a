//! The table for people.

use std::fmt::Write as _;

use crate::{LabelValues, MetricDeclaration, MetricHandler, declarations};

const INTRODUCTION: &str = "# Metrics

Every family that a process of StreamGate may show at `/metrics`: on its admin address (`--admin-listen`) and, for operators, on the
public port. `cargo run -- config --metrics > METRICS.md` writes this page from the table in `src/instruments/table/`.

Counters end in `_total`, histograms have `_bucket`, `_sum` and `_count`. Without an `Accept` that names OpenMetrics the answer is in
the text format 0.0.4. A label has at most the values that are named; a family has at most 1,024 series, and what is beyond is counted
with `overflow=\"true\"`. A process shows the families of the roles that it runs.

In OpenMetrics, buckets of `streamgate_http_request_seconds` and `streamgate_stage_seconds` have an exemplar: the `trace_id` of the last
observation whose trace is sampled. Reports to the monitor have none.

Each process also reports all of its metrics on the bus every 10 s (`stat.<role>.<instance>`). The monitor shows them with the labels
`role` and `instance` beside its own, until 60 s after the last report. So there are two ways to scrape an installation, of which one is
enough: each process (`.container/prometheus.yml`, which leaves out what the monitor shows of others), or the monitor alone with
`honor_labels: true`. Memory, files and CPU time are those of the process, without its media children.
";

/// The page `METRICS.md`.
pub fn render_markdown() -> String {
    let mut page = INTRODUCTION.to_owned();
    for handler in MetricHandler::ALL {
        let mut rows = String::new();
        for declared in declarations().filter(|declared| declared.handler == handler) {
            rows.push_str(&row(declared));
        }
        page.push_str("\n## ");
        page.push_str(handler.name());
        page.push_str("\n\n| name | type | unit | labels | category | what it says | alerts |\n");
        page.push_str("| --- | --- | --- | --- | --- | --- | --- |\n");
        page.push_str(&rows);
    }
    page
}

fn row(declared: &MetricDeclaration) -> String {
    let labels = declared.labels.iter().map(|label| match label.values {
        LabelValues::Fixed(values) => format!("`{}`: {}", label.name, values.join(", ")),
        LabelValues::Bounded(count_max, of) => format!("`{}`: up to {count_max} {of}", label.name),
    });
    let labels: Vec<_> = labels.collect();
    let mut help = declared.help.to_owned();
    if !declared.buckets.is_empty() {
        let bounds: Vec<_> = declared.buckets.iter().map(ToString::to_string).collect();
        let written = write!(help, "; bounds {}", bounds.join(", "));
        debug_assert!(written.is_ok());
    }
    format!(
        "| `{}` | {} | {} | {} | {} | {help} | {} |\n",
        declared.series_name(),
        declared.kind.name(),
        declared.unit_name(),
        or_dash(&labels.join("; ")),
        declared.category.name(),
        or_dash(&declared.used_by.join(", ")),
    )
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

#[cfg(test)]
mod tests {
    use std::{fs, path::Path};

    use super::*;

    #[test]
    fn the_page_is_that_of_the_table() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../METRICS.md");
        let (wanted, found) = (render_markdown(), fs::read_to_string(path).unwrap());
        let differs = found.lines().zip(wanted.lines()).find(|(found, wanted)| found != wanted);
        assert!(
            found.trim_end() == wanted.trim_end(),
            "run `cargo run -- config --metrics > METRICS.md`; first difference: {differs:?}"
        );
    }

    #[test]
    fn a_row_says_all_that_is_declared() {
        let row = row(&crate::table::STREAM_FILL_RATIO);
        assert!(
            row.starts_with("| `streamgate_stream_fill_ratio` | gauge | - | `stream`: up to 128 streams"),
            "{row}"
        );
        assert!(row.ends_with("| StreamGateStreamFilling |\n"), "{row}");
    }
}

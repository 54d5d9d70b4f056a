//! The text format 0.0.4 of Prometheus, for readers that do not ask for OpenMetrics: `promtool check metrics` is one.

/// Writes a document of OpenMetrics as the older format has it: the descriptor of a counter has the name of its series, and there is
/// neither a unit nor an end.
pub fn to_prometheus_text(document: &str) -> String {
    let mut text = String::with_capacity(document.len());
    // The help text of a family comes before its type.
    let mut help = None;
    for line in document.lines() {
        if let Some(described) = line.strip_prefix("# HELP ") {
            help = described.split_once(' ');
        } else if let Some((name, kind)) = line.strip_prefix("# TYPE ").and_then(|rest| rest.split_once(' '))
        {
            let end = if kind == "counter" { "_total" } else { "" };
            if let Some((_, help)) = help.take().filter(|(described, _)| *described == name) {
                text.extend(["# HELP ", name, end, " ", help, "\n"]);
            }
            text.extend(["# TYPE ", name, end, " ", kind, "\n"]);
        } else if !line.starts_with('#') {
            // An exemplar stands behind the value; this format has none.
            text.push_str(without_exemplar(line));
            text.push('\n');
        }
    }
    text
}

/// A document of OpenMetrics without its exemplars, which make it several times as large: for readers that drop them.
pub fn drop_exemplars(document: &str) -> String {
    let mut text = String::with_capacity(document.len());
    for line in document.lines() {
        text.push_str(if line.starts_with('#') { line } else { without_exemplar(line) });
        text.push('\n');
    }
    text
}

/// A sample up to its value. The value of a label may have anything: what is behind the labels is looked at alone.
fn without_exemplar(line: &str) -> &str {
    let labels_length = if line.find(['{', ' ']).is_some_and(|at| line.as_bytes().get(at) == Some(&b'{')) {
        let (mut is_quoted, mut is_escaped) = (false, false);
        let end = line.find(|c: char| {
            let is_quote = c == '"' && !is_escaped;
            is_quoted ^= is_quote;
            is_escaped = c == '\\' && !is_escaped;
            c == '}' && !is_quoted
        });
        end.unwrap_or(line.len())
    } else {
        0
    };
    let found = line.get(labels_length..).and_then(|rest| rest.find(" # "));
    found.and_then(|at| line.get(..labels_length + at)).unwrap_or(line)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_without_exemplars_is_the_same_otherwise() {
        let document = "# HELP a All # of {a} # b.\n# TYPE a histogram\na_bucket{le=\"1.0\"} 1 # {trace_id=\"t\"} 0.5 1.0\n\
                        a_count{kind=\"x # y\"} 1\n# EOF\n";
        assert_eq!(drop_exemplars(document), document.replace(" # {trace_id=\"t\"} 0.5 1.0", ""));
    }

    #[test]
    fn counters_have_the_name_of_their_series() {
        let document = "# HELP a All of a.\n# TYPE a counter\na_total{kind=\"x\\\"} # {y\"} 1\n\
                        # HELP b_seconds How long.\n# TYPE b_seconds gauge\n# UNIT b_seconds seconds\nb_seconds 0.5\n\
                        # TYPE c histogram\nc_bucket{le=\"1.0\"} 1 # {trace_id=\"t\"} 0.5\n\
                        c_count 1 # {trace_id=\"t\"} 0.5\n# EOF\n";
        assert_eq!(
            to_prometheus_text(document),
            "# HELP a_total All of a.\n# TYPE a_total counter\na_total{kind=\"x\\\"} # {y\"} 1\n\
             # HELP b_seconds How long.\n# TYPE b_seconds gauge\nb_seconds 0.5\n\
             # TYPE c histogram\nc_bucket{le=\"1.0\"} 1\nc_count 1\n"
        );
    }
}

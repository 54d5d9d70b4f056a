//! One sample of OpenMetrics text, as processes write them: a name, labels, a number.

/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: usize = 2_048;

/// A sample whose form was checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct MetricSample<'a> {
    pub(crate) name: &'a str,
    /// As they stand between the brackets.
    pub(crate) labels: &'a str,
    pub(crate) value: &'a str,
}

impl<'a> MetricSample<'a> {
    /// The names of its labels.
    pub(crate) fn label_names(&self) -> impl Iterator<Item = &'a str> {
        let mut rest = self.labels;
        std::iter::from_fn(move || {
            let (name, behind) = split_label(rest)?;
            rest = behind;
            Some(name)
        })
    }

    pub(crate) fn has_label(&self, wanted: &str) -> bool {
        self.label_names().any(|name| name == wanted)
    }
}

/// Reads a sample; `None` for anything else, such as one with a time.
pub(crate) fn parse_sample(line: &str) -> Option<MetricSample<'_>> {
    if line.len() > LINE_BYTES_MAX {
        return None;
    }
    // What stands behind a value is an exemplar, whose trace is found at the process itself.
    let name_length = line.find(|c: char| !is_name_character(c))?;
    let (name, rest) = line.split_at_checked(name_length)?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => {
            let length = labels_length(inside)?;
            let (labels, behind) = inside.split_at_checked(length)?;
            (labels, behind.strip_prefix('}')?)
        }
        None => ("", rest),
    };
    let value = rest.strip_prefix(' ')?;
    let value = value.split_once(" # ").map_or(value, |(value, _)| value);
    let is_number = value.parse::<f64>().is_ok();
    (!name.is_empty() && is_number).then_some(MetricSample { name, labels, value })
}

const fn is_name_character(c: char) -> bool {
    c.is_ascii_lowercase() || c == '_'
}

/// How many bytes the labels have, up to the bracket behind them; `None` where they have another form.
fn labels_length(text: &str) -> Option<usize> {
    let mut rest = text;
    while !rest.starts_with('}') {
        rest = split_label(rest)?.1;
    }
    Some(text.len() - rest.len())
}

/// The name of the first label, and what is behind it and its comma.
fn split_label(text: &str) -> Option<(&str, &str)> {
    let (name, value) = text.split_once("=\"")?;
    if name.is_empty() || !name.chars().all(is_name_character) {
        return None;
    }
    let mut is_escaped = false;
    let end = value.find(|c: char| {
        let is_end = c == '"' && !is_escaped;
        is_escaped = c == '\\' && !is_escaped;
        is_end
    })?;
    let behind = value.get(end + 1..)?;
    Some((name, behind.strip_prefix(',').unwrap_or(behind)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_name_labels_and_a_number() {
        let sample =
            parse_sample(r#"a_total{kind="x\"},{y=\"",le="+Inf"} 1.5 # {trace_id="t"} 0.3"#).unwrap();
        assert_eq!((sample.name, sample.value), ("a_total", "1.5"));
        assert_eq!(sample.label_names().collect::<Vec<_>>(), ["kind", "le"]);
        assert!(sample.has_label("le") && !sample.has_label("trace_id"));
        let bare = parse_sample("a 1").unwrap();
        assert_eq!((bare.labels, bare.label_names().count()), ("", 0));
        for nonsense in [
            "",
            "a",
            "a ",
            "a one",
            "a{ 1",
            "a{kind} 1",
            "a{kind=x} 1",
            r#"a{kind="x} 1"#,
            r#"a{kind="x\"} 1"#,
            r#"a{Kind="x"} 1"#,
            r#"a{kind="x"}1"#,
            "a 1 1700000000",
            "A 1",
            " a 1",
            &format!("a{{kind=\"{}\"}} 1", "x".repeat(LINE_BYTES_MAX)),
        ] {
            assert_eq!(parse_sample(nonsense), None, "{nonsense:.60}");
        }
    }
}

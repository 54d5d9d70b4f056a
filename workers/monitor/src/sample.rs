//! One sample of OpenMetrics text, as processes write them: a name, labels, a number.

/// Longest line that is read, in bytes.
const LINE_BYTES_MAX: usize = 2_048;

/// A sample whose form was checked.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct MetricSample<'a> {
    pub(crate) name: &'a str,
    /// Names and values, sorted by name; the values as they are written, escaped and without their quotes.
    pub(crate) labels: Vec<(&'a str, &'a str)>,
    pub(crate) value: &'a str,
}

/// Reads a sample; `None` for anything else, such as one with a time.
pub(crate) fn parse_sample(line: &str) -> Option<MetricSample<'_>> {
    if line.len() > LINE_BYTES_MAX || line.contains(char::is_control) {
        return None;
    }
    let name_length = line.find(|c: char| !is_name_character(c)).filter(|length| *length > 0)?;
    let (name, rest) = line.split_at_checked(name_length)?;
    let (labels, rest) = match rest.strip_prefix('{') {
        Some(inside) => parse_labels(inside)?,
        None => (Vec::new(), rest),
    };
    let value = rest.strip_prefix(' ')?;
    // What stands behind a value is an exemplar, whose trace is found at the process itself.
    let value = value.split_once(" # ").map_or(value, |(value, _)| value);
    is_number(value).then_some(MetricSample { name, labels, value })
}

const fn is_name_character(c: char) -> bool {
    c.is_ascii_lowercase() || c == '_'
}

/// Whether every reader takes it for a number: numbers too large, and longer names of the infinite, are refused by some.
fn is_number(value: &str) -> bool {
    matches!(value, "+Inf" | "-Inf" | "inf" | "-inf" | "NaN")
        || value.parse::<f64>().is_ok_and(f64::is_finite)
}

/// The labels up to the bracket behind them, sorted, and what is behind that; `None` where they have another form or a name repeats.
fn parse_labels(text: &str) -> Option<(Vec<(&str, &str)>, &str)> {
    let mut labels = Vec::new();
    let mut rest = text;
    if let Some(behind) = text.strip_prefix('}') {
        return Some((labels, behind));
    }
    loop {
        let (label, behind) = split_label(rest)?;
        labels.push(label);
        let Some(next) = behind.strip_prefix(',') else {
            rest = behind.strip_prefix('}')?;
            break;
        };
        rest = next;
    }
    labels.sort_unstable();
    let is_repeated = labels.windows(2).any(|pair| matches!(pair, [(one, _), (next, _)] if one == next));
    (!is_repeated).then_some((labels, rest))
}

/// The first label, and what is behind its value.
fn split_label(text: &str) -> Option<((&str, &str), &str)> {
    let (name, value) = text.split_once("=\"")?;
    if name.is_empty() || !name.chars().all(is_name_character) {
        return None;
    }
    let mut characters = value.char_indices();
    loop {
        match characters.next()? {
            (_, '\\') => _ = characters.next().filter(|(_, c)| matches!(c, '\\' | '"' | 'n'))?,
            (end, '"') => return Some(((name, value.get(..end)?), value.get(end + 1..)?)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sample_is_a_name_labels_and_a_number() {
        let sample =
            parse_sample(r#"a_total{kind="x\"},{y=\"",le="+Inf"} 1.5 # {trace_id="t"} 0.3"#).unwrap();
        assert_eq!((sample.name, sample.value), ("a_total", "1.5"));
        assert_eq!(sample.labels, [("kind", r#"x\"},{y=\""#), ("le", "+Inf")]);
        let hash = parse_sample(r#"a{z="1",kind="x # y"} +Inf"#).unwrap();
        assert_eq!((hash.labels, hash.value), (vec![("kind", "x # y"), ("z", "1")], "+Inf"));
        assert_eq!(parse_sample("a 1").unwrap().labels, []);
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
            r#"a{kind="x"le="y"} 1"#,
            r#"a{kind="x";le="y"} 1"#,
            r#"a{kind="x",} 1"#,
            r#"a{,kind="x"} 1"#,
            r#"a{kind="x",kind="y"} 1"#,
            r#"a{kind="\x"} 1"#,
            "a{kind=\"x\r\"} 1",
            "a 1e999",
            "a infinity",
            "a 1 1700000000",
            "A 1",
            " a 1",
            &format!("a{{kind=\"{}\"}} 1", "x".repeat(LINE_BYTES_MAX)),
        ] {
            assert_eq!(parse_sample(nonsense), None, "{nonsense:.60}");
        }
    }
}

//! Documents and lists as people read them.

use std::fmt::Write;

use indicatif::HumanBytes;
use schemas::ids::MediaId;
use serde_json::{Map, Value};

use super::output::sanitize_text;

/// Unix time in milliseconds as RFC 3339 in UTC, to the second.
pub fn format_time(unix_ms: u64) -> String {
    let seconds = i64::try_from(unix_ms / 1_000).ok();
    let time = seconds.and_then(|s| jiff::Timestamp::from_second(s).ok());
    time.map_or_else(|| "?".into(), |time| time.to_string())
}

/// Milliseconds as `5.3 s`, `2:05 min` or `1:02:05 h`.
pub fn format_duration(ms: u64) -> String {
    let seconds = ms / 1_000;
    match seconds {
        0..60 => format!("{seconds}.{} s", ms % 1_000 / 100),
        60..3_600 => format!("{}:{:02} min", seconds / 60, seconds % 60),
        _ => format!("{}:{:02}:{:02} h", seconds / 3_600, seconds / 60 % 60, seconds % 60),
    }
}

/// Bytes as `1.01 MiB`.
pub fn format_size(bytes: u64) -> String {
    HumanBytes(bytes).to_string()
}

/// The id of a medium; nothing where a job works on none.
pub fn format_medium_id(media_id: &str) -> String {
    if media_id == MediaId::NONE.to_string() { String::new() } else { sanitize_text(media_id) }
}

/// Columns of equal width; the last one is as long as it is.
pub fn format_table(head: &[&str], rows: &[Vec<String>]) -> String {
    let lines: Vec<Vec<String>> = std::iter::once(head.iter().map(|cell| (*cell).to_owned()).collect())
        .chain(rows.iter().map(|row| row.iter().map(|cell| sanitize_text(cell)).collect()))
        .collect();
    let width = |column: usize| {
        lines.iter().filter_map(|line| line.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
        text.push_str(cells.collect::<Vec<_>>().join("  ").trim_end());
        text.push('\n');
    }
    text.truncate(text.trim_end().len());
    text
}

/// A scalar for people; the unit at the end of its name says how.
pub fn format_scalar(name: &str, value: &Value) -> String {
    match (value, value.as_u64()) {
        (_, Some(ms)) if is_time(name) => format_time(ms),
        (_, Some(ms)) if name.ends_with("_ms") => format_duration(ms),
        (_, Some(bytes)) if name.ends_with("_bytes") || name.ends_with("_bytes_max") => format_size(bytes),
        (Value::String(text), _) => sanitize_text(text),
        (Value::Null, _) => String::new(),
        (other, _) => other.to_string(),
    }
}

fn is_time(name: &str) -> bool {
    ["at_ms", "until_ms"].contains(&name) || ["_at_ms", "_seen_ms"].iter().any(|end| name.ends_with(end))
}

/// A document as indented lines `name: value`; what is null or empty is left out.
pub fn format_document(value: &Value) -> String {
    let mut text = String::new();
    if let Value::Object(members) = value {
        write_members(&mut text, members, 0);
    }
    text.truncate(text.trim_end().len());
    text
}

fn write_members(text: &mut String, members: &Map<String, Value>, indent: usize) {
    for (name, value) in members {
        let said = match value {
            Value::Null => continue,
            Value::Object(inner) if inner.is_empty() => continue,
            Value::Array(items) if items.is_empty() => continue,
            Value::Object(inner) => {
                writeln!(text, "{:indent$}{}:", "", sanitize_text(name)).ok();
                write_members(text, inner, indent + 2);
                continue;
            }
            Value::Array(items) if items.iter().all(Value::is_object) => {
                writeln!(text, "{:indent$}{}:", "", sanitize_text(name)).ok();
                for line in format_objects(items).lines() {
                    writeln!(text, "{:indent$}  {line}", "").ok();
                }
                continue;
            }
            Value::Array(items) => {
                items.iter().map(|item| format_scalar(name, item)).collect::<Vec<_>>().join(", ")
            }
            other => format_scalar(name, other),
        };
        writeln!(text, "{:indent$}{}: {said}", "", sanitize_text(name)).ok();
    }
}

/// Objects of one kind as a table of the scalars that any of them has.
fn format_objects(items: &[Value]) -> String {
    let mut names: Vec<&str> = Vec::new();
    for (name, value) in items.iter().filter_map(Value::as_object).flatten() {
        let is_scalar = !(value.is_null() || value.is_object() || value.is_array());
        if is_scalar && !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    let row = |item: &Value| names.iter().map(|name| format_scalar(name, &item[*name])).collect();
    format_table(&names, &items.iter().map(row).collect::<Vec<Vec<String>>>())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn units_are_read_from_names() {
        for (name, value, wanted) in [
            ("created_at_ms", json!(1_700_000_000_123_u64), "2023-11-14T22:13:20Z"),
            ("until_ms", json!(1_700_000_000_123_u64), "2023-11-14T22:13:20Z"),
            ("duration_ms", json!(5_312), "5.3 s"),
            ("wall_ms", json!(125_000), "2:05 min"),
            ("cpu_ms", json!(3_725_000), "1:02:05 h"),
            ("size_bytes", json!(1_055_736), "1.01 MiB"),
            ("title", json!("a\u{7}b"), "a?b"),
            ("count", json!(3), "3"),
            ("code", json!(null), ""),
        ] {
            assert_eq!(format_scalar(name, &value), wanted, "{name}");
        }
    }

    #[test]
    fn a_table_has_columns() {
        let rows = vec![vec!["1".into(), "ready".into(), "a\nb".into()], vec!["12".into(), "é".into()]];
        assert_eq!(
            format_table(&["ID", "STATUS", "TITLE"], &rows),
            "ID  STATUS  TITLE\n1   ready   a?b\n12  é"
        );
        assert_eq!(format_table(&["ID"], &[]), "ID");
    }

    #[test]
    fn a_document_is_indented() {
        let value = json!({
            "id": "x", "code": null, "tags": ["a", "b"], "none": [], "progress": {"done_ms": 1_500},
            "parts": [{"part": "r1", "code": null, "deep": {}}, {"part": "r2", "code": "crashed"}],
        });
        let wanted = [
            "id: x",
            "parts:",
            "  part  code",
            "  r1",
            "  r2    crashed",
            "progress:",
            "  done_ms: 1.5 s",
            "tags: a, b",
        ];
        let mut lines: Vec<String> = format_document(&value).lines().map(str::to_owned).collect();
        // Whether members keep their order depends on a feature of serde_json.
        lines.sort();
        let mut wanted = wanted.map(str::to_owned).to_vec();
        wanted.sort();
        assert_eq!(lines, wanted);
        assert_eq!(format_document(&json!(3)), "");
    }
}

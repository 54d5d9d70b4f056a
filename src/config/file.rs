//! A settings file, from its text to the settings; what is wrong with it is said with line, key and what to write.

use serde_path_to_error::Segment;
use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    Settings, ranges,
    tree::{self, LegacySetting, SettingNode},
    units,
};

/// Reads a file over the defaults. Also says what is in the old form.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn parse_settings(text: &str) -> Result<(Settings, Vec<LegacySetting>), String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    // Before serde: it takes numbers alone, and would report a text with a unit as a wrong type.
    let (table, old) = tree::read_settings(table).map_err(|wrong| {
        with_line_number(text, &wrong.steps, &format!("{} {}", tree::format_path(&wrong.steps), wrong.reason))
    })?;
    let config = serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let steps: Vec<String> = error.path().iter().filter_map(segment_step).collect();
        let message = units::file_setting_text(error.inner().message(), "");
        with_line_number(
            text,
            &steps,
            &format!("{}: {message}", units::file_setting_path(&tree::format_path(&steps))),
        )
    })?;
    Ok((config, old))
}

fn segment_step(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn with_line_number(text: &str, steps: &[String], message: &str) -> String {
    find_line(text, steps).map_or_else(|| message.to_owned(), |line| format!("line {line}: {message}"))
}

/// The line of a key, or of the last step to it that the file has.
fn find_line(text: &str, steps: &[String]) -> Option<usize> {
    let root = DeValue::Table(DeTable::parse(text).ok()?.into_inner());
    let (mut value, mut place) = (&root, None);
    for step in steps {
        let next = match value {
            DeValue::Table(table) => {
                let is_it = |key: &str| key == step || key == units::file_setting_name(step);
                table.iter().find(|(key, _)| is_it(key.get_ref())).map(|(key, value)| (key.span(), value))
            }
            _ => step.parse::<usize>().ok().and_then(|at| value.get(at)).map(|value| (value.span(), value)),
        };
        let Some((span, inner)) = next else { break };
        (value, place) = (inner.get_ref(), Some(span.start));
    }
    Some(text.bytes().take(place?).filter(|byte| *byte == b'\n').count() + 1)
}

/// Refuses a number that is out of the range of its setting.
///
/// # Errors
/// The setting and the reason.
pub(super) fn check_ranges(config: &Settings) -> Result<(), (String, String)> {
    let table = Table::try_from(config).map_err(|error| ("the settings".to_owned(), error.to_string()))?;
    check_table(SettingNode::root(), &table, &mut Vec::new())
}

fn check_table(node: SettingNode, table: &Table, steps: &mut Vec<String>) -> Result<(), (String, String)> {
    for (field, value) in table {
        let Some(child) = node.child(field) else { continue };
        steps.push(tree::setting_name(child, field));
        check_value(child, field, value, steps)?;
        steps.pop();
    }
    Ok(())
}

fn check_value(
    node: SettingNode,
    field: &str,
    value: &Value,
    steps: &mut Vec<String>,
) -> Result<(), (String, String)> {
    match value {
        Value::Table(table) => check_table(node, table, steps),
        Value::Array(values) => {
            let count = u64::try_from(values.len()).unwrap_or(u64::MAX);
            if let Some(most) = node.items_max().filter(|most| count > *most) {
                let reason = format!("it has {count} items, and takes at most {most}");
                return Err((tree::format_path(steps), reason));
            }
            let Some(item) = node.items() else { return Ok(()) };
            for (at, value) in values.iter().enumerate() {
                steps.push(at.to_string());
                check_value(item, "", value, steps)?;
                steps.pop();
            }
            Ok(())
        }
        Value::Integer(number) => {
            check_number(node, field, *number).map_err(|reason| (tree::format_path(steps), reason))
        }
        _ => Ok(()),
    }
}

fn check_number(node: SettingNode, field: &str, number: i64) -> Result<(), String> {
    let choices = node.choices();
    let is_chosen = choices.is_empty() || choices.iter().any(|one| one.as_i64() == Some(number));
    let is_enough = node.minimum().is_none_or(|least| number >= least);
    let exceeded = node.maximum().filter(|most| number > *most);
    if is_chosen && is_enough && exceeded.is_none() {
        return Ok(());
    }
    let mut taken = describe_range(node, field);
    // What holds for every setting is not among what is said of each.
    if let Some(most) = exceeded.filter(|_| is_general_maximum(node, field)) {
        taken.push(format!("at most {}", show_number(node, field, most)));
    }
    let shown = tree::value_to_file_form(node, field, Value::Integer(number));
    Err(format!("it is {shown}, and takes {}", taken.join(", ")))
}

fn is_general_maximum(node: SettingNode, field: &str) -> bool {
    node.maximum().map(u64::try_from) == Some(Ok(ranges::general_maximum(field)))
}

fn show_number(node: SettingNode, field: &str, number: i64) -> String {
    match (node.unit(field), u64::try_from(number)) {
        (Some(unit), Ok(number)) => format!("{:?}", unit.format_number(number)),
        _ => number.to_string(),
    }
}

/// What a setting takes, for people, beside what holds for all of them; empty where everything of its type is taken.
pub(super) fn describe_range(node: SettingNode, field: &str) -> Vec<String> {
    let shown = |number: i64| show_number(node, field, number);
    let choices: Vec<String> = node.choices().into_iter().map(ToString::to_string).collect();
    let one_of = choices.split_last().map(|(last, rest)| format!("one of {} or {last}", rest.join(", ")));
    let least = node.minimum().map(|least| format!("at least {}", shown(least)));
    let most = node.maximum().filter(|_| !is_general_maximum(node, field));
    let most = most.map(|most| format!("at most {}", shown(most)));
    let items = node.items_max().map(|most| format!("at most {most} items"));
    [one_of, least, most, items].into_iter().flatten().collect()
}

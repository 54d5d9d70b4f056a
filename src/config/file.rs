//! A settings file, from its text to the settings; what is wrong with it is said with line, key and what to write.

use serde_path_to_error::Segment;
use toml::{
    Table, Value,
    de::{DeTable, DeValue},
};

use super::{
    Config,
    tree::{self, Node, OldForm},
    units,
};

/// Reads a file over the defaults. Also says what is in the old form.
///
/// # Errors
/// What is wrong, and where.
pub(super) fn parse(text: &str) -> Result<(Config, Vec<OldForm>), String> {
    let table: Table = text.parse().map_err(|error: toml::de::Error| error.to_string())?;
    let (table, old) = tree::read(table).map_err(|wrong| {
        at(text, &wrong.steps, &format!("{} {}", tree::key_of(&wrong.steps), wrong.reason))
    })?;
    let config = serde_path_to_error::deserialize(Value::Table(table)).map_err(|error| {
        let steps: Vec<String> = error.path().iter().filter_map(step).collect();
        let message = units::shown_text(error.inner().message(), "");
        at(text, &steps, &format!("{}: {message}", units::shown_path(&tree::key_of(&steps))))
    })?;
    Ok((config, old))
}

fn step(segment: &Segment) -> Option<String> {
    match segment {
        Segment::Seq { index } => Some(index.to_string()),
        Segment::Map { key } => Some(key.clone()),
        Segment::Enum { .. } | Segment::Unknown => None,
    }
}

fn at(text: &str, steps: &[String], message: &str) -> String {
    line_of(text, steps).map_or_else(|| message.to_owned(), |line| format!("line {line}: {message}"))
}

/// The line of a key, or of the last step to it that the file has.
fn line_of(text: &str, steps: &[String]) -> Option<usize> {
    let root = DeValue::Table(DeTable::parse(text).ok()?.into_inner());
    let (mut value, mut place) = (&root, None);
    for step in steps {
        let next = match value {
            DeValue::Table(table) => {
                let is_it = |key: &str| key == step || key == units::shown(step);
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
pub(super) fn check_ranges(config: &Config) -> Result<(), (String, String)> {
    let table = Table::try_from(config).map_err(|error| ("the settings".to_owned(), error.to_string()))?;
    check_table(Node::root(), &table, &mut Vec::new())
}

fn check_table(node: Node, table: &Table, steps: &mut Vec<String>) -> Result<(), (String, String)> {
    for (field, value) in table {
        let Some(child) = node.child(field) else { continue };
        steps.push(tree::name(child, field));
        check_value(child, field, value, steps)?;
        steps.pop();
    }
    Ok(())
}

fn check_value(
    node: Node,
    field: &str,
    value: &Value,
    steps: &mut Vec<String>,
) -> Result<(), (String, String)> {
    match value {
        Value::Table(table) => check_table(node, table, steps),
        Value::Array(values) => {
            let Some(item) = node.items() else { return Ok(()) };
            for (at, value) in values.iter().enumerate() {
                steps.push(at.to_string());
                check_value(item, "", value, steps)?;
                steps.pop();
            }
            Ok(())
        }
        Value::Integer(number) => {
            let choices = node.choices();
            let is_chosen = choices.is_empty() || choices.iter().any(|one| one.as_i64() == Some(*number));
            let number = u64::try_from(*number).unwrap_or_default();
            let is_within = node.least().is_none_or(|least| number >= least)
                && node.most().is_none_or(|most| number <= most);
            if is_chosen && is_within {
                return Ok(());
            }
            let shown = tree::shown_value(node, field, value.clone());
            let reason = format!("it is {shown}, and takes {}", range(node, field).join(", "));
            Err((tree::key_of(steps), reason))
        }
        _ => Ok(()),
    }
}

/// What a setting takes, for people; empty where everything of its type is taken.
pub(super) fn range(node: Node, field: &str) -> Vec<String> {
    let shown = |number: u64| match node.unit(field) {
        Some(unit) => format!("{:?}", unit.write(number)),
        None => number.to_string(),
    };
    let choices: Vec<String> = node.choices().into_iter().map(ToString::to_string).collect();
    let one_of = choices.split_last().map(|(last, rest)| format!("one of {} or {last}", rest.join(", ")));
    let least = node.least().map(|least| format!("at least {}", shown(least)));
    let most = node.most().map(|most| format!("at most {}", shown(most)));
    [one_of, least, most].into_iter().flatten().collect()
}

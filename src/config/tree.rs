//! The settings as a tree: what is known of each key, and files read and written by it before serde sees them.
//!
//! The tree is the JSON Schema of [`Settings`]: its keys, their meaning from the doc comments of the fields, their ranges. A file
//! is a tree of the same shape, with names and values as [`super::units`] says.

use std::{fmt, sync::LazyLock};

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::{
    Settings, ranges,
    units::{self, SettingUnit},
};

static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
    // Inline: a reference would hide the fields of a table from the walk.
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    let mut schema = settings.into_generator().into_root_schema_for::<Settings>().to_value();
    ranges::complete_ranges(&mut schema, "");
    schema
});

/// What is known of one key.
#[derive(Debug, Clone, Copy)]
pub struct SettingNode(&'static Json);

impl SettingNode {
    /// The settings as a whole.
    pub fn root() -> Self {
        Self(&SCHEMA)
    }

    /// The fields of a table, by their names in the code.
    pub fn fields(self) -> impl Iterator<Item = (&'static str, Self)> {
        let fields = self.0.get("properties").and_then(Json::as_object);
        fields.into_iter().flatten().map(|(name, node)| (name.as_str(), Self(node)))
    }

    /// What stands under every name in a table whose names are free.
    pub fn entries(self) -> Option<Self> {
        self.0.get("additionalProperties").filter(|node| node.is_object()).map(Self)
    }

    /// What is in a list.
    pub fn items(self) -> Option<Self> {
        self.0.get("items").map(Self)
    }

    /// What stands under the name `field` of the code.
    pub fn child(self, field: &str) -> Option<Self> {
        self.fields().find(|(name, _)| *name == field).map(|(_, node)| node).or_else(|| self.entries())
    }

    /// The unit of a number that has one.
    pub fn unit(self, field: &str) -> Option<SettingUnit> {
        SettingUnit::from_field(field).filter(|_| self.has_type("integer"))
    }

    /// True for a whole number.
    pub fn is_number(self) -> bool {
        self.has_type("integer")
    }

    /// True for a table.
    pub fn is_table(self) -> bool {
        self.has_type("object")
    }

    fn has_type(self, wanted: &str) -> bool {
        match self.0.get("type") {
            Some(Json::String(name)) => name == wanted,
            // What may be absent is `null`, too.
            Some(Json::Array(names)) => names.iter().any(|name| name == wanted),
            _ => false,
        }
    }

    /// The doc comment of the field.
    pub fn description(self) -> &'static str {
        self.0.get("description").and_then(Json::as_str).unwrap_or_default()
    }

    /// What holds where nothing is said, if the type says so.
    pub fn default(self) -> Option<&'static Json> {
        self.0.get("default").filter(|value| !value.is_null())
    }

    /// The least number that can be set; 0 is no limit of a number that has no sign.
    pub fn minimum(self) -> Option<i64> {
        self.0.get("minimum").and_then(Json::as_i64).filter(|least| *least != 0)
    }

    /// The largest number that can be set, unless it is just the largest of its type.
    pub fn maximum(self) -> Option<i64> {
        let of_type = [i64::from(u8::MAX), i64::from(u16::MAX)];
        // schemars writes the largest value of a small type as a maximum, which nobody set.
        self.0.get("maximum").and_then(Json::as_i64).filter(|most| !of_type.contains(most))
    }

    /// The most items of a list, where that is limited.
    pub fn items_max(self) -> Option<u64> {
        self.0.get("maxItems").and_then(Json::as_u64)
    }

    /// The values that can be set, where they are few.
    pub fn choices(self) -> Vec<&'static Json> {
        let listed = self.0.get("enum").and_then(Json::as_array).into_iter().flatten();
        let described = self.0.get("oneOf").and_then(Json::as_array).into_iter().flatten();
        listed.chain(described.filter_map(|choice| choice.get("const"))).filter(|c| !c.is_null()).collect()
    }
}

/// A setting in the form of old files: the unit in the name, a plain number as the value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LegacySetting {
    /// Which, such as `ingress.grace_ms`.
    pub key: String,
    /// The number.
    pub number: u64,
    /// What to write instead, such as `grace = "8s"`.
    pub instead: String,
}

impl fmt::Display for LegacySetting {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} is the old form; write {}", self.key, self.number, self.instead)
    }
}

/// A setting that can't be read.
#[derive(Debug, PartialEq, Eq)]
pub struct InvalidSetting {
    /// The steps to it as they stand in the file; a step into a list is a number.
    pub steps: Vec<String>,
    /// Why, and what to write; follows the key.
    pub reason: String,
}

/// The table of a file as serde expects it: names and numbers of the code. Also says what is in the old form.
///
/// # Errors
/// The first key that is unknown, said twice or has a value that is not of its unit.
pub fn read_settings(table: Table) -> Result<(Table, Vec<LegacySetting>), InvalidSetting> {
    let mut reader = SettingsReader::default();
    let table = reader.read_table(SettingNode::root(), table)?;
    Ok((table, reader.old))
}

/// The other way: settings as serde writes them in the form of files. Also takes a part of the settings.
pub fn to_file_form(table: Table) -> Table {
    table_to_file_form(SettingNode::root(), table)
}

#[derive(Default)]
struct SettingsReader {
    steps: Vec<String>,
    old: Vec<LegacySetting>,
}

impl SettingsReader {
    fn read_table(&mut self, node: SettingNode, table: Table) -> Result<Table, InvalidSetting> {
        let mut read = Table::new();
        for (key, value) in table {
            self.steps.push(key.clone());
            let (field, child) = self.find_field(node, &key)?;
            let value = match child.unit(&field) {
                Some(unit) => Value::Integer(self.read_number(unit, &key, &field, value)?),
                None => self.read_value(child, value)?,
            };
            if read.insert(field.clone(), value).is_some() {
                let name = units::file_setting_name(&field);
                return Err(
                    self.invalid_setting(format!("is said twice, as {name} and as {field}; keep {name}"))
                );
            }
            self.steps.pop();
        }
        Ok(read)
    }

    fn read_value(&mut self, node: SettingNode, value: Value) -> Result<Value, InvalidSetting> {
        Ok(match (value, node.items()) {
            (Value::Table(table), _) if node.is_table() => Value::Table(self.read_table(node, table)?),
            (Value::Array(values), Some(item)) => {
                let mut read = Vec::with_capacity(values.len());
                for (at, value) in values.into_iter().enumerate() {
                    self.steps.push(at.to_string());
                    read.push(self.read_value(item, value)?);
                    self.steps.pop();
                }
                Value::Array(read)
            }
            // Serde says what is wrong with another type.
            (value, _) => value,
        })
    }

    /// The field that a file calls `key`, in whichever form.
    fn find_field(&self, node: SettingNode, key: &str) -> Result<(String, SettingNode), InvalidSetting> {
        let is_it = |field: &str, node: SettingNode| {
            field == key || (node.unit(field).is_some() && units::file_setting_name(field) == key)
        };
        if let Some((field, child)) = node.fields().find(|(field, child)| is_it(field, *child)) {
            return Ok((field.to_owned(), child));
        }
        if let Some(child) = node.entries() {
            return Ok((key.to_owned(), child));
        }
        let names: Vec<_> = node.fields().map(|(field, child)| setting_name(child, field)).collect();
        Err(self.invalid_setting(format!("is no setting; here are: {}", names.join(", "))))
    }

    /// The number of a setting that has a unit.
    fn read_number(
        &mut self,
        unit: SettingUnit,
        key: &str,
        field: &str,
        value: Value,
    ) -> Result<i64, InvalidSetting> {
        let name = units::file_setting_name(field);
        let is_old = key == field;
        let bad =
            |value: &dyn fmt::Display| format!("= {value} can't be used; {name} takes {}", unit.examples());
        match value {
            Value::String(text) if is_old => {
                Err(self
                    .invalid_setting(format!("= {text:?} is half of the old form; write {name} = {text:?}")))
            }
            Value::String(text) => match unit.parse_number(&text).map(i64::try_from) {
                Some(Ok(number)) => Ok(number),
                _ => Err(self.invalid_setting(bad(&format!("{text:?}")))),
            },
            Value::Integer(number) => match u64::try_from(number) {
                Ok(count) if is_old => {
                    let instead = format!("{name} = {:?}", unit.format_number(count));
                    self.old.push(LegacySetting { key: format_path(&self.steps), number: count, instead });
                    Ok(number)
                }
                Ok(count) => {
                    let guess = unit.format_number(count);
                    Err(self.invalid_setting(format!(
                        "= {count} has no unit; write {name} = {guess:?} if that is what is meant"
                    )))
                }
                Err(_) => Err(self.invalid_setting(bad(&number))),
            },
            other => Err(self.invalid_setting(bad(&other))),
        }
    }

    fn invalid_setting(&self, reason: String) -> InvalidSetting {
        InvalidSetting { steps: self.steps.clone(), reason }
    }
}

/// A path for people: `chains[0].name`.
pub fn format_path(steps: &[String]) -> String {
    let mut key = String::new();
    for step in steps {
        if step.bytes().all(|byte| byte.is_ascii_digit()) {
            key = format!("{key}[{step}]");
        } else {
            key.push_str(if key.is_empty() { "" } else { "." });
            key.push_str(step);
        }
    }
    key
}

/// The name of a field in files.
pub fn setting_name(node: SettingNode, field: &str) -> String {
    if node.unit(field).is_some() { units::file_setting_name(field).into_owned() } else { field.to_owned() }
}

fn table_to_file_form(node: SettingNode, table: Table) -> Table {
    let shown = table.into_iter().map(|(field, value)| match node.child(&field) {
        Some(child) => (setting_name(child, &field), value_to_file_form(child, &field, value)),
        None => (field, value),
    });
    shown.collect()
}

/// A value of `field` in the form of files.
pub fn value_to_file_form(node: SettingNode, field: &str, value: Value) -> Value {
    match (value, node.unit(field), node.items()) {
        (Value::Integer(number), Some(unit), _) => u64::try_from(number)
            .map_or(Value::Integer(number), |number| Value::String(unit.format_number(number))),
        (Value::Table(table), _, _) => Value::Table(table_to_file_form(node, table)),
        (Value::Array(values), _, Some(item)) => {
            Value::Array(values.into_iter().map(|value| value_to_file_form(item, "", value)).collect())
        }
        (value, _, _) => value,
    }
}

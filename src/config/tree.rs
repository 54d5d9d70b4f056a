//! The settings as a tree: what is known of each key, and files read and written by it before serde sees them.
//!
//! The tree is the JSON Schema of [`Config`]: its keys, their meaning from the doc comments of the fields, their ranges. A file is
//! a tree of the same shape, with names and values as [`super::units`] says.

use std::{fmt, sync::LazyLock};

use schemars::generate::SchemaSettings;
use serde_json::Value as Json;
use toml::{Table, Value};

use super::{
    Config,
    units::{self, Unit},
};

static SCHEMA: LazyLock<Json> = LazyLock::new(|| {
    let settings = SchemaSettings::draft2020_12().with(|settings| settings.inline_subschemas = true);
    settings.into_generator().into_root_schema_for::<Config>().to_value()
});

/// What is known of one key.
#[derive(Debug, Clone, Copy)]
pub struct Node(&'static Json);

impl Node {
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
    pub fn unit(self, field: &str) -> Option<Unit> {
        Unit::of(field).filter(|_| self.is("integer"))
    }

    /// True for a table.
    pub fn is_table(self) -> bool {
        self.is("object")
    }

    fn is(self, wanted: &str) -> bool {
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
    pub fn least(self) -> Option<u64> {
        self.0.get("minimum").and_then(Json::as_u64).filter(|least| *least > 0)
    }

    /// The largest number that can be set, unless it is just the largest of its type.
    pub fn most(self) -> Option<u64> {
        let of_type = [u64::from(u8::MAX), u64::from(u16::MAX)];
        self.0.get("maximum").and_then(Json::as_u64).filter(|most| !of_type.contains(most))
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
pub struct OldForm {
    /// Which, such as `ingress.grace_ms`.
    pub key: String,
    /// The number.
    pub number: u64,
    /// What to write instead, such as `grace = "8s"`.
    pub instead: String,
}

impl fmt::Display for OldForm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} = {} is the old form; write {}", self.key, self.number, self.instead)
    }
}

/// A setting that can't be read.
#[derive(Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The steps to it as they stand in the file; a step into a list is a number.
    pub steps: Vec<String>,
    /// Why, and what to write; follows the key.
    pub reason: String,
}

/// The table of a file as serde expects it: names and numbers of the code. Also says what is in the old form.
///
/// # Errors
/// The first key that is unknown, said twice or has a value that is not of its unit.
pub fn read(table: Table) -> Result<(Table, Vec<OldForm>), Wrong> {
    let mut reader = Reader::default();
    let table = reader.table(Node::root(), table)?;
    Ok((table, reader.old))
}

/// The other way: settings as serde writes them in the form of files. Also takes a part of the settings.
pub fn shown(table: Table) -> Table {
    shown_table(Node::root(), table)
}

#[derive(Default)]
struct Reader {
    steps: Vec<String>,
    old: Vec<OldForm>,
}

impl Reader {
    fn table(&mut self, node: Node, table: Table) -> Result<Table, Wrong> {
        let mut read = Table::new();
        for (key, value) in table {
            self.steps.push(key.clone());
            let (field, child) = self.known(node, &key)?;
            let value = match child.unit(&field) {
                Some(unit) => Value::Integer(self.number(unit, &key, &field, value)?),
                None => self.value(child, value)?,
            };
            if read.insert(field.clone(), value).is_some() {
                let name = units::shown(&field);
                return Err(self.wrong(format!("is said twice, as {name} and as {field}; keep {name}")));
            }
            self.steps.pop();
        }
        Ok(read)
    }

    fn value(&mut self, node: Node, value: Value) -> Result<Value, Wrong> {
        Ok(match (value, node.items()) {
            (Value::Table(table), _) if node.is_table() => Value::Table(self.table(node, table)?),
            (Value::Array(values), Some(item)) => {
                let mut read = Vec::with_capacity(values.len());
                for (at, value) in values.into_iter().enumerate() {
                    self.steps.push(at.to_string());
                    read.push(self.value(item, value)?);
                    self.steps.pop();
                }
                Value::Array(read)
            }
            // Serde says what is wrong with another type.
            (value, _) => value,
        })
    }

    /// The field that a file calls `key`, in whichever form.
    fn known(&self, node: Node, key: &str) -> Result<(String, Node), Wrong> {
        let is_it = |field: &str, node: Node| {
            field == key || (node.unit(field).is_some() && units::shown(field) == key)
        };
        if let Some((field, child)) = node.fields().find(|(field, child)| is_it(field, *child)) {
            return Ok((field.to_owned(), child));
        }
        if let Some(child) = node.entries() {
            return Ok((key.to_owned(), child));
        }
        let names: Vec<_> = node.fields().map(|(field, child)| name(child, field)).collect();
        Err(self.wrong(format!("is no setting; here are: {}", names.join(", "))))
    }

    /// The number of a setting that has a unit.
    fn number(&mut self, unit: Unit, key: &str, field: &str, value: Value) -> Result<i64, Wrong> {
        let name = units::shown(field);
        let is_old = key == field;
        let bad =
            |value: &dyn fmt::Display| format!("= {value} can't be used; {name} takes {}", unit.examples());
        match value {
            Value::String(text) if is_old => {
                Err(self.wrong(format!("= {text:?} is half of the old form; write {name} = {text:?}")))
            }
            Value::String(text) => match unit.read(&text).map(i64::try_from) {
                Some(Ok(number)) => Ok(number),
                _ => Err(self.wrong(bad(&format!("{text:?}")))),
            },
            Value::Integer(number) => match u64::try_from(number) {
                Ok(count) if is_old => {
                    let instead = format!("{name} = {:?}", unit.write(count));
                    self.old.push(OldForm { key: key_of(&self.steps), number: count, instead });
                    Ok(number)
                }
                Ok(count) => {
                    let guess = unit.write(count);
                    Err(self.wrong(format!(
                        "= {count} has no unit; write {name} = {guess:?} if that is what is meant"
                    )))
                }
                Err(_) => Err(self.wrong(bad(&number))),
            },
            other => Err(self.wrong(bad(&other))),
        }
    }

    fn wrong(&self, reason: String) -> Wrong {
        Wrong { steps: self.steps.clone(), reason }
    }
}

/// A path for people: `chains[0].name`.
pub fn key_of(steps: &[String]) -> String {
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
pub fn name(node: Node, field: &str) -> String {
    if node.unit(field).is_some() { units::shown(field).into_owned() } else { field.to_owned() }
}

fn shown_table(node: Node, table: Table) -> Table {
    let shown = table.into_iter().map(|(field, value)| match node.child(&field) {
        Some(child) => (name(child, &field), shown_value(child, &field, value)),
        None => (field, value),
    });
    shown.collect()
}

/// A value of `field` in the form of files.
pub fn shown_value(node: Node, field: &str, value: Value) -> Value {
    match (value, node.unit(field), node.items()) {
        (Value::Integer(number), Some(unit), _) => {
            u64::try_from(number).map_or(Value::Integer(number), |number| Value::String(unit.write(number)))
        }
        (Value::Table(table), _, _) => Value::Table(shown_table(node, table)),
        (Value::Array(values), _, Some(item)) => {
            Value::Array(values.into_iter().map(|value| shown_value(item, "", value)).collect())
        }
        (value, _, _) => value,
    }
}

//! Whether all that a schema gives is taken by another one.
//!
//! A schema is a list of alternatives: the members of its unions, each type of a list of types, each value of an enumeration. What one
//! side gives is taken when each of its alternatives is held by one of the other side; `const`, `type` and the property that tells
//! members apart (such as `kind`) say which.

use serde_json::{Map, Value};

use super::{members, resolve};

/// Deepest nesting of schemas that is compared.
pub const DEPTH_MAX: usize = 24;

/// Keywords that say how large something may be at most.
const UPPER: [&str; 5] = ["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"];
/// Keywords that say how large something has to be at least.
const LOWER: [&str; 5] = ["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"];
/// Keywords that are compared by their meaning, and those that refuse nothing. Whatever else is said has to stay as it is.
const KNOWN: [&str; 12] = [
    "type",
    "const",
    "properties",
    "required",
    "items",
    "additionalProperties",
    "description",
    "title",
    "examples",
    "default",
    "deprecated",
    "$comment",
];

/// One alternative: no reference, no union, at most one type.
type Shape = Map<String, Value>;

/// Which way a schema is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    /// Sent by clients: what was taken has to be taken.
    Request,
    /// Read by clients: nothing may be given that was not given before.
    Response,
}

impl Way {
    /// Who gives and who takes, of the older and the newer side.
    fn turn<T>(self, before: T, after: T) -> (T, T) {
        match self {
            Self::Request => (before, after),
            Self::Response => (after, before),
        }
    }

    fn said(self, request: &'static str, response: &'static str) -> &'static str {
        if self == Self::Request { request } else { response }
    }
}

/// A comparison of two schemas, each of its own document.
pub(super) struct Shapes<'a> {
    old: &'a Value,
    new: &'a Value,
    way: Way,
    /// What is being compared further up: a schema that contains itself is entered once.
    entered: Vec<(Value, Value)>,
}

impl<'a> Shapes<'a> {
    pub(super) fn new(old: &'a Value, new: &'a Value, way: Way) -> Self {
        Self { old, new, way, entered: Vec::new() }
    }

    /// What of `after` breaks who relies on `before`.
    pub(super) fn compare(&mut self, place: &str, before: &Value, after: &Value) -> Vec<String> {
        if self.entered.iter().any(|(old, new)| old == before && new == after) {
            return Vec::new();
        }
        if self.entered.len() >= DEPTH_MAX {
            return vec![format!("{place} lies too deep to be compared")];
        }
        self.entered.push((before.clone(), after.clone()));
        let (from, to) = (alternatives(self.old, before, 0), alternatives(self.new, after, 0));
        let (given, taken) = self.way.turn(&from, &to);
        let mut found = Vec::new();
        for shape in given {
            let holders: Vec<&Shape> = taken.iter().filter(|other| may_hold(shape, other)).collect();
            let best = holders.into_iter().map(|other| self.difference(place, shape, other));
            found.extend(best.min_by_key(Vec::len).unwrap_or_else(|| {
                let said = self.way.said("is not taken any more", "is new to readers");
                vec![format!("{place}: {} {said}", label(shape))]
            }));
        }
        self.entered.pop();
        found
    }

    /// What of one alternative another one does not take.
    fn difference(&mut self, place: &str, given: &Shape, taken: &Shape) -> Vec<String> {
        let (given, taken) = (&Value::Object(given.clone()), &Value::Object(taken.clone()));
        let (before, after) = self.way.turn(given, taken);
        let mut found = self.bounds(place, given, taken);
        let (from, to) = (members(before, "properties"), members(after, "properties"));
        for (property, old) in from {
            match to.get(property) {
                None => found.push(format!("{place}: property {property} is gone")),
                Some(new) => found.extend(self.compare(&format!("{place}.{property}"), old, new)),
            }
        }
        let said = self.way.said("is needed now", "may be absent now");
        let always = required(given);
        let missing = required(taken).into_iter().filter(|property| !always.contains(property));
        found.extend(missing.map(|property| format!("{place}: property {property} {said}")));
        for (keyword, mark) in [("items", "[]"), ("additionalProperties", ".*")] {
            let (old, new) = (before.get(keyword), after.get(keyword));
            if old.is_none() && new.is_none() {
                continue;
            }
            if keyword == "additionalProperties" && [old, new].iter().any(|side| is_refusal(*side)) {
                // That answers say more breaks nobody.
                if self.way == Way::Request && is_refusal(new) && !is_refusal(old) {
                    found.push(format!("{place}: no other property is taken now"));
                }
            } else {
                let (old, new) = (old.unwrap_or(&Value::Null), new.unwrap_or(&Value::Null));
                found.extend(self.compare(&format!("{place}{mark}"), old, new));
            }
        }
        found
    }

    /// What a value has to be beyond its type and its parts.
    fn bounds(&self, place: &str, given: &Value, taken: &Value) -> Vec<String> {
        let stated = taken.as_object().into_iter().flatten();
        let demands = stated.filter(|(keyword, _)| !KNOWN.contains(&keyword.as_str()));
        let broken = demands.filter(|(keyword, limit)| {
            let Some(own) = given.get(keyword) else { return true };
            match keyword.as_str() {
                upper if UPPER.contains(&upper) => is_less(limit, own),
                lower if LOWER.contains(&lower) => is_less(own, limit),
                _ => own != *limit,
            }
        });
        let told = broken.map(|(keyword, limit)| {
            let own = given.get(keyword).map_or_else(|| "none".to_owned(), ToString::to_string);
            let (before, after) = self.way.turn(own, limit.to_string());
            format!("{place}: {keyword} was {before} and is {after}")
        });
        told.collect()
    }
}

/// All that a schema allows, one by one. Beyond [`DEPTH_MAX`] references and unions within one another it is taken as it stands.
fn alternatives(document: &Value, schema: &Value, depth: usize) -> Vec<Shape> {
    let Some(own) = schema.as_object() else { return vec![Shape::new()] };
    if depth > DEPTH_MAX {
        return vec![own.clone()];
    }
    let mut rest = own.clone();
    let mut unions: Vec<Vec<Value>> = Vec::new();
    if rest.remove("$ref").is_some() {
        unions.push(vec![resolve(document, schema).clone()]);
    }
    for keyword in ["oneOf", "anyOf"] {
        unions.extend(rest.remove(keyword).and_then(|members| members.as_array().cloned()));
    }
    let parts = rest.remove("allOf").and_then(|members| members.as_array().cloned());
    unions.extend(parts.into_iter().flatten().map(|part| vec![part]));
    let mut all = split(rest);
    for union in unions {
        let members: Vec<Shape> =
            union.iter().flat_map(|member| alternatives(document, member, depth + 1)).collect();
        all = all.iter().flat_map(|shape| members.iter().filter_map(|other| merged(shape, other))).collect();
    }
    all
}

/// One shape for each type and each value.
fn split(mut schema: Shape) -> Vec<Shape> {
    if let Some(Value::Array(values)) = schema.remove("enum") {
        return values.into_iter().map(|value| with(&schema, "const", value)).map(typed).collect();
    }
    match schema.remove("type") {
        Some(Value::Array(types)) => types.into_iter().map(|kind| with(&schema, "type", kind)).collect(),
        Some(kind) => vec![with(&schema, "type", kind)],
        None => vec![typed(schema)],
    }
}

fn with(schema: &Shape, keyword: &str, value: Value) -> Shape {
    // Of null nothing more can be said.
    let mut shape = if value == "null" && keyword == "type" { Shape::new() } else { schema.clone() };
    shape.insert(keyword.to_owned(), value);
    shape
}

/// A value has a type, whether it is named or not.
fn typed(mut shape: Shape) -> Shape {
    let kind = match shape.get("const") {
        Some(Value::String(_)) => "string",
        Some(Value::Bool(_)) => "boolean",
        Some(Value::Number(number)) if number.is_f64() => "number",
        Some(Value::Number(_)) => "integer",
        Some(Value::Null) => "null",
        Some(Value::Array(_)) => "array",
        Some(Value::Object(_)) => "object",
        None => return shape,
    };
    shape.insert("type".to_owned(), kind.into());
    shape
}

/// What is true of both; nothing when they exclude each other.
fn merged(one: &Shape, other: &Shape) -> Option<Shape> {
    let mut all = one.clone();
    for (keyword, value) in other {
        match (keyword.as_str(), all.get_mut(keyword)) {
            ("properties", Some(Value::Object(properties))) => {
                properties.extend(value.as_object().cloned().unwrap_or_default());
            }
            ("required", Some(Value::Array(names))) => {
                names.extend(value.as_array().cloned().unwrap_or_default());
            }
            ("type" | "const", Some(own)) if own != value => return None,
            _ => {
                all.insert(keyword.clone(), value.clone());
            }
        }
    }
    Some(all)
}

/// Whether one alternative can be meant by another one: nothing that tells them apart says otherwise.
fn may_hold(given: &Shape, taken: &Shape) -> bool {
    let is_kind = match (given.get("type"), taken.get("type")) {
        (_, None) => true,
        (Some(given), Some(taken)) => given == taken || (given == "integer" && taken == "number"),
        (None, Some(_)) => false,
    };
    let is_value = taken.get("const").is_none_or(|value| given.get("const") == Some(value));
    let theirs: Vec<_> = tags(taken).collect();
    is_kind
        && is_value
        && tags(given).all(|(name, value)| !theirs.iter().any(|(n, v)| *n == name && *v != value))
}

/// Properties that are always there with one value: they tell the members of a union apart.
fn tags(shape: &Shape) -> impl Iterator<Item = (&String, &Value)> {
    let needed = shape.get("required").and_then(Value::as_array);
    let properties = shape.get("properties").and_then(Value::as_object);
    let tags =
        properties.into_iter().flatten().filter_map(|(name, schema)| Some((name, schema.get("const")?)));
    tags.filter(move |(name, _)| needed.is_some_and(|names| names.iter().any(|needed| needed == *name)))
}

/// An alternative for people.
fn label(shape: &Shape) -> String {
    if let Some(value) = shape.get("const") {
        return value.to_string();
    }
    let kind = shape.get("type").and_then(Value::as_str).unwrap_or("anything");
    tags(shape).fold(kind.to_owned(), |text, (name, value)| format!("{text} with {name} {value}"))
}

fn required(schema: &Value) -> Vec<&str> {
    super::list(schema, "required").iter().filter_map(Value::as_str).collect()
}

fn is_refusal(schema: Option<&Value>) -> bool {
    schema == Some(&Value::Bool(false))
}

/// Whether a number is smaller; whole numbers exactly.
fn is_less(one: &Value, other: &Value) -> bool {
    if let (Some(one), Some(other)) = (one.as_u64(), other.as_u64()) {
        return one < other;
    }
    one.as_f64().zip(other.as_f64()).is_none_or(|(one, other)| one < other)
}

//! Whether all that a schema gives is taken by another one.
//!
//! A schema is a list of alternatives: the members of its unions, each type of a list of types, each value of an enumeration. What
//! one side gives is taken when each of its alternatives is held by one of the other side; `const`, `type` and the property that
//! distinguishes members (such as `kind`) say which.

use serde_json::{Map, Value};

use super::{object_members, resolve_reference};

/// Deepest nesting of schemas that is compared.
pub const DEPTH_MAX: usize = 24;

/// Keywords that say how large something may be at most.
const UPPER: [&str; 5] = ["maximum", "exclusiveMaximum", "maxLength", "maxItems", "maxProperties"];
/// Keywords that say how large something has to be at least.
const LOWER: [&str; 5] = ["minimum", "exclusiveMinimum", "minLength", "minItems", "minProperties"];
/// Keywords that are compared by their meaning, and those that refuse nothing. Whatever else is said has to stay as it is.
const KNOWN: [&str; 15] = [
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
    "discriminator",
    "contentMediaType",
    "contentSchema",
];

/// One alternative: no reference, no union, at most one type.
type SchemaShape = Map<String, Value>;

/// Which way a schema is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SchemaDirection {
    /// Sent by clients: what was taken has to be taken.
    Request,
    /// Read by clients: nothing may be given that was not given before.
    Response,
}

impl SchemaDirection {
    /// Who gives and who takes, of the older and the newer side.
    fn giver_and_taker<T>(self, before: T, after: T) -> (T, T) {
        match self {
            Self::Request => (before, after),
            Self::Response => (after, before),
        }
    }

    fn pick_text(self, request: &'static str, response: &'static str) -> &'static str {
        if self == Self::Request { request } else { response }
    }
}

/// What the description of an enumeration says that later versions may add to.
const OPEN_ENUMERATION: &str = "others may come";

/// A comparison of two schemas, each of its own document.
pub(super) struct SchemaComparison<'a> {
    old: &'a Value,
    new: &'a Value,
    way: SchemaDirection,
    /// What is being compared further up: a schema that contains itself is entered once.
    entered: Vec<(Value, Value)>,
}

impl<'a> SchemaComparison<'a> {
    pub(super) fn new(old: &'a Value, new: &'a Value, way: SchemaDirection) -> Self {
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
        let (from, to) = (list_alternatives(self.old, before, 0), list_alternatives(self.new, after, 0));
        let (given, taken) = self.way.giver_and_taker(&from, &to);
        let mut found = Vec::new();
        for shape in given {
            let holders: Vec<&SchemaShape> = taken.iter().filter(|other| may_match(shape, other)).collect();
            let best = holders.into_iter().map(|other| self.find_difference(place, shape, other));
            found.extend(best.min_by_key(Vec::len).unwrap_or_else(|| {
                let said = self.way.pick_text("is not taken any more", "is new to readers");
                vec![format!("{place}: {} {said}", describe_shape(shape))]
            }));
        }
        self.entered.pop();
        found
    }

    /// What of one alternative another one does not take.
    fn find_difference(&mut self, place: &str, given: &SchemaShape, taken: &SchemaShape) -> Vec<String> {
        let (given, taken) = (&Value::Object(given.clone()), &Value::Object(taken.clone()));
        let (before, after) = self.way.giver_and_taker(given, taken);
        let mut found = self.compare_bounds(place, given, taken);
        let (from, to) = (object_members(before, "properties"), object_members(after, "properties"));
        for (property, old) in from {
            match to.get(property) {
                None => found.push(format!("{place}: property {property} is gone")),
                Some(new) => found.extend(self.compare(&format!("{place}.{property}"), old, new)),
            }
        }
        let said = self.way.pick_text("is needed now", "may be absent now");
        let always = required_properties(given);
        let missing = required_properties(taken).into_iter().filter(|property| !always.contains(property));
        found.extend(missing.map(|property| format!("{place}: property {property} {said}")));
        for (keyword, mark) in [("items", "[]"), ("contentSchema", ""), ("additionalProperties", ".*")] {
            let (old, new) = (before.get(keyword), after.get(keyword));
            if old.is_none() && new.is_none() {
                continue;
            }
            if keyword == "additionalProperties" && [old, new].iter().any(|side| is_false_schema(*side)) {
                // That answers say more breaks nobody.
                if self.way == SchemaDirection::Request && is_false_schema(new) && !is_false_schema(old) {
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
    fn compare_bounds(&self, place: &str, given: &Value, taken: &Value) -> Vec<String> {
        let stated = taken.as_object().into_iter().flatten();
        let demands = stated.filter(|(keyword, _)| !KNOWN.contains(&keyword.as_str()));
        let broken = demands.filter(|(keyword, limit)| {
            let Some(own) = given.get(keyword) else { return true };
            match keyword.as_str() {
                upper if UPPER.contains(&upper) => is_less_than(limit, own),
                lower if LOWER.contains(&lower) => is_less_than(own, limit),
                _ => own != *limit,
            }
        });
        let reports = broken.map(|(keyword, limit)| {
            let own = given.get(keyword).map_or_else(|| "none".to_owned(), ToString::to_string);
            let (before, after) = self.way.giver_and_taker(own, limit.to_string());
            format!("{place}: {keyword} was {before} and is {after}")
        });
        reports.collect()
    }
}

/// All that a schema allows, one by one. Beyond [`DEPTH_MAX`] references and unions within one another it is taken as it stands.
fn list_alternatives(document: &Value, schema: &Value, depth: usize) -> Vec<SchemaShape> {
    let Some(own) = schema.as_object() else { return vec![SchemaShape::new()] };
    if depth > DEPTH_MAX {
        return vec![own.clone()];
    }
    let mut rest = own.clone();
    let mut unions: Vec<Vec<Value>> = Vec::new();
    if rest.remove("$ref").is_some() {
        unions.push(vec![resolve_reference(document, schema).clone()]);
    }
    for keyword in ["oneOf", "anyOf"] {
        unions.extend(rest.remove(keyword).and_then(|members| members.as_array().cloned()));
    }
    let parts = rest.remove("allOf").and_then(|members| members.as_array().cloned());
    unions.extend(parts.into_iter().flatten().map(|part| vec![part]));
    let mut all = split_alternatives(rest);
    for union in unions {
        let members: Vec<SchemaShape> =
            union.iter().flat_map(|member| list_alternatives(document, member, depth + 1)).collect();
        all = all
            .iter()
            .flat_map(|shape| members.iter().filter_map(|other| merge_shapes(shape, other)))
            .collect();
    }
    if is_open_enumeration(own) {
        all.push(with_keyword(&SchemaShape::new(), "type", "string".into()));
    }
    all
}

/// True for an enumeration whose description says that it grows: readers have to take other values.
fn is_open_enumeration(schema: &SchemaShape) -> bool {
    schema.get("description").and_then(Value::as_str).is_some_and(|text| text.contains(OPEN_ENUMERATION))
}

/// One shape for each type and each value.
fn split_alternatives(mut schema: SchemaShape) -> Vec<SchemaShape> {
    if let Some(Value::Array(values)) = schema.remove("enum") {
        return values
            .into_iter()
            .map(|value| with_keyword(&schema, "const", value))
            .map(with_type)
            .collect();
    }
    match schema.remove("type") {
        Some(Value::Array(types)) => {
            types.into_iter().map(|kind| with_keyword(&schema, "type", kind)).collect()
        }
        Some(kind) => vec![with_keyword(&schema, "type", kind)],
        None => vec![with_type(schema)],
    }
}

fn with_keyword(schema: &SchemaShape, keyword: &str, value: Value) -> SchemaShape {
    // Of null nothing more can be said.
    let mut shape = if value == "null" && keyword == "type" { SchemaShape::new() } else { schema.clone() };
    shape.insert(keyword.to_owned(), value);
    shape
}

/// A value has a type, whether it is named or not.
fn with_type(mut shape: SchemaShape) -> SchemaShape {
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
fn merge_shapes(one: &SchemaShape, other: &SchemaShape) -> Option<SchemaShape> {
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

/// Whether one alternative can be meant by another one: nothing that distinguishes them says otherwise.
fn may_match(given: &SchemaShape, taken: &SchemaShape) -> bool {
    let is_kind = match (given.get("type"), taken.get("type")) {
        (_, None) => true,
        (Some(given), Some(taken)) => given == taken || (given == "integer" && taken == "number"),
        (None, Some(_)) => false,
    };
    let is_value = taken.get("const").is_none_or(|value| given.get("const") == Some(value));
    let theirs: Vec<_> = find_discriminators(taken).collect();
    is_kind
        && is_value
        && find_discriminators(given)
            .all(|(name, value)| !theirs.iter().any(|(n, v)| *n == name && *v != value))
}

/// Properties that are always there with one value: they distinguish the members of a union.
fn find_discriminators(shape: &SchemaShape) -> impl Iterator<Item = (&String, &Value)> {
    let needed = shape.get("required").and_then(Value::as_array);
    let properties = shape.get("properties").and_then(Value::as_object);
    let tags =
        properties.into_iter().flatten().filter_map(|(name, schema)| Some((name, only_value(schema)?)));
    tags.filter(move |(name, _)| needed.is_some_and(|names| names.iter().any(|needed| needed == *name)))
}

/// The value that a schema allows, if it is but one.
fn only_value(schema: &Value) -> Option<&Value> {
    schema.get("const").or_else(|| schema["enum"].as_array().filter(|values| values.len() == 1)?.first())
}

/// An alternative for people.
fn describe_shape(shape: &SchemaShape) -> String {
    if let Some(value) = shape.get("const") {
        return value.to_string();
    }
    let kind = shape.get("type").and_then(Value::as_str).unwrap_or("anything");
    find_discriminators(shape)
        .fold(kind.to_owned(), |text, (name, value)| format!("{text} with {name} {value}"))
}

fn required_properties(schema: &Value) -> Vec<&str> {
    super::array_items(schema, "required").iter().filter_map(Value::as_str).collect()
}

fn is_false_schema(schema: Option<&Value>) -> bool {
    schema == Some(&Value::Bool(false))
}

/// Whether a number is smaller; whole numbers exactly.
fn is_less_than(one: &Value, other: &Value) -> bool {
    if let (Some(one), Some(other)) = (one.as_u64(), other.as_u64()) {
        return one < other;
    }
    one.as_f64().zip(other.as_f64()).is_none_or(|(one, other)| one < other)
}

//! What of a new description would break a client of an older one.
//!
//! A client relies on paths, methods, statuses, media types and properties that it reads, and on the request it sends being enough. So
//! none of them may go, and a request may need nothing more. References are followed; a schema that contains itself is entered once.
//!
//! Limits: schemas are compared to a depth of [`DEPTH_MAX`].

use std::sync::LazyLock;

use serde_json::{Map, Value};

/// Deepest nesting of schemas that is compared.
pub const DEPTH_MAX: usize = 24;

/// Which way a schema is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Sent by clients: may need nothing more.
    Request,
    /// Read by clients: may lack nothing.
    Response,
}

/// Every change from `old` to `new` that breaks a client; empty when there is none.
pub fn breaking(old: &Value, new: &Value) -> Vec<String> {
    let mut found = Vec::new();
    let (from, to) = (members(old, "paths"), members(new, "paths"));
    for (path, old_item) in from {
        let Some(new_item) = to.get(path) else {
            found.push(format!("{path} is gone"));
            continue;
        };
        for method in super::METHODS {
            let (Some(before), after) = (old_item.get(method), new_item.get(method)) else { continue };
            let place = format!("{} {path}", method.to_uppercase());
            match after {
                None => found.push(format!("{place} is gone")),
                Some(after) => Comparison { old, new, found: &mut found }.operation(&place, before, after),
            }
        }
    }
    found
}

fn members<'a>(value: &'a Value, name: &str) -> &'a Map<String, Value> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    value.get(name).and_then(Value::as_object).unwrap_or(&NONE)
}

fn resolve<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let reference = value.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
    reference.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

struct Comparison<'a> {
    old: &'a Value,
    new: &'a Value,
    found: &'a mut Vec<String>,
}

impl Comparison<'_> {
    fn operation(&mut self, place: &str, before: &Value, after: &Value) {
        self.parameters(place, before, after);
        self.request_body(place, before.get("requestBody"), after.get("requestBody"));
        if before.get("security").is_none() && after.get("security").is_some() {
            self.found.push(format!("{place} needs a right now"));
        }
        let (from, to) = (members(before, "responses"), members(after, "responses"));
        for (status, response) in from {
            let Some(other) = to.get(status) else {
                self.found.push(format!("{place}: status {status} is gone"));
                continue;
            };
            let (response, other) = (resolve(self.old, response), resolve(self.new, other));
            self.content(&format!("{place} {status}"), response, other, Way::Response);
        }
    }

    fn parameters(&mut self, place: &str, before: &Value, after: &Value) {
        let list = |operation: &Value| {
            operation.get("parameters").and_then(Value::as_array).cloned().unwrap_or_default()
        };
        let (from, to) = (list(before), list(after));
        let same = |a: &Value, b: &Value| a.get("name") == b.get("name") && a.get("in") == b.get("in");
        for parameter in &from {
            if !to.iter().any(|other| same(parameter, other)) {
                self.found.push(format!("{place}: parameter {} is gone", name(parameter)));
            }
        }
        for parameter in to.iter().filter(|parameter| needed(parameter)) {
            if !from.iter().any(|other| same(parameter, other) && needed(other)) {
                self.found.push(format!("{place}: parameter {} is needed now", name(parameter)));
            }
        }
    }

    fn request_body(&mut self, place: &str, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (None, Some(after)) if needed(after) => self.found.push(format!("{place}: a body is needed now")),
            (Some(_), None) => self.found.push(format!("{place}: the body is gone")),
            (Some(before), Some(after)) => {
                if needed(after) && !needed(before) {
                    self.found.push(format!("{place}: the body is needed now"));
                }
                self.content(&format!("{place} body"), before, after, Way::Request);
            }
            _ => {}
        }
    }

    fn content(&mut self, place: &str, before: &Value, after: &Value, way: Way) {
        let to = members(after, "content");
        for (media_type, old) in members(before, "content") {
            let Some(new) = to.get(media_type) else {
                self.found.push(format!("{place}: media type {media_type} is gone"));
                continue;
            };
            if let (Some(old), Some(new)) = (old.get("schema"), new.get("schema")) {
                self.schema(place, old, new, way, 0);
            }
        }
    }

    fn schema(&mut self, place: &str, before: &Value, after: &Value, way: Way, depth: usize) {
        // A schema that is named on both sides by the same name and reached again changes nothing more.
        if depth > DEPTH_MAX {
            return;
        }
        let (before, after) = (resolve(self.old, before), resolve(self.new, after));
        if before == after && self.old.get("components") == self.new.get("components") {
            return;
        }
        self.types(place, before, after, way);
        let (from, to) = (members(before, "properties"), members(after, "properties"));
        for (property, old) in from {
            match to.get(property) {
                None => self.found.push(format!("{place}: property {property} is gone")),
                Some(new) => self.schema(&format!("{place}.{property}"), old, new, way, depth + 1),
            }
        }
        let (was, is) = (required(before), required(after));
        let changed: Vec<&str> = match way {
            Way::Request => is.iter().filter(|name| !was.contains(*name)).copied().collect(),
            Way::Response => was.iter().filter(|name| !is.contains(*name)).copied().collect(),
        };
        let said = if way == Way::Request { "is needed now" } else { "may be absent now" };
        self.found.extend(changed.iter().map(|property| format!("{place}: property {property} {said}")));
        if let (Some(old), Some(new)) = (before.get("items"), after.get("items")) {
            self.schema(&format!("{place}[]"), old, new, way, depth + 1);
        }
    }

    /// A request may take more types and values, an answer may give fewer, never the other way round.
    fn types(&mut self, place: &str, before: &Value, after: &Value, way: Way) {
        for keyword in ["type", "enum"] {
            let (Some(was), Some(is)) = (before.get(keyword), after.get(keyword)) else { continue };
            let (narrow, wide) = if way == Way::Request { (was, is) } else { (is, was) };
            for value in values(narrow).filter(|value| !values(wide).any(|other| other == *value)) {
                self.found.push(format!(
                    "{place}: {keyword} {value} {}",
                    match way {
                        Way::Request => "is not taken any more",
                        Way::Response => "is new to readers",
                    }
                ));
            }
        }
    }
}

fn values(value: &Value) -> impl Iterator<Item = &Value> {
    match value {
        Value::Array(items) => items.iter(),
        other => std::slice::from_ref(other).iter(),
    }
}

fn required(schema: &Value) -> Vec<&str> {
    let list = schema.get("required").and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default();
    list.iter().filter_map(Value::as_str).collect()
}

fn needed(value: &Value) -> bool {
    value.get("required").and_then(Value::as_bool).unwrap_or(false)
}

fn name(parameter: &Value) -> &str {
    parameter.get("name").and_then(Value::as_str).unwrap_or_default()
}

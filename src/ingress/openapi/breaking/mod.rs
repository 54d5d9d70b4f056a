//! What of a new description would break a client of an older one.
//!
//! A client relies on paths, methods, statuses, media types, headers and properties that it reads, on its way to sign in, and on
//! the request it sends being enough. So none of them may go, and a request may need nothing more: what is asked may become wider,
//! what is answered narrower.
//!
//! Limits: schemas are compared to a depth of [`DEPTH_MAX`]; what lies deeper is reported as a change.

mod schema;

use std::sync::LazyLock;

use serde_json::{Map, Value};

pub use schema::DEPTH_MAX;
use schema::{SchemaComparison, SchemaDirection};

/// Every change from `old` to `new` that breaks a client; empty when there is none.
pub fn find_breaking_changes(old: &Value, new: &Value) -> Vec<String> {
    let mut comparison = ApiComparison { old, new, found: Vec::new() };
    let (from, to) = (object_members(old, "paths"), object_members(new, "paths"));
    for (path, old_item) in from {
        let Some(new_item) = to.get(path) else {
            comparison.found.push(format!("{path} is gone"));
            continue;
        };
        for method in super::METHODS {
            let (Some(before), after) = (old_item.get(method), new_item.get(method)) else { continue };
            let place = format!("{} {path}", method.to_uppercase());
            match after {
                None => comparison.found.push(format!("{place} is gone")),
                Some(after) => comparison.compare_operation(&place, before, after),
            }
        }
    }
    comparison.found
}

fn object_members<'a>(value: &'a Value, name: &str) -> &'a Map<String, Value> {
    static NONE: LazyLock<Map<String, Value>> = LazyLock::new(Map::new);
    value.get(name).and_then(Value::as_object).unwrap_or(&NONE)
}

fn array_items<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value.get(name).and_then(Value::as_array).map(Vec::as_slice).unwrap_or_default()
}

fn resolve_reference<'a>(document: &'a Value, value: &'a Value) -> &'a Value {
    let reference = value.get("$ref").and_then(Value::as_str).and_then(|text| text.strip_prefix('#'));
    reference.and_then(|pointer| document.pointer(pointer)).unwrap_or(value)
}

struct ApiComparison<'a> {
    old: &'a Value,
    new: &'a Value,
    found: Vec<String>,
}

impl ApiComparison<'_> {
    fn compare_operation(&mut self, place: &str, before: &Value, after: &Value) {
        self.compare_security(place, before, after);
        self.compare_parameters(place, before, after);
        self.compare_request_body(place, before.get("requestBody"), after.get("requestBody"));
        let (from, to) = (object_members(before, "responses"), object_members(after, "responses"));
        for (status, response) in from {
            let Some(other) = to.get(status) else {
                self.found.push(format!("{place}: status {status} is gone"));
                continue;
            };
            let (response, other) =
                (resolve_reference(self.old, response), resolve_reference(self.new, other));
            let place = format!("{place} {status}");
            self.compare_headers(&place, response, other);
            self.compare_content(&place, response, other, SchemaDirection::Response);
        }
    }

    /// Every way to sign in is still one, or needs even less.
    fn compare_security(&mut self, place: &str, before: &Value, after: &Value) {
        let (from, to) = (security_alternatives(self.old, before), security_alternatives(self.new, after));
        for way in from {
            if to.iter().any(|other| other.iter().all(|(scheme, scopes)| way.get(scheme) == Some(scopes))) {
                continue;
            }
            self.found.push(if way.is_empty() {
                format!("{place} needs a right now")
            } else {
                let schemes: Vec<&str> = way.keys().map(String::as_str).collect();
                format!("{place}: {} is no right any more", schemes.join(" with "))
            });
        }
    }

    fn compare_parameters(&mut self, place: &str, before: &Value, after: &Value) {
        let all = |document, operation| -> Vec<&Value> {
            array_items(operation, "parameters")
                .iter()
                .map(|parameter| resolve_reference(document, parameter))
                .collect()
        };
        let (from, to) = (all(self.old, before), all(self.new, after));
        let find = |all: &[&Value], wanted: &Value| -> Option<Value> {
            let same = |a: &Value, b: &Value| a.get("name") == b.get("name") && a.get("in") == b.get("in");
            all.iter().find(|other| same(wanted, other)).map(|found| (*found).clone())
        };
        for parameter in &from {
            let Some(other) = find(&to, parameter) else {
                self.found.push(format!("{place}: parameter {} is gone", parameter_name(parameter)));
                continue;
            };
            let place = format!("{place} parameter {}", parameter_name(parameter));
            self.compare_schema(
                &place,
                parameter.get("schema"),
                other.get("schema"),
                SchemaDirection::Request,
            );
        }
        for parameter in to.iter().filter(|parameter| is_required(parameter)) {
            if !find(&from, parameter).is_some_and(|other| is_required(&other)) {
                self.found.push(format!("{place}: parameter {} is needed now", parameter_name(parameter)));
            }
        }
    }

    fn compare_request_body(&mut self, place: &str, before: Option<&Value>, after: Option<&Value>) {
        match (before, after) {
            (None, Some(after)) if is_required(after) => {
                self.found.push(format!("{place}: a body is needed now"));
            }
            (Some(_), None) => self.found.push(format!("{place}: the body is gone")),
            (Some(before), Some(after)) => {
                if is_required(after) && !is_required(before) {
                    self.found.push(format!("{place}: the body is needed now"));
                }
                self.compare_content(&format!("{place} body"), before, after, SchemaDirection::Request);
            }
            _ => {}
        }
    }

    fn compare_headers(&mut self, place: &str, before: &Value, after: &Value) {
        let to = object_members(after, "headers");
        for (name, header) in object_members(before, "headers") {
            let Some(other) = to.get(name) else {
                self.found.push(format!("{place}: header {name} is gone"));
                continue;
            };
            let (header, other) = (resolve_reference(self.old, header), resolve_reference(self.new, other));
            if is_required(header) && !is_required(other) {
                self.found.push(format!("{place}: header {name} may be absent now"));
            }
            let place = format!("{place} header {name}");
            self.compare_schema(&place, header.get("schema"), other.get("schema"), SchemaDirection::Response);
        }
    }

    fn compare_content(&mut self, place: &str, before: &Value, after: &Value, way: SchemaDirection) {
        let to = object_members(after, "content");
        for (media_type, old) in object_members(before, "content") {
            match to.get(media_type) {
                None => self.found.push(format!("{place}: media type {media_type} is gone")),
                Some(new) => self.compare_schema(place, old.get("schema"), new.get("schema"), way),
            }
        }
    }

    /// Without a schema it may be anything.
    fn compare_schema(
        &mut self,
        place: &str,
        before: Option<&Value>,
        after: Option<&Value>,
        way: SchemaDirection,
    ) {
        let (before, after) = (before.unwrap_or(&Value::Null), after.unwrap_or(&Value::Null));
        self.found.extend(SchemaComparison::new(self.old, self.new, way).compare(place, before, after));
    }
}

/// The ways to sign in, each by its schemes; one that needs none is anonymous.
fn security_alternatives(document: &Value, operation: &Value) -> Vec<Map<String, Value>> {
    let stated = operation.get("security").or_else(|| document.get("security")).and_then(Value::as_array);
    let ways: Vec<_> = stated.into_iter().flatten().filter_map(Value::as_object).cloned().collect();
    if ways.is_empty() { vec![Map::new()] } else { ways }
}

fn is_required(value: &Value) -> bool {
    value.get("required").and_then(Value::as_bool).unwrap_or(false)
}

fn parameter_name(parameter: &Value) -> &str {
    parameter.get("name").and_then(Value::as_str).unwrap_or_default()
}

#[cfg(test)]
mod tests;

//! JSON Schemas of bodies and queries: those of the types that write and read them.

use schemars::{JsonSchema, SchemaGenerator, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use utoipa::openapi::path::Parameter;

use web::problem_code::ProblemCode;

/// How a schema is referred to.
pub(super) const REFERENCE: &str = "#/components/schemas/";

/// Collects the schemas of bodies: of answers as they are written, of requests as they are read.
#[derive(Debug)]
pub(crate) struct SchemaCollector {
    written: SchemaGenerator,
    read: SchemaGenerator,
}

impl SchemaCollector {
    pub(super) fn new() -> Self {
        Self {
            written: schema_settings().for_serialize().into_generator(),
            read: schema_settings().into_generator(),
        }
    }

    /// Adds what answers say.
    pub(crate) fn add_response<T: JsonSchema>(&mut self) {
        self.written.subschema_for::<T>();
    }

    /// Adds what requests say.
    pub(crate) fn add_request<T: JsonSchema>(&mut self) {
        self.read.subschema_for::<T>();
    }

    /// All of them by name; what is both written and read, as it is read.
    pub(super) fn into_definitions(mut self) -> Map<String, Value> {
        let mut all = self.written.take_definitions(true);
        all.extend(self.read.take_definitions(true));
        all
    }
}

fn schema_settings() -> SchemaSettings {
    SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = REFERENCE.trim_start_matches('#').trim_end_matches('/').to_owned().into();
        settings.meta_schema = None;
    })
}

/// One of our ids, for members that are read by a function.
pub(crate) fn id_schema(_: &mut SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "pattern": schemas::ids::PATTERN })
}

/// The parameters of a query string: the members of the type that reads it.
pub(crate) fn schema_parameters<T: JsonSchema>() -> Vec<Parameter> {
    let mut schema = T::json_schema(&mut schema_settings().into_generator()).to_value();
    let required = schema["required"].take();
    let members = schema["properties"].as_object_mut().map(std::mem::take).unwrap_or_default();
    let parameters = members.into_iter().map(|(name, mut schema)| {
        let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let needed = required.as_array().is_some_and(|names| names.contains(&json!(name)));
        json!({ "name": name, "in": "query", "required": needed, "description": description, "schema": without_null(schema) })
    });
    // A parameter that utoipa does not understand is missed by the tests.
    parameters.filter_map(|parameter| serde_json::from_value(parameter).ok()).collect()
}

/// A query has no null: what may be absent just is.
fn without_null(mut schema: Value) -> Value {
    let other = |values: &Value, null: &Value| {
        let mut others = values.as_array()?.iter().filter(|value| *value != null);
        others.next().filter(|_| others.next().is_none()).cloned()
    };
    if let Some(kind) = other(&schema["type"], &json!("null")) {
        schema["type"] = kind;
    }
    let chosen = other(&schema["anyOf"], &json!({ "type": "null" }));
    match (chosen, schema.as_object_mut()) {
        (Some(chosen), _) => chosen,
        (None, Some(members)) => {
            members.retain(|_, value| !value.is_null());
            schema
        }
        (None, None) => schema,
    }
}

/// Says how large the numbers are that fit into their types, wherever nothing smaller is said; and no null by which the types only
/// mean that something may be absent.
pub(super) fn bound_numbers(value: &mut Value) {
    match value {
        Value::Object(members) => {
            let largest = match members.get("format").and_then(Value::as_str) {
                Some("uint8") => Some(u64::from(u8::MAX)),
                Some("uint16") => Some(u64::from(u16::MAX)),
                Some("uint32") => Some(u64::from(u32::MAX)),
                Some("uint64" | "uint") => Some(u64::MAX),
                _ => None,
            };
            if let Some(largest) = largest {
                members.entry("maximum").or_insert(largest.into());
            }
            if members.get("default").is_some_and(Value::is_null) {
                members.remove("default");
            }
            members.values_mut().for_each(bound_numbers);
        }
        Value::Array(items) => items.iter_mut().for_each(bound_numbers),
        _ => {}
    }
}

/// The schema of problems (RFC 9457).
pub(super) fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "An error (RFC 9457).",
        "required": ["type", "title", "status", "code", "instance", "request_id"],
        "properties": {
            "type": { "type": "string", "format": "uri-reference", "description": "Kind of the problem: where the page explains it." },
            "title": { "type": "string", "description": "The kind for people." },
            "status": { "type": "integer", "minimum": 400, "maximum": 599, "description": "The status of the answer." },
            "code": { "type": "string", "pattern": "^[a-z0-9_]+$", "description": "Stable code for programs: one of `x-problems`." },
            "detail": { "type": "string", "description": "A sentence about this occurrence." },
            "instance": { "type": "string", "format": "uri", "description": "This occurrence: the request id as a URN. It can't be fetched." },
            "request_id": { "type": "string", "pattern": schemas::ids::PATTERN, "description": "Names the request in the log." },
            "trace_id": { "type": "string", "pattern": "^[0-9a-f]{32}$", "description": "Names the trace of the request, in the log and where traces are kept. That of the request that was answered first, where an answer is repeated. Absent where that was before there were traces, and where a request can't be read." },
            "errors": {
                "type": "array",
                "description": "Where the request is wrong.",
                "items": {
                    "type": "object",
                    "required": ["detail"],
                    "properties": {
                        "pointer": { "type": "string", "description": "JSON Pointer (RFC 6901) into the body." },
                        "parameter": { "type": "string", "description": "Name of a parameter of the query." },
                        "detail": { "type": "string", "description": "Why." },
                        "line": { "type": "integer", "minimum": 0, "description": "Of a body that is no JSON, from 1." },
                        "column": { "type": "integer", "minimum": 0, "description": "Of a body that is no JSON, in bytes from 1." },
                    },
                },
            },
        },
        "additionalProperties": true,
        "examples": [{
            "type": ProblemCode::NotFound.type_uri(),
            "title": ProblemCode::NotFound.title(),
            "status": 404,
            "code": ProblemCode::NotFound.code(),
            "detail": "there is no such medium, or it is not yours",
            "instance": "urn:uuid:019ab001-0204-7a01-8073-616d706c652d",
            "request_id": "06db00820ht0303jc5mn0r355k",
        }],
    })
}

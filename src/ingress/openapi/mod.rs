//! The description of the HTTP API: OpenAPI 3.1 from the handlers, at `/openapi.json` for machines and at `/docs` for people.
//!
//! Paths come from utoipa, schemas of records and pages from the types in `schemas` (JSON Schema 2020-12, which OpenAPI 3.1 is). What
//! is true of every answer (problems, rate limits, the request id) is added to all of them here. `schemas/openapi.json` is the
//! published form; it is compared by `streamgate schemas check`, and a change that breaks clients is refused (see [`breaking`]).
//!
//! Limits: the document is made once per process; nothing of a request goes into it.

pub mod breaking;
mod page;
mod paths;

use std::sync::LazyLock;

use axum::{
    Router,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use bytes::Bytes;
use schemars::{JsonSchema, generate::SchemaSettings};
use serde_json::{Map, Value, json};
use utoipa::OpenApi;

use super::{conditional, error::Problem, limit, probes, uploads};

/// How a schema is referred to.
const REFERENCE: &str = "#/components/schemas/";
/// Methods of a path that describe an operation.
const METHODS: [&str; 8] = ["get", "put", "post", "delete", "options", "head", "patch", "trace"];

#[derive(OpenApi)]
#[openapi(
    info(
        title = "StreamGate",
        version = "1.0.0",
        description = "A self-hosted media gateway: uploads in, gated adaptive streams out. Every error is \
                       `application/problem+json` with a stable `code`. Lists are paged by cursor. Requests are limited \
                       per client address and per principal; `RateLimit` says how much is left.",
        license(name = "Apache-2.0", identifier = "Apache-2.0"),
    ),
    paths(
        paths::list_media,
        paths::read_media,
        paths::change_media,
        paths::open_playback,
        paths::play,
        paths::list_jobs,
        paths::read_job,
        paths::follow_events,
        paths::read_audit,
        describe,
        read_page,
    ),
    components(schemas(paths::MediaChange, paths::Playback, paths::Event)),
    tags(
        (name = "upload", description = "Bring media in: tus 1.0, or a whole file in one request."),
        (name = "metadata", description = "What is there."),
        (name = "streaming", description = "Play it."),
        (name = "worker", description = "What is being done with it."),
        (name = "events", description = "Everything that happens, live."),
        (name = "audit", description = "Everything that happened, chained and replayable."),
        (name = "api", description = "The service itself."),
    ),
)]
struct Described;

/// The document.
pub fn document() -> Value {
    let mut described = Described::openapi();
    described.merge(uploads::Described::openapi());
    described.merge(probes::Described::openapi());
    let mut document = serde_json::to_value(&described).unwrap_or_default();
    let mut components = record_schemas();
    components.insert("Problem".into(), problem_schema());
    if let Some(schemas) = document.pointer_mut("/components/schemas").and_then(Value::as_object_mut) {
        schemas.extend(components);
    }
    if let Some(components) = document.pointer_mut("/components").and_then(Value::as_object_mut) {
        components.insert("securitySchemes".into(), security());
        components.insert("responses".into(), common_responses());
        components.insert("headers".into(), common_headers());
    }
    complete_operations(&mut document);
    document
}

/// The records and pages that answers hold, as their types say.
fn record_schemas() -> Map<String, Value> {
    let mut found = schemas_of::<schemas::ask::MediaPage>(&[("Status", "MediaStatus")]);
    found.extend(schemas_of::<schemas::ask::JobPage>(&[("Status", "JobStatus")]));
    found.extend(schemas_of::<schemas::audit::Record>(&[
        ("Record", "AuditRecord"),
        ("Source", "AuditSource"),
    ]));
    found
}

/// The schema of `T` and of all it holds, with names that are clear beside those of other types.
fn schemas_of<T: JsonSchema>(names: &[(&str, &str)]) -> Map<String, Value> {
    let settings = SchemaSettings::draft2020_12().with(|settings| {
        settings.definitions_path = REFERENCE.trim_start_matches('#').trim_end_matches('/').into();
        settings.meta_schema = None;
    });
    let mut generator = settings.into_generator();
    generator.subschema_for::<T>();
    let called = |name: &str| {
        names
            .iter()
            .find(|(from, _)| *from == name)
            .map_or_else(|| name.to_owned(), |(_, to)| (*to).to_owned())
    };
    let found = generator.take_definitions(true).into_iter();
    found.map(|(name, schema)| (called(&name), renamed(schema, &called))).collect()
}

/// `schema` with references to the new names.
fn renamed(schema: Value, named: &impl Fn(&str) -> String) -> Value {
    match schema {
        Value::Object(object) => {
            let members = object.into_iter().map(|(key, value)| {
                let name =
                    value.as_str().and_then(|text| text.strip_prefix(REFERENCE)).filter(|_| key == "$ref");
                let value = match name {
                    Some(name) => json!(format!("{REFERENCE}{}", named(name))),
                    None => renamed(value, named),
                };
                (key, value)
            });
            Value::Object(members.collect())
        }
        Value::Array(items) => Value::Array(items.into_iter().map(|item| renamed(item, named)).collect()),
        other => other,
    }
}

fn problem_schema() -> Value {
    json!({
        "type": "object",
        "description": "An error (RFC 9457).",
        "required": ["type", "title", "status", "code", "request_id"],
        "properties": {
            "type": { "type": "string", "format": "uri", "description": "Kind of the problem." },
            "title": { "type": "string", "description": "The kind for people." },
            "status": { "type": "integer", "description": "The status of the answer." },
            "code": { "type": "string", "description": "Stable code for programs." },
            "detail": { "type": "string", "description": "A sentence about this occurrence." },
            "request_id": { "type": "string", "description": "Names the request in the log." },
            "errors": {
                "type": "array",
                "description": "Where the request is wrong.",
                "items": {
                    "type": "object",
                    "properties": {
                        "pointer": { "type": "string", "description": "JSON Pointer (RFC 6901) into the body." },
                        "detail": { "type": "string" },
                    },
                },
            },
        },
        "additionalProperties": true,
    })
}

fn security() -> Value {
    json!({
        "api_key": {
            "type": "http",
            "scheme": "bearer",
            "bearerFormat": "sg_<id>_<secret>",
            "description": "An API key; `streamgate up` prints the first one.",
        },
    })
}

/// Answers that any operation may give, with what they mean.
const COMMON: [(&str, &str, &str); 6] = [
    ("400", "Malformed", "The request makes no sense; `errors` or `detail` say where."),
    ("401", "Unauthorized", "Sign in first."),
    ("404", "NotFound", "Not there, or not yours: both answer the same."),
    ("429", "TooMany", "Too many requests; it passes after `Retry-After` seconds."),
    ("500", "Internal", "A fault of the service; the log has it under the request id."),
    ("503", "Unavailable", "A part of the service does not answer; nothing that was acknowledged is lost."),
];

fn common_responses() -> Value {
    let responses = COMMON.iter().map(|(status, name, about)| {
        let mut headers = json!({ "X-Request-Id": { "$ref": "#/components/headers/X-Request-Id" } });
        if matches!(*status, "429" | "503") {
            headers["Retry-After"] = json!({ "$ref": "#/components/headers/Retry-After" });
        }
        if *status == "401" {
            headers["WWW-Authenticate"] = json!({ "schema": { "type": "string" } });
        }
        let response = json!({
            "description": about,
            "headers": headers,
            "content": { "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } },
        });
        ((*name).to_owned(), response)
    });
    Value::Object(responses.collect())
}

fn common_headers() -> Value {
    json!({
        "X-Request-Id": { "description": "Names the request in the log.", "schema": { "type": "string" } },
        "Retry-After": { "description": "Seconds after which to repeat.", "schema": { "type": "integer", "minimum": 1 } },
        "RateLimit": {
            "description": "What is left of each policy: `r` units, `t` seconds until there are more.",
            "schema": { "type": "string" },
            "example": "\"metadata-client\";r=499;t=1",
        },
        "RateLimit-Policy": {
            "description": "What each policy allows: `q` units at once, full again within `w` seconds.",
            "schema": { "type": "string" },
            "example": "\"metadata-client\";q=500;w=10",
        },
    })
}

/// Adds what is true of every answer to each operation.
fn complete_operations(document: &mut Value) {
    let Some(paths) = document.get_mut("paths").and_then(Value::as_object_mut) else { return };
    for (path, item) in paths {
        let Some(item) = item.as_object_mut() else { continue };
        for (method, operation) in item.iter_mut().filter(|(method, _)| METHODS.contains(&method.as_str())) {
            complete(method, path, operation);
        }
    }
}

fn complete(method: &str, path: &str, operation: &mut Value) {
    let guarded = operation.get("security").is_some();
    let method = Method::from_bytes(method.to_uppercase().as_bytes()).unwrap_or_default();
    let counted = limit::Group::of(&method, path, &HeaderMap::new()).is_some();
    let Some(responses) = operation.get_mut("responses").and_then(Value::as_object_mut) else { return };
    for (status, response) in responses.iter_mut() {
        if let Some(headers) = response.as_object_mut() {
            let headers = headers.entry("headers").or_insert_with(|| json!({}));
            headers["X-Request-Id"] = json!({ "$ref": "#/components/headers/X-Request-Id" });
            if counted && status.starts_with('2') {
                headers["RateLimit"] = json!({ "$ref": "#/components/headers/RateLimit" });
                headers["RateLimit-Policy"] = json!({ "$ref": "#/components/headers/RateLimit-Policy" });
            }
        }
        // A refusal is a problem, whatever else its annotation says.
        if status.starts_with(['4', '5']) && response.get("content").is_none() {
            response["content"] = json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } });
        }
    }
    for (status, name, _) in COMMON {
        let applies = match status {
            "400" | "401" => guarded,
            "404" => path.contains('{'),
            "429" => counted,
            _ => true,
        };
        if applies && !responses.contains_key(status) {
            responses.insert(status.into(), json!({ "$ref": format!("#/components/responses/{name}") }));
        }
    }
}

/// Serves the document and its page. Both are open: they hold nothing but what is published.
pub fn router<S: Clone + Send + Sync + 'static>() -> Router<S> {
    Router::new()
        .route("/openapi.json", get(describe))
        .route("/docs", get(read_page))
        .route("/docs/docs.css", get(style))
}

struct Static {
    content_type: &'static str,
    body: Bytes,
    tag: conditional::Tag,
}

impl Static {
    fn new(content_type: &'static str, body: String) -> Self {
        let tag = conditional::Tag::of_bytes(body.as_bytes());
        Self { content_type, body: body.into(), tag }
    }

    fn answer(&self, request: &HeaderMap) -> Result<Response, Problem> {
        let mut response = if conditional::is_known(request, self.tag)? {
            StatusCode::NOT_MODIFIED.into_response()
        } else {
            ([(header::CONTENT_TYPE, self.content_type)], self.body.clone()).into_response()
        };
        let headers = response.headers_mut();
        headers.insert(header::ETAG, self.tag.to_header());
        for (name, value) in [
            (header::CACHE_CONTROL, "no-cache"),
            (header::CONTENT_SECURITY_POLICY, page::POLICY),
            (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
            (header::REFERRER_POLICY, "no-referrer"),
            (HeaderName::from_static("cross-origin-opener-policy"), "same-origin"),
        ] {
            headers.insert(name, HeaderValue::from_static(value));
        }
        Ok(response)
    }
}

static DOCUMENT: LazyLock<Static> = LazyLock::new(|| Static::new("application/json", document().to_string()));
static PAGE: LazyLock<Static> =
    LazyLock::new(|| Static::new("text/html; charset=utf-8", page::render(&document())));
static STYLE: LazyLock<Static> =
    LazyLock::new(|| Static::new("text/css; charset=utf-8", include_str!("docs.css").to_owned()));

/// This description, for machines
#[utoipa::path(
    get,
    path = "/openapi.json",
    tag = "api",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")),
)]
async fn describe(headers: HeaderMap) -> Result<Response, Problem> {
    DOCUMENT.answer(&headers)
}

/// This description, for people
#[utoipa::path(
    get,
    path = "/docs",
    tag = "api",
    responses((status = 200, description = "A page", content_type = "text/html")),
)]
async fn read_page(headers: HeaderMap) -> Result<Response, Problem> {
    PAGE.answer(&headers)
}

async fn style(headers: HeaderMap) -> Result<Response, Problem> {
    STYLE.answer(&headers)
}

#[cfg(test)]
mod tests;

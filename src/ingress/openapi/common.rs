//! What is true of more than one operation, said once: parameters, headers, refusals, ways to sign in.
//!
//! An annotation only names a parameter or a header that stands here; refusals follow from what an operation takes.

use axum::http::Method;
use serde_json::{Map, Value, json};

use super::parameters;
use web::operation::{Operation, OperationAccess, QueryPolicy};

/// Refusals that many operations share: status, name, meaning.
const REFUSALS: [(&str, &str, &str); 17] = [
    ("400", "Malformed", "The request makes no sense; `errors` or `detail` say where."),
    ("401", "Unauthorized", "Sign in first."),
    ("403", "Forbidden", "Known, but not allowed: `code` says why."),
    ("404", "NotFound", "Not there, or not yours: both answer the same."),
    ("408", "TooSlow", "Too few bytes of the body came in time."),
    ("409", "Conflict", "Another request is in the way, or the state does not allow it: `code` says which."),
    ("412", "Changed", "Somebody else changed it first: read it again and repeat."),
    ("413", "TooLarge", "The body is larger than its limit."),
    ("414", "TargetTooLong", "Path and query are longer than their limit."),
    ("415", "MediaType", "This media type is not taken here."),
    ("422", "Unusable", "Well formed, and yet it can't be used: `code` says why."),
    ("428", "PreconditionRequired", "Say in `If-Match` which version you change."),
    ("429", "TooMany", "Too many requests; it passes after `Retry-After` seconds."),
    ("431", "HeadersTooLarge", "The headers are larger than their limit."),
    ("500", "Internal", "A fault of the service; the log has it under the request id."),
    ("503", "Unavailable", "A part of the service does not answer; nothing that was acknowledged is lost."),
    (
        "507",
        "NoRoom",
        "There is no room for what is new: `limit` says where, `free_bytes` what is left of it.",
    ),
];

/// Components that operations refer to.
pub(super) fn build_components(schemas: &Map<String, Value>) -> Value {
    let responses = REFUSALS.iter().map(|(status, name, about)| {
        let mut headers = vec!["X-Request-Id"];
        match *status {
            "401" => headers.push("WWW-Authenticate"),
            "429" => headers.extend(["Retry-After", "RateLimit", "RateLimit-Policy"]),
            "503" | "507" => headers.push("Retry-After"),
            _ => {}
        }
        let headers: Map<String, Value> =
            headers.into_iter().map(|name| (name.to_owned(), header_reference(name))).collect();
        let response = json!({ "description": about, "headers": headers, "content": problem_content() });
        ((*name).to_owned(), response)
    });
    json!({
        "schemas": schemas,
        "responses": responses.collect::<Map<_, _>>(),
        "headers": parameters::response_headers(),
        "securitySchemes": {
            "api_key": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "sg_<id>_<secret>",
                "description": "An API key, for machines; `streamgate up` prints the first one.",
            },
            "access_token": {
                "type": "http",
                "scheme": "bearer",
                "bearerFormat": "JWT",
                "description": "The access token of a signed-in wallet, from `POST /v1/auth/login`; good for minutes.",
            },
        },
    })
}

fn header_reference(name: &str) -> Value {
    json!({ "$ref": format!("#/components/headers/{name}") })
}

fn problem_content() -> Value {
    json!({ "application/problem+json": { "schema": { "$ref": "#/components/schemas/Problem" } } })
}

/// Adds to each described operation what it declares, and what its annotation leaves to this place.
pub(super) fn complete_operations(
    paths: &mut Value,
    operations: &[&'static Operation],
    schemas: &Map<String, Value>,
) {
    for declared in operations {
        let path = declared.path.replace("{*", "{");
        let method = declared.method.as_str().to_lowercase();
        // Files of pages are served, and are none of the API.
        if let Some(described) = paths.get_mut(path).and_then(|item| item.get_mut(method)) {
            complete_operation(declared, described, schemas);
        }
    }
}

/// Whatever takes an API key takes an access token.
fn security_of(access: OperationAccess) -> Value {
    match access {
        OperationAccess::Open | OperationAccess::Body | OperationAccess::Path => json!([]),
        OperationAccess::Optional(_) => json!([{}, { "api_key": [] }, { "access_token": [] }]),
        OperationAccess::Principal(_) | OperationAccess::UnlimitedPrincipal | OperationAccess::Own => {
            json!([{ "api_key": [] }, { "access_token": [] }])
        }
    }
}

fn complete_operation(declared: &Operation, operation: &mut Value, schemas: &Map<String, Value>) {
    // Sign-in looks where a browser's request comes from; the rest looks at what a key is limited to.
    let is_sign_in = operation["tags"][0] == "auth";
    for parameter in operation["parameters"].as_array_mut().into_iter().flatten() {
        parameters::complete_parameter(parameter);
    }
    if let Some(body) = operation.get_mut("requestBody") {
        complete_body(is_sign_in, body, schemas);
    }
    let is_counted = declared.rate_group.is_some();
    let refusals = list_refusals(declared, operation, is_sign_in);
    let Some(members) = operation.as_object_mut() else { return };
    // What is absent comes as null from the look at it above.
    members.retain(|_, value| !value.is_null());
    members.insert("security".into(), security_of(declared.access));
    if !declared.events.is_empty() {
        members.insert("x-events".into(), declared.events.into());
    }
    let Some(responses) = members.get_mut("responses").and_then(Value::as_object_mut) else { return };
    for (status, response) in responses.iter_mut() {
        complete_response(status, response, is_counted);
    }
    for status in refusals {
        let name = REFUSALS.iter().find(|(known, ..)| *known == status).map(|(_, name, _)| *name);
        if let Some(name) = name.filter(|_| !responses.contains_key(status)) {
            responses.insert(status.into(), json!({ "$ref": format!("#/components/responses/{name}") }));
        }
    }
}

/// What is neither JSON nor a form is bytes; at sign-in a body may be left out that needs no member.
fn complete_body(is_sign_in: bool, body: &mut Value, schemas: &Map<String, Value>) {
    let mut needed = body["required"] == true;
    for (kind, content) in body["content"].as_object_mut().into_iter().flatten() {
        if kind == "application/json" {
            let name = content["schema"]["$ref"].as_str().and_then(|reference| reference.rsplit('/').next());
            let needs = name.and_then(|name| schemas.get(name)?.get("required")).is_some();
            needed = needs || !is_sign_in;
        } else if kind == "multipart/form-data" {
            needed = true;
        } else {
            content["schema"] = json!({ "type": "string", "format": "binary" });
        }
    }
    body["required"] = json!(needed);
}

/// The refusals that follow from what an operation declares and takes.
fn list_refusals(declared: &Operation, operation: &Value, is_sign_in: bool) -> Vec<&'static str> {
    let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
    let takes = |name: &str| parameters.iter().any(|parameter| parameter["name"] == name);
    // A reader's tags and ranges that make no sense count for nothing.
    let can_be_wrong = parameters.iter().any(|p| p["name"] != "If-None-Match" && p["name"] != "Range");
    let is_read = matches!(declared.method, Method::GET | Method::HEAD | Method::OPTIONS);
    let is_guarded = declared.access.reads_credential();
    let is_json = operation.pointer("/requestBody/content/application~1json").is_some();
    let rules: [(bool, &[&'static str]); 12] = [
        (true, &["414", "431", "500", "503"]),
        // Where a credential is asked for, those that were refused count.
        (declared.rate_group.is_some() || is_guarded, &["429"]),
        (can_be_wrong || is_json || declared.query == QueryPolicy::Described, &["400"]),
        (is_guarded, &["401"]),
        (!is_sign_in && is_guarded, &["403"]),
        (is_sign_in && !is_read, &["403"]),
        (is_sign_in && !declared.events.is_empty(), &["409"]),
        (declared.path.contains('{'), &["404"]),
        (is_json, &["408", "413", "415"]),
        (takes("Idempotency-Key"), &["409", "422"]),
        (takes("If-Match"), &["409", "412", "428"]),
        (!declared.room.limits.is_empty(), &["507"]),
    ];
    rules.iter().filter(|(applies, _)| *applies).flat_map(|(_, statuses)| statuses.iter().copied()).collect()
}

/// A refusal is a problem; what every answer carries is added, and headers that are known here are referred to.
fn complete_response(status: &str, response: &mut Value, is_counted: bool) {
    if status.starts_with(['4', '5']) && response["content"].is_null() {
        response["content"] = problem_content();
    }
    let Some(response) = response.as_object_mut() else { return };
    response.retain(|_, value| !value.is_null());
    let headers = response.entry("headers").or_insert_with(|| json!({}));
    let mut more = vec!["X-Request-Id"];
    match status {
        "401" => more.push("WWW-Authenticate"),
        "429" | "503" => more.push("Retry-After"),
        _ => {}
    }
    if is_counted && !status.starts_with('3') {
        more.extend(["RateLimit", "RateLimit-Policy"]);
    }
    for name in more {
        headers[name] = header_reference(name);
    }
    for (name, about) in headers.as_object_mut().into_iter().flatten() {
        if parameters::response_headers().contains_key(name) {
            *about = header_reference(name);
        }
    }
}

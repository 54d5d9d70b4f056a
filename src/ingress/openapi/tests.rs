//! The description says what is served, stays readable, and breaks nobody.

use std::{collections::BTreeSet, path::Path};

use axum::{body::Body, http::Request};
use tower::ServiceExt;

use super::{breaking::breaking, *};

fn published() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemas/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn the_description_breaks_no_client_of_the_published_one() {
    assert_eq!(breaking(&published(), &document()), Vec::<String>::new());
}

#[test]
fn every_breaking_change_is_found() {
    let old = json!({
        "paths": { "/a": { "post": {
            "parameters": [{ "name": "q", "in": "query" }, { "name": "p", "in": "query" }],
            "requestBody": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Ask" } } } },
            "responses": { "200": { "content": { "application/json": { "schema": { "$ref": "#/components/schemas/Answer" } } } },
                           "404": { "$ref": "#/components/responses/None" } },
        }, "get": { "responses": {} } }, "/b": { "get": { "responses": {} } } },
        "components": {
            "responses": { "None": { "content": { "application/problem+json": {} } } },
            "schemas": {
                "Ask": { "type": "object", "required": ["a"], "properties": {
                    "a": { "type": ["string", "null"] }, "b": { "enum": ["x", "y"] } } },
                "Answer": { "type": "object", "required": ["id"], "properties": {
                    "id": { "type": "string" }, "list": { "type": "array", "items": { "$ref": "#/components/schemas/Answer" } } } },
            },
        },
    });
    assert_eq!(breaking(&old, &old), Vec::<String>::new());
    let ask = "/components/schemas/Ask";
    let answer = "/components/schemas/Answer";
    for (pointer, value, wanted) in [
        ("/paths", json!({ "/a": old["paths"]["/a"] }), "/b is gone"),
        ("/paths/~1b", json!({}), "GET /b is gone"),
        ("/paths/~1b/get", json!({ "responses": {}, "security": [] }), "GET /b needs a right now"),
        ("/paths/~1a/post/parameters/0", json!({ "name": "z", "in": "query" }), "parameter q is gone"),
        ("/paths/~1a/post/parameters/1/required", json!(true), "parameter p is needed now"),
        ("/paths/~1a/post/requestBody/required", json!(true), "the body is needed now"),
        ("/paths/~1a/post/requestBody/content", json!({}), "media type application/json is gone"),
        (
            "/paths/~1a/post/responses",
            json!({ "200": old["paths"]["/a"]["post"]["responses"]["200"] }),
            "status 404 is gone",
        ),
        ("/components/responses/None/content", json!({}), "media type application/problem+json is gone"),
        (&format!("{ask}/required"), json!(["a", "b"]), "property b is needed now"),
        (&format!("{ask}/properties/a/type"), json!("string"), "type null is not taken any more"),
        (&format!("{ask}/properties/b/enum"), json!(["x"]), "enum \"y\" is not taken any more"),
        (&format!("{answer}/required"), json!([]), "property id may be absent now"),
        (&format!("{answer}/properties/id/type"), json!("integer"), "type \"integer\" is new to readers"),
        (
            &format!("{answer}/properties"),
            json!({ "list": old["components"]["schemas"]["Answer"]["properties"]["list"] }),
            "property id is gone",
        ),
    ] {
        let mut new = old.clone();
        if let Some(place) = new.pointer_mut(pointer) {
            *place = value;
        } else {
            let (parent, name) = pointer.rsplit_once('/').unwrap();
            new.pointer_mut(parent).unwrap()[name] = value;
        }
        let found = breaking(&old, &new);
        let wanted = wanted.replace("type null", "type \"null\"");
        assert!(found.iter().any(|change| change.contains(&wanted)), "{pointer}: {found:?}");
    }
}

#[test]
fn what_only_adds_breaks_nobody() {
    let old = document();
    let mut new = old.clone();
    new["paths"]["/v2/new"] = json!({ "get": { "responses": {} } });
    new["paths"]["/v1/media"]["get"]["responses"]["418"] = json!({ "description": "a teapot" });
    new["components"]["schemas"]["MediaPage"]["properties"]["added"] = json!({ "type": "string" });
    let parameters = new["paths"]["/v1/media"]["get"]["parameters"].as_array_mut().unwrap();
    parameters.push(json!({ "name": "added", "in": "query", "required": false }));
    assert_eq!(breaking(&old, &new), Vec::<String>::new());
}

#[test]
fn every_reference_leads_somewhere() {
    let document = document();
    let mut references = Vec::new();
    collect(&document, &mut references);
    assert!(references.len() > 50, "{}", references.len());
    for reference in references {
        let pointer = reference.strip_prefix('#').unwrap();
        assert!(document.pointer(pointer).is_some(), "{reference}");
    }
}

fn collect(value: &Value, references: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            references.extend(object.get("$ref").and_then(Value::as_str).map(ToOwned::to_owned));
            object.values().for_each(|value| collect(value, references));
        }
        Value::Array(items) => items.iter().for_each(|value| collect(value, references)),
        _ => {}
    }
}

#[test]
fn every_operation_says_what_may_go_wrong_and_has_a_name() {
    let document = document();
    assert_eq!(document["openapi"], "3.1.0");
    let mut ids = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for (method, operation) in
            item.as_object().unwrap().iter().filter(|(m, _)| METHODS.contains(&m.as_str()))
        {
            let place = format!("{method} {path}");
            assert!(ids.insert(operation["operationId"].as_str().unwrap()), "{place}: its id is taken");
            assert!(!operation["summary"].as_str().unwrap().is_empty(), "{place}");
            let responses = operation["responses"].as_object().unwrap();
            assert!(responses.contains_key("503"), "{place}");
            assert_eq!(responses.contains_key("401"), operation.get("security").is_some(), "{place}");
            let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
            for step in path.split('/').filter_map(|step| step.strip_prefix('{')?.strip_suffix('}')) {
                let named = parameters
                    .iter()
                    .any(|p| p["name"] == step && p["in"] == "path" && p["required"] == true);
                assert!(named, "{place}: {step}");
            }
        }
    }
    for path in [
        "/livez",
        "/readyz",
        "/version",
        "/openapi.json",
        "/docs",
        "/v1/uploads",
        "/v1/uploads/{upload_id}",
        "/v1/uploads/{upload_id}/status",
        "/v1/media",
        "/v1/media/{media_id}",
        "/v1/media/{media_id}/playback",
        "/play/{token}/{media_id}/{path}",
        "/v1/jobs",
        "/v1/jobs/{job_id}",
        "/v1/events",
        "/v1/audit",
    ] {
        assert!(document["paths"].get(path).is_some(), "{path} is not described");
    }
}

async fn get(path: &str, tag: Option<&str>) -> Response {
    let mut request = Request::get(path);
    if let Some(tag) = tag {
        request = request.header("if-none-match", tag);
    }
    router::<()>().oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
}

#[tokio::test]
async fn page_and_document_are_served_and_need_nothing_from_elsewhere() {
    let answer = get("/docs", None).await;
    assert_eq!(answer.status(), 200);
    let policy = answer.headers()["content-security-policy"].to_str().unwrap().to_owned();
    assert!(
        policy.starts_with("default-src 'none'; style-src 'self'") && !policy.contains("unsafe"),
        "{policy}"
    );
    let html = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let html = std::str::from_utf8(&html).unwrap();
    assert!(!html.contains("<script") && !html.contains("style=\"") && !html.contains("//cdn"), "{html}");
    assert!(html.contains("name=\"viewport\""));
    assert!(html.contains("media/<wbr>{media_id}/<wbr>playback"), "{html}");
    for link in html.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        match link.strip_prefix('#') {
            Some(anchor) => assert!(html.contains(&format!("id=\"{anchor}\"")), "{link}"),
            None => assert_eq!(get(link, None).await.status(), 200, "{link}"),
        }
    }
    let answer = get("/openapi.json", None).await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), document());
    assert_eq!(get("/openapi.json", Some(&tag)).await.status(), 304);
}

#[test]
fn text_of_the_document_can_not_become_html() {
    let mut document = document();
    document["info"]["title"] = json!("<script>alert(\"x\")</script>");
    document["tags"][0]["description"] = json!("`<b>` & \"quotes\"");
    let html = page::render(&document);
    assert!(!html.contains("<script") && !html.contains("<b>` "));
    assert!(html.contains("<code>&lt;b&gt;</code> &amp; &quot;quotes&quot;"));
}

//! The description says what is served, stays readable, and breaks nobody.

use std::{collections::BTreeSet, path::Path};

use axum::{body::Body, http::Request};
use serde_json::json;
use tower::ServiceExt;

use super::{breaking::find_breaking_changes, *};

fn published() -> Value {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../schemas/openapi.json");
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn the_description_breaks_no_client_of_the_published_one() {
    assert_eq!(find_breaking_changes(&published(), &build_document()), Vec::<String>::new());
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
    assert_eq!(find_breaking_changes(&old, &old), Vec::<String>::new());
    let ask = "/components/schemas/Ask";
    let answer = "/components/schemas/Answer";
    for (pointer, value, wanted) in [
        ("/paths", json!({ "/a": old["paths"]["/a"] }), "/b is gone"),
        ("/paths/~1b", json!({}), "GET /b is gone"),
        (
            "/paths/~1b/get",
            json!({ "responses": {}, "security": [{ "api_key": [] }] }),
            "GET /b needs a right now",
        ),
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
        (&format!("{ask}/properties/a/type"), json!("string"), "null is not taken any more"),
        (&format!("{ask}/properties/b/enum"), json!(["x"]), "\"y\" is not taken any more"),
        (&format!("{answer}/required"), json!([]), "property id may be absent now"),
        (&format!("{answer}/properties/id/type"), json!("integer"), "integer is new to readers"),
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
        let found = find_breaking_changes(&old, &new);
        assert!(found.iter().any(|change| change.contains(wanted)), "{pointer}: {found:?}");
    }
}

#[test]
fn what_only_adds_breaks_nobody() {
    let old = build_document();
    let mut new = old.clone();
    new["paths"]["/v2/new"] = json!({ "get": { "responses": {} } });
    new["paths"]["/v1/media"]["get"]["responses"]["418"] = json!({ "description": "a teapot" });
    new["components"]["schemas"]["MediaItemPage"]["properties"]["added"] = json!({ "type": "string" });
    let parameters = new["paths"]["/v1/media"]["get"]["parameters"].as_array_mut().unwrap();
    parameters.push(json!({ "name": "added", "in": "query", "required": false }));
    assert_eq!(find_breaking_changes(&old, &new), Vec::<String>::new());
}

#[test]
fn every_reference_leads_somewhere() {
    let document = build_document();
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
    let document = build_document();
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
            let security =
                operation["security"].as_array().unwrap_or_else(|| panic!("{place} says whom it serves"));
            assert!(responses.contains_key("401") || security.is_empty(), "{place}");
            let parameters = operation["parameters"].as_array().map(Vec::as_slice).unwrap_or_default();
            for step in path.split('/').filter_map(|step| step.strip_prefix('{')?.strip_suffix('}')) {
                let named = parameters
                    .iter()
                    .any(|p| p["name"] == step && p["in"] == "path" && p["required"] == true);
                assert!(named, "{place}: {step}");
            }
        }
    }
}

/// Every operation with its place.
fn operations(document: &Value) -> impl Iterator<Item = (String, &Value)> {
    document["paths"].as_object().unwrap().iter().flat_map(|(path, item)| {
        item.as_object()
            .unwrap()
            .iter()
            .map(move |(method, operation)| (format!("{method} {path}"), operation))
    })
}

#[test]
fn every_json_body_has_an_example_that_is_one() {
    let document = build_document();
    let mut bodies = BTreeSet::new();
    for (place, operation) in operations(&document) {
        let answers = operation["responses"].as_object().unwrap().values();
        for body in answers.chain(operation.get("requestBody")) {
            let json = body["content"].as_object().into_iter().flatten();
            for (_, content) in json.filter(|(kind, _)| kind.ends_with("json")) {
                let name =
                    content["schema"]["$ref"].as_str().map_or("", |name| name.rsplit('/').next().unwrap());
                bodies.insert((name, if name.is_empty() { place.clone() } else { String::new() }));
            }
        }
    }
    // The document itself is the one body without a schema.
    assert!(bodies.remove(&("", "get /openapi.json".to_owned())));
    assert!(bodies.len() > 20, "{bodies:?}");
    for (name, place) in bodies {
        let examples = document["components"]["schemas"][name]["examples"].as_array();
        let examples = examples.unwrap_or_else(|| panic!("{name} {place} has no example"));
        let schema =
            json!({ "$ref": format!("#/components/schemas/{name}"), "components": document["components"] });
        let schema = jsonschema::validator_for(&schema).unwrap();
        for example in examples {
            let wrong: Vec<String> = schema
                .iter_errors(example)
                .map(|error| format!("{}: {error}", error.instance_path()))
                .collect();
            assert!(wrong.is_empty(), "{name}: {wrong:?}");
        }
    }
}

#[test]
fn what_is_described_is_described_once_and_whole() {
    let document = build_document();
    for name in document["components"]["schemas"].as_object().unwrap().keys() {
        // Of two types with one name the second gets a number.
        assert!(!name.ends_with(|last: char| last.is_ascii_digit()), "{name} is the name of two types");
    }
    for (place, operation) in operations(&document) {
        for parameter in operation["parameters"].as_array().into_iter().flatten() {
            let about = parameter["description"].as_str().unwrap_or_default();
            assert!(about.ends_with('.') && parameter["schema"].is_object(), "{place}: {parameter}");
        }
        for (status, answer) in operation["responses"].as_object().unwrap() {
            let headers = answer["headers"].as_object().into_iter().flatten();
            for (name, header) in headers {
                assert!(header["$ref"].is_string(), "{place} {status}: {name} is described nowhere");
            }
        }
    }
    for (pointer, names) in [
        ("/paths/~1v1~1media/get", &["cursor", "ids", "limit", "min_revision", "removed", "status"][..]),
        (
            "/paths/~1v1~1jobs/get",
            &[
                "code",
                "cursor",
                "kind",
                "limit",
                "media_id",
                "min_revision",
                "owner",
                "paused",
                "priority",
                "status",
            ],
        ),
        (
            "/paths/~1v1~1audit/get",
            &["filter", "follow", "from", "limit", "media_id", "owner", "since", "to", "until"],
        ),
        ("/paths/~1v1~1events/get", &["job", "media", "owner", "prefix", "since", "type", "Last-Event-ID"]),
        ("/paths/~1v1~1auth~1keys/get", &["owner"]),
    ] {
        let parameters = document.pointer(pointer).unwrap()["parameters"].as_array().unwrap();
        let found: Vec<&str> =
            parameters.iter().map(|parameter| parameter["name"].as_str().unwrap()).collect();
        assert_eq!(found, names, "{pointer}");
    }
}

#[test]
fn every_event_that_an_operation_names_is_one() {
    let document = build_document();
    let known: BTreeSet<String> =
        schemas::catalog::event_entries().into_iter().map(|entry| entry.name).collect();
    for (place, operation) in operations(&document) {
        for kind in operation["x-events"].as_array().into_iter().flatten() {
            assert!(known.contains(kind.as_str().unwrap()), "{place}: {kind}");
        }
    }
}

async fn get(path: &str, tag: Option<&str>) -> Response {
    let mut request = Request::get(path);
    if let Some(tag) = tag {
        request = request.header("if-none-match", tag);
    }
    router::<()>().into_parts().0.oneshot(request.body(Body::empty()).unwrap()).await.unwrap()
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
    for (code, about) in build_document()["x-problems"].as_object().unwrap() {
        let at = html.find(&format!("<dt id=\"problem-{code}\">")).unwrap_or_else(|| panic!("{code}"));
        let entry = html.get(at..).unwrap().split("</dd>").next().unwrap();
        assert!(entry.contains(&about["status"].to_string()), "{entry}");
        let uri = about["type"].as_str().unwrap();
        // Those that others have registered keep their names.
        let registered = [
            "quota_exceeded",
            "rate_limited",
            "upload_complete",
            "upload_length_inconsistent",
            "upload_offset",
        ];
        let is_registered = uri.starts_with("https://iana.org/assignments/http-problem-types#");
        assert_eq!(is_registered, registered.contains(&code.as_str()), "{uri}");
        assert!(is_registered || uri == format!("/docs#problem-{code}"), "{uri}");
    }
    for code in schemas::rejection::RejectionCode::ALL {
        let at = html.find(&format!("<dt id=\"rejection-{code}\">")).unwrap_or_else(|| panic!("{code}"));
        let entry = html.get(at..).unwrap().split("</dd>").next().unwrap();
        assert!(entry.contains(code.title()) && !entry.contains("<small>"), "{entry}");
    }
    let answer = get("/docs/programs", None).await;
    assert_eq!(answer.headers()["content-security-policy"], policy);
    let programs = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    let programs = std::str::from_utf8(&programs).unwrap();
    for link in programs.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        let (path, anchor) = link.split_once('#').unwrap_or((link, ""));
        assert_eq!(get(path, None).await.status(), 200, "{link}");
        assert!(anchor.is_empty() || html.contains(&format!("id=\"{anchor}\"")), "{link}");
    }
    assert!(
        !programs.contains("{python}") && !programs.contains("{javascript}") && !programs.contains("{rust}")
    );
    assert!(
        programs.contains("os.environ[&quot;READER_SEED&quot;]") && !programs.contains("<script"),
        "{programs}"
    );
    let answer = get("/openapi.json", None).await;
    assert_eq!(answer.headers()["content-type"], "application/json");
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    let body = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&body).unwrap(), build_document());
    assert_eq!(get("/openapi.json", Some(&tag)).await.status(), 304);
}

/// The page at a path.
async fn page_at(path: &str) -> String {
    let answer = get(path, None).await;
    assert_eq!(answer.status(), 200, "{path}");
    let html = axum::body::to_bytes(answer.into_body(), 1 << 20).await.unwrap();
    String::from_utf8(html.to_vec()).unwrap()
}

#[tokio::test]
async fn links_of_guides_lead_to_what_is_there() {
    let index = page_at("/docs/guides").await;
    let links = |html: &str| -> BTreeSet<String> {
        html.split("href=\"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned()).collect()
    };
    let guides: Vec<String> =
        links(&index).into_iter().filter(|link| link.starts_with("/docs/guides/")).collect();
    assert_eq!(guides.len(), guides::GUIDES.len());
    for guide in guides {
        for link in links(&page_at(&guide).await) {
            let (path, anchor) = link.split_once('#').unwrap_or((&link, ""));
            let target = get(path, None).await;
            assert_eq!(target.status(), 200, "{guide}: {link}");
            assert!(anchor.is_empty() || page_at(path).await.contains(&format!("id=\"{anchor}\"")), "{link}");
        }
    }
    assert_eq!(get("/docs/guides/nothing", None).await.status(), 404);
    let answer = get("/docs/guides/deployment", None).await;
    let tag = answer.headers()["etag"].to_str().unwrap().to_owned();
    assert_eq!(get("/docs/guides/deployment", Some(&tag)).await.status(), 304);
}

#[test]
fn text_of_the_document_can_not_become_html() {
    let mut document = build_document();
    document["info"]["title"] = json!("<script>alert(\"x\")</script>");
    document["tags"][0]["description"] = json!("`<b>` & \"quotes\"");
    let html = page::render_page(&document);
    assert!(!html.contains("<script") && !html.contains("<b>` "));
    assert!(html.contains("<code>&lt;b&gt;</code> &amp; &quot;quotes&quot;"));
}

#[test]
fn what_is_described_can_be_sent_and_read_by_scripts() {
    let document = build_document();
    let headers = document["components"]["headers"].as_object().unwrap().keys();
    // No script may read this one.
    for name in headers.filter(|name| *name != "Set-Cookie") {
        assert!(web::request_policy::EXPOSED.contains(&name.to_lowercase().as_str()), "{name} can't be read");
    }
    let operations =
        document["paths"].as_object().unwrap().values().flat_map(|item| item.as_object().unwrap());
    let parameters = operations.filter_map(|(_, operation)| operation["parameters"].as_array()).flatten();
    for parameter in parameters.filter(|parameter| parameter["in"] == "header") {
        let name = parameter["name"].as_str().unwrap();
        assert!(web::request_policy::ASKED.contains(&name.to_lowercase().as_str()), "{name} can't be sent");
    }
}

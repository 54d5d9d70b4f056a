//! A walk over all operations with a JSON body: a member that nobody reads is refused at its place, in whatever object it stands.
//!
//! A body that is read by a type without `deny_unknown_fields` has a schema that says so, and fails here.

use std::collections::BTreeSet;

use serde_json::{Value, json};

use super::{
    openapi,
    tests::Site,
    walk::{described, filled},
};

/// A member that nothing has.
const STRANGER: &str = "x_unknown";

/// The schema of the JSON body of an operation.
fn json_body(operation: &Value) -> Option<&Value> {
    operation.pointer("/requestBody/content/application~1json/schema")
}

/// Every operation with a JSON body, by `<method> <path>`, with the schema of the body.
fn operations_with_json() -> Vec<(String, Value)> {
    let all = described().into_iter();
    all.filter_map(|(place, operation)| Some((place, json_body(&operation)?.clone()))).collect()
}

/// Finds objects below `schema` that take members without a name, by where they are.
fn find_open_objects(
    document: &Value,
    schema: &Value,
    place: &str,
    seen: &mut BTreeSet<String>,
    open: &mut Vec<String>,
) {
    if let Some(reference) = schema["$ref"].as_str() {
        if seen.insert(reference.to_owned()) {
            let named = document.pointer(reference.trim_start_matches('#')).unwrap();
            find_open_objects(document, named, reference, seen, open);
        }
        return;
    }
    let has_members = schema["type"] == "object" || schema["properties"].is_object();
    let has_variants = ["oneOf", "anyOf", "allOf"].iter().any(|union| schema[*union].is_array());
    if has_members && !has_variants && schema["additionalProperties"] != json!(false) {
        open.push(place.to_owned());
    }
    for (name, member) in schema["properties"].as_object().into_iter().flatten() {
        find_open_objects(document, member, &format!("{place}/{name}"), seen, open);
    }
    for union in ["oneOf", "anyOf", "allOf"] {
        for (at, variant) in schema[union].as_array().into_iter().flatten().enumerate() {
            find_open_objects(document, variant, &format!("{place}/{union}{at}"), seen, open);
        }
    }
    if schema["items"].is_object() {
        find_open_objects(document, &schema["items"], &format!("{place}[]"), seen, open);
    }
}

#[test]
fn no_object_of_a_body_takes_members_that_nobody_reads() {
    let document = openapi::build_document();
    let (mut seen, mut open) = (BTreeSet::new(), Vec::new());
    for (place, schema) in operations_with_json() {
        find_open_objects(&document, &schema, &place, &mut seen, &mut open);
    }
    assert!(seen.len() > 9, "{seen:?}");
    assert!(open.is_empty(), "without deny_unknown_fields: {open:#?}");
    let loose = json!({ "type": "object", "properties": { "a": { "type": "array", "items": { "type": "object" } } } });
    find_open_objects(&document, &loose, "loose", &mut seen, &mut open);
    assert_eq!(open, ["loose", "loose/a[]"], "the search finds what it looks for");
}

/// `body` with a stranger in each of its objects in turn, and the path of the object.
fn with_stranger(body: &Value, path: &str) -> Vec<(String, Value)> {
    let mut found = Vec::new();
    if let Some(members) = body.as_object() {
        let mut changed = body.clone();
        changed[STRANGER] = json!(1);
        found.push((path.to_owned(), changed));
        for (name, member) in members {
            for (place, inner) in with_stranger(member, &format!("{path}/{name}")) {
                let mut changed = body.clone();
                changed[name] = inner;
                found.push((place, changed));
            }
        }
    }
    for (at, item) in body.as_array().into_iter().flatten().enumerate() {
        for (place, inner) in with_stranger(item, &format!("{path}/{at}")) {
            let mut changed = body.clone();
            changed[at] = inner;
            found.push((place, changed));
        }
    }
    found
}

/// Bodies beside the examples of the description, for the objects that those do not have.
fn nested_bodies() -> Vec<(&'static str, Value)> {
    let open = json!({ "kind": "public" });
    let tree = json!({ "kind": "all", "rules": [
        { "kind": "any", "rules": [open, { "kind": "allow_list", "addresses": [] }] },
        { "kind": "not", "rule": { "kind": "erc20_balance", "chain_id": 1, "contract": "", "balance_min": "1" } },
    ] });
    let typed = json!({ "signature": "0x00", "typed": {
        "domain": "a.org", "account": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "statement": "", "uri": "https://a.org/",
        "chain_id": 1, "nonce": "", "issued_at_s": 1, "expires_at_s": 2,
    } });
    vec![
        ("put /v1/media/{media_id}/gate", tree.clone()),
        ("post /v1/auth/nft", json!({ "address": "", "rule": tree })),
        ("post /v1/auth/login", typed),
    ]
}

#[tokio::test]
async fn a_member_that_nobody_reads_is_refused_at_its_place() {
    let site = Site::start(|config| config.limit.rates.auth = config.limit.rates.api).await;
    let head = format!("Authorization: Bearer {}\r\nContent-Type: application/json\r\n", site.key);
    let document = openapi::build_document();
    let operations = operations_with_json();
    assert!(operations.len() >= 9, "{operations:?}");
    let mut bodies =
        nested_bodies().into_iter().map(|(place, body)| (place.to_owned(), body)).collect::<Vec<_>>();
    for (place, schema) in operations {
        let named = document.pointer(schema["$ref"].as_str().unwrap().trim_start_matches('#')).unwrap();
        let example = named["examples"][0].clone();
        assert!(example.is_object(), "{place} has no example: {named}");
        bodies.push((place, example));
    }
    for (place, body) in bodies {
        let (method, path) = place.split_once(' ').unwrap();
        for (object, changed) in with_stranger(&body, "") {
            let answer = site.ask(&method.to_uppercase(), &filled(path), &head, &changed.to_string()).await;
            let problem: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            assert_eq!(
                (answer.status, &problem["code"]),
                (400, &json!("json_invalid")),
                "{place} {changed}: {answer:?}"
            );
            let error = &problem["errors"][0];
            let detail = error["detail"].as_str().unwrap();
            assert!(detail.contains(STRANGER), "{place} {changed}: {problem}");
            let pointer = error["pointer"].as_str().unwrap();
            // Rules are read as a whole: there it is the object around.
            let is_there = pointer.starts_with(&object) || object.starts_with(pointer);
            assert!(is_there, "{place} {changed}: {pointer}");
        }
    }
}

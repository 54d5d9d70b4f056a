//! Every kind of change is made to the real document, in the direction that breaks clients and in the one that does not.

use std::sync::LazyLock;

use serde_json::{Value, json};

use super::find_breaking_changes;
use crate::openapi::build_document;

static DOCUMENT: LazyLock<Value> = LazyLock::new(build_document);

/// The published document with `value` at `pointer`; with nothing there when it is null.
fn changed(pointer: &str, value: Value) -> (Value, Value) {
    let old = DOCUMENT.clone();
    let mut new = old.clone();
    let (parent, last) = pointer.rsplit_once('/').unwrap();
    let parent = new.pointer_mut(parent).unwrap_or_else(|| panic!("{pointer} leads nowhere"));
    match parent {
        Value::Array(items) if value.is_null() => drop(items.remove(last.parse().unwrap())),
        Value::Array(items) if last == "-" => items.push(value),
        Value::Array(items) => items[last.parse::<usize>().unwrap()] = value,
        Value::Object(members) if value.is_null() => {
            members.remove(last).unwrap_or_else(|| panic!("{pointer} is not there"));
        }
        Value::Object(members) => drop(members.insert(last.to_owned(), value)),
        _ => panic!("{pointer} leads nowhere"),
    }
    assert_ne!(old, new, "{pointer}");
    (old, new)
}

#[track_caller]
fn breaks(pointer: &str, value: Value, wanted: &str) {
    let (old, new) = changed(pointer, value);
    let found = find_breaking_changes(&old, &new);
    assert!(found.iter().any(|change| change == wanted), "{pointer}: {found:#?}");
}

#[track_caller]
fn breaks_nobody(pointer: &str, value: Value) {
    let (old, new) = changed(pointer, value);
    assert_eq!(find_breaking_changes(&old, &new), Vec::<String>::new(), "{pointer}");
}

const RULES: &str = "/components/schemas/Rule/oneOf";
const LIST: &str = "/paths/~1v1~1jobs/get";
const GATE: &str = "PUT /v1/media/{media_id}/gate body";

/// Where a parameter of the list of jobs stands.
fn parameter(name: &str, rest: &str) -> String {
    let all = DOCUMENT.pointer(&format!("{LIST}/parameters")).unwrap().as_array().unwrap();
    format!("{LIST}/parameters/{}{rest}", all.iter().position(|known| known["name"] == name).unwrap())
}

#[test]
fn the_document_breaks_nobody_as_it_is() {
    assert_eq!(find_breaking_changes(&DOCUMENT, &DOCUMENT), Vec::<String>::new());
}

#[test]
fn a_kind_of_rule_may_neither_go_nor_come() {
    let gone = format!("{GATE}: object with kind \"public\" is not taken any more");
    breaks(&format!("{RULES}/0"), Value::Null, &gone);
    // The same one level down: a rule holds rules.
    breaks(
        "/components/schemas/OwnershipQuestion/properties/rule",
        json!({ "oneOf": [] }),
        "POST /v1/auth/nft body.rule: object with kind \"public\" is not taken any more",
    );
    let made =
        json!({ "type": "object", "required": ["kind"], "properties": { "kind": { "const": "moon" } } });
    let read = "GET /v1/media/{media_id}/gate 200.rule: object with kind \"moon\" is new to readers";
    breaks(&format!("{RULES}/-"), made, read);
    let renamed = json!({ "const": "everybody", "type": "string" });
    breaks("/components/schemas/RulePublic/properties/kind", renamed, &gone);
}

#[test]
fn what_a_kind_of_rule_needs_and_takes_may_only_become_wider() {
    let shape = |what: &str| format!("{GATE}{what}");
    let needs = json!(["kind", "chain_id", "contract", "token_id"]);
    let token = "/components/schemas/RuleErc721Owner";
    let list = "/components/schemas/RuleAllowList/properties/addresses";
    breaks(&format!("{token}/required"), needs, &shape(": property token_id is needed now"));
    breaks(&format!("{token}/properties/token_id"), Value::Null, &shape(": property token_id is gone"));
    let fewer = shape(".addresses: maxItems was 1000 and is 10");
    breaks(&format!("{list}/maxItems"), json!(10), &fewer);
    let other = shape(".addresses[]: pattern was \"^0x[0-9a-fA-F]{40}$\" and is \"^0x\"");
    breaks(&format!("{list}/items/pattern"), json!("^0x"), &other);
    let null = shape(".token_id: \"null\" is not taken any more").replace("\"null\"", "null");
    breaks(&format!("{token}/properties/token_id/type"), json!("string"), &null);
}

#[test]
fn a_status_may_go_from_answers_and_come_to_questions_only() {
    let statuses = "/components/schemas/JobStatus/enum";
    let asked = "GET /v1/jobs parameter status: \"failed\" is not taken any more";
    breaks(&format!("{statuses}/2"), Value::Null, asked);
    let read = "GET /v1/jobs/{job_id} 200.status: \"paused\" is new to readers";
    breaks(&format!("{statuses}/-"), json!("paused"), read);
    // What says that others may come is open.
    breaks_nobody("/components/schemas/JobState/enum/-", json!("hibernating"));
    // Only in questions, and then only in answers.
    breaks_nobody(&parameter("status", "/schema"), json!({ "type": "string" }));
    breaks_nobody("/components/schemas/JobPartStatus/enum/0", Value::Null);
    // A union of its values says the same as an enumeration, and no more to readers than the names of its members.
    let same = ["active", "succeeded", "failed", "cancelled"].map(|value| json!({ "const": value }));
    breaks_nobody("/components/schemas/JobStatus", json!({ "oneOf": same }));
    breaks_nobody("/components/schemas/Rule/discriminator", Value::Null);
    let role = "POST /v1/auth/keys body.role: \"operator\" is not taken any more";
    breaks("/components/schemas/Role/enum/1", Value::Null, role);
}

#[test]
fn a_parameter_may_only_take_more() {
    let place = |name: &str| format!("GET /v1/jobs parameter {name}");
    let narrow = format!("{}: maximum was 200 and is 100", place("limit"));
    breaks(&parameter("limit", "/schema/maximum"), json!(100), &narrow);
    let narrow = format!("{}: minimum was 1 and is 2", place("limit"));
    breaks(&parameter("limit", "/schema/minimum"), json!(2), &narrow);
    let format = format!("{}: multipleOf was none and is 10", place("limit"));
    breaks(&parameter("limit", "/schema/multipleOf"), json!(10), &format);
    let schema = json!({ "type": "string", "pattern": "^0" });
    breaks(
        &parameter("media_id", "/schema"),
        schema,
        &format!("{}: pattern was \"{}\" and is \"^0\"", place("media_id"), schemas::ids::PATTERN),
    );
    breaks(
        &parameter("limit", "/schema/type"),
        json!("string"),
        &format!("{}: integer is not taken any more", place("limit")),
    );
    breaks_nobody(&parameter("limit", "/schema/maximum"), json!(1_000));
    breaks_nobody(&parameter("limit", "/schema/minimum"), Value::Null);
    breaks_nobody(&parameter("limit", "/schema/type"), json!("number"));
    breaks_nobody(&parameter("media_id", "/schema/pattern"), Value::Null);
    let moments = "/paths/~1v1~1audit/get/parameters/6/schema";
    let ages = "GET /v1/audit parameter since: format was none and is \"date-time\"";
    breaks(&format!("{moments}/anyOf/1"), Value::Null, ages);
    let methods = "/paths/~1v1~1uploads~1{upload_id}/post/parameters/1/schema/enum";
    let gone =
        "POST /v1/uploads/{upload_id} parameter X-HTTP-Method-Override: \"HEAD\" is not taken any more";
    breaks(methods, json!(["PATCH", "DELETE"]), gone);
    breaks_nobody(methods, json!(["PATCH", "DELETE", "HEAD", "PUT"]));
}

#[test]
fn a_body_may_only_take_more() {
    let label = "/components/schemas/KeyWanted/properties/label";
    let place = "POST /v1/auth/keys body.label";
    breaks(&format!("{label}/maxLength"), json!(50), &format!("{place}: maxLength was 100 and is 50"));
    breaks(&format!("{label}/minLength"), json!(2), &format!("{place}: minLength was 1 and is 2"));
    breaks(&format!("{label}/type"), json!("string"), &format!("{place}: null is not taken any more"));
    let expiry = "/components/schemas/KeyWanted/properties/expires_in_s";
    let shorter = "POST /v1/auth/keys body.expires_in_s: maximum was 315360000 and is 60";
    breaks(&format!("{expiry}/maximum"), json!(60), shorter);
    breaks_nobody(&format!("{label}/maxLength"), json!(200));
    breaks_nobody(&format!("{label}/pattern"), Value::Null);
    breaks_nobody(&format!("{expiry}/maximum"), Value::Null);
    let role = "/components/schemas/KeyWanted/properties/role/anyOf";
    breaks(&format!("{role}/1"), Value::Null, "POST /v1/auth/keys body.role: null is not taken any more");
    breaks_nobody(&format!("{role}/-"), json!({ "type": "integer" }));
    // One of two sets of members is enough.
    let ways = "/components/schemas/LoginWanted/oneOf";
    let typed = "POST /v1/auth/login body: property message is needed now";
    breaks(&format!("{ways}/1"), Value::Null, typed);
    let strict = "POST /v1/auth/login body: property nonce is needed now";
    breaks("/components/schemas/LoginWanted/allOf", json!([{ "required": ["nonce"] }]), strict);
    let closed = "POST /v1/auth/verify body: no other property is taken now";
    let (mut old, new) = changed("/components/schemas/VerifyWanted/description", json!(""));
    old["components"]["schemas"]["VerifyWanted"].as_object_mut().unwrap().remove("additionalProperties");
    assert!(
        find_breaking_changes(&old, &new).contains(&closed.to_owned()),
        "{:?}",
        find_breaking_changes(&old, &new)
    );
}

#[test]
fn an_answer_may_only_become_narrower() {
    let item = "/components/schemas/MediaItem/properties";
    let place = "GET /v1/media 200.items[]";
    let digits = format!("{place}.encode: maximum was 4294967295 and is 18446744073709551615");
    breaks(&format!("{item}/encode/maximum"), json!(u64::MAX), &digits);
    breaks_nobody(&format!("{item}/encode/maximum"), json!(1_000));
    breaks_nobody(&format!("{item}/encode/type"), json!("integer"));
    breaks_nobody(&format!("{item}/owner/maxLength"), json!(128));
    let null = format!("{place}.owner: null is new to readers");
    breaks(&format!("{item}/owner/type"), json!(["string", "null"]), &null);
    breaks(
        &format!("{item}/media_id"),
        json!({ "type": "integer" }),
        &format!("{place}.media_id: integer is new to readers"),
    );
    breaks_nobody(&format!("{item}/summary/anyOf/1"), Value::Null);
}

#[test]
fn a_header_of_an_answer_stays() {
    let answer = "/paths/~1v1~1jobs~1{job_id}/get/responses/200";
    let place = "GET /v1/jobs/{job_id} 200";
    breaks(&format!("{answer}/headers/ETag"), Value::Null, &format!("{place}: header ETag is gone"));
    let absent = format!("{place}: header ETag may be absent now");
    breaks("/components/headers/ETag/required", json!(false), &absent);
    breaks(
        "/components/headers/ETag/schema/pattern",
        Value::Null,
        &format!("{place} header ETag: pattern was \"^\\\"[ !#-~]*\\\"$\" and is none"),
    );
    breaks_nobody("/components/headers/Link/required", json!(true));
    breaks_nobody(&format!("{answer}/headers/Age"), json!({ "schema": { "type": "integer" } }));
}

#[test]
fn nobody_has_to_sign_in_where_it_was_not_needed_nor_in_another_way() {
    let playback = "/paths/~1v1~1media~1{media_id}~1playback/post/security";
    let place = "POST /v1/media/{media_id}/playback";
    breaks(&format!("{playback}/0"), Value::Null, &format!("{place} needs a right now"));
    let other = "GET /v1/jobs: api_key is no right any more";
    breaks(&format!("{LIST}/security/0"), Value::Null, other);
    let challenge = "/paths/~1v1~1auth~1challenge/post/security";
    breaks(challenge, json!([{ "api_key": [] }]), "POST /v1/auth/challenge needs a right now");
    breaks_nobody(playback, json!([]));
    breaks_nobody(&format!("{LIST}/security/-"), json!({ "cookie": [] }));
}

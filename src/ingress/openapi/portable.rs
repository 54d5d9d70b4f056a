//! Schemas in the words that generators of clients read: JSON Schema has more than one for the same, and they know one of them.
//!
//! A value is an `enum` of one, strings to choose from are one `enum`, and the members of a union are components of their own, since
//! no generator names what has no name and few read a union that holds itself. What is allowed stays what it was.

use serde_json::{Map, Value, json};

use super::schema::REFERENCE;

/// The name that distinguishes members of a union.
const TAG: &str = "kind";

/// Rewrites a document.
pub(super) fn make_portable(document: &mut Value) {
    rewrite(document);
    let Some(schemas) = document["components"]["schemas"].as_object_mut() else { return };
    let unions: Vec<String> = schemas
        .iter()
        .filter(|(_, schema)| schema["oneOf"].is_array())
        .map(|(name, _)| name.clone())
        .collect();
    for name in unions {
        let union = schemas.get_mut(&name).map(|schema| name_members(&name, schema)).unwrap_or_default();
        for (name, member) in union {
            let other = schemas.insert(name, member);
            debug_assert!(other.is_none(), "two schemas of one name: {other:?}");
        }
    }
}

fn rewrite(value: &mut Value) {
    match value {
        Value::Object(members) => {
            members.values_mut().for_each(rewrite);
            // A property may be called `const`: then it holds a schema.
            if let Some(only) = members.get("const").filter(|only| !only.is_object()).cloned() {
                members.remove("const");
                members.insert("enum".into(), json!([only]));
            }
            join_values(members);
        }
        Value::Array(items) => items.iter_mut().for_each(rewrite),
        _ => {}
    }
}

/// Makes one enumeration of a union of strings; what they mean goes into its description.
fn join_values(schema: &mut Map<String, Value>) {
    let mut values = Vec::new();
    let mut about = String::new();
    for member in schema.get("oneOf").and_then(Value::as_array).into_iter().flatten() {
        let Some(names) = member["enum"].as_array().filter(|_| member["type"] == "string") else { return };
        for name in names.iter().filter_map(Value::as_str) {
            let meaning = member["description"].as_str().map(|text| format!(": {text}")).unwrap_or_default();
            about = format!("{about}\n- `{name}`{meaning}");
            values.push(json!(name));
        }
    }
    if values.is_empty() {
        return;
    }
    schema.remove("oneOf");
    let whole = schema.get("description").and_then(Value::as_str).unwrap_or_default();
    schema.insert("description".into(), json!(format!("{whole}\n{about}").trim()));
    schema.insert("type".into(), json!("string"));
    schema.insert("enum".into(), json!(values));
}

/// Makes references of the members of a union; answers them by their names.
fn name_members(union: &str, schema: &mut Value) -> Map<String, Value> {
    let mut named = Map::new();
    let mut mapping = Map::new();
    let tag_of = |member: &Value| member["properties"][TAG]["enum"][0].as_str().map(str::to_owned);
    let members = schema["oneOf"].as_array_mut().map(Vec::as_mut_slice).unwrap_or_default();
    let Some(tags) = members.iter().map(tag_of).collect::<Option<Vec<String>>>() else { return Map::new() };
    for (member, tag) in members.iter_mut().zip(tags) {
        let name = tag.split('_').fold(union.to_owned(), |name, word| name + &capitalize(word));
        let reference = json!({ "$ref": format!("{REFERENCE}{name}") });
        mapping.insert(tag, reference["$ref"].clone());
        named.insert(name, std::mem::replace(member, reference));
    }
    if !named.is_empty() {
        schema["discriminator"] = json!({ "propertyName": TAG, "mapping": mapping });
    }
    named
}

fn capitalize(word: &str) -> String {
    let mut letters = word.chars();
    letters.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(letters).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_allowed_is_said_in_one_way() {
        let mut document = json!({ "components": { "schemas": {
            "Rule": { "oneOf": [
                { "type": "object", "properties": { "kind": { "type": "string", "const": "all_of" }, "rules": { "items": { "$ref": "#/components/schemas/Rule" } } } },
                { "type": "object", "properties": { "kind": { "type": "string", "const": "public" } } },
            ] },
            "Status": { "description": "Where it stands.", "oneOf": [
                { "type": "string", "enum": ["open", "closed"] },
                { "type": "string", "const": "ended", "description": "It is over." },
            ] },
            "Either": { "oneOf": [{ "type": "string", "const": "a" }, { "type": "integer" }] },
        } } });
        make_portable(&mut document);
        let all = "#/components/schemas/RuleAllOf";
        let public = "#/components/schemas/RulePublic";
        assert_eq!(
            document["components"]["schemas"],
            json!({
                "Rule": {
                    "oneOf": [{ "$ref": all }, { "$ref": public }],
                    "discriminator": { "propertyName": "kind", "mapping": { "all_of": all, "public": public } },
                },
                "RuleAllOf": { "type": "object", "properties": {
                    "kind": { "type": "string", "enum": ["all_of"] },
                    "rules": { "items": { "$ref": "#/components/schemas/Rule" } },
                } },
                "RulePublic": { "type": "object", "properties": { "kind": { "type": "string", "enum": ["public"] } } },
                "Status": {
                    "type": "string",
                    "description": "Where it stands.\n\n- `open`\n- `closed`\n- `ended`: It is over.",
                    "enum": ["open", "closed", "ended"],
                },
                "Either": { "oneOf": [{ "type": "string", "enum": ["a"] }, { "type": "integer" }] },
            })
        );
    }
}

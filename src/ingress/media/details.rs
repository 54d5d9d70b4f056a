//! What an owner says about a medium beside its title, as it is kept: tags, language, links and attributes.
//!
//! Limits: those of [`schemas::media_details`].

use packaging::language;
use schemars::JsonSchema;
use schemas::media_details::{
    ATTRIBUTE_DEPTH_MAX, ATTRIBUTES_BYTES_MAX, LANGUAGE_BYTES_MAX, LINK_LABEL_LENGTH_MAX, LINK_URL_BYTES_MAX,
    LINKS_MAX, MediaLink, TAG_LENGTH_MAX, TAGS_MAX,
};
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::uploads::metadata::clean_line;
use web::{error::Problem, problem_code::ProblemCode};

/// An address that belongs to a medium, as it is asked for.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "MediaLinkChange")]
pub(crate) struct MediaLinkRequest {
    /// An absolute address of the scheme http or https.
    #[schemars(length(min = 1, max = LINK_URL_BYTES_MAX), extend("format" = "web-address"))]
    url: String,
    /// What it leads to, for people.
    #[serde(default)]
    #[schemars(length(max = LINK_LABEL_LENGTH_MAX))]
    label: Option<String>,
}

fn invalid_details(pointer: &str, detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::MediaDetailsInvalid).with_pointer(pointer, detail)
}

/// Tags as they are kept: each once, whatever its case, in the order in which they came.
pub(super) fn clean_tags(tags: &[String]) -> Result<Vec<String>, Problem> {
    if tags.len() > TAGS_MAX {
        return Err(invalid_details("/tags", format!("at most {TAGS_MAX} tags are kept")));
    }
    let mut kept: Vec<String> = Vec::new();
    for (position, tag) in tags.iter().enumerate() {
        let cleaned = clean_line(tag, TAG_LENGTH_MAX).ok_or_else(|| {
            let detail =
                format!("a tag needs something to be shown, and at most {TAG_LENGTH_MAX} characters");
            invalid_details(&format!("/tags/{position}"), detail)
        })?;
        let folded = cleaned.to_lowercase();
        if !kept.iter().any(|other| other.to_lowercase() == folded) {
            kept.push(cleaned);
        }
    }
    Ok(kept)
}

/// A language in the form of RFC 5646, section 2.1.1, by its shortest code.
pub(super) fn clean_language(text: &str) -> Result<String, Problem> {
    let tag = Some(text).filter(|text| text.len() <= LANGUAGE_BYTES_MAX).and_then(find_language);
    tag.ok_or_else(|| invalid_details("/language", "it is the tag of no language, such as `de` or `pt-BR`"))
}

/// The tag of a language in the form in which it is kept; none for what is no language.
pub(super) fn find_language(text: &str) -> Option<String> {
    Some(language::to_language_tag(text)).filter(|tag| tag != language::UNDETERMINED)
}

/// Links whose addresses a browser may be sent to.
pub(super) fn clean_links(links: &[MediaLinkRequest]) -> Result<Vec<MediaLink>, Problem> {
    if links.len() > LINKS_MAX {
        return Err(invalid_details("/links", format!("at most {LINKS_MAX} links are kept")));
    }
    links.iter().enumerate().map(|(position, link)| clean_link(position, link)).collect()
}

fn clean_link(position: usize, link: &MediaLinkRequest) -> Result<MediaLink, Problem> {
    let parsed = url::Url::parse(&link.url).ok().filter(|url| {
        let is_web = matches!(url.scheme(), "http" | "https");
        // An address with a password in it is none to be shown.
        is_web && url.username().is_empty() && url.password().is_none()
    });
    let url = parsed.map(String::from).filter(|url| url.len() <= LINK_URL_BYTES_MAX).ok_or_else(|| {
        let detail = format!(
            "it has to be an address that begins with https:// or http://, without a user, and at most \
             {LINK_URL_BYTES_MAX} bytes long"
        );
        invalid_details(&format!("/links/{position}/url"), detail)
    })?;
    let label = link.label.as_deref().unwrap_or_default();
    if label.chars().count() > LINK_LABEL_LENGTH_MAX {
        let detail = format!("at most {LINK_LABEL_LENGTH_MAX} characters are kept");
        return Err(invalid_details(&format!("/links/{position}/label"), detail));
    }
    Ok(MediaLink { url, label: clean_line(label, LINK_LABEL_LENGTH_MAX) })
}

/// The attributes with what `patch` changes in them (RFC 7396, section 2): objects are merged, null removes, everything else replaces.
pub(super) fn merge_attributes(
    held: &Map<String, Value>,
    patch: &Map<String, Value>,
) -> Result<Map<String, Value>, Problem> {
    // Before anything is done with it: what is deeper needs no look.
    if patch.values().any(|value| depth(value) >= ATTRIBUTE_DEPTH_MAX) {
        let detail = format!("at most {ATTRIBUTE_DEPTH_MAX} levels of objects and arrays are kept");
        return Err(invalid_details("/attributes", detail));
    }
    let mut merged = held.clone();
    merge_into(&mut merged, patch);
    let size_bytes = serde_json::to_vec(&merged).map_or(usize::MAX, |text| text.len());
    if size_bytes > ATTRIBUTES_BYTES_MAX {
        let detail = format!(
            "with this they have {size_bytes} bytes as JSON; at most {ATTRIBUTES_BYTES_MAX} are kept"
        );
        return Err(invalid_details("/attributes", detail));
    }
    Ok(merged)
}

fn merge_into(held: &mut Map<String, Value>, patch: &Map<String, Value>) {
    for (name, value) in patch {
        match value {
            Value::Null => {
                held.remove(name);
            }
            Value::Object(inner) => {
                let mut below = match held.remove(name) {
                    Some(Value::Object(below)) => below,
                    _ => Map::new(),
                };
                merge_into(&mut below, inner);
                held.insert(name.clone(), Value::Object(below));
            }
            other => {
                held.insert(name.clone(), other.clone());
            }
        }
    }
}

/// How many levels of objects and arrays there are; 0 of a plain value. The parser of bodies has bounded it.
fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(members) => 1 + members.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn object(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn a_merge_follows_the_examples_of_rfc_7396() {
        for (held, patch, merged) in [
            (json!({"a":"b"}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"b"}), json!({"b":"c"}), json!({"a":"b","b":"c"})),
            (json!({"a":"b"}), json!({"a":null}), json!({})),
            (json!({"a":"b","b":"c"}), json!({"a":null}), json!({"b":"c"})),
            (json!({"a":["b"]}), json!({"a":"c"}), json!({"a":"c"})),
            (json!({"a":"c"}), json!({"a":["b"]}), json!({"a":["b"]})),
            (json!({"a":{"b":"c"}}), json!({"a":{"b":"d","c":null}}), json!({"a":{"b":"d"}})),
            (json!({"a":[{"b":"c"}]}), json!({"a":[1]}), json!({"a":[1]})),
            (json!({"e":null}), json!({"a":1}), json!({"e":null,"a":1})),
            (json!({}), json!({"a":{"bb":{"ccc":null}}}), json!({"a":{"bb":{}}})),
        ] {
            assert_eq!(merge_attributes(&object(held), &object(patch)).unwrap(), object(merged));
        }
    }

    #[test]
    fn attributes_have_an_end() {
        let deep = json!({"a": {"b": {"c": []}}});
        assert!(merge_attributes(&Map::new(), &object(deep)).is_ok());
        let deeper = json!({"a": {"b": {"c": [[]]}}});
        assert!(merge_attributes(&Map::new(), &object(deeper)).is_err());
        // {"a":""} are eight bytes.
        let largest = json!({"a": "x".repeat(ATTRIBUTES_BYTES_MAX - 8)});
        let held = merge_attributes(&Map::new(), &object(largest)).unwrap();
        assert!(merge_attributes(&held, &object(json!({"b": 1}))).is_err(), "what is there counts, too");
        assert!(merge_attributes(&held, &object(json!({"a": 1}))).is_ok());
    }

    #[test]
    fn a_tag_is_kept_once() {
        let tags = [" Sea ", "sea", "SEA\u{202e}", "Übung", "übung", "a b"].map(String::from);
        assert_eq!(clean_tags(&tags).unwrap(), ["Sea", "Übung", "a b"]);
        assert!(clean_tags(&[" \u{feff}".to_owned()]).is_err());
        assert!(clean_tags(&["ä".repeat(TAG_LENGTH_MAX + 1)]).is_err());
        assert!(clean_tags(&vec!["a".to_owned(); TAGS_MAX + 1]).is_err());
    }

    #[test]
    fn a_language_is_one_that_has_a_tag() {
        for (text, tag) in [("DE", "de"), ("ger", "de"), ("pt_br", "pt-BR"), ("zh-hant", "zh-Hant")] {
            assert_eq!(clean_language(text).unwrap(), tag);
        }
        for text in ["", "und", "german", "x", "<b>", &"de-".repeat(20)] {
            assert!(clean_language(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_link_leads_to_the_web() {
        let link = |url: &str| MediaLinkRequest { url: url.to_owned(), label: None };
        for url in ["https://example.org/a?b#c", "http://example.org/"] {
            assert_eq!(clean_links(&[link(url)]).unwrap()[0].url, url);
        }
        for url in ["", "/a", "javascript:alert(1)", "data:,a", "https://a:b@example.org/", "https://"] {
            assert!(clean_links(&[link(url)]).is_err(), "{url}");
        }
        assert!(clean_links(&[link(&format!("https://example.org/{}", "a".repeat(2_000)))]).is_err());
        assert!(clean_links(&vec![link("https://example.org/"); LINKS_MAX + 1]).is_err());
        for (label, kept) in [("", None), (" \u{0}", None), (" More\n", Some("More"))] {
            let labelled = MediaLinkRequest { label: Some(label.to_owned()), ..link("https://example.org/") };
            assert_eq!(clean_links(&[labelled]).unwrap()[0].label.as_deref(), kept);
        }
    }

    proptest! {
        #[test]
        fn cleaning_tags_again_changes_nothing(tags in prop::collection::vec("\\PC{0,60}", 0..25)) {
            if let Ok(kept) = clean_tags(&tags) {
                prop_assert_eq!(clean_tags(&kept).unwrap(), kept);
            }
        }
    }
}

//! What an owner says about a medium beside its title: tags, language, links, a contact, and attributes of its own.
//!
//! Limits: [`TAGS_MAX`] tags, [`LINKS_MAX`] links, [`ATTRIBUTES_BYTES_MAX`] of attributes with [`ATTRIBUTE_DEPTH_MAX`] levels.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::value::EmailAddress;

/// Most tags of a medium.
pub const TAGS_MAX: usize = 20;

/// Longest tag, in characters.
pub const TAG_LENGTH_MAX: usize = 50;

/// Longest language tag, in bytes: RFC 5646, section 4.4.1.
pub const LANGUAGE_BYTES_MAX: usize = 35;

/// Most links of a medium.
pub const LINKS_MAX: usize = 10;

/// Longest address of a link, in bytes.
pub const LINK_URL_BYTES_MAX: usize = 2_000;

/// Longest label of a link, in characters.
pub const LINK_LABEL_LENGTH_MAX: usize = 100;

/// Most bytes of the attributes, as JSON without spaces.
pub const ATTRIBUTES_BYTES_MAX: usize = 4_096;

/// Most levels of objects and arrays in the attributes, themselves included.
pub const ATTRIBUTE_DEPTH_MAX: usize = 4;

/// What an owner says about a medium beside its title and what it is about.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct MediaDetails {
    /// Words under which it is found, each once, in the order of the owner.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = TAGS_MAX))]
    pub tags: Vec<String>,
    /// The language that it is about or spoken in: a tag of RFC 5646, in the form of its section 2.1.1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = LANGUAGE_BYTES_MAX))]
    pub language: Option<String>,
    /// Addresses that belong to it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(length(max = LINKS_MAX))]
    pub links: Vec<MediaLink>,
    /// Whom to ask about it. In no event, since these are kept when the medium is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub contact_email: Option<EmailAddress>,
    /// Whatever the owner's own programs keep of it. In no event, either.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub attributes: Map<String, Value>,
}

impl MediaDetails {
    /// True when nothing is said.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

/// An address that belongs to a medium.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "MediaLink")]
pub struct MediaLink {
    /// An absolute address of the scheme http or https.
    #[schemars(length(min = 1, max = LINK_URL_BYTES_MAX))]
    pub url: String,
    /// What it leads to, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = LINK_LABEL_LENGTH_MAX))]
    pub label: Option<String>,
}

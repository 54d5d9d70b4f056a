//! Questions to the full text search of media and its answers, over core request/reply: verb [`SEARCH_MEDIA`] of
//! [`crate::index_query`].
//!
//! Limits: a text has at most [`TEXT_CHARS_MAX`] characters and [`WORDS_MAX`] words, a page at most
//! [`ITEMS_MAX`](crate::index_query::ITEMS_MAX) hits; totals are counted up to [`TOTAL_MAX`], and of a facet the [`FACET_VALUES_MAX`] most
//! frequent values are given.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{document::MediaVisibility, index_query::MediaIndexItem, media::MediaStatus};

/// Verb: search media.
pub const SEARCH_MEDIA: &str = "search_media";

/// Code of a refusal: the text has too many characters or words.
pub const TEXT_MALFORMED: &str = "text_malformed";

/// Longest text in characters.
pub const TEXT_CHARS_MAX: usize = 200;

/// Most words of a text.
pub const WORDS_MAX: usize = 8;

/// Longest tag, language or owner that is filtered by, in characters.
pub const FILTER_CHARS_MAX: usize = 256;

/// Up to here a total is exact.
pub const TOTAL_MAX: u64 = 10_000;

/// Most values of a facet; the others are less frequent.
pub const FACET_VALUES_MAX: usize = 50;

/// Longest text of a highlight in characters.
pub const HIGHLIGHT_CHARS_MAX: usize = 200;

/// In which order hits are given.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "SearchSort", inline)]
pub enum MediaSearchSort {
    /// What fits the text best, then the newest.
    #[default]
    Relevance,
    /// The newest first.
    Newest,
    /// The oldest first.
    Oldest,
    /// The longest first; what has no duration yet is at the end.
    Longest,
    /// By title, without regard to case and accents; what has none is at the end.
    Title,
}

/// What hits are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "SearchFacet")]
pub enum MediaSearchFacet {
    /// Where media stand.
    Status,
    /// Tags.
    Tag,
    /// Languages.
    Language,
    /// Who may play them.
    Visibility,
    /// Owners.
    Owner,
}

impl MediaSearchFacet {
    /// Every one.
    pub const ALL: [Self; 5] = [Self::Status, Self::Tag, Self::Language, Self::Visibility, Self::Owner];

    /// Its name in JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Status => "status",
            Self::Tag => "tag",
            Self::Language => "language",
            Self::Visibility => "visibility",
            Self::Owner => "owner",
        }
    }
}

/// What hits have to be beside fitting the text; all of it that is given.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SearchFilters")]
pub struct MediaSearchFilters {
    /// Only media of this owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    /// Only media that stand there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<MediaStatus>,
    /// Only media with this tag.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tag: Option<String>,
    /// Only media in this language.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub language: Option<String>,
    /// Only media that these may play.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub visibility: Option<MediaVisibility>,
    /// Only media of at least this duration, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms_min: Option<u64>,
    /// Only media of at most this duration, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_ms_max: Option<u64>,
    /// Only media created then or later, as Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_from_ms: Option<u64>,
    /// Only media created before then, as Unix time in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_before_ms: Option<u64>,
}

/// Which media to find.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SearchMedia")]
pub struct MediaSearchQuery {
    /// Whose media may be found and counted; `None` for everybody's, which only an operator may ask.
    #[serde(default)]
    pub visible_owner: Option<String>,
    /// Words, each of which has to be found; words in quotation marks stand side by side. Empty for all media.
    #[serde(default)]
    pub text: String,
    /// What else hits have to be.
    #[serde(default)]
    pub filters: MediaSearchFilters,
    /// Their order.
    #[serde(default)]
    pub sort: MediaSearchSort,
    /// Where the page before ended: its `next`.
    #[serde(default)]
    pub cursor: Option<String>,
    /// Most hits, from 1 to [`ITEMS_MAX`](crate::index_query::ITEMS_MAX); larger values are cut.
    pub limit: u32,
    /// Answer only once the search has seen this revision of the bucket `media`; it waits a short while for it.
    #[serde(default)]
    pub min_revision: Option<u64>,
    /// What to count hits by.
    #[serde(default)]
    pub facets: Vec<MediaSearchFacet>,
}

/// Characters of a text, from `start` to before `end`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "CharacterRange")]
pub struct CharacterRange {
    /// The first one, from 0; Unicode code points are counted.
    pub start: u32,
    /// The one behind the last.
    pub end: u32,
}

/// Where the words of a text were found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SearchHighlight")]
pub struct SearchHighlight {
    /// Member of the medium: `title`, `tags` or `description`; others may come.
    pub field: String,
    /// What it says, or a part of it with at most [`HIGHLIGHT_CHARS_MAX`] characters: plain text.
    pub text: String,
    /// The words in `text`, in order and apart from each other.
    pub ranges: Vec<CharacterRange>,
}

/// One medium that was found.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SearchHit")]
pub struct MediaSearchHit {
    /// The medium as in lists.
    pub item: MediaIndexItem,
    /// Where the words were found; empty without any.
    pub highlights: Vec<SearchHighlight>,
}

/// How many hits have a value.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "FacetCount")]
pub struct FacetCount {
    /// The value.
    pub value: String,
    /// Hits that have it.
    pub count: u64,
}

/// Counts by facet, the most frequent values first. A facet is not narrowed by its own filter, so that other values can be chosen.
pub type SearchFacets = BTreeMap<MediaSearchFacet, Vec<FacetCount>>;

/// Newest revisions of buckets that an answer knows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SearchRevisions")]
pub struct SearchRevisions {
    /// Of the bucket `media`.
    pub media: u64,
    /// Of the bucket `assets`.
    pub assets: u64,
}

/// A page of hits.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "SearchPage")]
pub struct MediaSearchPage {
    /// In the order that was asked for.
    pub hits: Vec<MediaSearchHit>,
    /// Cursor of the next page; `None` at the end.
    pub next: Option<String>,
    /// All hits, at most [`TOTAL_MAX`].
    pub total: u64,
    /// True when there are more.
    pub total_is_lower_bound: bool,
    /// Counts by the facets that were asked for.
    pub facets: SearchFacets,
    /// What the search has seen.
    pub revisions: SearchRevisions,
    /// For how long the oldest change waits that is stored and can't be found yet, in milliseconds; 0 without any.
    pub lag_ms: u64,
}

//! Full text search of media: what was asked for is checked and handed to the index, with whose media may be found.
//!
//! Limits: a text has at most [`TEXT_CHARS_MAX`] characters and [`WORDS_MAX`](search_query::WORDS_MAX) words, which the index counts;
//! a filter at most [`FILTER_CHARS_MAX`] characters; a page at most [`index_query::ITEMS_MAX`] items.

use axum::{
    extract::{OriginalUri, State},
    response::Response,
};
use nats::Bus;
use nats::metrics::{labels::MetadataRead, table::METADATA_READS};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    document::MediaVisibility,
    index_query::{self, IndexReply, MediaIndexItem},
    media::MediaStatus,
    search_query::{
        self, FILTER_CHARS_MAX, MediaSearchFacet, MediaSearchFilters, MediaSearchHit, MediaSearchPage,
        MediaSearchQuery, MediaSearchSort, SearchFacets, SearchHighlight, SearchRevisions, TEXT_CHARS_MAX,
    },
    subjects,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{details::find_language, parse_page_limit};
use crate::index_client::{INDEX_WAIT, index_problem};
use crate::{AppState, openapi, own_writes::is_index_behind};
use auth::Principal;
use web::{
    cursor::CursorSealer,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    page,
    problem_code::ProblemCode,
    public_address::PublicAddress,
    query::{self, QueryParameters},
};

/// Which media to find.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wanted")]
pub(super) struct MediaSearchParameters {
    /// Words, each of which has to be found: as it is, as the beginning of a word, or with typing errors (one from 4 characters, two
    /// from 8). Words in quotation marks stand side by side. At most 8 words; all media without any.
    #[schemars(length(max = TEXT_CHARS_MAX))]
    q: Option<String>,
    /// Only media of this owner; for operators and admins.
    #[schemars(length(min = 1, max = FILTER_CHARS_MAX))]
    owner: Option<String>,
    /// Only media that stand there.
    status: Option<MediaStatus>,
    /// Only media with this tag.
    #[schemars(length(min = 1, max = FILTER_CHARS_MAX))]
    tag: Option<String>,
    /// Only media in this language (RFC 5646) or a kind of it: `pt` is also `pt-BR`.
    #[schemars(length(min = 1, max = FILTER_CHARS_MAX))]
    language: Option<String>,
    /// Only media that everybody may play, those whom a rule lets, or their owner alone.
    visibility: Option<MediaVisibility>,
    /// Only media of at least this duration in milliseconds.
    duration_ms_min: Option<u64>,
    /// Only media of at most this duration in milliseconds.
    duration_ms_max: Option<u64>,
    /// Only media created at this time or later (RFC 3339), or at most that long ago, such as `90s`, `2h` or `7d`.
    #[serde(default)]
    #[schemars(schema_with = "query::moment_schema")]
    created_after: Option<String>,
    /// Only media created before this time, or longer ago.
    #[serde(default)]
    #[schemars(schema_with = "query::moment_schema")]
    created_before: Option<String>,
    /// The order of the items; `relevance` unless said otherwise.
    #[serde(default)]
    sort: MediaSearchSort,
    /// `next_cursor` of the page before, with the same text, filters and order.
    cursor: Option<String>,
    /// Most items; 50 unless said otherwise.
    #[schemars(range(min = 1, max = index_query::ITEMS_MAX))]
    limit: Option<u32>,
    /// Answer only once the search has seen this revision of documents: `revision` of an earlier answer, not its `revisions.assets`.
    min_revision: Option<u64>,
    /// What to count by, separated by commas: `status`, `tag`, `language`, `visibility`, and `owner` for operators and admins.
    #[schemars(regex(
        pattern = "^(status|tag|language|visibility|owner)(,(status|tag|language|visibility|owner)){0,4}$"
    ))]
    facets: Option<String>,
}

openapi::query_parameters!(MediaSearchParameters);

/// One medium that was found.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MediaSearchItem")]
pub(super) struct MediaSearchItem {
    #[serde(flatten)]
    item: MediaIndexItem,
    /// Where the words were found; empty without any.
    highlights: Vec<SearchHighlight>,
}

/// A page of media that were found.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MediaSearchPage", example = json!({
    "items": [], "next_cursor": null, "total": 0, "total_is_lower_bound": false, "facets": {}, "revision": 42,
    "revisions": { "media": 42, "assets": 57 }, "lag_ms": 0,
}))]
pub(super) struct MediaSearchDocument {
    /// In the order that was asked for.
    items: Vec<MediaSearchItem>,
    /// Cursor of the next page; null at the end.
    next_cursor: Option<String>,
    /// How many there are on all pages.
    total: u64,
    /// True when there are more than `total`, which is exact up to 10,000.
    total_is_lower_bound: bool,
    /// Counts by what was asked for, of what the caller may see: the most frequent 50 values of each. The filter of a facet does not narrow it.
    facets: SearchFacets,
    /// What the search has seen of documents: its `min_revision`.
    revision: u64,
    /// What the search has seen of each bucket.
    revisions: SearchRevisions,
    /// For how long the oldest change waits that is stored and can't be found yet, in milliseconds.
    lag_ms: u64,
}

pub(super) static SEARCH_MEDIA: Operation = Operation::read(
    "/v1/media/search",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
);

/// Search media by words
///
/// An owner finds its own; operators and admins find everybody's. Exact words come before beginnings of words, and these before words
/// with typing errors; titles count more than tags, and these more than descriptions. Case, width and accents do not matter, and
/// scripts that are written without blanks are found by any part. Highlights are plain text, with ranges of code points.
#[utoipa::path(
    get,
    path = SEARCH_MEDIA.path,
    tag = "metadata",
    operation_id = "search_media",
    params(MediaSearchParameters),
    responses(
        (status = 200, description = "A page", body = ref("#/components/schemas/MediaSearchPage"), headers(("Link"))),
        (status = 409, description = "There is no such revision yet"),
    ),
)]
pub(super) async fn search_media(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    OriginalUri(uri): OriginalUri,
    QueryParameters(wanted): QueryParameters<MediaSearchParameters>,
) -> Result<Response, Problem> {
    METADATA_READS.increment(MetadataRead::Search);
    let visible_owner = who.list_owner_filter();
    let filters = wanted.filters(&who)?;
    let facets = parse_facets(wanted.facets.as_deref(), &who)?;
    let text = wanted.q.unwrap_or_default();
    if text.chars().nth(TEXT_CHARS_MAX).is_some() {
        return Err(malformed(format!("q has more than {TEXT_CHARS_MAX} characters")));
    }
    // An age is another time with each request: the cursor belongs to what was written.
    let timeless = MediaSearchFilters { created_from_ms: None, created_before_ms: None, ..filters.clone() };
    let times = (&wanted.created_after, &wanted.created_before);
    let list = (&visible_owner, &text, wanted.sort, timeless, times);
    let cursors = CursorSealer::new(&app.signing_key, search_query::SEARCH_MEDIA, &list)?;
    let mut question = MediaSearchQuery {
        visible_owner,
        text,
        filters,
        sort: wanted.sort,
        cursor: wanted.cursor.map(|cursor| cursors.open(&cursor)).transpose()?,
        limit: parse_page_limit(wanted.limit)?,
        min_revision: app.own_writes.find_revision(&app.bus, &who.owner, wanted.min_revision).await,
        facets,
    };
    let mut page = query_search(&app.bus, &question).await;
    if is_index_behind(&page) && wanted.min_revision.is_none() {
        question.min_revision = None;
        page = query_search(&app.bus, &question).await;
    }
    let page = page?;
    let next_cursor = page.next.map(|position| cursors.seal(&position));
    let items =
        page.hits.into_iter().map(|MediaSearchHit { item, highlights }| MediaSearchItem { item, highlights });
    let document = MediaSearchDocument {
        items: items.collect(),
        total: page.total,
        total_is_lower_bound: page.total_is_lower_bound,
        facets: page.facets,
        revision: page.revisions.media,
        revisions: page.revisions,
        lag_ms: page.lag_ms,
        next_cursor,
    };
    let next = document.next_cursor.clone();
    Ok(page::page_response(&document, next.as_deref(), &address, &uri))
}

/// Asks the index for a page.
async fn query_search(bus: &Bus, question: &MediaSearchQuery) -> Result<MediaSearchPage, Problem> {
    let subject = subjects::index_request_subject(search_query::SEARCH_MEDIA);
    match bus.request(subject, question, INDEX_WAIT).await? {
        IndexReply::Page(page) => Ok(page),
        IndexReply::Refused { code, detail } => Err(match code.as_str() {
            search_query::TEXT_MALFORMED => malformed(detail),
            // An index of an older version does not know the question.
            index_query::QUESTION_MALFORMED => {
                Problem::new(ProblemCode::IndexUnavailable).with_retry_after_s(5)
            }
            code => index_problem(code, detail),
        }),
    }
}

impl MediaSearchParameters {
    /// What hits have to be beside fitting the text.
    fn filters(&self, who: &Principal) -> Result<MediaSearchFilters, Problem> {
        if self.owner.as_ref().is_some_and(|owner| !who.may_see(owner)) {
            who.require_operator("operators and admins search the media of others")?;
        }
        for (name, value) in [("owner", &self.owner), ("tag", &self.tag), ("language", &self.language)] {
            let length = value.as_ref().map_or(1, |value| value.chars().count());
            if !(1..=FILTER_CHARS_MAX).contains(&length) {
                return Err(malformed(format!("{name} takes 1 to {FILTER_CHARS_MAX} characters")));
            }
        }
        let now_ms = nats::now_ms();
        let moment = |text: &Option<String>| {
            let read = |text: &String| {
                query::parse_moment_ms(text, now_ms).ok_or_else(|| {
                    malformed(
                        "created_after and created_before take RFC 3339, or an age such as 90s, 2h or 7d",
                    )
                })
            };
            text.as_ref().map(read).transpose()
        };
        Ok(MediaSearchFilters {
            owner: self.owner.clone(),
            status: self.status,
            tag: self.tag.clone(),
            language: self.language.as_deref().map(parse_language).transpose()?,
            visibility: self.visibility,
            duration_ms_min: self.duration_ms_min,
            duration_ms_max: self.duration_ms_max,
            created_from_ms: moment(&self.created_after)?,
            created_before_ms: moment(&self.created_before)?,
        })
    }
}

/// A language in the form in which it is kept.
fn parse_language(text: &str) -> Result<String, Problem> {
    find_language(text)
        .ok_or_else(|| malformed("language takes the tag of a language, such as `de` or `pt-BR`"))
}

/// What to count by: names with commas between them.
fn parse_facets(names: Option<&str>, who: &Principal) -> Result<Vec<MediaSearchFacet>, Problem> {
    let mut facets = Vec::new();
    for name in names.into_iter().flat_map(|names| names.split(',')) {
        let facet = MediaSearchFacet::ALL.into_iter().find(|facet| facet.as_str() == name);
        let facet = facet.ok_or_else(|| {
            malformed("facets takes status, tag, language, visibility and owner, separated by commas")
        })?;
        if facet == MediaSearchFacet::Owner {
            who.require_operator("operators and admins count media by owner")?;
        }
        if !facets.contains(&facet) {
            facets.push(facet);
        }
    }
    Ok(facets)
}

fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::QueryMalformed).with_detail(detail)
}

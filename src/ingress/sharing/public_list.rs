//! `GET /v1/library`: what everybody may watch, for visitors.

use axum::{
    extract::{OriginalUri, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{
    ids::MediaId,
    index_query::{self, MediaIndexItem, MediaIndexPage, PublicMediaIndexQuery},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{AppState, index_client, media, openapi, play::poster};
use web::{
    cursor::CursorSealer,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    page::ListPage,
    problem_code::ProblemCode,
    public_address::PublicAddress,
    query::QueryParameters,
};

/// Which page of it.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "WantedPublic")]
pub(super) struct PublicListQuery {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Most items; 50 unless said otherwise.
    #[schemars(range(min = 1, max = index_query::ITEMS_MAX))]
    limit: Option<u32>,
}

openapi::query_parameters!(PublicListQuery);

/// One medium that everybody may watch.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "PublicMedium", example = json!({
    "media_id": "06db00820dt0303jc5mn0r355k", "title": "A day at the sea", "duration_ms": 60_000, "created_at_ms": 1_763_900_814_467_u64,
    "watch_url": "/watch/06db00820dt0303jc5mn0r355k", "poster_url": "/v1/media/06db00820dt0303jc5mn0r355k/poster",
}))]
pub(super) struct PublicMediaItem {
    /// The medium.
    media_id: MediaId,
    /// Title for people; empty when nobody gave it one.
    title: String,
    /// Duration in milliseconds; 0 for a still picture.
    duration_ms: u64,
    /// Unix time in milliseconds.
    created_at_ms: u64,
    /// Page that plays it in a browser.
    watch_url: String,
    /// Its poster; null while it has none.
    poster_url: Option<String>,
}

impl PublicMediaItem {
    fn from_item(item: MediaIndexItem, base: &str) -> Self {
        let id = item.media_id;
        Self {
            media_id: id,
            title: item.title,
            duration_ms: item.summary.map(|summary| summary.duration_ms).unwrap_or_default(),
            created_at_ms: item.created_at_ms,
            watch_url: format!("{base}/watch/{id}"),
            poster_url: item.has_poster.then(|| poster::poster_url(base, id)),
        }
    }
}

pub(super) static LIST_PUBLIC_MEDIA: Operation =
    Operation::read("/v1/library", OperationAccess::Open, Some(RateLimitGroup::Metadata));

/// List what everybody may watch, newest first
///
/// Public media of all owners that play. Nothing unless the operator shows them to visitors: `ingress.sharing.public_library`.
#[utoipa::path(
    get,
    path = LIST_PUBLIC_MEDIA.path,
    tag = "metadata",
    operation_id = "list_public_media",
    params(PublicListQuery),
    responses(
        (status = 200, description = "A page", body = ref("#/components/schemas/PublicMediumPage"), headers(("Link"))),
        (status = 204, description = "They are not shown to visitors here"),
    ),
)]
pub(super) async fn list_public_media(
    State(app): State<AppState>,
    address: PublicAddress,
    OriginalUri(uri): OriginalUri,
    QueryParameters(wanted): QueryParameters<PublicListQuery>,
) -> Result<Response, Problem> {
    let cursors = CursorSealer::new(&app.signing_key, index_query::PUBLIC_MEDIA, &())?;
    let question = PublicMediaIndexQuery {
        cursor: wanted.cursor.map(|cursor| cursors.open(&cursor)).transpose()?,
        limit: media::parse_page_limit(wanted.limit)?,
    };
    if !app.config.sharing.public_library {
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let asked = index_client::query_index(&app.bus, index_query::PUBLIC_MEDIA, &question).await;
    let page: MediaIndexPage = asked.map_err(|problem: Problem| {
        // An index of an older version does not know the question.
        let is_unknown = problem.code() == ProblemCode::QueryMalformed.code();
        if is_unknown { Problem::new(ProblemCode::IndexUnavailable).with_retry_after_s(5) } else { problem }
    })?;
    let items = page.items.into_iter().map(|item| PublicMediaItem::from_item(item, address.prefix()));
    let list = ListPage {
        items: items.collect(),
        next_cursor: page.next.map(|position| cursors.seal(&position)),
        revision: page.revision,
    };
    Ok(list.into_list_response(&address, &uri))
}

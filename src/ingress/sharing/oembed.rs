//! `GET /v1/oembed`: how to embed a medium, for sites and editors that are given its address (oEmbed 1.0, <https://oembed.com>).

use axum::{
    Json,
    extract::{Query, State},
    http::header,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::ids::MediaId;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::public_medium::{MediumKind, PublicMedium};
use crate::{AppState, openapi, page_assets::escape_html, play};
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    public_address::PublicAddress,
};

/// How long an answer may be kept, in seconds: as long a medium that is not public any more may still be offered elsewhere.
const CACHE_AGE_S: u32 = 300;

/// What is to be embedded.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[schemars(rename = "WantedEmbed")]
pub(super) struct OembedQuery {
    /// The address of its page: `/watch/{media_id}` or `/embed/{media_id}` of this service, as a browser shows it.
    url: Option<String>,
    /// Largest width in pixels.
    maxwidth: Option<u32>,
    /// Largest height in pixels.
    maxheight: Option<u32>,
    /// `json`, or nothing.
    format: Option<String>,
}

openapi::query_parameters!(OembedQuery);

/// How to embed a medium.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Oembed", example = json!({
    "version": "1.0", "type": "video", "title": "A day at the sea", "provider_name": "StreamGate", "provider_url": "https://media.example.org/",
    "cache_age": 300, "width": 640, "height": 360, "html": "<iframe src=\"https://media.example.org/embed/06db00820dt0303jc5mn0r355k\"></iframe>",
}))]
pub(super) struct OembedDocument {
    /// `1.0`.
    version: &'static str,
    /// `video`, `rich` for sound alone, `photo` for a still picture.
    #[serde(rename = "type")]
    kind: &'static str,
    /// Its title, if it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    title: Option<String>,
    /// This service.
    provider_name: &'static str,
    /// Its address.
    provider_url: String,
    /// Seconds for which the answer may be kept.
    cache_age: u32,
    /// Pixels.
    width: u32,
    /// Pixels.
    height: u32,
    /// What to put into a page; not for a photo.
    #[serde(skip_serializing_if = "Option::is_none")]
    html: Option<String>,
    /// The picture, for a photo.
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
    /// Its poster, unless that is larger than asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    thumbnail_url: Option<String>,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    thumbnail_width: Option<u32>,
    /// Pixels.
    #[serde(skip_serializing_if = "Option::is_none")]
    thumbnail_height: Option<u32>,
}

pub(super) static READ_OEMBED: Operation =
    Operation::read("/v1/oembed", OperationAccess::Open, Some(RateLimitGroup::Streaming)).with_any_query();

/// Read how to embed a public medium
///
/// Takes the address of its page and answers by oEmbed 1.0. Of media that are not public nothing is said.
#[utoipa::path(
    get,
    path = READ_OEMBED.path,
    tag = "streaming",
    operation_id = "oembed",
    params(OembedQuery),
    responses(
        (status = 200, description = "How to embed it", body = ref("#/components/schemas/Oembed")),
        (status = 404, description = "There is no such public medium here"),
        (status = 501, description = "A format other than JSON"),
    ),
)]
pub(super) async fn read_oembed(
    State(app): State<AppState>,
    address: PublicAddress,
    Query(wanted): Query<OembedQuery>,
) -> Result<Response, Problem> {
    if wanted.format.as_deref().is_some_and(|format| format != "json") {
        // oEmbed 1.0, section 2.3.3.
        return Err(Problem::new(ProblemCode::FormatUnsupported).with_detail("the format is json"));
    }
    let base = address.absolute_prefix();
    let asked = wanted.url.as_deref().and_then(|url| media_of_page(url, &base));
    let found = match asked {
        Some(media_id) => PublicMedium::load(&app.bus, media_id).await?,
        None => None,
    };
    let medium = found.ok_or_else(|| Problem::not_found("this is not the page of a public medium here"))?;
    let largest = (wanted.maxwidth.unwrap_or(u32::MAX), wanted.maxheight.unwrap_or(u32::MAX));
    let poster = play::poster::poster_pixels(&app, &medium.encode, medium.poster.as_ref()).await;
    let document = describe_embed(&medium, &base, largest, poster);
    Ok(([(header::CACHE_CONTROL, "public, max-age=300")], Json(document)).into_response())
}

/// The medium of one of this service's pages; the scheme may be another one, since proxies speak for us.
fn media_of_page(url: &str, base: &str) -> Option<MediaId> {
    let without_scheme = |text: &str| text.split_once("://").map(|(_, rest)| rest.to_owned());
    let path = without_scheme(url)?;
    let path = path.strip_prefix(&without_scheme(base)?)?;
    let id = path.strip_prefix("/watch/").or_else(|| path.strip_prefix("/embed/"))?;
    id.split(['?', '#']).next()?.trim_end_matches('/').parse().ok()
}

fn describe_embed(
    medium: &PublicMedium,
    base: &str,
    largest: (u32, u32),
    poster: Option<(u32, u32)>,
) -> OembedDocument {
    let id = medium.media_id;
    let poster_url = play::poster::poster_url(base, id);
    let (width, height) = medium.player_pixels(largest);
    let title = Some(medium.title.clone()).filter(|title| !title.is_empty());
    let is_still = medium.kind() == MediumKind::Still;
    let thumbnail = poster.filter(|size| size.0 <= largest.0 && size.1 <= largest.1);
    let name = escape_html(title.as_deref().unwrap_or("Video"));
    let html = format!(
        "<iframe src=\"{}/embed/{id}\" width=\"{width}\" height=\"{height}\" title=\"{name}\" style=\"border:0\" \
         allow=\"autoplay; fullscreen; picture-in-picture\" allowfullscreen></iframe>",
        escape_html(base),
    );
    OembedDocument {
        version: "1.0",
        kind: match medium.kind() {
            MediumKind::Film => "video",
            MediumKind::Sound => "rich",
            MediumKind::Still => "photo",
        },
        title,
        provider_name: "StreamGate",
        provider_url: format!("{base}/"),
        cache_age: CACHE_AGE_S,
        width,
        height,
        html: (!is_still).then_some(html),
        url: is_still.then(|| poster_url.clone()),
        thumbnail_url: thumbnail.map(|_| poster_url),
        thumbnail_width: thumbnail.map(|size| size.0),
        thumbnail_height: thumbnail.map(|size| size.1),
    }
}

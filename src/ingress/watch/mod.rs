//! Two pages that play one medium in a browser, from this binary alone: `/watch/{media_id}`, and `/embed/{media_id}` for frames of other
//! sites, which never uses a credential.
//!
//! The scripts read the id from the address and ask `/v1/media/{id}/playback` themselves, so this module decides nothing; only the head of
//! a public medium's page says what it is. Scripts, styles and hls.js are embedded at build time; the content security policy allows
//! nothing from elsewhere.
//!
//! Limits: media ids only, checked by type; assets are a fixed list; no body is read.

use axum::{
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use schemas::ids::MediaId;

use super::{
    AppState, openapi,
    page_assets::{self, EmbeddedPage, PageAsset, SCRIPT, STYLE},
    sharing::link_preview,
};
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    public_address::PublicAddress,
};

static PAGE: EmbeddedPage = EmbeddedPage::new(include_bytes!("index.html"), &ASSETS);
/// Its files are those of the other page.
static EMBED_PAGE: EmbeddedPage = EmbeddedPage::new(include_bytes!("embed.html"), &ASSETS);
static ASSETS: [PageAsset; 12] = [
    PageAsset { name: "embed.css", content_type: STYLE, bytes: include_bytes!("embed.css") },
    PageAsset { name: "embed.js", content_type: SCRIPT, bytes: include_bytes!("embed.js") },
    PageAsset { name: "link.js", content_type: SCRIPT, bytes: include_bytes!("link.js") },
    PageAsset { name: "watch.css", content_type: STYLE, bytes: include_bytes!("watch.css") },
    PageAsset { name: "watch.js", content_type: SCRIPT, bytes: include_bytes!("watch.js") },
    PageAsset { name: "player.js", content_type: SCRIPT, bytes: include_bytes!("player.js") },
    PageAsset { name: "chapters.js", content_type: SCRIPT, bytes: include_bytes!("chapters.js") },
    PageAsset { name: "scenes.js", content_type: SCRIPT, bytes: include_bytes!("scenes.js") },
    PageAsset { name: "wallet.js", content_type: SCRIPT, bytes: include_bytes!("wallet.js") },
    PageAsset { name: "server.js", content_type: SCRIPT, bytes: include_bytes!("server.js") },
    PageAsset {
        name: "hls.min.mjs",
        content_type: SCRIPT,
        bytes: include_bytes!(concat!(env!("OUT_DIR"), "/hls.min.mjs")),
    },
    PageAsset {
        name: "hls.worker.js",
        content_type: SCRIPT,
        bytes: include_bytes!(concat!(env!("OUT_DIR"), "/hls.worker.js")),
    },
];

/// Serves the pages and their files; needs no right, the pages ask for the media themselves.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&READ_WATCH_PAGE, read_watch_page)
        .with(&READ_EMBED_PAGE, read_embed_page)
        .with(&READ_ASSET, read_asset)
}

/// Their descriptions; the pages' own files are none of the API.
#[derive(utoipa::OpenApi)]
#[openapi(paths(read_watch_page, read_embed_page))]
pub(super) struct WatchApiDoc;

impl openapi::OperationGroup for WatchApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(_: &mut openapi::SchemaCollector) {}
}

static READ_WATCH_PAGE: Operation =
    Operation::read("/watch/{media_id}", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

/// Watch one medium in a browser
///
/// It opens the playback session itself. The page of a public medium names title, poster and player for sites that show links
/// (Open Graph, oEmbed); any other is the same for every medium.
#[utoipa::path(
    get,
    path = READ_WATCH_PAGE.path,
    tag = "streaming",
    operation_id = "watch",
    params(("media_id", Path), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "A page", content_type = "text/html", headers(("ETag"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
    ),
)]
async fn read_watch_page(
    State(app): State<AppState>,
    Path(media_id): Path<String>,
    address: PublicAddress,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let media_id = parse_page_id(&media_id)?;
    let head = link_preview::render_head(&app, media_id, &address.absolute_prefix()).await;
    Ok(match head {
        Some(head) => PAGE.document_response_with_head(&head, &headers),
        None => PAGE.document_response(&headers),
    })
}

static READ_EMBED_PAGE: Operation =
    Operation::read("/embed/{media_id}", OperationAccess::Open, Some(RateLimitGroup::Api)).with_any_query();

/// Embed the player of one medium
///
/// For an `iframe` of another site; `ingress.sharing.frame_ancestors` says which may. It plays what is public, or what the token behind
/// `#token=` opens, and never uses a credential of who watches. `?autoplay=1` begins without sound, `?start=30` at a time in seconds.
#[utoipa::path(
    get,
    path = READ_EMBED_PAGE.path,
    tag = "streaming",
    operation_id = "embed",
    params(("media_id", Path), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "A page", content_type = "text/html", headers(("ETag"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
    ),
)]
async fn read_embed_page(
    State(app): State<AppState>,
    Path(media_id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    parse_page_id(&media_id)?;
    Ok(page_assets::allow_frames(EMBED_PAGE.document_response(&headers), &app.frame_sources))
}

fn parse_page_id(media_id: &str) -> Result<MediaId, Problem> {
    media_id.parse().map_err(|_| Problem::not_found("there is no such watch page"))
}

static READ_ASSET: Operation =
    Operation::read("/watch/assets/{file}", OperationAccess::Open, Some(RateLimitGroup::Api))
        .with_any_query();

async fn read_asset(Path(file): Path<String>, headers: HeaderMap) -> Result<Response, Problem> {
    PAGE.asset_response(&file, &headers)
}

#[cfg(test)]
mod tests;

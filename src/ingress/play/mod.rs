//! Playing: a playback session over its path token, and everything below it.
//!
//! `POST /v1/media/{id}/playback` asks the gate and answers addresses; `/play/{token}/{media_id}/...` serves them
//! to any player, since the token in the path is the right. While an encode grows its playlists are rendered from the job's
//! records; what is final comes from the store, and which medium it is from memory.
//!
//! Limits: [`Config`]; the cache holds final playlists and init segments, bounded by count, bytes and age.

pub(super) mod encryption;
mod growing;
mod known;
mod open;
mod path;

use axum::{
    Router,
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
    routing::{get, post},
};
use schemars::JsonSchema;
use schemas::{gate::Code, keys, media::Encode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{App, cache, openapi};
use gate::grant::{self, Denied};
pub use growing::Growing;
pub use known::Known;
use path::Wanted;
use web::{
    bytes::{self, Facts},
    error::Problem,
    kind::Kind,
};

/// Settings of playback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Final playlists and init segments in memory.
    pub cache: cache::Config,
    /// Largest object that is cached, in bytes.
    pub cache_object_bytes_max: u64,
    /// Most media that are remembered between requests.
    pub media_count_max: usize,
    /// Age at which a remembered medium is read again, whatever was heard, in seconds.
    pub media_age_seconds_max: u64,
    /// Largest segment that is encrypted, in bytes: a range near its end costs the encryption of all before it.
    pub encrypted_segment_bytes_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            cache: cache::Config { entries_max: 5_000, bytes_max: 64 * 1024 * 1024, age_s: 15 * 60 },
            cache_object_bytes_max: 1024 * 1024,
            media_count_max: 10_000,
            media_age_seconds_max: 30 * 60,
            encrypted_segment_bytes_max: 256 * 1024 * 1024,
        }
    }
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(open::open, play))]
pub(super) struct Described;

impl openapi::Describe for Described {
    fn define(schemas: &mut openapi::Schemas) {
        schemas.answer::<open::Playback>();
    }
}

/// The route that opens a session; behind [`auth::admit`], since a public medium needs no credential.
pub fn session_router() -> Router<App> {
    Router::new().route("/v1/media/{media_id}/playback", post(open::open))
}

/// The routes below a token; open, since the token is the right.
pub fn router() -> Router<App> {
    Router::new().route("/play/{token}/{media_id}/{*path}", get(play))
}

fn nothing_there() -> Problem {
    Problem::not_found("there is nothing at this address")
}

/// The token opens nothing, or nothing any more.
fn refused(code: Code) -> Problem {
    Problem::new(Kind::PlaybackRefused)
        .detail("ask for a new one with POST /v1/media/{media_id}/playback")
        .member("reason", serde_json::to_value(code).unwrap_or_default())
}

/// Fetch a playlist, segment or image of a playback session
///
/// Needs no credential: the token in the path is the right. Parameters in the query change nothing: players append their own.
#[utoipa::path(
    get,
    path = "/play/{token}/{media_id}/{path}",
    tag = "streaming",
    operation_id = "play",
    params(("token", Path), ("media_id", Path), ("path", Path), ("Range", Header), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "The file", headers(("ETag")), content(
            ("application/vnd.apple.mpegurl"), ("application/dash+xml"), ("video/mp4"), ("audio/mp4"), ("image/jpeg"),
            ("application/octet-stream"),
        )),
        (status = 206, description = "A part of it", headers(("ETag"), ("Content-Range")), content(
            ("application/vnd.apple.mpegurl"), ("application/dash+xml"), ("video/mp4"), ("audio/mp4"), ("image/jpeg"),
        )),
        (status = 304, description = "It is as known", headers(("ETag"))),
        (status = 403, description = "The session has ended, was revoked, or never was"),
        (status = 416, description = "The range lies outside of what there is", headers(("Content-Range"))),
    ),
)]
async fn play(
    State(app): State<App>,
    Path((token, id, path)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    serve(&app, &token, &id, &path, &headers).await
}

async fn serve(
    app: &App,
    token: &str,
    id: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let media_id = id.parse().map_err(|_| refused(Code::SessionUnknown))?;
    let playback_id =
        grant::token::open(&app.signing_key, token).ok_or_else(|| refused(Code::SessionUnknown))?;
    match app.grants.check(playback_id, media_id).await {
        Ok(()) => {}
        Err(Denied::Closed { code: Code::ChainUnavailable | Code::ChainDisagrees, blocks }) => {
            return Err(Denied::Closed { code: Code::ChainUnavailable, blocks }.into());
        }
        Err(Denied::Closed { code, .. }) => return Err(refused(code)),
        Err(denied) => return Err(denied.into()),
    }
    let wanted = Wanted::parse(path).ok_or_else(nothing_there)?;
    let medium = app.known.medium(&app.bus, media_id).await?.ok_or_else(nothing_there)?;
    let encode = &medium.encode;
    if let (schemas::document::Encryption::Aes128, Some(way)) =
        (medium.encryption, encryption::Way::of(wanted))
    {
        return encryption::serve(app, headers, way, media_id, &medium).await;
    }
    match wanted {
        Wanted::SegmentKey => Err(nothing_there()),
        Wanted::Growing(rendition) => Ok(rendered(headers, wanted, growing(app, &medium, rendition).await?)),
        Wanted::Multivariant if medium.is_growing => {
            let text = app.growing.multivariant(&app.bus, encode.job_id).await?;
            Ok(rendered(headers, wanted, text.ok_or_else(nothing_there)?))
        }
        _ => stored(app, headers, wanted, encode).await,
    }
}

/// The playlist of a rendition for players that began while it grew.
async fn growing(app: &App, medium: &known::Medium, rendition: &str) -> Result<String, Problem> {
    let encode = &medium.encode;
    if medium.is_growing {
        let text = app.growing.media(&app.bus, encode.job_id, rendition).await?;
        return text.ok_or_else(nothing_there);
    }
    let stored = text(app, format!("{}/{}", encode.prefix, keys::media_playlist(rendition))).await?;
    Ok(app.growing.ended(&app.bus, encode.job_id, &stored).await?)
}

/// A final playlist.
async fn text(app: &App, key: String) -> Result<String, Problem> {
    let bytes = small(app, key).await?;
    String::from_utf8(bytes.to_vec()).map_err(|error| Problem::internal(&error))
}

/// A playlist that may be longer the next time.
fn rendered(headers: &HeaderMap, wanted: Wanted<'_>, text: String) -> Response {
    let bytes = ::bytes::Bytes::from(text);
    let facts = Facts {
        size_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        etag: tag(&bytes),
        content_type: wanted.content_type(),
        cache_control: "private, no-cache",
    };
    bytes::answer_with(headers, &facts, &bytes)
}

/// An object of the store; what a key holds never changes, so its tag is made of the key.
async fn stored(
    app: &App,
    headers: &HeaderMap,
    wanted: Wanted<'_>,
    encode: &Encode,
) -> Result<Response, Problem> {
    let key = format!("{}/{}", encode.prefix, wanted.key());
    let mut facts = Facts {
        size_bytes: 0,
        etag: tag(key.as_bytes()),
        content_type: wanted.content_type(),
        cache_control: "private, max-age=3600",
    };
    if wanted.is_cached() {
        let bytes = small(app, key).await?;
        facts.size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        return Ok(bytes::answer_with(headers, &facts, &bytes));
    }
    facts.size_bytes = app.store.head(&key).await.map_err(missing)?.size_bytes;
    let store = app.store.clone();
    Ok(bytes::answer(headers, &facts, |range| Body::from_stream(store.get_stream(&key, range))))
}

/// A final playlist or init segment, from memory if it is there: what a key holds never changes.
async fn small(app: &App, key: String) -> Result<::bytes::Bytes, Problem> {
    if let Some(bytes) = app.streams.get(&key) {
        return Ok(bytes);
    }
    let bytes = app.store.get(&key, app.config.playback.cache_object_bytes_max).await.map_err(missing)?;
    app.streams.put(key, bytes.clone());
    Ok(bytes)
}

fn missing(error: store::Error) -> Problem {
    match error {
        store::Error::NotFound { .. } => nothing_there(),
        error => Problem::unavailable(&error),
    }
}

fn tag(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    format!("\"{}\"", data_encoding::HEXLOWER.encode(digest.get(..12).unwrap_or_default()))
}

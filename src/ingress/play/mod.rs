//! Playing: a playback session over its path token, and everything below it.
//!
//! `POST /v1/media/{id}/playback` asks the gate and answers addresses; `/play/{token}/{media_id}/...` serves them
//! to any player, since the token in the path is the right. While an encode grows its playlists are rendered from the job's
//! records; what is final comes from the store, and which medium it is from memory. Players report there how it plays
//! (`src/ingress/play/experience/mod.rs`).
//!
//! Limits: [`PlaybackConfig`]; one cache holds final playlists and init segments, another small segments, each bounded by count, bytes
//! and age.

mod captions;
mod download;
pub(super) mod encryption;
mod experience;
mod growing;
mod object_cache;
mod open;
mod path;
mod playable_media;
pub(super) mod poster;
mod thumbnail;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use nats::metrics::{
    labels::{PlaybackFile, SegmentDelivery, SessionCheck},
    table::{PLAYBACK_CHECKS, PLAYBACK_FILES, PLAYBACK_SEGMENTS},
};
use schemars::JsonSchema;
use schemas::{gate::GateReasonCode, ids::MediaId, keys, media::MediaEncode};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use store::BoundedObject;

use super::{AppState, cache, openapi};
pub use download::{DownloadPlans, EncodeFile, EncodeFileError};
pub use experience::{ExperienceConfig, ViewerExperience};
use gate::grant::{PlaybackDenied, token::PlaybackToken};
pub use growing::GrowingPlaylists;
pub use object_cache::ObjectCache;
use packaging::chapters;
use path::PlaybackPath;
pub use playable_media::PlayableMediaCache;
use web::{
    bytes::{self, RepresentationMetadata},
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    problem_code::ProblemCode,
};

/// Largest playlist that is changed before it is sent: 50 hours in segments of two seconds.
const PLAYLIST_BYTES_MAX: u64 = 16 * 1024 * 1024;

/// Settings of playback.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct PlaybackConfig {
    /// Final playlists and init segments in memory.
    pub cache: cache::CacheConfig,
    /// Small segments and pictures in memory, which many viewers ask for at the same time.
    pub segment_cache: cache::CacheConfig,
    /// Largest object that is cached, in bytes; also at most an eighth of its cache.
    pub cache_object_bytes_max: u64,
    /// Most media that are remembered between requests.
    pub media_count_max: usize,
    /// Age at which a remembered medium is read again, whatever changes were received, in seconds.
    pub media_age_seconds_max: u64,
    /// Largest segment that is encrypted, in bytes: a range near its end costs the encryption of all before it.
    pub encrypted_segment_bytes_max: u64,
    /// Heads of files that are downloaded, in memory: about 16 bytes for each picture and each 21 ms of sound.
    pub downloads: cache::CacheConfig,
    /// Most pictures and frames of sound of a file that is downloaded, together: three million are 7 hours at 60 pictures a second.
    pub download_samples_max: usize,
    /// Most files whose heads are made at the same time.
    pub download_builds_max: usize,
    /// What players report of views.
    pub experience: ExperienceConfig,
}

impl Default for PlaybackConfig {
    fn default() -> Self {
        Self {
            cache: cache::CacheConfig { entries_max: 5_000, bytes_max: 64 * 1024 * 1024, age_s: 15 * 60 },
            segment_cache: cache::CacheConfig {
                entries_max: 5_000,
                bytes_max: 128 * 1024 * 1024,
                age_s: 15 * 60,
            },
            cache_object_bytes_max: 1024 * 1024,
            media_count_max: 10_000,
            media_age_seconds_max: 30 * 60,
            encrypted_segment_bytes_max: 256 * 1024 * 1024,
            downloads: cache::CacheConfig {
                entries_max: 1_000,
                bytes_max: 256 * 1024 * 1024,
                age_s: 15 * 60,
            },
            download_samples_max: 3_000_000,
            download_builds_max: 2,
            experience: ExperienceConfig::default(),
        }
    }
}

/// The caches of final playlists and init segments, and of small segments.
///
/// # Errors
/// When a limit is 0.
pub fn open_object_caches(config: &PlaybackConfig) -> anyhow::Result<(Arc<ObjectCache>, Arc<ObjectCache>)> {
    let open = |cache| ObjectCache::new(cache, config.cache_object_bytes_max).map(Arc::new);
    Ok((open(config.cache)?, open(config.segment_cache)?))
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    open::open_playback,
    poster::read_poster,
    thumbnail::read_thumbnail,
    read_playback_path,
    experience::report_view,
    download::download_media
))]
pub(super) struct PlaybackApiDoc;

impl openapi::OperationGroup for PlaybackApiDoc {
    fn operations() -> Vec<&'static Operation> {
        session_router().merge(router()).merge(download_router()).operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<open::PlaybackDocument>();
    }
}

/// What opens a session, and the poster; a public medium needs no credential.
pub fn session_router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&open::OPEN_PLAYBACK, open::open_playback)
        .with(&poster::READ_POSTER, poster::read_poster)
        .with(&thumbnail::READ_THUMBNAIL, thumbnail::read_thumbnail)
}

/// The routes below a token; open, since the token is the right.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&READ_PLAYBACK_PATH, read_playback_path)
        .with(&experience::REPORT_VIEW, experience::report_view)
}

/// The file below a token; the token is the right here, too.
pub fn download_router() -> OperationRouter<AppState> {
    OperationRouter::default().with(&download::DOWNLOAD_MEDIA, download::download_media)
}

fn no_such_resource() -> Problem {
    Problem::not_found("there is nothing at this address")
}

/// The token opens nothing, or nothing any more.
fn playback_refused(code: GateReasonCode) -> Problem {
    Problem::new(ProblemCode::PlaybackRefused)
        .with_detail("ask for a new one with POST /v1/media/{media_id}/playback")
        .with_member("reason", serde_json::to_value(code).unwrap_or_default())
}

static READ_PLAYBACK_PATH: Operation = Operation::read(
    "/play/{token}/{media_id}/{*path}",
    OperationAccess::Path,
    Some(RateLimitGroup::Streaming),
)
.with_any_query();

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
            ("image/png"), ("image/webp"), ("application/octet-stream"), ("text/vtt"),
        )),
        (status = 206, description = "A part of it", headers(("ETag"), ("Content-Range")), content(
            ("application/vnd.apple.mpegurl"), ("application/dash+xml"), ("video/mp4"), ("audio/mp4"), ("image/jpeg"),
            ("image/png"), ("image/webp"), ("text/vtt"),
        )),
        (status = 304, description = "It is as known", headers(("ETag"))),
        (status = 403, description = "The session has ended, was revoked, or never was"),
        (status = 416, description = "The range lies outside of what there is", headers(("Content-Range"))),
    ),
)]
async fn read_playback_path(
    State(app): State<AppState>,
    Path((token, id, path)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    serve_path(&app, &token, &id, &path, &headers).await
}

/// What a path token opens.
struct OpenedSession {
    media_id: MediaId,
    medium: Arc<playable_media::PlayableMedium>,
}

/// The session of a token, while its grant holds, and the medium with the encode that it plays.
async fn open_token(app: &AppState, token: &str, id: &str) -> Result<OpenedSession, Problem> {
    let media_id = id.parse().map_err(|_| playback_refused(GateReasonCode::SessionUnknown))?;
    let PlaybackToken { playback_id, encode } = PlaybackToken::open(&app.signing_key, token)
        .ok_or_else(|| playback_refused(GateReasonCode::SessionUnknown))?;
    let checked = app.grants.check_session(playback_id, media_id).await;
    PLAYBACK_CHECKS.increment(if checked.is_ok() { SessionCheck::Allowed } else { SessionCheck::Refused });
    checked.map_err(session_problem)?;
    let medium = app.known.load_medium(&app.bus, media_id, encode).await?;
    // Another encode does not go with what its player has: it needs a session of its own.
    let gone = || encode.map_or_else(no_such_resource, |_| playback_refused(GateReasonCode::SessionUnknown));
    Ok(OpenedSession { media_id, medium: medium.ok_or_else(gone)? })
}

fn session_problem(denied: PlaybackDenied) -> Problem {
    match denied {
        PlaybackDenied::Closed {
            code: GateReasonCode::ChainUnavailable | GateReasonCode::ChainDisagrees,
            blocks,
        } => PlaybackDenied::Closed { code: GateReasonCode::ChainUnavailable, blocks }.into(),
        PlaybackDenied::Closed { code, .. } => playback_refused(code),
        denied => denied.into(),
    }
}

async fn serve_path(
    app: &AppState,
    token: &str,
    id: &str,
    path: &str,
    headers: &HeaderMap,
) -> Result<Response, Problem> {
    let OpenedSession { media_id, medium, .. } = open_token(app, token, id).await?;
    let wanted = PlaybackPath::parse(path).ok_or_else(no_such_resource)?;
    let answered = serve_wanted(app, headers, wanted, media_id, &medium).await?;
    count_file(wanted, medium.encryption.is_none());
    Ok(answered)
}

async fn serve_wanted(
    app: &AppState,
    headers: &HeaderMap,
    wanted: PlaybackPath<'_>,
    media_id: MediaId,
    medium: &playable_media::PlayableMedium,
) -> Result<Response, Problem> {
    let encode = &medium.encode;
    if let Some(found) = captions::CaptionResource::find(wanted, medium) {
        return captions::serve(app, headers, (wanted, found), media_id, medium).await;
    }
    if let (schemas::document::SegmentEncryption::Aes128, Some(way)) =
        (medium.encryption, encryption::EncryptedResource::from_path(wanted))
    {
        return encryption::serve_encrypted(app, headers, way, media_id, medium).await;
    }
    match wanted {
        PlaybackPath::SegmentKey => Err(no_such_resource()),
        PlaybackPath::Growing(rendition) => {
            Ok(playlist_response(headers, wanted, load_event_playlist(app, medium, rendition).await?))
        }
        PlaybackPath::Multivariant if medium.is_growing => {
            let text = app.growing.multivariant_playlist(&app.bus, encode.job_id).await?;
            let text = captions::add_to_multivariant(medium, text.ok_or_else(no_such_resource)?);
            Ok(playlist_response(headers, wanted, text))
        }
        PlaybackPath::Multivariant
            if !medium.encryption.is_none() || !medium.captions.is_empty() || !medium.chapters.is_empty() =>
        {
            let text = load_playlist_text(app, format!("{}/{}", encode.prefix, wanted.object_key())).await?;
            let is_clear = medium.encryption.is_none();
            let text = if is_clear { text } else { encryption::remove_iframes(&text) };
            Ok(playlist_response(headers, wanted, captions::add_to_multivariant(medium, text)))
        }
        PlaybackPath::Manifest if !medium.captions.is_empty() => {
            let text = load_playlist_text(app, format!("{}/{}", encode.prefix, wanted.object_key())).await?;
            Ok(playlist_response(headers, wanted, captions::add_to_manifest(medium, &text)?))
        }
        PlaybackPath::Chapters | PlaybackPath::ChapterList if medium.chapters.is_empty() => {
            Err(no_such_resource())
        }
        PlaybackPath::Chapters => {
            let text = chapters::render_chapters(&medium.chapters, encode.duration_ms);
            Ok(playlist_response(headers, wanted, text))
        }
        PlaybackPath::ChapterList => {
            let text = chapters::render_chapter_list(&medium.chapters, encode.duration_ms);
            Ok(playlist_response(headers, wanted, text))
        }
        PlaybackPath::Poster => poster::serve_poster(app, headers, media_id, medium).await,
        _ => stored_response(app, headers, wanted, encode).await,
    }
}

fn count_file(wanted: PlaybackPath<'_>, is_clear: bool) {
    PLAYBACK_FILES.increment(match wanted {
        PlaybackPath::Multivariant
        | PlaybackPath::Manifest
        | PlaybackPath::Playlist(_)
        | PlaybackPath::IFrames(_) => PlaybackFile::Playlist,
        PlaybackPath::Growing(_) => PlaybackFile::GrowingPlaylist,
        PlaybackPath::Segment(..) => PlaybackFile::Segment,
        _ => PlaybackFile::Other,
    });
    if matches!(wanted, PlaybackPath::Segment(..)) {
        PLAYBACK_SEGMENTS.increment(if is_clear {
            SegmentDelivery::Clear
        } else {
            SegmentDelivery::Encrypted
        });
    }
}

/// The playlist of a rendition for players that began while it grew.
async fn load_event_playlist(
    app: &AppState,
    medium: &playable_media::PlayableMedium,
    rendition: &str,
) -> Result<String, Problem> {
    let encode = &medium.encode;
    if medium.is_growing {
        let text = app.growing.render_event_playlist(&app.bus, encode.job_id, rendition).await?;
        return text.ok_or_else(no_such_resource);
    }
    let stored =
        load_playlist_text(app, format!("{}/{}", encode.prefix, keys::media_playlist_path(rendition)))
            .await?;
    Ok(app.growing.render_ended_playlist(&app.bus, encode.job_id, &stored).await?)
}

/// A final playlist.
async fn load_playlist_text(app: &AppState, key: String) -> Result<String, Problem> {
    let found = app.streams.load(&app.store, &key).await.map_err(|error| store_problem(&error))?;
    let bytes = match found {
        BoundedObject::Whole(bytes) => bytes,
        // Too large for memory, or memory is switched off.
        BoundedObject::Larger { .. } => {
            app.store.get(&key, PLAYLIST_BYTES_MAX).await.map_err(|error| store_problem(&error))?
        }
    };
    String::from_utf8(bytes.to_vec()).map_err(|error| Problem::internal(&error))
}

/// A playlist that may be longer the next time.
fn playlist_response(headers: &HeaderMap, wanted: PlaybackPath<'_>, text: String) -> Response {
    let bytes = ::bytes::Bytes::from(text);
    let facts = RepresentationMetadata {
        size_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        etag: content_tag(&bytes),
        content_type: wanted.content_type(),
        cache_control: "private, no-cache",
    };
    bytes::bytes_response(headers, &facts, &bytes)
}

/// An object of the store; what a key holds never changes, so its tag is made of the key.
async fn stored_response(
    app: &AppState,
    headers: &HeaderMap,
    wanted: PlaybackPath<'_>,
    encode: &MediaEncode,
) -> Result<Response, Problem> {
    let key = format!("{}/{}", encode.prefix, wanted.object_key());
    // Playlists change with the encryption of their medium, and with the captions that its owner brings.
    let is_kept =
        !matches!(wanted, PlaybackPath::Multivariant | PlaybackPath::Manifest | PlaybackPath::Playlist(_));
    let mut facts = RepresentationMetadata {
        size_bytes: 0,
        etag: content_tag(key.as_bytes()),
        content_type: wanted.content_type(),
        cache_control: if is_kept { "private, max-age=3600" } else { "private, no-cache" },
    };
    let objects = if wanted.is_description() { &app.streams } else { &app.segments };
    let found = objects.load(&app.store, &key).await.map_err(|error| store_problem(&error))?;
    facts.size_bytes = found.size_bytes();
    match found {
        BoundedObject::Whole(bytes) => Ok(bytes::bytes_response(headers, &facts, &bytes)),
        BoundedObject::Larger { .. } => {
            let store = app.store.clone();
            let body = |range| Body::from_stream(store.get_stream(&key, range));
            Ok(bytes::range_response(headers, &facts, body))
        }
    }
}

fn store_problem(error: &store::StoreError) -> Problem {
    match error {
        store::StoreError::NotFound { .. } => no_such_resource(),
        error => Problem::unavailable(error),
    }
}

fn content_tag(bytes: &[u8]) -> String {
    let digest = Sha256::digest(bytes);
    format!("\"{}\"", data_encoding::HEXLOWER.encode(digest.get(..12).unwrap_or_default()))
}

//! `GET /v1/media/{media_id}/poster`: the poster of a medium at an address that stays, without a playback session.

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue},
    response::Response,
};
use futures::TryStreamExt;
use schemas::{access::ApiKeyScope, ids::MediaId, keys, media::MediaEncode, poster::ChosenPoster};

use super::{
    content_tag, no_such_resource, path::PlaybackPath, playable_media::PlayableMedium, store_problem,
};
use crate::{AppState, media, sharing::PublicMedium};
use auth::Principal;
use web::{
    bytes::{self, RepresentationMetadata},
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

/// Bytes at the begin of a poster in which its size in pixels is looked for.
const POSTER_HEAD_BYTES: u64 = 64 * 1024;

pub(super) static READ_POSTER: Operation = Operation::read(
    "/v1/media/{media_id}/poster",
    OperationAccess::Optional(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Streaming),
);

/// Fetch the poster of a medium
///
/// Of a public medium it is everybody's, of any other its owner's; whom a rule lets in gets it with the playback session.
#[utoipa::path(
    get,
    path = READ_POSTER.path,
    tag = "streaming",
    operation_id = "read_poster",
    params(("media_id", Path), ("Range", Header), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "The picture", headers(("ETag")), content(("image/jpeg"), ("image/png"), ("image/webp"))),
        (status = 206, description = "A part of it", headers(("ETag"), ("Content-Range")), content(("image/jpeg"), ("image/png"), ("image/webp"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
        (status = 416, description = "The range lies outside of what there is", headers(("Content-Range"))),
    ),
)]
pub(super) async fn read_poster(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Option<axum::Extension<Principal>>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let media_id = media::parse_media_id(&id)?;
    let who = who.map(|axum::Extension(who)| who);
    let shown = find_shown_encode(&app, media_id, who.as_ref()).await?;
    let poster = StoredPoster::find(media_id, &shown.encode, shown.poster.as_ref());
    let response = poster.ok_or_else(no_such_resource)?.respond(&app, &headers, shown.cache_control).await?;
    Ok(shown.allow_embedding(response))
}

/// The poster for players; it changes when its owner chooses another.
pub(super) async fn serve_poster(
    app: &AppState,
    headers: &HeaderMap,
    media_id: MediaId,
    medium: &PlayableMedium,
) -> Result<Response, Problem> {
    let poster = StoredPoster::find(media_id, &medium.encode, medium.poster.as_ref());
    poster.ok_or_else(no_such_resource)?.respond(app, headers, "private, no-cache").await
}

/// Where the poster of a medium is.
struct StoredPoster {
    key: String,
    content_type: &'static str,
}

impl StoredPoster {
    /// The one that its owner chose, else that of its encode.
    fn find(media_id: MediaId, encode: &MediaEncode, chosen: Option<&ChosenPoster>) -> Option<Self> {
        if let Some(chosen) = chosen {
            let key = keys::chosen_poster_key(media_id, &chosen.name);
            return Some(Self { key, content_type: chosen.format.media_type() });
        }
        let content_type = PlaybackPath::Poster.content_type();
        encode.has_poster.then(|| Self { key: poster_key(encode), content_type })
    }

    async fn respond(
        &self,
        app: &AppState,
        headers: &HeaderMap,
        cache_control: &'static str,
    ) -> Result<Response, Problem> {
        let Self { key, content_type } = self;
        let size_bytes = app.store.head(key).await.map_err(|error| store_problem(&error))?.size_bytes;
        let etag = content_tag(key.as_bytes());
        let facts = RepresentationMetadata { size_bytes, etag, content_type, cache_control };
        let store = app.store.clone();
        Ok(bytes::range_response(headers, &facts, |range| Body::from_stream(store.get_stream(key, range))))
    }
}

/// The encode whose pictures somebody may see without a playback session.
pub(super) struct ShownEncode {
    pub(super) encode: MediaEncode,
    /// The poster that its owner chose.
    poster: Option<ChosenPoster>,
    /// How long they may be kept.
    pub(super) cache_control: &'static str,
    /// Who asks is its owner, or may see what is the owner's.
    pub(super) is_own: bool,
    is_public: bool,
}

impl ShownEncode {
    /// Lets pages of other sites show it, where oEmbed and Open Graph lead to it.
    pub(super) fn allow_embedding(&self, mut response: Response) -> Response {
        if self.is_public {
            let anywhere = HeaderValue::from_static("cross-origin");
            response.headers_mut().insert("cross-origin-resource-policy", anywhere);
        }
        response
    }
}

/// The encode of a public medium, or of one's own.
pub(super) async fn find_shown_encode(
    app: &AppState,
    media_id: MediaId,
    who: Option<&Principal>,
) -> Result<ShownEncode, Problem> {
    if let Some(medium) = PublicMedium::load(&app.bus, media_id).await? {
        let is_own = match who {
            Some(who) => who.may_see(media::MediumRecords::load(&app.bus, media_id).await?.owner()),
            None => false,
        };
        // A medium that stops being public stops being shown by others within a minute.
        let cache_control = "public, max-age=60";
        return Ok(ShownEncode {
            encode: medium.encode,
            poster: medium.poster,
            cache_control,
            is_own,
            is_public: true,
        });
    }
    let who = who.ok_or_else(no_such_resource)?;
    let medium = media::MediumRecords::load(&app.bus, media_id).await?;
    let may_see = who.may_see(medium.owner());
    let poster = medium.document.and_then(|held| held.record.poster);
    let encode = medium.asset.and_then(|held| held.record.encode).filter(|_| may_see);
    let encode = encode.ok_or_else(no_such_resource)?;
    // Nobody else at this browser is shown it from its cache.
    Ok(ShownEncode { encode, poster, cache_control: "private, no-cache", is_own: true, is_public: false })
}

/// Its address, below `base`.
pub(crate) fn poster_url(base: &str, media_id: MediaId) -> String {
    format!("{base}/v1/media/{media_id}/poster")
}

fn poster_key(encode: &MediaEncode) -> String {
    format!("{}/{}", encode.prefix, keys::POSTER)
}

/// Width and height of the poster in pixels; `None` when there is none, or it can't be read now.
pub(crate) async fn poster_pixels(
    app: &AppState,
    encode: &MediaEncode,
    chosen: Option<&ChosenPoster>,
) -> Option<(u32, u32)> {
    if let Some(chosen) = chosen {
        return Some((chosen.width, chosen.height));
    }
    if !encode.has_poster {
        return None;
    }
    let key = poster_key(encode);
    let head_bytes = app.store.head(&key).await.ok()?.size_bytes.min(POSTER_HEAD_BYTES);
    let head: Vec<_> = app.store.get_stream(&key, 0..head_bytes).try_collect().await.ok()?;
    let size = imagesize::blob_size(&head.concat()).ok()?;
    Some((u32::try_from(size.width).ok()?, u32::try_from(size.height).ok()?))
}

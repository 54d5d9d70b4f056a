//! `GET /v1/media/{media_id}/thumbnail`: a picture at a time, which a job of the kind `thumbnails` has made of what plays.

use axum::{
    body::Body,
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    keys,
    thumbnails::{WIDTH_PIXELS, WIDTH_PIXELS_MAX, WIDTH_PIXELS_MIN},
};
use serde::Deserialize;

use super::{content_tag, no_such_resource, path::PlaybackPath, poster::find_shown_encode};
use crate::{
    AppState, media, openapi,
    seconds::{SECONDS_MAX, to_millis},
};
use auth::Principal;
use web::{
    bytes::{self, RepresentationMetadata},
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    query::QueryParameters,
};

/// Which picture.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Thumbnail")]
pub(super) struct ThumbnailQuery {
    /// When it is shown, in seconds from the beginning of what plays, to the millisecond.
    #[schemars(range(min = 0, max = SECONDS_MAX))]
    t: f64,
    /// Its width in pixels, as it was asked for; 320 unless said otherwise.
    #[schemars(range(min = WIDTH_PIXELS_MIN, max = WIDTH_PIXELS_MAX))]
    width: Option<u32>,
}

openapi::query_parameters!(ThumbnailQuery);

pub(super) static READ_THUMBNAIL: Operation = Operation::read(
    "/v1/media/{media_id}/thumbnail",
    OperationAccess::Optional(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Streaming),
);

/// Fetch a picture of a medium at a time
///
/// The one that is shown then, once a job of the kind `thumbnails` has made it (`POST /v1/jobs`); until then it is `thumbnail_missing`. Of
/// a public medium it is everybody's, of any other, and of one with encrypted segments, its owner's. A newer encode has pictures of its own.
#[utoipa::path(
    get,
    path = READ_THUMBNAIL.path,
    tag = "streaming",
    operation_id = "read_thumbnail",
    params(("media_id", Path), ThumbnailQuery, ("Range", Header), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "The picture", headers(("ETag")), content(("image/jpeg"))),
        (status = 206, description = "A part of it", headers(("ETag"), ("Content-Range")), content(("image/jpeg"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
        (status = 404, description = "There is no such medium, or it is not yours, or the picture was not made: `code` says which"),
        (status = 416, description = "The range lies outside of what there is", headers(("Content-Range"))),
    ),
)]
pub(super) async fn read_thumbnail(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Option<axum::Extension<Principal>>,
    QueryParameters(wanted): QueryParameters<ThumbnailQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let media_id = media::parse_media_id(&id)?;
    let at_ms = to_millis(wanted.t).ok_or_else(|| malformed("t", &format!("0 to {SECONDS_MAX} seconds")))?;
    let width = wanted.width.unwrap_or(WIDTH_PIXELS);
    if !(WIDTH_PIXELS_MIN..=WIDTH_PIXELS_MAX).contains(&width) {
        return Err(malformed("width", &format!("{WIDTH_PIXELS_MIN} to {WIDTH_PIXELS_MAX} pixels")));
    }
    let who = who.map(|axum::Extension(who)| who);
    let shown = find_shown_encode(&app, media_id, who.as_ref()).await?;
    // Pictures of a film whose segments are encrypted would be the film in the clear.
    let known = app.known.load_medium(&app.bus, media_id, None).await?.ok_or_else(no_such_resource)?;
    if !known.encryption.is_none() && !shown.is_own {
        return Err(no_such_resource());
    }
    let key = format!("{}/{}", shown.encode.prefix, keys::thumbnail_path(at_ms, width));
    let size_bytes = match app.store.head(&key).await {
        Ok(found) => found.size_bytes,
        Err(store::StoreError::NotFound { .. }) => {
            let detail = format!("no picture of {at_ms} ms with {width} pixels was made of what plays");
            return Err(Problem::new(ProblemCode::ThumbnailMissing).with_detail(detail));
        }
        Err(error) => return Err(super::store_problem(&error)),
    };
    let is_clear = known.encryption.is_none();
    let facts = RepresentationMetadata {
        size_bytes,
        etag: content_tag(key.as_bytes()),
        content_type: PlaybackPath::Poster.content_type(),
        // What only the owner sees is in no cache that others ask.
        cache_control: if is_clear { shown.cache_control } else { "private, no-cache" },
    };
    let store = app.store.clone();
    let response =
        bytes::range_response(&headers, &facts, |range| Body::from_stream(store.get_stream(&key, range)));
    Ok(if is_clear { shown.allow_embedding(response) } else { response })
}

fn malformed(name: &str, detail: &str) -> Problem {
    Problem::new(ProblemCode::QueryMalformed).with_detail(format!("{name} takes {detail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_taken_to_the_millisecond() {
        for (seconds, millis) in
            [(0.0, Some(0)), (12.5, Some(12_500)), (0.1, Some(100)), (2.0004, Some(2_000))]
        {
            assert_eq!(to_millis(seconds), millis);
        }
        for seconds in [-0.001, f64::NAN, f64::INFINITY, SECONDS_MAX + 1.0] {
            assert_eq!(to_millis(seconds), None, "{seconds}");
        }
    }
}

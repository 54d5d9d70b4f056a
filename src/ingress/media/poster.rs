//! `PUT` and `DELETE /v1/media/{media_id}/poster`: an owner chooses the poster of a medium, a picture of its own or one of what plays.
//!
//! A picture is looked at without being decoded: its format, its size in pixels, and that it has an end. Browsers decode it, as one with a
//! type of an image and nothing else.
//!
//! Limits: [`super::MediaConfig`], [`SIDE_PIXELS_MIN`] and [`SIDE_PIXELS_MAX`] of each side.

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    document::MediaDocumentRecord,
    ids::MediaId,
    keys,
    poster::{ChosenPoster, PictureFormat},
    thumbnails::{WIDTH_PIXELS_MAX, WIDTH_PIXELS_MIN},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    MediumRecords,
    captions::{remove_objects, remove_unnamed},
    commit, parse_media_id,
};
use crate::{
    AppState, capacity, quotas,
    seconds::{SECONDS_MAX, to_millis, to_seconds},
    uploads::metadata::clean_media_type,
};
use auth::Principal;
use web::{
    body::{self, BodyLimits},
    error::Problem,
    json_document::JsonDocument,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// Least length of a side, in pixels.
const SIDE_PIXELS_MIN: usize = 16;
/// Largest length of a side, in pixels.
const SIDE_PIXELS_MAX: usize = 8_192;
/// Width of a picture of what plays where nobody says another, in pixels.
const WIDTH_PIXELS: u32 = 1_280;

/// A picture of what plays.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "PosterChoice", example = json!({ "at_s": 12.5 }))]
pub(super) struct PosterChoiceRequest {
    /// When it is shown, in seconds from the beginning of what plays, to the millisecond.
    #[schemars(range(min = 0, max = SECONDS_MAX))]
    at_s: f64,
    /// The width in pixels of which it was made; 1,280 unless said otherwise.
    #[serde(default)]
    #[schemars(range(min = WIDTH_PIXELS_MIN, max = WIDTH_PIXELS_MAX))]
    width: Option<u32>,
}

/// The poster that an owner chose.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MediaPoster")]
pub(super) struct PosterDocument {
    /// When it is shown, in seconds from the beginning of what played; null for a picture that the owner brought.
    at_s: Option<f64>,
    /// Its media type.
    media_type: &'static str,
    /// Width in pixels.
    width: u32,
    /// Height in pixels.
    height: u32,
    /// Bytes of it.
    size_bytes: u64,
}

impl PosterDocument {
    pub(super) fn new(chosen: &ChosenPoster) -> Self {
        Self {
            at_s: chosen.at_ms.map(to_seconds),
            media_type: chosen.format.media_type(),
            width: chosen.width,
            height: chosen.height,
            size_bytes: chosen.size_bytes,
        }
    }
}

pub(super) static SET_POSTER: Operation = Operation::change(
    Method::PUT,
    "/v1/media/{media_id}/poster",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
    &["media.changed"],
)
.with_room(capacity::CAPTIONS);

/// Choose the poster of a medium
///
/// The body is a picture (JPEG, PNG or WebP), or names a time of what plays, of which a job of the kind `thumbnails` has made a picture
/// (`POST /v1/jobs`); until then it is `thumbnail_missing`. It is kept when the medium is encoded again.
#[utoipa::path(
    put,
    path = SET_POSTER.path,
    tag = "metadata",
    operation_id = "set_poster",
    params(("media_id", Path), ("If-Match", Header)),
    request_body(description = "The picture, or when it is shown", content(
        (ref("#/components/schemas/PosterChoice") = "application/json"),
        (Vec<u8> = "image/jpeg"), (Vec<u8> = "image/png"), (Vec<u8> = "image/webp"),
    )),
    responses(
        (status = 200, description = "The document as it is now", body = ref("#/components/schemas/MediaDocument"), headers(("ETag"))),
        (status = 404, description = "There is no such medium, or it is not yours, or the picture was not made: `code` says which"),
        (status = 408, description = "The picture came too slowly"),
        (status = 410, description = "It was removed, and can be restored for a time"),
        (status = 413, description = "The picture has more bytes than one may"),
        (status = 415, description = "Another media type, or coded bytes"),
        (status = 422, description = "It is no such picture: `detail` says why"),
    ),
)]
pub(super) async fn set_poster(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    request: Request,
) -> Result<Response, Problem> {
    let media_id = parse_media_id(&id)?;
    let (parts, body) = request.into_parts();
    let sent = read_sent(&parts)?;
    // Nothing but a few members: a picture is read only of one who may change the medium.
    let (choice, body) = match sent {
        SentPoster::Time => (Some(read_choice(&parts, body).await?), Body::empty()),
        SentPoster::Picture(_) => (None, body),
    };
    let medium = commit::load_owned(&app.bus, media_id, &who).await?;
    commit::check_seen(&parts.headers, &medium.render_document(media_id)?)?;
    let (bytes, at_ms) = match (sent, choice) {
        (SentPoster::Picture(format), _) => (read_picture(&app, &parts, body, format).await?, None),
        (SentPoster::Time, Some(choice)) => load_thumbnail(&app, &medium, choice).await?,
        (SentPoster::Time, None) => return Err(picture_invalid("it names no time".to_owned())),
    };
    let chosen = describe_picture(&bytes, at_ms)?;
    let quota = app.config.quotas.quota_of(medium.owner());
    quotas::require_byte_room(&app.bus, quota, medium.owner(), chosen.size_bytes).await?;
    let key = keys::chosen_poster_key(media_id, &chosen.name);
    app.store.put(&key, bytes).await.map_err(|error| Problem::unavailable(&error))?;
    let (name, size_bytes) = (chosen.name.clone(), chosen.size_bytes);
    match change_poster(&app, (media_id, &who, &parts.headers), Some(chosen)).await {
        Ok(changed) => {
            quotas::add_uploaded_bytes(&app.bus, changed.medium.owner(), size_bytes).await;
            Ok(changed.medium.render_document(media_id)?.to_response(&HeaderMap::new()))
        }
        Err(problem) => {
            let is_named = |document: &MediaDocumentRecord| {
                document.poster.as_ref().is_some_and(|poster| poster.name == name)
            };
            remove_unnamed(&app, &problem, (media_id, key), is_named).await;
            Err(problem)
        }
    }
}

pub(super) static REMOVE_POSTER: Operation = Operation::change(
    Method::DELETE,
    "/v1/media/{media_id}/poster",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
    &["media.changed"],
);

/// Take back the choice of a poster
///
/// That of the encode is shown again.
#[utoipa::path(
    delete,
    path = REMOVE_POSTER.path,
    tag = "metadata",
    operation_id = "remove_poster",
    params(("media_id", Path), ("If-Match", Header)),
    responses(
        (status = 200, description = "The document as it is now", body = ref("#/components/schemas/MediaDocument"), headers(("ETag"))),
        (status = 410, description = "It was removed, and can be restored for a time"),
    ),
)]
pub(super) async fn remove_poster(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let media_id = parse_media_id(&id)?;
    let changed = change_poster(&app, (media_id, &who, &headers), None).await?;
    Ok(changed.medium.render_document(media_id)?.to_response(&HeaderMap::new()))
}

/// Writes the choice, and removes the picture that was chosen before.
async fn change_poster(
    app: &AppState,
    by: (MediaId, &Principal, &HeaderMap),
    chosen: Option<ChosenPoster>,
) -> Result<commit::ChangedMedium, Problem> {
    let media_id = by.0;
    let render =
        |medium: &MediumRecords| -> Result<JsonDocument, Problem> { medium.render_document(media_id) };
    let apply = |document: &MediaDocumentRecord| {
        Ok(MediaDocumentRecord { poster: chosen.clone(), ..document.clone() })
    };
    let changed = commit::change_seen(app, by, render, apply).await?;
    if let Some(before) = changed.before.poster.as_ref().filter(|before| Some(*before) != chosen.as_ref()) {
        remove_objects(app, &[keys::chosen_poster_key(media_id, &before.name)]).await;
    }
    Ok(changed)
}

/// The picture of what plays at a time, and that time in milliseconds.
async fn load_thumbnail(
    app: &AppState,
    medium: &MediumRecords,
    choice: PosterChoiceRequest,
) -> Result<(Bytes, Option<u64>), Problem> {
    let at_ms = to_millis(choice.at_s).ok_or_else(|| {
        Problem::new(ProblemCode::JsonInvalid).with_pointer("/at_s", format!("0 to {SECONDS_MAX} seconds"))
    })?;
    let width = choice.width.unwrap_or(WIDTH_PIXELS);
    if !(WIDTH_PIXELS_MIN..=WIDTH_PIXELS_MAX).contains(&width) {
        let detail = format!("{WIDTH_PIXELS_MIN} to {WIDTH_PIXELS_MAX} pixels");
        return Err(Problem::new(ProblemCode::JsonInvalid).with_pointer("/width", detail));
    }
    let missing = || {
        let detail = format!("no picture of {at_ms} ms with {width} pixels was made of what plays");
        Problem::new(ProblemCode::ThumbnailMissing).with_detail(detail)
    };
    let encode = medium.asset.as_ref().and_then(|held| held.record.encode.as_ref()).ok_or_else(missing)?;
    let key = format!("{}/{}", encode.prefix, keys::thumbnail_path(at_ms, width));
    let bytes_max = u64::try_from(app.config.media.poster_bytes_max).unwrap_or(u64::MAX);
    match app.store.get(&key, bytes_max).await {
        Ok(bytes) => Ok((bytes, Some(at_ms))),
        Err(store::StoreError::NotFound { .. }) => Err(missing()),
        Err(error) => Err(Problem::unavailable(&error)),
    }
}

fn content_type(parts: &Parts) -> Option<String> {
    parts.headers.get(header::CONTENT_TYPE)?.to_str().ok().and_then(clean_media_type)
}

/// What a request sends.
#[derive(Debug, Clone, Copy)]
enum SentPoster {
    /// When the picture is shown.
    Time,
    /// A picture.
    Picture(PictureFormat),
}

fn read_sent(parts: &Parts) -> Result<SentPoster, Problem> {
    if content_type(parts).as_deref() == Some("application/json") {
        return Ok(SentPoster::Time);
    }
    sent_format(parts).map(SentPoster::Picture)
}

async fn read_choice(parts: &Parts, body: Body) -> Result<PosterChoiceRequest, Problem> {
    let limits = BodyLimits::from_extensions(&parts.extensions);
    body::parse_json(&body::read_body(body, &limits).await?)
}

async fn read_picture(
    app: &AppState,
    parts: &Parts,
    body: Body,
    format: PictureFormat,
) -> Result<Bytes, Problem> {
    let limits = BodyLimits::from_extensions(&parts.extensions);
    let limits = BodyLimits { bytes_max: app.config.media.poster_bytes_max, ..limits };
    let bytes = body::read_body(body, &limits).await?;
    if find_format(&bytes) != Some(format) {
        return Err(picture_invalid(format!("the bytes are no {}", format.media_type())));
    }
    Ok(bytes)
}

/// The format that a request says that it sends.
fn sent_format(parts: &Parts) -> Result<PictureFormat, Problem> {
    if parts.headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity") {
        return Err(Problem::new(ProblemCode::ContentEncoding));
    }
    let formats = [PictureFormat::Jpeg, PictureFormat::Png, PictureFormat::Webp];
    let said = content_type(parts);
    formats.into_iter().find(|format| said.as_deref() == Some(format.media_type())).ok_or_else(|| {
        let detail = "image/jpeg, image/png or image/webp of a picture, application/json of a time";
        Problem::new(ProblemCode::MediaType).with_detail(detail)
    })
}

/// The format by what a file begins and ends with: one that was cut is none.
fn find_format(bytes: &[u8]) -> Option<PictureFormat> {
    if bytes.starts_with(b"\xff\xd8\xff") {
        // Zeros may follow the marker of the end (ISO/IEC 10918-1, B.1.1.2).
        let end = bytes.iter().rposition(|byte| *byte != 0)?;
        return bytes.get(..=end)?.ends_with(b"\xff\xd9").then_some(PictureFormat::Jpeg);
    }
    if bytes.starts_with(b"\x89PNG\r\n\x1a\n") {
        return bytes.ends_with(b"IEND\xae\x42\x60\x82").then_some(PictureFormat::Png);
    }
    let size_bytes = bytes.get(4..8).and_then(|size| size.try_into().ok()).map(u32::from_le_bytes)?;
    let is_webp = bytes.starts_with(b"RIFF") && bytes.get(8..12) == Some(b"WEBP");
    let is_whole = u64::from(size_bytes) + 8 <= u64::try_from(bytes.len()).ok()?;
    (is_webp && is_whole).then_some(PictureFormat::Webp)
}

fn describe_picture(bytes: &[u8], at_ms: Option<u64>) -> Result<ChosenPoster, Problem> {
    let format = find_format(bytes).ok_or_else(|| picture_invalid("it is no whole picture".to_owned()))?;
    let size = imagesize::blob_size(bytes)
        .map_err(|_| picture_invalid("its size in pixels can't be read".to_owned()))?;
    let sides = SIDE_PIXELS_MIN..=SIDE_PIXELS_MAX;
    if !sides.contains(&size.width) || !sides.contains(&size.height) {
        let (width, height) = (size.width, size.height);
        let detail = format!(
            "it has {width} x {height} pixels; each side may have {SIDE_PIXELS_MIN} to {SIDE_PIXELS_MAX}"
        );
        return Err(picture_invalid(detail));
    }
    let to_pixels = |length: usize| u32::try_from(length).unwrap_or(u32::MAX);
    Ok(ChosenPoster {
        name: data_encoding::HEXLOWER.encode(&rand::random::<[u8; 8]>()),
        format,
        width: to_pixels(size.width),
        height: to_pixels(size.height),
        size_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        at_ms,
    })
}

fn picture_invalid(detail: String) -> Problem {
    Problem::new(ProblemCode::PictureInvalid).with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picture_is_known_by_its_begin_and_its_end() {
        let jpeg = b"\xff\xd8\xff\xe0rest\xff\xd9";
        let png = b"\x89PNG\r\n\x1a\nrestIEND\xae\x42\x60\x82";
        let webp = b"RIFF\x08\0\0\0WEBPVP8 ";
        for (bytes, format) in [
            (&jpeg[..], Some(PictureFormat::Jpeg)),
            (&[&jpeg[..], &[0, 0]].concat(), Some(PictureFormat::Jpeg)),
            (&jpeg[..7], None),
            (&png[..], Some(PictureFormat::Png)),
            (&png[..12], None),
            (&webp[..], Some(PictureFormat::Webp)),
            (&webp[..14], None),
            (b"<svg xmlns=\"http://www.w3.org/2000/svg\"/>", None),
            (b"GIF89a", None),
            (b"", None),
        ] {
            assert_eq!(find_format(bytes), format, "{bytes:?}");
        }
        assert!(describe_picture(jpeg, None).is_err(), "without pixels");
    }
}

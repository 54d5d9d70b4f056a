//! `/v1/media/{media_id}/captions`: texts in a language that an owner brings for a medium, beside those of its file.
//!
//! A file is read strictly and written anew ([`packaging::captions`]). The list of an owner's tracks is in the document, each file is an
//! object under a name of its own, which is removed when another one takes its place. What a crash leaves between the two goes with the
//! medium.
//!
//! A change names the version of the list that its sender has seen (`If-Match`): two editors who add a language at once don't lose one.
//!
//! Limits: those of [`super::MediaConfig`] and [`schemas::captions`].

use axum::{
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, Method, StatusCode, header},
    response::Response,
};
use bytes::Bytes;
use nats::metrics::{labels::MetadataRead, table::METADATA_READS};
use packaging::captions::{CaptionFile, CaptionFormat, track_label};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    captions::{CaptionKind, CaptionTrack, LABEL_LENGTH_MAX, NAME_PREFIX, TRACKS_MAX},
    document::MediaDocumentRecord,
    ids::MediaId,
    keys,
    media::EncodedSubtitles,
    media_details::LANGUAGE_BYTES_MAX,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{MediumRecords, commit, details::find_language, parse_media_id};
use crate::{
    AppState, capacity, openapi, quotas,
    uploads::metadata::{clean_line, clean_media_type},
};
use auth::Principal;
use web::{
    body::{self, BodyLimits},
    conditional,
    error::Problem,
    json_document::JsonDocument,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    query::QueryParameters,
};

/// Media types of the files that are taken.
const WEBVTT_TYPE: &str = "text/vtt";
const SUBRIP_TYPES: [&str; 2] = ["application/x-subrip", "text/srt"];

/// The texts that play with a medium.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CaptionList", example = json!({ "captions": [{
    "language": "de", "kind": "subtitles", "label": "Deutsch", "source": "uploaded", "cue_count": 412, "size_bytes": 31_337,
    "changed_at_ms": 1_763_900_814_467_u64,
}] }))]
pub(super) struct CaptionListDocument {
    /// One of each language and kind; the owner's first.
    captions: Vec<CaptionDocument>,
}

/// One track of text.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Captions")]
pub(super) struct CaptionDocument {
    /// Its language: a tag of RFC 5646, `und` where a file does not say it.
    language: String,
    /// What it is for.
    kind: CaptionKind,
    /// Name for people.
    label: String,
    /// Where it comes from.
    source: CaptionSource,
    /// Texts in it; null of what the file brought.
    cue_count: Option<u32>,
    /// Bytes of it.
    size_bytes: u64,
    /// Unix time in milliseconds of its upload; null of what the file brought.
    changed_at_ms: Option<u64>,
}

/// Where a track comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "CaptionSource")]
pub(super) enum CaptionSource {
    /// It is a track of the file.
    Embedded,
    /// Its owner brought it.
    Uploaded,
}

impl CaptionDocument {
    pub(super) fn of_track(track: &CaptionTrack) -> Self {
        Self {
            language: track.language.clone(),
            kind: track.kind,
            label: track_label(track),
            source: CaptionSource::Uploaded,
            cue_count: Some(track.cue_count),
            size_bytes: track.size_bytes,
            changed_at_ms: Some(track.changed_at_ms),
        }
    }

    fn of_file(subtitles: &EncodedSubtitles) -> Self {
        Self {
            language: subtitles.language.clone(),
            kind: known_kind(subtitles).unwrap_or(CaptionKind::Subtitles),
            label: subtitles.label.clone(),
            source: CaptionSource::Embedded,
            cue_count: None,
            size_bytes: subtitles.size_bytes,
            changed_at_ms: None,
        }
    }
}

/// `None` where an encode of before does not say whether they name sounds beside speech.
fn known_kind(subtitles: &EncodedSubtitles) -> Option<CaptionKind> {
    let is_hearing_impaired = subtitles.is_hearing_impaired.or(subtitles.is_forced.then_some(false))?;
    Some(CaptionKind::of_flags(subtitles.is_forced, is_hearing_impaired))
}

/// True for texts that are of a kind, or may be.
fn may_be_of(subtitles: &EncodedSubtitles, kind: CaptionKind) -> bool {
    known_kind(subtitles).map_or(kind != CaptionKind::Forced, |known| known == kind)
}

/// What plays: the owner's tracks, and those of the file that none of them takes the place of.
fn render_list(medium: &MediumRecords) -> Result<JsonDocument, Problem> {
    let own = own_tracks(medium);
    let encode = medium.asset.as_ref().and_then(|held| held.record.encode.as_ref());
    let of_file = encode.into_iter().flat_map(|encode| &encode.subtitles);
    let is_replaced = |text: &&EncodedSubtitles| {
        own.iter().any(|track| track.language == text.language && may_be_of(text, track.kind))
    };
    let of_file = of_file.filter(|text| !is_replaced(text));
    let captions = own.iter().map(CaptionDocument::of_track).chain(of_file.map(CaptionDocument::of_file));
    JsonDocument::new(&CaptionListDocument { captions: captions.collect() })
}

fn own_tracks(medium: &MediumRecords) -> &[CaptionTrack] {
    medium.document.as_ref().map_or(&[], |held| &held.record.captions)
}

/// Which of the tracks of a language.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CaptionChoice")]
pub(super) struct CaptionQuery {
    /// What it is for; subtitles unless said otherwise.
    #[serde(default)]
    kind: CaptionKind,
}

openapi::query_parameters!(CaptionQuery);

/// What is said about a file beside its language.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CaptionPut")]
pub(super) struct CaptionPutQuery {
    /// What it is for; subtitles unless said otherwise.
    #[serde(default)]
    kind: CaptionKind,
    /// Name for people; that of the language without one.
    #[schemars(length(max = LABEL_LENGTH_MAX))]
    label: Option<String>,
}

openapi::query_parameters!(CaptionPutQuery);

pub(super) static LIST_CAPTIONS: Operation = Operation::read(
    "/v1/media/{media_id}/captions",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
);

/// List the captions of a medium
///
/// Those that its owner brought, and those of its file that play. The tag of the list is what a change of it names in `If-Match`.
#[utoipa::path(
    get,
    path = LIST_CAPTIONS.path,
    tag = "metadata",
    operation_id = "list_captions",
    params(("media_id", Path), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "The list", body = ref("#/components/schemas/CaptionList"), headers(("ETag"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
        (status = 410, description = "It was removed, and can be restored for a time"),
    ),
)]
pub(super) async fn list_captions(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    METADATA_READS.increment(MetadataRead::Document);
    let medium = MediumRecords::load_for(&app.bus, parse_media_id(&id)?, &who).await?;
    Ok(render_list(&medium)?.to_response(&headers))
}

pub(super) static READ_CAPTIONS: Operation = Operation::read(
    "/v1/media/{media_id}/captions/{language}",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
);

/// Read the captions of a medium in a language
///
/// As WebVTT, whatever the owner's file was; those of the file where its owner brought none of the kind.
#[utoipa::path(
    get,
    path = READ_CAPTIONS.path,
    tag = "metadata",
    operation_id = "read_captions",
    params(("media_id", Path), ("language", Path), CaptionQuery, ("If-None-Match", Header), ("Range", Header)),
    responses(
        (status = 200, description = "The texts", headers(("ETag")), content(("text/vtt"))),
        (status = 206, description = "A part of them", headers(("ETag"), ("Content-Range")), content(("text/vtt"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
        (status = 404, description = "There is no such medium, or it is not yours, or it has no such captions: `code` says which"),
        (status = 410, description = "It was removed, and can be restored for a time"),
        (status = 416, description = "The range lies outside of what there is", headers(("Content-Range"))),
    ),
)]
pub(super) async fn read_captions(
    State(app): State<AppState>,
    Path((id, language)): Path<(String, String)>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<CaptionQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    METADATA_READS.increment(MetadataRead::Document);
    let media_id = parse_media_id(&id)?;
    let medium = MediumRecords::load_for(&app.bus, media_id, &who).await?;
    let key = find_key(&medium, media_id, &language, wanted.kind).ok_or_else(captions_missing)?;
    let size_bytes = match app.store.head(&key).await {
        Ok(found) => found.size_bytes,
        Err(store::StoreError::NotFound { .. }) => return Err(captions_missing()),
        Err(error) => return Err(Problem::unavailable(&error)),
    };
    let facts = web::bytes::RepresentationMetadata {
        size_bytes,
        // What a key holds never changes.
        etag: conditional::EntityTag::from_bytes(key.as_bytes()).to_quoted(),
        content_type: "text/vtt; charset=utf-8",
        cache_control: "private, no-cache",
    };
    let store = app.store.clone();
    Ok(web::bytes::range_response(&headers, &facts, |range| Body::from_stream(store.get_stream(&key, range))))
}

/// The object of the track that plays of a language and kind.
fn find_key(medium: &MediumRecords, media_id: MediaId, language: &str, kind: CaptionKind) -> Option<String> {
    let language = find_language(language).unwrap_or_else(|| language.to_owned());
    let own = own_tracks(medium).iter().find(|track| track.is_of(&language, kind));
    if let Some(track) = own {
        return Some(keys::captions_key(media_id, &track.name));
    }
    let encode = medium.asset.as_ref()?.record.encode.as_ref()?;
    let of_language = || encode.subtitles.iter().filter(|text| text.language == language);
    let of_file = of_language()
        .find(|text| known_kind(text) == Some(kind))
        .or_else(|| of_language().find(|text| may_be_of(text, kind)))?;
    Some(format!("{}/{}", encode.prefix, keys::whole_subtitles_path(&of_file.name)))
}

fn captions_missing() -> Problem {
    Problem::new(ProblemCode::CaptionsMissing)
}

pub(super) static PUT_CAPTIONS: Operation = Operation::change(
    Method::PUT,
    "/v1/media/{media_id}/captions/{language}",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
    &["media.changed"],
)
.with_room(capacity::CAPTIONS);

/// Add or replace captions of a medium
///
/// The body is a file of WebVTT or SubRip in UTF-8. It plays at once, also with an encode that was finished before, and takes the place of
/// captions of the same language and kind, be it the owner's or the file's. Styles, regions and notes of the file are not kept.
#[utoipa::path(
    put,
    path = PUT_CAPTIONS.path,
    tag = "metadata",
    operation_id = "put_captions",
    params(("media_id", Path), ("language", Path), CaptionPutQuery, ("If-Match", Header)),
    request_body(description = "The file", content((Vec<u8> = "text/vtt"), (Vec<u8> = "application/x-subrip"))),
    responses(
        (status = 200, description = "They took the place of others: the list as it is now", body = ref("#/components/schemas/CaptionList"), headers(("ETag"))),
        (status = 201, description = "They are there: the list as it is now", body = ref("#/components/schemas/CaptionList"), headers(("ETag"))),
        (status = 408, description = "The file came too slowly"),
        (status = 409, description = "The medium has as many as it may have"),
        (status = 410, description = "It was removed, and can be restored for a time"),
        (status = 413, description = "The file has more bytes than one may"),
        (status = 415, description = "Another media type, or coded bytes"),
        (status = 422, description = "The file can't be read, or there is no such language: `detail` says why"),
    ),
)]
pub(super) async fn put_captions(
    State(app): State<AppState>,
    Path((id, language)): Path<(String, String)>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<CaptionPutQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let media_id = parse_media_id(&id)?;
    let (parts, body) = request.into_parts();
    let (language, label) = (clean_tag(&language)?, clean_label(wanted.label.as_deref())?);
    let is_webvtt = check_type(&parts.headers)?;
    // Before the bytes are read: who may not change it, or has not seen it, is refused at once.
    let medium = commit::load_owned(&app.bus, media_id, &who).await?;
    commit::check_seen(&parts.headers, &render_list(&medium)?)?;
    let limits = BodyLimits::from_extensions(&parts.extensions);
    let limits = BodyLimits { bytes_max: app.config.media.captions_bytes_max, ..limits };
    let file = read_file(&app, is_webvtt, body::read_body(body, &limits).await?).await?;
    let size_bytes = u64::try_from(file.text.len()).unwrap_or(u64::MAX);
    let quota = app.config.quotas.quota_of(medium.owner());
    quotas::require_byte_room(&app.bus, quota, medium.owner(), size_bytes).await?;
    let track = CaptionTrack {
        name: fresh_name(),
        language,
        kind: wanted.kind,
        label,
        cue_count: file.cue_count,
        size_bytes,
        changed_at_ms: nats::now_ms(),
    };
    let key = keys::captions_key(media_id, &track.name);
    app.store.put(&key, file.text).await.map_err(|error| Problem::unavailable(&error))?;
    let added = |document: &MediaDocumentRecord| add_track(document, &track);
    let changed = commit::change_seen(&app, (media_id, &who, &parts.headers), render_list, added).await;
    let changed = match changed {
        Ok(changed) => changed,
        Err(problem) => {
            let is_named =
                |document: &MediaDocumentRecord| document.captions.iter().any(|kept| kept.name == track.name);
            remove_unnamed(&app, &problem, (media_id, key), is_named).await;
            return Err(problem);
        }
    };
    quotas::add_uploaded_bytes(&app.bus, changed.medium.owner(), size_bytes).await;
    let is_replaced = changed.before.captions.iter().any(|old| old.is_of(&track.language, track.kind));
    remove_replaced(&app, media_id, &changed).await;
    let mut response = render_list(&changed.medium)?.to_response(&HeaderMap::new());
    *response.status_mut() = if is_replaced { StatusCode::OK } else { StatusCode::CREATED };
    Ok(response)
}

pub(super) static REMOVE_CAPTIONS: Operation = Operation::change(
    Method::DELETE,
    "/v1/media/{media_id}/captions/{language}",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
    &["media.changed"],
);

/// Remove captions that the owner of a medium brought
///
/// Where the file has captions of that language and kind, those play again.
#[utoipa::path(
    delete,
    path = REMOVE_CAPTIONS.path,
    tag = "metadata",
    operation_id = "remove_captions",
    params(("media_id", Path), ("language", Path), CaptionQuery, ("If-Match", Header)),
    responses(
        (status = 200, description = "They are removed: the list as it is now", body = ref("#/components/schemas/CaptionList"), headers(("ETag"))),
        (status = 404, description = "There is no such medium, or it is not yours, or its owner brought no such captions: `code` says which"),
        (status = 410, description = "It was removed, and can be restored for a time"),
    ),
)]
pub(super) async fn remove_captions(
    State(app): State<AppState>,
    Path((id, language)): Path<(String, String)>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<CaptionQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let media_id = parse_media_id(&id)?;
    let language = find_language(&language).ok_or_else(captions_missing)?;
    let removed = |document: &MediaDocumentRecord| {
        let mut captions = document.captions.clone();
        captions.retain(|track| !track.is_of(&language, wanted.kind));
        if captions.len() == document.captions.len() {
            return Err(captions_missing());
        }
        Ok(MediaDocumentRecord { captions, ..document.clone() })
    };
    let changed = commit::change_seen(&app, (media_id, &who, &headers), render_list, removed).await?;
    remove_replaced(&app, media_id, &changed).await;
    Ok(render_list(&changed.medium)?.to_response(&HeaderMap::new()))
}

/// The document with a track, in the place of that of its language and kind.
fn add_track(document: &MediaDocumentRecord, track: &CaptionTrack) -> Result<MediaDocumentRecord, Problem> {
    let mut captions = document.captions.clone();
    captions.retain(|old| !old.is_of(&track.language, track.kind));
    if captions.len() >= TRACKS_MAX {
        let detail = format!("at most {TRACKS_MAX} are kept of a medium");
        return Err(Problem::new(ProblemCode::CaptionsTooMany).with_detail(detail));
    }
    captions.push(track.clone());
    captions.sort_by(|one, other| (&one.language, one.kind).cmp(&(&other.language, other.kind)));
    Ok(MediaDocumentRecord { captions, ..document.clone() })
}

/// Removes the objects of tracks that a change took out of the document.
async fn remove_replaced(app: &AppState, media_id: MediaId, changed: &commit::ChangedMedium) {
    let kept = own_tracks(&changed.medium);
    let gone = changed.before.captions.iter().filter(|old| !kept.iter().any(|track| track.name == old.name));
    let keys: Vec<String> = gone.map(|old| keys::captions_key(media_id, &old.name)).collect();
    remove_objects(app, &keys).await;
}

/// Removes objects that nothing names any more; what can't be removed now goes with the medium.
pub(super) async fn remove_objects(app: &AppState, keys: &[String]) {
    for key in keys {
        if let Err(error) = app.store.delete(key).await {
            tracing::warn!(%error, key, "what was replaced stays until its medium goes");
        }
    }
}

/// Removes an object that a change was to name which the client's `problem` refused, unless the document names it: a change may be written
/// although its answer was lost. Where that can't be known, the object goes with the medium.
pub(super) async fn remove_unnamed(
    app: &AppState,
    problem: &Problem,
    (media_id, key): (MediaId, String),
    is_named: impl Fn(&MediaDocumentRecord) -> bool,
) {
    if !problem.status().is_client_error() {
        return;
    }
    match app.bus.load_record::<MediaDocumentRecord>(&media_id.to_string()).await {
        Ok(held) if held.as_ref().is_some_and(|held| is_named(&held.record)) => {}
        Ok(_) => remove_objects(app, &[key]).await,
        Err(error) => tracing::warn!(%error, key, "what may be named by nothing stays until its medium goes"),
    }
}

/// A file as it is kept.
struct KeptFile {
    text: Bytes,
    cue_count: u32,
}

/// Reads a file; away from the threads that answer others, since it may be long.
async fn read_file(app: &AppState, is_webvtt: bool, bytes: Bytes) -> Result<KeptFile, Problem> {
    let limits = app.config.media.caption_limits();
    let read = move || {
        let format = if is_webvtt { CaptionFormat::WebVtt } else { CaptionFormat::sniff(&bytes) };
        CaptionFile::parse(&bytes, format, limits).map(|file| KeptFile {
            text: file.render().into(),
            cue_count: u32::try_from(file.cues().len()).unwrap_or(u32::MAX),
        })
    };
    let read = tokio::task::spawn_blocking(read).await.map_err(|error| Problem::internal(&error))?;
    read.map_err(|error| {
        let problem = Problem::new(ProblemCode::CaptionsInvalid).with_detail(error.to_string());
        match error.line {
            Some(line) => problem.with_member("line", line),
            None => problem,
        }
    })
}

/// True for WebVTT, false for SubRip.
fn check_type(headers: &HeaderMap) -> Result<bool, Problem> {
    let refused = |detail: &str| Err(Problem::new(ProblemCode::MediaType).with_detail(detail));
    let is_coded = headers.get(header::CONTENT_ENCODING).is_some_and(|coding| coding != "identity");
    if is_coded {
        return Err(Problem::new(ProblemCode::ContentEncoding));
    }
    let said =
        headers.get(header::CONTENT_TYPE).and_then(|said| said.to_str().ok()).and_then(clean_media_type);
    match said.as_deref() {
        Some(WEBVTT_TYPE) => Ok(true),
        Some(said) if SUBRIP_TYPES.contains(&said) => Ok(false),
        _ => refused("text/vtt of a WebVTT file, application/x-subrip of a SubRip file (.srt)"),
    }
}

fn clean_tag(text: &str) -> Result<String, Problem> {
    let tag = Some(text).filter(|text| text.len() <= LANGUAGE_BYTES_MAX).and_then(find_language);
    tag.ok_or_else(|| {
        let detail = "the address ends in the tag of no language, such as `de` or `pt-BR` (RFC 5646)";
        Problem::new(ProblemCode::CaptionsInvalid).with_detail(detail)
    })
}

fn clean_label(text: Option<&str>) -> Result<Option<String>, Problem> {
    let Some(text) = text.filter(|text| !text.is_empty()) else { return Ok(None) };
    clean_line(text, LABEL_LENGTH_MAX).map(Some).ok_or_else(|| {
        let detail =
            format!("`label` needs something to be shown, and at most {LABEL_LENGTH_MAX} characters");
        Problem::new(ProblemCode::CaptionsInvalid).with_detail(detail)
    })
}

/// A name that no track has or had.
fn fresh_name() -> String {
    let bytes: [u8; 7] = rand::random();
    format!("{NAME_PREFIX}{}", data_encoding::HEXLOWER.encode(&bytes))
}

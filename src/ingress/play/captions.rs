//! What players get of the captions that an owner brought: each track has the segments of the picture, cut from its one file as they are
//! asked for, so it plays with any encode, also with one that still grows.
//!
//! Limits: those of the settings `ingress.media`, with which the files were taken; [`CUTS_MAX`] files are cut at a time, each into at most
//! [`WINDOW_SEGMENTS`] segments.

use axum::{http::HeaderMap, response::Response};
use bytes::Bytes;
use packaging::{
    captions::{self, CaptionFile, CaptionFormat, CaptionLimits, ServedCaptions, track_label},
    chapters, find_segment_span, webvtt,
};
use schemas::{captions::CaptionTrack, ids::MediaId, keys};
use store::BoundedObject;
use tokio::sync::Semaphore;
use web::bytes::{RepresentationMetadata, bytes_response};

use super::{
    content_tag, encryption, load_event_playlist, load_playlist_text, no_such_resource, path::PlaybackPath,
    playable_media::PlayableMedium, playlist_response, store_problem,
};
use crate::AppState;
use web::error::Problem;

/// Files that were taken with larger limits are served all the same.
const LIMITS: CaptionLimits = CaptionLimits { bytes_max: 64 << 20, cue_count_max: 1_000_000 };

/// Most files that are cut at a time.
const CUTS_MAX: usize = 2;
/// How many segments are cut of a file that is read: the next ones are asked for soon.
const WINDOW_SEGMENTS: u32 = 64;
/// Room for cutting. Those who wait for it find most often that what they want was cut meanwhile.
static CUTS: Semaphore = Semaphore::const_new(CUTS_MAX);

/// What is asked for of a track.
#[derive(Debug, Clone, Copy)]
pub(super) enum CaptionResource<'a> {
    /// Its media playlist.
    Playlist,
    /// One of its segments, from 1.
    Segment(&'a CaptionTrack, u32),
    /// All of it.
    Whole(&'a CaptionTrack),
}

impl<'a> CaptionResource<'a> {
    /// `None` for what belongs to no track of the medium's owner.
    pub(super) fn find(wanted: PlaybackPath<'_>, medium: &'a PlayableMedium) -> Option<Self> {
        let track = |name: &str| medium.captions.iter().find(|track| track.name == name);
        match wanted {
            PlaybackPath::Playlist(name) | PlaybackPath::Growing(name) => track(name).map(|_| Self::Playlist),
            PlaybackPath::SubtitleSegment(name, number) => {
                track(name).map(|track| Self::Segment(track, number))
            }
            PlaybackPath::WholeSubtitles(name) => track(name).map(Self::Whole),
            _ => None,
        }
    }
}

/// Answers with something of a track.
pub(super) async fn serve(
    app: &AppState,
    headers: &HeaderMap,
    (wanted, found): (PlaybackPath<'_>, CaptionResource<'_>),
    media_id: MediaId,
    medium: &PlayableMedium,
) -> Result<Response, Problem> {
    let is_clear = medium.encryption.is_none();
    match found {
        CaptionResource::Playlist => {
            let text = captions::render_text_playlist(&load_leading_playlist(app, wanted, medium).await?);
            let text = if is_clear { Some(text) } else { encryption::insert_key_tag(&text) };
            Ok(playlist_response(headers, wanted, text.ok_or_else(no_such_resource)?))
        }
        CaptionResource::Segment(track, number) => {
            let bytes = load_segment(app, media_id, (track, number), (wanted, medium)).await?;
            if !is_clear {
                return encryption::serve_encrypted_bytes(app, headers, media_id, (wanted, number), bytes)
                    .await;
            }
            Ok(text_response(headers, wanted, &bytes))
        }
        // DASH alone names it, which an encrypted medium does not have.
        CaptionResource::Whole(_) if !is_clear => Err(no_such_resource()),
        CaptionResource::Whole(track) => {
            Ok(text_response(headers, wanted, &load_whole(app, media_id, track).await?))
        }
    }
}

fn text_response(headers: &HeaderMap, wanted: PlaybackPath<'_>, bytes: &Bytes) -> Response {
    let facts = RepresentationMetadata {
        size_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
        etag: content_tag(bytes),
        content_type: wanted.content_type(),
        // A track that is replaced has another name, and an encode another session.
        cache_control: "private, max-age=3600",
    };
    bytes_response(headers, &facts, bytes)
}

/// The playlist of the rendition whose segments the tracks have: the first of the encode.
async fn load_leading_playlist(
    app: &AppState,
    wanted: PlaybackPath<'_>,
    medium: &PlayableMedium,
) -> Result<String, Problem> {
    let encode = &medium.encode;
    let leading = if medium.is_growing {
        app.growing.leading_rendition(&app.bus, encode.job_id).await?
    } else {
        encode.renditions.first().map(|rendition| rendition.name.clone())
    };
    let leading = leading.ok_or_else(no_such_resource)?;
    if medium.is_growing || matches!(wanted, PlaybackPath::Growing(_)) {
        return load_event_playlist(app, medium, &leading).await;
    }
    load_playlist_text(app, format!("{}/{}", encode.prefix, keys::media_playlist_path(&leading))).await
}

async fn load_segment(
    app: &AppState,
    media_id: MediaId,
    (track, number): (&CaptionTrack, u32),
    (wanted, medium): (PlaybackPath<'_>, &PlayableMedium),
) -> Result<Bytes, Problem> {
    // No object has this key: the name of the track is that of one file, and the folder that of one encode.
    let folder = format!("{}/{}", medium.encode.prefix, track.name);
    let key_of = |number: u32| format!("{folder}/{number}.vtt");
    if let Some(bytes) = app.streams.answers().get(&key_of(number)) {
        return Ok(bytes);
    }
    let _room = CUTS.acquire().await.map_err(|error| Problem::internal(&error))?;
    if let Some(bytes) = app.streams.answers().get(&key_of(number)) {
        return Ok(bytes);
    }
    let playlist = load_leading_playlist(app, wanted, medium).await?;
    find_segment_span(&playlist, number).ok_or_else(no_such_resource)?;
    let whole = load_whole(app, media_id, track).await?;
    let cut = tokio::task::spawn_blocking(move || cut_window(&whole, &playlist, number)).await;
    let cut = cut.map_err(|error| Problem::internal(&error))?.map_err(|error| Problem::internal(&error))?;
    let mut found = None;
    for (cut_number, bytes) in cut {
        if cut_number == number {
            found = Some(bytes.clone());
        }
        app.streams.answers().put(key_of(cut_number), bytes);
    }
    found.ok_or_else(no_such_resource)
}

/// The segment with this number and those around it that its playlist lists, each with its number.
fn cut_window(
    whole: &Bytes,
    playlist: &str,
    number: u32,
) -> Result<Vec<(u32, Bytes)>, captions::CaptionFileError> {
    let file = CaptionFile::parse(whole, CaptionFormat::WebVtt, LIMITS)?;
    let first = number.saturating_sub(1) / WINDOW_SEGMENTS * WINDOW_SEGMENTS + 1;
    let spans = (first..first.saturating_add(WINDOW_SEGMENTS))
        .map_while(|number| find_segment_span(playlist, number).map(|span| (number, span)));
    let cut = |(number, (start_us, end_us))| {
        (number, Bytes::from(webvtt::render_segment(file.cues(), start_us, end_us)))
    };
    Ok(spans.map(cut).collect())
}

async fn load_whole(app: &AppState, media_id: MediaId, track: &CaptionTrack) -> Result<Bytes, Problem> {
    let key = keys::captions_key(media_id, &track.name);
    match app.streams.load(&app.store, &key).await.map_err(|error| store_problem(&error))? {
        BoundedObject::Whole(bytes) => Ok(bytes),
        BoundedObject::Larger { .. } => {
            app.store.get(&key, track.size_bytes).await.map_err(|error| store_problem(&error))
        }
    }
}

fn served_tracks(medium: &PlayableMedium) -> Vec<ServedCaptions<'_>> {
    medium.captions.iter().map(served_track).collect()
}

fn served_track(track: &CaptionTrack) -> ServedCaptions<'_> {
    let CaptionTrack { name, language, kind, size_bytes, .. } = track;
    ServedCaptions { name, language, kind: *kind, label: track_label(track), size_bytes: *size_bytes }
}

/// The multivariant playlist with the tracks of the medium's owner, and where its chapters are.
pub(super) fn add_to_multivariant(medium: &PlayableMedium, text: String) -> String {
    let text = chapters::add_to_multivariant(text, &medium.chapters);
    if medium.captions.is_empty() {
        return text;
    }
    let uri = if medium.is_growing { keys::event_playlist_path } else { keys::media_playlist_path };
    captions::add_to_multivariant(&text, &served_tracks(medium), uri)
}

/// The manifest with them.
pub(super) fn add_to_manifest(medium: &PlayableMedium, text: &str) -> Result<String, Problem> {
    captions::add_to_manifest(text, &served_tracks(medium), medium.encode.duration_ms)
        .map_err(|error| Problem::internal(&error))
}

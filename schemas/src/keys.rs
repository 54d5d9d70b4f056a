//! Every object key, built here and spelled nowhere else. Client text never becomes part of one.

use crate::ids::{JobId, MediaId, UploadId};

/// The source as uploaded.
pub fn source_key(media_id: MediaId) -> String {
    format!("media/{media_id}/source")
}

/// The durable remainder of an open upload, below one multipart part. Generation and part are in the key, so that a
/// displaced writer can't overwrite the tail of its successor.
pub fn source_tail_key(media_id: MediaId, generation: u64, part: u64) -> String {
    format!("{}/{generation}-{part}", source_tail_prefix(media_id))
}

/// Folder of the tails of an upload.
pub fn source_tail_prefix(media_id: MediaId) -> String {
    format!("media/{media_id}/source.tail")
}

/// File of an open upload in a local store, relative to its root.
pub fn spool_path(upload_id: UploadId) -> String {
    let text = upload_id.to_string();
    let shard = text.get(text.len().saturating_sub(2)..).unwrap_or_default();
    format!("{SPOOL}/{shard}/{text}")
}

/// Folder of the files of open uploads in a local store.
pub const SPOOL: &str = ".spool";
/// Folder of everything that is stored.
pub const MEDIA: &str = "media";
/// The object that says which store this is: one line, the store's id. A root without it is not believed.
pub const MARKER: &str = ".streamgate-store";

/// Folder of everything that belongs to a medium.
pub fn media_prefix(media_id: MediaId) -> String {
    format!("{MEDIA}/{media_id}")
}

/// Folder of one encode: `digest` is the digest of its options, so that a repeat writes the same bytes to the same keys.
pub fn encode_prefix(media_id: MediaId, encode: u32, digest: &str) -> String {
    format!("media/{media_id}/e{encode}/{digest}")
}

/// Texts that an owner brought for a medium, as WebVTT; `name` is that of the track, which is ours.
pub fn captions_key(media_id: MediaId, name: &str) -> String {
    format!("media/{media_id}/captions/{name}.vtt")
}

/// Picture that an owner chose as poster of a medium; `name` is ours.
pub fn chosen_poster_key(media_id: MediaId, name: &str) -> String {
    format!("media/{media_id}/posters/{name}")
}

/// Folder of a job that makes no encode. Nothing is stored there: it is what such a job names in the place of an encode's folder, so
/// that nobody who removes what a job has stored removes anything.
pub fn task_prefix(media_id: MediaId, job_id: JobId) -> String {
    format!("media/{media_id}/tasks/{job_id}")
}

/// Number in the name of an encode's folder; of a retried job that of the one whose folder it goes on in. `None` for other folders.
pub fn encode_folder(prefix: &str) -> Option<u32> {
    let (_, folder) = prefix.strip_prefix("media/")?.split_once("/e")?;
    folder.split_once('/')?.0.parse().ok()
}

/// Init segment of a rendition, relative to the encode's folder.
pub fn init_segment_path(rendition: &str) -> String {
    format!("{rendition}/init.mp4")
}

/// Media segment of a rendition, relative to the encode's folder; numbers start at 1.
pub fn segment_path(rendition: &str, number: u32) -> String {
    format!("{rendition}/{number}.m4s")
}

/// Segment of subtitles, relative to the encode's folder; numbers start at 1.
pub fn subtitle_segment_path(rendition: &str, number: u32) -> String {
    format!("{rendition}/{}", text_segment_name(number))
}

/// The same, relative to its playlist.
pub fn text_segment_name(number: u32) -> String {
    format!("{number}.vtt")
}

/// All of the subtitles of a rendition in one file, relative to the encode's folder.
pub fn whole_subtitles_path(rendition: &str) -> String {
    format!("{rendition}/{WHOLE_SUBTITLES}")
}

/// Sheet of a storyboard, relative to the encode's folder; numbers start at 1.
pub fn storyboard_sheet_path(number: u32) -> String {
    format!("{STORYBOARD_SHEETS}/{number}.jpg")
}

/// Folder of the pictures at chosen times, relative to the encode's folder.
pub const THUMBNAILS: &str = "thumbnails";

/// Picture at a time in milliseconds, of a width in pixels, relative to the encode's folder.
pub fn thumbnail_path(at_ms: u64, width: u32) -> String {
    format!("{THUMBNAILS}/{at_ms}-{width}.jpg")
}

/// Final media playlist of a rendition, relative to the encode's folder.
pub fn media_playlist_path(rendition: &str) -> String {
    format!("{rendition}/index.m3u8")
}

/// Playlist of the pictures of a rendition that stand alone, relative to the encode's folder.
pub fn iframe_playlist_path(rendition: &str) -> String {
    format!("{rendition}/iframes.m3u8")
}

/// Media playlist of a rendition while it grows; rendered on request, never stored.
pub fn event_playlist_path(rendition: &str) -> String {
    format!("{rendition}/event.m3u8")
}

/// SHA-256 of each object that a part of the job stored, relative to the encode's folder.
pub fn checksums_path(part: &str) -> String {
    format!("{CHECKSUMS}/{part}.sha256")
}

/// Folder of the checksums of an encode, relative to the encode's folder.
pub const CHECKSUMS: &str = "checksums";
/// Name of the file with all subtitles of a rendition.
pub const WHOLE_SUBTITLES: &str = "subtitles.vtt";
/// Multivariant playlist, relative to the encode's folder.
pub const MULTIVARIANT: &str = "master.m3u8";
/// MPEG-DASH manifest, relative to the encode's folder.
pub const MANIFEST: &str = "manifest.mpd";
/// Poster image, relative to the encode's folder.
pub const POSTER: &str = "poster.jpg";
/// Chapters of a medium (WebVTT), relative to the folder a player sees. Rendered as it is read; no object has this key.
pub const CHAPTERS: &str = "chapters.vtt";
/// The same for players of HLS (JSON), which the multivariant playlist names.
pub const CHAPTER_LIST: &str = "chapters.json";
/// List of the tiles of a storyboard (WebVTT), relative to the encode's folder.
pub const STORYBOARD: &str = "storyboard.vtt";
/// Folder of its sheets, relative to the encode's folder.
pub const STORYBOARD_SHEETS: &str = "storyboard";
/// The key of encrypted segments, relative to the folder a player sees. Served from its record; no object has this key.
pub const SEGMENT_KEY: &str = "key";
/// All of a medium in one file, relative to the folder a player sees. Put together as it is read; no object has this key.
pub const DOWNLOAD: &str = "download.mp4";
/// What was decided, made and measured, relative to the encode's folder.
pub const REPORT: &str = "report.json";

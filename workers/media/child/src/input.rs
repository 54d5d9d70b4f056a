//! Opens the source: format by allow-list, limits of its tables before they are read, others before anything is decoded.
//!
//! Limits: those of `MediaLimits`, one MiB for recognising the format, [`PADDING_BYTES_MAX`] zeros before an MP3.

use std::io::{self, Read, Seek};
use std::sync::Arc;

use ffmpeg_next::format::context::{Input, StreamIo};
use ffmpeg_next::{Error as LibError, media as kind};
use media::MediaErrorCode;
use media::protocol::MediaLimits;

use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult, source_refused_error};
use crate::ffi::{self, UnprobedInput};
use crate::parent_pipe::{ChildJob, ParentPipe};
use crate::remote::RemoteSource;
use crate::tables;
use crate::truncation::{self, read_at};

/// Bytes that the library reads at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// Bytes looked at to recognise a format; FFmpeg's own default.
const FORMAT_BYTES_MAX: u32 = 1 << 20;

/// Least score (of 100) to believe a guess. A single chance MP3 header in a text scores 1.
const SCORE_MIN: i32 = 10;

/// Most zeros before an MP3.
const PADDING_BYTES_MAX: usize = 64 << 10;

/// Fewer zeros than this may be the length of a box, and don't keep the library from finding the first frame.
const PADDING_BYTES_MIN: usize = 16;

/// How much larger than allowed a picture may be for a decoder to be tried on it.
const PROBE_PIXELS_FACTOR: u64 = 3;

/// MP4 and QuickTime, as the library calls them.
const MP4: &str = "mov,mp4,m4a,3gp,3g2,mj2";

/// Formats that hold frames. No playlist, no list of files, nothing that refers to other resources.
const FORMATS: &[&str] = &[
    MP4,
    "matroska,webm",
    "mpegts",
    "mpeg",
    "avi",
    "flv",
    "mxf",
    "asf",
    "gif",
    "apng",
    "mp3",
    "aac",
    "flac",
    "ogg",
    "wav",
    "aiff",
    "caf",
    "png_pipe",
    "jpeg_pipe",
    "webp_pipe",
];

/// An open source whose limits were checked.
pub(crate) struct CheckedInput {
    pub(crate) input: Input,
    pub(crate) format: String,
}

/// Opens the source.
pub(crate) fn open_source(wire: &Arc<ParentPipe>, job: &ChildJob) -> MediaChildResult<CheckedInput> {
    if job.size_bytes == 0 {
        return Err(source_refused_error(MediaErrorCode::MediaEmpty, "no bytes"));
    }
    let mut remote = RemoteSource::new(Arc::clone(wire), job.size_bytes);
    let padding_bytes = count_mp3_padding(&mut remote)
        .map_err(|error| MediaChildError::Failed(format!("read the beginning: {error}")))?;
    remote.begin_at(padding_bytes);
    let mut io = StreamIo::from_read_seek_with_capacity(remote, BUFFER_BYTES).or_failed("make the stream")?;
    let (format, score) = ffi::guess_format(&mut io, FORMAT_BYTES_MAX)
        .or_refused(MediaErrorCode::MediaUnsupportedFormat, "recognise the format")?;
    if score < SCORE_MIN || !FORMATS.contains(&format.as_str()) {
        return Err(source_refused_error(
            MediaErrorCode::MediaUnsupportedFormat,
            format!("format {format} (score {score})"),
        ));
    }
    // Before the library opens the file: it builds an index of all samples that the tables declare.
    if format == MP4 {
        let remote = RemoteSource::new(Arc::clone(wire), job.size_bytes);
        tables::check_table_entries(remote, job.size_bytes, job.limits.table_entries_max)?;
    }
    let probe_bytes = job.limits.probe_bytes_max.to_string();
    let streams_max = job.limits.streams_max.to_string();
    let options = [
        ("format_whitelist", format.as_str()),
        // A file that names another one makes the library open it: no protocol may be used for that.
        ("protocol_whitelist", "none"),
        ("probesize", &probe_bytes),
        ("max_streams", &streams_max),
    ];
    let opening =
        UnprobedInput::new(io, &options).map_err(|error| classify_open_error(error, wire, job, &format))?;
    let limits = &job.limits;
    let pixels_max = pixels_max(limits, &format);
    // Before decoders are tried: they reserve memory for the size that the header names.
    for (width, height) in opening.picture_sizes() {
        check_picture_size(width, height, pixels_max)?;
    }
    // Decoders that are tried may look at somewhat larger pictures, so that their size is known and can be refused.
    let pixels = pixels_max.saturating_mul(PROBE_PIXELS_FACTOR).to_string();
    let input = opening
        .find_streams(&[("max_pixels", &pixels), ("threads", "1")])
        .map_err(|error| classify_open_error(error, wire, job, &format))?;
    if u64::from(input.nb_streams()) > u64::from(limits.streams_max) {
        return Err(source_refused_error(
            MediaErrorCode::MediaTooManyStreams,
            format!("{} streams", input.nb_streams()),
        ));
    }
    for stream in input.streams() {
        let parameters = ffi::read_parameters(&stream);
        if stream.parameters().medium() == kind::Type::Video {
            let side = |side: u32| i32::try_from(side).unwrap_or(i32::MAX);
            check_picture_size(side(parameters.width), side(parameters.height), pixels_max)?;
        }
    }
    Ok(CheckedInput { input, format })
}

/// Zeros before an MP3. The library takes a short file behind many of them for none, and does not find the file's tag.
fn count_mp3_padding(file: &mut (impl Read + Seek)) -> io::Result<u64> {
    let mut head = vec![0; PADDING_BYTES_MIN];
    let count = read_at(file, 0, &mut head)?;
    if count < PADDING_BYTES_MIN || head.iter().any(|byte| *byte != 0) {
        return Ok(0);
    }
    head.resize(PADDING_BYTES_MAX + 3, 0);
    let count = read_at(file, 0, &mut head)?;
    let zeros = head.iter().take(count).take_while(|byte| **byte == 0).count();
    // A tag, or the eleven set bits of a frame of MPEG audio.
    let is_mp3 = match head.get(zeros..count) {
        Some([b'I', b'D', b'3', ..]) => true,
        Some([0xFF, second, ..]) => second & 0xE0 == 0xE0,
        _ => false,
    };
    Ok(if is_mp3 { u64::try_from(zeros).unwrap_or(0) } else { 0 })
}

/// Whether a format holds pictures that may move or not.
pub(crate) fn is_animation(format: &str) -> bool {
    matches!(format, "gif" | "apng")
}

/// Whether a format holds a single picture.
pub(crate) fn is_image(format: &str) -> bool {
    matches!(format, "png_pipe" | "jpeg_pipe" | "webp_pipe")
}

/// Most pixels of one picture of a format.
pub(crate) fn pixels_max(limits: &MediaLimits, format: &str) -> u64 {
    if is_image(format) { limits.image_pixels_max } else { limits.pixels_max }
}

fn check_picture_size(width: i32, height: i32, pixels_max: u64) -> MediaChildResult<()> {
    let pixels = u64::from(width.unsigned_abs()).saturating_mul(u64::from(height.unsigned_abs()));
    if width < 0 || height < 0 || pixels > pixels_max {
        return Err(source_refused_error(
            MediaErrorCode::MediaTooManyPixels,
            format!("{width}x{height}, at most {pixels_max} pixels"),
        ));
    }
    Ok(())
}

/// A file that cannot be opened is cut short, or damaged.
fn classify_open_error(
    error: LibError,
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    format: &str,
) -> MediaChildError {
    let remote = RemoteSource::new(Arc::clone(wire), job.size_bytes);
    let code = match truncation::is_truncated(remote, job.size_bytes, format) {
        Ok(true) => MediaErrorCode::MediaTruncated,
        _ => MediaErrorCode::MediaCorrupt,
    };
    match Err::<(), _>(error).or_refused(code, "open") {
        Err(error) => error,
        Ok(()) => source_refused_error(code, "open"),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    #[test]
    fn only_zeros_before_an_mp3_are_padding() {
        let padding = |zeros: usize, rest: &[u8]| {
            count_mp3_padding(&mut Cursor::new([vec![0; zeros].as_slice(), rest].concat())).unwrap()
        };
        assert_eq!(padding(20_000, b"ID3\x04"), 20_000);
        assert_eq!(padding(65_536, b"\xFF\xFB\x90"), 65_536);
        for (zeros, rest) in [
            (65_537, b"ID3\x04".as_slice()),
            (3, b"\xFF\xFBmdat"),
            (20_000, b"text"),
            (20_000, b""),
            (0, b""),
        ] {
            assert_eq!(padding(zeros, rest), 0, "{zeros} {rest:?}");
        }
    }
}

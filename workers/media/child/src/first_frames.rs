//! Decodes the first frames of a track: what a container says of it is a claim, that it can be decoded is a fact.
//!
//! Limits: [`FRAMES_MAX`] frames out of [`PACKETS_MAX`] packets.

use std::sync::Arc;

use ffmpeg_next::frame::side_data;
use ffmpeg_next::{Error as LibError, Rational, Rescale, frame};
use media::MediaErrorCode;

use crate::decode::TrackDecoder;
use crate::error::{MediaChildError, MediaChildResult};
use crate::parent_pipe::{ChildJob, ParentPipe};

/// Frames that are decoded: more than codecs reorder (16), so that their order is known.
const FRAMES_MAX: u64 = 24;

/// Packets within which a track must show a frame. Streams that are joined on the way begin with some that can't be decoded.
const PACKETS_MAX: u64 = 600;

/// What the first frames of a track showed.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FirstFrames {
    /// Median distance of their time stamps, in microseconds; none with fewer than two.
    pub(crate) interval_us: Option<u64>,
    /// Captions (CTA-608, CTA-708) come with them.
    pub(crate) has_closed_captions: bool,
}

/// Why a track has no frames.
#[derive(Debug, Clone)]
pub(crate) struct UndecodableTrack {
    pub(crate) code: MediaErrorCode,
    pub(crate) detail: String,
}

/// Decodes the first frames of a track of so many packets.
pub(crate) fn decode_first_frames(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    stream: u32,
    packets: u64,
) -> MediaChildResult<Result<FirstFrames, UndecodableTrack>> {
    let mut decoder = match TrackDecoder::open(wire, job, stream, 1) {
        Ok(decoder) => decoder,
        Err(MediaChildError::Refused { code, detail }) => return Ok(Err(UndecodableTrack { code, detail })),
        Err(error) => return Err(error),
    };
    // Not beyond its last packet: a short track would be searched to the end of the file.
    decoder.limit_packets(packets.min(PACKETS_MAX));
    let mut times_us = Vec::new();
    let mut has_closed_captions = false;
    let mut picture = frame::Video::empty();
    while decoder.decoded < FRAMES_MAX && decoder.next_frame(&mut picture)? {
        times_us.push(picture.pts().unwrap_or(0).rescale(decoder.time_base, Rational(1, 1_000_000)));
        has_closed_captions |= picture.side_data(side_data::Type::A53CC).is_some();
        picture = frame::Video::empty();
    }
    if times_us.is_empty() {
        let code = match decoder.last_error {
            // What the library has no code for yet, such as a profile.
            Some(LibError::PatchWelcome | LibError::DecoderNotFound) => MediaErrorCode::MediaUnsupportedCodec,
            Some(_) | None => MediaErrorCode::MediaNoFrames,
        };
        let why = decoder.last_error.map_or_else(|| "no frames".to_owned(), |error| error.to_string());
        return Ok(Err(UndecodableTrack {
            code,
            detail: format!("no frame of stream {stream} could be decoded: {why}"),
        }));
    }
    let mut steps: Vec<u64> = times_us
        .windows(2)
        .filter_map(|pair| u64::try_from(pair.last()?.saturating_sub(*pair.first()?)).ok())
        .collect();
    steps.sort_unstable();
    Ok(Ok(FirstFrames { interval_us: steps.get(steps.len() / 2).copied(), has_closed_captions }))
}

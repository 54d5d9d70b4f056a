//! Decodes the first frames of tracks: what a container says of one is a claim, that it can be decoded is a fact.
//!
//! Limits: [`FRAMES_MAX`] frames out of [`PACKETS_MAX`] packets of at most [`TRACKS_TRIED_MAX`] tracks.

use std::sync::Arc;

use ffmpeg_next::frame::side_data;
use ffmpeg_next::{Error as LibError, Rational, Rescale, frame};
use media::{AUDIO_TRACKS_MAX, MediaErrorCode, MediaStream, MediaStreamKind};

use crate::decode::TrackDecoder;
use crate::error::{MediaChildError, MediaChildResult};
use crate::frame_rate::{FrameRateEvidence, decide_frame_rate};
use crate::parent_pipe::{ChildJob, ParentPipe};
use crate::scan::TrackStatistics;

/// Frames that are decoded: more than codecs reorder (16), so that their order is known.
const FRAMES_MAX: u64 = 24;

/// Packets within which a track must show a frame. Streams that are joined on the way begin with some that can't be decoded.
const PACKETS_MAX: u64 = 600;

/// Video tracks that are decoded: one plays, the others are described. Further ones count as what the container says.
const VIDEO_TRACKS_DECODED_MAX: usize = 4;

/// Tracks that are tried. Each reads the file anew, a small one all of it, and what a task may read is 16 times its size and 256 MiB.
const TRACKS_TRIED_MAX: usize = 22;

/// What the first frames of a track showed.
#[derive(Debug, Clone, Copy)]
struct FirstFrames {
    /// Median distance of their time stamps, in microseconds; none with fewer than two.
    interval_us: Option<u64>,
    /// Captions (CTA-608, CTA-708) come with them.
    has_closed_captions: bool,
}

/// Why a track has no frames.
#[derive(Debug, Clone)]
pub(crate) struct UndecodableTrack {
    pub(crate) code: MediaErrorCode,
    pub(crate) detail: String,
}

/// Decodes the first frames of every track that may be chosen, the first choice first: one that gives none is not played, and the
/// others' frames say how far apart they are. What could be chosen and was not tried is not played either. Gives the first that
/// can't be decoded.
pub(crate) fn decode_beginnings(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    streams: &mut [MediaStream],
    tallies: &[TrackStatistics],
) -> MediaChildResult<Option<UndecodableTrack>> {
    let mut undecodable = None;
    let mut played: Vec<_> =
        streams.iter_mut().zip(tallies).filter(|(stream, _)| stream.is_playable()).collect();
    // Pictures before sound.
    played.sort_by_key(|(stream, _)| (stream.kind == MediaStreamKind::Audio, stream.choice_order()));
    let (mut video_left, mut audio_left) = (VIDEO_TRACKS_DECODED_MAX, AUDIO_TRACKS_MAX);
    let mut tries_left = TRACKS_TRIED_MAX;
    for (stream, tally) in played {
        let left = if stream.video.is_some() { &mut video_left } else { &mut audio_left };
        if *left == 0 {
            continue;
        }
        if tries_left == 0 {
            stream.is_decodable = false;
            continue;
        }
        tries_left -= 1;
        let packets = stream.packet_count;
        match (decode_first_frames(wire, job, stream.index, packets)?, &mut stream.video) {
            (Ok(first), Some(video)) => {
                *left -= 1;
                video.has_closed_captions = first.has_closed_captions;
                video.average_frame_rate = decide_frame_rate(&FrameRateEvidence {
                    declared: [video.average_frame_rate, video.real_frame_rate],
                    packets: &tally.intervals,
                    decoded_us: first.interval_us,
                    is_interlaced: video.is_interlaced,
                });
            }
            (Ok(_), None) => *left -= 1,
            (Err(why), _) => {
                stream.is_decodable = false;
                undecodable.get_or_insert(why);
            }
        }
    }
    Ok(undecodable)
}

/// Decodes the first frames of a track of so many packets.
fn decode_first_frames(
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

//! What a media file holds, as found by a scan of its packets and the first frames of its tracks.

use std::cmp::Reverse;

use serde::{Deserialize, Serialize};

use crate::clock::ClockMap;
use crate::grid::MediaRatio;

/// Longest text taken from a file, in characters.
pub const TEXT_CHARS_MAX: usize = 256;

/// Most audio tracks of a file that are known to be decodable, by [`MediaStream::choice_order`]; no profile may take more.
pub const AUDIO_TRACKS_MAX: usize = 16;

/// What kind of media a file is, cover art left aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaFileKind {
    /// At least one video track that moves or has a duration.
    Video,
    /// Audio tracks only.
    Audio,
    /// One picture.
    Image,
}

/// What a track holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaStreamKind {
    /// Pictures, including cover art ([`MediaStream::is_attached_picture`]).
    Video,
    /// Sound.
    Audio,
    /// Text or picture subtitles.
    Subtitle,
    /// A file inside of the file, such as a font; it has no packets. A picture is [`Self::Video`].
    Attachment,
    /// Anything else.
    Other,
}

/// Most chapters that are read from a file.
pub const SOURCE_CHAPTERS_MAX: usize = 200;

/// A chapter as a file names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceChapter {
    /// When it begins, in microseconds on the file's own clock.
    pub start_us: i64,
    /// Its title, of at most [`TEXT_CHARS_MAX`] characters.
    pub title: Option<String>,
}

/// A media file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaProbe {
    /// What the file is, cover art left aside.
    pub kind: MediaFileKind,
    /// FFmpeg's name of the format, such as `mov,mp4,m4a,3gp,3g2,mj2`.
    pub container: String,
    /// Smallest presentation time over video and audio tracks, in microseconds on the file's own clock.
    pub start_us: i64,
    /// From `start_us` to the end of the last video or audio sample, in microseconds.
    pub duration_us: u64,
    /// Size of the file.
    pub size_bytes: u64,
    /// Whether the file ends before its structure does.
    pub is_truncated: bool,
    /// How time stamps are read where the file's clock jumps; all times here are read that way.
    #[serde(default)]
    pub clock: ClockMap,
    /// How many times it jumps.
    #[serde(default)]
    pub clock_joints: u32,
    /// Chapters that it names, in its order; at most [`SOURCE_CHAPTERS_MAX`].
    #[serde(default)]
    pub chapters: Vec<SourceChapter>,
    /// How many it names.
    #[serde(default)]
    pub chapter_count: u32,
    /// The tracks in file order.
    pub streams: Vec<MediaStream>,
}

impl MediaStream {
    /// Whether the track can be played: pictures or sound with packets and a decoder. Cover art is not played.
    #[must_use]
    pub fn is_playable(&self) -> bool {
        matches!(self.kind, MediaStreamKind::Video | MediaStreamKind::Audio)
            && self.is_decodable
            && self.packet_count > 0
            && !self.is_attached_picture
    }

    /// Its place among the tracks of its kind, the first choice being the least: the default one, of pictures the largest, then
    /// in file order.
    #[must_use]
    pub fn choice_order(&self) -> (bool, Reverse<u64>, u32) {
        let pixels = self.video.as_ref().map_or(0, |v| u64::from(v.width) * u64::from(v.height));
        (!self.is_default, Reverse(pixels), self.index)
    }

    /// Whether the track is subtitles whose text can be read.
    #[must_use]
    pub fn is_readable_subtitle(&self) -> bool {
        self.kind == MediaStreamKind::Subtitle && self.is_text && self.is_decodable && self.packet_count > 0
    }
}

impl MediaProbe {
    /// The video track to encode: the default one that is not cover art, else the first; the largest wins a tie.
    #[must_use]
    pub fn best_video(&self) -> Option<&MediaStream> {
        self.streams
            .iter()
            .filter(|stream| stream.kind == MediaStreamKind::Video && stream.is_playable())
            .min_by_key(|stream| stream.choice_order())
    }

    /// The audio tracks that can be decoded, the default one first, then in file order.
    #[must_use]
    pub fn audio_streams(&self) -> Vec<&MediaStream> {
        let mut tracks: Vec<&MediaStream> = self
            .streams
            .iter()
            .filter(|stream| stream.kind == MediaStreamKind::Audio && stream.is_playable())
            .collect();
        tracks.sort_by_key(|stream| stream.choice_order());
        tracks
    }
}

/// A track of a file.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "a list of independent findings")]
pub struct MediaStream {
    /// Position in the file; what tasks name.
    pub index: u32,
    /// What the track holds.
    pub kind: MediaStreamKind,
    /// FFmpeg's name of the codec, such as `h264`.
    pub codec: String,
    /// FFmpeg's name of the profile, such as `High`.
    pub profile: Option<String>,
    /// Codec level in the codec's own unit (H.264: 31 is 3.1).
    pub level: Option<i32>,
    /// Whether a decoder for it is there.
    pub is_decodable: bool,
    /// Measured over the packets, in bits per second; 0 when the track has no duration.
    pub bit_rate_bits_per_second: u64,
    /// Language tag as the file gives it.
    pub language: Option<String>,
    /// Name as the file gives it.
    pub title: Option<String>,
    /// Marked as the default of its kind.
    pub is_default: bool,
    /// Cover art, which is not video.
    pub is_attached_picture: bool,
    /// Subtitles that are text.
    #[serde(default)]
    pub is_text: bool,
    /// Subtitles that are shown also to those who want none.
    #[serde(default)]
    pub is_forced: bool,
    /// Subtitles that also name sounds beside speech.
    #[serde(default)]
    pub is_hearing_impaired: bool,
    /// Packets found by the scan, without those that the file marks as not to be shown.
    pub packet_count: u64,
    /// Packets that a decoder can start at.
    pub key_packet_count: u64,
    /// Earliest presentation time, in microseconds on the file's own clock; none without packets.
    pub start_us: Option<i64>,
    /// End of the last sample, in microseconds on the file's own clock; none without packets.
    pub end_us: Option<i64>,
    /// Only for video and pictures.
    pub video: Option<VideoStream>,
    /// Only for audio.
    pub audio: Option<AudioStream>,
}

/// The pictures of a track.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "a list of independent findings")]
pub struct VideoStream {
    /// Stored width in pixels, before rotation.
    pub width: u32,
    /// Stored height in pixels, before rotation.
    pub height: u32,
    /// Width of one pixel by its height; 1/1 when the file does not say.
    pub sample_aspect: MediaRatio,
    /// Width in square pixels as shown, after rotation.
    pub display_width: u32,
    /// Height in square pixels as shown, after rotation.
    pub display_height: u32,
    /// Clockwise turn to apply for showing: 0, 90, 180 or 270.
    pub rotation_degrees: u16,
    /// FFmpeg's name, such as `yuv420p`.
    pub pixel_format: String,
    /// Bits per component.
    pub bit_depth: u8,
    /// FFmpeg's name, `unknown` when the file does not say.
    pub color_primaries: String,
    /// FFmpeg's name, `unknown` when the file does not say.
    pub color_transfer: String,
    /// FFmpeg's name, `unknown` when the file does not say.
    pub color_space: String,
    /// `tv`, `pc` or `unknown`.
    pub color_range: String,
    /// Whether the transfer is PQ or HLG.
    pub is_hdr: bool,
    /// `progressive`, `tt`, `bb`, `tb`, `bt` or `unknown`.
    pub field_order: String,
    /// Whether the field order is one of the interlaced ones.
    pub is_interlaced: bool,
    /// Frames per second while there are any, pauses left aside; 0/0 with fewer than two frames.
    pub average_frame_rate: MediaRatio,
    /// The smallest rate that all timestamps fit, as FFmpeg guesses it; 0/0 when unknown.
    pub real_frame_rate: MediaRatio,
    /// Smallest distance between two frames, in microseconds.
    pub frame_interval_us_min: u64,
    /// Largest distance between two frames, in microseconds.
    pub frame_interval_us_max: u64,
    /// The median distance between two frames, in microseconds; 0 with fewer than two.
    pub frame_interval_us_usual: u64,
    /// Captions (CTA-608, CTA-708) come with the first pictures.
    #[serde(default)]
    pub has_closed_captions: bool,
    /// Whether more than one frame in fifty is off the usual distance by more than a fifth.
    pub is_variable_rate: bool,
}

/// The sound of a track.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioStream {
    /// Samples per second.
    pub sample_rate_hz: u32,
    /// Number of channels.
    pub channels: u16,
    /// FFmpeg's name, such as `5.1`.
    pub layout: String,
    /// FFmpeg's name, such as `fltp`.
    pub sample_format: String,
}

//! The tasks, and what they produce.
//!
//! Limits: 16 rungs, 8 stills, 16384 pixels a side, one hour a segment, 32 subtitle tracks, 100,000 cues of 4 KiB each and 8
//! MiB together.

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::clock::ClockMap;
use crate::grid::{AudioGrid, MediaRatio, VideoGrid};

/// Most renditions that one encode may produce.
pub const RUNGS_MAX: usize = 16;

/// Most pictures that one task may take.
pub const STILLS_MAX: usize = 8;

/// Most subtitle tracks that one task may read.
pub const SUBTITLE_TRACKS_MAX: usize = 32;

/// Most cues of one task: a film has two thousand in each language.
pub const CUES_MAX: usize = 100_000;

/// Most bytes of the texts of all cues of one task, which are held in memory; those of a film in thirty languages are half as many.
pub const CUES_BYTES_MAX: usize = 8 << 20;

/// Longest text of a cue, in bytes.
pub const CUE_TEXT_BYTES_MAX: usize = 4_096;

/// Longest side of a picture, in pixels.
pub const SIDE_PIXELS_MAX: u32 = 16_384;

/// Most frames of one range, and of one segment.
pub const FRAMES_MAX: u32 = 10_000_000;

/// H.264 profiles (ISO/IEC 14496-10, Annex A).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum H264Profile {
    /// Baseline, without reordered frames.
    Baseline,
    /// Main.
    Main,
    /// High.
    High,
}

/// Speed of the encoder: slower is smaller.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EncoderPreset {
    /// Fastest, largest.
    Ultrafast,
    /// Faster than `Veryfast`.
    Superfast,
    /// The usual choice.
    Veryfast,
    /// Slower than `Veryfast`.
    Faster,
    /// Slower than `Faster`.
    Fast,
    /// The encoder's own default.
    Medium,
    /// For long-lived titles.
    Slow,
}

/// One rendition of the ladder.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodeRung {
    /// Name of the rendition in what the task produces; distinct in a task.
    pub rendition: u16,
    /// Output width in square pixels; even.
    pub width: u32,
    /// Output height in square pixels; even.
    pub height: u32,
    /// Constant rate factor, 1 to 51: the quality aimed at. 0 would be lossless, which no profile here has.
    pub crf: f32,
    /// The rate cap, in bits per second.
    pub rate_bits_per_second_max: u64,
    /// The buffer over which the cap holds, in bits.
    pub buffer_bits: u64,
    /// Codec profile.
    pub profile: H264Profile,
    /// Ten times the codec level: 31 is 3.1.
    pub level: u8,
    /// Encoder threads. The bytes depend on it, so it belongs to the digest of the options.
    pub threads: u16,
}

/// Encode a range of the output frame grid into every rung, from one decode.
///
/// Output frame `n` begins at `origin_us + n / frame_rate`; it shows the last source frame that begins before its
/// middle. Frames that the source lacks repeat the one before, at the end of the source too.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EncodeSpec {
    /// The track ([`crate::MediaStream::index`]).
    pub stream: u32,
    /// The file's clock at the presentation start, in microseconds: the smallest start of the chosen tracks.
    pub origin_us: i64,
    /// Output frames per second.
    pub frame_rate: MediaRatio,
    /// First output frame of the range.
    pub start_frame: u64,
    /// Output frames of the range.
    pub frame_count: u32,
    /// Number that the first segment of the range gets.
    pub first_segment: u32,
    /// Output frames of every segment but the last.
    pub segment_frames: u32,
    /// An IDR frame is at every multiple of this many output frames, and where a segment begins.
    pub gop_frames: u32,
    /// Deinterlace frames that are marked as interlaced.
    pub deinterlace: bool,
    /// Decoder threads; 0 for one per processor, at most 8. The output does not depend on it.
    pub decode_threads: u16,
    /// Speed of the encoder.
    pub preset: EncoderPreset,
    /// The renditions.
    pub rungs: Vec<EncodeRung>,
    /// A sheet of small pictures of the range.
    #[serde(default)]
    pub storyboard: Option<StoryboardSpec>,
    /// How the file's time stamps are read where its clock jumps, as the probe found it.
    #[serde(default)]
    pub clock: ClockMap,
}

impl EncodeSpec {
    /// Segments of each rendition.
    #[must_use]
    pub fn segment_count(&self) -> u32 {
        self.frame_count.div_ceil(self.segment_frames.max(1))
    }

    /// Checks that the task is possible at all; says what is wrong with it.
    pub fn check(&self) -> Result<VideoGrid, String> {
        self.clock.check()?;
        let grid = VideoGrid::new(self.frame_rate).ok_or("frame_rate is not usable")?;
        let is_in = |value: u32| (1..=FRAMES_MAX).contains(&value);
        if !is_in(self.frame_count) || !is_in(self.segment_frames) || !is_in(self.gop_frames) {
            return Err("frame_count, segment_frames or gop_frames is out of range".into());
        }
        // Without rungs it makes small pictures alone.
        let is_nothing = self.rungs.is_empty() && self.storyboard.is_none();
        if self.start_frame > u64::from(u32::MAX) || is_nothing || self.rungs.len() > RUNGS_MAX {
            return Err("start_frame or the number of rungs is out of range".into());
        }
        if let Some(storyboard) = &self.storyboard {
            storyboard.check(self)?;
        }
        for (position, rung) in self.rungs.iter().enumerate() {
            rung.check()?;
            if self.rungs.iter().skip(position + 1).any(|other| other.rendition == rung.rendition) {
                return Err(format!("rendition {} is named twice", rung.rendition));
            }
        }
        Ok(grid)
    }
}

impl EncodeRung {
    fn check(&self) -> Result<(), String> {
        let is_side = |side: u32| (16..=SIDE_PIXELS_MAX).contains(&side) && side.is_multiple_of(2);
        let is_rate = |rate: u64| (1_000..=2_000_000_000).contains(&rate);
        if !is_side(self.width) || !is_side(self.height) {
            return Err(format!("size {}x{} is odd or out of range", self.width, self.height));
        }
        if !(1.0..=51.0).contains(&self.crf)
            || !is_rate(self.rate_bits_per_second_max)
            || !is_rate(self.buffer_bits)
        {
            return Err("crf, rate_bits_per_second_max or buffer_bits is out of range".into());
        }
        if !(10..=62).contains(&self.level) || !(1..=32).contains(&self.threads) {
            return Err("level or threads is out of range".into());
        }
        Ok(())
    }
}

/// A sheet of tiles, row by row, as JPEG. Tile `n` is output frame `first_frame + n * interval_frames`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StoryboardSpec {
    /// Output frame of the first tile.
    pub first_frame: u64,
    /// Output frames from one tile to the next.
    pub interval_frames: u32,
    /// Tiles.
    pub tile_count: u32,
    /// Tiles side by side.
    pub columns: u32,
    /// Width of a tile in pixels; even.
    pub tile_width: u32,
    /// Height of a tile in pixels; even.
    pub tile_height: u32,
    /// JPEG quantiser, 2 (best) to 31.
    pub quantizer: u8,
}

impl StoryboardSpec {
    /// Width and height of the sheet in pixels: as many rows as the tiles need.
    #[must_use]
    pub fn sheet_size(&self) -> (u32, u32) {
        let columns = self.columns.clamp(1, self.tile_count.max(1));
        let rows = self.tile_count.div_ceil(columns);
        (columns.saturating_mul(self.tile_width), rows.saturating_mul(self.tile_height))
    }

    fn check(&self, range: &EncodeSpec) -> Result<(), String> {
        let is_side = |side: u32| (2..=SIDE_PIXELS_MAX).contains(&side) && side.is_multiple_of(2);
        let (width, height) = self.sheet_size();
        if !is_side(self.tile_width) || !is_side(self.tile_height) || !is_side(width) || !is_side(height) {
            return Err("tile_width, tile_height or the sheet is odd or out of range".into());
        }
        let last = u64::from(self.tile_count.saturating_sub(1)) * u64::from(self.interval_frames);
        let end = range.start_frame + u64::from(range.frame_count);
        let is_inside = self.first_frame >= range.start_frame && self.first_frame.saturating_add(last) < end;
        if self.tile_count == 0 || self.interval_frames == 0 || self.columns == 0 || !is_inside {
            return Err("tiles lie outside of the range".into());
        }
        if !(2..=31).contains(&self.quantizer) {
            return Err("quantizer is out of range".into());
        }
        Ok(())
    }
}

/// Encode one audio track, whole, as stereo AAC at 48 kHz.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AudioSpec {
    /// The track ([`crate::MediaStream::index`]).
    pub stream: u32,
    /// The same value as for the video of the asset.
    pub origin_us: i64,
    /// Name of the rendition in what the task produces.
    pub rendition: u16,
    /// Length of the rendition at 48 kHz; the track is padded with silence or cut to it.
    pub duration_samples: u64,
    /// Length of a video segment; audio segments end at the AAC frame nearest to its multiples.
    pub segment_seconds: MediaRatio,
    /// Encoder rate.
    pub rate_bits_per_second: u32,
    /// Loudness of the output in LUFS (EBU R 128), -40 to -5; as the source is when absent.
    #[serde(default)]
    pub loudness_lufs: Option<i32>,
    /// How the file's time stamps are read where its clock jumps, as the probe found it.
    #[serde(default)]
    pub clock: ClockMap,
}

impl AudioSpec {
    /// Checks that the task is possible at all; says what is wrong with it.
    pub fn check(&self) -> Result<AudioGrid, String> {
        self.clock.check()?;
        let grid = AudioGrid::new(self.segment_seconds, self.duration_samples)
            .ok_or("segment_seconds is not usable")?;
        let seconds = self.segment_seconds.as_f64();
        if !(0.05..=3600.0).contains(&seconds) || !(16_000..=512_000).contains(&self.rate_bits_per_second) {
            return Err("segment_seconds or rate_bits_per_second is out of range".into());
        }
        if self.loudness_lufs.is_some_and(|loudness| !(-40..=-5).contains(&loudness)) {
            return Err("loudness_lufs is out of range".into());
        }
        if self.duration_samples == 0 || grid.frame_count() > u64::from(u32::MAX) {
            return Err("duration_samples is out of range".into());
        }
        Ok(grid)
    }
}

/// Take pictures from a video track or a still image, as JPEG.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StillsSpec {
    /// The track ([`crate::MediaStream::index`]).
    pub stream: u32,
    /// The same value as for the video of the asset.
    pub origin_us: i64,
    /// Wanted times from the presentation start, in microseconds. A black picture is passed over for the next one
    /// within ten seconds that is not; if all are black the brightest is taken.
    pub at_us: Vec<u64>,
    /// The picture is wanted that is shown at the time, also a black one.
    #[serde(default)]
    pub is_exact: bool,
    /// Longest side of the pictures in pixels; smaller sources are not enlarged.
    pub side_pixels_max: u32,
    /// JPEG quantiser, 2 (best) to 31.
    pub quantizer: u8,
    /// Deinterlace frames that are marked as interlaced.
    pub deinterlace: bool,
    /// How the file's time stamps are read where its clock jumps, as the probe found it.
    #[serde(default)]
    pub clock: ClockMap,
}

impl StillsSpec {
    /// Checks that the task is possible at all; says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.clock.check()?;
        if self.at_us.is_empty() || self.at_us.len() > STILLS_MAX {
            return Err("the number of pictures is out of range".into());
        }
        if !(16..=SIDE_PIXELS_MAX).contains(&self.side_pixels_max) || !(2..=31).contains(&self.quantizer) {
            return Err("side_pixels_max or quantizer is out of range".into());
        }
        if self.at_us.iter().any(|at| i64::try_from(*at).is_err()) {
            return Err("at_us is out of range".into());
        }
        Ok(())
    }
}

/// Read subtitle tracks that are text, whole.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubtitlesSpec {
    /// The tracks ([`crate::MediaStream::index`]); distinct.
    pub streams: Vec<u32>,
    /// The same value as for the video of the asset.
    pub origin_us: i64,
    /// Length of the presentation, in microseconds; cues are cut to it.
    pub duration_us: u64,
    /// How the file's time stamps are read where its clock jumps, as the probe found it.
    #[serde(default)]
    pub clock: ClockMap,
}

impl SubtitlesSpec {
    /// Checks that the task is possible at all; says what is wrong with it.
    pub fn check(&self) -> Result<(), String> {
        self.clock.check()?;
        if self.streams.is_empty() || self.streams.len() > SUBTITLE_TRACKS_MAX {
            return Err("the number of subtitle tracks is out of range".into());
        }
        let is_twice = |(position, stream)| self.streams.iter().skip(position + 1).any(|s| s == stream);
        if self.streams.iter().enumerate().any(is_twice) || i64::try_from(self.duration_us).is_err() {
            return Err("a subtitle track is named twice, or duration_us is out of range".into());
        }
        Ok(())
    }
}

/// A text and when it is shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubtitleCue {
    /// From when on, in microseconds from the presentation start.
    pub start_us: u64,
    /// Until when, later than `start_us`, in microseconds from the presentation start.
    pub end_us: u64,
    /// The text of a dialogue event of Advanced SubStation Alpha, which FFmpeg turns all subtitle texts into: lines end with `\\N`,
    /// styles are in braces. At most [`CUE_TEXT_BYTES_MAX`].
    pub text: String,
}

/// What a task produces, in order. Of each rendition the init segment comes first, then its segments by number.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum MediaTaskOutput {
    /// The init segment of a rendition; the same bytes from every range with the same options.
    Init {
        /// Which rendition.
        rendition: u16,
        /// The file: `ftyp` and `moov`.
        bytes: Bytes,
    },
    /// A media segment of a rendition.
    Segment {
        /// Which rendition.
        rendition: u16,
        /// Number of the segment; for audio from 0.
        number: u32,
        /// Ticks from the presentation start.
        start_ticks: u64,
        /// Ticks that it covers.
        duration_ticks: u64,
        /// Ticks per second.
        timescale: u32,
        /// Frames in it.
        sample_count: u32,
        /// The file: `moof` and `mdat`.
        bytes: Bytes,
    },
    /// A picture.
    Image {
        /// Position in [`StillsSpec::at_us`].
        position: u16,
        /// When it is shown, in microseconds from the presentation start.
        at_us: u64,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The JPEG file.
        bytes: Bytes,
    },
    /// Cues of a subtitle track.
    Cues {
        /// Position in [`SubtitlesSpec::streams`].
        position: u16,
        /// The cues, in the order of the file.
        cues: Vec<SubtitleCue>,
    },
    /// How far the task is; grows strictly.
    Progress {
        /// Output frames done: video frames in every rung, AAC frames, pictures.
        frames_done: u64,
    },
}

//! Renditions that were made elsewhere: what a survey finds in a file, and the tasks that put its samples into segments as they are.
//!
//! Limits: [`KEY_FRAMES_MAX`] keyframes of a file.

use serde::{Deserialize, Serialize};

use crate::grid::{AudioGrid, MediaRatio, VideoGrid};
use crate::probe::MediaProbe;
use crate::spec::FRAMES_MAX;

/// Most keyframes of a file whose samples are copied: a day with one each second has 86 400.
pub const KEY_FRAMES_MAX: usize = 200_000;

/// Most frames between the order of decoding and that of presentation; H.264 allows 16.
pub const DELAY_FRAMES_MAX: u32 = 32;

/// What a file holds, with the places of its samples.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaSurvey {
    /// As a probe finds it.
    pub probe: MediaProbe,
    /// The frames of its best video track ([`MediaProbe::best_video`]).
    pub frames: Option<FrameIndex>,
    /// The packets of its first audio track ([`MediaProbe::audio_streams`]).
    pub sound: Option<SoundIndex>,
}

/// The frames of a track, counted by its frame rate from the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameIndex {
    /// The track.
    pub stream: u32,
    /// Presentation time of the first frame, in ticks of the track.
    pub first_ticks: i64,
    /// Seconds of a tick.
    pub tick: MediaRatio,
    /// Frames per second.
    pub frame_rate: MediaRatio,
    /// Frames.
    pub frame_count: u64,
    /// Numbers of the frames that a decoder can start at, growing.
    pub key_frames: Vec<u32>,
    /// By how many frames the order of decoding runs before that of presentation.
    pub delay_frames: u32,
    /// Why its samples can't be copied as they are.
    pub fault: Option<FrameFault>,
}

/// Why the samples of a track can't be copied as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameFault {
    /// A frame is not where the frame rate has it.
    Irregular {
        /// When it is shown, in milliseconds from the first one.
        at_ms: u64,
    },
    /// An edit list hides frames.
    Hidden,
    /// It begins with another frame than a keyframe, has more keyframes than [`KEY_FRAMES_MAX`], or shows one before an earlier one.
    Keyframes,
    /// What its decoder is set up by changes on the way.
    Changing,
    /// What its decoder is set up by stands among the frames.
    ParameterSets,
    /// A keyframe is none that forgets all before it (IDR).
    OpenGroups {
        /// When it is shown, in milliseconds from the first one.
        at_ms: u64,
    },
}

/// The packets of a track of sound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoundIndex {
    /// The track.
    pub stream: u32,
    /// Presentation time of the first packet, in ticks of the track.
    pub first_ticks: i64,
    /// Seconds of a tick.
    pub tick: MediaRatio,
    /// Samples per second.
    pub sample_rate_hz: u32,
    /// Samples of each packet; 0 where they differ.
    pub packet_samples: u32,
    /// Packets.
    pub packet_count: u64,
    /// When a packet comes that does not follow the one before, in milliseconds from the first one.
    pub gap_at_ms: Option<u64>,
}

/// Put a range of the frames of a track into segments, as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FrameCopySpec {
    /// The track.
    pub stream: u32,
    /// Name of the rendition in what the task produces.
    pub rendition: u16,
    /// As [`FrameIndex::first_ticks`].
    pub first_ticks: i64,
    /// Frames per second.
    pub frame_rate: MediaRatio,
    /// As [`FrameIndex::delay_frames`].
    pub delay_frames: u32,
    /// First frame of the range: a keyframe.
    pub start_frame: u64,
    /// Frames of the range.
    pub frame_count: u32,
    /// Number that the first segment of the range gets.
    pub first_segment: u32,
    /// Frames of every segment but the last; each begins with a keyframe.
    pub segment_frames: u32,
}

impl FrameCopySpec {
    /// Checks that the task is possible at all; says what is wrong with it.
    pub fn check(&self) -> Result<VideoGrid, String> {
        let grid = VideoGrid::new(self.frame_rate).ok_or("frame_rate is not usable")?;
        let is_in = |value: u32| (1..=FRAMES_MAX).contains(&value);
        let is_late = self.start_frame > u64::from(u32::MAX) || self.delay_frames > DELAY_FRAMES_MAX;
        if !is_in(self.frame_count) || !is_in(self.segment_frames) || is_late {
            return Err("start_frame, frame_count, segment_frames or delay_frames is out of range".into());
        }
        Ok(grid)
    }
}

/// Put the packets of a track of AAC into segments, as they are.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SoundCopySpec {
    /// The track.
    pub stream: u32,
    /// Name of the rendition in what the task produces.
    pub rendition: u16,
    /// Packets before the first one that is taken: what an encoder begins with is not part of the sound.
    pub skipped_packets: u64,
    /// Length of the rendition in samples.
    pub duration_samples: u64,
    /// Samples per second.
    pub sample_rate_hz: u32,
    /// Length of a video segment; audio segments end at the packet nearest to its multiples.
    pub segment_seconds: MediaRatio,
}

impl SoundCopySpec {
    /// Checks that the task is possible at all; says what is wrong with it.
    pub fn check(&self) -> Result<AudioGrid, String> {
        let grid = AudioGrid::with_rate(self.segment_seconds, self.duration_samples, self.sample_rate_hz)
            .ok_or("segment_seconds or sample_rate_hz is not usable")?;
        let is_empty = self.duration_samples == 0;
        if is_empty || grid.frame_count() > u64::from(u32::MAX) || !self.is_length_usable() {
            return Err("duration_samples or segment_seconds is out of range".into());
        }
        Ok(grid)
    }

    fn is_length_usable(&self) -> bool {
        (0.05..=3600.0).contains(&self.segment_seconds.as_f64())
    }
}

//! The parent side of the sandboxed media child: protocol and driver, no FFmpeg.
//!
//! [`MediaDriver`] starts one `streamgate-media` process per task, serves it ranges of the [`MediaByteSource`], and hands on
//! what it produces. The child is treated as hostile: every frame it sends is checked against the plan that the
//! task implies, and whatever does not fit ends the task as [`MediaTaskError::Protocol`].
//!
//! Limits: frame size ([`protocol::FRAME_BYTES_MAX`]), read size and reads in flight
//! ([`protocol::READ_BYTES_MAX`], [`protocol::READS_IN_FLIGHT_MAX`]), children at once, memory of each and of all, threads, CPU
//! seconds, seconds without progress, bytes of output and bytes read per task ([`MediaDriverConfig`]), and what a media file may
//! contain ([`protocol::MediaLimits`]).

mod clock;
mod config;
mod copy;
mod driver;
mod error;
mod grid;
mod memory;
mod output_validator;
mod probe;
pub mod protocol;
mod session;
mod source;
mod spec;

pub use clock::{CLOCK_MARKS_MAX, ClockMap, ClockMark};
pub use config::MediaDriverConfig;
pub use copy::{
    DELAY_FRAMES_MAX, FrameCopySpec, FrameFault, FrameIndex, KEY_FRAMES_MAX, MediaSurvey, SoundCopySpec,
    SoundIndex,
};
pub use driver::MediaDriver;
pub use error::{MediaErrorCode, MediaRetryDecision, MediaTaskError};
pub use grid::{AUDIO_FRAME_SAMPLES, AUDIO_RATE_HZ, AudioGrid, MediaRatio, VideoGrid};
pub use probe::{
    AUDIO_TRACKS_MAX, AudioStream, MediaFileKind, MediaProbe, MediaStream, MediaStreamKind,
    SOURCE_CHAPTERS_MAX, SourceChapter, TEXT_CHARS_MAX, VideoStream,
};
pub use protocol::{FfmpegVersions, MediaSelfCheck, MediaTaskReport, SandboxReport};
pub use source::{FileSource, MediaByteSource};
pub use spec::{
    AudioSpec, CUE_TEXT_BYTES_MAX, CUES_BYTES_MAX, CUES_MAX, EncodeRung, EncodeSpec, EncoderPreset,
    FRAMES_MAX, H264Profile, MediaTaskOutput, RUNGS_MAX, SIDE_PIXELS_MAX, STILLS_MAX, SUBTITLE_TRACKS_MAX,
    StillsSpec, StoryboardSpec, SubtitleCue, SubtitlesSpec,
};

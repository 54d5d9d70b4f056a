//! The files with what was found in them, and why they are refused.

use media::{FrameIndex, MediaStream, MediaSurvey, VideoStream};
use packaging::{ladder::PictureSize, plan};
use schemas::{media::Rational, renditions::RenditionFile};

/// What makes files that go together.
pub(super) const ADVICE: &str =
    "encode all of them with -force_key_frames 'expr:gte(t,n_forced*2)' -sc_threshold 0";

/// Why files can't be renditions of one encode.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{detail}")]
pub struct RenditionFault {
    /// A stable code.
    pub code: &'static str,
    /// The same for people: which file, and what to do.
    pub detail: String,
}

pub(super) fn fault<T>(code: &'static str, detail: String) -> Result<T, RenditionFault> {
    Err(RenditionFault { code, detail })
}

/// A file with what was found in it.
#[derive(Debug, Clone, Copy)]
pub(super) struct SurveyedFile<'a> {
    pub(super) place: u32,
    pub(super) file: &'a RenditionFile,
    pub(super) survey: &'a MediaSurvey,
}

/// The pictures of a file.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pictures<'a> {
    pub(super) of: SurveyedFile<'a>,
    pub(super) stream: &'a MediaStream,
    pub(super) video: &'a VideoStream,
    pub(super) frames: &'a FrameIndex,
}

impl Pictures<'_> {
    pub(super) fn name(&self) -> &str {
        &self.of.file.name
    }

    pub(super) fn size(&self) -> PictureSize {
        PictureSize { width: self.video.width, height: self.video.height }
    }

    pub(super) fn frames_to_ms(&self, frames: u64) -> u64 {
        plan::frames_to_ms(frames, to_rational(self.frames.frame_rate))
    }
}

pub(super) fn to_rational(ratio: media::MediaRatio) -> Rational {
    Rational { num: ratio.num, den: ratio.den }
}

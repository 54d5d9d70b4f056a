//! What can go wrong with a task, and whether to try it again.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// Why a media file was refused: stable strings for people and machines ([`MediaErrorCode::as_str`]).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum MediaErrorCode {
    /// The file has no bytes.
    MediaEmpty,
    /// The file ends before its structure does.
    MediaTruncated,
    /// Not one of the formats on the allow-list.
    MediaUnsupportedFormat,
    /// The format is allowed, no decoder for the track is.
    MediaUnsupportedCodec,
    /// No video, audio or image track.
    MediaNoStreams,
    /// A track was found, nothing in it could be decoded.
    MediaNoFrames,
    /// A track is encrypted, and nobody has its key.
    MediaEncrypted,
    /// More tracks than allowed.
    MediaTooManyStreams,
    /// More pixels per picture than allowed.
    MediaTooManyPixels,
    /// More packets than allowed.
    MediaTooManyPackets,
    /// A longer duration than allowed.
    MediaTooLong,
    /// The structure contradicts itself.
    MediaCorrupt,
    /// The task names a track or a geometry that the file does not have.
    MediaSpecMismatch,
}

impl MediaErrorCode {
    /// All of them.
    pub const ALL: &[Self] = &[
        Self::MediaEmpty,
        Self::MediaTruncated,
        Self::MediaUnsupportedFormat,
        Self::MediaUnsupportedCodec,
        Self::MediaNoStreams,
        Self::MediaNoFrames,
        Self::MediaEncrypted,
        Self::MediaTooManyStreams,
        Self::MediaTooManyPixels,
        Self::MediaTooManyPackets,
        Self::MediaTooLong,
        Self::MediaCorrupt,
        Self::MediaSpecMismatch,
    ];

    /// The stable spelling, such as `media_truncated`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::MediaEmpty => "media_empty",
            Self::MediaTruncated => "media_truncated",
            Self::MediaUnsupportedFormat => "media_unsupported_format",
            Self::MediaUnsupportedCodec => "media_unsupported_codec",
            Self::MediaNoStreams => "media_no_streams",
            Self::MediaNoFrames => "media_no_frames",
            Self::MediaEncrypted => "media_encrypted",
            Self::MediaTooManyStreams => "media_too_many_streams",
            Self::MediaTooManyPixels => "media_too_many_pixels",
            Self::MediaTooManyPackets => "media_too_many_packets",
            Self::MediaTooLong => "media_too_long",
            Self::MediaCorrupt => "media_corrupt",
            Self::MediaSpecMismatch => "media_spec_mismatch",
        }
    }
}

impl fmt::Display for MediaErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Whether a task that failed may be tried again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MediaRetryDecision {
    /// Trying again, here or elsewhere, may succeed.
    Retry,
    /// The file will be refused every time.
    Reject,
}

/// Why a task ended without its result.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MediaTaskError {
    /// The media file is at fault, with a stable code.
    #[error("{code}: {detail}")]
    Rejected {
        /// Which rule the file broke.
        code: MediaErrorCode,
        /// Printable text about this file, at most [`crate::protocol::DETAIL_CHARS_MAX`] characters.
        detail: String,
    },
    /// The child reported a failure that is not the file's, such as running out of memory.
    #[error("media child failed: {detail}")]
    Failed {
        /// Printable text, bounded like that of a rejection.
        detail: String,
    },
    /// The child died without a result.
    #[error("media child crashed (signal {signal:?}, exit status {status:?}): {detail}")]
    Crashed {
        /// The signal that ended it.
        signal: Option<i32>,
        /// The exit status when no signal did.
        status: Option<i32>,
        /// The end of what it wrote to stderr, printable and bounded.
        detail: String,
    },
    /// No progress within [`crate::MediaDriverConfig::wall_seconds_without_progress_max`]; the child was killed.
    #[error("media child made no progress for {seconds} s")]
    Stalled {
        /// The limit it broke.
        seconds: u64,
    },
    /// The token was cancelled; the child was killed.
    #[error("cancelled")]
    Cancelled,
    /// The child broke the protocol or its limits; it was killed.
    #[error("media child broke the protocol: {0}")]
    Protocol(String),
    /// The source could not be read.
    #[error("read the source")]
    Source(#[source] io::Error),
    /// The receiver of the output went away.
    #[error("the taker of the output went away")]
    OutputClosed,
    /// No sandbox holds on this machine.
    #[error("the sandbox does not hold: {0}")]
    Sandbox(String),
    /// The task itself is impossible, whatever the file.
    #[error("impossible task: {0}")]
    Spec(String),
    /// The child could not be started.
    #[error("the media child {path} can't be started")]
    Spawn {
        /// The program that was tried.
        path: String,
        /// Why it did not start.
        #[source]
        source: io::Error,
    },
}

impl MediaTaskError {
    /// Whether to try the task again.
    #[must_use]
    pub fn retry_decision(&self) -> MediaRetryDecision {
        match self {
            Self::Rejected { .. } | Self::Spec(_) => MediaRetryDecision::Reject,
            _ => MediaRetryDecision::Retry,
        }
    }

    /// What somebody can do about a driver that did not start with this error, without a full stop.
    #[must_use]
    pub fn start_advice(&self) -> &'static str {
        match self {
            Self::Spawn { .. } => {
                "build it with `cargo build --release -p media-child` and keep it beside streamgate, or name it with \
                 --media-child"
            }
            Self::Sandbox(_) => {
                "allow seccomp or landlock (in a container: a profile that lets seccomp(2) through), or, only on a machine \
                 that isolates by other means, --unsandboxed"
            }
            Self::Protocol(_) => {
                "name a streamgate-media of this version with --media-child, or build both programs again"
            }
            _ => {
                "install FFmpeg's libraries with libx264 (Debian and Ubuntu: `make setup` does), and build again"
            }
        }
    }

    /// A stable word for events, logs and metric labels.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Rejected { code, .. } => code.as_str(),
            Self::Failed { .. } => "media_child_failed",
            Self::Crashed { .. } => "media_child_crashed",
            Self::Stalled { .. } => "media_child_stalled",
            Self::Cancelled => "cancelled",
            Self::Protocol(_) => "media_child_protocol",
            Self::Source(_) => "source_unreadable",
            Self::OutputClosed => "output_closed",
            Self::Sandbox(_) => "sandbox_missing",
            Self::Spec(_) => "media_spec_invalid",
            Self::Spawn { .. } => "media_child_missing",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_spelled_alike_on_the_wire_and_for_people() {
        for code in MediaErrorCode::ALL {
            let wire: String = rmp_serde::from_slice(&rmp_serde::to_vec_named(code).unwrap()).unwrap();
            assert_eq!(wire, code.as_str());
        }
    }
}

//! The parent side of the sandboxed media child: protocol and driver, no FFmpeg.
//!
//! [`Driver`] starts one `streamgate-media` process per task, serves it ranges of the [`Source`], and hands on
//! what it produces. The child is treated as hostile: every frame it sends is checked against the plan that the
//! task implies, and whatever does not fit ends the task as [`Fault::Protocol`].
//!
//! Limits: frame size ([`protocol::FRAME_BYTES_MAX`]), read size and reads in flight
//! ([`protocol::READ_BYTES_MAX`], [`protocol::READS_IN_FLIGHT_MAX`]), children at once, memory of each and of all, threads, CPU seconds,
//! seconds without progress, bytes of output and bytes read per task ([`Config`]), and what a media file may
//! contain ([`protocol::Limits`]).

mod config;
mod driver;
mod error;
mod expect;
mod grid;
mod memory;
mod probe;
pub mod protocol;
mod session;
mod source;
mod spec;

pub use config::Config;
pub use driver::Driver;
pub use error::{Code, Fault, Verdict};
pub use grid::{AUDIO_FRAME_SAMPLES, AUDIO_RATE_HZ, AudioGrid, Ratio, VideoGrid};
pub use probe::{AudioStream, Kind, Probe, Stream, StreamKind, TEXT_CHARS_MAX, VideoStream};
pub use protocol::{Check, Report, Sandbox, Versions};
pub use source::{FileSource, Source};
pub use spec::{
    AudioSpec, EncodeSpec, FRAMES_MAX, Output, Preset, Profile, RUNGS_MAX, Rung, SIDE_PIXELS_MAX, STILLS_MAX,
    StillsSpec,
};

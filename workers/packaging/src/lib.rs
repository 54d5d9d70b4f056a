//! What an encode is cut into and how it is described, from a probe's findings to playlists and a manifest. Pure: no input or
//! output, no clock, the same input gives the same bytes.
//!
//! - [`EncodeProfile`]: what is wished for. [`ladder`] and [`plan`]: what is made, and in which parts.
//! - [`copied`]: the same for what was made elsewhere.
//! - [`presentation`]: what was made. [`playlist`] and [`mpd`]: its description for players.
//! - [`mp4`]: the files of an encode, and one file made of them.
//! - [`GrowingPartReader`]: which parts of a job that grows are read.
//!
//! Limits: at most [`schemas::job::PARTS_MAX`] parts a job; those of [`ladder`].

mod audio_frame;
mod audio_names;
pub mod captions;
mod changes;
pub mod chapters;
mod checksums;
pub mod copied;
pub mod ladder;
pub mod language;
pub mod mp4;
pub mod mpd;
mod part_reader;
pub mod plan;
pub mod playlist;
pub mod presentation;
mod profile;
mod ratio;
mod segment_search;
pub mod storyboard;
pub mod subtitle_timeline;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;
mod time_text;
pub mod webvtt;

pub use audio_names::{ListedAudio, list_audio};
pub use checksums::{ChecksumList, LIST_BYTES_MAX as CHECKSUMS_BYTES_MAX};
pub use part_reader::GrowingPartReader;
pub use profile::{
    AUDIO_TRACKS_MAX, EncodeProfile, ProfileRung, SIDE_PIXELS_MAX, STEP_RATE_BPS_MAX, STEPS_MAX, X264Preset,
};
pub use segment_search::{ListedSegment, find_segment, find_segment_span};

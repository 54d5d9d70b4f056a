//! The files of an encode as ISO/IEC 14496-12 has them: init and media segments are read, and one file is described that holds the
//! same samples.

mod atoms;
mod fragment;
mod progressive;
mod sample_table;
#[cfg(test)]
mod tests;

pub use fragment::{
    FirstPicture, INIT_BYTES_MAX, InitSegment, MalformedMp4, Mp4Fragment, Mp4Sample, Mp4TrackKind,
    SAMPLES_MAX, read_first_picture, read_fragment, read_init_segment, read_samples,
};
pub use progressive::{MediaPiece, ProgressiveMp4, ProgressiveTrack};

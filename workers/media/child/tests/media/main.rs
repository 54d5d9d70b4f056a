//! The media child as its parent uses it: the real program, real FFmpeg, files made by the ffmpeg command line.
#![expect(clippy::unwrap_used, clippy::expect_used, reason = "what a test can't set up fails it at once")]

mod audio;
mod colours;
mod encode;
mod faults;
mod frame_rates;
mod harness;
mod inputs;
mod joints;
mod stills;
mod tracks;

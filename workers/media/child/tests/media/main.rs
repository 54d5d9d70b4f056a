//! The media child as its parent uses it: the real program, real FFmpeg, files made by the ffmpeg command line.

mod audio;
mod encode;
mod faults;
mod harness;
mod inputs;
mod stills;

//! The sandboxed program that links FFmpeg.
fn main() {}

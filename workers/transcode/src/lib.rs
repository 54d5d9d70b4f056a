//! The transcode stage

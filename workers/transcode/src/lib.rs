//! The transcode stage.

mod boxes;
pub mod check;
mod config;
mod ladder;
mod mpd;
pub mod plan;
pub mod playlist;
pub mod presentation;
#[cfg(test)]
mod tests;

pub use config::{Config, DEFAULT_PROFILE, Profile, Step};

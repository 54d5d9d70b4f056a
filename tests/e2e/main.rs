//! End to end: a real broker, a real store, the real binary, its media child, and clients that are not ours.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first thing that is not as it should be; only functions marked as tests are known as such"
)]

mod accounts;
mod api;
mod audit_coverage;
mod audit_replay;
mod brokers;
mod browser;
mod captions;
mod chain;
mod chapters;
mod cli;
mod clients;
mod closing;
mod coherence;
mod compose;
mod content;
mod contract;
mod crowd;
mod demo;
mod downloads;
mod encryption;
mod experience;
mod exports;
mod faults;
mod fetch;
mod flow;
mod gate;
mod generated_clients;
mod harness;
mod holes;
mod hooks;
mod http;
mod inputs;
mod integration;
mod jobs;
mod library;
mod links;
mod messages;
mod metrics;
mod monitoring;
mod own_ladders;
mod owner_removal;
mod parts;
mod piped_uploads;
mod players;
mod posters;
mod programs;
mod proxied;
mod quotas;
mod redrive;
mod removal;
mod schedules;
mod search;
mod settings;
mod sharing;
mod site;
mod soak;
mod subscriptions;
mod subtitles;
mod thumbnails;
mod traces;
mod transcode;
mod tus;
mod upgrade;
mod upload_clients;
mod verify;
mod walkthroughs;
mod wallet;
mod webdriver;
mod whole;

/// The program that processes of an installation are.
fn program_path() -> std::path::PathBuf {
    env!("CARGO_BIN_EXE_streamgate").into()
}

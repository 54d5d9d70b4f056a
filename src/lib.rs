//! StreamGate turns uploaded media into gated, adaptive streams; every step is an event on NATS JetStream.
//!
//! ```text
//! client --HTTP--> ingress --publish--> JetStream --pull--> worker --publish--> JetStream --> ...
//!                     |                                       |
//!                     +------ bytes ----> object store <------+
//! ```
//!
//! This crate is the binary's library: it composes the stages below it and adds what faces people. The map:
//!
//! - [`ingress`]: HTTP, over [`web`], [`auth`] and [`gate`]. [`keeper`]: singletons under a lease.
//! - [`roles`]: starts roles and stops them all when one ends. [`up`]: every role in one process, with its own broker.
//! - [`broker_listener`]: where programs on other machines reach the broker of `up`.
//! - [`data_folder`]: whether this machine's data can be kept. [`explained`]: errors that say what to do.
//! - [`stores`]: which object store belongs to this installation.
//! - [`readiness`]: whether this process can do its work.
//! - [`process_reports`], [`log_levels`]: what a process says of itself to the monitor, and what it is asked to log for a while.
//! - [`config`]: one struct, from file, environment and flags. [`telemetry`]: logs, probes and metrics of each role.
//!
//! Invariants, by what is absent: no stage is imported by another; nothing but [`nats`] writes state; no path, subject or
//! metric label is made of a client's text.

pub mod broker_listener;
mod bus_description;
pub mod cli;
pub mod config;
pub mod data_folder;
pub mod explained;
pub mod keeper;
pub mod log_levels;
pub mod owner_removal;
pub mod ownership_transfer;
pub mod process_reports;
pub mod published;
pub mod readiness;
pub mod roles;
pub mod stores;
pub mod telemetry;
pub mod up;

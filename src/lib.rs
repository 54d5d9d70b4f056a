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
//! - [`ingress`]: HTTP. [`auth`]: who is asking. [`keeper`]: singletons under a lease.
//! - [`telemetry`]: logs, probes and metrics of each role.
//!
//! Invariants, by what is absent: no stage is imported by another; nothing but [`nats`] writes state; no path, subject or
//! metric label is made of a client's text.

pub mod auth;
pub mod cli;
pub mod ingress;
pub mod keeper;
pub mod telemetry;

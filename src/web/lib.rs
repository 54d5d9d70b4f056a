//! What every HTTP endpoint needs, and no rule of the product: errors as problems, JSON documents, queries, conditional and ranged
//! requests, cursors and pages, limits, repeated requests, foreign origins, connections.
//!
//! Whose a request is comes with it ([`request::RequestOwner`]); nobody is asked.

pub mod access_sums;
pub mod attachment;
pub mod body;
pub mod bytes;
pub mod client;
pub mod conditional;
mod connection;
pub mod cursor;
mod duplicate_keys;
pub mod error;
pub mod filter;
pub mod idempotency;
pub mod interim;
pub mod json_document;
pub mod limit;
mod lingering;
pub mod operation;
pub mod page;
pub mod problem_code;
pub mod problem_page;
pub mod public_address;
pub mod query;
pub mod readiness;
pub mod registry;
pub mod request;
pub mod request_head;
pub mod request_metrics;
pub mod request_policy;
pub mod request_trace;
pub mod serve;

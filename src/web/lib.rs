//! What every HTTP endpoint needs, and no rule of the product: errors as problems, JSON documents, queries, conditional and ranged
//! requests, cursors and pages, limits, repeated requests, foreign origins, connections.
//!
//! It is told whose a request is ([`request::RequestOwner`]), and asks nobody.

pub mod body;
pub mod bytes;
pub mod client;
pub mod conditional;
pub mod cursor;
pub mod error;
pub mod guard;
pub mod heads;
pub mod idempotency;
pub mod kind;
pub mod limit;
pub mod manners;
pub mod page;
mod polite;
pub mod query;
pub mod readiness;
pub mod refusals;
pub mod registry;
pub mod request;
pub mod serve;
pub mod tagged;
mod unique;

//! Gates: tables for the pure core, a model chain for the rest.

pub(crate) mod anvil;
mod bound;
mod granting;
mod hearing;
mod judging;
mod lifetimes;
mod rules;
mod simulation;
pub(crate) mod site;

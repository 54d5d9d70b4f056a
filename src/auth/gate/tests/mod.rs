//! Gates: tables for the pure core, a model chain for the rest.

pub(crate) mod anvil;
mod granting;
mod judging;
mod rules;
mod simulation;
pub(crate) mod site;

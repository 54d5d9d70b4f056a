//! Gates: tables for the pure core, a model chain for the rest.

mod anvil;
mod bound;
mod granting;
mod hearing;
mod judging;
mod rules;
mod simulation;

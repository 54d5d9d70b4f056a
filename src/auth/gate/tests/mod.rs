//! Gates: tables for the pure core, a model chain for the rest.

mod judging;
mod rules;
mod simulation;

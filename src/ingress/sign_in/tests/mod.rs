//! Sign-in over HTTP, against a real broker.

mod accounts;
mod holes;
mod ingress;
mod keys;
mod links;
mod login;
mod proofs;
mod sessions;
pub(crate) mod site;
mod tokens;

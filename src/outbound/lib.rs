//! The HTTP client for every address that a user gives.
//!
//! Nothing but public networks is reached, unless the operator lets others through ([`OutboundConfig::allow`]): an address that is
//! written out is checked where it is read ([`OutboundUrl`]), also each to which a redirect leads, and a name at every connect, by all
//! addresses that it stands for at that moment. No proxy of the environment is used, for that one would connect elsewhere; no connection
//! is used twice; no cookie is kept, and no body is decoded, so that bytes are counted as they arrive.
//!
//! Text for people names what the user gave and nothing that was found out behind it: neither an address that a name stands for, nor
//! the query of an address, which may hold a secret.
//!
//! A file is sent by [`OutboundClient::put`], as it is read. Addresses that the settings name, such as those of nodes of chains, are
//! asked by clients of [`configured_client`], which checks none.
//!
//! Limits: [`OutboundConfig`]; an address has at most [`URL_BYTES_MAX`] bytes, a name stands for at most [`ADDRESSES_MAX`] addresses.

mod body;
mod client;
mod config;
mod error;
mod networks;
mod put;
mod resolver;
mod target;
#[cfg(test)]
mod tests;

pub use body::OutboundBody;
pub use client::{OutboundClient, OutboundRequest, OutboundResponse, RedirectScope, configured_client};
pub use config::OutboundConfig;
pub use error::OutboundError;
pub use networks::{NetworkRule, Networks};
pub use put::{OutboundFile, PIECE_BYTES_MAX};
pub use resolver::{ADDRESSES_MAX, LookUp, SystemLookUp};
pub use target::{OutboundUrl, URL_BYTES_MAX};

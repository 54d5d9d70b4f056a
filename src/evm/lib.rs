//! EVM chains, read through providers none of which is trusted alone.
//!
//! A decision names one block by number and hash and reads everything at that hash (EIP-1898, canonical only), so that all its
//! facts are of one moment. A value counts once a quorum of providers gave the same one; who gives another is quarantined. Hung,
//! lagging, throttling and failing providers are left out; when too few are left, the answer is an error and never a guess.
//!
//! - [`ChainConfig`]: one chain. [`ChainCounters`]: metrics and doubts. [`EvmClient`]: all of them.
//! - `rpc`: the wire, pure. `http`: the one transport. `provider`: limits around it. `quorum`: counting, pure. `head`: which block.
//!
//! Limits: [`ChainConfig`] bounds time, bytes, batches, requests in flight and requests a second of each provider.

mod circuit;
mod client;
mod config;
mod counters;
mod error;
mod head;
mod http;
mod provider;
mod quorum;
mod rpc;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;

use alloy_primitives::B256;

pub use client::{ChainClock, EvmClient, NamedTransport};
pub use config::{ChainConfig, RpcUrl};
pub use counters::ChainCounters;
pub use error::{ChainError, ProviderFault};
pub use head::ChainHead;
pub use http::HttpTransport;
pub use rpc::{ContractLog, RpcTransport};

/// A block, by number and hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct EvmBlock {
    /// Height.
    pub number: u64,
    /// Hash.
    pub hash: B256,
    /// Unix time in seconds, by its proposer's clock.
    pub timestamp_s: u64,
}

/// At which block to read. Who needs several facts of one moment asks [`EvmClient::read_head`] first and reads at [`BlockRef::At`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockRef {
    /// The newest block that a quorum knows.
    Latest,
    /// The newest block with the chain's number of confirmations.
    Confirmed,
    /// This block, as long as it is part of the chain.
    At(B256),
}

//! How far a chain was read, and what its head means for that.

use anyhow::Context;
use evm::EvmClient;
use nats::{Bus, BusError, Outbox};
use schemas::{
    KvRecord as _,
    gate::{ChainBlock, ChainCursor},
};

use super::HASHES_MAX;

/// What to do at a new head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum CursorStep {
    /// Nothing is new.
    Still,
    /// The blocks from here to the head are new.
    On {
        /// First new block.
        from: u64,
        /// The cursor afterwards.
        next: ChainCursor,
    },
    /// Blocks that were read are gone, or it is unknown what was read: anything may have changed.
    Lost(ChainCursor),
}

pub(super) async fn load_cursor(bus: &Bus, chain_id: u64) -> Result<ChainCursor, BusError> {
    let empty = ChainCursor { chain_id, blocks: Vec::new() };
    Ok(bus.load_record::<ChainCursor>(&empty.key()).await?.map_or(empty, |held| held.record))
}

/// Another keeper may be ahead: the holder of the lease reads from its own view, and repeats are harmless.
pub(super) async fn store_cursor(bus: &Bus, next: ChainCursor) -> Result<(), BusError> {
    bus.change_record::<ChainCursor>(&next.key(), |_| Some((next.clone(), Outbox::new()))).await.map(drop)
}

/// Compares what was read with the chain's head.
pub(super) async fn next_step(
    chains: &EvmClient,
    known: &ChainCursor,
    head: evm::EvmBlock,
) -> anyhow::Result<CursorStep> {
    let newest = ChainBlock { chain_id: known.chain_id, number: head.number, hash: head.hash.to_string() };
    let Some(last) = known.blocks.last() else {
        return Ok(CursorStep::Lost(ChainCursor { chain_id: known.chain_id, blocks: vec![newest] }));
    };
    if *last == newest {
        return Ok(CursorStep::Still);
    }
    // The last block read that is still part of the chain; each look costs a request, and reorganisations are short.
    let mut common = known.blocks.len();
    while let Some(block) = common.checked_sub(1).and_then(|index| known.blocks.get(index)) {
        if block.number <= head.number && is_on_chain(chains, block).await? {
            break;
        }
        common -= 1;
    }
    let mut blocks: Vec<ChainBlock> = known.blocks.iter().take(common).cloned().collect();
    let is_whole = common == known.blocks.len();
    // Compared by hash: after a reorganisation the same number is another block, whose logs were never read.
    let from = blocks.last().map_or(head.number, |block| block.number + 1);
    if blocks.last() != Some(&newest) {
        blocks.push(newest);
    }
    let surplus = blocks.len().saturating_sub(HASHES_MAX);
    blocks.drain(..surplus);
    let next = ChainCursor { chain_id: known.chain_id, blocks };
    Ok(if is_whole { CursorStep::On { from, next } } else { CursorStep::Lost(next) })
}

async fn is_on_chain(chains: &EvmClient, block: &ChainBlock) -> anyhow::Result<bool> {
    match chains.read_block(block.chain_id, block.number).await {
        Ok(found) => Ok(found.hash.to_string() == block.hash),
        // The chain is shorter than it was.
        Err(evm::ChainError::Reorganised { .. }) => Ok(false),
        Err(error) => Err(error).context("a block that was read before"),
    }
}

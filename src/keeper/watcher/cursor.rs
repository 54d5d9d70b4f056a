//! How far a chain was read, and what its head means for that.

use anyhow::Context;
use evm::Chains;
use nats::{Bus, Error, Outbox};
use schemas::{
    Record as _,
    gate::{Block, Cursor},
};

use super::HASHES_MAX;

/// What to do at a new head.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Step {
    /// Nothing is new.
    Still,
    /// The blocks from here to the head are new.
    On {
        /// First new block.
        from: u64,
        /// The cursor afterwards.
        next: Cursor,
    },
    /// Blocks that were read are gone, or it is unknown what was read: anything may have changed.
    Lost(Cursor),
}

pub(super) async fn load(bus: &Bus, chain_id: u64) -> Result<Cursor, Error> {
    let empty = Cursor { chain_id, blocks: Vec::new() };
    Ok(bus.load::<Cursor>(&empty.key()).await?.map_or(empty, |held| held.record))
}

/// Another keeper may be ahead: whoever holds the lease reads from its own view, and repeats are harmless.
pub(super) async fn store(bus: &Bus, next: Cursor) -> Result<(), Error> {
    bus.change::<Cursor>(&next.key(), |_| Some((next.clone(), Outbox::new()))).await.map(drop)
}

/// Compares what was read with the chain's head.
pub(super) async fn step(chains: &Chains, known: &Cursor, head: evm::Block) -> anyhow::Result<Step> {
    let newest = Block { chain_id: known.chain_id, number: head.number, hash: head.hash.to_string() };
    let Some(last) = known.blocks.last() else {
        return Ok(Step::Lost(Cursor { chain_id: known.chain_id, blocks: vec![newest] }));
    };
    if *last == newest {
        return Ok(Step::Still);
    }
    // The last block read that is still part of the chain; each look costs a request, and reorganisations are short.
    let mut common = known.blocks.len();
    while let Some(block) = common.checked_sub(1).and_then(|index| known.blocks.get(index)) {
        if block.number <= head.number && is_on_chain(chains, block).await? {
            break;
        }
        common -= 1;
    }
    let mut blocks: Vec<Block> = known.blocks.iter().take(common).cloned().collect();
    let is_whole = common == known.blocks.len();
    let from = blocks.last().map_or(head.number, |block| block.number + 1);
    if blocks.last() != Some(&newest) {
        blocks.push(newest);
    }
    let surplus = blocks.len().saturating_sub(HASHES_MAX);
    blocks.drain(..surplus);
    let next = Cursor { chain_id: known.chain_id, blocks };
    Ok(if is_whole { Step::On { from, next } } else { Step::Lost(next) })
}

async fn is_on_chain(chains: &Chains, block: &Block) -> anyhow::Result<bool> {
    match chains.block(block.chain_id, block.number).await {
        Ok(found) => Ok(found.hash.to_string() == block.hash),
        // The chain is shorter than it was.
        Err(evm::Error::Reorganised { .. }) => Ok(false),
        Err(error) => Err(error).context("a block that was read before"),
    }
}

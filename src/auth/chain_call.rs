//! Contract accounts over the configured chains: what sign-in asks is answered by a quorum of providers.

use alloy_primitives::{Address, B256, Bytes};
use evm::{BlockRef, Chains};
use futures::future::BoxFuture;

use super::contract::{Block, Call, CallError, ChainCall};

impl ChainCall for Chains {
    fn head(&self, chain_id: u64) -> BoxFuture<'_, Result<B256, CallError>> {
        Box::pin(async move { Ok(Self::head(self, chain_id).await.map_err(refused)?.latest.hash) })
    }

    fn eth_call(&self, call: Call) -> BoxFuture<'_, Result<Bytes, CallError>> {
        Box::pin(async move {
            let at = match call.block {
                Block::Hash(hash) => hash,
                Block::Latest => ChainCall::head(self, call.chain_id).await?,
            };
            let answer =
                self.run(call.chain_id, call.to, call.data, at, call.gas_max).await.map_err(refused)?;
            if answer.len() > call.answer_bytes_max { Err(CallError::Reverted) } else { Ok(answer) }
        })
    }

    fn get_code(
        &self,
        chain_id: u64,
        address: Address,
        block: Block,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        let block = match block {
            Block::Latest => BlockRef::Latest,
            Block::Hash(hash) => BlockRef::At(hash),
        };
        Box::pin(async move { self.code(chain_id, address, block).await.map_err(refused) })
    }
}

fn refused(error: evm::Error) -> CallError {
    match error {
        evm::Error::Unknown { .. } => CallError::Unsupported,
        evm::Error::Reverted { .. } => CallError::Reverted,
        error => CallError::Unavailable(Box::new(error)),
    }
}

//! Contract accounts over the configured chains: what sign-in asks is answered by a quorum of providers.

use alloy_primitives::{Address, B256, Bytes};
use evm::{BlockRef, EvmClient};
use futures::future::BoxFuture;

use super::contract::{CallBlockId, ContractCall, ContractCallError, ContractCaller};

impl ContractCaller for EvmClient {
    fn head_hash(&self, chain_id: u64) -> BoxFuture<'_, Result<B256, ContractCallError>> {
        Box::pin(async move { Ok(Self::read_head(self, chain_id).await.map_err(to_call_error)?.latest.hash) })
    }

    fn eth_call(&self, call: ContractCall) -> BoxFuture<'_, Result<Bytes, ContractCallError>> {
        Box::pin(async move {
            let at = match call.block {
                CallBlockId::Hash(hash) => hash,
                CallBlockId::Latest => ContractCaller::head_hash(self, call.chain_id).await?,
            };
            let answer = self
                .call_with_gas(call.chain_id, call.to, call.data, at, call.gas_max)
                .await
                .map_err(to_call_error)?;
            if answer.len() > call.answer_bytes_max { Err(ContractCallError::Reverted) } else { Ok(answer) }
        })
    }

    fn get_code(
        &self,
        chain_id: u64,
        address: Address,
        block: CallBlockId,
    ) -> BoxFuture<'_, Result<Bytes, ContractCallError>> {
        let block = match block {
            CallBlockId::Latest => BlockRef::Latest,
            CallBlockId::Hash(hash) => BlockRef::At(hash),
        };
        Box::pin(async move { self.read_code(chain_id, address, block).await.map_err(to_call_error) })
    }
}

fn to_call_error(error: evm::ChainError) -> ContractCallError {
    match error {
        evm::ChainError::Unknown { .. } => ContractCallError::Unsupported,
        evm::ChainError::Reverted { .. } => ContractCallError::Reverted,
        error => ContractCallError::Unavailable(Box::new(error)),
    }
}

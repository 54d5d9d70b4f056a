//! Accounts that are contracts: ERC-1271 and ERC-6492, asked by `eth_call`.
//!
//! The key comes first: a signature that the account's own key made needs no chain, whatever code the account has (EIP-7702), so
//! that who has a key signs in while providers are away, and costs none of their plans. What is left is asked at one block: a
//! wrapped signature first, then the code. A wrapped signature for an account that is there already is asked without its
//! preparation, which could claim the account inside the simulated call. A contract takes signatures of any length, also none: it
//! may look at what its owners agreed to on the chain.
//!
//! Limits: [`AuthConfig::contract_ms_max`] for all questions of one sign-in, [`AuthConfig::contract_calls_max`] contracts at once,
//! [`AuthConfig::contract_gas_max`] for each question, [`ANSWER_BYTES_MAX`] for the answer of a contract.

use std::{sync::Arc, time::Duration};

use alloy_primitives::{B256, Bytes};
use alloy_sol_types::{SolCall, SolValue, sol};
use futures::future::BoxFuture;
use schemas::session::SignInMethod;
use tokio::sync::Semaphore;

use super::{address::WalletAddress, config::AuthConfig, signature::EcdsaSignature};

/// Longest answer a contract may give to whether a signature is its own, in bytes.
pub const ANSWER_BYTES_MAX: usize = 64;
/// Longest code of an account that is read, in bytes (EIP-170).
pub const CODE_BYTES_MAX: usize = 24_576;
/// The end of a wrapped signature (ERC-6492).
const WRAPPED: [u8; 32] =
    alloy_primitives::hex!("6492649264926492649264926492649264926492649264926492649264926492");
/// The answer that means yes (ERC-1271), as a word.
const YES: [u8; 32] =
    alloy_primitives::hex!("1626ba7e00000000000000000000000000000000000000000000000000000000");

sol! {
    function isValidSignature(bytes32 hash, bytes signature) external view returns (bytes4);
}

/// The state a question is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallBlockId {
    /// The newest there is.
    Latest,
    /// This one, which must be on the chain (EIP-1898 with `requireCanonical`).
    Hash(B256),
}

/// One `eth_call`.
#[derive(Debug, Clone)]
pub struct ContractCall {
    /// The chain (EIP-155 number).
    pub chain_id: u64,
    /// Whom to call; absent runs `data` as a program and answers what it returns.
    pub to: Option<alloy_primitives::Address>,
    /// What to send.
    pub data: Bytes,
    /// The state it is about.
    pub block: CallBlockId,
    /// Most gas it may burn.
    pub gas_max: u64,
    /// Longest answer in bytes; a longer one is [`ContractCallError::Reverted`].
    pub answer_bytes_max: usize,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContractCallError {
    /// No endpoint is configured for the chain.
    #[error("there is no endpoint for this chain")]
    Unsupported,
    /// The called code failed, ran out of gas or answered too much: the chain works, the answer is no.
    #[error("the call failed")]
    Reverted,
    /// The endpoints do not answer, or do not agree.
    #[error("the chain can't be asked")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Asks chains. An implementation checks that its endpoints serve the chain they are configured for, and has deadlines of its own.
pub trait ContractCaller: Send + Sync + std::fmt::Debug {
    /// Hash of the newest block.
    fn head_hash(&self, chain_id: u64) -> BoxFuture<'_, Result<B256, ContractCallError>>;

    /// The answer to a call; changes nothing.
    fn eth_call(&self, call: ContractCall) -> BoxFuture<'_, Result<Bytes, ContractCallError>>;

    /// The code of an account; empty where there is none.
    fn get_code(
        &self,
        chain_id: u64,
        address: alloy_primitives::Address,
        block: CallBlockId,
    ) -> BoxFuture<'_, Result<Bytes, ContractCallError>>;
}

/// What came of a check.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignatureVerdict {
    /// The account said yes, in this way.
    Valid(SignInMethod),
    /// It did not.
    Invalid,
}

/// A signature to be checked.
#[derive(Debug, Clone, Copy)]
pub struct SignatureCheck<'a> {
    /// Whose it should be.
    pub account: WalletAddress,
    /// Where the account lives.
    pub chain_id: u64,
    /// What was signed.
    pub digest: B256,
    /// The signature as it came.
    pub signature: &'a [u8],
}

/// Checks signatures of every kind of account.
#[derive(Debug)]
pub struct ContractSignatureVerifier {
    chain: Option<Arc<dyn ContractCaller>>,
    slots: Semaphore,
    time_max: Duration,
    gas_max: u64,
}

impl ContractSignatureVerifier {
    /// Without `chain` no account is asked.
    pub fn new(chain: Option<Arc<dyn ContractCaller>>, config: &AuthConfig) -> Self {
        Self {
            chain,
            slots: Semaphore::new(config.contract_calls_max),
            time_max: Duration::from_millis(config.contract_ms_max),
            gas_max: config.contract_gas_max,
        }
    }

    /// Asks the account whether the signature is its own, at the newest block, and answers which that is; without a verdict when
    /// the block is `known`. What its key made is for [`verify_by_key`].
    ///
    /// # Errors
    /// [`ContractCallError::Unsupported`] when the chain can't be asked here; [`ContractCallError::Unavailable`] when nobody can
    /// say now.
    pub async fn verify_at_head(
        &self,
        question: SignatureCheck<'_>,
        known: Option<B256>,
    ) -> Result<(Option<SignatureVerdict>, B256), ContractCallError> {
        let chain = self.chain.as_deref().ok_or(ContractCallError::Unsupported)?;
        let asking = async {
            let block = chain.head_hash(question.chain_id).await?;
            if known == Some(block) {
                return Ok((None, block));
            }
            Ok((Some(self.verify_at_block(chain, question, CallBlockId::Hash(block)).await?), block))
        };
        let late = |_| unavailable_error("the chain did not answer in time");
        tokio::time::timeout(self.time_max, asking).await.map_err(late)?
    }

    async fn verify_at_block(
        &self,
        chain: &dyn ContractCaller,
        question: SignatureCheck<'_>,
        block: CallBlockId,
    ) -> Result<SignatureVerdict, ContractCallError> {
        let code = chain.get_code(question.chain_id, question.account.get(), block).await?;
        let wrapped = unwrap_signature(question.signature);
        if question.signature.ends_with(&WRAPPED) && wrapped.is_none() {
            return Ok(SignatureVerdict::Invalid);
        }
        let asked = ContractVerification { chain, block, gas_max: self.gas_max, slots: &self.slots };
        match wrapped {
            Some(wrapped) if code.is_empty() => {
                let program = build_validation_code(&wrapped, question);
                asked.call_and_compare(question.chain_id, None, program, SignInMethod::Counterfactual).await
            }
            wrapped => {
                let inner = wrapped.as_ref().map_or(question.signature, |wrapped| &wrapped.signature);
                asked.verify_deployed(SignatureCheck { signature: inner, ..question }, &code).await
            }
        }
    }
}

/// One sign-in's questions, all about one block.
struct ContractVerification<'a> {
    chain: &'a dyn ContractCaller,
    block: CallBlockId,
    gas_max: u64,
    slots: &'a Semaphore,
}

impl ContractVerification<'_> {
    async fn verify_deployed(
        &self,
        question: SignatureCheck<'_>,
        code: &[u8],
    ) -> Result<SignatureVerdict, ContractCallError> {
        if code.is_empty() {
            return Ok(SignatureVerdict::Invalid);
        }
        let to = Some(question.account.get());
        self.call_and_compare(question.chain_id, to, encode_signature_call(question), SignInMethod::Contract)
            .await
    }

    async fn call_and_compare(
        &self,
        chain_id: u64,
        to: Option<alloy_primitives::Address>,
        data: Vec<u8>,
        method: SignInMethod,
    ) -> Result<SignatureVerdict, ContractCallError> {
        // Slow contracts wait for each other, and nobody waits for them: an account without code never comes here.
        let slot =
            self.slots.try_acquire().map_err(|_| unavailable_error("too many contracts are being asked"))?;
        let call = ContractCall {
            chain_id,
            to,
            data: data.into(),
            block: self.block,
            gas_max: self.gas_max,
            answer_bytes_max: ANSWER_BYTES_MAX,
        };
        let answer = self.chain.eth_call(call).await;
        drop(slot);
        match answer {
            Ok(answer) if answer.len() <= ANSWER_BYTES_MAX && answer.starts_with(&YES) => {
                Ok(SignatureVerdict::Valid(method))
            }
            Ok(_) | Err(ContractCallError::Reverted) => Ok(SignatureVerdict::Invalid),
            Err(error) => Err(error),
        }
    }
}

fn unavailable_error(reason: &'static str) -> ContractCallError {
    ContractCallError::Unavailable(reason.into())
}

/// Finds out whether the account's own key made the signature; no chain is asked.
pub fn verify_by_key(question: SignatureCheck<'_>) -> SignatureVerdict {
    let signer = EcdsaSignature::from_bytes(question.signature)
        .and_then(|signature| signature.recover_address(question.digest));
    if signer == Ok(question.account) {
        SignatureVerdict::Valid(SignInMethod::Key)
    } else {
        SignatureVerdict::Invalid
    }
}

fn encode_signature_call(question: SignatureCheck<'_>) -> Vec<u8> {
    let signature = Bytes::copy_from_slice(question.signature);
    isValidSignatureCall { hash: question.digest, signature }.abi_encode()
}

/// A signature with what makes its account (ERC-6492).
struct WrappedSignature {
    factory: alloy_primitives::Address,
    factory_data: Bytes,
    signature: Bytes,
}

fn unwrap_signature(signature: &[u8]) -> Option<WrappedSignature> {
    let inner = signature.strip_suffix(&WRAPPED)?;
    let (factory, factory_data, signature) =
        <(alloy_primitives::Address, Bytes, Bytes)>::abi_decode_params(inner).ok()?;
    Some(WrappedSignature { factory, factory_data, signature })
}

/// A program that calls the factory, then asks the account it made, and returns the answer, or zero when either failed.
///
/// It stands in front of the two calls' data and copies them from itself. It has no jumps: the answer is multiplied by what must
/// hold, each 0 or 1. What the account returns lies behind everything copied, where memory is zero until then.
fn build_validation_code(wrapped: &WrappedSignature, question: SignatureCheck<'_>) -> Vec<u8> {
    let ask = encode_signature_call(SignatureCheck { signature: &wrapped.signature, ..question });
    let answer_at = wrapped.factory_data.len().max(ask.len()).next_multiple_of(32);
    let length = ValidationProgram::with_offsets(0, answer_at, wrapped, question, ask.len()).code.len();
    let mut code = ValidationProgram::with_offsets(length, answer_at, wrapped, question, ask.len()).code;
    code.extend_from_slice(&wrapped.factory_data);
    code.extend_from_slice(&ask);
    code
}

#[derive(Default)]
struct ValidationProgram {
    code: Vec<u8>,
}

impl ValidationProgram {
    const LT: u8 = 0x10;
    const GT: u8 = 0x11;
    const AND: u8 = 0x16;
    const MUL: u8 = 0x02;
    const CODECOPY: u8 = 0x39;
    const RETURNDATASIZE: u8 = 0x3d;
    const MLOAD: u8 = 0x51;
    const MSTORE: u8 = 0x52;
    const GAS: u8 = 0x5a;
    const CALL: u8 = 0xf1;
    const STATICCALL: u8 = 0xfa;
    const RETURN: u8 = 0xf3;

    fn with_offsets(
        data_at: usize,
        answer_at: usize,
        wrapped: &WrappedSignature,
        question: SignatureCheck<'_>,
        ask_length: usize,
    ) -> Self {
        let mut program = Self::default();
        let made = wrapped.factory_data.len();
        program.push(made).push(data_at).push(0).push_op(Self::CODECOPY);
        program
            .push(0)
            .push(0)
            .push(made)
            .push(0)
            .push(0)
            .push_address(wrapped.factory)
            .push_op(Self::GAS)
            .push_op(Self::CALL);
        program.push(ask_length).push(data_at + made).push(0).push_op(Self::CODECOPY);
        program.push(32).push(answer_at).push(ask_length).push(0).push_address(question.account.get());
        program.push_op(Self::GAS).push_op(Self::STATICCALL).push_op(Self::AND);
        program.push(ANSWER_BYTES_MAX + 1).push_op(Self::RETURNDATASIZE).push_op(Self::LT).push_op(Self::AND);
        program.push(31).push_op(Self::RETURNDATASIZE).push_op(Self::GT).push_op(Self::AND);
        program.push(answer_at).push_op(Self::MLOAD).push_op(Self::MUL);
        program.push(0).push_op(Self::MSTORE).push(32).push(0).push_op(Self::RETURN);
        program
    }

    /// PUSH4: one width for all numbers, so that the program's length does not depend on them.
    fn push(&mut self, value: usize) -> &mut Self {
        self.code.push(0x63);
        self.code.extend_from_slice(&u32::try_from(value).unwrap_or(u32::MAX).to_be_bytes());
        self
    }

    /// PUSH20.
    fn push_address(&mut self, address: alloy_primitives::Address) -> &mut Self {
        self.code.push(0x73);
        self.code.extend_from_slice(address.as_slice());
        self
    }

    fn push_op(&mut self, op: u8) -> &mut Self {
        self.code.push(op);
        self
    }
}

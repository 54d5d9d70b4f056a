//! Wallets with keys, messages to sign, and a model chain whose accounts are contracts.

#![allow(
    missing_docs,
    missing_debug_implementations,
    clippy::unwrap_used,
    clippy::must_use_candidate,
    clippy::missing_panics_doc,
    reason = "helpers of tests: what they do is in their names, and they end a test that goes wrong"
)]

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use alloy_primitives::{B256, Bytes};
use futures::future::BoxFuture;
use parking_lot::Mutex;
use secp256k1::{Message, PublicKey, SecretKey, ecdsa::RecoverableSignature};

use crate::{
    account::WalletAccount,
    address::WalletAddress,
    contract::{CallBlockId, ContractCall, ContractCallError, ContractCaller},
    signature::hash_personal_message,
};

pub const SOON: Duration = Duration::from_secs(20);
pub const DOMAIN: &str = "media.example.org";

pub const YES: &str = "0x1626ba7e00000000000000000000000000000000000000000000000000000000";

/// What a chain does with a call.
#[derive(Debug, Clone)]
pub enum FakeChainReply {
    Bytes(Bytes),
    Reverted,
    Unavailable,
    Never,
}

impl FakeChainReply {
    pub fn from_hex(text: &str) -> Self {
        Self::Bytes(decode_hex(text).into())
    }
}

/// One chain, whose contracts all reply the same; it has a block for each reply.
#[derive(Debug)]
pub struct FakeChain {
    code: HashMap<alloy_primitives::Address, Bytes>,
    reply: Mutex<FakeChainReply>,
    height: AtomicU64,
    is_away: AtomicBool,
    pub calls: Mutex<Vec<ContractCall>>,
}

impl FakeChain {
    pub fn new(account: WalletAddress, code: &[u8], reply: FakeChainReply) -> Arc<Self> {
        let code = HashMap::from([(account.get(), Bytes::copy_from_slice(code))]);
        let (height, is_away) = (AtomicU64::new(1), AtomicBool::new(false));
        Arc::new(Self { code, reply: Mutex::new(reply), height, is_away, calls: Mutex::default() })
    }

    /// Replies this from the next block on.
    pub fn set_reply(&self, reply: FakeChainReply) {
        *self.reply.lock() = reply;
        self.height.fetch_add(1, Ordering::SeqCst);
    }

    /// From now on nobody answers anything.
    pub fn set_unavailable(&self) {
        self.is_away.store(true, Ordering::SeqCst);
    }

    /// How often a contract was called.
    pub fn call_count(&self) -> usize {
        self.calls.lock().len()
    }

    pub fn newest_hash(&self) -> B256 {
        B256::left_padding_from(&self.height.load(Ordering::SeqCst).to_be_bytes())
    }
}

impl ContractCaller for FakeChain {
    fn head_hash(&self, chain_id: u64) -> BoxFuture<'_, Result<B256, ContractCallError>> {
        Box::pin(async move {
            if self.is_away.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            if chain_id == 2 { Err(ContractCallError::Unsupported) } else { Ok(self.newest_hash()) }
        })
    }

    fn eth_call(&self, call: ContractCall) -> BoxFuture<'_, Result<Bytes, ContractCallError>> {
        self.calls.lock().push(call);
        let reply = self.reply.lock().clone();
        Box::pin(async move {
            match reply {
                FakeChainReply::Bytes(bytes) => Ok(bytes),
                FakeChainReply::Reverted => Err(ContractCallError::Reverted),
                FakeChainReply::Unavailable => Err(ContractCallError::Unavailable("down".into())),
                FakeChainReply::Never => std::future::pending().await,
            }
        })
    }

    fn get_code(
        &self,
        _: u64,
        address: alloy_primitives::Address,
        block: CallBlockId,
    ) -> BoxFuture<'_, Result<Bytes, ContractCallError>> {
        assert_eq!(block, CallBlockId::Hash(self.newest_hash()), "everything is about one block");
        Box::pin(async move { Ok(self.code.get(&address).cloned().unwrap_or_default()) })
    }
}

/// An account with a key.
pub struct TestWallet {
    key: SecretKey,
    pub address: WalletAddress,
}

impl TestWallet {
    pub fn new(seed: u8) -> Self {
        Self::from_secret([seed; 32])
    }

    pub fn from_secret(secret: [u8; 32]) -> Self {
        let key = SecretKey::from_secret_bytes(secret).unwrap();
        Self { address: address_of_secret_key(&key), key }
    }

    /// What its key proves.
    pub fn account(&self) -> WalletAccount {
        WalletAccount::of_key(self.address)
    }

    /// The owner of its things.
    pub fn owner_id(&self) -> String {
        self.account().owner_id()
    }

    pub fn sign_digest(&self, digest: B256) -> Vec<u8> {
        let signature =
            RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.key);
        let (parity, compact) = signature.serialize_compact();
        let mut bytes = compact.to_vec();
        bytes.push(27 + parity.to_u8());
        bytes
    }

    pub fn sign_personal(&self, message: &str) -> Vec<u8> {
        self.sign_digest(hash_personal_message(message.as_bytes()))
    }
}

/// A message as its parts; times are seconds from now.
#[derive(Clone)]
pub struct TestSiweMessage {
    pub site: String,
    pub address: String,
    pub uri: String,
    pub chain_id: u64,
    pub nonce: String,
    pub issued_s: i64,
    pub expires_s: Option<i64>,
    pub not_before_s: Option<i64>,
}

impl TestSiweMessage {
    pub fn new(wallet: &TestWallet, nonce: &str) -> Self {
        Self {
            site: DOMAIN.into(),
            address: wallet.address.to_string(),
            uri: format!("https://{DOMAIN}/login"),
            chain_id: 1,
            nonce: nonce.into(),
            issued_s: 0,
            expires_s: None,
            not_before_s: None,
        }
    }
}

impl std::fmt::Display for TestSiweMessage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let time = |seconds: i64| jiff::Timestamp::now() + jiff::SignedDuration::from_secs(seconds);
        write!(f, "{} wants you to sign in with your Ethereum account:\n{}\n\n\n", self.site, self.address)?;
        write!(f, "URI: {}\nVersion: 1\nChain ID: {}\n", self.uri, self.chain_id)?;
        write!(f, "Nonce: {}\nIssued At: {}", self.nonce, time(self.issued_s))?;
        if let Some(seconds) = self.expires_s {
            write!(f, "\nExpiration Time: {}", time(seconds))?;
        }
        if let Some(seconds) = self.not_before_s {
            write!(f, "\nNot Before: {}", time(seconds))?;
        }
        Ok(())
    }
}

pub fn address_of_public_key(key: &PublicKey) -> WalletAddress {
    WalletAddress::new(alloy_primitives::Address::from_raw_public_key(&key.serialize_uncompressed()[1..]))
}

pub fn address_of_secret_key(key: &SecretKey) -> WalletAddress {
    address_of_public_key(&PublicKey::from_secret_key(key))
}

pub fn decode_hex(text: &str) -> Vec<u8> {
    alloy_primitives::hex::decode(text).unwrap()
}

use std::{
    collections::HashMap,
    sync::{Arc, Mutex},
};

use alloy_primitives::{B256, Bytes, keccak256};
use alloy_sol_types::SolValue;
use futures::future::BoxFuture;
use schemas::session::{End, Method, Session};

use super::site::*;
use crate::auth::{Config, contract::*, value::Address};

const YES: &str = "0x1626ba7e00000000000000000000000000000000000000000000000000000000";
const WRAPPED: [u8; 32] =
    alloy_primitives::hex!("6492649264926492649264926492649264926492649264926492649264926492");

/// What a chain does with a call.
#[derive(Debug, Clone)]
enum Reply {
    Bytes(Bytes),
    Reverted,
    Unavailable,
    Never,
}

impl Reply {
    fn hex(text: &str) -> Self {
        Self::Bytes(super::unhex(text).into())
    }
}

/// One chain, whose contracts all reply the same.
#[derive(Debug)]
struct Fake {
    code: HashMap<alloy_primitives::Address, Bytes>,
    reply: Mutex<Reply>,
    calls: Mutex<Vec<Call>>,
}

impl Fake {
    fn new(account: Address, code: &[u8], reply: Reply) -> Arc<Self> {
        let code = HashMap::from([(account.get(), Bytes::copy_from_slice(code))]);
        Arc::new(Self { code, reply: Mutex::new(reply), calls: Mutex::default() })
    }
}

impl ChainCall for Fake {
    fn head(&self, chain_id: u64) -> BoxFuture<'_, Result<B256, CallError>> {
        Box::pin(
            async move { if chain_id == 1 { Ok(B256::repeat_byte(7)) } else { Err(CallError::Unsupported) } },
        )
    }

    fn eth_call(&self, call: Call) -> BoxFuture<'_, Result<Bytes, CallError>> {
        self.calls.lock().unwrap().push(call);
        let reply = self.reply.lock().unwrap().clone();
        Box::pin(async move {
            match reply {
                Reply::Bytes(bytes) => Ok(bytes),
                Reply::Reverted => Err(CallError::Reverted),
                Reply::Unavailable => Err(CallError::Unavailable("down".into())),
                Reply::Never => std::future::pending().await,
            }
        })
    }

    fn get_code(
        &self,
        _: u64,
        address: alloy_primitives::Address,
        block: Block,
    ) -> BoxFuture<'_, Result<Bytes, CallError>> {
        assert_eq!(block, Block::Hash(B256::repeat_byte(7)), "everything is about one block");
        Box::pin(async move { Ok(self.code.get(&address).cloned().unwrap_or_default()) })
    }
}

fn delegation() -> Vec<u8> {
    [&[0xef, 0x01, 0x00][..], &[9; 20]].concat()
}

fn wrap(signature: &[u8]) -> Vec<u8> {
    let parts = (
        alloy_primitives::Address::repeat_byte(3),
        Bytes::from_static(b"make"),
        Bytes::copy_from_slice(signature),
    );
    [parts.abi_encode_params(), WRAPPED.to_vec()].concat()
}

async fn verdict(
    chain: &Arc<Fake>,
    account: Address,
    chain_id: u64,
    signature: &[u8],
) -> Result<Verdict, CallError> {
    let verifier = Verifier::new(Some(Arc::clone(chain) as Arc<dyn ChainCall>), &Config::default());
    verifier.verify(Question { account, chain_id, digest: keccak256("x"), signature }).await
}

#[tokio::test]
async fn who_is_asked_follows_erc_6492() {
    let wallet = Wallet::new(60);
    let good = wallet.sign(keccak256("x"));
    let bad = Wallet::new(61).sign(keccak256("x"));
    let no = || Reply::hex("0xffffffff00000000000000000000000000000000000000000000000000000000");
    let yes = || Reply::hex(YES);
    let contract = [0x60, 0x00].as_slice();
    let delegated = delegation();
    for (what, code, reply, signature, wanted) in [
        ("a key", &[][..], no(), good.clone(), Verdict::Valid(Method::Key)),
        ("another key", &[], yes(), bad.clone(), Verdict::Invalid),
        ("a contract", contract, yes(), bad.clone(), Verdict::Valid(Method::Contract)),
        ("a contract, any bytes", contract, yes(), vec![1, 2, 3], Verdict::Valid(Method::Contract)),
        // The key of a contract's address does not speak for the contract.
        ("a contract says no", contract, no(), good.clone(), Verdict::Invalid),
        ("a contract reverts", contract, Reply::Reverted, good.clone(), Verdict::Invalid),
        ("a delegated account's contract", &delegated, yes(), bad.clone(), Verdict::Valid(Method::Contract)),
        ("a delegated account's key", &delegated, no(), good.clone(), Verdict::Valid(Method::Key)),
        (
            "a delegated account's key, no 1271",
            &delegated,
            Reply::Reverted,
            good.clone(),
            Verdict::Valid(Method::Key),
        ),
        ("a delegated account, neither", &delegated, no(), bad.clone(), Verdict::Invalid),
        (
            "no delegation by its length",
            &[&delegated[..], &[0]].concat(),
            no(),
            good.clone(),
            Verdict::Invalid,
        ),
        ("not made yet", &[], yes(), wrap(&bad), Verdict::Valid(Method::Counterfactual)),
        ("not made yet, says no", &[], no(), wrap(&good), Verdict::Invalid),
        ("made meanwhile", contract, yes(), wrap(&bad), Verdict::Valid(Method::Contract)),
        ("wrapped nonsense", &[], yes(), [&b"nonsense"[..], &WRAPPED].concat(), Verdict::Invalid),
        ("nothing wrapped", &[], yes(), WRAPPED.to_vec(), Verdict::Invalid),
    ] {
        let chain = Fake::new(wallet.address, code, reply);
        assert_eq!(verdict(&chain, wallet.address, 1, &signature).await.unwrap(), wanted, "{what}");
        for call in chain.calls.lock().unwrap().iter() {
            assert_eq!((call.gas_max, call.block), (5_000_000, Block::Hash(B256::repeat_byte(7))), "{what}");
            // An account that is there is asked itself: its preparation is never run.
            assert_eq!(call.to.is_none(), code.is_empty(), "{what}");
        }
    }
}

#[tokio::test]
async fn only_the_exact_answer_is_yes() {
    let wallet = Wallet::new(62);
    let padded = format!("{YES}{}", "00".repeat(32));
    for (reply, wanted) in [
        (YES, Verdict::Valid(Method::Contract)),
        (padded.as_str(), Verdict::Valid(Method::Contract)),
        ("0x", Verdict::Invalid),
        ("0x1626ba7e", Verdict::Invalid),
        ("0x01", Verdict::Invalid),
        ("0x1626ba7e00000000000000000000000000000000000000000000000000000001", Verdict::Invalid),
        ("0x000000000000000000000000000000000000000000000000000000001626ba7e", Verdict::Invalid),
        (&format!("{padded}00"), Verdict::Invalid),
        (&format!("{YES}{}", "00".repeat(1_000_000)), Verdict::Invalid),
    ] {
        let chain = Fake::new(wallet.address, &[1], Reply::hex(reply));
        assert_eq!(verdict(&chain, wallet.address, 1, &[1]).await.unwrap(), wanted, "{}", reply.len());
    }
}

#[tokio::test]
async fn without_a_chain_only_keys_are_believed() {
    let wallet = Wallet::new(63);
    let good = wallet.sign(keccak256("x"));
    let alone = Verifier::new(None, &Config::default());
    let chain = Fake::new(wallet.address, &[1], Reply::hex(YES));
    for signature in [good.clone(), vec![1], wrap(&good)] {
        let question =
            Question { account: wallet.address, chain_id: 2, digest: keccak256("x"), signature: &signature };
        let wanted = if signature == good { Verdict::Valid(Method::Key) } else { Verdict::Invalid };
        assert_eq!(alone.verify(question).await.unwrap(), wanted);
        assert_eq!(verdict(&chain, wallet.address, 2, &signature).await.unwrap(), wanted);
    }
}

#[tokio::test]
async fn an_outage_is_no_answer_and_slow_contracts_stall_nobody_else() {
    let (slow, wallet) = (Wallet::new(64), Wallet::new(65));
    let chain = Fake::new(slow.address, &[1], Reply::Unavailable);
    assert!(matches!(verdict(&chain, slow.address, 1, &[1]).await, Err(CallError::Unavailable(_))));
    *chain.reply.lock().unwrap() = Reply::Never;
    let config = Config { contract_calls_max: 2, contract_ms_max: 200, ..Config::default() };
    let verifier = Verifier::new(Some(Arc::clone(&chain) as Arc<dyn ChainCall>), &config);
    let ask = |account: Address, signature: Vec<u8>| {
        let verifier = &verifier;
        async move {
            verifier
                .verify(Question { account, chain_id: 1, digest: keccak256("x"), signature: &signature })
                .await
        }
    };
    let start = std::time::Instant::now();
    let (first, second, third, key) = tokio::join!(
        ask(slow.address, vec![1]),
        ask(slow.address, vec![1]),
        ask(slow.address, vec![1]),
        ask(wallet.address, wallet.sign(keccak256("x"))),
    );
    for answer in [first, second, third] {
        assert!(matches!(answer, Err(CallError::Unavailable(_))));
    }
    assert_eq!(key.unwrap(), Verdict::Valid(Method::Key));
    assert!(start.elapsed() < std::time::Duration::from_secs(2));
}

#[tokio::test]
async fn a_contracts_session_lasts_as_long_as_the_contract_says_so() {
    let mut site = Site::start().await;
    let wallet = Wallet::new(66);
    let chain = Fake::new(wallet.address, &[1], Reply::hex(YES));
    let a = site.deaf_replica(config(), Some(Arc::clone(&chain) as Arc<dyn ChainCall>)).await;
    let (nonce, cookie) = a.challenge().await;
    let message = Text::new(&wallet, &nonce).to_string();
    let answer = a.login(&cookie, &message, &[1, 2, 3]).await.expect(201);
    let session: Session = site.record(&answer.text("session_id")).await;
    assert_eq!(
        (session.method, session.proof.unwrap().signature.as_slice()),
        (Method::Contract, &[1, 2, 3][..])
    );
    let next = a.refresh(&answer.text("refresh_token")).await.expect(200);
    // An outage refuses and ends nothing.
    *chain.reply.lock().unwrap() = Reply::Unavailable;
    a.refresh(&next.text("refresh_token")).await.assert(503, "unavailable");
    *chain.reply.lock().unwrap() = Reply::hex(YES);
    let next = a.refresh(&next.text("refresh_token")).await.expect(200);
    // The contract's owner changed.
    *chain.reply.lock().unwrap() = Reply::Reverted;
    a.refresh(&next.text("refresh_token")).await.assert(401, "proof_failed");
    a.me(&next.text("access_token")).await.assert(401, "unauthorized");
    let session: Session = site.record(&answer.text("session_id")).await;
    assert_eq!((session.end, session.proof), (Some(End::ProofFailed), None));
    // And a login that the contract refuses is refused.
    let (nonce, cookie) = a.challenge().await;
    let message = Text::new(&wallet, &nonce).to_string();
    a.login(&cookie, &message, &[1, 2, 3]).await.assert(401, "signature_refused");
}

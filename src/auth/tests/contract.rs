use std::sync::Arc;

use alloy_primitives::{Bytes, keccak256};
use alloy_sol_types::SolValue;
use schemas::session::SignInMethod;

use crate::testing::*;
use crate::{Config, contract::*, value::Address};

const WRAPPED: [u8; 32] =
    alloy_primitives::hex!("6492649264926492649264926492649264926492649264926492649264926492");

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
    asked(&verifier, Question { account, chain_id, digest: keccak256("x"), signature }).await
}

/// What sign-in finds: the key first, then the account.
async fn asked(verifier: &Verifier, question: Question<'_>) -> Result<Verdict, CallError> {
    match by_key(question) {
        Verdict::Invalid => verifier.ask(question, None).await.map(|(verdict, _)| verdict.unwrap()),
        valid @ Verdict::Valid(_) => Ok(valid),
    }
}

#[tokio::test]
async fn the_key_decides_alone_and_then_erc_6492_says_who_is_asked() {
    let wallet = Wallet::new(60);
    let good = wallet.sign(keccak256("x"));
    let bad = Wallet::new(61).sign(keccak256("x"));
    let no = || Reply::hex("0xffffffff00000000000000000000000000000000000000000000000000000000");
    let yes = || Reply::hex(YES);
    let contract = [0x60, 0x00].as_slice();
    let delegated = delegation();
    for (what, code, reply, signature, wanted) in [
        ("a key", &[][..], no(), good.clone(), Verdict::Valid(SignInMethod::Key)),
        ("another key", &[], yes(), bad.clone(), Verdict::Invalid),
        ("a contract", contract, yes(), bad.clone(), Verdict::Valid(SignInMethod::Contract)),
        ("a contract, any bytes", contract, yes(), vec![1, 2, 3], Verdict::Valid(SignInMethod::Contract)),
        ("a contract, no bytes", contract, yes(), Vec::new(), Verdict::Valid(SignInMethod::Contract)),
        ("a contract says no", contract, no(), bad.clone(), Verdict::Invalid),
        ("a contract reverts", contract, Reply::Reverted, bad.clone(), Verdict::Invalid),
        ("the key of an account with code", contract, no(), good.clone(), Verdict::Valid(SignInMethod::Key)),
        (
            "a delegated account's contract",
            &delegated,
            yes(),
            bad.clone(),
            Verdict::Valid(SignInMethod::Contract),
        ),
        ("a delegated account's key", &delegated, no(), good.clone(), Verdict::Valid(SignInMethod::Key)),
        (
            "a delegated account's key, no 1271",
            &delegated,
            Reply::Reverted,
            good.clone(),
            Verdict::Valid(SignInMethod::Key),
        ),
        ("a delegated account, neither", &delegated, no(), bad.clone(), Verdict::Invalid),
        ("not made yet", &[], yes(), wrap(&bad), Verdict::Valid(SignInMethod::Counterfactual)),
        ("not made yet, says no", &[], no(), wrap(&good), Verdict::Invalid),
        ("made meanwhile", contract, yes(), wrap(&bad), Verdict::Valid(SignInMethod::Contract)),
        ("wrapped nonsense", &[], yes(), [&b"nonsense"[..], &WRAPPED].concat(), Verdict::Invalid),
        ("nothing wrapped", &[], yes(), WRAPPED.to_vec(), Verdict::Invalid),
    ] {
        let chain = Fake::new(wallet.address, code, reply);
        assert_eq!(verdict(&chain, wallet.address, 1, &signature).await.unwrap(), wanted, "{what}");
        assert!(wanted != Verdict::Valid(SignInMethod::Key) || chain.asked() == 0, "{what}");
        for call in chain.calls.lock().iter() {
            assert_eq!((call.gas_max, call.block), (5_000_000, Block::Hash(chain.newest())), "{what}");
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
        (YES, Verdict::Valid(SignInMethod::Contract)),
        (padded.as_str(), Verdict::Valid(SignInMethod::Contract)),
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
        if signature == good {
            assert_eq!(by_key(question), Verdict::Valid(SignInMethod::Key));
        } else {
            assert!(matches!(asked(&alone, question).await, Err(CallError::Unsupported)));
            let elsewhere = verdict(&chain, wallet.address, 2, &signature).await;
            assert!(matches!(elsewhere, Err(CallError::Unsupported)));
        }
    }
}

#[tokio::test]
async fn an_outage_is_no_answer_and_slow_contracts_stall_nobody_else() {
    let (slow, wallet) = (Wallet::new(64), Wallet::new(65));
    let chain = Fake::new(slow.address, &[1], Reply::Unavailable);
    assert!(matches!(verdict(&chain, slow.address, 1, &[1]).await, Err(CallError::Unavailable(_))));
    chain.replies(Reply::Never);
    let config = Config { contract_calls_max: 2, contract_ms_max: 200, ..Config::default() };
    let verifier = Verifier::new(Some(Arc::clone(&chain) as Arc<dyn ChainCall>), &config);
    let ask = |account: Address, signature: Vec<u8>| {
        let verifier = &verifier;
        async move {
            let digest = keccak256("x");
            asked(verifier, Question { account, chain_id: 1, digest, signature: &signature }).await
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
    assert_eq!(key.unwrap(), Verdict::Valid(SignInMethod::Key));
    assert!(start.elapsed() < std::time::Duration::from_secs(2));
}

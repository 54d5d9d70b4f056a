use std::sync::Arc;

use alloy_primitives::{Bytes, keccak256};
use alloy_sol_types::SolValue;
use schemas::session::SignInMethod;

use crate::testing::*;
use crate::{AuthConfig, address::WalletAddress, contract::*};

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
    chain: &Arc<FakeChain>,
    account: WalletAddress,
    chain_id: u64,
    signature: &[u8],
) -> Result<SignatureVerdict, ContractCallError> {
    let verifier = ContractSignatureVerifier::new(
        Some(Arc::clone(chain) as Arc<dyn ContractCaller>),
        &AuthConfig::default(),
    );
    asked(&verifier, SignatureCheck { account, chain_id, digest: keccak256("x"), signature }).await
}

/// What sign-in finds: the key first, then the account.
async fn asked(
    verifier: &ContractSignatureVerifier,
    question: SignatureCheck<'_>,
) -> Result<SignatureVerdict, ContractCallError> {
    match verify_by_key(question) {
        SignatureVerdict::Invalid => {
            verifier.verify_at_head(question, None).await.map(|(verdict, _)| verdict.unwrap())
        }
        valid @ SignatureVerdict::Valid(_) => Ok(valid),
    }
}

#[tokio::test]
async fn the_key_decides_alone_and_then_erc_6492_says_who_is_asked() {
    const BY_KEY: SignatureVerdict = SignatureVerdict::Valid(SignInMethod::Key);
    const BY_CONTRACT: SignatureVerdict = SignatureVerdict::Valid(SignInMethod::Contract);
    let wallet = TestWallet::new(60);
    let good = wallet.sign_digest(keccak256("x"));
    let bad = TestWallet::new(61).sign_digest(keccak256("x"));
    let no =
        || FakeChainReply::from_hex("0xffffffff00000000000000000000000000000000000000000000000000000000");
    let yes = || FakeChainReply::from_hex(YES);
    let contract = [0x60, 0x00].as_slice();
    let delegated = delegation();
    for (what, code, reply, signature, wanted) in [
        ("a key", &[][..], no(), good.clone(), BY_KEY),
        ("another key", &[], yes(), bad.clone(), SignatureVerdict::Invalid),
        ("a contract", contract, yes(), bad.clone(), BY_CONTRACT),
        ("a contract, any bytes", contract, yes(), vec![1, 2, 3], BY_CONTRACT),
        ("a contract, no bytes", contract, yes(), Vec::new(), BY_CONTRACT),
        ("a contract says no", contract, no(), bad.clone(), SignatureVerdict::Invalid),
        ("a contract reverts", contract, FakeChainReply::Reverted, bad.clone(), SignatureVerdict::Invalid),
        ("the key of an account with code", contract, no(), good.clone(), BY_KEY),
        ("a delegated account's contract", &delegated, yes(), bad.clone(), BY_CONTRACT),
        ("a delegated account's key", &delegated, no(), good.clone(), BY_KEY),
        ("a delegated account's key, no 1271", &delegated, FakeChainReply::Reverted, good.clone(), BY_KEY),
        ("a delegated account, neither", &delegated, no(), bad.clone(), SignatureVerdict::Invalid),
        ("not made yet", &[], yes(), wrap(&bad), SignatureVerdict::Valid(SignInMethod::Counterfactual)),
        ("not made yet, says no", &[], no(), wrap(&good), SignatureVerdict::Invalid),
        ("made meanwhile", contract, yes(), wrap(&bad), BY_CONTRACT),
        ("wrapped nonsense", &[], yes(), [&b"nonsense"[..], &WRAPPED].concat(), SignatureVerdict::Invalid),
        ("nothing wrapped", &[], yes(), WRAPPED.to_vec(), SignatureVerdict::Invalid),
    ] {
        let chain = FakeChain::new(wallet.address, code, reply);
        assert_eq!(verdict(&chain, wallet.address, 1, &signature).await.unwrap(), wanted, "{what}");
        assert!(wanted != BY_KEY || chain.call_count() == 0, "{what}");
        for call in chain.calls.lock().iter() {
            assert_eq!(
                (call.gas_max, call.block),
                (5_000_000, CallBlockId::Hash(chain.newest_hash())),
                "{what}"
            );
            // An account that is there is asked itself: its preparation is never run.
            assert_eq!(call.to.is_none(), code.is_empty(), "{what}");
        }
    }
}

#[tokio::test]
async fn only_the_exact_answer_is_yes() {
    let wallet = TestWallet::new(62);
    let padded = format!("{YES}{}", "00".repeat(32));
    for (reply, wanted) in [
        (YES, SignatureVerdict::Valid(SignInMethod::Contract)),
        (padded.as_str(), SignatureVerdict::Valid(SignInMethod::Contract)),
        ("0x", SignatureVerdict::Invalid),
        ("0x1626ba7e", SignatureVerdict::Invalid),
        ("0x01", SignatureVerdict::Invalid),
        ("0x1626ba7e00000000000000000000000000000000000000000000000000000001", SignatureVerdict::Invalid),
        ("0x000000000000000000000000000000000000000000000000000000001626ba7e", SignatureVerdict::Invalid),
        (&format!("{padded}00"), SignatureVerdict::Invalid),
        (&format!("{YES}{}", "00".repeat(1_000_000)), SignatureVerdict::Invalid),
    ] {
        let chain = FakeChain::new(wallet.address, &[1], FakeChainReply::from_hex(reply));
        assert_eq!(verdict(&chain, wallet.address, 1, &[1]).await.unwrap(), wanted, "{}", reply.len());
    }
}

#[tokio::test]
async fn without_a_chain_only_keys_are_believed() {
    let wallet = TestWallet::new(63);
    let good = wallet.sign_digest(keccak256("x"));
    let alone = ContractSignatureVerifier::new(None, &AuthConfig::default());
    let chain = FakeChain::new(wallet.address, &[1], FakeChainReply::from_hex(YES));
    for signature in [good.clone(), vec![1], wrap(&good)] {
        let question = SignatureCheck {
            account: wallet.address,
            chain_id: 2,
            digest: keccak256("x"),
            signature: &signature,
        };
        if signature == good {
            assert_eq!(verify_by_key(question), SignatureVerdict::Valid(SignInMethod::Key));
        } else {
            assert!(matches!(asked(&alone, question).await, Err(ContractCallError::Unsupported)));
            let elsewhere = verdict(&chain, wallet.address, 2, &signature).await;
            assert!(matches!(elsewhere, Err(ContractCallError::Unsupported)));
        }
    }
}

#[tokio::test]
async fn an_outage_is_no_answer_and_slow_contracts_stall_nobody_else() {
    let (slow, wallet) = (TestWallet::new(64), TestWallet::new(65));
    let chain = FakeChain::new(slow.address, &[1], FakeChainReply::Unavailable);
    assert!(matches!(verdict(&chain, slow.address, 1, &[1]).await, Err(ContractCallError::Unavailable(_))));
    chain.set_reply(FakeChainReply::Never);
    let config = AuthConfig { contract_calls_max: 2, contract_ms_max: 200, ..AuthConfig::default() };
    let verifier =
        ContractSignatureVerifier::new(Some(Arc::clone(&chain) as Arc<dyn ContractCaller>), &config);
    let ask = |account: WalletAddress, signature: Vec<u8>| {
        let verifier = &verifier;
        async move {
            let digest = keccak256("x");
            asked(verifier, SignatureCheck { account, chain_id: 1, digest, signature: &signature }).await
        }
    };
    let start = std::time::Instant::now();
    let (first, second, third, key) = tokio::join!(
        ask(slow.address, vec![1]),
        ask(slow.address, vec![1]),
        ask(slow.address, vec![1]),
        ask(wallet.address, wallet.sign_digest(keccak256("x"))),
    );
    for answer in [first, second, third] {
        assert!(matches!(answer, Err(ContractCallError::Unavailable(_))));
    }
    assert_eq!(key.unwrap(), SignatureVerdict::Valid(SignInMethod::Key));
    assert!(start.elapsed() < std::time::Duration::from_secs(2));
}

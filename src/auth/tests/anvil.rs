//! Contract accounts on a real EVM: anvil, which `.ci/setup test` puts into `.tools/bin`.

use std::{process::Stdio, sync::Arc};

use alloy_primitives::{Address as Raw, B256, Bytes, hex, keccak256};
use alloy_sol_types::{SolCall, SolValue, sol};
use evm::{EvmClient, RpcUrl};
use schemas::session::SignInMethod;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};

use crate::testing::{SOON, TestWallet};
use crate::{AuthConfig, address::WalletAddress, contract::*};

const CONTRACTS: &str = include_str!("../../../tests/signin/contracts.json");
/// Anvil's chain.
const CHAIN: u64 = 31_337;
const WRAPPED: [u8; 32] = hex!("6492649264926492649264926492649264926492649264926492649264926492");

sol! {
    function give(address next) external;
    function make(address owner, bytes32 salt) external returns (address);
    function where(address owner, bytes32 salt) external view returns (address);
}

/// A chain of one node; as small as a test allows.
#[derive(Debug)]
struct Anvil {
    url: String,
    client: reqwest::Client,
    _process: Child,
}

impl Anvil {
    async fn start() -> Self {
        let mut process = Command::new("anvil")
            .args(["--port", "0", "--accounts", "2"])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("anvil is on PATH; .ci/setup test puts it into .tools/bin");
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let address = loop {
            let line = lines.next_line().await.unwrap().expect("anvil listens");
            if let Some(address) = line.strip_prefix("Listening on ") {
                break address.to_owned();
            }
        };
        // The node would stop, too, when nobody reads its output.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { url: format!("http://{address}"), client: reqwest::Client::new(), _process: process }
    }

    async fn ask(&self, method: &str, params: Value) -> Result<Value, String> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let answer: Value =
            self.client.post(&self.url).json(&body).send().await.unwrap().json().await.unwrap();
        if answer["error"].is_null() {
            Ok(answer["result"].clone())
        } else {
            Err(answer["error"].to_string())
        }
    }

    async fn bytes(&self, method: &str, params: Value) -> Result<Bytes, String> {
        let text = self.ask(method, params).await?;
        Ok(hex::decode(text.as_str().unwrap()).unwrap().into())
    }

    /// Sends a transaction of the node's first account; answers the contract it made, if it made one.
    async fn send(&self, to: Option<Raw>, data: &[u8]) -> Option<Raw> {
        let from = self.ask("eth_accounts", json!([])).await.unwrap()[0].clone();
        let hash = self
            .ask("eth_sendTransaction", json!([{ "from": from, "to": to.map(|to| to.to_string()), "data": hex::encode_prefixed(data) }]))
            .await
            .unwrap();
        // The node mines it beside its answer.
        let deadline = tokio::time::Instant::now() + SOON;
        let mut receipt = Value::Null;
        while receipt.is_null() {
            assert!(tokio::time::Instant::now() < deadline, "nobody mines");
            receipt = self.ask("eth_getTransactionReceipt", json!([hash])).await.unwrap();
        }
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        receipt["contractAddress"].as_str().map(|text| text.parse().unwrap())
    }

    async fn deploy(&self, name: &str, arguments: Vec<u8>) -> Raw {
        let codes: Value = serde_json::from_str(CONTRACTS).unwrap();
        let code = hex::decode(codes[name].as_str().unwrap()).unwrap();
        self.send(None, &[code, arguments].concat()).await.unwrap()
    }
}

/// What sign-in finds, over the chains as they are configured.
async fn verdict(chain: &Anvil, account: Raw, signature: &[u8]) -> SignatureVerdict {
    let rpc_urls = vec![RpcUrl::try_from(chain.url.clone()).unwrap()];
    // Each question sees the newest block, which a test just made.
    let node =
        evm::ChainConfig { chain_id: CHAIN, rpc_urls, head_cache_ms: 0, ..evm::ChainConfig::default() };
    let config = AuthConfig { contract_ms_max: 20_000, ..AuthConfig::default() };
    let verifier = ContractSignatureVerifier::new(Some(Arc::new(EvmClient::open(&[node]).unwrap())), &config);
    let question = SignatureCheck {
        account: WalletAddress::new(account),
        chain_id: CHAIN,
        digest: keccak256("x"),
        signature,
    };
    match verify_by_key(question) {
        SignatureVerdict::Invalid => verifier.verify_at_head(question, None).await.unwrap().0.unwrap(),
        valid @ SignatureVerdict::Valid(_) => valid,
    }
}

const NODE_KEY: [u8; 32] = hex!("ac0974bec39a17e36ba4a6b4d238ff944bacb478cbed5efcae784d7bf4f2ff80");

#[tokio::test]
async fn a_deployed_account_answers_for_itself() {
    let chain = Anvil::start().await;
    // The node's first account, whose key everybody knows, so that it can also send the change of owner.
    let (owner, next) = (TestWallet::from_secret(NODE_KEY), TestWallet::new(70));
    let (by_owner, by_next) = (owner.sign_digest(keccak256("x")), next.sign_digest(keccak256("x")));
    let account = chain.deploy("Account", owner.address.get().abi_encode()).await;
    assert_eq!(verdict(&chain, account, &by_owner).await, SignatureVerdict::Valid(SignInMethod::Contract));
    assert_eq!(verdict(&chain, account, &by_next).await, SignatureVerdict::Invalid);
    chain.send(Some(account), &giveCall { next: next.address.get() }.abi_encode()).await;
    assert_eq!(verdict(&chain, account, &by_owner).await, SignatureVerdict::Invalid);
    assert_eq!(verdict(&chain, account, &by_next).await, SignatureVerdict::Valid(SignInMethod::Contract));
    // A key's own account, and the same once it delegates to a contract that does not know it.
    assert_eq!(
        verdict(&chain, next.address.get(), &by_next).await,
        SignatureVerdict::Valid(SignInMethod::Key)
    );
    let delegation = [&hex!("ef0100")[..], account.as_slice()].concat();
    let set = json!([next.address.to_string(), hex::encode_prefixed(delegation)]);
    chain.ask("anvil_setCode", set).await.unwrap();
    assert_eq!(
        verdict(&chain, next.address.get(), &by_next).await,
        SignatureVerdict::Valid(SignInMethod::Key)
    );
    assert_eq!(verdict(&chain, next.address.get(), &by_owner).await, SignatureVerdict::Invalid);
}

#[tokio::test]
async fn hostile_contracts_are_refused() {
    let chain = Anvil::start().await;
    let signature = TestWallet::new(71).sign_digest(keccak256("x"));
    for name in ["Burner", "Shouter", "Maker"] {
        let account = chain.deploy(name, Vec::new()).await;
        assert_eq!(verdict(&chain, account, &signature).await, SignatureVerdict::Invalid, "{name}");
    }
}

#[tokio::test]
async fn an_account_speaks_before_it_is_made() {
    let chain = Anvil::start().await;
    let (owner, other) = (TestWallet::new(72), TestWallet::new(73));
    let (by_owner, by_other) = (owner.sign_digest(keccak256("x")), other.sign_digest(keccak256("x")));
    let maker = chain.deploy("Maker", Vec::new()).await;
    let salt = B256::repeat_byte(5);
    let place = whereCall { owner: owner.address.get(), salt }.abi_encode();
    let asked = json!([{ "to": maker.to_string(), "data": hex::encode_prefixed(place) }, "latest"]);
    let account = Raw::from_slice(&chain.bytes("eth_call", asked).await.unwrap()[12..]);
    let wrap = |factory: Raw, data: Vec<u8>, signature: &[u8]| {
        let parts = (factory, Bytes::from(data), Bytes::copy_from_slice(signature));
        [parts.abi_encode_params(), WRAPPED.to_vec()].concat()
    };
    let making = || makeCall { owner: owner.address.get(), salt }.abi_encode();
    let made = SignatureVerdict::Valid(SignInMethod::Counterfactual);
    assert_eq!(verdict(&chain, account, &wrap(maker, making(), &by_owner)).await, made);
    assert_eq!(verdict(&chain, account, &wrap(maker, making(), &by_other)).await, SignatureVerdict::Invalid);
    // What makes another account, or none, proves nothing about this one.
    let others = makeCall { owner: other.address.get(), salt }.abi_encode();
    assert_eq!(verdict(&chain, account, &wrap(maker, others, &by_other)).await, SignatureVerdict::Invalid);
    assert_eq!(
        verdict(&chain, account, &wrap(maker, Vec::new(), &by_owner)).await,
        SignatureVerdict::Invalid
    );
    assert_eq!(
        verdict(&chain, account, &wrap(other.address.get(), making(), &by_owner)).await,
        SignatureVerdict::Invalid
    );
    let shouter = chain.deploy("Shouter", Vec::new()).await;
    assert_eq!(
        verdict(&chain, account, &wrap(shouter, making(), &by_owner)).await,
        SignatureVerdict::Invalid
    );
    assert_eq!(
        verdict(&chain, owner.address.get(), &wrap(shouter, making(), &by_other)).await,
        SignatureVerdict::Invalid
    );
    let burner = chain.deploy("Burner", Vec::new()).await;
    assert_eq!(verdict(&chain, account, &wrap(burner, making(), &by_owner)).await, SignatureVerdict::Invalid);
    // Nothing of it changed the chain; once the account is there, it answers itself.
    assert!(chain.bytes("eth_getCode", json!([account.to_string(), "latest"])).await.unwrap().is_empty());
    chain.send(Some(maker), &making()).await;
    let there = SignatureVerdict::Valid(SignInMethod::Contract);
    assert_eq!(verdict(&chain, account, &wrap(maker, making(), &by_owner)).await, there);
    assert_eq!(verdict(&chain, account, &by_owner).await, there);
    assert_eq!(verdict(&chain, account, &wrap(maker, making(), &by_other)).await, SignatureVerdict::Invalid);
}

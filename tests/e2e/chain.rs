//! A real EVM node and accounts with keys, for gates.

use std::{
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use alloy_primitives::{Address, B256, Bytes, U256, hex, keccak256};
use alloy_sol_types::{SolCall, sol};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use secp256k1::{Message, PublicKey, SecretKey, ecdsa::RecoverableSignature};
use serde_json::{Value, json};

use crate::harness::Cluster;

sol! {
    function give(uint256 token, address to);
}

/// anvil's usual chain id.
pub(crate) const CHAIN_ID: u64 = 31_337;
/// Longest wait for the node, on a machine that does much else.
const NODE_WAIT_MAX: Duration = Duration::from_secs(60);

/// A running node that makes a block of every transaction; gone when dropped.
pub(crate) struct Anvil {
    child: Child,
    pub(crate) url: String,
    http: reqwest::Client,
    from: String,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        self.stop();
    }
}

impl Anvil {
    /// Ends the node; nobody answers at its address any more.
    pub(crate) fn stop(&mut self) {
        self.child.kill().ok();
        self.child.wait().ok();
    }

    pub(crate) async fn start() -> Self {
        Self::start_as(CHAIN_ID).await
    }

    /// The same as another chain.
    pub(crate) async fn start_as(chain_id: u64) -> Self {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let child = Command::new("anvil")
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--silent"])
            .args(["--chain-id", &chain_id.to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("anvil is on PATH; .ci/setup test puts it into .tools/bin");
        let url = format!("http://127.0.0.1:{port}");
        let mut anvil = Self { child, url, http: reqwest::Client::new(), from: String::new() };
        let began = Instant::now();
        while anvil.try_ask("eth_chainId", &json!([])).await.is_none() {
            assert!(began.elapsed() < NODE_WAIT_MAX, "anvil answers");
            tokio::task::yield_now().await;
        }
        anvil.ask("eth_accounts", json!([])).await[0].as_str().unwrap().clone_into(&mut anvil.from);
        anvil
    }

    /// The node as settings name it. The key in its address is what providers hide there.
    pub(crate) fn config(&self) -> String {
        config(&[format!("{}/?key={RPC_SECRET}", self.url)])
    }

    async fn try_ask(&self, method: &str, params: &Value) -> Option<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.http.post(&self.url).json(&body).send().await.ok()?.json().await.ok()
    }

    async fn ask(&self, method: &str, params: Value) -> Value {
        let answer = self.try_ask(method, &params).await.unwrap();
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    async fn send(&self, transaction: Value) -> Value {
        let hash = self.ask("eth_sendTransaction", json!([transaction])).await;
        let began = Instant::now();
        loop {
            let receipt = self.ask("eth_getTransactionReceipt", json!([hash])).await;
            if !receipt.is_null() {
                assert_eq!(receipt["status"], "0x1", "{receipt}");
                return receipt;
            }
            assert!(began.elapsed() < NODE_WAIT_MAX, "the transaction is mined");
        }
    }

    /// Deploys the ERC-721 contract.
    pub(crate) async fn deploy(&self) -> Address {
        let codes: Value = serde_json::from_str(include_str!("../contracts/tokens.json")).unwrap();
        let receipt = self.send(json!({ "from": self.from, "data": codes["Nft"], "gas": "0x200000" })).await;
        receipt["contractAddress"].as_str().unwrap().parse().unwrap()
    }

    /// Deploys a contract of the tests of sign-in.
    pub(crate) async fn deploy_account(&self, name: &str, arguments: Vec<u8>) -> Address {
        let codes: Value = serde_json::from_str(include_str!("../signin/contracts.json")).unwrap();
        let code = hex::decode(codes[name].as_str().unwrap()).unwrap();
        let data = hex::encode_prefixed([code, arguments].concat());
        let receipt = self.send(json!({ "from": self.from, "data": data, "gas": "0x400000" })).await;
        receipt["contractAddress"].as_str().unwrap().parse().unwrap()
    }

    /// Calls a contract in a transaction of anybody.
    pub(crate) async fn call_as(&self, from: Address, to: Address, data: Vec<u8>) {
        self.ask("anvil_setBalance", json!([from, "0xde0b6b3a7640000"])).await;
        self.ask("anvil_impersonateAccount", json!([from])).await;
        self.send(json!({ "from": from, "to": to, "data": Bytes::from(data), "gas": "0x200000" })).await;
    }

    /// What a contract answers.
    pub(crate) async fn view(&self, to: Address, data: Vec<u8>) -> Vec<u8> {
        let answer = self.ask("eth_call", json!([{ "to": to, "data": Bytes::from(data) }, "latest"])).await;
        hex::decode(answer.as_str().unwrap()).unwrap()
    }

    /// Has the account of a key delegate to a contract (EIP-7702).
    pub(crate) async fn delegate(&self, account: Address, to: Address) {
        let code = [&[0xef, 0x01, 0x00][..], to.as_slice()].concat();
        self.ask("anvil_setCode", json!([account, Bytes::from(code)])).await;
    }

    /// Gives a token to `to`, from its owner or, when it has none, as a new one; the block is made when this returns.
    pub(crate) async fn give(&self, contract: Address, token: u64, to: Address) {
        let data = Bytes::from(giveCall { token: U256::from(token), to }.abi_encode());
        self.send(json!({ "from": self.from, "to": contract, "data": data, "gas": "0x100000" })).await;
    }

    /// Number of the newest block.
    pub(crate) async fn height(&self) -> u64 {
        let number = self.ask("eth_blockNumber", json!([])).await;
        u64::from_str_radix(number.as_str().unwrap().trim_start_matches("0x"), 16).unwrap()
    }

    /// Replaces the newest `depth` blocks by empty ones.
    pub(crate) async fn reorganise(&self, depth: u64) {
        self.ask("anvil_reorg", json!([depth, []])).await;
    }

    pub(crate) async fn mine(&self, count: u64) {
        self.ask("anvil_mine", json!([format!("{count:#x}")])).await;
    }
}

/// The chain behind these addresses; a node makes no block without a transaction, so that its newest may be old.
pub(crate) fn config(rpc_urls: &[String]) -> String {
    config_of(CHAIN_ID, rpc_urls)
}

/// The same of another chain.
pub(crate) fn config_of(chain_id: u64, rpc_urls: &[String]) -> String {
    format!(
        "\n[[chains]]\nchain_id = {chain_id}\nrpc_urls = {rpc_urls:?}\nconfirmations = 1\nhead_age_max = \"1h\"\n"
    )
}

/// What a key signs of a text (ERC-191 version 0x45).
pub(crate) fn personal_digest(text: &str) -> B256 {
    keccak256(format!("\x19Ethereum Signed Message:\n{}{text}", text.len()))
}

/// Stands for the key that a provider's address carries.
pub(crate) const RPC_SECRET: &str = "rpc-secret-5d1c";

/// An account with a key.
pub(crate) struct Wallet {
    key: SecretKey,
    pub(crate) address: Address,
}

impl Wallet {
    pub(crate) fn new(seed: u8) -> Self {
        let key = SecretKey::from_secret_bytes([seed; 32]).unwrap();
        let point = PublicKey::from_secret_key(&key).serialize_uncompressed();
        Self { key, address: Address::from_raw_public_key(&point[1..]) }
    }

    /// `personal_sign` (ERC-191 version 0x45), hexadecimal.
    pub(crate) fn sign(&self, text: &str) -> String {
        hex::encode_prefixed(self.sign_digest(personal_digest(text)))
    }

    /// The 65 bytes of a signature.
    pub(crate) fn sign_digest(&self, digest: B256) -> Vec<u8> {
        let signature =
            RecoverableSignature::sign_ecdsa_recoverable(Message::from_digest(digest.0), &self.key);
        let (parity, compact) = signature.serialize_compact();
        [&compact[..], &[27 + parity.to_u8()]].concat()
    }

    /// Asks for a challenge, and makes the request that signs in with it; the answer where there is no challenge.
    pub(crate) async fn answer_challenge(
        &self,
        http: &reqwest::Client,
        url: &str,
    ) -> reqwest::Result<Result<RequestBuilder, Response>> {
        let post = |path: &str| http.request(Method::POST, format!("{url}{path}"));
        let asked = json!({ "address": self.address.to_string(), "chain_id": CHAIN_ID });
        let given = post("/v1/auth/challenge").json(&asked).send().await?;
        if given.status() != StatusCode::CREATED {
            return Ok(Err(given));
        }
        let cookie = given.headers()["set-cookie"].to_str().unwrap().split(';').next().unwrap().to_owned();
        let challenge: Value = given.json().await?;
        let message = challenge["message"].as_str().unwrap();
        let body = json!({ "message": message, "signature": self.sign(message) });
        Ok(Ok(post("/v1/auth/login").header("cookie", cookie).json(&body)))
    }

    /// Signs in as a browser does; answers the tokens.
    pub(crate) async fn sign_in(&self, cluster: &Cluster) -> Value {
        let login = self.answer_challenge(&cluster.http, &cluster.url).await.unwrap().unwrap();
        let answer = login.send().await.unwrap();
        let (status, text) = (answer.status(), answer.text().await.unwrap());
        assert_eq!(status, 201, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// The access token of a new session.
    pub(crate) async fn token(&self, cluster: &Cluster) -> String {
        self.sign_in(cluster).await["access_token"].as_str().unwrap().to_owned()
    }
}

//! A real EVM node.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use alloy_sol_types::{SolCall, sol};
use evm::{ChainConfig, EvmClient, RpcUrl};
use reqwest::Client;
use serde_json::{Value, json};
use tokio::time::Instant;

sol! {
    function give(uint256 token, address to);

    interface Coin {
        function set(address owner, uint256 amount);
    }

    interface Multi {
        function set(address owner, uint256 token, uint256 amount);
    }
}

/// anvil's usual chain id.
pub const ANVIL: u64 = 31_337;
/// Blocks until anvil's gates open.
pub const CONFIRMATIONS: u64 = 2;

/// A running node; gone when dropped.
pub struct AnvilNode {
    child: Child,
    pub url: String,
    client: Client,
    from: String,
}

impl Drop for AnvilNode {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl AnvilNode {
    pub async fn start() -> Self {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let child = Command::new("anvil")
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--silent"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap_or_else(|error| panic!("anvil, which .ci/setup test puts into .tools/bin: {error}"));
        let url = format!("http://127.0.0.1:{port}");
        let mut anvil = Self { child, url, client: Client::new(), from: String::new() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while anvil.try_request_rpc("eth_chainId", &json!([])).await.is_none() {
            assert!(Instant::now() < deadline, "anvil answers");
            tokio::task::yield_now().await;
        }
        let accounts = anvil.request_rpc("eth_accounts", json!([])).await;
        accounts[0].as_str().unwrap().clone_into(&mut anvil.from);
        anvil
    }

    async fn try_request_rpc(&self, method: &str, params: &Value) -> Option<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.client.post(&self.url).json(&body).send().await.ok()?.json().await.ok()
    }

    pub async fn request_rpc(&self, method: &str, params: Value) -> Value {
        let answer = self.try_request_rpc(method, &params).await.unwrap();
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// The node as the product reads it.
    pub fn chain_config(&self) -> ChainConfig {
        ChainConfig {
            chain_id: ANVIL,
            rpc_urls: vec![RpcUrl::try_from(self.url.clone()).unwrap()],
            confirmations: CONFIRMATIONS,
            head_cache_ms: 100,
            ..ChainConfig::default()
        }
    }

    pub fn open_client(&self) -> EvmClient {
        EvmClient::open(&[self.chain_config()]).unwrap()
    }

    pub async fn mine_blocks(&self, count: u64) {
        self.request_rpc("anvil_mine", json!([format!("{count:#x}")])).await;
    }

    /// Replaces the newest `depth` blocks by empty ones.
    pub async fn reorganise_chain(&self, depth: u64) {
        self.request_rpc("anvil_reorg", json!([depth, []])).await;
    }

    async fn send_transaction(&self, transaction: Value) -> Value {
        let hash = self.request_rpc("eth_sendTransaction", json!([transaction])).await;
        let mut receipt = Value::Null;
        let deadline = Instant::now() + Duration::from_secs(30);
        while receipt.is_null() {
            assert!(Instant::now() < deadline, "the transaction is mined");
            receipt = self.request_rpc("eth_getTransactionReceipt", json!([hash])).await;
        }
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        receipt
    }

    pub async fn deploy_contract(&self, name: &str) -> Address {
        let codes: Value =
            serde_json::from_str(include_str!("../../../tests/contracts/tokens.json")).unwrap();
        let receipt =
            self.send_transaction(json!({ "from": self.from, "data": codes[name], "gas": "0x200000" })).await;
        receipt["contractAddress"].as_str().unwrap().parse().unwrap()
    }

    async fn call_contract(&self, to: Address, data: Vec<u8>) {
        self.send_transaction(
            json!({ "from": self.from, "to": to, "data": Bytes::from(data), "gas": "0x100000" }),
        )
        .await;
    }

    /// Puts a contract to `at` that has one token, logs its transfers without an indexed argument, and gives it to the
    /// address that a call of one word names.
    pub async fn put_old_nft(&self, at: Address) {
        let topic = hex::encode(evm::testing::transfer_topic());
        // Other calls are answered with the owner: calldatasize == 32 ? (sstore, log1) : return sload(0).
        let code = format!("0x3660201460125760005460005260206000f35b6000356000557f{topic}60006000a100");
        self.request_rpc("anvil_setCode", json!([at, code])).await;
    }

    pub async fn give_old_nft(&self, contract: Address, to: Address) {
        self.call_contract(contract, to.into_word().to_vec()).await;
    }

    /// Gives a token of an `Nft` to somebody; nobody burns it.
    pub async fn give_token(&self, contract: Address, token: u64, to: Address) {
        self.call_contract(contract, giveCall { token: U256::from(token), to }.abi_encode()).await;
    }

    pub async fn set_coins(&self, contract: Address, owner: Address, amount: u64) {
        self.call_contract(contract, Coin::setCall { owner, amount: U256::from(amount) }.abi_encode()).await;
    }

    pub async fn set_multi(&self, contract: Address, owner: Address, token: u64, amount: u64) {
        let (token, amount) = (U256::from(token), U256::from(amount));
        self.call_contract(contract, Multi::setCall { owner, token, amount }.abi_encode()).await;
    }

    /// Hash of the newest block.
    pub async fn head_hash(&self) -> B256 {
        let block = self.request_rpc("eth_getBlockByNumber", json!(["latest", false])).await;
        block["hash"].as_str().unwrap().parse().unwrap()
    }
}

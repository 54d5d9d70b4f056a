//! A real EVM node.

use std::{
    process::{Child, Command, Stdio},
    time::Duration,
};

use alloy_primitives::{Address, B256, Bytes, U256, hex};
use alloy_sol_types::{SolCall, sol};
use evm::{Chains, Config, RpcUrl};
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
pub(crate) const ANVIL: u64 = 31_337;
/// Blocks until anvil's gates open.
pub(crate) const CONFIRMATIONS: u64 = 2;

/// A running node; gone when dropped.
pub(crate) struct Anvil {
    child: Child,
    pub(crate) url: String,
    client: Client,
    from: String,
}

impl Drop for Anvil {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Anvil {
    pub(crate) async fn start() -> Self {
        let port = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap().local_addr().unwrap().port();
        let child = Command::new("anvil")
            .args(["--host", "127.0.0.1", "--port", &port.to_string(), "--silent"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("anvil is on PATH; .ci/setup test puts it into .tools/bin");
        let url = format!("http://127.0.0.1:{port}");
        let mut anvil = Self { child, url, client: Client::new(), from: String::new() };
        let deadline = Instant::now() + Duration::from_secs(30);
        while anvil.try_ask("eth_chainId", &json!([])).await.is_none() {
            assert!(Instant::now() < deadline, "anvil answers");
            tokio::task::yield_now().await;
        }
        let accounts = anvil.ask("eth_accounts", json!([])).await;
        anvil.from = accounts[0].as_str().unwrap().to_owned();
        anvil
    }

    async fn try_ask(&self, method: &str, params: &Value) -> Option<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        self.client.post(&self.url).json(&body).send().await.ok()?.json().await.ok()
    }

    pub(crate) async fn ask(&self, method: &str, params: Value) -> Value {
        let answer = self.try_ask(method, &params).await.unwrap();
        assert!(answer.get("error").is_none(), "{method}: {answer}");
        answer["result"].clone()
    }

    /// The node as the product reads it.
    pub(crate) fn config(&self) -> Config {
        Config {
            chain_id: ANVIL,
            rpc_urls: vec![RpcUrl::try_from(self.url.clone()).unwrap()],
            confirmations: CONFIRMATIONS,
            head_cache_ms: 100,
            ..Config::default()
        }
    }

    pub(crate) fn open(&self) -> Chains {
        Chains::open(&[self.config()]).unwrap()
    }

    pub(crate) async fn mine(&self, count: u64) {
        self.ask("anvil_mine", json!([format!("{count:#x}")])).await;
    }

    /// Replaces the newest `depth` blocks by empty ones.
    pub(crate) async fn reorganise(&self, depth: u64) {
        self.ask("anvil_reorg", json!([depth, []])).await;
    }

    async fn send(&self, transaction: Value) -> Value {
        let hash = self.ask("eth_sendTransaction", json!([transaction])).await;
        let mut receipt = Value::Null;
        let deadline = Instant::now() + Duration::from_secs(30);
        while receipt.is_null() {
            assert!(Instant::now() < deadline, "the transaction is mined");
            receipt = self.ask("eth_getTransactionReceipt", json!([hash])).await;
        }
        assert_eq!(receipt["status"], "0x1", "{receipt}");
        receipt
    }

    pub(crate) async fn deploy(&self, name: &str) -> Address {
        let codes: Value =
            serde_json::from_str(include_str!("../../../../tests/contracts/tokens.json")).unwrap();
        let receipt = self.send(json!({ "from": self.from, "data": codes[name], "gas": "0x200000" })).await;
        receipt["contractAddress"].as_str().unwrap().parse().unwrap()
    }

    async fn call(&self, to: Address, data: Vec<u8>) {
        self.send(json!({ "from": self.from, "to": to, "data": Bytes::from(data), "gas": "0x100000" })).await;
    }

    /// Puts a contract to `at` that has one token, tells of its transfers without an indexed argument, and gives it to the
    /// address that a call of one word names.
    pub(crate) async fn put_old_nft(&self, at: Address) {
        let topic = hex::encode(evm::testing::transfer_topic());
        // Other calls are answered with the owner: calldatasize == 32 ? (sstore, log1) : return sload(0).
        let code = format!("0x3660201460125760005460005260206000f35b6000356000557f{topic}60006000a100");
        self.ask("anvil_setCode", json!([at, code])).await;
    }

    pub(crate) async fn give_old(&self, contract: Address, to: Address) {
        self.call(contract, to.into_word().to_vec()).await;
    }

    /// Gives a token of an `Nft` to somebody; nobody burns it.
    pub(crate) async fn give(&self, contract: Address, token: u64, to: Address) {
        self.call(contract, giveCall { token: U256::from(token), to }.abi_encode()).await;
    }

    pub(crate) async fn set_coins(&self, contract: Address, owner: Address, amount: u64) {
        self.call(contract, Coin::setCall { owner, amount: U256::from(amount) }.abi_encode()).await;
    }

    pub(crate) async fn set_multi(&self, contract: Address, owner: Address, token: u64, amount: u64) {
        let (token, amount) = (U256::from(token), U256::from(amount));
        self.call(contract, Multi::setCall { owner, token, amount }.abi_encode()).await;
    }

    /// Hash of the newest block.
    pub(crate) async fn head(&self) -> B256 {
        let block = self.ask("eth_getBlockByNumber", json!(["latest", false])).await;
        block["hash"].as_str().unwrap().parse().unwrap()
    }
}

mod scenarios {
    use evm::{BlockRef, Error};
    use schemas::gate::{Code, Rule};

    use super::*;
    use crate::auth::gate::{
        judge::{Decision, Judge, Keep},
        rule::compile,
        testing::{ANN, BOB, all, not},
    };

    fn nft(contract: Address, token_id: Option<u64>) -> Rule {
        let token_id = token_id.map(|id| id.to_string());
        Rule::Erc721Owner { chain_id: ANVIL, contract: contract.to_string(), token_id, sessions_max: None }
    }

    /// Asks until the newest block is the node's newest; answers the decision and how long it took.
    async fn decide(judge: &Judge, anvil: &Anvil, rule: &Rule, wallet: Address) -> (Decision, Duration) {
        let (rule, head, started) = (compile(rule).unwrap(), anvil.head().await, Instant::now());
        loop {
            let decision = judge.decide(&rule, Some(wallet)).await;
            if decision.latest.iter().any(|block| block.hash == head.to_string()) {
                return (decision, started.elapsed());
            }
            assert!(started.elapsed() < Duration::from_secs(10), "{decision:?} never names {head}");
            tokio::task::yield_now().await;
        }
    }

    #[tokio::test]
    async fn a_token_opens_its_gate_until_it_goes() {
        let anvil = Anvil::start().await;
        let contract = anvil.deploy("Nft").await;
        let judge = Judge::new(anvil.open());
        let rule = nft(contract, Some(7));
        anvil.give(contract, 7, ANN).await;
        assert_eq!(decide(&judge, &anvil, &rule, ANN).await.0.verdict.code, Code::NotConfirmed);
        anvil.mine(CONFIRMATIONS).await;
        let (decision, _) = decide(&judge, &anvil, &rule, ANN).await;
        assert!(decision.verdict.granted, "{decision:?}");
        assert!(decide(&judge, &anvil, &nft(contract, None), ANN).await.0.verdict.granted);
        assert!(!decide(&judge, &anvil, &rule, BOB).await.0.verdict.granted);

        anvil.give(contract, 7, BOB).await;
        let (decision, took) = decide(&judge, &anvil, &rule, ANN).await;
        assert_eq!(decision.keep(), Keep::Over(Code::NotOwner));
        assert!(took <= Duration::from_secs(2), "{took:?}");
        assert_eq!(decide(&judge, &anvil, &rule, BOB).await.0.verdict.code, Code::NotConfirmed);

        anvil.mine(CONFIRMATIONS).await;
        assert!(decide(&judge, &anvil, &rule, BOB).await.0.verdict.granted);
        anvil.give(contract, 7, Address::ZERO).await;
        let (decision, took) = decide(&judge, &anvil, &rule, BOB).await;
        assert_eq!(decision.keep(), Keep::Over(Code::ContractFailed));
        assert!(took <= Duration::from_secs(2), "{took:?}");
        // A burnt token is nobody's: not a reason to let in who does not have it.
        assert!(!decide(&judge, &anvil, &not(rule), ANN).await.0.verdict.granted);
    }

    #[tokio::test]
    async fn balances_open_gates_and_bad_contracts_do_not() {
        let anvil = Anvil::start().await;
        let (coin, multi, burner) =
            (anvil.deploy("Coin").await, anvil.deploy("Multi").await, anvil.deploy("Burner").await);
        let judge = Judge::new(anvil.open());
        anvil.set_coins(coin, ANN, 5).await;
        anvil.set_multi(multi, ANN, 3, 2).await;
        anvil.mine(CONFIRMATIONS).await;
        let coins = |balance_min: &str| Rule::Erc20Balance {
            chain_id: ANVIL,
            contract: coin.to_string(),
            balance_min: balance_min.into(),
        };
        let items = |token_id: &str, least: &str| Rule::Erc1155Balance {
            chain_id: ANVIL,
            contract: multi.to_string(),
            token_id: token_id.into(),
            balance_min: Some(least.into()),
        };
        for (rule, wanted) in [
            (coins("5"), Code::RuleHolds),
            (coins("6"), Code::BalanceLow),
            (items("3", "2"), Code::RuleHolds),
            (items("3", "3"), Code::BalanceLow),
            (items("4", "1"), Code::BalanceLow),
            (all(&[coins("1"), items("3", "1"), not(items("4", "1"))]), Code::RuleHolds),
            (nft(burner, Some(1)), Code::ContractFailed),
            (not(nft(burner, Some(1))), Code::ContractFailed),
            (nft(ANN, Some(1)), Code::ContractAbsent),
            (nft(coin, Some(1)), Code::ContractFailed),
        ] {
            let (decision, took) = decide(&judge, &anvil, &rule, ANN).await;
            assert_eq!(decision.verdict.code, wanted, "{rule:?}");
            assert!(took <= Duration::from_secs(2), "{rule:?} {took:?}");
        }
    }

    #[tokio::test]
    async fn a_balance_that_counts_fractions_is_no_number_of_tokens() {
        let anvil = Anvil::start().await;
        let (semi, coin) = (anvil.deploy("Semi").await, anvil.deploy("Coin").await);
        let judge = Judge::new(anvil.open());
        anvil.set_coins(semi, ANN, 1).await;
        anvil.set_coins(coin, ANN, 1).await;
        anvil.mine(CONFIRMATIONS).await;
        for rule in [nft(semi, None), nft(coin, None), not(nft(semi, None))] {
            let (decision, _) = decide(&judge, &anvil, &rule, ANN).await;
            assert!(!decision.verdict.granted, "{rule:?}");
            assert_eq!(decision.verdict.code, Code::ContractMalformed, "{rule:?}");
        }
    }

    #[tokio::test]
    async fn a_reorganisation_is_followed() {
        let anvil = Anvil::start().await;
        let contract = anvil.deploy("Nft").await;
        let chains = anvil.open();
        let judge = Judge::new(chains.clone());
        let rule = nft(contract, Some(7));
        anvil.give(contract, 7, ANN).await;
        anvil.mine(5).await;
        assert!(decide(&judge, &anvil, &rule, ANN).await.0.verdict.granted);
        anvil.give(contract, 7, BOB).await;
        anvil.mine(CONFIRMATIONS).await;
        assert!(decide(&judge, &anvil, &rule, BOB).await.0.verdict.granted);
        let gone = anvil.head().await;
        anvil.reorganise(3).await;
        assert_eq!(decide(&judge, &anvil, &rule, BOB).await.0.keep(), Keep::Over(Code::NotOwner));
        assert!(decide(&judge, &anvil, &rule, ANN).await.0.verdict.granted);
        // The block that is gone answers nothing.
        let outcome = chains.call(ANVIL, contract, Bytes::new(), BlockRef::At(gone)).await;
        assert_eq!(outcome, Err(Error::Reorganised { chain_id: ANVIL }));
        assert!(!chains.code(ANVIL, contract, BlockRef::Latest).await.unwrap().is_empty());
    }
}

//! The chain of the gated demo: anvil on a free port of this machine, gone when the demo is, and one ERC-721 contract on it.
//!
//! Limits: [`START_SECONDS_MAX`] until the node listens, [`ANSWER_SECONDS_MAX`] for each answer of it, [`MINED_SECONDS_MAX`] until
//! a transaction is in a block.

use std::{env, path::PathBuf, process::Stdio, time::Duration};

use alloy_primitives::{Address, Bytes, U256};
use alloy_sol_types::{SolCall, sol};
use anyhow::{Context, anyhow, bail};
use evm::{ChainConfig, RpcUrl};
use nats::server::program;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines},
    process::{Child, ChildStdin, ChildStdout},
    task::JoinSet,
};

use super::poll_until;

/// EIP-155 chain id, the usual one of development nodes.
pub(super) const CHAIN_ID: u64 = 31_337;
/// Longest wait for the node to listen, in seconds.
pub const START_SECONDS_MAX: u64 = 30;
/// Longest wait for an answer of the node, in seconds.
pub const ANSWER_SECONDS_MAX: u64 = 10;
/// Longest wait for a transaction to be in a block, in seconds; there is a block every second.
pub const MINED_SECONDS_MAX: u64 = 30;

const NAME: &str = "anvil";
/// States of the chain that are kept; gates ask at the newest blocks only.
const STATES_MAX: &str = "256";
const REMEDY: &str = "`.ci/setup gated` in the checkout fetches it, `npm install --global @foundry-rs/anvil` does, too; or name \
     yours in ANVIL";

/// Bytecode by contract name.
const CONTRACTS: &str = include_str!("../../../tests/contracts/tokens.json");

sol! {
    // Takes the token from its owner, if it has one, else makes it.
    function give(uint256 token, address to);
}

/// The program: the one that `ANVIL` names, else the first of the usual places.
///
/// # Errors
/// Says how to get one.
pub fn find_anvil() -> anyhow::Result<PathBuf> {
    let named = env::var_os("ANVIL").filter(|name| !name.is_empty()).map(PathBuf::from);
    choose_program(named, program::find_program_files(NAME))
}

fn choose_program(named: Option<PathBuf>, places: Vec<PathBuf>) -> anyhow::Result<PathBuf> {
    match (named, places.into_iter().next()) {
        (Some(path), _) if path.is_file() => Ok(path),
        (Some(path), _) => bail!("ANVIL names {}, which is no file; {REMEDY}", path.display()),
        (None, Some(path)) => Ok(path),
        (None, None) => bail!(
            "there is no anvil, the Ethereum node of `demo --gated`, neither in .tools/bin above this program nor in PATH; {REMEDY}"
        ),
    }
}

/// A running node; killed when dropped, and when this process ends in whatever way.
pub(super) struct DemoNode {
    child: Child,
    guard: ChildStdin,
    /// Reads the node's output: without a reader the node would stop.
    _reading: JoinSet<()>,
    /// Address of its JSON-RPC.
    pub(super) url: String,
    http: reqwest::Client,
    /// An account of the node's own that has money.
    payer: Value,
}

impl DemoNode {
    /// Starts a node with a chain of its own.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let path = find_anvil()?;
        let broken = || format!("anvil ({}) does not start; {REMEDY}", path.display());
        let chain_id = CHAIN_ID.to_string();
        let mut child = program::guarded_command(&path)
            .args(["--host", "127.0.0.1", "--port", "0", "--chain-id", &chain_id, "--accounts", "1"])
            // Without new blocks the newest would soon be too old to decide by.
            .args(["--block-time", "1"])
            // No state on disk, and no page of a browser may ask it.
            .args(["--prune-history", STATES_MAX, "--no-cors"])
            .stdout(Stdio::piped())
            .spawn()
            .with_context(broken)?;
        let (Some(guard), Some(out)) = (child.stdin.take(), child.stdout.take()) else { bail!(broken()) };
        let mut lines = BufReader::new(out).lines();
        let address =
            tokio::time::timeout(Duration::from_secs(START_SECONDS_MAX), read_listen_address(&mut lines));
        let address = address.await.context("it says nothing").and_then(|said| said).with_context(broken)?;
        let mut reading = JoinSet::new();
        reading.spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        let http = outbound::configured_client().timeout(Duration::from_secs(ANSWER_SECONDS_MAX)).build()?;
        let url = format!("http://{address}");
        let mut node = Self { child, guard, _reading: reading, url, http, payer: Value::Null };
        node.payer = node.request_rpc("eth_accounts", json!([])).await?[0].take();
        Ok(node)
    }

    /// Ends the node and waits until it is gone.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        self.child.kill().await.context("anvil can't be killed")?;
        self.guard.write_all(b"\n").await.context("the guard of anvil is gone")
    }

    /// The chain as gates are to ask it.
    pub(super) fn chain_config(&self) -> anyhow::Result<ChainConfig> {
        let url = RpcUrl::try_from(self.url.clone()).map_err(|reason| anyhow!("{}: {reason}", self.url))?;
        let (chain_id, name) = (CHAIN_ID, "the demo's own".to_owned());
        Ok(ChainConfig { chain_id, name, rpc_urls: vec![url], confirmations: 1, ..ChainConfig::default() })
    }

    /// Puts the ERC-721 contract on the chain; answers its address.
    pub(super) async fn deploy_contract(&self) -> anyhow::Result<Address> {
        let codes: Value = serde_json::from_str(CONTRACTS)?;
        let receipt = self.send_transaction(json!({ "data": codes["Nft"], "gas": "0x200000" })).await?;
        let address = receipt["contractAddress"].as_str().context("the receipt names no contract")?;
        Ok(address.parse()?)
    }

    /// Gives a token to `to`, from its owner or, when it has none, as a new one. It is in a block when this returns.
    pub(super) async fn give_token(&self, contract: Address, token: u64, to: Address) -> anyhow::Result<()> {
        let data = Bytes::from(giveCall { token: U256::from(token), to }.abi_encode());
        self.send_transaction(json!({ "to": contract, "data": data, "gas": "0x100000" })).await.map(drop)
    }

    async fn send_transaction(&self, mut transaction: Value) -> anyhow::Result<Value> {
        transaction["from"] = self.payer.clone();
        let hash = self.request_rpc("eth_sendTransaction", json!([transaction])).await?;
        let receipt = poll_until("a transaction is in no block", MINED_SECONDS_MAX, async || {
            let receipt = self.request_rpc("eth_getTransactionReceipt", json!([hash])).await?;
            Ok(if receipt.is_null() { Err("there is no receipt".to_owned()) } else { Ok(receipt) })
        });
        let receipt = receipt.await?;
        if receipt["status"] != "0x1" {
            bail!("a transaction failed: {receipt}");
        }
        Ok(receipt)
    }

    async fn request_rpc(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let body = json!({ "jsonrpc": "2.0", "id": 1, "method": method, "params": params });
        let asking = async { self.http.post(&self.url).json(&body).send().await?.json::<Value>().await };
        let mut answer = asking.await.with_context(|| format!("anvil does not answer {method}"))?;
        match answer.get("error") {
            Some(error) => bail!("anvil refuses {method}: {error}"),
            None => Ok(answer["result"].take()),
        }
    }
}

/// Host and port that the node says it listens at.
async fn read_listen_address(lines: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<String> {
    while let Some(line) = lines.next_line().await? {
        if let Some(address) = line.strip_prefix("Listening on ") {
            return Ok(address.trim().to_owned());
        }
    }
    bail!("it ended before it listened")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_the_program_it_says_how_to_get_it() {
        let dir = tempfile::tempdir().unwrap();
        let (there, absent) = (dir.path().join("there"), dir.path().join("absent"));
        std::fs::write(&there, b"").unwrap();
        assert_eq!(choose_program(Some(there.clone()), Vec::new()).unwrap(), there);
        assert_eq!(choose_program(None, vec![there.clone(), absent.clone()]).unwrap(), there);
        for error in [choose_program(None, Vec::new()), choose_program(Some(absent), vec![there])] {
            let error = error.unwrap_err().to_string();
            assert!(error.contains(".ci/setup gated") && error.contains("@foundry-rs/anvil"), "{error}");
        }
    }
}

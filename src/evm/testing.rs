//! A model chain for tests: a world that mines, transfers and reorganises, and nodes that follow it, lag, hang, fail or lie.
#![expect(
    clippy::unwrap_used,
    clippy::missing_panics_doc,
    reason = "a test whose world is not as it says fails at once"
)]

use std::{borrow::Cow, collections::BTreeMap, sync::Arc};

use alloy_primitives::{Address, B256, U256, keccak256};
use futures::{FutureExt, future::BoxFuture};
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::{ChainClock, ChainConfig, EvmClient, ProviderFault, RpcTransport};

/// Chain id of the world.
pub const CHAIN: u64 = 1337;
/// ERC-721.
pub const NFT: Address = Address::repeat_byte(0x11);
/// ERC-20.
pub const COIN: Address = Address::repeat_byte(0x22);
/// Answers with 31 bytes.
pub const SHORT: Address = Address::repeat_byte(0x33);
/// Answers with two words.
pub const LONG: Address = Address::repeat_byte(0x44);
/// Answers with a word that is no address.
pub const DIRTY: Address = Address::repeat_byte(0x66);
/// Burns all gas.
pub const BURNER: Address = Address::repeat_byte(0x77);
/// Has no code.
pub const NOTHING: Address = Address::repeat_byte(0x55);

/// First topic of a transfer, of ERC-20 as of ERC-721.
pub fn transfer_topic() -> B256 {
    keccak256("Transfer(address,address,uint256)")
}

/// What contracts say at one block.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ContractState {
    /// Owner of each token of [`NFT`].
    pub owners: BTreeMap<u64, Address>,
    /// Balances of [`COIN`].
    pub coins: BTreeMap<Address, u64>,
}

/// One block with the state after it.
#[derive(Debug, Clone)]
pub struct ModelBlock {
    /// Height.
    pub number: u64,
    /// Hash.
    pub hash: B256,
    /// Hash of the block before.
    pub parent: B256,
    /// Unix time in seconds.
    pub timestamp_s: u64,
    /// What contracts say after it.
    pub state: ContractState,
    logs: Vec<(Address, Vec<B256>)>,
}

/// How a node behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NodeBehavior {
    /// Follows the chain and answers what is so.
    Honest,
    /// Never answers.
    Hangs,
    /// Can not be reached.
    Down,
    /// Asks to be left alone.
    Throttles,
    /// Says that every account owns everything.
    ClaimsAll,
    /// Says that nobody owns anything.
    ClaimsNone,
    /// Reports heads that do not exist.
    InventsHeads,
    /// Stands behind a balancer that leads requests for logs to a node one block behind.
    LogsBehind,
}

#[derive(Debug, Clone)]
struct ModelNodeState {
    chain: Vec<Arc<ModelBlock>>,
    mood: NodeBehavior,
}

#[derive(Debug)]
struct ModelChainData {
    now_s: u64,
    salt: u64,
    chain: Vec<Arc<ModelBlock>>,
    every: BTreeMap<B256, Arc<ModelBlock>>,
    nodes: Vec<ModelNodeState>,
    pending: Vec<(Address, Vec<B256>)>,
    requests: usize,
}

/// The world and its nodes. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ModelChain(Arc<Mutex<ModelChainData>>);

#[derive(Debug)]
struct ModelNode {
    world: ModelChain,
    index: usize,
}

impl ModelChain {
    /// A world at its first block, and so many honest nodes.
    pub fn new(node_count: usize) -> Self {
        let genesis = ModelBlock {
            number: 0,
            hash: keccak256("genesis"),
            parent: B256::ZERO,
            timestamp_s: 1_000_000,
            state: ContractState::default(),
            logs: Vec::new(),
        };
        let genesis = Arc::new(genesis);
        let node = || ModelNodeState { chain: vec![Arc::clone(&genesis)], mood: NodeBehavior::Honest };
        Self(Arc::new(Mutex::new(ModelChainData {
            now_s: 1_000_000,
            salt: 0,
            chain: vec![Arc::clone(&genesis)],
            every: BTreeMap::from([(genesis.hash, Arc::clone(&genesis))]),
            nodes: (0..node_count).map(|_| node()).collect(),
            pending: Vec::new(),
            requests: 0,
        })))
    }

    /// The chain as a client configured with `config` sees it through all nodes.
    pub fn open_client(&self, config: ChainConfig) -> EvmClient {
        let count = self.0.lock().nodes.len();
        let transports = (0..count)
            .map(|index| {
                let node: Arc<dyn RpcTransport> = Arc::new(ModelNode { world: self.clone(), index });
                (format!("node{index}"), node)
            })
            .collect();
        let world = self.clone();
        let clock: ChainClock = Arc::new(move || world.now_s());
        EvmClient::with_transports(vec![(config, transports)], &clock).unwrap()
    }

    /// Unix time of the world in seconds.
    pub fn now_s(&self) -> u64 {
        self.0.lock().now_s
    }

    /// Lets time pass.
    pub fn advance_time(&self, seconds: u64) {
        self.0.lock().now_s += seconds;
    }

    /// Requests that reached any node.
    pub fn request_count(&self) -> usize {
        self.0.lock().requests
    }

    /// The newest block, whichever nodes know it.
    pub fn head_block(&self) -> Arc<ModelBlock> {
        Arc::clone(self.0.lock().chain.last().unwrap())
    }

    /// Any block that ever was.
    pub fn find_block(&self, hash: &str) -> Option<Arc<ModelBlock>> {
        self.0.lock().every.get(&hash.parse::<B256>().unwrap()).cloned()
    }

    /// True when the block is part of the chain as it truly is.
    pub fn is_canonical(&self, hash: B256) -> bool {
        self.0.lock().chain.iter().any(|made| made.hash == hash)
    }

    /// Changes how a node behaves.
    pub fn set_behavior(&self, node: usize, mood: NodeBehavior) {
        self.0.lock().nodes[node].mood = mood;
    }

    /// True when every node is honest.
    pub fn is_honest(&self) -> bool {
        self.0.lock().nodes.iter().all(|node| node.mood == NodeBehavior::Honest)
    }

    /// For each two nodes that answer and do not invent heads, the newest block that both know and one has as its newest.
    pub fn shared_heads(&self) -> Vec<Arc<ModelBlock>> {
        let inside = self.0.lock();
        let silent =
            [NodeBehavior::Hangs, NodeBehavior::Down, NodeBehavior::Throttles, NodeBehavior::InventsHeads];
        let answering: Vec<_> = inside.nodes.iter().filter(|node| !silent.contains(&node.mood)).collect();
        let mut shared = Vec::new();
        for (index, one) in answering.iter().enumerate() {
            for other in &answering[index + 1..] {
                let (one, other) = (&one.chain, &other.chain);
                let place = one.len().min(other.len()) - 1;
                if one[place].hash == other[place].hash {
                    shared.push(Arc::clone(&one[place]));
                }
            }
        }
        shared
    }

    /// A node takes over the chain as it is now.
    pub fn sync_node(&self, node: usize) {
        let inside = &mut *self.0.lock();
        inside.nodes[node].chain.clone_from(&inside.chain);
    }

    /// A node falls back by `count` blocks, as one behind a balancer does.
    pub fn rewind_node(&self, node: usize, count: usize) {
        let mut inside = self.0.lock();
        let keep = inside.nodes[node].chain.len().saturating_sub(count).max(1);
        inside.nodes[node].chain.truncate(keep);
    }

    /// Every node takes over the chain as it is now.
    pub fn sync_all(&self) {
        let count = self.0.lock().nodes.len();
        (0..count).for_each(|node| self.sync_node(node));
    }

    /// Mines a block after `change`.
    pub fn mine_block(&self, change: impl FnOnce(&mut ContractState)) {
        let mut inside = self.0.lock();
        let last = Arc::clone(inside.chain.last().unwrap());
        let mut state = last.state.clone();
        change(&mut state);
        inside.salt += 1;
        let salt = inside.salt;
        let made = Arc::new(ModelBlock {
            number: last.number + 1,
            hash: keccak256(format!("{}/{salt}", last.hash)),
            parent: last.hash,
            timestamp_s: inside.now_s,
            state,
            logs: std::mem::take(&mut inside.pending),
        });
        inside.every.insert(made.hash, Arc::clone(&made));
        inside.chain.push(made);
    }

    /// The next block has a log of [`NFT`] with these topics.
    pub fn add_log(&self, topics: Vec<B256>) {
        self.0.lock().pending.push((NFT, topics));
    }

    /// Mines a block in which the token changes hands; `None` burns it.
    pub fn transfer_token(&self, token: u64, to: Option<Address>) {
        let from = self.head_block().state.owners.get(&token).copied().unwrap_or_default();
        self.add_log(vec![
            transfer_topic(),
            from.into_word(),
            to.unwrap_or_default().into_word(),
            B256::from(U256::from(token)),
        ]);
        self.mine_block(|state| {
            match to {
                Some(to) => state.owners.insert(token, to),
                None => state.owners.remove(&token),
            };
        });
    }

    /// Drops the newest `depth` blocks and mines as many empty ones and one more in their place.
    pub fn reorganise_chain(&self, depth: usize) {
        {
            let mut inside = self.0.lock();
            let keep = inside.chain.len().saturating_sub(depth).max(1);
            inside.chain.truncate(keep);
        }
        (0..=depth).for_each(|_| self.mine_block(|_| {}));
    }
}

impl ModelNodeState {
    /// The node that answers a request.
    fn view_for_request(&self, request: &Value) -> Cow<'_, Self> {
        let is_logs = |item: &Value| item["method"] == "eth_getLogs";
        let has_logs = request.as_array().map_or_else(|| is_logs(request), |items| items.iter().any(is_logs));
        let mut node = Cow::Borrowed(self);
        if self.mood == NodeBehavior::LogsBehind && has_logs {
            node.to_mut().chain.pop();
        }
        node
    }
}

impl RpcTransport for ModelNode {
    fn send(&self, request: Value) -> BoxFuture<'_, Result<Value, ProviderFault>> {
        let mood = {
            let mut inside = self.world.0.lock();
            inside.requests += 1;
            inside.nodes[self.index].mood
        };
        match mood {
            NodeBehavior::Hangs => futures::future::pending().boxed(),
            NodeBehavior::Down => async { Err(ProviderFault::Unreachable) }.boxed(),
            NodeBehavior::Throttles => {
                async { Err(ProviderFault::Throttled { retry_after_ms: 2_000 }) }.boxed()
            }
            _ => {
                let inside = self.world.0.lock();
                let node = inside.nodes[self.index].view_for_request(&request);
                let node = node.as_ref();
                let answer = match request {
                    Value::Array(items) => items.iter().map(|item| build_response(node, item)).collect(),
                    item => build_response(node, &item),
                };
                async { Ok(answer) }.boxed()
            }
        }
    }
}

fn build_response(node: &ModelNodeState, request: &Value) -> Value {
    let params = &request["params"];
    let outcome = match request["method"].as_str().unwrap() {
        "eth_chainId" => Ok(json!(format!("{CHAIN:#x}"))),
        "eth_getBlockByNumber" => Ok(block_json(node, &params[0])),
        "eth_getCode" => find_pinned_block(node, &params[1]).map(|_| {
            let has_code = params[0].as_str() != Some(&format!("{NOTHING:#x}"));
            json!(if has_code { "0x60" } else { "0x" })
        }),
        "eth_call" => {
            find_pinned_block(node, &params[1]).and_then(|made| evaluate_call(node, made, &params[0]))
        }
        "eth_getLogs" => Ok(collect_logs(node, &params[0])),
        other => panic!("{other}"),
    };
    let id = &request["id"];
    match outcome {
        Ok(result) => json!({ "jsonrpc": "2.0", "id": id, "result": result }),
        Err((code, message)) => {
            json!({ "jsonrpc": "2.0", "id": id, "error": { "code": code, "message": message } })
        }
    }
}

type ModelRpcError = (i64, &'static str);

fn block_json(node: &ModelNodeState, which: &Value) -> Value {
    let number = match which.as_str().unwrap() {
        "latest" => node.chain.last().unwrap().number,
        text => parse_quantity(text),
    };
    if node.mood == NodeBehavior::InventsHeads {
        let number = if which == "latest" { number + 1_000 } else { number };
        return json!({
            "number": format!("{number:#x}"),
            "hash": keccak256(format!("invented {number}")),
            "timestamp": "0xffffffff",
        });
    }
    match node.chain.iter().find(|made| made.number == number) {
        Some(made) => json!({
            "number": format!("{number:#x}"),
            "hash": made.hash,
            "parentHash": made.parent,
            "timestamp": format!("{:#x}", made.timestamp_s),
        }),
        None => Value::Null,
    }
}

/// Reads a number as JSON-RPC writes it.
pub fn parse_quantity(text: &str) -> u64 {
    u64::from_str_radix(text.strip_prefix("0x").unwrap(), 16).unwrap()
}

fn find_pinned_block<'a>(node: &'a ModelNodeState, block: &Value) -> Result<&'a ModelBlock, ModelRpcError> {
    assert_eq!(block["requireCanonical"], true, "every read is pinned");
    let hash: B256 = block["blockHash"].as_str().unwrap().parse().unwrap();
    let made = node.chain.iter().find(|made| made.hash == hash);
    made.map(AsRef::as_ref).ok_or((-32000, "hash is not currently canonical"))
}

fn evaluate_call(node: &ModelNodeState, made: &ModelBlock, call: &Value) -> Result<Value, ModelRpcError> {
    let to: Address = call["to"].as_str().unwrap().parse().unwrap();
    let data: alloy_primitives::Bytes = call["data"].as_str().unwrap().parse().unwrap();
    let word = |index: usize| U256::from_be_slice(&data[4 + 32 * index..36 + 32 * index]);
    let wallet = |index: usize| Address::from_word(B256::from(word(index)));
    let selector = alloy_primitives::hex::encode(&data[..4]);
    if node.mood == NodeBehavior::ClaimsNone {
        return Ok(json!(B256::ZERO));
    }
    match (to, selector.as_str()) {
        (SHORT, _) => Ok(json!(format!("0x{}", "01".repeat(31)))),
        (LONG, _) => Ok(json!(format!("0x{}", "01".repeat(64)))),
        (DIRTY, _) => Ok(json!(format!("0x{}", "ff".repeat(32)))),
        (BURNER, _) => Err((-32000, "out of gas")),
        (NOTHING, _) => Ok(json!("0x")),
        // supportsInterface, for which the coin has no answer.
        (COIN, "01ffc9a7") => Err((3, "execution reverted")),
        (_, "01ffc9a7") => Ok(json!(B256::from(U256::from(1)))),
        // ownerOf: there is no asker in the call, so a liar names a fixed wallet.
        (_, "6352211e") if node.mood == NodeBehavior::ClaimsAll => {
            Ok(json!(Address::repeat_byte(0xa1).into_word()))
        }
        (_, "6352211e") => {
            let token = u64::try_from(word(0)).unwrap();
            made.state
                .owners
                .get(&token)
                .map(|owner| json!(owner.into_word()))
                .ok_or((3, "execution reverted"))
        }
        (_, "70a08231") if node.mood == NodeBehavior::ClaimsAll => Ok(json!(B256::from(U256::from(1_000)))),
        (COIN, "70a08231") => {
            let amount = made.state.coins.get(&wallet(0)).copied().unwrap_or(0);
            Ok(json!(B256::from(U256::from(amount))))
        }
        (_, "70a08231") => {
            let count = made.state.owners.values().filter(|owner| **owner == wallet(0)).count();
            Ok(json!(B256::from(U256::from(count))))
        }
        other => panic!("{other:?}"),
    }
}

fn collect_logs(node: &ModelNodeState, filter: &Value) -> Value {
    let number = |name: &str| parse_quantity(filter[name].as_str().unwrap());
    let (from, to) = (number("fromBlock"), number("toBlock"));
    let wanted: Vec<String> = serde_json::from_value(filter["address"].clone()).unwrap();
    let blocks = node.chain.iter().filter(|made| (from..=to).contains(&made.number));
    let entries =
        blocks.flat_map(|made| made.logs.iter().enumerate().map(move |(index, log)| (made, index, log)));
    entries
        .filter(|(_, _, (address, _))| wanted.contains(&format!("{address:#x}")))
        .map(|(made, index, (address, topics))| {
            json!({
                "address": address, "topics": topics, "data": "0x", "blockNumber": format!("{:#x}", made.number),
                "blockHash": made.hash, "logIndex": format!("{index:#x}"), "removed": false,
            })
        })
        .collect()
}

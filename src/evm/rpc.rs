//! JSON-RPC on the wire: questions, and strict reading of what a provider answers. Pure.

use std::fmt;

use alloy_primitives::{Address, B256, Bytes, hex};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{EvmBlock, error::ProviderFault};

/// Carries one request to a provider and brings its answer, within the limits of its configuration.
pub trait RpcTransport: Send + Sync + fmt::Debug {
    /// Sends a JSON-RPC request or batch.
    ///
    /// # Errors
    /// Why there is no answer.
    fn send(&self, request: Value) -> BoxFuture<'_, Result<Value, ProviderFault>>;
}

/// A question to a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RpcRequest {
    ChainId,
    LatestBlock,
    BlockAt(u64),
    /// Without `to`, `data` runs as a program and its answer is what it returns.
    Call {
        to: Option<Address>,
        data: Bytes,
        at: B256,
        gas: u64,
    },
    Code {
        address: Address,
        at: B256,
    },
    Logs {
        from: u64,
        to: u64,
        addresses: Vec<Address>,
        topics: Vec<B256>,
    },
}

/// A provider's answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum RpcResponse {
    Number(u64),
    Block(EvmBlock),
    Bytes(Bytes),
    /// The contract refused or ran out of gas: a fact about the contract, the same at every honest provider.
    Reverted,
    Logs(Vec<ContractLog>),
}

/// A log entry of a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContractLog {
    /// The contract.
    pub address: Address,
    /// Topics; the first is the event's signature.
    pub topics: Vec<B256>,
    /// Data.
    pub data: Bytes,
    /// Number of its block.
    pub block_number: u64,
    /// Hash of its block.
    pub block_hash: B256,
    /// Place in its block.
    pub index: u64,
}

impl RpcRequest {
    /// True when every honest provider that knows the block answers the same.
    pub(super) const fn is_pinned(&self) -> bool {
        matches!(self, Self::Call { .. } | Self::Code { .. })
    }

    fn to_json(&self, id: usize) -> Value {
        // By hash, EIP-1898: a number may be another block on each provider, and after a reorganisation.
        let pinned = |at: &B256| json!({ "blockHash": at, "requireCanonical": true });
        let (method, params) = match self {
            Self::ChainId => ("eth_chainId", json!([])),
            Self::LatestBlock => ("eth_getBlockByNumber", json!(["latest", false])),
            Self::BlockAt(number) => ("eth_getBlockByNumber", json!([format_quantity(*number), false])),
            Self::Call { to, data, at, gas } => {
                let mut call = json!({ "data": data, "gas": format_quantity(*gas) });
                if let Some(to) = to {
                    call["to"] = json!(format_address(*to));
                }
                ("eth_call", json!([call, pinned(at)]))
            }
            Self::Code { address: of, at } => ("eth_getCode", json!([format_address(*of), pinned(at)])),
            Self::Logs { from, to, addresses, topics } => {
                let addresses: Vec<String> = addresses.iter().copied().map(format_address).collect();
                let filter = json!({
                    "fromBlock": format_quantity(*from), "toBlock": format_quantity(*to), "address": addresses, "topics": [topics],
                });
                ("eth_getLogs", json!([filter]))
            }
        };
        json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
    }

    fn parse_result(&self, result: Value) -> Result<RpcResponse, ProviderFault> {
        match self {
            Self::ChainId => Ok(RpcResponse::Number(parse_quantity(&result)?)),
            Self::LatestBlock => Ok(RpcResponse::Block(parse_block(&result)?)),
            Self::BlockAt(wanted) => {
                let block = parse_block(&result)?;
                if block.number == *wanted {
                    Ok(RpcResponse::Block(block))
                } else {
                    Err(ProviderFault::Malformed("another block than asked for"))
                }
            }
            Self::Call { .. } | Self::Code { .. } => Ok(RpcResponse::Bytes(parse_bytes(&result)?)),
            Self::Logs { from, to, addresses, .. } => {
                let entries: Vec<RpcLog> =
                    serde_json::from_value(result).map_err(|_| ProviderFault::Malformed("logs"))?;
                let mut logs = Vec::with_capacity(entries.len());
                for entry in entries.into_iter().filter(|entry| !entry.removed) {
                    let log = entry.parse_log()?;
                    if !(*from..=*to).contains(&log.block_number) || !addresses.contains(&log.address) {
                        // A filter that a provider ignores would let it show transfers of other contracts as ours.
                        return Err(ProviderFault::Malformed("logs that were not asked for"));
                    }
                    logs.push(log);
                }
                Ok(RpcResponse::Logs(logs))
            }
        }
    }
}

/// The request for `questions`: an object for one, else a batch.
pub(super) fn build_request(questions: &[RpcRequest]) -> Value {
    match questions {
        [one] => one.to_json(0),
        many => many.iter().enumerate().map(|(id, question)| question.to_json(id)).collect(),
    }
}

/// Reads a response: an answer or a fault for each question.
///
/// # Errors
/// [`ProviderFault`] when the response as a whole is no answer to the request.
pub(super) fn parse_response(
    questions: &[RpcRequest],
    response: Value,
) -> Result<Vec<Result<RpcResponse, ProviderFault>>, ProviderFault> {
    let items = match response {
        Value::Array(items) if questions.len() != 1 => items,
        // One object to a batch is an error about all of it, usually a limit.
        Value::Object(item) if questions.len() != 1 => {
            let code = item.get("error").map_or(0, read_error_code);
            return Err(throttling_fault(code).unwrap_or(ProviderFault::Refused(code)));
        }
        item @ Value::Object(_) => vec![item],
        _ => return Err(ProviderFault::Malformed("neither answer nor batch")),
    };
    // JSON-RPC 2.0, 6: the answers of a batch come in any order, so only their ids say what they answer.
    if items.len() != questions.len() {
        return Err(ProviderFault::Malformed("a batch of another length"));
    }
    let mut answers: Vec<Option<Result<RpcResponse, ProviderFault>>> = vec![None; questions.len()];
    for item in items {
        let Value::Object(mut item) = item else { return Err(ProviderFault::Malformed("no answer object")) };
        let id = item.get("id").and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok());
        let slot = id.and_then(|id| Some((questions.get(id)?, answers.get_mut(id)?)));
        let Some((question, slot)) = slot else { return Err(ProviderFault::Malformed("unknown id")) };
        if slot.is_some() {
            return Err(ProviderFault::Malformed("an id twice"));
        }
        let outcome = match (item.remove("result"), item.remove("error")) {
            (Some(result), None | Some(Value::Null)) => question.parse_result(result),
            (None | Some(Value::Null), Some(error)) => question.interpret_error(&error),
            _ => Err(ProviderFault::Malformed("neither result nor error, or both")),
        };
        if let Err(fault @ ProviderFault::Throttled { .. }) = outcome {
            return Err(fault);
        }
        *slot = Some(outcome);
    }
    Ok(answers
        .into_iter()
        .map(|answer| answer.unwrap_or(Err(ProviderFault::Malformed("no answer"))))
        .collect())
}

impl RpcRequest {
    /// True when a contract has a say in the answer.
    pub(super) const fn is_contract_call(&self) -> bool {
        matches!(self, Self::Call { .. })
    }

    /// What an error object means. Nodes agree on little but code 3 for a revert; the rest is known by its words.
    fn interpret_error(&self, error: &Value) -> Result<RpcResponse, ProviderFault> {
        let code = read_error_code(error);
        if let Some(fault) = throttling_fault(code) {
            return Err(fault);
        }
        let words = error.get("message").and_then(Value::as_str).unwrap_or_default().to_ascii_lowercase();
        let says = |phrases: &[&str]| phrases.iter().any(|phrase| words.contains(phrase));
        if says(&[
            "header not found",
            "unknown block",
            "not canonical",
            "block not found",
            "not currently canonical",
        ]) || code == -32001
        {
            return Err(ProviderFault::NoBlock);
        }
        let ran = [
            "revert",
            "out of gas",
            "outofgas",
            "invalid opcode",
            "invalid jump",
            "stack underflow",
            "stack overflow",
            "stackunderflow",
            "stackoverflow",
            "stack limit",
            "out of bounds",
            "outofoffset",
            "uint64 overflow",
            "opcode",
            "invalidjump",
            "evmerror",
            "vm execution error",
            "write protection",
            "call depth",
            "memory limit",
            "memorylimit",
        ];
        if self.is_contract_call() && (code == 3 || says(&ran)) {
            return Ok(RpcResponse::Reverted);
        }
        Err(ProviderFault::Refused(code))
    }
}

fn read_error_code(error: &Value) -> i64 {
    error.get("code").and_then(Value::as_i64).unwrap_or(0)
}

/// -32005 is "limit exceeded" (EIP-1474); some answer 429 inside a 200.
fn throttling_fault(code: i64) -> Option<ProviderFault> {
    matches!(code, -32005 | 429).then_some(ProviderFault::Throttled { retry_after_ms: 1_000 })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RpcLog {
    address: Address,
    topics: Vec<B256>,
    data: Value,
    block_number: Value,
    block_hash: B256,
    log_index: Value,
    #[serde(default)]
    removed: bool,
}

impl RpcLog {
    fn parse_log(self) -> Result<ContractLog, ProviderFault> {
        Ok(ContractLog {
            address: self.address,
            topics: self.topics,
            data: parse_bytes(&self.data)?,
            block_number: parse_quantity(&self.block_number)?,
            block_hash: self.block_hash,
            index: parse_quantity(&self.log_index)?,
        })
    }
}

fn parse_block(value: &Value) -> Result<EvmBlock, ProviderFault> {
    if value.is_null() {
        return Err(ProviderFault::NoBlock);
    }
    let member = |name: &str| value.get(name).ok_or(ProviderFault::Malformed("a block without a member"));
    let hash = member("hash")?.as_str().ok_or(ProviderFault::Malformed("a block's hash"))?;
    Ok(EvmBlock {
        number: parse_quantity(member("number")?)?,
        hash: hash.parse().map_err(|_| ProviderFault::Malformed("a block's hash"))?,
        timestamp_s: parse_quantity(member("timestamp")?)?,
    })
}

/// A quantity: `0x`, then one to sixteen hex digits.
fn parse_quantity(value: &Value) -> Result<u64, ProviderFault> {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).unwrap_or_default();
    if digits.is_empty() || digits.len() > 16 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(ProviderFault::Malformed("a quantity"));
    }
    u64::from_str_radix(digits, 16).map_err(|_| ProviderFault::Malformed("a quantity"))
}

/// Data: `0x`, then an even number of hex digits.
fn parse_bytes(value: &Value) -> Result<Bytes, ProviderFault> {
    let digits =
        value.as_str().and_then(|text| text.strip_prefix("0x")).ok_or(ProviderFault::Malformed("data"))?;
    hex::decode(digits).map(Bytes::from).map_err(|_| ProviderFault::Malformed("data"))
}

fn format_quantity(number: u64) -> String {
    format!("{number:#x}")
}

fn format_address(address: Address) -> String {
    format!("{address:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> RpcRequest {
        RpcRequest::Call { to: Some(Address::ZERO), data: Bytes::from_static(&[1]), at: B256::ZERO, gas: 5 }
    }

    fn one(question: RpcRequest, body: Value) -> Result<RpcResponse, ProviderFault> {
        parse_response(&[question], body)?.remove(0)
    }

    #[test]
    fn a_question_pins_its_block() {
        let sent = build_request(&[call()]);
        assert_eq!(sent["params"][1]["requireCanonical"], true);
        assert_eq!(sent["params"][1]["blockHash"], format!("0x{}", "0".repeat(64)));
        assert_eq!(sent["params"][0]["gas"], "0x5");
        assert_eq!(build_request(&[call(), RpcRequest::ChainId])[1]["method"], "eth_chainId");
    }

    #[test]
    fn an_answer_is_read_strictly() {
        let answer = |result: Value| json!({ "jsonrpc": "2.0", "id": 0, "result": result });
        assert_eq!(
            one(call(), answer(json!("0x01ff"))),
            Ok(RpcResponse::Bytes(Bytes::from_static(&[1, 255])))
        );
        assert_eq!(one(call(), answer(json!("0x"))), Ok(RpcResponse::Bytes(Bytes::new())));
        for wrong in [json!("01"), json!("0x1"), json!("0xzz"), json!(1), json!(null), json!({})] {
            assert!(
                matches!(one(call(), answer(wrong.clone())), Err(ProviderFault::Malformed(_))),
                "{wrong}"
            );
        }
        for wrong in [json!("0x"), json!("0x11111111111111111"), json!("1"), json!("0x+1"), json!(-1)] {
            assert!(
                matches!(one(RpcRequest::ChainId, answer(wrong.clone())), Err(ProviderFault::Malformed(_))),
                "{wrong}"
            );
        }
        assert_eq!(one(RpcRequest::LatestBlock, answer(json!(null))), Err(ProviderFault::NoBlock));
        let other = json!({ "number": "0x2", "hash": B256::ZERO, "timestamp": "0x1" });
        assert!(matches!(one(RpcRequest::BlockAt(1), answer(other)), Err(ProviderFault::Malformed(_))));
    }

    #[test]
    fn errors_are_distinguished() {
        let error =
            |code: i64, message: &str| json!({ "id": 0, "error": { "code": code, "message": message } });
        for (code, message, wanted) in [
            (3, "execution reverted: no such token", Ok(RpcResponse::Reverted)),
            (-32000, "out of gas: gas required exceeds", Ok(RpcResponse::Reverted)),
            (-32000, "header not found", Err(ProviderFault::NoBlock)),
            (-32005, "limit exceeded", Err(ProviderFault::Throttled { retry_after_ms: 1_000 })),
            (-32000, "execution aborted (timeout = 5s)", Err(ProviderFault::Refused(-32000))),
        ] {
            assert_eq!(one(call(), error(code, message)), wanted, "{message}");
        }
        // Only a call can revert.
        assert_eq!(one(RpcRequest::ChainId, error(3, "reverted")), Err(ProviderFault::Refused(3)));
    }

    #[test]
    fn a_batch_has_to_be_complete() {
        let batch = [call(), RpcRequest::ChainId];
        let good = json!([{ "id": 1, "result": "0x1" }, { "id": 0, "result": "0x" }]);
        let read = parse_response(&batch, good).unwrap();
        assert_eq!(read[1], Ok(RpcResponse::Number(1)));
        for wrong in [
            json!([]),
            json!({ "id": 0, "result": "0x" }),
            json!([{ "id": 0, "result": "0x" }]),
            json!([{ "id": 0, "result": "0x" }, { "id": 0, "result": "0x" }]),
            json!([{ "id": 0, "result": "0x" }, { "id": 7, "result": "0x" }]),
            json!([1, 2]),
            json!("0x"),
        ] {
            assert!(parse_response(&batch, wrong.clone()).is_err(), "{wrong}");
        }
    }
}

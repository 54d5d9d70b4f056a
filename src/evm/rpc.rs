//! JSON-RPC on the wire: questions, and strict reading of what a provider answers. Pure.

use std::fmt;

use alloy_primitives::{Address, B256, Bytes, hex};
use futures::future::BoxFuture;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{Block, error::Fault};

/// Carries one request to a provider and brings its answer, within the limits of its configuration.
pub trait Transport: Send + Sync + fmt::Debug {
    /// Sends a JSON-RPC request or batch.
    ///
    /// # Errors
    /// Why there is no answer.
    fn send(&self, request: Value) -> BoxFuture<'_, Result<Value, Fault>>;
}

/// A question to a provider.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
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
pub(super) enum Answer {
    Number(u64),
    Block(Block),
    Bytes(Bytes),
    /// The contract refused or ran out of gas: a fact about the contract, the same at every honest provider.
    Reverted,
    Logs(Vec<Log>),
}

/// A log entry of a contract.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
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

impl Question {
    /// True when every honest provider that knows the block answers the same.
    pub(super) const fn is_pinned(&self) -> bool {
        matches!(self, Self::Call { .. } | Self::Code { .. })
    }

    fn to_json(&self, id: usize) -> Value {
        let pinned = |at: &B256| json!({ "blockHash": at, "requireCanonical": true });
        let (method, params) = match self {
            Self::ChainId => ("eth_chainId", json!([])),
            Self::LatestBlock => ("eth_getBlockByNumber", json!(["latest", false])),
            Self::BlockAt(number) => ("eth_getBlockByNumber", json!([quantity(*number), false])),
            Self::Call { to, data, at, gas } => {
                let mut call = json!({ "data": data, "gas": quantity(*gas) });
                if let Some(to) = to {
                    call["to"] = json!(address(*to));
                }
                ("eth_call", json!([call, pinned(at)]))
            }
            Self::Code { address: of, at } => ("eth_getCode", json!([address(*of), pinned(at)])),
            Self::Logs { from, to, addresses, topics } => {
                let addresses: Vec<String> = addresses.iter().copied().map(address).collect();
                let filter = json!({
                    "fromBlock": quantity(*from), "toBlock": quantity(*to), "address": addresses, "topics": [topics],
                });
                ("eth_getLogs", json!([filter]))
            }
        };
        json!({ "jsonrpc": "2.0", "id": id, "method": method, "params": params })
    }

    fn read(&self, result: Value) -> Result<Answer, Fault> {
        match self {
            Self::ChainId => Ok(Answer::Number(number(&result)?)),
            Self::LatestBlock => Ok(Answer::Block(block(&result)?)),
            Self::BlockAt(wanted) => {
                let block = block(&result)?;
                if block.number == *wanted {
                    Ok(Answer::Block(block))
                } else {
                    Err(Fault::Malformed("another block than asked for"))
                }
            }
            Self::Call { .. } | Self::Code { .. } => Ok(Answer::Bytes(bytes(&result)?)),
            Self::Logs { from, to, addresses, .. } => {
                let entries: Vec<RawLog> =
                    serde_json::from_value(result).map_err(|_| Fault::Malformed("logs"))?;
                let mut logs = Vec::with_capacity(entries.len());
                for entry in entries.into_iter().filter(|entry| !entry.removed) {
                    let log = entry.read()?;
                    if !(*from..=*to).contains(&log.block_number) || !addresses.contains(&log.address) {
                        return Err(Fault::Malformed("logs that were not asked for"));
                    }
                    logs.push(log);
                }
                Ok(Answer::Logs(logs))
            }
        }
    }
}

/// The request for `questions`: an object for one, else a batch.
pub(super) fn request(questions: &[Question]) -> Value {
    match questions {
        [one] => one.to_json(0),
        many => many.iter().enumerate().map(|(id, question)| question.to_json(id)).collect(),
    }
}

/// Reads a response: an answer or a fault for each question.
///
/// # Errors
/// [`Fault`] when the response as a whole is no answer to the request.
pub(super) fn response(questions: &[Question], response: Value) -> Result<Vec<Result<Answer, Fault>>, Fault> {
    let items = match response {
        Value::Array(items) if questions.len() != 1 => items,
        // One object to a batch is an error about all of it, usually a limit.
        Value::Object(item) if questions.len() != 1 => {
            let code = item.get("error").map_or(0, error_code);
            return Err(throttled(code).unwrap_or(Fault::Refused(code)));
        }
        item @ Value::Object(_) => vec![item],
        _ => return Err(Fault::Malformed("neither answer nor batch")),
    };
    if items.len() != questions.len() {
        return Err(Fault::Malformed("a batch of another length"));
    }
    let mut answers: Vec<Option<Result<Answer, Fault>>> = vec![None; questions.len()];
    for item in items {
        let Value::Object(mut item) = item else { return Err(Fault::Malformed("no answer object")) };
        let id = item.get("id").and_then(Value::as_u64).and_then(|id| usize::try_from(id).ok());
        let slot = id.and_then(|id| Some((questions.get(id)?, answers.get_mut(id)?)));
        let Some((question, slot)) = slot else { return Err(Fault::Malformed("unknown id")) };
        if slot.is_some() {
            return Err(Fault::Malformed("an id twice"));
        }
        let outcome = match (item.remove("result"), item.remove("error")) {
            (Some(result), None | Some(Value::Null)) => question.read(result),
            (None | Some(Value::Null), Some(error)) => question.refused(&error),
            _ => Err(Fault::Malformed("neither result nor error, or both")),
        };
        if let Err(fault @ Fault::Throttled { .. }) = outcome {
            return Err(fault);
        }
        *slot = Some(outcome);
    }
    Ok(answers.into_iter().map(|answer| answer.unwrap_or(Err(Fault::Malformed("no answer")))).collect())
}

impl Question {
    /// True when a contract has a say in the answer.
    pub(super) const fn is_call(&self) -> bool {
        matches!(self, Self::Call { .. })
    }

    /// What an error object means. Nodes agree on little but code 3 for a revert; the rest is known by its words.
    fn refused(&self, error: &Value) -> Result<Answer, Fault> {
        let code = error_code(error);
        if let Some(fault) = throttled(code) {
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
            return Err(Fault::NoBlock);
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
        if self.is_call() && (code == 3 || says(&ran)) {
            return Ok(Answer::Reverted);
        }
        Err(Fault::Refused(code))
    }
}

fn error_code(error: &Value) -> i64 {
    error.get("code").and_then(Value::as_i64).unwrap_or(0)
}

/// -32005 is "limit exceeded" (EIP-1474); some answer 429 inside a 200.
fn throttled(code: i64) -> Option<Fault> {
    matches!(code, -32005 | 429).then_some(Fault::Throttled { retry_after_ms: 1_000 })
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawLog {
    address: Address,
    topics: Vec<B256>,
    data: Value,
    block_number: Value,
    block_hash: B256,
    log_index: Value,
    #[serde(default)]
    removed: bool,
}

impl RawLog {
    fn read(self) -> Result<Log, Fault> {
        Ok(Log {
            address: self.address,
            topics: self.topics,
            data: bytes(&self.data)?,
            block_number: number(&self.block_number)?,
            block_hash: self.block_hash,
            index: number(&self.log_index)?,
        })
    }
}

fn block(value: &Value) -> Result<Block, Fault> {
    if value.is_null() {
        return Err(Fault::NoBlock);
    }
    let member = |name: &str| value.get(name).ok_or(Fault::Malformed("a block without a member"));
    let hash = member("hash")?.as_str().ok_or(Fault::Malformed("a block's hash"))?;
    Ok(Block {
        number: number(member("number")?)?,
        hash: hash.parse().map_err(|_| Fault::Malformed("a block's hash"))?,
        timestamp_s: number(member("timestamp")?)?,
    })
}

/// A quantity: `0x`, then one to sixteen hex digits.
fn number(value: &Value) -> Result<u64, Fault> {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).unwrap_or_default();
    if digits.is_empty() || digits.len() > 16 || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(Fault::Malformed("a quantity"));
    }
    u64::from_str_radix(digits, 16).map_err(|_| Fault::Malformed("a quantity"))
}

/// Data: `0x`, then an even number of hex digits.
fn bytes(value: &Value) -> Result<Bytes, Fault> {
    let digits = value.as_str().and_then(|text| text.strip_prefix("0x")).ok_or(Fault::Malformed("data"))?;
    hex::decode(digits).map(Bytes::from).map_err(|_| Fault::Malformed("data"))
}

fn quantity(number: u64) -> String {
    format!("{number:#x}")
}

fn address(address: Address) -> String {
    format!("{address:#x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn call() -> Question {
        Question::Call { to: Some(Address::ZERO), data: Bytes::from_static(&[1]), at: B256::ZERO, gas: 5 }
    }

    fn one(question: Question, body: Value) -> Result<Answer, Fault> {
        response(&[question], body)?.remove(0)
    }

    #[test]
    fn a_question_pins_its_block() {
        let sent = request(&[call()]);
        assert_eq!(sent["params"][1]["requireCanonical"], true);
        assert_eq!(sent["params"][1]["blockHash"], format!("0x{}", "0".repeat(64)));
        assert_eq!(sent["params"][0]["gas"], "0x5");
        assert_eq!(request(&[call(), Question::ChainId])[1]["method"], "eth_chainId");
    }

    #[test]
    fn an_answer_is_read_strictly() {
        let answer = |result: Value| json!({ "jsonrpc": "2.0", "id": 0, "result": result });
        assert_eq!(one(call(), answer(json!("0x01ff"))), Ok(Answer::Bytes(Bytes::from_static(&[1, 255]))));
        assert_eq!(one(call(), answer(json!("0x"))), Ok(Answer::Bytes(Bytes::new())));
        for wrong in [json!("01"), json!("0x1"), json!("0xzz"), json!(1), json!(null), json!({})] {
            assert!(matches!(one(call(), answer(wrong.clone())), Err(Fault::Malformed(_))), "{wrong}");
        }
        for wrong in [json!("0x"), json!("0x11111111111111111"), json!("1"), json!("0x+1"), json!(-1)] {
            assert!(
                matches!(one(Question::ChainId, answer(wrong.clone())), Err(Fault::Malformed(_))),
                "{wrong}"
            );
        }
        assert_eq!(one(Question::LatestBlock, answer(json!(null))), Err(Fault::NoBlock));
        let other = json!({ "number": "0x2", "hash": B256::ZERO, "timestamp": "0x1" });
        assert!(matches!(one(Question::BlockAt(1), answer(other)), Err(Fault::Malformed(_))));
    }

    #[test]
    fn an_error_is_told_apart() {
        let error =
            |code: i64, message: &str| json!({ "id": 0, "error": { "code": code, "message": message } });
        for (code, message, wanted) in [
            (3, "execution reverted: no such token", Ok(Answer::Reverted)),
            (-32000, "out of gas: gas required exceeds", Ok(Answer::Reverted)),
            (-32000, "header not found", Err(Fault::NoBlock)),
            (-32005, "limit exceeded", Err(Fault::Throttled { retry_after_ms: 1_000 })),
            (-32000, "execution aborted (timeout = 5s)", Err(Fault::Refused(-32000))),
        ] {
            assert_eq!(one(call(), error(code, message)), wanted, "{message}");
        }
        // Only a call can revert.
        assert_eq!(one(Question::ChainId, error(3, "reverted")), Err(Fault::Refused(3)));
    }

    #[test]
    fn a_batch_has_to_be_complete() {
        let batch = [call(), Question::ChainId];
        let good = json!([{ "id": 1, "result": "0x1" }, { "id": 0, "result": "0x" }]);
        let read = response(&batch, good).unwrap();
        assert_eq!(read[1], Ok(Answer::Number(1)));
        for wrong in [
            json!([]),
            json!({ "id": 0, "result": "0x" }),
            json!([{ "id": 0, "result": "0x" }]),
            json!([{ "id": 0, "result": "0x" }, { "id": 0, "result": "0x" }]),
            json!([{ "id": 0, "result": "0x" }, { "id": 7, "result": "0x" }]),
            json!([1, 2]),
            json!("0x"),
        ] {
            assert!(response(&batch, wrong.clone()).is_err(), "{wrong}");
        }
    }
}

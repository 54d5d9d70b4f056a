//! Gates: the owner's rule of who may play a medium, the playback sessions it let in, and what happened at it.
//!
//! Addresses are written as EIP-55 asks; amounts and token ids are unsigned decimal numbers of 256 bits, as text, because JSON has
//! no integers of that size.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BusEvent, EventContext,
    ids::{KeyId, MediaId, PlaybackId, SessionId},
};

/// Most addresses in all lists of a rule.
pub const ADDRESSES_MAX: usize = 1_000;
/// Most playback sessions a token can be given.
pub const SESSIONS_MAX: u32 = 100;

/// A decimal number without leading zeros.
const NUMBER: &str = "^(0|[1-9][0-9]{0,77})$";
/// The same above 0.
const AMOUNT: &str = "^[1-9][0-9]{0,77}$";

/// How an address is described: EIP-55 asks for more than a regular expression can say, hence the format.
#[derive(Debug)]
pub struct Eip55Schema;

impl JsonSchema for Eip55Schema {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Address".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "string", "format": "eip55", "pattern": "^0x[0-9a-fA-F]{40}$" })
    }
}

/// Who may play: a tree of conditions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
#[schemars(example = serde_json::json!({ "kind": "erc721_owner", "chain_id": 1, "contract": "0xfB6916095ca1df60bB79Ce92cE3Ea74c37c5d359" }))]
#[schemars(rename = "Rule")]
pub enum GateRule {
    /// Everybody, signed in or not.
    Public {},
    /// One of these wallets.
    AllowList {
        /// Addresses, EIP-55.
        #[schemars(with = "Vec<Eip55Schema>", length(min = 1, max = ADDRESSES_MAX))]
        addresses: Vec<String>,
        /// The chain on which these are (EIP-155 number): needed where they are contracts, since the same address on another chain may
        /// be somebody else's. Absent, they are accounts whose keys speak for them.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1))]
        chain_id: Option<u64>,
    },
    /// Owns a token of an ERC-721 contract.
    Erc721Owner {
        /// EIP-155 chain id.
        #[schemars(range(min = 1))]
        chain_id: u64,
        /// Contract address, EIP-55.
        #[schemars(with = "Eip55Schema")]
        contract: String,
        /// This token only; any token when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(regex(pattern = NUMBER))]
        token_id: Option<String>,
        /// Playback sessions at a time per token, or per wallet without `token_id`; 1 when absent.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(range(min = 1, max = SESSIONS_MAX))]
        sessions_max: Option<u32>,
    },
    /// Holds at least so many of an ERC-1155 token.
    Erc1155Balance {
        /// EIP-155 chain id.
        #[schemars(range(min = 1))]
        chain_id: u64,
        /// Contract address, EIP-55.
        #[schemars(with = "Eip55Schema")]
        contract: String,
        /// The token.
        #[schemars(regex(pattern = NUMBER))]
        token_id: String,
        /// Least balance; 1 when absent, never 0.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        #[schemars(regex(pattern = AMOUNT))]
        balance_min: Option<String>,
    },
    /// Holds at least so much of an ERC-20 token.
    Erc20Balance {
        /// EIP-155 chain id.
        #[schemars(range(min = 1))]
        chain_id: u64,
        /// Contract address, EIP-55.
        #[schemars(with = "Eip55Schema")]
        contract: String,
        /// Least balance in the token's smallest unit, never 0.
        #[schemars(regex(pattern = AMOUNT))]
        balance_min: String,
    },
    /// All of these.
    All {
        /// The conditions, at least one.
        #[schemars(length(min = 1))]
        rules: Vec<Self>,
    },
    /// One of these.
    Any {
        /// The conditions, at least one.
        #[schemars(length(min = 1))]
        rules: Vec<Self>,
    },
    /// Not this. What can't be established stays so: it never grants.
    Not {
        /// The condition.
        rule: Box<Self>,
    },
}

/// A rule as somebody sent it: JSON in which every condition is an object with its kind by name.
///
/// The derived reader of [`GateRule`] would take a list for an object, and a number for a name: `0` and `["public"]` would open a
/// gate. That no member is there twice has to be checked by the parser of the text: a reader of values sees only the last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RuleInput(pub GateRule);

impl<'de> Deserialize<'de> for RuleInput {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let value = serde_json::Value::deserialize(deserializer)?;
        let mut conditions = vec![&value];
        while let Some(condition) = conditions.pop() {
            if !condition.get("kind").is_some_and(serde_json::Value::is_string) {
                return Err(serde::de::Error::custom("a condition is an object with its `kind` by name"));
            }
            conditions
                .extend(condition.get("rules").and_then(serde_json::Value::as_array).into_iter().flatten());
            conditions.extend(condition.get("rule"));
        }
        GateRule::deserialize(value).map(Self).map_err(serde::de::Error::custom)
    }
}

/// The gate in an owner's document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Gate")]
pub struct MediaGate {
    /// Counts the changes of the gate; never repeats, so that it can serve as an entity tag.
    pub epoch: u64,
    /// The rule; absent: the owner alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<GateRule>,
    /// SHA-256 of the rule's canonical form, lower-case hex; empty without a rule.
    #[serde(default)]
    pub rule_digest: String,
    /// Unix time in milliseconds.
    pub changed_at_ms: u64,
}

/// Why a gate is open or closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Code")]
pub enum GateReasonCode {
    /// Open: the viewer owns the medium or administers the service.
    Owner,
    /// Open: the rule holds.
    RuleHolds,
    /// Closed: the owner named no rule, so the medium is private.
    Private,
    /// Closed: there is no such medium any more.
    Gone,
    /// Closed: the rule needs a wallet and nobody signed in with one.
    WalletNeeded,
    /// Closed: the wallet is not on the list.
    NotListed,
    /// Closed: the wallet does not own the token.
    NotOwner,
    /// Closed: the wallet holds too little.
    BalanceLow,
    /// Closed: what the rule excludes is the case.
    Excluded,
    /// Closed: true at the newest block, not yet at the confirmed one.
    NotConfirmed,
    /// Closed: the contract refused the question or burnt its gas; a token that does not exist answers so.
    ContractFailed,
    /// Closed: the contract's answer is not what its standard says.
    ContractMalformed,
    /// Closed: there is no contract at the address.
    ContractAbsent,
    /// Closed: too few nodes of the chain answered in time.
    ChainUnavailable,
    /// Closed: the nodes of the chain contradict each other.
    ChainDisagrees,
    /// Closed: the chain is not configured here.
    ChainUnknown,
    /// Closed: the rule can't be understood by this version.
    RuleInvalid,
    /// Closed: a newer session with the same token took its place, or one of the same client or wallet that had too many.
    Displaced,
    /// Closed: the session ended.
    Expired,
    /// Closed: the session is not known, or not for this medium.
    SessionUnknown,
    /// Closed: the session was ended, or the sign-in or API key that opened it.
    Ended,
}

/// The credential that opened a playback session, which ends with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Opener")]
pub enum PlaybackCredential {
    /// The session of a wallet that signed in.
    SignIn(SessionId),
    /// An API key.
    Key(KeyId),
}

/// What a viewer may do beside what gates allow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Rights")]
pub enum ViewerRights {
    /// Nothing.
    None,
    /// Plays what it owns.
    Owner,
    /// Plays everything.
    Admin,
}

/// A block of a chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Block")]
pub struct ChainBlock {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Height.
    pub number: u64,
    /// Hash, `0x` and 64 hex digits.
    pub hash: String,
}

/// One playback session in the bucket `grants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Session")]
pub struct PlaybackSession {
    /// The session; a path token names it.
    pub playback_id: PlaybackId,
    /// The only medium it plays.
    pub media_id: MediaId,
    /// Owner of the medium.
    pub owner: String,
    /// Who plays: a principal's name.
    pub viewer: String,
    /// The wallet the viewer signed in with, EIP-55.
    #[serde(default)]
    pub wallet: Option<String>,
    /// The chain that the wallet belongs to, since its contract there spoke for it; absent when its key did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub wallet_chain_id: Option<u64>,
    /// What the viewer may do beside what gates allow.
    pub rights: ViewerRights,
    /// The credential it was opened with; none for somebody who showed none.
    #[serde(default)]
    pub opener: Option<PlaybackCredential>,
    /// Epoch of the gate it was let in by; 0 when the medium had none.
    pub gate_epoch: u64,
    /// Digest of the rule it was let in by; empty for the owner.
    pub rule_digest: String,
    /// Keys of the slots it takes, in the same bucket.
    #[serde(default)]
    pub slots: Vec<String>,
    /// Contracts whose transfers may end it.
    #[serde(default)]
    pub watches: Vec<WatchedContract>,
    /// Newest blocks the last evaluation read.
    #[serde(default)]
    pub blocks: Vec<ChainBlock>,
    /// Unix time in milliseconds.
    pub opened_at_ms: u64,
    /// Unix time in milliseconds until which nobody needs to look again.
    pub granted_until_ms: u64,
    /// Unix time in milliseconds at which the session ends, whatever the gate says.
    pub expires_at_ms: u64,
    /// Unix time in milliseconds at which the session ends unless it is used before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unused_until_ms: Option<u64>,
    /// Unix time in milliseconds at which it was played first; absent until then.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub played_at_ms: Option<u64>,
    /// Why it is over, once it is.
    #[serde(default)]
    pub revoked: Option<GateReasonCode>,
}

impl PlaybackSession {
    /// When it ends unless it is used before, as Unix time in milliseconds.
    pub fn ends_at_ms(&self) -> u64 {
        self.expires_at_ms.min(self.unused_until_ms.unwrap_or(u64::MAX))
    }
}

impl crate::KvRecord for PlaybackSession {
    const BUCKET: &'static str = "grants";
    fn key(&self) -> String {
        self.playback_id.to_string()
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.ends_at_ms())
    }
}

/// A contract whose transfers matter to a session.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Watch")]
pub struct WatchedContract {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// Contract address, EIP-55.
    pub contract: String,
}

/// Who plays with one token, in the bucket `grants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Slot")]
pub struct TokenSlot {
    /// Its key: `slot.` and a digest of chain, contract and token.
    pub key: String,
    /// Sessions that hold it, oldest first.
    pub holders: Vec<PlaybackId>,
    /// Unix time in milliseconds at which the last of them ends.
    pub expires_at_ms: u64,
}

impl crate::KvRecord for TokenSlot {
    const BUCKET: &'static str = "grants";
    fn key(&self) -> String {
        self.key.clone()
    }
    fn expires_at_ms(&self) -> Option<u64> {
        Some(self.expires_at_ms)
    }
}

/// How far the watcher read a chain, in the bucket `grants`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Cursor")]
pub struct ChainCursor {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// The newest blocks it read, oldest first, to find where a reorganised chain branched off.
    pub blocks: Vec<ChainBlock>,
}

impl crate::KvRecord for ChainCursor {
    const BUCKET: &'static str = "grants";
    fn key(&self) -> String {
        format!("cursor.{}", self.chain_id)
    }
}

macro_rules! gate_event {
    ($name:ident, $verb:literal) => {
        impl BusEvent for $name {
            const ENTITY: &'static str = "gate";
            const VERB: &'static str = $verb;
            const ONCE: bool = false;
            fn entity_id(&self) -> String {
                self.media_id.to_string()
            }
            fn event_context(&self) -> EventContext {
                EventContext { owner: Some(self.owner.clone()), media_id: Some(self.media_id), job_id: None }
            }
        }
    };
}

/// `evt.gate.changed`: the owner set or removed the rule.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Changed")]
pub struct GateChanged {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Who changed it.
    pub changed_by: String,
    /// Epoch of the gate from now on.
    pub gate_epoch: u64,
    /// Digest of the rule; empty: the owner alone.
    pub rule_digest: String,
}
gate_event!(GateChanged, "changed");

/// `evt.gate.granted`: a playback session was opened. What viewers opened who did not sign in is summed in `evt.view.summed`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Granted")]
pub struct GateGranted {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// The session.
    pub playback_id: PlaybackId,
    /// Who plays.
    pub viewer: String,
    /// Digest of the rule; empty for the owner.
    pub rule_digest: String,
    /// Newest blocks that were read.
    pub blocks: Vec<ChainBlock>,
    /// Why.
    pub code: GateReasonCode,
}
gate_event!(GateGranted, "granted");

/// `evt.gate.denied`: somebody was not let in. The same refusal of the same viewer is told once in ten minutes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Denied")]
pub struct GateDenied {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// Who wanted to play.
    pub viewer: String,
    /// Digest of the rule; empty: there is none.
    pub rule_digest: String,
    /// Newest blocks that were read.
    pub blocks: Vec<ChainBlock>,
    /// Why.
    pub code: GateReasonCode,
    /// Refusals of anybody since the event before this one that no event tells, since there were too many; absent: none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub untold: Option<u64>,
}
gate_event!(GateDenied, "denied");

/// `evt.gate.revoked`: a playback session is over before its time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Revoked")]
pub struct GateRevoked {
    /// The medium.
    pub media_id: MediaId,
    /// Its owner.
    pub owner: String,
    /// The session.
    pub playback_id: PlaybackId,
    /// Who played.
    pub viewer: String,
    /// Digest of the rule; empty for the owner.
    pub rule_digest: String,
    /// Newest blocks that were read.
    pub blocks: Vec<ChainBlock>,
    /// Why.
    pub code: GateReasonCode,
}
gate_event!(GateRevoked, "revoked");

/// What is wrong with what a chain says.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "Doubt")]
pub enum ChainDataIssue {
    /// Its providers contradict each other.
    Disagreement,
    /// A rule names a contract, and there is no code at its address.
    ContractAbsent,
}

/// `evt.gate.doubted`: what a chain says can't be relied on, and somebody should look why. The same doubt is told once in ten
/// minutes. The last token of the subject is the chain's id.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Doubted")]
pub struct GateDoubted {
    /// EIP-155 chain id.
    pub chain_id: u64,
    /// What is wrong.
    pub what: ChainDataIssue,
    /// The contract that is not there, EIP-55.
    #[serde(default)]
    pub contract: Option<String>,
    /// Providers that contradict the others, or each other, by their places in the settings, from 1.
    #[serde(default)]
    pub providers: Vec<String>,
}

impl BusEvent for GateDoubted {
    const ENTITY: &'static str = "gate";
    const VERB: &'static str = "doubted";
    const ONCE: bool = false;
    fn entity_id(&self) -> String {
        self.chain_id.to_string()
    }
    fn event_context(&self) -> EventContext {
        EventContext::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_a_name_and_no_number() {
        for text in [
            r#"{"kind":0}"#,
            r#"{"kind":"not","rule":{"kind":0}}"#,
            r#"{"kind":"any","rules":[{"kind":"public"},{"kind":0}]}"#,
            r#"{"kind":null}"#,
            r#"{"kind":"nothing"}"#,
            r#"{"kind":"public","more":1}"#,
            r#"["public"]"#,
            r#"{"kind":"any","rules":[["public"]]}"#,
            r#"{"kind":"not","rule":["public"]}"#,
            r#"{"kind":"any","rules":{"0":{"kind":"public"}}}"#,
            "{}",
            "[]",
        ] {
            assert!(serde_json::from_str::<RuleInput>(text).is_err(), "{text}");
        }
        let RuleInput(rule) = serde_json::from_str(r#"{"kind":"not","rule":{"kind":"public"}}"#).unwrap();
        assert_eq!(rule, GateRule::Not { rule: Box::new(GateRule::Public {}) });
        assert_eq!(
            rmp_serde::from_slice::<GateRule>(&rmp_serde::to_vec_named(&rule).unwrap()).unwrap(),
            rule
        );
    }
}

//! Webhooks: what is to be sent where, how far that is, and what people ask for.
//!
//! A hook has three records in the bucket `hooks`, each with writers of its own: [`HookRecord`] is what its owner says, [`HookProgress`] is
//! how far the keeper is, and [`HookRequests`] is what people ask the keeper to do once. What was sent and answered is no state: it lies in
//! the stream HOOKLOG ([`crate::hook_delivery`]).
//!
//! Limits: an account has at most [`HOOKS_MAX`] hooks; the numbers below bound each record.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;

use crate::{
    KvRecord,
    ids::{DeliveryId, HookId, JobId, MediaId},
};

/// Most hooks of one account.
pub const HOOKS_MAX: usize = 20;

/// Longest name of a hook, in characters.
pub const NAME_CHARS_MAX: usize = 100;

/// Longest address of a hook, in bytes.
pub const URL_BYTES_MAX: usize = 2_048;

/// Most kinds of events that a hook names.
pub const TYPES_MAX: usize = 32;

/// Most secrets that sign at a time: the newest, and those that it takes the place of.
pub const SECRETS_MAX: usize = 4;

/// Most media of a hook that wait for a delivery at a time; when there are more, the hook reads no further.
pub const LANES_MAX: usize = 256;

/// Most events of a hook that wait for their delivery, over all media; when there are more, the hook reads no further.
pub const WAITING_MAX: usize = 1_024;

/// Most tests and redeliveries of a hook that are asked for and not done yet.
pub const ASKED_MAX: usize = 16;

/// How long a removed hook stays as a tombstone, in milliseconds: longer than what was logged of it, so that a keeper that was away finds
/// what it has to remove.
const REMOVED_KEPT_MS: u64 = 8 * 24 * 3_600_000;

/// How long what is asked of a hook waits, in milliseconds: of one that is paused, or that nobody has any more.
const ASKED_KEPT_MS: u64 = 180 * 24 * 3_600_000;

/// How long the record stays once all is done that was asked for, in milliseconds.
const DONE_KEPT_MS: u64 = 24 * 3_600_000;

/// A secret by which deliveries are signed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookSecret {
    /// Its bytes.
    #[schemars(with = "Vec<u8>")]
    pub bytes: ByteBuf,
    /// Unix time in milliseconds at which it was made.
    pub made_at_ms: u64,
    /// Unix time in milliseconds until which it signs beside the newest; absent of the newest.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signs_until_ms: Option<u64>,
}

/// Without its bytes.
impl fmt::Debug for HookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("HookSecret")
            .field("made_at_ms", &self.made_at_ms)
            .field("signs_until_ms", &self.signs_until_ms)
            .finish_non_exhaustive()
    }
}

/// Why a hook sends nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HookPauseReason {
    /// A person paused it.
    Person,
    /// Its receiver answered that it is gone (410).
    Gone,
    /// Nothing but failures came of its deliveries for days.
    Failing,
    /// Something that only newer versions know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// Since when a hook sends nothing, and why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookPause {
    /// Unix time in milliseconds.
    pub at_ms: u64,
    /// Why.
    pub reason: HookPauseReason,
    /// The account that did; absent where the keeper did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
}

/// A place in EVENTS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookPosition {
    /// When the stream was created, as Unix time in milliseconds: sequences of another one of the same name mean nothing here.
    pub created_at_ms: u64,
    /// The last sequence before what comes next; 0 for all.
    pub sequence: u64,
}

/// One hook in the bucket `hooks`, key `hook.<owner_key>.<hook_id>`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookRecord {
    /// The hook.
    pub hook_id: HookId,
    /// Whose it is, and whose events it sends.
    pub owner: String,
    /// The first 32 hexadecimal digits of the owner's SHA-256, for the key.
    pub owner_key: String,
    /// The account that made it.
    pub created_by: String,
    /// What people call it; may be empty.
    pub name: String,
    /// Where events are sent. Its query may hold a secret.
    pub url: String,
    /// Kinds of events that are sent: an entity such as `media`, or one kind such as `media.ready`; empty for all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<String>,
    /// Only events about this medium.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_id: Option<MediaId>,
    /// Only events about this job.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub job_id: Option<JobId>,
    /// True when it sends the events of all owners: made by an administrator.
    #[serde(default)]
    pub is_for_all: bool,
    /// What signs, the oldest first.
    pub secrets: Vec<HookSecret>,
    /// Where it begins.
    pub begins: HookPosition,
    /// Unix time in milliseconds at which it was made.
    pub created_at_ms: u64,
    /// Since when it sends nothing; absent while it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub paused: Option<HookPause>,
    /// Unix time in milliseconds at which it was resumed last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_at_ms: Option<u64>,
    /// Unix time in milliseconds at which it was removed: from then on it is a tombstone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub removed_at_ms: Option<u64>,
    /// True of a tombstone whose hook lies below the key of another owner.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_given_away: bool,
    /// Unix time in milliseconds from which on its log is shown: what was sent before may be of others than its owner.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub log_from_ms: Option<u64>,
}

impl HookRecord {
    /// The secrets that sign at `now_ms`, the newest first.
    pub fn signing_secrets(&self, now_ms: u64) -> impl Iterator<Item = &HookSecret> {
        let signs =
            move |secret: &&HookSecret| secret.signs_until_ms.is_none_or(|until_ms| now_ms < until_ms);
        self.secrets.iter().rev().filter(signs)
    }
}

impl KvRecord for HookRecord {
    const BUCKET: &'static str = "hooks";

    fn key(&self) -> String {
        hook_key(&self.owner_key, &self.hook_id.to_string())
    }

    fn expires_at_ms(&self) -> Option<u64> {
        self.removed_at_ms.map(|removed_ms| removed_ms.saturating_add(REMOVED_KEPT_MS))
    }

    fn is_removed(&self) -> bool {
        self.removed_at_ms.is_some()
    }
}

/// Key of a hook; either may be `*` where a filter is wanted.
pub fn hook_key(owner_key: &str, hook_id: &str) -> String {
    format!("hook.{owner_key}.{hook_id}")
}

/// Key of how far a hook is.
pub fn hook_progress_key(hook_id: &str) -> String {
    format!("progress.{hook_id}")
}

/// Key of what people ask of a hook.
pub fn hook_requests_key(hook_id: &str) -> String {
    format!("requests.{hook_id}")
}

/// An event that waits for its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct WaitingEvent {
    /// Its sequence in EVENTS.
    #[serde(rename = "n")]
    pub sequence: u64,
    /// Unix time in milliseconds since which it waits.
    #[serde(rename = "t")]
    pub since_ms: u64,
}

/// The events of one medium that wait: they are delivered one after the other.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookLane {
    /// The medium; absent for events that are about none, which have one lane together.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_id: Option<MediaId>,
    /// What waits, in the order of EVENTS; never empty.
    pub waiting: Vec<WaitingEvent>,
    /// How often the first of them was tried in vain.
    #[serde(default)]
    pub tries: u32,
    /// Unix time in milliseconds at which it is tried next.
    #[serde(default)]
    pub next_try_at_ms: u64,
    /// What came of the last try: a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// True when the first of them was brought forward, because its receiver was there again.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_expedited: bool,
}

/// How far a hook is, in the bucket `hooks`, key `progress.<hook_id>`. The keeper that holds the lease writes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookProgress {
    /// The hook.
    pub hook_id: HookId,
    /// Up to here EVENTS was looked at: what is wanted of it was delivered, or waits in a lane.
    pub position: HookPosition,
    /// What waits, by medium.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub lanes: Vec<HookLane>,
    /// True when so much waits that EVENTS is read no further.
    #[serde(default)]
    pub is_full: bool,
    /// Unix time in milliseconds since which nothing but failures came of deliveries.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since_ms: Option<u64>,
    /// Unix time in milliseconds before which nothing is sent: the receiver asked for it (`Retry-After`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before_ms: Option<u64>,
    /// [`HookRecord::resumed_at_ms`] as it was when tries began anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resumed_at_ms: Option<u64>,
}

impl HookProgress {
    /// That of a hook of which nothing was delivered yet.
    pub const fn new(hook_id: HookId, position: HookPosition) -> Self {
        Self {
            hook_id,
            position,
            lanes: Vec::new(),
            is_full: false,
            failing_since_ms: None,
            not_before_ms: None,
            resumed_at_ms: None,
        }
    }

    /// Events that wait.
    pub fn waiting_count(&self) -> usize {
        self.lanes.iter().map(|lane| lane.waiting.len()).sum()
    }

    /// Unix time in milliseconds since which the oldest of them waits.
    pub fn oldest_since_ms(&self) -> Option<u64> {
        self.lanes.iter().flat_map(|lane| &lane.waiting).map(|event| event.since_ms).min()
    }
}

impl KvRecord for HookProgress {
    const BUCKET: &'static str = "hooks";

    fn key(&self) -> String {
        hook_progress_key(&self.hook_id.to_string())
    }
}

/// What is to be sent once, out of turn.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum AskedContent {
    /// A made-up event, to see what the receiver says.
    Test,
    /// An event that was sent before.
    Event {
        /// Its sequence in EVENTS.
        sequence: u64,
        /// The medium that it is about.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_id: Option<MediaId>,
        /// Its id: another event that has the sequence is not sent. Absent where versions before asked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        event_id: Option<String>,
    },
    /// Something that only newer versions know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// A delivery that somebody asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AskedDelivery {
    /// How the log calls it.
    pub delivery_id: DeliveryId,
    /// What is sent.
    #[serde(flatten)]
    pub content: AskedContent,
    /// Unix time in milliseconds at which it was asked for.
    pub asked_at_ms: u64,
}

/// Everything behind a place in EVENTS is to be sent again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AskedReplay {
    /// The place.
    pub position: HookPosition,
    /// Unix time in milliseconds at which it was asked for.
    pub asked_at_ms: u64,
}

/// What people ask of a hook, in the bucket `hooks`, key `requests.<hook_id>`: the ingress adds, the keeper takes away what is done.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookRequests {
    /// The hook.
    pub hook_id: HookId,
    /// What is to be sent once.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub deliveries: Vec<AskedDelivery>,
    /// From where everything is to be sent again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub replay: Option<AskedReplay>,
    /// Unix time in milliseconds at which something was done last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub done_at_ms: Option<u64>,
}

impl HookRequests {
    /// Nothing is asked for.
    pub const fn new(hook_id: HookId) -> Self {
        Self { hook_id, deliveries: Vec::new(), replay: None, done_at_ms: None }
    }
}

impl KvRecord for HookRequests {
    const BUCKET: &'static str = "hooks";

    fn key(&self) -> String {
        hook_requests_key(&self.hook_id.to_string())
    }

    fn expires_at_ms(&self) -> Option<u64> {
        let asked_ms = self.deliveries.iter().map(|asked| asked.asked_at_ms);
        let newest_ms = asked_ms.chain(self.replay.map(|replay| replay.asked_at_ms)).max();
        let (last_ms, kept_ms) = match newest_ms {
            Some(newest_ms) => (newest_ms, ASKED_KEPT_MS),
            None => (self.done_at_ms?, DONE_KEPT_MS),
        };
        Some(last_ms.saturating_add(kept_ms))
    }
}

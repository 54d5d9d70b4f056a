//! What was sent to the receiver of a hook, and what it answered: one message of the stream HOOKLOG for each try.
//!
//! Limits: the body that was sent is kept up to [`BODY_KEPT_BYTES_MAX`], the answer up to [`ANSWER_KEPT_BYTES_MAX`].

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::ids::{DeliveryId, HookId, MediaId};

/// Largest body that is kept whole, in bytes; of a larger one nothing is.
pub const BODY_KEPT_BYTES_MAX: usize = 8 * 1024;

/// Most bytes of an answer that are kept.
pub const ANSWER_KEPT_BYTES_MAX: usize = 4 * 1024;

/// Header of a message of HOOKLOG: the delivery, so that a list is read without payloads.
pub const DELIVERY_ID_HEADER: &str = "sg-delivery-id";

/// Why something is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryTrigger {
    /// It happened.
    Event,
    /// Somebody asked for it again.
    Redelivery,
    /// Somebody wants to see what the receiver says.
    Test,
    /// Something that only newer versions know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// What a try came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum DeliveryOutcome {
    /// The receiver took it: 2xx.
    Delivered,
    /// It did not, or could not be asked.
    Failed,
    /// It says that it is gone: 410. The hook is paused.
    Gone,
    /// Something that only newer versions know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

/// One try.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct HookDelivery {
    /// Names it.
    pub delivery_id: DeliveryId,
    /// The hook.
    pub hook_id: HookId,
    /// Why it was sent.
    pub trigger: DeliveryTrigger,
    /// `webhook-id`: the event's own id, the same at each try.
    pub event_id: String,
    /// Kind of the event.
    pub event_type: String,
    /// Its sequence in EVENTS; absent of a test.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sequence: Option<u64>,
    /// The medium that it is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_id: Option<MediaId>,
    /// Which try it was, from 1.
    pub attempt: u32,
    /// Unix time in milliseconds at which it began.
    pub sent_at_ms: u64,
    /// How long it took, in milliseconds.
    pub took_ms: u64,
    /// Where it was sent: scheme and host.
    pub url: String,
    /// What it came to.
    pub outcome: DeliveryOutcome,
    /// The same as a stable code; absent where it was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub code: Option<String>,
    /// The same for people; absent where it was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Status of the answer; absent without one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// What was sent, as text of JSON; absent when it was larger than is kept, or is about a medium that was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub body: Option<String>,
    /// What was answered, as far as it is kept and is text; absent where nothing was, or it is about a medium that was removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub answer: Option<String>,
    /// Unix time in milliseconds at which it is tried again; absent where it is not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub next_try_at_ms: Option<u64>,
}

//! Rate limits: what replicas share about them in the bucket `limits`, and what is published when one is exceeded.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BusEvent, EventContext, ids::RequestId};

/// Most replicas a [`IngressReplicas`] record holds.
pub const REPLICAS_MAX: usize = 256;

/// The ingress replicas that are alive; they share the rates evenly.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Replicas")]
pub struct IngressReplicas {
    /// By name, our own: Unix time in milliseconds until which the replica counts unless it renews.
    pub expires_at_ms: BTreeMap<String, u64>,
}

impl IngressReplicas {
    /// Its key; there is one record.
    pub const KEY: &'static str = "replicas";
}

impl crate::KvRecord for IngressReplicas {
    const BUCKET: &'static str = "limits";
    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

/// How many [`RateLimitExceeded`] events the current minute has had over all replicas: what keeps a flood of requests from becoming a flood
/// of events.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(
    rename = "Reported",
    description = "How many [`Exceeded`] events the current minute has had over all replicas: what keeps a flood of requests from becoming a flood\nof events."
)]
pub struct RateLimitEventCounter {
    /// Unix time in milliseconds at which the minute began.
    pub minute_started_at_ms: u64,
    /// Events published in it.
    pub events_count: u32,
    /// Refused requests in it that no event tells of.
    pub untold_count: u64,
}

impl RateLimitEventCounter {
    /// Its key; there is one record.
    pub const KEY: &'static str = "reported";
}

impl crate::KvRecord for RateLimitEventCounter {
    const BUCKET: &'static str = "limits";
    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

/// `evt.limit.exceeded`: requests were refused because there were too many. There are only so many of these events a minute; all
/// refusals are counted in metrics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Exceeded")]
pub struct RateLimitExceeded {
    /// Names this event.
    pub request_id: RequestId,
    /// Group of endpoints: `api`, `upload`, `streaming`, `metadata`, `cache`, `auth`, `worker`, `transcoder` or `monitor`.
    pub group: String,
    /// Whose bucket was empty: `client` (an address) or `principal`.
    pub scope: String,
    /// The principal, where one was signed in.
    pub owner: Option<String>,
    /// Refused requests that this event stands for.
    pub denied_count: u64,
}

impl BusEvent for RateLimitExceeded {
    const ENTITY: &'static str = "limit";
    const VERB: &'static str = "exceeded";
    const ONCE: bool = true;
    fn entity_id(&self) -> String {
        self.request_id.to_string()
    }
    fn event_context(&self) -> EventContext {
        EventContext { owner: self.owner.clone(), ..EventContext::default() }
    }
}

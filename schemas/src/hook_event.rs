//! What becomes history of webhooks. No hook sends any of these: a hook that failed would otherwise feed itself.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    BusEvent, EventContext,
    hook::{HookPauseReason, HookPosition},
    ids::{DeliveryId, HookId, JobId, MediaId},
};

/// The entity of these events.
pub const HOOK: &str = "hook";

/// Why a hook leaves events out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum HookSkipReason {
    /// The event was tried for as long as events are tried.
    GivenUp,
    /// It went from EVENTS by its age before it was its turn.
    Expired,
    /// EVENTS was made anew: what waited is not there any more.
    StreamReset,
    /// Something that only newer versions know.
    #[serde(other)]
    #[schemars(skip)]
    Unknown,
}

macro_rules! hook_event {
    ($(#[$doc:meta])* $name:ident, $verb:literal { $($(#[$field_attr:meta])* $field:ident: $type:ty),* $(,)? }) => {
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        $(#[$doc])*
        pub struct $name {
            /// The hook.
            pub hook_id: HookId,
            /// Whose it is.
            pub owner: String,
            $($(#[$field_attr])* pub $field: $type,)*
        }

        impl BusEvent for $name {
            const ENTITY: &'static str = HOOK;
            const VERB: &'static str = $verb;
            const ONCE: bool = false;
            fn entity_id(&self) -> String {
                self.hook_id.to_string()
            }
            fn event_context(&self) -> EventContext {
                EventContext { owner: Some(self.owner.clone()), ..EventContext::default() }
            }
        }
    };
}

hook_event! {
    /// `evt.hook.created`: somebody made a hook. Its secret is in no event.
    HookCreated, "created" {
        /// Where events are sent: scheme and host.
        url: String,
        /// Kinds of events that are sent; empty for all.
        types: Vec<String>,
        /// Only events about this medium.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_id: Option<MediaId>,
        /// Only events about this job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job_id: Option<JobId>,
        /// True when it sends the events of all owners.
        is_for_all: bool,
        /// The account that did.
        created_by: String,
    }
}

hook_event! {
    /// `evt.hook.changed`: somebody changed a hook; how it is now.
    HookChanged, "changed" {
        /// Where events are sent: scheme and host.
        url: String,
        /// Kinds of events that are sent; empty for all.
        types: Vec<String>,
        /// Only events about this medium.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_id: Option<MediaId>,
        /// Only events about this job.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        job_id: Option<JobId>,
        /// True when it sends the events of all owners.
        is_for_all: bool,
        /// The account that did.
        changed_by: String,
    }
}

hook_event! {
    /// `evt.hook.removed`: somebody removed a hook; what was logged of it goes, too.
    HookRemoved, "removed" {
        /// The account that did.
        removed_by: String,
    }
}

hook_event! {
    /// `evt.hook.paused`: a hook sends nothing until it is resumed; what happens meanwhile waits.
    HookPaused, "paused" {
        /// Why.
        reason: HookPauseReason,
        /// What the last delivery came to: a stable code; absent where a person paused it.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
        /// The account that did; absent where the keeper did.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        paused_by: Option<String>,
    }
}

hook_event! {
    /// `evt.hook.resumed`: a hook sends again, what waited first.
    HookResumed, "resumed" {
        /// The account that did.
        resumed_by: String,
    }
}

hook_event! {
    /// `evt.hook.rotated`: a hook has a new secret.
    HookRotated, "rotated" {
        /// Unix time in milliseconds until which the one before signs, too.
        old_signs_until_ms: u64,
        /// The account that did.
        rotated_by: String,
    }
}

hook_event! {
    /// `evt.hook.tested`: somebody asked for a made-up event.
    HookTested, "tested" {
        /// How the log calls the delivery.
        delivery_id: DeliveryId,
        /// The account that did.
        tested_by: String,
    }
}

hook_event! {
    /// `evt.hook.redelivered`: somebody asked for an event once more.
    HookRedelivered, "redelivered" {
        /// How the log calls the new delivery.
        delivery_id: DeliveryId,
        /// Sequence of the event in EVENTS.
        sequence: u64,
        /// The account that did.
        redelivered_by: String,
    }
}

hook_event! {
    /// `evt.hook.replayed`: somebody asked for everything behind a place once more.
    HookReplayed, "replayed" {
        /// The place.
        position: HookPosition,
        /// The account that did.
        replayed_by: String,
    }
}

hook_event! {
    /// `evt.hook.skipped`: a hook leaves events out. `POST /v1/hooks/{hook_id}/replay` sends what EVENTS still has of them.
    HookSkipped, "skipped" {
        /// Why.
        reason: HookSkipReason,
        /// Sequence in EVENTS of the first of them.
        first_sequence: u64,
        /// Sequence in EVENTS of the last of them.
        last_sequence: u64,
        /// The medium that it is about, where it is one event.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        media_id: Option<MediaId>,
        /// How often it was tried.
        #[serde(default)]
        tries: u32,
        /// What the last try came to: a stable code.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        code: Option<String>,
    }
}

//! Pauses of all jobs of an owner, or of a kind: one record in the bucket `limits`, which each dispatcher reads before it lets parts in.
//!
//! Limits: at most [`PAUSES_MAX`] owners and kinds are paused at a time.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BusEvent, EventContext, KvRecord, ids::RequestId};

/// Most owners and kinds that are paused at a time.
pub const PAUSES_MAX: usize = 500;

/// Longest reason, in characters.
pub const REASON_CHARS_MAX: usize = 200;

/// Longest name of an owner or a kind, in characters.
pub const NAME_CHARS_MAX: usize = 256;

/// What is paused: the jobs of an owner, or those of a kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum PauseScope {
    /// All jobs of an owner.
    Owner,
    /// All jobs of a kind.
    Kind,
}

/// Since when something is paused, and by whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueuePause {
    /// Unix time in milliseconds by the broker.
    pub paused_at_ms: u64,
    /// The account of the person.
    pub paused_by: String,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// All that is paused. No part of such a job is let into the queue; what was let in before is made to its end.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct QueuePauses {
    /// By owner.
    #[serde(default)]
    pub owners: BTreeMap<String, QueuePause>,
    /// By kind of job.
    #[serde(default)]
    pub kinds: BTreeMap<String, QueuePause>,
}

impl QueuePauses {
    /// Its key; there is one record.
    pub const KEY: &'static str = "pauses";

    /// What keeps the jobs of an owner and a kind out of the queue; of two pauses that of the kind, which hinders more.
    pub fn find(&self, owner: &str, kind: &str) -> Option<(PauseScope, &QueuePause)> {
        let of_kind = self.kinds.get(kind).map(|pause| (PauseScope::Kind, pause));
        of_kind.or_else(|| self.owners.get(owner).map(|pause| (PauseScope::Owner, pause)))
    }

    /// How many owners and kinds are paused.
    pub fn count(&self) -> usize {
        self.owners.len() + self.kinds.len()
    }

    /// The pauses of a scope, by name.
    pub const fn of_scope(&self, scope: PauseScope) -> &BTreeMap<String, QueuePause> {
        match scope {
            PauseScope::Owner => &self.owners,
            PauseScope::Kind => &self.kinds,
        }
    }

    /// The same, to be changed.
    pub const fn of_scope_mut(&mut self, scope: PauseScope) -> &mut BTreeMap<String, QueuePause> {
        match scope {
            PauseScope::Owner => &mut self.owners,
            PauseScope::Kind => &mut self.kinds,
        }
    }
}

impl KvRecord for QueuePauses {
    const BUCKET: &'static str = "limits";
    fn key(&self) -> String {
        Self::KEY.to_owned()
    }
}

macro_rules! queue_event {
    ($(#[$doc:meta])* $name:ident, $verb:literal { $($(#[$field_attr:meta])* $field:ident: $type:ty),* $(,)? }) => {
        #[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
        $(#[$doc])*
        pub struct $name {
            /// Names this event.
            pub request_id: RequestId,
            /// What the name is of.
            pub scope: PauseScope,
            /// The owner, or the kind.
            pub name: String,
            $($(#[$field_attr])* pub $field: $type,)*
        }

        impl BusEvent for $name {
            const ENTITY: &'static str = "queue";
            const VERB: &'static str = $verb;
            const ONCE: bool = false;
            fn entity_id(&self) -> String {
                self.request_id.to_string()
            }
            fn event_context(&self) -> EventContext {
                let owner = (self.scope == PauseScope::Owner).then(|| self.name.clone());
                EventContext { owner, ..EventContext::default() }
            }
        }
    };
}

queue_event! {
    /// `evt.queue.paused`: no part of a job of an owner or a kind is let into the queue until somebody resumes it.
    QueuePaused, "paused" {
        /// The account of the person.
        paused_by: String,
        /// Why, for people.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    }
}

queue_event! {
    /// `evt.queue.resumed`: the jobs of an owner or a kind have their turns again.
    QueueResumed, "resumed" {
        /// The account of the person.
        resumed_by: String,
    }
}

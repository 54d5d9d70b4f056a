//! Choices of the dispatcher, units in the names.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use schemas::subjects::JobPriority;
use serde::{Deserialize, Serialize};

/// Settings of the dispatcher.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct DispatchConfig {
    /// Shares of owners, by account: one of 3 gets three times as much of the workers as one of 1, which is what all others have.
    pub owner_weights: BTreeMap<String, u32>,
    /// Most parts of one owner that lie in a queue or are worked on at once, however little others have to do; those of priority p0 go in
    /// any case. No limit when absent.
    pub owner_parts_max: Option<u32>,
    /// The same for single owners, by account.
    pub owner_parts_max_of: BTreeMap<String, u32>,
    /// Priorities of owners, by account: what jobs of an owner have that say nothing of it, or p1. With p0 they go before those of everybody,
    /// whatever `owner_parts_max` says.
    pub owner_priorities: BTreeMap<String, JobPriority>,
    /// The same for kinds of jobs, such as `verify`, of owners that are not named.
    pub kind_priorities: BTreeMap<String, JobPriority>,
    /// How long a job of priority p2 waits before it counts as one of p1, in milliseconds.
    pub ageing_ms: u64,
}

impl Default for DispatchConfig {
    fn default() -> Self {
        Self {
            owner_weights: BTreeMap::new(),
            owner_parts_max: None,
            owner_parts_max_of: BTreeMap::new(),
            owner_priorities: BTreeMap::new(),
            kind_priorities: BTreeMap::new(),
            ageing_ms: 15 * 60_000,
        }
    }
}

impl DispatchConfig {
    /// Most parts of this owner at once; `None` without a limit.
    pub(crate) fn parts_max_of(&self, owner: &str) -> Option<u32> {
        self.owner_parts_max_of.get(owner).copied().or(self.owner_parts_max)
    }

    /// The priority by which the parts of a job go into the queue: its own, or the one that is set for its owner or kind.
    pub(crate) fn priority_of(&self, owner: &str, kind: &str, said: JobPriority) -> JobPriority {
        if said != JobPriority::default() {
            return said;
        }
        let set = self.owner_priorities.get(owner).or_else(|| self.kind_priorities.get(kind));
        set.copied().unwrap_or(said)
    }

    /// True when some owner has a limit.
    pub(crate) fn has_parts_max(&self) -> bool {
        self.owner_parts_max.is_some() || !self.owner_parts_max_of.is_empty()
    }
}

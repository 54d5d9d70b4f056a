//! A job whose parts are being let in: what is left of it, and what lies in the queue.

use std::collections::{BTreeSet, VecDeque};

use packaging::plan;
use schemas::{job, subjects::JobPriority};
use tokio::time::Instant;

/// A part that was not let in yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingPart {
    pub(crate) name: String,
    /// Declared cost, from 1.
    pub(crate) cost: u64,
}

/// A job of which parts were let in, or are next.
#[derive(Debug)]
pub(crate) struct OpenJob {
    kind: String,
    priority: JobPriority,
    /// Parts to let in, the next one in front.
    pub(crate) pending: VecDeque<PendingPart>,
    /// Parts that lie in the queue, or are worked on.
    pub(crate) queued: BTreeSet<String>,
    /// Parts that somebody has to resume first.
    pub(crate) parked: BTreeSet<String>,
    /// When it is looked at again once nothing of it is pending or queued.
    pub(crate) check_at: Instant,
}

impl OpenJob {
    /// What is left of `job`: all but what the job before it made.
    pub(crate) fn new(record: &job::JobRecord) -> Self {
        let made: BTreeSet<&String> = record.made.iter().collect();
        let pending = record.parts.iter().filter(|part| !made.contains(part));
        Self {
            kind: record.kind.clone(),
            priority: record.priority,
            pending: pending
                .map(|name| PendingPart { name: name.clone(), cost: plan::part_cost(&record.plan, name) })
                .collect(),
            queued: BTreeSet::new(),
            parked: BTreeSet::new(),
            check_at: Instant::now(),
        }
    }

    /// Queue subject of one of its parts.
    pub(crate) fn part_subject(&self, record_id: schemas::ids::JobId, part: &str) -> String {
        job::part_subject(&self.kind, self.priority, record_id, part)
    }

    /// True when nothing of it is to be let in or lies in the queue.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.queued.is_empty()
    }
}

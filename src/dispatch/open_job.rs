//! A job whose parts are being let in: what is left of it, and what lies in the queue.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    time::Duration,
};

use nats::spans::TraceContext;
use packaging::plan;
use schemas::{
    job::{self, JobRecord},
    subjects::JobPriority,
};
use tokio::time::Instant;

use crate::records::PartFate;

/// How soon a part is looked at again that waits for a person, unless somebody says that it goes on.
const PARKED_PERIOD: Duration = Duration::from_secs(60);

/// How much later than it may be tried a part is let in, in milliseconds.
const RETRY_MARGIN_MS: u64 = 50;

/// A part that was not let in yet.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingPart {
    pub(crate) name: String,
    /// Declared cost, from 1.
    pub(crate) cost: u64,
}

/// A part that stays out of the queue for now.
#[derive(Debug, Clone, Copy)]
pub(crate) struct HeldBackPart {
    /// When it is looked at again.
    pub(crate) check_at: Instant,
    /// Unix time in milliseconds at which it may be tried again; `None` when somebody has to resume it.
    pub(crate) retry_at_ms: Option<u64>,
}

/// A job of which parts were let in, or are next.
#[derive(Debug)]
pub(crate) struct OpenJob {
    /// The trace that the job was made in: its parts belong to it, whenever they are let in.
    pub(crate) trace: Option<TraceContext>,
    kind: String,
    priority: JobPriority,
    /// Parts to let in, the next one in front.
    pub(crate) pending: VecDeque<PendingPart>,
    /// Parts that lie in the queue, or are worked on, with their subjects there.
    pub(crate) queued: BTreeMap<String, String>,
    /// Parts that lost workers, and are tried later or resumed by somebody.
    pub(crate) held_back: BTreeMap<String, HeldBackPart>,
    /// When it is looked at again once nothing of it is pending, queued or held back.
    pub(crate) check_at: Instant,
}

impl OpenJob {
    /// What is left of a job: all but what the job before it made.
    pub(crate) fn new(record: &JobRecord, priority: JobPriority, trace: Option<TraceContext>) -> Self {
        let made: BTreeSet<&String> = record.made.iter().collect();
        let pending = record.parts.iter().filter(|part| !made.contains(part));
        Self {
            trace,
            kind: record.kind.clone(),
            priority,
            pending: pending
                .map(|name| PendingPart { name: name.clone(), cost: plan::part_cost(&record.plan, name) })
                .collect(),
            queued: BTreeMap::new(),
            held_back: BTreeMap::new(),
            check_at: Instant::now(),
        }
    }

    /// Queue subject of one of its parts.
    pub(crate) fn part_subject(&self, job_id: schemas::ids::JobId, part: &str) -> String {
        job::part_subject(&self.kind, self.priority, job_id, part)
    }

    /// Has what is not let in yet wait at this priority.
    pub(crate) const fn set_priority(&mut self, priority: JobPriority) {
        self.priority = priority;
    }

    /// Notes what becomes of a part that is not pending any more.
    pub(crate) fn note_fate(
        &mut self,
        (subject, part): (&str, &str),
        fate: PartFate,
        now: Instant,
        now_ms: u64,
    ) {
        self.held_back.remove(part);
        let (pause, retry_at_ms) = match fate {
            PartFate::Over => return,
            PartFate::Open => {
                self.queued.insert(part.to_owned(), subject.to_owned());
                return;
            }
            PartFate::Parked => (PARKED_PERIOD, None),
            PartFate::Delayed { retry_at_ms } => {
                // A little late: a worker that finds it too early has it come again.
                let rest_ms = retry_at_ms.saturating_sub(now_ms).saturating_add(RETRY_MARGIN_MS);
                (Duration::from_millis(rest_ms), Some(retry_at_ms))
            }
        };
        self.held_back.insert(part.to_owned(), HeldBackPart { check_at: now + pause, retry_at_ms });
    }

    /// True when nothing of it is to be let in, lies in the queue, or is tried later.
    pub(crate) fn is_idle(&self) -> bool {
        self.pending.is_empty() && self.queued.is_empty() && self.held_back.is_empty()
    }
}

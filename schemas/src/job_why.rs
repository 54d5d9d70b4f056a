//! Why a job does not run, or that it does: one reason and one sentence, found from what is known of it. All who say it to people say the
//! same.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{
    dispatch_query::DispatchPosition,
    job::{self, JobQueue, JobStatus},
    media::MediaWaitReason,
    pause::{PauseScope, QueuePause, QueuePauses},
};

/// Why a job does not run, or that it does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "JobWhyReason")]
pub enum JobWhyReason {
    /// It has ended.
    Ended,
    /// A person paused it.
    Paused,
    /// Something it needs is away; `outage_code` says what.
    Outage,
    /// Workers are at it.
    Running,
    /// Only a newer version knows its kind, and what hinders it.
    KindUnknown,
    /// No keeper answers: nothing is let into the queue.
    NoKeeper,
    /// No worker shows itself.
    NoWorker,
    /// Workers show themselves, and none makes the version of the bytes that the job is made of.
    NoWorkerOfVersion,
    /// All jobs of its owner, or of its kind, are paused.
    QueuePaused,
    /// Its parts lie in the queue, and every slot is taken.
    Slots,
    /// Its owner has as many parts in the queue or under way as it may.
    OwnerLimit,
    /// Jobs of its owner go first.
    OwnJobs,
    /// Other owners have their turns.
    OwnerShare,
    /// Parts of it lost workers, and are tried again later.
    BackOff,
    /// Parts of it lost one worker after another, and wait for somebody who resumes them.
    Parked,
    /// Nothing is known that hinders it: it goes on within a minute.
    Settling,
}

impl JobWhyReason {
    /// Its name in documents and events.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ended => "ended",
            Self::Paused => "paused",
            Self::Outage => "outage",
            Self::Running => "running",
            Self::KindUnknown => "kind_unknown",
            Self::NoKeeper => "no_keeper",
            Self::NoWorker => "no_worker",
            Self::NoWorkerOfVersion => "no_worker_of_version",
            Self::QueuePaused => "queue_paused",
            Self::Slots => "slots",
            Self::OwnerLimit => "owner_limit",
            Self::OwnJobs => "own_jobs",
            Self::OwnerShare => "owner_share",
            Self::BackOff => "back_off",
            Self::Parked => "parked",
            Self::Settling => "settling",
        }
    }
}

/// All that a reason is found from.
#[derive(Debug, Clone, Copy)]
pub struct JobWaitFacts<'a> {
    /// Where it stands.
    pub status: JobStatus,
    /// Why it failed, for people.
    pub detail: Option<&'a str>,
    /// A person paused it.
    pub is_paused: bool,
    /// Its kind.
    pub kind: &'a str,
    /// Its owner.
    pub owner: &'a str,
    /// What its medium waits for.
    pub waiting: Option<&'a MediaWaitReason>,
    /// Parts whose holder showed itself lately.
    pub held_parts: usize,
    /// Where the dispatcher sees it; absent when none answers.
    pub position: Option<&'a DispatchPosition>,
    /// What is kept out of the queue.
    pub pauses: &'a QueuePauses,
    /// Unix time in milliseconds, by the broker.
    pub now_ms: u64,
}

impl JobWaitFacts<'_> {
    /// What hinders it most.
    pub fn reason(&self) -> JobWhyReason {
        if self.status != JobStatus::Active {
            return JobWhyReason::Ended;
        }
        if self.is_paused {
            return JobWhyReason::Paused;
        }
        match self.waiting {
            // That does not end by itself.
            Some(waiting) if waiting.code == job::WORKERS_LOST && self.held_parts == 0 => {
                return JobWhyReason::Parked;
            }
            Some(waiting) if waiting.code != job::WORKERS_LOST => return JobWhyReason::Outage,
            _ => {}
        }
        if self.held_parts > 0 {
            return JobWhyReason::Running;
        }
        // It has no queue of which a dispatcher of this version could be asked.
        if JobQueue::of_kind(self.kind).is_none() {
            return JobWhyReason::KindUnknown;
        }
        let Some(position) = self.position else { return JobWhyReason::NoKeeper };
        match position {
            _ if self.pause().is_some() && position.queued_parts == 0 => JobWhyReason::QueuePaused,
            _ if position.workers == 0 => JobWhyReason::NoWorker,
            _ if position.lacks_version => JobWhyReason::NoWorkerOfVersion,
            _ if position.queued_parts > 0 => JobWhyReason::Slots,
            _ if position.owner_parts_max.is_some() => JobWhyReason::OwnerLimit,
            _ if position.is_waiting && position.own_jobs_ahead > 0 => JobWhyReason::OwnJobs,
            _ if position.is_waiting => JobWhyReason::OwnerShare,
            _ if position.parked_parts > 0 => JobWhyReason::Parked,
            _ if position.delayed_parts > 0 => JobWhyReason::BackOff,
            _ => JobWhyReason::Settling,
        }
    }

    fn pause(&self) -> Option<(PauseScope, &QueuePause)> {
        self.pauses.find(self.owner, self.kind)
    }

    /// What is paused, by whom and why.
    fn describe_pause(&self) -> String {
        let Some((scope, pause)) = self.pause() else { return "It is not paused.".into() };
        let what = match scope {
            PauseScope::Owner => "All jobs of its owner".to_owned(),
            PauseScope::Kind => format!("All jobs of the kind {}", self.kind),
        };
        let reason = pause.reason.as_ref().map_or_else(String::new, |reason| format!(" ({reason})"));
        format!("{what} are paused by {}{reason}, until an admin resumes them.", pause.paused_by)
    }

    /// The same for people.
    pub fn sentence(&self) -> String {
        let none = DispatchPosition::default();
        let place = self.position.unwrap_or(&none);
        match self.reason() {
            JobWhyReason::Ended => match (self.status, self.detail) {
                (JobStatus::Failed, Some(detail)) => format!("It failed: {detail}."),
                (JobStatus::Failed, None) => "It failed.".into(),
                (JobStatus::Cancelled, _) => "It was cancelled.".into(),
                (JobStatus::Succeeded | JobStatus::Active, _) => "It succeeded.".into(),
            },
            JobWhyReason::Paused if self.held_parts > 0 => {
                format!("It is paused; {} under way are made to their end.", parts(self.held_parts))
            }
            JobWhyReason::Paused => "It is paused until somebody resumes it.".into(),
            JobWhyReason::Outage => {
                let code = self.waiting.map_or("", |waiting| waiting.code.as_str());
                format!("Something it needs is away ({code}); it goes on by itself.")
            }
            JobWhyReason::Running => format!("It runs: workers are at {} of it.", parts(self.held_parts)),
            JobWhyReason::QueuePaused => self.describe_pause(),
            JobWhyReason::KindUnknown => format!(
                "This version does not know the kind {}: ask a server of the version that made it.",
                self.kind
            ),
            JobWhyReason::NoKeeper => {
                "No keeper answers, and only a keeper lets parts into the queue: start `streamgate keeper`."
                    .into()
            }
            JobWhyReason::NoWorker => {
                let queue = JobQueue::of_kind(self.kind).map_or("", |queue| queue.name());
                format!("No worker of its queue shows itself: start `streamgate worker {queue}`.")
            }
            JobWhyReason::Slots => {
                format!(
                    "{} of it lie in the queue, and the next slot that is free takes one: there are {}.",
                    parts(to_count(place.queued_parts)),
                    place.slots
                )
            }
            JobWhyReason::NoWorkerOfVersion => format!(
                "None of the workers ({}) makes the version that its other parts are made of: start one that does; after `transcode.other_version_wait` it is given up.",
                place.workers
            ),
            JobWhyReason::BackOff => format!(
                "Lost workers: {} of it, the first of which is tried again in {} s.",
                parts(to_count(place.delayed_parts)),
                place.retry_at_ms.unwrap_or_default().saturating_sub(self.now_ms).div_ceil(1_000)
            ),
            JobWhyReason::OwnerLimit => format!(
                "Its owner has {} in the queue or under way, as many as it may have at once.",
                parts(to_count(place.owner_parts_max.unwrap_or_default()))
            ),
            JobWhyReason::OwnJobs if place.owners_waiting > 1 => format!(
                "{} of its owner go first, and {} owners take turns.",
                jobs(place.own_jobs_ahead),
                place.owners_waiting
            ),
            JobWhyReason::OwnJobs => format!("{} of its owner go first.", jobs(place.own_jobs_ahead)),
            JobWhyReason::OwnerShare => format!(
                "The queue holds {} of {} parts, and it is one of {} owners that take turns: about {} parts go first.",
                place.queue_parts, place.queue_parts_max, place.owners_waiting, place.parts_ahead
            ),
            JobWhyReason::Parked => {
                "Parts of it lost one worker after another and wait for somebody who resumes them: `streamgate dead redrive`.".into()
            }
            JobWhyReason::Settling => "Nothing hinders it: it goes on within a minute.".into(),
        }
    }
}

fn to_count(number: u32) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}

fn parts(count: usize) -> String {
    if count == 1 { "1 part".into() } else { format!("{count} parts") }
}

fn jobs(count: u32) -> String {
    if count == 1 { "1 job".into() } else { format!("{count} jobs") }
}

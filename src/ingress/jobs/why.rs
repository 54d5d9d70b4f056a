//! Why a job does not run, or what it does: found out from its record, its medium and the dispatcher, and said in one sentence.
//!
//! Limits: the dispatcher is waited for at most [`ANSWER_MAX`].

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    dispatch_query::{self, DispatchPosition, DispatchPositionQuery},
    ids::JobId,
    job::{JobQueue, JobRecord, JobStatus},
    job_why::{JobWaitFacts, JobWhyReason},
    media::MediaWaitReason,
    pause::QueuePauses,
    subjects,
};
use serde::Serialize;
use serde_json::json;

use super::{JobState, list_part_names, load_part_summaries, load_waiting_reason, no_such_job};
use crate::AppState;
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

/// Longest wait for the dispatcher.
pub(crate) const ANSWER_MAX: Duration = Duration::from_secs(2);

/// Longest wait of a probe for it: probes have little time, and one that is late looks as if this process were gone.
const PROBE_ANSWER_MAX: Duration = Duration::from_millis(300);

/// Why a job does not run.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobWhy", example = json!({
    "job_id": "06db008a0lt0303jc5mn0r355k", "reason": "own_jobs", "sentence": "3 of its owner's jobs go first, and 2 owners take turns.",
    "own_jobs_ahead": 3, "owners_waiting": 2, "queue_parts": 4, "queue_parts_max": 4, "workers": 1, "slots": 2, "parts_ahead": 31,
    "parts_per_minute": 12, "start_in_ms": 155_000,
}))]
pub(super) struct JobWhyDocument {
    /// The job.
    job_id: JobId,
    /// What hinders it most; others may come.
    #[schemars(schema_with = "super::open_schema::<JobWhyReason>")]
    reason: JobWhyReason,
    /// The same for people.
    sentence: String,
    /// What is away, while something is.
    #[serde(skip_serializing_if = "Option::is_none")]
    outage_code: Option<String>,
    /// Where it stands among those that wait; absent where no keeper answers.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    place: Option<JobPlaceDocument>,
}

/// Where a job stands among those that wait.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "JobPlace")]
struct JobPlaceDocument {
    /// Jobs of its owner and priority that go first; at most 10,000 are counted.
    own_jobs_ahead: u32,
    /// Owners that take turns at its priority.
    owners_waiting: u32,
    /// Parts of all jobs that lie in the queue or are worked on.
    queue_parts: u32,
    /// Parts that the queue takes: two for each slot, and those that workers hold who take no more.
    queue_parts_max: u32,
    /// Workers that showed themselves lately.
    workers: u32,
    /// Parts that they run at once.
    slots: u32,
    /// Parts that are estimated to be let in before its next one.
    parts_ahead: u64,
    /// Unix time in milliseconds at which the first of its parts is tried again that lost workers; absent where there is none.
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_at_ms: Option<u64>,
    /// Parts that were let in a minute, lately; absent before there were some.
    #[serde(skip_serializing_if = "Option::is_none")]
    parts_per_minute: Option<u32>,
    /// Milliseconds until its next part is let in, by that rate; absent where nothing of it waits for a turn.
    #[serde(skip_serializing_if = "Option::is_none")]
    start_in_ms: Option<u64>,
}

pub(super) static EXPLAIN_JOB: Operation = Operation::read(
    "/v1/jobs/{job_id}/why",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
);

/// Say why a job does not run
///
/// One reason, the one that hinders it most, as a code and as a sentence; with its place among those that wait and when it starts, by
/// the rate of the last ten minutes.
#[utoipa::path(
    get,
    path = EXPLAIN_JOB.path,
    tag = "worker",
    operation_id = "explain_job",
    params(("job_id", Path)),
    responses((status = 200, description = "Why", body = ref("#/components/schemas/JobWhy"))),
)]
pub(super) async fn explain_job(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Json<JobWhyDocument>, Problem> {
    let job_id: JobId = id.parse().map_err(|_| no_such_job())?;
    let job = app.bus.load_record::<JobRecord>(&job_id.to_string()).await?.ok_or_else(no_such_job)?.record;
    if !who.may_see(&job.owner) {
        return Err(no_such_job());
    }
    let known = KnownOfJob {
        waiting: load_waiting_reason(&app.bus, &job).await?,
        held_parts: if job.status == JobStatus::Active { count_held_parts(&app, &job).await? } else { 0 },
        position: match job.queue().filter(|_| job.is_to_be_run()) {
            Some(queue) => ask_position(&app, queue, job_id, ANSWER_MAX).await,
            None => None,
        },
        pauses: app.bus.load_record(QueuePauses::KEY).await?.map(|held| held.record).unwrap_or_default(),
        job,
    };
    Ok(Json(known.explain()))
}

/// Whether somebody lets parts into every queue: without a keeper no job begins.
pub(crate) async fn has_dispatcher(app: &AppState) -> bool {
    let ask = |queue| ask_queue(app, queue, PROBE_ANSWER_MAX);
    let answers = futures::future::join_all(JobQueue::ALL.map(ask)).await;
    answers.iter().all(Option::is_some)
}

/// How full a queue is; `None` when no dispatcher answers.
pub(crate) async fn ask_queue(
    app: &AppState,
    queue: JobQueue,
    answer_max: Duration,
) -> Option<DispatchPosition> {
    // It answers for any job, also for one that there is not.
    ask_position(app, queue, JobId::from_bytes([0; 16]), answer_max).await
}

/// Where the dispatcher sees a job; `None` when none answers, or when it answers what this version can't read.
async fn ask_position(
    app: &AppState,
    queue: JobQueue,
    job_id: JobId,
    answer_max: Duration,
) -> Option<DispatchPosition> {
    let subject = subjects::dispatch_request_subject(dispatch_query::position_verb(queue));
    match app.bus.request(subject, &DispatchPositionQuery { job_id }, answer_max).await {
        Ok(position) => Some(position),
        Err(error) => {
            tracing::debug!(%error, "no dispatcher answers");
            None
        }
    }
}

async fn count_held_parts(app: &AppState, job: &JobRecord) -> Result<usize, Problem> {
    let now_ms = app.bus.broker_now_ms(&subjects::kv_stream_name(JobRecord::BUCKET)).await?;
    let parts = load_part_summaries(&app.bus, job.job_id, &list_part_names(job)).await?;
    Ok(parts.iter().filter(|part| JobState::is_part_held(part, now_ms)).count())
}

/// All that a reason is found from.
struct KnownOfJob {
    job: JobRecord,
    waiting: Option<MediaWaitReason>,
    /// Parts whose holder showed itself lately.
    held_parts: usize,
    position: Option<DispatchPosition>,
    /// What is kept out of the queue.
    pauses: QueuePauses,
}

impl KnownOfJob {
    fn explain(self) -> JobWhyDocument {
        let facts = self.facts();
        let (reason, sentence) = (facts.reason(), facts.sentence());
        let place = self.position.map(|position| {
            // At its limit, it waits for the owner's own parts, whatever the rate is.
            let is_limited = position.owner_parts_max.is_some();
            let rate = position.parts_per_minute.filter(|_| position.is_waiting && !is_limited);
            let start_in_ms =
                |rate: u32| position.parts_ahead.saturating_mul(60_000) / u64::from(rate.max(1));
            JobPlaceDocument {
                own_jobs_ahead: position.own_jobs_ahead,
                owners_waiting: position.owners_waiting,
                queue_parts: position.queue_parts,
                queue_parts_max: position.queue_parts_max,
                workers: position.workers,
                slots: position.slots,
                parts_ahead: position.parts_ahead,
                retry_at_ms: position.retry_at_ms,
                parts_per_minute: position.parts_per_minute,
                start_in_ms: rate.map(start_in_ms),
            }
        });
        let outage_code = self.waiting.map(|waiting| waiting.code);
        JobWhyDocument { job_id: self.job.job_id, reason, sentence, outage_code, place }
    }

    fn facts(&self) -> JobWaitFacts<'_> {
        JobWaitFacts {
            status: self.job.status,
            detail: self.job.detail.as_deref(),
            is_paused: self.job.paused_at_ms.is_some(),
            kind: &self.job.kind,
            owner: &self.job.owner,
            waiting: self.waiting.as_ref(),
            held_parts: self.held_parts,
            position: self.position.as_ref(),
            pauses: &self.pauses,
            now_ms: nats::estimated_broker_now_ms(),
        }
    }
}

#[cfg(test)]
mod tests {
    use schemas::{examples, job, pause::QueuePause};

    use super::*;

    fn known(change: impl FnOnce(&mut KnownOfJob, &mut DispatchPosition)) -> KnownOfJob {
        let job = JobRecord { status: JobStatus::Active, ..examples::job_record() };
        let mut known =
            KnownOfJob { job, waiting: None, held_parts: 0, position: None, pauses: QueuePauses::default() };
        let mut position = DispatchPosition { workers: 1, slots: 2, ..DispatchPosition::default() };
        change(&mut known, &mut position);
        KnownOfJob { position: Some(position), ..known }
    }

    /// What is known, and what follows from it.
    fn cases() -> Vec<(KnownOfJob, JobWhyReason, &'static str)> {
        vec![
            (
                known(|known, _| known.job.status = JobStatus::Cancelled),
                JobWhyReason::Ended,
                "It was cancelled.",
            ),
            (
                known(|known, _| (known.job.paused_at_ms, known.held_parts) = (Some(1), 2)),
                JobWhyReason::Paused,
                "It is paused; 2 parts under way are made to their end.",
            ),
            (
                known(|known, _| {
                    known.waiting = Some(MediaWaitReason { code: "store_full".into(), since_ms: 1 });
                    known.held_parts = 1;
                }),
                JobWhyReason::Outage,
                "Something it needs is away (store_full); it goes on by itself.",
            ),
            (
                known(|known, _| known.held_parts = 1),
                JobWhyReason::Running,
                "It runs: workers are at 1 part of it.",
            ),
            (
                known(|_, place| (place.workers, place.queued_parts) = (0, 2)),
                JobWhyReason::NoWorker,
                "No worker of its queue shows itself: start `streamgate worker transcode`.",
            ),
            (
                known(|_, place| (place.is_waiting, place.queued_parts) = (true, 2)),
                JobWhyReason::Slots,
                "2 parts of it lie in the queue, and the next slot that is free takes one: there are 2.",
            ),
        ]
    }

    /// The same of jobs that wait for a turn, or for somebody.
    fn waiting_cases() -> Vec<(KnownOfJob, JobWhyReason, &'static str)> {
        vec![
            (
                known(|_, place| {
                    (place.is_waiting, place.own_jobs_ahead, place.owner_parts_max) = (true, 3, Some(2));
                }),
                JobWhyReason::OwnerLimit,
                "Its owner has 2 parts in the queue or under way, as many as it may have at once.",
            ),
            (
                known(|_, place| {
                    (place.is_waiting, place.own_jobs_ahead, place.owners_waiting) = (true, 3, 2);
                }),
                JobWhyReason::OwnJobs,
                "3 jobs of its owner go first, and 2 owners take turns.",
            ),
            (
                known(|_, place| {
                    (place.is_waiting, place.owners_waiting, place.parts_ahead) = (true, 3, 2);
                    (place.queue_parts, place.queue_parts_max) = (4, 4);
                }),
                JobWhyReason::OwnerShare,
                "The queue holds 4 of 4 parts, and it is one of 3 owners that take turns: about 2 parts go first.",
            ),
            (
                known(|known, _| {
                    known.waiting = Some(MediaWaitReason { code: job::WORKERS_LOST.into(), since_ms: 1 });
                }),
                JobWhyReason::Parked,
                "Parts of it lost one worker after another and wait for somebody who resumes them: `streamgate dead redrive`.",
            ),
            (
                known(|_, place| (place.delayed_parts, place.retry_at_ms) = (1, Some(1))),
                JobWhyReason::BackOff,
                "Lost workers: 1 part of it, the first of which is tried again in 0 s.",
            ),
            (
                known(|_, place| (place.lacks_version, place.is_waiting) = (true, true)),
                JobWhyReason::NoWorkerOfVersion,
                "None of the workers (1) makes the version that its other parts are made of: start one that does; after `transcode.other_version_wait` it is given up.",
            ),
            (
                known(|known, place| {
                    let (paused_by, reason) = ("admin".to_owned(), Some("upgrade".to_owned()));
                    let pause = QueuePause { paused_at_ms: 1, paused_by, reason };
                    known.pauses.kinds.insert("transcode".into(), pause);
                    place.workers = 0;
                }),
                JobWhyReason::QueuePaused,
                "All jobs of the kind transcode are paused by admin (upgrade), until an admin resumes them.",
            ),
            (known(|_, _| {}), JobWhyReason::Settling, "Nothing hinders it: it goes on within a minute."),
        ]
    }

    #[test]
    fn the_reason_is_what_hinders_most() {
        for (known, reason, sentence) in cases().into_iter().chain(waiting_cases()) {
            let document = known.explain();
            assert_eq!((document.reason, document.sentence.as_str()), (reason, sentence));
        }
        let silent = KnownOfJob { position: None, ..known(|_, _| {}) };
        assert_eq!(silent.explain().reason, JobWhyReason::NoKeeper);
        // One of a newer version: no dispatcher is asked about it, and none has to be started.
        let newer = known(|known, _| known.job.kind = "translate".into());
        let newer = KnownOfJob { position: None, ..newer }.explain();
        assert_eq!(newer.reason, JobWhyReason::KindUnknown);
        assert_eq!(
            newer.sentence,
            "This version does not know the kind translate: ask a server of the version that made it."
        );
    }

    #[test]
    fn the_start_follows_from_the_rate() {
        let waits = |rate| {
            known(|_, place| {
                (place.is_waiting, place.own_jobs_ahead, place.parts_ahead) = (true, 3, 24);
                place.parts_per_minute = rate;
            })
        };
        assert_eq!(waits(Some(12)).explain().place.unwrap().start_in_ms, Some(120_000));
        assert_eq!(waits(None).explain().place.unwrap().start_in_ms, None);
    }
}

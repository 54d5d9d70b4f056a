//! Publishes why jobs wait, to those who follow them: the reason and the sentence that `GET /v1/jobs/{job_id}/why` answers.
//!
//! A job is looked at once it has waited for [`WAIT_MIN_MS`], and its event is published when the reason is another one than before. Of
//! jobs that wait behind others of their owner nothing is published: with 100,000 of them there would be nothing else to read. What an outage
//! is of is in `media.delayed`, and that a person paused a job in `job.paused`; without a keeper nobody publishes anything.
//!
//! Limits: [`JOBS_MAX`] jobs in a look each [`LOOK_PERIOD`], of which at most [`EVENTS_MAX`] are published; of one job an event each
//! [`EVENT_PERIOD`]. Another keeper publishes the reasons anew.

use std::{collections::HashMap, time::Duration};

use nats::{Bus, BusError};
use parking_lot::Mutex;
use schemas::{
    dispatch_query::DispatchPosition,
    fault::error_chain,
    ids::JobId,
    job::{JobRecord, JobStatus, JobWaiting},
    job_why::{JobWaitFacts, JobWhyReason},
    media::MediaRecord,
    pause::QueuePauses,
};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::{records, state::DispatchState};

/// How long a job waits before it is said why, in milliseconds.
pub(crate) const WAIT_MIN_MS: u64 = 10_000;

/// How often it is looked at what waits.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// Shortest time between two events of a job.
const EVENT_PERIOD: Duration = Duration::from_secs(10);

/// Most jobs of one look.
const JOBS_MAX: usize = 256;

/// Most jobs of which it is kept what was published last.
const REPORTS_MAX: usize = 4_096;

/// Most events of one look.
const EVENTS_MAX: usize = 16;

/// What was published of a job last.
#[derive(Debug, Clone, Copy)]
struct WaitReport {
    reason: JobWhyReason,
    published: Instant,
}

/// Publishes until `held` fires.
pub(crate) async fn report_waits(bus: &Bus, state: &Mutex<DispatchState>, held: &CancellationToken) {
    let mut reports = HashMap::new();
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            () = tokio::time::sleep(LOOK_PERIOD) => {}
        }
        if let Err(error) = report_once(bus, state, &mut reports).await {
            tracing::debug!(error = error_chain(&error), "why jobs wait is published later");
        }
    }
}

async fn report_once(
    bus: &Bus,
    known: &Mutex<DispatchState>,
    reports: &mut HashMap<JobId, WaitReport>,
) -> Result<(), BusError> {
    let now = Instant::now();
    let hindered = {
        let state = known.lock();
        if !state.is_followed {
            return Ok(());
        }
        reports.retain(|job_id, _| state.is_known(*job_id));
        state.hindered_jobs(JOBS_MAX, now)
    };
    let mut events_left = EVENTS_MAX;
    for job_id in hindered {
        let is_recent = |report: &WaitReport| now.duration_since(report.published) < EVENT_PERIOD;
        if events_left == 0 || reports.get(&job_id).is_some_and(is_recent) {
            continue;
        }
        if reports.len() >= REPORTS_MAX && !reports.contains_key(&job_id) {
            continue;
        }
        let before = reports.get(&job_id).map(|report| report.reason);
        if is_unchanged(known, job_id, before, now) {
            continue;
        }
        let Some((job, reason, sentence)) = explain_wait((bus, known), job_id, before, now).await? else {
            continue;
        };
        let event = JobWaiting {
            job_id,
            media_id: job.media_id,
            owner: job.owner,
            kind: job.kind,
            reason: reason.name().to_owned(),
            sentence,
        };
        bus.publish_event(&event, reason.name()).await?;
        reports.insert(job_id, WaitReport { reason, published: now });
        events_left -= 1;
    }
    Ok(())
}

/// True when nothing is to be said of a job, as far as that is known without its record: of most the reason is what it was.
fn is_unchanged(
    known: &Mutex<DispatchState>,
    job_id: JobId,
    before: Option<JobWhyReason>,
    now: Instant,
) -> bool {
    let state = known.lock();
    let Some((owner, kind, created_at_ms)) = state.describe_waiting(job_id) else { return false };
    let now_ms = state.broker_now_ms(now);
    if created_at_ms.saturating_add(WAIT_MIN_MS) > now_ms {
        return true;
    }
    let position = state.position(job_id, now);
    let facts = active_facts((&owner, kind.name()), &position, (state.pauses(), now_ms));
    is_silent(facts.reason(), before)
}

/// What is known of a job that is to be run and that no worker holds.
fn active_facts<'a>(
    (owner, kind): (&'a str, &'a str),
    position: &'a DispatchPosition,
    (pauses, now_ms): (&'a QueuePauses, u64),
) -> JobWaitFacts<'a> {
    JobWaitFacts {
        status: JobStatus::Active,
        detail: None,
        is_paused: false,
        kind,
        owner,
        waiting: None,
        held_parts: 0,
        position: Some(position),
        pauses,
        now_ms,
    }
}

fn is_silent(reason: JobWhyReason, before: Option<JobWhyReason>) -> bool {
    reason == JobWhyReason::Settling || before == Some(reason)
}

/// True when an outage, or lost workers, keep the medium of a job waiting: `media.delayed` says it.
async fn is_medium_waiting(bus: &Bus, job: &JobRecord) -> Result<bool, BusError> {
    match bus.load_record::<MediaRecord>(&job.media_id.to_string()).await {
        Ok(held) => Ok(held.is_some_and(|held| held.record.waiting.is_some())),
        Err(BusError::Undecodable { .. }) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Why a job waits, with its record; `None` while it is for the reason `before`, for none, or not for long.
async fn explain_wait(
    (bus, known): (&Bus, &Mutex<DispatchState>),
    job_id: JobId,
    before: Option<JobWhyReason>,
    now: Instant,
) -> Result<Option<(JobRecord, JobWhyReason, String)>, BusError> {
    let Some(held) = records::load_runnable_job(bus, job_id).await? else { return Ok(None) };
    let job = held.record;
    if is_medium_waiting(bus, &job).await? {
        return Ok(None);
    }
    let state = known.lock();
    let now_ms = state.broker_now_ms(now);
    if job.created_at_ms.saturating_add(WAIT_MIN_MS) > now_ms || !state.is_known(job_id) {
        return Ok(None);
    }
    let position = state.position(job_id, now);
    let facts = active_facts((&job.owner, &job.kind), &position, (state.pauses(), now_ms));
    let (reason, sentence) = (facts.reason(), facts.sentence());
    drop(state);
    Ok((!is_silent(reason, before)).then_some((job, reason, sentence)))
}

//! Kind `job_action`: does one thing with all jobs of a filter. The list comes from the index, page by page; what is done is decided
//! by each job's own record.
//!
//! Done twice it comes to the same, and what is done is noted behind each page, and at an outage: who takes over goes on from there. Of the
//! page of a worker that vanished the report does not know what was done.
//!
//! Limits: [`JOBS_AT_ONCE`] jobs at a time, pages of [`PAGE_JOBS_MAX`].

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, future::BoxFuture};
use nats::Bus;
use parking_lot::Mutex;
use queue_worker::PartClaim;
use schemas::{
    ids::JobId,
    index_query::{self, IndexReply, JobIndexPage, JobIndexQuery},
    job::JobRecord,
    job_action::{JobActionOrder, JobActionOutcome, JobActionProgress, JobActionReport},
    subjects,
};

use crate::error::TaskError;

/// Jobs with which something is done at the same time.
pub const JOBS_AT_ONCE: usize = 8;

/// Jobs of a page, behind which is noted what is done.
pub const PAGE_JOBS_MAX: u32 = 32;

/// How long the index may take for a page.
const PAGE_TIME_MAX: Duration = Duration::from_secs(5);

/// Does something with one job, as the HTTP surface does when it is asked about that job alone. Stages do not import that surface: who
/// starts this one hands it in.
pub trait JobActor: Debug + Send + Sync {
    /// Does what `order` says with the job, if it is one of those that are meant; `None` when it is none of them any more. `by` is the job
    /// that says so. [`TaskError::Bus`] and [`TaskError::Store`] while one of them is away: it is tried again.
    fn act<'a>(
        &'a self,
        job_id: JobId,
        order: &'a JobActionOrder,
        by: &'a JobRecord,
    ) -> BoxFuture<'a, Result<Option<JobActionOutcome>, TaskError>>;
}

/// Does what a job of this kind says, and notes in `acted` what is done as soon as it is.
///
/// # Errors
/// [`TaskError::Bus`] while the broker, or the index, is away; [`TaskError::NoAction`] when the record says nothing.
pub(crate) async fn act_on_jobs(
    bus: &Bus,
    actor: &dyn JobActor,
    job: &JobRecord,
    (claim, acted): (&PartClaim, &Mutex<JobActionProgress>),
) -> Result<JobActionReport, TaskError> {
    let order = job.action.as_ref().ok_or(TaskError::NoAction)?;
    // Every job that there was when this one was asked for is in the list then.
    let revision = bus.load_record::<JobRecord>(&job.job_id.to_string()).await?.map(|held| held.revision());
    loop {
        let done = acted.lock().clone();
        let page = load_page(bus, order, (done.cursor, revision)).await?;
        let mut acts = Vec::new();
        for item in page.items.iter().filter(|item| !done.done.contains(&item.job_id)) {
            acts.push(act_and_count(actor, item.job_id, job, (order, acted)));
        }
        // All of them, also behind one that an outage met: what is done is counted once.
        let results: Vec<_> = futures::stream::iter(acts).buffered(JOBS_AT_ONCE).collect().await;
        let outage = results.into_iter().find_map(Result::err);
        if outage.is_none() {
            let mut acted = acted.lock();
            let Some(next) = page.next else { return Ok(acted.report.clone()) };
            (acted.cursor, acted.done) = (Some(next), Vec::new());
        }
        let is_ours = note_progress(claim, acted).await?;
        match outage {
            Some(error) => return Err(error),
            None if !is_ours => return Err(TaskError::ClaimLost),
            None => {}
        }
    }
}

async fn act_and_count(
    actor: &dyn JobActor,
    job_id: JobId,
    by: &JobRecord,
    (order, acted): (&JobActionOrder, &Mutex<JobActionProgress>),
) -> Result<(), TaskError> {
    let outcome = actor.act(job_id, order, by).await?;
    let mut acted = acted.lock();
    acted.done.push(job_id);
    if let Some(outcome) = outcome {
        acted.report.count(job_id, outcome);
    }
    Ok(())
}

/// Writes down what is done, for the worker that goes on with it; false when another one has taken it over.
pub(crate) async fn note_progress(
    claim: &PartClaim,
    acted: &Mutex<JobActionProgress>,
) -> Result<bool, TaskError> {
    let progress = acted.lock().clone();
    Ok(claim.write_change(|part| part.acted = Some(progress)).await?)
}

async fn load_page(
    bus: &Bus,
    order: &JobActionOrder,
    (cursor, min_revision): (Option<String>, Option<u64>),
) -> Result<JobIndexPage, TaskError> {
    let question = JobIndexQuery {
        owner: order.only_owner.clone().or_else(|| order.filter.owner.clone()),
        media_id: order.filter.media_id,
        status: Some(order.status()),
        cursor,
        limit: PAGE_JOBS_MAX,
        min_revision,
        ..JobIndexQuery::default()
    };
    let subject = subjects::index_request_subject(index_query::JOBS);
    match bus.request::<_, IndexReply<JobIndexPage>>(subject, &question, PAGE_TIME_MAX).await? {
        IndexReply::Page(page) => Ok(page),
        IndexReply::Refused { code, detail } => Err(TaskError::IndexRefused { code, detail }),
    }
}

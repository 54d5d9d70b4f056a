//! Kind `job_action`: does one thing with all jobs of a filter. The list comes from the index, page by page; what is done is decided
//! by each job's own record.
//!
//! Done twice it comes to the same, and what is done is noted behind each page: who takes over goes on with the next one.
//!
//! Limits: [`JOBS_AT_ONCE`] jobs at a time.

use std::{fmt::Debug, time::Duration};

use futures::{StreamExt, TryStreamExt, future::BoxFuture};
use nats::Bus;
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

/// Does what a job of this kind says.
///
/// # Errors
/// [`TaskError::Bus`] while the broker, or the index, is away; [`TaskError::NoAction`] when the record says nothing.
pub(crate) async fn act_on_jobs(
    bus: &Bus,
    actor: &dyn JobActor,
    job: &JobRecord,
    claim: &PartClaim,
) -> Result<JobActionReport, TaskError> {
    let order = job.action.as_ref().ok_or(TaskError::NoAction)?;
    let mut done = claim.current_record().await.acted.unwrap_or_default();
    // Every job that there was when this one was asked for is in the list then.
    let revision = bus.load_record::<JobRecord>(&job.job_id.to_string()).await?.map(|held| held.revision());
    loop {
        let page = load_page(bus, order, (done.cursor.take(), revision)).await?;
        let acts: Vec<_> = page.items.iter().map(|item| actor.act(item.job_id, order, job)).collect();
        let acted: Vec<Option<JobActionOutcome>> =
            futures::stream::iter(acts).buffered(JOBS_AT_ONCE).try_collect().await?;
        for (item, outcome) in page.items.iter().zip(acted) {
            if let Some(outcome) = outcome {
                done.report.count(item.job_id, outcome);
            }
        }
        let Some(next) = page.next else { return Ok(done.report) };
        done.cursor = Some(next);
        let progress = JobActionProgress::clone(&done);
        if !claim.write_change(|part| part.acted = Some(progress)).await? {
            return Err(TaskError::ClaimLost);
        }
    }
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
        limit: index_query::ITEMS_MAX,
        min_revision,
    };
    let subject = subjects::index_request_subject(index_query::JOBS);
    match bus.request::<_, IndexReply<JobIndexPage>>(subject, &question, PAGE_TIME_MAX).await? {
        IndexReply::Page(page) => Ok(page),
        IndexReply::Refused { code, detail } => Err(TaskError::IndexRefused { code, detail }),
    }
}

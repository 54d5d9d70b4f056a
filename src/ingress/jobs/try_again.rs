//! Another try of a job that came to nothing, of whatever kind.

use nats::Bus;
use schemas::{
    ids::JobId,
    job::{JobRecord, JobStatus},
    subjects::JobPriority,
};
use store::Store;

use super::{
    retry::{NextEncode, NextEncodeError, begin_next_encode, settings_of_job},
    tasks::{TaskBeginning, TaskRequest, retry_task},
};
use crate::{
    quotas::{self, QuotaConfig},
    transcode::ProfileCatalog,
};

/// What asking for another try led to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TryOutcome {
    /// The job that goes on.
    Begun(JobId),
    /// Nothing is to be tried; why.
    Nothing(String),
    /// A job of its kind is not tried again; what to do instead.
    NotRepeatable(&'static str),
    /// There is nothing to do it with; why.
    NothingStored(&'static str),
}

/// What trying a job again needs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TryContext<'a> {
    pub(crate) bus: &'a Bus,
    pub(crate) store: &'a Store,
    /// The profiles that there are now.
    pub(crate) profiles: &'a ProfileCatalog,
    /// How much each owner may have done.
    pub(crate) quotas: &'a QuotaConfig,
    /// Who asks may have jobs go before those of everybody.
    pub(crate) may_take_p0: bool,
}

/// Tries `job` again.
///
/// # Errors
/// [`NextEncodeError`]; nothing has changed then.
pub(crate) async fn try_job_again(
    context: TryContext<'_>,
    job: &JobRecord,
) -> Result<TryOutcome, NextEncodeError> {
    match job.status {
        JobStatus::Failed | JobStatus::Cancelled => {}
        JobStatus::Active => return Ok(TryOutcome::Nothing("it goes on".into())),
        JobStatus::Succeeded => return Ok(TryOutcome::Nothing("it succeeded".into())),
    }
    // What an operator did for the one job is not for its owner to repeat.
    let allowed = |priority| match priority {
        JobPriority::P0 if !context.may_take_p0 => JobPriority::default(),
        other => other,
    };
    let request = match TaskRequest::of_job(job) {
        _ if job.is_encode() => None,
        Ok(request) => Some(request),
        Err(instead) => return Ok(TryOutcome::NotRepeatable(instead)),
    };
    let encode_ms = job.is_encode().then_some(job.plan.duration_ms);
    quotas::require_work_room(context.bus, context.quotas, &job.owner, (encode_ms, 0))
        .await
        .map_err(NextEncodeError::refused_by_quota)?;
    let Some(request) = request else { return try_encode_again(context, job, allowed).await };
    let request = TaskRequest { priority: allowed(request.priority), ..request };
    Ok(match retry_task(context.bus, job, request).await? {
        // Also what an earlier request began whose answer was lost, and another one that does the same.
        TaskBeginning::Begun(next) | TaskBeginning::Found(next) if next.status == JobStatus::Active => {
            TryOutcome::Begun(next.job_id)
        }
        TaskBeginning::Begun(next) | TaskBeginning::Found(next) => {
            TryOutcome::Nothing(format!("it was tried again before, as {}", next.job_id))
        }
        TaskBeginning::Refused(why) => TryOutcome::NothingStored(why),
    })
}

async fn try_encode_again(
    context: TryContext<'_>,
    job: &JobRecord,
    allowed: impl Fn(JobPriority) -> JobPriority,
) -> Result<TryOutcome, NextEncodeError> {
    let mut settings = settings_of_job(job);
    settings.priority = allowed(settings.priority);
    // One that was taken out of the settings since.
    settings.profile = settings.profile.filter(|name| context.profiles.profiles.contains_key(name));
    let medium = (job.media_id, job.encode);
    Ok(match begin_next_encode(context.bus, context.store, medium, settings).await? {
        NextEncode::Begun { job_id, .. } => TryOutcome::Begun(job_id),
        NextEncode::Superseded(why) => TryOutcome::Nothing(why.into()),
    })
}

//! How a job ends that makes no encode: its own record says so, and that of its part afterwards.

use nats::metrics::table::TASKS_ENDED;
use nats::{Bus, Outbox};
use schemas::{
    export::ExportReport,
    job::{self, JobFailed, JobKind, JobRecord, JobStatus, JobSucceeded, VerifyReport},
    job_action::JobActionReport,
};

use crate::error::TaskError;

/// What came of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum TaskOutcome {
    /// What was stored was looked at.
    Verified(VerifyReport),
    /// An action was done with other jobs.
    Acted(JobActionReport),
    /// An upload has all its bytes.
    Fetched,
    /// Pictures are stored.
    Pictured,
    /// A file was sent.
    Exported(ExportReport),
    /// It can't be done; a stable code, and the same for people.
    Failed(String, String),
}

impl TaskOutcome {
    /// Why the job fails; `None` when it succeeds.
    fn failure(&self) -> Option<(&str, String)> {
        match self {
            Self::Verified(report) => {
                let first = report.first_faults.first()?;
                let detail = match report.faults {
                    1 => format!("{}: {}", first.object, first.detail),
                    faults => format!("{faults} objects, the first: {}: {}", first.object, first.detail),
                };
                Some((job::MEDIA_DAMAGED, detail))
            }
            // What could not be done with single jobs stands in the report.
            Self::Acted(_) | Self::Fetched | Self::Pictured | Self::Exported(_) => None,
            Self::Failed(code, detail) => Some((code, detail.clone())),
        }
    }
}

/// Ends a job, unless it has ended. Repeating it is harmless.
pub(crate) async fn end_job(
    bus: &Bus,
    job: &JobRecord,
    outcome: &TaskOutcome,
    ended_kept_ms: u64,
) -> Result<(), TaskError> {
    let failure = outcome.failure();
    let mut has_ended = false;
    bus.change_record::<JobRecord>(&job.job_id.to_string(), |found| {
        // Another call may come after a conflict, and find that it has ended.
        has_ended = false;
        let mut record = found.filter(|job| job.status == JobStatus::Active)?.clone();
        let now_ms = nats::estimated_broker_now_ms();
        has_ended = true;
        match outcome {
            TaskOutcome::Verified(report) => record.verified = Some(report.clone()),
            TaskOutcome::Acted(report) => record.acted = Some(report.clone()),
            TaskOutcome::Exported(report) => record.exported = Some(Box::new(report.clone())),
            TaskOutcome::Fetched | TaskOutcome::Pictured | TaskOutcome::Failed(..) => {}
        }
        let (job_id, media_id) = (record.job_id, record.media_id);
        let (owner, kind) = (record.owner.clone(), record.kind.clone());
        let Some((code, detail)) = &failure else {
            record.mark_ended(JobStatus::Succeeded, now_ms, ended_kept_ms);
            let wall_ms = now_ms.saturating_sub(record.created_at_ms);
            let exported = record.exported.as_deref().cloned();
            let succeeded = JobSucceeded { job_id, media_id, owner, kind, wall_ms, cpu_ms: 0, exported };
            return Some((record, Outbox::new().with_event(&succeeded)));
        };
        record.mark_ended(JobStatus::Failed, now_ms, ended_kept_ms);
        (record.code, record.detail) = (Some((*code).to_owned()), Some(detail.clone()));
        let (code, detail) = ((*code).to_owned(), detail.clone());
        let failed = JobFailed { job_id, media_id, owner, kind, code, detail };
        Some((record, Outbox::new().with_event(&failed)))
    })
    .await?;
    if has_ended {
        let ending = if failure.is_none() { "succeeded" } else { "failed" };
        TASKS_ENDED.increment(&[kind_name(job), ending]);
    }
    if let Some((code, detail)) = failure {
        tracing::warn!(media.id = %job.media_id, job.id = %job.job_id, code, detail, "the job failed");
    }
    Ok(())
}

/// The kind of a job, as its metrics name it.
pub(crate) fn kind_name(job: &JobRecord) -> &'static str {
    JobKind::parse(&job.kind).map_or("other", JobKind::name)
}

/// Notes in a job that ended before its end what it had done with other jobs until then: its part's record goes sooner.
pub(crate) async fn keep_report(
    bus: &Bus,
    job: &JobRecord,
    report: JobActionReport,
) -> Result<(), TaskError> {
    if job.action.is_none() {
        return Ok(());
    }
    bus.change_record::<JobRecord>(&job.job_id.to_string(), |found| {
        let record = found.filter(|job| job.acted.is_none())?.clone();
        Some((JobRecord { acted: Some(report.clone()), ..record }, Outbox::new()))
    })
    .await?;
    Ok(())
}

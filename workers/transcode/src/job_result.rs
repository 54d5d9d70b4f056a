//! How a job ends: succeeded with a ready medium, or failed with a code.

use nats::metrics::{labels::JobOutcome, table::ENCODES};
use nats::{Bus, Outbox};
use schemas::{
    ids::MediaId,
    job::{self, JobFailed, JobSucceeded},
    media::{self, MediaEncode, MediaReady, MediaStatus},
};

use crate::error::TranscodeError;

/// Publishes a finished encode: the medium is ready, then the job has succeeded. Repeating it is harmless. False
/// when the job had ended, or ends without this result, since its medium failed or a newer encode was begun.
pub(crate) async fn complete_job(
    bus: &Bus,
    job: &job::JobRecord,
    encode: &MediaEncode,
    cpu_ms: u64,
    ended_kept_ms: u64,
) -> Result<bool, TranscodeError> {
    let key = job.job_id.to_string();
    // From here on the job can't be cancelled: a medium that is ready belongs to a job that succeeded.
    let held = bus
        .change_record::<job::JobRecord>(&key, |found| {
            Some((found?.with_publishing_begun(nats::estimated_broker_now_ms())?, Outbox::new()))
        })
        .await?;
    if held.is_none_or(|held| held.record.status != job::JobStatus::Active) {
        tracing::info!(job.id = key, "it ended before its result was published");
        return Ok(false);
    }
    // The medium first: a crash in between leaves the job active, and its finish is repeated. The other way round
    // nothing would make the medium ready.
    let medium = bus
        .change_record::<media::MediaRecord>(&job.media_id.to_string(), |found| {
            let found = found?;
            let is_newer = found.encode.as_ref().is_none_or(|e| e.number <= encode.number);
            let is_done = found.status == MediaStatus::Ready && found.encode.as_ref() == Some(encode);
            // One that failed meanwhile failed with this job: the first change of the medium decides how both end.
            let has_failed = matches!(found.status, MediaStatus::Failed | MediaStatus::Rejected);
            if !is_newer || is_done || has_failed || found.attempt.encode > encode.number {
                return None;
            }
            let mut record = found.with_ready_encode(encode, nats::estimated_broker_now_ms());
            record.changed_at_ms = nats::now_ms();
            let ready =
                MediaReady { media_id: job.media_id, owner: job.owner.clone(), encode: encode.clone() };
            Some((record, Outbox::new().with_event(&ready)))
        })
        .await?;
    let medium = medium.map(|held| held.record);
    if let Some(failed) = medium.as_ref().filter(|medium| medium.status == MediaStatus::Failed) {
        let code = failed.code.as_deref().unwrap_or(job::PART_FAILED);
        let detail = failed.detail.as_deref().unwrap_or_default();
        end_failed_job(bus, job, code, detail, ended_kept_ms).await?;
        return Ok(false);
    }
    if medium.is_some_and(|medium| medium.attempt.encode > encode.number) {
        let detail = "a newer encode of the medium was begun";
        end_failed_job(bus, job, job::JOB_SUPERSEDED, detail, ended_kept_ms).await?;
        return Ok(false);
    }
    end_succeeded_job(bus, job, cpu_ms, ended_kept_ms).await?;
    Ok(true)
}

async fn end_succeeded_job(
    bus: &Bus,
    job: &job::JobRecord,
    cpu_ms: u64,
    ended_kept_ms: u64,
) -> Result<(), TranscodeError> {
    let mut has_ended = false;
    bus.change_record::<job::JobRecord>(&job.job_id.to_string(), |found| {
        // It may be called again after a conflict, and then find that another has ended the job.
        has_ended = false;
        let mut record = found.filter(|job| job.status == job::JobStatus::Active)?.clone();
        has_ended = true;
        let now_ms = nats::estimated_broker_now_ms();
        record.mark_ended(job::JobStatus::Succeeded, now_ms, ended_kept_ms);
        let succeeded = JobSucceeded {
            job_id: job.job_id,
            media_id: job.media_id,
            owner: job.owner.clone(),
            kind: job.kind.clone(),
            wall_ms: now_ms.saturating_sub(job.created_at_ms),
            cpu_ms,
            exported: None,
        };
        Some((record, Outbox::new().with_event(&succeeded)))
    })
    .await?;
    if has_ended {
        ENCODES.increment(JobOutcome::Succeeded);
    }
    Ok(())
}

/// Ends a job without a result. A medium that plays an older encode keeps playing it. Repeating it is harmless.
pub(crate) async fn fail_job(
    bus: &Bus,
    job: &job::JobRecord,
    code: &str,
    detail: &str,
    ended_kept_ms: u64,
) -> Result<(), TranscodeError> {
    // The medium first, as in `complete_job`: an ended job is never looked at again.
    let medium = fail_medium(bus, job.media_id, job.encode, code, detail).await?;
    if medium.is_some_and(|medium| plays_result(&medium, job)) {
        // Another worker published the result before: what this one met is no failure of the job.
        return end_succeeded_job(bus, job, 0, ended_kept_ms).await;
    }
    end_failed_job(bus, job, code, detail, ended_kept_ms).await
}

/// True when the medium plays what the job has made.
fn plays_result(medium: &media::MediaRecord, job: &job::JobRecord) -> bool {
    medium.status == MediaStatus::Ready
        && medium.encode.as_ref().is_some_and(|encode| encode.job_id == job.job_id)
}

async fn end_failed_job(
    bus: &Bus,
    job: &job::JobRecord,
    code: &str,
    detail: &str,
    ended_kept_ms: u64,
) -> Result<(), TranscodeError> {
    let mut has_ended = false;
    bus.change_record::<job::JobRecord>(&job.job_id.to_string(), |found| {
        has_ended = false;
        let mut record = found.filter(|job| job.status == job::JobStatus::Active)?.clone();
        has_ended = true;
        let failed = mark_failed(&mut record, code, detail, ended_kept_ms);
        Some((record, Outbox::new().with_event(&failed)))
    })
    .await?;
    if has_ended {
        ENCODES.increment(JobOutcome::Failed);
    }
    tracing::warn!(media.id = %job.media_id, job.id = %job.job_id, code, detail, "the job failed");
    Ok(())
}

/// Ends a job as failed; answers the event of it.
pub(crate) fn mark_failed(
    job: &mut job::JobRecord,
    code: &str,
    detail: &str,
    ended_kept_ms: u64,
) -> JobFailed {
    job.mark_ended(job::JobStatus::Failed, nats::estimated_broker_now_ms(), ended_kept_ms);
    (job.code, job.detail) = (Some(code.to_owned()), Some(detail.to_owned()));
    JobFailed {
        job_id: job.job_id,
        media_id: job.media_id,
        owner: job.owner.clone(),
        kind: job.kind.clone(),
        code: code.to_owned(),
        detail: detail.to_owned(),
    }
}

/// Marks a medium that nothing plays of as failed; answers how it is then. `encode` is the number of the one that failed.
pub(crate) async fn fail_medium(
    bus: &Bus,
    media_id: MediaId,
    encode: u32,
    code: &str,
    detail: &str,
) -> Result<Option<media::MediaRecord>, TranscodeError> {
    let held = bus
        .change_record::<media::MediaRecord>(&media_id.to_string(), |found| {
            Some((found?.with_failure(encode, code, detail, nats::now_ms())?, Outbox::new()))
        })
        .await?;
    Ok(held.map(|held| held.record))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use futures::StreamExt;
    use nats::{ReaderStart, Role, VersionedRecord, reader, testing::TestBroker};
    use schemas::{
        ids::JobId,
        job::{JobRecord, JobStatus},
        media::MediaRecord,
        subjects,
    };

    use super::*;

    /// Which of them comes first differs, and so does what it meets halfway.
    const RACES: u16 = 1_000;

    async fn put<R: schemas::KvRecord>(bus: &Bus, record: R) {
        bus.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
    }

    fn encode_of(job: &JobRecord) -> MediaEncode {
        MediaEncode {
            number: job.encode,
            job_id: job.job_id,
            prefix: job.prefix.clone(),
            duration_ms: 1,
            renditions: Vec::new(),
            subtitles: Vec::new(),
            has_poster: false,
            has_storyboard: false,
            has_checksums: false,
            warnings: Vec::new(),
        }
    }

    /// Lets an end that takes six requests get as far as `requests` of its own.
    async fn wait_requests(bus: &Bus, job: &JobRecord, requests: u16) {
        for _ in 0..requests {
            bus.load_record::<JobRecord>(&job.job_id.to_string()).await.unwrap();
        }
    }

    /// Cancels as the ingress does.
    async fn cancel(bus: &Bus, job: &JobRecord) {
        bus.change_record::<JobRecord>(&job.job_id.to_string(), |found| {
            let (record, event) = found?.with_cancellation(Some("olga"), nats::now_ms(), 1_000_000)?;
            Some((record, Outbox::new().with_event(&event)))
        })
        .await
        .unwrap();
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn of_a_cancel_and_an_end_that_meet_one_wins_whole() {
        let broker = TestBroker::start().await;
        let (worker, person) = (broker.bus(Role::Transcode).await, broker.bus(Role::Admin).await);
        let race = async |number: u16| {
            let mut id = [7; 16];
            id[..2].copy_from_slice(&number.to_be_bytes());
            let (job_id, media_id) = (JobId::from_bytes(id), MediaId::from_bytes(id));
            let job = JobRecord { job_id, media_id, ..schemas::examples::job_record() };
            let medium = MediaRecord::new(media_id, "olga".into(), MediaStatus::Stored, 1);
            put(&worker, medium).await;
            put(&worker, job.clone()).await;
            let ending = async {
                match number % 2 {
                    0 => _ = complete_job(&worker, &job, &encode_of(&job), 1, 1_000_000).await.unwrap(),
                    _ => fail_job(&worker, &job, "child_crashed", "it crashed", 1_000_000).await.unwrap(),
                }
            };
            let other = async {
                wait_requests(&person, &job, number % 13).await;
                if !number.is_multiple_of(3) {
                    return cancel(&person, &job).await;
                }
                // A second worker that took the finish over, and failed at it.
                fail_job(&person, &job, "store_lost", "it was lost", 1_000_000).await.unwrap();
            };
            tokio::join!(ending, other);
            let job = person.load_record::<JobRecord>(&job_id.to_string()).await.unwrap().unwrap().record;
            let medium =
                person.load_record::<MediaRecord>(&media_id.to_string()).await.unwrap().unwrap().record;
            let is_ready = medium.status == MediaStatus::Ready;
            assert_eq!(is_ready, job.status == JobStatus::Succeeded, "{job:?} {medium:?}");
            (number, job_id, job.status)
        };
        let ended: Vec<(u16, JobId, JobStatus)> =
            futures::stream::iter(1..=RACES).map(race).buffer_unordered(8).collect().await;
        let filter = vec![subjects::entity_event_filter("job")];
        let config = reader::ReaderConfig::new(subjects::EVENTS, filter, ReaderStart::Sequence(1));
        let mut events = person.open_reader(config).await.unwrap();
        let mut published = Vec::new();
        while let Some(event) = events.next_pending().await.unwrap() {
            let (_, verb, id) = subjects::parse_event_subject(&event.subject).unwrap();
            published.push((id.to_owned(), verb.to_owned()));
        }
        let is_found = |wanted| ended.iter().any(|(number, _, status)| number % 2 == 0 && *status == wanted);
        assert!(is_found(JobStatus::Succeeded) && is_found(JobStatus::Failed), "neither always comes first");
        let mut verbs_by_job = BTreeMap::<_, Vec<_>>::new();
        for (id, verb) in published {
            verbs_by_job.entry(id).or_default().push(verb);
        }
        for (_, job_id, status) in ended {
            let verbs = verbs_by_job.remove(&job_id.to_string()).unwrap_or_default();
            let wanted = match status {
                JobStatus::Succeeded => "succeeded",
                JobStatus::Failed => "failed",
                JobStatus::Cancelled => "cancelled",
                JobStatus::Active => "",
            };
            assert_eq!(verbs, [wanted], "one end of {job_id}");
        }
    }
}

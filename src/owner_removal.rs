//! Removing an owner: credentials first, then webhooks, schedules, media, jobs, values of the cache, and what counts them.
//!
//! Media are removed for good, as with `permanent=true`, and the keeper purges what is stored of them within minutes; it also clears
//! webhooks with the log of their deliveries. What happened stays in EVENTS and in the audit log for as long as these keep anything, and
//! answers to repeated requests for a day.
//!
//! Limits: reads every record of the buckets once; one thing is changed at a time, and doing it again goes on where it ended.

use auth::removal::{find_records, remove_record};
use ingress::{
    jobs::cancellation::{JobCanceller, cancel_job},
    removal::end_media_work,
    schedules::owner_key,
    uploads::UploadRefusal,
};
use nats::{Bus, BusError, Outbox, ReaderStart, reader};
use schemas::{
    KvRecord, cached,
    document::MediaDocumentRecord,
    gate::PlaybackSession,
    hook::HookRecord,
    ids::{JobId, MediaId, RequestId},
    job::{JobRecord, JobStatus},
    media::{MediaRecord, MediaRemoved},
    pause::QueuePauses,
    schedule::ScheduleRecord,
    subjects,
    upload::{OpenUploads, UploadRecord},
    usage::OwnerUsage,
};
use serde::Serialize;
use sha2::{Digest, Sha256};

/// Who removes owners from the command line.
const BY: &str = "admin";

/// How often a change is tried that others come before.
const CHANGE_ATTEMPTS_MAX: usize = 8;

/// What was removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct OwnerRemovalCounts {
    /// Media.
    pub media_count: usize,
    /// Uploads that never became media, such as parts of others; they go with their own time.
    pub upload_count: usize,
    /// API keys, also those that were revoked before.
    pub key_count: usize,
    /// Sessions of the account, also those that were over.
    pub session_count: usize,
    /// Playback sessions that it had opened.
    pub playback_count: usize,
    /// Schedules.
    pub schedule_count: usize,
    /// Webhooks.
    pub hook_count: usize,
    /// Jobs that are of no medium.
    pub job_count: usize,
    /// Values of the cache API.
    pub value_count: usize,
}

/// Removes all that belongs to an owner.
///
/// # Errors
/// When the broker does not answer; what was removed until then stays so.
pub async fn remove_owner(bus: &Bus, owner: &str) -> Result<OwnerRemovalCounts, BusError> {
    // Nothing new comes from then on: no replica believes any more what it read of the credentials before.
    let request_id = RequestId::from_bytes(nats::new_id_bytes());
    let credentials = auth::removal::remove_credentials(bus, owner, (BY, request_id)).await?;
    let hook_count = remove_hooks(bus, owner).await?;
    let schedule_count = remove_schedules(bus, owner).await?;
    let media_count = remove_media(bus, owner).await?;
    let upload_count = end_uploads(bus, owner).await?;
    let job_count = remove_jobs(bus, owner).await?;
    let mut playback_count = 0;
    for session in find_records::<PlaybackSession>(bus, "*", |session| session.viewer == owner).await? {
        for slot in &session.slots {
            remove_record(bus, PlaybackSession::BUCKET, slot).await?;
        }
        remove_record(bus, PlaybackSession::BUCKET, &session.playback_id.to_string()).await?;
        playback_count += 1;
    }
    let value_count =
        remove_keys(bus, cached::CachedEntry::BUCKET, &ingress::cached::entry_filter(owner)).await?;
    remove_counts(bus, owner).await?;
    Ok(OwnerRemovalCounts {
        media_count,
        upload_count,
        key_count: credentials.key_count,
        session_count: credentials.session_count,
        playback_count,
        schedule_count,
        hook_count,
        job_count,
        value_count,
    })
}

async fn remove_hooks(bus: &Bus, owner: &str) -> Result<usize, BusError> {
    let filter = schemas::hook::hook_key(&owner_key(owner), "*");
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(HookRecord::BUCKET)).await?;
    let mut count = 0;
    for key in list_keys(bus, HookRecord::BUCKET, &filter).await? {
        let removed = bus.change_record::<HookRecord>(&key, |found| {
            Some(ingress::hooks::remove_record(found?.clone(), now_ms, BY))
        });
        count += usize::from(removed.await?.is_some());
    }
    Ok(count)
}

async fn remove_schedules(bus: &Bus, owner: &str) -> Result<usize, BusError> {
    let filter = schemas::schedule::schedule_key(&owner_key(owner), "*");
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(ScheduleRecord::BUCKET)).await?;
    let mut count = 0;
    for key in list_keys(bus, ScheduleRecord::BUCKET, &filter).await? {
        let removed = bus.change_record::<ScheduleRecord>(&key, |found| {
            Some(ingress::schedules::remove_record(found?.clone(), now_ms, BY))
        });
        count += usize::from(removed.await?.is_some());
        remove_record(bus, ScheduleRecord::BUCKET, &key).await?;
    }
    Ok(count)
}

/// Removes media for good, also those that could be restored until now.
async fn remove_media(bus: &Bus, owner: &str) -> Result<usize, BusError> {
    // Of some only the stages know.
    let mut media: Vec<_> = find_records::<MediaRecord>(bus, "*", |asset| asset.owner == owner)
        .await?
        .iter()
        .map(|asset| asset.media_id)
        .collect();
    let documents = find_records::<MediaDocumentRecord>(bus, "*", |document| document.owner == owner).await?;
    media.extend(documents.iter().map(|document| document.media_id));
    media.sort_unstable();
    media.dedup();
    let mut count = 0;
    for media_id in media {
        count += usize::from(remove_medium(bus, media_id, owner).await?);
    }
    Ok(count)
}

/// Removes a medium for good, unless it is removed so already, or somebody else's; true when it was.
async fn remove_medium(bus: &Bus, media_id: MediaId, owner: &str) -> Result<bool, BusError> {
    let key = media_id.to_string();
    let mut attempt = 0;
    loop {
        let asset = bus.load_record::<MediaRecord>(&key).await?.map(|held| held.record);
        let held = bus.load_with_tombstone::<MediaDocumentRecord>(&key).await?;
        let mut held = match (held, asset) {
            (Some(held), _) => held,
            (None, Some(asset)) => nats::VersionedRecord::new(MediaDocumentRecord::new(
                media_id,
                owner.to_owned(),
                asset.created_at_ms,
            )),
            (None, None) => return Ok(false),
        };
        if held.record.owner != owner || (held.record.is_removed() && !held.record.is_restorable) {
            return Ok(false);
        }
        held.record = held.record.into_removed(nats::now_ms());
        let event =
            MediaRemoved { media_id, owner: owner.to_owned(), removed_by: BY.to_owned(), is_final: true };
        attempt += 1;
        match bus.commit_record(&mut held, Outbox::new().with_event(&event)).await {
            Ok(()) => {
                end_media_work(bus, &held.record).await?;
                return Ok(true);
            }
            // Somebody changed it meanwhile.
            Err(BusError::Conflict { .. }) if attempt < CHANGE_ATTEMPTS_MAX => {}
            Err(error) => return Err(error),
        }
    }
}

/// Ends uploads that no medium leads to: parts of others. The keeper frees what they hold.
async fn end_uploads(bus: &Bus, owner: &str) -> Result<usize, BusError> {
    let is_partial = |upload: &UploadRecord| upload.owner == owner && upload.is_partial() && !upload.freed;
    let mut count = 0;
    for upload in find_records::<UploadRecord>(bus, "*", is_partial).await? {
        match ingress::uploads::end_removed_upload(bus, upload.upload_id).await {
            Ok(()) => count += 1,
            Err(UploadRefusal::NotFound | UploadRefusal::Displaced { .. }) => {}
            Err(refusal) => return Err(BusError::unavailable(format!("an upload: {refusal:?}"))),
        }
    }
    Ok(count)
}

/// Removes the jobs that no purge of a medium finds: those that act on others.
async fn remove_jobs(bus: &Bus, owner: &str) -> Result<usize, BusError> {
    let theirs = |job: &JobRecord| job.owner == owner && job.action.is_some();
    let mut count = 0;
    for job in find_records::<JobRecord>(bus, "*", theirs).await? {
        if job.status == JobStatus::Active {
            cancel_job(bus, job.job_id, JobCanceller::Removal).await?;
        }
        remove_job(bus, job.job_id).await?;
        count += 1;
    }
    Ok(count)
}

/// Removes the record of a job; its parts first, which are found by it.
async fn remove_job(bus: &Bus, job_id: JobId) -> Result<(), BusError> {
    remove_keys(bus, JobRecord::BUCKET, &format!("{job_id}.*")).await?;
    remove_record(bus, JobRecord::BUCKET, &job_id.to_string()).await
}

/// Removes what counts the owner's things, and the pause of its jobs.
async fn remove_counts(bus: &Bus, owner: &str) -> Result<(), BusError> {
    let digest = Sha256::digest(owner.as_bytes());
    remove_record(bus, OpenUploads::BUCKET, &OpenUploads::key_for_owner(&digest)).await?;
    let today = OwnerUsage::key_for_owner(&digest, 0);
    if let Some((all_days, _)) = today.rsplit_once('.') {
        remove_keys(bus, OwnerUsage::BUCKET, &format!("{all_days}.*")).await?;
    }
    bus.change_record::<QueuePauses>(QueuePauses::KEY, |found| {
        let mut pauses = found.filter(|pauses| pauses.owners.contains_key(owner))?.clone();
        pauses.owners.remove(owner);
        Some((pauses, Outbox::new()))
    })
    .await?;
    Ok(())
}

/// Removes every record under keys that fit; answers how many there were.
async fn remove_keys(bus: &Bus, bucket: &str, filter: &str) -> Result<usize, BusError> {
    let keys = list_keys(bus, bucket, filter).await?;
    for key in &keys {
        remove_record(bus, bucket, key).await?;
    }
    Ok(keys.len())
}

/// The keys of a bucket that fit, and hold something.
async fn list_keys(bus: &Bus, bucket: &str, filter: &str) -> Result<Vec<String>, BusError> {
    let (stream, prefix) = (subjects::kv_stream_name(bucket), subjects::kv_subject(bucket, ""));
    let config = reader::ReaderConfig {
        is_headers_only: true,
        ..reader::ReaderConfig::new(
            stream,
            vec![subjects::kv_subject(bucket, filter)],
            ReaderStart::LastPerSubject,
        )
    };
    let mut reader = bus.open_reader(config).await?;
    let mut keys = Vec::new();
    while let Some(entry) = reader.next_pending().await? {
        if !entry.is_removal() {
            keys.extend(entry.subject.strip_prefix(&prefix).map(ToOwned::to_owned));
        }
    }
    Ok(keys)
}

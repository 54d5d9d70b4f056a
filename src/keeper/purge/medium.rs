//! Purging one medium after the other.

use std::collections::HashMap;

use nats::{Bus, Outbox};
use schemas::{
    KvRecord, document,
    encode::SupersededEncode,
    experience::MediaExperience,
    gate,
    ids::{JobId, MediaId, UploadId},
    job, keys, media, subjects, upload,
};
use store::Store;

use super::{
    PurgeConfig,
    pending::{PendingPurges, RemovedMedium, find_due},
    read_bucket,
};
use crate::keeper::webhooks::hook_log;
use ingress::{
    jobs::cancellation::{JobCanceller, cancel_job},
    removal,
    uploads::{self, FencedUploadRecord, UploadRefusal},
};

/// Longest time over which what is due is gathered, in milliseconds.
const BATCH_MS_MAX: u64 = 60_000;

/// Purges with the rights of the keeper.
#[derive(Debug)]
pub(super) struct MediaPurger {
    pub(super) bus: Bus,
    pub(super) store: Store,
    pub(super) config: PurgeConfig,
}

/// What the buckets hold of one medium beside its own records.
#[derive(Debug, Default)]
struct MediumLeftovers {
    sessions: Vec<String>,
    uploads: Vec<UploadId>,
    jobs: Vec<JobId>,
    /// Keys of the parts of all jobs.
    parts: Vec<String>,
    /// Jobs that have not ended.
    active: Vec<JobId>,
    /// Sequences in the log of webhooks of what was sent about it.
    deliveries: Vec<u64>,
}

impl MediaPurger {
    /// Does what is due by the broker's clock: ages of removals and rejections are those of stored messages.
    pub(super) async fn purge_due(&self, pending: &mut PendingPurges) {
        match self.bus.broker_now_ms(&subjects::kv_stream_name(document::MediaDocumentRecord::BUCKET)).await {
            Ok(now_ms) => {
                // What is due is looked for in all sessions, uploads and jobs: together, and not whenever an upload has failed.
                let batch_ms = self.config.grace_s.saturating_mul(1_000).clamp(1, BATCH_MS_MAX);
                self.purge_due_at(pending, now_ms - now_ms % batch_ms).await;
            }
            Err(error) => tracing::warn!(%error, "purging waits for the broker"),
        }
    }

    /// Does what is due at `now_ms`; what fails waits for the next pass.
    pub(super) async fn purge_due_at(&self, pending: &mut PendingPurges, now_ms: u64) {
        self.end_work(pending).await;
        let grace_ms = self.config.grace_s.saturating_mul(1_000);
        let ended_ms = |removed: &RemovedMedium| {
            let restorable_ms = if removed.is_restorable { self.config.restorable_ms } else { 0 };
            removed.since_ms.saturating_add(restorable_ms)
        };
        let removed = find_due(&pending.removed, ended_ms, grace_ms, now_ms);
        if !removed.is_empty() {
            match self.find_leftovers(&removed).await {
                Ok(found) => self.purge_all(pending, found).await,
                Err(error) => tracing::warn!(%error, "what is left of removed media could not be looked for"),
            }
        }
        // Halfway through the time of the mark: a writer that comes later can't make a record anew, but it can put an object.
        let half_ms = self.config.mark_s.saturating_mul(500);
        for media_id in find_due(&pending.purged, |since_ms| *since_ms, half_ms, now_ms) {
            match self.store.remove_folder(&keys::media_prefix(media_id)).await {
                Ok(()) => drop(pending.purged.remove(&media_id)),
                Err(error) => {
                    tracing::warn!(%error, media.id = %media_id, "the store is looked at again later");
                }
            }
        }
        let age_ms = self.config.rejected_age_s.saturating_mul(1_000);
        for media_id in find_due(&pending.rejected, |since_ms| *since_ms, age_ms, now_ms) {
            match self.remove_source(media_id).await {
                Ok(()) => drop(pending.rejected.remove(&media_id)),
                Err(error) => tracing::warn!(?error, media.id = %media_id, "a rejected source stays for now"),
            }
        }
        let age_ms = self.config.superseded_age_ms;
        for media_id in find_due(&pending.superseded, |since_ms| *since_ms, age_ms, now_ms) {
            match self.remove_superseded(media_id, now_ms.saturating_sub(age_ms)).await {
                // What is left of them comes with the change of the record.
                Ok(()) => drop(pending.superseded.remove(&media_id)),
                Err(error) => {
                    tracing::warn!(?error, media.id = %media_id, "a replaced encode stays for now");
                }
            }
        }
    }

    /// Ends what a crash of the ingress left running.
    async fn end_work(&self, pending: &mut PendingPurges) {
        for (media_id, removed) in pending.removed.iter_mut().filter(|(_, removed)| !removed.is_quiet) {
            match removal::end_removed_media_work(&self.bus, *media_id).await {
                Ok(()) => removed.is_quiet = true,
                Err(error) => {
                    tracing::warn!(%error, media.id = %media_id, "work on a removed medium goes on");
                }
            }
        }
    }

    async fn purge_all(&self, pending: &mut PendingPurges, found: HashMap<MediaId, MediumLeftovers>) {
        for (media_id, found) in found {
            let Some(removed) = pending.removed.get(&media_id).copied() else { continue };
            match self.purge_medium(media_id, removed, &found).await {
                // The mark of its document says when it was purged.
                Ok(true) => drop(pending.removed.remove(&media_id)),
                Ok(false) => {
                    tracing::info!(media.id = %media_id, "a removed medium waits for its jobs to end");
                }
                Err(refusal) => {
                    tracing::warn!(?refusal, media.id = %media_id, "a removed medium is purged later");
                }
            }
        }
    }

    /// What the buckets hold of `media_ids`.
    async fn find_leftovers(
        &self,
        media_ids: &[MediaId],
    ) -> Result<HashMap<MediaId, MediumLeftovers>, nats::BusError> {
        let mut found: HashMap<MediaId, MediumLeftovers> =
            media_ids.iter().map(|id| (*id, MediumLeftovers::default())).collect();
        read_bucket(&self.bus, gate::PlaybackSession::BUCKET, |key, value| {
            if let Ok((_, session)) = nats::decode_record::<gate::PlaybackSession>(key, value)
                && let Some(found) = found.get_mut(&session.media_id)
            {
                found.sessions.push(key.to_owned());
            }
        })
        .await?;
        read_bucket(&self.bus, upload::UploadRecord::BUCKET, |key, value| {
            if let Ok((_, record)) = nats::decode_record::<upload::UploadRecord>(key, value)
                && let Some(found) = found.get_mut(&record.media_id)
            {
                found.uploads.push(record.upload_id);
            }
        })
        .await?;
        self.find_jobs(&mut found).await?;
        for (media_id, deliveries) in hook_log::find_deliveries(&self.bus, media_ids).await? {
            if let Some(found) = found.get_mut(&media_id) {
                found.deliveries = deliveries;
            }
        }
        Ok(found)
    }

    /// Adds the jobs and their parts.
    async fn find_jobs(&self, found: &mut HashMap<MediaId, MediumLeftovers>) -> Result<(), nats::BusError> {
        let mut media_of = HashMap::new();
        let mut parts: Vec<(JobId, String)> = Vec::new();
        read_bucket(&self.bus, job::JobRecord::BUCKET, |key, value| match key.split_once('.') {
            // What a purge left has no value.
            Some((job_id, _)) if !value.is_empty() => {
                parts.extend(job_id.parse().ok().map(|job_id| (job_id, key.to_owned())));
            }
            Some(_) => {}
            None => {
                if let Ok((_, record)) = nats::decode_record::<job::JobRecord>(key, value)
                    && let Some(found) = found.get_mut(&record.media_id)
                {
                    media_of.insert(record.job_id, record.media_id);
                    found.jobs.push(record.job_id);
                    found.active.extend((record.status == job::JobStatus::Active).then_some(record.job_id));
                }
            }
        })
        .await?;
        for (job_id, key) in parts {
            if let Some(found) = media_of.get(&job_id).and_then(|media_id| found.get_mut(media_id)) {
                found.parts.push(key);
            }
        }
        Ok(())
    }

    /// Writes into the document of a removed medium that nobody restores it any more; answers whose it was. `None` when it was
    /// restored meanwhile, also where it was removed again since, or purged.
    async fn close_document(
        &self,
        media_id: MediaId,
        removed: RemovedMedium,
    ) -> Result<Option<String>, nats::BusError> {
        let key = media_id.to_string();
        let held = self.bus.load_with_tombstone::<document::MediaDocumentRecord>(&key).await?;
        let is_meant = |document: &document::MediaDocumentRecord| {
            document.is_removed() && document.removal_count == removed.removal_count
        };
        let Some(mut held) = held.filter(|held| is_meant(&held.record)) else { return Ok(None) };
        if held.record.is_restorable {
            let now_ms = nats::estimated_broker_now_ms();
            held.record = held.record.into_removed(now_ms);
            // By compare-and-set: who restores it in this moment is first, or late.
            self.bus.commit_record(&mut held, Outbox::new()).await?;
        }
        Ok(Some(held.record.owner))
    }

    /// Writes the event that nothing is left of a medium but its document, with which it goes.
    async fn announce_purge(&self, media_id: MediaId, owner: String) -> Result<(), nats::BusError> {
        let key = media_id.to_string();
        let held = self.bus.load_with_tombstone::<document::MediaDocumentRecord>(&key).await?;
        let Some(mut held) = held else { return Ok(()) };
        let purged = media::MediaPurged { media_id, owner };
        self.bus.commit_record(&mut held, Outbox::new().with_event(&purged)).await
    }

    /// Removes all that is left of a medium; false when a job was planned after its removal, which is cancelled first.
    async fn purge_medium(
        &self,
        media_id: MediaId,
        removed: RemovedMedium,
        found: &MediumLeftovers,
    ) -> Result<bool, UploadRefusal> {
        let Some(owner) = self.close_document(media_id, removed).await? else {
            // The change that says so comes, too.
            return Ok(true);
        };
        for job_id in &found.active {
            cancel_job(&self.bus, *job_id, JobCanceller::Removal).await?;
        }
        // A worker may hold a part until its next renewal and store segments behind our back: purged in a later
        // pass.
        if !found.active.is_empty() {
            return Ok(false);
        }
        let mut uploads = Vec::new();
        for upload_id in &found.uploads {
            if self.free_upload(*upload_id).await? {
                uploads.push(*upload_id);
            }
        }
        self.store.remove_folder(&keys::media_prefix(media_id)).await?;
        let id = media_id.to_string();
        // Its record is nobody's to read here, and has no events.
        self.bus.purge_key(document::SegmentKey::BUCKET, &id, self.config.mark_ttl()).await?;
        self.bus.purge_key(MediaExperience::BUCKET, &id, self.config.mark_ttl()).await?;
        hook_log::remove_deliveries(&self.bus, &found.deliveries).await?;
        for session in &found.sessions {
            self.purge_record(gate::PlaybackSession::BUCKET, session).await?;
        }
        for upload_id in &uploads {
            self.purge_record(upload::UploadRecord::BUCKET, &upload_id.to_string()).await?;
        }
        // The parts first: they are found by their job.
        for part in &found.parts {
            self.purge_record(job::JobRecord::BUCKET, part).await?;
        }
        for job_id in &found.jobs {
            self.purge_record(job::JobRecord::BUCKET, &job_id.to_string()).await?;
        }
        self.purge_record(media::MediaRecord::BUCKET, &id).await?;
        self.announce_purge(media_id, owner).await?;
        // The document last: it is what brings an interrupted purge back.
        self.purge_record(document::MediaDocumentRecord::BUCKET, &id).await?;
        tracing::info!(media.id = %media_id, "purged");
        Ok(true)
    }

    /// Purges a record once its events are sent.
    async fn purge_record(&self, bucket: &str, key: &str) -> Result<(), nats::BusError> {
        // Its events first: they would be lost with the record.
        self.bus.sweep_record(bucket, key).await?;
        self.bus.purge_key(bucket, key, self.config.mark_ttl()).await
    }

    /// Ends an upload that is still open, and frees what it holds outside the folder of its medium. False when its record stays for
    /// its own time: the medium was removed because the upload ended, and its client may ask why.
    async fn free_upload(&self, upload_id: UploadId) -> Result<bool, UploadRefusal> {
        let mut ledger =
            match FencedUploadRecord::load_any(&self.bus, upload_id, schemas::ENDED_KEPT_MS).await {
                Err(UploadRefusal::NotFound) => return Ok(false),
                ledger => ledger?,
            };
        match ledger.record().status {
            upload::UploadStatus::Received => return Ok(true),
            _ if ledger.record().freed => {}
            _ => match uploads::discard_upload(&self.store, &mut ledger).await {
                UploadRefusal::Gone(_) => {}
                refusal => return Err(refusal),
            },
        }
        Ok(ledger.record().code.as_deref() == Some(uploads::MEDIA_REMOVED))
    }

    /// Removes the encodes of a medium that were replaced at `until_ms` or before, and records that it did.
    async fn remove_superseded(&self, media_id: MediaId, until_ms: u64) -> Result<(), UploadRefusal> {
        let key = media_id.to_string();
        let Some(held) = self.bus.load_record::<media::MediaRecord>(&key).await? else { return Ok(()) };
        let is_over = |old: &SupersededEncode| old.superseded_at_ms <= until_ms;
        let (over, kept): (Vec<_>, Vec<_>) = held.record.superseded.into_iter().partition(is_over);
        let in_use: Vec<&str> = kept
            .iter()
            .map(|old| &old.encode)
            .chain(&held.record.encode)
            .map(|encode| encode.prefix.as_str())
            .collect();
        for old in over.iter().filter(|old| !in_use.contains(&old.encode.prefix.as_str())) {
            // The objects first, as with a source.
            self.store.remove_folder(&old.encode.prefix).await?;
        }
        let noted = self.bus.change_record::<media::MediaRecord>(&key, |found| {
            let mut asset = found?.clone();
            asset.superseded.retain(|old| !over.contains(old));
            Some((asset, Outbox::new()))
        });
        Box::pin(noted).await?;
        tracing::info!(media.id = %media_id, count = over.len(), "replaced encodes are removed");
        Ok(())
    }

    /// Removes the source of a rejected medium, and records that it did.
    async fn remove_source(&self, media_id: MediaId) -> Result<(), UploadRefusal> {
        // The object first: a note about something that is still there would keep it for ever.
        self.store.delete(&keys::source_key(media_id)).await?;
        let key = media_id.to_string();
        let noted = self.bus.change_record::<media::MediaRecord>(&key, |found| {
            let asset = found.filter(|asset| asset.status == media::MediaStatus::Rejected)?;
            let source_removed_at_ms = Some(nats::now_ms());
            Some((media::MediaRecord { source_removed_at_ms, ..asset.clone() }, Outbox::new()))
        });
        Box::pin(noted).await?;
        tracing::info!(media.id = %media_id, "the source of a rejected medium is removed");
        Ok(())
    }
}

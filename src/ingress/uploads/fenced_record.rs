//! The record of one upload: read with its owner checked, changed by compare-and-set.
//!
//! The generation in the record is the fence: who claimed an upload writes only while the record has the generation of that claim.

use nats::metrics::{
    labels::{UploadEnding, UploadWay},
    table::{UPLOADS_ENDED, UPLOADS_OPENED, UPLOADS_RESUMED},
};
use nats::{Bus, BusError, Outbox, VersionedRecord};
use schemas::{
    ids::{MediaId, UploadId},
    keys,
    upload::{
        UploadConcat, UploadCreated, UploadExpired, UploadProtocol, UploadReceived, UploadRecord,
        UploadStatus, UploadTerminated,
    },
};
use store::{Spool, SpoolCheckpoint, SpooledUpload, Store};

use super::{
    UploadContext, granted, medium,
    protocol::{self, FetchedVersion},
    refusal::UploadRefusal,
};
use auth::{Principal, upload_grant::return_upload_grant};
use web::problem_code::ProblemCode;

/// Why an upload ended whose medium was removed.
pub const MEDIA_REMOVED: &str = "media_removed";

/// The record as last read or written by this request.
#[derive(Debug)]
pub struct FencedUploadRecord {
    bus: Bus,
    held: Box<VersionedRecord<UploadRecord>>,
    /// Of the claim of this request, once it has made one.
    claimed_generation: Option<u64>,
    /// How long it is kept after its end, in milliseconds.
    kept_ms: u64,
    /// Who acts: the owner of a request, or the role that does so by itself.
    actor: String,
}

impl FencedUploadRecord {
    /// Writes the record of a new upload, with its event.
    pub(super) async fn create(shared: &UploadContext, record: UploadRecord) -> Result<Self, UploadRefusal> {
        let event = UploadCreated {
            upload_id: record.upload_id,
            media_id: record.media_id,
            owner: record.owner.clone(),
            length_bytes: record.length_bytes,
            filename: record.filename.clone(),
            expires_at_ms: record.expires_at_ms,
            is_partial: record.is_partial(),
        };
        let actor = record.owner.clone();
        let mut held = Box::new(VersionedRecord::new(record));
        Box::pin(shared.bus.commit_record(&mut held, Outbox::new().with_event(&event))).await?;
        UPLOADS_OPENED.increment(upload_way(&held.record));
        Ok(Self {
            actor,
            bus: shared.bus.clone(),
            held,
            claimed_generation: None,
            kept_ms: shared.config.ended_kept_ms,
        })
    }

    /// Reads the record of an upload that the principal may change; anything else is not found.
    pub(super) async fn load(
        shared: &UploadContext,
        upload_id: UploadId,
        who: &Principal,
    ) -> Result<Self, UploadRefusal> {
        let ledger = Self::load_any(&shared.bus, upload_id, shared.config.ended_kept_ms).await?;
        if granted::may_continue(who, ledger.record()) {
            Ok(Self { actor: who.owner.clone(), ..ledger })
        } else {
            Err(UploadRefusal::NotFound)
        }
    }

    /// Reads the record of any upload; one that ends now is kept for `kept_ms`, in milliseconds.
    pub async fn load_any(bus: &Bus, upload_id: UploadId, kept_ms: u64) -> Result<Self, UploadRefusal> {
        let held = Box::pin(bus.load_record::<UploadRecord>(&upload_id.to_string()))
            .await?
            .ok_or(UploadRefusal::NotFound)?;
        let actor = bus.role().name().to_owned();
        Ok(Self { bus: bus.clone(), held: Box::new(held), claimed_generation: None, kept_ms, actor })
    }

    /// How long it is kept after its end, in milliseconds.
    pub(super) fn kept_ms(&self) -> u64 {
        self.kept_ms
    }

    pub(super) fn bus(&self) -> &Bus {
        &self.bus
    }

    /// Refuses an upload that has ended.
    pub(super) fn check_not_ended(&self) -> Result<(), UploadRefusal> {
        protocol::check_not_ended(self.record())
    }

    /// Reads the record again. A claim stays what it was: another generation in the record ends it.
    pub(super) async fn reload(&mut self) -> Result<(), UploadRefusal> {
        self.held = Self::load_any(&self.bus, self.record().upload_id, self.kept_ms).await?.held;
        Ok(())
    }

    /// Refuses who claimed the upload and was displaced since.
    pub(super) fn check_claim(&self) -> Result<(), UploadRefusal> {
        let record = self.record();
        match self.claimed_generation {
            Some(claimed) if claimed != record.generation => {
                Err(UploadRefusal::Displaced { offset_bytes: record.offset_bytes })
            }
            _ => Ok(()),
        }
    }

    /// The trace of the request that made the upload.
    pub(super) fn trace(&self) -> Option<nats::spans::TraceContext> {
        self.held.trace()
    }

    /// The record as it was last read or written.
    pub fn record(&self) -> &UploadRecord {
        &self.held.record
    }

    pub(super) fn upload_id(&self) -> UploadId {
        self.held.record.upload_id
    }

    pub(super) fn media_id(&self) -> MediaId {
        self.held.record.media_id
    }

    /// True when only its completion is missing.
    pub(crate) fn is_full(&self) -> bool {
        self.record().is_full()
    }

    /// Where the bytes belong.
    pub(super) fn spool_place(&self, size_bytes_max: u64) -> SpooledUpload {
        let record = self.record();
        SpooledUpload {
            upload_id: record.upload_id,
            media_id: record.media_id,
            generation: record.generation,
            length_bytes_max: record.length_bytes.unwrap_or(size_bytes_max),
        }
    }

    /// What of it is durable.
    pub(super) fn durable_bytes(&self) -> SpoolCheckpoint {
        let record = self.record();
        SpoolCheckpoint { offset_bytes: record.offset_bytes, multipart: record.multipart.clone() }
    }

    /// Raises the fence for this writer, fixes the length, and the version of what is fetched. [`BusError::Conflict`] when somebody else
    /// was first.
    pub(super) async fn claim_for_writer(
        &mut self,
        holder: &str,
        length_bytes: Option<u64>,
        fetched: Option<&FetchedVersion>,
    ) -> Result<(), BusError> {
        let record = &mut self.held.record;
        let is_resumed = record.offset_bytes > 0 && record.length_bytes != Some(record.offset_bytes);
        // Of which version the first byte is, all that follow have to be.
        if let (Some(fetch), Some(version), 0) = (&mut record.fetch, fetched, record.offset_bytes) {
            fetch.validator.clone_from(&version.validator);
        }
        // With a new generation the keys of tail objects differ, so that an older writer can't touch ours.
        record.generation += 1;
        record.holder = Some(holder.to_owned());
        record.length_bytes = length_bytes;
        Box::pin(self.bus.commit_record(&mut self.held, Outbox::new())).await?;
        self.claimed_generation = Some(self.held.record.generation);
        UPLOADS_RESUMED.add((), u64::from(is_resumed));
        Ok(())
    }

    /// Raises the fence against a holder that does not answer.
    pub(super) async fn evict_writer(&mut self) -> Result<(), BusError> {
        // A writer that is still at it finds itself displaced when it records its next bytes.
        self.held.record.generation += 1;
        self.held.record.holder = None;
        Box::pin(self.bus.commit_record(&mut self.held, Outbox::new())).await
    }

    /// Records durable bytes; the writer goes on.
    pub(super) async fn record_progress(
        &mut self,
        durable: &SpoolCheckpoint,
        expires_at_ms: u64,
    ) -> Result<(), UploadRefusal> {
        self.change(|record| {
            set_durable(record, durable, expires_at_ms);
            Outbox::new()
        })
        .await
    }

    /// Records durable bytes and that the writer has let go.
    pub(super) async fn release_writer(
        &mut self,
        durable: &SpoolCheckpoint,
        expires_at_ms: u64,
    ) -> Result<(), UploadRefusal> {
        self.change(|record| {
            set_durable(record, durable, expires_at_ms);
            record.holder = None;
            Outbox::new()
        })
        .await
    }

    /// Makes it a part of a final upload. A writer that is still at it finds its record changed, and its client goes on.
    pub(super) async fn assign_to_final(&mut self, final_upload_id: UploadId) -> Result<(), UploadRefusal> {
        self.change(|record| {
            record.concat = Some(UploadConcat::Partial { final_upload_id: Some(final_upload_id) });
            Outbox::new()
        })
        .await
    }

    /// Records that the bytes of a partial upload are complete: they wait for the others.
    pub(super) async fn mark_part_received(&mut self) -> Result<(), UploadRefusal> {
        self.change(|record| {
            record.status = UploadStatus::Received;
            record.holder = None;
            record.multipart = None;
            Outbox::new()
        })
        .await?;
        UPLOADS_ENDED.increment(UploadEnding::PartReceived);
        Ok(())
    }

    /// Records that the object is complete under its final key, with the event the upload stage waits for.
    pub(super) async fn mark_received(&mut self) -> Result<(), UploadRefusal> {
        let kept_ms = self.kept_ms;
        self.change(|record| {
            record.mark_ended(UploadStatus::Received, nats::now_ms(), kept_ms);
            record.holder = None;
            record.multipart = None;
            Outbox::new().with_event(&received_event(record))
        })
        .await?;
        UPLOADS_ENDED.increment(UploadEnding::Received);
        Ok(())
    }

    /// Records the end of an unfinished upload, with its event; `code` says why when it was not the owner's wish.
    pub(super) async fn mark_ended(
        &mut self,
        status: UploadStatus,
        code: Option<&str>,
    ) -> Result<(), UploadRefusal> {
        let kept_ms = self.kept_ms;
        self.change(|record| {
            fence_off(record, status, kept_ms);
            record.code = code.map(str::to_owned);
            Outbox::new().with_event(&UploadTerminated {
                upload_id: record.upload_id,
                media_id: record.media_id,
                owner: record.owner.clone(),
                offset_bytes: record.offset_bytes,
                code: record.code.clone(),
            })
        })
        .await?;
        UPLOADS_ENDED.increment(if code.is_none() { UploadEnding::Cancelled } else { UploadEnding::Failed });
        self.remove_medium_soon().await;
        Ok(())
    }

    /// Records that the upload's time ran out, with its event. A writer that is still at it is fenced off.
    pub(crate) async fn mark_expired(&mut self) -> Result<(), UploadRefusal> {
        let kept_ms = self.kept_ms;
        self.change(|record| {
            fence_off(record, UploadStatus::Expired, kept_ms);
            Outbox::new().with_event(&UploadExpired {
                upload_id: record.upload_id,
                media_id: record.media_id,
                owner: record.owner.clone(),
                offset_bytes: record.offset_bytes,
            })
        })
        .await?;
        UPLOADS_ENDED.increment(UploadEnding::Expired);
        super::open_uploads::remove_open_upload(&self.bus, &self.record().owner, self.upload_id()).await;
        self.remove_medium_soon().await;
        Ok(())
    }

    /// The medium of an ended upload goes with it; what fails here is repeated before the upload counts as freed. Its grant is good for
    /// another upload.
    async fn remove_medium_soon(&self) {
        if let Some(grant_id) = self.record().grant_id {
            return_upload_grant(&self.bus, grant_id, self.upload_id()).await;
        }
        if let Err(error) = medium::remove_document(&self.bus, self.record(), &self.actor).await {
            tracing::warn!(%error, upload.id = %self.upload_id(), "the medium of an ended upload is removed later");
        }
    }

    /// Gives an upload that ended without one its time to be kept.
    pub(crate) async fn record_kept_until(&mut self) -> Result<(), UploadRefusal> {
        let kept_ms = self.kept_ms;
        self.change(|record| {
            set_kept_until(record, kept_ms);
            Outbox::new()
        })
        .await
    }

    /// Records that an ended upload has nothing left in the store.
    async fn mark_freed(&mut self) -> Result<(), UploadRefusal> {
        let kept_ms = self.kept_ms;
        self.change(|record| {
            record.freed = true;
            record.multipart = None;
            set_kept_until(record, kept_ms);
            Outbox::new()
        })
        .await
    }

    /// Fixes a length that was not known; the next write records it.
    pub(super) fn fix_length(&mut self, length_bytes: u64) {
        self.held.record.length_bytes.get_or_insert(length_bytes);
    }

    /// Notes that the client has said that no more bytes follow; the next write records it.
    pub(super) fn note_complete(&mut self) {
        if let UploadProtocol::Resumable { is_complete } = &mut self.held.record.protocol {
            *is_complete = true;
        }
    }

    /// Writes what `change` makes of the record, with the events it returns, unless somebody else has changed it.
    async fn change(
        &mut self,
        change: impl FnOnce(&mut UploadRecord) -> Outbox,
    ) -> Result<(), UploadRefusal> {
        // A record that was read again after a conflict is the successor's: the compare alone would let the next write through.
        self.check_claim()?;
        let before = self.record().clone();
        let outbox = change(&mut self.held.record);
        match Box::pin(self.bus.commit_record(&mut self.held, outbox)).await {
            Ok(()) => {
                // Who ends an upload raises the fence, and still frees what it held.
                self.claimed_generation = self.claimed_generation.and(Some(self.record().generation));
                Ok(())
            }
            Err(BusError::Conflict { .. }) => {
                // The truth is in the record now; this writer only reports it.
                let offset_bytes = match self.reload().await {
                    Ok(()) => self.record().offset_bytes,
                    Err(_) => before.offset_bytes,
                };
                Err(UploadRefusal::Displaced { offset_bytes })
            }
            Err(error) => {
                // Nobody knows whether it was written; what is held is what was read.
                self.held.record = before;
                Err(error.into())
            }
        }
    }
}

/// By which way it was opened.
fn upload_way(record: &UploadRecord) -> UploadWay {
    match record.protocol {
        _ if record.fetch.is_some() => UploadWay::Fetch,
        UploadProtocol::Tus => UploadWay::Tus,
        UploadProtocol::Resumable { .. } => UploadWay::Resumable,
    }
}

fn set_durable(record: &mut UploadRecord, durable: &SpoolCheckpoint, expires_at_ms: u64) {
    record.offset_bytes = durable.offset_bytes;
    record.multipart.clone_from(&durable.multipart);
    record.expires_at_ms = expires_at_ms;
}

fn set_kept_until(record: &mut UploadRecord, kept_ms: u64) {
    record.kept_until_ms.get_or_insert(nats::now_ms().saturating_add(kept_ms));
}

/// Ends an upload in its record; a writer that is still at it can't write any more.
fn fence_off(record: &mut UploadRecord, status: UploadStatus, kept_ms: u64) {
    record.mark_ended(status, nats::now_ms(), kept_ms);
    record.generation += 1;
    record.holder = None;
}

/// Removes what an ended upload left in the store, and records that it did.
pub(crate) async fn free_upload(store: &Store, ledger: &mut FencedUploadRecord) -> Result<(), UploadRefusal> {
    // Before the record: it is the only one that knows the multipart upload, which nobody else could end.
    Spool::remove(store, ledger.spool_place(0), &ledger.durable_bytes()).await?;
    medium::remove_document(&ledger.bus, ledger.record(), &ledger.actor).await?;
    ledger.mark_freed().await
}

/// Ends an upload whose medium was removed, if it is still open; its bytes stay until somebody frees it.
///
/// # Errors
/// [`UploadRefusal::NotFound`]; [`UploadRefusal::Displaced`] when it went on meanwhile, whose completion finds the medium removed.
pub async fn end_removed_upload(bus: &Bus, upload_id: UploadId) -> Result<(), UploadRefusal> {
    end_upload_for(bus, upload_id, MEDIA_REMOVED).await
}

/// What stages are notified of about an upload that is complete.
pub(crate) fn received_event(record: &UploadRecord) -> UploadReceived {
    UploadReceived {
        upload_id: record.upload_id,
        media_id: record.media_id,
        owner: record.owner.clone(),
        key: keys::source_key(record.media_id),
        size_bytes: record.offset_bytes,
        filename: record.filename.clone(),
        content_type: record.content_type.clone(),
        digest: record.digest.clone(),
        settings: record.settings.clone(),
    }
}

/// Ends an upload whose job was cancelled, if it is still open; its bytes stay until somebody frees it.
///
/// # Errors
/// [`UploadRefusal::NotFound`]; [`UploadRefusal::Displaced`] when it went on meanwhile: then it is to be tried again.
pub async fn end_fetched_upload(bus: &Bus, upload_id: UploadId) -> Result<(), UploadRefusal> {
    end_upload_for(bus, upload_id, schemas::job::JOB_CANCELLED).await
}

async fn end_upload_for(bus: &Bus, upload_id: UploadId, code: &str) -> Result<(), UploadRefusal> {
    let mut ledger = FencedUploadRecord::load_any(bus, upload_id, schemas::ENDED_KEPT_MS).await?;
    end_open_upload(&mut ledger, code).await
}

async fn end_open_upload(ledger: &mut FencedUploadRecord, code: &str) -> Result<(), UploadRefusal> {
    if ledger.record().status == UploadStatus::Open {
        ledger.mark_ended(UploadStatus::Terminated, Some(code)).await?;
        super::open_uploads::remove_open_upload(&ledger.bus, &ledger.record().owner, ledger.upload_id())
            .await;
    }
    Ok(())
}

/// Ends an upload whose medium was removed, and frees its bytes. Returns what its client is answered.
pub async fn discard_upload(store: &Store, ledger: &mut FencedUploadRecord) -> UploadRefusal {
    let discarded = async {
        end_open_upload(ledger, MEDIA_REMOVED).await?;
        free_upload(store, ledger).await
    };
    match discarded.await {
        Ok(()) => UploadRefusal::Gone(ProblemCode::MediaRemoved),
        Err(refusal) => refusal,
    }
}

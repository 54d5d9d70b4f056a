//! The record of one upload: read with its owner checked, changed by compare-and-set.
//!
//! The generation in the record is the fence: a writer whose compare-and-set fails was displaced and stops.

use nats::{Bus, BusError, Outbox, VersionedRecord};
use schemas::{
    ids::{MediaId, UploadId},
    keys,
    upload::{
        UploadConcat, UploadCreated, UploadExpired, UploadReceived, UploadRecord, UploadStatus,
        UploadTerminated,
    },
};
use store::{Spool, SpoolCheckpoint, SpooledUpload, Store};

use super::{UploadContext, protocol, refusal::UploadRefusal};
use auth::Principal;
use web::problem_code::ProblemCode;

/// Why an upload ended whose medium was removed.
pub(super) const MEDIA_REMOVED: &str = "media_removed";

/// The record as last read or written by this request.
#[derive(Debug)]
pub struct FencedUploadRecord {
    bus: Bus,
    held: Box<VersionedRecord<UploadRecord>>,
    /// How long it is kept after its end, in milliseconds.
    kept_ms: u64,
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
        let mut held = Box::new(VersionedRecord::new(record));
        Box::pin(shared.bus.commit_record(&mut held, Outbox::new().with_event(&event))).await?;
        Ok(Self { bus: shared.bus.clone(), held, kept_ms: shared.config.ended_kept_ms })
    }

    /// Reads the record of an upload that the principal may change; anything else is not found.
    pub(super) async fn load(
        shared: &UploadContext,
        upload_id: UploadId,
        who: &Principal,
    ) -> Result<Self, UploadRefusal> {
        let ledger = Self::load_any(&shared.bus, upload_id, shared.config.ended_kept_ms).await?;
        if who.may_change(&ledger.record().owner) { Ok(ledger) } else { Err(UploadRefusal::NotFound) }
    }

    /// Reads the record of any upload; one that ends now is kept for `kept_ms`, in milliseconds.
    pub async fn load_any(bus: &Bus, upload_id: UploadId, kept_ms: u64) -> Result<Self, UploadRefusal> {
        let held = Box::pin(bus.load_record::<UploadRecord>(&upload_id.to_string()))
            .await?
            .ok_or(UploadRefusal::NotFound)?;
        Ok(Self { bus: bus.clone(), held: Box::new(held), kept_ms })
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

    pub(super) async fn reload(&mut self) -> Result<(), UploadRefusal> {
        let bus = self.bus.clone();
        *self = Self::load_any(&bus, self.record().upload_id, self.kept_ms).await?;
        Ok(())
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

    /// True when every byte is durable.
    pub(crate) fn is_full(&self) -> bool {
        self.record().length_bytes == Some(self.record().offset_bytes)
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

    /// Raises the fence for this writer and fixes the length. [`BusError::Conflict`] when somebody else was first.
    pub(super) async fn claim_for_writer(
        &mut self,
        holder: &str,
        length_bytes: Option<u64>,
    ) -> Result<(), BusError> {
        let record = &mut self.held.record;
        // With a new generation the keys of tail objects differ, so that an older writer can't touch ours.
        record.generation += 1;
        record.holder = Some(holder.to_owned());
        record.length_bytes = length_bytes;
        Box::pin(self.bus.commit_record(&mut self.held, Outbox::new())).await
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
        self.set_durable(durable, expires_at_ms);
        self.commit_record(Outbox::new()).await
    }

    /// Records durable bytes and that the writer has let go.
    pub(super) async fn release_writer(
        &mut self,
        durable: &SpoolCheckpoint,
        expires_at_ms: u64,
    ) -> Result<(), UploadRefusal> {
        self.set_durable(durable, expires_at_ms);
        self.held.record.holder = None;
        self.commit_record(Outbox::new()).await
    }

    /// Makes it a part of a final upload. A writer that is still at it finds itself displaced, and its client goes on.
    pub(super) async fn assign_to_final(&mut self, final_upload_id: UploadId) -> Result<(), UploadRefusal> {
        self.held.record.concat = Some(UploadConcat::Partial { final_upload_id: Some(final_upload_id) });
        self.commit_record(Outbox::new()).await
    }

    /// Records that the bytes of a partial upload are complete: they wait for the others.
    pub(super) async fn mark_part_received(&mut self) -> Result<(), UploadRefusal> {
        let record = &mut self.held.record;
        record.status = UploadStatus::Received;
        record.holder = None;
        record.multipart = None;
        self.commit_record(Outbox::new()).await
    }

    /// Records that the object is complete under its final key, with the event the upload stage waits for.
    pub(super) async fn mark_received(&mut self) -> Result<(), UploadRefusal> {
        let record = &mut self.held.record;
        record.mark_ended(UploadStatus::Received, nats::now_ms(), self.kept_ms);
        record.holder = None;
        record.multipart = None;
        let event = UploadReceived {
            upload_id: record.upload_id,
            media_id: record.media_id,
            owner: record.owner.clone(),
            key: keys::source_key(record.media_id),
            size_bytes: record.offset_bytes,
            filename: record.filename.clone(),
            content_type: record.content_type.clone(),
            digest: record.digest.clone(),
        };
        self.commit_record(Outbox::new().with_event(&event)).await
    }

    /// Records the end of an unfinished upload, with its event; `code` says why when it was not the owner's wish.
    pub(super) async fn mark_ended(
        &mut self,
        status: UploadStatus,
        code: Option<&str>,
    ) -> Result<(), UploadRefusal> {
        let record = &mut self.held.record;
        record.mark_ended(status, nats::now_ms(), self.kept_ms);
        record.generation += 1;
        record.holder = None;
        record.code = code.map(str::to_owned);
        let event = UploadTerminated {
            upload_id: record.upload_id,
            media_id: record.media_id,
            owner: record.owner.clone(),
            offset_bytes: record.offset_bytes,
            code: record.code.clone(),
        };
        self.commit_record(Outbox::new().with_event(&event)).await
    }

    /// Records that the upload's time ran out, with its event. A writer that is still at it is fenced off.
    pub(crate) async fn mark_expired(&mut self) -> Result<(), UploadRefusal> {
        let record = &mut self.held.record;
        record.mark_ended(UploadStatus::Expired, nats::now_ms(), self.kept_ms);
        record.generation += 1;
        record.holder = None;
        let event = UploadExpired {
            upload_id: record.upload_id,
            media_id: record.media_id,
            owner: record.owner.clone(),
            offset_bytes: record.offset_bytes,
        };
        self.commit_record(Outbox::new().with_event(&event)).await?;
        super::open_uploads::remove_open_upload(&self.bus, &self.record().owner, self.upload_id()).await;
        Ok(())
    }

    /// Gives an upload that ended without one its time to be kept.
    pub(crate) async fn record_kept_until(&mut self) -> Result<(), UploadRefusal> {
        self.set_kept_until();
        self.commit_record(Outbox::new()).await
    }

    fn set_kept_until(&mut self) {
        let until_ms = nats::now_ms().saturating_add(self.kept_ms);
        self.held.record.kept_until_ms.get_or_insert(until_ms);
    }

    /// Fixes a length that was not known; the next write records it.
    pub(super) fn fix_length(&mut self, length_bytes: u64) {
        self.held.record.length_bytes.get_or_insert(length_bytes);
    }

    fn set_durable(&mut self, durable: &SpoolCheckpoint, expires_at_ms: u64) {
        let record = &mut self.held.record;
        record.offset_bytes = durable.offset_bytes;
        record.multipart.clone_from(&durable.multipart);
        record.expires_at_ms = expires_at_ms;
    }

    async fn commit_record(&mut self, outbox: Outbox) -> Result<(), UploadRefusal> {
        let before = self.record().offset_bytes;
        match Box::pin(self.bus.commit_record(&mut self.held, outbox)).await {
            Ok(()) => Ok(()),
            Err(BusError::Conflict { .. }) => {
                // The truth is in the record now; this writer only reports it.
                let offset_bytes = match self.reload().await {
                    Ok(()) => self.record().offset_bytes,
                    Err(_) => before,
                };
                Err(UploadRefusal::Displaced { offset_bytes })
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// Removes what an ended upload left in the store, and records that it did.
pub(crate) async fn free_upload(store: &Store, ledger: &mut FencedUploadRecord) -> Result<(), UploadRefusal> {
    // Before the record: it is the only one that knows the multipart upload, which nobody else could end.
    Spool::remove(store, ledger.spool_place(0), &ledger.durable_bytes()).await?;
    ledger.held.record.freed = true;
    ledger.held.record.multipart = None;
    ledger.set_kept_until();
    ledger.commit_record(Outbox::new()).await
}

/// Ends an upload whose medium was removed, and frees its bytes. Returns what its client is answered.
pub async fn discard_upload(store: &Store, ledger: &mut FencedUploadRecord) -> UploadRefusal {
    let discarded = async {
        if ledger.record().status == UploadStatus::Open {
            ledger.mark_ended(UploadStatus::Terminated, Some(MEDIA_REMOVED)).await?;
            super::open_uploads::remove_open_upload(&ledger.bus, &ledger.record().owner, ledger.upload_id())
                .await;
        }
        free_upload(store, ledger).await
    };
    match discarded.await {
        Ok(()) => UploadRefusal::Gone(ProblemCode::MediaRemoved),
        Err(refusal) => refusal,
    }
}

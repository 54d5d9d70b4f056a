//! The upload stage: is a received file what it claims to be?
//!
//! - Consumes: `evt.upload.received.*` and `evt.media.reopened.*` by the durable `upload`.
//! - Emits: `evt.media.stored.<media_id>` or `evt.media.rejected.<media_id>`, each at most once for an attempt at a medium;
//!   `evt.media.delayed.<media_id>` once for an outage.
//! - Stores: `assets.<media_id>` with the verified source and what the probe found. Objects are read, never written.
//! - Limits: [`UploadStageConfig`] names slots, attempts and text lengths; the file is streamed once through 4 MiB windows; the
//!   probe has the limits of the media child; a structure may have [`structure::ELEMENTS_MAX`] elements.
//!
//! A crash at any line repeats the work from the start: nothing is written before the verdict.

mod config;
mod error;
mod second_file;
pub mod structure;
pub mod structure_format;
mod technical;
#[cfg(test)]
mod tests;
mod verify;
mod warnings;

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use media::MediaDriver;
use nats::metrics::{
    labels::VerificationOutcome as VerificationLabel,
    table::{UPLOAD_VERIFICATIONS, UPLOAD_VERIFIED_BYTES, UPLOAD_VERIFY_SECONDS},
};
use nats::{
    Bus, FailureClass, MessageDelivery, Outbox, PipelineStage, StageFault, StageOutcome, VersionedRecord,
    consume, now_ms,
};
use schemas::{
    BusEvent as _, KvRecord as _,
    media::{
        MediaRecord, MediaRejected, MediaReopened, MediaSource, MediaStatus, MediaStored, MediaWarning,
        ReopenStep, TechnicalMetadata,
    },
    subjects,
    upload::{self, UploadReceived},
};
use store::Store;
use tokio_util::sync::CancellationToken;

pub use config::UploadStageConfig;
pub use error::{UploadRejection, UploadStageError};
pub use technical::build_technical;
pub use verify::{FileVerifier, VerifiedFile};

/// Name of the durable and of the stage.
const DURABLE: &str = "upload";

/// The stage. Cheap to share.
#[derive(Debug)]
struct UploadStage {
    bus: Bus,
    store: Store,
    driver: Arc<MediaDriver>,
    config: UploadStageConfig,
}

/// What the bytes turned out to be.
#[derive(Debug)]
enum VerificationOutcome {
    Stored(Box<(MediaSource, TechnicalMetadata)>),
    Rejected(UploadRejection),
}

/// Runs the stage until `shutdown` fires, then lets running work finish within the grace time.
///
/// # Errors
/// [`UploadStageError::Bus`] when the durable is missing or the broker is away at start.
pub async fn run(
    bus: Bus,
    store: Store,
    driver: impl Into<Arc<MediaDriver>>,
    config: UploadStageConfig,
    shutdown: CancellationToken,
) -> Result<(), UploadStageError> {
    let queue = consume::StageQueue {
        stream: subjects::EVENTS.into(),
        durables: vec![DURABLE.into()],
        wake: vec![subjects::event_filter::<UploadReceived>(), subjects::event_filter::<MediaReopened>()],
    };
    let settings = config.consume.clone();
    let stage = Arc::new(UploadStage { bus: bus.clone(), store, driver: driver.into(), config });
    Ok(consume::run_stage(bus, queue, stage, settings, shutdown).await?)
}

/// An event of the durable.
#[derive(Debug)]
enum UploadStageEvent {
    /// These bytes are to be verified.
    Verify(Box<UploadReceived>),
    /// Nothing here depends on it.
    Other,
}

impl nats::StageMessage for UploadStageEvent {
    fn decode(delivery: &MessageDelivery, payload: &[u8]) -> Result<Self, nats::BusError> {
        let kind = subjects::parse_event_subject(&delivery.subject).map(|(entity, verb, _)| (entity, verb));
        if kind != Some((MediaReopened::ENTITY, MediaReopened::VERB)) {
            return nats::decode_message(&delivery.subject, payload)
                .map(|received| Self::Verify(Box::new(received)));
        }
        let reopened: MediaReopened = nats::decode_message(&delivery.subject, payload)?;
        Ok(match reopened.step {
            ReopenStep::Verify { received } => Self::Verify(received),
            ReopenStep::Encode { .. } | ReopenStep::Describe => Self::Other,
        })
    }
}

impl PipelineStage for UploadStage {
    const NAME: &'static str = "upload";
    type Message = UploadStageEvent;

    async fn handle(
        &self,
        seen: &UploadStageEvent,
        delivery: &MessageDelivery,
    ) -> Result<StageOutcome, StageFault> {
        let UploadStageEvent::Verify(received) = seen else { return Ok(StageOutcome::Done) };
        let held = self.load_record(received).await?;
        if held.record.status != MediaStatus::Uploading || held.record.is_removed() {
            return Ok(StageOutcome::Done);
        }
        // An old event of a purged medium must not make its record again.
        if held.revision() == 0 && self.is_purged(received).await? {
            tracing::info!(media.id = %received.media_id, "removed meanwhile, nothing to verify");
            return Ok(StageOutcome::Done);
        }
        let began = std::time::Instant::now();
        let work = async {
            Ok::<_, UploadStageError>(match self.verify_bytes(received).await? {
                Ok((source, warnings)) => self.probe_source(source, warnings, received, delivery).await?,
                Err(rejection) => VerificationOutcome::Rejected(rejection),
            })
        };
        let verdict = tokio::select! {
            biased;
            // The stop first: a verdict reached after the fence was lost is another worker's to write.
            () = delivery.cancel.cancelled() => return Ok(StageOutcome::Lost),
            verdict = Box::pin(work) => verdict,
        };
        count_verification(&verdict, began);
        match verdict {
            Ok(verdict) => self.record_outcome(held, received, verdict).await?,
            Err(error) if error.class() == FailureClass::Fault => {
                return self.record_failure(held, received, error).await;
            }
            Err(error) => return Err(error.into()),
        }
        Ok(StageOutcome::Done)
    }

    async fn on_outage(&self, seen: &UploadStageEvent, _: &MessageDelivery, fault: &StageFault) {
        let UploadStageEvent::Verify(received) = seen else { return };
        let said = async {
            let mut held = self.load_record(received).await?;
            if held.revision() == 0 && self.is_purged(received).await? {
                return Ok(());
            }
            if let Some((record, event)) = held.record.with_delay(Self::NAME, None, fault.code, now_ms()) {
                held.record = record;
                self.bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
            }
            Ok::<_, UploadStageError>(())
        };
        if let Err(error) = said.await {
            tracing::debug!(%error, "what the work waits for could not be written");
        }
    }

    /// What could not be verified in all tries is reported to its owner as rejected; nobody waits for ever.
    async fn on_dead_letter(
        &self,
        seen: &UploadStageEvent,
        _: &MessageDelivery,
        fault: &StageFault,
    ) -> Result<(), StageFault> {
        let UploadStageEvent::Verify(received) = seen else { return Ok(()) };
        let held = self.load_record(received).await?;
        if held.record.status == MediaStatus::Uploading && !held.record.is_removed() {
            let rejection =
                UploadRejection::unverified(fault.code, "it could not be verified in several attempts");
            self.record_outcome(held, received, VerificationOutcome::Rejected(rejection)).await?;
        }
        Ok(())
    }
}

fn count_verification(verdict: &Result<VerificationOutcome, UploadStageError>, began: std::time::Instant) {
    UPLOAD_VERIFY_SECONDS.observe_since((), began);
    UPLOAD_VERIFICATIONS.increment(match verdict {
        Ok(VerificationOutcome::Stored(_)) => VerificationLabel::Stored,
        Ok(VerificationOutcome::Rejected(_)) => VerificationLabel::Rejected,
        Err(_) => VerificationLabel::Failed,
    });
}

impl UploadStage {
    async fn load_record(
        &self,
        received: &UploadReceived,
    ) -> Result<VersionedRecord<MediaRecord>, UploadStageError> {
        let found = self.bus.load_with_tombstone::<MediaRecord>(&received.media_id.to_string()).await?;
        Ok(found.unwrap_or_else(|| VersionedRecord::new(new_record(received))))
    }

    /// True when neither the upload nor its bytes are there any more: the medium was removed long ago.
    async fn is_purged(&self, received: &UploadReceived) -> Result<bool, UploadStageError> {
        if self.bus.load_record::<upload::UploadRecord>(&received.upload_id.to_string()).await?.is_some() {
            return Ok(false);
        }
        match self.store.head(&received.key).await {
            Err(store::StoreError::NotFound { .. }) => Ok(true),
            found => Ok(found.map(|_| false)?),
        }
    }

    /// Streams the object once: size, digests, type and structure.
    async fn verify_bytes(
        &self,
        received: &UploadReceived,
    ) -> Result<Result<(MediaSource, Vec<MediaWarning>), UploadRejection>, UploadStageError> {
        let found_bytes = self.store.head(&received.key).await?.size_bytes;
        if found_bytes != received.size_bytes {
            let detail = format!("{found_bytes} bytes are stored, {} were received", received.size_bytes);
            return Ok(Err(UploadRejection::size_mismatch(detail)));
        }
        let mut verifier =
            FileVerifier::new(received.size_bytes, received.digest.clone(), self.config.strict);
        let mut pieces = Box::pin(self.store.get_stream(&received.key, 0..received.size_bytes));
        let mut next = pieces.next().await;
        while let Some(piece) = next {
            let piece = piece?;
            UPLOAD_VERIFIED_BYTES.add((), u64::try_from(piece.len()).unwrap_or(0));
            // Hashing 4 MiB takes milliseconds, too long for a thread that serves others; the next piece is read meanwhile.
            let hashing = tokio::task::spawn_blocking(move || verifier.update(&piece).map(|()| verifier));
            let (updated, following) = tokio::join!(hashing, pieces.next());
            next = following;
            verifier = match updated.map_err(|error| store::StoreError::Unavailable(Box::new(error)))? {
                Ok(verifier) => verifier,
                Err(rejection) => return Ok(Err(rejection)),
            };
        }
        Ok(verifier.finish().map(|VerifiedFile { sha256, warnings }| {
            (MediaSource { key: received.key.clone(), size_bytes: received.size_bytes, sha256 }, warnings)
        }))
    }

    /// Lets the sandboxed child look inside.
    async fn probe_source(
        &self,
        source: MediaSource,
        warnings: Vec<MediaWarning>,
        received: &UploadReceived,
        delivery: &MessageDelivery,
    ) -> Result<VerificationOutcome, UploadStageError> {
        let object = Arc::new(UploadProbeSource {
            store: self.store.clone(),
            key: received.key.clone(),
            size_bytes: received.size_bytes,
        });
        match self.driver.probe(object, &delivery.cancel).await {
            Ok(probe) => {
                let technical = build_technical(&probe, self.config.text_chars_max, warnings);
                Ok(VerificationOutcome::Stored(Box::new((source, technical))))
            }
            Err(media::MediaTaskError::Rejected { code, detail }) => {
                Ok(VerificationOutcome::Rejected(UploadRejection::from_child(code, detail)))
            }
            Err(fault) => Err(UploadStageError::Probe(fault)),
        }
    }

    /// Counts a failed try in the record, since deliveries also count outages and lost workers. A file that crashes the probe
    /// too often is rejected.
    async fn record_failure(
        &self,
        mut held: VersionedRecord<MediaRecord>,
        received: &UploadReceived,
        error: UploadStageError,
    ) -> Result<StageOutcome, StageFault> {
        let faults = held.record.attempt.faults.saturating_add(1);
        // Counted in the record: a file that kills its worker would otherwise begin with no faults at the next one.
        if error.is_crash() && faults >= self.config.probe_attempts_max {
            tracing::warn!(%error, media.id = %received.media_id, "the probe fails each time; the file is rejected");
            let rejection = UploadRejection::unverified(error.code(), "looking inside it fails each time");
            self.record_outcome(held, received, VerificationOutcome::Rejected(rejection)).await?;
            return Ok(StageOutcome::Done);
        }
        held.record.attempt.faults = faults;
        self.bus.commit_record(&mut held, Outbox::new()).await?;
        Err(StageFault::from(error).with_attempt(faults))
    }

    /// Writes the verdict and its event in one change. A conflict is repeated from the start.
    async fn record_outcome(
        &self,
        mut held: VersionedRecord<MediaRecord>,
        received: &UploadReceived,
        verdict: VerificationOutcome,
    ) -> Result<(), UploadStageError> {
        let UploadReceived { media_id, upload_id, ref owner, .. } = *received;
        let owner = owner.clone();
        held.record.changed_at_ms = now_ms();
        held.record.waiting = None;
        let is_first = held.record.attempt.number == 0;
        let outbox = match verdict {
            VerificationOutcome::Stored(found) => {
                let (source, technical) = *found;
                held.record.status = MediaStatus::Stored;
                held.record.source = Some(source.clone());
                held.record.technical = Some(technical.clone());
                let settings = received.settings.clone();
                let stored = MediaStored { media_id, upload_id, owner, source, technical, settings };
                Outbox::new().with_event(&stored)
            }
            VerificationOutcome::Rejected(UploadRejection { code, detail }) => {
                tracing::info!(%code, media.id = %media_id, "an upload is rejected");
                held.record.status = MediaStatus::Rejected;
                held.record.code = Some(code.to_string());
                held.record.detail = Some(detail.clone());
                let event = MediaRejected { media_id, upload_id, owner, code: code.to_string(), detail };
                // An earlier attempt was rejected, too: that event is not this one.
                if is_first {
                    Outbox::new().with_event(&event)
                } else {
                    Outbox::new().with_repeated_event(&event)
                }
            }
        };
        Ok(self.bus.commit_record(&mut held, outbox).await?)
    }
}

fn new_record(received: &UploadReceived) -> MediaRecord {
    let now = now_ms();
    MediaRecord::new(received.media_id, received.owner.clone(), MediaStatus::Uploading, now)
}

/// The uploaded object as the media child reads it.
struct UploadProbeSource {
    store: Store,
    key: String,
    size_bytes: u64,
}

impl media::MediaByteSource for UploadProbeSource {
    fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    fn read(&self, offset: u64, len: usize) -> BoxFuture<'_, io::Result<Bytes>> {
        let end = offset.saturating_add(u64::try_from(len).unwrap_or(u64::MAX)).min(self.size_bytes);
        async move {
            if offset >= end {
                return Ok(Bytes::new());
            }
            self.store.get_range(&self.key, offset..end).await.map_err(io::Error::other)
        }
        .boxed()
    }
}

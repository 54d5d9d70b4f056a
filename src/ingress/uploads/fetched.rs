//! Uploads whose bytes a job fetches from an address: who runs the job hands them in, and they go the way of a client's.
//!
//! Nothing else appends to such an upload, and nothing follows what came unless it is of the same version of the source: both are in
//! the record, and one compare-and-set with the fence.
//!
//! Limits: those of other uploads, [`super::UploadConfig`].

use std::{io, sync::Arc};

use axum::body::Body;
use bytes::Bytes;
use futures::{StreamExt as _, stream::BoxStream};
use schemas::{
    ids::{JobId, UploadId},
    upload::{UploadRecord, UploadStatus},
};
use tokio_util::sync::CancellationToken;

use super::{
    UploadContext, UploadState,
    digest::DigestChecks,
    fenced_record::{self, FencedUploadRecord},
    lifecycle,
    protocol::{FetchedVersion, UploadAppend},
    refusal::UploadRefusal,
    session::{BodyEndPolicy, BodyPolicy},
    takeover::{self, TakeoverOutcome},
};

/// Where an upload stands whose bytes are fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FetchedUpload {
    /// Where it stands.
    pub status: UploadStatus,
    /// Bytes that are durable.
    pub offset_bytes: u64,
    /// Bytes of the whole, once known.
    pub length_bytes: Option<u64>,
    /// What the source calls the version that the bytes are of.
    pub validator: Option<String>,
    /// Most bytes that it may have.
    pub size_bytes_max: u64,
}

/// Bytes of a source, in order.
pub struct FetchedBytes {
    /// The job that brings them.
    pub job_id: JobId,
    /// Where the first of them belongs.
    pub offset_bytes: u64,
    /// Bytes of the whole, where the source says so; else the end of `bytes` is the end of the whole.
    pub length_bytes: Option<u64>,
    /// What the source calls the version that they are of.
    pub validator: Option<String>,
    /// They. An error keeps those before it.
    pub bytes: BoxStream<'static, io::Result<Bytes>>,
}

impl std::fmt::Debug for FetchedBytes {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FetchedBytes")
            .field("job_id", &self.job_id)
            .field("offset_bytes", &self.offset_bytes)
            .field("length_bytes", &self.length_bytes)
            .finish_non_exhaustive()
    }
}

/// Why fetched bytes are not taken, or not all of them.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FetchedRefusal {
    /// The upload has ended.
    #[error("the upload has ended")]
    Ended,
    /// The bytes are of another version than those before them.
    #[error("the source is another one than when it began")]
    SourceChanged,
    /// More bytes than an upload may have, or than the source said.
    #[error("more bytes than the upload may have")]
    TooLarge,
    /// The bytes ended before their end.
    #[error("the bytes ended early")]
    Cut,
    /// Too few bytes came for too long.
    #[error("too few bytes came for too long")]
    TooSlow,
    /// Another one writes to the upload.
    #[error("another one writes to the upload")]
    Displaced,
    /// The disk is full.
    #[error("the store is full")]
    Full,
    /// The process stops.
    #[error("the process stops")]
    Stopping,
    /// The broker does not answer, or answered strangely.
    #[error("the bus failed")]
    Bus(#[from] nats::BusError),
    /// The store does not answer, or answered strangely.
    #[error("the store failed")]
    Store(#[from] store::StoreError),
}

impl From<UploadRefusal> for FetchedRefusal {
    fn from(refusal: UploadRefusal) -> Self {
        match refusal {
            UploadRefusal::Bus(error) => Self::Bus(error),
            UploadRefusal::Store(error) => Self::Store(error),
            UploadRefusal::Full => Self::Full,
            UploadRefusal::Stopping => Self::Stopping,
            UploadRefusal::Cut => Self::Cut,
            UploadRefusal::Idle | UploadRefusal::TooSlow => Self::TooSlow,
            UploadRefusal::TooLarge => Self::TooLarge,
            // Another length of the whole than before is one of them.
            UploadRefusal::SourceChanged
            | UploadRefusal::LengthInconsistent
            | UploadRefusal::Header { .. } => Self::SourceChanged,
            UploadRefusal::Displaced { .. }
            | UploadRefusal::Offset { .. }
            | UploadRefusal::Busy
            | UploadRefusal::Complete => Self::Displaced,
            other => {
                tracing::debug!(refusal = ?other, "a fetched upload takes nothing more");
                Self::Ended
            }
        }
    }
}

impl UploadState {
    /// Where the upload stands; one of which every byte is there is completed first.
    ///
    /// # Errors
    /// [`FetchedRefusal::Ended`] when there is none, and when broker or store are away.
    pub async fn read_fetched(&self, upload_id: UploadId) -> Result<FetchedUpload, FetchedRefusal> {
        let shared = &self.shared;
        let mut ledger = load(shared, upload_id).await?;
        Box::pin(lifecycle::finish_interrupted(shared, &mut ledger)).await?;
        Ok(describe(shared, ledger.record()))
    }

    /// Takes bytes to their end. Those that came before an error, or before this is dropped, are kept.
    ///
    /// # Errors
    /// [`FetchedRefusal`].
    pub async fn receive_fetched(
        &self,
        upload_id: UploadId,
        fetched: FetchedBytes,
    ) -> Result<(), FetchedRefusal> {
        let shared = Arc::clone(&self.shared);
        if shared.stopping.is_cancelled() {
            return Err(FetchedRefusal::Stopping);
        }
        if fetched.length_bytes.is_some_and(|length_bytes| length_bytes > shared.config.size_bytes_max) {
            return Err(FetchedRefusal::TooLarge);
        }
        shared.store.verify_marker().await?;
        // Who waits for this may be dropped: the prefix is made durable all the same, and the upload let go.
        let unwanted = CancellationToken::new();
        let _dropped = unwanted.clone().drop_guard();
        let work = {
            let shared = Arc::clone(&shared);
            async move { receive(&shared, upload_id, fetched, unwanted).await }
        };
        match shared.tasks.spawn(web::request::with_current_id(Box::pin(work))).await {
            Ok(outcome) => Ok(outcome?),
            Err(error) => {
                tracing::error!(%error, "taking fetched bytes ended in a panic");
                Err(FetchedRefusal::Cut)
            }
        }
    }

    /// Ends the upload if it is open, for the reason `code`, and frees what it holds. Repeating it is harmless.
    ///
    /// # Errors
    /// [`FetchedRefusal::Displaced`] while another one writes, and when broker or store are away.
    pub async fn end_fetched(&self, upload_id: UploadId, code: &str) -> Result<(), FetchedRefusal> {
        let shared = &self.shared;
        // A session of this process lets go first: it holds the bytes that are freed here.
        let wait = shared.config.finish_timeout();
        let _guard = shared.slots.acquire(upload_id, wait).await.ok_or(UploadRefusal::Busy)?;
        let mut ledger = match load(shared, upload_id).await {
            Err(UploadRefusal::NotFound) => return Ok(()),
            found => found?,
        };
        match ledger.record().status {
            UploadStatus::Received => {}
            UploadStatus::Open => lifecycle::terminate_upload(shared, &mut ledger, Some(code)).await?,
            UploadStatus::Terminated | UploadStatus::Expired | UploadStatus::Deactivated => {
                if !ledger.record().freed {
                    fenced_record::free_upload(&shared.store, &mut ledger).await?;
                }
            }
        }
        Ok(())
    }
}

async fn load(shared: &UploadContext, upload_id: UploadId) -> Result<FencedUploadRecord, UploadRefusal> {
    FencedUploadRecord::load_any(&shared.bus, upload_id, shared.config.ended_kept_ms).await
}

fn describe(shared: &UploadContext, record: &UploadRecord) -> FetchedUpload {
    FetchedUpload {
        status: record.status,
        offset_bytes: record.offset_bytes,
        length_bytes: record.length_bytes,
        validator: record.fetch.as_ref().and_then(|fetch| fetch.validator.clone()),
        size_bytes_max: shared.config.size_bytes_max,
    }
}

async fn receive(
    shared: &Arc<UploadContext>,
    upload_id: UploadId,
    fetched: FetchedBytes,
    unwanted: CancellationToken,
) -> Result<(), UploadRefusal> {
    let ledger = load(shared, upload_id).await?;
    let append = UploadAppend {
        offset_bytes: fetched.offset_bytes,
        length_bytes: fetched.length_bytes,
        fetched: Some(FetchedVersion { job_id: fetched.job_id, validator: fetched.validator }),
        ..UploadAppend::default()
    };
    // With a length its last byte is the end, wherever the bytes stop.
    let on_end = if fetched.length_bytes.is_some() { BodyEndPolicy::Keep } else { BodyEndPolicy::Complete };
    let policy = BodyPolicy { checks: DigestChecks::new(Vec::new()), on_end, progress: None };
    let mut body = Body::from_stream(stop_when(fetched.bytes, unwanted));
    let ledger = match takeover::open_session(shared, ledger, &append, policy).await? {
        TakeoverOutcome::Session(session) => session.run(&mut body).await?,
        TakeoverOutcome::Complete(ledger) => *ledger,
    };
    if ledger.record().status == UploadStatus::Received { Ok(()) } else { Err(UploadRefusal::Cut) }
}

/// The same bytes, with an error once they are not wanted any more: an end would be taken for that of the whole.
fn stop_when(
    bytes: BoxStream<'static, io::Result<Bytes>>,
    unwanted: CancellationToken,
) -> BoxStream<'static, io::Result<Bytes>> {
    futures::stream::try_unfold((bytes, unwanted), |(mut bytes, unwanted)| async move {
        let next = tokio::select! {
            biased;
            () = unwanted.cancelled() => return Err(io::Error::other("not wanted any more")),
            next = bytes.next() => next,
        };
        Ok(next.transpose()?.map(|chunk| (chunk, (bytes, unwanted))))
    })
    .boxed()
}

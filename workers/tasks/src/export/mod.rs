//! Kind `export`: sends a file of a medium to an address that its owner gives, by PUT, with its exact length.
//!
//! The file is the one that was uploaded, or what plays as one MP4 file, which others put together ([`ExportedFiles`]). No host takes a
//! part of a file by a standard way, so each try sends all of it.
//!
//! Limits: those of [`outbound::OutboundConfig`]; a try lasts at most [`crate::TasksConfig::try_time_ms_max`].

mod error;

use std::{
    fmt::{self, Debug},
    io,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use data_encoding::HEXLOWER;
use futures::{StreamExt as _, future::BoxFuture, stream::BoxStream};
use outbound::{OutboundError, OutboundFile, OutboundUrl};
use parking_lot::Mutex;
use schemas::{
    KvRecord as _,
    export::{ExportFile, ExportOrder, ExportReport},
    job::JobRecord,
    media::{MediaEncode, MediaRecord, MediaStatus},
};
use sha2::{Digest as _, Sha256};
use store::StoreError;
use tokio::time::MissedTickBehavior;

use crate::{TasksContext, error::TaskError, progress::TaskProgress};
pub use error::ExportError;

/// What a file is of which only its owner knows it.
const SOURCE_TYPE: &str = "application/octet-stream";

/// A file of a medium, as it is read.
pub struct ExportedFile {
    /// Bytes of it.
    pub size_bytes: u64,
    /// What it is.
    pub content_type: &'static str,
    /// Its bytes, in order.
    pub bytes: BoxStream<'static, Result<Bytes, StoreError>>,
}

impl Debug for ExportedFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ExportedFile").field("size_bytes", &self.size_bytes).finish_non_exhaustive()
    }
}

/// Puts an encode together as one file, as the HTTP surface does. Stages do not import that surface: who starts this one hands it in.
pub trait ExportedFiles: Debug + Send + Sync {
    /// The file of an encode with the pictures and the sound of an order.
    fn open<'a>(
        &'a self,
        encode: &'a MediaEncode,
        order: &'a ExportOrder,
    ) -> BoxFuture<'a, Result<ExportedFile, ExportError>>;
}

/// Sends what a job says.
///
/// # Errors
/// [`TaskError::MediaGone`] and [`TaskError::NothingStored`] when there is nothing to send; [`TaskError::Export`].
pub(crate) async fn export_medium(
    context: &TasksContext,
    job: &JobRecord,
    progress: &TaskProgress<'_>,
) -> Result<ExportReport, TaskError> {
    let order = job.export.as_deref().ok_or(ExportError::NoTarget)?;
    let client = &context.services.client;
    let target = order.url.as_deref().ok_or(ExportError::NoTarget)?;
    let url = OutboundUrl::parse(target, client.networks()).map_err(ExportError::from)?;
    let found = context.bus.load_record::<MediaRecord>(&job.media_id.to_string()).await?;
    let medium = found.map(|held| held.record).filter(|medium| !medium.is_removed());
    let medium = medium.ok_or(TaskError::MediaGone)?;
    let (file, encode) = open_file(context, &medium, order).await?;
    progress.begin(file.size_bytes);
    let sent = SentFile::default();
    let request = OutboundFile {
        url,
        length_bytes: file.size_bytes,
        content_type: file.content_type,
        bytes: sent.watch(file.bytes),
    };
    let mut reported_bytes = 0;
    let answered = {
        let mut sending = std::pin::pin!(client.put(request));
        let mut ticker =
            tokio::time::interval(Duration::from_millis(context.config.progress_interval_ms.max(1)));
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                answered = &mut sending => break answered,
                _ = ticker.tick() => {
                    let taken_bytes = sent.taken_bytes();
                    // The last of it is reported once the host has it.
                    if taken_bytes < file.size_bytes {
                        progress.add(taken_bytes - reported_bytes).await;
                        reported_bytes = taken_bytes;
                    }
                }
            }
        }
    };
    let response = match (answered, sent.take_failure()) {
        (_, Some(error)) => return Err(ExportError::Store(error).into()),
        (answered, None) => answered.map_err(ExportError::from)?,
    };
    if let Err(error) = response.check_success() {
        return Err(match error {
            OutboundError::Status { host, status } => ExportError::Refused { host, status },
            other => other.into(),
        }
        .into());
    }
    let sent_bytes = sent.taken_bytes();
    progress.add(sent_bytes.saturating_sub(reported_bytes)).await;
    let sha256 = sent.finish().filter(|_| sent_bytes == file.size_bytes);
    let sha256 = sha256.ok_or(ExportError::Unfinished { sent_bytes, size_bytes: file.size_bytes })?;
    Ok(ExportReport { size_bytes: file.size_bytes, sha256, encode })
}

/// The file, and the number of the encode that it is made of.
async fn open_file(
    context: &TasksContext,
    medium: &MediaRecord,
    order: &ExportOrder,
) -> Result<(ExportedFile, Option<u32>), TaskError> {
    match order.file {
        ExportFile::Source => {
            let source = medium.kept_source().ok_or(TaskError::NothingStored)?;
            let bytes = context.store.get_stream(&source.key, 0..source.size_bytes).boxed();
            let file = ExportedFile { size_bytes: source.size_bytes, content_type: SOURCE_TYPE, bytes };
            Ok((file, None))
        }
        ExportFile::Mp4 => {
            let encode = medium.encode.as_ref().filter(|_| medium.status == MediaStatus::Ready);
            let encode = encode.ok_or(TaskError::NothingStored)?;
            Ok((context.services.files.open(encode, order).await?, Some(encode.number)))
        }
    }
}

/// What is known of a file while it goes: how much of it, its digest, and why it broke off.
#[derive(Debug, Clone, Default)]
struct SentFile {
    taken_bytes: Arc<AtomicU64>,
    hasher: Arc<Mutex<Option<Sha256>>>,
    failure: Arc<Mutex<Option<StoreError>>>,
}

impl SentFile {
    /// The bytes, counted and hashed as they go.
    fn watch(
        &self,
        bytes: BoxStream<'static, Result<Bytes, StoreError>>,
    ) -> BoxStream<'static, io::Result<Bytes>> {
        *self.hasher.lock() = Some(Sha256::new());
        let sent = self.clone();
        let watched = bytes.then(move |piece| {
            let sent = sent.clone();
            async move { sent.take(piece).await }
        });
        watched.boxed()
    }

    async fn take(&self, piece: Result<Bytes, StoreError>) -> io::Result<Bytes> {
        let hashed = match piece {
            Ok(piece) => self.hash(piece).await,
            Err(error) => Err(error),
        };
        hashed.map_err(|error| {
            *self.failure.lock() = Some(error);
            io::Error::other("the file broke off")
        })
    }

    async fn hash(&self, piece: Bytes) -> Result<Bytes, StoreError> {
        let hasher = Arc::clone(&self.hasher);
        // Hashing 4 MiB takes milliseconds, too long for a thread that serves others.
        let hashing = tokio::task::spawn_blocking(move || {
            if let Some(hasher) = hasher.lock().as_mut() {
                hasher.update(&piece);
            }
            piece
        });
        let piece = hashing.await.map_err(StoreError::unavailable)?;
        self.taken_bytes.fetch_add(u64::try_from(piece.len()).unwrap_or(u64::MAX), Ordering::Relaxed);
        Ok(piece)
    }

    /// Bytes that were handed over.
    fn taken_bytes(&self) -> u64 {
        self.taken_bytes.load(Ordering::Relaxed)
    }

    fn take_failure(&self) -> Option<StoreError> {
        self.failure.lock().take()
    }

    /// The digest of what went, in lower-case hex.
    fn finish(&self) -> Option<String> {
        Some(HEXLOWER.encode(&self.hasher.lock().take()?.finalize()))
    }
}

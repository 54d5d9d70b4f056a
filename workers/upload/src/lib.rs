//! The upload stage: is a received file what it claims to be?
//!
//! - Consumes: `evt.upload.received.*` by the durable `upload`.
//! - Emits: `evt.media.stored.<media_id>` or `evt.media.rejected.<media_id>`, each at most once for a medium.
//! - Stores: `assets.<media_id>` with the verified source and what the probe found. Objects are read, never written.
//! - Limits: [`Config`] names slots, attempts and text lengths; the file is streamed once through 4 MiB windows; the probe has
//!   the limits of the media child; a structure may have [`walk::ELEMENTS_MAX`] elements.
//!
//! A crash at any line repeats the work from the start: nothing is written before the verdict.

mod config;
mod error;
mod technical;
#[cfg(test)]
mod tests;
mod verify;
pub mod walk;

use std::{io, sync::Arc};

use bytes::Bytes;
use futures::{FutureExt, StreamExt, future::BoxFuture};
use media::Driver;
use nats::{Bus, Delivery, Fault, Held, Outbox, Outcome, Stage, consume, now_ms};
use schemas::{
    Record as _,
    media::{Record, Rejected, Source, Status, Stored, Technical},
    subjects,
    upload::{self, Received},
};
use store::Store;
use tokio_util::sync::CancellationToken;

pub use config::Config;
pub use error::{Error, Rejection};
pub use technical::technical;
pub use verify::Verifier;

/// Name of the durable and of the stage.
const DURABLE: &str = "upload";

/// The stage. Cheap to share.
#[derive(Debug)]
pub struct Upload {
    bus: Bus,
    store: Store,
    driver: Arc<Driver>,
    config: Config,
}

/// What the bytes turned out to be.
#[derive(Debug)]
enum Verdict {
    Stored(Box<(Source, Technical)>),
    Rejected(Rejection),
}

/// Runs the stage until `shutdown` fires, then lets running work finish within the grace time.
///
/// # Errors
/// [`Error::Bus`] when the durable is missing or the broker is away at start.
pub async fn run(
    bus: Bus,
    store: Store,
    driver: impl Into<Arc<Driver>>,
    config: Config,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let queue = consume::Queue {
        stream: subjects::EVENTS.into(),
        durables: vec![DURABLE.into()],
        wake: subjects::events_of::<Received>(),
    };
    let settings = config.consume.clone();
    let stage = Arc::new(Upload { bus: bus.clone(), store, driver: driver.into(), config });
    Ok(consume::run(bus, queue, stage, settings, shutdown).await?)
}

impl Stage for Upload {
    const NAME: &'static str = "upload";
    type Message = Received;

    async fn handle(&self, received: &Received, delivery: &Delivery) -> Result<Outcome, Fault> {
        let held = self.load(received).await?;
        if held.record.status != Status::Uploading || held.record.is_removed() {
            return Ok(Outcome::Done);
        }
        if held.revision() == 0 && self.is_purged(received).await? {
            tracing::info!(media.id = %received.media_id, "removed meanwhile, nothing to verify");
            return Ok(Outcome::Done);
        }
        let work = async {
            Ok::<_, Error>(match self.read_through(received).await? {
                Ok(source) => self.probe(source, received, delivery).await?,
                Err(rejection) => Verdict::Rejected(rejection),
            })
        };
        let verdict = tokio::select! {
            biased;
            () = delivery.cancel.cancelled() => return Ok(Outcome::Lost),
            verdict = Box::pin(work) => verdict?,
        };
        self.record(held, received, verdict).await?;
        Ok(Outcome::Done)
    }

    /// What could not be verified in all attempts is told to its owner as rejected; nobody waits for ever.
    async fn dead(&self, received: &Received, _: &Delivery, fault: &Fault) -> Result<(), Fault> {
        let held = self.load(received).await?;
        if held.record.status == Status::Uploading && !held.record.is_removed() {
            let rejection = Rejection::new(fault.code, "it could not be verified in several attempts");
            self.record(held, received, Verdict::Rejected(rejection)).await?;
        }
        Ok(())
    }
}

impl Upload {
    async fn load(&self, received: &Received) -> Result<Held<Record>, Error> {
        let found = self.bus.load_any::<Record>(&received.media_id.to_string()).await?;
        Ok(found.unwrap_or_else(|| Held::new(new_record(received))))
    }

    /// True when neither the upload nor its bytes are there any more: the medium was removed long ago.
    async fn is_purged(&self, received: &Received) -> Result<bool, Error> {
        if self.bus.load::<upload::Record>(&received.upload_id.to_string()).await?.is_some() {
            return Ok(false);
        }
        match self.store.head(&received.key).await {
            Err(store::Error::NotFound { .. }) => Ok(true),
            found => Ok(found.map(|_| false)?),
        }
    }

    /// Streams the object once: size, digests, type and structure.
    async fn read_through(&self, received: &Received) -> Result<Result<Source, Rejection>, Error> {
        let found_bytes = self.store.head(&received.key).await?.size_bytes;
        if found_bytes != received.size_bytes {
            let detail = format!("{found_bytes} bytes are stored, {} were received", received.size_bytes);
            return Ok(Err(Rejection::new("size_mismatch", detail)));
        }
        let mut verifier = Verifier::new(received.size_bytes, received.digest.clone());
        let mut pieces = Box::pin(self.store.get_stream(&received.key, 0..received.size_bytes));
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            // Hashing 4 MiB takes milliseconds, too long for a thread that serves others.
            let updated =
                tokio::task::spawn_blocking(move || verifier.update(&piece).map(|()| verifier)).await;
            verifier = match updated.map_err(|error| store::Error::Unavailable(Box::new(error)))? {
                Ok(verifier) => verifier,
                Err(rejection) => return Ok(Err(rejection)),
            };
        }
        let sha256 = match verifier.finish() {
            Ok(sha256) => sha256,
            Err(rejection) => return Ok(Err(rejection)),
        };
        Ok(Ok(Source { key: received.key.clone(), size_bytes: received.size_bytes, sha256 }))
    }

    /// Lets the sandboxed child look inside.
    async fn probe(
        &self,
        source: Source,
        received: &Received,
        delivery: &Delivery,
    ) -> Result<Verdict, Error> {
        let object = Arc::new(Object {
            store: self.store.clone(),
            key: received.key.clone(),
            size_bytes: received.size_bytes,
        });
        match self.driver.probe(object, &delivery.cancel).await {
            Ok(probe) => {
                let technical = technical(&probe, self.config.text_chars_max);
                Ok(Verdict::Stored(Box::new((source, technical))))
            }
            Err(media::Fault::Rejected { code, detail }) => {
                Ok(Verdict::Rejected(Rejection::new(code.as_str(), detail)))
            }
            Err(fault @ (media::Fault::Crashed { .. } | media::Fault::Stalled { .. }))
                if delivery.delivered >= self.config.probe_attempts_max =>
            {
                tracing::warn!(%fault, media.id = %received.media_id, "the probe fails each time; the file is rejected");
                Ok(Verdict::Rejected(Rejection::new(fault.code(), "looking inside it fails each time")))
            }
            Err(fault) => Err(Error::Probe(fault)),
        }
    }

    /// Writes the verdict and its event in one change. A conflict is repeated from the start.
    async fn record(
        &self,
        mut held: Held<Record>,
        received: &Received,
        verdict: Verdict,
    ) -> Result<(), Error> {
        let Received { media_id, upload_id, ref owner, .. } = *received;
        let owner = owner.clone();
        held.record.changed_at_ms = now_ms();
        let outbox = match verdict {
            Verdict::Stored(found) => {
                let (source, technical) = *found;
                held.record.status = Status::Stored;
                held.record.source = Some(source.clone());
                held.record.technical = Some(technical.clone());
                Outbox::new().event(&Stored { media_id, upload_id, owner, source, technical })
            }
            Verdict::Rejected(Rejection { code, detail }) => {
                tracing::info!(code, media.id = %media_id, "an upload is rejected");
                held.record.status = Status::Rejected;
                held.record.code = Some(code.to_owned());
                held.record.detail = Some(detail.clone());
                Outbox::new().event(&Rejected { media_id, upload_id, owner, code: code.to_owned(), detail })
            }
        };
        Ok(self.bus.commit(&mut held, outbox).await?)
    }
}

fn new_record(received: &Received) -> Record {
    let now = now_ms();
    Record {
        media_id: received.media_id,
        owner: received.owner.clone(),
        status: Status::Uploading,
        source: None,
        technical: None,
        summary: None,
        encode: None,
        code: None,
        detail: None,
        created_at_ms: now,
        changed_at_ms: now,
        source_removed_at_ms: None,
        removed_at_ms: None,
    }
}

/// The uploaded object as the media child reads it.
struct Object {
    store: Store,
    key: String,
    size_bytes: u64,
}

impl media::Source for Object {
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

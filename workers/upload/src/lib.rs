//! The upload stage: is a received file what it claims to be?
//!
//! - Consumes: `evt.upload.received.*` and `evt.media.reopened.*` by the durable `upload`.
//! - Emits: `evt.media.stored.<media_id>` or `evt.media.rejected.<media_id>`, each at most once for an attempt at a medium;
//!   `evt.media.delayed.<media_id>` once for an outage.
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
use nats::{Bus, Class, Delivery, Fault, Held, Outbox, Outcome, Stage, consume, now_ms};
use schemas::{
    Event as _, Record as _,
    media::{Record, Rejected, Reopened, Source, Status, Step, Stored, Technical},
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
struct Upload {
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
        wake: vec![subjects::events_of::<Received>(), subjects::events_of::<Reopened>()],
    };
    let settings = config.consume.clone();
    let stage = Arc::new(Upload { bus: bus.clone(), store, driver: driver.into(), config });
    Ok(consume::run(bus, queue, stage, settings, shutdown).await?)
}

/// An event of the durable.
#[derive(Debug)]
enum Seen {
    /// These bytes are to be verified.
    Verify(Box<Received>),
    /// Nothing here depends on it.
    Other,
}

impl nats::Message for Seen {
    fn decode(delivery: &Delivery, payload: &[u8]) -> Result<Self, nats::Error> {
        let kind = subjects::event_parts(&delivery.subject).map(|(entity, verb, _)| (entity, verb));
        if kind != Some((Reopened::ENTITY, Reopened::VERB)) {
            return nats::decode(&delivery.subject, payload).map(|received| Self::Verify(Box::new(received)));
        }
        let reopened: Reopened = nats::decode(&delivery.subject, payload)?;
        Ok(match reopened.step {
            Step::Verify { received } => Self::Verify(received),
            Step::Encode { .. } | Step::Describe => Self::Other,
        })
    }
}

impl Stage for Upload {
    const NAME: &'static str = "upload";
    type Message = Seen;

    async fn handle(&self, seen: &Seen, delivery: &Delivery) -> Result<Outcome, Fault> {
        let Seen::Verify(received) = seen else { return Ok(Outcome::Done) };
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
            verdict = Box::pin(work) => verdict,
        };
        match verdict {
            Ok(verdict) => self.record(held, received, verdict).await?,
            Err(error) if error.class() == Class::Fault => return self.failed(held, received, error).await,
            Err(error) => return Err(error.into()),
        }
        Ok(Outcome::Done)
    }

    async fn waiting(&self, seen: &Seen, _: &Delivery, fault: &Fault) {
        let Seen::Verify(received) = seen else { return };
        let said = async {
            let mut held = self.load(received).await?;
            if held.revision() == 0 && self.is_purged(received).await? {
                return Ok(());
            }
            if let Some((record, event)) = held.record.delayed(Self::NAME, None, fault.code, now_ms()) {
                held.record = record;
                self.bus.commit(&mut held, Outbox::new().event(&event)).await?;
            }
            Ok::<_, Error>(())
        };
        if let Err(error) = said.await {
            tracing::debug!(%error, "what the work waits for could not be written");
        }
    }

    /// What could not be verified in all tries is told to its owner as rejected; nobody waits for ever.
    async fn dead(&self, seen: &Seen, _: &Delivery, fault: &Fault) -> Result<(), Fault> {
        let Seen::Verify(received) = seen else { return Ok(()) };
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
            return Ok(Err(Rejection::size_mismatch(detail)));
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
            Err(fault) => Err(Error::Probe(fault)),
        }
    }

    /// Counts a failed try in the record, since deliveries also count outages and lost workers. A file that crashes the probe
    /// too often is rejected.
    async fn failed(
        &self,
        mut held: Held<Record>,
        received: &Received,
        error: Error,
    ) -> Result<Outcome, Fault> {
        let faults = held.record.attempt.faults.saturating_add(1);
        if error.is_crash() && faults >= self.config.probe_attempts_max {
            tracing::warn!(%error, media.id = %received.media_id, "the probe fails each time; the file is rejected");
            let rejection = Rejection::new(error.code(), "looking inside it fails each time");
            self.record(held, received, Verdict::Rejected(rejection)).await?;
            return Ok(Outcome::Done);
        }
        held.record.attempt.faults = faults;
        self.bus.commit(&mut held, Outbox::new()).await?;
        Err(Fault::from(error).at_attempt(faults))
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
        held.record.waiting = None;
        let is_first = held.record.attempt.number == 0;
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
                let event = Rejected { media_id, upload_id, owner, code: code.to_owned(), detail };
                // An earlier attempt was rejected, too: that event is not this one.
                if is_first { Outbox::new().event(&event) } else { Outbox::new().event_again(&event) }
            }
        };
        Ok(self.bus.commit(&mut held, outbox).await?)
    }
}

fn new_record(received: &Received) -> Record {
    let now = now_ms();
    Record::new(received.media_id, received.owner.clone(), Status::Uploading, now)
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

//! One request's bytes on their way into an upload.
//!
//! Whatever ends the request, the prefix that arrived is kept: it is made durable, recorded, and only then told. Bytes
//! under a checksum count only when it holds. The session runs in a task of its own, so that a client that goes away
//! does not take the prefix with it.

use std::{sync::Arc, time::Instant};

use axum::body::Body;
use bytes::Bytes;
use http_body_util::BodyExt;
use nats::{Outbox, now_ms};
use schemas::{document, upload::Status};
use store::{Spool, Store};
use tokio::time::MissedTickBehavior;

use super::{
    Shared,
    digest::Checks,
    ledger::{self, Ledger},
    refusal::Refusal,
    slot::Guard,
};

/// An open upload with the right to write to it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) shared: Arc<Shared>,
    pub(super) ledger: Ledger,
    pub(super) spool: Spool,
    pub(super) guard: Guard,
    pub(super) checks: Checks,
    pub(super) room_bytes: u64,
    pub(super) on_end: OnEnd,
}

/// What the end of the body means for an upload whose length is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum OnEnd {
    /// More requests may follow.
    Keep,
    /// That was all.
    Complete,
}

/// How the body ended.
#[derive(Debug)]
enum Stop {
    End,
    Displaced,
    Refused(Refusal),
}

impl Session {
    /// Takes the body and records what is durable. Returns the record after it, received when the upload is complete.
    pub(super) async fn run(mut self: Box<Self>, body: &mut Body) -> Result<Ledger, Refusal> {
        let stop = self.pump(body).await;
        if self.checks.is_empty() { self.keep(stop).await } else { self.keep_checked(stop).await }
    }

    async fn pump(&mut self, body: &mut Body) -> Stop {
        let mut ticker = tokio::time::interval(self.shared.config.tick());
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pace = Pace::new(&self.shared);
        loop {
            let frame = tokio::select! {
                biased;
                () = self.guard.displaced() => return Stop::Displaced,
                () = self.shared.stopping.cancelled() => return Stop::Refused(Refusal::Stopping),
                frame = body.frame() => Some(frame),
                _ = ticker.tick() => None,
            };
            let step = match frame {
                None => pace.check(),
                Some(None) => return Stop::End,
                Some(Some(Err(_))) => return Stop::Refused(Refusal::Cut),
                Some(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => {
                        pace.count(bytes.len());
                        let began = Instant::now();
                        let taken = self.take(bytes).await;
                        pace.pause(began.elapsed());
                        taken
                    }
                    Err(_trailers) => Ok(()),
                },
            };
            let began = Instant::now();
            let step = match step {
                Ok(()) => self.checkpoint().await,
                Err(refusal) => Err(refusal),
            };
            pace.pause(began.elapsed());
            match step {
                Ok(()) => {}
                Err(Refusal::Displaced { .. }) => return Stop::Displaced,
                Err(refusal) => return Stop::Refused(refusal),
            }
        }
    }

    async fn take(&mut self, bytes: Bytes) -> Result<(), Refusal> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.room_bytes = self.room_bytes.checked_sub(length).ok_or(Refusal::TooLarge)?;
        self.checks.update(&bytes);
        tokio::select! {
            biased;
            () = self.guard.displaced() => Err(Refusal::Displaced { offset_bytes: self.ledger.record().offset_bytes }),
            written = self.spool.write(bytes) => Ok(written?),
        }
    }

    /// Records what has become durable meanwhile, unless a checksum still has to be seen.
    async fn checkpoint(&mut self) -> Result<(), Refusal> {
        if let Some(durable) = self.spool.checkpoint().await?
            && self.checks.is_empty()
        {
            self.ledger.advance(&durable, self.expires_at_ms()).await?;
            self.spool.recorded(&durable).await;
        }
        Ok(())
    }

    async fn keep_checked(mut self: Box<Self>, stop: Stop) -> Result<Ledger, Refusal> {
        let checks = std::mem::take(&mut self.checks);
        let refusal = match stop {
            Stop::End if checks.hold() => return self.keep(Stop::End).await,
            Stop::End => Refusal::ChecksumMismatch,
            Stop::Displaced => Refusal::Displaced { offset_bytes: self.ledger.record().offset_bytes },
            Stop::Refused(refusal) => refusal,
        };
        let recorded = self.ledger.durable();
        self.spool.rollback(&recorded).await?;
        let expires_at_ms = self.ledger.record().expires_at_ms;
        self.ledger.release(&recorded, expires_at_ms).await?;
        Err(refusal)
    }

    async fn keep(mut self: Box<Self>, stop: Stop) -> Result<Ledger, Refusal> {
        if self.on_end == OnEnd::Complete && matches!(stop, Stop::End) {
            self.ledger.settle_length(self.spool.offset_bytes());
        }
        if Some(self.spool.offset_bytes()) == self.ledger.record().length_bytes {
            return self.complete(stop).await;
        }
        let flushed = if matches!(stop, Stop::Displaced) {
            // The newcomer waits: what can't be saved quickly, the client sends again.
            let release = self.shared.config.release();
            tokio::time::timeout(release, self.spool.flush())
                .await
                .unwrap_or_else(|_| Ok(self.spool.durable()))
        } else {
            self.spool.flush().await
        };
        let (durable, failed) = match flushed {
            Ok(durable) => (durable, None),
            Err(error @ store::Error::Damaged(_)) => return self.deactivate(error).await,
            Err(error) => (self.spool.durable(), Some(Refusal::from(error))),
        };
        let expires_at_ms = self.expires_at_ms();
        let released = self.ledger.release(&durable, expires_at_ms).await;
        if released.is_ok() {
            self.spool.recorded(&durable).await;
        }
        let Self { ledger, spool, .. } = *self;
        released_or_forsaken(released, spool, &ledger).await?;
        match (stop, failed) {
            (Stop::Refused(refusal), _) | (Stop::End, Some(refusal)) => Err(refusal),
            (Stop::Displaced, _) => Err(Refusal::Displaced { offset_bytes: durable.offset_bytes }),
            (Stop::End, None) => Ok(ledger),
        }
    }

    /// Every byte is here: whatever the connection did afterwards, the upload is complete.
    async fn complete(mut self: Box<Self>, stop: Stop) -> Result<Ledger, Refusal> {
        let durable = match self.spool.flush_last().await {
            Ok(durable) => durable,
            Err(error @ store::Error::Damaged(_)) => return self.deactivate(error).await,
            Err(error) => {
                let durable = self.spool.durable();
                let expires_at_ms = self.expires_at_ms();
                let released = self.ledger.release(&durable, expires_at_ms).await;
                let Self { ledger, spool, .. } = *self;
                released_or_forsaken(released, spool, &ledger).await?;
                return Err(error.into());
            }
        };
        let expires_at_ms = self.expires_at_ms();
        let advanced = self.ledger.advance(&durable, expires_at_ms).await;
        let Self { shared, mut ledger, spool, guard, .. } = *self;
        released_or_forsaken(advanced, spool, &ledger).await?;
        let finished = complete(&shared.store, &mut ledger).await;
        drop(guard);
        match (finished, stop) {
            (Err(refusal), _) | (Ok(()), Stop::Refused(refusal @ Refusal::TooLarge)) => Err(refusal),
            (Ok(()), _) => Ok(ledger),
        }
    }

    async fn deactivate(mut self: Box<Self>, error: store::Error) -> Result<Ledger, Refusal> {
        Err(deactivate(&mut self.ledger, error).await)
    }

    fn expires_at_ms(&self) -> u64 {
        self.shared.config.expires_at_ms(now_ms())
    }
}

/// Lets go of the spool. What a displaced writer began and nobody recorded is ended with it: it would stay in the store for ever.
async fn released_or_forsaken(
    written: Result<(), Refusal>,
    spool: Spool,
    ledger: &Ledger,
) -> Result<(), Refusal> {
    if let Err(Refusal::Displaced { .. }) = &written
        && let Err(error) = spool.forsake(&ledger.durable()).await
    {
        tracing::warn!(%error, upload.id = %ledger.upload_id(), "a displaced request leaves a multipart upload behind");
    }
    written
}

/// Claims a full upload and completes it. `holder` names who does.
pub(crate) async fn finish(store: &Store, ledger: &mut Ledger, holder: &str) -> Result<(), Refusal> {
    let length_bytes = ledger.record().length_bytes;
    match ledger.claim(holder, length_bytes).await {
        Ok(()) => complete(store, ledger).await,
        Err(nats::Error::Conflict { .. }) => {
            ledger.reload().await?;
            let offset_bytes = ledger.record().offset_bytes;
            if ledger.record().status == Status::Received {
                Ok(())
            } else {
                Err(Refusal::Displaced { offset_bytes })
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Puts a full upload that the caller has claimed under its final key and records it as received. Repeating it after a crash is
/// harmless.
pub(super) async fn complete(store: &Store, ledger: &mut Ledger) -> Result<(), Refusal> {
    if let Err(refusal) = put_whole(store, ledger).await {
        // The next to come need not make this one let go first.
        if ledger.record().status == Status::Open {
            let (durable, expires_at_ms) = (ledger.durable(), ledger.record().expires_at_ms);
            ledger.release(&durable, expires_at_ms).await.ok();
        }
        return Err(refusal);
    }
    if !document(ledger).await? {
        return Err(ledger::discard(store, ledger).await);
    }
    ledger.received().await?;
    super::open::forget(ledger.bus(), &ledger.record().owner, ledger.upload_id()).await;
    Ok(())
}

/// Bytes count as lost only when they are missing twice, under one claim: a finisher that was displaced may have been at it, too.
async fn put_whole(store: &Store, ledger: &mut Ledger) -> Result<(), Refusal> {
    let mut is_second = false;
    loop {
        let (place, durable) = (ledger.place(ledger.record().offset_bytes), ledger.durable());
        let error = match Spool::finish(store, place, &durable).await {
            Ok(()) => return Ok(()),
            Err(error @ store::Error::Damaged(_)) => error,
            Err(error) => return Err(error.into()),
        };
        let claimed = ledger.record().generation;
        ledger.reload().await?;
        ledger.alive()?;
        let record = ledger.record();
        if record.generation != claimed || record.status == Status::Received {
            return Err(Refusal::Displaced { offset_bytes: record.offset_bytes });
        }
        if is_second {
            return Err(deactivate(ledger, error).await);
        }
        is_second = true;
    }
}

/// The owner's document of the medium, made once: before the event that sets the stages going, so that whoever hears of the
/// medium finds it. False when the medium was removed meanwhile.
async fn document(ledger: &Ledger) -> Result<bool, Refusal> {
    let upload = ledger.record();
    let now_ms = now_ms();
    let key = upload.media_id.to_string();
    let made = ledger.bus().change::<document::Record>(&key, |found| {
        if found.is_some() {
            return None;
        }
        let record = document::Record {
            media_id: upload.media_id,
            owner: upload.owner.clone(),
            title: upload.filename.clone().unwrap_or_default(),
            mint_tx: upload.mint_tx,
            gate: None,
            encryption: document::Encryption::None,
            created_at_ms: upload.created_at_ms,
            changed_at_ms: now_ms,
            removed_at_ms: None,
        };
        Some((record, Outbox::new()))
    });
    Ok(Box::pin(made).await?.is_some())
}

/// Ends an upload whose acknowledged bytes are gone. Its owner sees 410 and an event with the code.
pub(super) async fn deactivate(ledger: &mut Ledger, error: store::Error) -> Refusal {
    tracing::error!(%error, upload.id = %ledger.upload_id(), "acknowledged bytes are lost; the upload is ended");
    if let Err(refusal) = ledger.end(Status::Deactivated, Some(error.code())).await {
        return refusal;
    }
    super::open::forget(ledger.bus(), &ledger.record().owner, ledger.upload_id()).await;
    error.into()
}

/// Watches that bytes come, and fast enough.
#[derive(Debug)]
struct Pace {
    idle_timeout: std::time::Duration,
    window_bytes_min: u64,
    last_byte: Instant,
    window_start: Instant,
    window_bytes: u64,
}

impl Pace {
    fn new(shared: &Shared) -> Self {
        let idle_timeout = shared.config.idle_timeout();
        let window_bytes_min = shared.config.rate_bytes_per_s_min.saturating_mul(idle_timeout.as_secs());
        let now = Instant::now();
        Self { idle_timeout, window_bytes_min, last_byte: now, window_start: now, window_bytes: 0 }
    }

    fn count(&mut self, length: usize) {
        self.last_byte = Instant::now();
        self.window_bytes = self.window_bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }

    /// The client was kept waiting: that is not its silence.
    fn pause(&mut self, waited: std::time::Duration) {
        self.last_byte += waited;
        self.window_start += waited;
    }

    fn check(&mut self) -> Result<(), Refusal> {
        if self.last_byte.elapsed() >= self.idle_timeout {
            return Err(Refusal::Idle);
        }
        if self.window_start.elapsed() < self.idle_timeout {
            return Ok(());
        }
        if self.window_bytes < self.window_bytes_min {
            return Err(Refusal::TooSlow);
        }
        (self.window_start, self.window_bytes) = (Instant::now(), 0);
        Ok(())
    }
}

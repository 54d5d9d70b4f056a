//! One request's bytes on their way into an upload.
//!
//! Whatever ends the request, the prefix that arrived is kept: it is made durable, recorded, and only then reported. Bytes
//! under a checksum count only when it holds. The session runs in a task of its own, so that a client that goes away
//! does not take the prefix with it.
//!
//! Limits: [`TRACED_APPENDS_MAX`] requests have their bytes in the trace of their upload.

use std::{sync::Arc, time::Instant};

use axum::body::{Body, HttpBody as _};
use bytes::Bytes;
use http_body_util::BodyExt;
use nats::{
    metrics::{
        LabelValue as _,
        labels::AppendOutcome,
        table::{
            UPLOAD_APPEND_SECONDS, UPLOAD_APPENDS, UPLOAD_CHECKSUM_FAILURES, UPLOAD_RECEIVED_BYTES,
            UPLOAD_WRITERS,
        },
    },
    now_ms,
    spans::{Span, SpanAttribute, SpanKind, TraceContext},
};
use schemas::upload::{UploadProtocol, UploadStatus};
use store::{Spool, Store};
use tokio::time::MissedTickBehavior;

use super::{
    UploadContext,
    digest::DigestChecks,
    fenced_record::{self, FencedUploadRecord},
    medium,
    refusal::UploadRefusal,
    resumable::ProgressSender,
    slot::UploadWriterGuard,
};
use crate::quotas;

/// An open upload with the right to write to it.
#[derive(Debug)]
pub(super) struct UploadSession {
    pub(super) shared: Arc<UploadContext>,
    pub(super) ledger: FencedUploadRecord,
    pub(super) spool: Spool,
    pub(super) guard: UploadWriterGuard,
    pub(super) room_bytes: u64,
    pub(super) policy: BodyPolicy,
    /// True once the last byte of the body was taken, whatever comes after it.
    pub(super) has_whole_body: bool,
}

/// What a request says about its body.
#[derive(Debug)]
pub(super) struct BodyPolicy {
    /// None of its bytes counts unless they hold.
    pub(super) checks: DigestChecks,
    pub(super) on_end: BodyEndPolicy,
    /// Learns how far it is.
    pub(super) progress: Option<ProgressSender>,
}

/// What the end of the body means for an upload whose length is not known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum BodyEndPolicy {
    /// More requests may follow.
    Keep,
    /// That was all.
    Complete,
}

/// How the body ended.
#[derive(Debug)]
enum BodyOutcome {
    End,
    Displaced,
    Refused(UploadRefusal),
}

/// Requests whose bytes are a part of the trace of their upload; those behind them have it in their own.
const TRACED_APPENDS_MAX: u64 = 32;

/// The span of the bytes of one request, the `generation`th to write to the upload. It is of the trace that the upload began, whichever
/// request brings the bytes; but not of every one: an upload in many pieces would make a trace that nobody can look at.
fn append_span(origin: Option<TraceContext>, generation: u64) -> Span {
    let name = || "append to upload".into();
    if generation <= TRACED_APPENDS_MAX {
        return Span::resume(origin, SpanKind::Internal, name);
    }
    let span = Span::begin(SpanKind::Internal, name);
    span.link(origin.filter(|origin| !origin.is_same_trace(&span.context())));
    span
}

impl UploadSession {
    /// Takes the body and records what is durable. Returns the record after it, received when the upload is complete.
    pub(super) async fn run(
        mut self: Box<Self>,
        body: &mut Body,
    ) -> Result<FencedUploadRecord, UploadRefusal> {
        let (_writer, began) = (UPLOAD_WRITERS.hold(()), Instant::now());
        let span = append_span(self.ledger.trace(), self.ledger.record().generation);
        let upload_id = self.ledger.upload_id();
        span.set(|| SpanAttribute::UploadId(upload_id.to_string()));
        let taking = async {
            let stop = self.receive_body(body).await;
            if self.policy.checks.is_empty() {
                self.keep_prefix(stop).await
            } else {
                self.keep_checked_prefix(stop).await
            }
        };
        let ended = span.scope(taking).await;
        count_append(&ended, began);
        span.set(|| SpanAttribute::Outcome(append_outcome(&ended).text()));
        ended
    }

    async fn receive_body(&mut self, body: &mut Body) -> BodyOutcome {
        let mut ticker = tokio::time::interval(self.shared.config.tick_interval());
        ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pace = TransferRateMonitor::new(&self.shared);
        loop {
            let frame = tokio::select! {
                biased;
                // The displacement first: a connection that delivers without a pause would never let its successor
                // in.
                () = self.guard.wait_displaced() => return BodyOutcome::Displaced,
                () = self.shared.stopping.cancelled() => return BodyOutcome::Refused(UploadRefusal::Stopping),
                frame = body.frame() => Some(frame),
                _ = ticker.tick() => None,
            };
            let step = match frame {
                None => pace.check_rate(),
                Some(None) => return BodyOutcome::End,
                Some(Some(Err(_))) => return BodyOutcome::Refused(UploadRefusal::Cut),
                Some(Some(Ok(frame))) => match frame.into_data() {
                    Ok(bytes) => {
                        pace.count_bytes(bytes.len());
                        UPLOAD_RECEIVED_BYTES.add((), u64::try_from(bytes.len()).unwrap_or(0));
                        let is_last = body.is_end_stream();
                        let began = Instant::now();
                        let taken = self.write_bytes(bytes).await;
                        self.has_whole_body = is_last && taken.is_ok();
                        pace.exclude_wait(began.elapsed());
                        taken
                    }
                    Err(frame) => {
                        frame.trailers_ref().map_or(Ok(()), |trailers| self.policy.checks.declare(trailers))
                    }
                },
            };
            let began = Instant::now();
            let step = match step {
                Ok(()) => self.checkpoint().await,
                Err(refusal) => Err(refusal),
            };
            // Storing and recording are our time: a slow store must not make a client look idle.
            pace.exclude_wait(began.elapsed());
            match step {
                Ok(()) => {}
                Err(UploadRefusal::Displaced { .. }) => return BodyOutcome::Displaced,
                Err(refusal) => return BodyOutcome::Refused(refusal),
            }
        }
    }

    async fn write_bytes(&mut self, bytes: Bytes) -> Result<(), UploadRefusal> {
        let length = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
        self.room_bytes = self.room_bytes.checked_sub(length).ok_or(UploadRefusal::TooLarge)?;
        self.policy.checks.update(&bytes);
        tokio::select! {
            biased;
            () = self.guard.wait_displaced() => Err(UploadRefusal::Displaced { offset_bytes: self.ledger.record().offset_bytes }),
            written = self.spool.write(bytes) => Ok(written?),
        }
    }

    /// Records what has become durable meanwhile, unless a checksum still has to be seen.
    async fn checkpoint(&mut self) -> Result<(), UploadRefusal> {
        if let Some(durable) = self.spool.checkpoint().await?
            && self.policy.checks.is_empty()
        {
            // The record first: what the spool lets go of next is what the older record names.
            self.ledger.record_progress(&durable, self.expires_at_ms()).await?;
            self.spool.confirm_recorded(&durable).await;
            if let Some(progress) = &self.policy.progress {
                progress.send_offset(durable.offset_bytes);
            }
        }
        Ok(())
    }

    async fn keep_checked_prefix(
        mut self: Box<Self>,
        stop: BodyOutcome,
    ) -> Result<FencedUploadRecord, UploadRefusal> {
        let checks = std::mem::take(&mut self.policy.checks);
        let refusal = match stop {
            BodyOutcome::End if checks.all_match() => return self.keep_prefix(BodyOutcome::End).await,
            BodyOutcome::End => UploadRefusal::ChecksumMismatch,
            BodyOutcome::Displaced => {
                UploadRefusal::Displaced { offset_bytes: self.ledger.record().offset_bytes }
            }
            BodyOutcome::Refused(refusal) => refusal,
        };
        // tus 1.0, checksum extension: nothing may stay of a request whose checksum does not match.
        let recorded = self.ledger.durable_bytes();
        self.spool.rollback(&recorded).await?;
        let expires_at_ms = self.ledger.record().expires_at_ms;
        self.ledger.release_writer(&recorded, expires_at_ms).await?;
        Err(refusal)
    }

    async fn keep_prefix(
        mut self: Box<Self>,
        stop: BodyOutcome,
    ) -> Result<FencedUploadRecord, UploadRefusal> {
        if self.policy.on_end == BodyEndPolicy::Complete && self.is_at_end(&stop) {
            // Only at the end of a body that came whole: a cut one would fix a length that is too short.
            self.ledger.fix_length(self.spool.offset_bytes());
        }
        if self.has_every_byte(&stop) {
            return self.complete_session(stop).await;
        }
        let flushed = if matches!(stop, BodyOutcome::Displaced) {
            // The newcomer waits: what can't be saved quickly, the client sends again.
            let release = self.shared.config.release_timeout();
            tokio::time::timeout(release, self.spool.flush())
                .await
                .unwrap_or_else(|_| Ok(self.spool.latest_checkpoint()))
        } else {
            self.spool.flush().await
        };
        let (durable, failed) = match flushed {
            Ok(durable) => (durable, None),
            Err(error @ store::StoreError::Damaged(_)) => return self.deactivate_session(error).await,
            Err(error) => (self.spool.latest_checkpoint(), Some(UploadRefusal::from(error))),
        };
        let expires_at_ms = self.expires_at_ms();
        let released = self.ledger.release_writer(&durable, expires_at_ms).await;
        if released.is_ok() {
            self.spool.confirm_recorded(&durable).await;
        }
        let Self { ledger, spool, .. } = *self;
        release_spool(released, spool, &ledger).await?;
        match (stop, failed) {
            (BodyOutcome::Refused(refusal), _) | (BodyOutcome::End, Some(refusal)) => Err(refusal),
            (BodyOutcome::Displaced, _) => {
                Err(UploadRefusal::Displaced { offset_bytes: durable.offset_bytes })
            }
            (BodyOutcome::End, None) => Ok(ledger),
        }
    }

    /// True when the body came whole, even if the request was then displaced or stopped.
    const fn is_at_end(&self, stop: &BodyOutcome) -> bool {
        self.has_whole_body || matches!(stop, BodyOutcome::End)
    }

    /// tus: whatever the connection does after the last byte, the upload is complete. Resumable Uploads for HTTP: the request whose
    /// end completes it has to come to that end (draft, 4.1.2).
    fn has_every_byte(&self, stop: &BodyOutcome) -> bool {
        let record = self.ledger.record();
        let is_said = match record.protocol {
            UploadProtocol::Tus => true,
            UploadProtocol::Resumable { .. } => {
                self.policy.on_end == BodyEndPolicy::Complete && self.is_at_end(stop)
            }
        };
        is_said && record.length_bytes == Some(self.spool.offset_bytes())
    }

    /// Every byte is here.
    async fn complete_session(
        mut self: Box<Self>,
        stop: BodyOutcome,
    ) -> Result<FencedUploadRecord, UploadRefusal> {
        let durable = match self.spool.flush_last().await {
            Ok(durable) => durable,
            Err(error @ store::StoreError::Damaged(_)) => return self.deactivate_session(error).await,
            Err(error) => {
                let durable = self.spool.latest_checkpoint();
                let expires_at_ms = self.expires_at_ms();
                let released = self.ledger.release_writer(&durable, expires_at_ms).await;
                let Self { ledger, spool, .. } = *self;
                release_spool(released, spool, &ledger).await?;
                return Err(error.into());
            }
        };
        let expires_at_ms = self.expires_at_ms();
        self.ledger.note_complete();
        let advanced = self.ledger.record_progress(&durable, expires_at_ms).await;
        // The guard is kept until the end: another writer of this process would complete the same bytes.
        let Self { shared, mut ledger, spool, guard, .. } = *self;
        release_spool(advanced, spool, &ledger).await?;
        let finished = complete_upload(&shared.store, &mut ledger).await;
        drop(guard);
        match (finished, stop) {
            (Err(refusal), _) | (Ok(()), BodyOutcome::Refused(refusal @ UploadRefusal::TooLarge)) => {
                Err(refusal)
            }
            (Ok(()), _) => Ok(ledger),
        }
    }

    async fn deactivate_session(
        mut self: Box<Self>,
        error: store::StoreError,
    ) -> Result<FencedUploadRecord, UploadRefusal> {
        Err(deactivate_upload(&mut self.ledger, error).await)
    }

    fn expires_at_ms(&self) -> u64 {
        self.shared.config.expires_at_ms(now_ms())
    }
}

/// Counts a request with bytes of an upload.
fn count_append(ended: &Result<FencedUploadRecord, UploadRefusal>, began: Instant) {
    UPLOAD_APPEND_SECONDS.observe_since((), began);
    UPLOAD_APPENDS.increment(append_outcome(ended));
    if matches!(ended, Err(UploadRefusal::ChecksumMismatch | UploadRefusal::DigestMismatch)) {
        UPLOAD_CHECKSUM_FAILURES.increment(());
    }
}

fn append_outcome(ended: &Result<FencedUploadRecord, UploadRefusal>) -> AppendOutcome {
    match ended {
        Ok(ledger) if ledger.record().status == UploadStatus::Received => AppendOutcome::Completed,
        Ok(_) => AppendOutcome::Kept,
        Err(UploadRefusal::Displaced { .. }) => AppendOutcome::Displaced,
        Err(_) => AppendOutcome::Refused,
    }
}

/// Lets go of the spool. What a displaced writer began and nobody recorded is ended with it: it would stay in the store for ever.
pub(super) async fn release_spool(
    written: Result<(), UploadRefusal>,
    spool: Spool,
    ledger: &FencedUploadRecord,
) -> Result<(), UploadRefusal> {
    if let Err(UploadRefusal::Displaced { .. }) = &written
        && let Err(error) = spool.abandon(&ledger.durable_bytes()).await
    {
        tracing::warn!(%error, upload.id = %ledger.upload_id(), "a displaced request leaves a multipart upload behind");
    }
    written
}

/// Claims a full upload and completes it. `holder` names who does.
pub(crate) async fn claim_and_complete(
    store: &Store,
    ledger: &mut FencedUploadRecord,
    holder: &str,
) -> Result<(), UploadRefusal> {
    let length_bytes = ledger.record().length_bytes;
    match ledger.claim_for_writer(holder, length_bytes, None).await {
        Ok(()) => complete_upload(store, ledger).await,
        Err(nats::BusError::Conflict { .. }) => {
            ledger.reload().await?;
            let offset_bytes = ledger.record().offset_bytes;
            if ledger.record().status == UploadStatus::Received {
                Ok(())
            } else {
                Err(UploadRefusal::Displaced { offset_bytes })
            }
        }
        Err(error) => Err(error.into()),
    }
}

/// Puts a full upload that the caller has claimed under its final key and records it as received. Repeating it after a crash is
/// harmless.
pub(super) async fn complete_upload(
    store: &Store,
    ledger: &mut FencedUploadRecord,
) -> Result<(), UploadRefusal> {
    if let Err(refusal) = store_object(store, ledger).await {
        // The next to come need not make this one let go first.
        if ledger.record().status == UploadStatus::Open {
            let (durable, expires_at_ms) = (ledger.durable_bytes(), ledger.record().expires_at_ms);
            ledger.release_writer(&durable, expires_at_ms).await.ok();
        }
        return Err(refusal);
    }
    let size_bytes = ledger.record().offset_bytes;
    if ledger.record().is_partial() {
        ledger.mark_part_received().await?;
        let owner = &ledger.record().owner;
        quotas::add_uploaded_bytes(ledger.bus(), owner, size_bytes).await;
        super::open_uploads::settle_part(ledger.bus(), owner, ledger.upload_id()).await;
        return Ok(());
    }
    // Before the event: the stages that it wakes look for the document.
    if !medium::create_document(ledger.bus(), ledger.record()).await? {
        return Err(fenced_record::discard_upload(store, ledger).await);
    }
    ledger.mark_received().await?;
    if let Some(grant_id) = ledger.record().grant_id {
        auth::upload_grant::finish_upload_grant(ledger.bus(), grant_id, ledger.upload_id()).await;
    }
    // Those of a final upload counted with its parts.
    if !ledger.record().is_final() {
        quotas::add_uploaded_bytes(ledger.bus(), &ledger.record().owner, size_bytes).await;
    }
    super::open_uploads::remove_open_upload(ledger.bus(), &ledger.record().owner, ledger.upload_id()).await;
    Ok(())
}

/// Bytes count as lost only when they are missing twice, under one claim: a finisher that was displaced may have been at it, too.
async fn store_object(store: &Store, ledger: &mut FencedUploadRecord) -> Result<(), UploadRefusal> {
    let mut is_second = false;
    loop {
        let (place, durable) = (ledger.spool_place(ledger.record().offset_bytes), ledger.durable_bytes());
        let error = match Spool::finish(store, place, &durable).await {
            Ok(()) => return Ok(()),
            Err(error @ store::StoreError::Damaged(_)) => error,
            Err(error) => return Err(error.into()),
        };
        // Damage seen by one who has been displaced proves nothing: the successor may just be moving the bytes.
        ledger.reload().await?;
        ledger.check_not_ended()?;
        ledger.check_claim()?;
        if ledger.record().status == UploadStatus::Received {
            return Err(UploadRefusal::Displaced { offset_bytes: ledger.record().offset_bytes });
        }
        if is_second {
            return Err(deactivate_upload(ledger, error).await);
        }
        is_second = true;
    }
}

/// Ends an upload whose acknowledged bytes are gone. Its owner sees 410 and an event with the code.
pub(super) async fn deactivate_upload(
    ledger: &mut FencedUploadRecord,
    error: store::StoreError,
) -> UploadRefusal {
    tracing::error!(%error, upload.id = %ledger.upload_id(), "acknowledged bytes are lost; the upload is ended");
    if let Err(refusal) = ledger.mark_ended(UploadStatus::Deactivated, Some(error.code())).await {
        return refusal;
    }
    super::open_uploads::remove_open_upload(ledger.bus(), &ledger.record().owner, ledger.upload_id()).await;
    error.into()
}

/// Watches that bytes come, and fast enough.
#[derive(Debug)]
struct TransferRateMonitor {
    idle_timeout: std::time::Duration,
    window_bytes_min: u64,
    last_byte: Instant,
    window_start: Instant,
    window_bytes: u64,
}

impl TransferRateMonitor {
    fn new(shared: &UploadContext) -> Self {
        let idle_timeout = shared.config.idle_timeout();
        let window_bytes_min = shared.config.rate_bytes_per_s_min.saturating_mul(idle_timeout.as_secs());
        let now = Instant::now();
        Self { idle_timeout, window_bytes_min, last_byte: now, window_start: now, window_bytes: 0 }
    }

    fn count_bytes(&mut self, length: usize) {
        self.last_byte = Instant::now();
        self.window_bytes = self.window_bytes.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
    }

    /// The client was kept waiting: that is not its silence.
    fn exclude_wait(&mut self, waited: std::time::Duration) {
        // Both moments move: the time that a client was kept waiting counts for neither limit.
        self.last_byte += waited;
        self.window_start += waited;
    }

    fn check_rate(&mut self) -> Result<(), UploadRefusal> {
        if self.last_byte.elapsed() >= self.idle_timeout {
            return Err(UploadRefusal::Idle);
        }
        if self.window_start.elapsed() < self.idle_timeout {
            return Ok(());
        }
        if self.window_bytes < self.window_bytes_min {
            return Err(UploadRefusal::TooSlow);
        }
        (self.window_start, self.window_bytes) = (Instant::now(), 0);
        Ok(())
    }
}

#[cfg(test)]
mod trace_tests {
    use super::*;

    #[test]
    fn the_trace_of_an_upload_does_not_grow_with_each_request() {
        let origin = TraceContext::new_root(true);
        let is_part = |generation| append_span(Some(origin), generation).context().is_same_trace(&origin);
        assert!(is_part(1) && is_part(TRACED_APPENDS_MAX));
        assert!(!is_part(TRACED_APPENDS_MAX + 1));
    }
}

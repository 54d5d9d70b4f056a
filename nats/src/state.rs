//! State: KV records changed by compare-and-set, together with the events the change causes.
//!
//! One write stores the record and its unsent events; then they are published; then they are cleared. A crash in between
//! leaves them in the record, where the keeper's sweeper finds them. Nothing else writes state.
//!
//! A record that has an end is removed by the broker after it; each write sets the time again, the sweeper's too. One that holds
//! unsent events has no end yet: the write that clears them sets it. What is removed by hand leaves a marker that ends by itself.
//!
//! A record that keeps its trace ([`schemas::KvRecord::KEEPS_TRACE`]) has the context of the request or message that made it in its
//! envelope, and its later events belong to that trace. The events carry theirs, so that one that is sent after a crash has the same.
//!
//! A tombstone ([`schemas::KvRecord::is_removed`]) is nothing to its readers and is never written again; it can only be purged.
//!
//! Limits: a record has at most [`schemas::RECORD_BYTES_MAX`] bytes; [`Bus::change_record`] tries at most [`CHANGE_ATTEMPTS_MAX`]
//! times.

use std::time::{Duration, Instant};

use async_nats::HeaderMap;
use async_nats::jetstream::{
    message::PublishMessage,
    stream::{LastRawMessageErrorKind, Stream},
};
use bytes::Bytes;
use schemas::{
    KvRecord,
    envelope::{RecordEnvelope, UnsentEvent},
    subjects,
};
use serde_bytes::ByteBuf;
use spans::{Span, SpanAttribute, SpanKind, TraceContext};

use crate::{
    Bus, BusError, Outbox, message_span,
    publish::{self, PublishReply},
};

/// Most rounds of read, change and compare-and-set.
pub const CHANGE_ATTEMPTS_MAX: u32 = 16;

/// A record together with the revision it was read or written at.
#[derive(Debug, Clone)]
pub struct VersionedRecord<R> {
    /// The record.
    pub record: R,
    revision: u64,
    unsent: Vec<UnsentEvent>,
    changed_at_ms: u64,
    stored_at_ms: u64,
    trace: Option<TraceContext>,
}

impl<R: KvRecord> VersionedRecord<R> {
    /// A record that does not exist yet; committing it fails when it does.
    pub const fn new(record: R) -> Self {
        Self { record, revision: 0, unsent: Vec::new(), changed_at_ms: 0, stored_at_ms: 0, trace: None }
    }

    /// The revision it was read or written at; 0 before the first commit.
    pub const fn revision(&self) -> u64 {
        self.revision
    }

    /// Unix time in milliseconds at which the broker stored what was read; 0 for a record that was not read.
    pub const fn stored_at_ms(&self) -> u64 {
        self.stored_at_ms
    }

    /// Unix time in milliseconds of the last change, by the writer's clock.
    pub const fn changed_at_ms(&self) -> u64 {
        self.changed_at_ms
    }

    /// The trace that the record was made in, where it keeps that.
    pub const fn trace(&self) -> Option<TraceContext> {
        self.trace
    }
}

/// A KV value as stored.
#[derive(Debug, Clone)]
pub struct RawKvValue {
    /// Revision; what a compare-and-set must name.
    pub revision: u64,
    /// The value; absent when the newest entry is a deletion.
    pub value: Option<Bytes>,
    /// Unix time in milliseconds at which the broker stored it.
    pub stored_at_ms: u64,
}

impl Bus {
    /// Reads a record from the bucket's leader, so one's own writes are always seen. A tombstone is none.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer; [`BusError::Undecodable`] when the value is no `R`.
    pub async fn load_record<R: KvRecord>(&self, key: &str) -> Result<Option<VersionedRecord<R>>, BusError> {
        Ok(self.load_with_tombstone::<R>(key).await?.filter(|held| !held.record.is_removed()))
    }

    /// The same; answers a tombstone, too.
    ///
    /// # Errors
    /// As [`Bus::load_record`].
    pub async fn load_with_tombstone<R: KvRecord>(
        &self,
        key: &str,
    ) -> Result<Option<VersionedRecord<R>>, BusError> {
        let Some(raw) = self.read_value(R::BUCKET, key).await? else { return Ok(None) };
        let Some(value) = raw.value else { return Ok(None) };
        let (envelope, record) = decode_record::<R>(key, &value)?;
        Ok(Some(VersionedRecord {
            record,
            revision: raw.revision,
            trace: envelope.trace.as_deref().and_then(TraceContext::parse),
            unsent: envelope.unsent,
            changed_at_ms: envelope.changed_at_ms,
            stored_at_ms: raw.stored_at_ms,
        }))
    }

    /// Writes the record if nobody changed it since it was read, and publishes `outbox` with it.
    ///
    /// When this returns, the record is stored and its events are published or left in the record for the sweeper.
    ///
    /// # Errors
    /// [`BusError::Conflict`] when somebody else was first; [`BusError::Unavailable`] when nothing is known to be stored.
    pub async fn commit_record<R: KvRecord>(
        &self,
        held: &mut VersionedRecord<R>,
        outbox: Outbox,
    ) -> Result<(), BusError> {
        let key = held.record.key();
        let changed_at_ms = crate::now_ms();
        // A record that ended and is made anew begins at revision 0 again.
        let cause = format!("{}/{key}@{}/{changed_at_ms}", R::BUCKET, held.revision);
        // Both before the write: from then on the sweeper may send these events, too.
        let after = if outbox.is_empty() { None } else { self.events_position().await };
        let changed = Instant::now();
        let carried = held.unsent.len();
        // What an earlier change left comes first, so that the events of a record keep their order.
        let mut unsent = held.unsent.clone();
        if R::KEEPS_TRACE && held.revision == 0 {
            held.trace = spans::current();
        }
        let (own, sending) = outbox.into_unsent(self.role().name(), &cause, after, held.trace)?;
        // One from before records kept their trace does not take that of a request that happens to change it.
        if R::KEEPS_TRACE && held.trace.is_none() && spans::current().is_none() {
            // Nothing was under way: the record begins the trace of what follows from it.
            held.trace = sending.first().map(Span::context);
        }
        unsent.extend(own);
        let record = ByteBuf::from(publish::encode_message(&key, &held.record)?);
        let expires_at_ms = held.record.expires_at_ms();
        let trace = held.trace.map(|trace| trace.to_string());
        let mut envelope = RecordEnvelope { record, unsent, changed_at_ms, expires_at_ms, trace };
        let written = self.write_envelope(R::BUCKET, &key, held.revision, &envelope).await;
        held.revision = written.inspect_err(|error| fail_spans(&sending, error.code()))?;
        held.changed_at_ms = envelope.changed_at_ms;
        // Kept until they are cleared: the next commit of this value has to carry them on.
        held.unsent.clone_from(&envelope.unsent);
        if let Err(error) = self.publish_all(&envelope.unsent, carried, changed).await {
            fail_spans(&sending, error.code());
            tracing::warn!(%error, key, "events stay in the record until the sweeper sends them");
            // The change is stored: an error would make the caller repeat it.
            return Ok(());
        }
        drop(sending);
        match self.clear_unsent(R::BUCKET, &key, held.revision, &mut envelope).await {
            Ok(revision) => {
                held.revision = revision;
                held.unsent.clear();
            }
            // The writer that changed it meanwhile carries them on, finds them sent, and clears them.
            Err(BusError::Conflict { .. }) => {
                tracing::debug!(key, "sent events are cleared by another writer");
            }
            Err(error) => {
                tracing::warn!(%error, key, "sent events stay in the record until the sweeper clears them");
            }
        }
        Ok(())
    }

    /// Reads, lets `change` decide, and commits; again when somebody else was first.
    ///
    /// `change` gets the record or `None`, and answers the new record with its events, or `None` to leave it as it is.
    /// Returns the record as it is afterwards; a tombstone stays one, without asking `change`, and is nothing.
    ///
    /// # Errors
    /// As [`Bus::load_record`] and [`Bus::commit_record`]; [`BusError::Conflict`] only after [`CHANGE_ATTEMPTS_MAX`] rounds.
    pub async fn change_record<R: KvRecord>(
        &self,
        key: &str,
        mut change: impl FnMut(Option<&R>) -> Option<(R, Outbox)> + Send,
    ) -> Result<Option<VersionedRecord<R>>, BusError> {
        let mut attempt = 0;
        loop {
            let held = self.load_with_tombstone::<R>(key).await?;
            if held.as_ref().is_some_and(|held| held.record.is_removed()) {
                return Ok(None);
            }
            let Some((record, outbox)) = change(held.as_ref().map(|h| &h.record)) else { return Ok(held) };
            let mut next = match held {
                Some(held) => VersionedRecord { record, ..held },
                None => VersionedRecord::new(record),
            };
            attempt += 1;
            match self.commit_record(&mut next, outbox).await {
                Ok(()) => return Ok(Some(next)),
                Err(BusError::Conflict { .. }) if attempt < CHANGE_ATTEMPTS_MAX => {
                    // All by chance and never longer: writers that met once must not meet again.
                    tokio::time::sleep(Duration::from_millis(rand::random_range(20..=100))).await;
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Clears the events of an envelope, which are all in EVENTS. Answers the record's revision afterwards.
    async fn clear_unsent(
        &self,
        bucket: &str,
        key: &str,
        revision: u64,
        envelope: &mut RecordEnvelope,
    ) -> Result<u64, BusError> {
        if envelope.unsent.is_empty() {
            return Ok(revision);
        }
        envelope.unsent.clear();
        self.write_envelope(bucket, key, revision, envelope).await
    }

    /// Publishes the unsent events of one record, whatever its type: the sweeper's work. False when there were none, or when
    /// somebody else cleared them meanwhile.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn sweep_record(&self, bucket: &str, key: &str) -> Result<bool, BusError> {
        let Some(RawKvValue { revision, value: Some(value), .. }) = self.read_value(bucket, key).await?
        else {
            return Ok(false);
        };
        let mut envelope: RecordEnvelope = publish::decode_message(key, &value)?;
        if envelope.unsent.is_empty() {
            return Ok(false);
        }
        for unsent in &envelope.unsent {
            // A later span of the trace that the change belongs to.
            let origin = message_span::message_context(&unsent.headers);
            let span = Span::resume(origin, SpanKind::Producer, || {
                message_span::send_span_name(&unsent.subject).into()
            });
            message_span::describe_event(&span, unsent);
            span.set(|| SpanAttribute::Outcome("left_unsent"));
            self.publish_missing(unsent).await.inspect_err(|error| span.fail(error.code()))?;
        }
        match self.clear_unsent(bucket, key, revision, &mut envelope).await {
            Ok(_) => Ok(true),
            // The record's new entry says whether anything is left.
            Err(BusError::Conflict { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// The stream, for reading single messages from its leader; asks nobody.
    pub(crate) async fn stream_handle(&self, name: &str) -> Result<Stream<()>, BusError> {
        let invalid = |error| BusError::Invalid { what: format!("stream {name}: {error}") };
        self.context().get_stream_no_info(name).await.map_err(invalid)
    }

    /// Removes a key with all that it held. What is left is a mark without a value that the broker drops after `mark_ttl`, whole
    /// seconds: until then followers of the bucket receive the removal, and nobody can make the key anew. Only for buckets whose
    /// values expire.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker did not confirm in time; [`BusError::Refused`] when the bucket has no room for the
    /// mark.
    pub async fn purge_key(&self, bucket: &str, key: &str, mark_ttl: Duration) -> Result<(), BusError> {
        let message = PublishMessage::build()
            .header("KV-Operation", "PURGE")
            .header("Nats-Rollup", "sub")
            // The broker refuses a time to live below one second.
            .ttl(mark_ttl.max(Duration::from_secs(1)))
            .expected_stream(subjects::kv_stream_name(bucket));
        let subject = subjects::kv_subject(bucket, key);
        let purged = self.publish_message(&subjects::kv_stream_name(bucket), &subject, message).await;
        self.note_write(bucket, key);
        purged.map(drop)
    }

    /// Reads the newest value of a key from the leader; `None` when there never was one.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn read_value(&self, bucket: &str, key: &str) -> Result<Option<RawKvValue>, BusError> {
        let stream = self.stream_handle(&subjects::kv_stream_name(bucket)).await?;
        let subject = subjects::kv_subject(bucket, key);
        let found = self
            .retry_request(
                || async {
                    // No direct get: any replica answers that, also one that lacks our own last write.
                    match stream.get_last_raw_message_by_subject(&subject).await {
                        Ok(message) => Ok(Some(message)),
                        Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                        Err(error) => Err(error),
                    }
                },
                BusError::unavailable,
            )
            .await?;
        Ok(found.map(|message| {
            let deleted = is_removal(&message.headers);
            let stored_at_ms = u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
            RawKvValue {
                revision: message.sequence,
                value: (!deleted).then_some(message.payload),
                stored_at_ms,
            }
        }))
    }

    /// The newest revision of a bucket, by its leader: that of any key, also of one that is gone.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn last_revision(&self, bucket: &str) -> Result<u64, BusError> {
        let answer = self.request_stream_info(&subjects::kv_stream_name(bucket)).await?;
        answer["state"]["last_seq"]
            .as_u64()
            .ok_or_else(|| BusError::unavailable("an answer without its state"))
    }

    /// Removes a record if nobody changed it since `revision`. For `marker_ttl`, usually [`schemas::REMOVAL_MARKER_MS`], a marker
    /// reports the removal to followers, then nothing is left. Only for buckets whose values expire.
    ///
    /// # Errors
    /// [`BusError::Conflict`] when somebody else was first; [`BusError::Unavailable`] when the broker does not answer.
    pub async fn purge_revision(
        &self,
        bucket: &str,
        key: &str,
        revision: u64,
        marker_ttl: Duration,
    ) -> Result<(), BusError> {
        let message = PublishMessage::build()
            .header("KV-Operation", "PURGE")
            .header("Nats-Rollup", "sub")
            .ttl(marker_ttl.max(Duration::from_secs(1)));
        self.put_value_message(bucket, key, revision, Bytes::new(), message).await.map(drop)
    }

    async fn write_envelope(
        &self,
        bucket: &str,
        key: &str,
        revision: u64,
        envelope: &RecordEnvelope,
    ) -> Result<u64, BusError> {
        let payload = encode_envelope(bucket, key, envelope)?;
        // Events that are not sent yet must not end with their record.
        let ttl = envelope.expires_at_ms.filter(|_| envelope.unsent.is_empty()).map(ttl_until);
        self.put_value(bucket, key, revision, payload, ttl).await
    }

    /// Compare-and-set of one KV value; `ttl` lets the broker remove it later. Returns the new revision.
    ///
    /// No message id: on one stream the same id on another key would drop the value. After a lost answer the truth is a
    /// leader read.
    pub(crate) async fn put_value(
        &self,
        bucket: &str,
        key: &str,
        revision: u64,
        payload: Bytes,
        ttl: Option<Duration>,
    ) -> Result<u64, BusError> {
        let message = PublishMessage::build();
        let message = match ttl {
            Some(ttl) => message.ttl(ttl),
            None => message,
        };
        self.put_value_message(bucket, key, revision, payload, message).await
    }

    async fn put_value_message(
        &self,
        bucket: &str,
        key: &str,
        revision: u64,
        payload: Bytes,
        message: PublishMessage,
    ) -> Result<u64, BusError> {
        let subject = subjects::kv_subject(bucket, key);
        let message = message
            .payload(payload.clone())
            .expected_last_subject_sequence(revision)
            .expected_stream(subjects::kv_stream_name(bucket));
        let written = self.publish_with_retry(&subjects::kv_stream_name(bucket), &subject, &message).await;
        self.note_write(bucket, key);
        match written? {
            (PublishReply::Stored(revision), _) => Ok(revision),
            (PublishReply::Duplicate | PublishReply::Moved, attempt) => {
                self.confirm_own_write(bucket, key, &payload, attempt).await
            }
        }
    }

    /// After a refused compare-and-set: a conflict, unless an earlier try of ours was stored and only its answer lost.
    async fn confirm_own_write(
        &self,
        bucket: &str,
        key: &str,
        payload: &Bytes,
        attempt: u32,
    ) -> Result<u64, BusError> {
        // At the first try nothing of ours can be there: an equal value is somebody else's.
        if attempt > 1
            && let Some(raw) = self.read_value(bucket, key).await?
            && raw.value.as_ref() == Some(payload)
        {
            return Ok(raw.revision);
        }
        Err(BusError::Conflict { what: subjects::kv_subject(bucket, key) })
    }
}

fn fail_spans(spans: &[Span], code: &'static str) {
    for span in spans {
        span.fail(code);
    }
}

/// True for what a bucket holds in place of a value. One that ended by its time leaves a marker of the broker's own, which has only the
/// second header.
pub(crate) fn is_removal(headers: &HeaderMap) -> bool {
    ["KV-Operation", "Nats-Marker-Reason"].iter().any(|name| headers.get(*name).is_some())
}

/// The value of a record, if it is not too large for one.
pub(crate) fn encode_envelope(bucket: &str, key: &str, envelope: &RecordEnvelope) -> Result<Bytes, BusError> {
    let payload = publish::encode_message(key, envelope)?;
    let (size_bytes, size_bytes_max) = (payload.len(), schemas::RECORD_BYTES_MAX);
    if size_bytes > size_bytes_max {
        return Err(BusError::TooLarge {
            what: subjects::kv_subject(bucket, key),
            size_bytes,
            size_bytes_max,
        });
    }
    Ok(payload.into())
}

/// Time until `expires_at_ms` in whole seconds, rounded up; at least the second that is the least the broker takes.
fn ttl_until(expires_at_ms: u64) -> std::time::Duration {
    let left_ms = expires_at_ms.saturating_sub(crate::now_ms());
    std::time::Duration::from_secs(left_ms.div_ceil(1_000).max(1))
}

/// Opens a stored value: the envelope and the record in it.
///
/// # Errors
/// [`BusError::Undecodable`] when the bytes are no envelope or hold no `R`.
pub fn decode_record<R: KvRecord>(key: &str, value: &[u8]) -> Result<(RecordEnvelope, R), BusError> {
    let envelope: RecordEnvelope = publish::decode_message(key, value)?;
    let record = publish::decode_message(key, &envelope.record)?;
    Ok((envelope, record))
}

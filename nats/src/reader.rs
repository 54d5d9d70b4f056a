//! Reading a stream in order: replay, projections, followers. A reader goes on where it was after the broker restarts.
//!
//! Limits: none of its own; the caller decides when to stop.

use std::time::Duration;

use async_nats::{
    HeaderMap,
    jetstream::consumer::{DeliverPolicy, ReplayPolicy, pull},
};
use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;

use crate::{Bus, Error, client::Connection, publish};

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Start {
    /// With the oldest message.
    All,
    /// With what is published from now on.
    New,
    /// With this sequence or the next one there is.
    Sequence(u64),
    /// With the newest message of each subject, then everything after.
    LastPerSubject,
    /// With the first message stored at or after this Unix time in milliseconds.
    Time(u64),
}

/// What to read.
#[derive(Debug, Clone)]
pub struct Config {
    /// Stream name.
    pub stream: String,
    /// Subject filters; empty for all.
    pub filters: Vec<String>,
    /// Where to begin.
    pub start: Start,
}

impl Config {
    /// Reads `filters` of `stream` from `start`.
    pub fn new(stream: impl Into<String>, filters: Vec<String>, start: Start) -> Self {
        Self { stream: stream.into(), filters, start }
    }
}

/// One message of a stream.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Its sequence.
    pub sequence: u64,
    /// Its subject.
    pub subject: String,
    /// Its headers.
    pub headers: HeaderMap,
    /// Its payload.
    pub payload: Bytes,
    /// Unix time in milliseconds at which it was stored.
    pub stored_at_ms: u64,
    /// Messages that were waiting behind it when it was delivered; 0 means caught up.
    pub pending: u64,
}

/// Reads a stream in order, without gaps.
pub struct Reader {
    bus: Bus,
    config: Config,
    connection: watch::Receiver<Connection>,
    last: Option<u64>,
    pending_at_start: u64,
    messages: Option<pull::Ordered>,
}

impl std::fmt::Debug for Reader {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reader")
            .field("config", &self.config)
            .field("last", &self.last)
            .finish_non_exhaustive()
    }
}

impl Bus {
    /// Opens a reader.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the broker does not answer.
    pub async fn reader(&self, config: Config) -> Result<Reader, Error> {
        let mut reader = Reader {
            bus: self.clone(),
            config,
            connection: self.connection(),
            last: None,
            pending_at_start: 0,
            messages: None,
        };
        reader.pending_at_start = reader.build().await?;
        Ok(reader)
    }
}

impl Reader {
    /// Messages that were waiting when the reader was opened; 0 means there is nothing to catch up with.
    pub const fn pending_at_start(&self) -> u64 {
        self.pending_at_start
    }

    /// Makes the ephemeral consumer behind the reader; answers how many messages wait.
    async fn build(&mut self) -> Result<u64, Error> {
        self.connection.mark_unchanged();
        let deliver_policy = match (self.last, self.config.start) {
            (Some(last), _) => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
            (None, Start::All) => DeliverPolicy::All,
            (None, Start::New) => DeliverPolicy::New,
            (None, Start::Sequence(start_sequence)) => {
                DeliverPolicy::ByStartSequence { start_sequence: start_sequence.max(1) }
            }
            (None, Start::LastPerSubject) => DeliverPolicy::LastPerSubject,
            (None, Start::Time(ms)) => DeliverPolicy::ByStartTime { start_time: time_of(ms)? },
        };
        let (filter_subject, filter_subjects) = match self.config.filters.as_slice() {
            [one] => (one.clone(), Vec::new()),
            many => (String::new(), many.to_vec()),
        };
        let config = pull::OrderedConfig {
            deliver_policy,
            filter_subject,
            filter_subjects,
            replay_policy: ReplayPolicy::Instant,
            ..Default::default()
        };
        let consumer = self
            .bus
            .context()
            .create_consumer_on_stream(config, &self.config.stream)
            .await
            .map_err(Error::unavailable)?;
        let pending = consumer.cached_info().num_pending;
        if self.config.start == Start::New && self.last.is_none() {
            // Where it began: another consumer, after the broker was away, would begin later.
            self.last = Some(consumer.cached_info().delivered.stream_sequence);
        }
        self.messages = Some(Box::pin(consumer.messages()).await.map_err(Error::unavailable)?);
        Ok(pending)
    }

    /// Waits for the next message, as long as it takes; goes on by itself after the broker was away.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the message carries no delivery facts, which no server sends.
    pub async fn next(&mut self) -> Result<Entry, Error> {
        loop {
            let Some(messages) = self.messages.as_mut() else {
                if let Err(error) = self.build().await {
                    tracing::warn!(%error, stream = self.config.stream, "a reader waits for the broker");
                    tokio::time::sleep(publish::retry_delay(2)).await;
                }
                continue;
            };
            let message = tokio::select! {
                message = messages.next() => message,
                // A client that has reconnected does not notice for 15 s that its consumer is gone.
                changed = self.connection.changed() => {
                    if changed.is_err() {
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                    if self.connection.borrow_and_update().up {
                        self.messages = None;
                    }
                    continue;
                }
            };
            match message {
                Some(Ok(message)) => {
                    let info = message.info().map_err(Error::Unavailable)?;
                    let entry = Entry {
                        sequence: info.stream_sequence,
                        subject: message.subject.to_string(),
                        stored_at_ms: u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000)
                            .unwrap_or(0),
                        pending: info.pending,
                        headers: message.headers.clone().unwrap_or_default(),
                        payload: message.payload.clone(),
                    };
                    if self.last.is_some_and(|last| entry.sequence <= last) {
                        continue;
                    }
                    self.last = Some(entry.sequence);
                    return Ok(entry);
                }
                Some(Err(error)) => {
                    tracing::debug!(%error, stream = self.config.stream, "a reader is rebuilt");
                    self.messages = None;
                }
                None => self.messages = None,
            }
        }
    }
}

fn time_of(unix_ms: u64) -> Result<time::OffsetDateTime, Error> {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
        .map_err(|e| Error::Invalid { what: format!("time {unix_ms}: {e}") })
}

//! Reading a stream in order: replay, projections, followers.
//!
//! A reader has its own position: the stream's creation time and a sequence. It never hands out a sequence at or below its
//! position, whatever the server offers, and makes its ephemeral, unnamed consumer anew from there whenever the consumer is
//! refused, deleted or silent, or the connection was made anew. A named one would need a right that allows durables.
//!
//! - A stream that ends before the position is not up to date on the server that answers: the reader waits.
//! - A stream with another creation time is another stream: [`BusError::Reset`].
//!
//! Limits: [`BATCH_MAX`] messages ahead of the caller; silence is an outage after [`SILENT_HEARTBEATS_MAX`] heartbeats; tries to
//! begin again are spaced by at most 3.2 seconds, and logged at each doubling of their number.

use std::time::Duration;

use async_nats::HeaderMap;
use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use crate::{Bus, BusError, ReaderStatus, reader_status::ReaderStatusSender, state};

mod pull;
mod source;

use source::ReaderTask;

/// Messages that may lie between the broker and the caller.
pub const BATCH_MAX: usize = 200;
/// How often the broker says that nothing is new.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// Heartbeats that may be missing before a reader begins again.
pub const SILENT_HEARTBEATS_MAX: u32 = 3;

/// How long opening a reader is tried while the server that was asked is behind the others.
const OPEN_MAX: Duration = Duration::from_secs(2);

/// Where a reader begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReaderStart {
    /// With the oldest message.
    All,
    /// With what is published from now on.
    New,
    /// With this sequence or the next one there is.
    Sequence(u64),
    /// Behind a position that was reached before: a stream that ends before it is waited for, another stream is a
    /// [`BusError::Reset`].
    Behind(StreamPosition),
    /// With the newest message of each subject, then everything after.
    LastPerSubject,
    /// With the first message stored at or after this Unix time in milliseconds.
    Time(u64),
}

/// How far a stream was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamPosition {
    /// When the stream was created, as Unix time in milliseconds: distinguishes it from another of the same name.
    pub created_at_ms: u64,
    /// The last sequence that was read; 0 before the first.
    pub sequence: u64,
}

/// What to read.
#[derive(Debug, Clone)]
pub struct ReaderConfig {
    /// Stream name.
    pub stream: String,
    /// Subject filters; empty for all.
    pub filters: Vec<String>,
    /// Where to begin.
    pub start: ReaderStart,
    /// How often the broker has to send something; [`HEARTBEAT`] unless a test sets less.
    pub heartbeat: Duration,
    /// True to be sent no payloads: a header says how many bytes each has ([`StreamEntry::payload_bytes`]).
    pub is_headers_only: bool,
}

impl ReaderConfig {
    /// Reads `filters` of `stream` from `start`.
    pub fn new(stream: impl Into<String>, filters: Vec<String>, start: ReaderStart) -> Self {
        Self { stream: stream.into(), filters, start, heartbeat: HEARTBEAT, is_headers_only: false }
    }
}

/// One message of a stream.
#[derive(Debug, Clone)]
pub struct StreamEntry {
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

impl StreamEntry {
    /// Bytes of the payload as it is stored, also where the reader is sent none.
    pub fn payload_bytes(&self) -> u64 {
        let said = self.headers.get("Nats-Msg-Size").and_then(|size| size.as_str().parse().ok());
        said.unwrap_or_else(|| u64::try_from(self.payload.len()).unwrap_or(u64::MAX))
    }

    /// How long the broker keeps it, in milliseconds; `None` where it has no end of its own.
    pub fn time_to_live_ms(&self) -> Option<u64> {
        let seconds = self.headers.get("Nats-TTL")?.as_str();
        seconds.trim_end_matches('s').parse::<u64>().ok().map(|seconds| seconds.saturating_mul(1_000))
    }

    /// True for what a bucket holds in place of a value that was removed, or came to its end.
    pub fn is_removal(&self) -> bool {
        state::is_removal(&self.headers)
    }
}

/// What there was when a reader was opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenedStream {
    /// Messages that were waiting; 0 means there is nothing to catch up with.
    pub pending: u64,
    /// When the stream was created, as Unix time in milliseconds.
    pub created_at_ms: u64,
    /// Last sequence of the stream, by its leader; the last message that fits the filters may lie before it.
    pub last_sequence: u64,
}

/// What a reader hands on: `None` says that nothing waits.
type ReaderItem = Result<Option<StreamEntry>, BusError>;

/// Reads a stream in order, without gaps.
#[derive(Debug)]
pub struct StreamReader {
    stream: String,
    entries: mpsc::Receiver<ReaderItem>,
    opening: Option<oneshot::Receiver<Result<OpenedStream, BusError>>>,
    opened: Option<OpenedStream>,
    /// Messages that waited when the last one was delivered.
    waiting: u64,
    following: ReaderStatus,
    _task: AbortOnDropHandle<()>,
}

impl Bus {
    /// Opens a reader.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer or has no such stream; [`BusError::Reset`] when the stream is
    /// another one than the position to begin behind belongs to.
    pub async fn open_reader(&self, config: ReaderConfig) -> Result<StreamReader, BusError> {
        let mut reader = self.spawn_reader(config, "", false);
        reader.wait_until_open().await?;
        Ok(reader)
    }

    /// Follows a stream for as long as the reader is kept, beginning once the broker lets it; [`Bus::reader_statuses`] knows it by
    /// `name`.
    pub fn follow_stream(&self, name: &str, config: ReaderConfig) -> StreamReader {
        let reader = self.spawn_reader(config, name, true);
        self.health().expect_following(self.role(), reader.following.clone());
        reader
    }

    /// The same for what is only a hint: [`Bus::reader_statuses`] does not know of it.
    pub fn follow_stream_hints(&self, name: &str, config: ReaderConfig) -> StreamReader {
        self.spawn_reader(config, name, true)
    }

    fn spawn_reader(&self, config: ReaderConfig, name: &str, is_patient: bool) -> StreamReader {
        let (status, following) = ReaderStatusSender::new(name);
        let (sender, entries) = mpsc::channel(BATCH_MAX);
        let (opened, opening) = oneshot::channel();
        let stream = config.stream.clone();
        let source = ReaderTask::new(self.clone(), config, status);
        let task = AbortOnDropHandle::new(tokio::spawn(source.run(is_patient, opened, sender)));
        StreamReader {
            stream,
            entries,
            opening: Some(opening),
            opened: None,
            waiting: 0,
            following,
            _task: task,
        }
    }
}

impl StreamReader {
    /// What there was when it was opened; waits until it is. Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`Bus::open_reader`]; a follower waits instead of being unavailable.
    pub async fn wait_until_open(&mut self) -> Result<OpenedStream, BusError> {
        if let Some(opening) = &mut self.opening {
            let opened = opening.await;
            self.opening = None;
            let opened = opened.map_err(BusError::unavailable)??;
            (self.opened, self.waiting) = (Some(opened), opened.pending);
        }
        self.opened.ok_or_else(|| BusError::Reset { stream: self.stream.clone() })
    }

    /// Messages that were waiting when the reader was opened. Only for tests, which know that none of them goes meanwhile: a
    /// caller that counts them down waits for ever once one expires or is purged, and takes [`StreamReader::next_pending`] instead.
    #[cfg(feature = "testing")]
    pub fn pending_at_start(&self) -> u64 {
        self.opened.map_or(0, |opened| opened.pending)
    }

    /// Whether it receives what is stored.
    pub fn status(&self) -> ReaderStatus {
        self.following.clone()
    }

    /// Waits for the next message, as long as it takes; goes on by itself after the broker was away.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// [`BusError::Reset`], from then on for ever, when the stream was made anew.
    pub async fn next(&mut self) -> Result<StreamEntry, BusError> {
        loop {
            if let Some(entry) = self.receive().await? {
                return Ok(entry);
            }
        }
    }

    /// The next message, if it has been received already.
    ///
    /// # Errors
    /// As [`StreamReader::next`].
    pub fn next_received(&mut self) -> Result<Option<StreamEntry>, BusError> {
        while let Ok(item) = self.entries.try_recv() {
            let entry = item?;
            self.waiting = entry.as_ref().map_or(0, |entry| entry.pending);
            if entry.is_some() {
                return Ok(entry);
            }
        }
        Ok(None)
    }

    /// Waits for the next of the messages that were there when the reader was opened; `None` once nothing waits, also when what
    /// waited was deleted meanwhile.
    ///
    /// Dropping the future loses nothing.
    ///
    /// # Errors
    /// As [`StreamReader::wait_until_open`] and [`StreamReader::next`].
    pub async fn next_pending(&mut self) -> Result<Option<StreamEntry>, BusError> {
        self.wait_until_open().await?;
        while self.waiting > 0 {
            if let Some(entry) = self.receive().await? {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    async fn receive(&mut self) -> Result<Option<StreamEntry>, BusError> {
        let Some(item) = self.entries.recv().await else {
            return Err(BusError::Reset { stream: self.stream.clone() });
        };
        let entry = item?;
        self.waiting = entry.as_ref().map_or(0, |entry| entry.pending);
        Ok(entry)
    }
}

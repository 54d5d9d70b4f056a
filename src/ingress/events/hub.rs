//! One ordered reader per replica feeds all followers; each event is rendered once.
//!
//! Limits: a follower that is [`BACKLOG_MAX`] items behind is notified of it and catches up from the stream itself; at most
//! [`progress::JOBS_MAX`] running jobs are added up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nats::{
    Bus, ReaderStart,
    reader::{self, StreamPosition},
};
use parking_lot::Mutex;
use schemas::{ids::JobId, job::JobPartProgress, subjects};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

use super::{
    frame::{self, SseFrame},
    progress::{self, ProgressTotals},
};

/// Items kept for followers that are slower than the stream.
pub const BACKLOG_MAX: usize = 1_024;

/// How soon a stream that can't be asked for is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// What followers receive.
#[derive(Debug, Clone)]
pub(crate) enum EventHubMessage {
    /// An event of the stream.
    Event(Arc<SseFrame>),
    /// How far a job is.
    Progress(Arc<SseFrame>),
    /// EVENTS was made anew: followers have to begin anew, too.
    Reset,
}

/// Feeds followers. Cheap to clone; one per replica.
#[derive(Debug, Clone)]
pub struct EventHub {
    bus: Bus,
    sender: broadcast::Sender<EventHubMessage>,
    /// The newest event that was sent to followers.
    position: watch::Sender<StreamPosition>,
    /// How far running jobs are, by what followers were sent.
    progress: Arc<Mutex<ProgressTotals>>,
}

impl EventHub {
    /// A hub that begins at the end of EVENTS.
    ///
    /// # Errors
    /// [`nats::BusError::Unavailable`] when the broker does not answer.
    pub async fn open(bus: Bus) -> Result<Self, nats::BusError> {
        let position = load_stream_end(&bus).await?;
        Ok(Self {
            bus,
            sender: broadcast::Sender::new(BACKLOG_MAX),
            position: watch::Sender::new(position),
            progress: Arc::default(),
        })
    }

    /// Names the stream's life: ids of another life mean nothing in this one.
    pub(crate) fn epoch(&self) -> String {
        format_epoch(self.position.borrow().created_at_ms)
    }

    /// Everything from now on.
    pub(crate) fn subscribe(&self) -> broadcast::Receiver<EventHubMessage> {
        self.sender.subscribe()
    }

    /// Sequence of the newest event that was sent to followers.
    pub(crate) fn position(&self) -> u64 {
        self.position.borrow().sequence
    }

    /// Feeds followers until `shutdown`.
    ///
    /// # Errors
    /// None at present: a broker that is away is waited for.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), nats::BusError> {
        let feeding = async { tokio::join!(self.feed_events(), self.feed_progress()) };
        tokio::select! {
            () = shutdown.cancelled() => {}
            ((), ()) = feeding => {}
        }
        Ok(())
    }

    async fn feed_events(&self) {
        loop {
            let start = ReaderStart::Behind(*self.position.borrow());
            let all = vec![subjects::EVENTS_ALL.to_owned()];
            let mut entries =
                self.bus.follow_stream("events", reader::ReaderConfig::new(subjects::EVENTS, all, start));
            let error = loop {
                match entries.next().await {
                    Ok(entry) => self.broadcast_event(&entry),
                    Err(error) => break error,
                }
            };
            tracing::error!(%error, "followers begin anew");
            self.restart_from_stream_start().await;
        }
    }

    fn broadcast_event(&self, entry: &reader::StreamEntry) {
        let item = Arc::new(frame::render_event(&self.epoch(), entry));
        // The position moves first: a follower subscribes and then reads how far the past goes, so an event that it does not receive
        // here is one that it reads there.
        self.position.send_modify(|position| position.sequence = entry.sequence);
        // Nobody follows at the moment: fine.
        self.sender.send(EventHubMessage::Event(item)).ok();
    }

    /// Goes to the beginning of the stream that is there now: its events are all new to followers.
    async fn restart_from_stream_start(&self) {
        let created_at_ms = loop {
            match load_stream_end(&self.bus).await {
                Ok(end) => break end.created_at_ms,
                Err(error) => {
                    tracing::warn!(%error, "the stream of events can't be asked for");
                    tokio::time::sleep(AGAIN).await;
                }
            }
        };
        // Before the reset is sent: a client that comes back at once has to be compared with the new stream.
        self.position.send_replace(StreamPosition { created_at_ms, sequence: 0 });
        self.sender.send(EventHubMessage::Reset).ok();
    }

    async fn feed_progress(&self) {
        let settings = reader::ReaderConfig::new(
            subjects::PROGRESS,
            vec![subjects::PROGRESS_ALL.to_owned()],
            ReaderStart::LastPerSubject,
        );
        loop {
            let mut entries = self.bus.follow_stream_hints("progress", settings.clone());
            while let Ok(entry) = entries.next().await {
                let Ok(progress) = nats::decode_message::<JobPartProgress>(&entry.subject, &entry.payload)
                else {
                    continue;
                };
                self.broadcast_progress(&progress).await;
            }
            tracing::info!("the stream of progress was made anew");
        }
    }

    /// Milliseconds of output by part that were reported; empty for a job that nobody reports about.
    pub(crate) fn part_progress_ms(&self, job_id: JobId) -> BTreeMap<String, u64> {
        self.progress.lock().find(job_id).map(|total| total.parts.clone()).unwrap_or_default()
    }

    async fn broadcast_progress(&self, reported: &JobPartProgress) {
        let is_known = self.progress.lock().find(reported.job_id).is_some();
        if !is_known {
            match progress::load_total(&self.bus, reported).await {
                Ok(total) => self.progress.lock().insert(reported.job_id, total),
                // Progress is a hint: the next report of a part asks again.
                Err(error) => {
                    tracing::debug!(%error, job.id = %reported.job_id, "how far a job is can't be read");
                    return;
                }
            }
        }
        let sum = self.progress.lock().add_progress(reported);
        if let Some((done_ms, total_ms)) = sum {
            let frame = frame::render_progress(reported, done_ms, total_ms);
            self.sender.send(EventHubMessage::Progress(Arc::new(frame))).ok();
        }
    }
}

/// How ids of events name the stream's life.
pub(crate) fn format_epoch(created_at_ms: u64) -> String {
    format!("{created_at_ms:x}")
}

/// How followers are given a place in EVENTS.
pub(crate) fn format_event_id(created_at_ms: u64, sequence: u64) -> String {
    format!("{}-{sequence}", format_epoch(created_at_ms))
}

async fn load_stream_end(bus: &Bus) -> Result<StreamPosition, nats::BusError> {
    let stream = bus.context().get_stream(subjects::EVENTS).await.map_err(nats::BusError::unavailable)?;
    let info = stream.cached_info();
    let created_at_ms = u64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    Ok(StreamPosition { created_at_ms, sequence: info.state.last_sequence })
}

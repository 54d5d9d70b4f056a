//! One ordered reader per replica feeds all followers; each event is rendered once, and put into the queues that it belongs to.
//!
//! Limits: those of queues ([`super::routes`]); at most [`progress::JOBS_MAX`] running jobs are added up.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use nats::{
    Bus, ReaderStart,
    reader::{self, StreamPosition},
};
use parking_lot::Mutex;
use schemas::{ids::JobId, job::JobPartProgress, subjects};
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

use super::{
    frame,
    progress::{self, ProgressTotals},
    routes::{FollowerQueue, FollowerRoutes, QueueLimits, RouteKey},
};
use crate::media::KnownDocuments;

/// Events by which a credential is good no more.
const SIGN_IN_ENDS: [&str; 2] = ["auth.signed_out", "auth.key_revoked"];
/// Such events that wait for who watches credentials; of more it is notified as one.
const SIGN_IN_ENDS_MAX: usize = 64;

/// How soon a stream that can't be asked for is asked for again.
const AGAIN: Duration = Duration::from_secs(1);

/// Where the hub is, and who gets what comes next: both change together, so that a new queue has all that is behind the position.
#[derive(Debug)]
pub(super) struct HubState {
    /// The newest event that was put into queues.
    position: StreamPosition,
    pub(super) routes: FollowerRoutes,
}

impl Default for HubState {
    fn default() -> Self {
        let position = StreamPosition { created_at_ms: 0, sequence: 0 };
        Self { position, routes: FollowerRoutes::default() }
    }
}

/// Feeds followers. Cheap to clone; one per replica.
#[derive(Debug, Clone)]
pub struct EventHub {
    bus: Bus,
    /// Forgotten before an event of theirs is sent: who reads a medium because of it finds what it is about.
    known_documents: Arc<KnownDocuments>,
    state: Arc<Mutex<HubState>>,
    /// Owners of whose credentials one has ended.
    sign_in_ends: broadcast::Sender<Arc<str>>,
    /// How far running jobs are, by what followers were sent.
    progress: Arc<Mutex<ProgressTotals>>,
}

impl EventHub {
    /// A hub that begins at the end of EVENTS.
    ///
    /// # Errors
    /// [`nats::BusError::Unavailable`] when the broker does not answer.
    pub async fn open(bus: Bus, known_documents: Arc<KnownDocuments>) -> Result<Self, nats::BusError> {
        let position = load_stream_end(&bus).await?;
        Ok(Self {
            bus,
            known_documents,
            state: Arc::new(Mutex::new(HubState { position, ..HubState::default() })),
            sign_in_ends: broadcast::Sender::new(SIGN_IN_ENDS_MAX),
            progress: Arc::default(),
        })
    }

    /// The newest event that was put into queues.
    pub(crate) fn position(&self) -> StreamPosition {
        self.state.lock().position
    }

    /// Owners of whose credentials one has ended, from now on.
    pub(crate) fn sign_in_ends(&self) -> broadcast::Receiver<Arc<str>> {
        self.sign_in_ends.subscribe()
    }

    /// A queue that gets everything behind the position that comes with it.
    pub(super) fn subscribe(&self, key: RouteKey, limits: QueueLimits) -> (FollowerQueue, StreamPosition) {
        let mut state = self.state.lock();
        let queue = state.routes.open(key, limits, Arc::clone(&self.state));
        (queue, state.position)
    }

    /// A queue that gets everything.
    #[cfg(test)]
    pub(crate) fn subscribe_to_all(&self) -> FollowerQueue {
        self.subscribe(RouteKey::All, QueueLimits { items_max: 64, bytes_max: 1 << 20 }).0
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
            let start = ReaderStart::Behind(self.position());
            let all = vec![subjects::EVENTS_ALL.to_owned()];
            let mut entries =
                self.bus.follow_stream("events", reader::ReaderConfig::new(subjects::EVENTS, all, start));
            let error = loop {
                match entries.next().await {
                    Ok(entry) => self.send_event(&entry),
                    Err(error) => break error,
                }
            };
            tracing::error!(%error, "followers begin anew");
            self.restart_from_stream_start().await;
        }
    }

    fn send_event(&self, entry: &reader::StreamEntry) {
        let epoch = format_epoch(self.position().created_at_ms);
        let frame = Arc::new(frame::render_event(&epoch, entry));
        if let Some(media_id) = &frame.media_id {
            self.known_documents.forget(*media_id);
        }
        let mut state = self.state.lock();
        state.position.sequence = entry.sequence;
        state.routes.send(&frame);
        drop(state);
        if SIGN_IN_ENDS.contains(&frame.kind.as_str())
            && let Some(owner) = &frame.owner
        {
            // Nobody follows at the moment: fine.
            self.sign_in_ends.send(owner.as_str().into()).ok();
        }
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
        let mut state = self.state.lock();
        state.position = StreamPosition { created_at_ms, sequence: 0 };
        state.routes.reset();
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
                self.send_progress(&progress).await;
            }
            tracing::info!("the stream of progress was made anew");
        }
    }

    /// Milliseconds of output by part that were reported; empty for a job that nobody reports about.
    pub(crate) fn part_progress_ms(&self, job_id: JobId) -> BTreeMap<String, u64> {
        self.progress.lock().find(job_id).map(|total| total.parts.clone()).unwrap_or_default()
    }

    async fn send_progress(&self, reported: &JobPartProgress) {
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
            let frame = Arc::new(frame::render_progress(reported, done_ms, total_ms));
            self.state.lock().routes.send(&frame);
        }
    }
}

/// How ids of events name the stream's life.
pub(super) fn format_epoch(created_at_ms: u64) -> String {
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

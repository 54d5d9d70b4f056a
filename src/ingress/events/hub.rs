//! One ordered reader per replica feeds all followers; each event is rendered once.
//!
//! Limits: a follower that is [`BACKLOG_MAX`] items behind is notified of it and catches up from the stream itself; at most
//! [`JOBS_MAX`] running jobs are added up.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use nats::{
    Bus, ReaderStart,
    reader::{self, StreamPosition},
};
use packaging::plan;
use schemas::{
    headers,
    ids::JobId,
    job::{self, JobPartProgress},
    subjects,
};
use serde_json::{Value, json};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// Items kept for followers that are slower than the stream.
pub const BACKLOG_MAX: usize = 1_024;
/// Jobs whose progress is added up at once; the one whose progress is oldest is forgotten first.
pub const JOBS_MAX: usize = 1_000;

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

/// An item for followers, with what decides who may receive it.
#[derive(Debug)]
pub(crate) struct SseFrame {
    /// Its sequence in EVENTS; 0 for progress.
    pub(crate) sequence: u64,
    pub(crate) owner: Option<String>,
    pub(crate) media_id: Option<String>,
    pub(crate) job_id: Option<String>,
    /// As it goes over the wire.
    pub(crate) frame: Bytes,
}

/// Feeds followers. Cheap to clone; one per replica.
#[derive(Debug, Clone)]
pub struct EventHub {
    bus: Bus,
    sender: broadcast::Sender<EventHubMessage>,
    /// The newest event that was sent to followers.
    position: watch::Sender<StreamPosition>,
}

impl EventHub {
    /// A hub that begins at the end of EVENTS.
    ///
    /// # Errors
    /// [`nats::BusError::Unavailable`] when the broker does not answer.
    pub async fn open(bus: Bus) -> Result<Self, nats::BusError> {
        let position = load_stream_end(&bus).await?;
        Ok(Self { bus, sender: broadcast::Sender::new(BACKLOG_MAX), position: watch::Sender::new(position) })
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
        let item = Arc::new(render_event(&self.epoch(), entry));
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
            let mut sums = ProgressTotals::default();
            while let Ok(entry) = entries.next().await {
                let Ok(progress) = nats::decode_message::<JobPartProgress>(&entry.subject, &entry.payload)
                else {
                    continue;
                };
                self.broadcast_progress(&mut sums, &progress).await;
            }
            tracing::info!("the stream of progress was made anew");
        }
    }

    async fn broadcast_progress(&self, sums: &mut ProgressTotals, progress: &JobPartProgress) {
        let total_ms = match sums.total_ms(progress.job_id) {
            Some(total_ms) => total_ms,
            None => match self.load_total_ms(progress).await {
                Ok(total_ms) => total_ms,
                // Progress is a hint: the next report of a part asks again.
                Err(error) => {
                    tracing::debug!(%error, job.id = %progress.job_id, "the length of a job can't be read");
                    return;
                }
            },
        };
        let done_ms = sums.add_progress(progress, total_ms);
        self.sender
            .send(EventHubMessage::Progress(Arc::new(render_progress(progress, done_ms, total_ms))))
            .ok();
    }

    async fn load_total_ms(&self, progress: &JobPartProgress) -> Result<u64, nats::BusError> {
        let found = self.bus.load_record::<job::JobRecord>(&progress.job_id.to_string()).await?;
        Ok(found.map_or(progress.total_ms, |held| {
            let job = held.record;
            job.parts.iter().map(|part| plan::part_duration_ms(&job.plan, part)).sum()
        }))
    }
}

/// How ids of events name the stream's life.
fn format_epoch(created_at_ms: u64) -> String {
    format!("{created_at_ms:x}")
}

async fn load_stream_end(bus: &Bus) -> Result<StreamPosition, nats::BusError> {
    let stream = bus.context().get_stream(subjects::EVENTS).await.map_err(nats::BusError::unavailable)?;
    let info = stream.cached_info();
    let created_at_ms = u64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
    Ok(StreamPosition { created_at_ms, sequence: info.state.last_sequence })
}

/// An event as followers get it: `id`, `event` and `data` of server-sent events (HTML, section 9.2).
pub(crate) fn render_event(epoch: &str, entry: &reader::StreamEntry) -> SseFrame {
    let text = |name: &str| entry.headers.get_last(name).map(|value| value.as_str().to_owned());
    let (entity, verb, _) =
        subjects::parse_event_subject(&entry.subject).unwrap_or(("unknown", "unknown", ""));
    let (media_id, job_id) = (text(headers::MEDIA_ID), text(headers::JOB_ID));
    let data = json!({
        "id": text(headers::ID),
        "type": format!("{entity}.{verb}"),
        "subject": entry.subject,
        "time": text(headers::TIME),
        "media_id": media_id,
        "job_id": job_id,
        "data": nats::decode_message::<Value>(&entry.subject, &entry.payload).unwrap_or(Value::Null),
    });
    let frame = format!("id: {epoch}-{}\nevent: {entity}.{verb}\ndata: {data}\n\n", entry.sequence);
    SseFrame { sequence: entry.sequence, owner: text(headers::OWNER), media_id, job_id, frame: frame.into() }
}

/// Progress carries no id: a follower that comes back resumes at an event.
fn render_progress(progress: &JobPartProgress, done_ms: u64, total_ms: u64) -> SseFrame {
    let data = json!({
        "job_id": progress.job_id,
        "media_id": progress.media_id,
        "done_ms": done_ms,
        "total_ms": total_ms,
        "percent": crate::jobs::whole_percent(done_ms, total_ms),
    });
    SseFrame {
        sequence: 0,
        owner: Some(progress.owner.clone()),
        media_id: Some(progress.media_id.to_string()),
        job_id: Some(progress.job_id.to_string()),
        frame: format!("event: job.progress\ndata: {data}\n\n").into(),
    }
}

/// The parts of running jobs, added up.
#[derive(Debug, Default)]
struct ProgressTotals {
    jobs: HashMap<JobId, JobProgressTotal>,
    clock: u64,
}

#[derive(Debug, Default)]
struct JobProgressTotal {
    total_ms: u64,
    parts: BTreeMap<String, u64>,
    updated: u64,
}

impl ProgressTotals {
    fn total_ms(&self, job_id: JobId) -> Option<u64> {
        self.jobs.get(&job_id).map(|sum| sum.total_ms)
    }

    /// Milliseconds that are done of the whole job; a part that is tried again does not take the sum back below it.
    fn add_progress(&mut self, progress: &JobPartProgress, total_ms: u64) -> u64 {
        self.clock += 1;
        if self.jobs.len() >= JOBS_MAX
            && !self.jobs.contains_key(&progress.job_id)
            && let Some(oldest) = self.jobs.iter().min_by_key(|(_, sum)| sum.updated).map(|(id, _)| *id)
        {
            self.jobs.remove(&oldest);
        }
        let sum = self.jobs.entry(progress.job_id).or_default();
        (sum.total_ms, sum.updated) = (total_ms, self.clock);
        let part = sum.parts.entry(progress.part.clone()).or_default();
        // A repeated try of a part begins at zero; what was shown must not go back.
        *part = (*part).max(progress.done_ms);
        sum.parts.values().sum::<u64>().min(total_ms)
    }
}

#[cfg(test)]
mod tests {
    use schemas::ids::MediaId;

    use super::*;

    fn progress(job: u16, part: &str, done_ms: u64) -> JobPartProgress {
        let mut bytes = [0; 16];
        bytes[..2].copy_from_slice(&job.to_be_bytes());
        JobPartProgress {
            job_id: JobId::from_bytes(bytes),
            media_id: MediaId::from_bytes([2; 16]),
            owner: "ann".into(),
            part: part.into(),
            done_ms,
            total_ms: 10_000,
        }
    }

    #[test]
    fn parts_add_up_and_never_go_back() {
        let mut sums = ProgressTotals::default();
        for (part, done_ms, wanted) in [
            ("v0000", 1_000, 1_000),
            ("a0", 4_000, 5_000),
            ("v0000", 3_000, 7_000),
            ("v0000", 0, 7_000),
            ("v0001", 90_000, 20_000),
        ] {
            assert_eq!(sums.add_progress(&progress(1, part, done_ms), 20_000), wanted, "{part} {done_ms}");
        }
    }

    #[test]
    fn only_so_many_jobs_are_remembered() {
        let mut sums = ProgressTotals::default();
        for job in 0..u16::try_from(JOBS_MAX + 10).unwrap() {
            sums.add_progress(&progress(job, "a0", 1), 2);
        }
        assert_eq!(sums.jobs.len(), JOBS_MAX);
        assert!(sums.total_ms(progress(0, "a0", 1).job_id).is_none(), "the oldest is gone");
    }
}

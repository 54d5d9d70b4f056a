//! One follower: the past from a reader of its own, then the present from the hub, without gap or repeat.

use std::sync::Arc;

use bytes::Bytes;
use nats::{Bus, ReaderStart, StreamReader, reader};
use packaging::plan;
use schemas::{
    document,
    ids::{JobId, MediaId, UploadId},
    job, media, subjects,
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast};

use super::{
    KEEP_ALIVE, events_gone,
    frame::{self, SseFrame},
    hub::{EventHub, EventHubMessage},
};
use crate::{
    jobs::{self, fetch::fetch_job_id},
    media as documents,
};
use auth::Principal;
use web::error::Problem;

/// Encodes of one medium whose jobs belong to its story.
const ENCODES_MAX: u32 = 64;

/// What a follower asked for and may receive.
#[derive(Debug, Clone)]
pub(super) struct EventScope {
    pub(super) who: Principal,
    pub(super) media_id: Option<MediaId>,
    pub(super) job_id: Option<JobId>,
}

impl EventScope {
    fn covers(&self, item: &SseFrame) -> bool {
        let is = |wanted: Option<String>, found: &Option<String>| wanted.is_none() || wanted == *found;
        is(self.media_id.map(|id| id.to_string()), &item.media_id)
            && is(self.job_id.map(|id| id.to_string()), &item.job_id)
            // What has no owner is about the installation, not about anybody's media.
            && self.who.may_see(item.owner.as_deref().unwrap_or_default())
    }

    /// Subjects of everything that happened to the medium or job; 404 when it is not the follower's to see.
    async fn history_subjects(&self, bus: &Bus) -> Result<Vec<String>, Problem> {
        let mut media_id = self.media_id;
        let mut jobs = Vec::new();
        if let Some(job_id) = self.job_id {
            let held = bus
                .load_record::<job::JobRecord>(&job_id.to_string())
                .await?
                .ok_or_else(jobs::no_such_job)?;
            if !self.who.may_see(&held.record.owner) {
                return Err(jobs::no_such_job());
            }
            media_id = media_id.or_else(|| held.record.media_id.if_any());
            jobs.push(job_id);
        }
        let mut filters: Vec<String> = media_id.map(subjects::media_event_filter).into_iter().collect();
        if let Some(media_id) = media_id
            && self.job_id.is_none()
        {
            let (encode, upload_id, verification) = self.load_medium(bus, media_id).await?;
            jobs.extend(verification);
            // A job that is about to be planned has the next number.
            jobs.extend(
                (1..=(encode + 1).min(ENCODES_MAX)).map(|number| plan::derive_job_id(media_id, number)),
            );
            filters.push(subjects::gate_change_filter(media_id));
            jobs.extend(upload_id.map(|upload_id| fetch_job_id(media_id, upload_id)));
            filters.extend(upload_id.map(subjects::upload_event_filter));
        }
        filters.extend(jobs.into_iter().map(subjects::job_event_filter));
        Ok(filters)
    }

    /// The number of the medium's encode, its upload, and the job that verified it last; 404 when there is no such medium, or it is not the follower's to see. A
    /// removed one has a story, too.
    async fn load_medium(
        &self,
        bus: &Bus,
        media_id: MediaId,
    ) -> Result<(u32, Option<UploadId>, Option<JobId>), Problem> {
        let key = media_id.to_string();
        let (document, asset) = tokio::try_join!(
            bus.load_with_tombstone::<document::MediaDocumentRecord>(&key),
            bus.load_with_tombstone::<media::MediaRecord>(&key)
        )?;
        let owner = document.as_ref().map(|held| &held.record.owner);
        let owner = owner.or_else(|| asset.as_ref().map(|held| &held.record.owner));
        if !owner.is_some_and(|owner| self.who.may_see(owner)) {
            return Err(documents::no_such_medium());
        }
        let encode = asset.as_ref().and_then(|held| held.record.encode.as_ref());
        let verification = asset.as_ref().and_then(|held| held.record.verification);
        let number = encode.map_or(0, |encode| encode.number);
        Ok((number, document.and_then(|held| held.record.upload_id), verification))
    }
}

/// Where a follower begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EventStreamStart {
    /// With what happens from now on.
    Now,
    /// With the first thing that happened to what it asked for.
    Story,
    /// Behind this sequence.
    Behind(u64),
}

/// The past, being read.
struct EventReplay {
    reader: StreamReader,
    /// Where the present takes over.
    until: u64,
    _turn: OwnedSemaphorePermit,
}

/// A follower.
pub(super) struct EventFollower {
    bus: Bus,
    hub: EventHub,
    catching_up: Arc<Semaphore>,
    scope: EventScope,
    present: broadcast::Receiver<EventHubMessage>,
    past: Option<EventReplay>,
    /// Sequence up to which everything was looked at.
    seen: u64,
}

impl EventFollower {
    pub(super) async fn open(
        bus: &Bus,
        hub: EventHub,
        catching_up: Arc<Semaphore>,
        scope: EventScope,
        begin: EventStreamStart,
    ) -> Result<Self, Problem> {
        // The present is subscribed to first, so that nothing falls between it and the past.
        let present = hub.subscribe();
        let position = hub.position();
        let mut follower =
            Self { bus: bus.clone(), hub, catching_up, scope, present, past: None, seen: position };
        match begin {
            EventStreamStart::Now => {}
            EventStreamStart::Story => {
                let filters = follower.scope.history_subjects(bus).await?;
                follower.past = Some(follower.open_replay(filters, ReaderStart::All, position).await?);
            }
            EventStreamStart::Behind(sequence) => {
                check_retained(bus, sequence).await?;
                follower.catch_up(sequence.min(position)).await?;
            }
        }
        Ok(follower)
    }

    /// Goes back to the stream itself, for everything behind `seen`.
    async fn catch_up(&mut self, seen: u64) -> Result<(), nats::BusError> {
        self.seen = seen;
        let until = self.hub.position();
        if seen < until {
            let all = vec![subjects::EVENTS_ALL.to_owned()];
            self.past = Some(self.open_replay(all, ReaderStart::Sequence(seen + 1), until).await?);
        }
        Ok(())
    }

    fn open_replay(
        &self,
        filters: Vec<String>,
        start: ReaderStart,
        until: u64,
    ) -> impl Future<Output = Result<EventReplay, nats::BusError>> + Send + use<> {
        let (bus, turns) = (self.bus.clone(), Arc::clone(&self.catching_up));
        async move {
            // After a restart all clients catch up at once: each replay is a consumer of the broker.
            let turn = turns.acquire_owned().await.map_err(nats::BusError::unavailable)?;
            let reader = bus.open_reader(reader::ReaderConfig::new(subjects::EVENTS, filters, start)).await?;
            Ok(EventReplay { reader, until, _turn: turn })
        }
    }

    /// The next thing to send: an event, progress, or a comment that keeps the connection; `None` when the hub has ended.
    pub(super) async fn next_frame(&mut self) -> Result<Option<Bytes>, nats::BusError> {
        loop {
            if let Some(frame) = self.next_replayed_frame().await? {
                return Ok(Some(frame));
            }
            match tokio::time::timeout(KEEP_ALIVE, self.present.recv()).await {
                Err(_) => return Ok(Some(Bytes::from_static(b": still here\n\n"))),
                Ok(Ok(EventHubMessage::Event(item))) => {
                    // The replay and the hub overlap on purpose: the sequence drops what came by both.
                    let is_new = item.sequence > self.seen;
                    self.seen = self.seen.max(item.sequence);
                    if is_new && self.scope.covers(&item) {
                        return Ok(Some(item.frame.clone()));
                    }
                }
                Ok(Ok(EventHubMessage::Progress(item))) => {
                    if self.scope.covers(&item) {
                        return Ok(Some(item.frame.clone()));
                    }
                }
                // A slow reader lost items of the hub; the stream still has them.
                Ok(Err(broadcast::error::RecvError::Lagged(_))) => self.catch_up(self.seen).await?,
                // The client comes back with an id of the life before, and gets the answer that it is gone.
                Ok(Ok(EventHubMessage::Reset) | Err(broadcast::error::RecvError::Closed)) => return Ok(None),
            }
        }
    }

    async fn next_replayed_frame(&mut self) -> Result<Option<Bytes>, nats::BusError> {
        while let Some(past) = &mut self.past {
            // What is newer comes from the hub, too.
            let entry = past.reader.next_pending().await?.filter(|entry| entry.sequence <= past.until);
            let Some(entry) = entry else {
                self.seen = self.seen.max(past.until);
                self.past = None;
                break;
            };
            let item = frame::render_event(&self.hub.epoch(), &entry);
            if self.scope.covers(&item) {
                return Ok(Some(item.frame));
            }
        }
        Ok(None)
    }
}

/// Refuses when events behind `sequence` were dropped by age: what follows would have a gap that nobody sees.
async fn check_retained(bus: &Bus, sequence: u64) -> Result<(), Problem> {
    if sequence == 0 {
        return Ok(());
    }
    let stream = bus.context().get_stream(subjects::EVENTS).await;
    let stream = stream.map_err(|error| Problem::from(nats::BusError::unavailable(error)))?;
    let state = &stream.cached_info().state;
    if sequence > state.last_sequence {
        return Err(events_gone("it is newer than the newest event"));
    }
    if sequence + 1 < state.first_sequence {
        return Err(events_gone("older events are dropped by age"));
    }
    Ok(())
}

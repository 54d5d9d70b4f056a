//! One follower: how things stand or the past first, then the present from its queue, without gap or repeat.
//!
//! Limits: the past is read by at most [`super::CATCHING_UP_MAX`] followers at the same time, and [`super::CATCHING_UP_EACH_MAX`] of one
//! principal; each waits [`super::TURN_WAIT_MAX`] for its turn.

use std::{collections::VecDeque, sync::Arc};

use super::{
    KEEP_ALIVE,
    filter::EventFilter,
    frame::{self, EventFrame},
    hub::{format_epoch, format_event_id},
    places::ReplayTurn,
    routes::{FollowerQueue, QueueEnd},
    snapshot::{self, ResyncReason},
};
use crate::AppState;
use nats::{ReaderStart, StreamReader, reader, reader::StreamPosition};
use schemas::subjects;
use web::error::Problem;

/// Where a follower begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum FollowStart {
    /// With how things stand.
    Now,
    /// With the oldest event there is.
    Oldest,
    /// Behind this sequence of the stream with this epoch.
    Behind(u64, u64),
}

/// What a follower is to be sent.
#[derive(Debug)]
pub(super) enum FollowerItem {
    /// This.
    Frame(Arc<EventFrame>),
    /// Nothing happened for [`KEEP_ALIVE`].
    Quiet,
    /// Nothing more.
    End,
}

/// Why a follower ends early.
#[derive(Debug, thiserror::Error)]
pub(super) enum FollowError {
    /// The bus failed.
    #[error("events can't be read")]
    Bus(#[from] nats::BusError),
    /// How things stand or the past can't be read, or is not the follower's to see any more.
    #[error("a follower is refused: {0}")]
    Refused(&'static str),
}

impl From<Problem> for FollowError {
    fn from(problem: Problem) -> Self {
        Self::Refused(problem.code())
    }
}

/// The past, being read.
struct EventReplay {
    reader: StreamReader,
    /// Where the present takes over.
    until: u64,
    _turn: ReplayTurn,
}

/// A follower.
pub(super) struct EventFollower {
    app: AppState,
    filter: Arc<EventFilter>,
    queue: FollowerQueue,
    past: Option<Box<EventReplay>>,
    /// What the stream says of itself, before anything else.
    own: VecDeque<Arc<EventFrame>>,
    created_at_ms: u64,
    /// Sequence up to which everything was looked at.
    seen: u64,
    is_over: bool,
}

impl EventFollower {
    /// Opens one: the present is subscribed to first, so that nothing falls between it and the past.
    pub(super) async fn open(
        app: AppState,
        filter: EventFilter,
        start: FollowStart,
    ) -> Result<Self, Problem> {
        let filter = Arc::new(filter);
        let (queue, position) = subscribe(&app, &filter);
        let mut follower = Self {
            app,
            filter,
            queue,
            past: None,
            own: VecDeque::new(),
            created_at_ms: position.created_at_ms,
            seen: position.sequence,
            is_over: false,
        };
        let bus = follower.app.bus.clone();
        match start {
            FollowStart::Now => follower.push_snapshot().await?,
            FollowStart::Oldest => {
                let subjects = if follower.filter.media_id.is_some() || follower.filter.job_id.is_some() {
                    follower.filter.history_subjects(&bus).await?
                } else {
                    vec![subjects::EVENTS_ALL.to_owned()]
                };
                follower.begin_replay(subjects, ReaderStart::All, position.sequence).await?;
            }
            FollowStart::Behind(epoch, sequence) => {
                snapshot::require_visible(&follower.app, &follower.filter).await?;
                match find_gap(&follower.app, position, epoch, sequence).await? {
                    None => follower.catch_up(sequence).await?,
                    Some(reason) => {
                        follower.own.push_back(Arc::new(reason.frame(follower.cursor())));
                        follower.push_snapshot().await?;
                    }
                }
            }
        }
        Ok(follower)
    }

    /// The id behind which a follower goes on that has seen what this one has.
    fn cursor(&self) -> String {
        format_event_id(self.created_at_ms, self.seen)
    }

    async fn push_snapshot(&mut self) -> Result<(), Problem> {
        let frame = snapshot::load_frame(&self.app, &self.filter, self.cursor()).await?;
        self.own.push_back(Arc::new(frame));
        Ok(())
    }

    /// Reads the stream itself, for everything behind `seen` that the queue does not have.
    async fn catch_up(&mut self, seen: u64) -> Result<(), Problem> {
        let until = self.seen;
        // A replica may be behind the one that gave out the id: what its queue has of before was seen.
        self.seen = seen;
        if seen < until {
            let all = vec![subjects::EVENTS_ALL.to_owned()];
            self.begin_replay(all, ReaderStart::Sequence(seen + 1), until).await?;
        }
        Ok(())
    }

    async fn begin_replay(
        &mut self,
        filters: Vec<String>,
        start: ReaderStart,
        until: u64,
    ) -> Result<(), Problem> {
        // After a restart all clients catch up at once: each replay is a consumer of the broker.
        let turn = self.app.followers.replays.wait_for_turn(&self.filter.who.owner).await?;
        let config = reader::ReaderConfig::new(subjects::EVENTS, filters, start);
        let reader = self.app.bus.open_reader(config).await?;
        self.past = Some(Box::new(EventReplay { reader, until, _turn: turn }));
        Ok(())
    }

    /// The next thing to send.
    pub(super) async fn next_item(&mut self) -> Result<FollowerItem, FollowError> {
        loop {
            if let Some(frame) = self.own.pop_front() {
                return Ok(FollowerItem::Frame(frame));
            }
            if self.is_over {
                return Ok(FollowerItem::End);
            }
            // Boxed, like all that is rare: most followers wait for the present, and each of them holds this future.
            if self.past.is_some()
                && let Some(frame) = Box::pin(self.next_replayed()).await?
            {
                return Ok(FollowerItem::Frame(frame));
            }
            if self.past.is_some() {
                continue;
            }
            match tokio::time::timeout(KEEP_ALIVE, self.queue.next()).await {
                Err(_) => return Ok(FollowerItem::Quiet),
                Ok(Ok(frame)) => {
                    // The replay and the queue overlap where the replay was behind: the sequence drops what came by both.
                    let is_new = frame.sequence == 0 || frame.sequence > self.seen;
                    self.seen = self.seen.max(frame.sequence);
                    if is_new && self.filter.covers(&frame) {
                        return Ok(FollowerItem::Frame(frame));
                    }
                }
                Ok(Err(QueueEnd::Lagged)) => {
                    self.own.push_back(Arc::new(snapshot::lagged_frame(self.cursor())));
                    self.is_over = true;
                }
                Ok(Err(QueueEnd::Reset)) => Box::pin(self.begin_anew()).await?,
                Ok(Err(QueueEnd::Closed)) => self.is_over = true,
            }
        }
    }

    /// EVENTS was made anew: what was seen means nothing in it.
    async fn begin_anew(&mut self) -> Result<(), FollowError> {
        self.resubscribe();
        self.own.push_back(Arc::new(ResyncReason::StreamReplaced.frame(self.cursor())));
        self.push_snapshot().await?;
        Ok(())
    }

    fn resubscribe(&mut self) {
        let (queue, position) = subscribe(&self.app, &self.filter);
        self.queue = queue;
        (self.created_at_ms, self.seen) = (position.created_at_ms, position.sequence);
    }

    async fn next_replayed(&mut self) -> Result<Option<Arc<EventFrame>>, FollowError> {
        let epoch = format_epoch(self.created_at_ms);
        while let Some(past) = &mut self.past {
            // What is newer comes from the queue, too.
            let entry = past.reader.next_pending().await?.filter(|entry| entry.sequence <= past.until);
            let Some(entry) = entry else {
                self.seen = self.seen.max(past.until);
                self.past = None;
                break;
            };
            let frame = frame::render_event(&epoch, &entry);
            if self.filter.covers(&frame) {
                self.seen = self.seen.max(frame.sequence);
                return Ok(Some(Arc::new(frame)));
            }
        }
        // More happened during the replay than the queue holds: that is no fault of the reader, and the stream has it.
        if self.queue.has_lagged() {
            let (seen, created_at_ms) = (self.seen, self.created_at_ms);
            self.resubscribe();
            if self.created_at_ms == created_at_ms {
                self.catch_up(seen).await?;
            } else {
                self.own.push_back(Arc::new(ResyncReason::StreamReplaced.frame(self.cursor())));
                self.push_snapshot().await?;
            }
        }
        Ok(None)
    }
}

fn subscribe(app: &AppState, filter: &EventFilter) -> (FollowerQueue, StreamPosition) {
    app.followers.hub().subscribe(filter.route_key(), app.followers.queue_limits)
}

/// Why what is behind a place of EVENTS can't be given without a gap; `None` when it can.
async fn find_gap(
    app: &AppState,
    position: StreamPosition,
    epoch: u64,
    sequence: u64,
) -> Result<Option<ResyncReason>, Problem> {
    if epoch != position.created_at_ms {
        return Ok(Some(ResyncReason::StreamReplaced));
    }
    let extent = app.bus.stream_extent(subjects::EVENTS).await?;
    if sequence > extent.end.sequence {
        return Ok(Some(ResyncReason::Unknown));
    }
    if sequence + 1 < extent.first_sequence {
        return Ok(Some(ResyncReason::Dropped));
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use nats::{Bus, Role, testing::TestBroker};
    use schemas::{access::PrincipalRole, envelope::UnsentEvent, headers};
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::{IngressConfig, events::filter::EventWishes, tests::grants};
    use auth::Principal;

    async fn publish_event(bus: &Bus, number: u8) {
        let event = UnsentEvent {
            subject: "evt.media.changed.06db00820dt0303jc5mn0r355k".into(),
            id: format!("event-{number}"),
            headers: [(headers::OWNER.to_owned(), "ann".to_owned())].into(),
            payload: serde_bytes::ByteBuf::from(vec![number]),
            once: false,
            after_sequence: None,
        };
        bus.publish_unsent(&event).await.unwrap();
    }

    #[tokio::test]
    async fn who_comes_from_a_replica_that_is_ahead_gets_nothing_twice() {
        let broker = TestBroker::start().await;
        let bus = Bus::connect(&broker.config(Role::Ingress)).await.unwrap();
        auth::create_first_key(&bus).await.unwrap();
        let folder = tempfile::tempdir().unwrap();
        let url = format!("file://{}/store", folder.path().display());
        let store = store::testing::open_test_store(store::StoreConfig::from_url(url)).unwrap();
        let (grants, auth) = (grants(&bus), auth::AuthConfig::default());
        let metrics = crate::registry::MetricsRegistry::default();
        let app = AppState::build(bus.clone(), store, grants, metrics, IngressConfig::default(), auth);
        let app = app.await.unwrap();
        let before = app.followers.hub().position();
        let admin = broker.bus(Role::Admin).await;
        for number in 0..3 {
            publish_event(&admin, number).await;
        }
        assert_eq!(app.followers.hub().position(), before, "this replica has seen none of them yet");
        let filter = EventFilter::new(Principal::new("ann", PrincipalRole::Owner), EventWishes::default());
        let start = FollowStart::Behind(before.created_at_ms, before.sequence + 2);
        let mut follower = EventFollower::open(app.clone(), filter.unwrap(), start).await.unwrap();
        let hub = app.followers.hub().clone();
        tokio::spawn(async move { hub.run(CancellationToken::new()).await });
        let FollowerItem::Frame(frame) = follower.next_item().await.unwrap() else { panic!("no event") };
        assert_eq!(frame.sequence, before.sequence + 3);
    }
}

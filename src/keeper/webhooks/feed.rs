//! Events for hooks: one ordered reader of EVENTS feeds all of them, and a hook that is behind it reads for itself until it is not.
//!
//! Only heads are read here; what is sent is read by its sequence when it is sent.
//!
//! Limits: a hook that is [`BACKLOG_MAX`] events behind reads for itself; how many do so at once is a setting.

use std::sync::Arc;

use futures::{FutureExt as _, future::BoxFuture};
use nats::{
    Bus, BusError, ReaderStart, StreamReader,
    reader::{self, StreamEntry, StreamPosition},
};
use schemas::{hook::HookPosition, subjects};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, broadcast, watch};
use webhooks::filter::EventHead;

use super::AGAIN;

/// Events that are kept for hooks that are slower than the stream.
const BACKLOG_MAX: usize = 1_024;

/// What hooks receive.
#[derive(Debug, Clone)]
enum FeedMessage {
    Event(Arc<EventHead>),
    /// EVENTS was made anew.
    Reset,
}

/// What comes next for a hook.
#[derive(Debug)]
pub(super) enum FeedItem {
    /// An event.
    Event(Arc<EventHead>),
    /// There is nothing up to this sequence that did not come.
    Passed(u64),
    /// The position is to be compared with EVENTS: it was made anew, or has not everything behind the position any more.
    Reset,
}

/// Feeds hooks. Cheap to clone; one a keeper.
#[derive(Debug, Clone)]
pub(super) struct EventFeed {
    bus: Bus,
    sender: broadcast::Sender<FeedMessage>,
    position: watch::Sender<StreamPosition>,
}

impl EventFeed {
    /// A feed that begins at the end of EVENTS.
    pub(super) async fn open(bus: Bus) -> Result<Self, BusError> {
        let end = bus.stream_extent(subjects::EVENTS).await?.end;
        Ok(Self { bus, sender: broadcast::Sender::new(BACKLOG_MAX), position: watch::Sender::new(end) })
    }

    /// Feeds hooks for as long as it is polled.
    pub(super) async fn run(&self) {
        loop {
            let start = ReaderStart::Behind(*self.position.borrow());
            let mut entries = self.bus.follow_stream("events of webhooks", head_reader(start));
            let error = loop {
                match entries.next().await {
                    Ok(entry) => {
                        // The position moves first: a hook that does not receive the event here reads it for itself.
                        self.position.send_modify(|position| position.sequence = entry.sequence);
                        self.sender.send(FeedMessage::Event(Arc::new(read_head(&entry)))).ok();
                    }
                    Err(error) => break error,
                }
            };
            tracing::error!(%error, "webhooks begin anew");
            let created_at_ms = loop {
                match self.bus.stream_extent(subjects::EVENTS).await {
                    Ok(extent) => break extent.end.created_at_ms,
                    Err(error) => tracing::warn!(%error, "the stream of events can't be asked for"),
                }
                tokio::time::sleep(AGAIN).await;
            };
            self.position.send_replace(StreamPosition { created_at_ms, sequence: 0 });
            self.sender.send(FeedMessage::Reset).ok();
        }
    }

    /// What one hook receives; `turns` are places for reading what it missed.
    pub(super) fn follow(&self, turns: Arc<Semaphore>) -> HookFeed {
        // Read first: what is received behind it is of this stream, or of one that comes later.
        let live_created_at_ms = self.position.borrow().created_at_ms;
        HookFeed {
            feed: self.clone(),
            live: self.sender.subscribe(),
            live_created_at_ms,
            compared: None,
            turns,
            past: None,
            opening: None,
            is_behind: true,
        }
    }
}

/// What a hook missed, being read.
struct PastEvents {
    reader: StreamReader,
    until: u64,
    _turn: OwnedSemaphorePermit,
}

type OpeningPast = BoxFuture<'static, Result<Option<PastEvents>, BusError>>;

/// The events of one hook, in order and without a gap.
pub(super) struct HookFeed {
    feed: EventFeed,
    live: broadcast::Receiver<FeedMessage>,
    /// When the stream was created that `live` is of.
    live_created_at_ms: u64,
    /// Creation of the feed's stream and of the hook's that were compared last, and differed.
    compared: Option<(u64, u64)>,
    turns: Arc<Semaphore>,
    past: Option<PastEvents>,
    opening: Option<OpeningPast>,
    is_behind: bool,
}

impl HookFeed {
    /// Leaves what it reads and its turn for that; begins anew behind whatever the next call names.
    pub(super) fn restart(&mut self) {
        (self.past, self.opening, self.is_behind) = (None, None, true);
    }

    /// The next one behind `position`. Dropping the future loses nothing.
    pub(super) async fn next(&mut self, position: HookPosition) -> Result<FeedItem, BusError> {
        let sequence = position.sequence;
        loop {
            if let Some(item) = self.compare_streams(position.created_at_ms).await {
                return Ok(item);
            }
            if let Some(opening) = &mut self.opening {
                let opened = opening.await;
                self.opening = None;
                self.past = opened?;
                if self.past.is_none() {
                    self.is_behind = true;
                    return Ok(FeedItem::Reset);
                }
            }
            if let Some(past) = &mut self.past {
                let entry = past.reader.next_pending().await?.filter(|entry| entry.sequence <= past.until);
                if let Some(entry) = entry {
                    return Ok(FeedItem::Event(Arc::new(read_head(&entry))));
                }
                let until = past.until;
                self.past = None;
                return Ok(FeedItem::Passed(until));
            }
            if std::mem::take(&mut self.is_behind) {
                let until = self.feed.position.borrow().sequence;
                if sequence < until {
                    self.opening = Some(self.open_past(sequence, until));
                    continue;
                }
            }
            match self.live.recv().await {
                Ok(FeedMessage::Event(head)) if head.sequence <= sequence => {}
                Ok(FeedMessage::Event(head)) => return Ok(FeedItem::Event(head)),
                Ok(FeedMessage::Reset) => return Ok(FeedItem::Reset),
                // The stream still has them.
                Err(broadcast::error::RecvError::Lagged(_)) => self.is_behind = true,
                // The keeper's term is over.
                Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
            }
        }
    }

    /// Looks whether the feed is in the stream that the hook is in: a hook that was slow does not receive that it was made anew.
    async fn compare_streams(&mut self, hook_created_at_ms: u64) -> Option<FeedItem> {
        let mut position = self.feed.position.subscribe();
        loop {
            let created_at_ms = position.borrow_and_update().created_at_ms;
            if self.live_created_at_ms != created_at_ms {
                self.restart();
                self.live = self.feed.sender.subscribe();
                self.live_created_at_ms = created_at_ms;
            }
            if created_at_ms == hook_created_at_ms {
                self.compared = None;
                return None;
            }
            let differ = Some((created_at_ms, hook_created_at_ms));
            if std::mem::replace(&mut self.compared, differ) != differ {
                return Some(FeedItem::Reset);
            }
            // The hook is right, and the feed has not come to the new stream yet.
            if position.wait_for(|position| position.created_at_ms != created_at_ms).await.is_err() {
                std::future::pending::<()>().await;
            }
        }
    }

    /// What lies behind `sequence`; `None` where the stream has not all of it any more.
    fn open_past(&self, sequence: u64, until: u64) -> OpeningPast {
        let (bus, turns) = (self.feed.bus.clone(), Arc::clone(&self.turns));
        async move {
            let turn = turns.acquire_owned().await.map_err(BusError::unavailable)?;
            if sequence + 1 < bus.stream_extent(subjects::EVENTS).await?.first_sequence {
                return Ok(None);
            }
            let reader = bus.open_reader(head_reader(ReaderStart::Sequence(sequence + 1))).await?;
            Ok(Some(PastEvents { reader, until, _turn: turn }))
        }
        .boxed()
    }
}

fn head_reader(start: ReaderStart) -> reader::ReaderConfig {
    let all = vec![subjects::EVENTS_ALL.to_owned()];
    reader::ReaderConfig { is_headers_only: true, ..reader::ReaderConfig::new(subjects::EVENTS, all, start) }
}

/// What an event says of itself.
pub(super) fn read_head(entry: &StreamEntry) -> EventHead {
    let text = |name: &str| entry.headers.get_last(name).map(|value| value.as_str().to_owned());
    EventHead::read(entry.sequence, &entry.subject, text)
}

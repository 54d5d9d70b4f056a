//! One hook: takes the events that it wants, sends what is due, and writes down how far it is.
//!
//! Limits: those of [`super::ledger`] and of the queue.

use std::{collections::HashSet, sync::Arc};

use nats::{BusError, Outbox};
use schemas::{
    hook::{AskedContent, AskedDelivery, AskedReplay, HookPosition, HookRecord, HookRequests},
    hook_delivery::DeliveryTrigger,
    hook_event::HookSkipReason,
    ids::{DeliveryId, MediaId},
    subjects,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use webhooks::{
    DueDelivery, HookQueue, TakeResult,
    filter::{EventHead, wants_event},
};

use super::{
    AGAIN, WatchedHook,
    deliver::{Courier, DeliveryEnd, DeliveryOrder},
    feed::{EventFeed, FeedItem, HookFeed},
    ledger::{HookLedger, Unwritten},
    metrics::HookState,
    settings,
};

/// Why a delivery is under way.
#[derive(Debug, Clone)]
pub(super) enum DeliveryCause {
    /// It was its turn.
    Due(DueDelivery),
    /// Somebody asked for it.
    Asked(AskedDelivery),
}

/// A delivery that ended.
pub(super) struct EndedDelivery {
    pub(super) cause: DeliveryCause,
    /// The hook as it was when it began.
    pub(super) hook: Arc<HookRecord>,
    pub(super) end: DeliveryEnd,
}

/// The task of one hook.
pub(super) struct HookTask {
    courier: Courier,
    feed: EventFeed,
    records: watch::Receiver<Arc<WatchedHook>>,
    requests: watch::Receiver<HookRequests>,
    stop: CancellationToken,
}

impl HookTask {
    pub(super) const fn new(
        courier: Courier,
        feed: EventFeed,
        records: watch::Receiver<Arc<WatchedHook>>,
        requests: watch::Receiver<HookRequests>,
        stop: CancellationToken,
    ) -> Self {
        Self { courier, feed, records, requests, stop }
    }

    /// Runs until it is stopped; what goes wrong in between is begun anew from the record.
    pub(super) async fn run(self) {
        while !self.stop.is_cancelled() {
            let hook_id = self.records.borrow().record.hook_id;
            let ended = match HookRun::open(&self).await {
                Ok(run) => run.run().await,
                Err(error) => Err(error),
            };
            match ended {
                Ok(()) => return,
                // Another keeper has it now, or somebody wrote in between: the record says where to go on.
                Err(BusError::Conflict { .. }) => tracing::info!(hook.id = %hook_id, "a hook is read anew"),
                Err(error) => tracing::warn!(%error, hook.id = %hook_id, "a hook goes on later"),
            }
            tokio::select! {
                () = self.stop.cancelled() => return,
                () = tokio::time::sleep(AGAIN) => {}
            }
        }
    }
}

/// A hook from one reading of its record on.
pub(super) struct HookRun {
    pub(super) courier: Courier,
    pub(super) hook: Arc<HookRecord>,
    /// The revision of `hook` in the bucket.
    revision: u64,
    records: watch::Receiver<Arc<WatchedHook>>,
    requests: watch::Receiver<HookRequests>,
    stop: CancellationToken,
    feed: HookFeed,
    /// Whether it read events when it looked last.
    did_read: bool,
    pub(super) queue: HookQueue,
    pub(super) ledger: HookLedger,
    under_way: JoinSet<EndedDelivery>,
    /// Deliveries that somebody asked for and that were begun.
    pub(super) asked: HashSet<DeliveryId>,
    replayed: Option<AskedReplay>,
}

impl HookRun {
    async fn open(task: &HookTask) -> Result<Self, BusError> {
        let WatchedHook { record: hook, revision } = &*Arc::clone(&task.records.borrow());
        let (hook, revision) = (Arc::clone(hook), *revision);
        let bus = &task.courier.bus;
        // Followed before the record is read: nothing falls between both.
        let feed = task.feed.follow(Arc::clone(&task.courier.turns));
        let ledger = HookLedger::load(bus, &hook).await?;
        let queue = HookQueue::new(ledger.written().clone(), task.courier.config.retry_policy());
        let mut run = Self {
            courier: task.courier.clone(),
            hook,
            revision,
            records: task.records.clone(),
            requests: task.requests.clone(),
            stop: task.stop.clone(),
            feed,
            did_read: true,
            queue,
            ledger,
            under_way: JoinSet::new(),
            asked: HashSet::new(),
            replayed: None,
        };
        run.check_stream().await?;
        // Before anything is sent: what can't be written down would be sent again and again.
        run.write(Outbox::new()).await?;
        Ok(run)
    }

    /// Leaves out what the stream does not have any more, and says so.
    pub(super) async fn check_stream(&mut self) -> Result<(), BusError> {
        let extent = self.courier.bus.stream_extent(subjects::EVENTS).await?;
        let position = self.queue.progress().position;
        if position.created_at_ms != extent.end.created_at_ms {
            let fresh = HookPosition { created_at_ms: extent.end.created_at_ms, sequence: 0 };
            let lost = self.queue.begin_anew(fresh);
            self.feed.restart();
            return match lost {
                Some(range) => self.write_skipped(HookSkipReason::StreamReset, range, None).await,
                None => self.write(Outbox::new()).await,
            };
        }
        let next = position.sequence + 1;
        if next < extent.first_sequence {
            let last = extent.first_sequence - 1;
            self.queue.pass(last);
            return self.write_skipped(HookSkipReason::Expired, (next, last), None).await;
        }
        Ok(())
    }

    async fn run(mut self) -> Result<(), BusError> {
        let mut stopped = self.stop.clone();
        loop {
            self.apply_settings().await?;
            self.start_deliveries();
            self.report();
            let write_in = self.ledger.write_pause(self.queue.sequence());
            if write_in.is_some_and(|pause| pause.is_zero()) {
                self.write(Outbox::new()).await?;
                continue;
            }
            let reads = self.look_for_room().await?;
            let (position, clock) = (self.queue.progress().position, self.courier.clock.clone());
            let look_at_ms =
                self.queue.next_look_at_ms().filter(|_| self.has_place() && self.hook.paused.is_none());
            let Self { feed, records, requests, under_way, .. } = &mut self;
            tokio::select! {
                () = stopped_by(&mut stopped) => break,
                changed = records.changed() => match changed {
                    Ok(()) => {
                        let seen = Arc::clone(&self.records.borrow());
                        self.apply_record(Arc::clone(&seen.record), seen.revision);
                    }
                    Err(_) => break,
                },
                changed = requests.changed() => if changed.is_err() { break },
                Some(ended) = under_way.join_next() => {
                    self.finish_delivery(ended.map_err(BusError::unavailable)?).await?;
                }
                item = feed.next(position), if reads => self.take_item(item?).await?,
                () = clock.wait_until(look_at_ms.unwrap_or_default()), if look_at_ms.is_some() => {}
                () = tokio::time::sleep(write_in.unwrap_or_default()), if write_in.is_some() => {}
            }
        }
        if self.ledger.write_pause(self.queue.sequence()).is_some() {
            self.write(Outbox::new()).await?;
        }
        Ok(())
    }

    fn has_place(&self) -> bool {
        self.under_way.len() < self.courier.config.in_flight_per_hook_max
    }

    /// Whether it reads events; one that does not keeps no turn from others, and one that does again may have missed some.
    async fn look_for_room(&mut self) -> Result<bool, BusError> {
        let reads = self.hook.paused.is_none() && self.queue.has_room();
        if !reads {
            self.feed.restart();
        } else if !self.did_read {
            self.check_stream().await?;
        }
        self.did_read = reads;
        Ok(reads)
    }

    /// Takes in how the hook was written, unless a newer writing is known.
    pub(super) fn apply_record(&mut self, record: Arc<HookRecord>, revision: u64) {
        if revision <= self.revision {
            return;
        }
        if record.url != self.hook.url {
            // What the address of before did says nothing of this one.
            self.queue.resume(self.courier.clock.now_ms());
            self.ledger.note(Unwritten::Changed);
        }
        (self.hook, self.revision) = (record, revision);
    }

    /// Takes in what its owner says and asks.
    async fn apply_settings(&mut self) -> Result<(), BusError> {
        let now_ms = self.courier.clock.now_ms();
        if self.queue.note_resumption(self.hook.resumed_at_ms, now_ms) {
            self.ledger.note(Unwritten::Changed);
            // It may have been paused for longer than events are kept.
            self.feed.restart();
            self.check_stream().await?;
        }
        let replay = self.requests.borrow_and_update().replay;
        if let Some(replay) = replay.filter(|replay| self.replayed != Some(*replay)) {
            if replay.position.created_at_ms == self.queue.progress().position.created_at_ms {
                self.queue.go_back_to(replay.position.sequence, now_ms);
                self.feed.restart();
                self.write(Outbox::new()).await?;
            }
            self.replayed = Some(replay);
            settings::remove_asked_replay(&self.courier.bus, self.hook.hook_id, replay).await?;
        }
        Ok(())
    }

    /// Begins what is due, and what was asked for, as far as there are places.
    fn start_deliveries(&mut self) {
        let asked = self.requests.borrow().deliveries.clone();
        self.asked.retain(|id| asked.iter().any(|asked| asked.delivery_id == *id));
        for asked in asked {
            let is_new = asked.content != AskedContent::Unknown && !self.asked.contains(&asked.delivery_id);
            if is_new && self.has_place() && self.queue.hold_lane(lane_of(&asked.content)) {
                self.asked.insert(asked.delivery_id);
                let trigger = match asked.content {
                    AskedContent::Test | AskedContent::Unknown => DeliveryTrigger::Test,
                    AskedContent::Event { .. } => DeliveryTrigger::Redelivery,
                };
                let (delivery_id, content) = (asked.delivery_id, asked.content.clone());
                self.start_delivery(DeliveryCause::Asked(asked), (delivery_id, trigger, content, 1));
            }
        }
        let now_ms = self.courier.clock.now_ms();
        while self.hook.paused.is_none() && self.has_place() {
            let Some(due) = self.queue.next_due(now_ms) else { break };
            let (sequence, media_id) = (due.sequence, due.lane);
            let content = AskedContent::Event { sequence, media_id, event_id: None };
            let delivery_id = DeliveryId::from_bytes(nats::new_id_bytes());
            let what = (delivery_id, DeliveryTrigger::Event, content, due.attempt);
            self.start_delivery(DeliveryCause::Due(due), what);
        }
    }

    fn start_delivery(
        &mut self,
        cause: DeliveryCause,
        (delivery_id, trigger, content, attempt): (DeliveryId, DeliveryTrigger, AskedContent, u32),
    ) {
        let hook = Arc::clone(&self.hook);
        let order = DeliveryOrder { hook: Arc::clone(&hook), delivery_id, trigger, content, attempt };
        let courier = self.courier.clone();
        self.under_way.spawn(async move {
            let end = courier.deliver(order).await;
            if let DeliveryEnd::Outage(_) = end {
                // Its lane is held meanwhile; the other ones go on.
                tokio::time::sleep(AGAIN).await;
            }
            EndedDelivery { cause, hook, end }
        });
    }

    async fn take_item(&mut self, item: FeedItem) -> Result<(), BusError> {
        match item {
            FeedItem::Event(head) => self.take_event(&head),
            FeedItem::Passed(sequence) => {
                self.queue.pass(sequence);
                self.ledger.note(Unwritten::Moved);
            }
            FeedItem::Reset => self.check_stream().await?,
        }
        Ok(())
    }

    fn take_event(&mut self, head: &EventHead) {
        if !wants_event(&self.hook, head) {
            self.queue.pass(head.sequence);
            return self.ledger.note(Unwritten::Moved);
        }
        let lane: Option<MediaId> = head.media_id.as_ref().and_then(|id| id.parse().ok());
        match self.queue.take(head.sequence, lane, self.courier.clock.now_ms()) {
            TakeResult::Taken => self.ledger.note(Unwritten::Changed),
            TakeResult::Known => {}
            TakeResult::NoRoom => {
                // It comes again once there is room; until then nobody waits for its reader.
                self.feed.restart();
                self.ledger.note(Unwritten::Changed);
            }
        }
    }

    pub(super) async fn write(&mut self, outbox: Outbox) -> Result<(), BusError> {
        self.ledger.write(self.queue.progress(), outbox).await
    }

    fn report(&self) {
        let progress = self.queue.progress();
        let state = match () {
            () if self.hook.paused.is_some() => HookState::Paused,
            () if progress.is_full => HookState::Full,
            () if progress.failing_since_ms.is_some() => HookState::Failing,
            () => HookState::Active,
        };
        self.courier.metrics.record_hook(self.hook.hook_id, state, progress.oldest_since_ms());
    }
}

/// The lane that something is sent in.
pub(super) const fn lane_of(content: &AskedContent) -> Option<MediaId> {
    match content {
        AskedContent::Event { media_id, .. } => *media_id,
        AskedContent::Test | AskedContent::Unknown => None,
    }
}

async fn stopped_by(stop: &mut CancellationToken) {
    stop.cancelled().await;
}

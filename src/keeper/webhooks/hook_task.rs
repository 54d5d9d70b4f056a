//! One hook: takes the events that it wants, sends what is due, and writes down how far it is.
//!
//! Limits: those of [`super::ledger`] and of the queue.

use std::{collections::HashSet, sync::Arc};

use nats::{BusError, Outbox};
use schemas::{
    hook::{
        AskedContent, AskedDelivery, AskedReplay, HookPauseReason, HookPosition, HookRecord, HookRequests,
    },
    hook_delivery::{DeliveryOutcome, DeliveryTrigger, HookDelivery},
    hook_event::HookSkipReason,
    ids::{DeliveryId, MediaId},
    subjects,
};
use tokio::{sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use webhooks::{
    DueDelivery, FailedDelivery, HookQueue, TakeResult,
    filter::{EventHead, wants_event},
};

use super::{
    AGAIN,
    deliver::{Courier, DeliveryEnd, DeliveryOrder},
    feed::{EventFeed, FeedItem, HookFeed},
    hook_log,
    ledger::{HookLedger, Unwritten, describe_skip},
    metrics::HookState,
    settings,
};

/// Why a delivery is under way.
#[derive(Debug, Clone)]
enum DeliveryCause {
    /// It was its turn.
    Due(DueDelivery),
    /// Somebody asked for it.
    Asked(AskedDelivery),
}

/// The task of one hook.
pub(super) struct HookTask {
    courier: Courier,
    feed: EventFeed,
    records: watch::Receiver<Arc<HookRecord>>,
    requests: watch::Receiver<HookRequests>,
    stop: CancellationToken,
}

impl HookTask {
    pub(super) const fn new(
        courier: Courier,
        feed: EventFeed,
        records: watch::Receiver<Arc<HookRecord>>,
        requests: watch::Receiver<HookRequests>,
        stop: CancellationToken,
    ) -> Self {
        Self { courier, feed, records, requests, stop }
    }

    /// Runs until it is stopped; what goes wrong in between is begun anew from the record.
    pub(super) async fn run(self) {
        while !self.stop.is_cancelled() {
            let hook_id = self.records.borrow().hook_id;
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
struct HookRun {
    courier: Courier,
    hook: Arc<HookRecord>,
    records: watch::Receiver<Arc<HookRecord>>,
    requests: watch::Receiver<HookRequests>,
    stop: CancellationToken,
    feed: HookFeed,
    queue: HookQueue,
    ledger: HookLedger,
    under_way: JoinSet<(DeliveryCause, DeliveryEnd)>,
    /// Deliveries that somebody asked for and that were begun.
    asked: HashSet<DeliveryId>,
    replayed: Option<AskedReplay>,
}

impl HookRun {
    async fn open(task: &HookTask) -> Result<Self, BusError> {
        let hook = Arc::clone(&task.records.borrow());
        let bus = &task.courier.bus;
        // Followed before the record is read: nothing falls between both.
        let feed = task.feed.follow(Arc::clone(&task.courier.turns));
        let ledger = HookLedger::load(bus, &hook).await?;
        let queue = HookQueue::new(ledger.written().clone(), task.courier.config.retry_policy());
        let mut run = Self {
            courier: task.courier.clone(),
            hook,
            records: task.records.clone(),
            requests: task.requests.clone(),
            stop: task.stop.clone(),
            feed,
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
    async fn check_stream(&mut self) -> Result<(), BusError> {
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
            let reads = self.hook.paused.is_none() && self.queue.has_room();
            let (sequence, clock) = (self.queue.sequence(), self.courier.clock.clone());
            let look_at_ms =
                self.queue.next_look_at_ms().filter(|_| self.has_place() && self.hook.paused.is_none());
            let Self { feed, records, requests, under_way, .. } = &mut self;
            tokio::select! {
                () = stopped_by(&mut stopped) => break,
                changed = records.changed() => match changed {
                    Ok(()) => self.hook = Arc::clone(&self.records.borrow()),
                    Err(_) => break,
                },
                changed = requests.changed() => if changed.is_err() { break },
                Some(ended) = under_way.join_next() => {
                    let (cause, end) = ended.map_err(BusError::unavailable)?;
                    self.finish_delivery(cause, end).await?;
                }
                item = feed.next(sequence), if reads => self.take_item(item?).await?,
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
            let content = AskedContent::Event { sequence: due.sequence, media_id: due.lane };
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
        let order = DeliveryOrder { hook, delivery_id, trigger, content, attempt };
        let courier = self.courier.clone();
        self.under_way.spawn(async move { (cause, courier.deliver(order).await) });
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

    async fn finish_delivery(&mut self, cause: DeliveryCause, end: DeliveryEnd) -> Result<(), BusError> {
        let lane = match &cause {
            DeliveryCause::Due(due) => due.lane,
            DeliveryCause::Asked(asked) => lane_of(&asked.content),
        };
        match (cause, end) {
            (DeliveryCause::Due(due), DeliveryEnd::Asked { delivery, retry_after_ms }) => {
                self.judge_delivery(due, *delivery, retry_after_ms).await
            }
            (DeliveryCause::Due(due), DeliveryEnd::Lost) => match self.queue.record_loss(due) {
                Some(skipped) => {
                    let range = (skipped.sequence, skipped.sequence);
                    self.write_skipped(HookSkipReason::Expired, range, None).await
                }
                None => Ok(()),
            },
            (DeliveryCause::Asked(asked), end) => {
                self.queue.release_lane(lane);
                if let DeliveryEnd::Outage(error) = end {
                    self.asked.remove(&asked.delivery_id);
                    return Err(error);
                }
                if let DeliveryEnd::Asked { delivery, .. } = end {
                    self.log(&delivery).await;
                }
                settings::remove_asked_delivery(&self.courier.bus, self.hook.hook_id, asked.delivery_id).await
            }
            (DeliveryCause::Due(_), DeliveryEnd::Outage(error)) => {
                self.queue.release_lane(lane);
                Err(error)
            }
        }
    }

    async fn judge_delivery(
        &mut self,
        due: DueDelivery,
        mut delivery: HookDelivery,
        retry_after_ms: Option<u64>,
    ) -> Result<(), BusError> {
        let now_ms = self.courier.clock.now_ms();
        self.ledger.note(Unwritten::Changed);
        if delivery.outcome == DeliveryOutcome::Delivered {
            self.log(&delivery).await;
            self.queue.record_success(due, now_ms);
            return Ok(());
        }
        let code = delivery.code.clone().unwrap_or_default();
        let chance = (retry_after_ms, rand::random());
        let follows = self.queue.record_failure(due, now_ms, &code, chance);
        if let FailedDelivery::Later(at_ms) = &follows {
            delivery.next_try_at_ms = Some(*at_ms);
        }
        self.log(&delivery).await;
        let is_failing = self.queue.failing_ms(now_ms) >= self.courier.config.failing_ms_max;
        if let FailedDelivery::GivenUp(skipped) = follows {
            let range = (skipped.sequence, skipped.sequence);
            let why = Some((due.lane, skipped.tries, code.clone()));
            self.write_skipped(HookSkipReason::GivenUp, range, why).await?;
        }
        match delivery.outcome {
            DeliveryOutcome::Gone => self.pause(HookPauseReason::Gone, &code).await,
            _ if is_failing => self.pause(HookPauseReason::Failing, &code).await,
            _ => Ok(()),
        }
    }

    async fn pause(&mut self, reason: HookPauseReason, code: &str) -> Result<(), BusError> {
        let at_ms = self.courier.clock.now_ms();
        let paused = settings::pause_hook(&self.courier.bus, &self.hook, reason, (at_ms, code)).await?;
        if let Some(hook) = paused {
            self.hook = Arc::new(hook);
        }
        self.write(Outbox::new()).await
    }

    /// A log that can't be written keeps nothing from being delivered.
    async fn log(&mut self, delivery: &HookDelivery) {
        if let Err(error) = hook_log::log_delivery(&self.courier.bus, delivery).await {
            tracing::warn!(%error, hook.id = %self.hook.hook_id, "a delivery is not logged");
        }
    }

    async fn write_skipped(
        &mut self,
        reason: HookSkipReason,
        (first, last): (u64, u64),
        given_up: Option<(Option<MediaId>, u32, String)>,
    ) -> Result<(), BusError> {
        let event = describe_skip(&self.hook, reason, (first, last), given_up);
        tracing::warn!(hook.id = %self.hook.hook_id, ?reason, first, last, "a hook leaves events out");
        self.courier.metrics.count_skipped(last.saturating_sub(first).saturating_add(1));
        self.write(Outbox::new().with_event(&event)).await
    }

    async fn write(&mut self, outbox: Outbox) -> Result<(), BusError> {
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
const fn lane_of(content: &AskedContent) -> Option<MediaId> {
    match content {
        AskedContent::Event { media_id, .. } => *media_id,
        AskedContent::Test | AskedContent::Unknown => None,
    }
}

async fn stopped_by(stop: &mut CancellationToken) {
    stop.cancelled().await;
}

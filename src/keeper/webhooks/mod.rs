//! Webhooks: sends events to the addresses that people gave, at least once, those of one medium one after the other.
//!
//! The records of the bucket `hooks` say what is to be sent (`schemas/src/hook.rs`), the queue of each hook what is next
//! (`src/webhooks/queue.rs`). One reader of EVENTS feeds all hooks (`src/keeper/webhooks/feed.rs`); one that is behind reads for itself until it is not. A
//! record is written after a delivery, so another keeper sends again what was under way, and nothing is left out.
//!
//! What was sent and answered goes to the stream HOOKLOG with its bodies, a message each, so that those of one medium or one hook can be
//! taken out again ([`hook_log`]). Of a medium that is removed no body is logged any more, however late it is tried.
//!
//! Limits: [`WebhookConfig`]; each hook has those of `schemas/src/hook.rs`; a hook that could not go on does so after a second.

pub mod clock;
mod deliver;
mod feed;
pub mod hook_log;
mod hook_task;
mod ledger;
pub mod metrics;
mod outcomes;
mod settings;
#[cfg(test)]
mod tests;

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use nats::{Bus, BusError, ReaderStart, reader};
use outbound::{OutboundClient, OutboundConfig, OutboundError};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    hook::{HookRecord, HookRequests},
    ids::HookId,
    subjects,
};
use serde::{Deserialize, Serialize};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};
use webhooks::RetryPolicy;

use self::{
    clock::HookClock, deliver::Courier, feed::EventFeed, hook_task::HookTask, metrics::WebhookMetrics,
};

/// How soon a hook goes on that something kept from it.
const AGAIN: Duration = Duration::from_secs(1);

/// How long the mark of a removed hook stays.
const REMOVED_MARK: Duration = Duration::from_secs(3_600);

/// How long hooks may take to write down how far they are, when the keeper stops.
const STOP_TIME_MAX: Duration = Duration::from_secs(2);

/// Settings of webhooks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct WebhookConfig {
    /// Longest time of a delivery, from the look-up of the name to the end of the answer, in milliseconds.
    pub timeout_ms: u64,
    /// Most deliveries under way at once, of all hooks.
    #[schemars(range(min = 1, max = 1024))]
    pub in_flight_max: usize,
    /// Most deliveries under way at once of all hooks of an owner: slow receivers keep those of others waiting no longer than that.
    #[schemars(range(min = 1, max = 1024))]
    pub in_flight_per_owner_max: usize,
    /// Most deliveries under way at once of one hook; of one medium there is never more than one.
    #[schemars(range(min = 1, max = 64))]
    pub in_flight_per_hook_max: usize,
    /// Delay behind the first failure of a delivery, in milliseconds; it doubles from try to try.
    pub retry_delay_ms: u64,
    /// Longest delay between two tries, in milliseconds, also where a receiver asks for more by `Retry-After`.
    pub retry_delay_ms_max: u64,
    /// How long an event is tried before it is left out with an event, in milliseconds.
    pub tried_ms_max: u64,
    /// How long nothing but failures may come of a hook before it is paused, in milliseconds.
    pub failing_ms_max: u64,
    /// Hooks that read for themselves at once what they missed; the others wait for their turn.
    #[schemars(range(min = 1, max = 64))]
    pub catching_up_max: usize,
}

impl Default for WebhookConfig {
    fn default() -> Self {
        let policy = RetryPolicy::default();
        Self {
            timeout_ms: 15_000,
            in_flight_max: 32,
            in_flight_per_owner_max: 8,
            in_flight_per_hook_max: 4,
            retry_delay_ms: policy.delay_ms,
            retry_delay_ms_max: policy.delay_ms_max,
            tried_ms_max: policy.tried_ms_max,
            failing_ms_max: 5 * 24 * 3_600_000,
            catching_up_max: 8,
        }
    }
}

impl WebhookConfig {
    const fn retry_policy(&self) -> RetryPolicy {
        RetryPolicy {
            delay_ms: self.retry_delay_ms,
            delay_ms_max: self.retry_delay_ms_max,
            tried_ms_max: self.tried_ms_max,
        }
    }

    /// What deliveries may do, of what the operator lets addresses of users do.
    pub fn outbound_config(&self, outbound: &OutboundConfig) -> OutboundConfig {
        OutboundConfig {
            connect_timeout_ms: outbound.connect_timeout_ms.min(self.timeout_ms),
            head_timeout_ms: self.timeout_ms,
            idle_timeout_ms: self.timeout_ms,
            total_time_ms_max: self.timeout_ms,
            ..outbound.clone()
        }
    }
}

/// What webhooks need beside the bus.
#[derive(Debug, Clone)]
pub struct WebhookServices {
    /// Asks receivers.
    pub client: OutboundClient,
    /// Counts.
    pub metrics: WebhookMetrics,
    /// What time it is.
    pub clock: HookClock,
}

impl WebhookServices {
    /// Those of a keeper.
    ///
    /// # Errors
    /// [`OutboundError::Setup`] when the system's certificates can't be used.
    pub fn new(
        outbound: &OutboundConfig,
        config: &WebhookConfig,
        metrics: WebhookMetrics,
    ) -> Result<Self, OutboundError> {
        let client = OutboundClient::new(config.outbound_config(outbound))?;
        Ok(Self { client, metrics, clock: HookClock::broker() })
    }
}

/// Sends what hooks are to send until `held` fires.
pub async fn run_webhooks(
    bus: Bus,
    services: WebhookServices,
    config: WebhookConfig,
    held: CancellationToken,
) {
    let feed = loop {
        match EventFeed::open(bus.clone()).await {
            Ok(feed) => break feed,
            Err(error) => tracing::warn!(%error, "webhooks wait for the broker"),
        }
        tokio::select! {
            () = held.cancelled() => return,
            () = tokio::time::sleep(AGAIN) => {}
        }
    };
    let metrics = services.metrics.clone();
    let courier = Courier {
        bus: bus.clone(),
        client: services.client,
        metrics: services.metrics,
        clock: services.clock,
        places: Arc::new(Semaphore::new(config.in_flight_max)),
        owner_places: Arc::new(Semaphore::new(config.in_flight_per_owner_max)),
        turns: Arc::new(Semaphore::new(config.catching_up_max)),
        config: Arc::new(config),
    };
    let mut hooks = RunningHooks {
        courier,
        feed: feed.clone(),
        running: HashMap::new(),
        asked: HashMap::new(),
        owner_places: HashMap::new(),
    };
    tokio::select! {
        () = feed.run() => {}
        () = hooks.follow_bucket(&held) => {}
    }
    hooks.stop().await;
    metrics.clear();
}

/// A hook as it was written at a revision of the bucket.
#[derive(Debug)]
struct WatchedHook {
    record: Arc<HookRecord>,
    revision: u64,
}

/// A hook that runs.
#[derive(Debug)]
struct RunningHook {
    record: watch::Sender<Arc<WatchedHook>>,
    requests: watch::Sender<HookRequests>,
    stop: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// All hooks, by the bucket.
#[derive(Debug)]
struct RunningHooks {
    courier: Courier,
    feed: EventFeed,
    running: HashMap<HookId, RunningHook>,
    /// What is asked of hooks, also of those that are not known yet.
    asked: HashMap<HookId, HookRequests>,
    /// Places for deliveries, by the key of an owner that has hooks.
    owner_places: HashMap<String, Weak<Semaphore>>,
}

impl RunningHooks {
    /// Starts, changes and ends hooks as the bucket says, until `held` fires.
    async fn follow_bucket(&mut self, held: &CancellationToken) {
        let bucket = HookRecord::BUCKET;
        let settings = reader::ReaderConfig::new(
            subjects::kv_stream_name(bucket),
            ["hook.*.*", "requests.*"].map(|keys| subjects::kv_subject(bucket, keys)).to_vec(),
            ReaderStart::LastPerSubject,
        );
        let mut entries = self.courier.bus.follow_stream("webhooks", settings.clone());
        let mut clearing: JoinSet<()> = JoinSet::new();
        let prefix = subjects::kv_subject(bucket, "");
        loop {
            let entry = tokio::select! {
                () = held.cancelled() => return,
                entry = entries.next() => entry,
                Some(_) = clearing.join_next() => continue,
            };
            match entry {
                Ok(entry) => {
                    let Some(key) = entry.subject.strip_prefix(&prefix) else { continue };
                    if let Some(removed) = self.apply_entry(key, &entry.payload, entry.sequence) {
                        let (bus, held) = (self.courier.bus.clone(), held.clone());
                        clearing.spawn(async move { clear_hook(&bus, &removed, &held).await });
                    }
                }
                Err(error) => {
                    tracing::error!(%error, "webhooks are followed anew");
                    entries = self.courier.bus.follow_stream("webhooks", settings.clone());
                }
            }
        }
    }

    /// Takes in an entry of the bucket; answers a hook that was removed.
    fn apply_entry(&mut self, key: &str, payload: &[u8], revision: u64) -> Option<HookRecord> {
        // The mark of what has expired or was purged has no bytes.
        if payload.is_empty() {
            return None;
        }
        if key.starts_with("requests.") {
            match nats::decode_record::<HookRequests>(key, payload) {
                Ok((_, requests)) => self.apply_requests(requests),
                Err(error) => tracing::warn!(%error, key, "what is asked of a hook can't be read"),
            }
            return None;
        }
        let record = match nats::decode_record::<HookRecord>(key, payload) {
            Ok((_, record)) => record,
            Err(error) => {
                tracing::warn!(%error, key, "a hook can't be read, and sends nothing new");
                return None;
            }
        };
        if !record.is_removed() {
            self.apply_record(record, revision);
            return None;
        }
        // One that was given away runs below its other key.
        let is_same = |running: &RunningHook| running.record.borrow().record.owner_key == record.owner_key;
        if self.running.get(&record.hook_id).is_some_and(is_same) {
            self.running.remove(&record.hook_id);
            self.asked.remove(&record.hook_id);
            self.courier.metrics.forget(record.hook_id);
        }
        (!record.is_given_away).then_some(record)
    }

    fn apply_requests(&mut self, requests: HookRequests) {
        if let Some(running) = self.running.get(&requests.hook_id) {
            running.requests.send_replace(requests.clone());
        }
        self.asked.insert(requests.hook_id, requests);
    }

    fn apply_record(&mut self, record: HookRecord, revision: u64) {
        let hook_id = record.hook_id;
        let owner_places = self.find_owner_places(&record.owner_key);
        let watched = Arc::new(WatchedHook { record: Arc::new(record), revision });
        if let Some(running) = self.running.get(&hook_id) {
            let is_given = running.record.borrow().record.owner_key != watched.record.owner_key;
            if !is_given {
                running.record.send_replace(watched);
                return;
            }
            // What is under way is of its owner of before, and so are the places.
            self.running.remove(&hook_id);
        }
        let courier = Courier { owner_places, ..self.courier.clone() };
        let asked = self.asked.get(&hook_id).cloned().unwrap_or_else(|| HookRequests::new(hook_id));
        let (record, records) = watch::channel(watched);
        let (requests, asked) = watch::channel(asked);
        let stop = CancellationToken::new();
        let task = HookTask::new(courier, self.feed.clone(), records, asked, stop.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(task.run()));
        self.running.insert(hook_id, RunningHook { record, requests, stop, task });
    }

    /// The places that the hooks of an owner share.
    fn find_owner_places(&mut self, owner_key: &str) -> Arc<Semaphore> {
        if let Some(places) = self.owner_places.get(owner_key).and_then(Weak::upgrade) {
            return places;
        }
        self.owner_places.retain(|_, places| places.strong_count() > 0);
        let places = Arc::new(Semaphore::new(self.courier.config.in_flight_per_owner_max));
        self.owner_places.insert(owner_key.to_owned(), Arc::downgrade(&places));
        places
    }

    /// Lets all hooks write down how far they are.
    async fn stop(self) {
        for running in self.running.values() {
            running.stop.cancel();
        }
        let ending = futures::future::join_all(self.running.into_values().map(|running| running.task));
        if tokio::time::timeout(STOP_TIME_MAX, ending).await.is_err() {
            tracing::warn!("not all hooks wrote down how far they are: what they sent last is sent again");
        }
    }
}

/// Removes what is left of a hook: its log, and its records, the tombstone last, so that a crash anywhere repeats the rest.
async fn clear_hook(bus: &Bus, removed: &HookRecord, held: &CancellationToken) {
    loop {
        match try_clear_hook(bus, removed).await {
            Ok(()) => return tracing::info!(hook.id = %removed.hook_id, "a hook is cleared"),
            Err(error) => tracing::warn!(%error, hook.id = %removed.hook_id, "a hook is cleared later"),
        }
        tokio::select! {
            () = held.cancelled() => return,
            () = tokio::time::sleep(AGAIN * 5) => {}
        }
    }
}

async fn try_clear_hook(bus: &Bus, removed: &HookRecord) -> Result<(), BusError> {
    let id = removed.hook_id.to_string();
    hook_log::remove_hook_log(bus, removed.hook_id).await?;
    let tombstone = removed.key();
    for key in
        [schemas::hook::hook_progress_key(&id), schemas::hook::hook_requests_key(&id), tombstone.clone()]
    {
        if key == tombstone {
            // What was under way when it was removed may have been logged since.
            hook_log::remove_hook_log(bus, removed.hook_id).await?;
        }
        // Its events first: they would be lost with the record.
        bus.sweep_record(HookRecord::BUCKET, &key).await?;
        if bus.read_value(HookRecord::BUCKET, &key).await?.is_some_and(|found| found.value.is_some()) {
            bus.purge_key(HookRecord::BUCKET, &key, REMOVED_MARK).await?;
        }
    }
    Ok(())
}

//! Follows the entries of the bucket: what others changed is forgotten, what owners have is counted, and ticks prove that nothing is
//! missed.
//!
//! Limits: one tick at a time, begun at most once in [`TICK_PERIOD`]; one that does not come back in [`COHERENT_MAX`] is given up.

use std::time::{Duration, Instant};

use futures::{StreamExt, stream::FuturesUnordered};
use nats::{Bus, BusError, ReaderStart, reader};
use schemas::{
    KvRecord as _,
    cached::{self, CacheEpoch, CacheFlush, CacheTick},
    subjects,
};
use tokio_util::sync::CancellationToken;

use super::CachedEntries;
use crate::coherent_memory::COHERENT_MAX;

/// How often a tick is written.
const TICK_PERIOD: Duration = Duration::from_secs(1);

/// How often the broker has to send something.
const HEARTBEAT: Duration = Duration::from_millis(600);

/// A tick on its way: memory is proven once it was written, and came back.
struct SentTick {
    number: u64,
    begun: Instant,
    /// The epoch, once the broker has confirmed the tick.
    epoch: Option<u64>,
    is_back: bool,
}

/// What of a subject of the bucket is changed.
enum ChangedKey<'a> {
    Entry(&'a str),
    Flush,
    Other(&'a str),
}

impl CachedEntries {
    /// Follows until `shutdown`; a broker that is away is waited for. Calls `on_clear` when everything was cleared.
    ///
    /// # Errors
    /// None at present.
    pub async fn run(
        &self,
        bus: &Bus,
        on_clear: impl Fn() + Send + Sync,
        shutdown: CancellationToken,
    ) -> Result<(), BusError> {
        let filters = vec![subjects::kv_subject(cached::BUCKET, ">")];
        let stream = subjects::kv_stream_name(cached::BUCKET);
        let config = reader::ReaderConfig {
            heartbeat: HEARTBEAT,
            is_headers_only: true,
            ..reader::ReaderConfig::new(stream, filters, ReaderStart::LastPerSubject)
        };
        while !shutdown.is_cancelled() {
            self.tally.clear();
            self.memory.lose();
            // A hint for readiness it is not: without it the leader is asked.
            let mut entries = bus.follow_stream_hints("cache", config.clone());
            self.follow(bus, &mut entries, &on_clear, &shutdown).await;
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(TICK_PERIOD) => {}
            }
        }
        self.memory.lose();
        Ok(())
    }

    /// Until `shutdown`, or the bucket is another one of the same name.
    async fn follow(
        &self,
        bus: &Bus,
        entries: &mut reader::StreamReader,
        on_clear: &(impl Fn() + Send + Sync),
        shutdown: &CancellationToken,
    ) {
        let replica = data_encoding::HEXLOWER.encode(&nats::new_id_bytes());
        let mut following = entries.status();
        let mut ticks = tokio::time::interval(TICK_PERIOD);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut sent: Option<SentTick> = None;
        let mut writing = FuturesUnordered::new();
        let mut number = 0;
        loop {
            tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                () = following.wait_for_change() => if !following.is_following() {
                    self.memory.lose();
                    sent = None;
                },
                entry = entries.next() => match entry {
                    Ok(entry) => self.apply(&entry, &replica, &mut sent, on_clear),
                    Err(error) => return tracing::warn!(%error, "entries of the cache are followed anew"),
                },
                Some((number, written)) = writing.next(), if !writing.is_empty() => match (written, &mut sent) {
                    (Ok(epoch), Some(tick)) if tick.number == number => tick.epoch = Some(epoch),
                    (Ok(_), _) => {}
                    (Err(error), _) => {
                        let error: BusError = error;
                        tracing::debug!(%error, "the cache asks the leader until ticks are written again");
                    }
                },
                _ = ticks.tick() => {
                    self.tally.drop_ended(nats::estimated_broker_now_ms());
                    let is_free = sent.as_ref().is_none_or(|tick| tick.begun.elapsed() >= COHERENT_MAX);
                    if is_free && self.memory.is_used() && following.is_following() {
                        number += 1;
                        sent = Some(SentTick { number, begun: Instant::now(), epoch: None, is_back: false });
                        writing.push(write_tick(bus, replica.clone(), number));
                    }
                }
            }
            if let Some(SentTick { begun, epoch: Some(epoch), is_back: true, .. }) = sent {
                if self.memory.prove(begun, epoch) {
                    on_clear();
                }
                sent = None;
            }
        }
    }

    fn apply(
        &self,
        entry: &reader::StreamEntry,
        replica: &str,
        sent: &mut Option<SentTick>,
        on_clear: &(impl Fn() + Send + Sync),
    ) {
        match find_changed_key(&entry.subject) {
            ChangedKey::Entry(key) => {
                self.memory.forget(key);
                let Some(digests) = cached::parse_entry_key(key) else { return };
                if entry.is_removal() {
                    self.tally.remove(digests);
                } else {
                    let kept_ms = entry.time_to_live_ms().unwrap_or(cached::TTL_S_MAX * 1_000);
                    let expires_at_ms = entry.stored_at_ms.saturating_add(kept_ms);
                    self.tally.note(digests, entry.payload_bytes(), expires_at_ms);
                }
            }
            ChangedKey::Flush => {
                self.memory.forget_all();
                // They take room until their time is over, and count for nobody.
                self.tally.clear();
                on_clear();
            }
            ChangedKey::Other(key) => {
                if let Some(tick) = sent
                    && key
                        == (CacheTick { replica: replica.to_owned(), number: tick.number, written_at_ms: 0 })
                            .key()
                {
                    tick.is_back = true;
                }
            }
        }
    }
}

fn find_changed_key(subject: &str) -> ChangedKey<'_> {
    let key = subject.strip_prefix(&subjects::kv_subject(cached::BUCKET, "")).unwrap_or_default();
    if key == CacheFlush::KEY {
        ChangedKey::Flush
    } else if cached::parse_entry_key(key).is_some() {
        ChangedKey::Entry(key)
    } else {
        ChangedKey::Other(key)
    }
}

/// Writes a tick; answers its number, and the epoch that was there before it was written.
async fn write_tick(bus: &Bus, replica: String, number: u64) -> (u64, Result<u64, BusError>) {
    let written = async {
        // Times of entries are the broker's: how far this host's clock is off is looked at again and again.
        bus.broker_now_ms(&subjects::kv_stream_name(cached::BUCKET)).await?;
        let epoch = super::load_epoch(bus).await?;
        let tick = CacheTick { replica, number, written_at_ms: nats::now_ms() };
        bus.put_live_record(&tick, Duration::from_millis(CacheTick::KEPT_MS)).await?;
        Ok(epoch)
    };
    (number, written.await)
}

/// Reads how often everything was cleared.
pub(super) async fn load_epoch(bus: &Bus) -> Result<u64, BusError> {
    let found = bus.load_record::<CacheEpoch>(CacheEpoch::KEY).await?;
    Ok(found.map(|held| held.record.epoch).unwrap_or_default())
}

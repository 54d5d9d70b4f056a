//! The timer of the schedules: follows their records, and does what is due.
//!
//! Limits: [`AT_ONCE_MAX`] schedules at a time; one that could not be fired is tried again after [`RETRY_MS`].

use std::{collections::HashMap, time::Duration};

use futures::StreamExt as _;
use ingress::schedules::firing::ScheduleRunner;
use nats::{Bus, BusError, ReaderStart, reader};
use schemas::{KvRecord as _, schedule::ScheduleRecord, subjects};
use store::Store;
use tokio_util::sync::CancellationToken;

use super::KeeperConfig;

/// Schedules that are fired at the same time.
pub const AT_ONCE_MAX: usize = 16;

/// After how long a schedule is looked at again that an outage kept from firing, or whose run somebody else is beginning, in
/// milliseconds.
pub const RETRY_MS: u64 = 5_000;

/// Longest time between two looks at the broker's clock, in milliseconds: it may be set.
const LOOK_MS_MAX: u64 = 30_000;

/// Fires schedules until `held` fires.
pub async fn run_schedules(bus: Bus, store: Store, config: KeeperConfig, held: CancellationToken) {
    let runner = ScheduleRunner { bus: bus.clone(), store, ended_kept_ms: config.ended_kept_ms };
    let mut timer = ScheduleTimer::new(runner);
    let settings = reader::ReaderConfig::new(
        subjects::kv_stream_name(ScheduleRecord::BUCKET),
        vec![subjects::kv_subject(ScheduleRecord::BUCKET, ">")],
        ReaderStart::LastPerSubject,
    );
    let mut entries = bus.follow_stream("schedules", settings.clone());
    let mut wait_ms = 0;
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            entry = entries.next() => {
                match entry {
                    Ok(entry) => timer.follow(&entry.subject, &entry.payload),
                    Err(error) => {
                        tracing::error!(%error, "schedules are followed anew");
                        entries = bus.follow_stream("schedules", settings.clone());
                    }
                }
                wait_ms = timer.wait_ms(nats::estimated_broker_now_ms());
            }
            () = tokio::time::sleep(Duration::from_millis(wait_ms)) => {
                wait_ms = match run_turn(&bus, &mut timer).await {
                    Ok(next_ms) => next_ms,
                    Err(error) => {
                        tracing::warn!(%error, "schedules can't be looked at");
                        RETRY_MS
                    }
                };
            }
        }
    }
}

/// Does what is due by the broker's clock; answers for how long nothing is.
async fn run_turn(bus: &Bus, timer: &mut ScheduleTimer) -> Result<u64, BusError> {
    // Not by this host's clock: one that is ahead would fire early.
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(ScheduleRecord::BUCKET)).await?;
    timer.run_due(now_ms).await;
    Ok(timer.wait_ms(now_ms))
}

/// When which schedule is to be looked at. What it remembers decides nothing: the records do.
#[derive(Debug)]
pub struct ScheduleTimer {
    runner: ScheduleRunner,
    /// Unix time in milliseconds by the broker's clock, by key.
    due_ms: HashMap<String, u64>,
}

impl ScheduleTimer {
    /// A timer that knows no schedule.
    pub fn new(runner: ScheduleRunner) -> Self {
        Self { runner, due_ms: HashMap::new() }
    }

    /// Takes note of an entry of the bucket.
    pub fn follow(&mut self, subject: &str, payload: &[u8]) {
        let prefix = subjects::kv_subject(ScheduleRecord::BUCKET, "");
        let Some(key) = subject.strip_prefix(&prefix) else { return };
        match nats::decode_record::<ScheduleRecord>(key, payload) {
            Ok((_, record)) => self.remember(key, Some(&record)),
            Err(error) => {
                // Also the mark of one that has expired, which has no bytes.
                if !payload.is_empty() {
                    tracing::warn!(%error, key, "a schedule can't be read, and does not fire");
                }
                self.due_ms.remove(key);
            }
        }
    }

    fn remember(&mut self, key: &str, record: Option<&ScheduleRecord>) {
        match record.and_then(find_next_look) {
            Some(at_ms) => {
                self.due_ms.insert(key.to_owned(), at_ms);
            }
            None => {
                self.due_ms.remove(key);
            }
        }
    }

    /// Milliseconds from `now_ms` until a schedule is to be looked at, at most until the clock is.
    pub fn wait_ms(&self, now_ms: u64) -> u64 {
        let next_ms = self.due_ms.values().min().copied().unwrap_or(u64::MAX);
        next_ms.saturating_sub(now_ms).min(LOOK_MS_MAX)
    }

    /// Does everything that is due at `now_ms`, each missed time, too.
    pub async fn run_due(&mut self, now_ms: u64) {
        loop {
            let due: Vec<String> =
                self.due_ms.iter().filter(|(_, ms)| **ms <= now_ms).map(|(key, _)| key.clone()).collect();
            if due.is_empty() {
                return;
            }
            let runner = &self.runner;
            let fired: Vec<_> = futures::stream::iter(due)
                .map(|key| async move {
                    let fired = runner.run_due(&key, now_ms).await;
                    (key, fired)
                })
                .buffer_unordered(AT_ONCE_MAX)
                .collect()
                .await;
            for (key, fired) in fired {
                match fired {
                    Ok(record) => {
                        let before_ms = self.due_ms.get(&key).copied();
                        self.remember(&key, record.as_ref());
                        // What only a newer version understands is left to it.
                        if self.due_ms.get(&key).copied() == before_ms {
                            self.due_ms.insert(key, now_ms.saturating_add(RETRY_MS));
                        }
                    }
                    Err(error) => {
                        tracing::warn!(%error, key, "a schedule is fired later");
                        self.due_ms.insert(key, now_ms.saturating_add(RETRY_MS));
                    }
                }
            }
        }
    }
}

/// When a schedule is to be looked at next, in Unix milliseconds.
fn find_next_look(record: &ScheduleRecord) -> Option<u64> {
    // Who fired it is beginning its job; if nobody has by then, it is up to us.
    if let Some(run) = record.starting_run() {
        return Some(run.fired_at_ms.saturating_add(RETRY_MS));
    }
    record.next_run_ms.filter(|_| record.paused_at_ms.is_none() && !schemas::KvRecord::is_removed(record))
}

//! The timer of the schedules: follows their records, and does what is due.
//!
//! Limits: [`AT_ONCE_MAX`] schedules at a time; one that could not be fired is tried again after [`RETRY_MS`].

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use futures::StreamExt as _;
use ingress::{
    capacity::CapacityMonitor,
    jobs::retry::NextEncodeError,
    schedules::firing::{ScheduleLook, ScheduleRunner},
};
use nats::{Bus, BusError, ReaderStart, reader};
use schemas::{KvRecord as _, schedule::ScheduleRecord, subjects};
use store::Store;
use tokio_util::sync::CancellationToken;

use super::KeeperConfig;

#[cfg(test)]
mod tests;

/// Schedules that are fired at the same time.
pub const AT_ONCE_MAX: usize = 16;

/// After how long a schedule is looked at again that an outage kept from firing, or whose run somebody else is beginning, in
/// milliseconds.
pub const RETRY_MS: u64 = 5_000;

/// How long beginning the jobs of a turn may take: what is due meanwhile waits, and counts as missed after a minute.
const BEGIN_ALL_TIME_MAX: Duration = Duration::from_secs(20);

/// How long beginning a job may take before it is left for later.
const BEGIN_TIME_MAX: Duration = Duration::from_secs(10);

/// Longest time between two looks at the broker's clock, in milliseconds: it may be set.
const LOOK_MS_MAX: u64 = 30_000;

/// Fires schedules until `held` fires.
pub async fn run_schedules(bus: Bus, store: Store, config: KeeperConfig, held: CancellationToken) {
    let capacity = CapacityMonitor::new(bus.clone(), store.clone(), config.capacity, &config.uploads);
    let quotas = config.uploads.quotas.clone();
    let ended_kept_ms = config.ended_kept_ms;
    let runner = ScheduleRunner { bus: bus.clone(), store, capacity, quotas, ended_kept_ms };
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
                // A turn that is cut short is one of a keeper that ended: the next one goes on from the records.
                let turn = tokio::select! {
                    () = held.cancelled() => return,
                    turn = run_turn(&bus, &mut timer) => turn,
                };
                wait_ms = turn.unwrap_or_else(|error| {
                    tracing::warn!(%error, "schedules can't be looked at");
                    RETRY_MS
                });
            }
        }
    }
}

/// Does what is due by the broker's clock; answers for how long nothing is.
async fn run_turn(bus: &Bus, timer: &mut ScheduleTimer) -> Result<u64, BusError> {
    // Not by this host's clock: one that is ahead would fire early.
    let now_ms = bus.broker_now_ms(&subjects::kv_stream_name(ScheduleRecord::BUCKET)).await?;
    let began = Instant::now();
    timer.run_due(now_ms).await;
    let took_ms = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    Ok(timer.wait_ms(now_ms.saturating_add(took_ms)))
}

/// When which schedule is to be looked at. What it remembers decides nothing: the records do.
#[derive(Debug)]
pub struct ScheduleTimer {
    runner: ScheduleRunner,
    /// Unix time in milliseconds by the broker's clock, by key.
    due_at_ms: HashMap<String, u64>,
}

impl ScheduleTimer {
    /// A timer that knows no schedule.
    pub fn new(runner: ScheduleRunner) -> Self {
        Self { runner, due_at_ms: HashMap::new() }
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
                self.due_at_ms.remove(key);
            }
        }
    }

    fn remember(&mut self, key: &str, record: Option<&ScheduleRecord>) {
        match record.and_then(find_next_look) {
            Some(at_ms) => {
                self.due_at_ms.insert(key.to_owned(), at_ms);
            }
            None => {
                self.due_at_ms.remove(key);
            }
        }
    }

    /// Milliseconds from `now_ms` until a schedule is to be looked at, at most until the clock is.
    pub fn wait_ms(&self, now_ms: u64) -> u64 {
        let next_ms = self.due_at_ms.values().min().copied().unwrap_or(u64::MAX);
        next_ms.saturating_sub(now_ms).min(LOOK_MS_MAX)
    }

    /// Does what is due at `now_ms`, one run of each schedule: a schedule that makes up for many keeps no other one waiting. All fire
    /// before the first job is begun, since that may take as long as the store lets it.
    pub async fn run_due(&mut self, now_ms: u64) {
        let due: Vec<String> =
            self.due_at_ms.iter().filter(|(_, ms)| **ms <= now_ms).map(|(key, _)| key.clone()).collect();
        let runner = &self.runner;
        let fired: Vec<_> = futures::stream::iter(due)
            .map(|key| async move {
                let fired = runner.fire_due(&key, now_ms).await;
                (key, fired)
            })
            .buffer_unordered(AT_ONCE_MAX)
            .collect()
            .await;
        let mut starting = Vec::new();
        for (key, fired) in fired {
            match fired {
                Ok(ScheduleLook::Gone) => {
                    self.due_at_ms.remove(&key);
                }
                Ok(ScheduleLook::Fired(record)) => {
                    self.remember(&key, Some(&record));
                    starting.extend(Some(record).filter(|record| record.starting_run().is_some()));
                }
                Ok(ScheduleLook::Left(record))
                    if record.starting_run().is_some() && !record.is_of_newer_version() =>
                {
                    starting.push(record);
                }
                Ok(ScheduleLook::Left(record)) => {
                    self.remember(&key, Some(&record));
                    // Only a newer version understands it.
                    if let Some(at_ms) = self.due_at_ms.get_mut(&key) {
                        *at_ms = (*at_ms).max(now_ms.saturating_add(RETRY_MS));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, key, "a schedule is fired later");
                    self.due_at_ms.insert(key, now_ms.saturating_add(RETRY_MS));
                }
            }
        }
        if !starting.is_empty() {
            let beginning = self.begin_jobs(starting, now_ms);
            if tokio::time::timeout(BEGIN_ALL_TIME_MAX, beginning).await.is_err() {
                tracing::warn!(
                    "not all jobs of schedules could be begun in time: the others are begun later"
                );
            }
        }
    }

    /// Begins the jobs of runs that are starting, until the store or the broker is found to be away.
    async fn begin_jobs(&mut self, mut starting: Vec<ScheduleRecord>, now_ms: u64) {
        self.runner.capacity.poll_limits().await;
        // Those first that were not tried yet.
        let fired_at_ms = |record: &ScheduleRecord| record.starting_run().map(|run| run.fired_at_ms);
        starting.sort_unstable_by_key(|record| std::cmp::Reverse(fired_at_ms(record)));
        for record in &starting {
            self.due_at_ms.insert(record.key(), now_ms.saturating_add(RETRY_MS));
        }
        let runner = self.runner.clone();
        let mut begun = futures::stream::iter(starting)
            .map(|record| {
                let runner = &runner;
                async move {
                    let finishing = runner.finish_run(&record, now_ms);
                    let finished = tokio::time::timeout(BEGIN_TIME_MAX, finishing).await;
                    (record.key(), finished)
                }
            })
            .buffer_unordered(AT_ONCE_MAX);
        while let Some((key, finished)) = begun.next().await {
            match finished {
                // A newer version came meanwhile, and goes on from there.
                Ok(Ok(record)) if record.starting_run().is_some() => {}
                Ok(Ok(record)) => self.remember(&key, Some(&record)),
                Ok(Err(error)) => {
                    tracing::warn!(%error, key, "the job of a schedule is begun later");
                    if matches!(
                        error,
                        NextEncodeError::Store(_)
                            | NextEncodeError::NoRoom(_)
                            | NextEncodeError::Bus(BusError::Unavailable(_))
                    ) {
                        return;
                    }
                }
                Err(_) => {
                    tracing::warn!(
                        key,
                        "the job of a schedule is begun later: its source can't be looked at in time"
                    );
                    return;
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
    record.next_run_at_ms.filter(|_| record.paused_at_ms.is_none() && !record.is_removed())
}

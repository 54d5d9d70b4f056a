//! Polling: the state of streams, durables, dead letters and the audit, in a handful of requests.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{
    consumer,
    stream::{self, RawMessageErrorKind},
};
use futures::{StreamExt, TryStreamExt};
use nats::{Bus, BusError};
use schemas::subjects;
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    MonitorConfig, MonitorMetrics, measure,
    stats::{DurableStats, PollResult, StreamStats},
};

/// What earlier polls found.
#[derive(Debug, Default)]
struct PollCache {
    /// The last poll: what can't be read now is as it was.
    polled: PollResult,
    dead: Option<PolledDeadLetters>,
    audited: Option<AuditedPosition>,
}

/// First and last sequence of DEAD, and the letters counted then.
type PolledDeadLetters = ((u64, u64), BTreeMap<String, u64>);

/// Last sequence of AUDIT, and where its last record came from.
type AuditedPosition = (u64, LastRecordSource);

/// Where the last record of the log came from.
type LastRecordSource = schemas::audit::AuditSource;

/// Messages of AUDIT that are looked at for a record, from the last one backwards.
const TAIL_MAX: u64 = 32;
/// Streams whose durables are read at once.
const READS_MAX: usize = 8;

struct BrokerPoller<'a> {
    bus: &'a Bus,
    config: &'a MonitorConfig,
    now_ms: u64,
}

/// Polls every [`MonitorConfig::poll_ms`] until `shutdown`. A poll that fails or takes too long is a metric, nothing more.
pub(crate) async fn poll_broker(
    bus: Bus,
    config: MonitorConfig,
    metrics: MonitorMetrics,
    shutdown: CancellationToken,
) {
    let mut ticks = interval(Duration::from_millis(config.poll_ms.max(100)));
    // Polls that were late must not follow each other in a burst on a broker that was away.
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let limit = Duration::from_millis(config.poll_timeout_ms);
    let mut memory = PollCache::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let poll = BrokerPoller { bus: &bus, config: &config, now_ms: nats::estimated_broker_now_ms() };
        let now_ms = poll.now_ms;
        let polled = tokio::select! {
            () = shutdown.cancelled() => return,
            polled = timeout(limit, poll.poll_all(&mut memory)) => polled,
        };
        match polled {
            Ok(Ok(polled)) => {
                for unread in &polled.unread {
                    tracing::warn!(unread, "a part of the broker's state can't be read");
                }
                metrics.record_poll(polled, bus.dropped_count(), now_ms);
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the broker's state can't be read");
                metrics.record_poll_failure();
            }
            Err(_) => {
                tracing::warn!(limit_ms = config.poll_timeout_ms, "the broker's state takes too long");
                metrics.record_poll_failure();
            }
        }
    }
}

impl BrokerPoller<'_> {
    async fn poll_all(&self, memory: &mut PollCache) -> Result<PollResult, BusError> {
        let mut infos: Vec<stream::Info> = self
            .bus
            .context()
            .streams()
            .take(self.config.streams_max)
            .try_collect()
            .await
            .map_err(BusError::unavailable)?;
        infos.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        let mut polled =
            PollResult { streams: infos.iter().map(to_stream_stats).collect(), ..PollResult::default() };
        let PollCache { polled: last, dead, audited } = memory;
        let (durables, letters, lag) = tokio::join!(
            self.read_all_durables(&infos),
            self.read_with_timeout(self.count_dead_letters(&infos, dead)),
            self.read_with_timeout(self.measure_audit_lag(&infos, audited)),
        );
        for (name, found) in durables {
            match found {
                Ok(found) => polled.durables.extend(found),
                Err(error) => {
                    // What can't be read stays as it was: a gauge that falls to 0 would look like an empty queue.
                    polled.durables.extend(last.durables.iter().filter(|d| d.stream == name).cloned());
                    polled.unread.push(format!("durables of {name}: {error}"));
                }
            }
        }
        polled.durables.truncate(self.config.durables_max);
        polled.dead_letters = letters.unwrap_or_else(|error| {
            polled.unread.push(format!("dead letters: {error}"));
            last.dead_letters.clone()
        });
        (polled.audit_lag_events, polled.audit_lag_seconds) = lag.unwrap_or_else(|error| {
            polled.unread.push(format!("audit: {error}"));
            (last.audit_lag_events, last.audit_lag_seconds)
        });
        *last = polled.clone();
        Ok(polled)
    }

    /// Half of a poll's time for one read, so that a read that is refused, which nobody answers, leaves time for the rest.
    async fn read_with_timeout<T>(
        &self,
        read: impl Future<Output = Result<T, BusError>>,
    ) -> Result<T, BusError> {
        // Half of a poll: one read that nobody answers must not take the others' time.
        let limit = Duration::from_millis(self.config.poll_timeout_ms / 2);
        timeout(limit, read).await.unwrap_or_else(|elapsed| Err(BusError::unavailable(elapsed)))
    }

    /// The durables of each stream that has consumers, or why they can't be read.
    async fn read_all_durables(
        &self,
        infos: &[stream::Info],
    ) -> Vec<(String, Result<Vec<DurableStats>, BusError>)> {
        let mut names = Vec::new();
        for info in infos {
            if info.state.consumer_count > 0 {
                names.push(info.config.name.clone());
            }
        }
        let mut all = Vec::new();
        for names in names.chunks(READS_MAX) {
            let mut reads = Vec::new();
            for name in names {
                reads.push(self.read_with_timeout(self.read_durables(name)));
            }
            all.extend(names.iter().cloned().zip(futures::future::join_all(reads).await));
        }
        all
    }

    async fn read_durables(&self, name: &str) -> Result<Vec<DurableStats>, BusError> {
        let stream = self.bus.context().get_stream_no_info(name).await.map_err(BusError::unavailable)?;
        let mut infos: Vec<consumer::Info> = stream
            .consumers()
            .try_filter(|info| std::future::ready(info.config.durable_name.is_some()))
            .take(self.config.durables_max)
            .try_collect()
            .await
            .map_err(BusError::unavailable)?;
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        let mut found = Vec::new();
        for info in infos {
            let oldest_age_seconds = self.oldest_age(&stream, &info).await?;
            found.push(DurableStats {
                stream: name.to_owned(),
                durable: info.name,
                pending: info.num_pending,
                unacknowledged: info.num_ack_pending as u64,
                unacknowledged_limit: u64::try_from(info.config.max_ack_pending).unwrap_or(0),
                redelivered: info.num_redelivered as u64,
                waiting_pulls: info.num_waiting as u64,
                oldest_age_seconds,
            });
        }
        Ok(found)
    }

    /// Age of the first message behind the ack floor that the durable is for.
    async fn oldest_age(&self, stream: &stream::Stream<()>, info: &consumer::Info) -> Result<f64, BusError> {
        if info.num_pending == 0 && info.num_ack_pending == 0 {
            return Ok(0.0);
        }
        let mut filters = info.config.filter_subjects.clone();
        if !info.config.filter_subject.is_empty() {
            filters.push(info.config.filter_subject.clone());
        }
        if filters.is_empty() {
            filters.push(subjects::ALL.into());
        }
        let mut oldest_ms = self.now_ms;
        for filter in filters {
            if let Some(ms) = stored_at_ms(stream, &filter, info.ack_floor.stream_sequence + 1).await? {
                oldest_ms = oldest_ms.min(ms);
            }
        }
        Ok(measure::age_seconds(self.now_ms, oldest_ms))
    }

    /// Dead letters that wait for somebody, by stage; asked for only when DEAD changed, because the answer names every subject.
    async fn count_dead_letters(
        &self,
        infos: &[stream::Info],
        memory: &mut Option<PolledDeadLetters>,
    ) -> Result<BTreeMap<String, u64>, BusError> {
        let Some(info) = infos.iter().find(|info| info.config.name == subjects::DEAD) else {
            return Ok(BTreeMap::new());
        };
        let ends = (info.state.first_sequence, info.state.last_sequence);
        if let Some((known, letters)) = &*memory
            && *known == ends
        {
            return Ok(letters.clone());
        }
        let stream =
            self.bus.context().get_stream_no_info(subjects::DEAD).await.map_err(BusError::unavailable)?;
        let mut subjects =
            stream.info_with_subjects(subjects::DEAD_ALL).await.map_err(BusError::unavailable)?;
        let mut found = Vec::new();
        while let Some(subject) = subjects.next().await {
            found.push(subject.map_err(BusError::unavailable)?);
        }
        let waiting = measure::count_waiting_letters(&found, info.state.first_sequence);
        let letters = measure::limit_series(waiting, self.config.dead_stages_max);
        *memory = Some((ends, letters.clone()));
        Ok(letters)
    }

    /// Events behind the last audited one, and the age of the first of them.
    async fn measure_audit_lag(
        &self,
        infos: &[stream::Info],
        memory: &mut Option<AuditedPosition>,
    ) -> Result<(u64, f64), BusError> {
        let find = |name: &str| infos.iter().find(|info| info.config.name == name);
        let (Some(events), Some(audit)) = (find(subjects::EVENTS), find(subjects::AUDIT)) else {
            return Ok((0, 0.0));
        };
        let audit_last = audit.state.last_sequence;
        // When the log ends with messages that are no records, it is where it was.
        if memory.as_ref().is_none_or(|(sequence, _)| *sequence != audit_last)
            && let Some(source) = self.read_last_source(audit_last).await?
        {
            *memory = Some((audit_last, source));
        }
        let events_last = events.state.last_sequence;
        // Of a log of another stream nothing counts: every event waits.
        let audited = memory.as_ref().map_or(0, |(_, source)| {
            let is_other = source.epoch.as_ref().is_some_and(|epoch| *epoch != format_epoch(events));
            if is_other || source.sequence > events_last { 0 } else { source.sequence }
        });
        let lag = events_last.saturating_sub(audited);
        if lag == 0 {
            return Ok((0, 0.0));
        }
        let stream =
            self.bus.context().get_stream_no_info(subjects::EVENTS).await.map_err(BusError::unavailable)?;
        let oldest_ms = stored_at_ms(&stream, subjects::EVENTS_ALL, audited + 1).await?;
        Ok((lag, oldest_ms.map_or(0.0, |ms| measure::age_seconds(self.now_ms, ms))))
    }

    /// Where the last record of AUDIT came from, whatever else lies behind it.
    async fn read_last_source(&self, audit_last: u64) -> Result<Option<LastRecordSource>, BusError> {
        #[derive(Deserialize)]
        struct Line {
            source: LastRecordSource,
        }
        let stream =
            self.bus.context().get_stream_no_info(subjects::AUDIT).await.map_err(BusError::unavailable)?;
        for n in (audit_last.saturating_sub(TAIL_MAX)..audit_last).rev() {
            match stream.get_raw_message(n + 1).await {
                Ok(message) => {
                    if let Ok(line) = serde_json::from_slice::<Line>(&message.payload) {
                        return Ok(Some(line.source));
                    }
                }
                Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => {}
                Err(error) => return Err(BusError::unavailable(error)),
            }
        }
        Ok(None)
    }
}

/// How an audit record names the life of EVENTS.
fn format_epoch(events: &stream::Info) -> String {
    format!("{:x}", events.created.unix_timestamp_nanos() / 1_000_000)
}

fn to_stream_stats(info: &stream::Info) -> StreamStats {
    let limit_bytes = u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0);
    StreamStats {
        stream: info.config.name.clone(),
        messages: info.state.messages,
        size_bytes: info.state.bytes,
        limit_bytes,
        discards_old: info.config.discard == stream::DiscardPolicy::Old,
        fill_ratio: measure::fill_ratio(info.state.bytes, limit_bytes),
        first_sequence: info.state.first_sequence,
        last_sequence: info.state.last_sequence,
    }
}

/// When the first message of `filter` at or behind `sequence` was stored; `None` when there is none.
async fn stored_at_ms(
    stream: &stream::Stream<()>,
    filter: &str,
    sequence: u64,
) -> Result<Option<u64>, BusError> {
    match stream.get_first_raw_message_by_subject(filter, sequence).await {
        Ok(message) => Ok(Some(u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(BusError::unavailable(error)),
    }
}

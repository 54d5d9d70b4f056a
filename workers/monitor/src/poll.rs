//! Polling: the state of streams, durables, dead letters and the audit, in a handful of requests.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{
    consumer,
    stream::{self, LastRawMessageErrorKind, RawMessageErrorKind},
};
use futures::{StreamExt, TryStreamExt};
use nats::{Bus, Error};
use schemas::subjects;
use serde::Deserialize;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    Config, Metrics, measure,
    metrics::{Durable, Stream},
};

/// What one poll found.
#[derive(Debug, Clone, Default)]
pub(crate) struct Polled {
    pub(crate) streams: Vec<Stream>,
    pub(crate) durables: Vec<Durable>,
    pub(crate) dead_letters: BTreeMap<String, u64>,
    pub(crate) audit_lag_events: u64,
    pub(crate) audit_lag_seconds: f64,
}

/// Answers that only change with their stream.
#[derive(Debug, Default)]
struct Memory {
    /// First and last sequence of DEAD, and the letters counted then.
    dead: Option<((u64, u64), BTreeMap<String, u64>)>,
    /// Last sequence of AUDIT, and the source sequence of its last record.
    audited: Option<(u64, u64)>,
}

struct Poll<'a> {
    bus: &'a Bus,
    config: &'a Config,
    now_ms: u64,
}

/// Polls every [`Config::poll_ms`] until `shutdown`. A poll that fails or takes too long is a metric, nothing more.
pub(crate) async fn run(bus: Bus, config: Config, metrics: Metrics, shutdown: CancellationToken) {
    let mut ticks = interval(Duration::from_millis(config.poll_ms.max(100)));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let limit = Duration::from_millis(config.poll_timeout_ms);
    let mut memory = Memory::default();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let poll = Poll { bus: &bus, config: &config, now_ms: nats::now_ms() };
        let now_ms = poll.now_ms;
        let polled = tokio::select! {
            () = shutdown.cancelled() => return,
            polled = timeout(limit, poll.all(&mut memory)) => polled,
        };
        match polled {
            Ok(Ok(polled)) => metrics.polled(polled, bus.dropped_count(), now_ms),
            Ok(Err(error)) => {
                tracing::warn!(%error, "the broker's state can't be read");
                metrics.poll_failed();
            }
            Err(_) => {
                tracing::warn!(limit_ms = config.poll_timeout_ms, "the broker's state takes too long");
                metrics.poll_failed();
            }
        }
    }
}

impl Poll<'_> {
    async fn all(&self, memory: &mut Memory) -> Result<Polled, Error> {
        let mut infos: Vec<stream::Info> = self
            .bus
            .context()
            .streams()
            .take(self.config.streams_max)
            .try_collect()
            .await
            .map_err(Error::unavailable)?;
        infos.sort_by(|a, b| a.config.name.cmp(&b.config.name));
        let mut polled = Polled { streams: infos.iter().map(stream_state).collect(), ..Polled::default() };
        for info in infos.iter().filter(|info| info.state.consumer_count > 0) {
            self.durables(&info.config.name, &mut polled.durables).await?;
        }
        polled.dead_letters = self.dead_letters(&infos, memory).await?;
        (polled.audit_lag_events, polled.audit_lag_seconds) = self.audit_lag(&infos, memory).await?;
        Ok(polled)
    }

    async fn durables(&self, name: &str, found: &mut Vec<Durable>) -> Result<(), Error> {
        let stream = self.bus.context().get_stream_no_info(name).await.map_err(Error::unavailable)?;
        let mut infos: Vec<consumer::Info> = stream
            .consumers()
            .try_filter(|info| std::future::ready(info.config.durable_name.is_some()))
            .take(self.config.durables_max.saturating_sub(found.len()))
            .try_collect()
            .await
            .map_err(Error::unavailable)?;
        infos.sort_by(|a, b| a.name.cmp(&b.name));
        for info in infos {
            let oldest_age_seconds = self.oldest_age(&stream, &info).await?;
            found.push(Durable {
                stream: name.to_owned(),
                durable: info.name,
                pending: info.num_pending,
                unacknowledged: info.num_ack_pending as u64,
                redelivered: info.num_redelivered as u64,
                waiting_pulls: info.num_waiting as u64,
                oldest_age_seconds,
            });
        }
        Ok(())
    }

    /// Age of the first message behind the ack floor that the durable is for.
    async fn oldest_age(&self, stream: &stream::Stream<()>, info: &consumer::Info) -> Result<f64, Error> {
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

    /// Dead letters by stage; asked for only when DEAD changed, because the answer names every subject.
    async fn dead_letters(
        &self,
        infos: &[stream::Info],
        memory: &mut Memory,
    ) -> Result<BTreeMap<String, u64>, Error> {
        let Some(info) = infos.iter().find(|info| info.config.name == subjects::DEAD) else {
            return Ok(BTreeMap::new());
        };
        let ends = (info.state.first_sequence, info.state.last_sequence);
        if let Some((known, letters)) = &memory.dead
            && *known == ends
        {
            return Ok(letters.clone());
        }
        let stream =
            self.bus.context().get_stream_no_info(subjects::DEAD).await.map_err(Error::unavailable)?;
        let mut subjects = stream.info_with_subjects(subjects::DEAD_ALL).await.map_err(Error::unavailable)?;
        let mut stages = BTreeMap::<String, u64>::new();
        while let Some(found) = subjects.next().await {
            let (subject, count) = found.map_err(Error::unavailable)?;
            *stages.entry(measure::dead_stage(&subject).to_owned()).or_default() += count as u64;
        }
        let letters = measure::bounded(stages, self.config.dead_stages_max);
        memory.dead = Some((ends, letters.clone()));
        Ok(letters)
    }

    /// Events behind the last audited one, and the age of the first of them.
    async fn audit_lag(&self, infos: &[stream::Info], memory: &mut Memory) -> Result<(u64, f64), Error> {
        let last = |name: &str| infos.iter().find(|i| i.config.name == name).map(|i| i.state.last_sequence);
        let (Some(events_last), Some(audit_last)) = (last(subjects::EVENTS), last(subjects::AUDIT)) else {
            return Ok((0, 0.0));
        };
        let audited = match memory.audited {
            Some((sequence, audited)) if sequence == audit_last => audited,
            _ => self.audited().await?,
        };
        memory.audited = Some((audit_last, audited));
        let lag = events_last.saturating_sub(audited);
        if lag == 0 {
            return Ok((0, 0.0));
        }
        let stream =
            self.bus.context().get_stream_no_info(subjects::EVENTS).await.map_err(Error::unavailable)?;
        let oldest_ms = stored_at_ms(&stream, subjects::EVENTS_ALL, audited + 1).await?;
        Ok((lag, oldest_ms.map_or(0.0, |ms| measure::age_seconds(self.now_ms, ms))))
    }

    /// Sequence in EVENTS of the last audited event; 0 before the first.
    async fn audited(&self) -> Result<u64, Error> {
        #[derive(Deserialize)]
        struct Line {
            source: schemas::audit::Source,
        }
        let stream =
            self.bus.context().get_stream_no_info(subjects::AUDIT).await.map_err(Error::unavailable)?;
        match stream.get_last_raw_message_by_subject(subjects::AUDIT_ALL).await {
            Ok(message) => {
                let line: Line = serde_json::from_slice(&message.payload).map_err(|e| Error::Invalid {
                    what: format!("audit record {}: {e}", message.sequence),
                })?;
                Ok(line.source.sequence)
            }
            Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(0),
            Err(error) => Err(Error::unavailable(error)),
        }
    }
}

fn stream_state(info: &stream::Info) -> Stream {
    let limit_bytes = u64::try_from(info.config.max_bytes).ok().filter(|limit| *limit > 0);
    Stream {
        stream: info.config.name.clone(),
        messages: info.state.messages,
        size_bytes: info.state.bytes,
        limit_bytes,
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
) -> Result<Option<u64>, Error> {
    match stream.get_first_raw_message_by_subject(filter, sequence).await {
        Ok(message) => Ok(Some(u64::try_from(message.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0))),
        Err(error) if error.kind() == RawMessageErrorKind::NoMessageFound => Ok(None),
        Err(error) => Err(Error::unavailable(error)),
    }
}

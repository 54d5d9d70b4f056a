//! The task behind a reader: keeps its position and begins again from there whenever the broker is not heard.

use std::time::Instant;

use async_nats::jetstream::{
    consumer::{DeliverPolicy, ReplayPolicy, pull::OrderedConfig},
    stream,
};
use schemas::fault::error_chain;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    Config, Item, OPEN_MAX, Opened, SILENT_HEARTBEATS_MAX, Start,
    pull::{Heard, Lost, Pull},
};
use crate::{Bus, Error, client::Connection, following::Hearing, publish};

/// Where the task is.
pub(super) struct Source {
    bus: Bus,
    config: Config,
    hearing: Hearing,
    connection: watch::Receiver<Connection>,
    /// When the stream was created, once it is known.
    created_at_ms: Option<u64>,
    /// The last sequence that the caller has, or wants nothing of.
    last: Option<u64>,
    /// True when the stream held `last` once, so that it may not end before it.
    is_reached: bool,
    /// Tries since the broker was last heard.
    tries: u32,
}

/// How one consumer came to its end.
enum End {
    /// The reader is dropped.
    Dropped,
    /// The connection was lost or made anew.
    Reconnected,
    /// The consumer is of no more use.
    Lost(Lost),
}

impl Source {
    pub(super) fn new(bus: Bus, config: Config, hearing: Hearing) -> Self {
        let connection = bus.connection();
        let (created_at_ms, last, is_reached) = match config.start {
            Start::Behind(position) => (Some(position.created_at_ms), Some(position.sequence), true),
            Start::Sequence(first) => (None, Some(first.saturating_sub(1)), false),
            Start::All | Start::New | Start::LastPerSubject | Start::Time(_) => (None, None, false),
        };
        Self { bus, config, hearing, connection, created_at_ms, last, is_reached, tries: 0 }
    }

    /// Reads until the reader is dropped or the stream is another one. Unless it is patient, it ends when it can't begin.
    pub(super) async fn run(
        mut self,
        is_patient: bool,
        opened: oneshot::Sender<Result<Opened, Error>>,
        entries: mpsc::Sender<Item>,
    ) {
        let mut opened = Some(opened);
        let began = Instant::now();
        loop {
            let pull = match self.open_connected().await {
                Ok((pull, facts)) => {
                    if let Some(opened) = opened.take() {
                        opened.send(Ok(facts)).ok();
                    }
                    pull
                }
                Err(error) => {
                    let is_late = opened.is_some() && !is_patient && began.elapsed() >= OPEN_MAX;
                    if is_late || !error.is_transient() {
                        match opened.take() {
                            Some(opened) => drop(opened.send(Err(error))),
                            None => drop(entries.send(Err(error)).await),
                        }
                        return;
                    }
                    self.wait(&error).await;
                    continue;
                }
            };
            let end = self.pass_on(pull, &entries).await;
            self.hearing.lost();
            match end {
                End::Dropped => return,
                End::Reconnected => {}
                End::Lost(reason) => self.wait(&Error::unavailable(reason)).await,
            }
        }
    }

    /// Opens a consumer; begins again when the connection is made anew meanwhile, since no answer would come.
    async fn open_connected(&mut self) -> Result<(Pull, Opened), Error> {
        let mut connection = self.connection.clone();
        loop {
            connection.mark_unchanged();
            tokio::select! {
                biased;
                _ = connection.changed(), if connection.has_changed().is_ok() => {}
                opened = self.open() => {
                    self.connection = connection;
                    return opened;
                }
            }
        }
    }

    async fn open(&mut self) -> Result<(Pull, Opened), Error> {
        let stream = self.bus.context().get_stream(&self.config.stream).await.map_err(Error::unavailable)?;
        let info = stream.cached_info();
        let created_at_ms = u64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        if self.created_at_ms.is_some_and(|known| known != created_at_ms) {
            return Err(Error::Reset { stream: self.config.stream.clone() });
        }
        self.created_at_ms = Some(created_at_ms);
        let last_sequence = info.state.last_sequence;
        if self.is_reached
            && let Some(reached) = self.last.filter(|reached| last_sequence < *reached)
        {
            return Err(behind(&format!("the stream ends at {last_sequence}, and {reached} was read")));
        }
        if self.config.start == Start::New && self.last.is_none() {
            (self.last, self.is_reached) = (Some(last_sequence), true);
        }
        let (consumer, pending) = self.consumer(info).await?;
        let pull = Pull::new(&self.bus, &self.config.stream, &consumer, self.config.heartbeat).await?;
        Ok((pull, Opened { pending, created_at_ms, last_sequence }))
    }

    /// Makes the ephemeral consumer; answers its name and how many messages wait.
    async fn consumer(&self, info: &stream::Info) -> Result<(String, u64), Error> {
        let deliver_policy = match (self.last, self.config.start) {
            (Some(last), _) => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
            (None, Start::LastPerSubject) => DeliverPolicy::LastPerSubject,
            (None, Start::Time(ms)) => DeliverPolicy::ByStartTime { start_time: time_of(ms)? },
            (None, _) => DeliverPolicy::All,
        };
        let (filter_subject, filter_subjects) = match self.config.filters.as_slice() {
            [one] => (one.clone(), Vec::new()),
            many => (String::new(), many.to_vec()),
        };
        let config = OrderedConfig {
            deliver_policy,
            filter_subject,
            filter_subjects,
            replay_policy: ReplayPolicy::Instant,
            ..Default::default()
        };
        let made = self.bus.context().create_consumer_on_stream(config, &self.config.stream).await;
        let made = made.map_err(Error::unavailable)?;
        let found = made.cached_info();
        let begins_behind = found.delivered.stream_sequence;
        if self.last.is_some_and(|last| self.is_reached && begins_behind < last) {
            return Err(behind(&format!("the consumer begins behind {begins_behind}")));
        }
        let is_whole = self.config.filters.is_empty() || self.config.filters == info.config.subjects;
        let is_from_the_start =
            self.last.unwrap_or(0) == 0 && !matches!(deliver_policy, DeliverPolicy::ByStartTime { .. });
        if is_from_the_start && is_whole && found.num_pending == 0 && info.state.messages > 0 {
            return Err(behind("the consumer finds nothing"));
        }
        Ok((found.name.clone(), found.num_pending))
    }

    /// Hands on what the consumer sends until it is of no more use.
    async fn pass_on(&mut self, mut pull: Pull, entries: &mpsc::Sender<Item>) -> End {
        let silent_max = self.config.heartbeat * SILENT_HEARTBEATS_MAX;
        let mut is_idle = false;
        loop {
            let heard = tokio::select! {
                biased;
                _ = self.connection.changed() => return End::Reconnected,
                () = entries.closed() => return End::Dropped,
                heard = pull.hear(silent_max) => heard,
            };
            let heard = match heard {
                Ok(heard) => heard,
                Err(reason) => return End::Lost(reason),
            };
            self.tries = 0;
            if self.hearing.heard() {
                tracing::debug!(stream = self.config.stream, last = self.last, "a reader follows");
            }
            let item = match heard {
                Heard::Entry(entry) if self.last.is_some_and(|last| entry.sequence <= last) => continue,
                Heard::Entry(entry) => {
                    (self.last, self.is_reached) = (Some(entry.sequence), true);
                    Some(entry)
                }
                Heard::Idle if !is_idle => None,
                Heard::Idle | Heard::Alive => continue,
            };
            is_idle = item.is_none();
            if entries.send(Ok(item)).await.is_err() {
                return End::Dropped;
            }
        }
    }

    /// Waits before the next try; tells of it at each doubling of their number.
    async fn wait(&mut self, error: &Error) {
        self.tries += 1;
        if self.tries.is_power_of_two() {
            let (stream, tries) = (&self.config.stream, self.tries);
            tracing::warn!(%error, reason = error_chain(error), stream, tries, "a reader waits for the broker");
        }
        tokio::time::sleep(publish::retry_delay(self.tries)).await;
    }
}

/// The server that answered does not have what another one had.
fn behind(what: &str) -> Error {
    Error::unavailable(format!("{what}: the server is not up to date yet"))
}

fn time_of(unix_ms: u64) -> Result<time::OffsetDateTime, Error> {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
        .map_err(|e| Error::Invalid { what: format!("time {unix_ms}: {e}") })
}

//! The task behind a reader: keeps its position and begins again from there whenever the broker is silent.

use std::time::Instant;

use async_nats::jetstream::{
    consumer::{DeliverPolicy, ReplayPolicy, pull::OrderedConfig},
    stream,
};
use schemas::fault::error_chain;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    OPEN_MAX, OpenedStream, ReaderConfig, ReaderItem, ReaderStart, SILENT_HEARTBEATS_MAX,
    pull::{ConsumerLoss, EphemeralConsumer, PullEvent},
};
use crate::{Bus, BusError, backoff, client::ConnectionState, reader_status::ReaderStatusSender};

/// Where the task is.
pub(super) struct ReaderTask {
    bus: Bus,
    config: ReaderConfig,
    status: ReaderStatusSender,
    connection: watch::Receiver<ConnectionState>,
    /// When the stream was created, once it is known.
    created_at_ms: Option<u64>,
    /// The last sequence that the caller has, or wants nothing of.
    last: Option<u64>,
    /// True when the stream held `last` once, so that it may not end before it.
    is_reached: bool,
    /// Tries since the last message of the broker.
    tries: u32,
}

/// How one consumer came to its end.
enum ConsumerEnd {
    /// The reader is dropped.
    Dropped,
    /// The connection was lost or made anew.
    Reconnected,
    /// The consumer is of no more use.
    Lost(ConsumerLoss),
}

impl ReaderTask {
    pub(super) fn new(bus: Bus, config: ReaderConfig, status: ReaderStatusSender) -> Self {
        let connection = bus.watch_connection();
        let (created_at_ms, last, is_reached) = match config.start {
            ReaderStart::Behind(position) => (Some(position.created_at_ms), Some(position.sequence), true),
            ReaderStart::Sequence(first) => (None, Some(first.saturating_sub(1)), false),
            ReaderStart::All | ReaderStart::New | ReaderStart::LastPerSubject | ReaderStart::Time(_) => {
                (None, None, false)
            }
        };
        Self { bus, config, status, connection, created_at_ms, last, is_reached, tries: 0 }
    }

    /// Reads until the reader is dropped or the stream is another one. Unless it is patient, it ends when it can't begin.
    pub(super) async fn run(
        mut self,
        is_patient: bool,
        opened: oneshot::Sender<Result<OpenedStream, BusError>>,
        entries: mpsc::Sender<ReaderItem>,
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
                    // Once it was opened a reader never gives up: its caller has a position and would only begin
                    // again.
                    let is_late = opened.is_some() && !is_patient && began.elapsed() >= OPEN_MAX;
                    if is_late || !error.is_transient() {
                        match opened.take() {
                            Some(opened) => drop(opened.send(Err(error))),
                            None => drop(entries.send(Err(error)).await),
                        }
                        return;
                    }
                    self.wait_before_retry(&error).await;
                    continue;
                }
            };
            let end = self.forward_messages(pull, &entries).await;
            self.status.mark_lost();
            match end {
                ConsumerEnd::Dropped => return,
                ConsumerEnd::Reconnected => {}
                ConsumerEnd::Lost(reason) => self.wait_before_retry(&BusError::unavailable(reason)).await,
            }
        }
    }

    /// Opens a consumer; begins again when the connection is made anew meanwhile, since no answer would come.
    async fn open_connected(&mut self) -> Result<(EphemeralConsumer, OpenedStream), BusError> {
        let mut connection = self.connection.clone();
        loop {
            // Before the consumer is made: a reconnect from now on has to be seen, here or by the loop that reads.
            connection.mark_unchanged();
            tokio::select! {
                biased;
                // Without the sender `changed` fails at once, and this loop would spin.
                _ = connection.changed(), if connection.has_changed().is_ok() => {}
                opened = self.open_consumer() => {
                    self.connection = connection;
                    return opened;
                }
            }
        }
    }

    async fn open_consumer(&mut self) -> Result<(EphemeralConsumer, OpenedStream), BusError> {
        let stream =
            self.bus.context().get_stream(&self.config.stream).await.map_err(BusError::unavailable)?;
        let info = stream.cached_info();
        let created_at_ms = u64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        if self.created_at_ms.is_some_and(|known| known != created_at_ms) {
            return Err(BusError::Reset { stream: self.config.stream.clone() });
        }
        self.created_at_ms = Some(created_at_ms);
        let last_sequence = info.state.last_sequence;
        if self.is_reached
            && let Some(reached) = self.last.filter(|reached| last_sequence < *reached)
        {
            return Err(stale_server_error(&format!(
                "the stream ends at {last_sequence}, and {reached} was read"
            )));
        }
        // The place is kept from the first opening on: a consumer of "new" made anew would skip what came in
        // between.
        if self.config.start == ReaderStart::New && self.last.is_none() {
            (self.last, self.is_reached) = (Some(last_sequence), true);
        }
        let (consumer, pending) = self.create_consumer(info).await?;
        let pull =
            EphemeralConsumer::new(&self.bus, &self.config.stream, &consumer, self.config.heartbeat).await?;
        Ok((pull, OpenedStream { pending, created_at_ms, last_sequence }))
    }

    /// Makes the ephemeral consumer; answers its name and how many messages wait.
    async fn create_consumer(&self, info: &stream::Info) -> Result<(String, u64), BusError> {
        let deliver_policy = match (self.last, self.config.start) {
            (Some(last), _) => DeliverPolicy::ByStartSequence { start_sequence: last + 1 },
            // Where each subject has one message at most, as in a bucket, both begin alike, and the broker need not look for the last of
            // each of them first.
            (None, ReaderStart::LastPerSubject) if info.config.max_messages_per_subject != 1 => {
                DeliverPolicy::LastPerSubject
            }
            (None, ReaderStart::Time(ms)) => DeliverPolicy::ByStartTime { start_time: parse_unix_ms(ms)? },
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
            headers_only: self.config.is_headers_only,
            ..Default::default()
        };
        let made = self.bus.context().create_consumer_on_stream(config, &self.config.stream).await;
        let made = made.map_err(BusError::unavailable)?;
        let found = made.cached_info();
        // A server that has not loaded the whole stream begins earlier than asked and offers everything again.
        let begins_behind = found.delivered.stream_sequence;
        if self.last.is_some_and(|last| self.is_reached && begins_behind < last) {
            return Err(stale_server_error(&format!("the consumer begins behind {begins_behind}")));
        }
        // Only where no filter leaves anything out does an empty consumer prove that the server is not up to date.
        let is_whole = self.config.filters.is_empty() || self.config.filters == info.config.subjects;
        let is_from_the_start =
            self.last.unwrap_or(0) == 0 && !matches!(deliver_policy, DeliverPolicy::ByStartTime { .. });
        if is_from_the_start && is_whole && found.num_pending == 0 && info.state.messages > 0 {
            return Err(stale_server_error("the consumer finds nothing"));
        }
        Ok((found.name.clone(), found.num_pending))
    }

    /// Hands on what the consumer sends until it is of no more use.
    async fn forward_messages(
        &mut self,
        mut pull: EphemeralConsumer,
        entries: &mpsc::Sender<ReaderItem>,
    ) -> ConsumerEnd {
        let silent_max = self.config.heartbeat * SILENT_HEARTBEATS_MAX;
        let mut is_idle = false;
        loop {
            let received = tokio::select! {
                biased;
                // A pull ends with the connection that it was sent on, and nothing says so: waiting for silence
                // would cost seconds.
                _ = self.connection.changed() => return ConsumerEnd::Reconnected,
                () = entries.closed() => return ConsumerEnd::Dropped,
                received = pull.next_event(silent_max) => received,
            };
            let received = match received {
                Ok(received) => received,
                Err(reason) => return ConsumerEnd::Lost(reason),
            };
            self.tries = 0;
            if self.status.mark_received() {
                tracing::debug!(stream = self.config.stream, last = self.last, "a reader follows");
            }
            let item = match received {
                PullEvent::Entry(entry) if self.last.is_some_and(|last| entry.sequence <= last) => continue,
                PullEvent::Entry(entry) => {
                    (self.last, self.is_reached) = (Some(entry.sequence), true);
                    Some(entry)
                }
                PullEvent::Idle if !is_idle => None,
                PullEvent::Idle | PullEvent::Alive => continue,
            };
            is_idle = item.is_none();
            if entries.send(Ok(item)).await.is_err() {
                return ConsumerEnd::Dropped;
            }
        }
    }

    /// Waits before the next try; logs it at each doubling of their number.
    async fn wait_before_retry(&mut self, error: &BusError) {
        self.tries += 1;
        if self.tries.is_power_of_two() {
            let (stream, tries) = (&self.config.stream, self.tries);
            tracing::warn!(%error, reason = error_chain(error), stream, tries, "a reader waits for the broker");
        }
        tokio::time::sleep(backoff::retry_delay(self.tries)).await;
    }
}

/// The server that answered does not have what another one had.
fn stale_server_error(what: &str) -> BusError {
    BusError::unavailable(format!("{what}: the server is not up to date yet"))
}

fn parse_unix_ms(unix_ms: u64) -> Result<time::OffsetDateTime, BusError> {
    time::OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_ms) * 1_000_000)
        .map_err(|e| BusError::Invalid { what: format!("time {unix_ms}: {e}") })
}

//! One connection to the broker, with the rights of one role.
//!
//! Limits: a request waits at most `request_timeout_ms`, and no longer than the connection lives that it was sent on;
//! reconnect attempts are spaced by at most two seconds, with equal jitter.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream;
use parking_lot::RwLock;
use schemas::fault::{error_causes, error_chain, root_cause};
use tokio::sync::watch;

use crate::{
    BrokerObstacle, BusError, ProcessHealth, ReaderStatus, Role,
    backoff::{self, backoff_delay},
};

/// How long a connection may be silent before the server is asked whether it is there; the third question without an answer ends
/// the connection, so that another server is tried.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct BusConfig {
    /// Addresses of the servers, tried in turn.
    pub urls: Vec<String>,
    /// Whose rights the connection has; also decides the inbox prefix.
    pub role: Role,
    /// nkey seed of the role; absent where the server asks for none.
    pub seed: Option<String>,
    /// Name shown by the server's connection list.
    pub name: String,
    /// Limit of one request in milliseconds.
    pub request_timeout_ms: u64,
    /// What the process knows of itself; all its connections share it.
    pub health: ProcessHealth,
}

impl BusConfig {
    /// A connection for `role` to `urls` with default limits.
    pub fn new(urls: Vec<String>, role: Role, seed: Option<String>) -> Self {
        Self {
            urls,
            role,
            seed,
            name: format!("streamgate-{}", role.name()),
            request_timeout_ms: 5_000,
            health: ProcessHealth::new(),
        }
    }
}

/// The bus as one role sees it. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Bus {
    link: Arc<BusConnection>,
}

/// The client and its context are a dozen counted pointers each, too many to copy for every request.
struct BusConnection {
    client: async_nats::Client,
    context: jetstream::Context,
    role: Role,
    connection: watch::Receiver<ConnectionState>,
    dropped: Arc<AtomicU64>,
    /// The broker's words when it last refused this user a subject. What is refused gets no answer: only the connection learns of it.
    refusal: watch::Sender<Option<String>>,
    timeout: Duration,
    health: ProcessHealth,
    /// A sequence that EVENTS is known to have reached; 0 before that is known.
    events_sequence: AtomicU64,
    /// Is given the bucket and the key of each write of this connection.
    write_observer: RwLock<Option<WriteObserver>>,
}

/// Is given the bucket and the key of a value that was written, or may have been.
type WriteObserver = Arc<dyn Fn(&str, &str) + Send + Sync>;

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("role", &self.link.role).finish_non_exhaustive()
    }
}

/// State of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ConnectionState {
    /// Counts how often the connection was made; a reader rebuilds itself when it changes.
    pub epoch: u64,
    /// True while connected.
    pub up: bool,
}

/// Whether `url` is the address of a broker that this client can speak to: `nats://` or `tls://`, or a host alone.
///
/// # Errors
/// What is wrong with it, for people; `url` is not repeated, since it may hold a password.
pub fn check_server_url(url: &str) -> Result<(), String> {
    const RIGHT: &str = "write an address such as \"nats://broker:4222\" or \"tls://broker:4222\"";
    let scheme = url.split_once("://").map_or("nats", |(scheme, _)| scheme);
    if !matches!(scheme, "nats" | "tls") {
        return Err(format!("has a scheme that brokers do not speak here; {RIGHT}"));
    }
    let address = url
        .parse::<async_nats::ServerAddr>()
        .map_err(|error| format!("is no address of a broker ({error}); {RIGHT}"))?;
    if address.host().is_empty() {
        return Err(format!("names no host; {RIGHT}"));
    }
    Ok(())
}

impl Bus {
    /// Connects, waiting at most `request_timeout_ms` for the first connection.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when no server answers, which may pass; [`BusError::Credentials`] when one answers and does not
    /// let this role in, and [`BusError::Invalid`] when an address can't be used, which do not.
    pub async fn connect(config: &BusConfig) -> Result<Self, BusError> {
        let (sender, mut connection) = watch::channel(ConnectionState::default());
        let sender = Arc::new(sender);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        let refusal = watch::Sender::new(None);
        let refused = refusal.clone();
        let timeout = Duration::from_millis(config.request_timeout_ms);
        let options = match &config.seed {
            Some(seed) => {
                // The client finds out only when a server asks, and calls that a fault of the network.
                nkeys::KeyPair::from_seed(seed.trim()).map_err(|source| BusError::Credentials {
                    reason: format!("the seed is none: {source}"),
                })?;
                async_nats::ConnectOptions::with_nkey(seed.trim().to_owned())
            }
            None => async_nats::ConnectOptions::new(),
        };
        let options = options
            .name(&config.name)
            // Each role may subscribe below its own prefix alone: with the client's default prefix no answer would
            // arrive.
            .custom_inbox_prefix(config.role.inbox_prefix())
            .connection_timeout(timeout)
            .request_timeout(Some(timeout))
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                update_connection_state(&sender, &counter, &event);
                record_refusal(&refused, &event);
                async {}
            });
        let addresses = config
            .urls
            .iter()
            .map(|url| url.parse::<async_nats::ServerAddr>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| BusError::Invalid { what: format!("broker address: {source}") })?;
        let client = options.connect(addresses).await.map_err(|error| connect_error(&error))?;
        // The client reports its first connection a moment later; a watcher would take that for a reconnect.
        let connected = tokio::time::timeout(timeout, connection.wait_for(|c| c.epoch > 0)).await;
        connected.map_err(BusError::unavailable)?.map_err(BusError::unavailable)?;
        let context = jetstream::context::ContextBuilder::new()
            .api_prefix(config.role.api_prefix())
            .timeout(timeout)
            .ack_timeout(timeout)
            .build(client.clone());
        let link = BusConnection {
            client,
            context,
            role: config.role,
            connection,
            dropped,
            refusal,
            timeout,
            health: config.health.clone(),
            events_sequence: AtomicU64::new(0),
            write_observer: RwLock::default(),
        };
        Ok(Self { link: Arc::new(link) })
    }

    /// What the process of this connection knows of itself.
    pub fn health(&self) -> &ProcessHealth {
        &self.link.health
    }

    /// The readers that this role opened in this process by [`Bus::follow_stream`] and that still exist, following or not.
    pub fn reader_statuses(&self) -> Vec<ReaderStatus> {
        self.health().reader_statuses(self.role())
    }

    /// Waits for the answer to `request`, but no longer than the connection lives that it is sent on.
    ///
    /// # Errors
    /// [`ConnectionLoss::Anew`] when the connection was made anew meanwhile, so that no answer will come any more: what is safe to
    /// repeat can be asked again at once. [`ConnectionLoss::Away`] when there was no connection within the time of a request.
    pub(crate) async fn while_connected<T>(
        &self,
        request: impl Future<Output = T>,
    ) -> Result<T, ConnectionLoss> {
        // The client queues what is sent while it is disconnected and sends it on the next connection, when the
        // caller may have given up: so the connection is waited for first.
        let came = tokio::time::timeout(
            self.link.timeout,
            wait_for_connection(self.watch_connection(), |now| now.up),
        )
        .await;
        let Ok(Some(epoch)) = came else { return Err(ConnectionLoss::Away) };
        tokio::select! {
            biased;
            // The answer first: a write that was confirmed just before the reconnect must not be reported as lost.
            answer = request => Ok(answer),
            // When nothing reports reconnects any more, only the request's own timeout ends it.
            Some(_) = wait_for_connection(self.watch_connection(), |now| now.epoch > epoch) => Err(ConnectionLoss::Anew),
        }
    }

    /// Asks, and asks again each time the connection was made anew before the answer came, or nobody was there to answer yet:
    /// for what is safe to repeat. At most [`crate::ATTEMPTS_MAX`] times.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker did not answer in time; `refused` decides about any other error.
    pub async fn retry_request<T, E, F, Fut>(
        &self,
        mut ask: F,
        refused: impl Fn(E) -> BusError,
    ) -> Result<T, BusError>
    where
        E: std::error::Error + Send + Sync + 'static,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut attempt = 1;
        loop {
            let pause = match self.while_connected(ask()).await {
                Ok(Ok(answer)) => return Ok(answer),
                Ok(Err(error)) if attempt < backoff::ATTEMPTS_MAX && has_no_responders(&error) => {
                    backoff::retry_delay(attempt)
                }
                Ok(Err(error)) => return Err(refused(error)),
                Err(ConnectionLoss::Anew) if attempt < backoff::ATTEMPTS_MAX => Duration::ZERO,
                Err(lost) => return Err(BusError::unavailable(lost)),
            };
            tokio::time::sleep(pause).await;
            attempt += 1;
        }
    }

    /// EVENTS had this sequence at some time up to now.
    pub(crate) fn record_events_sequence(&self, sequence: u64) {
        // Relaxed: no other data is published with the number, and a reader of a smaller one only searches further
        // back.
        self.link.events_sequence.fetch_max(sequence, Ordering::Relaxed);
    }

    /// A sequence that EVENTS is known to have reached; 0 before that is known.
    pub(crate) fn events_sequence(&self) -> u64 {
        self.link.events_sequence.load(Ordering::Relaxed)
    }

    /// Has `observer` called with the bucket and the key of each value that this connection writes, before its writer goes on: what is
    /// kept in memory of that value is of before. Also where the broker did not confirm the write. It takes the place of the observer
    /// before it: who begins again after a start that failed observes anew.
    pub fn observe_writes(&self, observer: impl Fn(&str, &str) + Send + Sync + 'static) {
        *self.link.write_observer.write() = Some(Arc::new(observer));
    }

    /// A value was written, or may have been.
    pub(crate) fn note_write(&self, bucket: &str, key: &str) {
        let observer = self.link.write_observer.read().clone();
        if let Some(observer) = observer {
            observer(bucket, key);
        }
    }

    /// Whose rights this connection has.
    pub fn role(&self) -> Role {
        self.link.role
    }

    /// Asks whether this broker has JetStream for this user.
    ///
    /// # Errors
    /// [`BusError::Unavailable`], with a [`BrokerObstacle`] where somebody has to change the broker first.
    pub async fn verify_jetstream(&self) -> Result<(), BusError> {
        let mut refusals = self.link.refusal.subscribe();
        let asking = self.context().query_account();
        let failed = tokio::select! {
            answer = asking => match answer {
                Ok(_) => return Ok(()),
                Err(error) => match error.kind() {
                    jetstream::context::AccountErrorKind::JetStream(answer) => {
                        BusError::from_server_error("JetStream", &answer)
                    }
                    _ => BusError::unavailable(error),
                },
            },
            // What is refused gets no answer: there is nothing to wait for.
            Ok(refused) = refusals.wait_for(Option::is_some) => {
                BusError::unavailable(refused.clone().unwrap_or_default())
            }
        };
        Err(self.explain_unavailable(failed))
    }

    /// Puts in the place of an answer that did not come why none could: JetStream is off, or this user may not ask.
    pub fn explain_unavailable(&self, error: BusError) -> BusError {
        if !matches!(error, BusError::Unavailable(_)) || error.obstacle().is_some() {
            return error;
        }
        if has_no_responders(&error) {
            // A server of a cluster may have none and lead to those that do: nobody answers where none has it.
            let is_off = !self.client().server_info().jetstream;
            return if is_off { BusError::unavailable(BrokerObstacle::NoJetStream) } else { error };
        }
        match self.link.refusal.send_replace(None) {
            Some(refusal) => {
                BusError::unavailable(BrokerObstacle::Forbidden { role: self.role().name(), refusal })
            }
            None => error,
        }
    }

    /// Watches the state of the connection.
    pub fn watch_connection(&self) -> watch::Receiver<ConnectionState> {
        self.link.connection.clone()
    }

    /// Core messages this connection dropped because a subscription was not read fast enough; a lower bound.
    pub fn dropped_count(&self) -> u64 {
        self.link.dropped.load(Ordering::Relaxed)
    }

    /// True while the broker is reachable.
    pub fn is_up(&self) -> bool {
        matches!(self.link.client.connection_state(), async_nats::connection::State::Connected)
    }

    /// The client underneath, for core messages.
    pub fn client(&self) -> &async_nats::Client {
        &self.link.client
    }

    /// The JetStream context underneath, for topology and monitoring.
    pub fn context(&self) -> &jetstream::Context {
        &self.link.context
    }

    /// Sends a core message: at most once, to those who subscribe now.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the connection is closed.
    pub async fn publish_core(&self, subject: String, payload: Vec<u8>) -> Result<(), BusError> {
        self.client().publish(subject, payload.into()).await.map_err(BusError::unavailable)?;
        // `publish` only hands the message to the client's task: without the flush it could end with the process.
        self.client().flush().await.map_err(BusError::unavailable)
    }

    /// The broker's words each time it refuses this connection a subject: what is sent in core gets no other answer.
    pub fn watch_refusals(&self) -> watch::Receiver<Option<String>> {
        self.link.refusal.subscribe()
    }

    /// Listens to core messages.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the connection is closed.
    pub async fn subscribe_core(&self, subject: String) -> Result<async_nats::Subscriber, BusError> {
        self.client().subscribe(subject).await.map_err(BusError::unavailable)
    }

    /// Flushes and closes the connection.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when it was closed already.
    pub async fn close(self) -> Result<(), BusError> {
        self.client().flush().await.map_err(BusError::unavailable)?;
        self.client().drain().await.map_err(BusError::unavailable)
    }
}

/// Waits until the connection is as it `should` be and answers its epoch; `None` when it never will be.
async fn wait_for_connection(
    mut connection: watch::Receiver<ConnectionState>,
    should: impl Fn(&ConnectionState) -> bool,
) -> Option<u64> {
    connection.wait_for(should).await.ok().map(|now| now.epoch)
}

/// Why no answer came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ConnectionLoss {
    /// There is no connection.
    #[error("there is no connection to the broker")]
    Away,
    /// It was made anew meanwhile.
    #[error("the broker was away before it answered")]
    Anew,
}

/// True when nothing listens to what was asked: a stream is being loaded, or has no leader yet.
fn has_no_responders(error: &(dyn std::error::Error + 'static)) -> bool {
    error_causes(error).any(|error| {
        let of_client = error.downcast_ref::<async_nats::client::RequestError>();
        let of_context = error.downcast_ref::<async_nats::jetstream::context::RequestError>();
        of_client.is_some_and(|e| e.kind() == async_nats::client::RequestErrorKind::NoResponders)
            || of_context
                .is_some_and(|e| e.kind() == async_nats::jetstream::context::RequestErrorKind::NoResponders)
    })
}

/// What a refused connection says: that somebody has to change something, or that no server is there.
fn connect_error(error: &async_nats::ConnectError) -> BusError {
    use async_nats::ConnectErrorKind as Kind;
    let reason = error_chain(error);
    match error.kind() {
        Kind::Authentication | Kind::AuthorizationViolation => BusError::Credentials { reason },
        Kind::ServerParse => BusError::Invalid { what: format!("broker address: {reason}") },
        // What stands above the cause only repeats it.
        _ => BusError::unavailable(root_cause(error)),
    }
}

/// Grows from 50 ms to 2 s with equal jitter, so that a restarted broker is not met by all clients at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let attempts = u32::try_from(attempts).unwrap_or(u32::MAX);
    backoff_delay(attempts.saturating_add(1), Duration::from_millis(50), Duration::from_secs(2))
}

/// Keeps what the broker said when it refused a subject.
fn record_refusal(refused: &watch::Sender<Option<String>>, event: &async_nats::Event) {
    if let async_nats::Event::ServerError(async_nats::ServerError::Other(said)) = event
        && said.to_ascii_lowercase().contains("permissions violation")
    {
        refused.send_replace(Some(said.clone()));
    }
}

fn update_connection_state(
    sender: &watch::Sender<ConnectionState>,
    dropped: &AtomicU64,
    event: &async_nats::Event,
) {
    match event {
        async_nats::Event::Connected => {
            // One change for both: who waits for `up` must see the epoch that belongs to it.
            sender.send_modify(|c| *c = ConnectionState { epoch: c.epoch + 1, up: true });
        }
        async_nats::Event::Disconnected => {
            sender.send_modify(|c| c.up = false);
            tracing::warn!("broker connection lost");
        }
        async_nats::Event::Closed => sender.send_modify(|c| c.up = false),
        async_nats::Event::ServerError(source) => tracing::error!(%source, "the broker refused something"),
        async_nats::Event::ClientError(source) => tracing::warn!(%source, "broker client error"),
        async_nats::Event::SlowConsumer(id) => {
            dropped.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(subscription = id, "messages were dropped here");
        }
        async_nats::Event::LameDuckMode => tracing::info!("the broker is about to stop"),
        async_nats::Event::Draining => {}
    }
}

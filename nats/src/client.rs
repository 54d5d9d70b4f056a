//! One connection to the broker, with the rights of one role.
//!
//! Limits: a request waits at most `request_timeout_ms`; reconnect attempts are spaced by at most two seconds, with jitter.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_nats::jetstream;
use tokio::sync::watch;

use crate::{Error, Role, following::Registry};

/// How long a connection may be silent before the server is asked whether it is there; the third question without an answer ends
/// the connection, so that another server is tried.
const PING_INTERVAL: Duration = Duration::from_secs(5);

/// How to reach the broker.
#[derive(Debug, Clone)]
pub struct Config {
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
}

impl Config {
    /// A connection for `role` to `urls` with default limits.
    pub fn new(urls: Vec<String>, role: Role, seed: Option<String>) -> Self {
        Self { urls, role, seed, name: format!("streamgate-{}", role.name()), request_timeout_ms: 5_000 }
    }
}

/// The bus as one role sees it. Cheap to clone; all clones share the connection.
#[derive(Clone)]
pub struct Bus {
    link: Arc<Link>,
}

/// The client and its context are a dozen counted pointers each, too many to copy for every request.
struct Link {
    client: async_nats::Client,
    context: jetstream::Context,
    role: Role,
    connection: watch::Receiver<Connection>,
    dropped: Arc<AtomicU64>,
    registry: Registry,
}

impl std::fmt::Debug for Bus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Bus").field("role", &self.link.role).finish_non_exhaustive()
    }
}

/// State of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Connection {
    /// Counts how often the connection was made; a reader rebuilds itself when it changes.
    pub epoch: u64,
    /// True while connected.
    pub up: bool,
}

impl Bus {
    /// Connects, waiting at most `request_timeout_ms` for the first connection.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when no server answers or the credentials are refused.
    pub async fn connect(config: &Config) -> Result<Self, Error> {
        let (sender, mut connection) = watch::channel(Connection::default());
        let sender = Arc::new(sender);
        let dropped = Arc::new(AtomicU64::new(0));
        let counter = Arc::clone(&dropped);
        let timeout = Duration::from_millis(config.request_timeout_ms);
        let options = match &config.seed {
            Some(seed) => async_nats::ConnectOptions::with_nkey(seed.clone()),
            None => async_nats::ConnectOptions::new(),
        };
        let options = options
            .name(&config.name)
            .custom_inbox_prefix(config.role.inbox_prefix())
            .connection_timeout(timeout)
            .request_timeout(Some(timeout))
            .ping_interval(PING_INTERVAL)
            .reconnect_delay_callback(reconnect_delay)
            .event_callback(move |event| {
                observe(&sender, &counter, &event);
                async {}
            });
        let addresses = config
            .urls
            .iter()
            .map(|url| url.parse::<async_nats::ServerAddr>())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|source| Error::Invalid { what: format!("broker address: {source}") })?;
        let client = options.connect(addresses).await.map_err(Error::unavailable)?;
        // The client tells of its first connection a moment later; whoever watches would take that for a reconnect.
        let told = tokio::time::timeout(timeout, connection.wait_for(|c| c.epoch > 0)).await;
        told.map_err(Error::unavailable)?.map_err(Error::unavailable)?;
        let context = jetstream::context::ContextBuilder::new()
            .timeout(timeout)
            .ack_timeout(timeout)
            .build(client.clone());
        let registry = Registry::default();
        let link = Link { client, context, role: config.role, connection, dropped, registry };
        Ok(Self { link: Arc::new(link) })
    }

    /// Whose rights this connection has.
    pub fn role(&self) -> Role {
        self.link.role
    }

    /// Watches the state of the connection.
    pub fn connection(&self) -> watch::Receiver<Connection> {
        self.link.connection.clone()
    }

    /// Which readers follow.
    pub(crate) fn registry(&self) -> &Registry {
        &self.link.registry
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

    /// Sends a core message: at most once, to whoever listens now.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the connection is closed.
    pub async fn tell(&self, subject: String, payload: Vec<u8>) -> Result<(), Error> {
        self.client().publish(subject, payload.into()).await.map_err(Error::unavailable)?;
        self.client().flush().await.map_err(Error::unavailable)
    }

    /// Listens to core messages.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when the connection is closed.
    pub async fn listen(&self, subject: String) -> Result<async_nats::Subscriber, Error> {
        self.client().subscribe(subject).await.map_err(Error::unavailable)
    }

    /// Flushes and closes the connection.
    ///
    /// # Errors
    /// [`Error::Unavailable`] when it was closed already.
    pub async fn close(self) -> Result<(), Error> {
        self.client().flush().await.map_err(Error::unavailable)?;
        self.client().drain().await.map_err(Error::unavailable)
    }
}

/// Grows from 50 ms to 2 s, each with jitter, so that a restarted broker is not met by all clients at once.
fn reconnect_delay(attempts: usize) -> Duration {
    let exponent = u32::try_from(attempts.min(6)).unwrap_or(6);
    let base_ms = (25_u64 << exponent).min(1_000);
    Duration::from_millis(base_ms + rand::random_range(0..=base_ms))
}

fn observe(sender: &watch::Sender<Connection>, dropped: &AtomicU64, event: &async_nats::Event) {
    match event {
        async_nats::Event::Connected => {
            sender.send_modify(|c| *c = Connection { epoch: c.epoch + 1, up: true });
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

//! `up`: every role in one process, one connection and user per role, with its own broker when no address is configured.

use std::{
    fs::Permissions,
    io::Write,
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
};

use anyhow::Context;
use indicatif::HumanBytes;
use ingress::capacity::{BROKER_DISK, CapacityConfig, CapacityLimit};
use nats::{
    Bus, ProcessHealth, Role,
    server::{self, BrokerError},
    topology,
};
use schemas::{
    access,
    fault::{error_chain, io_advice},
    ids::RequestId,
};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

use crate::{
    broker_listener::BrokerListener,
    config::{Settings, credentials::reachable_url},
    data_folder::{BROKER_FOLDER, prepare_data_folder},
    explained::ExplainedError,
    roles::{self, ProcessRole, RoleSeeds, Runtime, StartedRoles},
};
use web::registry;

/// File in the data folder that holds the first API key, mode 0600.
pub const KEY_FILE: &str = "api-key";

/// What a person needs once everything runs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServerReady {
    /// Address of the public port.
    pub url: String,
    /// The first API key, from this start or an earlier one; `None` when its file is gone.
    pub api_key: Option<String>,
    /// True at the start that made the key: only then it is shown.
    pub is_new: bool,
    /// Where the key is kept.
    pub key_file: PathBuf,
    /// The library page; a link that signs the owner in once, unless none could be made.
    pub library_url: String,
}

/// Starts everything and runs until `shutdown`; `ready` is notified when it can be used.
///
/// # Errors
/// When the broker or a role does not start, or a role ends with an error.
pub async fn run_all_roles(
    mut config: Settings,
    shutdown: CancellationToken,
    ready: oneshot::Sender<ServerReady>,
) -> anyhow::Result<()> {
    let data_dir = config.data_dir();
    prepare_data_folder(&data_dir)?;
    let health = ProcessHealth::new();
    let listener = BrokerListener::open(&config.broker.listener).await?;
    let broker = if config.broker.urls.is_empty() {
        let folder = data_dir.join(BROKER_FOLDER);
        config.ingress.capacity.broker_folder = Some(folder.clone());
        config.keeper.capacity.broker_folder = Some(folder.clone());
        let settings = server::BrokerConfig { data_dir: folder, ..server::BrokerConfig::default() };
        // What is reserved has to be allowed; whether the disk has it is another question.
        let reserved_bytes = topology::reserved_bytes(&config.topology_settings())?;
        let file_store_bytes_max =
            settings.file_store_bytes_max.max(reserved_bytes.saturating_add(reserved_bytes / 8));
        // The broker counts from before the handshake, which the listener bounds.
        let authentication_ms_max = if listener.is_some() {
            settings.authentication_ms_max.saturating_add(config.broker.listener.handshake_ms_max)
        } else {
            settings.authentication_ms_max
        };
        let settings = server::BrokerConfig { file_store_bytes_max, authentication_ms_max, ..settings };
        let started = server::EmbeddedBroker::start_with_health(settings, health.clone()).await;
        Some(started.map_err(explain_embedded_error)?)
    } else {
        None
    };
    let (urls, seeds) = match (&broker, &config.broker.seed_file) {
        (Some(broker), _) => {
            let seeds = Role::ALL.map(|role| (role, broker.seed(role).to_owned()));
            (vec![broker.url().to_owned()], RoleSeeds::new(seeds))
        }
        (None, Some(file)) => (config.broker.urls.clone(), RoleSeeds::from_file(file)?),
        (None, None) => (config.broker.urls.clone(), RoleSeeds::default()),
    };
    let settings = config.topology_settings();
    let site = Runtime {
        config: config.into(),
        urls,
        seeds,
        shutdown: shutdown.clone(),
        metrics: registry::MetricsRegistry::default(),
        chains: evm::ChainCounters::default(),
        dispatched: dispatch::DispatchMetrics::default(),
        webhooks: crate::keeper::webhooks::metrics::WebhookMetrics::default(),
        health,
    };
    if broker.is_some() {
        prepare_topology(&site, &settings).await?;
        warn_of_small_disk(&data_dir, &site.config.ingress.capacity, &settings)?;
    }
    let links = LinkPrinter::new(&site);
    let (listening, listens) = oneshot::channel();
    let running = roles::run_roles(site, &ProcessRole::ALL, Some(listening));
    let reporting = async {
        // A role that failed to start has dropped its end; its error is what `running` answers.
        if let Ok(listening) = listens.await {
            send_ready(listening, &data_dir, &links, ready).await?;
        }
        anyhow::Ok(())
    };
    let serving = serve_programs(listener, broker.as_ref(), shutdown.clone());
    let result = tokio::try_join!(running, reporting, serving).map(|((), (), ())| ());
    if let Some(broker) = broker {
        // After all roles: their last acks and leases still need it.
        broker.stop().await;
    }
    result
}

/// Lets programs on other machines reach the broker until `shutdown`.
async fn serve_programs(
    listener: Option<BrokerListener>,
    broker: Option<&server::EmbeddedBroker>,
    shutdown: CancellationToken,
) -> anyhow::Result<()> {
    if let (Some(listener), Some(broker)) = (listener, broker) {
        tracing::info!(address = %listener.local_addr()?, "programs reach the broker");
        listener.run(broker.url().trim_start_matches("nats://").to_owned(), shutdown).await;
    }
    Ok(())
}

/// What to do about an embedded broker that does not start.
fn explain_embedded_error(error: BrokerError) -> ExplainedError {
    let advice = match &error {
        BrokerError::File { source, .. } => {
            format!("; {}, or name another data folder with --data-dir", io_advice(source))
        }
        BrokerError::Keys { .. } => {
            "; put the file back as it was, or name another data folder with --data-dir".into()
        }
        BrokerError::Start { .. } => {
            "; the file nats-server.log in the folder nats of the data folder says more".into()
        }
        // The others say it themselves.
        _ => String::new(),
    };
    ExplainedError::new(format!("the embedded broker: {}{advice}", error_chain(&error)), error)
}

async fn prepare_topology(site: &Runtime, settings: &topology::TopologySettings) -> anyhow::Result<()> {
    let admin = nats::BusConfig::new(site.urls.clone(), Role::Admin, site.seed_of(Role::Admin));
    let bus = Bus::connect(&admin).await?;
    topology::apply_topology(bus.context(), settings).await.context("the broker's topology")?;
    Ok(bus.close().await?)
}

/// Says when nothing new is taken for want of room, and when streams and buckets may grow beyond the disk: then it is the disk that
/// fills first.
fn warn_of_small_disk(
    data_dir: &Path,
    capacity: &CapacityConfig,
    settings: &topology::TopologySettings,
) -> anyhow::Result<()> {
    let space = store::read_disk_space(data_dir)?;
    let limit = CapacityLimit::from_disk_space(BROKER_DISK, space, capacity, 0);
    if limit.is_full() {
        tracing::warn!(
            "the disk of {} is nearly full: {} of {} are free, and nothing new is taken until there is more room; remove what is not \
             needed, or name a folder on another disk with --data-dir",
            data_dir.display(),
            HumanBytes(limit.free_bytes()),
            HumanBytes(limit.limit_bytes)
        );
    }
    let reserved_bytes = topology::reserved_bytes(settings)?;
    let free_bytes = space.free_bytes;
    if reserved_bytes > free_bytes {
        tracing::warn!(
            reserved_bytes,
            free_bytes,
            "streams and buckets may grow beyond the disk; say in [capacity] of the settings what has to fit"
        );
    }
    Ok(())
}

/// Makes the link of a start.
struct LinkPrinter {
    broker: nats::BusConfig,
    public_url: Option<String>,
}

impl LinkPrinter {
    fn new(site: &Runtime) -> Self {
        let role = Role::Ingress;
        let broker = nats::BusConfig::new(site.urls.clone(), role, site.seed_of(role));
        Self { broker, public_url: site.config.ingress.public_url.clone() }
    }

    /// The library page of the service at `url`. Without a link it asks for the key, so that a start does not fail for want of one.
    async fn library_url(&self, url: &str) -> String {
        let page = self.public_url.as_deref().map_or_else(|| reachable_url(url), str::to_owned);
        let page = page.trim_end_matches('/');
        match self.create_code().await {
            Ok(code) => format!("{page}/#sign-in={code}"),
            Err(error) => {
                tracing::warn!(%error, "no sign-in link could be made");
                format!("{page}/")
            }
        }
    }

    async fn create_code(&self) -> Result<String, nats::BusError> {
        let bus = Bus::connect(&self.broker).await?;
        let (owner, role) = (auth::FIRST_OWNER, access::PrincipalRole::Owner);
        let request_id = RequestId::from_bytes(nats::new_id_bytes());
        let code = auth::link::create_sign_in_link(&bus, owner, role, ("up", request_id)).await?;
        bus.close().await?;
        Ok(code)
    }
}

/// Writes a key to a file that only this user reads.
fn write_key(file: &Path, key: &str) -> std::io::Result<()> {
    let mut out =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(file)?;
    // A file that was there keeps its mode.
    out.set_permissions(Permissions::from_mode(0o600))?;
    writeln!(out, "{key}")
}

async fn send_ready(
    listening: StartedRoles,
    data_dir: &Path,
    links: &LinkPrinter,
    ready: oneshot::Sender<ServerReady>,
) -> anyhow::Result<()> {
    let file = data_dir.join(KEY_FILE);
    let is_new = listening.first_key.is_some();
    let api_key = match listening.first_key {
        Some(key) => {
            // It is made once: where it can't be kept it is shown all the same.
            if let Err(error) = write_key(&file, &key) {
                let file = file.display();
                tracing::error!(%error, "the first API key can't be kept in {file}: keep the one that is shown now, it is shown this once");
            }
            Some(key)
        }
        None => std::fs::read_to_string(&file).ok().map(|text| text.trim().to_owned()),
    };
    let address = listening.address.context("the ingress gave no address")?;
    let url = format!("http://{address}");
    let library_url = links.library_url(&url).await;
    if ready.send(ServerReady { url, api_key, is_new, key_file: file, library_url }).is_err() {
        tracing::debug!("nobody waits for the start any more");
    }
    Ok(())
}

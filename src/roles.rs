//! Roles: each is one task with its own connection and rights; when one ends, all stop.

use std::{collections::HashMap, future::Future, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use nats::{Bus, Role};
use store::Store;
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{auth, config::Config, ingress, keeper, stores, telemetry};

/// nkey seeds by role.
#[derive(Clone, Default)]
pub struct Seeds(HashMap<&'static str, String>);

impl std::fmt::Debug for Seeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl Seeds {
    /// Seeds by role.
    pub fn new(seeds: impl IntoIterator<Item = (Role, String)>) -> Self {
        Self(seeds.into_iter().map(|(role, seed)| (role.name(), seed)).collect())
    }

    /// Reads a seed file: one bare seed for every role, or lines `role seed`.
    ///
    /// # Errors
    /// When the file can't be read, names an unknown role or holds no seed.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("the seed file {}", path.display()))?;
        let mut seeds = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once(char::is_whitespace) {
                None => seeds.extend(Role::ALL.map(|role| (role.name(), line.to_owned()))),
                Some((name, seed)) => {
                    let role = Role::ALL.into_iter().find(|role| role.name() == name);
                    let role =
                        role.with_context(|| format!("{}: there is no role {name:?}", path.display()))?;
                    seeds.insert(role.name(), seed.trim().to_owned());
                }
            }
        }
        if seeds.is_empty() {
            bail!("{}: no seed in it", path.display());
        }
        Ok(Self(seeds))
    }

    fn of(&self, role: Role) -> Option<String> {
        self.0.get(role.name()).cloned()
    }
}

/// What every role needs.
#[derive(Debug, Clone)]
pub struct Site {
    /// Settings.
    pub config: Arc<Config>,
    /// Addresses of the broker.
    pub urls: Vec<String>,
    /// Seeds by role.
    pub seeds: Seeds,
    /// Fires when everything has to stop.
    pub shutdown: CancellationToken,
    /// What the roles of this process count.
    pub metrics: telemetry::Metrics,
    /// What came of asking chains, which more than one role does.
    pub chains: auth::chain::Counts,
}

/// Which roles a process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// HTTP.
    Ingress,
    /// The upload stage.
    Upload,
    /// The transcode stage.
    Transcode,
    /// The index stage.
    Index,
    /// The audit stage.
    Audit,
    /// The monitor.
    Monitor,
    /// The singletons.
    Keeper,
}

impl Kind {
    /// Every role, as `up` runs them.
    pub const ALL: [Self; 7] =
        [Self::Ingress, Self::Upload, Self::Transcode, Self::Index, Self::Audit, Self::Monitor, Self::Keeper];

    /// Whose rights it has.
    pub const fn role(self) -> Role {
        match self {
            Self::Ingress => Role::Ingress,
            Self::Upload => Role::Upload,
            Self::Transcode => Role::Transcode,
            Self::Index => Role::Index,
            Self::Audit => Role::Audit,
            Self::Monitor => Role::Monitor,
            Self::Keeper => Role::Keeper,
        }
    }
}

impl Site {
    /// The site that `config` describes, for a process with roles of its own.
    ///
    /// # Errors
    /// When no broker is named, or the seed file can't be used.
    pub fn of(config: Config, shutdown: CancellationToken) -> anyhow::Result<Self> {
        if config.broker.urls.is_empty() {
            bail!(
                "this role needs a broker: name it with --nats-url, or run `streamgate up`, which has its own"
            );
        }
        let seeds = config.broker.seed_file.as_deref().map(Seeds::from_file).transpose()?.unwrap_or_default();
        Ok(Self {
            urls: config.broker.urls.clone(),
            config: Arc::new(config),
            seeds,
            shutdown,
            metrics: telemetry::Metrics::default(),
            chains: auth::chain::Counts::default(),
        })
    }

    /// Connects as `role` and checks that what the role needs is there.
    ///
    /// # Errors
    /// When the broker can't be reached, or its topology lacks something the role needs.
    pub async fn connect(&self, role: Role) -> anyhow::Result<Bus> {
        let settings = nats::Config::new(self.urls.clone(), role, self.seeds.of(role));
        let bus = Bus::connect(&settings).await.with_context(|| {
            format!("the broker at {} does not let the role {} in", self.urls.join(", "), role.name())
        })?;
        nats::topology::verify(bus.context(), role)
            .await
            .context("the broker lacks what this role needs; run `streamgate nats apply` first")?;
        Ok(bus)
    }

    /// The seed of `role`, if there is one.
    pub(crate) fn seed(&self, role: Role) -> Option<String> {
        self.seeds.of(role)
    }

    async fn store(&self, bus: &Bus) -> anyhow::Result<Store> {
        stores::open(self.config.store()?, bus).await
    }
}

/// Runs `kinds` until the site's shutdown fires or one of them ends; then all stop.
///
/// `ready` hears once the ingress listens, or, without one, once all are connected.
///
/// # Errors
/// The first error of any role.
pub async fn run(
    site: Site,
    kinds: &[Kind],
    mut ready: Option<oneshot::Sender<Listening>>,
) -> anyhow::Result<()> {
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    let driver = if kinds.iter().any(|kind| matches!(kind, Kind::Upload | Kind::Transcode)) {
        Some(Arc::new(media::Driver::start(site.config.media.clone()).await.context("the media child")?))
    } else {
        None
    };
    if kinds.iter().any(|kind| matches!(kind, Kind::Ingress | Kind::Keeper)) {
        let counted = site.chains.clone();
        site.metrics.add(move || counted.metrics());
    }
    site.metrics.add(telemetry::clock);
    for (place, kind) in kinds.iter().copied().enumerate() {
        let site = site.clone();
        let (name, driver) = (kind.role().name(), driver.clone());
        let serves = kind == Kind::Ingress || !kinds.contains(&Kind::Ingress);
        let ready = if serves { ready.take() } else { None };
        tasks.spawn(async move {
            let bus = site.connect(kind.role()).await?;
            let ready = announce(kind, ready)?;
            let with = Start { site: &site, bus: bus.clone(), driver, ready };
            let work = Box::pin(start(kind, with));
            // One address for the whole process: the first role serves it.
            let done = if place == 0 { Box::pin(with_admin(&site, &bus, work)).await } else { work.await };
            done.with_context(|| format!("role {name}"))?;
            tracing::debug!(role = name, "stopped");
            bus.close().await.with_context(|| format!("role {name}"))
        });
    }
    let mut first = Ok(());
    while let Some(ended) = tasks.join_next().await {
        // One role less is no service: whoever supervises the process starts all again.
        site.shutdown.cancel();
        if let Err(error) = ended.context("a role panicked").and_then(|result| result)
            && first.is_ok()
        {
            first = Err(error);
        }
    }
    first
}

/// What can be used once the roles run.
#[derive(Debug, Default)]
pub struct Listening {
    /// The bound address of the ingress, if it is among them.
    pub address: Option<std::net::SocketAddr>,
    /// The first API key, when this start made it.
    pub first_key: Option<String>,
}

/// A role that is no ingress can be used as soon as it is connected; the ingress says so itself once it listens.
fn announce(
    kind: Kind,
    ready: Option<oneshot::Sender<Listening>>,
) -> anyhow::Result<Option<oneshot::Sender<Listening>>> {
    match ready {
        Some(ready) if kind != Kind::Ingress => {
            ready.send(Listening::default()).ok().context("nobody waits for the role any more")?;
            Ok(None)
        }
        other => Ok(other),
    }
}

/// What one role works with.
struct Start<'a> {
    site: &'a Site,
    bus: Bus,
    driver: Option<Arc<media::Driver>>,
    ready: Option<oneshot::Sender<Listening>>,
}

async fn start(kind: Kind, with: Start<'_>) -> anyhow::Result<()> {
    let Start { site, bus, driver, ready } = with;
    let (config, shutdown) = (&site.config, site.shutdown.clone());
    let needs_child = || driver.clone().context("the media child is not running");
    match kind {
        Kind::Ingress => Box::pin(serve(site, bus, ready)).await,
        Kind::Upload => {
            let store = site.store(&bus).await?;
            Ok(upload::run(bus, store, needs_child()?, config.upload.clone(), shutdown).await?)
        }
        Kind::Transcode => {
            let store = site.store(&bus).await?;
            Ok(transcode::run(bus, store, needs_child()?, config.transcode.clone(), shutdown).await?)
        }
        Kind::Index => {
            let settings = index::Config { folder: config.data_dir().join("index"), ..config.index.clone() };
            Ok(index::run(bus, settings, shutdown).await?)
        }
        Kind::Audit => Ok(audit::run(bus, config.audit.clone(), shutdown).await?),
        Kind::Monitor => {
            let metrics = monitor::Metrics::new();
            let counted = metrics.clone();
            site.metrics.add(move || counted.encode());
            Ok(monitor::run(bus, config.monitor.clone(), metrics, shutdown).await?)
        }
        Kind::Keeper => {
            let store = site.store(&bus).await?;
            let grants = config.grants_counted(&bus, site.chains.clone())?;
            let telling = site.chains.run(&bus, &shutdown);
            let keeping = keeper::run(bus.clone(), store, grants, config.keeper.clone(), shutdown.clone());
            tokio::join!(keeping, telling).0
        }
    }
}

/// Serves probes and metrics of the process beside `work`, where an address for them is set.
async fn with_admin(
    site: &Site,
    bus: &Bus,
    work: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let Some(listen) = site.config.admin_listen else { return work.await };
    let beside = telemetry::admin(listen, bus.clone(), site.metrics.clone(), site.shutdown.clone());
    let ((), ()) = tokio::try_join!(work, beside)?;
    Ok(())
}

async fn serve(site: &Site, bus: Bus, ready: Option<oneshot::Sender<Listening>>) -> anyhow::Result<()> {
    let mut settings = site.config.ingress.clone();
    let listener = TcpListener::bind(settings.listen)
        .await
        .with_context(|| format!("ingress.listen {}: choose another with --listen", settings.listen))?;
    let address = listener.local_addr()?;
    // Port 0 is known only now, and sign-in names its site by it.
    settings.listen = address;
    let first_key = auth::first_key(&bus).await?;
    let grace = Duration::from_millis(settings.grace_ms);
    let grants = site.config.grants_counted(&bus, site.chains.clone())?;
    let mut auth = site.config.auth.clone();
    // A chain that gates may ask is one that wallets live on.
    auth.chains.extend(site.config.chains.iter().map(|chain| chain.chain_id));
    let store = site.store(&bus).await?;
    let app = ingress::App::build(bus.clone(), store, grants, site.metrics.clone(), settings, auth).await?;
    tracing::info!(%address, "serving");
    if let Some(ready) = ready {
        ready
            .send(Listening { address: Some(address), first_key })
            .ok()
            .context("nobody waits for the ingress")?;
    }
    let router = ingress::router(app.clone());
    let serving = ingress::serve::serve(listener, router, site.shutdown.clone(), grace);
    // When what runs beside the requests fails, nothing is served half: the role ends and is started again.
    let serving = async {
        serving.await;
        anyhow::Ok(())
    };
    let telling = async {
        site.chains.run(&bus, &site.shutdown).await;
        Ok(())
    };
    tokio::try_join!(serving, app.run(site.shutdown.clone()), telling)?;
    Ok(())
}

//! Roles: each is one task with its own connection and rights.
//!
//! A role ends when it is asked to, or when somebody has to change something first: refused credentials, an absent topology, an
//! address that is taken. Then all stop. A broker that is away is waited for, and whatever else goes wrong is tried again.
//!
//! Limits: after the shutdown all of them have the longest grace time and [`CLOSING_MAX`].

pub mod connection;
mod exported_files;
mod fetched_uploads;
mod job_actor;
mod pictures;
mod report;

use std::{collections::HashMap, path::Path, sync::Arc, time::Duration};

use anyhow::{Context, bail};
use clap::ValueEnum;
use ingress::{
    IngressConfig, capacity::CapacityMonitor, jobs::act_on_job::JobActionContext, uploads::UploadState,
};
use nats::{Bus, ProcessHealth, Role, Supervisor, metrics::ProcessMetrics};
use outbound::OutboundClient;
use schemas::fault::{error_chain, io_advice};
use store::Store;
use tokio::{net::TcpListener, sync::oneshot, task::JoinSet};
use tokio_util::sync::CancellationToken;

use crate::{
    config::Settings,
    data_folder,
    explained::{self, ExplainedError},
    keeper, log_levels,
    process_reports::{self, ProcessIdentity},
    readiness::{self, classify_ending},
    stores,
    telemetry::{self, export::SpanExport},
};
use web::registry;

/// Longest time for closing connections and giving back leases, after the grace time of running work.
pub const CLOSING_MAX: Duration = Duration::from_secs(2);

/// nkey seeds by role.
#[derive(Clone, Default)]
pub struct RoleSeeds(HashMap<&'static str, String>);

impl std::fmt::Debug for RoleSeeds {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

impl RoleSeeds {
    /// Seeds by role.
    pub fn new(seeds: impl IntoIterator<Item = (Role, String)>) -> Self {
        Self(seeds.into_iter().map(|(role, seed)| (role.name(), seed)).collect())
    }

    /// Reads a seed file: one bare seed for every role, or lines `role seed`.
    ///
    /// # Errors
    /// When the file can't be read or holds no seed. Roles that are unknown are left out: a newer version made the file.
    pub fn from_file(path: &Path) -> anyhow::Result<Self> {
        let text =
            std::fs::read_to_string(path).map_err(|error| {
                let (path, advice) = (path.display(), io_advice(&error));
                let said = format!("the seed file {path} can't be read ({error}); {advice}, or name another with --nats-seed-file");
                ExplainedError::new(said, error)
            })?;
        let mut seeds = HashMap::new();
        for line in text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#')) {
            match line.split_once(char::is_whitespace) {
                None => seeds.extend(Role::ALL.map(|role| (role.name(), line.to_owned()))),
                Some((name, seed)) => match Role::ALL.into_iter().find(|role| role.name() == name) {
                    Some(role) => drop(seeds.insert(role.name(), seed.trim().to_owned())),
                    None => {
                        tracing::debug!(file = %path.display(), role = name, "an unknown role has a seed");
                    }
                },
            }
        }
        if seeds.is_empty() {
            bail!(
                "the seed file {} has no seed; put one in it, or lines `role seed`: `streamgate nats keys FOLDER` makes them",
                path.display()
            );
        }
        Ok(Self(seeds))
    }

    /// As [`RoleSeeds::from_file`], from the file of `role` beside it where there is one.
    ///
    /// # Errors
    /// As [`RoleSeeds::from_file`].
    pub fn from_file_of(path: &Path, role: Role) -> anyhow::Result<Self> {
        let own = path.with_file_name(role.seeds_file());
        Self::from_file(if own.exists() { &own } else { path })
    }

    pub(crate) fn seed_of(&self, role: Role) -> Option<String> {
        self.0.get(role.name()).cloned()
    }
}

/// What every role needs.
#[derive(Debug, Clone)]
pub struct Runtime {
    /// Settings.
    pub config: Arc<Settings>,
    /// Addresses of the broker.
    pub urls: Vec<String>,
    /// Seeds by role.
    pub seeds: RoleSeeds,
    /// Fires when everything has to stop.
    pub shutdown: CancellationToken,
    /// What the roles of this process count.
    pub metrics: registry::MetricsRegistry,
    /// What came of asking chains, which more than one role does.
    pub chains: evm::ChainCounters,
    /// What the keeper lets into the queue.
    pub dispatched: dispatch::DispatchMetrics,
    /// What the keeper's webhooks came to.
    pub webhooks: keeper::webhooks::metrics::WebhookMetrics,
    /// What this process knows of its ability to work.
    pub health: ProcessHealth,
}

/// A role that a process runs. Those that `worker` takes are stages of the pipeline, with their help texts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, ValueEnum)]
pub enum ProcessRole {
    /// HTTP
    #[value(skip)]
    Ingress,
    /// Verifies what arrived
    Upload,
    /// Plans and encodes
    Transcode,
    /// Jobs that make no encode: verification
    Tasks,
    /// Technical metadata and lists
    Index,
    /// The append-only log
    Audit,
    /// Metrics
    Monitor,
    /// The singletons
    #[value(skip)]
    Keeper,
}

impl ProcessRole {
    /// Every role, as `up` runs them.
    pub const ALL: [Self; 8] = [
        Self::Ingress,
        Self::Upload,
        Self::Transcode,
        Self::Tasks,
        Self::Index,
        Self::Audit,
        Self::Monitor,
        Self::Keeper,
    ];

    /// Whose rights it has.
    pub const fn bus_role(self) -> Role {
        match self {
            Self::Ingress => Role::Ingress,
            Self::Upload => Role::Upload,
            Self::Transcode => Role::Transcode,
            Self::Tasks => Role::Tasks,
            Self::Index => Role::Index,
            Self::Audit => Role::Audit,
            Self::Monitor => Role::Monitor,
            Self::Keeper => Role::Keeper,
        }
    }
}

impl Runtime {
    /// The site that `config` describes, for a process with roles of its own.
    ///
    /// # Errors
    /// When no broker is named, or the seed file can't be used.
    pub fn from_settings(config: Settings, shutdown: CancellationToken) -> anyhow::Result<Self> {
        if config.broker.urls.is_empty() {
            bail!(
                "this role needs a broker: name it with --nats-url, or run `streamgate up`, which has its own"
            );
        }
        let seeds =
            config.broker.seed_file.as_deref().map(RoleSeeds::from_file).transpose()?.unwrap_or_default();
        Ok(Self {
            urls: config.broker.urls.clone(),
            config: Arc::new(config),
            seeds,
            shutdown,
            metrics: registry::MetricsRegistry::default(),
            chains: evm::ChainCounters::default(),
            dispatched: dispatch::DispatchMetrics::default(),
            webhooks: keeper::webhooks::metrics::WebhookMetrics::default(),
            health: ProcessHealth::new(),
        })
    }

    /// Connects as `role` and checks that what the role needs is there.
    ///
    /// # Errors
    /// When the broker can't be reached, or its topology lacks something the role needs.
    pub async fn connect_as(&self, role: Role) -> anyhow::Result<Bus> {
        let bus = connection::connect_to_broker(self, role, connection::NAMED_BROKER_ADVICE).await?;
        nats::topology::verify_topology(bus.context(), role)
            .await
            .map_err(|error| connection::explain_broker_error(&bus, &self.urls, error))?;
        Ok(bus)
    }

    /// The seed of `role`, if there is one.
    pub(crate) fn seed_of(&self, role: Role) -> Option<String> {
        self.seeds.seed_of(role)
    }

    async fn open_store(&self, bus: &Bus) -> anyhow::Result<Store> {
        stores::open_store(self.config.store_config()?, bus).await
    }
}

/// Runs `kinds` until the site's shutdown fires or one of them ends; then all stop.
///
/// `ready` is notified once the ingress listens, or, without one, once all are connected.
///
/// # Errors
/// The first error of any role.
pub async fn run_roles(
    site: Runtime,
    kinds: &[ProcessRole],
    ready: Option<oneshot::Sender<StartedRoles>>,
) -> anyhow::Result<()> {
    let export = SpanExport::start(&site.config.telemetry.tracing, service_name(kinds))?;
    let ended = run_until_stopped(site, kinds, ready).await;
    if let Some(export) = export {
        export.finish().await;
    }
    ended
}

/// What a process is called among others.
fn service_name(kinds: &[ProcessRole]) -> String {
    match kinds {
        [kind] => format!("streamgate-{}", kind.bus_role().name()),
        _ => "streamgate".to_owned(),
    }
}

async fn run_until_stopped(
    site: Runtime,
    kinds: &[ProcessRole],
    mut ready: Option<oneshot::Sender<StartedRoles>>,
) -> anyhow::Result<()> {
    let mut tasks: JoinSet<anyhow::Result<()>> = JoinSet::new();
    // One for all roles: its limits of children and of their memory are those of the machine.
    let driver = if kinds.iter().any(|kind| matches!(kind, ProcessRole::Upload | ProcessRole::Transcode)) {
        Some(Arc::new(
            media::MediaDriver::start(site.config.media.clone()).await.map_err(explain_child_error)?,
        ))
    } else if kinds.contains(&ProcessRole::Tasks) {
        // Its other jobs need no child: they are done without one.
        let started = media::MediaDriver::start(site.config.media.clone()).await.map_err(explain_child_error);
        started.inspect_err(|error| tracing::warn!(%error, "no pictures are taken here")).ok().map(Arc::new)
    } else {
        None
    };
    start_process_tasks(&site, kinds, &mut tasks);
    // One of them reports for the process: what is counted is counted for all.
    let reporter = kinds.first().copied();
    let with_store = [
        ProcessRole::Ingress,
        ProcessRole::Upload,
        ProcessRole::Transcode,
        ProcessRole::Tasks,
        ProcessRole::Keeper,
    ];
    // One of them looks at it for all.
    let looks = kinds.iter().copied().find(|kind| with_store.contains(kind));
    let identity = Arc::new(ProcessIdentity {
        instance: site.metrics.instance().to_owned(),
        roles: kinds.iter().map(|kind| kind.bus_role().name().to_owned()).collect(),
        started_at_ms: nats::now_ms(),
    });
    for kind in kinds.iter().copied() {
        let site = site.clone();
        let reports = (reporter == Some(kind)).then(|| Arc::clone(&identity));
        let duties = ProcessDuties { looks: looks == Some(kind), reports };
        let driver = driver.clone();
        let serves = kind == ProcessRole::Ingress || !kinds.contains(&ProcessRole::Ingress);
        let ready = if serves { ready.take() } else { None };
        tasks.spawn(async move {
            let ended = Box::pin(run_role(&site, kind, driver, duties, ready)).await;
            ended.with_context(|| format!("role {}", kind.bus_role().name()))
        });
    }
    wait_for_tasks(&site, tasks).await
}

/// What to do about a media child that can't be used.
fn explain_child_error(error: media::MediaTaskError) -> ExplainedError {
    let said = format!("{}; {}", error_chain(&error), error.start_advice());
    ExplainedError::new(said, error)
}

/// Waits for all tasks; when one ends, all stop.
async fn wait_for_tasks(site: &Runtime, mut tasks: JoinSet<anyhow::Result<()>>) -> anyhow::Result<()> {
    let stop_max = site.config.grace_period() + CLOSING_MAX;
    let late = async {
        site.shutdown.cancelled().await;
        tokio::time::sleep(stop_max).await;
    };
    tokio::pin!(late);
    let mut first = Ok(());
    loop {
        let ended = tokio::select! {
            ended = tasks.join_next() => ended,
            () = &mut late => {
                tracing::warn!(stop_max_ms = stop_max.as_millis(), "not all of it stopped in time");
                return first;
            }
        };
        let Some(ended) = ended else { return first };
        // One role less is no service: the supervisor of the process starts all again.
        site.shutdown.cancel();
        if let Err(error) = ended.context("a role panicked").and_then(|result| result)
            && first.is_ok()
        {
            first = Err(error);
        }
    }
}

/// What belongs to the process, not to one role: probes and metrics.
fn start_process_tasks(site: &Runtime, kinds: &[ProcessRole], tasks: &mut JoinSet<anyhow::Result<()>>) {
    report::show_role_metrics(kinds);
    site.metrics.register(ProcessMetrics::new(env!("CARGO_PKG_VERSION")));
    site.metrics.register(site.health.clone());
    site.metrics.register(telemetry::ClockMetrics);
    if kinds.iter().any(|kind| matches!(kind, ProcessRole::Ingress | ProcessRole::Keeper)) {
        site.metrics.register(site.chains.clone());
    }
    if kinds.contains(&ProcessRole::Keeper) {
        site.metrics.register(site.dispatched.clone());
        site.metrics.register(site.webhooks.clone());
    }
    if let Some(listen) = site.config.admin_listen {
        let (health, metrics) = (site.health.clone(), site.metrics.clone());
        tasks.spawn(telemetry::serve_admin(listen, health, metrics, site.shutdown.clone()));
    }
}

/// What a role does for its whole process.
#[derive(Debug, Clone)]
struct ProcessDuties {
    /// It watches the store.
    looks: bool,
    /// It reports the metrics, and what this process says of itself.
    reports: Option<Arc<ProcessIdentity>>,
}

/// Runs one role: waits for the broker, then works until the shutdown, and does its `duties` beside that.
async fn run_role(
    site: &Runtime,
    kind: ProcessRole,
    driver: Option<Arc<media::MediaDriver>>,
    duties: ProcessDuties,
    ready: Option<oneshot::Sender<StartedRoles>>,
) -> anyhow::Result<()> {
    let tasks = Supervisor::new(kind.bus_role(), site.health.clone(), site.shutdown.clone());
    let connected =
        tasks.start_with_retry("connection", classify_ending, || site.connect_as(kind.bus_role())).await?;
    let Some(bus) = connected else { return Ok(()) };
    let ready = announce_ready(kind, ready)?;
    let counts = report::register_monitor(site, kind);
    let work = async {
        if kind == ProcessRole::Ingress {
            return Box::pin(serve_ingress(site, &tasks, &bus, ready)).await;
        }
        let run = || Box::pin(run_worker_role(kind, site, bus.clone(), driver.clone(), counts.clone()));
        tasks.keep_running("role", classify_ending, run).await
    };
    let heartbeat = tasks
        .keep_running("heartbeat", nats::BusError::task_ending, || bus.run_write_heartbeat(&site.shutdown));
    let heartbeat = async { Ok(heartbeat.await?) };
    let looking = tasks.keep_running("store", classify_ending, || async {
        if duties.looks {
            let store = site.open_store(&bus).await?;
            return readiness::watch_store(&store, &site.health, &site.shutdown).await;
        }
        site.shutdown.cancelled().await;
        Ok(())
    });
    let reporting = tasks.keep_running("metrics", classify_ending, || async {
        if let Some(identity) = &duties.reports {
            let (role, shutdown) = (kind.bus_role(), &site.shutdown);
            tokio::join!(
                report::report_metrics(site, role, &bus),
                process_reports::send_reports(&bus, role, identity, &site.health, shutdown),
                log_levels::follow_log_levels(&bus, identity, shutdown),
            );
        }
        site.shutdown.cancelled().await;
        Ok(())
    });
    // One task of the runtime for all four: the first error drops the others.
    tokio::try_join!(work, heartbeat, looking, reporting)?;
    tracing::debug!(role = kind.bus_role().name(), "stopped");
    // A broker that is away must not keep a stop waiting.
    match tokio::time::timeout(CLOSING_MAX / 2, bus.close()).await {
        Ok(closed) => Ok(closed?),
        Err(_) => Ok(()),
    }
}

/// What can be used once the roles run.
#[derive(Debug, Default)]
pub struct StartedRoles {
    /// The bound address of the ingress, if it is among them.
    pub address: Option<std::net::SocketAddr>,
    /// The first API key, when this start made it.
    pub first_key: Option<String>,
}

/// A role that is no ingress can be used as soon as it is connected; the ingress says so itself once it listens.
fn announce_ready(
    kind: ProcessRole,
    ready: Option<oneshot::Sender<StartedRoles>>,
) -> anyhow::Result<Option<oneshot::Sender<StartedRoles>>> {
    match ready {
        Some(ready) if kind != ProcessRole::Ingress => {
            ready.send(StartedRoles::default()).ok().context("nobody waits for the role any more")?;
            Ok(None)
        }
        other => Ok(other),
    }
}

/// One run of a role that is no ingress.
async fn run_worker_role(
    kind: ProcessRole,
    site: &Runtime,
    bus: Bus,
    driver: Option<Arc<media::MediaDriver>>,
    counts: monitor::MonitorMetrics,
) -> anyhow::Result<()> {
    let (config, shutdown) = (&site.config, site.shutdown.clone());
    let needs_child = || driver.clone().context("the media child is not running");
    match kind {
        ProcessRole::Ingress => Ok(()),
        ProcessRole::Upload => {
            let store = site.open_store(&bus).await?;
            Ok(upload::run(bus, store, needs_child()?, config.upload.clone(), shutdown).await?)
        }
        ProcessRole::Transcode => {
            let store = site.open_store(&bus).await?;
            Ok(transcode::run_transcode(bus, store, needs_child()?, config.transcode.clone(), shutdown)
                .await?)
        }
        ProcessRole::Tasks => {
            let store = site.open_store(&bus).await?;
            let IngressConfig { capacity, uploads, profiles, quotas, playback, .. } = &config.ingress;
            let capacity = CapacityMonitor::new(bus.clone(), store.clone(), capacity.clone(), uploads);
            let context = JobActionContext::new(
                bus.clone(),
                store.clone(),
                (profiles.clone(), quotas.clone()),
                capacity,
            );
            let state = UploadState::new(bus.clone(), store.clone(), uploads.clone(), profiles.clone(), None);
            let plans = ingress::play::DownloadPlans::new(playback)?;
            let files = exported_files::DownloadedFiles { store: store.clone(), plans };
            let services = tasks::TaskServices {
                actor: Arc::new(job_actor::IngressJobActor(context)),
                uploads: Arc::new(fetched_uploads::IngressUploads(state.clone())),
                client: OutboundClient::new(config.outbound.clone())?,
                pictures: Arc::new(pictures::ChildPictures(driver)),
                files: Arc::new(files),
            };
            // One ends with the other; what came of a fetch is recorded before.
            let stop = shutdown.child_token();
            let _stopped = stop.clone().drop_guard();
            let working = async {
                let ended = tasks::run_tasks(bus, store, config.tasks.clone(), services, stop.clone()).await;
                stop.cancel();
                ended
            };
            let taking = async {
                let ended = state.run(stop.clone()).await;
                stop.cancel();
                ended
            };
            let (worked, taken) = tokio::join!(working, taking);
            worked?;
            Ok(taken?)
        }
        ProcessRole::Index => {
            // It may be shared with other roles: whose it is, and who looks into it, is left to whom it belongs.
            data_folder::try_data_folder(&config.data_dir())?;
            let settings =
                index::IndexConfig { folder: config.data_dir().join("index"), ..config.index.clone() };
            Ok(index::run(bus, settings, shutdown).await?)
        }
        ProcessRole::Audit => Ok(audit::run(bus, config.audit.clone(), shutdown).await?),
        ProcessRole::Monitor => {
            let metrics = site.metrics.clone();
            let document: monitor::MetricsDocument = Arc::new(move || metrics.write_document());
            Ok(monitor::run(bus, config.monitor.clone(), counts, document, shutdown).await?)
        }
        ProcessRole::Keeper => run_keeper_role(site, bus).await,
    }
}

/// One run of the singletons.
async fn run_keeper_role(site: &Runtime, bus: Bus) -> anyhow::Result<()> {
    let (config, shutdown) = (&site.config, site.shutdown.clone());
    let store = site.open_store(&bus).await?;
    let grants = config.open_counted_grants(&bus, site.chains.clone())?;
    let publishing = site.chains.run(&bus, &shutdown);
    let (dispatched, settings) = (site.dispatched.clone(), config.keeper.clone());
    let receivers =
        keeper::webhooks::WebhookServices::new(&config.outbound, &settings.webhooks, site.webhooks.clone())?;
    let keeping =
        keeper::run_keeper(bus.clone(), store, grants, dispatched, receivers, settings, shutdown.clone());
    tokio::join!(keeping, publishing).0
}

/// The ingress: listens once it can answer, until the shutdown.
async fn serve_ingress(
    site: &Runtime,
    tasks: &Supervisor,
    bus: &Bus,
    ready: Option<oneshot::Sender<StartedRoles>>,
) -> anyhow::Result<()> {
    let mut settings = site.config.ingress.clone();
    // Bound before the state is built: a port that is taken is known at once, and early clients wait in the queue.
    let listener = TcpListener::bind(settings.listen).await.map_err(|error| {
        explained::explain_listen_error("ingress.listen", "--listen", settings.listen, error)
    })?;
    let address = listener.local_addr()?;
    // Port 0 is known only now, and sign-in names its site by it.
    settings.listen = address;
    let grace = Duration::from_millis(settings.grace_ms);
    let keyed = tasks
        .start_with_retry("first key", nats::BusError::task_ending, || auth::create_first_key(bus))
        .await?;
    let built = tasks
        .start_with_retry("start", classify_ending, || build_ingress(site, bus, settings.clone()))
        .await?;
    let (Some(first_key), Some(app)) = (keyed, built) else { return Ok(()) };
    tracing::info!(%address, "serving");
    if let Some(ready) = ready {
        ready
            .send(StartedRoles { address: Some(address), first_key })
            .ok()
            .context("nobody waits for the ingress")?;
    }
    let router = ingress::router(app.clone());
    let serving = async {
        let stopping = async {
            site.shutdown.cancelled().await;
            tokio::time::Instant::now()
        };
        let connections = web::serve::serve_connections(listener, router, site.shutdown.clone(), grace);
        let ((), stopping_since) = tokio::join!(connections, stopping);
        // Those whose clients went away have no connection that was waited for.
        let finishing = app.repeated.finish_requests();
        if tokio::time::timeout_at(stopping_since + grace, finishing).await.is_err() {
            tracing::warn!("requests whose clients went away are not finished, and left");
        }
        anyhow::Ok(())
    };
    let publishing = tasks.keep_running("chains", classify_ending, || async {
        site.chains.run(bus, &site.shutdown).await;
        Ok(())
    });
    let ended = tokio::try_join!(serving, app.run(site.shutdown.clone()), publishing);
    tokio::join!(
        app.access_sums.publish_rest(bus, CLOSING_MAX / 2),
        app.experience.write_rest(bus, CLOSING_MAX / 2)
    );
    ended.map(drop)
}

async fn build_ingress(
    site: &Runtime,
    bus: &Bus,
    settings: ingress::IngressConfig,
) -> anyhow::Result<ingress::AppState> {
    let grants = site.config.open_counted_grants(bus, site.chains.clone())?;
    let mut auth = site.config.auth.clone();
    // A chain that gates may ask is one that wallets live on.
    auth.chains.extend(site.config.chains.iter().map(|chain| chain.chain_id));
    let store = site.open_store(bus).await?;
    ingress::AppState::build(bus.clone(), store, grants, site.metrics.clone(), settings, auth).await
}

#[cfg(test)]
mod tests;

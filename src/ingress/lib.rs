//! HTTP: a thin layer that puts bytes into the store, state and events onto the bus, and reads back.
//!
//! A route comes with its [`web::operation::Operation`], which says whose requests are taken; [`auth::enforce_access`] holds it to
//! that. Only probes, sign-in, the pages and `/play` (whose path token is the right) are open. By-id reads come from KV, so
//! one's own writes are always seen; lists come from the index.
//!
//! Limits: see [`web::serve`] for connections, [`IngressConfig`] for bodies and waits.

pub mod audit;
pub mod cache;
pub mod cached;
pub mod capacity;
mod coherent_memory;
mod credential_watch;
pub mod dead_letters;
pub mod events;
pub mod gates;
pub mod hooks;
pub mod index_client;
pub mod jobs;
pub mod library;
pub mod media;
pub mod metrics;
mod monitor;
pub mod openapi;
mod own_writes;
mod page_assets;
pub mod play;
pub mod probes;
pub mod quotas;
pub mod removal;
pub mod schedules;
mod seconds;
pub mod sharing;
pub mod sign_in;
pub mod transcode;
pub mod uploads;
pub mod watch;
pub mod workers;

use std::{net::SocketAddr, ops::Deref, sync::Arc, time::Duration};

use axum::{Router, http::HeaderValue, middleware};
use futures::future::BoxFuture;
use nats::{
    Bus,
    metrics::{MetricHandler, show_handlers},
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::Store;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tower::ServiceBuilder;
use tower_http::catch_panic::CatchPanicLayer;

pub use auth::Principal;
use gate::{
    gate_evaluator::GateEvaluator,
    grant::{PlaybackGrants, token::PlaybackToken},
};
use web::{
    access_sums, body, client, filter, idempotency, limit,
    operation::OperationRouter,
    problem_page, query, registry, request,
    request_metrics::{self, RequestMetrics},
    request_policy,
    request_trace::{self, RequestTracing},
};

/// Whose metrics a replica shows from its start.
const HANDLERS: [MetricHandler; 7] = [
    MetricHandler::Gateway,
    MetricHandler::Api,
    MetricHandler::Upload,
    MetricHandler::Streaming,
    MetricHandler::Metadata,
    MetricHandler::Cache,
    MetricHandler::Auth,
];

/// Settings of the ingress.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IngressConfig {
    /// Address of the public port.
    pub listen: SocketAddr,
    /// Address people reach it by, when it is not the request's own host: `https://media.example.org`.
    pub public_url: Option<String>,
    /// JSON bodies.
    pub body: body::BodyLimits,
    /// How long open requests may go on after a stop was asked for, in milliseconds.
    pub grace_ms: u64,
    /// Uploads.
    pub uploads: uploads::UploadConfig,
    /// Followers of events.
    pub events: events::EventConfig,
    /// Playback.
    pub playback: play::PlaybackConfig,
    /// Whom to believe about addresses.
    pub client: client::ClientAddressConfig,
    /// Rate limits.
    pub limit: limit::RateLimitConfig,
    /// Foreign origins, heads, waits.
    pub manners: request_policy::RequestConfig,
    /// Repeated requests.
    pub idempotency: idempotency::IdempotencyConfig,
    /// What strangers see of public media.
    pub sharing: sharing::SharingConfig,
    /// Documents kept in memory.
    pub documents: cache::CacheConfig,
    /// Status documents of complete uploads kept in memory.
    pub upload_statuses: cache::CacheConfig,
    /// The cache API.
    pub cache: cached::CachedConfig,
    /// How long the answer of `/readyz` about other roles is kept, in milliseconds.
    pub probe_kept_ms: u64,
    /// What owners bring beside the file of a medium.
    pub media: media::MediaConfig,
    /// How much each owner may have done.
    pub quotas: quotas::QuotaConfig,
    /// From where on nothing new is taken.
    pub capacity: capacity::CapacityConfig,
    /// By what media can be encoded again; set by `transcode.profiles`.
    #[serde(skip)]
    pub profiles: transcode::ProfileCatalog,
    /// How long a removed medium can be restored, in milliseconds; set by `retention.removed_ms`.
    #[serde(skip)]
    pub restorable_ms: u64,
    /// How many of a million requests are sampled that are not sampled anyway; set by `telemetry.tracing.reads_per_million`.
    #[serde(skip)]
    pub traced_reads_per_million: u32,
    /// Whether traces of trusted proxies go on; set by `telemetry.tracing.continue_proxy_traces`.
    #[serde(skip)]
    pub continues_proxy_traces: bool,
}

impl Default for IngressConfig {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            public_url: None,
            body: body::BodyLimits::default(),
            grace_ms: 8_000,
            uploads: uploads::UploadConfig::default(),
            events: events::EventConfig::default(),
            playback: play::PlaybackConfig::default(),
            client: client::ClientAddressConfig::default(),
            limit: limit::RateLimitConfig::default(),
            manners: request_policy::RequestConfig::default(),
            idempotency: idempotency::IdempotencyConfig::default(),
            sharing: sharing::SharingConfig::default(),
            upload_statuses: cache::CacheConfig {
                entries_max: 1_000,
                bytes_max: 8 * 1024 * 1024,
                age_s: 10 * 60,
            },
            documents: cache::CacheConfig {
                entries_max: 10_000,
                bytes_max: 64 * 1024 * 1024,
                age_s: 30 * 60,
            },
            cache: cached::CachedConfig::default(),
            probe_kept_ms: 1_000,
            media: media::MediaConfig::default(),
            quotas: quotas::QuotaConfig::default(),
            capacity: capacity::CapacityConfig::default(),
            profiles: transcode::ProfileCatalog::default(),
            restorable_ms: 0,
            traced_reads_per_million: 0,
            continues_proxy_traces: false,
        }
    }
}

/// What handlers share. One pointer: the layers of a router copy it several times for each request.
#[derive(Debug, Clone)]
pub struct AppState {
    shared: Arc<AppServices>,
}

impl Deref for AppState {
    type Target = AppServices;

    fn deref(&self) -> &AppServices {
        &self.shared
    }
}

/// Why an answer without an end has to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ResponseEnd {
    /// The ingress stops.
    Stopping,
    /// The credential of the caller is good no more.
    CredentialInvalid,
    /// It has lasted as long as it may.
    Longest,
}

/// What is behind every [`AppState`].
#[derive(Debug)]
pub struct AppServices {
    /// The bus with the rights of the ingress.
    pub bus: Bus,
    /// Where the bytes are.
    pub store: Store,
    /// Settings.
    pub config: IngressConfig,
    /// Signs path tokens and cursors; the same on every replica.
    pub signing_key: Arc<[u8]>,
    /// Open uploads.
    pub uploads: uploads::UploadState,
    /// Who follows events.
    pub followers: events::EventFollowerPool,
    /// Credentials of answers without an end.
    pub(crate) credentials: credential_watch::CredentialWatches,
    /// Final playlists and init segments.
    pub streams: Arc<play::ObjectCache>,
    /// Small segments in memory.
    pub segments: Arc<play::ObjectCache>,
    /// Files that are put together as they are downloaded.
    pub downloads: play::DownloadPlans,
    /// Media that are ready.
    pub known: Arc<play::PlayableMediaCache>,
    /// What players report of views.
    pub experience: play::ViewerExperience,
    /// Jobs that are watched while they run.
    pub growing: Arc<play::GrowingPlaylists>,
    /// Places for replays of the audit log.
    pub replays: Arc<Semaphore>,
    /// Fires when answers without an end have to end.
    pub stopping: CancellationToken,
    /// Sign-in.
    pub sign_in: auth::SignInService,
    /// Playback sessions.
    pub grants: PlaybackGrants,
    /// Rate limits.
    pub limits: limit::RateLimiter,
    /// What the last probe found about other roles.
    pub(crate) missing_roles: probes::MissingRoles,
    /// Answers to repeated requests.
    pub repeated: idempotency::IdempotencyService,
    /// Requests that no event of their own reports, summed.
    pub access_sums: access_sums::AccessSums,
    /// Documents kept in memory.
    pub documents: Arc<cache::ResponseCache>,
    /// Status documents of complete uploads kept in memory.
    pub upload_statuses: Arc<cache::ResponseCache>,
    /// Documents of media among them, for as long as nothing can have changed.
    pub known_documents: Arc<media::KnownDocuments>,
    /// Who changed something a moment ago.
    pub(crate) own_writes: own_writes::OwnWrites,
    /// Entries of the cache API.
    pub cached: cached::CachedEntries,
    /// Room for what is new.
    pub capacity: capacity::CapacityMonitor,
    /// Sites that may frame the embedded player.
    pub frame_sources: HeaderValue,
    /// Lets foreign origins in.
    pub origins: request_policy::CorsPolicy,
    /// What this process counts.
    pub metrics: registry::MetricsRegistry,
}

impl AppState {
    /// Everything handlers share; its limits and caches are counted in `metrics`.
    ///
    /// # Errors
    /// When the signing key can be neither read nor made, or a setting can't be used.
    pub async fn build(
        bus: Bus,
        store: Store,
        grants: PlaybackGrants,
        metrics: registry::MetricsRegistry,
        config: IngressConfig,
        auth: auth::AuthConfig,
    ) -> anyhow::Result<Self> {
        let origins = request_policy::CorsPolicy::new(&config.manners)?;
        let frame_sources = config.sharing.frame_sources()?;
        let limits = limit::RateLimiter::new(config.limit.clone());
        let documents = Arc::new(cache::ResponseCache::new(config.documents)?);
        let known_documents = Arc::new(media::KnownDocuments::new(Arc::clone(&documents)));
        let signing_key: Arc<[u8]> = auth::load_signing_key(&bus, "playback").await?.into();
        let auth = auth.with_default_domains(config.public_url.as_deref(), config.listen);
        let auth = auth.with_offered_chains(&grants.gate_evaluator().chains().chain_ids());
        // Strangers name the contracts that sign-in asks.
        let chains: Arc<dyn auth::contract::ContractCaller> =
            Arc::new(grants.gate_evaluator().chains().with_separate_limits());
        let proofs = grants.proof_checker().clone();
        let sign_in = auth::SignInService::open(bus.clone(), auth, Some(chains), proofs).await?;
        let (written_documents, written_keys) = (Arc::clone(&known_documents), sign_in.clone());
        bus.observe_writes(move |bucket, key| {
            written_documents.note_write(bucket, key);
            written_keys.note_write(bucket, key);
        });
        let (uploads, upload_statuses) = open_uploads(&bus, &store, &config, &known_documents)?;
        let (settings, limits_of) = (config.capacity.clone(), &config.uploads);
        let capacity = capacity::CapacityMonitor::new(bus.clone(), store.clone(), settings, limits_of);
        capacity.poll_limits().await;
        let repeated = idempotency::IdempotencyService::new(bus.clone(), config.idempotency);
        let followers = events::EventFollowerPool::new(
            events::EventHub::open(bus.clone(), Arc::clone(&known_documents)).await?,
            &config.events,
        );
        let (streams, segments) = play::open_object_caches(&config.playback)?;
        let downloads = play::DownloadPlans::new(&config.playback)?;
        let known = Arc::new(play::PlayableMediaCache::new(&config.playback));
        let cached = cached::CachedEntries::new(config.cache)?;
        let experience = play::ViewerExperience::new(config.playback.experience, &signing_key);
        let shared = AppServices {
            cached,
            experience,
            own_writes: own_writes::OwnWrites::default(),
            bus,
            store,
            config,
            signing_key,
            uploads,
            upload_statuses,
            sign_in,
            grants,
            followers,
            credentials: credential_watch::CredentialWatches::default(),
            streams,
            segments,
            downloads,
            limits,
            repeated,
            missing_roles: probes::MissingRoles::default(),
            access_sums: access_sums::AccessSums::default(),
            documents,
            known_documents,
            capacity,
            frame_sources,
            origins,
            metrics,
            known,
            growing: Arc::new(play::GrowingPlaylists::new()),
            replays: Arc::new(Semaphore::new(audit::REPLAYS_MAX)),
            stopping: CancellationToken::new(),
        };
        shared.register_metrics();
        Ok(Self { shared: Arc::new(shared) })
    }
}

impl AppServices {
    /// What this process keeps in memory, by the names of the caches.
    pub(crate) fn named_caches(&self) -> [(&'static str, Arc<cache::ResponseCache>); 6] {
        [
            ("entries", Arc::clone(self.cached.answers())),
            ("metadata", Arc::clone(&self.documents)),
            ("uploads", Arc::clone(&self.upload_statuses)),
            ("streaming", Arc::clone(self.streams.answers())),
            ("segments", Arc::clone(self.segments.answers())),
            ("downloads", Arc::clone(self.downloads.plans())),
        ]
    }

    /// Forgets all that this process keeps in memory only to answer sooner.
    pub(crate) fn flush_caches(&self) {
        for (_, cache) in self.named_caches() {
            cache.flush();
        }
    }

    /// Has its limits and caches counted among the metrics of the process.
    fn register_metrics(&self) {
        show_handlers(&HANDLERS);
        let (limits, grants, capacity) = (self.limits.clone(), self.grants.clone(), self.capacity.clone());
        self.metrics.register(limits);
        self.metrics.register(grants);
        self.metrics.register(capacity);
        self.metrics.register(cache::CacheMetrics::new(self.named_caches()));
    }

    /// Comes when an answer without an end has to end: after `longest`, when the ingress stops, or when the credential of the
    /// caller is good no more.
    pub(crate) fn response_end_signal(
        &self,
        who: &auth::Principal,
        longest: Duration,
    ) -> BoxFuture<'static, ResponseEnd> {
        let stopping = self.stopping.clone();
        let credential = self.credentials.watch(&self.sign_in, who, || self.followers.hub().sign_in_ends());
        Box::pin(async move {
            tokio::select! {
                () = stopping.cancelled() => ResponseEnd::Stopping,
                () = credential.wait_until_invalid() => ResponseEnd::CredentialInvalid,
                () = tokio::time::sleep(longest) => ResponseEnd::Longest,
            }
        })
    }

    /// What runs beside the requests, until `shutdown`. Each task is started again when it ends.
    ///
    /// # Errors
    /// When a task finds that somebody has to change something first.
    pub async fn run(&self, shutdown: CancellationToken) -> anyhow::Result<()> {
        let stopping = async {
            shutdown.cancelled().await;
            self.stopping.cancel();
            self.flush_caches();
            Ok(())
        };
        let (tasks, ending) = (self.bus.supervisor(&shutdown), nats::BusError::task_ending);
        let hub = self.followers.hub();
        let stop = || shutdown.clone();
        tokio::try_join!(
            tasks.keep_running("uploads", ending, || self.uploads.run(stop())),
            tasks.keep_running("followers", ending, || hub.run(stop())),
            tasks.keep_running("sign-in", ending, || self.sign_in.run(stop())),
            tasks.keep_running("grants", ending, || self.grants.run(stop())),
            tasks.keep_running("documents", ending, || self.known_documents.run(&self.bus, stop())),
            tasks.keep_running("known", ending, || self.known.run(&self.bus, stop())),
            tasks.keep_running("cache", ending, || self.cached.run(
                &self.bus,
                || self.flush_caches(),
                stop()
            )),
            tasks.keep_running("limits", ending, || async {
                self.limits.run(self.bus.clone(), stop()).await;
                Ok(())
            }),
            tasks.keep_running("capacity", ending, || async {
                self.capacity.run(stop()).await;
                Ok(())
            }),
            tasks.keep_running("access sums", ending, || async {
                self.access_sums.run(&self.bus, stop()).await;
                Ok(())
            }),
            tasks.keep_running("experience", ending, || async {
                self.experience.run(&self.bus, stop()).await;
                Ok(())
            }),
            stopping,
        )?;
        Ok(())
    }
}

/// The public router.
///
/// Layers from the outside in: the operation, its trace, what is counted of it, safe headers, foreign origins, the request's id, panics, the head, the client's address, limits of
/// bodies, the client's rate; then, for what needs a right, authentication, the principal's rate, parameters that nothing takes,
/// room for what is new, repeated requests.
pub fn router(app: AppState) -> Router {
    router_with_routes(app, OperationRouter::default())
}

/// Pages, descriptions and probes.
fn open_router(taken: &query::AcceptedParameters) -> OperationRouter<AppState> {
    watch::router()
        .merge(library::router())
        .merge(sharing::router().route_layer(query::refuse_unknown_parameters(taken.clone())))
        .merge(openapi::router())
        .merge(probes::router())
}

/// What is below a path token: players add parameters of their own, but to a download.
fn play_router(taken: &query::AcceptedParameters) -> OperationRouter<AppState> {
    let downloads = play::download_router();
    play::router().merge(downloads.route_layer(query::refuse_unknown_parameters(taken.clone())))
}

/// Jobs, what begins them, who works on them, and what was given up; what programs keep for a while.
fn work_router() -> OperationRouter<AppState> {
    jobs::router()
        .merge(schedules::router())
        .merge(transcode::router())
        .merge(workers::router())
        .merge(dead_letters::router())
        .merge(cached::router())
        .merge(quotas::router())
}

fn client_identification(config: &IngressConfig) -> Arc<client::ClientIdentification> {
    let (config, public_url) = (config.client.clone(), config.public_url.clone());
    Arc::new(client::ClientIdentification { config, public_url })
}

/// The uploads of a replica, and the statuses that it keeps in memory.
fn open_uploads(
    bus: &Bus,
    store: &Store,
    config: &IngressConfig,
    known_documents: &Arc<media::KnownDocuments>,
) -> anyhow::Result<(uploads::UploadState, Arc<cache::ResponseCache>)> {
    let known = uploads::KnownStatuses::new(config.upload_statuses, Arc::clone(known_documents))?;
    let statuses = Arc::clone(known.answers());
    let (settings, profiles) = (config.uploads.clone(), config.profiles.clone());
    let uploads = uploads::UploadState::new(bus.clone(), store.clone(), settings, profiles, Some(known));
    Ok((uploads, statuses))
}

/// How traces of requests begin.
fn request_tracing(
    config: &IngressConfig,
    clients: &Arc<client::ClientIdentification>,
) -> Arc<RequestTracing> {
    Arc::new(RequestTracing {
        read_ratio: f64::from(config.traced_reads_per_million) / 1_000_000.0,
        continues_proxy_traces: config.continues_proxy_traces,
        clients: Arc::clone(clients),
    })
}

/// The public router with more open routes.
fn router_with_routes(app: AppState, more: OperationRouter<AppState>) -> Router {
    let config = &app.config;
    let taken = openapi::accepted_parameters();
    let playback_key = Arc::clone(&app.signing_key);
    let manners = Arc::new(config.manners.clone());
    let in_time = middleware::from_fn_with_state(Arc::clone(&manners), request_policy::limit_response_time);
    let behind = ServiceBuilder::new()
        .layer(middleware::from_fn_with_state(app.clone(), own_writes::note_change))
        .layer(limit::limit_by_principal())
        .layer(query::refuse_unknown_parameters(taken.clone()))
        .layer(filter::filter_requests_with(app.capacity.clone()))
        .layer(middleware::from_fn_with_state(app.repeated.clone(), idempotency::deduplicate_request));
    // What people ask about contracts of their choice keeps no gate from deciding.
    let judge = GateEvaluator::new(app.grants.gate_evaluator().chains().with_separate_limits());
    let gates = crate::gates::GateApiState { bus: app.bus.clone(), judge };
    let answering = OperationRouter::default()
        .merge(media::router())
        .merge(uploads::form_token_router())
        .merge(work_router())
        .merge(events::router().merge(hooks::router()))
        .merge(audit::router())
        .merge(metrics::router())
        .merge(monitor::router())
        .merge(crate::gates::router(gates))
        .route_layer(in_time.clone());
    let allowed = middleware::from_fn_with_state(app.sign_in.clone(), auth::enforce_access);
    let guarded = uploads::router(app.uploads.clone())
        .merge(answering)
        .route_layer(ServiceBuilder::new().layer(allowed.clone()).layer(behind.clone()));
    let signing_in =
        crate::sign_in::router(app.sign_in.clone(), taken.clone(), |own| own.route_layer(behind))
            .route_layer(filter::filter_requests_with(app.capacity.clone()))
            .route_layer(in_time.clone());
    let admitted = play::session_router().route_layer(
        ServiceBuilder::new()
            .layer(allowed)
            .layer(limit::limit_by_principal())
            .layer(query::refuse_unknown_parameters(taken.clone()))
            .layer(filter::filter_requests_with(app.capacity.clone()))
            .layer(in_time.clone()),
    );
    let open = open_router(&taken).merge(more).route_layer(in_time).merge(play_router(&taken));
    let forms = uploads::form_router()
        .route_layer(query::refuse_unknown_parameters(taken))
        .route_layer(filter::filter_requests_with(app.capacity.clone()));
    let all = guarded.merge(forms).merge(admitted).merge(open).merge(signing_in);
    let counted = RequestMetrics::new(all.operations());
    let clients = client_identification(config);
    let tracing = request_tracing(config, &clients);
    let (router, operations) = all.into_parts();
    router
        .fallback(request::no_such_path)
        .method_not_allowed_fallback(request::no_such_method)
        // One layer for all: each layer of a router costs every request an allocation and a copy of what is inside it.
        .layer(
            ServiceBuilder::new()
                .layer(operations.match_layer())
                .layer(middleware::from_fn_with_state(tracing, request_trace::trace_request))
                .layer(middleware::from_fn_with_state(counted, request_metrics::count_request))
                .layer(middleware::from_fn(request_policy::add_safe_headers))
                .layer(middleware::from_fn_with_state(app.origins.clone(), request_policy::apply_cors))
                .layer(middleware::from_fn_with_state(app.access_sums.clone(), request::assign_request_id))
                .layer(CatchPanicLayer::custom(request::panic_response))
                .layer(middleware::from_fn(request::ensure_problem_body))
                .layer(middleware::from_fn_with_state(manners, request_policy::limit_request_head))
                .layer(middleware::from_fn_with_state(clients, client::identify_client))
                .layer(middleware::from_fn(problem_page::show_problem_page))
                .layer(middleware::from_fn_with_state(Arc::new(config.body), body::attach_limits))
                .layer(limit::limit_by_client(app.limits.clone(), move |token| {
                    PlaybackToken::open(&playback_key, token).map(|named| named.playback_id)
                })),
        )
        .with_state(app)
}

#[cfg(test)]
mod audit_walk;
#[cfg(test)]
mod body_walk;
#[cfg(test)]
pub(crate) mod tests;
#[cfg(test)]
mod walk;

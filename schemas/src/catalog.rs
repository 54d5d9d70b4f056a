//! The list of everything that crosses the bus: the source of `json/`, `asyncapi.json` and the contract tests.

use schemars::{Schema, schema_for};

use crate::{
    BusEvent, KvRecord, access, access_sum, alert, audit, cached, dead_letter, dispatch_query, document,
    envelope, experience, gate, hook, hook_delivery, hook_event, idempotency, index_query, job, limit,
    log_level, media, monitor_query, pause, process_report, schedule, search_query, session, store, upload,
    upload_grant, usage, view, worker,
};

/// One kind of message.
#[derive(Debug, Clone)]
pub struct CatalogEntry {
    /// Name: `<entity>.<verb>` for events, else what it is; the schema file is `<name>.v1.json`.
    pub name: String,
    /// Subject with parameters in braces.
    pub address: String,
    /// Stream that keeps it; empty for core messages.
    pub stream: String,
    /// JSON Schema of the payload, once decoded from MessagePack.
    pub schema: Schema,
}

const AUDIT_RECORD: &str = "audit.record";

fn event_entry<E: BusEvent>() -> CatalogEntry {
    CatalogEntry {
        name: format!("{}.{}", E::ENTITY, E::VERB),
        address: format!("evt.{}.{}.{{id}}", E::ENTITY, E::VERB),
        stream: crate::subjects::EVENTS.into(),
        schema: schema_for!(E),
    }
}

fn record_entry<R: KvRecord>(name: &str, key: &str) -> CatalogEntry {
    CatalogEntry {
        name: format!("kv.{name}"),
        address: format!("$KV.{}.{key}", R::BUCKET),
        stream: crate::subjects::kv_stream_name(R::BUCKET),
        schema: schema_for!(R),
    }
}

impl CatalogEntry {
    /// Media type of the payload.
    pub fn content_type(&self) -> &'static str {
        content_type(&self.name)
    }
}

/// Media type of the payload of the messages called `name`.
pub fn content_type(name: &str) -> &'static str {
    if name == AUDIT_RECORD { crate::LINE_CONTENT_TYPE } else { crate::CONTENT_TYPE }
}

/// Every event kind.
pub fn event_entries() -> Vec<CatalogEntry> {
    let mut entries = vec![
        event_entry::<upload::UploadCreated>(),
        event_entry::<upload::UploadReceived>(),
        event_entry::<upload::UploadExpired>(),
        event_entry::<upload::UploadTerminated>(),
        event_entry::<media::MediaStored>(),
        event_entry::<media::MediaRejected>(),
        event_entry::<media::MediaPlayable>(),
        event_entry::<media::MediaReady>(),
        event_entry::<media::MediaRemoved>(),
        event_entry::<media::MediaRestored>(),
        event_entry::<media::MediaPurged>(),
        event_entry::<media::MediaDelayed>(),
        event_entry::<media::MediaReopened>(),
        event_entry::<document::MediaChanged>(),
        event_entry::<job::JobQueued>(),
        event_entry::<job::JobWaiting>(),
        event_entry::<job::JobStarted>(),
        event_entry::<job::JobRetried>(),
        event_entry::<job::JobSucceeded>(),
        event_entry::<job::JobFailed>(),
        event_entry::<job::JobCancelled>(),
        event_entry::<job::JobPaused>(),
        event_entry::<job::JobResumed>(),
        event_entry::<job::JobReprioritized>(),
        event_entry::<job::JobPartDead>(),
        event_entry::<job::JobParked>(),
        event_entry::<access::AdminKeyCreated>(),
        event_entry::<worker::AdminWorkerChanged>(),
        event_entry::<dead_letter::AdminLetterChanged>(),
        event_entry::<session::AuthChallenged>(),
        event_entry::<session::AuthRefused>(),
        event_entry::<session::AuthSignedIn>(),
        event_entry::<session::AuthRefreshed>(),
        event_entry::<session::AuthReused>(),
        event_entry::<session::AuthSignedOut>(),
        event_entry::<session::AuthKeyCreated>(),
        event_entry::<session::AuthLinkCreated>(),
        event_entry::<session::AuthUploadTokenCreated>(),
        event_entry::<session::AuthKeyRevoked>(),
        event_entry::<upload_grant::UploadGrantCreated>(),
        event_entry::<upload_grant::UploadGrantUsed>(),
        event_entry::<upload_grant::UploadGrantRevoked>(),
        event_entry::<gate::GateChanged>(),
        event_entry::<gate::GateGranted>(),
        event_entry::<gate::GateDenied>(),
        event_entry::<gate::GateRevoked>(),
        event_entry::<gate::GateDoubted>(),
        event_entry::<view::ViewSummed>(),
        event_entry::<limit::RateLimitExceeded>(),
        event_entry::<access_sum::AccessSummed>(),
        event_entry::<schedule::ScheduleCreated>(),
        event_entry::<schedule::ScheduleChanged>(),
        event_entry::<schedule::ScheduleRemoved>(),
        event_entry::<schedule::ScheduleFired>(),
        event_entry::<schedule::ScheduleRefused>(),
        event_entry::<schedule::ScheduleMissed>(),
        event_entry::<pause::QueuePaused>(),
        event_entry::<pause::QueueResumed>(),
        event_entry::<cached::CacheCleared>(),
        event_entry::<log_level::AdminLogLevelChanged>(),
        event_entry::<alert::AlertFired>(),
        event_entry::<alert::AlertResolved>(),
        event_entry::<alert::AlertSilenced>(),
        event_entry::<alert::AlertAcknowledged>(),
    ];
    entries.extend(hook_event_entries());
    entries
}

/// Those of webhooks.
fn hook_event_entries() -> Vec<CatalogEntry> {
    vec![
        event_entry::<hook_event::HookCreated>(),
        event_entry::<hook_event::HookChanged>(),
        event_entry::<hook_event::HookRemoved>(),
        event_entry::<hook_event::HookPaused>(),
        event_entry::<hook_event::HookResumed>(),
        event_entry::<hook_event::HookRotated>(),
        event_entry::<hook_event::HookTested>(),
        event_entry::<hook_event::HookRedelivered>(),
        event_entry::<hook_event::HookReplayed>(),
        event_entry::<hook_event::HookSkipped>(),
    ]
}

/// Every record kind. On the bus a record lies inside an [`envelope::RecordEnvelope`].
pub fn record_entries() -> Vec<CatalogEntry> {
    vec![
        record_entry::<upload::UploadRecord>("uploads", "{upload_id}"),
        record_entry::<view::ViewPosition>("limits.views", "views.{partition}"),
        record_entry::<upload::OpenUploads>("limits.uploads", "uploads.{owner_digest}"),
        record_entry::<usage::OwnerUsage>("limits.usage", "usage.{owner_digest}.{day}"),
        record_entry::<experience::MediaExperience>("experience", "{media_id}"),
        record_entry::<document::MediaDocumentRecord>("media", "{media_id}"),
        record_entry::<media::MediaRecord>("assets", "{media_id}"),
        record_entry::<job::JobRecord>("jobs", "{job_id}"),
        record_entry::<job::JobPartRecord>("jobs.part", "{job_id}.{part}"),
        record_entry::<access::ApiKey>("apikeys", "{key_id}"),
        record_entry::<access::SigningSecret>("secrets", "{name}"),
        record_entry::<document::SegmentKey>("keys", "{media_id}"),
        record_entry::<store::StoreIdentity>("store", store::StoreIdentity::KEY),
        record_entry::<gate::PlaybackSession>("grants", "{playback_id}"),
        record_entry::<gate::TokenSlot>("grants.slot", "slot.{digest}"),
        record_entry::<gate::ChainCursor>("grants.cursor", "cursor.{chain_id}"),
        record_entry::<session::SignInChallenge>("nonces", "{challenge_id}"),
        record_entry::<session::ChallengeCounter>(
            "nonces.prefix",
            &session::challenge_counter_key("{prefix_sha256}"),
        ),
        record_entry::<session::SignInLink>("nonces.link", &session::sign_in_link_key("{code_sha256}")),
        record_entry::<session::UploadToken>("nonces.upload", &session::upload_token_key("{token_sha256}")),
        record_entry::<upload_grant::UploadGrant>("apikeys.grant", "grant.{grant_id}"),
        record_entry::<upload_grant::OwnerUploadGrants>(
            "apikeys.grants",
            &upload_grant::upload_grant_list_key("{owner_sha256}"),
        ),
        record_entry::<session::AuthSession>("sessions", "{session_id}"),
        record_entry::<session::WalletSessions>(
            "sessions.wallet",
            &session::wallet_sessions_key("{address}", None),
        ),
        record_entry::<session::KeyRing>("secrets.ring", &session::ring_record_key("{name}")),
        record_entry::<session::OwnerApiKeys>("apikeys.owner", &session::api_key_list_key("{owner_sha256}")),
        record_entry::<limit::IngressReplicas>("limits.replicas", limit::IngressReplicas::KEY),
        record_entry::<limit::RateLimitEventCounter>("limits.reported", limit::RateLimitEventCounter::KEY),
        record_entry::<pause::QueuePauses>("limits.pauses", pause::QueuePauses::KEY),
        record_entry::<log_level::LogLevels>("limits.log_levels", log_level::LogLevels::KEY),
        record_entry::<alert::AlertBoard>("limits.alerts", alert::AlertBoard::KEY),
        record_entry::<cached::CachedEntry>("cache", &cached::entry_key("{owner_digest}", "{key_digest}")),
        record_entry::<cached::CacheEpoch>("limits.cache_epoch", cached::CacheEpoch::KEY),
        record_entry::<cached::CacheFlush>("cache.flush", cached::CacheFlush::KEY),
        record_entry::<cached::CacheTick>("cache.tick", "tick.{replica}.{number}"),
        record_entry::<idempotency::IdempotencyRecord>("idempotency", "{digest}"),
        record_entry::<schedule::ScheduleRecord>(
            "schedules",
            &schedule::schedule_key("{owner_key}", "{schedule_id}"),
        ),
        record_entry::<hook::HookRecord>("hooks", &hook::hook_key("{owner_key}", "{hook_id}")),
        record_entry::<hook::HookProgress>("hooks.progress", &hook::hook_progress_key("{hook_id}")),
        record_entry::<hook::HookRequests>("hooks.requests", &hook::hook_requests_key("{hook_id}")),
        record_entry::<worker::WorkerRecord>("workers", &crate::subjects::worker_key("{kind}", "{worker}")),
    ]
}

fn request_entry<Q: schemars::JsonSchema>(verb: &str) -> CatalogEntry {
    CatalogEntry {
        name: format!("ask.{verb}"),
        address: crate::subjects::index_request_subject(verb),
        stream: String::new(),
        schema: schema_for!(Q),
    }
}

fn reply_entry<A: schemars::JsonSchema>(verb: &str) -> CatalogEntry {
    CatalogEntry {
        name: format!("ask.{verb}.answer"),
        address: "{inbox}".into(),
        stream: String::new(),
        schema: schema_for!(A),
    }
}

/// Everything else.
pub fn other_entries() -> Vec<CatalogEntry> {
    let mut entries = vec![
        CatalogEntry {
            name: "kv.envelope".into(),
            address: "$KV.{bucket}.{key}".into(),
            stream: "KV_{bucket}".into(),
            schema: schema_for!(envelope::RecordEnvelope),
        },
        CatalogEntry {
            name: "view.opened".into(),
            address: "view.{partition}.opened.{media_id}".into(),
            stream: crate::subjects::VIEWS.into(),
            schema: schema_for!(view::ViewOpened),
        },
        CatalogEntry {
            name: "job.task".into(),
            address: "job.{kind}.{priority}.{job_id}.{part}".into(),
            stream: crate::subjects::JOBS.into(),
            schema: schema_for!(job::JobPartTask),
        },
        CatalogEntry {
            name: "job.progress".into(),
            address: "progress.{job_id}.{part}".into(),
            stream: crate::subjects::PROGRESS.into(),
            schema: schema_for!(job::JobPartProgress),
        },
        CatalogEntry {
            name: AUDIT_RECORD.into(),
            address: crate::subjects::audit_subject("{class}", "{action}"),
            stream: crate::subjects::AUDIT.into(),
            schema: schema_for!(audit::AuditRecord),
        },
        CatalogEntry {
            name: "hooklog.delivery".into(),
            address: "hooklog.{hook_id}".into(),
            stream: crate::subjects::HOOKLOG.into(),
            schema: schema_for!(hook_delivery::HookDelivery),
        },
        request_entry::<index_query::MediaIndexQuery>(index_query::MEDIA),
        reply_entry::<index_query::IndexReply<index_query::MediaIndexPage>>(index_query::MEDIA),
        request_entry::<index_query::EncodeActivityQuery>(index_query::ENCODE_ACTIVITY),
        reply_entry::<index_query::IndexReply<index_query::EncodeActivity>>(index_query::ENCODE_ACTIVITY),
        request_entry::<index_query::HistoryIndexQuery>(index_query::HISTORY),
        reply_entry::<index_query::IndexReply<index_query::HistoryIndexPage>>(index_query::HISTORY),
        request_entry::<index_query::JobCountsQuery>(index_query::JOB_COUNTS),
        reply_entry::<index_query::IndexReply<index_query::JobCounts>>(index_query::JOB_COUNTS),
        request_entry::<index_query::PublicMediaIndexQuery>(index_query::PUBLIC_MEDIA),
        reply_entry::<index_query::IndexReply<index_query::MediaIndexPage>>(index_query::PUBLIC_MEDIA),
        request_entry::<search_query::MediaSearchQuery>(search_query::SEARCH_MEDIA),
        reply_entry::<index_query::IndexReply<search_query::MediaSearchPage>>(search_query::SEARCH_MEDIA),
        request_entry::<index_query::JobIndexQuery>(index_query::JOBS),
        reply_entry::<index_query::IndexReply<index_query::JobIndexPage>>(index_query::JOBS),
        position_request_entry(job::JobQueue::Transcode),
        reply_entry::<dispatch_query::DispatchPosition>(dispatch_query::position_verb(
            job::JobQueue::Transcode,
        )),
        position_request_entry(job::JobQueue::Tasks),
        reply_entry::<dispatch_query::DispatchPosition>(dispatch_query::position_verb(job::JobQueue::Tasks)),
        CatalogEntry {
            name: "ask.worker".into(),
            address: crate::subjects::worker_command_subject("{worker}"),
            stream: String::new(),
            schema: schema_for!(worker::WorkerCommand),
        },
        reply_entry::<worker::WorkerCommandReply>("worker"),
    ];
    entries.extend(monitor_entries());
    entries
}

/// What processes say of themselves, and what is asked of the monitor.
fn monitor_entries() -> Vec<CatalogEntry> {
    vec![
        CatalogEntry {
            name: "log".into(),
            address: crate::subjects::log_subject("{role}"),
            stream: String::new(),
            schema: schema_for!(process_report::ProcessReport),
        },
        monitor_request_entry::<monitor_query::ProcessQuery>(monitor_query::PROCESSES),
        reply_entry::<monitor_query::ProcessList>(monitor_query::PROCESSES),
        monitor_request_entry::<monitor_query::LogQuery>(monitor_query::LOGS),
        reply_entry::<monitor_query::LogPage>(monitor_query::LOGS),
        monitor_request_entry::<monitor_query::MetricQuery>(monitor_query::METRICS),
        reply_entry::<monitor_query::MetricPage>(monitor_query::METRICS),
    ]
}

/// A question to the monitor.
fn monitor_request_entry<Q: schemars::JsonSchema>(verb: &str) -> CatalogEntry {
    CatalogEntry {
        name: format!("ask.{verb}"),
        address: crate::subjects::monitor_request_subject(verb),
        stream: String::new(),
        schema: schema_for!(Q),
    }
}

/// The question to the dispatcher of a queue.
fn position_request_entry(queue: job::JobQueue) -> CatalogEntry {
    let verb = dispatch_query::position_verb(queue);
    CatalogEntry {
        name: format!("ask.{verb}"),
        address: crate::subjects::dispatch_request_subject(verb),
        stream: String::new(),
        schema: schema_for!(dispatch_query::DispatchPositionQuery),
    }
}

/// Everything, in a stable order.
pub fn all_entries() -> Vec<CatalogEntry> {
    let mut all = event_entries();
    all.extend(record_entries());
    all.extend(other_entries());
    all
}

//! Webhooks: addresses to which the keeper sends events. Here they are made, read, changed and removed, and what was sent is shown.
//!
//! A hook sends what its owner may follow (`GET /v1/events`), in the same form, and nothing about hooks. Its secret is shown when it is
//! made, and never again; the query of its address, which may hold one, to nobody.
//!
//! A hook for all owners goes on when the key of who made it is taken back: roles are of keys, and the keeper knows none. Administrators
//! pause or remove it; who is none any more can pause it, remove it or switch that off, and nothing else.
//!
//! Limits: an account has at most [`schemas::hook::HOOKS_MAX`] hooks, and [`OWNER_RECORDS_MAX`] with those that were removed and are not cleared yet
//! (requests at the same moment may go a few over it); others are those of [`schemas::hook`].

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use nats::{Bus, BusError, Outbox, VersionedRecord};
use outbound::{Networks, OutboundUrl};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::{ApiKeyScope, PrincipalRole},
    hook::{
        HookPosition, HookProgress, HookRecord, HookSecret, NAME_CHARS_MAX, TYPES_MAX, URL_BYTES_MAX,
        hook_key, hook_progress_key,
    },
    hook_event::HookCreated,
    ids::{HookId, JobId, MediaId},
    subjects,
};
use serde::Deserialize;
use serde_bytes::ByteBuf;

use super::{AppState, capacity, openapi, schedules::owner_key};
use auth::Principal;
use document::{CreatedHookDocument, HookDocument};
use web::{
    body::JsonBody,
    error::Problem,
    idempotency::{IdempotencyClaim, ShownOnceResponse},
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    problem_code::ProblemCode,
    public_address::PublicAddress,
};
use webhooks::{
    filter::{EventTypeError, check_types},
    signature::{SECRET_BYTES, show_secret},
};

mod ask;
mod change;
mod deliveries;
mod document;
mod list;
#[cfg(test)]
pub(crate) mod tests;
mod turn;

pub use change::{describe_change, remove_record};

/// Most records of hooks of one account: those that send, and tombstones.
pub const OWNER_RECORDS_MAX: usize = 200;

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&CREATE_HOOK, create_hook)
        .with(&list::LIST_HOOKS, list::list_hooks)
        .with(&READ_HOOK, read_hook)
        .with(&change::CHANGE_HOOK, change::change_hook)
        .with(&change::REMOVE_HOOK, change::remove_hook)
        .with(&turn::PAUSE_HOOK, turn::pause_hook)
        .with(&turn::RESUME_HOOK, turn::resume_hook)
        .with(&turn::ROTATE_HOOK_SECRET, turn::rotate_hook_secret)
        .with(&ask::TEST_HOOK, ask::test_hook)
        .with(&ask::REDELIVER_EVENT, ask::redeliver_event)
        .with(&ask::REPLAY_HOOK, ask::replay_hook)
        .with(&deliveries::LIST_DELIVERIES, deliveries::list_deliveries)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    create_hook,
    list::list_hooks,
    read_hook,
    change::change_hook,
    change::remove_hook,
    turn::pause_hook,
    turn::resume_hook,
    turn::rotate_hook_secret,
    ask::test_hook,
    ask::redeliver_event,
    ask::replay_hook,
    deliveries::list_deliveries
))]
pub(super) struct HooksApiDoc;

impl openapi::OperationGroup for HooksApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_request::<HookRequest>();
        schemas.add_request::<change::HookChangeRequest>();
        schemas.add_request::<turn::RotateRequest>();
        schemas.add_request::<ask::ReplayRequest>();
        schemas.add_response::<HookDocument>();
        schemas.add_response::<CreatedHookDocument>();
        schemas.add_response::<turn::HookSecretDocument>();
        schemas.add_response::<list::HookList>();
        schemas.add_response::<ask::AskedDeliveryDocument>();
        schemas.add_response::<ask::ReplayDocument>();
        schemas.add_response::<deliveries::DeliveryList>();
    }
}

/// What changes something about a hook.
const fn hook_operation(method: Method, path: &'static str, events: &'static [&'static str]) -> Operation {
    let access = OperationAccess::Principal(ApiKeyScope::Events);
    Operation::change(method, path, access, Some(RateLimitGroup::Api), events)
}

/// A hook that is to be made.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HookRequest", example = document::example_request())]
struct HookRequest {
    /// What people call it.
    #[serde(default)]
    #[schemars(length(max = NAME_CHARS_MAX))]
    name: String,
    /// Where events are sent: `http` or `https`, without user and password, at a public address. Its query may hold a secret: it is shown
    /// to nobody.
    #[schemars(length(min = 1, max = URL_BYTES_MAX))]
    url: String,
    /// Kinds of events that are sent: an entity such as `media`, or one kind such as `media.ready`; all when absent or empty.
    #[serde(default)]
    #[schemars(length(max = TYPES_MAX))]
    types: Vec<String>,
    /// Only events about this medium.
    media_id: Option<MediaId>,
    /// Only events about this job.
    job_id: Option<JobId>,
    /// True for the events of all owners, and those about the installation: for admins.
    #[serde(default)]
    all_owners: bool,
}

static CREATE_HOOK: Operation =
    hook_operation(Method::POST, "/v1/hooks", &["hook.created"]).with_room(capacity::HOOK);

/// Make a hook
///
/// From now on, events are sent to its address by POST, as the `data` of `GET /v1/events`, signed as Standard Webhooks have it; those of
/// one medium one after the other, each at least once, again and again for three days. `secret` is shown this once.
#[utoipa::path(
    post,
    path = CREATE_HOOK.path,
    tag = "events",
    operation_id = "create_hook",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/HookRequest"), content_type = "application/json"),
    responses(
        (status = 201, description = "The hook with its secret", body = ref("#/components/schemas/HookMade"), headers(("Location"), ("ETag"))),
        (status = 403, description = "The events of all owners are for admins"),
        (status = 409, description = "There are too many hooks already; or it was made, and its secret shown before"),
        (status = 422, description = "Nothing is sent to this address, or there are no such events: `code` says which"),
    ),
)]
async fn create_hook(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    claim: Option<Extension<IdempotencyClaim>>,
    JsonBody(wanted): JsonBody<HookRequest>,
) -> Result<Response, Problem> {
    check_name(&wanted.name)?;
    check_wanted_types(&wanted.types)?;
    let url = check_url(&app, &wanted.url)?;
    require_all_owners(&who, wanted.all_owners)?;
    let id = claim.map_or_else(nats::new_id_bytes, |claim| claim.derive_id(0));
    let hook_id = HookId::from_bytes(id);
    let once = ShownOnceResponse {
        detail: format!("the hook {hook_id} was made; if its secret was lost, rotate it"),
    };
    let owner_key = owner_key(&who.owner);
    if app.bus.load_record::<HookRecord>(&hook_key(&owner_key, &hook_id.to_string())).await?.is_some() {
        return Err(once.to_problem());
    }
    list::check_count(&app.bus, &owner_key).await?;
    let now_ms = read_broker_time(&app.bus).await?;
    let (secret, shown_secret) = make_secret(now_ms);
    let end = app.bus.stream_extent(subjects::EVENTS).await?.end;
    let record = HookRecord {
        hook_id,
        owner: who.owner.clone(),
        owner_key,
        created_by: who.owner.clone(),
        name: wanted.name,
        url: url.expose().to_owned(),
        types: wanted.types,
        media_id: wanted.media_id,
        job_id: wanted.job_id,
        is_for_all: wanted.all_owners,
        secrets: vec![secret],
        begins: HookPosition { created_at_ms: end.created_at_ms, sequence: end.sequence },
        created_at_ms: now_ms,
        paused: None,
        resumed_at_ms: None,
        removed_at_ms: None,
        is_given_away: false,
        log_from_ms: None,
    };
    let event = HookCreated {
        hook_id,
        owner: record.owner.clone(),
        url: url.shown_origin(),
        types: record.types.clone(),
        media_id: record.media_id,
        job_id: record.job_id,
        is_for_all: record.is_for_all,
        created_by: who.owner.clone(),
    };
    let mut held = VersionedRecord::new(record);
    app.bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
    tracing::info!(hook.id = %hook_id, by = who.owner, "a hook was made");
    let location = address.location(&format!("/v1/hooks/{hook_id}"))?;
    let tag = document::settings_tag(&held.record)?;
    let body = CreatedHookDocument::new(&held.record, shown_secret);
    let headers = [
        (header::LOCATION, location),
        (header::ETAG, tag.to_header()),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((StatusCode::CREATED, headers, Extension(once), Json(body)).into_response())
}

/// A new secret, and how receivers are given it.
fn make_secret(now_ms: u64) -> (HookSecret, String) {
    let bytes: [u8; SECRET_BYTES] = rand::random();
    let secret =
        HookSecret { bytes: ByteBuf::from(bytes.to_vec()), made_at_ms: now_ms, signs_until_ms: None };
    (secret, show_secret(&bytes))
}

fn check_name(name: &str) -> Result<(), Problem> {
    if name.chars().count() > NAME_CHARS_MAX || name.chars().any(char::is_control) {
        let detail = format!("at most {NAME_CHARS_MAX} characters, all of them to be shown");
        return Err(Problem::new(ProblemCode::HookNameInvalid).with_pointer("/name", detail));
    }
    Ok(())
}

fn check_wanted_types(types: &[String]) -> Result<(), Problem> {
    check_types(types).map_err(|error| {
        let pointer = match error {
            EventTypeError::TooMany => "/types".to_owned(),
            EventTypeError::Unknown { index } | EventTypeError::AboutHooks { index } => {
                format!("/types/{index}")
            }
        };
        Problem::new(ProblemCode::HookTypesInvalid).with_pointer(&pointer, error.to_string())
    })
}

/// Reads an address; a name is looked up when something is sent.
fn check_url(app: &AppState, text: &str) -> Result<OutboundUrl, Problem> {
    let refuse = |detail: String| Problem::new(ProblemCode::HookUrlRefused).with_pointer("/url", detail);
    if text.len() > URL_BYTES_MAX {
        return Err(refuse(format!("at most {URL_BYTES_MAX} bytes")));
    }
    let networks = Networks::new(app.config.uploads.fetch_networks.clone());
    OutboundUrl::parse(text, &networks).map_err(|error| refuse(error.to_string()))
}

fn require_all_owners(who: &Principal, is_for_all: bool) -> Result<(), Problem> {
    if is_for_all && who.role != PrincipalRole::Admin {
        let detail = "only an administrator has a hook that sends the events of all owners; remove it, or switch `all_owners` off";
        return Err(Problem::new(ProblemCode::NotYours).with_detail(detail));
    }
    Ok(())
}

static READ_HOOK: Operation = Operation::read(
    "/v1/hooks/{hook_id}",
    OperationAccess::Principal(ApiKeyScope::Events),
    Some(RateLimitGroup::Api),
);

/// Read one hook, with how far it is
///
/// Its `ETag` is that of what is set; what is delivered meanwhile does not change it.
#[utoipa::path(
    get,
    path = READ_HOOK.path,
    tag = "events",
    operation_id = "read_hook",
    params(("hook_id", Path)),
    responses((status = 200, description = "The hook", body = ref("#/components/schemas/HookDocument"), headers(("ETag")))),
)]
async fn read_hook(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Response, Problem> {
    let held = load_visible(&app.bus, &id, &who).await?;
    answer_with(&app.bus, held.record).await
}

/// The hook as people read it.
async fn answer_with(bus: &Bus, record: HookRecord) -> Result<Response, Problem> {
    let progress = bus.load_record::<HookProgress>(&hook_progress_key(&record.hook_id.to_string())).await?;
    let tag = document::settings_tag(&record)?;
    let body = HookDocument::new(&record, progress.as_ref().map(|held| &held.record));
    Ok(([(header::ETAG, tag.to_header())], Json(body)).into_response())
}

fn no_such_hook() -> Problem {
    Problem::not_found("there is no such hook, or it is not yours")
}

/// The hook, if `who` may see it.
async fn load_visible(bus: &Bus, id: &str, who: &Principal) -> Result<VersionedRecord<HookRecord>, Problem> {
    let hook_id: HookId = id.parse().map_err(|_| no_such_hook())?;
    // An operator asks for those of all owners.
    let owner = who.list_owner_filter().map(|owner| owner_key(&owner));
    let key = hook_key(owner.as_deref().unwrap_or("*"), &hook_id.to_string());
    let held = bus.load_record::<HookRecord>(&key).await.map_err(|error| match error {
        BusError::Undecodable { .. } => Problem::new(ProblemCode::HookNewer),
        other => other.into(),
    })?;
    let held = held.ok_or_else(no_such_hook)?;
    if who.may_see(&held.record.owner) { Ok(held) } else { Err(no_such_hook()) }
}

/// The hook, if `who` may change it.
async fn load_owned(bus: &Bus, id: &str, who: &Principal) -> Result<VersionedRecord<HookRecord>, Problem> {
    let held = load_visible(bus, id, who).await?;
    if who.may_change(&held.record.owner) { Ok(held) } else { Err(Problem::new(ProblemCode::NotOwner)) }
}

/// The same, if what it sends is for `who` to see: who made a hook for all owners may be no administrator any more.
async fn load_usable(bus: &Bus, id: &str, who: &Principal) -> Result<VersionedRecord<HookRecord>, Problem> {
    let held = load_owned(bus, id, who).await?;
    require_all_owners(who, held.record.is_for_all)?;
    Ok(held)
}

/// The same as [`load_owned`], if what `who` has seen is what is there.
async fn load_changeable(
    bus: &Bus,
    id: &str,
    who: &Principal,
    headers: &HeaderMap,
) -> Result<VersionedRecord<HookRecord>, Problem> {
    let held = load_owned(bus, id, who).await?;
    web::conditional::check_if_match(headers, Some(document::settings_tag(&held.record)?))?;
    Ok(held)
}

async fn read_broker_time(bus: &Bus) -> Result<u64, Problem> {
    Ok(bus.broker_now_ms(&subjects::kv_stream_name(HookRecord::BUCKET)).await?)
}

//! What people change about a hook, and how they remove one.

use axum::{
    extract::{Path, State},
    http::{HeaderMap, Method, StatusCode},
    response::Response,
};
use nats::{BusError, CHANGE_ATTEMPTS_MAX, Outbox};
use schemars::JsonSchema;
use schemas::{
    hook::{HookRecord, NAME_CHARS_MAX, TYPES_MAX, URL_BYTES_MAX},
    hook_event::{HookChanged, HookRemoved},
    ids::{JobId, MediaId},
};
use serde::Deserialize;
use serde_json::json;

use super::{
    answer_with, check_name, check_url, check_wanted_types, document::shown_origin, hook_operation,
    load_changeable, read_broker_time, require_all_owners,
};
use crate::AppState;
use auth::Principal;
use web::{
    body::{JsonBody, deserialize_present},
    error::Problem,
    operation::Operation,
};

/// What to change in a hook; what is absent stays.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HookChange", example = json!({ "types": ["media.ready"], "media_id": null }))]
pub(super) struct HookChangeRequest {
    /// What people call it; empty for none.
    #[schemars(length(max = NAME_CHARS_MAX))]
    name: Option<String>,
    /// Where events are sent, with its query.
    #[schemars(length(min = 1, max = URL_BYTES_MAX))]
    url: Option<String>,
    /// Kinds of events that are sent; empty for all.
    #[schemars(length(max = TYPES_MAX))]
    types: Option<Vec<String>>,
    /// Only events about this medium; null for all.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schemars(with = "Option<MediaId>")]
    #[expect(clippy::option_option, reason = "absent and null are two things")]
    media_id: Option<Option<MediaId>>,
    /// Only events about this job; null for all.
    #[serde(default, deserialize_with = "deserialize_present")]
    #[schemars(with = "Option<JobId>")]
    #[expect(clippy::option_option, reason = "absent and null are two things")]
    job_id: Option<Option<JobId>>,
    /// True for the events of all owners, and those about the installation: for admins.
    all_owners: Option<bool>,
}

impl HookChangeRequest {
    fn apply_to(&self, before: &HookRecord) -> HookRecord {
        HookRecord {
            name: self.name.clone().unwrap_or_else(|| before.name.clone()),
            url: self.url.clone().unwrap_or_else(|| before.url.clone()),
            types: self.types.clone().unwrap_or_else(|| before.types.clone()),
            media_id: self.media_id.unwrap_or(before.media_id),
            job_id: self.job_id.unwrap_or(before.job_id),
            is_for_all: self.all_owners.unwrap_or(before.is_for_all),
            ..before.clone()
        }
    }
}

/// How a hook is after a change, for its event.
pub fn describe_change(record: &HookRecord, changed_by: &str) -> HookChanged {
    HookChanged {
        hook_id: record.hook_id,
        owner: record.owner.clone(),
        url: shown_origin(&record.url),
        types: record.types.clone(),
        media_id: record.media_id,
        job_id: record.job_id,
        is_for_all: record.is_for_all,
        changed_by: changed_by.to_owned(),
    }
}

pub(super) static CHANGE_HOOK: Operation =
    hook_operation(Method::PATCH, "/v1/hooks/{hook_id}", &["hook.changed"]);

/// Change a hook
///
/// What happened before, and waits for its delivery, is sent to the new address.
#[utoipa::path(
    patch,
    path = CHANGE_HOOK.path,
    tag = "events",
    operation_id = "change_hook",
    params(("hook_id", Path), ("If-Match", Header)),
    request_body(content = ref("#/components/schemas/HookChange"), content_type = "application/json"),
    responses(
        (status = 200, description = "The hook as it is now", body = ref("#/components/schemas/HookDocument"), headers(("ETag"))),
        (status = 422, description = "Nothing is sent to this address, or there are no such events: `code` says which"),
    ),
)]
pub(super) async fn change_hook(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
    JsonBody(mut wanted): JsonBody<HookChangeRequest>,
) -> Result<Response, Problem> {
    let mut attempt = 0;
    loop {
        let mut held = load_changeable(&app.bus, &id, &who, &headers).await?;
        if let Some(name) = &wanted.name {
            check_name(name)?;
        }
        if let Some(types) = &wanted.types {
            check_wanted_types(types)?;
        }
        if let Some(url) = &mut wanted.url {
            check_url(&app, url)?.expose().clone_into(url);
        }
        let mut after = wanted.apply_to(&held.record);
        // An owner that is no admin any more may still switch it off.
        require_all_owners(&who, after.is_for_all)?;
        if after == held.record {
            return answer_with(&app.bus, after).await;
        }
        if held.record.is_for_all && !after.is_for_all {
            after.log_from_ms = Some(read_broker_time(&app.bus).await?);
        }
        held.record = after;
        let event = describe_change(&held.record, &who.owner);
        attempt += 1;
        match app.bus.commit_record(&mut held, Outbox::new().with_event(&event)).await {
            Ok(()) => return answer_with(&app.bus, held.record).await,
            // The precondition is looked at again: a named version is gone, `*` still fits.
            Err(BusError::Conflict { .. }) if attempt < CHANGE_ATTEMPTS_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

pub(super) static REMOVE_HOOK: Operation =
    hook_operation(Method::DELETE, "/v1/hooks/{hook_id}", &["hook.removed"]);

/// Remove a hook
///
/// What was logged of its deliveries goes with it.
#[utoipa::path(
    delete,
    path = REMOVE_HOOK.path,
    tag = "events",
    operation_id = "remove_hook",
    params(("hook_id", Path), ("If-Match", Header)),
    responses((status = 204, description = "It is gone")),
)]
pub(super) async fn remove_hook(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let now_ms = read_broker_time(&app.bus).await?;
    let mut attempt = 0;
    loop {
        let mut held = load_changeable(&app.bus, &id, &who, &headers).await?;
        let (removed, outbox) = remove_record(held.record, now_ms, &who.owner);
        held.record = removed;
        attempt += 1;
        match app.bus.commit_record(&mut held, outbox).await {
            Ok(()) => {
                tracing::info!(hook.id = %held.record.hook_id, by = who.owner, "a hook was removed");
                return Ok(StatusCode::NO_CONTENT);
            }
            Err(BusError::Conflict { .. }) if attempt < CHANGE_ATTEMPTS_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A hook as it is once it is removed, at a time of the broker, with the event of that.
pub fn remove_record(hook: HookRecord, now_ms: u64, removed_by: &str) -> (HookRecord, Outbox) {
    let (hook_id, owner) = (hook.hook_id, hook.owner.clone());
    let event = HookRemoved { hook_id, owner, removed_by: removed_by.to_owned() };
    // What is kept for a while needs neither address nor secrets.
    let removed = HookRecord { removed_at_ms: Some(now_ms), url: String::new(), secrets: Vec::new(), ..hook };
    (removed, Outbox::new().with_event(&event))
}

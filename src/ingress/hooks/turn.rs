//! Pausing and resuming a hook, and giving it a new secret.
//!
//! Limits: [`SECRETS_MAX`] secrets sign at a time; an old one signs for at most [`OLD_SIGNS_S_MAX`].

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{HeaderValue, Method, StatusCode, header},
    response::{IntoResponse as _, Response},
};
use nats::Outbox;
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    hook::{HookPause, HookPauseReason, HookRecord, SECRETS_MAX},
    hook_event::{HookPaused, HookResumed, HookRotated},
    ids::HookId,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    answer_with, hook_operation, load_owned, load_usable, make_secret, no_such_hook, read_broker_time,
};
use crate::AppState;
use auth::Principal;
use web::{
    body::OptionalJsonBody, error::Problem, idempotency::ShownOnceResponse, operation::Operation,
    problem_code::ProblemCode,
};

/// How long an old secret signs beside the new one unless the request says otherwise, in seconds: a day.
const OLD_SIGNS_S: u64 = 24 * 3_600;
/// Longest time for that, in seconds: a week.
pub(super) const OLD_SIGNS_S_MAX: u64 = 7 * 24 * 3_600;

/// Changes the hook, unless `change` leaves it; answers how it is then.
async fn change_record(
    app: &AppState,
    key: &str,
    change: impl Fn(&HookRecord) -> Option<(HookRecord, Outbox)> + Send + Sync,
) -> Result<HookRecord, Problem> {
    let held = app.bus.change_record::<HookRecord>(key, |found| found.and_then(&change)).await?;
    Ok(held.ok_or_else(no_such_hook)?.record)
}

pub(super) static PAUSE_HOOK: Operation =
    hook_operation(Method::POST, "/v1/hooks/{hook_id}/pause", &["hook.paused"]);

/// Pause a hook
///
/// It sends nothing until it is resumed; what happens meanwhile waits. Pausing it twice is no error.
#[utoipa::path(
    post,
    path = PAUSE_HOOK.path,
    tag = "events",
    operation_id = "pause_hook",
    params(("hook_id", Path), ("Idempotency-Key", Header)),
    responses((
        status = 200, description = "The hook, which is paused", body = ref("#/components/schemas/HookDocument"),
        headers(("ETag")),
    )),
)]
pub(super) async fn pause_hook(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Response, Problem> {
    let held = load_owned(&app.bus, &id, &who).await?;
    let at_ms = read_broker_time(&app.bus).await?;
    let paused = change_record(&app, &held.record.key(), |before| {
        if before.paused.is_some() {
            return None;
        }
        let (reason, by) = (HookPauseReason::Person, Some(who.owner.clone()));
        let (hook_id, owner) = (before.hook_id, before.owner.clone());
        let event = HookPaused { hook_id, owner, reason, code: None, paused_by: by.clone() };
        let after = HookRecord { paused: Some(HookPause { at_ms, reason, by }), ..before.clone() };
        Some((after, Outbox::new().with_event(&event)))
    })
    .await?;
    answer_with(&app.bus, paused).await
}

pub(super) static RESUME_HOOK: Operation =
    hook_operation(Method::POST, "/v1/hooks/{hook_id}/resume", &["hook.resumed"]);

/// Resume a hook
///
/// What waits is sent, each for its whole time anew. Resuming it twice is no error.
#[utoipa::path(
    post,
    path = RESUME_HOOK.path,
    tag = "events",
    operation_id = "resume_hook",
    params(("hook_id", Path), ("Idempotency-Key", Header)),
    responses((
        status = 200, description = "The hook, which sends again", body = ref("#/components/schemas/HookDocument"),
        headers(("ETag")),
    )),
)]
pub(super) async fn resume_hook(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
) -> Result<Response, Problem> {
    let held = load_usable(&app.bus, &id, &who).await?;
    let now_ms = read_broker_time(&app.bus).await?;
    let resumed = change_record(&app, &held.record.key(), |before| {
        before.paused.as_ref()?;
        let (hook_id, owner) = (before.hook_id, before.owner.clone());
        let event = HookResumed { hook_id, owner, resumed_by: who.owner.clone() };
        let after = HookRecord { paused: None, resumed_at_ms: Some(now_ms), ..before.clone() };
        Some((after, Outbox::new().with_event(&event)))
    })
    .await?;
    answer_with(&app.bus, resumed).await
}

/// How a secret is changed.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HookRotation", example = json!({ "old_signs_s": 86_400 }))]
pub(super) struct RotateRequest {
    /// For how many seconds the old secret signs beside the new one; a day when absent, 0 to take it out of use at once.
    #[schemars(range(max = OLD_SIGNS_S_MAX))]
    old_signs_s: Option<u64>,
}

/// A new secret.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HookSecretMade", example = json!({
    "hook_id": "06db00840lt0303jc5mn0r355k", "secret": "whsec_...", "old_signs_until_ms": 1_763_987_214_467_u64,
}))]
pub(super) struct HookSecretDocument {
    /// The hook.
    hook_id: HookId,
    /// What it signs by from now on: shown this once.
    secret: String,
    /// Unix time in milliseconds until which the old one signs, too.
    old_signs_until_ms: u64,
}

pub(super) static ROTATE_HOOK_SECRET: Operation =
    hook_operation(Method::POST, "/v1/hooks/{hook_id}/rotate", &["hook.rotated"]);

/// Give a hook a new secret
///
/// Until the time of the old one is over, each delivery has a signature by both.
#[utoipa::path(
    post,
    path = ROTATE_HOOK_SECRET.path,
    tag = "events",
    operation_id = "rotate_hook_secret",
    params(("hook_id", Path), ("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/HookRotation"), content_type = "application/json"),
    responses(
        (status = 201, description = "The secret", body = ref("#/components/schemas/HookSecretMade")),
        (status = 409, description = "As many secrets sign as may; or it was made and shown before"),
    ),
)]
pub(super) async fn rotate_hook_secret(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    OptionalJsonBody(wanted): OptionalJsonBody<RotateRequest>,
) -> Result<Response, Problem> {
    let old_signs_s = wanted.old_signs_s.unwrap_or(OLD_SIGNS_S);
    if old_signs_s > OLD_SIGNS_S_MAX {
        let detail = format!("at most {OLD_SIGNS_S_MAX} s");
        return Err(Problem::new(ProblemCode::RequestInvalid).with_pointer("/old_signs_s", detail));
    }
    let held = load_usable(&app.bus, &id, &who).await?;
    let hook_id = held.record.hook_id;
    let now_ms = read_broker_time(&app.bus).await?;
    let old_signs_until_ms = now_ms.saturating_add(old_signs_s.saturating_mul(1_000));
    let (secret, shown_secret) = make_secret(now_ms);
    let changed = change_record(&app, &held.record.key(), |before| {
        let mut after = before.clone();
        for old in &mut after.secrets {
            old.signs_until_ms.get_or_insert(old_signs_until_ms);
        }
        after.secrets.retain(|old| old.signs_until_ms.is_some_and(|until_ms| now_ms < until_ms));
        if after.secrets.len() >= SECRETS_MAX {
            return None;
        }
        after.secrets.push(secret.clone());
        let owner = before.owner.clone();
        let event = HookRotated { hook_id, owner, old_signs_until_ms, rotated_by: who.owner.clone() };
        Some((after, Outbox::new().with_event(&event)))
    })
    .await?;
    if changed.secrets.last() != Some(&secret) {
        return Err(Problem::new(ProblemCode::HookSecretsTooMany));
    }
    tracing::info!(hook.id = %hook_id, by = who.owner, "a hook has a new secret");
    let once = ShownOnceResponse {
        detail: format!("the hook {hook_id} has a new secret; if it was lost, rotate it again"),
    };
    let body = HookSecretDocument { hook_id, secret: shown_secret, old_signs_until_ms };
    let no_store = [(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))];
    Ok((StatusCode::CREATED, no_store, Extension(once), Json(body)).into_response())
}

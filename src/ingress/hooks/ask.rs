//! What people ask of a hook once: a test, an event again, everything behind a place again. It is written down, and the keeper does it.
//!
//! Limits: [`ASKED_MAX`] tests and redeliveries of a hook wait at a time.

use std::time::Duration;

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{Method, StatusCode},
};
use nats::{
    Outbox, ReaderStart,
    reader::{self, StreamEntry},
};
use schemars::JsonSchema;
use schemas::{
    headers,
    hook::{
        ASKED_MAX, AskedContent, AskedDelivery, AskedReplay, HookPosition, HookRecord, HookRequests,
        hook_requests_key,
    },
    hook_event::{HookRedelivered, HookReplayed, HookTested},
    ids::{DeliveryId, HookId},
    subjects,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{deliveries, hook_operation, load_usable, read_broker_time};
use crate::{
    AppState,
    events::{self, EVENT_ID, format_event_id},
};
use auth::Principal;
use web::{
    body::JsonBody, error::Problem, idempotency::IdempotencyClaim, operation::Operation,
    problem_code::ProblemCode,
};
use webhooks::filter::{EventHead, wants_event};

/// How long looking for a time in EVENTS may take.
const READ_TIME_MAX: Duration = Duration::from_secs(5);

/// A delivery that was asked for.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "AskedDelivery", example = json!({
    "hook_id": "06db00840lt0303jc5mn0r355k", "delivery_id": "06db0230a5t0303jc5mn0r355k",
}))]
pub(super) struct AskedDeliveryDocument {
    /// The hook.
    hook_id: HookId,
    /// How the list of deliveries calls it, once it was made.
    delivery_id: DeliveryId,
}

pub(super) static TEST_HOOK: Operation =
    hook_operation(Method::POST, "/v1/hooks/{hook_id}/test", &["hook.tested"]);

/// Have a hook send a made-up event
///
/// Of the type `hook.test`, also while it is paused. The list of deliveries says what the receiver answered.
#[utoipa::path(
    post,
    path = TEST_HOOK.path,
    tag = "events",
    operation_id = "test_hook",
    params(("hook_id", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 202, description = "It is sent", body = ref("#/components/schemas/AskedDelivery")),
        (status = 409, description = "As much is asked of the hook as may be"),
    ),
)]
pub(super) async fn test_hook(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    claim: Option<Extension<IdempotencyClaim>>,
) -> Result<(StatusCode, Json<AskedDeliveryDocument>), Problem> {
    let hook = load_usable(&app.bus, &id, &who).await?.record;
    let delivery_id = make_delivery_id(claim);
    let event = HookTested {
        hook_id: hook.hook_id,
        owner: hook.owner.clone(),
        delivery_id,
        tested_by: who.owner.clone(),
    };
    let outbox = || Outbox::new().with_event(&event);
    ask_delivery(&app, &hook, delivery_id, AskedContent::Test, outbox).await
}

pub(super) static REDELIVER_EVENT: Operation = hook_operation(
    Method::POST,
    "/v1/hooks/{hook_id}/deliveries/{delivery_id}/redeliver",
    &["hook.redelivered", "hook.tested"],
);

/// Have a hook send an event again
///
/// Once, out of turn, also while it is paused; the event has the id that it had before.
#[utoipa::path(
    post,
    path = REDELIVER_EVENT.path,
    tag = "events",
    operation_id = "redeliver_event",
    params(("hook_id", Path), ("delivery_id", Path), ("Idempotency-Key", Header)),
    responses(
        (status = 202, description = "It is sent", body = ref("#/components/schemas/AskedDelivery")),
        (status = 409, description = "As much is asked of the hook as may be"),
        (status = 410, description = "The event is not there any more"),
    ),
)]
pub(super) async fn redeliver_event(
    State(app): State<AppState>,
    Path((id, before)): Path<(String, String)>,
    who: Principal,
    claim: Option<Extension<IdempotencyClaim>>,
) -> Result<(StatusCode, Json<AskedDeliveryDocument>), Problem> {
    let hook = load_usable(&app.bus, &id, &who).await?.record;
    let before = deliveries::load_delivery(&app.bus, &hook, &before).await?;
    let delivery_id = make_delivery_id(claim);
    let (hook_id, owner, by) = (hook.hook_id, hook.owner.clone(), who.owner.clone());
    let Some(sequence) = before.sequence else {
        let event = HookTested { hook_id, owner, delivery_id, tested_by: by };
        let outbox = || Outbox::new().with_event(&event);
        return ask_delivery(&app, &hook, delivery_id, AskedContent::Test, outbox).await;
    };
    let found = app.bus.read_stream_message(subjects::EVENTS, sequence).await?;
    if !found.is_some_and(|found| is_sent_by(&hook, &before.event_id, &found)) {
        return Err(events::events_gone(
            "the event was dropped by age, or the hook does not send it any more",
        ));
    }
    let event = HookRedelivered { hook_id, owner, delivery_id, sequence, redelivered_by: by };
    let outbox = || Outbox::new().with_event(&event);
    let (media_id, event_id) = (before.media_id, Some(before.event_id));
    let content = AskedContent::Event { sequence, media_id, event_id };
    ask_delivery(&app, &hook, delivery_id, content, outbox).await
}

/// Whether an event of EVENTS is the one that has the id, and one that the hook sends.
fn is_sent_by(hook: &HookRecord, event_id: &str, event: &StreamEntry) -> bool {
    let text = |name: &str| event.headers.get_last(name).map(|value| value.as_str().to_owned());
    text(headers::ID).as_deref() == Some(event_id)
        && wants_event(hook, &EventHead::read(event.sequence, &event.subject, text))
}

fn make_delivery_id(claim: Option<Extension<IdempotencyClaim>>) -> DeliveryId {
    DeliveryId::from_bytes(claim.map_or_else(nats::new_id_bytes, |claim| claim.derive_id(0)))
}

async fn ask_delivery(
    app: &AppState,
    hook: &HookRecord,
    delivery_id: DeliveryId,
    content: AskedContent,
    outbox: impl Fn() -> Outbox + Send + Sync,
) -> Result<(StatusCode, Json<AskedDeliveryDocument>), Problem> {
    let asked_at_ms = read_broker_time(&app.bus).await?;
    let asked = AskedDelivery { delivery_id, content, asked_at_ms };
    let hook_id = hook.hook_id;
    let is_there =
        |requests: &HookRequests| requests.deliveries.iter().any(|asked| asked.delivery_id == delivery_id);
    let change = |found: Option<&HookRequests>| {
        let mut requests = found.cloned().unwrap_or_else(|| HookRequests::new(hook_id));
        if is_there(&requests) || requests.deliveries.len() >= ASKED_MAX {
            return None;
        }
        requests.deliveries.push(asked.clone());
        Some((requests, outbox()))
    };
    let key = hook_requests_key(&hook_id.to_string());
    let held = app.bus.change_record::<HookRequests>(&key, change).await?;
    if !held.is_some_and(|held| is_there(&held.record)) {
        return Err(Problem::new(ProblemCode::HookRequestsTooMany));
    }
    Ok((StatusCode::ACCEPTED, Json(AskedDeliveryDocument { hook_id, delivery_id })))
}

/// From where everything is sent again: one of both.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "HookReplayRequest", example = json!({ "behind": "1a2b3c-7" }))]
pub(super) struct ReplayRequest {
    /// Id of an event as `GET /v1/events` has it: what is behind it is sent; `0-0` for everything that is kept.
    #[schemars(regex(pattern = EVENT_ID))]
    behind: Option<String>,
    /// Unix time in milliseconds: what was stored then or later is sent.
    since_ms: Option<u64>,
}

/// A replay that was asked for.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HookReplay", example = json!({ "hook_id": "06db00840lt0303jc5mn0r355k", "behind": "1a2b3c-7" }))]
pub(super) struct ReplayDocument {
    /// The hook.
    hook_id: HookId,
    /// Id of the event behind which everything is sent again.
    behind: String,
}

pub(super) static REPLAY_HOOK: Operation =
    hook_operation(Method::POST, "/v1/hooks/{hook_id}/replay", &["hook.replayed"]);

/// Have a hook send everything behind a place again
///
/// In order, what was delivered, too; what the hook had not come to yet it comes to after that. A hook that is paused does so once it is
/// resumed.
#[utoipa::path(
    post,
    path = REPLAY_HOOK.path,
    tag = "events",
    operation_id = "replay_hook",
    params(("hook_id", Path), ("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/HookReplayRequest"), content_type = "application/json"),
    responses(
        (status = 202, description = "It is sent", body = ref("#/components/schemas/HookReplay")),
        (status = 400, description = "Name an event, or a time"),
        (status = 410, description = "The events behind that id are not there any more: begin again with `0-0`, or at a time"),
    ),
)]
pub(super) async fn replay_hook(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    JsonBody(wanted): JsonBody<ReplayRequest>,
) -> Result<(StatusCode, Json<ReplayDocument>), Problem> {
    let hook = load_usable(&app.bus, &id, &who).await?.record;
    let position = find_position(&app, &wanted).await?;
    let asked_at_ms = read_broker_time(&app.bus).await?;
    let hook_id = hook.hook_id;
    let event = HookReplayed { hook_id, owner: hook.owner, position, replayed_by: who.owner.clone() };
    let change = |found: Option<&HookRequests>| {
        let mut requests = found.cloned().unwrap_or_else(|| HookRequests::new(hook_id));
        requests.replay = Some(AskedReplay { position, asked_at_ms });
        Some((requests, Outbox::new().with_event(&event)))
    };
    app.bus.change_record::<HookRequests>(&hook_requests_key(&hook_id.to_string()), change).await?;
    tracing::info!(hook.id = %hook_id, by = who.owner, position.sequence, "a hook sends events again");
    let behind = format_event_id(position.created_at_ms, position.sequence);
    Ok((StatusCode::ACCEPTED, Json(ReplayDocument { hook_id, behind })))
}

async fn find_position(app: &AppState, wanted: &ReplayRequest) -> Result<HookPosition, Problem> {
    let extent = app.bus.stream_extent(subjects::EVENTS).await?;
    let created_at_ms = extent.end.created_at_ms;
    let oldest = extent.first_sequence.saturating_sub(1).min(extent.end.sequence);
    let sequence = match (&wanted.behind, wanted.since_ms) {
        (Some(id), None) => {
            let sequence = events::parse_event_id(id, created_at_ms)?;
            if sequence > extent.end.sequence {
                return Err(events::events_gone("it is newer than the newest event"));
            }
            if sequence > 0 && sequence < oldest {
                return Err(events::events_gone("older events are dropped by age"));
            }
            sequence.max(oldest)
        }
        (None, Some(since_ms)) => {
            let looking = find_sequence_before(app, since_ms, extent.end.sequence);
            tokio::time::timeout(READ_TIME_MAX, looking)
                .await
                .map_err(|error| Problem::unavailable(&error))??
        }
        _ => {
            let detail = "name one of both: `behind`, or `since_ms`";
            return Err(Problem::new(ProblemCode::RequestInvalid).with_detail(detail));
        }
    };
    Ok(HookPosition { created_at_ms, sequence })
}

/// The sequence before the first event that was stored at a time or later.
async fn find_sequence_before(app: &AppState, since_ms: u64, last_sequence: u64) -> Result<u64, Problem> {
    let all = vec![subjects::EVENTS_ALL.to_owned()];
    let settings = reader::ReaderConfig {
        is_headers_only: true,
        ..reader::ReaderConfig::new(subjects::EVENTS, all, ReaderStart::Time(since_ms))
    };
    let mut entries = app.bus.open_reader(settings).await?;
    let first = entries.next_pending().await?;
    Ok(first.map_or(last_sequence, |entry| entry.sequence.saturating_sub(1)))
}

//! What a hook sent and was answered, by the log of deliveries.
//!
//! Limits: [`PAGE_MAX`] deliveries a page; the log keeps the newest 1,000 of a hook for 7 days.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use futures::{StreamExt as _, TryStreamExt as _};
use nats::{Bus, BusError, ReaderStart, reader};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    hook::HookRecord,
    hook_delivery::{DELIVERY_ID_HEADER, DeliveryOutcome, DeliveryTrigger, HookDelivery},
    ids::{DeliveryId, MediaId},
    subjects,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{load_visible, require_all_owners};
use crate::{AppState, openapi};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    query::QueryParameters,
};

/// Most deliveries of one page: each may have a body of 8 KiB.
const PAGE_MAX: u32 = 50;
/// Deliveries of a page where the request does not say.
const PAGE_USUAL: u32 = 20;
/// Messages of the log that are asked for at once.
const AT_ONCE_MAX: usize = 8;
/// How long reading the log may take.
const READ_TIME_MAX: Duration = Duration::from_secs(10);

/// Which deliveries to list.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wanted")]
pub(super) struct DeliveryQuery {
    /// `next_after` of the page before.
    #[serde(default, deserialize_with = "web::query::deserialize_id")]
    #[schemars(schema_with = "openapi::id_schema")]
    after: Option<DeliveryId>,
    /// Most items; 20 unless said otherwise.
    #[schemars(range(min = 1, max = PAGE_MAX))]
    limit: Option<u32>,
}

openapi::query_parameters!(DeliveryQuery);

/// One try to deliver an event.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HookDelivery", example = example_delivery())]
struct DeliveryDocument {
    /// The delivery.
    delivery_id: DeliveryId,
    /// Why it was sent.
    trigger: DeliveryTrigger,
    /// `webhook-id`: the event's own id, the same at each try.
    event_id: String,
    /// Kind of the event.
    event_type: String,
    /// The medium that it is about.
    media_id: Option<MediaId>,
    /// Which try it was, from 1.
    attempt: u32,
    /// Unix time in milliseconds at which it began.
    sent_at_ms: u64,
    /// How long it took, in milliseconds.
    took_ms: u64,
    /// Where it was sent: scheme and host.
    url: String,
    /// What it came to.
    outcome: DeliveryOutcome,
    /// The same as a stable code; null where it was delivered.
    code: Option<String>,
    /// The same for people; null where it was delivered.
    detail: Option<String>,
    /// Status of the answer; null without one.
    status: Option<u16>,
    /// What was sent, as text of JSON; null when it was larger than 8 KiB, or is about a medium that was removed.
    body: Option<String>,
    /// The first 4 KiB of what was answered; null where nothing was, or it is about a medium that was removed.
    answer: Option<String>,
    /// Unix time in milliseconds at which it is tried again; null where it is not.
    next_try_at_ms: Option<u64>,
}

impl From<HookDelivery> for DeliveryDocument {
    fn from(delivery: HookDelivery) -> Self {
        Self {
            delivery_id: delivery.delivery_id,
            trigger: delivery.trigger,
            event_id: delivery.event_id,
            event_type: delivery.event_type,
            media_id: delivery.media_id,
            attempt: delivery.attempt,
            sent_at_ms: delivery.sent_at_ms,
            took_ms: delivery.took_ms,
            url: delivery.url,
            outcome: delivery.outcome,
            code: delivery.code,
            detail: delivery.detail,
            status: delivery.status,
            body: delivery.body,
            answer: delivery.answer,
            next_try_at_ms: delivery.next_try_at_ms,
        }
    }
}

/// A page of deliveries.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HookDeliveryList", example = json!({ "items": [example_delivery()], "next_after": null }))]
pub(super) struct DeliveryList {
    /// The newest first.
    items: Vec<DeliveryDocument>,
    /// What to send as `after` for the next page; null at the end.
    next_after: Option<DeliveryId>,
}

pub(super) static LIST_DELIVERIES: Operation = Operation::read(
    "/v1/hooks/{hook_id}/deliveries",
    OperationAccess::Principal(ApiKeyScope::Events),
    Some(RateLimitGroup::Api),
);

/// List the deliveries of a hook, newest first
///
/// Each try is one, with what was sent and answered; the newest 1,000 are kept for 7 days.
#[utoipa::path(
    get,
    path = LIST_DELIVERIES.path,
    tag = "events",
    operation_id = "list_hook_deliveries",
    params(("hook_id", Path), DeliveryQuery),
    responses((status = 200, description = "A page", body = ref("#/components/schemas/HookDeliveryList"))),
)]
pub(super) async fn list_deliveries(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<DeliveryQuery>,
) -> Result<Json<DeliveryList>, Problem> {
    let limit = wanted.limit.unwrap_or(PAGE_USUAL);
    if !(1..=PAGE_MAX).contains(&limit) {
        let detail = format!("limit={limit} is not between 1 and {PAGE_MAX}");
        return Err(Problem::new(ProblemCode::QueryMalformed).with_detail(detail));
    }
    let limit = usize::try_from(limit).unwrap_or_default();
    let hook = load_visible(&app.bus, &id, &who).await?.record;
    if who.list_owner_filter().is_some() {
        require_all_owners(&who, hook.is_for_all)?;
    }
    let reading = async {
        let logged = list_logged(&app.bus, &hook).await?;
        let older = match wanted.after {
            None => logged.as_slice(),
            Some(after) => match logged.iter().position(|(id, _)| *id == after) {
                Some(place) => logged.get(place + 1..).unwrap_or_default(),
                // It went by its age, and so did all that were older.
                None => &[],
            },
        };
        let page = older.get(..limit.min(older.len())).unwrap_or_default();
        let items: Vec<HookDelivery> = futures::stream::iter(page.iter().copied())
            .map(|(_, sequence)| read_logged(&app.bus, &hook, sequence))
            .buffered(AT_ONCE_MAX)
            .try_filter_map(|found| std::future::ready(Ok(found)))
            .try_collect()
            .await?;
        let next_after = page.last().filter(|_| older.len() > page.len()).map(|(id, _)| *id);
        Ok::<_, BusError>(DeliveryList { items: items.into_iter().map(Into::into).collect(), next_after })
    };
    let read = tokio::time::timeout(READ_TIME_MAX, reading).await;
    Ok(Json(read.map_err(|error| Problem::unavailable(&error))??))
}

/// One delivery of a hook; 404 when the log does not have it.
pub(super) async fn load_delivery(bus: &Bus, hook: &HookRecord, id: &str) -> Result<HookDelivery, Problem> {
    let none = || Problem::not_found("there is no such delivery, or the log does not have it any more");
    let wanted: DeliveryId = id.parse().map_err(|_| none())?;
    let reading = async {
        let logged = list_logged(bus, hook).await?;
        match logged.iter().find(|(id, _)| *id == wanted) {
            Some((_, sequence)) => read_logged(bus, hook, *sequence).await,
            None => Ok(None),
        }
    };
    let read = tokio::time::timeout(READ_TIME_MAX, reading).await;
    read.map_err(|error| Problem::unavailable(&error))??.ok_or_else(none)
}

/// The deliveries of a hook that are shown, with their sequences in the log, the newest first.
async fn list_logged(bus: &Bus, hook: &HookRecord) -> Result<Vec<(DeliveryId, u64)>, BusError> {
    let filter = subjects::hook_log_subject(hook.hook_id);
    let settings = reader::ReaderConfig {
        is_headers_only: true,
        ..reader::ReaderConfig::new(subjects::HOOKLOG, vec![filter], ReaderStart::All)
    };
    let mut entries = bus.open_reader(settings).await?;
    let mut found = Vec::new();
    while let Some(entry) = entries.next_pending().await? {
        let id = entry.headers.get_last(DELIVERY_ID_HEADER).and_then(|id| id.as_str().parse().ok());
        let is_shown = hook.log_from_ms.is_none_or(|from_ms| entry.stored_at_ms >= from_ms);
        found.extend(id.filter(|_| is_shown).map(|id| (id, entry.sequence)));
    }
    found.reverse();
    Ok(found)
}

async fn read_logged(bus: &Bus, hook: &HookRecord, sequence: u64) -> Result<Option<HookDelivery>, BusError> {
    let found = bus.read_stream_message(subjects::HOOKLOG, sequence).await?;
    let found = found.map(|entry| nats::decode_message::<HookDelivery>(&entry.subject, &entry.payload));
    Ok(found.transpose()?.filter(|delivery| {
        let is_shown = hook.log_from_ms.is_none_or(|from_ms| delivery.sent_at_ms >= from_ms);
        delivery.hook_id == hook.hook_id && is_shown
    }))
}

fn example_delivery() -> Value {
    json!({
        "delivery_id": "06db0230a5t0303jc5mn0r355k", "trigger": "event",
        "event_id": "b5d4045c3f466fa91fe2cc6abe79232a1a57cdf104f7a26e716e0a1e2789df78", "event_type": "media.ready",
        "media_id": "06db00820dt0303jc5mn0r355k", "attempt": 2, "sent_at_ms": 1_763_900_814_467_u64, "took_ms": 31,
        "url": "https://films.example/hooks", "outcome": "failed", "code": "status_refused",
        "detail": "https://films.example/hooks answered with the status 503", "status": 503,
        "body": "{\"type\":\"media.ready\"}", "answer": "later", "next_try_at_ms": 1_763_900_824_467_u64,
    })
}

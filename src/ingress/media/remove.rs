//! `DELETE /v1/media/{media_id}`: the medium is gone at once, for everybody; its bytes and records go after the keeper's grace
//! time.

use axum::{
    extract::{Path, State},
    http::Method,
    http::{HeaderMap, StatusCode},
};
use nats::{Bus, Outbox};
use schemas::{access::ApiKeyScope, document, ids::MediaId, media};

use super::{
    change::{CHANGE_ATTEMPTS_MAX, load_changeable},
    parse_media_id,
};
use crate::{AppState, removal};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

pub(super) static REMOVE_MEDIA: Operation = Operation::change(
    Method::DELETE,
    "/v1/media/{media_id}",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
    &["media.removed", "job.cancelled", "upload.terminated"],
);

/// Remove one medium
///
/// Nobody finds or plays it from now on, and what is being made of it is cancelled. Its objects, keys and records are removed after
/// a grace time; nothing brings it back.
#[utoipa::path(
    delete,
    path = REMOVE_MEDIA.path,
    tag = "metadata",
    operation_id = "remove_media",
    params(("media_id", Path), ("If-Match", Header)),
    responses((status = 204, description = "It is removed")),
)]
pub(super) async fn remove_media(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let media_id = parse_media_id(&id)?;
    let removed = write_tombstone(&app.bus, media_id, &who, &headers).await?;
    app.known.forget(media_id);
    if let Err(error) = removal::end_media_work(&app.bus, &removed).await {
        tracing::warn!(%error, media.id = %media_id, "work on a removed medium goes on until the keeper ends it");
    }
    tracing::info!(media.id = %media_id, by = who.owner, "removed");
    Ok(StatusCode::NO_CONTENT)
}

/// Leaves of the document whose it was and when it was removed, with the event.
async fn write_tombstone(
    bus: &Bus,
    media_id: MediaId,
    who: &Principal,
    headers: &HeaderMap,
) -> Result<document::MediaDocumentRecord, Problem> {
    let mut attempt = 0;
    loop {
        let now_ms = nats::now_ms();
        let mut held = load_changeable(bus, media_id, who, headers).await?.to_document(media_id, now_ms);
        held.record = held.record.into_removed(now_ms);
        let owner = held.record.owner.clone();
        let event = media::MediaRemoved { media_id, owner, removed_by: who.owner.clone() };
        attempt += 1;
        match bus.commit_record(&mut held, Outbox::new().with_event(&event)).await {
            Ok(()) => return Ok(held.record),
            // The precondition is looked at again: a named version is gone, `*` still fits.
            Err(nats::BusError::Conflict { .. }) if attempt < CHANGE_ATTEMPTS_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

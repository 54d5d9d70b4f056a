//! `DELETE /v1/media/{media_id}`: the medium is gone at once, for everybody. It can be restored for the time that the settings say
//! (`retention.removed`), unless it is removed for good; its bytes and records go after it, and after the keeper's grace time.

use axum::{
    extract::{Path, State},
    http::Method,
    http::{HeaderMap, StatusCode},
};
use nats::Outbox;
use nats::metrics::{labels::MetadataWrite, table::METADATA_WRITES};
use schemars::JsonSchema;
use schemas::{access::ApiKeyScope, document, ids::MediaId, media, upload::UploadRecord};
use serde::Deserialize;

use super::{
    commit::{CHANGE_ATTEMPTS_MAX, load_changeable},
    parse_media_id,
    restore::load_removed,
};
use crate::{AppState, openapi, removal};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    query::QueryParameters,
};

/// How to remove.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Removal")]
pub(super) struct RemovalQuery {
    /// True to remove it for good: nothing restores it. Also of one that was removed before.
    #[serde(default)]
    permanent: bool,
}

openapi::query_parameters!(RemovalQuery);

pub(super) static REMOVE_MEDIA: Operation = Operation::change(
    Method::DELETE,
    "/v1/media/{media_id}",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
    &["media.removed", "job.cancelled", "upload.terminated"],
);

/// Remove one medium
///
/// Nobody finds or plays it from now on, and what is being made of it is cancelled. For a time (`retention.removed`, a day unless the
/// settings say otherwise) it can be restored; then its objects, keys and records are removed, which `media.purged` reports. With
/// `permanent=true` they go within minutes, and nothing brings it back.
#[utoipa::path(
    delete,
    path = REMOVE_MEDIA.path,
    tag = "metadata",
    operation_id = "remove_media",
    params(("media_id", Path), ("If-Match", Header), RemovalQuery),
    responses(
        (status = 204, description = "It is removed"),
        (status = 410, description = "It was removed before, and can be restored for a time"),
    ),
)]
pub(super) async fn remove_media(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
    QueryParameters(wanted): QueryParameters<RemovalQuery>,
) -> Result<StatusCode, Problem> {
    let media_id = parse_media_id(&id)?;
    let is_final = wanted.permanent || app.config.restorable_ms == 0 || is_unfinished(&app, media_id).await?;
    let removed = write_tombstone(&app, media_id, (&who, &headers), is_final).await?;
    METADATA_WRITES.increment(MetadataWrite::Remove);
    app.known.forget(media_id);
    if let Err(error) = removal::end_media_work(&app.bus, &removed).await {
        tracing::warn!(%error, media.id = %media_id, "work on a removed medium goes on until the keeper ends it");
    }
    tracing::info!(media.id = %media_id, by = who.owner, "removed");
    Ok(StatusCode::NO_CONTENT)
}

/// True while the bytes of a medium are on their way: its upload ends with it, so there would be nothing to restore.
async fn is_unfinished(app: &AppState, media_id: MediaId) -> Result<bool, Problem> {
    let key = media_id.to_string();
    let document = app.bus.load_record::<document::MediaDocumentRecord>(&key).await?;
    let Some(upload_id) = document.and_then(|held| held.record.upload_id) else { return Ok(false) };
    let upload = app.bus.load_record::<UploadRecord>(&upload_id.to_string()).await?;
    Ok(upload.is_some_and(|held| held.record.is_unfinished()))
}

/// Writes into the document that the medium is removed, with the event.
async fn write_tombstone(
    app: &AppState,
    media_id: MediaId,
    (who, headers): (&Principal, &HeaderMap),
    is_final: bool,
) -> Result<document::MediaDocumentRecord, Problem> {
    let mut attempt = 0;
    loop {
        let now_ms = nats::now_ms();
        let mut held = match load_changeable(&app.bus, media_id, who, headers).await {
            Err(problem) if is_final && problem.code() == ProblemCode::MediaRemoved.code() => {
                load_removed(&app.bus, media_id, who, headers).await?
            }
            loaded => loaded?.to_document(media_id, now_ms),
        };
        held.record =
            if is_final { held.record.into_removed(now_ms) } else { held.record.into_restorable(now_ms) };
        let owner = held.record.owner.clone();
        let event = media::MediaRemoved { media_id, owner, removed_by: who.owner.clone(), is_final };
        attempt += 1;
        match app.bus.commit_record(&mut held, Outbox::new().with_event(&event)).await {
            Ok(()) => return Ok(held.record),
            // The precondition is looked at again: a named version is gone, `*` still fits.
            Err(nats::BusError::Conflict { .. }) if attempt < CHANGE_ATTEMPTS_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

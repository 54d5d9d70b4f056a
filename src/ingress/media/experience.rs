//! How a medium played for its viewers, for its owner: what players reported of it (`src/ingress/play/experience/mod.rs`).
//!
//! Limits: the hours of [`schemas::experience::HOURS_KEPT`]; what was reported in the last minute may be missing.

use axum::{
    Json,
    extract::{Path, State},
    http::header,
    response::IntoResponse,
};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    experience::{HOUR_MS, HOURS_KEPT, MediaExperience},
    ids::MediaId,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{MediumRecords, parse_media_id};
use crate::{AppState, openapi};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    query::QueryParameters,
};

/// Which hours.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ExperienceHours")]
pub(super) struct ExperienceQuery {
    /// So many hours, the running one among them; 24 unless said otherwise.
    #[schemars(range(min = 1, max = HOURS_KEPT))]
    hours: Option<u64>,
}

openapi::query_parameters!(ExperienceQuery);

/// How a medium played, as far as players reported it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MediaExperienceDocument", example = json!({
    "media_id": "06db00820dt0303jc5mn0r355k", "since_ms": 1_794_999_600_000_u64, "sampled_per_million": 1_000_000, "views": 41, "failed_views": 1,
    "median_start_ms": 800, "p95_start_ms": 2_500, "stalls": 3, "stalled_ms": 2_150, "played_ms": 5_400_000, "stalled_ratio": 0.0004,
    "average_bps": 2_310_000,
}))]
pub(super) struct ExperienceDocument {
    /// The medium.
    media_id: MediaId,
    /// Unix time in milliseconds at which the first of the hours began.
    since_ms: u64,
    /// How many of a million views are followed at present; all numbers are of those that were.
    sampled_per_million: u32,
    /// Views that began.
    views: u64,
    /// Views that a player gave up.
    failed_views: u64,
    /// Time in which half of the views had begun, in milliseconds, rounded up: there are ten steps from 100 to 1,000, and so on. Null where
    /// no player said it.
    median_start_ms: Option<u32>,
    /// Time in which 95 of a hundred had.
    p95_start_ms: Option<u32>,
    /// Times at which playing stood still for want of data.
    stalls: u64,
    /// Milliseconds for which it did.
    stalled_ms: u64,
    /// Milliseconds that were played.
    played_ms: u64,
    /// Share of both in which it stood still; null where nothing was played.
    stalled_ratio: Option<f64>,
    /// Average bits per second of what was played; null where no player said it.
    average_bps: Option<u64>,
}

pub(super) static READ_EXPERIENCE: Operation = Operation::read(
    "/v1/media/{media_id}/experience",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
);

/// Read how a medium played for its viewers
///
/// Views, their starts, waits for data and bitrates in the last hours, as players reported them over all replicas (CMCD). It says nothing of
/// who watched, and nobody can check what players say. What was reported in the last minute may be missing.
#[utoipa::path(
    get,
    path = READ_EXPERIENCE.path,
    tag = "metadata",
    operation_id = "read_experience",
    params(("media_id", Path), ExperienceQuery),
    responses(
        (status = 200, description = "How it played", body = ref("#/components/schemas/MediaExperienceDocument")),
        (status = 410, description = "It was removed, and can be restored for a time"),
    ),
)]
pub(super) async fn read_experience(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<ExperienceQuery>,
) -> Result<impl IntoResponse, Problem> {
    let media_id = parse_media_id(&id)?;
    let hours = wanted.hours.unwrap_or(HOURS_KEPT as u64);
    if !(1..=HOURS_KEPT as u64).contains(&hours) {
        let detail = format!("hours={hours} is not between 1 and {HOURS_KEPT}");
        return Err(Problem::new(ProblemCode::QueryMalformed).with_detail(detail));
    }
    MediumRecords::load_for(&app.bus, media_id, &who).await?;
    let this_hour_ms = MediaExperience::hour_of_ms(nats::estimated_broker_now_ms());
    let since_ms = this_hour_ms.saturating_sub((hours - 1) * HOUR_MS);
    let held = app.bus.load_record::<MediaExperience>(&media_id.to_string()).await?;
    let sum = held.map(|held| held.record.sum_since(since_ms)).unwrap_or_default();
    let document = ExperienceDocument {
        media_id,
        since_ms,
        sampled_per_million: app.config.playback.experience.sampled_per_million,
        views: sum.views,
        failed_views: sum.failed_views,
        median_start_ms: sum.start_percentile_ms(50),
        p95_start_ms: sum.start_percentile_ms(95),
        stalls: sum.stalls,
        stalled_ms: sum.stalled_ms,
        played_ms: sum.played_ms,
        stalled_ratio: sum.stalled_ratio(),
        average_bps: sum.average_bps(),
    };
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(document)))
}

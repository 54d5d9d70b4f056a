//! Jobs, read-only: one by id with its parts from KV, lists from the index.
//!
//! Limits: the parts of a job, at most [`schemas::job::PARTS_MAX`], are read [`READS_MAX`] at a time.

use axum::{
    Json, Router,
    extract::{Path, State},
    http::HeaderMap,
    response::Response,
    routing::get,
};
use futures::{StreamExt, TryStreamExt};
use schemas::{
    ask::{self, JobPage, ListJobs},
    ids::{JobId, MediaId},
    job::{self, Part, PartStatus},
    subjects,
};
use serde::Deserialize;
use serde_json::{Value, json};
use transcode::plan;

use super::{App, Principal, error::Problem, media, query::Parameters};

/// Part records that one request reads at the same time.
pub const READS_MAX: usize = 16;

/// The routes.
pub fn router() -> Router<App> {
    Router::new().route("/v1/jobs", get(list)).route("/v1/jobs/{job_id}", get(show))
}

/// Which jobs to list.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    #[serde(default, deserialize_with = "super::query::id")]
    media_id: Option<MediaId>,
    status: Option<job::Status>,
    cursor: Option<String>,
    limit: Option<u32>,
    min_revision: Option<u64>,
}

async fn list(
    State(app): State<App>,
    who: Principal,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let question = ListJobs {
        owner: who.list_owner(),
        media_id: wanted.media_id,
        status: wanted.status,
        cursor: wanted.cursor,
        limit: media::page_limit(wanted.limit)?,
        min_revision: wanted.min_revision,
    };
    let page: JobPage = media::ask_index(&app.bus, ask::JOBS, &question).await?;
    Ok(Json(json!({ "items": page.items, "next_cursor": page.next, "revision": page.revision })))
}

pub(super) fn no_such_job() -> Problem {
    Problem::not_found("There is no such job, or it is not yours")
}

async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let job_id: JobId = id.parse().map_err(|_| no_such_job())?;
    let held = app.bus.load::<job::Record>(&job_id.to_string()).await?.ok_or_else(no_such_job)?;
    if !who.may_see(&held.record.owner) {
        return Err(no_such_job());
    }
    let names: Vec<String> = held.record.parts.iter().cloned().chain([job::FINISH.to_owned()]).collect();
    let parts: Vec<Option<nats::Held<Part>>> = futures::stream::iter(names.clone())
        .map(|part| {
            let bus = app.bus.clone();
            async move { bus.load::<Part>(&subjects::part_key(job_id, &part)).await }
        })
        .buffered(READS_MAX)
        .try_collect()
        .await?;
    // Every revision of the bucket is newer than those before it, so the newest one names the whole.
    let newest = parts.iter().flatten().map(nats::Held::revision).chain([held.revision()]).max();
    let parts: Vec<(String, Option<Part>)> =
        names.into_iter().zip(parts).map(|(name, held)| (name, held.map(|held| held.record))).collect();
    let body = document(&held.record, &parts);
    Ok(media::document_answer(&headers, &format!("\"{}\"", newest.unwrap_or_default()), body))
}

fn document(job: &job::Record, parts: &[(String, Option<Part>)]) -> Value {
    let listed: Vec<Value> = parts.iter().map(|(name, part)| part_json(name, part.as_ref())).collect();
    let total_ms: u64 = parts.iter().map(|(name, _)| plan::part_ms(&job.plan, name)).sum();
    let done_ms: u64 = parts.iter().map(|(name, part)| done_ms(job, name, part.as_ref())).sum();
    json!({
        "job_id": job.job_id,
        "kind": job.kind,
        "priority": job.priority,
        "media_id": job.media_id,
        "owner": job.owner,
        "status": job.status,
        "code": job.code,
        "detail": job.detail,
        "encode": job.encode,
        "plan": job.plan,
        "progress": { "done_ms": done_ms, "total_ms": total_ms, "percent": percent(done_ms, total_ms) },
        "parts": listed,
        "created_at_ms": job.created_at_ms,
        "ended_at_ms": job.ended_at_ms,
    })
}

fn part_json(name: &str, part: Option<&Part>) -> Value {
    let Some(part) = part else { return json!({ "part": name, "status": "waiting", "attempt": 0 }) };
    json!({
        "part": name,
        "status": part.status,
        "attempt": part.attempt,
        "crashes": part.crashes,
        "worker": part.worker,
        "last_seen_ms": part.last_seen_ms,
        "segments": part.tracks.iter().map(|track| track.segments.len()).sum::<usize>(),
        "cpu_ms": part.cpu_ms,
        "wall_ms": part.wall_ms,
        "rss_bytes_max": part.rss_bytes_max,
        "code": part.code,
        "detail": part.detail,
    })
}

/// Milliseconds of output of one part that are stored in every rendition.
fn done_ms(job: &job::Record, name: &str, part: Option<&Part>) -> u64 {
    let total_ms = plan::part_ms(&job.plan, name);
    match part {
        Some(part) if part.status == PartStatus::Done => total_ms,
        Some(part) => {
            let stored = part.tracks.iter().map(|track| {
                let ticks: u64 = track.segments.iter().map(|segment| segment.duration_ticks).sum();
                ticks.saturating_mul(1_000) / u64::from(track.timescale.max(1))
            });
            stored.min().unwrap_or(0).min(total_ms)
        }
        None => 0,
    }
}

/// Whole percent, rounded down, so that 100 means done.
pub(super) fn percent(done_ms: u64, total_ms: u64) -> u64 {
    (done_ms.saturating_mul(100) / total_ms.max(1)).min(100)
}

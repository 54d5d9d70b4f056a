//! How much one owner may have done: bytes of uploads and minutes of encodes a day, and jobs that have not ended.
//!
//! What was used on a day is a record of the owner (`schemas/src/usage.rs`), to which completed uploads and planned encodes are added.
//! An upload is refused at its creation, by the length that it declares beside those of uploads that are open; an encode by the length
//! of its medium. Jobs are counted by the index. Another try is refused like what is asked for first, and so is what a restored medium
//! goes on with; but not a second chance of a dead letter: an admin mends an outage with it, for which no owner has asked.
//!
//! Limits: [`QuotaConfig`]. One upload that does not declare its length may go over the quota of bytes: while it is open no other one
//! is opened. So may encodes that no worker has planned yet, since they count from then on, and jobs that the index has not seen.

use std::collections::BTreeMap;

use axum::{Json, extract::State};
use nats::{Bus, BusError, Outbox};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    index_query::{self, JobCounts, JobCountsQuery},
    job::JobRecord,
    usage::OwnerUsage,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use sha2::{Digest, Sha256};

use super::{AppState, index_client::query_index, openapi};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    problem_code::ProblemCode,
};

/// How much an owner may have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct OwnerQuota {
    /// Most bytes of uploads in one day of UTC, in bytes. No limit when absent.
    pub daily_upload_bytes_max: Option<u64>,
    /// Most media whose encodes are begun in one day of UTC, by their duration in milliseconds. No limit when absent.
    pub daily_encode_ms_max: Option<u64>,
    /// Most jobs that have not ended. No limit when absent.
    pub open_jobs_max: Option<u64>,
}

/// How much each owner may have done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct QuotaConfig {
    /// Every owner that is not named.
    pub each: OwnerQuota,
    /// Single owners, by account; what is absent there is as for every owner.
    pub of: BTreeMap<String, OwnerQuota>,
}

impl QuotaConfig {
    /// What this owner may have done.
    pub fn quota_of(&self, owner: &str) -> OwnerQuota {
        let own = self.of.get(owner).copied().unwrap_or_default();
        OwnerQuota {
            daily_upload_bytes_max: own.daily_upload_bytes_max.or(self.each.daily_upload_bytes_max),
            daily_encode_ms_max: own.daily_encode_ms_max.or(self.each.daily_encode_ms_max),
            open_jobs_max: own.open_jobs_max.or(self.each.open_jobs_max),
        }
    }
}

/// What an owner used today.
pub(crate) async fn load_usage(bus: &Bus, owner: &str) -> Result<OwnerUsage, BusError> {
    let (digest, day) = (Sha256::digest(owner.as_bytes()), today());
    let held = bus.load_record::<OwnerUsage>(&OwnerUsage::key_for_owner(&digest, day)).await?;
    Ok(held.map_or_else(|| OwnerUsage::with_added(None, (&digest, day), (0, 0)), |held| held.record))
}

/// Adds a completed upload to what its owner used today. What is not written counts for nothing.
pub(crate) async fn add_uploaded_bytes(bus: &Bus, owner: &str, size_bytes: u64) {
    let (digest, day) = (Sha256::digest(owner.as_bytes()), today());
    let key = OwnerUsage::key_for_owner(&digest, day);
    let added = bus.change_record::<OwnerUsage>(&key, |found| {
        Some((OwnerUsage::with_added(found, (&digest, day), (size_bytes, 0)), Outbox::new()))
    });
    if let Err(error) = Box::pin(added).await {
        tracing::warn!(%error, owner, size_bytes, "a completed upload does not count for its owner's quota");
    }
}

fn today() -> u64 {
    OwnerUsage::day_of_ms(nats::estimated_broker_now_ms())
}

/// Refuses an upload that its owner may not have any more: one that declares `own_bytes`, or does not declare its length, beside others
/// that are open and declare `open_bytes`.
///
/// # Errors
/// `quota_exceeded`; those of a broker that does not answer.
pub(crate) async fn require_upload_room(
    bus: &Bus,
    quota: OwnerQuota,
    owner: &str,
    (own_bytes, open_bytes): (Option<u64>, u64),
) -> Result<(), Problem> {
    if quota.daily_upload_bytes_max.is_none() && quota.daily_encode_ms_max.is_none() {
        return Ok(());
    }
    let usage = load_usage(bus, owner).await?;
    let uploaded_bytes = usage.uploaded_bytes;
    // At least one byte where the length comes later.
    let with_own = uploaded_bytes.saturating_add(own_bytes.unwrap_or(1));
    check_daily("daily_upload_bytes", quota.daily_upload_bytes_max, (uploaded_bytes, with_own), &usage)?;
    let with_open = with_own.saturating_add(open_bytes);
    if let Some(max) = quota.daily_upload_bytes_max.filter(|max| with_open > *max) {
        let detail = format!(
            "{uploaded_bytes} of at most {max} are used today, and uploads that are open want {open_bytes}: finish or end one of them"
        );
        // It may be in a moment.
        let problem = exceeded("daily_upload_bytes", (uploaded_bytes, max), detail);
        return Err(problem.with_retry_after_s(OPEN_RETRY_AFTER_S));
    }
    // At least a moment of it.
    let least_ms = usage.encoded_ms.saturating_add(1);
    check_daily("daily_encode_ms", quota.daily_encode_ms_max, (usage.encoded_ms, least_ms), &usage)
}

/// Refuses bytes that come at once and that their owner may not bring any more today.
///
/// # Errors
/// `quota_exceeded`; those of a broker that does not answer.
pub(crate) async fn require_byte_room(
    bus: &Bus,
    quota: OwnerQuota,
    owner: &str,
    size_bytes: u64,
) -> Result<(), Problem> {
    if quota.daily_upload_bytes_max.is_none() {
        return Ok(());
    }
    let usage = load_usage(bus, owner).await?;
    let with_own = usage.uploaded_bytes.saturating_add(size_bytes);
    check_daily("daily_upload_bytes", quota.daily_upload_bytes_max, (usage.uploaded_bytes, with_own), &usage)
}

/// What an open upload counts for that does not declare its length, in bytes: all that its owner may bring.
pub(crate) fn undeclared_bytes(quota: OwnerQuota) -> u64 {
    quota.daily_upload_bytes_max.unwrap_or_default()
}

/// When to try again what waits for other uploads or jobs, in seconds.
const OPEN_RETRY_AFTER_S: u64 = 60;

/// Refuses a job of an owner that may not have another one: an encode also by the milliseconds of its medium. `begun_count` jobs were
/// begun with the same request.
///
/// # Errors
/// `quota_exceeded`; those of a broker or an index that does not answer.
pub(crate) async fn require_work_room(
    bus: &Bus,
    quotas: &QuotaConfig,
    owner: &str,
    (encode_ms, begun_count): (Option<u64>, u64),
) -> Result<(), Problem> {
    let quota = quotas.quota_of(owner);
    require_job_room(bus, quota, owner, begun_count).await?;
    if quota.daily_encode_ms_max.is_none() {
        return Ok(());
    }
    let Some(encode_ms) = encode_ms else { return Ok(()) };
    let usage = load_usage(bus, owner).await?;
    let used_ms = usage.encoded_ms.saturating_add(encode_ms);
    check_daily("daily_encode_ms", quota.daily_encode_ms_max, (usage.encoded_ms, used_ms), &usage)
}

/// Takes the time of an encode that was planned, and of which nothing was begun, from what its owner used that day. What is not written
/// counts on.
pub(crate) async fn give_back_encode(bus: &Bus, job: &JobRecord) {
    let digest = Sha256::digest(job.owner.as_bytes());
    let key = OwnerUsage::key_for_owner(&digest, OwnerUsage::day_of_ms(job.created_at_ms));
    let given_back = bus.change_record::<OwnerUsage>(&key, |found| {
        Some((found?.without_encode(job.plan.duration_ms), Outbox::new()))
    });
    if let Err(error) = Box::pin(given_back).await {
        tracing::warn!(%error, job.id = %job.job_id, "an encode that was not begun counts for its owner's quota");
    }
}

/// Refuses another job of an owner that has as many as it may, `begun_count` among them that the index may not have seen.
///
/// # Errors
/// `quota_exceeded`; those of an index that does not answer.
pub(crate) async fn require_job_room(
    bus: &Bus,
    quota: OwnerQuota,
    owner: &str,
    begun_count: u64,
) -> Result<(), Problem> {
    let Some(max) = quota.open_jobs_max else { return Ok(()) };
    let used = count_open_jobs(bus, owner).await?.saturating_add(begun_count);
    if used < max {
        return Ok(());
    }
    let detail = format!("{used} of at most {max} jobs have not ended; another begins when one of them has");
    Err(exceeded("open_jobs", (used, max), detail).with_retry_after_s(OPEN_RETRY_AFTER_S))
}

async fn count_open_jobs(bus: &Bus, owner: &str) -> Result<u64, Problem> {
    let question = JobCountsQuery { owner: Some(owner.to_owned()), min_revision: None };
    Ok(query_index::<_, JobCounts>(bus, index_query::JOB_COUNTS, &question).await?.active)
}

/// `used` is what counts today, before and with what is asked for.
fn check_daily(
    name: &str,
    max: Option<u64>,
    (used, used_with): (u64, u64),
    usage: &OwnerUsage,
) -> Result<(), Problem> {
    let Some(max) = max.filter(|max| used_with > *max) else { return Ok(()) };
    let resets_at_ms = OwnerUsage::day_end_ms(usage.day);
    let wait_s = resets_at_ms.saturating_sub(nats::estimated_broker_now_ms()).div_ceil(1_000).max(1);
    let detail = format!("{used} of at most {max} are used today, and this would make it {used_with}");
    Err(exceeded(name, (used, max), detail)
        .with_member("resets_at_ms", json!(resets_at_ms))
        .with_retry_after_s(wait_s))
}

fn exceeded(name: &str, (used, max): (u64, u64), detail: String) -> Problem {
    Problem::new(ProblemCode::QuotaExceeded)
        .with_detail(detail)
        .with_member("quota", json!(name))
        .with_member("used", json!(used))
        .with_member("max", json!(max))
}

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default().with(&READ_USAGE, read_usage)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(read_usage))]
pub(super) struct QuotaApiDoc;

impl openapi::OperationGroup for QuotaApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<UsageDocument>();
    }
}

/// What one used, and how much one may use.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Usage", example = json!({
    "uploaded_bytes": { "used": 1_048_576, "max": null }, "encoded_ms": { "used": 65_000, "max": 3_600_000 },
    "open_jobs": { "used": 1, "max": null }, "resets_at_ms": 1_795_000_000_000_u64,
}))]
struct UsageDocument {
    /// Bytes of uploads that were completed on this day of UTC.
    uploaded_bytes: UsedShare,
    /// Milliseconds of media whose encodes were begun on it.
    encoded_ms: UsedShare,
    /// Jobs that have not ended.
    open_jobs: UsedShare,
    /// Unix time in milliseconds at which the day is over.
    resets_at_ms: u64,
}

/// What is used of a quota.
#[derive(Debug, Serialize, JsonSchema)]
struct UsedShare {
    /// What is used.
    used: u64,
    /// What may be used; null without a limit.
    max: Option<u64>,
}

static READ_USAGE: Operation = Operation::read(
    "/v1/usage",
    OperationAccess::Principal(ApiKeyScope::Metadata),
    Some(RateLimitGroup::Metadata),
);

/// Read what one used today, and how much one may use
#[utoipa::path(
    get,
    path = READ_USAGE.path,
    tag = "api",
    operation_id = "read_usage",
    responses((status = 200, description = "What is used", body = ref("#/components/schemas/Usage"))),
)]
async fn read_usage(State(app): State<AppState>, who: Principal) -> Result<Json<UsageDocument>, Problem> {
    let quota = app.config.quotas.quota_of(&who.owner);
    let usage = load_usage(&app.bus, &who.owner).await?;
    let open_jobs = count_open_jobs(&app.bus, &who.owner).await?;
    Ok(Json(UsageDocument {
        uploaded_bytes: UsedShare { used: usage.uploaded_bytes, max: quota.daily_upload_bytes_max },
        encoded_ms: UsedShare { used: usage.encoded_ms, max: quota.daily_encode_ms_max },
        open_jobs: UsedShare { used: open_jobs, max: quota.open_jobs_max },
        resets_at_ms: OwnerUsage::day_end_ms(usage.day),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_said_of_one_owner_goes_before_what_is_said_of_each() {
        let each =
            OwnerQuota { daily_upload_bytes_max: Some(10), open_jobs_max: Some(2), ..OwnerQuota::default() };
        let ann = OwnerQuota { daily_upload_bytes_max: Some(0), ..OwnerQuota::default() };
        let config = QuotaConfig { each, of: BTreeMap::from([("ann".to_owned(), ann)]) };
        assert_eq!(config.quota_of("bob"), each);
        assert_eq!(config.quota_of("ann"), OwnerQuota { daily_upload_bytes_max: Some(0), ..each });
        assert_eq!(QuotaConfig::default().quota_of("ann"), OwnerQuota::default());
    }
}

//! What the caches of a replica do, what one has in the cache, and clearing all of it.

use axum::{
    Json,
    extract::State,
    http::{Method, StatusCode},
};
use nats::Outbox;
use nats::metrics::{labels::CacheWrite, table::CACHE_WRITES};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    cached::{CacheCleared, CacheEpoch, CacheFlush, TTL_S_MAX},
    ids::RequestId,
};
use serde::Serialize;
use serde_json::json;
use std::time::Duration;

use super::EntryName;
use crate::{AppState, cache::CacheStats};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

/// How long the mark is kept that makes replicas forget what they have in memory, and what entries of before count for: longer than
/// any of these.
const FLUSH_KEPT: Duration = Duration::from_secs(TTL_S_MAX + 60);

/// What the caches do.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CacheStats", example = json!({
    "own": { "entries": 12, "stored_bytes": 4_096, "entries_max": 10_000, "stored_bytes_max": 67_108_864 },
    "is_coherent": true,
    "caches": [{
        "name": "entries", "entries": 12, "size_bytes": 2_048, "hits": 90, "misses": 10, "evicted": 0, "expired": 3, "hit_ratio": 0.9,
    }],
}))]
pub(super) struct CacheStatsDocument {
    /// What one has in the cache oneself.
    own: OwnEntriesDocument,
    /// True while this replica answers entries from memory: somebody asked for some within a minute, and it receives what others change.
    is_coherent: bool,
    /// What the replica that answers keeps in memory, by cache, since it was started; none for those who are no operators.
    caches: Vec<NamedCacheDocument>,
}

/// What one has in the cache.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "OwnCachedEntries")]
struct OwnEntriesDocument {
    /// Entries whose time is not over.
    entries: usize,
    /// Bytes that they take as they are stored.
    stored_bytes: u64,
    /// Most entries.
    entries_max: usize,
    /// Most bytes.
    stored_bytes_max: u64,
}

/// One cache of a replica.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "NamedCache")]
struct NamedCacheDocument {
    /// `entries` of the cache API, `metadata` (documents of media), `uploads` (status documents of complete uploads), `streaming`
    /// (playlists and the heads of segments), `segments` (small segments and pictures), or `downloads` (heads of files that are downloaded).
    name: &'static str,
    /// Answers that are kept now.
    entries: usize,
    /// Bytes that they take, without their names.
    size_bytes: u64,
    /// Questions that were answered.
    hits: u64,
    /// Questions that were not.
    misses: u64,
    /// Answers that made room for others.
    evicted: u64,
    /// Answers whose time was over.
    expired: u64,
    /// Share of the questions that were answered, 0 to 1; 0 before the first.
    hit_ratio: f64,
}

impl NamedCacheDocument {
    #[expect(clippy::cast_precision_loss, reason = "a share for people")]
    fn new(name: &'static str, stats: CacheStats) -> Self {
        let CacheStats { entries, size_bytes, hits, misses, evicted, expired } = stats;
        let questions = hits + misses;
        let hit_ratio = if questions == 0 { 0.0 } else { hits as f64 / questions as f64 };
        Self { name, entries, size_bytes, hits, misses, evicted, expired, hit_ratio }
    }
}

pub(super) static READ_CACHE_STATS: Operation = Operation::read(
    "/v1/cache/stats",
    OperationAccess::Principal(ApiKeyScope::Cache),
    Some(RateLimitGroup::Cache),
);

/// Read what the caches do
#[utoipa::path(
    get,
    path = READ_CACHE_STATS.path,
    tag = "cache",
    operation_id = "read_cache_stats",
    responses((status = 200, description = "What they do", body = ref("#/components/schemas/CacheStats"))),
)]
pub(super) async fn read_cache_stats(
    State(app): State<AppState>,
    who: Principal,
) -> Json<CacheStatsDocument> {
    let config = app.config.cache;
    let owner_digest = EntryName::new(&who, "").owner_digest;
    let usage = app.cached.tally.usage(&owner_digest, nats::estimated_broker_now_ms());
    let own = OwnEntriesDocument {
        entries: usage.entries,
        stored_bytes: usage.size_bytes,
        entries_max: config.owner_entries_max,
        stored_bytes_max: config.owner_bytes_max,
    };
    let is_shown = who.require_operator("").is_ok();
    let caches = app.named_caches().into_iter().filter(|_| is_shown);
    let caches = caches.map(|(name, cache)| NamedCacheDocument::new(name, cache.stats())).collect();
    Json(CacheStatsDocument { own, is_coherent: app.cached.memory.is_coherent(), caches })
}

pub(super) static CLEAR_CACHE: Operation = Operation::change(
    Method::DELETE,
    "/v1/cache",
    OperationAccess::Principal(ApiKeyScope::Cache),
    Some(RateLimitGroup::Cache),
    &["cache.cleared"],
);

/// Clear the cache
///
/// The entries of everybody are nothing from now on, and what replicas keep in memory is forgotten. On the broker they take room until
/// their time is over. For admins.
#[utoipa::path(
    delete,
    path = CLEAR_CACHE.path,
    tag = "cache",
    operation_id = "clear_cache",
    responses((status = 204, description = "It is cleared")),
)]
pub(super) async fn clear_cache(State(app): State<AppState>, who: Principal) -> Result<StatusCode, Problem> {
    who.require_operator(
        "the entries of everybody would be gone; one's own go one by one, or by their time",
    )?;
    let request_id = RequestId::from_bytes(nats::new_id_bytes());
    let changed = app.bus.change_record::<CacheEpoch>(CacheEpoch::KEY, |found| {
        let epoch = found.map_or(0, |found| found.epoch) + 1;
        let event = CacheCleared { request_id, cleared_by: who.owner.clone(), epoch };
        Some((CacheEpoch { epoch }, Outbox::new().with_event(&event)))
    });
    let held = Box::pin(changed).await;
    // Also where the answer was lost: it may be another one.
    app.flush_caches();
    app.cached.memory.forget_all();
    let epoch = held?.map(|held| held.record.epoch).unwrap_or_default();
    app.bus.put_live_record(&CacheFlush { epoch }, FLUSH_KEPT).await?;
    CACHE_WRITES.increment(CacheWrite::Clear);
    tracing::info!(by = who.owner, epoch, "the cache was cleared");
    Ok(StatusCode::NO_CONTENT)
}

//! Reading many hooks: an account's, or everybody's.
//!
//! Limits: a list shows at most [`LISTED_MAX`].

use std::{collections::HashMap, time::Duration};

use axum::{Json, extract::State};
use nats::{Bus, BusError, ReaderStart, reader};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    hook::{HOOKS_MAX, HookProgress, HookRecord, hook_key, hook_progress_key},
    ids::HookId,
    subjects,
};
use serde::Serialize;
use serde_json::json;

use super::{
    OWNER_RECORDS_MAX,
    document::{self, HookDocument},
};
use crate::{AppState, schedules::owner_key};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// Most hooks that one answer lists.
const LISTED_MAX: usize = 1_000;

/// How long reading a list may take.
const READ_TIME_MAX: Duration = Duration::from_secs(5);

/// What lies in the bucket below some keys.
#[derive(Debug, Default)]
struct FoundHooks {
    hooks: Vec<HookRecord>,
    progress: HashMap<HookId, HookProgress>,
    /// All records of hooks, also tombstones.
    record_count: usize,
}

/// Reads the hooks whose keys fit, with how far each is.
async fn read_hooks(bus: &Bus, key_filters: &[String]) -> Result<FoundHooks, Problem> {
    let reading = async {
        let filters = key_filters.iter().map(|keys| subjects::kv_subject(HookRecord::BUCKET, keys)).collect();
        let stream = subjects::kv_stream_name(HookRecord::BUCKET);
        let settings = reader::ReaderConfig::new(stream, filters, ReaderStart::LastPerSubject);
        let prefix = subjects::kv_subject(HookRecord::BUCKET, "");
        let mut entries = bus.open_reader(settings).await?;
        let mut found = FoundHooks::default();
        while let Some(entry) = entries.next_pending().await? {
            // The mark of one that has expired has no bytes.
            let Some(key) = entry.subject.strip_prefix(&prefix).filter(|_| !entry.payload.is_empty()) else {
                continue;
            };
            if key.starts_with("progress.") {
                if let Ok((_, progress)) = nats::decode_record::<HookProgress>(key, &entry.payload) {
                    found.progress.insert(progress.hook_id, progress);
                }
                continue;
            }
            found.record_count += 1;
            match nats::decode_record::<HookRecord>(key, &entry.payload) {
                Ok((_, record)) if record.is_removed() => {}
                Ok((_, record)) => found.hooks.push(record),
                Err(error) => tracing::warn!(%error, key, "a hook can't be read"),
            }
        }
        Ok::<_, BusError>(found)
    };
    let read = tokio::time::timeout(READ_TIME_MAX, reading).await;
    Ok(read.map_err(|error| Problem::unavailable(&error))??)
}

/// Refuses one more hook where the owner has as many as it may.
pub(super) async fn check_count(bus: &Bus, owner_key: &str) -> Result<(), Problem> {
    let found = read_hooks(bus, &[hook_key(owner_key, "*")]).await?;
    if found.hooks.len() >= HOOKS_MAX || found.record_count >= OWNER_RECORDS_MAX {
        return Err(Problem::new(ProblemCode::HooksTooMany));
    }
    Ok(())
}

/// Hooks.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HookList", example = json!({ "items": [document::example_document()], "limit": 1_000, "has_more": false }))]
pub(super) struct HookList {
    /// The oldest first.
    items: Vec<HookDocument>,
    /// Most hooks that are listed.
    limit: usize,
    /// True when there are more hooks than are listed.
    has_more: bool,
}

pub(super) static LIST_HOOKS: Operation =
    Operation::read("/v1/hooks", OperationAccess::Principal(ApiKeyScope::Events), Some(RateLimitGroup::Api));

/// List hooks
///
/// An owner sees its own; operators and admins see everybody's.
#[utoipa::path(
    get,
    path = LIST_HOOKS.path,
    tag = "events",
    operation_id = "list_hooks",
    responses((status = 200, description = "The hooks", body = ref("#/components/schemas/HookList"))),
)]
pub(super) async fn list_hooks(
    State(app): State<AppState>,
    who: Principal,
) -> Result<Json<HookList>, Problem> {
    let owner = who.list_owner_filter().map(|owner| owner_key(&owner));
    let filters = [hook_key(owner.as_deref().unwrap_or("*"), "*"), hook_progress_key("*")];
    let FoundHooks { mut hooks, progress, .. } = read_hooks(&app.bus, &filters).await?;
    hooks.sort_unstable_by_key(|record| record.hook_id);
    let has_more = hooks.len() > LISTED_MAX;
    hooks.truncate(LISTED_MAX);
    let items = hooks.iter().map(|record| HookDocument::new(record, progress.get(&record.hook_id))).collect();
    Ok(Json(HookList { items, limit: LISTED_MAX, has_more }))
}

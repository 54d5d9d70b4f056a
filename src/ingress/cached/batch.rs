//! Many entries in one request, and entries and documents that are read into memory before somebody asks for them.
//!
//! Limits: [`BATCH_MAX`] operations, keys and media in one request; each operation counts as a request, and so do keys and media. Values
//! of one answer have at most [`VALUES_BYTES_MAX`]: those behind are refused.

use axum::{
    Json,
    extract::State,
    http::{Method, header},
    response::{IntoResponse, Response},
};
use data_encoding::BASE64;
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    cached::{self, CachedEntry},
    ids::MediaId,
};
use serde::{Deserialize, Serialize, de::IgnoredAny};
use serde_bytes::ByteBuf;
use serde_json::{Value, json};

use super::{
    EntryName,
    entry::{KEY_PATTERN, check_key, check_ttl},
};
use crate::{AppState, capacity, media};
use auth::Principal;
use web::{
    body::JsonBody,
    error::Problem,
    limit::{RateLimitGroup, RateLimitPermit},
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
};

/// Most operations of one request.
pub(crate) const BATCH_MAX: usize = 100;

/// Most bytes of all values that one answer has.
const VALUES_BYTES_MAX: usize = 1024 * 1024;

/// Type of values that are put as JSON.
const JSON_TYPE: &str = "application/json";

/// What is to be done with entries, each on its own, in this order.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CachedBatch", example = json!({
    "operations": [{ "type": "put", "key": "profile:7", "value": "Ann", "ttl_s": 60 }, { "type": "get", "key": "profile:8" }],
}))]
pub(super) struct CachedBatchRequest {
    /// One that is refused keeps no other from being done.
    #[schemars(length(min = 1, max = BATCH_MAX))]
    operations: Vec<CachedOperation>,
}

/// What is to be done with one entry.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
enum CachedOperation {
    /// Read it.
    Get {
        /// Its key.
        #[schemars(regex(pattern = KEY_PATTERN))]
        key: String,
    },
    /// Put JSON as its value.
    Put {
        /// Its key.
        #[schemars(regex(pattern = KEY_PATTERN))]
        key: String,
        /// The value, of the type `application/json`.
        value: Value,
        /// How long it is kept, in seconds; `ingress.cache.ttl` of the settings when absent.
        #[serde(default)]
        #[schemars(range(min = 1, max = cached::TTL_S_MAX))]
        ttl_s: Option<u64>,
    },
    /// Remove it.
    Delete {
        /// Its key.
        #[schemars(regex(pattern = KEY_PATTERN))]
        key: String,
    },
}

/// What became of each operation, in the same order.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CachedBatchResult", example = json!({
    "items": [{ "key": "profile:7", "outcome": "stored", "expires_at_ms": 1_763_900_814_467_u64 }, { "key": "profile:8", "outcome": "miss" }],
}))]
pub(super) struct CachedBatchDocument {
    /// In the order of the operations.
    items: Vec<CachedBatchItem>,
}

/// What became of one operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum CachedOutcome {
    /// It was read.
    Hit,
    /// There is none to be read or removed.
    Miss,
    /// It is there.
    Stored,
    /// It is removed.
    Removed,
    /// `problem` says why it was not done.
    Refused,
}

/// What became of one entry.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CachedBatchItem")]
struct CachedBatchItem {
    /// Its key.
    key: String,
    /// What became of it.
    outcome: CachedOutcome,
    /// The value that was read, where its type is JSON: the text that was put, as it is.
    #[serde(skip)]
    #[schemars(with = "Option<Value>")]
    value: Option<String>,
    /// The value that was read, where it is of another type, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    value_base64: Option<String>,
    /// Type of the value that was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    content_type: Option<String>,
    /// Unix time in milliseconds by the broker at which it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at_ms: Option<u64>,
    /// Why it was not done, as it would have been answered alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "problem_schema")]
    problem: Option<Value>,
}

fn problem_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "$ref": "#/components/schemas/Problem" })
}

impl CachedBatchItem {
    fn new(key: String, outcome: CachedOutcome) -> Self {
        Self {
            key,
            outcome,
            value: None,
            value_base64: None,
            content_type: None,
            expires_at_ms: None,
            problem: None,
        }
    }

    fn of_entry(key: String, entry: CachedEntry) -> Self {
        let CachedEntry { content_type, value, expires_at_ms, .. } = entry;
        let is_json = content_type == JSON_TYPE && serde_json::from_slice::<IgnoredAny>(&value).is_ok();
        let text = if is_json { String::from_utf8(value.to_vec()).ok() } else { None };
        let value_base64 = text.is_none().then(|| BASE64.encode(&value));
        Self {
            value: text,
            value_base64,
            content_type: Some(content_type),
            expires_at_ms: Some(expires_at_ms),
            ..Self::new(key, CachedOutcome::Hit)
        }
    }

    fn of_problem(key: String, problem: &Problem) -> Self {
        Self { problem: Some(problem.to_document()), ..Self::new(key, CachedOutcome::Refused) }
    }

    fn value_bytes(&self) -> usize {
        [&self.value, &self.value_base64].into_iter().flatten().map(String::len).sum()
    }

    /// As JSON. A value that is JSON stands in it as it was put: read and written again, it could take many times its bytes, and numbers
    /// and repeated members would become others.
    fn to_json(&self) -> Result<String, Problem> {
        let mut text = serde_json::to_string(self).map_err(|error| Problem::internal(&error))?;
        if let Some(value) = &self.value {
            text.pop();
            text.push_str(",\"value\":");
            text.push_str(value);
            text.push('}');
        }
        Ok(text)
    }
}

pub(super) static CHANGE_CACHED_BATCH: Operation = Operation::change(
    Method::POST,
    "/v1/cache/batch",
    OperationAccess::Principal(ApiKeyScope::Cache),
    Some(RateLimitGroup::Cache),
    &[],
);

/// Read, put and remove many entries of the cache
///
/// At most 100, one after the other: what is refused says why, and keeps no other from being done. Each counts as a request; of those
/// behind the last that may, the problem is `rate_limited`, and of those with which the values of the answer had more than a mebibyte it is
/// `answer_too_large`: ask for them again.
#[utoipa::path(
    post,
    path = CHANGE_CACHED_BATCH.path,
    tag = "cache",
    operation_id = "change_cached_batch",
    request_body(content = ref("#/components/schemas/CachedBatch"), content_type = "application/json"),
    responses((
        status = 200, description = "What became of each, in the same order", body = ref("#/components/schemas/CachedBatchResult"),
    )),
)]
pub(super) async fn change_cached_batch(
    State(app): State<AppState>,
    who: Principal,
    permit: RateLimitPermit,
    JsonBody(wanted): JsonBody<CachedBatchRequest>,
) -> Result<Response, Problem> {
    if wanted.operations.is_empty() {
        return Err(Problem::new(ProblemCode::RequestInvalid).with_pointer("/operations", "there is none"));
    }
    check_count(wanted.operations.len(), "/operations")?;
    for (number, operation) in wanted.operations.iter().enumerate() {
        check_operation(&app, number, operation)?;
    }
    let (mut items, mut values_bytes) = (Vec::with_capacity(wanted.operations.len()), 0);
    for operation in wanted.operations {
        let (CachedOperation::Get { key }
        | CachedOperation::Put { key, .. }
        | CachedOperation::Delete { key }) = &operation;
        let key = key.clone();
        let done = match permit.charge_item(RateLimitGroup::Cache) {
            Ok(()) => run_operation(&app, &who, operation).await,
            Err(problem) => Err(problem),
        };
        let item = done.unwrap_or_else(|problem| CachedBatchItem::of_problem(key.clone(), &problem));
        let fits = values_bytes + item.value_bytes() <= VALUES_BYTES_MAX;
        if fits {
            values_bytes += item.value_bytes();
            items.push(item.to_json()?);
        } else {
            let problem = Problem::new(ProblemCode::AnswerTooLarge);
            items.push(CachedBatchItem::of_problem(key, &problem).to_json()?);
        }
    }
    let body = format!("{{\"items\":[{}]}}", items.join(","));
    Ok(([(header::CONTENT_TYPE, "application/json")], body).into_response())
}

fn check_count(count: usize, pointer: &str) -> Result<(), Problem> {
    if count <= BATCH_MAX {
        return Ok(());
    }
    let detail = format!("at most {BATCH_MAX} of them");
    Err(Problem::new(ProblemCode::RequestInvalid).with_pointer(pointer, detail))
}

/// Refuses what can't be done with any entry, before anything is done.
fn check_operation(app: &AppState, number: usize, operation: &CachedOperation) -> Result<(), Problem> {
    let (CachedOperation::Get { key } | CachedOperation::Put { key, .. } | CachedOperation::Delete { key }) =
        operation;
    let place = format!("/operations/{number}");
    check_key(key.clone())
        .map_err(|problem| problem.with_pointer(&format!("{place}/key"), "it is no key"))?;
    if let CachedOperation::Put { ttl_s, .. } = operation {
        check_ttl(*ttl_s, &app.config.cache, &format!("{place}/ttl_s"))?;
    }
    Ok(())
}

/// Does what [`check_operation`] let pass.
async fn run_operation(
    app: &AppState,
    who: &Principal,
    operation: CachedOperation,
) -> Result<CachedBatchItem, Problem> {
    match operation {
        CachedOperation::Get { key } => {
            let found = app.cached.read(&app.bus, &EntryName::new(who, &key)).await?;
            Ok(match found {
                Some(entry) => CachedBatchItem::of_entry(key, entry),
                None => CachedBatchItem::new(key, CachedOutcome::Miss),
            })
        }
        CachedOperation::Put { key, value, ttl_s } => {
            if let Some(full) = app.capacity.find_full(&capacity::CACHED) {
                return Err(full.to_problem());
            }
            let config = app.config.cache;
            let ttl_s = check_ttl(ttl_s, &config, "ttl_s")?;
            let value = serde_json::to_vec(&value).map_err(|error| Problem::internal(&error))?;
            if value.len() > config.value_bytes_max {
                let detail = format!("a value may have {} bytes", config.value_bytes_max);
                return Err(Problem::new(ProblemCode::BodyTooLarge).with_detail(detail));
            }
            let (name, value) = (EntryName::new(who, &key), (JSON_TYPE.to_owned(), ByteBuf::from(value)));
            let put = app.cached.put(&app.bus, &name, value, ttl_s, |_| Ok(())).await?;
            let expires_at_ms = Some(put.entry.expires_at_ms);
            Ok(CachedBatchItem { expires_at_ms, ..CachedBatchItem::new(key, CachedOutcome::Stored) })
        }
        CachedOperation::Delete { key } => {
            let removed = app.cached.remove(&app.bus, &EntryName::new(who, &key), |_| Ok(())).await;
            match removed {
                Ok(()) => Ok(CachedBatchItem::new(key, CachedOutcome::Removed)),
                Err(problem) if problem.code() == ProblemCode::CacheMiss.code() => {
                    Ok(CachedBatchItem::new(key, CachedOutcome::Miss))
                }
                Err(problem) => Err(problem),
            }
        }
    }
}

/// What is to be read into memory.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CacheWarm", example = json!({ "keys": ["profile:7"], "media_ids": ["06db00820dt0303jc5mn0r355k"] }))]
pub(super) struct CacheWarmRequest {
    /// Keys of entries.
    #[serde(default)]
    #[schemars(length(max = BATCH_MAX), inner(regex(pattern = KEY_PATTERN)))]
    keys: Vec<String>,
    /// Media whose documents are read.
    #[serde(default)]
    #[schemars(length(max = BATCH_MAX))]
    media_ids: Vec<MediaId>,
}

/// What was read into memory.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CacheWarmed", example = json!({ "warmed": 1, "absent_keys": [], "absent_media_ids": [] }))]
pub(super) struct CacheWarmDocument {
    /// How many of them are in memory.
    warmed: usize,
    /// Keys under which there is nothing.
    absent_keys: Vec<String>,
    /// Media that are not there, or not one's own.
    absent_media_ids: Vec<MediaId>,
}

pub(super) static WARM_CACHE: Operation = Operation::change(
    Method::POST,
    "/v1/cache/warm",
    OperationAccess::Principal(ApiKeyScope::Cache),
    Some(RateLimitGroup::Cache),
    &[],
);

/// Read entries and documents into memory
///
/// Of the replica that answers: what was read there before a load comes is answered without asking the broker. At most 100 of each;
/// each of them counts as a request.
#[utoipa::path(
    post,
    path = WARM_CACHE.path,
    tag = "cache",
    operation_id = "warm_cache",
    request_body(content = ref("#/components/schemas/CacheWarm"), content_type = "application/json"),
    responses((status = 200, description = "What is in memory", body = ref("#/components/schemas/CacheWarmed"))),
)]
pub(super) async fn warm_cache(
    State(app): State<AppState>,
    who: Principal,
    permit: RateLimitPermit,
    JsonBody(wanted): JsonBody<CacheWarmRequest>,
) -> Result<Json<CacheWarmDocument>, Problem> {
    check_count(wanted.keys.len(), "/keys")?;
    check_count(wanted.media_ids.len(), "/media_ids")?;
    let (mut absent_keys, mut absent_media_ids, mut warmed) = (Vec::new(), Vec::new(), 0);
    for key in wanted.keys {
        permit.charge_item(RateLimitGroup::Cache)?;
        let key = check_key(key)?;
        match app.cached.read(&app.bus, &EntryName::new(&who, &key)).await? {
            Some(_) => warmed += 1,
            None => absent_keys.push(key),
        }
    }
    for media_id in wanted.media_ids {
        permit.charge_item(RateLimitGroup::Cache)?;
        if media::warm_document(&app, &who, media_id).await? {
            warmed += 1;
        } else {
            absent_media_ids.push(media_id);
        }
    }
    Ok(Json(CacheWarmDocument { warmed, absent_keys, absent_media_ids }))
}

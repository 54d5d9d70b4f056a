//! One entry: read, put, removed.

use axum::{
    Json,
    body::Body,
    extract::{Path, Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    cached::{self, CachedEntry},
};
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use serde_json::json;

use super::EntryName;
use crate::{AppState, capacity, openapi, uploads::metadata::clean_media_type};
use auth::Principal;
use web::{
    body::{self, BodyLimits},
    conditional::{self, EntityTag},
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    query::QueryParameters,
};

/// What a key looks like: it stands in an address as it is.
pub(crate) const KEY_PATTERN: &str = "^[A-Za-z0-9][A-Za-z0-9._:@~+=-]{0,199}$";

/// Type of a value whose request names none.
const DEFAULT_TYPE: &str = "application/octet-stream";

/// An entry that was put.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "CachedEntry", example = json!({
    "key": "profile:7", "content_type": "application/json", "size_bytes": 2, "expires_at_ms": 1_763_900_814_467_u64,
}))]
pub(super) struct CachedEntryDocument {
    /// Its key.
    key: String,
    /// Media type of its value.
    content_type: String,
    /// Bytes of its value.
    size_bytes: usize,
    /// Unix time in milliseconds by the broker at which it ends.
    expires_at_ms: u64,
}

impl CachedEntryDocument {
    fn new(key: String, entry: &CachedEntry) -> Self {
        Self {
            key,
            content_type: entry.content_type.clone(),
            size_bytes: entry.value.len(),
            expires_at_ms: entry.expires_at_ms,
        }
    }
}

/// How an entry is put.
#[derive(Debug, Clone, Copy, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "CachedPut")]
pub(super) struct CachedPutQuery {
    /// How long it is kept, in seconds; `ingress.cache.ttl` of the settings when absent.
    #[schemars(range(min = 1, max = cached::TTL_S_MAX))]
    ttl_s: Option<u64>,
}

openapi::query_parameters!(CachedPutQuery);

pub(super) static READ_CACHED: Operation = Operation::read(
    "/v1/cache/entries/{key}",
    OperationAccess::Principal(ApiKeyScope::Cache),
    Some(RateLimitGroup::Cache),
);

/// Read an entry of the cache
///
/// One's own: nobody else has entries under one's keys.
#[utoipa::path(
    get,
    path = READ_CACHED.path,
    tag = "cache",
    operation_id = "read_cached",
    params(("key", Path), ("If-None-Match", Header)),
    responses(
        (status = 200, description = "The value, of the type with which it was put", headers(("ETag")), content(("*/*"))),
        (status = 304, description = "It is as known", headers(("ETag"))),
        (status = 404, description = "There is no such entry, or its time is over"),
    ),
)]
pub(super) async fn read_cached(
    State(app): State<AppState>,
    Path(key): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let name = EntryName::new(&who, &check_key(key)?);
    let found = app.cached.read(&app.bus, &name).await?;
    let entry = found.ok_or_else(|| Problem::new(ProblemCode::CacheMiss))?;
    let tag = entity_tag(&entry);
    let is_known = conditional::matches_if_none_match(&headers, &tag.to_quoted());
    let mut response =
        Response::new(if is_known { Body::empty() } else { Body::from(entry.value.into_vec()) });
    let fields = response.headers_mut();
    fields.insert(header::ETAG, tag.to_header());
    fields.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    // A value is no page of this site, whatever its type says.
    fields.insert(header::CONTENT_DISPOSITION, HeaderValue::from_static("attachment"));
    if is_known {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    } else if let Ok(content_type) = HeaderValue::from_str(&entry.content_type) {
        fields.insert(header::CONTENT_TYPE, content_type);
    }
    Ok(response)
}

pub(super) static PUT_CACHED: Operation = Operation::change(
    Method::PUT,
    "/v1/cache/entries/{key}",
    OperationAccess::Principal(ApiKeyScope::Cache),
    Some(RateLimitGroup::Cache),
    &[],
)
.with_room(capacity::CACHED);

/// Put an entry into the cache
///
/// The body is its value, as it is. It takes the place of what is there: with `If-None-Match: *` only where nothing is, with `If-Match`
/// only that of one that was read. The replica that took it answers with it at once, every other one within two seconds, as a rule within a
/// tenth of one.
#[utoipa::path(
    put,
    path = PUT_CACHED.path,
    tag = "cache",
    operation_id = "put_cached",
    params(("key", Path), CachedPutQuery),
    request_body(content = Option<Vec<u8>>, content_type = "application/octet-stream", description = "The value"),
    responses(
        (status = 200, description = "It took the place of another one", body = ref("#/components/schemas/CachedEntry"), headers(("ETag"))),
        (status = 201, description = "It is there", body = ref("#/components/schemas/CachedEntry"), headers(("ETag"))),
        (status = 408, description = "The value came too slowly"),
        (status = 409, description = "Everything was cleared meanwhile"),
        (status = 412, description = "What is there is not what the request names"),
        (status = 413, description = "The value has more bytes than one may"),
    ),
)]
pub(super) async fn put_cached(
    State(app): State<AppState>,
    Path(key): Path<String>,
    who: Principal,
    QueryParameters(wanted): QueryParameters<CachedPutQuery>,
    request: Request,
) -> Result<Response, Problem> {
    let key = check_key(key)?;
    let config = app.config.cache;
    let ttl_s = check_ttl(wanted.ttl_s, &config, "ttl_s")?;
    let (parts, body) = request.into_parts();
    let content_type = content_type_of(&parts.headers)?;
    let limits = BodyLimits::from_extensions(&parts.extensions);
    let limits = BodyLimits { bytes_max: config.value_bytes_max.min(limits.bytes_max), ..limits };
    let value = body::read_body(body, &limits).await?;
    let name = EntryName::new(&who, &key);
    let may_replace = |found: Option<&CachedEntry>| check_preconditions(&parts.headers, found);
    let value = (content_type, ByteBuf::from(value.to_vec()));
    let put = app.cached.put(&app.bus, &name, value, ttl_s, may_replace).await?;
    let status = if put.is_new { StatusCode::CREATED } else { StatusCode::OK };
    let tag = [(header::ETAG, entity_tag(&put.entry).to_header())];
    Ok((status, tag, Json(CachedEntryDocument::new(key, &put.entry))).into_response())
}

pub(super) static REMOVE_CACHED: Operation = Operation::change(
    Method::DELETE,
    "/v1/cache/entries/{key}",
    OperationAccess::Principal(ApiKeyScope::Cache),
    Some(RateLimitGroup::Cache),
    &[],
);

/// Remove an entry of the cache
#[utoipa::path(
    delete,
    path = REMOVE_CACHED.path,
    tag = "cache",
    operation_id = "remove_cached",
    params(("key", Path)),
    responses(
        (status = 204, description = "It is removed"),
        (status = 404, description = "There is no such entry, or its time is over"),
        (status = 412, description = "What is there is not what the request names"),
    ),
)]
pub(super) async fn remove_cached(
    State(app): State<AppState>,
    Path(key): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<StatusCode, Problem> {
    let name = EntryName::new(&who, &check_key(key)?);
    let may_remove = |found: Option<&CachedEntry>| check_preconditions(&headers, found);
    app.cached.remove(&app.bus, &name, may_remove).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// The tag of an entry: a digest of type and value.
pub(super) fn entity_tag(entry: &CachedEntry) -> EntityTag {
    EntityTag::from_bytes(&[entry.content_type.as_bytes(), b"\0", &entry.value].concat())
}

/// The key, if it is one.
pub(super) fn check_key(key: String) -> Result<String, Problem> {
    let is_in_key = |byte: u8| byte.is_ascii_alphanumeric() || b"._:@~+=-".contains(&byte);
    let begins_well = key.bytes().next().is_some_and(|byte| byte.is_ascii_alphanumeric());
    if begins_well && key.len() <= cached::KEY_BYTES_MAX && key.bytes().all(is_in_key) {
        return Ok(key);
    }
    let detail = format!(
        "a key has 1 to {} letters and digits of ASCII, and `._:@~+=-` behind the first of them",
        cached::KEY_BYTES_MAX
    );
    Err(Problem::new(ProblemCode::CacheKeyInvalid).with_detail(detail))
}

/// How long an entry is kept, in seconds.
pub(super) fn check_ttl(
    wanted_s: Option<u64>,
    config: &super::CachedConfig,
    place: &str,
) -> Result<u64, Problem> {
    let ttl_s = wanted_s.unwrap_or(config.ttl_s);
    if (1..=cached::TTL_S_MAX).contains(&ttl_s) {
        return Ok(ttl_s);
    }
    let detail = format!("{place}: an entry is kept for 1 to {} seconds", cached::TTL_S_MAX);
    Err(Problem::new(ProblemCode::RequestInvalid).with_detail(detail))
}

fn content_type_of(headers: &HeaderMap) -> Result<String, Problem> {
    let Some(said) = headers.get(header::CONTENT_TYPE) else { return Ok(DEFAULT_TYPE.to_owned()) };
    said.to_str().ok().and_then(clean_media_type).ok_or_else(|| {
        Problem::new(ProblemCode::HeaderInvalid)
            .with_detail("Content-Type is no media type, such as application/json")
            .with_member("header", "Content-Type")
    })
}

/// Conditions are the request's to make: without one everything may be replaced.
fn check_preconditions(headers: &HeaderMap, found: Option<&CachedEntry>) -> Result<(), Problem> {
    let tag = found.map(entity_tag);
    if headers.contains_key(header::IF_MATCH) {
        conditional::check_if_match(headers, tag)?;
    }
    let names_it = tag.is_some_and(|tag| conditional::matches_if_none_match(headers, &tag.to_quoted()));
    if names_it { Err(Problem::new(ProblemCode::PreconditionFailed)) } else { Ok(()) }
}

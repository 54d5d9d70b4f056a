//! `GET /v1/audit`: the audit log as it was written, one JSON line a record.
//!
//! Limits: [`REPLAYS_MAX`] at once; a replay that follows ends after [`FOLLOW_MAX`], and its reader goes on with `from`.

use schemas::{access::ApiKeyScope, ids::MediaId};
use std::{num::NonZeroU64, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderValue, header},
    response::Response,
};
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use schemars::JsonSchema;
use serde::Deserialize;

use super::{AppState, openapi};
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    problem_code::ProblemCode,
    query,
};

/// Replays at once on one replica.
pub const REPLAYS_MAX: usize = 64;
/// Longest replay that follows.
pub const FOLLOW_MAX: Duration = Duration::from_secs(3_600);

/// Characters of the longest owner that is looked for.
const OWNER_LENGTH_MAX: usize = 128;

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default().with(&REPLAY_AUDIT_LOG, replay_audit_log)
}

/// Its description.
#[derive(utoipa::OpenApi)]
#[openapi(paths(replay_audit_log))]
pub(super) struct AuditApiDoc;

impl openapi::OperationGroup for AuditApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<schemas::audit::AuditRecord>();
    }
}

/// What to replay.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wanted")]
struct AuditReplayQuery {
    /// First record, from 1.
    from: Option<u64>,
    /// Last record; the replay ends with it, also one that follows.
    to: Option<NonZeroU64>,
    /// Not before this time (RFC 3339), or this age, such as `90s`, `2h` or `7d`.
    #[serde(default)]
    #[schemars(schema_with = "query::moment_schema")]
    since: Option<String>,
    /// Not after this time or age.
    #[serde(default)]
    #[schemars(schema_with = "query::moment_schema")]
    until: Option<String>,
    /// Only this class, or class and action: `media`, `media.ready`, `*.failed`.
    #[schemars(regex(pattern = audit::FILTER_PATTERN))]
    filter: Option<String>,
    /// Only records about media of this owner.
    #[schemars(regex(pattern = "^[ -~]*$"), length(min = 1, max = OWNER_LENGTH_MAX))]
    owner: Option<String>,
    /// Only records about this medium.
    #[serde(default, deserialize_with = "query::deserialize_id")]
    #[schemars(schema_with = "openapi::id_schema")]
    media_id: Option<MediaId>,
    /// Most records; the replay ends with the last of them, also one that follows.
    limit: Option<NonZeroU64>,
    /// Stay and send what comes.
    #[serde(default)]
    follow: bool,
}

openapi::query_parameters!(AuditReplayQuery);

impl AuditReplayQuery {
    fn into_query(self) -> Result<audit::ReplayQuery, Problem> {
        let now_ms = nats::now_ms();
        let moment = |text: Option<String>| {
            text.map(|text| {
                query::parse_moment_ms(&text, now_ms).ok_or_else(|| {
                    Problem::new(ProblemCode::QueryMalformed)
                        .with_detail("since and until take RFC 3339, or an age such as 90s, 2h or 7d")
                })
            })
            .transpose()
        };
        if self.owner.as_ref().is_some_and(|owner| !is_owner(owner)) {
            return Err(Problem::new(ProblemCode::QueryMalformed).with_detail(format!(
                "owner takes 1 to {OWNER_LENGTH_MAX} characters of ASCII, as media show it"
            )));
        }
        let filter = self.filter.map_or_else(|| Ok(audit::ReplayFilter::default()), |text| text.parse());
        Ok(audit::ReplayQuery {
            from: self.from,
            to: self.to.map(NonZeroU64::get),
            since_ms: moment(self.since)?,
            until_ms: moment(self.until)?,
            filter: filter
                .map_err(|error| Problem::new(ProblemCode::QueryMalformed).with_detail(error.to_string()))?,
            owner: self.owner,
            media_id: self.media_id,
            limit: self.limit.map(NonZeroU64::get),
            follow: self.follow,
        })
    }
}

fn is_owner(text: &str) -> bool {
    (1..=OWNER_LENGTH_MAX).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b' '..=b'~'))
}

static REPLAY_AUDIT_LOG: Operation = Operation::read(
    "/v1/audit",
    OperationAccess::Principal(ApiKeyScope::Audit),
    Some(RateLimitGroup::Monitor),
);

/// Replay the audit log
///
/// One line of JSON a record, exactly as it was stored and hashed, in order: those of which all is true that the query says. Without
/// `follow` the replay ends at the newest record. For operators and admins.
#[utoipa::path(
    get,
    path = REPLAY_AUDIT_LOG.path,
    tag = "audit",
    operation_id = "read_audit",
    params(AuditReplayQuery),
    responses((
        status = 200, description = "Lines", body = ref("#/components/schemas/AuditRecord"),
        content_type = "application/x-ndjson",
    )),
)]
async fn replay_audit_log(
    State(app): State<AppState>,
    who: Principal,
    query::QueryParameters(wanted): query::QueryParameters<AuditReplayQuery>,
) -> Result<Response, Problem> {
    who.require_operator("the audit log is about everybody")?;
    let Ok(slot) = app.replays.clone().try_acquire_owned() else {
        return Err(Problem::busy("too many replays run at once"));
    };
    let query = wanted.into_query()?;
    let records =
        audit::replay_records(&app.bus, query).await.map_err(|error| Problem::unavailable(&error))?;
    let lines = records
        .map_ok(move |replayed| {
            // The slot lives as long as the stream that owns this closure.
            let _held = &slot;
            let mut line = Vec::with_capacity(replayed.line.len() + 1);
            line.extend_from_slice(&replayed.line);
            line.push(b'\n');
            Bytes::from(line)
        })
        .take_until(app.response_end_signal(&who, FOLLOW_MAX));
    let mut response = Response::new(Body::from_stream(lines));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

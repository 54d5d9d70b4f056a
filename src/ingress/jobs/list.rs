//! The list of jobs, from the index.

use axum::{
    extract::{OriginalUri, State},
    response::Response,
};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    ids::MediaId,
    index_query::{self, JobIndexPage, JobIndexQuery},
    job::{JobKind, JobStatus},
    job_action::{CODE_CHARS_MAX, JobFilter},
    pause::NAME_CHARS_MAX,
    subjects::JobPriority,
};
use serde::Deserialize;

use super::filter_actions::find_filter_fault;
use crate::{AppState, index_client, media, openapi};
use auth::Principal;
use web::{
    cursor::CursorSealer,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    page::ListPage,
    problem_code::ProblemCode,
    public_address::PublicAddress,
    query::QueryParameters,
};

/// Which jobs to list: those of which all that is named is true.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wanted")]
pub(super) struct JobListQuery {
    /// Only jobs on this medium.
    #[serde(default, deserialize_with = "web::query::deserialize_id")]
    #[schemars(schema_with = "openapi::id_schema")]
    media_id: Option<MediaId>,
    /// Only jobs that stand there.
    status: Option<JobStatus>,
    /// Only jobs of this kind.
    #[serde(default)]
    #[schemars(schema_with = "kind_schema")]
    kind: Option<String>,
    /// Only jobs of this priority.
    priority: Option<JobPriority>,
    /// Only jobs that failed with this code.
    #[schemars(length(min = 1, max = CODE_CHARS_MAX))]
    code: Option<String>,
    /// Only jobs that a person paused, or only those that are not paused.
    paused: Option<bool>,
    /// Only jobs of this owner; those of others are for operators and admins.
    #[schemars(length(min = 1, max = NAME_CHARS_MAX))]
    owner: Option<String>,
    /// `next_cursor` of the page before, with the same filters.
    cursor: Option<String>,
    /// Most items; 50 unless said otherwise.
    #[schemars(range(min = 1, max = index_query::ITEMS_MAX))]
    limit: Option<u32>,
    /// Answer only once the index has seen this revision, which an earlier answer told.
    min_revision: Option<u64>,
}

openapi::query_parameters!(JobListQuery);

fn kind_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({ "type": "string", "enum": JobKind::ALL.map(JobKind::name) })
}

pub(super) static LIST_JOBS: Operation = Operation::read(
    "/v1/jobs",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
);

/// List jobs, newest first
///
/// An owner sees its own; operators and admins see everybody's. A page ends once 10,000 jobs were looked at: with `kind`, `priority`,
/// `code` or `paused=false` it may have fewer items than `limit`, or none, and yet a `next_cursor`, which goes on behind them.
#[utoipa::path(
    get,
    path = LIST_JOBS.path,
    tag = "worker",
    operation_id = "list_jobs",
    params(JobListQuery),
    responses(
        (status = 200, description = "A page", body = ref("#/components/schemas/JobItemPage"), headers(("Link"))),
        (status = 409, description = "There is no such revision yet"),
    ),
)]
pub(super) async fn list_jobs(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    OriginalUri(uri): OriginalUri,
    QueryParameters(wanted): QueryParameters<JobListQuery>,
) -> Result<Response, Problem> {
    let filter = wanted.filter(&who)?;
    let cursors = CursorSealer::new(&app.signing_key, index_query::JOBS, &(&filter, wanted.paused))?;
    let question = JobIndexQuery {
        owner: filter.owner,
        media_id: filter.media_id,
        status: filter.status,
        kind: filter.kind,
        priority: filter.priority,
        code: filter.code,
        paused: wanted.paused,
        cursor: wanted.cursor.map(|cursor| cursors.open(&cursor)).transpose()?,
        limit: media::parse_page_limit(wanted.limit)?,
        min_revision: wanted.min_revision,
    };
    let mut page: JobIndexPage = index_client::query_index(&app.bus, index_query::JOBS, &question).await?;
    // An index of a version before knows owner, medium and status alone.
    page.items.retain(|job| question.matches(job));
    let next_cursor = page.next.map(|position| cursors.seal(&position));
    Ok(ListPage { items: page.items, next_cursor, revision: page.revision }
        .into_list_response(&address, &uri))
}

impl JobListQuery {
    /// What is asked for of whom `who` may see, by the rules of filters of actions; with the status that goes without saying.
    fn filter(&self, who: &Principal) -> Result<JobFilter, Problem> {
        if self.owner.as_ref().is_some_and(|owner| !who.may_see(owner)) {
            who.require_operator("operators and admins list the jobs of others")?;
        }
        let named = JobFilter {
            owner: self.owner.clone(),
            media_id: self.media_id,
            kind: self.kind.clone(),
            status: self.status,
            code: self.code.clone(),
            priority: self.priority,
            ..JobFilter::default()
        };
        let malformed = |name: &str, detail: &str| {
            Problem::new(ProblemCode::QueryMalformed).with_detail(format!("{name}: {detail}"))
        };
        if let Some((name, detail)) = find_filter_fault(&named, self.status) {
            return Err(malformed(name, &detail));
        }
        let status = self.status.or(self.code.as_ref().map(|_| JobStatus::Failed));
        let only_paused = self.paused == Some(true);
        if only_paused && status.is_some_and(|status| status != JobStatus::Active) {
            return Err(malformed("paused", "only active jobs are paused"));
        }
        Ok(JobFilter {
            owner: who.list_owner_filter().or(named.owner),
            status: status.or(only_paused.then_some(JobStatus::Active)),
            ..named
        })
    }
}

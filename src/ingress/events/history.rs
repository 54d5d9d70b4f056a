//! `GET /v1/media/{id}/history` and `GET /v1/jobs/{id}/history`: all events about one thing, from its creation on, page by page.
//!
//! The index says where they lie in EVENTS; they are read from there. A removed medium has a history for as long as its events are
//! kept; where not even a record is left of it, the events themselves say whose they are.
//!
//! Limits: a page has at most [`index_query::ITEMS_MAX`] events and ends after [`PAGE_BYTES_MAX`] of them; [`READS_MAX`] are read at the
//! same time.

use axum::{
    extract::{OriginalUri, Path, State},
    response::Response,
};
use futures::{StreamExt, TryStreamExt};
use nats::reader::StreamEntry;
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    headers,
    ids::{JobId, MediaId},
    index_query::{self, HistoryIndexPage, HistoryIndexQuery},
    subjects,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    events_gone,
    frame::{EventData, read_event},
    hub::format_event_id,
    split_event_id,
};
use crate::{
    AppState,
    index_client::{index_problem, query_index},
    jobs,
    media::{self, parse_page_limit},
    openapi,
};
use auth::Principal;
use web::{
    cursor::{CursorSealer, cursor_malformed},
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    page::page_response,
    problem_code::ProblemCode,
    public_address::PublicAddress,
    query::QueryParameters,
};

/// Bytes of events after which a page ends.
const PAGE_BYTES_MAX: usize = 1024 * 1024;
/// Events that one request reads at the same time.
const READS_MAX: usize = 16;

/// Which part of a history.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wanted")]
pub(super) struct HistoryQuery {
    /// `next_cursor` of the page before.
    cursor: Option<String>,
    /// Most events; 50 unless said otherwise.
    #[schemars(range(min = 1, max = index_query::ITEMS_MAX))]
    limit: Option<u32>,
}

openapi::query_parameters!(HistoryQuery);

/// A page of a history.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HistoryPage", example = json!({ "items": [], "next_cursor": null, "up_to": "1a2b3c-7" }))]
pub(super) struct HistoryPage {
    /// Oldest first.
    items: Vec<HistoryItem>,
    /// Cursor of the next page; null at the end.
    next_cursor: Option<String>,
    /// Id of the newest event that was looked at: what is behind it, `GET /v1/events` has with this as `Last-Event-ID`.
    up_to: String,
    /// Whether there were events that are not the reader's to see.
    #[serde(skip)]
    has_others: bool,
}

impl HistoryPage {
    /// Where no record says whose it is, events do: those of others are none, and all of them may have been dropped.
    const fn shows_nothing(&self) -> bool {
        self.items.is_empty() && (self.has_others || self.next_cursor.is_none())
    }
}

/// One event, as followers get it.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HistoryItem")]
struct HistoryItem {
    /// Its id, as `GET /v1/events` has it.
    id: String,
    /// What happened.
    data: EventData,
}

pub(super) static READ_MEDIA_HISTORY: Operation = Operation::read(
    "/v1/media/{media_id}/history",
    OperationAccess::Principal(ApiKeyScope::Events),
    Some(RateLimitGroup::Api),
);

/// Read all that happened to a medium
///
/// From its creation on, with its upload, its jobs and its gate; of a removed one for as long as its events are kept.
#[utoipa::path(
    get,
    path = READ_MEDIA_HISTORY.path,
    tag = "events",
    operation_id = "read_media_history",
    params(("media_id", Path), HistoryQuery),
    responses(
        (status = 200, description = "A page", body = ref("#/components/schemas/HistoryPage"), headers(("Link"))),
        (status = 410, description = "The cursor is of another life of the event stream"),
    ),
)]
pub(super) async fn read_media_history(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    address: PublicAddress,
    OriginalUri(uri): OriginalUri,
    QueryParameters(wanted): QueryParameters<HistoryQuery>,
) -> Result<Response, Problem> {
    let media_id: MediaId = media::parse_media_id(&id)?;
    let owner = media::find_owner(&app, media_id).await?;
    if owner.as_ref().is_some_and(|owner| !who.may_see(owner)) {
        return Err(media::no_such_medium());
    }
    let question = HistoryIndexQuery { media_id: Some(media_id), ..HistoryIndexQuery::default() };
    let page = read_page(&app, &who, question, wanted).await?;
    if owner.is_none() && page.shows_nothing() {
        return Err(media::no_such_medium());
    }
    Ok(page_response(&page, page.next_cursor.as_deref(), &address, &uri))
}

pub(super) static READ_JOB_HISTORY: Operation = Operation::read(
    "/v1/jobs/{job_id}/history",
    OperationAccess::Principal(ApiKeyScope::Events),
    Some(RateLimitGroup::Api),
);

/// Read all that happened to a job
///
/// From its creation on, for as long as its events are kept.
#[utoipa::path(
    get,
    path = READ_JOB_HISTORY.path,
    tag = "events",
    operation_id = "read_job_history",
    params(("job_id", Path), HistoryQuery),
    responses(
        (status = 200, description = "A page", body = ref("#/components/schemas/HistoryPage"), headers(("Link"))),
        (status = 410, description = "The cursor is of another life of the event stream"),
    ),
)]
pub(super) async fn read_job_history(
    State(app): State<AppState>,
    Path(id): Path<String>,
    who: Principal,
    address: PublicAddress,
    OriginalUri(uri): OriginalUri,
    QueryParameters(wanted): QueryParameters<HistoryQuery>,
) -> Result<Response, Problem> {
    let job_id: JobId = id.parse().map_err(|_| jobs::no_such_job())?;
    let job = app.bus.load_record::<schemas::job::JobRecord>(&job_id.to_string()).await?;
    if job.as_ref().is_some_and(|held| !who.may_see(&held.record.owner)) {
        return Err(jobs::no_such_job());
    }
    let question = HistoryIndexQuery { job_id: Some(job_id), ..HistoryIndexQuery::default() };
    let page = read_page(&app, &who, question, wanted).await?;
    if job.is_none() && page.shows_nothing() {
        return Err(jobs::no_such_job());
    }
    Ok(page_response(&page, page.next_cursor.as_deref(), &address, &uri))
}

async fn read_page(
    app: &AppState,
    who: &Principal,
    mut question: HistoryIndexQuery,
    wanted: HistoryQuery,
) -> Result<HistoryPage, Problem> {
    let filters = (who.list_owner_filter(), question.media_id, question.job_id);
    let cursors = CursorSealer::new(&app.signing_key, index_query::HISTORY, &filters)?;
    let place = wanted.cursor.map(|cursor| cursors.open(&cursor)).transpose()?;
    let place = place.map(|place| split_event_id(&place).map_err(|_| cursor_malformed())).transpose()?;
    question.limit = parse_page_limit(wanted.limit)?;
    question.behind_sequence = place.map_or(0, |(_, sequence)| sequence);
    // One's own changes are behind no newer event than this one.
    question.wait_for_sequence = app.bus.stream_extent(subjects::EVENTS).await?.end.sequence;
    let found: HistoryIndexPage =
        query_index(&app.bus, index_query::HISTORY, &question).await.map_err(unknown_to_index)?;
    let created_at_ms = found.created_at_ms;
    if place.is_some_and(|(epoch, _)| epoch != created_at_ms) {
        return Err(events_gone("the cursor is of another life of the event stream"));
    }
    let (items, last, has_others) = read_items(app, who, &question, &found).await?;
    let has_more = found.has_more || last < found.sequences.last().copied();
    let next_cursor =
        last.filter(|_| has_more).map(|last| cursors.seal(&format_event_id(created_at_ms, last)));
    // An end that is none would look like one.
    if next_cursor.is_none() && found.seen_sequence < question.wait_for_sequence {
        let detail = "the index has not seen the newest events yet".to_owned();
        return Err(index_problem(index_query::INDEX_BEHIND, detail));
    }
    let up_to = format_event_id(created_at_ms, found.seen_sequence);
    Ok(HistoryPage { items, next_cursor, up_to, has_others })
}

/// An index of an older version knows no such question: it comes back newer.
fn unknown_to_index(problem: Problem) -> Problem {
    if problem.code() == ProblemCode::QueryMalformed.code() {
        index_problem("history_away", "the index does not keep histories yet".to_owned())
    } else {
        problem
    }
}

/// The events that `who` may see, the last sequence that was looked at, and whether there were events that `who` may not see.
async fn read_items(
    app: &AppState,
    who: &Principal,
    question: &HistoryIndexQuery,
    found: &HistoryIndexPage,
) -> Result<(Vec<HistoryItem>, Option<u64>, bool), Problem> {
    let read = |sequence: u64| async move {
        let entry = app.bus.read_stream_message(subjects::EVENTS, sequence).await?;
        Ok::<_, nats::BusError>((sequence, entry))
    };
    let mut entries = futures::stream::iter(found.sequences.iter().copied()).map(read).buffered(READS_MAX);
    let (mut items, mut last, mut size_bytes, mut has_others) = (Vec::new(), None, 0, false);
    while let Some((sequence, entry)) = entries.try_next().await? {
        last = Some(sequence);
        // One that was dropped by age meanwhile is not there any more.
        let Some(entry) = entry.filter(|entry| is_about(entry, question)) else { continue };
        if !who.may_see(&header_text(&entry, headers::OWNER).unwrap_or_default()) {
            has_others = true;
            continue;
        }
        size_bytes += entry.payload.len();
        let id = format_event_id(found.created_at_ms, sequence);
        items.push(HistoryItem { id, data: read_event(&entry) });
        if size_bytes > PAGE_BYTES_MAX {
            break;
        }
    }
    Ok((items, last, has_others))
}

/// Whether the event is about what was asked: the index may be of another time than the stream.
fn is_about(entry: &StreamEntry, question: &HistoryIndexQuery) -> bool {
    let is = |name: &str, id: String| header_text(entry, name) == Some(id);
    question.media_id.is_none_or(|id| is(headers::MEDIA_ID, id.to_string()))
        && question.job_id.is_none_or(|id| is(headers::JOB_ID, id.to_string()))
}

fn header_text(entry: &StreamEntry, name: &str) -> Option<String> {
    entry.headers.get_last(name).map(|value| value.as_str().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_index_that_knows_no_histories_is_one_to_come_back_to() {
        let older = index_problem(index_query::QUESTION_MALFORMED, "there is no such question".into());
        let answered = unknown_to_index(older);
        assert_eq!((answered.status().as_u16(), answered.code()), (503, "index_unavailable"));
        let behind = unknown_to_index(index_problem(index_query::INDEX_BEHIND, String::new()));
        assert_eq!(behind.code(), "index_behind");
    }
}

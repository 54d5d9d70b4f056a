//! Media as documents: one by id from KV, so that one's own writes are always seen; lists from the index.
//!
//! Limits: a page has at most [`ask::ITEMS_MAX`] items; the index has [`INDEX_WAIT`] to answer.

use std::time::Duration;

use axum::{
    Json, Router,
    extract::{Path, State},
    http::{HeaderMap, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use nats::Bus;
use schemas::{
    ask::{self, Answer, ListMedia, MediaPage},
    document,
    ids::MediaId,
    media, subjects,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{App, Principal, error::Problem, query::Parameters};

/// How long the index may take; it waits a short while itself for the revision that a question names.
pub const INDEX_WAIT: Duration = Duration::from_secs(5);

/// The routes.
pub fn router() -> Router<App> {
    Router::new().route("/v1/media", get(list)).route("/v1/media/{media_id}", get(show))
}

/// Which media to list.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wanted {
    status: Option<media::Status>,
    cursor: Option<String>,
    limit: Option<u32>,
    min_revision: Option<u64>,
}

async fn list(
    State(app): State<App>,
    who: Principal,
    Parameters(wanted): Parameters<Wanted>,
) -> Result<Json<Value>, Problem> {
    let question = ListMedia {
        owner: who.list_owner(),
        status: wanted.status,
        cursor: wanted.cursor,
        limit: page_limit(wanted.limit)?,
        min_revision: wanted.min_revision,
    };
    let page: MediaPage = ask_index(&app.bus, ask::MEDIA, &question).await?;
    Ok(Json(json!({ "items": page.items, "next_cursor": page.next, "revision": page.revision })))
}

/// Items of a page; 50 unless said otherwise.
pub(super) fn page_limit(wanted: Option<u32>) -> Result<u32, Problem> {
    match wanted {
        None => Ok(50),
        Some(limit) if (1..=ask::ITEMS_MAX).contains(&limit) => Ok(limit),
        Some(limit) => Err(Problem::bad_request("query_malformed", "The page limit can't be used")
            .detail(format!("limit={limit} is not between 1 and {}", ask::ITEMS_MAX))),
    }
}

/// Asks the index for a page.
pub(super) async fn ask_index<Q: Serialize, P: DeserializeOwned>(
    bus: &Bus,
    verb: &str,
    question: &Q,
) -> Result<P, Problem> {
    match bus.ask::<Q, Answer<P>>(subjects::ask_index(verb), question, INDEX_WAIT).await? {
        Answer::Page(page) => Ok(page),
        Answer::Refused { code, detail } => Err(refusal(&code, detail)),
    }
}

fn refusal(code: &str, detail: String) -> Problem {
    let (status, code, title) = match code {
        "cursor_malformed" => {
            (StatusCode::BAD_REQUEST, "cursor_malformed", "The cursor is none that a list answered")
        }
        "question_malformed" => {
            (StatusCode::BAD_REQUEST, "query_malformed", "The list can't be made like this")
        }
        "index_behind" => {
            (StatusCode::SERVICE_UNAVAILABLE, "index_behind", "The list has not seen that revision yet")
        }
        _ => (StatusCode::SERVICE_UNAVAILABLE, "index_unavailable", "The list can't be made at the moment"),
    };
    let problem = Problem::new(status, code, title).detail(detail);
    if status == StatusCode::SERVICE_UNAVAILABLE { problem.retry_after_s(1) } else { problem }
}

/// What is known of one medium, from its owner's document and from the stages.
#[derive(Debug, Clone)]
pub(super) struct Medium {
    pub(super) document: Option<nats::Held<document::Record>>,
    pub(super) asset: Option<nats::Held<media::Record>>,
}

impl Medium {
    /// Loads both records; 404 when there is neither.
    pub(super) async fn load(bus: &Bus, media_id: MediaId) -> Result<Self, Problem> {
        let key = media_id.to_string();
        let (document, asset) = tokio::try_join!(bus.load(&key), bus.load(&key))?;
        if document.is_none() && asset.is_none() {
            return Err(no_such_medium());
        }
        Ok(Self { document, asset })
    }

    pub(super) fn owner(&self) -> &str {
        let document = self.document.as_ref().map(|held| held.record.owner.as_str());
        document.or_else(|| self.asset.as_ref().map(|held| held.record.owner.as_str())).unwrap_or_default()
    }

    pub(super) fn status(&self) -> media::Status {
        self.asset.as_ref().map_or(media::Status::Uploading, |held| held.record.status)
    }

    /// Changes whenever either record does.
    fn etag(&self) -> String {
        let document = self.document.as_ref().map_or(0, nats::Held::revision);
        let asset = self.asset.as_ref().map_or(0, nats::Held::revision);
        format!("\"{document}-{asset}\"")
    }

    fn to_json(&self, media_id: MediaId) -> Value {
        let document = self.document.as_ref().map(|held| &held.record);
        let asset = self.asset.as_ref().map(|held| &held.record);
        let created = document.map(|d| d.created_at_ms).or_else(|| asset.map(|a| a.created_at_ms));
        let changed = document.map(|d| d.changed_at_ms).max(asset.map(|a| a.changed_at_ms));
        json!({
            "media_id": media_id,
            "owner": self.owner(),
            "title": document.map(|d| &d.title),
            "status": self.status(),
            "code": asset.and_then(|a| a.code.as_ref()),
            "detail": asset.and_then(|a| a.detail.as_ref()),
            "source": asset.and_then(|a| a.source.as_ref()).map(|s| {
                json!({ "size_bytes": s.size_bytes, "sha256": s.sha256 })
            }),
            "technical": asset.and_then(|a| a.technical.as_ref()),
            "summary": asset.and_then(|a| a.summary.as_ref()),
            "encode": asset.and_then(|a| a.encode.as_ref()).map(|e| {
                json!({
                    "number": e.number,
                    "job_id": e.job_id,
                    "duration_ms": e.duration_ms,
                    "renditions": e.renditions,
                    "has_poster": e.has_poster,
                })
            }),
            "created_at_ms": created,
            "changed_at_ms": changed,
        })
    }
}

pub(super) fn no_such_medium() -> Problem {
    Problem::not_found("There is no such medium, or it is not yours")
}

/// One of our ids in a path.
pub(super) fn media_id(text: &str) -> Result<MediaId, Problem> {
    text.parse().map_err(|_| no_such_medium())
}

async fn show(
    State(app): State<App>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let media_id = media_id(&id)?;
    let medium = Medium::load(&app.bus, media_id).await?;
    if !who.may_see(medium.owner()) {
        return Err(no_such_medium());
    }
    Ok(document_answer(&headers, &medium.etag(), medium.to_json(media_id)))
}

/// A JSON document with its tag, or 304 when the client has it.
pub(super) fn document_answer(headers: &HeaderMap, etag: &str, body: Value) -> Response {
    let known = headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|list| list.split(',').any(|tag| tag.trim().trim_start_matches("W/") == etag));
    let mut response =
        if known { StatusCode::NOT_MODIFIED.into_response() } else { Json(body).into_response() };
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("private, no-cache"));
    if let Ok(value) = HeaderValue::from_str(etag) {
        headers.insert(header::ETAG, value);
    }
    response
}

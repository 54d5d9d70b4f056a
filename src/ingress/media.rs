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
use nats::{Bus, Held, Outbox};
use schemas::{
    ask::{self, Answer, ListMedia, MediaPage},
    document::{self, Encryption},
    ids::MediaId,
    media, subjects,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Value, json};

use super::{
    App, Principal, body, conditional,
    error::Problem,
    play::encryption,
    query::Parameters,
    uploads::metadata::{FILENAME_BYTES_MAX, clean_title},
};

/// How long the index may take; it waits a short while itself for the revision that a question names.
pub const INDEX_WAIT: Duration = Duration::from_secs(5);

/// Most rounds of reading and compare-and-set of one change.
const CHANGE_ATTEMPTS_MAX: u32 = 4;

/// The routes.
pub fn router() -> Router<App> {
    Router::new().route("/v1/media", get(list)).route("/v1/media/{media_id}", get(show).patch(change))
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

    pub(super) fn encryption(&self) -> Encryption {
        self.document.as_ref().map(|held| held.record.encryption).unwrap_or_default()
    }

    /// Changes whenever either record does.
    fn tag(&self) -> conditional::Tag {
        let document = self.document.as_ref().map_or(0, nats::Held::revision);
        let asset = self.asset.as_ref().map_or(0, nats::Held::revision);
        conditional::Tag::of_revisions(document, asset)
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
            "encryption": self.encryption(),
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
    Ok(document_answer(&headers, &medium.tag().text(), medium.to_json(media_id)))
}

/// What of a document its owner may change; what is absent stays as it is.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Change {
    #[serde(default, deserialize_with = "present")]
    title: Option<String>,
    #[serde(default, deserialize_with = "present")]
    encryption: Option<Encryption>,
}

/// A value that may be absent, but not `null`: nothing here can be taken away.
fn present<'de, D: serde::Deserializer<'de>, T: Deserialize<'de>>(from: D) -> Result<Option<T>, D::Error> {
    T::deserialize(from).map(Some)
}

async fn change(
    State(app): State<App>,
    Path(id): Path<String>,
    who: Principal,
    headers: HeaderMap,
    body::Json(mut wanted): body::Json<Change>,
) -> Result<Response, Problem> {
    let media_id = media_id(&id)?;
    wanted.title =
        wanted.title.as_deref().map(|title| clean_title(title).ok_or_else(bad_title)).transpose()?;
    let mut attempt = 0;
    loop {
        let mut medium = Medium::load(&app.bus, media_id).await?;
        if !who.may_see(medium.owner()) {
            return Err(no_such_medium());
        }
        if !who.may_change(medium.owner()) {
            return Err(Problem::forbidden("not_owner", "Only its owner may change this"));
        }
        conditional::if_match(&headers, Some(medium.tag()))?;
        attempt += 1;
        match apply(&app.bus, &mut medium, media_id, &wanted, &who).await {
            Ok(()) => {
                app.known.forget(media_id);
                // What the change answers is what it made, whatever the client had before.
                return Ok(document_answer(
                    &HeaderMap::new(),
                    &medium.tag().text(),
                    medium.to_json(media_id),
                ));
            }
            // The precondition is looked at again: a named version is gone, `*` still fits.
            Err(nats::Error::Conflict { .. }) if attempt < CHANGE_ATTEMPTS_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn bad_title() -> Problem {
    let detail = format!("it needs something to be shown, and at most {FILENAME_BYTES_MAX} bytes");
    Problem::bad_request("title_invalid", "This title can't be used")
        .detail(detail.clone())
        .member("errors", json!([{ "pointer": "/title", "detail": detail }]))
}

/// Writes what `wanted` changes, if it changes anything.
async fn apply(
    bus: &Bus,
    medium: &mut Medium,
    media_id: MediaId,
    wanted: &Change,
    who: &Principal,
) -> Result<(), nats::Error> {
    let changed_at_ms = nats::now_ms();
    let mut held = medium.document.clone().unwrap_or_else(|| {
        // Until now only the stages know of it.
        let (owner, created) = (medium.owner().to_owned(), medium.asset.as_ref());
        Held::new(document::Record {
            media_id,
            owner,
            title: String::new(),
            gate: None,
            encryption: Encryption::None,
            created_at_ms: created.map_or(changed_at_ms, |held| held.record.created_at_ms),
            changed_at_ms,
        })
    });
    let title = wanted.title.clone().unwrap_or_else(|| held.record.title.clone());
    let encryption = wanted.encryption.unwrap_or(held.record.encryption);
    if title == held.record.title && encryption == held.record.encryption {
        return Ok(());
    }
    if !encryption.is_none() {
        // Before anybody can see that there should be one.
        encryption::make_key(bus, media_id).await?;
    }
    held.record = document::Record { title, encryption, changed_at_ms, ..held.record };
    let changed = document::Changed {
        media_id,
        owner: held.record.owner.clone(),
        changed_by: who.owner.clone(),
        title: held.record.title.clone(),
        encryption,
    };
    bus.commit(&mut held, Outbox::new().event(&changed)).await?;
    medium.document = Some(held);
    Ok(())
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

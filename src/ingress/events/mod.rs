//! `GET /v1/events`: what happens, live, as server-sent events.
//!
//! With `media` or `job`, the story so far comes first; without either, it begins now. `Last-Event-ID` (or `since`) goes on
//! exactly behind that event, on any replica; `0-0` is the oldest there is. A follower sees what it owns; operators and
//! admins see everything.
//!
//! Limits: [`FOLLOWERS_MAX`] at once, [`FOLLOW_MAX`] each (a client comes back by itself), [`CATCHING_UP_MAX`] reading the
//! past at the same time; a comment every [`KEEP_ALIVE`] keeps proxies from closing the connection.

mod follower;
mod frame;
mod hub;
mod progress;

use std::{sync::Arc, time::Duration};

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, header},
    response::Response,
};
use futures::StreamExt;
use nats::metrics::table::EVENT_FOLLOWERS;
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    ids::{JobId, MediaId},
};
use serde::Deserialize;
use tokio::sync::Semaphore;

use super::{AppState, openapi};
use auth::Principal;
use follower::{EventFollower, EventScope, EventStreamStart};
pub use frame::render_event_json;
use frame::{EventData, EventDocument, JobProgressData};
pub use hub::{BACKLOG_MAX, EventHub};
pub(crate) use hub::{format_epoch, format_event_id};
pub use progress::JOBS_MAX;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    problem_code::ProblemCode,
    query::QueryParameters,
};

/// Followers at once on one replica.
pub const FOLLOWERS_MAX: usize = 4_096;
/// Longest connection; the client resumes on its own.
pub const FOLLOW_MAX: Duration = Duration::from_secs(3_600);
/// Followers that read the past at the same time; more wait for their turn.
pub const CATCHING_UP_MAX: usize = 32;
/// Longest silence on the wire.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How soon a browser comes back after a cut, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// How an id of an event looks: epoch of the stream and sequence.
pub(crate) const EVENT_ID: &str = "^[0-9a-f]{1,16}-[0-9]{1,19}$";

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What followers share. Cheap to clone; one per replica.
#[derive(Debug, Clone)]
pub struct EventFollowerPool {
    hub: EventHub,
    places: Arc<Semaphore>,
    catching_up: Arc<Semaphore>,
}

impl EventFollowerPool {
    /// Places around a hub.
    pub fn new(hub: EventHub) -> Self {
        Self {
            hub,
            places: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            catching_up: Arc::new(Semaphore::new(CATCHING_UP_MAX)),
        }
    }

    /// What feeds them.
    pub const fn hub(&self) -> &EventHub {
        &self.hub
    }
}

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default().with(&FOLLOW_EVENTS, follow_events)
}

/// Its description.
#[derive(utoipa::OpenApi)]
#[openapi(paths(follow_events))]
pub(super) struct EventsApiDoc;

impl openapi::OperationGroup for EventsApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<EventDocument>();
        schemas.add_response::<EventData>();
        schemas.add_response::<JobProgressData>();
    }
}

/// Whose events.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wanted")]
struct EventQuery {
    /// Only events about this medium, its story so far first.
    #[serde(default, deserialize_with = "web::query::deserialize_id")]
    #[schemars(schema_with = "openapi::id_schema")]
    media: Option<MediaId>,
    /// Only events about this job, its story so far first.
    #[serde(default, deserialize_with = "web::query::deserialize_id")]
    #[schemars(schema_with = "openapi::id_schema")]
    job: Option<JobId>,
    /// As `Last-Event-ID`, for clients that can send no header.
    #[schemars(regex(pattern = EVENT_ID))]
    since: Option<String>,
}

openapi::query_parameters!(EventQuery);

static FOLLOW_EVENTS: Operation =
    Operation::read("/v1/events", OperationAccess::Principal(ApiKeyScope::Events), Some(RateLimitGroup::Api));

/// Follow events as they happen
///
/// Server-sent events. A stream that breaks goes on behind `Last-Event-ID`, on any replica. A comment comes every 15 seconds; the
/// connection ends after an hour at the latest, and the client comes back by itself.
#[utoipa::path(
    get,
    path = FOLLOW_EVENTS.path,
    tag = "events",
    operation_id = "follow_events",
    params(EventQuery, ("Last-Event-ID", Header)),
    responses(
        (status = 200, description = "A stream of events", body = ref("#/components/schemas/Event"), content_type = "text/event-stream"),
        (status = 404, description = "There is no such medium or job, or it is not yours"),
        (status = 410, description = "The events behind that id are not there any more: begin again with `0-0`, or without an id"),
    ),
)]
async fn follow_events(
    State(app): State<AppState>,
    who: Principal,
    headers: HeaderMap,
    QueryParameters(wanted): QueryParameters<EventQuery>,
) -> Result<Response, Problem> {
    let followers = &app.followers;
    let Ok(place) = Arc::clone(&followers.places).try_acquire_owned() else {
        return Err(Problem::busy("too many followers at once"));
    };
    let given = headers.get(&LAST_EVENT_ID).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let begin = match given.or(wanted.since) {
        Some(id) => EventStreamStart::Behind(parse_event_id(&id, &followers.hub.epoch())?),
        None if wanted.media.is_some() || wanted.job.is_some() => EventStreamStart::Story,
        None => EventStreamStart::Now,
    };
    let end = app.response_end_signal(&who, FOLLOW_MAX);
    let scope = EventScope { who, media_id: wanted.media, job_id: wanted.job };
    let follower = EventFollower::open(
        &app.bus,
        followers.hub.clone(),
        Arc::clone(&followers.catching_up),
        scope,
        begin,
    )
    .await?;
    let first = futures::stream::once(async { Ok(format!("retry: {RETRY_MS}\n\n").into()) });
    let place = (place, EVENT_FOLLOWERS.hold(()));
    let frames = futures::stream::try_unfold((follower, place), |(mut follower, place)| async move {
        let frame = follower.next_frame().await?;
        Ok::<_, nats::BusError>(frame.map(|frame| (frame, (follower, place))))
    });
    let mut response = Response::new(Body::from_stream(first.chain(frames).take_until(end)));
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A buffering proxy would hold events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// The sequence that an event id names; an id of another life of the stream can't be resumed.
pub(crate) fn parse_event_id(id: &str, epoch: &str) -> Result<u64, Problem> {
    let malformed = || {
        Problem::new(ProblemCode::EventIdMalformed)
            .with_detail("send an id as an event carried it, or 0-0 for everything that is kept")
    };
    let (of, sequence) = id.rsplit_once('-').ok_or_else(malformed)?;
    let sequence = sequence.parse().map_err(|_| malformed())?;
    match (of, sequence) {
        ("0", 0) => Ok(0),
        _ if of == epoch => Ok(sequence),
        _ => Err(events_gone("it is of another life of the event stream")),
    }
}

/// What was asked for can't be given without a gap.
pub(crate) fn events_gone(why: &str) -> Problem {
    Problem::new(ProblemCode::EventsGone)
        .with_detail(format!("{why}; begin again with 0-0, or without an id"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_resumes_only_in_its_own_stream() {
        for (id, wanted) in [
            ("0-0", Ok(0)),
            ("1a2b-7", Ok(7)),
            ("1a2b-0", Ok(0)),
            ("ffff-7", Err("events_gone")),
            ("0-7", Err("events_gone")),
            ("7", Err("event_id_malformed")),
            ("1a2b-", Err("event_id_malformed")),
            ("1a2b--7", Err("events_gone")),
            ("", Err("event_id_malformed")),
        ] {
            assert_eq!(parse_event_id(id, "1a2b").map_err(|problem| problem.code()), wanted, "{id:?}");
        }
    }
}

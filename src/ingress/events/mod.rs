//! `GET /v1/events`: what happens, live, as server-sent events; `GET /v1/events/ws`: the same over a WebSocket (`socket.rs`); and
//! histories, page by page (`history.rs`).
//!
//! One protocol of cursors: the first frame is `snapshot`, how things stand and the id behind which events follow. `Last-Event-ID` (or
//! `since`) goes on exactly behind that event instead, on any replica; `0-0` is the oldest there is, with `media` or `job` all that
//! happened to it. Where that would leave a gap, `resync` says so, and a snapshot follows. A follower sees what it owns; operators and
//! admins see everything.
//!
//! Limits: `ingress.events` has those of followers and of what waits for each; [`FOLLOW_MAX`] each (a client comes back by itself),
//! [`CATCHING_UP_MAX`] reading the past at the same time, of one principal `CATCHING_UP_EACH_MAX`; `SEND_TIME_MAX` for one frame to
//! be taken over HTTP/2, where HTTP/1.1 has the limit of its connection; a comment every [`KEEP_ALIVE`] keeps proxies from closing the connection.

mod config;
mod filter;
mod follower;
mod frame;
mod history;
mod hub;
mod places;
mod progress;
mod routes;
mod snapshot;
mod socket;
mod story;

use std::time::Duration;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Version, header},
    response::Response,
};
use bytes::Bytes;
use futures::{SinkExt, Stream, StreamExt, channel::mpsc};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    ids::{JobId, MediaId},
};
use serde::Deserialize;
use tokio_util::task::AbortOnDropHandle;

use super::{AppState, openapi};
use auth::Principal;
pub use config::EventConfig;
use filter::{EventFilter, EventWishes};
use follower::{EventFollower, FollowError, FollowStart, FollowerItem};
pub use frame::render_event_json;
use frame::{EventData, EventDocument, JobProgressData};
pub use hub::EventHub;
pub(crate) use hub::format_event_id;
use places::{FollowerPlace, FollowerPlaces, ReplayTurns};
pub use progress::JOBS_MAX;
use routes::QueueLimits;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess, OperationRouter},
    problem_code::ProblemCode,
    query::QueryParameters,
};

/// Longest connection; the client resumes on its own.
pub const FOLLOW_MAX: Duration = Duration::from_secs(3_600);
/// Followers that read the past at the same time; more wait for their turn.
pub const CATCHING_UP_MAX: usize = 32;
/// Of these, followers of one principal.
const CATCHING_UP_EACH_MAX: usize = 4;
/// Longest wait for a turn to read the past.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);
/// How long a client may take for one frame.
const SEND_TIME_MAX: Duration = Duration::from_secs(30);
/// Longest silence on the wire.
pub const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// How soon a browser comes back after a cut, in milliseconds.
const RETRY_MS: u32 = 1_000;

/// How an id of an event looks: epoch of the stream and sequence.
pub(crate) const EVENT_ID: &str = "^[0-9a-f]{1,16}-[0-9]{1,19}$";

static LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// What followers share; one per replica.
#[derive(Debug)]
pub struct EventFollowerPool {
    hub: EventHub,
    places: FollowerPlaces,
    /// Places of sockets whose clients have not said who they are.
    greeting: FollowerPlaces,
    replays: ReplayTurns,
    queue_limits: QueueLimits,
}

impl EventFollowerPool {
    /// Places around a hub.
    pub fn new(hub: EventHub, config: &EventConfig) -> Self {
        Self {
            hub,
            places: FollowerPlaces::new(config.followers_max, config.followers_per_principal_max),
            greeting: FollowerPlaces::new(socket::GREETING_MAX, socket::GREETING_EACH_MAX),
            replays: ReplayTurns::new(CATCHING_UP_MAX, CATCHING_UP_EACH_MAX, TURN_WAIT_MAX),
            queue_limits: QueueLimits {
                items_max: config.queue_items_max,
                bytes_max: config.queue_bytes_max,
            },
        }
    }

    /// What feeds them.
    pub const fn hub(&self) -> &EventHub {
        &self.hub
    }
}

/// The routes.
pub fn router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&FOLLOW_EVENTS, follow_events)
        .with(&socket::OPEN_EVENT_SOCKET, socket::open_event_socket)
        .with(&history::READ_MEDIA_HISTORY, history::read_media_history)
        .with(&history::READ_JOB_HISTORY, history::read_job_history)
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    follow_events,
    socket::open_event_socket,
    history::read_media_history,
    history::read_job_history
))]
pub(super) struct EventsApiDoc;

impl openapi::OperationGroup for EventsApiDoc {
    fn operations() -> Vec<&'static Operation> {
        router().operations().to_vec()
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<EventDocument>();
        schemas.add_response::<EventData>();
        schemas.add_response::<JobProgressData>();
        schemas.add_response::<snapshot::SnapshotData>();
        schemas.add_response::<snapshot::ResyncData>();
        schemas.add_response::<snapshot::LaggedData>();
        schemas.add_response::<socket::EventMessage>();
        schemas.add_request::<socket::SocketRequest>();
        schemas.add_response::<history::HistoryPage>();
    }
}

/// Whose events, and which.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Wanted")]
struct EventQuery {
    /// Only events about this medium.
    #[serde(default, deserialize_with = "web::query::deserialize_id")]
    #[schemars(schema_with = "openapi::id_schema")]
    media: Option<MediaId>,
    /// Only events about this job.
    #[serde(default, deserialize_with = "web::query::deserialize_id")]
    #[schemars(schema_with = "openapi::id_schema")]
    job: Option<JobId>,
    /// Only events of these types, such as `media.ready`; several with commas between them.
    #[serde(rename = "type")]
    types: Option<String>,
    /// Only events whose types begin like this, such as `media.`.
    prefix: Option<String>,
    /// Only events about what this owner has; those of others are for operators.
    owner: Option<String>,
    /// As `Last-Event-ID`, for clients that can send no header.
    #[schemars(regex(pattern = EVENT_ID))]
    since: Option<String>,
}

openapi::query_parameters!(EventQuery);

static FOLLOW_EVENTS: Operation =
    Operation::read("/v1/events", OperationAccess::Principal(ApiKeyScope::Events), Some(RateLimitGroup::Api));

/// Follow events as they happen
///
/// Server-sent events. The first one is `snapshot`: how the medium and the job that are asked for stand, and the id behind which events
/// follow. A stream that breaks goes on behind `Last-Event-ID`, on any replica, without a snapshot; `0-0` begins with the oldest event
/// there is, of `media` or `job` with its first. Where events behind the id are not there any more, `resync` says so, and a snapshot
/// follows. A client that reads too slowly gets `lagged`, and comes back. A comment comes every 15 seconds; the connection ends after an
/// hour at the latest, and within two seconds once the credential is good no more; that of a client which reads nothing within five minutes.
#[utoipa::path(
    get,
    path = FOLLOW_EVENTS.path,
    tag = "events",
    operation_id = "follow_events",
    params(EventQuery, ("Last-Event-ID", Header)),
    responses(
        (status = 200, description = "A stream of events", body = ref("#/components/schemas/Event"), content_type = "text/event-stream"),
        (status = 404, description = "There is no such medium or job, or it is not yours"),
    ),
)]
async fn follow_events(
    State(app): State<AppState>,
    who: Principal,
    version: Version,
    headers: HeaderMap,
    QueryParameters(wanted): QueryParameters<EventQuery>,
) -> Result<Response, Problem> {
    let given = headers.get(&LAST_EVENT_ID).and_then(|value| value.to_str().ok()).map(str::to_owned);
    let start = parse_start(given.or(wanted.since).as_deref())?;
    let wishes = EventWishes {
        media_id: wanted.media,
        job_id: wanted.job,
        types: wanted.types.iter().flat_map(|types| types.split(',')).map(str::to_owned).collect(),
        prefix: wanted.prefix,
        owner: wanted.owner,
    };
    let filter = EventFilter::new(who.clone(), wishes)?;
    let place = app.followers.places.take(&who.owner)?;
    let end = app.response_end_signal(&who, FOLLOW_MAX);
    let follower = EventFollower::open(app, filter, start).await?;
    let first = futures::stream::once(std::future::ready(Ok(Bytes::from(format!("retry: {RETRY_MS}\n\n")))));
    let frames = follow(follower, place).map(|item| {
        item.map(|item| match item {
            FollowerItem::Frame(frame) => frame.bytes.clone(),
            FollowerItem::Quiet | FollowerItem::End => Bytes::from_static(b": still here\n\n"),
        })
    });
    let frames = first.chain(frames);
    let body = if version == Version::HTTP_2 {
        Body::from_stream(send_in_time(frames, end, SEND_TIME_MAX))
    } else {
        Body::from_stream(frames.take_until(end))
    };
    let mut response = Response::new(body);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    // A buffering proxy would hold events back.
    headers.insert(HeaderName::from_static("x-accel-buffering"), HeaderValue::from_static("no"));
    Ok(response)
}

/// The same frames until `end`, or until one of them was not taken for `limit`: `frames` is dropped then, whether anybody asks for more
/// or not, and with it the follower's place.
///
/// For HTTP/2, where a client may close the window of one stream (RFC 9113, 5.2) while its connection goes on. A connection of
/// HTTP/1.1 has a limit of its own for that (`web::serve::WRITE_SECONDS_MAX`), which costs no task.
fn send_in_time<T, F>(
    frames: impl Stream<Item = T> + Send + 'static,
    end: F,
    limit: Duration,
) -> impl Stream<Item = T> + Send
where
    T: Send + 'static,
    F: Future + Send + Unpin + 'static,
{
    // Without room of its own: what is sent is taken when the next one is asked for.
    let (mut sender, receiver) = mpsc::channel(0);
    let sending = async move {
        let mut frames = Box::pin(frames);
        while let Some(frame) = frames.next().await {
            if !matches!(tokio::time::timeout(limit, sender.send(frame)).await, Ok(Ok(()))) {
                break;
            }
        }
    };
    let task = AbortOnDropHandle::new(tokio::spawn(async move {
        tokio::select! {
            _ = end => {}
            () = sending => {}
        }
    }));
    // The body ends it by being dropped.
    futures::stream::unfold((receiver, task), |(mut receiver, task)| async move {
        let item = receiver.next().await?;
        Some((item, (receiver, task)))
    })
}

/// What a follower is to be sent, until it ends. The stream may be polled and left at any time; nothing is lost.
fn follow(
    follower: EventFollower,
    place: FollowerPlace,
) -> impl Stream<Item = Result<FollowerItem, FollowError>> + Send {
    // Boxed: it moves into each future of the stream and out again.
    let state = Box::new((follower, place));
    futures::stream::try_unfold(state, |mut state| async move {
        match state.0.next_item().await? {
            FollowerItem::End => Ok(None),
            item => Ok(Some((item, state))),
        }
    })
}

/// Where a follower begins that names this id.
fn parse_start(id: Option<&str>) -> Result<FollowStart, Problem> {
    let Some(id) = id else { return Ok(FollowStart::Now) };
    match split_event_id(id)? {
        (0, 0) => Ok(FollowStart::Oldest),
        (epoch, sequence) => Ok(FollowStart::Behind(epoch, sequence)),
    }
}

/// Epoch and sequence of an id.
fn split_event_id(id: &str) -> Result<(u64, u64), Problem> {
    let malformed = || {
        Problem::new(ProblemCode::EventIdMalformed)
            .with_detail("send an id as an event carried it, or 0-0 for everything that is kept")
    };
    let (epoch, sequence) = id.split_once('-').ok_or_else(malformed)?;
    let is_hex = epoch.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
    if !is_hex || !sequence.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(malformed());
    }
    let epoch = u64::from_str_radix(epoch, 16).map_err(|_| malformed())?;
    Ok((epoch, sequence.parse().map_err(|_| malformed())?))
}

/// The sequence that an event id names in the stream that was made then; an id of another stream is gone.
pub(crate) fn parse_event_id(id: &str, created_at_ms: u64) -> Result<u64, Problem> {
    match split_event_id(id)? {
        (0, 0) => Ok(0),
        (epoch, sequence) if epoch == created_at_ms => Ok(sequence),
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
    use std::sync::Arc;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn frames_that_nobody_takes_are_given_up() {
        let limit = Duration::from_secs(30);
        let held = Arc::new(());
        let frames = |held: &Arc<()>| {
            futures::stream::unfold((0, Arc::clone(held)), async |(next, held)| {
                Some((next, (next + 1, held)))
            })
        };
        let mut taken = Box::pin(send_in_time(frames(&held), std::future::pending::<()>(), limit));
        for wanted in 0..9 {
            assert_eq!(taken.next().await, Some(wanted));
            tokio::time::sleep(limit / 2).await;
        }
        assert_eq!(Arc::strong_count(&held), 2, "a slow reader is waited for");
        tokio::time::sleep(limit).await;
        assert_eq!(Arc::strong_count(&held), 1, "one that takes nothing is not");
        let ended = Box::pin(tokio::time::sleep(limit / 2));
        let unread = send_in_time(frames(&held), ended, limit);
        tokio::time::sleep(limit / 4).await;
        assert_eq!(Arc::strong_count(&held), 2);
        tokio::time::sleep(limit / 2).await;
        assert_eq!(Arc::strong_count(&held), 1, "the end of the credential ends it unread");
        drop(unread);
        let left = send_in_time(frames(&held), std::future::pending::<()>(), limit);
        drop(left);
        tokio::task::yield_now().await;
        assert_eq!(Arc::strong_count(&held), 1, "who goes gives the place back");
    }

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
            ("1a2b--7", Err("event_id_malformed")),
            ("1A2B-7", Err("event_id_malformed")),
            ("1a2b-+7", Err("event_id_malformed")),
            ("-7", Err("event_id_malformed")),
            ("", Err("event_id_malformed")),
        ] {
            assert_eq!(parse_event_id(id, 0x1a2b).map_err(|problem| problem.code()), wanted, "{id:?}");
        }
    }
}

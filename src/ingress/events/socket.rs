//! `GET /v1/events/ws`: events over a WebSocket (RFC 6455), by the same cursors as server-sent events.
//!
//! A client whose upgrade carries no `Authorization`, as in browsers, says who it is in its first message; then it subscribes, once a
//! connection. All messages are JSON texts; there is no token in an address, and no cookie counts. A connection is closed with 4000 and
//! the status that HTTP has for the reason, and the code of the problem as text: 4400 for what makes no sense, 4401 without or with a
//! credential that is good no more, 4403 and 4404 for what is not the client's to see, 4408 for what did not come in time, 4429 for too
//! many streams, 4503 to come back later; 1000 after `lagged`, and 1001 after an hour, or when the replica stops: both to come back.
//!
//! Limits: [`MESSAGE_BYTES_MAX`] a message, [`GREETING_MAX`] connections that have not said who they are, [`GREETING_EACH_MAX`] of one
//! address, for [`GREETING_TIME_MAX`];
//! a ping each [`KEEP_ALIVE`], of which [`PINGS_MAX`] may be unanswered; [`SEND_TIME_MAX`] for one message to be taken;
//! [`OPEN_TIME_MAX`] for what is asked for to be found.

use std::{convert::Infallible, pin::Pin, time::Duration};

use axum::{
    extract::{
        FromRequestParts, State, WebSocketUpgrade,
        ws::{CloseFrame, Message, Utf8Bytes, WebSocket, rejection::WebSocketUpgradeRejection},
    },
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::Response,
};
use bytes::Bytes;
use futures::{Stream, StreamExt, future::BoxFuture};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    ids::{JobId, MediaId},
};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval_at, timeout};

use super::{
    EVENT_ID, FOLLOW_MAX, KEEP_ALIVE, SEND_TIME_MAX,
    filter::{EventFilter, EventWishes},
    follow,
    follower::{EventFollower, FollowError, FollowerItem},
    parse_start,
    places::FollowerPlace,
};
use crate::{AppState, ResponseEnd, openapi};
use auth::Principal;
use web::{
    client::ClientAddress,
    error::Problem,
    limit::{RateLimitGroup, RateLimitPermit},
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    public_address::PublicAddress,
    serve::ConnectionHold,
};

/// Largest message of a client in bytes.
pub(super) const MESSAGE_BYTES_MAX: usize = 64 * 1024;
/// Connections at once whose clients have not said who they are.
pub(super) const GREETING_MAX: usize = 256;
/// Of these, connections of one client address.
pub(super) const GREETING_EACH_MAX: usize = 32;
/// How long a client may take to say who it is, and then what it wants.
const GREETING_TIME_MAX: Duration = Duration::from_secs(10);
/// How long a subscription may take to begin.
const OPEN_TIME_MAX: Duration = Duration::from_secs(30);
/// Pings that may be unanswered.
const PINGS_MAX: u32 = 2;
/// Bytes that are read at once: clients say little.
const READ_BUFFER_BYTES: usize = 4 * 1024;

/// Nothing more to say.
const NORMAL: u16 = 1000;
/// The replica stops, or the connection has lasted long enough.
const GOING_AWAY: u16 = 1001;
/// A message was too large.
const TOO_LARGE: u16 = 1009;

const ACCESS: OperationAccess = OperationAccess::Optional(ApiKeyScope::Events);

/// What a client says.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
#[schemars(rename = "EventSocketRequest", example = json!({ "type": "subscribe", "media": "06db00820dt0303jc5mn0r355k" }))]
pub(super) enum SocketRequest {
    /// Who it is: the first message where the upgrade had no `Authorization`.
    Authenticate {
        /// An access token or an API key.
        token: String,
    },
    /// What it wants, as the parameters of `GET /v1/events`.
    Subscribe {
        /// Only events about this medium.
        #[serde(default, deserialize_with = "web::query::deserialize_id")]
        #[schemars(schema_with = "openapi::id_schema")]
        media: Option<MediaId>,
        /// Only events about this job.
        #[serde(default, deserialize_with = "web::query::deserialize_id")]
        #[schemars(schema_with = "openapi::id_schema")]
        job: Option<JobId>,
        /// Only events of these types, such as `media.ready`; of all where it is empty.
        #[serde(default)]
        types: Vec<String>,
        /// Only events whose types begin like this.
        #[serde(default)]
        prefix: Option<String>,
        /// Only events about what this owner has.
        #[serde(default)]
        owner: Option<String>,
        /// Id of the event behind which to go on.
        #[serde(default)]
        #[schemars(regex(pattern = EVENT_ID))]
        since: Option<String>,
    },
}

/// What a client gets.
#[derive(JsonSchema)]
#[schemars(rename = "EventMessage", example = json!({ "type": "event", "id": "1a2b3c-7", "event": "media.ready", "data": {} }))]
#[expect(dead_code, reason = "the description of a text that is put together once for all followers")]
pub(super) struct EventMessage {
    /// `event`; others may come.
    #[schemars(rename = "type")]
    kind: String,
    /// `<stream epoch>-<sequence>`, as in server-sent events; absent where there is nothing to go on behind.
    id: Option<String>,
    /// Kind: `<entity>.<verb>`, `job.progress`, `snapshot`, `resync` or `lagged`.
    event: String,
    /// As the `data` of server-sent events.
    data: Value,
}

pub(super) static OPEN_EVENT_SOCKET: Operation =
    Operation::read("/v1/events/ws", ACCESS, Some(RateLimitGroup::Api));

/// Follow events over a WebSocket
///
/// Messages are JSON texts of at most 64 KiB: `EventSocketRequest` to the server, `EventMessage` from it. Where the upgrade has no
/// `Authorization`, the first one is `{"type":"authenticate","token":...}`, within ten seconds. Then `{"type":"subscribe"}` says what is
/// wanted, with the members `media`, `job`, `types`, `prefix`, `owner` and `since`, as `GET /v1/events` takes them. A ping comes every
/// 15 seconds. It is closed with 4000 and the status that HTTP has for the reason; 1000 and 1001 say to come back.
#[utoipa::path(
    get,
    path = OPEN_EVENT_SOCKET.path,
    tag = "events",
    operation_id = "open_event_socket",
    responses(
        (status = 101, description = "The connection is a WebSocket now"),
        (status = 403, description = "Pages of this origin are not let in"),
        (status = 426, description = "The request asks for no WebSocket of HTTP/1.1"),
    ),
)]
pub(super) async fn open_event_socket(
    State(app): State<AppState>,
    who: Option<axum::Extension<Principal>>,
    address: PublicAddress,
    permit: RateLimitPermit,
    source: SocketSource,
    headers: HeaderMap,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Problem> {
    check_origin(&app, &address, headers.get(header::ORIGIN))?;
    let upgrade = upgrade.map_err(|_| {
        Problem::new(ProblemCode::WebSocketRequired)
            .with_header(header::UPGRADE, HeaderValue::from_static("websocket"))
            .with_header(header::CONNECTION, HeaderValue::from_static("upgrade"))
    })?;
    let mut greeting = None;
    if who.is_none() {
        greeting = Some(app.followers.greeting.take(&source.client)?);
    }
    let client = SocketClient { app, who: who.map(|who| who.0), permit, greeting, _hold: source.hold };
    Ok(upgrade
        .max_message_size(MESSAGE_BYTES_MAX)
        .max_frame_size(MESSAGE_BYTES_MAX)
        .read_buffer_size(READ_BUFFER_BYTES)
        .write_buffer_size(0)
        .on_upgrade(|socket| client.serve(socket)))
}

/// Browsers open a WebSocket to any site, and say for whose page.
fn check_origin(
    app: &AppState,
    address: &PublicAddress,
    origin: Option<&HeaderValue>,
) -> Result<(), Problem> {
    let Some(origin) = origin else { return Ok(()) };
    let own = address.absolute_prefix();
    let own = own.split('/').take(3).collect::<Vec<_>>().join("/");
    if origin.as_bytes() == own.as_bytes() || app.origins.allows_origin(origin) {
        return Ok(());
    }
    Err(Problem::new(ProblemCode::SocketOriginRefused))
}

/// Why a connection is closed.
#[derive(Debug)]
struct SocketClose {
    code: u16,
    reason: &'static str,
}

impl SocketClose {
    const fn new(code: u16, reason: &'static str) -> Self {
        Self { code, reason }
    }
}

impl From<Problem> for SocketClose {
    fn from(problem: Problem) -> Self {
        Self::new(4_000 + problem.status().as_u16(), problem.code())
    }
}

impl From<FollowError> for SocketClose {
    fn from(error: FollowError) -> Self {
        tracing::debug!(%error, "a follower ends early");
        Self::new(4_503, ProblemCode::Busy.code())
    }
}

/// The client is gone: nothing can be said to it.
#[derive(Debug)]
enum SocketEnd {
    Gone,
    Close(SocketClose),
}

impl<E: Into<SocketClose>> From<E> for SocketEnd {
    fn from(error: E) -> Self {
        Self::Close(error.into())
    }
}

const MALFORMED: SocketClose = SocketClose::new(4_400, "message_malformed");
const LATE: SocketClose = SocketClose::new(4_408, "message_late");

struct SocketClient {
    app: AppState,
    who: Option<Principal>,
    permit: RateLimitPermit,
    greeting: Option<FollowerPlace>,
    _hold: Option<ConnectionHold>,
}

/// Where a connection comes from, and what it takes of the replica.
pub(super) struct SocketSource {
    client: String,
    hold: Option<ConnectionHold>,
}

impl<S: Send + Sync> FromRequestParts<S> for SocketSource {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        let client = ClientAddress::from_extensions(&parts.extensions, &parts.headers);
        let hold = parts.extensions.remove::<ConnectionHold>();
        Ok(Self { client: client.prefix.to_string(), hold })
    }
}

impl SocketClient {
    async fn serve(mut self, mut socket: WebSocket) {
        let Err(end) = self.converse(&mut socket).await else { return };
        if let SocketEnd::Close(close) = end {
            let frame = CloseFrame { code: close.code, reason: close.reason.into() };
            // A client that takes nothing is cut.
            timeout(GREETING_TIME_MAX, socket.send(Message::Close(Some(frame)))).await.ok();
        }
    }

    async fn converse(&mut self, socket: &mut WebSocket) -> Result<(), SocketEnd> {
        let stopping = self.app.stopping.clone();
        let greeted = tokio::select! {
            greeted = self.greet(socket) => greeted?,
            () = stopping.cancelled() => return Err(SocketClose::new(GOING_AWAY, "stopping").into()),
        };
        let (who, filter, since) = greeted;
        let place = self.app.followers.places.take(&who.owner)?;
        let start = parse_start(since.as_deref())?;
        let mut end = self.app.response_end_signal(&who, FOLLOW_MAX);
        let opening = Box::pin(EventFollower::open(self.app.clone(), filter, start));
        let follower = tokio::select! {
            opened = timeout(OPEN_TIME_MAX, opening) => {
                opened.map_err(|_| Problem::busy("the subscription could not begin in time"))??
            }
            ended = &mut end => return Err(close_of(ended).into()),
            refused = read_until_end(socket) => return Err(refused),
        };
        follow_until_end(socket, follower, place, end).await
    }

    /// Who the client is, and what it wants.
    async fn greet(
        &mut self,
        socket: &mut WebSocket,
    ) -> Result<(Principal, EventFilter, Option<String>), SocketEnd> {
        let who = if let Some(who) = self.who.take() {
            who
        } else {
            let SocketRequest::Authenticate { token } = receive_request(socket).await? else {
                return Err(Problem::unauthorized().into());
            };
            let operation = (&Method::GET, ACCESS);
            let found = auth::authenticate_message(&self.app.sign_in, &token, &self.permit, operation).await;
            found.inspect_err(|problem| {
                if !matches!(problem.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
                    return;
                }
                let shown = auth::describe_credential(&token);
                self.app.access_sums.count_refused_message(shown, problem.code());
            })?
        };
        self.greeting = None;
        let SocketRequest::Subscribe { media, job, types, prefix, owner, since } =
            receive_request(socket).await?
        else {
            return Err(MALFORMED.into());
        };
        let wishes = EventWishes { media_id: media, job_id: job, types, prefix, owner };
        Ok((who.clone(), EventFilter::new(who, wishes)?, since))
    }
}

/// The next message of a client that has not subscribed yet, within its time.
async fn receive_request(socket: &mut WebSocket) -> Result<SocketRequest, SocketEnd> {
    let receiving = async {
        loop {
            if let Some(text) = read_text(socket.recv().await)? {
                return serde_json::from_str(&text).map_err(|_| MALFORMED.into());
            }
        }
    };
    timeout(GREETING_TIME_MAX, receiving).await.map_err(|_| SocketEnd::Close(LATE))?
}

/// The text that came; `None` for what is none, and answered by itself.
fn read_text(received: Option<Result<Message, axum::Error>>) -> Result<Option<Utf8Bytes>, SocketEnd> {
    match received {
        Some(Ok(Message::Text(text))) => Ok(Some(text)),
        Some(Ok(Message::Binary(_))) => Err(MALFORMED.into()),
        Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(None),
        Some(Ok(Message::Close(_))) | None => Err(SocketEnd::Gone),
        Some(Err(error)) => {
            tracing::debug!(%error, "a message can't be read");
            Err(SocketClose::new(TOO_LARGE, "message_too_large").into())
        }
    }
}

/// Reads from a client that has nothing more to say; comes when it says something, or goes.
async fn read_until_end(socket: &mut WebSocket) -> SocketEnd {
    loop {
        match read_text(socket.recv().await) {
            Ok(None) => {}
            Ok(Some(_)) => return MALFORMED.into(),
            Err(end) => return end,
        }
    }
}

type FollowerItems = Pin<Box<dyn Stream<Item = Result<FollowerItem, FollowError>> + Send>>;

/// Sends what happens until the client goes, or has to.
async fn follow_until_end(
    socket: &mut WebSocket,
    follower: EventFollower,
    place: FollowerPlace,
    mut end: BoxFuture<'static, ResponseEnd>,
) -> Result<(), SocketEnd> {
    let mut items: FollowerItems = Box::pin(follow(follower, place));
    let mut pings = ping_interval();
    let mut unanswered = 0;
    loop {
        let message = tokio::select! {
            ended = &mut end => return Err(close_of(ended).into()),
            received = socket.recv() => {
                match received {
                    Some(Ok(Message::Pong(_))) => unanswered = 0,
                    // One connection has one subscription.
                    received => if read_text(received)?.is_some() { return Err(MALFORMED.into()) },
                }
                continue;
            }
            _ = pings.tick() => {
                if unanswered >= PINGS_MAX {
                    return Err(LATE.into());
                }
                unanswered += 1;
                Message::Ping(Bytes::new())
            }
            item = items.next() => match item {
                Some(Ok(FollowerItem::Frame(frame))) => Message::Text(frame.message()),
                Some(Ok(FollowerItem::Quiet)) => continue,
                Some(Ok(FollowerItem::End)) | None => return Err(SocketClose::new(NORMAL, "lagged").into()),
                Some(Err(error)) => return Err(error.into()),
            },
        };
        tokio::select! {
            ended = &mut end => return Err(close_of(ended).into()),
            sent = timeout(SEND_TIME_MAX, socket.send(message)) => match sent {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(SocketEnd::Gone),
                Err(_) => return Err(LATE.into()),
            },
        }
    }
}

fn ping_interval() -> Interval {
    let mut pings = interval_at(Instant::now() + KEEP_ALIVE, KEEP_ALIVE);
    pings.set_missed_tick_behavior(MissedTickBehavior::Delay);
    pings
}

const fn close_of(end: ResponseEnd) -> SocketClose {
    match end {
        ResponseEnd::CredentialInvalid => SocketClose::new(4_401, "unauthorized"),
        ResponseEnd::Stopping => SocketClose::new(GOING_AWAY, "stopping"),
        ResponseEnd::Longest => SocketClose::new(GOING_AWAY, "follow_max"),
    }
}

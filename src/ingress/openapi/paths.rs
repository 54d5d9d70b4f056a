//! Descriptions of handlers that stand in modules of their own. Only described here, never called.
#![expect(dead_code, reason = "utoipa describes functions; these stand for handlers elsewhere")]

use utoipa::ToSchema;

/// Addresses of a playback session. They carry their own right, so any player may use them.
#[derive(ToSchema)]
pub(super) struct Playback {
    /// Master playlist (HLS).
    hls_url: String,
    /// Manifest (MPEG-DASH), once the encode is final.
    dash_url: Option<String>,
    /// Still image, once there is one.
    poster_url: Option<String>,
    /// When the session ends (RFC 3339).
    expires_at: String,
}

/// One event of the stream: the fields `id`, `event` (`<entity>.<verb>`) and `data` (JSON, as `schemas/json/<entity>.<verb>.v1.json`
/// describes it).
#[derive(ToSchema)]
pub(super) struct Event {
    /// `<stream epoch>-<sequence>`; send it as `Last-Event-ID` to go on behind it. Progress carries none.
    id: Option<String>,
    /// Kind.
    #[schema(rename = "event")]
    kind: String,
    /// JSON.
    data: String,
}

/// List media, newest first
#[utoipa::path(
    get,
    path = "/v1/media",
    tag = "metadata",
    params(
        ("status" = Option<String>, Query, description = "Only media that stand there, such as `ready`."),
        ("owner" = Option<String>, Query, description = "Whose; for operators and admins."),
        ("cursor" = Option<String>, Query, description = "`next` of the page before."),
        ("limit" = Option<u32>, Query, description = "Most items, from 1 to 200.", minimum = 1, maximum = 200),
        ("min_revision" = Option<u64>, Query, description = "Answer only once the index has seen this revision."),
    ),
    responses((status = 200, description = "A page; `Link` names the next one", body = ref("#/components/schemas/MediaPage"))),
    security(("api_key" = [])),
)]
fn list_media() {}

/// Read one medium
#[utoipa::path(
    get,
    path = "/v1/media/{media_id}",
    tag = "metadata",
    params(
        ("media_id" = String, Path, description = "The medium.", pattern = "^[0-9a-v]{26}$"),
        ("If-None-Match" = Option<String>, Header, description = "The tag that is known."),
    ),
    responses(
        (status = 200, description = "The document", body = ref("#/components/schemas/MediaItem"),
         headers(("ETag" = String, description = "Its version."))),
        (status = 304, description = "It is as known"),
    ),
    security(("api_key" = [])),
)]
fn read_media() {}

/// What of a medium's document may be changed.
#[derive(ToSchema)]
pub(super) struct MediaChange {
    /// Title for people, at most 255 bytes.
    title: Option<String>,
    /// How segments are served: `none`, or `aes_128` for HLS with AES-128 (and without MPEG-DASH).
    #[schema(pattern = "^(none|aes_128)$")]
    encryption: Option<String>,
}

/// Change what one medium is called and how it is served
#[utoipa::path(
    patch,
    path = "/v1/media/{media_id}",
    tag = "metadata",
    params(
        ("media_id" = String, Path, description = "The medium.", pattern = "^[0-9a-v]{26}$"),
        ("If-Match" = String, Header, description = "The tag of the version that is changed, or `*`."),
    ),
    request_body = MediaChange,
    responses(
        (status = 200, description = "The document as it is now", body = ref("#/components/schemas/MediaItem"),
         headers(("ETag" = String, description = "Its version."))),
        (status = 403, description = "Only its owner may change it"),
        (status = 412, description = "Somebody else changed it first"),
        (status = 428, description = "If-Match is missing"),
    ),
    security(("api_key" = [])),
)]
fn change_media() {}

/// Open a playback session
///
/// Evaluates the gate of the medium and returns addresses that carry their own right. They end with the session, and with the grant
/// behind it.
#[utoipa::path(
    post,
    path = "/v1/media/{media_id}/playback",
    tag = "streaming",
    params(
        ("media_id" = String, Path, description = "The medium.", pattern = "^[0-9a-v]{26}$"),
        ("Idempotency-Key" = Option<String>, Header, description = "Repeats are answered as the first was."),
    ),
    responses(
        (status = 200, description = "Where to play it", body = Playback),
        (status = 403, description = "The gate does not open"),
        (status = 409, description = "Not playable yet"),
    ),
    security((), ("api_key" = [])),
)]
fn open_playback() {}

/// Fetch a playlist, segment or image of a playback session
#[utoipa::path(
    get,
    path = "/play/{token}/{media_id}/{path}",
    tag = "streaming",
    params(
        ("token" = String, Path, description = "The right, from the playback session."),
        ("media_id" = String, Path, description = "The medium.", pattern = "^[0-9a-v]{26}$"),
        ("path" = String, Path, description = "`master.m3u8`, or what a playlist names; may contain slashes."),
        ("Range" = Option<String>, Header, description = "Part of a segment."),
    ),
    responses(
        (status = 200, description = "The file", content(
            ("application/vnd.apple.mpegurl"), ("application/dash+xml"), ("video/mp4"), ("image/jpeg"),
        )),
        (status = 206, description = "A part of it"),
        (status = 403, description = "The session has ended or was revoked"),
    ),
)]
fn play() {}

/// List jobs, newest first
#[utoipa::path(
    get,
    path = "/v1/jobs",
    tag = "worker",
    params(
        ("media_id" = Option<String>, Query, description = "Only jobs on this medium."),
        ("status" = Option<String>, Query, description = "Only jobs that stand there, such as `running`."),
        ("owner" = Option<String>, Query, description = "Whose; for operators and admins."),
        ("cursor" = Option<String>, Query, description = "`next` of the page before."),
        ("limit" = Option<u32>, Query, description = "Most items, from 1 to 200.", minimum = 1, maximum = 200),
        ("min_revision" = Option<u64>, Query, description = "Answer only once the index has seen this revision."),
    ),
    responses((status = 200, description = "A page; `Link` names the next one", body = ref("#/components/schemas/JobPage"))),
    security(("api_key" = [])),
)]
fn list_jobs() {}

/// Read one job
#[utoipa::path(
    get,
    path = "/v1/jobs/{job_id}",
    tag = "worker",
    params(("job_id" = String, Path, description = "The job.", pattern = "^[0-9a-v]{26}$")),
    responses((status = 200, description = "The job with its parts", body = ref("#/components/schemas/JobItem"))),
    security(("api_key" = [])),
)]
fn read_job() {}

/// Follow events as they happen
///
/// Server-sent events. A stream that breaks goes on behind `Last-Event-ID`, on any replica; when that is older than what is kept, one
/// event `resync` says where the stream begins now. A comment comes every 15 seconds.
#[utoipa::path(
    get,
    path = "/v1/events",
    tag = "events",
    params(
        ("media" = Option<String>, Query, description = "Only events about this medium."),
        ("job" = Option<String>, Query, description = "Only events about this job."),
        ("Last-Event-ID" = Option<String>, Header, description = "Go on behind this event."),
    ),
    responses((status = 200, description = "A stream of events", body = Event, content_type = "text/event-stream")),
    security(("api_key" = [])),
)]
fn follow_events() {}

/// Replay the audit log
///
/// One line of JSON per event, exactly as it was stored and hashed, in order.
#[utoipa::path(
    get,
    path = "/v1/audit",
    tag = "audit",
    params(
        ("from" = Option<u64>, Query, description = "First sequence."),
        ("since" = Option<String>, Query, description = "Not before (RFC 3339)."),
        ("until" = Option<String>, Query, description = "Before (RFC 3339)."),
        ("filter" = Option<String>, Query, description = "Only this class or class and action, such as `media.ready`."),
        ("follow" = Option<bool>, Query, description = "Stay and send what comes."),
    ),
    responses(
        (status = 200, description = "Lines", body = ref("#/components/schemas/AuditRecord"), content_type = "application/x-ndjson"),
        (status = 403, description = "For operators and admins only"),
    ),
    security(("api_key" = [])),
)]
fn read_audit() {}

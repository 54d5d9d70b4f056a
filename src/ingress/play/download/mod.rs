//! `GET /play/{token}/{media_id}/download.mp4`: a finished encode as one file, put together while it is read: nothing is encoded again,
//! and no copy is stored.
//!
//! The file is a function of the stored segments, so that its length is known before its first byte, any range can be had from any
//! replica, and a download that was cut goes on.
//!
//! Limits: [`PlaybackConfig`](super::PlaybackConfig): samples of a file, heads in memory, heads that are made at once.

mod choice;
mod file;
mod plan;

use std::time::{Duration, Instant};

use axum::{
    body::{Body, Bytes},
    extract::{Path, State},
    http::{HeaderMap, header},
    response::Response,
};
use futures::{Stream, StreamExt};
use schemars::JsonSchema;
use schemas::document::DownloadPolicy;
use serde::Deserialize;
use serde_json::json;

use self::{choice::DownloadChoice, plan::PlanError};
pub use file::{EncodeFile, EncodeFileError};
pub use plan::DownloadPlans;

use super::{OpenedSession, content_tag, no_such_resource, open_token, store_problem};
use crate::{AppState, openapi};
use nats::metrics::table::PLAYBACK_DOWNLOADS;
use web::{
    attachment,
    bytes::{self, RepresentationMetadata},
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    query::QueryParameters,
};

/// Part of each entity tag; raised when the same segments give another file than before.
const FILE_VERSION: &str = "download/1";

/// Which rendition and which track the file has.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Download")]
pub(super) struct DownloadQuery {
    /// The largest rendition whose short side has at most so many pixels, or else the smallest; without it the best one.
    #[schemars(range(min = 1, max = packaging::SIDE_PIXELS_MAX))]
    height: Option<u32>,
    /// A track of sound by its name, such as `a1`, or by its language, such as `de`; `none` for pictures alone. Without it the first
    /// track.
    #[schemars(length(min = 1, max = 35))]
    audio: Option<String>,
}

openapi::query_parameters!(DownloadQuery);

pub(super) static DOWNLOAD_MEDIA: Operation = Operation::read(
    "/play/{token}/{media_id}/download.mp4",
    OperationAccess::Path,
    Some(RateLimitGroup::Streaming),
);

/// Download a medium as one MP4 file
///
/// Needs no credential: the token in the path is the right, if the owner's document lets viewers download (`downloads`), whoever opened
/// the session: its addresses are passed on. The samples are those that are played: the file is put together while it is sent, and its length is exact. Sound
/// without pictures is `audio/mp4`.
#[utoipa::path(
    get,
    path = DOWNLOAD_MEDIA.path,
    tag = "streaming",
    operation_id = "download_media",
    params(
        ("token", Path), ("media_id", Path), DownloadQuery, ("Range", Header), ("If-None-Match", Header),
        ("If-Range", Header),
    ),
    responses(
        (
            status = 200, description = "The file", headers(("ETag"), ("Content-Disposition")),
            content(("video/mp4"), ("audio/mp4")),
        ),
        (
            status = 206, description = "A part of it", headers(("ETag"), ("Content-Disposition"), ("Content-Range")),
            content(("video/mp4"), ("audio/mp4")),
        ),
        (status = 304, description = "It is as known", headers(("ETag"))),
        (status = 403, description = "The session has ended, was revoked, or never was; or its owner lets nobody download it"),
        (status = 409, description = "There is no file of it yet, or it is too long to be one"),
        (status = 416, description = "The range lies outside of what there is", headers(("Content-Range"))),
    ),
)]
pub(super) async fn download_media(
    State(app): State<AppState>,
    Path((token, id)): Path<(String, String)>,
    QueryParameters(wanted): QueryParameters<DownloadQuery>,
    headers: HeaderMap,
) -> Result<Response, Problem> {
    let session = open_token(&app, &token, &id).await?;
    check_permission(&session)?;
    let OpenedSession { media_id, medium, .. } = session;
    if medium.is_growing {
        return Err(Problem::new(ProblemCode::DownloadEarly));
    }
    let encode = &medium.encode;
    if encode.renditions.is_empty() {
        return Err(no_such_resource().with_detail("a still picture has no file but its poster"));
    }
    let multivariant =
        super::load_playlist_text(&app, format!("{}/{}", encode.prefix, schemas::keys::MULTIVARIANT));
    let choice = DownloadChoice::new(&encode.renditions, &multivariant.await?, &wanted)?;
    let plan = app.downloads.load_plan(&app.store, &encode.prefix, &choice).await.map_err(plan_problem)?;
    let extension = if choice.has_video() { "mp4" } else { "m4a" };
    let facts = RepresentationMetadata {
        size_bytes: plan.size_bytes(),
        etag: content_tag(format!("{FILE_VERSION} {}/{}", encode.prefix, choice.name()).as_bytes()),
        content_type: choice.content_type(),
        cache_control: "private, no-cache",
    };
    let store = app.store.clone();
    let mut response = bytes::range_response(&headers, &facts, |range| {
        let (head, rest) = plan.slice(&encode.prefix, &choice, range);
        let head = futures::stream::iter((!head.is_empty()).then(|| Ok::<Bytes, store::StoreError>(head)));
        let rest = head.chain(store.get_joined_stream(rest));
        Body::from_stream(while_allowed(app.clone(), (token, id), rest))
    });
    if response.status().is_success() {
        PLAYBACK_DOWNLOADS.increment(());
        let name = attachment::content_disposition(&medium.title, &media_id.to_string(), extension);
        response.headers_mut().insert(header::CONTENT_DISPOSITION, name);
    }
    Ok(response)
}

/// The bytes while the session may have them: it is looked at again and again, as it is at each segment that is played.
fn while_allowed(
    app: AppState,
    (token, id): (String, String),
    pieces: impl Stream<Item = Result<Bytes, store::StoreError>> + Send + 'static,
) -> impl Stream<Item = Result<Bytes, DownloadEnd>> + Send + 'static {
    let begun = (Box::pin(pieces), Instant::now());
    futures::stream::try_unfold(begun, move |(mut pieces, mut looked_at)| {
        let (app, token, id) = (app.clone(), token.clone(), id.clone());
        async move {
            if looked_at.elapsed() >= LOOK_PERIOD {
                let session = open_token(&app, &token, &id).await.map_err(|_| DownloadEnd::Over)?;
                check_permission(&session).map_err(|_| DownloadEnd::Over)?;
                looked_at = Instant::now();
            }
            let next = pieces.next().await.transpose().map_err(DownloadEnd::Store)?;
            Ok(next.map(|piece| (piece, (pieces, looked_at))))
        }
    })
}

/// How often a download that goes on asks whether it still may.
const LOOK_PERIOD: Duration = Duration::from_secs(6);

/// Why a download ends before its last byte.
#[derive(Debug, thiserror::Error)]
enum DownloadEnd {
    /// The session has ended, or the owner lets nobody download any more.
    #[error("the session may not have the rest")]
    Over,
    /// The store does not answer.
    #[error(transparent)]
    Store(store::StoreError),
}

/// Refuses whom the owner lets not have the file: a medium with encrypted segments nobody else has in the clear.
fn check_permission(session: &OpenedSession) -> Result<(), Problem> {
    let reason = match (session.medium.downloads, session.medium.encryption.is_none()) {
        (DownloadPolicy::Viewers, true) => return Ok(()),
        (DownloadPolicy::None, _) => "not_allowed",
        (DownloadPolicy::Viewers, false) => "encrypted",
    };
    Err(Problem::new(ProblemCode::DownloadRefused).with_member("reason", json!(reason)))
}

fn plan_problem(error: PlanError) -> Problem {
    match error {
        PlanError::Store(error) => store_problem(&error),
        PlanError::TooLarge { samples_max } => {
            let detail = format!("it has more than {samples_max} pictures and frames of sound");
            Problem::new(ProblemCode::DownloadTooLarge).with_detail(detail)
        }
        PlanError::Slow => Problem::busy("the store was too slow for all that a file is made of"),
        PlanError::Busy => Problem::busy("other downloads are being prepared"),
        error @ PlanError::Malformed { .. } => Problem::internal(&error),
    }
}

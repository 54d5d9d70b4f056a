//! `POST /v1/media/{media_id}/playback`: asks the gate, and answers addresses that carry their own right.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::Method,
    http::header,
    response::IntoResponse,
};
use schemars::JsonSchema;
use schemas::{access::ApiKeyScope, gate::GateReasonCode, ids::MediaId, keys, media::MediaStatus};
use serde::Serialize;
use serde_json::json;

use crate::capacity;
use crate::{AppState, media};
use auth::{Principal, SignInDenial, account::WalletAccount};
use gate::{
    GateViewer,
    grant::{PlaybackDenied, token::PlaybackToken},
};
use nats::metrics::table::{PLAYBACK_REFUSALS, PLAYBACK_STARTS};
use web::{
    client::ClientAddress,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    public_address::PublicAddress,
};

/// Addresses of a playback session, relative to this service unless it knows its public address. They carry their own right, so any
/// player may use them.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = json!({
    "media_id": "06db00820dt0303jc5mn0r355k", "title": "A day at the sea", "status": "ready", "hls_url": "/play/TOKEN/06db00820dt0303jc5mn0r355k/master.m3u8",
    "dash_url": "/play/TOKEN/06db00820dt0303jc5mn0r355k/manifest.mpd", "poster_url": null,
    "storyboard_url": null, "chapters_url": null, "download_url": null, "media_url": null, "watch_url": "/watch/06db00820dt0303jc5mn0r355k#token=TOKEN", "token": "TOKEN", "expires_at": "2025-11-23T18:26:54.467Z",
}))]
#[schemars(rename = "Playback")]
pub(super) struct PlaybackDocument {
    /// The medium.
    media_id: MediaId,
    /// Its title, if it has one: for whom the gate let in, like the medium itself.
    title: Option<String>,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    description: Option<String>,
    /// Where it stands: `playable` while it grows, `ready` at the end.
    status: MediaStatus,
    /// Multivariant playlist (HLS); null for a still picture, which is its poster.
    hls_url: Option<String>,
    /// Manifest (MPEG-DASH), once the encode is final: of a growing one no manifest could say that playing begins at its start.
    /// Never for encrypted segments.
    dash_url: Option<String>,
    /// Still image, once there is one.
    poster_url: Option<String>,
    /// List of small pictures of the whole film (WebVTT with media fragments), once the encode is final; never for encrypted segments.
    storyboard_url: Option<String>,
    /// Its chapters (WebVTT); null where it has none.
    chapters_url: Option<String>,
    /// The medium as one MP4 file, once the encode is final; null when its owner lets nobody download it. Of `height` and `audio` in its
    /// query it has that rendition and that track.
    download_url: Option<String>,
    /// The medium's document, for those who may read it.
    media_url: Option<String>,
    /// Page that plays it in a browser.
    watch_url: String,
    /// The right that is part of the addresses.
    token: String,
    /// When the session ends at the latest (RFC 3339); earlier when nobody uses it for long.
    expires_at: Option<String>,
}

pub(super) static OPEN_PLAYBACK: Operation = Operation::change(
    Method::POST,
    "/v1/media/{media_id}/playback",
    OperationAccess::Optional(ApiKeyScope::Streaming),
    Some(RateLimitGroup::Streaming),
    &["gate.granted", "gate.denied", "gate.revoked", "view.summed"],
)
.with_room(capacity::PLAYBACK);

/// Open a playback session
///
/// Evaluates the gate of the medium and answers addresses that carry their own right. They end with the session, and with the grant
/// behind it. Without a credential only what is open to everybody can be played.
#[utoipa::path(
    post,
    path = OPEN_PLAYBACK.path,
    tag = "streaming",
    operation_id = "open_playback",
    params(("media_id", Path)),
    responses(
        (status = 200, description = "Where to play it", body = ref("#/components/schemas/Playback")),
        (status = 409, description = "Not playable, or not yet: `code` says which"),
    ),
)]
pub(super) async fn open_playback(
    State(app): State<AppState>,
    Path(id): Path<String>,
    client: ClientAddress,
    address: PublicAddress,
    who: Option<Extension<Principal>>,
) -> Result<impl IntoResponse, Problem> {
    let opened = open_session(&app, &id, &client, &address, who).await;
    match &opened {
        Ok(_) => PLAYBACK_STARTS.increment(()),
        Err(problem) => PLAYBACK_REFUSALS.increment(&[problem.code()]),
    }
    Ok(([(header::CACHE_CONTROL, "no-store")], Json(opened?)))
}

/// Opens a session for a viewer whom the gate lets in.
async fn open_session(
    app: &AppState,
    id: &str,
    client: &ClientAddress,
    address: &PublicAddress,
    who: Option<Extension<Principal>>,
) -> Result<PlaybackDocument, Problem> {
    let media_id = media::parse_media_id(id)?;
    let viewer =
        who.as_ref().map_or_else(GateViewer::anonymous, |Extension(who)| GateViewer::from_principal(who));
    let admission = match app.grants.admit_viewer(&viewer, media_id).await {
        Ok(admission) => admission,
        // A viewer without a credential may yet be its owner.
        Err(PlaybackDenied::Closed { code: GateReasonCode::Private | GateReasonCode::Gone, .. })
            if who.is_none() =>
        {
            return Err(Problem::unauthorized());
        }
        // The account of the session that asks has taken its word back.
        Err(PlaybackDenied::Closed { code: GateReasonCode::Ended, .. }) => {
            return Err(SignInDenial::Proof.into());
        }
        Err(denied @ PlaybackDenied::Closed { code: GateReasonCode::WalletNeeded, .. })
            if matches!(viewer.wallet, Some(WalletAccount { chain_id: Some(_), .. })) =>
        {
            let detail = "your account is a contract, and is known on its own chain alone: this asks for one on another";
            return Err(Problem::from(denied).with_detail(detail));
        }
        Err(denied) => return Err(denied.into()),
    };
    let medium = media::MediumRecords::load(&app.bus, media_id).await?;
    let encode = medium.asset.as_ref().and_then(|held| held.record.encode.as_ref());
    let (MediaStatus::Playable | MediaStatus::Ready, Some(encode)) = (medium.status(), encode) else {
        return Err(not_playable(&medium));
    };
    // Last: a session for what can't be played would take the place of its token for nothing.
    let session = app.grants.open_session(admission, Some(client.prefix)).await?;
    let token =
        PlaybackToken { playback_id: session.playback_id, encode: keys::encode_folder(&encode.prefix) };
    let token = token.seal(&app.signing_key);
    let base = address.prefix();
    let at = |name: &str| format!("{base}/play/{token}/{media_id}/{name}");
    let is_final = medium.status() == MediaStatus::Ready;
    // While it grows its renditions are not in the record yet.
    let is_moving = !is_final || !encode.renditions.is_empty();
    let is_clear = medium.encryption().is_none();
    let may_download = is_clear && !medium.downloads().is_none();
    let has_chosen = medium.document.as_ref().is_some_and(|held| held.record.poster.is_some());
    let has_chapters = medium.chapters().is_some_and(|all| !all.is_empty());
    let has_storyboard = is_final && is_clear && encode.has_storyboard;
    let ends_at = i64::try_from(session.expires_at_ms).ok();
    let ends_at = ends_at.and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    Ok(PlaybackDocument {
        media_id,
        title: medium.title().map(str::to_owned),
        description: medium.description().map(str::to_owned),
        status: medium.status(),
        hls_url: is_moving.then(|| at(keys::MULTIVARIANT)),
        // DASH has no way to say what HLS calls AES-128.
        dash_url: (is_final && is_moving && is_clear).then(|| at(keys::MANIFEST)),
        poster_url: (has_chosen || (is_final && encode.has_poster)).then(|| at(keys::POSTER)),
        storyboard_url: has_storyboard.then(|| at(keys::STORYBOARD)),
        chapters_url: has_chapters.then(|| at(keys::CHAPTERS)),
        download_url: (is_final && is_moving && may_download).then(|| at(keys::DOWNLOAD)),
        media_url: who
            .is_some_and(|Extension(who)| may_read_document(&who, medium.owner()))
            .then(|| format!("{base}/v1/media/{media_id}")),
        watch_url: format!(
            "{base}/watch/{media_id}#{}",
            watch_fragment(&token, (has_storyboard, has_chapters), is_moving)
        ),
        expires_at: ends_at.map(|time| time.to_string()),
        token,
    })
}

/// What the watch page plays, and what there is beside it. Behind `#`: browsers send no fragment, so no log on the way has the token.
fn watch_fragment(token: &str, (has_storyboard, has_chapters): (bool, bool), is_moving: bool) -> String {
    let storyboard = if has_storyboard { "&storyboard" } else { "" };
    let chapters = if has_chapters { "&chapters" } else { "" };
    let still = if is_moving { "" } else { "&still" };
    format!("token={token}{storyboard}{chapters}{still}")
}

fn may_read_document(who: &Principal, owner: &str) -> bool {
    let is_in_scope = who.scopes.as_ref().is_none_or(|scopes| scopes.contains(&ApiKeyScope::Metadata));
    is_in_scope && who.may_see(owner)
}

fn not_playable(medium: &media::MediumRecords) -> Problem {
    let asset = medium.asset.as_ref().map(|held| &held.record);
    let problem = match medium.status() {
        MediaStatus::Rejected => Problem::new(ProblemCode::MediaRejected),
        MediaStatus::Failed => Problem::new(ProblemCode::MediaFailed),
        _ => Problem::new(ProblemCode::NotPlayable)
            .with_detail("it is being prepared; follow GET /v1/events?media= until media.playable"),
    };
    let problem = match asset.and_then(|asset| asset.detail.clone()) {
        Some(detail) => problem.with_detail(detail),
        None => problem,
    };
    problem
        .with_member("media_status", json!(medium.status()))
        .with_member("media_code", json!(asset.and_then(|a| a.code.clone())))
}

//! Files from forms (RFC 7578): `curl -F file=@clip.mp4`, and the form of any page, whose right is a token in a field, since browsers
//! send no credential of ours with forms.
//!
//! The file goes the way of every upload, as its bytes arrive. What says something about it stands before it; a form has one file,
//! and what follows it is read before the upload counts as complete.
//!
//! Limits: those of the [`parts`] of a form, and of every upload.

mod parts;
mod token;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::State,
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use parking_lot::Mutex;
use schemars::JsonSchema;
use schemas::ids::MediaId;
use serde::Deserialize;
use serde_json::json;

use self::parts::FormParts;
pub(super) use self::token::{
    __path_create_upload_token, CREATE_UPLOAD_TOKEN, UploadTokenDocument, UploadTokenRequest,
    create_upload_token,
};
use super::{
    UploadContext, digest::DigestChecks, fields::MEDIA_ID, lifecycle, metadata, protocol,
    refusal::UploadRefusal, response, whole_file,
};
use crate::{AppState, capacity};
use auth::{Principal, SignInService, upload_token::UploadTokenGrant};
use web::{
    error::Problem,
    limit::{RateLimitGroup, RateLimitPermit},
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    problem_page,
    public_address::PublicAddress,
};

/// The fields of a form.
#[derive(Debug, Deserialize, JsonSchema)]
#[schemars(rename = "UploadForm", example = json!({ "upload_token": "3f0c9d1e5b7a2c4d6e8f0a1b2c3d4e5f60718293", "title": "A day at the sea", "file": "" }))]
#[expect(dead_code, reason = "the description of what is read as it comes")]
pub(super) struct UploadForm {
    /// The right to upload.
    upload_token: String,
    /// Title of the medium.
    #[serde(default)]
    #[schemars(with = "String", regex(pattern = metadata::TITLE_PATTERN), length(max = metadata::TITLE_LENGTH_MAX))]
    title: Option<String>,
    /// What it is about.
    #[serde(default)]
    #[schemars(with = "String", length(max = metadata::DESCRIPTION_LENGTH_MAX))]
    description: Option<String>,
    /// Who plays it: everybody, also without lists of visitors that show it, or its owner alone.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["private", "public", "unlisted"]))]
    visibility: Option<String>,
    /// By which profile it is encoded, from `GET /v1/profiles`.
    #[serde(default)]
    #[schemars(with = "String", length(max = 64))]
    profile: Option<String>,
    /// Priority of its encode; `p0` is for admins.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["p0", "p1", "p2"]))]
    priority: Option<String>,
    /// Whether its encode waits until somebody resumes its job, or has the medium encoded otherwise.
    #[serde(default)]
    #[schemars(with = "String", extend("enum" = ["true", "false"]))]
    encode_paused: Option<String>,
    /// The file, with its name; behind everything that says something about it.
    #[schemars(extend("format" = "binary"))]
    file: String,
}

/// What a request says of its body, which here is more than the file.
const NOT_OF_FORMS: [(HeaderName, &str); 4] = [
    (HeaderName::from_static("content-digest"), "Content-Digest"),
    (HeaderName::from_static("repr-digest"), "Repr-Digest"),
    (HeaderName::from_static("upload-metadata"), "Upload-Metadata"),
    (HeaderName::from_static("idempotency-key"), "Idempotency-Key"),
];

pub(super) static SEND_FORM: Operation = Operation::change(
    Method::POST,
    "/v1/forms",
    OperationAccess::Body,
    Some(RateLimitGroup::Upload),
    &["upload.created", "gate.changed", "upload.received", "upload.terminated", "media.removed"],
)
.with_room(capacity::UPLOAD);

/// Bring in a file by the form of a page
///
/// A form of any site, whose field `upload_token` holds the right. It stands before the file, as do `title`, `description`,
/// `visibility` (`public`, `unlisted`, or `private` as without it), `profile` and `priority` of its encode, and `encode_paused`;
/// fields of other names are not looked at. A request that ends early leaves nothing. The token is used up when the file begins to be stored: what is refused before that may be sent again.
#[utoipa::path(
    post,
    path = SEND_FORM.path,
    tag = "upload",
    operation_id = "send_form",
    request_body(content = ref("#/components/schemas/UploadForm"), content_type = "multipart/form-data"),
    responses(
        (status = 201, description = "It is stored and will be verified; a browser gets a page",
         body = ref("#/components/schemas/MediaCreated"), headers(("Location"), ("Streamgate-Media-Id"))),
        (status = 303, description = "The same, where the token names an address to go to", headers(("Location"))),
        (status = 400, description = "It is no form with one file, or what it says makes no sense"),
        (status = 401, description = "The token was used, its time is over, or its credential is good no more"),
        (status = 413, description = "Larger than an upload may be"),
        (status = 415, description = "No form, or a file that could not be a medium"),
        (status = 423, description = "Another request holds the upload"),
        (status = 507, description = "The store is full"),
    ),
)]
pub(super) async fn send_form(
    State(app): State<AppState>,
    address: PublicAddress,
    permit: RateLimitPermit,
    parts: Parts,
    body: Body,
) -> Response {
    let sender = FormSender::Token { sign_in: app.sign_in.clone(), permit };
    take_form(&app.uploads.shared, sender, address, parts, body).await
}

/// Takes a form, whatever becomes of its connection.
pub(super) async fn take_form(
    shared: &Arc<UploadContext>,
    sender: FormSender,
    address: PublicAddress,
    parts: Parts,
    body: Body,
) -> Response {
    let work = {
        let shared = Arc::clone(shared);
        async move { receive_form(&shared, sender, &address, &parts.headers, body).await }
    };
    Box::pin(shared.run_detached(work)).await.unwrap_or_else(|refusal| refusal.into_problem().into_response())
}

/// By what right a form is taken.
pub(super) enum FormSender {
    /// The request has a credential.
    Principal(Principal),
    /// A field has a token.
    Token {
        /// Knows the tokens.
        sign_in: SignInService,
        /// Counts the attempt once it is known whose it is.
        permit: RateLimitPermit,
    },
}

impl FormSender {
    /// Whose file it is; nothing is used up.
    async fn identify(&self, token: &str) -> Result<UploadTokenGrant, UploadRefusal> {
        let (sign_in, permit) = match self {
            Self::Principal(who) => return Ok(UploadTokenGrant { who: who.clone(), redirect_url: None }),
            Self::Token { sign_in, permit } => (sign_in, permit),
        };
        let found = sign_in.find_upload_token(token).await;
        let found = found.map_err(|error| UploadRefusal::Other(Box::new(error.into())))?;
        let grant = found.ok_or_else(token_refused)?;
        permit
            .admit_principal(&grant.who.owner)
            .map_err(|problem| UploadRefusal::Other(Box::new(problem)))?;
        Ok(grant)
    }

    /// Takes what is good once.
    async fn use_up(&self, token: &str) -> Result<(), UploadRefusal> {
        let Self::Token { sign_in, .. } = self else { return Ok(()) };
        if sign_in.use_upload_token(token).await? { Ok(()) } else { Err(token_refused()) }
    }

    /// Gives back what it has used up for nothing.
    async fn give_back(&self, token: &str) {
        let Self::Token { sign_in, .. } = self else { return };
        if let Err(error) = sign_in.return_upload_token(token).await {
            tracing::warn!(%error, "the token of a form could not be given back: its page has to be loaded anew");
        }
    }
}

fn token_refused() -> UploadRefusal {
    UploadRefusal::Other(Box::new(Problem::new(ProblemCode::UploadTokenRefused)))
}

async fn receive_form(
    shared: &Arc<UploadContext>,
    sender: FormSender,
    address: &PublicAddress,
    headers: &HeaderMap,
    mut body: Body,
) -> Result<Response, UploadRefusal> {
    let boundary = match parse_head(headers) {
        Ok(boundary) => boundary,
        Err(refusal) => {
            shared.drain_body(headers, &mut body).await;
            return Err(refusal);
        }
    };
    let (form, lent) = FormParts::new(body, boundary);
    let outcome = receive_parts(shared, &sender, address, headers, form).await;
    if outcome.is_err() {
        let (mut rest, was_read) = {
            let mut lent = lent.lock();
            (std::mem::take(&mut lent.body), lent.was_read)
        };
        // Who waited to be asked for the body has been asked.
        let waiting = if was_read { &HeaderMap::new() } else { headers };
        shared.drain_body(waiting, &mut rest).await;
    }
    outcome
}

/// The boundary of the parts; what a form can't keep is refused before its first byte.
fn parse_head(headers: &HeaderMap) -> Result<String, UploadRefusal> {
    protocol::check_whole_file_fields(headers)?;
    if let Some((_, name)) = NOT_OF_FORMS.iter().find(|(name, _)| headers.contains_key(name)) {
        return Err(UploadRefusal::Header {
            name,
            why: "is not taken with a form; send the file as the body",
        });
    }
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = kind.and_then(|text| multer::parse_boundary(text).ok());
    boundary.ok_or(UploadRefusal::MediaType("multipart/form-data with a boundary"))
}

async fn receive_parts(
    shared: &Arc<UploadContext>,
    sender: &FormSender,
    address: &PublicAddress,
    headers: &HeaderMap,
    mut form: FormParts,
) -> Result<Response, UploadRefusal> {
    // What comes before the file has the time in which a file brings its next byte.
    let before = tokio::time::timeout(shared.config.idle_timeout(), form.read_fields());
    let (fields, file) = before.await.map_err(|_| UploadRefusal::Idle)??;
    let content_type = file.content_type().map_or("application/octet-stream", |kind| kind.essence_str());
    let content_type = metadata::clean_media_type(content_type)
        .filter(|kind| whole_file::is_media_type(kind))
        .ok_or(UploadRefusal::MediaType("a file of video, sound or a picture"))?;
    let filename = file.file_name().and_then(metadata::clean_filename);
    let token = fields.token.unwrap_or_default();
    let grant = sender.identify(&token).await?;
    let mut record = lifecycle::new_record(shared, &grant.who, None);
    record.content_type = Some(content_type);
    record.filename = filename;
    fields.metadata.describe(&grant.who, &shared.profiles, &mut record)?;
    sender.use_up(&token).await?;
    let ledger = match lifecycle::begin_upload(shared, record).await {
        Ok(ledger) => ledger,
        // What is refused for want of room, or since something is away, can be sent again.
        Err(refusal) => {
            sender.give_back(&token).await;
            return Err(refusal);
        }
    };
    let (upload_id, media_id) = (ledger.upload_id(), ledger.media_id());
    let end = Arc::new(Mutex::new(None));
    let mut bytes = form.into_file_body(file, Arc::clone(&end));
    let received =
        whole_file::receive_or_abandon(shared, ledger, &grant.who, DigestChecks::new(None), &mut bytes).await;
    drop(bytes);
    let found = end.lock().take();
    match (received, found) {
        (Ok(()), _) => {}
        // The form, not the connection, is what was wrong.
        (Err(UploadRefusal::Cut), Some(refusal)) | (Err(refusal), _) => return Err(refusal),
    }
    let created = whole_file::created_response(address, upload_id, media_id)?;
    Ok(match grant.redirect_url {
        Some(url) => see_other(&url, media_id)?,
        None if problem_page::wants_page(headers) => {
            let (heading, advice) =
                ("Your file has arrived", "It is checked and prepared now. You can close this page.");
            problem_page::message_page(StatusCode::CREATED, created.into_parts().0.headers, heading, advice)
        }
        None => created,
    })
}

/// Where a browser goes next: `url` with the id of the medium.
fn see_other(url: &str, media_id: MediaId) -> Result<Response, UploadRefusal> {
    let separator = if url.contains('?') { '&' } else { '?' };
    let target = HeaderValue::try_from(format!("{url}{separator}media_id={media_id}"));
    let target = target.map_err(|_| UploadRefusal::NotFound)?;
    let media = response::media_id_header(media_id)?;
    let headers = [(header::LOCATION, target), (MEDIA_ID, media)];
    Ok((StatusCode::SEE_OTHER, headers).into_response())
}

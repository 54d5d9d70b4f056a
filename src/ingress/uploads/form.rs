//! Files from forms (RFC 7578): `curl -F file=@clip.mp4`, and the form of any page, whose right is a token in a field, since browsers
//! send no credential of ours with forms.
//!
//! The file goes the way of every upload, as its bytes arrive. What says something about it stands before it; a form has one file,
//! and what follows it is read before the upload counts as complete.
//!
//! Limits: [`FIELDS_MAX`] fields before the file, [`FIELD_BYTES_MAX`] each; what follows the file is at most [`REST_BYTES_MAX`].

use std::{pin::Pin, sync::Arc, task};

use axum::{
    Extension, Json,
    body::{Body, Bytes, HttpBody},
    extract::State,
    http::{HeaderMap, HeaderValue, Method, StatusCode, header, request::Parts},
    response::{IntoResponse, Response},
};
use futures::Stream;
use multer::{Field, Multipart};
use parking_lot::Mutex;
use schemars::JsonSchema;
use schemas::{access::ApiKeyScope, ids::MediaId};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    UploadContext,
    digest::DigestChecks,
    fields::MEDIA_ID,
    lifecycle,
    metadata::{self, UploadMetadata},
    refusal::UploadRefusal,
    response, whole_file,
};
use crate::{AppState, capacity};
use auth::{
    Principal, SignInService,
    upload_token::{self, UploadTokenGrant},
};
use web::{
    body::OptionalJsonBody,
    error::Problem,
    idempotency::ShownOnceResponse,
    limit::{RateLimitGroup, RateLimitPermit},
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    problem_page,
    public_address::PublicAddress,
    request,
};

/// The field of the right.
const TOKEN_FIELD: &str = "upload_token";
/// Fields that say something about the file.
const FILE_FIELDS: [&str; 4] = ["title", "description", "visibility", "mint_tx"];
/// Most fields before the file.
const FIELDS_MAX: usize = 32;
/// Longest value of a field in bytes.
const FIELD_BYTES_MAX: usize = 8 * 1024;
/// Most bytes of what follows the file.
const REST_BYTES_MAX: usize = 64 * 1024;
/// Longest address to go to afterwards, in bytes.
const REDIRECT_BYTES_MAX: usize = 2_000;

/// A browser that sends a form goes there with `media_id` in the query.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "UploadTokenWanted", example = json!({ "redirect_url": "https://blog.example.org/thanks" }))]
pub(super) struct UploadTokenRequest {
    /// Where the browser goes once the file is stored, with `media_id` added to the query; without it, it is shown a page that says so.
    #[schemars(length(max = REDIRECT_BYTES_MAX), pattern("^https?://"))]
    redirect_url: Option<String>,
}

/// A right to upload one file by a form.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "UploadTokenMade", example = json!({
    "token": "3f0c9d1e5b7a2c4d6e8f0a1b2c3d4e5f60718293", "expires_at_ms": 1_763_904_414_467_u64, "form_url": "https://media.example.org/v1/forms",
}))]
pub(super) struct UploadTokenDocument {
    /// The value of the field `upload_token`: shown this once, and kept nowhere.
    token: String,
    /// Unix time in milliseconds from which on it opens nothing.
    expires_at_ms: u64,
    /// The `action` of the form.
    form_url: String,
}

pub(super) static CREATE_UPLOAD_TOKEN: Operation = Operation::change(
    Method::POST,
    "/v1/forms/tokens",
    OperationAccess::Principal(ApiKeyScope::Upload),
    Some(RateLimitGroup::Upload),
    &["auth.upload_token_created"],
)
.with_room(capacity::CHALLENGE);

/// Make a token for one upload by a form
///
/// A server asks for it with its credential and puts it into a form of its page, in a field `upload_token` before the field of the file:
/// whoever sends that form uploads one file for the owner of the credential. It is good once, for an hour, while the credential is.
#[utoipa::path(
    post,
    path = CREATE_UPLOAD_TOKEN.path,
    tag = "upload",
    operation_id = "create_upload_token",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/UploadTokenWanted"), content_type = "application/json"),
    responses(
        (status = 201, description = "The token", body = ref("#/components/schemas/UploadTokenMade")),
        (status = 409, description = "The token was made and shown before"),
    ),
)]
pub(super) async fn create_upload_token(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    OptionalJsonBody(wanted): OptionalJsonBody<UploadTokenRequest>,
) -> Result<(StatusCode, Extension<ShownOnceResponse>, Json<UploadTokenDocument>), Problem> {
    let redirect_url = wanted.redirect_url.map(check_redirect).transpose()?;
    let credential = who.credential().ok_or_else(Problem::unauthorized)?;
    let request_id = request::current_or_fresh_id();
    let by = (who.owner.as_str(), credential);
    let token = upload_token::create_upload_token(&app.bus, by, redirect_url, request_id).await?;
    let once =
        ShownOnceResponse { detail: "the token was made; if its text was lost, make another".to_owned() };
    let form_url = format!("{}{}", address.absolute_prefix(), SEND_FORM.path);
    let document = UploadTokenDocument { token: token.text, expires_at_ms: token.expires_at_ms, form_url };
    Ok((StatusCode::CREATED, Extension(once), Json(document)))
}

fn check_redirect(text: String) -> Result<String, Problem> {
    let uri: Option<axum::http::Uri> = text.parse().ok();
    let is_web =
        uri.is_some_and(|uri| matches!(uri.scheme_str(), Some("http" | "https")) && uri.host().is_some());
    if is_web && text.len() <= REDIRECT_BYTES_MAX && !text.contains('#') {
        return Ok(text);
    }
    let detail = format!("an address of the web without a fragment, of at most {REDIRECT_BYTES_MAX} bytes");
    Err(Problem::new(ProblemCode::JsonInvalid).with_pointer("/redirect_url", detail))
}

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
/// A form of any site, whose field `upload_token` holds the right. It stands before the file, as do `title`, `description` and
/// `visibility` (`public`, or `private` as without it); fields of other names are not looked at. A request that ends early leaves nothing.
#[utoipa::path(
    post,
    path = SEND_FORM.path,
    tag = "upload",
    operation_id = "send_form",
    request_body(description = "The form", content((String = "multipart/form-data"))),
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
    mut body: Body,
) -> Response {
    let shared = Arc::clone(&app.uploads.shared);
    let sender = FormSender::Token { sign_in: app.sign_in.clone(), permit };
    let work = {
        let shared = Arc::clone(&shared);
        async move {
            let outcome = receive_form(&shared, sender, &address, &parts.headers, &mut body).await;
            if outcome.is_err() {
                shared.drain_body(&parts.headers, &mut body).await;
            }
            outcome
        }
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
    async fn identify(self, token: Option<&str>) -> Result<UploadTokenGrant, UploadRefusal> {
        match self {
            Self::Principal(who) => Ok(UploadTokenGrant { who, redirect_url: None }),
            Self::Token { sign_in, permit } => {
                let refused =
                    || UploadRefusal::Other(Box::new(Problem::new(ProblemCode::UploadTokenRefused)));
                let found = sign_in.redeem_upload_token(token.unwrap_or_default()).await;
                let found = found.map_err(|error| UploadRefusal::Other(Box::new(error.into())))?;
                let grant = found.ok_or_else(refused)?;
                permit
                    .admit_principal(&grant.who.owner)
                    .map_err(|problem| UploadRefusal::Other(Box::new(problem)))?;
                Ok(grant)
            }
        }
    }
}

/// Takes the file of a form.
pub(super) async fn receive_form(
    shared: &Arc<UploadContext>,
    sender: FormSender,
    address: &PublicAddress,
    headers: &HeaderMap,
    body: &mut Body,
) -> Result<Response, UploadRefusal> {
    let boundary = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let boundary = boundary.and_then(|text| multer::parse_boundary(text).ok());
    let boundary = boundary.ok_or(UploadRefusal::MediaType("multipart/form-data with a boundary"))?;
    // Lent, so that what is left of a refused body can be read and dropped.
    let lent = Arc::new(Mutex::new(std::mem::take(body)));
    let form = Multipart::new(LentBody { body: Arc::clone(&lent), is_resting: false }, boundary);
    let outcome = receive_parts(shared, sender, address, headers, form).await;
    *body = std::mem::take(&mut *lent.lock());
    outcome
}

/// A body that its owner gets back.
struct LentBody {
    body: Arc<Mutex<Body>>,
    /// The reader of parts takes all that is ready into memory before it looks at it; it gets one frame at a time.
    is_resting: bool,
}

impl Stream for LentBody {
    type Item = Result<Bytes, axum::Error>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
    ) -> task::Poll<Option<Self::Item>> {
        if std::mem::take(&mut self.is_resting) {
            context.waker().wake_by_ref();
            return task::Poll::Pending;
        }
        let body = Arc::clone(&self.body);
        let mut body = body.lock();
        loop {
            match task::ready!(Pin::new(&mut *body).poll_frame(context)) {
                Some(Ok(frame)) => {
                    // Trailers say nothing about a form.
                    if let Ok(data) = frame.into_data() {
                        self.is_resting = true;
                        return task::Poll::Ready(Some(Ok(data)));
                    }
                }
                Some(Err(error)) => return task::Poll::Ready(Some(Err(error))),
                None => return task::Poll::Ready(None),
            }
        }
    }
}

/// What stands before the file.
#[derive(Debug, Default)]
struct FormFields {
    token: Option<String>,
    metadata: UploadMetadata,
}

async fn receive_parts(
    shared: &Arc<UploadContext>,
    sender: FormSender,
    address: &PublicAddress,
    headers: &HeaderMap,
    mut form: Multipart<'static>,
) -> Result<Response, UploadRefusal> {
    // What comes before the file has the time in which a file brings its next byte.
    let before = tokio::time::timeout(shared.config.idle_timeout(), read_fields(&mut form));
    let (fields, file) = before.await.map_err(|_| UploadRefusal::Idle)??;
    let content_type = file.content_type().map_or("application/octet-stream", |kind| kind.essence_str());
    let content_type = metadata::clean_media_type(content_type)
        .filter(|kind| whole_file::is_media_type(kind))
        .ok_or(UploadRefusal::MediaType("a file of video, sound or a picture"))?;
    let filename = file.file_name().and_then(metadata::clean_filename);
    let grant = sender.identify(fields.token.as_deref()).await?;
    let mut record = lifecycle::new_record(shared, &grant.who, None);
    record.content_type = Some(content_type);
    record.filename = filename;
    fields.metadata.describe(&grant.who, &mut record)?;
    let ledger = lifecycle::begin_upload(shared, record).await?;
    let (upload_id, media_id) = (ledger.upload_id(), ledger.media_id());
    let end = Arc::new(Mutex::new(None));
    let mut bytes = file_body(file, form, Arc::clone(&end));
    let taken =
        whole_file::receive_or_abandon(shared, ledger, &grant.who, DigestChecks::new(None), &mut bytes).await;
    drop(bytes);
    let found = end.lock().take();
    match (taken, found) {
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

/// Reads what stands before the file, up to its first byte.
async fn read_fields(form: &mut Multipart<'static>) -> Result<(FormFields, Field<'static>), UploadRefusal> {
    let mut fields = FormFields::default();
    for _ in 0..=FIELDS_MAX {
        let field = form.next_field().await.map_err(form_refusal)?;
        let Some(mut field) = field else { return Err(UploadRefusal::Form("it has no file".into())) };
        let name = field.name().unwrap_or_default().to_owned();
        match field.file_name() {
            // What a browser sends when nothing was chosen.
            Some("") => return Err(UploadRefusal::Form("no file was chosen".into())),
            Some(_) => return Ok((fields, field)),
            None if name == "file" => return Ok((fields, field)),
            None => {}
        }
        let text = read_text(&mut field, &name).await?;
        if name == TOKEN_FIELD {
            fields.token = Some(text);
        } else if FILE_FIELDS.contains(&name.as_str()) && !text.trim().is_empty() {
            let set = fields.metadata.set(&name, &text);
            set.map_err(|why| UploadRefusal::Form(format!("it {why}")))?;
        }
    }
    Err(UploadRefusal::Form(format!("it has more than {FIELDS_MAX} fields before its file")))
}

async fn read_text(field: &mut Field<'static>, name: &str) -> Result<String, UploadRefusal> {
    let mut text = Vec::new();
    while let Some(chunk) = field.chunk().await.map_err(form_refusal)? {
        if text.len() + chunk.len() > FIELD_BYTES_MAX {
            let shown: String = name.chars().take(40).collect();
            return Err(UploadRefusal::Form(format!(
                "the field {shown:?} has more than {FIELD_BYTES_MAX} bytes"
            )));
        }
        text.extend_from_slice(&chunk);
    }
    String::from_utf8(text).map_err(|_| UploadRefusal::Form("a field is not UTF-8".into()))
}

/// The bytes of the file. They end well only where the form does, with no other file.
fn file_body(
    file: Field<'static>,
    form: Multipart<'static>,
    found: Arc<Mutex<Option<UploadRefusal>>>,
) -> Body {
    let parts =
        futures::stream::try_unfold((Some(file), form, found), |(file, mut form, found)| async move {
            let Some(mut file) = file else { return Ok(None) };
            if let Some(chunk) = file.chunk().await? {
                return Ok(Some((chunk, (Some(file), form, found))));
            }
            drop(file);
            match read_rest(&mut form).await {
                Ok(()) => Ok::<_, axum::BoxError>(None),
                Err(refusal) => {
                    *found.lock() = Some(refusal);
                    Err("the form goes on where it should end".into())
                }
            }
        });
    Body::from_stream(parts)
}

/// Reads what follows the file: nothing that would say something about it, and no other file.
async fn read_rest(form: &mut Multipart<'static>) -> Result<(), UploadRefusal> {
    let mut left = REST_BYTES_MAX;
    while let Some(mut field) = form.next_field().await.map_err(form_refusal)? {
        let name = field.name().unwrap_or_default();
        if field.file_name().is_some_and(|name| !name.is_empty()) {
            return Err(UploadRefusal::Form(
                "it has more than one file: send each in a form of its own".into(),
            ));
        }
        if FILE_FIELDS.contains(&name) || name == TOKEN_FIELD {
            return Err(UploadRefusal::Form(format!("{name} has to stand before the file")));
        }
        while let Some(chunk) = field.chunk().await.map_err(form_refusal)? {
            let rest = left.checked_sub(chunk.len());
            left = rest.ok_or_else(|| UploadRefusal::Form("too much follows the file".into()))?;
        }
    }
    Ok(())
}

fn form_refusal(error: multer::Error) -> UploadRefusal {
    match error {
        multer::Error::StreamReadFailed(_)
        | multer::Error::IncompleteStream
        | multer::Error::IncompleteHeaders
        | multer::Error::IncompleteFieldData { .. } => UploadRefusal::Cut,
        other => UploadRefusal::Form(other.to_string()),
    }
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

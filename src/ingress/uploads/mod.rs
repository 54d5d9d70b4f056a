//! Uploads over HTTP: tus 1.0 under `/v1/uploads`, a whole file in one request at `POST /v1/media`,
//! and there the address of one, which a job fetches.
//!
//! An offset is reported only when its bytes survive a crash: the store's spool makes them durable, then the record in
//! `uploads` names them by compare-and-set. One writer per upload: a newcomer makes the holder let go, on this replica by
//! a token, on another by `ctl.upload.<upload_id>`; the generation in the record is the fence behind both. The ingress
//! computes only digests that the client asked for; what the bytes are is the upload stage's question.
//!
//! Limits: everything in [`UploadConfig`]; bytes in memory are limited by the store over all uploads.

mod concat;
mod concat_field;
mod config;
mod creation;
mod digest;
mod disposition;
pub mod expiry;
mod fenced_record;
mod fetch_request;
mod fetched;
mod fields;
mod final_parts;
mod form;
mod granted;
mod grants;
mod known_statuses;
mod lifecycle;
mod medium;
pub(super) mod metadata;
mod open_uploads;
mod protocol;
mod refusal;
mod response;
mod resumable;
mod session;
mod slot;
mod status;
mod takeover;
#[cfg(test)]
mod tests;
mod tus;
mod whole_file;

use std::sync::Arc;

use axum::{
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::{self, Next},
    response::Response,
};
use futures::StreamExt;
use http_body_util::BodyExt;
use nats::Bus;
use schemas::{
    ids::{RequestId, UploadId},
    subjects,
};
use store::Store;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use config::UploadConfig;
pub(crate) use fenced_record::received_event;
pub use fenced_record::{
    FencedUploadRecord, MEDIA_REMOVED, discard_upload, end_fetched_upload, end_removed_upload,
};
pub use fetched::{FetchedBytes, FetchedRefusal, FetchedUpload};
pub use known_statuses::KnownStatuses;
pub use refusal::UploadRefusal;

use crate::{AppState, openapi, transcode::ProfileCatalog};
use slot::UploadWriters;
use web::operation::{Operation, OperationRouter};

/// What upload handlers share. Cheap to clone; one per replica.
#[derive(Debug, Clone)]
pub struct UploadState {
    shared: Arc<UploadContext>,
}

#[derive(Debug)]
struct UploadContext {
    bus: Bus,
    store: Store,
    config: UploadConfig,
    /// By what media can be encoded.
    profiles: ProfileCatalog,
    /// Names this replica in records.
    instance: String,
    slots: Arc<UploadWriters>,
    tasks: TaskTracker,
    stopping: CancellationToken,
    /// Status documents in memory, where statuses are asked for.
    known_statuses: Option<KnownStatuses>,
}

impl UploadState {
    /// What upload handlers share, with fresh slots.
    pub fn new(
        bus: Bus,
        store: Store,
        config: UploadConfig,
        profiles: ProfileCatalog,
        known_statuses: Option<KnownStatuses>,
    ) -> Self {
        let shared = UploadContext {
            bus,
            store,
            config,
            profiles,
            instance: RequestId::from_bytes(nats::new_id_bytes()).to_string(),
            slots: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
            known_statuses,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Lets go of uploads that other replicas ask for, until `shutdown`; then ends all running requests with their
    /// prefixes kept, and returns when they are recorded.
    ///
    /// Fails when the broker does not take the subscription.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), nats::BusError> {
        let shared = &self.shared;
        let mut asked = shared.bus.subscribe_core(subjects::CONTROL_UPLOADS.to_owned()).await?;
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => break,
                message = asked.next() => message,
            };
            let Some(message) = message else {
                return Err(nats::BusError::unavailable("the subscription has ended"));
            };
            if message.payload == shared.instance.as_bytes() {
                continue;
            }
            if let Some(upload_id) = subjects::parse_upload_release(&message.subject) {
                shared.slots.request_release(upload_id);
            }
        }
        shutdown.cancelled().await;
        shared.stopping.cancel();
        shared.tasks.close();
        shared.tasks.wait().await;
        Ok(())
    }
}

/// Their descriptions.
#[derive(utoipa::OpenApi)]
#[openapi(paths(
    tus::upload_options,
    tus::options_of_upload,
    creation::create_upload,
    tus::read_upload_offset,
    tus::read_upload,
    tus::append_to_upload,
    tus::end_upload,
    tus::override_method,
    status::read_upload_status,
    whole_file::create_media,
    whole_file::put_file,
    form::create_upload_token,
    form::send_form,
    grants::create_grant,
    grants::list_grants,
    grants::revoke_grant
))]
pub(super) struct UploadsApiDoc;

impl openapi::OperationGroup for UploadsApiDoc {
    fn operations() -> Vec<&'static Operation> {
        let mut all = operations().operations().to_vec();
        all.extend(form_token_router().merge(form_router()).operations());
        all
    }

    fn add_schemas(schemas: &mut openapi::SchemaCollector) {
        schemas.add_response::<status::UploadDocument>();
        schemas.add_response::<response::MediaCreatedDocument>();
        schemas.add_request::<fetch_request::MediaRequest>();
        schemas.add_response::<fetch_request::MediaFetchDocument>();
        schemas.add_request::<form::UploadForm>();
        schemas.add_request::<grants::UploadGrantRequest>();
        schemas.add_response::<grants::CreatedUploadGrantDocument>();
        schemas.add_response::<grants::UploadGrantListDocument>();
        schemas.add_request::<form::UploadTokenRequest>();
        schemas.add_response::<form::UploadTokenDocument>();
    }
}

/// The routes of uploads. They expect [`auth::Principal`] among the request's extensions.
pub fn router<S: Clone + Send + Sync + 'static>(state: UploadState) -> OperationRouter<S> {
    operations().with_state(state)
}

/// Makes the tokens of forms, and grants.
pub fn form_token_router() -> OperationRouter<AppState> {
    OperationRouter::default()
        .with(&form::CREATE_UPLOAD_TOKEN, form::create_upload_token)
        .with(&grants::CREATE_GRANT, grants::create_grant)
        .with(&grants::LIST_GRANTS, grants::list_grants)
        .with(&grants::REVOKE_GRANT, grants::revoke_grant)
}

/// Takes forms, whose right is in a field.
pub fn form_router() -> OperationRouter<AppState> {
    OperationRouter::default().with(&form::SEND_FORM, form::send_form)
}

fn operations() -> OperationRouter<UploadState> {
    OperationRouter::default()
        .with(&creation::CREATE_UPLOAD, creation::create_upload)
        .with(&tus::UPLOAD_OPTIONS, tus::upload_options)
        .with(&tus::READ_UPLOAD_OFFSET, tus::read_upload_offset)
        .with(&tus::READ_UPLOAD, tus::read_upload)
        .with(&tus::APPEND_TO_UPLOAD, tus::append_to_upload)
        .with(&tus::END_UPLOAD, tus::end_upload)
        .with(&tus::OVERRIDE_METHOD, tus::override_method)
        .with(&tus::OPTIONS_OF_UPLOAD, tus::options_of_upload)
        .with(&status::READ_UPLOAD_STATUS, status::read_upload_status)
        .layer(middleware::from_fn(add_tus_version))
        .with(&whole_file::CREATE_MEDIA, whole_file::create_media)
        .with(&whole_file::PUT_FILE, whole_file::put_file)
}

async fn add_tus_version(request: Request, next: Next) -> Response {
    let is_options = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if !is_options {
        web::request_head::set_tus_version(response.headers_mut());
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl UploadContext {
    /// Runs a request to its end even when its connection goes away, and refuses politely.
    async fn run_detached<F>(self: &Arc<Self>, work: F) -> Result<Response, UploadRefusal>
    where
        F: Future<Output = Result<Response, UploadRefusal>> + Send + 'static,
    {
        if self.stopping.is_cancelled() {
            return Err(UploadRefusal::Stopping);
        }
        // Without its marker the store is away: nothing is made, judged or ended on the strength of what is not there.
        self.store.verify_marker().await?;
        match self.tasks.spawn(web::request::with_current_id(Box::pin(work))).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(%error, "an upload request ended in a panic");
                Err(UploadRefusal::Stopping)
            }
        }
    }

    /// Reads and drops a bounded rest of the body, so that the client reads the refusal instead of a reset.
    async fn drain_body(&self, headers: &HeaderMap, body: &mut Body) {
        // A client that waits for 100 has sent nothing yet and must not be asked to.
        if headers.contains_key(header::EXPECT) {
            return;
        }
        let mut left = self.config.drain_bytes_max;
        let dropping = async {
            while let Some(Ok(frame)) = body.frame().await {
                let length = frame.data_ref().map_or(0, |data| u64::try_from(data.len()).unwrap_or(u64::MAX));
                let Some(rest) = left.checked_sub(length) else { break };
                left = rest;
            }
        };
        // Running out of time is as good as running out of bytes.
        tokio::time::timeout(self.config.drain_timeout(), dropping).await.ok();
    }
}

fn parse_upload_id(text: &str) -> Result<UploadId, UploadRefusal> {
    text.parse().map_err(|_| UploadRefusal::NotFound)
}

//! Uploads over HTTP: tus 1.0 under `/v1/uploads`, a whole file in one request at `POST /v1/media`.
//!
//! An offset is told only when its bytes survive a crash: the store's spool makes them durable, then the record in
//! `uploads` names them by compare-and-set. One writer per upload: a newcomer makes the holder let go, on this replica by
//! a token, on another by `ctl.upload.<upload_id>`; the generation in the record is the fence behind both. The ingress
//! computes only digests that the client asked for; what the bytes are is the upload stage's question.
//!
//! Limits: everything in [`Config`]; bytes in memory are limited by the store over all uploads.

mod config;
mod digest;
pub mod expiry;
mod ledger;
pub(super) mod metadata;
mod open;
mod protocol;
mod refusal;
mod session;
mod slot;
mod status;
mod takeover;
#[cfg(test)]
mod tests;
mod tus;
mod whole;

use std::sync::Arc;

use axum::{
    Router,
    body::Body,
    extract::Request,
    http::{HeaderMap, HeaderValue, Method, header},
    middleware::{self, Next},
    response::Response,
    routing::{get, head, options, post},
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

pub use config::Config;
pub use ledger::{Ledger, discard};
pub use refusal::Refusal;

use crate::openapi;
use slot::Slots;

/// What upload handlers share. Cheap to clone; one per replica.
#[derive(Debug, Clone)]
pub struct State {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    bus: Bus,
    store: Store,
    config: Config,
    public_url: Option<String>,
    /// Names this replica in records.
    instance: String,
    slots: Arc<Slots>,
    tasks: TaskTracker,
    stopping: CancellationToken,
}

impl State {
    /// `public_url` is the address people reach this by; without it the request's own host is used.
    pub fn new(bus: Bus, store: Store, config: Config, public_url: Option<String>) -> Self {
        let shared = Shared {
            bus,
            store,
            config,
            public_url,
            instance: RequestId::from_bytes(nats::fresh_id()).to_string(),
            slots: Arc::default(),
            tasks: TaskTracker::new(),
            stopping: CancellationToken::new(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// Lets go of uploads that other replicas ask for, until `shutdown`; then ends all running requests with their
    /// prefixes kept, and returns when they are recorded.
    ///
    /// Fails when the broker does not take the subscription.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), nats::Error> {
        let shared = &self.shared;
        let mut asked = shared.bus.listen(subjects::CONTROL_UPLOADS.to_owned()).await?;
        loop {
            let message = tokio::select! {
                () = shutdown.cancelled() => break,
                message = asked.next() => message,
            };
            let Some(message) = message else {
                return Err(nats::Error::unavailable("the subscription has ended"));
            };
            if let Some(upload_id) = subjects::controlled_upload(&message.subject) {
                shared.slots.tell(upload_id);
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
    tus::options,
    tus::options_of_one,
    tus::create,
    tus::head,
    tus::patch,
    tus::delete,
    tus::overridden,
    status::status,
    whole::receive
))]
pub(super) struct Described;

impl openapi::Describe for Described {
    fn define(schemas: &mut openapi::Schemas) {
        schemas.answer::<status::Document>();
        schemas.answer::<whole::Created>();
    }
}

/// The routes of uploads. They expect [`auth::Principal`] among the request's extensions.
pub fn router<S: Clone + Send + Sync + 'static>(state: State) -> Router<S> {
    let tus = Router::new()
        .route("/v1/uploads", post(tus::create).merge(options(tus::options)))
        .route(
            "/v1/uploads/{upload_id}",
            head(tus::head)
                .patch(tus::patch)
                .delete(tus::delete)
                .post(tus::overridden)
                .options(tus::options_of_one),
        )
        .route("/v1/uploads/{upload_id}/status", get(status::status))
        .layer(middleware::from_fn(resumable));
    Router::new().merge(tus).route("/v1/media", post(whole::receive)).with_state(state)
}

async fn resumable(request: Request, next: Next) -> Response {
    let is_options = request.method() == Method::OPTIONS;
    let mut response = next.run(request).await;
    if !is_options {
        web::heads::name_tus_version(response.headers_mut());
    }
    response.headers_mut().insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    response
}

impl Shared {
    /// Runs a request to its end even when its connection goes away, and refuses politely.
    async fn detached<F>(self: &Arc<Self>, work: F) -> Result<Response, Refusal>
    where
        F: Future<Output = Result<Response, Refusal>> + Send + 'static,
    {
        if self.stopping.is_cancelled() {
            return Err(Refusal::Stopping);
        }
        // Without its marker the store is away: nothing is made, judged or ended on the strength of what is not there.
        self.store.verify().await?;
        match self.tasks.spawn(Box::pin(work)).await {
            Ok(outcome) => outcome,
            Err(error) => {
                tracing::error!(%error, "an upload request ended in a panic");
                Err(Refusal::Stopping)
            }
        }
    }

    /// Reads and drops a bounded rest of the body, so that the client reads the refusal instead of a reset.
    async fn drain(&self, headers: &HeaderMap, body: &mut Body) {
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
        tokio::time::timeout(self.config.drain(), dropping).await.ok();
    }
}

fn parse_id(text: &str) -> Result<UploadId, Refusal> {
    text.parse().map_err(|_| Refusal::NotFound)
}

//! `Idempotency-Key` on requests that make something: a repeated request is answered as the first was, not done again.
//!
//! As in draft-ietf-httpapi-idempotency-key-header: the same key with another request is 422, while the first is still worked on
//! 409, afterwards its answer comes again, marked `Idempotency-Replayed: true`, for `keep_s` (24 hours). A key belongs to one
//! principal and one route. Answers that are no result (5xx, 408, 409, 425, 429) free the key, and so does a panic. A client that goes
//! away stops nothing: its request is done, and the answer kept for its repetition. When the replica that worked on it died, the next
//! repetition does the request; a handler that makes its ids from [`IdempotencyClaim::derive_id`] then finds what was made already.
//!
//! An answer with a secret in it is not kept: its handler marks it [`ShownOnceResponse`], and a repetition is answered that the
//! request was done.
//!
//! The bucket `idempotency` decides, so replicas agree; when it can't be read, the request is refused. Stands behind
//! authentication.
//!
//! Limits: a key of [`KEY_LENGTH_MAX`] characters; a body that is compared up to `body_bytes_max` (a larger one, or one that is no
//! JSON, is distinguished by its headers alone); an answer up to `answer_bytes_max`, a larger one is not kept and frees the key.

mod claim;
mod key;
#[cfg(test)]
mod tests;

use std::{collections::BTreeMap, panic::AssertUnwindSafe, sync::Arc};

use axum::{
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header, response},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::FutureExt;
use http_body_util::BodyExt;
use hyper::body::Body as _;
use nats::metrics::{labels::RepeatOutcome, table::REPEATED_REQUESTS};
use nats::{Bus, VersionedRecord, now_ms};
use schemars::JsonSchema;
use schemas::idempotency as record;
use serde::{Deserialize, Serialize};
use serde_bytes::ByteBuf;
use tokio_util::task::TaskTracker;

use claim::HeldClaim;
pub use key::KEY_LENGTH_MAX;

use super::{
    access_sums::CausedNoEvent,
    body,
    error::Problem,
    problem_code::ProblemCode,
    request::{self, RequestGrant, RequestOwner},
};

/// The key.
pub static IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Marks an answer that was given before.
pub static IDEMPOTENCY_REPLAYED: HeaderName = HeaderName::from_static("idempotency-replayed");

/// Most [`IdempotencyConfig::answer_bytes_max`], in bytes: the broker takes 1 MiB, with what else is kept of an answer.
const ANSWER_BYTES_CEILING: u64 = 768 * 1024;

/// How repeated requests are recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct IdempotencyConfig {
    /// How long an answer is kept, in seconds.
    pub keep_s: u64,
    /// How long a claim holds past its last renewal, in milliseconds: the wait after a replica died.
    pub claim_ms: u64,
    /// Largest body that is compared, in bytes.
    pub body_bytes_max: usize,
    /// Largest answer that is kept, in bytes.
    #[schemars(range(max = ANSWER_BYTES_CEILING))]
    pub answer_bytes_max: usize,
}

impl Default for IdempotencyConfig {
    fn default() -> Self {
        Self { keep_s: 24 * 3600, claim_ms: 15_000, body_bytes_max: 256 * 1024, answer_bytes_max: 64 * 1024 }
    }
}

/// What the layer needs. Cheap to clone.
#[derive(Debug, Clone)]
pub struct IdempotencyService {
    bus: Bus,
    config: Arc<IdempotencyConfig>,
    /// Requests that are worked on, their clients there or not.
    tasks: TaskTracker,
}

/// Among the extensions of a request that carries a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdempotencyClaim {
    digest: [u8; 32],
    made_at_ms: u64,
}

/// Among the extensions of an answer that must not be written down: what repetitions are answered in its place.
#[derive(Debug, Clone)]
pub struct ShownOnceResponse {
    /// What was done, and what to do when its answer was lost.
    pub detail: String,
}

impl ShownOnceResponse {
    /// 409: it was done, and is not done again.
    pub fn to_problem(&self) -> Problem {
        Problem::new(ProblemCode::AnswerShownOnce).with_detail(&self.detail)
    }
}

impl IdempotencyClaim {
    /// A UUIDv7 that is the same for every repetition of this request: what is made under an id of it is made once. Its time is
    /// that of the first request, its random bits are a digest of principal, route and key. Where what was made may end and be made
    /// again, `attempt` distinguishes the ids.
    pub fn derive_id(&self, attempt: u8) -> [u8; 16] {
        let mut id = [0; 16];
        let [_, _, time @ ..] = self.made_at_ms.to_be_bytes();
        for (to, from) in id.iter_mut().zip(time.iter().chain(&self.digest)) {
            *to = *from;
        }
        // Version and variant (RFC 9562, 5.7).
        id[6] = 0x70 | (id[6] & 0x0f);
        id[8] = 0x80 | (id[8] & 0x3f);
        id[15] = id[15].wrapping_add(attempt);
        id
    }
}

impl IdempotencyService {
    /// Keeps answers in the bucket `idempotency`.
    pub fn new(bus: Bus, config: IdempotencyConfig) -> Self {
        Self { bus, config: Arc::new(config), tasks: TaskTracker::new() }
    }

    /// Waits until no request is worked on any more, also of clients that went away: before a replica that takes no more requests ends.
    pub async fn finish_requests(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// Answers a POST that was answered before, and remembers the answer to one that was not. Others pass.
pub async fn deduplicate_request(
    State(keeper): State<IdempotencyService>,
    request: Request,
    next: Next,
) -> Response {
    match key::parse_key(request.headers()) {
        Ok(Some(key)) if *request.method() == Method::POST => {
            keeper.handle_request(&key, request, next).await.unwrap_or_else(IntoResponse::into_response)
        }
        Ok(_) => next.run(request).await,
        Err(problem) => problem.into_response(),
    }
}

impl IdempotencyService {
    async fn handle_request(&self, key: &str, request: Request, next: Next) -> Result<Response, Problem> {
        let owner = request.extensions().get::<RequestOwner>().ok_or_else(Problem::unauthorized)?.0.clone();
        let path = request.uri().path().to_owned();
        // With the owner: a key that somebody else guesses must not show the answer of another client.
        let mut texts = vec![&b"key"[..], owner.as_bytes(), path.as_bytes(), key.as_bytes()];
        // Who has a grant is somebody else than its owner, and than who has another one.
        let grant = request.extensions().get::<RequestGrant>().map(|grant| grant.0.clone());
        texts.extend(grant.as_ref().map(String::as_bytes));
        let digest = key::digest_texts(&texts);
        let (request, fingerprint) = self.fingerprint_request(request).await?;
        let keeper = self.clone();
        let work = async move { keeper.answer_request(digest, &fingerprint, request, next).await };
        // In a task of its own, which goes on when the client goes away: what was begun is done, and its answer there for a repetition.
        self.tasks
            .spawn(request::with_current_id(work))
            .await
            .unwrap_or_else(|error| Err(Problem::internal(&error)))
    }

    /// Does the request and keeps its answer, or answers as it was answered before.
    async fn answer_request(
        &self,
        digest: [u8; 32],
        fingerprint: &[u8],
        mut request: Request,
        next: Next,
    ) -> Result<Response, Problem> {
        let claimed = self.claim_key(digest, fingerprint).await;
        REPEATED_REQUESTS.increment(match &claimed {
            Ok(IdempotencyClaimOutcome::Ours(_)) => RepeatOutcome::First,
            Ok(IdempotencyClaimOutcome::Answered(_)) => RepeatOutcome::Repeated,
            Err(_) => RepeatOutcome::Refused,
        });
        let mut claim = match claimed? {
            IdempotencyClaimOutcome::Ours(claim) => claim,
            IdempotencyClaimOutcome::Answered(response) => return Ok(response),
        };
        // From the record, not from the clock: a replica that takes over has to derive the same ids.
        let made_at_ms =
            claim.record().expires_at_ms.saturating_sub(self.config.keep_s.saturating_mul(1_000));
        request.extensions_mut().insert(IdempotencyClaim { digest, made_at_ms });
        // Caught here: a panic is no result and frees the key.
        let work = AssertUnwindSafe(next.run(request)).catch_unwind();
        let work = work.map(|outcome| outcome.unwrap_or_else(request::panic_response));
        let response = tokio::select! {
            response = work => response,
            never = claim.keep_renewed() => match never {},
        };
        self.keep_response(claim, response).await
    }

    /// What makes this request the same as another: method, target, what the body is, and the body as far as it is read.
    async fn fingerprint_request(&self, request: Request) -> Result<(Request, [u8; 32]), Problem> {
        let (parts, body) = request.into_parts();
        let length = body.size_hint().upper();
        let compared = body::is_json(&parts.headers)
            && length.is_none_or(|length| length <= u64::try_from(self.config.body_bytes_max).unwrap_or(0));
        let (bytes, body) = if compared {
            let of_request = body::BodyLimits::from_extensions(&parts.extensions);
            let limits = body::BodyLimits { bytes_max: self.config.body_bytes_max, ..of_request };
            let bytes = body::read_body(body, &limits).await?;
            (Some(bytes.clone()), Body::from(bytes))
        } else {
            (None, body)
        };
        let target = parts.uri.path_and_query().map_or("", |target| target.as_str());
        let header_lines: String = FINGERPRINTED
            .iter()
            .filter_map(|name| Some(format!("{name}:{}\n", parts.headers.get(*name)?.to_str().ok()?)))
            .collect();
        let fingerprint = key::digest_texts(&[
            parts.method.as_str().as_bytes(),
            target.as_bytes(),
            header_lines.as_bytes(),
            bytes.as_deref().unwrap_or_default(),
        ]);
        Ok((Request::from_parts(parts, body), fingerprint))
    }

    /// Claims the key, or finds the answer.
    async fn claim_key(
        &self,
        digest: [u8; 32],
        fingerprint: &[u8],
    ) -> Result<IdempotencyClaimOutcome, Problem> {
        let key = data_encoding::HEXLOWER.encode(&digest);
        let now = now_ms();
        let held = match self.bus.load_record::<record::IdempotencyRecord>(&key).await? {
            None => VersionedRecord::new(self.new_record(key, fingerprint, now)),
            // The broker drops late.
            Some(mut held) if held.record.expires_at_ms <= now => {
                held.record = self.new_record(key, fingerprint, now);
                held
            }
            Some(held) if held.record.fingerprint.as_slice() != fingerprint => return Err(key_mismatch()),
            Some(held) => match &held.record.state {
                record::IdempotencyState::Answered { status, headers, body } => {
                    return Ok(IdempotencyClaimOutcome::Answered(replay_response(*status, headers, body)));
                }
                record::IdempotencyState::Open { until_ms } if *until_ms > now => {
                    return Err(request_in_progress(*until_ms, now));
                }
                // Of a replica that died, or of a request that had no result.
                record::IdempotencyState::Open { .. } => held,
            },
        };
        match HeldClaim::begin(self.bus.clone(), held, self.config.claim_ms).await {
            Ok(claim) => Ok(IdempotencyClaimOutcome::Ours(Box::new(claim))),
            // Another repetition was first in this very moment.
            Err(nats::BusError::Conflict { .. }) => Err(request_in_progress(now + 1_000, now)),
            Err(error) => Err(error.into()),
        }
    }

    fn new_record(&self, key: String, fingerprint: &[u8], now: u64) -> record::IdempotencyRecord {
        record::IdempotencyRecord {
            key,
            fingerprint: ByteBuf::from(fingerprint.to_vec()),
            state: record::IdempotencyState::Open { until_ms: 0 },
            expires_at_ms: now.saturating_add(self.config.keep_s.saturating_mul(1_000)),
        }
    }

    /// Keeps the answer, or frees the key when it is no result or too large.
    async fn keep_response(&self, claim: Box<HeldClaim>, response: Response) -> Result<Response, Problem> {
        let (parts, body) = response.into_parts();
        // A secret is written nowhere: its repetition learns that it was made.
        if let Some(once) = parts.extensions.get::<ShownOnceResponse>() {
            let (replay_head, replay_body) = once.to_problem().into_response().into_parts();
            let bytes = replay_body.collect().await.map_err(|error| Problem::internal(&error))?.to_bytes();
            write_last_state(claim, answered_state(&replay_head, &bytes)).await;
            return Ok(Response::from_parts(parts, body));
        }
        let fits = body
            .size_hint()
            .upper()
            .is_some_and(|size| size <= u64::try_from(self.config.answer_bytes_max).unwrap_or(0));
        let (body, kept) = if fits && is_result(&parts) {
            let bytes = body.collect().await.map_err(|error| Problem::internal(&error))?.to_bytes();
            (Body::from(bytes.clone()), Some(bytes))
        } else {
            (body, None)
        };
        // What is not final or too large frees the key at once: its repetition is the request itself.
        let state = kept
            .map_or(record::IdempotencyState::Open { until_ms: 0 }, |bytes| answered_state(&parts, &bytes));
        write_last_state(claim, state).await;
        Ok(Response::from_parts(parts, body))
    }
}

async fn write_last_state(mut claim: Box<HeldClaim>, state: record::IdempotencyState) {
    if let Err(error) = claim.write_state(state).await {
        // What was done is done; a repetition waits for the claim to end and then does it again.
        tracing::warn!(%error, "an answer could not be kept under its idempotency key");
    }
}

fn answered_state(parts: &response::Parts, body: &[u8]) -> record::IdempotencyState {
    record::IdempotencyState::Answered {
        status: parts.status.as_u16(),
        headers: kept_headers(&parts.headers),
        body: ByteBuf::from(body.to_vec()),
    }
}

enum IdempotencyClaimOutcome {
    Ours(Box<HeldClaim>),
    Answered(Response),
}

/// Headers that make a different request of the same target and body.
const FINGERPRINTED: [&str; 12] = [
    "content-type",
    "content-length",
    "content-digest",
    "content-disposition",
    "repr-digest",
    "upload-complete",
    "upload-concat",
    "upload-defer-length",
    "upload-draft-interop-version",
    "upload-incomplete",
    "upload-length",
    "upload-metadata",
];

/// Headers that are kept with an answer: those that depend neither on the replica nor on the time.
const KEPT: [HeaderName; 13] = [
    header::CONTENT_TYPE,
    header::LOCATION,
    header::ETAG,
    header::CACHE_CONTROL,
    header::ALLOW,
    HeaderName::from_static("streamgate-media-id"),
    HeaderName::from_static("tus-resumable"),
    HeaderName::from_static("tus-version"),
    HeaderName::from_static("upload-complete"),
    HeaderName::from_static("upload-draft-interop-version"),
    HeaderName::from_static("upload-incomplete"),
    HeaderName::from_static("upload-offset"),
    HeaderName::from_static("upload-expires"),
];

fn kept_headers(headers: &HeaderMap) -> BTreeMap<String, String> {
    let kept = KEPT
        .into_iter()
        .filter_map(|name| Some((name.as_str().to_owned(), headers.get(&name)?.to_str().ok()?.to_owned())));
    kept.collect()
}

/// A refusal that another time may not be one is no result: it must not be answered for as long as the key is kept.
fn is_result(answer: &response::Parts) -> bool {
    let may_pass = matches!(answer.status.as_u16(), 401 | 408 | 409 | 423 | 425 | 429);
    // Who was cut off has seen no answer, and comes again with the whole body.
    let is_cut = answer.extensions.get::<ProblemCode>() == Some(&ProblemCode::BodyCut);
    !answer.status.is_server_error() && !may_pass && !is_cut
}

fn replay_response(status: u16, headers: &BTreeMap<String, String>, body: &[u8]) -> Response {
    let mut response = Response::new(Body::from(body.to_vec()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap_or(StatusCode::OK);
    for (name, value) in headers {
        if let (Ok(name), Ok(value)) = (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(value))
        {
            response.headers_mut().insert(name, value);
        }
    }
    response.headers_mut().insert(&IDEMPOTENCY_REPLAYED, HeaderValue::from_static("true"));
    response.extensions_mut().insert(CausedNoEvent);
    response
}

fn key_mismatch() -> Problem {
    Problem::new(ProblemCode::IdempotencyMismatch).with_detail("use a fresh key for a new request")
}

fn request_in_progress(until_ms: u64, now: u64) -> Problem {
    let left_s = until_ms.saturating_sub(now).div_ceil(1_000).max(1);
    Problem::new(ProblemCode::IdempotencyInProgress).with_retry_after_s(left_s.min(2))
}

//! Links that sign in once, over HTTP.

use axum::{Extension, Json, extract::State, http::Method, http::StatusCode};
use schemars::JsonSchema;
use schemas::access::PrincipalRole;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::keys::{self, CreatedKeyDocument};
use crate::capacity;
use auth::{
    Principal, SignInService,
    link::{self, CODE_LENGTH_MAX, LinkOutcome},
};
use web::{
    body::OptionalJsonBody,
    error::Problem,
    idempotency::ShownOnceResponse,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    public_address::PublicAddress,
    request,
};

/// The code of a link.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LinkOpened", example = json!({ "code": "3f0c9d1e5b7a2c4d6e8f0a1b2c3d4e5f60718293" }))]
pub(super) struct OpenLinkRequest {
    /// What stands behind `#sign-in=` in the link.
    #[schemars(length(min = 1, max = CODE_LENGTH_MAX))]
    code: String,
}

/// A link that signs in once.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LinkMade", example = json!({
    "url": "https://media.example.org/#sign-in=3f0c9d1e5b7a2c4d6e8f0a1b2c3d4e5f60718293", "expires_at_ms": 1_763_901_414_467_u64,
}))]
pub(super) struct CreatedLinkDocument {
    /// The address of the library with the code: shown this once, and kept nowhere.
    url: String,
    /// Unix time in milliseconds from which on it opens nothing.
    expires_at_ms: u64,
}

pub(super) static CREATE_LINK: Operation = Operation::change(
    Method::POST,
    "/v1/auth/me/links",
    OperationAccess::Own,
    Some(RateLimitGroup::Auth),
    &["auth.link_created"],
)
.with_room(capacity::CHALLENGE);

/// Make a link that signs oneself in once
///
/// For another device or browser: it opens the library at `/` for ten minutes, and the key of it is good for a day. Who may make API
/// keys may make links.
#[utoipa::path(
    post,
    path = CREATE_LINK.path,
    tag = "auth",
    operation_id = "create_link",
    params(("Idempotency-Key", Header)),
    responses(
        (status = 201, description = "The link", body = ref("#/components/schemas/LinkMade")),
        (status = 403, description = "Not for whoever asks: `code` says why"),
        (status = 409, description = "The link was made and shown before"),
    ),
)]
pub(super) async fn create_link(
    State(sign_in): State<SignInService>,
    who: Principal,
    address: PublicAddress,
) -> Result<(StatusCode, Extension<ShownOnceResponse>, Json<CreatedLinkDocument>), Problem> {
    if !keys::may_manage_keys(&who) {
        return Err(keys::wallet_required());
    }
    // What outlives the session is given to whom the account stands by now.
    sign_in.require_fresh_proof(&who).await?;
    let by = (who.owner.as_str(), request::current_or_fresh_id());
    let code = link::create_sign_in_link(sign_in.bus(), &who.owner, PrincipalRole::Owner, by).await?;
    let expires_at_ms = nats::now_ms().saturating_add(link::LINK_TTL_S * 1_000);
    let url = format!("{}/#sign-in={code}", address.absolute_prefix());
    let once =
        ShownOnceResponse { detail: "the link was made; if its text was lost, make another".to_owned() };
    Ok((StatusCode::CREATED, Extension(once), Json(CreatedLinkDocument { url, expires_at_ms })))
}

pub(super) static OPEN_LINK: Operation = Operation::change(
    Method::POST,
    "/v1/auth/links",
    OperationAccess::Open,
    Some(RateLimitGroup::Auth),
    &["auth.key_created", "auth.key_revoked"],
)
.with_room(capacity::LINK);

/// Exchange a sign-in link for an API key
///
/// `streamgate up` prints such a link when it starts. It is good once, for ten minutes; the key of it is good for a day. Keys of
/// earlier links that have expired are revoked.
#[utoipa::path(
    post,
    path = OPEN_LINK.path,
    tag = "auth",
    operation_id = "open_link",
    request_body(content = ref("#/components/schemas/LinkOpened"), content_type = "application/json"),
    responses(
        (status = 201, description = "The key", body = ref("#/components/schemas/KeyMade")),
        (status = 401, description = "The link was used, or its time is over"),
        (status = 409, description = "This owner has as many keys as it may have"),
    ),
)]
pub(super) async fn open_link(
    State(sign_in): State<SignInService>,
    OptionalJsonBody(wanted): OptionalJsonBody<OpenLinkRequest>,
) -> Result<(StatusCode, Json<CreatedKeyDocument>), Problem> {
    let keys_max = sign_in.config().keys_per_owner_max;
    let request_id = request::current_or_fresh_id();
    match link::open_sign_in_link(sign_in.bus(), &wanted.code, keys_max, request_id).await? {
        LinkOutcome::Key { key_id, text, expires_at_ms } => Ok((
            StatusCode::CREATED,
            Json(CreatedKeyDocument { key_id, key: text, expires_at_ms: Some(expires_at_ms) }),
        )),
        LinkOutcome::Refused => Err(Problem::new(ProblemCode::LinkUsed)),
        LinkOutcome::TooMany => Err(Problem::new(ProblemCode::TooManyKeys)),
    }
}

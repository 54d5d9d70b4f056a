//! Links that sign in once, over HTTP.

use axum::{Json, extract::State, http::Method, http::StatusCode};
use schemars::JsonSchema;
use serde::Deserialize;
use serde_json::json;

use super::keys::CreatedKeyDocument;
use crate::capacity;
use auth::{
    SignInService,
    link::{self, CODE_LENGTH_MAX, LinkOutcome},
};
use web::{
    body::OptionalJsonBody,
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
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

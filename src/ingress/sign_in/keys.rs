//! API keys over HTTP.

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::Method,
    http::StatusCode,
};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::{ApiKey, ApiKeyScope, PrincipalRole},
    ids::KeyId,
    value::EmailAddress,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::capacity;
use crate::openapi;
use auth::{
    NewApiKey, Principal, SignInService,
    key::{self, KeyIssueOutcome},
};
use web::{
    body::OptionalJsonBody,
    error::Problem,
    idempotency::{IdempotencyClaim, ShownOnceResponse},
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    query::QueryParameters,
    request,
};

/// Longest label of a key in characters.
pub const LABEL_LENGTH_MAX: usize = 100;
/// Longest owner's text an administrator may make a key for, in characters.
const OWNER_LENGTH_MAX: usize = 128;

/// Longest life of a key in seconds: ten years.
pub const EXPIRES_IN_S_MAX: u64 = 10 * 365 * 24 * 3_600;

/// What a new key is to be.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "KeyWanted", example = json!({ "label": "encoder in the cellar", "scopes": ["upload"], "expires_in_s": 2_592_000 }))]
pub(super) struct CreateKeyRequest {
    /// The owner's own word for it: plain text.
    #[schemars(regex(pattern = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$"), length(min = 1, max = LABEL_LENGTH_MAX))]
    label: Option<String>,
    /// Whom to write to when it has to be changed: stands in the list of keys, and in no event.
    contact_email: Option<EmailAddress>,
    /// The groups of endpoints it is limited to; everywhere when absent.
    scopes: Option<Vec<ApiKeyScope>>,
    /// What it may do; only an administrator asks for more than `owner`.
    role: Option<PrincipalRole>,
    /// Whose things it works on; only an administrator names somebody else.
    #[schemars(regex(pattern = "^[ -~]*$"), length(min = 1, max = OWNER_LENGTH_MAX))]
    owner: Option<String>,
    /// How long it is good; for ever when absent.
    #[schemars(range(max = EXPIRES_IN_S_MAX))]
    expires_in_s: Option<u64>,
}

/// A new key.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "KeyMade", example = json!({ "key_id": "06db000105t0303jc5mn0r355k", "key": "sg_06db000105t0303jc5mn0r355k_...", "expires_at_ms": null }))]
pub(super) struct CreatedKeyDocument {
    /// Its public half.
    pub(super) key_id: KeyId,
    /// The key itself: shown this once, and kept nowhere.
    pub(super) key: String,
    /// Unix time in milliseconds from which on it opens nothing.
    pub(super) expires_at_ms: Option<u64>,
}

pub(super) static CREATE_KEY: Operation = Operation::change(
    Method::POST,
    "/v1/auth/keys",
    OperationAccess::Own,
    Some(RateLimitGroup::Auth),
    &["auth.key_created"],
)
.with_room(capacity::KEY);

/// Make an API key
#[utoipa::path(
    post,
    path = CREATE_KEY.path,
    tag = "auth",
    operation_id = "create_key",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/KeyWanted"), content_type = "application/json"),
    responses(
        (status = 201, description = "The key", body = ref("#/components/schemas/KeyMade")),
        (status = 403, description = "Not for whoever asks: `code` says why"),
        (status = 409, description = "This owner has as many keys as it may have; or the key was made and shown before"),
    ),
)]
pub(super) async fn create_key(
    State(sign_in): State<SignInService>,
    who: Principal,
    claim: Option<Extension<IdempotencyClaim>>,
    OptionalJsonBody(wanted): OptionalJsonBody<CreateKeyRequest>,
) -> Result<(StatusCode, Extension<ShownOnceResponse>, Json<CreatedKeyDocument>), Problem> {
    if !may_manage_keys(&who) {
        return Err(wallet_required());
    }
    let is_admin = who.role == PrincipalRole::Admin;
    let owner = wanted.owner.unwrap_or_else(|| who.owner.clone());
    let role = wanted.role.unwrap_or(PrincipalRole::Owner);
    if !is_admin && (owner != who.owner || role != PrincipalRole::Owner) {
        return Err(Problem::new(ProblemCode::NotYours)
            .with_detail("only an administrator makes keys for others or with more rights"));
    }
    let is_plain = |text: &str, length_max: usize| {
        !text.is_empty() && text.chars().count() <= length_max && !text.chars().any(char::is_control)
    };
    if !is_plain(&owner, OWNER_LENGTH_MAX) || !owner.is_ascii() {
        let detail = format!("an owner has 1 to {OWNER_LENGTH_MAX} visible characters of ASCII");
        return Err(Problem::new(ProblemCode::OwnerInvalid).with_pointer("/owner", detail));
    }
    if wanted.label.as_deref().is_some_and(|label| !is_plain(label, LABEL_LENGTH_MAX)) {
        let detail = format!("a label has 1 to {LABEL_LENGTH_MAX} characters of plain text");
        return Err(Problem::new(ProblemCode::LabelInvalid).with_pointer("/label", detail));
    }
    if wanted.expires_in_s.is_some_and(|seconds| seconds > EXPIRES_IN_S_MAX) {
        let detail =
            format!("a key lives for {EXPIRES_IN_S_MAX} s at most; without it a key does not expire");
        return Err(Problem::new(ProblemCode::ExpiresInvalid).with_pointer("/expires_in_s", detail));
    }
    let expires_at_ms = wanted.expires_in_s.map(|s| nats::now_ms().saturating_add(s.saturating_mul(1_000)));
    let new = NewApiKey {
        owner,
        role,
        scopes: wanted.scopes,
        label: wanted.label,
        contact_email: wanted.contact_email,
        expires_at_ms,
    };
    let by = (who.owner.as_str(), request::current_or_fresh_id());
    // Of one request there is one key.
    // What outlives the session is given to whom the account stands by now.
    sign_in.require_fresh_proof(&who).await?;
    let key_id = KeyId::from_bytes(claim.map_or_else(nats::new_id_bytes, |claim| claim.derive_id(0)));
    let once = ShownOnceResponse {
        detail: format!("the key {key_id} was made; if its text was lost, revoke it and make another"),
    };
    match key::issue_key(sign_in.bus(), key_id, new, sign_in.config().keys_per_owner_max, by).await? {
        KeyIssueOutcome::Key(key) => Ok((
            StatusCode::CREATED,
            Extension(once),
            Json(CreatedKeyDocument { key_id, key, expires_at_ms }),
        )),
        KeyIssueOutcome::Before => Err(once.to_problem()),
        KeyIssueOutcome::TooMany => Err(Problem::new(ProblemCode::TooManyKeys)),
    }
}

/// Whose keys to list.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "Filter")]
pub(super) struct KeyListQuery {
    /// Whose; one's own when absent.
    owner: Option<String>,
}

openapi::query_parameters!(KeyListQuery);

/// The keys of an owner.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "KeyList", example = json!({ "items": [{
    "key_id": "06db000105t0303jc5mn0r355k", "owner": "admin", "role": "owner", "scopes": ["upload"], "label": "encoder in the cellar", "contact_email": "ann@example.org",
    "created_at_ms": 1_763_900_814_467_u64, "expires_at_ms": null,
}] }))]
pub(super) struct KeyListDocument {
    /// Oldest first, without those that were revoked.
    items: Vec<ApiKeyDocument>,
}

/// One key; its secret is shown nowhere.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "KeyItem")]
struct ApiKeyDocument {
    /// Its public half.
    key_id: KeyId,
    /// Whose things it works on.
    owner: String,
    /// What it may do.
    role: PrincipalRole,
    /// The groups of endpoints it is limited to; null for everywhere.
    scopes: Option<Vec<ApiKeyScope>>,
    /// The owner's own word for it.
    label: Option<String>,
    /// Whom to write to when it has to be changed.
    contact_email: Option<EmailAddress>,
    /// Unix time in milliseconds.
    created_at_ms: u64,
    /// Unix time in milliseconds from which on it opens nothing.
    expires_at_ms: Option<u64>,
}

pub(super) static LIST_KEYS: Operation =
    Operation::read("/v1/auth/keys", OperationAccess::Own, Some(RateLimitGroup::Auth));

/// List API keys
#[utoipa::path(
    get,
    path = LIST_KEYS.path,
    tag = "auth",
    operation_id = "list_keys",
    params(KeyListQuery),
    responses(
        (status = 200, description = "The keys", body = ref("#/components/schemas/KeyList")),
        (status = 403, description = "These are somebody else's"),
    ),
)]
pub(super) async fn list_keys(
    State(sign_in): State<SignInService>,
    who: Principal,
    QueryParameters(filter): QueryParameters<KeyListQuery>,
) -> Result<Json<KeyListDocument>, Problem> {
    let owner = filter.owner.unwrap_or_else(|| who.owner.clone());
    if who.scopes.is_some() || !who.may_see(&owner) {
        return Err(Problem::new(ProblemCode::NotYours));
    }
    let keys = key::list_keys(sign_in.bus(), &owner).await?;
    Ok(Json(KeyListDocument { items: keys.into_iter().map(describe_key).collect() }))
}

pub(super) static REVOKE_KEY: Operation = Operation::change(
    Method::DELETE,
    "/v1/auth/keys/{key_id}",
    OperationAccess::Own,
    Some(RateLimitGroup::Auth),
    &["auth.key_revoked"],
);

/// Revoke an API key
///
/// It opens nothing from now on: at once at the replica that answers this, within a second at every other one. Revoking it again changes
/// nothing.
#[utoipa::path(
    delete,
    path = REVOKE_KEY.path,
    tag = "auth",
    operation_id = "revoke_key",
    params(("key_id", Path)),
    responses((status = 204, description = "It is revoked")),
)]
pub(super) async fn revoke_key(
    State(sign_in): State<SignInService>,
    who: Principal,
    Path(key_id): Path<String>,
) -> Result<StatusCode, Problem> {
    if !may_manage_keys(&who) {
        return Err(wallet_required());
    }
    let missing = || Problem::not_found("there is no such key");
    let key_id: KeyId = key_id.parse().map_err(|_| missing())?;
    let may = |key: &ApiKey| who.may_change(&key.owner);
    if key::revoke_key(sign_in.bus(), key_id, may, (&who.owner, request::current_or_fresh_id())).await? {
        // Also where it was revoked before, elsewhere or by a request that got no answer: what is known of it here may be older.
        sign_in.note_write(ApiKey::BUCKET, &key_id.to_string());
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(missing())
    }
}

/// A stolen key must not make itself successors: people manage keys, signed in by their wallet, or administrators.
/// Who may make credentials that outlive the one that is shown: people, and administrators with all rights.
pub(super) fn may_manage_keys(who: &Principal) -> bool {
    let is_person = who.wallet.is_some() && who.role != PrincipalRole::Operator;
    let is_admin = who.role == PrincipalRole::Admin && who.scopes.is_none();
    is_person || is_admin
}

pub(super) fn wallet_required() -> Problem {
    Problem::new(ProblemCode::PersonNeeded)
}

fn describe_key(key: ApiKey) -> ApiKeyDocument {
    ApiKeyDocument {
        key_id: key.key_id,
        owner: key.owner,
        role: key.role,
        scopes: key.scopes,
        label: key.label,
        contact_email: key.contact_email,
        created_at_ms: key.created_at_ms,
        expires_at_ms: key.expires_at_ms,
    }
}

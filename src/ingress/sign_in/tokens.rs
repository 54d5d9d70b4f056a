//! Refresh, logout, verify, me.

use axum::{
    Extension, Json,
    extract::State,
    http::{Method, StatusCode},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{
    access::{ApiKeyScope, PrincipalRole},
    ids::{KeyId, SessionId},
    session::SessionEndReason,
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use auth::{
    Principal, SignInService, account::WalletAccount, address::WalletAddress, denial::SignInError,
    session::OpenSession,
};
use web::{
    access_sums::{AccessOutcome, RequestSender},
    body::OptionalJsonBody,
    client::ClientAddress,
    error::Problem,
    limit::RateLimitGroup,
    limit::RateLimitPermit,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    request,
};

/// An access token with its refresh token, as RFC 6749 section 5.1 names them.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = json!({
    "access_token": "eyJ...", "token_type": "Bearer", "expires_in": 600, "refresh_token": "...", "session_id": "06db00820lt0303jc5mn0r355k",
    "session_expires_at_ms": 1_763_900_814_467_u64, "wallet": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "chain_id": 1, "owner": "eip155:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", "role": "owner",
}))]
#[schemars(rename = "Tokens")]
pub(super) struct TokenResponse {
    /// Goes into `Authorization: Bearer ...`; good for minutes.
    access_token: String,
    /// `Bearer`.
    token_type: &'static str,
    /// Seconds for which the access token is good.
    expires_in: u64,
    /// Good for one `refresh`, which answers the next.
    refresh_token: String,
    /// The session.
    session_id: SessionId,
    /// Unix time in milliseconds at which the session ends, however often it is refreshed.
    session_expires_at_ms: u64,
    /// The wallet that signed in.
    wallet: WalletAddress,
    /// The chain it signed in on.
    chain_id: u64,
    /// Whose things it works on: `eip155:0x...` where the account's key signed, `eip155:<chain>:0x...` where its contract spoke for it.
    owner: String,
    /// What it may do.
    role: PrincipalRole,
}

/// The tokens of a session.
pub(super) fn token_response(
    sign_in: &SignInService,
    live: &OpenSession,
    refresh_token: String,
) -> Result<TokenResponse, SignInError> {
    let access_token = sign_in.sign_access_token(live)?;
    Ok(TokenResponse {
        access_token: access_token.text,
        token_type: "Bearer",
        expires_in: access_token.expires_in_s,
        refresh_token,
        session_id: live.session_id,
        session_expires_at_ms: live.expires_at_ms,
        wallet: live.account.address,
        chain_id: live.chain_id,
        owner: live.account.owner_id(),
        role: sign_in.role_of(live.account),
    })
}

/// The token of the session to go on with.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "RefreshWanted", example = json!({ "refresh_token": "..." }))]
pub(super) struct RefreshRequest {
    /// From the last sign-in or refresh.
    refresh_token: String,
}

pub(super) static REFRESH_SESSION: Operation = Operation::change(
    Method::POST,
    "/v1/auth/refresh",
    OperationAccess::Body,
    Some(RateLimitGroup::Auth),
    &["auth.refreshed", "auth.reused", "auth.signed_out"],
);

/// Take the next access token
///
/// A refresh token is good once: using it again ends the session, since one of its two holders stole it. For a few seconds the same
/// client is given the same next token again, so that two tabs and a lost answer sign nobody out.
#[utoipa::path(
    post,
    path = REFRESH_SESSION.path,
    tag = "auth",
    operation_id = "refresh",
    request_body(content = ref("#/components/schemas/RefreshWanted"), content_type = "application/json"),
    responses(
        (status = 200, description = "The tokens", body = ref("#/components/schemas/Tokens")),
        (status = 401, description = "The session is over"),
    ),
)]
pub(super) async fn refresh_session(
    State(sign_in): State<SignInService>,
    client: ClientAddress,
    ticket: RateLimitPermit,
    OptionalJsonBody(wanted): OptionalJsonBody<RefreshRequest>,
) -> Result<Json<TokenResponse>, Problem> {
    if let Some(session_id) = sign_in.sessions().session_of_token(&wanted.refresh_token) {
        ticket.admit_session(&session_id.to_string())?;
    }
    let (live, next) = sign_in
        .sessions()
        .refresh_session(&wanted.refresh_token, client.prefix, request::current_or_fresh_id())
        .await?;
    Ok(Json(token_response(&sign_in, &live, next)?))
}

/// Which sessions to end.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LogoutWanted", example = json!({ "all": true }))]
pub(super) struct LogoutRequest {
    /// True for all of the own sessions instead of this one.
    #[serde(default)]
    all: bool,
    /// All sessions of this wallet; another's only for an administrator, who means it on every chain.
    wallet: Option<WalletAddress>,
}

pub(super) static LOG_OUT: Operation = Operation::change(
    Method::POST,
    "/v1/auth/logout",
    OperationAccess::Own,
    Some(RateLimitGroup::Auth),
    &["auth.signed_out"],
);

/// Sign out
#[utoipa::path(
    post,
    path = LOG_OUT.path,
    tag = "auth",
    operation_id = "logout",
    request_body(content = ref("#/components/schemas/LogoutWanted"), content_type = "application/json"),
    responses(
        (status = 204, description = "The sessions are ended, on every replica within a second"),
        (status = 403, description = "Only an administrator ends another wallet's sessions"),
        (status = 409, description = "An API key has no session to end"),
    ),
)]
pub(super) async fn log_out(
    State(sign_in): State<SignInService>,
    who: Principal,
    OptionalJsonBody(wanted): OptionalJsonBody<LogoutRequest>,
) -> Result<StatusCode, Problem> {
    let sessions = sign_in.sessions();
    match (wanted.wallet, who.wallet, who.session_id) {
        (Some(wallet), own, _) if own.is_none_or(|own| own.address != wallet) => {
            if who.role != PrincipalRole::Admin || who.scopes.is_some() {
                return Err(Problem::new(ProblemCode::NotYours)
                    .with_detail("only an administrator ends another wallet's sessions"));
            }
            for account in possible_accounts(&sign_in, wallet) {
                sessions
                    .end_all_sessions(account, SessionEndReason::Revoked, request::current_or_fresh_id())
                    .await?;
            }
        }
        (named, Some(own), Some(_)) if wanted.all || named.is_some() => {
            sessions
                .end_all_sessions(own, SessionEndReason::SignedOut, request::current_or_fresh_id())
                .await?;
        }
        (_, _, Some(session_id)) => {
            sessions
                .end_session(session_id, SessionEndReason::SignedOut, request::current_or_fresh_id())
                .await?;
        }
        _ => return Err(Problem::new(ProblemCode::NoSession)),
    }
    Ok(StatusCode::NO_CONTENT)
}

/// The accounts that an address may be: that of its key, and that of a contract on each chain.
fn possible_accounts(sign_in: &SignInService, address: WalletAddress) -> Vec<WalletAccount> {
    let contracts =
        sign_in.config().chains.iter().map(|chain_id| WalletAccount::of_contract(address, *chain_id));
    std::iter::once(WalletAccount::of_key(address)).chain(contracts).collect()
}

/// The credential to look at.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "VerifyWanted", example = json!({ "token": "eyJ..." }))]
pub(super) struct VerifyTokenRequest {
    /// An access token or an API key.
    token: String,
}

/// Whether a credential is good, and whose it is.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = json!({ "active": false }))]
#[schemars(rename = "Verified")]
pub(super) struct VerifyTokenResponse {
    /// True when it opens something now.
    active: bool,
    #[serde(flatten)]
    who: Option<PrincipalDocument>,
}

pub(super) static VERIFY_TOKEN: Operation = Operation::change(
    Method::POST,
    "/v1/auth/verify",
    OperationAccess::Open,
    Some(RateLimitGroup::Auth),
    &[],
);

/// Ask whether a credential is good now
///
/// As RFC 7662 has it: what is not good is `active: false`, whatever the reason.
#[utoipa::path(
    post,
    path = VERIFY_TOKEN.path,
    tag = "auth",
    operation_id = "verify",
    request_body(content = ref("#/components/schemas/VerifyWanted"), content_type = "application/json"),
    responses((status = 200, description = "What it is worth", body = ref("#/components/schemas/Verified"))),
)]
pub(super) async fn verify_token(
    State(sign_in): State<SignInService>,
    OptionalJsonBody(wanted): OptionalJsonBody<VerifyTokenRequest>,
) -> Result<Response, Problem> {
    let who = sign_in.identify_credential(&wanted.token).await?.map(PrincipalDocument::from);
    let active = who.is_some();
    let answer = Json(VerifyTokenResponse { active, who });
    if active {
        return Ok((Extension(AccessOutcome("active")), answer).into_response());
    }
    let shown = RequestSender::Refused(auth::describe_credential(&wanted.token));
    Ok((Extension(AccessOutcome("inactive")), Extension(shown), answer).into_response())
}

/// Whose a credential is.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(example = json!({
    "owner": "eip155:0x5aaeb6053f3e94c9b9a09f33669435e7ef1beaed", "role": "owner", "wallet": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "session_id": "06db00820lt0303jc5mn0r355k", "key_id": null, "scopes": null,
}))]
#[schemars(rename = "Who")]
pub(super) struct PrincipalDocument {
    /// Whose things it works on; of a wallet `eip155:0x...` or, of a contract, `eip155:<chain>:0x...`, in lower case.
    owner: String,
    /// What it may do.
    role: PrincipalRole,
    /// The wallet that signed in.
    wallet: Option<WalletAddress>,
    /// Its session.
    session_id: Option<SessionId>,
    /// The API key, if it is one.
    key_id: Option<KeyId>,
    /// The groups of endpoints it is limited to; null for everywhere.
    scopes: Option<Vec<ApiKeyScope>>,
}

impl From<Principal> for PrincipalDocument {
    fn from(who: Principal) -> Self {
        // A grant says nothing of its owner.
        let Principal { owner, role, wallet, session_id, key_id, scopes, upload_grant: _ } = who;
        Self { owner, role, wallet: wallet.map(|account| account.address), session_id, key_id, scopes }
    }
}

pub(super) static READ_PRINCIPAL: Operation =
    Operation::read("/v1/auth/me", OperationAccess::Own, Some(RateLimitGroup::Auth));

/// Ask who one is
#[utoipa::path(
    get,
    path = READ_PRINCIPAL.path,
    tag = "auth",
    operation_id = "me",
    responses((status = 200, description = "Who is asking", body = ref("#/components/schemas/Who"))),
)]
pub(super) async fn read_principal(who: Principal) -> Json<PrincipalDocument> {
    Json(who.into())
}

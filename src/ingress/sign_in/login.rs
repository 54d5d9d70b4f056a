//! Challenge and login.

use alloy_primitives::hex;
use axum::{
    Json,
    extract::State,
    http::Method,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::{ids::ChallengeId, session::SignInChallenge};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::tokens;
use crate::capacity;
use auth::{
    SignInService,
    address::WalletAddress,
    challenge::{self, ChallengeOptions},
    claim::SignInClaims,
    config::{CHALLENGE_TTL_S_MAX, SIGNATURE_BYTES_MAX},
    denial::{SignInDenial, SignInError},
    login::SignInAttempt,
    typed::TypedSignIn,
    uri,
};
use web::{
    body::OptionalJsonBody,
    client::ClientAddress,
    error::Problem,
    limit::RateLimitGroup,
    limit::RateLimitPermit,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    request,
};

/// The cookie a challenge is bound to. Its prefix makes browsers take it over TLS (or loopback) and for this host only.
const COOKIE: &str = "__Host-streamgate-challenge";
/// Characters of the longest signature that is taken unless the settings say otherwise.
const SIGNATURE_LENGTH_MAX: usize = 2 + 2 * SIGNATURE_BYTES_MAX;
/// Hexadecimal digits in the cookie.
const COOKIE_LENGTH: usize = 64;

/// What to sign in for; each may be left open.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "ChallengeWanted", example = json!({ "address": "0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed", "chain_id": 1 }))]
pub(super) struct ChallengeRequest {
    /// The site; the first configured one when absent.
    domain: Option<String>,
    /// The account; with it the answer holds what its wallet can sign as it is.
    address: Option<WalletAddress>,
    /// The chain the account is looked up on.
    chain_id: Option<u64>,
    /// How long the challenge is to be good, in seconds, where signing takes long; as the settings say when absent.
    #[schemars(range(min = 1, max = CHALLENGE_TTL_S_MAX))]
    ttl_s: Option<u64>,
}

/// A challenge, and what to sign.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Challenge", example = json!({ "nonce": "c4g76obde1m6a83fcog6srrecc", "domain": "media.example.org", "expires_at_ms": 1_763_900_814_467_u64, "chains": [1] }))]
pub(super) struct ChallengeDocument {
    /// Good for one attempt.
    nonce: ChallengeId,
    /// The site it is for.
    domain: String,
    /// Unix time in milliseconds from which on it is worth nothing.
    expires_at_ms: u64,
    /// Chains an account may be looked up on.
    chains: Vec<u64>,
    #[serde(flatten)]
    forms: Option<SigningForms>,
}

/// What the wallet of a named account can be given to sign as it is.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Forms")]
struct SigningForms {
    /// The text of ERC-4361, for `personal_sign`.
    message: String,
    /// The same for `eth_signTypedData_v4` (EIP-712).
    #[schemars(with = "Map<String, Value>")]
    typed_data: Value,
    /// Its values, for `login`.
    typed: TypedSignIn,
}

pub(super) static CREATE_CHALLENGE: Operation = Operation::change(
    Method::POST,
    "/v1/auth/challenge",
    OperationAccess::Open,
    Some(RateLimitGroup::Auth),
    &["auth.challenged"],
)
.with_room(capacity::CHALLENGE);

/// Ask for a challenge
///
/// Sets the cookie it is bound to, so that nobody signs somebody else in.
#[utoipa::path(
    post,
    path = CREATE_CHALLENGE.path,
    tag = "auth",
    operation_id = "challenge",
    request_body(content = ref("#/components/schemas/ChallengeWanted"), content_type = "application/json"),
    responses(
        (status = 201, description = "The challenge", body = ref("#/components/schemas/Challenge"), headers(("Set-Cookie"))),
        (status = 400, description = "No challenge is good for that long"),
        (status = 401, description = "The site or the chain is not served here"),
    ),
)]
pub(super) async fn create_challenge(
    State(sign_in): State<SignInService>,
    client: ClientAddress,
    headers: HeaderMap,
    OptionalJsonBody(ask): OptionalJsonBody<ChallengeRequest>,
) -> Result<Response, Problem> {
    let wish = resolve_request(&sign_in, ask)?;
    // A browser with two sign-ins under way keeps one cookie for both.
    let cookie =
        challenge_cookie(&headers).map_or_else(|| hex::encode(rand::random::<[u8; 32]>()), str::to_owned);
    let given = challenge::issue_challenge(
        sign_in.bus(),
        sign_in.config(),
        (&wish, &cookie, client),
        request::current_or_fresh_id(),
    )
    .await?;
    let challenge = match given {
        challenge::ChallengeOutcome::Challenge(challenge) => challenge,
        challenge::ChallengeOutcome::TooMany { retry_after_s } => {
            return Err(Problem::new(ProblemCode::TooManyChallenges).with_retry_after_s(retry_after_s));
        }
    };
    // Of two challenges the cookie outlives the longer one.
    let max_age_s = sign_in.config().challenge_ttl_s.max(CHALLENGE_TTL_S_MAX);
    let set = format!("{COOKIE}={cookie}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Strict");
    Ok((
        StatusCode::CREATED,
        [(header::SET_COOKIE, set)],
        Json(challenge_document(&sign_in, &challenge, wish.address)),
    )
        .into_response())
}

/// The answer to a refusal; that of a chain names those that are taken.
fn denial_problem(sign_in: &SignInService, denial: SignInDenial) -> Problem {
    let is_chain = matches!(denial, SignInDenial::Chain);
    let problem = Problem::from(denial);
    if is_chain { problem.with_member("chains", json!(sign_in.offered_chains())) } else { problem }
}

fn resolve_request(sign_in: &SignInService, ask: ChallengeRequest) -> Result<ChallengeOptions, Problem> {
    let config = sign_in.config();
    let first = config.domains.first().ok_or(SignInDenial::NoSite)?;
    let domain = ask.domain.unwrap_or_else(|| first.clone());
    if !config.domains.contains(&domain) {
        return Err(SignInDenial::Domain.into());
    }
    if ask.chain_id.is_some_and(|chain_id| !config.chains.contains(&chain_id)) {
        return Err(denial_problem(sign_in, SignInDenial::Chain));
    }
    if ask.ttl_s.is_some_and(|ttl_s| !(1..=CHALLENGE_TTL_S_MAX).contains(&ttl_s)) {
        let detail = format!("a challenge is good for 1 to {CHALLENGE_TTL_S_MAX} s");
        return Err(Problem::new(ProblemCode::JsonInvalid).with_pointer("/ttl_s", detail));
    }
    let ttl_s = ask.ttl_s.unwrap_or(config.challenge_ttl_s);
    Ok(ChallengeOptions { domain, address: ask.address, chain_id: ask.chain_id, ttl_s })
}

/// The nonce, and where the account is known, what its wallet can be given to sign as it is.
fn challenge_document(
    sign_in: &SignInService,
    challenge: &SignInChallenge,
    address: Option<WalletAddress>,
) -> ChallengeDocument {
    let config = sign_in.config();
    let forms = address.map(|account| {
        let chain_id = challenge.chain_id.or_else(|| sign_in.offered_chains().first().copied()).unwrap_or(1);
        let scheme = if uri::is_loopback(&challenge.domain) { "http" } else { "https" };
        let typed = TypedSignIn {
            domain: challenge.domain.clone(),
            account,
            statement: config.statement.clone(),
            uri: format!("{scheme}://{}/", challenge.domain),
            chain_id,
            nonce: challenge.challenge_id.to_string(),
            issued_at_s: challenge.created_at_ms / 1_000,
            expires_at_s: challenge.expires_at_ms / 1_000,
        };
        SigningForms { message: typed.to_message(), typed_data: typed.to_json(), typed }
    });
    ChallengeDocument {
        nonce: challenge.challenge_id,
        domain: challenge.domain.clone(),
        expires_at_ms: challenge.expires_at_ms,
        chains: sign_in.offered_chains().to_vec(),
        forms,
    }
}

/// A signed message: as text, or as the values of the typed structure.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "LoginWanted", extend("oneOf" = [{ "required": ["message"] }, { "required": ["typed"] }]), example = json!({
    "message": "media.example.org wants you to sign in with your Ethereum account:\n0x5aAeb6053F3E94C9b9A09f33669435E7Ef1BeAed\n\n\n\
                URI: https://media.example.org/\nVersion: 1\nChain ID: 1\nNonce: c4g76obde1m6a83fcog6srrecc\n\
                Issued At: 2025-11-23T12:26:54Z",
    "signature": "0x00",
}))]
pub(super) struct LoginRequest {
    /// The text of ERC-4361 as it was signed.
    #[serde(default)]
    #[schemars(with = "String", extend("format" = "erc4361"))]
    message: Option<String>,
    /// The values that were signed as EIP-712 has it.
    #[serde(default)]
    #[schemars(with = "TypedSignIn")]
    typed: Option<TypedSignIn>,
    /// The signature: `0x` and hexadecimal digits, two a byte; none of them where the account's owners agreed on the chain.
    #[schemars(with = "SignatureSchema")]
    signature: String,
}

/// How a signature is described.
struct SignatureSchema;

impl JsonSchema for SignatureSchema {
    fn inline_schema() -> bool {
        true
    }
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Signature".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "oneOf": [
            { "type": "string", "pattern": "^0x([0-9a-fA-F]{2})+$", "maxLength": SIGNATURE_LENGTH_MAX },
            { "const": "0x" },
        ] })
    }
}

pub(super) static LOG_IN: Operation = Operation::change(
    Method::POST,
    "/v1/auth/login",
    OperationAccess::Body,
    Some(RateLimitGroup::Auth),
    &["auth.signed_in", "auth.signed_out", "auth.refused"],
)
.with_room(capacity::SIGN_IN);

/// Sign in
///
/// Takes the signed message and the cookie of its challenge. An answer of 201 or 401 uses the challenge up; after 429 and 503 it is
/// good still. A signature that the account's own key made opens `eip155:0x...`; one that only its contract takes opens
/// `eip155:<chain>:0x...`, which is another owner.
#[utoipa::path(
    post,
    path = LOG_IN.path,
    tag = "auth",
    operation_id = "login",
    request_body(content = ref("#/components/schemas/LoginWanted"), content_type = "application/json"),
    responses(
        (status = 201, description = "A session", body = ref("#/components/schemas/Tokens"), headers(("Set-Cookie"))),
        (status = 401, description = "The sign-in was refused: `code` says why"),
        (status = 429, description = "Too many signatures that no key made"),
    ),
)]
pub(super) async fn log_in(
    State(sign_in): State<SignInService>,
    client: ClientAddress,
    ticket: RateLimitPermit,
    headers: HeaderMap,
    OptionalJsonBody(attempt): OptionalJsonBody<LoginRequest>,
) -> Result<Response, Problem> {
    let claim = match (&attempt.message, &attempt.typed) {
        (Some(text), None) => SignInClaims::from_message(text)?,
        (None, Some(values)) => SignInClaims::from_typed_data(values)?,
        _ => {
            return Err(
                SignInDenial::Malformed("either a message or a typed structure is needed".into()).into()
            );
        }
    };
    let signature = sign_in.decode_signature(&attempt.signature)?;
    let turn = ticket.wait_for_lookup().await?;
    let mut held = challenge::find_challenge(sign_in.bus(), &claim.nonce).await?;
    drop(turn);
    let attempt =
        SignInAttempt { claim: &claim, signature: &signature, client, cookie: challenge_cookie(&headers) };
    let opened = sign_in.open_session(attempt, &mut held, request::current_or_fresh_id()).await;
    let (live, refresh_token) = opened.map_err(|failure| match failure {
        SignInError::Denied(denial) => denial_problem(&sign_in, denial),
        failure => failure.into(),
    })?;
    let answer = tokens::token_response(&sign_in, &live, refresh_token)?;
    let gone = format!("{COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict");
    Ok((StatusCode::CREATED, [(header::SET_COOKIE, gone)], Json(answer)).into_response())
}

/// The challenge cookie, if it has our form.
fn challenge_cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = pairs
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(|(name, value)| (name == COOKIE).then_some(value));
    let value = values.next()?;
    let is_ours = value.len() == COOKIE_LENGTH && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_ours && values.next().is_none()).then_some(value)
}

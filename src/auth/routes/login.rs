//! Challenge and login.

use std::fmt::Write as _;

use alloy_primitives::hex;
use axum::{
    Json,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
};
use nats::Held;
use schemars::JsonSchema;
use schemas::{ids::ChallengeId, session::Challenge};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use super::tokens;
use crate::{
    auth::{
        Shared, SignIn,
        challenge::{self, Wish},
        claim::Claim,
        config::{CHALLENGE_TTL_S_MAX, SIGNATURE_BYTES_MAX},
        contract::{CallError, Question, Verdict, by_key},
        denial::{Denial, Failure},
        session::Proved,
        typed::Values,
        uri,
        value::Address,
    },
    ingress::{body::JsonOrNothing, client::Client, error::Problem, kind::Kind, limit::Ticket, request},
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
pub(super) struct Ask {
    /// The site; the first configured one when absent.
    domain: Option<String>,
    /// The account; with it the answer holds what its wallet can sign as it is.
    address: Option<Address>,
    /// The chain the account is looked up on.
    chain_id: Option<u64>,
    /// How long the challenge is to be good, in seconds, where signing takes long; as the settings say when absent.
    #[schemars(range(min = 1, max = CHALLENGE_TTL_S_MAX))]
    ttl_s: Option<u64>,
}

/// A challenge, and what to sign.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "Challenge", example = json!({ "nonce": "c4g76obde1m6a83fcog6srrecc", "domain": "media.example.org", "expires_at_ms": 1_763_900_814_467_u64, "chains": [1] }))]
pub(super) struct Given {
    /// Good for one attempt.
    nonce: ChallengeId,
    /// The site it is for.
    domain: String,
    /// Unix time in milliseconds from which on it is worth nothing.
    expires_at_ms: u64,
    /// Chains an account may be looked up on.
    chains: Vec<u64>,
    #[serde(flatten)]
    forms: Option<Forms>,
}

/// What the wallet of a named account can be given to sign as it is.
#[derive(Debug, Serialize, JsonSchema)]
struct Forms {
    /// The text of ERC-4361, for `personal_sign`.
    message: String,
    /// The same for `eth_signTypedData_v4` (EIP-712).
    #[schemars(with = "Map<String, Value>")]
    typed_data: Value,
    /// Its values, for `login`.
    typed: Values,
}

/// Ask for a challenge
///
/// Sets the cookie it is bound to, so that nobody signs somebody else in.
#[utoipa::path(
    post,
    path = "/v1/auth/challenge",
    tag = "auth",
    operation_id = "challenge",
    request_body(content = ref("#/components/schemas/ChallengeWanted"), content_type = "application/json"),
    responses(
        (status = 201, description = "The challenge", body = ref("#/components/schemas/Challenge"), headers(("Set-Cookie"))),
        (status = 400, description = "No challenge is good for that long"),
        (status = 401, description = "The site or the chain is not served here"),
    ),
    extensions(("x-events" = json!(["auth.challenged"]))),
)]
pub(super) async fn challenge(
    State(sign_in): State<SignIn>,
    client: Client,
    headers: HeaderMap,
    JsonOrNothing(ask): JsonOrNothing<Ask>,
) -> Result<Response, Problem> {
    let shared = &sign_in.shared;
    let wish = wish(shared, ask)?;
    // A browser with two sign-ins under way keeps one cookie for both.
    let cookie = cookie(&headers).map_or_else(|| hex::encode(rand::random::<[u8; 32]>()), str::to_owned);
    let given = challenge::give(&shared.bus, &shared.config, (&wish, &cookie, client), request::id()).await?;
    let challenge = match given {
        challenge::Outcome::Challenge(challenge) => challenge,
        challenge::Outcome::TooMany { retry_after_s } => {
            return Err(Problem::new(Kind::TooManyChallenges).retry_after_s(retry_after_s));
        }
    };
    // Of two challenges the cookie outlives the longer one.
    let max_age_s = shared.config.challenge_ttl_s.max(CHALLENGE_TTL_S_MAX);
    let set = format!("{COOKIE}={cookie}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Strict");
    Ok((StatusCode::CREATED, [(header::SET_COOKIE, set)], Json(to_sign(shared, &challenge, wish.address)))
        .into_response())
}

/// The answer to a refusal; that of a chain names those that are taken.
fn refusal(shared: &Shared, denial: Denial) -> Problem {
    let is_chain = matches!(denial, Denial::Chain);
    let problem = Problem::from(denial);
    if is_chain { problem.member("chains", json!(offered(shared))) } else { problem }
}

/// Chains that a challenge names.
fn offered(shared: &Shared) -> &[u64] {
    let config = &shared.config;
    if config.offered_chains.is_empty() { &config.chains } else { &config.offered_chains }
}

fn wish(shared: &Shared, ask: Ask) -> Result<Wish, Problem> {
    let config = &shared.config;
    let first = config.domains.first().ok_or(Denial::NoSite)?;
    let domain = ask.domain.unwrap_or_else(|| first.clone());
    if !config.domains.contains(&domain) {
        return Err(Denial::Domain.into());
    }
    if ask.chain_id.is_some_and(|chain_id| !config.chains.contains(&chain_id)) {
        return Err(refusal(shared, Denial::Chain));
    }
    if ask.ttl_s.is_some_and(|ttl_s| !(1..=CHALLENGE_TTL_S_MAX).contains(&ttl_s)) {
        let detail = format!("a challenge is good for 1 to {CHALLENGE_TTL_S_MAX} s");
        return Err(Problem::new(Kind::JsonInvalid).at("/ttl_s", detail));
    }
    let ttl_s = ask.ttl_s.unwrap_or(config.challenge_ttl_s);
    Ok(Wish { domain, address: ask.address, chain_id: ask.chain_id, ttl_s })
}

/// The nonce, and where the account is known, what its wallet can be given to sign as it is.
fn to_sign(shared: &Shared, challenge: &Challenge, address: Option<Address>) -> Given {
    let config = &shared.config;
    let forms = address.map(|account| {
        let chain_id = challenge.chain_id.or_else(|| offered(shared).first().copied()).unwrap_or(1);
        let scheme = if uri::is_loopback(&challenge.domain) { "http" } else { "https" };
        let typed = Values {
            domain: challenge.domain.clone(),
            account,
            statement: config.statement.clone(),
            uri: format!("{scheme}://{}/", challenge.domain),
            chain_id,
            nonce: challenge.challenge_id.to_string(),
            issued_at_s: challenge.created_at_ms / 1_000,
            expires_at_s: challenge.expires_at_ms / 1_000,
        };
        Forms { message: message_of(&typed), typed_data: typed.to_json(), typed }
    });
    Given {
        nonce: challenge.challenge_id,
        domain: challenge.domain.clone(),
        expires_at_ms: challenge.expires_at_ms,
        chains: offered(shared).to_vec(),
        forms,
    }
}

fn message_of(values: &Values) -> String {
    let time = |seconds: u64| {
        let seconds = i64::try_from(seconds).unwrap_or(i64::MAX);
        jiff::Timestamp::from_second(seconds).map(|time| time.to_string()).unwrap_or_default()
    };
    let mut text =
        format!("{} wants you to sign in with your Ethereum account:\n{}\n\n", values.domain, values.account);
    let statement = &values.statement;
    // Writing to a string does not fail.
    writeln!(text, "{statement}").ok();
    write!(
        text,
        "\nURI: {}\nVersion: 1\nChain ID: {}\nNonce: {}\nIssued At: {}\nExpiration Time: {}",
        values.uri,
        values.chain_id,
        values.nonce,
        time(values.issued_at_s),
        time(values.expires_at_s)
    )
    .ok();
    text
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
pub(super) struct Attempt {
    /// The text of ERC-4361 as it was signed.
    #[serde(default)]
    #[schemars(with = "String", extend("format" = "erc4361"))]
    message: Option<String>,
    /// The values that were signed as EIP-712 has it.
    #[serde(default)]
    #[schemars(with = "Values")]
    typed: Option<Values>,
    /// The signature: `0x` and hexadecimal digits, two a byte; none of them where the account's owners agreed on the chain.
    #[schemars(with = "Signature")]
    signature: String,
}

/// How a signature is described.
struct Signature;

impl JsonSchema for Signature {
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

/// Sign in
///
/// Takes the signed message and the cookie of its challenge. An answer of 201 or 401 uses the challenge up; after 429 and 503 it is
/// good still. A signature that the account's own key made opens `eip155:0x...`; one that only its contract takes opens
/// `eip155:<chain>:0x...`, which is another owner.
#[utoipa::path(
    post,
    path = "/v1/auth/login",
    tag = "auth",
    operation_id = "login",
    request_body(content = ref("#/components/schemas/LoginWanted"), content_type = "application/json"),
    responses(
        (status = 201, description = "A session", body = ref("#/components/schemas/Tokens"), headers(("Set-Cookie"))),
        (status = 401, description = "The sign-in was refused: `code` says why"),
        (status = 429, description = "Too many signatures that no key made"),
    ),
    extensions(("x-events" = json!(["auth.signed_in", "auth.signed_out", "auth.refused"]))),
)]
pub(super) async fn login(
    State(sign_in): State<SignIn>,
    client: Client,
    ticket: Ticket,
    headers: HeaderMap,
    JsonOrNothing(attempt): JsonOrNothing<Attempt>,
) -> Result<Response, Problem> {
    let shared = &sign_in.shared;
    let claim = match (&attempt.message, &attempt.typed) {
        (Some(text), None) => Claim::from_message(text)?,
        (None, Some(values)) => Claim::from_typed(values)?,
        _ => return Err(Denial::Malformed("either a message or a typed structure is needed".into()).into()),
    };
    let signature = signature_of(shared, &attempt.signature)?;
    let turn = ticket.look_up().await?;
    let mut held = challenge::find(&shared.bus, &claim.nonce).await?;
    drop(turn);
    let asker = Asker { client, cookie: cookie(&headers) };
    let proved = match judge(shared, &held, asker, &claim, &signature).await {
        Ok(proved) => proved,
        Err(Failure::Denied(denial)) => {
            challenge::refuse(&shared.bus, &mut held, &denial, (claim.address, request::id())).await?;
            return Err(refusal(shared, denial));
        }
        // Nothing is known of the attempt: the challenge stays good for the next.
        Err(failure) => return Err(failure.into()),
    };
    challenge::take(&shared.bus, &mut held).await?;
    let (live, refresh_token) = match shared.sessions.open(proved, request::id()).await {
        Ok(opened) => opened,
        Err(failure) => {
            if matches!(failure, Failure::Bus(_)) {
                challenge::give_back(&shared.bus, &mut held).await;
            }
            return Err(failure.into());
        }
    };
    let answer = tokens::answer(shared, live, refresh_token)?;
    let gone = format!("{COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict");
    Ok((StatusCode::CREATED, [(header::SET_COOKIE, gone)], Json(answer)).into_response())
}

/// Who attempts to sign in.
#[derive(Debug, Clone, Copy)]
struct Asker<'a> {
    client: Client,
    cookie: Option<&'a str>,
}

async fn judge<'a>(
    shared: &Shared,
    held: &Held<Challenge>,
    asker: Asker<'_>,
    claim: &Claim,
    signature: &'a [u8],
) -> Result<Proved<'a>, Failure> {
    if !challenge::is_bound(&held.record, asker.cookie) {
        return Err(Denial::ChallengeUnbound.into());
    }
    claim.check(&held.record, &shared.config, nats::now_ms())?;
    let (address, chain_id, digest) = (claim.address, claim.chain_id, claim.digest);
    let question = Question { account: address, chain_id, digest, signature };
    let at = tokio::time::Instant::now();
    let verdict = match by_key(question) {
        Verdict::Invalid => ask(shared, asker.client, question).await?,
        valid @ Verdict::Valid(_) => valid,
    };
    let is_checksummed = claim.is_checksummed;
    match verdict {
        Verdict::Valid(method) => {
            Ok(Proved { address, chain_id, method, is_checksummed, digest, signature, at })
        }
        Verdict::Invalid => Err(Denial::Signature.into()),
    }
}

/// Asks the account itself, at the cost of the client unless it says yes.
async fn ask(shared: &Shared, client: Client, question: Question<'_>) -> Result<Verdict, Failure> {
    let too_many = |retry_after| Failure::TooMany { retry_after };
    shared.budget.take(client.prefix, tokio::time::Instant::now()).map_err(too_many)?;
    let verdict = match shared.verifier.ask(question, None).await {
        Ok((verdict, _)) => verdict.unwrap_or(Verdict::Invalid),
        Err(CallError::Unsupported) => {
            shared.budget.give_back(client.prefix);
            return Ok(Verdict::Invalid);
        }
        Err(error) => return Err(error.into()),
    };
    if verdict != Verdict::Invalid {
        shared.budget.give_back(client.prefix);
    }
    Ok(verdict)
}

fn signature_of(shared: &Shared, text: &str) -> Result<Vec<u8>, Denial> {
    let malformed = |reason: &str| Denial::Malformed(format!("the signature {reason}"));
    let digits = text.strip_prefix("0x").ok_or_else(|| malformed("does not begin with 0x"))?;
    if digits.len() > shared.config.signature_bytes_max.saturating_mul(2) {
        return Err(malformed("is longer than its limit"));
    }
    // The decoder would take a second prefix.
    if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
        return Err(malformed("is not hexadecimal"));
    }
    hex::decode(digits).map_err(|_| malformed("has half a byte"))
}

/// The challenge cookie, if it has our form.
fn cookie(headers: &HeaderMap) -> Option<&str> {
    let pairs = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut values = pairs
        .flat_map(|line| line.split(';'))
        .filter_map(|pair| pair.trim().split_once('='))
        .filter_map(|(name, value)| (name == COOKIE).then_some(value));
    let value = values.next()?;
    let is_ours = value.len() == COOKIE_LENGTH && value.bytes().all(|byte| byte.is_ascii_hexdigit());
    (is_ours && values.next().is_none()).then_some(value)
}

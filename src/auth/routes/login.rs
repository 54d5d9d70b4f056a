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
use schemas::session::Challenge;
use serde::Deserialize;
use serde_json::{Value, json};

use super::{body::Body, tokens};
use crate::{
    auth::{
        Shared, SignIn,
        challenge::{self, Wish},
        claim::Claim,
        contract::{Question, Verdict},
        denial::{Denial, Failure},
        session::Proved,
        typed::Values,
        uri,
        value::Address,
    },
    ingress::{client::Client, error::Problem, request},
};

/// The cookie a challenge is bound to. Its prefix makes browsers take it over TLS (or loopback) and for this host only.
const COOKIE: &str = "__Host-streamgate-challenge";
/// Hexadecimal digits in the cookie.
const COOKIE_LENGTH: usize = 64;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Ask {
    domain: Option<String>,
    address: Option<Address>,
    chain_id: Option<u64>,
}

pub(super) async fn challenge(
    State(sign_in): State<SignIn>,
    client: Client,
    headers: HeaderMap,
    Body(ask): Body<Ask>,
) -> Result<Response, Problem> {
    let shared = &sign_in.shared;
    let wish = wish(shared, ask)?;
    // A browser with two sign-ins under way keeps one cookie for both.
    let cookie = cookie(&headers).map_or_else(|| hex::encode(rand::random::<[u8; 32]>()), str::to_owned);
    let given = challenge::give(&shared.bus, &shared.config, (&wish, &cookie, client), request::id()).await?;
    let Some(challenge) = given else {
        let title = "Too many challenges were asked for";
        return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "too_many_challenges", title)
            .retry_after_s(shared.config.challenge_ttl_s));
    };
    let max_age_s = shared.config.challenge_ttl_s;
    let set = format!("{COOKIE}={cookie}; Path=/; Max-Age={max_age_s}; Secure; HttpOnly; SameSite=Strict");
    Ok((StatusCode::CREATED, [(header::SET_COOKIE, set)], Json(to_sign(shared, &challenge, wish.address)))
        .into_response())
}

fn wish(shared: &Shared, ask: Ask) -> Result<Wish, Denial> {
    let config = &shared.config;
    let first = config.domains.first().ok_or(Denial::NoSite)?;
    let domain = ask.domain.unwrap_or_else(|| first.clone());
    if !config.domains.contains(&domain) {
        return Err(Denial::Domain);
    }
    if ask.chain_id.is_some_and(|chain_id| !config.chains.contains(&chain_id)) {
        return Err(Denial::Chain);
    }
    Ok(Wish { domain, address: ask.address, chain_id: ask.chain_id })
}

/// The nonce, and where the account is known, what its wallet can be given to sign as it is.
fn to_sign(shared: &Shared, challenge: &Challenge, address: Option<Address>) -> Value {
    let config = &shared.config;
    let mut answer = json!({
        "nonce": challenge.challenge_id,
        "domain": challenge.domain,
        "expires_at_ms": challenge.expires_at_ms,
        "chains": config.chains,
    });
    if let (Some(account), Some(members)) = (address, answer.as_object_mut()) {
        let chain_id = challenge.chain_id.or_else(|| config.chains.first().copied()).unwrap_or(1);
        let scheme = if uri::is_loopback(&challenge.domain) { "http" } else { "https" };
        let values = Values {
            domain: challenge.domain.clone(),
            account,
            statement: config.statement.clone(),
            uri: format!("{scheme}://{}/", challenge.domain),
            chain_id,
            nonce: challenge.challenge_id.to_string(),
            issued_at_s: challenge.created_at_ms / 1_000,
            expires_at_s: challenge.expires_at_ms / 1_000,
        };
        members.insert("message".into(), json!(message_of(&values)));
        members.insert("typed_data".into(), values.to_json());
        members.insert("typed".into(), json!(values));
    }
    answer
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

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attempt {
    message: Option<String>,
    typed: Option<Values>,
    signature: String,
}

pub(super) async fn login(
    State(sign_in): State<SignIn>,
    headers: HeaderMap,
    Body(attempt): Body<Attempt>,
) -> Result<Response, Problem> {
    let shared = &sign_in.shared;
    let claim = match (&attempt.message, &attempt.typed) {
        (Some(text), None) => Claim::from_message(text)?,
        (None, Some(values)) => Claim::from_typed(values)?,
        _ => return Err(Denial::Malformed("either a message or a typed structure is needed".into()).into()),
    };
    let signature = signature_of(shared, &attempt.signature)?;
    let mut held = challenge::take(&shared.bus, &claim.nonce).await?;
    let proved = match judge(shared, &held, cookie(&headers), &claim, &signature).await {
        Ok(proved) => proved,
        Err(Failure::Denied(denial)) => {
            challenge::refuse(&shared.bus, &mut held, &denial, (claim.address, request::id())).await?;
            return Err(denial.into());
        }
        Err(failure) => return Err(failure.into()),
    };
    let (live, refresh_token) = shared.sessions.open(proved, request::id()).await?;
    let answer = tokens::answer(shared, live, &refresh_token)?;
    let gone = format!("{COOKIE}=; Path=/; Max-Age=0; Secure; HttpOnly; SameSite=Strict");
    Ok((StatusCode::CREATED, [(header::SET_COOKIE, gone)], Json(answer)).into_response())
}

async fn judge<'a>(
    shared: &Shared,
    held: &Held<Challenge>,
    cookie: Option<&str>,
    claim: &Claim,
    signature: &'a [u8],
) -> Result<Proved<'a>, Failure> {
    if !challenge::is_bound(&held.record, cookie) {
        return Err(Denial::ChallengeUnbound.into());
    }
    claim.check(&held.record, &shared.config, nats::now_ms())?;
    let (address, chain_id, digest) = (claim.address, claim.chain_id, claim.digest);
    let question = Question { account: address, chain_id, digest, signature };
    match shared.verifier.verify(question).await? {
        Verdict::Valid(method) => {
            Ok(Proved { address, chain_id, method, is_checksummed: claim.is_checksummed, digest, signature })
        }
        Verdict::Invalid => Err(Denial::Signature.into()),
    }
}

fn signature_of(shared: &Shared, text: &str) -> Result<Vec<u8>, Denial> {
    let malformed = |reason: &str| Denial::Malformed(format!("the signature {reason}"));
    let digits = text.strip_prefix("0x").ok_or_else(|| malformed("does not begin with 0x"))?;
    if digits.len() > shared.config.signature_bytes_max.saturating_mul(2) {
        return Err(malformed("is longer than its limit"));
    }
    // The decoder would take a second prefix.
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
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

//! Refresh, logout, verify, me.

use axum::{Json, extract::State, http::StatusCode};
use schemas::{access::Role, ids::RequestId, session::End};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::Body;
use crate::{
    auth::{
        Principal, Shared, SignIn,
        denial::Failure,
        session::Live,
        token::{self, Claims},
        value::Address,
    },
    ingress::{error::Problem, request},
};

/// An access token with its refresh token, as RFC 6749 section 5.1 names them.
pub(super) fn answer(shared: &Shared, live: Live, refresh_token: &str) -> Result<Value, Failure> {
    let now_ms = nats::now_ms();
    let (issued_s, end_s) = (now_ms / 1_000, live.expires_at_ms / 1_000);
    let claims = Claims {
        iss: shared.config.issuer.clone(),
        aud: token::AUDIENCE.to_owned(),
        sub: live.address.owner(),
        exp: issued_s.saturating_add(shared.config.access_ttl_s).min(end_s),
        nbf: issued_s,
        iat: issued_s,
        jti: RequestId::from_bytes(nats::fresh_id()),
        sid: live.session_id,
    };
    let key = shared.ring.signing(now_ms).ok_or(Failure::NoKey)?;
    Ok(json!({
        "access_token": token::sign(&claims, &key)?,
        "token_type": "Bearer",
        "expires_in": claims.exp.saturating_sub(issued_s),
        "refresh_token": refresh_token,
        "session_id": live.session_id,
        "session_expires_at_ms": live.expires_at_ms,
        "wallet": live.address,
        "chain_id": live.chain_id,
        "owner": claims.sub,
        "role": shared.role(live.address),
    }))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Refresh {
    refresh_token: String,
}

pub(super) async fn refresh(
    State(sign_in): State<SignIn>,
    Body(wanted): Body<Refresh>,
) -> Result<Json<Value>, Problem> {
    let shared = &sign_in.shared;
    let (live, next) =
        shared.sessions.refresh(&wanted.refresh_token, &shared.verifier, request::id()).await?;
    Ok(Json(answer(shared, live, &next)?))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Logout {
    #[serde(default)]
    all: bool,
    wallet: Option<Address>,
}

pub(super) async fn logout(
    State(sign_in): State<SignIn>,
    who: Principal,
    Body(wanted): Body<Logout>,
) -> Result<StatusCode, Problem> {
    let sessions = &sign_in.shared.sessions;
    match (wanted.wallet, who.wallet, who.session_id) {
        (Some(wallet), own, _) if own != Some(wallet) => {
            if who.role != Role::Admin || who.scopes.is_some() {
                return Err(Problem::forbidden(
                    "not_yours",
                    "Only an administrator ends another wallet's sessions",
                ));
            }
            sessions.end_all(wallet, End::Revoked, request::id()).await?;
        }
        (named, Some(own), Some(_)) if wanted.all || named.is_some() => {
            sessions.end_all(own, End::SignedOut, request::id()).await?;
        }
        (_, _, Some(session_id)) => sessions.end(session_id, End::SignedOut, request::id()).await?,
        _ => return Err(Problem::bad_request("no_session", "An API key has no session to end")),
    }
    Ok(StatusCode::NO_CONTENT)
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Verify {
    token: String,
}

/// As RFC 7662 has it: what is not good is `active: false`, whatever the reason.
pub(super) async fn verify(
    State(sign_in): State<SignIn>,
    Body(wanted): Body<Verify>,
) -> Result<Json<Value>, Problem> {
    let found = sign_in.identify(&wanted.token).await?;
    Ok(Json(found.map_or_else(
        || json!({ "active": false }),
        |who| {
            let mut answer = describe(&who);
            if let Some(members) = answer.as_object_mut() {
                members.insert("active".into(), json!(true));
            }
            answer
        },
    )))
}

pub(super) async fn me(who: Principal) -> Json<Value> {
    Json(describe(&who))
}

fn describe(who: &Principal) -> Value {
    json!({
        "owner": who.owner,
        "role": who.role,
        "wallet": who.wallet,
        "session_id": who.session_id,
        "key_id": who.key_id,
        "scopes": who.scopes,
    })
}

//! API keys over HTTP.

use axum::{
    Json,
    extract::{Path, Query, State},
    http::StatusCode,
};
use schemas::access::{ApiKey, Role, Scope};
use serde::Deserialize;
use serde_json::{Value, json};

use super::body::Body;
use crate::{
    auth::{NewKey, Principal, SignIn, key},
    ingress::{error::Problem, request},
};

/// Longest label of a key in characters.
pub const LABEL_LENGTH_MAX: usize = 100;
/// Longest owner's text an administrator may make a key for, in characters.
const OWNER_LENGTH_MAX: usize = 128;

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Create {
    label: Option<String>,
    scopes: Option<Vec<Scope>>,
    role: Option<Role>,
    owner: Option<String>,
    expires_in_s: Option<u64>,
}

pub(super) async fn create(
    State(sign_in): State<SignIn>,
    who: Principal,
    Body(wanted): Body<Create>,
) -> Result<(StatusCode, Json<Value>), Problem> {
    if !may_manage(&who) {
        return Err(wallet_needed());
    }
    let is_admin = who.role == Role::Admin;
    let owner = wanted.owner.unwrap_or_else(|| who.owner.clone());
    let role = wanted.role.unwrap_or(Role::Owner);
    if !is_admin && (owner != who.owner || role != Role::Owner) {
        return Err(Problem::forbidden(
            "not_yours",
            "Only an administrator makes keys for others or with more rights",
        ));
    }
    let is_plain = |text: &str, length_max: usize| {
        !text.is_empty() && text.chars().count() <= length_max && !text.chars().any(char::is_control)
    };
    if !is_plain(&owner, OWNER_LENGTH_MAX) || !owner.is_ascii() {
        return Err(Problem::bad_request("owner_malformed", "This is no owner"));
    }
    if wanted.label.as_deref().is_some_and(|label| !is_plain(label, LABEL_LENGTH_MAX)) {
        return Err(Problem::bad_request("label_malformed", "A label is up to 100 characters of plain text"));
    }
    let expires_at_ms = wanted.expires_in_s.map(|s| nats::now_ms().saturating_add(s.saturating_mul(1_000)));
    let new = NewKey { owner, role, scopes: wanted.scopes, label: wanted.label, expires_at_ms };
    let shared = &sign_in.shared;
    let by = (who.owner.as_str(), request::id());
    let Some((key_id, text)) = key::issue(&shared.bus, new, shared.config.keys_per_owner_max, by).await?
    else {
        return Err(Problem::new(
            StatusCode::CONFLICT,
            "too_many_keys",
            "This owner has as many keys as it may have",
        ));
    };
    Ok((StatusCode::CREATED, Json(json!({ "key_id": key_id, "key": text, "expires_at_ms": expires_at_ms }))))
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Filter {
    owner: Option<String>,
}

pub(super) async fn list(
    State(sign_in): State<SignIn>,
    who: Principal,
    query: Result<Query<Filter>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Value>, Problem> {
    let Query(filter) = query.map_err(|error| {
        Problem::bad_request("query_malformed", "The query is not what this expects")
            .detail(error.body_text())
    })?;
    let owner = filter.owner.unwrap_or_else(|| who.owner.clone());
    if who.scopes.is_some() || !who.may_see(&owner) {
        return Err(Problem::forbidden("not_yours", "These are somebody else's keys"));
    }
    let keys = key::list(&sign_in.shared.bus, &owner).await?;
    Ok(Json(json!({ "items": keys.iter().map(describe).collect::<Vec<_>>() })))
}

pub(super) async fn revoke(
    State(sign_in): State<SignIn>,
    who: Principal,
    Path(key_id): Path<String>,
) -> Result<StatusCode, Problem> {
    if !may_manage(&who) {
        return Err(wallet_needed());
    }
    let missing = || Problem::not_found("There is no such key");
    let key_id = key_id.parse().map_err(|_| missing())?;
    let may = |key: &ApiKey| who.may_change(&key.owner);
    if key::revoke(&sign_in.shared.bus, key_id, may, (&who.owner, request::id())).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(missing())
    }
}

/// A stolen key must not make itself successors: people manage keys, signed in by their wallet, or administrators.
fn may_manage(who: &Principal) -> bool {
    let is_person = who.wallet.is_some() && who.role != Role::Operator;
    let is_admin = who.role == Role::Admin && who.scopes.is_none();
    is_person || is_admin
}

fn wallet_needed() -> Problem {
    Problem::forbidden("wallet_needed", "Keys are managed by a signed-in wallet or an administrator")
}

fn describe(key: &ApiKey) -> Value {
    json!({
        "key_id": key.key_id,
        "owner": key.owner,
        "role": key.role,
        "scopes": key.scopes,
        "label": key.label,
        "created_at_ms": key.created_at_ms,
        "expires_at_ms": key.expires_at_ms,
    })
}

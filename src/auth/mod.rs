//! Who is asking: API keys, and the signing keys that replicas share.
//!
//! An API key is `sg_<key id>_<secret>`: the id finds the record, the secret is 160 random bits of which only the SHA-256 is
//! stored. Keys are created once in KV, so that replicas agree.
//!
//! Limits: an `Authorization` header of more than [`KEY_LENGTH_MAX`] characters is refused unread.

pub mod chain;
pub mod gate;

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{HeaderMap, Method, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use data_encoding::HEXLOWER;
use nats::{Bus, Held, Outbox};
use schemas::{access, ids::KeyId};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use crate::ingress::error::Problem;

/// Longest key text in characters.
pub const KEY_LENGTH_MAX: usize = 128;
/// Owner of the key made at first start.
pub const FIRST_OWNER: &str = "admin";

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Whose media it works on.
    pub owner: String,
    /// What it may do.
    pub role: access::Role,
}

impl Principal {
    /// True when it may read and change what `owner` owns.
    pub fn may_change(&self, owner: &str) -> bool {
        self.role == access::Role::Admin || (self.role == access::Role::Owner && self.owner == owner)
    }

    /// True when it may see what `owner` owns.
    pub fn may_see(&self, owner: &str) -> bool {
        self.role != access::Role::Owner || self.owner == owner
    }

    /// The owner whose things a list shows; `None` for all.
    pub fn list_owner(&self) -> Option<String> {
        (self.role == access::Role::Owner).then(|| self.owner.clone())
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::unauthorized)
    }
}

/// Lets only known keys through; the handler finds the [`Principal`] among the request's extensions.
///
/// OPTIONS changes and shows nothing, and browsers send it without credentials.
pub async fn require(State(bus): State<Bus>, mut request: Request, next: Next) -> Response {
    if request.method() == Method::OPTIONS {
        return next.run(request).await;
    }
    match authenticate(&bus, request.headers()).await {
        Ok(principal) => {
            request.extensions_mut().insert(principal);
            next.run(request).await
        }
        Err(problem) => problem.into_response(),
    }
}

/// Finds out who sent these headers.
///
/// # Errors
/// 401 when there is no valid key; 503 when the keys can't be read: an unreadable store never lets anyone in.
pub async fn authenticate(bus: &Bus, headers: &HeaderMap) -> Result<Principal, Problem> {
    let text = headers
        .get(header::AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .filter(|text| text.len() <= KEY_LENGTH_MAX)
        .and_then(|text| text.strip_prefix("Bearer "))
        .ok_or_else(Problem::unauthorized)?;
    let (key_id, secret) = parse(text.trim()).ok_or_else(Problem::unauthorized)?;
    let held = bus.load::<access::ApiKey>(&key_id.to_string()).await?.ok_or_else(Problem::unauthorized)?;
    let stored = held.record.secret_sha256.as_slice();
    if bool::from(Sha256::digest(secret.as_bytes()).as_slice().ct_eq(stored)) {
        Ok(Principal { owner: held.record.owner, role: held.record.role })
    } else {
        Err(Problem::unauthorized())
    }
}

fn parse(text: &str) -> Option<(KeyId, &str)> {
    let (key_id, secret) = text.strip_prefix("sg_")?.split_once('_')?;
    Some((key_id.parse().ok()?, secret))
}

/// Makes an API key. The text is shown once and kept nowhere.
///
/// # Errors
/// As [`Bus::commit`].
pub async fn create_key(bus: &Bus, owner: &str, role: access::Role) -> Result<String, nats::Error> {
    let key_id = KeyId::from_bytes(nats::fresh_id());
    let secret = HEXLOWER.encode(&rand::random::<[u8; 20]>());
    let record = access::ApiKey {
        key_id,
        secret_sha256: ByteBuf::from(Sha256::digest(secret.as_bytes()).to_vec()),
        owner: owner.to_owned(),
        role,
        created_at_ms: nats::now_ms(),
    };
    let created = access::KeyCreated { key_id, owner: owner.to_owned(), role };
    bus.commit(&mut Held::new(record), Outbox::new().event(&created)).await?;
    Ok(format!("sg_{key_id}_{secret}"))
}

/// Makes the first API key, once in the life of the installation; `None` when there was one before.
///
/// The marker is written after the key, so a crash in between makes another key at the next start, and the lost one, whose text
/// nobody ever saw, opens nothing.
///
/// # Errors
/// As [`Bus::commit`].
pub async fn first_key(bus: &Bus) -> Result<Option<String>, nats::Error> {
    const MARKER: &str = "first-key-made";
    if bus.load::<access::Secret>(MARKER).await?.is_some() {
        return Ok(None);
    }
    let text = create_key(bus, FIRST_OWNER, access::Role::Admin).await?;
    let marker =
        access::Secret { name: MARKER.to_owned(), bytes: ByteBuf::new(), created_at_ms: nats::now_ms() };
    match bus.commit(&mut Held::new(marker), Outbox::new()).await {
        Ok(()) => Ok(Some(text)),
        // Another replica was first: its key is the one that is told.
        Err(nats::Error::Conflict { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The signing key `name`, created by whoever asks first; every replica gets the same.
///
/// # Errors
/// As [`Bus::change`].
pub async fn signing_key(bus: &Bus, name: &str) -> Result<Vec<u8>, nats::Error> {
    let fresh = ByteBuf::from(rand::random::<[u8; 32]>().to_vec());
    let held = bus
        .change::<access::Secret>(name, |found| {
            if found.is_some() {
                return None;
            }
            let secret =
                access::Secret { name: name.to_owned(), bytes: fresh.clone(), created_at_ms: nats::now_ms() };
            Some((secret, Outbox::new()))
        })
        .await?;
    held.map(|held| held.record.bytes.into_vec())
        .ok_or_else(|| nats::Error::Invalid { what: format!("signing key {name}") })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refuses_what_is_no_key() {
        for text in ["", "sg_", "sg__x", "sg_short_x", "Bearer", "sk_00000000000000000000000000_x"] {
            assert!(parse(text).is_none(), "{text}");
        }
        assert!(parse("sg_00000000000000000000000000_secret").is_some());
    }

    #[test]
    fn an_owner_sees_only_its_own() {
        let owner = Principal { owner: "ann".into(), role: access::Role::Owner };
        assert!(owner.may_see("ann") && owner.may_change("ann"));
        assert!(!owner.may_see("bob") && !owner.may_change("bob"));
        let operator = Principal { owner: "ops".into(), role: access::Role::Operator };
        assert!(operator.may_see("bob") && !operator.may_change("bob") && !operator.may_change("ops"));
    }
}

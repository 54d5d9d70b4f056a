//! Access tokens: JWTs as RFC 9068 shapes them, signed with HMAC-SHA256 by a key of the ring, good for minutes.
//!
//! The algorithm is fixed, not read: a header is compared with the one header there is. A token names a session and says nothing
//! about rights; those come from settings and the session's record at every request.
//!
//! Limits: `LENGTH_MAX` characters, `LEEWAY_S` between clocks.

use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use schemas::ids::{KeyId, RequestId, SessionId};
use serde::{Deserialize, Serialize};

/// Longest token in characters.
pub(super) const LENGTH_MAX: usize = 1_024;
/// Most difference between two replicas' clocks, in seconds.
pub(super) const LEEWAY_S: u64 = 5;
/// Who the token is for.
pub(super) const AUDIENCE: &str = "streamgate-api";
/// The type in its header (RFC 9068 section 2.1): no other token of ours is taken for one.
pub(super) const TYPE: &str = "at+jwt";

/// What a token says; every claim must be there, times as numbers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct AccessTokenClaims {
    /// Who gave it.
    pub(super) iss: String,
    /// Who it is for.
    pub(super) aud: String,
    /// Whose things its bearer works on.
    pub(super) sub: String,
    /// From when on it is worth nothing, in Unix seconds.
    pub(super) exp: u64,
    /// From when on it is good.
    pub(super) nbf: u64,
    /// When it was given.
    pub(super) iat: u64,
    /// Its own name.
    pub(super) jti: RequestId,
    /// The session it belongs to.
    pub(super) sid: SessionId,
}

/// A key of the ring, ready for use.
#[derive(Clone)]
pub struct AccessTokenKey {
    /// Its name in tokens.
    pub key_id: KeyId,
    pub(super) bytes: Vec<u8>,
}

impl std::fmt::Debug for AccessTokenKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Key").field("key_id", &self.key_id).finish_non_exhaustive()
    }
}

/// The key a token says it was signed with, if its header is the one there is.
pub(super) fn read_key_id(token: &str) -> Option<KeyId> {
    if token.len() > LENGTH_MAX {
        return None;
    }
    let header = jsonwebtoken::decode_header(token).ok()?;
    let key_id: KeyId = header.kid.as_deref()?.parse().ok()?;
    (header == token_header(key_id)).then_some(key_id)
}

/// Checks signature, times, issuer and audience.
pub(super) fn verify_token(token: &str, key: &AccessTokenKey, issuer: &str) -> Option<AccessTokenClaims> {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.leeway = LEEWAY_S;
    validation.validate_nbf = true;
    validation.set_audience(&[AUDIENCE]);
    validation.set_issuer(&[issuer]);
    validation.set_required_spec_claims(&["exp", "nbf", "iss", "aud", "sub"]);
    let claims: AccessTokenClaims =
        jsonwebtoken::decode(token, &DecodingKey::from_secret(&key.bytes), &validation).ok()?.claims;
    // The library does not look at this one.
    (claims.iat <= claims.exp).then_some(claims)
}

/// Signs a token.
///
/// # Errors
/// When the library can't: a fault of ours.
pub(super) fn sign_token(
    claims: &AccessTokenClaims,
    key: &AccessTokenKey,
) -> Result<String, jsonwebtoken::errors::Error> {
    jsonwebtoken::encode(&token_header(key.key_id), claims, &EncodingKey::from_secret(&key.bytes))
}

fn token_header(key_id: KeyId) -> Header {
    let mut header = Header::new(Algorithm::HS256);
    header.typ = Some(TYPE.to_owned());
    header.kid = Some(key_id.to_string());
    header
}

//! Links that sign in once: a code of 160 random bits, printed at the start of the service or asked for by its owner, that is exchanged for an API key of
//! limited life.
//!
//! Only the SHA-256 of a code is stored. It is used up by compare-and-set before the key is made, so of two that open one link, on
//! any two replicas, one gets a key.
//!
//! Limits: a link is good for [`LINK_TTL_S`], the key of it for [`LINK_KEY_TTL_S`], [`LINK_KEYS_MAX`] of them at a time, within the
//! limit of keys of their owner.

use alloy_primitives::hex;
use nats::{Bus, Outbox, VersionedRecord};
use schemas::{
    access::PrincipalRole,
    ids::{KeyId, RequestId},
    session::{AuthLinkCreated, SignInLink, sign_in_link_key},
};
use sha2::{Digest, Sha256};

use super::key::{self, KeyIssueOutcome, NewApiKey};

/// How long a link is good, in seconds.
pub const LINK_TTL_S: u64 = 10 * 60;
/// How long the key of a link is good, in seconds.
pub const LINK_KEY_TTL_S: u64 = 24 * 3_600;
/// Keys of links that an owner has at a time; a newer one ends the oldest.
pub const LINK_KEYS_MAX: usize = 4;
/// Longest code in characters.
pub const CODE_LENGTH_MAX: usize = 64;

/// Label of the keys that links gave.
const LABEL: &str = "sign-in link";

/// What comes of opening a link.
#[derive(Debug)]
pub enum LinkOutcome {
    /// A new key.
    Key {
        /// Its public half.
        key_id: KeyId,
        /// The key itself.
        text: String,
        /// Unix time in milliseconds from which on it opens nothing.
        expires_at_ms: u64,
    },
    /// The code was never given, was used, or its time is over.
    Refused,
    /// Its owner has as many keys as it may have.
    TooMany,
}

/// Makes a link that signs `owner` in with `role`, for who is named with its request; answers its code, which is kept nowhere.
///
/// # Errors
/// As [`Bus::commit_record`].
pub async fn create_sign_in_link(
    bus: &Bus,
    owner: &str,
    role: PrincipalRole,
    (by, request_id): (&str, RequestId),
) -> Result<String, nats::BusError> {
    let code = create_code();
    let created_at_ms = nats::now_ms();
    let link = SignInLink {
        code_sha256: hash_code(&code),
        owner: owner.to_owned(),
        role,
        created_at_ms,
        expires_at_ms: created_at_ms.saturating_add(LINK_TTL_S * 1_000),
        used_at_ms: None,
    };
    let event = AuthLinkCreated { request_id, owner: owner.to_owned(), by: by.to_owned() };
    bus.commit_record(&mut VersionedRecord::new(link), Outbox::new().with_event(&event)).await?;
    Ok(code)
}

/// Exchanges a code for a key. A code whose key could not be made is used up all the same.
///
/// # Errors
/// As [`Bus::change_record`].
pub async fn open_sign_in_link(
    bus: &Bus,
    code: &str,
    keys_max: usize,
    request_id: RequestId,
) -> Result<LinkOutcome, nats::BusError> {
    if code.is_empty() || code.len() > CODE_LENGTH_MAX {
        return Ok(LinkOutcome::Refused);
    }
    let now_ms = nats::now_ms();
    let mut opened = None;
    bus.change_record::<SignInLink>(&sign_in_link_key(&hash_code(code)), |found| {
        opened = found.filter(|link| link.used_at_ms.is_none() && link.expires_at_ms > now_ms).cloned();
        let used = SignInLink { used_at_ms: Some(now_ms), ..opened.clone()? };
        Some((used, Outbox::new()))
    })
    .await?;
    let Some(link) = opened else { return Ok(LinkOutcome::Refused) };
    revoke_earlier_keys(bus, &link.owner, now_ms, request_id).await?;
    let key_id = KeyId::from_bytes(nats::new_id_bytes());
    let expires_at_ms = now_ms.saturating_add(LINK_KEY_TTL_S * 1_000);
    let new = NewApiKey {
        owner: link.owner.clone(),
        role: link.role,
        scopes: None,
        label: Some(LABEL.to_owned()),
        contact_email: None,
        expires_at_ms: Some(expires_at_ms),
    };
    match key::issue_key(bus, key_id, new, keys_max, (&link.owner, request_id)).await? {
        KeyIssueOutcome::Key(text) => Ok(LinkOutcome::Key { key_id, text, expires_at_ms }),
        KeyIssueOutcome::TooMany => Ok(LinkOutcome::TooMany),
        // Ids are random: nobody else made this key.
        KeyIssueOutcome::Before => Ok(LinkOutcome::Refused),
    }
}

/// Takes the keys of earlier links off their owner's list once they open nothing or newer ones are there, or the list would fill with
/// them.
async fn revoke_earlier_keys(
    bus: &Bus,
    owner: &str,
    now_ms: u64,
    request_id: RequestId,
) -> Result<(), nats::BusError> {
    let mut earlier = key::list_keys(bus, owner).await?;
    earlier.retain(|key| key.label.as_deref() == Some(LABEL));
    earlier.sort_unstable_by_key(|key| std::cmp::Reverse(key.created_at_ms));
    for (index, old) in earlier.iter().enumerate() {
        if index + 1 >= LINK_KEYS_MAX || !old.is_active(now_ms) {
            key::revoke_key(bus, old.key_id, |key| key.owner == owner, (owner, request_id)).await?;
        }
    }
    Ok(())
}

/// A code that nobody guesses: 160 random bits in hex.
pub(super) fn create_code() -> String {
    hex::encode(rand::random::<[u8; 20]>())
}

/// What is stored of a code.
pub(super) fn hash_code(code: &str) -> String {
    hex::encode(Sha256::digest(code.as_bytes()))
}

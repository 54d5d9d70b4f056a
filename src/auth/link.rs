//! Links that sign in once: a code of 160 random bits, printed at the start of the service or asked for by its owner, that is exchanged for an API key of
//! limited life.
//!
//! Only the SHA-256 of a code is stored. Opening a link fixes its key in its record, then makes the key, then marks the link used by
//! compare-and-set: of two that open one link, on any two replicas, the one that marks it is shown the key. What goes wrong before
//! leaves the link as good as it was, and the next try goes on with the same key. For that the secret of the key is made of the code
//! and of random bytes in the record, which the mark removes: neither of them alone says anything, and a used code is worth nothing.
//!
//! Limits: a link is good for [`LINK_TTL_S`], the key of it for [`LINK_KEY_TTL_S`], [`LINK_KEYS_MAX`] of them at a time, within the
//! limit of keys of their owner.

use alloy_primitives::hex;
use hmac::{Hmac, KeyInit, Mac};
use nats::{Bus, Outbox, VersionedRecord};
use schemas::{
    access::{ApiKey, PrincipalRole},
    ids::{KeyId, RequestId},
    session::{AuthLinkCreated, SignInLink, SignInLinkKey, sign_in_link_key},
};
use serde_bytes::ByteBuf;
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
        key: None,
    };
    let event = AuthLinkCreated { request_id, owner: owner.to_owned(), by: by.to_owned() };
    bus.commit_record(&mut VersionedRecord::new(link), Outbox::new().with_event(&event)).await?;
    Ok(code)
}

/// Exchanges a code for a key. While that fails, or the owner has too many keys, the link can be opened again.
///
/// # Errors
/// As [`Bus::change_record`]; the link may be used up only where the very last change, its mark, was not confirmed.
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
    let Some((link, fixed)) = fix_key(bus, code, now_ms).await? else { return Ok(LinkOutcome::Refused) };
    let (key_id, secret) = (fixed.key_id, derive_secret(&fixed, code));
    let earlier = list_earlier_keys(bus, &link.owner, key_id).await?;
    let (good, over): (Vec<_>, Vec<_>) = earlier.into_iter().partition(|key| key.is_active(now_ms));
    revoke_keys(bus, &over, request_id).await?;
    // The oldest ends for the new one, and stays until that is there: the list has room for both.
    let surplus = good.get(..(good.len() + 1).saturating_sub(LINK_KEYS_MAX)).unwrap_or_default();
    let mut expires_at_ms = now_ms.saturating_add(LINK_KEY_TTL_S * 1_000);
    let new = NewApiKey {
        owner: link.owner.clone(),
        role: link.role,
        scopes: None,
        label: Some(LABEL.to_owned()),
        contact_email: None,
        expires_at_ms: Some(expires_at_ms),
    };
    let (keys_max, by) = (keys_max.saturating_add(surplus.len()), (link.owner.as_str(), request_id));
    let text = match key::issue_key_with_secret(bus, (key_id, &secret), new, keys_max, by).await? {
        KeyIssueOutcome::Key(text) => text,
        KeyIssueOutcome::TooMany => return Ok(LinkOutcome::TooMany),
        // By a try that came to no end, or by one of this very moment.
        KeyIssueOutcome::Before => {
            let text = key::format_key(key_id, &secret);
            let Some(made) = key::find_key(bus, &text).await? else { return Ok(LinkOutcome::Refused) };
            expires_at_ms = made.expires_at_ms.unwrap_or(expires_at_ms);
            text
        }
    };
    revoke_keys(bus, surplus, request_id).await?;
    // Last: what goes wrong before can be tried again.
    let is_first = mark_used(bus, code).await?;
    Ok(if is_first { LinkOutcome::Key { key_id, text, expires_at_ms } } else { LinkOutcome::Refused })
}

/// A link that can be opened, and its key; the first try says which that is.
async fn fix_key(
    bus: &Bus,
    code: &str,
    now_ms: u64,
) -> Result<Option<(SignInLink, SignInLinkKey)>, nats::BusError> {
    let fresh = SignInLinkKey {
        key_id: KeyId::from_bytes(nats::new_id_bytes()),
        salt: ByteBuf::from(rand::random::<[u8; 32]>().to_vec()),
    };
    let is_usable = |link: &&SignInLink| link.used_at_ms.is_none() && link.expires_at_ms > now_ms;
    let held = bus
        .change_record::<SignInLink>(&sign_in_link_key(&hash_code(code)), |found| {
            let link = found.filter(is_usable).filter(|link| link.key.is_none())?;
            Some((SignInLink { key: Some(fresh.clone()), ..link.clone() }, Outbox::new()))
        })
        .await?;
    let link = held.map(|held| held.record).filter(|link| is_usable(&link));
    Ok(link.and_then(|link| link.key.clone().map(|key| (link, key))))
}

/// Uses a link up; false when another try did.
async fn mark_used(bus: &Bus, code: &str) -> Result<bool, nats::BusError> {
    let mut is_first = false;
    bus.change_record::<SignInLink>(&sign_in_link_key(&hash_code(code)), |found| {
        let unused = found.filter(|link| link.used_at_ms.is_none());
        is_first = unused.is_some();
        let used = SignInLink { used_at_ms: Some(nats::now_ms()), key: None, ..unused?.clone() };
        Some((used, Outbox::new()))
    })
    .await?;
    Ok(is_first)
}

/// The secret of a link's key: 160 bits in hex, the same at every try.
fn derive_secret(key: &SignInLinkKey, code: &str) -> String {
    #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(&key.salt).expect("a key of any length");
    mac.update(format!("key {} {code}", key.key_id).as_bytes());
    hex::encode(mac.finalize().into_bytes().get(..20).unwrap_or_default())
}

/// The keys of other links of this owner, oldest first.
async fn list_earlier_keys(bus: &Bus, owner: &str, new: KeyId) -> Result<Vec<ApiKey>, nats::BusError> {
    let mut earlier = key::list_keys(bus, owner).await?;
    earlier.retain(|key| key.label.as_deref() == Some(LABEL) && key.key_id != new);
    earlier.sort_unstable_by_key(|key| key.created_at_ms);
    Ok(earlier)
}

/// Takes keys of earlier links off their owner's list, which would fill with them.
async fn revoke_keys(bus: &Bus, keys: &[ApiKey], request_id: RequestId) -> Result<(), nats::BusError> {
    for old in keys {
        key::revoke_key(bus, old.key_id, |key| key.owner == old.owner, (&old.owner, request_id)).await?;
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

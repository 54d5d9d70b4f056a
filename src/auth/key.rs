//! API keys for machines, and the signing keys that replicas share.
//!
//! An API key is `sg_<key id>_<secret>`: the id finds the record, the secret is 160 random bits of which only the SHA-256 is
//! stored. A replica believes what it read of one for a moment (`known_keys`).
//!
//! Limits: an owner has at most as many keys as the settings say; a key's text has at most `LENGTH_MAX` characters.

use alloy_primitives::hex;
use nats::{Bus, Outbox, VersionedRecord};
use schemas::{
    access::{self, ApiKey, ApiKeyScope, PrincipalRole},
    ids::{KeyId, RequestId},
    session::{AuthKeyCreated, AuthKeyRevoked, OwnerApiKeys, api_key_list_key},
    value::EmailAddress,
};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

/// Longest key text in characters.
pub(super) const LENGTH_MAX: usize = 128;
/// Owner of the key made at first start.
pub const FIRST_OWNER: &str = "admin";

/// What a new key is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewApiKey {
    /// Whose things it works on.
    pub owner: String,
    /// What it may do.
    pub role: PrincipalRole,
    /// Where it may do it; absent for everywhere.
    pub scopes: Option<Vec<ApiKeyScope>>,
    /// The owner's own word for it.
    pub label: Option<String>,
    /// Whom to write to when it has to be changed.
    pub contact_email: Option<EmailAddress>,
    /// Unix time in milliseconds from which on it opens nothing.
    pub expires_at_ms: Option<u64>,
}

/// The record of a key text, if it opens something now.
pub(super) async fn find_key(bus: &Bus, text: &str) -> Result<Option<ApiKey>, nats::BusError> {
    let Some((key_id, secret)) = parse_key(text) else { return Ok(None) };
    let Some(held) = bus.load_record::<ApiKey>(&key_id.to_string()).await? else { return Ok(None) };
    Ok(opens_now(&held.record, secret).then_some(held.record))
}

/// Whether this is the secret of the key, and the key good.
pub(super) fn opens_now(key: &ApiKey, secret: &str) -> bool {
    let is_right =
        // The digest is compared in constant time, also of keys that have ended: the time says nothing.
        bool::from(Sha256::digest(secret.as_bytes()).as_slice().ct_eq(key.secret_sha256.as_slice()));
    is_right && key.is_active(nats::now_ms())
}

/// Until when the key opens something, as Unix time in milliseconds; `None` when it opens nothing.
pub(super) async fn find_key_end(bus: &Bus, key_id: KeyId) -> Result<Option<u64>, nats::BusError> {
    let held = bus.load_record::<ApiKey>(&key_id.to_string()).await?;
    let active = held.filter(|held| held.record.is_active(nats::now_ms()));
    Ok(active.map(|held| held.record.expires_at_ms.unwrap_or(u64::MAX)))
}

pub(super) fn parse_key(text: &str) -> Option<(KeyId, &str)> {
    if text.len() > LENGTH_MAX {
        return None;
    }
    let (key_id, secret) = text.strip_prefix("sg_")?.split_once('_')?;
    Some((key_id.parse().ok()?, secret))
}

/// Makes an API key. The text is shown once and kept nowhere.
///
/// # Errors
/// As [`Bus::commit_record`].
pub async fn create_api_key(bus: &Bus, owner: &str, role: PrincipalRole) -> Result<String, nats::BusError> {
    let new = NewApiKey {
        owner: owner.to_owned(),
        role,
        scopes: None,
        label: None,
        contact_email: None,
        expires_at_ms: None,
    };
    let key_id = KeyId::from_bytes(nats::new_id_bytes());
    add_to_owner(bus, owner, key_id, usize::MAX).await?;
    let event = access::AdminKeyCreated { key_id, owner: owner.to_owned(), role };
    write_key(bus, (key_id, &create_secret()), new, Outbox::new().with_event(&event)).await
}

/// What came of the wish for a key.
#[derive(Debug)]
pub enum KeyIssueOutcome {
    /// Its text.
    Key(String),
    /// The key is there already, and its text is kept nowhere.
    Before,
    /// Its owner has as many as it may have.
    TooMany,
}

/// Makes the API key `key_id` for `by`.
pub async fn issue_key(
    bus: &Bus,
    key_id: KeyId,
    new: NewApiKey,
    keys_max: usize,
    by: (&str, RequestId),
) -> Result<KeyIssueOutcome, nats::BusError> {
    issue_key_with_secret(bus, (key_id, &create_secret()), new, keys_max, by).await
}

/// The same with a secret that its caller can make again.
pub(super) async fn issue_key_with_secret(
    bus: &Bus,
    (key_id, secret): (KeyId, &str),
    new: NewApiKey,
    keys_max: usize,
    (by, request_id): (&str, RequestId),
) -> Result<KeyIssueOutcome, nats::BusError> {
    if !add_to_owner(bus, &new.owner, key_id, keys_max).await? {
        remove_unfinished(bus, &new.owner).await?;
        if !add_to_owner(bus, &new.owner, key_id, keys_max).await? {
            return Ok(KeyIssueOutcome::TooMany);
        }
    }
    let event = AuthKeyCreated {
        request_id,
        key_id,
        owner: new.owner.clone(),
        role: new.role,
        scopes: new.scopes.clone(),
        by: by.to_owned(),
    };
    match write_key(bus, (key_id, secret), new, Outbox::new().with_event(&event)).await {
        Ok(text) => Ok(KeyIssueOutcome::Key(text)),
        Err(nats::BusError::Conflict { .. }) => Ok(KeyIssueOutcome::Before),
        Err(error) => Err(error),
    }
}

/// The keys of an owner that were not revoked, oldest first.
pub async fn list_keys(bus: &Bus, owner: &str) -> Result<Vec<ApiKey>, nats::BusError> {
    let Some(held) = bus.load_record::<OwnerApiKeys>(&api_key_list_key(&hash_owner(owner))).await? else {
        return Ok(Vec::new());
    };
    let mut keys = Vec::new();
    for key_id in held.record.key_ids {
        if let Some(held) = bus.load_record::<ApiKey>(&key_id.to_string()).await?
            && held.record.revoked_at_ms.is_none()
        {
            keys.push(held.record);
        }
    }
    Ok(keys)
}

/// Ids of the keys of an owner that were not revoked.
///
/// # Errors
/// As [`Bus::load_record`].
pub async fn list_key_ids(bus: &Bus, owner: &str) -> Result<Vec<KeyId>, nats::BusError> {
    Ok(list_keys(bus, owner).await?.into_iter().map(|key| key.key_id).collect())
}

/// Gives a key to another owner, whose things it works on from now on; its text stays as it is.
///
/// # Errors
/// As [`Bus::change_record`].
pub async fn transfer_key(
    bus: &Bus,
    key_id: KeyId,
    (from, to): (&str, &str),
    (by, request_id): (&str, RequestId),
) -> Result<(), nats::BusError> {
    // First the new list, then the key, then the old list: at no time it stands on none.
    add_to_owner(bus, to, key_id, usize::MAX).await?;
    bus.change_record::<ApiKey>(&key_id.to_string(), |found| {
        let key = found.filter(|key| key.owner == from)?;
        let next = ApiKey { owner: to.to_owned(), ..key.clone() };
        let (role, scopes) = (next.role, next.scopes.clone());
        let event =
            AuthKeyCreated { request_id, key_id, owner: to.to_owned(), role, scopes, by: by.to_owned() };
        Some((next, Outbox::new().with_event(&event)))
    })
    .await?;
    crate::session::publish_credential_end(bus, &key_id.to_string()).await;
    remove_from_owner(bus, from, &[key_id]).await
}

/// Revokes a key; false when there is none, or `may` does not allow it.
pub async fn revoke_key(
    bus: &Bus,
    key_id: KeyId,
    may: impl Fn(&ApiKey) -> bool + Send + Sync,
    (by, request_id): (&str, RequestId),
) -> Result<bool, nats::BusError> {
    let mut owner = None;
    bus.change_record::<ApiKey>(&key_id.to_string(), |found| {
        let key = found.filter(|key| may(key))?;
        owner = Some(key.owner.clone());
        if key.revoked_at_ms.is_some() {
            return None;
        }
        let event = AuthKeyRevoked { request_id, key_id, owner: key.owner.clone(), by: by.to_owned() };
        Some((
            ApiKey { revoked_at_ms: Some(nats::now_ms()), ..key.clone() },
            Outbox::new().with_event(&event),
        ))
    })
    .await?;
    let Some(owner) = owner else { return Ok(false) };
    crate::session::publish_credential_end(bus, &key_id.to_string()).await;
    remove_from_owner(bus, &owner, &[key_id]).await?;
    Ok(true)
}

/// How long after its id was made a key may still come into being, in milliseconds: a day, in which the request that asked for it may
/// come again.
const UNFINISHED_MS_MAX: u64 = 86_400_000;

/// Takes those off an owner's list that are no keys: revoked, or never finished since something went away in between.
async fn remove_unfinished(bus: &Bus, owner: &str) -> Result<(), nats::BusError> {
    let key = api_key_list_key(&hash_owner(owner));
    let Some(held) = bus.load_record::<OwnerApiKeys>(&key).await? else { return Ok(()) };
    let mut unfinished = Vec::new();
    for key_id in held.record.key_ids {
        let is_key = match bus.load_record::<ApiKey>(&key_id.to_string()).await? {
            Some(held) => held.record.revoked_at_ms.is_none(),
            None => nats::now_ms().saturating_sub(key_id.created_at_ms()) < UNFINISHED_MS_MAX,
        };
        if !is_key {
            unfinished.push(key_id);
        }
    }
    remove_from_owner(bus, owner, &unfinished).await
}

/// Takes keys off their owner's list.
async fn remove_from_owner(bus: &Bus, owner: &str, gone: &[KeyId]) -> Result<(), nats::BusError> {
    bus.change_record::<OwnerApiKeys>(&api_key_list_key(&hash_owner(owner)), |found| {
        let mut keys = found.cloned()?;
        keys.key_ids.retain(|listed| !gone.contains(listed));
        Some((keys, Outbox::new()))
    })
    .await?;
    Ok(())
}

/// Puts a key on its owner's list, before it exists, unless it is there; false when the list is full.
async fn add_to_owner(
    bus: &Bus,
    owner: &str,
    key_id: KeyId,
    keys_max: usize,
) -> Result<bool, nats::BusError> {
    let owner_sha256 = hash_owner(owner);
    let mut has_room = true;
    bus.change_record::<OwnerApiKeys>(&api_key_list_key(&owner_sha256), |found| {
        let mut key_ids = found.map(|keys| keys.key_ids.clone()).unwrap_or_default();
        let is_listed = key_ids.contains(&key_id);
        has_room = is_listed || key_ids.len() < keys_max;
        key_ids.push(key_id);
        (has_room && !is_listed)
            .then(|| (OwnerApiKeys { owner_sha256: owner_sha256.clone(), key_ids }, Outbox::new()))
    })
    .await?;
    Ok(has_room)
}

/// A secret that nobody guesses: 160 random bits in hex.
fn create_secret() -> String {
    hex::encode(rand::random::<[u8; 20]>())
}

/// The text of a key.
pub(super) fn format_key(key_id: KeyId, secret: &str) -> String {
    format!("sg_{key_id}_{secret}")
}

async fn write_key(
    bus: &Bus,
    (key_id, secret): (KeyId, &str),
    new: NewApiKey,
    outbox: Outbox,
) -> Result<String, nats::BusError> {
    let record = ApiKey {
        key_id,
        secret_sha256: ByteBuf::from(Sha256::digest(secret.as_bytes()).to_vec()),
        owner: new.owner,
        role: new.role,
        created_at_ms: nats::now_ms(),
        scopes: new.scopes,
        label: new.label,
        contact_email: new.contact_email,
        expires_at_ms: new.expires_at_ms,
        revoked_at_ms: None,
    };
    bus.commit_record(&mut VersionedRecord::new(record), outbox).await?;
    Ok(format_key(key_id, secret))
}

/// The SHA-256 of the name of an account in lower-case hexadecimal: names are no keys.
pub fn hash_owner(owner: &str) -> String {
    hex::encode(Sha256::digest(owner.as_bytes()))
}

/// Makes the first API key, once in the life of the installation; `None` when there was one before.
///
/// The marker is written after the key, so a crash in between makes another key at the next start, and the lost one, whose text
/// nobody ever saw, opens nothing.
///
/// # Errors
/// As [`Bus::commit_record`].
pub async fn create_first_key(bus: &Bus) -> Result<Option<String>, nats::BusError> {
    const MARKER: &str = "first-key-made";
    if bus.load_record::<access::SigningSecret>(MARKER).await?.is_some() {
        return Ok(None);
    }
    let text = create_api_key(bus, FIRST_OWNER, PrincipalRole::Admin).await?;
    let marker = access::SigningSecret {
        name: MARKER.to_owned(),
        bytes: ByteBuf::new(),
        created_at_ms: nats::now_ms(),
    };
    match bus.commit_record(&mut VersionedRecord::new(marker), Outbox::new()).await {
        Ok(()) => Ok(Some(text)),
        // Another replica was first: its key is the one that is shown.
        Err(nats::BusError::Conflict { .. }) => Ok(None),
        Err(error) => Err(error),
    }
}

/// The signing key `name`, created by the first call; every replica gets the same.
///
/// # Errors
/// As [`Bus::change_record`].
pub async fn load_signing_key(bus: &Bus, name: &str) -> Result<Vec<u8>, nats::BusError> {
    let fresh = ByteBuf::from(rand::random::<[u8; 32]>().to_vec());
    let held = bus
        .change_record::<access::SigningSecret>(name, |found| {
            if found.is_some() {
                return None;
            }
            let secret = access::SigningSecret {
                name: name.to_owned(),
                bytes: fresh.clone(),
                created_at_ms: nats::now_ms(),
            };
            Some((secret, Outbox::new()))
        })
        .await?;
    held.map(|held| held.record.bytes.into_vec())
        .ok_or_else(|| nats::BusError::Invalid { what: format!("signing key {name}") })
}

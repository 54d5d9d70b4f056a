//! Rights to bring one file that an owner gives to who has no credential: a text of which only the SHA-256 is stored, as of API keys.
//!
//! A grant is used up by compare-and-set before anything is made of its upload, so of two that begin with one grant, on any two replicas,
//! one uploads. From then on it opens that upload alone, until its time is over. It is good for no longer than the credential that it was
//! given with, and opens nothing but uploads.
//!
//! A grant whose upload ends unfinished is given back, for another one in its time.
//!
//! Limits: those of [`schemas::upload_grant`].

use alloy_primitives::hex;
use nats::{Bus, Outbox, VersionedRecord};
use schemas::{
    access::{ApiKeyScope, PrincipalRole},
    gate::PlaybackCredential,
    ids::{UploadGrantId, UploadId},
    upload::{UploadRecord, UploadStatus},
    upload_grant::{
        GRANTS_MAX, LIST_KEPT_MS, OwnerUploadGrants, UploadGrant, UploadGrantCreated, UploadGrantRevoked,
        UploadGrantUse, UploadGrantUsed, upload_grant_key, upload_grant_list_key,
    },
};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{Principal, SignInService, denial::SignInError, key::hash_owner};

/// What the text of a grant begins with.
pub(super) const PREFIX: &str = "sgu_";
/// Longest text in characters.
const LENGTH_MAX: usize = 128;
/// How long one on a list may be without its record, in milliseconds: it is being made.
const CREATION_MS_MAX: u64 = 60_000;

/// What a new grant is to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUploadGrant {
    /// Largest file, in bytes.
    pub size_bytes_max: u64,
    /// Media types that the file may have; any when empty.
    pub types: Vec<String>,
    /// Title of the medium.
    pub title: Option<String>,
    /// How long an upload may begin with it, in seconds.
    pub expires_in_s: u64,
}

/// Makes the grant `grant_id` and its text, which is kept nowhere; `None` where its owner has as many as it may have.
///
/// # Errors
/// As [`Bus::commit_record`]; [`nats::BusError::Conflict`] when the grant is there already.
pub async fn create_upload_grant(
    bus: &Bus,
    grant_id: UploadGrantId,
    (owner, credential): (&str, PlaybackCredential),
    new: NewUploadGrant,
) -> Result<Option<(UploadGrant, String)>, nats::BusError> {
    let secret = hex::encode(rand::random::<[u8; 20]>());
    let created_at_ms = nats::now_ms();
    let grant = UploadGrant {
        grant_id,
        secret_sha256: ByteBuf::from(Sha256::digest(secret.as_bytes()).to_vec()),
        owner: owner.to_owned(),
        credential,
        size_bytes_max: new.size_bytes_max,
        types: new.types,
        title: new.title,
        created_at_ms,
        expires_at_ms: created_at_ms.saturating_add(new.expires_in_s.saturating_mul(1_000)),
        used: None,
        revoked_at_ms: None,
    };
    if !add_to_owner(bus, &grant).await? {
        remove_gone(bus, owner).await?;
        if !add_to_owner(bus, &grant).await? {
            return Ok(None);
        }
    }
    let event = UploadGrantCreated {
        grant_id,
        owner: owner.to_owned(),
        size_bytes_max: grant.size_bytes_max,
        types: grant.types.clone(),
        expires_at_ms: grant.expires_at_ms,
    };
    let mut held = VersionedRecord::new(grant);
    bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
    Ok(Some((held.record, format!("{PREFIX}{grant_id}_{secret}"))))
}

/// The grants of an owner that were not revoked and whose time is not over, oldest first.
///
/// # Errors
/// As [`Bus::load_record`].
pub async fn list_upload_grants(bus: &Bus, owner: &str) -> Result<Vec<UploadGrant>, nats::BusError> {
    let now_ms = nats::now_ms();
    let held = bus.load_record::<OwnerUploadGrants>(&upload_grant_list_key(&hash_owner(owner))).await?;
    let mut grants = Vec::new();
    for grant_id in held.into_iter().flat_map(|held| held.record.grant_ids) {
        let held = bus.load_record::<UploadGrant>(&upload_grant_key(grant_id)).await?;
        grants.extend(held.map(|held| held.record).filter(|grant| grant.is_open(now_ms)));
    }
    Ok(grants)
}

/// Takes a grant back; false where there is none that `may` allows.
///
/// # Errors
/// As [`Bus::change_record`].
pub async fn revoke_upload_grant(
    bus: &Bus,
    grant_id: UploadGrantId,
    may: impl Fn(&UploadGrant) -> bool + Send + Sync,
    by: &str,
) -> Result<bool, nats::BusError> {
    let mut is_found = false;
    bus.change_record::<UploadGrant>(&upload_grant_key(grant_id), |found| {
        let grant = found.filter(|grant| may(grant))?;
        is_found = true;
        if grant.revoked_at_ms.is_some() {
            return None;
        }
        let event = UploadGrantRevoked { grant_id, owner: grant.owner.clone(), by: by.to_owned() };
        let revoked = UploadGrant { revoked_at_ms: Some(nats::now_ms()), ..grant.clone() };
        Some((revoked, Outbox::new().with_event(&event)))
    })
    .await?;
    Ok(is_found)
}

/// The record of a grant; `None` where it is gone.
///
/// # Errors
/// As [`Bus::load_record`].
pub async fn load_upload_grant(
    bus: &Bus,
    grant_id: UploadGrantId,
) -> Result<Option<UploadGrant>, nats::BusError> {
    Ok(bus.load_record::<UploadGrant>(&upload_grant_key(grant_id)).await?.map(|held| held.record))
}

/// Uses a grant up for an upload; false when another one began with it, it was taken back, or its time is over. The same upload may ask
/// again.
///
/// # Errors
/// As [`Bus::change_record`]; the grant may be used up then.
pub async fn use_upload_grant(
    bus: &Bus,
    grant_id: UploadGrantId,
    wanted: UploadGrantUse,
) -> Result<bool, nats::BusError> {
    let now_ms = nats::now_ms();
    let mut is_used = false;
    bus.change_record::<UploadGrant>(&upload_grant_key(grant_id), |found| {
        let grant = found.filter(|grant| grant.is_open(now_ms))?;
        is_used = grant.used.is_none_or(|used| used.upload_id == wanted.upload_id);
        if grant.used.is_some() {
            return None;
        }
        let event = UploadGrantUsed { grant_id, owner: grant.owner.clone(), upload_id: wanted.upload_id };
        let used = UploadGrant { used: Some(wanted), ..grant.clone() };
        Some((used, Outbox::new().with_event(&event)))
    })
    .await?;
    Ok(is_used)
}

/// Gives a grant back whose upload ended unfinished. What can't be given back stays used.
pub async fn return_upload_grant(bus: &Bus, grant_id: UploadGrantId, upload_id: UploadId) {
    let key = upload_grant_key(grant_id);
    let returned = bus.change_record::<UploadGrant>(&key, |found| {
        let grant = found.filter(|grant| grant.used.is_some_and(|used| used.upload_id == upload_id))?;
        Some((UploadGrant { used: None, ..grant.clone() }, Outbox::new()))
    });
    if let Err(error) = Box::pin(returned).await {
        tracing::debug!(%error, grant.id = %grant_id, "a grant stays used");
    }
}

/// Lets a grant end soon whose upload is complete. What can't be written ends with its time.
pub async fn finish_upload_grant(bus: &Bus, grant_id: UploadGrantId, upload_id: UploadId) {
    let (key, now_ms) = (upload_grant_key(grant_id), nats::now_ms());
    let finished = bus.change_record::<UploadGrant>(&key, |found| {
        let grant = found.filter(|grant| grant.used.is_some_and(|used| used.upload_id == upload_id))?;
        Some((grant.clone().into_finished(now_ms), Outbox::new()))
    });
    if let Err(error) = Box::pin(finished).await {
        tracing::debug!(%error, grant.id = %grant_id, "a grant is kept until its time is over");
    }
}

/// The grant as it is by its upload, whose time begins anew with each of its bytes.
async fn follow_upload(bus: &Bus, grant: UploadGrant, now_ms: u64) -> Result<UploadGrant, nats::BusError> {
    let Some(used) = grant.used.filter(|_| grant.revoked_at_ms.is_none()) else { return Ok(grant) };
    let held = bus.load_record::<UploadRecord>(&used.upload_id.to_string()).await?;
    let upload = held.map(|held| held.record);
    let is_unfinished = |upload: &UploadRecord| {
        matches!(upload.status, UploadStatus::Terminated | UploadStatus::Expired | UploadStatus::Deactivated)
    };
    if upload.as_ref().is_some_and(is_unfinished) {
        // Of roles that end uploads not each may change a grant.
        return_upload_grant(bus, grant.grant_id, used.upload_id).await;
        return Ok(UploadGrant { used: None, ..grant });
    }
    let upload = upload.filter(|upload| upload.status == UploadStatus::Open);
    let until_ms = upload.map_or(0, |upload| upload.expires_at_ms);
    let Some(gained_ms) = until_ms.checked_sub(used.until_ms).filter(|gained_ms| *gained_ms > 0) else {
        return Ok(grant);
    };
    // Seldom, and long before the record would be gone.
    if gained_ms.saturating_mul(4) >= until_ms.saturating_sub(now_ms) {
        let key = upload_grant_key(grant.grant_id);
        let extended = bus.change_record::<UploadGrant>(&key, |found| {
            let grant = found.filter(|grant| grant.used == Some(used) && grant.revoked_at_ms.is_none())?;
            let used = Some(UploadGrantUse { until_ms, ..used });
            Some((UploadGrant { used, ..grant.clone() }, Outbox::new()))
        });
        if let Err(error) = Box::pin(extended).await {
            tracing::debug!(%error, grant.id = %grant.grant_id, "a grant is kept longer by a later request");
        }
    }
    Ok(UploadGrant { used: Some(UploadGrantUse { until_ms, ..used }), ..grant })
}

impl SignInService {
    /// Who brings a file by a grant: its owner, with no right but to uploads; `None` when it opens nothing, or the credential that it was
    /// given with does not any more.
    pub(super) async fn find_grant_holder(&self, text: &str) -> Result<Option<Principal>, SignInError> {
        let Some((grant_id, secret)) = parse_grant(text) else { return Ok(None) };
        let Some(grant) = load_upload_grant(self.bus(), grant_id).await? else { return Ok(None) };
        let now_ms = nats::now_ms();
        let is_right =
            // In constant time, also of grants that have ended: the time says nothing.
            bool::from(Sha256::digest(secret.as_bytes()).as_slice().ct_eq(grant.secret_sha256.as_slice()));
        if !is_right {
            return Ok(None);
        }
        let grant = follow_upload(self.bus(), grant, now_ms).await?;
        if !grant.is_open(now_ms) {
            return Ok(None);
        }
        let Some(giver) = self.holder_of(grant.credential, now_ms).await? else { return Ok(None) };
        let role = giver.wallet.map_or(giver.role, |wallet| self.role_of_wallet(wallet));
        let may_upload = role != PrincipalRole::Operator && giver.has_scope(ApiKeyScope::Upload);
        Ok((may_upload && giver.owner == grant.owner).then(|| Principal {
            upload_grant: Some(grant_id),
            scopes: Some(vec![ApiKeyScope::Upload]),
            ..Principal::new(grant.owner, PrincipalRole::Owner)
        }))
    }
}

/// The public half of a text in the form of a grant.
pub(super) fn read_grant_id(text: &str) -> Option<UploadGrantId> {
    parse_grant(text).map(|(grant_id, _)| grant_id)
}

fn parse_grant(text: &str) -> Option<(UploadGrantId, &str)> {
    let text = Some(text).filter(|text| text.len() <= LENGTH_MAX)?;
    let (grant_id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
    Some((grant_id.parse().ok()?, secret))
}

/// Puts a grant on its owner's list, before it exists; false when the list is full.
async fn add_to_owner(bus: &Bus, grant: &UploadGrant) -> Result<bool, nats::BusError> {
    let owner_sha256 = hash_owner(&grant.owner);
    let mut has_room = true;
    bus.change_record::<OwnerUploadGrants>(&upload_grant_list_key(&owner_sha256), |found| {
        let mut grant_ids = found.map(|listed| listed.grant_ids.clone()).unwrap_or_default();
        let is_listed = grant_ids.contains(&grant.grant_id);
        has_room = is_listed || grant_ids.len() < GRANTS_MAX;
        grant_ids.push(grant.grant_id);
        let expires_at_ms = nats::now_ms().saturating_add(LIST_KEPT_MS);
        let owner_sha256 = owner_sha256.clone();
        let listed = OwnerUploadGrants { owner_sha256, grant_ids, expires_at_ms };
        (has_room && !is_listed).then(|| (listed, Outbox::new()))
    })
    .await?;
    Ok(has_room)
}

/// Takes those off the list of an owner whose records are gone, so that what is on it bounds the records.
async fn remove_gone(bus: &Bus, owner: &str) -> Result<(), nats::BusError> {
    let list_key = upload_grant_list_key(&hash_owner(owner));
    let held = bus.load_record::<OwnerUploadGrants>(&list_key).await?;
    let mut gone = Vec::new();
    for grant_id in held.into_iter().flat_map(|held| held.record.grant_ids) {
        if load_upload_grant(bus, grant_id).await?.is_none() {
            gone.push(grant_id);
        }
    }
    let now_ms = nats::now_ms();
    bus.change_record::<OwnerUploadGrants>(&list_key, |found| {
        let mut listed = found.cloned()?;
        listed.grant_ids.retain(|grant_id| !gone.contains(grant_id) || is_young(*grant_id, now_ms));
        Some((listed, Outbox::new()))
    })
    .await?;
    Ok(())
}

/// True for one that may be on a list before there is a record of it.
fn is_young(grant_id: UploadGrantId, now_ms: u64) -> bool {
    now_ms.saturating_sub(grant_id.created_at_ms()) < CREATION_MS_MAX
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_text_of_the_form_of_a_grant_is_one() {
        let id = UploadGrantId::from_bytes([7; 16]);
        assert_eq!(parse_grant(&format!("sgu_{id}_secret")), Some((id, "secret")));
        for text in
            ["", "sgu_", &format!("sg_{id}_secret"), &format!("sgu_{id}"), "sgu_x_y", &"sgu_".repeat(40)]
        {
            assert_eq!(parse_grant(text), None, "{text}");
        }
    }
}

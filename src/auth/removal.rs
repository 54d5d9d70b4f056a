//! Taking an account's credentials away for good: links, grants, sessions and API keys are revoked, and nothing of them is kept.
//!
//! Limits: reads every key and every session; one is ended at a time, and doing it again goes on where it ended.

use std::time::Duration;

use nats::{Bus, BusError, ReaderStart, reader};
use schemas::{
    KvRecord,
    access::ApiKey,
    ids::RequestId,
    session::{
        AuthSession, OwnerApiKeys, SessionEndReason, SignInLink, WalletSessions, api_key_list_key,
        sign_in_link_key,
    },
    subjects,
    upload_grant::{UploadGrant, upload_grant_list_key},
};

use crate::{
    RECHECK_MS_MAX,
    account::WalletAccount,
    key::{hash_owner, revoke_key},
    session, wallet_list,
};

/// How long a mark stays where a record was: replicas that follow see it, and so does a request that is under way.
pub const REMOVED_MARK: Duration = Duration::from_secs(3_600);

/// How long a replica that was not notified may go on to let in what it read before, and a request that it let in last may take to write.
const BELIEVED_MAX: Duration = Duration::from_millis(RECHECK_MS_MAX + 500);

/// How often keys are looked for: those that were being made meanwhile are found by the next pass.
const PASSES_MAX: usize = 5;

/// What an account had.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemovedCredentials {
    /// API keys, also those that were revoked before.
    pub key_count: usize,
    /// Sessions, also those that were over.
    pub session_count: usize,
}

/// Revokes every API key and session of an account, and removes their records.
///
/// # Errors
/// When the broker does not answer; what was removed until then stays so.
pub async fn remove_credentials(
    bus: &Bus,
    owner: &str,
    (by, request_id): (&str, RequestId),
) -> Result<RemovedCredentials, BusError> {
    let mut removed = RemovedCredentials::default();
    remove_rights(bus, owner).await?;
    let is_theirs = |found: &AuthSession| {
        session::session_account(found).is_some_and(|account| account.owner_id() == owner)
    };
    for found in find_records::<AuthSession>(bus, "*", is_theirs).await? {
        session::end_session(bus, found.session_id, SessionEndReason::Revoked, request_id).await?;
        remove_record(bus, AuthSession::BUCKET, &found.session_id.to_string()).await?;
        removed.session_count += 1;
    }
    if let Ok(account) = owner.parse::<WalletAccount>() {
        remove_record(bus, WalletSessions::BUCKET, &wallet_list::wallet_list_key(account)).await?;
    }
    // Last: a session, or a key that was not found yet, may have made another one until now.
    let mut has_waited = false;
    for _ in 0..PASSES_MAX {
        let keys = find_records::<ApiKey>(bus, "*", |key| key.owner == owner).await?;
        if keys.is_empty() {
            if has_waited || removed == RemovedCredentials::default() {
                break;
            }
            // Not for something to happen, which could be waited for: what a replica believes ends by its clock alone.
            tokio::time::sleep(BELIEVED_MAX).await;
            remove_rights(bus, owner).await?;
            has_waited = true;
        }
        for key in keys {
            revoke_key(bus, key.key_id, |found| found.owner == owner, (by, request_id)).await?;
            remove_record(bus, ApiKey::BUCKET, &key.key_id.to_string()).await?;
            removed.key_count += 1;
        }
    }
    remove_record(bus, OwnerApiKeys::BUCKET, &api_key_list_key(&hash_owner(owner))).await?;
    Ok(removed)
}

/// Removes what somebody could still become a credential of the account with, or use in its place: links that sign in, and grants of
/// uploads. Tokens of forms end with the credential that they were asked for with.
async fn remove_rights(bus: &Bus, owner: &str) -> Result<(), BusError> {
    for link in find_records::<SignInLink>(bus, &sign_in_link_key("*"), |link| link.owner == owner).await? {
        remove_record(bus, SignInLink::BUCKET, &link.key()).await?;
    }
    for grant in find_records::<UploadGrant>(bus, "grant.*", |grant| grant.owner == owner).await? {
        remove_record(bus, UploadGrant::BUCKET, &grant.key()).await?;
    }
    remove_record(bus, UploadGrant::BUCKET, &upload_grant_list_key(&hash_owner(owner))).await
}

/// The records of a bucket below keys that match `keys`, such as `*` for those of one token, and that fit.
///
/// # Errors
/// When the broker does not answer.
pub async fn find_records<R: KvRecord>(
    bus: &Bus,
    keys: &str,
    fits: impl Fn(&R) -> bool,
) -> Result<Vec<R>, BusError> {
    let filters = vec![subjects::kv_subject(R::BUCKET, keys)];
    let stream = subjects::kv_stream_name(R::BUCKET);
    let mut reader =
        bus.open_reader(reader::ReaderConfig::new(stream, filters, ReaderStart::LastPerSubject)).await?;
    let mut found = Vec::new();
    while let Some(entry) = reader.next_pending().await? {
        if let Ok((_, record)) = nats::decode_record::<R>(&entry.subject, &entry.payload)
            && fits(&record)
        {
            found.push(record);
        }
    }
    Ok(found)
}

/// Removes a record once its events are sent; nothing happens where there is none.
///
/// # Errors
/// When the broker does not answer.
pub async fn remove_record(bus: &Bus, bucket: &str, key: &str) -> Result<(), BusError> {
    bus.sweep_record(bucket, key).await?;
    if bus.read_value(bucket, key).await?.is_some_and(|found| found.value.is_some()) {
        bus.purge_key(bucket, key, REMOVED_MARK).await?;
    }
    Ok(())
}

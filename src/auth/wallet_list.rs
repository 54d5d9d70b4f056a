//! The list of a wallet's sessions: what has to end for a new one, and what ends with "all".
//!
//! A session stands on it before it is there and until it is over, so that none is missing. One that something went away from in
//! between stands there for nothing: where the list is full, those leave first, and live ones end only for what is missing then.
//!
//! Limits: [`AuthConfig::sessions_per_wallet_max`](super::AuthConfig::sessions_per_wallet_max).

use nats::{Bus, Outbox};
use schemas::{
    ids::SessionId,
    session::{AuthSession, WalletSessionEntry, WalletSessions, wallet_sessions_key},
};

use super::account::WalletAccount;

/// How long after its id was made a session may still come into being, in milliseconds. A sign-in that takes longer is refused, since
/// its session is not listed any more.
const UNFINISHED_MS_MAX: u64 = 60_000;

/// Puts a session on its wallet's list; answers those that have to make room, oldest first.
pub(super) async fn add_to_wallet(
    bus: &Bus,
    account: WalletAccount,
    entry: WalletSessionEntry,
    sessions_max: usize,
) -> Result<Vec<SessionId>, nats::BusError> {
    let now_ms = nats::now_ms();
    let mut is_full = false;
    bus.change_record::<WalletSessions>(&wallet_list_key(account), |found| {
        let mut sessions = found.map(|wallet| wallet.sessions.clone()).unwrap_or_default();
        sessions.retain(|entry| entry.expires_at_ms > now_ms);
        sessions.push(entry);
        is_full = sessions.len() > sessions_max;
        let expires_at_ms = sessions.iter().map(|entry| entry.expires_at_ms).max().unwrap_or(now_ms);
        let (address, chain_id) = (account.address.to_lower_hex(), account.chain_id);
        Some((WalletSessions { address, chain_id, sessions, expires_at_ms }, Outbox::new()))
    })
    .await?;
    if !is_full {
        return Ok(Vec::new());
    }
    remove_unfinished(bus, account).await?;
    // Read, not added once more: one that is gone by now was ended with all sessions of the wallet.
    let mut listed = listed_sessions(bus, account).await?;
    listed.truncate(listed.len().saturating_sub(sessions_max));
    Ok(listed)
}

/// Takes those off a wallet's list that are no sessions: over, or never opened since something went away in between.
async fn remove_unfinished(bus: &Bus, account: WalletAccount) -> Result<(), nats::BusError> {
    let mut unfinished = Vec::new();
    for session_id in listed_sessions(bus, account).await? {
        let now_ms = nats::now_ms();
        let is_session = match bus.load_record::<AuthSession>(&session_id.to_string()).await? {
            Some(held) => held.record.is_open(now_ms),
            None => now_ms.saturating_sub(session_id.created_at_ms()) < UNFINISHED_MS_MAX,
        };
        if !is_session {
            unfinished.push(session_id);
        }
    }
    remove_from_wallet(bus, account, &unfinished).await
}

/// The sessions on a wallet's list, oldest first; some of them may be over.
pub(super) async fn listed_sessions(
    bus: &Bus,
    account: WalletAccount,
) -> Result<Vec<SessionId>, nats::BusError> {
    let held = bus.load_record::<WalletSessions>(&wallet_list_key(account)).await?;
    let sessions = held.map(|held| held.record.sessions).unwrap_or_default();
    Ok(sessions.into_iter().map(|entry| entry.session_id).collect())
}

/// Takes sessions off their wallet's list.
pub(super) async fn remove_from_wallet(
    bus: &Bus,
    account: WalletAccount,
    session_ids: &[SessionId],
) -> Result<(), nats::BusError> {
    if session_ids.is_empty() {
        return Ok(());
    }
    bus.change_record::<WalletSessions>(&wallet_list_key(account), |found| {
        let mut wallet = found.cloned()?;
        wallet.sessions.retain(|entry| !session_ids.contains(&entry.session_id));
        Some((wallet, Outbox::new()))
    })
    .await?;
    Ok(())
}

/// Key of the list of an account's sessions.
pub(crate) fn wallet_list_key(account: WalletAccount) -> String {
    wallet_sessions_key(&account.address.to_lower_hex(), account.chain_id)
}

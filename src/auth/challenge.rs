//! Challenges: nonces of 128 random bits, each given to one client and good for one attempt.
//!
//! A nonce is used up by compare-and-set once the attempt is judged, so of two attempts on any two replicas one comes to its end;
//! that it was refused does not bring the nonce back. An attempt about which nobody could say anything leaves the nonce as it was.
//! It is bound to a cookie, so that nobody can sign somebody else in.
//!
//! Limits: [`AuthConfig::challenge_ttl_s`], or what the client asks for, up to [`CHALLENGE_TTL_S_MAX`];
//! [`AuthConfig::challenges_per_prefix_max`] for each client prefix over all replicas, so what lies in KV is bounded by who asks,
//! and there are never more refusals on record than challenges.

use alloy_primitives::hex;
use nats::metrics::table::SIGN_IN_CHALLENGES;
use nats::{Bus, Outbox, VersionedRecord};
use schemas::{
    ids::{ChallengeId, RequestId},
    session::{AuthChallenged, AuthRefused, ChallengeCounter, SignInChallenge, challenge_counter_key},
};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

#[cfg(doc)]
use super::config::CHALLENGE_TTL_S_MAX;
use super::{
    address::WalletAddress,
    config::AuthConfig,
    denial::{SignInDenial, SignInError},
};
use web::client::ClientAddress;

/// What a client asks for.
#[derive(Debug, Clone)]
pub struct ChallengeOptions {
    /// The site.
    pub domain: String,
    /// The account, where it is known before.
    pub address: Option<WalletAddress>,
    /// The chain the account is looked up on (EIP-155 number).
    pub chain_id: Option<u64>,
    /// How long the challenge is good, in seconds.
    pub ttl_s: u64,
}

/// What comes of the wish for a challenge.
#[derive(Debug)]
pub enum ChallengeOutcome {
    /// It is on record.
    Challenge(SignInChallenge),
    /// The client's prefix had its share; there is another one after so many seconds.
    TooMany {
        /// In seconds.
        retry_after_s: u64,
    },
}

/// Gives a challenge bound to `cookie`.
pub async fn issue_challenge(
    bus: &Bus,
    config: &AuthConfig,
    (wish, cookie, client): (&ChallengeOptions, &str, ClientAddress),
    request_id: RequestId,
) -> Result<ChallengeOutcome, nats::BusError> {
    let now_ms = nats::now_ms();
    let after_ms = |seconds: u64| now_ms.saturating_add(seconds.saturating_mul(1_000));
    let (expires_at_ms, window_end_ms) = (after_ms(wish.ttl_s), after_ms(config.challenge_ttl_s));
    let prefix = hex::encode(hash_text(&client.prefix.to_string()));
    if let Some(free_at_ms) = count_challenge(bus, config, &prefix, (now_ms, window_end_ms)).await? {
        let retry_after_s = free_at_ms.saturating_sub(now_ms).div_ceil(1_000).max(1);
        return Ok(ChallengeOutcome::TooMany { retry_after_s });
    }
    let challenge = SignInChallenge {
        challenge_id: ChallengeId::from_bytes(rand::random()),
        binding_sha256: hash_text(cookie),
        domain: wish.domain.clone(),
        address: wish.address.map(WalletAddress::to_lower_hex),
        chain_id: wish.chain_id,
        created_at_ms: now_ms,
        expires_at_ms,
        used_at_ms: None,
        code: None,
    };
    let event = AuthChallenged {
        request_id,
        challenge_id: challenge.challenge_id,
        domain: wish.domain.clone(),
        address: challenge.address.clone(),
    };
    let mut held = VersionedRecord::new(challenge);
    bus.commit_record(&mut held, Outbox::new().with_event(&event)).await?;
    SIGN_IN_CHALLENGES.increment(());
    Ok(ChallengeOutcome::Challenge(held.record))
}

/// The challenge of a nonce that is good.
pub async fn find_challenge(bus: &Bus, nonce: &str) -> Result<VersionedRecord<SignInChallenge>, SignInError> {
    // A text of another form was never given by us; one of this form is safe as a key.
    let challenge_id: ChallengeId = nonce.parse().map_err(|_| SignInDenial::ChallengeUnknown)?;
    let held = bus.load_record::<SignInChallenge>(&challenge_id.to_string()).await?;
    let held = held.ok_or(SignInDenial::ChallengeUnknown)?;
    if held.record.used_at_ms.is_some() {
        return Err(SignInDenial::ChallengeUsed.into());
    }
    if held.record.expires_at_ms <= nats::now_ms() {
        return Err(SignInDenial::ChallengeExpired.into());
    }
    Ok(held)
}

/// Uses the nonce up, unless another attempt did since it was found.
pub(super) async fn consume_challenge(
    bus: &Bus,
    held: &mut VersionedRecord<SignInChallenge>,
) -> Result<(), SignInError> {
    held.record.used_at_ms = Some(nats::now_ms());
    commit_challenge(bus, held, Outbox::new()).await
}

/// Gives the nonce back that an attempt used up which came to no end.
pub(super) async fn release_challenge(bus: &Bus, held: &mut VersionedRecord<SignInChallenge>) {
    held.record.used_at_ms = None;
    if let Err(error) = commit_challenge(bus, held, Outbox::new()).await {
        tracing::warn!(%error, "a challenge could not be given back: its client has to ask for another");
    }
}

async fn commit_challenge(
    bus: &Bus,
    held: &mut VersionedRecord<SignInChallenge>,
    outbox: Outbox,
) -> Result<(), SignInError> {
    match bus.commit_record(held, outbox).await {
        Ok(()) => Ok(()),
        // Somebody else used it first: a nonce is good for one attempt, wherever it is made.
        Err(nats::BusError::Conflict { .. }) => Err(SignInDenial::ChallengeUsed.into()),
        Err(error) => Err(error.into()),
    }
}

/// True when `cookie` is the one the challenge was given with.
pub(super) fn is_bound_to_cookie(challenge: &SignInChallenge, cookie: Option<&str>) -> bool {
    // Bound to the browser: a signature that somebody else obtained opens no session without the cookie.
    cookie.is_some_and(|cookie| bool::from(hash_text(cookie).ct_eq(&challenge.binding_sha256)))
}

/// Uses the nonce up, and puts on record why the attempt failed.
pub(super) async fn reject_attempt(
    bus: &Bus,
    held: &mut VersionedRecord<SignInChallenge>,
    denial: &SignInDenial,
    (address, request_id): (WalletAddress, RequestId),
) -> Result<(), SignInError> {
    held.record.used_at_ms = Some(nats::now_ms());
    held.record.code = Some(denial.code().to_owned());
    let event = AuthRefused {
        request_id,
        challenge_id: held.record.challenge_id,
        code: denial.code().to_owned(),
        address: address.to_lower_hex(),
    };
    commit_challenge(bus, held, Outbox::new().with_event(&event)).await
}

/// Counts one more challenge of a prefix; when it had its share, the Unix time in milliseconds of the next.
///
/// Its share comes back evenly over the window: a client that uses it up delays the others behind that address by the time of one
/// challenge, not by the rest of a window.
async fn count_challenge(
    bus: &Bus,
    config: &AuthConfig,
    prefix_sha256: &str,
    (now_ms, window_end_ms): (u64, u64),
) -> Result<Option<u64>, nats::BusError> {
    let challenges_max = u64::from(config.challenges_per_prefix_max.max(1));
    let interval_ms = (window_end_ms.saturating_sub(now_ms) / challenges_max).max(1);
    let mut free_at_ms = None;
    let next = |found: Option<&ChallengeCounter>| {
        // What expires is when all of the share is there again.
        let full_at_ms = found.map_or(0, |prefix| prefix.expires_at_ms).max(now_ms) + interval_ms;
        free_at_ms = (full_at_ms > window_end_ms).then(|| now_ms + (full_at_ms - window_end_ms));
        free_at_ms.is_none().then(|| {
            let count = u32::try_from((full_at_ms - now_ms) / interval_ms).unwrap_or(u32::MAX);
            let prefix = ChallengeCounter {
                prefix_sha256: prefix_sha256.to_owned(),
                count,
                expires_at_ms: full_at_ms,
            };
            (prefix, Outbox::new())
        })
    };
    match bus.change_record(&challenge_counter_key(prefix_sha256), next).await {
        Ok(_) => Ok(free_at_ms),
        // Too many at once to be counted: a moment later there may be room.
        Err(nats::BusError::Conflict { .. }) => Ok(Some(now_ms)),
        Err(error) => Err(error),
    }
}

fn hash_text(text: &str) -> ByteBuf {
    ByteBuf::from(Sha256::digest(text.as_bytes()).to_vec())
}

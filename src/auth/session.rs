//! Sessions: a family of refresh tokens, of which the newest is good, and the access tokens they give.
//!
//! A refresh token is `sgr_<session>_<number>_<secret>_<mac>`: 256 bits, stored as a hash. The mac says that we made it, so
//! an older number that comes again is a stolen or a twice used token and ends the session, while an invented one ends nothing.
//!
//! The first secret is random; each next one follows from the one before by a key of ours. So a client that refreshes twice with
//! one token, from two tabs or because an answer was lost, is given the same next one, and never a second line of tokens: for
//! [`AuthConfig::refresh_again_ms`], and only to the client that refreshed first.
//!
//! An ended session is refused on every replica within [`AuthConfig::recheck_ms`]: a session that was found open is looked up again
//! after that time, and refused when it can't be. `ctl.revoked` only makes it sooner, so a lost message costs nothing.
//!
//! Limits: [`AuthConfig::session_ttl_s`], [`AuthConfig::sessions_per_wallet_max`], [`AuthConfig::remembered_max`].

use std::{
    net::IpAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use alloy_primitives::{B256, hex};
use hmac::{Hmac, KeyInit, Mac};
use nats::metrics::table::{REFRESH_REUSES, SESSION_REFRESHES, SESSIONS_ENDED};
use nats::{Bus, Outbox, VersionedRecord};
use quick_cache::sync::Cache;
use schemas::{
    ids::{RequestId, SessionId},
    session::{
        AuthRefreshed, AuthReused, AuthSession, AuthSignedIn, AuthSignedOut, ContractProof, SessionEndReason,
        SignInMethod, WalletSessionEntry,
    },
    subjects,
};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    account::WalletAccount,
    address::WalletAddress,
    config::AuthConfig,
    denial::{SignInDenial, SignInError},
    proof::{ProofAge, ProofChecker},
    wallet_list,
};

/// Bytes of the mac in a refresh token.
const MAC_BYTES: usize = 16;

/// A session that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OpenSession {
    /// Its id.
    pub session_id: SessionId,
    /// Who signed in.
    pub account: WalletAccount,
    /// The chain the account was looked up on (EIP-155 number).
    pub chain_id: u64,
    /// Unix time in milliseconds at which it ends, however often it is refreshed.
    pub expires_at_ms: u64,
}

/// What a wallet has proved.
#[derive(Debug, Clone, Copy)]
pub(super) struct WalletProof<'a> {
    pub(super) address: WalletAddress,
    pub(super) chain_id: u64,
    pub(super) method: SignInMethod,
    pub(super) is_checksummed: bool,
    pub(super) digest: B256,
    pub(super) signature: &'a [u8],
    /// When the account was asked.
    pub(super) at: tokio::time::Instant,
}

impl WalletProof<'_> {
    fn proven_account(&self) -> WalletAccount {
        WalletAccount::from_sign_in(self.address, self.chain_id, self.method)
    }
}

/// Sessions as one replica knows them: records in KV, and those that are in use in memory.
#[derive(Debug)]
pub struct SessionStore {
    bus: Bus,
    config: Arc<AuthConfig>,
    mac_key: Vec<u8>,
    proofs: ProofChecker,
    seen: Cache<SessionId, (Instant, OpenSession)>,
}

impl SessionStore {
    pub(super) fn new(bus: Bus, config: Arc<AuthConfig>, mac_key: Vec<u8>, proofs: ProofChecker) -> Self {
        let seen = Cache::new(config.remembered_max);
        Self { bus, config, mac_key, proofs, seen }
    }

    /// Opens a session; answers it with its first refresh token.
    pub(super) async fn open_session(
        &self,
        proved: WalletProof<'_>,
        request_id: RequestId,
    ) -> Result<(OpenSession, String), SignInError> {
        let session_id = SessionId::from_bytes(nats::new_id_bytes());
        let now_ms = nats::now_ms();
        let expires_at_ms = now_ms.saturating_add(self.config.session_ttl_s.saturating_mul(1_000));
        let account = proved.proven_account();
        let secret = hex::encode(rand::random::<[u8; 32]>());
        let text = self.format_token(session_id, 1, &secret);
        let proof = (proved.method != SignInMethod::Key).then(|| ContractProof {
            digest: ByteBuf::from(proved.digest.to_vec()),
            signature: ByteBuf::from(proved.signature.to_vec()),
        });
        let session = AuthSession {
            session_id,
            address: proved.address.to_lower_hex(),
            chain_id: proved.chain_id,
            method: proved.method,
            account_chain_id: account.chain_id,
            generation: 1,
            refresh_sha256: hash_secret(&secret),
            refreshed_at_ms: None,
            refreshed_by: None,
            created_at_ms: now_ms,
            expires_at_ms,
            ended_at_ms: None,
            end: None,
            proof,
        };
        let event = AuthSignedIn {
            request_id,
            session_id,
            owner: account.owner_id(),
            chain_id: proved.chain_id,
            method: proved.method,
            is_checksummed: proved.is_checksummed,
        };
        // First the list, so that no open session is missing in it; and those that make room stay on it until they are over.
        let (entry, sessions_max) =
            (WalletSessionEntry { session_id, expires_at_ms }, self.config.sessions_per_wallet_max);
        let replaced = wallet_list::add_to_wallet(&self.bus, account, entry, sessions_max).await?;
        self.bus.commit_record(&mut VersionedRecord::new(session), Outbox::new().with_event(&event)).await?;
        self.retire_sessions(account, &replaced, SessionEndReason::Replaced, request_id).await?;
        if !wallet_list::listed_sessions(&self.bus, account).await?.contains(&session_id) {
            // All sessions of the wallet were ended in between, this one before it was there.
            self.end_session(session_id, SessionEndReason::Revoked, request_id).await?;
            return Err(SignInDenial::Session.into());
        }
        if account.chain_id.is_some() {
            self.proofs.record_confirmation(session_id, proved.at);
        }
        Ok((OpenSession { session_id, account, chain_id: proved.chain_id, expires_at_ms }, text))
    }

    /// The session that a refresh token of ours names; nothing is known yet about whether it is still good.
    pub fn session_of_token(&self, text: &str) -> Option<SessionId> {
        self.parse_token(text).map(|token| token.session_id)
    }

    /// Takes a refresh token of `client` for the next one. The same token later, or from somebody else, ends the session.
    pub async fn refresh_session(
        &self,
        text: &str,
        client: IpAddr,
        request_id: RequestId,
    ) -> Result<(OpenSession, String), SignInError> {
        let refreshed = self.take_refresh_token(text, client, request_id).await;
        SESSION_REFRESHES.increment(SignInError::outcome(refreshed.as_ref().err()));
        refreshed
    }

    async fn take_refresh_token(
        &self,
        text: &str,
        client: IpAddr,
        request_id: RequestId,
    ) -> Result<(OpenSession, String), SignInError> {
        let token = self.parse_token(text).ok_or(SignInDenial::Session)?;
        let session_id = token.session_id;
        self.require_fresh_proof(&token, client).await?;
        let refreshed_by = self.hash_client(client);
        let next_secret = self.derive_next_secret(&token);
        let next = self.format_token(session_id, token.generation.saturating_add(1), &next_secret);
        let mut turn = RefreshDecision::Over;
        let held = self
            .bus
            .change_record::<AuthSession>(&session_id.to_string(), |found| {
                // It may be called again after a conflict: what it found before says nothing then.
                turn = RefreshDecision::Over;
                let (session, account) = found.and_then(|s| Some((s, session_account(s)?)))?;
                let now_ms = nats::now_ms();
                turn = self.classify_token(session, &token, client, now_ms);
                let (generation, owner) = (token.generation, account.owner_id());
                match turn {
                    RefreshDecision::Over | RefreshDecision::Again => None,
                    RefreshDecision::Reused => {
                        let ended = build_ended_session(session, SessionEndReason::Reused);
                        Some((
                            ended,
                            Outbox::new().with_event(&AuthReused {
                                request_id,
                                session_id,
                                owner,
                                generation,
                            }),
                        ))
                    }
                    RefreshDecision::Next => {
                        let generation = generation.saturating_add(1);
                        let session = AuthSession {
                            generation,
                            refresh_sha256: hash_secret(&next_secret),
                            refreshed_at_ms: Some(now_ms),
                            refreshed_by: Some(refreshed_by.clone()),
                            ..session.clone()
                        };
                        let event = AuthRefreshed { request_id, session_id, owner, generation };
                        Some((session, Outbox::new().with_event(&event)))
                    }
                }
            })
            .await?;
        match (turn, held.and_then(|held| to_open_session(&held.record, nats::now_ms()))) {
            (RefreshDecision::Next | RefreshDecision::Again, Some(live)) => Ok((live, next)),
            (RefreshDecision::Reused, _) => {
                REFRESH_REUSES.increment(());
                self.evict_cached(session_id);
                publish_credential_end(&self.bus, &session_id.to_string()).await;
                Err(SignInDenial::Reused.into())
            }
            _ => Err(SignInDenial::Session.into()),
        }
    }

    /// The session, if it is open; what was found is believed for [`AuthConfig::recheck_ms`].
    pub(super) async fn find_open(
        &self,
        session_id: SessionId,
    ) -> Result<Option<OpenSession>, nats::BusError> {
        let now_ms = nats::now_ms();
        if let Some(live) = self.find_cached(session_id)
            && live.expires_at_ms > now_ms
        {
            return Ok(Some(live));
        }
        // The time counts from before the reading: what is read may be that old.
        let at = Instant::now();
        let held = self.bus.load_record::<AuthSession>(&session_id.to_string()).await?;
        let live = held.and_then(|held| to_open_session(&held.record, now_ms));
        match live {
            Some(live) => self.insert_cached(at, live),
            None => self.evict_cached(session_id),
        }
        Ok(live)
    }

    /// Ends a session; nothing happens when it is over already.
    pub async fn end_session(
        &self,
        session_id: SessionId,
        end: SessionEndReason,
        request_id: RequestId,
    ) -> Result<(), nats::BusError> {
        self.evict_cached(session_id);
        self::end_session(&self.bus, session_id, end, request_id).await
    }

    async fn close_session(
        &self,
        session_id: SessionId,
        end: SessionEndReason,
        request_id: RequestId,
    ) -> Result<(), nats::BusError> {
        self.evict_cached(session_id);
        self::close_session(&self.bus, session_id, end, request_id).await.map(drop)
    }

    /// Ends sessions of a wallet and takes them off its list, also those that are not there yet: a sign-in on its way sees that it
    /// is no longer listed, or is found when they are ended once more.
    async fn retire_sessions(
        &self,
        account: WalletAccount,
        session_ids: &[SessionId],
        end: SessionEndReason,
        request_id: RequestId,
    ) -> Result<(), nats::BusError> {
        for session_id in session_ids {
            self.close_session(*session_id, end, request_id).await?;
        }
        // Off the list once they are over: a crash before leaves them where "end all" finds them.
        wallet_list::remove_from_wallet(&self.bus, account, session_ids).await?;
        for session_id in session_ids {
            self.close_session(*session_id, end, request_id).await?;
        }
        Ok(())
    }

    /// Ends every session of a wallet; answers how many were on its list.
    pub async fn end_all_sessions(
        &self,
        account: WalletAccount,
        end: SessionEndReason,
        request_id: RequestId,
    ) -> Result<usize, nats::BusError> {
        let listed = wallet_list::listed_sessions(&self.bus, account).await?;
        self.retire_sessions(account, &listed, end, request_id).await?;
        Ok(listed.len())
    }

    /// Looks the session up at its next use.
    pub(super) fn evict_cached(&self, session_id: SessionId) {
        self.seen.remove(&session_id);
    }

    fn find_cached(&self, session_id: SessionId) -> Option<OpenSession> {
        self.seen.get(&session_id).filter(|(at, _)| self.is_fresh(*at)).map(|(_, live)| live)
    }

    fn insert_cached(&self, at: Instant, live: OpenSession) {
        self.seen.insert(live.session_id, (at, live));
    }

    fn is_fresh(&self, at: Instant) -> bool {
        at.elapsed() < Duration::from_millis(self.config.recheck_ms)
    }

    /// Asks the account's contract again, where there is one, for a token whose turn it is: what a token that is over or came
    /// before leads to depends on no chain.
    async fn require_fresh_proof(&self, token: &RefreshToken, client: IpAddr) -> Result<(), SignInError> {
        let session_id = token.session_id;
        let held = self.bus.load_record::<AuthSession>(&session_id.to_string()).await?;
        let Some(session) = held.map(|held| held.record) else { return Ok(()) };
        let age = match self.classify_token(&session, token, client, nats::now_ms()) {
            RefreshDecision::Next => ProofAge::Newest,
            RefreshDecision::Again => ProofAge::Used,
            RefreshDecision::Over | RefreshDecision::Reused => return Ok(()),
        };
        if session.method == SignInMethod::Key || self.proofs.is_session_confirmed(session_id, age).await? {
            return Ok(());
        }
        self.evict_cached(session_id);
        Err(SignInDenial::Proof.into())
    }

    /// The text of a refresh token.
    fn format_token(&self, session_id: SessionId, generation: u32, secret: &str) -> String {
        let body = format!("{session_id}_{generation}_{secret}");
        let tag = self.compute_mac(&body).finalize().into_bytes();
        format!("sgr_{body}_{}", hex::encode(tag.get(..MAC_BYTES).unwrap_or_default()))
    }

    /// The secret that follows that of `token`: always the same one, and nobody else can compute it.
    fn derive_next_secret(&self, token: &RefreshToken) -> String {
        let next = format!("next {} {} {}", token.session_id, token.generation, token.secret);
        hex::encode(self.compute_mac(&next).finalize().into_bytes())
    }

    /// What distinguishes clients, without saying who they are.
    fn hash_client(&self, client: IpAddr) -> ByteBuf {
        ByteBuf::from(self.compute_mac(&format!("client {client}")).finalize().into_bytes().to_vec())
    }

    fn classify_token(
        &self,
        session: &AuthSession,
        token: &RefreshToken,
        client: IpAddr,
        now_ms: u64,
    ) -> RefreshDecision {
        let is_good = |generation: u32, secret: &str| {
            // In constant time: the time of a comparison must not say how much of a guess is right.
            generation == session.generation && bool::from(hash_secret(secret).ct_eq(&session.refresh_sha256))
        };
        let is_soon = |at_ms: u64| now_ms.abs_diff(at_ms) < self.config.refresh_again_ms;
        let is_same = session.refreshed_by.as_ref().is_some_and(|by| *by == self.hash_client(client));
        if !session.is_open(now_ms) {
            RefreshDecision::Over
        } else if is_good(token.generation, &token.secret) {
            RefreshDecision::Next
        } else if is_same
            && session.refreshed_at_ms.is_some_and(is_soon)
            && is_good(token.generation.saturating_add(1), &self.derive_next_secret(token))
        {
            RefreshDecision::Again
        } else {
            // We made it and it is not the newest one: it was taken for a newer one before.
            RefreshDecision::Reused
        }
    }

    /// Reads a refresh token of ours; nothing is known yet about whether it is still good.
    fn parse_token(&self, text: &str) -> Option<RefreshToken> {
        let (body, tag) = text.strip_prefix("sgr_")?.rsplit_once('_')?;
        let tag: [u8; MAC_BYTES] = hex::decode_to_array(tag).ok()?;
        self.compute_mac(body).verify_truncated_left(&tag).ok()?;
        let mut parts = body.split('_');
        let (session_id, generation, secret) = (parts.next()?, parts.next()?, parts.next()?);
        Some(RefreshToken {
            session_id: session_id.parse().ok()?,
            generation: generation.parse().ok()?,
            secret: secret.to_owned(),
        })
    }

    fn compute_mac(&self, body: &str) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.mac_key).expect("a key of any length");
        mac.update(body.as_bytes());
        mac
    }
}

struct RefreshToken {
    session_id: SessionId,
    generation: u32,
    secret: String,
}

/// What a refresh token of ours leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum RefreshDecision {
    Over,
    Reused,
    /// The token before the good one, once more from the client that has the good one.
    Again,
    Next,
}

/// Ends a session; nothing happens when it is over already.
pub(super) async fn end_session(
    bus: &Bus,
    session_id: SessionId,
    end: SessionEndReason,
    request_id: RequestId,
) -> Result<(), nats::BusError> {
    match close_session(bus, session_id, end, request_id).await? {
        Some(account) => wallet_list::remove_from_wallet(bus, account, &[session_id]).await,
        None => Ok(()),
    }
}

/// Ends a session and leaves it on its wallet's list; answers whose it was, unless it was over already.
async fn close_session(
    bus: &Bus,
    session_id: SessionId,
    end: SessionEndReason,
    request_id: RequestId,
) -> Result<Option<WalletAccount>, nats::BusError> {
    let mut closed = None;
    bus.change_record::<AuthSession>(&session_id.to_string(), |found| {
        // It may be called again after a conflict, and then find that another has ended the session.
        closed = None;
        let session = found.filter(|session| session.ended_at_ms.is_none())?;
        let account = session_account(session)?;
        closed = Some(account);
        let event = AuthSignedOut { request_id, session_id, owner: account.owner_id(), end };
        Some((build_ended_session(session, end), Outbox::new().with_event(&event)))
    })
    .await?;
    publish_credential_end(bus, &session_id.to_string()).await;
    SESSIONS_ENDED.add((), u64::from(closed.is_some()));
    Ok(closed)
}

/// A hint to every replica that a session or an API key is over; each would find out by itself.
pub(crate) async fn publish_credential_end(bus: &Bus, credential_id: &str) {
    let payload = credential_id.to_owned().into_bytes();
    if let Err(error) = bus.publish_core(subjects::CONTROL_REVOKED.to_owned(), payload).await {
        tracing::warn!(%error, credential_id, "other replicas see the end of a credential a little later");
    }
}

/// The account that a session proved, as it was proven.
pub(crate) fn session_account(session: &AuthSession) -> Option<WalletAccount> {
    let address: WalletAddress = session.address.parse().ok()?;
    Some(WalletAccount { address, chain_id: session.account_chain_id })
}

fn build_ended_session(session: &AuthSession, end: SessionEndReason) -> AuthSession {
    AuthSession { ended_at_ms: Some(nats::now_ms()), end: Some(end), proof: None, ..session.clone() }
}

fn to_open_session(session: &AuthSession, now_ms: u64) -> Option<OpenSession> {
    let account = session_account(session)?;
    let (session_id, chain_id, expires_at_ms) = (session.session_id, session.chain_id, session.expires_at_ms);
    session.is_open(now_ms).then_some(OpenSession { session_id, account, chain_id, expires_at_ms })
}

fn hash_secret(text: &str) -> ByteBuf {
    ByteBuf::from(Sha256::digest(text.as_bytes()).to_vec())
}

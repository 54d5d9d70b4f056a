//! Sessions: a family of refresh tokens, of which the newest is good, and the access tokens they give.
//!
//! A refresh token is `sgr_<session>_<number>_<secret>_<mac>`: 256 random bits, stored as a hash. The mac says that we made it, so
//! an older number that comes again is a stolen or a twice used token and ends the session, while an invented one ends nothing.
//!
//! An ended session is refused on every replica within [`Config::recheck_ms`]: a session that was found open is looked up again
//! after that time, and refused when it can't be. `ctl.revoked` only makes it sooner, so a lost message costs nothing.
//!
//! Limits: [`Config::session_ttl_s`], [`Config::sessions_per_wallet_max`], [`Config::remembered_max`].

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use alloy_primitives::{B256, hex};
use hmac::{Hmac, KeyInit, Mac};
use nats::{Bus, Held, Outbox};
use schemas::{
    ids::{RequestId, SessionId},
    session::{
        End, Held as Entry, Method, Proof, Refreshed, Reused, Session, SignedIn, SignedOut, Wallet,
        wallet_key,
    },
    subjects,
};
use serde_bytes::ByteBuf;
use sha2::{Digest, Sha256};
use subtle::ConstantTimeEq;

use super::{
    config::Config,
    contract::{Question, Verdict, Verifier},
    denial::{Denial, Failure},
    value::Address,
};

/// Bytes of the mac in a refresh token.
const MAC_BYTES: usize = 16;

/// A session that is open.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Live {
    pub(super) session_id: SessionId,
    pub(super) address: Address,
    pub(super) chain_id: u64,
    pub(super) expires_at_ms: u64,
}

/// What a wallet has proved.
#[derive(Debug, Clone, Copy)]
pub(super) struct Proved<'a> {
    pub(super) address: Address,
    pub(super) chain_id: u64,
    pub(super) method: Method,
    pub(super) is_checksummed: bool,
    pub(super) digest: B256,
    pub(super) signature: &'a [u8],
}

#[derive(Debug)]
pub(super) struct Sessions {
    bus: Bus,
    config: Arc<Config>,
    mac_key: Vec<u8>,
    seen: Mutex<HashMap<SessionId, (Instant, Live)>>,
}

impl Sessions {
    pub(super) fn new(bus: Bus, config: Arc<Config>, mac_key: Vec<u8>) -> Self {
        Self { bus, config, mac_key, seen: Mutex::default() }
    }

    /// Opens a session; answers it with its first refresh token.
    pub(super) async fn open(
        &self,
        proved: Proved<'_>,
        request_id: RequestId,
    ) -> Result<(Live, String), Failure> {
        let session_id = SessionId::from_bytes(nats::fresh_id());
        let now_ms = nats::now_ms();
        let expires_at_ms = now_ms.saturating_add(self.config.session_ttl_s.saturating_mul(1_000));
        let (secret, text) = self.mint(session_id, 1);
        let proof = (proved.method != Method::Key).then(|| Proof {
            digest: ByteBuf::from(proved.digest.to_vec()),
            signature: ByteBuf::from(proved.signature.to_vec()),
        });
        let session = Session {
            session_id,
            address: proved.address.lower(),
            chain_id: proved.chain_id,
            method: proved.method,
            generation: 1,
            refresh_sha256: secret,
            created_at_ms: now_ms,
            expires_at_ms,
            ended_at_ms: None,
            end: None,
            proof,
        };
        let told = SignedIn {
            request_id,
            session_id,
            owner: proved.address.owner(),
            chain_id: proved.chain_id,
            method: proved.method,
            is_checksummed: proved.is_checksummed,
        };
        // First the list, so that no open session is missing in it; and those that make room stay on it until they are over.
        let replaced = self.enlist(proved.address, Entry { session_id, expires_at_ms }, now_ms).await?;
        self.bus.commit(&mut Held::new(session), Outbox::new().event(&told)).await?;
        self.retire(proved.address, &replaced, End::Replaced, request_id).await?;
        if !self.is_listed(proved.address, session_id).await? {
            // All sessions of the wallet were ended in between, this one before it was there.
            self.end(session_id, End::Revoked, request_id).await?;
            return Err(Denial::Session.into());
        }
        Ok((Live { session_id, address: proved.address, chain_id: proved.chain_id, expires_at_ms }, text))
    }

    /// The session that a refresh token of ours names; nothing is known yet about whether it is still good.
    pub(super) fn session_of(&self, text: &str) -> Option<SessionId> {
        self.read(text).map(|token| token.session_id)
    }

    /// Takes a refresh token for the next one. The same token a second time ends the session.
    pub(super) async fn refresh(
        &self,
        text: &str,
        verifier: &Verifier,
        request_id: RequestId,
    ) -> Result<(Live, String), Failure> {
        let token = self.read(text).ok_or(Denial::Session)?;
        let session_id = token.session_id;
        self.prove_again(&token, verifier, request_id).await?;
        let mut turn = Turn::Over;
        let mut next = String::new();
        let held = self
            .bus
            .change::<Session>(&session_id.to_string(), |found| {
                let (session, address) = found.and_then(|s| Some((s, s.address.parse::<Address>().ok()?)))?;
                turn = turn_of(session, &token, nats::now_ms());
                let (generation, owner) = (token.generation, address.owner());
                match turn {
                    Turn::Over => None,
                    Turn::Reused => {
                        let ended = ended(session, End::Reused);
                        Some((
                            ended,
                            Outbox::new().event(&Reused { request_id, session_id, owner, generation }),
                        ))
                    }
                    Turn::Next => {
                        let generation = generation + 1;
                        let (refresh_sha256, text) = self.mint(session_id, generation);
                        next = text;
                        let session = Session { generation, refresh_sha256, ..session.clone() };
                        let told = Refreshed { request_id, session_id, owner, generation };
                        Some((session, Outbox::new().event(&told)))
                    }
                }
            })
            .await?;
        match (turn, held.and_then(|held| live(&held.record, nats::now_ms()))) {
            (Turn::Next, Some(live)) => Ok((live, next)),
            (Turn::Reused, _) => {
                self.tell(session_id).await;
                Err(Denial::Reused.into())
            }
            _ => Err(Denial::Session.into()),
        }
    }

    /// The session, if it is open; what was found is believed for [`Config::recheck_ms`].
    pub(super) async fn find(&self, session_id: SessionId) -> Result<Option<Live>, nats::Error> {
        let now_ms = nats::now_ms();
        if let Some(live) = self.remembered(session_id)
            && live.expires_at_ms > now_ms
        {
            return Ok(Some(live));
        }
        // The time counts from before the reading: what is read may be that old.
        let at = Instant::now();
        let held = self.bus.load::<Session>(&session_id.to_string()).await?;
        let live = held.and_then(|held| live(&held.record, now_ms));
        match live {
            Some(live) => self.remember(at, live),
            None => self.forget(session_id),
        }
        Ok(live)
    }

    /// Ends a session; nothing happens when it is over already.
    pub(super) async fn end(
        &self,
        session_id: SessionId,
        end: End,
        request_id: RequestId,
    ) -> Result<(), nats::Error> {
        match self.close(session_id, end, request_id).await? {
            Some(address) => self.unlist(address, &[session_id]).await,
            None => Ok(()),
        }
    }

    /// Ends a session and leaves it on its wallet's list; answers the wallet, unless it was over already.
    async fn close(
        &self,
        session_id: SessionId,
        end: End,
        request_id: RequestId,
    ) -> Result<Option<Address>, nats::Error> {
        let mut address = None;
        self.bus
            .change::<Session>(&session_id.to_string(), |found| {
                let session = found.filter(|session| session.ended_at_ms.is_none())?;
                let owner = session.address.parse::<Address>().ok()?;
                address = Some(owner);
                let told = SignedOut { request_id, session_id, owner: owner.owner(), end };
                Some((ended(session, end), Outbox::new().event(&told)))
            })
            .await?;
        self.tell(session_id).await;
        Ok(address)
    }

    /// Ends sessions of a wallet and takes them off its list, also those that are not there yet: a sign-in on its way sees that it is
    /// no longer listed, or is found when they are ended once more.
    async fn retire(
        &self,
        address: Address,
        session_ids: &[SessionId],
        end: End,
        request_id: RequestId,
    ) -> Result<(), nats::Error> {
        for session_id in session_ids {
            self.close(*session_id, end, request_id).await?;
        }
        if !session_ids.is_empty() {
            self.unlist(address, session_ids).await?;
        }
        for session_id in session_ids {
            self.close(*session_id, end, request_id).await?;
        }
        Ok(())
    }

    async fn unlist(&self, address: Address, session_ids: &[SessionId]) -> Result<(), nats::Error> {
        self.bus
            .change::<Wallet>(&wallet_key(&address.lower()), |found| {
                let mut wallet = found.cloned()?;
                wallet.sessions.retain(|entry| !session_ids.contains(&entry.session_id));
                Some((wallet, Outbox::new()))
            })
            .await?;
        Ok(())
    }

    async fn is_listed(&self, address: Address, session_id: SessionId) -> Result<bool, nats::Error> {
        let held = self.bus.load::<Wallet>(&wallet_key(&address.lower())).await?;
        Ok(held.is_some_and(|held| held.record.sessions.iter().any(|entry| entry.session_id == session_id)))
    }

    /// Ends every session of a wallet; answers how many were on its list.
    pub(super) async fn end_all(
        &self,
        address: Address,
        end: End,
        request_id: RequestId,
    ) -> Result<usize, nats::Error> {
        let Some(held) = self.bus.load::<Wallet>(&wallet_key(&address.lower())).await? else { return Ok(0) };
        let listed: Vec<SessionId> = held.record.sessions.iter().map(|entry| entry.session_id).collect();
        self.retire(address, &listed, end, request_id).await?;
        Ok(listed.len())
    }

    /// Looks the session up at its next use.
    pub(super) fn forget(&self, session_id: SessionId) {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).remove(&session_id);
    }

    fn remembered(&self, session_id: SessionId) -> Option<Live> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(&session_id).filter(|(at, _)| self.is_fresh(*at)).map(|(_, live)| *live)
    }

    fn remember(&self, at: Instant, live: Live) {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.len() >= self.config.remembered_max {
            seen.retain(|_, (at, _)| self.is_fresh(*at));
        }
        if seen.len() < self.config.remembered_max {
            seen.insert(live.session_id, (at, live));
        }
    }

    fn is_fresh(&self, at: Instant) -> bool {
        at.elapsed() < Duration::from_millis(self.config.recheck_ms)
    }

    /// A hint to every replica; each would find out by itself.
    async fn tell(&self, session_id: SessionId) {
        self.forget(session_id);
        let payload = session_id.to_string().into_bytes();
        if let Err(error) = self.bus.tell(subjects::CONTROL_REVOKED.to_owned(), payload).await {
            tracing::warn!(%error, session.id = %session_id, "other replicas see the end of a session a little later");
        }
    }

    /// Asks the account's contract again, where there is one, for a token whose turn it is: what a token that is over or came before
    /// leads to depends on no chain.
    async fn prove_again(
        &self,
        token: &Token,
        verifier: &Verifier,
        request_id: RequestId,
    ) -> Result<(), Failure> {
        let session_id = token.session_id;
        let held = self.bus.load::<Session>(&session_id.to_string()).await?;
        let Some(session) = held.map(|held| held.record) else { return Ok(()) };
        if !matches!(turn_of(&session, token, nats::now_ms()), Turn::Next) {
            return Ok(());
        }
        let (Some(proof), Some(live)) = (&session.proof, live(&session, nats::now_ms())) else {
            return Ok(());
        };
        let question = Question {
            account: live.address,
            chain_id: session.chain_id,
            digest: B256::try_from(proof.digest.as_slice()).map_err(|_| Denial::Proof)?,
            signature: &proof.signature,
        };
        if verifier.verify(question).await? == Verdict::Invalid {
            self.end(session_id, End::ProofFailed, request_id).await?;
            return Err(Denial::Proof.into());
        }
        Ok(())
    }

    /// Puts a session on its wallet's list; answers those that have to make room.
    async fn enlist(
        &self,
        address: Address,
        entry: Entry,
        now_ms: u64,
    ) -> Result<Vec<SessionId>, nats::Error> {
        let mut replaced = Vec::new();
        let lower = address.lower();
        self.bus
            .change::<Wallet>(&wallet_key(&lower), |found| {
                let mut sessions = found.map(|wallet| wallet.sessions.clone()).unwrap_or_default();
                sessions.retain(|entry| entry.expires_at_ms > now_ms);
                sessions.push(entry);
                let too_many = sessions.len().saturating_sub(self.config.sessions_per_wallet_max);
                replaced = sessions.iter().take(too_many).map(|entry| entry.session_id).collect();
                let expires_at_ms = sessions.iter().map(|entry| entry.expires_at_ms).max().unwrap_or(now_ms);
                Some((Wallet { address: lower.clone(), sessions, expires_at_ms }, Outbox::new()))
            })
            .await?;
        Ok(replaced)
    }

    /// A fresh refresh token: the hash of its secret, and its text.
    fn mint(&self, session_id: SessionId, generation: u32) -> (ByteBuf, String) {
        let secret = hex::encode(rand::random::<[u8; 32]>());
        let body = format!("{session_id}_{generation}_{secret}");
        let tag = self.mac(&body).finalize().into_bytes();
        let tag = hex::encode(tag.get(..MAC_BYTES).unwrap_or_default());
        (hash(&secret), format!("sgr_{body}_{tag}"))
    }

    /// Reads a refresh token of ours; nothing is known yet about whether it is still good.
    fn read(&self, text: &str) -> Option<Token> {
        let (body, tag) = text.strip_prefix("sgr_")?.rsplit_once('_')?;
        let tag: [u8; MAC_BYTES] = hex::decode_to_array(tag).ok()?;
        self.mac(body).verify_truncated_left(&tag).ok()?;
        let mut parts = body.split('_');
        let (session_id, generation, secret) = (parts.next()?, parts.next()?, parts.next()?);
        Some(Token {
            session_id: session_id.parse().ok()?,
            generation: generation.parse().ok()?,
            secret: hash(secret),
        })
    }

    fn mac(&self, body: &str) -> Hmac<Sha256> {
        #[expect(clippy::expect_used, reason = "HMAC takes keys of every length")]
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.mac_key).expect("a key of any length");
        mac.update(body.as_bytes());
        mac
    }
}

struct Token {
    session_id: SessionId,
    generation: u32,
    secret: ByteBuf,
}

/// What a refresh token of ours leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Turn {
    Over,
    Reused,
    Next,
}

fn turn_of(session: &Session, token: &Token, now_ms: u64) -> Turn {
    let is_good =
        token.generation == session.generation && bool::from(token.secret.ct_eq(&session.refresh_sha256));
    if !session.is_open(now_ms) {
        Turn::Over
    } else if is_good {
        Turn::Next
    } else {
        // We made it and it is not the newest one: it was taken for a newer one before.
        Turn::Reused
    }
}

fn ended(session: &Session, end: End) -> Session {
    Session { ended_at_ms: Some(nats::now_ms()), end: Some(end), proof: None, ..session.clone() }
}

fn live(session: &Session, now_ms: u64) -> Option<Live> {
    let address = session.address.parse().ok()?;
    let (session_id, chain_id, expires_at_ms) = (session.session_id, session.chain_id, session.expires_at_ms);
    session.is_open(now_ms).then_some(Live { session_id, address, chain_id, expires_at_ms })
}

fn hash(text: &str) -> ByteBuf {
    ByteBuf::from(Sha256::digest(text.as_bytes()).to_vec())
}

//! Contract accounts are asked again whether they still take the signature that opened a session: their owners change.
//!
//! A session whose account says no is ended. While nobody can say, it is kept, and nothing that rests on it goes on. Key accounts
//! are never asked: their signature stays theirs.
//!
//! Limits: an account is asked once a block at most, by one task at a time, and not for `AGAIN` after an outage;
//! [`AuthConfig::proof_ms`] is how old an answer may be while the session is used; [`AuthConfig::remembered_max`] answers are kept.

use std::{collections::HashMap, sync::Arc, time::Duration};

use alloy_primitives::B256;
use evm::EvmClient;
use nats::Bus;
use parking_lot::Mutex;
use schemas::{
    ids::SessionId,
    session::{AuthSession, SessionEndReason, SignInMethod},
};
use tokio::time::Instant;

use super::{
    config::AuthConfig,
    contract::{
        ContractCallError, ContractCaller, ContractSignatureVerifier, SignatureCheck, SignatureVerdict,
    },
    denial::SignInError,
    session,
};
use web::request;

/// How long after an outage nobody is asked about the same session.
const AGAIN: Duration = Duration::from_secs(1);

/// How new an answer has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofAge {
    /// Of the newest block.
    Newest,
    /// Not older than a session that is used may go by.
    Used,
}

/// What an account said last.
#[derive(Debug, Default)]
struct LastProofAnswer {
    /// When it was asked and said yes, and at which block.
    yes: Option<(Instant, Option<B256>)>,
    /// When nobody could say.
    away: Option<Instant>,
}

type ProofSlot = Arc<tokio::sync::Mutex<LastProofAnswer>>;

/// Asks accounts again. Cheap to clone; clones share what they know.
#[derive(Debug, Clone)]
pub struct ProofChecker {
    shared: Arc<ProofCheckerState>,
}

#[derive(Debug)]
struct ProofCheckerState {
    bus: Bus,
    verifier: ContractSignatureVerifier,
    age_max: Duration,
    remembered_max: usize,
    said: Mutex<HashMap<SessionId, ProofSlot>>,
}

impl ProofChecker {
    /// Without `chain`, no contract's session stands.
    pub fn new(bus: Bus, chain: Option<Arc<dyn ContractCaller>>, config: &AuthConfig) -> Self {
        let shared = ProofCheckerState {
            bus,
            verifier: ContractSignatureVerifier::new(chain, config),
            age_max: Duration::from_millis(config.proof_ms),
            remembered_max: config.remembered_max,
            said: Mutex::default(),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The same over the providers of `chains`, apart from what others ask there.
    pub fn with_chains(bus: Bus, chains: &EvmClient, config: &AuthConfig) -> Self {
        Self::new(bus, Some(Arc::new(chains.with_separate_limits())), config)
    }

    /// The account of a new session said yes when it was asked at `at`.
    pub(super) fn record_confirmation(&self, session_id: SessionId, at: Instant) {
        if let Ok(mut said) = self.session_slot(session_id).try_lock() {
            said.yes = Some((at, None));
        }
    }

    /// Whether the session is open and its account stands by it; ends it when the account does not.
    ///
    /// # Errors
    /// When nobody can say now: the session is kept.
    pub async fn is_session_confirmed(
        &self,
        session_id: SessionId,
        age: ProofAge,
    ) -> Result<bool, SignInError> {
        let slot = self.session_slot(session_id);
        // Callers that come meanwhile take the answer that this one gets.
        let mut said = slot.lock().await;
        if age == ProofAge::Used && said.yes.is_some_and(|(at, _)| at.elapsed() < self.shared.age_max) {
            return Ok(true);
        }
        if said.away.is_some_and(|at| at.elapsed() < AGAIN) {
            return Err(unavailable_error().into());
        }
        let held = self.shared.bus.load_record::<AuthSession>(&session_id.to_string()).await?;
        let Some(session) = held.map(|held| held.record).filter(|session| session.is_open(nats::now_ms()))
        else {
            return Ok(false);
        };
        if session.method == SignInMethod::Key {
            return Ok(true);
        }
        let at = Instant::now();
        let known = said.yes.and_then(|(_, block)| block);
        match self.verify_at_head(&session, known).await {
            Ok((Some(SignatureVerdict::Invalid), _)) => {
                *said = LastProofAnswer::default();
                session::end_session(
                    &self.shared.bus,
                    session_id,
                    SessionEndReason::ProofFailed,
                    request::current_or_fresh_id(),
                )
                .await?;
                Ok(false)
            }
            Ok((_, block)) => {
                *said = LastProofAnswer { yes: Some((at, Some(block))), away: None };
                Ok(true)
            }
            Err(error) => {
                said.away = Some(Instant::now());
                Err(error.into())
            }
        }
    }

    /// Asks at the newest block; no verdict when that is `known`.
    async fn verify_at_head(
        &self,
        session: &AuthSession,
        known: Option<B256>,
    ) -> Result<(Option<SignatureVerdict>, B256), ContractCallError> {
        let question = || {
            let proof = session.proof.as_ref()?;
            let digest = B256::try_from(proof.digest.as_slice()).ok()?;
            let account = session.address.parse().ok()?;
            Some(SignatureCheck { account, chain_id: session.chain_id, digest, signature: &proof.signature })
        };
        // What can't be asked again proves nothing.
        let Some(question) = question() else { return Ok((Some(SignatureVerdict::Invalid), B256::ZERO)) };
        match self.shared.verifier.verify_at_head(question, known).await {
            // A chain that was taken out of the settings may be there again.
            Err(ContractCallError::Unsupported) => Err(unavailable_error()),
            answer => answer,
        }
    }

    fn session_slot(&self, session_id: SessionId) -> ProofSlot {
        let mut said = self.shared.said.lock();
        if let Some(slot) = said.get(&session_id) {
            return Arc::clone(slot);
        }
        let slot = ProofSlot::default();
        if said.len() >= self.shared.remembered_max {
            let is_new =
                |said: &LastProofAnswer| said.yes.is_some_and(|(at, _)| at.elapsed() < self.shared.age_max);
            // One that is held is in use.
            said.retain(|_, slot| {
                slot.try_lock().is_ok_and(|said| is_new(&said)) || Arc::strong_count(slot) > 1
            });
        }
        if said.len() < self.shared.remembered_max {
            said.insert(session_id, Arc::clone(&slot));
        }
        slot
    }
}

fn unavailable_error() -> ContractCallError {
    ContractCallError::Unavailable("the account's chain could not be asked a moment ago".into())
}

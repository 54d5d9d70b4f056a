//! Who is asking: wallets that signed in, and API keys.
//!
//! A wallet asks for a challenge, signs it (ERC-4361 text or one EIP-712 structure), and gets an access token for minutes and a
//! refresh token for the next one. A token names a session; what its wallet may do comes from
//! settings at every request. An API key is for machines.
//!
//! The credential is read from the `Authorization` header and from nowhere else: not from the URL, not from a cookie. Whatever
//! can't be read in KV denies.
//!
//! Limits: an `Authorization` header of more than [`HEADER_LENGTH_MAX`] characters is refused unread; the rest is in
//! [`AuthConfig`].

mod access_check;
pub mod account;
pub mod address;
mod budget;
mod chain_call;
pub mod challenge;
pub mod claim;
pub mod config;
pub mod contract;
pub mod denial;
pub mod key;
pub mod key_ring;
mod known_keys;
pub mod link;
pub mod login;
pub mod message;
pub mod proof;
pub mod removal;
pub mod session;
pub mod signature;
#[cfg(feature = "testing")]
pub mod testing;
#[cfg(test)]
mod tests;
pub mod token;
pub mod typed;
pub mod upload_grant;
pub mod upload_token;
pub mod uri;
mod wallet_list;

use std::{sync::Arc, time::Duration};

use axum::{
    extract::{FromRequestParts, Request, State},
    http::{Extensions, HeaderMap, Method, StatusCode, header, request::Parts},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures::StreamExt;
use nats::Bus;
use nats::metrics::{labels::CredentialOutcome, table::CREDENTIALS};
use schemas::{
    access::{ApiKey, ApiKeyScope, PrincipalRole},
    gate::PlaybackCredential,
    ids::{KeyId, SessionId, UploadGrantId},
    subjects,
};
use tokio::{sync::broadcast, time::Instant};
use tokio_util::sync::CancellationToken;

use web::{
    access_sums::{RequestSender, ShownCredential},
    error::Problem,
    limit::RateLimitPermit,
    operation::{OperationAccess, matched_operation},
    problem_code::ProblemCode,
    request::{RequestGrant, RequestOwner},
};

pub use config::{AuthConfig, CHALLENGE_TTL_S_MAX, PROOF_MS_MAX, RECHECK_MS_MAX, REFRESH_AGAIN_MS_MAX};
pub use denial::SignInDenial;
pub use key::{
    FIRST_OWNER, NewApiKey, create_api_key, create_first_key, hash_owner, list_key_ids, load_signing_key,
    transfer_key,
};
pub use proof::ProofChecker;

use account::WalletAccount;
use denial::SignInError;
use proof::ProofAge;

/// Longest `Authorization` header in characters.
pub const HEADER_LENGTH_MAX: usize = token::LENGTH_MAX + 16;

/// How soon a credential that can't be looked at is looked at again.
const AWAY_PAUSE: Duration = Duration::from_secs(1);

/// Who is asking.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// Whose media it works on; of a wallet `eip155:0x...` or, of a contract, `eip155:<chain>:0x...`, in lower case.
    pub owner: String,
    /// What it may do.
    pub role: PrincipalRole,
    /// The wallet that signed in, if one did, as it was proven.
    pub wallet: Option<WalletAccount>,
    /// Its session.
    pub session_id: Option<SessionId>,
    /// The API key, if it is one.
    pub key_id: Option<KeyId>,
    /// Where it may do what it may; absent for everywhere.
    pub scopes: Option<Vec<ApiKeyScope>>,
    /// The grant, if it is one: then it works on the one upload that began with that.
    pub upload_grant: Option<UploadGrantId>,
}

impl Principal {
    /// A principal without wallet, session or key.
    pub fn new(owner: impl Into<String>, role: PrincipalRole) -> Self {
        Self {
            owner: owner.into(),
            role,
            wallet: None,
            session_id: None,
            key_id: None,
            scopes: None,
            upload_grant: None,
        }
    }

    /// Puts it among the request's extensions, where handlers find it, and its owner, by whom requests are counted.
    pub fn attach_to_request(self, request: &mut Request) {
        request.extensions_mut().insert(RequestOwner(self.owner.clone()));
        if let Some(grant_id) = self.upload_grant {
            request.extensions_mut().insert(RequestGrant(grant_id.to_string()));
        }
        request.extensions_mut().insert(self);
    }

    fn from_key(key: &ApiKey) -> Self {
        Self { key_id: Some(key.key_id), scopes: key.scopes.clone(), ..Self::new(&*key.owner, key.role) }
    }

    /// What stands for it later, while it is good; `None` for one that has no credential of ours.
    pub fn credential(&self) -> Option<PlaybackCredential> {
        let session = self.session_id.map(PlaybackCredential::SignIn);
        session.or_else(|| self.key_id.map(PlaybackCredential::Key))
    }

    /// True when it may read and change what `owner` owns.
    pub fn may_change(&self, owner: &str) -> bool {
        self.role == PrincipalRole::Admin || (self.role == PrincipalRole::Owner && self.owner == owner)
    }

    /// True when it may see what `owner` owns.
    pub fn may_see(&self, owner: &str) -> bool {
        self.role != PrincipalRole::Owner || self.owner == owner
    }

    /// True when it may use operations of that group.
    pub fn has_scope(&self, scope: ApiKeyScope) -> bool {
        self.scopes.as_ref().is_none_or(|scopes| scopes.contains(&scope))
    }

    /// The owner whose things a list shows; `None` for all.
    pub fn list_owner_filter(&self) -> Option<String> {
        (self.role == PrincipalRole::Owner).then(|| self.owner.clone())
    }

    /// Lets operators and administrators pass.
    ///
    /// # Errors
    /// 403 with `title` for everybody else.
    pub fn require_operator(&self, detail: &'static str) -> Result<(), Problem> {
        if self.role == PrincipalRole::Owner {
            Err(Problem::new(ProblemCode::OperatorsOnly).with_detail(detail))
        } else {
            Ok(())
        }
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Principal {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts.extensions.get::<Self>().cloned().ok_or_else(Problem::unauthorized)
    }
}

/// Sign-in as one replica does it. Cheap to clone.
#[derive(Debug, Clone)]
pub struct SignInService {
    shared: Arc<SignInState>,
}

#[derive(Debug)]
struct SignInState {
    bus: Bus,
    config: Arc<AuthConfig>,
    keys: known_keys::KnownKeys,
    ring: key_ring::SigningKeyRing,
    sessions: session::SessionStore,
    /// Asks for strangers; what they bring about touches no session.
    verifier: contract::ContractSignatureVerifier,
    budget: budget::ContractCallBudget,
    proofs: ProofChecker,
}

impl SignInService {
    /// Reads the signing keys, making them where there are none. `chain` asks the accounts that are contracts, for strangers;
    /// `proofs` asks those who signed in.
    ///
    /// # Errors
    /// [`nats::BusError::Unavailable`] when the broker does not answer.
    pub async fn open(
        bus: Bus,
        config: AuthConfig,
        chain: Option<Arc<dyn contract::ContractCaller>>,
        proofs: ProofChecker,
    ) -> Result<Self, nats::BusError> {
        let config = Arc::new(config);
        let ring = key_ring::SigningKeyRing::open(bus.clone(), Arc::clone(&config)).await?;
        let mac_key = load_signing_key(&bus, "refresh").await?;
        let sessions = session::SessionStore::new(bus.clone(), Arc::clone(&config), mac_key, proofs.clone());
        let verifier = contract::ContractSignatureVerifier::new(chain, &config);
        let budget = budget::ContractCallBudget::new(config.contract_asks_per_prefix_per_minute_max);
        let keys = known_keys::KnownKeys::new(bus.clone(), &config);
        Ok(Self {
            shared: Arc::new(SignInState { bus, config, keys, ring, sessions, verifier, budget, proofs }),
        })
    }

    /// A value of a bucket was written here: an API key that it is the record of is read anew at its next use.
    pub fn note_write(&self, bucket: &str, key: &str) {
        self.shared.keys.note_write(bucket, key);
    }

    /// Receives the ends of sessions and API keys, and keeps the ring of signing keys, until `shutdown`.
    ///
    /// # Errors
    /// [`nats::BusError::Unavailable`] when the broker does not take the subscription.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), nats::BusError> {
        let shared = &self.shared;
        let mut ended = shared.bus.subscribe_core(subjects::CONTROL_REVOKED.to_owned()).await?;
        let mut ticks = tokio::time::interval(Duration::from_millis(shared.config.ring_refresh_ms));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return Ok(()),
                message = ended.next() => {
                    let Some(message) = message else {
                        return Err(nats::BusError::unavailable("the subscription has ended"));
                    };
                    let text = std::str::from_utf8(&message.payload).unwrap_or_default();
                    if let Ok(session_id) = text.parse() {
                        shared.sessions.evict_cached(session_id);
                    }
                    shared.keys.note_end(text);
                }
                _ = ticks.tick() => {
                    if let Err(error) = shared.ring.rotate_keys(nats::now_ms()).await {
                        tracing::warn!(%error, "the ring of signing keys is read again later");
                    }
                    shared.ring.record_overdue(nats::now_ms());
                }
            }
        }
    }

    /// Finds out whose credential this is; `None` when it opens nothing.
    ///
    /// # Errors
    /// When that can't be known: it never lets anyone in.
    pub async fn identify_credential(&self, credential: &str) -> Result<Option<Principal>, SignInError> {
        let Some(who) = self.look_up_credential(credential).await? else { return Ok(None) };
        Ok(self.is_proof_valid(&who, ProofAge::Used).await?.then_some(who))
    }

    /// The same without asking the account of a session whether it stands by it.
    async fn look_up_credential(&self, credential: &str) -> Result<Option<Principal>, SignInError> {
        let shared = &self.shared;
        if credential.starts_with(upload_grant::PREFIX) {
            return self.find_grant_holder(credential).await;
        }
        if credential.starts_with("sg_") {
            let key = shared.keys.find(credential).await?;
            return Ok(key.as_deref().map(Principal::from_key));
        }
        let Some(key_id) = token::read_key_id(credential) else { return Ok(None) };
        let Some(key) = shared.ring.find_key(key_id).await? else { return Ok(None) };
        let Some(claims) = token::verify_token(credential, &key, &shared.config.issuer) else {
            return Ok(None);
        };
        let Some(live) = shared.sessions.find_open(claims.sid).await? else { return Ok(None) };
        // The session decides whose it is; a token that says otherwise is none of ours.
        Ok((live.account.owner_id() == claims.sub).then(|| Principal {
            wallet: Some(live.account),
            session_id: Some(live.session_id),
            ..Principal::new(claims.sub, shared.role_of_wallet(live.account))
        }))
    }

    /// Whether the account that signed in stands by the session, where it is a contract.
    async fn is_proof_valid(&self, who: &Principal, age: ProofAge) -> Result<bool, SignInError> {
        let (Some(WalletAccount { chain_id: Some(_), .. }), Some(session_id)) = (who.wallet, who.session_id)
        else {
            return Ok(true);
        };
        let stands = self.shared.proofs.is_session_confirmed(session_id, age).await?;
        if !stands {
            self.shared.sessions.evict_cached(session_id);
        }
        Ok(stands)
    }

    /// Has the account that signed in, where it is a contract, say now that it stands by the session.
    pub async fn require_fresh_proof(&self, who: &Principal) -> Result<(), SignInError> {
        if self.is_proof_valid(who, ProofAge::Newest).await? {
            Ok(())
        } else {
            Err(SignInDenial::Proof.into())
        }
    }

    /// Comes when what `who` showed is good no more, or nobody could say for [`PROOF_MS_MAX`] whether it is. Looks every `pause`, when
    /// the credential comes to its end, and soon after `ends` named the owner.
    pub async fn wait_until_invalid(
        self,
        who: Principal,
        pause: Duration,
        mut ends: broadcast::Receiver<Arc<str>>,
    ) {
        let mut good_at = Instant::now();
        let mut wait = Duration::ZERO;
        while good_at.elapsed() < Duration::from_millis(PROOF_MS_MAX) {
            let is_named = tokio::select! {
                () = tokio::time::sleep(wait) => false,
                () = wait_for_owner(&mut ends, &who.owner) => true,
            };
            match self.find_validity_end(&who).await {
                Ok(Some(end_ms)) => {
                    good_at = Instant::now();
                    let left = Duration::from_millis(end_ms.saturating_sub(nats::now_ms()).max(1));
                    // What was found of a session is believed for a moment: it is looked at again when that is over.
                    let next =
                        if is_named { Duration::from_millis(self.shared.config.recheck_ms) } else { pause };
                    wait = next.min(left);
                }
                Ok(None) => return,
                Err(error) => {
                    wait = pause.min(AWAY_PAUSE);
                    tracing::debug!(%error, "a credential in use could not be looked at");
                }
            }
        }
    }

    /// Until when the session is open and its account stands by it, or the key is good, as Unix time in milliseconds; `None` when that
    /// is over.
    async fn find_validity_end(&self, who: &Principal) -> Result<Option<u64>, SignInError> {
        let shared = &self.shared;
        let end_ms = match (who.session_id, who.key_id) {
            (Some(session_id), _) => {
                shared.sessions.find_open(session_id).await?.map(|open| open.expires_at_ms)
            }
            (None, Some(key_id)) => key::find_key_end(&shared.bus, key_id).await?,
            (None, None) => Some(u64::MAX),
        };
        Ok(if self.is_proof_valid(who, ProofAge::Used).await? { end_ms } else { None })
    }
}

/// Comes when `ends` named the owner, or had more to say than was kept.
async fn wait_for_owner(ends: &mut broadcast::Receiver<Arc<str>>, owner: &str) {
    loop {
        match ends.recv().await {
            Ok(named) if *named == *owner => return,
            Ok(_) => {}
            Err(broadcast::error::RecvError::Lagged(_)) => return,
            Err(broadcast::error::RecvError::Closed) => std::future::pending::<()>().await,
        }
    }
}

impl SignInService {
    fn role_of_wallet(&self, wallet: WalletAccount) -> PrincipalRole {
        self.shared.role_of_wallet(wallet)
    }
}

impl SignInState {
    fn role_of_wallet(&self, wallet: WalletAccount) -> PrincipalRole {
        if self.config.admins.contains(&wallet) {
            PrincipalRole::Admin
        } else if self.config.operators.contains(&wallet) {
            PrincipalRole::Operator
        } else {
            PrincipalRole::Owner
        }
    }
}

/// Lets through whose request the operation takes; where that is a principal, the handler finds the [`Principal`] among the
/// request's extensions. A route without an operation takes a principal without a limit alone.
pub async fn enforce_access(
    State(sign_in): State<SignInService>,
    mut request: Request,
    next: Next,
) -> Response {
    let access = matched_operation(&request).map(|operation| operation.access);
    let is_anonymous = match access {
        _ if *request.method() == Method::OPTIONS => true,
        Some(OperationAccess::Open | OperationAccess::Body | OperationAccess::Path) => true,
        Some(OperationAccess::Optional(_)) => !request.headers().contains_key(header::AUTHORIZATION),
        Some(OperationAccess::Principal(_) | OperationAccess::UnlimitedPrincipal | OperationAccess::Own)
        | None => false,
    };
    if is_anonymous {
        return next.run(request).await;
    }
    let found = authenticate_request(&sign_in, request.headers(), request.extensions()).await;
    CREDENTIALS.increment(match &found {
        Ok(_) => CredentialOutcome::Accepted,
        Err(problem) if problem.status().is_client_error() => CredentialOutcome::Unknown,
        Err(_) => CredentialOutcome::Unavailable,
    });
    let principal = match found {
        Ok(principal) => principal,
        Err(problem) if problem.status() == StatusCode::UNAUTHORIZED => {
            let shown = describe_headers(request.headers());
            return sent_by(RequestSender::Refused(shown), problem.into_response());
        }
        // Nobody knows what it is worth.
        Err(problem) => return problem.into_response(),
    };
    let sender = RequestSender::Known { role: principal.role, account: principal.owner.clone() };
    let response = match access_check::check_access(&principal, request.method(), access) {
        Ok(()) => {
            principal.attach_to_request(&mut request);
            next.run(request).await
        }
        Err(denial) => Problem::from(denial).into_response(),
    };
    sent_by(sender, response)
}

fn sent_by(sender: RequestSender, mut response: Response) -> Response {
    response.extensions_mut().insert(sender);
    response
}

/// What kind of credential a text is by its form, with its public half.
pub fn describe_credential(text: &str) -> ShownCredential {
    let grant = upload_grant::read_grant_id(text).map(ShownCredential::UploadGrant);
    let key = || key::parse_key(text).map(|(key_id, _)| ShownCredential::ApiKey(key_id));
    let token = || token::read_key_id(text).map(|_| ShownCredential::Token);
    grant.or_else(key).or_else(token).unwrap_or(ShownCredential::Unknown)
}

/// The same of the credential in headers.
fn describe_headers(headers: &HeaderMap) -> ShownCredential {
    match read_credential(headers) {
        Ok(credential) => describe_credential(credential),
        Err(_) if headers.contains_key(header::AUTHORIZATION) => ShownCredential::Unknown,
        Err(_) => ShownCredential::None,
    }
}

/// Finds out who sent this request, when it is its client's turn.
///
/// # Errors
/// 401 when there is no valid credential; 503 when it can't be checked: an unreadable store never lets anyone in.
pub async fn authenticate_request(
    sign_in: &SignInService,
    headers: &HeaderMap,
    extensions: &Extensions,
) -> Result<Principal, Problem> {
    let credential = read_credential(headers)?;
    let ticket = extensions.get::<RateLimitPermit>().cloned().unwrap_or_default();
    let turn = ticket.wait_for_lookup().await?;
    let found = sign_in.look_up_credential(credential).await;
    drop(turn);
    let who = found?.ok_or_else(Problem::unauthorized)?;
    // An account that is slow to answer keeps nobody else of its client waiting.
    if sign_in.is_proof_valid(&who, ProofAge::Used).await? { Ok(who) } else { Err(Problem::unauthorized()) }
}

/// Finds out whose credential came in a message of a connection, and whether it may use an operation with this access; counts it for
/// the principal, or a refused one as a guess.
///
/// # Errors
/// 401 for a credential that opens nothing, 403 for one that is limited to other operations, 429 when there is no room, 503 when that
/// can't be known.
pub async fn authenticate_message(
    sign_in: &SignInService,
    credential: &str,
    ticket: &RateLimitPermit,
    operation: (&Method, OperationAccess),
) -> Result<Principal, Problem> {
    match identify_message(sign_in, credential, ticket, operation).await {
        Ok(who) => {
            match who.upload_grant {
                Some(grant_id) => ticket.admit_principal(&format!("grant:{grant_id}"))?,
                None => ticket.admit_principal(&who.owner)?,
            }
            Ok(who)
        }
        Err(problem) => {
            ticket.settle_response(problem.status())?;
            Err(problem)
        }
    }
}

async fn identify_message(
    sign_in: &SignInService,
    credential: &str,
    ticket: &RateLimitPermit,
    (method, access): (&Method, OperationAccess),
) -> Result<Principal, Problem> {
    if credential.len() > HEADER_LENGTH_MAX {
        return Err(Problem::unauthorized());
    }
    let turn = ticket.wait_for_lookup().await?;
    let found = sign_in.look_up_credential(credential).await;
    drop(turn);
    let who = found?.ok_or_else(Problem::unauthorized)?;
    if !sign_in.is_proof_valid(&who, ProofAge::Used).await? {
        return Err(Problem::unauthorized());
    }
    access_check::check_access(&who, method, Some(access)).map_err(Problem::from)?;
    Ok(who)
}

/// The credential of a request (RFC 6750, 2.1); the name of its scheme is written in any case (RFC 9110, 11.1).
fn read_credential(headers: &HeaderMap) -> Result<&str, Problem> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    // Of two credentials nobody could say which one counts.
    let (Some(value), None) = (values.next(), values.next()) else { return Err(Problem::unauthorized()) };
    let text = value.to_str().ok().filter(|text| text.len() <= HEADER_LENGTH_MAX);
    let (scheme, credential) =
        text.and_then(|text| text.split_once(' ')).ok_or_else(Problem::unauthorized)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(credential.trim()) } else { Err(Problem::unauthorized()) }
}

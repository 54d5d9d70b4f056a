//! Signing in: a challenge is judged, used up, and a session opened; access tokens of sessions.

use alloy_primitives::hex;
use nats::metrics::table::{SIGN_IN_DENIALS, SIGN_INS};
use nats::{Bus, VersionedRecord};
use schemas::{access::PrincipalRole, ids::RequestId, session::SignInChallenge};

use super::{
    AuthConfig, SignInService,
    account::WalletAccount,
    challenge,
    claim::SignInClaims,
    contract::{ContractCallError, SignatureCheck, SignatureVerdict, verify_by_key},
    denial::{SignInDenial, SignInError},
    key_ring::SigningKeyRing,
    session::{OpenSession, SessionStore, WalletProof},
    token::{self, AccessTokenClaims},
};
use web::client::ClientAddress;

/// What somebody shows to sign in.
#[derive(Debug, Clone, Copy)]
pub struct SignInAttempt<'a> {
    /// What was signed.
    pub claim: &'a SignInClaims,
    /// Its signature.
    pub signature: &'a [u8],
    /// Where the request comes from.
    pub client: ClientAddress,
    /// The cookie of the challenge.
    pub cookie: Option<&'a str>,
}

/// An access token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccessToken {
    /// Goes into `Authorization: Bearer ...`.
    pub text: String,
    /// Seconds for which it is good.
    pub expires_in_s: u64,
}

impl SignInService {
    /// The settings.
    pub fn config(&self) -> &AuthConfig {
        &self.shared.config
    }

    /// The sessions.
    pub fn sessions(&self) -> &SessionStore {
        &self.shared.sessions
    }

    /// The keys that tokens are signed with.
    pub fn key_ring(&self) -> &SigningKeyRing {
        &self.shared.ring
    }

    /// The bus with the rights of the ingress.
    pub fn bus(&self) -> &Bus {
        &self.shared.bus
    }

    /// Chains that a challenge names.
    pub fn offered_chains(&self) -> &[u64] {
        let config = self.config();
        if config.offered_chains.is_empty() { &config.chains } else { &config.offered_chains }
    }

    /// What an account may do, by the settings.
    pub fn role_of(&self, account: WalletAccount) -> PrincipalRole {
        self.shared.role_of_wallet(account)
    }

    /// Judges an attempt at the challenge `held` and opens a session with its first refresh token. Granted or denied, the challenge
    /// is used up; when nothing is known of the attempt it stays good for the next.
    ///
    /// # Errors
    /// [`SignInError::Denied`] says why nobody is signed in; the others, that it can't be known now.
    pub async fn open_session(
        &self,
        attempt: SignInAttempt<'_>,
        held: &mut VersionedRecord<SignInChallenge>,
        request_id: RequestId,
    ) -> Result<(OpenSession, String), SignInError> {
        let opened = self.judge_attempt(attempt, held, request_id).await;
        SIGN_INS.increment(SignInError::outcome(opened.as_ref().err()));
        if let Err(SignInError::Denied(denial)) = &opened {
            SIGN_IN_DENIALS.increment(&[denial.code()]);
        }
        opened
    }

    async fn judge_attempt(
        &self,
        attempt: SignInAttempt<'_>,
        held: &mut VersionedRecord<SignInChallenge>,
        request_id: RequestId,
    ) -> Result<(OpenSession, String), SignInError> {
        let bus = self.bus();
        let proved = match self.verify_attempt(held, attempt).await {
            Ok(proved) => proved,
            Err(SignInError::Denied(denial)) => {
                challenge::reject_attempt(bus, held, &denial, (attempt.claim.address, request_id)).await?;
                return Err(denial.into());
            }
            Err(failure) => return Err(failure),
        };
        // Used up before the session: of two attempts with one nonce the compare-and-set lets one through.
        challenge::consume_challenge(bus, held).await?;
        let opened = self.sessions().open_session(proved, request_id).await;
        // Only an outage gives it back; an attempt that was judged has used it up.
        if matches!(opened, Err(SignInError::Bus(_))) {
            challenge::release_challenge(bus, held).await;
        }
        opened
    }

    /// Signs an access token of an open session.
    ///
    /// # Errors
    /// [`SignInError::NoKey`] when there is no key to sign with.
    pub fn sign_access_token(&self, live: &OpenSession) -> Result<AccessToken, SignInError> {
        let now_ms = nats::now_ms();
        let (issued_s, end_s) = (now_ms / 1_000, live.expires_at_ms / 1_000);
        let claims = AccessTokenClaims {
            iss: self.config().issuer.clone(),
            aud: token::AUDIENCE.to_owned(),
            sub: live.account.owner_id(),
            // Never beyond the session: a replica that checks the token alone would let it in later.
            exp: issued_s.saturating_add(self.config().access_ttl_s).min(end_s),
            nbf: issued_s,
            iat: issued_s,
            jti: RequestId::from_bytes(nats::new_id_bytes()),
            sid: live.session_id,
        };
        let key = self.shared.ring.signing_key(now_ms).ok_or(SignInError::NoKey)?;
        let text = token::sign_token(&claims, &key)?;
        Ok(AccessToken { text, expires_in_s: claims.exp.saturating_sub(issued_s) })
    }

    async fn verify_attempt<'a>(
        &self,
        held: &VersionedRecord<SignInChallenge>,
        attempt: SignInAttempt<'a>,
    ) -> Result<WalletProof<'a>, SignInError> {
        let SignInAttempt { claim, signature, client, cookie } = attempt;
        if !challenge::is_bound_to_cookie(&held.record, cookie) {
            return Err(SignInDenial::ChallengeUnbound.into());
        }
        claim.check_rules(&held.record, &self.shared.config, nats::now_ms())?;
        let (address, chain_id, digest) = (claim.address, claim.chain_id, claim.digest);
        let question = SignatureCheck { account: address, chain_id, digest, signature };
        let at = tokio::time::Instant::now();
        // The key first: it needs no chain, so that plain wallets sign in while providers are away.
        let verdict = match verify_by_key(question) {
            SignatureVerdict::Invalid => self.verify_by_contract(client, question).await?,
            valid @ SignatureVerdict::Valid(_) => valid,
        };
        let is_checksummed = claim.is_checksummed;
        match verdict {
            SignatureVerdict::Valid(method) => {
                Ok(WalletProof { address, chain_id, method, is_checksummed, digest, signature, at })
            }
            SignatureVerdict::Invalid => Err(SignInDenial::Signature.into()),
        }
    }

    /// Asks the account itself, at the cost of the client unless it says yes.
    async fn verify_by_contract(
        &self,
        client: ClientAddress,
        question: SignatureCheck<'_>,
    ) -> Result<SignatureVerdict, SignInError> {
        let shared = &self.shared;
        let too_many = |retry_after| SignInError::TooMany { retry_after };
        shared.budget.take_call(client.prefix, tokio::time::Instant::now()).map_err(too_many)?;
        let verdict = match shared.verifier.verify_at_head(question, None).await {
            Ok((verdict, _)) => verdict.unwrap_or(SignatureVerdict::Invalid),
            Err(ContractCallError::Unsupported) => {
                shared.budget.refund_call(client.prefix);
                return Ok(SignatureVerdict::Invalid);
            }
            Err(error) => return Err(error.into()),
        };
        if verdict != SignatureVerdict::Invalid {
            // What the account takes costs nothing: the budget is for calls made in vain.
            shared.budget.refund_call(client.prefix);
        }
        Ok(verdict)
    }

    /// The bytes of a signature as it was sent: `0x` and hexadecimal digits.
    ///
    /// # Errors
    /// [`SignInDenial::Malformed`] when it is none, or longer than its limit.
    pub fn decode_signature(&self, text: &str) -> Result<Vec<u8>, SignInDenial> {
        let malformed = |reason: &str| SignInDenial::Malformed(format!("the signature {reason}"));
        let digits = text.strip_prefix("0x").ok_or_else(|| malformed("does not begin with 0x"))?;
        if digits.len() > self.shared.config.signature_bytes_max.saturating_mul(2) {
            return Err(malformed("is longer than its limit"));
        }
        // The decoder would take a second prefix.
        if !digits.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(malformed("is not hexadecimal"));
        }
        hex::decode(digits).map_err(|_| malformed("has half a byte"))
    }
}

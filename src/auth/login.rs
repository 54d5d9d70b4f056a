//! Signing in: a challenge is judged, used up, and a session opened; access tokens of sessions.

use alloy_primitives::hex;
use nats::{Bus, VersionedRecord};
use schemas::{access::PrincipalRole, ids::RequestId, session::SignInChallenge};

use super::{
    Config, SignIn,
    account::Account,
    challenge,
    claim::Claim,
    contract::{CallError, Question, Verdict, by_key},
    denial::{Denial, Failure},
    ring::Ring,
    session::{Live, Proved, Sessions},
    token::{self, Claims},
};
use web::client::ClientAddress;

/// What somebody shows to sign in.
#[derive(Debug, Clone, Copy)]
pub struct Attempt<'a> {
    /// What was signed.
    pub claim: &'a Claim,
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

impl SignIn {
    /// The settings.
    pub fn config(&self) -> &Config {
        &self.shared.config
    }

    /// The sessions.
    pub fn sessions(&self) -> &Sessions {
        &self.shared.sessions
    }

    /// The keys that tokens are signed with.
    pub fn ring(&self) -> &Ring {
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
    pub fn role_of(&self, account: Account) -> PrincipalRole {
        self.shared.role(account)
    }

    /// Judges an attempt at the challenge `held` and opens a session with its first refresh token. Granted or denied, the challenge is used up; when nothing
    /// is known of the attempt it stays good for the next.
    ///
    /// # Errors
    /// [`Failure::Denied`] says why nobody is signed in; the others, that it can't be known now.
    pub async fn open_session(
        &self,
        attempt: Attempt<'_>,
        held: &mut VersionedRecord<SignInChallenge>,
        request_id: RequestId,
    ) -> Result<(Live, String), Failure> {
        let bus = self.bus();
        let proved = match self.judge(held, attempt).await {
            Ok(proved) => proved,
            Err(Failure::Denied(denial)) => {
                challenge::refuse(bus, held, &denial, (attempt.claim.address, request_id)).await?;
                return Err(denial.into());
            }
            Err(failure) => return Err(failure),
        };
        challenge::take(bus, held).await?;
        let opened = self.sessions().open(proved, request_id).await;
        if matches!(opened, Err(Failure::Bus(_))) {
            challenge::give_back(bus, held).await;
        }
        opened
    }

    /// Signs an access token of an open session.
    ///
    /// # Errors
    /// [`Failure::NoKey`] when there is no key to sign with.
    pub fn sign_access_token(&self, live: &Live) -> Result<AccessToken, Failure> {
        let now_ms = nats::now_ms();
        let (issued_s, end_s) = (now_ms / 1_000, live.expires_at_ms / 1_000);
        let claims = Claims {
            iss: self.config().issuer.clone(),
            aud: token::AUDIENCE.to_owned(),
            sub: live.account.owner(),
            exp: issued_s.saturating_add(self.config().access_ttl_s).min(end_s),
            nbf: issued_s,
            iat: issued_s,
            jti: RequestId::from_bytes(nats::new_id_bytes()),
            sid: live.session_id,
        };
        let key = self.shared.ring.signing(now_ms).ok_or(Failure::NoKey)?;
        let text = token::sign(&claims, &key)?;
        Ok(AccessToken { text, expires_in_s: claims.exp.saturating_sub(issued_s) })
    }

    async fn judge<'a>(
        &self,
        held: &VersionedRecord<SignInChallenge>,
        attempt: Attempt<'a>,
    ) -> Result<Proved<'a>, Failure> {
        let Attempt { claim, signature, client, cookie } = attempt;
        if !challenge::is_bound(&held.record, cookie) {
            return Err(Denial::ChallengeUnbound.into());
        }
        claim.check(&held.record, &self.shared.config, nats::now_ms())?;
        let (address, chain_id, digest) = (claim.address, claim.chain_id, claim.digest);
        let question = Question { account: address, chain_id, digest, signature };
        let at = tokio::time::Instant::now();
        let verdict = match by_key(question) {
            Verdict::Invalid => self.ask_account(client, question).await?,
            valid @ Verdict::Valid(_) => valid,
        };
        let is_checksummed = claim.is_checksummed;
        match verdict {
            Verdict::Valid(method) => {
                Ok(Proved { address, chain_id, method, is_checksummed, digest, signature, at })
            }
            Verdict::Invalid => Err(Denial::Signature.into()),
        }
    }

    /// Asks the account itself, at the cost of the client unless it says yes.
    async fn ask_account(&self, client: ClientAddress, question: Question<'_>) -> Result<Verdict, Failure> {
        let shared = &self.shared;
        let too_many = |retry_after| Failure::TooMany { retry_after };
        shared.budget.take(client.prefix, tokio::time::Instant::now()).map_err(too_many)?;
        let verdict = match shared.verifier.ask(question, None).await {
            Ok((verdict, _)) => verdict.unwrap_or(Verdict::Invalid),
            Err(CallError::Unsupported) => {
                shared.budget.give_back(client.prefix);
                return Ok(Verdict::Invalid);
            }
            Err(error) => return Err(error.into()),
        };
        if verdict != Verdict::Invalid {
            shared.budget.give_back(client.prefix);
        }
        Ok(verdict)
    }

    /// The bytes of a signature as it was sent: `0x` and hexadecimal digits.
    ///
    /// # Errors
    /// [`Denial::Malformed`] when it is none, or longer than its limit.
    pub fn decode_signature(&self, text: &str) -> Result<Vec<u8>, Denial> {
        let malformed = |reason: &str| Denial::Malformed(format!("the signature {reason}"));
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

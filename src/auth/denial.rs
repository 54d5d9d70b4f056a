//! Why a sign-in or a session is refused; each reason has a stable code.

use nats::metrics::labels::SignInOutcome;
use web::{error::Problem, problem_code::ProblemCode};

/// A refusal by the rules, as opposed to something that does not work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SignInDenial {
    /// No site is named that may sign people in.
    #[error("the operator has to name a site: auth.domains, or ingress.public_url")]
    NoSite,
    /// The message or the signature can't be read.
    #[error("{0}")]
    Malformed(String),
    /// The nonce is none of ours, or long over.
    #[error("the nonce is unknown: ask for a challenge first")]
    ChallengeUnknown,
    /// The nonce was used already: every nonce is good for one attempt.
    #[error("the nonce was used already")]
    ChallengeUsed,
    /// The nonce's time is over.
    #[error("the nonce's time is over")]
    ChallengeExpired,
    /// The challenge was given to somebody else: its cookie is missing or another.
    #[error("the challenge was given to another client: send its cookie")]
    ChallengeUnbound,
    /// The site in the message is none of ours, or another than the challenge was for.
    #[error("the message is for another site")]
    Domain,
    /// The message's scheme or URI does not belong to its site.
    #[error("the message's scheme or URI is not that of its site")]
    Uri,
    /// The chain is not allowed, or another than the challenge was for.
    #[error("the chain is not allowed here")]
    Chain,
    /// The address is another than the challenge was for, or its case proves nothing where that is asked.
    #[error("the address is not taken")]
    Address,
    /// The message is not good yet.
    #[error("the message is not good yet")]
    Early,
    /// The message is too old, or its time is over.
    #[error("the message's time is over")]
    Late,
    /// The message would be good for too long.
    #[error("the message would be good for too long")]
    TooLong,
    /// The account did not sign this.
    #[error("the signature is not that of the account")]
    Signature,
    /// The refresh token is none of ours, or its session is over.
    #[error("the session is over: sign in again")]
    Session,
    /// The refresh token was used before: one of its two holders stole it.
    #[error("the refresh token was used before, so its session is ended")]
    Reused,
    /// The account's contract no longer takes the signature.
    #[error("the account's contract no longer takes the signature")]
    Proof,
}

impl SignInDenial {
    /// The stable code.
    pub const fn code(&self) -> &'static str {
        self.problem_code().code()
    }

    const fn problem_code(&self) -> ProblemCode {
        match self {
            Self::NoSite => ProblemCode::NoSite,
            Self::Malformed(_) => ProblemCode::MessageMalformed,
            Self::ChallengeUnknown => ProblemCode::ChallengeUnknown,
            Self::ChallengeUsed => ProblemCode::ChallengeUsed,
            Self::ChallengeExpired => ProblemCode::ChallengeExpired,
            Self::ChallengeUnbound => ProblemCode::ChallengeUnbound,
            Self::Domain => ProblemCode::DomainRefused,
            Self::Uri => ProblemCode::UriRefused,
            Self::Chain => ProblemCode::ChainRefused,
            Self::Address => ProblemCode::AddressRefused,
            Self::Early => ProblemCode::MessageEarly,
            Self::Late => ProblemCode::MessageExpired,
            Self::TooLong => ProblemCode::MessageTooLongLived,
            Self::Signature => ProblemCode::SignatureRefused,
            Self::Session => ProblemCode::SessionOver,
            Self::Reused => ProblemCode::RefreshReused,
            Self::Proof => ProblemCode::ProofFailed,
        }
    }
}

impl From<SignInDenial> for Problem {
    fn from(denial: SignInDenial) -> Self {
        Self::new(denial.problem_code()).with_detail(denial.to_string())
    }
}

/// A refusal, or a part that does not answer.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// Nobody is signed in, and why.
    #[error(transparent)]
    Denied(#[from] SignInDenial),
    /// The broker does not answer.
    #[error(transparent)]
    Bus(#[from] nats::BusError),
    /// The chain does not answer.
    #[error(transparent)]
    Chain(#[from] super::contract::ContractCallError),
    /// The client made us ask as many contracts as it may.
    #[error("too many signatures that no key made")]
    TooMany {
        /// How long until it may ask again.
        retry_after: std::time::Duration,
    },
    /// The library can't sign a token.
    #[error("a token can't be signed")]
    Token(#[from] jsonwebtoken::errors::Error),
    /// There is no key to sign with.
    #[error("there is no signing key")]
    NoKey,
}

impl SignInError {
    /// How an attempt that ended with `failure`, or without one, is counted.
    pub(super) const fn outcome(failure: Option<&Self>) -> SignInOutcome {
        match failure {
            None => SignInOutcome::Granted,
            Some(Self::Denied(_)) => SignInOutcome::Denied,
            Some(_) => SignInOutcome::Unavailable,
        }
    }
}

impl From<SignInError> for Problem {
    fn from(failure: SignInError) -> Self {
        match failure {
            SignInError::Denied(denial) => denial.into(),
            SignInError::Bus(error) => error.into(),
            SignInError::Chain(error) => Self::unavailable(&error),
            SignInError::TooMany { retry_after } => {
                let seconds = retry_after.as_millis().div_ceil(1_000).max(1);
                Self::new(ProblemCode::TooManyContractAsks)
                    .with_retry_after_s(u64::try_from(seconds).unwrap_or(u64::MAX))
            }
            SignInError::Token(_) | SignInError::NoKey => Self::internal(&failure),
        }
    }
}

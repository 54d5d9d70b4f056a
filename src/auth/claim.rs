//! What a wallet says when it signs in, whichever form it signed, and the rules it must keep.

use alloy_primitives::B256;
use schemas::session::SignInChallenge;

use super::{
    address::{AddressCase, WalletAddress},
    config::AuthConfig,
    denial::SignInDenial,
    message::SiweMessage,
    signature, typed, uri,
};

/// The common part of both forms.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignInClaims {
    pub(super) scheme: Option<String>,
    pub(super) domain: String,
    pub(super) address: WalletAddress,
    pub(super) is_checksummed: bool,
    pub(super) uri: String,
    pub(super) chain_id: u64,
    /// The challenge that was signed.
    pub nonce: String,
    pub(super) issued_at_ms: i64,
    pub(super) expires_at_ms: Option<i64>,
    pub(super) not_before_ms: Option<i64>,
    pub(super) digest: B256,
}

impl SignInClaims {
    /// Reads a message of ERC-4361; what is hashed are these bytes.
    pub fn from_message(text: &str) -> Result<Self, SignInDenial> {
        let message = SiweMessage::parse(text).map_err(|error| SignInDenial::Malformed(error.to_string()))?;
        Ok(Self {
            scheme: message.scheme.map(str::to_owned),
            domain: message.domain.to_owned(),
            address: message.address,
            is_checksummed: message.address_case == AddressCase::Checksummed,
            uri: message.uri.to_owned(),
            chain_id: message.chain_id,
            nonce: message.nonce.to_owned(),
            issued_at_ms: message.issued_at.at_ms,
            expires_at_ms: message.expires_at.map(|time| time.at_ms),
            not_before_ms: message.not_before.map(|time| time.at_ms),
            digest: signature::hash_personal_message(text.as_bytes()),
        })
    }

    /// Takes the values of a typed sign-in.
    pub fn from_typed_data(values: &typed::TypedSignIn) -> Result<Self, SignInDenial> {
        let malformed = |what: &str| SignInDenial::Malformed(format!("{what} does not have its form"));
        let limit = super::message::STATEMENT_LENGTH_MAX;
        if [&values.domain, &values.statement, &values.uri, &values.nonce]
            .iter()
            .any(|text| text.len() > limit)
        {
            return Err(malformed("a value of the structure"));
        }
        if !uri::is_uri(&values.uri) {
            return Err(malformed("the URI"));
        }
        let time = |seconds: u64| {
            i64::try_from(seconds).ok().and_then(|s| s.checked_mul(1_000)).ok_or_else(|| malformed("a time"))
        };
        Ok(Self {
            scheme: None,
            domain: values.domain.clone(),
            address: values.account,
            is_checksummed: true,
            uri: values.uri.clone(),
            chain_id: values.chain_id,
            nonce: values.nonce.clone(),
            issued_at_ms: time(values.issued_at_s)?,
            expires_at_ms: Some(time(values.expires_at_s)?),
            not_before_ms: None,
            digest: values.digest(),
        })
    }

    /// Holds it against the settings, the challenge and the clock; the signature is not looked at.
    pub(super) fn check_rules(
        &self,
        challenge: &SignInChallenge,
        config: &AuthConfig,
        now_ms: u64,
    ) -> Result<(), SignInDenial> {
        if !config.domains.contains(&self.domain) || challenge.domain != self.domain {
            return Err(SignInDenial::Domain);
        }
        let is_scheme =
            |scheme: &str| scheme == "https" || (scheme == "http" && uri::is_loopback(&self.domain));
        let is_ours = uri::split_origin(&self.uri)
            .is_some_and(|(scheme, host)| is_scheme(scheme) && host == self.domain);
        if !is_ours || !self.scheme.as_deref().is_none_or(is_scheme) {
            return Err(SignInDenial::Uri);
        }
        if !config.chains.contains(&self.chain_id) || challenge.chain_id.is_some_and(|id| id != self.chain_id)
        {
            return Err(SignInDenial::Chain);
        }
        let is_other =
            challenge.address.as_ref().is_some_and(|address| *address != self.address.to_lower_hex());
        let is_zero = self.address.get().is_zero();
        if is_other || is_zero || (config.strict_eip55 && !self.is_checksummed) {
            return Err(SignInDenial::Address);
        }
        let ttl_s = challenge.expires_at_ms.saturating_sub(challenge.created_at_ms) / 1_000;
        let age_s_max = config.issued_age_s_max.max(ttl_s);
        self.check_times(config, age_s_max, i64::try_from(now_ms).unwrap_or(i64::MAX))
    }

    /// Good in `[not before, expiration)`, and not issued longer ago than `age_s_max` or in the future.
    fn check_times(&self, config: &AuthConfig, age_s_max: u64, now_ms: i64) -> Result<(), SignInDenial> {
        let ms = |seconds: u64| i64::try_from(seconds.saturating_mul(1_000)).unwrap_or(i64::MAX);
        let ahead_ms = self.issued_at_ms.saturating_sub(now_ms);
        if ahead_ms > ms(config.issued_ahead_s_max) || self.not_before_ms.is_some_and(|at_ms| at_ms > now_ms)
        {
            return Err(SignInDenial::Early);
        }
        let is_over = self.expires_at_ms.is_some_and(|at_ms| at_ms <= now_ms);
        if is_over || ahead_ms < -ms(age_s_max) {
            return Err(SignInDenial::Late);
        }
        let left_ms = self.expires_at_ms.map_or(0, |at_ms| at_ms.saturating_sub(now_ms));
        if left_ms > ms(config.validity_s_max) { Err(SignInDenial::TooLong) } else { Ok(()) }
    }
}

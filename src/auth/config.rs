//! Settings of sign-in; every limit is here. None of them is a secret: keys are made in KV, at random, once.

use std::net::SocketAddr;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{account::WalletAccount, uri};

/// Longest time in milliseconds an ended session may still be taken for open, whatever else is set.
pub const RECHECK_MS_MAX: u64 = 1_000;

/// Longest time in milliseconds for which an answer of a contract account may be gone by, whatever else is set.
pub const PROOF_MS_MAX: u64 = 60_000;
/// Longest time in milliseconds for which a refresh token is taken again from the same client, whatever else is set.
pub const REFRESH_AGAIN_MS_MAX: u64 = 30_000;
/// Longest life of a challenge that a client may ask for, in seconds: owners of one account sign one after the other.
pub const CHALLENGE_TTL_S_MAX: u64 = 900;

/// Longest signature in bytes unless the settings say otherwise.
pub const SIGNATURE_BYTES_MAX: usize = 8 * 1024;

/// Settings of sign-in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct AuthConfig {
    /// Sites that may ask people to sign in, as `host` or `host:port`. Empty: the host of `ingress.public_url`, else the loopback
    /// names of `ingress.listen`. A request's own host is never believed.
    pub domains: Vec<String>,
    /// Chains accounts may be looked up on (EIP-155 numbers).
    pub chains: Vec<u64>,
    /// Those of them on which that works here: they are offered in challenges. Filled in by [`AuthConfig::with_offered_chains`].
    #[serde(skip)]
    pub offered_chains: Vec<u64>,
    /// Wallets that may do everything: `0x...` where a key speaks for it, `eip155:<chain>:0x...` where a contract does.
    #[schemars(with = "Vec<String>")]
    pub admins: Vec<WalletAccount>,
    /// Wallets that may read everything operational and change nothing, named as in `auth.admins`.
    #[schemars(with = "Vec<String>")]
    pub operators: Vec<WalletAccount>,
    /// Refuses addresses whose case does not prove them (EIP-55); otherwise the event says so.
    pub strict_eip55: bool,
    /// What the message says people agree to; printable ASCII without quotes, percent signs and backslashes.
    pub statement: String,
    /// Issuer named in access tokens.
    pub issuer: String,
    /// How long a nonce is good whose client asks for no other time, in seconds.
    #[schemars(range(min = 1))]
    pub challenge_ttl_s: u64,
    /// Most challenges given to one client prefix (IPv4 address, IPv6 /64) at once, however long they are good; used up, they come back
    /// evenly over one `challenge_ttl_s`.
    pub challenges_per_prefix_max: u32,
    /// Age of the oldest message taken, in seconds; as old as its challenge may be, if that is longer.
    pub issued_age_s_max: u64,
    /// How far in the future a message may have been issued, in seconds: the client's clock.
    pub issued_ahead_s_max: u64,
    /// Longest time between now and a message's expiration, in seconds.
    pub validity_s_max: u64,
    /// How long an access token is good, in seconds.
    #[schemars(range(min = 1))]
    pub access_ttl_s: u64,
    /// How long a session is good, however often it is refreshed, in seconds.
    #[schemars(range(min = 1))]
    pub session_ttl_s: u64,
    /// How long a refresh token that was taken gives the same next one to the same client again, in milliseconds: two tabs, and answers
    /// that were lost. As long a stolen token would be taken again.
    #[schemars(range(max = REFRESH_AGAIN_MS_MAX))]
    pub refresh_again_ms: u64,
    /// Most open sessions of one wallet; the oldest is ended for a new one.
    #[schemars(range(min = 1))]
    pub sessions_per_wallet_max: usize,
    /// How long a session or an API key that was found good is not looked up again, in milliseconds; as long one that has ended on another
    /// replica may stay good.
    #[schemars(range(max = RECHECK_MS_MAX))]
    pub recheck_ms: u64,
    /// Most sessions that one replica remembers to be open, and as many API keys.
    pub remembered_max: usize,
    /// Age of a signing key after which the next is made, in seconds.
    #[schemars(range(min = 1))]
    pub ring_age_s: u64,
    /// How long before its first use a signing key is made, in seconds; every replica reads it meanwhile.
    pub ring_lead_s: u64,
    /// How often a replica reads the ring, in milliseconds.
    #[schemars(range(min = 1))]
    pub ring_refresh_ms: u64,
    /// Most API keys of one owner.
    pub keys_per_owner_max: usize,
    /// Longest signature, in bytes; contract accounts have long ones.
    pub signature_bytes_max: usize,
    /// Longest time spent on asking a contract, in milliseconds.
    pub contract_ms_max: u64,
    /// Most contracts asked at once by one replica; who comes later is refused with 503.
    #[schemars(range(min = 1))]
    pub contract_calls_max: usize,
    /// Most gas a contract may burn for one answer.
    pub contract_gas_max: u64,
    /// Most signatures of one client prefix that no key made and no account took, in a minute; each replica counts its own.
    #[schemars(range(min = 1))]
    pub contract_asks_per_prefix_per_minute_max: u32,
    /// How long the answer of a contract account is gone by while its session is used, in milliseconds; as long one that says no may
    /// stay signed in.
    #[schemars(range(max = PROOF_MS_MAX))]
    pub proof_ms: u64,
}

impl Default for AuthConfig {
    fn default() -> Self {
        Self {
            domains: Vec::new(),
            // Ethereum, OP Mainnet, Polygon, Base, Arbitrum One.
            chains: vec![1, 10, 137, 8_453, 42_161],
            offered_chains: Vec::new(),
            admins: Vec::new(),
            operators: Vec::new(),
            strict_eip55: false,
            statement: "Sign in to StreamGate.".into(),
            issuer: "streamgate".into(),
            challenge_ttl_s: 300,
            challenges_per_prefix_max: 1_000,
            issued_age_s_max: 300,
            issued_ahead_s_max: 60,
            validity_s_max: 24 * 3600,
            access_ttl_s: 600,
            session_ttl_s: 30 * 24 * 3600,
            refresh_again_ms: 10_000,
            sessions_per_wallet_max: 16,
            recheck_ms: 800,
            remembered_max: 65_536,
            ring_age_s: 7 * 24 * 3600,
            ring_lead_s: 60,
            ring_refresh_ms: 15_000,
            keys_per_owner_max: 32,
            signature_bytes_max: SIGNATURE_BYTES_MAX,
            contract_ms_max: 2_000,
            contract_calls_max: 16,
            contract_gas_max: 5_000_000,
            contract_asks_per_prefix_per_minute_max: 20,
            proof_ms: PROOF_MS_MAX,
        }
    }
}

impl AuthConfig {
    /// Names the first setting that can't be used, and why. Ranges of single settings stand at their fields.
    ///
    /// # Errors
    /// The setting's name and the reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if let Some(domain) = self.domains.iter().find(|domain| !uri::is_authority(domain)) {
            return Err(("auth.domains", format!("{domain:?} is no host or host:port")));
        }
        if self.chains.is_empty() {
            return Err(("auth.chains", "nobody could sign in without a chain".into()));
        }
        let is_plain = |byte: u8| byte == b' ' || uri::is_reserved_or_unreserved(byte);
        let fits = self.statement.len() <= super::message::STATEMENT_LENGTH_MAX;
        if !fits || !self.statement.bytes().all(is_plain) {
            return Err((
                "auth.statement",
                "it takes up to 1024 printable characters without \" % < > \\ ^ ` { | }".into(),
            ));
        }
        if self.ring_lead_s.saturating_mul(1_000) < self.ring_refresh_ms.saturating_mul(2) {
            return Err((
                "auth.ring_lead_s",
                "a replica would not have read a new key before another signs with it".into(),
            ));
        }
        Ok(())
    }

    /// Fills in the chains that challenges offer: those that have providers here. Without any only accounts with a key of their own
    /// sign in, on whichever chain, and all are offered.
    #[must_use]
    pub fn with_offered_chains(mut self, with_providers: &[u64]) -> Self {
        let mut chains: Vec<u64> = Vec::new();
        for chain in &self.chains {
            if !chains.contains(chain) {
                chains.push(*chain);
            }
        }
        let has_provider = |chain: &u64| with_providers.contains(chain);
        if chains.iter().any(has_provider) {
            chains.retain(has_provider);
        }
        self.offered_chains = chains;
        self
    }

    /// Fills in the sites where none are named: the host of the public address, else the loopback names of the listener.
    #[must_use]
    pub fn with_default_domains(mut self, public_url: Option<&str>, listen: SocketAddr) -> Self {
        if !self.domains.is_empty() {
            return self;
        }
        self.domains = match public_url.and_then(uri::split_origin) {
            Some((_, authority)) => vec![authority.to_owned()],
            None if listen.ip().is_loopback() => {
                vec![format!("localhost:{}", listen.port()), listen.to_string()]
            }
            // Who listens to the world has to say by what name.
            None => Vec::new(),
        };
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_can_be_used_and_what_can_not_is_named() {
        assert_eq!(AuthConfig::default().check(), Ok(()));
        let wrong = |change: fn(&mut AuthConfig)| {
            let mut config = AuthConfig::default();
            change(&mut config);
            config.check().unwrap_err().0
        };
        assert_eq!(wrong(|c| c.domains = vec!["https://a.org".into()]), "auth.domains");
        assert_eq!(wrong(|c| c.chains.clear()), "auth.chains");
        assert_eq!(wrong(|c| c.statement = "say \"yes\"".into()), "auth.statement");
        assert_eq!(wrong(|c| c.ring_lead_s = 1), "auth.ring_lead_s");
    }

    #[test]
    fn a_chain_is_offered_once_and_only_where_it_can_be_asked() {
        let offered = |chains: &[u64], with_providers: &[u64]| {
            let config = AuthConfig { chains: chains.to_vec(), ..AuthConfig::default() };
            config.with_offered_chains(with_providers).offered_chains
        };
        assert_eq!(offered(&[1, 10, 1, 137], &[137, 1, 5]), [1, 137]);
        assert_eq!(offered(&[1, 10, 1], &[]), [1, 10]);
        assert_eq!(offered(&[1, 10], &[5]), [1, 10]);
    }

    #[test]
    fn sites_come_from_settings_and_never_from_requests() {
        let at = |url: Option<&str>, listen: &str| {
            AuthConfig::default().with_default_domains(url, listen.parse().unwrap()).domains
        };
        assert_eq!(at(Some("https://media.example.org/x"), "0.0.0.0:80"), ["media.example.org"]);
        assert_eq!(at(None, "127.0.0.1:8080"), ["localhost:8080", "127.0.0.1:8080"]);
        assert!(at(None, "0.0.0.0:8080").is_empty());
        let named = AuthConfig { domains: vec!["a.org".into()], ..AuthConfig::default() };
        assert_eq!(
            named.with_default_domains(Some("https://b.org"), "127.0.0.1:1".parse().unwrap()).domains,
            ["a.org"]
        );
    }
}

//! Settings of one chain.

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize, Serializer};

/// Address of a provider. Paths and queries of such addresses hold keys, so it is shown without them.
#[derive(Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RpcUrl(reqwest::Url);

impl RpcUrl {
    /// The whole address, for the transport alone.
    pub(super) const fn expose_url(&self) -> &reqwest::Url {
        &self.0
    }
}

impl TryFrom<String> for RpcUrl {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        // The text is not repeated: it may hold a key.
        let url = reqwest::Url::parse(&text).map_err(|error| format!("not a URL: {error}"))?;
        if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
            return Err("a provider's address begins with http:// or https://".to_owned());
        }
        Ok(Self(url))
    }
}

impl fmt::Display for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme(), self.0.host_str().unwrap_or_default())?;
        match self.0.port() {
            Some(port) => write!(f, ":{port}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for RpcUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

impl Serialize for RpcUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// One chain and its providers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ChainConfig {
    /// EIP-155 chain id; every provider has to confirm it.
    pub chain_id: u64,
    /// Name for people.
    pub name: String,
    /// JSON-RPC addresses of independent providers.
    #[schemars(with = "Vec<String>")]
    pub rpc_urls: Vec<RpcUrl>,
    /// Providers that have to give the same answer: more than half of them. Absent: the least such number.
    pub quorum: Option<usize>,
    /// Blocks on top of a block before what it says may open a gate.
    pub confirmations: u64,
    /// Age of the newest block above which nothing is decided by it, in seconds.
    #[schemars(range(min = 1))]
    pub head_age_s_max: u64,
    /// How long the newest block is taken for the newest, in milliseconds.
    pub head_cache_ms: u64,
    /// Longest wait for one provider, in milliseconds.
    #[schemars(range(min = 1))]
    pub call_timeout_ms: u64,
    /// Most gas of one call.
    #[schemars(range(min = 1))]
    pub call_gas_max: u64,
    /// Largest answer of a provider, in bytes.
    #[schemars(range(min = 1))]
    pub answer_bytes_max: usize,
    /// Most questions in one request.
    #[schemars(range(min = 1))]
    pub batch_max: usize,
    /// Most requests to one provider at a time.
    #[schemars(range(min = 1))]
    pub in_flight_max: usize,
    /// Questions a second to one provider, on average; a burst of five seconds' worth is allowed.
    #[schemars(range(min = 1))]
    pub questions_per_s_max: u32,
    /// How long a provider that contradicted the quorum is left out, in milliseconds.
    pub quarantine_ms: u64,
    /// Most blocks whose logs are asked for at once.
    #[schemars(range(min = 1))]
    pub log_blocks_max: u64,
}

impl Default for ChainConfig {
    fn default() -> Self {
        Self {
            chain_id: 0,
            name: String::new(),
            rpc_urls: Vec::new(),
            quorum: None,
            confirmations: 12,
            head_age_s_max: 120,
            head_cache_ms: 500,
            call_timeout_ms: 1_000,
            call_gas_max: 5_000_000,
            answer_bytes_max: 1024 * 1024,
            batch_max: 64,
            in_flight_max: 16,
            questions_per_s_max: 200,
            quarantine_ms: 60_000,
            log_blocks_max: 500,
        }
    }
}

impl ChainConfig {
    /// How many providers have to agree.
    pub fn quorum_size(&self) -> usize {
        self.quorum.unwrap_or(self.rpc_urls.len() / 2 + 1)
    }

    /// Refuses what can't work. Ranges of single settings stand at their fields.
    ///
    /// # Errors
    /// The setting and the reason, for people.
    pub fn check(&self) -> Result<(), String> {
        let (id, count, quorum) = (self.chain_id, self.rpc_urls.len(), self.quorum_size());
        if id == 0 {
            return Err("chain_id is missing".to_owned());
        }
        if count == 0 {
            return Err(format!("chain {id}: rpc_urls is empty"));
        }
        // With half or less, two quorums could say the opposite.
        if quorum > count || quorum * 2 <= count {
            return Err(format!(
                "chain {id}: quorum has to be more than half of {count} providers and no more than all"
            ));
        }
        Ok(())
    }
}

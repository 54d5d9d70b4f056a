//! Which groups requests are counted in, and the rate of each.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::gcra::BucketRate;

/// What is counted together: nine groups of requests, and the credentials that were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RateLimitGroup {
    /// Whatever is in no other group.
    Api,
    /// Opening, ending and asking about uploads.
    Upload,
    /// Playback.
    Streaming,
    /// Documents of media, and lists of them.
    Metadata,
    /// The cache API.
    Cache,
    /// Signing in.
    Auth,
    /// Jobs and schedules.
    Worker,
    /// Transcodes, by whichever way they are asked for.
    Transcoder,
    /// Health, alerts, logs, metrics, audit.
    Monitor,
    /// Requests of all groups whose credential was refused: guesses.
    Credential,
}

impl RateLimitGroup {
    /// Every group.
    pub const ALL: [Self; 10] = [
        Self::Api,
        Self::Upload,
        Self::Streaming,
        Self::Metadata,
        Self::Cache,
        Self::Auth,
        Self::Worker,
        Self::Transcoder,
        Self::Monitor,
        Self::Credential,
    ];

    /// Its name in policies, events and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Upload => "upload",
            Self::Streaming => "streaming",
            Self::Metadata => "metadata",
            Self::Cache => "cache",
            Self::Auth => "auth",
            Self::Worker => "worker",
            Self::Transcoder => "transcoder",
            Self::Monitor => "monitor",
            Self::Credential => "credential",
        }
    }

    /// Place in [`RateLimitGroup::ALL`].
    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Rates of all groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "Rates")]
pub struct GroupRates {
    /// Whatever is in no other group.
    pub api: BucketRate,
    /// Opening, ending and asking about uploads.
    pub upload: BucketRate,
    /// Playback.
    pub streaming: BucketRate,
    /// Documents of media, and lists of them.
    pub metadata: BucketRate,
    /// The cache API.
    pub cache: BucketRate,
    /// Signing in.
    pub auth: BucketRate,
    /// Jobs and schedules.
    pub worker: BucketRate,
    /// Transcodes.
    pub transcoder: BucketRate,
    /// Health, alerts, logs, metrics, audit.
    pub monitor: BucketRate,
    /// Refused credentials of one client. Without room here its next ones are answered with 429 instead of 401; what carries a good
    /// one is not concerned.
    pub credential: BucketRate,
}

impl Default for GroupRates {
    fn default() -> Self {
        let rate = |capacity, refill_per_s| BucketRate { capacity, refill_per_s };
        Self {
            api: rate(1_000, 100),
            upload: rate(200, 10),
            streaming: rate(1_000, 100),
            metadata: rate(500, 50),
            cache: rate(1_000, 100),
            auth: rate(50, 5),
            worker: rate(100, 10),
            transcoder: rate(50, 5),
            monitor: rate(1_000, 100),
            credential: rate(100, 2),
        }
    }
}

impl GroupRates {
    /// The rate of `group`.
    pub const fn rate_for(&self, group: RateLimitGroup) -> BucketRate {
        match group {
            RateLimitGroup::Api => self.api,
            RateLimitGroup::Upload => self.upload,
            RateLimitGroup::Streaming => self.streaming,
            RateLimitGroup::Metadata => self.metadata,
            RateLimitGroup::Cache => self.cache,
            RateLimitGroup::Auth => self.auth,
            RateLimitGroup::Worker => self.worker,
            RateLimitGroup::Transcoder => self.transcoder,
            RateLimitGroup::Monitor => self.monitor,
            RateLimitGroup::Credential => self.credential,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_group_has_its_place_and_rate() {
        for (i, group) in RateLimitGroup::ALL.into_iter().enumerate() {
            assert_eq!(group.index(), i);
        }
        assert_eq!(
            GroupRates::default().rate_for(RateLimitGroup::Auth),
            BucketRate { capacity: 50, refill_per_s: 5 }
        );
        assert_eq!(
            GroupRates::default().rate_for(RateLimitGroup::Metadata),
            BucketRate { capacity: 500, refill_per_s: 50 }
        );
    }
}

//! Requests that leave no event of their own, as sums: what is read, asked and refused, each kind once a window and process.
//!
//! Limits: an event has at most [`AccessClass::sums_max`] sums of each class, and one for the others of the class.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::{BusEvent, EventContext, access::PrincipalRole, ids::RequestId};

/// `what` of the sum of all that found no room for a sum of its own.
pub const OTHERS: &str = "others";

/// `what` of requests for a path or a method that there is not.
pub const NO_OPERATION: &str = "no operation";

/// What a request counts as.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessClass {
    /// It was answered with 401 or 403. `what` is the kind of its credential, or the operation where that is not what was refused.
    Refusal,
    /// A rate limit refused it. `what` is the group of the limit, `outcome` whose requests the limit counts.
    Limit,
    /// It asked about credentials or wallets, or was an attempt to get a credential that failed in another way.
    Authentication,
    /// It used entries of the cache.
    Cache,
    /// It was to change something, and failed.
    Change,
    /// It played something, or tried to.
    Playback,
    /// A probe, or a request for what there is not.
    Probe,
    /// It read something.
    Read,
}

impl AccessClass {
    /// Every class.
    pub const ALL: [Self; 8] = [
        Self::Refusal,
        Self::Limit,
        Self::Authentication,
        Self::Cache,
        Self::Change,
        Self::Playback,
        Self::Probe,
        Self::Read,
    ];

    /// How long its requests are summed, in seconds: 10 for what may be an attack, else 60.
    pub const fn window_s(self) -> u64 {
        match self {
            Self::Refusal | Self::Limit => 10,
            Self::Authentication | Self::Cache | Self::Change | Self::Playback | Self::Probe | Self::Read => {
                60
            }
        }
    }

    /// Most sums of one event that name what was asked: fewer where clients choose the names, so that they choose no size of the log.
    pub const fn sums_max(self) -> usize {
        match self {
            Self::Refusal | Self::Limit => 32,
            Self::Authentication | Self::Cache | Self::Change | Self::Playback | Self::Probe | Self::Read => {
                64
            }
        }
    }
}

/// Requests that were alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessSum {
    /// What they count as.
    pub class: AccessClass,
    /// What was asked for: an operation, such as `GET /v1/media/{media_id}`; `no operation`; `others` for those without a sum of
    /// their own; of refusals and limits what their class says. Kinds of credentials are `api_key`, `upload_grant`, `token`, `unknown`
    /// and `none`.
    pub what: String,
    /// The role of those who were signed in; absent where nobody was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<PrincipalRole>,
    /// The account of operators, of admins and of whom a right was refused; the public half of an API key or upload grant that was
    /// refused. Never a secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub who: Option<String>,
    /// `ok`, the code of the problem, or what else the operation says: `inactive` of a credential, `not_held` of a token. `any` of others.
    pub outcome: String,
    /// How many there were.
    pub count: u64,
}

/// `evt.access.summed`: the requests that one process answered in a window and that no event of their own reports.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct AccessSummed {
    /// Names this event.
    pub request_id: RequestId,
    /// When the window began, as Unix time in milliseconds by the process's clock.
    pub from_ms: u64,
    /// When it ended.
    pub until_ms: u64,
    /// The sums.
    pub sums: Vec<AccessSum>,
}

impl BusEvent for AccessSummed {
    const ENTITY: &'static str = "access";
    const VERB: &'static str = "summed";
    const ONCE: bool = true;
    fn entity_id(&self) -> String {
        self.request_id.to_string()
    }
    fn event_context(&self) -> EventContext {
        EventContext::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_largest_event_fits() {
        let sums = AccessClass::ALL.into_iter().flat_map(|class| {
            let sum = AccessSum {
                class,
                what: "POST /v1/hooks/{hook_id}/deliveries/{delivery_id}/redeliver".into(),
                role: Some(PrincipalRole::Operator),
                who: Some("x".repeat(128)),
                outcome: "x".repeat(40),
                count: u64::MAX,
            };
            std::iter::repeat_n(sum, class.sums_max() + 1)
        });
        let sums: Vec<AccessSum> = sums.collect();
        // As JSON it is larger than on the bus.
        let size_bytes: usize = sums.iter().map(|sum| format!("{sum:?}").len()).sum();
        assert!(size_bytes < crate::EVENT_BYTES_MAX, "{size_bytes}");
    }
}

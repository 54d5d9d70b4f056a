//! The `RateLimit` and `RateLimit-Policy` fields, and the answer to a request too many.
//!
//! As in draft-ietf-httpapi-ratelimit-headers (version 10): two lists of named policies. `q` is the largest burst and `w` the
//! seconds in which an empty bucket fills; `r` is what is left, `t` the seconds until the next unit when nothing is left, else
//! until the bucket is full. A policy is named `<group>-client`, `<group>-principal` or `<group>-session`. Where several replicas
//! share a rate, all numbers are those of the replica that answers.

use std::{fmt::Write as _, time::Duration};

use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde_json::json;

use super::{
    gcra::{BucketStatus, ReplicaBucketRate},
    group::RateLimitGroup,
};
use crate::{error::Problem, problem_code::ProblemCode};

/// What is left.
pub static RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
/// What is allowed.
pub static RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// Room for two policies.
const TEXT_BYTES: usize = 80;

/// Why a request does not go on: from the moment it was refused, whatever else it asks for is refused alike.
#[derive(Debug, Clone)]
pub(super) struct RateLimitRefusal {
    /// The policy without room.
    pub(super) policy: (RateLimitGroup, RateLimitScope),
    /// Time after which it has room.
    pub(super) wait: Duration,
}

/// Whose requests a bucket counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RateLimitScope {
    /// Those of one client address.
    Client,
    /// Those of one principal, from wherever.
    Principal,
    /// Those of one playback session, or of one sign-in that is refreshed, from wherever.
    Session,
}

impl RateLimitScope {
    /// Every scope.
    pub const ALL: [Self; 3] = [Self::Client, Self::Principal, Self::Session];

    /// Its name in policies, events and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Client => "client",
            Self::Principal => "principal",
            Self::Session => "session",
        }
    }
}

/// One policy and how the caller stands with it.
#[derive(Debug, Clone, Copy)]
pub(super) struct RateLimitPolicyStatus {
    pub(super) group: RateLimitGroup,
    pub(super) scope: RateLimitScope,
    pub(super) share: ReplicaBucketRate,
    pub(super) standing: BucketStatus,
}

impl RateLimitPolicyStatus {
    /// Sorts the tightest first: by the part of the bucket that is left.
    fn tightness(&self) -> u64 {
        u64::from(self.standing.remaining) * 1_000_000 / u64::from(self.share.capacity)
    }
}

/// Name of a policy.
pub(super) fn policy_name(group: RateLimitGroup, scope: RateLimitScope) -> String {
    format!("{}-{}", group.name(), scope.name())
}

/// Whole seconds that are not too short.
pub(super) fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

/// Sets both fields. An answer that sends the client elsewhere never says that nothing is left there.
pub(super) fn set_fields(headers: &mut HeaderMap, status: StatusCode, mut lines: Vec<RateLimitPolicyStatus>) {
    lines.sort_by_key(RateLimitPolicyStatus::tightness);
    let (mut limit, mut policies) = (String::with_capacity(TEXT_BYTES), String::with_capacity(TEXT_BYTES));
    for line in &lines {
        let (group, scope, share, standing) =
            (line.group.name(), line.scope.name(), &line.share, &line.standing);
        let (q, w) = (share.capacity, whole_seconds(share.window()).max(1));
        // Writing to a String can't fail.
        write!(policies, "{}\"{group}-{scope}\";q={q};w={w}", list_separator(&policies)).ok();
        let (r, t) = (standing.remaining, whole_seconds(standing.reset));
        if !(status.is_redirection() && r == 0) {
            write!(limit, "{}\"{group}-{scope}\";r={r};t={t}", list_separator(&limit)).ok();
        }
    }
    for (name, text) in [(&RATE_LIMIT, limit), (&RATE_LIMIT_POLICY, policies)] {
        if !text.is_empty()
            && let Ok(value) = HeaderValue::try_from(text)
        {
            headers.insert(name, value);
        }
    }
}

/// What stands before the next item of a list.
const fn list_separator(list: &str) -> &'static str {
    if list.is_empty() { "" } else { ", " }
}

/// 429 with the time after which the request passes.
pub(super) fn rate_limited(refused: &RateLimitRefusal) -> Problem {
    let retry_after_s = whole_seconds(refused.wait).max(1);
    let (group, scope) = refused.policy;
    Problem::new(ProblemCode::RateLimited)
        .with_detail(format!("wait {retry_after_s} s; a request that was refused does not count"))
        .with_member("violated-policies", json!([policy_name(group, scope)]))
        .with_member("retry_after_s", retry_after_s)
        .with_retry_after_s(retry_after_s)
}

//! Which group a request belongs to. Decided by method and path before routing, so that a request for nothing counts, too.

use axum::http::{HeaderMap, Method, header};
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

    /// The group of a request; `None` when it does not count.
    ///
    /// What belongs to an upload that exists does not count: its bytes in flight are limited instead, and a client that is
    /// told to wait there would lose time, not requests. Nor does OPTIONS, which tells what never changes, or `/livez`,
    /// which costs nothing and whose refusal would restart the process.
    pub fn from_request_head(method: &Method, path: &str, headers: &HeaderMap) -> Option<Self> {
        if is_unlimited(method, path) {
            return None;
        }
        let mut steps = path.trim_start_matches('/').split('/');
        let first = steps.next().unwrap_or_default();
        if first != "v1" {
            return Some(match first {
                "play" => Self::Streaming,
                "metrics" => Self::Monitor,
                _ => Self::Api,
            });
        }
        let (second, third, fourth) = (steps.next().unwrap_or_default(), steps.next(), steps.next());
        match (second, third, fourth) {
            ("uploads", Some(_), None) if may_append(method) => None,
            ("uploads", ..) => Some(Self::Upload),
            ("media", None, _) if *method == Method::POST && !is_json(headers) => Some(Self::Upload),
            ("media", _, Some("playback")) => Some(Self::Streaming),
            ("media", _, Some("transcode")) | ("profiles" | "transcode", ..) => Some(Self::Transcoder),
            ("media", ..) => Some(Self::Metadata),
            ("auth", ..) => Some(Self::Auth),
            ("jobs" | "schedules", ..) => Some(Self::Worker),
            ("cache", ..) => Some(Self::Cache),
            ("monitor" | "audit", ..) => Some(Self::Monitor),
            _ => Some(Self::Api),
        }
    }
}

/// True for what costs nothing: it asks for no credential either.
pub(super) fn is_unlimited(method: &Method, path: &str) -> bool {
    *method == Method::OPTIONS || path == "/livez"
}

/// True where a credential decides whose request it is, so that it is counted once that is known: what shows a header where one is
/// looked at, and what proves itself by its body.
pub(super) fn proves_identity(method: &Method, path: &str, headers: &HeaderMap) -> bool {
    if is_unlimited(method, path) {
        return false;
    }
    let shows = headers.contains_key(header::AUTHORIZATION);
    match path.strip_prefix("/v1/auth/") {
        Some("login" | "refresh") => *method == Method::POST,
        Some("challenge" | "verify") => false,
        _ => shows && (path.starts_with("/v1/") || path == "/metrics"),
    }
}

/// POST at an upload is PATCH by another name, for clients behind proxies that know no PATCH.
fn may_append(method: &Method) -> bool {
    matches!(*method, Method::PATCH | Method::HEAD | Method::POST)
}

fn is_json(headers: &HeaderMap) -> bool {
    let text = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    text.split(';').next().unwrap_or_default().trim().eq_ignore_ascii_case("application/json")
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
            upload: rate(100, 10),
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
    fn every_request_has_its_group() {
        let json = HeaderMap::from_iter([(
            header::CONTENT_TYPE,
            "application/json; charset=utf-8".parse().unwrap(),
        )]);
        let film = HeaderMap::from_iter([(header::CONTENT_TYPE, "video/mp4".parse().unwrap())]);
        let none = HeaderMap::new();
        for (method, path, headers, wanted) in [
            (Method::GET, "/livez", &none, None),
            (Method::GET, "/readyz", &none, Some(RateLimitGroup::Api)),
            (Method::GET, "/nothing/here", &none, Some(RateLimitGroup::Api)),
            (Method::GET, "/v1/nothing", &none, Some(RateLimitGroup::Api)),
            (Method::GET, "/v1", &none, Some(RateLimitGroup::Api)),
            (Method::GET, "//v1/media", &none, Some(RateLimitGroup::Metadata)),
            (Method::GET, "/v1/events", &none, Some(RateLimitGroup::Api)),
            (Method::OPTIONS, "/v1/uploads", &none, None),
            (Method::POST, "/v1/uploads", &none, Some(RateLimitGroup::Upload)),
            (Method::POST, "/v1/uploads/", &none, None),
            (Method::PATCH, "/v1/uploads/x", &none, None),
            (Method::HEAD, "/v1/uploads/x", &none, None),
            (Method::POST, "/v1/uploads/x", &none, None),
            (Method::DELETE, "/v1/uploads/x", &none, Some(RateLimitGroup::Upload)),
            (Method::GET, "/v1/uploads/x/status", &none, Some(RateLimitGroup::Upload)),
            (Method::PATCH, "/v1/uploads/x/status", &none, Some(RateLimitGroup::Upload)),
            (Method::PATCH, "/v1/media/x", &json, Some(RateLimitGroup::Metadata)),
            (Method::POST, "/v1/media", &film, Some(RateLimitGroup::Upload)),
            (Method::POST, "/v1/media", &none, Some(RateLimitGroup::Upload)),
            (Method::POST, "/v1/media", &json, Some(RateLimitGroup::Metadata)),
            (Method::GET, "/v1/media", &film, Some(RateLimitGroup::Metadata)),
            (Method::PUT, "/v1/media/x/gate", &json, Some(RateLimitGroup::Metadata)),
            (Method::POST, "/v1/media/x/playback", &none, Some(RateLimitGroup::Streaming)),
            (Method::GET, "/play/token/x/master.m3u8", &none, Some(RateLimitGroup::Streaming)),
            (Method::POST, "/v1/media/x/transcode", &json, Some(RateLimitGroup::Transcoder)),
            (Method::GET, "/v1/profiles", &none, Some(RateLimitGroup::Transcoder)),
            (Method::GET, "/v1/transcode/metrics", &none, Some(RateLimitGroup::Transcoder)),
            (Method::POST, "/v1/auth/login", &json, Some(RateLimitGroup::Auth)),
            (Method::GET, "/v1/jobs/x", &none, Some(RateLimitGroup::Worker)),
            (Method::DELETE, "/v1/schedules", &none, Some(RateLimitGroup::Worker)),
            (Method::GET, "/v1/cache/entries/k", &none, Some(RateLimitGroup::Cache)),
            (Method::GET, "/v1/audit", &none, Some(RateLimitGroup::Monitor)),
            (Method::GET, "/metrics", &none, Some(RateLimitGroup::Monitor)),
        ] {
            assert_eq!(RateLimitGroup::from_request_head(&method, path, headers), wanted, "{method} {path}");
        }
    }

    #[test]
    fn who_proves_something_is_counted_once_it_is_known() {
        let shows = HeaderMap::from_iter([(header::AUTHORIZATION, "Bearer x".parse().unwrap())]);
        let none = HeaderMap::new();
        for (method, path, headers, wanted) in [
            (Method::GET, "/v1/media", &shows, true),
            (Method::PATCH, "/v1/uploads/x", &shows, true),
            (Method::GET, "/metrics", &shows, true),
            (Method::GET, "/v1/media", &none, false),
            (Method::POST, "/v1/auth/login", &none, true),
            (Method::POST, "/v1/auth/refresh", &none, true),
            (Method::GET, "/v1/auth/refresh", &none, false),
            // Nobody looks at a credential here.
            (Method::POST, "/v1/auth/challenge", &shows, false),
            (Method::POST, "/v1/auth/verify", &shows, false),
            (Method::GET, "/docs", &shows, false),
            (Method::GET, "/play/token/x/master.m3u8", &shows, false),
            (Method::OPTIONS, "/v1/media", &shows, false),
        ] {
            assert_eq!(proves_identity(&method, path, headers), wanted, "{method} {path}");
        }
    }

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

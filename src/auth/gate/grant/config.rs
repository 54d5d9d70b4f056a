//! Settings of playback sessions.

use serde::{Deserialize, Serialize};

use super::{MINUTE_MS, crowd};

/// Settings of playback sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// How long a grant lasts before the gate is evaluated again, in milliseconds.
    pub grant_ms: u64,
    /// How long before its end a grant is renewed by the request that comes then, in milliseconds.
    pub renew_early_ms: u64,
    /// Longest session in milliseconds.
    pub session_ms: u64,
    /// How long a session lives that nobody uses, in milliseconds.
    pub unused_session_ms: u64,
    /// Sessions of one client at a time, by its address or IPv6 prefix; each replica counts those it opened.
    pub sessions_per_client_max: usize,
    /// Sessions of one wallet at a time, counted the same way.
    pub sessions_per_wallet_max: usize,
    /// Sessions that one replica opened and that are used; with as many there is no room for more.
    pub sessions_max: usize,
    /// Sessions kept in memory; others are read for each request.
    pub live_max: usize,
    /// Events of refusals a minute.
    pub denied_events_per_minute_max: u64,
    /// Events of refusals of one viewer a minute; all who did not sign in count as one.
    pub denied_events_per_viewer_per_minute_max: u64,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            grant_ms: 60_000,
            renew_early_ms: 15_000,
            session_ms: 12 * 60 * MINUTE_MS,
            unused_session_ms: 2 * 60 * MINUTE_MS,
            sessions_per_client_max: 100,
            sessions_per_wallet_max: 50,
            sessions_max: 100_000,
            live_max: 100_000,
            denied_events_per_minute_max: 600,
            denied_events_per_viewer_per_minute_max: 60,
        }
    }
}

impl Config {
    /// Limits of the crowd.
    pub(super) const fn crowd(&self) -> crowd::Caps {
        crowd::Caps {
            total: self.sessions_max,
            per_client: self.sessions_per_client_max,
            per_wallet: self.sessions_per_wallet_max,
            unused_ms: self.unused_session_ms,
        }
    }
}

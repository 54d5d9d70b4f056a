//! Settings of playback sessions.

use std::time::Duration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{MINUTE_MS, session_limit};

/// Settings of playback sessions.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct GrantConfig {
    /// How long a grant lasts before the gate is evaluated again, in milliseconds.
    pub grant_ms: u64,
    /// How long before its end a grant is renewed by the request that comes then, in milliseconds.
    pub renew_early_ms: u64,
    /// Longest session, in milliseconds.
    pub session_ms: u64,
    /// How long a session lives that nobody uses, in milliseconds.
    pub unused_session_ms: u64,
    /// Sessions of one client at a time that were never played, by its address or IPv6 prefix; a newer one ends the oldest of them.
    /// Each replica counts those it opened.
    pub sessions_per_client_max: usize,
    /// Sessions of one client at a time that were played, by its address or IPv6 prefix and on one replica; with as many there is
    /// no room for more.
    pub played_sessions_per_client_max: usize,
    /// Sessions of one wallet at a time on one replica; a newer one ends one that was never played, else one that lies idle.
    pub sessions_per_wallet_max: usize,
    /// Sessions that one replica opened and that are used; with as many there is no room for more.
    pub sessions_max: usize,
    /// Sessions kept in memory; others are read for each request.
    pub live_max: usize,
    /// Most events of refusals a minute.
    pub denied_events_per_minute_max: u64,
    /// Most events of refusals of one viewer a minute; all who did not sign in count as one.
    pub denied_events_per_viewer_per_minute_max: u64,
}

impl Default for GrantConfig {
    fn default() -> Self {
        Self {
            grant_ms: 60_000,
            renew_early_ms: 15_000,
            session_ms: 12 * 60 * MINUTE_MS,
            unused_session_ms: 2 * 60 * MINUTE_MS,
            sessions_per_client_max: 100,
            played_sessions_per_client_max: 10_000,
            sessions_per_wallet_max: 50,
            sessions_max: 100_000,
            live_max: 100_000,
            denied_events_per_minute_max: 600,
            denied_events_per_viewer_per_minute_max: 60,
        }
    }
}

impl GrantConfig {
    /// Names the first setting that can't be used, and why.
    ///
    /// # Errors
    /// The setting's name and the reason.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        if self.session_ms < self.grant_ms {
            let reason = format!(
                "a session ends before its first grant, which lasts {:?}",
                humantime::format_duration(Duration::from_millis(self.grant_ms)).to_string()
            );
            return Err(("grants.session_ms", reason));
        }
        if self.unused_session_ms < self.grant_ms {
            let reason = format!(
                "it ends before its grant, which lasts {:?}",
                humantime::format_duration(Duration::from_millis(self.grant_ms)).to_string()
            );
            return Err(("grants.unused_session_ms", reason));
        }
        if self.renew_early_ms >= self.grant_ms {
            let reason = format!(
                "a grant, which lasts {:?}, would always be renewed",
                humantime::format_duration(Duration::from_millis(self.grant_ms)).to_string()
            );
            return Err(("grants.renew_early_ms", reason));
        }
        Ok(())
    }

    /// Limits of sessions at a time.
    pub(super) const fn session_caps(&self) -> session_limit::SessionCaps {
        session_limit::SessionCaps {
            total: self.sessions_max,
            waiting_per_client: self.sessions_per_client_max,
            played_per_client: self.played_sessions_per_client_max,
            per_wallet: self.sessions_per_wallet_max,
            unused_ms: self.unused_session_ms,
            // A session that plays renews its grant before it ends.
            idle_ms: self.grant_ms.saturating_mul(2),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ends_before_its_grant_is_refused() {
        assert_eq!(GrantConfig::default().check(), Ok(()));
        let wrong = |change: fn(&mut GrantConfig)| {
            let mut config = GrantConfig::default();
            change(&mut config);
            config.check().unwrap_err().0
        };
        assert_eq!(wrong(|c| c.session_ms = c.grant_ms - 1), "grants.session_ms");
        assert_eq!(wrong(|c| c.unused_session_ms = c.grant_ms - 1), "grants.unused_session_ms");
        assert_eq!(wrong(|c| c.renew_early_ms = c.grant_ms), "grants.renew_early_ms");
    }
}

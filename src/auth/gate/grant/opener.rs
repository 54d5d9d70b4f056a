//! Whether the credential still stands that a playback session was opened with.

use nats::Bus;
use schemas::{access::ApiKey, gate::Opener, session};

/// False once the sign-in was ended or ran out, or the API key was revoked or ran out. Who showed no credential needs none.
pub(super) async fn stands(bus: &Bus, opener: Option<Opener>, now_ms: u64) -> Result<bool, nats::Error> {
    match opener {
        None => Ok(true),
        Some(Opener::SignIn(session_id)) => {
            let held = bus.load::<session::Session>(&session_id.to_string()).await?;
            Ok(held.is_some_and(|held| held.record.is_open(now_ms)))
        }
        Some(Opener::Key(key_id)) => {
            let held = bus.load::<ApiKey>(&key_id.to_string()).await?;
            Ok(held.is_some_and(|held| held.record.is_good(now_ms)))
        }
    }
}

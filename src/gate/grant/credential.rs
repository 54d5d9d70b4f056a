//! Whether the credential still stands that a playback session was opened with.

use nats::Bus;
use schemas::{
    access::ApiKey,
    gate::PlaybackCredential,
    session::{self, SignInMethod},
};

use auth::{
    denial::SignInError,
    proof::{ProofAge, ProofChecker},
};

/// What is known of the credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum CredentialStatus {
    /// It stands.
    Stands,
    /// The sign-in was ended or ran out, its account took its word back, or the API key was revoked or ran out.
    Over,
    /// The account of the sign-in can't be asked at present.
    Unclear,
}

/// Looks at the credential. Who showed none needs none; the account of a sign-in that is a contract's has said yes at `age`.
pub(super) async fn check_credential(
    bus: &Bus,
    proofs: &ProofChecker,
    (opener, age): (Option<PlaybackCredential>, ProofAge),
    now_ms: u64,
) -> Result<CredentialStatus, nats::BusError> {
    let is_good = match opener {
        None => true,
        Some(PlaybackCredential::SignIn(session_id)) => {
            let held = bus.load_record::<session::AuthSession>(&session_id.to_string()).await?;
            match held.map(|held| held.record).filter(|session| session.is_open(now_ms)) {
                None => false,
                Some(session) if session.method == SignInMethod::Key => true,
                Some(_) => match proofs.is_session_confirmed(session_id, age).await {
                    Ok(stands) => stands,
                    Err(SignInError::Bus(error)) => return Err(error),
                    Err(error) => {
                        tracing::debug!(%error, session.id = %session_id, "the account of a session could not be asked");
                        // An account that can't be asked has not taken its word back.
                        return Ok(CredentialStatus::Unclear);
                    }
                },
            }
        }
        Some(PlaybackCredential::Key(key_id)) => {
            let held = bus.load_record::<ApiKey>(&key_id.to_string()).await?;
            held.is_some_and(|held| held.record.is_active(now_ms))
        }
    };
    Ok(if is_good { CredentialStatus::Stands } else { CredentialStatus::Over })
}

//! Following revocations, changed gates, and credentials that ended.

use nats::reader;
use schemas::{
    gate::{GateChanged, GateRevoked, PlaybackCredential},
    ids::MediaId,
    session::{AuthKeyRevoked, AuthReused, AuthSignedOut},
    subjects,
};
use tokio_util::sync::CancellationToken;

use super::PlaybackGrants;
use nats::invalidating_cache;

impl PlaybackGrants {
    /// Follows revocations, changed gates and ended credentials until `shutdown`; without it nothing is answered from memory.
    ///
    /// # Errors
    /// When the broker lets nobody follow its events.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), nats::BusError> {
        let filters = vec![
            subjects::event_filter::<GateRevoked>(),
            subjects::event_filter::<GateChanged>(),
            subjects::event_filter::<AuthSignedOut>(),
            subjects::event_filter::<AuthReused>(),
            subjects::event_filter::<AuthKeyRevoked>(),
            subjects::event_verb_filter("media", "removed"),
        ];
        let shared = &self.shared;
        invalidating_cache::follow_invalidations(
            &shared.bus,
            "revocations",
            filters,
            &shared.live,
            |entry| self.apply_event(entry),
            shutdown,
        )
        .await
    }

    fn apply_event(&self, entry: &reader::StreamEntry) {
        let live = &self.shared.live;
        match subjects::parse_event_subject(&entry.subject) {
            Some(("gate", "revoked", _)) => {
                match nats::decode_message::<GateRevoked>(&entry.subject, &entry.payload) {
                    Ok(revoked) => live.remove(&revoked.playback_id),
                    // Some session ended, and it is not known which: all are looked up again.
                    Err(_) => live.clear(),
                }
            }
            Some(("auth", _, _)) => match ended_credential(entry) {
                Some(ended) => live.remove_where(|session| session.opener == Some(ended)),
                None => live.clear(),
            },
            Some((_, _, id)) => match id.parse::<MediaId>() {
                Ok(media_id) => live.remove_where(|session| session.media_id == media_id),
                Err(_) => live.clear(),
            },
            None => live.clear(),
        }
    }
}

/// The credential that an event of sign-in ended.
fn ended_credential(entry: &reader::StreamEntry) -> Option<PlaybackCredential> {
    let (subject, payload) = (&entry.subject, &entry.payload);
    match subjects::parse_event_subject(subject)?.1 {
        "signed_out" => Some(PlaybackCredential::SignIn(
            nats::decode_message::<AuthSignedOut>(subject, payload).ok()?.session_id,
        )),
        "reused" => Some(PlaybackCredential::SignIn(
            nats::decode_message::<AuthReused>(subject, payload).ok()?.session_id,
        )),
        "key_revoked" => Some(PlaybackCredential::Key(
            nats::decode_message::<AuthKeyRevoked>(subject, payload).ok()?.key_id,
        )),
        _ => None,
    }
}

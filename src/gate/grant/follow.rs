//! Hearing of revocations, changed gates, and credentials that ended.

use nats::reader;
use schemas::{
    gate::{GateChanged, GateRevoked, PlaybackCredential},
    ids::MediaId,
    session::{KeyRevoked, Reused, SignedOut},
    subjects,
};
use tokio_util::sync::CancellationToken;

use super::Grants;
use nats::memory;

impl Grants {
    /// Hears of revocations, changed gates and ended credentials until `shutdown`; without it nothing is answered from memory.
    ///
    /// # Errors
    /// When the broker lets nobody follow its events.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), nats::BusError> {
        let filters = vec![
            subjects::event_filter::<GateRevoked>(),
            subjects::event_filter::<GateChanged>(),
            subjects::event_filter::<SignedOut>(),
            subjects::event_filter::<Reused>(),
            subjects::event_filter::<KeyRevoked>(),
            subjects::event_verb_filter("media", "removed"),
        ];
        let shared = &self.shared;
        memory::follow_invalidations(
            &shared.bus,
            "revocations",
            filters,
            &shared.live,
            |entry| self.hear(entry),
            shutdown,
        )
        .await
    }

    fn hear(&self, entry: &reader::StreamEntry) {
        let live = &self.shared.live;
        match subjects::parse_event_subject(&entry.subject) {
            Some(("gate", "revoked", _)) => {
                match nats::decode_message::<GateRevoked>(&entry.subject, &entry.payload) {
                    Ok(revoked) => live.remove(&revoked.playback_id),
                    Err(_) => live.clear(),
                }
            }
            Some(("auth", _, _)) => match ended(entry) {
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
fn ended(entry: &reader::StreamEntry) -> Option<PlaybackCredential> {
    let (subject, payload) = (&entry.subject, &entry.payload);
    match subjects::parse_event_subject(subject)?.1 {
        "signed_out" => Some(PlaybackCredential::SignIn(
            nats::decode_message::<SignedOut>(subject, payload).ok()?.session_id,
        )),
        "reused" => Some(PlaybackCredential::SignIn(
            nats::decode_message::<Reused>(subject, payload).ok()?.session_id,
        )),
        "key_revoked" => {
            Some(PlaybackCredential::Key(nats::decode_message::<KeyRevoked>(subject, payload).ok()?.key_id))
        }
        _ => None,
    }
}

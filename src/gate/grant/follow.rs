//! Hearing of revocations, changed gates, and credentials that ended.

use nats::reader;
use schemas::{
    gate::{Changed, Opener, Revoked},
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
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), nats::Error> {
        let filters = vec![
            subjects::events_of::<Revoked>(),
            subjects::events_of::<Changed>(),
            subjects::events_of::<SignedOut>(),
            subjects::events_of::<Reused>(),
            subjects::events_of::<KeyRevoked>(),
            subjects::events_of_verb("media", "removed"),
        ];
        let shared = &self.shared;
        memory::follow(&shared.bus, "revocations", filters, &shared.live, |entry| self.hear(entry), shutdown)
            .await
    }

    fn hear(&self, entry: &reader::Entry) {
        let live = &self.shared.live;
        match subjects::event_parts(&entry.subject) {
            Some(("gate", "revoked", _)) => match nats::decode::<Revoked>(&entry.subject, &entry.payload) {
                Ok(revoked) => live.forget(&revoked.playback_id),
                Err(_) => live.clear(),
            },
            Some(("auth", _, _)) => match ended(entry) {
                Some(ended) => live.forget_where(|session| session.opener == Some(ended)),
                None => live.clear(),
            },
            Some((_, _, id)) => match id.parse::<MediaId>() {
                Ok(media_id) => live.forget_where(|session| session.media_id == media_id),
                Err(_) => live.clear(),
            },
            None => live.clear(),
        }
    }
}

/// The credential that an event of sign-in ended.
fn ended(entry: &reader::Entry) -> Option<Opener> {
    let (subject, payload) = (&entry.subject, &entry.payload);
    match subjects::event_parts(subject)?.1 {
        "signed_out" => Some(Opener::SignIn(nats::decode::<SignedOut>(subject, payload).ok()?.session_id)),
        "reused" => Some(Opener::SignIn(nats::decode::<Reused>(subject, payload).ok()?.session_id)),
        "key_revoked" => Some(Opener::Key(nats::decode::<KeyRevoked>(subject, payload).ok()?.key_id)),
        _ => None,
    }
}

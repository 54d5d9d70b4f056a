//! Hearing of revocations and changed gates.

use nats::reader;
use schemas::{
    gate::{Changed, Revoked},
    ids::MediaId,
    subjects,
};
use tokio_util::sync::CancellationToken;

use super::Grants;
use crate::memory;

impl Grants {
    /// Hears of revocations and changed gates until `shutdown`; without it nothing is answered from memory.
    ///
    /// # Errors
    /// When the broker lets nobody follow its events.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), nats::Error> {
        let filters = vec![
            subjects::events_of::<Revoked>(),
            subjects::events_of::<Changed>(),
            subjects::events_of_verb("media", "removed"),
        ];
        let shared = &self.shared;
        memory::follow(&shared.bus, filters, &shared.live, |entry| self.hear(entry), shutdown).await
    }

    fn hear(&self, entry: &reader::Entry) {
        let live = &self.shared.live;
        match subjects::event_parts(&entry.subject) {
            Some(("gate", "revoked", _)) => match nats::decode::<Revoked>(&entry.subject, &entry.payload) {
                Ok(revoked) => live.forget(&revoked.playback_id),
                Err(_) => live.clear(),
            },
            Some((_, _, id)) => match id.parse::<MediaId>() {
                Ok(media_id) => live.forget_where(|session| session.media_id == media_id),
                Err(_) => live.clear(),
            },
            None => live.clear(),
        }
    }
}

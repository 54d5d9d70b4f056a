//! Hearing of revocations and changed gates, so that memory is never wiser than the records.

use nats::{Start, reader};
use schemas::{
    gate::{Changed, Revoked},
    subjects,
};
use tokio_util::sync::CancellationToken;

use super::Grants;

impl Grants {
    /// Hears of revocations and changed gates until `shutdown`; without it nothing is answered from memory.
    ///
    /// # Errors
    /// When the broker lets nobody follow its events.
    pub async fn run(&self, shutdown: CancellationToken) -> Result<(), nats::Error> {
        let shared = &self.shared;
        let filters = vec![
            subjects::events_of::<Revoked>(),
            subjects::events_of::<Changed>(),
            subjects::events_of_verb("media", "removed"),
        ];
        let settings = reader::Config::new(subjects::EVENTS, filters, Start::New);
        let mut connection = shared.bus.connection();
        let mut events = shared.bus.reader(settings).await?;
        shared.live.follow(true);
        loop {
            tokio::select! {
                () = shutdown.cancelled() => break,
                event = events.next() => match event {
                    Ok(entry) => self.hear(&entry),
                    Err(error) => {
                        tracing::warn!(%error, "an event could not be read; every session is looked up again");
                        shared.live.clear();
                    }
                },
                // What was said while the connection was away may be missed.
                changed = connection.changed() => {
                    shared.live.clear();
                    if changed.is_err() {
                        break;
                    }
                }
            }
        }
        shared.live.follow(false);
        Ok(())
    }

    fn hear(&self, entry: &reader::Entry) {
        let live = &self.shared.live;
        match subjects::event_parts(&entry.subject) {
            Some(("gate", "revoked", _)) => match nats::decode::<Revoked>(&entry.subject, &entry.payload) {
                Ok(revoked) => live.forget(revoked.playback_id),
                Err(_) => live.clear(),
            },
            Some((_, _, id)) => match id.parse() {
                Ok(media_id) => live.forget_media(media_id),
                Err(_) => live.clear(),
            },
            None => live.clear(),
        }
    }
}

//! What playing needs to know of media that are ready, in memory while their events are heard: a segment then costs no read of the
//! broker.
//!
//! Every change of a medium that is ready is an event after its record was written, so what is served may be older than the record by
//! as long as an event travels.
//!
//! Limits: [`Config::media_count_max`](super::Config) and [`Config::media_age_seconds_max`](super::Config).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nats::Bus;
use schemas::{
    Record as _,
    document::{self, Encryption},
    ids::MediaId,
    media::{self, Encode, Status},
    subjects,
};
use tokio_util::sync::CancellationToken;

use super::Config;
use nats::memory::{self, Memory};

/// A medium that plays.
#[derive(Debug)]
pub(super) struct Medium {
    /// True while its encode still grows.
    pub(super) is_growing: bool,
    pub(super) encode: Encode,
    pub(super) encryption: Encryption,
}

#[derive(Debug, Clone)]
struct Entry {
    medium: Arc<Medium>,
    read_at: Instant,
}

/// Media that are ready.
#[derive(Debug)]
pub struct Known {
    memory: Memory<MediaId, Entry>,
    age_max: Duration,
}

impl Known {
    /// Nothing known yet.
    pub fn new(config: &Config) -> Self {
        Self {
            memory: Memory::new(config.media_count_max),
            age_max: Duration::from_secs(config.media_age_seconds_max),
        }
    }

    /// Hears of changed media until `shutdown`; without it nothing is answered from memory.
    ///
    /// # Errors
    /// When the broker lets nobody follow its events.
    pub async fn run(&self, bus: &Bus, shutdown: CancellationToken) -> Result<(), nats::Error> {
        let hear = |entry: &nats::reader::Entry| match subjects::event_parts(&entry.subject) {
            Some((_, _, id)) if let Ok(media_id) = id.parse() => self.memory.forget(&media_id),
            _ => self.memory.clear(),
        };
        let filters = vec![subjects::events_of_entity("media")];
        memory::follow(bus, "media", filters, &self.memory, hear, shutdown).await
    }

    /// Forgets a medium that was changed here: its next reader sees the change, however long the event travels.
    pub(crate) fn forget(&self, media_id: MediaId) {
        self.memory.forget(&media_id);
    }

    /// The medium, if it plays.
    pub(super) async fn medium(
        &self,
        bus: &Bus,
        media_id: MediaId,
    ) -> Result<Option<Arc<Medium>>, nats::Error> {
        let is_old = |entry: &Entry| entry.read_at.elapsed() >= self.age_max;
        if let Some(entry) = self.memory.get(&media_id).filter(|entry| !is_old(entry)) {
            return Ok(Some(entry.medium));
        }
        let generation = self.memory.generation();
        let key = media_id.to_string();
        let (asset, document) =
            tokio::try_join!(bus.load::<media::Record>(&key), bus.load_any::<document::Record>(&key))?;
        let document = document.map(|held| held.record);
        if document.as_ref().is_some_and(document::Record::is_removed) {
            return Ok(None);
        }
        let Some(asset) = asset.map(|held| held.record) else { return Ok(None) };
        let (Status::Playable | Status::Ready, Some(encode)) = (asset.status, asset.encode) else {
            return Ok(None);
        };
        let is_growing = asset.status == Status::Playable;
        let encryption = document.map(|document| document.encryption).unwrap_or_default();
        let medium = Arc::new(Medium { is_growing, encode, encryption });
        if !is_growing {
            let entry = Entry { medium: Arc::clone(&medium), read_at: Instant::now() };
            self.memory.put(generation, media_id, entry, is_old);
        }
        Ok(Some(medium))
    }
}

#[cfg(test)]
mod tests {
    use nats::{Held, Outbox, Role, testing::TestBroker};
    use tokio::task::JoinSet;

    use super::*;
    use crate::tests::asset;

    const FILM: MediaId = MediaId::from_bytes([7; 16]);

    fn document(encryption: Encryption) -> (document::Record, Outbox) {
        let title = String::from("a film");
        let changed = document::Changed {
            media_id: FILM,
            owner: "olga".into(),
            changed_by: "olga".into(),
            title: title.clone(),
            mint_tx: None,
            encryption,
        };
        let record = document::Record {
            media_id: FILM,
            owner: "olga".into(),
            title,
            mint_tx: None,
            gate: None,
            encryption,
            created_at_ms: 1,
            changed_at_ms: 1,
            removed_at_ms: None,
        };
        (record, Outbox::new().event(&changed))
    }

    #[tokio::test]
    async fn a_ready_medium_is_remembered_until_somebody_changes_it() {
        let broker = TestBroker::start().await;
        let (admin, bus) = (broker.bus(Role::Admin).await, broker.bus(Role::Ingress).await);
        let known = Arc::new(Known::new(&Config::default()));
        let mut held = Held::new(asset(FILM, "olga", Status::Playable));
        admin.commit(&mut held, Outbox::new()).await.unwrap();
        assert!(known.medium(&bus, MediaId::from_bytes([9; 16])).await.unwrap().is_none());
        let mut tasks = JoinSet::new();
        let (following, hearing) = (Arc::clone(&known), bus.clone());
        tasks.spawn(async move { following.run(&hearing, CancellationToken::new()).await });
        let deadline = Instant::now() + Duration::from_secs(20);
        assert!(known.medium(&bus, FILM).await.unwrap().unwrap().is_growing);
        held.record.status = Status::Ready;
        admin.commit(&mut held, Outbox::new()).await.unwrap();
        while known.memory.get(&FILM).is_none() {
            assert!(Instant::now() < deadline, "it is remembered once changes are heard");
            assert!(
                !known.medium(&bus, FILM).await.unwrap().unwrap().is_growing,
                "growing ones are not remembered"
            );
        }
        let key = FILM.to_string();
        let change = admin.change::<document::Record>(&key, |_| Some(document(Encryption::Aes128)));
        Box::pin(change).await.unwrap();
        while known.medium(&bus, FILM).await.unwrap().unwrap().encryption.is_none() {
            assert!(Instant::now() < deadline, "the change is heard");
        }
    }
}

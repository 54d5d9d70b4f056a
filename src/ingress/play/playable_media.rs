//! What playing needs to know of media that are ready, in memory while their events are received: a segment then costs no read of
//! the broker.
//!
//! Every change of a medium that is ready is an event after its record was written, so what is served may be older than the record
//! by as long as an event travels.
//!
//! Limits: [`PlaybackConfig::media_count_max`](super::PlaybackConfig) and
//! [`PlaybackConfig::media_age_seconds_max`](super::PlaybackConfig).

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use nats::Bus;
use schemas::{
    KvRecord as _,
    captions::CaptionTrack,
    chapters::Chapter,
    document::{self, DownloadPolicy, SegmentEncryption},
    ids::MediaId,
    keys,
    media::{self, MediaEncode, MediaStatus},
    poster::ChosenPoster,
    subjects,
};
use tokio_util::sync::CancellationToken;

use super::PlaybackConfig;
use nats::invalidating_cache::{self, InvalidatingCache};

/// A medium that plays.
#[derive(Debug)]
pub(super) struct PlayableMedium {
    /// True while its encode still grows.
    pub(super) is_growing: bool,
    pub(super) encode: MediaEncode,
    pub(super) encryption: SegmentEncryption,
    pub(super) downloads: DownloadPolicy,
    /// Empty when nobody gave it one.
    pub(super) title: Arc<str>,
    /// Texts that its owner brought.
    pub(super) captions: Arc<[CaptionTrack]>,
    /// Its chapters, in order of time.
    pub(super) chapters: Arc<[Chapter]>,
    /// The poster that its owner chose.
    pub(super) poster: Option<ChosenPoster>,
    /// It as it was with the encodes that this one replaced.
    superseded: Vec<Arc<Self>>,
}

impl PlayableMedium {
    /// The medium with the encode that a session began to play, by the number of its folder: a retry goes on in the folder of the job
    /// before it. A session of none plays what plays now.
    fn choose_encode(self: &Arc<Self>, wanted: Option<u32>) -> Option<Arc<Self>> {
        let is_wanted =
            |medium: &&Arc<Self>| wanted.is_none() || keys::encode_folder(&medium.encode.prefix) == wanted;
        std::iter::once(self).chain(&self.superseded).find(is_wanted).cloned()
    }
}

#[derive(Debug, Clone)]
struct PlayableMediumEntry {
    medium: Arc<PlayableMedium>,
    read_at: Instant,
}

/// Media that are ready.
#[derive(Debug)]
pub struct PlayableMediaCache {
    memory: InvalidatingCache<MediaId, PlayableMediumEntry>,
    age_max: Duration,
}

impl PlayableMediaCache {
    /// Nothing known yet.
    pub fn new(config: &PlaybackConfig) -> Self {
        Self {
            memory: InvalidatingCache::new(config.media_count_max),
            age_max: Duration::from_secs(config.media_age_seconds_max),
        }
    }

    /// Receives changes of media until `shutdown`; without it nothing is answered from memory.
    ///
    /// # Errors
    /// When the broker lets nobody follow its events.
    pub async fn run(&self, bus: &Bus, shutdown: CancellationToken) -> Result<(), nats::BusError> {
        let invalidate = |entry: &nats::reader::StreamEntry| {
            let parsed = subjects::parse_event_subject(&entry.subject);
            match parsed.and_then(|(_, _, id)| id.parse().ok()) {
                Some(media_id) => self.memory.remove(&media_id),
                None => self.memory.clear(),
            }
        };
        let filters = vec![subjects::entity_event_filter("media")];
        invalidating_cache::follow_invalidations(bus, "media", filters, &self.memory, invalidate, shutdown)
            .await
    }

    /// Forgets a medium that was changed here: its next reader sees the change, however long the event travels.
    pub(crate) fn forget(&self, media_id: MediaId) {
        self.memory.remove(&media_id);
    }

    /// The medium, if it plays, with the encode in the folder of the number `wanted`; `None` also when that is gone.
    pub(super) async fn load_medium(
        &self,
        bus: &Bus,
        media_id: MediaId,
        wanted: Option<u32>,
    ) -> Result<Option<Arc<PlayableMedium>>, nats::BusError> {
        let is_old = |entry: &PlayableMediumEntry| entry.read_at.elapsed() >= self.age_max;
        let known = self.memory.get(&media_id).filter(|entry| !is_old(entry));
        // One that is not among those known may be newer than the last event that came.
        if let Some(chosen) = known.and_then(|entry| entry.medium.choose_encode(wanted)) {
            return Ok(Some(chosen));
        }
        // Before the records are read: an event that comes meanwhile makes what was read old.
        let generation = self.memory.generation();
        let key = media_id.to_string();
        let (asset, document) = tokio::try_join!(
            bus.load_record::<media::MediaRecord>(&key),
            bus.load_with_tombstone::<document::MediaDocumentRecord>(&key)
        )?;
        let document = document.map(|held| held.record);
        if document.as_ref().is_some_and(document::MediaDocumentRecord::is_removed) {
            return Ok(None);
        }
        let Some(asset) = asset.map(|held| held.record) else { return Ok(None) };
        let chapters: Arc<[Chapter]> =
            document::choose_chapters(document.as_ref(), Some(&asset)).unwrap_or_default().into();
        let (MediaStatus::Playable | MediaStatus::Ready, Some(encode)) = (asset.status, asset.encode) else {
            return Ok(None);
        };
        let is_growing = asset.status == MediaStatus::Playable;
        let document = document.unwrap_or_else(|| {
            document::MediaDocumentRecord::new(media_id, asset.owner.clone(), asset.created_at_ms)
        });
        let title: Arc<str> = document.title.into();
        let captions: Arc<[CaptionTrack]> = document.captions.into();
        let to_medium = |is_growing, encode, superseded| PlayableMedium {
            is_growing,
            encode,
            encryption: document.encryption,
            downloads: document.downloads,
            title: Arc::clone(&title),
            captions: Arc::clone(&captions),
            chapters: Arc::clone(&chapters),
            poster: document.poster.clone(),
            superseded,
        };
        let superseded = asset.superseded.into_iter();
        let superseded = superseded.map(|other| Arc::new(to_medium(false, other.encode, Vec::new())));
        let superseded = superseded.collect();
        let medium = Arc::new(to_medium(is_growing, encode, superseded));
        if !is_growing {
            let entry = PlayableMediumEntry { medium: Arc::clone(&medium), read_at: Instant::now() };
            self.memory.insert(generation, media_id, entry, is_old);
        }
        Ok(medium.choose_encode(wanted))
    }
}

#[cfg(test)]
mod tests {
    use nats::{Outbox, Role, VersionedRecord, testing::TestBroker};
    use tokio::task::JoinSet;

    use super::*;
    use crate::tests::asset;

    const FILM: MediaId = MediaId::from_bytes([7; 16]);

    fn document(encryption: SegmentEncryption) -> (document::MediaDocumentRecord, Outbox) {
        let title = String::from("a film");
        let record = document::MediaDocumentRecord {
            title,
            encryption,
            ..document::MediaDocumentRecord::new(FILM, "olga".into(), 1)
        };
        let changed = document::MediaChanged::new(&record, "olga", &[]);
        (record, Outbox::new().with_event(&changed))
    }

    #[tokio::test]
    async fn a_ready_medium_is_remembered_until_somebody_changes_it() {
        let broker = TestBroker::start().await;
        let (admin, bus) = (broker.bus(Role::Admin).await, broker.bus(Role::Ingress).await);
        let known = Arc::new(PlayableMediaCache::new(&PlaybackConfig::default()));
        let mut held = VersionedRecord::new(asset(FILM, "olga", MediaStatus::Playable));
        admin.commit_record(&mut held, Outbox::new()).await.unwrap();
        assert!(known.load_medium(&bus, MediaId::from_bytes([9; 16]), None).await.unwrap().is_none());
        let mut tasks = JoinSet::new();
        let (following, subscriber) = (Arc::clone(&known), bus.clone());
        tasks.spawn(async move { following.run(&subscriber, CancellationToken::new()).await });
        let deadline = Instant::now() + Duration::from_secs(20);
        assert!(known.load_medium(&bus, FILM, None).await.unwrap().unwrap().is_growing);
        held.record.status = MediaStatus::Ready;
        admin.commit_record(&mut held, Outbox::new()).await.unwrap();
        while known.memory.get(&FILM).is_none() {
            assert!(Instant::now() < deadline, "it is remembered once changes are received");
            assert!(
                !known.load_medium(&bus, FILM, None).await.unwrap().unwrap().is_growing,
                "growing ones are not remembered"
            );
        }
        let key = FILM.to_string();
        let change = admin.change_record::<document::MediaDocumentRecord>(&key, |_| {
            Some(document(SegmentEncryption::Aes128))
        });
        Box::pin(change).await.unwrap();
        while known.load_medium(&bus, FILM, None).await.unwrap().unwrap().encryption.is_none() {
            assert!(Instant::now() < deadline, "the change is received");
        }
    }
}

//! Documents of media that were made a moment ago: what most reads of a document are answered from.
//!
//! A document is made of two records, in the buckets `media` and `assets`. Both are followed; each second their leaders say how far
//! they are, and once all of that was received, memory may answer (see [`CoherentMemory`]). What this replica writes is forgotten
//! before its writer goes on, so that one's own change is seen at once; what another one writes is seen once it was received, which takes
//! milliseconds, and two seconds where a broker is slow. Who has to be sure asks with `Cache-Control: no-cache` (RFC 9111, section
//! 5.2.1.4).
//!
//! Limits: those of [`CoherentMemory`]; one question to each leader in [`PROOF_PERIOD`].

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::{BufMut, Bytes, BytesMut};
use futures::{StreamExt, stream::FuturesUnordered};
use nats::{Bus, BusError, ReaderStart, reader};
use schemas::{KvRecord as _, document::MediaDocumentRecord, ids::MediaId, media::MediaRecord, subjects};
use tokio_util::sync::CancellationToken;
use web::json_document::JsonDocument;

use crate::{cache::ResponseCache, coherent_memory::CoherentMemory};

/// The records that a document is made of.
const BUCKETS: [&str; 2] = [MediaDocumentRecord::BUCKET, MediaRecord::BUCKET];

/// How often the leaders are asked how far they are.
const PROOF_PERIOD: Duration = Duration::from_secs(1);

/// How often the broker has to send something.
const HEARTBEAT: Duration = Duration::from_millis(600);

/// Documents by medium.
#[derive(Debug)]
pub struct KnownDocuments {
    memory: CoherentMemory,
}

/// A document that was made, and whose it is.
pub(super) struct KnownDocument {
    kept: Bytes,
    owner_bytes: usize,
}

impl KnownDocument {
    /// Whose it is.
    pub(super) fn owner(&self) -> &str {
        let owner = self.kept.get(4..4 + self.owner_bytes).unwrap_or_default();
        std::str::from_utf8(owner).unwrap_or_default()
    }

    /// The document.
    pub(super) fn document(&self) -> JsonDocument {
        JsonDocument::from_json(self.kept.slice(4 + self.owner_bytes..))
    }
}

/// What the leaders said, and of which moment it is.
struct LeaderPositions {
    asked_at: Instant,
    sequences: [u64; 2],
}

impl LeaderPositions {
    fn is_reached(&self, received: [u64; 2]) -> bool {
        self.sequences.iter().zip(received).all(|(&wanted, received)| received >= wanted)
    }
}

impl KnownDocuments {
    /// Keeps them in `answers`.
    pub fn new(answers: Arc<ResponseCache>) -> Self {
        Self { memory: CoherentMemory::new(answers) }
    }

    /// The document of a medium, if it is known and can't have changed since.
    pub(super) fn get(&self, media_id: MediaId) -> Option<KnownDocument> {
        self.memory.mark_used();
        if !self.memory.is_coherent() {
            self.memory.answers().note_miss();
            return None;
        }
        let kept = self.memory.get(&media_id.to_string())?;
        let owner_bytes = usize::try_from(u32::from_be_bytes(*kept.first_chunk()?)).ok()?;
        (kept.len() >= 4 + owner_bytes).then_some(KnownDocument { kept, owner_bytes })
    }

    /// Taken before the records are read of which a document is made.
    pub(crate) fn generation(&self, media_id: MediaId) -> u64 {
        self.memory.generation(&media_id.to_string())
    }

    /// True while what was made of the records of a medium at `generation` can't have changed since.
    pub(crate) fn is_current(&self, media_id: MediaId, generation: u64) -> bool {
        self.memory.mark_used();
        self.memory.is_coherent() && self.memory.generation(&media_id.to_string()) == generation
    }

    /// Keeps a document whose records were read at `generation`.
    pub(super) fn keep(&self, media_id: MediaId, generation: u64, owner: &str, document: &JsonDocument) {
        let mut kept = BytesMut::with_capacity(4 + owner.len() + document.body().len());
        kept.put_u32(u32::try_from(owner.len()).unwrap_or(u32::MAX));
        kept.put_slice(owner.as_bytes());
        kept.put_slice(document.body());
        self.memory.mark_used();
        self.memory.keep(&media_id.to_string(), generation, kept.freeze());
    }

    /// What is kept of a medium may be of before something that happened to it.
    pub(crate) fn forget(&self, media_id: MediaId) {
        self.memory.forget(&media_id.to_string());
    }

    /// A value of a bucket was written.
    pub(crate) fn note_write(&self, bucket: &str, key: &str) {
        if BUCKETS.contains(&bucket) {
            self.memory.forget(key);
        }
    }

    /// Follows both buckets until `shutdown`; a broker that is away is waited for.
    ///
    /// # Errors
    /// None at present.
    pub async fn run(&self, bus: &Bus, shutdown: CancellationToken) -> Result<(), BusError> {
        while !shutdown.is_cancelled() {
            self.memory.lose();
            tokio::select! {
                () = shutdown.cancelled() => {}
                Err(error) = self.follow(bus) => tracing::warn!(%error, "documents are followed anew"),
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(PROOF_PERIOD) => {}
            }
        }
        self.memory.lose();
        Ok(())
    }

    /// Until a bucket is another one of the same name.
    async fn follow(&self, bus: &Bus) -> Result<std::convert::Infallible, BusError> {
        // No hint for readiness: without it the leaders are asked.
        let [mut documents, mut assets] = BUCKETS.map(|bucket| {
            let filters = vec![subjects::kv_subject(bucket, ">")];
            let config = reader::ReaderConfig {
                heartbeat: HEARTBEAT,
                is_headers_only: true,
                ..reader::ReaderConfig::new(subjects::kv_stream_name(bucket), filters, ReaderStart::New)
            };
            bus.follow_stream_hints("documents", config)
        });
        let opened = (documents.wait_until_open().await?, assets.wait_until_open().await?);
        let mut received = [opened.0.last_sequence, opened.1.last_sequence];
        // What was read before may have changed before they were open.
        self.memory.lose();
        let mut statuses = (documents.status(), assets.status());
        let (mut asking, mut wanted) = (FuturesUnordered::new(), None);
        let mut proofs = tokio::time::interval(PROOF_PERIOD);
        proofs.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = statuses.0.wait_for_change() => self.note_status(&statuses.0, &mut wanted),
                () = statuses.1.wait_for_change() => self.note_status(&statuses.1, &mut wanted),
                entry = documents.next() => received[0] = self.apply(BUCKETS[0], &entry?),
                entry = assets.next() => received[1] = self.apply(BUCKETS[1], &entry?),
                // Beside the changes: a leader that is slow to answer must not keep them from being forgotten.
                Some(said) = asking.next() => wanted = said,
                _ = proofs.tick() => {
                    let is_following = statuses.0.is_following() && statuses.1.is_following();
                    if is_following && asking.is_empty() && self.memory.is_used() {
                        asking.push(load_positions(bus));
                    }
                }
            }
            if let Some(proof) = wanted.take_if(|wanted: &mut LeaderPositions| wanted.is_reached(received)) {
                self.memory.prove(proof.asked_at);
            }
        }
    }

    fn note_status(&self, status: &nats::ReaderStatus, wanted: &mut Option<LeaderPositions>) {
        // Also when it follows again: what was read meanwhile may have changed unseen, and a loss that was mended between two looks shows
        // as nothing else.
        tracing::trace!(is_following = status.is_following(), "documents are read anew");
        self.memory.lose();
        *wanted = None;
    }

    /// Forgets what changed; answers how far the bucket was received.
    fn apply(&self, bucket: &str, entry: &reader::StreamEntry) -> u64 {
        self.memory.forget(entry.subject.strip_prefix(&subjects::kv_subject(bucket, "")).unwrap_or_default());
        entry.sequence
    }
}

/// How far the leaders of both buckets are.
async fn load_positions(bus: &Bus) -> Option<LeaderPositions> {
    let asked_at = Instant::now();
    let [documents, assets] = BUCKETS.map(|bucket| bus.last_revision(bucket));
    match tokio::try_join!(documents, assets) {
        Ok((documents, assets)) => Some(LeaderPositions { asked_at, sequences: [documents, assets] }),
        Err(error) => {
            tracing::debug!(%error, "documents are read from the leaders until these answer again");
            None
        }
    }
}

#[cfg(test)]
mod tests {
    use nats::{Outbox, Role, testing::TestBroker};
    use tokio::task::JoinSet;

    use super::*;
    use crate::{cache::CacheConfig, media::MediumRecords};

    /// One replica: what it keeps, and the task that follows for it.
    struct Replica {
        bus: Bus,
        known: Arc<KnownDocuments>,
        _following: JoinSet<()>,
    }

    impl Replica {
        async fn start(broker: &TestBroker) -> Self {
            let config = nats::BusConfig { request_timeout_ms: 500, ..broker.config(Role::Ingress) };
            let bus = Bus::connect(&config).await.unwrap();
            let cache = CacheConfig { entries_max: 100, bytes_max: 1_000_000, age_s: 60 };
            let known = Arc::new(KnownDocuments::new(Arc::new(ResponseCache::new(cache).unwrap())));
            let written = Arc::clone(&known);
            bus.observe_writes(move |bucket, key| written.note_write(bucket, key));
            let mut following = JoinSet::new();
            let (run, beside) = (Arc::clone(&known), bus.clone());
            following.spawn(async move { run.run(&beside, CancellationToken::new()).await.unwrap() });
            Self { bus, known, _following: following }
        }

        /// The title, out of memory only.
        fn known_title(&self, media_id: MediaId) -> Option<String> {
            let known = self.known.get(media_id)?;
            assert_eq!(known.owner(), "ann");
            let document: serde_json::Value = serde_json::from_slice(known.document().body()).unwrap();
            Some(document["title"].as_str().unwrap().to_owned())
        }

        /// The title as the endpoint answers it.
        async fn title(&self, media_id: MediaId) -> Option<String> {
            if let Some(title) = self.known_title(media_id) {
                return Some(title);
            }
            let generation = self.known.generation(media_id);
            let medium = MediumRecords::load(&self.bus, media_id).await.ok()?;
            let document = medium.render_document(media_id).unwrap();
            self.known.keep(media_id, generation, medium.owner(), &document);
            medium.title().map(ToOwned::to_owned)
        }

        async fn rename(&self, media_id: MediaId, title: &str) {
            let renamed = |found: Option<&MediaDocumentRecord>| {
                let document = found.cloned();
                let document =
                    document.unwrap_or_else(|| MediaDocumentRecord::new(media_id, "ann".into(), 1));
                Some((MediaDocumentRecord { title: title.into(), ..document }, Outbox::new()))
            };
            self.bus.change_record(&media_id.to_string(), renamed).await.unwrap();
        }

        async fn until_known(&self, media_id: MediaId) {
            until("it is known", async || {
                self.title(media_id).await;
                self.known_title(media_id).is_some()
            })
            .await;
        }
    }

    async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
        let asking = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(20));
            while !is_so().await {
                ticks.tick().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(20), asking).await.unwrap_or_else(|_| panic!("{what}"));
    }

    #[tokio::test]
    async fn ones_own_change_is_seen_at_once_and_those_of_others_soon() {
        let broker = TestBroker::start().await;
        let (one, two) = (Replica::start(&broker).await, Replica::start(&broker).await);
        let media_id = MediaId::from_bytes(nats::new_id_bytes());
        for number in 0..50 {
            let title = format!("title {number}");
            one.rename(media_id, &title).await;
            assert_eq!(one.title(media_id).await.as_ref(), Some(&title));
            if number % 10 == 0 {
                one.until_known(media_id).await;
                two.until_known(media_id).await;
            }
        }
        two.until_known(media_id).await;
        one.rename(media_id, "the last").await;
        until("the change comes", async || two.title(media_id).await.as_deref() == Some("the last")).await;
        one.bus.purge_key(BUCKETS[0], &media_id.to_string(), Duration::from_secs(1)).await.unwrap();
        assert_eq!(one.title(media_id).await, None);
        until("the removal comes", async || two.title(media_id).await.is_none()).await;
    }

    #[tokio::test]
    async fn a_silent_broker_is_not_believed_for_long_and_what_changed_meanwhile_is_read() {
        let broker = TestBroker::start().await;
        let (one, two) = (Replica::start(&broker).await, Replica::start(&broker).await);
        let media_id = MediaId::from_bytes(nats::new_id_bytes());
        one.rename(media_id, "before").await;
        two.until_known(media_id).await;
        broker.freeze();
        until("nothing is believed any more", async || two.known_title(media_id).is_none()).await;
        assert_eq!(two.title(media_id).await, None, "the leader does not answer");
        broker.thaw();
        until("it can be written again", async || one.bus.last_revision(BUCKETS[0]).await.is_ok()).await;
        one.rename(media_id, "behind").await;
        until("the change comes", async || two.title(media_id).await.as_deref() == Some("behind")).await;
        two.until_known(media_id).await;
        assert_eq!(two.known_title(media_id).as_deref(), Some("behind"));
    }
}

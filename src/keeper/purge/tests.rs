use std::{collections::BTreeMap, time::Duration};

use futures::TryStreamExt;
use nats::{Outbox, Role, VersionedRecord, now_ms, testing::TestBroker};
use packaging::plan;
use schemas::{
    ids::{MediaId, UploadId},
    job, keys,
    media::MediaStatus,
    subjects, upload,
};
use serde_bytes::ByteBuf;
use tempfile::TempDir;
use tokio::time::Instant;

use super::*;

const FILM: MediaId = MediaId::from_bytes([7; 16]);
const SOON: Duration = Duration::from_secs(20);
const AT_ONCE: PurgeConfig = PurgeConfig {
    grace_s: 0,
    mark_s: 1,
    rejected_age_s: 0,
    period_ms: 100,
    superseded_age_ms: 0,
    restorable_ms: 0,
};

/// A broker, a store, and who keeps them tidy.
struct Site {
    broker: TestBroker,
    admin: Bus,
    store: Store,
    _folder: TempDir,
}

impl Site {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = store::testing::open_test_store(store::StoreConfig::from_url(format!(
            "file://{}",
            root.display()
        )))
        .unwrap();
        let broker = TestBroker::start().await;
        let admin = broker.bus(Role::Admin).await;
        Self { broker, admin, store, _folder: folder }
    }

    /// Messages in every bucket, and objects in the store.
    async fn counts(&self) -> BTreeMap<String, u64> {
        let names: Vec<String> = self.admin.context().stream_names().try_collect().await.unwrap();
        let mut counts = BTreeMap::new();
        for name in names.into_iter().filter(|name| name.starts_with("KV_")) {
            let stream = self.admin.context().get_stream(&name).await.unwrap();
            counts.insert(name, stream.cached_info().state.messages);
        }
        let objects: Vec<_> = self.store.list("media").try_collect().await.unwrap();
        counts.insert("objects".into(), objects.len() as u64);
        counts
    }

    async fn commit<R: KvRecord>(&self, record: R) {
        self.admin.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
    }

    async fn kinds(&self) -> Vec<String> {
        let filter = vec![subjects::EVENTS_ALL.into()];
        let config = reader::ReaderConfig::new(subjects::EVENTS, filter, ReaderStart::All);
        let mut events = self.admin.open_reader(config).await.unwrap();
        let mut kinds = Vec::new();
        for _ in 0..events.pending_at_start() {
            let entry = events.next().await.unwrap();
            kinds.push(entry.subject.split('.').skip(1).take(2).collect::<Vec<_>>().join("."));
        }
        kinds
    }

    /// All that a medium has when it is ready: objects, key, upload, job with a part, both records.
    async fn medium(&self, job_status: job::JobStatus) {
        let prefix = keys::encode_prefix(FILM, 1, "abc");
        for key in [keys::source_key(FILM), format!("{prefix}/master.m3u8"), format!("{prefix}/v360/1.m4s")] {
            self.store.put(&key, "bytes").await.unwrap();
        }
        self.commit(document::SegmentKey { media_id: FILM, bytes: ByteBuf::from([1; 16]), created_at_ms: 1 })
            .await;
        self.commit(upload_record()).await;
        self.commit(job_record(job_status)).await;
        self.commit(part_record()).await;
        self.commit(asset(MediaStatus::Ready)).await;
        self.commit(document_record(None)).await;
    }

    /// Removes it as the ingress does.
    async fn remove(&self) -> document::MediaDocumentRecord {
        let mut held = self
            .admin
            .load_record::<document::MediaDocumentRecord>(&FILM.to_string())
            .await
            .unwrap()
            .unwrap();
        held.record = document_record(Some(now_ms()));
        let event = media::MediaRemoved {
            media_id: FILM,
            owner: "olga".into(),
            removed_by: "olga".into(),
            is_final: false,
        };
        self.admin.commit_record(&mut held, Outbox::new().with_event(&event)).await.unwrap();
        held.record
    }

    /// The job of the medium, as it stands anew.
    async fn commit_job_again(&self, status: job::JobStatus) {
        let again = |found: Option<&job::JobRecord>| found.map(|_| (job_record(status), Outbox::new()));
        let key = job_record(status).job_id.to_string();
        self.admin.change_record::<job::JobRecord>(&key, again).await.unwrap();
    }

    async fn keep(&self, config: PurgeConfig, what: &str, done: impl AsyncFn() -> bool) {
        let bus = self.broker.bus(Role::Keeper).await;
        let stop = CancellationToken::new();
        let running = tokio::spawn(run_purge(bus, self.store.clone(), config, stop.clone()));
        let deadline = Instant::now() + SOON;
        while !done().await {
            assert!(Instant::now() < deadline, "{what}: {:?}", self.counts().await);
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        stop.cancel();
        running.await.unwrap();
    }
}

fn document_record(removed_at_ms: Option<u64>) -> document::MediaDocumentRecord {
    document::MediaDocumentRecord {
        title: "a film".into(),
        removed_at_ms,
        ..document::MediaDocumentRecord::new(FILM, "olga".into(), 1)
    }
}

fn asset(status: MediaStatus) -> media::MediaRecord {
    media::MediaRecord::new(FILM, "olga".into(), status, 1)
}

fn upload_record() -> upload::UploadRecord {
    upload::UploadRecord {
        status: upload::UploadStatus::Received,
        length_bytes: Some(5),
        offset_bytes: 5,
        generation: 1,
        created_at_ms: 1,
        expires_at_ms: 1,
        ..upload::UploadRecord::new(UploadId::from_bytes([5; 16]), FILM, "olga".into())
    }
}

fn job_record(status: job::JobStatus) -> job::JobRecord {
    let plan = job::EncodePlan {
        source_key: keys::source_key(FILM),
        source_bytes: 5,
        duration_ms: 1_000,
        profile: "tiny".into(),
        options_digest: "abc".into(),
        ..job::EncodePlan::default()
    };
    job::JobRecord {
        status,
        encode: 1,
        prefix: keys::encode_prefix(FILM, 1, "abc"),
        parts: vec!["a0".into()],
        ..job::JobRecord::new_task(
            plan::derive_job_id(FILM, 1),
            job::TRANSCODE,
            (FILM, "olga"),
            (plan, subjects::JobPriority::P1),
            1,
        )
    }
}

fn part_record() -> job::JobPartRecord {
    job::JobPartRecord {
        status: job::JobPartStatus::Done,
        attempt: 1,
        ..job::JobPartRecord::new(plan::derive_job_id(FILM, 1), "a0")
    }
}

#[tokio::test]
async fn a_term_ends_when_a_bucket_is_made_anew() {
    for bucket in [document::MediaDocumentRecord::BUCKET, media::MediaRecord::BUCKET] {
        let site = Site::start().await;
        site.commit(document_record(None)).await;
        site.commit(asset(MediaStatus::Ready)).await;
        let bus = site.broker.bus(Role::Keeper).await;
        let term = tokio::spawn(run_purge(bus, site.store.clone(), AT_ONCE, CancellationToken::new()));
        let stream = subjects::kv_stream_name(bucket);
        let has_reader = async || {
            let stream = site.admin.context().get_stream(&stream).await.unwrap();
            stream.cached_info().state.consumer_count > 0
        };
        let begun = Instant::now();
        while !has_reader().await {
            assert!(begun.elapsed() < SOON, "{bucket} is not read");
            tokio::task::yield_now().await;
        }
        site.admin.context().delete_stream(&stream).await.unwrap();
        let settings = nats::topology::TopologySettings::default();
        nats::topology::apply_topology(site.admin.context(), &settings).await.unwrap();
        let ended = tokio::time::timeout(SOON, term).await;
        ended.unwrap_or_else(|_| panic!("{bucket}: the term goes on")).unwrap();
    }
}

#[tokio::test]
async fn a_removed_medium_leaves_neither_objects_nor_keys() {
    let site = Site::start().await;
    let before = site.counts().await;
    site.medium(job::JobStatus::Succeeded).await;
    let with_it = site.counts().await;
    assert!(before.iter().filter(|(name, count)| with_it[*name] != **count).count() >= 6, "{with_it:?}");
    // Before the grace time is over, everything is there.
    site.remove().await;
    let patient = PurgeConfig { grace_s: 3_600, ..AT_ONCE };
    let is_quiet = async || {
        let asset = site.admin.load_with_tombstone::<media::MediaRecord>(&FILM.to_string()).await.unwrap();
        asset.is_some_and(|held| held.record.is_removed())
    };
    site.keep(patient, "the stages find a tombstone", is_quiet).await;
    assert_eq!(site.counts().await, with_it, "nothing goes within the grace time");
    site.keep(AT_ONCE, "all is as before", async || site.counts().await == before).await;
    assert_eq!(site.kinds().await, ["media.removed", "media.purged"]);
}

#[tokio::test]
async fn a_job_planned_after_the_removal_is_cancelled_before_anything_goes() {
    let site = Site::start().await;
    let before = site.counts().await;
    site.medium(job::JobStatus::Active).await;
    site.remove().await;
    let bus = site.broker.bus(Role::Keeper).await;
    let purge = medium::MediaPurger { bus, store: site.store.clone(), config: AT_ONCE };
    let mut pending = pending::PendingPurges::default();
    // What the ingress or an earlier pass ended is not looked at again; the job came later.
    pending.removed.insert(
        FILM,
        pending::RemovedMedium { since_ms: 0, is_quiet: true, is_restorable: false, removal_count: 0 },
    );
    purge.purge_due_at(&mut pending, now_ms()).await;
    assert!(pending.removed.contains_key(&FILM), "it waits for the worker to stop");
    assert_eq!(site.counts().await["objects"], 3);
    assert_eq!(site.kinds().await, ["media.removed", "job.cancelled"]);
    site.keep(AT_ONCE, "all is as before", async || site.counts().await == before).await;
}

#[tokio::test]
async fn an_event_that_could_not_be_sent_is_sent_before_its_record_goes() {
    let site = Site::start().await;
    site.medium(job::JobStatus::Succeeded).await;
    // Nobody can publish: the event stays in its record.
    let context = site.admin.context();
    let mut events = context.get_stream(subjects::EVENTS).await.unwrap().cached_info().config.clone();
    let roomy = events.max_message_size;
    events.max_message_size = 1;
    context.update_stream(&events).await.unwrap();
    site.remove().await;
    let bus = site.broker.bus(Role::Keeper).await;
    let purge = medium::MediaPurger { bus, store: site.store.clone(), config: AT_ONCE };
    let mut pending = pending::PendingPurges::default();
    pending.removed.insert(
        FILM,
        pending::RemovedMedium { since_ms: 0, is_quiet: true, is_restorable: false, removal_count: 0 },
    );
    purge.purge_due_at(&mut pending, now_ms()).await;
    assert!(pending.removed.contains_key(&FILM));
    let held =
        site.admin.load_with_tombstone::<document::MediaDocumentRecord>(&FILM.to_string()).await.unwrap();
    assert!(held.is_some(), "its event is not lost");
    events.max_message_size = roomy;
    context.update_stream(&events).await.unwrap();
    purge.purge_due_at(&mut pending, now_ms()).await;
    assert!(pending.removed.is_empty());
    assert_eq!(site.kinds().await, ["media.removed", "media.purged"]);
}

#[tokio::test]
async fn the_source_of_a_rejected_medium_goes_at_its_age_and_its_records_stay() {
    let site = Site::start().await;
    site.store.put(&keys::source_key(FILM), "no video").await.unwrap();
    site.commit(document_record(None)).await;
    site.commit(asset(MediaStatus::Rejected)).await;
    let noted = async || {
        let held = site.admin.load_record::<media::MediaRecord>(&FILM.to_string()).await.unwrap().unwrap();
        held.record.source_removed_at_ms.is_some()
    };
    let bus = site.broker.bus(Role::Keeper).await;
    let purge = medium::MediaPurger {
        bus,
        store: site.store.clone(),
        config: PurgeConfig { rejected_age_s: 60, ..AT_ONCE },
    };
    let mut pending = pending::PendingPurges::default();
    let rejected_at_ms = now_ms();
    pending.rejected.insert(FILM, rejected_at_ms);
    purge.purge_due_at(&mut pending, rejected_at_ms + 59_999).await;
    assert!(!noted().await && site.counts().await["objects"] == 1, "it is not old enough");
    site.keep(AT_ONCE, "it is removed and noted", noted).await;
    let counts = site.counts().await;
    assert_eq!((counts["objects"], counts["KV_media"], counts["KV_assets"]), (0, 1, 1), "{counts:?}");
}

#[tokio::test]
async fn what_a_late_writer_puts_into_the_store_goes_too_and_its_record_is_refused() {
    let site = Site::start().await;
    site.medium(job::JobStatus::Succeeded).await;
    let late = site.admin.load_record::<media::MediaRecord>(&FILM.to_string()).await.unwrap().unwrap();
    site.remove().await;
    let config = PurgeConfig { mark_s: 4, ..AT_ONCE };
    site.keep(config, "it is purged", async || site.counts().await["objects"] == 0).await;
    let key = format!("{}/v360/2.m4s", keys::encode_prefix(FILM, 1, "abc"));
    // The folder may just be going: a writer takes that for an outage and tries again.
    while site.store.put(&key, "late").await.is_err_and(|error| error.is_outage()) {}
    for mut record in [late, VersionedRecord::new(asset(MediaStatus::Ready))] {
        let refused = site.admin.commit_record(&mut record, Outbox::new()).await;
        assert!(matches!(refused, Err(nats::BusError::Conflict { .. })), "{refused:?}");
    }
    site.keep(config, "it goes", async || site.counts().await["objects"] == 0).await;
}

#[tokio::test]
async fn a_replaced_encode_goes_once_no_session_can_play_it() {
    let site = Site::start().await;
    let encode = |number| media::MediaEncode {
        number,
        job_id: plan::derive_job_id(FILM, number),
        prefix: keys::encode_prefix(FILM, number, "abc"),
        duration_ms: 1_000,
        renditions: Vec::new(),
        subtitles: Vec::new(),
        has_poster: false,
        has_storyboard: false,
        has_checksums: false,
        warnings: Vec::new(),
    };
    let mut medium = media::MediaRecord { encode: Some(encode(1)), ..asset(MediaStatus::Ready) };
    for (number, at_ms) in [(2, 1_000), (3, 2_000)] {
        medium = medium.with_ready_encode(&encode(number), at_ms);
    }
    for number in 1..=3 {
        site.store.put(&format!("{}/v360/1.m4s", encode(number).prefix), "bytes").await.unwrap();
    }
    site.store.put(&keys::source_key(FILM), "bytes").await.unwrap();
    site.commit(medium.clone()).await;
    let bus = site.broker.bus(Role::Keeper).await;
    let config = PurgeConfig { superseded_age_ms: 500, ..AT_ONCE };
    let purge = medium::MediaPurger { bus, store: site.store.clone(), config };
    let mut pending = pending::PendingPurges::default();
    let filters = vec![subjects::kv_subject(media::MediaRecord::BUCKET, ">")];
    let settings = reader::ReaderConfig::new(
        subjects::kv_stream_name(media::MediaRecord::BUCKET),
        filters,
        ReaderStart::All,
    );
    let mut changes = site.admin.open_reader(settings).await.unwrap();
    // Whether a change of the record came before, time, numbers of the encodes whose objects are there then.
    for (has_change, now_ms, left) in [
        (true, 1_499, vec![1, 2, 3]),
        (false, 1_500, vec![2, 3]),
        (true, 2_499, vec![2, 3]),
        (false, 2_500, vec![3]),
    ] {
        if has_change {
            pending.apply_asset(&changes.next().await.unwrap());
        }
        purge.purge_due_at(&mut pending, now_ms).await;
        let held = site.admin.load_record::<media::MediaRecord>(&FILM.to_string()).await.unwrap().unwrap();
        let named = held.record.superseded.iter().map(|old| &old.encode).chain(&held.record.encode);
        assert_eq!(named.map(|encode| encode.number).collect::<Vec<_>>(), left, "at {now_ms}");
        let objects: Vec<_> = site.store.list("media").try_collect().await.unwrap();
        assert_eq!(objects.len(), left.len() + 1, "at {now_ms}: {objects:?}");
    }
    assert_eq!(site.kinds().await, Vec::<String>::new());
}

#[tokio::test]
async fn what_can_be_restored_stays_for_its_time_and_what_was_restored_stays() {
    let site = Site::start().await;
    site.medium(job::JobStatus::Succeeded).await;
    let before = site.counts().await;
    let load = async || {
        site.admin.load_with_tombstone::<document::MediaDocumentRecord>(&FILM.to_string()).await.unwrap()
    };
    let mut held = load().await.unwrap();
    held.record = held.record.into_restorable(now_ms());
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    let config = PurgeConfig { restorable_ms: 1_000, ..AT_ONCE };
    let purge =
        medium::MediaPurger { bus: site.broker.bus(Role::Keeper).await, store: site.store.clone(), config };
    let removed = |since_ms, removal_count| pending::RemovedMedium {
        since_ms,
        is_quiet: true,
        is_restorable: true,
        removal_count,
    };
    let mut pending = pending::PendingPurges::default();
    pending.removed.insert(FILM, removed(5_000, 1));
    purge.purge_due_at(&mut pending, 5_999).await;
    assert_eq!(site.counts().await, before, "it can still be restored");
    // The keeper has not read that it was restored.
    held.record = held.record.to_restored(now_ms()).unwrap();
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    purge.purge_due_at(&mut pending, 6_000).await;
    assert_eq!(site.counts().await, before, "it was restored");
    assert!(pending.removed.is_empty());
    assert_eq!(load().await.unwrap().record, held.record);
    // Removed once more: what is being purged nobody restores.
    held = load().await.unwrap();
    held.record = held.record.into_restorable(now_ms());
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    assert_eq!(held.record.removal_count, 2);
    site.commit_job_again(job::JobStatus::Active).await;
    // By the time of the removal before, which the keeper knows, nothing of this one is due.
    pending.removed.insert(FILM, removed(5_000, 1));
    purge.purge_due_at(&mut pending, 8_000).await;
    assert!(load().await.unwrap().record.is_restorable);
    pending.removed.insert(FILM, removed(7_000, 2));
    purge.purge_due_at(&mut pending, 8_000).await;
    let closing = load().await.unwrap().record;
    assert_eq!((closing.is_restorable, closing.title.as_str()), (false, ""), "it waits for its job only");
    assert!(closing.to_restored(now_ms()).is_none());
    site.keep(config, "nothing is left", async || site.counts().await["objects"] == 0).await;
    let kinds = site.kinds().await;
    assert_eq!(kinds.iter().filter(|kind| *kind == "media.purged").count(), 1, "{kinds:?}");
}

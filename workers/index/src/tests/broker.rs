//! Against a real broker, with the rights of the roles that write and ask.

use std::{future::Future, path::Path, time::Duration};

use nats::{Bus, Outbox, Role, testing::TestBroker};
use schemas::{
    KvRecord,
    document::MediaDocumentRecord as Document,
    ids::MediaId,
    index_query::{self, IndexReply, JobIndexPage, JobIndexQuery, MediaIndexPage, MediaIndexQuery},
    job::{JobPartRecord, JobPartStatus, JobRecord as Job, JobStatus},
    media::{self, MediaReady, MediaStatus, MediaStored},
    search_query::{self, MediaSearchPage, MediaSearchQuery},
    subjects,
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::{asset, document, encode, job, media_id, part, upload_id};
use crate::{IndexBucket, IndexConfig, IndexError, IndexProjection, follow};

const DEADLINE: Duration = Duration::from_secs(30);

/// A running index and what stops it.
pub(super) struct Running {
    stop: CancellationToken,
    task: JoinHandle<Result<(), IndexError>>,
}

impl Running {
    pub(super) async fn start(broker: &TestBroker, folder: &Path) -> Self {
        let stop = CancellationToken::new();
        let config =
            IndexConfig { folder: folder.to_owned(), revision_wait_ms_max: 3_000, ..IndexConfig::default() };
        let task = tokio::spawn(crate::run(broker.bus(Role::Index).await, config, stop.clone()));
        Self { stop, task }
    }

    pub(super) async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap().unwrap();
    }
}

/// Tries until `probe` answers, or fails after the deadline.
pub(super) async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut probe: impl FnMut() -> F) -> T {
    let tried = tokio::time::timeout(DEADLINE, async {
        loop {
            if let Some(found) = probe().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
    tried.await.unwrap_or_else(|_| panic!("{what} did not happen"))
}

pub(super) async fn ask<Q: Serialize, P: DeserializeOwned>(
    bus: &Bus,
    verb: &str,
    question: &Q,
) -> Option<IndexReply<P>> {
    bus.request(subjects::index_request_subject(verb), question, Duration::from_secs(10)).await.ok()
}

pub(super) async fn media(bus: &Bus, question: &MediaIndexQuery) -> Option<MediaIndexPage> {
    match ask(bus, index_query::MEDIA, question).await? {
        IndexReply::Page(page) => Some(page),
        IndexReply::Refused { .. } => None,
    }
}

pub(super) fn everything() -> MediaIndexQuery {
    MediaIndexQuery { limit: 200, ..MediaIndexQuery::default() }
}

/// Writes a record whatever it was before; answers its revision.
pub(super) async fn put<R: KvRecord>(bus: &Bus, record: R, outbox: impl Fn() -> Outbox + Send + Sync) -> u64 {
    let key = record.key();
    let held = bus.change_record::<R>(&key, |_| Some((record.clone(), outbox()))).await.unwrap().unwrap();
    held.revision()
}

fn stored(number: u8) -> MediaStored {
    let record = asset(number, "ann", MediaStatus::Stored);
    MediaStored {
        media_id: media_id(number),
        upload_id: upload_id(number),
        owner: "ann".into(),
        source: record.source.unwrap(),
        technical: record.technical.unwrap(),
        settings: schemas::encode::EncodeSettings::default(),
    }
}

async fn fill(broker: &TestBroker, from: u8, to: u8) {
    let ingress = broker.bus(Role::Ingress).await;
    let upload = broker.bus(Role::Upload).await;
    let transcode = broker.bus(Role::Transcode).await;
    for number in from..=to {
        let owner = if number % 2 == 0 { "ann" } else { "ben" };
        put(&ingress, document(number, owner, 1_000 + u64::from(number)), Outbox::new).await;
        put(&upload, asset(number, owner, MediaStatus::Stored), Outbox::new).await;
        put(&transcode, job(number, number, owner, JobStatus::Active), Outbox::new).await;
        put(&transcode, part(number, "v0000", JobPartStatus::Done, 500), Outbox::new).await;
        put(&transcode, part(number, "a0", JobPartStatus::Claimed, 0), Outbox::new).await;
    }
}

/// Everything the projection in `folder` holds.
async fn dump(broker: &TestBroker, folder: &Path) -> Vec<crate::ProjectionRow> {
    let bus = broker.bus(Role::Index).await;
    let origins = follow::read_origins(&bus).await.unwrap();
    let config = IndexConfig { folder: folder.to_owned(), ..IndexConfig::default() };
    IndexProjection::open(&config, &origins).unwrap().dump_rows().unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metadata_is_written_once_and_listed() {
    let broker = TestBroker::start().await;
    let folder = tempfile::tempdir().unwrap();
    let index = Running::start(&broker, folder.path()).await;
    let (ingress, upload) = (broker.bus(Role::Ingress).await, broker.bus(Role::Upload).await);
    put(&ingress, document(1, "ann", 1_001), Outbox::new).await;
    put(&upload, asset(1, "ann", MediaStatus::Stored), || Outbox::new().with_event(&stored(1))).await;

    let item = until("the summary", || async {
        media(&ingress, &everything()).await?.items.into_iter().find(|item| item.summary.is_some())
    })
    .await;
    let summary = item.summary.unwrap();
    assert_eq!((summary.width, summary.height, summary.duration_ms), (1_920, 1_080, 10_010));
    assert_eq!(
        (item.title.as_str(), item.owner.as_str(), item.status),
        ("clip 1", "ann", MediaStatus::Stored)
    );
    assert!(summary.renditions.is_empty());

    let transcode = broker.bus(Role::Transcode).await;
    let playing = encode(&[("v180", 320, 180, 300_000), ("v360", 640, 360, 800_000)]);
    let ready = MediaReady { media_id: media_id(1), owner: "ann".into(), encode: playing.clone() };
    let change = |record: Option<&media::MediaRecord>| {
        let record = media::MediaRecord {
            status: MediaStatus::Ready,
            encode: Some(playing.clone()),
            ..record?.clone()
        };
        Some((record, Outbox::new().with_event(&ready)))
    };
    transcode.change_record::<media::MediaRecord>(&media_id(1).to_string(), change).await.unwrap();
    let item = until("the renditions", || async {
        let page = media(&ingress, &everything()).await?;
        page.items.into_iter().find(|item| item.summary.as_ref().is_some_and(|s| !s.renditions.is_empty()))
    })
    .await;
    assert_eq!(item.summary.unwrap().renditions, ["v360", "v180"]);
    assert_eq!((item.status, item.encode, item.has_poster), (MediaStatus::Ready, Some(1), true));

    // The same event again changes nothing.
    let before =
        upload.load_record::<media::MediaRecord>(&media_id(1).to_string()).await.unwrap().unwrap().revision();
    put(&upload, asset(2, "ann", MediaStatus::Stored), || Outbox::new().with_event(&stored(2))).await;
    until("the second summary", || async {
        let record = upload.load_record::<media::MediaRecord>(&media_id(2).to_string()).await.unwrap()?;
        record.record.summary
    })
    .await;
    let after =
        upload.load_record::<media::MediaRecord>(&media_id(1).to_string()).await.unwrap().unwrap().revision();
    assert_eq!(before, after);
    index.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deleted_projection_comes_back_equal() {
    let broker = TestBroker::start().await;
    let (grown, rebuilt) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let ingress = broker.bus(Role::Ingress).await;

    // One projection sees every change as it happens, is stopped in the middle and goes on.
    let index = Running::start(&broker, grown.path()).await;
    fill(&broker, 1, 12).await;
    let complete = |count: usize| {
        let ingress = ingress.clone();
        move || {
            let ingress = ingress.clone();
            async move {
                let jobs = JobIndexQuery { limit: 200, ..JobIndexQuery::default() };
                let IndexReply::<JobIndexPage>::Page(page) = ask(&ingress, index_query::JOBS, &jobs).await?
                else {
                    return None;
                };
                let counted = page.items.iter().filter(|job| job.parts_done + job.parts_claimed == 2).count();
                let media = media(&ingress, &everything()).await?;
                (counted == count && media.items.len() == count).then_some(())
            }
        }
    };
    until("the first half", complete(12)).await;
    index.stop().await;
    fill(&broker, 6, 20).await;
    let upload = broker.bus(Role::Upload).await;
    put(&upload, asset(3, "ben", MediaStatus::Rejected), Outbox::new).await;
    broker
        .bus(Role::Admin)
        .await
        .context()
        .get_key_value("media")
        .await
        .unwrap()
        .delete(media_id(4).to_string())
        .await
        .unwrap();
    let index = Running::start(&broker, grown.path()).await;
    until("the second half", complete(20)).await;
    index.stop().await;

    // The other begins with what is left.
    let index = Running::start(&broker, rebuilt.path()).await;
    until("the rebuilt projection", complete(20)).await;
    index.stop().await;
    let (grown, rebuilt) = (dump(&broker, grown.path()).await, dump(&broker, rebuilt.path()).await);
    assert_eq!(grown.len(), rebuilt.len());
    assert_eq!(grown, rebuilt);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn questions_wait_for_a_revision_and_bad_ones_are_refused() {
    let broker = TestBroker::start().await;
    let folder = tempfile::tempdir().unwrap();
    let index = Running::start(&broker, folder.path()).await;
    let ingress = broker.bus(Role::Ingress).await;
    until("the first answer", || async { media(&ingress, &everything()).await }).await;

    for number in 1..=20 {
        let revision = put(&ingress, document(number, "ann", 1_000), Outbox::new).await;
        let question = MediaIndexQuery { min_revision: Some(revision), ..everything() };
        let page = media(&ingress, &question).await.expect("an answer that has seen the write");
        assert_eq!(page.items.len(), usize::from(number));
        assert!(page.revision >= revision);
    }
    let code = |answer: Option<IndexReply<MediaIndexPage>>| match answer {
        Some(IndexReply::Refused { code, .. }) => code,
        other => panic!("not refused: {other:?}"),
    };
    let ahead = MediaIndexQuery { min_revision: Some(u64::MAX), ..everything() };
    assert_eq!(code(ask(&ingress, index_query::MEDIA, &ahead).await), "revision_unknown");
    let foreign = MediaIndexQuery { cursor: Some("nonsense".into()), ..everything() };
    assert_eq!(code(ask(&ingress, index_query::MEDIA, &foreign).await), "cursor_malformed");
    assert_eq!(code(ask(&ingress, index_query::MEDIA, &"no question").await), "question_malformed");
    assert_eq!(code(ask(&ingress, "secrets", &everything()).await), "question_malformed");
    let long = MediaIndexQuery { owner: Some("x".repeat(index_query::QUESTION_BYTES_MAX)), ..everything() };
    assert_eq!(code(ask(&ingress, index_query::MEDIA, &long).await), "question_malformed");
    let metrics = nats::metrics::render_collector(nats::metrics::DeclaredFamilies);
    let refused = "streamgate_index_refusals_total{code=\"question_malformed\"} 3\n";
    assert!(metrics.contains(refused), "{metrics}");
    index.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn replicas_share_questions_and_survive_a_killed_broker() {
    let broker = TestBroker::start().await;
    let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let first = Running::start(&broker, one.path()).await;
    let second = Running::start(&broker, two.path()).await;
    let ingress = broker.bus(Role::Ingress).await;
    fill(&broker, 1, 3).await;
    broker.kill_and_wait().await;
    fill(&broker, 4, 6).await;
    until("all six", || async {
        let page = media(&ingress, &everything()).await?;
        (page.items.len() == 6).then_some(())
    })
    .await;
    // A replica that leaves is not missed.
    first.stop().await;
    until("six from the one that is left", || async {
        let page = media(&ingress, &everything()).await?;
        (page.items.len() == 6).then_some(())
    })
    .await;
    second.stop().await;
    assert_eq!(dump(&broker, two.path()).await.iter().filter(|row| row.tree == "documents").count(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_that_is_no_record_stops_nothing() {
    let broker = TestBroker::start().await;
    let folder = tempfile::tempdir().unwrap();
    let admin = broker.bus(Role::Admin).await;
    for bucket in [Document::BUCKET, Job::BUCKET] {
        let bucket = admin.context().get_key_value(bucket).await.unwrap();
        bucket.put("no-id", vec![0xc1].into()).await.unwrap();
        bucket.put(media_id(9).to_string(), "no record".into()).await.unwrap();
    }
    let index = Running::start(&broker, folder.path()).await;
    fill(&broker, 1, 1).await;
    let ingress = broker.bus(Role::Ingress).await;
    until("the good record", || async { media(&ingress, &everything()).await?.items.pop() }).await;
    index.stop().await;
    let bus = broker.bus(Role::Index).await;
    let origins = follow::read_origins(&bus).await.unwrap();
    let config = IndexConfig { folder: folder.path().to_owned(), ..IndexConfig::default() };
    let projection = IndexProjection::open(&config, &origins).unwrap();
    let last = origins.iter().find(|origin| origin.bucket == IndexBucket::Media).unwrap().last_sequence;
    assert_eq!(projection.read_cursor(IndexBucket::Media).unwrap(), last);
}

async fn jobs(bus: &Bus) -> Option<JobIndexPage> {
    let question = JobIndexQuery { limit: 200, ..JobIndexQuery::default() };
    match ask(bus, index_query::JOBS, &question).await? {
        IndexReply::Page(page) => Some(page),
        IndexReply::Refused { .. } => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_folded_job_keeps_its_counts_and_leaves_the_lists_when_it_is_kept_no_more() {
    let broker = TestBroker::start().await;
    let folder = tempfile::tempdir().unwrap();
    let index = Running::start(&broker, folder.path()).await;
    let (ingress, transcode) = (broker.bus(Role::Ingress).await, broker.bus(Role::Transcode).await);
    let parts = [part(1, "v0000", JobPartStatus::Done, 500), part(1, "a0", JobPartStatus::Claimed, 70)];
    for part in &parts {
        put(&transcode, part.clone(), Outbox::new).await;
    }
    let summaries = Some(parts.iter().map(Into::into).collect());
    let ended = Job { folded: summaries, ..job(1, 1, "ann", JobStatus::Failed) };
    put(&transcode, ended.clone(), Outbox::new).await;
    for part in &parts {
        let held = transcode.load_record::<JobPartRecord>(&part.key()).await.unwrap().unwrap();
        let ttl = Duration::from_secs(60);
        transcode.purge_revision(JobPartRecord::BUCKET, &part.key(), held.revision(), ttl).await.unwrap();
    }
    put(&transcode, job(2, 1, "ann", JobStatus::Active), Outbox::new).await;
    let page =
        until("both jobs", || async { jobs(&ingress).await.filter(|page| page.items.len() == 2) }).await;
    let item = page.items.iter().find(|item| item.job_id == ended.job_id).unwrap();
    assert_eq!((item.parts_done, item.parts_claimed, item.cpu_ms), (1, 1, 570));

    let over = Job { kept_until_ms: Some(nats::now_ms() + 1_000), ..ended.clone() };
    put(&transcode, over, Outbox::new).await;
    let page = until("one job", || async { jobs(&ingress).await.filter(|page| page.items.len() == 1) }).await;
    assert_eq!(page.items[0].status, JobStatus::Active);
    index.stop().await;
    let left = dump(&broker, folder.path()).await;
    let of_ended = |key: &[u8]| key.windows(16).any(|bytes| bytes == ended.job_id.as_bytes());
    let left: Vec<&str> = left.iter().filter(|row| of_ended(&row.key)).map(|row| row.tree).collect();
    assert_eq!(left, Vec::<&str>::new(), "no row of it is left");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_that_was_away_for_longer_than_removals_are_kept_begins_anew() {
    let broker = TestBroker::start().await;
    let folder = tempfile::tempdir().unwrap();
    let (ingress, admin) = (broker.bus(Role::Ingress).await, broker.bus(Role::Admin).await);
    put(&admin, job(1, 1, "ann", JobStatus::Failed), Outbox::new).await;
    let index = Running::start(&broker, folder.path()).await;
    until("the job", || async { jobs(&ingress).await.filter(|page| page.items.len() == 1) }).await;
    index.stop().await;
    let origins = follow::read_origins(&broker.bus(Role::Index).await).await.unwrap();
    let config = IndexConfig { folder: folder.path().to_owned(), ..IndexConfig::default() };
    let projection = IndexProjection::open(&config, &origins).unwrap();
    projection.set_last_seen(IndexBucket::Jobs, nats::now_ms() - schemas::REMOVAL_MARKER_MS).unwrap();
    drop(projection);
    // Removed, and even that is forgotten.
    let stream = admin.context().get_stream(subjects::kv_stream_name("jobs")).await.unwrap();
    stream.purge().filter(subjects::kv_subject("jobs", ">")).await.unwrap();
    put(&admin, job(2, 1, "ann", JobStatus::Active), Outbox::new).await;
    let index = Running::start(&broker, folder.path()).await;
    let page = until("a list", || async { jobs(&ingress).await.filter(|page| !page.items.is_empty()) }).await;
    assert_eq!(page.items.iter().map(|item| item.status).collect::<Vec<_>>(), [JobStatus::Active]);
    index.stop().await;
}

#[tokio::test]
async fn what_goes_before_it_is_read_is_not_waited_for() {
    let broker = TestBroker::start().await;
    let (admin, ingress) = (broker.bus(Role::Admin).await, broker.bus(Role::Ingress).await);
    let name = subjects::kv_stream_name(Document::BUCKET);
    for number in 0..800_u16 {
        let mut id = [7; 16];
        id[..2].copy_from_slice(&number.to_be_bytes());
        let subject = subjects::kv_subject(Document::BUCKET, &MediaId::from_bytes(id).to_string());
        let mut headers = async_nats::HeaderMap::new();
        headers.insert("KV-Operation", "DEL");
        admin
            .context()
            .publish_with_headers(subject, headers, Vec::new().into())
            .await
            .unwrap()
            .await
            .unwrap();
    }
    // An entry at a time, so that most of them still wait when they go.
    let (folder, stop) = (tempfile::tempdir().unwrap(), CancellationToken::new());
    let config =
        IndexConfig { folder: folder.path().to_owned(), batch_entries_max: 1, ..IndexConfig::default() };
    let task = tokio::spawn(crate::run(broker.bus(Role::Index).await, config, stop.clone()));
    let stream = admin.context().get_stream(&name).await.unwrap();
    until("the bucket is read", || async {
        (stream.get_info().await.unwrap().state.consumer_count > 0).then_some(())
    })
    .await;
    stream.purge().await.unwrap();
    until("an answer", || async { media(&ingress, &everything()).await }).await;
    Running { stop, task }.stop().await;
}

pub(super) async fn search(bus: &Bus, text: &str, min_revision: Option<u64>) -> Option<MediaSearchPage> {
    let question =
        MediaSearchQuery { text: text.into(), limit: 200, min_revision, ..MediaSearchQuery::default() };
    match ask(bus, search_query::SEARCH_MEDIA, &question).await? {
        IndexReply::Page(page) => Some(page),
        IndexReply::Refused { .. } => None,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_search_sees_each_write_and_comes_back_equal() {
    let broker = TestBroker::start().await;
    let (grown, rebuilt) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let index = Running::start(&broker, grown.path()).await;
    let (ingress, upload) = (broker.bus(Role::Ingress).await, broker.bus(Role::Upload).await);
    until("the first answer", || async { search(&ingress, "", None).await }).await;
    let mut assets = 0;
    for number in 1..=10 {
        assets = put(&upload, asset(number, "ann", MediaStatus::Stored), Outbox::new).await;
        let revision = put(&ingress, document(number, "ann", 1_000), Outbox::new).await;
        let page = search(&ingress, "clip", Some(revision)).await.expect("an answer that has seen the write");
        assert_eq!((page.hits.len(), page.total), (usize::from(number), u64::from(number)));
        assert!(page.revisions.media >= revision, "{:?}", page.revisions);
    }
    let key = media_id(3).to_string();
    let removed =
        ingress.change_record::<Document>(&key, |held| Some((held?.clone().into_removed(9), Outbox::new())));
    let revision = removed.await.unwrap().unwrap().revision();
    // Buckets have no common order: the revision of one says nothing of the other.
    let complete = || async {
        search(&ingress, "clip", Some(revision)).await.filter(|page| page.revisions.assets >= assets)
    };
    let page = until("all metadata", complete).await;
    assert_eq!(page.total, 9, "the record of the stages is still there");
    index.stop().await;
    let index = Running::start(&broker, rebuilt.path()).await;
    let other = until("the rebuilt search", complete).await;
    assert_eq!((other.hits, other.revisions), (page.hits, page.revisions));
    index.stop().await;
    let origins = follow::read_origins(&broker.bus(Role::Index).await).await.unwrap();
    let dump = |folder: &Path| {
        let place = folder.join("search");
        crate::SearchProjection::open(&place, &crate::SearchConfig::default(), &origins)
            .unwrap()
            .0
            .dump_rows()
            .unwrap()
    };
    let rows = dump(grown.path());
    assert!(!rows.is_empty());
    assert_eq!(rows, dump(rebuilt.path()));
}

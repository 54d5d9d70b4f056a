//! A store that is away is no store without objects.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use schemas::ids::StoreId;

use super::*;
use crate::StoreIdentifier;

/// A store and where its root lies on this host.
struct Site {
    store: Store,
    root: PathBuf,
    _folder: TempDir,
    _s3: Option<TestS3Server>,
}

impl Site {
    async fn all() -> [Self; 2] {
        let (folder, store) = local();
        let local = Self { root: folder.path().join("store"), store, _folder: folder, _s3: None };
        let s3 = TestS3Server::start().await.unwrap();
        // What was seen a moment ago is not enough here: the store goes away within it.
        let store =
            testing::open_test_store(StoreConfig { marker_ms: 0, retries_max: 0, ..s3.store_config() })
                .unwrap();
        let root = s3.bucket_folder();
        let remote = Self { root, store, _folder: tempfile::tempdir().unwrap(), _s3: Some(s3) };
        [local, remote]
    }

    fn away(&self) -> PathBuf {
        self.root.with_extension("away")
    }

    fn take_away(&self) {
        std::fs::rename(&self.root, self.away()).unwrap();
    }

    fn bring_back(&self) {
        std::fs::rename(self.away(), &self.root).unwrap();
    }
}

fn files(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).unwrap();
    entries.map(|entry| entry.unwrap().path()).map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

/// Everything that can be asked of a store that is away.
async fn check_nothing_is_done(site: &Site, place: SpooledUpload, durable: &SpoolCheckpoint) {
    let (store, key) = (&site.store, keys::source_key(place.media_id));
    let other = SpooledUpload {
        upload_id: UploadId::from_bytes([77; 16]),
        media_id: MediaId::from_bytes([77; 16]),
        ..place
    };
    let outcomes = [
        ("verify", store.verify_marker_now().await),
        ("put", store.put("media/x/source", "x").await),
        ("get", store.get(&key, 100).await.map(drop)),
        ("range", store.get_range(&key, 0..1).await.map(drop)),
        ("head", store.head(&key).await.map(drop)),
        ("head of what never was", store.head("media/never/source").await.map(drop)),
        ("delete", store.delete(&key).await),
        ("list", store.list("media").try_collect::<Vec<_>>().await.map(drop)),
        ("probe", store.probe().await),
        ("finish", Spool::finish(store, place, durable).await),
        ("remove", Spool::remove(store, place, durable).await),
    ];
    for (what, outcome) in outcomes {
        let error = outcome.expect_err(what);
        assert!(error.is_outage(), "{what}: {error:?}");
    }
    let opened = async {
        Spool::create(store, other).await?;
        let mut spool = Spool::open(store, other, SpoolCheckpoint::default()).await?;
        spool.write(vec![1].into()).await?;
        spool.flush().await
    };
    assert!(opened.await.unwrap_err().is_outage());
}

#[tokio::test]
async fn a_store_that_is_away_is_believed_nothing() {
    for site in Site::all().await {
        let place = place(11, 6 * MIB);
        Spool::create(&site.store, place).await.unwrap();
        let mut spool = Spool::open(&site.store, place, SpoolCheckpoint::default()).await.unwrap();
        write(&mut spool, &pattern(6 * MIB - 1), 100_000).await;
        let durable = spool.flush().await.unwrap();
        drop(spool);
        site.store.put(&keys::source_key(MediaId::from_bytes([12; 16])), "kept").await.unwrap();
        let before = files(&site.root);
        site.take_away();
        check_nothing_is_done(&site, place, &durable).await;
        assert!(!site.root.exists(), "a root that is away is never made anew");
        // What a mount that is gone leaves behind: the folder it was mounted on.
        std::fs::create_dir(&site.root).unwrap();
        check_nothing_is_done(&site, place, &durable).await;
        assert_eq!(std::fs::read_dir(&site.root).unwrap().count(), 0, "nothing lands below a missing mount");
        std::fs::remove_dir(&site.root).unwrap();
        site.bring_back();
        assert_eq!(files(&site.root), before);
        let mut spool = Spool::open(&site.store, SpooledUpload { generation: 2, ..place }, durable.clone())
            .await
            .unwrap();
        spool.write(vec![*pattern(6 * MIB).last().unwrap()].into()).await.unwrap();
        let durable = spool.flush_last().await.unwrap();
        Spool::finish(&site.store, place, &durable).await.unwrap();
        assert!(source(&site.store, place).await == pattern(6 * MIB), "not one byte is lost");
        let absent = site.store.head("media/never/source").await;
        assert!(matches!(absent, Err(StoreError::NotFound { .. })), "{absent:?}");
    }
}

#[tokio::test]
async fn another_store_in_the_place_is_named_and_left_alone() {
    for site in Site::all().await {
        site.store.put("media/x/source", "ours").await.unwrap();
        let ours = site.store.read_marker().await.unwrap().unwrap();
        let theirs = StoreId::from_bytes([3; 16]);
        std::fs::write(site.root.join(keys::MARKER), format!("{theirs}\n")).unwrap();
        let error = site.store.put("media/x/source", "lost").await.unwrap_err();
        assert!(
            matches!(&error, StoreError::OtherStore { found, expected, .. } if (*found, *expected) == (theirs, ours))
        );
        assert!(
            error.to_string().contains(&theirs.to_string()) && error.to_string().contains(&ours.to_string())
        );
        assert!(matches!(site.store.delete("media/x/source").await, Err(StoreError::OtherStore { .. })));
        assert!(matches!(
            site.store.write_marker(ours, crate::MissingRootPolicy::Make).await,
            Err(StoreError::OtherStore { .. })
        ));
        assert_eq!(std::fs::read(site.root.join("media/x/source")).unwrap(), b"ours");
    }
}

#[tokio::test]
async fn what_lies_in_an_unmarked_store_can_be_looked_at() {
    for site in Site::all().await {
        let media: Vec<MediaId> = (0..30).map(|n| MediaId::from_bytes([n; 16])).collect();
        for id in &media {
            for name in ["source", "e1/abc/v180/1.m4s", "e1/abc/v180/2.m4s"] {
                site.store.put(&format!("{}/{name}", keys::media_prefix(*id)), "x").await.unwrap();
            }
        }
        Spool::create(&site.store, place(9, 1)).await.unwrap();
        std::fs::remove_file(site.root.join(keys::MARKER)).unwrap();
        assert_eq!(site.store.read_marker().await.unwrap(), None);
        let mut found = site.store.stored_media(100).await.unwrap();
        found.sort();
        assert_eq!(found, media, "each once, whatever lies in it");
        assert_eq!(site.store.stored_media(7).await.unwrap().len(), 7);
        let spooled = site.store.spooled_uploads(10).await.unwrap();
        assert_eq!(
            spooled.len(),
            usize::from(site.store.is_local()),
            "only a local store has files of its own"
        );
    }
}

/// Says the same for ever, and counts how often it was asked.
struct Counting(std::sync::atomic::AtomicUsize);

impl StoreIdentifier for Counting {
    fn identify_store<'a>(
        &'a self,
        _: &'a Store,
    ) -> futures::future::BoxFuture<'a, Result<StoreId, StoreError>> {
        self.0.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        Box::pin(async { Ok(StoreId::from_bytes([1; 16])) })
    }
}

#[tokio::test]
async fn many_callers_ask_once_which_store_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let asked = Arc::new(Counting(0.into()));
    let store =
        Store::open(StoreConfig::from_url(format!("file://{}", folder.path().display())), asked.clone())
            .unwrap();
    let checks = (0..200).map(|_| store.verify_marker_now());
    let outcomes =
        tokio::time::timeout(Duration::from_secs(10), futures::future::join_all(checks)).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Err(StoreError::Unmarked { .. }))));
    let count = asked.0.load(std::sync::atomic::Ordering::Relaxed);
    assert!(count < 20, "{count}");
}

#[tokio::test]
async fn a_probe_never_waits_for_a_remote_store() {
    let s3 = TestS3Server::start().await.unwrap();
    let config = StoreConfig { marker_ms: 0, retries_max: 0, ..s3.store_config() };
    let store = testing::open_test_store(config).unwrap();
    store.check_ready().await.unwrap();
    let away = s3.bucket_folder().with_extension("away");
    std::fs::rename(s3.bucket_folder(), &away).unwrap();
    let noticed = async {
        while store.check_ready().await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), noticed).await.unwrap();
    std::fs::rename(&away, s3.bucket_folder()).unwrap();
    let noticed = async {
        while store.check_ready().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), noticed).await.unwrap();
}

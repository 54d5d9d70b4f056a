use std::sync::Arc;

use futures::{StreamExt, TryStreamExt};
use proptest::prelude::*;
use schemas::{
    ids::{MediaId, UploadId},
    keys,
};
use tempfile::TempDir;

use crate::{
    Spool, SpoolCheckpoint, SpooledUpload, Store, StoreConfig, StoreError,
    testing::{self, TestS3Server},
};

mod environment;
mod joining;
mod marker;
mod remote;

const MIB: usize = 1024 * 1024;

fn place(seed: u8, length_bytes: usize) -> SpooledUpload {
    SpooledUpload {
        upload_id: UploadId::from_bytes([seed; 16]),
        media_id: MediaId::from_bytes([seed; 16]),
        generation: 1,
        length_bytes_max: u64::try_from(length_bytes).unwrap(),
    }
}

fn local() -> (TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let url = format!("file://{}", folder.path().join("store").display());
    (folder, testing::open_test_store(StoreConfig::from_url(url)).unwrap())
}

async fn remote() -> (TestS3Server, Store) {
    let s3 = TestS3Server::start().await.unwrap();
    let store = testing::open_test_store(s3.store_config()).unwrap();
    (s3, store)
}

/// Bytes that differ everywhere, so that a misplaced piece shows.
fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|i| u8::try_from((i * 31 + i / 251 + i / 65_521) % 251).unwrap()).collect()
}

async fn write(spool: &mut Spool, bytes: &[u8], step: usize) {
    for piece in bytes.chunks(step) {
        spool.write(piece.to_vec().into()).await.unwrap();
        spool.checkpoint().await.unwrap();
    }
}

async fn source(store: &Store, place: SpooledUpload) -> Vec<u8> {
    store.get(&keys::source_key(place.media_id), u64::MAX).await.unwrap().to_vec()
}

/// What every store must do with an upload in three requests by three writers.
async fn check_three_requests(store: &Store, length: usize, cuts: [usize; 2]) {
    let bytes = pattern(length);
    let mut place = place(7, length);
    Spool::create(store, place).await.unwrap();
    let mut durable = SpoolCheckpoint::default();
    for range in [0..cuts[0], cuts[0]..cuts[1], cuts[1]..length] {
        place.generation += 1;
        let mut spool = Spool::open(store, place, durable.clone()).await.unwrap();
        write(&mut spool, &bytes[range.clone()], 100_000).await;
        assert_eq!(spool.offset_bytes(), u64::try_from(range.end).unwrap());
        durable = if range.end == length { spool.flush_last().await } else { spool.flush().await }.unwrap();
        spool.confirm_recorded(&durable).await;
        assert_eq!(durable.offset_bytes, u64::try_from(range.end).unwrap());
    }
    Spool::finish(store, place, &durable).await.unwrap();
    assert!(source(store, place).await == bytes, "the object differs from what was written");
    // A crash before the record was changed repeats it.
    Spool::finish(store, place, &durable).await.unwrap();
    assert!(source(store, place).await == bytes);
    let left: Vec<_> = store.list(&keys::media_prefix(place.media_id)).try_collect().await.unwrap();
    assert_eq!(left.len(), 1, "only the source is left, not {left:?}");
}

#[tokio::test]
async fn local_upload_in_three_requests() {
    let (_folder, store) = local();
    check_three_requests(&store, 3 * MIB + 11, [1, 2 * MIB]).await;
}

#[tokio::test]
async fn remote_upload_in_three_requests_with_parts() {
    let (s3, store) = remote().await;
    check_three_requests(&store, 17 * MIB + 5, [3 * MIB, 12 * MIB + 1]).await;
    assert_eq!(s3.multipart_files().unwrap(), 0);
}

#[tokio::test]
async fn remote_upload_that_ends_on_a_part_border() {
    let (_s3, store) = remote().await;
    check_three_requests(&store, 10 * MIB, [5 * MIB, 7 * MIB]).await;
}

#[tokio::test]
async fn remote_upload_below_one_part() {
    let (_s3, store) = remote().await;
    check_three_requests(&store, 1000, [1, 999]).await;
}

#[tokio::test]
async fn an_empty_upload_becomes_an_empty_object() {
    let (_folder, local) = local();
    let (_s3, remote) = remote().await;
    for store in [local, remote] {
        let place = place(1, 0);
        Spool::create(&store, place).await.unwrap();
        let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
        let durable = spool.flush_last().await.unwrap();
        Spool::finish(&store, place, &durable).await.unwrap();
        assert!(source(&store, place).await.is_empty());
    }
}

#[tokio::test]
async fn bytes_beyond_the_record_are_discarded() {
    let (_folder, local) = local();
    let (_s3, remote) = remote().await;
    for store in [local, remote] {
        let mut place = place(2, 12 * MIB);
        let bytes = pattern(12 * MIB);
        Spool::create(&store, place).await.unwrap();
        let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
        write(&mut spool, &bytes[..2 * MIB], 65_536).await;
        let recorded = spool.flush().await.unwrap();
        spool.confirm_recorded(&recorded).await;
        // These reach the store, but the record never names them: the process died.
        write(&mut spool, &vec![0xEE; 7 * MIB], 65_536).await;
        spool.flush().await.unwrap();
        drop(spool);
        place.generation += 1;
        let mut spool = Spool::open(&store, place, recorded).await.unwrap();
        assert_eq!(spool.offset_bytes(), u64::try_from(2 * MIB).unwrap());
        write(&mut spool, &bytes[2 * MIB..], 65_536).await;
        let durable = spool.flush_last().await.unwrap();
        Spool::finish(&store, place, &durable).await.unwrap();
        assert!(source(&store, place).await == bytes);
    }
}

#[tokio::test]
async fn rollback_discards_and_the_next_bytes_take_the_place() {
    let (_folder, local) = local();
    let (s3, remote) = remote().await;
    for store in [local, remote] {
        let place = place(3, 6 * MIB);
        let bytes = pattern(6 * MIB);
        Spool::create(&store, place).await.unwrap();
        let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
        write(&mut spool, &vec![1; 6 * MIB], 100_000).await;
        spool.rollback(&SpoolCheckpoint::default()).await.unwrap();
        assert_eq!(s3.multipart_files().unwrap(), 0, "the multipart upload of discarded bytes is gone");
        let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
        assert_eq!(spool.offset_bytes(), 0);
        write(&mut spool, &bytes, 100_000).await;
        let durable = spool.flush_last().await.unwrap();
        Spool::finish(&store, place, &durable).await.unwrap();
        assert!(source(&store, place).await == bytes);
    }
}

#[tokio::test]
async fn a_second_local_writer_is_kept_out_until_the_first_is_gone() {
    let (_folder, store) = local();
    let place = place(4, 10);
    Spool::create(&store, place).await.unwrap();
    let first = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
    assert!(matches!(Spool::open(&store, place, SpoolCheckpoint::default()).await, Err(StoreError::Busy)));
    drop(first);
    Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
}

#[tokio::test]
async fn a_file_shorter_than_the_record_is_damaged() {
    let (folder, store) = local();
    let place = place(5, 10);
    Spool::create(&store, place).await.unwrap();
    let recorded = SpoolCheckpoint { offset_bytes: 1, multipart: None };
    let found = Spool::open(&store, place, recorded.clone()).await;
    assert!(matches!(found, Err(StoreError::Damaged(_))), "{found:?}");
    std::fs::remove_file(folder.path().join("store").join(keys::spool_path(place.upload_id))).unwrap();
    let found = Spool::open(&store, place, recorded.clone()).await;
    assert!(matches!(found, Err(StoreError::Damaged(_))), "{found:?}");
    assert!(matches!(Spool::finish(&store, place, &recorded).await, Err(StoreError::Damaged(_))));
}

#[tokio::test]
async fn a_lost_tail_is_damaged() {
    let (_s3, store) = remote().await;
    let mut place = place(6, 20 * MIB);
    let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
    write(&mut spool, &pattern(1000), 1000).await;
    let recorded = spool.flush().await.unwrap();
    let key = keys::source_tail_key(place.media_id, place.generation, 0);
    store.delete(&key).await.unwrap();
    place.generation += 1;
    let mut spool = Spool::open(&store, place, recorded).await.unwrap();
    spool.write(vec![1].into()).await.unwrap();
    let found = spool.flush().await;
    assert!(matches!(found, Err(StoreError::Damaged(_))), "{found:?}");
}

#[tokio::test]
async fn removing_leaves_nothing_behind() {
    let (folder, local) = local();
    let (s3, remote) = remote().await;
    for store in [local, remote] {
        let place = place(8, 12 * MIB);
        Spool::create(&store, place).await.unwrap();
        let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
        write(&mut spool, &pattern(7 * MIB), 100_000).await;
        let durable = spool.flush().await.unwrap();
        Spool::remove(&store, place, &durable).await.unwrap();
        Spool::remove(&store, place, &durable).await.unwrap();
        let left: Vec<_> = store.list("media").try_collect().await.unwrap();
        assert!(left.is_empty(), "{left:?}");
    }
    assert_eq!(s3.multipart_files().unwrap(), 0);
    assert!(!folder.path().join("store").join(keys::spool_path(place(8, 0).upload_id)).exists());
}

#[tokio::test]
async fn a_full_disk_is_reported_as_such() {
    let (folder, store) = local();
    let place = place(10, MIB);
    Spool::create(&store, place).await.unwrap();
    let path = folder.path().join("store").join(keys::spool_path(place.upload_id));
    std::fs::remove_file(&path).unwrap();
    std::os::unix::fs::symlink("/dev/full", &path).unwrap();
    let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
    spool.write(pattern(1000).into()).await.unwrap();
    let error = spool.flush().await.unwrap_err();
    assert!(matches!(error, StoreError::Full), "{error:?}");
    assert_eq!(spool.offset_bytes(), 0, "bytes that were not stored are not counted");
    assert_eq!(spool.flush().await.unwrap().offset_bytes, 0);
    let quota = object_store::Error::Generic {
        store: "LocalFileSystem",
        source: Box::new(std::io::Error::from(std::io::ErrorKind::QuotaExceeded)),
    };
    assert!(matches!(StoreError::from(quota), StoreError::Full));
}

#[tokio::test]
async fn an_unreachable_store_is_retry_and_keeps_what_is_stored() {
    let (s3, _) = remote().await;
    let config = StoreConfig { retries_max: 0, request_timeout_ms: 2_000, ..s3.store_config() };
    let store = testing::open_test_store(config).unwrap();
    let place = place(9, 20 * MIB);
    let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
    write(&mut spool, &pattern(2 * MIB), 100_000).await;
    let recorded = spool.flush().await.unwrap();
    drop(s3);
    spool.write(vec![1; 1000].into()).await.unwrap();
    let error = spool.flush().await.unwrap_err();
    assert!(error.is_outage(), "{error:?}");
    assert_eq!(spool.latest_checkpoint(), recorded, "what was durable is still the state to continue from");
    assert_eq!(spool.offset_bytes(), recorded.offset_bytes);
    assert!(store.probe().await.unwrap_err().is_outage());
}

#[tokio::test]
async fn memory_is_bounded_over_all_uploads() {
    let (s3, _) = remote().await;
    let config = StoreConfig { in_flight_bytes_max: 6 * MIB, in_flight_wait_ms: 10_000, ..s3.store_config() };
    let store = Arc::new(testing::open_test_store(config).unwrap());
    let mut tasks = tokio::task::JoinSet::new();
    for seed in 20..24 {
        let store = store.clone();
        tasks.spawn(async move {
            let (place, bytes) = (place(seed, 12 * MIB), pattern(12 * MIB));
            let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
            write(&mut spool, &bytes, 300_000).await;
            let durable = spool.flush_last().await.unwrap();
            Spool::finish(&store, place, &durable).await.unwrap();
            assert!(source(&store, place).await == bytes);
        });
    }
    tasks.join_all().await;
    assert_eq!(store.state().in_flight().available_permits(), 6 * MIB);
}

#[tokio::test]
async fn objects_are_put_read_listed_and_deleted() {
    let (_folder, local) = local();
    let (_s3, remote) = remote().await;
    for store in [local, remote] {
        let bytes = pattern(9 * MIB);
        store.put("media/a/source", bytes.clone()).await.unwrap();
        store.put("media/a/e1/x/index.m3u8", "#EXTM3U").await.unwrap();
        assert_eq!(store.get_range("media/a/source", 5..9).await.unwrap(), bytes[5..9]);
        assert_eq!(
            store.head("media/a/source").await.unwrap().size_bytes,
            u64::try_from(bytes.len()).unwrap()
        );
        let length = u64::try_from(bytes.len()).unwrap();
        let streamed: Vec<_> = store.get_stream("media/a/source", 0..length).try_collect().await.unwrap();
        assert!(streamed.concat() == bytes);
        let mut short = Box::pin(store.get_stream("media/a/source", 0..length + 1));
        let mut last = short.next().await;
        while let Some(Ok(_)) = last {
            last = short.next().await;
        }
        assert!(last.is_some_and(|l| l.is_err()), "an early end is an error");
        assert!(matches!(store.get("media/a/source", 10).await, Err(StoreError::Invalid(_))));
        let mut listed: Vec<_> = store.list("media/a").map_ok(|m| m.key).try_collect().await.unwrap();
        listed.sort();
        assert_eq!(listed, ["media/a/e1/x/index.m3u8", "media/a/source"]);
        store.delete("media/a/source").await.unwrap();
        store.delete("media/a/source").await.unwrap();
        assert!(matches!(store.head("media/a/source").await, Err(StoreError::NotFound { .. })));
        store.probe().await.unwrap();
    }
}

#[tokio::test]
async fn a_prefix_is_part_of_every_key_and_of_none_returned() {
    let (s3, whole) = remote().await;
    let config = StoreConfig { url: format!("{}/one/two", s3.url()), ..s3.store_config() };
    let store = testing::open_test_store(config).unwrap();
    store.put("media/a/source", "x").await.unwrap();
    let listed: Vec<_> = store.list("media").map_ok(|m| m.key).try_collect().await.unwrap();
    assert_eq!(listed, ["media/a/source"]);
    assert_eq!(whole.get("one/two/media/a/source", 1).await.unwrap(), "x");
}

#[test]
fn refuses_bad_settings() {
    for url in ["", "/var/x", "ftp://x/y", "s3://", "file://host/x", "memory:///"] {
        assert!(
            matches!(testing::open_test_store(StoreConfig::from_url(url)), Err(StoreError::Invalid(_))),
            "{url}"
        );
    }
    let mut config = StoreConfig::from_url("s3://bucket");
    config.options.insert("aws_colour".into(), "blue".into());
    assert!(matches!(testing::open_test_store(config.clone()), Err(StoreError::Invalid(_))));
    config.options = [("aws_secret_access_key".to_owned(), "hush".to_owned())].into();
    assert!(!format!("{config:?}").contains("hush"));
    config.part_bytes_min = 1;
    assert!(matches!(testing::open_test_store(config), Err(StoreError::Invalid(_))));
}

#[test]
fn refuses_keys_that_leave_the_store() {
    let (_folder, store) = local();
    for key in ["../x", "media/../../x", "/media//x"] {
        assert!(matches!(store.object_path(key), Err(StoreError::Invalid(_))), "{key}");
    }
}

proptest! {
    #[test]
    fn parts_always_suffice(length: u64) {
        let config = StoreConfig::default();
        let length = length >> 8;
        let part_bytes = config.part_bytes(length);
        prop_assert!(length.div_ceil(part_bytes) <= crate::PARTS_MAX);
        prop_assert_eq!(part_bytes % u64::try_from(MIB).unwrap(), 0);
        prop_assert!(part_bytes >= config.part_bytes_min);
    }
}

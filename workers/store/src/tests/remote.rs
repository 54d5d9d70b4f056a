//! The last step of an upload to a remote store, and a store behind a bad network.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::*;
use crate::testing::{InjectedFault, ThrottledLink};

/// An upload whose bytes are durable, the last of them in a tail: as a request leaves it that did not know it was the last.
async fn spooled(store: &Store, place: SpooledUpload, bytes: &[u8]) -> SpoolCheckpoint {
    let mut spool = Spool::open(store, place, SpoolCheckpoint::default()).await.unwrap();
    write(&mut spool, bytes, 300_000).await;
    spool.flush().await.unwrap()
}

#[tokio::test]
async fn finishing_stores_what_is_missing() {
    let (s3, store) = remote().await;
    // Parts and a tail, a tail alone, parts alone.
    for (seed, length) in [(1, 11 * MIB + 3), (2, 1000), (3, 10 * MIB)] {
        let (place, bytes) = (place(seed, length), pattern(length));
        let durable = spooled(&store, place, &bytes).await;
        for _ in 0..2 {
            Spool::finish(&store, place, &durable).await.unwrap();
            assert!(source(&store, place).await == bytes, "{length}");
        }
        let left: Vec<_> = store.list(&keys::media_prefix(place.media_id)).try_collect().await.unwrap();
        assert_eq!(left.len(), 1, "only the source is left, not {left:?}");
    }
    assert_eq!(s3.multipart_files().unwrap(), 0);
}

#[tokio::test]
async fn two_who_finish_at_once_lose_no_byte() {
    let (_s3, store) = remote().await;
    let (place, bytes) = (place(4, 11 * MIB + 3), pattern(11 * MIB + 3));
    let durable = spooled(&store, place, &bytes).await;
    let finish = || Spool::finish(&store, place, &durable);
    let outcomes = futures::join!(finish(), finish(), finish());
    assert!([&outcomes.0, &outcomes.1, &outcomes.2].iter().any(|outcome| outcome.is_ok()), "{outcomes:?}");
    // A caller that failed looks again.
    finish().await.unwrap();
    assert!(source(&store, place).await == bytes);
}

#[tokio::test]
async fn a_multipart_upload_is_known_before_its_first_part_is_stored() {
    let (s3, _) = remote().await;
    let store = testing::open_test_store(StoreConfig { retries_max: 0, ..s3.store_config() }).unwrap();
    store.verify_marker_now().await.unwrap();
    let held = Arc::new(Semaphore::new(0));
    let permits = held.clone();
    s3.set_fault_rule(move |_, address| {
        address.contains("partNumber").then(|| InjectedFault::Hold(permits.clone()))
    });
    let place = place(5, 20 * MIB);
    let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
    spool.write(pattern(6 * MIB).into()).await.unwrap();
    let begun = spool.checkpoint().await.unwrap().unwrap();
    assert_eq!(begun.offset_bytes, 0);
    assert!(begun.multipart.as_ref().unwrap().multipart_id.is_some());
    assert_eq!(spool.checkpoint().await.unwrap(), None, "it is returned once");
    drop(spool);
    // What was recorded is enough to end it, and enough to go on with it.
    s3.clear_fault_rule();
    let mut spool =
        Spool::open(&store, SpooledUpload { generation: 2, ..place }, begun.clone()).await.unwrap();
    write(&mut spool, &pattern(6 * MIB), 300_000).await;
    let durable = spool.flush().await.unwrap();
    let id = |durable: &SpoolCheckpoint| durable.multipart.as_ref().unwrap().multipart_id.clone();
    assert_eq!(id(&durable), id(&begun));
    Spool::remove(&store, place, &begun).await.unwrap();
    assert_eq!(s3.multipart_files().unwrap(), 0);
}

#[tokio::test]
async fn what_a_displaced_writer_began_is_ended_with_it() {
    let (s3, store) = remote().await;
    let place = place(6, 20 * MIB);
    let mut first = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
    write(&mut first, &pattern(6 * MIB), 300_000).await;
    let mut second =
        Spool::open(&store, SpooledUpload { generation: 2, ..place }, SpoolCheckpoint::default())
            .await
            .unwrap();
    write(&mut second, &pattern(6 * MIB), 300_000).await;
    let recorded = second.flush().await.unwrap();
    // Nobody ever recorded the first one's, so nobody else could end it.
    first.abandon(&recorded).await.unwrap();
    let mut spool = Spool::open(&store, SpooledUpload { generation: 3, ..place }, recorded).await.unwrap();
    write(&mut spool, &pattern(7 * MIB)[6 * MIB..], 300_000).await;
    let durable = spool.flush_last().await.unwrap();
    Spool::finish(&store, place, &durable).await.unwrap();
    assert!(source(&store, place).await == pattern(7 * MIB));
    assert_eq!(s3.multipart_files().unwrap(), 0);
}

#[tokio::test]
async fn a_slow_link_gets_fewer_parts_at_a_time() {
    let s3 = TestS3Server::start().await.unwrap();
    let link = ThrottledLink::start(&s3, 4 * 1024 * 1024).await.unwrap();
    // A part has 3 s: enough for one alone (1.25 s), not for three at once (3.75 s).
    let config = StoreConfig {
        request_timeout_ms: 500,
        rate_bytes_per_s_min: 2 * 1024 * 1024,
        retries_max: 0,
        ..link.store_config(&s3)
    };
    assert_eq!(config.request_deadline(5 * 1024 * 1024).as_millis(), 3_000);
    let store = testing::open_test_store(config).unwrap();
    let sent = Arc::new(AtomicUsize::new(0));
    let counted = sent.clone();
    s3.set_fault_rule(move |_, address| {
        counted.fetch_add(usize::from(address.contains("partNumber")), Ordering::Relaxed);
        None
    });
    let (place, bytes) = (place(7, 15 * MIB), pattern(15 * MIB));
    let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
    for piece in bytes.chunks(MIB) {
        spool.write(piece.to_vec().into()).await.unwrap();
    }
    let durable = spool.flush_last().await.unwrap();
    assert!(sent.load(Ordering::Relaxed) > 3, "three at once were too many");
    let part_bytes = durable.multipart.as_ref().unwrap().part_bytes;
    assert_eq!(
        (part_bytes, durable.multipart.as_ref().unwrap().parts.len()),
        (5 * 1024 * 1024, 3),
        "no part became smaller"
    );
    let near = testing::open_test_store(s3.store_config()).unwrap();
    Spool::finish(&near, place, &durable).await.unwrap();
    assert!(source(&near, place).await == bytes);
}

#[tokio::test]
async fn what_a_link_is_too_slow_for_is_parked() {
    let s3 = TestS3Server::start().await.unwrap();
    let config = StoreConfig {
        request_timeout_ms: 1_500,
        rate_bytes_per_s_min: 1 << 40,
        retries_max: 0,
        ..s3.store_config()
    };
    let store = testing::open_test_store(config).unwrap();
    store.verify_marker_now().await.unwrap();
    // No part arrives in time, smaller things do.
    let never = Arc::new(Semaphore::new(0));
    s3.set_fault_rule(move |_, address| {
        address.contains("partNumber").then(|| InjectedFault::Hold(never.clone()))
    });
    let (mut place, bytes) = (place(8, 7 * MIB), pattern(7 * MIB));
    let mut spool = Spool::open(&store, place, SpoolCheckpoint::default()).await.unwrap();
    spool.write(bytes.clone().into()).await.unwrap();
    let error = spool.flush_last().await.unwrap_err();
    assert!(
        matches!(error, StoreError::Slow { size_bytes, .. } if size_bytes == 5 * 1024 * 1024),
        "{error:?}"
    );
    let durable = spool.flush().await.unwrap();
    assert_eq!(durable.offset_bytes, 5 * 1024 * 1024 - 1, "as much as a tail may hold");
    drop(spool);
    s3.clear_fault_rule();
    place.generation += 1;
    let kept = usize::try_from(durable.offset_bytes).unwrap();
    let near = testing::open_test_store(s3.store_config()).unwrap();
    let mut spool = Spool::open(&near, place, durable).await.unwrap();
    write(&mut spool, &bytes[kept..], 300_000).await;
    let durable = spool.flush_last().await.unwrap();
    Spool::finish(&near, place, &durable).await.unwrap();
    assert!(source(&near, place).await == bytes);
}

//! Objects that become parts of an upload in an S3 store.

use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::Semaphore;

use super::*;
use crate::testing::InjectedFault;

/// Bytes of requests and answers that are not those of objects, at most.
const PROTOCOL_BYTES_MAX: u64 = 64 * 1024;

fn is_copy(address: &str) -> bool {
    // The signature names the headers that it covers.
    address.contains("x-amz-copy-source")
}

fn part_number(address: &str) -> Option<usize> {
    address.split(['?', '&']).find_map(|pair| pair.strip_prefix("partNumber=")?.parse().ok())
}

/// Objects that follow each other in a whole.
struct Objects {
    parts: Vec<(String, usize)>,
    whole: Vec<u8>,
}

impl Objects {
    async fn put(store: &Store, sizes: &[usize]) -> Self {
        let whole = pattern(sizes.iter().sum());
        let (mut parts, mut from) = (Vec::new(), 0);
        for (seed, size) in (100..).zip(sizes) {
            let key = keys::source_key(MediaId::from_bytes([seed; 16]));
            store.put(&key, whole[from..from + size].to_vec()).await.unwrap();
            parts.push((key, *size));
            from += size;
        }
        Self { parts, whole }
    }

    fn next(&self, offset_bytes: u64) -> Option<(&str, std::ops::Range<u64>)> {
        let mut behind = usize::try_from(offset_bytes).unwrap();
        for (key, size) in &self.parts {
            if behind < *size {
                return Some((key, u64::try_from(behind).unwrap()..u64::try_from(*size).unwrap()));
            }
            behind -= size;
        }
        None
    }

    fn length(&self) -> u64 {
        u64::try_from(self.whole.len()).unwrap()
    }

    /// Joins them as an upload does; each recorded state is put where it survives a crash.
    async fn join(
        &self,
        store: &Store,
        place: SpooledUpload,
        recorded: &mut SpoolCheckpoint,
    ) -> Result<(), StoreError> {
        let mut spool = Spool::open(store, place, recorded.clone()).await?;
        let sizes: Vec<u64> = self.parts.iter().map(|(_, size)| u64::try_from(*size).unwrap()).collect();
        spool.align_parts(&sizes);
        while recorded.offset_bytes < self.length() {
            while let Some((key, rest)) = self.next(spool.offset_bytes()) {
                spool.append_object(store, key, rest).await?;
                if let Some(durable) = spool.checkpoint().await? {
                    *recorded = durable;
                    spool.confirm_recorded(recorded).await;
                }
            }
            *recorded = spool.flush_last().await?;
        }
        Spool::finish(store, place, recorded).await
    }

    async fn check(&self, store: &Store, place: SpooledUpload) {
        assert!(source(store, place).await == self.whole, "the object differs from what was joined");
    }
}

/// Bytes that went through this process while something was done.
async fn count_bytes(s3: &TestS3Server, work: impl Future<Output = ()>) -> (u64, u64) {
    let before = s3.transferred_bytes();
    work.await;
    let after = s3.transferred_bytes();
    (after.0 - before.0, after.1 - before.1)
}

#[tokio::test]
async fn large_parts_are_joined_without_being_read() {
    let (s3, store) = remote().await;
    for (seed, sizes) in
        [(1, vec![20 * MIB, 20 * MIB, 15 * MIB]), (2, vec![7 * MIB + 1, 7 * MIB + 1]), (3, vec![12 * MIB])]
    {
        let objects = Objects::put(&store, &sizes).await;
        let place = place(seed, objects.whole.len());
        let (sent, read) = count_bytes(&s3, async {
            objects.join(&store, place, &mut SpoolCheckpoint::default()).await.unwrap();
        })
        .await;
        // Of a single one of 12 MiB the last two, which are less than S3 copies.
        let rest = if sizes.len() == 1 { 2 * 1024 * 1024 } else { 0 };
        assert!(sent <= rest + PROTOCOL_BYTES_MAX && read <= rest + PROTOCOL_BYTES_MAX, "{sent} {read}");
        objects.check(&store, place).await;
    }
    assert_eq!(s3.multipart_files().unwrap(), 0);
}

#[tokio::test]
async fn what_reaches_over_a_border_is_read_and_the_rest_is_copied() {
    let (s3, store) = remote().await;
    let objects = Objects::put(&store, &[21 * MIB + 3, 13 * MIB + 1, 16 * MIB]).await;
    let place = place(1, objects.whole.len());
    let (sent, read) = count_bytes(&s3, async {
        objects.join(&store, place, &mut SpoolCheckpoint::default()).await.unwrap();
    })
    .await;
    // Two borders and an end below 5 MiB.
    let most = 3 * 5 * 1024 * 1024 + PROTOCOL_BYTES_MAX;
    assert!(sent <= most && read <= most, "{sent} {read}");
    objects.check(&store, place).await;
}

#[tokio::test]
async fn small_parts_are_read() {
    let (s3, store) = remote().await;
    let copies = Arc::new(AtomicUsize::new(0));
    let counted = copies.clone();
    s3.set_fault_rule(move |_, address| {
        counted.fetch_add(usize::from(is_copy(address)), Ordering::Relaxed);
        None
    });
    for (seed, sizes) in
        [(1, vec![MIB, 3, 0, 2 * MIB]), (2, vec![4 * MIB + 7; 5]), (3, vec![1, 5 * MIB - 1, 4 * MIB])]
    {
        let objects = Objects::put(&store, &sizes).await;
        let place = place(seed, objects.whole.len());
        objects.join(&store, place, &mut SpoolCheckpoint::default()).await.unwrap();
        objects.check(&store, place).await;
    }
    assert_eq!(copies.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_store_that_does_not_copy_is_asked_once() {
    for (status, code) in [(501, ""), (405, ""), (400, "NotImplemented"), (200, "")] {
        let (s3, store) = remote().await;
        let objects = Objects::put(&store, &[11 * MIB + 3, 6 * MIB]).await;
        let copies = Arc::new(AtomicUsize::new(0));
        let counted = copies.clone();
        s3.set_fault_rule(move |_, address| {
            let body =
                if code.is_empty() { String::new() } else { format!("<Error><Code>{code}</Code></Error>") };
            is_copy(address).then(|| {
                counted.fetch_add(1, Ordering::Relaxed);
                InjectedFault::Answer(status, body)
            })
        });
        for seed in [1, 2] {
            let place = place(seed, objects.whole.len());
            let (_, read) = count_bytes(&s3, async {
                objects.join(&store, place, &mut SpoolCheckpoint::default()).await.unwrap();
            })
            .await;
            assert!(read >= objects.length(), "{status} {code}: all is read, not {read}");
            objects.check(&store, place).await;
            let most = store.config().parts_in_flight_max;
            assert!((1..=most).contains(&copies.load(Ordering::Relaxed)), "{status} {code}");
        }
        assert_eq!(s3.multipart_files().unwrap(), 0);
    }
}

#[tokio::test]
async fn a_copy_that_is_refused_in_the_middle_is_read() {
    for code in ["InvalidRequest", "AccessDenied"] {
        let (s3, store) = remote().await;
        let objects = Objects::put(&store, &[20 * MIB, 20 * MIB]).await;
        s3.set_fault_rule(move |_, address| {
            let body = format!("<Error><Code>{code}</Code></Error>");
            (is_copy(address) && part_number(address) == Some(3)).then_some(InjectedFault::Answer(400, body))
        });
        let place = place(1, objects.whole.len());
        objects.join(&store, place, &mut SpoolCheckpoint::default()).await.unwrap();
        objects.check(&store, place).await;
        // The store as such copies: the next ones are copied again.
        s3.clear_fault_rule();
        let next = SpooledUpload { media_id: MediaId::from_bytes([9; 16]), ..place };
        let (_, read) = count_bytes(&s3, async {
            objects.join(&store, next, &mut SpoolCheckpoint::default()).await.unwrap();
        })
        .await;
        assert!(read <= PROTOCOL_BYTES_MAX, "{read}");
    }
}

#[tokio::test]
async fn an_answer_of_200_may_hold_an_error() {
    let (s3, store) = remote().await;
    let objects = Objects::put(&store, &[10 * MIB, 10 * MIB]).await;
    let failures_left = Arc::new(AtomicUsize::new(2));
    s3.set_fault_rule(move |_, address| {
        let fails = is_copy(address)
            && failures_left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |n| n.checked_sub(1)).is_ok();
        let body = "<?xml version=\"1.0\"?>\n<Error><Code>InternalError</Code><Message>m</Message></Error>";
        fails.then(|| InjectedFault::Answer(200, body.to_owned()))
    });
    let place = place(1, objects.whole.len());
    let (_, read) = count_bytes(&s3, async {
        objects.join(&store, place, &mut SpoolCheckpoint::default()).await.unwrap();
    })
    .await;
    objects.check(&store, place).await;
    assert!(read <= PROTOCOL_BYTES_MAX, "a copy that failed is asked for again, not read: {read}");
}

#[tokio::test]
async fn joining_waits_for_what_passes_and_goes_on() {
    let (s3, _) = remote().await;
    let config = StoreConfig { retries_max: 1, ..s3.store_config() };
    let store = testing::open_test_store(config.clone()).unwrap();
    let hasty_config = StoreConfig { request_timeout_ms: 1_500, rate_bytes_per_s_min: 1 << 40, ..config };
    let hasty = testing::open_test_store(hasty_config).unwrap();
    let objects = Objects::put(&store, &[10 * MIB, 10 * MIB]).await;
    let never = Arc::new(Semaphore::new(0));
    let answer =
        |status, code: &str| InjectedFault::Answer(status, format!("<Error><Code>{code}</Code></Error>"));
    let faults =
        [answer(403, "RequestTimeTooSkewed"), answer(400, "ExpiredToken"), InjectedFault::Hold(never)];
    for (seed, fault) in (1..).zip(faults) {
        let mut place = place(seed, objects.whole.len());
        let said = fault.clone();
        s3.set_fault_rule(move |_, address| {
            (is_copy(address) && part_number(address) == Some(4)).then(|| fault.clone())
        });
        let mut recorded = SpoolCheckpoint::default();
        let is_held = matches!(said, InjectedFault::Hold(_));
        let failing = if is_held { &hasty } else { &store };
        let error = objects.join(failing, place, &mut recorded).await.unwrap_err();
        assert!(error.is_outage(), "{said:?}: {error:?}");
        s3.clear_fault_rule();
        place.generation += 1;
        let (_, read) = count_bytes(&s3, async {
            objects.join(&store, place, &mut recorded).await.unwrap();
        })
        .await;
        assert!(read <= PROTOCOL_BYTES_MAX, "{said:?}: the store still copies");
        objects.check(&store, place).await;
    }
}

#[tokio::test]
async fn what_a_store_answers_without_ever_copying_is_read() {
    let (s3, _) = remote().await;
    let store = testing::open_test_store(StoreConfig { retries_max: 1, ..s3.store_config() }).unwrap();
    let objects = Objects::put(&store, &[10 * MIB, 10 * MIB]).await;
    let answer =
        |status, code: &str| InjectedFault::Answer(status, format!("<Error><Code>{code}</Code></Error>"));
    let faults = [
        InjectedFault::Status(503),
        answer(500, "InternalError"),
        answer(200, "SlowDown"),
        answer(200, "SomethingNew"),
    ];
    for (seed, fault) in (1..).zip(faults) {
        let place = place(seed, objects.whole.len());
        let said = fault.clone();
        s3.set_fault_rule(move |_, address| is_copy(address).then(|| fault.clone()));
        objects.join(&store, place, &mut SpoolCheckpoint::default()).await.unwrap_or_else(|error| {
            panic!("{said:?}: {error:?}");
        });
        s3.clear_fault_rule();
        objects.check(&store, place).await;
    }
}

#[tokio::test]
async fn joining_goes_on_at_another_replica_after_a_crash() {
    let (s3, store) = remote().await;
    let objects = Objects::put(&store, &[20 * MIB, 20 * MIB]).await;
    let never = Arc::new(Semaphore::new(0));
    let copied = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let known = copied.clone();
    s3.set_fault_rule(move |_, address| {
        let number = part_number(address).filter(|_| is_copy(address))?;
        known.lock().push(number);
        (number >= 6).then(|| InjectedFault::Hold(never.clone()))
    });
    let mut place = place(1, objects.whole.len());
    let mut recorded = SpoolCheckpoint::default();
    {
        let mut joining = std::pin::pin!(objects.join(&store, place, &mut recorded));
        // It is dropped as it is, as a process that is killed.
        while copied.lock().len() < 8 {
            let turn = tokio::time::timeout(std::time::Duration::from_millis(10), joining.as_mut()).await;
            assert!(turn.is_err(), "{turn:?}");
        }
    }
    assert_eq!(recorded.offset_bytes, 25 * 1024 * 1024, "five parts are recorded");
    s3.clear_fault_rule();
    copied.lock().clear();
    let again = copied.clone();
    s3.set_fault_rule(move |_, address| {
        again.lock().extend(part_number(address).filter(|_| is_copy(address)));
        None
    });
    let other = testing::open_test_store(s3.store_config()).unwrap();
    place.generation += 1;
    objects.join(&other, place, &mut recorded).await.unwrap();
    objects.check(&other, place).await;
    let mut numbers = copied.lock().clone();
    numbers.sort_unstable();
    assert_eq!(numbers, [6, 7, 8], "what is recorded is not copied again");
    assert_eq!(s3.multipart_files().unwrap(), 0);
}

#[tokio::test]
async fn an_object_that_is_gone_is_not_found() {
    let (_s3, store) = remote().await;
    let objects = Objects::put(&store, &[20 * MIB, 20 * MIB]).await;
    store.delete(&objects.parts[1].0).await.unwrap();
    let place = place(1, objects.whole.len());
    let error = objects.join(&store, place, &mut SpoolCheckpoint::default()).await.unwrap_err();
    assert!(matches!(error, StoreError::NotFound { .. }), "{error:?}");
}

#[tokio::test]
async fn objects_under_any_prefix_are_copied() {
    let (s3, _) = remote().await;
    let config = StoreConfig { url: format!("{}/a%20b+c/%C3%A9", s3.url()), ..s3.store_config() };
    let store = testing::open_test_store(config).unwrap();
    let objects = Objects::put(&store, &[10 * MIB, 10 * MIB]).await;
    let place = place(1, objects.whole.len());
    let (_, read) = count_bytes(&s3, async {
        objects.join(&store, place, &mut SpoolCheckpoint::default()).await.unwrap();
    })
    .await;
    assert!(read <= PROTOCOL_BYTES_MAX, "{read}");
    objects.check(&store, place).await;
}

#[test]
fn what_a_presigned_copy_cannot_carry_is_read() {
    let can_copy = |options: &[(&str, &str)]| {
        let known = [("aws_access_key_id", "a"), ("aws_secret_access_key", "b")];
        let options = known.iter().chain(options).map(|(name, value)| ((*name).into(), (*value).into()));
        let config = StoreConfig { options: options.collect(), ..StoreConfig::from_url("s3://bucket") };
        testing::open_test_store(config).unwrap().state().backend().part_copier().is_some()
    };
    assert!(can_copy(&[]));
    assert!(can_copy(&[("aws_skip_signature", "No"), ("aws_server_side_encryption", "AES256")]));
    let key = "MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY=";
    assert!(!can_copy(&[("aws_server_side_encryption", "sse-c"), ("aws_sse_customer_key_base64", key)]));
    assert!(!can_copy(&[("aws_checksum_algorithm", "sha256")]));
    assert!(!can_copy(&[("aws_skip_signature", "true")]));
}

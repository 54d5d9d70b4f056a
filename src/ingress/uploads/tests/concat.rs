//! Uploads that are made of others (tus 1.0, concatenation).

use store::testing::InjectedFault;

use super::*;
use crate::uploads::expiry::run_expiry_pass;

impl Replica {
    async fn part(&self, bytes: &[u8]) -> Upload {
        let length = bytes.len().to_string();
        let part = self.opened(self.post(&[("upload-concat", "partial"), ("upload-length", &length)])).await;
        part.append(0, bytes).await;
        part
    }

    fn post_final(&self, parts: &[&Upload]) -> RequestBuilder {
        let addresses: Vec<String> =
            parts.iter().map(|part| format!("{}{}", self.url, part.path())).collect();
        // tus-js-client writes it so.
        self.post(&[("upload-concat", &format!("final;{}", addresses.join(" ")))])
    }
}

impl Site {
    async fn run_keeper(&self, now_ms: u64) -> super::super::expiry::ExpiryReport {
        let keeper = self.broker.bus(Role::Keeper).await;
        let store = store::testing::open_test_store(self.store.clone()).unwrap();
        run_expiry_pass(&keeper, &store, now_ms, 0, schemas::ENDED_KEPT_MS).await.unwrap()
    }
}

#[tokio::test]
async fn parts_become_one_upload_and_are_gone() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let bytes = pattern(17 * MIB + 5);
        let (first, second) = bytes.split_at(11 * MIB + 3);
        // Sent in another order than they are named in.
        let tail = replica.part(second).await;
        let head = replica.part(first).await;
        assert_eq!(head.offset().await, first.len());
        assert_eq!(text(&head.head().await.1, "upload-concat"), "partial");
        assert!(site.event::<UploadReceived>(&head).await.is_none(), "a part is no medium");
        assert!(site.event::<UploadCreated>(&head).await.unwrap().is_partial);
        let whole = replica.opened(replica.post_final(&[&head, &tail])).await;
        let record = site.until(&whole, "it is joined", |r| r.status == UploadStatus::Received).await;
        assert_eq!(record.length_bytes, Some(u64::try_from(bytes.len()).unwrap()));
        assert!(site.object(&whole.media_id) == bytes);
        let (status, headers) = whole.head().await;
        assert_eq!((status.as_u16(), text(&headers, "upload-offset")), (200, bytes.len().to_string()));
        assert!(text(&headers, "upload-concat").starts_with("final;http://"));
        let received = site.event::<UploadReceived>(&whole).await.unwrap();
        assert_eq!(received.size_bytes, u64::try_from(bytes.len()).unwrap());
        // A client that missed the answer asks again, and gets the same upload.
        let again = replica.opened(replica.post_final(&[&head, &tail])).await;
        assert_eq!((again.id, again.media_id), (whole.id.clone(), whole.media_id.clone()));
        for part in [&head, &tail] {
            site.until(part, "it is freed", |r| r.freed).await;
            assert_eq!(part.head().await.0, 410);
            let place = site.root.join(keys::source_key(part.media_id.parse().unwrap()));
            assert!(!place.exists() && !site.spool(part).exists());
        }
        let found = code(replica.post_final(&[&tail, &head]).send().await.unwrap()).await;
        assert_eq!(found, (400, "header_invalid".into()), "they are another upload's");
        let open = site.admin.context().get_key_value("limits").await.unwrap();
        let counted = open.entry(owner_key("alice")).await.unwrap().unwrap();
        assert!(!String::from_utf8_lossy(&counted.value).contains(&head.id), "nothing is counted as open");
    }
}

fn owner_key(owner: &str) -> String {
    use sha2::Digest as _;
    schemas::upload::OpenUploads::key_for_owner(&sha2::Sha256::digest(owner.as_bytes()))
}

#[tokio::test]
async fn a_part_may_stand_twice_and_a_single_one_is_enough() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let (a, b) = (replica.part(b"one").await, replica.part(b"two").await);
    let whole = replica.opened(replica.post_final(&[&a, &b, &a])).await;
    site.until(&whole, "it is joined", |r| r.status == UploadStatus::Received).await;
    assert_eq!(site.object(&whole.media_id), b"onetwoone");
    let single = replica.part(b"alone").await;
    let whole = replica.opened(replica.post_final(&[&single])).await;
    site.until(&whole, "it is joined", |r| r.status == UploadStatus::Received).await;
    assert_eq!(site.object(&whole.media_id), b"alone");
}

#[tokio::test]
async fn a_whole_that_is_named_first_completes_with_its_last_part() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let open = |length: &str| replica.post(&[("upload-concat", "partial"), ("upload-length", length)]);
    let (a, b) = (replica.opened(open("3")).await, replica.opened(open("4")).await);
    let answer =
        replica.post_final(&[&a, &b]).header("upload-metadata", "filename YS50cw==").send().await.unwrap();
    assert_eq!(answer.status(), 201);
    assert!(answer.headers().get("upload-offset").is_none(), "no offset before it is joined");
    let location = text(answer.headers(), "location");
    let media_id = text(answer.headers(), "streamgate-media-id");
    let id = location.rsplit('/').next().unwrap().to_owned();
    let whole = Upload { replica: replica.clone(), id, media_id };
    let (status, headers) = whole.head().await;
    assert_eq!((status.as_u16(), text(&headers, "upload-length")), (200, "7".into()));
    assert!(headers.get("upload-offset").is_none());
    assert_eq!(code(whole.patch(0, b"x").send().await.unwrap()).await, (403, "upload_final".into()));
    b.append(0, b"rest").await;
    assert_eq!(site.record(&whole).await.status, UploadStatus::Open);
    a.append(0, b"the").await;
    let record = site.until(&whole, "it is joined", |r| r.status == UploadStatus::Received).await;
    assert_eq!(
        (site.object(&whole.media_id), record.filename.as_deref()),
        (b"therest".to_vec(), Some("a.ts"))
    );
}

#[tokio::test]
async fn a_creation_that_a_crash_cut_short_is_repeated() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let a = replica.part(b"one").await;
    let b = replica.opened(replica.post(&[("upload-concat", "partial"), ("upload-length", "3")])).await;
    let first = replica.post_final(&[&a, &b]).send().await.unwrap();
    let location = text(first.headers(), "location");
    // As if the process had died between the two.
    let mut held = site.admin.load_record::<UploadRecord>(&b.id).await.unwrap().unwrap();
    held.record.concat = Some(schemas::upload::UploadConcat::Partial { final_upload_id: None });
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    let again = replica.post_final(&[&a, &b]).send().await.unwrap();
    assert_eq!((again.status().as_u16(), text(again.headers(), "location")), (201, location.clone()));
    b.append(0, b"two").await;
    let media_id = text(again.headers(), "streamgate-media-id");
    let id = location.rsplit('/').next().unwrap().to_owned();
    let whole = Upload { replica: replica.clone(), id, media_id };
    site.until(&whole, "it is joined", |r| r.status == UploadStatus::Received).await;
    assert_eq!(site.object(&whole.media_id), b"onetwo");
}

#[tokio::test]
async fn what_can_not_be_joined_is_refused() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig { size_bytes_max: 10, ..UploadConfig::default() }).await;
    let (a, b) = (replica.part(b"123456").await, replica.part(b"78901").await);
    let plain = replica.create(1).await;
    let foreign = replica
        .opened(
            replica.post(&[("upload-concat", "partial"), ("upload-length", "1")]).header("x-owner", "bob"),
        )
        .await;
    let gone = replica.opened(replica.post(&[("upload-concat", "partial"), ("upload-length", "1")])).await;
    assert_eq!(gone.request(Method::DELETE).send().await.unwrap().status(), 204);
    let endless =
        replica.opened(replica.post(&[("upload-concat", "partial"), ("upload-defer-length", "1")])).await;
    for (request, wanted) in [
        (replica.post_final(&[&endless]), (400, "header_invalid")),
        (replica.post_final(&[&a, &b]), (413, "upload_too_large")),
        (replica.post_final(&[&a, &plain]), (400, "header_invalid")),
        (replica.post_final(&[&a, &foreign]), (400, "header_invalid")),
        (replica.post_final(&[&gone]), (410, "upload_terminated")),
        (replica.post_final(&[&a]).header("upload-length", "6"), (400, "header_invalid")),
        (replica.post_final(&[&a]).header("upload-defer-length", "1"), (400, "header_invalid")),
        (replica.post_final(&[]), (400, "header_invalid")),
        (replica.post(&[("upload-concat", "whole"), ("upload-length", "1")]), (400, "header_invalid")),
        (replica.post(&[("upload-concat", "partial")]), (400, "header_invalid")),
    ] {
        let found = code(request.send().await.unwrap()).await;
        assert_eq!((found.0, found.1.as_str()), wanted);
    }
    // Nothing of all this has touched the part.
    let whole = replica.opened(replica.post_final(&[&a])).await;
    site.until(&whole, "it is joined", |r| r.status == UploadStatus::Received).await;
}

#[tokio::test]
async fn s3_joins_large_parts_without_their_bytes_coming_through() {
    let mut site = Site::remote().await;
    let replica = site.replica(UploadConfig::default()).await;
    let bytes = pattern(26 * MIB);
    let (first, second) = bytes.split_at(13 * MIB);
    let (a, b) = (replica.part(first).await, replica.part(second).await);
    let s3 = site.s3.as_ref().unwrap();
    let before = s3.transferred_bytes();
    let whole = replica.opened(replica.post_final(&[&a, &b])).await;
    site.until(&whole, "it is joined", |r| r.status == UploadStatus::Received).await;
    let after = s3.transferred_bytes();
    // Requests and answers of the protocol.
    let most = 64 * 1024;
    assert!(after.0 - before.0 <= most && after.1 - before.1 <= most, "{before:?} {after:?}");
    assert!(site.object(&whole.media_id) == bytes);
}

#[tokio::test]
async fn joining_goes_on_where_a_replica_was_killed() {
    let mut site = Site::remote().await;
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let replica = {
        let _inside = runtime.enter();
        site.replica(UploadConfig { finish_wait_ms: 100, ..UploadConfig::default() }).await
    };
    let bytes = pattern(30 * MIB);
    let (first, second) = bytes.split_at(15 * MIB);
    let (a, b) = (replica.part(first).await, replica.part(second).await);
    let s3 = site.s3.as_ref().unwrap();
    let copy_number = |address: &str| -> Option<usize> {
        let (_, rest) =
            address.split_once("partNumber=").filter(|_| address.contains("x-amz-copy-source"))?;
        rest.split('&').next()?.parse().ok()
    };
    let never = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    s3.set_fault_rule(move |_, address| {
        copy_number(address).filter(|number| *number > 3).map(|_| InjectedFault::Hold(never.clone()))
    });
    let whole = replica.opened(replica.post_final(&[&a, &b])).await;
    site.until(&whole, "three are copied", |r| r.offset_bytes == 15 * 1024 * 1024).await;
    // Nothing of it runs to its end, as after kill -9.
    runtime.shutdown_background();
    let record = site.record(&whole).await;
    assert!(record.status == UploadStatus::Open && record.holder.is_some(), "{record:?}");
    let copied = std::sync::Arc::new(parking_lot::Mutex::new(Vec::new()));
    let counted = copied.clone();
    s3.set_fault_rule(move |_, address| {
        counted.lock().extend(copy_number(address));
        None
    });
    site.run_keeper(nats::now_ms()).await;
    assert_eq!(site.record(&whole).await.status, UploadStatus::Received);
    assert!(site.object(&whole.media_id) == bytes);
    let mut numbers = copied.lock().clone();
    numbers.sort_unstable();
    // A request that a busy machine is slow to answer is sent again.
    numbers.dedup();
    assert_eq!(numbers, [4, 5, 6], "what is recorded is not copied again");
    assert_eq!(s3.multipart_files().unwrap(), 0);
}

#[tokio::test]
async fn joining_goes_on_after_an_outage() {
    let mut site = Site::remote().await;
    site.store.retries_max = 0;
    let replica = site.replica(UploadConfig::default()).await;
    let bytes = pattern(40 * MIB);
    let (first, second) = bytes.split_at(33 * MIB);
    let (a, b) = (replica.part(first).await, replica.part(second).await);
    let s3 = site.s3.as_ref().unwrap();
    let place = keys::source_key(b.media_id.parse().unwrap());
    // The second part can't be read: some of the first is in place by then.
    s3.set_fault_rule(move |method, address| {
        (*method == Method::GET && address.contains(&place)).then_some(InjectedFault::Status(500))
    });
    let answer = replica.post_final(&[&a, &b]).send().await.unwrap();
    assert_eq!(answer.status(), 201, "it goes on without the client");
    let location = text(answer.headers(), "location");
    let media_id = text(answer.headers(), "streamgate-media-id");
    let whole =
        Upload { replica: replica.clone(), id: location.rsplit('/').next().unwrap().to_owned(), media_id };
    let record = site.until(&whole, "it lets go", |r| r.holder.is_none() && r.offset_bytes > 0).await;
    assert_eq!(record.status, UploadStatus::Open);
    // Of an upload that waits for the store no part runs out of time.
    let later = nats::now_ms() + 25 * 3600 * 1000;
    s3.set_fault_rule(|_, _| None);
    site.run_keeper(later).await;
    assert_eq!(site.record(&whole).await.status, UploadStatus::Received);
    assert!(site.object(&whole.media_id) == bytes);
    assert_eq!(s3.multipart_files().unwrap(), 0);
}

#[tokio::test]
async fn a_join_that_fails_early_leaves_no_multipart_upload() {
    let mut site = Site::remote().await;
    site.store.retries_max = 0;
    let replica = site.replica(UploadConfig::default()).await;
    let part = replica.part(&pattern(20 * MIB)).await;
    let s3 = site.s3.as_ref().unwrap();
    // The multipart upload is begun, and no part of it made.
    s3.set_fault_rule(|_, address| address.contains("partNumber").then_some(InjectedFault::Status(500)));
    let whole = replica.opened(replica.post_final(&[&part])).await;
    site.until(&whole, "it lets go", |r| r.holder.is_none() && r.multipart.is_some()).await;
    assert_eq!(whole.request(Method::DELETE).send().await.unwrap().status(), 204);
    assert_eq!(s3.multipart_files().unwrap(), 0);
}

#[tokio::test]
async fn parts_outlive_a_whole_that_came_to_nothing() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let there = replica.part(b"there").await;
    let missing = replica.opened(replica.post(&[("upload-concat", "partial"), ("upload-length", "5")])).await;
    let whole = replica.opened(replica.post_final(&[&there, &missing])).await;
    // A part that is waited for is not ended by itself.
    let refused = code(there.request(Method::DELETE).send().await.unwrap()).await;
    assert_eq!(refused, (403, "upload_finished".into()));
    assert_eq!(code(replica.post_final(&[&missing, &there]).send().await.unwrap()).await.0, 400);
    assert_eq!(whole.request(Method::DELETE).send().await.unwrap().status(), 204);
    let other = replica.opened(replica.post_final(&[&there])).await;
    site.until(&other, "it is joined", |r| r.status == UploadStatus::Received).await;
    assert_eq!(site.object(&other.media_id), b"there");
    assert_eq!(missing.request(Method::DELETE).send().await.unwrap().status(), 204);
}

#[tokio::test]
async fn a_whole_waits_as_long_as_one_of_its_parts_may_come() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let slow = replica.opened(replica.post(&[("upload-concat", "partial"), ("upload-length", "6")])).await;
    let whole = replica.opened(replica.post_final(&[&slow])).await;
    // Bytes that came later give the part more time than the whole had when it was made.
    let mut held = site.admin.load_record::<UploadRecord>(&slow.id).await.unwrap().unwrap();
    held.record.expires_at_ms += 2 * 3600 * 1000;
    site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
    site.run_keeper(nats::now_ms() + 25 * 3600 * 1000).await;
    assert_eq!(site.record(&whole).await.status, UploadStatus::Open);
    slow.append(0, b"at las").await;
    site.until(&whole, "it is joined", |r| r.status == UploadStatus::Received).await;
}

#[tokio::test]
async fn what_is_never_joined_expires() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let lonely = replica.part(b"lonely").await;
    let (there, missing) = (
        replica.part(b"there").await,
        replica.opened(replica.post(&[("upload-concat", "partial"), ("upload-length", "5")])).await,
    );
    let whole = replica.opened(replica.post_final(&[&there, &missing])).await;
    let now_ms = nats::now_ms();
    site.run_keeper(now_ms + 1000).await;
    assert_eq!((lonely.offset().await, there.offset().await), (6, 5), "their time has not come");
    let later = now_ms + 25 * 3600 * 1000;
    // A part goes after the upload that waits for it.
    site.run_keeper(later).await;
    site.run_keeper(later).await;
    for upload in [&lonely, &there, &missing, &whole] {
        let record = site.record(upload).await;
        assert_eq!((record.status, record.freed), (UploadStatus::Expired, true), "{record:?}");
        assert!(!site.root.join(keys::source_key(upload.media_id.parse().unwrap())).exists());
    }
}

#[tokio::test]
async fn the_parts_of_a_file_count_once_and_what_declares_no_length_counts_for_all_that_is_left() {
    let mut site = Site::local().await;
    let each = OwnerQuota { daily_upload_bytes_max: Some(10), ..OwnerQuota::default() };
    let quotas = QuotaConfig { each, ..QuotaConfig::default() };
    let replica = site.replica(UploadConfig { quotas, ..UploadConfig::default() }).await;
    let parts = [replica.part(b"abcd").await, replica.part(b"efgh").await];
    replica.opened(replica.post_final(&[&parts[0], &parts[1]])).await;
    // 8 of 10 are used: what comes without a length is taken, and nothing beside it.
    let open = replica.post(&[("upload-defer-length", "1")]).send().await.unwrap();
    assert_eq!(open.status(), 201, "{}", open.text().await.unwrap());
    let refused = replica.post(&[("upload-length", "1")]).send().await.unwrap();
    assert_eq!(refused.headers()["retry-after"], "60", "it waits for the open one");
    assert_eq!(code(refused).await, (429, "quota_exceeded".to_owned()));
}

//! The medium of an upload: there with its creation, gone with an upload that ends early.

use schemas::{document::MediaDocumentRecord, media::MediaRemoved};

use super::*;
use crate::uploads::{fenced_record::FencedUploadRecord, medium};

async fn document(site: &Site, media_id: &str) -> Option<MediaDocumentRecord> {
    site.admin.load_with_tombstone::<MediaDocumentRecord>(media_id).await.unwrap().map(|held| held.record)
}

/// Who removed the medium, by the event that says so.
async fn removed_by(site: &Site, media_id: &str) -> Option<String> {
    let subject = format!("evt.media.removed.{media_id}");
    let stream = site.admin.context().get_stream_no_info(subjects::EVENTS).await.unwrap();
    let message = stream.get_last_raw_message_by_subject(&subject).await.ok()?;
    let removed: MediaRemoved = nats::decode_message(&subject, &message.payload).unwrap();
    Some(removed.removed_by)
}

#[tokio::test]
async fn a_medium_is_there_as_soon_as_its_upload_is() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    // title, description
    let metadata = "title QnkgdGhlIHNlYQ==,description YSBkYXkNCmF0IHRoZSBzZWE=";
    let upload = replica.opened(replica.post(&[("upload-length", "5"), ("upload-metadata", metadata)])).await;
    let made = document(&site, &upload.media_id).await.unwrap();
    assert_eq!(made.upload_id.map(|id| id.to_string()).as_deref(), Some(upload.id.as_str()));
    assert_eq!((made.owner.as_str(), made.title.as_str()), ("alice", "By the sea"));
    assert_eq!(made.description.as_deref(), Some("a day\nat the sea"));
    // What the owner says of it meanwhile stays.
    site.admin
        .change_record::<MediaDocumentRecord>(&upload.media_id, |found| {
            Some((MediaDocumentRecord { title: "By the lake".into(), ..found?.clone() }, Outbox::new()))
        })
        .await
        .unwrap();
    upload.append(0, b"hello").await;
    assert_eq!(site.record(&upload).await.status, UploadStatus::Received);
    assert_eq!(document(&site, &upload.media_id).await.unwrap().title, "By the lake");
    let part = replica.opened(replica.post(&[("upload-length", "5"), ("upload-concat", "partial")])).await;
    part.append(0, b"hello").await;
    assert_eq!(document(&site, &part.media_id).await, None, "a part is no medium");
    assert_eq!(part.request(Method::DELETE).send().await.unwrap().status(), 204);
    assert_eq!(document(&site, &part.media_id).await, None, "nor does it leave one");
}

#[tokio::test]
async fn an_upload_that_ends_early_takes_its_medium_with_it() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let [terminated, expired, lost] =
        [replica.create(9).await, replica.create(9).await, replica.create(9).await];
    for upload in [&terminated, &expired, &lost] {
        upload.append(0, b"hello").await;
        assert!(document(&site, &upload.media_id).await.unwrap().removed_at_ms.is_none());
    }
    assert_eq!(terminated.request(Method::DELETE).send().await.unwrap().status(), 204);
    std::fs::remove_file(site.spool(&lost)).unwrap();
    assert_eq!(lost.patch(5, b"!").send().await.unwrap().status(), 410);
    let keeper = site.broker.bus(Role::Keeper).await;
    let store = store::testing::open_test_store(site.store.clone()).unwrap();
    let later = nats::now_ms() + 25 * 3600 * 1000;
    super::super::expiry::run_expiry_pass(&keeper, &store, later, 60_000, 1).await.unwrap();
    for (upload, by) in [(&terminated, "alice"), (&lost, "alice"), (&expired, "keeper")] {
        let left = document(&site, &upload.media_id).await.unwrap();
        assert!(left.removed_at_ms.is_some() && left.title.is_empty(), "{left:?}");
        assert_eq!(removed_by(&site, &upload.media_id).await.as_deref(), Some(by));
        assert_eq!(upload.head().await.0, 410);
    }
}

#[tokio::test]
async fn the_upload_of_a_removed_medium_takes_no_byte_more() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.create(9).await;
    upload.append(0, b"hello").await;
    let removed = document(&site, &upload.media_id).await.unwrap().into_removed(1);
    for _ in 0..2 {
        crate::removal::end_media_work(&site.admin, &removed).await.unwrap();
        let (status, code) = code(upload.patch(5, b"!").send().await.unwrap()).await;
        assert_eq!((status, code.as_str()), (410, "media_removed"));
        assert_eq!(upload.head().await.0, 410);
    }
    assert_eq!(site.event::<UploadTerminated>(&upload).await.unwrap().code.as_deref(), Some("media_removed"));
}

#[tokio::test]
async fn what_a_crash_left_out_is_made_up_for() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    for is_completed in [true, false] {
        let upload = replica.create(5).await;
        // As if the process had ended behind the record of the upload.
        let stream = site.admin.context().get_stream("KV_media").await.unwrap();
        stream.purge().filter(subjects::kv_subject("media", &upload.media_id)).await.unwrap();
        assert_eq!(document(&site, &upload.media_id).await, None);
        if is_completed {
            upload.append(0, b"hello").await;
        } else {
            let mut ended =
                FencedUploadRecord::load_any(&site.admin, upload.id.parse().unwrap(), 1).await.unwrap();
            ended.mark_ended(UploadStatus::Terminated, None).await.unwrap();
            // Who is about to make it comes too late.
            assert!(!medium::create_document(&site.admin, ended.record()).await.unwrap());
        }
        let left = document(&site, &upload.media_id).await.unwrap();
        assert_eq!(left.removed_at_ms.is_none(), is_completed, "{left:?}");
    }
}

//! What a displaced writer may still write: nothing.

use store::SpoolCheckpoint;

use super::*;
use crate::uploads::{fenced_record::FencedUploadRecord, refusal::UploadRefusal};

async fn load(site: &Site, upload: &Upload) -> FencedUploadRecord {
    FencedUploadRecord::load_any(&site.admin, upload.id.parse().unwrap(), 1).await.unwrap()
}

fn durable(offset_bytes: u64) -> SpoolCheckpoint {
    SpoolCheckpoint { offset_bytes, multipart: None }
}

#[tokio::test]
async fn a_displaced_writer_changes_nothing_more() {
    let mut site = Site::local().await;
    let replica = site.replica(UploadConfig::default()).await;
    let upload = replica.create(10).await;
    let mut displaced = load(&site, &upload).await;
    displaced.claim_for_writer("first", Some(10), None).await.unwrap();
    let mut successor = load(&site, &upload).await;
    successor.claim_for_writer("second", Some(10), None).await.unwrap();
    successor.record_progress(&durable(5), 1).await.unwrap();
    let wanted = site.record(&upload).await;
    // The first write finds the record changed, each one after it a record that was read again.
    for _ in 0..2 {
        let refused = [
            displaced.record_progress(&durable(3), 2).await,
            displaced.release_writer(&durable(3), 2).await,
            displaced.mark_part_received().await,
            displaced.mark_received().await,
            displaced.mark_ended(UploadStatus::Deactivated, Some("store_damaged")).await,
            displaced.mark_expired().await,
            displaced.record_kept_until().await,
        ];
        for outcome in refused {
            assert!(matches!(outcome, Err(UploadRefusal::Displaced { offset_bytes: 5 })), "{outcome:?}");
        }
    }
    assert_eq!(site.record(&upload).await, wanted);
    successor.release_writer(&durable(7), 1).await.unwrap();
    assert_eq!(site.record(&upload).await.offset_bytes, 7);
}

#[tokio::test]
async fn a_session_that_finds_itself_displaced_leaves_the_record_to_its_successor() {
    for mut site in [Site::local().await, Site::remote().await] {
        let replica = site.replica(UploadConfig::default()).await;
        let bytes = pattern(48 * MIB);
        let upload = replica.create(bytes.len()).await;
        let mut stream = upload.hang(0, bytes.len(), &bytes[..MIB]).await;
        site.until(&upload, "a session has it", |record| record.holder.is_some()).await;
        // As of a replica that this one does not learn of: only the record says so.
        let mut successor = load(&site, &upload).await;
        successor.claim_for_writer("elsewhere", Some(48 * 1024 * 1024), None).await.unwrap();
        let wanted = site.record(&upload).await;
        // Enough for a checkpoint. The answer may come before all of it is taken.
        stream.write_all(&bytes[MIB..bytes.len() - 1]).await.ok();
        let answer = read_answer(stream).await;
        assert!(answer.starts_with("HTTP/1.1 409"), "{answer}");
        assert!(answer.contains("\"upload_displaced\""), "{answer}");
        assert_eq!(site.record(&upload).await, wanted);
    }
}

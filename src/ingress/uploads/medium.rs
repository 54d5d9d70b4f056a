//! The medium of an upload: there from the upload's creation on, and gone with an upload that ends before it is complete.
//!
//! Its document is written behind the record of the upload, so that there is none without an upload, and again with the
//! completion, for what a crash left out. An end of an upload is followed by the end of its medium; the keeper repeats that until
//! the upload is freed.

use gate::rule::compile_rule;
use nats::{Bus, BusError, Outbox, now_ms};
use schemas::{document::MediaDocumentRecord, gate::GateRule, media::MediaRemoved, upload::UploadRecord};

use crate::gates;

/// Makes the owner's document, once. False when the medium was removed meanwhile.
pub(super) async fn create_document(bus: &Bus, upload: &UploadRecord) -> Result<bool, BusError> {
    let key = upload.media_id.to_string();
    let made = bus.change_record::<MediaDocumentRecord>(&key, |found| {
        if found.is_some() {
            return None;
        }
        let record = new_document(upload);
        let public = upload.is_public.then(|| compile_rule(&GateRule::Public {}).ok()).flatten();
        let gated = public.and_then(|rule| gates::next_document(&record, Some(&rule), &upload.owner));
        Some(gated.unwrap_or_else(|| (record, Outbox::new())))
    });
    Ok(Box::pin(made).await?.is_some())
}

/// Removes the medium of an upload that ended without one, with its event, which names `removed_by`. What was removed already stays
/// as it is.
pub(super) async fn remove_document(
    bus: &Bus,
    upload: &UploadRecord,
    removed_by: &str,
) -> Result<(), BusError> {
    if upload.is_partial() {
        return Ok(());
    }
    let key = upload.media_id.to_string();
    let removed = bus.change_record::<MediaDocumentRecord>(&key, |found| {
        // Also where there is none yet: who is about to make it finds that its time is over.
        let owner = found.map_or(&upload.owner, |document| &document.owner).clone();
        let event = MediaRemoved {
            media_id: upload.media_id,
            owner: owner.clone(),
            removed_by: removed_by.to_owned(),
            // Its bytes never came.
            is_final: true,
        };
        let tombstone =
            MediaDocumentRecord { owner, ..found.cloned().unwrap_or_else(|| new_document(upload)) };
        Some((tombstone.into_removed(now_ms()), Outbox::new().with_event(&event)))
    });
    Box::pin(removed).await?;
    Ok(())
}

fn new_document(upload: &UploadRecord) -> MediaDocumentRecord {
    MediaDocumentRecord {
        upload_id: Some(upload.upload_id),
        title: upload.title.clone().or_else(|| upload.filename.clone()).unwrap_or_default(),
        description: upload.description.clone(),
        details: upload.details.clone(),
        mint_tx: upload.mint_tx,
        is_unlisted: upload.is_unlisted,
        changed_at_ms: now_ms(),
        ..MediaDocumentRecord::new(upload.media_id, upload.owner.clone(), upload.created_at_ms)
    }
}

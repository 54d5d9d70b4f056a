//! The subjects of everything that happened to a medium or a job.

use nats::Bus;
use packaging::plan;
use schemas::{
    document,
    ids::{JobId, MediaId, UploadId},
    job, media, subjects,
};

use super::filter::EventFilter;
use crate::{
    jobs::{self, fetch::fetch_job_id},
    media as documents,
};
use web::error::Problem;

/// Encodes of one medium whose jobs belong to its story.
const ENCODES_MAX: u32 = 64;

impl EventFilter {
    /// Subjects of everything that happened to the medium or job; 404 when it is not the follower's to see.
    pub(super) async fn history_subjects(&self, bus: &Bus) -> Result<Vec<String>, Problem> {
        let mut media_id = self.media_id;
        let mut jobs = Vec::new();
        if let Some(job_id) = self.job_id {
            let held = bus
                .load_record::<job::JobRecord>(&job_id.to_string())
                .await?
                .ok_or_else(jobs::no_such_job)?;
            if !self.who.may_see(&held.record.owner) {
                return Err(jobs::no_such_job());
            }
            media_id = media_id.or_else(|| held.record.media_id.if_any());
            jobs.push(job_id);
        }
        let mut filters: Vec<String> = media_id.map(subjects::media_event_filter).into_iter().collect();
        if let Some(media_id) = media_id
            && self.job_id.is_none()
        {
            let (encode, upload_id, verification) = self.load_medium(bus, media_id).await?;
            jobs.extend(verification);
            // A job that is about to be planned has the next number.
            jobs.extend(
                (1..=(encode + 1).min(ENCODES_MAX)).map(|number| plan::derive_job_id(media_id, number)),
            );
            filters.push(subjects::gate_change_filter(media_id));
            jobs.extend(upload_id.map(|upload_id| fetch_job_id(media_id, upload_id)));
            filters.extend(upload_id.map(subjects::upload_event_filter));
        }
        filters.extend(jobs.into_iter().map(subjects::job_event_filter));
        Ok(filters)
    }

    /// The number of the medium's encode, its upload, and the job that verified it last; 404 when there is no such medium, or it is not the follower's to see. A
    /// removed one has a story, too.
    pub(super) async fn load_medium(
        &self,
        bus: &Bus,
        media_id: MediaId,
    ) -> Result<(u32, Option<UploadId>, Option<JobId>), Problem> {
        let key = media_id.to_string();
        let (document, asset) = tokio::try_join!(
            bus.load_with_tombstone::<document::MediaDocumentRecord>(&key),
            bus.load_with_tombstone::<media::MediaRecord>(&key)
        )?;
        let owner = document.as_ref().map(|held| &held.record.owner);
        let owner = owner.or_else(|| asset.as_ref().map(|held| &held.record.owner));
        if !owner.is_some_and(|owner| self.who.may_see(owner)) {
            return Err(documents::no_such_medium());
        }
        let encode = asset.as_ref().and_then(|held| held.record.encode.as_ref());
        let verification = asset.as_ref().and_then(|held| held.record.verification);
        let number = encode.map_or(0, |encode| encode.number);
        Ok((number, document.and_then(|held| held.record.upload_id), verification))
    }
}

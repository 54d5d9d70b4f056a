//! Playing before everything is made: as soon as the first segment of every rung and of the first audio track is stored.

use nats::{Bus, Outbox};
use packaging::{plan, playlist};
use schemas::{
    job::{self, Part, Plan},
    media::{self, Encode, Playable, Status},
    subjects,
};

use crate::error::Error;

/// Whether the first segments of `part` are among those that playing begins with.
pub(crate) fn concerns(plan: &Plan, part: &str) -> bool {
    first_parts(plan).iter().any(|first| first == part)
}

/// Names of the parts that playing begins with.
fn first_parts(plan: &Plan) -> Vec<String> {
    let video = plan.video.as_ref().map(|_| plan::video_part(0));
    let audio = plan.audio.first().map(|audio| audio.name.clone());
    video.into_iter().chain(audio).collect()
}

/// Marks the medium as playable when all first segments are there; whoever stores the last of them comes here last.
pub(crate) async fn announce(bus: &Bus, job: &job::Record) -> Result<(), Error> {
    let mut parts = Vec::new();
    for name in first_parts(&job.plan) {
        if let Some(held) = bus.load::<Part>(&subjects::part_key(job.job_id, &name)).await? {
            parts.push(held.record);
        }
    }
    if playlist::growing(&job.plan, &parts).is_none() {
        return Ok(());
    }
    bus.change::<media::Record>(&job.media_id.to_string(), |found| {
        let found = found?;
        // An encode that plays is not replaced by one that has just begun.
        if !matches!(found.status, Status::Stored | Status::Failed) {
            return None;
        }
        let mut record = found.clone();
        record.status = Status::Playable;
        (record.code, record.detail) = (None, None);
        record.changed_at_ms = nats::now_ms();
        record.encode = Some(Encode {
            number: job.encode,
            job_id: job.job_id,
            prefix: job.prefix.clone(),
            duration_ms: job.plan.duration_ms,
            renditions: Vec::new(),
            has_poster: false,
        });
        let event = Playable {
            media_id: job.media_id,
            owner: job.owner.clone(),
            job_id: job.job_id,
            encode: job.encode,
        };
        Some((record, Outbox::new().event(&event)))
    })
    .await?;
    tracing::info!(media.id = %job.media_id, job.id = %job.job_id, "playable");
    Ok(())
}

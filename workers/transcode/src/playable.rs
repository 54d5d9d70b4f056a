//! Playing before everything is made: as soon as the first segments of every rung and of the first audio track are stored.

use nats::{Bus, Outbox};
use packaging::{plan, playlist};
use schemas::{
    job::{self, EncodePlan, JobPartRecord},
    media::{self, MediaEncode, MediaPlayable, MediaStatus},
    subjects,
};

use crate::error::TranscodeError;

/// Whether the first segments of `part` are among those that playing begins with.
pub(crate) fn is_first_part(plan: &EncodePlan, part: &str) -> bool {
    first_parts(plan).iter().any(|first| first == part)
}

/// Names of the parts that playing begins with.
fn first_parts(plan: &EncodePlan) -> Vec<String> {
    let ranges = plan.video.iter().flat_map(|video| &video.ranges).enumerate();
    let video = ranges.filter(|(_, range)| range.first_segment <= plan::GROWING_SEGMENTS_MIN);
    let audio = plan.audio.first().map(|audio| audio.name.clone());
    video.map(|(index, _)| plan::video_part_name(index)).chain(audio).collect()
}

/// Marks the medium as playable when all first segments are there; the worker that stores the last of them comes here last.
pub(crate) async fn mark_playable(bus: &Bus, job: &job::JobRecord) -> Result<(), TranscodeError> {
    let mut parts = Vec::new();
    for name in first_parts(&job.plan) {
        if let Some(held) = bus.load_record::<JobPartRecord>(&subjects::part_key(job.job_id, &name)).await? {
            parts.push(held.record);
        }
    }
    if playlist::render_growing_multivariant(&job.plan, &parts).is_none() {
        return Ok(());
    }
    let mut is_new = false;
    bus.change_record::<media::MediaRecord>(&job.media_id.to_string(), |found| {
        let found = found?;
        // An encode that plays is not replaced by one that has just begun.
        if found.status != MediaStatus::Stored || found.attempt.encode > job.encode {
            return None;
        }
        is_new = true;
        let mut record = found.clone();
        record.status = MediaStatus::Playable;
        (record.code, record.detail) = (None, None);
        record.changed_at_ms = nats::now_ms();
        record.encode = Some(MediaEncode {
            number: job.encode,
            job_id: job.job_id,
            prefix: job.prefix.clone(),
            duration_ms: job.plan.duration_ms,
            renditions: Vec::new(),
            subtitles: Vec::new(),
            has_poster: false,
            has_storyboard: false,
            has_checksums: false,
            warnings: Vec::new(),
        });
        let event = MediaPlayable {
            media_id: job.media_id,
            owner: job.owner.clone(),
            job_id: job.job_id,
            encode: job.encode,
        };
        Some((record, Outbox::new().with_event(&event)))
    })
    .await?;
    if is_new {
        tracing::info!(media.id = %job.media_id, job.id = %job.job_id, "playable");
    }
    Ok(())
}

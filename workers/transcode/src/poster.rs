//! Takes the picture that stands for a medium before it plays.

use std::sync::Arc;

use media::{MediaRetryDecision, MediaTaskError, MediaTaskOutput};
use packaging::{ChecksumList, plan};
use schemas::{
    job::{self, PosterPlan},
    keys,
};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use crate::{TranscodeContext, error::TranscodeError, source::StoredMediaSource, spec};

/// Where a poster is from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PosterOrigin {
    /// There is none.
    None,
    /// A frame of the film, or a still picture.
    Frame,
    /// The cover that the source brings.
    Cover,
}

/// Takes the poster: a frame where the cover can't be decoded. A moving medium does without one when none can be taken; a still image
/// is nothing else.
pub(crate) async fn make_poster(
    context: &TranscodeContext,
    job: &job::JobRecord,
    checksums: &mut ChecksumList,
    stop: &CancellationToken,
) -> Result<PosterOrigin, TranscodeError> {
    let Some(wanted) = &job.plan.poster else { return Ok(PosterOrigin::None) };
    context.store.head(&job.plan.source_key).await?;
    let is_still = job.plan.video.is_none() && job.plan.audio.is_empty();
    let fault = match take_picture(context, job, wanted, checksums, stop).await? {
        Ok(()) if wanted.is_cover => return Ok(PosterOrigin::Cover),
        Ok(()) => return Ok(PosterOrigin::Frame),
        Err(fault) => fault,
    };
    // A cover is no reason to try again: what it does to the child it does every time.
    let is_retried = fault.retry_decision() == MediaRetryDecision::Retry && !wanted.is_cover;
    if is_still || is_retried {
        return Err(fault.into());
    }
    tracing::warn!(%fault, media.id = %job.media_id, is_cover = wanted.is_cover, "no poster could be taken");
    let frame = plan::plan_frame_poster(&job.plan).filter(|_| wanted.is_cover);
    let Some(frame) = frame else { return Ok(PosterOrigin::None) };
    match take_picture(context, job, &frame, checksums, stop).await? {
        Ok(()) => Ok(PosterOrigin::Frame),
        Err(fault) if fault.retry_decision() == MediaRetryDecision::Retry => Err(fault.into()),
        Err(_) => Ok(PosterOrigin::None),
    }
}

/// Takes and stores a picture; the inner error is the child's. A source that is away, or a process that has to stop, ends the finish.
async fn take_picture(
    context: &TranscodeContext,
    job: &job::JobRecord,
    wanted: &PosterPlan,
    checksums: &mut ChecksumList,
    stop: &CancellationToken,
) -> Result<Result<(), MediaTaskError>, TranscodeError> {
    let source =
        StoredMediaSource::new(context.store.clone(), job.plan.source_key.clone(), job.plan.source_bytes);
    let (sender, mut outputs) = mpsc::channel(2);
    let spec = spec::build_poster_spec(&job.plan, wanted);
    let taken = context.driver.extract_stills(Arc::new(source), spec, sender, stop);
    let collected = async {
        let mut picture = None;
        while let Some(output) = outputs.recv().await {
            if let MediaTaskOutput::Image { bytes, .. } = output {
                picture = picture.or(Some(bytes));
            }
        }
        picture
    };
    match tokio::join!(taken, collected) {
        (Ok(_), Some(bytes)) => {
            checksums.insert(keys::POSTER, context.put_object(&job.prefix, keys::POSTER, bytes).await?);
            Ok(Ok(()))
        }
        (Ok(_), None) => Err(TranscodeError::Unplanned("no picture".into())),
        (Err(fault @ MediaTaskError::Cancelled), _) => Err(fault.into()),
        (Err(fault), _) => {
            let is_away = matches!(
                fault,
                MediaTaskError::Source(_) | MediaTaskError::Sandbox(_) | MediaTaskError::Spawn { .. }
            );
            if is_away { Err(fault.into()) } else { Ok(Err(fault)) }
        }
    }
}

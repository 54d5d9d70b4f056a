//! Parts as metrics: tries by work and outcome, what was made, what it cost.

use std::time::Instant;

use media::MediaTaskReport;
use nats::{
    StageOutcome,
    metrics::{
        labels::{PartOutcome, PartWorkKind},
        table::{
            TRANSCODE_CPU_SECONDS, TRANSCODE_FAULTS, TRANSCODE_FRAMES, TRANSCODE_MEDIA_SECONDS,
            TRANSCODE_PART_SECONDS, TRANSCODE_PARTS,
        },
    },
};
use packaging::plan::PartWork;

use crate::{error::TranscodeError, part::to_thousandths};

pub(crate) const fn work_kind(work: PartWork<'_>) -> PartWorkKind {
    match work {
        PartWork::Video { .. } => PartWorkKind::Video,
        PartWork::Audio(_) => PartWorkKind::Audio,
        PartWork::Subtitles(_) => PartWorkKind::Subtitles,
        PartWork::Finish => PartWorkKind::Finish,
    }
}

/// Counts a try at a part, made where it ended without an outcome of its own.
pub(crate) fn count_try(
    work: PartWork<'_>,
    began: Instant,
    ended: &Result<Option<StageOutcome>, TranscodeError>,
) {
    let kind = work_kind(work);
    let outcome = match ended {
        Ok(None) => PartOutcome::Made,
        Ok(Some(StageOutcome::Done)) if kind == PartWorkKind::Finish => PartOutcome::Made,
        Ok(Some(StageOutcome::Done)) => PartOutcome::JobOver,
        Ok(Some(StageOutcome::Later { .. } | StageOutcome::Lost)) => PartOutcome::Stopped,
        Err(error) => {
            TRANSCODE_FAULTS.increment(&[error.code()]);
            PartOutcome::Failed
        }
    };
    TRANSCODE_PARTS.increment((kind, outcome));
    TRANSCODE_PART_SECONDS.observe_since(kind, began);
}

/// Counts what a part has become.
pub(crate) fn count_made(work: PartWork<'_>, output_ms: u64, report: &MediaTaskReport) {
    let kind = work_kind(work);
    TRANSCODE_MEDIA_SECONDS.add_ms(kind, output_ms);
    TRANSCODE_CPU_SECONDS.add_ms((), to_thousandths(report.cpu_seconds));
    if kind == PartWorkKind::Video {
        TRANSCODE_FRAMES.add((), report.frames_written);
    }
}

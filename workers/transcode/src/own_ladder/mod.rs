//! Plans an encode whose renditions were made elsewhere: judges the files, and says how their samples are put together.
//!
//! The files are judged together, since players change between renditions in the middle of a film: one frame rate, one length, one set of
//! colours, and keyframes at the same places, of which some have regular distances. What is refused names the file and what to do.
//!
//! Limits: [`schemas::renditions::RENDITION_FILES_MAX`] files; segments of 1 to 10 seconds.

mod files;
mod keyframes;
mod pictures;
mod sound;

use std::sync::Arc;

use media::{MediaStreamKind, MediaSurvey, MediaTaskError};
use packaging::{
    copied::{self, CopiedRung, CopiedTracks},
    plan::EncodePlanInput,
};
use schemas::{
    job::EncodePlan,
    media::{MediaWarning, warning_codes},
    renditions::{FrameCopy, RenditionFile, SoundCopy},
};
use tokio_util::sync::CancellationToken;

use crate::{TranscodeContext, copies, error::TranscodeError, source::StoredMediaSource};
pub use files::RenditionFault;
use files::{Pictures, SurveyedFile, to_rational};
use keyframes::choose_segment;
use pictures::{check_pair, find_pictures};
use sound::find_sound;

/// Looks at the files, and plans how they are put together.
///
/// # Errors
/// [`TranscodeError::Renditions`] when they do not go together; those of store and media child.
pub(crate) async fn plan_own_ladder(
    context: &TranscodeContext,
    input: &EncodePlanInput<'_>,
    files: &[RenditionFile],
) -> Result<EncodePlan, TranscodeError> {
    let mut surveys = Vec::with_capacity(files.len());
    for file in files {
        // One that is not there is the store's answer here, instead of a failure of the child.
        copies::check_file(context, file).await?;
        let source = StoredMediaSource::new(context.store.clone(), file.key.clone(), file.size_bytes);
        match context.driver.survey(Arc::new(source), &CancellationToken::new()).await {
            Ok(survey) => surveys.push(survey),
            Err(error @ MediaTaskError::Rejected { .. }) => {
                let detail = format!("{}: {error}", file.name);
                return Err(RenditionFault { code: "rendition_unreadable", detail }.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
    plan_copies(input, files, &surveys)
}

/// Plans an encode of files in which `surveys` were found. Pure.
pub(crate) fn plan_copies(
    input: &EncodePlanInput<'_>,
    files: &[RenditionFile],
    surveys: &[MediaSurvey],
) -> Result<EncodePlan, TranscodeError> {
    let surveyed: Vec<SurveyedFile<'_>> = files
        .iter()
        .zip(surveys)
        .zip(0_u32..)
        .map(|((file, survey), place)| SurveyedFile { place, file, survey })
        .collect();
    let mut pictures = Vec::new();
    for of in &surveyed {
        pictures.extend(find_pictures(*of)?);
    }
    pictures.sort_by_key(|found| {
        let pixels = u64::from(found.video.width) * u64::from(found.video.height);
        std::cmp::Reverse((pixels, found.stream.bit_rate_bits_per_second))
    });
    let Some(top) = pictures.first().copied() else {
        return Err(RenditionFault {
            code: "renditions_no_video",
            detail: "none of the files has a video track".into(),
        }
        .into());
    };
    for other in pictures.iter().skip(1) {
        check_pair(&top, other)?;
    }
    let target_ms = u64::from(input.profile.gop_ms) * u64::from(input.profile.segment_gops);
    let (segment_frames, gop_frames) = choose_segment(&pictures, target_ms)?;
    let sound = find_sound(&surveyed, &top)?;
    let copied = CopiedTracks {
        files: files.to_vec(),
        frame_rate: to_rational(top.frames.frame_rate),
        frame_count: top.frames.frame_count,
        segment_frames,
        gop_frames,
        rungs: pictures.iter().map(to_rung).collect(),
        warnings: list_dropped(&surveyed, sound.as_ref().map(|sound| sound.copy)),
        sound,
    };
    Ok(copied::plan_copied(input, copied)?)
}

/// Tracks that nobody plays: subtitles, data, attachments and covers of the files, and further sound of the file of which the first is taken.
/// Of that of the others it is known that one of them is taken.
fn list_dropped(surveyed: &[SurveyedFile<'_>], taken: Option<SoundCopy>) -> Vec<MediaWarning> {
    let mut dropped = Vec::new();
    for of in surveyed {
        for stream in &of.survey.probe.streams {
            let is_taken = |sound: SoundCopy| sound.file != of.place || sound.stream_index == stream.index;
            let code = match stream.kind {
                MediaStreamKind::Audio if !taken.is_none_or(is_taken) => warning_codes::AUDIO_TRACK_DROPPED,
                MediaStreamKind::Subtitle => warning_codes::SUBTITLE_TRACK_DROPPED,
                MediaStreamKind::Attachment => warning_codes::DATA_TRACK_DROPPED,
                MediaStreamKind::Other if stream.packet_count > 0 => warning_codes::DATA_TRACK_DROPPED,
                MediaStreamKind::Video if stream.is_attached_picture => warning_codes::COVER_DROPPED,
                _ => continue,
            };
            let detail = format!("{}: track {}: {}", of.file.name, stream.index, stream.codec);
            dropped.push(MediaWarning { code: code.to_owned(), detail });
        }
    }
    dropped
}

fn to_rung(found: &Pictures<'_>) -> CopiedRung {
    CopiedRung {
        copy: FrameCopy {
            file: found.of.place,
            stream_index: found.frames.stream,
            first_ticks: found.frames.first_ticks,
            first_us: found.stream.start_us.unwrap_or(0),
            delay_frames: found.frames.delay_frames,
        },
        size: found.size(),
        bit_rate_bps: found.stream.bit_rate_bits_per_second,
        level: found.stream.level.and_then(|level| u32::try_from(level).ok()).unwrap_or(0),
    }
}

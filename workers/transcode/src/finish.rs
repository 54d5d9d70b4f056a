//! The finisher: puts the parts together, checks the whole, and publishes it.
//!
//! Order of effects: poster, playlists and manifest, check, report, multivariant playlist, medium, job. A crash anywhere
//! repeats it with the same bytes under the same keys.

use nats::spans;
use packaging::{
    ChecksumList,
    presentation::{Presentation, PresentationRendition},
};
use queue_worker::PartClaim;
use schemas::{
    job::{self, JobPartRecord, JobPartStatus},
    keys,
    media::{self as records, MediaEncode, MediaWarning, warning_codes},
    subjects,
};
use tokio_util::sync::CancellationToken;

use crate::{
    TranscodeContext,
    check::{self, FindingSeverity},
    description::EncodeDescription,
    error::TranscodeError,
    job_result,
    poster::{self, PosterOrigin},
    report,
};

/// Sound that is quieter than wanted by no more than this has the wanted loudness, in thousandths of a LU (EBU R 128: half a LU).
const MISSED_MLU: u32 = 500;

/// Findings named in the reason of a failed job.
const FINDINGS_NAMED_MAX: usize = 3;

/// Finishes a job whose parts are over.
pub(crate) async fn finish_job(
    context: &TranscodeContext,
    job: &job::JobRecord,
    claim: &PartClaim,
    stop: &CancellationToken,
) -> Result<(), TranscodeError> {
    let parts = load_parts(context, job).await?;
    if let Some(failed) = parts.iter().find(|part| part.status == JobPartStatus::Failed) {
        let code = failed.code.clone().unwrap_or_else(|| job::PART_FAILED.to_owned());
        let detail = failed.detail.clone().unwrap_or_default();
        return job_result::fail_job(&context.bus, job, &code, &detail, context.config.ended_kept_ms).await;
    }
    let mut presentation = Presentation::assemble(&job.plan, &parts)?;
    let mut checksums = ChecksumList::default();
    let poster = poster::make_poster(context, job, &mut checksums, stop).await?;
    let described = EncodeDescription::describe_encode(context, job, &mut presentation).await?;
    let asset = context
        .bus
        .load_record::<records::MediaRecord>(&job.media_id.to_string())
        .await?
        .map(|held| held.record);
    let report = report::render_report(&report::TranscodeReportInput {
        job,
        presentation: &presentation,
        findings: &described.findings,
        technical: asset.as_ref().and_then(|a| a.technical.as_ref()),
        versions: &context.driver.self_check().versions,
    });
    // Before the findings are judged: the report of an encode that does not conform says why.
    checksums.insert(keys::REPORT, context.put_object(&job.prefix, keys::REPORT, report).await?);
    reject_errors(&described.findings)?;
    for (path, text) in described.files {
        let sha256 = context.put_object(&job.prefix, &path, text).await?;
        checksums.insert(path, sha256);
    }
    context.put_object(&job.prefix, &keys::checksums_path(job::FINISH), checksums.render()).await?;
    // Fenced once more: measuring takes long, and another worker may have finished the job meanwhile.
    if !claim.write_change(|_| {}).await? {
        return Ok(());
    }
    if queue_worker::is_job_inactive(&context.bus, job).await? {
        return Ok(claim.release_ended().await?);
    }
    let (listed, target) = (&described.plan, presentation.target_seconds());
    let made = MediaEncode {
        number: job.encode,
        job_id: job.job_id,
        prefix: job.prefix.clone(),
        duration_ms: job.plan.duration_ms,
        renditions: presentation.renditions().map(|r| r.summary(target)).collect(),
        subtitles: presentation
            .subtitles
            .iter()
            .filter_map(PresentationRendition::subtitle_summary)
            .collect(),
        has_poster: poster != PosterOrigin::None,
        has_storyboard: described.has_storyboard,
        // A part that was kept of an older version has none.
        has_checksums: parts.iter().all(|part| part.has_checksums),
        warnings: job
            .plan
            .warnings
            .iter()
            .cloned()
            .chain(empty_subtitles(&job.plan, listed))
            .chain(unused_cover(&job.plan, poster))
            .chain(quiet_sound(&job.plan, &parts))
            .collect(),
    };
    let cpu_ms = parts.iter().map(|part| part.cpu_ms).sum();
    if !job_result::complete_job(&context.bus, job, &made, cpu_ms, context.config.ended_kept_ms).await? {
        return Ok(claim.release_ended().await?);
    }
    claim.write_change(|part| part.status = JobPartStatus::Done).await?;
    tracing::info!(media.id = %job.media_id, job.id = %job.job_id, "ready");
    Ok(())
}

/// The subtitle tracks of the plan that are not among the `listed` ones.
fn empty_subtitles(plan: &job::EncodePlan, listed: &job::EncodePlan) -> Vec<MediaWarning> {
    let is_listed =
        |planned: &&job::SubtitlePlan| listed.subtitles.iter().any(|kept| kept.name == planned.name);
    let empty = plan.subtitles.iter().filter(|planned| !is_listed(planned));
    let to_warning = |planned: &job::SubtitlePlan| MediaWarning {
        code: warning_codes::SUBTITLE_TRACK_EMPTY.to_owned(),
        detail: format!("track {}: {}", planned.stream_index, planned.label),
    };
    empty.map(to_warning).collect()
}

/// A cover that could not be made the poster.
fn unused_cover(plan: &job::EncodePlan, origin: PosterOrigin) -> Option<MediaWarning> {
    let cover = plan.poster.as_ref().filter(|poster| poster.is_cover && origin != PosterOrigin::Cover)?;
    Some(MediaWarning {
        code: warning_codes::COVER_DROPPED.to_owned(),
        detail: format!("track {}: it could not be decoded", cover.stream_index),
    })
}

/// The audio tracks that did not become as loud as was planned.
fn quiet_sound(plan: &job::EncodePlan, parts: &[JobPartRecord]) -> Vec<MediaWarning> {
    let quiet = plan.audio.iter().filter_map(|planned| {
        let wanted_lufs = planned.loudness_lufs?;
        let part = parts.iter().find(|part| part.part == planned.name)?;
        (part.loudness_missing_mlu > MISSED_MLU).then(|| MediaWarning {
            code: warning_codes::LOUDNESS_MISSED.to_owned(),
            detail: format!(
                "track {}: {}.{} LU quieter than {wanted_lufs} LUFS",
                planned.stream_index,
                part.loudness_missing_mlu / 1_000,
                part.loudness_missing_mlu % 1_000 / 100
            ),
        })
    });
    quiet.collect()
}

async fn load_parts(
    context: &TranscodeContext,
    job: &job::JobRecord,
) -> Result<Vec<JobPartRecord>, TranscodeError> {
    let mut parts = Vec::with_capacity(job.parts.len());
    for name in &job.parts {
        if let Some(held) =
            context.bus.load_record::<JobPartRecord>(&subjects::part_key(job.job_id, name)).await?
        {
            // A finish comes of all parts, and is a part of the work of the last one alone.
            spans::link_current_to(held.trace());
            parts.push(held.record);
        }
    }
    Ok(parts)
}

fn reject_errors(findings: &[check::ConformanceFinding]) -> Result<(), TranscodeError> {
    let errors: Vec<String> = findings
        .iter()
        .filter(|finding| finding.severity == FindingSeverity::Error)
        .take(FINDINGS_NAMED_MAX)
        .map(|finding| format!("{:?} {}", finding.rule, finding.detail))
        .collect();
    if errors.is_empty() { Ok(()) } else { Err(TranscodeError::Nonconforming(errors.join("; "))) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sound_that_is_quieter_than_its_profile_wants_is_named() {
        let (mut plan, mut parts) = packaging::testing::build_example();
        let planned = &mut plan.audio[0];
        (planned.loudness_lufs, planned.stream_index) = (Some(-16), 4);
        let name = planned.name.clone();
        let mut warnings = |missing_mlu| {
            let part = parts.iter_mut().find(|part| part.part == name).unwrap();
            part.loudness_missing_mlu = missing_mlu;
            quiet_sound(&plan, &parts)
        };
        assert_eq!(warnings(500), []);
        let quiet = warnings(9_870);
        let quiet: Vec<(&str, &str)> = quiet.iter().map(|quiet| (&*quiet.code, &*quiet.detail)).collect();
        assert_eq!(quiet, [("loudness_missed", "track 4: 9.8 LU quieter than -16 LUFS")]);
    }
}

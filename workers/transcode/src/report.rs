//! `report.json`: what was found, decided and made, for people and tools. The same encode gives the same bytes: how often it was tried
//! and what it took stand in the records of its job.

use packaging::presentation::Presentation;
use schemas::{job, media::TechnicalMetadata};
use serde::Serialize;

use crate::check::{ConformanceFinding, FindingSeverity};

/// What the report is made of.
pub(crate) struct TranscodeReportInput<'a> {
    pub(crate) job: &'a job::JobRecord,
    pub(crate) presentation: &'a Presentation,
    pub(crate) findings: &'a [ConformanceFinding],
    pub(crate) technical: Option<&'a TechnicalMetadata>,
    pub(crate) versions: &'a media::FfmpegVersions,
}

#[derive(Serialize)]
struct TranscodeReport<'a> {
    encode: u32,
    options_version: &'a str,
    profile: &'a str,
    probe: Option<&'a TechnicalMetadata>,
    reasons: &'a [String],
    duration_ms: u64,
    video: Option<&'a job::VideoPlan>,
    audio: &'a [job::AudioPlan],
    subtitles: &'a [job::SubtitlePlan],
    renditions: Vec<schemas::media::EncodedRendition>,
    findings: Vec<FindingReport<'a>>,
    versions: &'a media::FfmpegVersions,
}

#[derive(Serialize)]
struct FindingReport<'a> {
    rule: String,
    is_error: bool,
    detail: &'a str,
}

/// Renders the report as JSON.
pub(crate) fn render_report(input: &TranscodeReportInput<'_>) -> String {
    let TranscodeReportInput { job, presentation, findings, technical, versions } = *input;
    let report = TranscodeReport {
        encode: job.encode,
        options_version: &job.plan.options_version,
        profile: &job.plan.profile,
        probe: technical,
        reasons: &job.plan.reasons,
        duration_ms: job.plan.duration_ms,
        video: job.plan.video.as_ref(),
        audio: &job.plan.audio,
        subtitles: &job.plan.subtitles,
        renditions: presentation.renditions().map(|r| r.summary(presentation.target_seconds())).collect(),
        findings: findings
            .iter()
            .map(|finding| FindingReport {
                rule: format!("{:?}", finding.rule),
                is_error: finding.severity == FindingSeverity::Error,
                detail: &finding.detail,
            })
            .collect(),
        versions,
    };
    serde_json::to_string_pretty(&report).unwrap_or_default()
}

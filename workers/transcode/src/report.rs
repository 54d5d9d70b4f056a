//! `report.json`: what was found, decided, made and measured, for people and tools.

use packaging::presentation::Presentation;
use schemas::{
    job::{self, JobPartRecord},
    media::TechnicalMetadata,
};
use serde::Serialize;

use crate::check::{ConformanceFinding, FindingSeverity};

/// What the report is made of.
pub(crate) struct TranscodeReportInput<'a> {
    pub(crate) job: &'a job::JobRecord,
    pub(crate) parts: &'a [JobPartRecord],
    pub(crate) presentation: &'a Presentation,
    pub(crate) findings: &'a [ConformanceFinding],
    pub(crate) technical: Option<&'a TechnicalMetadata>,
    pub(crate) versions: &'a media::FfmpegVersions,
}

#[derive(Serialize)]
struct TranscodeReport<'a> {
    media_id: String,
    job_id: String,
    encode: u32,
    options_digest: &'a str,
    profile: &'a str,
    probe: Option<&'a TechnicalMetadata>,
    reasons: &'a [String],
    duration_ms: u64,
    video: Option<&'a job::VideoPlan>,
    audio: &'a [job::AudioPlan],
    renditions: Vec<schemas::media::EncodedRendition>,
    parts: Vec<PartReport<'a>>,
    findings: Vec<FindingReport<'a>>,
    timings: TranscodeTimings,
    versions: &'a media::FfmpegVersions,
}

#[derive(Serialize)]
struct PartReport<'a> {
    part: &'a str,
    attempts: u32,
    crashes: u32,
    cpu_ms: u64,
    wall_ms: u64,
    rss_bytes_max: u64,
}

#[derive(Serialize)]
struct FindingReport<'a> {
    rule: String,
    is_error: bool,
    detail: &'a str,
}

#[derive(Serialize)]
struct TranscodeTimings {
    planned_at_ms: u64,
    finished_at_ms: u64,
    wall_ms: u64,
    cpu_ms: u64,
    cpu_seconds_per_output_minute: f64,
}

/// Renders the report as JSON.
pub(crate) fn render_report(input: &TranscodeReportInput<'_>) -> String {
    let TranscodeReportInput { job, parts, presentation, findings, technical, versions } = *input;
    let now_ms = nats::now_ms();
    let cpu_ms: u64 = parts.iter().map(|part| part.cpu_ms).sum();
    let minutes = job.plan.duration_ms as f64 / 60_000.0;
    let report = TranscodeReport {
        media_id: job.media_id.to_string(),
        job_id: job.job_id.to_string(),
        encode: job.encode,
        options_digest: &job.plan.options_digest,
        profile: &job.plan.profile,
        probe: technical,
        reasons: &job.plan.reasons,
        duration_ms: job.plan.duration_ms,
        video: job.plan.video.as_ref(),
        audio: &job.plan.audio,
        renditions: presentation.renditions().map(|r| r.summary(presentation.target_seconds())).collect(),
        parts: parts
            .iter()
            .map(|part| PartReport {
                part: &part.part,
                attempts: part.attempt,
                crashes: part.crashes,
                cpu_ms: part.cpu_ms,
                wall_ms: part.wall_ms,
                rss_bytes_max: part.rss_bytes_max,
            })
            .collect(),
        findings: findings
            .iter()
            .map(|finding| FindingReport {
                rule: format!("{:?}", finding.rule),
                is_error: finding.severity == FindingSeverity::Error,
                detail: &finding.detail,
            })
            .collect(),
        timings: TranscodeTimings {
            planned_at_ms: job.created_at_ms,
            finished_at_ms: now_ms,
            wall_ms: now_ms.saturating_sub(job.created_at_ms),
            cpu_ms,
            cpu_seconds_per_output_minute: if minutes > 0.0 {
                cpu_ms as f64 / 1_000.0 / minutes
            } else {
                0.0
            },
        },
        versions,
    };
    serde_json::to_string_pretty(&report).unwrap_or_default()
}

//! The conformance check: reads playlists, manifest and stored objects back and compares them with each other and with
//! the plan. A finding that is an error fails the job.
//!
//! Rules are numbered: A1 to A14 follow Apple's HLS Authoring Specification and RFC 8216, B17 and B18 MPEG-DASH and CMAF, S1
//! is about storyboards. Not checked, because not made here: encryption.
//!
//! Limits: at most [`FINDINGS_MAX`] findings are kept.

mod context;
pub mod dash;
pub mod hls;
mod iframes;
pub mod measure;
mod rules;
mod storyboard;
mod subtitles;
pub mod webvtt;

use std::collections::BTreeMap;

use schemas::job::EncodePlan;

pub use iframes::measure_iframes;
pub use measure::{
    MeasureError, MeasuredRendition, MeasuredSegment, measure_presentation, measure_subtitles,
};
pub use storyboard::check_storyboard;
pub use webvtt::MeasuredSubtitles;

/// Most findings that are kept.
pub const FINDINGS_MAX: usize = 100;

/// Numbers of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum ConformanceRule {
    /// Attributes of the variants.
    A1,
    /// Declared bandwidths equal measured ones.
    A2,
    /// Codec strings equal the init segments.
    A3,
    /// Resolution, frame rate, aspect and level.
    A4,
    /// Order and steps of the variants.
    A5,
    /// H.264 in standard dynamic range is there.
    A6,
    /// Playlists of pictures that stand alone.
    A7,
    /// Form of the media playlists.
    A8,
    /// EXTINF sums follow the media.
    A9,
    /// Segments begin with an IDR picture, and IDR pictures are where they should be.
    A10,
    /// Segments cover the same time in all rungs.
    A11,
    /// Decode times are continuous; one init segment.
    A12,
    /// Audio renditions.
    A13,
    /// Subtitles.
    A14,
    /// The manifest.
    B17,
    /// CMAF brands and structure.
    B18,
    /// Sheets of the storyboard.
    S1,
}

/// Whether a finding fails the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FindingSeverity {
    /// The encode must not be published.
    Error,
    /// Worth knowing.
    Warning,
}

/// Something the check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConformanceFinding {
    /// Which rule.
    pub rule: ConformanceRule,
    /// Whether it fails the job.
    pub severity: FindingSeverity,
    /// What exactly.
    pub detail: String,
}

/// What the check looks at.
#[derive(Debug, Clone, Copy)]
pub struct ConformanceInput<'a> {
    /// What was planned.
    pub plan: &'a EncodePlan,
    /// The multivariant playlist.
    pub multivariant: &'a str,
    /// The media playlist of each rendition.
    pub playlists: &'a BTreeMap<String, String>,
    /// The I-frame playlist of each video rendition.
    pub iframes: &'a BTreeMap<String, String>,
    /// The MPEG-DASH manifest.
    pub manifest: &'a str,
    /// What the store holds of each rendition.
    pub measured: &'a BTreeMap<String, MeasuredRendition>,
    /// What the store holds of each subtitle rendition.
    pub subtitles: &'a BTreeMap<String, MeasuredSubtitles>,
}

/// Checks an encode. Without an error among the findings it may be published.
pub fn check_conformance(evidence: &ConformanceInput<'_>) -> Vec<ConformanceFinding> {
    let mut findings = ConformanceFindings::default();
    rules::check_rules(evidence, &mut findings);
    findings.list
}

/// True when nothing found fails the job.
pub fn has_no_errors(findings: &[ConformanceFinding]) -> bool {
    findings.iter().all(|finding| finding.severity == FindingSeverity::Warning)
}

#[derive(Default)]
struct ConformanceFindings {
    list: Vec<ConformanceFinding>,
}

impl ConformanceFindings {
    fn add_error(&mut self, rule: ConformanceRule, detail: impl Into<String>) {
        self.add_finding(rule, FindingSeverity::Error, detail.into());
    }

    fn add_warning(&mut self, rule: ConformanceRule, detail: impl Into<String>) {
        self.add_finding(rule, FindingSeverity::Warning, detail.into());
    }

    /// An error unless `holds`.
    fn require_rule(&mut self, holds: bool, rule: ConformanceRule, detail: impl FnOnce() -> String) {
        if !holds {
            self.add_error(rule, detail());
        }
    }

    fn add_finding(&mut self, rule: ConformanceRule, severity: FindingSeverity, detail: String) {
        if self.list.len() < FINDINGS_MAX {
            self.list.push(ConformanceFinding { rule, severity, detail });
        }
    }
}

//! The conformance check: reads playlists, manifest and stored objects back and compares them with each other and with
//! the plan. A finding that is an error fails the job.
//!
//! Rules are numbered: A1 to A13 follow Apple's HLS Authoring Specification and RFC 8216, B17 and B18 MPEG-DASH and CMAF.
//! Not checked, because not made: subtitles, thumbnails, encryption, I-frame playlists.
//!
//! Limits: at most [`FINDINGS_MAX`] findings are kept.

pub mod dash;
pub mod hls;
pub mod measure;
mod rules;

use std::collections::BTreeMap;

use schemas::job::Plan;

pub use measure::{MeasureError, Measured, MeasuredSegment, measure};

/// Most findings that are kept.
pub const FINDINGS_MAX: usize = 100;

/// Numbers of the rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Rule {
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
    /// The manifest.
    B17,
    /// CMAF brands and structure.
    B18,
}

/// Whether a finding fails the job.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Severity {
    /// The encode must not be published.
    Error,
    /// Worth knowing.
    Warning,
}

/// Something the check found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// Which rule.
    pub rule: Rule,
    /// Whether it fails the job.
    pub severity: Severity,
    /// What exactly.
    pub detail: String,
}

/// What the check looks at.
#[derive(Debug, Clone, Copy)]
pub struct Evidence<'a> {
    /// What was planned.
    pub plan: &'a Plan,
    /// The multivariant playlist.
    pub multivariant: &'a str,
    /// The media playlist of each rendition.
    pub playlists: &'a BTreeMap<String, String>,
    /// The MPEG-DASH manifest.
    pub manifest: &'a str,
    /// What the store holds of each rendition.
    pub measured: &'a BTreeMap<String, Measured>,
}

/// Checks an encode. Without an error among the findings it may be published.
pub fn verify(evidence: &Evidence<'_>) -> Vec<Finding> {
    let mut findings = Findings::default();
    rules::run(evidence, &mut findings);
    findings.list
}

/// True when nothing found fails the job.
pub fn passes(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.severity == Severity::Warning)
}

#[derive(Default)]
struct Findings {
    list: Vec<Finding>,
}

impl Findings {
    fn error(&mut self, rule: Rule, detail: impl Into<String>) {
        self.add(rule, Severity::Error, detail.into());
    }

    fn warning(&mut self, rule: Rule, detail: impl Into<String>) {
        self.add(rule, Severity::Warning, detail.into());
    }

    /// An error unless `holds`.
    fn require(&mut self, holds: bool, rule: Rule, detail: impl FnOnce() -> String) {
        if !holds {
            self.error(rule, detail());
        }
    }

    fn add(&mut self, rule: Rule, severity: Severity, detail: String) {
        if self.list.len() < FINDINGS_MAX {
            self.list.push(Finding { rule, severity, detail });
        }
    }
}

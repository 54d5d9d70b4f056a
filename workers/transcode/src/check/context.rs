//! What the rules look at.

use std::collections::BTreeMap;

use super::{
    ConformanceFindings, ConformanceInput, ConformanceRule, MeasuredRendition,
    hls::{self, HlsAttributes, MediaPlaylist},
};

/// What the rules look at, playlists read.
pub(super) struct ConformanceContext<'a> {
    pub(super) evidence: &'a ConformanceInput<'a>,
    pub(super) multivariant: hls::MultivariantPlaylist,
    /// Of pictures and sound.
    pub(super) playlists: BTreeMap<&'a str, MediaPlaylist>,
    /// Of text.
    pub(super) subtitles: BTreeMap<&'a str, MediaPlaylist>,
}

impl<'a> ConformanceContext<'a> {
    /// Reads the playlists; none when the multivariant one can't be read.
    pub(super) fn parse(
        evidence: &'a ConformanceInput<'a>,
        findings: &mut ConformanceFindings,
    ) -> Option<Self> {
        let multivariant = hls::parse_multivariant(evidence.multivariant)
            .map_err(|why| findings.add_error(ConformanceRule::A1, format!("multivariant playlist: {why}")))
            .ok()?;
        let playlists = parse_media_playlists(evidence, planned_renditions(evidence), findings);
        let subtitles = parse_media_playlists(evidence, planned_subtitles(evidence), findings);
        Some(Self { evidence, multivariant, playlists, subtitles })
    }
}

fn parse_media_playlists<'a>(
    evidence: &'a ConformanceInput<'a>,
    names: impl Iterator<Item = &'a str>,
    findings: &mut ConformanceFindings,
) -> BTreeMap<&'a str, MediaPlaylist> {
    let mut playlists = BTreeMap::new();
    for name in names {
        let Some(text) = evidence.playlists.get(name) else {
            findings.add_error(ConformanceRule::A8, format!("{name}: no media playlist"));
            continue;
        };
        match hls::parse_media(text) {
            Ok(media) => {
                playlists.insert(name, media);
            }
            Err(why) => findings.add_error(ConformanceRule::A8, format!("{name}: {why}")),
        }
    }
    playlists
}

/// Names of the planned pictures and sounds.
pub(super) fn planned_renditions<'a>(evidence: &'a ConformanceInput<'a>) -> impl Iterator<Item = &'a str> {
    let rungs = evidence.plan.video.iter().flat_map(|v| &v.rungs).map(|r| r.name.as_str());
    rungs.chain(evidence.plan.audio.iter().map(|a| a.name.as_str()))
}

/// Names of the planned subtitles.
pub(super) fn planned_subtitles<'a>(evidence: &'a ConformanceInput<'a>) -> impl Iterator<Item = &'a str> {
    evidence.plan.subtitles.iter().map(|subtitles| subtitles.name.as_str())
}

impl ConformanceContext<'_> {
    /// The renditions of a type that are announced.
    pub(super) fn media_of(&self, kind: &str) -> impl Iterator<Item = &HlsAttributes> {
        self.multivariant.media.iter().filter(move |media| media.get("TYPE").is_some_and(|said| said == kind))
    }

    /// Largest peak and largest average of the renditions that `is_meant`.
    pub(super) fn largest_rates(&self, is_meant: impl Fn(&str) -> bool) -> (u64, u64) {
        let chosen = self.playlists.iter().filter(|(name, _)| is_meant(name));
        let rates =
            chosen.filter_map(|(name, media)| Some(measure_rates(media, self.evidence.measured.get(*name)?)));
        rates.fold((0, 0), |(peak, average), rate| (peak.max(rate.0), average.max(rate.1)))
    }
}

/// Peak over runs of 0.5 to 1.5 target durations (RFC 8216 section 4.1), and average, in bits per second.
pub(super) fn measure_rates(media: &MediaPlaylist, measured: &MeasuredRendition) -> (u64, u64) {
    let pairs: Vec<(u64, u64)> = media
        .segments
        .iter()
        .zip(&measured.segments)
        .map(|((us, _), segment)| (*us, segment.size_bytes))
        .collect();
    let rate = |us: u64, bytes: u64| {
        u64::try_from(u128::from(bytes) * 8_000_000 / u128::from(us.max(1))).unwrap_or(u64::MAX)
    };
    let total: (u64, u64) = pairs.iter().fold((0, 0), |sum, pair| (sum.0 + pair.0, sum.1 + pair.1));
    let average = rate(total.0, total.1);
    let target = media.target_seconds * 1_000_000;
    let mut peak = 0;
    for start in 0..pairs.len() {
        let mut run = (0, 0);
        for (us, bytes) in pairs.iter().skip(start) {
            run = (run.0 + us, run.1 + bytes);
            if run.0 * 2 > target * 3 {
                break;
            }
            if run.0 * 2 >= target {
                peak = peak.max(rate(run.0, run.1));
            }
        }
    }
    (if peak == 0 { average } else { peak }, average)
}

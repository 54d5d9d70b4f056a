//! A7: of every rung there is a playlist of the pictures that stand alone, and each of its ranges holds exactly one.

use schemas::{job::LadderRung, keys};

use super::{ConformanceFindings, ConformanceRule, MeasuredRendition, context::ConformanceContext, hls};

pub(super) fn check_iframes(case: &ConformanceContext<'_>, findings: &mut ConformanceFindings) {
    let rungs: Vec<&LadderRung> = case.evidence.plan.video.iter().flat_map(|video| &video.rungs).collect();
    let announced = case.multivariant.iframes.len();
    findings.require_rule(announced == rungs.len(), ConformanceRule::A7, || {
        format!("{announced} I-frame playlists instead of {}", rungs.len())
    });
    for rung in rungs {
        check_announcement(case, rung, findings);
        let Some(measured) = case.evidence.measured.get(&rung.name) else { continue };
        let text = case.evidence.iframes.get(&rung.name).map(String::as_str).unwrap_or_default();
        match hls::parse_media(text) {
            Ok(playlist) => check_playlist(case, rung, &playlist, measured, findings),
            Err(why) => findings.add_error(ConformanceRule::A7, format!("{}: {why}", rung.name)),
        }
    }
}

/// The bytes of each segment up to the end of its first picture.
pub fn measure_iframes(measured: &MeasuredRendition) -> Vec<u64> {
    let end = |offset: usize, bytes: u32| {
        u64::try_from(offset).unwrap_or(u64::MAX).saturating_add(u64::from(bytes))
    };
    let fragments = measured.segments.iter().map(|segment| &segment.fragment);
    fragments.map(|fragment| end(fragment.first_sample_offset, fragment.first_sample_bytes)).collect()
}

fn check_announcement(case: &ConformanceContext<'_>, rung: &LadderRung, findings: &mut ConformanceFindings) {
    let uri = keys::iframe_playlist_path(&rung.name);
    let Some(stream) = case.multivariant.iframes.iter().find(|s| s.get("URI") == Some(&uri)) else {
        findings.add_error(ConformanceRule::A7, format!("{}: no EXT-X-I-FRAME-STREAM-INF", rung.name));
        return;
    };
    let says = |key: &str, value: &str| stream.get(key).is_some_and(|said| said == value);
    let codecs = case.evidence.measured.get(&rung.name).map(|m| m.init.codecs.as_str()).unwrap_or_default();
    let is_described =
        says("CODECS", codecs) && says("RESOLUTION", &format!("{}x{}", rung.width, rung.height));
    findings.require_rule(is_described && says("VIDEO-RANGE", "SDR"), ConformanceRule::A7, || {
        format!("{}: CODECS, RESOLUTION or VIDEO-RANGE of its I-frames", rung.name)
    });
}

fn check_playlist(
    case: &ConformanceContext<'_>,
    rung: &LadderRung,
    playlist: &hls::MediaPlaylist,
    measured: &MeasuredRendition,
    findings: &mut ConformanceFindings,
) {
    let name = &rung.name;
    let media = case.playlists.get(name.as_str());
    let is_same = media.is_some_and(|media| {
        let wanted =
            hls::MediaPlaylist { is_iframes_only: true, ranges: measure_iframes(measured), ..media.clone() };
        wanted == *playlist
    });
    findings.require_rule(is_same, ConformanceRule::A7, || {
        format!("{name}: its I-frames are not those of its segments: ranges {:.5?}", playlist.ranges)
    });
    let uri = keys::iframe_playlist_path(name);
    let stream = case.multivariant.iframes.iter().find(|s| s.get("URI") == Some(&uri));
    let declared = stream.and_then(|s| s.get("BANDWIDTH")).and_then(|v| v.parse::<u64>().ok()).unwrap_or(0);
    let pairs = playlist.segments.iter().zip(&playlist.ranges);
    let peak = pairs.map(|((us, _), bytes)| bytes.saturating_mul(8_000_000) / us.max(&1)).max().unwrap_or(0);
    findings.require_rule(declared.abs_diff(peak) * 100 <= peak.max(100), ConformanceRule::A7, || {
        format!("{name}: BANDWIDTH {declared} of its I-frames, measured {peak}")
    });
}

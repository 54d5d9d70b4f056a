//! A14: subtitles are announced, as long as the picture, and every segment holds the cues of its time, whole.

use std::collections::{BTreeMap, BTreeSet};

use schemas::{job::SubtitlePlan, keys};

use super::{
    ConformanceFindings, ConformanceRule,
    context::ConformanceContext,
    hls::{HlsAttributes, MediaPlaylist},
    webvtt::{MeasuredSubtitles, ReadCue},
};

pub(super) fn check_subtitles(case: &ConformanceContext<'_>, findings: &mut ConformanceFindings) {
    let plans = &case.evidence.plan.subtitles;
    let announced: Vec<&HlsAttributes> = case.media_of("SUBTITLES").collect();
    findings.require_rule(announced.len() == plans.len(), ConformanceRule::A14, || {
        format!("{} subtitle renditions instead of {}", announced.len(), plans.len())
    });
    for plan in plans {
        check_announcement(plan, &announced, findings);
        match (case.subtitles.get(plan.name.as_str()), case.evidence.subtitles.get(&plan.name)) {
            (Some(playlist), Some(measured)) => check_segments(&plan.name, playlist, measured, findings),
            _ => findings.add_error(ConformanceRule::A14, format!("{}: nothing is stored", plan.name)),
        }
    }
    for (attributes, uri) in &case.multivariant.variants {
        let group = attributes.get("SUBTITLES");
        let is_known = group.is_some_and(|g| announced.iter().all(|m| m.get("GROUP-ID") == Some(g)));
        findings.require_rule(
            is_known || (plans.is_empty() && group.is_none()),
            ConformanceRule::A14,
            || format!("{uri:.60}: no subtitle group, or another one"),
        );
    }
    let names: BTreeMap<&String, usize> =
        announced.iter().filter_map(|m| m.get("NAME")).fold(BTreeMap::new(), |mut names, name| {
            *names.entry(name).or_default() += 1;
            names
        });
    findings.require_rule(names.values().all(|count| *count == 1), ConformanceRule::A14, || {
        format!("two subtitle renditions of one name among {names:?}")
    });
}

fn check_announcement(plan: &SubtitlePlan, announced: &[&HlsAttributes], findings: &mut ConformanceFindings) {
    let uri = keys::media_playlist_path(&plan.name);
    let Some(media) = announced.iter().find(|m| m.get("URI") == Some(&uri)) else {
        findings.add_error(ConformanceRule::A14, format!("{}: no EXT-X-MEDIA", plan.name));
        return;
    };
    let says = |key: &str, value: &str| media.get(key).is_some_and(|said| said == value);
    let forced = if plan.is_forced { "YES" } else { "NO" };
    let is_named = says("LANGUAGE", &plan.language) && says("NAME", &plan.label) && says("FORCED", forced);
    findings.require_rule(is_named && says("DEFAULT", "NO"), ConformanceRule::A14, || {
        format!("{}: LANGUAGE, NAME, FORCED or DEFAULT", plan.name)
    });
}

/// Cues overlap the time of their segment, and one that goes on stands in the next segment too.
fn check_segments(
    name: &str,
    playlist: &MediaPlaylist,
    measured: &MeasuredSubtitles,
    findings: &mut ConformanceFindings,
) {
    findings.require_rule(playlist.segments.len() == measured.len(), ConformanceRule::A14, || {
        format!("{name}: {} segments listed, {} stored", playlist.segments.len(), measured.len())
    });
    let mut end_us = 0;
    let mut going_on: Vec<&ReadCue> = Vec::new();
    for (((duration_us, _), cues), number) in playlist.segments.iter().zip(measured).zip(1_u32..) {
        let start_us = end_us;
        end_us += duration_us;
        let is_shown =
            |cue: &ReadCue| cue.start_ms * 1_000 < end_us + 1_000 && cue.end_ms * 1_000 + 1_000 > start_us;
        findings.require_rule(cues.iter().all(is_shown), ConformanceRule::A14, || {
            format!("{name}: segment {number} holds a cue of another time")
        });
        let held: BTreeSet<&ReadCue> = cues.iter().collect();
        let is_repeated = going_on.iter().all(|cue| held.contains(cue));
        findings.require_rule(is_repeated, ConformanceRule::A14, || {
            format!("{name}: segment {number} lacks a cue that goes on from the one before")
        });
        going_on = cues.iter().filter(|cue| cue.end_ms * 1_000 > end_us + 1_000).collect();
    }
}

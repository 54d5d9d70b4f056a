//! A14: subtitles are announced, as long as the picture, and every segment holds the cues of its time, whole.

use std::collections::BTreeMap;

use schemas::{job::SubtitlePlan, keys};

use super::{
    ConformanceFindings, ConformanceRule,
    hls::{HlsAttributes, MediaPlaylist},
    rules::ConformanceContext,
};

/// Why a text is no WebVTT file of ours, for people.
type Malformed = String;

/// First lines of every segment.
const SEGMENT_HEADER: [&str; 2] = ["WEBVTT", "X-TIMESTAMP-MAP=MPEGTS:0,LOCAL:00:00:00.000"];

/// A cue as it is read back.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ReadCue {
    /// In milliseconds.
    pub start_ms: u64,
    /// In milliseconds.
    pub end_ms: u64,
    /// Its lines, one after the other.
    pub text: String,
}

/// What the store holds of one subtitle rendition: the cues of each segment.
pub type MeasuredSubtitles = Vec<Vec<ReadCue>>;

/// Reads a segment back; says what is wrong with it. Not a general reader: what our writer never writes is an error.
pub fn parse_segment(text: &str) -> Result<Vec<ReadCue>, Malformed> {
    let mut blocks = text.strip_suffix('\n').unwrap_or(text).split("\n\n");
    let header: Vec<&str> = blocks.next().unwrap_or_default().lines().collect();
    if header != SEGMENT_HEADER {
        return Err(format!("the header is {header:.2?}"));
    }
    blocks.map(parse_cue).collect()
}

fn parse_cue(block: &str) -> Result<ReadCue, Malformed> {
    let malformed = || format!("no cue: {block:.60}");
    let (times, text) = block.split_once('\n').ok_or_else(malformed)?;
    let (start, rest) = times.split_once(" --> ").ok_or_else(malformed)?;
    let end = rest.strip_suffix(" line:0").unwrap_or(rest);
    let (start_ms, end_ms) =
        (parse_time(start).ok_or_else(malformed)?, parse_time(end).ok_or_else(malformed)?);
    if start_ms >= end_ms || text.is_empty() || text.contains("-->") {
        return Err(malformed());
    }
    Ok(ReadCue { start_ms, end_ms, text: text.to_owned() })
}

/// `HH:MM:SS.mmm` in milliseconds.
fn parse_time(text: &str) -> Option<u64> {
    let (clock, ms) = text.split_once('.')?;
    let number = |digits: &str| digits.parse::<u64>().ok();
    let mut parts = clock.split(':');
    let (hours, minutes, seconds) = (number(parts.next()?)?, number(parts.next()?)?, number(parts.next()?)?);
    let is_clock = parts.next().is_none() && minutes < 60 && seconds < 60 && ms.len() == 3;
    is_clock.then_some(((hours * 60 + minutes) * 60 + seconds) * 1_000 + number(ms)?)
}

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
        let is_repeated = going_on.iter().all(|cue| cues.contains(cue));
        findings.require_rule(is_repeated, ConformanceRule::A14, || {
            format!("{name}: segment {number} lacks a cue that goes on from the one before")
        });
        going_on = cues.iter().filter(|cue| cue.end_ms * 1_000 > end_us + 1_000).collect();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str = "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:0,LOCAL:00:00:00.000\n";

    #[test]
    fn segments_are_read_strictly() {
        let cue = ReadCue { start_ms: 3_723_004, end_ms: 3_724_000, text: "a\nb".into() };
        let text = format!("{HEADER}\n01:02:03.004 --> 01:02:04.000 line:0\na\nb\n");
        assert_eq!(parse_segment(&text), Ok(vec![cue]));
        assert_eq!(parse_segment(HEADER), Ok(Vec::new()));
        for text in [
            "",
            "WEBVTT\n",
            "WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na\n",
            &format!("{HEADER}\n00:00:00.000 --> 00:00:01.000\n"),
            &format!("{HEADER}\n00:00:01.000 --> 00:00:01.000\na\n"),
            &format!("{HEADER}\n00:61:00.000 --> 01:00:01.000\na\n"),
            &format!("{HEADER}\n00:00:00.00 --> 00:00:01.000\na\n"),
            &format!("{HEADER}\n00:00:00.000 --> 00:00:01.000\na --> b\n"),
            &format!("{HEADER}\nNOTE x\n"),
        ] {
            assert!(parse_segment(text).is_err(), "{text}");
        }
    }
}

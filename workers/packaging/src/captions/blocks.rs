//! The cues of a file, each with its line, before their texts are read.

use super::{CaptionFault, CaptionFileError, CaptionFormat, settings::clean_settings, times::parse_time};

/// What stands between the begin and the end of a cue.
const ARROW: &str = "-->";

/// A cue as it stands in its file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CueBlock {
    /// The line of its time, from 1.
    pub(super) line: usize,
    /// When it is shown, in milliseconds.
    pub(super) span_ms: (u64, u64),
    /// Where it is shown; empty for the usual place.
    pub(super) settings: String,
    /// Its text with the mark-up of the file.
    pub(super) text: String,
}

/// All cues, in the order of the file.
pub(super) fn split_blocks(text: &str, format: CaptionFormat) -> Result<Vec<CueBlock>, CaptionFileError> {
    let mut groups = group_lines(text).into_iter();
    if format == CaptionFormat::WebVtt {
        let header = groups.next().ok_or(CaptionFault::HeaderMissing.at(1))?;
        check_header(&header)?;
    }
    let is_cue = |group: &Vec<(usize, &str)>| format == CaptionFormat::SubRip || !is_left_out(group);
    groups.filter(is_cue).map(|group| read_block(&group, format)).collect()
}

/// Lines that stand together, with their numbers from 1.
fn group_lines(text: &str) -> Vec<Vec<(usize, &str)>> {
    let mut groups: Vec<Vec<(usize, &str)>> = Vec::new();
    let mut is_open = false;
    for (line, number) in text.lines().zip(1_usize..) {
        if line.trim().is_empty() {
            is_open = false;
            continue;
        }
        match groups.last_mut().filter(|_| is_open) {
            Some(group) => group.push((number, line)),
            None => groups.push(vec![(number, line)]),
        }
        is_open = true;
    }
    groups
}

fn check_header(header: &[(usize, &str)]) -> Result<(), CaptionFileError> {
    let signature = header.first().and_then(|(number, line)| {
        let rest = line.strip_prefix("WEBVTT").filter(|_| *number == 1)?;
        (rest.is_empty() || rest.starts_with([' ', '\t'])).then_some(())
    });
    let cue = header.iter().find(|(_, line)| line.contains(ARROW));
    match (signature, cue) {
        (None, _) => Err(CaptionFault::HeaderMissing.at(1)),
        (Some(()), Some((number, _))) => Err(CaptionFault::SeparatorMissing.at(*number)),
        (Some(()), None) => Ok(()),
    }
}

/// Notes, styles and regions of WebVTT.
fn is_left_out(group: &[(usize, &str)]) -> bool {
    let Some((_, first)) = group.first() else { return true };
    let word = first.split([' ', '\t']).next().unwrap_or_default();
    let is_named = word == "NOTE" || matches!(first.trim_end(), "STYLE" | "REGION");
    // A cue may have such a name.
    is_named && !group.iter().take(2).any(|(_, line)| line.contains(ARROW))
}

fn read_block(group: &[(usize, &str)], format: CaptionFormat) -> Result<CueBlock, CaptionFileError> {
    let line = group.first().map_or(1, |(number, _)| *number);
    // Before the time there may be the name or number of the cue.
    let position = group.iter().take(2).position(|(_, line)| line.contains(ARROW));
    let (head, lines) = match position.and_then(|position| group.get(position..)?.split_first()) {
        Some(((number, head), lines)) => ((*number, *head), lines),
        None => return Err(CaptionFault::TimingMissing.at(line)),
    };
    if let Some((number, _)) = lines.iter().find(|(_, line)| line.contains(ARROW)) {
        return Err(CaptionFault::SeparatorMissing.at(*number));
    }
    let (line, head) = head;
    let (span_ms, settings) = read_timing(head, format).ok_or(CaptionFault::TimingInvalid.at(line))?;
    if span_ms.0 >= span_ms.1 {
        return Err(CaptionFault::EndsEarly.at(line));
    }
    let text = lines.iter().map(|(_, line)| *line).collect::<Vec<_>>().join("\n");
    Ok(CueBlock { line, span_ms, settings, text })
}

/// Begin and end in milliseconds, and the place.
fn read_timing(line: &str, format: CaptionFormat) -> Option<((u64, u64), String)> {
    let marks: &[char] = if format == CaptionFormat::WebVtt { &['.'] } else { &[',', '.'] };
    let (begin, rest) = line.split_once(ARROW)?;
    let rest = rest.trim();
    let (end, settings) = rest.split_at(rest.find([' ', '\t']).unwrap_or(rest.len()));
    let span_ms = (parse_time(begin.trim(), marks)?, parse_time(end, marks)?);
    // Behind the times of SubRip there may be places in pixels, of a picture that nobody knows.
    let settings = if format == CaptionFormat::WebVtt { clean_settings(settings) } else { String::new() };
    Some((span_ms, settings))
}

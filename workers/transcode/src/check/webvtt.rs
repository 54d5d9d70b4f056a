//! Reads subtitle segments back.

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

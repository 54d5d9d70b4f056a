//! Subtitles as WebVTT (W3C, <https://www.w3.org/TR/webvtt1/>): one file of all cues, and one for each segment of the picture's
//! (RFC 8216, 3.5), from texts in the mark-up of Advanced SubStation Alpha.
//!
//! No crate writes WebVTT from that mark-up; italics, bold, underlined and the place at the top are kept, other styles are not.
//!
//! Limits: [`SUBTITLES_BYTES_MAX`] for all files of all tracks of an encode; a track that would exceed it ([`count_bytes`]) is not made.

use std::fmt::Write as _;

use crate::{subtitle_timeline::SubtitleTimeline, time_text::format_time};

/// Most bytes of the files of all tracks: a film has 400 KiB of each. Cues that last through many segments stand in each of them.
pub const SUBTITLES_BYTES_MAX: usize = 32 << 20;

/// The beginning of a file.
const HEADER: &str = "WEBVTT\n";

/// The clock of cues is that of the media segments (RFC 8216, 3.5).
const TIMESTAMP_MAP: &str = "X-TIMESTAMP-MAP=MPEGTS:0,LOCAL:00:00:00.000\n";

/// The settings of a cue at the top.
pub(crate) const TOP_SETTINGS: &str = "line:0";

/// Alignments of Advanced SubStation Alpha at the top of the picture.
pub(crate) const TOP_ALIGNMENTS: [&str; 3] = ["an7", "an8", "an9"];

/// What braces without a command of the mark-up are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BraceMeaning {
    /// Text of the source, as `{laughs}`.
    Text,
    /// Comments that nobody sees: in sources of Advanced SubStation Alpha.
    Comment,
}

impl BraceMeaning {
    /// By the codec of the source, as FFmpeg names it.
    pub fn of_codec(codec: &str) -> Self {
        if matches!(codec, "ass" | "ssa") { Self::Comment } else { Self::Text }
    }
}

/// A cue ready to be written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct WebVttCue {
    start_ms: u64,
    end_ms: u64,
    /// Where it is shown, as WebVTT says it; empty for the usual place.
    settings: String,
    /// Text with tags, escaped, without empty lines.
    payload: String,
}

impl WebVttCue {
    /// Makes a cue from the text of a dialogue event of Advanced SubStation Alpha; times in microseconds from the presentation start.
    /// None when there is nothing to read, or no time to read it in.
    pub fn from_dialogue(start_us: u64, end_us: u64, text: &str, braces: BraceMeaning) -> Option<Self> {
        let round_to_ms = |us: u64| us.saturating_add(500) / 1_000;
        let Payload { text: payload, is_top, .. } = Payload::parse(text, braces);
        let settings = if is_top { TOP_SETTINGS } else { "" };
        Self::from_parts((round_to_ms(start_us), round_to_ms(end_us)), settings, payload)
    }

    /// A cue whose settings and text are WebVTT already, with tags that are closed and without an empty line; times in milliseconds.
    /// None when there is nothing to read, or no time to read it in.
    pub(crate) fn from_parts(
        (start_ms, end_ms): (u64, u64),
        settings: &str,
        payload: String,
    ) -> Option<Self> {
        let cue = Self { start_ms, end_ms, settings: settings.to_owned(), payload };
        (cue.start_ms < cue.end_ms && !cue.payload.is_empty()).then_some(cue)
    }

    /// Upper bound of the bytes that it adds to a file, and how long it is shown, in milliseconds.
    pub(crate) fn extent(&self) -> (usize, u64) {
        (self.written_bytes_max(), self.end_ms.saturating_sub(self.start_ms))
    }

    fn write_to(&self, file: &mut String) {
        let Self { start_ms, end_ms, settings, payload } = self;
        let separator = if settings.is_empty() { "" } else { " " };
        let (start, end) = (format_time(*start_ms), format_time(*end_ms));
        let _infallible = write!(file, "\n{start} --> {end}{separator}{settings}\n{payload}\n");
    }

    /// Upper bound of the bytes that [`WebVttCue::write_to`] adds.
    fn written_bytes_max(&self) -> usize {
        self.payload.len() + self.settings.len() + 64
    }
}

/// Puts cues in order; layers of the same text become one.
pub fn sort_cues(cues: &mut Vec<WebVttCue>) {
    cues.sort();
    cues.dedup();
}

/// Upper bound of the bytes of the cues in the segments of a track, and in its one file.
pub fn count_bytes(cues: &[WebVttCue], timeline: &SubtitleTimeline) -> usize {
    let to_end = |(start, duration): &(u64, u64)| timeline.ticks_to_us(start + duration) / 1_000;
    let ends_ms: Vec<u64> = timeline.segments.iter().map(to_end).collect();
    let bytes = cues.iter().map(|cue| {
        let first = ends_ms.partition_point(|end| *end <= cue.start_ms);
        let last = ends_ms.partition_point(|end| *end < cue.end_ms);
        // In all of them, and in the one file.
        cue.written_bytes_max().saturating_mul(last.saturating_sub(first) + 2)
    });
    bytes.fold(0, usize::saturating_add)
}

/// All cues in one file, from sorted ones.
pub fn render_whole(cues: &[WebVttCue]) -> String {
    render_file(HEADER.to_owned(), cues.iter())
}

/// The segments of a track, from sorted cues: each holds the cues that are shown in its time, whole; also those that began before it.
pub fn render_segments<'a>(
    cues: &'a [WebVttCue],
    timeline: &'a SubtitleTimeline,
) -> impl Iterator<Item = String> + 'a {
    let (mut rest, mut shown) = (cues, Vec::<&WebVttCue>::new());
    timeline.segments.iter().map(move |(start_ticks, duration_ticks)| {
        let start_ms = timeline.ticks_to_us(*start_ticks) / 1_000;
        let end_ms = timeline.ticks_to_us(start_ticks + duration_ticks).div_ceil(1_000);
        shown.retain(|cue| cue.end_ms > start_ms);
        let (begun, later) = rest.split_at(rest.partition_point(|cue| cue.start_ms < end_ms));
        rest = later;
        shown.extend(begun.iter().filter(|cue| cue.end_ms > start_ms));
        render_file(format!("{HEADER}{TIMESTAMP_MAP}"), shown.iter().copied())
    })
}

/// The segment of a track that covers a time in microseconds, from sorted cues: each that is shown in it, whole.
pub fn render_segment(cues: &[WebVttCue], start_us: u64, end_us: u64) -> String {
    let (from_ms, until_ms) = (start_us / 1_000, end_us.div_ceil(1_000));
    let begun = cues.get(..cues.partition_point(|cue| cue.start_ms < until_ms)).unwrap_or_default();
    render_file(format!("{HEADER}{TIMESTAMP_MAP}"), begun.iter().filter(|cue| cue.end_ms > from_ms))
}

fn render_file<'a>(header: String, cues: impl Iterator<Item = &'a WebVttCue>) -> String {
    let mut file = header;
    cues.for_each(|cue| cue.write_to(&mut file));
    file
}

/// The styles that WebVTT has tags for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct TextStyle {
    is_italic: bool,
    is_bold: bool,
    is_underlined: bool,
}

impl TextStyle {
    const fn intersect(self, other: Self) -> Self {
        Self {
            is_italic: self.is_italic && other.is_italic,
            is_bold: self.is_bold && other.is_bold,
            is_underlined: self.is_underlined && other.is_underlined,
        }
    }

    fn tags(self) -> impl DoubleEndedIterator<Item = &'static str> {
        let tags = [(self.is_italic, "i"), (self.is_bold, "b"), (self.is_underlined, "u")];
        tags.into_iter().filter_map(|(is_set, tag)| is_set.then_some(tag))
    }
}

/// The text of a cue while it is read.
#[derive(Debug, Default)]
struct Payload {
    text: String,
    is_top: bool,
    wanted: TextStyle,
    /// What tags are open in `text`.
    open: TextStyle,
    /// What is in between draws lines, and is no text.
    is_drawing: bool,
}

impl Payload {
    fn parse(dialogue: &str, braces: BraceMeaning) -> Self {
        let mut payload = Self::default();
        // Looked for once: a text of open braces would be searched to its end at each of them.
        let last_close = dialogue.rfind('}').unwrap_or(0);
        let mut rest = dialogue;
        while let Some(next) = rest.chars().next() {
            let at = dialogue.len() - rest.len();
            let overrides =
                rest.strip_prefix('{').filter(|_| at < last_close).and_then(|rest| rest.split_once('}'));
            let escaped = rest.strip_prefix('\\').and_then(|rest| rest.chars().next());
            rest = match (overrides, escaped) {
                (Some((commands, after)), _)
                    if commands.contains('\\') || braces == BraceMeaning::Comment =>
                {
                    payload.apply_overrides(commands);
                    after
                }
                (None, Some(escaped @ ('N' | 'n' | 'h' | '{' | '}'))) => {
                    let meant = match escaped {
                        'N' => '\n',
                        'n' => ' ',
                        'h' => '\u{a0}',
                        brace => brace,
                    };
                    payload.push_char(meant);
                    rest.get(2..).unwrap_or_default()
                }
                _ => {
                    payload.push_char(next);
                    rest.get(next.len_utf8()..).unwrap_or_default()
                }
            };
        }
        payload.set_tags(TextStyle::default());
        // An empty line would end the cue.
        let lines = payload.text.lines().map(str::trim).filter(|line| !is_empty_markup(line));
        payload.text = lines.collect::<Vec<_>>().join("\n");
        payload
    }

    fn apply_overrides(&mut self, overrides: &str) {
        // A place is given apart from the alignment, which then says what of the text is there.
        let has_place = overrides.contains("\\pos(") || overrides.contains("\\move(");
        for one in overrides.split('\\').map(str::trim) {
            let switch = |name: &str| one.strip_prefix(name).and_then(|value| value.parse::<u32>().ok());
            if let Some(value) = switch("i") {
                self.wanted.is_italic = value > 0;
            } else if let Some(value) = switch("b") {
                // Above one it is a weight, of which 400 is the usual one.
                self.wanted.is_bold = value == 1 || value > 400;
            } else if let Some(value) = switch("u") {
                self.wanted.is_underlined = value > 0;
            } else if let Some(value) = switch("p") {
                self.is_drawing = value > 0;
            } else if one == "r" {
                self.wanted = TextStyle::default();
            } else {
                self.is_top |= !has_place && TOP_ALIGNMENTS.contains(&one);
            }
        }
    }

    fn push_char(&mut self, next: char) {
        if self.is_drawing || (next.is_control() && next != '\n') {
            return;
        }
        // Spaces end a style, and begin none.
        let style = if next.is_whitespace() { self.wanted.intersect(self.open) } else { self.wanted };
        if self.open != style {
            self.set_tags(style);
        }
        match next {
            '&' => self.text.push_str("&amp;"),
            '<' => self.text.push_str("&lt;"),
            '>' => self.text.push_str("&gt;"),
            next => self.text.push(next),
        }
    }

    /// Closes the tags that are open, and opens others.
    fn set_tags(&mut self, style: TextStyle) {
        for tag in self.open.tags().rev() {
            let _infallible = write!(self.text, "</{tag}>");
        }
        for tag in style.tags() {
            let _infallible = write!(self.text, "<{tag}>");
        }
        self.open = style;
    }
}

/// Plain text as WebVTT has it.
pub(crate) fn escape_text(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

/// Whether a line has nothing to read: only white space.
fn is_empty_markup(line: &str) -> bool {
    line.chars().all(char::is_whitespace)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn payload(dialogue: &str) -> String {
        WebVttCue::from_dialogue(0, 1_000, dialogue, BraceMeaning::Text)
            .map(|cue| cue.payload)
            .unwrap_or_default()
    }

    #[test]
    fn mark_up_of_the_source_becomes_that_of_webvtt() {
        for (dialogue, wanted) in [
            ("Hello, you", "Hello, you"),
            ("one\\Ntwo", "one\ntwo"),
            ("one\\N\\N \\Ntwo\\N", "one\ntwo"),
            ("soft\\nbreak\\hhard", "soft break\u{a0}hard"),
            ("{\\i1}she{\\i0} said", "<i>she</i> said"),
            ("{\\i1\\b1}both{\\b0} one", "<i><b>both</b></i><i> one</i>"),
            ("{\\b700}heavy{\\b400} light", "<b>heavy</b> light"),
            ("{\\u1}a{\\r}b", "<u>a</u>b"),
            ("{\\c&HFF0000&\\fnArial}plain", "plain"),
            ("a < b & c > d --> e", "a &lt; b &amp; c &gt; d --&gt; e"),
            ("<script>x</script>", "&lt;script&gt;x&lt;/script&gt;"),
            ("{\\p1}m 0 0 l 9 9{\\p0}", ""),
            ("open { brace", "open { brace"),
            ("\\{laughs\\} hi", "{laughs} hi"),
            ("{laughs} hi", "{laughs} hi"),
            ("{{{\\i1}so{\\i0}", "<i>so</i>"),
            ("tab\tand \u{7}bell", "taband bell"),
            ("   ", ""),
        ] {
            assert_eq!(payload(dialogue), wanted, "{dialogue:?}");
        }
        let top = WebVttCue::from_dialogue(0, 1_000, "{\\an8}up", BraceMeaning::Text).unwrap();
        assert_eq!(top.settings, TOP_SETTINGS);
        assert_eq!(Payload::parse("{a note}hi", BraceMeaning::Comment).text, "hi");
        assert!(!Payload::parse("{\\an8\\pos(960,1000)}low", BraceMeaning::Comment).is_top);
        let bottom = WebVttCue::from_dialogue(0, 1_000, "{\\an2}down", BraceMeaning::Text).unwrap();
        assert_eq!(bottom.settings, "");
        assert_eq!(
            WebVttCue::from_dialogue(1_000, 1_400, "x", BraceMeaning::Text),
            None,
            "no millisecond long"
        );
    }

    #[test]
    fn cues_stand_in_every_segment_in_which_they_are_shown() {
        let cue = |start_us, end_us, text| {
            WebVttCue::from_dialogue(start_us, end_us, text, BraceMeaning::Text).unwrap()
        };
        let mut cues = vec![
            cue(5_500_000, 6_500_000, "across"),
            cue(1_000_000, 2_000_000, "first"),
            cue(6_000_000, 7_000_000, "second"),
            cue(1_000_000, 2_000_000, "first"),
            cue(0, 18_000_000, "{\\an8}all"),
        ];
        sort_cues(&mut cues);
        let timeline = SubtitleTimeline { timescale: 1, segments: vec![(0, 6), (6, 6), (12, 6)] };
        let files: Vec<String> = render_segments(&cues, &timeline).collect();
        let head = "WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:0,LOCAL:00:00:00.000\n";
        let all = "\n00:00:00.000 --> 00:00:18.000 line:0\nall\n";
        let across = "\n00:00:05.500 --> 00:00:06.500\nacross\n";
        assert_eq!(
            files,
            [
                format!("{head}{all}\n00:00:01.000 --> 00:00:02.000\nfirst\n{across}"),
                format!("{head}{all}{across}\n00:00:06.000 --> 00:00:07.000\nsecond\n"),
                format!("{head}{all}"),
            ]
        );
        for (index, file) in (0..).zip(&files) {
            assert_eq!(render_segment(&cues, index * 6_000_000, (index + 1) * 6_000_000), *file);
        }
        let whole = render_whole(&cues);
        assert!(whole.starts_with("WEBVTT\n\n00:00:00.000"), "{whole}");
        assert_eq!(whole.matches("-->").count(), 4);
    }

    #[test]
    fn what_is_written_is_bounded() {
        let timeline = SubtitleTimeline { timescale: 1, segments: (0..20_000).map(|n| (n * 6, 6)).collect() };
        let long =
            WebVttCue::from_dialogue(0, 100_000_000_000, &"x".repeat(1_000), BraceMeaning::Text).unwrap();
        // A watermark through 16,667 segments, and in its one file.
        let bytes = count_bytes(std::slice::from_ref(&long), &timeline);
        assert_eq!(bytes / long.written_bytes_max(), 16_668);
        let short =
            WebVttCue::from_dialogue(5_000_000, 7_000_000, &"x".repeat(100), BraceMeaning::Text).unwrap();
        let many = vec![short; 50_000];
        let bytes: usize = render_segments(&many, &timeline)
            .map(|file| file.len() - HEADER.len() - TIMESTAMP_MAP.len())
            .sum();
        let bytes = bytes + render_whole(&many).len();
        let bound = count_bytes(&many, &timeline);
        assert!(bytes <= bound && bound < bytes * 3 / 2, "{bytes} of {bound}");
    }
}

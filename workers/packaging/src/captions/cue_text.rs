//! The text of a cue (WebVTT, 4.2.2): tags that change how it looks are kept and closed, everything else is text or left out.

use std::fmt::Write as _;

use super::{CaptionFormat, times::parse_time};
use crate::{time_text::format_time, webvtt::TOP_ALIGNMENTS};

/// Longest tag that is looked at, in bytes.
const TAG_BYTES_MAX: usize = 256;
/// Most tags that are open at once.
const DEPTH_MAX: usize = 16;
/// Longest name of a speaker or language, in characters.
const ANNOTATION_LENGTH_MAX: usize = 60;
/// Longest class, in bytes, and most of a tag.
const CLASS_BYTES_MAX: usize = 20;
const CLASSES_MAX: usize = 4;

/// Tags of both formats.
const PLAIN_TAGS: [&str; 3] = ["b", "i", "u"];
/// Tags of WebVTT alone.
const WEBVTT_TAGS: [&str; 5] = ["c", "ruby", "rt", "v", "lang"];
/// Names of characters that are kept as they are (WebVTT, 4.2.2).
const ENTITIES: [&str; 6] = ["amp", "lt", "gt", "lrm", "rlm", "nbsp"];

/// A text that players may be sent.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct CleanText {
    /// Lines with tags, none of them empty; empty where there is nothing to read.
    pub(super) payload: String,
    /// It is to stand at the top.
    pub(super) is_top: bool,
}

/// Makes the text of a cue safe.
pub(super) fn clean_cue_text(text: &str, format: CaptionFormat) -> CleanText {
    let mut cleaner =
        TextCleaner { format, text: String::new(), open: Vec::new(), is_top: false, has_text: false };
    let mut rest = text;
    while let Some(next) = rest.chars().next() {
        let taken = match next {
            '<' => cleaner.take_tag(rest),
            '&' => cleaner.take_entity(rest),
            '{' if format == CaptionFormat::SubRip => cleaner.take_override(rest),
            _ => None,
        };
        let taken = taken.unwrap_or_else(|| {
            cleaner.push_char(next);
            next.len_utf8()
        });
        rest = rest.get(taken..).unwrap_or_default();
    }
    while let Some(tag) = cleaner.open.pop() {
        cleaner.close(tag);
    }
    if !cleaner.has_text {
        return CleanText::default();
    }
    let lines = cleaner.text.lines().map(str::trim).filter(|line| !line.is_empty());
    CleanText { payload: lines.collect::<Vec<_>>().join("\n"), is_top: cleaner.is_top }
}

struct TextCleaner {
    format: CaptionFormat,
    text: String,
    /// Tags that are open in `text`, the outer one first.
    open: Vec<&'static str>,
    is_top: bool,
    /// There is something to read.
    has_text: bool,
}

impl TextCleaner {
    /// Takes a tag at the beginning of `rest`: how many bytes it has; `None` where it is text.
    fn take_tag(&mut self, rest: &str) -> Option<usize> {
        let end = rest.bytes().take(TAG_BYTES_MAX).position(|byte| byte == b'>')?;
        let inner = rest.get(1..end)?;
        let taken = end + 1;
        if self.format == CaptionFormat::WebVtt && inner.starts_with(|c: char| c.is_ascii_digit()) {
            if let Some(at_ms) = parse_time(inner, &['.']) {
                let _infallible = write!(self.text, "<{}>", format_time(at_ms));
            }
            return Some(taken);
        }
        let (is_end, inner) = inner.strip_prefix('/').map_or((false, inner), |inner| (true, inner));
        let (name, annotation) = inner.split_once([' ', '\t', '\n']).unwrap_or((inner, ""));
        let (name, classes) = name.split_once('.').unwrap_or((name, ""));
        let lower = name.to_ascii_lowercase();
        let Some(tag) = self.find_tag(&lower) else {
            // Players take no notice of tags that they do not know; in SubRip what is not known is text.
            let is_dropped = self.format == CaptionFormat::WebVtt || lower == "font";
            return is_dropped.then_some(taken);
        };
        if is_end {
            self.end_tag(tag);
        } else if self.open.len() < DEPTH_MAX {
            self.begin_tag(tag, classes, annotation);
        }
        Some(taken)
    }

    fn find_tag(&self, name: &str) -> Option<&'static str> {
        let of_webvtt: &[&'static str] =
            if self.format == CaptionFormat::WebVtt { &WEBVTT_TAGS } else { &[] };
        PLAIN_TAGS.iter().chain(of_webvtt).find(|tag| **tag == name).copied()
    }

    fn begin_tag(&mut self, tag: &'static str, classes: &str, annotation: &str) {
        self.open.push(tag);
        self.text.push('<');
        self.text.push_str(tag);
        let is_class = |class: &&str| {
            let is_plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_-".contains(&byte);
            (1..=CLASS_BYTES_MAX).contains(&class.len()) && class.bytes().all(is_plain)
        };
        for class in classes.split('.').filter(is_class).take(CLASSES_MAX) {
            self.text.push('.');
            self.text.push_str(class);
        }
        if matches!(tag, "v" | "lang") {
            let is_kept = |c: &char| !"<>&".contains(*c) && (!c.is_control() || c.is_whitespace());
            let words: String = annotation.chars().filter(is_kept).collect();
            let words = words.split_whitespace().collect::<Vec<_>>().join(" ");
            let words: String = words.chars().take(ANNOTATION_LENGTH_MAX).collect();
            let words = words.trim();
            if !words.is_empty() {
                self.text.push(' ');
                self.text.push_str(words);
            }
        }
        self.text.push('>');
    }

    fn end_tag(&mut self, tag: &'static str) {
        // The end of the text above may be left out (WebVTT, 4.2.2).
        if tag == "ruby" && self.open.last() == Some(&"rt") {
            self.end_tag("rt");
        }
        if self.open.last() == Some(&tag) {
            self.open.pop();
            self.close(tag);
        }
    }

    fn close(&mut self, tag: &str) {
        let _infallible = write!(self.text, "</{tag}>");
    }

    /// Takes the name of a character at the beginning of `rest`.
    fn take_entity(&mut self, rest: &str) -> Option<usize> {
        let end = rest.bytes().take(12).position(|byte| byte == b';')?;
        let name = rest.get(1..end)?;
        if let Some(kept) = ENTITIES.iter().find(|kept| **kept == name) {
            let _infallible = write!(self.text, "&{kept};");
            self.has_text |= ["amp", "lt", "gt"].contains(kept);
            return Some(end + 1);
        }
        let digits = name.strip_prefix('#')?;
        let code = match digits.strip_prefix(['x', 'X']) {
            Some(digits) => u32::from_str_radix(digits, 16).ok()?,
            None => digits.parse().ok()?,
        };
        self.push_char(char::from_u32(code)?);
        Some(end + 1)
    }

    /// Takes what Advanced SubStation Alpha has in braces, which many SubRip files have, too.
    fn take_override(&mut self, rest: &str) -> Option<usize> {
        let end = rest.bytes().take(TAG_BYTES_MAX).position(|byte| byte == b'}')?;
        let commands = rest.get(1..end)?.strip_prefix('\\')?;
        self.is_top |= commands.split('\\').any(|command| TOP_ALIGNMENTS.contains(&command.trim()));
        Some(end + 1)
    }

    fn push_char(&mut self, next: char) {
        match next {
            '\0' => self.text.push('\u{fffd}'),
            '\t' => self.text.push(' '),
            '&' => self.text.push_str("&amp;"),
            '<' => self.text.push_str("&lt;"),
            '>' => self.text.push_str("&gt;"),
            // WebVTT knows no other line end, and others would be one to a reader.
            '\n' => self.text.push('\n'),
            next if next.is_control() => return,
            next => self.text.push(next),
        }
        self.has_text |= !next.is_whitespace();
    }
}

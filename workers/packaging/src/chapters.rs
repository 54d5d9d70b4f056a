//! Chapters as WebVTT (W3C, 1.3), each a cue that lasts until the next one begins; and as the JSON that players of HLS read, where the
//! multivariant playlist says so by `EXT-X-SESSION-DATA` (RFC 8216, section 4.3.4.4; Apple's "Providing JavaScript Object Notation
//! (JSON) Chapters").

use schemas::{chapters::Chapter, keys};
use serde_json::json;

use crate::webvtt::{WebVttCue, escape_text, render_whole};

/// How long the last chapter lasts at least, in milliseconds: the length of the medium may not be known.
const LAST_MS_MIN: u64 = 1_000;

/// Each chapter with its end, in milliseconds.
fn with_ends(chapters: &[Chapter], duration_ms: u64) -> impl Iterator<Item = (&Chapter, u64)> {
    let ends = chapters.iter().skip(1).map(|next| next.start_ms).chain([duration_ms]);
    chapters.iter().zip(ends).map(|(chapter, end_ms)| {
        let is_known = end_ms > chapter.start_ms;
        (chapter, if is_known { end_ms } else { chapter.start_ms.saturating_add(LAST_MS_MIN) })
    })
}

/// The chapters of a medium that lasts `duration_ms`, in order of time, as WebVTT.
pub fn render_chapters(chapters: &[Chapter], duration_ms: u64) -> String {
    let cues = with_ends(chapters, duration_ms).filter_map(|(chapter, end_ms)| {
        WebVttCue::from_parts((chapter.start_ms, end_ms), "", escape_text(&chapter.title))
    });
    render_whole(&cues.collect::<Vec<_>>())
}

/// The same as JSON. Titles are in no language that is known (`und`, ISO 639-2).
pub fn render_chapter_list(chapters: &[Chapter], duration_ms: u64) -> String {
    let seconds = |ms: u64| ms as f64 / 1_000.0;
    let list = with_ends(chapters, duration_ms).zip(1_u32..).map(|((chapter, end_ms), number)| {
        json!({
            "chapter": number,
            "start-time": seconds(chapter.start_ms),
            "duration": seconds(end_ms - chapter.start_ms),
            "titles": [{ "language": "und", "title": chapter.title }],
        })
    });
    list.collect::<serde_json::Value>().to_string()
}

/// A multivariant playlist that says where the chapters are; as it was where there are none.
pub fn add_to_multivariant(text: String, chapters: &[Chapter]) -> String {
    if chapters.is_empty() {
        return text;
    }
    let uri = keys::CHAPTER_LIST;
    let tag = format!("#EXT-X-SESSION-DATA:DATA-ID=\"com.apple.hls.chapters\",URI=\"{uri}\"\n");
    let break_before = if text.ends_with('\n') { "" } else { "\n" };
    [&text, break_before, &tag].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chapter_lasts_until_the_next_one() {
        let chapter = |start_ms, title: &str| Chapter { start_ms, title: title.to_owned() };
        let chapters = [chapter(0, "Arrival"), chapter(61_500, "A & <b> --> c")];
        assert_eq!(
            render_chapters(&chapters, 90_000),
            "WEBVTT\n\n00:00:00.000 --> 00:01:01.500\nArrival\n\n00:01:01.500 --> 00:01:30.000\nA &amp; &lt;b&gt; --&gt; c\n"
        );
        let list: serde_json::Value = serde_json::from_str(&render_chapter_list(&chapters, 90_000)).unwrap();
        assert_eq!(
            list,
            json!([
                { "chapter": 1, "start-time": 0.0, "duration": 61.5, "titles": [{ "language": "und", "title": "Arrival" }] },
                { "chapter": 2, "start-time": 61.5, "duration": 28.5, "titles": [{ "language": "und", "title": "A & <b> --> c" }] },
            ])
        );
        let unknown = render_chapters(&chapters, 0);
        assert!(unknown.contains("00:01:01.500 --> 00:01:02.500"), "{unknown}");
        assert_eq!(render_chapters(&[], 1_000), "WEBVTT\n");
        let tag = "#EXT-X-SESSION-DATA:DATA-ID=\"com.apple.hls.chapters\",URI=\"chapters.json\"\n";
        assert_eq!(add_to_multivariant("#EXTM3U\n".into(), &chapters), format!("#EXTM3U\n{tag}"));
        assert_eq!(add_to_multivariant("#EXTM3U\n".into(), &[]), "#EXTM3U\n");
    }
}

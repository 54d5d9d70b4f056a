//! Chapters as WebVTT (W3C, 1.3): each a cue that lasts until the next one begins.

use schemas::chapters::Chapter;

use crate::webvtt::{WebVttCue, escape_text, render_whole};

/// How long the last chapter lasts at least, in milliseconds: the length of the medium may not be known.
const LAST_MS_MIN: u64 = 1_000;

/// The chapters of a medium that lasts `duration_ms`, in order of time.
pub fn render_chapters(chapters: &[Chapter], duration_ms: u64) -> String {
    let ends = chapters.iter().skip(1).map(|next| next.start_ms).chain([duration_ms]);
    let cues = chapters.iter().zip(ends).filter_map(|(chapter, end_ms)| {
        let end_ms = end_ms.max(chapter.start_ms.saturating_add(if end_ms > chapter.start_ms {
            0
        } else {
            LAST_MS_MIN
        }));
        WebVttCue::from_parts((chapter.start_ms, end_ms), "", escape_text(&chapter.title))
    });
    render_whole(&cues.collect::<Vec<_>>())
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
        let unknown = render_chapters(&chapters, 0);
        assert!(unknown.contains("00:01:01.500 --> 00:01:02.500"), "{unknown}");
        assert_eq!(render_chapters(&[], 1_000), "WEBVTT\n");
    }
}

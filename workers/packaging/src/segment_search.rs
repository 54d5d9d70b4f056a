//! Which segment of a rendition is shown at a time, read back from its final media playlist.

/// A segment in its playlist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ListedSegment {
    /// Its number, from 1.
    pub number: u32,
    /// When it begins, in microseconds.
    pub start_us: u64,
}

/// The segment that is shown at a time in microseconds; the last one behind the end, none of a playlist without any.
pub fn find_segment(media_playlist: &str, at_us: u64) -> Option<ListedSegment> {
    let mut next_us = 0_u64;
    let mut found = None;
    let durations = media_playlist.lines().filter_map(|line| line.strip_prefix("#EXTINF:"));
    for (duration, number) in durations.zip(1_u32..) {
        if next_us > at_us {
            break;
        }
        found = Some(ListedSegment { number, start_us: next_us });
        next_us = next_us.saturating_add(parse_seconds(duration.trim_end_matches(','))?);
    }
    found
}

/// When a segment begins and ends, in microseconds, by its number from 1; none of a playlist that does not have it.
pub fn find_segment_span(media_playlist: &str, number: u32) -> Option<(u64, u64)> {
    let mut end_us = 0_u64;
    let durations = media_playlist.lines().filter_map(|line| line.strip_prefix("#EXTINF:"));
    for (duration, listed) in durations.zip(1_u32..=number) {
        let start_us = end_us;
        end_us = end_us.saturating_add(parse_seconds(duration.trim_end_matches(','))?);
        if listed == number {
            return Some((start_us, end_us));
        }
    }
    None
}

/// Seconds with six decimals, as playlists have them, in microseconds.
fn parse_seconds(text: &str) -> Option<u64> {
    let (whole, decimals) = text.split_once('.')?;
    let micros: u64 = decimals.parse().ok().filter(|_| decimals.len() == 6)?;
    whole.parse::<u64>().ok()?.checked_mul(1_000_000)?.checked_add(micros)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{playlist::render_media, presentation::Presentation, testing::build_example};

    #[test]
    fn a_time_has_its_segment() {
        let text = "#EXTM3U\n#EXTINF:6.000000,\n1.m4s\n#EXTINF:6.006000,\n2.m4s\n#EXTINF:0.500000,\n3.m4s\n";
        for (at_us, number, start_us) in [
            (0, 1, 0),
            (5_999_999, 1, 0),
            (6_000_000, 2, 6_000_000),
            (12_006_000, 3, 12_006_000),
            (u64::MAX, 3, 12_006_000),
        ] {
            assert_eq!(find_segment(text, at_us), Some(ListedSegment { number, start_us }), "{at_us}");
        }
        for (number, span_us) in
            [(1, (0, 6_000_000)), (2, (6_000_000, 12_006_000)), (3, (12_006_000, 12_506_000))]
        {
            assert_eq!(find_segment_span(text, number), Some(span_us));
        }
        assert_eq!((find_segment_span(text, 0), find_segment_span(text, 4)), (None, None));
        assert_eq!(find_segment("#EXTM3U\n", 0), None);
        assert_eq!(find_segment("#EXTM3U\n#EXTINF:6,\n1.m4s\n", 0), None, "not as it is written here");
    }

    #[test]
    fn it_is_read_as_it_is_written() {
        let (plan, parts) = build_example();
        let made = Presentation::assemble(&plan, &parts).unwrap();
        let text = render_media(&made.video[0], made.target_seconds());
        let count = u32::try_from(made.video[0].segments.len()).unwrap();
        assert_eq!(find_segment(&text, 61_000_000).unwrap().number, count);
    }
}

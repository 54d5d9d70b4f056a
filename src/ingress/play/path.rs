//! What a player may ask for below its token: a closed list, so that no text of a client becomes a key.

use schemas::keys;

/// Longest name of a rendition in characters.
const RENDITION_LENGTH_MAX: usize = 16;

/// One thing of an encode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum PlaybackPath<'a> {
    /// The multivariant playlist.
    Multivariant,
    /// The DASH manifest.
    Manifest,
    /// The poster.
    Poster,
    /// The list of its chapters.
    Chapters,
    /// The same for players of HLS.
    ChapterList,
    /// The list of the tiles of the storyboard.
    Storyboard,
    /// A sheet of the storyboard, from 1.
    StoryboardSheet(u32),
    /// The key of encrypted segments.
    SegmentKey,
    /// The final media playlist of a rendition.
    Playlist(&'a str),
    /// The media playlist of a rendition while it grows, and afterwards for players that began with it.
    Growing(&'a str),
    /// The playlist of pictures that stand alone.
    IFrames(&'a str),
    /// The init segment of a rendition.
    Init(&'a str),
    /// A media segment of a rendition, from 1.
    Segment(&'a str, u32),
    /// A segment of subtitles, from 1.
    SubtitleSegment(&'a str, u32),
    /// All subtitles of a rendition.
    WholeSubtitles(&'a str),
}

impl<'a> PlaybackPath<'a> {
    /// Reads the path behind the media id; `None` for anything that no encode has.
    pub(super) fn parse(path: &'a str) -> Option<Self> {
        match path {
            keys::MULTIVARIANT => return Some(Self::Multivariant),
            keys::MANIFEST => return Some(Self::Manifest),
            keys::POSTER => return Some(Self::Poster),
            keys::CHAPTERS => return Some(Self::Chapters),
            keys::CHAPTER_LIST => return Some(Self::ChapterList),
            keys::STORYBOARD => return Some(Self::Storyboard),
            keys::SEGMENT_KEY => return Some(Self::SegmentKey),
            _ => {}
        }
        let (rendition, file) = path.split_once('/')?;
        let letters = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        if rendition.is_empty() || rendition.len() > RENDITION_LENGTH_MAX || !rendition.chars().all(letters) {
            return None;
        }
        match file {
            "index.m3u8" => Some(Self::Playlist(rendition)),
            "event.m3u8" => Some(Self::Growing(rendition)),
            "iframes.m3u8" => Some(Self::IFrames(rendition)),
            "init.mp4" => Some(Self::Init(rendition)),
            keys::WHOLE_SUBTITLES => Some(Self::WholeSubtitles(rendition)),
            _ => match file.split_once('.')? {
                (digits, "jpg") if rendition == keys::STORYBOARD_SHEETS => {
                    parse_number(digits).map(Self::StoryboardSheet)
                }
                (digits, "m4s") => parse_number(digits).map(|number| Self::Segment(rendition, number)),
                (digits, "vtt") => {
                    parse_number(digits).map(|number| Self::SubtitleSegment(rendition, number))
                }
                _ => None,
            },
        }
    }

    /// Its key below the encode's folder.
    pub(super) fn object_key(self) -> String {
        match self {
            Self::Multivariant => keys::MULTIVARIANT.to_owned(),
            Self::Manifest => keys::MANIFEST.to_owned(),
            Self::Poster => keys::POSTER.to_owned(),
            Self::Chapters => keys::CHAPTERS.to_owned(),
            Self::ChapterList => keys::CHAPTER_LIST.to_owned(),
            Self::Storyboard => keys::STORYBOARD.to_owned(),
            Self::StoryboardSheet(number) => keys::storyboard_sheet_path(number),
            Self::SegmentKey => keys::SEGMENT_KEY.to_owned(),
            Self::Playlist(rendition) => keys::media_playlist_path(rendition),
            Self::Growing(rendition) => keys::event_playlist_path(rendition),
            Self::IFrames(rendition) => keys::iframe_playlist_path(rendition),
            Self::Init(rendition) => keys::init_segment_path(rendition),
            Self::Segment(rendition, number) => keys::segment_path(rendition, number),
            Self::SubtitleSegment(rendition, number) => keys::subtitle_segment_path(rendition, number),
            Self::WholeSubtitles(rendition) => keys::whole_subtitles_path(rendition),
        }
    }

    /// Its media type (RFC 8216 section 4, ISO/IEC 23009-1 annex C, RFC 4337).
    pub(super) fn content_type(self) -> &'static str {
        match self {
            Self::Multivariant | Self::Playlist(_) | Self::Growing(_) | Self::IFrames(_) => {
                "application/vnd.apple.mpegurl"
            }
            Self::Manifest => "application/dash+xml",
            Self::Poster | Self::StoryboardSheet(_) => "image/jpeg",
            Self::Chapters | Self::Storyboard | Self::SubtitleSegment(..) | Self::WholeSubtitles(_) => {
                "text/vtt; charset=utf-8"
            }
            Self::ChapterList => "application/json",
            Self::SegmentKey => "application/octet-stream",
            Self::Init(rendition) | Self::Segment(rendition, _) if rendition.starts_with('a') => "audio/mp4",
            Self::Init(_) | Self::Segment(..) => "video/mp4",
        }
    }

    /// True for what says which segments there are, and how they are decoded: it is small, and every viewer asks for it.
    pub(super) const fn is_description(self) -> bool {
        matches!(
            self,
            Self::Multivariant | Self::Manifest | Self::Playlist(_) | Self::IFrames(_) | Self::Init(_)
        )
    }
}

/// The number of a segment. Each has one name: `01` would be another object, and `+1` parses as a number.
fn parse_number(digits: &str) -> Option<u32> {
    let is_plain = !digits.starts_with('0') && digits.chars().all(|c| c.is_ascii_digit());
    is_plain.then(|| digits.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_an_encode_has_is_understood() {
        for (path, wanted) in [
            ("master.m3u8", Some(PlaybackPath::Multivariant)),
            ("manifest.mpd", Some(PlaybackPath::Manifest)),
            ("poster.jpg", Some(PlaybackPath::Poster)),
            ("key", Some(PlaybackPath::SegmentKey)),
            ("chapters.vtt", Some(PlaybackPath::Chapters)),
            ("chapters.json", Some(PlaybackPath::ChapterList)),
            ("storyboard.vtt", Some(PlaybackPath::Storyboard)),
            ("storyboard/3.jpg", Some(PlaybackPath::StoryboardSheet(3))),
            ("storyboard/03.jpg", None),
            ("v720/3.jpg", None),
            ("v720/key", None),
            ("v720/index.m3u8", Some(PlaybackPath::Playlist("v720"))),
            ("v720/event.m3u8", Some(PlaybackPath::Growing("v720"))),
            ("v720/iframes.m3u8", Some(PlaybackPath::IFrames("v720"))),
            ("a0/init.mp4", Some(PlaybackPath::Init("a0"))),
            ("a0/12.m4s", Some(PlaybackPath::Segment("a0", 12))),
            ("s0/12.vtt", Some(PlaybackPath::SubtitleSegment("s0", 12))),
            ("s0/subtitles.vtt", Some(PlaybackPath::WholeSubtitles("s0"))),
            ("s0/012.vtt", None),
            ("s0/1.vtt.m4s", None),
            ("subtitles.vtt", None),
            ("a0/012.m4s", None),
            ("a0/0.m4s", None),
            ("a0/+1.m4s", None),
            ("a0/99999999999.m4s", None),
            ("a0/.m4s", None),
            ("report.json", None),
            ("../source", None),
            ("v720/../../source", None),
            ("V720/init.mp4", None),
            ("/init.mp4", None),
            ("v720/init.mp4/", None),
            ("v72000000000000000/init.mp4", None),
            ("", None),
        ] {
            assert_eq!(PlaybackPath::parse(path), wanted, "{path:?}");
        }
        assert_eq!(PlaybackPath::Segment("v720", 3).object_key(), "v720/3.m4s");
    }
}

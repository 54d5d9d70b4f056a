//! Which rendition and which track of an encode a file is made of.

use packaging::ListedAudio;
use schemas::media::EncodedRendition;

use super::DownloadQuery;
use web::{error::Problem, problem_code::ProblemCode};

/// In place of a track: no sound.
const NO_SOUND: &str = "none";

/// What a file is made of, pictures first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DownloadChoice {
    pub(super) tracks: Vec<ChosenTrack>,
}

/// One track of the file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ChosenTrack {
    /// Folder name of its rendition.
    pub(super) rendition: String,
    pub(super) is_video: bool,
    /// Tag of RFC 5646.
    pub(super) language: String,
    pub(super) segment_count: u32,
}

impl DownloadChoice {
    /// Chooses among the renditions of an encode; its multivariant playlist says what is spoken in its tracks.
    ///
    /// # Errors
    /// When the query names what is not there, or leaves nothing over.
    pub(super) fn new(
        renditions: &[EncodedRendition],
        multivariant: &str,
        wanted: &DownloadQuery,
    ) -> Result<Self, Problem> {
        let (video, audio): (Vec<_>, Vec<_>) = renditions.iter().partition(|found| found.width > 0);
        let listed = packaging::list_audio(multivariant);
        let language_of = |name: &str| {
            let found = listed.iter().find(|audio| audio.name == name);
            found.map_or(packaging::language::UNDETERMINED, |audio| audio.language.as_str())
        };
        let to_track = |rendition: &EncodedRendition| ChosenTrack {
            is_video: rendition.width > 0,
            language: language_of(&rendition.name).to_owned(),
            segment_count: rendition.segment_count,
            rendition: rendition.name.clone(),
        };
        let sound = match wanted.audio.as_deref() {
            None => audio.first(),
            Some(NO_SOUND) => None,
            Some(name) => {
                let found = audio.iter().find(|found| found.name == name);
                let by_language = || {
                    let tag = packaging::language::to_language_tag(name);
                    audio.iter().find(|found| {
                        tag != packaging::language::UNDETERMINED && language_of(&found.name) == tag
                    })
                };
                Some(found.or_else(by_language).ok_or_else(|| no_such_track(name, &audio, &listed))?)
            }
        };
        if wanted.height == Some(0) {
            return Err(malformed("height=0 is no height"));
        }
        let picture = choose_picture(&video, wanted.height);
        let tracks: Vec<ChosenTrack> = picture.into_iter().chain(sound.copied()).map(to_track).collect();
        if tracks.is_empty() {
            return Err(malformed("without its sound nothing is left of it"));
        }
        Ok(Self { tracks })
    }

    /// What it is, as a part of a name: the same for the same tracks.
    pub(super) fn name(&self) -> String {
        let names: Vec<&str> = self.tracks.iter().map(|track| track.rendition.as_str()).collect();
        names.join("+")
    }

    pub(super) fn has_video(&self) -> bool {
        self.tracks.iter().any(|track| track.is_video)
    }

    /// The media type of the file (RFC 4337).
    pub(super) fn content_type(&self) -> &'static str {
        if self.has_video() { "video/mp4" } else { "audio/mp4" }
    }
}

/// The best rendition within a height, which counts the short side, as people name sizes.
fn choose_picture<'a>(video: &[&'a EncodedRendition], height: Option<u32>) -> Option<&'a EncodedRendition> {
    let short_side = |found: &&&EncodedRendition| found.width.min(found.height);
    let all = video.iter();
    let Some(height) = height else { return all.max_by_key(short_side).copied() };
    let fitting = all.clone().filter(|found| short_side(found) <= height).max_by_key(short_side);
    fitting.or_else(|| all.min_by_key(short_side)).copied()
}

fn no_such_track(name: &str, audio: &[&EncodedRendition], listed: &[ListedAudio]) -> Problem {
    let described = audio.iter().map(|found| {
        let known = listed.iter().find(|audio| audio.name == found.name);
        known.map_or_else(|| found.name.clone(), |audio| format!("{} ({})", found.name, audio.language))
    });
    let described: Vec<String> = described.chain([NO_SOUND.to_owned()]).collect();
    // Text of a client is repeated with an end.
    let name: String = name.chars().take(35).collect();
    malformed(format!("audio={name} is none of {}", described.join(", ")))
}

fn malformed(detail: impl Into<String>) -> Problem {
    Problem::new(ProblemCode::QueryMalformed).with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MULTIVARIANT: &str = "#EXTM3U\n\
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",LANGUAGE=\"de\",NAME=\"Deutsch\",URI=\"a0/index.m3u8\"\n\
        #EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"audio\",LANGUAGE=\"pt-BR\",NAME=\"x\",URI=\"a1/index.m3u8\"\n";

    fn rendition(name: &str, width: u32, height: u32) -> EncodedRendition {
        EncodedRendition {
            name: name.into(),
            codecs: String::new(),
            width,
            height,
            peak_bps: 1,
            average_bps: 1,
            segment_count: 3,
            size_bytes: 1,
        }
    }

    fn chosen(all: &[EncodedRendition], height: Option<u32>, audio: Option<&str>) -> Option<String> {
        let query = DownloadQuery { height, audio: audio.map(str::to_owned) };
        DownloadChoice::new(all, MULTIVARIANT, &query).ok().map(|choice| choice.name())
    }

    #[test]
    fn the_best_is_taken_unless_somebody_chooses() {
        let film = [
            rendition("v720", 1280, 720),
            rendition("v360", 640, 360),
            rendition("a0", 0, 0),
            rendition("a1", 0, 0),
        ];
        let portrait = [rendition("v720", 720, 1280), rendition("v360", 360, 640)];
        for (all, height, audio, wanted) in [
            (&film[..], None, None, Some("v720+a0")),
            (&film, Some(720), Some("a1"), Some("v720+a1")),
            (&film, Some(719), Some("pt_br"), Some("v360+a1")),
            (&film, Some(144), Some("ger"), Some("v360+a0")),
            (&film, Some(4_000), Some("none"), Some("v720")),
            (&film, None, Some("fr"), None),
            (&film, None, Some("a2"), None),
            (&film, None, Some("und"), None),
            (&film, Some(0), None, None),
            (&portrait, Some(720), None, Some("v720")),
            (&portrait, Some(640), None, Some("v360")),
            (&film[2..], Some(720), None, Some("a0")),
            (&film[2..], None, Some("none"), None),
        ] {
            assert_eq!(chosen(all, height, audio).as_deref(), wanted, "{height:?} {audio:?}");
        }
    }

    #[test]
    fn a_refusal_says_what_there_is() {
        let all = [rendition("a0", 0, 0), rendition("a1", 0, 0)];
        let query = DownloadQuery { height: None, audio: Some("fr".into()) };
        let refused = DownloadChoice::new(&all, MULTIVARIANT, &query).unwrap_err().to_document();
        assert_eq!(refused["detail"], "audio=fr is none of a0 (de), a1 (pt-BR), none");
    }
}

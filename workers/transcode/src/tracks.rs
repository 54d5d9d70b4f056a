//! What a running part has stored so far: its tracks, grown segment by segment and checked against the plan.
//!
//! A repeated part keeps the tracks of the try before until it has passed them, so that a growing playlist never shrinks.

use data_encoding::HEXLOWER;
use packaging::{
    mp4::{self, Mp4TrackKind},
    plan::PartWork,
    subtitle_timeline::SubtitleTimeline,
};
use schemas::{
    job::{EncodePlan, JobPartRecord, StoredSegment, StoredTrack},
    media::Rational,
};
use sha2::{Digest, Sha256};

use crate::error::TranscodeError;

/// One rendition that the part makes.
#[derive(Debug, Clone, PartialEq, Eq)]
struct ExpectedRendition {
    name: String,
    kind: ExpectedKind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ExpectedKind {
    /// Of so many pixels.
    Video(u32, u32),
    Audio,
    /// In so many ticks a second.
    Subtitles(u32),
}

impl ExpectedRendition {
    fn is_subtitles(&self) -> bool {
        matches!(self.kind, ExpectedKind::Subtitles(_))
    }
}

/// Codec string of WebVTT; it stands in no playlist.
const WEBVTT: &str = "wvtt";

/// The tracks of a running part.
#[derive(Debug)]
pub(crate) struct PartTracks {
    expected: Vec<ExpectedRendition>,
    first_segment: u32,
    /// What this try made.
    made: Vec<Option<StoredTrack>>,
    /// What earlier tries left.
    before: Vec<StoredTrack>,
    /// The segments of subtitles.
    timeline: SubtitleTimeline,
}

/// A segment the child made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct EncodedSegment {
    /// Which rendition.
    pub(crate) rendition: u16,
    /// Its number in the rendition, from 1.
    pub(crate) number: u32,
    /// Ticks per second.
    pub(crate) timescale: u32,
    /// Times and size.
    pub(crate) segment: StoredSegment,
}

impl PartTracks {
    /// The tracks that `work` of a plan will have; `part` holds what earlier tries stored.
    pub(crate) fn new(plan: &EncodePlan, work: PartWork<'_>, part: &JobPartRecord) -> Self {
        let timeline = SubtitleTimeline::new(plan);
        let (expected, first_segment) = match work {
            PartWork::Video { video, range } => {
                let rungs = video.rungs.iter();
                let all = rungs
                    .map(|r| ExpectedRendition {
                        name: r.name.clone(),
                        kind: ExpectedKind::Video(r.width, r.height),
                    })
                    .collect();
                (all, range.first_segment)
            }
            PartWork::Audio(audio) => {
                (vec![ExpectedRendition { name: audio.name.clone(), kind: ExpectedKind::Audio }], 1)
            }
            PartWork::Subtitles(tracks) => {
                let kind = ExpectedKind::Subtitles(timeline.timescale);
                let tracks = tracks.iter();
                (tracks.map(|track| ExpectedRendition { name: track.name.clone(), kind }).collect(), 1)
            }
            PartWork::Finish => (Vec::new(), 1),
        };
        let made = vec![None; expected.len()];
        Self { expected, first_segment, made, before: part.tracks.clone(), timeline }
    }

    /// Folder name of a rendition.
    pub(crate) fn rendition_name(&self, rendition: u16) -> Result<&str, TranscodeError> {
        let expected = self.expected.get(usize::from(rendition));
        expected
            .map(|e| e.name.as_str())
            .ok_or_else(|| TranscodeError::Unplanned(format!("rendition {rendition}")))
    }

    /// Takes note of an init segment.
    pub(crate) fn add_init(&mut self, rendition: u16, bytes: &[u8]) -> Result<(), TranscodeError> {
        let slot = usize::from(rendition);
        let Some(ExpectedRendition { name, kind }) = self.expected.get(slot).cloned() else {
            return Err(TranscodeError::Unplanned(format!("rendition {rendition}")));
        };
        let (timescale, codecs) = match kind {
            ExpectedKind::Subtitles(timescale) => (timescale, WEBVTT.to_owned()),
            ExpectedKind::Video(..) | ExpectedKind::Audio => {
                let init = mp4::read_init_segment(bytes)
                    .map_err(|why| TranscodeError::Unplanned(format!("init segment of {name}: {why}")))?;
                let found = match init.kind {
                    Mp4TrackKind::Video { width, height, .. } => ExpectedKind::Video(width, height),
                    Mp4TrackKind::Audio { .. } => ExpectedKind::Audio,
                };
                if found != kind {
                    return Err(TranscodeError::Unplanned(format!("{name} holds {:?}", init.kind)));
                }
                (init.timescale, init.codecs)
            }
        };
        let track = StoredTrack {
            rendition: name,
            timescale,
            init_sha256: HEXLOWER.encode(&Sha256::digest(bytes)),
            init_bytes: u64::try_from(bytes.len()).unwrap_or(u64::MAX),
            codecs,
            first_segment: self.first_segment,
            segments: Vec::new(),
        };
        if let Some(made) = self.made.get_mut(slot) {
            *made = Some(track);
        }
        Ok(())
    }

    /// Takes note of a stored segment; they come by number.
    pub(crate) fn add_segment(&mut self, made: EncodedSegment) -> Result<(), TranscodeError> {
        let name = self.rendition_name(made.rendition)?.to_owned();
        let track = self.made.get_mut(usize::from(made.rendition)).and_then(Option::as_mut);
        let Some(track) = track else {
            return Err(TranscodeError::Unplanned(format!("{name}: a segment before the init")));
        };
        let next = u64::from(track.first_segment) + u64::try_from(track.segments.len()).unwrap_or(0);
        let follows = track
            .segments
            .last()
            .is_none_or(|l| l.start_ticks + l.duration_ticks == made.segment.start_ticks);
        if u64::from(made.number) != next || track.timescale != made.timescale || !follows {
            return Err(TranscodeError::Unplanned(format!(
                "{name}: segment {} where {next} was due",
                made.number
            )));
        }
        track.segments.push(made.segment);
        Ok(())
    }

    /// Segments that every rendition has.
    pub(crate) fn common_segment_count(&self) -> usize {
        self.made.iter().map(|track| track.as_ref().map_or(0, |t| t.segments.len())).min().unwrap_or(0)
    }

    /// What playlists may show: of each rendition the longer of what this try and earlier ones stored.
    pub(crate) fn stored_tracks(&self) -> Vec<StoredTrack> {
        let mut all = Vec::new();
        // Subtitles are shown when all of them are there, by the plan: a record has no room for the segments of many tracks.
        let is_growing =
            |(expected, _): &(&ExpectedRendition, &Option<StoredTrack>)| !expected.is_subtitles();
        for (expected, made) in self.expected.iter().zip(&self.made).filter(is_growing) {
            let before = self.before.iter().find(|t| t.rendition == expected.name);
            // A repeated try begins at zero, but what players were shown must not become shorter.
            let longer = match (made, before) {
                (Some(made), Some(before)) if made.segments.len() < before.segments.len() => Some(before),
                (Some(made), _) => Some(made),
                (None, before) => before,
            };
            all.extend(longer.filter(|t| !t.segments.is_empty()).cloned());
        }
        all
    }

    /// The tracks of a finished try: every rendition whole, as long as planned.
    pub(crate) fn finish(self, work: PartWork<'_>) -> Result<Vec<StoredTrack>, TranscodeError> {
        let mut tracks = Vec::new();
        for (expected, made) in self.expected.into_iter().zip(self.made) {
            if made.is_none() && expected.is_subtitles() {
                // A track without a text is none.
                continue;
            }
            let track =
                made.ok_or_else(|| TranscodeError::Unplanned(format!("{} was not made", expected.name)))?;
            let ticks: u64 = track.segments.iter().map(|s| s.duration_ticks).sum();
            let is_whole = match work {
                PartWork::Video { video, range } => {
                    has_duration(ticks, track.timescale, range.frame_count, video.frame_rate)
                }
                PartWork::Audio(audio) => {
                    let samples = packaging::presentation::fill_last_frame(audio.duration_samples);
                    has_duration(
                        ticks,
                        track.timescale,
                        samples,
                        Rational { num: audio.sample_rate_hz, den: 1 },
                    )
                }
                PartWork::Subtitles(_) => self.timeline.is_made_by(&track.segments),
                PartWork::Finish => true,
            };
            if !is_whole {
                return Err(TranscodeError::Unplanned(format!("{} lasts {ticks} ticks", expected.name)));
            }
            let segments = if expected.is_subtitles() { Vec::new() } else { track.segments };
            tracks.push(StoredTrack { segments, ..track });
        }
        Ok(tracks)
    }
}

fn has_duration(ticks: u64, timescale: u32, count: u64, rate: Rational) -> bool {
    // Multiplied crosswise: divisions would round, and a missing frame could pass.
    u128::from(ticks) * u128::from(rate.num)
        == u128::from(count) * u128::from(rate.den) * u128::from(timescale)
}

#[cfg(test)]
mod tests {
    use schemas::{ids::JobId, job::AudioPlan};

    use super::*;

    fn plan() -> AudioPlan {
        AudioPlan {
            loudness_lufs: None,
            name: "a0".into(),
            stream_index: 0,
            language: "und".into(),
            label: "x".into(),
            channels: 2,
            sample_rate_hz: 48_000,
            bit_rate_bps: 64_000,
            duration_samples: 4 * 1_024,
            segment_seconds: Rational { num: 1, den: 1 },
        }
    }

    fn part(tracks: Vec<StoredTrack>) -> JobPartRecord {
        JobPartRecord { attempt: 1, tracks, ..JobPartRecord::new(JobId::from_bytes([1; 16]), "a0") }
    }

    fn track(segments: usize) -> StoredTrack {
        let segment = |n: usize| StoredSegment {
            start_ticks: 1_024 * u64::try_from(n).unwrap(),
            duration_ticks: 1_024,
            size_bytes: 9,
        };
        StoredTrack {
            rendition: "a0".into(),
            timescale: 48_000,
            init_sha256: "x".into(),
            init_bytes: 1,
            codecs: "mp4a.40.2".into(),
            first_segment: 1,
            segments: (0..segments).map(segment).collect(),
        }
    }

    fn made(number: u32, start_ticks: u64) -> EncodedSegment {
        let segment = StoredSegment { start_ticks, duration_ticks: 1_024, size_bytes: 9 };
        EncodedSegment { rendition: 0, number, timescale: 48_000, segment }
    }

    #[test]
    fn what_was_not_planned_is_refused() {
        let audio = plan();
        let mut tracks = PartTracks::new(
            &packaging::testing::build_example().0,
            PartWork::Audio(&audio),
            &part(Vec::new()),
        );
        assert!(tracks.add_init(1, &[]).is_err(), "a foreign rendition");
        assert!(tracks.add_init(0, b"not a file").is_err(), "not an init segment");
        assert!(tracks.add_segment(made(1, 0)).is_err(), "a segment before the init");
        tracks.made[0] = Some(track(0));
        assert!(tracks.add_segment(made(2, 0)).is_err(), "a number left out");
        tracks.add_segment(made(1, 0)).unwrap();
        assert!(tracks.add_segment(made(1, 1_024)).is_err(), "a number twice");
        assert!(tracks.add_segment(made(2, 2_048)).is_err(), "a gap");
        tracks.add_segment(made(2, 1_024)).unwrap();
        assert!(tracks.finish(PartWork::Audio(&audio)).is_err(), "too short");
    }

    #[test]
    fn a_repeat_never_shows_less() {
        let audio = plan();
        let mut tracks = PartTracks::new(
            &packaging::testing::build_example().0,
            PartWork::Audio(&audio),
            &part(vec![track(3)]),
        );
        let shown = |tracks: &PartTracks| tracks.stored_tracks().first().map_or(0, |t| t.segments.len());
        assert_eq!((shown(&tracks), tracks.common_segment_count()), (3, 0));
        tracks.made[0] = Some(track(0));
        for number in 1..=4_u32 {
            tracks.add_segment(made(number, 1_024 * u64::from(number - 1))).unwrap();
            assert_eq!(shown(&tracks), usize::try_from(number.max(3)).unwrap());
        }
        assert_eq!(tracks.finish(PartWork::Audio(&audio)).unwrap()[0].segments.len(), 4);
    }
}

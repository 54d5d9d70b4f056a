//! What was made, as playlists and manifests describe it: renditions with their exact segments.
//!
//! All numbers are sample counts and bytes of stored objects; nothing here is an estimate.

use schemas::{
    job::{self, EncodePlan, JobPartRecord, JobPartStatus, StoredSegment, StoredTrack},
    media::{EncodedRendition as Summary, EncodedSubtitles, Rational},
};

pub use crate::audio_frame::{AUDIO_FRAME_SAMPLES, fill_last_frame};
use crate::{plan, subtitle_timeline::SubtitleTimeline};

/// Everything of one encode that can be played.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Presentation {
    /// Video renditions, best first.
    pub video: Vec<PresentationRendition>,
    /// Audio renditions, the default one first.
    pub audio: Vec<PresentationRendition>,
    /// Subtitles; a track without a text is none.
    pub subtitles: Vec<PresentationRendition>,
}

/// One rendition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PresentationRendition {
    /// Folder name, such as `v720`.
    pub name: String,
    /// RFC 6381 codec string.
    pub codecs: String,
    /// Ticks per second.
    pub timescale: u32,
    /// Bytes of the init segment; of subtitles, of the file with all of them.
    pub init_bytes: u64,
    /// Segments in order; their numbers start at 1.
    pub segments: Vec<StoredSegment>,
    /// Of each segment of pictures the bytes up to the end of its first picture, which stands alone; empty until they are measured.
    pub iframe_bytes: Vec<u64>,
    /// What it holds.
    pub kind: RenditionKind,
}

/// What a rendition holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RenditionKind {
    /// Pictures.
    Video {
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// Frames per second.
        frame_rate: Rational,
    },
    /// Sound.
    Audio {
        /// Language tag, `und` when unknown.
        language: String,
        /// Name for people.
        label: String,
        /// Channels.
        channels: u32,
        /// Samples per second.
        sample_rate_hz: u32,
    },
    /// Text.
    Subtitles {
        /// Language tag, `und` when unknown.
        language: String,
        /// Name for people.
        label: String,
        /// Shown also to those who want no subtitles.
        is_forced: bool,
        /// Also names sounds beside speech.
        is_hearing_impaired: bool,
    },
}

/// Parts that do not add up to their plan.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PartPlanMismatch(pub String);

impl Presentation {
    /// Puts the parts of a finished job together, checking them against the plan: every part done, one init segment per
    /// rendition, segments without gap or overlap across joints, and as many frames and samples as planned.
    pub fn assemble(plan: &EncodePlan, parts: &[JobPartRecord]) -> Result<Self, PartPlanMismatch> {
        for name in plan::part_names(plan) {
            let part = parts.iter().find(|p| p.part == name);
            if part.is_none_or(|p| p.status != JobPartStatus::Done) {
                return Err(PartPlanMismatch(format!("part {name} is not done")));
            }
        }
        let found = Self::from_unfinished_parts(plan, parts);
        if let Some(video) = &plan.video {
            for (rung, rendition) in video.rungs.iter().zip(&found.video) {
                check_single_init(&rung.name, parts)?;
                rendition.check_continuity()?;
                rendition.check_duration(video.frame_count, video.frame_rate)?;
            }
            if found.video.len() != video.rungs.len() {
                return Err(PartPlanMismatch("a rung is missing".into()));
            }
        }
        for (audio, rendition) in plan.audio.iter().zip(&found.audio) {
            rendition.check_continuity()?;
            let rate = Rational { num: audio.sample_rate_hz, den: 1 };
            rendition.check_duration(fill_last_frame(audio.duration_samples), rate)?;
        }
        if found.audio.len() != plan.audio.len() {
            return Err(PartPlanMismatch("an audio track is missing".into()));
        }
        Ok(found)
    }

    /// What can be played of an unfinished job: of each rendition the segments from the first on without a gap.
    /// Renditions without a segment are left out.
    pub fn from_unfinished_parts(plan: &EncodePlan, parts: &[JobPartRecord]) -> Self {
        let video = plan.video.as_ref().map(|video| {
            let kind = |rung: &job::LadderRung| RenditionKind::Video {
                width: rung.width,
                height: rung.height,
                frame_rate: video.frame_rate,
            };
            video
                .rungs
                .iter()
                .filter_map(|rung| {
                    PresentationRendition::from_unfinished_parts(&rung.name, kind(rung), parts)
                })
                .collect()
        });
        let audio = plan.audio.iter().filter_map(|audio| {
            let kind = RenditionKind::Audio {
                language: audio.language.clone(),
                label: audio.label.clone(),
                channels: audio.channels,
                sample_rate_hz: audio.sample_rate_hz,
            };
            PresentationRendition::from_unfinished_parts(&audio.name, kind, parts)
        });
        Self {
            video: video.unwrap_or_default(),
            audio: audio.collect(),
            subtitles: list_subtitles(plan, parts),
        }
    }

    /// Takes out the rungs that cost as much as a larger one: simple pictures may, and a player that goes down to such a rung when
    /// bandwidth is short never comes up again. Gives what was taken out.
    pub fn remove_costly_rungs(&mut self) -> Vec<PresentationRendition> {
        let target = self.target_seconds();
        let mut least_bps = u64::MAX;
        let is_costly = |rung: &mut PresentationRendition| {
            let own_bps = rung.peak_bps(target);
            let is_costly = own_bps >= least_bps;
            least_bps = least_bps.min(own_bps);
            is_costly
        };
        self.video.extract_if(.., is_costly).collect()
    }

    /// All renditions of pictures and sound, video first.
    pub fn renditions(&self) -> impl Iterator<Item = &PresentationRendition> {
        self.video.iter().chain(&self.audio)
    }

    /// All renditions, subtitles last.
    pub fn listed_renditions(&self) -> impl Iterator<Item = &PresentationRendition> {
        self.renditions().chain(&self.subtitles)
    }

    /// The target duration: the longest segment in whole seconds, rounded to the nearest (RFC 8216, 4.3.3.1), since players keep a
    /// multiple of it in their buffers.
    pub fn target_seconds(&self) -> u64 {
        let longest = self.renditions().map(|r| round_to_seconds(r.longest_segment_ticks(), r.timescale));
        longest.max().unwrap_or(1).max(1)
    }
}

impl PresentationRendition {
    /// The language of sound and text; none of pictures.
    pub fn language(&self) -> Option<&str> {
        match &self.kind {
            RenditionKind::Audio { language, .. } | RenditionKind::Subtitles { language, .. } => {
                Some(language)
            }
            RenditionKind::Video { .. } => None,
        }
    }

    fn from_unfinished_parts(name: &str, kind: RenditionKind, parts: &[JobPartRecord]) -> Option<Self> {
        let mut tracks: Vec<&StoredTrack> =
            parts.iter().flat_map(|p| &p.tracks).filter(|t| t.rendition == name).collect();
        tracks.sort_by_key(|track| track.first_segment);
        let first = *tracks.first()?;
        let mut segments: Vec<StoredSegment> = Vec::new();
        for track in tracks {
            // Up to the first gap: a player takes the next segment for the next in time.
            if u32::try_from(segments.len() + 1).ok() != Some(track.first_segment) {
                break;
            }
            segments.extend(&track.segments);
        }
        (!segments.is_empty()).then(|| Self {
            name: name.to_owned(),
            codecs: first.codecs.clone(),
            timescale: first.timescale.max(1),
            init_bytes: first.init_bytes,
            segments,
            iframe_bytes: Vec::new(),
            kind,
        })
    }

    /// Sum of the segments, in ticks.
    pub fn duration_ticks(&self) -> u64 {
        self.segments.iter().map(|s| s.duration_ticks).sum()
    }

    /// Bytes of init and segments.
    pub fn size_bytes(&self) -> u64 {
        self.init_bytes + self.segments.iter().map(|s| s.size_bytes).sum::<u64>()
    }

    /// Bits per second of the file with all of the rendition, rounded up.
    pub(crate) fn whole_bps(&self) -> u64 {
        bits_per_second(self.init_bytes, self.duration_ticks(), self.timescale)
    }

    /// Average bits per second over all segments, rounded up.
    pub fn average_bps(&self) -> u64 {
        bits_per_second(
            self.segments.iter().map(|s| s.size_bytes).sum(),
            self.duration_ticks(),
            self.timescale,
        )
    }

    /// Peak bits per second as RFC 8216 (section 4.1) defines it: the largest rate of any contiguous segments that last 0.5
    /// to 1.5 target durations together; of all segments where none do.
    pub fn peak_bps(&self, target_seconds: u64) -> u64 {
        let target = target_seconds * u64::from(self.timescale);
        let mut peak = 0;
        for start in 0..self.segments.len() {
            let (mut ticks, mut bytes) = (0, 0);
            for segment in self.segments.iter().skip(start) {
                ticks += segment.duration_ticks;
                bytes += segment.size_bytes;
                if 2 * ticks > 3 * target {
                    break;
                }
                if 2 * ticks >= target {
                    peak = peak.max(bits_per_second(bytes, ticks, self.timescale));
                }
            }
        }
        if peak == 0 { self.average_bps() } else { peak }
    }

    /// The rendition as the medium's record lists it.
    pub fn summary(&self, target_seconds: u64) -> Summary {
        let (width, height) = match self.kind {
            RenditionKind::Video { width, height, .. } => (width, height),
            RenditionKind::Audio { .. } | RenditionKind::Subtitles { .. } => (0, 0),
        };
        Summary {
            name: self.name.clone(),
            codecs: self.codecs.clone(),
            width,
            height,
            peak_bps: self.peak_bps(target_seconds),
            average_bps: self.average_bps(),
            segment_count: u32::try_from(self.segments.len()).unwrap_or(u32::MAX),
            size_bytes: self.size_bytes(),
        }
    }

    /// Subtitles as the medium's record lists them; none of other renditions.
    pub fn subtitle_summary(&self) -> Option<EncodedSubtitles> {
        let RenditionKind::Subtitles { language, label, is_forced, is_hearing_impaired } = &self.kind else {
            return None;
        };
        Some(EncodedSubtitles {
            name: self.name.clone(),
            language: language.clone(),
            label: label.clone(),
            is_forced: *is_forced,
            is_hearing_impaired: Some(*is_hearing_impaired),
            size_bytes: self.size_bytes(),
        })
    }

    /// The longest segment, in ticks.
    pub(crate) fn longest_segment_ticks(&self) -> u64 {
        self.segments.iter().map(|s| s.duration_ticks).max().unwrap_or(0)
    }

    fn check_continuity(&self) -> Result<(), PartPlanMismatch> {
        let mut next = 0;
        for (index, segment) in self.segments.iter().enumerate() {
            if segment.start_ticks != next {
                let found = segment.start_ticks;
                return Err(PartPlanMismatch(format!(
                    "{} segment {} starts at {found}, not {next}",
                    self.name,
                    index + 1
                )));
            }
            next += segment.duration_ticks;
        }
        Ok(())
    }

    /// Whether it lasts exactly `count` units of `rate` a second.
    fn check_duration(&self, count: u64, rate: Rational) -> Result<(), PartPlanMismatch> {
        let planned = u128::from(count) * u128::from(rate.den) * u128::from(self.timescale);
        let found = u128::from(self.duration_ticks()) * u128::from(rate.num);
        if planned == found {
            return Ok(());
        }
        Err(PartPlanMismatch(format!(
            "{} lasts {} ticks, which are not {count} at {}/{}",
            self.name,
            self.duration_ticks(),
            rate.num,
            rate.den
        )))
    }
}

/// Units of which there are so many in a second, as whole seconds, rounded to the nearest.
pub(crate) fn round_to_seconds(units: u64, per_second: u32) -> u64 {
    let per_second = u64::from(per_second.max(1));
    units.saturating_mul(2).saturating_add(per_second) / (2 * per_second)
}

/// The subtitles of a part that is done: all of them at once. Their segments are those of the plan, since a record that held them for
/// every track would be larger than a message may be.
fn list_subtitles(plan: &EncodePlan, parts: &[JobPartRecord]) -> Vec<PresentationRendition> {
    let is_made = |part: &&JobPartRecord| part.part == plan::SUBTITLES && part.status == JobPartStatus::Done;
    let Some(part) = parts.iter().find(is_made) else { return Vec::new() };
    let timeline = SubtitleTimeline::new(plan);
    let segment = |(start_ticks, duration_ticks): &(u64, u64)| StoredSegment {
        start_ticks: *start_ticks,
        duration_ticks: *duration_ticks,
        size_bytes: 0,
    };
    let made = plan.subtitles.iter().filter_map(|planned| {
        let track = part.tracks.iter().find(|track| track.rendition == planned.name)?;
        Some(PresentationRendition {
            name: planned.name.clone(),
            codecs: track.codecs.clone(),
            timescale: timeline.timescale,
            init_bytes: track.init_bytes,
            segments: timeline.segments.iter().map(segment).collect(),
            iframe_bytes: Vec::new(),
            kind: RenditionKind::Subtitles {
                language: planned.language.clone(),
                label: planned.label.clone(),
                is_forced: planned.is_forced,
                is_hearing_impaired: planned.is_hearing_impaired,
            },
        })
    });
    made.collect()
}

/// Rounded up.
pub(crate) fn bits_per_second(bytes: u64, ticks: u64, timescale: u32) -> u64 {
    let bits = u128::from(bytes) * 8 * u128::from(timescale);
    u64::try_from(bits.div_ceil(u128::from(ticks.max(1)))).unwrap_or(u64::MAX)
}

fn check_single_init(rendition: &str, parts: &[JobPartRecord]) -> Result<(), PartPlanMismatch> {
    let mut inits = parts
        .iter()
        .flat_map(|p| &p.tracks)
        .filter(|t| t.rendition == rendition)
        .map(|t| t.init_sha256.as_str());
    // A playlist names one init segment for all parts: another one would decode them with wrong parameters.
    let first = inits.next();
    if inits.all(|init| Some(init) == first) {
        Ok(())
    } else {
        Err(PartPlanMismatch(format!("{rendition} has different init segments in different parts")))
    }
}

//! Whether a profile makes tasks that the media child takes, by planning sources of all kinds with it. Pure.
//!
//! Each number of a profile has its range; here is what has to fit together, judged by the planner and by the checks of the media
//! child themselves, so that no profile passes at the start and fails every upload.
//!
//! Limits: the sources are those of [`SIZES`], [`RATES`] and two lengths.

use packaging::{EncodeProfile, plan};
use schemas::{
    examples,
    job::{EncodePlan, FrameRange},
    media::{AudioTrack, MediaSource, Rational, TechnicalMetadata, VideoTrack},
};

use crate::spec::{self, EncodeMode};

/// Width and height of the sources: the smallest, usual ones lying and standing, the largest, and a strip.
const SIZES: [(u32, u32); 7] =
    [(16, 16), (320, 180), (1_280, 720), (1_080, 1_920), (3_840, 2_160), (16_384, 16_384), (16_384, 64)];

/// Frames per second of the sources.
const RATES: [u32; 5] = [1, 25, 60, 240, 1_000];

/// Length of the short sources, in milliseconds.
const SHORT_MS: u64 = 900;

/// Shortest and longest segment of sound that the media child makes, in milliseconds.
const SEGMENT_MS: std::ops::RangeInclusive<u64> = 50..=3_600_000;

/// A profile that can't work: the field of it that is wrong, if it is one, and why.
pub type ProfileFault = (Option<&'static str>, String);

/// Refuses a profile with which some source of at most `longest_ms` milliseconds could not be encoded, whatever it holds.
///
/// # Errors
/// What is wrong, for people.
pub fn check_profile(profile: &EncodeProfile, longest_ms: u64) -> Result<(), ProfileFault> {
    let sides: Vec<u32> = profile.steps.iter().map(|step| step.short_side_pixels).collect();
    let mut pairs = sides.iter().zip(sides.iter().skip(1));
    if let Some((above, below)) = pairs.find(|(above, below)| above <= below) {
        return Err((Some("steps"), format!("{below} stands below {above}, and the largest comes first")));
    }
    let segment_ms = u64::from(profile.gop_ms) * u64::from(profile.segment_gops);
    if !SEGMENT_MS.contains(&segment_ms) {
        let reason = format!(
            "a segment of {} groups of pictures of {} ms lasts {segment_ms} ms, and it takes {} to {} ms",
            profile.segment_gops,
            profile.gop_ms,
            SEGMENT_MS.start(),
            SEGMENT_MS.end()
        );
        return Err((Some("segment_gops"), reason));
    }
    for duration_ms in [SHORT_MS.min(longest_ms), longest_ms] {
        check_source(profile, None, duration_ms).map_err(|reason| (None, reason))?;
        for size in SIZES {
            for rate in RATES {
                check_source(profile, Some((size, rate)), duration_ms).map_err(|reason| (None, reason))?;
            }
        }
    }
    Ok(())
}

/// Plans one source and asks whether the media child takes its tasks. Without a picture it is sound alone.
fn check_source(
    profile: &EncodeProfile,
    picture: Option<((u32, u32), u32)>,
    duration_ms: u64,
) -> Result<(), String> {
    let kind = picture.map_or_else(
        || "sound".to_owned(),
        |((width, height), rate)| format!("{width}x{height} at {rate} frames per second"),
    );
    let wrong = |reason: String| {
        format!(
            "the media child would refuse a source of {kind}, {duration_ms} ms long: {reason}; what makes parts so long are \
             frame_rate_max, gop, segment_gops, part_segments and single_part_segments_max"
        )
    };
    let technical = build_source(picture, duration_ms);
    let source = MediaSource { key: String::new(), size_bytes: 1, sha256: String::new() };
    let input = plan::EncodePlanInput {
        source: &source,
        technical: &technical,
        profile_name: "checked",
        profile,
        range: None,
    };
    // A profile that takes no sound has nothing to make of sound alone, and says so in its plan.
    let Ok(plan) = plan::plan_encode(&input) else { return Ok(()) };
    check_tasks(&plan).map_err(wrong)
}

fn check_tasks(plan: &EncodePlan) -> Result<(), String> {
    if let Some(video) = &plan.video {
        // All others are as long as the second one, or shorter.
        let ends = video.ranges.iter().take(2).chain(video.ranges.last());
        for range in ends.copied().collect::<Vec<FrameRange>>() {
            let task = spec::build_encode_spec(plan, video, range, EncodeMode::Usual);
            task.map_err(|error| error.to_string())?.check()?;
        }
    }
    for audio in &plan.audio {
        spec::build_audio_spec(plan, audio).map_err(|error| error.to_string())?.check()?;
    }
    Ok(())
}

fn build_source(picture: Option<((u32, u32), u32)>, duration_ms: u64) -> TechnicalMetadata {
    let end_us = i64::try_from(duration_ms.saturating_mul(1_000)).unwrap_or(i64::MAX);
    let video = picture.map(|((width, height), rate)| VideoTrack {
        width,
        height,
        sample_aspect: Rational { num: 1, den: 1 },
        rotation_degrees: 0,
        frame_rate: Rational { num: rate, den: 1 },
        variable_frame_rate: false,
        start_us: 0,
        end_us,
        ..examples::video_track()
    });
    TechnicalMetadata {
        container: "mp4".to_owned(),
        duration_ms,
        bit_rate_bps: 0,
        video: video.into_iter().collect(),
        audio: vec![AudioTrack { start_us: 0, end_us, ..examples::audio_track() }],
        subtitles: Vec::new(),
        chapters: Vec::new(),
        cover_index: None,
        still: false,
        clock: Vec::new(),
        warnings: Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use packaging::{ProfileRung, SIDE_PIXELS_MAX, STEP_RATE_BPS_MAX, STEPS_MAX, X264Preset};

    use super::*;

    const DAY_MS: u64 = 86_400_000;

    #[test]
    fn the_profiles_that_come_with_it_work() {
        for profile in crate::TranscodeConfig::default().profiles.values() {
            assert_eq!(check_profile(profile, DAY_MS), Ok(()));
        }
    }

    #[test]
    fn every_preset_of_the_settings_is_one_of_the_media_child() {
        for preset in X264Preset::ALL {
            assert!(spec::parse_preset(preset.name()).is_ok(), "{preset:?}");
            assert_eq!(serde_json::to_value(preset).unwrap(), preset.name());
        }
    }

    #[test]
    fn a_profile_takes_no_more_sound_than_is_known_to_be_decodable() {
        assert_eq!(packaging::AUDIO_TRACKS_MAX, media::AUDIO_TRACKS_MAX);
    }

    #[test]
    fn the_ends_of_every_range_work_together() {
        let step = |number: u32, rate_bps| ProfileRung {
            short_side_pixels: SIDE_PIXELS_MAX - number * 1_000,
            rate_bps,
        };
        let count = u32::try_from(STEPS_MAX).unwrap();
        let largest = EncodeProfile {
            steps: (0..count).map(|number| step(number, STEP_RATE_BPS_MAX)).collect(),
            short_side_pixels_max: SIDE_PIXELS_MAX,
            long_side_pixels_max: SIDE_PIXELS_MAX,
            frame_rate_max: 1_000,
            crf: 51,
            gop_ms: 3_600_000,
            segment_gops: 1,
            audio_rate_bps: 512_000,
            loudness_lufs: Some(-5),
            audio_tracks_max: packaging::AUDIO_TRACKS_MAX,
            ..EncodeProfile::default()
        };
        let smallest = EncodeProfile {
            steps: vec![ProfileRung { short_side_pixels: 16, rate_bps: 1_000 }],
            short_side_pixels_max: 16,
            long_side_pixels_max: 16,
            frame_rate_max: 1,
            crf: 1,
            gop_ms: 1,
            segment_gops: 50,
            part_segments: 1,
            single_part_segments_max: 0,
            audio_rate_bps: 16_000,
            loudness_lufs: Some(-40),
            audio_tracks_max: 0,
            ..EncodeProfile::default()
        };
        assert_eq!(check_profile(&smallest, DAY_MS), Ok(()));
        assert_eq!(check_profile(&largest, 1_000_000), Ok(()));
    }

    #[test]
    fn what_does_not_fit_together_is_refused() {
        let refused = |change: fn(&mut EncodeProfile)| {
            let mut profile = EncodeProfile::default();
            change(&mut profile);
            check_profile(&profile, DAY_MS).unwrap_err()
        };
        let (field, reason) = refused(|profile| profile.steps.swap(0, 1));
        assert_eq!(
            (field, reason.as_str()),
            (Some("steps"), "1080 stands below 720, and the largest comes first")
        );
        let (field, reason) = refused(|profile| profile.segment_gops = 1_801);
        assert!(field == Some("segment_gops") && reason.contains("lasts 3602000 ms"), "{reason}");
        let (field, reason) = refused(|profile| (profile.gop_ms, profile.segment_gops) = (1, 49));
        assert!(field == Some("segment_gops") && reason.contains("lasts 49 ms"), "{reason}");
        let (_, reason) = refused(|profile| {
            (profile.frame_rate_max, profile.single_part_segments_max) = (1_000, 1_000_000);
        });
        assert!(reason.contains("frame_count"), "{reason}");
        let (_, reason) = refused(|profile| profile.crf = 52);
        assert!(
            reason.contains("a source of 16x16 at 1 frames per second") && reason.contains("crf"),
            "{reason}"
        );
    }
}

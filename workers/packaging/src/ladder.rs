//! The ladder: which sizes, rates and levels a source is encoded to. It never enlarges and keeps the aspect.
//!
//! Limits: sides of [`SIDE_PIXELS_MIN`] to `long_side_pixels_max`, an area of at most 1.5 times that of 16:9 at the
//! same short side, frame rates of 1 to `frame_rate_max`.

use schemas::{
    job::LadderRung,
    media::{Rational, VideoTrack},
};

use crate::{EncodeProfile, ProfileRung, ratio::reduce_ratio};

/// Smallest side the encoder takes, in pixels. Only smaller sources are enlarged, and only up to this.
pub const SIDE_PIXELS_MIN: u32 = 16;

/// Encoder threads of every rung. One: the output depends on the number, and slots and rungs keep the cores busy.
pub const THREADS: u32 = 1;

/// A lower rung has at most this share of the rate of the one above, else it is not worth its cost.
const STEP_RATE_RATIO_MAX: f64 = 1.0 / 1.35;

/// Area of a rung in relation to 16:9 at its short side.
const AREA_RATIO_MAX: f64 = 1.5;

/// Peak rate in relation to the average rate aimed at (capped CRF).
const PEAK_PERCENT: u64 = 150;

/// Output frame rates, lowest first.
const STANDARD_RATES: [(u32, u32); 21] = [
    (1, 1),
    (2, 1),
    (3, 1),
    (4, 1),
    (5, 1),
    (6, 1),
    (8, 1),
    (10, 1),
    (12, 1),
    (25, 2),
    (15_000, 1001),
    (15, 1),
    (20, 1),
    (24_000, 1001),
    (24, 1),
    (25, 1),
    (30_000, 1001),
    (30, 1),
    (48_000, 1001),
    (48, 1),
    (50, 1),
];

/// Largest term of an output rate.
const RATE_TERM_MAX: u32 = 1_000_000;

/// The two rates above 50.
const FAST_RATES: [(u32, u32); 2] = [(60_000, 1001), (60, 1)];

/// One row of ISO/IEC 14496-10 table A-1.
struct H264Level {
    /// Level times 10.
    number: u32,
    /// Macroblocks per second.
    rate: u64,
    /// Macroblocks per frame.
    frame: u64,
    /// Macroblocks of the decoded picture buffer.
    buffer: u64,
    /// Bits per second of the High profile.
    bits: u64,
}

const fn build_level(number: u32, rate: u64, frame: u64, buffer: u64, kbits: u64) -> H264Level {
    H264Level { number, rate, frame, buffer, bits: kbits * 1250 }
}

const LEVELS: [H264Level; 17] = [
    build_level(10, 1_485, 99, 396, 64),
    build_level(11, 3_000, 396, 900, 192),
    build_level(12, 6_000, 396, 2_376, 384),
    build_level(13, 11_880, 396, 2_376, 768),
    build_level(20, 11_880, 396, 2_376, 2_000),
    build_level(21, 19_800, 792, 4_752, 4_000),
    build_level(22, 20_250, 1_620, 8_100, 4_000),
    build_level(30, 40_500, 1_620, 8_100, 10_000),
    build_level(31, 108_000, 3_600, 18_000, 14_000),
    build_level(32, 216_000, 5_120, 20_480, 20_000),
    build_level(40, 245_760, 8_192, 32_768, 20_000),
    build_level(41, 245_760, 8_192, 32_768, 50_000),
    build_level(42, 522_240, 8_704, 34_816, 50_000),
    build_level(50, 589_824, 22_080, 110_400, 135_000),
    build_level(51, 983_040, 36_864, 184_320, 240_000),
    build_level(52, 2_073_600, 36_864, 184_320, 240_000),
    build_level(60, 4_177_920, 139_264, 696_320, 240_000),
];

/// A size in square pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PictureSize {
    /// Width in pixels.
    pub width: u32,
    /// Height in pixels.
    pub height: u32,
}

impl PictureSize {
    fn short_side(self) -> u32 {
        self.width.min(self.height)
    }

    fn long_side(self) -> u32 {
        self.width.max(self.height)
    }

    fn area(self) -> f64 {
        f64::from(self.width) * f64::from(self.height)
    }
}

/// Size of a track as shown: pixel aspect applied to the width, then rotation. At least 1x1.
pub fn display_size(track: &VideoTrack) -> PictureSize {
    let aspect = track.sample_aspect;
    let mut width = track.width.max(1);
    if aspect.num > 0 && aspect.den > 0 {
        let wide =
            (u64::from(width) * u64::from(aspect.num) + u64::from(aspect.den) / 2) / u64::from(aspect.den);
        width = u32::try_from(wide.clamp(1, 1 << 20)).unwrap_or(width);
    }
    let height = track.height.max(1);
    match track.rotation_degrees {
        90 | 270 => PictureSize { width: height, height: width },
        _ => PictureSize { width, height },
    }
}

/// A rate this near to a standard one is meant to be that: half a per cent.
const STANDARD_RATE_SHARE: f64 = 0.005;

/// The constant output rate of a track: its own, so that every frame is shown once. Rates above the limit are divided by a whole
/// number; a variable rate becomes the nearest standard one, and an unknown one 25. At least one frame a second.
pub fn choose_frame_rate(track: &VideoTrack, rate_max: u32) -> Rational {
    let rate = track.frame_rate;
    if rate.num == 0 || rate.den == 0 {
        return nearest_standard_rate(25.0, rate_max);
    }
    // The least whole number that brings the rate to the limit, of which 1 % is rounding.
    let limit_percent = u64::from(rate.den) * u64::from(rate_max.max(1)) * 101;
    let divisor = (u64::from(rate.num) * 100).div_ceil(limit_percent);
    let wanted = rate.as_f64() / divisor as f64;
    let standard = nearest_standard_rate(wanted, rate_max);
    let is_standard = (standard.as_f64() / wanted - 1.0).abs() < STANDARD_RATE_SHARE;
    let is_in_range = (1.0..=f64::from(rate_max)).contains(&wanted);
    if is_standard || track.variable_frame_rate || !is_in_range {
        return standard;
    }
    let exact = reduce_ratio(u64::from(rate.num), u64::from(rate.den) * divisor);
    if exact.num.max(exact.den) <= RATE_TERM_MAX { exact } else { standard }
}

fn nearest_standard_rate(wanted: f64, rate_max: u32) -> Rational {
    let distance = |(num, den): &(u32, u32)| (f64::from(*num) / f64::from(*den) / wanted).ln().abs();
    let fits = |(num, den): &(u32, u32)| f64::from(*num) / f64::from(*den) <= f64::from(rate_max.max(1));
    let (num, den) = STANDARD_RATES
        .into_iter()
        .chain(FAST_RATES)
        .filter(fits)
        .min_by(|a, b| distance(a).total_cmp(&distance(b)))
        .unwrap_or((1, 1));
    Rational { num, den }
}

/// The rungs for a source shown at `size`, best first, and why they are what they are.
pub fn choose_rungs(
    size: PictureSize,
    frame_rate: Rational,
    profile: &EncodeProfile,
) -> (Vec<LadderRung>, Vec<String>) {
    let mut reasons = vec![format!(
        "shown at {}x{}, {} frames per second",
        size.width,
        size.height,
        format_rate(frame_rate)
    )];
    let top_scale = scale_factor(size, profile.short_side_pixels_max, profile).min(1.0);
    let top = scale_size(size, top_scale);
    let top_rate = interpolate_rate(top, &profile.steps);
    reasons.push(if top_scale < 1.0 {
        format!("top rung {}x{}: the profile's limit", top.width, top.height)
    } else {
        format!("top rung {}x{}: the source's size", top.width, top.height)
    });
    let mut chosen = vec![(top, top_rate)];
    for step in &profile.steps {
        let last_rate = chosen.last().map_or(top_rate, |(_, rate)| *rate);
        if step.short_side_pixels >= top.short_side() {
            continue;
        }
        let factor = scale_factor(size, step.short_side_pixels, profile);
        let candidate = scale_size(size, factor);
        if step.rate_bps as f64 > last_rate as f64 * STEP_RATE_RATIO_MAX {
            reasons.push(format!("no {}p: too near to the rung above", step.short_side_pixels));
        } else if factor < 1.0
            && candidate.short_side() < chosen.last().map_or(0, |(size, _)| size.short_side())
        {
            chosen.push((candidate, step.rate_bps));
        }
    }
    let made =
        chosen.into_iter().map(|(size, rate_bps)| build_rung(size, rate_bps, frame_rate, profile)).collect();
    (made, reasons)
}

/// By how much a source is scaled to have `short_side` without breaking the limits of area and length.
fn scale_factor(size: PictureSize, short_side: u32, profile: &EncodeProfile) -> f64 {
    let short_side = f64::from(short_side);
    let by_side = short_side / f64::from(size.short_side());
    let area_max = AREA_RATIO_MAX * short_side * short_side * 16.0 / 9.0;
    let by_area = (area_max / size.area()).sqrt();
    let by_length = f64::from(profile.long_side_pixels_max) / f64::from(size.long_side());
    by_side.min(by_area).min(by_length)
}

/// Even sides nearest to the scaled ones, never above the source's unless the encoder can't go so low.
fn scale_size(size: PictureSize, factor: f64) -> PictureSize {
    let fit = |length: u32| {
        let even_max = length - length % 2;
        let wanted = f64::from(length) * factor / 2.0;
        let mut even = 0_u32;
        // A whole number below 2^20: counted up in halves of the range, since casts of floats are not allowed to guess.
        for bit in (0..20).rev() {
            if f64::from(even | (1 << bit)) <= wanted + 0.5 {
                even |= 1 << bit;
            }
        }
        (even * 2).min(even_max).max(SIDE_PIXELS_MIN)
    };
    PictureSize { width: fit(size.width), height: fit(size.height) }
}

/// Rate for a size, interpolated between the profile's steps in proportion to the logarithm of the area.
fn interpolate_rate(size: PictureSize, steps: &[ProfileRung]) -> u64 {
    let height = (size.area() * 9.0 / 16.0).sqrt();
    let above = steps.iter().rfind(|step| f64::from(step.short_side_pixels) >= height);
    let below = steps.iter().find(|step| f64::from(step.short_side_pixels) <= height);
    let rate = match (above, below) {
        (Some(above), Some(below)) if above.short_side_pixels != below.short_side_pixels => {
            let (low, high) = (f64::from(below.short_side_pixels), f64::from(above.short_side_pixels));
            let share = (height / low).ln() / (high / low).ln();
            (below.rate_bps as f64) * ((above.rate_bps as f64) / (below.rate_bps as f64)).powf(share)
        }
        (Some(step), Some(_)) | (None, Some(step)) => step.rate_bps as f64,
        (Some(lowest), None) => {
            (lowest.rate_bps as f64) * (height / f64::from(lowest.short_side_pixels)).powf(1.5)
        }
        (None, None) => 500_000.0,
    };
    round_to_kilobits(rate)
}

/// Bits per second as whole kilobits, at least 48.
fn round_to_kilobits(rate: f64) -> u64 {
    let (mut low, mut high) = (48_u64, 1_000_000_u64);
    while low < high {
        let middle = (low + high).div_ceil(2);
        if (middle * 1000) as f64 <= rate {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    low * 1000
}

fn build_rung(size: PictureSize, rate_bps: u64, frame_rate: Rational, profile: &EncodeProfile) -> LadderRung {
    let rate_bps = if frame_rate.as_f64() > 30.5 { rate_bps * 7 / 5 } else { rate_bps };
    let rate_max_bps = rate_bps * PEAK_PERCENT / 100;
    LadderRung {
        name: format!("v{}", size.short_side()),
        width: size.width,
        height: size.height,
        frame_step: 1,
        crf: profile.crf,
        rate_max_bps,
        buffer_bits: rate_bps * 2,
        profile: "high".to_owned(),
        level: lowest_level(size, frame_rate, rate_max_bps),
        threads: THREADS,
    }
}

/// The lowest H.264 level, times 10, that allows a size, rate and bit rate with four reference frames.
pub fn lowest_level(size: PictureSize, frame_rate: Rational, rate_max_bps: u64) -> u32 {
    let (columns, rows) = (u64::from(size.width.div_ceil(16)), u64::from(size.height.div_ceil(16)));
    let frame = columns * rows;
    let per_second = (frame * u64::from(frame_rate.num)).div_ceil(u64::from(frame_rate.den.max(1)));
    let longest = columns.max(rows);
    LEVELS
        .iter()
        .find(|level| {
            frame <= level.frame
                && per_second <= level.rate
                && longest * longest <= 8 * level.frame
                && 4 * frame <= level.buffer
                && rate_max_bps <= level.bits
        })
        .map_or(60, |level| level.number)
}

fn format_rate(rate: Rational) -> String {
    if rate.den == 1 { rate.num.to_string() } else { format!("{:.3}", rate.as_f64()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn track(width: u32, height: u32) -> VideoTrack {
        VideoTrack { width, height, ..schemas::examples::video_track() }
    }

    fn sizes(size: PictureSize) -> Vec<String> {
        let profile = EncodeProfile::default();
        let (rungs, _) = choose_rungs(size, Rational { num: 30, den: 1 }, &profile);
        rungs.iter().map(|r| format!("{} {}x{} L{}", r.name, r.width, r.height, r.level)).collect()
    }

    #[test]
    fn ladder_follows_the_source() {
        let check = |width, height, expected: &[&str]| {
            assert_eq!(sizes(PictureSize { width, height }), expected, "{width}x{height}");
        };
        let below_1080 = [
            "v720 1280x720 L31",
            "v540 960x540 L31",
            "v432 768x432 L30",
            "v360 640x360 L30",
            "v234 416x234 L13",
        ];
        let full: Vec<&str> = std::iter::once("v1080 1920x1080 L40").chain(below_1080).collect();
        check(1920, 1080, &full);
        check(3840, 2160, &full);
        check(7680, 4320, &full);
        check(1280, 720, &below_1080);
        // Portrait counts by its short side.
        check(
            720,
            1280,
            &[
                "v720 720x1280 L31",
                "v540 540x960 L31",
                "v432 432x768 L30",
                "v360 360x640 L30",
                "v234 234x416 L13",
            ],
        );
        // Odd sizes become even and never grow.
        check(1079, 607, &["v606 1078x606 L31", "v432 768x432 L30", "v360 640x360 L30", "v234 416x234 L13"]);
        // Between two rungs the source's size is the top, and what is too near to it is left out.
        check(
            1422,
            800,
            &[
                "v800 1422x800 L32",
                "v540 960x540 L31",
                "v432 768x432 L30",
                "v360 640x360 L30",
                "v234 416x234 L13",
            ],
        );
        check(320, 180, &["v180 320x180 L13"]);
        check(1, 1, &["v16 16x16 L10"]);
        check(15, 4000, &["v16 16x4000 L40"]);
        // Extreme aspect: bounded by area and by length.
        check(20_000, 100, &["v20 4096x20 L40"]);
        check(
            5120,
            1080,
            &[
                "v810 3840x810 L50",
                "v540 2560x540 L40",
                "v406 1920x406 L31",
                "v324 1536x324 L31",
                "v270 1280x270 L31",
                "v176 832x176 L21",
            ],
        );
    }

    #[test]
    fn size_is_what_people_see() {
        let check = |aspect: (u32, u32), rotation, expected: (u32, u32)| {
            let track = VideoTrack {
                sample_aspect: Rational { num: aspect.0, den: aspect.1 },
                rotation_degrees: rotation,
                ..track(1440, 1080)
            };
            let size = display_size(&track);
            assert_eq!((size.width, size.height), expected, "{aspect:?} {rotation}");
        };
        check((1, 1), 0, (1440, 1080));
        check((4, 3), 0, (1920, 1080));
        check((4, 3), 90, (1080, 1920));
        check((1, 1), 180, (1440, 1080));
        check((0, 0), 270, (1080, 1440));
    }

    #[test]
    fn frame_rate_is_that_of_the_source() {
        let check = |rate: (u32, u32), variable, expected: (u32, u32)| {
            let track = VideoTrack {
                frame_rate: Rational { num: rate.0, den: rate.1 },
                variable_frame_rate: variable,
                ..track(640, 360)
            };
            let found = choose_frame_rate(&track, 60);
            assert_eq!((found.num, found.den), expected, "{rate:?} {variable}");
        };
        check((25, 1), false, (25, 1));
        check((30_000, 1001), false, (30_000, 1001));
        check((2997, 100), false, (30_000, 1001));
        check((24_000, 1001), false, (24_000, 1001));
        check((58, 1), true, (60_000, 1001));
        check((60, 1), false, (60, 1));
        check((120, 1), false, (60, 1));
        check((120_000, 1001), false, (60_000, 1001));
        check((100, 1), false, (50, 1));
        check((144, 1), false, (48, 1));
        check((90_000, 1), false, (60, 1));
        check((1, 1), false, (1, 1));
        check((1, 10), false, (1, 1));
        check((7, 1), true, (8, 1));
        check((9, 1), false, (9, 1));
        check((45, 1), false, (45, 1));
        check((90, 1), false, (45, 1));
        check((22_500, 1000), false, (45, 2));
        check((14_985, 1000), false, (15_000, 1001));
        check((29_993, 1000), false, (30, 1));
        check((0, 0), false, (25, 1));
        check((15, 0), false, (25, 1));
    }

    #[test]
    fn fast_sources_get_more_bits_and_the_level_they_need() {
        let profile = EncodeProfile::default();
        let size = PictureSize { width: 1920, height: 1080 };
        let (slow, _) = choose_rungs(size, Rational { num: 30, den: 1 }, &profile);
        let (fast, _) = choose_rungs(size, Rational { num: 60, den: 1 }, &profile);
        assert_eq!((slow[0].rate_max_bps, slow[0].level), (6_750_000, 40));
        assert_eq!((fast[0].rate_max_bps, fast[0].level), (9_450_000, 42));
    }

    #[test]
    fn steps_are_even_steps() {
        for (width, height) in [(1920, 1080), (1280, 720), (1422, 800), (1000, 563), (854, 480), (640, 480)] {
            let (rungs, _) = choose_rungs(
                PictureSize { width, height },
                Rational { num: 25, den: 1 },
                &EncodeProfile::default(),
            );
            for pair in rungs.windows(2) {
                let ratio = pair[0].rate_max_bps as f64 / pair[1].rate_max_bps as f64;
                assert!(
                    (1.35..=2.75).contains(&ratio),
                    "{width}x{height}: {} to {} is {ratio}",
                    pair[0].name,
                    pair[1].name
                );
            }
        }
    }
}

//! Small pictures of a film for people who search in it: a sheet of tiles for each part of the encode, made from its own decode, and
//! the list of all tiles as WebVTT with media fragments (W3C Media Fragments 1.0, `xywh`), which players take.
//!
//! Limits: [`TILES_A_SHEET_MAX`] tiles a sheet; the interval grows with the parts of a long title.

use std::fmt::Write as _;

use schemas::{
    job::{FrameRange, StoryboardPlan, VideoPlan},
    keys,
    media::Rational,
};

use crate::{ladder::PictureSize, time_text::format_time};

/// Most tiles of one sheet.
pub const TILES_A_SHEET_MAX: u64 = 100;

/// Longest side of a tile, in pixels.
const TILE_SIDE_PIXELS: u32 = 160;

/// Tiles side by side.
const COLUMNS: u32 = 5;

/// The sheet of a range.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StoryboardSheet {
    /// Output frame of its first tile.
    pub first_frame: u64,
    /// Tiles, row by row.
    pub tile_count: u32,
}

/// Plans the storyboard of a picture: a tile for each group of pictures, or for so many that no sheet has too many.
pub(crate) fn plan_storyboard(size: PictureSize, gop_frames: u32, ranges: &[FrameRange]) -> StoryboardPlan {
    let gop = u64::from(gop_frames.max(1));
    let longest = ranges.iter().map(|range| range.frame_count).max().unwrap_or(0);
    let gops_a_tile = longest.div_ceil(gop).div_ceil(TILES_A_SHEET_MAX).max(1);
    let longest_side = u64::from(size.width.max(size.height).max(1));
    let fit = |pixels: u32| {
        let fitted = u64::from(pixels) * u64::from(TILE_SIDE_PIXELS) / longest_side;
        // Even, so that chroma fits.
        u32::try_from((fitted & !1).max(2)).unwrap_or(2)
    };
    StoryboardPlan {
        interval_frames: u32::try_from(gop * gops_a_tile).unwrap_or(u32::MAX),
        tile_width: fit(size.width),
        tile_height: fit(size.height),
        columns: COLUMNS,
    }
}

/// The sheet of a range; none where no tile falls into it.
pub fn find_sheet(plan: &StoryboardPlan, range: FrameRange) -> Option<StoryboardSheet> {
    let interval = u64::from(plan.interval_frames.max(1));
    let first_frame = range.start_frame.next_multiple_of(interval);
    let frames = (range.start_frame + range.frame_count).saturating_sub(first_frame);
    let tile_count = u32::try_from(frames.div_ceil(interval)).ok().filter(|count| *count > 0)?;
    Some(StoryboardSheet { first_frame, tile_count })
}

/// Number of the sheet of a range, from 1.
pub fn sheet_number(video: &VideoPlan, range: FrameRange) -> u32 {
    let position = video.ranges.iter().position(|other| *other == range).unwrap_or(0);
    u32::try_from(position + 1).unwrap_or(u32::MAX)
}

/// Sheets that a storyboard has, by their numbers.
pub fn list_sheets(video: &VideoPlan) -> impl Iterator<Item = (u32, StoryboardSheet)> {
    let plan = video.storyboard;
    let sheets = video.ranges.iter().zip(1_u32..);
    sheets.filter_map(move |(range, number)| Some((number, find_sheet(&plan?, *range)?)))
}

/// The list of all tiles: when each is shown, and where it lies in which sheet.
pub fn render_storyboard(video: &VideoPlan) -> Option<String> {
    let plan = video.storyboard?;
    let mut text = String::from("WEBVTT\n");
    let (width, height) = (plan.tile_width, plan.tile_height);
    for (number, sheet) in list_sheets(video) {
        for tile in 0..sheet.tile_count {
            let frame = sheet.first_frame + u64::from(tile) * u64::from(plan.interval_frames);
            let next = (frame + u64::from(plan.interval_frames)).min(video.frame_count);
            let time = |frame: u64| format_time(frames_to_nearest_ms(frame, video.frame_rate));
            let (left, top) = (tile % plan.columns * width, tile / plan.columns * height);
            let _infallible = write!(
                text,
                "\n{} --> {}\n{}#xywh={left},{top},{width},{height}\n",
                time(frame),
                time(next),
                keys::storyboard_sheet_path(number)
            );
        }
    }
    Some(text)
}

fn frames_to_nearest_ms(frames: u64, rate: Rational) -> u64 {
    crate::ratio::scale_rounded(frames, u64::from(rate.den) * 1_000, u64::from(rate.num))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::build_example;

    fn ranges(counts: &[u64]) -> Vec<FrameRange> {
        let start = |index: usize| counts[..index].iter().sum();
        let range = |(index, count): (usize, &u64)| FrameRange {
            start_frame: start(index),
            frame_count: *count,
            first_segment: 1,
        };
        counts.iter().enumerate().map(range).collect()
    }

    #[test]
    fn tiles_lie_on_the_grid_whatever_the_parts() {
        let size = PictureSize { width: 1920, height: 1080 };
        let all = ranges(&[150, 750, 733]);
        let plan = plan_storyboard(size, 50, &all);
        assert_eq!((plan.interval_frames, plan.tile_width, plan.tile_height), (50, 160, 90));
        let sheets: Vec<_> = all.iter().map(|range| find_sheet(&plan, *range).unwrap()).collect();
        let sheet = |first_frame, tile_count| StoryboardSheet { first_frame, tile_count };
        assert_eq!(sheets, [sheet(0, 3), sheet(150, 15), sheet(900, 15)]);
        // Ten hours at 25 frames a second in a hundred parts.
        let long = ranges(&[9_000; 100]);
        let plan = plan_storyboard(size, 50, &long);
        assert_eq!(plan.interval_frames, 100);
        let tiles: u32 = long.iter().map(|range| find_sheet(&plan, *range).unwrap().tile_count).sum();
        assert_eq!(tiles, 9_000);
        let tall = plan_storyboard(PictureSize { width: 180, height: 320 }, 50, &all);
        assert_eq!((tall.tile_width, tall.tile_height), (90, 160));
        let short = FrameRange { start_frame: 20, frame_count: 10, first_segment: 1 };
        assert_eq!(find_sheet(&plan, short), None, "no tile falls into it");
    }

    #[test]
    fn the_list_names_every_tile_once() {
        let (plan, _) = build_example();
        let video = plan.video.unwrap();
        let list = render_storyboard(&video).unwrap();
        let beginning = "WEBVTT\n\n00:00:00.000 --> 00:00:02.000\nstoryboard/1.jpg#xywh=0,0,160,90\n";
        assert!(list.starts_with(beginning), "{list}");
        assert_eq!(list.matches("#xywh=").count(), 31);
        assert!(
            list.contains("\n00:00:18.000 --> 00:00:20.000\nstoryboard/2.jpg#xywh=160,90,160,90\n"),
            "{list}"
        );
        assert!(
            list.ends_with("\n00:01:00.000 --> 00:01:01.000\nstoryboard/3.jpg#xywh=320,180,160,90\n"),
            "{list}"
        );
    }
}

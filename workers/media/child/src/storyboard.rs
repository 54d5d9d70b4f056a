//! A sheet of small pictures of the range that is being encoded, from the same decode.

use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Rational, frame};
use media::StoryboardSpec;
use media::protocol::ChildMessage;

use crate::error::{LibraryErrorExt, MediaChildResult};
use crate::ffi;
use crate::parent_pipe::ParentPipe;
use crate::picture_filter::{FilterOperation, PictureFilter};
use crate::stills;

/// Black of full range: luma, then both chroma planes.
const BLACK: [u8; 3] = [0, 128, 128];

/// Collects the tiles of one sheet.
pub(crate) struct StoryboardPainter {
    spec: StoryboardSpec,
    tile: PictureFilter,
    sheet: frame::Video,
    /// Tiles so far.
    painted: u32,
}

impl StoryboardPainter {
    pub(crate) fn new(spec: StoryboardSpec, time_base: Rational) -> Self {
        let size = FilterOperation::Picture { width: spec.tile_width, height: spec.tile_height };
        let (width, height) = spec.sheet_size();
        let mut sheet = frame::Video::new(Pixel::YUVJ420P, width, height);
        for (plane, black) in BLACK.into_iter().enumerate() {
            sheet.data_mut(plane).fill(black);
        }
        Self { spec, tile: PictureFilter::new(size, time_base), sheet, painted: 0 }
    }

    /// Takes a picture that is shown from output frame `first` on, for `count` frames: it may be a tile, or several.
    pub(crate) fn show_picture(
        &mut self,
        picture: &frame::Video,
        first: u64,
        count: u64,
    ) -> MediaChildResult<()> {
        while self.painted < self.spec.tile_count && self.next_frame() < first.saturating_add(count) {
            let mut shared = ffi::share_picture(picture).or_failed("share a picture")?;
            let tile = self.tile.filter_picture(&mut shared)?;
            self.paint_tile(&tile);
            self.painted += 1;
        }
        Ok(())
    }

    /// Output frame of the next tile.
    fn next_frame(&self) -> u64 {
        self.spec.first_frame + u64::from(self.painted) * u64::from(self.spec.interval_frames)
    }

    fn paint_tile(&mut self, tile: &frame::Video) {
        let columns = self.spec.columns.max(1);
        let (column, row) = (self.painted % columns, self.painted / columns);
        for plane in 0..BLACK.len() {
            // Chroma has half the width and half the height.
            let size =
                |pixels: u32| usize::try_from(if plane == 0 { pixels } else { pixels / 2 }).unwrap_or(0);
            let (width, height) = (size(self.spec.tile_width), size(self.spec.tile_height));
            let (left, top) = (size(column * self.spec.tile_width), size(row * self.spec.tile_height));
            let (from_stride, to_stride) = (tile.stride(plane), self.sheet.stride(plane));
            let from = tile.data(plane).chunks(from_stride.max(1)).take(height);
            let to = self.sheet.data_mut(plane).chunks_mut(to_stride.max(1)).skip(top);
            for (from, to) in from.zip(to) {
                if let (Some(from), Some(to)) = (from.get(..width), to.get_mut(left..left + width)) {
                    to.copy_from_slice(from);
                }
            }
        }
    }

    /// Sends the sheet.
    pub(crate) fn finish(self, wire: &ParentPipe) -> MediaChildResult<()> {
        let bytes = stills::encode_jpeg(&self.sheet, self.spec.quantizer)?;
        let (width, height) = (self.sheet.width(), self.sheet.height());
        wire.send(&ChildMessage::Image { position: 0, at_us: 0, width, height, bytes })
    }
}

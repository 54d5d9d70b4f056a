//! Filter graphs: from a picture as it was stored to the picture of a rendition.
//!
//! A graph belongs to one kind of picture; when the source changes its size, format or colours on the way, it is
//! built anew. Every graph here gives one picture for each, except the deinterlacer, which is one behind.

use ffmpeg_next::color::{Primaries, Range, Space, TransferCharacteristic as Transfer};
use ffmpeg_next::format::Pixel;
use ffmpeg_next::{Error as LibError, Rational, Rescale, filter, frame};

use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult};
use crate::ffi;

/// Scaling for every rendition; the flags beside the kernel make it the same on every processor.
const SCALE_FLAGS: &str = "bicubic+accurate_rnd+bitexact";

/// What a graph is built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PictureFormat {
    width: u32,
    height: u32,
    pixel: Pixel,
    sample_aspect: Rational,
    space: Space,
    range: Range,
    transfer: Transfer,
    primaries: Primaries,
}

impl PictureFormat {
    fn from_picture(picture: &frame::Video) -> Self {
        Self {
            width: picture.width(),
            height: picture.height(),
            pixel: picture.format(),
            sample_aspect: picture.aspect_ratio(),
            space: picture.color_space(),
            range: picture.color_range(),
            transfer: picture.color_transfer_characteristic(),
            primaries: picture.color_primaries(),
        }
    }

    fn is_hdr(&self) -> bool {
        matches!(self.transfer, Transfer::SMPTE2084 | Transfer::ARIB_STD_B67)
    }

    /// The primaries of a gamut that is wider than that of BT.709, by their name for `zscale` (ITU-R BT.2020, SMPTE RP 431-2, EG 432-1).
    fn wide_primaries(&self) -> Option<&'static str> {
        match self.primaries {
            Primaries::BT2020 => Some("2020"),
            Primaries::SMPTE431 => Some("smpte431"),
            Primaries::SMPTE432 => Some("smpte432"),
            _ => None,
        }
    }

    /// The matrix by FFmpeg's name for the scaler; none for RGB. Untagged pictures follow the usual guess by size.
    fn matrix_name(&self) -> Option<&'static str> {
        match self.space {
            Space::RGB => None,
            Space::BT709 => Some("bt709"),
            Space::BT470BG | Space::SMPTE170M => Some("smpte170m"),
            Space::FCC => Some("fcc"),
            Space::SMPTE240M => Some("smpte240m"),
            Space::BT2020NCL | Space::BT2020CL => Some("bt2020"),
            _ if self.width >= 1280 || self.height > 576 => Some("bt709"),
            _ => Some("smpte170m"),
        }
    }

    fn range_name(&self) -> &'static str {
        let is_jpeg = matches!(
            self.pixel,
            Pixel::YUVJ420P | Pixel::YUVJ422P | Pixel::YUVJ444P | Pixel::YUVJ440P | Pixel::YUVJ411P
        );
        if self.range == Range::JPEG || is_jpeg { "pc" } else { "tv" }
    }
}

/// What a graph does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum FilterOperation {
    /// Turns interlaced frames into whole ones, one for each.
    Deinterlace,
    /// Turns the picture upright and maps HDR and wide gamuts to those of BT.709; nothing at all for most sources.
    Upright(DisplayRotation),
    /// Scales to a size in square pixels, 8-bit 4:2:0, BT.709, limited range.
    Scale {
        /// Output width.
        width: u32,
        /// Output height.
        height: u32,
    },
    /// Scales to a size for JPEG: full range, BT.601, as JFIF wants.
    Picture {
        /// Output width.
        width: u32,
        /// Output height.
        height: u32,
    },
}

/// How a stored picture is turned for showing, from the display matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DisplayRotation {
    /// Clockwise: 0, 90, 180 or 270.
    pub(crate) degrees: u16,
    filters: &'static str,
}

impl DisplayRotation {
    /// No turn.
    pub(crate) const NONE: Self = Self { degrees: 0, filters: "" };

    /// Reads a display matrix: nine 16.16 numbers in the machine's order. Other angles than quarter turns are left.
    pub(crate) fn from_matrix(bytes: &[u8]) -> Self {
        let cell = |index: usize| {
            let bytes = bytes.get(index * 4..index * 4 + 4).and_then(|bytes| bytes.try_into().ok());
            bytes.map_or(0, i32::from_ne_bytes)
        };
        let (a, b, c, d) = (cell(0).signum(), cell(1).signum(), cell(3).signum(), cell(4).signum());
        let (degrees, filters) = match (a, b, c, d) {
            (0, 1, -1, 0) => (90, "transpose=clock"),
            (0, 1, 1, 0) => (90, "transpose=cclock_flip"),
            (-1, 0, 0, -1) => (180, "hflip,vflip"),
            (-1, 0, 0, 1) => (0, "hflip"),
            (1, 0, 0, -1) => (0, "vflip"),
            (0, -1, 1, 0) => (270, "transpose=cclock"),
            (0, -1, -1, 0) => (270, "transpose=clock_flip"),
            _ => (0, ""),
        };
        Self { degrees, filters }
    }

    /// The turn of a track, as its container says.
    pub(crate) fn from_stream(stream: &ffmpeg_next::Stream<'_>) -> Self {
        let kind = ffmpeg_next::packet::side_data::Type::DisplayMatrix;
        let matrix = stream.side_data().find(|data| data.kind() == kind);
        matrix.map_or(Self::NONE, |matrix| Self::from_matrix(matrix.data()))
    }
}

impl FilterOperation {
    /// The graph's filters for a kind of picture; empty when there is nothing to do.
    fn build_filter_chain(&self, kind: &PictureFormat) -> String {
        match self {
            Self::Deinterlace => "bwdif=mode=send_frame:parity=auto:deint=interlaced".into(),
            Self::Upright(turn) => {
                let mut filters = Vec::new();
                if !turn.filters.is_empty() {
                    filters.push(turn.filters.to_owned());
                }
                if kind.is_hdr() && filter::find("zscale").is_some() && filter::find("tonemap").is_some() {
                    filters.push(build_tonemap_filter(kind));
                } else if let Some(primaries) = kind.wide_primaries()
                    && filter::find("zscale").is_some()
                {
                    filters.push(build_gamut_filter(kind, primaries));
                }
                filters.join(",")
            }
            Self::Scale { width, height } => {
                build_scale_filter(kind, *width, *height, "tv", "bt709", "yuv420p")
            }
            Self::Picture { width, height } => {
                build_scale_filter(kind, *width, *height, "pc", "smpte170m", "yuvj420p")
            }
        }
    }
}

fn build_scale_filter(
    kind: &PictureFormat,
    width: u32,
    height: u32,
    range: &str,
    matrix: &str,
    pixel: &str,
) -> String {
    let from = kind.matrix_name().map(|matrix| format!(":in_color_matrix={matrix}")).unwrap_or_default();
    format!(
        "scale=w={width}:h={height}:flags={SCALE_FLAGS}{from}:in_range={}:out_color_matrix={matrix}\
         :out_range={range},format={pixel},setsar=1",
        kind.range_name()
    )
}

/// Linear light, BT.709 primaries, a curve that keeps highlights, then back.
fn build_tonemap_filter(kind: &PictureFormat) -> String {
    let transfer = if kind.transfer == Transfer::SMPTE2084 { "smpte2084" } else { "arib-std-b67" };
    let range = if kind.range_name() == "pc" { "full" } else { "limited" };
    let (before, after) = zscale_formats(kind);
    format!(
        "{before}zscale=tin={transfer}:min=2020_ncl:pin=2020:rin={range}:t=linear:npl=100,format=gbrpf32le,\
         zscale=p=709,tonemap=tonemap=hable:desat=0,zscale=t=709:m=709:p=709:r=limited,format={after}"
    )
}

/// What comes before `zscale`, and the format behind it: it takes and gives no picture of an odd side whose chroma has half the size.
fn zscale_formats(kind: &PictureFormat) -> (&'static str, &'static str) {
    let is_odd = !kind.width.is_multiple_of(2) || !kind.height.is_multiple_of(2);
    match (is_odd, kind.matrix_name()) {
        (false, _) => ("", "yuv420p"),
        (true, None) => ("format=gbrp10le,", "yuv444p"),
        (true, Some(_)) => ("format=yuv444p10le,", "yuv444p"),
    }
}

/// BT.709 primaries, by way of linear light, for a picture in standard range. Colours outside of them become the nearest inside.
fn build_gamut_filter(kind: &PictureFormat, primaries: &str) -> String {
    // Curves that are not named are taken for the usual one; those of BT.601, BT.709 and BT.2020 are the same.
    let transfer = match kind.transfer {
        Transfer::IEC61966_2_1 => "iec61966-2-1",
        Transfer::Linear => "linear",
        _ => "709",
    };
    let matrix = match kind.matrix_name() {
        None => "gbr",
        Some("bt2020") => "2020_ncl",
        Some("smpte170m") => "170m",
        Some("smpte240m") => "240m",
        Some("fcc") => "fcc",
        Some(_) => "709",
    };
    let range = if kind.range_name() == "pc" { "full" } else { "limited" };
    let (before, after) = zscale_formats(kind);
    format!(
        "{before}zscale=tin={transfer}:min={matrix}:pin={primaries}:rin={range}:t=linear,format=gbrpf32le,\
         zscale=p=709:t=709:m=709:r=limited,format={after}"
    )
}

/// The size of a picture as shown, in square pixels: pixels stretched to squares, then turned.
pub(crate) fn display_size(
    width: u32,
    height: u32,
    sample_aspect: Rational,
    turn: DisplayRotation,
) -> (u32, u32) {
    let (num, den) =
        (u64::try_from(sample_aspect.0).unwrap_or(1), u64::try_from(sample_aspect.1).unwrap_or(1));
    let wide = (2 * u64::from(width) * num.max(1) + den.max(1)) / (2 * den.max(1));
    let wide = u32::try_from(wide.max(1)).unwrap_or(u32::MAX);
    if turn.degrees.is_multiple_of(180) { (wide, height) } else { (height, wide) }
}

/// A graph that follows the kind of its pictures.
pub(crate) struct PictureFilter {
    work: FilterOperation,
    time_base: Rational,
    graph: Option<(PictureFormat, Option<filter::Graph>)>,
}

impl PictureFilter {
    /// A graph for pictures with timestamps in `time_base`.
    pub(crate) fn new(work: FilterOperation, time_base: Rational) -> Self {
        Self { work, time_base, graph: None }
    }

    /// Puts a picture in; its contents go to the graph. Gives what is left of the graph for an earlier kind.
    pub(crate) fn push(&mut self, picture: &mut frame::Video) -> MediaChildResult<Vec<frame::Video>> {
        let kind = PictureFormat::from_picture(picture);
        let mut left = Vec::new();
        if self.graph.as_ref().is_none_or(|(built, _)| *built != kind) {
            left = self.finish()?;
            let filters = self.work.build_filter_chain(&kind);
            let graph = if filters.is_empty() {
                None
            } else {
                Some(build_graph(&kind, self.time_base, &filters).or_failed("build filters")?)
            };
            self.graph = Some((kind, graph));
        }
        match &mut self.graph {
            Some((_, Some(graph))) => {
                find_source_filter(graph)?.source().add(picture).or_failed("filter a picture")?;
                while let Some(ready) = pull_picture(graph, self.time_base)? {
                    left.push(ready);
                }
            }
            _ => left.push(std::mem::replace(picture, frame::Video::empty())),
        }
        Ok(left)
    }

    /// The pictures that the graph still holds; it is built anew for the next picture.
    pub(crate) fn finish(&mut self) -> MediaChildResult<Vec<frame::Video>> {
        let mut left = Vec::new();
        if let Some((_, Some(mut graph))) = self.graph.take() {
            find_source_filter(&mut graph)?.source().flush().or_failed("end filters")?;
            while let Some(ready) = pull_picture(&mut graph, self.time_base)? {
                left.push(ready);
            }
        }
        Ok(left)
    }

    /// One picture for one, for graphs that hold none back.
    pub(crate) fn filter_picture(&mut self, picture: &mut frame::Video) -> MediaChildResult<frame::Video> {
        let mut ready = self.push(picture)?;
        match (ready.pop(), ready.is_empty()) {
            (Some(picture), true) => Ok(picture),
            _ => Err(MediaChildError::Failed("a filter kept a picture".into())),
        }
    }
}

fn build_graph(
    kind: &PictureFormat,
    time_base: Rational,
    filters: &str,
) -> std::result::Result<filter::Graph, LibError> {
    let name = kind.pixel.descriptor().ok_or(LibError::InvalidData)?.name();
    let Rational(num, den) = kind.sample_aspect;
    let (num, den) = if num > 0 && den > 0 { (num, den) } else { (1, 1) };
    let arguments = format!(
        "video_size={}x{}:pix_fmt={name}:time_base={}/{}:pixel_aspect={num}/{den}",
        kind.width, kind.height, time_base.0, time_base.1
    );
    let find = |name| filter::find(name).ok_or(LibError::FilterNotFound);
    let mut graph = filter::Graph::new();
    ffi::use_single_thread(&mut graph);
    graph.add(&find("buffer")?, "in", &arguments)?;
    graph.add(&find("buffersink")?, "out", "")?;
    graph.output("in", 0)?.input("out", 0)?.parse(filters)?;
    graph.validate()?;
    Ok(graph)
}

fn find_source_filter(graph: &mut filter::Graph) -> MediaChildResult<filter::Context> {
    graph.get("in").ok_or_else(|| MediaChildError::Failed("a graph without a source".into()))
}

/// Takes a picture that is ready, its timestamp in `time_base` again: the deinterlacer halves its own.
fn pull_picture(graph: &mut filter::Graph, time_base: Rational) -> MediaChildResult<Option<frame::Video>> {
    let mut ready = frame::Video::empty();
    let mut sink =
        graph.get("out").ok_or_else(|| MediaChildError::Failed("a graph without a sink".into()))?;
    match sink.sink().frame(&mut ready) {
        Ok(()) => {
            let own = sink.sink().time_base();
            if own != time_base {
                let pts = ready.pts().map(|pts| pts.rescale(own, time_base));
                ready.set_pts(pts);
            }
            Ok(Some(ready))
        }
        Err(LibError::Eof) => Ok(None),
        Err(LibError::Other { errno }) if errno == ffmpeg_next::error::EAGAIN => Ok(None),
        Err(error) => Err(error).or_failed("take a picture"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matrix(cells: [i32; 9]) -> Vec<u8> {
        cells.into_iter().flat_map(i32::to_ne_bytes).collect()
    }

    #[test]
    fn turns_follow_the_display_matrix() {
        let one = 1 << 16;
        let check = |cells: [i32; 9], degrees: u16, filters: &str| {
            let turn = DisplayRotation::from_matrix(&matrix(cells));
            assert_eq!((turn.degrees, turn.filters), (degrees, filters), "{cells:?}");
        };
        check([one, 0, 0, 0, one, 0, 0, 0, 1 << 30], 0, "");
        check([0, one, 0, -one, 0, 0, 0, 0, 1 << 30], 90, "transpose=clock");
        check([-one, 0, 0, 0, -one, 0, 0, 0, 1 << 30], 180, "hflip,vflip");
        check([0, -one, 0, one, 0, 0, 0, 0, 1 << 30], 270, "transpose=cclock");
        check([-one, 0, 0, 0, one, 0, 0, 0, 1 << 30], 0, "hflip");
        check([0; 9], 0, "");
        assert_eq!(DisplayRotation::from_matrix(b"short"), DisplayRotation::NONE);
    }
}

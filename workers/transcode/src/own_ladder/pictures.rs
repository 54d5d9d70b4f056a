//! Whether the pictures of a file can be copied, and go with those of another one.

use media::{FrameFault, MediaStream, MediaStreamKind, VideoStream};

use super::files::{ADVICE, Pictures, RenditionFault, SurveyedFile, fault};

/// Containers whose samples can be taken as they are, by FFmpeg's names.
const CONTAINERS: [&str; 2] = ["mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"];

/// By how much a side may be longer or shorter than the shape of the largest pictures has it, in pixels.
const SIDE_ROUNDED_PIXELS: u32 = 2;

/// The pictures of a file that can be copied; none of a file of sound alone.
pub(super) fn find_pictures(of: SurveyedFile<'_>) -> Result<Option<Pictures<'_>>, RenditionFault> {
    let name = &of.file.name;
    let probe = &of.survey.probe;
    if !CONTAINERS.contains(&probe.container.as_str()) {
        return fault(
            "rendition_container",
            format!("{name}: its container is {}, send MP4 or Matroska", probe.container),
        );
    }
    let is_pictures = |stream: &&MediaStream| {
        stream.kind == MediaStreamKind::Video && !stream.is_attached_picture && stream.packet_count > 0
    };
    let count = probe.streams.iter().filter(is_pictures).count();
    if count > 1 {
        return fault(
            "rendition_tracks",
            format!("{name}: it has {count} video tracks, keep one of them (-map 0:v:0)"),
        );
    }
    let (Some(stream), Some(frames)) = (probe.best_video(), &of.survey.frames) else {
        return match (count, of.survey.sound) {
            (0, Some(_)) => Ok(None),
            _ => fault(
                "rendition_tracks",
                format!("{name}: it has no video track that can be decoded, and no sound"),
            ),
        };
    };
    let Some(video) = &stream.video else { return Ok(None) };
    let found = Pictures { of, stream, video, frames };
    check_pictures(&found)?;
    Ok(Some(found))
}

/// Refuses what players of an encode can't be given as it is.
fn check_pictures(found: &Pictures<'_>) -> Result<(), RenditionFault> {
    let (name, video) = (found.name(), found.video);
    if found.stream.codec != "h264" {
        return fault(
            "rendition_codec",
            format!("{name}: its codec is {}, encode it as H.264 (-c:v libx264)", found.stream.codec),
        );
    }
    if video.pixel_format != "yuv420p" || video.color_range == "pc" {
        let detail = format!(
            "{name}: its pixels are {} ({}), encode it with -pix_fmt yuv420p",
            video.pixel_format, video.color_range
        );
        return fault("rendition_colour", detail);
    }
    if video.is_hdr {
        return fault(
            "rendition_colour",
            format!("{name}: its colours are {}, which is HDR; convert it to BT.709", video.color_transfer),
        );
    }
    let is_square = video.sample_aspect.num == video.sample_aspect.den;
    let sides = [video.width, video.height];
    if !is_square
        || video.rotation_degrees != 0
        || sides.iter().any(|side| *side < 16 || !side.is_multiple_of(2))
    {
        let detail = format!(
            "{name}: {}x{} with pixels of {}:{} and a turn of {} degrees; encode it upright, in even sizes and square pixels (setsar=1)",
            video.width,
            video.height,
            video.sample_aspect.num,
            video.sample_aspect.den,
            video.rotation_degrees
        );
        return fault("rendition_size", detail);
    }
    if video.is_interlaced {
        return fault(
            "rendition_interlaced",
            format!("{name}: its pictures are interlaced, deinterlace them (-vf bwdif)"),
        );
    }
    check_frames(found)
}

/// Refuses frames that are not one after the other from a keyframe on.
fn check_frames(found: &Pictures<'_>) -> Result<(), RenditionFault> {
    let name = found.name();
    let seconds = |ms: u64| format!("{}.{:03} s", ms / 1_000, ms % 1_000);
    match found.frames.fault {
        None if found.frames.frame_count > 0 => Ok(()),
        None => fault("rendition_tracks", format!("{name}: its video track is empty")),
        Some(FrameFault::Irregular { at_ms }) => {
            let detail = format!(
                "{name}: its frames are not at equal distances at {}, encode it with -fps_mode cfr",
                seconds(at_ms)
            );
            fault("rendition_frame_rate", detail)
        }
        Some(FrameFault::Hidden) => fault(
            "rendition_edit_list",
            format!("{name}: its edit list hides frames, encode it without cutting it by copy"),
        ),
        Some(FrameFault::Keyframes) => fault(
            "rendition_keyframes",
            format!("{name}: it does not begin with a keyframe, or nearly each frame is one; {ADVICE}"),
        ),
        Some(FrameFault::ParameterSets) => fault(
            "rendition_parameters",
            format!(
                "{name}: parameter sets stand among its frames, copy it with -c copy -bsf:v 'filter_units=remove_types=7-8'"
            ),
        ),
        Some(FrameFault::OpenGroups { at_ms }) => {
            let detail = format!(
                "{name}: its keyframe at {} is no IDR picture, encode it with closed groups (-flags +cgop, or -x264-params open-gop=0)",
                seconds(at_ms)
            );
            fault("rendition_keyframes", detail)
        }
        Some(FrameFault::Changing) => fault(
            "rendition_parameters",
            format!("{name}: its codec is set up anew on the way, encode it in one go"),
        ),
    }
}

/// Refuses two files between which players can't change.
pub(super) fn check_pair(top: &Pictures<'_>, other: &Pictures<'_>) -> Result<(), RenditionFault> {
    let (a, b) = (top.name(), other.name());
    let (rate, other_rate) = (top.frames.frame_rate, other.frames.frame_rate);
    if u64::from(rate.num) * u64::from(other_rate.den) != u64::from(other_rate.num) * u64::from(rate.den) {
        let detail = format!(
            "{:.3} frames a second in {a}, {:.3} in {b}: encode all at one rate (-r)",
            rate.as_f64(),
            other_rate.as_f64()
        );
        return fault("renditions_frame_rate", detail);
    }
    if top.frames.frame_count != other.frames.frame_count {
        let detail = format!(
            "{} frames in {a}, {} in {b}: encode all from the same source, without cutting it",
            top.frames.frame_count, other.frames.frame_count
        );
        return fault("renditions_length", detail);
    }
    if !is_same_shape(top.video, other.video) {
        let (top_size, other_size) = (top.size(), other.size());
        let detail = format!(
            "{}x{} in {a}, {}x{} in {b}: encode all with pictures of one shape, without cutting them",
            top_size.width, top_size.height, other_size.width, other_size.height
        );
        return fault("renditions_shape", detail);
    }
    let colours = |video: &VideoStream| {
        format!("{}/{}/{}", video.color_primaries, video.color_transfer, video.color_space)
    };
    if colours(top.video) != colours(other.video) {
        let detail = format!(
            "colours {} in {a}, {} in {b}: encode all with the same",
            colours(top.video),
            colours(other.video)
        );
        return fault("renditions_colour", detail);
    }
    Ok(())
}

/// True when `b` is `a` at another size, as the check of a finished encode has it; sides are rounded to even numbers.
fn is_same_shape(a: &VideoStream, b: &VideoStream) -> bool {
    let cross = |one: &VideoStream, other: &VideoStream| u64::from(one.width) * u64::from(other.height);
    let rounded = u64::from(SIDE_ROUNDED_PIXELS) * (u64::from(a.width) + u64::from(a.height));
    cross(a, b).abs_diff(cross(b, a)) <= rounded
}

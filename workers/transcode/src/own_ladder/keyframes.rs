//! Where segments may begin: at keyframes that all files have, at regular distances.

use super::files::{ADVICE, Pictures, RenditionFault};

/// Shortest segment, in milliseconds.
const SEGMENT_MS_MIN: u64 = 1_000;

/// Longest segment, in milliseconds.
const SEGMENT_MS_MAX: u64 = 10_000;

/// Shortest group of pictures that counts as one, in milliseconds.
const GROUP_MS_MIN: u64 = 1_000;

/// Frames of a segment and of a group of pictures: distances at which every file has keyframes from the beginning to the end. Of several
/// the one whose length is nearest to `target_ms`.
pub(super) fn choose_segment(
    pictures: &[Pictures<'_>],
    target_ms: u64,
) -> Result<(u32, u32), RenditionFault> {
    let Some(top) = pictures.first() else { return Ok((1, 1)) };
    let common: Vec<u32> = (top.frames.key_frames.iter().copied())
        .filter(|key| pictures.iter().all(|found| found.frames.key_frames.binary_search(key).is_ok()))
        .collect();
    let steps = find_steps(top, &common);
    let ms = |frames: u32| top.frames_to_ms(u64::from(frames));
    let is_segment = |frames: &&u32| {
        let is_whole = u64::from(**frames) >= top.frames.frame_count;
        (ms(**frames) >= SEGMENT_MS_MIN || is_whole) && ms(**frames) <= SEGMENT_MS_MAX
    };
    let Some(segment) = steps.iter().filter(is_segment).min_by_key(|frames| ms(**frames).abs_diff(target_ms))
    else {
        return Err(explain_keyframes(pictures));
    };
    let group = steps.iter().find(|frames| ms(**frames) >= GROUP_MS_MIN && segment.is_multiple_of(**frames));
    Ok((*segment, group.copied().unwrap_or(*segment)))
}

/// Numbers of frames of which each multiple is among `keys`, growing; also the whole film.
fn find_steps(found: &Pictures<'_>, keys: &[u32]) -> Vec<u32> {
    let count = found.frames.frame_count;
    let is_step = |step: u32| {
        let multiples = (1..).map(|n| u64::from(step) * n).take_while(|frame| *frame < count);
        multiples.map(u32::try_from).all(|frame| frame.is_ok_and(|frame| keys.binary_search(&frame).is_ok()))
    };
    let within = |step: &u32| *step > 0 && found.frames_to_ms(u64::from(*step)) <= SEGMENT_MS_MAX;
    let mut steps: Vec<u32> = keys.iter().copied().filter(within).filter(|step| is_step(*step)).collect();
    if let Ok(whole) = u32::try_from(count)
        && within(&whole)
    {
        steps.push(whole);
    }
    steps
}

/// Which files have keyframes at different places, or at none that are regular.
fn explain_keyframes(pictures: &[Pictures<'_>]) -> RenditionFault {
    let seconds = |ms: u64| format!("{}.{:03} s", ms / 1_000, ms % 1_000);
    let mut regular: Vec<(&Pictures<'_>, u32)> = Vec::new();
    for found in pictures {
        let steps = find_steps(found, &found.frames.key_frames);
        let ms = |frames: u32| found.frames_to_ms(u64::from(frames));
        let Some(step) = steps.into_iter().find(|step| ms(*step) >= SEGMENT_MS_MIN) else {
            let detail = format!(
                "{}: its keyframes have no regular distance of {} to {}; {ADVICE}",
                found.name(),
                seconds(SEGMENT_MS_MIN),
                seconds(SEGMENT_MS_MAX)
            );
            return RenditionFault { code: "rendition_keyframes", detail };
        };
        regular.push((found, step));
    }
    let each: Vec<String> = regular
        .iter()
        .map(|(found, step)| {
            format!("each {} in {}", seconds(found.frames_to_ms(u64::from(*step))), found.name())
        })
        .collect();
    RenditionFault {
        code: "renditions_misaligned",
        detail: format!("keyframes {}: {ADVICE}", each.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use media::{FrameIndex, MediaRatio, MediaStream, MediaStreamKind, MediaSurvey, VideoStream};
    use schemas::{ids::UploadId, renditions::RenditionFile};

    use super::super::files::SurveyedFile;
    use super::*;

    fn picture(rate: MediaRatio) -> VideoStream {
        VideoStream {
            width: 640,
            height: 360,
            sample_aspect: MediaRatio::new(1, 1),
            display_width: 640,
            display_height: 360,
            rotation_degrees: 0,
            pixel_format: "yuv420p".into(),
            bit_depth: 8,
            color_primaries: "unknown".into(),
            color_transfer: "unknown".into(),
            color_space: "unknown".into(),
            color_range: "tv".into(),
            is_hdr: false,
            field_order: "progressive".into(),
            is_interlaced: false,
            average_frame_rate: rate,
            real_frame_rate: rate,
            frame_interval_us_min: 40_000,
            frame_interval_us_max: 40_000,
            frame_interval_us_usual: 40_000,
            has_closed_captions: false,
            is_variable_rate: false,
        }
    }

    /// A film of 300 frames, 25 a second, with keyframes at these.
    fn survey(key_frames: Vec<u32>) -> MediaSurvey {
        let rate = MediaRatio::new(25, 1);
        let stream = MediaStream {
            index: 0,
            kind: MediaStreamKind::Video,
            codec: "h264".into(),
            profile: None,
            level: Some(30),
            is_decodable: true,
            bit_rate_bits_per_second: 1,
            language: None,
            title: None,
            is_default: true,
            is_attached_picture: false,
            is_text: false,
            is_forced: false,
            is_hearing_impaired: false,
            packet_count: 300,
            key_packet_count: 1,
            start_us: Some(0),
            end_us: Some(12_000_000),
            video: Some(picture(rate)),
            audio: None,
        };
        let frames = FrameIndex {
            stream: 0,
            first_ticks: 0,
            tick: MediaRatio::new(1, 25),
            frame_rate: rate,
            frame_count: 300,
            key_frames,
            delay_frames: 0,
            fault: None,
        };
        let probe = media::MediaProbe {
            kind: media::MediaFileKind::Video,
            container: "mov,mp4,m4a,3gp,3g2,mj2".into(),
            start_us: 0,
            duration_us: 12_000_000,
            size_bytes: 1,
            is_truncated: false,
            clock: media::ClockMap::default(),
            clock_joints: 0,
            chapters: Vec::new(),
            chapter_count: 0,
            streams: vec![stream],
        };
        MediaSurvey { probe, frames: Some(frames), sound: None }
    }

    /// Frames of a segment and of a group, or the code of a refusal.
    fn chosen(files: &[Vec<u32>]) -> Result<(u32, u32), &'static str> {
        let file = RenditionFile {
            upload_id: UploadId::from_bytes([1; 16]),
            key: "k".into(),
            size_bytes: 1,
            name: "a.mp4".into(),
        };
        let surveys: Vec<MediaSurvey> = files.iter().cloned().map(survey).collect();
        let pictures: Vec<Pictures<'_>> = surveys
            .iter()
            .map(|survey| {
                let (stream, frames) = (&survey.probe.streams[0], survey.frames.as_ref().unwrap());
                let of = SurveyedFile { place: 0, file: &file, survey };
                Pictures { of, stream, video: stream.video.as_ref().unwrap(), frames }
            })
            .collect();
        choose_segment(&pictures, 6_000).map_err(|fault| fault.code)
    }

    #[test]
    fn segments_begin_where_all_files_have_keyframes() {
        let each = |step: usize| (0..300).step_by(step).collect::<Vec<u32>>();
        for (files, wanted) in [
            (vec![each(50)], Ok((150, 50))),
            (vec![each(50), each(25)], Ok((150, 50))),
            // Each two and each three seconds: together each six.
            (vec![each(50), each(75)], Ok((150, 150))),
            // More keyframes where scenes change do no harm.
            (vec![each(50), [each(50), vec![77]].concat().into_iter().collect()], Ok((150, 50))),
            (vec![each(50), each(55)], Err("renditions_misaligned")),
            (vec![vec![0, 51, 101]], Err("rendition_keyframes")),
            // The second segment of two is as long as it is.
            (vec![vec![0, 51, 101, 149, 203, 251]], Ok((203, 203))),
            (vec![vec![0]], Err("rendition_keyframes")),
        ] {
            let files: Vec<Vec<u32>> = files
                .into_iter()
                .map(|mut keys| {
                    keys.sort_unstable();
                    keys
                })
                .collect();
            assert_eq!(chosen(&files), wanted, "{files:?}");
        }
    }
}

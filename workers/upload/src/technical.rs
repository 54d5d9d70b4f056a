//! Turns what the media child found into the record's technical metadata.

use media::{AudioStream, MediaFileKind, MediaProbe, MediaRatio, MediaStream, MediaStreamKind, VideoStream};
use schemas::chapters::{Chapter, TITLE_LENGTH_MAX};
use schemas::media::{
    AudioTrack, ClockMark, MediaWarning, Rational, SubtitleTrack, TechnicalMetadata, VideoTrack,
    warning_codes,
};
use schemas::value::is_displayable;

/// Most characters of a track's title in a warning.
const WARNING_TITLE_CHARS_MAX: usize = 64;

/// What the child found, in the form that the record and the event carry, behind the warnings that came of the file's structure.
/// Texts are cut to `text_chars_max`.
pub fn build_technical(
    probe: &MediaProbe,
    text_chars_max: usize,
    mut warnings: Vec<MediaWarning>,
) -> TechnicalMetadata {
    // A last packet that is damaged lies in the bytes behind the structure, where there are some: the structure is whole.
    let is_known = warnings.iter().any(|warning| {
        [warning_codes::TRUNCATED, warning_codes::TRAILING_BYTES].contains(&warning.code.as_str())
    });
    if probe.is_truncated && !is_known {
        let detail = "the file ends before its structure does; it plays to where it goes".to_owned();
        warnings.push(MediaWarning { code: warning_codes::TRUNCATED.to_owned(), detail });
    }
    warnings.extend(list_dropped_tracks(probe));
    warnings.extend(describe_joints(probe));
    warnings.extend(describe_lost_texts(probe));
    let best = probe.best_video().map(|stream| stream.index);
    let mut video: Vec<VideoTrack> = probe
        .streams
        .iter()
        .filter(|stream| stream.kind == MediaStreamKind::Video && stream.is_playable())
        .filter_map(|stream| stream.video.as_ref().map(|video| video_track(stream, video)))
        .collect();
    video.sort_by_key(|track| (Some(track.index) != best, track.index));
    let audio = probe
        .audio_streams()
        .into_iter()
        .filter_map(|stream| stream.audio.as_ref().map(|audio| audio_track(stream, audio, text_chars_max)))
        .collect();
    let subtitles = readable_subtitles(probe).map(|stream| subtitle_track(stream, text_chars_max)).collect();
    TechnicalMetadata {
        container: container_family(&probe.container).to_owned(),
        duration_ms: probe.duration_us / 1000,
        bit_rate_bps: bit_rate_bps(probe.size_bytes, probe.duration_us),
        video,
        audio,
        subtitles,
        chapters: list_chapters(probe),
        cover_index: cover_index(probe),
        still: probe.kind == MediaFileKind::Image,
        clock: probe.clock.0.iter().map(to_clock_mark).collect(),
        warnings,
    }
}

/// The cover picture that becomes the poster: the first that can be decoded.
fn cover_index(probe: &MediaProbe) -> Option<u32> {
    let is_cover = |stream: &&MediaStream| stream.is_attached_picture && stream.is_decodable;
    probe.streams.iter().find(is_cover).map(|stream| stream.index)
}

/// The chapters of the file as they are kept: by time, within what plays, the first at its beginning. A chapter without a title is named
/// by its number, and one alone says nothing.
fn list_chapters(probe: &MediaProbe) -> Vec<Chapter> {
    let end_ms = i64::try_from(probe.duration_us / 1_000).unwrap_or(i64::MAX);
    let mut starts: Vec<(i64, Option<&str>)> = probe
        .chapters
        .iter()
        // FFmpeg's mark of a time that is not known.
        .filter(|chapter| chapter.start_us > i64::MIN)
        .map(|chapter| (chapter.start_us.saturating_sub(probe.start_us) / 1_000, chapter.title.as_deref()))
        .filter(|(start_ms, _)| *start_ms < end_ms)
        .collect();
    starts.sort_by_key(|(start_ms, _)| *start_ms);
    starts.dedup_by_key(|(start_ms, _)| *start_ms);
    // Of those before the beginning, the one that runs when it plays.
    starts.drain(..starts.partition_point(|(start_ms, _)| *start_ms <= 0).saturating_sub(1));
    if starts.len() < 2 {
        return Vec::new();
    }
    let chapters = starts.into_iter().zip(1..).map(|((start_ms, title), number)| Chapter {
        start_ms: if number == 1 { 0 } else { u64::try_from(start_ms).unwrap_or(0) },
        title: title
            .and_then(|text| clean_text(text, TITLE_LENGTH_MAX))
            .unwrap_or_else(|| format!("Chapter {number}")),
    });
    chapters.collect()
}

/// The subtitle tracks that play.
fn readable_subtitles(probe: &MediaProbe) -> impl Iterator<Item = &MediaStream> {
    probe.streams.iter().filter(|stream| stream.is_readable_subtitle()).take(media::SUBTITLE_TRACKS_MAX)
}

fn to_clock_mark(mark: &media::ClockMark) -> ClockMark {
    ClockMark { position_bytes: mark.position_bytes, offset_us: mark.offset_us, at_us: mark.at_us }
}

fn describe_joints(probe: &MediaProbe) -> Option<MediaWarning> {
    let detail = format!(
        "jumps of the clock, behind each of which what follows goes on from there: {}",
        probe.clock_joints
    );
    (probe.clock_joints > 0).then(|| MediaWarning { code: warning_codes::CLOCK_JOINED.to_owned(), detail })
}

/// Chapters that can't be kept, and captions that come with the pictures.
fn describe_lost_texts(probe: &MediaProbe) -> Vec<MediaWarning> {
    let captioned = probe
        .best_video()
        .filter(|stream| stream.video.as_ref().is_some_and(|video| video.has_closed_captions));
    let captions = captioned.map(|stream| MediaWarning {
        code: warning_codes::CLOSED_CAPTIONS_DROPPED.to_owned(),
        detail: format!("track {}: captions inside of the picture's stream", stream.index),
    });
    let kept_count = list_chapters(probe).len();
    let dropped_count = usize::try_from(probe.chapter_count).unwrap_or(usize::MAX).saturating_sub(kept_count);
    let chapters = (probe.chapter_count > 1 && dropped_count > 0).then(|| MediaWarning {
        code: warning_codes::CHAPTERS_DROPPED.to_owned(),
        detail: format!("chapters: {dropped_count} of {}", probe.chapter_count),
    });
    captions.into_iter().chain(chapters).collect()
}

/// Says of every track that is not played why.
fn list_dropped_tracks(probe: &MediaProbe) -> Vec<MediaWarning> {
    let cover = cover_index(probe);
    let best = probe.best_video().map(|stream| stream.index);
    let dropped = probe.streams.iter().filter_map(|stream| {
        // An attachment has no packets, whatever it holds.
        let is_empty = stream.packet_count == 0 && stream.kind != MediaStreamKind::Attachment;
        let code = match stream.kind {
            MediaStreamKind::Video if Some(stream.index) == cover => return None,
            MediaStreamKind::Video if stream.is_attached_picture => warning_codes::COVER_DROPPED,
            _ if is_empty => return None,
            MediaStreamKind::Video | MediaStreamKind::Audio if !stream.is_decodable => {
                warning_codes::TRACK_UNDECODABLE
            }
            MediaStreamKind::Video if best != Some(stream.index) => warning_codes::VIDEO_TRACK_DROPPED,
            MediaStreamKind::Subtitle if readable_subtitles(probe).any(|kept| kept.index == stream.index) => {
                return None;
            }
            MediaStreamKind::Subtitle => warning_codes::SUBTITLE_TRACK_DROPPED,
            MediaStreamKind::Attachment | MediaStreamKind::Other => warning_codes::DATA_TRACK_DROPPED,
            MediaStreamKind::Video | MediaStreamKind::Audio => return None,
        };
        let title = stream.title.as_deref().and_then(|text| clean_text(text, WARNING_TITLE_CHARS_MAX));
        let named = title.map_or_else(String::new, |title| format!(" ({title})"));
        Some(MediaWarning {
            code: code.to_owned(),
            detail: format!("track {}: {}{named}", stream.index, stream.codec),
        })
    });
    dropped.collect()
}

fn video_track(stream: &MediaStream, video: &VideoStream) -> VideoTrack {
    VideoTrack {
        index: stream.index,
        codec: stream.codec.clone(),
        width: video.width,
        height: video.height,
        sample_aspect: to_rational(video.sample_aspect),
        rotation_degrees: u32::from(video.rotation_degrees),
        frame_rate: to_rational(video.average_frame_rate),
        variable_frame_rate: video.is_variable_rate,
        pixel_format: video.pixel_format.clone(),
        bit_depth: u32::from(video.bit_depth),
        color_transfer: Some(video.color_transfer.clone()).filter(|name| name != "unknown"),
        color_primaries: Some(video.color_primaries.clone()).filter(|name| name != "unknown"),
        interlaced: video.is_interlaced,
        frame_count: stream.packet_count,
        start_us: stream.start_us.unwrap_or(0),
        end_us: stream.end_us.unwrap_or(0),
    }
}

fn audio_track(stream: &MediaStream, audio: &AudioStream, text_chars_max: usize) -> AudioTrack {
    AudioTrack {
        index: stream.index,
        codec: stream.codec.clone(),
        sample_rate_hz: audio.sample_rate_hz,
        channels: u32::from(audio.channels),
        language: stream.language.as_deref().and_then(|text| clean_text(text, text_chars_max)),
        title: stream.title.as_deref().and_then(|text| clean_text(text, text_chars_max)),
        is_default: stream.is_default,
        start_us: stream.start_us.unwrap_or(0),
        end_us: stream.end_us.unwrap_or(0),
    }
}

fn subtitle_track(stream: &MediaStream, text_chars_max: usize) -> SubtitleTrack {
    SubtitleTrack {
        index: stream.index,
        codec: stream.codec.clone(),
        language: stream.language.as_deref().and_then(|text| clean_text(text, text_chars_max)),
        title: stream.title.as_deref().and_then(|text| clean_text(text, text_chars_max)),
        is_forced: stream.is_forced,
        is_hearing_impaired: stream.is_hearing_impaired,
    }
}

/// A short name for a family of containers that share one demuxer.
fn container_family(container: &str) -> &str {
    match container {
        "mov,mp4,m4a,3gp,3g2,mj2" => "mp4",
        "matroska,webm" => "matroska",
        "mpeg" => "mpegps",
        other => other.strip_suffix("_pipe").unwrap_or(other),
    }
}

/// A ratio with a denominator that is never 0; an unknown one is 0/1.
fn to_rational(ratio: MediaRatio) -> Rational {
    if ratio.den == 0 { Rational { num: 0, den: 1 } } else { Rational { num: ratio.num, den: ratio.den } }
}

fn bit_rate_bps(size_bytes: u64, duration_us: u64) -> u64 {
    let bits = u128::from(size_bytes) * 8 * 1_000_000;
    bits.checked_div(u128::from(duration_us)).map_or(0, |bps| u64::try_from(bps).unwrap_or(u64::MAX))
}

/// Text of the file's author without control characters; `None` when nothing is left.
fn clean_text(text: &str, chars_max: usize) -> Option<String> {
    let cleaned: String = text.chars().filter(|c| is_displayable(*c)).take(chars_max).collect();
    let cleaned = cleaned.trim().to_owned();
    (!cleaned.is_empty()).then_some(cleaned)
}

//! Says what a file holds: parameters by the container, times and rates by a scan of all packets.
//!
//! Limits: packets and duration as in `MediaLimits`.

use std::sync::Arc;

use ffmpeg_next::format::context::Input;
use ffmpeg_next::format::stream::Disposition;
use ffmpeg_next::{Error as LibError, Packet, Rational, Rescale, decoder, media as kind, packet};
use media::protocol::MediaLimits;
use media::{
    AudioStream, ClockMap, MediaErrorCode, MediaFileKind, MediaProbe, MediaRatio, MediaStream,
    MediaStreamKind, SOURCE_CHAPTERS_MAX, SourceChapter, TEXT_CHARS_MAX, VideoStream,
};

use crate::clock_joiner::{ClockJoiner, PlacedPacket, TooManyJoints};
use crate::error::{MediaChildError, MediaChildResult, is_out_of_memory, source_refused_error};
use crate::ffi;
use crate::first_frames;
use crate::input::{self, CheckedInput};
use crate::parent_pipe::{ChildJob, ParentPipe};
use crate::picture_filter::{DisplayRotation, display_size};
use crate::remote::RemoteSource;
use crate::scan::{PacketSummary, TrackStatistics};
use crate::truncation;

/// Runs the task.
pub(crate) fn probe_source(wire: &Arc<ParentPipe>, job: &ChildJob) -> MediaChildResult<MediaProbe> {
    let mut opened = input::open_source(wire, job)?;
    let PacketScan { tallies, is_broken_off, clock, clock_joints } =
        scan_packets(&mut opened, wire, &job.limits)?;
    let mut streams: Vec<MediaStream> =
        opened.input.streams().zip(&tallies).map(|(stream, tally)| describe_stream(&stream, tally)).collect();
    let format = opened.format.clone();
    let chapters: Vec<SourceChapter> =
        opened.input.chapters().take(SOURCE_CHAPTERS_MAX).map(|chapter| describe_chapter(&chapter)).collect();
    let chapter_count = opened.input.nb_chapters();
    drop(opened);
    if let Some(index) = tallies.iter().position(|tally| tally.is_encrypted) {
        let detail =
            format!("stream {index} is encrypted, and there is no key for it; upload it without protection");
        return Err(source_refused_error(MediaErrorCode::MediaEncrypted, detail));
    }
    let undecodable = first_frames::decode_beginnings(wire, job, &mut streams, &tallies)?;
    let remote = RemoteSource::new(Arc::clone(wire), job.size_bytes);
    let is_cut_short = truncation::is_truncated(remote, job.size_bytes, &format).unwrap_or(true);
    let is_last_corrupt = tallies.iter().any(|tally| tally.is_last_corrupt);
    let is_truncated = is_cut_short || is_broken_off || is_last_corrupt;
    let refuse = |error| match undecodable {
        Some(track) if is_truncated && track.code == MediaErrorCode::MediaNoFrames => {
            source_refused_error(MediaErrorCode::MediaTruncated, track.detail)
        }
        Some(track) => source_refused_error(track.code, track.detail),
        None => error,
    };
    let mut probe = assemble_probe(format, job.size_bytes, streams, is_truncated).map_err(refuse)?;
    (probe.clock, probe.clock_joints) = (clock, u32::try_from(clock_joints).unwrap_or(u32::MAX));
    (probe.chapters, probe.chapter_count) = (chapters, chapter_count);
    if probe.duration_us / 1_000_000 > job.limits.duration_seconds_max {
        return Err(source_refused_error(
            MediaErrorCode::MediaTooLong,
            format!("{} s", probe.duration_us / 1_000_000),
        ));
    }
    Ok(probe)
}

fn assemble_probe(
    container: String,
    size_bytes: u64,
    streams: Vec<MediaStream>,
    is_truncated: bool,
) -> MediaChildResult<MediaProbe> {
    let is_wanted =
        |stream: &&MediaStream| matches!(stream.kind, MediaStreamKind::Video | MediaStreamKind::Audio);
    if !streams.iter().any(|stream| is_wanted(&stream)) {
        return Err(source_refused_error(
            MediaErrorCode::MediaNoStreams,
            format!("{} streams, none of video or audio", streams.len()),
        ));
    }
    if !streams.iter().filter(is_wanted).any(|stream| stream.is_decodable) {
        if streams.iter().filter(is_wanted).any(|stream| has_decoder(&stream.codec)) {
            return Err(source_refused_error(
                MediaErrorCode::MediaCorrupt,
                "no size of the picture, no rate of the sound",
            ));
        }
        let codecs: Vec<&str> = streams.iter().map(|stream| stream.codec.as_str()).collect();
        return Err(source_refused_error(MediaErrorCode::MediaUnsupportedCodec, codecs.join(", ")));
    }
    let played: Vec<&MediaStream> = streams.iter().filter(|stream| stream.is_playable()).collect();
    let start_us = played.iter().filter_map(|stream| stream.start_us).min();
    let end_us = played.iter().filter_map(|stream| stream.end_us).max();
    let video: Vec<&&MediaStream> =
        played.iter().filter(|stream| stream.kind == MediaStreamKind::Video).collect();
    let is_single = video.iter().all(|stream| stream.packet_count == 1) && played.len() == video.len();
    let kind = match () {
        () if played.is_empty() && is_truncated => {
            return Err(source_refused_error(MediaErrorCode::MediaTruncated, "no packets"));
        }
        () if played.is_empty() => {
            return Err(source_refused_error(MediaErrorCode::MediaNoFrames, "no packets"));
        }
        () if video.is_empty() => MediaFileKind::Audio,
        () if input::is_image(&container) || (input::is_animation(&container) && is_single) => {
            MediaFileKind::Image
        }
        () => MediaFileKind::Video,
    };
    let start_us = start_us.unwrap_or(0);
    let duration_us = u64::try_from(end_us.unwrap_or(0).saturating_sub(start_us)).unwrap_or(0);
    Ok(MediaProbe {
        kind,
        container,
        start_us,
        duration_us,
        size_bytes,
        is_truncated,
        clock: ClockMap::default(),
        clock_joints: 0,
        chapters: Vec::new(),
        chapter_count: 0,
        streams,
    })
}

/// Whether a decoder for a codec is there, whatever the track lacks.
fn has_decoder(codec: &str) -> bool {
    decoder::find_by_name(codec).is_some()
}

/// What reading every packet showed.
struct PacketScan {
    tallies: Vec<TrackStatistics>,
    /// The file breaks off with an error.
    is_broken_off: bool,
    clock: ClockMap,
    clock_joints: usize,
}

/// Reads every packet once.
fn scan_packets(
    opened: &mut CheckedInput,
    wire: &ParentPipe,
    limits: &MediaLimits,
) -> MediaChildResult<PacketScan> {
    let tally = |stream: ffmpeg_next::Stream<'_>| {
        let parameters = ffi::read_parameters(&stream);
        TrackStatistics::new(
            stream.time_base(),
            parameters.sample_rate_hz,
            parameters.run_in_samples,
            parameters.packet_samples,
        )
    };
    let mut tallies: Vec<TrackStatistics> = opened.input.streams().map(tally).collect();
    let is_played: Vec<bool> = opened.input.streams().map(|stream| has_pictures_or_sound(&stream)).collect();
    let mut joiner = ffi::has_jumping_clock(&opened.input).then(|| new_joiner(&opened.input));
    let mut count = 0_u64;
    let mut bad = 0_u64;
    let is_broken_off = loop {
        // A fresh one each time: reading does not free what the packet held before.
        let mut packet = Packet::empty();
        match packet.read(&mut opened.input) {
            Ok(()) => {}
            Err(LibError::Eof) => break false,
            Err(LibError::InvalidData) if bad < 1000 => {
                bad += 1;
                continue;
            }
            Err(error) if is_out_of_memory(error) => {
                return Err(MediaChildError::Failed("read a packet: out of memory".into()));
            }
            Err(_) => break true,
        }
        count += 1;
        if count > limits.packets_max {
            return Err(source_refused_error(
                MediaErrorCode::MediaTooManyPackets,
                format!("more than {}", limits.packets_max),
            ));
        }
        // A file may bring up new streams on the way; those are not part of what was found at its beginning.
        if let Some(tally) = tallies.get_mut(packet.stream()).filter(|_| !ffi::is_discarded(&packet)) {
            let mut summary = summarize_packet(&packet);
            // Captions and data come once in a while, whenever they like.
            let is_joined = is_played.get(packet.stream()).is_some_and(|is_played| *is_played);
            if let Some(joiner) = joiner.as_mut().filter(|_| is_joined) {
                let offset = join_packet(joiner, &packet, tally.time_base)?;
                summary.pts = summary.pts.map(|pts| pts.saturating_add(offset));
            }
            tally.add_packet(summary);
        }
        wire.send_progress(count)?;
    };
    tallies.iter_mut().for_each(TrackStatistics::finish);
    let (clock, clock_joints) = joiner.map_or_else(Default::default, ClockJoiner::finish);
    Ok(PacketScan { tallies, is_broken_off, clock, clock_joints })
}

fn has_pictures_or_sound(stream: &ffmpeg_next::Stream<'_>) -> bool {
    matches!(stream.parameters().medium(), kind::Type::Video | kind::Type::Audio)
}

/// A joiner that is made exact by the first track of pictures.
fn new_joiner(input: &Input) -> ClockJoiner {
    let main = input.streams().find(|stream| {
        stream.parameters().medium() == kind::Type::Video
            && !stream.disposition().contains(Disposition::ATTACHED_PIC)
    });
    let tracks = usize::try_from(input.nb_streams()).unwrap_or(0);
    ClockJoiner::new(tracks, main.map(|stream| stream.index()))
}

/// What is added to the time stamps of a packet, in its own ticks.
fn join_packet(joiner: &mut ClockJoiner, packet: &Packet, time_base: Rational) -> MediaChildResult<i64> {
    let micros = Rational(1, 1_000_000);
    let Some(at) = packet.dts().or_else(|| packet.pts()) else { return Ok(0) };
    let offset_us = joiner.join_packet(PlacedPacket {
        stream: packet.stream(),
        position_bytes: u64::try_from(packet.position()).ok(),
        at_us: at.rescale(time_base, micros),
        duration_us: packet.duration().rescale(time_base, micros),
        is_key: packet.is_key(),
    });
    let offset_us = offset_us.map_err(|TooManyJoints| {
        source_refused_error(
            MediaErrorCode::MediaCorrupt,
            "its clock jumps more often than that of a recording",
        )
    })?;
    Ok(offset_us.rescale(micros, time_base))
}

fn summarize_packet(packet: &Packet) -> PacketSummary {
    let skip = packet.side_data().find(|data| data.kind() == packet::side_data::Type::SkipSamples);
    let skip_samples = skip.and_then(|data| data.data().first_chunk().copied()).map_or(0, u32::from_le_bytes);
    PacketSummary {
        pts: packet.pts().or_else(|| packet.dts()),
        duration: packet.duration(),
        size_bytes: packet.size(),
        is_key: packet.is_key(),
        is_corrupt: packet.is_corrupt(),
        is_encrypted: packet.side_data().any(|data| data.kind() == packet::side_data::Type::EncryptionInfo),
        skip_samples,
    }
}

fn describe_stream(stream: &ffmpeg_next::Stream<'_>, tally: &TrackStatistics) -> MediaStream {
    let parameters = ffi::read_parameters(stream);
    let kind = match stream.parameters().medium() {
        kind::Type::Video => MediaStreamKind::Video,
        kind::Type::Audio => MediaStreamKind::Audio,
        kind::Type::Subtitle => MediaStreamKind::Subtitle,
        kind::Type::Attachment => MediaStreamKind::Attachment,
        _ => MediaStreamKind::Other,
    };
    let has_picture = parameters.width > 0 && parameters.height > 0;
    let has_sound = parameters.sample_rate_hz > 0 && parameters.channels > 0;
    let is_complete = match kind {
        MediaStreamKind::Video => has_picture,
        MediaStreamKind::Audio => has_sound,
        _ => true,
    };
    let end_us = tally.end_us();
    let lasts_us = match (tally.start_us, end_us) {
        (Some(start), Some(end)) => u128::try_from(end.saturating_sub(start)).unwrap_or(0),
        _ => 0,
    };
    let rate = (u128::from(tally.size_bytes) * 8_000_000).checked_div(lasts_us).unwrap_or(0);
    let disposition = stream.disposition();
    MediaStream {
        index: u32::try_from(stream.index()).unwrap_or(u32::MAX),
        kind,
        codec: parameters.codec.clone(),
        profile: parameters.profile.clone(),
        level: (parameters.level >= 0).then_some(parameters.level),
        is_decodable: is_complete && decoder::find(stream.parameters().id()).is_some(),
        bit_rate_bits_per_second: u64::try_from(rate).unwrap_or(u64::MAX),
        language: read_tag(stream, c"language"),
        title: read_tag(stream, if kind == MediaStreamKind::Attachment { c"filename" } else { c"title" }),
        is_default: disposition.contains(Disposition::DEFAULT),
        is_attached_picture: disposition.contains(Disposition::ATTACHED_PIC),
        is_text: ffi::is_text_subtitle(stream),
        is_forced: disposition.contains(Disposition::FORCED),
        is_hearing_impaired: disposition.contains(Disposition::HEARING_IMPAIRED),
        packet_count: tally.packets,
        key_packet_count: tally.keys,
        start_us: tally.start_us,
        end_us,
        video: (kind == MediaStreamKind::Video).then(|| describe_video(stream, &parameters, tally)),
        audio: (kind == MediaStreamKind::Audio).then(|| AudioStream {
            sample_rate_hz: parameters.sample_rate_hz,
            channels: parameters.channels,
            layout: ffi::layout_name(stream),
            sample_format: ffi::sample_format_name(parameters.sample).to_owned(),
        }),
    }
}

fn describe_video(
    stream: &ffmpeg_next::Stream<'_>,
    parameters: &ffi::TrackParameters,
    tally: &TrackStatistics,
) -> VideoStream {
    let turn = DisplayRotation::from_stream(stream);
    let (display_width, display_height) =
        display_size(parameters.width, parameters.height, parameters.sample_aspect, turn);
    let or_unknown = |name: Option<&'static str>| name.unwrap_or("unknown").to_owned();
    let color = parameters.color;
    let transfer = or_unknown(color.transfer.name());
    let described = ffi::bit_depth(parameters.pixel);
    let raw = u8::try_from(parameters.bits_raw).unwrap_or(0);
    VideoStream {
        width: parameters.width,
        height: parameters.height,
        sample_aspect: to_ratio(parameters.sample_aspect),
        display_width,
        display_height,
        rotation_degrees: turn.degrees,
        pixel_format: parameters.pixel.descriptor().map_or("unknown", |pixel| pixel.name()).to_owned(),
        bit_depth: if described > 0 { described } else { raw },
        color_primaries: or_unknown(color.primaries.name()),
        is_hdr: matches!(transfer.as_str(), "smpte2084" | "arib-std-b67"),
        color_transfer: transfer,
        color_space: or_unknown(color.space.name()),
        color_range: or_unknown(color.range.name()),
        is_interlaced: matches!(parameters.field_order, "tt" | "bb" | "tb" | "bt"),
        field_order: parameters.field_order.to_owned(),
        // As declared, until frames are decoded.
        average_frame_rate: to_ratio(stream.avg_frame_rate()),
        real_frame_rate: to_ratio(stream.rate()),
        frame_interval_us_min: tally.intervals.shortest_us,
        frame_interval_us_max: tally.intervals.longest_us,
        frame_interval_us_usual: tally.intervals.median_us(),
        has_closed_captions: false,
        is_variable_rate: tally.intervals.is_variable(),
    }
}

fn to_ratio(rational: Rational) -> MediaRatio {
    match (u32::try_from(rational.0), u32::try_from(rational.1)) {
        (Ok(num), Ok(den)) => MediaRatio::new(num, den),
        _ => MediaRatio::new(0, 0),
    }
}

fn describe_chapter(chapter: &ffmpeg_next::Chapter<'_>) -> SourceChapter {
    SourceChapter {
        start_us: chapter.start().rescale(chapter.time_base(), Rational(1, 1_000_000)),
        title: ffi::read_chapter_title(chapter).and_then(|text| printable(&text)),
    }
}

fn read_tag(stream: &ffmpeg_next::Stream<'_>, key: &std::ffi::CStr) -> Option<String> {
    printable(&ffi::read_metadata(stream, key)?)
}

/// A text of a file without control characters, cut to [`TEXT_CHARS_MAX`]; `None` where nothing is left.
fn printable(text: &str) -> Option<String> {
    let text: String = text.chars().filter(|c| !c.is_control()).take(TEXT_CHARS_MAX).collect();
    (!text.is_empty()).then_some(text)
}

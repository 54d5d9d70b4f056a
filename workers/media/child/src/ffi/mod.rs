//! Everything that the safe wrapper of FFmpeg does not offer, and the few system calls without a safe wrapper.
//!
//! This is the only module of the project that may hold `unsafe`; each block says why it is sound.

#![allow(unsafe_code, reason = "FFmpeg's C interface, fork and getrusage have no safe wrapper")]

mod open;
mod sound;
mod subtitle;
mod system;

pub(crate) use open::{UnprobedInput, guess_format, has_jumping_clock, seek_byte, seek_keyframe};
pub(crate) use sound::{
    ChannelMask, layout_name, sample_format_name, set_stereo, stereo_frame, stereo_planes,
};
pub(crate) use subtitle::{DecodedCue, decode_cues, is_text_subtitle};
pub(crate) use system::{exit_now, fork_is_refused, limit_arenas, read_process_usage, thread_count};

use ffmpeg_next::ffi::{
    AV_OPT_SEARCH_CHILDREN, AVDiscard, AVFieldOrder, AVPixelFormat, av_frame_ref, av_opt_set, av_write_frame,
    avcodec_get_name, avcodec_profile_name, avio_flush,
};
use ffmpeg_next::format::context::{Input, Output};
use ffmpeg_next::format::stream::Stream;
use ffmpeg_next::{Chapter, Error, Rational, codec, format, frame};
use std::ffi::{CStr, c_char};

/// What the container says about a track.
#[derive(Debug, Clone)]
pub(crate) struct TrackParameters {
    pub(crate) codec: String,
    pub(crate) profile: Option<String>,
    pub(crate) level: i32,
    pub(crate) width: u32,
    pub(crate) height: u32,
    pub(crate) sample_aspect: Rational,
    pub(crate) pixel: format::Pixel,
    pub(crate) bits_raw: i32,
    pub(crate) color: ColorTags,
    pub(crate) field_order: &'static str,
    pub(crate) sample_rate_hz: u32,
    pub(crate) channels: u16,
    /// Samples of the encoder's run-in, which a decoder leaves out.
    pub(crate) run_in_samples: u32,
    /// Samples of every packet of sound; 0 where they differ, or nobody knows.
    pub(crate) packet_samples: u32,
    pub(crate) sample: format::Sample,
}

/// Colour tags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ColorTags {
    pub(crate) primaries: ffmpeg_next::color::Primaries,
    pub(crate) transfer: ffmpeg_next::color::TransferCharacteristic,
    pub(crate) space: ffmpeg_next::color::Space,
    pub(crate) range: ffmpeg_next::color::Range,
}

/// Bytes of the length before each NAL unit of an H.264 track, as its `avcC` says (ISO/IEC 14496-15, 5.3.3.1); none of other tracks.
pub(crate) fn read_nal_length_bytes(stream: &Stream<'_>) -> Option<usize> {
    // SAFETY: the stream belongs to an open input that outlives the borrow, `codecpar` is set for its whole life, and `extradata` holds
    // `extradata_size` bytes.
    unsafe {
        let par = (*stream.as_ptr()).codecpar;
        let is_h264 = (*par).codec_id == ffmpeg_next::ffi::AVCodecID::AV_CODEC_ID_H264;
        if !is_h264 || (*par).extradata.is_null() || (*par).extradata_size < 7 {
            return None;
        }
        let (version, sizes) = (*(*par).extradata, *(*par).extradata.add(4));
        (version == 1).then_some(usize::from(sizes & 3) + 1)
    }
}

/// Reads what the container and the first packets said about a track.
pub(crate) fn read_parameters(stream: &Stream<'_>) -> TrackParameters {
    // SAFETY: the stream belongs to an open input that outlives the borrow, and `codecpar` is set for its whole
    // life. `format` holds a value of the enum that belongs to the codec type, which libavformat guarantees.
    unsafe {
        let stream = stream.as_ptr();
        let par = (*stream).codecpar;
        let is_video = (*par).codec_type == ffmpeg_next::ffi::AVMediaType::AVMEDIA_TYPE_VIDEO;
        let is_audio = (*par).codec_type == ffmpeg_next::ffi::AVMediaType::AVMEDIA_TYPE_AUDIO;
        let profile = copy_c_text(avcodec_profile_name((*par).codec_id, (*par).profile));
        // The container first: it is what a remux or an editor corrects, and what players follow.
        let sar = [(*stream).sample_aspect_ratio, (*par).sample_aspect_ratio];
        let sample_aspect =
            sar.into_iter().find(|sar| sar.num > 0 && sar.den > 0).map_or(Rational(1, 1), Into::into);
        TrackParameters {
            codec: copy_c_text(avcodec_get_name((*par).codec_id)).unwrap_or_default(),
            profile,
            level: (*par).level,
            width: u32::try_from((*par).width).unwrap_or(0),
            height: u32::try_from((*par).height).unwrap_or(0),
            sample_aspect,
            pixel: if is_video && (*par).format >= 0 {
                std::mem::transmute::<i32, AVPixelFormat>((*par).format).into()
            } else {
                format::Pixel::None
            },
            bits_raw: (*par).bits_per_raw_sample,
            color: ColorTags {
                primaries: (*par).color_primaries.into(),
                transfer: (*par).color_trc.into(),
                space: (*par).color_space.into(),
                range: (*par).color_range.into(),
            },
            field_order: field_order_name((*par).field_order),
            sample_rate_hz: u32::try_from((*par).sample_rate).unwrap_or(0),
            channels: u16::try_from((*par).ch_layout.nb_channels).unwrap_or(0),
            run_in_samples: u32::try_from((*par).initial_padding).unwrap_or(0),
            packet_samples: u32::try_from((*par).frame_size).unwrap_or(0),
            sample: if is_audio && (*par).format >= 0 {
                std::mem::transmute::<i32, ffmpeg_next::ffi::AVSampleFormat>((*par).format).into()
            } else {
                format::Sample::None
            },
        }
    }
}

/// The shape of a pixel that the container gives a track; none when it leaves that to the codec.
pub(crate) fn container_aspect(stream: &Stream<'_>) -> Option<Rational> {
    // SAFETY: the stream belongs to an open input that outlives the borrow.
    let aspect: Rational = unsafe { (*stream.as_ptr()).sample_aspect_ratio }.into();
    (aspect.0 > 0 && aspect.1 > 0).then_some(aspect)
}

/// Gives a decoded picture pixels of this shape.
pub(crate) fn set_sample_aspect(frame: &mut frame::Frame, aspect: Rational) {
    // SAFETY: the frame is valid.
    unsafe { (*frame.as_mut_ptr()).sample_aspect_ratio = aspect.into() };
}

/// How long a decoded frame is shown or played.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FrameLength {
    /// Sound.
    Samples {
        /// Samples of each channel.
        count: i64,
        /// Samples per second.
        rate_hz: i32,
    },
    /// A picture: ticks of the track's time base; 0 when nothing says it.
    Ticks(i64),
}

/// The length of a decoded frame.
pub(crate) fn frame_length(frame: &frame::Frame) -> FrameLength {
    // SAFETY: the frame is valid.
    let (samples, rate_hz) = unsafe { ((*frame.as_ptr()).nb_samples, (*frame.as_ptr()).sample_rate) };
    let ticks = frame.packet().duration;
    if samples > 0 {
        FrameLength::Samples { count: i64::from(samples), rate_hz }
    } else {
        FrameLength::Ticks(ticks)
    }
}

fn field_order_name(order: AVFieldOrder) -> &'static str {
    match order {
        AVFieldOrder::AV_FIELD_PROGRESSIVE => "progressive",
        AVFieldOrder::AV_FIELD_TT => "tt",
        AVFieldOrder::AV_FIELD_BB => "bb",
        AVFieldOrder::AV_FIELD_TB => "tb",
        AVFieldOrder::AV_FIELD_BT => "bt",
        AVFieldOrder::AV_FIELD_UNKNOWN => "unknown",
    }
}

/// How many frames an opened encoder may put between a picture and its place in the order of decoding.
pub(crate) fn reordered_frames(encoder: impl AsRef<codec::Context>) -> u32 {
    // SAFETY: the context is valid; the encoder set the field when it was opened.
    let frames = unsafe { (*encoder.as_ref().as_ptr()).has_b_frames };
    u32::try_from(frames).unwrap_or(0)
}

/// Sets the quality that an encoder is to use for a picture, in lambda units.
pub(crate) fn set_quality(picture: &mut frame::Video, quality: i32) {
    // SAFETY: the frame is valid.
    unsafe { (*picture.as_mut_ptr()).quality = quality };
}

/// Bits per component of a pixel format; 0 when it has none.
pub(crate) fn bit_depth(pixel: format::Pixel) -> u8 {
    let Some(descriptor) = pixel.descriptor() else { return 0 };
    // SAFETY: descriptors are static tables of the library.
    let depth = unsafe { (*descriptor.as_ptr()).comp[0].depth };
    u8::try_from(depth).unwrap_or(0)
}

/// A text that the file gives for a track. Texts of files need not be UTF-8, which the safe wrapper takes for granted.
pub(crate) fn read_metadata(stream: &Stream<'_>, key: &CStr) -> Option<String> {
    // SAFETY: the dictionary belongs to an open input that outlives the borrow.
    unsafe { read_text((*stream.as_ptr()).metadata, key) }
}

/// The title that the file gives a chapter.
pub(crate) fn read_chapter_title(chapter: &Chapter<'_>) -> Option<String> {
    // SAFETY: the dictionary belongs to an open input that outlives the borrow.
    unsafe { read_text((*chapter.as_ptr()).metadata, c"title") }
}

/// A text of a dictionary.
///
/// # Safety
/// The dictionary is null or valid; the text is copied.
unsafe fn read_text(dictionary: *const ffmpeg_next::ffi::AVDictionary, key: &CStr) -> Option<String> {
    // SAFETY: as above.
    unsafe {
        let entry = ffmpeg_next::ffi::av_dict_get(dictionary, key.as_ptr(), std::ptr::null(), 0);
        if entry.is_null() { None } else { copy_c_text((*entry).value) }
    }
}

/// Whether the file marks a packet as not to be shown, such as what lies before an edit.
pub(crate) fn is_discarded(packet: &ffmpeg_next::Packet) -> bool {
    use ffmpeg_next::packet::Ref as _;
    // SAFETY: the packet is valid.
    unsafe { (*packet.as_ptr()).flags & ffmpeg_next::ffi::AV_PKT_FLAG_DISCARD != 0 }
}

/// Lets the demuxer skip the packets of all tracks but some.
pub(crate) fn discard_other_streams(input: &mut Input, indexes: &[usize]) {
    for mut stream in input.streams_mut() {
        let is_wanted = indexes.contains(&stream.index());
        let discard = if is_wanted { AVDiscard::AVDISCARD_DEFAULT } else { AVDiscard::AVDISCARD_ALL };
        // SAFETY: the stream belongs to the input that is mutably borrowed here.
        unsafe { (*stream.as_mut_ptr()).discard = discard };
    }
}

/// Another reference to the same picture, without a copy of it.
pub(crate) fn share_picture(video: &frame::Video) -> Result<frame::Video, Error> {
    let mut shared = frame::Video::empty();
    // SAFETY: the target is a fresh, empty frame and the source is a valid one; the buffers are counted atomically.
    match unsafe { av_frame_ref(shared.as_mut_ptr(), video.as_ptr()) } {
        0 => Ok(shared),
        error => Err(Error::from(error)),
    }
}

/// Ends the fragment that a muxer collects, so that its bytes reach the stream.
pub(crate) fn end_fragment(output: &mut Output) -> Result<(), Error> {
    // SAFETY: the context is valid and its header is written; a null packet asks for the end of the fragment.
    unsafe {
        let ended = av_write_frame(output.as_mut_ptr(), std::ptr::null_mut());
        avio_flush((*output.as_mut_ptr()).pb);
        if ended < 0 { Err(Error::from(ended)) } else { Ok(()) }
    }
}

/// Keeps a muxer from shifting timestamps, and from writing anything that differs from run to run.
pub(crate) fn keep_timestamps(output: &mut Output) {
    // SAFETY: the context is valid and its header is not written yet.
    unsafe {
        (*output.as_mut_ptr()).avoid_negative_ts = 0;
        (*output.as_mut_ptr()).flags |= ffmpeg_next::ffi::AVFMT_FLAG_BITEXACT;
    }
}

/// Lets a muxer choose how it names the codec of a track: what another container called it may be wrong here.
pub(crate) fn clear_codec_tag(stream: &mut ffmpeg_next::format::stream::StreamMut<'_>) {
    // SAFETY: the stream belongs to the output that is mutably borrowed, and has parameters for its whole life.
    unsafe { (*(*stream.as_mut_ptr()).codecpar).codec_tag = 0 };
}

/// Limits a decoder, before it is opened, to so many threads and to pictures of at most so many pixels.
pub(crate) fn limit_decoder(
    context: &mut codec::Context,
    threads: usize,
    pixels_max: u64,
) -> Result<(), Error> {
    set_option(context, c"threads", &threads.to_string())?;
    set_option(context, c"max_pixels", &pixels_max.to_string())
}

/// Lets a filter graph work on the calling thread only, before it is configured.
pub(crate) fn use_single_thread(graph: &mut ffmpeg_next::filter::Graph) {
    // SAFETY: the graph is valid and not configured yet.
    unsafe { (*graph.as_mut_ptr()).nb_threads = 1 };
}

/// Sets an option of a codec context by name.
fn set_option(context: &mut codec::Context, name: &CStr, value: &str) -> Result<(), Error> {
    let value = std::ffi::CString::new(value).map_err(|_| Error::InvalidData)?;
    // SAFETY: the context is valid and starts with a class; both texts are zero-terminated and copied.
    let set = unsafe {
        let context: *mut std::ffi::c_void = context.as_mut_ptr().cast();
        av_opt_set(context, name.as_ptr(), value.as_ptr(), AV_OPT_SEARCH_CHILDREN)
    };
    if set < 0 { Err(Error::from(set)) } else { Ok(()) }
}

/// The version text that the FFmpeg libraries carry.
pub(crate) fn version_text() -> String {
    // SAFETY: a static, zero-terminated text.
    unsafe { copy_c_text(ffmpeg_next::ffi::av_version_info()) }.unwrap_or_default()
}

/// Copies a C text; none for null.
///
/// # Safety
/// The pointer is null or points to a zero-terminated text that lives during the call.
unsafe fn copy_c_text(pointer: *const c_char) -> Option<String> {
    // SAFETY: checked for null here, the rest is the caller's promise.
    (!pointer.is_null()).then(|| unsafe { CStr::from_ptr(pointer) }.to_string_lossy().into_owned())
}

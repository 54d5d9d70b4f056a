//! Channel layouts and planes of sound. The safe wrapper uses fields that some supported versions no longer fill.

use std::ffi::CStr;

use ffmpeg_next::ffi::{
    AVChannelLayout, AVChannelOrder, AVSampleFormat, av_channel_layout_default, av_channel_layout_describe,
    av_channel_layout_from_mask, av_frame_get_buffer,
};
use ffmpeg_next::format::{Sample, stream::Stream};
use ffmpeg_next::{Error, encoder, frame};

/// A channel layout as a mask of positions; the usual one for the number of channels where the source names none.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct ChannelMask(u64);

impl ChannelMask {
    /// The layout of a frame; none for more channels than have a usual layout.
    pub(crate) fn from_frame(sound: &frame::Audio) -> Option<Self> {
        // SAFETY: the frame is valid; the mask is read only for the order that has one. The default layout is plain
        // data without an allocation of its own.
        unsafe {
            let own = &raw const (*sound.as_ptr()).ch_layout;
            if (*own).order == AVChannelOrder::AV_CHANNEL_ORDER_NATIVE {
                return Some(Self((*own).u.mask));
            }
            let mut usual: AVChannelLayout = std::mem::zeroed();
            av_channel_layout_default(&raw mut usual, (*own).nb_channels);
            (usual.order == AVChannelOrder::AV_CHANNEL_ORDER_NATIVE).then_some(Self(usual.u.mask))
        }
    }

    /// How many channels it has.
    pub(crate) fn channel_count(self) -> u32 {
        self.0.count_ones()
    }

    /// In the form that filters take.
    pub(crate) fn to_filter_text(self) -> String {
        format!("0x{:x}", self.0)
    }

    /// Marks a frame as having this layout, which must have as many channels as the frame.
    pub(crate) fn apply_to_frame(self, sound: &mut frame::Audio) -> Result<(), Error> {
        // SAFETY: the frame is valid; the target is cleared before it is set, so that nothing leaks.
        let set = unsafe {
            let own = &raw mut (*sound.as_mut_ptr()).ch_layout;
            ffmpeg_next::ffi::av_channel_layout_uninit(own);
            av_channel_layout_from_mask(own, self.0)
        };
        if set < 0 { Err(Error::from(set)) } else { Ok(()) }
    }
}

/// FFmpeg's name of a sample format, such as `fltp`; `unknown` where there is none: the library answers a null pointer then, and its
/// binding reads from that.
pub(crate) fn sample_format_name(sample: Sample) -> &'static str {
    if sample == Sample::None { "unknown" } else { sample.name() }
}

/// FFmpeg's name of the channel layout of a track, such as `5.1(side)`.
pub(crate) fn layout_name(stream: &Stream<'_>) -> String {
    let mut name = [0_u8; 64];
    // SAFETY: the layout belongs to an open input that outlives the borrow; at most the given size is written.
    unsafe {
        let layout = &raw const (*(*stream.as_ptr()).codecpar).ch_layout;
        av_channel_layout_describe(layout, name.as_mut_ptr().cast(), name.len());
    }
    CStr::from_bytes_until_nul(&name).map(|name| name.to_string_lossy().into_owned()).unwrap_or_default()
}

/// Sets an audio encoder to stereo, before it is opened.
pub(crate) fn set_stereo(audio: &mut encoder::audio::Audio) {
    // SAFETY: the context is valid and not opened yet.
    unsafe { av_channel_layout_default(&raw mut (*audio.as_mut_ptr()).ch_layout, 2) };
}

/// A stereo frame of planar floats with these samples, which must be equally many.
pub(crate) fn stereo_frame(left: &[f32], right: &[f32]) -> Result<frame::Audio, Error> {
    let mut sound = frame::Audio::empty();
    let samples = i32::try_from(left.len()).map_err(|_| Error::InvalidData)?;
    if left.len() != right.len() {
        return Err(Error::InvalidData);
    }
    // SAFETY: the frame is fresh; the buffer that is made for it has two planes of `samples` floats, which do not
    // overlap the slices.
    unsafe {
        let own = sound.as_mut_ptr();
        (*own).format = AVSampleFormat::AV_SAMPLE_FMT_FLTP as i32;
        (*own).nb_samples = samples;
        av_channel_layout_default(&raw mut (*own).ch_layout, 2);
        let made = av_frame_get_buffer(own, 0);
        if made < 0 {
            return Err(Error::from(made));
        }
        for (index, samples) in [left, right].iter().enumerate() {
            let plane: *mut f32 = (*(*own).extended_data.add(index)).cast();
            std::ptr::copy_nonoverlapping(samples.as_ptr(), plane, samples.len());
        }
    }
    Ok(sound)
}

/// The two planes of a stereo frame of planar floats; none for any other frame.
pub(crate) fn stereo_planes(sound: &frame::Audio) -> Option<(&[f32], &[f32])> {
    // SAFETY: the format and the number of channels are checked, so that there are two planes of `nb_samples` floats,
    // which live as long as the frame.
    unsafe {
        let own = sound.as_ptr();
        let samples = usize::try_from((*own).nb_samples).ok()?;
        let is_float = (*own).format == AVSampleFormat::AV_SAMPLE_FMT_FLTP as i32;
        if !is_float || (*own).ch_layout.nb_channels != 2 || (*own).extended_data.is_null() {
            return None;
        }
        let plane = |index| {
            let plane: *const f32 = (*(*own).extended_data.add(index)).cast();
            (!plane.is_null()).then(|| std::slice::from_raw_parts(plane, samples))
        };
        Some((plane(0)?, plane(1)?))
    }
}

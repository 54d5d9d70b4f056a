//! Texts of subtitles. The safe wrapper neither frees what a decoder made nor checks that its texts are UTF-8.

use ffmpeg_next::ffi::{
    AV_CODEC_PROP_TEXT_SUB, AV_NOPTS_VALUE, AVSubtitle, AVSubtitleRect, AVSubtitleType,
    avcodec_decode_subtitle2, avcodec_descriptor_get, avsubtitle_free,
};
use ffmpeg_next::format::stream::Stream;
use ffmpeg_next::{Error, Packet, decoder};

use super::copy_c_text;

/// What the decoder says of one event.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DecodedCue {
    /// When it is shown, in microseconds on the clock of the packets; none where only the packet knows.
    pub(crate) start_us: Option<i64>,
    /// How long after that it begins, in milliseconds.
    pub(crate) begin_ms: u32,
    /// How long after that it ends, in milliseconds; 0 or the largest number where nobody knows.
    pub(crate) end_ms: u32,
    /// The line of a dialogue event of Advanced SubStation Alpha.
    pub(crate) dialogue: String,
}

/// Whether the codec of a track is subtitles that are text.
pub(crate) fn is_text_subtitle(stream: &Stream<'_>) -> bool {
    // SAFETY: the stream belongs to an open input that outlives the borrow; descriptors are static tables of the library.
    unsafe {
        let descriptor = avcodec_descriptor_get((*(*stream.as_ptr()).codecpar).codec_id);
        !descriptor.is_null() && (*descriptor).props & AV_CODEC_PROP_TEXT_SUB != 0
    }
}

/// The texts of one packet; an empty packet asks for what a decoder still holds.
pub(crate) fn decode_cues(
    decoder: &mut decoder::Subtitle,
    packet: &Packet,
) -> Result<Vec<DecodedCue>, Error> {
    use ffmpeg_next::packet::Ref as _;
    // SAFETY: plain data, for which zeros are the empty value.
    let mut event: AVSubtitle = unsafe { std::mem::zeroed() };
    let mut got = 0;
    // SAFETY: decoder and packet are valid; the function writes a whole event, or leaves it empty.
    let outcome = unsafe {
        avcodec_decode_subtitle2(
            decoder.as_mut_ptr(),
            &raw mut event,
            &raw mut got,
            packet.as_ptr().cast_mut(),
        )
    };
    if outcome < 0 {
        return Err(Error::from(outcome));
    }
    let mut cues = Vec::new();
    if got != 0 {
        let count = usize::try_from(event.num_rects).unwrap_or(0);
        for index in 0..count {
            // SAFETY: a decoded event has as many rectangles as it says, each allocated by the decoder.
            let dialogue = unsafe { copy_dialogue(*event.rects.add(index)) };
            cues.extend(dialogue.map(|dialogue| DecodedCue {
                start_us: (event.pts != AV_NOPTS_VALUE).then_some(event.pts),
                begin_ms: event.start_display_time,
                end_ms: event.end_display_time,
                dialogue,
            }));
        }
        // SAFETY: what the decoder allocated is given back once, and not used any more.
        unsafe { avsubtitle_free(&raw mut event) };
    }
    Ok(cues)
}

/// # Safety
/// The rectangle is one of a decoded event.
unsafe fn copy_dialogue(rectangle: *const AVSubtitleRect) -> Option<String> {
    // SAFETY: by the caller; a rectangle of this type has a zero-terminated text, which is copied.
    unsafe {
        let is_text = (*rectangle).type_ == AVSubtitleType::SUBTITLE_ASS && !(*rectangle).ass.is_null();
        is_text.then(|| copy_c_text((*rectangle).ass)).flatten()
    }
}

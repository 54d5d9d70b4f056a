//! Opening an input in steps, so that limits are checked between them, and with no way to open anything else.

use std::ffi::{CString, c_char, c_int, c_void};
use std::ptr;

use ffmpeg_next::Error;
use ffmpeg_next::ffi::{
    AVERROR, AVFMT_FLAG_CUSTOM_IO, AVFMT_TS_DISCONT, AVFormatContext, AVIOContext, AVIOInterruptCB,
    AVSEEK_FLAG_BACKWARD, AVSEEK_FLAG_BYTE, EACCES, ENOMEM, av_dict_free, av_dict_set,
    av_probe_input_buffer2, avformat_alloc_context, avformat_close_input, avformat_find_stream_info,
    avformat_open_input, avformat_seek_file,
};
use ffmpeg_next::format::context::{Input, StreamIo};

/// Most packets that are read, and kept, to learn about the tracks. The library itself counts their bytes only, and the smallest
/// packet costs it some 300.
const PACKETS_MAX: u32 = 200_000;

/// FFmpeg's dictionary.
type AvDictionary = ffmpeg_next::ffi::AVDictionary;

/// Says what format a stream has, by its content alone, and how sure that is (0 to 100). The stream is back at its
/// start afterwards. Fails when the content is like no format at all.
pub(crate) fn guess_format(io: &mut StreamIo, bytes_max: u32) -> Result<(String, i32), Error> {
    let mut found: *const ffmpeg_next::ffi::AVInputFormat = ptr::null();
    // SAFETY: the stream is valid, the name is a zero-terminated text, and the format found is static.
    unsafe {
        let score = av_probe_input_buffer2(
            io.as_mut_ptr(),
            (&raw mut found).cast(),
            c"".as_ptr(),
            ptr::null_mut(),
            0,
            bytes_max,
        );
        if score < 0 {
            return Err(Error::from(score));
        }
        let name = super::copy_c_text((*found).name).ok_or(Error::DemuxerNotFound)?;
        Ok((name, score))
    }
}

/// An input whose header has been read and whose packets have not.
pub(crate) struct UnprobedInput {
    context: *mut AVFormatContext,
    io: StreamIo,
}

impl UnprobedInput {
    /// Reads the header of a stream of a given format.
    pub(crate) fn new(mut io: StreamIo, options: &[(&str, &str)]) -> Result<Self, Error> {
        // SAFETY: the context is fresh; libavformat frees it when opening fails. The stream outlives it because it is
        // kept beside it. The dictionary is freed here, whatever is left in it.
        unsafe {
            let mut context = avformat_alloc_context();
            if context.is_null() {
                return Err(Error::Other { errno: ENOMEM });
            }
            (*context).pb = io.as_mut_ptr();
            (*context).flags |= AVFMT_FLAG_CUSTOM_IO;
            (*context).io_open = Some(refuse_open);
            let mut dictionary = build_dictionary(options)?;
            let opened =
                avformat_open_input(&raw mut context, ptr::null(), ptr::null_mut(), &raw mut dictionary);
            av_dict_free(&raw mut dictionary);
            if opened < 0 { Err(Error::from(opened)) } else { Ok(Self { context, io }) }
        }
    }

    /// Calls `check` with the sizes of the pictures that the header names.
    pub(crate) fn picture_sizes(&self) -> Vec<(i32, i32)> {
        // SAFETY: the context is open, so that its streams and their parameters are valid.
        unsafe {
            let count = usize::try_from((*self.context).nb_streams).unwrap_or(0);
            (0..count)
                .map(|index| (*(*(*self.context).streams.add(index))).codecpar)
                .map(|parameters| ((*parameters).width, (*parameters).height))
                .collect()
        }
    }

    /// Reads packets until the tracks are known; decoders that are tried on the way get the options.
    pub(crate) fn find_streams(mut self, decoder_options: &[(&str, &str)]) -> Result<Input, Error> {
        // SAFETY: the context is open. One dictionary is given for every stream there is now, and freed afterwards. The counter
        // outlives the call, after which nothing points to it any more.
        // On success the context and the stream go to the input, which frees both in the right order.
        unsafe {
            let count = usize::try_from((*self.context).nb_streams).unwrap_or(0);
            let mut dictionaries = Vec::with_capacity(count);
            for _ in 0..count {
                dictionaries.push(build_dictionary(decoder_options)?);
            }
            let options = if count > 0 { dictionaries.as_mut_ptr() } else { ptr::null_mut() };
            let mut left = PACKETS_MAX;
            (*self.context).interrupt_callback =
                AVIOInterruptCB { callback: Some(count_probe_packet), opaque: (&raw mut left).cast() };
            let found = avformat_find_stream_info(self.context, options);
            (*self.context).interrupt_callback = AVIOInterruptCB { callback: None, opaque: ptr::null_mut() };
            for dictionary in &mut dictionaries {
                av_dict_free(dictionary);
            }
            if found < 0 {
                return Err(Error::from(found));
            }
            let context = std::mem::replace(&mut self.context, ptr::null_mut());
            let this = std::mem::ManuallyDrop::new(self);
            Ok(Input::wrap_with_custom_io(context, ptr::read(&raw const this.io)))
        }
    }
}

impl Drop for UnprobedInput {
    fn drop(&mut self) {
        // SAFETY: the context is open or null; the stream is freed after it, as the field drops after this.
        unsafe { avformat_close_input(&raw mut self.context) };
    }
}

impl std::fmt::Debug for UnprobedInput {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Opening").finish_non_exhaustive()
    }
}

/// Goes to a keyframe at or before a time of a track, in the time base of the track.
pub(crate) fn seek_keyframe(input: &mut Input, stream: usize, at: i64) -> Result<(), Error> {
    let stream = c_int::try_from(stream).map_err(|_| Error::StreamNotFound)?;
    // SAFETY: the context is open; the stream number is checked by the callee.
    let moved =
        unsafe { avformat_seek_file(input.as_mut_ptr(), stream, i64::MIN, at, at, AVSEEK_FLAG_BACKWARD) };
    if moved < 0 { Err(Error::from(moved)) } else { Ok(()) }
}

/// Goes to a byte of the file.
pub(crate) fn seek_byte(input: &mut Input, position_bytes: u64) -> Result<(), Error> {
    let position = i64::try_from(position_bytes).map_err(|_| Error::InvalidData)?;
    // SAFETY: the context is open.
    let moved =
        unsafe { avformat_seek_file(input.as_mut_ptr(), -1, position, position, position, AVSEEK_FLAG_BYTE) };
    if moved < 0 { Err(Error::from(moved)) } else { Ok(()) }
}

/// Whether the clock of a format may jump on the way, as a broadcast's does.
pub(crate) fn has_jumping_clock(input: &Input) -> bool {
    // SAFETY: an open input has a format, which is a static table of the library.
    unsafe { (*(*input.as_ptr()).iformat).flags & AVFMT_TS_DISCONT != 0 }
}

/// Counts the packets that are read to learn about the tracks; 1 when it is enough. The library asks before each of them.
unsafe extern "C" fn count_probe_packet(left: *mut c_void) -> c_int {
    // SAFETY: the pointer is to the counter of the call that is under way, which nothing else uses meanwhile.
    unsafe {
        let left = left.cast::<u32>();
        *left = (*left).saturating_sub(1);
        c_int::from(*left == 0)
    }
}

/// Whatever a file refers to stays closed: playlists, external tracks, keys.
unsafe extern "C" fn refuse_open(
    _context: *mut AVFormatContext,
    _io: *mut *mut AVIOContext,
    _url: *const c_char,
    _flags: c_int,
    _options: *mut *mut AvDictionary,
) -> c_int {
    AVERROR(EACCES)
}

/// Makes a dictionary; the caller frees it.
fn build_dictionary(options: &[(&str, &str)]) -> Result<*mut AvDictionary, Error> {
    let mut dictionary = ptr::null_mut();
    for (name, value) in options {
        let (Ok(name), Ok(value)) = (CString::new(*name), CString::new(*value)) else {
            return Err(Error::InvalidData);
        };
        // SAFETY: the texts are zero-terminated and copied; the pointer is null or a dictionary of ours.
        let set = unsafe { av_dict_set(&raw mut dictionary, name.as_ptr(), value.as_ptr(), 0) };
        if set < 0 {
            return Err(Error::from(set));
        }
    }
    Ok(dictionary)
}

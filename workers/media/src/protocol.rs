//! What parent and child say to each other over the child's stdin and stdout.
//!
//! A frame is a big-endian 32-bit length and one MessagePack map. The parent sends one [`ParentMessage::Start`], then an
//! answer to every [`ChildMessage::Read`] in order. The child ends with [`ChildMessage::Done`] or [`ChildMessage::Failed`].
//! End of file on its stdin ends the child.
//!
//! Limits: [`FRAME_BYTES_MAX`], [`READ_BYTES_MAX`], [`READS_IN_FLIGHT_MAX`], [`DETAIL_CHARS_MAX`].

use std::io::{self, Read, Write};

use bytes::Bytes;
use schemars::JsonSchema;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::clock::ClockMap;
use crate::copy::{FrameCopySpec, MediaSurvey, SoundCopySpec};
use crate::error::MediaErrorCode;
use crate::probe::MediaProbe;
use crate::spec::{AudioSpec, EncodeSpec, StillsSpec, SubtitleCue, SubtitlesSpec};

/// Largest frame in either direction, in bytes; a segment must fit.
pub const FRAME_BYTES_MAX: usize = 64 << 20;

/// Most bytes of the source in one answer.
pub const READ_BYTES_MAX: u32 = 1 << 20;

/// Most reads that the child may have open.
pub const READS_IN_FLIGHT_MAX: usize = 4;

/// Longest explanation of a failure, in characters.
pub const DETAIL_CHARS_MAX: usize = 512;

/// Exit status of a child whose sandbox could not be set up.
pub const EXIT_SANDBOX: u8 = 71;

/// Least [`MediaLimits::probe_bytes_max`], in bytes: FFmpeg refuses to look at less.
const PROBE_BYTES_MIN: u64 = 32;

/// Most [`MediaLimits::streams_max`]: FFmpeg counts tracks in an `int`.
const STREAMS_MAX: u32 = i32::MAX as u32;

/// What a media file may contain; checked by the child before it decodes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct MediaLimits {
    /// Most tracks of one file.
    #[schemars(range(max = STREAMS_MAX))]
    pub streams_max: u32,
    /// Most pixels of one video frame; 8K does not fit the default.
    pub pixels_max: u64,
    /// Most pixels of a still image.
    pub image_pixels_max: u64,
    /// Longest presentation, in seconds.
    pub duration_seconds_max: u64,
    /// Most packets of one file.
    pub packets_max: u64,
    /// Most entries of the tables of an MP4 or QuickTime file: samples, chunks, edits. The library keeps all of them in memory.
    pub table_entries_max: u64,
    /// How much of a file is looked at to recognise its format and tracks, in bytes.
    #[schemars(range(min = PROBE_BYTES_MIN))]
    pub probe_bytes_max: u64,
}

impl Default for MediaLimits {
    fn default() -> Self {
        Self {
            streams_max: 64,
            pixels_max: 4096 * 4096,
            image_pixels_max: 100_000_000,
            duration_seconds_max: 24 * 3600,
            packets_max: 50_000_000,
            table_entries_max: 8_000_000,
            probe_bytes_max: 32 << 20,
        }
    }
}

/// One task.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MediaTask {
    /// Say what the file holds.
    Probe,
    /// Encode a range into a ladder.
    Encode(EncodeSpec),
    /// Encode an audio track.
    Audio(AudioSpec),
    /// Take pictures.
    Stills(StillsSpec),
    /// Read subtitles.
    Subtitles(SubtitlesSpec),
    /// Say where the samples of the file lie.
    Survey,
    /// Put frames into segments as they are.
    CopyFrames(FrameCopySpec),
    /// Put sound into segments as it is.
    CopySound(SoundCopySpec),
}

impl MediaTask {
    /// Its name in traces.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Encode(_) => "encode",
            Self::Audio(_) => "audio",
            Self::Stills(_) => "stills",
            Self::Subtitles(_) => "subtitles",
            Self::Survey => "survey",
            Self::CopyFrames(_) => "copy_frames",
            Self::CopySound(_) => "copy_sound",
        }
    }

    /// How time stamps are read; none for a probe, which finds that out.
    #[must_use]
    pub fn clock(&self) -> Option<&ClockMap> {
        match self {
            // Samples are copied from files whose clock does not jump.
            Self::Probe | Self::Survey | Self::CopyFrames(_) | Self::CopySound(_) => None,
            Self::Encode(spec) => Some(&spec.clock),
            Self::Audio(spec) => Some(&spec.clock),
            Self::Stills(spec) => Some(&spec.clock),
            Self::Subtitles(spec) => Some(&spec.clock),
        }
    }
}

/// From parent to child.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ParentMessage {
    /// The first frame, once.
    Start {
        /// What to do.
        task: MediaTask,
        /// Length of the source.
        size_bytes: u64,
        /// What the source may contain.
        limits: MediaLimits,
    },
    /// Answer to the oldest open read; shorter than asked only at the end of the source.
    Data {
        /// Bytes of the source.
        bytes: Bytes,
    },
}

/// From child to parent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ChildMessage {
    /// Wants a range of the source.
    Read {
        /// First byte.
        offset: u64,
        /// Bytes wanted, at most [`READ_BYTES_MAX`].
        len: u32,
    },
    /// See [`crate::MediaTaskOutput::Init`].
    Init {
        /// Which rendition.
        rendition: u16,
        /// The file.
        bytes: Bytes,
    },
    /// See [`crate::MediaTaskOutput::Segment`].
    Segment {
        /// Which rendition.
        rendition: u16,
        /// Number of the segment.
        number: u32,
        /// Ticks from the presentation start.
        start_ticks: u64,
        /// Ticks that it covers.
        duration_ticks: u64,
        /// Ticks per second.
        timescale: u32,
        /// Frames in it.
        sample_count: u32,
        /// The file.
        bytes: Bytes,
    },
    /// See [`crate::MediaTaskOutput::Image`].
    Image {
        /// Position in the task's list.
        position: u16,
        /// Microseconds from the presentation start.
        at_us: u64,
        /// Width in pixels.
        width: u32,
        /// Height in pixels.
        height: u32,
        /// The file.
        bytes: Bytes,
    },
    /// See [`crate::MediaTaskOutput::Cues`].
    Cues {
        /// Position in the task's list.
        position: u16,
        /// The cues.
        cues: Vec<SubtitleCue>,
    },
    /// Work done so far; packets for a probe, else see [`crate::MediaTaskOutput::Progress`].
    Progress {
        /// Grows strictly.
        done: u64,
    },
    /// A sign of life where there is no progress to report, such as decoding on the way to a range.
    Working {
        /// Grows strictly.
        steps: u64,
    },
    /// The result of a probe; the last frame.
    Probed(Box<MediaProbe>),
    /// The result of a survey; the last frame.
    Surveyed(Box<MediaSurvey>),
    /// The result of any other task; the last frame.
    Done(MediaTaskReport),
    /// No result; the last frame.
    Failed {
        /// Why the file is refused; none when the file is not to blame.
        code: Option<MediaErrorCode>,
        /// Printable text.
        detail: String,
    },
    /// The answer of `streamgate-media check`; the only frame.
    Checked(MediaSelfCheck),
}

/// What a task used and did.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaTaskReport {
    /// Source frames decoded.
    pub frames_decoded: u64,
    /// Output frames in each rendition, or AAC frames, or pictures, or cues.
    pub frames_written: u64,
    /// Output frames that repeat the one before because the source has none for them.
    pub frames_repeated: u64,
    /// Source frames that no output frame shows.
    pub frames_dropped: u64,
    /// Samples of silence put where the source has no sound, at 48 kHz.
    pub silence_samples: u64,
    /// How much quieter the sound is than was asked for, in LU; 0 where it is not, and of silence.
    pub loudness_missing_lu: f64,
    /// Packets or frames that the decoder reported as damaged.
    pub decode_errors: u64,
    /// CPU seconds of the child, user and system.
    pub cpu_seconds: f64,
    /// Largest resident set of the child, in bytes.
    pub rss_bytes_max: u64,
    /// From the start of the child to its result.
    pub wall_seconds: f64,
}

/// Versions of the libraries that the child runs with.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FfmpegVersions {
    /// FFmpeg's own version text, such as `5.1.9-0+deb12u1`.
    pub ffmpeg: String,
    /// libavformat, such as `59.27.100`.
    pub avformat: String,
    /// libavcodec.
    pub avcodec: String,
    /// libavfilter.
    pub avfilter: String,
    /// libavutil.
    pub avutil: String,
}

/// What the child proved about its sandbox, by trying.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "a list of independent findings")]
pub struct SandboxReport {
    /// A seccomp filter is in force.
    pub has_seccomp: bool,
    /// A landlock domain is in force.
    pub has_landlock: bool,
    /// Opening a file was refused.
    pub refuses_open: bool,
    /// Making a socket was refused.
    pub refuses_socket: bool,
    /// Starting a process was refused.
    pub refuses_fork: bool,
    /// Running a program was refused.
    pub refuses_exec: bool,
    /// No capability is left, also of a child that root started.
    pub has_no_capabilities: bool,
    /// Threads still work.
    pub allows_threads: bool,
}

impl SandboxReport {
    /// Whether it keeps the child from files, network and other programs.
    #[must_use]
    pub fn is_effective(&self) -> bool {
        (self.has_seccomp || self.has_landlock)
            && self.refuses_open
            && self.refuses_socket
            && self.refuses_fork
            && self.refuses_exec
            && self.has_no_capabilities
            && self.allows_threads
    }
}

/// What `streamgate-media check` found.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct MediaSelfCheck {
    /// Library versions.
    pub versions: FfmpegVersions,
    /// What the sandbox refuses.
    pub sandbox: SandboxReport,
    /// Encoders, muxers and filters that are needed and absent.
    pub missing: Vec<String>,
    /// Filters without which some sources look worse: `zscale` and `tonemap` for HDR.
    pub missing_optional: Vec<String>,
}

/// Encodes a message as one frame without its length.
pub fn encode_frame<T: Serialize>(message: &T) -> io::Result<Vec<u8>> {
    let body = rmp_serde::to_vec_named(message).map_err(io::Error::other)?;
    if body.len() > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame is larger than FRAME_BYTES_MAX"));
    }
    Ok(body)
}

/// Decodes one frame; fails on anything that is not exactly one message.
pub fn decode_frame<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    rmp_serde::from_slice(body).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Writes one frame with its length; the child's side.
pub fn write_frame<T: Serialize>(mut writer: impl Write, message: &T) -> io::Result<()> {
    let body = encode_frame(message)?;
    let length = u32::try_from(body.len()).map_err(io::Error::other)?;
    writer.write_all(&length.to_be_bytes())?;
    writer.write_all(&body)?;
    writer.flush()
}

/// Reads one frame; none at the end of the stream. The child's side.
pub fn read_frame<T: DeserializeOwned>(mut reader: impl Read) -> io::Result<Option<T>> {
    let mut length = [0; 4];
    if let Err(error) = reader.read_exact(&mut length) {
        return if error.kind() == io::ErrorKind::UnexpectedEof { Ok(None) } else { Err(error) };
    }
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(io::Error::other)?;
    if length > FRAME_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "frame is larger than FRAME_BYTES_MAX"));
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    decode_frame(&body).map(Some)
}

/// Makes text from outside fit for logs and events: printable ASCII, at most `chars_max` characters.
#[must_use]
pub fn to_printable(text: &str, chars_max: usize) -> String {
    let is_plain = |c: char| c == ' ' || c.is_ascii_graphic();
    text.trim().chars().take(chars_max).map(|c| if is_plain(c) { c } else { '?' }).collect()
}

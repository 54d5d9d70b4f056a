//! Any sound to 48 kHz stereo.
//!
//! Mono goes to both sides as it is. More channels than two are mixed by ITU-R BS.775: centre and surrounds at -3 dB, no
//! low-frequency channel; the front keeps its level, and peaks that would clip are limited.

use std::time::Duration;

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Error as LibError, filter, format, frame};
use media::{AUDIO_RATE_HZ, MediaErrorCode};

use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult, source_refused_error};
use crate::ffi::{self, ChannelMask};

/// Peaks of a mix are held below this share of full scale: -1 dB, which leaves the encoder room to overshoot (EBU R 128).
const PEAK_MAX: f64 = 0.891;

/// Sound is stretched or squeezed by at most this share to follow its time stamps: half a per cent, a twelfth of a semitone.
const STRETCH_MAX: f64 = 0.005;

/// Time stamps that differ less than this many seconds from the sound count as followed.
const FOLLOWED_SECONDS: f64 = 0.002;

/// Whether a converter follows time stamps that drift away from the sample count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum DriftMode {
    /// Samples follow each other as they are.
    Ignored,
    /// Sound is stretched slowly until it fits its time stamps again.
    Followed,
}

/// What a converter makes of sound beside its format.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct SoundTreatment {
    pub(crate) drift: DriftMode,
    /// Amplification in dB; 0 for none.
    pub(crate) gain_db: f64,
}

/// Sound that goes through the same converter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SoundFormat {
    rate_hz: u32,
    sample: format::Sample,
    /// None for more channels than have a usual layout.
    layout: Option<ChannelMask>,
}

impl SoundFormat {
    pub(crate) fn from_frame(frame: &frame::Audio) -> Self {
        Self { rate_hz: frame.rate(), sample: frame.format(), layout: ChannelMask::from_frame(frame) }
    }
}

/// A converter for one kind of sound.
pub(crate) struct AudioResampler {
    graph: filter::Graph,
    format: SoundFormat,
    layout: ChannelMask,
    pub(crate) treatment: SoundTreatment,
    taken: i64,
}

impl AudioResampler {
    /// A converter for sound like this.
    pub(crate) fn new(like: &frame::Audio, treatment: SoundTreatment) -> MediaChildResult<Self> {
        let format = SoundFormat::from_frame(like);
        let Some(layout) = format.layout else {
            return Err(source_refused_error(
                MediaErrorCode::MediaUnsupportedCodec,
                "more channels than can be mixed",
            ));
        };
        let rate_hz = format.rate_hz;
        let arguments = format!(
            "sample_rate={rate_hz}:sample_fmt={}:channel_layout={}:time_base=1/{rate_hz}",
            ffi::sample_format_name(format.sample),
            layout.to_filter_text()
        );
        let build = || {
            let find = |name| filter::find(name).ok_or(LibError::FilterNotFound);
            let mut graph = filter::Graph::new();
            ffi::use_single_thread(&mut graph);
            graph.add(&find("abuffer")?, "in", &arguments)?;
            graph.add(&find("abuffersink")?, "out", "")?;
            let filters = build_filter_chain(layout.channel_count(), treatment);
            graph.output("in", 0)?.input("out", 0)?.parse(&filters)?;
            graph.validate()?;
            Ok(graph)
        };
        Ok(Self { graph: build().or_failed("build audio filters")?, format, layout, treatment, taken: 0 })
    }

    /// Whether sound like this can go on in this converter.
    pub(crate) fn is_compatible(&self, frame: &frame::Audio) -> bool {
        self.format == SoundFormat::from_frame(frame)
    }

    /// Converts a frame, whose contents go to the graph. Its time stamp is `drift_seconds` later than the sample count says;
    /// that is looked at in [`DriftMode::Followed`] only.
    pub(crate) fn push(
        &mut self,
        frame: &mut frame::Audio,
        drift_seconds: f64,
        take: impl FnMut(&[f32], &[f32]),
    ) -> MediaChildResult<()> {
        let samples = i64::try_from(frame.samples()).unwrap_or(0);
        // The filter puts silence or a cut where its very first time stamp is off, so that one is not.
        let is_followed = self.treatment.drift == DriftMode::Followed && self.taken > 0;
        let drift = if is_followed { to_samples(drift_seconds, self.format.rate_hz) } else { 0 };
        frame.set_pts(Some(self.taken.saturating_add(drift)));
        self.layout.apply_to_frame(frame).or_failed("mark sound")?;
        self.taken += samples;
        self.source_filter()?.source().add(frame).or_failed("filter sound")?;
        self.pull_samples(take)
    }

    /// Gives what the converter still holds; it takes no more afterwards.
    pub(crate) fn finish(&mut self, take: impl FnMut(&[f32], &[f32])) -> MediaChildResult<()> {
        self.source_filter()?.source().flush().or_failed("end audio filters")?;
        self.pull_samples(take)
    }

    fn source_filter(&mut self) -> MediaChildResult<filter::Context> {
        self.graph.get("in").ok_or_else(|| MediaChildError::Failed("a graph without a source".into()))
    }

    fn pull_samples(&mut self, mut take: impl FnMut(&[f32], &[f32])) -> MediaChildResult<()> {
        let mut sink =
            self.graph.get("out").ok_or_else(|| MediaChildError::Failed("a graph without a sink".into()))?;
        let mut ready = frame::Audio::empty();
        loop {
            match sink.sink().frame(&mut ready) {
                Ok(()) => match ffi::stereo_planes(&ready) {
                    Some((left, right)) => take(left, right),
                    None => {
                        return Err(MediaChildError::Failed("the filters gave another kind of sound".into()));
                    }
                },
                Err(LibError::Eof) => return Ok(()),
                Err(LibError::Other { errno }) if errno == EAGAIN => return Ok(()),
                Err(error) => return Err(error).or_failed("take sound"),
            }
        }
    }
}

/// The filters from sound of so many channels to stereo at the output rate.
fn build_filter_chain(channels: u32, treatment: SoundTreatment) -> String {
    let rate = match treatment.drift {
        DriftMode::Ignored => format!("aresample={AUDIO_RATE_HZ}"),
        // Never a hard correction: gaps are not the filter's to fill.
        DriftMode::Followed => format!(
            "aresample={AUDIO_RATE_HZ}:flags=res:min_comp={FOLLOWED_SECONDS}:min_hard_comp=86400:max_soft_comp={STRETCH_MAX}"
        ),
    };
    let stereo = "aformat=sample_fmts=fltp:channel_layouts=stereo";
    let mixed = match channels {
        // The library's own mix takes mono for the centre of a stage and halves its power on each side.
        1 => format!("pan=stereo|c0=c0|c1=c0,{rate},{stereo}"),
        2 => format!("{rate}:rematrix_maxval=1.0,{stereo}"),
        // In floating point nothing clips before the limiter; a mix of integers would be scaled down for it.
        _ => format!("{rate}:rematrix_maxval=1000:internal_sample_fmt=fltp,{stereo}"),
    };
    let is_amplified = treatment.gain_db != 0.0;
    let volume = if is_amplified { format!(",volume={:.3}dB", treatment.gain_db) } else { String::new() };
    let limiter = if channels > 2 || treatment.gain_db > 0.0 {
        format!(",alimiter=limit={PEAK_MAX}:level=disabled:latency=enabled,{stereo}")
    } else {
        String::new()
    };
    mixed + &volume + &limiter
}

/// Seconds as samples, rounded.
fn to_samples(seconds: f64, rate_hz: u32) -> i64 {
    let micros = Duration::try_from_secs_f64(seconds.abs()).map_or(0, |time| time.as_micros());
    let samples = i64::try_from(micros * u128::from(rate_hz) / 1_000_000).unwrap_or(i64::MAX);
    if seconds < 0.0 { -samples } else { samples }
}

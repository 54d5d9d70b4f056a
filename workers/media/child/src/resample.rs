//! Any sound to 48 kHz stereo.
//!
//! The downmix is that of ITU-R BS.775: centre and surrounds at -3 dB, no low-frequency channel, scaled so that it
//! cannot clip.

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Error as LibError, filter, format, frame};
use media::{AUDIO_RATE_HZ, MediaErrorCode};

use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult, source_refused_error};
use crate::ffi::{self, ChannelMask};

/// A converter for one kind of sound.
pub(crate) struct AudioResampler {
    graph: filter::Graph,
    rate_hz: u32,
    format: format::Sample,
    layout: ChannelMask,
    taken: i64,
}

impl AudioResampler {
    /// A converter for sound like this.
    pub(crate) fn new(like: &frame::Audio) -> MediaChildResult<Self> {
        let Some(layout) = ChannelMask::from_frame(like) else {
            return Err(source_refused_error(
                MediaErrorCode::MediaUnsupportedCodec,
                "more channels than can be mixed",
            ));
        };
        let (rate_hz, format) = (like.rate(), like.format());
        let arguments = format!(
            "sample_rate={rate_hz}:sample_fmt={}:channel_layout={}:time_base=1/{rate_hz}",
            format.name(),
            layout.to_filter_text()
        );
        let build = || {
            let find = |name| filter::find(name).ok_or(LibError::FilterNotFound);
            let mut graph = filter::Graph::new();
            ffi::use_single_thread(&mut graph);
            graph.add(&find("abuffer")?, "in", &arguments)?;
            graph.add(&find("abuffersink")?, "out", "")?;
            let filters = format!(
                "aresample={AUDIO_RATE_HZ}:rematrix_maxval=1.0,aformat=sample_fmts=fltp:channel_layouts=stereo"
            );
            graph.output("in", 0)?.input("out", 0)?.parse(&filters)?;
            graph.validate()?;
            Ok(graph)
        };
        Ok(Self { graph: build().or_failed("build audio filters")?, rate_hz, format, layout, taken: 0 })
    }

    /// Whether sound like this can go on in this converter.
    pub(crate) fn is_compatible(&self, frame: &frame::Audio) -> bool {
        self.rate_hz == frame.rate()
            && self.format == frame.format()
            && Some(self.layout) == ChannelMask::from_frame(frame)
    }

    /// Converts a frame, whose contents go to the graph.
    pub(crate) fn push(
        &mut self,
        frame: &mut frame::Audio,
        take: impl FnMut(&[f32], &[f32]),
    ) -> MediaChildResult<()> {
        let samples = i64::try_from(frame.samples()).unwrap_or(0);
        frame.set_pts(Some(self.taken));
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

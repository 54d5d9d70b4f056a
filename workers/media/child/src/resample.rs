//! Any sound to 48 kHz stereo.
//!
//! The downmix is that of ITU-R BS.775: centre and surrounds at -3 dB, no low-frequency channel, scaled so that it
//! cannot clip.

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::{Error as LibError, filter, format, frame};
use media::{AUDIO_RATE_HZ, Code};

use crate::error::{Blame, Error, Result, refused};
use crate::ffi::{self, Layout};

/// A converter for one kind of sound.
pub(crate) struct Resampler {
    graph: filter::Graph,
    rate_hz: u32,
    format: format::Sample,
    layout: Layout,
    taken: i64,
}

impl Resampler {
    /// A converter for sound like this.
    pub(crate) fn new(like: &frame::Audio) -> Result<Self> {
        let Some(layout) = Layout::of(like) else {
            return Err(refused(Code::MediaUnsupportedCodec, "more channels than can be mixed"));
        };
        let (rate_hz, format) = (like.rate(), like.format());
        let arguments = format!(
            "sample_rate={rate_hz}:sample_fmt={}:channel_layout={}:time_base=1/{rate_hz}",
            format.name(),
            layout.text()
        );
        let build = || {
            let find = |name| filter::find(name).ok_or(LibError::FilterNotFound);
            let mut graph = filter::Graph::new();
            ffi::single_thread(&mut graph);
            graph.add(&find("abuffer")?, "in", &arguments)?;
            graph.add(&find("abuffersink")?, "out", "")?;
            let filters = format!(
                "aresample={AUDIO_RATE_HZ}:rematrix_maxval=1.0,aformat=sample_fmts=fltp:channel_layouts=stereo"
            );
            graph.output("in", 0)?.input("out", 0)?.parse(&filters)?;
            graph.validate()?;
            Ok(graph)
        };
        Ok(Self { graph: build().fail("build audio filters")?, rate_hz, format, layout, taken: 0 })
    }

    /// Whether sound like this can go on in this converter.
    pub(crate) fn fits(&self, frame: &frame::Audio) -> bool {
        self.rate_hz == frame.rate()
            && self.format == frame.format()
            && Some(self.layout) == Layout::of(frame)
    }

    /// Converts a frame, whose contents go to the graph.
    pub(crate) fn push(&mut self, frame: &mut frame::Audio, take: impl FnMut(&[f32], &[f32])) -> Result<()> {
        let samples = i64::try_from(frame.samples()).unwrap_or(0);
        frame.set_pts(Some(self.taken));
        self.layout.mark(frame).fail("mark sound")?;
        self.taken += samples;
        self.source()?.source().add(frame).fail("filter sound")?;
        self.pull(take)
    }

    /// Gives what the converter still holds; it takes no more afterwards.
    pub(crate) fn finish(&mut self, take: impl FnMut(&[f32], &[f32])) -> Result<()> {
        self.source()?.source().flush().fail("end audio filters")?;
        self.pull(take)
    }

    fn source(&mut self) -> Result<filter::Context> {
        self.graph.get("in").ok_or_else(|| Error::Failed("a graph without a source".into()))
    }

    fn pull(&mut self, mut take: impl FnMut(&[f32], &[f32])) -> Result<()> {
        let mut sink = self.graph.get("out").ok_or_else(|| Error::Failed("a graph without a sink".into()))?;
        let mut ready = frame::Audio::empty();
        loop {
            match sink.sink().frame(&mut ready) {
                Ok(()) => match ffi::stereo_planes(&ready) {
                    Some((left, right)) => take(left, right),
                    None => return Err(Error::Failed("the filters gave another kind of sound".into())),
                },
                Err(LibError::Eof) => return Ok(()),
                Err(LibError::Other { errno }) if errno == EAGAIN => return Ok(()),
                Err(error) => return Err(error).fail("take sound"),
            }
        }
    }
}

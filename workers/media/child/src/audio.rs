//! One audio track, whole: decoded, laid on the timeline of the asset, mixed to stereo, encoded, cut into segments.
//!
//! The encoder's first packet holds only its run-in. It is left out, so that packet n begins at sample 1024 n in every
//! player and no edit list is needed.
//!
//! Limits: the planned length; gaps are filled up to it, never beyond.

use std::sync::Arc;

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::format::{Sample, sample};
use ffmpeg_next::{Dictionary, Error as LibError, Packet, Rational, codec, encoder, frame};
use media::protocol::MediaTaskReport;
use media::{AUDIO_FRAME_SAMPLES, AUDIO_RATE_HZ, AudioGrid, AudioSpec, MediaErrorCode};

use crate::decode::TrackDecoder;
use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult, source_refused_error};
use crate::ffi;
use crate::fragment::{MuxerSettings, SegmentMuxer, find_encoder};
use crate::parent_pipe::{ChildJob, ParentPipe};
use crate::resample::AudioResampler;

/// Timestamps may be off by this much before silence is put in or samples are left out: 20 ms. Containers round.
const TOLERANCE_SAMPLES: i64 = 960;

/// Runs the task.
pub(crate) fn encode_audio(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    spec: &AudioSpec,
) -> MediaChildResult<MediaTaskReport> {
    let grid = spec.check().map_err(MediaChildError::Failed)?;
    let mut reader = TrackDecoder::open(wire, job, spec.stream, 1)?;
    let mut lane = AudioTrackEncoder::open(wire, spec, grid)?;
    let mut timeline = AudioTimeline::new(spec.duration_samples);
    let mut source = DecodedAudio { resampler: None, run: None };
    let mut frame = frame::Audio::empty();
    while !timeline.is_full() && reader.next_frame(&mut frame)? {
        let at = to_output_sample(frame.pts().unwrap_or(0), reader.time_base, spec.origin_us);
        source.push_frame(&mut frame, at, &mut timeline)?;
        lane.encode_ready_frames(&mut timeline)?;
        frame = frame::Audio::empty();
    }
    if reader.decoded == 0 {
        return Err(source_refused_error(
            MediaErrorCode::MediaNoFrames,
            "no sound of the stream could be decoded",
        ));
    }
    source.end_run(&mut timeline)?;
    timeline.finish();
    lane.encode_ready_frames(&mut timeline)?;
    let frames_written = lane.finish()?;
    Ok(MediaTaskReport {
        frames_decoded: reader.decoded,
        frames_written,
        silence_samples: timeline.silence,
        decode_errors: reader.errors,
        ..MediaTaskReport::default()
    })
}

/// A timestamp as a sample of the output, counted from the presentation start.
fn to_output_sample(timestamp: i64, time_base: Rational, origin_us: i64) -> i64 {
    let (num, den) = (i128::from(time_base.0), i128::from(time_base.1.max(1)));
    let micros = i128::from(timestamp) * num * 1_000_000 / den - i128::from(origin_us);
    let exact = (i128::from(timestamp) * num * i128::from(AUDIO_RATE_HZ)).div_euclid(den)
        - i128::from(origin_us) * i128::from(AUDIO_RATE_HZ) / 1_000_000;
    i64::try_from(exact).unwrap_or(if micros < 0 { i64::MIN / 4 } else { i64::MAX / 4 })
}

/// The decoded side: frames without a gap between them form a run, which is resampled as one.
struct DecodedAudio {
    resampler: Option<AudioResampler>,
    run: Option<AudioRun>,
}

#[derive(Debug, Clone, Copy)]
struct AudioRun {
    start: i64,
    taken: u64,
    rate_hz: u32,
}

impl AudioRun {
    /// Where the next frame of the run belongs.
    fn next_sample(&self) -> i64 {
        let samples = u128::from(self.taken) * u128::from(AUDIO_RATE_HZ) / u128::from(self.rate_hz.max(1));
        self.start.saturating_add(i64::try_from(samples).unwrap_or(i64::MAX))
    }
}

impl DecodedAudio {
    fn push_frame(
        &mut self,
        frame: &mut frame::Audio,
        at: i64,
        line: &mut AudioTimeline,
    ) -> MediaChildResult<()> {
        let is_same = self.resampler.as_ref().is_some_and(|resampler| resampler.is_compatible(frame));
        let follows = |run: &AudioRun| run.next_sample().abs_diff(at) <= TOLERANCE_SAMPLES.unsigned_abs();
        if !is_same || !self.run.as_ref().is_some_and(follows) {
            self.end_run(line)?;
            self.resampler = Some(AudioResampler::new(frame)?);
            self.run = Some(AudioRun { start: at, taken: 0, rate_hz: frame.rate() });
            line.begin_run(at);
        }
        let samples = u64::try_from(frame.samples()).unwrap_or(0);
        if let (Some(run), Some(resampler)) = (&mut self.run, &mut self.resampler) {
            run.taken += samples;
            resampler.push(frame, |left, right| line.add_samples(left, right))?;
        }
        Ok(())
    }

    fn end_run(&mut self, line: &mut AudioTimeline) -> MediaChildResult<()> {
        self.run = None;
        match self.resampler.take() {
            Some(mut resampler) => resampler.finish(|left, right| line.add_samples(left, right)),
            None => Ok(()),
        }
    }
}

/// The output timeline, from sample 0 to the planned length, as it fills.
#[derive(Debug)]
struct AudioTimeline {
    channels: [Vec<f32>; 2],
    /// Samples that were put on the line so far.
    length: u64,
    length_max: u64,
    /// Samples of the current run that lie before what is there already.
    skip: u64,
    silence: u64,
}

impl AudioTimeline {
    fn new(length_max: u64) -> Self {
        Self { channels: [Vec::new(), Vec::new()], length: 0, length_max, skip: 0, silence: 0 }
    }

    fn is_full(&self) -> bool {
        self.length >= self.length_max
    }

    /// A run begins at a sample: silence up to it, or the run loses what is before the end of the line.
    fn begin_run(&mut self, at: i64) {
        let end = i64::try_from(self.length).unwrap_or(i64::MAX);
        self.skip = u64::try_from(end.saturating_sub(at)).unwrap_or(0);
        self.fill_silence(u64::try_from(at).unwrap_or(0));
    }

    /// Silence up to a sample.
    fn fill_silence(&mut self, until: u64) {
        let count = until.min(self.length_max).saturating_sub(self.length);
        for channel in &mut self.channels {
            channel.resize(channel.len() + usize::try_from(count).unwrap_or(0), 0.0);
        }
        self.length += count;
        self.silence += count;
    }

    fn add_samples(&mut self, left: &[f32], right: &[f32]) {
        let count = u64::try_from(left.len()).unwrap_or(0);
        let skipped = self.skip.min(count);
        self.skip -= skipped;
        let kept = (count - skipped).min(self.length_max - self.length);
        let start = usize::try_from(skipped).unwrap_or(usize::MAX);
        let end = usize::try_from(skipped + kept).unwrap_or(usize::MAX);
        for (channel, samples) in self.channels.iter_mut().zip([left, right]) {
            channel.extend_from_slice(samples.get(start..end).unwrap_or_default());
        }
        self.length += kept;
    }

    fn finish(&mut self) {
        self.fill_silence(self.length_max);
    }

    /// The next AAC frame when it is complete, or the rest once the line is full; padded with silence.
    fn take_frame(&mut self) -> Option<[Vec<f32>; 2]> {
        let size = usize::try_from(AUDIO_FRAME_SAMPLES).unwrap_or(1024);
        let [left, _] = &self.channels;
        if left.is_empty() || (left.len() < size && !self.is_full()) {
            return None;
        }
        let mut cut = |index: usize| {
            let mut samples: Vec<f32> = match self.channels.get_mut(index) {
                Some(channel) => channel.drain(..size.min(channel.len())).collect(),
                None => Vec::new(),
            };
            samples.resize(size, 0.0);
            samples
        };
        Some([cut(0), cut(1)])
    }
}

/// The encoded side.
struct AudioTrackEncoder<'a> {
    wire: &'a ParentPipe,
    grid: AudioGrid,
    encoder: encoder::audio::Encoder,
    packager: SegmentMuxer,
    fed: u64,
    packets: u64,
    segment: u32,
}

impl<'a> AudioTrackEncoder<'a> {
    fn open(wire: &'a Arc<ParentPipe>, spec: &AudioSpec, grid: AudioGrid) -> MediaChildResult<Self> {
        let codec = find_encoder("aac")?;
        let mut audio =
            codec::Context::new_with_codec(codec).encoder().audio().or_failed("make the encoder")?;
        audio.set_rate(i32::try_from(AUDIO_RATE_HZ).unwrap_or(48_000));
        audio.set_format(Sample::F32(sample::Type::Planar));
        ffi::set_stereo(&mut audio);
        audio.set_time_base(time_base());
        let mut options = Dictionary::new();
        options.set("b", &spec.rate_bits_per_second.to_string());
        options.set("threads", "1");
        options.set("flags", "+global_header+bitexact");
        let encoder = audio.open_with(options).or_failed("open the encoder")?;
        let track = MuxerSettings { rendition: spec.rendition, timescale: AUDIO_RATE_HZ, first_segment: 0 };
        let packager = SegmentMuxer::new(Arc::clone(wire), track, codec, &encoder)?;
        Ok(Self { wire, grid, encoder, packager, fed: 0, packets: 0, segment: 0 })
    }

    /// Encodes what is complete.
    fn encode_ready_frames(&mut self, line: &mut AudioTimeline) -> MediaChildResult<()> {
        while let Some([left, right]) = line.take_frame() {
            let mut frame = ffi::stereo_frame(&left, &right).or_failed("make a frame")?;
            frame.set_rate(AUDIO_RATE_HZ);
            frame.set_pts(i64::try_from(self.fed * u64::from(AUDIO_FRAME_SAMPLES)).ok());
            self.encoder.send_frame(&frame).or_failed("encode")?;
            self.fed += 1;
            self.take_packets()?;
        }
        self.wire.send_progress(self.fed)
    }

    fn finish(mut self) -> MediaChildResult<u64> {
        self.encoder.send_eof().or_failed("end the encoder")?;
        self.take_packets()?;
        self.packager.end_segment()?;
        if self.packets == self.grid.frame_count() {
            Ok(self.packets)
        } else {
            Err(MediaChildError::Failed(format!(
                "{} AAC frames instead of {}",
                self.packets,
                self.grid.frame_count()
            )))
        }
    }

    fn take_packets(&mut self) -> MediaChildResult<()> {
        let mut packet = Packet::empty();
        loop {
            match self.encoder.receive_packet(&mut packet) {
                Ok(()) => {}
                Err(LibError::Eof) => return Ok(()),
                Err(LibError::Other { errno }) if errno == EAGAIN => return Ok(()),
                Err(error) => return Err(error).or_failed("take a packet"),
            }
            if packet.pts().is_some_and(|pts| pts < 0) || self.packets == self.grid.frame_count() {
                continue;
            }
            if self.packets == self.grid.first_frame(self.segment) {
                self.packager.end_segment()?;
                let start = self.packets * u64::from(AUDIO_FRAME_SAMPLES);
                self.packager.begin_segment(self.segment, start, AUDIO_FRAME_SAMPLES);
                self.segment += 1;
            }
            self.packets += 1;
            self.packager.add_packet(&mut packet, time_base())?;
        }
    }
}

fn time_base() -> Rational {
    Rational(1, i32::try_from(AUDIO_RATE_HZ).unwrap_or(48_000))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(length_max: u64, steps: &[(i64, &[f32])]) -> Vec<f32> {
        let mut line = AudioTimeline::new(length_max);
        for (at, samples) in steps {
            line.begin_run(*at);
            line.add_samples(samples, samples);
        }
        line.finish();
        let [left, right] = line.channels;
        assert_eq!(left, right);
        left
    }

    #[test]
    fn runs_are_laid_where_they_belong() {
        assert_eq!(line(4, &[(0, &[1.0, 2.0])]), [1.0, 2.0, 0.0, 0.0]);
        assert_eq!(line(4, &[(2, &[1.0, 2.0, 3.0])]), [0.0, 0.0, 1.0, 2.0]);
        assert_eq!(line(3, &[(-1, &[1.0, 2.0, 3.0])]), [2.0, 3.0, 0.0]);
        assert_eq!(line(6, &[(0, &[1.0, 2.0]), (4, &[3.0])]), [1.0, 2.0, 0.0, 0.0, 3.0, 0.0]);
        assert_eq!(line(4, &[(0, &[1.0, 2.0, 3.0]), (2, &[9.0, 4.0])]), [1.0, 2.0, 3.0, 4.0]);
        assert_eq!(line(2, &[(i64::MAX / 4, &[1.0])]), [0.0, 0.0]);
    }

    #[test]
    fn a_frame_is_complete_or_the_last() {
        let mut line = AudioTimeline::new(1500);
        line.begin_run(0);
        line.add_samples(&[0.5; 1000], &[0.5; 1000]);
        assert!(line.take_frame().is_none());
        line.add_samples(&[0.5; 1000], &[0.5; 1000]);
        assert_eq!(line.take_frame().map(|[left, _]| left.len()), Some(1024));
        assert_eq!(line.take_frame().map(|[left, _]| left.iter().filter(|s| **s > 0.0).count()), Some(476));
        assert!(line.take_frame().is_none());
    }

    #[test]
    fn timestamps_become_samples() {
        assert_eq!(to_output_sample(1, Rational(1, 1), 0), 48_000);
        assert_eq!(to_output_sample(90_000, Rational(1, 90_000), 500_000), 24_000);
        assert!(to_output_sample(i64::MAX, Rational(1, 1), 0) > 1 << 60);
    }
}

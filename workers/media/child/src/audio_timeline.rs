//! Decoded sound laid on the timeline of the asset: every sample where its time stamp puts it.
//!
//! Limits: the planned length; gaps are filled up to it, never beyond.

use std::collections::VecDeque;

use ffmpeg_next::frame;
use media::{AUDIO_FRAME_SAMPLES, AUDIO_RATE_HZ};

use crate::error::MediaChildResult;
use crate::resample::{AudioResampler, DriftMode, SoundFormat, SoundTreatment};

/// A time stamp this far from the sample count is a gap or an overlap: 100 ms, as FFmpeg's `min_hard_comp`. Nearer ones are not
/// believed one by one: they jitter by a packet (23 ms of AAC at 44.1 kHz) where a container or a recorder rounds them.
const GAP_SAMPLES: u64 = 4_800;

/// Time stamps that are further off on average are followed, slowly: 10 ms, which is inaudible (EBU R 37 allows 40 ms).
const DRIFT_SECONDS: f64 = 0.010;

/// Over how many seconds the drift of time stamps is averaged, so that jitter is not followed.
const AVERAGE_SECONDS: f64 = 1.0;

/// Frames whose time stamps decide together where a run begins; the first alone may be the one that jitters.
const PLACING_FRAMES: usize = 32;

/// A run begins where its first frame says unless its frames disagree by more than this: 2 ms, above what containers round.
const ROUNDING_SAMPLES: i64 = 96;

/// The decoded side: frames without a gap between them form a run, which is resampled as one.
pub(crate) struct DecodedAudio {
    /// Amplification in dB.
    gain_db: f64,
    resampler: Option<AudioResampler>,
    run: AudioRun,
    /// The frames of a run that has no place yet, with their time stamps.
    waiting: Vec<(i64, frame::Audio)>,
    /// What waits, as if it began where its first frame says.
    candidate: AudioRun,
}

/// What was taken by the resampler at hand.
#[derive(Debug, Clone, Copy, Default)]
struct AudioRun {
    /// Output sample at which it began.
    start: i64,
    /// Samples at the source's rate.
    taken: u64,
    rate_hz: u32,
    /// How much later than the sample count says time stamps are on average, in seconds.
    drift_seconds: f64,
}

impl AudioRun {
    fn new(start: i64, rate_hz: u32) -> Self {
        Self { start, taken: 0, rate_hz, drift_seconds: 0.0 }
    }

    /// Where the next frame belongs by the sample count.
    fn next_sample(&self) -> i64 {
        let samples = u128::from(self.taken) * u128::from(AUDIO_RATE_HZ) / u128::from(self.rate_hz.max(1));
        self.start.saturating_add(i64::try_from(samples).unwrap_or(i64::MAX))
    }

    /// Takes note of a frame and its time stamp.
    fn add_frame(&mut self, at: i64, samples: usize) {
        let rate = f64::from(self.rate_hz.max(1));
        let elapsed_seconds = at.saturating_sub(self.start) as f64 / f64::from(AUDIO_RATE_HZ);
        let drift_seconds = elapsed_seconds - self.taken as f64 / rate;
        let share = (samples as f64 / rate / AVERAGE_SECONDS).min(1.0);
        self.drift_seconds += (drift_seconds - self.drift_seconds) * share;
        self.taken += u64::try_from(samples).unwrap_or(0);
    }
}

impl DecodedAudio {
    /// Sound that is amplified by `gain_db`.
    pub(crate) fn new(gain_db: f64) -> Self {
        Self {
            gain_db,
            resampler: None,
            run: AudioRun::default(),
            waiting: Vec::new(),
            candidate: AudioRun::default(),
        }
    }

    fn new_resampler(&self, like: &frame::Audio, drift: DriftMode) -> MediaChildResult<AudioResampler> {
        AudioResampler::new(like, SoundTreatment { drift, gain_db: self.gain_db })
    }

    /// Lays a frame whose time stamp is output sample `at` on the line, now or once its run has a place.
    pub(crate) fn push_frame(
        &mut self,
        frame: frame::Audio,
        at: i64,
        line: &mut AudioTimeline,
    ) -> MediaChildResult<()> {
        let is_near = |position: i64| position.abs_diff(at) <= GAP_SAMPLES;
        let format = SoundFormat::from_frame(&frame);
        let is_same = |other: &frame::Audio| SoundFormat::from_frame(other) == format;
        let follows_waiting = self.waiting.first().is_some_and(|(_, first)| is_same(first))
            && is_near(self.candidate.next_sample());
        if follows_waiting {
            return self.wait_frame(frame, at, line);
        }
        if self.resampler.as_ref().is_some_and(|resampler| resampler.is_compatible(&frame)) {
            // Few frames with time stamps from elsewhere, in the middle of a run: they stand where they are, or are too many.
            let position = line.run_position();
            let waited = self.candidate.next_sample().saturating_sub(self.candidate.start);
            if !self.waiting.is_empty() && is_near(position.saturating_add(waited)) {
                for (_, stray) in std::mem::take(&mut self.waiting) {
                    if is_same(&stray) {
                        self.lay_frame(stray, line.run_position(), line)?;
                    }
                }
                return self.lay_frame(frame, at, line);
            }
            if is_near(position) {
                self.waiting.clear();
                return self.lay_frame(frame, at, line);
            }
        }
        self.place_run(line)?;
        self.candidate = AudioRun::new(at, frame.rate());
        self.wait_frame(frame, at, line)
    }

    /// Lays what is still held on the line.
    pub(crate) fn end_run(&mut self, line: &mut AudioTimeline) -> MediaChildResult<()> {
        self.place_run(line)?;
        match self.resampler.take() {
            Some(mut resampler) => resampler.finish(|left, right| line.add_samples(left, right)),
            None => Ok(()),
        }
    }

    fn wait_frame(&mut self, frame: frame::Audio, at: i64, line: &mut AudioTimeline) -> MediaChildResult<()> {
        self.candidate.add_frame(at, frame.samples());
        self.waiting.push((at, frame));
        if self.waiting.len() < PLACING_FRAMES { Ok(()) } else { self.place_run(line) }
    }

    /// Ends the run and begins the one that waits, where most of its frames say.
    fn place_run(&mut self, line: &mut AudioTimeline) -> MediaChildResult<()> {
        let waiting = std::mem::take(&mut self.waiting);
        let Some((first, sample)) = waiting.first() else { return Ok(()) };
        if let Some(mut ended) = self.resampler.take() {
            ended.finish(|left, right| line.add_samples(left, right))?;
        }
        let mut counted = AudioRun::new(*first, sample.rate());
        let mut late: Vec<i64> = Vec::with_capacity(waiting.len());
        for (at, frame) in &waiting {
            late.push(at.saturating_sub(counted.next_sample()));
            counted.add_frame(*at, frame.samples());
        }
        late.sort_unstable();
        let usual = late.get(late.len() / 2).copied().filter(|late| late.abs() > ROUNDING_SAMPLES);
        let start = first.saturating_add(usual.unwrap_or(0));
        self.run = AudioRun::new(start, sample.rate());
        self.resampler = Some(self.new_resampler(sample, DriftMode::Ignored)?);
        line.begin_run(start);
        waiting.into_iter().try_for_each(|(at, frame)| self.lay_frame(frame, at, line))
    }

    fn lay_frame(
        &mut self,
        mut frame: frame::Audio,
        at: i64,
        line: &mut AudioTimeline,
    ) -> MediaChildResult<()> {
        let is_steady =
            self.resampler.as_ref().is_some_and(|resampler| resampler.treatment.drift == DriftMode::Ignored);
        if is_steady && self.run.drift_seconds.abs() > DRIFT_SECONDS {
            // A resampler that can stretch changes sound that keeps its time, too: only sound that drifts gets one.
            if let Some(mut steady) = self.resampler.replace(self.new_resampler(&frame, DriftMode::Followed)?)
            {
                steady.finish(|left, right| line.add_samples(left, right))?;
            }
            self.run = AudioRun { start: line.run_position(), taken: 0, ..self.run };
        }
        self.run.add_frame(at, frame.samples());
        let drift_seconds = self.run.drift_seconds;
        match &mut self.resampler {
            Some(resampler) => {
                resampler.push(&mut frame, drift_seconds, |left, right| line.add_samples(left, right))
            }
            None => Ok(()),
        }
    }
}

/// A stretch of the output timeline that is not taken yet.
#[derive(Debug)]
enum TimelinePiece {
    Sound([Vec<f32>; 2]),
    /// So many samples of silence: a gap of an hour costs no memory.
    Silence(u64),
}

/// The output timeline, from sample 0 to the planned length, as it fills.
#[derive(Debug)]
pub(crate) struct AudioTimeline {
    pieces: VecDeque<TimelinePiece>,
    /// Samples of the first piece that were taken already.
    taken: usize,
    /// Samples that can be taken.
    ready: u64,
    /// Samples that were put on the line so far.
    length: u64,
    length_max: u64,
    /// Samples of the current run that lie before what is there already.
    skip: u64,
    pub(crate) silence: u64,
}

impl AudioTimeline {
    pub(crate) fn new(length_max: u64) -> Self {
        Self { pieces: VecDeque::new(), taken: 0, ready: 0, length: 0, length_max, skip: 0, silence: 0 }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.length >= self.length_max
    }

    /// Where the next sample of the run belongs.
    fn run_position(&self) -> i64 {
        let [length, skip] = [self.length, self.skip].map(|count| i64::try_from(count).unwrap_or(i64::MAX));
        length.saturating_sub(skip)
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
        if count > 0 {
            self.pieces.push_back(TimelinePiece::Silence(count));
        }
        self.ready += count;
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
        if kept > 0 {
            let cut = |samples: &[f32]| samples.get(start..end).unwrap_or_default().to_vec();
            self.pieces.push_back(TimelinePiece::Sound([cut(left), cut(right)]));
        }
        self.ready += kept;
        self.length += kept;
    }

    pub(crate) fn finish(&mut self) {
        self.fill_silence(self.length_max);
    }

    /// The next AAC frame when it is complete, or the rest once the line is full; padded with silence.
    pub(crate) fn take_frame(&mut self) -> Option<[Vec<f32>; 2]> {
        let size = usize::try_from(AUDIO_FRAME_SAMPLES).unwrap_or(1024);
        if self.ready == 0 || (self.ready < u64::from(AUDIO_FRAME_SAMPLES) && !self.is_full()) {
            return None;
        }
        let mut channels = [Vec::with_capacity(size), Vec::with_capacity(size)];
        while let [left, right] = &mut channels
            && left.len() < size
            && let Some(piece) = self.pieces.front()
        {
            let wanted = size - left.len();
            let (count, is_over) = match piece {
                TimelinePiece::Sound([from_left, from_right]) => {
                    let count = wanted.min(from_left.len() - self.taken);
                    for (channel, samples) in [(left, from_left), (right, from_right)] {
                        channel.extend_from_slice(
                            samples.get(self.taken..self.taken + count).unwrap_or_default(),
                        );
                    }
                    (count, self.taken + count == from_left.len())
                }
                TimelinePiece::Silence(length) => {
                    let rest = usize::try_from(*length).unwrap_or(usize::MAX) - self.taken;
                    let count = wanted.min(rest);
                    for channel in [left, right] {
                        channel.resize(channel.len() + count, 0.0);
                    }
                    (count, count == rest)
                }
            };
            self.taken += count;
            self.ready -= u64::try_from(count).unwrap_or(0);
            if is_over {
                self.taken = 0;
                self.pieces.pop_front();
            }
        }
        for channel in &mut channels {
            channel.resize(size, 0.0);
        }
        Some(channels)
    }
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
        let mut all = Vec::new();
        while let Some([left, right]) = line.take_frame() {
            assert_eq!(left, right);
            all.extend(left);
        }
        assert!(all.iter().skip(usize::try_from(length_max).unwrap()).all(|sample| *sample == 0.0));
        all.truncate(usize::try_from(length_max).unwrap());
        all
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
    fn an_hour_of_silence_costs_no_memory() {
        let mut line = AudioTimeline::new(48_000 * 3_600);
        line.begin_run(48_000 * 3_500);
        line.add_samples(&[0.5; 1024], &[0.5; 1024]);
        assert_eq!(line.pieces.len(), 2);
        let frames = std::iter::from_fn(|| line.take_frame());
        assert_eq!(frames.filter(|[left, _]| left.iter().any(|sample| *sample > 0.0)).count(), 1);
    }
}

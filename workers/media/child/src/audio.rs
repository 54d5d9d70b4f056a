//! One audio track, whole: decoded, laid on the timeline of the asset, mixed to stereo, encoded, cut into segments.
//!
//! The encoder's first packet holds only its run-in. It is left out, so that packet n begins at sample 1024 n in every
//! player and no edit list is needed.
//!
//! Limits: the planned length.

use std::sync::Arc;

use ffmpeg_next::error::EAGAIN;
use ffmpeg_next::format::{Sample, sample};
use ffmpeg_next::{Dictionary, Error as LibError, Packet, Rational, codec, encoder, frame};
use media::protocol::MediaTaskReport;
use media::{AUDIO_FRAME_SAMPLES, AUDIO_RATE_HZ, AudioGrid, AudioSpec, MediaErrorCode};

use crate::audio_timeline::{AudioTimeline, DecodedAudio};
use crate::decode::TrackDecoder;
use crate::error::{LibraryErrorExt, MediaChildError, MediaChildResult, source_refused_error};
use crate::ffi;
use crate::fragment::{MuxerSettings, SegmentMuxer, find_encoder};
use crate::parent_pipe::{ChildJob, ParentPipe};

/// Sound is amplified by at most this much: 20 dB. What is quieter is noise.
const GAIN_DB_MAX: f64 = 20.0;

/// Runs the task.
pub(crate) fn encode_audio(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    spec: &AudioSpec,
) -> MediaChildResult<MediaTaskReport> {
    let grid = spec.check().map_err(MediaChildError::Failed)?;
    let gain_db = match spec.loudness_lufs {
        Some(wanted_lufs) => measure_gain_db(wire, job, spec, f64::from(wanted_lufs))?,
        None => 0.0,
    };
    let mut lane = AudioTrackEncoder::open(wire, spec, grid)?;
    let decoded = decode_track(wire, job, spec, gain_db, |timeline| lane.encode_ready_frames(timeline))?;
    let loudness_missing_lu = lane.missing_lu()?;
    let frames_written = lane.finish()?;
    Ok(MediaTaskReport {
        frames_decoded: decoded.frames,
        frames_written,
        loudness_missing_lu,
        silence_samples: decoded.silence_samples,
        decode_errors: decoded.errors,
        ..MediaTaskReport::default()
    })
}

/// Counts of a decoded track.
struct DecodedTrack {
    frames: u64,
    errors: u64,
    silence_samples: u64,
}

/// Decodes the track and lays it on its timeline; `take` is called whenever there may be frames to take off it.
fn decode_track(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    spec: &AudioSpec,
    gain_db: f64,
    mut take: impl FnMut(&mut AudioTimeline) -> MediaChildResult<()>,
) -> MediaChildResult<DecodedTrack> {
    let mut reader = TrackDecoder::open(wire, job, spec.stream, 1)?;
    let mut timeline = AudioTimeline::new(spec.duration_samples);
    let mut source = DecodedAudio::new(gain_db);
    let mut frame = frame::Audio::empty();
    while !timeline.is_full() && reader.next_frame(&mut frame)? {
        let at = to_output_sample(frame.pts().unwrap_or(0), reader.time_base, spec.origin_us);
        source.push_frame(std::mem::replace(&mut frame, frame::Audio::empty()), at, &mut timeline)?;
        take(&mut timeline)?;
    }
    if reader.decoded == 0 {
        return Err(source_refused_error(
            MediaErrorCode::MediaNoFrames,
            "no sound of the stream could be decoded",
        ));
    }
    source.end_run(&mut timeline)?;
    timeline.finish();
    take(&mut timeline)?;
    Ok(DecodedTrack { frames: reader.decoded, errors: reader.errors, silence_samples: timeline.silence })
}

/// By how much the track is to be amplified to have a loudness: from its integrated loudness (EBU R 128, ITU-R BS.1770), which
/// leaves silence out. Sound without any stays as it is.
fn measure_gain_db(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    spec: &AudioSpec,
    wanted_lufs: f64,
) -> MediaChildResult<f64> {
    let mut meter = LoudnessMeter::new(wanted_lufs)?;
    let mut measured = 0;
    decode_track(wire, job, spec, 0.0, |timeline| {
        while let Some([left, right]) = timeline.take_frame() {
            meter.add_sound(&left, &right)?;
            measured += 1;
            wire.send_heartbeat(measured)?;
        }
        Ok(())
    })?;
    Ok(meter.missing_lu()?.min(GAIN_DB_MAX))
}

/// The integrated loudness of sound that goes by, held against a wanted one.
struct LoudnessMeter {
    meter: ebur128::EbuR128,
    wanted_lufs: f64,
}

impl LoudnessMeter {
    fn new(wanted_lufs: f64) -> MediaChildResult<Self> {
        // With a histogram a title of a day needs no more memory than one of a minute.
        let mode = ebur128::Mode::I | ebur128::Mode::HISTOGRAM;
        let meter = ebur128::EbuR128::new(2, AUDIO_RATE_HZ, mode).map_err(meter_error)?;
        Ok(Self { meter, wanted_lufs })
    }

    fn add_sound(&mut self, left: &[f32], right: &[f32]) -> MediaChildResult<()> {
        self.meter.add_frames_planar_f32(&[left, right]).map_err(meter_error)
    }

    /// How much louder the sound would have to be; less than 0 where it is louder than wanted, and 0 of silence.
    fn missing_lu(&self) -> MediaChildResult<f64> {
        let missing_lu = self.wanted_lufs - self.meter.loudness_global().map_err(meter_error)?;
        Ok(if missing_lu.is_finite() { missing_lu } else { 0.0 })
    }
}

fn meter_error(error: ebur128::Error) -> MediaChildError {
    MediaChildError::Failed(format!("measure the loudness: {error}"))
}

/// A timestamp as a sample of the output, counted from the presentation start.
fn to_output_sample(timestamp: i64, time_base: Rational, origin_us: i64) -> i64 {
    let (num, den) = (i128::from(time_base.0), i128::from(time_base.1.max(1)));
    let micros = i128::from(timestamp) * num * 1_000_000 / den - i128::from(origin_us);
    let exact = (i128::from(timestamp) * num * i128::from(AUDIO_RATE_HZ)).div_euclid(den)
        - i128::from(origin_us) * i128::from(AUDIO_RATE_HZ) / 1_000_000;
    i64::try_from(exact).unwrap_or(if micros < 0 { i64::MIN / 4 } else { i64::MAX / 4 })
}

/// The encoded side.
struct AudioTrackEncoder<'a> {
    wire: &'a ParentPipe,
    grid: AudioGrid,
    encoder: encoder::audio::Encoder,
    /// Of sound that is to have a loudness.
    meter: Option<LoudnessMeter>,
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
        let track = MuxerSettings {
            rendition: spec.rendition,
            timescale: AUDIO_RATE_HZ,
            first_segment: 0,
            delay_ticks: 0,
        };
        let packager = SegmentMuxer::new(Arc::clone(wire), track, codec, &encoder)?;
        let meter = spec.loudness_lufs.map(|wanted_lufs| LoudnessMeter::new(f64::from(wanted_lufs)));
        let meter = meter.transpose()?;
        Ok(Self { wire, grid, encoder, meter, packager, fed: 0, packets: 0, segment: 0 })
    }

    /// How much quieter the sound so far is than was asked for: it was amplified as far as it may be, or its peaks were limited.
    fn missing_lu(&self) -> MediaChildResult<f64> {
        Ok(self.meter.as_ref().map_or(Ok(0.0), LoudnessMeter::missing_lu)?.max(0.0))
    }

    /// Encodes what is complete.
    fn encode_ready_frames(&mut self, line: &mut AudioTimeline) -> MediaChildResult<()> {
        while let Some([left, right]) = line.take_frame() {
            if let Some(meter) = &mut self.meter {
                meter.add_sound(&left, &right)?;
            }
            let mut frame = ffi::stereo_frame(&left, &right).or_failed("make a frame")?;
            frame.set_rate(AUDIO_RATE_HZ);
            frame.set_pts(i64::try_from(self.fed * u64::from(AUDIO_FRAME_SAMPLES)).ok());
            self.encoder.send_frame(&frame).or_failed("encode")?;
            self.fed += 1;
            self.take_packets()?;
            // Here and not behind the loop: silence of hours comes at once.
            self.wire.send_progress(self.fed)?;
        }
        Ok(())
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

    #[test]
    fn timestamps_become_samples() {
        assert_eq!(to_output_sample(1, Rational(1, 1), 0), 48_000);
        assert_eq!(to_output_sample(90_000, Rational(1, 90_000), 500_000), 24_000);
        assert!(to_output_sample(i64::MAX, Rational(1, 1), 0) > 1 << 60);
    }
}

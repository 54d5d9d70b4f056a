//! Which sound is copied, and from where on.

use media::{AudioStream, MediaRatio, MediaStream, SoundIndex};
use packaging::copied::CopiedSound;
use schemas::renditions::SoundCopy;

use super::files::{Pictures, RenditionFault, SurveyedFile, fault};

/// By how much sound may begin after the pictures or before them, in samples: half a packet.
const SOUND_OFF_SAMPLES_MAX: i128 = 512;

/// By how much sound may end before the pictures, in milliseconds.
const SOUND_SHORT_MS_MAX: u64 = 500;

/// Samples of a packet of AAC-LC.
const PACKET_SAMPLES: u64 = packaging::presentation::AUDIO_FRAME_SAMPLES;

/// A track of sound that is to be copied.
#[derive(Debug, Clone, Copy)]
struct ChosenSound<'a> {
    of: SurveyedFile<'a>,
    index: SoundIndex,
    stream: &'a MediaStream,
    audio: &'a AudioStream,
}

/// The sound: that of a file of sound alone, else that of the first file that has some.
pub(super) fn find_sound(
    surveyed: &[SurveyedFile<'_>],
    top: &Pictures<'_>,
) -> Result<Option<CopiedSound>, RenditionFault> {
    let Some(chosen) = choose_sound(surveyed)? else { return Ok(None) };
    check_codec(&chosen)?;
    let skipped_packets = count_skipped(&chosen)?;
    let duration_samples = measure_length(&chosen, skipped_packets, top)?;
    let ChosenSound { of, index, stream, audio } = chosen;
    Ok(Some(CopiedSound {
        copy: SoundCopy { file: of.place, stream_index: index.stream, skipped_packets },
        language: stream.language.clone(),
        title: stream.title.clone(),
        channels: u32::from(audio.channels),
        sample_rate_hz: index.sample_rate_hz,
        bit_rate_bps: stream.bit_rate_bits_per_second,
        duration_samples,
    }))
}

fn choose_sound<'a>(surveyed: &[SurveyedFile<'a>]) -> Result<Option<ChosenSound<'a>>, RenditionFault> {
    let of_sound: Vec<&SurveyedFile<'_>> = surveyed.iter().filter(|of| of.survey.frames.is_none()).collect();
    if let [first, second, ..] = of_sound.as_slice() {
        let detail =
            format!("{} and {} are of sound alone: send one of them", first.file.name, second.file.name);
        return fault("rendition_tracks", detail);
    }
    let with_sound = || surveyed.iter().find(|of| of.survey.sound.is_some());
    let alone = surveyed.iter().find(|of| of.survey.frames.is_none());
    let Some(of) = alone.or_else(with_sound).copied() else { return Ok(None) };
    Ok(of.survey.sound.and_then(|index| {
        let tracks = of.survey.probe.audio_streams();
        let stream = tracks.into_iter().find(|stream| stream.index == index.stream)?;
        Some(ChosenSound { of, index, stream, audio: stream.audio.as_ref()? })
    }))
}

fn check_codec(chosen: &ChosenSound<'_>) -> Result<(), RenditionFault> {
    let (name, stream) = (&chosen.of.file.name, chosen.stream);
    let is_lc = stream.profile.as_deref().is_none_or(|profile| profile == "LC");
    if stream.codec != "aac" || !is_lc || u64::from(chosen.index.packet_samples) != PACKET_SAMPLES {
        let profile = stream.profile.as_deref().unwrap_or("unknown");
        let detail =
            format!("{name}: its sound is {} ({profile}), encode it as AAC-LC (-c:a aac)", stream.codec);
        return fault("rendition_sound", detail);
    }
    let Some(at_ms) = chosen.index.gap_at_ms else { return Ok(()) };
    let (seconds, millis) = (at_ms / 1_000, at_ms % 1_000);
    let detail = format!(
        "{name}: its sound has a gap at {seconds}.{millis:03} s, encode it with -af aresample=async=1"
    );
    fault("rendition_sound", detail)
}

/// Packets before the one that is nearest to the first frame: what an encoder begins with is not part of the sound.
fn count_skipped(chosen: &ChosenSound<'_>) -> Result<u64, RenditionFault> {
    let index = chosen.index;
    // In the clock of its file, in which the pictures may begin later than at 0.
    let frames = chosen.of.survey.frames.as_ref();
    let origin = frames.map_or((0, index.tick), |frames| (frames.first_ticks, frames.tick));
    let rate_hz = i128::from(index.sample_rate_hz);
    let to_samples = |(ticks, tick): (i64, MediaRatio)| {
        i128::from(ticks) * i128::from(tick.num) * rate_hz / i128::from(tick.den.max(1))
    };
    let start = to_samples((index.first_ticks, index.tick)) - to_samples(origin);
    let packet = i128::from(PACKET_SAMPLES);
    let skipped = ((-SOUND_OFF_SAMPLES_MAX - start).max(0) + packet - 1) / packet;
    if start + skipped * packet <= SOUND_OFF_SAMPLES_MAX {
        return Ok(u64::try_from(skipped).unwrap_or(u64::MAX));
    }
    let (name, late_ms) = (&chosen.of.file.name, start * 1_000 / rate_hz.max(1));
    let detail = format!(
        "{name}: its sound begins {late_ms} ms after the pictures, begin it with silence (-af aresample=async=1:first_pts=0)"
    );
    fault("rendition_sound", detail)
}

/// Samples that are taken: as many as the pictures last, or fewer where there are not so many.
fn measure_length(
    chosen: &ChosenSound<'_>,
    skipped_packets: u64,
    top: &Pictures<'_>,
) -> Result<u64, RenditionFault> {
    let rate_hz = u64::from(chosen.index.sample_rate_hz);
    let there = chosen.index.packet_count.saturating_sub(skipped_packets).saturating_mul(PACKET_SAMPLES);
    let rate = top.frames.frame_rate;
    let wanted = u128::from(top.frames.frame_count) * u128::from(rate.den) * u128::from(rate_hz);
    let wanted = u64::try_from(wanted.div_ceil(u128::from(rate.num.max(1)))).unwrap_or(u64::MAX);
    let short_ms = wanted.saturating_sub(there).saturating_mul(1_000) / rate_hz.max(1);
    if short_ms <= SOUND_SHORT_MS_MAX {
        return Ok(there.min(wanted));
    }
    let name = &chosen.of.file.name;
    let detail = format!(
        "{name}: its sound ends {short_ms} ms before the pictures, fill it up with silence (-af apad -shortest)"
    );
    fault("rendition_sound", detail)
}

//! HLS playlists (RFC 8216 and Apple's HLS Authoring Specification), from exact sample counts and stored bytes.
//!
//! Final playlists are stored; while an encode grows, [`render_growing_multivariant`] and [`render_event`] are rendered on request
//! from the job's records. An `event.m3u8` only ever gets longer, as RFC 8216 section 6.2.1 asks.

use std::fmt::Write as _;

use schemas::{
    captions::CaptionKind,
    job::{EncodePlan, JobPartRecord, StoredSegment},
    keys,
    media::Rational,
};

use crate::plan;
use crate::presentation::{
    AUDIO_FRAME_SAMPLES, Presentation, PresentationRendition, RenditionKind, bits_per_second,
    fill_last_frame, round_to_seconds,
};

/// The variant nearest to this many bits per second is listed first (HLS Authoring Specification 1.32).
const FIRST_VARIANT_BPS: u64 = 2_000_000;

/// The lowest version that knows all tags used here: `EXT-X-MAP` in playlists with other than I-frames.
const VERSION: u32 = 6;

const AUDIO_GROUP: &str = "audio";

/// The group that all subtitles are in.
pub(crate) const SUBTITLE_GROUP: &str = "subtitles";

/// What subtitles for the deaf and hard of hearing are good for (HLS Authoring Specification, 6.7).
const HEARING_IMPAIRED: &str = ",CHARACTERISTICS=\"public.accessibility.transcribes-spoken-dialog,public.accessibility.describes-music-and-sound\"";

/// Where a title is played from that grows: viewers who come later would begin near its end, as with a live stream (RFC 8216, 4.3.5.2).
/// In playlists of both kinds: video.js reads it in media playlists alone, and Shaka in the multivariant one, where it takes 0 for
/// none.
const START: &str = "#EXT-X-START:TIME-OFFSET=0.001,PRECISE=YES";

/// What a media playlist is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PlaylistKind {
    /// All of a rendition that is finished.
    Final,
    /// Its pictures that stand alone.
    IFrames,
    /// A rendition that grows.
    Growing,
}

/// The multivariant playlist of a finished encode.
pub fn render_multivariant(presentation: &Presentation) -> String {
    let target = presentation.target_seconds();
    let rate = |rendition: &PresentationRendition| VariantBitRates {
        peak: rendition.peak_bps(target),
        average: Some(rendition.average_bps()),
    };
    format_multivariant(presentation, &rate, keys::media_playlist_path, "")
}

/// The multivariant playlist while the encode grows; names the `event.m3u8` of every rendition that has a segment.
/// `None` before anything can be played. Its bandwidths are the plan's caps, since the bytes are not all known.
pub fn render_growing_multivariant(plan: &EncodePlan, parts: &[JobPartRecord]) -> Option<String> {
    let GrowingPresentation { presentation, .. } = grow_presentation(plan, parts)?;
    // RFC 8216, 4.3.4.2: BANDWIDTH bounds the peak, which is not known yet: it follows from the limits of the
    // encoder.
    let rate = |rendition: &PresentationRendition| VariantBitRates {
        peak: bound_peak_bps(plan, &rendition.name),
        average: None,
    };
    Some(format_multivariant(&presentation, &rate, keys::event_playlist_path, &format!("{START}\n")))
}

/// The media playlist of a finished rendition.
pub fn render_media(rendition: &PresentationRendition, target_seconds: u64) -> String {
    let mut text = format_header(rendition, target_seconds, PlaylistKind::Final);
    write_segments(&mut text, rendition);
    text.push_str("#EXT-X-ENDLIST\n");
    text
}

/// The playlist of the pictures of a finished rendition that stand alone, one for each segment: what players show while a person
/// searches (RFC 8216, 4.3.3.6). `None` of what has no pictures, or none that were measured.
pub fn render_iframes(rendition: &PresentationRendition, target_seconds: u64) -> Option<String> {
    if rendition.iframe_bytes.is_empty() {
        return None;
    }
    let mut text = format_header(rendition, target_seconds, PlaylistKind::IFrames);
    for ((segment, duration), bytes) in list_segments(rendition).zip(&rendition.iframe_bytes) {
        let _infallible = writeln!(text, "#EXTINF:{duration},\n#EXT-X-BYTERANGE:{bytes}@0\n{segment}");
    }
    text.push_str("#EXT-X-ENDLIST\n");
    Some(text)
}

/// An unfinished encode as its viewers see it.
struct GrowingPresentation {
    presentation: Presentation,
    /// All of every rendition is there.
    is_complete: bool,
}

/// The rungs and the sound as far as the one of them that has come least far: a player that is shown all of the sound and one segment
/// of the picture takes the title for that long, or plays one without the other. `None` before each has enough to begin with.
fn grow_presentation(plan: &EncodePlan, parts: &[JobPartRecord]) -> Option<GrowingPresentation> {
    let mut presentation = Presentation::from_unfinished_parts(plan, parts);
    let rungs = plan.video.as_ref().map_or(0, |v| v.rungs.len());
    // Parts end in any order: another track must not become the default because it was first.
    let default_sound = presentation.audio.first().map(|audio| &audio.name);
    let sound_missing = plan.audio.first().map(|audio| &audio.name) != default_sound;
    if presentation.video.len() < rungs || sound_missing || presentation.renditions().next().is_none() {
        return None;
    }
    // Segments of the same number cover the same time. What is complete holds nothing back: sound may have a segment less. Nor do
    // further audio tracks, which begin later: what is shown never becomes less.
    let leading = presentation.video.iter().chain(presentation.audio.first());
    let unfinished = leading.filter(|rendition| !is_complete(plan, rendition));
    if let Some(shown) = unfinished.map(|rendition| rendition.segments.len()).min() {
        if u32::try_from(shown).unwrap_or(u32::MAX) < plan::GROWING_SEGMENTS_MIN {
            return None;
        }
        let Presentation { video, audio, subtitles } = &mut presentation;
        for rendition in video.iter_mut().chain(audio).chain(subtitles) {
            rendition.segments.truncate(shown);
        }
    }
    let is_complete = presentation.renditions().count() == rungs + plan.audio.len()
        && presentation.renditions().all(|rendition| is_complete(plan, rendition));
    Some(GrowingPresentation { presentation, is_complete })
}

/// The media playlist of a rendition while it grows; `None` when it has no segment or is not planned. All end together, when all of
/// every rendition is there.
pub fn render_event(plan: &EncodePlan, parts: &[JobPartRecord], rendition: &str) -> Option<String> {
    let GrowingPresentation { presentation, is_complete } = grow_presentation(plan, parts)?;
    let rendition = presentation.listed_renditions().find(|r| r.name == rendition)?;
    // RFC 8216, 6.2.1: the target duration must not change while a playlist grows, so it is the planned one.
    let mut text = format_header(rendition, planned_target_seconds(plan), PlaylistKind::Growing);
    write_segments(&mut text, rendition);
    if is_complete {
        text.push_str("#EXT-X-ENDLIST\n");
    }
    Some(text)
}

/// The [`render_event`] playlist of a rendition whose final playlist is `stored`: nothing but its end is new to who followed it.
/// `plan` is that of its job, as long as that is kept.
pub fn render_ended_event(plan: Option<&EncodePlan>, stored: &str) -> String {
    let mut text = String::with_capacity(stored.len() + 8);
    for line in stored.lines() {
        let tag = |name: &str| line.starts_with(name);
        match plan {
            Some(plan) if tag("#EXT-X-TARGETDURATION:") => {
                let _infallible = write!(text, "#EXT-X-TARGETDURATION:{}", planned_target_seconds(plan));
            }
            // RFC 8216, 6.2.1: of a loaded playlist nothing may change but what is appended.
            _ if tag("#EXT-X-PLAYLIST-TYPE:") => {
                let _infallible = write!(text, "#EXT-X-PLAYLIST-TYPE:EVENT\n{START}");
            }
            _ => text.push_str(line),
        }
        text.push('\n');
    }
    text
}

struct VariantBitRates {
    peak: u64,
    average: Option<u64>,
}

fn format_multivariant(
    presentation: &Presentation,
    rate: &dyn Fn(&PresentationRendition) -> VariantBitRates,
    uri: fn(&str) -> String,
    more_tags: &str,
) -> String {
    let mut text = format!("#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-INDEPENDENT-SEGMENTS\n{more_tags}");
    let has_group = !presentation.video.is_empty() || presentation.audio.len() > 1;
    if has_group {
        for (index, audio) in presentation.audio.iter().enumerate() {
            let is_first = is_first_of_language(&presentation.audio, index);
            let choice = TrackChoice { is_default: index == 0, is_autoselected: is_first };
            write_audio_media(&mut text, audio, choice, &uri(&audio.name));
        }
    }
    let (forced, offered): (Vec<_>, Vec<_>) = presentation.subtitles.iter().cloned().partition(is_forced);
    for group in [&offered, &forced] {
        for (index, subtitles) in group.iter().enumerate() {
            write_subtitle_media(
                &mut text,
                subtitles,
                is_first_of_language(group, index),
                &uri(&subtitles.name),
            );
        }
    }
    let groups = VariantGroups {
        has_audio: has_group && !presentation.audio.is_empty(),
        has_subtitles: !presentation.subtitles.is_empty(),
    };
    let sound = VariantBitRates {
        peak: presentation.audio.iter().map(|a| rate(a).peak).max().unwrap_or(0),
        average: presentation.audio.iter().filter_map(|a| rate(a).average).max(),
    };
    let audio_codecs = presentation.audio.first().map(|a| a.codecs.as_str());
    let mut variants: Vec<(u64, String)> = Vec::new();
    for video in &presentation.video {
        let own = rate(video);
        let total = VariantBitRates {
            peak: own.peak + sound.peak,
            average: own.average.map(|a| a + sound.average.unwrap_or(0)),
        };
        let codecs =
            audio_codecs.map_or_else(|| video.codecs.clone(), |audio| format!("{},{audio}", video.codecs));
        variants.push((total.peak, format_variant(video, &total, &codecs, groups, &uri(&video.name))));
    }
    if presentation.video.is_empty()
        && let Some(audio) = presentation.audio.first()
    {
        variants.push((sound.peak, format_variant(audio, &sound, &audio.codecs, groups, &uri(&audio.name))));
    }
    // The rest stays best first.
    let first = variants
        .iter()
        .enumerate()
        .min_by_key(|(_, (peak, _))| peak.abs_diff(FIRST_VARIANT_BPS))
        .map(|(i, _)| i);
    if let Some(index) = first {
        let chosen = variants.remove(index);
        variants.insert(0, chosen);
    }
    text.extend(variants.into_iter().map(|(_, line)| line));
    text.extend(presentation.video.iter().filter_map(format_iframe_variant));
    text
}

/// The line of [`render_iframes`] in the multivariant playlist; none where there is none.
fn format_iframe_variant(video: &PresentationRendition) -> Option<String> {
    let RenditionKind::Video { width, height, .. } = video.kind else { return None };
    let pictures = video.segments.iter().zip(&video.iframe_bytes);
    let peak = pictures.clone().map(|(s, bytes)| bits_per_second(*bytes, s.duration_ticks, video.timescale));
    let (peak, total) = (peak.max()?, pictures.map(|(_, bytes)| bytes).sum());
    let average = bits_per_second(total, video.duration_ticks(), video.timescale);
    let (codecs, uri) = (&video.codecs, keys::iframe_playlist_path(&video.name));
    Some(format!(
        "#EXT-X-I-FRAME-STREAM-INF:BANDWIDTH={peak},AVERAGE-BANDWIDTH={average},CODECS=\"{codecs}\",RESOLUTION={width}x{height},VIDEO-RANGE=SDR,URI=\"{uri}\"\n"
    ))
}

/// How a track of a group is chosen without a person (RFC 8216, 4.3.4.1).
#[derive(Debug, Clone, Copy)]
struct TrackChoice {
    is_default: bool,
    is_autoselected: bool,
}

fn write_audio_media(text: &mut String, audio: &PresentationRendition, choice: TrackChoice, uri: &str) {
    let RenditionKind::Audio { language, label, channels, .. } = &audio.kind else { return };
    let yes_or_no = |is_so: bool| if is_so { "YES" } else { "NO" };
    let (default, autoselect) = (yes_or_no(choice.is_default), yes_or_no(choice.is_autoselected));
    let _infallible = writeln!(
        text,
        "#EXT-X-MEDIA:TYPE=AUDIO,GROUP-ID=\"{AUDIO_GROUP}\",LANGUAGE=\"{language}\",NAME=\"{label}\",DEFAULT={default},AUTOSELECT={autoselect},CHANNELS=\"{channels}\",URI=\"{uri}\""
    );
}

/// Subtitles are shown when a person asks for them, or by the player's settings for a language; a rendition of text needs no codec
/// among the variant's, which names sample types of media files (RFC 8216, 4.3.4.2; RFC 6381).
fn write_subtitle_media(
    text: &mut String,
    subtitles: &PresentationRendition,
    is_autoselected: bool,
    uri: &str,
) {
    let RenditionKind::Subtitles { language, label, is_forced, is_hearing_impaired } = &subtitles.kind else {
        return;
    };
    let kind = CaptionKind::of_flags(*is_forced, *is_hearing_impaired);
    let is_both = *is_forced && *is_hearing_impaired;
    let characteristics = if is_both || kind == CaptionKind::Captions { HEARING_IMPAIRED } else { "" };
    text.push_str(&format_media_tag((language, kind), characteristics, (label, is_autoselected), uri));
}

/// The line of a track of text that people brought.
pub(crate) fn format_subtitle_media(
    (language, kind): (&str, CaptionKind),
    label: &str,
    is_autoselected: bool,
    uri: &str,
) -> String {
    let characteristics = if kind == CaptionKind::Captions { HEARING_IMPAIRED } else { "" };
    format_media_tag((language, kind), characteristics, (label, is_autoselected), uri)
}

fn format_media_tag(
    (language, kind): (&str, CaptionKind),
    characteristics: &str,
    (label, is_autoselected): (&str, bool),
    uri: &str,
) -> String {
    let yes_or_no = |is_so: bool| if is_so { "YES" } else { "NO" };
    let (autoselect, forced) = (yes_or_no(is_autoselected), yes_or_no(kind == CaptionKind::Forced));
    format!(
        "#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"{SUBTITLE_GROUP}\",LANGUAGE=\"{language}\",NAME=\"{label}\",DEFAULT=NO,AUTOSELECT={autoselect},FORCED={forced}{characteristics},URI=\"{uri}\"\n"
    )
}

fn is_forced(rendition: &PresentationRendition) -> bool {
    matches!(rendition.kind, RenditionKind::Subtitles { is_forced: true, .. })
}

/// A player that chooses by language finds one of each: commentary in it is chosen by a person.
fn is_first_of_language(group: &[PresentationRendition], index: usize) -> bool {
    let language = group.get(index).and_then(PresentationRendition::language);
    !group.iter().take(index).any(|before| before.language() == language)
}

/// The groups that a variant names.
#[derive(Debug, Clone, Copy)]
struct VariantGroups {
    has_audio: bool,
    has_subtitles: bool,
}

fn format_variant(
    rendition: &PresentationRendition,
    rates: &VariantBitRates,
    codecs: &str,
    groups: VariantGroups,
    uri: &str,
) -> String {
    let mut text = format!("#EXT-X-STREAM-INF:BANDWIDTH={}", rates.peak);
    let mut add = |name: &str, value: String| {
        let _infallible = write!(text, ",{name}={value}");
    };
    if let Some(average) = rates.average {
        add("AVERAGE-BANDWIDTH", average.to_string());
    }
    add("CODECS", format!("\"{codecs}\""));
    if let RenditionKind::Video { width, height, frame_rate } = rendition.kind {
        add("RESOLUTION", format!("{width}x{height}"));
        add("FRAME-RATE", format_decimal(u64::from(frame_rate.num), u64::from(frame_rate.den), 3));
        add("VIDEO-RANGE", "SDR".to_owned());
        add("CLOSED-CAPTIONS", "NONE".to_owned());
    }
    if groups.has_audio {
        add("AUDIO", format!("\"{AUDIO_GROUP}\""));
    }
    if groups.has_subtitles {
        add("SUBTITLES", format!("\"{SUBTITLE_GROUP}\""));
    }
    let _infallible = writeln!(text, "\n{uri}");
    text
}

fn format_header(rendition: &PresentationRendition, target_seconds: u64, kind: PlaylistKind) -> String {
    let (kind, more_tags) = match kind {
        PlaylistKind::Final => ("VOD".to_owned(), ""),
        PlaylistKind::IFrames => ("VOD".to_owned(), "#EXT-X-I-FRAMES-ONLY\n"),
        PlaylistKind::Growing => (format!("EVENT\n{START}"), ""),
    };
    // Files of text need no initialization (RFC 8216, 3.5).
    let map = if is_subtitles(rendition) { "" } else { "#EXT-X-MAP:URI=\"init.mp4\"\n" };
    format!(
        "#EXTM3U\n#EXT-X-VERSION:{VERSION}\n#EXT-X-TARGETDURATION:{target_seconds}\n#EXT-X-MEDIA-SEQUENCE:1\n#EXT-X-PLAYLIST-TYPE:{kind}\n#EXT-X-INDEPENDENT-SEGMENTS\n{more_tags}{map}"
    )
}

const fn is_subtitles(rendition: &PresentationRendition) -> bool {
    matches!(rendition.kind, RenditionKind::Subtitles { .. })
}

fn write_segments(text: &mut String, rendition: &PresentationRendition) {
    for (segment, duration) in list_segments(rendition) {
        let _infallible = writeln!(text, "#EXTINF:{duration},\n{segment}");
    }
}

/// The segments as playlists list them: file and duration. Each duration is the difference of two rounded times, so that the sum over
/// any run is exact to a microsecond.
fn list_segments(rendition: &PresentationRendition) -> impl Iterator<Item = (String, String)> {
    let microseconds = |ticks: u64| {
        let scaled = (u128::from(ticks) * 2_000_000 + u128::from(rendition.timescale))
            / (2 * u128::from(rendition.timescale));
        u64::try_from(scaled).unwrap_or(u64::MAX)
    };
    let extension = if is_subtitles(rendition) { "vtt" } else { "m4s" };
    let mut end_ticks = 0;
    rendition.segments.iter().zip(1_u32..).map(move |(segment, number)| {
        // The difference of rounded times: rounded durations would add up to another length.
        let start = microseconds(end_ticks);
        end_ticks += segment.duration_ticks;
        let duration = microseconds(end_ticks).saturating_sub(start);
        (format!("{number}.{extension}"), format_decimal(duration, 1_000_000, 6))
    })
}

/// `num / den` with a fixed number of decimals, rounded.
fn format_decimal(num: u64, den: u64, places: u32) -> String {
    let unit = 10_u128.pow(places);
    let den = u128::from(den.max(1));
    let scaled = (2 * u128::from(num) * unit + den) / (2 * den);
    format!("{}.{:0width$}", scaled / unit, scaled % unit, width = usize::try_from(places).unwrap_or(0))
}

/// Target duration that holds for the whole life of the growing playlists: from the plan, with room for the audio
/// boundary that lies at the nearest AAC frame.
fn planned_target_seconds(plan: &EncodePlan) -> u64 {
    let video = plan.video.as_ref().map(|v| {
        let frames = u64::from(v.segment_frames).min(v.frame_count);
        round_to_seconds(frames * u64::from(v.frame_rate.den), v.frame_rate.num)
    });
    let audio = plan.audio.first().map(|a| {
        let rate = u64::from(a.sample_rate_hz.max(1));
        let Rational { num, den } = a.segment_seconds;
        let nominal = (u64::from(num) * rate).div_ceil(u64::from(den.max(1))) + AUDIO_FRAME_SAMPLES;
        let samples = nominal.min(fill_last_frame(a.duration_samples));
        round_to_seconds(samples, a.sample_rate_hz)
    });
    video.into_iter().chain(audio).max().unwrap_or(1).max(1)
}

/// Upper bound of a rendition's peak: the rate cap, and a full buffer spent within one segment.
fn bound_peak_bps(plan: &EncodePlan, name: &str) -> u64 {
    let video =
        plan.video.as_ref().and_then(|v| v.rungs.iter().find(|r| r.name == name).map(|rung| (v, rung)));
    if let Some((video, rung)) = video {
        let frames = u64::from(video.segment_frames) * u64::from(video.frame_rate.den);
        return rung.rate_max_bps + rung.buffer_bits * u64::from(video.frame_rate.num) / frames.max(1);
    }
    plan.audio.iter().find(|a| a.name == name).map_or(0, |a| a.bit_rate_bps * 5 / 4)
}

fn is_complete(plan: &EncodePlan, rendition: &PresentationRendition) -> bool {
    let ticks = u128::from(rendition.duration_ticks());
    let timescale = u128::from(rendition.timescale);
    let video = plan.video.as_ref().filter(|v| v.rungs.iter().any(|r| r.name == rendition.name));
    if let Some(video) = video {
        let planned = u128::from(video.frame_count) * u128::from(video.frame_rate.den) * timescale;
        return ticks * u128::from(video.frame_rate.num) >= planned;
    }
    plan.audio
        .iter()
        .find(|a| a.name == rendition.name)
        .is_some_and(|a| ticks * u128::from(a.sample_rate_hz) >= u128::from(a.duration_samples) * timescale)
}

/// Duration of a segment for people and sums, in microseconds.
pub fn segment_us(segment: &StoredSegment, timescale: u32) -> u64 {
    let scaled = u128::from(segment.duration_ticks) * 1_000_000 / u128::from(timescale.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX)
}

//! The pure core: what lists and search need to know of a medium, made of what the probe found.

use schemas::media::{MediaEncode, MediaRecord, MediaSummary, TechnicalMetadata, VideoTrack};

/// The summary of a medium; `None` while nothing is known about its source.
///
/// It depends on nothing but the record, so the order in which events arrive does not matter.
pub fn summarise_media(record: &MediaRecord) -> Option<MediaSummary> {
    let technical = record.technical.as_ref()?;
    let video = technical.video.first();
    let (width, height) = video.map_or((0, 0), display_size);
    Some(MediaSummary {
        container: technical.container.clone(),
        duration_ms: technical.duration_ms,
        width,
        height,
        frame_rate_milli: video.map_or(0, frame_rate_milli),
        video_codec: video.map(|track| track.codec.clone()),
        audio_codecs: collect_distinct(technical.audio.iter().map(|track| Some(track.codec.as_str()))),
        languages: audio_languages(technical),
        renditions: record.encode.as_ref().map(rendition_names).unwrap_or_default(),
    })
}

/// Size as shown: pixels made square by widening, then turned. Values beyond any picture are cut to `u32`.
fn display_size(track: &VideoTrack) -> (u32, u32) {
    let aspect = track.sample_aspect;
    let width = if aspect.num == 0 || aspect.den == 0 || aspect.num == aspect.den {
        track.width
    } else {
        divide_rounded(u64::from(track.width) * u64::from(aspect.num), u64::from(aspect.den))
    };
    if track.rotation_degrees % 180 == 90 { (track.height, width) } else { (width, track.height) }
}

fn frame_rate_milli(track: &VideoTrack) -> u32 {
    divide_rounded(u64::from(track.frame_rate.num) * 1_000, u64::from(track.frame_rate.den))
}

fn divide_rounded(numerator: u64, denominator: u64) -> u32 {
    let denominator = denominator.max(1);
    u32::try_from((numerator + denominator / 2) / denominator).unwrap_or(u32::MAX)
}

fn audio_languages(technical: &TechnicalMetadata) -> Vec<String> {
    collect_distinct(
        technical.audio.iter().map(|track| track.language.as_deref().filter(|code| *code != "und")),
    )
}

/// Each value once, in the order of the tracks.
fn collect_distinct<'a>(values: impl Iterator<Item = Option<&'a str>>) -> Vec<String> {
    let mut seen = Vec::new();
    for value in values.flatten().filter(|value| !value.is_empty()) {
        if !seen.iter().any(|known| known == value) {
            seen.push(value.to_owned());
        }
    }
    seen
}

/// Names of the renditions, the best first: video before audio, larger before smaller, then by rate.
fn rendition_names(encode: &MediaEncode) -> Vec<String> {
    let mut all: Vec<_> = encode.renditions.iter().collect();
    all.sort_by(|a, b| {
        let rank =
            |r: &schemas::media::EncodedRendition| (u64::from(r.width) * u64::from(r.height), r.average_bps);
        rank(b).cmp(&rank(a)).then_with(|| a.name.cmp(&b.name))
    });
    all.into_iter().map(|rendition| rendition.name.clone()).collect()
}

//! What an encode leaves out of a source or changes in it, by its profile.

use schemas::{
    job::EncodePlan,
    media::{MediaWarning, Rational, TechnicalMetadata, warning_codes},
};

use crate::ladder::{self, PictureSize};

/// Transfer characteristics of high dynamic range, by FFmpeg's names: PQ and HLG (ITU-R BT.2100).
const HDR_TRANSFERS: [&str; 2] = ["smpte2084", "arib-std-b67"];

/// Primaries of gamuts that are wider than that of BT.709, by FFmpeg's names.
const WIDE_PRIMARIES: [&str; 3] = ["bt2020", "smpte431", "smpte432"];

/// Compares a plan with what it is made of.
pub(crate) fn list_changes(technical: &TechnicalMetadata, plan: &EncodePlan) -> Vec<MediaWarning> {
    let mut changes = Vec::new();
    if technical.still {
        return changes;
    }
    let mut add = |code: &str, detail: String| changes.push(MediaWarning { code: code.to_owned(), detail });
    for track in &technical.audio {
        let kept = plan.audio.iter().find(|kept| kept.stream_index == track.index);
        match kept {
            None => {
                let detail = format!("track {}: {}", track.index, track.codec);
                add(warning_codes::AUDIO_TRACK_DROPPED, detail);
            }
            Some(kept) if track.channels > kept.channels => {
                let detail =
                    format!("track {}: {} channels become {}", track.index, track.channels, kept.channels);
                add(warning_codes::AUDIO_DOWNMIXED, detail);
            }
            Some(_) => {}
        }
    }
    let (Some(track), Some(video)) = (technical.video.first(), &plan.video) else { return changes };
    if let Some(transfer) = track.color_transfer.as_deref().filter(|name| HDR_TRANSFERS.contains(name)) {
        add(warning_codes::HDR_CONVERTED, format!("track {}: {transfer} becomes BT.709", track.index));
    } else if let Some(primaries) =
        track.color_primaries.as_deref().filter(|name| WIDE_PRIMARIES.contains(name))
    {
        add(warning_codes::GAMUT_CONVERTED, format!("track {}: {primaries} becomes BT.709", track.index));
    }
    let per_second = |rate: Rational| f64::from(rate.num) / f64::from(rate.den.max(1));
    let (source_rate, rate) = (per_second(track.frame_rate), per_second(video.frame_rate));
    if source_rate > rate * 1.02 {
        let detail = format!("track {}: {source_rate:.3} frames a second become {rate:.3}", track.index);
        add(warning_codes::FRAME_RATE_REDUCED, detail);
    }
    let PictureSize { width, height } = ladder::display_size(track);
    if let Some(top) = video.rungs.first()
        && top.height + 1 < height
    {
        let detail = format!("track {}: {width}x{height} becomes {}x{}", track.index, top.width, top.height);
        add(warning_codes::PICTURE_REDUCED, detail);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        EncodeProfile,
        testing::{build_plan, build_technical},
    };

    fn codes(technical: &TechnicalMetadata, profile: &EncodeProfile) -> Vec<String> {
        build_plan(technical, profile).warnings.into_iter().map(|warning| warning.code).collect()
    }

    #[test]
    fn what_is_as_it_was_is_no_change() {
        let technical = build_technical(10, 640, 360);
        assert_eq!(codes(&technical, &EncodeProfile::default()), Vec::<String>::new());
        let still = TechnicalMetadata { still: true, ..technical };
        assert_eq!(codes(&still, &EncodeProfile::default()), Vec::<String>::new());
    }

    #[test]
    fn every_change_has_its_code() {
        let mut technical = build_technical(10, 3_840, 2_160);
        let mut third = technical.audio[0].clone();
        (third.index, technical.audio[0].channels) = (9, 6);
        technical.audio.push(third);
        technical.video[0].frame_rate = Rational { num: 120, den: 1 };
        technical.video[0].color_transfer = Some("smpte2084".into());
        let mut wide = technical.clone();
        (wide.video[0].color_transfer, wide.video[0].color_primaries) = (None, Some("smpte432".into()));
        assert!(codes(&wide, &EncodeProfile::default()).contains(&"gamut_converted".to_owned()));
        let profile = EncodeProfile { audio_tracks_max: 1, ..EncodeProfile::default() };
        assert_eq!(
            codes(&technical, &profile),
            [
                "audio_downmixed",
                "audio_track_dropped",
                "hdr_converted",
                "frame_rate_reduced",
                "picture_reduced"
            ]
        );
    }
}

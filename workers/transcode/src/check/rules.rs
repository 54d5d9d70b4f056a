//! The rules themselves.

use std::collections::BTreeMap;

use packaging::{ladder, mp4::Mp4TrackKind};
use schemas::{
    job::{AudioPlan, LadderRung, VideoPlan},
    keys,
};

use super::{
    ConformanceFindings, ConformanceInput, ConformanceRule, MeasuredRendition,
    context::{ConformanceContext, measure_rates, planned_renditions, planned_subtitles},
    dash,
    hls::{HlsAttributes, MediaPlaylist},
    iframes, subtitles,
};

/// Largest difference between declared and measured bandwidth, in percent (HLS Authoring Specification 1.26, 1.27).
const BANDWIDTH_PERCENT_MAX: u64 = 10;

/// By how much renditions that were made elsewhere may differ in length, in microseconds: sound is copied as long as it is.
const COPIED_SLACK_US: u64 = 550_000;

/// Samples of an AAC frame.
const AUDIO_FRAME_SAMPLES: u64 = packaging::presentation::AUDIO_FRAME_SAMPLES;

/// The files that a media playlist lists.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum SegmentFormat {
    Cmaf,
    WebVtt,
}

pub(super) fn check_rules(evidence: &ConformanceInput<'_>, findings: &mut ConformanceFindings) {
    let Some(case) = ConformanceContext::parse(evidence, findings) else { return };
    check_variants(&case, findings);
    check_audio_media(&case, findings);
    iframes::check_iframes(&case, findings);
    subtitles::check_subtitles(&case, findings);
    for (name, media) in &case.subtitles {
        check_playlist_form(name, media, SegmentFormat::WebVtt, findings);
    }
    for (name, media) in &case.playlists {
        check_playlist_form(name, media, SegmentFormat::Cmaf, findings);
        if let Some(measured) = evidence.measured.get(*name) {
            check_durations(&case, name, media, measured, findings);
            check_continuity(name, measured, findings);
            check_container(name, measured, findings);
        } else {
            findings.add_error(ConformanceRule::A8, format!("{name}: nothing is stored"));
        }
    }
    check_target_duration(&case, findings);
    if let Some(video) = &evidence.plan.video {
        for rung in &video.rungs {
            if let Some(measured) = evidence.measured.get(&rung.name) {
                check_pictures((video, evidence.plan.copy.is_some()), rung, measured, findings);
            }
        }
        check_video_boundaries(video, evidence.measured, findings);
        for audio in &evidence.plan.audio {
            check_audio_boundaries(video, audio, evidence.measured, findings);
        }
    }
    check_manifest(&case, findings);
}

/// A1 to A6: what the multivariant playlist says about its variants.
fn check_variants(case: &ConformanceContext<'_>, findings: &mut ConformanceFindings) {
    let plan = case.evidence.plan;
    let rungs: &[LadderRung] = plan.video.as_ref().map_or(&[], |v| v.rungs.as_slice());
    findings.require_rule(case.multivariant.is_independent, ConformanceRule::A1, || {
        "EXT-X-INDEPENDENT-SEGMENTS is missing".into()
    });
    let expected = if rungs.is_empty() { plan.audio.len().min(1) } else { rungs.len() };
    findings.require_rule(case.multivariant.variants.len() == expected, ConformanceRule::A1, || {
        format!("{} variants instead of {expected}", case.multivariant.variants.len())
    });
    for (attributes, uri) in &case.multivariant.variants {
        let named = |name: &str| *uri == keys::media_playlist_path(name);
        check_bandwidth(case, attributes, uri, findings);
        if let Some(rung) = rungs.iter().find(|r| named(&r.name)) {
            check_video_variant(case, rung, attributes, findings);
        } else if !plan.audio.iter().any(|a| named(&a.name)) {
            findings.add_error(ConformanceRule::A1, format!("variant {uri:.60} was not planned"));
        }
    }
    check_variant_order(case, findings);
    check_aspect(rungs, findings);
}

fn check_video_variant(
    case: &ConformanceContext<'_>,
    rung: &LadderRung,
    attributes: &HlsAttributes,
    findings: &mut ConformanceFindings,
) {
    let (Some(measured), Some(video)) = (case.evidence.measured.get(&rung.name), &case.evidence.plan.video)
    else {
        return;
    };
    let name = &rung.name;
    let get = |key: &str| attributes.get(key).map(String::as_str).unwrap_or_default();
    let audio = case.evidence.plan.audio.first().and_then(|a| case.evidence.measured.get(&a.name));
    let codecs = audio.map_or_else(
        || measured.init.codecs.clone(),
        |a| format!("{},{}", measured.init.codecs, a.init.codecs),
    );
    findings.require_rule(get("CODECS") == codecs, ConformanceRule::A3, || {
        format!("{name}: CODECS {} instead of {codecs}", get("CODECS"))
    });
    findings.require_rule(measured.init.codecs.starts_with("avc1."), ConformanceRule::A6, || {
        format!("{name}: not H.264")
    });
    findings.require_rule(get("VIDEO-RANGE") == "SDR", ConformanceRule::A6, || {
        format!("{name}: VIDEO-RANGE is not SDR")
    });
    let Mp4TrackKind::Video { width, height, level, .. } = measured.init.kind else {
        findings.add_error(ConformanceRule::A4, format!("{name}: the init segment holds no video"));
        return;
    };
    let resolution = format!("{width}x{height}");
    findings.require_rule(get("RESOLUTION") == resolution, ConformanceRule::A4, || {
        format!("{name}: RESOLUTION {} instead of {resolution}", get("RESOLUTION"))
    });
    findings.require_rule((width, height) == (rung.width, rung.height), ConformanceRule::A4, || {
        format!("{name}: {resolution} instead of the planned {}x{}", rung.width, rung.height)
    });
    let size = ladder::PictureSize { width, height };
    let needed = ladder::lowest_level(size, video.frame_rate, rung.rate_max_bps);
    if level > needed {
        let detail = format!("{name}: level {level} where {needed} is enough");
        match case.evidence.plan.copy {
            None => findings.add_error(ConformanceRule::A4, detail),
            // What its encoder chose elsewhere plays on all but the smallest devices.
            Some(_) => findings.add_warning(ConformanceRule::A4, detail),
        }
    }
    let frames: usize = measured.segments.iter().map(|s| s.fragment.sample_count).sum();
    let ticks: u64 = measured.segments.iter().map(|s| s.fragment.duration_ticks).sum();
    let rate = frames as f64 * f64::from(measured.init.timescale) / (ticks.max(1) as f64);
    let declared: f64 = get("FRAME-RATE").parse().unwrap_or(0.0);
    findings.require_rule((declared - rate).abs() < 0.002, ConformanceRule::A4, || {
        format!("{name}: FRAME-RATE {declared} instead of {rate:.3}")
    });
}

/// A2: both bandwidths are computed again from EXTINF and the size of the stored objects.
fn check_bandwidth(
    case: &ConformanceContext<'_>,
    attributes: &HlsAttributes,
    uri: &str,
    findings: &mut ConformanceFindings,
) {
    let mut declared = |key: &str| {
        let value = attributes.get(key).and_then(|v| v.parse::<u64>().ok());
        findings
            .require_rule(value.is_some(), ConformanceRule::A1, || format!("{uri:.60}: {key} is missing"));
        value
    };
    let (Some(peak), Some(average)) = (declared("BANDWIDTH"), declared("AVERAGE-BANDWIDTH")) else { return };
    let own = case.largest_rates(|name| *uri == keys::media_playlist_path(name));
    let audio = &case.evidence.plan.audio;
    let sound = case.largest_rates(|name| audio.iter().any(|a| a.name == name));
    // A variant of sound alone stands for the whole group: its listener may choose any member.
    let is_audio = audio.iter().any(|a| *uri == keys::media_playlist_path(&a.name));
    let measured = if is_audio { sound } else { (own.0 + sound.0, own.1 + sound.1) };
    for (what, declared, measured) in
        [("BANDWIDTH", peak, measured.0), ("AVERAGE-BANDWIDTH", average, measured.1)]
    {
        let is_near = declared.abs_diff(measured) * 100 <= measured * BANDWIDTH_PERCENT_MAX;
        findings.require_rule(is_near, ConformanceRule::A2, || {
            format!("{uri:.60}: {what} {declared}, measured {measured}")
        });
    }
    if measured.0 > 2 * measured.1 {
        findings.add_warning(
            ConformanceRule::A2,
            format!("{uri:.60}: peak {} above twice the average {}", measured.0, measured.1),
        );
    }
}

/// A5: warnings only, since a source may not have what the rule asks for.
fn check_variant_order(case: &ConformanceContext<'_>, findings: &mut ConformanceFindings) {
    let peak = |attributes: &HlsAttributes| {
        attributes.get("BANDWIDTH").and_then(|v| v.parse::<u64>().ok()).unwrap_or(0)
    };
    let mut peaks: Vec<u64> = case.multivariant.variants.iter().map(|(a, _)| peak(a)).collect();
    let nearest = peaks.iter().map(|p| p.abs_diff(2_000_000)).min();
    if peaks.first().map(|p| p.abs_diff(2_000_000)) != nearest {
        findings.add_warning(ConformanceRule::A5, "the first variant is not the one nearest to 2 Mb/s");
    }
    peaks.sort_unstable();
    for pair in peaks.windows(2) {
        if let [low, high] = pair
            && *high > low.saturating_mul(3)
        {
            findings.add_warning(ConformanceRule::A5, format!("a step from {low} to {high} bits per second"));
        }
    }
}

/// A4: sides are even, so the aspect may differ by what rounding to two pixels does.
fn check_aspect(rungs: &[LadderRung], findings: &mut ConformanceFindings) {
    let Some(top) = rungs.first() else { return };
    for rung in rungs {
        let width = f64::from(rung.height) * f64::from(top.width) / f64::from(top.height.max(1));
        let slack = 2.0 + 2.0 * f64::from(top.width) / f64::from(top.height.max(1));
        let differs = (width - f64::from(rung.width)).abs();
        findings.require_rule(differs <= slack, ConformanceRule::A4, || {
            format!("{}: another aspect than the top rung", rung.name)
        });
    }
}

/// A13: how the audio renditions are announced.
fn check_audio_media(case: &ConformanceContext<'_>, findings: &mut ConformanceFindings) {
    let plan = case.evidence.plan;
    if plan.video.is_none() && plan.audio.len() < 2 {
        return;
    }
    let announced: Vec<&HlsAttributes> = case.media_of("AUDIO").collect();
    findings.require_rule(announced.len() == plan.audio.len(), ConformanceRule::A13, || {
        format!("{} audio renditions instead of {}", announced.len(), plan.audio.len())
    });
    for audio in &plan.audio {
        let uri = keys::media_playlist_path(&audio.name);
        let Some(media) = announced.iter().find(|m| m.get("URI") == Some(&uri)) else {
            findings.add_error(ConformanceRule::A13, format!("{}: no EXT-X-MEDIA", audio.name));
            continue;
        };
        for key in ["TYPE", "GROUP-ID", "LANGUAGE", "NAME", "DEFAULT", "AUTOSELECT", "CHANNELS"] {
            findings.require_rule(media.contains_key(key), ConformanceRule::A13, || {
                format!("{}: {key} is missing", audio.name)
            });
        }
        if let Some(Mp4TrackKind::Audio { channels, sample_rate_hz }) =
            case.evidence.measured.get(&audio.name).map(|m| m.init.kind)
        {
            let declared = media.get("CHANNELS").and_then(|c| c.parse().ok());
            findings.require_rule(declared == Some(channels), ConformanceRule::A13, || {
                format!("{}: {channels} channels, declared {declared:?}", audio.name)
            });
            findings.require_rule(sample_rate_hz == audio.sample_rate_hz, ConformanceRule::A13, || {
                format!("{}: {sample_rate_hz} Hz", audio.name)
            });
        } else {
            findings
                .add_error(ConformanceRule::A13, format!("{}: the init segment holds no audio", audio.name));
        }
    }
    let defaults = announced.iter().filter(|m| m.get("DEFAULT").is_some_and(|d| d == "YES")).count();
    findings.require_rule(plan.audio.is_empty() || defaults == 1, ConformanceRule::A13, || {
        format!("{defaults} default audio renditions")
    });
    for (attributes, uri) in &case.multivariant.variants {
        let group = attributes.get("AUDIO");
        let is_known = group.is_some_and(|g| announced.iter().any(|m| m.get("GROUP-ID") == Some(g)));
        findings.require_rule(plan.audio.is_empty() || is_known, ConformanceRule::A13, || {
            format!("{uri:.60}: no audio group")
        });
    }
}

/// A8 and A12: form of one media playlist.
fn check_playlist_form(
    name: &str,
    media: &MediaPlaylist,
    format: SegmentFormat,
    findings: &mut ConformanceFindings,
) {
    let (maps, extension): (&[&str], &str) = match format {
        SegmentFormat::Cmaf => (&["init.mp4"], "m4s"),
        SegmentFormat::WebVtt => (&[], "vtt"),
    };
    findings.require_rule(media.version >= 6, ConformanceRule::A8, || {
        format!("{name}: version {} is too low for EXT-X-MAP", media.version)
    });
    findings.require_rule(media.kind == "VOD", ConformanceRule::A8, || {
        format!("{name}: playlist type {:.20}", media.kind)
    });
    findings.require_rule(media.has_end, ConformanceRule::A8, || format!("{name}: EXT-X-ENDLIST is missing"));
    findings.require_rule(media.maps == maps, ConformanceRule::A12, || {
        format!("{name}: EXT-X-MAP {:?} instead of {maps:?}", media.maps)
    });
    let has_ranges = media.is_iframes_only || !media.ranges.is_empty();
    findings.require_rule(!has_ranges, ConformanceRule::A8, || format!("{name}: ranges of segments"));
    findings.require_rule(!media.has_discontinuity, ConformanceRule::A12, || {
        format!("{name}: EXT-X-DISCONTINUITY")
    });
    let limit_us = media.target_seconds * 1_000_000 + 500_000;
    for ((duration_us, uri), number) in media.segments.iter().zip(1_u32..) {
        findings.require_rule(*duration_us <= limit_us, ConformanceRule::A8, || {
            format!("{name}: segment {number} lasts {duration_us} us")
        });
        findings.require_rule(*uri == format!("{number}.{extension}"), ConformanceRule::A8, || {
            format!("{name}: segment {number} is {uri:.40}")
        });
    }
}

/// A8: one target duration, which the longest segment decides, and the same total duration.
fn check_target_duration(case: &ConformanceContext<'_>, findings: &mut ConformanceFindings) {
    let all = || case.playlists.iter().chain(&case.subtitles);
    let longest =
        all().map(|(_, media)| media).flat_map(|m| &m.segments).map(|(us, _)| *us).max().unwrap_or(0);
    // RFC 8216, 4.3.3.1: rounded to the nearest second.
    let target = ((longest + 500_000) / 1_000_000).max(1);
    for (name, media) in all() {
        findings.require_rule(media.target_seconds == target, ConformanceRule::A8, || {
            format!("{name}: target duration {} instead of {target}", media.target_seconds)
        });
    }
    let total = |media: &MediaPlaylist| media.segments.iter().map(|(us, _)| *us).sum::<u64>();
    let longest = all().map(|(_, media)| media).map(total).max().unwrap_or(0);
    let frame_us = case
        .evidence
        .plan
        .video
        .as_ref()
        .map_or(0, |v| 1_000_000 * u64::from(v.frame_rate.den) / u64::from(v.frame_rate.num.max(1)));
    let slack_us = match case.evidence.plan.copy {
        None => frame_us.max(AUDIO_FRAME_SAMPLES * 1_000_000 / 48_000) + 1,
        Some(_) => COPIED_SLACK_US,
    };
    for (name, media) in all() {
        let total = total(media);
        findings.require_rule(longest - total <= slack_us, ConformanceRule::A8, || {
            format!("{name}: lasts {total} us, the longest {longest} us")
        });
    }
}

/// A9: the sum of EXTINF up to any segment follows the media's own clock; so does the sum over any run.
fn check_durations(
    case: &ConformanceContext<'_>,
    name: &str,
    media: &MediaPlaylist,
    measured: &MeasuredRendition,
    findings: &mut ConformanceFindings,
) {
    findings.require_rule(media.segments.len() == measured.segments.len(), ConformanceRule::A9, || {
        format!("{name}: {} segments listed, {} stored", media.segments.len(), measured.segments.len())
    });
    let frame_us = case
        .evidence
        .plan
        .video
        .as_ref()
        .map_or(20_000, |v| 1_000_000 * u64::from(v.frame_rate.den) / u64::from(v.frame_rate.num.max(1)));
    let (mut listed_us, mut ticks) = (0_u64, 0_u64);
    for (((us, _), segment), number) in media.segments.iter().zip(&measured.segments).zip(1_u32..) {
        listed_us += us;
        ticks += segment.fragment.duration_ticks;
        let real_us = u128::from(ticks) * 1_000_000 / u128::from(measured.init.timescale.max(1));
        let differs = real_us.abs_diff(u128::from(listed_us));
        // Half a frame at each end keeps every run within one frame.
        findings.require_rule(differs * 2 <= u128::from(frame_us), ConformanceRule::A9, || {
            format!("{name}: EXTINF is off by {differs} us after segment {number}")
        });
    }
}

/// A12: every segment begins where the one before ended, the first at 0; and the object is as long as its boxes say.
fn check_continuity(name: &str, measured: &MeasuredRendition, findings: &mut ConformanceFindings) {
    let mut next = 0;
    for (segment, number) in measured.segments.iter().zip(1_u32..) {
        let fragment = &segment.fragment;
        findings.require_rule(fragment.start_ticks == next, ConformanceRule::A12, || {
            format!("{name}: segment {number} starts at {} instead of {next}", fragment.start_ticks)
        });
        findings.require_rule(fragment.size_bytes == segment.size_bytes, ConformanceRule::A12, || {
            format!(
                "{name}: segment {number} has {} bytes, its boxes say {}",
                segment.size_bytes, fragment.size_bytes
            )
        });
        next = fragment.start_ticks + fragment.duration_ticks;
    }
}

/// B18: brands and structure; one track and one fragment per segment are proven by reading it.
fn check_container(name: &str, measured: &MeasuredRendition, findings: &mut ConformanceFindings) {
    findings.require_rule(measured.init.brands.iter().any(|b| b == "cmfc"), ConformanceRule::B18, || {
        format!("{name}: no brand cmfc among {:?}", measured.init.brands)
    });
    // Every segment begins with what is presented first, and the edit list leaves out exactly the delay before it.
    let edit = i64::try_from(measured.init.edit_start_ticks).unwrap_or(i64::MAX);
    for (segment, number) in measured.segments.iter().zip(1_u32..) {
        let delay = segment.fragment.composition_ticks;
        findings.require_rule(delay == edit, ConformanceRule::B18, || {
            format!("{name}: segment {number} is presented {delay} ticks after it is decoded, the edit list leaves out {edit}")
        });
    }
}

/// A10: IDR pictures exactly at the multiples of the GOP, parameter sets only in the init segment.
fn check_pictures(
    (video, is_copied): (&VideoPlan, bool),
    rung: &LadderRung,
    measured: &MeasuredRendition,
    findings: &mut ConformanceFindings,
) {
    let name = &rung.name;
    if let Mp4TrackKind::Video { has_parameter_sets, .. } = measured.init.kind {
        findings.require_rule(has_parameter_sets, ConformanceRule::A10, || {
            format!("{name}: no parameter sets in the init segment")
        });
    }
    let gop_ticks =
        u128::from(video.gop_frames) * u128::from(video.frame_rate.den) * u128::from(measured.init.timescale);
    for (segment, number) in measured.segments.iter().zip(1_u32..) {
        let is_idr = segment.first_picture.is_some_and(|p| p.is_idr);
        findings.require_rule(is_idr, ConformanceRule::A10, || {
            format!("{name}: segment {number} does not begin with an IDR picture")
        });
        let is_clean = segment.first_picture.is_some_and(|p| !p.has_parameter_sets);
        findings.require_rule(is_clean, ConformanceRule::A10, || {
            format!("{name}: segment {number} repeats parameter sets")
        });
        let expected =
            segment.fragment.sample_count.div_ceil(usize::try_from(video.gop_frames.max(1)).unwrap_or(1));
        let on_grid =
            segment.fragment.sync_ticks.iter().zip(0_u128..).all(|(ticks, index)| {
                u128::from(*ticks) * u128::from(video.frame_rate.num) == index * gop_ticks
            });
        findings.require_rule(
            // An encoder elsewhere may put more of them where scenes change.
            (on_grid && segment.fragment.sync_ticks.len() == expected)
                || (is_copied && segment.fragment.sync_ticks.first() == Some(&0)),
            ConformanceRule::A10,
            || {
                format!(
                    "{name}: segment {number} has IDR pictures at {:?} ticks",
                    segment.fragment.sync_ticks
                )
            },
        );
    }
}

/// A11: compared as exact fractions, since rungs may have different clocks.
fn check_video_boundaries(
    video: &VideoPlan,
    measured: &BTreeMap<String, MeasuredRendition>,
    findings: &mut ConformanceFindings,
) {
    let mut rungs = video.rungs.iter().filter_map(|rung| Some((rung, measured.get(&rung.name)?)));
    let Some((_, first)) = rungs.next() else { return };
    for (rung, other) in rungs {
        let same = first.segments.len() == other.segments.len()
            && first.segments.iter().zip(&other.segments).all(|(a, b)| {
                let time =
                    |ticks: u64, by: &MeasuredRendition| u128::from(ticks) * u128::from(by.init.timescale);
                time(a.fragment.start_ticks, other) == time(b.fragment.start_ticks, first)
                    && time(a.fragment.duration_ticks, other) == time(b.fragment.duration_ticks, first)
            });
        findings.require_rule(same, ConformanceRule::A11, || {
            format!("{}: segments cover other times than the top rung's", rung.name)
        });
    }
}

/// A13: an audio segment begins at the AAC frame nearest to the video boundary.
fn check_audio_boundaries(
    video: &VideoPlan,
    audio: &AudioPlan,
    measured: &BTreeMap<String, MeasuredRendition>,
    findings: &mut ConformanceFindings,
) {
    let Some(sound) = measured.get(&audio.name) else { return };
    let Some(pictures) = video.rungs.first().and_then(|rung| measured.get(&rung.name)) else { return };
    for ((a, v), number) in sound.segments.iter().zip(&pictures.segments).zip(1_u32..) {
        let audio_scaled = u128::from(a.fragment.start_ticks) * u128::from(pictures.init.timescale);
        let video_scaled = u128::from(v.fragment.start_ticks) * u128::from(sound.init.timescale);
        let slack = u128::from(AUDIO_FRAME_SAMPLES / 2 + 1) * u128::from(pictures.init.timescale);
        findings.require_rule(audio_scaled.abs_diff(video_scaled) <= slack, ConformanceRule::A13, || {
            format!("{}: segment {number} begins more than half an AAC frame off the video's", audio.name)
        });
    }
}

/// B17: the manifest says the same as the store.
fn check_manifest(case: &ConformanceContext<'_>, findings: &mut ConformanceFindings) {
    let manifest = match dash::parse_manifest(case.evidence.manifest) {
        Ok(manifest) => manifest,
        Err(why) => {
            findings.add_error(ConformanceRule::B17, format!("manifest: {why}"));
            return;
        }
    };
    let is_static = manifest.attributes.get("type").is_some_and(|t| t == "static");
    findings.require_rule(is_static, ConformanceRule::B17, || "the manifest is not static".into());
    let mut names: Vec<&str> = manifest
        .sets
        .iter()
        .flat_map(|s| &s.representations)
        .filter_map(|r| r.get("id"))
        .map(String::as_str)
        .collect();
    let mut expected: Vec<&str> =
        planned_renditions(case.evidence).chain(planned_subtitles(case.evidence)).collect();
    names.sort_unstable();
    expected.sort_unstable();
    findings.require_rule(names == expected, ConformanceRule::B17, || {
        format!("representations {names:?} instead of {expected:?}")
    });
    for set in &manifest.sets {
        let says = |key: &str, value: &str| set.attributes.get(key).is_some_and(|v| v == value);
        if says("contentType", "text") {
            let is_text = says("mimeType", "text/vtt") && set.attributes.contains_key("lang");
            findings.require_rule(is_text, ConformanceRule::B17, || "text without lang or mimeType".into());
            continue;
        }
        findings.require_rule(
            says("segmentAlignment", "true") && says("startWithSAP", "1"),
            ConformanceRule::B17,
            || "segmentAlignment or startWithSAP is missing".into(),
        );
        let is_audio = says("contentType", "audio");
        findings.require_rule(!is_audio || set.attributes.contains_key("lang"), ConformanceRule::B17, || {
            "audio without lang".into()
        });
        for representation in &set.representations {
            let name = representation.get("id").map(String::as_str).unwrap_or_default();
            let (Some(measured), Some(media)) = (case.evidence.measured.get(name), case.playlists.get(name))
            else {
                continue;
            };
            check_representation(
                name,
                set,
                representation,
                measured,
                measure_rates(media, measured).0,
                findings,
            );
        }
    }
}

fn check_representation(
    name: &str,
    set: &dash::AdaptationSet,
    representation: &dash::DashAttributes,
    measured: &MeasuredRendition,
    peak_bps: u64,
    findings: &mut ConformanceFindings,
) {
    let get = |key: &str| representation.get(key).map(String::as_str).unwrap_or_default();
    findings.require_rule(get("codecs") == measured.init.codecs, ConformanceRule::B17, || {
        format!("{name}: codecs {:.40}", get("codecs"))
    });
    let declared: u64 = get("bandwidth").parse().unwrap_or(0);
    findings.require_rule(
        declared.abs_diff(peak_bps) * 100 <= peak_bps * BANDWIDTH_PERCENT_MAX,
        ConformanceRule::B17,
        || format!("{name}: bandwidth {declared}, measured {peak_bps}"),
    );
    let timescale = set.template.get("timescale").and_then(|t| t.parse::<u32>().ok());
    findings.require_rule(timescale == Some(measured.init.timescale), ConformanceRule::B17, || {
        format!("{name}: timescale {timescale:?}")
    });
    let stored: Vec<(u64, u64)> =
        measured.segments.iter().map(|s| (s.fragment.start_ticks, s.fragment.duration_ticks)).collect();
    findings.require_rule(set.timeline == stored, ConformanceRule::B17, || {
        format!("{name}: the timeline differs from the segments")
    });
    if let Mp4TrackKind::Video { width, height, .. } = measured.init.kind {
        let same = get("width") == width.to_string() && get("height") == height.to_string();
        findings.require_rule(
            same && get("sar") == "1:1" && !get("frameRate").is_empty(),
            ConformanceRule::B17,
            || format!("{name}: width, height, sar or frameRate"),
        );
    }
}

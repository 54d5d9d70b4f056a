//! Table tests of the check, against playlists and manifest.

use std::collections::BTreeMap;

use packaging::{mp4, mpd, playlist, presentation::Presentation, testing::build_subtitled_example};
use schemas::job::EncodePlan;

use crate::check::{
    self, ConformanceInput, ConformanceRule, FindingSeverity, MeasuredRendition, MeasuredSegment,
    MeasuredSubtitles, webvtt::ReadCue,
};

/// What the store would hold if it held what the parts say.
fn measured(plan: &EncodePlan, presentation: &Presentation) -> BTreeMap<String, MeasuredRendition> {
    let gop = plan.video.as_ref().map_or(1, |v| u64::from(v.gop_frames) * u64::from(v.frame_rate.den));
    let all = presentation.renditions().map(|rendition| {
        let audio = mp4::Mp4TrackKind::Audio { channels: 2, sample_rate_hz: 48_000 };
        let kind = plan.video.iter().flat_map(|v| &v.rungs).find(|r| r.name == rendition.name).map_or(
            audio,
            |rung| mp4::Mp4TrackKind::Video {
                width: rung.width,
                height: rung.height,
                level: rung.level,
                length_bytes: 4,
                has_parameter_sets: true,
            },
        );
        let is_video = matches!(kind, mp4::Mp4TrackKind::Video { .. });
        let sample_ticks = if is_video { u64::from(rendition.timescale) / 25 } else { 1_024 };
        let segments = rendition.segments.iter().map(|s| {
            let sync = s.duration_ticks.div_ceil(gop * sample_ticks);
            MeasuredSegment {
                fragment: mp4::Mp4Fragment {
                    start_ticks: s.start_ticks,
                    composition_ticks: 0,
                    duration_ticks: s.duration_ticks,
                    sample_count: usize::try_from(s.duration_ticks / sample_ticks).unwrap(),
                    sync_ticks: (0..sync).map(|n| n * gop * sample_ticks).collect(),
                    size_bytes: s.size_bytes,
                    first_sample_offset: 100,
                    first_sample_bytes: 10,
                },
                size_bytes: s.size_bytes,
                first_picture: is_video
                    .then_some(mp4::FirstPicture { is_idr: true, has_parameter_sets: false }),
            }
        });
        let init = mp4::InitSegment::for_test(kind, rendition.timescale, &rendition.codecs);
        (
            rendition.name.clone(),
            MeasuredRendition { init, init_sha256: String::new(), segments: segments.collect() },
        )
    });
    all.collect()
}

/// A cue that goes on from the first segment of 6 s to the second, and none in the others.
fn cues(segments: usize) -> MeasuredSubtitles {
    let cue = ReadCue { start_ms: 5_000, end_ms: 7_000, text: "x".into() };
    (0..segments).map(|index| if index < 2 { vec![cue.clone()] } else { Vec::new() }).collect()
}

struct Case {
    plan: EncodePlan,
    multivariant: String,
    playlists: BTreeMap<String, String>,
    manifest: String,
    measured: BTreeMap<String, MeasuredRendition>,
    subtitles: BTreeMap<String, MeasuredSubtitles>,
    iframes: BTreeMap<String, String>,
}

impl Case {
    fn new() -> Self {
        let (plan, parts) = build_subtitled_example();
        let mut presentation = Presentation::assemble(&plan, &parts).unwrap();
        let target = presentation.target_seconds();
        let measured = measured(&plan, &presentation);
        for video in &mut presentation.video {
            video.iframe_bytes = check::measure_iframes(&measured[&video.name]);
        }
        Self {
            iframes: presentation
                .video
                .iter()
                .map(|r| (r.name.clone(), playlist::render_iframes(r, target).unwrap()))
                .collect(),
            multivariant: playlist::render_multivariant(&presentation),
            playlists: presentation
                .listed_renditions()
                .map(|r| (r.name.clone(), playlist::render_media(r, target)))
                .collect(),
            manifest: mpd::render_manifest(&presentation).unwrap(),
            measured,
            subtitles: presentation
                .subtitles
                .iter()
                .map(|r| (r.name.clone(), cues(r.segments.len())))
                .collect(),
            plan,
        }
    }

    fn errors(&self) -> Vec<(ConformanceRule, String)> {
        let evidence = ConformanceInput {
            plan: &self.plan,
            multivariant: &self.multivariant,
            playlists: &self.playlists,
            manifest: &self.manifest,
            measured: &self.measured,
            subtitles: &self.subtitles,
            iframes: &self.iframes,
        };
        let findings = check::check_conformance(&evidence);
        findings
            .into_iter()
            .filter(|f| f.severity == FindingSeverity::Error)
            .map(|f| (f.rule, f.detail))
            .collect()
    }

    fn swap(&mut self, from: &str, to: &str) {
        assert!(self.multivariant.contains(from), "{from} is not in the multivariant playlist");
        self.multivariant = self.multivariant.replace(from, to);
    }

    fn swap_media(&mut self, name: &str, from: &str, to: &str) {
        let text = self.playlists.get_mut(name).unwrap();
        assert!(text.contains(from), "{from} is not in the playlist of {name}");
        *text = text.replacen(from, to, 1);
    }

    fn swap_manifest(&mut self, from: &str, to: &str) {
        assert!(self.manifest.contains(from), "{from} is not in the manifest");
        self.manifest = self.manifest.replacen(from, to, 1);
    }

    fn segment(&mut self, name: &str, index: usize) -> &mut MeasuredSegment {
        &mut self.measured.get_mut(name).unwrap().segments[index]
    }
}

#[test]
fn a_good_encode_passes() {
    assert_eq!(Case::new().errors(), []);
}

/// A change of a good encode is found by a rule.
fn assert_found(rule: ConformanceRule, what: &str, change: &dyn Fn(&mut Case)) {
    let mut case = Case::new();
    change(&mut case);
    let errors = case.errors();
    assert!(errors.iter().any(|(found, _)| *found == rule), "{what}: {rule:?} is not among {errors:?}");
}

#[test]
fn each_rule_of_playlists_finds_its_fault() {
    use ConformanceRule as Rule;
    let check = assert_found;
    check(Rule::A1, "not a playlist", &|c| c.multivariant = "hello".into());
    check(Rule::A1, "no independent segments", &|c| c.swap("#EXT-X-INDEPENDENT-SEGMENTS\n", ""));
    check(Rule::A1, "no average", &|c| c.swap(",AVERAGE-BANDWIDTH=", ",OTHER="));
    check(Rule::A1, "a foreign variant", &|c| c.swap("v360/index.m3u8", "v999/index.m3u8"));
    check(Rule::A2, "too low a bandwidth", &|c| c.swap("BANDWIDTH=", "BANDWIDTH=9"));
    check(Rule::A2, "larger segments", &|c| c.segment("v360", 9).size_bytes *= 3);
    check(Rule::A3, "another codec", &|c| c.swap("avc1.64001e", "avc1.64001f"));
    check(Rule::A3, "no audio codec", &|c| c.swap(",mp4a.40.2", ""));
    check(Rule::A4, "another size", &|c| c.swap("RESOLUTION=640x360", "RESOLUTION=642x360"));
    check(Rule::A4, "another rate", &|c| c.swap("FRAME-RATE=25.000", "FRAME-RATE=30.000"));
    check(Rule::A4, "a higher level than needed", &|c| {
        if let mp4::Mp4TrackKind::Video { level, .. } = &mut c.measured.get_mut("v234").unwrap().init.kind {
            *level = 51;
        }
    });
    check(Rule::A6, "not SDR", &|c| c.swap("VIDEO-RANGE=SDR", "VIDEO-RANGE=PQ"));
    check(Rule::A8, "still growing", &|c| c.swap_media("v360", "#EXT-X-ENDLIST\n", ""));
    check(Rule::A8, "event", &|c| c.swap_media("v360", "TYPE:VOD", "TYPE:EVENT"));
    check(Rule::A8, "another target", &|c| {
        c.swap_media("a0", "TARGETDURATION:6", "TARGETDURATION:8");
    });
    check(Rule::A8, "too long a segment", &|c| {
        c.swap_media("v234", "#EXTINF:6.000000", "#EXTINF:8.000000");
    });
    check(Rule::A8, "a low version", &|c| c.swap_media("v234", "VERSION:6", "VERSION:3"));
    check(Rule::A8, "a missing playlist", &|c| drop(c.playlists.remove("a0")));
    check(Rule::A9, "a wrong duration", &|c| {
        c.swap_media("v234", "#EXTINF:6.000000", "#EXTINF:6.050000");
    });
    check(Rule::A9, "a missing entry", &|c| {
        c.swap_media("v360", "#EXTINF:1.000000,\n11.m4s\n", "");
    });
}

#[test]
fn each_rule_of_iframes_finds_its_fault() {
    let check = |what, change: &dyn Fn(&mut Case)| assert_found(ConformanceRule::A7, what, change);
    check("not announced", &|c| c.swap("v234/iframes.m3u8", "v999/iframes.m3u8"));
    check("another codec", &|c| {
        c.swap(
            "CODECS=\"avc1.64000d\",RESOLUTION=416x234,VIDEO-RANGE",
            "CODECS=\"avc1.64000c\",RESOLUTION=416x234,VIDEO-RANGE",
        );
    });
    check("another bandwidth", &|c| {
        c.swap("I-FRAME-STREAM-INF:BANDWIDTH=", "I-FRAME-STREAM-INF:BANDWIDTH=9");
    });
    let swap = |c: &mut Case, from: &str, to: &str| {
        let text = c.iframes.get_mut("v234").unwrap();
        assert!(text.contains(from), "{from} is not in {text}");
        *text = text.replacen(from, to, 1);
    };
    check("a shorter range", &|c| swap(c, "BYTERANGE:110@0", "BYTERANGE:109@0"));
    check("a later range", &|c| swap(c, "BYTERANGE:110@0", "BYTERANGE:110@1"));
    check("not only I-frames", &|c| swap(c, "#EXT-X-I-FRAMES-ONLY\n", ""));
    check("another duration", &|c| swap(c, "#EXTINF:6.000000", "#EXTINF:5.000000"));
    check("another file", &|c| swap(c, "\n2.m4s", "\n3.m4s"));
    check("no playlist", &|c| drop(c.iframes.remove("v360")));
    check("a picture of another size", &|c| c.segment("v360", 3).fragment.first_sample_bytes += 1);
    let ranges = |c: &mut Case| c.swap_media("v234", "1.m4s", "#EXT-X-BYTERANGE:9@0\n1.m4s");
    assert_found(ConformanceRule::A8, "ranges of segments", &ranges);
}

#[test]
fn each_rule_of_subtitles_finds_its_fault() {
    use ConformanceRule as Rule;
    let check = assert_found;
    check(Rule::A14, "not announced", &|c| c.swap("TYPE=SUBTITLES", "TYPE=OTHER"));
    check(Rule::A14, "another language", &|c| c.swap("LANGUAGE=\"fr\"", "LANGUAGE=\"fre\""));
    check(Rule::A14, "not forced", &|c| c.swap("FORCED=YES", "FORCED=NO"));
    check(Rule::A14, "shown unasked", &|c| {
        c.swap("NAME=\"French\",DEFAULT=NO", "NAME=\"French\",DEFAULT=YES");
    });
    check(Rule::A14, "no group", &|c| c.swap(",SUBTITLES=\"subtitles\"\n", "\n"));
    check(Rule::A14, "one name twice", &|c| c.swap("NAME=\"French\"", "NAME=\"English\""));
    check(Rule::A14, "a cue of another time", &|c| {
        let cue = ReadCue { start_ms: 50_000, end_ms: 51_000, text: "x".into() };
        c.subtitles.get_mut("s1").unwrap()[4].push(cue);
    });
    check(Rule::A14, "a cue that is not repeated", &|c| c.subtitles.get_mut("s1").unwrap()[1].clear());
    check(Rule::A14, "a missing file", &|c| drop(c.subtitles.get_mut("s2").unwrap().pop()));
    check(Rule::A14, "nothing stored", &|c| drop(c.subtitles.remove("s2")));
    check(Rule::A8, "a missing playlist", &|c| drop(c.playlists.remove("s0")));
    check(Rule::A8, "another target", &|c| c.swap_media("s0", "TARGETDURATION:6", "TARGETDURATION:8"));
    check(Rule::A8, "too short", &|c| c.swap_media("s0", "#EXTINF:1.000000,\n11.vtt\n", ""));
    check(Rule::A8, "other files", &|c| c.swap_media("s0", "2.vtt", "2.m4s"));
    check(Rule::A12, "a map", &|c| {
        c.swap_media("s0", "#EXTINF", "#EXT-X-MAP:URI=\"init.mp4\"\n#EXTINF");
    });
    check(Rule::B17, "not in the manifest", &|c| c.swap_manifest("id=\"s0\"", "id=\"s9\""));
    check(Rule::B17, "no type", &|c| c.swap_manifest("text/vtt", "text/plain"));
}

#[test]
fn each_rule_of_segments_and_manifests_finds_its_fault() {
    use ConformanceRule as Rule;
    let check = assert_found;
    check(Rule::A10, "no IDR", &|c| {
        c.segment("v360", 4).first_picture =
            Some(mp4::FirstPicture { is_idr: false, has_parameter_sets: false });
    });
    check(Rule::A10, "parameter sets in the segment", &|c| {
        c.segment("v360", 4).first_picture =
            Some(mp4::FirstPicture { is_idr: true, has_parameter_sets: true });
    });
    check(Rule::A10, "an IDR too many", &|c| c.segment("v234", 0).fragment.sync_ticks.push(7));
    check(Rule::A11, "another boundary", &|c| {
        c.segment("v234", 1).fragment.start_ticks -= 512;
        c.segment("v234", 0).fragment.duration_ticks -= 512;
    });
    check(Rule::A12, "a gap", &|c| c.segment("a0", 5).fragment.start_ticks += 1024);
    check(Rule::A12, "a cut object", &|c| c.segment("a0", 5).size_bytes -= 1);
    check(Rule::A12, "a discontinuity", &|c| {
        c.swap_media("v360", "#EXTINF", "#EXT-X-DISCONTINUITY\n#EXTINF");
    });
    check(Rule::A12, "a second map", &|c| {
        c.swap_media("v360", "#EXTINF", "#EXT-X-MAP:URI=\"b.mp4\"\n#EXTINF");
    });
    check(Rule::A13, "no language", &|c| c.swap("LANGUAGE=\"en\",", ""));
    check(Rule::A13, "other channels", &|c| c.swap("CHANNELS=\"2\"", "CHANNELS=\"6\""));
    check(Rule::A13, "no group", &|c| c.swap(",AUDIO=\"audio\"", ""));
    check(Rule::A13, "sound off its boundary", &|c| {
        c.segment("a0", 0).fragment.duration_ticks += 2048;
        c.segment("a0", 1).fragment.start_ticks += 2048;
    });
    check(Rule::B17, "not XML", &|c| c.manifest = "<MPD><Period>".into());
    check(Rule::B17, "another bandwidth", &|c| c.swap_manifest("bandwidth=\"", "bandwidth=\"9"));
    check(Rule::B17, "another timeline", &|c| c.swap_manifest("r=\"9\"", "r=\"8\""));
    check(Rule::B17, "no alignment", &|c| c.swap_manifest("segmentAlignment=\"true\" ", ""));
    check(Rule::B17, "no language", &|c| c.swap_manifest(" lang=\"en\"", ""));
    check(Rule::B18, "no brand", &|c| c.measured.get_mut("a0").unwrap().init.brands.clear());
    check(Rule::B18, "an edit list", &|c| {
        c.measured.get_mut("v360").unwrap().init.edit_start_ticks = 1_024;
    });
}

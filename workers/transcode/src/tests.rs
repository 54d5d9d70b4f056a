//! Table tests of the check, against playlists and manifest, and of boxes, against real files.

use std::{collections::BTreeMap, path::Path, process::Command};

use packaging::{mpd, playlist, presentation::Presentation, testing::build_subtitled_example};
use schemas::job::EncodePlan;

use crate::{
    boxes,
    check::{
        self, ConformanceInput, ConformanceRule, FindingSeverity, MeasuredRendition, MeasuredSegment,
        MeasuredSubtitles, webvtt::ReadCue,
    },
};

/// What the store would hold if it held what the parts say.
fn measured(plan: &EncodePlan, presentation: &Presentation) -> BTreeMap<String, MeasuredRendition> {
    let gop = plan.video.as_ref().map_or(1, |v| u64::from(v.gop_frames) * u64::from(v.frame_rate.den));
    let all = presentation.renditions().map(|rendition| {
        let audio = boxes::Mp4TrackKind::Audio { channels: 2, sample_rate_hz: 48_000 };
        let kind = plan.video.iter().flat_map(|v| &v.rungs).find(|r| r.name == rendition.name).map_or(
            audio,
            |rung| boxes::Mp4TrackKind::Video {
                width: rung.width,
                height: rung.height,
                level: rung.level,
                length_bytes: 4,
                has_parameter_sets: true,
            },
        );
        let is_video = matches!(kind, boxes::Mp4TrackKind::Video { .. });
        let sample_ticks = if is_video { u64::from(rendition.timescale) / 25 } else { 1_024 };
        let segments = rendition.segments.iter().map(|s| {
            let sync = s.duration_ticks.div_ceil(gop * sample_ticks);
            MeasuredSegment {
                fragment: boxes::Mp4Fragment {
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
                    .then_some(boxes::FirstPicture { is_idr: true, has_parameter_sets: false }),
            }
        });
        let init = boxes::InitSegment::for_test(kind, rendition.timescale, &rendition.codecs);
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
        if let boxes::Mp4TrackKind::Video { level, .. } = &mut c.measured.get_mut("v234").unwrap().init.kind {
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
            Some(boxes::FirstPicture { is_idr: false, has_parameter_sets: false });
    });
    check(Rule::A10, "parameter sets in the segment", &|c| {
        c.segment("v360", 4).first_picture =
            Some(boxes::FirstPicture { is_idr: true, has_parameter_sets: true });
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

/// A fragmented file as FFmpeg makes it, cut into its init segment and its fragments.
fn real_file(folder: &Path, arguments: &[&str]) -> (Vec<u8>, Vec<Vec<u8>>) {
    let path = folder.join("file.mp4");
    let status = Command::new("ffmpeg")
        .args(["-v", "error", "-y", "-f", "lavfi", "-i"])
        .args(arguments)
        .args(["-movflags", "+cmaf+frag_keyframe+default_base_moof+skip_trailer", "-use_editlist", "0"])
        .arg(&path)
        .status()
        .unwrap();
    assert!(status.success());
    let bytes = std::fs::read(path).unwrap();
    let (mut init, mut fragments): (Vec<u8>, Vec<Vec<u8>>) = (Vec::new(), Vec::new());
    let mut at = 0;
    while at < bytes.len() {
        let size = usize::try_from(u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())).unwrap();
        let (kind, atom) = (&bytes[at + 4..at + 8], &bytes[at..at + size]);
        match kind {
            b"ftyp" | b"moov" => init.extend(atom),
            b"moof" => fragments.push(atom.to_vec()),
            b"mdat" => fragments.last_mut().unwrap().extend(atom),
            _ => {}
        }
        at += size;
    }
    (init, fragments)
}

#[test]
fn real_video_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = [
        "testsrc2=size=320x180:rate=25:duration=5",
        "-pix_fmt",
        "yuv420p",
        "-c:v",
        "libx264",
        "-g",
        "50",
        "-sc_threshold",
        "0",
        "-level:v",
        "1.3",
        "-profile:v",
        "high",
    ];
    let (init, fragments) = real_file(folder.path(), &encoder);
    let read = boxes::read_init_segment(&init).unwrap();
    assert_eq!((read.codecs.as_str(), read.timescale, read.edit_start_ticks), ("avc1.64000d", 12_800, 0));
    assert!(read.brands.iter().any(|b| b == "cmfc"), "{:?}", read.brands);
    let boxes::Mp4TrackKind::Video { width, height, level, length_bytes, has_parameter_sets } = read.kind
    else {
        panic!("no video")
    };
    assert_eq!((width, height, level, length_bytes, has_parameter_sets), (320, 180, 13, 4, true));
    let mut next = 0;
    for (bytes, samples) in fragments.iter().zip([50, 50, 25]) {
        let fragment = boxes::read_fragment(&read, bytes).unwrap();
        assert_eq!(
            (fragment.start_ticks, fragment.sample_count, fragment.duration_ticks),
            (next, samples, 512 * u64::try_from(samples).unwrap())
        );
        assert_eq!(
            (fragment.sync_ticks.as_slice(), fragment.size_bytes),
            ([0].as_slice(), u64::try_from(bytes.len()).unwrap())
        );
        let picture =
            boxes::read_first_picture(&bytes[fragment.first_sample_offset..], length_bytes).unwrap();
        assert_eq!(picture, boxes::FirstPicture { is_idr: true, has_parameter_sets: false });
        next += fragment.duration_ticks;
    }
    assert_eq!(fragments.len(), 3);
}

#[test]
fn real_audio_is_read() {
    let folder = tempfile::tempdir().unwrap();
    let (init, fragments) = real_file(
        folder.path(),
        &["sine=duration=2:sample_rate=48000", "-ac", "2", "-c:a", "aac", "-frag_duration", "1000000"],
    );
    let read = boxes::read_init_segment(&init).unwrap();
    assert_eq!((read.codecs.as_str(), read.timescale), ("mp4a.40.2", 48_000));
    assert_eq!(read.kind, boxes::Mp4TrackKind::Audio { channels: 2, sample_rate_hz: 48_000 });
    assert!(!fragments.is_empty());
    for bytes in &fragments {
        let fragment = boxes::read_fragment(&read, bytes).unwrap();
        assert_eq!(fragment.size_bytes, u64::try_from(bytes.len()).unwrap());
    }
}

#[test]
fn damaged_files_are_refused_and_never_crash() {
    let folder = tempfile::tempdir().unwrap();
    let encoder = ["testsrc2=size=64x64:rate=25:duration=1", "-pix_fmt", "yuv420p", "-c:v", "libx264"];
    let (init, fragments) = real_file(folder.path(), &encoder);
    let read = boxes::read_init_segment(&init).unwrap();
    let good = boxes::read_fragment(&read, &fragments[0]).unwrap();
    for length in 0..init.len() {
        assert!(boxes::read_init_segment(&init[..length]).is_err(), "init cut at {length}");
    }
    for length in 0..good.first_sample_offset {
        assert!(boxes::read_fragment(&read, &fragments[0][..length]).is_err(), "segment cut at {length}");
    }
    // Every byte changed in turn: refused or read, but always an answer.
    let mut answers = 0;
    for at in 0..init.len() {
        let mut bytes = init.clone();
        bytes[at] ^= 0xff;
        answers += usize::from(
            boxes::read_init_segment(&bytes).is_ok() || boxes::read_init_segment(&bytes).is_err(),
        );
    }
    for at in 0..good.first_sample_offset {
        let mut bytes = fragments[0].clone();
        bytes[at] ^= 0xff;
        answers += usize::from(
            boxes::read_fragment(&read, &bytes).is_ok_and(|f| f.sample_count > boxes::SAMPLES_MAX),
        );
    }
    assert_eq!(answers, init.len());
    assert!(boxes::read_first_picture(&[0, 0, 0, 200, 0x65], 4).is_ok_and(|p| p.is_idr));
    for sample in [&[][..], &[0, 0, 0], &[0, 0, 0, 0, 9], &[0, 0, 0, 200, 6], &[0xff; 4]] {
        assert!(boxes::read_first_picture(sample, 4).is_err(), "{sample:?}");
    }
}

//! Subtitles of a source are read and shown: each kind of track, by the text and the times that players get, and in a browser.

use std::fmt::Write as _;

use reqwest::{Method, header};
use serde_json::{Value, json};

use crate::{
    browser,
    flow::{playback, text},
    harness::{Cluster, Options, clip},
};

/// Segments of the tests' profile, in seconds.
const SEGMENT_SECONDS: f64 = 2.0;

/// A cue: from, until, in seconds, and its text as WebVTT.
type Cue = (f64, f64, &'static str);

/// The second one goes on from the first segment to the second, the third goes on to the last.
const CUES: [Cue; 4] = [
    (0.5, 1.5, "One"),
    (1.75, 2.5, "<i>Two</i> &amp; a half\nof it"),
    (3.0, 7.0, "Three"),
    (7.2, 7.9, "Vier – fünf"),
];

/// The cues as `SubRip`; its mark-up for a less-than sign is the sign itself.
fn subrip(cues: &[Cue]) -> String {
    let time = |seconds: f64| {
        let ms = (seconds * 1_000.0).round();
        format!(
            "{:02}:{:02}:{:02},{:03}",
            0,
            (ms / 60_000.0).floor(),
            (ms / 1_000.0).floor() % 60.0,
            ms % 1_000.0
        )
    };
    let mut file = String::new();
    for (number, (from, until, text)) in cues.iter().enumerate() {
        let text = text.replace("&amp;", "&").replace("&lt;", "<").replace("&gt;", ">");
        writeln!(file, "{}\n{} --> {}\n{text}\n", number + 1, time(*from), time(*until)).unwrap();
    }
    file
}

/// A film of eight seconds with subtitle files as tracks; `options` choose codecs and say what the tracks are.
fn film(name: &str, files: &[&str], options: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let (video, audio) =
        ("testsrc2=size=160x90:rate=25:duration=8", "sine=frequency=440:duration=8:sample_rate=48000");
    let mut args: Vec<String> =
        ["-f", "lavfi", "-i", video, "-f", "lavfi", "-i", audio].map(str::to_owned).into();
    for (number, file) in files.iter().enumerate() {
        let extension = if file.starts_with("[Script") { "ass" } else { "srt" };
        let path = folder.path().join(format!("{number}.{extension}"));
        std::fs::write(&path, file).unwrap();
        args.extend(["-i".to_owned(), path.display().to_string()]);
    }
    args.extend((0..files.len() + 2).flat_map(|input| ["-map".to_owned(), input.to_string()]));
    args.extend(options.split_whitespace().map(str::to_owned));
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    clip(&args, name.rsplit('.').next().unwrap())
}

const X264: &str = "-c:v libx264 -preset ultrafast -pix_fmt yuv420p -c:a aac";

const ASS: &str = "[Script Info]\nScriptType: v4.00+\n\n[V4+ Styles]\nFormat: Name, Fontname, Fontsize, PrimaryColour, SecondaryColour, OutlineColour, BackColour, Bold, Italic, Underline, StrikeOut, ScaleX, ScaleY, Spacing, Angle, BorderStyle, Outline, Shadow, Alignment, MarginL, MarginR, MarginV, Encoding\nStyle: Default,Arial,20,&H00FFFFFF,&H000000FF,&H00000000,&H00000000,0,0,0,0,100,100,0,0,1,2,2,2,10,10,10,1\n\n[Events]\nFormat: Layer, Start, End, Style, Name, MarginL, MarginR, MarginV, Effect, Text\nDialogue: 0,0:00:00.50,0:00:01.50,Default,,0,0,0,,{\\an8\\c&H0000FF&}One, {\\b1}bold{\\b0}\\Ntwo\nDialogue: 1,0:00:00.50,0:00:01.50,Default,,0,0,0,,{\\an8\\c&H0000FF&}One, {\\b1}bold{\\b0}\\Ntwo\nDialogue: 0,0:00:03.00,0:00:07.00,Default,,0,0,0,,{\\p1}m 0 0 l 9 9{\\p0}\nDialogue: 0,0:00:03.00,0:00:07.00,Default,,0,0,0,,Three\n";

/// A frame of the tests' pictures, in seconds: sound that begins before the picture moves all by less.
const FRAME_SECONDS: f64 = 0.04;

/// A cue as it is served: from, until, in seconds, whether it is at the top, and its text.
type ServedCue = (f64, f64, bool, String);

/// The cues of a WebVTT file.
fn cues_of(file: &str) -> Vec<ServedCue> {
    let number = |time: &str, place: std::ops::Range<usize>| time.get(place).unwrap().parse::<f64>().unwrap();
    let seconds = |time: &str| number(time, 3..5) * 60.0 + number(time, 6..12);
    let cue = |block: &str| {
        let (times, text) = block.split_once('\n').unwrap();
        let (from, rest) = times.split_once(" --> ").unwrap();
        (seconds(from), seconds(rest), rest.ends_with(" line:0"), text.to_owned())
    };
    file.trim_end().split("\n\n").skip(1).map(cue).collect()
}

fn served(cues: &[Cue]) -> Vec<ServedCue> {
    cues.iter().map(|(from, until, text)| (*from, *until, false, (*text).to_owned())).collect()
}

fn check_same(found: &[ServedCue], wanted: &[ServedCue], what: &str) {
    let is_same = |(found, wanted): (&ServedCue, &ServedCue)| {
        (found.0 - wanted.0).abs() < FRAME_SECONDS
            && (found.1 - wanted.1).abs() < FRAME_SECONDS
            && (found.2, &found.3) == (wanted.2, &wanted.3)
    };
    let same = found.len() == wanted.len() && found.iter().zip(wanted).all(is_same);
    assert!(same, "{what}: {found:?} instead of {wanted:?}");
}

async fn session(cluster: &Cluster, media_id: &str) -> String {
    playback(cluster, media_id).await["hls_url"].as_str().unwrap().to_owned()
}

/// Reads a rendition as a player does: each segment holds the cues that are shown in its time, whole.
async fn check_rendition(cluster: &Cluster, master: &str, name: &str, wanted: &[ServedCue], what: &str) {
    let at = |path: &str| master.replace("master.m3u8", &format!("{name}/{path}"));
    let playlist = text(cluster, &at("index.m3u8")).await;
    let segments: Vec<&str> = playlist.lines().filter(|line| !line.starts_with('#')).collect();
    // Sound that is a little longer than the picture makes it a frame longer.
    let planned = ["1.vtt", "2.vtt", "3.vtt", "4.vtt", "5.vtt"];
    assert!(segments == planned[..4] || segments == planned, "{what}: {playlist}");
    assert!(!playlist.contains("EXT-X-MAP") && playlist.ends_with("#EXT-X-ENDLIST\n"), "{playlist}");
    for (index, segment) in segments.iter().enumerate() {
        let file = text(cluster, &at(segment)).await;
        assert!(file.starts_with("WEBVTT\nX-TIMESTAMP-MAP=MPEGTS:0,LOCAL:00:00:00.000\n"), "{file}");
        let (start, end) = (index as f64 * SEGMENT_SECONDS, (index + 1) as f64 * SEGMENT_SECONDS);
        let shown: Vec<ServedCue> =
            wanted.iter().filter(|cue| cue.0 < end && cue.1 > start).cloned().collect();
        check_same(&cues_of(&file), &shown, &format!("{what} {name}/{segment}"));
    }
    check_same(&cues_of(&text(cluster, &at("subtitles.vtt")).await), wanted, &format!("{what} {name}"));
}

async fn ready(cluster: &mut Cluster, bytes: Vec<u8>, name: &str) -> String {
    let media_id = cluster.upload(bytes, name).await;
    let end = cluster.end_of(&media_id).await;
    assert_eq!(end.kind, "job.succeeded", "{name}: {end:?}");
    media_id
}

#[tokio::test]
async fn every_kind_of_text_track_is_shown_when_it_was() {
    let mut cluster = Cluster::start(Options::default()).await;
    let plain = subrip(&CUES);
    for (name, options) in [
        ("text.mp4", format!("{X264} -c:s mov_text")),
        ("text.mov", format!("{X264} -c:s mov_text")),
        ("subrip.mkv", format!("{X264} -c:s srt")),
        ("ass.mkv", format!("{X264} -c:s ass")),
        (
            "webvtt.webm",
            "-c:v libvpx -b:v 200k -deadline realtime -cpu-used 8 -c:a libopus -c:s webvtt".into(),
        ),
        ("late.mkv", format!("{X264} -c:s srt -output_ts_offset 5")),
    ] {
        let media_id = ready(&mut cluster, film(name, &[&plain], &options), name).await;
        let master = session(&cluster, &media_id).await;
        let multivariant = text(&cluster, &master).await;
        assert_eq!(multivariant.matches("TYPE=SUBTITLES").count(), 1, "{name}: {multivariant}");
        check_rendition(&cluster, &master, "s0", &served(&CUES), name).await;
    }
    let media_id =
        ready(&mut cluster, film("styled.mkv", &[ASS], &format!("{X264} -c:s ass")), "styled.mkv").await;
    let master = session(&cluster, &media_id).await;
    let wanted =
        [(0.5, 1.5, true, "One, <b>bold</b>\ntwo".to_owned()), (3.0, 7.0, false, "Three".to_owned())];
    check_rendition(&cluster, &master, "s0", &wanted, "styled.mkv").await;
}

#[tokio::test]
async fn tracks_keep_language_name_and_purpose_and_what_has_no_text_is_left_out() {
    let mut cluster = Cluster::start(Options::default()).await;
    let plain = subrip(&CUES);
    let (styles, _) = ASS.split_once("Dialogue:").unwrap();
    let empty =
        format!("{styles}Dialogue: 0,0:00:03.00,0:00:07.00,Default,,0,0,0,,{{\\p1}}m 0 0 l 9 9{{\\p0}}\n");
    let options = format!(
        "{X264} -c:s srt -metadata:s:s:0 language=fre -metadata:s:s:1 language=eng -metadata:s:s:1 title=Comments \
         -disposition:s:1 hearing_impaired -metadata:s:s:2 language=ger -disposition:s:2 forced -c:s:3 ass"
    );
    let media_id =
        ready(&mut cluster, film("many.mkv", &[&plain, &plain, &plain, &empty], &options), "many.mkv").await;
    let master = session(&cluster, &media_id).await;
    let multivariant = text(&cluster, &master).await;
    for line in [
        "LANGUAGE=\"fr\",NAME=\"French\",DEFAULT=NO,AUTOSELECT=YES,FORCED=NO,URI=\"s0/index.m3u8\"",
        "LANGUAGE=\"en\",NAME=\"Comments\",DEFAULT=NO,AUTOSELECT=YES,FORCED=NO,CHARACTERISTICS=\"public.accessibility.",
        "LANGUAGE=\"de\",NAME=\"German\",DEFAULT=NO,AUTOSELECT=YES,FORCED=YES,URI=\"s2/index.m3u8\"",
    ] {
        assert!(multivariant.contains(line), "{line} is not in {multivariant}");
    }
    assert_eq!(multivariant.matches("TYPE=SUBTITLES").count(), 3, "{multivariant}");
    let document = cluster.get(&format!("/v1/media/{media_id}")).await;
    let page = format!("{}/watch/{media_id}", cluster.url);
    let shown = browser::shows_warnings(&page, &cluster.key).await;
    assert_eq!(shown, ["subtitle_track_empty track 5: Track 4"], "{document}");
    let names: Vec<&str> = document["encode"]["subtitles"]
        .as_array()
        .unwrap()
        .iter()
        .map(|subtitles| subtitles["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["s0", "s1", "s2"], "{document}");
}

#[tokio::test]
async fn a_browser_shows_them_clear_and_encrypted() {
    let mut cluster = Cluster::start(Options::default()).await;
    let options = format!("{X264} -c:s mov_text -metadata:s:s:0 language=eng");
    let media_id = ready(&mut cluster, film("text.mp4", &[&subrip(&CUES)], &options), "text.mp4").await;
    for encryption in ["none", "aes_128"] {
        let patch = cluster.request(Method::PATCH, &format!("/v1/media/{media_id}"));
        let body: Value = json!({ "encryption": encryption });
        let changed = patch.header(header::IF_MATCH, "*").json(&body).send().await.unwrap();
        assert!(changed.status().is_success(), "{}", changed.text().await.unwrap());
        let session = playback(&cluster, &media_id).await;
        let page = format!("{}/watch/{media_id}#token={}", cluster.url, session["token"].as_str().unwrap());
        let shown = browser::shows_subtitles(&page, "English", &[1.0, 2.2, 6.5, 7.1]).await;
        assert_eq!(shown, ["One", "Two & a half\nof it", "Three", ""], "{encryption}");
        if encryption == "aes_128" {
            let master = session["hls_url"].as_str().unwrap();
            let segment =
                cluster.http.get(format!("{}{}", cluster.url, master.replace("master.m3u8", "s0/1.vtt")));
            let bytes = segment.send().await.unwrap().bytes().await.unwrap();
            assert!(!bytes.starts_with(b"WEBVTT"), "a clear segment of an encrypted medium");
            let whole = master.replace("master.m3u8", "s0/subtitles.vtt");
            let whole = cluster.http.get(format!("{}{whole}", cluster.url)).send().await.unwrap();
            assert_eq!(whole.status(), 404, "clear subtitles of an encrypted medium");
        }
    }
}

use proptest::prelude::*;
use schemas::captions::CaptionKind;

use super::{
    served::{find_attribute, find_xml_attribute, kind_of, subtitle_attributes},
    *,
};
use crate::{mpd, playlist, presentation::Presentation, testing::build_subtitled_example};

const LIMITS: CaptionLimits = CaptionLimits { bytes_max: 100_000, cue_count_max: 1_000 };

fn read(text: &str, format: CaptionFormat) -> Result<String, CaptionFileError> {
    CaptionFile::parse(text.as_bytes(), format, LIMITS).map(|file| file.render())
}

fn cue(text: &str) -> String {
    let file = format!("WEBVTT\n\n00:01.000 --> 00:02.000\n{text}\n");
    let written = read(&file, CaptionFormat::WebVtt).unwrap();
    written.strip_prefix("WEBVTT\n\n00:00:01.000 --> 00:00:02.000\n").unwrap().trim_end().to_owned()
}

#[test]
fn what_is_no_file_of_captions_is_refused_where_it_is_wrong() {
    let at = "00:01.000 --> 00:02.000";
    let many = format!("WEBVTT\n\n{}", format!("{at}\nx\n\n").repeat(1_001));
    let long = format!("WEBVTT\n\n00:00.000 --> 20:00:00.000\n{}\n", "x".repeat(4_000));
    let escaped = (0..30).map(|n| format!("00:{n:02}.000 --> 00:59.000\n{}\n\n", "&".repeat(800)));
    let escaped = format!("WEBVTT\n\n{}", escaped.collect::<String>());
    for (text, line, fault) in [
        ("", Some(1), CaptionFault::HeaderMissing),
        ("WEBVTTX\n", Some(1), CaptionFault::HeaderMissing),
        (" WEBVTT\n", Some(1), CaptionFault::HeaderMissing),
        ("\nWEBVTT\n", Some(1), CaptionFault::HeaderMissing),
        ("WEBVTT\n", None, CaptionFault::Empty),
        (&format!("WEBVTT\n{at}\nx\n"), Some(2), CaptionFault::SeparatorMissing),
        ("WEBVTT\n\nhello\n", Some(3), CaptionFault::TimingMissing),
        (&format!("WEBVTT\n\na\nb\n{at}\nx\n"), Some(3), CaptionFault::TimingMissing),
        ("WEBVTT\n\n1 --> 2\nx\n", Some(3), CaptionFault::TimingInvalid),
        ("WEBVTT\n\n00:61.000 --> 02:00.000\nx\n", Some(3), CaptionFault::TimingInvalid),
        ("WEBVTT\n\n00:01.000 --> 99999999999999999999:00:00.000\nx\n", Some(3), CaptionFault::TimingInvalid),
        ("WEBVTT\n\n00:02.000 --> 00:02.000\nx\n", Some(3), CaptionFault::EndsEarly),
        (&format!("WEBVTT\n\n{at}\nx\n{at}\ny\n"), Some(5), CaptionFault::SeparatorMissing),
        (&format!("WEBVTT\n\n{at}\n{}\n", "x".repeat(4_097)), Some(3), CaptionFault::TextTooLong),
        (&many, Some(3_003), CaptionFault::CuesTooMany { cue_count_max: 1_000 }),
        (&"x".repeat(100_001), None, CaptionFault::TooLarge { bytes_max: 100_000 }),
        (&escaped, None, CaptionFault::TooLarge { bytes_max: 100_000 }),
        (&long, None, CaptionFault::CuesTooLong),
        ("WEBVTT\n\n00:01.000 --> 00:02.000\n<i> </i>\n", None, CaptionFault::Empty),
    ] {
        let refused = read(text, CaptionFormat::WebVtt).unwrap_err();
        assert_eq!(refused, CaptionFileError { fault, line }, "{:?}", text.get(..60));
    }
    let bytes = |bytes: &[u8]| CaptionFile::parse(bytes, CaptionFormat::WebVtt, LIMITS).unwrap_err();
    assert_eq!(bytes(b"WEBVTT\n\n\xe4").to_string(), format!("line 3: {}", CaptionFault::NotUtf8));
    assert_eq!(bytes(b"\xff\xfeW\0").fault, CaptionFault::Utf16);
}

#[test]
fn a_file_is_written_anew() {
    let file = "\u{feff}WEBVTT a film\nKind: captions\n\nSTYLE\n::cue { background: url(https://a.example/x) }\n\nREGION\nid:r\n\nNOTE to me\n\n\
                second\r\n01:00:00.000 --> 01:00:01.500 line:-1,start position:10% align:left region:r line:2 evil:<x>\r\n- One\r\n- Two\r\n\r\n\
                00:01.000 --> 00:02.000\nfirst\n";
    let written = read(file, CaptionFormat::WebVtt).unwrap();
    assert_eq!(
        written,
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.000\nfirst\n\n01:00:00.000 --> 01:00:01.500 line:-1,start position:10% align:left\n- One\n- Two\n"
    );
    assert_eq!(read(&written, CaptionFormat::WebVtt).unwrap(), written);
}

#[test]
fn a_file_of_subrip_is_read_as_players_of_it_do() {
    let file = "1\r\n00:00:01,000 --> 00:00:02,500 X1:10 X2:20\r\n<I>Sea</I> & <font color=\"red\">sand</font>\r\n\r\n2\r\n0:00:03.000 --> 0:00:04.000\r\n{\\an8}Up 1 < 2 <3\r\n";
    assert_eq!(CaptionFormat::sniff(file.as_bytes()), CaptionFormat::SubRip);
    assert_eq!(
        read(file, CaptionFormat::SubRip).unwrap(),
        "WEBVTT\n\n00:00:01.000 --> 00:00:02.500\n<i>Sea</i> &amp; sand\n\n00:00:03.000 --> 00:00:04.000 line:0\nUp 1 &lt; 2 &lt;3\n"
    );
    for (text, line, fault) in [
        ("1\n00:00:01,000 --> 00:00:02,500\na\n\nb\n", Some(5), CaptionFault::TimingMissing),
        ("1\n00:00:01,00 --> 00:00:02,500\na\n", Some(2), CaptionFault::TimingInvalid),
        ("", None, CaptionFault::Empty),
    ] {
        assert_eq!(read(text, CaptionFormat::SubRip).unwrap_err(), CaptionFileError { fault, line });
    }
}

#[test]
fn of_mark_up_players_get_what_they_know() {
    for (text, wanted) in [
        ("<b>a<i>b</b>c", "<b>a<i>bc</i></b>"),
        ("<v Ann \"x\" & Bo>Hi", "<v Ann \"x\" Bo>Hi</v>"),
        ("<c.yellow.bg_blue.\"x>Hi</c>", "<c.yellow.bg_blue>Hi</c>"),
        ("<lang en-GB>Hi</lang>", "<lang en-GB>Hi</lang>"),
        ("<ruby>a<rt>b</ruby>c", "<ruby>a<rt>b</rt></ruby>c"),
        ("a<00:01.500>b<99>c", "a<00:00:01.500>bc"),
        ("<script>alert(1)</script>", "alert(1)"),
        ("<img src=x onerror=alert(1)>x", "x"),
        // The first is a tag that nobody knows.
        ("a < b > c -> d", "a  c -&gt; d"),
        ("1 < 2", "1 &lt; 2"),
        (
            "R&D &amp; &lt;b&gt; &nbsp;x &bogus; &#60;i&#x3e; &#0;",
            "R&amp;D &amp; &lt;b&gt; &nbsp;x &amp;bogus; &lt;i&gt; \u{fffd}",
        ),
        ("</i>a</b>", "a"),
        ("\u{7}a\tb\u{85}", "a b"),
    ] {
        assert_eq!(cue(text), wanted, "{text:?}");
    }
    assert_eq!(cue(&format!("{}x", "<i>".repeat(40))), format!("{}x{}", "<i>".repeat(16), "</i>".repeat(16)));
}

fn track<'a>(name: &'a str, language: &'a str, kind: CaptionKind, label: &str) -> ServedCaptions<'a> {
    ServedCaptions { name, language, kind, label: label.to_owned(), size_bytes: 1_000 }
}

#[test]
fn a_track_takes_the_place_of_that_of_the_file() {
    let (plan, parts) = build_subtitled_example();
    let made = Presentation::assemble(&plan, &parts).unwrap();
    let stored = playlist::render_multivariant(&made);
    let of_file: Vec<&str> = stored.lines().filter(|line| line.contains("TYPE=SUBTITLES")).collect();
    assert!(!of_file.is_empty(), "{stored}");
    let first = subtitle_attributes(of_file[0]).unwrap();
    let (language, kind) = (find_attribute(&first, "LANGUAGE").unwrap(), kind_of(&first));
    let label = find_attribute(&first, "NAME").unwrap();
    let own = [track("cabc", language, kind, label), track("cdef", "fr", CaptionKind::Captions, "A \"b\"")];
    let served = add_to_multivariant(&stored, &own, keys_of);
    assert!(!served.contains(of_file[0]), "{served}");
    assert_eq!(served.matches("TYPE=SUBTITLES").count(), of_file.len() + 1);
    assert!(
        served
            .contains("LANGUAGE=\"fr\",NAME=\"A 'b'\",DEFAULT=NO,AUTOSELECT=YES,FORCED=NO,CHARACTERISTICS="),
        "{served}"
    );
    assert!(served.contains("URI=\"cabc/index.m3u8\""), "{served}");
    let variants = served.lines().filter(|line| line.starts_with(VARIANT));
    assert!(
        variants.clone().count() > 0
            && variants.into_iter().all(|line| line.matches("SUBTITLES=\"subtitles\"").count() == 1)
    );

    let manifest = mpd::render_manifest(&made).unwrap();
    let sets = |text: &str| text.matches("contentType=\"text\"").count();
    let with = add_to_manifest(&manifest, &own, 60_000).unwrap();
    assert_eq!(sets(&with), sets(&manifest) + 1, "{with}");
    assert!(
        with.contains("<BaseURL>cabc/subtitles.vtt</BaseURL>")
            && with.contains("<Label>A &quot;b&quot;</Label>"),
        "{with}"
    );
    let ids: Vec<&str> = with.lines().filter_map(|line| find_id(line)).collect();
    assert!(ids.windows(2).all(|pair| pair[0] != pair[1]) && ids.len() > 3, "{ids:?}");
    assert_eq!(add_to_manifest(&manifest, &[], 60_000).unwrap(), manifest);
}

const VARIANT: &str = "#EXT-X-STREAM-INF:";

fn keys_of(name: &str) -> String {
    schemas::keys::media_playlist_path(name)
}

fn find_id(line: &str) -> Option<&str> {
    line.starts_with("    <AdaptationSet ").then(|| find_xml_attribute(line, "id"))?
}

#[test]
fn a_track_has_the_segments_of_the_picture() {
    let (plan, parts) = build_subtitled_example();
    let made = Presentation::assemble(&plan, &parts).unwrap();
    let pictures = playlist::render_media(&made.video[0], made.target_seconds());
    let texts = playlist::render_media(&made.subtitles[0], made.target_seconds());
    assert_eq!(render_text_playlist(&pictures), texts);
}

#[test]
fn names_stay_apart() {
    let text = "#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1,CODECS=\"a,b\"\nv/index.m3u8\n";
    let own = [
        track("c1", "en", CaptionKind::Subtitles, "English"),
        track("c2", "en", CaptionKind::Captions, "English"),
        track("c3", "en", CaptionKind::Forced, "x\",FORCED=YES"),
    ];
    let served = add_to_multivariant(text, &own, keys_of);
    let names: Vec<Vec<(&str, &str)>> = served.lines().filter_map(subtitle_attributes).collect();
    let all = |name: &str| names.iter().map(|one| find_attribute(one, name).unwrap()).collect::<Vec<_>>();
    assert_eq!(all("NAME"), ["English", "English 2", "x',FORCED=YES"]);
    assert_eq!(all("AUTOSELECT"), ["YES", "NO", "YES"]);
    assert!(served.contains("CODECS=\"a,b\",SUBTITLES=\"subtitles\"\nv/index.m3u8\n"), "{served}");
}

#[test]
fn a_track_that_takes_the_place_of_one_is_chosen_by_players_in_its_stead() {
    let of_file = |name: &str, autoselect: &str, more: &str| {
        format!(
            "#EXT-X-MEDIA:TYPE=SUBTITLES,GROUP-ID=\"subtitles\",LANGUAGE=\"de\",NAME=\"{name}\",DEFAULT=NO,AUTOSELECT={autoselect},FORCED=NO{more},URI=\"x\"\n"
        )
    };
    let sdh = ",CHARACTERISTICS=\"public.accessibility.describes-music-and-sound\"";
    let tracks = of_file("Deutsch", "YES", "") + &of_file("Deutsch SDH", "NO", sdh);
    let text = format!("#EXTM3U\n{tracks}#EXT-X-STREAM-INF:BANDWIDTH=1\nv/index.m3u8\n");
    let served = add_to_multivariant(&text, &[track("c1", "de", CaptionKind::Subtitles, "Deutsch")], keys_of);
    let names: Vec<Vec<(&str, &str)>> = served.lines().filter_map(subtitle_attributes).collect();
    let all = |name: &str| names.iter().map(|one| find_attribute(one, name).unwrap()).collect::<Vec<_>>();
    assert_eq!(all("NAME"), ["Deutsch SDH", "Deutsch"]);
    assert_eq!(all("AUTOSELECT"), ["NO", "YES"]);
}

proptest! {
    #[test]
    fn what_was_written_reads_the_same(text in "\\PC{0,80}", more in "(<[a-z/.]{0,6}>|&[a-z#0-9]{0,6};|\\{|-->|\n|x){0,30}") {
        for format in [CaptionFormat::WebVtt, CaptionFormat::SubRip] {
            let header = if format == CaptionFormat::WebVtt { "WEBVTT\n\n" } else { "" };
            let file = format!("{header}00:00:01.000 --> 00:00:02.000\n{text}{more}\n");
            if let Ok(written) = read(&file, format) {
                let again = read(&written, CaptionFormat::WebVtt);
                prop_assert_eq!(again.as_deref(), Ok(written.as_str()));
                prop_assert_eq!(written.matches("-->").count(), 1);
            }
        }
    }

    #[test]
    fn any_bytes_are_answered(bytes in prop::collection::vec(any::<u8>(), 0..300)) {
        for format in [CaptionFormat::WebVtt, CaptionFormat::SubRip] {
            let _answered = CaptionFile::parse(&bytes, format, LIMITS);
        }
    }
}

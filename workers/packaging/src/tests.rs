//! Table tests: playlists and manifest of a whole encode and of one that grows.

use std::collections::BTreeMap;

use schemas::job::{JobPartRecord, JobPartStatus};

use crate::{
    EncodeProfile, mpd, plan, playlist,
    presentation::Presentation,
    testing::{
        build_example, build_finished_parts, build_plan, build_subtitled_example, build_subtitles,
        build_technical,
    },
};

#[test]
fn final_playlists_and_manifest() {
    let (plan, parts) = build_example();
    let presentation = Presentation::assemble(&plan, &parts).unwrap();
    let target = presentation.target_seconds();
    insta::assert_snapshot!("multivariant", playlist::render_multivariant(&presentation));
    insta::assert_snapshot!("media_video", playlist::render_media(&presentation.video[0], target));
    insta::assert_snapshot!("media_audio", playlist::render_media(&presentation.audio[0], target));
    insta::assert_snapshot!("manifest", mpd::render_manifest(&presentation).unwrap());
}

#[test]
fn audio_only_playlists_and_manifest() {
    let mut technical = build_technical(20, 640, 360);
    technical.video.clear();
    let plan = build_plan(&technical, &EncodeProfile::default());
    let presentation = Presentation::assemble(&plan, &build_finished_parts(&plan)).unwrap();
    insta::assert_snapshot!("audio_only", playlist::render_multivariant(&presentation));
    insta::assert_snapshot!("audio_only_manifest", mpd::render_manifest(&presentation).unwrap());
}

#[test]
fn subtitles_are_listed_by_language_and_as_long_as_the_picture() {
    let (plan, parts) = build_subtitled_example();
    let presentation = Presentation::assemble(&plan, &parts).unwrap();
    let target = presentation.target_seconds();
    insta::assert_snapshot!("subtitles_multivariant", playlist::render_multivariant(&presentation));
    insta::assert_snapshot!("subtitles_media", playlist::render_media(&presentation.subtitles[0], target));
    insta::assert_snapshot!("subtitles_manifest", mpd::render_manifest(&presentation).unwrap());
    // Sound alone: multiples of its segments, up to its last frame.
    let mut technical = build_technical(20, 640, 360);
    technical.video.clear();
    technical.subtitles = build_subtitles();
    let plan = build_plan(&technical, &EncodeProfile::default());
    let presentation = Presentation::assemble(&plan, &build_finished_parts(&plan)).unwrap();
    let text = &presentation.subtitles[0];
    assert_eq!(text.duration_ticks() / 48_000, 20);
    assert_eq!(text.segments.len(), 4);
    let multivariant = playlist::render_multivariant(&presentation);
    assert!(multivariant.contains(",SUBTITLES=\"subtitles\"\na0/index.m3u8\n"), "{multivariant}");
}

#[test]
fn subtitles_come_when_they_are_there_and_hold_nothing_up() {
    let (plan, parts) = build_subtitled_example();
    let without: Vec<JobPartRecord> = parts.iter().filter(|p| p.part != plan::SUBTITLES).cloned().collect();
    let growing = playlist::render_growing_multivariant(&plan, &without).unwrap();
    assert!(!growing.contains("SUBTITLES"), "{growing}");
    let picture = playlist::render_event(&plan, &without, "v360").unwrap();
    assert!(picture.ends_with("#EXT-X-ENDLIST\n"), "{picture}");
    // All of the text, and six segments of the picture.
    let first =
        |part: &JobPartRecord| ["a0", "v0000", "v0001", plan::SUBTITLES].contains(&part.part.as_str());
    let begun: Vec<JobPartRecord> = parts.iter().filter(|part| first(part)).cloned().collect();
    let growing = playlist::render_growing_multivariant(&plan, &begun).unwrap();
    assert!(growing.contains("URI=\"s0/event.m3u8\""), "{growing}");
    let text = playlist::render_event(&plan, &begun, "s0").unwrap();
    assert!(text.ends_with("#EXTINF:6.000000,\n6.vtt\n"), "{text}");
    let whole = playlist::render_event(&plan, &parts, "s0").unwrap();
    assert!(whole.starts_with(text.as_str()) && whole.ends_with("11.vtt\n#EXT-X-ENDLIST\n"), "{whole}");
}

#[test]
fn growing_playlists_only_grow() {
    let (plan, parts) = build_example();
    assert_eq!(playlist::render_growing_multivariant(&plan, &[]), None);
    let order = plan::part_names(&plan);
    let mut before: BTreeMap<String, String> = BTreeMap::new();
    let mut have = Vec::new();
    for name in &order {
        have.push(parts.iter().find(|p| p.part == *name).unwrap().clone());
        for rendition in ["v360", "v234", "a0"] {
            let Some(text) = playlist::render_event(&plan, &have, rendition) else { continue };
            if let Some(old) = before.get(rendition) {
                assert!(text.starts_with(old.as_str()), "{rendition} changed after {name}");
            }
            before.insert(rendition.into(), text);
        }
    }
    let first = [parts[0].clone(), parts[1].clone(), parts.last().unwrap().clone()];
    insta::assert_snapshot!("growing", playlist::render_growing_multivariant(&plan, &first).unwrap());
    insta::assert_snapshot!("event_begin", playlist::render_event(&plan, &first, "v360").unwrap());
    assert!(before.values().all(|text| text.ends_with("#EXT-X-ENDLIST\n")));
    assert_eq!(playlist::render_event(&plan, &parts, "v999"), None);
}

#[test]
fn who_followed_a_growing_playlist_sees_nothing_but_its_end() {
    let (plan, parts) = build_example();
    let presentation = Presentation::assemble(&plan, &parts).unwrap();
    let target = presentation.target_seconds();
    for rendition in presentation.renditions() {
        let stored = playlist::render_media(rendition, target);
        let grown = playlist::render_event(&plan, &parts, &rendition.name).unwrap();
        assert!(grown.ends_with("#EXT-X-ENDLIST\n"), "{grown}");
        assert_eq!(playlist::render_ended_event(Some(&plan), &stored), grown, "{}", rendition.name);
        assert!(playlist::render_ended_event(None, &stored).contains("#EXT-X-PLAYLIST-TYPE:EVENT\n"));
    }
}

#[test]
fn a_growing_title_is_as_long_as_its_shortest_rendition() {
    let (plan, parts) = build_example();
    // All of the sound, and the first range of the picture, which is one segment: too little to begin with.
    let mut have: Vec<JobPartRecord> =
        parts.iter().filter(|p| ["a0", "v0000"].contains(&p.part.as_str())).cloned().collect();
    assert_eq!(playlist::render_growing_multivariant(&plan, &have), None);
    assert_eq!(playlist::render_event(&plan, &have, "a0"), None);
    let mut second = parts.iter().find(|p| p.part == "v0001").unwrap().clone();
    second.tracks.iter_mut().for_each(|track| track.segments.truncate(1));
    have.push(second);
    for rendition in ["v360", "v234", "a0"] {
        let text = playlist::render_event(&plan, &have, rendition).unwrap();
        assert_eq!(text.matches("#EXTINF").count(), 2, "{rendition}: {text}");
        assert!(!text.contains("#EXT-X-ENDLIST"), "{rendition} ends before the others: {text}");
        assert!(text.contains("#EXT-X-START:TIME-OFFSET=0.001,PRECISE=YES\n"), "{text}");
    }
    // One rung is behind: the others wait for it.
    let mut uneven = parts.clone();
    uneven.iter_mut().find(|p| p.part == "v0001").unwrap().tracks[1].segments.truncate(2);
    let counts = ["v360", "v234", "a0"].map(|rendition| {
        playlist::render_event(&plan, &uneven, rendition).unwrap().matches("#EXTINF").count()
    });
    assert_eq!(counts, [3, 3, 3]);
    let sound: Vec<JobPartRecord> = have.into_iter().filter(|p| p.part == "a0").collect();
    assert_eq!(playlist::render_event(&plan, &sound, "a0"), None, "sound alone is not played");
}

#[test]
fn a_rung_that_costs_as_much_as_a_larger_one_is_taken_out() {
    let (plan, parts) = build_example();
    let mut presentation = Presentation::assemble(&plan, &parts).unwrap();
    assert!(presentation.remove_costly_rungs().is_empty());
    let (larger, smaller) = presentation.video.split_at_mut(1);
    for (large, small) in larger[0].segments.iter().zip(&mut smaller[0].segments) {
        small.size_bytes = large.size_bytes + 1;
    }
    let removed: Vec<String> = presentation.remove_costly_rungs().into_iter().map(|rung| rung.name).collect();
    assert_eq!((removed, presentation.video.len()), (vec!["v234".to_owned()], 1));
}

#[test]
fn a_gap_hides_what_lies_behind_it() {
    let (plan, parts) = build_example();
    let without_second: Vec<JobPartRecord> = parts.iter().filter(|p| p.part != "v0001").cloned().collect();
    let presentation = Presentation::from_unfinished_parts(&plan, &without_second);
    assert_eq!(presentation.video[0].segments.len(), 1);
    assert_eq!(presentation.audio[0].segments.len(), 11);
}

#[test]
fn parts_that_do_not_add_up_are_refused() {
    let check = |what: &str, change: &dyn Fn(&mut Vec<JobPartRecord>)| {
        let (plan, mut parts) = build_example();
        change(&mut parts);
        assert!(Presentation::assemble(&plan, &parts).is_err(), "{what}");
    };
    check("a missing part", &|parts| drop(parts.remove(1)));
    check("an unfinished part", &|parts| parts[1].status = JobPartStatus::Claimed);
    check("another init segment", &|parts| parts[1].tracks[0].init_sha256 = "other".into());
    check("a missing segment", &|parts| parts[1].tracks[0].segments.truncate(4));
    check("a late segment", &|parts| parts[1].tracks[0].segments[0].start_ticks += 1);
    check("a missing rung", &|parts| parts.iter_mut().for_each(|p| p.tracks.truncate(1)));
    check("a long last segment", &|parts| {
        let audio = parts.last_mut().unwrap();
        audio.tracks[0].segments.last_mut().unwrap().duration_ticks += 1024;
    });
}

#[test]
fn tracks_of_one_title_get_names_of_their_own() {
    let mut technical = build_technical(10, 640, 360);
    technical.subtitles = build_subtitles();
    for (track, title) in technical.subtitles.iter_mut().zip(["English (3)", "English", "English"]) {
        track.title = Some(title.into());
    }
    let plan = build_plan(&technical, &EncodeProfile::default());
    let labels: Vec<&str> = plan.subtitles.iter().map(|subtitles| subtitles.label.as_str()).collect();
    assert_eq!(labels, ["English (3)", "English", "English (4)"]);
}

#[test]
fn what_playing_begins_with_is_made_first() {
    let mut technical = build_technical(120, 640, 360);
    technical.subtitles = build_subtitles();
    let second = technical.audio[0].clone();
    technical.audio.push(schemas::media::AudioTrack { index: 9, ..second });
    let plan = build_plan(&technical, &EncodeProfile::default());
    let names = plan::part_names(&plan);
    assert_eq!(names[..6], ["a0", "v0000", "v0001", "subtitles", "a1", "v0002"], "{names:?}");
}

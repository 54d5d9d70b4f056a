//! Chapters that a file names, from its upload to a player, and what its owner says instead.

use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    flow::{playback, text},
    harness::{Cluster, Options, clip},
};

/// A clip of three seconds with two chapters, in Matroska.
fn chaptered() -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let list = folder.path().join("chapters.txt");
    let chapter = |start_ms: u32, end_ms: u32, title: &str| {
        format!("[CHAPTER]\nTIMEBASE=1/1000\nSTART={start_ms}\nEND={end_ms}\ntitle={title}\n")
    };
    let chapters = [chapter(0, 1_000, "Arrival"), chapter(1_000, 3_000, "Sea")].concat();
    std::fs::write(&list, format!(";FFMETADATA1\n{chapters}")).unwrap();
    let picture = ["-f", "lavfi", "-i", "testsrc2=size=320x180:rate=25", "-f", "ffmetadata", "-i"];
    let made = ["-map", "0", "-map_chapters", "1", "-t", "3", "-c:v", "libx264"];
    clip(&[&picture[..], &[list.to_str().unwrap()], &made].concat(), "mkv")
}

#[tokio::test(flavor = "multi_thread")]
async fn chapters_of_the_file_play_until_its_owner_sets_others() {
    let mut cluster = Cluster::start(Options::default()).await;
    let media_id = cluster.upload(chaptered(), "film.mkv").await;
    cluster.media_event("media.ready", &media_id).await;
    let path = format!("/v1/media/{media_id}");
    let named = json!([{ "start_s": 0.0, "title": "Arrival" }, { "start_s": 1.0, "title": "Sea" }]);
    let own = json!([{ "start_s": 0.0, "title": "All of it" }]);
    for (said, wanted) in
        [(None, &named), (Some(&own), &own), (Some(&Value::Null), &named), (Some(&json!([])), &json!([]))]
    {
        if let Some(said) = said {
            let change = json!({ "chapters": said });
            let answer = cluster.request(Method::PATCH, &path).header("If-Match", "*").json(&change).send();
            assert!(answer.await.unwrap().status().is_success(), "{change}");
        }
        assert_eq!(&cluster.get(&path).await["chapters"], wanted, "{said:?}");
        let session = playback(&cluster, &media_id).await;
        let Some(url) = session["chapters_url"].as_str() else {
            assert_eq!(wanted, &json!([]), "{session}");
            continue;
        };
        let hls_url = session["hls_url"].as_str().unwrap();
        let playlist = text(&cluster, hls_url).await;
        assert!(playlist.contains("com.apple.hls.chapters\",URI=\"chapters.json\""), "{playlist}");
        for played in [url.to_owned(), hls_url.replace("master.m3u8", "chapters.json")] {
            let played = text(&cluster, &played).await;
            for chapter in wanted.as_array().unwrap() {
                assert!(played.contains(chapter["title"].as_str().unwrap()), "{played}");
            }
        }
    }
}

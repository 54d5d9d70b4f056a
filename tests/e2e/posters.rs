//! What stands for a medium before it plays: the cover that its source brings, else a frame of it; a still picture is nothing else.

use std::process::Command;

use serde_json::Value;

use crate::{
    flow::{playback, text},
    harness::{Cluster, Options, clip},
};

/// The mean colour of a JPEG file, as red, green and blue.
fn mean_colour(jpeg: &[u8]) -> [u8; 3] {
    mean_colour_of(jpeg, "")
}

/// The mean colour of what a filter leaves of a JPEG file.
fn mean_colour_of(jpeg: &[u8], filter: &str) -> [u8; 3] {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("poster.jpg");
    std::fs::write(&path, jpeg).unwrap();
    let output = Command::new("ffmpeg")
        .args(["-v", "error", "-nostdin", "-i"])
        .arg(&path)
        .args(["-vf", &format!("{filter}format=rgb24,scale=1:1:flags=area"), "-f", "rawvideo", "-"])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    output.stdout[..3].try_into().unwrap()
}

/// A source with sound, and with a green cover where one is wanted; the picture of a film is red.
fn source(name: &str, has_film: bool, has_cover: bool, options: &str) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let cover = folder.path().join("cover.jpg");
    std::fs::write(&cover, clip(&["-f", "lavfi", "-i", "color=green:size=320x320", "-frames:v", "1"], "jpg"))
        .unwrap();
    let cover = cover.display().to_string();
    let film = "color=red:size=320x180:rate=25:duration=2,noise=alls=4:allf=t";
    let mut args = vec!["-f", "lavfi", "-i", "sine=frequency=440:duration=2:sample_rate=48000"];
    if has_film {
        args.extend(["-f", "lavfi", "-i", film]);
    }
    let attached = name.rsplit('.').next() == Some("mkv");
    if has_cover && attached {
        args.extend([
            "-attach",
            &cover,
            "-metadata:s:t",
            "mimetype=image/jpeg",
            "-metadata:s:t",
            "filename=cover.jpg",
        ]);
    } else if has_cover {
        args.extend(["-i", &cover]);
    }
    args.extend(["-map", "0"]);
    if has_film {
        args.extend(["-map", "1"]);
    }
    if has_cover && !attached {
        args.extend(["-map", if has_film { "2" } else { "1" }]);
        args.extend(if has_film {
            ["-c:v:1", "copy", "-disposition:v:1", "attached_pic"]
        } else {
            ["-c:v:0", "copy", "-disposition:v:0", "attached_pic"]
        });
    }
    args.extend(options.split_whitespace());
    clip(&args, name.rsplit('.').next().unwrap())
}

#[tokio::test]
async fn a_cover_is_the_poster_and_a_film_without_one_shows_a_frame() {
    const X264: &str = "-c:v:0 libx264 -preset:v:0 ultrafast -pix_fmt:v:0 yuv420p -c:a aac";
    let mut cluster = Cluster::start(Options::default()).await;
    for (name, has_film, has_cover, options) in [
        ("song.mp3", false, true, "-c:a libmp3lame -id3v2_version 3"),
        ("song.m4a", false, true, "-c:a aac"),
        ("song.flac", false, true, "-c:a flac"),
        ("song.mka.mkv", false, true, "-c:a flac"),
        ("film.mp4", true, true, X264),
        ("film.mkv", true, true, X264),
        ("plain.mp4", true, false, X264),
        ("plain.m4a", false, false, "-c:a aac"),
    ] {
        let media_id = cluster.upload(source(name, has_film, has_cover, options), name).await;
        let end = cluster.end_of(&media_id).await;
        assert_eq!(end.kind, "job.succeeded", "{name}: {end:?}");
        let document = cluster.get(&format!("/v1/media/{media_id}")).await;
        assert!(document["technical"].get("warnings").is_none(), "{name}: {document}");
        let session = playback(&cluster, &media_id).await;
        assert!(session["hls_url"].is_string(), "{name}: {session}");
        let Some(poster) = session["poster_url"].as_str() else {
            assert_eq!(name, "plain.m4a", "{session}");
            continue;
        };
        let jpeg = cluster.http.get(format!("{}{poster}", cluster.url)).send().await.unwrap();
        let [red, green, blue] = mean_colour(&jpeg.bytes().await.unwrap());
        let is_green = green > 90 && red < 60 && blue < 60;
        let is_red = red > 150 && green < 60 && blue < 60;
        assert!(if has_cover { is_green } else { is_red }, "{name}: {red} {green} {blue}");
    }
}

#[tokio::test]
async fn a_cover_that_is_none_leaves_a_film_its_frame_and_a_song_as_it_is() {
    const X264: &str = "-c:v:0 libx264 -preset:v:0 ultrafast -pix_fmt:v:0 yuv420p -c:a aac";
    let mut cluster = Cluster::start(Options::default()).await;
    for (name, has_film, options) in [("film.mkv", true, X264), ("song.mka.mkv", false, "-c:a flac")] {
        let mut bytes = source(name, has_film, true, options);
        // The beginning of the picture, where its tables are; its size stays.
        let at = bytes.windows(3).position(|window| window == [0xFF, 0xD8, 0xFF]).unwrap();
        bytes[at..at + 400].fill(0);
        let media_id = cluster.upload(bytes, name).await;
        let end = cluster.end_of(&media_id).await;
        assert_eq!(end.kind, "job.succeeded", "{name}: {end:?}");
        let document = cluster.get(&format!("/v1/media/{media_id}")).await;
        // Seen by the probe, or by who takes the poster.
        let warnings = [&document["technical"]["warnings"], &document["encode"]["warnings"]];
        let mut warnings = warnings.into_iter().filter_map(Value::as_array).flatten();
        assert!(warnings.any(|warning| warning["code"] == "cover_dropped"), "{name}: {document}");
        assert_eq!(document["encode"]["has_poster"], has_film, "{name}: {document}");
    }
}

#[tokio::test]
async fn a_storyboard_shows_what_is_played_at_each_time() {
    let mut cluster = Cluster::start(Options::default()).await;
    // A colour for each four seconds; parts of two and of six seconds.
    let film = "color=red:s=320x180:r=25:d=4[a];color=green:s=320x180:r=25:d=4[b];color=blue:s=320x180:r=25:d=5[c];[a][b][c]concat=n=3";
    let bytes = clip(
        &["-f", "lavfi", "-i", film, "-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p"],
        "mp4",
    );
    let media_id = cluster.upload(bytes, "colours.mp4").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    let session = playback(&cluster, &media_id).await;
    let list = text(&cluster, session["storyboard_url"].as_str().unwrap()).await;
    let mut shown = Vec::new();
    for block in list.trim_end().split("\n\n").skip(1) {
        let (times, place) = block.split_once('\n').unwrap();
        let (sheet, place) = place.split_once("#xywh=").unwrap();
        let path = session["storyboard_url"].as_str().unwrap().replace("storyboard.vtt", sheet);
        let jpeg = cluster.http.get(format!("{}{path}", cluster.url)).send().await.unwrap();
        let cut: Vec<&str> = place.split(',').collect();
        let tile = format!("crop={}:{}:{}:{},", cut[2], cut[3], cut[0], cut[1]);
        let [red, green, blue] = mean_colour_of(&jpeg.bytes().await.unwrap(), &tile);
        let colour = if red > 200 {
            'r'
        } else if blue > 200 {
            'b'
        } else if green > 100 {
            'g'
        } else {
            '?'
        };
        shown.push(format!("{} {colour}", times.get(6..8).unwrap()));
    }
    assert_eq!(shown, ["00 r", "02 r", "04 g", "06 g", "08 b", "10 b", "12 b"], "{list}");
    let page = format!("{}{}", cluster.url, session["watch_url"].as_str().unwrap());
    crate::browser::goes_to_scene(&page, 4, 8.0).await;
}

#[tokio::test]
async fn a_still_picture_is_its_poster_and_has_no_playlist() {
    let mut cluster = Cluster::start(Options::default()).await;
    let bytes = clip(&["-f", "lavfi", "-i", "color=red:size=320x180", "-frames:v", "1"], "png");
    let media_id = cluster.upload(bytes, "still.png").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    let session = playback(&cluster, &media_id).await;
    assert!(session["hls_url"].is_null() && session["dash_url"].is_null(), "{session}");
    let poster = session["poster_url"].as_str().unwrap();
    let jpeg = cluster.http.get(format!("{}{poster}", cluster.url)).send().await.unwrap();
    assert!(mean_colour(&jpeg.bytes().await.unwrap())[0] > 150);
    let page = format!("{}{}", cluster.url, session["watch_url"].as_str().unwrap());
    crate::browser::shows_picture(&page).await;
}

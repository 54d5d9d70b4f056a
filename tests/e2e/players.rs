//! What we serve, in the players that other sites use: every frame in its place, every tone when it is due, no stall, to the end.
//!
//! Limits: 5 s of film in each player, 14 s of one that grows; 20 s for each step in the browser.

use std::{collections::BTreeSet, time::Duration};

use reqwest::{Method, header as request_header};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    flow::{playback, text},
    harness::{Cluster, Options, clip, poll},
    site::serve_site,
    webdriver::{Browser, PATIENCE, Page},
};

/// Length of the film, in seconds.
const SECONDS: u32 = 5;

/// Length of the film that is played while it grows, in seconds.
const GROWING_SECONDS: u32 = 14;

/// Frames a second.
const RATE: u32 = 25;

/// Longest time by which sound may be off against the same film as MP4, in seconds.
const OFFSET_SECONDS_MAX: f64 = 0.015;

/// Frames that a browser on a busy machine may leave out, in each of its ways to count.
const FRAMES_MISSED_MAX: usize = 20;

/// Frames that the page may read too late, when the next one is shown already.
const FRAMES_LATE_MAX: usize = 4;

/// One part after the other, by a worker that stands still for longer than a browser takes to start.
const ONE_SLOT: &str = "[transcode]\nclaim_fresh = \"2m\"\n[transcode.parts]\nslots = 1\n";

/// What the page wrote down.
#[derive(Debug, Deserialize)]
struct Seen {
    frames: Vec<(u32, f64)>,
    tones: Vec<f64>,
    stalls: Vec<f64>,
    failed: String,
    duration: f64,
}

/// A film: twelve bars are the bits of a frame's number, and a tone begins with every second.
fn film(seconds: u32, size: &str) -> Vec<u8> {
    let bars = format!(
        "color=black:size=192x12:rate=25:duration={seconds},\
         geq=lum='if(bitand(floor(N/pow(2,floor(X/16))),1),235,16)':cb=128:cr=128,scale={size}:flags=neighbor"
    );
    let tones = format!("aevalsrc='if(lt(mod(t,1),0.04),0.8*sin(2*PI*1000*t),0)':s=48000:d={seconds}");
    let args = "-c:v libx264 -preset veryfast -bf 2 -pix_fmt yuv420p -c:a aac -b:a 160k -movflags +faststart";
    let inputs = ["-f", "lavfi", "-i", &bars, "-f", "lavfi", "-i", &tones];
    clip(&inputs.into_iter().chain(args.split(' ')).collect::<Vec<_>>(), "mp4")
}

/// Plays an address to its end.
async fn play(page: &Page, site: &str, player: &str, url: &str) -> Seen {
    let mut page_url = url::Url::parse(site).unwrap();
    page_url.query_pairs_mut().append_pair("player", player).append_pair("url", url);
    page.open(page_url.as_str()).await;
    page.until("window.seen && (window.seen.ended || window.seen.failed)").await;
    serde_json::from_value(page.run("return window.seen").await).unwrap()
}

/// The middle one.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

impl Seen {
    /// It begins with the first frame, and what is shown is in its place, without a stall.
    fn check_beginning(&self, browser: Browser, what: &str) {
        assert_eq!((self.failed.as_str(), self.stalls.as_slice()), ("", [].as_slice()), "{what}");
        let first = self.frames.first().map(|(number, _)| *number);
        assert!(first.is_some_and(|first| first < 5), "{what}: it begins at {first:?}");
        assert!(self.frames.is_sorted(), "{what}: {:?}", self.frames);
        // Firefox may name the time of a frame while a page still reads the one before it.
        let lag_seconds_max = match browser {
            Browser::Chromium => 0.0,
            Browser::Firefox => 1.0 / f64::from(RATE),
        };
        let is_misplaced = |(number, at): &&(u32, f64)| {
            let late = at - f64::from(*number) / f64::from(RATE);
            late < -0.002 || late > 0.002 + lag_seconds_max
        };
        let misplaced: Vec<_> = self.frames.iter().filter(is_misplaced).collect();
        assert!(
            misplaced.len() <= FRAMES_LATE_MAX,
            "{what}: frames that are not shown in their time: {misplaced:?}"
        );
    }

    /// Every frame is shown in its place, from the first to the last, without a stall.
    fn check_frames(&self, browser: Browser, seconds: u32, what: &str) {
        self.check_beginning(browser, what);
        let frames = RATE * seconds;
        assert!((self.duration - f64::from(seconds)).abs() < 0.03, "{what}: it lasts {} s", self.duration);
        let numbers: BTreeSet<u32> = self.frames.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers.last(), Some(&(frames - 1)), "{what}");
        // By its time, too: what was read late is another frame's number.
        let is_shown = |frame: &u32| {
            let due = f64::from(*frame) / f64::from(RATE);
            numbers.contains(frame) || self.frames.iter().any(|(_, at)| (at - due).abs() < 0.002)
        };
        let missed: Vec<u32> = (0..frames).filter(|frame| !is_shown(frame)).collect();
        assert!(missed.len() <= FRAMES_MISSED_MAX, "{what}: not shown: {missed:?}");
    }

    /// How much later than its second a tone is played, in seconds.
    fn tone_delay(&self, what: &str) -> f64 {
        // The first may begin before the page listens.
        assert!(self.tones.len() >= 4, "{what}: tones at {:?}", self.tones);
        median(self.tones.iter().map(|at| at - at.round()).collect())
    }
}

/// Those that play what grows.
fn browsers_and_players() -> impl Iterator<Item = (Browser, &'static str)> {
    Browser::installed()
        .iter()
        .flat_map(|&browser| ["hls.js", "shaka", "video.js"].map(|player| (browser, player)))
}

async fn set_encryption(cluster: &Cluster, media_id: &str, encryption: &str) {
    let patch = cluster.request(Method::PATCH, &format!("/v1/media/{media_id}"));
    let patch = patch.header(request_header::IF_MATCH, "*").json(&json!({ "encryption": encryption }));
    assert!(patch.send().await.unwrap().status().is_success());
}

#[tokio::test(flavor = "multi_thread")]
async fn every_player_shows_every_frame_and_tone_in_its_place() {
    let film = film(SECONDS, "192x108");
    let mut cluster = Cluster::start(Options::default()).await;
    let mut media = Vec::new();
    for encryption in ["none", "aes_128"] {
        let media_id = cluster.upload(film.clone(), "film.mp4").await;
        assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
        set_encryption(&cluster, &media_id, encryption).await;
        media.push((encryption, media_id));
    }
    let site = serve_site("players", film).await;
    // They play in real time, so at the same time.
    let browsers = Browser::installed().iter().map(|&browser| {
        let (cluster, site, media) = (&cluster, &site, &media);
        // A site's visitor has clicked; here nobody does.
        browser.run(true, async move |page| play_with_every_player(browser, page, cluster, site, media).await)
    });
    futures::future::join_all(browsers).await;
}

/// Each player against the same film as MP4 in the same browser.
async fn play_with_every_player(
    browser: Browser,
    page: &Page,
    cluster: &Cluster,
    site: &str,
    media: &[(&str, String)],
) {
    let plain = play(page, site, "mp4", &format!("{site}/film.mp4")).await;
    plain.check_frames(browser, SECONDS, "MP4");
    let plain_delay = plain.tone_delay("MP4");
    let hls = [("hls.js", "hls_url"), ("shaka", "hls_url"), ("video.js", "hls_url")];
    let dash = [("shaka", "dash_url"), ("dash.js", "dash_url")];
    for ((encryption, media_id), players) in
        media.iter().zip([[hls.as_slice(), &dash].concat(), hls.to_vec()])
    {
        for (player, address) in players {
            let session = playback(cluster, media_id).await;
            let url = format!("{}{}", cluster.url, session[address].as_str().unwrap());
            let what = format!("{browser:?} {player} {address} {encryption}");
            let seen = play(page, site, player, &url).await;
            seen.check_frames(browser, SECONDS, &what);
            let off = seen.tone_delay(&what) - plain_delay;
            assert!(
                off.abs() <= OFFSET_SECONDS_MAX,
                "{what}: sound is {off:.4} s off: {:?} {:?}",
                seen.tones,
                plain.tones
            );
        }
    }
}

/// Starts a player on a film that is still being encoded, of which there are so many segments: the worker stands still until the player
/// shows something, then it goes on. Gives what was seen once `until` holds on the page.
async fn play_growing(
    cluster: &mut Cluster,
    site: &str,
    film: Vec<u8>,
    (browser, player, segments, until): (Browser, &str, usize, &str),
) -> Seen {
    let media_id = cluster.upload(film, "growing.mp4").await;
    cluster.media_event("media.playable", &media_id).await;
    let master = playback(cluster, &media_id).await["hls_url"].as_str().unwrap().to_owned();
    let media = master.replace("master.m3u8", "a0/event.m3u8");
    let is_long = async || (text(cluster, &media).await.matches("#EXTINF").count() >= segments).then_some(());
    poll(Duration::from_secs(30), is_long).await.expect("it grows");
    cluster.signal("transcode", "STOP");
    let playlist = text(cluster, &media).await;
    assert!(!playlist.contains("#EXT-X-ENDLIST"), "it was encoded before it could be played: {playlist}");
    let mut page_url = url::Url::parse(site).unwrap();
    let url = format!("{}{master}", cluster.url);
    page_url.query_pairs_mut().append_pair("player", player).append_pair("url", &url);
    let mut seen = Value::Null;
    // A site's visitor has clicked; here nobody does.
    browser
        .run(true, async |page| {
            page.open(page_url.as_str()).await;
            page.until("window.seen && (window.seen.frames.length > 5 || window.seen.failed)").await;
            cluster.signal("transcode", "CONT");
            page.until_within(&format!("{until} || window.seen.failed"), 2 * PATIENCE).await;
            seen = page.run("return window.seen").await;
        })
        .await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    serde_json::from_value(seen).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_growing_title_plays_to_its_end_as_soon_as_it_is_playable() {
    // Large enough to take the encoder longer than the test needs to stop it.
    let film = film(GROWING_SECONDS, "1920x1080");
    let options = Options { full_ladder: true, ..Options::default() };
    let mut cluster = Cluster::start_with(options, ONE_SLOT).await;
    let site = serve_site("players", Vec::new()).await;
    for (browser, player) in browsers_and_players() {
        let way = (browser, player, 2, "window.seen.ended");
        let seen = play_growing(&mut cluster, &site, film.clone(), way).await;
        seen.check_frames(browser, GROWING_SECONDS, &format!("{browser:?}, {player}"));
    }
}

// With segments of two seconds five of them are long enough for a player to begin near their end, as it does with a live stream.
#[tokio::test(flavor = "multi_thread")]
async fn who_comes_later_to_a_growing_title_sees_its_start() {
    let film = film(60, "960x540");
    let mut cluster = Cluster::start_with(Options::default(), ONE_SLOT).await;
    let site = serve_site("players", Vec::new()).await;
    for (browser, player) in browsers_and_players() {
        let way = (browser, player, 5, "document.getElementsByTagName('video')[0].currentTime > 3");
        let seen = play_growing(&mut cluster, &site, film.clone(), way).await;
        seen.check_beginning(browser, &format!("{browser:?}, {player}"));
    }
}

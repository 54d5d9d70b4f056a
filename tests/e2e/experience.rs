//! What viewers experience, in a real browser: our page and the players of other sites report it, and the owner sees it.

use std::time::Duration;

use reqwest::Method;
use serde_json::Value;

use crate::{
    flow::playback,
    harness::{Cluster, Options, poll, sample},
    site::serve_site,
    webdriver::{Browser, Page},
};

/// Length of the film, in seconds.
const SECONDS: u32 = 4;
/// What of it players have reported at the least once it was played, in milliseconds: they report what they began a moment later.
const PLAYED_MS_MIN: u64 = 2_500;

const SETTINGS: &str = "[ingress.playback.experience]\nwrite = \"200ms\"\n";

async fn film() -> (Cluster, String) {
    let mut cluster = Cluster::start_with(Options::default(), SETTINGS).await;
    let media_id = cluster.upload(sample(SECONDS, "320x180", "25"), "film.mp4").await;
    assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
    (cluster, media_id)
}

/// What the owner sees once this holds.
async fn seen(cluster: &Cluster, media_id: &str, what: &str, holds: impl Fn(&Value) -> bool) -> Value {
    let path = format!("/v1/media/{media_id}/experience");
    let mut last = Value::Null;
    let found = poll(Duration::from_secs(20), async || {
        last = cluster.get(&path).await;
        holds(&last).then(|| last.clone())
    });
    let found = found.await;
    found.unwrap_or_else(|| panic!("{what}: {last}"))
}

fn number(seen: &Value, name: &str) -> u64 {
    seen[name].as_u64().unwrap_or_else(|| panic!("{name}: {seen}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_watch_page_reports_how_it_plays() {
    let (cluster, media_id) = film().await;
    let session = playback(&cluster, &media_id).await;
    let url = format!("{}{}", cluster.url, session["watch_url"].as_str().unwrap());
    // A viewer has clicked.
    Browser::Chromium
        .run(true, async |page| {
            page.open(&url).await;
            page.until("page.dataset.player === 'hls.js' && video.ended").await;
            page.check_console().await;
        })
        .await;
    let holds = |seen: &Value| number(seen, "played_ms") >= PLAYED_MS_MIN;
    let seen = seen(&cluster, &media_id, "the watch page", holds).await;
    assert_eq!((number(&seen, "views"), number(&seen, "failed_views")), (1, 0), "{seen}");
    assert!(number(&seen, "median_start_ms") >= 100 && number(&seen, "average_bps") > 10_000, "{seen}");
    assert!(number(&seen, "played_ms") <= 20_000, "{seen}");
    let metrics = cluster.request(Method::GET, "/metrics").send().await.unwrap().text().await.unwrap();
    for series in [
        "streamgate_viewer_views_total{ending=\"ended\"} 1\n",
        "streamgate_viewer_start_seconds_count{height=\"240p\"} 1\n",
    ] {
        assert!(metrics.contains(series), "{series}\n{metrics}");
    }
    let played = metrics
        .lines()
        .find(|line| line.starts_with("streamgate_viewer_played_bytes_total{height=\"240p\"}"));
    assert!(played.is_some_and(|line| !line.ends_with(" 0")), "{played:?}");
}

/// Plays an address to its end on a page of another site, which reports to `report`.
async fn play_on_another_site(page: &Page, site: &str, player: &str, (url, report): (&str, &str)) {
    let mut page_url = url::Url::parse(site).unwrap();
    page_url
        .query_pairs_mut()
        .append_pair("player", player)
        .append_pair("url", url)
        .append_pair("report", report);
    page.open(page_url.as_str()).await;
    page.until("window.seen && (window.seen.ended || window.seen.failed)").await;
    assert_eq!(page.run("return window.seen.failed").await, "", "{player}");
}

#[tokio::test(flavor = "multi_thread")]
async fn players_of_other_sites_report_how_it_plays() {
    let (cluster, media_id) = film().await;
    let site = serve_site("players", Vec::new()).await;
    Browser::Chromium
        .run(true, async |page| {
            let mut before = (0, 0);
            // Shaka and dash.js say when they begin, and hardly what comes then.
            for (player, address, played_ms_min) in [
                ("hls.js", "hls_url", PLAYED_MS_MIN),
                ("shaka", "hls_url", 0),
                ("shaka", "dash_url", 0),
                ("dash.js", "dash_url", 0),
            ] {
                let session = playback(&cluster, &media_id).await;
                let at = |name: &str| format!("{}{}", cluster.url, session[name].as_str().unwrap());
                let report = at("hls_url").replace("master.m3u8", "cmcd");
                play_on_another_site(page, &site, player, (&at(address), &report)).await;
                let holds = |seen: &Value| {
                    number(seen, "views") > before.0 && number(seen, "played_ms") >= before.1 + played_ms_min
                };
                let seen = seen(&cluster, &media_id, &format!("{player} {address}"), holds).await;
                assert_eq!(
                    (number(&seen, "views"), number(&seen, "failed_views")),
                    (before.0 + 1, 0),
                    "{player}: {seen}"
                );
                assert!(number(&seen, "median_start_ms") > 0, "{player}: {seen}");
                before = (before.0 + 1, number(&seen, "played_ms"));
            }
        })
        .await;
}

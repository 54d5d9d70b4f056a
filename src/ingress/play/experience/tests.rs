//! Reports over HTTP: whose are taken, what becomes of them, and who sees it.

use std::time::{Duration, Instant};

use nats::{Outbox, Role, VersionedRecord};
use schemas::media::MediaStatus;
use serde_json::{Value, json};

use super::*;
use crate::{
    IngressConfig,
    tests::{Answer, Site, asset},
};

const FILM: MediaId = MediaId::from_bytes([5; 16]);
const CMCD: &str = "Content-Type: application/cmcd\r\n";

/// An ingress with a film of olga's that plays.
struct Film {
    site: Site,
    boss: String,
    olga: String,
}

impl Film {
    async fn start(change: impl FnOnce(&mut IngressConfig)) -> Self {
        let site = Site::start(|config| {
            config.playback.experience.write_ms = 50;
            change(config);
        })
        .await;
        let admin = site.broker.bus(Role::Admin).await;
        let asset = asset(FILM, "olga", MediaStatus::Ready);
        admin.commit_record(&mut VersionedRecord::new(asset), Outbox::new()).await.unwrap();
        let boss = format!("Authorization: Bearer {}\r\n", site.key);
        let olga = Self::key_for(&site, &boss, "olga").await;
        Self { site, boss, olga }
    }

    async fn key_for(site: &Site, boss: &str, owner: &str) -> String {
        let headers = format!("{boss}Content-Type: application/json\r\n");
        let made = site.ask("POST", "/v1/auth/keys", &headers, &json!({ "owner": owner }).to_string()).await;
        let made: Value = serde_json::from_str(&made.body).unwrap();
        format!("Authorization: Bearer {}\r\n", made["key"].as_str().unwrap())
    }

    /// Opens a playback session; answers where its player reports.
    async fn open(&self) -> String {
        let answer = self.site.ask("POST", &format!("/v1/media/{FILM}/playback"), &self.boss, "").await;
        let session: Value = serde_json::from_str(&answer.body).unwrap();
        session["hls_url"].as_str().unwrap_or_else(|| panic!("{answer:?}")).replace("master.m3u8", "cmcd")
    }

    async fn report(&self, place: &str, body: &str) -> Answer {
        self.site.ask("POST", place, CMCD, body).await
    }

    async fn read(&self, headers: &str, query: &str) -> (u16, Value) {
        let path = format!("/v1/media/{FILM}/experience{query}");
        let answer = self.site.ask("GET", &path, headers, "").await;
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    /// What olga sees once this holds.
    async fn seen(&self, holds: impl Fn(&Value) -> bool) -> Value {
        let began = Instant::now();
        loop {
            let (status, seen) = self.read(&self.olga, "").await;
            assert_eq!(status, 200, "{seen}");
            if holds(&seen) {
                return seen;
            }
            assert!(began.elapsed() < Duration::from_secs(20), "{seen}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

fn code(answer: &Answer) -> (u16, String) {
    let problem: Value = serde_json::from_str(&answer.body).unwrap_or_else(|_| panic!("{answer:?}"));
    (answer.status, problem["code"].as_str().unwrap().to_owned())
}

#[tokio::test]
async fn what_players_report_is_seen_by_the_owner_and_by_nobody_else() {
    let film = Film::start(|_| {}).await;
    let (status, nothing) = film.read(&film.olga, "").await;
    assert_eq!((status, &nothing["views"], &nothing["median_start_ms"]), (200, &json!(0), &Value::Null));
    let place = film.open().await;
    let body = "sid=\"one\",sta=s,ts=1000\nsid=\"one\",br=(700),sta=p,ts=1700\r\n\nno report,\n\
                sid=\"one\",sta=r,ts=5700\nsid=\"one\",sta=p,ts=6700\nsid=\"one\",sta=e,ts=12700\n";
    assert_eq!(film.report(&place, body).await.status, 204);
    let text = "Content-Type: text/plain;charset=UTF-8\r\n";
    assert_eq!(film.site.ask("POST", &place, text, "sid=\"two\",sta=f").await.status, 204);
    let seen = film.seen(|seen| seen["views"] == 2).await;
    let wanted = json!({
        "media_id": FILM, "since_ms": seen["since_ms"], "sampled_per_million": 1_000_000, "views": 2, "failed_views": 1,
        "median_start_ms": 800, "p95_start_ms": 800, "stalls": 1, "stalled_ms": 1_000, "played_ms": 10_000,
        "stalled_ratio": 1.0 / 11.0, "average_bps": 700_000,
    });
    assert_eq!(seen, wanted);
    assert_eq!(film.read(&film.boss, "?hours=1").await.0, 200, "who administers sees what owners see");
    let other = Film::key_for(&film.site, &film.boss, "otto").await;
    assert_eq!(film.read(&other, "").await.0, 404);
    assert_eq!(film.read("", "").await.0, 401);
    for query in ["?hours=0", "?hours=25", "?hours=x"] {
        let (status, problem) = film.read(&film.olga, query).await;
        assert_eq!((status, problem["code"].as_str()), (400, Some("query_malformed")), "{query}");
    }
    let metrics = film.site.ask("GET", "/metrics", &film.boss, "").await.body;
    for series in [
        "streamgate_viewer_start_seconds_count{height=\"360p\"} 1",
        "streamgate_viewer_stalls_total{height=\"360p\"} 1",
        "streamgate_viewer_stalled_seconds_total{height=\"360p\"} 1.0",
        "streamgate_viewer_played_seconds_total{height=\"360p\"} 10.0",
        "streamgate_viewer_played_bytes_total{height=\"360p\"} 875000",
        "streamgate_viewer_views_total{ending=\"ended\"} 1",
        "streamgate_viewer_views_total{ending=\"failed\"} 1",
        "streamgate_viewer_reports_total{outcome=\"taken\"} 6",
        "streamgate_viewer_reports_total{outcome=\"unreadable\"} 1",
    ] {
        assert!(metrics.contains(series), "{series} is not in\n{metrics}");
    }
    for private in ["one", FILM.to_string().as_str(), "olga"] {
        let viewers = metrics.lines().filter(|line| line.starts_with("streamgate_viewer"));
        assert!(
            viewers.clone().count() > 20 && viewers.clone().all(|line| !line.contains(private)),
            "{private}"
        );
    }
}

#[tokio::test]
async fn what_is_no_report_of_a_session_is_refused_by_its_kind() {
    let film = Film::start(|_| {}).await;
    let place = film.open().await;
    let good = "sid=\"one\",sta=p";
    let json = "Content-Type: application/json\r\n";
    assert_eq!(code(&film.site.ask("POST", &place, json, good).await), (415, "media_type".into()));
    assert_eq!(code(&film.site.ask("POST", &place, "", good).await), (415, "media_type".into()));
    for body in ["", "\n\n", "sta=p", "{\"sid\":\"one\"}", "\u{0}\u{1}"] {
        assert_eq!(code(&film.report(&place, body).await), (400, "report_malformed".into()), "{body:?}");
    }
    let lines = format!("{good}\n").repeat(LINES_MAX + 1);
    assert_eq!(code(&film.report(&place, &lines).await), (413, "body_too_large".into()));
    let large = "x".repeat(BODY_BYTES_MAX + 1);
    assert_eq!(code(&film.report(&place, &large).await), (413, "body_too_large".into()));
    let other = MediaId::from_bytes([6; 16]);
    for wrong in [
        place.replace(&FILM.to_string(), &other.to_string()),
        place.replace(&FILM.to_string(), "film"),
        place.replacen("/play/", "/play/0", 1),
        format!("/play/token/{FILM}/cmcd"),
    ] {
        let refused = film.report(&wrong, good).await;
        assert_eq!(code(&refused), (403, "playback_refused".into()), "{wrong}");
        assert!(refused.header("ratelimit").is_some(), "{wrong}");
    }
    assert_eq!(film.site.ask("GET", &place, "", "").await.status, 405);
    assert_eq!(film.read(&film.olga, "").await.1["views"], 0);
}

#[tokio::test]
async fn a_page_of_any_site_reports() {
    let film = Film::start(|_| {}).await;
    let place = film.open().await;
    let asked = "Origin: https://blog.example\r\nAccess-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: content-type\r\n";
    let allowed = film.site.ask("OPTIONS", &place, asked, "").await;
    assert_eq!(allowed.header("access-control-allow-origin"), Some("*"), "{allowed:?}");
    let has = |name: &str, word: &str| allowed.header(name).unwrap().to_lowercase().contains(word);
    assert!(
        has("access-control-allow-methods", "post") && has("access-control-allow-headers", "content-type")
    );
    let headers = format!("{CMCD}Origin: https://blog.example\r\n");
    let taken = film.site.ask("POST", &place, &headers, "sid=\"one\",sta=p").await;
    assert_eq!((taken.status, taken.header("access-control-allow-origin")), (204, Some("*")), "{taken:?}");
}

#[tokio::test]
async fn a_session_that_ended_begins_no_view_and_may_end_its_own() {
    let film = Film::start(|_| {}).await;
    let (playing, idle) = (film.open().await, film.open().await);
    assert_eq!(film.report(&playing, "sid=\"one\",sta=p,ts=1000").await.status, 204);
    let admin = film.site.broker.bus(Role::Admin).await;
    for place in [&playing, &idle] {
        let session = place.split('/').nth(2).unwrap().split_at(schemas::ids::TEXT_LENGTH).0;
        let ended = |found: Option<&schemas::gate::PlaybackSession>| {
            let revoked = Some(GateReasonCode::Ended);
            Some((schemas::gate::PlaybackSession { revoked, ..found?.clone() }, Outbox::new()))
        };
        Box::pin(admin.change_record(session, ended)).await.unwrap().unwrap();
    }
    assert_eq!(code(&film.report(&idle, "sid=\"one\",sta=p").await), (403, "playback_refused".into()));
    assert_eq!(film.report(&playing, "sid=\"one\",sta=f,ts=3000").await.status, 204);
    let seen = film.seen(|seen| seen["failed_views"] == 1).await;
    assert_eq!((&seen["views"], &seen["played_ms"]), (&json!(1), &json!(2_000)), "{seen}");
}

#[tokio::test]
async fn a_report_is_no_use_of_its_session() {
    let film = Film::start(|_| {}).await;
    let place = film.open().await;
    assert_eq!(film.report(&place, "sid=\"one\",sta=a").await.status, 204);
    film.seen(|seen| seen["views"] == 1).await;
    let session = place.split('/').nth(2).unwrap().split_at(schemas::ids::TEXT_LENGTH).0;
    let admin = film.site.broker.bus(Role::Admin).await;
    let held = admin.load_record::<schemas::gate::PlaybackSession>(session).await.unwrap().unwrap();
    assert_eq!(held.record.played_at_ms, None);
}

#[tokio::test]
async fn what_is_not_sampled_leaves_nothing() {
    let film = Film::start(|config| config.playback.experience.sampled_per_million = 0).await;
    let place = film.open().await;
    assert_eq!(film.report(&place, "sid=\"one\",sta=p,ts=1000\nsid=\"one\",sta=p,ts=9000").await.status, 204);
    assert_eq!(VIEWER_REPORTS.count(PlayerReport::Unsampled), 2);
    let (_, seen) = film.read(&film.olga, "").await;
    assert_eq!((&seen["views"], &seen["sampled_per_million"]), (&json!(0), &json!(0)));
    let metrics = film.site.ask("GET", "/metrics", &film.boss, "").await.body;
    assert!(metrics.contains("streamgate_viewer_played_seconds_total{height=\"unknown\"} 0.0"), "{metrics}");
}

#[tokio::test]
async fn what_was_reported_is_written_before_a_replica_stops_and_added_to_what_others_wrote() {
    let broker = nats::testing::TestBroker::start().await;
    let bus = broker.bus(Role::Ingress).await;
    let reporter = Reporter { playback_id: schemas::ids::PlaybackId::from_bytes([1; 16]), media_id: FILM };
    let line = ReportLine::parse(b"sid=\"one\",msd=700").unwrap();
    for _ in 0..2 {
        let replica = ViewerExperience::new(ExperienceConfig::default(), b"secret");
        let arrival = Arrival { at: Instant::now(), unix_ms: nats::estimated_broker_now_ms() };
        replica.table.take(reporter, &HeightLadder::default(), std::slice::from_ref(&line), arrival);
        let stopping = CancellationToken::new();
        stopping.cancel();
        replica.run(&bus, stopping).await;
        replica.write_rest(&bus, Duration::from_secs(5)).await;
    }
    let held = bus.load_record::<MediaExperience>(&FILM.to_string()).await.unwrap().unwrap();
    let sum = held.record.sum_since(0);
    assert_eq!((sum.views, sum.start_percentile_ms(50)), (2, Some(800)));
}

//! What strangers, other sites and owners get to see, over real connections.

use nats::{Outbox, Role, VersionedRecord};
use schemas::{
    document::MediaDocumentRecord,
    gate::{GateRule, MediaGate},
    ids::MediaId,
    media::{MediaRecord, MediaStatus, MediaSummary},
};
use serde_json::Value;

use super::SharingConfig;
use crate::tests::{Answer, Site, asset};

/// The start of a JPEG file of 320 x 180 pixels (ITU-T T.81, B.2.2).
const POSTER: &[u8] =
    &[0xff, 0xd8, 0xff, 0xc0, 0, 17, 8, 0, 180, 1, 64, 3, 1, 0x22, 0, 2, 0x11, 1, 3, 0x11, 1, 0xff, 0xd9];
const TITLE: &str = "Tom & \"Jerry\" <b>";

/// Media that a test looks at, by number.
struct Shelf {
    site: Site,
    bus: nats::Bus,
}

impl Shelf {
    async fn start(sharing: SharingConfig) -> Self {
        let site = Site::start(|config| config.sharing = sharing).await;
        site.store.put("media/film/enc/1/poster.jpg", POSTER).await.unwrap();
        let bus = site.broker.bus(Role::Admin).await;
        Self { site, bus }
    }

    /// A film of 1920 x 1080 with a poster.
    async fn create(
        &self,
        number: u8,
        rule: Option<GateRule>,
        change: impl FnOnce(&mut MediaRecord),
    ) -> MediaId {
        let media_id = MediaId::from_bytes([number; 16]);
        let mut film = asset(media_id, "somebody", MediaStatus::Ready);
        film.encode.as_mut().unwrap().has_poster = true;
        film.summary = Some(MediaSummary {
            container: "mp4".into(),
            duration_ms: 1_000,
            width: 1_920,
            height: 1_080,
            frame_rate_milli: 25_000,
            video_codec: None,
            audio_codecs: Vec::new(),
            languages: Vec::new(),
            renditions: Vec::new(),
        });
        change(&mut film);
        let document = MediaDocumentRecord {
            title: TITLE.to_owned(),
            description: Some("What it's about".to_owned()),
            gate: rule.map(|rule| MediaGate {
                epoch: 1,
                rule: Some(rule),
                rule_digest: String::new(),
                changed_at_ms: 1,
            }),
            ..MediaDocumentRecord::new(media_id, "somebody".to_owned(), 1)
        };
        self.bus.commit_record(&mut VersionedRecord::new(film), Outbox::new()).await.unwrap();
        self.bus.commit_record(&mut VersionedRecord::new(document), Outbox::new()).await.unwrap();
        media_id
    }

    async fn get(&self, path: &str) -> Answer {
        self.site.ask("GET", path, "", "").await
    }

    async fn oembed(&self, url: &str, more: &str) -> (u16, Value) {
        let url = percent_encoding::utf8_percent_encode(url, percent_encoding::NON_ALPHANUMERIC);
        let answer = self.get(&format!("/v1/oembed?url={url}{more}")).await;
        (answer.status, serde_json::from_str(&answer.body).unwrap())
    }

    /// Status and type of the poster, for a stranger or for the administrator.
    async fn poster(&self, media_id: MediaId, is_admin: bool) -> (u16, Option<String>, Vec<u8>) {
        let client = reqwest::Client::builder().no_proxy().build().unwrap();
        let mut request = client.get(format!("http://{}/v1/media/{media_id}/poster", self.site.address));
        if is_admin {
            request = request.bearer_auth(&self.site.key);
        }
        let response = request.send().await.unwrap();
        let policy = response.headers()["cross-origin-resource-policy"].to_str().unwrap();
        let is_public = response
            .headers()
            .get("cache-control")
            .is_some_and(|v| v.to_str().unwrap().starts_with("public"));
        assert_eq!(policy, if is_public { "cross-origin" } else { "same-origin" }, "{media_id}");
        let caching = response.headers().get("cache-control").map(|v| v.to_str().unwrap().to_owned());
        (response.status().as_u16(), caching, response.bytes().await.unwrap().to_vec())
    }
}

/// Media that strangers may know nothing of.
async fn hidden(shelf: &Shelf) -> Vec<MediaId> {
    let not_public = GateRule::Not { rule: Box::new(GateRule::Public {}) };
    let removed = shelf.create(13, Some(GateRule::Public {}), |_| ()).await;
    let gone = |found: Option<&MediaDocumentRecord>| Some((found?.clone().into_removed(2), Outbox::new()));
    shelf.bus.change_record(&removed.to_string(), gone).await.unwrap().unwrap();
    vec![
        shelf.create(11, None, |_| ()).await,
        shelf.create(12, Some(not_public), |_| ()).await,
        removed,
        shelf.create(14, Some(GateRule::Public {}), |film| film.status = MediaStatus::Failed).await,
        MediaId::from_bytes([99; 16]),
    ]
}

#[tokio::test]
async fn a_link_to_a_public_medium_says_what_it_is() {
    let shelf = Shelf::start(SharingConfig::default()).await;
    let shown = shelf.create(1, Some(GateRule::Public {}), |_| ()).await;
    let page = shelf.get(&format!("/watch/{shown}")).await;
    let base = "http://localhost";
    for part in [
        "<title>Tom &amp; &quot;Jerry&quot; &lt;b&gt; · StreamGate</title>".to_owned(),
        "<meta property=\"og:title\" content=\"Tom &amp; &quot;Jerry&quot; &lt;b&gt;\">".to_owned(),
        "<meta property=\"og:description\" content=\"What it's about\">".to_owned(),
        format!("<meta property=\"og:image\" content=\"{base}/v1/media/{shown}/poster\">"),
        format!("<meta property=\"og:video\" content=\"{base}/embed/{shown}\">"),
        format!("<meta property=\"og:url\" content=\"{base}/watch/{shown}\">"),
    ] {
        assert!(page.body.contains(&part), "{part} in {}", page.body);
    }
    let oembed = page.body.split("type=\"application/json+oembed\" href=\"").nth(1).unwrap();
    let oembed = oembed.split('"').next().unwrap().strip_prefix(base).unwrap();
    assert_eq!(shelf.get(oembed).await.status, 200, "{oembed}");
    assert_eq!(page.body.matches("<title>").count(), 1);
    // Another title is another page.
    let change = |found: Option<&MediaDocumentRecord>| {
        Some((MediaDocumentRecord { title: "New".into(), ..found?.clone() }, Outbox::new()))
    };
    shelf.bus.change_record(&shown.to_string(), change).await.unwrap().unwrap();
    let known = format!("If-None-Match: {}\r\n", page.header("etag").unwrap());
    let again = shelf.site.ask("GET", &format!("/watch/{shown}"), &known, "").await;
    assert!(again.body.contains("<title>New · StreamGate</title>"), "{again:?}");
    let known = format!("If-None-Match: {}\r\n", again.header("etag").unwrap());
    assert_eq!(shelf.site.ask("GET", &format!("/watch/{shown}"), &known, "").await.status, 304);

    let none = shelf.get(&format!("/watch/{}", MediaId::from_bytes([98; 16]))).await;
    for hidden in hidden(&shelf).await {
        let page = shelf.get(&format!("/watch/{hidden}")).await;
        assert_eq!((page.status, &page.body), (200, &none.body), "a page that says nothing of {hidden}");
        let (status, _) = shelf.oembed(&format!("{base}/watch/{hidden}"), "").await;
        assert_eq!(status, 404, "{hidden}");
    }
}

#[tokio::test]
async fn an_editor_gets_what_embeds_a_medium() {
    let shelf = Shelf::start(SharingConfig::default()).await;
    let film = shelf.create(1, Some(GateRule::Public {}), |_| ()).await;
    let url = format!("https://localhost/watch/{film}?x=1#t");
    let (status, answer) = shelf.oembed(&url, "&format=json&maxwidth=640&dnt=1").await;
    assert_eq!(status, 200, "{answer}");
    assert_eq!((&answer["version"], &answer["type"]), (&"1.0".into(), &"video".into()));
    assert_eq!(
        (&answer["title"], &answer["width"], &answer["height"]),
        (&TITLE.into(), &640.into(), &360.into())
    );
    let html = answer["html"].as_str().unwrap();
    assert!(html.contains(&format!("src=\"http://localhost/embed/{film}\"")), "{html}");
    assert!(html.contains("title=\"Tom &amp; &quot;Jerry&quot; &lt;b&gt;\""), "{html}");
    assert_eq!((&answer["thumbnail_width"], &answer["thumbnail_height"]), (&320.into(), &180.into()));
    // What is larger than asked for is not offered.
    let (_, small) = shelf.oembed(&url, "&maxwidth=200&maxheight=50").await;
    assert_eq!((&small["width"], &small["height"]), (&88.into(), &50.into()), "{small}");
    assert_eq!(small.get("thumbnail_url"), None);

    let still = |film: &mut MediaRecord| film.encode.as_mut().unwrap().renditions.clear();
    let still = shelf.create(2, Some(GateRule::Public {}), still).await;
    let (_, answer) = shelf.oembed(&format!("http://localhost/embed/{still}"), "").await;
    let poster = format!("http://localhost/v1/media/{still}/poster");
    assert_eq!((&answer["type"], &answer["url"]), (&"photo".into(), &poster.into()), "{answer}");
    let sound = |film: &mut MediaRecord| film.summary.as_mut().unwrap().width = 0;
    let sound = shelf.create(3, Some(GateRule::Public {}), sound).await;
    let (_, answer) = shelf.oembed(&format!("http://localhost/watch/{sound}"), "").await;
    assert_eq!(answer["type"], "rich", "{answer}");

    for (url, more, wanted) in [
        (format!("http://localhost/watch/{film}"), "&format=xml", 501),
        (format!("http://elsewhere/watch/{film}"), "", 404),
        (format!("http://localhost.elsewhere/watch/{film}"), "", 404),
        (format!("http://localhost/play/{film}"), "", 404),
        ("nonsense".to_owned(), "", 404),
        (String::new(), "", 404),
    ] {
        let (status, answer) = shelf.oembed(&url, more).await;
        assert_eq!(status, wanted, "{url} {answer}");
    }
}

#[tokio::test]
async fn a_poster_is_everybodys_or_its_owners() {
    let shelf = Shelf::start(SharingConfig::default()).await;
    let shown = shelf.create(1, Some(GateRule::Public {}), |_| ()).await;
    let cached = |kind: &str| Some(format!("{kind}, max-age=60"));
    assert_eq!(shelf.poster(shown, false).await, (200, cached("public"), POSTER.to_vec()));
    let bare = |film: &mut MediaRecord| film.encode.as_mut().unwrap().has_poster = false;
    let bare = shelf.create(2, Some(GateRule::Public {}), bare).await;
    assert_eq!(shelf.poster(bare, false).await.0, 404);
    let mut by_admin = Vec::new();
    for hidden in hidden(&shelf).await {
        assert_eq!(shelf.poster(hidden, false).await.0, 404, "{hidden}");
        by_admin.push(shelf.poster(hidden, true).await.0);
    }
    assert_eq!(by_admin, [200, 200, 404, 200, 404], "who may see the medium sees its poster");
}

#[tokio::test]
async fn only_sites_that_are_named_frame_the_player_and_none_the_other_pages() {
    let named = SharingConfig {
        frame_ancestors: vec!["https://blog.example.org".to_owned()],
        ..SharingConfig::default()
    };
    for (sharing, wanted) in [
        (SharingConfig::default(), "frame-ancestors *"),
        (named, "frame-ancestors 'self' https://blog.example.org"),
        (SharingConfig { frame_ancestors: Vec::new(), ..SharingConfig::default() }, "frame-ancestors 'self'"),
    ] {
        let shelf = Shelf::start(sharing).await;
        let film = shelf.create(1, Some(GateRule::Public {}), |_| ()).await;
        let policy = async |path: &str| {
            let page = shelf.get(path).await;
            let policy = page.header("content-security-policy").unwrap().to_owned();
            policy.rsplit("; ").next().unwrap().to_owned()
        };
        assert_eq!(policy(&format!("/embed/{film}")).await, wanted);
        for path in [&format!("/watch/{film}"), "/", "/docs"] {
            let policy = policy(path).await;
            assert!(
                ["frame-ancestors 'self'", "frame-ancestors 'none'"].contains(&policy.as_str()),
                "{path} {policy}"
            );
        }
    }
    for wrong in
        [&["*", "https://a.example"][..], &["blog.example.org"], &["https://a.example/path"], &["'none'; x"]]
    {
        let frame_ancestors = wrong.iter().map(ToString::to_string).collect();
        let config = SharingConfig { frame_ancestors, ..SharingConfig::default() };
        assert!(config.frame_sources().is_err(), "{wrong:?}");
    }
}

#[tokio::test]
async fn visitors_get_no_list_unless_the_operator_wants_it() {
    let shelf = Shelf::start(SharingConfig::default()).await;
    shelf.create(1, Some(GateRule::Public {}), |_| ()).await;
    assert_eq!(shelf.get("/v1/library").await.status, 204);
}

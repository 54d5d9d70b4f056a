//! The watch page in real browsers: it plays, time advances, every rung can be chosen, it ends, and the console shows no error.

use serde_json::json;

use crate::webdriver::{Browser, PATIENCE, Page, in_browser};

/// What plays the video, chosen by the page's own query parameter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Player {
    /// The browser's own HLS player.
    Native,
    /// hls.js over Media Source Extensions.
    HlsJs,
}

impl Player {
    fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::HlsJs => "hls.js",
        }
    }
}

/// Opens the page and plays to the end; with hls.js every one of the `rungs` is chosen and seen. Panics with what the page showed.
pub(crate) async fn plays(browser: Browser, watch_url: &str, player: Player, rungs: usize) {
    let url = with_player(watch_url, player);
    browser
        .run(true, async |page| {
            page.open(&url).await;
            page.has_started(player).await;
            match player {
                Player::HlsJs => page.offers_rungs(rungs).await,
                Player::Native => assert!(
                    !page.truth("!document.getElementById('quality-field').hidden").await,
                    "native has no menu"
                ),
            }
            page.ends().await;
        })
        .await;
}

/// Opens the page as a viewer does, in a browser in which hls.js cannot go on: the browser's own player takes over.
pub(crate) async fn plays_when_one_player_fails(watch_url: &str) {
    in_browser(async |page| {
        page.extend("MediaSource.prototype.addSourceBuffer = () => { throw new DOMException('refused', 'NotSupportedError'); };")
            .await;
        page.open(watch_url).await;
        page.until("page.dataset.player === 'native' && page.dataset.state === 'playing' && video.currentTime > 0.3").await;
        assert!(!page.truth("!document.getElementById('quality-field').hidden").await, "native has no menu");
    })
    .await;
}

/// Opens the page as the owner, with an API key, and gives what it says is left out of the source, a line each.
pub(crate) async fn shows_warnings(watch_url: &str, api_key: &str) -> Vec<String> {
    let mut shown = Vec::new();
    in_browser(async |page| {
        page.open(watch_url).await;
        page.until("page.dataset.state === 'sign-in'").await;
        page.sign_in(api_key).await;
        page.until("!document.getElementById('warnings').hidden").await;
        page.click("#warning-count").await;
        let lines = "return [...document.querySelectorAll('#warning-list li')].filter((li) => li.checkVisibility()).map((li) => li.textContent)";
        shown = serde_json::from_value(page.run(lines).await).unwrap();
    })
    .await;
    shown
}

/// Opens the page by its link and clicks a scene, counted from 0, which begins at a time in seconds.
pub(crate) async fn goes_to_scene(watch_url: &str, scene: usize, at_seconds: f64) {
    in_browser(async |page| {
        page.open(watch_url).await;
        page.until("page.dataset.state === 'playing' && !document.getElementById('scenes').hidden").await;
        page.run("video.pause(); video.currentTime = 0; return true").await;
        page.until("!video.seeking && video.currentTime < 1").await;
        page.click(&format!("#scenes li:nth-child({}) button", scene + 1)).await;
        // Sooner than playing would come there.
        page.until_within(&format!("!video.seeking && video.currentTime >= {at_seconds}"), PATIENCE / 4)
            .await;
        assert_eq!(page.run("return document.documentElement.scrollWidth <= innerWidth").await, json!(true));
    })
    .await;
}

/// Opens the page by its link and goes on to a chapter, counted from 0, by the keyboard; it begins at a time in seconds.
pub(crate) async fn goes_to_chapter(watch_url: &str, chapter: usize, title: &str, at_seconds: f64) {
    in_browser(async |page| {
        page.open(watch_url).await;
        page.until("page.dataset.state === 'playing' && !document.getElementById('chapters').hidden").await;
        page.run("video.pause(); video.currentTime = 0; return true").await;
        page.until("!video.seeking && video.currentTime < 1").await;
        let button = format!("document.querySelector('#chapters li:nth-child({}) button')", chapter + 1);
        let text = page.run(&format!("{button}.focus(); return {button}.textContent")).await;
        assert!(text.as_str().unwrap().contains(title), "{text}");
        assert!(page.truth(&format!("document.activeElement === {button}")).await, "a keyboard reaches it");
        page.click(&format!("#chapters li:nth-child({}) button", chapter + 1)).await;
        page.until_within(&format!("!video.seeking && video.currentTime >= {at_seconds}"), PATIENCE / 4)
            .await;
        page.until(&format!("{button}.getAttribute('aria-current') === 'true'")).await;
    })
    .await;
}

/// Opens the page of a still picture by its link: it is shown, and there is nothing to play.
pub(crate) async fn shows_picture(watch_url: &str) {
    in_browser(async |page| {
        page.open(watch_url).await;
        let picture = "document.getElementById('picture')";
        page.until(&format!(
            "page.dataset.state === 'ready' && {picture}.naturalWidth === 320 && {picture}.checkVisibility()"
        ))
        .await;
        assert!(
            page.truth(&format!("{picture}.alt !== '' && !video.checkVisibility()")).await,
            "for who sees and who does not"
        );
        assert_eq!(page.run("return document.getElementById('status').textContent").await, json!(""));
    })
    .await;
}

/// Opens the page, turns on the subtitles of a name, and gives the texts that are shown at some times in seconds.
pub(crate) async fn shows_subtitles(watch_url: &str, label: &str, times: &[f64]) -> Vec<String> {
    let mut shown = Vec::new();
    in_browser(async |page| {
        page.open(watch_url).await;
        page.has_started(Player::HlsJs).await;
        let track = format!("[...video.textTracks].find((track) => track.label === '{label}')");
        page.until(&track).await;
        page.run(&format!("{track}.mode = 'showing'; video.pause(); return true")).await;
        for at in times {
            page.run(&format!("video.currentTime = {at}; return true")).await;
            // All cues of the buffer are there once those of its end are.
            page.until(&format!("!video.seeking && {track}.cues?.length > 3")).await;
            let text = page
                .run(&format!(
                    "return [...{track}.activeCues].map((cue) => cue.getCueAsHTML().textContent).join(' / ')"
                ))
                .await;
            shown.push(text.as_str().unwrap().to_owned());
        }
        assert_eq!(page.console_errors().await, Vec::<String>::new());
    })
    .await;
    shown
}

/// Opens the page without a token, types the API key into the form that it shows, and plays. A wrong key is tried and refused
/// first.
pub(crate) async fn plays_after_sign_in(watch_url: &str, api_key: &str) {
    let url = watch_url.split('#').next().unwrap_or_default().to_owned();
    in_browser(async |page| {
        page.open(&url).await;
        page.until("page.dataset.state === 'sign-in'").await;
        page.sign_in("not-a-key").await;
        page.until("page.dataset.state === 'sign-in' && /\\(.+\\)$/.test(document.getElementById('status').textContent)").await;
        // The browser itself reports the two refusals it was sent to provoke.
        assert_eq!(page.console_errors().await.iter().filter(|line| !line.contains("401")).count(), 0);
        page.sign_in(api_key).await;
        // Nobody asked for a player: Chromium says that it may play HLS itself, and is not believed.
        page.until("page.dataset.player === 'hls.js' && page.dataset.state === 'playing' && video.currentTime > 0.2").await;
    })
    .await;
}

/// The query stands before the fragment, which holds the token.
fn with_player(watch_url: &str, player: Player) -> String {
    let (address, fragment) = watch_url.split_once('#').unwrap_or((watch_url, ""));
    let separator = if address.contains('?') { '&' } else { '?' };
    format!("{address}{separator}player={}#{fragment}", player.name())
}

impl Page {
    async fn has_started(&self, player: Player) {
        self.until(&format!("page.dataset.player === '{}'", player.name())).await;
        self.until("page.dataset.state === 'playing' && video.currentTime > 0.3 && video.videoHeight > 0")
            .await;
        self.advances().await;
    }

    /// From its start the video plays half a second, in about that time.
    async fn advances(&self) {
        self.run("video.currentTime = 0; return video.play().then(() => true)").await;
        self.until("!video.paused && !video.seeking && video.currentTime > 0.5 && video.error === null")
            .await;
    }

    async fn offers_rungs(&self, rungs: usize) {
        let heights = self.run("return [...document.querySelectorAll('#quality option')].map((one) => Number(one.dataset.height ?? 0))").await;
        let heights: Vec<u64> = serde_json::from_value(heights).unwrap();
        assert_eq!(heights.len(), rungs + 1, "automatic and each rung: {heights:?}");
        for (place, height) in heights.iter().enumerate().skip(1) {
            self.run("video.currentTime = 0; return true").await;
            self.choose(place).await;
            self.until(&format!("video.videoHeight === {height} && page.dataset.level === document.getElementById('quality').value")).await;
            self.advances().await;
        }
        self.choose(0).await;
        self.advances().await;
    }

    /// Picks from the menu as a person does; `place` counts from 0, which is automatic.
    async fn choose(&self, place: usize) {
        self.click(&format!("#quality option:nth-child({})", place + 1)).await;
    }

    async fn sign_in(&self, api_key: &str) {
        self.type_into("#key", api_key).await;
        self.click("#sign-in button").await;
        self.until("page.dataset.state !== 'starting'").await;
    }

    async fn ends(&self) {
        self.run("video.currentTime = Math.max(0, video.duration - 1); return video.play().then(() => true)")
            .await;
        self.until("video.ended && video.error === null").await;
        assert_eq!(self.run("return document.getElementById('status').textContent").await, json!(""));
        self.check_console().await;
    }
}

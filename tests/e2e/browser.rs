//! The watch page in a real Chromium, driven over WebDriver: it plays, time advances, every rung can be chosen, it ends, and the
//! console shows no error.
//!
//! Limits: 20 s for each thing that must happen on the page. The browser resolves no name, so that it reaches nothing but this
//! machine.

use std::panic::AssertUnwindSafe;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::wd::{TimeoutConfiguration, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use futures::FutureExt;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

/// How long anything on the page may take before the test fails and says what the page shows.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How often chromedriver is started for one browser.
const DRIVER_STARTS_MAX: u32 = 3;

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
pub(crate) async fn plays(watch_url: &str, player: Player, rungs: usize) {
    let url = with_player(watch_url, player);
    in_browser(async |page| {
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

pub(crate) struct Page {
    client: Client,
}

impl Page {
    /// Runs `script` before the scripts of every document that is opened from now on, as an extension of the browser does.
    pub(crate) async fn extend(&self, script: &str) {
        let parameters =
            json!({ "cmd": "Page.addScriptToEvaluateOnNewDocument", "params": { "source": script } });
        self.client.issue_cmd(Own { path: "goog/cdp/execute", parameters }).await.unwrap();
    }

    pub(crate) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

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

    /// Clicks what the CSS selector finds.
    pub(crate) async fn click(&self, selector: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    /// Picks from the menu as a person does; `place` counts from 0, which is automatic.
    async fn choose(&self, place: usize) {
        self.click(&format!("#quality option:nth-child({})", place + 1)).await;
    }

    async fn sign_in(&self, api_key: &str) {
        let field = self.client.find(Locator::Css("#key")).await.unwrap();
        field.send_keys(api_key).await.unwrap();
        self.click("#sign-in button").await;
        self.until("page.dataset.state !== 'starting'").await;
    }

    async fn ends(&self) {
        self.run("video.currentTime = Math.max(0, video.duration - 1); return video.play().then(() => true)")
            .await;
        self.until("video.ended && video.error === null").await;
        assert_eq!(self.run("return document.getElementById('status').textContent").await, json!(""));
        assert_eq!(self.console_errors().await, Vec::<String>::new());
    }

    /// Waits in the page until the JavaScript `condition` over `page` and `video` holds.
    pub(crate) async fn until(&self, condition: &str) {
        self.until_within(condition, PATIENCE).await;
    }

    /// The same with another patience, at most twice the usual one.
    pub(crate) async fn until_within(&self, condition: &str, patience: Duration) {
        let script = format!(
            "const [deadlineMs, done] = arguments;
             const page = document.getElementById('page'), video = document.getElementById('video');
             const from = performance.now();
             const timer = setInterval(() => {{
               const holds = Boolean({condition});
               if (!holds && performance.now() - from < deadlineMs) return;
               clearInterval(timer);
               done(holds);
             }}, 25);"
        );
        let deadline_ms = u64::try_from(patience.as_millis()).unwrap();
        let holds = self.client.execute_async(&script, vec![json!(deadline_ms)]).await.unwrap();
        assert_eq!(holds, json!(true), "never on the page: {condition}\n{}", self.shown().await);
    }

    async fn truth(&self, expression: &str) -> bool {
        self.run(&format!("return Boolean({expression})")).await == json!(true)
    }

    pub(crate) async fn run(&self, body: &str) -> Value {
        let script = format!(
            "const page = document.getElementById('page'), video = document.getElementById('video'); {body}"
        );
        self.client.execute(&script, Vec::new()).await.unwrap()
    }

    /// What a person would report: state and text of the page, the video's clock, and the console.
    async fn shown(&self) -> String {
        let state = self
            .run(
                "return JSON.stringify({data: {...page.dataset}, text: page.innerText, error: video.error?.message, time: video.currentTime,
                 duration: video.duration, ended: video.ended, paused: video.paused, seeking: video.seeking, readyState: video.readyState,
                 size: [video.videoWidth, video.videoHeight]})",
            )
            .await;
        format!("page: {state}\nconsole: {:#?}", self.console_errors().await)
    }

    /// The errors in the browser's console since the last call, script errors and refused loads among them.
    pub(crate) async fn console_errors(&self) -> Vec<String> {
        let log = Own { path: "se/log", parameters: json!({ "type": "browser" }) };
        let entries = self.client.issue_cmd(log).await.unwrap();
        let entries = entries.as_array().cloned().unwrap_or_default();
        entries
            .iter()
            .filter(|entry| entry["level"] == "SEVERE")
            .map(|entry| entry["message"].to_string())
            .collect()
    }
}

/// A WebDriver command of Chromium's own.
#[derive(Debug)]
struct Own {
    path: &'static str,
    parameters: Value,
}

impl WebDriverCompatibleCommand for Own {
    fn endpoint(&self, base_url: &url::Url, session_id: Option<&str>) -> Result<url::Url, url::ParseError> {
        base_url.join(&format!("session/{}/{}", session_id.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _request_url: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.parameters.to_string()))
    }
}

/// Runs `story` in a fresh browser with a fresh profile; the browser is gone afterwards, also when the story fails.
pub(crate) async fn in_browser(story: impl AsyncFnOnce(&Page)) {
    in_browser_with(&[], story).await;
}

/// The same with more arguments of the browser.
pub(crate) async fn in_browser_with(more: &[&str], story: impl AsyncFnOnce(&Page)) {
    let profile = tempfile::tempdir().unwrap();
    let (mut driver, port) = start_driver().await;
    let capabilities = json!({
        "browserName": "chrome",
        "goog:loggingPrefs": { "browser": "ALL" },
        "goog:chromeOptions": { "binary": browser_binary(), "args": browser_arguments(profile.path(), more) },
    });
    let Value::Object(capabilities) = capabilities else { unreachable!("an object is written above") };
    // The driver is on this machine, so plain HTTP it is.
    let client = ClientBuilder::new(HttpConnector::new())
        .capabilities(capabilities)
        .connect(&format!("http://127.0.0.1:{port}"))
        .await
        .unwrap();
    client
        .update_timeouts(TimeoutConfiguration::new(Some(PATIENCE * 3), Some(PATIENCE), None))
        .await
        .unwrap();
    let page = Page { client };
    let outcome = AssertUnwindSafe(story(&page)).catch_unwind().await;
    page.client.close().await.unwrap();
    driver.kill().await.unwrap();
    if let Err(panic) = outcome {
        std::panic::resume_unwind(panic);
    }
}

/// Starts chromedriver. The port that it picks for IPv4 may be taken for IPv6, and then it ends: it picks another one.
async fn start_driver() -> (Child, u16) {
    for _ in 0..DRIVER_STARTS_MAX {
        if let Some(started) = try_start_driver().await {
            return started;
        }
    }
    panic!("chromedriver ended before it said its port, {DRIVER_STARTS_MAX} times");
}

/// None when it ends before it says its port.
async fn try_start_driver() -> Option<(Child, u16)> {
    let mut driver = Command::new("chromedriver")
        .arg("--port=0")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .expect("chromedriver is installed by `.ci/setup test`");
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let started = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let port = line.strip_prefix("ChromeDriver was started successfully on port ");
            if let Some(port) = port.and_then(|rest| rest.trim_end_matches('.').parse().ok()) {
                return Some(port);
            }
        }
        None
    };
    let port = tokio::time::timeout(PATIENCE, started).await.expect("chromedriver says its port");
    port.map(|port| (driver, port))
}

fn browser_binary() -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = ["chromium", "chromium-browser", "google-chrome"].iter().find_map(|name| {
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    });
    found.expect("a Chromium is installed by `.ci/setup test`").display().to_string()
}

fn browser_arguments(profile: &std::path::Path, more: &[&str]) -> Vec<String> {
    let mut arguments: Vec<String> = [
        "--headless=new",
        // The browser ends when the driver does, however that ended: a test killed for being stuck leaves none behind.
        "--remote-debugging-pipe",
        // As root and in containers there is no user namespace to build Chromium's own sandbox from.
        "--no-sandbox",
        "--disable-gpu",
        "--disable-dev-shm-usage",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-default-apps",
        "--disable-domain-reliability",
        "--disable-sync",
        "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1, EXCLUDE localhost",
        "--window-size=1280,900",
    ]
    .map(str::to_owned)
    .into();
    arguments.push(format!("--user-data-dir={}", profile.display()));
    arguments.extend(more.iter().map(ToString::to_string));
    arguments
}

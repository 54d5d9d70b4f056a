//! Real browsers, driven over WebDriver: a window that is opened, clicked and read.
//!
//! Limits: 20 s for each thing that must happen on a page. The browsers resolve no name, so that they reach nothing but this
//! machine.

use std::panic::AssertUnwindSafe;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use fantoccini::wd::{TimeoutConfiguration, WebDriverCompatibleCommand};
use fantoccini::{Client, ClientBuilder, Locator};
use futures::FutureExt;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::harness::poll;

/// How long anything on the page may take before the test fails and says what the page shows.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// How often a driver is started for one browser.
const DRIVER_STARTS_MAX: u32 = 3;

/// What a test does and sees in one window of a browser.
pub(crate) struct Page {
    browser: Browser,
    client: Client,
}

impl Page {
    /// Runs `script` before the scripts of every document that is opened from now on, as an extension of the browser does.
    pub(crate) async fn extend(&self, script: &str) {
        self.command("Page.addScriptToEvaluateOnNewDocument", json!({ "source": script })).await;
    }

    /// Sends a command of the Chrome DevTools Protocol.
    pub(crate) async fn command(&self, name: &str, params: Value) {
        assert_eq!(self.browser, Browser::Chromium, "it is a command of Chromium's own");
        let parameters = json!({ "cmd": name, "params": params });
        self.client.issue_cmd(Own { path: "goog/cdp/execute", parameters }).await.unwrap();
    }

    /// Loads the page again, as a person does; a question whether to leave it is answered with yes.
    pub(crate) async fn reload(&self) {
        self.client.refresh().await.unwrap();
    }

    /// What is seen, as PNG.
    pub(crate) async fn screenshot(&self) -> Vec<u8> {
        self.client.screenshot().await.unwrap()
    }

    /// Presses keys where the focus is.
    pub(crate) async fn press(&self, keys: &str) {
        self.client.active_element().await.unwrap().send_keys(keys).await.unwrap();
    }

    pub(crate) async fn open(&self, url: &str) {
        self.client.goto(url).await.unwrap();
    }

    /// Looks into a frame of the page from now on, until another page is opened.
    pub(crate) async fn enter_frame(&self, index: u16) {
        self.client.enter_frame(index).await.unwrap();
    }

    /// Clicks what the CSS selector finds.
    pub(crate) async fn click(&self, selector: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().click().await.unwrap();
    }

    /// Types into the field that the CSS selector finds.
    pub(crate) async fn type_into(&self, selector: &str, text: &str) {
        self.client.find(Locator::Css(selector)).await.unwrap().send_keys(text).await.unwrap();
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

    pub(crate) async fn truth(&self, expression: &str) -> bool {
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
                "return JSON.stringify({data: {...page?.dataset}, text: document.body.innerText, seen: window.seen, error: video?.error?.message, time: video?.currentTime,
                 duration: video?.duration, ended: video?.ended, paused: video?.paused, seeking: video?.seeking, readyState: video?.readyState,
                 size: [video?.videoWidth, video?.videoHeight]})",
            )
            .await;
        let console = match self.browser {
            Browser::Chromium => self.console_errors().await,
            Browser::Firefox => Vec::new(),
        };
        format!("page: {state}\nconsole: {console:#?}")
    }

    /// Panics when there is an error in the console of Chromium; that of Firefox can't be read by its driver.
    pub(crate) async fn check_console(&self) {
        if self.browser == Browser::Chromium {
            assert_eq!(self.console_errors().await, Vec::<String>::new());
        }
    }

    /// The errors in Chromium's console since the last call, script errors and refused loads among them.
    pub(crate) async fn console_errors(&self) -> Vec<String> {
        assert_eq!(self.browser, Browser::Chromium, "no other driver gives them");
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

/// Runs `story` in a fresh Chromium with a fresh profile; the browser is gone afterwards, also when the story fails.
pub(crate) async fn in_browser(story: impl AsyncFnOnce(&Page)) {
    Browser::Chromium.run(false, story).await;
}

/// What pages are shown in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Browser {
    Chromium,
    Firefox,
}

impl Browser {
    /// Those of this machine: Firefox where the distribution is Debian, whose package `.ci/setup test` installs.
    pub(crate) fn installed() -> &'static [Self] {
        let release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let is_debian = release.lines().any(|line| line == "ID=debian");
        if is_debian { &[Self::Chromium, Self::Firefox] } else { &[Self::Chromium] }
    }

    /// Runs `story` in a fresh browser with a fresh profile; the browser is gone afterwards, also when the story fails. What
    /// `is_clicked` plays with sound as if its visitor had clicked.
    pub(crate) async fn run(self, is_clicked: bool, story: impl AsyncFnOnce(&Page)) {
        let profile = tempfile::tempdir().unwrap();
        let mut sound = None;
        if self == Self::Firefox {
            sound = Some(start_sound(profile.path()).await);
        }
        let (mut driver, port) = self.start_driver(profile.path()).await;
        let capabilities = match self {
            Self::Chromium => chromium_capabilities(profile.path(), is_clicked),
            Self::Firefox => firefox_capabilities(is_clicked),
        };
        let Value::Object(capabilities) = capabilities else { unreachable!("objects are written below") };
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
        let page = Page { browser: self, client };
        let outcome = AssertUnwindSafe(story(&page)).catch_unwind().await;
        let closed = page.client.close().await;
        driver.kill().await.unwrap();
        if let Some(mut sound) = sound {
            sound.kill().await.unwrap();
        }
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
        closed.unwrap();
    }

    /// Starts its driver. The port that chromedriver picks for IPv4 may be taken for IPv6, and then it ends: it picks another one.
    async fn start_driver(self, profile: &Path) -> (Child, u16) {
        for _ in 0..DRIVER_STARTS_MAX {
            if let Some(started) = self.try_start_driver(profile).await {
                return started;
            }
        }
        panic!("the driver of {self:?} ended before it said its port, {DRIVER_STARTS_MAX} times");
    }

    /// None when it ends before it says its port.
    async fn try_start_driver(self, profile: &Path) -> Option<(Child, u16)> {
        let (program, says) = match self {
            Self::Chromium => ("chromedriver", "ChromeDriver was started successfully on port "),
            Self::Firefox => ("geckodriver", "Listening on 127.0.0.1:"),
        };
        let mut driver = Command::new(program)
            .arg("--port=0")
            .env("PULSE_SERVER", sound_address(profile))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .unwrap_or_else(|error| panic!("{program} is installed by `.ci/setup test`: {error}"));
        let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
        let started = async {
            while let Some(line) = lines.next_line().await.unwrap() {
                if let Some((_, port)) = line.split_once(says) {
                    return port.trim_end_matches('.').parse().ok();
                }
            }
            None
        };
        let port = tokio::time::timeout(PATIENCE, started).await.expect("the driver says its port");
        // It says more, and ends when nobody listens.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        port.map(|port| (driver, port))
    }
}

fn sound_address(folder: &Path) -> String {
    format!("unix:{}", folder.join("sound").display())
}

/// A sound card without a loudspeaker: without one Firefox has no clock for sound, and pages never start it.
async fn start_sound(folder: &Path) -> Child {
    let socket = folder.join("sound");
    let protocol = format!("--load=module-native-protocol-unix socket={} auth-anonymous=1", socket.display());
    let mut sound = Command::new("pulseaudio")
        .args(["-n", "--daemonize=no", "--use-pid-file=no", "--exit-idle-time=-1", "--load=module-null-sink"])
        .arg(protocol)
        .env("HOME", folder)
        .env("XDG_RUNTIME_DIR", folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("pulseaudio is installed by `.ci/setup test`: {error}"));
    let is_open = async || {
        let ended = sound.try_wait().unwrap();
        assert!(ended.is_none(), "pulseaudio has ended: {ended:?}");
        socket.exists().then_some(())
    };
    poll(PATIENCE, is_open).await.expect("it opens its socket");
    sound
}

/// The first program of these names.
fn program_path(names: &[&str]) -> String {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = names.iter().find_map(|name| {
        std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
    });
    found.unwrap_or_else(|| panic!("one of {names:?} is installed by `.ci/setup test`")).display().to_string()
}

fn firefox_capabilities(is_clicked: bool) -> Value {
    // 0 allows sound, 1 refuses it until somebody clicks.
    let autoplay = u8::from(!is_clicked);
    json!({
        "browserName": "firefox",
        "moz:firefoxOptions": {
            "binary": program_path(&["firefox-esr"]),
            "args": ["-headless", "-width", "1280", "-height", "900"],
            "prefs": {
                "media.autoplay.default": autoplay,
                // Names of the network are resolved by a proxy that is not there; this machine needs none.
                "network.proxy.type": 1,
                "network.proxy.socks": "127.0.0.1",
                "network.proxy.socks_port": 9,
                "network.proxy.socks_remote_dns": true,
                "network.proxy.allow_hijacking_localhost": false,
            },
        },
    })
}

fn chromium_capabilities(profile: &Path, is_clicked: bool) -> Value {
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
    if is_clicked {
        arguments.push("--autoplay-policy=no-user-gesture-required".to_owned());
    }
    json!({
        "browserName": "chrome",
        "goog:loggingPrefs": { "browser": "ALL" },
        "goog:chromeOptions": {
            "binary": program_path(&["chromium", "chromium-browser", "google-chrome"]),
            "args": arguments,
        },
    })
}

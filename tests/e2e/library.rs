//! The library page in a real Chromium: everything that an owner does there, with nothing asked beside the page.

use std::{
    path::{Path, PathBuf},
    process::{Child, Command},
};

use fantoccini::key::Key;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    cli::{next, program, start},
    harness::sample,
    webdriver::{Browser, PATIENCE, Page},
};

/// `streamgate up` in a folder of its own; ended when dropped.
struct Site {
    dir: TempDir,
    server: Child,
    url: String,
    key: String,
    /// Signs in once.
    link: String,
}

impl Site {
    async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let args = ["up", "--json", "--profile", "tiny", "--listen", "127.0.0.1:0"];
        let (server, mut lines) = start(program(dir.path(), &args));
        let ready = next(&mut lines).await;
        let text = |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("{name}: {ready}")).to_owned();
        Self { server, url: text("url"), key: text("api_key"), link: text("library_url"), dir }
    }

    fn file(&self, name: &str, bytes: &[u8]) -> String {
        let path = self.dir.path().join(name);
        std::fs::write(&path, bytes).unwrap();
        path.display().to_string()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        Command::new("kill").args(["-TERM", &self.server.id().to_string()]).status().ok();
        self.server.wait().ok();
    }
}

/// A row whose title is `name`, as an expression.
fn row(name: &str) -> String {
    format!(
        "[...document.querySelectorAll('.medium')].find((one) => one.querySelector('h3').innerText === '{name}')"
    )
}

/// Nothing has gone wrong that the browser would report: no script failed, and the policy of the page refused nothing.
pub(crate) async fn has_clean_console(page: &Page, expected: &[&str]) {
    let errors = page.console_errors().await;
    let is_expected = |line: &String| expected.iter().any(|part| line.contains(part));
    assert!(errors.iter().all(is_expected), "{errors:?}");
}

/// axe finds nothing in light and dark, on a phone and on a desk, and nothing needs scrolling sideways.
pub(crate) async fn is_accessible(page: &Page, name: &str) {
    let axe =
        Path::new(env!("CARGO_MANIFEST_DIR")).join("src/ingress/library/node_modules/axe-core/axe.min.js");
    let axe = std::fs::read_to_string(&axe)
        .unwrap_or_else(|error| panic!("{} is installed by `.ci/setup test`: {error}", axe.display()));
    page.run(&axe).await;
    for (width, height, device) in [(360, 740, "phone"), (1280, 900, "desk")] {
        for theme in ["light", "dark"] {
            let size =
                json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500 });
            page.command("Emulation.setDeviceMetricsOverride", size).await;
            let theme_only = json!({ "features": [
                { "name": "prefers-color-scheme", "value": theme },
                { "name": "prefers-reduced-motion", "value": "reduce" },
            ] });
            page.command("Emulation.setEmulatedMedia", theme_only).await;
            page.until(&format!(
                "innerWidth === {width} && matchMedia('(prefers-color-scheme: {theme})').matches"
            ))
            .await;
            if let Some(folder) = std::env::var_os("LIBRARY_SCREENSHOTS") {
                let file = PathBuf::from(folder).join(format!("library-{name}-{device}-{theme}.png"));
                std::fs::write(file, page.screenshot().await).unwrap();
            }
            let wide = page.run("return document.documentElement.scrollWidth - innerWidth").await;
            assert!(wide.as_i64().unwrap() <= 0, "{name}, {device}: {wide} px too wide");
            page.run("window.found = null; axe.run().then(({ violations }) => (window.found = violations)); return true").await;
            page.until("window.found").await;
            let found = page.run("return window.found.map(({ id, nodes }) => [id, nodes.map(({ html, failureSummary }) => [html, failureSummary])])").await;
            assert_eq!(found, json!([]), "{name}, {device}, {theme}");
        }
    }
    page.command("Emulation.clearDeviceMetricsOverride", json!({})).await;
}

/// Signs in at the page with a key: it lists the medium, with its poster and the address it plays at.
pub(crate) async fn lists(library_url: &str, api_key: &str, media_id: &str) {
    Browser::Chromium
        .run(false, async |page| {
            page.open(library_url).await;
            page.until("page.dataset.view === 'sign-in'").await;
            page.type_into("#key", api_key).await;
            page.press(&Key::Enter.to_string()).await;
            has_signed_in(page).await;
            let row = format!("document.querySelector('[data-media-id=\"{media_id}\"]')");
            page.until(&format!("{row}.querySelector('.poster img')?.naturalWidth > 0")).await;
            let watch_url = page.run(&format!("return {row}.querySelector('h3 a').href")).await;
            assert_eq!(watch_url, json!(format!("{library_url}watch/{media_id}")));
            has_clean_console(page, &[]).await;
        })
        .await;
}

async fn has_signed_in(page: &Page) {
    page.until("page.dataset.view === 'library' && page.dataset.list === 'shown'").await;
}

/// Chooses a file and waits until it plays.
async fn uploads(page: &Page, path: &str) {
    let name = Path::new(path).file_name().unwrap().to_str().unwrap().to_owned();
    page.type_into("#files", path).await;
    page.until_within(&format!("{}?.dataset.status === 'ready'", row(&name)), PATIENCE * 2).await;
}

#[tokio::test]
async fn an_owner_uploads_publishes_watches_and_deletes_on_the_page_alone() {
    let site = Site::start().await;
    let clip = site.file("clip.mp4", &std::fs::read("tests/e2e/fixtures/bigbuckbunny.mp4").unwrap());
    let noise = site.file("notes.mp4", b"this is no film");
    Browser::Chromium
        .run(true, async |page| {
            let clipboard = json!({ "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"] });
            page.command("Browser.grantPermissions", clipboard).await;
            // The link signs in, and is out of the address at once.
            page.open(&site.link).await;
            has_signed_in(page).await;
            assert_eq!(page.run("return location.href").await, json!(format!("{}/", site.url)));
            page.until("document.querySelector('.empty')").await;
            uploads(page, &clip).await;
            page.until(&format!("{}.querySelector('.poster img')?.naturalWidth > 0", row("clip.mp4"))).await;
            page.until(&format!("{}.querySelector('.duration')?.textContent.includes('0:05')", row("clip.mp4"))).await;

            // What is no film says why.
            page.type_into("#files", &noise).await;
            page.until(&format!("{}?.dataset.status === 'rejected'", row("notes.mp4"))).await;
            page.until(&format!("/\\(.+\\)/.test({}.querySelector('.problem')?.textContent)", row("notes.mp4"))).await;
            is_accessible(page, "media").await;

            // It is the owner's alone until it is published.
            let watch_url = page.run(&format!("return {}.querySelector('h3 a').href", row("clip.mp4"))).await;
            let watch_url = watch_url.as_str().unwrap().to_owned();
            assert!(!plays_for_a_visitor(&watch_url).await, "nobody published it");
            page.until(&format!("{}.dataset.access === 'owner'", row("clip.mp4"))).await;
            page.click("[aria-label='Public: clip.mp4']").await;
            page.until(&format!("{}.dataset.access === 'everybody'", row("clip.mp4"))).await;
            page.until("document.getElementById('status').textContent.includes('Everybody')").await;
            page.click("[aria-label='Copy link to clip.mp4']").await;
            page.until("document.getElementById('status').textContent.includes('Link copied') || document.querySelector('.link input')").await;
            let shown = page.run("return document.querySelector('.link input')?.value ?? navigator.clipboard.readText()").await;
            assert_eq!(shown, json!(watch_url));
            assert!(plays_for_a_visitor(&watch_url).await, "it is published");

            // Deleting asks first, by keys alone, and leaves the focus on what is next.
            page.run("document.querySelector(`[aria-label='Delete clip.mp4']`).focus(); return true").await;
            page.press(&Key::Enter.to_string()).await;
            page.until("document.getElementById('confirm').open").await;
            page.press(&Key::Escape.to_string()).await;
            page.until("!document.getElementById('confirm').open && document.activeElement.getAttribute('aria-label') === 'Delete clip.mp4'").await;
            page.press(&Key::Enter.to_string()).await;
            page.until("document.getElementById('confirm').open").await;
            is_accessible(page, "confirm").await;
            page.click("#confirm [value='delete']").await;
            page.until(&format!("!{}", row("clip.mp4"))).await;
            page.until("document.activeElement.closest('.medium')?.dataset.status === 'rejected'").await;
            // What was deleted by mistake comes back as it was, and goes again.
            page.until("document.querySelector('#removed summary')").await;
            page.click("#removed summary").await;
            is_accessible(page, "removed").await;
            page.click("[aria-label='Restore clip.mp4']").await;
            page.until(&format!("{}?.dataset.access === 'everybody'", row("clip.mp4"))).await;
            page.until("!document.getElementById('removed')").await;
            assert!(plays_for_a_visitor(&watch_url).await, "it is there again");
            page.click("[aria-label='Delete clip.mp4']").await;
            page.until("document.getElementById('confirm').open").await;
            page.click("#confirm [value='delete']").await;
            page.until(&format!("!{}", row("clip.mp4"))).await;
            page.open(&format!("{}/", site.url)).await;
            has_signed_in(page).await;
            assert!(!page.truth(&row("clip.mp4")).await, "it is gone after a reload");
            has_clean_console(page, &[]).await;
        })
        .await;
}

/// Whether somebody without a key plays it.
async fn plays_for_a_visitor(watch_url: &str) -> bool {
    let mut plays = false;
    Browser::Chromium
        .run(true, async |page| {
            page.open(watch_url).await;
            page.until("page.dataset.state === 'sign-in' || (page.dataset.state === 'playing' && video.currentTime > 0.3)").await;
            plays = page.truth("page.dataset.state === 'playing'").await;
        })
        .await;
    plays
}

#[tokio::test]
async fn a_link_signs_in_once_and_a_wrong_key_is_refused() {
    let site = Site::start().await;
    Browser::Chromium
        .run(false, async |page| {
            page.open(&site.link).await;
            has_signed_in(page).await;
            page.click("#sign-out").await;
            page.until("page.dataset.view === 'sign-in'").await;
            is_accessible(page, "sign-in").await;
            page.open("about:blank").await;
            page.open(&site.link).await;
            page.until("page.dataset.view === 'sign-in' && document.querySelector('.sign-in .problem')?.textContent.includes('link_used')").await;
            assert_eq!(page.run("return location.href").await, json!(format!("{}/", site.url)));
            page.type_into("#key", "not-a-key").await;
            page.press(&Key::Enter.to_string()).await;
            page.until("document.querySelector('.sign-in .problem')?.textContent.includes('unauthorized')").await;
            page.type_into("#key", &site.key).await;
            page.press(&Key::Enter.to_string()).await;
            has_signed_in(page).await;
            // The key is this tab's alone.
            assert_eq!(page.run("return localStorage.length").await, json!(0));
            // The browser itself reports the two refusals.
            has_clean_console(page, &["401"]).await;
        })
        .await;
}

/// Nothing reaches the server while `window.cut` is aborted, and what goes on ends with it.
const CUT: &str = "
    const ask = window.fetch;
    window.cut = new AbortController();
    window.fetch = async (path, options = {}) => {
      const signals = [window.cut.signal, options.signal].filter(Boolean);
      try {
        return await ask(path, { ...options, signal: AbortSignal.any(signals) });
      } catch (error) {
        throw options.signal?.aborted ? error : new TypeError('Failed to fetch');
      }
    };
";

#[tokio::test]
async fn a_server_that_is_away_is_waited_for() {
    let site = Site::start().await;
    let clip = site.file("clip.mp4", &sample(2, "320x180", "25"));
    Browser::Chromium
        .run(true, async |page| {
            page.extend(CUT).await;
            page.open(&site.link).await;
            has_signed_in(page).await;
            uploads(page, &clip).await;
            page.run("window.cut.abort(); return true").await;
            page.until("page.dataset.list === 'away' && page.innerText.includes('cannot be reached')").await;
            is_accessible(page, "away").await;
            page.run("window.cut = new AbortController(); return true").await;
            page.until("page.dataset.list === 'shown'").await;
            assert!(page.truth(&row("clip.mp4")).await, "what was shown stays");
            has_clean_console(page, &[]).await;
        })
        .await;
}

#[tokio::test]
async fn an_upload_goes_on_after_a_reload_where_it_stopped() {
    let site = Site::start().await;
    // Long enough to be met on its way at the speed of the test.
    let mut film = sample(4, "320x180", "25");
    film.extend(free_box(24 << 20));
    let film = site.file("film.mp4", &film);
    Browser::Chromium
        .run(true, async |page| {
            page.open(&site.link).await;
            has_signed_in(page).await;
            slow_down(page, 4 << 20).await;
            page.type_into("#files", &film).await;
            let upload = "document.querySelector('.upload')";
            page.until(&format!(
                "{upload}?.dataset.state === 'sending' && {upload}.querySelector('progress').value >= 30"
            ))
            .await;
            page.click("[data-act='pause']").await;
            page.until(&format!("{upload}.dataset.state === 'paused'")).await;
            is_accessible(page, "upload").await;
            page.reload().await;
            has_signed_in(page).await;
            page.until("document.querySelector('.unfinished')?.innerText.includes('film.mp4')").await;
            is_accessible(page, "unfinished").await;
            slow_down(page, 8 << 20).await;
            page.type_into("#files", &film).await;
            // Nothing that the gateway had is sent again.
            page.until(&format!("Number({upload}?.dataset.held) >= 2 ** 20")).await;
            slow_down(page, -1).await;
            page.until_within(&format!("{}?.dataset.status === 'ready'", row("film.mp4")), PATIENCE * 2)
                .await;
            page.until(&format!("!{upload}")).await;
            page.until("!document.querySelector('.unfinished')").await;
            has_clean_console(page, &[]).await;
        })
        .await;
}

/// Limits what the page sends, in bytes a second; -1 for no limit.
async fn slow_down(page: &Page, bytes_per_s: i64) {
    let limits =
        json!({ "offline": false, "latency": 0, "downloadThroughput": -1, "uploadThroughput": bytes_per_s });
    page.command("Network.enable", json!({})).await;
    page.command("Network.emulateNetworkConditions", limits).await;
}

/// A box of ISO BMFF that players skip.
fn free_box(size_bytes: usize) -> Vec<u8> {
    let mut bytes = u32::try_from(size_bytes).unwrap().to_be_bytes().to_vec();
    bytes.extend(b"free");
    bytes.resize(size_bytes, 0);
    bytes
}

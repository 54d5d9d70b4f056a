//! What strangers and other sites see of public media, in a real Chromium.

use std::process::{Child, Command};

use axum::{Router, response::Html, routing::get};
use serde_json::{Value, json};

use crate::{
    cli::{next, program, run, start},
    library::{has_clean_console, is_accessible},
    webdriver::{Browser, PATIENCE},
};

/// `streamgate up` that shows public media to visitors.
struct Site {
    dir: tempfile::TempDir,
    server: Child,
    url: String,
    key: String,
}

impl Site {
    async fn start(settings: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("site.toml"), settings).unwrap();
        let args = ["up", "--json", "--profile", "tiny", "--listen", "127.0.0.1:0", "--config", "site.toml"];
        let (server, mut lines) = start(program(dir.path(), &args));
        let ready = next(&mut lines).await;
        let text = |name: &str| ready[name].as_str().unwrap_or_else(|| panic!("{name}: {ready}")).to_owned();
        Self { server, url: text("url"), key: text("api_key"), dir }
    }

    /// Uploads the clip, waits until it plays, and gives its id.
    async fn upload(&self, title: &str, more: &[&str]) -> String {
        let clip = format!("{}/tests/e2e/fixtures/bigbuckbunny.mp4", env!("CARGO_MANIFEST_DIR"));
        let said = run(program(
            self.dir.path(),
            &[
                &[
                    "upload",
                    &clip,
                    "--wait",
                    "--json",
                    "--title",
                    title,
                    "--url",
                    &self.url,
                    "--api-key",
                    &self.key,
                ][..],
                more,
            ]
            .concat(),
        ))
        .await;
        assert_eq!(said.status, 0, "{said:?}");
        let line: Value = serde_json::from_str(said.out.lines().last().unwrap()).unwrap();
        line["media_id"].as_str().unwrap().to_owned()
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        Command::new("kill").args(["-TERM", &self.server.id().to_string()]).status().ok();
        self.server.wait().ok();
    }
}

/// A page of another site, until the test ends.
async fn serve_page(html: String) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}", listener.local_addr().unwrap());
    let router = Router::new().route("/", get(|| async { Html(html) }));
    tokio::spawn(async move { axum::serve(listener, router).await.unwrap() });
    address
}

#[tokio::test]
async fn visitors_watch_what_is_public_and_other_sites_embed_it() {
    let site = Site::start("[ingress.sharing]\npublic_library = true\n").await;
    let shown = site.upload("A day at the sea", &["--public"]).await;
    let hidden = site.upload("My own", &[]).await;
    let watch_url = format!("{}/watch/{shown}", site.url);
    let asked = format!("{}/v1/oembed?maxwidth=600&url={watch_url}", site.url);
    let oembed: Value = reqwest::get(asked).await.unwrap().json().await.unwrap();
    let code = oembed["html"].as_str().unwrap_or_else(|| panic!("{oembed}")).to_owned();
    let closed = code.replace(&shown, &hidden);
    let elsewhere = serve_page(format!("<!doctype html><title>A blog</title>{code}{closed}")).await;
    Browser::Chromium
        .run(true, async |page| {
            page.open(&format!("{}/", site.url)).await;
            page.until("document.querySelector('.public-medium img')?.naturalWidth > 0").await;
            let names = page
                .run("return [...document.querySelectorAll('.public .name')].map((one) => one.innerText)")
                .await;
            assert_eq!(names, json!(["A day at the sea"]));
            // Who only looks is not led into the form.
            assert!(page.truth("document.activeElement === document.body").await);
            is_accessible(page, "public").await;
            page.click("#to-sign-in").await;
            page.until("document.activeElement.id === 'key'").await;
            page.click(".public-medium").await;
            page.until("page.dataset.state === 'playing' && video.currentTime > 0.3").await;
            assert_eq!(page.run("return document.title").await, json!("A day at the sea · StreamGate"));
            has_clean_console(page, &[]).await;

            page.open(&elsewhere).await;
            page.enter_frame(0).await;
            page.until("page.dataset.state === 'offered' && picture.naturalWidth > 0").await;
            page.click("#play").await;
            page.until("page.dataset.state === 'playing' && video.currentTime > 0.3 && !video.muted").await;
            let heights = page
                .run("return [video.videoHeight > 0, document.documentElement.scrollHeight <= innerHeight]")
                .await;
            assert_eq!(heights, json!([true, true]));
            // What is not public is said to be so, and leads to its page.
            page.open(&elsewhere).await;
            page.enter_frame(1).await;
            page.until("page.dataset.state === 'offered'").await;
            page.click("#play").await;
            page.until("page.dataset.state === 'closed'").await;
            let link = page.run("return document.getElementById('page-link').href").await;
            assert_eq!(link, json!(format!("{}/watch/{hidden}", site.url)));
        })
        .await;
}

#[tokio::test]
async fn a_site_that_is_not_named_cannot_embed_and_a_link_signs_in_another_browser() {
    let site = Site::start("[ingress.sharing]\nframe_ancestors = [\"https://blog.example.org\"]\n").await;
    let shown = site.upload("Mine", &["--public"]).await;
    let elsewhere =
        serve_page(format!("<!doctype html><iframe src=\"{}/embed/{shown}\"></iframe>", site.url)).await;
    let made = run(program(site.dir.path(), &["link", "--url", &site.url, "--api-key", &site.key])).await;
    assert_eq!(made.status, 0, "{made:?}");
    let link = made.out.trim().to_owned();
    assert!(link.starts_with(&format!("{}/#sign-in=", site.url)), "{link}");
    Browser::Chromium
        .run(true, async |page| {
            page.open(&elsewhere).await;
            page.enter_frame(0).await;
            // The browser shows a page of its own in the frame.
            page.until("!document.getElementById('play') && document.readyState === 'complete'").await;
            page.open(&format!("{}/", site.url)).await;
            page.until("page.dataset.view === 'sign-in' && document.activeElement.id === 'key'").await;
            assert!(!page.truth("document.querySelector('.public-medium')").await, "nobody wants them shown");
            page.open(&link).await;
            page.until_within("document.querySelector('.medium .poster img')?.naturalWidth > 0", PATIENCE)
                .await;
        })
        .await;
}

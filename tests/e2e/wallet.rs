//! The watch page and a wallet in a real Chromium: who has the token plays after signing in, who has not is shown why.

use std::time::{Duration, Instant};

use alloy_primitives::hex;
use reqwest::Method;
use serde_json::{Value, json};

use crate::{
    chain::{Anvil, CHAIN_ID, Wallet},
    gate::Site,
    harness::WAIT_MAX,
    webdriver::{Page, in_browser},
};

/// A wallet as pages see one (EIP-1193); what it would ask its owner waits in `window.asked` for the test, which is the owner.
const PROVIDER: &str = "
    window.ethereum = {
      request: ({ method, params }) => new Promise((resolve, reject) => {
        window.asked = { method, params, resolve, reject };
      }),
    };
";
/// Opens one session more after each that the page opens, as another page would.
const OVERTAKEN: &str = "
    const ask = window.fetch;
    window.openings = 0;
    window.fetch = async (path, options) => {
      const answer = await ask(path, options);
      if (!String(path).endsWith('/playback')) return answer;
      window.openings += 1;
      await ask(path, options);
      return answer;
    };
";
/// The first question is answered as it is while the medium is being prepared.
const EARLY: &str = "
    const ask = window.fetch;
    let isEarly = true;
    window.fetch = async (path, options) => {
      if (!isEarly || !String(path).endsWith('/playback')) return ask(path, options);
      isEarly = false;
      const problem = { status: 409, code: 'not_playable', title: 'This is not playable yet' };
      return Response.json(problem, { status: 409, headers: { 'content-type': 'application/problem+json' } });
    };
";
const PLAYS: &str = "page.dataset.state === 'playing' && video.currentTime > 0.2 && video.error === null";

/// The page is in this state and its text has these words.
fn says(state: &str, words: &str) -> String {
    format!(
        "page.dataset.state === '{state}' && document.getElementById('status').textContent.includes('{words}')"
    )
}

/// What the page asks the wallet.
async fn asked(page: &Page, method: &str) -> Value {
    page.until(&format!("window.asked?.method === '{method}'")).await;
    page.run("return window.asked.params").await
}

async fn answer(page: &Page, value: Value) {
    page.run(&format!("const {{ resolve }} = window.asked; window.asked = undefined; resolve({value})"))
        .await;
}

/// Presses the button and lets the wallet show the account; answers the message it is asked to sign.
async fn asked_to_sign(page: &Page, wallet: &Wallet) -> String {
    // As wallets report it: nothing is proved by its case.
    let address = wallet.address.to_string().to_lowercase();
    page.click("#wallet").await;
    asked(page, "eth_requestAccounts").await;
    answer(page, json!([address])).await;
    asked(page, "eth_chainId").await;
    answer(page, json!(format!("{CHAIN_ID:#x}"))).await;
    let wanted = asked(page, "personal_sign").await;
    assert_eq!(wanted[1], address);
    String::from_utf8(hex::decode(wanted[0].as_str().unwrap()).unwrap()).unwrap()
}

async fn sign_in(page: &Page, wallet: &Wallet) {
    let message = asked_to_sign(page, wallet).await;
    answer(page, json!(wallet.sign(&message))).await;
}

#[tokio::test]
async fn a_wallet_signs_in_on_the_page_and_plays_what_its_token_opens() {
    let site = Site::start().await;
    let (ann, bob) = (Wallet::new(83), Wallet::new(84));
    site.mint(&ann).await;
    site.set_gate(site.nft_rule()).await;
    site.set_title("A day at the sea").await;
    let watch_url = format!("{}/watch/{}", site.cluster.url, site.media_id);
    in_browser(async |page| {
        page.open(&watch_url).await;
        page.until(&says("sign-in", "This browser has no wallet")).await;
        page.extend(PROVIDER).await;
        page.open(&watch_url).await;
        page.until(&says("sign-in", "Sign in with a wallet to play this")).await;

        // What is signed names the site and the account; a visitor who does not sign is not signed in.
        let message = asked_to_sign(page, &ann).await;
        let host = site.cluster.url.trim_start_matches("http://");
        assert!(message.starts_with(&format!("{host} wants you to sign in")), "{message}");
        assert!(message.contains(&ann.address.to_string()), "{message}");
        page.run("window.asked.reject({ code: 4001, message: 'User rejected' })").await;
        page.until(&says("sign-in", "You refused")).await;

        // Without the token the page says why, and another account can be tried.
        sign_in(page, &bob).await;
        page.until(&says("sign-in", "does not own the token")).await;
        sign_in(page, &ann).await;
        page.until(PLAYS).await;

        // Once the token is somebody else's the page says so, and its new owner waits for the chain only.
        site.give(&bob).await;
        page.open(&watch_url).await;
        page.until(&says("sign-in", "does not own the token")).await;
        sign_in(page, &bob).await;
        page.until(&says("failed", "not confirmed it yet")).await;
        site.confirm().await;
        // The service has seen it, too.
        site.open(&bob.token(&site.cluster).await).await;
        page.click("#again").await;
        page.until(PLAYS).await;
        page.until("document.getElementById('title').textContent === 'A day at the sea'").await;

        // Another page takes the place at once: this one says so, and does not take it back.
        page.extend(OVERTAKEN).await;
        page.open(&watch_url).await;
        page.until(&says("failed", "Playback went on elsewhere")).await;
        assert_eq!(page.run("return window.openings").await, json!(1));
        // The browser itself reports who was refused.
        let errors = page.console_errors().await;
        let is_refusal = |line: &String| ["401", "403"].iter().any(|status| line.contains(status));
        assert!(errors.iter().all(is_refusal), "{errors:?}");
    })
    .await;
}

#[tokio::test]
async fn a_page_that_is_loaded_again_goes_on_with_the_session_of_the_wallet() {
    let anvil = Anvil::start().await;
    // The access token is over when the page is loaded again.
    let config = anvil.config() + "\n[auth]\naccess_ttl = \"1s\"\n";
    let site = Site::over(anvil, &config).await;
    let ann = Wallet::new(85);
    site.mint(&ann).await;
    site.set_gate(site.nft_rule()).await;
    let watch_url = format!("{}/watch/{}", site.cluster.url, site.media_id);
    in_browser(async |page| {
        page.extend(PROVIDER).await;
        page.open(&watch_url).await;
        page.until(&says("sign-in", "Sign in with a wallet to play this")).await;
        sign_in(page, &ann).await;
        page.until(PLAYS).await;
        let kept = page.run("return localStorage.getItem('streamgate.session')").await;
        let kept: Value = serde_json::from_str(kept.as_str().unwrap()).unwrap();
        let token = kept["access_token"].as_str().unwrap();
        let began = Instant::now();
        while site.ask(Method::GET, "/v1/auth/me", Some(token), None).await.0 != 401 {
            assert!(began.elapsed() < WAIT_MAX, "the token is good for ever");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        page.open(&watch_url).await;
        page.until(PLAYS).await;
        assert_eq!(
            page.run("return window.asked === undefined").await,
            json!(true),
            "the wallet is not asked"
        );
        // Once its session is ended, the page says so.
        let kept = page.run("return localStorage.getItem('streamgate.session')").await;
        let kept: Value = serde_json::from_str(kept.as_str().unwrap()).unwrap();
        let refresh = json!({ "refresh_token": kept["refresh_token"] });
        let (_, tokens) = site.ask(Method::POST, "/v1/auth/refresh", None, Some(refresh)).await;
        let token = tokens["access_token"].as_str();
        assert_eq!(site.ask(Method::POST, "/v1/auth/logout", token, Some(json!({}))).await.0, 204);
        page.open(&watch_url).await;
        page.until("page.dataset.state === 'sign-in'").await;
        assert_eq!(page.run("return localStorage.getItem('streamgate.session')").await, json!(null));
    })
    .await;
}

#[tokio::test]
async fn a_wallet_signs_in_at_the_library_and_out_again() {
    let site = Site::start().await;
    in_browser(async |page| {
        page.extend(PROVIDER).await;
        page.open(&format!("{}/", site.cluster.url)).await;
        page.until("page.dataset.view === 'sign-in'").await;
        asked_to_sign(page, &Wallet::new(86)).await;
        page.run("window.asked.reject({ code: 4001, message: 'User rejected' })").await;
        page.until("document.querySelector('.sign-in .problem')?.textContent.includes('User rejected')")
            .await;
        sign_in(page, &Wallet::new(86)).await;
        // The medium of the site is somebody else's.
        page.until("page.dataset.list === 'shown' && document.querySelector('.empty')").await;
        page.click("#sign-out").await;
        page.until("page.dataset.view === 'sign-in'").await;
        assert_eq!(page.run("return localStorage.getItem('streamgate.session')").await, json!(null));
        assert_eq!(page.console_errors().await, Vec::<String>::new());
    })
    .await;
}

#[tokio::test]
async fn a_page_waits_for_a_medium_that_is_not_ready_yet() {
    let site = Site::start().await;
    site.set_gate(json!({ "kind": "public" })).await;
    in_browser(async |page| {
        page.extend(EARLY).await;
        page.open(&format!("{}/watch/{}", site.cluster.url, site.media_id)).await;
        // A viewer without a key waits, and the page asks again by itself.
        page.until(&says("waiting", "Not ready yet: This is not playable yet")).await;
        page.until(PLAYS).await;
        assert_eq!(page.console_errors().await, Vec::<String>::new());
    })
    .await;
}

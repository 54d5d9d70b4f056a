//! Gates from end to end: a real EVM node, wallets that sign in over HTTP, and playback that begins and ends with a token.

use std::time::{Duration, Instant};

use alloy_primitives::Address;
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::{
    chain::{Anvil, CHAIN_ID, Wallet},
    harness::{Cluster, Options, WAIT_MAX, sample},
};

/// Longest time from a block to the refusal of a session that it closed.
pub(crate) const REVOKED_WITHIN: Duration = Duration::from_secs(2);
/// The token that opens the gate.
pub(crate) const TOKEN: u64 = 7;

/// An installation with a node, its ERC-721 contract and one finished medium.
pub(crate) struct Site {
    pub(crate) anvil: Anvil,
    pub(crate) contract: Address,
    pub(crate) cluster: Cluster,
    pub(crate) media_id: String,
}

impl Site {
    pub(crate) async fn start() -> Self {
        let anvil = Anvil::start().await;
        let config = anvil.config();
        Self::over(anvil, &config).await
    }

    /// The same with settings of the chain.
    pub(crate) async fn over(anvil: Anvil, config: &str) -> Self {
        let contract = anvil.deploy().await;
        let mut cluster = Cluster::start_with(Options::default(), config).await;
        let media_id = cluster.upload(sample(4, "320x180", "25"), "film.mp4").await;
        assert_eq!(cluster.end_of(&media_id).await.kind, "job.succeeded");
        Self { anvil, contract, cluster, media_id }
    }

    /// The rule that the holder of [`TOKEN`] plays.
    pub(crate) fn nft_rule(&self) -> Value {
        let token_id = TOKEN.to_string();
        json!({ "kind": "erc721_owner", "chain_id": CHAIN_ID, "contract": self.contract.to_string(), "token_id": token_id })
    }

    /// Gives the token to a wallet, confirmed and seen.
    pub(crate) async fn mint(&self, to: &Wallet) {
        self.anvil.give(self.contract, TOKEN, to.address).await;
        self.confirm().await;
    }

    /// Gives the token to a wallet, seen and not confirmed.
    pub(crate) async fn give(&self, to: &Wallet) {
        self.anvil.give(self.contract, TOKEN, to.address).await;
        self.newest_is_seen().await;
    }

    /// Makes one block more, by which the service decides when this returns.
    pub(crate) async fn confirm(&self) {
        self.anvil.mine(1).await;
        self.newest_is_seen().await;
    }

    /// Returns when the service decides by the newest block: a head is the newest for a moment.
    async fn newest_is_seen(&self) {
        let height = self.anvil.height().await;
        let question = json!({ "address": self.contract.to_string(), "rule": self.nft_rule() });
        let began = Instant::now();
        loop {
            let key = Some(self.cluster.key.as_str());
            let (_, answer) = self.ask(Method::POST, "/v1/auth/nft", key, Some(question.clone())).await;
            if answer["block"]["number"].as_u64().is_some_and(|number| number >= height) {
                return;
            }
            assert!(began.elapsed() < WAIT_MAX, "block {height} is never seen: {answer}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Any request, with a credential or none; answers status and document.
    pub(crate) async fn ask(
        &self,
        method: Method,
        path: &str,
        credential: Option<&str>,
        body: Option<Value>,
    ) -> (StatusCode, Value) {
        let mut request = self.cluster.http.request(method, format!("{}{path}", self.cluster.url));
        request = request.header("if-match", "*");
        if let Some(credential) = credential {
            request = request.bearer_auth(credential);
        }
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        (answer.status(), answer.json().await.unwrap_or_default())
    }

    /// Sets the gate as the owner of the medium.
    pub(crate) async fn set_gate(&self, rule: Value) {
        let path = format!("/v1/media/{}/gate", self.media_id);
        let (status, answer) = self.ask(Method::PUT, &path, Some(&self.cluster.key), Some(rule)).await;
        assert_eq!((status, &answer["access"]), (StatusCode::OK, &json!("rule")), "{answer}");
    }

    /// Names the medium as its owner.
    pub(crate) async fn set_title(&self, title: &str) {
        let path = format!("/v1/media/{}", self.media_id);
        let change = Some(json!({ "title": title }));
        let (status, answer) = self.ask(Method::PATCH, &path, Some(&self.cluster.key), change).await;
        assert_eq!((status, &answer["title"]), (StatusCode::OK, &json!(title)), "{answer}");
    }

    /// Asks for a playback session.
    pub(crate) async fn playback(&self, credential: Option<&str>) -> (StatusCode, Value) {
        self.ask(Method::POST, &format!("/v1/media/{}/playback", self.media_id), credential, None).await
    }

    /// Fetches an address of a session as a player does, without any credential.
    pub(crate) async fn fetch(&self, path: &str) -> (StatusCode, Vec<u8>) {
        let answer = self.cluster.http.get(format!("{}{path}", self.cluster.url)).send().await.unwrap();
        (answer.status(), answer.bytes().await.unwrap().to_vec())
    }

    /// Opens a session for the holder of the token, once the service sees it as confirmed.
    pub(crate) async fn open(&self, credential: &str) -> Value {
        let began = Instant::now();
        loop {
            let (status, session) = self.playback(Some(credential)).await;
            if status == StatusCode::OK {
                return session;
            }
            assert_eq!(status, StatusCode::FORBIDDEN, "{session}");
            assert!(began.elapsed() < WAIT_MAX, "{session}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Asks for a segment at a player's pace, far below the rate limit, until it is refused; answers how.
    pub(crate) async fn refused(&self, segment: &str) -> (StatusCode, Value) {
        let began = Instant::now();
        loop {
            let (status, body) = self.fetch(segment).await;
            if status != StatusCode::OK {
                return (status, serde_json::from_slice(&body).unwrap());
            }
            assert!(began.elapsed() < WAIT_MAX, "the session goes on\n{}", self.cluster.logs());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Plays the beginning: master, then a segment; answers the segment's address.
    pub(crate) async fn play(&self, session: &Value) -> String {
        let master = session["hls_url"].as_str().unwrap();
        let (status, text) = self.fetch(master).await;
        assert_eq!(status, StatusCode::OK);
        assert!(text.starts_with(b"#EXTM3U"), "{}", String::from_utf8_lossy(&text));
        let segment = master.replace("master.m3u8", "v180/1.m4s");
        let (status, bytes) = self.fetch(&segment).await;
        assert_eq!((status, bytes.is_empty()), (StatusCode::OK, false));
        segment
    }
}

/// Status and code of an answer.
pub(crate) fn refusal(answer: &(StatusCode, Value)) -> (u16, &str) {
    (answer.0.as_u16(), answer.1["code"].as_str().unwrap_or("no code"))
}

#[tokio::test]
async fn a_token_opens_its_gate_and_a_transfer_closes_it_in_the_middle() {
    let mut site = Site::start().await;
    let (ann, bob) = (Wallet::new(81), Wallet::new(82));
    let (ann_token, bob_token) = (ann.token(&site.cluster).await, bob.token(&site.cluster).await);
    // Before its owner says anything, nobody else knows of it.
    assert_eq!(refusal(&site.playback(Some(&ann_token)).await), (404, "not_found"));
    site.mint(&ann).await;
    site.set_gate(site.nft_rule()).await;

    let refused = site.playback(Some(&bob_token)).await;
    assert_eq!(refusal(&refused), (403, "gate_closed"));
    assert_eq!(refused.1["reason"], "not_owner", "{}", refused.1);
    assert_eq!(refused.1["detail"], "this wallet does not own the token", "{}", refused.1);
    assert_eq!(refused.1["blocks"][0]["chain_id"], CHAIN_ID, "{}", refused.1);
    assert_eq!(refusal(&site.playback(None).await), (401, "wallet_needed"));
    // The key of the owner plays, whatever the rule says.
    assert_eq!(site.playback(Some(&site.cluster.key.clone())).await.0, StatusCode::OK);

    let (status, session) = site.playback(Some(&ann_token)).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    let segment = site.play(&session).await;

    site.anvil.give(site.contract, TOKEN, bob.address).await;
    let block = Instant::now();
    let refused = site.refused(&segment).await;
    let took = block.elapsed();
    assert_eq!(refusal(&refused), (403, "playback_refused"), "{}", refused.1);
    assert_eq!(refused.1["reason"], "not_owner", "{}", refused.1);
    assert!(took <= REVOKED_WITHIN, "{took:?}");
    let revoked = site.cluster.media_event("gate.revoked", &site.media_id).await;
    assert_eq!(revoked.data["code"], "not_owner", "{:?}", revoked.data);
    let viewer = format!("eip155:{}", ann.address.to_string().to_lowercase());
    assert_eq!(revoked.data["viewer"], viewer, "{:?}", revoked.data);

    // Its new holder plays once that is confirmed, and the one before does not get in again once the head is younger than that.
    site.confirm().await;
    while refusal(&site.playback(Some(&ann_token)).await) != (403, "gate_closed") {
        assert!(block.elapsed() <= REVOKED_WITHIN, "who gave the token away gets in");
    }
    let began = Instant::now();
    let session = loop {
        let (status, session) = site.playback(Some(&bob_token)).await;
        if status == StatusCode::OK {
            break session;
        }
        assert_eq!(session["reason"], "not_confirmed", "{session}");
        assert!(began.elapsed() < WAIT_MAX, "{session}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    site.play(&session).await;
}

#[tokio::test]
async fn a_public_medium_plays_without_a_credential_until_its_owner_closes_it() {
    let site = Site::start().await;
    assert_eq!(refusal(&site.playback(None).await), (401, "unauthorized"));
    site.set_gate(json!({ "kind": "public" })).await;
    let (status, session) = site.playback(None).await;
    assert_eq!(status, StatusCode::OK, "{session}");
    site.play(&session).await;
    let path = format!("/v1/media/{}/gate", site.media_id);
    let (status, answer) = site.ask(Method::DELETE, &path, Some(&site.cluster.key), None).await;
    assert_eq!((status, &answer["access"]), (StatusCode::OK, &json!("owner_only")), "{answer}");
    assert_eq!(refusal(&site.playback(None).await), (401, "unauthorized"));
}

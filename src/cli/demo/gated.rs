//! The gated story: the clip plays for who owns a token of a contract, and for nobody else, also when the token moves.
//!
//! Limits: [`DECIDED_SECONDS_MAX`] for the gateway to decide by what happened on the chain.

use anyhow::{Context, bail};
use reqwest::Url;
use schemas::gate::{GateReasonCode, GateRule};
use serde_json::{Value, json};

use super::{
    DemoResult,
    chain::{CHAIN_ID, DemoNode},
    clip, poll_until,
    wallet::DemoWallet,
    watch_page_url,
};
use crate::cli::{
    client::{ApiClient, ClientError},
    output,
    play::{self, PlaybackUrls},
    refusal::ServerRefusal,
};

/// Longest wait for the gateway to decide by what happened on the chain, in seconds: a block more, and the age of the head that
/// decides. What is undecided at first is undecided for about two.
const DECIDED_SECONDS_MAX: u64 = 60;
/// The token that opens the gate.
const TOKEN: u64 = 1;

/// Shows a wallet that plays and one that is refused, moves the token between them, and shows the reverse.
pub(super) async fn run_gated_demo(owner: &ApiClient, node: &DemoNode) -> anyhow::Result<DemoResult> {
    let (a, b) = (DemoWallet::random()?, DemoWallet::random()?);
    let contract = node.deploy_contract().await.context("the contract")?;
    node.give_token(contract, TOKEN, a.address).await.context("the token")?;
    output::print_message(format!(
        "Chain {CHAIN_ID} runs at {}, with an ERC-721 contract at {contract}",
        node.url
    ));
    output::print_message(format!("wallet A: {}, owns token {TOKEN}", a.address));
    output::print_message(format!("wallet B: {}, owns none", b.address));
    let rule = GateRule::Erc721Owner {
        chain_id: CHAIN_ID,
        contract: contract.to_string(),
        token_id: Some(TOKEN.to_string()),
        sessions_max: None,
    };
    let clip = clip::publish_clip(owner, owner, &rule).await?;
    output::print_message(format!("The gate: {}", serde_json::to_string(&rule)?));

    let viewer_a = DemoViewer::sign_in("wallet A", &a, owner, &clip.media_id).await?;
    let viewer_b = DemoViewer::sign_in("wallet B", &b, owner, &clip.media_id).await?;
    let first = viewer_a.expect_playback().await?;
    let refused = viewer_b.expect_refusal().await?;
    node.give_token(contract, TOKEN, b.address).await.context("the transfer")?;
    output::print_message(format!("Token {TOKEN} goes from wallet A to wallet B"));
    let stopped = viewer_a.expect_end(&first).await?;
    let second = viewer_b.expect_playback().await?;
    viewer_a.expect_refusal().await?;

    let summary = json!({
        "media_id": clip.media_id,
        "chain_id": CHAIN_ID,
        "rpc_url": node.url,
        "contract": contract.to_string(),
        "token_id": TOKEN.to_string(),
        "holder": viewer_a.describe_playback(&first),
        "refused": refused,
        "after_transfer": { "holder": viewer_b.describe_playback(&second), "refused": stopped },
    });
    let invitation = format!(
        "\nIt plays here, until Ctrl-C, for a browser's wallet that has wallet B's key, made for this demo:\n{}\n\
         Every other account is refused. The network, if you want to see the token: {}, chain id {CHAIN_ID}\n",
        b.secret_hex(),
        node.url
    );
    Ok(DemoResult { watch_url: watch_page_url(&second.playback), summary, invitation })
}

/// A wallet that signed in to see the clip.
struct DemoViewer {
    name: &'static str,
    address: String,
    client: ApiClient,
    media_id: String,
}

/// A session that plays.
struct DemoPlayback {
    playback: PlaybackUrls,
    segment_url: Url,
}

impl DemoViewer {
    async fn sign_in(
        name: &'static str,
        wallet: &DemoWallet,
        server: &ApiClient,
        media_id: &str,
    ) -> anyhow::Result<Self> {
        let client =
            wallet.sign_in(server, CHAIN_ID).await.with_context(|| format!("{name} can't sign in"))?;
        Ok(Self { name, address: wallet.address.to_string(), client, media_id: media_id.to_owned() })
    }

    async fn open_session(&self) -> anyhow::Result<PlaybackUrls> {
        play::open_playback(&self.client, &self.media_id).await
    }

    /// Plays the beginning, as soon as what is on the chain is confirmed.
    async fn expect_playback(&self) -> anyhow::Result<DemoPlayback> {
        let playing = poll_until(format!("{} does not play", self.name), DECIDED_SECONDS_MAX, async || {
            let playback = match self.open_session().await {
                Ok(playback) => playback,
                Err(error) => return Ok(Err(extract_refusal(error)?.to_string())),
            };
            let segment_url = play::check_playback(&self.client, &playback).await?;
            Ok(Ok(DemoPlayback { playback, segment_url }))
        });
        let playing = playing.await?;
        output::print_message(format!(
            "{} plays: {}",
            self.name,
            playing.playback.hls_text().unwrap_or_default()
        ));
        Ok(playing)
    }

    /// Is let in at no time, and refused because it does not own the token.
    async fn expect_refusal(&self) -> anyhow::Result<Value> {
        let refusal = poll_until(format!("{} is not refused", self.name), DECIDED_SECONDS_MAX, async || {
            match self.open_session().await {
                Ok(_) => bail!("{} plays without the token", self.name),
                Err(error) => Ok(expect_not_owner(extract_refusal(error)?)),
            }
        });
        Ok(self.report_refusal("refused", &refusal.await?))
    }

    /// Gets no segment any more of the session that played, as soon as the gateway sees that the token is gone.
    async fn expect_end(&self, playing: &DemoPlayback) -> anyhow::Result<Value> {
        let refusal =
            poll_until(
                format!("{} goes on", self.name),
                DECIDED_SECONDS_MAX,
                async || match play::fetch_url(&self.client, &playing.segment_url).await {
                    Ok(_) => Ok(Err("it got a segment".to_owned())),
                    Err(error) => Ok(expect_not_owner(extract_refusal(error.into())?)),
                },
            );
        Ok(self.report_refusal("refused the next segment", &refusal.await?))
    }

    /// Reports a refusal; returns it for machines.
    fn report_refusal(&self, what: &str, refusal: &ServerRefusal) -> Value {
        let ServerRefusal { code, reason, title, .. } = refusal;
        output::print_message(format!("{} {what}: {code} ({reason}): {title}", self.name));
        json!({ "address": self.address, "code": code, "reason": reason })
    }

    /// Where it plays, for machines.
    fn describe_playback(&self, playing: &DemoPlayback) -> Value {
        json!({ "address": self.address, "hls_url": playing.playback.hls_text() })
    }
}

/// The server's refusal; any other error stays one.
fn extract_refusal(error: anyhow::Error) -> anyhow::Result<ServerRefusal> {
    match error.downcast_ref::<ClientError>().and_then(ClientError::as_refusal) {
        Some(refusal) => Ok(refusal.clone()),
        None => Err(error),
    }
}

/// The refusal if it is the one that was wanted, else what it says.
fn expect_not_owner(refusal: ServerRefusal) -> Result<ServerRefusal, String> {
    if json!(GateReasonCode::NotOwner) == refusal.reason { Ok(refusal) } else { Err(refusal.to_string()) }
}

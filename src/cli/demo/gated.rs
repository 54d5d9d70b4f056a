//! The gated story: the clip plays for who owns a token of a contract, and for nobody else, also when the token moves.
//!
//! Limits: [`DECIDED_SECONDS_MAX`] for the gateway to decide by what happened on the chain.

use anyhow::{Context, bail};
use reqwest::Url;
use schemas::gate::{GateReasonCode, GateRule};
use serde_json::{Value, json};

use super::{
    Told,
    chain::{CHAIN_ID, Node},
    clip, page, until,
    wallet::Wallet,
};
use crate::cli::{
    client::{Client, Error, Refusal},
    out,
    play::{self, Playback},
};

/// Longest wait for the gateway to decide by what happened on the chain, in seconds: a block more, and the age of the head that
/// decides. What is undecided at first is undecided for about two.
const DECIDED_SECONDS_MAX: u64 = 60;
/// The token that opens the gate.
const TOKEN: u64 = 1;

/// Shows a wallet that plays and one that is refused, moves the token between them, and shows the reverse.
pub(super) async fn tell(owner: &Client, node: &Node) -> anyhow::Result<Told> {
    let (a, b) = (Wallet::random()?, Wallet::random()?);
    let contract = node.deploy().await.context("the contract")?;
    node.give(contract, TOKEN, a.address).await.context("the token")?;
    out::say(format!("Chain {CHAIN_ID} runs at {}, with an ERC-721 contract at {contract}", node.url));
    out::say(format!("wallet A: {}, owns token {TOKEN}", a.address));
    out::say(format!("wallet B: {}, owns none", b.address));
    let rule = GateRule::Erc721Owner {
        chain_id: CHAIN_ID,
        contract: contract.to_string(),
        token_id: Some(TOKEN.to_string()),
        sessions_max: None,
    };
    let clip = clip::publish(owner, owner, &rule).await?;
    out::say(format!("The gate: {}", serde_json::to_string(&rule)?));

    let viewer_a = Viewer::sign_in("wallet A", &a, owner, &clip.media_id).await?;
    let viewer_b = Viewer::sign_in("wallet B", &b, owner, &clip.media_id).await?;
    let first = viewer_a.plays().await?;
    let refused = viewer_b.is_refused().await?;
    node.give(contract, TOKEN, b.address).await.context("the transfer")?;
    out::say(format!("Token {TOKEN} goes from wallet A to wallet B"));
    let stopped = viewer_a.stops(&first).await?;
    let second = viewer_b.plays().await?;
    viewer_a.is_refused().await?;

    let summary = json!({
        "media_id": clip.media_id,
        "chain_id": CHAIN_ID,
        "rpc_url": node.url,
        "contract": contract.to_string(),
        "token_id": TOKEN.to_string(),
        "holder": viewer_a.with(&first),
        "refused": refused,
        "after_transfer": { "holder": viewer_b.with(&second), "refused": stopped },
    });
    let invitation = format!(
        "\nIt plays here, until Ctrl-C, for a browser's wallet that has wallet B's key, made for this demo:\n{}\n\
         Every other account is refused. The network, if you want to see the token: {}, chain id {CHAIN_ID}\n",
        b.secret(),
        node.url
    );
    Ok(Told { watch_url: page(&second.playback), summary, invitation })
}

/// A wallet that signed in to see the clip.
struct Viewer {
    name: &'static str,
    address: String,
    client: Client,
    media_id: String,
}

/// A session that plays.
struct Playing {
    playback: Playback,
    segment_url: Url,
}

impl Viewer {
    async fn sign_in(
        name: &'static str,
        wallet: &Wallet,
        server: &Client,
        media_id: &str,
    ) -> anyhow::Result<Self> {
        let client =
            wallet.sign_in(server, CHAIN_ID).await.with_context(|| format!("{name} can't sign in"))?;
        Ok(Self { name, address: wallet.address.to_string(), client, media_id: media_id.to_owned() })
    }

    async fn open(&self) -> anyhow::Result<Playback> {
        play::open(&self.client, &self.media_id).await
    }

    /// Plays the beginning, as soon as what is on the chain is confirmed.
    async fn plays(&self) -> anyhow::Result<Playing> {
        let playing = until(format!("{} does not play", self.name), DECIDED_SECONDS_MAX, async || {
            let playback = match self.open().await {
                Ok(playback) => playback,
                Err(error) => return Ok(Err(refusal(error)?.to_string())),
            };
            let segment_url = play::check(&self.client, &playback).await?;
            Ok(Ok(Playing { playback, segment_url }))
        });
        let playing = playing.await?;
        out::say(format!("{} plays: {}", self.name, playing.playback.hls_url));
        Ok(playing)
    }

    /// Is let in at no time, and told that it does not own the token.
    async fn is_refused(&self) -> anyhow::Result<Value> {
        let refusal =
            until(format!("{} is not refused", self.name), DECIDED_SECONDS_MAX, async || {
                match self.open().await {
                    Ok(_) => bail!("{} plays without the token", self.name),
                    Err(error) => Ok(for_want_of_the_token(refusal(error)?)),
                }
            });
        Ok(self.tell("refused", &refusal.await?))
    }

    /// Gets no segment any more of the session that played, as soon as the gateway sees that the token is gone.
    async fn stops(&self, playing: &Playing) -> anyhow::Result<Value> {
        let refusal =
            until(format!("{} goes on", self.name), DECIDED_SECONDS_MAX, async || {
                match play::fetch(&self.client, &playing.segment_url).await {
                    Ok(_) => Ok(Err("it got a segment".to_owned())),
                    Err(error) => Ok(for_want_of_the_token(refusal(error.into())?)),
                }
            });
        Ok(self.tell("refused the next segment", &refusal.await?))
    }

    /// Tells of a refusal; answers it for machines.
    fn tell(&self, what: &str, refusal: &Refusal) -> Value {
        let Refusal { code, reason, title, .. } = refusal;
        out::say(format!("{} {what}: {code} ({reason}): {title}", self.name));
        json!({ "address": self.address, "code": code, "reason": reason })
    }

    /// Where it plays, for machines.
    fn with(&self, playing: &Playing) -> Value {
        json!({ "address": self.address, "hls_url": playing.playback.hls_url.as_str() })
    }
}

/// The server's refusal; any other error stays one.
fn refusal(error: anyhow::Error) -> anyhow::Result<Refusal> {
    match error.downcast_ref::<Error>().and_then(Error::refusal) {
        Some(refusal) => Ok(refusal.clone()),
        None => Err(error),
    }
}

/// The refusal if it is the one that was wanted, else what it says.
fn for_want_of_the_token(refusal: Refusal) -> Result<Refusal, String> {
    if json!(GateReasonCode::NotOwner) == refusal.reason { Ok(refusal) } else { Err(refusal.to_string()) }
}

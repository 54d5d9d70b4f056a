//! The sample clip: uploaded, given a gate, and followed until it is ready.

use std::time::Instant;

use anyhow::{Context, bail};
use reqwest::{Method, header::IF_MATCH};
use schemas::gate::GateRule;

use crate::cli::{
    client::Client,
    event::Teller,
    follow::{End, Follower, Wanted},
    out, play, render,
    tus::{self, Source},
};

/// An excerpt of Big Buck Bunny, (c) 2008 Blender Foundation, CC BY 3.0.
static BYTES: &[u8] = include_bytes!("../../../tests/e2e/fixtures/bigbuckbunny.mp4");
const NAME: &str = "Big Buck Bunny.mp4";

/// What became of the clip.
#[derive(Debug)]
pub(super) struct Clip {
    pub(super) media_id: String,
    /// From the first byte of the upload until a player could fetch all it begins with.
    pub(super) seconds_to_playable: f64,
    /// From the first byte of the upload until everything was made and checked.
    pub(super) seconds_to_ready: f64,
}

/// Uploads the clip as its owner, lets in whom `rule` does, and follows it until it is ready; `viewer` plays it as soon as it is
/// playable.
pub(super) async fn publish(owner: &Client, viewer: &Client, rule: &GateRule) -> anyhow::Result<Clip> {
    let began = Instant::now();
    let media_id = upload(owner).await?;
    set_gate(owner, &media_id, rule).await.context("the gate of the clip")?;
    let wanted = Wanted { media: Some(media_id.clone()), ..Wanted::default() };
    let mut follower = Follower::new(owner.clone(), wanted.clone());
    let mut teller = Teller::default();
    let mut seconds_to_playable = None;
    loop {
        let told = follower.next().await?;
        teller.tell(&told);
        if told.kind == "media.playable" && seconds_to_playable.is_none() {
            let early = play::open(viewer, &media_id).await?;
            play::check(viewer, &early).await.context("the clip is said to play, but does not")?;
            seconds_to_playable = Some(began.elapsed().as_secs_f64());
        }
        match wanted.end(&told.kind) {
            Some(End::Well) => break,
            Some(End::Badly) => bail!("the clip ended as {}; the lines above say why", told.kind),
            None => {}
        }
    }
    let seconds_to_ready = began.elapsed().as_secs_f64();
    let seconds_to_playable = seconds_to_playable.unwrap_or(seconds_to_ready);
    Ok(Clip { media_id, seconds_to_playable, seconds_to_ready })
}

async fn upload(client: &Client) -> anyhow::Result<String> {
    let length_bytes = u64::try_from(BYTES.len())?;
    let upload = tus::create(client, length_bytes, NAME).await?;
    let bar = tus::bar(length_bytes, NAME);
    let source = Source::Static(BYTES);
    tus::send(client, &upload, &source, length_bytes, |at_bytes| bar.set_position(at_bytes)).await?;
    bar.finish_and_clear();
    let size = render::size(length_bytes);
    out::say(format!("Uploaded {NAME} ({size}) as {}", out::clean(&upload.media_id)));
    Ok(upload.media_id)
}

async fn set_gate(client: &Client, media_id: &str, rule: &GateRule) -> anyhow::Result<()> {
    let url = client.url(&format!("v1/media/{media_id}/gate"), &[]);
    // Nobody else knows of the medium yet: there is no other change to lose.
    client.json(client.request(Method::PUT, url).header(IF_MATCH, "*").json(rule)).await?;
    Ok(())
}

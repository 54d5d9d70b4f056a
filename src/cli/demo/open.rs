//! The plain story: the clip plays for everybody.

use anyhow::Context;
use schemas::gate::GateRule;
use serde_json::json;

use super::{Told, clip, page};
use crate::cli::{client::Client, play};

/// Uploads the clip, opens it to everybody, and plays it as somebody unknown.
pub(super) async fn tell(owner: &Client) -> anyhow::Result<Told> {
    let anyone = owner.anonymous();
    let clip = clip::publish(owner, &anyone, &GateRule::Public {}).await?;
    let playback = play::open(&anyone, &clip.media_id).await?;
    play::check(&anyone, &playback).await.context("the clip is said to be ready, but does not play")?;
    let (playable, ready) = (clip.seconds_to_playable, clip.seconds_to_ready);
    let summary = json!({
        "media_id": clip.media_id,
        "hls_url": playback.hls_url.as_str(),
        "seconds_to_playable": thousandths(playable),
        "seconds_to_ready": thousandths(ready),
    });
    let invitation = format!(
        "\nPlayable after {playable:.1} s, ready after {ready:.1} s. It plays here for everybody, until Ctrl-C:\n"
    );
    Ok(Told { watch_url: page(&playback), summary, invitation })
}

/// Rounded to milliseconds, which is what was measured.
fn thousandths(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

//! The plain story: the clip plays for everybody.

use anyhow::Context;
use schemas::gate::GateRule;
use serde_json::json;

use super::{DemoResult, clip, watch_page_url};
use crate::cli::{client::ApiClient, play};

/// Uploads the clip, opens it to everybody, and plays it as somebody unknown.
pub(super) async fn run_open_demo(owner: &ApiClient) -> anyhow::Result<DemoResult> {
    let anyone = owner.anonymous();
    let clip = clip::publish_clip(owner, &anyone, &GateRule::Public {}).await?;
    let playback = play::open_playback(&anyone, &clip.media_id).await?;
    play::check_playback(&anyone, &playback)
        .await
        .context("the clip is said to be ready, but does not play")?;
    let (playable, ready) = (clip.seconds_to_playable, clip.seconds_to_ready);
    let summary = json!({
        "media_id": clip.media_id,
        "hls_url": playback.hls_text(),
        "seconds_to_playable": round_to_millis(playable),
        "seconds_to_ready": round_to_millis(ready),
    });
    let invitation = format!(
        "\nPlayable after {playable:.1} s, ready after {ready:.1} s. It plays here for everybody, until Ctrl-C:\n"
    );
    Ok(DemoResult { watch_url: watch_page_url(&playback), summary, invitation })
}

/// Rounded to milliseconds, which is what was measured.
fn round_to_millis(seconds: f64) -> f64 {
    (seconds * 1_000.0).round() / 1_000.0
}

//! The sample clip: uploaded, given a gate, and followed until it is ready.

use std::time::Instant;

use anyhow::{Context, bail};
use reqwest::{Method, header::IF_MATCH};
use schemas::gate::GateRule;

use crate::cli::{
    client::ApiClient,
    event::EventPrinter,
    follow::{FollowOutcome, FollowTarget, SseFollower},
    output, play,
    progress::FileProgress,
    render,
    tus::{self, FileDescription, UploadByteSource},
};

/// An excerpt of Big Buck Bunny, (c) 2008 Blender Foundation, CC BY 3.0.
static BYTES: &[u8] = include_bytes!("../../../tests/e2e/fixtures/bigbuckbunny.mp4");
const NAME: &str = "Big Buck Bunny.mp4";

/// What became of the clip.
#[derive(Debug)]
pub(super) struct PublishedClip {
    pub(super) media_id: String,
    /// From the first byte of the upload until a player could fetch all it begins with.
    pub(super) seconds_to_playable: f64,
    /// From the first byte of the upload until everything was made and checked.
    pub(super) seconds_to_ready: f64,
}

/// Uploads the clip as its owner, lets in whom `rule` does, and follows it until it is ready; `viewer` plays it as soon as it is
/// playable.
pub(super) async fn publish_clip(
    owner: &ApiClient,
    viewer: &ApiClient,
    rule: &GateRule,
) -> anyhow::Result<PublishedClip> {
    let began = Instant::now();
    let media_id = upload_clip(owner).await?;
    set_gate(owner, &media_id, rule).await.context("the gate of the clip")?;
    let wanted = FollowTarget { media: Some(media_id.clone()), ..FollowTarget::default() };
    let mut follower = SseFollower::new(owner.clone(), wanted.clone());
    let mut printer = EventPrinter::default();
    let mut seconds_to_playable = None;
    loop {
        let event = follower.next_event().await?;
        printer.print_event(&event);
        if event.kind == "media.playable" && seconds_to_playable.is_none() {
            let early = play::open_playback(viewer, &media_id).await?;
            play::check_playback(viewer, &early).await.context("the clip is said to play, but does not")?;
            seconds_to_playable = Some(began.elapsed().as_secs_f64());
        }
        match wanted.outcome_of(&event) {
            Some(FollowOutcome::Well) => break,
            Some(FollowOutcome::Badly) => bail!("the clip ended as {}; the lines above say why", event.kind),
            None => {}
        }
    }
    let seconds_to_ready = began.elapsed().as_secs_f64();
    let seconds_to_playable = seconds_to_playable.unwrap_or(seconds_to_ready);
    Ok(PublishedClip { media_id, seconds_to_playable, seconds_to_ready })
}

async fn upload_clip(client: &ApiClient) -> anyhow::Result<String> {
    let length_bytes = u64::try_from(BYTES.len())?;
    let upload = tus::create_upload(
        client,
        Some(length_bytes),
        FileDescription { name: NAME, ..FileDescription::default() },
    )
    .await?;
    let progress = FileProgress::start(NAME, Some(length_bytes), 0);
    let source = UploadByteSource::Static(BYTES);
    tus::send_upload(client, &upload, &source, length_bytes, |at_bytes| progress.set_position(at_bytes))
        .await?;
    progress.finish();
    let size = render::format_size(length_bytes);
    output::print_message(format!("Uploaded {NAME} ({size}) as {}", output::sanitize_text(&upload.media_id)));
    Ok(upload.media_id)
}

async fn set_gate(client: &ApiClient, media_id: &str, rule: &GateRule) -> anyhow::Result<()> {
    let url = client.build_url(&format!("v1/media/{media_id}/gate"), &[]);
    // Nobody else knows of the medium yet: there is no other change to lose.
    client.send_json(client.build_request(Method::PUT, url).header(IF_MATCH, "*").json(rule)).await?;
    Ok(())
}

//! `watch`: events as they happen, until what is watched has ended.

use serde_json::json;

use super::{
    CommandOutcome, WatchArgs,
    client::ApiClient,
    event,
    follow::{FollowOutcome, FollowTarget, SseFollower},
    output,
};

/// Prints events; ends with the end of the medium or job that was named, else never.
///
/// # Errors
/// When the server refuses or stays away.
pub async fn run_watch(args: WatchArgs, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let wanted =
        FollowTarget { media: args.media, job: args.job, since: args.since, ..FollowTarget::default() };
    let with_media = wanted.media.is_none() && wanted.job.is_none();
    let mut follower = SseFollower::new(ApiClient::new(&args.client)?, wanted.clone());
    loop {
        let event = follower.next_event().await?;
        if as_json {
            output::print_json(&json!({ "id": event.id, "event": event.kind, "data": event.data }))?;
        } else {
            output::print_line(event::format_event(&event, with_media))?;
        }
        match wanted.outcome_of(&event) {
            Some(FollowOutcome::Well) => return Ok(CommandOutcome::Well),
            Some(FollowOutcome::Badly) => return Ok(CommandOutcome::Badly),
            None => {}
        }
    }
}

//! `events tail`: what happens, as it happens, until somebody stops it.

use serde_json::json;

use super::{
    EventsTailArgs,
    client::ApiClient,
    event,
    follow::{FollowTarget, SseFollower},
    output,
};

/// Prints events for as long as the server gives them.
///
/// # Errors
/// When the server refuses, was never there, or stays away.
pub(super) async fn tail_events(args: EventsTailArgs, as_json: bool) -> anyhow::Result<()> {
    let with_media = args.media.is_none() && args.job.is_none();
    let wanted = FollowTarget {
        media: args.media,
        job: args.job,
        since: args.since,
        types: (!args.types.is_empty()).then(|| args.types.join(",")),
        prefix: args.prefix,
        is_from_now: true,
    };
    let mut follower = SseFollower::new(ApiClient::new(&args.client)?, wanted);
    loop {
        let event = follower.next_event().await?;
        if as_json {
            output::print_json(&json!({ "id": event.id, "event": event.kind, "data": event.data }))?;
        } else {
            output::print_line(event::format_event(&event, with_media))?;
        }
    }
}

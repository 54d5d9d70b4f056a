//! `watch`: events as they happen, until what is watched has ended.

use serde_json::json;

use super::{
    Ended, WatchArgs,
    client::Client,
    event,
    follow::{End, Follower, Wanted},
    out,
};

/// Prints events; ends with the end of the medium or job that was named, else never.
///
/// # Errors
/// When the server refuses or stays away.
pub async fn run(args: WatchArgs, as_json: bool) -> anyhow::Result<Ended> {
    let wanted = Wanted { media: args.media, job: args.job, since: args.since };
    let with_media = wanted.media.is_none() && wanted.job.is_none();
    let mut follower = Follower::new(Client::new(&args.client)?, wanted.clone());
    loop {
        let told = follower.next().await?;
        if as_json {
            out::json(&json!({ "id": told.id, "event": told.kind, "data": told.data }))?;
        } else {
            out::line(event::line(&told, with_media))?;
        }
        match wanted.end(&told.kind) {
            Some(End::Well) => return Ok(Ended::Well),
            Some(End::Badly) => return Ok(Ended::Badly),
            None => {}
        }
    }
}

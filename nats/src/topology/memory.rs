//! Memory streams: a single server forgets them with its process, and nothing but a hint is lost with them.

use async_nats::jetstream::{
    self, ErrorCode,
    stream::{self, StorageType},
};
use schemas::subjects;

use super::{FILE, Settings, ask, file::Topology, put_stream};
use crate::Error;

/// Makes the memory streams of the file anew that are gone, with as many copies as EVENTS has; answers their names. A file stream
/// is never made: one that is gone is a loss that has to be seen.
///
/// # Errors
/// [`Error::Unavailable`] when the server does not answer; [`Error::Topology`] when there is no EVENTS; [`Error::Refused`] when the
/// server refuses one.
pub async fn restore_memory(context: &jetstream::Context) -> Result<Vec<String>, Error> {
    let events = info(context, subjects::EVENTS).await?;
    let events = events.ok_or_else(|| Error::Topology { reason: "stream EVENTS is missing".into() })?;
    let settings = Settings { replicas: events.config.num_replicas, ..Settings::default() };
    let mut restored = Vec::new();
    for want in Topology::parse(FILE)?.streams(&settings) {
        if want.config.storage == StorageType::Memory && info(context, &want.config.name).await?.is_none() {
            put_stream(context, &want, None).await?;
            restored.push(want.config.name);
        }
    }
    Ok(restored)
}

async fn info(context: &jetstream::Context, stream: &str) -> Result<Option<stream::Info>, Error> {
    ask(context, format!("STREAM.INFO.{stream}"), ErrorCode::STREAM_NOT_FOUND).await
}

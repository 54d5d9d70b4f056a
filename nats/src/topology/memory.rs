//! Memory streams: a single server forgets them with its process, and nothing but a hint is lost with them.

use async_nats::jetstream::{
    self, ErrorCode,
    stream::{self, StorageType},
};
use schemas::subjects;

use super::{
    FILE, TopologySettings, compare::asset_name, file::TopologyFile, mirrors::account_context, put_stream,
    request_info,
};
use crate::BusError;

/// Makes the memory streams of the file anew that are gone, with as many copies as EVENTS has; answers their names. A file stream
/// is never made: one that is gone is a loss that has to be seen.
///
/// # Errors
/// [`BusError::Unavailable`] when the server does not answer; [`BusError::Topology`] when there is no EVENTS; [`BusError::Refused`]
/// when the server refuses one.
pub async fn restore_memory_streams(context: &jetstream::Context) -> Result<Vec<String>, BusError> {
    let events = fetch_stream_info(context, subjects::EVENTS).await?;
    let events = events.ok_or_else(|| BusError::Topology { reason: "stream EVENTS is missing".into() })?;
    let settings = TopologySettings { replicas: events.config.num_replicas, ..TopologySettings::default() };
    let mut restored = Vec::new();
    for want in TopologyFile::parse(FILE)?.desired_streams(&settings) {
        if want.config.storage != StorageType::Memory {
            continue;
        }
        let account = account_context(context, &want);
        if fetch_stream_info(&account, &want.config.name).await?.is_none() {
            put_stream(&account, &want, None).await?;
            restored.push(asset_name(&want.config));
        }
    }
    Ok(restored)
}

async fn fetch_stream_info(
    context: &jetstream::Context,
    stream: &str,
) -> Result<Option<stream::Info>, BusError> {
    request_info(context, format!("STREAM.INFO.{stream}"), ErrorCode::STREAM_NOT_FOUND).await
}

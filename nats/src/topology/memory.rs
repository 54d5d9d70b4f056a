//! Memory streams: a single server forgets them with its process, and nothing but a hint is lost with them.

use async_nats::jetstream::{
    self, ErrorCode,
    stream::{self, StorageType},
};
use schemas::subjects;

use super::{
    FILE, TopologySettings,
    compare::asset_name,
    file::{DesiredStream, TopologyFile},
    mirrors::account_context,
    put_stream, request_info,
};
use crate::BusError;

/// What was made anew.
#[derive(Debug, Default)]
pub struct RestoredStreams {
    /// Names of streams and mirrors.
    pub names: Vec<String>,
    /// Why a mirror could not be looked for: on a broker whose configuration is older there is no account for them.
    pub mirror_error: Option<BusError>,
}

/// Makes the memory streams of the file anew that are gone, with as many copies as EVENTS has, and then their mirrors. A file stream
/// is never made: one that is gone is a loss that has to be seen.
///
/// # Errors
/// [`BusError::Unavailable`] when the server does not answer; [`BusError::Topology`] when there is no EVENTS; [`BusError::Refused`]
/// when the server refuses one. An error of a mirror is in the answer: the streams are there all the same.
pub async fn restore_memory_streams(context: &jetstream::Context) -> Result<RestoredStreams, BusError> {
    let events = fetch_stream_info(context, subjects::EVENTS).await?;
    let events = events.ok_or_else(|| BusError::Topology { reason: "stream EVENTS is missing".into() })?;
    let settings = TopologySettings { replicas: events.config.num_replicas, ..TopologySettings::default() };
    let wanted = TopologyFile::parse(FILE)?.desired_streams(&settings);
    let in_memory = wanted.into_iter().filter(|want| want.config.storage == StorageType::Memory);
    let (mirrors, streams): (Vec<_>, Vec<_>) = in_memory.partition(DesiredStream::is_mirror);
    let mut restored = RestoredStreams::default();
    for want in &streams {
        restored.names.extend(restore_stream(context, want).await?);
    }
    for want in &mirrors {
        match restore_stream(context, want).await {
            Ok(name) => restored.names.extend(name),
            Err(error) => restored.mirror_error = Some(error),
        }
    }
    Ok(restored)
}

/// The name of the stream if it had to be made.
async fn restore_stream(
    context: &jetstream::Context,
    want: &DesiredStream,
) -> Result<Option<String>, BusError> {
    let account = account_context(context, want);
    if fetch_stream_info(&account, &want.config.name).await?.is_some() {
        return Ok(None);
    }
    put_stream(&account, want, None).await?;
    Ok(Some(asset_name(&want.config)))
}

async fn fetch_stream_info(
    context: &jetstream::Context,
    stream: &str,
) -> Result<Option<stream::Info>, BusError> {
    request_info(context, format!("STREAM.INFO.{stream}"), ErrorCode::STREAM_NOT_FOUND).await
}

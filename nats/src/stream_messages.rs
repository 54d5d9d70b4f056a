//! Single messages of a stream, by their sequences, and where a stream ends.

use async_nats::jetstream::stream::{DeleteMessageErrorKind, LastRawMessageErrorKind};

use crate::{
    Bus, BusError,
    reader::{StreamEntry, StreamPosition},
};

/// What there is of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StreamExtent {
    /// Its end.
    pub end: StreamPosition,
    /// Sequence of its oldest message, or of the next one where it is empty.
    pub first_sequence: u64,
}

impl Bus {
    /// What there is of `stream`, by its leader.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn stream_extent(&self, stream: &str) -> Result<StreamExtent, BusError> {
        let found = self.while_connected(self.context().get_stream(stream)).await;
        let found = found.map_err(BusError::unavailable)?.map_err(BusError::unavailable)?;
        let info = found.cached_info();
        let created_at_ms = u64::try_from(info.created.unix_timestamp_nanos() / 1_000_000).unwrap_or(0);
        let end = StreamPosition { created_at_ms, sequence: info.state.last_sequence };
        Ok(StreamExtent { end, first_sequence: info.state.first_sequence })
    }

    /// The message of that sequence, from the stream's leader; `None` when there is none.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn read_stream_message(
        &self,
        stream: &str,
        sequence: u64,
    ) -> Result<Option<StreamEntry>, BusError> {
        // The broker takes 0 for no sequence at all.
        if sequence == 0 {
            return Ok(None);
        }
        let handle = self.stream_handle(stream).await?;
        let read = || async {
            match handle.get_raw_message(sequence).await {
                Ok(raw) => Ok(Some(raw)),
                Err(error) if error.kind() == LastRawMessageErrorKind::NoMessageFound => Ok(None),
                Err(error) => Err(error),
            }
        };
        let found = self.retry_request(read, BusError::unavailable).await?;
        Ok(found.map(|raw| StreamEntry {
            sequence: raw.sequence,
            subject: raw.subject.to_string(),
            stored_at_ms: u64::try_from(raw.time.unix_timestamp_nanos() / 1_000_000).unwrap_or(0),
            headers: raw.headers,
            payload: raw.payload,
            pending: 0,
        }))
    }

    /// Removes one message from a stream that lets messages be removed; none there is no error.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn delete_stream_message(&self, stream: &str, sequence: u64) -> Result<(), BusError> {
        let handle = self.stream_handle(stream).await?;
        let delete = || async {
            match handle.delete_message(sequence).await {
                Ok(_) => Ok(()),
                Err(error) => match error.kind() {
                    DeleteMessageErrorKind::JetStream(refusal) if is_absent(&refusal) => Ok(()),
                    _ => Err(error),
                },
            }
        };
        self.retry_request(delete, BusError::unavailable).await
    }
}

/// True when the broker says that there is no such message.
fn is_absent(error: &async_nats::jetstream::Error) -> bool {
    use async_nats::jetstream::ErrorCode;
    matches!(error.error_code(), ErrorCode::NO_MESSAGE_FOUND | ErrorCode::SEQUENCE_NOT_FOUND)
        || error.to_string().contains("no message found")
}

//! The body of an answer: in time, and no more of it than may be.

use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::{config::OutboundConfig, error::OutboundError};

/// The body of an answer, as it arrives.
#[derive(Debug)]
pub struct OutboundBody {
    response: reqwest::Response,
    host: String,
    idle_timeout_ms: u64,
    total_time_ms_max: u64,
    deadline: Instant,
    bytes_max: u64,
    bytes_left: u64,
}

impl OutboundBody {
    pub(crate) fn new(
        response: reqwest::Response,
        host: &str,
        config: &OutboundConfig,
        (deadline, bytes_max): (Instant, u64),
    ) -> Self {
        Self {
            response,
            host: host.to_owned(),
            idle_timeout_ms: config.idle_timeout_ms,
            total_time_ms_max: config.total_time_ms_max,
            deadline,
            bytes_max,
            bytes_left: bytes_max,
        }
    }

    /// The next bytes; `None` at the end, which is the end that the answer names.
    ///
    /// # Errors
    /// [`OutboundError::TimedOut`], [`OutboundError::TooLarge`], and [`OutboundError::Broken`] where it ends before that.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, OutboundError> {
        let idle_until = Instant::now() + Duration::from_millis(self.idle_timeout_ms);
        let chunk = match tokio::time::timeout_at(idle_until.min(self.deadline), self.response.chunk()).await
        {
            Ok(Ok(chunk)) => chunk,
            Ok(Err(_)) => return Err(OutboundError::Broken { host: self.host.clone() }),
            Err(_) => return Err(self.timed_out(idle_until)),
        };
        let Some(chunk) = chunk else { return Ok(None) };
        // Bytes that come without a pause never wait for the clock.
        if Instant::now() >= self.deadline {
            return Err(self.timed_out(self.deadline));
        }
        let length = u64::try_from(chunk.len()).unwrap_or(u64::MAX);
        let too_large = || OutboundError::TooLarge { host: self.host.clone(), bytes_max: self.bytes_max };
        self.bytes_left = self.bytes_left.checked_sub(length).ok_or_else(too_large)?;
        Ok(Some(chunk))
    }

    fn timed_out(&self, idle_until: Instant) -> OutboundError {
        let host = self.host.clone();
        if idle_until < self.deadline {
            return OutboundError::TimedOut { host, what: "no byte came", limit_ms: self.idle_timeout_ms };
        }
        OutboundError::TimedOut { host, what: "not all of it came", limit_ms: self.total_time_ms_max }
    }
}

//! What a stage is: a name, a message, and a `handle` that may be repeated.

use std::{collections::BTreeMap, future::Future, time::Duration};

use schemas::fault::{FailureClass, error_chain};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use crate::{BusError, publish};

/// What a stage consumes, made of the bytes on the bus. Every deserializable type is one; a stage that consumes several
/// kinds implements it by hand and takes the kind from the delivery.
pub trait StageMessage: Sized + Send + Sync {
    /// Decodes the payload.
    ///
    /// # Errors
    /// [`BusError::Undecodable`] when the bytes are not exactly one message of the kind; it becomes a dead letter.
    fn decode(delivery: &MessageDelivery, payload: &[u8]) -> Result<Self, BusError>;
}

impl<T: DeserializeOwned + Send + Sync> StageMessage for T {
    fn decode(delivery: &MessageDelivery, payload: &[u8]) -> Result<Self, BusError> {
        publish::decode_message(&delivery.subject, payload)
    }
}

/// One stage of the pipeline. The loop in [`crate::consume`] calls it.
pub trait PipelineStage: Send + Sync + 'static {
    /// Name in logs and in `dead.<stage>.<id>`.
    const NAME: &'static str;
    /// What it consumes.
    type Message: StageMessage;
    /// Longest time between two calls of [`Self::renew_claim`]; shorter where a third of the ack wait is.
    const RENEW_PERIOD_MAX: Duration = Duration::from_secs(10);

    /// Does the work. Its effects are durable when this returns; it may be called again for the same message at any time.
    fn handle(
        &self,
        message: &Self::Message,
        delivery: &MessageDelivery,
    ) -> impl Future<Output = Result<StageOutcome, StageFault>> + Send;

    /// Asked before each progress ping: does this worker still hold the work? `false` stops it without an ack.
    fn renew_claim(
        &self,
        _message: &Self::Message,
        _delivery: &MessageDelivery,
    ) -> impl Future<Output = bool> + Send {
        async { true }
    }

    /// Called each time an outage delays the message, to record in state what it waits for. An outage is no reason to write
    /// more than once, and what can't be written is no harm.
    fn on_outage(
        &self,
        _message: &Self::Message,
        _delivery: &MessageDelivery,
        _fault: &StageFault,
    ) -> impl Future<Output = ()> + Send {
        async {}
    }

    /// Called once the message lies in the dead-letter stream and before it is taken off its queue, to record that in state.
    fn on_dead_letter(
        &self,
        _message: &Self::Message,
        _delivery: &MessageDelivery,
        _fault: &StageFault,
    ) -> impl Future<Output = Result<(), StageFault>> + Send {
        async { Ok(()) }
    }
}

/// One delivery of a message.
#[derive(Debug, Clone)]
pub struct MessageDelivery {
    /// Subject it was published to.
    pub subject: String,
    /// Stream it lies in.
    pub stream: String,
    /// Its sequence in that stream.
    pub sequence: u64,
    /// How often it was delivered, from 1. A restored queue starts again at 1, so nothing may depend on it alone.
    pub delivered: u32,
    /// Unix time in milliseconds at which it was stored.
    pub stored_at_ms: u64,
    /// Its headers, the last value of each.
    pub headers: BTreeMap<String, String>,
    /// Fires when the work must stop: the fence is lost or the process has to go.
    pub cancel: CancellationToken,
}

/// How handling ended well.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StageOutcome {
    /// Done, or done before: take it off the queue.
    Done,
    /// Somebody else seems to hold the work: deliver again after this many milliseconds.
    Later {
        /// Delay before the next delivery.
        delay_ms: u64,
    },
    /// The fence is lost or the work was interrupted: neither ack nor nak, the holder of the work answers for it.
    Lost,
}

/// How handling failed.
#[derive(Debug, thiserror::Error)]
#[error("{code}")]
pub struct StageFault {
    /// What it says about the work.
    pub class: FailureClass,
    /// A stable code.
    pub code: &'static str,
    /// Which failed try this was by the stage's own record; `None` lets the loop count for as long as the process lives.
    pub attempt: Option<u32>,
    /// Why.
    #[source]
    pub source: Box<dyn std::error::Error + Send + Sync>,
}

impl StageFault {
    /// A fault of a class that is known elsewhere.
    pub fn new(
        class: FailureClass,
        code: &'static str,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { class, code, attempt: None, source: source.into() }
    }

    /// Work that will never go well.
    pub fn reject(code: &'static str, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::new(FailureClass::Reject, code, source)
    }

    /// Names the failed try by the stage's own record.
    #[must_use]
    pub const fn with_attempt(mut self, attempt: u32) -> Self {
        self.attempt = Some(attempt);
        self
    }

    /// The code with the whole chain of causes, for people.
    pub fn describe(&self) -> String {
        format!("{}: {}", self.code, error_chain(self.source.as_ref()))
    }
}

impl From<crate::BusError> for StageFault {
    fn from(error: crate::BusError) -> Self {
        Self::new(error.failure_class(), error.code(), error)
    }
}

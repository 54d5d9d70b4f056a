//! What can go wrong in the stage, and whether to try again.

use nats::FailureClass;
use queue_worker::ClaimError;
use schemas::{fault::error_chain, index_query, job};

use crate::{export::ExportError, fetch::FetchError, thumbnails::PictureError};

/// An error of the tasks stage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TaskError {
    /// As the bus says.
    #[error("the bus failed")]
    Bus(#[from] nats::BusError),
    /// As the store says.
    #[error("the store failed")]
    Store(#[from] store::StoreError),
    /// As the claim says.
    #[error(transparent)]
    Claim(#[from] ClaimError),
    /// As the fetch says.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// As the export says.
    #[error(transparent)]
    Export(#[from] ExportError),
    /// Reject: the job lost one worker after another for long; it goes on once somebody resumes it.
    #[error("{workers} workers vanished while they held the part")]
    Parked {
        /// Workers that vanished.
        workers: u32,
    },
    /// Reject: only another version knows what is to be done.
    #[error("this version does not know the kind {kind:.40?}: run workers of the version that made the job")]
    UnknownKind {
        /// Kind of the job.
        kind: String,
    },
    /// Reject: the medium was removed.
    #[error("the medium is not there any more")]
    MediaGone,
    /// Reject: the medium has no verified source.
    #[error("the medium has no verified source")]
    NothingStored,
    /// Reject: the record does not say what is to be done.
    #[error("the record of the job does not say what is to be done")]
    NoAction,
    /// Outage while the index is behind or busy; fault where it does not understand.
    #[error("the index refused ({code}): {detail}")]
    IndexRefused {
        /// Its code.
        code: String,
        /// The same for people.
        detail: String,
    },
    /// As the taker says.
    #[error("the picture can't be taken")]
    Picture(#[from] PictureError),
    /// Outage: another worker took the job over.
    #[error("another worker has the job")]
    ClaimLost,
    /// Fault: the medium was encoded again, time after time, while it was read.
    #[error("the medium changed while it was read")]
    Changing,
    /// Reject: the try took too long; so would the next one.
    #[error("it took longer than `tasks.try_time_ms_max`, {try_time_ms_max} ms")]
    TooLong {
        /// Longest time of a try, in milliseconds.
        try_time_ms_max: u64,
    },
}

impl TaskError {
    /// A stable code for events, records and people.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bus(source) => source.code(),
            Self::Store(source) => source.code(),
            Self::Claim(source) => source.code(),
            Self::Fetch(source) => source.code(),
            Self::Export(source) => source.code(),
            Self::Parked { .. } => job::WORKERS_LOST,
            Self::UnknownKind { .. } | Self::NoAction => "job_unknown",
            Self::MediaGone => "media_gone",
            Self::NothingStored => "nothing_stored",
            Self::IndexRefused { .. } => "index_unavailable",
            Self::Picture(_) => "thumbnail_failed",
            Self::ClaimLost => "claim_lost",
            Self::Changing => "media_changing",
            Self::TooLong { .. } => "time_exceeded",
        }
    }

    /// What it says about the work.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Bus(source) => source.failure_class(),
            Self::Store(source) => source.class(),
            Self::Claim(source) => source.class(),
            Self::Fetch(source) => source.class(),
            Self::Export(source) => source.class(),
            Self::Changing => FailureClass::Fault,
            Self::IndexRefused { code, .. } => match code.as_str() {
                index_query::QUESTION_MALFORMED | index_query::CURSOR_MALFORMED => FailureClass::Fault,
                // Behind, busy, or being built anew.
                _ => FailureClass::Outage,
            },
            Self::Picture(source) => source.class,
            Self::ClaimLost => FailureClass::Outage,
            Self::Parked { .. }
            | Self::NoAction
            | Self::TooLong { .. }
            | Self::UnknownKind { .. }
            | Self::MediaGone
            | Self::NothingStored => FailureClass::Reject,
        }
    }

    /// The whole chain of causes in one line.
    pub(crate) fn describe(&self) -> String {
        error_chain(self).chars().filter(|c| !c.is_control()).take(1_000).collect()
    }
}

impl From<TaskError> for nats::StageFault {
    fn from(error: TaskError) -> Self {
        let (class, code) = (error.class(), error.code());
        Self::new(class, code, error)
    }
}

//! Why a part can't be claimed or kept.

use nats::FailureClass;
use schemas::fault::error_chain;

/// An error of claiming.
#[derive(Debug, thiserror::Error)]
pub enum ClaimError {
    /// As the bus says.
    #[error("the bus failed")]
    Bus(#[from] nats::BusError),
    /// Reject: the part was tried as often as allowed.
    #[error("the part was tried {attempts} times; last: {last}")]
    Exhausted {
        /// Tries.
        attempts: u32,
        /// Code of the last failure.
        last: String,
    },
}

impl ClaimError {
    /// What it says about the work.
    pub const fn class(&self) -> FailureClass {
        match self {
            Self::Bus(source) => source.failure_class(),
            Self::Exhausted { .. } => FailureClass::Reject,
        }
    }

    /// A stable code for events, records and people.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Bus(source) => source.code(),
            Self::Exhausted { .. } => "attempts_exhausted",
        }
    }

    /// True when the broker is away.
    pub fn is_outage(&self) -> bool {
        self.class() == FailureClass::Outage
    }

    /// The whole chain of causes in one line.
    pub fn describe(&self) -> String {
        error_chain(self)
    }
}

impl From<ClaimError> for nats::StageFault {
    fn from(error: ClaimError) -> Self {
        let (class, code) = (error.class(), error.code());
        Self::new(class, code, error)
    }
}

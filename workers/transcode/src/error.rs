//! What can go wrong in the stage, and whether to try again.

use nats::FailureClass;
use packaging::{
    mpd::ManifestWriteError,
    plan::{NoEncodableTrack, OPTIONS_VERSION},
    presentation::PartPlanMismatch,
};
use queue_worker::ClaimError;
use schemas::{fault::error_chain, job};

use crate::{check::MeasureError, own_ladder::RenditionFault};

/// An error of the transcode stage.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TranscodeError {
    /// As the bus says.
    #[error("the bus failed")]
    Bus(#[from] nats::BusError),
    /// As the store says.
    #[error("the store failed")]
    Store(#[from] store::StoreError),
    /// Reject: the file is at fault. Fault: the media child failed, crashed or stalled. As the store says: it could not read.
    #[error("the media child ended without a result")]
    Media(#[from] media::MediaTaskError),
    /// Reject: the child made something else than was planned, and would again.
    #[error("the output is not what was planned: {0}")]
    Unplanned(String),
    /// Reject: the parts do not add up.
    #[error("the parts do not add up")]
    Parts(#[from] PartPlanMismatch),
    /// Reject: the finished encode breaks rules.
    #[error("the encode does not conform: {0}")]
    Nonconforming(String),
    /// As the store says when stored objects can't be read back. Reject: they are damaged.
    #[error("stored objects can't be measured")]
    Measure(#[from] MeasureError),
    /// Reject: the manifest can't be written.
    #[error("the manifest can't be written")]
    Manifest(#[from] ManifestWriteError),
    /// Reject: the source holds nothing that could be encoded.
    #[error("nothing to make")]
    Nothing(#[from] NoEncodableTrack),
    /// Reject: the files do not go together.
    #[error("the renditions can't be published: {0}")]
    Renditions(#[from] RenditionFault),
    /// Reject: the message names a job or part that does not exist.
    #[error("{0} is not known")]
    Unknown(String),
    /// Reject: the settings of this worker have no such profile.
    #[error(
        "this worker has no profile {0:?}: give all workers the same `transcode.profiles`, and try the job again"
    )]
    UnknownProfile(String),
    /// Reject: the part was tried as often as allowed.
    #[error("the part was tried {attempts} times; last: {last}")]
    Exhausted {
        /// Tries.
        attempts: u32,
        /// Code of the last failure.
        last: String,
    },
    /// Reject: the part lost one worker after another for long; it is put aside, and its job goes on once somebody resumes it.
    #[error("{workers} workers vanished while they held the part")]
    Parked {
        /// Workers that vanished.
        workers: u32,
    },
    /// Reject: workers of another version planned the job, and none of them came for it. This version makes other bytes of the plan.
    #[error("planned as {planned:?}, this worker makes {own:?}: encode it anew with `streamgate dead redrive`", own = OPTIONS_VERSION)]
    OtherVersion {
        /// Version of the plan.
        planned: String,
    },
    /// Reject: the job failed for a reason found elsewhere.
    #[error("part {part} failed: {code}")]
    PartFailed {
        /// The part.
        part: String,
        /// Why.
        code: String,
    },
}

impl TranscodeError {
    /// A stable code for events, records and people.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Bus(source) => source.code(),
            Self::Store(source) | Self::Measure(MeasureError::Store { source, .. }) => source.code(),
            Self::Media(fault @ media::MediaTaskError::Source(source)) => {
                store::StoreError::find_in_io_error(source).map_or(fault.code(), store::StoreError::code)
            }
            Self::Media(fault) => fault.code(),
            Self::Unplanned(_) => "output_unplanned",
            Self::Parts(_) => "parts_mismatch",
            Self::Nonconforming(_) => "conformance_failed",
            Self::Measure(MeasureError::Malformed { .. } | MeasureError::Subtitles { .. }) => {
                "output_malformed"
            }
            Self::Manifest(_) => "manifest_failed",
            Self::Nothing(_) => media::MediaErrorCode::MediaNoStreams.as_str(),
            Self::Renditions(fault) => fault.code,
            Self::Unknown(_) => "job_unknown",
            Self::UnknownProfile(_) => "unknown_profile",
            Self::Exhausted { .. } => "attempts_exhausted",
            Self::PartFailed { .. } => job::PART_FAILED,
            Self::Parked { .. } => job::WORKERS_LOST,
            Self::OtherVersion { .. } => "options_version",
        }
    }

    /// What it says about the work.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Bus(source) => source.failure_class(),
            Self::Store(source) | Self::Measure(MeasureError::Store { source, .. }) => source.class(),
            Self::Media(media::MediaTaskError::Source(source)) => store::StoreError::find_in_io_error(source)
                .map_or(FailureClass::Outage, store::StoreError::class),
            // A host that can't start its child is no worse for this part than for others.
            Self::Media(media::MediaTaskError::Sandbox(_) | media::MediaTaskError::Spawn { .. }) => {
                FailureClass::Outage
            }
            Self::Media(fault) if fault.retry_decision() == media::MediaRetryDecision::Retry => {
                FailureClass::Fault
            }
            _ => FailureClass::Reject,
        }
    }

    /// True when broker or store are away: waiting costs no try, since the work is not to blame.
    pub fn is_outage(&self) -> bool {
        self.class() == FailureClass::Outage
    }

    /// True when the child itself broke down.
    pub fn is_crash(&self) -> bool {
        matches!(
            self,
            Self::Media(
                media::MediaTaskError::Crashed { .. }
                    | media::MediaTaskError::Stalled { .. }
                    | media::MediaTaskError::Protocol(_)
                    | media::MediaTaskError::Failed { .. }
            )
        )
    }

    /// The whole chain of causes in one line.
    pub(crate) fn describe(&self) -> String {
        error_chain(self).chars().filter(|c| !c.is_control()).take(1_000).collect()
    }
}

impl From<ClaimError> for TranscodeError {
    fn from(error: ClaimError) -> Self {
        match error {
            ClaimError::Bus(source) => Self::Bus(source),
            ClaimError::Exhausted { attempts, last } => Self::Exhausted { attempts, last },
        }
    }
}

impl From<TranscodeError> for nats::StageFault {
    fn from(error: TranscodeError) -> Self {
        let (class, code) = (error.class(), error.code());
        Self::new(class, code, error)
    }
}

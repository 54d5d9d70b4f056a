//! What every worker of a job queue does beside its work: claims the parts that it makes, says what it holds, and does what admins
//! ask of it.
//!
//! - Consumes: core `ctl.worker.<worker>` (pause, resume, drain).
//! - Emits: `evt.job.{started,retried,parked}`, with the claim of a part; `progress.<job_id>.<part>`.
//! - Stores: claims of parts in `jobs`, what this worker holds in `workers`.
//! - Limits: those of [`PartClaim`], [`BrokerUptime`] and [`WorkerStatus`].

mod active_claims;
mod claim;
mod command;
mod error;
mod progress;
#[cfg(test)]
mod takeover_tests;
mod uptime;
mod worker_status;

pub use active_claims::{ActiveClaimGuard, ActiveClaims};
pub use claim::{
    CHANGE_TIME_MAX, CLAIM_FRESH, ClaimOutcome, LostWorkerPolicy, PartAttemptFailure, PartAvailability,
    PartClaim, PartClaimSettings, RENEW_PERIOD_MAX, fail_part, is_job_inactive,
};
pub use command::answer_commands;
pub use error::ClaimError;
pub use progress::publish_progress;
pub use uptime::BrokerUptime;
pub use worker_status::{WorkerIdentity, WorkerStatus};

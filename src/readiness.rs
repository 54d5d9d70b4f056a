//! Whether this process can do its work, and what the end of a task says about that.
//!
//! Probes read memory only: what they report is found out beside them.
//!
//! Limits: the store is looked at every [`LOOK_PERIOD`], for at most [`LOOK_MAX`].

use std::time::Duration;

use nats::{ProcessHealth, TaskEnding};
use schemas::fault::{FailureClass, error_chain};
use store::Store;
use tokio_util::sync::CancellationToken;

/// How often the store is looked at.
pub const LOOK_PERIOD: Duration = Duration::from_secs(3);
/// Longest wait for the store.
pub const LOOK_MAX: Duration = Duration::from_secs(2);

/// Looks at the store until `shutdown`; `health` knows what came of it.
///
/// # Errors
/// None: a store that is away is what it looks for.
pub async fn watch_store(
    store: &Store,
    health: &ProcessHealth,
    shutdown: &CancellationToken,
) -> anyhow::Result<()> {
    loop {
        let problem = match tokio::time::timeout(LOOK_MAX, store.verify_marker_now()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error_chain(&error)),
            Err(_) => Some("it does not answer".to_owned()),
        };
        if let Some(problem) = &problem {
            tracing::debug!(problem, "the store can't be used");
        }
        health.record_dependency("store", problem);
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_PERIOD) => {}
        }
    }
}

/// What a role or a task has to do that ended with this error.
pub fn classify_ending(error: &anyhow::Error) -> TaskEnding {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<nats::BusError>() {
            return error.task_ending();
        }
        if let Some(error) = cause.downcast_ref::<store::StoreError>() {
            return match error.class() {
                FailureClass::Outage => TaskEnding::Outage,
                FailureClass::Fault => TaskEnding::Fault,
                FailureClass::Reject => TaskEnding::Configuration,
            };
        }
        if let Some(index::IndexError::Locked { .. } | index::IndexError::Folder { .. }) =
            cause.downcast_ref()
        {
            return TaskEnding::Configuration;
        }
        if cause.is::<crate::config::SettingsError>() || cause.is::<crate::data_folder::DataFolderError>() {
            return TaskEnding::Configuration;
        }
    }
    TaskEnding::Fault
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_end_of_a_role_is_judged_by_its_cause() {
        let wrapped = |error: nats::BusError| -> anyhow::Error {
            Err::<(), _>(upload::UploadStageError::Bus(error)).context("role upload").unwrap_err()
        };
        for (error, wanted) in [
            (wrapped(nats::BusError::unavailable("away")), TaskEnding::Outage),
            (wrapped(nats::BusError::Credentials { reason: "no".into() }), TaskEnding::Configuration),
            (wrapped(nats::BusError::Topology { reason: "no".into() }), TaskEnding::Configuration),
            (wrapped(nats::BusError::Refused { what: "x".into(), reason: "no".into() }), TaskEnding::Fault),
            (store::StoreError::Unavailable("away".into()).into(), TaskEnding::Outage),
            (store::StoreError::Invalid("no scheme".into()).into(), TaskEnding::Configuration),
            (index::IndexError::Locked { folder: "/x".into() }.into(), TaskEnding::Configuration),
            (index::IndexError::Damaged { what: "x".into() }.into(), TaskEnding::Fault),
            (anyhow::anyhow!("anything"), TaskEnding::Fault),
        ] {
            assert_eq!(classify_ending(&error), wanted, "{error:#}");
        }
    }
}

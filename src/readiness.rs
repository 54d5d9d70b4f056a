//! Whether this process can do its work, and what the end of a task says about that.
//!
//! Probes read memory only: what they tell is found out beside them.
//!
//! Limits: the store is looked at every [`LOOK_PERIOD`], for at most [`LOOK_MAX`].

use std::time::Duration;

use nats::{Ending, Health};
use schemas::fault::{Class, error_chain};
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
pub async fn watch_store(store: &Store, health: &Health, shutdown: &CancellationToken) -> anyhow::Result<()> {
    loop {
        let problem = match tokio::time::timeout(LOOK_MAX, store.verify_now()).await {
            Ok(Ok(())) => None,
            Ok(Err(error)) => Some(error_chain(&error)),
            Err(_) => Some("it does not answer".to_owned()),
        };
        if let Some(problem) = &problem {
            tracing::debug!(problem, "the store can't be used");
        }
        health.looked_at("store", problem);
        tokio::select! {
            () = shutdown.cancelled() => return Ok(()),
            () = tokio::time::sleep(LOOK_PERIOD) => {}
        }
    }
}

/// What a role or a task has to do that ended with this error.
pub fn ending(error: &anyhow::Error) -> Ending {
    for cause in error.chain() {
        if let Some(error) = cause.downcast_ref::<nats::Error>() {
            return error.ending();
        }
        if let Some(error) = cause.downcast_ref::<store::Error>() {
            return match error.class() {
                Class::Outage => Ending::Outage,
                Class::Fault => Ending::Fault,
                Class::Reject => Ending::Configuration,
            };
        }
        if let Some(index::Error::Locked { .. } | index::Error::Folder { .. }) = cause.downcast_ref() {
            return Ending::Configuration;
        }
        if cause.is::<crate::config::Error>() {
            return Ending::Configuration;
        }
    }
    Ending::Fault
}

#[cfg(test)]
mod tests {
    use anyhow::Context;

    use super::*;

    #[test]
    fn the_end_of_a_role_is_judged_by_its_cause() {
        let wrapped = |error: nats::Error| -> anyhow::Error {
            Err::<(), _>(upload::Error::Bus(error)).context("role upload").unwrap_err()
        };
        for (error, wanted) in [
            (wrapped(nats::Error::unavailable("away")), Ending::Outage),
            (wrapped(nats::Error::Credentials { reason: "no".into() }), Ending::Configuration),
            (wrapped(nats::Error::Topology { reason: "no".into() }), Ending::Configuration),
            (wrapped(nats::Error::Refused { what: "x".into(), reason: "no".into() }), Ending::Fault),
            (store::Error::Unavailable("away".into()).into(), Ending::Outage),
            (store::Error::Invalid("no scheme".into()).into(), Ending::Configuration),
            (index::Error::Locked { folder: "/x".into() }.into(), Ending::Configuration),
            (index::Error::Damaged { what: "x".into() }.into(), Ending::Fault),
            (anyhow::anyhow!("anything"), Ending::Fault),
        ] {
            assert_eq!(ending(&error), wanted, "{error:#}");
        }
    }
}

//! The metrics of a process: which are shown, and their report to the monitor every [`subjects::REPORT_PERIOD_S`] seconds.
//!
//! A report that is lost, or that the broker does not take, is no harm: the next one has everything.
//!
//! Limits: [`subjects::REPORT_BYTES_MAX`] bytes a report; a larger one is not sent, and counted. A report that the connection does
//! not take within a period, or until the shutdown, is given up. After a refusal of the broker none is sent for [`REFUSAL_PAUSE`].

use std::time::Duration;

use monitor::MonitorMetrics;
use nats::{
    Bus, Role,
    metrics::{MetricHandler, Registry, labels::PublishOutcome, show_handlers, table::REPORTS},
};
use schemas::subjects;
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior},
};

use super::{ProcessRole, Runtime};

const PERIOD: Duration = Duration::from_secs(subjects::REPORT_PERIOD_S);

/// How long no report is sent once the broker has refused one.
const REFUSAL_PAUSE: Duration = Duration::from_secs(600);

/// The metrics of the monitor, shown by the process that runs it, with those that others report.
pub(super) fn register_monitor(site: &Runtime, kind: ProcessRole) -> MonitorMetrics {
    if kind != ProcessRole::Monitor {
        return MonitorMetrics::register(&mut Registry::default());
    }
    let counts = site.metrics.change(MonitorMetrics::register);
    let reports = counts.role_reports().clone();
    reports.set_own_instance(site.metrics.instance());
    site.metrics.merge_with(move |own| reports.merge(&own));
    counts
}

/// Has what these roles count shown from the start, at 0: what is absent can't be compared.
pub(super) fn show_role_metrics(kinds: &[ProcessRole]) {
    show_handlers(&[MetricHandler::Process]);
    for kind in kinds {
        // The ingress says what it counts where it is built.
        show_handlers(match kind {
            ProcessRole::Ingress => &[],
            ProcessRole::Upload => &[MetricHandler::Upload],
            ProcessRole::Transcode => &[MetricHandler::Transcoder, MetricHandler::Worker],
            ProcessRole::Tasks | ProcessRole::Keeper => &[MetricHandler::Worker],
            ProcessRole::Index => &[MetricHandler::Metadata],
            ProcessRole::Audit | ProcessRole::Monitor => &[MetricHandler::Monitor],
        });
    }
}

/// Whether the broker has refused the subject since this was asked last.
fn is_refused(refusals: &mut watch::Receiver<Option<String>>, subject: &str) -> bool {
    let is_new = refusals.has_changed().unwrap_or(false);
    is_new && refusals.borrow_and_update().as_ref().is_some_and(|said| said.contains(subject))
}

/// Reports the metrics of this process under `role` until the shutdown.
pub(super) async fn report_metrics(site: &Runtime, role: Role, bus: &Bus) {
    let subject = subjects::stat_subject(role.name(), site.metrics.instance());
    let mut ticks = tokio::time::interval(PERIOD);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut was_too_large = false;
    let mut refusals = bus.watch_refusals();
    let mut paused_until: Option<Instant> = None;
    loop {
        tokio::select! {
            () = site.shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        if is_refused(&mut refusals, &subject) {
            tracing::warn!(
                subject,
                "the broker refuses reports of metrics, which pause for ten minutes; load nats/permissions.conf of this version into it"
            );
            paused_until = Some(Instant::now() + REFUSAL_PAUSE);
        }
        if paused_until.is_some_and(|until| Instant::now() < until) {
            continue;
        }
        // The monitor has no use for exemplars.
        let document = nats::metrics::drop_exemplars(&site.metrics.render_text());
        let size_bytes = document.len();
        REPORTS.increment(if size_bytes > subjects::REPORT_BYTES_MAX {
            if !std::mem::replace(&mut was_too_large, true) {
                tracing::warn!(size_bytes, "the metrics are too many to be reported to the monitor");
            }
            PublishOutcome::TooLarge
        } else {
            let published =
                tokio::time::timeout(PERIOD, bus.publish_core(subject.clone(), document.into_bytes()));
            let published = tokio::select! {
                () = site.shutdown.cancelled() => return,
                published = published => published,
            };
            match published {
                Ok(Ok(())) => PublishOutcome::Published,
                Ok(Err(error)) => {
                    tracing::debug!(%error, "the metrics were not reported; they are in ten seconds");
                    PublishOutcome::Failed
                }
                Err(_) => {
                    tracing::debug!("the metrics were not reported in ten seconds");
                    PublishOutcome::Failed
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_of_the_report_is_seen_once() {
        let (sender, mut refusals) = watch::channel(None);
        assert!(!is_refused(&mut refusals, "stat.index.00000000000000aa"));
        let said = "Permissions Violation for Publish to \"stat.index.00000000000000aa\"";
        sender.send_replace(Some(said.to_owned()));
        assert!(is_refused(&mut refusals, "stat.index.00000000000000aa"));
        assert!(!is_refused(&mut refusals, "stat.index.00000000000000aa"), "it may have the right now");
        sender.send_replace(Some(said.to_owned()));
        assert!(is_refused(&mut refusals, "stat.index.00000000000000aa"), "the same words again");
        sender.send_replace(Some("Permissions Violation for Publish to \"evt.x\"".to_owned()));
        assert!(!is_refused(&mut refusals, "stat.index.00000000000000aa"));
    }
}

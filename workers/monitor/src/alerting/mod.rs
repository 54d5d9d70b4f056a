//! Alerts: which conditions hold by the metrics that the monitor shows, what fires, and who is informed.
//!
//! - Consumes: the document of metrics of this process with what others reported, after each poll; the record `limits.alerts`.
//! - Emits: `alert.fired` and `alert.resolved`, each once, with the change of the record; bodies to receivers ([`notify`]).
//! - Stores: the record `limits.alerts`, by compare-and-set and under the lease `alerts`. Every monitor evaluates, so that a window is
//!   known to the one that takes the lease over; one writes and informs.
//! - Limits: [`MonitorAlertsConfig`]; windows of an hour at most, those of `alerts`.
//!
//! While the broker is away, or writes nothing, nobody has the lease. Then each monitor informs receivers of what fires by its own memory, so that they may
//! learn of an outage twice; no event says so.

mod board_writes;
mod clock;
mod config;
mod mail;
mod notify;
mod observe;
mod outage;
mod send_error;
mod webhook;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use ::alerts::{ConditionHolding, RuleSet, Transition, advance_board};
use nats::{Bus, BusError, Outbox};
use parking_lot::Mutex;
use schemas::alert::{AlertBoard, AlertFired, AlertResolved, AlertState};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub use config::{MonitorAlertsConfig, SmtpConfig, SmtpEncryption, WebhookReceiverConfig};
pub use notify::AlertsSetupError;

use board_writes::BoardWrites;
use notify::Notifier;

/// The lease of the monitor that writes.
const LEASE: &str = "alerts";
/// How long a write of the record may take.
const WRITE_TIME_MAX: Duration = Duration::from_secs(5);

/// How long nothing is said after the start: what did not report yet would look like what is gone.
const QUIET_TIME: Duration = Duration::from_secs(schemas::subjects::REPORT_PERIOD_S * 3 / 2);

/// Writes the document of all metrics that this process shows.
pub type MetricsDocument = Arc<dyn Fn() -> String + Send + Sync>;

/// What held at a moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct AlertObservation {
    pub(crate) holding: Vec<ConditionHolding>,
    pub(crate) uncovered: BTreeSet<usize>,
    /// Unix time in milliseconds by the broker; 0 before the first.
    pub(crate) at_ms: u64,
}

/// Evaluates, writes and informs until `shutdown`.
pub(crate) async fn run_alerts(
    bus: Bus,
    config: MonitorAlertsConfig,
    document: MetricsDocument,
    period: Duration,
    shutdown: CancellationToken,
) {
    let set = match RuleSet::built_in() {
        Ok(set) => Arc::new(set.shortened(config.time_scale, 1_000)),
        Err(error) => {
            tracing::error!(%error, "there are no alerts");
            return;
        }
    };
    let notifier = match Notifier::new(&config) {
        Ok(notifier) => Arc::new(notifier),
        Err(error) => {
            tracing::error!(%error, "there are no alerts");
            return;
        }
    };
    notifier.log_faults();
    let writes = BoardWrites::new(period);
    let (sender, observed) = watch::channel(AlertObservation::default());
    let board = Arc::new(Mutex::new(AlertBoard::default()));
    let observing = {
        let quiet = QUIET_TIME / u32::try_from(config.time_scale).unwrap_or(1).max(1);
        observe::observe_metrics(Arc::clone(&set), document, period, (sender, quiet), shutdown.clone())
    };
    let writing = bus.run_with_lease(LEASE, shutdown.clone(), |held| {
        let (bus, set, notifier) = (bus.clone(), Arc::clone(&set), Arc::clone(&notifier));
        let (observed, board, writes) = (observed.clone(), Arc::clone(&board), &writes);
        // What another monitor did meanwhile is read before anybody is informed.
        board.lock().alerts.clear();
        async move {
            let writing = write_board(&bus, &set, observed, (&board, writes), &held);
            let informing = notify::inform_receivers(&bus, &notifier, &board, &held);
            tokio::join!(writing, informing);
        }
    });
    let bridging = outage::bridge_outages(&bus, &set, observed.clone(), &notifier, &writes, &shutdown);
    tokio::join!(observing, writing, bridging, clock::follow_clock(&bus, &shutdown));
}

/// Writes what came of each observation, until `held` fires.
async fn write_board(
    bus: &Bus,
    set: &RuleSet,
    mut observed: watch::Receiver<AlertObservation>,
    (known, writes): (&Mutex<AlertBoard>, &BoardWrites),
    held: &CancellationToken,
) {
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            changed = observed.changed() => if changed.is_err() { return },
        }
        let observation = observed.borrow_and_update().clone();
        let written = tokio::time::timeout(WRITE_TIME_MAX, commit_observation(bus, set, &observation));
        let written = tokio::select! {
            () = held.cancelled() => return,
            written = written => written,
        };
        if matches!(written, Ok(Ok(_))) {
            writes.note_success();
        } else {
            writes.note_failure();
        }
        match written {
            Ok(Ok((board, transitions))) => {
                transitions.iter().for_each(log_transition);
                *known.lock() = board;
            }
            Ok(Err(error)) => tracing::warn!(%error, "alerts can't be written"),
            Err(_) => tracing::warn!("alerts can't be written: the broker does not answer"),
        }
    }
}

/// One change of the record with its events; answers the board, and what it says for the first time.
async fn commit_observation(
    bus: &Bus,
    set: &RuleSet,
    observation: &AlertObservation,
) -> Result<(AlertBoard, Vec<Transition>), BusError> {
    let AlertObservation { holding, uncovered, at_ms } = observation;
    let mut transitions = Vec::new();
    let change = |found: Option<&AlertBoard>| {
        let found = found.cloned().unwrap_or_default();
        let change = advance_board(set, &found, holding, uncovered, *at_ms);
        transitions = change.transitions;
        let outbox = transitions.iter().fold(Outbox::new(), |outbox, transition| {
            with_transition(outbox, &change.board, transition, *at_ms)
        });
        change.is_changed.then_some((change.board, outbox))
    };
    let held = bus.change_record::<AlertBoard>(AlertBoard::KEY, change).await?;
    Ok((held.map(|held| held.record).unwrap_or_default(), transitions))
}

fn with_transition(outbox: Outbox, board: &AlertBoard, transition: &Transition, now_ms: u64) -> Outbox {
    match transition {
        Transition::Fired(alert) => {
            let AlertState { alert_id, name, severity, labels, summary, value, since_ms, .. } = alert.clone();
            let fired_at_ms = alert.fired_at_ms.unwrap_or(now_ms);
            let is_silenced = board.find_silence(alert, now_ms).is_some();
            outbox.with_event(&AlertFired {
                alert_id,
                name,
                severity,
                labels,
                summary,
                value,
                since_ms,
                fired_at_ms,
                is_silenced,
            })
        }
        Transition::Resolved(alert) => {
            let AlertState { alert_id, name, severity, labels, .. } = alert.clone();
            outbox.with_event(&AlertResolved {
                alert_id,
                name,
                severity,
                labels,
                fired_at_ms: alert.fired_at_ms.unwrap_or(alert.since_ms),
                resolved_at_ms: alert.resolved_at_ms.unwrap_or(now_ms),
            })
        }
    }
}

fn log_transition(transition: &Transition) {
    match transition {
        Transition::Fired(alert) if alert.severity == schemas::alert::AlertSeverity::None => {}
        Transition::Fired(alert) => tracing::warn!(
            alert = alert.name,
            alert_id = alert.alert_id,
            severity = alert.severity.name(),
            summary = alert.summary,
            "an alert fires"
        ),
        Transition::Resolved(alert) => {
            tracing::info!(alert = alert.name, alert_id = alert.alert_id, "an alert is resolved");
        }
    }
}

#[cfg(test)]
mod tests;

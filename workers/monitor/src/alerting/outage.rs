//! While the broker is away: what fires is kept in memory, and receivers are informed by each monitor.

use std::time::Duration;

use ::alerts::{RuleSet, advance_board};
use nats::Bus;
use parking_lot::Mutex;
use schemas::alert::{AlertBoard, AlertPhase};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    AlertObservation, log_transition,
    notify::{Notifier, note_taken},
};

/// How long the broker has to be away before a monitor informs by itself: the lease ended, and another one may have it.
const AWAY_MIN: Duration = Duration::from_secs(10);

/// Whether an alert is about the broker itself. Of all others what the metrics say while it is away is old.
fn is_about_broker(name: &str) -> bool {
    ["StreamGateBrokerDown", "StreamGateMonitorStale", "StreamGateStateUnread"].contains(&name)
}

/// Informs receivers during outages of the broker, until `shutdown`.
pub(super) async fn bridge_outages(
    bus: &Bus,
    set: &RuleSet,
    mut observed: watch::Receiver<AlertObservation>,
    notifier: &Notifier,
    known: &Mutex<AlertBoard>,
    shutdown: &CancellationToken,
) {
    let mut states = notifier.fresh_states();
    let mut away_since: Option<tokio::time::Instant> = None;
    let mut local: Option<AlertBoard> = None;
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            changed = observed.changed() => if changed.is_err() { return },
        }
        let mut observation = observed.borrow_and_update().clone();
        observation
            .holding
            .retain(|held| set.rules.get(held.rule).is_some_and(|rule| is_about_broker(&rule.name)));
        // A frozen broker keeps its connections, and answers no poll: that it does not answer is what counts.
        let is_away = !bus.is_up()
            || observation
                .holding
                .iter()
                .any(|held| set.rules.get(held.rule).is_some_and(|rule| rule.name == "StreamGateBrokerDown"));
        if !is_away {
            away_since = None;
        } else if away_since.get_or_insert_with(tokio::time::Instant::now).elapsed() >= AWAY_MIN
            && local.is_none()
        {
            // What is silenced stays so; what fired before is known to receivers.
            let silences = known.lock().silences.clone();
            local = Some(AlertBoard { silences, ..AlertBoard::default() });
        }
        let Some(board) = &mut local else { continue };
        let AlertObservation { holding, uncovered, at_ms } = observation;
        let change = advance_board(set, board, &holding, &uncovered, at_ms);
        change.transitions.iter().for_each(log_transition);
        *board = change.board;
        let taken = tokio::select! {
            () = shutdown.cancelled() => return,
            taken = notifier.send_due(board, &mut states, at_ms) => taken,
        };
        note_taken(board, &taken, at_ms);
        // Once it is back, and those who were informed know that, the record goes on.
        if !is_away && board.alerts.iter().all(|alert| alert.phase == AlertPhase::Pending) {
            local = None;
        }
    }
}

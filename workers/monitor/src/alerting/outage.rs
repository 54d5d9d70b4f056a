//! While the broker is away, or answers and writes nothing: what fires is kept in memory, and receivers are informed by each monitor.

use std::time::Duration;

use ::alerts::{RuleSet, advance_board};
use nats::Bus;
use schemas::alert::{AlertBoard, AlertPhase};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    AlertObservation,
    board_writes::BoardWrites,
    log_transition,
    notify::{Notifier, note_taken},
};

/// How long the broker has to be away before a monitor informs by itself: the lease ended, and another one may have it.
const AWAY_MIN: Duration = Duration::from_secs(10);
/// How long what still fires is kept here after the broker is back: longer than any rule about it asks.
const HANDOVER_TIME: Duration = Duration::from_secs(600);
/// How long reading the record may take.
const LOAD_TIME_MAX: Duration = Duration::from_secs(2);

/// Whether an alert is about the broker itself. Of all others what the metrics say while it is away is old.
fn is_about_broker(name: &str) -> bool {
    [
        "StreamGateBrokerDown",
        "StreamGateMonitorStale",
        "StreamGateStateUnread",
        "StreamGateBrokerCannotWrite",
        "StreamGateWritesUnconfirmed",
        "StreamGateStreamUnconfirmed",
        "StreamGateLimiterStoreLost",
        "StreamGateQuorumLost",
        "StreamGateCapacityFull",
    ]
    .contains(&name)
}

/// The record without its alerts: what people said; `None` when it can't be read.
async fn load_marks(bus: &Bus, writes: &BoardWrites) -> Option<AlertBoard> {
    match tokio::time::timeout(LOAD_TIME_MAX, bus.load_record::<AlertBoard>(AlertBoard::KEY)).await {
        Ok(Ok(found)) => {
            let board = found.map(|held| held.record).unwrap_or_default();
            writes.note_evaluated(board.evaluated_at_ms);
            let AlertBoard { silences, acknowledgements, .. } = board;
            Some(AlertBoard { silences, acknowledgements, ..AlertBoard::default() })
        }
        Ok(Err(error)) => {
            tracing::debug!(%error, "what is silenced can't be read");
            None
        }
        Err(_) => None,
    }
}

/// Whether the record goes on once the broker is back: those who were informed know what is over, and what fires still fires there, too.
fn is_handed_over(board: &AlertBoard, back_since: tokio::time::Instant) -> bool {
    let is_late = back_since.elapsed() >= HANDOVER_TIME;
    board.alerts.iter().all(|alert| match alert.phase {
        AlertPhase::Pending => true,
        AlertPhase::Firing => is_late,
        AlertPhase::Resolved => false,
    })
}

/// Informs receivers during outages of the broker, until `shutdown`.
pub(super) async fn bridge_outages(
    bus: &Bus,
    set: &RuleSet,
    mut observed: watch::Receiver<AlertObservation>,
    notifier: &Notifier,
    writes: &BoardWrites,
    shutdown: &CancellationToken,
) {
    let mut states = notifier.fresh_states();
    let mut away_since: Option<tokio::time::Instant> = None;
    let mut back_since: Option<tokio::time::Instant> = None;
    let mut local: Option<AlertBoard> = None;
    // What is silenced stays so while nobody can read it.
    let mut marks = AlertBoard::default();
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
        if is_away {
            away_since.get_or_insert_with(tokio::time::Instant::now);
        } else {
            away_since = None;
            let loaded = tokio::select! {
                () = shutdown.cancelled() => return,
                loaded = load_marks(bus, writes) => loaded,
            };
            marks = loaded.unwrap_or(marks);
        }
        let is_out =
            away_since.is_some_and(|since| since.elapsed() >= AWAY_MIN) || writes.are_failing(AWAY_MIN);
        if is_out && local.is_none() {
            tracing::warn!(
                "the record of alerts is not written: this monitor informs receivers by its own memory"
            );
            local = Some(AlertBoard::default());
        }
        let Some(board) = &mut local else { continue };
        board.silences.clone_from(&marks.silences);
        board.acknowledgements.clone_from(&marks.acknowledgements);
        let AlertObservation { holding, uncovered, at_ms } = observation;
        let change = advance_board(set, board, &holding, &uncovered, at_ms);
        change.transitions.iter().for_each(log_transition);
        *board = change.board;
        let taken = tokio::select! {
            () = shutdown.cancelled() => return,
            taken = notifier.send_due(board, &mut states, at_ms) => taken,
        };
        note_taken(board, &taken);
        if is_away || is_out {
            back_since = None;
        } else if is_handed_over(board, *back_since.get_or_insert_with(tokio::time::Instant::now)) {
            local = None;
        }
    }
}

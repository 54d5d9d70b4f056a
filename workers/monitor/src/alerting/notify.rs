//! Informing receivers: what began to fire, what still does, and what is over.
//!
//! A receiver that can't be reached is tried again after a while, with what fires then: nothing that still fires is lost, and of what is
//! over it learns for an hour. Who took what stands in the record, so another monitor goes on from there.
//!
//! Limits: one sending at a time to a receiver, [`MonitorAlertsConfig::group_ms`] apart; after a failure from [`RETRY_MIN`] to
//! [`RETRY_MAX`].

use std::time::Duration;

use ::alerts::PayloadContext;
use nats::{Bus, Outbox};
use outbound::OutboundError;
use parking_lot::Mutex;
use schemas::alert::{AlertBoard, AlertPhase, AlertSeverity, AlertState};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    MonitorAlertsConfig, WRITE_TIME_MAX,
    mail::{MailReceiver, MailSetupError},
    send_error::SendError,
    webhook::{WebhookReceiver, WebhookSetupError},
};

/// Least wait after a sending that failed.
const RETRY_MIN: Duration = Duration::from_secs(5);
/// Longest wait after sendings that failed.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// How often the board is looked at.
const LOOK_PERIOD: Duration = Duration::from_secs(1);

/// Why receivers can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AlertsSetupError {
    /// One of the webhooks.
    #[error("{source}")]
    Webhook {
        /// Its place in the settings, from 0.
        position: usize,
        /// Why.
        source: WebhookSetupError,
    },
    /// The mail server.
    #[error(transparent)]
    Mail(#[from] MailSetupError),
    /// The HTTP client.
    #[error("the HTTP client can't be made: {0}")]
    Client(#[from] OutboundError),
}

impl AlertsSetupError {
    /// Of which setting, below `monitor.alerts`.
    pub(crate) fn field(&self) -> String {
        match self {
            Self::Webhook { position, .. } => format!("webhooks[{position}].url"),
            Self::Mail(error) => format!("smtp.{}", error.field()),
            Self::Client(_) => "webhooks".into(),
        }
    }
}

impl MonitorAlertsConfig {
    /// Refuses what can't work.
    ///
    /// # Errors
    /// The field, and what is wrong with it.
    pub fn check(&self) -> Result<(), (String, String)> {
        Notifier::new(self).map(|_| ()).map_err(|error| (error.field(), error.to_string()))
    }
}

/// Who is informed.
#[derive(Debug)]
enum AlertReceiver {
    Webhook(Box<WebhookReceiver>),
    Mail(Box<MailReceiver>),
}

/// All receivers.
#[derive(Debug)]
pub(super) struct Notifier {
    receivers: Vec<(String, AlertReceiver)>,
    base_url: String,
    repeat_ms: u64,
    group: Duration,
    send_timeout: Duration,
}

/// How a receiver did lately.
#[derive(Debug, Default)]
pub(super) struct ReceiverState {
    next_at: Option<Instant>,
    failures: u32,
}

impl Notifier {
    pub(super) fn new(config: &MonitorAlertsConfig) -> Result<Self, AlertsSetupError> {
        let mut receivers = Vec::new();
        let client = super::webhook::make_client(config.send_timeout_ms)?;
        for (position, webhook) in config.webhooks.iter().enumerate() {
            let receiver = WebhookReceiver::new(client.clone(), webhook)
                .map_err(|source| AlertsSetupError::Webhook { position, source })?;
            receivers.push((format!("webhook-{}", position + 1), AlertReceiver::Webhook(Box::new(receiver))));
        }
        if let Some(smtp) = &config.smtp {
            receivers.push(("mail".into(), AlertReceiver::Mail(Box::new(MailReceiver::new(smtp)?))));
        }
        Ok(Self {
            receivers,
            base_url: config.base_url.as_deref().unwrap_or_default().trim_end_matches('/').to_owned(),
            repeat_ms: config.repeat_ms,
            group: Duration::from_millis(config.group_ms),
            send_timeout: Duration::from_millis(config.send_timeout_ms),
        })
    }

    pub(super) fn fresh_states(&self) -> Vec<ReceiverState> {
        self.receivers.iter().map(|_| ReceiverState::default()).collect()
    }

    /// Sends to each receiver what it does not know yet; answers which alerts each took.
    pub(super) async fn send_due(
        &self,
        board: &AlertBoard,
        states: &mut [ReceiverState],
        now_ms: u64,
    ) -> Vec<TakenAlerts> {
        let sendings = self.receivers.iter().zip(states).map(|((name, receiver), state)| async move {
            let due = self.find_due(board, name, receiver, now_ms);
            if due.is_empty() || state.next_at.is_some_and(|at| Instant::now() < at) {
                return None;
            }
            let sent = tokio::time::timeout(self.send_timeout, self.send_one(name, receiver, &due, now_ms));
            match sent.await.unwrap_or(Err(SendError::TimedOut)) {
                Ok(()) => {
                    *state = ReceiverState { next_at: Some(Instant::now() + self.group), failures: 0 };
                    Some(TakenAlerts { receiver: name.clone(), alerts: due })
                }
                Err(error) => {
                    let wait = RETRY_MAX.min(RETRY_MIN.saturating_mul(1 << state.failures.min(10)));
                    state.next_at = Some(Instant::now() + wait);
                    state.failures = state.failures.saturating_add(1);
                    tracing::warn!(receiver = name, %error, wait_s = wait.as_secs(), "alerts were not sent");
                    None
                }
            }
        });
        futures::future::join_all(sendings).await.into_iter().flatten().collect()
    }

    /// What a receiver does not know yet, or is to be reminded of.
    fn find_due(
        &self,
        board: &AlertBoard,
        name: &str,
        receiver: &AlertReceiver,
        now_ms: u64,
    ) -> Vec<AlertState> {
        let is_due = |alert: &&AlertState| {
            let taken_at_ms = alert.notified_at_ms.get(name);
            // A mail that only says that mail arrives is not wanted every few hours.
            if alert.severity == AlertSeverity::None && matches!(receiver, AlertReceiver::Mail(_)) {
                return false;
            }
            match (alert.phase, taken_at_ms) {
                (AlertPhase::Pending, _) | (AlertPhase::Resolved, None) => false,
                (AlertPhase::Resolved, Some(_)) => true,
                (AlertPhase::Firing, None) => board.find_silence(alert, now_ms).is_none(),
                (AlertPhase::Firing, Some(at_ms)) => {
                    now_ms >= at_ms.saturating_add(self.repeat_ms)
                        && board.find_silence(alert, now_ms).is_none()
                        && board.find_acknowledgement(alert, now_ms).is_none()
                }
            }
        };
        board.alerts.iter().filter(is_due).cloned().collect()
    }

    async fn send_one(
        &self,
        name: &str,
        receiver: &AlertReceiver,
        due: &[AlertState],
        now_ms: u64,
    ) -> Result<(), SendError> {
        let context = PayloadContext { receiver: name, base_url: &self.base_url };
        match receiver {
            AlertReceiver::Webhook(webhook) => webhook.send_groups(due, context, now_ms).await,
            AlertReceiver::Mail(mail) => mail.send_alerts(due, &self.base_url).await,
        }
    }
}

/// What a receiver took.
#[derive(Debug)]
pub(super) struct TakenAlerts {
    receiver: String,
    alerts: Vec<AlertState>,
}

/// Notes in a board what receivers took at `now_ms`; whether anything changed.
pub(super) fn note_taken(board: &mut AlertBoard, taken: &[TakenAlerts], now_ms: u64) -> bool {
    let mut is_changed = false;
    for TakenAlerts { receiver, alerts } in taken {
        for sent in alerts {
            let same = |alert: &&mut AlertState| alert.alert_id == sent.alert_id && alert.phase == sent.phase;
            let Some(alert) = board.alerts.iter_mut().find(same) else { continue };
            is_changed = true;
            match alert.phase {
                AlertPhase::Resolved => _ = alert.notified_at_ms.remove(receiver),
                _ => _ = alert.notified_at_ms.insert(receiver.clone(), now_ms),
            }
        }
    }
    is_changed
}

/// Informs receivers of what the board says, until `held` fires.
pub(super) async fn inform_receivers(
    bus: &Bus,
    notifier: &Notifier,
    known: &Mutex<AlertBoard>,
    held: &CancellationToken,
) {
    let mut states = notifier.fresh_states();
    let mut ticks = tokio::time::interval(LOOK_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let board = known.lock().clone();
        let now_ms = nats::estimated_broker_now_ms();
        let sending = notifier.send_due(&board, &mut states, now_ms);
        let taken = tokio::select! {
            () = held.cancelled() => return,
            taken = sending => taken,
        };
        if taken.is_empty() {
            continue;
        }
        note_taken(&mut known.lock(), &taken, now_ms);
        let change = |found: Option<&AlertBoard>| {
            let mut board = found?.clone();
            note_taken(&mut board, &taken, now_ms).then_some((board, Outbox::new()))
        };
        let noting = bus.change_record::<AlertBoard>(AlertBoard::KEY, change);
        match tokio::time::timeout(WRITE_TIME_MAX, noting).await {
            Ok(Ok(_)) => {}
            // They may be informed a second time, by the monitor that goes on.
            Ok(Err(error)) => tracing::warn!(%error, "what receivers took was not noted"),
            Err(_) => tracing::warn!("what receivers took was not noted: the broker does not answer"),
        }
    }
}

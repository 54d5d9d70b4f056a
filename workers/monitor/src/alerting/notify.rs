//! Informing receivers: what began to fire, what still does, and what is over.
//!
//! A receiver that can't be reached is tried again after a while, with what fires then: nothing that still fires is lost, and of what is
//! over it learns for an hour. Who took what stands in the record, so another monitor goes on from there.
//!
//! Limits: one sending at a time to a receiver, [`MonitorAlertsConfig::group_ms`] apart; what it did not take is sent again after
//! [`RETRY_MIN`] to [`RETRY_MAX`], each rule by itself.

use std::{collections::BTreeMap, time::Duration};

use ::alerts::PayloadContext;
use nats::{Bus, Outbox};
use outbound::OutboundError;
use parking_lot::Mutex;
use schemas::alert::{ALERTS_MAX, AlertBoard, AlertPhase, AlertSeverity, AlertState};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{
    MonitorAlertsConfig, WRITE_TIME_MAX,
    mail::{MailReceiver, MailSetupError},
    send_error::{SendError, SendingOutcome},
    webhook::{WebhookReceiver, WebhookSetupError},
};

/// Least wait after a sending that failed.
const RETRY_MIN: Duration = Duration::from_secs(5);
/// Longest wait after sendings that failed.
const RETRY_MAX: Duration = Duration::from_secs(300);
/// Most sendings that wait until it can be noted who took them.
const UNNOTED_MAX: usize = 64;
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
    /// By the name of a rule: what it did not take.
    failed: BTreeMap<String, FailedGroup>,
}

#[derive(Debug)]
struct FailedGroup {
    next_at: Instant,
    failures: u32,
}

impl ReceiverState {
    fn is_wanted(&self, alert: &AlertState, now: Instant) -> bool {
        self.failed.get(&alert.name).is_none_or(|failed| now >= failed.next_at)
    }

    fn note_outcome(&mut self, receiver: &str, outcome: &SendingOutcome, group: Duration) {
        let now = Instant::now();
        let pause = if outcome.taken.is_empty() { group.min(RETRY_MIN) } else { group };
        self.next_at = Some(now + pause);
        for alert in &outcome.taken {
            self.failed.remove(&alert.name);
        }
        for (alerts, error) in &outcome.failed {
            let mut seconds_by_rule = BTreeMap::new();
            for alert in alerts {
                seconds_by_rule.entry(alert.name.as_str()).or_insert_with(|| {
                    let failures = self.failed.get(&alert.name).map_or(0, |failed| failed.failures);
                    let wait = RETRY_MAX.min(RETRY_MIN.saturating_mul(1 << failures.min(10)));
                    let failed = FailedGroup { next_at: now + wait, failures: failures.saturating_add(1) };
                    self.failed.insert(alert.name.clone(), failed);
                    wait.as_secs()
                });
            }
            let wait_s = seconds_by_rule.values().max().copied().unwrap_or_default();
            let rules: Vec<&str> = seconds_by_rule.into_keys().collect();
            tracing::warn!(receiver, %error, wait_s, ?rules, "alerts were not sent");
        }
    }
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

    /// Says what will keep a receiver from being informed.
    pub(super) fn log_faults(&self) {
        for (name, receiver) in &self.receivers {
            if let AlertReceiver::Mail(mail) = receiver
                && let Err(error) = mail.connect()
            {
                tracing::error!(receiver = name, %error, "no mail can be sent: see monitor.alerts.smtp");
            }
        }
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
            let now = Instant::now();
            if state.next_at.is_some_and(|at| now < at) {
                return Vec::new();
            }
            let mut due = self.find_due(board, name, receiver, now_ms);
            due.retain(|alert| state.is_wanted(alert, now));
            if due.is_empty() {
                return Vec::new();
            }
            let outcome = self.send_one(name, receiver, &due, now_ms).await;
            state.note_outcome(name, &outcome, self.group);
            let took =
                |alerts, is_sure| TakenAlerts { receiver: name.clone(), alerts, at_ms: now_ms, is_sure };
            // What no answer came to may have been taken: once it is over, that is said.
            let timeouts = outcome.failed.into_iter().filter(|(_, error)| error.is_timeout());
            let unsure = timeouts.map(|(alerts, _)| took(alerts, false));
            let mut all = vec![took(outcome.taken, true)];
            all.extend(unsure);
            all.retain(|taken| !taken.alerts.is_empty());
            all
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
                // At 0 it knows of an earlier time at most.
                (AlertPhase::Firing, None | Some(0)) => board.find_silence(alert, now_ms).is_none(),
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
    ) -> SendingOutcome {
        let context = PayloadContext { receiver: name, base_url: &self.base_url };
        match receiver {
            AlertReceiver::Webhook(webhook) => {
                webhook.send_groups(due, context, now_ms, self.send_timeout).await
            }
            AlertReceiver::Mail(mail) => {
                let sending = mail.send_alerts(due, &self.base_url);
                let sent = tokio::time::timeout(self.send_timeout, sending).await;
                let mut outcome = SendingOutcome::default();
                outcome.note(due, sent.unwrap_or(Err(SendError::TimedOut)));
                outcome
            }
        }
    }
}

/// What a receiver took.
#[derive(Debug)]
pub(super) struct TakenAlerts {
    pub(super) receiver: String,
    pub(super) alerts: Vec<AlertState>,
    /// Unix time in milliseconds at which it was sent.
    pub(super) at_ms: u64,
    /// False where no answer came.
    pub(super) is_sure: bool,
}

/// Notes in a board what receivers took; whether anything changed.
pub(super) fn note_taken(board: &mut AlertBoard, taken: &[TakenAlerts]) -> bool {
    let mut is_changed = false;
    for one in taken {
        for sent in &one.alerts {
            is_changed |= match sent.phase {
                AlertPhase::Resolved => one.is_sure && note_end(board, sent, &one.receiver),
                _ => note_firing(board, sent, one),
            };
        }
    }
    is_changed
}

/// A receiver knows that an alert is over.
fn note_end(board: &mut AlertBoard, sent: &AlertState, receiver: &str) -> bool {
    let same = |alert: &&mut AlertState| alert.alert_id == sent.alert_id;
    let Some(alert) = board.alerts.iter_mut().find(same) else { return false };
    alert.phase != AlertPhase::Firing && alert.notified_at_ms.remove(receiver).is_some()
}

/// A receiver knows that an alert fires, or may know it; by now it may be over.
fn note_firing(board: &mut AlertBoard, sent: &AlertState, taken: &TakenAlerts) -> bool {
    let found = board.alerts.iter_mut().find(|alert| alert.alert_id == sent.alert_id);
    let Some(alert) = found else {
        if board.alerts.len() >= ALERTS_MAX {
            return false;
        }
        let mut over = sent.clone();
        over.phase = AlertPhase::Resolved;
        over.resolved_at_ms = Some(taken.at_ms);
        over.notified_at_ms = BTreeMap::from([(taken.receiver.clone(), 0)]);
        board.alerts.push(over);
        board.alerts.sort_by(|a, b| (&a.name, &a.alert_id).cmp(&(&b.name, &b.alert_id)));
        return true;
    };
    let is_known = alert.phase == AlertPhase::Firing && taken.is_sure;
    if alert.phase == AlertPhase::Pending {
        alert.fired_at_ms = alert.fired_at_ms.or(sent.fired_at_ms);
    }
    let at_ms = if is_known { taken.at_ms } else { 0 };
    alert.notified_at_ms.insert(taken.receiver.clone(), at_ms) != Some(at_ms)
}

/// Informs receivers of what the board says, until `held` fires.
pub(super) async fn inform_receivers(
    bus: &Bus,
    notifier: &Notifier,
    known: &Mutex<AlertBoard>,
    held: &CancellationToken,
) {
    let mut states = notifier.fresh_states();
    let (mut unnoted, mut note_at) = (Vec::new(), Instant::now());
    let mut ticks = tokio::time::interval(LOOK_PERIOD);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = held.cancelled() => return,
            _ = ticks.tick() => {}
        }
        // What is not written yet counts nevertheless, also for a board that was read since.
        let board = {
            let mut known = known.lock();
            note_taken(&mut known, &unnoted);
            known.clone()
        };
        let now_ms = nats::estimated_broker_now_ms();
        let sending = notifier.send_due(&board, &mut states, now_ms);
        let taken = tokio::select! {
            () = held.cancelled() => return,
            taken = sending => taken,
        };
        if taken.is_empty() && (unnoted.is_empty() || Instant::now() < note_at) {
            continue;
        }
        note_taken(&mut known.lock(), &taken);
        unnoted.extend(taken);
        // They may be informed a second time, by the monitor that goes on.
        unnoted.drain(..unnoted.len().saturating_sub(UNNOTED_MAX));
        let change = |found: Option<&AlertBoard>| {
            let mut board = found?.clone();
            note_taken(&mut board, &unnoted).then_some((board, Outbox::new()))
        };
        let noting = bus.change_record::<AlertBoard>(AlertBoard::KEY, change);
        match tokio::time::timeout(WRITE_TIME_MAX, noting).await {
            Ok(Ok(_)) => unnoted.clear(),
            Ok(Err(error)) => tracing::warn!(%error, "what receivers took was not noted"),
            Err(_) => tracing::warn!("what receivers took was not noted: the broker does not answer"),
        }
        note_at = Instant::now() + RETRY_MIN;
    }
}

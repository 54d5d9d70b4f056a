//! What webhooks count. No hook and no owner is a label: how many there are is up to people.

use std::{collections::HashMap, fmt, sync::Arc};

use nats::metrics::{
    Collector, DescriptorEncoder, encode_counter, encode_counters, encode_gauge, encode_gauges,
    table::{WEBHOOK_DELIVERIES, WEBHOOK_LAG_SECONDS, WEBHOOK_SKIPPED_EVENTS, WEBHOOKS},
};
use parking_lot::Mutex;
use schemas::{hook_delivery::DeliveryOutcome, ids::HookId};

/// Where a hook stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum HookState {
    /// It sends.
    Active,
    /// Nothing but failures came of its last deliveries.
    Failing,
    /// So much waits that it reads no further.
    Full,
    /// It sends nothing.
    Paused,
}

impl HookState {
    const ALL: [Self; 4] = [Self::Active, Self::Failing, Self::Full, Self::Paused];

    const fn name(self) -> &'static str {
        match self {
            Self::Active => "active",
            Self::Failing => "failing",
            Self::Full => "full",
            Self::Paused => "paused",
        }
    }
}

#[derive(Debug, Default)]
struct WebhookFigures {
    delivered: u64,
    failed: u64,
    gone: u64,
    skipped: u64,
    hooks: HashMap<HookId, (HookState, Option<u64>)>,
}

/// The counts of the webhooks of a process. Cheap to clone; clones share the counts.
#[derive(Debug, Clone, Default)]
pub struct WebhookMetrics {
    figures: Arc<Mutex<WebhookFigures>>,
}

impl WebhookMetrics {
    pub(super) fn count_delivery(&self, outcome: DeliveryOutcome) {
        let mut figures = self.figures.lock();
        match outcome {
            DeliveryOutcome::Delivered => figures.delivered += 1,
            DeliveryOutcome::Gone => figures.gone += 1,
            DeliveryOutcome::Failed | DeliveryOutcome::Unknown => figures.failed += 1,
        }
    }

    pub(super) fn count_skipped(&self, count: u64) {
        self.figures.lock().skipped += count;
    }

    /// Where a hook stands, and since when in Unix milliseconds the oldest waits of what it has to send.
    pub(super) fn record_hook(&self, hook_id: HookId, state: HookState, oldest_since_ms: Option<u64>) {
        self.figures.lock().hooks.insert(hook_id, (state, oldest_since_ms));
    }

    pub(super) fn forget(&self, hook_id: HookId) {
        self.figures.lock().hooks.remove(&hook_id);
    }

    /// Another keeper has the hooks now.
    pub(super) fn clear(&self) {
        self.figures.lock().hooks.clear();
    }
}

impl Collector for WebhookMetrics {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let encoder = &mut encoder;
        let figures = self.figures.lock();
        let outcomes = [("delivered", figures.delivered), ("failed", figures.failed), ("gone", figures.gone)];
        encode_counters(
            encoder,
            &WEBHOOK_DELIVERIES,
            outcomes.map(|(outcome, count)| ([("outcome", outcome)], count)),
        )?;
        encode_counter(encoder, &WEBHOOK_SKIPPED_EVENTS, figures.skipped)?;
        let states = HookState::ALL.map(|state| {
            let count = figures.hooks.values().filter(|(found, _)| *found == state).count();
            ([("state", state.name())], i64::try_from(count).unwrap_or(i64::MAX))
        });
        encode_gauges(encoder, &WEBHOOKS, states)?;
        // What a person paused waits for the person.
        let running = figures.hooks.values().filter(|(state, _)| *state != HookState::Paused);
        let oldest_ms = running.filter_map(|(_, since_ms)| *since_ms).min();
        let lag_ms = oldest_ms.map_or(0, |since_ms| nats::estimated_broker_now_ms().saturating_sub(since_ms));
        encode_gauge(encoder, &WEBHOOK_LAG_SECONDS, lag_ms as f64 / 1_000.0)
    }
}

//! What follows for a hook from how a delivery ended: the next try, what is left out, a pause, and the log.
//!
//! Limits: those of the queue and of [`super::hook_log`].

use std::sync::Arc;

use nats::{BusError, Outbox};
use schemas::{
    hook::{HookPauseReason, HookRecord},
    hook_delivery::{DeliveryOutcome, HookDelivery},
    hook_event::HookSkipReason,
    ids::MediaId,
};
use webhooks::{DueDelivery, FailedDelivery};

use super::{
    deliver::DeliveryEnd,
    hook_log,
    hook_task::{DeliveryCause, EndedDelivery, HookRun, lane_of},
    ledger::{Unwritten, describe_skip},
    settings,
};

impl HookRun {
    pub(super) async fn finish_delivery(
        &mut self,
        EndedDelivery { cause, hook, end }: EndedDelivery,
    ) -> Result<(), BusError> {
        let lane = match &cause {
            DeliveryCause::Due(due) => due.lane,
            DeliveryCause::Asked(asked) => lane_of(&asked.content),
        };
        match (cause, end) {
            (DeliveryCause::Due(due), DeliveryEnd::Asked { delivery, retry_after_ms }) => {
                self.judge_delivery(due, &hook, *delivery, retry_after_ms).await
            }
            (DeliveryCause::Due(due), DeliveryEnd::Lost) => self.leave_out(due, true).await,
            (DeliveryCause::Due(due), DeliveryEnd::Unwanted) => self.leave_out(due, false).await,
            (DeliveryCause::Due(_), DeliveryEnd::Outage(error)) => {
                tracing::warn!(%error, hook.id = %self.hook.hook_id, "an event is read again");
                self.queue.release_lane(lane);
                Ok(())
            }
            (DeliveryCause::Asked(asked), DeliveryEnd::Outage(error)) => {
                tracing::warn!(%error, hook.id = %self.hook.hook_id, "what was asked for is read again");
                self.queue.release_lane(lane);
                self.asked.remove(&asked.delivery_id);
                Ok(())
            }
            (DeliveryCause::Asked(asked), end) => {
                self.queue.release_lane(lane);
                if let DeliveryEnd::Asked { delivery, .. } = end {
                    self.log(&delivery).await;
                }
                settings::remove_asked_delivery(&self.courier.bus, self.hook.hook_id, asked.delivery_id).await
            }
        }
    }

    /// Takes an event off its lane that is not sent; says so where it was wanted.
    async fn leave_out(&mut self, due: DueDelivery, was_wanted: bool) -> Result<(), BusError> {
        // In another stream all that waits is lost, not this one alone.
        self.check_stream().await?;
        let Some(skipped) = self.queue.record_loss(due) else { return Ok(()) };
        if was_wanted {
            let range = (skipped.sequence, skipped.sequence);
            return self.write_skipped(HookSkipReason::Expired, range, None).await;
        }
        self.ledger.note(Unwritten::Changed);
        Ok(())
    }

    async fn judge_delivery(
        &mut self,
        due: DueDelivery,
        hook: &HookRecord,
        mut delivery: HookDelivery,
        retry_after_ms: Option<u64>,
    ) -> Result<(), BusError> {
        let now_ms = self.courier.clock.now_ms();
        self.ledger.note(Unwritten::Changed);
        if delivery.outcome == DeliveryOutcome::Delivered {
            self.log(&delivery).await;
            self.queue.record_success(due, now_ms, rand::random());
            return Ok(());
        }
        let code = delivery.code.clone().unwrap_or_default();
        let chance = (retry_after_ms, rand::random());
        let is_failing = self.queue.failing_ms(now_ms) >= self.courier.config.failing_ms_max;
        let follows = self.queue.record_failure(due, now_ms, &code, chance);
        if let FailedDelivery::Later(at_ms) = &follows {
            delivery.next_try_at_ms = Some(*at_ms);
        }
        self.log(&delivery).await;
        if let FailedDelivery::GivenUp(skipped) = follows {
            let range = (skipped.sequence, skipped.sequence);
            let why = Some((due.lane, skipped.tries, code.clone()));
            self.write_skipped(HookSkipReason::GivenUp, range, why).await?;
        }
        match delivery.outcome {
            DeliveryOutcome::Gone => self.pause(hook, HookPauseReason::Gone, &code).await,
            _ if is_failing => self.pause(hook, HookPauseReason::Failing, &code).await,
            _ => Ok(()),
        }
    }

    /// Pauses the hook, unless it is another one than `hook` meanwhile.
    async fn pause(
        &mut self,
        hook: &HookRecord,
        reason: HookPauseReason,
        code: &str,
    ) -> Result<(), BusError> {
        let at_ms = self.courier.clock.now_ms();
        let held = settings::pause_hook(&self.courier.bus, hook, reason, (at_ms, code)).await?;
        if let Some(held) = held {
            self.apply_record(Arc::new(held.record.clone()), held.revision());
        }
        self.write(Outbox::new()).await
    }

    /// A log that can't be written keeps nothing from being delivered.
    async fn log(&mut self, delivery: &HookDelivery) {
        if let Err(error) = hook_log::log_delivery(&self.courier.bus, delivery).await {
            tracing::warn!(%error, hook.id = %self.hook.hook_id, "a delivery is not logged");
        }
    }

    pub(super) async fn write_skipped(
        &mut self,
        reason: HookSkipReason,
        (first, last): (u64, u64),
        given_up: Option<(Option<MediaId>, u32, String)>,
    ) -> Result<(), BusError> {
        let event = describe_skip(&self.hook, reason, (first, last), given_up);
        tracing::warn!(hook.id = %self.hook.hook_id, ?reason, first, last, "a hook leaves events out");
        self.courier.metrics.count_skipped(last.saturating_sub(first).saturating_add(1));
        self.write(Outbox::new().with_event(&event)).await
    }
}

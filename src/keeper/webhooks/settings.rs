//! What the keeper writes of what people say: a hook that failed is paused, and what was asked for is taken out once it is done.

use nats::{Bus, BusError, Outbox, VersionedRecord};
use schemas::{
    KvRecord as _,
    hook::{AskedReplay, HookPause, HookPauseReason, HookRecord, HookRequests, hook_requests_key},
    hook_event::HookPaused,
    ids::{DeliveryId, HookId},
};

/// Has a hook send nothing until a person resumes it; `code` is what its last delivery came to, and `hook` is how it was when that was
/// begun: what an address answered says nothing of another one, nor of what a person resumed since. Answers how it is then.
pub(super) async fn pause_hook(
    bus: &Bus,
    hook: &HookRecord,
    reason: HookPauseReason,
    (at_ms, code): (u64, &str),
) -> Result<Option<VersionedRecord<HookRecord>>, BusError> {
    let changed = |found: Option<&HookRecord>| {
        let is_same =
            |found: &&HookRecord| found.url == hook.url && found.resumed_at_ms == hook.resumed_at_ms;
        let before = found.filter(|found| found.paused.is_none()).filter(is_same)?;
        let paused = Some(HookPause { at_ms, reason, by: None });
        let event = HookPaused {
            hook_id: before.hook_id,
            owner: before.owner.clone(),
            reason,
            code: Some(code.to_owned()),
            paused_by: None,
        };
        Some((HookRecord { paused, ..before.clone() }, Outbox::new().with_event(&event)))
    };
    let held = bus.change_record::<HookRecord>(&hook.key(), changed).await?;
    if held.as_ref().is_some_and(|held| held.record.paused.is_some()) {
        tracing::warn!(hook.id = %hook.hook_id, ?reason, "a hook is paused");
    }
    Ok(held)
}

/// Takes a delivery out.
pub(super) async fn remove_asked_delivery(
    bus: &Bus,
    hook_id: HookId,
    delivery_id: DeliveryId,
) -> Result<(), BusError> {
    change_requests(bus, hook_id, |requests| {
        requests.deliveries.retain(|asked| asked.delivery_id != delivery_id);
    })
    .await
}

/// Takes a replay out, unless another one was asked for meanwhile.
pub(super) async fn remove_asked_replay(
    bus: &Bus,
    hook_id: HookId,
    replay: AskedReplay,
) -> Result<(), BusError> {
    change_requests(bus, hook_id, |requests| {
        requests.replay = requests.replay.filter(|asked| *asked != replay);
    })
    .await
}

async fn change_requests(
    bus: &Bus,
    hook_id: HookId,
    change: impl Fn(&mut HookRequests) + Send + Sync,
) -> Result<(), BusError> {
    let changed = |found: Option<&HookRequests>| {
        let before = found?;
        let mut after = before.clone();
        change(&mut after);
        if after == *before {
            return None;
        }
        after.done_at_ms = Some(nats::estimated_broker_now_ms());
        Some((after, Outbox::new()))
    };
    bus.change_record::<HookRequests>(&hook_requests_key(&hook_id.to_string()), changed).await.map(drop)
}

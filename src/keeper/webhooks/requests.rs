//! What people ask of a hook, taken out of its record once it is done.

use nats::{Bus, BusError, Outbox};
use schemas::{
    hook::{AskedReplay, HookRequests, hook_requests_key},
    ids::{DeliveryId, HookId},
};

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
        (after != *before).then(|| (after, Outbox::new()))
    };
    bus.change_record::<HookRequests>(&hook_requests_key(&hook_id.to_string()), changed).await.map(drop)
}

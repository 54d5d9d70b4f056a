//! Who plays with a token. The newest sessions hold its slot, as many as the rule allows.

use futures::future::try_join_all;
use nats::{Bus, Error, Outbox};
use schemas::{
    gate::{Session, Slot},
    ids::PlaybackId,
};

use crate::auth::gate::access::Place;

/// Takes every place for `playback_id`; answers the sessions that lost theirs.
pub(super) async fn claim(
    bus: &Bus,
    places: &[Place],
    playback_id: PlaybackId,
    now_ms: u64,
    expires_at_ms: u64,
) -> Result<Vec<PlaybackId>, Error> {
    let mut displaced = Vec::new();
    for place in places {
        let mut lost = Vec::new();
        bus.change::<Slot>(&place.key, |found| {
            let alive = found.filter(|slot| slot.expires_at_ms > now_ms);
            let mut holders = alive.map(|slot| slot.holders.clone()).unwrap_or_default();
            holders.retain(|holder| *holder != playback_id);
            holders.push(playback_id);
            let surplus = holders.len().saturating_sub(place.sessions_max);
            lost = holders.drain(..surplus).collect();
            let expires_at_ms = alive.map_or(expires_at_ms, |slot| slot.expires_at_ms.max(expires_at_ms));
            Some((Slot { key: place.key.clone(), holders, expires_at_ms }, Outbox::new()))
        })
        .await?;
        displaced.append(&mut lost);
    }
    Ok(displaced)
}

/// True while the session holds all its slots.
pub(super) async fn held(bus: &Bus, session: &Session) -> Result<bool, Error> {
    let slots = try_join_all(session.slots.iter().map(|key| bus.load::<Slot>(key))).await?;
    let holds = |slot: &Slot| slot.holders.contains(&session.playback_id);
    Ok(slots.iter().all(|slot| slot.as_ref().is_some_and(|slot| holds(&slot.record))))
}

//! Who plays with a token. The newest sessions hold its slot, as many as the rule allows.

use futures::future::try_join_all;
use nats::{Bus, Error, Outbox};
use schemas::{gate::Slot, ids::PlaybackId};

use crate::auth::gate::access::Place;

/// A session that lost its place to a newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lost {
    /// The slot.
    pub(super) key: String,
    pub(super) playback_id: PlaybackId,
}

/// Takes every place for `playback_id`; answers who lost theirs.
pub(super) async fn claim(
    bus: &Bus,
    places: &[Place],
    playback_id: PlaybackId,
    now_ms: u64,
    expires_at_ms: u64,
) -> Result<Vec<Lost>, Error> {
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
        displaced.extend(lost.into_iter().map(|playback_id| Lost { key: place.key.clone(), playback_id }));
    }
    Ok(displaced)
}

/// Leaves the slots; others may have them at once.
pub(super) async fn leave(bus: &Bus, keys: &[&String], playback_id: PlaybackId) -> Result<(), Error> {
    let leaving = keys.iter().map(|key| {
        bus.change::<Slot>(key, |found| {
            let slot = found.filter(|slot| slot.holders.contains(&playback_id))?;
            let holders = slot.holders.iter().copied().filter(|holder| *holder != playback_id).collect();
            Some((Slot { holders, ..slot.clone() }, Outbox::new()))
        })
    });
    try_join_all(leaving).await.map(drop)
}

/// True while the session holds all of `keys`.
pub(super) async fn held(bus: &Bus, keys: &[&String], playback_id: PlaybackId) -> Result<bool, Error> {
    let slots = try_join_all(keys.iter().map(|key| bus.load::<Slot>(key))).await?;
    let holds = |slot: &Slot| slot.holders.contains(&playback_id);
    Ok(slots.iter().all(|slot| slot.as_ref().is_some_and(|slot| holds(&slot.record))))
}

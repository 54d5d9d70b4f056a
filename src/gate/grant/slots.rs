//! Who plays with a token. The newest sessions hold its slot, as many as the rule allows.

use futures::future::try_join_all;
use nats::{Bus, BusError, Outbox};
use schemas::{gate::TokenSlot, ids::PlaybackId};

use crate::access::RequiredSlot;

/// A session that lost its place to a newer one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct LostSlot {
    /// The slot.
    pub(super) key: String,
    pub(super) playback_id: PlaybackId,
}

/// Whether a session takes the places of others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SlotClaimMode {
    /// The newest holders stay, so others lose theirs.
    Displacing,
    /// Only what is free.
    Free,
}

/// Takes every place for `playback_id`; answers who lost theirs, or `None` when one of them was not free: then it takes none.
pub(super) async fn claim_slots(
    bus: &Bus,
    (places, manner): (&[RequiredSlot], SlotClaimMode),
    playback_id: PlaybackId,
    now_ms: u64,
    expires_at_ms: u64,
) -> Result<Option<Vec<LostSlot>>, BusError> {
    let (mut displaced, mut taken) = (Vec::new(), Vec::new());
    for place in places {
        let (mut lost, mut is_taken, mut was_ours) = (Vec::new(), false, false);
        bus.change_record::<TokenSlot>(&place.key, |found| {
            // The broker removes what ended a moment later; until then it counts for nothing.
            let alive = found.filter(|slot| slot.expires_at_ms > now_ms);
            let mut holders = alive.map(|slot| slot.holders.clone()).unwrap_or_default();
            was_ours = holders.contains(&playback_id);
            holders.retain(|holder| *holder != playback_id);
            holders.push(playback_id);
            // The oldest are in front: a newer session takes their place.
            let surplus = holders.len().saturating_sub(place.sessions_max);
            is_taken = surplus == 0 || manner == SlotClaimMode::Displacing;
            if !is_taken {
                return None;
            }
            lost = holders.drain(..surplus).collect();
            let expires_at_ms = alive.map_or(expires_at_ms, |slot| slot.expires_at_ms.max(expires_at_ms));
            Some((TokenSlot { key: place.key.clone(), holders, expires_at_ms }, Outbox::new()))
        })
        .await?;
        if !is_taken {
            // All or none: a session that waits must hold no token that others need.
            release_slots(bus, &taken, playback_id).await?;
            return Ok(None);
        }
        if !was_ours {
            taken.push(&place.key);
        }
        displaced
            .extend(lost.into_iter().map(|playback_id| LostSlot { key: place.key.clone(), playback_id }));
    }
    Ok(Some(displaced))
}

/// Leaves the slots; others may have them at once.
pub(super) async fn release_slots(
    bus: &Bus,
    keys: &[&String],
    playback_id: PlaybackId,
) -> Result<(), BusError> {
    let leaving = keys.iter().map(|key| {
        bus.change_record::<TokenSlot>(key, |found| {
            let slot = found.filter(|slot| slot.holders.contains(&playback_id))?;
            let holders = slot.holders.iter().copied().filter(|holder| *holder != playback_id).collect();
            Some((TokenSlot { holders, ..slot.clone() }, Outbox::new()))
        })
    });
    try_join_all(leaving).await.map(drop)
}

/// True while the session holds all of `keys`.
pub(super) async fn are_slots_held(
    bus: &Bus,
    keys: &[&String],
    playback_id: PlaybackId,
) -> Result<bool, BusError> {
    let slots = try_join_all(keys.iter().map(|key| bus.load_record::<TokenSlot>(key))).await?;
    let holds = |slot: &TokenSlot| slot.holders.contains(&playback_id);
    Ok(slots.iter().all(|slot| slot.as_ref().is_some_and(|slot| holds(&slot.record))))
}

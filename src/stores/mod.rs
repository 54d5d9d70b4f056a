//! Which object store belongs to this installation: an id in KV, and the marker in the store's root that repeats it.
//!
//! The id is made once, before the marker is written. The ingress marks the store of a new installation, and takes over one from
//! before markers were written when it finds an object in it that KV knows; every other case is a person's decision: `streamgate
//! store adopt`. Once the marker was seen, no role ever writes it again: a root without it is away.
//!
//! Limits: at most `SAMPLE_MAX` media or uploads of a store are looked up before it counts as unknown; a start waits at most
//! `START_WAIT` for the store.

use std::{sync::Arc, time::Duration};

use anyhow::Context;
use futures::future::BoxFuture;
use nats::{Bus, Outbox, Role, VersionedRecord, now_ms};
use schemas::{KvRecord as _, ids::StoreId, media, store::StoreIdentity, subjects, upload};
use store::{MissingRootPolicy, Store, StoreError, StoreIdentifier};

use crate::config;

/// Most media, and most uploads, of an unmarked store that are looked up.
const SAMPLE_MAX: usize = 200;
/// Longest time a start waits for the store.
const START_WAIT: Duration = Duration::from_secs(5);

/// Opens the store of this installation. One that is away is waited for where it is used.
///
/// # Errors
/// [`config::SettingsError::Invalid`] when the URL or an option is wrong, or the store is that of another installation.
pub async fn open_store(settings: store::StoreConfig, bus: &Bus) -> anyhow::Result<Store> {
    let url = settings.url.clone();
    let store = Store::open(settings, Arc::new(KvStoreIdentifier { bus: bus.clone() }))
        .with_context(|| format!("the store {url}"))?;
    match tokio::time::timeout(START_WAIT, store.verify_marker_now()).await {
        Ok(Ok(())) => {}
        Ok(Err(error @ StoreError::OtherStore { .. })) => return Err(foreign_store_error(&error).into()),
        // A role that may not mark it waits for the ingress to do so.
        Ok(Err(StoreError::Unmarked { .. })) if !may_mark_store(bus) => {}
        Ok(Err(error @ StoreError::Unmarked { .. })) => tracing::warn!(
            %error, "nothing is stored or served before it is there; \
             `streamgate store adopt` says that this is the store even so"
        ),
        Ok(Err(error)) => tracing::warn!(error = &error as &dyn std::error::Error, "the store is away"),
        Err(_) => tracing::warn!(store = url, "the store does not answer yet"),
    }
    Ok(store)
}

/// The store is another installation's.
fn foreign_store_error(error: &StoreError) -> config::SettingsError {
    config::SettingsError::invalid(
        "store.url",
        format!(
            "{error}; mount or name the right one, or, if this is the store to use from now on, run `streamgate store adopt`"
        ),
    )
}

/// The one role that marks stores by itself.
fn may_mark_store(bus: &Bus) -> bool {
    bus.role() == Role::Ingress
}

/// What KV knows of the store.
struct KvStoreIdentifier {
    bus: Bus,
}

impl StoreIdentifier for KvStoreIdentifier {
    fn identify_store<'a>(&'a self, store: &'a Store) -> BoxFuture<'a, Result<StoreId, StoreError>> {
        Box::pin(async move {
            let held = self
                .bus
                .load_record::<StoreIdentity>(StoreIdentity::KEY)
                .await
                .map_err(StoreError::unavailable)?;
            let mut held = match held {
                Some(held) => held,
                None if may_mark_store(&self.bus) => {
                    create_identity(&self.bus).await.map_err(StoreError::unavailable)?
                }
                None => return Err(StoreError::Unmarked { root: store.config().url.clone() }),
            };
            if held.record.marked_at_ms.is_none() && may_mark_store(&self.bus) {
                self.mark_store(store, &mut held).await?;
            }
            Ok(held.record.store_id)
        })
    }
}

impl KvStoreIdentifier {
    /// Marks a store that was never marked, if it is ours beyond doubt.
    async fn mark_store(
        &self,
        store: &Store,
        held: &mut VersionedRecord<StoreIdentity>,
    ) -> Result<(), StoreError> {
        let store_id = held.record.store_id;
        match store.read_marker().await? {
            Some(found) if found == store_id => {}
            None if self.has_known_object(store).await? => {
                store.write_marker(store_id, MissingRootPolicy::Needed).await?;
            }
            None if self.is_new_installation(store).await? => {
                store.write_marker(store_id, MissingRootPolicy::Make).await?;
            }
            Some(_) | None => return Ok(()),
        }
        record_marked(&self.bus, held).await.map_err(StoreError::unavailable)
    }

    /// True when an object lies in the store that KV knows.
    async fn has_known_object(&self, store: &Store) -> Result<bool, StoreError> {
        for media_id in store.stored_media(SAMPLE_MAX).await? {
            if self.has_record(media::MediaRecord::BUCKET, &media_id.to_string()).await? {
                return Ok(true);
            }
        }
        for upload_id in store.spooled_uploads(SAMPLE_MAX).await? {
            if self.has_record(upload::UploadRecord::BUCKET, &upload_id.to_string()).await? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// True when nothing was ever stored: neither KV nor the store knows of anything.
    async fn is_new_installation(&self, store: &Store) -> Result<bool, StoreError> {
        for bucket in [media::MediaRecord::BUCKET, upload::UploadRecord::BUCKET] {
            let stream = self.bus.context().get_stream(subjects::kv_stream_name(bucket)).await;
            if stream.map_err(StoreError::unavailable)?.cached_info().state.messages > 0 {
                return Ok(false);
            }
        }
        Ok(store.stored_media(1).await?.is_empty() && store.spooled_uploads(1).await?.is_empty())
    }

    async fn has_record(&self, bucket: &str, key: &str) -> Result<bool, StoreError> {
        let found = self.bus.read_value(bucket, key).await.map_err(StoreError::unavailable)?;
        Ok(found.is_some_and(|raw| raw.value.is_some()))
    }
}

/// Makes the id, or reads the one that somebody else made first.
async fn create_identity(bus: &Bus) -> Result<VersionedRecord<StoreIdentity>, nats::BusError> {
    let identity = StoreIdentity {
        store_id: StoreId::from_bytes(nats::new_id_bytes()),
        created_at_ms: now_ms(),
        marked_at_ms: None,
    };
    let mut held = VersionedRecord::new(identity);
    match bus.commit_record(&mut held, Outbox::new()).await {
        Ok(()) => Ok(held),
        Err(conflict @ nats::BusError::Conflict { .. }) => {
            bus.load_record::<StoreIdentity>(StoreIdentity::KEY).await?.ok_or(conflict)
        }
        Err(error) => Err(error),
    }
}

async fn record_marked(bus: &Bus, held: &mut VersionedRecord<StoreIdentity>) -> Result<(), nats::BusError> {
    held.record.marked_at_ms = Some(now_ms());
    match bus.commit_record(held, Outbox::new()).await {
        // Another replica saw it, too.
        Ok(()) | Err(nats::BusError::Conflict { .. }) => Ok(()),
        Err(error) => Err(error),
    }
}

/// What an adoption found and did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AdoptionOutcome {
    /// The store was this installation's already.
    Already(StoreId),
    /// It had no marker and has one now.
    Marked(StoreId),
    /// It had a marker, and that one is this installation's now.
    Taken {
        /// Its marker.
        store_id: StoreId,
        /// What belonged to this installation before.
        before: StoreId,
    },
}

/// Makes the configured store that of this installation, whatever is in it. A person says so: what KV knows and the store does not
/// have counts as lost from then on.
///
/// # Errors
/// When the store or the broker can't be reached; a store that is not there is never made.
pub async fn adopt_store(settings: store::StoreConfig, bus: &Bus) -> anyhow::Result<AdoptionOutcome> {
    let url = settings.url.clone();
    let store = Store::open(settings, Arc::new(KvStoreIdentifier { bus: bus.clone() }))
        .with_context(|| format!("the store {url}"))?;
    let mut held = match bus.load_record::<StoreIdentity>(StoreIdentity::KEY).await? {
        Some(held) => held,
        None => create_identity(bus).await?,
    };
    let before = held.record.store_id;
    let adopted = match store.read_marker().await.with_context(|| format!("the marker of {url}"))? {
        Some(store_id) if store_id == before => AdoptionOutcome::Already(store_id),
        Some(store_id) => AdoptionOutcome::Taken { store_id, before },
        None => {
            store
                .write_marker(before, MissingRootPolicy::Needed)
                .await
                .with_context(|| format!("marking {url}"))?;
            AdoptionOutcome::Marked(before)
        }
    };
    if let AdoptionOutcome::Taken { store_id, .. } = adopted {
        held.record.store_id = store_id;
    }
    held.record.marked_at_ms = Some(now_ms());
    bus.commit_record(&mut held, Outbox::new()).await?;
    Ok(adopted)
}

#[cfg(test)]
mod tests;

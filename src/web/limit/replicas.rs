//! How many ingress replicas there are: each renews its line in one record, and forgets those that stopped doing so.
//!
//! While the record can't be read, a replica assumes as many as it last knew, and at least `replicas_assumed_count`: rates are then
//! rather too low, never absent, and nobody is locked out.
//!
//! Limits: a line is renewed every [`RENEWAL`] and counts for [`LIFE`] past that; clocks may be apart by the difference. At most
//! [`schemas::limit::REPLICAS_MAX`] lines.

use std::{
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use nats::{Bus, Outbox};
use schemas::{
    ids::RequestId,
    limit::{IngressReplicas, REPLICAS_MAX},
};
use tokio_util::sync::CancellationToken;

/// Time between two renewals.
pub(super) const RENEWAL: Duration = Duration::from_secs(2);
/// How long a replica counts past its last renewal.
pub(super) const LIFE: Duration = Duration::from_secs(10);

/// How many share the rates.
#[derive(Debug)]
pub(super) struct ReplicaCounter {
    count: AtomicU32,
    assumed_count: u32,
    name: String,
}

impl ReplicaCounter {
    /// Begins with the assumed number, until the record was read.
    pub(super) fn new(assumed_count: u32) -> Self {
        let assumed_count = assumed_count.max(1);
        let name = RequestId::from_bytes(nats::new_id_bytes()).to_string();
        Self { count: AtomicU32::new(assumed_count), assumed_count, name }
    }

    pub(super) fn count(&self) -> u32 {
        self.count.load(Ordering::Relaxed)
    }

    #[cfg(test)]
    pub(super) fn set_count(&self, count: u32) {
        self.count.store(count, Ordering::Relaxed);
    }

    /// Renews this replica's line until `shutdown`, then takes it away.
    pub(super) async fn run(&self, bus: &Bus, shutdown: &CancellationToken) {
        while !shutdown.is_cancelled() {
            match self.renew_line(bus, true).await {
                Ok(count) => self.count.store(count.max(1), Ordering::Relaxed),
                Err(error) => {
                    let count = self.count().max(self.assumed_count);
                    self.count.store(count, Ordering::Relaxed);
                    tracing::warn!(%error, replicas = count, "rates are shared by the number assumed");
                }
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(RENEWAL) => {}
            }
        }
        if let Err(error) = self.renew_line(bus, false).await {
            tracing::debug!(%error, "this replica's share is free when its line runs out");
        }
    }

    /// Writes or removes this replica's line; answers how many there are.
    async fn renew_line(&self, bus: &Bus, stays: bool) -> Result<u32, nats::BusError> {
        let now_ms = nats::now_ms();
        let change = bus.change_record::<IngressReplicas>(IngressReplicas::KEY, |found| {
            Some((update_replicas(found, &self.name, stays, now_ms), Outbox::new()))
        });
        let held = Box::pin(change).await?;
        let count = held.map_or(0, |held| held.record.expires_at_ms.len());
        Ok(u32::try_from(count).unwrap_or(u32::MAX))
    }
}

fn update_replicas(found: Option<&IngressReplicas>, name: &str, stays: bool, now_ms: u64) -> IngressReplicas {
    let mut next = found.cloned().unwrap_or_default();
    next.expires_at_ms.retain(|other, expires_at_ms| other != name && *expires_at_ms > now_ms);
    if stays {
        while next.expires_at_ms.len() >= REPLICAS_MAX {
            next.expires_at_ms.pop_first();
        }
        let life_ms = u64::try_from(LIFE.as_millis()).unwrap_or(u64::MAX);
        next.expires_at_ms.insert(name.to_owned(), now_ms.saturating_add(life_ms));
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_stops_renewing_is_forgotten_and_who_stops_is_gone_at_once() {
        let one = update_replicas(None, "one", true, 1_000);
        let two = update_replicas(Some(&one), "two", true, 5_000);
        assert_eq!(two.expires_at_ms.len(), 2);
        let later = update_replicas(Some(&two), "two", true, 11_000);
        assert_eq!(later.expires_at_ms.keys().collect::<Vec<_>>(), ["two"]);
        assert!(update_replicas(Some(&later), "two", false, 12_000).expires_at_ms.is_empty());
    }

    #[test]
    fn the_record_is_bounded() {
        let mut record = IngressReplicas::default();
        for i in 0..REPLICAS_MAX * 2 {
            record = update_replicas(Some(&record), &format!("{i:04}"), true, 1_000);
        }
        assert_eq!(record.expires_at_ms.len(), REPLICAS_MAX);
    }
}

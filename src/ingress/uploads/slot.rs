//! One writer per upload in this process. A newcomer makes the holder let go; the newest always wins.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use schemas::ids::UploadId;
use tokio_util::sync::CancellationToken;

/// Who writes what in this process.
#[derive(Debug, Default)]
pub(super) struct Slots {
    // The map is whole after every statement, so a panic elsewhere can't have left it half changed.
    held: Mutex<HashMap<UploadId, Holder>>,
}

#[derive(Debug, Clone, Default)]
struct Holder {
    displaced: CancellationToken,
    gone: CancellationToken,
}

/// The right to write to one upload; given back when dropped.
#[derive(Debug)]
pub(super) struct Guard {
    slots: Arc<Slots>,
    upload_id: UploadId,
    holder: Holder,
}

impl Slots {
    /// Takes the slot, making a holder let go; `None` when it does not within `wait`.
    pub(super) async fn take(self: &Arc<Self>, upload_id: UploadId, wait: Duration) -> Option<Guard> {
        let take = async {
            loop {
                match self.try_take(upload_id) {
                    Ok(guard) => return guard,
                    Err(holder) => {
                        holder.displaced.cancel();
                        holder.gone.cancelled().await;
                    }
                }
            }
        };
        tokio::time::timeout(wait, take).await.ok()
    }

    /// Makes the holder let go; false when it does not within `wait`.
    pub(super) async fn release(&self, upload_id: UploadId, wait: Duration) -> bool {
        let Some(holder) = self.displace(upload_id) else { return true };
        tokio::time::timeout(wait, holder.gone.cancelled()).await.is_ok()
    }

    /// Tells the holder to let go, without waiting.
    pub(super) fn tell(&self, upload_id: UploadId) {
        drop(self.displace(upload_id));
    }

    fn displace(&self, upload_id: UploadId) -> Option<Holder> {
        let holder = self.held.lock().get(&upload_id).cloned()?;
        holder.displaced.cancel();
        Some(holder)
    }

    fn try_take(self: &Arc<Self>, upload_id: UploadId) -> Result<Guard, Holder> {
        let mut held = self.held.lock();
        if let Some(holder) = held.get(&upload_id) {
            return Err(holder.clone());
        }
        let holder = Holder::default();
        held.insert(upload_id, holder.clone());
        Ok(Guard { slots: Arc::clone(self), upload_id, holder })
    }
}

impl Guard {
    /// Ends when somebody else wants the upload.
    pub(super) async fn displaced(&self) {
        self.holder.displaced.cancelled().await;
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.slots.held.lock().remove(&self.upload_id);
        self.holder.gone.cancel();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: UploadId = UploadId::from_bytes([1; 16]);
    const WAIT: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_newcomer_waits_until_the_holder_lets_go() {
        let slots = Arc::new(Slots::default());
        let first = slots.take(ID, WAIT).await.unwrap();
        let holder = tokio::spawn(async move {
            first.displaced().await;
            drop(first);
        });
        let second = slots.take(ID, WAIT).await.unwrap();
        holder.await.unwrap();
        assert!(slots.take(UploadId::from_bytes([2; 16]), WAIT).await.is_some(), "others are not affected");
        drop(second);
        assert!(slots.held.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_hangs_costs_only_the_wait() {
        let slots = Arc::new(Slots::default());
        let _first = slots.take(ID, WAIT).await.unwrap();
        assert!(slots.take(ID, WAIT).await.is_none());
        assert!(!slots.release(ID, WAIT).await);
        assert!(slots.release(UploadId::from_bytes([2; 16]), WAIT).await);
    }

    #[tokio::test]
    async fn one_holder_at_a_time_in_a_crowd() {
        let slots = Arc::new(Slots::default());
        let inside = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (slots, inside) = (slots.clone(), inside.clone());
            tasks.spawn(async move {
                let guard = slots.take(ID, WAIT).await.unwrap();
                assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                drop(guard);
            });
        }
        tasks.join_all().await;
    }
}

//! One writer per upload in this process. A newcomer makes the holder let go; the newest always wins.

use std::{collections::HashMap, sync::Arc, time::Duration};

use parking_lot::Mutex;
use schemas::ids::UploadId;
use tokio_util::sync::CancellationToken;

/// Who writes what in this process.
#[derive(Debug, Default)]
pub(super) struct UploadWriters {
    // The map is whole after every statement, so a panic elsewhere can't have left it half changed.
    held: Mutex<HashMap<UploadId, UploadWriter>>,
}

#[derive(Debug, Clone, Default)]
struct UploadWriter {
    displaced: CancellationToken,
    gone: CancellationToken,
}

/// The right to write to one upload; given back when dropped.
#[derive(Debug)]
pub(super) struct UploadWriterGuard {
    slots: Arc<UploadWriters>,
    upload_id: UploadId,
    holder: UploadWriter,
}

impl UploadWriters {
    /// Takes the slot, making a holder let go; `None` when it does not within `wait`.
    pub(super) async fn acquire(
        self: &Arc<Self>,
        upload_id: UploadId,
        wait: Duration,
    ) -> Option<UploadWriterGuard> {
        let take = async {
            loop {
                match self.try_acquire(upload_id) {
                    Ok(guard) => return guard,
                    Err(holder) => {
                        // In a loop: of several that wait for the same holder only one gets the slot.
                        holder.displaced.cancel();
                        holder.gone.cancelled().await;
                    }
                }
            }
        };
        tokio::time::timeout(wait, take).await.ok()
    }

    /// Makes the holder let go; false when it does not within `wait`.
    pub(super) async fn displace_and_wait(&self, upload_id: UploadId, wait: Duration) -> bool {
        let Some(holder) = self.displace(upload_id) else { return true };
        tokio::time::timeout(wait, holder.gone.cancelled()).await.is_ok()
    }

    /// Asks the holder to let go, without waiting.
    pub(super) fn request_release(&self, upload_id: UploadId) {
        drop(self.displace(upload_id));
    }

    /// The right to write, when nobody of this process has it.
    pub(super) fn try_acquire_free(self: &Arc<Self>, upload_id: UploadId) -> Option<UploadWriterGuard> {
        self.try_acquire(upload_id).ok()
    }

    fn displace(&self, upload_id: UploadId) -> Option<UploadWriter> {
        let holder = self.held.lock().get(&upload_id).cloned()?;
        holder.displaced.cancel();
        Some(holder)
    }

    fn try_acquire(self: &Arc<Self>, upload_id: UploadId) -> Result<UploadWriterGuard, UploadWriter> {
        let mut held = self.held.lock();
        if let Some(holder) = held.get(&upload_id) {
            return Err(holder.clone());
        }
        let holder = UploadWriter::default();
        held.insert(upload_id, holder.clone());
        Ok(UploadWriterGuard { slots: Arc::clone(self), upload_id, holder })
    }
}

impl UploadWriterGuard {
    /// Ends when somebody else wants the upload.
    pub(super) async fn wait_displaced(&self) {
        self.holder.displaced.cancelled().await;
    }
}

impl Drop for UploadWriterGuard {
    fn drop(&mut self) {
        // Removed first: who waits for `gone` tries again at once and must find the slot free.
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
        let slots = Arc::new(UploadWriters::default());
        let first = slots.acquire(ID, WAIT).await.unwrap();
        let holder = tokio::spawn(async move {
            first.wait_displaced().await;
            drop(first);
        });
        let second = slots.acquire(ID, WAIT).await.unwrap();
        holder.await.unwrap();
        assert!(
            slots.acquire(UploadId::from_bytes([2; 16]), WAIT).await.is_some(),
            "others are not affected"
        );
        drop(second);
        assert!(slots.held.lock().is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn a_holder_that_hangs_costs_only_the_wait() {
        let slots = Arc::new(UploadWriters::default());
        let _first = slots.acquire(ID, WAIT).await.unwrap();
        assert!(slots.acquire(ID, WAIT).await.is_none());
        assert!(!slots.displace_and_wait(ID, WAIT).await);
        assert!(slots.displace_and_wait(UploadId::from_bytes([2; 16]), WAIT).await);
    }

    #[tokio::test]
    async fn one_holder_at_a_time_of_many() {
        let slots = Arc::new(UploadWriters::default());
        let inside = Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..50 {
            let (slots, inside) = (slots.clone(), inside.clone());
            tasks.spawn(async move {
                let guard = slots.acquire(ID, WAIT).await.unwrap();
                assert_eq!(inside.fetch_add(1, std::sync::atomic::Ordering::SeqCst), 0);
                tokio::task::yield_now().await;
                inside.fetch_sub(1, std::sync::atomic::Ordering::SeqCst);
                drop(guard);
            });
        }
        tasks.join_all().await;
    }
}

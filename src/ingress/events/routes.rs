//! Which follower gets which frame: a bounded queue for each, found by medium, job, owner, or for all. Nobody looks at what is not
//! in its queue.
//!
//! Limits: a queue holds `queue_items_max` frames, and `queue_bytes_max` bytes of them beyond the first; one that would need more is
//! closed, and its follower finds out that it lagged.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicUsize, Ordering},
    },
};

use parking_lot::Mutex;
use schemas::ids::{JobId, MediaId};
use tokio::sync::mpsc;

use super::{frame::EventFrame, hub::HubState};

/// What a queue is found by: one of these, the narrowest that its follower allows.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum RouteKey {
    /// Everything about a medium.
    Medium(MediaId),
    /// Everything about a job.
    Job(JobId),
    /// Everything about what somebody owns.
    Owner(String),
    /// Everything.
    All,
}

impl RouteKey {
    /// The keys of all queues that a frame goes to.
    fn keys_of(frame: &EventFrame) -> impl Iterator<Item = Self> {
        let medium = frame.media_id.map(Self::Medium);
        let job = frame.job_id.map(Self::Job);
        let owner = frame.owner.clone().map(Self::Owner);
        [medium, job, owner, Some(Self::All)].into_iter().flatten()
    }
}

/// How much a queue holds.
#[derive(Debug, Clone, Copy)]
pub(super) struct QueueLimits {
    /// Most frames.
    pub(super) items_max: usize,
    /// Most bytes of them beyond the first.
    pub(super) bytes_max: usize,
}

/// Why nothing more comes by a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum QueueEnd {
    /// It was full.
    Lagged = 1,
    /// EVENTS was made anew.
    Reset = 2,
    /// The hub is no more.
    Closed = 0,
}

#[derive(Debug, Default)]
struct QueueState {
    bytes: AtomicUsize,
    end: AtomicU8,
}

impl QueueState {
    fn set_end(&self, end: QueueEnd) {
        self.end.store(end as u8, Ordering::Release);
    }

    fn end(&self) -> QueueEnd {
        match self.end.load(Ordering::Acquire) {
            1 => QueueEnd::Lagged,
            2 => QueueEnd::Reset,
            _ => QueueEnd::Closed,
        }
    }
}

/// The hub's side of a queue.
#[derive(Debug)]
struct QueueSender {
    frames: mpsc::Sender<Arc<EventFrame>>,
    state: Arc<QueueState>,
    bytes_max: usize,
}

impl QueueSender {
    /// False when nothing more can be put into it.
    fn push(&self, frame: &Arc<EventFrame>) -> bool {
        let size = frame.size_bytes();
        let held = self.state.bytes.fetch_add(size, Ordering::AcqRel);
        // One alone is taken whatever its size, or a large event would never arrive.
        let fits = held == 0 || held.saturating_add(size) <= self.bytes_max;
        if fits && self.frames.try_send(Arc::clone(frame)).is_ok() {
            return true;
        }
        self.state.set_end(QueueEnd::Lagged);
        false
    }
}

/// All queues.
#[derive(Debug, Default)]
pub(super) struct FollowerRoutes {
    next_id: u64,
    queues: HashMap<RouteKey, HashMap<u64, QueueSender>>,
}

impl FollowerRoutes {
    /// Puts a frame into the queues that it belongs to.
    pub(super) fn send(&mut self, frame: &Arc<EventFrame>) {
        for key in RouteKey::keys_of(frame) {
            let Some(queues) = self.queues.get_mut(&key) else { continue };
            queues.retain(|_, queue| queue.push(frame));
            if queues.is_empty() {
                self.queues.remove(&key);
            }
        }
    }

    /// Ends all queues: EVENTS was made anew.
    pub(super) fn reset(&mut self) {
        for queue in self.queues.drain().flat_map(|(_, queues)| queues.into_values()) {
            queue.state.set_end(QueueEnd::Reset);
        }
    }

    /// Opens a queue, which is found in `shared`.
    pub(super) fn open(
        &mut self,
        key: RouteKey,
        limits: QueueLimits,
        shared: Arc<Mutex<HubState>>,
    ) -> FollowerQueue {
        let (sender, frames) = mpsc::channel(limits.items_max.max(1));
        let state = Arc::new(QueueState::default());
        self.next_id += 1;
        let id = self.next_id;
        let sender = QueueSender { frames: sender, state: Arc::clone(&state), bytes_max: limits.bytes_max };
        self.queues.entry(key.clone()).or_default().insert(id, sender);
        FollowerQueue { id, key, frames, state, shared }
    }

    fn close(&mut self, key: &RouteKey, id: u64) {
        if let Some(queues) = self.queues.get_mut(key) {
            queues.remove(&id);
            if queues.is_empty() {
                self.queues.remove(key);
            }
        }
    }

    /// Open queues.
    #[cfg(test)]
    pub(super) fn count(&self) -> usize {
        self.queues.values().map(HashMap::len).sum()
    }
}

/// A follower's side of its queue, closed when it is dropped.
#[derive(Debug)]
pub(crate) struct FollowerQueue {
    id: u64,
    key: RouteKey,
    frames: mpsc::Receiver<Arc<EventFrame>>,
    state: Arc<QueueState>,
    shared: Arc<Mutex<HubState>>,
}

impl FollowerQueue {
    /// The next frame; why there will be none, once all that was in it is out.
    pub(crate) async fn next(&mut self) -> Result<Arc<EventFrame>, QueueEnd> {
        let frame = self.frames.recv().await.ok_or_else(|| self.state.end())?;
        self.state.bytes.fetch_sub(frame.size_bytes(), Ordering::AcqRel);
        Ok(frame)
    }

    /// True once it was full: what it holds is not all.
    pub(super) fn has_lagged(&self) -> bool {
        self.state.end() == QueueEnd::Lagged
    }
}

impl Drop for FollowerQueue {
    fn drop(&mut self) {
        self.shared.lock().routes.close(&self.key, self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: QueueLimits = QueueLimits { items_max: 3, bytes_max: 1 << 20 };

    fn frame(medium: u8, job: u8, owner: &str) -> Arc<EventFrame> {
        let (medium, job) = (MediaId::from_bytes([medium; 16]), JobId::from_bytes([job; 16]));
        let frame = EventFrame::new("media.ready", None, "{}".into());
        Arc::new(frame.about(Some(owner.to_owned()), Some(medium), Some(job)))
    }

    fn open(shared: &Arc<Mutex<HubState>>, key: RouteKey, limits: QueueLimits) -> FollowerQueue {
        shared.lock().routes.open(key, limits, Arc::clone(shared))
    }

    /// How many frames lie in the queue, and why it ended if it did.
    fn drain(queue: &mut FollowerQueue) -> (usize, Option<QueueEnd>) {
        let mut count = 0;
        loop {
            match futures::FutureExt::now_or_never(queue.next()) {
                Some(Ok(_)) => count += 1,
                Some(Err(end)) => return (count, Some(end)),
                None => return (count, None),
            }
        }
    }

    #[test]
    fn a_frame_goes_to_the_queues_of_its_medium_its_job_its_owner_and_of_all() {
        let shared = Arc::new(Mutex::new(HubState::default()));
        let keys = [
            RouteKey::Medium(MediaId::from_bytes([1; 16])),
            RouteKey::Medium(MediaId::from_bytes([2; 16])),
            RouteKey::Job(JobId::from_bytes([3; 16])),
            RouteKey::Owner("ann".into()),
            RouteKey::Owner("bob".into()),
            RouteKey::All,
        ];
        let mut queues: Vec<_> = keys.into_iter().map(|key| open(&shared, key, LIMITS)).collect();
        shared.lock().routes.send(&frame(1, 3, "ann"));
        let mut counts = Vec::new();
        for queue in &mut queues {
            counts.push(drain(queue));
        }
        assert_eq!(counts.iter().map(|(count, _)| *count).collect::<Vec<_>>(), [1, 0, 1, 1, 0, 1]);
        assert!(counts.iter().all(|(_, end)| end.is_none()), "{counts:?}");
        assert_eq!(shared.lock().routes.count(), 6);
        queues.truncate(2);
        assert_eq!(shared.lock().routes.count(), 2, "who is gone is forgotten");
    }

    #[test]
    fn a_full_queue_ends_and_no_other() {
        let shared = Arc::new(Mutex::new(HubState::default()));
        let (mut slow, mut quick) =
            (open(&shared, RouteKey::All, LIMITS), open(&shared, RouteKey::All, LIMITS));
        let mut received = 0;
        for _ in 0..5 {
            shared.lock().routes.send(&frame(1, 1, "ann"));
            received += drain(&mut quick).0;
        }
        assert_eq!((received, drain(&mut quick)), (5, (0, None)));
        assert!(slow.has_lagged());
        assert_eq!(drain(&mut slow), (3, Some(QueueEnd::Lagged)), "what was in it comes first");
        shared.lock().routes.reset();
        assert_eq!(drain(&mut quick), (0, Some(QueueEnd::Reset)));
    }

    #[test]
    fn bytes_count_as_frames_do_but_one_alone_is_always_taken() {
        let shared = Arc::new(Mutex::new(HubState::default()));
        let limits = QueueLimits { items_max: 100, bytes_max: 1 };
        let mut queue = open(&shared, RouteKey::All, limits);
        shared.lock().routes.send(&frame(1, 1, "ann"));
        assert_eq!(drain(&mut queue), (1, None));
        shared.lock().routes.send(&frame(1, 1, "ann"));
        shared.lock().routes.send(&frame(1, 1, "ann"));
        assert_eq!(drain(&mut queue), (1, Some(QueueEnd::Lagged)));
    }
}

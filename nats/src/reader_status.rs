//! Which readers receive what is stored: readiness and all that relies on receiving changes ask here.
//!
//! Limits: none of its own; a reader that is dropped is forgotten.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct FollowState {
    since: Option<Instant>,
    received_at: Instant,
}

/// Whether one reader follows its stream: its consumer exists, and the broker sent something on it within
/// [`SILENT_HEARTBEATS_MAX`](crate::reader::SILENT_HEARTBEATS_MAX) heartbeats. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ReaderStatus {
    name: Arc<str>,
    state: watch::Receiver<FollowState>,
}

impl ReaderStatus {
    /// Name of the reader, for logs and readiness; unique within a role.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// False once its reader was dropped.
    pub fn is_open(&self) -> bool {
        self.state.has_changed().is_ok()
    }

    /// True while nothing that is stored can be missed.
    pub fn is_following(&self) -> bool {
        self.following_since().is_some()
    }

    /// Since when it follows without interruption; `None` while it does not.
    pub fn following_since(&self) -> Option<Instant> {
        let state = *self.state.borrow();
        // A reader that was dropped receives nothing, whatever its last state.
        if self.is_open() { state.since } else { None }
    }

    /// When the broker last sent something on it; before that, when it was opened.
    pub fn last_received_at(&self) -> Instant {
        self.state.borrow().received_at
    }

    /// Waits until it begins or ceases to follow. Dropping the future loses nothing; once the reader is dropped it never returns.
    pub async fn wait_for_change(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The reader's end: it says what others see.
#[derive(Debug)]
pub(crate) struct ReaderStatusSender {
    state: watch::Sender<FollowState>,
}

impl ReaderStatusSender {
    pub(crate) fn new(name: &str) -> (Self, ReaderStatus) {
        let (sender, state) = watch::channel(FollowState { since: None, received_at: Instant::now() });
        (Self { state: sender }, ReaderStatus { name: name.into(), state })
    }

    /// The broker sent something: true when the reader did not follow before.
    pub(crate) fn mark_received(&self) -> bool {
        let now = Instant::now();
        self.state.send_if_modified(|state| {
            let is_first = state.since.is_none();
            *state = FollowState { since: state.since.or(Some(now)), received_at: now };
            is_first
        })
    }

    /// Something may be missed from now on.
    pub(crate) fn mark_lost(&self) {
        self.state.send_if_modified(|state| state.since.take().is_some());
    }
}

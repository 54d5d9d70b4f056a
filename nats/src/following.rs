//! Which readers hear what is stored: readiness and whatever rests on hearing of changes ask here.
//!
//! Limits: none of its own; a reader that is dropped is forgotten.

use std::{sync::Arc, time::Instant};

use tokio::sync::watch;

use crate::Bus;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct State {
    since: Option<Instant>,
    heard: Instant,
}

/// Whether one reader follows its stream: its consumer exists, and the broker was heard on it within
/// [`SILENT_HEARTBEATS_MAX`](crate::reader::SILENT_HEARTBEATS_MAX) heartbeats. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Following {
    name: Arc<str>,
    state: watch::Receiver<State>,
}

impl Following {
    /// Name of the reader, for logs and readiness; unique within a role.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// False once its reader was dropped.
    pub fn is_open(&self) -> bool {
        self.state.has_changed().is_ok()
    }

    /// True while nothing that is stored can stay unheard.
    pub fn is_following(&self) -> bool {
        self.since().is_some()
    }

    /// Since when it follows without interruption; `None` while it does not.
    pub fn since(&self) -> Option<Instant> {
        let state = *self.state.borrow();
        // A reader that was dropped hears nothing, whatever it said last.
        if self.is_open() { state.since } else { None }
    }

    /// When the broker was last heard on it; when it was opened, before that.
    pub fn heard(&self) -> Instant {
        self.state.borrow().heard
    }

    /// Waits until it begins or ceases to follow. Dropping the future loses nothing; once the reader is dropped it never returns.
    pub async fn changed(&mut self) {
        if self.state.changed().await.is_err() {
            std::future::pending::<()>().await;
        }
    }
}

/// The reader's end: it says what others see.
#[derive(Debug)]
pub(crate) struct Hearing {
    state: watch::Sender<State>,
}

impl Hearing {
    pub(crate) fn new(name: &str) -> (Self, Following) {
        let (sender, state) = watch::channel(State { since: None, heard: Instant::now() });
        (Self { state: sender }, Following { name: name.into(), state })
    }

    /// The broker was heard: true when it was not before.
    pub(crate) fn heard(&self) -> bool {
        let now = Instant::now();
        self.state.send_if_modified(|state| {
            let is_first = state.since.is_none();
            *state = State { since: state.since.or(Some(now)), heard: now };
            is_first
        })
    }

    /// Something may be missed from now on.
    pub(crate) fn lost(&self) {
        self.state.send_if_modified(|state| state.since.take().is_some());
    }
}

impl Bus {
    /// The readers that this role opened in this process by [`Bus::follow`] and that still exist, following or not.
    pub fn followers(&self) -> Vec<Following> {
        self.health().followers(self.role())
    }
}

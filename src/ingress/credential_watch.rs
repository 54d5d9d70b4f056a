//! Credentials of answers without an end: each is looked at by one task, whatever the number of answers that it has, and each of them
//! ends with it.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
    time::Duration,
};

use parking_lot::Mutex;
use schemas::ids::{KeyId, SessionId};
use tokio::sync::broadcast;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use auth::{Principal, SignInService};

/// How often a credential is looked at that nothing was said about.
const LOOK_PAUSE: Duration = Duration::from_secs(10);

type CredentialKey = (Option<SessionId>, Option<KeyId>);
type WatchTable = Arc<Mutex<HashMap<CredentialKey, Weak<CredentialWatch>>>>;

/// All credentials that answers without an end came by.
#[derive(Debug, Default)]
pub(crate) struct CredentialWatches {
    watches: WatchTable,
}

/// One of them, looked at for as long as somebody holds this.
#[derive(Debug)]
pub(crate) struct CredentialWatch {
    invalid: CancellationToken,
    key: CredentialKey,
    watches: WatchTable,
    _task: AbortOnDropHandle<()>,
}

impl CredentialWatches {
    /// Watches what `who` showed; `ends` names owners of whose credentials one has ended.
    pub(crate) fn watch(
        &self,
        sign_in: &SignInService,
        who: &Principal,
        ends: impl FnOnce() -> broadcast::Receiver<Arc<str>>,
    ) -> Arc<CredentialWatch> {
        let key = (who.session_id, who.key_id);
        let mut watches = self.watches.lock();
        // One that has come may have ended for want of an answer: whether the credential is good is found out anew. What is found is
        // dropped behind the lock, which its end takes.
        let found = watches.get(&key).and_then(Weak::upgrade);
        if let Some(watch) = found.as_ref().filter(|watch| !watch.invalid.is_cancelled()) {
            return Arc::clone(watch);
        }
        let invalid = CancellationToken::new();
        let (looking, over) =
            (sign_in.clone().wait_until_invalid(who.clone(), LOOK_PAUSE, ends()), invalid.clone());
        let task = tokio::spawn(async move {
            looking.await;
            over.cancel();
        });
        let watch = Arc::new(CredentialWatch {
            invalid,
            key,
            watches: Arc::clone(&self.watches),
            _task: AbortOnDropHandle::new(task),
        });
        watches.insert(key, Arc::downgrade(&watch));
        drop(watches);
        watch
    }
}

impl CredentialWatch {
    /// Comes when the credential is good no more.
    pub(crate) async fn wait_until_invalid(&self) {
        self.invalid.cancelled().await;
    }
}

impl Drop for CredentialWatch {
    fn drop(&mut self) {
        let mut watches = self.watches.lock();
        // Somebody may have begun to watch the same anew meanwhile.
        if watches.get(&self.key).is_some_and(|watch| watch.strong_count() == 0) {
            watches.remove(&self.key);
        }
    }
}

//! The marker: which store this is, looked at before anything is committed and before an absence is believed.
//!
//! A store whose marker is not there is away: a folder that is not mounted, a bucket that was emptied or is another one.
//! Nothing is stored in it, nothing is deleted, and that an object is not there says nothing. Whose marker has to be there
//! is asked of [`StoreIdentifier`], when the store is first used and whenever its marker is absent or another.
//!
//! Limits: the identifier is asked at most ten times a second which store it is; a remote marker that was seen holds for
//! `marker_ms` where it is looked at before a commit, never where an absence is judged.

use std::{
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use futures::{TryStreamExt, future::BoxFuture};
use object_store::{ObjectStoreExt, PutPayload};
use parking_lot::Mutex;
use schemas::{
    ids::{MediaId, StoreId, UploadId},
    keys,
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    Store, StoreError,
    folder::{LocalRoot, create_root},
    run_blocking,
};

/// Least time between two questions which store it is.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that are read of a marker.
const MARKER_BYTES_MAX: u64 = 64;

/// Says which store belongs to this installation.
pub trait StoreIdentifier: Send + Sync {
    /// The id the marker has to carry. May mark a store that is new, by [`Store::write_marker`].
    ///
    /// Only [`Store::read_marker`], [`Store::write_marker`], [`Store::stored_media`] and [`Store::spooled_uploads`] may be asked
    /// here: everything else waits for the answer.
    fn identify_store<'a>(&'a self, store: &'a Store) -> BoxFuture<'a, Result<StoreId, StoreError>>;
}

/// What is to be done where a store has no root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MissingRootPolicy {
    /// It is made: the store is new.
    Make,
    /// It is an error: the store is there, or away.
    Needed,
}

/// What was seen when the marker was last looked at.
#[derive(Debug, Clone, Copy)]
enum MarkerStatus {
    Ours,
    Absent,
    Other { found: StoreId, expected: StoreId },
    Unreachable,
}

/// What is behind a lock is replaced whole, so a panic elsewhere leaves nothing half changed.
pub(crate) struct MarkerState {
    identify: Arc<dyn StoreIdentifier>,
    expected: Mutex<Option<StoreId>>,
    /// When it was last asked which store this is.
    asked: tokio::sync::Mutex<Option<Instant>>,
    seen: Mutex<Option<(MarkerStatus, Instant)>>,
    /// A look that nobody waits for.
    looking: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl fmt::Debug for MarkerState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marker")
            .field("expected", &self.expected)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl MarkerState {
    pub(crate) fn new(identify: Arc<dyn StoreIdentifier>) -> Self {
        Self {
            identify,
            expected: Mutex::default(),
            asked: tokio::sync::Mutex::new(None),
            seen: Mutex::default(),
            looking: Mutex::default(),
        }
    }

    fn expected_id(&self) -> Option<StoreId> {
        *self.expected.lock()
    }

    fn last_status(&self) -> Option<(MarkerStatus, Instant)> {
        *self.seen.lock()
    }
}

impl Store {
    /// Fails unless the store carries its marker. What was seen of a remote marker holds for `marker_ms`.
    pub async fn verify_marker(&self) -> Result<(), StoreError> {
        if !self.is_local()
            && let Some((MarkerStatus::Ours, at)) = self.state().marker.last_status()
            && at.elapsed() < self.config().marker_ttl()
        {
            return Ok(());
        }
        self.verify_marker_now().await
    }

    /// Looks at the marker; [`StoreError::is_outage`] while it is not there, [`StoreError::OtherStore`] when it is another's.
    pub async fn verify_marker_now(&self) -> Result<(), StoreError> {
        let outcome = self.compare_marker().await;
        let seen = match &outcome {
            Ok(()) => MarkerStatus::Ours,
            Err(StoreError::Unmarked { .. }) => MarkerStatus::Absent,
            Err(StoreError::OtherStore { found, expected, .. }) => {
                MarkerStatus::Other { found: *found, expected: *expected }
            }
            Err(_) => MarkerStatus::Unreachable,
        };
        *self.state().marker.seen.lock() = Some((seen, Instant::now()));
        outcome
    }

    /// As [`Store::verify_marker`], for a probe: a remote store is never waited for, but the first time. What is said of it is at
    /// most `marker_ms` older than the last answer.
    pub async fn check_ready(&self) -> Result<(), StoreError> {
        let marker = &self.state().marker;
        let Some((seen, at)) = marker.last_status().filter(|_| !self.is_local()) else {
            return self.verify_marker().await;
        };
        if at.elapsed() >= self.config().marker_ttl() {
            let mut looking = marker.looking.lock();
            if looking.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
                let store = self.clone();
                let task = tokio::task::spawn(async move {
                    // The outcome is remembered for the next probe.
                    store.verify_marker_now().await.ok();
                });
                *looking = Some(AbortOnDropHandle::new(task));
            }
            // One that has hung since is no answer any more.
            if at.elapsed() >= self.config().marker_ttl() + self.config().request_deadline(0) {
                return Err(self.status_error(MarkerStatus::Unreachable));
            }
        }
        match seen {
            MarkerStatus::Ours => Ok(()),
            other => Err(self.status_error(other)),
        }
    }

    fn status_error(&self, seen: MarkerStatus) -> StoreError {
        match seen {
            MarkerStatus::Other { found, expected } => self.other_store_error(found, expected),
            MarkerStatus::Unreachable => {
                StoreError::unavailable("the store did not answer when it was last asked")
            }
            MarkerStatus::Absent | MarkerStatus::Ours => self.unmarked_error(),
        }
    }

    async fn compare_marker(&self) -> Result<(), StoreError> {
        let marker = &self.state().marker;
        let found = self.read_marker().await?;
        if found.is_some() && found == marker.expected_id() {
            return Ok(());
        }
        self.refresh_expected_id().await?;
        // The identifier may have marked it when it was asked.
        match (self.read_marker().await?, marker.expected_id()) {
            (Some(found), Some(expected)) if found == expected => Ok(()),
            (Some(found), Some(expected)) => Err(self.other_store_error(found, expected)),
            _ => Err(self.unmarked_error()),
        }
    }

    /// Asks which store this is, once for all who ask at the same time.
    async fn refresh_expected_id(&self) -> Result<(), StoreError> {
        let (marker, came) = (&self.state().marker, Instant::now());
        let mut asked = marker.asked.lock().await;
        if asked.is_some_and(|at| at >= came) {
            return Ok(());
        }
        if let Some(left) = asked.and_then(|at| ASK_PAUSE.checked_sub(at.elapsed())) {
            tokio::time::sleep(left).await;
        }
        let answer = marker.identify.identify_store(self).await;
        *asked = Some(Instant::now());
        *marker.expected.lock() = Some(answer?);
        Ok(())
    }

    /// An absence as the answer to a question: believed of a store that carries its marker, else it is away.
    ///
    /// Every such answer comes through here.
    pub(crate) async fn confirm_absence<T>(
        &self,
        key: &str,
        found: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Err(StoreError::NotFound { .. }) = &found else { return found };
        let is_there = if self.is_local() {
            let key = key.to_owned();
            self.with_local_root(move |folder| folder.exists(&key)).await?
        } else {
            // The marker first, then the object again: the absence may have been that of the whole store.
            self.verify_marker_now().await?;
            let path = self.object_path(key)?;
            match self.with_deadline(0, self.object_store()?.head(&path)).await {
                Ok(_) => true,
                Err(StoreError::NotFound { .. }) => false,
                Err(error) => return Err(error),
            }
        };
        if is_there { Err(StoreError::unavailable("the object was away for a moment")) } else { found }
    }

    /// An absence where something was to be changed: never an answer, the store or a part of it is away.
    pub(crate) async fn treat_absence_as_outage<T>(
        &self,
        changed: Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        let Err(StoreError::NotFound { key }) = changed else { return changed };
        self.verify_marker_now().await?;
        Err(StoreError::unavailable(format!("the store does not know {key}")))
    }

    /// Works in the folder of a local store, which carries the marker then; without it nothing is done.
    pub(crate) async fn with_local_root<T: Send + 'static>(
        &self,
        work: impl Fn(&LocalRoot) -> Result<T, StoreError> + Send + Sync + 'static,
    ) -> Result<T, StoreError> {
        let (marker, work) = (&self.state().marker, Arc::new(work));
        for _ in 0..2 {
            let (root, expected, work) = (self.local_root()?, marker.expected_id(), Arc::clone(&work));
            let worked = run_blocking(move || match LocalRoot::open(&root)? {
                // Without `is_some` a folder without a marker would fit an id that is not known yet.
                Some(folder) if expected.is_some() && folder.read_marker()? == expected => {
                    work(&folder).map(Some)
                }
                _ => Ok(None),
            });
            if let Some(done) = worked.await? {
                return Ok(done);
            }
            // Which store this is may not have been asked yet, or may have changed.
            self.verify_marker_now().await?;
        }
        Err(StoreError::unavailable("the store was away for a moment"))
    }

    /// What the marker says now; `None` where there is none. Asks nobody whether it should.
    pub async fn read_marker(&self) -> Result<Option<StoreId>, StoreError> {
        if self.is_local() {
            let root = self.local_root()?;
            return run_blocking(move || {
                LocalRoot::open(&root)?.map_or(Ok(None), |folder| folder.read_marker())
            })
            .await;
        }
        let path = self.object_path(keys::MARKER)?;
        let found = match self.with_deadline(0, self.object_store()?.get(&path)).await {
            Err(StoreError::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        if found.meta.size > MARKER_BYTES_MAX {
            return Ok(None);
        }
        let bytes = self.with_deadline(0, found.bytes()).await?;
        Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()))
    }

    /// Writes the marker. One of another store is never overwritten: [`StoreError::OtherStore`].
    pub async fn write_marker(&self, store_id: StoreId, root: MissingRootPolicy) -> Result<(), StoreError> {
        if let Some(found) = self.read_marker().await?
            && found != store_id
        {
            return Err(self.other_store_error(found, store_id));
        }
        let line = PutPayload::from(format!("{store_id}\n").into_bytes());
        if !self.is_local() {
            let path = self.object_path(keys::MARKER)?;
            self.with_deadline(0, self.object_store()?.put(&path, line)).await?;
            return Ok(());
        }
        let (path, unmarked) = (self.local_root()?, self.unmarked_error());
        run_blocking(move || {
            if root == MissingRootPolicy::Make {
                create_root(&path)?;
            }
            LocalRoot::open(&path)?.ok_or(unmarked)?.put_file(keys::MARKER, &line)
        })
        .await
    }

    /// Some of the media that lie in the store, marker or not: at most `count_max`.
    pub async fn stored_media(&self, count_max: usize) -> Result<Vec<MediaId>, StoreError> {
        if self.is_local() {
            let names = self.list_names(keys::MEDIA, count_max).await?;
            return Ok(names.iter().filter_map(|name| name.parse().ok()).collect());
        }
        let (store, folder) = (self.object_store()?, self.object_path(keys::MEDIA)?);
        let (mut found, mut offset) = (Vec::new(), folder.clone());
        while found.len() < count_max {
            let mut listed = store.list_with_offset(Some(&folder), &offset);
            let Some(meta) = self.with_deadline(0, listed.try_next()).await? else { break };
            let key = self.state().backend.object_key(&meta.location)?;
            let Some(name) = key.split('/').nth(1) else { break };
            found.extend(name.parse::<MediaId>());
            // Behind everything of this medium, for a zero is the letter behind the slash.
            offset = self.object_path(&format!("{}/{name}0", keys::MEDIA))?;
        }
        Ok(found)
    }

    /// Some of the uploads whose bytes lie in a local store, marker or not: at most `count_max`.
    pub async fn spooled_uploads(&self, count_max: usize) -> Result<Vec<UploadId>, StoreError> {
        let mut found = Vec::new();
        if !self.is_local() {
            return Ok(found);
        }
        for shard in self.list_names(keys::SPOOL, count_max).await? {
            let names = self.list_names(&format!("{}/{shard}", keys::SPOOL), count_max).await?;
            found.extend(names.iter().filter_map(|name| name.parse::<UploadId>().ok()));
            if found.len() >= count_max {
                break;
            }
        }
        Ok(found)
    }

    async fn list_names(&self, folder: &str, names_max: usize) -> Result<Vec<String>, StoreError> {
        let (root, name) = (self.local_root()?, folder.to_owned());
        run_blocking(move || {
            LocalRoot::open(&root)?
                .map_or_else(|| Ok(Vec::new()), |folder| folder.list_names(&name, names_max))
        })
        .await
    }

    fn unmarked_error(&self) -> StoreError {
        StoreError::Unmarked { root: self.config().url.clone() }
    }

    fn other_store_error(&self, found: StoreId, expected: StoreId) -> StoreError {
        StoreError::OtherStore { root: self.config().url.clone(), found, expected }
    }
}

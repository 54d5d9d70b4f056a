//! The marker: which store this is, looked at before anything is committed and before an absence is believed.
//!
//! A store whose marker is not there is away: a folder that is not mounted, a bucket that was emptied or is another one.
//! Nothing is stored in it, nothing is deleted, and that an object is not there says nothing. Whose marker has to be there
//! is asked of [`Identify`], when the store is first used and whenever its marker is absent or another.
//!
//! Limits: whoever says which store it is, is asked at most ten times a second; a remote marker that was seen holds for
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
    Error, Store, blocking,
    folder::{Folder, make_root},
};

/// Least time between two questions which store it is.
const ASK_PAUSE: Duration = Duration::from_millis(100);
/// Bytes that are read of a marker.
const MARKER_BYTES_MAX: u64 = 64;

/// Says which store belongs to this installation.
pub trait Identify: Send + Sync {
    /// The id the marker has to carry. May mark a store that is new, by [`Store::mark`].
    ///
    /// Only [`Store::marker`], [`Store::mark`], [`Store::stored_media`] and [`Store::spooled_uploads`] may be asked here:
    /// everything else waits for the answer.
    fn identify<'a>(&'a self, store: &'a Store) -> BoxFuture<'a, Result<StoreId, Error>>;
}

/// What is to be done where a store has no root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Root {
    /// It is made: the store is new.
    Make,
    /// It is an error: the store is there, or away.
    Needed,
}

/// What was seen when the marker was last looked at.
#[derive(Debug, Clone, Copy)]
enum Seen {
    Ours,
    Absent,
    Other { found: StoreId, expected: StoreId },
    Unreachable,
}

/// What is behind a lock is replaced whole, so a panic elsewhere leaves nothing half changed.
pub(crate) struct Marker {
    identify: Arc<dyn Identify>,
    expected: Mutex<Option<StoreId>>,
    /// When it was last asked which store this is.
    asked: tokio::sync::Mutex<Option<Instant>>,
    seen: Mutex<Option<(Seen, Instant)>>,
    /// A look that nobody waits for.
    looking: Mutex<Option<AbortOnDropHandle<()>>>,
}

impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Marker")
            .field("expected", &self.expected)
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}

impl Marker {
    pub(crate) fn new(identify: Arc<dyn Identify>) -> Self {
        Self {
            identify,
            expected: Mutex::default(),
            asked: tokio::sync::Mutex::new(None),
            seen: Mutex::default(),
            looking: Mutex::default(),
        }
    }

    fn expected(&self) -> Option<StoreId> {
        *self.expected.lock()
    }

    fn seen(&self) -> Option<(Seen, Instant)> {
        *self.seen.lock()
    }
}

impl Store {
    /// Fails unless the store carries its marker. What was seen of a remote marker holds for `marker_ms`.
    pub async fn verify(&self) -> Result<(), Error> {
        if !self.is_local()
            && let Some((Seen::Ours, at)) = self.inner().marker.seen()
            && at.elapsed() < self.config().marker()
        {
            return Ok(());
        }
        self.verify_now().await
    }

    /// Looks at the marker; [`Error::is_outage`] while it is not there, [`Error::OtherStore`] when it is another's.
    pub async fn verify_now(&self) -> Result<(), Error> {
        let outcome = self.look().await;
        let seen = match &outcome {
            Ok(()) => Seen::Ours,
            Err(Error::Unmarked { .. }) => Seen::Absent,
            Err(Error::OtherStore { found, expected, .. }) => {
                Seen::Other { found: *found, expected: *expected }
            }
            Err(_) => Seen::Unreachable,
        };
        *self.inner().marker.seen.lock() = Some((seen, Instant::now()));
        outcome
    }

    /// As [`Store::verify`], for a probe: a remote store is never waited for, but the first time. What is told of it is at
    /// most `marker_ms` older than the last answer.
    pub async fn ready(&self) -> Result<(), Error> {
        let marker = &self.inner().marker;
        let Some((seen, at)) = marker.seen().filter(|_| !self.is_local()) else {
            return self.verify().await;
        };
        if at.elapsed() >= self.config().marker() {
            let mut looking = marker.looking.lock();
            if looking.as_ref().is_none_or(AbortOnDropHandle::is_finished) {
                let store = self.clone();
                let task = tokio::task::spawn(async move {
                    // The outcome is remembered for the next probe.
                    store.verify_now().await.ok();
                });
                *looking = Some(AbortOnDropHandle::new(task));
            }
            // One that has hung since is no answer any more.
            if at.elapsed() >= self.config().marker() + self.config().deadline(0) {
                return Err(self.told(Seen::Unreachable));
            }
        }
        match seen {
            Seen::Ours => Ok(()),
            other => Err(self.told(other)),
        }
    }

    fn told(&self, seen: Seen) -> Error {
        match seen {
            Seen::Other { found, expected } => self.other(found, expected),
            Seen::Unreachable => Error::away("the store did not answer when it was last asked"),
            Seen::Absent | Seen::Ours => self.unmarked(),
        }
    }

    async fn look(&self) -> Result<(), Error> {
        let marker = &self.inner().marker;
        let found = self.marker().await?;
        if found.is_some() && found == marker.expected() {
            return Ok(());
        }
        self.ask().await?;
        // Whoever was asked may have marked it.
        match (self.marker().await?, marker.expected()) {
            (Some(found), Some(expected)) if found == expected => Ok(()),
            (Some(found), Some(expected)) => Err(self.other(found, expected)),
            _ => Err(self.unmarked()),
        }
    }

    /// Asks which store this is, once for all who ask at the same time.
    async fn ask(&self) -> Result<(), Error> {
        let (marker, came) = (&self.inner().marker, Instant::now());
        let mut asked = marker.asked.lock().await;
        if asked.is_some_and(|at| at >= came) {
            return Ok(());
        }
        if let Some(left) = asked.and_then(|at| ASK_PAUSE.checked_sub(at.elapsed())) {
            tokio::time::sleep(left).await;
        }
        let answer = marker.identify.identify(self).await;
        *asked = Some(Instant::now());
        *marker.expected.lock() = Some(answer?);
        Ok(())
    }

    /// An absence as the answer to a question: believed of a store that carries its marker, else it is away.
    ///
    /// Every such answer comes through here.
    pub(crate) async fn believed<T>(&self, key: &str, found: Result<T, Error>) -> Result<T, Error> {
        let Err(Error::NotFound { .. }) = &found else { return found };
        let is_there = if self.is_local() {
            let key = key.to_owned();
            self.in_folder(move |folder| folder.is_there(&key)).await?
        } else {
            self.verify_now().await?;
            let path = self.path(key)?;
            match self.within(0, self.object_store()?.head(&path)).await {
                Ok(_) => true,
                Err(Error::NotFound { .. }) => false,
                Err(error) => return Err(error),
            }
        };
        if is_there { Err(Error::away("the object was away for a moment")) } else { found }
    }

    /// An absence where something was to be changed: never an answer, the store or a part of it is away.
    pub(crate) async fn refused<T>(&self, changed: Result<T, Error>) -> Result<T, Error> {
        let Err(Error::NotFound { key }) = changed else { return changed };
        self.verify_now().await?;
        Err(Error::away(format!("the store does not know {key}")))
    }

    /// Works in the folder of a local store, which carries the marker then; without it nothing is done.
    pub(crate) async fn in_folder<T: Send + 'static>(
        &self,
        work: impl Fn(&Folder) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<T, Error> {
        let (marker, work) = (&self.inner().marker, Arc::new(work));
        for _ in 0..2 {
            let (root, expected, work) = (self.root()?, marker.expected(), Arc::clone(&work));
            let worked = blocking(move || match Folder::open(&root)? {
                Some(folder) if expected.is_some() && folder.marker()? == expected => work(&folder).map(Some),
                _ => Ok(None),
            });
            if let Some(done) = worked.await? {
                return Ok(done);
            }
            // Which store this is may not have been asked yet, or may have changed.
            self.verify_now().await?;
        }
        Err(Error::away("the store was away for a moment"))
    }

    /// What the marker says now; `None` where there is none. Asks nobody whether it should.
    pub async fn marker(&self) -> Result<Option<StoreId>, Error> {
        if self.is_local() {
            let root = self.root()?;
            return blocking(move || Folder::open(&root)?.map_or(Ok(None), |folder| folder.marker())).await;
        }
        let path = self.path(keys::MARKER)?;
        let found = match self.within(0, self.object_store()?.get(&path)).await {
            Err(Error::NotFound { .. }) => return Ok(None),
            other => other?,
        };
        if found.meta.size > MARKER_BYTES_MAX {
            return Ok(None);
        }
        let bytes = self.within(0, found.bytes()).await?;
        Ok(std::str::from_utf8(&bytes).ok().and_then(|text| text.trim().parse().ok()))
    }

    /// Writes the marker. One of another store is never overwritten: [`Error::OtherStore`].
    pub async fn mark(&self, store_id: StoreId, root: Root) -> Result<(), Error> {
        if let Some(found) = self.marker().await?
            && found != store_id
        {
            return Err(self.other(found, store_id));
        }
        let line = PutPayload::from(format!("{store_id}\n").into_bytes());
        if !self.is_local() {
            let path = self.path(keys::MARKER)?;
            self.within(0, self.object_store()?.put(&path, line)).await?;
            return Ok(());
        }
        let (path, unmarked) = (self.root()?, self.unmarked());
        blocking(move || {
            if root == Root::Make {
                make_root(&path)?;
            }
            Folder::open(&path)?.ok_or(unmarked)?.put(keys::MARKER, &line)
        })
        .await
    }

    /// Some of the media that lie in the store, marker or not: at most `count_max`.
    pub async fn stored_media(&self, count_max: usize) -> Result<Vec<MediaId>, Error> {
        if self.is_local() {
            let names = self.names(keys::MEDIA, count_max).await?;
            return Ok(names.iter().filter_map(|name| name.parse().ok()).collect());
        }
        let (store, folder) = (self.object_store()?, self.path(keys::MEDIA)?);
        let (mut found, mut offset) = (Vec::new(), folder.clone());
        while found.len() < count_max {
            let mut listed = store.list_with_offset(Some(&folder), &offset);
            let Some(meta) = self.within(0, listed.try_next()).await? else { break };
            let key = self.inner().backend.key(&meta.location)?;
            let Some(name) = key.split('/').nth(1) else { break };
            found.extend(name.parse::<MediaId>());
            // Behind everything of this medium, for a zero is the letter behind the slash.
            offset = self.path(&format!("{}/{name}0", keys::MEDIA))?;
        }
        Ok(found)
    }

    /// Some of the uploads whose bytes lie in a local store, marker or not: at most `count_max`.
    pub async fn spooled_uploads(&self, count_max: usize) -> Result<Vec<UploadId>, Error> {
        let mut found = Vec::new();
        if !self.is_local() {
            return Ok(found);
        }
        for shard in self.names(keys::SPOOL, count_max).await? {
            let names = self.names(&format!("{}/{shard}", keys::SPOOL), count_max).await?;
            found.extend(names.iter().filter_map(|name| name.parse::<UploadId>().ok()));
            if found.len() >= count_max {
                break;
            }
        }
        Ok(found)
    }

    async fn names(&self, folder: &str, names_max: usize) -> Result<Vec<String>, Error> {
        let (root, name) = (self.root()?, folder.to_owned());
        blocking(move || {
            Folder::open(&root)?.map_or_else(|| Ok(Vec::new()), |folder| folder.names(&name, names_max))
        })
        .await
    }

    fn unmarked(&self) -> Error {
        Error::Unmarked { root: self.config().url.clone() }
    }

    fn other(&self, found: StoreId, expected: StoreId) -> Error {
        Error::OtherStore { root: self.config().url.clone(), found, expected }
    }
}

//! The projection: KV buckets as a sled database that can list. Cursor and rows change in one transaction.
//!
//! A row is the record's revision followed by the record as MessagePack. Media are joined when read: document and asset lie
//! in trees of their own, so that neither has to wait for the other. Anything odd at opening (another schema version, a
//! bucket made anew, an absence longer than removals are kept, a database that will not open) moves the old files away and begins
//! again from the buckets.

mod activity;
mod list;
mod rows;
mod write;

use std::{
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use schemas::{KvRecord, document, job, media};

use crate::{IndexConfig, IndexError};
pub(crate) use rows::PartRow;
pub(crate) use write::{IndexChange, IndexEntry};

/// Version of the layout of keys and rows; another one on disk means building anew.
const SCHEMA_VERSION: u64 = 8;

/// Longest absence in milliseconds after which removals are still in the bucket: half the time that they are kept, since clocks
/// differ.
pub(crate) const AWAY_MS_MAX: u64 = schemas::REMOVAL_MARKER_MS / 2;

/// Longest wait for the threads of a database that was closed in this process.
const RELEASE_WAIT: Duration = Duration::from_secs(5);
const RELEASE_PAUSE: Duration = Duration::from_millis(5);

const SCHEMA_KEY: &[u8] = b"schema";

/// A bucket the projection follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum IndexBucket {
    /// Documents.
    Media,
    /// Technical metadata.
    Assets,
    /// Jobs and their parts.
    Jobs,
}

impl IndexBucket {
    /// Every bucket the projection follows.
    pub const ALL: [Self; 3] = [Self::Media, Self::Assets, Self::Jobs];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Media => document::MediaDocumentRecord::BUCKET,
            Self::Assets => media::MediaRecord::BUCKET,
            Self::Jobs => job::JobRecord::BUCKET,
        }
    }

    fn cursor_key(self) -> Vec<u8> {
        format!("cursor.{}", self.name()).into_bytes()
    }

    fn last_seen_key(self) -> Vec<u8> {
        format!("heard.{}", self.name()).into_bytes()
    }

    fn origin_key(self) -> Vec<u8> {
        format!("origin.{}", self.name()).into_bytes()
    }
}

/// Which bucket of which broker: a bucket made anew or restored to an earlier state is another one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BucketOrigin {
    /// The bucket.
    pub bucket: IndexBucket,
    /// Unix time in microseconds at which its stream was made.
    pub created_at_us: u64,
    /// Its newest sequence.
    pub last_sequence: u64,
}

/// The database, held by this process alone.
#[derive(Debug)]
pub struct IndexProjection {
    db: sled::Db,
    meta: sled::Tree,
    documents: sled::Tree,
    assets: sled::Tree,
    jobs: sled::Tree,
    parts: sled::Tree,
    counts: sled::Tree,
    order: sled::Tree,
    folder: PathBuf,
    _lock: File,
}

impl IndexProjection {
    /// Opens the projection in the configured folder, or begins a new one when what is there does not fit. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Locked`] when another process has it; [`IndexError::Folder`] or [`IndexError::Database`] when the disk fails.
    pub fn open(config: &IndexConfig, origins: &[BucketOrigin]) -> Result<Self, IndexError> {
        let folder = config.folder.clone();
        let lock = lock_folder(&folder)?;
        let database = folder.join("database");
        if folder.join("condemned").exists() {
            tracing::warn!("the projection was damaged, it is built anew");
            move_database_aside(&folder)?;
        }
        wait_for_release(&database)?;
        // A damaged file makes sled panic in places; that is an open error like any other.
        let opened = std::panic::catch_unwind(|| Self::open_trees(&database, config.cache_bytes_max));
        let trees = match opened {
            Ok(Ok(trees)) if trees.matches_origins(origins)? => trees,
            Ok(Ok(trees)) => {
                tracing::info!(
                    "the projection belongs to other buckets or another version, it is built anew"
                );
                // Closed before it is moved: the database writes to its files until then.
                drop(trees);
                move_database_aside(&folder)?;
                Self::open_trees(&database, config.cache_bytes_max)?
            }
            Ok(Err(error)) => {
                tracing::warn!(%error, "the projection can't be opened, it is built anew");
                move_database_aside(&folder)?;
                Self::open_trees(&database, config.cache_bytes_max)?
            }
            Err(_) => {
                tracing::warn!("the projection can't be opened, it is built anew");
                move_database_aside(&folder)?;
                Self::open_trees(&database, config.cache_bytes_max)?
            }
        };
        let projection = trees.into_projection(folder, lock);
        projection.write_origins(origins)?;
        Ok(projection)
    }

    fn open_trees(database: &Path, cache_bytes_max: u64) -> Result<ProjectionTrees, IndexError> {
        let db = sled::Config::new().path(database).cache_capacity(cache_bytes_max).open()?;
        Ok(ProjectionTrees {
            meta: db.open_tree("meta")?,
            documents: db.open_tree("documents")?,
            assets: db.open_tree("assets")?,
            jobs: db.open_tree("jobs")?,
            parts: db.open_tree("parts")?,
            counts: db.open_tree("counts")?,
            order: db.open_tree("order")?,
            db,
        })
    }

    /// Writes down what this projection is made of.
    fn write_origins(&self, origins: &[BucketOrigin]) -> Result<(), IndexError> {
        self.meta.insert(SCHEMA_KEY, &SCHEMA_VERSION.to_be_bytes())?;
        for origin in origins {
            self.meta.insert(origin.bucket.origin_key(), &origin.created_at_us.to_be_bytes())?;
        }
        self.flush()
    }

    /// Sequence up to which a bucket is in the projection; 0 at the beginning.
    ///
    /// # Errors
    /// [`IndexError::Database`] or [`IndexError::Damaged`].
    pub fn read_cursor(&self, bucket: IndexBucket) -> Result<u64, IndexError> {
        read_number(&self.meta, &bucket.cursor_key()).map(Option::unwrap_or_default)
    }

    /// Remembers that everything of a bucket is known that was stored up to this Unix time in milliseconds.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk fails.
    pub fn set_last_seen(&self, bucket: IndexBucket, stored_at_ms: u64) -> Result<(), IndexError> {
        self.meta.insert(bucket.last_seen_key(), &stored_at_ms.to_be_bytes())?;
        Ok(())
    }

    /// Waits until everything written is on disk. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk fails.
    pub fn flush(&self) -> Result<(), IndexError> {
        self.db.flush()?;
        Ok(())
    }

    /// Makes the next start build the projection anew.
    ///
    /// # Errors
    /// [`IndexError::Folder`] when the mark can't be written.
    pub fn mark_damaged(&self) -> Result<(), IndexError> {
        let path = self.folder.join("condemned");
        std::fs::write(&path, []).map_err(|source| IndexError::Folder { path, source })
    }

    /// Every tree's rows as bytes, in order: what a rebuilt projection must equal. Blocks, and holds all in memory.
    ///
    /// # Errors
    /// [`IndexError::Database`] when the disk fails.
    pub fn dump_rows(&self) -> Result<Vec<ProjectionRow>, IndexError> {
        let mut all = Vec::new();
        let trees = [
            ("meta", &self.meta),
            ("documents", &self.documents),
            ("assets", &self.assets),
            ("jobs", &self.jobs),
            ("parts", &self.parts),
            ("counts", &self.counts),
            ("order", &self.order),
        ];
        for (name, tree) in trees {
            for row in tree {
                let (key, value) = row?;
                all.push(ProjectionRow { tree: name, key: key.to_vec(), value: value.to_vec() });
            }
        }
        Ok(all)
    }
}

/// A row of a tree, as bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProjectionRow {
    /// Name of the tree.
    pub tree: &'static str,
    /// Key.
    pub key: Vec<u8>,
    /// Value.
    pub value: Vec<u8>,
}

/// An opened database before it is known to fit.
struct ProjectionTrees {
    db: sled::Db,
    meta: sled::Tree,
    documents: sled::Tree,
    assets: sled::Tree,
    jobs: sled::Tree,
    parts: sled::Tree,
    counts: sled::Tree,
    order: sled::Tree,
}

impl ProjectionTrees {
    /// True for a new database, and for one of this version whose buckets are still the same.
    fn matches_origins(&self, origins: &[BucketOrigin]) -> Result<bool, IndexError> {
        match read_number(&self.meta, SCHEMA_KEY) {
            Ok(None) => return Ok(self.meta.is_empty()),
            Ok(Some(SCHEMA_VERSION)) => {}
            Ok(Some(_)) | Err(IndexError::Damaged { .. }) => return Ok(false),
            Err(error) => return Err(error),
        }
        for origin in origins {
            let created = read_number(&self.meta, &origin.bucket.origin_key())?;
            let cursor = read_number(&self.meta, &origin.bucket.cursor_key())?.unwrap_or_default();
            if created != Some(origin.created_at_us) || cursor > origin.last_sequence {
                return Ok(false);
            }
            let last_seen_ms = read_number(&self.meta, &origin.bucket.last_seen_key())?;
            // Markers of removals end by themselves: after a longer absence a removed row would stay for ever.
            let was_away = last_seen_ms.is_some_and(|ms| nats::now_ms().saturating_sub(ms) > AWAY_MS_MAX);
            if was_away && cursor < origin.last_sequence {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn into_projection(self, folder: PathBuf, lock: File) -> IndexProjection {
        let Self { db, meta, documents, assets, jobs, parts, counts, order } = self;
        IndexProjection { db, meta, documents, assets, jobs, parts, counts, order, folder, _lock: lock }
    }
}

fn read_number(tree: &sled::Tree, key: &[u8]) -> Result<Option<u64>, IndexError> {
    let Some(value) = tree.get(key)? else { return Ok(None) };
    let bytes =
        value.as_ref().try_into().map_err(|_| IndexError::Damaged { what: "a number of meta".into() })?;
    Ok(Some(u64::from_be_bytes(bytes)))
}

/// Two processes on one database would destroy it, and moving it away under a running one as well.
fn lock_folder(folder: &Path) -> Result<File, IndexError> {
    let path = folder.join("lock");
    std::fs::create_dir_all(folder)
        .map_err(|source| IndexError::Folder { path: folder.to_owned(), source })?;
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(|source| IndexError::Folder { path: path.clone(), source })?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(IndexError::Locked { folder: folder.to_owned() }),
        Err(TryLockError::Error(source)) => Err(IndexError::Folder { path, source }),
    }
}

/// Waits until nobody holds the database: threads of one that was just closed in this process may, for a moment, and what can't be
/// opened is built anew.
pub(crate) fn wait_for_release(database: &Path) -> Result<(), IndexError> {
    let path = database.join("db");
    let begun = Instant::now();
    loop {
        // A file that can't be opened here is reported by the database itself.
        let Ok(file) = File::options().write(true).open(&path) else { return Ok(()) };
        match file.try_lock() {
            Ok(()) => return Ok(()),
            Err(TryLockError::WouldBlock) if begun.elapsed() < RELEASE_WAIT => {
                std::thread::sleep(RELEASE_PAUSE);
            }
            Err(TryLockError::WouldBlock) => return Err(IndexError::Locked { folder: database.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(IndexError::Folder { path, source }),
        }
    }
}

/// Moves the database aside; only the newest such copy is kept.
fn move_database_aside(folder: &Path) -> Result<(), IndexError> {
    let (database, aside) = (folder.join("database"), folder.join("set-aside"));
    let at = |path: &Path| {
        let path = path.to_owned();
        move |source| IndexError::Folder { path, source }
    };
    if aside.is_dir() {
        std::fs::remove_dir_all(&aside).map_err(at(&aside))?;
    } else if aside.exists() {
        std::fs::remove_file(&aside).map_err(at(&aside))?;
    }
    if database.exists() {
        std::fs::rename(&database, &aside).map_err(at(&aside))?;
    }
    let mark = folder.join("condemned");
    if mark.exists() {
        std::fs::remove_file(&mark).map_err(at(&mark))?;
    }
    Ok(())
}

//! The root of a local store, held open while it is worked in.
//!
//! What is looked at and what is changed lie below one and the same folder, whatever is mounted or moved meanwhile: a
//! marker that was seen belongs to the very folder that the bytes go to, and no path is ever made from the outside in.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::OwnedFd,
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
};

use object_store::PutPayload;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags};
use schemas::{ids::StoreId, keys};

use crate::StoreError;

/// Bytes that are read of a marker.
const MARKER_BYTES_MAX: u64 = 64;
const FILE_MODE: Mode = Mode::from_raw_mode(0o600);
const FOLDER_MODE: Mode = Mode::from_raw_mode(0o700);

/// An opened root.
#[derive(Debug)]
pub(crate) struct LocalRoot {
    root: OwnedFd,
}

impl LocalRoot {
    /// Opens the root; `None` when there is none.
    pub(crate) fn open(root: &Path) -> Result<Option<Self>, StoreError> {
        match rustix::fs::openat(CWD, root, folder_flags(), Mode::empty()).map_err(io::Error::from) {
            Ok(root) => Ok(Some(Self { root })),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(StoreError::from_io(error)),
        }
    }

    /// What the marker says; `None` when there is none, or one that says nothing.
    pub(crate) fn read_marker(&self) -> Result<Option<StoreId>, StoreError> {
        let file = match self.open_file(keys::MARKER, OFlags::RDONLY) {
            Ok(file) => file,
            Err(error) if is_absent(&error) => return Ok(None),
            Err(error) => return Err(StoreError::from_io(error)),
        };
        let mut text = String::new();
        io::Read::read_to_string(&mut io::Read::take(file, MARKER_BYTES_MAX), &mut text)
            .map_err(StoreError::from_io)?;
        Ok(text.trim().parse().ok())
    }

    /// Opens a file below the root.
    pub(crate) fn open_file(&self, key: &str, flags: OFlags) -> io::Result<File> {
        // A lock belongs to the open file: a child process that inherited it would hold the lock on.
        let file = rustix::fs::openat(&self.root, key, flags | OFlags::CLOEXEC, FILE_MODE)?;
        Ok(file.into())
    }

    /// True when there is something under the key.
    pub(crate) fn exists(&self, key: &str) -> Result<bool, StoreError> {
        match rustix::fs::statat(&self.root, key, AtFlags::empty()).map_err(io::Error::from) {
            Ok(_) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(StoreError::from_io(error)),
        }
    }

    /// Makes the folders above the key, each entry durable.
    pub(crate) fn create_parents(&self, key: &str) -> Result<(), StoreError> {
        let Some(folder) = parent_key(key) else { return Ok(()) };
        if self.exists(folder)? {
            return Ok(());
        }
        self.create_parents(folder)?;
        match rustix::fs::mkdirat(&self.root, folder, FOLDER_MODE).map_err(io::Error::from) {
            Ok(()) => self.sync_parent(folder),
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            Err(error) => Err(StoreError::from_io(error)),
        }
    }

    /// Makes the entry of a key durable.
    pub(crate) fn sync_parent(&self, key: &str) -> Result<(), StoreError> {
        let folder =
            rustix::fs::openat(&self.root, parent_key(key).unwrap_or("."), folder_flags(), Mode::empty())
                .map_err(|e| StoreError::from_io(e.into()))?;
        rustix::fs::fsync(folder).map_err(|e| StoreError::from_io(e.into()))
    }

    /// Puts one file in the place of another.
    pub(crate) fn rename_file(&self, from: &str, to: &str) -> Result<(), StoreError> {
        rustix::fs::renameat(&self.root, from, &self.root, to).map_err(|e| StoreError::from_io(e.into()))
    }

    /// Removes a file; false when there was none.
    pub(crate) fn remove_file(&self, key: &str) -> Result<bool, StoreError> {
        match rustix::fs::unlinkat(&self.root, key, AtFlags::empty()).map_err(io::Error::from) {
            Ok(()) => Ok(true),
            Err(error) if is_absent(&error) => Ok(false),
            Err(error) => Err(StoreError::from_io(error)),
        }
    }

    /// Removes the folder above the key unless something else is in it.
    pub(crate) fn remove_empty_parent(&self, key: &str) {
        let Some(folder) = parent_key(key) else { return };
        // Fails while anything else of the medium is there, and that is meant.
        rustix::fs::unlinkat(&self.root, folder, AtFlags::REMOVEDIR).ok();
    }

    /// Removes a folder and all that is in it; an absent one is fine.
    pub(crate) fn remove_folder(&self, folder: &str) -> Result<(), StoreError> {
        for name in self.list_names(folder, usize::MAX)? {
            let key = format!("{folder}/{name}");
            match rustix::fs::unlinkat(&self.root, &key, AtFlags::empty()).map_err(io::Error::from) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::IsADirectory => self.remove_folder(&key)?,
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(StoreError::from_io(error)),
            }
        }
        match rustix::fs::unlinkat(&self.root, folder, AtFlags::REMOVEDIR).map_err(io::Error::from) {
            Err(error) if !is_absent(&error) => Err(StoreError::from_io(error)),
            _ => Ok(()),
        }
    }

    /// Stores bytes durably under the key, replacing what was there.
    pub(crate) fn put_file(&self, key: &str, payload: &PutPayload) -> Result<(), StoreError> {
        static STAGED: AtomicU64 = AtomicU64::new(0);
        self.create_parents(key)?;
        // The name of an upload under way as the listings know it, so that none of them shows it.
        let number = STAGED.fetch_add(1, Ordering::Relaxed);
        let staged = format!("{key}#{}{number}", std::process::id());
        let written = self.write_file(&staged, payload).and_then(|()| self.rename_file(&staged, key));
        // A full disk would stay full of what nobody reads.
        if written.is_err() {
            self.remove_file(&staged).ok();
        }
        written?;
        // A rename survives a power cut only once its folder is synced.
        self.sync_parent(key)
    }

    fn write_file(&self, key: &str, payload: &PutPayload) -> Result<(), StoreError> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC;
        let mut file = self.open_file(key, flags).map_err(StoreError::from_io)?;
        for piece in payload {
            file.write_all(piece).map_err(StoreError::from_io)?;
        }
        // Before the caller renames it: after a power cut the final name may otherwise show an empty file.
        file.sync_all().map_err(StoreError::from_io)
    }

    /// Names in a folder, at most so many, in no order; none when the folder is absent.
    pub(crate) fn list_names(&self, folder: &str, names_max: usize) -> Result<Vec<String>, StoreError> {
        let opened = rustix::fs::openat(&self.root, folder, folder_flags(), Mode::empty());
        let folder = match opened.map_err(io::Error::from) {
            Ok(folder) => folder,
            Err(error) if is_absent(&error) => return Ok(Vec::new()),
            Err(error) => return Err(StoreError::from_io(error)),
        };
        let mut names = Vec::new();
        for entry in Dir::read_from(&folder).map_err(|e| StoreError::from_io(e.into()))? {
            let entry = entry.map_err(|e| StoreError::from_io(e.into()))?;
            let name = entry.file_name().to_string_lossy();
            if names.len() < names_max && !matches!(&*name, "." | "..") {
                names.push(name.into_owned());
            }
        }
        Ok(names)
    }
}

/// Makes a folder and the missing ones above it, each entry durable: the root of a new store.
pub(crate) fn create_root(root: &Path) -> Result<(), StoreError> {
    if root.is_dir() {
        return Ok(());
    }
    let above =
        root.parent().ok_or_else(|| StoreError::Invalid("the root of the disk is no folder".into()))?;
    create_root(above)?;
    match rustix::fs::mkdirat(CWD, root, FOLDER_MODE).map_err(io::Error::from) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(StoreError::from_io(error)),
    }
    OpenOptions::new()
        .read(true)
        .open(above)
        .and_then(|folder| folder.sync_all())
        .map_err(StoreError::from_io)
}

/// True when nothing is there, rather than something that can't be reached.
pub(crate) fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn folder_flags() -> OFlags {
    OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC
}

fn parent_key(key: &str) -> Option<&str> {
    key.rsplit_once('/').map(|(folder, _)| folder)
}

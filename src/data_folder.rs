//! The data folder: private to its user, and tried before anything else is started, since what uses it would fail later and say less.
//!
//! Limits: only the folder and its own ones right below it are tried; nothing is left behind.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
};

use schemas::fault::io_advice;

/// Folder in the data folder that belongs to the embedded broker.
pub const BROKER_FOLDER: &str = "nats";
/// Folders in it that are written to.
const OWN_FOLDERS: [&str; 3] = [BROKER_FOLDER, "index", "store"];

/// The data folder can't be used; says why, and what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the data folder {path} can't be used: {reason}; {advice}, or name another with --data-dir")]
pub struct DataFolderError {
    path: PathBuf,
    /// What was found.
    reason: String,
    /// What to do about it.
    advice: String,
}

/// Makes the folder when missing, lets nobody else on this machine look into it, and tries whether it can be written.
///
/// # Errors
/// When it can't be made or used: what is in its way, and what to do.
pub fn prepare_data_folder(path: &Path) -> Result<(), DataFolderError> {
    let explain = |error: &io::Error| explain_failure(path, path, error);
    DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| explain(&error))?;
    // Again, since the mode of a new folder is cut by the mask of the process, and one that was there keeps its own.
    fs::set_permissions(path, Permissions::from_mode(0o700)).map_err(|error| explain(&error))?;
    try_data_folder(path)
}

/// Tries whether the folder and those in it can be written, as far as they are there.
///
/// # Errors
/// As [`prepare_data_folder`].
pub fn try_data_folder(path: &Path) -> Result<(), DataFolderError> {
    let place = nearest_existing(path);
    tempfile::tempfile_in(&place).map_err(|error| explain_failure(path, &place, &error))?;
    if place != std::path::absolute(path).unwrap_or_default() {
        return Ok(());
    }
    // What else is there, such as the lost+found of a disk, is none of ours.
    for folder in OWN_FOLDERS.map(|name| path.join(name)) {
        if folder.is_dir() {
            tempfile::tempfile_in(&folder).map_err(|error| explain_failure(path, &folder, &error))?;
        }
    }
    Ok(())
}

/// A folder, or the one it will be made in.
pub fn nearest_existing(folder: &Path) -> PathBuf {
    let shown = std::path::absolute(folder).unwrap_or_else(|_| folder.to_owned());
    shown.ancestors().find(|path| path.exists()).unwrap_or_else(|| Path::new("/")).to_owned()
}

/// What `error` of using `place`, which is or belongs to the data folder `path`, means.
fn explain_failure(path: &Path, place: &Path, error: &io::Error) -> DataFolderError {
    let found = nearest_existing(place);
    let shown = found.display();
    let us = rustix::process::geteuid().as_raw();
    let metadata = fs::metadata(&found).ok();
    let owner = metadata.as_ref().map(MetadataExt::uid);
    let (reason, advice) = match (metadata, owner) {
        (Some(metadata), _) if !metadata.is_dir() => {
            (format!("{shown} is a file"), io_advice(&io::ErrorKind::NotADirectory.into()).to_owned())
        }
        (_, Some(owner)) if error.kind() == io::ErrorKind::PermissionDenied && owner != us => (
            format!("{shown} belongs to another user (number {owner}, and this runs as {us})"),
            format!("run this as that user, or give it away by `chown -R {us} {shown}`"),
        ),
        _ if error.kind() == io::ErrorKind::PermissionDenied => (
            format!("{shown} can't be written by the user that this runs as (number {us})"),
            format!("let it, by `chmod u+rwx {shown}`"),
        ),
        _ => (format!("{shown}: {error}"), io_advice(error).to_owned()),
    };
    DataFolderError { path: path.to_owned(), reason, advice }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_the_way_is_named_with_a_way_out() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("file");
        fs::write(&file, b"").unwrap();
        for path in [file.clone(), file.join("below")] {
            let said = prepare_data_folder(&path).unwrap_err().to_string();
            let wanted = format!("{} is a file; move the file away", file.display());
            assert!(said.contains(&wanted) && said.contains("--data-dir"), "{said}");
        }
        let said = prepare_data_folder(Path::new("/proc/streamgate")).unwrap_err().to_string();
        assert!(said.starts_with("the data folder /proc/streamgate can't be used: /proc"), "{said}");
        prepare_data_folder(&dir.path().join("a/b")).unwrap();
        assert_eq!(fs::metadata(dir.path().join("a/b")).unwrap().permissions().mode() & 0o777, 0o700);
    }

    #[test]
    fn each_refusal_of_the_system_has_its_own_advice() {
        let dir = tempfile::tempdir().unwrap();
        let said = |kind: io::ErrorKind| explain_failure(dir.path(), dir.path(), &kind.into()).to_string();
        assert!(said(io::ErrorKind::ReadOnlyFilesystem).contains("mount its disk so that it can be written"));
        assert!(said(io::ErrorKind::StorageFull).contains("make room"));
        assert!(said(io::ErrorKind::PermissionDenied).contains("chmod u+rwx"));
        let foreign =
            explain_failure(Path::new("/"), Path::new("/"), &io::ErrorKind::PermissionDenied.into());
        let is_root = rustix::process::geteuid().is_root();
        assert!(is_root || foreign.to_string().contains("belongs to another user"), "{foreign}");
    }

    #[test]
    fn what_others_keep_in_the_folder_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        for (name, is_fine) in [("lost+found", true), ("index", false)] {
            let folder = dir.path().join(name);
            fs::create_dir(&folder).unwrap();
            fs::set_permissions(&folder, Permissions::from_mode(0o000)).unwrap();
            // Root writes everywhere.
            let is_root = rustix::process::geteuid().is_root();
            assert_eq!(prepare_data_folder(dir.path()).is_ok(), is_fine || is_root, "{name}");
            fs::set_permissions(&folder, Permissions::from_mode(0o700)).unwrap();
        }
    }

    #[test]
    fn a_folder_is_tried_without_making_it() {
        let dir = tempfile::tempdir().unwrap();
        let below = dir.path().join("a/b");
        assert!(try_data_folder(&below).is_ok() && !below.exists());
        assert!(try_data_folder(dir.path()).is_ok());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}

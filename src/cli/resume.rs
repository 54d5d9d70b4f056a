//! Uploads that were cut, remembered on this machine: one small file each, so that commands running at once don't meet.
//!
//! A file is found again by path, size, time of change and server; anything else is another upload.
//!
//! Limits: what was remembered more than [`AGE_DAYS_MAX`] days ago is forgotten; a server keeps an upload for a day.

use std::{
    env, fs, io,
    os::unix::{ffi::OsStrExt, fs::DirBuilderExt, fs::MetadataExt},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};

/// Age in days at which a cut upload is forgotten.
pub const AGE_DAYS_MAX: u64 = 7;

/// What makes an upload the same one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadIdentity {
    /// The file, absolute and without links.
    pub path: PathBuf,
    /// Its size in bytes.
    pub size_bytes: u64,
    /// When it was changed last: Unix time in seconds, and nanoseconds.
    pub modified: (i64, i64),
    /// Address of the server.
    pub server: String,
}

impl UploadIdentity {
    /// Identity of the file at `path` for `server`.
    ///
    /// # Errors
    /// When the file is not there.
    pub fn from_file(path: &Path, server: &str) -> io::Result<Self> {
        let path = path.canonicalize()?;
        let metadata = fs::metadata(&path)?;
        Ok(Self {
            size_bytes: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            server: server.to_owned(),
            path,
        })
    }

    fn file_key(&self) -> String {
        let mut digest = blake3::Hasher::new();
        for part in [
            self.path.as_os_str().as_bytes(),
            &self.size_bytes.to_be_bytes(),
            &self.modified.0.to_be_bytes(),
            &self.modified.1.to_be_bytes(),
            self.server.as_bytes(),
        ] {
            // The length keeps the parts apart.
            digest.update(&part.len().to_be_bytes()).update(part);
        }
        digest.finalize().to_hex().to_string()
    }
}

/// A cut upload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct InterruptedUpload {
    /// Path of the upload on the server.
    pub upload_path: String,
    /// The medium it becomes.
    pub media_id: String,
    /// Name of the file, for a person who looks in here.
    pub file: String,
    /// True when it was begun with an encode that waits.
    #[serde(default)]
    pub encode_paused: bool,
}

/// Where cut uploads are remembered.
#[derive(Debug, Clone)]
pub struct UploadResumeStore {
    folder: PathBuf,
}

impl UploadResumeStore {
    /// The memory of this user (XDG Base Directory Specification); `None` for a user without a home.
    pub fn of_user() -> Option<Self> {
        let named = |name: &str| env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
        let state = named("XDG_STATE_HOME").or_else(|| Some(named("HOME")?.join(".local/state")))?;
        Some(Self::from_folder(state.join("streamgate/uploads")))
    }

    /// A memory in `folder`.
    pub const fn from_folder(folder: PathBuf) -> Self {
        Self { folder }
    }

    fn record_path(&self, identity: &UploadIdentity) -> PathBuf {
        self.folder.join(format!("{}.json", identity.file_key()))
    }

    /// What is remembered of this upload; a file that can't be read is none.
    pub fn find_upload(&self, identity: &UploadIdentity) -> Option<InterruptedUpload> {
        serde_json::from_slice(&fs::read(self.record_path(identity)).ok()?).ok()
    }

    /// Remembers an upload, and forgets old ones.
    ///
    /// # Errors
    /// When the folder can't be written.
    pub fn save_upload(&self, identity: &UploadIdentity, remembered: &InterruptedUpload) -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        self.remove_old();
        let (file, fresh) = (self.record_path(identity), self.record_path(identity).with_extension("new"));
        fs::write(&fresh, serde_json::to_vec(remembered)?)?;
        // Renamed: another process that uploads the same file reads either note whole.
        fs::rename(&fresh, &file)
    }

    /// Forgets an upload.
    pub fn remove_upload(&self, identity: &UploadIdentity) {
        // Nothing remembered is as good; a file that stays is asked about and refused by the server.
        fs::remove_file(self.record_path(identity)).ok();
    }

    fn remove_old(&self) {
        let Some(oldest) = SystemTime::now().checked_sub(Duration::from_secs(AGE_DAYS_MAX * 24 * 3_600))
        else {
            return;
        };
        for entry in fs::read_dir(&self.folder).into_iter().flatten().flatten() {
            let changed = entry.metadata().and_then(|metadata| metadata.modified());
            if changed.is_ok_and(|changed| changed < oldest) {
                fs::remove_file(entry.path()).ok();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn remembered(name: &str) -> InterruptedUpload {
        InterruptedUpload {
            upload_path: format!("v1/uploads/{name}"),
            media_id: "m".into(),
            file: name.into(),
            encode_paused: false,
        }
    }

    #[test]
    fn a_file_is_found_again_until_it_changes() {
        let dir = tempfile::tempdir().unwrap();
        let memory = UploadResumeStore::from_folder(dir.path().join("state"));
        let file = dir.path().join("film.mp4");
        fs::write(&file, b"one").unwrap();
        let first = UploadIdentity::from_file(&file, "http://a/").unwrap();
        assert_eq!(memory.find_upload(&first), None);
        memory.save_upload(&first, &remembered("1")).unwrap();
        assert_eq!(
            memory.find_upload(&UploadIdentity::from_file(&file, "http://a/").unwrap()),
            Some(remembered("1"))
        );
        assert_eq!(
            memory.find_upload(&UploadIdentity::from_file(&file, "http://b/").unwrap()),
            None,
            "another server"
        );
        let other = UploadIdentity { modified: (first.modified.0, first.modified.1 + 1), ..first.clone() };
        assert_eq!(memory.find_upload(&other), None, "changed in between");
        fs::write(&file, b"three").unwrap();
        assert_eq!(
            memory.find_upload(&UploadIdentity::from_file(&file, "http://a/").unwrap()),
            None,
            "another size"
        );
        memory.remove_upload(&first);
        assert_eq!(memory.find_upload(&first), None);
    }

    #[test]
    fn a_link_is_the_file_it_leads_to() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("film.mp4"), dir.path().join("link.mp4"));
        fs::write(&file, b"one").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert_eq!(
            UploadIdentity::from_file(&file, "s").unwrap(),
            UploadIdentity::from_file(&link, "s").unwrap()
        );
        assert!(UploadIdentity::from_file(&dir.path().join("none"), "s").is_err());
    }

    #[test]
    fn what_is_damaged_or_old_is_forgotten() {
        let dir = tempfile::tempdir().unwrap();
        let memory = UploadResumeStore::from_folder(dir.path().to_owned());
        let identity = |name: &str| UploadIdentity {
            path: name.into(),
            size_bytes: 1,
            modified: (1, 1),
            server: "s".into(),
        };
        memory.save_upload(&identity("old"), &remembered("old")).unwrap();
        let old = SystemTime::now() - Duration::from_secs((AGE_DAYS_MAX * 24 + 1) * 3_600);
        fs::File::options()
            .write(true)
            .open(memory.record_path(&identity("old")))
            .unwrap()
            .set_modified(old)
            .unwrap();
        fs::write(memory.record_path(&identity("damaged")), b"{").unwrap();
        assert_eq!(memory.find_upload(&identity("damaged")), None);
        memory.save_upload(&identity("new"), &remembered("new")).unwrap();
        assert_eq!(memory.find_upload(&identity("old")), None);
        assert_eq!(memory.find_upload(&identity("new")), Some(remembered("new")));
    }
}

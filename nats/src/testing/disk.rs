//! A small disk for one test, which it can fill.

use std::{
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
    process::Command,
};

/// Where the small disk is, in the process of the test that has one.
const DISK: &str = "STREAMGATE_TEST_SMALL_DISK";

/// Namespaces that anybody may make.
const OWN_USER: &[&str] = &["--user", "--map-root-user", "--mount"];
/// What is left in a chroot, where the kernel allows no user namespace (user_namespaces(7), EPERM), to root. Its root folder
/// need not be a mount point, so propagation can't be changed.
const ROOT_ALONE: &[&str] = &["--mount", "--propagation", "unchanged"];

/// A disk in memory, seen by one process alone and gone with it.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// The disk of `size_bytes` for the test called `name` (its path within the test program). The first call has none: it runs
    /// that test again in a process with a user and mount namespace of its own, and answers `None` once it has passed there.
    ///
    /// # Panics
    /// When the test fails in that process, or the host allows neither user namespaces nor mounts.
    pub fn for_test(name: &str, size_bytes: u64) -> Option<Self> {
        if let Some(path) = std::env::var_os(DISK).map(PathBuf::from) {
            return Some(Self { path });
        }
        let folder = tempfile::tempdir().expect("a temporary folder");
        let script = format!("mount -t tmpfs -o size={size_bytes} tmpfs \"$0\" && exec \"$@\"");
        let may = Command::new("unshare").args(OWN_USER).arg("true").output().expect("unshare of util-linux");
        let made = Command::new("unshare")
            .args(if may.status.success() { OWN_USER } else { ROOT_ALONE })
            .args(["sh", "-c", &script])
            .arg(folder.path())
            .arg(std::env::current_exe().expect("the test program"))
            .args(["--exact", name, "--nocapture"])
            .env(DISK, folder.path())
            .output()
            .expect("unshare of util-linux");
        let said =
            format!("{}{}", String::from_utf8_lossy(&made.stdout), String::from_utf8_lossy(&made.stderr));
        assert!(made.status.success(), "without the right to mount there is no small disk here, or: {said}");
        assert!(said.contains("1 passed"), "{said}");
        None
    }

    /// Its root folder.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes all the room there is.
    ///
    /// # Panics
    /// When nothing can be made there.
    pub fn fill(&self) {
        let mut file = File::create(self.filler()).expect("a file");
        while file.write_all(&[0; 4_096]).is_ok() {}
    }

    /// Gives back what [`SmallDisk::fill`] took.
    ///
    /// # Panics
    /// When it was not filled.
    pub fn free(&self) {
        fs::remove_file(self.filler()).expect("a full disk");
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }
}

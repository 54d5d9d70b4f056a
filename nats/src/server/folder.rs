//! The broker's data folder: lock, keys, configuration, the port of the last start.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use nkeys::KeyPair;

use super::{BrokerConfig, BrokerError, PERMISSIONS};
use crate::Role;

/// How long a server may hold the lock after its parent was killed.
const ORPHAN_MAX: Duration = Duration::from_secs(10);
/// How long a process that was killed may still seem to be there.
const OWNER_MAX: Duration = Duration::from_secs(2);
/// File with the port of the last start.
pub(super) const PORT: &str = "port";
/// Files with the seeds of all roles, mode 0600.
pub(super) const SEEDS_FILES: [&str; 2] = [Role::Admin.seeds_file(), Role::Reader.seeds_file()];
/// File that is locked while keys or the configuration made of them are read and written: [`super::renew_key`] does so beside a server.
const KEYS_LOCK: &str = "keys-lock";
/// File that is locked as long as a server, or the process that starts it, lives.
pub(super) const LOCK: &str = "lock";
/// The server's configuration, written at every start.
pub(super) const CONFIG: &str = "nats-server.conf";
const POLL: Duration = Duration::from_millis(5);

/// An open and locked data folder.
#[derive(Debug)]
pub(super) struct BrokerDataDir {
    path: PathBuf,
    lock: File,
}

impl BrokerDataDir {
    /// Makes the folder when missing and locks it.
    pub(super) async fn open(path: &Path) -> Result<Self, BrokerError> {
        let path = std::path::absolute(path).map_err(|source| file_error(path, source))?;
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(path.join("ports"))
            .map_err(|source| file_error(&path, source))?;
        let file = path.join(LOCK);
        let lock = OpenOptions::new()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&file)
            .map_err(|source| file_error(&file, source))?;
        let folder = Self { path, lock };
        folder.wait_for_lock().await?;
        folder.replace_file("owner", std::process::id().to_string().as_bytes(), 0o600)?;
        Ok(folder)
    }

    /// Waits for a server whose parent is gone, and for a parent that is about to be; both end within moments.
    async fn wait_for_lock(&self) -> Result<(), BrokerError> {
        // Counted in looks, not by the clock: a machine that stood still in between has waited for nobody.
        let mut looks = 0;
        loop {
            match self.lock.try_lock() {
                Ok(()) => return Ok(()),
                Err(TryLockError::WouldBlock) => {}
                Err(TryLockError::Error(source)) => return Err(file_error(&self.file_path(LOCK), source)),
            }
            let owner = self.read_number("owner").filter(|pid| super::child::is_alive(*pid));
            let wait_max = if owner.is_some() { OWNER_MAX } else { ORPHAN_MAX };
            looks += 1;
            if POLL * looks >= wait_max {
                return Err(BrokerError::InUse { path: self.path.clone(), pid: owner });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// A second handle of the locked file, which keeps the lock while it is open in any process.
    pub(super) fn clone_lock(&self) -> Result<File, BrokerError> {
        self.lock.try_clone().map_err(|source| file_error(&self.file_path(LOCK), source))
    }

    pub(super) fn file_path(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }

    /// A number stored in a file, if there is one.
    pub(super) fn read_number<N: std::str::FromStr>(&self, name: &str) -> Option<N> {
        fs::read_to_string(self.file_path(name)).ok()?.trim().parse().ok()
    }

    /// Replaces a file as a whole.
    pub(super) fn replace_file(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), BrokerError> {
        replace_file(&self.file_path(name), bytes, mode)
    }

    /// The users' keys: made at the first start, and for roles that are new.
    pub(super) fn load_or_create_keys(&self) -> Result<BrokerKeys, BrokerError> {
        let _lock = lock_keys(&self.path)?;
        self.load_or_create_locked()
    }

    fn load_or_create_locked(&self) -> Result<BrokerKeys, BrokerError> {
        let mut text = String::new();
        for name in SEEDS_FILES {
            match fs::read_to_string(self.file_path(name)) {
                Ok(lines) => text.extend([lines.as_str(), "\n"]),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(source) => return Err(file_error(&self.file_path(name), source)),
            }
        }
        let mut fresh = false;
        let mut keys = Vec::new();
        for role in Role::ALL {
            let bad = |source| BrokerError::Keys { path: self.file_path(role.seeds_file()), source };
            let stored = text.lines().find_map(|line| line.strip_prefix(role.name())?.strip_prefix(' '));
            fresh |= stored.is_none();
            let pair = stored.map_or_else(|| Ok(KeyPair::new_user()), |seed| KeyPair::from_seed(seed.trim()));
            let pair = pair.map_err(bad)?;
            keys.push((role, pair.seed().map_err(bad)?, pair.public_key()));
        }
        let keys = BrokerKeys(keys);
        if fresh {
            for name in SEEDS_FILES {
                self.replace_file(name, keys.render_seeds(name).as_bytes(), 0o600)?;
            }
        }
        Ok(keys)
    }

    /// Writes the server's configuration from the keys as they are stored, and answers those; `None` when they are `known` already.
    pub(super) fn write_config_of_keys(
        &self,
        config: &BrokerConfig,
        port: i32,
        known: Option<&BrokerKeys>,
    ) -> Result<Option<BrokerKeys>, BrokerError> {
        let _lock = lock_keys(&self.path)?;
        let keys = self.load_or_create_locked()?;
        if known == Some(&keys) {
            return Ok(None);
        }
        self.write_config(config, &keys, port)?;
        Ok(Some(keys))
    }

    /// Writes the server's configuration; port -1 lets it choose one.
    fn write_config(&self, config: &BrokerConfig, keys: &BrokerKeys, port: i32) -> Result<(), BrokerError> {
        self.replace_file(CONFIG, self.render_config(config, keys, port).as_bytes(), 0o600)
    }

    fn render_config(&self, config: &BrokerConfig, keys: &BrokerKeys, port: i32) -> String {
        let quoted = |name: &str| {
            let path = self.file_path(name).display().to_string();
            format!("\"{}\"", path.replace('\\', "\\\\").replace('"', "\\\""))
        };
        let users = |is_reader: bool| {
            let of_account = keys.0.iter().filter(|(role, ..)| (*role == Role::Reader) == is_reader);
            let lines = of_account.map(|(role, _, public)| {
                let variable = role.name().to_ascii_uppercase();
                format!("    {{ nkey: {public}, permissions: $PERMISSIONS_{variable} }}\n")
            });
            lines.collect::<String>()
        };
        // `sync_interval: always`: by default a confirmed message is on disk within two minutes only, and a power
        // cut loses it.
        format!(
            "# Written at every start.\n\
             server_name: streamgate\n\
             host: 127.0.0.1\n\
             port: {port}\n\
             http: \"127.0.0.1:-1\"\n\
             ports_file_dir: {ports}\n\
             log_file: {log}\n\
             logfile_size_limit: 8MB\n\
             logfile_max_num: 2\n\
             max_payload: 1MB\n\
             max_connections: 1000\n\
             authorization {{ timeout: {authentication_s} }}\n\
             jetstream {{\n\
             \x20 store_dir: {store}\n\
             \x20 max_file_store: {file_bytes}\n\
             \x20 max_memory_store: {memory_bytes}\n\
             \x20 sync_interval: always\n\
             \x20 strict: true\n\
             }}\n\
             {PERMISSIONS}\n\
             accounts {{\n\
             \x20 MEDIA {{\n   jetstream: enabled\n   exports: $MEDIA_EXPORTS\n   imports: $MEDIA_IMPORTS\n   users: [\n{users}   ]\n  }}\n\
             \x20 MIRRORS {{\n   jetstream: enabled\n   exports: $MIRRORS_EXPORTS\n   imports: $MIRRORS_IMPORTS\n  }}\n\
             \x20 READERS {{\n   limits: $READERS_LIMITS\n   imports: $READERS_IMPORTS\n   users: [\n{readers}   ]\n  }}\n}}\n",
            ports = quoted("ports"),
            log = quoted("nats-server.log"),
            store = quoted("store"),
            users = users(false),
            readers = users(true),
            authentication_s = Duration::from_millis(config.authentication_ms_max).as_secs_f64(),
            file_bytes = config.file_store_bytes_max,
            memory_bytes = config.memory_store_bytes_max,
        )
    }
}

/// Seed and public key of each role.
#[derive(PartialEq, Eq)]
pub(super) struct BrokerKeys(Vec<(Role, String, String)>);

impl std::fmt::Debug for BrokerKeys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.0.iter().map(|(role, _, public)| (role, public))).finish()
    }
}

impl BrokerKeys {
    pub(super) fn seed(&self, role: Role) -> &str {
        self.0.iter().find(|(other, ..)| *other == role).map_or("", |(_, seed, _)| seed)
    }

    /// The lines of one of [`SEEDS_FILES`].
    fn render_seeds(&self, file: &str) -> String {
        let of_file = self.0.iter().filter(|(role, ..)| role.seeds_file() == file);
        of_file.flat_map(|(role, seed, _)| [role.name(), " ", seed, "\n"]).collect()
    }
}

/// Waits until nobody else reads or writes keys in `data_dir`, which takes moments; they are locked until the file is dropped.
pub(super) fn lock_keys(data_dir: &Path) -> Result<File, BrokerError> {
    let path = data_dir.join(KEYS_LOCK);
    let mut options = OpenOptions::new();
    let locked = options.create(true).truncate(false).write(true).mode(0o600).open(&path).and_then(|file| {
        file.lock()?;
        Ok(file)
    });
    locked.map_err(|source| file_error(&path, source))
}

/// Replaces a file as a whole.
pub(super) fn replace_file(file: &Path, bytes: &[u8], mode: u32) -> Result<(), BrokerError> {
    let mut fresh = file.as_os_str().to_owned();
    fresh.push(".new");
    let written = || {
        let mut out = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(&fresh)?;
        out.write_all(bytes)?;
        // Before the rename: after a power cut the new name may otherwise hold an empty file, and without seeds
        // no role gets in.
        out.sync_all()?;
        fs::rename(&fresh, file)
    };
    written().map_err(|source: io::Error| file_error(file, source))
}

pub(super) fn file_error(path: &Path, source: io::Error) -> BrokerError {
    BrokerError::File { path: path.to_path_buf(), source }
}

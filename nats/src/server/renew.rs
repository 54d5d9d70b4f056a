//! Taking a key back: a role of an embedded broker gets another one, and who has the old one is let in no more.
//!
//! Limits: a server that runs has [`CONFIRMATION_MAX`] to refuse the old key.

use std::{
    fs::{self, File, TryLockError},
    path::Path,
    time::Duration,
};

use nkeys::KeyPair;
use rustix::process::Signal;

use super::{
    BrokerError, child,
    folder::{CONFIG, LOCK, file_error, lock_keys, replace_file},
    last_started_broker,
};
use crate::{Bus, BusConfig, Role};

/// Longest wait for a server that runs to refuse the old key; one that is being started reads its store first.
pub(super) const CONFIRMATION_MAX: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(50);

/// From when on the old key is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewedKey {
    /// It was tried, and is refused.
    InForce,
    /// No server runs: the next one knows the new key alone.
    AtNextStart,
    /// A server runs, and did not refuse it within ten seconds.
    Unconfirmed,
}

/// Gives `role` another key in the folder of an embedded broker. A server that runs takes it, and ends the connections that were
/// made with the old one.
///
/// Meant for [`Role::Reader`]: processes of ours have read their seeds already.
///
/// # Errors
/// [`BrokerError::File`] when a file can't be read or written; [`BrokerError::Keys`] when the seed that is stored is none.
pub async fn renew_key(data_dir: &Path, role: Role) -> Result<RenewedKey, BrokerError> {
    let [old_seed, new_seed] = replace_seed(data_dir, role)?;
    if !is_locked(data_dir)? {
        return Ok(RenewedKey::AtNextStart);
    }
    if let Some(pid) = find_server(data_dir) {
        child::send_signal(pid, Signal::HUP);
    }
    // A server that is not found is being started, and reads the seeds when it is ready.
    let confirmed = async {
        while !is_let_in(data_dir, role, &new_seed).await || is_let_in(data_dir, role, &old_seed).await {
            tokio::time::sleep(POLL).await;
        }
    };
    let confirmed = tokio::time::timeout(CONFIRMATION_MAX, confirmed).await;
    Ok(confirmed.map_or(RenewedKey::Unconfirmed, |()| RenewedKey::InForce))
}

/// Stores another seed and the configuration with its public half; answers the old one and the new one.
fn replace_seed(data_dir: &Path, role: Role) -> Result<[String; 2], BrokerError> {
    let (seeds_file, config_file) = (data_dir.join(role.seeds_file()), data_dir.join(CONFIG));
    let _lock = lock_keys(data_dir)?;
    let read = |file: &Path| fs::read_to_string(file).map_err(|source| file_error(file, source));
    let (seeds, config) = (read(&seeds_file)?, read(&config_file)?);
    let bad = |source| BrokerError::Keys { path: seeds_file.clone(), source };
    let is_of_role = |line: &&str| line.strip_prefix(role.name()).is_some_and(|rest| rest.starts_with(' '));
    let old_seed = seeds.lines().find(is_of_role).and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let old_key = KeyPair::from_seed(old_seed.trim()).map_err(bad)?.public_key();
    let pair = KeyPair::new_user();
    let new_seed = pair.seed().map_err(bad)?;
    let others = seeds.lines().filter(|line| !is_of_role(line)).map(|line| format!("{line}\n"));
    let renewed = format!("{}{} {new_seed}\n", others.collect::<String>(), role.name());
    // The seeds first: each start of the server writes its configuration from them.
    replace_file(&seeds_file, renewed.as_bytes(), 0o600)?;
    replace_file(&config_file, config.replace(&old_key, &pair.public_key()).as_bytes(), 0o600)?;
    Ok([old_seed.trim().to_owned(), new_seed])
}

/// True when a server, or the process that starts it, lives: it holds the lock.
fn is_locked(data_dir: &Path) -> Result<bool, BrokerError> {
    let path = data_dir.join(LOCK);
    match File::open(&path).map(|file| file.try_lock_shared()) {
        Ok(Ok(())) => Ok(false),
        Ok(Err(TryLockError::WouldBlock)) => Ok(true),
        Ok(Err(TryLockError::Error(source))) | Err(source) => Err(file_error(&path, source)),
    }
}

/// The process of the server that was last started in `data_dir`, if it lives. Process ids come back: it has to have been started with
/// the configuration in `data_dir`.
fn find_server(data_dir: &Path) -> Option<u32> {
    let config_file = fs::canonicalize(data_dir.join(CONFIG)).ok()?;
    let files = fs::read_dir(data_dir.join("ports")).ok()?.filter_map(Result::ok);
    let pids = files.filter_map(|file| {
        let name = file.file_name();
        name.to_str()?.strip_prefix("nats-server_")?.strip_suffix(".ports")?.parse().ok()
    });
    let has_config = |pid: &u32| {
        let Ok(line) = fs::read(format!("/proc/{pid}/cmdline")) else { return false };
        let mut words = line.split(|byte| *byte == 0).filter_map(|word| std::str::from_utf8(word).ok());
        words.any(|word| !word.is_empty() && fs::canonicalize(word).is_ok_and(|path| path == config_file))
    };
    pids.into_iter().find(|pid| child::is_alive(*pid) && has_config(pid))
}

async fn is_let_in(data_dir: &Path, role: Role, seed: &str) -> bool {
    let Some((url, _)) = last_started_broker(data_dir) else { return false };
    Bus::connect(&BusConfig::new(vec![url], role, Some(seed.to_owned()))).await.is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_process_that_is_no_server_of_the_folder_is_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str| folder.path().join(name);
        fs::create_dir(file("ports")).unwrap();
        let old = KeyPair::new_user();
        fs::write(file("reader-seed"), format!("reader {}\n", old.seed().unwrap())).unwrap();
        fs::write(file(CONFIG), format!("nkey: {}", old.public_key())).unwrap();
        // A signal of that kind ends a process that does not expect it; this one has the id of a server that is gone.
        let mut other = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        fs::write(file(&format!("ports/nats-server_{}.ports", other.id())), "{}").unwrap();
        let lock = File::create(file(LOCK)).unwrap();
        assert_eq!(renew_key(folder.path(), Role::Reader).await.unwrap(), RenewedKey::AtNextStart);
        assert!(!fs::read_to_string(file(CONFIG)).unwrap().contains(&old.public_key()));
        lock.lock().unwrap();
        assert!(is_locked(folder.path()).unwrap());
        assert_eq!(find_server(folder.path()), None);
        assert!(other.try_wait().unwrap().is_none(), "it lives");
        other.kill().unwrap();
        other.wait().unwrap();
    }
}

//! Taking a key back: a role of an embedded broker gets another one, and who has the old one is let in no more.

use std::{fs, path::Path};

use nkeys::KeyPair;
use rustix::process::Signal;

use super::{
    BrokerError, child,
    folder::{CONFIG, SEEDS, file_error, replace_file},
};
use crate::Role;

/// Gives `role` another key in the folder of an embedded broker. A server that runs takes it at once, and ends the connections that were
/// made with the old one. Answers whether one runs.
///
/// Meant for [`Role::Reader`]: processes of ours have read their seeds already.
///
/// # Errors
/// [`BrokerError::File`] when a file can't be read or written; [`BrokerError::Keys`] when the seed that is stored is none.
pub fn renew_key(data_dir: &Path, role: Role) -> Result<bool, BrokerError> {
    let (seeds_file, config_file) = (data_dir.join(SEEDS), data_dir.join(CONFIG));
    let read = |file: &Path| fs::read_to_string(file).map_err(|source| file_error(file, source));
    let (seeds, config) = (read(&seeds_file)?, read(&config_file)?);
    let bad = |source| BrokerError::Keys { path: seeds_file.clone(), source };
    let is_of_role = |line: &&str| line.strip_prefix(role.name()).is_some_and(|rest| rest.starts_with(' '));
    let old_seed = seeds.lines().find(is_of_role).and_then(|line| line.split(' ').nth(1)).unwrap_or_default();
    let old_key = KeyPair::from_seed(old_seed.trim()).map_err(bad)?.public_key();
    let pair = KeyPair::new_user();
    let others = seeds.lines().filter(|line| !is_of_role(line)).map(|line| format!("{line}\n"));
    let seeds = format!("{}{} {}\n", others.collect::<String>(), role.name(), pair.seed().map_err(bad)?);
    // The seeds first: each start of the server writes its configuration from them.
    replace_file(&seeds_file, seeds.as_bytes(), 0o600)?;
    replace_file(&config_file, config.replace(&old_key, &pair.public_key()).as_bytes(), 0o600)?;
    let running = find_server(data_dir);
    if let Some(pid) = running {
        child::send_signal(pid, Signal::HUP);
    }
    Ok(running.is_some())
}

/// The process of the server that was last started in `data_dir`, if it lives.
fn find_server(data_dir: &Path) -> Option<u32> {
    let files = fs::read_dir(data_dir.join("ports")).ok()?.filter_map(Result::ok);
    let pids = files.filter_map(|file| {
        let name = file.file_name();
        name.to_str()?.strip_prefix("nats-server_")?.strip_suffix(".ports")?.parse().ok()
    });
    pids.into_iter().find(|pid| child::is_alive(*pid))
}

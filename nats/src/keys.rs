//! The users of a broker that is not embedded: a seed for each role, and what its configuration has to know of them.
//!
//! [`create_keys`] is run once before the first server starts and may be run again: what is there stays, and only roles that are
//! new get a key. The seeds are for the roles alone; the servers get the public halves as variables of `server.conf`.
//!
//! Limits: four small files.

use std::{
    fmt::Write as _,
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::Path,
};

use nkeys::KeyPair;

use crate::Role;

/// File with a line `role seed` for each role of the service, mode 0600; that of the reader is in [`READER_SEED`].
pub const SEEDS: &str = Role::Admin.seeds_file();
/// File with the line of [`Role::Reader`], mode 0600.
pub const READER_SEED: &str = Role::Reader.seeds_file();
/// File with the seed of the operator's user, mode 0600.
pub const SYSTEM_SEED: &str = "system-seed";
/// File with the public keys, as variables of a shell.
pub const VARIABLES: &str = "nats.env";

/// Makes the keys in `folder`, or those that are missing.
///
/// # Errors
/// When a file can't be read or written, or holds no seed.
pub fn create_keys(folder: &Path) -> io::Result<()> {
    write_keys(folder, None)
}

/// As [`create_keys`], and gives `renewed` another key in place of the one it has. Servers take it when they are started again.
///
/// # Errors
/// As [`create_keys`].
pub fn renew_key(folder: &Path, renewed: Role) -> io::Result<()> {
    write_keys(folder, Some(renewed))
}

fn write_keys(folder: &Path, renewed: Option<Role>) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o755).create(folder)?;
    let known = read_if_exists(&folder.join(SEEDS))? + &read_if_exists(&folder.join(READER_SEED))?;
    let (mut seeds, mut reader_seed) = (String::new(), String::new());
    let mut variables = String::from("# Made by `streamgate nats keys`.\n");
    for role in Role::ALL {
        let stored = known.lines().find_map(|line| line.strip_prefix(role.name())?.strip_prefix(' '));
        let (seed, public) = load_or_create_pair(stored.filter(|_| renewed != Some(role)))?;
        // Writing to a String can't fail.
        let file = if role == Role::Reader { &mut reader_seed } else { &mut seeds };
        writeln!(file, "{} {seed}", role.name()).ok();
        writeln!(variables, "NKEY_{}={public}", role.name().to_ascii_uppercase()).ok();
    }
    let system = read_if_exists(&folder.join(SYSTEM_SEED))?;
    let (seed, public) = load_or_create_pair(Some(system.trim()).filter(|seed| !seed.is_empty()))?;
    writeln!(variables, "NKEY_SYSTEM={public}").ok();
    replace_file(folder, SEEDS, &seeds, 0o600)?;
    replace_file(folder, READER_SEED, &reader_seed, 0o600)?;
    replace_file(folder, SYSTEM_SEED, &format!("{seed}\n"), 0o600)?;
    // Last: a server that finds it finds the seeds of all roles, too.
    replace_file(folder, VARIABLES, &variables, 0o644)
}

/// Seed and public key of a stored seed, or of a new one.
fn load_or_create_pair(stored: Option<&str>) -> io::Result<(String, String)> {
    let pair = match stored {
        Some(seed) => KeyPair::from_seed(seed.trim()).map_err(io::Error::other)?,
        None => KeyPair::new_user(),
    };
    Ok((pair.seed().map_err(io::Error::other)?, pair.public_key()))
}

fn read_if_exists(file: &Path) -> io::Result<String> {
    match fs::read_to_string(file) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(String::new()),
        read => read,
    }
}

/// Replaces a file as a whole.
fn replace_file(folder: &Path, name: &str, text: &str, mode: u32) -> io::Result<()> {
    let fresh = folder.join(format!("{name}.new"));
    let mut out = OpenOptions::new().create(true).write(true).truncate(true).mode(mode).open(&fresh)?;
    out.write_all(text.as_bytes())?;
    out.sync_all()?;
    fs::rename(fresh, folder.join(name))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn keys_are_made_once_and_new_roles_get_theirs() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("keys");
        let text = |name: &str| fs::read_to_string(folder.join(name)).unwrap();
        create_keys(&folder).unwrap();
        let (seeds, reader_seed, variables) = (text(SEEDS), text(READER_SEED), text(VARIABLES));
        assert_eq!(
            (seeds.lines().count(), variables.lines().count()),
            (Role::ALL.len() - 1, Role::ALL.len() + 2)
        );
        assert!(
            !seeds.contains("reader") && reader_seed.starts_with("reader SU"),
            "older roles read the seeds"
        );
        assert!(!variables.contains(" SU") && !variables.contains("=SU"), "no seed is printed");
        for name in [SEEDS, READER_SEED, SYSTEM_SEED] {
            let mode = fs::metadata(folder.join(name)).unwrap().permissions().mode();
            assert_eq!(mode & 0o777, 0o600, "{name}");
        }
        create_keys(&folder).unwrap();
        assert_eq!((text(SEEDS), text(VARIABLES)), (seeds.clone(), variables.clone()));
        renew_key(&folder, Role::Reader).unwrap();
        let kept = |text: &str| {
            let others = text.lines().filter(|line| !line.to_ascii_lowercase().contains("reader"));
            others.map(str::to_owned).collect::<Vec<_>>()
        };
        assert_eq!((text(SEEDS), kept(&text(VARIABLES))), (seeds.clone(), kept(&variables)));
        assert!(text(READER_SEED) != reader_seed && text(VARIABLES) != variables, "the reader's is another");
        let (first, others) = seeds.split_once('\n').unwrap();
        fs::write(folder.join(SEEDS), others).unwrap();
        create_keys(&folder).unwrap();
        assert!(text(SEEDS).ends_with(others) && !text(SEEDS).contains(first));
        fs::write(folder.join(SEEDS), "ingress nonsense\n").unwrap();
        assert!(create_keys(&folder).is_err());
    }
}

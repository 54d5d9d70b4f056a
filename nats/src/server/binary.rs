//! Which nats-server is used.

use std::{
    env,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use tokio::process::Command;

use super::{BrokerError, program::find_program_files};

/// Oldest usable server, major and minor: the first with atomic batches and message schedules.
pub const VERSION_MIN: (u32, u32) = (2, 12);

const NAME: &str = "nats-server";
const ANSWER_MAX: Duration = Duration::from_secs(10);

/// A usable server.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NatsServerBinary {
    /// The program.
    pub path: PathBuf,
    /// Its version, major and minor.
    pub version: (u32, u32),
}

/// The first usable server: the named one, or else the first of the [`find_program_files`].
///
/// # Errors
/// [`BrokerError::Missing`] says where it was looked for and what was found there.
pub async fn find_nats_server(named: Option<&Path>) -> Result<NatsServerBinary, BrokerError> {
    let named = named.map(Path::to_path_buf).or_else(|| env::var_os("NATS_SERVER").map(PathBuf::from));
    let mut candidates = named.map_or_else(|| find_program_files(NAME), |path| vec![path]);
    if candidates.is_empty() {
        candidates.push(PathBuf::from(NAME));
    }
    let mut looked = Vec::new();
    for path in candidates {
        match query_version(&path).await {
            Ok(version) if version >= VERSION_MIN => return Ok(NatsServerBinary { path, version }),
            Ok((major, minor)) => looked.push(format!("{} ({major}.{minor}, too old)", path.display())),
            Err(reason) => looked.push(format!("{} ({reason})", path.display())),
        }
    }
    Err(BrokerError::Missing { looked: looked.join(", ") })
}

async fn query_version(path: &Path) -> Result<(u32, u32), String> {
    let asking = Command::new(path).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let output = match tokio::time::timeout(ANSWER_MAX, asking).await {
        Ok(Ok(output)) => output,
        Ok(Err(error)) => return Err(error.to_string()),
        Err(_) => return Err("no answer".into()),
    };
    let text = String::from_utf8_lossy(&output.stdout);
    parse_version(&text).ok_or_else(|| "not a nats-server".into())
}

/// The major and minor number that a server says it has: `nats-server: v2.15.1` and `2.15.1` are (2, 15).
pub fn parse_version(text: &str) -> Option<(u32, u32)> {
    let version = text.trim().rsplit(' ').next()?.trim_start_matches('v');
    let mut numbers = version.split('.');
    let major = numbers.next()?.parse().ok()?;
    let minor = numbers.next()?.parse().ok()?;
    Some((major, minor))
}

#[cfg(test)]
mod tests {
    use super::parse_version;

    #[test]
    fn versions_are_read() {
        assert_eq!(parse_version("nats-server: v2.15.1\n"), Some((2, 15)));
        assert_eq!(parse_version("nats-server: v2.9.10"), Some((2, 9)));
        assert_eq!(parse_version("2.16.0-RC.1"), Some((2, 16)));
        assert_eq!(parse_version("hello"), None);
        assert_eq!(parse_version(""), None);
    }
}

//! Settings: one struct that composes those of every crate; defaults, then file, then environment, then flags.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::{ingress, keeper};

/// How to reach the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Broker {
    /// Addresses of the servers; empty lets `up` start its own.
    pub urls: Vec<String>,
    /// File with the nkey seed of the role, or lines `role seed` for several roles; mode 0600.
    pub seed_file: Option<PathBuf>,
    /// Copies of every stream and bucket: 1 on one server, 3 on a cluster.
    pub replicas: Option<usize>,
}

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// Folder of this machine's data: the embedded broker, the index's projection, the local store.
    pub data_dir: Option<PathBuf>,
    /// Address of probes and metrics of this process; loopback.
    pub admin_listen: Option<std::net::SocketAddr>,
    /// How to reach the broker.
    pub broker: Broker,
    /// The object store.
    pub store: Option<store::Config>,
    /// HTTP.
    pub ingress: ingress::Config,
    /// The upload stage.
    pub upload: upload::Config,
    /// The transcode stage.
    pub transcode: transcode::Config,
    /// The index stage.
    pub index: index::Config,
    /// The audit stage.
    pub audit: audit::Config,
    /// The monitor.
    pub monitor: monitor::Config,
    /// The singletons.
    pub keeper: keeper::Config,
    /// The media child.
    pub media: media::Config,
}

/// A setting that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The file can't be read.
    #[error("the configuration file {path} can't be read")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The file has an unknown key or a wrong value; the message names it.
    #[error("the configuration file {path} is wrong: {message}")]
    Malformed {
        /// Which file.
        path: PathBuf,
        /// Key, place and reason.
        message: String,
    },
    /// A value can't be used.
    #[error("{key} can't be used: {reason}")]
    Invalid {
        /// Which setting.
        key: &'static str,
        /// Why, and what to do.
        reason: String,
    },
}

impl Config {
    /// Reads a TOML file over the defaults.
    ///
    /// # Errors
    /// [`Error::Unreadable`] or [`Error::Malformed`]; unknown keys are refused.
    pub fn from_file(path: &Path) -> Result<Self, Error> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| Error::Unreadable { path: path.to_owned(), source })?;
        toml::from_str(&text)
            .map_err(|source| Error::Malformed { path: path.to_owned(), message: source.to_string() })
    }

    /// Folder of this machine's data.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from("data"))
    }

    /// The store's settings: as configured, else a folder in the data folder.
    ///
    /// # Errors
    /// [`Error::Invalid`] when the data folder can't be named as a URL.
    pub fn store(&self) -> Result<store::Config, Error> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let invalid = |reason: String| Error::Invalid { key: "data_dir", reason };
        let folder = std::path::absolute(self.data_dir().join("store")).map_err(|e| invalid(e.to_string()))?;
        let folder = folder.to_str().ok_or_else(|| invalid("the path is not UTF-8".into()))?;
        Ok(store::Config::at(format!("file://{folder}")))
    }
}

//! Settings: one struct that composes those of every crate; defaults, then file, then environment, then flags.

use std::path::{Path, PathBuf};

use evm::{Chains, Counts};
use nats::topology;
use serde::{Deserialize, Serialize};

use crate::{cli::ServerArgs, keeper};
use gate::grant::{self, Grants};

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

/// What limits of streams and buckets are made for; those of the topology where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Capacity {
    /// Uploads of a day.
    pub uploads_per_day: Option<u64>,
    /// Openings of playback of a day.
    pub views_per_day: Option<u64>,
    /// Days for which events and dead letters are kept.
    pub retention_days: Option<u64>,
}

impl Capacity {
    /// The load; `None` when nothing is said.
    fn load(self) -> Option<topology::Load> {
        if self == Self::default() {
            return None;
        }
        let usual = topology::Load::default();
        Some(topology::Load {
            uploads_per_day: self.uploads_per_day.unwrap_or(usual.uploads_per_day),
            views_per_day: self.views_per_day.unwrap_or(usual.views_per_day),
            retention_days: self.retention_days.unwrap_or(usual.retention_days).max(1),
        })
    }
}

/// How long what has ended is kept. Its history is in the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Retention {
    /// Jobs and uploads that ended, in milliseconds.
    pub ended_ms: u64,
}

impl Default for Retention {
    fn default() -> Self {
        Self { ended_ms: schemas::ENDED_KEPT_MS }
    }
}

/// Least [`Retention::ended_ms`]: what has just ended is still asked for.
const ENDED_MS_MIN: u64 = 24 * 3_600_000;

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
    /// What limits are made for.
    pub capacity: Capacity,
    /// The object store.
    pub store: Option<store::Config>,
    /// The chains that gates may ask.
    pub chains: Vec<evm::Config>,
    /// Playback sessions.
    pub grants: grant::Config,
    /// HTTP.
    pub ingress: ingress::Config,
    /// Sign-in.
    pub auth: auth::Config,
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
    /// How long what has ended is kept.
    pub retention: Retention,
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
    /// The effective settings: defaults, then `file`, then environment and flags.
    ///
    /// # Errors
    /// As [`Config::from_file`]; [`Error::Invalid`] names a setting that can't be used.
    pub fn load(file: Option<&Path>, args: &ServerArgs) -> Result<Self, Error> {
        let mut config = file.map(Self::from_file).transpose()?.unwrap_or_default();
        config.merge(args)?;
        config.check()?;
        config.spread();
        Ok(config)
    }

    /// The longest time that running work has after a stop was asked for.
    pub fn grace(&self) -> std::time::Duration {
        let stages =
            [&self.upload.consume, &self.transcode.planner, &self.transcode.parts, &self.index.consume];
        let longest_ms = stages.into_iter().map(|stage| stage.grace_ms).max().unwrap_or(0);
        std::time::Duration::from_millis(longest_ms.max(self.ingress.grace_ms))
    }

    /// Puts what was said on the command line or in the environment over what the file says.
    fn merge(&mut self, args: &ServerArgs) -> Result<(), Error> {
        replace(&mut self.ingress.listen, args.listen);
        replace(&mut self.transcode.profile, args.profile.clone());
        self.media.child_path = args.media_child.clone().or_else(|| self.media.child_path.take());
        replace(&mut self.media.unsandboxed, args.unsandboxed);
        self.admin_listen = args.admin_listen.or(self.admin_listen);
        self.data_dir = args.data_dir.clone().or_else(|| self.data_dir.take());
        self.ingress.public_url = args.public_url.clone().or_else(|| self.ingress.public_url.take());
        self.broker.replicas = args.replicas.or(self.broker.replicas);
        self.broker.seed_file = args.nats_seed_file.clone().or_else(|| self.broker.seed_file.take());
        if !args.nats_urls.is_empty() {
            self.broker.urls.clone_from(&args.nats_urls);
        }
        if let Some(url) = &args.store_url {
            let before = self.store.take().map_or(self.store()?, |store| store);
            self.store = Some(store::Config { url: url.clone(), ..before });
        }
        Ok(())
    }

    /// Tells every role what is set once for all.
    const fn spread(&mut self) {
        let kept_ms = self.retention.ended_ms;
        self.transcode.ended_kept_ms = kept_ms;
        self.ingress.uploads.ended_kept_ms = kept_ms;
        self.keeper.ended_kept_ms = kept_ms;
    }

    /// Refuses what would only fail later, in the middle of somebody's work.
    fn check(&self) -> Result<(), Error> {
        let profile = &self.transcode.profile;
        if self.transcode.profile(profile).is_none() {
            let known: Vec<&str> = self.transcode.profiles.keys().map(String::as_str).collect();
            let reason = format!("there is no profile {profile:?}; known: {}", known.join(", "));
            return Err(Error::Invalid { key: "transcode.profile", reason });
        }
        if self.broker.replicas.is_some_and(|count| !matches!(count, 1 | 3 | 5)) {
            let reason = "it takes 1 on one server, 3 or 5 on a cluster".to_owned();
            return Err(Error::Invalid { key: "broker.replicas", reason });
        }
        if self.retention.ended_ms < ENDED_MS_MIN || self.keeper.fold_age_ms > self.retention.ended_ms {
            let reason = format!(
                "it takes at least {ENDED_MS_MIN} (a day), and no less than keeper.fold_age_ms ({})",
                self.keeper.fold_age_ms
            );
            return Err(Error::Invalid { key: "retention.ended_ms", reason });
        }
        self.open_chains(Counts::default())?;
        if let Some(url) = &self.ingress.public_url
            && !(url.starts_with("http://") || url.starts_with("https://"))
        {
            let reason = format!("{url:?} does not begin with http:// or https://");
            return Err(Error::Invalid { key: "ingress.public_url", reason });
        }
        if let Err(invalid) = web::manners::Origins::new(&self.ingress.manners) {
            return Err(Error::Invalid { key: "ingress.manners.origins", reason: invalid.to_string() });
        }
        self.grants.check().map_err(|(key, reason)| Error::Invalid { key, reason })?;
        self.auth.check().map_err(|(key, reason)| Error::Invalid { key, reason })
    }

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

    fn open_chains(&self, counts: Counts) -> Result<Chains, Error> {
        Chains::counted(&self.chains, counts).map_err(|reason| Error::Invalid { key: "chains", reason })
    }

    /// The playback sessions over `bus`, decided by the configured chains.
    ///
    /// # Errors
    /// [`Error::Invalid`] when a chain can't be used.
    pub fn grants(&self, bus: &nats::Bus) -> Result<Grants, Error> {
        self.grants_counted(bus, Counts::default())
    }

    /// The same; what comes of asking the chains is counted in `counts`.
    ///
    /// # Errors
    /// As [`Config::grants`].
    pub fn grants_counted(&self, bus: &nats::Bus, counts: Counts) -> Result<Grants, Error> {
        let chains = self.open_chains(counts)?;
        Ok(Grants::over(bus, chains, &self.auth, self.grants.clone()))
    }

    /// What the broker's streams and buckets should be.
    pub fn topology(&self) -> topology::Settings {
        let replicas = self.broker.replicas.unwrap_or(1);
        topology::Settings { replicas, load: self.capacity.load(), ..topology::Settings::default() }
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
        let folder =
            std::path::absolute(self.data_dir().join("store")).map_err(|e| invalid(e.to_string()))?;
        let folder = folder.to_str().ok_or_else(|| invalid("the path is not UTF-8".into()))?;
        Ok(store::Config::at(format!("file://{folder}")))
    }
}

fn replace<T>(setting: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *setting = said;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flag_that_was_not_given_leaves_the_file_alone() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("streamgate.toml");
        std::fs::write(&file, "[media]\nunsandboxed = true\n[ingress]\nlisten = \"127.0.0.1:9000\"\n")
            .unwrap();
        let config = Config::load(Some(&file), &ServerArgs::default()).unwrap();
        assert!(config.media.unsandboxed);
        assert_eq!(config.ingress.listen.port(), 9000);
        let args = ServerArgs { listen: Some("127.0.0.1:1".parse().unwrap()), ..ServerArgs::default() };
        assert_eq!(Config::load(Some(&file), &args).unwrap().ingress.listen.port(), 1);
    }

    #[test]
    fn limits_are_those_of_the_topology_until_a_load_is_said() {
        let of = |text: &str| toml::from_str::<Config>(text).unwrap().topology().load;
        assert_eq!(of(""), None);
        let usual = topology::Load::default();
        let wanted = topology::Load { views_per_day: 7, ..usual };
        assert_eq!(of("[capacity]\nviews_per_day = 7\n"), Some(wanted));
    }

    #[test]
    fn what_is_set_once_reaches_every_role() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("streamgate.toml");
        std::fs::write(&file, "[retention]\nended_ms = 172800000\n").unwrap();
        let config = Config::load(Some(&file), &ServerArgs::default()).unwrap();
        let kept = [
            config.transcode.ended_kept_ms,
            config.ingress.uploads.ended_kept_ms,
            config.keeper.ended_kept_ms,
        ];
        assert_eq!(kept, [172_800_000; 3]);
    }

    #[test]
    fn a_wrong_setting_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("streamgate.toml");
        for (text, name) in [
            ("[ingres]\n", "ingres"),
            ("[ingress]\nlisten = 5\n", "listen"),
            ("[transcode]\nprofile = \"none\"\n", "transcode.profile"),
            ("[broker]\nreplicas = 2\n", "broker.replicas"),
            ("[capacity]\nuploads_per_hour = 2\n", "uploads_per_hour"),
            ("[retention]\nended_ms = 5000\n", "retention.ended_ms"),
            ("[keeper]\nfold_age_ms = 9000000000\n", "retention.ended_ms"),
            ("[auth]\nrecheck_ms = 5000\n", "auth.recheck_ms"),
            ("[auth]\nadmins = [\"0x12\"]\n", "admins"),
            ("[[chains]]\nchain_id = 1\n", "chains"),
            ("[[chains]]\nchain_id = 1\nrpc_urls = [\"ws://x\"]\n", "rpc_urls"),
            ("[ingress.manners]\norigins = [\"example.org\"]\n", "ingress.manners.origins"),
            ("[ingress.client]\ntrusted_proxies = [\"nonsense\"]\n", "trusted_proxies"),
            ("[ingress.limit.rates.auth]\ncapacity = 5\n", "refill_per_s"),
        ] {
            std::fs::write(&file, text).unwrap();
            let error = Config::load(Some(&file), &ServerArgs::default()).unwrap_err().to_string();
            assert!(error.contains(name), "{text}: {error}");
        }
    }
}

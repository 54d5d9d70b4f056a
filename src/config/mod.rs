//! Settings: one struct that composes those of every crate; defaults, then file, then environment, then flags.
//!
//! Fields have their unit in their name and plain numbers; files have neither: [`tree`] reads and writes them, by [`units`].
//! Doc comments and ranges of the fields are what [`describe`] prints, and ranges are enforced from there.

mod check;
pub mod credentials;
pub mod describe;
mod file;
mod listener;
#[cfg(test)]
mod range_tests;
pub mod ranges;
#[cfg(test)]
mod tests;
pub mod tree;
pub mod units;

use std::path::{Path, PathBuf};

use evm::{ChainCounters, EvmClient};
use nats::topology;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use gate::grant::{self, PlaybackGrants};

use crate::{cli::ServerArgs, keeper, telemetry::tracing_config::TelemetryConfig};
pub use listener::BrokerListenerConfig;
pub use tree::LegacySetting;

/// How to reach the broker.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct BrokerSettings {
    /// Addresses of the servers; empty lets `up` start its own.
    pub urls: Vec<String>,
    /// File with the nkey seed of the role, or lines `role seed` for several roles; mode 0600.
    pub seed_file: Option<PathBuf>,
    /// Copies of every stream and bucket: 1 on one server, 3 or 5 on a cluster.
    #[schemars(extend("enum" = [1, 3, 5]))]
    pub replicas: Option<usize>,
    /// Where programs of the operator reach the broker.
    pub listener: BrokerListenerConfig,
}

/// What limits of streams and buckets are made for; those of the topology where nothing is said.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CapacitySettings {
    /// Uploads of a day that limits are made for.
    #[schemars(range(max = 1_000_000_000))]
    pub uploads_per_day: Option<u64>,
    /// Openings of playback of a day that limits are made for.
    #[schemars(range(max = 1_000_000_000_000_u64))]
    pub views_per_day: Option<u64>,
    /// How long events and dead letters are kept, in days.
    pub retention_days: Option<u64>,
}

impl CapacitySettings {
    /// The load; `None` when nothing is said.
    fn expected_load(self) -> Option<topology::ExpectedLoad> {
        if self == Self::default() {
            return None;
        }
        let usual = topology::ExpectedLoad::default();
        Some(topology::ExpectedLoad {
            uploads_per_day: self.uploads_per_day.unwrap_or(usual.uploads_per_day),
            views_per_day: self.views_per_day.unwrap_or(usual.views_per_day),
            retention_days: self.retention_days.unwrap_or(usual.retention_days),
        })
    }
}

/// How long what has ended is kept. Its history is in the events.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct RetentionSettings {
    /// How long jobs and uploads that ended are kept, in milliseconds.
    #[schemars(range(min = ENDED_MS_MIN))]
    pub ended_ms: u64,
    /// How long a removed medium can be restored, in milliseconds. Its bytes stay as long; with 0 every removal is for good.
    pub removed_ms: u64,
}

impl Default for RetentionSettings {
    fn default() -> Self {
        Self { ended_ms: schemas::ENDED_KEPT_MS, removed_ms: REMOVED_MS }
    }
}

/// Usual [`RetentionSettings::removed_ms`]: a mistake is noticed on the next day.
const REMOVED_MS: u64 = 24 * 3_600_000;

/// Least [`RetentionSettings::ended_ms`]: what has just ended is still asked for.
const ENDED_MS_MIN: u64 = 24 * 3_600_000;

/// Everything that can be set.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Folder of this machine's data: the embedded broker, the index's projection, the local store.
    pub data_dir: Option<PathBuf>,
    /// Address of probes and metrics of this process; loopback.
    pub admin_listen: Option<std::net::SocketAddr>,
    /// How to reach the broker.
    pub broker: BrokerSettings,
    /// The load that limits of streams and buckets are made for; those of the topology where nothing is said.
    pub capacity: CapacitySettings,
    /// The object store.
    pub store: Option<store::StoreConfig>,
    /// The chains that gates may ask.
    pub chains: Vec<evm::ChainConfig>,
    /// Playback sessions.
    pub grants: grant::GrantConfig,
    /// HTTP.
    pub ingress: ingress::IngressConfig,
    /// Requests to addresses that users give.
    pub outbound: outbound::OutboundConfig,
    /// Sign-in.
    pub auth: auth::AuthConfig,
    /// The upload stage.
    pub upload: upload::UploadStageConfig,
    /// The transcode stage.
    pub transcode: transcode::TranscodeConfig,
    /// The tasks stage.
    pub tasks: tasks::TasksConfig,
    /// The index stage.
    pub index: index::IndexConfig,
    /// The audit stage.
    pub audit: audit::AuditConfig,
    /// The monitor.
    pub monitor: monitor::MonitorConfig,
    /// What has ended.
    pub retention: RetentionSettings,
    /// The singletons.
    pub keeper: keeper::KeeperConfig,
    /// The media child.
    pub media: media::MediaDriverConfig,
    /// What others learn about this process.
    pub telemetry: TelemetryConfig,
}

/// A setting that can't be used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SettingsError {
    /// The file can't be read.
    #[error("the configuration file {path} can't be read; name another with --config or STREAMGATE_CONFIG")]
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
        key: String,
        /// Why, and what to do.
        reason: String,
    },
}

impl SettingsError {
    /// A value that can't be used of the setting with the path `key` in the code.
    pub fn invalid(key: &str, reason: impl Into<String>) -> Self {
        Self::Invalid { key: units::file_setting_path(key), reason: reason.into() }
    }
}

impl Settings {
    /// The effective settings: defaults, then `file`, then environment and flags. Also says what of `file` is in the old form.
    ///
    /// # Errors
    /// As [`Settings::from_file`]; [`SettingsError::Invalid`] names a setting that can't be used.
    pub fn load(file: Option<&Path>, args: &ServerArgs) -> Result<(Self, Vec<LegacySetting>), SettingsError> {
        let (mut config, old) = file.map(Self::from_file).transpose()?.unwrap_or_default();
        config.merge_args(args)?;
        check::check_settings(&config)?;
        config.copy_shared_settings();
        Ok((config, old))
    }

    /// The longest time that running work has after a stop was asked for.
    pub fn grace_period(&self) -> std::time::Duration {
        let stages = [
            &self.upload.consume,
            &self.transcode.planner,
            &self.transcode.parts,
            &self.tasks.parts,
            &self.index.consume,
        ];
        let longest_ms = stages.into_iter().map(|stage| stage.grace_ms).max().unwrap_or(0);
        std::time::Duration::from_millis(longest_ms.max(self.ingress.grace_ms))
    }

    /// Puts what was said on the command line or in the environment over what the file says.
    fn merge_args(&mut self, args: &ServerArgs) -> Result<(), SettingsError> {
        set_if_given(&mut self.ingress.listen, args.listen);
        set_if_given(&mut self.transcode.profile, args.profile.clone());
        self.media.child_path = args.media_child.clone().or_else(|| self.media.child_path.take());
        set_if_given(&mut self.media.unsandboxed, args.unsandboxed);
        self.admin_listen = args.admin_listen.or(self.admin_listen);
        self.data_dir = args.data_dir.clone().or_else(|| self.data_dir.take());
        self.ingress.public_url = args.public_url.clone().or_else(|| self.ingress.public_url.take());
        // Empty in the environment is absent: compose files can't leave a variable out.
        let endpoint = args.otlp_endpoint.clone().filter(|endpoint| !endpoint.is_empty());
        let tracing = &mut self.telemetry.tracing;
        tracing.endpoint = endpoint.or_else(|| tracing.endpoint.take());
        self.broker.replicas = args.replicas.or(self.broker.replicas);
        self.broker.seed_file = args.nats_seed_file.clone().or_else(|| self.broker.seed_file.take());
        if !args.origins.is_empty() {
            self.ingress.manners.origins.clone_from(&args.origins);
        }
        if !args.nats_urls.is_empty() {
            self.broker.urls.clone_from(&args.nats_urls);
        }
        if let Some(url) = &args.store_url {
            let before = self.store.take().map_or(self.store_config()?, |store| store);
            self.store = Some(store::StoreConfig { url: url.clone(), ..before });
        }
        Ok(())
    }

    /// Copies to every role what is set once for all.
    fn copy_shared_settings(&mut self) {
        self.ingress.profiles = ingress::transcode::ProfileCatalog {
            default_name: self.transcode.profile.clone(),
            profiles: self.transcode.profiles.clone(),
        };
        self.keeper.purge.superseded_age_ms =
            self.grants.session_ms.saturating_add(keeper::purge::SUPERSEDED_MARGIN_MS);
        self.keeper.purge.restorable_ms = self.retention.removed_ms;
        self.ingress.restorable_ms = self.retention.removed_ms;
        self.ingress.traced_reads_per_million = self.telemetry.tracing.reads_per_million;
        self.ingress.continues_proxy_traces = self.telemetry.tracing.continue_proxy_traces;
        let kept_ms = self.retention.ended_ms;
        self.transcode.ended_kept_ms = kept_ms;
        self.tasks.ended_kept_ms = kept_ms;
        self.ingress.uploads.ended_kept_ms = kept_ms;
        self.keeper.ended_kept_ms = kept_ms;
        // As owners are named, however the account is spelled.
        let named = std::mem::take(&mut self.ingress.quotas.of).into_iter();
        let owners =
            named.map(|(owner, quota)| (auth::account::correct_owner_name(&owner).unwrap_or(owner), quota));
        self.ingress.quotas.of = owners.collect();
        self.ingress.uploads.quotas.clone_from(&self.ingress.quotas);
        self.ingress.uploads.fetch_networks.clone_from(&self.outbound.allow);
        self.keeper.uploads = self.ingress.uploads.clone();
        self.keeper.capacity = self.ingress.capacity.clone();
        let alerts = &mut self.monitor.alerts;
        alerts.base_url = alerts.base_url.take().or_else(|| self.ingress.public_url.clone());
    }

    /// Reads a TOML file over the defaults. Also says what of it is in the old form.
    ///
    /// # Errors
    /// [`SettingsError::Unreadable`] or [`SettingsError::Malformed`]; unknown keys are refused.
    pub fn from_file(path: &Path) -> Result<(Self, Vec<LegacySetting>), SettingsError> {
        let text = std::fs::read_to_string(path)
            .map_err(|source| SettingsError::Unreadable { path: path.to_owned(), source })?;
        file::parse_settings(&text)
            .map_err(|message| SettingsError::Malformed { path: path.to_owned(), message })
    }

    fn open_chains(&self, counts: ChainCounters) -> Result<EvmClient, SettingsError> {
        EvmClient::open_with_counters(&self.chains, counts)
            .map_err(|reason| SettingsError::invalid("chains", reason))
    }

    /// The playback sessions over `bus`, decided by the configured chains.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] when a chain can't be used.
    pub fn open_grants(&self, bus: &nats::Bus) -> Result<PlaybackGrants, SettingsError> {
        self.open_counted_grants(bus, ChainCounters::default())
    }

    /// The same; what comes of asking the chains is counted in `counts`.
    ///
    /// # Errors
    /// As [`Settings::open_grants`].
    pub fn open_counted_grants(
        &self,
        bus: &nats::Bus,
        counts: ChainCounters,
    ) -> Result<PlaybackGrants, SettingsError> {
        let chains = self.open_chains(counts)?;
        Ok(PlaybackGrants::with_chains(bus, chains, &self.auth, self.grants.clone()))
    }

    /// What the broker's streams and buckets should be.
    pub fn topology_settings(&self) -> topology::TopologySettings {
        let replicas = self.broker.replicas.unwrap_or(1);
        topology::TopologySettings {
            replicas,
            load: self.capacity.expected_load(),
            ..topology::TopologySettings::default()
        }
    }

    /// Folder of this machine's data.
    pub fn data_dir(&self) -> PathBuf {
        self.data_dir.clone().unwrap_or_else(|| PathBuf::from("data"))
    }

    /// The store's settings: as configured, else a folder in the data folder.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] when the data folder can't be named as a URL.
    pub fn store_config(&self) -> Result<store::StoreConfig, SettingsError> {
        if let Some(store) = &self.store {
            return Ok(store.clone());
        }
        let invalid = |reason: String| SettingsError::invalid("data_dir", reason);
        let folder =
            std::path::absolute(self.data_dir().join("store")).map_err(|e| invalid(e.to_string()))?;
        let folder = folder.to_str().ok_or_else(|| invalid("the path is not UTF-8".into()))?;
        Ok(store::StoreConfig::from_url(format!("file://{folder}")))
    }
}

fn set_if_given<T>(setting: &mut T, said: Option<T>) {
    if let Some(said) = said {
        *setting = said;
    }
}

//! The topology file: human units in, the server's configuration out.

use std::{collections::BTreeMap, time::Duration};

use async_nats::jetstream::{
    consumer::{self, AckPolicy, DeliverPolicy, ReplayPolicy},
    stream::{self, DiscardPolicy, RetentionPolicy, StorageType},
};
use schemas::subjects;
use serde::{Deserialize, Deserializer, de::Error as _};

use super::{
    TopologySettings,
    load::StorageDemand,
    mirrors::MirrorSpec,
    quantity::{ByteSize, DurationSetting},
};
use crate::{BusError, Role};

/// The window the server takes when none is given.
const DUPLICATE_WINDOW: Duration = Duration::from_secs(120);

/// The file, with one entry per asset.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TopologyFile {
    stream: BTreeMap<String, StreamSpec>,
    mirror: BTreeMap<String, MirrorSpec>,
    durable: BTreeMap<String, DurableSpec>,
    bucket: BTreeMap<String, BucketSpec>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(clippy::struct_excessive_bools, reason = "the server's own switches, by its own names")]
struct StreamSpec {
    about: String,
    subjects: Vec<String>,
    #[serde(default)]
    retention: RetentionSpec,
    #[serde(default)]
    storage: StorageSpec,
    #[serde(default)]
    max_age: DurationSetting,
    max_bytes: ByteSize,
    #[serde(default)]
    fills: Vec<StorageDemand>,
    max_message_size: ByteSize,
    messages_per_subject_max: Option<u32>,
    #[serde(default)]
    discard: DiscardSpec,
    #[serde(default)]
    discard_new_per_subject: bool,
    duplicate_window: Option<DurationSetting>,
    #[serde(default)]
    deny_delete: bool,
    #[serde(default)]
    deny_purge: bool,
    #[serde(default)]
    allow_rollup: bool,
    #[serde(default)]
    allow_message_ttl: bool,
    #[serde(default)]
    allow_atomic_publish: bool,
    needed_by: Vec<RoleName>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct DurableSpec {
    stream: String,
    filters: Vec<String>,
    ack_wait: DurationSetting,
    ack_pending_max: u32,
    needed_by: Vec<RoleName>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct BucketSpec {
    about: String,
    max_bytes: ByteSize,
    #[serde(default)]
    fills: Vec<StorageDemand>,
    max_value_size: Option<ByteSize>,
    #[serde(default)]
    expires: bool,
    markers: Option<DurationSetting>,
    needed_by: Vec<RoleName>,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum RetentionSpec {
    #[default]
    Limits,
    WorkQueue,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum StorageSpec {
    #[default]
    File,
    Memory,
}

#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum DiscardSpec {
    #[default]
    Old,
    New,
}

/// A stream as it should be.
#[derive(Debug, Clone)]
pub(super) struct DesiredStream {
    pub(super) config: stream::Config,
    pub(super) needed_by: Vec<Role>,
}

impl DesiredStream {
    /// True for a copy in the account MIRRORS.
    pub(super) fn is_mirror(&self) -> bool {
        self.config.mirror.is_some()
    }

    /// The same with room for what a stream holds already and a quarter more: no limit is set below what is stored.
    pub(super) fn with_room_for(mut self, info: &stream::Info) -> Self {
        // What a copy drops is still in the stream.
        if self.is_mirror() {
            return self;
        }
        let stored = i64::try_from(info.state.bytes).unwrap_or(i64::MAX);
        let needed = stored.saturating_add(stored / 4);
        if self.config.max_bytes < needed {
            let has = if info.config.max_bytes > 0 { info.config.max_bytes } else { i64::MAX };
            self.config.max_bytes = self.config.max_bytes.max(needed.min(has));
        }
        self
    }
}

/// A durable as it should be.
#[derive(Debug, Clone)]
pub(super) struct DesiredDurable {
    pub(super) stream: String,
    pub(super) name: String,
    pub(super) config: consumer::Config,
    pub(super) needed_by: Vec<Role>,
}

impl TopologyFile {
    pub(super) fn parse(text: &str) -> Result<Self, BusError> {
        toml::from_str(text).map_err(|error| BusError::Invalid { what: format!("topology file: {error}") })
    }

    /// Streams, mirrors of them, and buckets.
    pub(super) fn desired_streams(&self, settings: &TopologySettings) -> Vec<DesiredStream> {
        let streams = self.stream.iter().map(|(name, stream)| stream.desired_stream(name, settings));
        let buckets = self.bucket.iter().map(|(name, bucket)| bucket.desired_stream(name, settings));
        // Behind the streams that they copy.
        let mirrors = self.mirror.iter().filter_map(|(name, mirror)| {
            let origin = self.stream.get(name)?.desired_stream(name, settings);
            Some(mirror.desired_stream(&origin.config, settings))
        });
        streams.chain(mirrors).chain(buckets).collect()
    }

    pub(super) fn desired_durables(&self, settings: &TopologySettings) -> Vec<DesiredDurable> {
        self.durable.iter().map(|(name, durable)| durable.desired_durable(name, settings)).collect()
    }
}

impl StreamSpec {
    fn desired_stream(&self, name: &str, settings: &TopologySettings) -> DesiredStream {
        let config = stream::Config {
            name: name.to_owned(),
            description: Some(self.about.clone()),
            subjects: self.subjects.clone(),
            retention: match self.retention {
                RetentionSpec::Limits => RetentionPolicy::Limits,
                RetentionSpec::WorkQueue => RetentionPolicy::WorkQueue,
            },
            storage: match self.storage {
                StorageSpec::File => StorageType::File,
                StorageSpec::Memory => StorageType::Memory,
            },
            discard: match self.discard {
                DiscardSpec::Old => DiscardPolicy::Old,
                DiscardSpec::New => DiscardPolicy::New,
            },
            discard_new_per_subject: self.discard_new_per_subject,
            max_age: settings.age_max(self.max_age.0, &self.fills),
            max_bytes: settings.limit_bytes(self.max_bytes.0, &self.fills),
            max_message_size: size_to_i32(self.max_message_size.0),
            max_messages: -1,
            max_messages_per_subject: self.messages_per_subject_max.map_or(-1, i64::from),
            max_consumers: -1,
            duplicate_window: self.duplicate_window.map_or(DUPLICATE_WINDOW, |window| window.0),
            deny_delete: self.deny_delete,
            deny_purge: self.deny_purge,
            allow_rollup: self.allow_rollup,
            allow_message_ttl: self.allow_message_ttl,
            allow_atomic_publish: self.allow_atomic_publish,
            num_replicas: settings.replicas,
            ..stream::Config::default()
        };
        DesiredStream { config, needed_by: roles_from_names(&self.needed_by) }
    }
}

impl BucketSpec {
    /// The stream behind the bucket. Rollup stays on for purges that name a revision: a value used once.
    fn desired_stream(&self, name: &str, settings: &TopologySettings) -> DesiredStream {
        let config = stream::Config {
            name: subjects::kv_stream_name(name),
            description: Some(self.about.clone()),
            subjects: vec![subjects::kv_subject(name, ">")],
            retention: RetentionPolicy::Limits,
            storage: StorageType::File,
            discard: DiscardPolicy::New,
            max_bytes: settings.limit_bytes(self.max_bytes.0, &self.fills),
            max_message_size: self.max_value_size.map_or(-1, |bytes| size_to_i32(bytes.0)),
            max_messages: -1,
            // An older revision would come back when the newest expires.
            max_messages_per_subject: 1,
            max_consumers: -1,
            duplicate_window: DUPLICATE_WINDOW,
            deny_delete: true,
            allow_rollup: true,
            // Any replica answers a direct read, also one that is behind.
            allow_direct: false,
            allow_message_ttl: self.expires,
            subject_delete_marker_ttl: self.markers.map(|time| time.0),
            num_replicas: settings.replicas,
            ..stream::Config::default()
        };
        DesiredStream { config, needed_by: roles_from_names(&self.needed_by) }
    }
}

impl DurableSpec {
    fn desired_durable(&self, name: &str, settings: &TopologySettings) -> DesiredDurable {
        let (filter_subject, filter_subjects) = match self.filters.as_slice() {
            [one] => (one.clone(), Vec::new()),
            many => (String::new(), many.to_vec()),
        };
        let config = consumer::Config {
            durable_name: Some(name.to_owned()),
            name: Some(name.to_owned()),
            deliver_policy: DeliverPolicy::All,
            ack_policy: AckPolicy::Explicit,
            replay_policy: ReplayPolicy::Instant,
            ack_wait: settings.ack_wait.unwrap_or(self.ack_wait.0),
            max_ack_pending: i64::from(self.ack_pending_max),
            max_deliver: -1,
            filter_subject,
            filter_subjects,
            ..consumer::Config::default()
        };
        DesiredDurable {
            stream: self.stream.clone(),
            name: name.to_owned(),
            config,
            needed_by: roles_from_names(&self.needed_by),
        }
    }
}

/// A role by its name.
#[derive(Debug, Clone, Copy)]
struct RoleName(Role);

impl<'de> Deserialize<'de> for RoleName {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let name = String::deserialize(deserializer)?;
        let role = Role::ALL.into_iter().find(|role| role.name() == name);
        role.map(Self).ok_or_else(|| D::Error::custom(format!("there is no role {name:?}")))
    }
}

fn roles_from_names(who: &[RoleName]) -> Vec<Role> {
    who.iter().map(|who| who.0).collect()
}

fn size_to_i32(bytes: i64) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, time::Duration};

    use super::TopologyFile;
    use crate::topology::{ExpectedLoad, FILE, TopologySettings};

    #[test]
    fn unknown_words_are_refused() {
        let check = |from: &str, to: &str, says: &str| {
            let error = TopologyFile::parse(&FILE.replacen(from, to, 1)).unwrap_err().to_string();
            assert!(error.contains(says), "{error}");
        };
        check("deny_purge", "deny_purges", "deny_purges");
        check("kept = \"retention\"", "kept = \"always\"", "always");
        check("by = \"upload\"", "by = \"person\"", "person");
        check("max_age = \"90d\"", "max_age = \"90 parsecs\"", "90 parsecs");
        check("\"4GiB\"", "\"4GB\"", "4GB");
        check("needed_by = [\"upload\"]", "needed_by = [\"uploader\"]", "uploader");
        check("retention = \"work-queue\"", "retention = \"interest\"", "interest");
    }

    #[test]
    fn the_server_can_reserve_all_limits() {
        let streams = TopologyFile::parse(FILE).unwrap().desired_streams(&TopologySettings::default());
        let files: i64 =
            streams.iter().filter(|s| s.config.name != "PROGRESS").map(|s| s.config.max_bytes).sum();
        let server = crate::server::BrokerConfig::default();
        assert!(u64::try_from(files).unwrap() <= server.file_store_bytes_max, "{files}");
        // The limit of the cluster's servers.
        assert!(files <= 20 << 30, "{files}");
        assert!(streams.iter().all(|s| s.config.max_bytes > 0), "everything has a limit");
    }

    #[test]
    fn limits_follow_from_the_load_and_those_of_the_file_are_enough_for_the_usual_one() {
        let topology = TopologyFile::parse(FILE).unwrap();
        let of = |load: Option<ExpectedLoad>| {
            let streams = topology.desired_streams(&TopologySettings { load, ..TopologySettings::default() });
            let config = |s: super::DesiredStream| (s.config.name, (s.config.max_bytes, s.config.max_age));
            streams.into_iter().filter(|s| !s.is_mirror()).map(config).collect::<BTreeMap<_, _>>()
        };
        let (file, usual) = (of(None), of(Some(ExpectedLoad::default())));
        for (name, (bytes, age)) in &usual {
            assert!(*bytes <= file[name].0, "{name}: {bytes} of {:?}", file[name]);
            assert_eq!(*age, file[name].1, "{name}");
        }
        let small = of(Some(ExpectedLoad { uploads_per_day: 1, views_per_day: 10, retention_days: 30 }));
        let all: i64 =
            small.iter().filter(|(name, _)| *name != "PROGRESS").map(|(_, (bytes, _))| bytes).sum();
        assert!(all < 3 << 30, "a small load fits a small disk: {all}");
        assert_eq!(small["EVENTS"].1, Duration::from_secs(30 * 86_400));
        let large = of(Some(ExpectedLoad { uploads_per_day: 20_000, ..ExpectedLoad::default() }));
        for name in ["EVENTS", "AUDIT", "KV_media", "KV_assets", "KV_jobs", "KV_uploads"] {
            assert!(large[name].0 > usual[name].0, "{name}");
        }
        assert_eq!(large["KV_secrets"], file["KV_secrets"], "what nothing fills stays");
    }

    #[test]
    fn durables_and_mirrors_name_streams_of_the_file() {
        let topology = TopologyFile::parse(FILE).unwrap();
        assert!(topology.mirror.keys().all(|name| topology.stream.contains_key(name)));
        let streams = topology.desired_streams(&TopologySettings::default());
        for durable in topology.desired_durables(&TopologySettings::default()) {
            assert!(streams.iter().any(|s| s.config.name == durable.stream), "{}", durable.name);
        }
    }
}

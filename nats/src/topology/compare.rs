//! What differs between the file and a server, and whether it can be changed in place.

use std::{collections::BTreeSet, fmt::Debug, time::Duration};

use async_nats::jetstream::{
    consumer,
    stream::{self, PersistenceMode},
};

use super::{DifferenceClass, TopologyDifference};

/// Collects the differences of one asset.
struct DifferenceCollector {
    asset: String,
    found: Vec<TopologyDifference>,
}

impl DifferenceCollector {
    fn add_difference(&mut self, class: DifferenceClass, field: &str, want: String, have: String) {
        self.found.push(TopologyDifference {
            asset: self.asset.clone(),
            field: field.to_owned(),
            want,
            have,
            class,
        });
    }

    fn compare_field<T: PartialEq + Debug>(
        &mut self,
        field: &str,
        want: &T,
        have: &T,
        class: DifferenceClass,
    ) {
        if want != have {
            self.add_difference(class, field, format!("{want:?}"), format!("{have:?}"));
        }
    }

    fn compare_duration(&mut self, field: &str, want: Duration, have: Duration) {
        if want != have {
            self.add_difference(
                DifferenceClass::Changeable,
                field,
                format_duration(want),
                format_duration(have),
            );
        }
    }

    /// A switch that can be turned on but never off again.
    fn compare_latch(&mut self, field: &str, want: bool, have: bool) {
        let class = if have { DifferenceClass::Irreversible } else { DifferenceClass::Changeable };
        self.compare_field(field, &want, &have, class);
    }

    /// A switch that can't be turned off again and does no harm: a newer version may have turned it on, and an older one still
    /// runs. A role that needs it can't write without it.
    fn compare_feature(&mut self, field: &str, want: bool, have: bool) {
        if want && !have {
            self.compare_field(field, &want, &have, DifferenceClass::Absent);
        }
    }

    /// A missing one is as bad as a missing stream; one too many is not.
    fn compare_subjects(&mut self, field: &str, want: &BTreeSet<&str>, have: &BTreeSet<&str>) {
        if want == have {
            return;
        }
        let class = if want.is_subset(have) { DifferenceClass::Changeable } else { DifferenceClass::Absent };
        self.add_difference(class, field, format!("{want:?}"), format!("{have:?}"));
    }
}

/// The whole asset is missing.
pub(super) fn missing_asset(asset: String) -> TopologyDifference {
    TopologyDifference {
        asset,
        field: String::new(),
        want: "there".into(),
        have: "missing".into(),
        class: DifferenceClass::Absent,
    }
}

/// Compares what the file says of a stream; what it does not mention is the operator's own.
pub(super) fn compare_streams(want: &stream::Config, have: &stream::Config) -> Vec<TopologyDifference> {
    use DifferenceClass::{Changeable, Irreversible};
    let mut findings = DifferenceCollector { asset: asset_name(want), found: Vec::new() };
    let f = &mut findings;
    f.compare_subjects("subjects", &subject_set(&want.subjects), &subject_set(&have.subjects));
    f.compare_field("retention", &want.retention, &have.retention, Irreversible);
    f.compare_field("storage", &want.storage, &have.storage, Irreversible);
    f.compare_field("max_consumers", &want.max_consumers, &have.max_consumers, Irreversible);
    f.compare_field("mirror", &mirrored_stream(want), &mirrored_stream(have), Irreversible);
    f.compare_field("asynchronous persistence", &is_asynchronous(want), &is_asynchronous(have), Irreversible);
    f.compare_latch("sealed", false, have.sealed);
    f.compare_latch("deny_delete", want.deny_delete, have.deny_delete);
    f.compare_latch("deny_purge", want.deny_purge, have.deny_purge);
    if want.deny_purge {
        // What nobody may remove must not end by itself either.
        f.compare_latch("allow_message_ttl", want.allow_message_ttl, have.allow_message_ttl);
    } else {
        f.compare_feature("allow_message_ttl", want.allow_message_ttl, have.allow_message_ttl);
    }
    f.compare_feature("allow_message_schedules", want.allow_message_schedules, have.allow_message_schedules);
    f.compare_field("allow_message_counter", &false, &have.allow_message_counter, Irreversible);
    f.compare_duration("max_age", want.max_age, have.max_age);
    f.compare_duration("duplicate_window", want.duplicate_window, have.duplicate_window);
    if let Some(want) = delete_marker_ttl(want) {
        f.compare_duration("markers", want, delete_marker_ttl(have).unwrap_or_default());
    }
    f.compare_field("max_bytes", &want.max_bytes, &have.max_bytes, Changeable);
    f.compare_field("max_message_size", &want.max_message_size, &have.max_message_size, Changeable);
    f.compare_field("max_messages", &want.max_messages, &have.max_messages, Changeable);
    f.compare_field(
        "messages_per_subject_max",
        &want.max_messages_per_subject,
        &have.max_messages_per_subject,
        Changeable,
    );
    f.compare_field("discard", &want.discard, &have.discard, Changeable);
    f.compare_field(
        "discard_new_per_subject",
        &want.discard_new_per_subject,
        &have.discard_new_per_subject,
        Changeable,
    );
    // The server keeps roll-ups on where it has schedules.
    let rollup = want.allow_rollup || have.allow_message_schedules;
    f.compare_field("allow_rollup", &rollup, &have.allow_rollup, Changeable);
    f.compare_field("allow_direct", &want.allow_direct, &have.allow_direct, Changeable);
    f.compare_field(
        "allow_atomic_publish",
        &want.allow_atomic_publish,
        &have.allow_atomic_publish,
        Changeable,
    );
    f.compare_field("no_ack", &want.no_ack, &have.no_ack, Changeable);
    f.compare_field("replicas", &want.num_replicas, &have.num_replicas, Changeable);
    f.compare_field("about", &want.description, &have.description, Changeable);
    if want.consumer_limits.is_some() {
        f.compare_field("consumer_limits", &want.consumer_limits, &have.consumer_limits, Changeable);
    }
    findings.found
}

/// What people read of a stream: `stream EVENTS`, `mirror EVENTS`.
pub(super) fn asset_name(config: &stream::Config) -> String {
    format!("{} {}", if config.mirror.is_some() { "mirror" } else { "stream" }, config.name)
}

fn mirrored_stream(config: &stream::Config) -> Option<(&str, Option<&str>)> {
    let mirror = config.mirror.as_ref()?;
    Some((mirror.name.as_str(), mirror.external.as_ref().map(|external| external.api_prefix.as_str())))
}

fn is_asynchronous(config: &stream::Config) -> bool {
    config.persist_mode == Some(PersistenceMode::Async)
}

/// How long a deletion marker stays; `None` for a stream without any.
fn delete_marker_ttl(config: &stream::Config) -> Option<Duration> {
    config.subject_delete_marker_ttl.filter(|time| !time.is_zero())
}

/// What the server should have: the wanted values, and the operator's own where the file is silent.
pub(super) fn merge_stream_config(want: &stream::Config, have: stream::Config) -> stream::Config {
    let markers = delete_marker_ttl(want).or_else(|| delete_marker_ttl(&have));
    let mut metadata = have.metadata;
    // The server's own, which it sets by itself.
    metadata.retain(|key, _| !key.starts_with("_nats."));
    stream::Config {
        metadata,
        allow_message_ttl: want.allow_message_ttl || have.allow_message_ttl,
        allow_message_schedules: want.allow_message_schedules || have.allow_message_schedules,
        allow_rollup: want.allow_rollup || have.allow_message_schedules,
        subject_delete_marker_ttl: markers,
        republish: have.republish,
        subject_transform: have.subject_transform,
        compression: have.compression,
        placement: have.placement,
        sources: have.sources,
        consumer_limits: want.consumer_limits.clone().or(have.consumer_limits),
        first_sequence: have.first_sequence,
        persist_mode: have.persist_mode,
        allow_batch_publish: have.allow_batch_publish,
        mirror_direct: have.mirror_direct,
        ..want.clone()
    }
}

/// Compares a durable.
pub(super) fn compare_durables(
    asset: String,
    want: &consumer::Config,
    have: &consumer::Config,
) -> Vec<TopologyDifference> {
    use DifferenceClass::{Changeable, Irreversible};
    let mut findings = DifferenceCollector { asset, found: Vec::new() };
    let f = &mut findings;
    f.compare_subjects("filters", &filter_subjects(want), &filter_subjects(have));
    f.compare_field("deliver_subject", &None, &have.deliver_subject, Irreversible);
    f.compare_field("deliver_policy", &want.deliver_policy, &have.deliver_policy, Irreversible);
    f.compare_field("ack_policy", &want.ack_policy, &have.ack_policy, Irreversible);
    f.compare_field("replay_policy", &want.replay_policy, &have.replay_policy, Irreversible);
    f.compare_duration("ack_wait", want.ack_wait, have.ack_wait);
    f.compare_field("ack_pending_max", &want.max_ack_pending, &have.max_ack_pending, Changeable);
    f.compare_field("deliver_max", &want.max_deliver, &have.max_deliver, Changeable);
    f.compare_field("backoff", &want.backoff, &have.backoff, Changeable);
    f.compare_field("headers_only", &want.headers_only, &have.headers_only, Changeable);
    findings.found
}

/// A time in its largest whole unit, as people write it in the file.
fn format_duration(time: Duration) -> String {
    let ms = time.as_millis();
    let units = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000)];
    let whole = units.into_iter().find(|(_, length)| ms > 0 && ms.is_multiple_of(*length));
    whole.map_or_else(|| format!("{ms}ms"), |(unit, length)| format!("{}{unit}", ms / length))
}

fn subject_set(subjects: &[String]) -> BTreeSet<&str> {
    subjects.iter().map(String::as_str).collect()
}

fn filter_subjects(config: &consumer::Config) -> BTreeSet<&str> {
    let one = Some(config.filter_subject.as_str()).filter(|subject| !subject.is_empty());
    config.filter_subjects.iter().map(String::as_str).chain(one).collect()
}

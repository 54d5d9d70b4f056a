use std::time::Duration;

use async_nats::jetstream::{
    Context,
    consumer::{AckPolicy, pull},
    stream::{RetentionPolicy, StorageType},
};
use nats::{
    Bus, BusError, Role,
    testing::TestBroker,
    topology::{self, DifferenceClass, ExpectedLoad, TopologySettings},
};
use schemas::subjects;

/// What differs, in the words people read.
async fn found(context: &Context, settings: &TopologySettings) -> Vec<String> {
    topology::diff_topology(context, settings).await.unwrap().iter().map(ToString::to_string).collect()
}

async fn applied() -> (TestBroker, Bus) {
    let broker = TestBroker::start_with(&TopologySettings::default()).await;
    let bus = broker.bus(Role::Admin).await;
    (broker, bus)
}

fn reason(error: &BusError) -> &str {
    match error {
        BusError::Topology { reason } => reason,
        other => panic!("{other}"),
    }
}

/// Replaces a stream by one that was made differently.
async fn remake(
    context: &Context,
    name: &str,
    change: impl FnOnce(&mut async_nats::jetstream::stream::Config),
) {
    let mut config = context.get_stream(name).await.unwrap().cached_info().config.clone();
    context.delete_stream(name).await.unwrap();
    config.metadata.clear();
    change(&mut config);
    context.create_stream(config).await.unwrap();
}

#[tokio::test]
async fn applying_twice_changes_nothing() {
    let broker = TestBroker::start_empty().await;
    let bus = broker.bus(Role::Admin).await;
    let settings = TopologySettings::default();
    let missing = topology::diff_topology(bus.context(), &settings).await.unwrap();
    assert!(
        missing.iter().all(|d| d.class == DifferenceClass::Absent && d.to_string().ends_with("is missing")),
        "{missing:?}"
    );
    assert_eq!(missing.len(), 7 + 4 + 19 + 9, "streams, mirrors, buckets and durables");
    assert_eq!(topology::apply_topology(bus.context(), &settings).await.unwrap(), missing);
    assert_eq!(topology::diff_topology(bus.context(), &settings).await.unwrap(), []);
    assert_eq!(topology::apply_topology(bus.context(), &settings).await.unwrap(), []);
}

#[tokio::test]
async fn settings_scale_and_shorten() {
    let (_broker, bus) = applied().await;
    let settings = TopologySettings {
        ack_wait: Some(Duration::from_secs(2)),
        max_bytes_percent: 50,
        ..TopologySettings::default()
    };
    let before = found(bus.context(), &settings).await;
    assert_eq!(before.len(), 26 + 4 + 9, "{before:?}");
    assert!(
        before.contains(&"durable index of EVENTS: ack_wait is 30s, should be 2s".to_owned()),
        "{before:?}"
    );
    topology::apply_topology(bus.context(), &settings).await.unwrap();
    assert_eq!(found(bus.context(), &settings).await, Vec::<String>::new());
}

#[tokio::test]
async fn limits_follow_the_load_and_none_goes_below_what_is_stored() {
    let (_broker, bus) = applied().await;
    let context = bus.context();
    let bucket = context.get_key_value("uploads").await.unwrap();
    for number in 0..24 {
        bucket.put(format!("upload.{number}"), vec![0; 900 << 10].into()).await.unwrap();
    }
    let config = async |name: &str| context.get_stream(name).await.unwrap().cached_info().config.clone();
    let load = ExpectedLoad { uploads_per_day: 1, views_per_day: 1, retention_days: 7 };
    let small = TopologySettings { load: Some(load), ..TopologySettings::default() };
    topology::apply_topology(context, &small).await.unwrap();
    let about = |bytes: i64| bytes / 100;
    assert_eq!(about(config("KV_media").await.max_bytes), about(16 << 20));
    assert_eq!(config("EVENTS").await.max_age, Duration::from_secs(7 * 86_400));
    let stored = context.get_stream("KV_uploads").await.unwrap().cached_info().state.bytes;
    let kept = u64::try_from(config("KV_uploads").await.max_bytes).unwrap();
    assert!(kept >= stored && kept < 32 << 20, "{kept} for {stored}");
    assert_eq!(found(context, &small).await, Vec::<String>::new());
    bucket.put("upload.more", vec![0; 900 << 10].into()).await.unwrap();
    // Another load brings other limits, and no load those of the file.
    let large = ExpectedLoad { uploads_per_day: 1_000, ..load };
    topology::apply_topology(context, &TopologySettings { load: Some(large), ..small }).await.unwrap();
    assert!(config("KV_media").await.max_bytes > 1 << 30);
    topology::apply_topology(context, &TopologySettings::default()).await.unwrap();
    assert_eq!(about(config("KV_media").await.max_bytes), about(1 << 30));
}

#[tokio::test]
async fn what_can_be_changed_is_changed_and_an_operators_own_stays() {
    let (_broker, bus) = applied().await;
    let context = bus.context();
    let mut config = context.get_stream("DEAD").await.unwrap().cached_info().config.clone();
    config.max_age = Duration::from_secs(3_600);
    config.subjects.push("letters.>".into());
    config.metadata.insert("cost-centre".into(), "12".into());
    context.update_stream(&config).await.unwrap();
    let durable = pull::Config {
        filter_subject: "evt.media.ready.*".into(),
        ..durable(context, subjects::EVENTS, "upload").await
    };
    context.update_consumer_on_stream(durable, "EVENTS").await.unwrap();
    assert_eq!(
        found(context, &TopologySettings::default()).await,
        [
            r#"stream DEAD: subjects is {"dead.>", "letters.>"}, should be {"dead.>"}"#,
            "stream DEAD: max_age is 1h, should be 90d",
            r#"durable upload of EVENTS: filters is {"evt.media.ready.*"}, should be {"evt.media.reopened.*", "evt.upload.received.*"}"#,
        ]
    );
    topology::apply_topology(context, &TopologySettings::default()).await.unwrap();
    assert_eq!(found(context, &TopologySettings::default()).await, Vec::<String>::new());
    let config = context.get_stream("DEAD").await.unwrap().cached_info().config.clone();
    assert_eq!(config.metadata.get("cost-centre").map(String::as_str), Some("12"));
}

/// An installation of before has the ack wait that all durables had.
#[tokio::test]
async fn the_ack_wait_of_an_older_installation_is_shortened() {
    let (_broker, bus) = applied().await;
    let context = bus.context();
    let names = ["transcode-p0", "transcode-p1", "transcode-p2"];
    for name in names {
        let filter_subject = format!("job.transcode.{}.>", name.rsplit('-').next().unwrap());
        let ack_wait = Duration::from_secs(30);
        let older = pull::Config { ack_wait, filter_subject, ..durable(context, subjects::JOBS, name).await };
        context.update_consumer_on_stream(older, subjects::JOBS).await.unwrap();
    }
    assert_eq!(
        found(context, &TopologySettings::default()).await,
        names.map(|name| format!("durable {name} of JOBS: ack_wait is 30s, should be 6s"))
    );
    topology::apply_topology(context, &TopologySettings::default()).await.unwrap();
    for name in names {
        assert_eq!(durable(context, subjects::JOBS, name).await.ack_wait, Duration::from_secs(6), "{name}");
    }
    let others =
        [(subjects::EVENTS, "upload"), (subjects::EVENTS, "transcode-plan"), (subjects::EVENTS, "index")];
    for (stream, name) in others {
        assert_eq!(durable(context, stream, name).await.ack_wait, Duration::from_secs(30), "{name}");
    }
}

async fn durable(context: &Context, stream: &str, name: &str) -> pull::Config {
    let consumer = context.get_consumer_from_stream::<pull::Config, _, _>(name, stream).await.unwrap();
    let config = consumer.cached_info().config.clone();
    pull::Config {
        durable_name: config.durable_name,
        ack_policy: AckPolicy::Explicit,
        ack_wait: config.ack_wait,
        max_ack_pending: config.max_ack_pending,
        max_deliver: config.max_deliver,
        ..pull::Config::default()
    }
}

#[tokio::test]
async fn what_cannot_be_changed_stops_apply_before_it_changes_anything() {
    let (_broker, bus) = applied().await;
    let context = bus.context();
    remake(context, "PROGRESS", |config| config.storage = StorageType::File).await;
    remake(context, "JOBS", |config| config.retention = RetentionPolicy::Limits).await;
    remake(context, "KV_apikeys", |config| {
        config.deny_purge = true;
        config.allow_rollup = false;
    })
    .await;
    context.delete_stream("KV_cache").await.unwrap();
    let error = topology::apply_topology(context, &TopologySettings::default()).await.unwrap_err();
    for says in [
        "stream PROGRESS: storage is File, should be Memory (can't be changed in place)",
        "stream JOBS: retention is Limits, should be WorkQueue (can't be changed in place)",
        "stream KV_apikeys: deny_purge is true, should be false (can't be changed in place)",
        "Nothing was changed",
        "nats stream backup",
    ] {
        assert!(reason(&error).contains(says), "{error}");
    }
    assert!(context.get_stream("KV_cache").await.is_err(), "nothing was created");
}

#[tokio::test]
async fn guards_are_added_and_what_was_turned_on_stays_on() {
    let (_broker, bus) = applied().await;
    let context = bus.context();
    remake(context, "AUDIT", |config| {
        config.deny_delete = false;
        config.deny_purge = false;
        config.allow_message_ttl = true;
    })
    .await;
    let found = topology::diff_topology(context, &TopologySettings::default()).await.unwrap();
    let classes: Vec<(&str, DifferenceClass)> = found.iter().map(|d| (d.field.as_str(), d.class)).collect();
    assert_eq!(
        classes,
        [
            ("deny_delete", DifferenceClass::Changeable),
            ("deny_purge", DifferenceClass::Changeable),
            ("allow_message_ttl", DifferenceClass::Irreversible)
        ]
    );
    remake(context, "AUDIT", |config| {
        config.deny_delete = false;
        config.deny_purge = false;
        config.allow_message_ttl = false;
    })
    .await;
    topology::apply_topology(context, &TopologySettings::default()).await.unwrap();
    let guarded = context.get_stream("AUDIT").await.unwrap().cached_info().config.clone();
    assert!(guarded.deny_delete && guarded.deny_purge);
}

#[tokio::test]
async fn what_a_newer_version_turned_on_stops_no_older_one() {
    let (broker, bus) = applied().await;
    let context = bus.context();
    let stays = |name: &'static str| async move {
        context.get_stream(name).await.unwrap().cached_info().config.clone()
    };
    let mut config = stays("KV_apikeys").await;
    (config.allow_message_ttl, config.subject_delete_marker_ttl) = (true, Some(Duration::from_secs(60)));
    context.update_stream(&config).await.unwrap();
    let mut config = stays("DEAD").await;
    (config.allow_message_schedules, config.allow_rollup) = (true, true);
    context.update_stream(&config).await.unwrap();
    assert_eq!(found(context, &TopologySettings::default()).await, Vec::<String>::new());
    for role in Role::ALL {
        topology::verify_topology(broker.bus(role).await.context(), role).await.unwrap();
    }
    // Something else of the same streams is brought to the file, and what was turned on stays.
    let other = TopologySettings { max_bytes_percent: 50, ..TopologySettings::default() };
    topology::apply_topology(context, &other).await.unwrap();
    assert_eq!(found(context, &other).await, Vec::<String>::new());
    let bucket = stays("KV_apikeys").await;
    assert!(bucket.allow_message_ttl);
    assert_eq!(bucket.subject_delete_marker_ttl, Some(Duration::from_secs(60)));
    assert!(stays("DEAD").await.allow_message_schedules);
}

#[tokio::test]
async fn every_role_finds_what_it_needs_with_its_own_rights() {
    let broker = TestBroker::start().await;
    for role in Role::ALL {
        let bus = broker.bus(role).await;
        topology::verify_topology(bus.context(), role)
            .await
            .unwrap_or_else(|error| panic!("{}: {error}", role.name()));
    }
}

#[tokio::test]
async fn a_role_refuses_to_start_only_without_what_it_needs() {
    let (broker, admin) = applied().await;
    let context = admin.context();
    context.delete_consumer_from_stream("index", "EVENTS").await.unwrap();
    context.delete_stream("KV_apikeys").await.unwrap();
    remake(context, "PROGRESS", |config| config.storage = StorageType::File).await;
    let mut config = context.get_stream("DEAD").await.unwrap().cached_info().config.clone();
    config.subjects = vec!["dead.upload.>".into()];
    context.update_stream(&config).await.unwrap();
    let cases = [
        (Role::Ingress, &["stream KV_apikeys is missing", "streamgate nats apply"][..]),
        (Role::Index, &["durable index of EVENTS is missing", "DEAD: subjects"]),
        (Role::Transcode, &["stream DEAD: subjects"]),
        (Role::Audit, &[]),
        (Role::Monitor, &[]),
        (Role::Admin, &[]),
    ];
    for (role, says) in cases {
        let bus = broker.bus(role).await;
        let verified = topology::verify_topology(bus.context(), role).await;
        match (&verified, says) {
            (Ok(()), []) => {}
            (Err(error), says) => {
                assert!(says.iter().all(|says| reason(error).contains(says)), "{}: {error}", role.name());
            }
            (Ok(()), says) => panic!("{}: {says:?}", role.name()),
        }
    }
    // What is missing comes first, what can't be changed after.
    topology::apply_topology(context, &TopologySettings::default()).await.unwrap_err();
    context.delete_stream("PROGRESS").await.unwrap();
    topology::apply_topology(context, &TopologySettings::default()).await.unwrap();
    for role in Role::ALL {
        topology::verify_topology(broker.bus(role).await.context(), role).await.unwrap();
    }
}

#[tokio::test]
async fn a_bucket_from_before_gets_its_ends_in_place() {
    let (broker, admin) = applied().await;
    let context = admin.context();
    remake(context, "KV_jobs", |config| {
        (config.allow_message_ttl, config.subject_delete_marker_ttl) = (false, None);
    })
    .await;
    context.publish("$KV.jobs.old", "kept".into()).await.unwrap().await.unwrap();
    let before = context.get_stream("KV_jobs").await.unwrap().cached_info().clone();
    // A role that writes ends can't run on it yet.
    let keeper = broker.bus(Role::Keeper).await;
    let refused = topology::verify_topology(keeper.context(), Role::Keeper).await.unwrap_err();
    assert!(
        reason(&refused).contains("stream KV_jobs: allow_message_ttl is false, should be true"),
        "{refused}"
    );
    assert!(reason(&refused).contains("streamgate nats apply"), "{refused}");
    topology::apply_topology(context, &TopologySettings::default()).await.unwrap();
    topology::verify_topology(keeper.context(), Role::Keeper).await.unwrap();
    let after = context.get_stream("KV_jobs").await.unwrap().cached_info().clone();
    assert_eq!((after.created, after.state.messages), (before.created, 1), "the same bucket");
    let marker_ttl = Duration::from_millis(schemas::REMOVAL_MARKER_MS);
    assert_eq!(after.config.subject_delete_marker_ttl, Some(marker_ttl), "what readers count on");
}

#[tokio::test]
async fn memory_streams_that_the_server_forgot_are_made_anew_and_no_others() {
    let settings = TopologySettings::default();
    let broker = TestBroker::start_with(&settings).await;
    let (admin, keeper) = (broker.bus(Role::Admin).await, broker.bus(Role::Keeper).await);
    let restored = topology::restore_memory_streams(keeper.context()).await.unwrap();
    assert!(restored.names.is_empty() && restored.mirror_error.is_none(), "all are there: {restored:?}");
    // A file stream that is gone is a loss that has to be seen.
    admin.context().delete_stream("AUDIT").await.unwrap();
    broker.kill_and_wait().await;
    let missing = async || -> Option<Vec<String>> {
        let found = topology::diff_topology(admin.context(), &settings).await.ok()?;
        Some(found.into_iter().map(|difference| difference.asset).collect())
    };
    crate::until("the server forgets its memory stream", || async {
        missing().await.is_some_and(|assets| assets.contains(&"stream PROGRESS".to_owned()))
    })
    .await;
    crate::until("the keeper makes it anew", || async {
        let restored = topology::restore_memory_streams(keeper.context()).await;
        restored.is_ok_and(|restored| restored.mirror_error.is_none())
    })
    .await;
    crate::until("only the file stream is missing", || async {
        missing().await.is_some_and(|assets| assets == ["stream AUDIT"])
    })
    .await;
}

#[test]
fn a_server_as_delivered_may_store_what_is_reserved() {
    let delivered = include_str!("../../node.conf");
    let limit = delivered.lines().find_map(|line| line.trim().strip_prefix("max_file_store: ")).unwrap();
    // A server counts by thousands here.
    let limit_bytes = limit.strip_suffix("GB").unwrap().parse::<u64>().unwrap() * 1_000_000_000;
    let reserved_bytes = topology::reserved_bytes(&TopologySettings::default()).unwrap();
    assert!(reserved_bytes + reserved_bytes / 16 <= limit_bytes, "{reserved_bytes} of {limit_bytes}");
}

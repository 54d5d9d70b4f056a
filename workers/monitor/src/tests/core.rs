//! Counting and exporting, without a broker.

use std::collections::{BTreeMap, BTreeSet};

use alerts::RuleSet;
use schemas::{
    ids::{JobId, MediaId},
    job::JobSucceeded,
    subjects,
};

use super::{ShownMetrics, exported, value};
use crate::{
    DurableStats, StreamStats,
    measure::{self, OTHER},
    stats::PollResult,
};

fn stream(name: &str, last_sequence: u64) -> StreamStats {
    StreamStats {
        stream: name.into(),
        messages: last_sequence,
        size_bytes: 50,
        limit_bytes: Some(100),
        discards_old: false,
        fill_ratio: 0.5,
        first_sequence: 1,
        last_sequence,
    }
}

fn durable(name: &str) -> DurableStats {
    DurableStats {
        stream: "EVENTS".into(),
        durable: name.into(),
        pending: 3,
        unacknowledged: 2,
        unacknowledged_limit: 256,
        redelivered: 1,
        waiting_pulls: 4,
        oldest_age_seconds: 1.5,
    }
}

fn polled(last_sequence: u64) -> PollResult {
    PollResult {
        streams: vec![stream("EVENTS", last_sequence)],
        durables: vec![durable("upload")],
        dead_letters: BTreeMap::from([(OTHER.to_owned(), 0), ("upload".to_owned(), 2)]),
        audit_lag_events: 7,
        audit_lag_seconds: 2.5,
        unread: Vec::new(),
    }
}

fn succeeded() -> (String, Vec<u8>) {
    let event = JobSucceeded {
        job_id: JobId::from_bytes([1; 16]),
        media_id: MediaId::from_bytes([2; 16]),
        owner: "ann".into(),
        kind: "transcode".into(),
        wall_ms: 6_000,
        cpu_ms: 9_000,
        exported: None,
    };
    (subjects::event_subject(&event), nats::encode_message("event", &event).unwrap())
}

#[test]
fn a_fresh_monitor_exports_valid_text_with_all_counters_at_zero() {
    let series = exported(&ShownMetrics::new());
    assert!(series.values().all(|value| *value == 0.0), "{series:?}");
    for (name, label) in [
        ("streamgate_bus_messages", "class=event"),
        ("streamgate_events", "type=media.ready"),
        ("streamgate_events", "type=job.failed"),
        ("streamgate_queued_tasks", "kind=transcode"),
        ("streamgate_advisories", "kind=stream_quorum_lost"),
        ("streamgate_polls", "result=failed"),
        ("streamgate_dead_letter_messages", "stage=other"),
    ] {
        assert!(series.contains_key(&(name.into(), vec![label.into()])), "{name} {label}");
    }
}

#[test]
fn what_is_received_is_counted_by_class_and_type() {
    let metrics = ShownMetrics::new();
    for (subject, payload) in [
        ("evt.media.stored.m1", "12345"),
        ("evt.media.stored.m2", "123"),
        ("evt.job.failed.j1", ""),
        ("job.transcode.p1.j1.v0", "1"),
        ("$KV.media.m1", "1"),
        ("$JS.EVENT.ADVISORY.CONSUMER.MAX_DELIVERIES.EVENTS.upload", "{}"),
        ("$JS.EVENT.ADVISORY.API", "{}"),
        ("something", "1"),
    ] {
        metrics.count_message(subject, payload.as_bytes());
    }
    for (name, label, wanted) in [
        ("streamgate_bus_messages", "class=event", 3.0),
        ("streamgate_bus_payload_bytes", "class=event", 8.0),
        ("streamgate_bus_messages", "class=task", 1.0),
        ("streamgate_bus_messages", "class=record", 1.0),
        ("streamgate_bus_messages", "class=advisory", 2.0),
        ("streamgate_bus_messages", "class=other", 1.0),
        ("streamgate_events", "type=media.stored", 2.0),
        ("streamgate_events", "type=job.failed", 1.0),
        ("streamgate_queued_tasks", "kind=transcode", 1.0),
        ("streamgate_advisories", "kind=consumer_max_deliveries", 1.0),
        ("streamgate_advisories", "kind=api", 1.0),
    ] {
        assert_eq!(value(&metrics, name, &[label]), Some(wanted), "{name} {label}");
    }
    let snapshot = metrics.snapshot();
    assert_eq!(snapshot.events_by_type["media.stored"], 2);
    assert_eq!((snapshot.messages_by_class["event"], snapshot.advisories_by_kind["api"]), (3, 1));
}

#[test]
fn no_subject_adds_a_series() {
    let metrics = ShownMetrics::new();
    let before: BTreeSet<_> = exported(&metrics).into_keys().collect();
    for n in 0..1_000 {
        for subject in [
            format!("evt.media.verb{n}.m"),
            format!("evt.x{n}"),
            format!("evt.a.b.c.{n}"),
            format!("job.kind{n}.p0.j.v"),
            format!("job.{n}"),
            format!("dead.stage{n}.x"),
            format!("$JS.EVENT.ADVISORY.KIND{n}.X"),
            "$JS.EVENT.ADVISORY.".into(),
            format!("\"\n{n}\\"),
            format!("class{n}"),
        ] {
            metrics.count_message(&subject, b"");
        }
    }
    assert_eq!(exported(&metrics).into_keys().collect::<BTreeSet<_>>(), before);
    assert_eq!(value(&metrics, "streamgate_events", &["type=other"]), Some(3_000.0));
    assert_eq!(value(&metrics, "streamgate_queued_tasks", &["kind=other"]), Some(2_000.0));
    assert_eq!(value(&metrics, "streamgate_advisories", &["kind=other"]), Some(2_000.0));
}

#[test]
fn the_durations_of_jobs_are_observed_once_each_and_nonsense_is_not() {
    let metrics = ShownMetrics::new();
    let (subject, payload) = succeeded();
    metrics.count_message(&subject, &payload);
    metrics.count_message(&subject, b"nonsense");
    metrics.count_message("evt.job.failed.j1", &payload);
    assert_eq!(value(&metrics, "streamgate_job_wall_seconds", &[]), Some(1.0));
    assert_eq!(value(&metrics, "streamgate_job_cpu_seconds", &[]), Some(1.0));
    let text = metrics.encode();
    assert!(text.contains("streamgate_job_wall_seconds_sum 6.0"), "{text}");
    assert!(text.contains("streamgate_job_cpu_seconds_sum 9.0"), "{text}");
}

#[test]
fn what_a_poll_found_is_exported() {
    let metrics = ShownMetrics::new();
    metrics.record_poll(polled(10), 4, 1_700_000_000_500);
    let durable = ["durable=upload", "stream=EVENTS"];
    for (name, labels, wanted) in [
        ("streamgate_broker_up", &[][..], 1.0),
        ("streamgate_poll_timestamp_seconds", &[], 1_700_000_000.5),
        ("streamgate_polls", &["result=answered"], 1.0),
        ("streamgate_dropped_messages", &[], 4.0),
        ("streamgate_stream_appends", &["stream=EVENTS"], 10.0),
        ("streamgate_stream_messages", &["stream=EVENTS"], 10.0),
        ("streamgate_stream_bytes", &["stream=EVENTS"], 50.0),
        ("streamgate_stream_limit_bytes", &["stream=EVENTS"], 100.0),
        ("streamgate_stream_fill_ratio", &["stream=EVENTS"], 0.5),
        ("streamgate_durable_pending_messages", &durable, 3.0),
        ("streamgate_durable_unacknowledged_messages", &durable, 2.0),
        ("streamgate_durable_redelivered_messages", &durable, 1.0),
        ("streamgate_durable_waiting_pulls", &durable, 4.0),
        ("streamgate_durable_oldest_age_seconds", &durable, 1.5),
        ("streamgate_dead_letter_messages", &["stage=upload"], 2.0),
        ("streamgate_audit_lag_events", &[], 7.0),
        ("streamgate_audit_lag_seconds", &[], 2.5),
    ] {
        assert_eq!(value(&metrics, name, labels), Some(wanted), "{name} {labels:?}");
    }
    metrics.record_poll_failure();
    assert_eq!(value(&metrics, "streamgate_broker_up", &[]), Some(0.0));
    assert_eq!(value(&metrics, "streamgate_polls", &["result=failed"]), Some(1.0));
    let snapshot = metrics.snapshot();
    assert!(!snapshot.broker_up);
    assert_eq!(snapshot.polled_at_ms, 1_700_000_000_500, "what was found last is still shown, with its time");
}

#[test]
fn appends_only_grow_even_when_a_stream_is_made_anew() {
    let metrics = ShownMetrics::new();
    for (last_sequence, wanted) in [(10, 10.0), (10, 10.0), (14, 14.0), (3, 17.0), (5, 19.0)] {
        metrics.record_poll(polled(last_sequence), 0, 1);
        assert_eq!(value(&metrics, "streamgate_stream_appends", &["stream=EVENTS"]), Some(wanted));
    }
}

#[test]
fn what_is_gone_is_not_exported_any_more() {
    let metrics = ShownMetrics::new();
    metrics.record_poll(PollResult::default(), 0, 1);
    let before: BTreeSet<_> = exported(&metrics).into_keys().collect();
    metrics.record_poll(polled(10), 0, 2);
    assert!(exported(&metrics).len() > before.len());
    metrics.record_poll(PollResult::default(), 0, 3);
    let mut after: BTreeSet<_> = exported(&metrics).into_keys().collect();
    let other = ("streamgate_dead_letter_messages".to_owned(), vec!["stage=other".to_owned()]);
    after.insert(other);
    assert_eq!(after, before);
}

#[test]
fn each_rule_asks_for_declared_metrics_and_each_declaration_names_its_rules() {
    let mut used = BTreeMap::<&str, BTreeSet<String>>::new();
    for rule in RuleSet::built_in().unwrap().rules {
        for selector in rule.selectors() {
            let ends = ["", "_total", "_bucket", "_count"];
            let is_named = |name: &str| ends.iter().any(|end| format!("{name}{end}") == selector.metric);
            let declared = nats::metrics::declarations().find(|declared| is_named(declared.name));
            let declared = declared.unwrap_or_else(|| {
                panic!("{} asks for {}, which nothing counts", rule.name, selector.metric)
            });
            used.entry(declared.name).or_default().insert(rule.name.clone());
        }
    }
    for declared in nats::metrics::declarations() {
        let alerts: Vec<_> = used.remove(declared.name).unwrap_or_default().into_iter().collect();
        assert_eq!(declared.used_by, alerts, "{}", declared.name);
    }
}

#[test]
fn the_classes_of_messages_are_as_many_as_declared() {
    for declared in [&nats::metrics::table::BUS_MESSAGES, &nats::metrics::table::BUS_PAYLOAD_BYTES] {
        let counts: Vec<usize> =
            declared.labels.iter().map(nats::metrics::LabelDeclaration::count_max).collect();
        assert_eq!(counts, [schemas::subjects::MessageClass::ALL.len()], "{}", declared.name);
    }
}

#[test]
fn rules_name_label_values_that_there_are() {
    let metrics = ShownMetrics::new();
    metrics.record_poll(polled(10), 0, 1);
    let series = exported(&metrics);
    let ours = ["streamgate_events_total", "streamgate_advisories_total", "streamgate_polls_total"];
    for selector in RuleSet::built_in().unwrap().rules.iter().flat_map(alerts::AlertRule::selectors) {
        for (label, values) in selector.labels.iter().filter(|_| ours.contains(&selector.metric.as_str())) {
            for value in values {
                let is_there = |labels: &[String]| labels.contains(&format!("{label}={value}"));
                assert!(series.keys().any(|(_, labels)| is_there(labels)), "{selector:?}: {value}");
            }
        }
        // Elsewhere values are those that are declared.
        let declared =
            nats::metrics::declarations().find(|declared| declared.series_name() == selector.metric);
        for label in declared.into_iter().flat_map(|declared| declared.labels) {
            if let nats::metrics::LabelValues::Fixed(known) = label.values {
                let named = selector.labels.get(label.name).into_iter().flatten();
                for value in named.chain(selector.not_labels.get(label.name)) {
                    assert!(known.contains(&value.as_str()), "{selector:?}: {value}");
                }
            }
        }
    }
}

#[test]
fn the_time_until_a_medium_plays_is_observed_once() {
    let metrics = ShownMetrics::new();
    let mut found = Encoded::default();
    schemas::examples::visit_all(&mut found);
    let [received, playable] = ["upload.received", "media.playable"].map(|name| found.0[name].clone());
    metrics.count_message("evt.media.playable.m1", &playable);
    assert_eq!(value(&metrics, "streamgate_media_playable_seconds", &[]), Some(0.0), "nothing was received");
    metrics.count_message("evt.upload.received.u1", &received);
    for _ in 0..2 {
        metrics.count_message("evt.media.playable.m1", &playable);
    }
    assert_eq!(value(&metrics, "streamgate_media_playable_seconds", &[]), Some(1.0));
    metrics.count_message("evt.upload.received.u1", &received);
    let now = std::time::Instant::now();
    metrics.count_missed(now);
    assert_eq!(value(&metrics, "streamgate_media_playable_seconds", &[]), Some(1.0), "there is time yet");
    metrics.count_missed(now + std::time::Duration::from_secs(302));
    metrics.count_message("evt.media.playable.m1", &playable);
    assert_eq!(
        value(&metrics, "streamgate_media_playable_seconds", &[]),
        Some(2.0),
        "it is counted as missed"
    );
    // Nobody waits for what was to wait.
    let mut paused: schemas::upload::UploadReceived =
        nats::decode_message("evt.upload.received.u1", &received).unwrap();
    paused.settings.paused = true;
    let paused = nats::encode_message("upload.received", &paused).unwrap();
    metrics.count_message("evt.upload.received.u1", &paused);
    metrics.count_message("evt.media.playable.m1", &playable);
    assert_eq!(value(&metrics, "streamgate_media_playable_seconds", &[]), Some(2.0));
}

/// Examples by name, as they cross the bus.
#[derive(Default)]
struct Encoded(BTreeMap<String, Vec<u8>>);

impl schemas::examples::ExampleVisitor for Encoded {
    fn visit<M: schemas::examples::ExampleMessage>(&mut self, name: &str, example: M) {
        self.0.insert(name.to_owned(), nats::encode_message(name, &example).unwrap());
    }
}

#[test]
fn counts_are_bounded_and_lose_nothing() {
    let counts = |names: &[&str]| names.iter().map(|name| ((*name).to_owned(), 1)).collect();
    let of = |names: &[&str], max| -> Vec<(String, u64)> {
        measure::limit_series(counts(names), max).into_iter().collect()
    };
    let named = |pairs: &[(&str, u64)]| -> Vec<(String, u64)> {
        pairs.iter().map(|(name, count)| ((*name).to_owned(), *count)).collect()
    };
    assert_eq!(of(&[], 3), named(&[("other", 0)]));
    assert_eq!(of(&["a", "b"], 3), named(&[("a", 1), ("b", 1), ("other", 0)]));
    assert_eq!(of(&["a", "b", "c", "d"], 3), named(&[("a", 1), ("b", 1), ("other", 2)]));
    assert_eq!(of(&["a", "other", "z"], 2), named(&[("a", 1), ("other", 2)]));
    assert_eq!(of(&["a"], 0), named(&[("other", 1)]));
}

#[test]
fn ages_and_shares_are_never_negative_or_endless() {
    for (now_ms, stored_at_ms, wanted) in [(2_500, 1_000, 1.5), (1_000, 1_000, 0.0), (1_000, 2_000, 0.0)] {
        assert!((measure::age_seconds(now_ms, stored_at_ms) - wanted).abs() < f64::EPSILON);
    }
    for (used, limit, wanted) in [(5, Some(10), 0.5), (5, Some(0), 0.0), (5, None, 0.0)] {
        assert!((measure::fill_ratio(used, limit) - wanted).abs() < f64::EPSILON);
    }
}

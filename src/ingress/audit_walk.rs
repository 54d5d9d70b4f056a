//! A walk over all operations and all events: each request is in the audit log by an event of its own or in a sum, and each event belongs
//! to a class of what the log is asked for.

use std::collections::{BTreeMap, BTreeSet};

use nats::{ReaderStart, Role, reader::ReaderConfig};
use schemas::{
    access_sum::{AccessClass, AccessSum, AccessSummed, NO_OPERATION},
    audit::AUDIT_CLASSES,
    catalog, subjects,
};
use serde_json::{Value, json};

use super::{openapi, tests::Site, walk::filled};
use web::operation::Operation;

/// All sums so far, those of earlier calls among them.
async fn read_sums(site: &Site) -> Vec<AccessSum> {
    site.app.access_sums.publish_rest(&site.app.bus, std::time::Duration::from_secs(5)).await;
    let admin = site.broker.bus(Role::Admin).await;
    let filter = vec![subjects::event_filter::<AccessSummed>()];
    let mut reader =
        admin.open_reader(ReaderConfig::new(subjects::EVENTS, filter, ReaderStart::All)).await.unwrap();
    let mut sums = Vec::new();
    for _ in 0..reader.pending_at_start() {
        let entry = reader.next().await.unwrap();
        let event: AccessSummed = nats::decode_message(&entry.subject, &entry.payload).unwrap();
        assert!(event.from_ms <= event.until_ms, "{event:?}");
        sums.extend(event.sums);
    }
    sums
}

/// How often the sums have this.
fn count_of(sums: &[AccessSum], class: AccessClass, what: &str, outcome: &str) -> u64 {
    let is_it = |sum: &&AccessSum| sum.class == class && sum.what == what && sum.outcome == outcome;
    sums.iter().filter(is_it).map(|sum| sum.count).sum()
}

/// `<method> <path>` as sums name it.
fn name(operation: &Operation) -> String {
    format!("{} {}", operation.method, operation.path)
}

#[tokio::test]
async fn each_request_is_audited_by_its_events_or_in_a_sum() {
    let site = Site::start(|config| {
        for rate in [
            &mut config.limit.rates.auth,
            &mut config.limit.rates.transcoder,
            &mut config.limit.rates.worker,
            &mut config.limit.rates.upload,
        ] {
            *rate = config.limit.rates.monitor;
        }
    })
    .await;
    let headers = format!("Authorization: Bearer {}\r\n", site.key);
    let mut silent = BTreeMap::new();
    let mut asked = BTreeSet::new();
    for operation in openapi::all_operations() {
        // What takes any query is done; the rest fails by a parameter that it does not take.
        let path = format!("{}?x-nothing=1", filled(operation.path));
        let before: u64 = read_sums(&site).await.iter().map(|sum| sum.count).sum();
        let answer = site.ask(operation.method.as_str(), &path, &headers, "").await;
        let sums = read_sums(&site).await;
        let counted = sums.iter().map(|sum| sum.count).sum::<u64>() - before;
        let is_published = answer.status < 400 && !operation.events.is_empty();
        if counted != u64::from(!is_published) {
            silent.insert(name(operation), (answer.status, counted));
        }
        let is_named = sums.iter().any(|sum| sum.what == name(operation));
        // A refused credential is summed by itself, whatever it was shown for.
        if !is_published && !is_named && answer.status != 401 {
            silent.insert(name(operation), (answer.status, counted));
        }
        asked.insert(name(operation));
    }
    assert!(silent.is_empty(), "answered, and neither published nor summed once: {silent:?}");
    assert_eq!(asked.len(), openapi::all_operations().len());
}

#[tokio::test]
async fn questions_about_credentials_and_entries_are_summed_by_their_outcome() {
    let site = Site::start(|_| {}).await;
    let json = "Content-Type: application/json\r\n";
    let key_id = site.key.rsplit_once('_').unwrap().0;
    let wrong = format!("{key_id}_wrong");
    for (token, active) in [(&site.key, true), (&wrong, false), (&wrong, false)] {
        let answer = site.ask("POST", "/v1/auth/verify", json, &json!({ "token": token }).to_string()).await;
        let found: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(found["active"], active, "{answer:?}");
    }
    let admin = format!("{json}Authorization: Bearer {}\r\n", site.key);
    assert_eq!(site.ask("POST", "/v1/auth/nft", &admin, "{}").await.status, 400);
    assert_eq!(site.ask("GET", "/v1/cache/entries/none", &admin, "").await.status, 404);
    let sums = read_sums(&site).await;
    let verify = "POST /v1/auth/verify";
    assert_eq!(count_of(&sums, AccessClass::Authentication, verify, "active"), 1, "{sums:?}");
    assert_eq!(count_of(&sums, AccessClass::Authentication, verify, "inactive"), 2, "{sums:?}");
    assert_eq!(count_of(&sums, AccessClass::Authentication, "POST /v1/auth/nft", "json_invalid"), 1);
    assert_eq!(count_of(&sums, AccessClass::Cache, "GET /v1/cache/entries/{key}", "cache_miss"), 1);
    let inactive = sums.iter().find(|sum| sum.outcome == "inactive").unwrap();
    assert_eq!(inactive.who.as_deref(), Some(key_id), "its public half alone");
}

#[tokio::test]
async fn refusals_are_summed_by_credential_and_code() {
    let site = Site::start(|_| {}).await;
    let key_id = site.key.rsplit_once('_').unwrap().0;
    for (shown, times) in [("wrong", 2), (&*format!("{key_id}_wrong"), 3)] {
        for _ in 0..times {
            let headers = format!("Authorization: Bearer {shown}\r\n");
            assert_eq!(site.ask("GET", "/v1/media", &headers, "").await.status, 401);
        }
    }
    assert_eq!(site.ask("GET", "/v1/media", "", "").await.status, 401);
    let json = "Content-Type: application/json\r\n";
    assert_eq!(site.ask("POST", "/v1/auth/refresh", json, "{\"refresh_token\":\"none\"}").await.status, 401);
    let foreign = format!("{json}Origin: https://evil.example\r\n");
    assert_eq!(site.ask("POST", "/v1/auth/challenge", &foreign, "").await.status, 403);
    let sums = read_sums(&site).await;
    for (what, outcome, count) in [
        ("unknown", "unauthorized", 2),
        ("api_key", "unauthorized", 3),
        ("none", "unauthorized", 1),
        ("POST /v1/auth/refresh", "session_over", 1),
        ("POST /v1/auth/challenge", "origin_refused", 1),
    ] {
        assert_eq!(count_of(&sums, AccessClass::Refusal, what, outcome), count, "{what}: {sums:?}");
    }
    let text = serde_json::to_string(&sums).unwrap();
    assert!(text.contains(key_id) && !text.contains("wrong"), "{text}");
}

#[tokio::test]
async fn requests_for_nothing_and_those_beyond_a_limit_are_summed_and_kept_for_a_second() {
    let site = Site::start(|config| {
        config.limit.rates.monitor.capacity = 8;
        config.limit.rates.monitor.refill_per_s = 1;
    })
    .await;
    let mut refused = 0;
    while refused < 3 {
        let answer = site.ask("GET", "/livez", "", "").await;
        if answer.status == 429 {
            refused += 1;
        } else {
            assert_eq!((answer.status, answer.header("cache-control")), (200, Some("public, max-age=1")));
        }
    }
    let nothing = site.ask("GET", "/nothing", "", "").await;
    assert_eq!(
        (nothing.status, nothing.header("cache-control")),
        (404, Some("public, max-age=1")),
        "probes have a limit of their own"
    );
    assert!(nothing.header("ratelimit-policy").is_some_and(|policy| policy.contains("api-client")));
    assert_eq!(site.ask("DELETE", "/livez", "", "").await.status, 405);
    let sums = read_sums(&site).await;
    assert_eq!(count_of(&sums, AccessClass::Limit, "monitor", "client"), 3, "{sums:?}");
    assert!(count_of(&sums, AccessClass::Probe, "GET /livez", "ok") > 0, "{sums:?}");
    assert_eq!(count_of(&sums, AccessClass::Probe, NO_OPERATION, "not_found"), 1, "{sums:?}");
    assert_eq!(count_of(&sums, AccessClass::Probe, NO_OPERATION, "method_not_allowed"), 1, "{sums:?}");
}

#[test]
fn each_class_has_events_or_sums_and_each_event_and_sum_a_class() {
    let kinds: BTreeSet<String> = catalog::event_entries().into_iter().map(|entry| entry.name).collect();
    let mut in_class = BTreeSet::new();
    let mut summed = BTreeSet::<AccessClass>::new();
    for class in AUDIT_CLASSES {
        assert!(!class.events.is_empty() || !class.sums.is_empty(), "{}", class.name);
        for event in class.events {
            let covered: Vec<&String> = kinds
                .iter()
                .filter(|kind| {
                    event.strip_suffix('*').map_or(*kind == event, |entity| kind.starts_with(entity))
                })
                .collect();
            assert!(!covered.is_empty(), "{}: there is no {event}", class.name);
            in_class.extend(covered);
        }
        summed.extend(class.sums);
    }
    let missing: Vec<&String> = kinds.iter().filter(|kind| !in_class.contains(kind)).collect();
    assert!(missing.is_empty(), "events of no class: {missing:?}");
    assert_eq!(summed.len(), AccessClass::ALL.len(), "sums of no class");
}

#[test]
fn the_classes_are_documented_as_they_are() {
    let documented = include_str!("../../ARCHITECTURE.md");
    let quoted = |texts: Vec<String>| texts.into_iter().map(|text| format!("`{text}`")).collect::<Vec<_>>();
    for class in AUDIT_CLASSES {
        let events = quoted(class.events.iter().map(ToString::to_string).collect()).join(", ");
        let sums =
            class.sums.iter().map(|sum| serde_json::to_value(sum).unwrap().as_str().unwrap().to_owned());
        let row = format!("| {} | {events} | {} |", class.name, quoted(sums.collect()).join(", "));
        assert!(documented.contains(&row), "ARCHITECTURE.md has no row {row}");
    }
}

#[test]
fn each_event_of_an_operation_is_one_that_is_audited() {
    let kinds: BTreeSet<String> = catalog::event_entries().into_iter().map(|entry| entry.name).collect();
    for operation in openapi::all_operations() {
        for event in operation.events {
            assert!(kinds.contains(*event), "{}: {event}", name(operation));
        }
    }
}

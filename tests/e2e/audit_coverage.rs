//! The audit log has what leaves no event of its own: refused credentials, limits that refused, requests for nothing, as sums.

use reqwest::{Method, StatusCode};
use schemas::access_sum::{AccessClass, AccessSum, AccessSummed};
use serde_json::{Value, json};

use crate::harness::{Cluster, Options, WAIT_MAX, poll};

const SETTINGS: &str = "[ingress.limit.rates.cache]\ncapacity = 2\nrefill_per_s = 1\n";

/// The sums of all audit records so far.
async fn audited(cluster: &Cluster) -> Vec<AccessSum> {
    let answer = cluster.request(Method::GET, "/v1/audit?filter=access.summed").send().await.unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
    let lines = answer.text().await.unwrap();
    let records = lines.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let events = records.map(|record| {
        assert_eq!((&record["type"], &record["owner"]), (&json!("access.summed"), &Value::Null));
        serde_json::from_value::<AccessSummed>(record["data"].clone()).unwrap()
    });
    events.flat_map(|event| event.sums).collect()
}

#[tokio::test]
async fn what_is_refused_and_asked_for_nothing_is_audited_as_sums() {
    let options = Options { without_workers: true, ..Options::default() };
    let mut cluster = Cluster::start_with(options, SETTINGS).await;
    cluster.spawn("audit", &["worker", "audit"]);
    let ask = async |credential: &str, path: &str| {
        let request = cluster.http.get(format!("{}{path}", cluster.url)).bearer_auth(credential);
        request.send().await.unwrap().status()
    };
    let key_id = cluster.key.rsplit_once('_').unwrap().0;
    let wrong = format!("{key_id}_0123456789planted");
    for _ in 0..3 {
        assert_eq!(ask(&wrong, "/v1/media").await, StatusCode::UNAUTHORIZED);
    }
    for path in ["/nothing", "/v1/nothing/at/all"] {
        assert_eq!(ask(&cluster.key, path).await, StatusCode::NOT_FOUND);
    }
    let mut beyond = 0;
    while beyond < 4 {
        beyond += u64::from(ask(&cluster.key, "/v1/cache/stats").await == StatusCode::TOO_MANY_REQUESTS);
    }
    let wanted = [
        (AccessClass::Refusal, "api_key", Some(key_id.to_owned()), "unauthorized", 3),
        (AccessClass::Limit, "cache", None, "principal", 4),
        (AccessClass::Probe, "no operation", None, "not_found", 2),
    ];
    // What is summed is published when its process is stopped, whatever is left of the window.
    assert!(cluster.stop("ingress").success());
    let ready = cluster.spawn("ingress", &["ingress", "--listen", "127.0.0.1:0"]);
    ready["url"].as_str().unwrap().clone_into(&mut cluster.url);
    let complete = async || {
        let sums = audited(&cluster).await;
        let has = |(class, what, who, outcome, count): &(AccessClass, &str, Option<String>, &str, u64)| {
            let is_it = |sum: &&AccessSum| {
                (sum.class, sum.what.as_str(), &sum.who, sum.outcome.as_str())
                    == (*class, *what, who, *outcome)
            };
            let found: u64 = sums.iter().filter(is_it).map(|sum| sum.count).sum();
            assert!(found <= *count, "{what} is counted twice: {sums:?}");
            found == *count
        };
        wanted.iter().all(has).then_some(sums)
    };
    let sums = poll(WAIT_MAX, complete).await.expect("sums in the audit log");
    let text = serde_json::to_string(&sums).unwrap();
    assert!(!text.contains("planted"), "{text}");
}

//! Replaying on a real broker.

use futures::StreamExt;
use nats::{Bus, Role, testing::TestBroker};
use schemas::{audit::AuditRecord, ids::MediaId, subjects};
use tokio_util::sync::CancellationToken;

use super::{Publisher, soon};
use crate::{AuditConfig, ReplayQuery, ReplayedRecord, append, replay_records};

async fn replayed(bus: &Bus, query: ReplayQuery) -> Vec<ReplayedRecord> {
    let lines = replay_records(bus, query).await.unwrap();
    soon("the end of the replay", lines.map(Result::unwrap).collect()).await
}

async fn numbers(bus: &Bus, query: ReplayQuery) -> Vec<u64> {
    replayed(bus, query).await.iter().map(|replayed| replayed.n).collect()
}

fn stored_at_ms(replayed: &ReplayedRecord) -> u64 {
    let record: AuditRecord = serde_json::from_slice(&replayed.line).unwrap();
    let time: jiff::Timestamp = record.stored_at.parse().unwrap();
    u64::try_from(time.as_millisecond()).unwrap()
}

/// Records all that was published so far.
async fn record(broker: &TestBroker, publisher: &Publisher) {
    let (bus, stop) = (broker.bus(Role::Audit).await, CancellationToken::new());
    let mut lines = Box::pin(
        replay_records(
            &bus,
            ReplayQuery { from: Some(publisher.events()), follow: true, ..ReplayQuery::default() },
        )
        .await
        .unwrap(),
    );
    let (writer, held) = (bus.clone(), stop.clone());
    let term = tokio::spawn(async move { append::run_term(&writer, &AuditConfig::default(), &held).await });
    soon("the last record", lines.next()).await.unwrap().unwrap();
    stop.cancel();
    soon("the end of the term", term).await.unwrap().unwrap();
}

/// A log of six records in three pairs that were stored at three different times.
async fn three_pairs(broker: &TestBroker, publisher: &mut Publisher) {
    for _ in 0..3 {
        publisher.publish(1).await;
        let stored_ms = nats::now_ms();
        soon("the next millisecond", async {
            while nats::now_ms() <= stored_ms {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }
    record(broker, publisher).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_empty_log_ends_at_once() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Ingress).await;
    assert_eq!(numbers(&bus, ReplayQuery::default()).await, [0; 0]);
    assert_eq!(
        numbers(&bus, ReplayQuery { from: Some(0), since_ms: Some(0), ..ReplayQuery::default() }).await,
        [0; 0]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_come_verbatim_from_a_number_and_by_a_filter() {
    let broker = TestBroker::start().await;
    let mut publisher = Publisher::new(&broker).await;
    three_pairs(&broker, &mut publisher).await;
    let (bus, admin) = (broker.bus(Role::Ingress).await, broker.bus(Role::Admin).await);

    let all = replayed(&bus, ReplayQuery::default()).await;
    let stream = admin.context().get_stream(subjects::AUDIT).await.unwrap();
    assert_eq!(all.iter().map(|r| r.n).collect::<Vec<_>>(), [1, 2, 3, 4, 5, 6]);
    for replayed in &all {
        assert_eq!(replayed.line, stream.get_raw_message(replayed.n).await.unwrap().payload);
    }

    let query = |from: Option<u64>, filter: &str| ReplayQuery {
        from,
        filter: filter.parse().unwrap(),
        ..ReplayQuery::default()
    };
    for (from, filter, wanted) in [
        (Some(0), ">", vec![1, 2, 3, 4, 5, 6]),
        (Some(5), ">", vec![5, 6]),
        (Some(7), ">", vec![]),
        (None, "upload.created", vec![1, 3, 5]),
        (None, "*.terminated", vec![2, 4, 6]),
        (Some(3), "upload.terminated", vec![4, 6]),
        (None, "upload", vec![1, 2, 3, 4, 5, 6]),
        (None, "media", vec![]),
    ] {
        assert_eq!(numbers(&bus, query(from, filter)).await, wanted, "{filter} from {from:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn times_are_those_of_the_events_and_both_ends_are_in() {
    let broker = TestBroker::start().await;
    let mut publisher = Publisher::new(&broker).await;
    three_pairs(&broker, &mut publisher).await;
    let bus = broker.bus(Role::Ingress).await;
    let times: Vec<u64> = replayed(&bus, ReplayQuery::default()).await.iter().map(stored_at_ms).collect();
    assert!(times[1] < times[2] && times[3] < times[4], "{times:?}");

    let query = |from, since_ms, until_ms| ReplayQuery { from, since_ms, until_ms, ..ReplayQuery::default() };
    for (name, query, wanted) in [
        ("since the second pair", query(None, Some(times[2]), None), vec![3, 4, 5, 6]),
        ("since just behind the first", query(None, Some(times[1] + 1), None), vec![3, 4, 5, 6]),
        ("until the second pair", query(None, None, Some(times[3])), vec![1, 2, 3, 4]),
        ("until before the second pair", query(None, None, Some(times[2] - 1)), vec![1, 2]),
        ("only the second pair", query(None, Some(times[2]), Some(times[3])), vec![3, 4]),
        ("a later number wins", query(Some(6), Some(times[2]), None), vec![6]),
        ("a later time wins", query(Some(1), Some(times[4]), None), vec![5, 6]),
        ("since the future", query(None, Some(times[5] + 3_600_000), None), vec![]),
        ("until the past", query(None, None, Some(times[0] - 1)), vec![]),
    ] {
        assert_eq!(numbers(&bus, query).await, wanted, "{name}");
    }
    let terminated = ReplayQuery {
        since_ms: Some(times[2]),
        until_ms: Some(times[5]),
        filter: "upload.terminated".parse().unwrap(),
        ..ReplayQuery::default()
    };
    assert_eq!(numbers(&bus, terminated).await, [4, 6]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_replay_ends_with_its_last_record_or_after_so_many() {
    let broker = TestBroker::start().await;
    let mut publisher = Publisher::new(&broker).await;
    three_pairs(&broker, &mut publisher).await;
    let bus = broker.bus(Role::Ingress).await;
    let terminated = || "upload.terminated".parse().unwrap();
    let query = |from, to, limit| ReplayQuery { from, to, limit, ..ReplayQuery::default() };
    for (name, query, wanted) in [
        ("to the third", query(None, Some(3), None), vec![1, 2, 3]),
        ("only the fourth", query(Some(4), Some(4), None), vec![4]),
        ("to what is not there yet", query(Some(5), Some(9), None), vec![5, 6]),
        ("backwards", query(Some(5), Some(4), None), vec![]),
        ("two", query(None, None, Some(2)), vec![1, 2]),
        ("two from the third on", query(Some(3), None, Some(2)), vec![3, 4]),
        ("more than there are", query(Some(5), None, Some(99)), vec![5, 6]),
        ("whatever ends first", query(Some(2), Some(3), Some(9)), vec![2, 3]),
        ("two of one type", ReplayQuery { filter: terminated(), ..query(None, None, Some(2)) }, vec![2, 4]),
        (
            "of one type to another's",
            ReplayQuery { filter: terminated(), ..query(None, Some(5), None) },
            vec![2, 4],
        ),
    ] {
        for follow in [false, true] {
            // What is followed waits for what is not there yet.
            if follow && query.to.is_none_or(|to| to > 6) && query.limit.is_none_or(|limit| limit > 6) {
                continue;
            }
            let query = ReplayQuery { follow, ..query.clone() };
            assert_eq!(numbers(&bus, query).await, wanted, "{name}, follow: {follow}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn records_are_chosen_by_owner_and_medium() {
    let broker = TestBroker::start().await;
    let mut publisher = Publisher::new(&broker).await;
    three_pairs(&broker, &mut publisher).await;
    let bus = broker.bus(Role::Ingress).await;
    publish_noise(&broker).await;
    let query = |owner: Option<&str>, medium: Option<u8>| ReplayQuery {
        owner: owner.map(str::to_owned),
        media_id: medium.map(|byte| MediaId::from_bytes([byte; 16])),
        ..ReplayQuery::default()
    };
    for (name, query, wanted) in [
        ("what is no record has no owner", query(Some("ann"), None), vec![1, 2, 3, 4, 5, 6]),
        ("nobody", query(Some("an"), None), vec![]),
        ("the second medium", query(None, Some(2)), vec![3, 4]),
        ("no medium", query(None, Some(9)), vec![]),
        ("hers", query(Some("ann"), Some(3)), vec![5, 6]),
        ("not his", query(Some("bob"), Some(3)), vec![]),
        ("the first of hers", ReplayQuery { limit: Some(1), ..query(Some("ann"), Some(3)) }, vec![5]),
        (
            "an end of hers",
            ReplayQuery { filter: "*.terminated".parse().unwrap(), ..query(Some("ann"), Some(1)) },
            vec![2],
        ),
    ] {
        assert_eq!(numbers(&bus, query).await, wanted, "{name}");
    }
}

/// Something in AUDIT that is no record.
async fn publish_noise(broker: &TestBroker) {
    let bus = broker.bus(Role::Audit).await;
    bus.context().publish("audit.media.stored", "noise".into()).await.unwrap().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_goes_on_with_new_records_even_after_the_broker_was_killed() {
    let broker = TestBroker::start().await;
    let mut publisher = Publisher::new(&broker).await;
    publisher.publish(1).await;
    record(&broker, &publisher).await;
    let bus = broker.bus(Role::Ingress).await;
    let query = ReplayQuery { filter: "upload".parse().unwrap(), follow: true, ..ReplayQuery::default() };
    let mut lines = Box::pin(replay_records(&bus, query).await.unwrap());
    for round in 0..3 {
        for n in [round * 2 + 1, round * 2 + 2] {
            assert_eq!(soon("the next record", lines.next()).await.unwrap().unwrap().n, n);
        }
        broker.kill_and_wait().await;
        publisher.publish(1).await;
        record(&broker, &publisher).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn following_until_a_time_ends_behind_it() {
    let broker = TestBroker::start().await;
    let mut publisher = Publisher::new(&broker).await;
    three_pairs(&broker, &mut publisher).await;
    let bus = broker.bus(Role::Ingress).await;
    let until_ms = replayed(&bus, ReplayQuery::default()).await.get(3).map(stored_at_ms);
    assert_eq!(
        numbers(&bus, ReplayQuery { until_ms, follow: true, ..ReplayQuery::default() }).await,
        [1, 2, 3, 4]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_line_without_a_time_is_shown_but_is_none_of_any_time() {
    let broker = TestBroker::start().await;
    publish_noise(&broker).await;
    let bus = broker.bus(Role::Audit).await;
    let shown = replayed(&bus, ReplayQuery::default()).await;
    assert_eq!(shown, [ReplayedRecord { n: 1, line: "noise".into() }]);
    assert_eq!(numbers(&bus, ReplayQuery { since_ms: Some(1), ..ReplayQuery::default() }).await, [0; 0]);
}

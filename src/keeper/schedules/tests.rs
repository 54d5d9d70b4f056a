//! A week of schedules against a clock that the test turns, and one by the broker's clock.

use std::collections::{BTreeMap, BTreeSet};

use nats::{Outbox, Role, VersionedRecord, testing::TestBroker};
use schedule::Timing;
use schemas::{
    ids::{MediaId, ScheduleId},
    schedule::{
        JobRequest, MissedRunPolicy, RunOutcome, RunTrigger, ScheduleFired, ScheduleMissed, ScheduleRun,
        ScheduleTiming, TranscodeJobRequest,
    },
    subjects::JobPriority,
};

use super::*;

const HOUR_MS: u64 = 3_600_000;
/// 2027-10-31T00:00:00Z: an hour before clocks in Europe go back, and a week before those in America do.
const BEGIN_MS: u64 = 1_824_940_800_000;
/// Half a day behind the other change.
const END_MS: u64 = BEGIN_MS + 7 * 24 * HOUR_MS + 12 * HOUR_MS;
/// When no keeper runs.
const AWAY_MS: (u64, u64) = (BEGIN_MS + 60 * HOUR_MS, BEGIN_MS + 111 * HOUR_MS);
const SCHEDULES: usize = 1_000;

fn record(number: usize, timing: ScheduleTiming, now_ms: u64) -> ScheduleRecord {
    let policies = [MissedRunPolicy::Skip, MissedRunPolicy::Once, MissedRunPolicy::All];
    let next_run_at_ms = Timing::parse(&timing, now_ms).unwrap().find_first(now_ms).unwrap();
    ScheduleRecord {
        schedule_id: ScheduleId::from_bytes(nats::new_id_bytes()),
        owner: "olga".into(),
        owner_key: "0".repeat(32),
        created_by: "olga".into(),
        name: String::new(),
        timing,
        missed: policies[number / 4 % 3],
        job: JobRequest::Transcode(TranscodeJobRequest {
            // There is none: each run is refused, and is a run.
            media_id: MediaId::from_bytes([9; 16]),
            profile: None,
            range: None,
            priority: JobPriority::P1,
        }),
        created_at_ms: now_ms,
        next_run_at_ms: Some(next_run_at_ms),
        paused_at_ms: None,
        runs: Vec::new(),
        kept_until_ms: None,
        removed_at_ms: None,
    }
}

fn cron(expression: &str, time_zone: &str) -> ScheduleTiming {
    ScheduleTiming::Cron { expression: expression.into(), time_zone: time_zone.into() }
}

fn timing(number: usize) -> ScheduleTiming {
    let minute = number % 60;
    match number % 4 {
        0 => cron(&format!("{minute} 2 * * *"), "Europe/Berlin"),
        1 => cron(&format!("{minute} 1 * * *"), "America/New_York"),
        2 => ScheduleTiming::Every { interval_ms: 24 * HOUR_MS, first_at_ms: Some(BEGIN_MS + HOUR_MS) },
        _ => cron(&format!("{minute} 3 * * SUN"), "Australia/Lord_Howe"),
    }
}

/// A store in a folder that goes with the test.
fn open_store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let config = store::StoreConfig::from_url(format!("file://{}", folder.path().display()));
    (folder, store::testing::open_test_store(config).unwrap())
}

/// A keeper's timer that has read the bucket.
async fn start_timer(bus: &Bus, store: &Store) -> ScheduleTimer {
    let config = KeeperConfig::default();
    let capacity = CapacityMonitor::new(bus.clone(), store.clone(), config.capacity, &config.uploads);
    let runner = ScheduleRunner {
        bus: bus.clone(),
        store: store.clone(),
        capacity,
        quotas: ingress::quotas::QuotaConfig::default(),
        ended_kept_ms: 1,
    };
    let mut timer = ScheduleTimer::new(runner);
    for (subject, payload) in
        read_all(bus, &subjects::kv_stream_name(ScheduleRecord::BUCKET), "$KV.schedules.>").await
    {
        timer.follow(&subject, &payload);
    }
    timer
}

async fn read_all(bus: &Bus, stream: &str, filter: &str) -> Vec<(String, Vec<u8>)> {
    let start = if stream == subjects::EVENTS { ReaderStart::All } else { ReaderStart::LastPerSubject };
    let settings = reader::ReaderConfig::new(stream, vec![filter.to_owned()], start);
    let mut entries = bus.open_reader(settings).await.unwrap();
    let mut found = Vec::new();
    while let Some(entry) = entries.next_pending().await.unwrap() {
        found.push((entry.subject.clone(), entry.payload.to_vec()));
    }
    found
}

/// The times that are to fire, by their policy, of a schedule that nobody looked at in [`AWAY_MS`].
fn wanted_times(record: &ScheduleRecord) -> BTreeSet<u64> {
    let timing = Timing::parse(&record.timing, record.created_at_ms).unwrap();
    let all = std::iter::successors(timing.find_from(BEGIN_MS), |ms| timing.find_after(*ms));
    let all: Vec<u64> = all.take_while(|ms| *ms <= END_MS).collect();
    let is_missed = |ms: &u64| AWAY_MS.0 < *ms && *ms < AWAY_MS.1 - schedule::LATE_MS_MAX;
    let last_missed = all.iter().copied().rfind(is_missed);
    let fires = |ms: &u64| match record.missed {
        MissedRunPolicy::All => true,
        MissedRunPolicy::Once => !is_missed(ms) || Some(*ms) == last_missed,
        MissedRunPolicy::Skip => !is_missed(ms),
    };
    all.into_iter().filter(fires).collect()
}

#[tokio::test]
async fn each_time_of_a_thousand_schedules_fires_once_in_a_week_of_two_keepers() {
    let broker = TestBroker::start().await;
    let (admin, first, second) =
        (broker.bus(Role::Admin).await, broker.bus(Role::Keeper).await, broker.bus(Role::Keeper).await);
    let (_folder, store) = open_store();
    let records: Vec<ScheduleRecord> =
        (0..SCHEDULES).map(|number| record(number, timing(number), BEGIN_MS)).collect();
    for made in &records {
        admin.commit_record(&mut VersionedRecord::new(made.clone()), Outbox::new()).await.unwrap();
    }
    let mut keepers = [start_timer(&first, &store).await, start_timer(&second, &store).await];
    let (mut now_ms, mut was_away) = (BEGIN_MS, false);
    while now_ms <= END_MS {
        if now_ms > AWAY_MS.0 && !was_away {
            now_ms = AWAY_MS.1;
            was_away = true;
            // Both were restarted; one of them knows what it knew.
            keepers[0] = start_timer(&first, &store).await;
        }
        let [one, two] = &mut keepers;
        tokio::join!(one.run_due(now_ms), two.run_due(now_ms));
        now_ms += one.wait_ms(now_ms).min(two.wait_ms(now_ms)).max(1);
    }
    let mut fired: BTreeMap<ScheduleId, Vec<u64>> = BTreeMap::new();
    for (subject, payload) in
        read_all(&admin, subjects::EVENTS, &subjects::event_filter::<ScheduleFired>()).await
    {
        let event: ScheduleFired = nats::decode_message(&subject, &payload).unwrap();
        fired.entry(event.schedule_id).or_default().push(event.planned_at_ms);
    }
    let mut count = 0;
    for made in &records {
        let mut times = fired.remove(&made.schedule_id).unwrap_or_default();
        times.sort_unstable();
        let wanted: Vec<u64> = wanted_times(made).into_iter().collect();
        assert_eq!(times, wanted, "{:?} {:?}", made.timing, made.missed);
        count += times.len();
    }
    assert!(count > 4 * SCHEDULES, "{count}");
    let missed = read_all(&admin, subjects::EVENTS, &subjects::event_filter::<ScheduleMissed>()).await;
    assert!(missed.len() > SCHEDULES / 4, "{}", missed.len());
}

#[tokio::test]
async fn what_a_newer_version_made_is_looked_at_now_and_then_only() {
    let broker = TestBroker::start().await;
    let (admin, keeper) = (broker.bus(Role::Admin).await, broker.bus(Role::Keeper).await);
    let (_folder, store) = open_store();
    let once = ScheduleTiming::Once { at_ms: BEGIN_MS };
    let job = RunOutcome::Starting { job: Box::new(JobRequest::Unknown), attempt_before: 0 };
    let run = ScheduleRun { planned_at_ms: 1, fired_at_ms: 1, trigger: RunTrigger::Time, outcome: job };
    let kind = ScheduleRecord { job: JobRequest::Unknown, ..record(0, once.clone(), BEGIN_MS) };
    let begun = ScheduleRecord { runs: vec![run], ..record(1, once, BEGIN_MS) };
    for made in [&kind, &begun] {
        admin.commit_record(&mut VersionedRecord::new(made.clone()), Outbox::new()).await.unwrap();
    }
    let mut timer = start_timer(&keeper, &store).await;
    let mut now_ms = BEGIN_MS;
    for _ in 0..3 {
        timer.run_due(now_ms).await;
        assert_eq!(timer.wait_ms(now_ms), RETRY_MS, "no turn follows the other without a pause");
        now_ms += RETRY_MS;
    }
    for made in [kind, begun] {
        let kept = admin.load_record::<ScheduleRecord>(&made.key()).await.unwrap().unwrap();
        assert_eq!(kept.record, made);
    }
}

#[tokio::test]
async fn a_keeper_fires_what_is_made_and_changed_while_it_runs() {
    let broker = TestBroker::start().await;
    let (admin, keeper) = (broker.bus(Role::Admin).await, broker.bus(Role::Keeper).await);
    let (_folder, store) = open_store();
    let stop = CancellationToken::new();
    let running = tokio::spawn(run_schedules(keeper, store, KeeperConfig::default(), stop.clone()));
    let mut events = admin.subscribe_core(subjects::event_filter::<ScheduleFired>()).await.unwrap();
    let now_ms = nats::now_ms();
    // Its time comes in a moment; another one is brought forward.
    let soon = record(0, ScheduleTiming::Once { at_ms: now_ms + 1_500 }, now_ms);
    let late = record(1, ScheduleTiming::Once { at_ms: now_ms + 24 * HOUR_MS }, now_ms);
    for made in [&soon, &late] {
        admin.commit_record(&mut VersionedRecord::new(made.clone()), Outbox::new()).await.unwrap();
    }
    let sooner = |found: Option<&ScheduleRecord>| {
        let at_ms = now_ms + 1_000;
        let timing = ScheduleTiming::Once { at_ms };
        Some((ScheduleRecord { timing, next_run_at_ms: Some(at_ms), ..found?.clone() }, Outbox::new()))
    };
    admin.change_record(&late.key(), sooner).await.unwrap();
    let mut fired = Vec::new();
    for _ in 0..2 {
        let message = events.next().await.unwrap();
        let event: ScheduleFired = nats::decode_message(&message.subject, &message.payload).unwrap();
        assert!(nats::now_ms() >= event.planned_at_ms, "not before its time");
        fired.push(event.schedule_id);
    }
    assert_eq!(fired, [late.schedule_id, soon.schedule_id]);
    stop.cancel();
    running.await.unwrap();
}

//! Claims against a real broker that goes away: who is missed, and what becomes of a change whose answer was lost.

use std::{pin::Pin, time::Duration};

use async_nats::jetstream;
use nats::{
    Bus, Outbox, Role, VersionedRecord,
    testing::{TestBroker, TestCluster},
};
use schemas::{
    KvRecord as _,
    job::{self, JobPartRecord, JobPartStatus},
    subjects,
};

use crate::{
    BrokerUptime, ClaimOutcome, PartAttemptFailure, PartClaim, RENEW_PERIOD_MAX,
    claim::tests::{FRESH, ask, ask_as, job},
};

/// A holder of a part, and another worker that would like to have it.
struct Rivals {
    other: Bus,
    uptime: BrokerUptime,
    job: job::JobRecord,
    claim: Box<PartClaim>,
}

/// A new job, and its first part held.
async fn claim_first_part(bus: &Bus) -> (job::JobRecord, Box<PartClaim>) {
    let job = job();
    bus.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
    let ClaimOutcome::Ours(claim) = ask(bus, &job, "v0000").await else { panic!("the part is free") };
    (job, claim)
}

impl Rivals {
    async fn start_at(broker: &TestBroker) -> Self {
        Self::start(broker.bus(Role::Transcode).await, broker.bus(Role::Transcode).await).await
    }

    async fn start(bus: Bus, other: Bus) -> Self {
        let (job, claim) = claim_first_part(&bus).await;
        Self { other, uptime: BrokerUptime::default(), job, claim }
    }

    /// Holds the part until `ends`, as a worker does that lives, and lets the other one ask for it all the time.
    async fn contend(&self, mut ends: impl FnMut(&BrokerUptime) -> bool) {
        let start = tokio::time::Instant::now() + RENEW_PERIOD_MAX;
        let mut renewals = tokio::time::interval_at(start, RENEW_PERIOD_MAX);
        let mut looks = tokio::time::interval(Duration::from_millis(50));
        while !ends(&self.uptime) {
            tokio::select! {
                _ = renewals.tick() => match self.claim.renew(|_| {}).await {
                    Ok(is_ours) => assert!(is_ours, "the part was taken"),
                    Err(error) => assert!(error.is_outage(), "{error}"),
                },
                _ = looks.tick() => drop(self.ask_for_held().await),
            }
        }
    }

    /// The other one asks for the part once. False when the broker did not answer.
    async fn ask_for_held(&self) -> bool {
        match ask_as("another", &self.uptime, &self.other, &self.job, "v0000").await {
            Ok(ClaimOutcome::Held(_)) => true,
            Ok(_) => panic!("a part can be had whose holder lives"),
            Err(error) => {
                assert!(error.is_outage(), "{error}");
                false
            }
        }
    }

    /// The broker is away meanwhile; when it is back, the other one is the first to ask, and the holder shows itself as late as it may.
    async fn outlast(&self, away: impl AsyncFnOnce()) {
        let test = async {
            self.contend(|uptime| uptime.unbroken_for() >= FRESH).await;
            away().await;
            while !self.ask_for_held().await {}
            assert!(self.uptime.unbroken_for() < FRESH, "the broker was away");
            self.contend(|uptime| uptime.unbroken_for() >= FRESH).await;
            assert!(self.claim.write_change(|_| {}).await.unwrap());
        };
        self.watched(Box::pin(test)).await;
    }

    /// Runs `test` while the other one asks all the time whether the broker is there, as each worker does.
    async fn watched(&self, test: Pin<Box<impl Future<Output = ()>>>) {
        tokio::select! {
            () = test => {}
            () = self.uptime.watch_broker(&self.other) => {}
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_wakes_takes_nothing_from_a_holder() {
    let broker = TestBroker::start().await;
    let rivals = Rivals::start_at(&broker).await;
    rivals
        .outlast(async || {
            broker.freeze();
            // The fault itself: longer than a holder may be unseen.
            tokio::time::sleep(FRESH + Duration::from_secs(1)).await;
            broker.thaw();
        })
        .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_comes_back_takes_nothing_from_a_holder() {
    let broker = TestBroker::start().await;
    let rivals = Rivals::start_at(&broker).await;
    rivals
        .outlast(async || {
            broker.freeze();
            tokio::time::sleep(FRESH + Duration::from_secs(1)).await;
            broker.kill_and_wait().await;
        })
        .await;
}

/// The next leader is elected in about the time after which a holder is missed, and nobody can show itself meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_leader_takes_nothing_from_a_holder() {
    let mut cluster = TestCluster::start().await;
    let admin = cluster.bus(Role::Admin).await;
    let rivals = Rivals::start(cluster.bus(Role::Transcode).await, cluster.bus(Role::Transcode).await).await;
    let stream = subjects::kv_stream_name(JobPartRecord::BUCKET);
    rivals
        .outlast(async || {
            let stream = admin.context().get_stream(stream).await.unwrap();
            let leader = stream.cached_info().cluster.as_ref().and_then(|found| found.leader.clone());
            cluster.kill_server(cluster.index_of_name(&leader.unwrap()).unwrap());
        })
        .await;
}

/// The broker answers every question, and says the time, but stores nothing for longer than a holder may be unseen: who is the first
/// when it does again, the holder keeps its part.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_stores_nothing_takes_nothing_from_a_holder() {
    let broker = TestBroker::start().await;
    let admin = broker.bus(Role::Admin).await;
    let rivals = Rivals::start_at(&broker).await;
    let stream = admin.context().get_stream(subjects::kv_stream_name(JobPartRecord::BUCKET)).await.unwrap();
    let open = stream.cached_info().config.clone();
    let elsewhere = vec![format!("$KV.{}.elsewhere", JobPartRecord::BUCKET)];
    let without_writes = jetstream::stream::Config { subjects: elsewhere, ..open.clone() };
    let test = async {
        admin.context().update_stream(&without_writes).await.unwrap();
        let until = tokio::time::Instant::now() + FRESH * 2;
        rivals.contend(|_| tokio::time::Instant::now() >= until).await;
        assert!(rivals.uptime.unbroken_for() > FRESH, "the broker answered");
        assert!(rivals.claim.renew(|_| {}).await.is_err(), "it was stored");
        admin.context().update_stream(&open).await.unwrap();
        while !rivals.ask_for_held().await {}
        let until = tokio::time::Instant::now() + FRESH;
        rivals.contend(|_| tokio::time::Instant::now() >= until).await;
        assert!(rivals.claim.write_change(|_| {}).await.unwrap());
    };
    rivals.watched(Box::pin(test)).await;
}

/// One try is dropped halfway: whether it was stored or not, the next one goes on from there, also where it ended the part.
#[tokio::test]
async fn a_change_whose_answer_was_lost_is_found_out_by_the_next_try() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Transcode).await;
    let job = job();
    bus.commit_record(&mut VersionedRecord::new(job.clone()), Outbox::new()).await.unwrap();
    for (part, status) in [("v0000", JobPartStatus::Claimed), ("v0001", JobPartStatus::Done)] {
        let ClaimOutcome::Ours(claim) = ask(&bus, &job, part).await else { panic!("{part} is free") };
        // Stored, and nothing known of it.
        let key = subjects::part_key(job.job_id, part);
        let mut stored = bus.load_record::<JobPartRecord>(&key).await.unwrap().unwrap();
        stored.record.status = status;
        bus.commit_record(&mut stored, Outbox::new()).await.unwrap();
        assert!(claim.write_change(|part| part.status = status).await.unwrap(), "{part}");
        let found = bus.load_record::<JobPartRecord>(&key).await.unwrap().unwrap().record;
        assert_eq!((found.status, found.worker.as_str()), (status, "w"), "{part}");
    }
}

#[tokio::test]
async fn a_claim_that_was_let_go_is_not_shown_any_more() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Transcode).await;
    let (job, claim) = claim_first_part(&bus).await;
    assert!(claim.release("code", "detail", PartAttemptFailure::Interrupted).await.unwrap());
    assert!(claim.renew(|_| {}).await.unwrap());
    assert!(matches!(ask(&bus, &job, "v0000").await, ClaimOutcome::Ours(_)), "nobody holds it");
}

/// It is let go since its end could not be written at first.
#[tokio::test]
async fn a_part_that_is_made_stays_so_when_it_is_let_go() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Transcode).await;
    let (job, claim) = claim_first_part(&bus).await;
    assert!(claim.write_change(|part| part.status = JobPartStatus::Done).await.unwrap());
    assert!(claim.release("broker_unavailable", "away", PartAttemptFailure::Interrupted).await.unwrap());
    let key = subjects::part_key(job.job_id, "v0000");
    let found = bus.load_record::<JobPartRecord>(&key).await.unwrap().unwrap().record;
    assert_eq!((found.status, found.code, found.is_interrupted), (JobPartStatus::Done, None, false));
}

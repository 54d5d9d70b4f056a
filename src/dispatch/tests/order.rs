//! The order of turns, without a broker.

use std::collections::{BTreeMap, HashMap};

use proptest::prelude::*;
use schemas::{
    ids::JobId,
    job::JobKind,
    pause::{QueuePause, QueuePauses},
    subjects::JobPriority,
};
use tokio::time::Instant;

use crate::{
    config::DispatchConfig,
    queue::{FairQueue, WaitingJob},
    state::DispatchState,
};

fn job_id(number: u64) -> JobId {
    let mut bytes = [0; 16];
    bytes[8..].copy_from_slice(&number.to_be_bytes());
    JobId::from_bytes(bytes)
}

fn waiting(number: u64, owner: &str, priority: JobPriority) -> WaitingJob {
    WaitingJob {
        job_id: job_id(number),
        kind: JobKind::Transcode,
        owner: owner.into(),
        priority,
        created_at_ms: number,
        options_version: "".into(),
    }
}

/// Jobs of one part each; answers owners in the order of their turns.
fn serve(queue: &mut FairQueue, owners: &HashMap<JobId, String>, cost: u64, turns: usize) -> Vec<String> {
    let mut served = Vec::new();
    for _ in 0..turns {
        let Some(next) = queue.next() else { break };
        queue.charge(next, cost);
        queue.remove(next);
        served.push(owners[&next].clone());
    }
    served
}

/// A queue with jobs of one priority, `(owner, how many)`, and whose each is.
fn filled(wanted: &[(&str, u64)], weights: &[(&str, u32)]) -> (FairQueue, HashMap<JobId, String>) {
    let weights = weights.iter().map(|(owner, weight)| ((*owner).to_owned(), *weight));
    let (mut queue, mut owners, mut number) = (FairQueue::new(weights), HashMap::new(), 0);
    for (owner, count) in wanted {
        for _ in 0..*count {
            number += 1;
            owners.insert(job_id(number), (*owner).to_owned());
            queue.insert(&waiting(number, owner, JobPriority::P1));
        }
    }
    (queue, owners)
}

proptest! {
    /// Whatever the parts of the others cost, and whenever it comes: of `n` owners that wait, each goes first at most once.
    #[test]
    fn a_new_owner_waits_for_one_part_of_each_other(
        owners in 1_u64..12,
        costs in prop::collection::vec(1_u64..100_000, 1..200),
        weights in prop::collection::vec(1_u32..9, 12),
    ) {
        let weights = (0..owners).map(|i| (format!("o{i}"), weights[usize::try_from(i).unwrap()]));
        let mut queue = FairQueue::new(weights);
        for i in 0..owners {
            queue.insert(&waiting(i, &format!("o{i}"), JobPriority::P1));
        }
        // Every one has one endless job.
        for cost in costs {
            let next = queue.next().unwrap();
            queue.charge(next, cost);
        }
        queue.insert(&waiting(1_000, "new", JobPriority::P1));
        let mut before = BTreeMap::new();
        while let Some(next) = queue.next().filter(|next| *next != job_id(1_000)) {
            *before.entry(next).or_insert(0) += 1;
            queue.charge(next, 1);
            prop_assert!(before.len() <= usize::try_from(owners).unwrap());
            prop_assert!(before.values().all(|count| *count == 1), "{before:?}");
        }
    }

    /// What was put in comes out, once, whatever is done between.
    #[test]
    fn nothing_is_lost_or_served_twice(steps in prop::collection::vec((0_u64..40, 0_usize..4, 0_u8..4), 1..300)) {
        let (mut queue, mut expected) = (FairQueue::default(), std::collections::BTreeSet::new());
        for (number, owner, step) in steps {
            let priority = JobPriority::ALL[usize::try_from(number % 3).unwrap()];
            match step {
                0 | 1 => {
                    queue.insert(&waiting(number, &format!("o{owner}"), priority));
                    expected.insert(job_id(number));
                }
                2 => prop_assert_eq!(queue.remove(job_id(number)).is_some(), expected.remove(&job_id(number))),
                _ => {
                    if let Some(next) = queue.next() {
                        prop_assert!(expected.contains(&next));
                        queue.charge(next, number + 1);
                        queue.promote_aged(number, 5);
                    }
                }
            }
            prop_assert_eq!(queue.len(), expected.len());
        }
        while let Some(next) = queue.next() {
            prop_assert!(expected.remove(&next), "served twice");
            queue.charge(next, 1);
            queue.remove(next);
        }
        prop_assert!(expected.is_empty() && queue.is_empty());
    }
}

#[test]
fn owners_share_by_cost_and_weight() {
    let (mut queue, owners) = filled(&[("flood", 900), ("small", 300), ("paying", 900)], &[("paying", 3)]);
    let mut turns = BTreeMap::new();
    for owner in serve(&mut queue, &owners, 7, 500) {
        *turns.entry(owner).or_insert(0) += 1;
    }
    assert_eq!(turns, BTreeMap::from([("flood".into(), 100), ("small".into(), 100), ("paying".into(), 300)]));

    // Dear parts: an owner whose parts cost ten times as much gets a tenth as many turns.
    let mut queue = FairQueue::default();
    queue.insert(&waiting(1, "dear", JobPriority::P1));
    queue.insert(&waiting(2, "cheap", JobPriority::P1));
    let mut turns = [0, 0];
    for _ in 0..110 {
        let next = queue.next().unwrap();
        let is_dear = next == job_id(1);
        turns[usize::from(!is_dear)] += 1;
        queue.charge(next, if is_dear { 1_000 } else { 100 });
    }
    assert_eq!(turns, [10, 100]);
}

#[test]
fn an_owner_that_brings_one_job_at_a_time_is_not_new_each_time() {
    let (mut queue, _) = filled(&[("flood", 200)], &[]);
    let mut turns = [0, 0];
    for number in 1_000..1_100 {
        queue.insert(&waiting(number, "dripping", JobPriority::P1));
        // Its turn comes once for each of the other's.
        for _ in 0..2 {
            let next = queue.next().unwrap();
            let is_dripping = next == job_id(number);
            turns[usize::from(is_dripping)] += 1;
            queue.charge(next, 10);
            queue.remove(next);
        }
    }
    assert_eq!(turns, [100, 100]);
}

#[test]
fn older_jobs_of_an_owner_go_first_and_all_parts_of_one_before_the_next() {
    let mut queue = FairQueue::default();
    for number in [3, 1, 2] {
        queue.insert(&waiting(number, "olga", JobPriority::P1));
    }
    for number in [1, 2, 3] {
        for _ in 0..4 {
            assert_eq!(queue.next(), Some(job_id(number)));
            queue.charge(job_id(number), 5);
        }
        queue.remove(job_id(number));
    }
    assert_eq!(queue.next(), None);
}

#[test]
fn the_first_priority_passes_and_the_last_one_does_not_starve() {
    let mut queue = FairQueue::default();
    for (number, priority) in [(1, JobPriority::P2), (2, JobPriority::P1), (3, JobPriority::P0)] {
        queue.insert(&waiting(number, "olga", priority));
    }
    let mut turns = BTreeMap::new();
    for _ in 0..160 {
        let next = queue.next().unwrap();
        *turns.entry(next).or_insert(0) += 1;
        queue.charge(next, 1);
    }
    assert_eq!(turns, BTreeMap::from([(job_id(1), 10), (job_id(2), 10), (job_id(3), 140)]));
    queue.remove(job_id(3));
    assert_eq!(queue.next(), Some(job_id(2)), "with the first one empty, the next one is first");
}

#[test]
fn what_waited_for_long_counts_as_the_middle_priority() {
    let mut queue = FairQueue::default();
    queue.insert(&waiting(1, "bulk", JobPriority::P2));
    queue.insert(&waiting(2, "bulk", JobPriority::P2));
    queue.insert(&waiting(50, "olga", JobPriority::P1));
    assert_eq!(queue.next(), Some(job_id(50)));
    queue.promote_aged(100, 100);
    assert_eq!(queue.position(job_id(1)).unwrap().owners, 1, "not yet");
    queue.promote_aged(101, 100);
    assert_eq!(queue.position(job_id(1)).unwrap().owners, 2, "the older one shares with olga");
    assert_eq!(queue.position(job_id(2)).unwrap().own_jobs_ahead, 0, "the other one is alone behind");
    queue.charge(job_id(50), 1);
    assert_eq!(queue.next(), Some(job_id(1)));
    // Put in again, it keeps its place.
    queue.insert(&waiting(1, "bulk", JobPriority::P2));
    assert_eq!(queue.len(), 3);
}

#[test]
fn a_position_counts_own_jobs_and_owners() {
    let (queue, _) = filled(&[("olga", 5), ("otto", 1)], &[]);
    let place = queue.position(job_id(4)).unwrap();
    assert_eq!((place.own_jobs_ahead, place.owners), (3, 2));
    assert_eq!(queue.position(job_id(77)), None);
}

#[test]
fn one_paused_owner_hides_no_other_job_that_waits() {
    let mut state = DispatchState::new(DispatchConfig::default());
    let pause = QueuePause { paused_at_ms: 1, paused_by: "admin".into(), reason: None };
    state.set_pauses(QueuePauses {
        owners: ["many", "other"].map(|owner| (owner.to_owned(), pause.clone())).into(),
        ..QueuePauses::default()
    });
    for number in (1..=2_000).rev() {
        state.let_wait(&waiting(number, "many", JobPriority::P1));
    }
    state.let_wait(&waiting(3_000, "other", JobPriority::P1));
    state.let_wait(&waiting(4_000, "free", JobPriority::P1));
    let mut hindered = state.hindered_jobs(16, Instant::now());
    hindered.sort_unstable();
    assert_eq!(hindered, [1, 3_000, 4_000].map(job_id));
}

//! Places of followers: so many on one replica, and so many of one principal.

use std::{
    collections::{HashMap, hash_map::Entry},
    sync::Arc,
};

use nats::metrics::{GaugeHold, table::EVENT_FOLLOWERS};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use web::{error::Problem, problem_code::ProblemCode};

/// How soon a principal that has too many streams may try again, in seconds.
const RETRY_AFTER_S: u64 = 5;

/// All places.
#[derive(Debug)]
pub(super) struct FollowerPlaces {
    all: Arc<Semaphore>,
    counts: Arc<Mutex<HashMap<String, usize>>>,
    each_max: usize,
}

/// One place, until it is dropped.
#[derive(Debug)]
pub(super) struct FollowerPlace {
    owner: String,
    counts: Arc<Mutex<HashMap<String, usize>>>,
    _permit: OwnedSemaphorePermit,
    _counted: GaugeHold,
}

impl FollowerPlaces {
    pub(super) fn new(all_max: usize, each_max: usize) -> Self {
        let all = Arc::new(Semaphore::new(all_max.min(Semaphore::MAX_PERMITS)));
        Self { all, counts: Arc::default(), each_max }
    }

    /// A place for somebody; 503 when all are taken, 429 when one principal has as many as it may have.
    pub(super) fn take(&self, owner: &str) -> Result<FollowerPlace, Problem> {
        let mut counts = self.counts.lock();
        if counts.get(owner).is_some_and(|count| *count >= self.each_max) {
            let detail = format!("at most {} at once on one replica", self.each_max);
            return Err(Problem::new(ProblemCode::StreamsTooMany)
                .with_detail(detail)
                .with_retry_after_s(RETRY_AFTER_S));
        }
        let Ok(permit) = Arc::clone(&self.all).try_acquire_owned() else {
            return Err(Problem::busy("too many followers at once"));
        };
        *counts.entry(owner.to_owned()).or_default() += 1;
        drop(counts);
        Ok(FollowerPlace {
            owner: owner.to_owned(),
            counts: Arc::clone(&self.counts),
            _permit: permit,
            _counted: EVENT_FOLLOWERS.hold(()),
        })
    }
}

impl Drop for FollowerPlace {
    fn drop(&mut self) {
        let mut counts = self.counts.lock();
        if let Entry::Occupied(mut entry) = counts.entry(std::mem::take(&mut self.owner)) {
            *entry.get_mut() -= 1;
            if *entry.get() == 0 {
                entry.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_principal_takes_no_more_than_its_part_and_all_no_more_than_there_are() {
        let places = FollowerPlaces::new(3, 2);
        let code = |owner: &str| places.take(owner).map_err(|problem| problem.code());
        let first = code("ann").unwrap();
        let _second = code("ann").unwrap();
        assert_eq!(code("ann").err(), Some("streams_too_many"));
        let bob = code("bob").unwrap();
        assert_eq!(code("cid").err(), Some("busy"));
        drop((first, bob));
        assert!(code("ann").is_ok());
        assert_eq!(places.counts.lock().len(), 1, "who is gone is forgotten");
    }
}

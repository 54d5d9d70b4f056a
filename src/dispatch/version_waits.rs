//! Jobs that no live worker can make, since the workers make another version of the bytes that their parts are made of.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use schemas::ids::JobId;

use crate::queue::WaitingJob;

/// Held jobs by version, the oldest first.
#[derive(Debug, Default)]
pub(crate) struct VersionWaits {
    versions: HashMap<Arc<str>, BTreeMap<(u64, JobId), WaitingJob>>,
    places: HashMap<JobId, (Arc<str>, u64)>,
}

impl VersionWaits {
    pub(crate) fn insert(&mut self, job: WaitingJob) {
        let (job_id, version, created_at_ms) =
            (job.job_id, Arc::clone(&job.options_version), job.created_at_ms);
        self.places.insert(job_id, (Arc::clone(&version), created_at_ms));
        self.versions.entry(version).or_default().insert((created_at_ms, job_id), job);
    }

    pub(crate) fn remove(&mut self, job_id: JobId) {
        let Some((version, created_at_ms)) = self.places.remove(&job_id) else { return };
        if let Some(jobs) = self.versions.get_mut(&version) {
            jobs.remove(&(created_at_ms, job_id));
            if jobs.is_empty() {
                self.versions.remove(&version);
            }
        }
    }

    /// The oldest job of each version.
    pub(crate) fn oldest(&self) -> impl Iterator<Item = JobId> {
        self.versions.values().filter_map(|jobs| jobs.keys().next()).map(|(_, job_id)| *job_id)
    }

    pub(crate) fn contains(&self, job_id: JobId) -> bool {
        self.places.contains_key(&job_id)
    }

    /// Takes out what need not wait any more. Whether it must is asked of the oldest of a version first: it is given up first.
    pub(crate) fn take_released(&mut self, mut must_wait: impl FnMut(&str, u64) -> bool) -> Vec<WaitingJob> {
        let mut released = Vec::new();
        for (version, jobs) in &mut self.versions {
            while let Some(entry) = jobs.first_entry() {
                if must_wait(version, entry.key().0) {
                    break;
                }
                released.push(entry.remove());
            }
        }
        self.versions.retain(|_, jobs| !jobs.is_empty());
        for job in &released {
            self.places.remove(&job.job_id);
        }
        released
    }
}

#[cfg(test)]
mod tests {
    use schemas::{ids::JobId, job::JobKind, subjects::JobPriority};

    use super::*;

    fn job(number: u8, version: &str) -> WaitingJob {
        WaitingJob {
            job_id: JobId::from_bytes([number; 16]),
            kind: JobKind::Transcode,
            owner: "olga".into(),
            priority: JobPriority::P1,
            created_at_ms: u64::from(number),
            options_version: version.into(),
        }
    }

    #[test]
    fn the_oldest_of_a_version_are_released_first() {
        let mut waits = VersionWaits::default();
        for (number, version) in [(3, "a"), (1, "a"), (2, "a"), (1, "b")] {
            waits.insert(job(number + if version == "b" { 10 } else { 0 }, version));
        }
        waits.remove(JobId::from_bytes([2; 16]));
        let mut released = waits.take_released(|version, created_at_ms| version == "b" || created_at_ms > 1);
        assert_eq!(released.pop().map(|job| job.created_at_ms), Some(1));
        assert_eq!(released, []);
        let holds = |number| waits.contains(JobId::from_bytes([number; 16]));
        assert_eq!([1, 2, 3, 11].map(holds), [false, false, true, true]);
        assert_eq!(waits.take_released(|_, _| false).len(), 2);
        assert!(!waits.contains(JobId::from_bytes([3; 16])));
    }
}

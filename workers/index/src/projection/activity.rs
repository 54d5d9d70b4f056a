//! What was encoded lately, by profile: the end of one range of the order tree, added up.

use std::collections::BTreeMap;

use schemas::{
    index_query::{ACTIVITY_JOBS_MAX, EncodeActivity, EncodeActivityQuery, ProfileActivity},
    job::JobStatus,
};

use super::{IndexBucket, IndexProjection, list::read_row, write::IndexedJob};
use crate::{
    IndexError,
    order::{self, ListPosition},
};

/// What is added up of a profile, and how long each of its jobs took, in milliseconds.
#[derive(Debug, Default)]
struct ProfileSums {
    sums: ProfileActivity,
    job_ms: Vec<u64>,
}

impl IndexProjection {
    /// What was encoded since a time, by the jobs that ended then or later. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Database`] or [`IndexError::Damaged`].
    pub fn encode_activity(&self, question: &EncodeActivityQuery) -> Result<EncodeActivity, IndexError> {
        let revision = self.read_cursor(IndexBucket::Jobs)?;
        let mut profiles: BTreeMap<String, ProfileSums> = BTreeMap::new();
        let (mut looked_at, mut is_cut) = (0, false);
        let list = order::ended_encodes_list_id(question.owner.as_deref());
        for key in self.order.scan_prefix(list).keys().rev() {
            let key = key?;
            let position = ListPosition::from_order_key(&key)
                .ok_or_else(|| IndexError::Damaged { what: "a key of the order tree".into() })?;
            if position.at_ms() < question.ended_from_ms {
                break;
            }
            looked_at += 1;
            if looked_at > ACTIVITY_JOBS_MAX {
                is_cut = true;
                break;
            }
            let Some((_, job)) = read_row::<IndexedJob>(&self.jobs, &position.id())? else { continue };
            let counts = self.part_counts(&job)?;
            let sums = profiles.entry(job.profile.clone()).or_default();
            sums.count(&job, (counts.work_ms, counts.cpu_ms));
        }
        let profiles = profiles.into_iter().map(|(profile, sums)| sums.into_activity(profile)).collect();
        Ok(EncodeActivity { profiles, is_cut, revision })
    }
}

impl ProfileSums {
    fn count(&mut self, job: &IndexedJob, (work_ms, cpu_ms): (u64, u64)) {
        let sums = &mut self.sums;
        match job.status {
            JobStatus::Active => {}
            JobStatus::Failed => sums.failed += 1,
            JobStatus::Cancelled => sums.cancelled += 1,
            JobStatus::Succeeded => {
                sums.succeeded += 1;
                sums.output_ms = sums.output_ms.saturating_add(job.duration_ms);
                sums.work_ms = sums.work_ms.saturating_add(work_ms);
                sums.cpu_ms = sums.cpu_ms.saturating_add(cpu_ms);
                self.job_ms.push(job.ended_at_ms.unwrap_or_default().saturating_sub(job.created_at_ms));
            }
        }
    }

    fn into_activity(mut self, profile: String) -> ProfileActivity {
        self.job_ms.sort_unstable();
        let (sums, job_ms) = (self.sums, &self.job_ms);
        // The nearest rank: a time that one of them took.
        let rank =
            |percent: usize| job_ms.get((job_ms.len() * percent).div_ceil(100).saturating_sub(1)).copied();
        ProfileActivity {
            profile,
            speed: sums.output_ms.saturating_mul(1_000).checked_div(sums.work_ms),
            job_ms_median: rank(50),
            job_ms_p95: rank(95),
            ..sums
        }
    }
}

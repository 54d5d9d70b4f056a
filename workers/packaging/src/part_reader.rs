//! Which parts of a growing job are read to render its playlists; how they are read is the caller's.
//!
//! Limits: one read per part that is not done; done parts are read once.

use std::collections::BTreeMap;

use schemas::{
    job::{self, JobPartRecord, JobPartStatus},
    subjects,
};

use crate::plan;

/// What is known of a growing job. Keep one per job and ask it again: parts that are done are not read twice.
#[derive(Debug, Default, Clone)]
pub struct GrowingPartReader {
    done: BTreeMap<String, JobPartRecord>,
}

impl GrowingPartReader {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The parts that playlists can show now: all audio and subtitles, and the ranges up to the first that is not done. `read` finds
    /// a part by its key.
    ///
    /// # Errors
    /// The first of `read`.
    pub async fn read_playable_parts<E, F>(
        &mut self,
        job: &job::JobRecord,
        read: impl Fn(String) -> F,
    ) -> Result<Vec<JobPartRecord>, E>
    where
        F: Future<Output = Result<Option<JobPartRecord>, E>>,
    {
        let mut parts = Vec::new();
        for audio in &job.plan.audio {
            parts.extend(self.read_part(job, &audio.name, &read).await?);
        }
        if !job.plan.subtitles.is_empty() {
            parts.extend(self.read_part(job, plan::SUBTITLES, &read).await?);
        }
        let ranges = job.plan.video.as_ref().map_or(0, |video| video.ranges.len());
        for index in 0..ranges {
            let Some(part) = self.read_part(job, &plan::video_part_name(index), &read).await? else { break };
            let is_done = part.status == JobPartStatus::Done;
            parts.push(part);
            if !is_done {
                break;
            }
        }
        Ok(parts)
    }

    async fn read_part<E, F>(
        &mut self,
        job: &job::JobRecord,
        name: &str,
        read: impl Fn(String) -> F,
    ) -> Result<Option<JobPartRecord>, E>
    where
        F: Future<Output = Result<Option<JobPartRecord>, E>>,
    {
        if let Some(part) = self.done.get(name) {
            return Ok(Some(part.clone()));
        }
        let found = read(subjects::part_key(job.job_id, name)).await?;
        // A part that is done never changes; any other has to be read again.
        if let Some(part) = found.as_ref().filter(|part| part.status == JobPartStatus::Done) {
            self.done.insert(name.to_owned(), part.clone());
        }
        Ok(found)
    }
}

//! Which parts of a growing job are read, for whoever renders its playlists; how they are read is the caller's.
//!
//! Limits: one read per part that is not done; done parts are read once.

use std::collections::BTreeMap;

use schemas::{
    job::{self, Part, PartStatus},
    subjects,
};

use crate::plan;

/// What is known of a growing job. Keep one per job and ask it again: parts that are done are not read twice.
#[derive(Debug, Default, Clone)]
pub struct Follower {
    done: BTreeMap<String, Part>,
}

impl Follower {
    /// Nothing known yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The parts that playlists can show now: all audio, and the ranges up to the first that is not done. `read` finds a part by its
    /// key.
    ///
    /// # Errors
    /// The first of `read`.
    pub async fn parts<E, F>(&mut self, job: &job::Record, read: impl Fn(String) -> F) -> Result<Vec<Part>, E>
    where
        F: Future<Output = Result<Option<Part>, E>>,
    {
        let mut parts = Vec::new();
        for audio in &job.plan.audio {
            parts.extend(self.part(job, &audio.name, &read).await?);
        }
        let ranges = job.plan.video.as_ref().map_or(0, |video| video.ranges.len());
        for index in 0..ranges {
            let Some(part) = self.part(job, &plan::video_part(index), &read).await? else { break };
            let is_done = part.status == PartStatus::Done;
            parts.push(part);
            if !is_done {
                break;
            }
        }
        Ok(parts)
    }

    async fn part<E, F>(
        &mut self,
        job: &job::Record,
        name: &str,
        read: impl Fn(String) -> F,
    ) -> Result<Option<Part>, E>
    where
        F: Future<Output = Result<Option<Part>, E>>,
    {
        if let Some(part) = self.done.get(name) {
            return Ok(Some(part.clone()));
        }
        let found = read(subjects::part_key(job.job_id, name)).await?;
        if let Some(part) = found.as_ref().filter(|part| part.status == PartStatus::Done) {
            self.done.insert(name.to_owned(), part.clone());
        }
        Ok(found)
    }
}

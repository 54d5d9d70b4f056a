//! Reading a job while it grows, for whoever renders its playlists.
//!
//! Limits: one read per part that is not done; done parts are read once.

use std::collections::BTreeMap;

use nats::Bus;
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

    /// The parts that playlists can show now: all audio, and the ranges up to the first that is not done.
    pub async fn parts(&mut self, bus: &Bus, job: &job::Record) -> Result<Vec<Part>, nats::Error> {
        let mut parts = Vec::new();
        for audio in &job.plan.audio {
            parts.extend(self.part(bus, job, &audio.name).await?);
        }
        let ranges = job.plan.video.as_ref().map_or(0, |video| video.ranges.len());
        for index in 0..ranges {
            let Some(part) = self.part(bus, job, &plan::video_part(index)).await? else { break };
            let is_done = part.status == PartStatus::Done;
            parts.push(part);
            if !is_done {
                break;
            }
        }
        Ok(parts)
    }

    async fn part(&mut self, bus: &Bus, job: &job::Record, name: &str) -> Result<Option<Part>, nats::Error> {
        if let Some(part) = self.done.get(name) {
            return Ok(Some(part.clone()));
        }
        let found = bus.load::<Part>(&subjects::part_key(job.job_id, name)).await?.map(|held| held.record);
        if let Some(part) = found.as_ref().filter(|part| part.status == PartStatus::Done) {
            self.done.insert(name.to_owned(), part.clone());
        }
        Ok(found)
    }
}

//! Playlists of an encode that is still being made, rendered from its job's records. Once it is ready, what was stored is served in
//! the shape it had while it grew: the job's parts are kept for a while only.
//!
//! Limits: at most [`JOBS_MAX`] jobs are remembered; a job is read at most once in [`AGE_MAX`], however many watch it.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use nats::Bus;
use packaging::{GrowingPartReader, playlist};
use parking_lot::Mutex;
use schemas::{
    ids::JobId,
    job::{self, EncodePlan, JobPartRecord},
};

/// Jobs that are remembered at once; the one asked for longest ago is forgotten first.
pub(super) const JOBS_MAX: usize = 256;
/// How old what players see may be; short against a segment.
pub(super) const AGE_MAX: Duration = Duration::from_millis(500);

/// Jobs that are being watched while they run.
#[derive(Debug, Default)]
pub struct GrowingPlaylists {
    jobs: Mutex<HashMap<JobId, Arc<WatchedJob>>>,
}

#[derive(Debug)]
struct WatchedJob {
    asked: Mutex<Instant>,
    /// One reader at a time; the others wait for what it finds.
    state: tokio::sync::Mutex<WatchedJobState>,
}

#[derive(Debug, Default)]
struct WatchedJobState {
    plan: Option<Arc<EncodePlan>>,
    follower: GrowingPartReader,
    parts: Arc<Vec<JobPartRecord>>,
    read: Option<Instant>,
}

/// A part as it is in its bucket.
async fn load_part(bus: &Bus, key: String) -> Result<Option<JobPartRecord>, nats::BusError> {
    Ok(bus.load_record::<JobPartRecord>(&key).await?.map(|held| held.record))
}

impl GrowingPlaylists {
    /// Nothing watched yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// The multivariant playlist so far; `None` when there is no such job or nothing to play.
    pub(super) async fn multivariant_playlist(
        &self,
        bus: &Bus,
        job_id: JobId,
    ) -> Result<Option<String>, nats::BusError> {
        let found = self.current_parts(bus, job_id).await?;
        Ok(found.and_then(|(plan, parts)| playlist::render_growing_multivariant(&plan, &parts)))
    }

    /// The media playlist of a rendition so far; `None` when there is no such job or rendition.
    pub(super) async fn render_event_playlist(
        &self,
        bus: &Bus,
        job_id: JobId,
        rendition: &str,
    ) -> Result<Option<String>, nats::BusError> {
        let found = self.current_parts(bus, job_id).await?;
        Ok(found.and_then(|(plan, parts)| playlist::render_event(&plan, &parts, rendition)))
    }

    /// The media playlist of a rendition that is ready, from the stored one, for players that began while it grew.
    pub(super) async fn render_ended_playlist(
        &self,
        bus: &Bus,
        job_id: JobId,
        stored: &str,
    ) -> Result<String, nats::BusError> {
        let known = self.watched_job(job_id).state.lock().await.plan.clone();
        let plan = match known {
            Some(plan) => Some(plan),
            None => bus
                .load_record::<job::JobRecord>(&job_id.to_string())
                .await?
                .map(|held| Arc::new(held.record.plan)),
        };
        let text = playlist::render_ended_event(plan.as_deref(), stored);
        self.watched_job(job_id).state.lock().await.plan = plan;
        Ok(text)
    }

    /// The rendition whose segments all others have; `None` when there is no such job.
    pub(super) async fn leading_rendition(
        &self,
        bus: &Bus,
        job_id: JobId,
    ) -> Result<Option<String>, nats::BusError> {
        let found = self.current_parts(bus, job_id).await?;
        Ok(found.and_then(|(plan, _)| {
            let rung = plan.video.as_ref().and_then(|video| video.rungs.first());
            let name = rung.map(|rung| &rung.name);
            name.or_else(|| plan.audio.first().map(|audio| &audio.name)).cloned()
        }))
    }

    async fn current_parts(
        &self,
        bus: &Bus,
        job_id: JobId,
    ) -> Result<Option<(Arc<EncodePlan>, Arc<Vec<JobPartRecord>>)>, nats::BusError> {
        let watched = self.watched_job(job_id);
        // Held while the parts are read: players that ask at the same time take what the first one found.
        let mut state = watched.state.lock().await;
        if let (Some(plan), Some(read)) = (&state.plan, state.read)
            && read.elapsed() < AGE_MAX
        {
            return Ok(Some((Arc::clone(plan), Arc::clone(&state.parts))));
        }
        let Some(held) = bus.load_record::<job::JobRecord>(&job_id.to_string()).await? else {
            return Ok(None);
        };
        let parts =
            Arc::new(state.follower.read_playable_parts(&held.record, |key| load_part(bus, key)).await?);
        let plan = Arc::new(held.record.plan);
        state.plan = Some(Arc::clone(&plan));
        state.parts = Arc::clone(&parts);
        state.read = Some(Instant::now());
        Ok(Some((plan, parts)))
    }

    fn watched_job(&self, job_id: JobId) -> Arc<WatchedJob> {
        let mut jobs = self.jobs.lock();
        let asked = |watched: &WatchedJob| *watched.asked.lock();
        if jobs.len() >= JOBS_MAX
            && !jobs.contains_key(&job_id)
            && let Some(oldest) = jobs.iter().min_by_key(|(_, watched)| asked(watched)).map(|(id, _)| *id)
        {
            jobs.remove(&oldest);
        }
        let watched = jobs.entry(job_id).or_insert_with(|| {
            Arc::new(WatchedJob { asked: Mutex::new(Instant::now()), state: tokio::sync::Mutex::default() })
        });
        *watched.asked.lock() = Instant::now();
        Arc::clone(watched)
    }
}

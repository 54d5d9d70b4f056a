//! Runs the media child for one part and brings what it makes to the store.
//!
//! Segments go to the store while the child works on, at most `puts_in_flight_max` at a time; what is stored is written
//! into the claim every `renew_interval_ms`, and at once when something can be played for the first time.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, future::FusedFuture, stream::FuturesOrdered};
use media::{Output, Report};
use nats::{Bus, Outbox};
use packaging::plan::{self, Work};
use schemas::{
    job::{self, Progress, Segment},
    keys, subjects,
};
use store::Store;
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    Context,
    claim::Claim,
    error::Error,
    outage, playable,
    source::Object,
    spec::{self, Care},
    tracks::{Made, Tracks},
};

/// Outputs between the child and the store.
const OUTPUTS_QUEUED_MAX: usize = 4;

/// How a run ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// Everything is stored; the claim does not say so yet.
    Made {
        /// What the child used.
        report: Report,
        /// The tracks.
        tracks: Vec<job::Track>,
    },
    /// The job ended while the part was being made.
    JobOver,
    /// The part was taken over, or the process has to stop.
    Stopped,
}

/// One part being made.
pub(crate) struct Run<'a> {
    pub(crate) context: &'a Context,
    pub(crate) job: &'a job::Record,
    pub(crate) part: &'a str,
    pub(crate) work: Work<'a>,
    pub(crate) claim: &'a Claim,
    /// Fires when the process has to stop or the fence is lost.
    pub(crate) stop: &'a CancellationToken,
}

impl Run<'_> {
    /// Makes the part. The child is gone when this returns, however it ends.
    pub(crate) async fn make(&self) -> Result<Ended, Error> {
        let plan = &self.job.plan;
        self.context.store.head(&plan.source_key).await?;
        let source = Object::new(self.context.store.clone(), plan.source_key.clone(), plan.source_bytes);
        let control = self.context.bus.listen(subjects::control_job(self.job.job_id)).await?;
        let cancel = CancellationToken::new();
        let _stop_child = cancel.clone().drop_guard();
        let (sender, outputs) = mpsc::channel(OUTPUTS_QUEUED_MAX);
        let child = self.child(Arc::new(source), sender, &cancel).fuse();
        tokio::pin!(child);
        let ended = self.follow(child.as_mut(), outputs, control).await;
        if !child.is_terminated() {
            cancel.cancel();
            // Why the work ended is known already.
            drop(child.await);
        }
        ended
    }

    /// Takes what the child makes until all is stored, or until it is not wanted any more.
    async fn follow(
        &self,
        mut child: impl FusedFuture<Output = Result<Report, Error>> + Unpin,
        outputs: mpsc::Receiver<Output>,
        mut control: impl Stream + Unpin,
    ) -> Result<Ended, Error> {
        let collect = Collector::new(self).await.run(outputs);
        tokio::pin!(collect);
        let mut report = None;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(Ended::Stopped),
                () = self.claim.lost().cancelled() => return Ok(Ended::Stopped),
                Some(_) = control.next() => {
                    if self.job_is_over().await? {
                        return Ok(Ended::JobOver);
                    }
                }
                ended = &mut child, if report.is_none() => report = Some(ended?),
                collected = &mut collect => {
                    let Some(tracks) = collected? else { return Ok(Ended::JobOver) };
                    // The collector ends when the child closed its side, which it does only at its end.
                    let report = match report {
                        Some(report) => report,
                        None => child.await?,
                    };
                    return Ok(Ended::Made { report, tracks: tracks.finish(self.work)? });
                }
            }
        }
    }

    async fn child(
        &self,
        source: Arc<Object>,
        out: mpsc::Sender<Output>,
        cancel: &CancellationToken,
    ) -> Result<Report, Error> {
        let plan = &self.job.plan;
        let is_safe = self.claim.crashes() >= self.context.config.crashes_before_safe;
        let care = if is_safe { Care::Safe } else { Care::Usual };
        let driver = &self.context.driver;
        let report = match self.work {
            Work::Video { video, range } => {
                driver.encode(source, spec::encode(plan, video, range, care)?, out, cancel).await?
            }
            Work::Audio(audio) => driver.audio(source, spec::audio(plan, audio)?, out, cancel).await?,
            Work::Finish => return Err(Error::Unknown("a finish to encode".into())),
        };
        Ok(report)
    }

    async fn job_is_over(&self) -> Result<bool, Error> {
        is_over(&self.context.bus, self.job).await
    }
}

/// True when the job is no longer active.
pub(crate) async fn is_over(bus: &Bus, job: &job::Record) -> Result<bool, Error> {
    let found = bus.load::<job::Record>(&job.job_id.to_string()).await?;
    Ok(found.is_none_or(|held| held.record.status != job::Status::Active))
}

/// Takes the child's outputs, stores them and keeps the claim and the progress alive.
struct Collector<'a> {
    run: &'a Run<'a>,
    tracks: Tracks,
    frames_done: u64,
    progress_at: Option<Instant>,
    is_playable_known: bool,
    /// Stored segments at the last renewal.
    renewed_segments: usize,
}

/// An upload that ended, with the note to take.
type Stored = Result<Option<Made>, Error>;

impl<'a> Collector<'a> {
    async fn new(run: &'a Run<'a>) -> Self {
        let part = run.claim.record().await;
        Self {
            run,
            tracks: Tracks::new(run.work, &part),
            frames_done: 0,
            progress_at: None,
            is_playable_known: !playable::concerns(&run.job.plan, run.part),
            renewed_segments: 0,
        }
    }

    /// Until the child closes its side and everything is stored. `None` when the job is over.
    async fn run(mut self, mut outputs: mpsc::Receiver<Output>) -> Result<Option<Tracks>, Error> {
        let config = &self.run.context.config;
        let interval = Duration::from_millis(config.renew_interval_ms.max(100));
        let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut uploads = FuturesOrdered::new();
        let mut is_open = true;
        while is_open || !uploads.is_empty() {
            tokio::select! {
                biased;
                Some(stored) = uploads.next() => {
                    self.note(stored)?;
                    if !self.first_playable().await? {
                        return Ok(None);
                    }
                }
                output = outputs.recv(), if is_open && uploads.len() < config.puts_in_flight_max.max(1) => {
                    match output {
                        Some(output) => uploads.extend(self.take(output)?),
                        None => is_open = false,
                    }
                }
                _ = ticks.tick() => {
                    if !self.renew().await? {
                        return Ok(None);
                    }
                }
            }
            self.tell().await;
        }
        Ok(Some(self.tracks))
    }

    /// Turns an output into an upload.
    fn take(&mut self, output: Output) -> Result<VecDeque<impl Future<Output = Stored> + use<>>, Error> {
        let (name, bytes, made) = match output {
            Output::Init { rendition, bytes } => {
                self.tracks.init(rendition, &bytes)?;
                (keys::init(self.tracks.name(rendition)?), bytes, None)
            }
            Output::Segment { rendition, number, start_ticks, duration_ticks, timescale, bytes, .. } => {
                // The child counts audio segments from 0, keys and playlists count all from 1.
                let number =
                    if matches!(self.run.work, Work::Audio(_)) { number.saturating_add(1) } else { number };
                let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let segment = Segment { start_ticks, duration_ticks, size_bytes };
                let made = Made { rendition, number, timescale, segment };
                (keys::segment(self.tracks.name(rendition)?, number), bytes, Some(made))
            }
            Output::Progress { frames_done } => {
                self.frames_done = frames_done;
                return Ok(VecDeque::new());
            }
            _ => return Err(Error::Unplanned("an output of another task".into())),
        };
        let key = format!("{}/{name}", self.run.job.prefix);
        Ok(VecDeque::from([put(self.run.context.store.clone(), key, bytes, made)]))
    }

    fn note(&mut self, stored: Stored) -> Result<(), Error> {
        match stored? {
            Some(made) => self.tracks.segment(made),
            None => Ok(()),
        }
    }

    /// Writes the first whole segment at once, so that playing can begin. False when the part or job is over.
    async fn first_playable(&mut self) -> Result<bool, Error> {
        if self.is_playable_known || self.tracks.segments_in_all() == 0 {
            return Ok(true);
        }
        self.is_playable_known = true;
        self.renew().await
    }

    /// Shows that we live, with what is stored; reads whether the job still wants it. False when part or job are over.
    async fn renew(&mut self) -> Result<bool, Error> {
        let Run { context, job, part, claim, .. } = self.run;
        let tracks = self.tracks.stored();
        let renewed = claim.renew(Outbox::new(), |record| record.tracks = tracks).await;
        match renewed {
            Ok(true) => {}
            // Whoever waits on the token ends the run; the tracks must not be taken for finished ones.
            Ok(false) => return std::future::pending().await,
            Err(error) if error.is_outage() => {
                tracing::warn!(
                    error = error.describe(),
                    part,
                    "the claim could not be renewed, trying again"
                );
                return Ok(true);
            }
            Err(error) => return Err(error),
        }
        let is_first = self.renewed_segments == 0 && self.tracks.segments_in_all() > 0;
        if is_first {
            outage::over(&context.bus, job.media_id).await;
        }
        if is_first && playable::concerns(&job.plan, part) {
            match playable::announce(&context.bus, job).await {
                Ok(()) => {}
                // It is the first renewal again next time.
                Err(error) if error.is_outage() => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        self.renewed_segments = self.tracks.segments_in_all();
        match is_over(&context.bus, job).await {
            Ok(is_over) => Ok(!is_over),
            Err(error) if error.is_outage() => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Tells how far the part is, at most once per `progress_interval_ms`. A lost message is no harm.
    async fn tell(&mut self) {
        let Run { context, job, part, .. } = self.run;
        let interval = Duration::from_millis(context.config.progress_interval_ms);
        if self.frames_done == 0 || self.progress_at.is_some_and(|at| at.elapsed() < interval) {
            return;
        }
        self.progress_at = Some(Instant::now());
        let done_ms = match self.run.work {
            Work::Video { video, .. } => plan::frames_ms(self.frames_done, video.frame_rate),
            Work::Audio(audio) => {
                self.frames_done.saturating_mul(1_000 * packaging::presentation::AUDIO_FRAME_SAMPLES)
                    / u64::from(audio.sample_rate_hz.max(1))
            }
            Work::Finish => 0,
        };
        progress(&context.bus, job, part, done_ms).await;
    }
}

async fn put(store: Store, key: String, bytes: Bytes, made: Option<Made>) -> Stored {
    store.put(&key, bytes).await?;
    Ok(made)
}

/// Publishes how far a part is.
pub(crate) async fn progress(bus: &Bus, job: &job::Record, part: &str, done_ms: u64) {
    let total_ms = plan::part_ms(&job.plan, part);
    let progress = Progress {
        job_id: job.job_id,
        media_id: job.media_id,
        owner: job.owner.clone(),
        part: part.to_owned(),
        done_ms: done_ms.min(total_ms),
        total_ms,
    };
    let subject = subjects::progress(job.job_id, part);
    let told = match nats::encode(&subject, &progress) {
        Ok(payload) => bus.tell(subject, payload).await,
        Err(error) => Err(error),
    };
    if let Err(error) = told {
        tracing::debug!(%error, part, "progress could not be told");
    }
}

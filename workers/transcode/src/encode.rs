//! Runs the media child for one part and brings what it makes to the store.
//!
//! Segments go to the store while the child works on, at most `puts_in_flight_max` at a time; what is stored is written
//! into the claim every `renew_interval_ms`, and at once when something can be played for the first time.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{FutureExt, Stream, StreamExt, future::FusedFuture, stream::FuturesOrdered};
use media::{MediaTaskOutput, MediaTaskReport};
use nats::Bus;
use nats::metrics::table::{TRANSCODE_BYTES, TRANSCODE_OBJECTS, TRANSCODE_STORE_SECONDS};
use packaging::{
    ChecksumList,
    plan::{self, PartWork},
    storyboard,
};
use queue_worker::PartClaim;
use schemas::{
    job::{self, StoredSegment},
    keys, subjects,
};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::{
    TranscodeContext, copies,
    error::TranscodeError,
    outage, playable,
    source::StoredMediaSource,
    spec::{self, EncodeMode},
    subtitles,
    tracks::{EncodedSegment, PartTracks},
};

/// Outputs between the child and the store.
const OUTPUTS_QUEUED_MAX: usize = 4;

/// How a run ended.
#[derive(Debug)]
pub(crate) enum PartRunOutcome {
    /// Everything is stored; the claim does not say so yet.
    Made {
        /// What the child used.
        report: MediaTaskReport,
        /// The tracks.
        tracks: Vec<job::StoredTrack>,
    },
    /// The job ended while the part was being made.
    JobOver,
    /// The part was taken over, or the process has to stop.
    Stopped,
}

/// One part being made.
pub(crate) struct PartRun<'a> {
    pub(crate) context: &'a Arc<TranscodeContext>,
    pub(crate) job: &'a job::JobRecord,
    pub(crate) part: &'a str,
    pub(crate) work: PartWork<'a>,
    pub(crate) claim: &'a PartClaim,
    /// Fires when the process has to stop or the fence is lost.
    pub(crate) stop: &'a CancellationToken,
}

impl PartRun<'_> {
    /// Makes the part. The child is gone when this returns, however it ends.
    pub(crate) async fn make_part(&self) -> Result<PartRunOutcome, TranscodeError> {
        let plan = &self.job.plan;
        // A source that is not there is the store's answer here, instead of a failure of the child.
        self.context.store.head(&plan.source_key).await?;
        if let Some(copy) = &plan.copy {
            copies::check_files(self.context, copy).await?;
        }
        let source =
            StoredMediaSource::new(self.context.store.clone(), plan.source_key.clone(), plan.source_bytes);
        let control = self.context.bus.subscribe_core(subjects::job_cancel_subject(self.job.job_id)).await?;
        // What was cancelled before nobody says again.
        if self.is_job_over().await? {
            return Ok(PartRunOutcome::JobOver);
        }
        let cancel = CancellationToken::new();
        let _stop_child = cancel.clone().drop_guard();
        let (sender, outputs) = mpsc::channel(OUTPUTS_QUEUED_MAX);
        let child = self.run_child(Arc::new(source), sender, &cancel).fuse();
        tokio::pin!(child);
        let ended = self.collect_outputs(child.as_mut(), outputs, control).await;
        // The caller lets the claim go next: a child that lives on would write the same segments as its successor.
        if !child.is_terminated() {
            cancel.cancel();
            // Why the work ended is known already.
            drop(child.await);
        }
        ended
    }

    /// Takes what the child makes until all is stored, or until it is not wanted any more.
    async fn collect_outputs(
        &self,
        mut child: impl FusedFuture<Output = Result<MediaTaskReport, TranscodeError>> + Unpin,
        outputs: mpsc::Receiver<MediaTaskOutput>,
        mut control: impl Stream + Unpin,
    ) -> Result<PartRunOutcome, TranscodeError> {
        let collect = PartOutputCollector::new(self).await.run(outputs);
        tokio::pin!(collect);
        let mut report = None;
        loop {
            tokio::select! {
                biased;
                () = self.stop.cancelled() => return Ok(PartRunOutcome::Stopped),
                () = self.claim.lost_token().cancelled() => return Ok(PartRunOutcome::Stopped),
                Some(_) = control.next() => {
                    if self.is_job_over().await? {
                        return Ok(PartRunOutcome::JobOver);
                    }
                }
                ended = &mut child, if report.is_none() => report = Some(ended?),
                collected = &mut collect => {
                    let Some((tracks, checksums)) = collected? else { return Ok(PartRunOutcome::JobOver) };
                    // The collector ends when the child closed its side, which it does only at its end.
                    let report = match report {
                        Some(report) => report,
                        None => child.await?,
                    };
                    let tracks = tracks.finish(self.work)?;
                    // Of a whole part alone: a list that a failed try left would miss what a later one makes.
                    let path = keys::checksums_path(self.part);
                    self.context.put_object(&self.job.prefix, &path, checksums.render()).await?;
                    return Ok(PartRunOutcome::Made { report, tracks });
                }
            }
        }
    }

    async fn run_child(
        &self,
        source: Arc<StoredMediaSource>,
        out: mpsc::Sender<MediaTaskOutput>,
        cancel: &CancellationToken,
    ) -> Result<MediaTaskReport, TranscodeError> {
        let plan = &self.job.plan;
        let is_safe = self.claim.crash_count() >= self.context.config.crashes_before_safe;
        let care = if is_safe { EncodeMode::Safe } else { EncodeMode::Usual };
        let driver = &self.context.driver;
        let report = match (self.work, &plan.copy) {
            (PartWork::Video { video, range }, Some(copy)) => {
                copies::copy_range(self.context, copy, (video, range), out, cancel).await?
            }
            (PartWork::Audio(audio), Some(copy)) => {
                copies::copy_sound(self.context, copy, audio, out, cancel).await?
            }
            (PartWork::Video { video, range }, None) => {
                driver
                    .encode_video(source, spec::build_encode_spec(plan, video, range, care)?, out, cancel)
                    .await?
            }
            (PartWork::Audio(audio), None) => {
                driver.encode_audio(source, spec::build_audio_spec(plan, audio)?, out, cancel).await?
            }
            (PartWork::Subtitles(_), _) if is_safe => {
                // What crashes here would crash everywhere: a title without subtitles is better than none.
                tracing::warn!(job.id = %self.job.job_id, "the subtitles are left out: reading them crashes");
                MediaTaskReport::default()
            }
            (PartWork::Subtitles(tracks), _) => {
                subtitles::make_subtitles(self.context, source, plan, tracks, out, cancel).await?
            }
            (PartWork::Finish, _) => return Err(TranscodeError::Unknown("a finish to encode".into())),
        };
        Ok(report)
    }

    async fn is_job_over(&self) -> Result<bool, TranscodeError> {
        Ok(queue_worker::is_job_inactive(&self.context.bus, self.job).await?)
    }
}

/// Takes the child's outputs, stores them and keeps the claim and the progress alive.
struct PartOutputCollector<'a> {
    run: &'a PartRun<'a>,
    tracks: PartTracks,
    checksums: ChecksumList,
    frames_done: u64,
    progress_at: Option<Instant>,
    /// Playing begins with segments of this part.
    is_first_part: bool,
    /// Stored segments at the last renewal.
    renewed_segments: usize,
}

/// An object that was stored.
struct StoredObject {
    /// Path below the encode's folder.
    path: String,
    sha256: String,
    /// The note to take of a segment.
    segment: Option<EncodedSegment>,
}

/// An upload that ended.
type UploadResult = Result<StoredObject, TranscodeError>;

impl<'a> PartOutputCollector<'a> {
    async fn new(run: &'a PartRun<'a>) -> Self {
        let part = run.claim.current_record().await;
        Self {
            run,
            tracks: PartTracks::new(&run.job.plan, run.work, &part),
            checksums: ChecksumList::default(),
            frames_done: 0,
            progress_at: None,
            is_first_part: playable::is_first_part(&run.job.plan, run.part),
            renewed_segments: 0,
        }
    }

    /// Until the child closes its side and everything is stored; answers the tracks, and the checksums of what is stored. `None` when
    /// the job is over.
    async fn run(
        mut self,
        mut outputs: mpsc::Receiver<MediaTaskOutput>,
    ) -> Result<Option<(PartTracks, ChecksumList)>, TranscodeError> {
        let config = &self.run.context.config;
        let interval = Duration::from_millis(config.renew_interval_ms.max(100));
        let mut ticks = tokio::time::interval_at(Instant::now() + interval, interval);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // Ordered: a renewal may only name segments without a gap before them, however their uploads end.
        let mut uploads = FuturesOrdered::new();
        let mut is_open = true;
        while is_open || !uploads.is_empty() {
            tokio::select! {
                biased;
                Some(stored) = uploads.next() => {
                    self.record_upload(stored)?;
                    if !self.renew_when_playable().await? {
                        return Ok(None);
                    }
                }
                output = outputs.recv(), if is_open && uploads.len() < config.puts_in_flight_max.max(1) => {
                    match output {
                        Some(output) => uploads.extend(self.prepare_uploads(output)?),
                        None => is_open = false,
                    }
                }
                _ = ticks.tick() => {
                    if !self.renew_claim().await? {
                        return Ok(None);
                    }
                }
            }
            self.publish_progress().await;
        }
        Ok(Some((self.tracks, self.checksums)))
    }

    /// Turns an output into an upload.
    fn prepare_uploads(
        &mut self,
        output: MediaTaskOutput,
    ) -> Result<VecDeque<impl Future<Output = UploadResult> + use<>>, TranscodeError> {
        let (path, bytes, segment) = match output {
            MediaTaskOutput::Init { rendition, bytes } => {
                self.tracks.add_init(rendition, &bytes)?;
                (self.init_path(rendition)?, bytes, None)
            }
            MediaTaskOutput::Segment {
                rendition,
                number,
                start_ticks,
                duration_ticks,
                timescale,
                bytes,
                ..
            } => {
                // The child counts audio segments from 0, keys and playlists count all from 1.
                let number = if matches!(self.run.work, PartWork::Audio(_)) {
                    number.saturating_add(1)
                } else {
                    number
                };
                let size_bytes = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
                let segment = StoredSegment { start_ticks, duration_ticks, size_bytes };
                let made = EncodedSegment { rendition, number, timescale, segment };
                (self.segment_path(rendition, number)?, bytes, Some(made))
            }
            MediaTaskOutput::Image { bytes, .. } => (self.sheet_path()?, bytes, None),
            MediaTaskOutput::Progress { frames_done } => {
                self.frames_done = frames_done;
                return Ok(VecDeque::new());
            }
            _ => return Err(TranscodeError::Unplanned("an output of another task".into())),
        };
        let PartRun { context, job, .. } = self.run;
        Ok(VecDeque::from([put_output(Arc::clone(context), job.prefix.clone(), path, (bytes, segment))]))
    }

    fn sheet_path(&self) -> Result<String, TranscodeError> {
        match self.run.work {
            PartWork::Video { video, range } => {
                Ok(keys::storyboard_sheet_path(storyboard::sheet_number(video, range)))
            }
            _ => Err(TranscodeError::Unplanned("a picture of another task".into())),
        }
    }

    fn init_path(&self, rendition: u16) -> Result<String, TranscodeError> {
        let name = self.tracks.rendition_name(rendition)?;
        Ok(match self.run.work {
            PartWork::Subtitles(_) => keys::whole_subtitles_path(name),
            _ => keys::init_segment_path(name),
        })
    }

    fn segment_path(&self, rendition: u16, number: u32) -> Result<String, TranscodeError> {
        let name = self.tracks.rendition_name(rendition)?;
        Ok(match self.run.work {
            PartWork::Subtitles(_) => keys::subtitle_segment_path(name, number),
            _ => keys::segment_path(name, number),
        })
    }

    fn record_upload(&mut self, stored: UploadResult) -> Result<(), TranscodeError> {
        let StoredObject { path, sha256, segment } = stored?;
        self.checksums.insert(path, sha256);
        segment.map_or(Ok(()), |segment| self.tracks.add_segment(segment))
    }

    /// Writes the first whole segments at once, so that playing can begin. False when the part or job is over.
    async fn renew_when_playable(&mut self) -> Result<bool, TranscodeError> {
        if self.adds_to_beginning() { self.renew_claim().await } else { Ok(true) }
    }

    /// Whether there is more than at the last renewal of what playing begins with.
    fn adds_to_beginning(&self) -> bool {
        self.is_first_part
            && u32::try_from(self.renewed_segments).is_ok_and(|renewed| renewed < plan::GROWING_SEGMENTS_MIN)
            && self.renewed_segments < self.tracks.common_segment_count()
    }

    /// Shows that we live, with what is stored; reads whether the job still wants it. False when part or job are over.
    async fn renew_claim(&mut self) -> Result<bool, TranscodeError> {
        let PartRun { context, job, part, claim, .. } = self.run;
        let tracks = self.tracks.stored_tracks();
        let renewed = claim.renew(|record| record.tracks = tracks).await;
        match renewed {
            Ok(true) => {}
            // The task that waits on the token ends the run; the tracks must not be taken for finished ones.
            Ok(false) => return std::future::pending().await,
            Err(error) if error.is_outage() => {
                tracing::warn!(
                    error = error.describe(),
                    part,
                    "the claim could not be renewed, trying again"
                );
                return Ok(true);
            }
            Err(error) => return Err(error.into()),
        }
        if self.renewed_segments == 0 && self.tracks.common_segment_count() > 0 {
            outage::clear_delay(&context.bus, job.media_id).await;
        }
        match queue_worker::is_job_inactive(&context.bus, job).await {
            Ok(false) => {}
            Ok(true) => return Ok(false),
            Err(error) if error.is_outage() => return Ok(true),
            Err(error) => return Err(error.into()),
        }
        if self.adds_to_beginning() {
            match playable::mark_playable(&context.bus, job).await {
                Ok(()) => {}
                // What was renewed counts as not renewed, so that the next renewal tries again.
                Err(error) if error.is_outage() => return Ok(true),
                Err(error) => return Err(error),
            }
        }
        self.renewed_segments = self.tracks.common_segment_count();
        Ok(true)
    }

    /// Publishes how far the part is, at most once per `progress_interval_ms`. A lost message is no harm.
    async fn publish_progress(&mut self) {
        let PartRun { context, job, part, .. } = self.run;
        let interval = Duration::from_millis(context.config.progress_interval_ms);
        if self.frames_done == 0 || self.progress_at.is_some_and(|at| at.elapsed() < interval) {
            return;
        }
        self.progress_at = Some(Instant::now());
        let done_ms = match self.run.work {
            PartWork::Video { video, .. } => plan::frames_to_ms(self.frames_done, video.frame_rate),
            PartWork::Audio(audio) => {
                self.frames_done.saturating_mul(1_000 * packaging::presentation::AUDIO_FRAME_SAMPLES)
                    / u64::from(audio.sample_rate_hz.max(1))
            }
            PartWork::Subtitles(_) | PartWork::Finish => 0,
        };
        publish_part_progress(&context.bus, job, part, done_ms).await;
    }
}

async fn put_output(
    context: Arc<TranscodeContext>,
    prefix: String,
    path: String,
    (bytes, segment): (Bytes, Option<EncodedSegment>),
) -> UploadResult {
    let (began, length) = (std::time::Instant::now(), bytes.len());
    let sha256 = context.put_object(&prefix, &path, bytes).await?;
    TRANSCODE_STORE_SECONDS.observe_since((), began);
    TRANSCODE_OBJECTS.increment(());
    TRANSCODE_BYTES.add((), u64::try_from(length).unwrap_or(0));
    Ok(StoredObject { path, sha256, segment })
}

/// Publishes how far a part is.
pub(crate) async fn publish_part_progress(bus: &Bus, job: &job::JobRecord, part: &str, done_ms: u64) {
    let total_ms = plan::part_duration_ms(&job.plan, part);
    queue_worker::publish_progress(bus, job, part, (done_ms, total_ms)).await;
}

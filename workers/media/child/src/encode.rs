//! One decode, many renditions: a range of the output frame grid becomes CMAF segments in every rung.
//!
//! Limits: 8 pictures wait for each encoder, which bounds memory however slow one of them is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};

use ffmpeg_next::{Rational, Rescale, frame};
use media::protocol::MediaTaskReport;
use media::{EncodeSpec, MediaErrorCode, VideoGrid};

use crate::decode::TrackDecoder;
use crate::error::{MediaChildError, MediaChildResult, source_refused_error};
use crate::ffi;
use crate::parent_pipe::{ChildJob, ParentPipe};
use crate::picture_filter::{DisplayRotation, FilterOperation, PictureFilter};
use crate::rung_encoder::RungEncoder;
use crate::storyboard::StoryboardPainter;
use crate::timeline::{FrameGrid, FrameSelector, PlacedFrame};

/// Pictures that wait for one encoder.
const QUEUE_FRAMES_MAX: usize = 8;

/// Decoding starts this much before a range, in microseconds; more is tried where that is not enough.
const MARGINS_US: [i64; 3] = [2_000_000, 15_000_000, 120_000_000];

/// Runs the task.
pub(crate) fn encode_video(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    spec: &EncodeSpec,
) -> MediaChildResult<MediaTaskReport> {
    let grid = spec.check().map_err(MediaChildError::Failed)?;
    let (mut reader, ahead) = open_at_start(wire, job, spec)?;
    let done = RungProgress::new(wire, spec.rungs.len());
    let fed = thread::scope(|scope| {
        let mut queues = Vec::with_capacity(spec.rungs.len());
        let mut lanes = Vec::with_capacity(spec.rungs.len());
        for index in 0..spec.rungs.len() {
            let (queue, shown) = sync_channel(QUEUE_FRAMES_MAX);
            let done = &done;
            let work = move || encode_rung(wire, spec, grid, index, &shown, done);
            let lane = thread::Builder::new().name(format!("rung-{index}")).spawn_scoped(scope, work);
            lanes.push(
                lane.map_err(|error| MediaChildError::Failed(format!("start an encoder thread: {error}")))?,
            );
            queues.push(queue);
        }
        let fed = feed_encoders(&mut reader, ahead, spec, &queues);
        // Before the encoders are joined: they end when nothing more can come.
        drop(queues);
        // An encoder that failed says why; that its queue is closed is only what follows from it.
        join_encoders(lanes)?;
        fed
    })?;
    if let Some(storyboard) = fed.storyboard {
        storyboard.finish(wire)?;
    }
    Ok(MediaTaskReport {
        frames_decoded: reader.decoded,
        frames_written: u64::from(spec.frame_count),
        frames_repeated: fed.repeated,
        frames_dropped: fed.dropped,
        decode_errors: reader.errors,
        ..MediaTaskReport::default()
    })
}

fn join_encoders(lanes: Vec<ScopedJoinHandle<'_, MediaChildResult<()>>>) -> MediaChildResult<()> {
    let ended: Vec<_> = lanes.into_iter().map(ScopedJoinHandle::join).collect();
    for lane in ended {
        lane.map_err(|_panic| MediaChildError::Failed("an encoder thread panicked".into()))??;
    }
    Ok(())
}

/// What is left when all pictures are in the queues.
struct FedPictures {
    repeated: u64,
    dropped: u64,
    storyboard: Option<StoryboardPainter>,
}

/// The way of a picture from the decoder to the queues.
struct PictureDispatcher<'a> {
    deinterlace: Option<PictureFilter>,
    upright: PictureFilter,
    grid: FrameGrid,
    selector: FrameSelector<frame::Video>,
    queues: &'a [SyncSender<PlacedFrame<frame::Video>>],
    storyboard: Option<StoryboardPainter>,
}

fn feed_encoders(
    reader: &mut TrackDecoder,
    ahead: Option<frame::Video>,
    spec: &EncodeSpec,
    queues: &[SyncSender<PlacedFrame<frame::Video>>],
) -> MediaChildResult<FedPictures> {
    let time_base = reader.time_base;
    let turn = DisplayRotation::from_stream(&reader.track()?);
    let mut feed = PictureDispatcher {
        deinterlace: spec.deinterlace.then(|| PictureFilter::new(FilterOperation::Deinterlace, time_base)),
        upright: PictureFilter::new(FilterOperation::Upright(turn), time_base),
        grid: FrameGrid::new(spec.frame_rate, spec.origin_us, time_base),
        selector: FrameSelector::new(spec.start_frame, spec.frame_count),
        queues,
        storyboard: spec.storyboard.map(|sheet| StoryboardPainter::new(sheet, time_base)),
    };
    if let Some(picture) = ahead {
        feed.push_picture(picture)?;
    }
    let mut picture = frame::Video::empty();
    while !feed.selector.is_full() && reader.next_frame(&mut picture)? {
        feed.push_picture(std::mem::replace(&mut picture, frame::Video::empty()))?;
    }
    feed.finish()
}

/// Opens the source at a keyframe that is shown not after the range begins, with the first frame from there; at the
/// very beginning when there is no such keyframe or the file cannot be searched.
fn open_at_start(
    wire: &Arc<ParentPipe>,
    job: &ChildJob,
    spec: &EncodeSpec,
) -> MediaChildResult<(TrackDecoder, Option<frame::Video>)> {
    let mut reader = TrackDecoder::open(wire, job, spec.stream, spec.decode_threads)?;
    if spec.start_frame == 0 && !begins_late(&reader, spec)? {
        return Ok((reader, None));
    }
    let grid = FrameGrid::new(spec.frame_rate, spec.origin_us, reader.time_base);
    let start = i64::try_from(spec.start_frame).unwrap_or(i64::MAX);
    let start_us = grid.frame_start_us(spec.start_frame);
    for margin in MARGINS_US {
        if !reader.seek(start_us.saturating_sub(margin)) {
            break;
        }
        let mut picture = frame::Video::empty();
        // Seeking trusts the index of the file: only the first picture shows whether it landed before the part.
        if reader.next_frame(&mut picture)?
            && reader.first_key.is_some_and(|key| grid.frame_index(key) <= start)
        {
            return Ok((reader, Some(picture)));
        }
    }
    // The old reader may have asked for a block that the new one must not get.
    drop(reader);
    Ok((TrackDecoder::open(wire, job, spec.stream, spec.decode_threads)?, None))
}

/// Whether the presentation begins so long after the track that searching costs less than decoding up to there: a part of it is wanted.
fn begins_late(reader: &TrackDecoder, spec: &EncodeSpec) -> MediaChildResult<bool> {
    let start = reader.track()?.start_time();
    // A track that does not say where it begins is read from its beginning.
    let Some(start) = Some(start).filter(|start| *start != ffmpeg_next::ffi::AV_NOPTS_VALUE) else {
        return Ok(false);
    };
    let start_us = start.rescale(reader.time_base, Rational(1, 1_000_000));
    Ok(spec.origin_us.saturating_sub(start_us) > MARGINS_US[0])
}

impl PictureDispatcher<'_> {
    fn push_picture(&mut self, mut picture: frame::Video) -> MediaChildResult<()> {
        match &mut self.deinterlace {
            None => self.select_picture(picture),
            Some(deinterlace) => {
                for picture in deinterlace.push(&mut picture)? {
                    self.select_picture(picture)?;
                }
                Ok(())
            }
        }
    }

    fn select_picture(&mut self, picture: frame::Video) -> MediaChildResult<()> {
        let index = self.grid.frame_index(picture.pts().unwrap_or(0));
        let shown = self.selector.push(index, picture);
        self.send_to_queues(shown)
    }

    fn send_to_queues(&mut self, shown: Option<PlacedFrame<frame::Video>>) -> MediaChildResult<()> {
        let Some(mut shown) = shown else { return Ok(()) };
        let picture = self.upright.filter_picture(&mut shown.frame)?;
        if let Some(storyboard) = &mut self.storyboard {
            storyboard.show_picture(&picture, shown.first, shown.count)?;
        }
        for queue in self.queues {
            let frame = ffi::share_picture(&picture)
                .map_err(|error| MediaChildError::Failed(format!("share a picture: {error}")))?;
            let shown = PlacedFrame { frame, first: shown.first, count: shown.count };
            queue.send(shown).map_err(|_closed| MediaChildError::Failed("an encoder ended early".into()))?;
        }
        Ok(())
    }

    fn finish(mut self) -> MediaChildResult<FedPictures> {
        if let Some(mut deinterlace) = self.deinterlace.take() {
            for picture in deinterlace.finish()? {
                self.select_picture(picture)?;
            }
        }
        let last = self.selector.finish();
        self.send_to_queues(last)?;
        if !self.selector.is_full() {
            return Err(source_refused_error(
                MediaErrorCode::MediaNoFrames,
                "no frame of the stream could be decoded",
            ));
        }
        let (repeated, dropped) = (self.selector.repeated, self.selector.dropped);
        Ok(FedPictures { repeated, dropped, storyboard: self.storyboard })
    }
}

/// One encoder until its queue ends.
fn encode_rung(
    wire: &Arc<ParentPipe>,
    spec: &EncodeSpec,
    grid: VideoGrid,
    index: usize,
    queue: &Receiver<PlacedFrame<frame::Video>>,
    done: &RungProgress<'_>,
) -> MediaChildResult<()> {
    let mut lane = RungEncoder::open(Arc::clone(wire), spec, grid, index)?;
    let mut frames = 0;
    while let Ok(mut shown) = queue.recv() {
        lane.encode_picture(&mut shown)?;
        frames += shown.count;
        done.report_frames(index, frames)?;
    }
    // A queue that ends early belongs to a task that failed; the thread that met the error returns it.
    if frames == u64::from(spec.frame_count) { lane.finish() } else { Ok(()) }
}

/// Output frames taken by each encoder; the slowest counts.
struct RungProgress<'a> {
    wire: &'a ParentPipe,
    lanes: Vec<AtomicU64>,
}

impl<'a> RungProgress<'a> {
    fn new(wire: &'a ParentPipe, lanes: usize) -> Self {
        Self { wire, lanes: (0..lanes).map(|_| AtomicU64::new(0)).collect() }
    }

    fn report_frames(&self, lane: usize, frames: u64) -> MediaChildResult<()> {
        if let Some(count) = self.lanes.get(lane) {
            // Relaxed: a count that is seen late only reports less than is done.
            count.store(frames, Ordering::Relaxed);
        }
        let slowest = self.lanes.iter().map(|count| count.load(Ordering::Relaxed)).min();
        self.wire.send_progress(slowest.unwrap_or(0))
    }
}

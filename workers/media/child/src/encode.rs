//! One decode, many renditions: a range of the output frame grid becomes CMAF segments in every rung.
//!
//! Limits: 8 pictures wait for each encoder, which bounds memory however slow one of them is.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::{self, ScopedJoinHandle};

use ffmpeg_next::frame;
use media::protocol::Report;
use media::{Code, EncodeSpec, VideoGrid};

use crate::decode::Reader;
use crate::error::{Error, Result, refused};
use crate::ffi;
use crate::lane::Lane;
use crate::shape::{Shaper, Turn, Work};
use crate::timeline::{Grid, Selector, Shown};
use crate::wire::{Job, Wire};

/// Pictures that wait for one encoder.
const QUEUE_FRAMES_MAX: usize = 8;

/// Decoding starts this much before a range, in microseconds; more is tried where that is not enough.
const MARGINS_US: [i64; 3] = [2_000_000, 15_000_000, 120_000_000];

/// Runs the task.
pub(crate) fn run(wire: &Arc<Wire>, job: &Job, spec: &EncodeSpec) -> Result<Report> {
    let grid = spec.check().map_err(Error::Failed)?;
    let (mut reader, ahead) = open_at_start(wire, job, spec)?;
    let done = Done::new(wire, spec.rungs.len());
    let fed = thread::scope(|scope| {
        let mut queues = Vec::with_capacity(spec.rungs.len());
        let mut lanes = Vec::with_capacity(spec.rungs.len());
        for index in 0..spec.rungs.len() {
            let (queue, shown) = sync_channel(QUEUE_FRAMES_MAX);
            let done = &done;
            let work = move || encode_lane(wire, spec, grid, index, &shown, done);
            let lane = thread::Builder::new().name(format!("rung-{index}")).spawn_scoped(scope, work);
            lanes.push(lane.map_err(|error| Error::Failed(format!("start an encoder thread: {error}")))?);
            queues.push(queue);
        }
        let fed = feed(&mut reader, ahead, spec, &queues);
        drop(queues);
        // An encoder that failed says why; that its queue is closed is only what follows from it.
        join(lanes)?;
        fed
    })?;
    Ok(Report {
        frames_decoded: reader.decoded,
        frames_written: u64::from(spec.frame_count),
        frames_repeated: fed.repeated,
        frames_dropped: fed.dropped,
        decode_errors: reader.errors,
        ..Report::default()
    })
}

fn join(lanes: Vec<ScopedJoinHandle<'_, Result<()>>>) -> Result<()> {
    let ended: Vec<_> = lanes.into_iter().map(ScopedJoinHandle::join).collect();
    for lane in ended {
        lane.map_err(|_panic| Error::Failed("an encoder thread panicked".into()))??;
    }
    Ok(())
}

/// Counts of the selection.
#[derive(Debug, Clone, Copy)]
struct Fed {
    repeated: u64,
    dropped: u64,
}

/// The way of a picture from the decoder to the queues.
struct Feed<'a> {
    deinterlace: Option<Shaper>,
    upright: Shaper,
    grid: Grid,
    selector: Selector<frame::Video>,
    queues: &'a [SyncSender<Shown<frame::Video>>],
}

fn feed(
    reader: &mut Reader,
    ahead: Option<frame::Video>,
    spec: &EncodeSpec,
    queues: &[SyncSender<Shown<frame::Video>>],
) -> Result<Fed> {
    let time_base = reader.time_base;
    let turn = Turn::of(&reader.track()?);
    let mut feed = Feed {
        deinterlace: spec.deinterlace.then(|| Shaper::new(Work::Deinterlace, time_base)),
        upright: Shaper::new(Work::Upright(turn), time_base),
        grid: Grid::new(spec.frame_rate, spec.origin_us, time_base),
        selector: Selector::new(spec.start_frame, spec.frame_count),
        queues,
    };
    if let Some(picture) = ahead {
        feed.take(picture)?;
    }
    let mut picture = frame::Video::empty();
    while !feed.selector.is_full() && reader.next(&mut picture)? {
        feed.take(std::mem::replace(&mut picture, frame::Video::empty()))?;
    }
    feed.finish()
}

/// Opens the source at a keyframe that is shown not after the range begins, with the first frame from there; at the
/// very beginning when there is no such keyframe or the file cannot be searched.
fn open_at_start(wire: &Arc<Wire>, job: &Job, spec: &EncodeSpec) -> Result<(Reader, Option<frame::Video>)> {
    let mut reader = Reader::open(wire, job, spec.stream, spec.decode_threads)?;
    if spec.start_frame == 0 {
        return Ok((reader, None));
    }
    let grid = Grid::new(spec.frame_rate, spec.origin_us, reader.time_base);
    let start = i64::try_from(spec.start_frame).unwrap_or(i64::MAX);
    let start_us = grid.at_us(spec.start_frame);
    for margin in MARGINS_US {
        if !reader.seek(start_us.saturating_sub(margin)) {
            break;
        }
        let mut picture = frame::Video::empty();
        if reader.next(&mut picture)? && reader.first_key.is_some_and(|key| grid.index(key) <= start) {
            return Ok((reader, Some(picture)));
        }
    }
    // The old reader may have asked for a block that the new one must not get.
    drop(reader);
    Ok((Reader::open(wire, job, spec.stream, spec.decode_threads)?, None))
}

impl Feed<'_> {
    fn take(&mut self, mut picture: frame::Video) -> Result<()> {
        match &mut self.deinterlace {
            None => self.select(picture),
            Some(deinterlace) => {
                for picture in deinterlace.push(&mut picture)? {
                    self.select(picture)?;
                }
                Ok(())
            }
        }
    }

    fn select(&mut self, picture: frame::Video) -> Result<()> {
        let index = self.grid.index(picture.pts().unwrap_or(0));
        let shown = self.selector.push(index, picture);
        self.hand_on(shown)
    }

    fn hand_on(&mut self, shown: Option<Shown<frame::Video>>) -> Result<()> {
        let Some(mut shown) = shown else { return Ok(()) };
        let picture = self.upright.shape(&mut shown.frame)?;
        for queue in self.queues {
            let frame =
                ffi::share(&picture).map_err(|error| Error::Failed(format!("share a picture: {error}")))?;
            let shown = Shown { frame, first: shown.first, count: shown.count };
            queue.send(shown).map_err(|_closed| Error::Failed("an encoder ended early".into()))?;
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Fed> {
        if let Some(mut deinterlace) = self.deinterlace.take() {
            for picture in deinterlace.finish()? {
                self.select(picture)?;
            }
        }
        let last = self.selector.finish();
        self.hand_on(last)?;
        if !self.selector.is_full() {
            return Err(refused(Code::MediaNoFrames, "no frame of the stream could be decoded"));
        }
        Ok(Fed { repeated: self.selector.repeated, dropped: self.selector.dropped })
    }
}

/// One encoder until its queue ends.
fn encode_lane(
    wire: &Arc<Wire>,
    spec: &EncodeSpec,
    grid: VideoGrid,
    index: usize,
    queue: &Receiver<Shown<frame::Video>>,
    done: &Done<'_>,
) -> Result<()> {
    let mut lane = Lane::open(Arc::clone(wire), spec, grid, index)?;
    let mut frames = 0;
    while let Ok(mut shown) = queue.recv() {
        lane.show(&mut shown)?;
        frames += shown.count;
        done.tell(index, frames)?;
    }
    // A queue that ends early belongs to a task that failed; its error is told by whoever met it.
    if frames == u64::from(spec.frame_count) { lane.finish() } else { Ok(()) }
}

/// Output frames taken by each encoder; the slowest counts.
struct Done<'a> {
    wire: &'a Wire,
    lanes: Vec<AtomicU64>,
}

impl<'a> Done<'a> {
    fn new(wire: &'a Wire, lanes: usize) -> Self {
        Self { wire, lanes: (0..lanes).map(|_| AtomicU64::new(0)).collect() }
    }

    fn tell(&self, lane: usize, frames: u64) -> Result<()> {
        if let Some(count) = self.lanes.get(lane) {
            count.store(frames, Ordering::Relaxed);
        }
        let slowest = self.lanes.iter().map(|count| count.load(Ordering::Relaxed)).min();
        self.wire.progress(slowest.unwrap_or(0))
    }
}

//! One child and one task: serves reads, checks and hands on what comes, watches the clock, and ends the child.
//!
//! Limits: those of [`MediaDriverConfig`], and five seconds for a child to exit after its result.

use std::os::unix::process::ExitStatusExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use futures::{SinkExt, StreamExt};
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::{Child, ChildStderr, ChildStdin, ChildStdout};
use tokio::sync::mpsc;
use tokio_util::codec::{FramedRead, FramedWrite, LengthDelimitedCodec};
use tokio_util::sync::CancellationToken;

use crate::config::MediaDriverConfig;
use crate::copy::MediaSurvey;
use crate::error::MediaTaskError;
use crate::output_validator::OutputValidator;
use crate::probe::MediaProbe;
use crate::protocol::{
    self, ChildMessage, DETAIL_CHARS_MAX, FRAME_BYTES_MAX, MediaSelfCheck, MediaTask, MediaTaskReport,
    ParentMessage, READ_BYTES_MAX, READS_IN_FLIGHT_MAX, to_printable,
};
use crate::source::MediaByteSource;
use crate::spec::MediaTaskOutput;

/// How often the watchdog looks.
const WATCH_INTERVAL: Duration = Duration::from_millis(250);

/// How long a child may take to exit once it has said its last word.
const EXIT_TIMEOUT: Duration = Duration::from_secs(5);

/// Bytes of the end of stderr kept for the explanation of a crash.
const STDERR_BYTES_MAX: usize = 4096;

/// Room for reads on top of the amplification, so that tiny files can be probed.
const READ_BYTES_ALWAYS: u64 = 256 << 20;

/// The last word of a child.
#[derive(Debug)]
pub(crate) enum ChildOutcome {
    /// The result of a probe.
    Probed(Box<MediaProbe>),
    /// The result of a survey.
    Surveyed(Box<MediaSurvey>),
    /// The result of any other task.
    Done(MediaTaskReport),
    /// The result of the self-check.
    Checked(MediaSelfCheck),
}

/// A running child with its pipes; dropping it kills its process group.
#[derive(Debug)]
pub(crate) struct ChildSession {
    child: Child,
    group: Option<Pid>,
    stdin: ChildStdin,
    stdout: ChildStdout,
    stderr: ChildStderr,
}

/// What one run needs beside the child.
pub(crate) struct MediaTaskRun<'a> {
    pub(crate) config: &'a MediaDriverConfig,
    pub(crate) source: Arc<dyn MediaByteSource>,
    pub(crate) task: MediaTask,
    pub(crate) out: Option<mpsc::Sender<MediaTaskOutput>>,
    pub(crate) cancel: &'a CancellationToken,
}

impl ChildSession {
    /// Takes over a child that was spawned with three pipes in its own process group.
    pub(crate) fn new(mut child: Child) -> Result<Self, MediaTaskError> {
        let group = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (child.stdin.take(), child.stdout.take(), child.stderr.take())
        else {
            return Err(MediaTaskError::Protocol("child without pipes".into()));
        };
        Ok(Self { child, group, stdin, stdout, stderr })
    }

    /// Runs the task to its end; the child is gone when this returns.
    pub(crate) async fn run(mut self, run: MediaTaskRun<'_>) -> Result<ChildOutcome, MediaTaskError> {
        // A child that a file took over may say anything: each message is held against the plan before it counts.
        let expect = OutputValidator::new(&run.task, &run.config.limits, run.config.output_bytes_max)?;
        let size_bytes = run.source.size_bytes();
        let start = ParentMessage::Start { task: run.task, size_bytes, limits: run.config.limits.clone() };
        let blame = ChildClock::new();
        let (reads, wanted) = mpsc::channel(READS_IN_FLIGHT_MAX);
        let mut listener = ChildOutputReader {
            frames: FramedRead::new(&mut self.stdout, build_frame_codec()),
            expect,
            reads,
            read_bytes_left: size_bytes
                .saturating_mul(run.config.read_amplification_max)
                .saturating_add(READ_BYTES_ALWAYS),
            size_bytes,
            out: run.out,
            blame: &blame,
            patience: Duration::from_secs(run.config.wall_seconds_without_progress_max),
            wall: Duration::from_secs(run.config.wall_seconds_max),
        };
        let mut tail = Vec::new();
        let ended = {
            let serve = serve_reads(&mut self.stdin, run.source.as_ref(), &start, wanted, &blame);
            let drain = drain_stderr(&mut self.stderr, &mut tail);
            tokio::pin!(serve, drain);
            let (mut is_serving, mut is_draining) = (true, true);
            let listen = listener.read_until_outcome();
            let watch = watch_threads(self.group, run.config.threads_max);
            tokio::pin!(listen, watch);
            loop {
                tokio::select! {
                    biased;
                    // The stop first, then the child's own last word: it explains what a failed pipe only shows.
                    () = run.cancel.cancelled() => break Err(MediaTaskError::Cancelled),
                    last = &mut listen => break last,
                    fault = &mut watch => break Err(fault),
                    served = &mut serve, if is_serving => match served {
                        Ok(()) => is_serving = false,
                        Err(fault) => break Err(fault),
                    },
                    () = &mut drain, if is_draining => is_draining = false,
                }
            }
        };
        self.finish(ended, tail).await
    }

    /// Turns the way the conversation ended, and the exit of the child, into one answer.
    async fn finish(
        mut self,
        ended: Result<Option<ChildOutcome>, MediaTaskError>,
        mut tail: Vec<u8>,
    ) -> Result<ChildOutcome, MediaTaskError> {
        let ended = match ended {
            Ok(Some(last)) => Ok(last),
            // End of output without a last word: only the exit status says why.
            Ok(None) => Err(None),
            Err(fault) => Err(Some(fault)),
        };
        match ended {
            Ok(last) => {
                self.wait_for_exit().await;
                Ok(last)
            }
            Err(Some(fault)) => {
                self.kill();
                self.wait_for_exit().await;
                Err(fault)
            }
            Err(None) => {
                drain_stderr(&mut self.stderr, &mut tail).await;
                Err(self.crash_error(&tail).await)
            }
        }
    }

    /// Waits for the end of the self-check.
    pub(crate) async fn wait_for_check(mut self) -> Result<ChildOutcome, MediaTaskError> {
        let mut tail = Vec::new();
        let body = {
            let mut frames = FramedRead::new(&mut self.stdout, build_frame_codec());
            tokio::time::timeout(Duration::from_secs(20), frames.next()).await
        };
        match body {
            Err(_) => Err(MediaTaskError::Stalled { seconds: 20 }),
            Ok(Some(Ok(body))) => match protocol::decode_frame(&body) {
                Ok(ChildMessage::Checked(check)) => {
                    self.wait_for_exit().await;
                    Ok(ChildOutcome::Checked(check))
                }
                Ok(ChildMessage::Failed { detail, .. }) => {
                    Err(MediaTaskError::Sandbox(to_printable(&detail, DETAIL_CHARS_MAX)))
                }
                _ => Err(MediaTaskError::Protocol("no answer to the check".into())),
            },
            Ok(Some(Err(_)) | None) => {
                drain_stderr(&mut self.stderr, &mut tail).await;
                Err(self.crash_error(&tail).await)
            }
        }
    }

    async fn crash_error(&mut self, tail: &[u8]) -> MediaTaskError {
        let status = if let Ok(Ok(status)) = tokio::time::timeout(EXIT_TIMEOUT, self.child.wait()).await {
            Some(status)
        } else {
            self.kill();
            self.child.wait().await.ok()
        };
        let detail = to_printable(&String::from_utf8_lossy(tail), DETAIL_CHARS_MAX);
        if status.and_then(|status| status.code()) == Some(i32::from(protocol::EXIT_SANDBOX)) {
            return MediaTaskError::Sandbox(detail);
        }
        MediaTaskError::Crashed {
            signal: status.and_then(|status| status.signal()),
            status: status.and_then(|status| status.code()),
            detail,
        }
    }

    async fn wait_for_exit(&mut self) {
        if tokio::time::timeout(EXIT_TIMEOUT, self.child.wait()).await.is_err() {
            self.kill();
            if let Err(error) = self.child.wait().await {
                tracing::warn!(%error, "media child could not be waited for");
            }
        }
    }

    fn kill(&mut self) {
        // A child that was waited for has no id any more, so that a reused number is never hit.
        if let (Some(group), Some(_)) = (self.group, self.child.id())
            && let Err(error) = kill_process_group(group, Signal::KILL)
        {
            tracing::debug!(%error, "media child was gone already");
        }
    }
}

impl Drop for ChildSession {
    fn drop(&mut self) {
        self.kill();
    }
}

fn build_frame_codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().length_field_length(4).max_frame_length(FRAME_BYTES_MAX).new_codec()
}

/// Whose turn it is to act: time that the source or the taker of the output needs is not the child's.
struct ChildClock {
    began: Instant,
    excused_us: AtomicU64,
    /// When the running wait began, in microseconds since `began`, plus one; 0 when none runs.
    since_us: AtomicU64,
}

impl ChildClock {
    fn new() -> Self {
        Self { began: Instant::now(), excused_us: AtomicU64::new(0), since_us: AtomicU64::new(0) }
    }

    fn now_us(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_micros()).unwrap_or(u64::MAX)
    }

    fn begin_excused(&self) {
        // Relaxed: reader and writer are polled by one task; the atomics only let both borrow the clock.
        self.since_us.store(self.now_us().saturating_add(1), Ordering::Relaxed);
    }

    fn end_excused(&self) {
        let since = self.since_us.swap(0, Ordering::Relaxed);
        if since > 0 {
            self.excused_us.fetch_add(self.now_us().saturating_sub(since - 1), Ordering::Relaxed);
        }
    }

    /// Time so far for which the child answers.
    fn charged_us(&self) -> u64 {
        let now = self.now_us();
        let since = self.since_us.load(Ordering::Relaxed);
        let running = if since > 0 { now.saturating_sub(since - 1) } else { 0 };
        now.saturating_sub(self.excused_us.load(Ordering::Relaxed)).saturating_sub(running)
    }
}

/// Sends the task, then answers the reads in order until no more can come.
async fn serve_reads(
    stdin: &mut ChildStdin,
    source: &dyn MediaByteSource,
    start: &ParentMessage,
    mut wanted: mpsc::Receiver<(u64, usize)>,
    blame: &ChildClock,
) -> Result<(), MediaTaskError> {
    let mut frames = FramedWrite::new(stdin, build_frame_codec());
    let mut sent = send_message(&mut frames, start).await;
    while let Some((offset, len)) = wanted.recv().await {
        blame.begin_excused();
        let read = source.read(offset, len).await;
        blame.end_excused();
        let bytes = read.map_err(MediaTaskError::Source)?;
        if bytes.len() > len {
            return Err(MediaTaskError::Source(std::io::Error::other("source gave more than was asked")));
        }
        // A child that died is noticed where its output ends.
        sent = sent && send_message(&mut frames, &ParentMessage::Data { bytes }).await;
    }
    Ok(())
}

async fn send_message(
    frames: &mut FramedWrite<&mut ChildStdin, LengthDelimitedCodec>,
    message: &ParentMessage,
) -> bool {
    let Ok(body) = protocol::encode_frame(message) else { return false };
    frames.send(Bytes::from(body)).await.is_ok()
}

/// Comes when the child has more threads than it may have: no filter inside of it can count them.
async fn watch_threads(child: Option<Pid>, threads_max: u32) -> MediaTaskError {
    let Some(child) = child else { return std::future::pending().await };
    let path = format!("/proc/{}/status", child.as_raw_nonzero());
    loop {
        tokio::time::sleep(WATCH_INTERVAL).await;
        // A child that is gone is noticed where its output ends.
        let Ok(status) = tokio::fs::read_to_string(&path).await else { continue };
        let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
        let threads = threads.and_then(|count| count.trim().parse::<u32>().ok());
        if threads.is_some_and(|count| count > threads_max) {
            return MediaTaskError::Protocol(format!("more than {threads_max} threads"));
        }
    }
}

/// Reads to the end and keeps the last part.
async fn drain_stderr(stderr: &mut (impl AsyncRead + Unpin), tail: &mut Vec<u8>) {
    let mut buffer = [0; 1024];
    while let Ok(count) = stderr.read(&mut buffer).await {
        let Some(part) = buffer.get(..count).filter(|part| !part.is_empty()) else { return };
        tail.extend_from_slice(part);
        tail.drain(..tail.len().saturating_sub(STDERR_BYTES_MAX));
    }
}

/// The child's output, held against the plan.
struct ChildOutputReader<'a> {
    frames: FramedRead<&'a mut ChildStdout, LengthDelimitedCodec>,
    expect: OutputValidator,
    reads: mpsc::Sender<(u64, usize)>,
    read_bytes_left: u64,
    size_bytes: u64,
    out: Option<mpsc::Sender<MediaTaskOutput>>,
    blame: &'a ChildClock,
    patience: Duration,
    wall: Duration,
}

impl ChildOutputReader<'_> {
    /// Until the last word of the child; none when its output ends without one.
    async fn read_until_outcome(&mut self) -> Result<Option<ChildOutcome>, MediaTaskError> {
        let patience_us = u64::try_from(self.patience.as_micros()).unwrap_or(u64::MAX);
        let mut progress_us = self.blame.charged_us();
        loop {
            // Reads and signs of life are no end: a child that works for ever is stopped here.
            if self.blame.began.elapsed() > self.wall {
                return Err(MediaTaskError::Stalled { seconds: self.wall.as_secs() });
            }
            let Ok(next) = tokio::time::timeout(WATCH_INTERVAL, self.frames.next()).await else {
                if self.blame.charged_us().saturating_sub(progress_us) > patience_us {
                    return Err(MediaTaskError::Stalled { seconds: self.patience.as_secs() });
                }
                continue;
            };
            let body = match next {
                Some(Err(error)) if error.kind() == std::io::ErrorKind::InvalidData => {
                    return Err(MediaTaskError::Protocol(error.to_string()));
                }
                // The end, or a frame cut short by the death of the child.
                None | Some(Err(_)) => return Ok(None),
                Some(Ok(body)) => body,
            };
            match self.handle_frame(body).await? {
                ChildEvent::Read => {
                    if self.blame.charged_us().saturating_sub(progress_us) > patience_us {
                        return Err(MediaTaskError::Stalled { seconds: self.patience.as_secs() });
                    }
                }
                ChildEvent::Progress => progress_us = self.blame.charged_us(),
                ChildEvent::Last(last) => return Ok(Some(last)),
            }
        }
    }

    async fn handle_frame(&mut self, body: BytesMut) -> Result<ChildEvent, MediaTaskError> {
        let message =
            protocol::decode_frame(&body).map_err(|error| MediaTaskError::Protocol(error.to_string()))?;
        let output = match message {
            ChildMessage::Read { offset, len } => return self.handle_read(offset, len),
            ChildMessage::Working { steps } => {
                self.expect.check_heartbeat(steps)?;
                return Ok(ChildEvent::Progress);
            }
            ChildMessage::Progress { done } if self.out.is_none() => {
                self.expect.check_progress(done)?;
                return Ok(ChildEvent::Progress);
            }
            ChildMessage::Progress { done } => MediaTaskOutput::Progress { frames_done: done },
            ChildMessage::Init { rendition, bytes } => MediaTaskOutput::Init { rendition, bytes },
            ChildMessage::Segment {
                rendition,
                number,
                start_ticks,
                duration_ticks,
                timescale,
                sample_count,
                bytes,
            } => MediaTaskOutput::Segment {
                rendition,
                number,
                start_ticks,
                duration_ticks,
                timescale,
                sample_count,
                bytes,
            },
            ChildMessage::Image { position, at_us, width, height, bytes } => {
                MediaTaskOutput::Image { position, at_us, width, height, bytes }
            }
            ChildMessage::Cues { position, cues } => MediaTaskOutput::Cues { position, cues },
            ChildMessage::Probed(probe) => {
                let probe = self.expect.check_probe(*probe, self.size_bytes)?;
                return Ok(ChildEvent::Last(ChildOutcome::Probed(Box::new(probe))));
            }
            ChildMessage::Surveyed(survey) => {
                let survey = self.expect.check_survey(*survey, self.size_bytes)?;
                return Ok(ChildEvent::Last(ChildOutcome::Surveyed(Box::new(survey))));
            }
            ChildMessage::Done(report) => {
                return Ok(ChildEvent::Last(ChildOutcome::Done(self.expect.check_report(report)?)));
            }
            ChildMessage::Failed { code, detail } => {
                let detail = to_printable(&detail, DETAIL_CHARS_MAX);
                return Err(code.map_or(MediaTaskError::Failed { detail: detail.clone() }, |code| {
                    MediaTaskError::Rejected { code, detail }
                }));
            }
            ChildMessage::Checked(_) => {
                return Err(MediaTaskError::Protocol("an answer to another question".into()));
            }
        };
        self.forward_output(output).await?;
        Ok(ChildEvent::Progress)
    }

    async fn forward_output(&mut self, output: MediaTaskOutput) -> Result<(), MediaTaskError> {
        self.expect.check_output(&output)?;
        let Some(out) = &self.out else {
            return Err(MediaTaskError::Protocol("a product without asking".into()));
        };
        out.send(output).await.map_err(|_closed| MediaTaskError::OutputClosed)
    }

    fn handle_read(&mut self, offset: u64, len: u32) -> Result<ChildEvent, MediaTaskError> {
        let is_inside = offset.checked_add(u64::from(len)).is_some_and(|end| end <= self.size_bytes);
        if len == 0 || len > READ_BYTES_MAX || !is_inside {
            return Err(MediaTaskError::Protocol(format!(
                "read of {len} bytes at {offset} of {}",
                self.size_bytes
            )));
        }
        let left = self.read_bytes_left.checked_sub(u64::from(len));
        self.read_bytes_left =
            left.ok_or_else(|| MediaTaskError::Protocol("more reads than allowed".into()))?;
        let len = usize::try_from(len).map_err(|error| MediaTaskError::Protocol(error.to_string()))?;
        // Never waited for: the task that answers could itself wait for this one to read on.
        match self.reads.try_send((offset, len)) {
            Ok(()) => Ok(ChildEvent::Read),
            Err(_) => Err(MediaTaskError::Protocol("more open reads than allowed".into())),
        }
    }
}

enum ChildEvent {
    Read,
    Progress,
    Last(ChildOutcome),
}

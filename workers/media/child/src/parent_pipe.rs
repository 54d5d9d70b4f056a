//! The child's end of the pipes: one reader thread for stdin, one lock for stdout.
//!
//! Limits: `READS_IN_FLIGHT_MAX` answers wait at a time; writing blocks while the parent does not read.

use std::io::{self, Stdin, Stdout};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::protocol::{self, ChildMessage, MediaLimits, MediaTask, ParentMessage, READS_IN_FLIGHT_MAX};
use parking_lot::Mutex;

use crate::error::{MediaChildError, MediaChildResult};
use crate::ffi;

/// Shortest time between two reports of progress.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The task and what it is about.
#[derive(Debug)]
pub(crate) struct ChildJob {
    pub(crate) task: MediaTask,
    pub(crate) size_bytes: u64,
    pub(crate) limits: MediaLimits,
}

/// The pipes.
#[derive(Debug)]
pub(crate) struct ParentPipe {
    stdout: Mutex<Stdout>,
    answers: Mutex<Receiver<Bytes>>,
    reported: Mutex<ReportedProgress>,
}

#[derive(Debug, Default)]
struct ReportedProgress {
    done: u64,
    done_at: Option<Instant>,
    steps: u64,
    steps_at: Option<Instant>,
}

impl ParentPipe {
    /// Takes the task from stdin and starts the thread that takes the answers; end of stdin ends the process.
    pub(crate) fn open(stdin: Stdin, stdout: Stdout) -> MediaChildResult<(Arc<Self>, ChildJob)> {
        let first = protocol::read_frame(&mut stdin.lock())
            .map_err(|error| MediaChildError::Failed(error.to_string()))?;
        let Some(ParentMessage::Start { task, size_bytes, limits }) = first else {
            return Err(MediaChildError::Failed("no task".into()));
        };
        let (sender, answers) = sync_channel(READS_IN_FLIGHT_MAX);
        let listen = move || receive_answers(&stdin, &sender);
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(listen)
            .map_err(|error| MediaChildError::Failed(format!("start the reader: {error}")))?;
        let wire = Self {
            stdout: Mutex::new(stdout),
            answers: Mutex::new(answers),
            reported: Mutex::new(ReportedProgress::default()),
        };
        Ok((Arc::new(wire), ChildJob { task, size_bytes, limits }))
    }

    /// Sends one frame; fails when the parent is gone.
    pub(crate) fn send(&self, message: &ChildMessage) -> MediaChildResult<()> {
        let mut stdout = self.stdout.lock();
        protocol::write_frame(&mut *stdout, message)
            .map_err(|error| MediaChildError::Failed(format!("send to the parent: {error}")))
    }

    /// Asks for a range; its bytes come by [`ParentPipe::receive_data`] in the order of asking.
    pub(crate) fn request_read(&self, offset: u64, len: u32) -> io::Result<()> {
        self.send(&ChildMessage::Read { offset, len }).map_err(io::Error::other)
    }

    /// Waits for the answer to the oldest question.
    pub(crate) fn receive_data(&self) -> io::Result<Bytes> {
        self.answers.lock().recv().map_err(io::Error::other)
    }

    /// Reports how much is done, when it is more than before and enough time has passed.
    pub(crate) fn send_progress(&self, done: u64) -> MediaChildResult<()> {
        let mut reported = self.reported.lock();
        if done <= reported.done || !is_due(reported.done_at) {
            return Ok(());
        }
        reported.done = done;
        reported.done_at = Some(Instant::now());
        self.send(&ChildMessage::Progress { done })
    }

    /// The step that was reported last: those of another run through the file go on behind it.
    pub(crate) fn last_step(&self) -> u64 {
        self.reported.lock().steps
    }

    /// Reports that work goes on while there is no progress; like [`ParentPipe::send_progress`].
    pub(crate) fn send_heartbeat(&self, steps: u64) -> MediaChildResult<()> {
        let mut reported = self.reported.lock();
        if steps <= reported.steps || !is_due(reported.steps_at) {
            return Ok(());
        }
        reported.steps = steps;
        reported.steps_at = Some(Instant::now());
        self.send(&ChildMessage::Working { steps })
    }
}

fn is_due(at: Option<Instant>) -> bool {
    at.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL)
}

fn receive_answers(stdin: &Stdin, sender: &SyncSender<Bytes>) {
    while let Ok(Some(ParentMessage::Data { bytes })) = protocol::read_frame(&mut stdin.lock()) {
        if sender.send(bytes).is_err() {
            break;
        }
    }
    // The parent is gone or speaks nonsense: nothing that is still running is of use to anyone.
    ffi::exit_now(0);
}

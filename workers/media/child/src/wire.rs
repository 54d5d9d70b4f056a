//! The child's end of the pipes: one reader thread for stdin, one lock for stdout.
//!
//! Limits: `READS_IN_FLIGHT_MAX` answers wait at a time; writing blocks while the parent does not read.

use std::io::{self, Stdin, Stdout};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use bytes::Bytes;
use media::protocol::{self, FromChild, Limits, READS_IN_FLIGHT_MAX, Task, ToChild};
use parking_lot::Mutex;

use crate::error::{Error, Result};
use crate::ffi;

/// Progress is told at most this often.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(100);

/// The task and what it is about.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) task: Task,
    pub(crate) size_bytes: u64,
    pub(crate) limits: Limits,
}

/// The pipes.
#[derive(Debug)]
pub(crate) struct Wire {
    stdout: Mutex<Stdout>,
    answers: Mutex<Receiver<Bytes>>,
    told: Mutex<Told>,
}

#[derive(Debug, Default)]
struct Told {
    done: u64,
    done_at: Option<Instant>,
    steps: u64,
    steps_at: Option<Instant>,
}

impl Wire {
    /// Takes the task from stdin and starts the thread that takes the answers; end of stdin ends the process.
    pub(crate) fn open(stdin: Stdin, stdout: Stdout) -> Result<(Arc<Self>, Job)> {
        let first =
            protocol::read_frame(&mut stdin.lock()).map_err(|error| Error::Failed(error.to_string()))?;
        let Some(ToChild::Start { task, size_bytes, limits }) = first else {
            return Err(Error::Failed("no task".into()));
        };
        let (sender, answers) = sync_channel(READS_IN_FLIGHT_MAX);
        let listen = move || take_answers(&stdin, &sender);
        std::thread::Builder::new()
            .name("stdin".into())
            .spawn(listen)
            .map_err(|error| Error::Failed(format!("start the reader: {error}")))?;
        let wire = Self {
            stdout: Mutex::new(stdout),
            answers: Mutex::new(answers),
            told: Mutex::new(Told::default()),
        };
        Ok((Arc::new(wire), Job { task, size_bytes, limits }))
    }

    /// Sends one frame; fails when the parent is gone.
    pub(crate) fn send(&self, message: &FromChild) -> Result<()> {
        let mut stdout = self.stdout.lock();
        protocol::write_frame(&mut *stdout, message)
            .map_err(|error| Error::Failed(format!("tell the parent: {error}")))
    }

    /// Asks for a range; its bytes come by [`Wire::answer`] in the order of asking.
    pub(crate) fn ask(&self, offset: u64, len: u32) -> io::Result<()> {
        self.send(&FromChild::Read { offset, len }).map_err(io::Error::other)
    }

    /// Waits for the answer to the oldest question.
    pub(crate) fn answer(&self) -> io::Result<Bytes> {
        self.answers.lock().recv().map_err(io::Error::other)
    }

    /// Tells how much is done, when it is more than before and enough time has passed.
    pub(crate) fn progress(&self, done: u64) -> Result<()> {
        let mut told = self.told.lock();
        if done <= told.done || !is_due(told.done_at) {
            return Ok(());
        }
        told.done = done;
        told.done_at = Some(Instant::now());
        self.send(&FromChild::Progress { done })
    }

    /// Tells that there is life while there is no progress; like [`Wire::progress`].
    pub(crate) fn working(&self, steps: u64) -> Result<()> {
        let mut told = self.told.lock();
        if steps <= told.steps || !is_due(told.steps_at) {
            return Ok(());
        }
        told.steps = steps;
        told.steps_at = Some(Instant::now());
        self.send(&FromChild::Working { steps })
    }
}

fn is_due(at: Option<Instant>) -> bool {
    at.is_none_or(|at| at.elapsed() >= PROGRESS_INTERVAL)
}

fn take_answers(stdin: &Stdin, sender: &SyncSender<Bytes>) {
    while let Ok(Some(ToChild::Data { bytes })) = protocol::read_frame(&mut stdin.lock()) {
        if sender.send(bytes).is_err() {
            break;
        }
    }
    // The parent is gone or speaks nonsense: nothing that is still running is of use to anyone.
    ffi::exit_now(0);
}

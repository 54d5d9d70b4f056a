//! Starts children and runs tasks in them.
//!
//! Limits: [`Config::children_max`] at once, [`Config::memory_bytes_max`] for all together; all others belong to one session.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, mpsc as std_mpsc};

use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::Config;
use crate::error::Fault;
use crate::memory::{Memory, Part};
use crate::probe::Probe;
use crate::protocol::{Check, Report, Task};
use crate::session::{Last, Run, Session};
use crate::source::Source;
use crate::spec::{AudioSpec, EncodeSpec, Output, StillsSpec};

/// Name of the program that does the work.
const PROGRAM: &str = "streamgate-media";

/// Runs media tasks, each in a child process of its own. Cheap to share behind an `Arc`.
///
/// When a task returns, its child is gone, also when `cancel` fired. A task that is dropped instead kills its child and
/// does not wait for it.
#[derive(Debug)]
pub struct Driver {
    config: Config,
    program: PathBuf,
    spawner: Spawner,
    slots: Semaphore,
    memory: Memory,
    check: Check,
}

impl Driver {
    /// Lets the child check itself. Fails when the program is absent, when FFmpeg lacks something that is needed,
    /// and when the sandbox does not hold, unless [`Config::unsandboxed`] says to go on without.
    pub async fn start(config: Config) -> Result<Self, Fault> {
        let program = find_program(&config);
        let spawner = Spawner::start().map_err(|source| spawn_fault(&program, source))?;
        let mut driver = Self {
            slots: Semaphore::new(config.children_max),
            memory: Memory::new(config.memory_bytes_max),
            program,
            spawner,
            config,
            check: Check::default(),
        };
        let Last::Checked(check) =
            driver.spawn("check", driver.config.probe_memory_bytes_max).await?.check().await?
        else {
            return Err(Fault::Protocol("no answer to the check".into()));
        };
        if !check.missing.is_empty() {
            return Err(Fault::Failed { detail: format!("FFmpeg lacks {}", check.missing.join(", ")) });
        }
        if !check.sandbox.holds() {
            if !driver.config.unsandboxed {
                return Err(Fault::Sandbox(format!("{:?}", check.sandbox)));
            }
            tracing::warn!("media children run without a sandbox, as configured");
        }
        driver.check = check;
        Ok(driver)
    }

    /// What the child found at the start: library versions and what the sandbox refuses.
    pub fn check(&self) -> &Check {
        &self.check
    }

    /// Says what the file holds, by a scan of its packets without decoding.
    pub async fn probe(&self, source: Arc<dyn Source>, cancel: &CancellationToken) -> Result<Probe, Fault> {
        match self.run(source, Task::Probe, None, cancel).await? {
            Last::Probed(probe) => Ok(*probe),
            _ => Err(Fault::Protocol("another result than a probe".into())),
        }
    }

    /// Encodes a range of the output frame grid into every rung.
    pub async fn encode(
        &self,
        source: Arc<dyn Source>,
        spec: EncodeSpec,
        out: mpsc::Sender<Output>,
        cancel: &CancellationToken,
    ) -> Result<Report, Fault> {
        self.produce(source, Task::Encode(spec), out, cancel).await
    }

    /// Encodes an audio track, whole.
    pub async fn audio(
        &self,
        source: Arc<dyn Source>,
        spec: AudioSpec,
        out: mpsc::Sender<Output>,
        cancel: &CancellationToken,
    ) -> Result<Report, Fault> {
        self.produce(source, Task::Audio(spec), out, cancel).await
    }

    /// Takes pictures that are not black.
    pub async fn stills(
        &self,
        source: Arc<dyn Source>,
        spec: StillsSpec,
        out: mpsc::Sender<Output>,
        cancel: &CancellationToken,
    ) -> Result<Report, Fault> {
        self.produce(source, Task::Stills(spec), out, cancel).await
    }

    async fn produce(
        &self,
        source: Arc<dyn Source>,
        task: Task,
        out: mpsc::Sender<Output>,
        cancel: &CancellationToken,
    ) -> Result<Report, Fault> {
        match self.run(source, task, Some(out), cancel).await? {
            Last::Done(report) => Ok(report),
            _ => Err(Fault::Protocol("another result than a report".into())),
        }
    }

    async fn run(
        &self,
        source: Arc<dyn Source>,
        task: Task,
        out: Option<mpsc::Sender<Output>>,
        cancel: &CancellationToken,
    ) -> Result<Last, Fault> {
        let (_slot, part) = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(Fault::Cancelled),
            room = self.room(&task) => room?,
        };
        let session = self.spawn("run", part.bytes).await?;
        session.run(Run { config: &self.config, source, task, out, cancel }).await
    }

    /// Waits for a place among the children and for the memory that the task may use.
    async fn room(&self, task: &Task) -> Result<(SemaphorePermit<'_>, Part<'_>), Fault> {
        let slot = self.slots.acquire().await.map_err(|_closed| Fault::Cancelled)?;
        let bytes = match task {
            Task::Probe | Task::Audio(_) => self.config.probe_memory_bytes_max,
            Task::Encode(_) | Task::Stills(_) => self.config.child_memory_bytes_max,
        };
        Ok((slot, self.memory.take(bytes).await?))
    }

    async fn spawn(&self, verb: &str, memory_bytes_max: u64) -> Result<Session, Fault> {
        let mut command = Command::new(&self.program);
        command
            .arg(verb)
            .arg(format!("--memory-bytes-max={memory_bytes_max}"))
            .arg(format!("--cpu-seconds-max={}", self.config.cpu_seconds_max))
            .arg(format!("--parent={}", std::process::id()))
            .env_clear()
            .current_dir("/")
            .process_group(0)
            .kill_on_drop(true)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if self.config.unsandboxed {
            command.arg("--unsandboxed");
        }
        let child = self.spawner.spawn(command).await.map_err(|source| spawn_fault(&self.program, source))?;
        Session::new(child)
    }
}

fn find_program(config: &Config) -> PathBuf {
    config.child_path.clone().unwrap_or_else(|| {
        let beside = std::env::current_exe().ok().map(|path| path.with_file_name(PROGRAM));
        beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(PROGRAM))
    })
}

fn spawn_fault(program: &std::path::Path, source: io::Error) -> Fault {
    Fault::Spawn { path: program.display().to_string(), source }
}

struct Request {
    command: Command,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// A thread that starts every child. The kernel sends the parent-death signal when the *thread* that started a
/// child ends, and the threads of an async runtime come and go; this one lives as long as the driver.
#[derive(Debug)]
struct Spawner {
    requests: std_mpsc::SyncSender<Request>,
}

impl Spawner {
    fn start() -> io::Result<Self> {
        let (requests, wanted) = std_mpsc::sync_channel::<Request>(64);
        let serve = move || {
            while let Ok(Request { mut command, runtime, answer }) = wanted.recv() {
                let _entered = runtime.enter();
                if let Err(unwanted) = answer.send(command.spawn()) {
                    // The asker was cancelled; the child dies with this handle.
                    drop(unwanted);
                }
            }
        };
        std::thread::Builder::new().name("media-spawner".into()).spawn(serve)?;
        Ok(Self { requests })
    }

    async fn spawn(&self, command: Command) -> io::Result<Child> {
        let (answer, answered) = oneshot::channel();
        let request = Request { command, runtime: Handle::current(), answer };
        if self.requests.try_send(request).is_err() {
            return Err(io::Error::other("more children asked for than can be started"));
        }
        answered.await.map_err(io::Error::other)?
    }
}

impl std::fmt::Debug for Request {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

//! Starts children and runs tasks in them.
//!
//! Limits: [`MediaDriverConfig::children_max`] at once, [`MediaDriverConfig::memory_bytes_max`] for all together; all others belong
//! to one session.

use std::io;
use std::path::PathBuf;
use std::process::Stdio;
use std::sync::{Arc, mpsc as std_mpsc};

use spans::{Span, SpanKind};
use tokio::process::{Child, Command};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::MediaDriverConfig;
use crate::copy::{FrameCopySpec, MediaSurvey, SoundCopySpec};
use crate::error::MediaTaskError;
use crate::memory::{ChildMemoryBudget, MemoryReservation};
use crate::probe::MediaProbe;
use crate::protocol::{MediaSelfCheck, MediaTask, MediaTaskReport};
use crate::session::{ChildOutcome, ChildSession, MediaTaskRun};
use crate::source::MediaByteSource;
use crate::spec::{AudioSpec, EncodeSpec, MediaTaskOutput, StillsSpec, SubtitlesSpec};

/// Name of the program that does the work.
const PROGRAM: &str = "streamgate-media";

/// Runs media tasks, each in a child process of its own. Cheap to share behind an `Arc`.
///
/// When a task returns, its child is gone, also when `cancel` fired. A task that is dropped instead kills its child and
/// does not wait for it.
#[derive(Debug)]
pub struct MediaDriver {
    config: MediaDriverConfig,
    program: PathBuf,
    spawner: ChildSpawner,
    slots: Semaphore,
    memory: ChildMemoryBudget,
    check: MediaSelfCheck,
}

impl MediaDriver {
    /// Lets the child check itself. Fails when the program is absent, when FFmpeg lacks something that is needed,
    /// and when the sandbox does not hold, unless [`MediaDriverConfig::unsandboxed`] says to go on without.
    pub async fn start(config: MediaDriverConfig) -> Result<Self, MediaTaskError> {
        let program = find_program(&config);
        let spawner = ChildSpawner::start().map_err(|source| spawn_error(&program, source))?;
        let mut driver = Self {
            slots: Semaphore::new(config.children_max),
            memory: ChildMemoryBudget::new(config.memory_bytes_max),
            program,
            spawner,
            config,
            check: MediaSelfCheck::default(),
        };
        let ChildOutcome::Checked(check) =
            driver.spawn_child("check", driver.config.probe_memory_bytes_max).await?.wait_for_check().await?
        else {
            return Err(MediaTaskError::Protocol("no answer to the check".into()));
        };
        if !check.missing.is_empty() {
            return Err(MediaTaskError::Failed {
                detail: format!("FFmpeg lacks {}", check.missing.join(", ")),
            });
        }
        if !check.sandbox.is_effective() {
            if !driver.config.unsandboxed {
                return Err(MediaTaskError::Sandbox(format!("{:?}", check.sandbox)));
            }
            tracing::warn!("media children run without a sandbox, as configured");
        }
        driver.check = check;
        Ok(driver)
    }

    /// What the child found at the start: library versions and what the sandbox refuses.
    pub fn self_check(&self) -> &MediaSelfCheck {
        &self.check
    }

    /// Says what the file holds, by a scan of its packets without decoding.
    pub async fn probe(
        &self,
        source: Arc<dyn MediaByteSource>,
        cancel: &CancellationToken,
    ) -> Result<MediaProbe, MediaTaskError> {
        match self.run_task(source, MediaTask::Probe, None, cancel).await? {
            ChildOutcome::Probed(probe) => Ok(*probe),
            _ => Err(MediaTaskError::Protocol("another result than a probe".into())),
        }
    }

    /// Says where the samples of a file lie, by scans of its packets without decoding them all.
    pub async fn survey(
        &self,
        source: Arc<dyn MediaByteSource>,
        cancel: &CancellationToken,
    ) -> Result<MediaSurvey, MediaTaskError> {
        match self.run_task(source, MediaTask::Survey, None, cancel).await? {
            ChildOutcome::Surveyed(survey) => Ok(*survey),
            _ => Err(MediaTaskError::Protocol("another result than a survey".into())),
        }
    }

    /// Puts a range of frames into segments as they are.
    pub async fn copy_frames(
        &self,
        source: Arc<dyn MediaByteSource>,
        spec: FrameCopySpec,
        out: mpsc::Sender<MediaTaskOutput>,
        cancel: &CancellationToken,
    ) -> Result<MediaTaskReport, MediaTaskError> {
        self.run_output_task(source, MediaTask::CopyFrames(spec), out, cancel).await
    }

    /// Puts a track of sound into segments as it is.
    pub async fn copy_sound(
        &self,
        source: Arc<dyn MediaByteSource>,
        spec: SoundCopySpec,
        out: mpsc::Sender<MediaTaskOutput>,
        cancel: &CancellationToken,
    ) -> Result<MediaTaskReport, MediaTaskError> {
        self.run_output_task(source, MediaTask::CopySound(spec), out, cancel).await
    }

    /// Encodes a range of the output frame grid into every rung.
    pub async fn encode_video(
        &self,
        source: Arc<dyn MediaByteSource>,
        spec: EncodeSpec,
        out: mpsc::Sender<MediaTaskOutput>,
        cancel: &CancellationToken,
    ) -> Result<MediaTaskReport, MediaTaskError> {
        self.run_output_task(source, MediaTask::Encode(spec), out, cancel).await
    }

    /// Encodes an audio track, whole.
    pub async fn encode_audio(
        &self,
        source: Arc<dyn MediaByteSource>,
        spec: AudioSpec,
        out: mpsc::Sender<MediaTaskOutput>,
        cancel: &CancellationToken,
    ) -> Result<MediaTaskReport, MediaTaskError> {
        self.run_output_task(source, MediaTask::Audio(spec), out, cancel).await
    }

    /// Takes pictures that are not black.
    pub async fn extract_stills(
        &self,
        source: Arc<dyn MediaByteSource>,
        spec: StillsSpec,
        out: mpsc::Sender<MediaTaskOutput>,
        cancel: &CancellationToken,
    ) -> Result<MediaTaskReport, MediaTaskError> {
        self.run_output_task(source, MediaTask::Stills(spec), out, cancel).await
    }

    /// Reads subtitle tracks that are text.
    pub async fn read_subtitles(
        &self,
        source: Arc<dyn MediaByteSource>,
        spec: SubtitlesSpec,
        out: mpsc::Sender<MediaTaskOutput>,
        cancel: &CancellationToken,
    ) -> Result<MediaTaskReport, MediaTaskError> {
        self.run_output_task(source, MediaTask::Subtitles(spec), out, cancel).await
    }

    async fn run_output_task(
        &self,
        source: Arc<dyn MediaByteSource>,
        task: MediaTask,
        out: mpsc::Sender<MediaTaskOutput>,
        cancel: &CancellationToken,
    ) -> Result<MediaTaskReport, MediaTaskError> {
        match self.run_task(source, task, Some(out), cancel).await? {
            ChildOutcome::Done(report) => Ok(report),
            _ => Err(MediaTaskError::Protocol("another result than a report".into())),
        }
    }

    async fn run_task(
        &self,
        source: Arc<dyn MediaByteSource>,
        task: MediaTask,
        out: Option<mpsc::Sender<MediaTaskOutput>>,
        cancel: &CancellationToken,
    ) -> Result<ChildOutcome, MediaTaskError> {
        // Held until the session has waited for the child, whose memory is in use until then.
        let (_slot, part) = tokio::select! {
            biased;
            () = cancel.cancelled() => return Err(MediaTaskError::Cancelled),
            room = self.reserve_capacity(&task) => room?,
        };
        // What the child does is a span here: it has no network to say more.
        let span = Span::begin(SpanKind::Internal, || format!("media child {}", task.name()).into());
        let working = async {
            let session = self.spawn_child("run", part.bytes).await?;
            session.run(MediaTaskRun { config: &self.config, source, task, out, cancel }).await
        };
        let ended = span.scope(working).await;
        if let Err(error) = &ended {
            span.fail(error.code());
        }
        ended
    }

    /// Waits for a place among the children and for the memory that the task may use.
    async fn reserve_capacity(
        &self,
        task: &MediaTask,
    ) -> Result<(SemaphorePermit<'_>, MemoryReservation<'_>), MediaTaskError> {
        let slot = self.slots.acquire().await.map_err(|_closed| MediaTaskError::Cancelled)?;
        let bytes = match task {
            MediaTask::Probe
            | MediaTask::Audio(_)
            | MediaTask::Subtitles(_)
            | MediaTask::Survey
            | MediaTask::CopyFrames(_)
            | MediaTask::CopySound(_) => self.config.probe_memory_bytes_max,
            MediaTask::Encode(_) | MediaTask::Stills(_) => self.config.child_memory_bytes_max,
        };
        Ok((slot, self.memory.reserve_bytes(bytes).await?))
    }

    async fn spawn_child(&self, verb: &str, memory_bytes_max: u64) -> Result<ChildSession, MediaTaskError> {
        let mut command = Command::new(&self.program);
        command
            .arg(verb)
            .arg(format!("--memory-bytes-max={memory_bytes_max}"))
            .arg(format!("--cpu-seconds-max={}", self.config.cpu_seconds_max))
            .arg(format!("--parent={}", std::process::id()))
            // The child needs nothing of it, and the environment may hold keys of the store.
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
        let child =
            self.spawner.spawn_command(command).await.map_err(|source| spawn_error(&self.program, source))?;
        ChildSession::new(child)
    }
}

fn find_program(config: &MediaDriverConfig) -> PathBuf {
    config.child_path.clone().unwrap_or_else(|| {
        let beside = std::env::current_exe().ok().map(|path| path.with_file_name(PROGRAM));
        beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(PROGRAM))
    })
}

fn spawn_error(program: &std::path::Path, source: io::Error) -> MediaTaskError {
    MediaTaskError::Spawn { path: program.display().to_string(), source }
}

struct SpawnRequest {
    command: Command,
    runtime: Handle,
    answer: oneshot::Sender<io::Result<Child>>,
}

/// A thread that starts every child. The kernel sends the parent-death signal when the *thread* that started a
/// child ends, and the threads of an async runtime come and go; this one lives as long as the driver.
#[derive(Debug)]
struct ChildSpawner {
    requests: std_mpsc::SyncSender<SpawnRequest>,
}

impl ChildSpawner {
    fn start() -> io::Result<Self> {
        let (requests, wanted) = std_mpsc::sync_channel::<SpawnRequest>(64);
        let serve = move || {
            while let Ok(SpawnRequest { mut command, runtime, answer }) = wanted.recv() {
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

    async fn spawn_command(&self, command: Command) -> io::Result<Child> {
        let (answer, answered) = oneshot::channel();
        let request = SpawnRequest { command, runtime: Handle::current(), answer };
        if self.requests.try_send(request).is_err() {
            return Err(io::Error::other("more children asked for than can be started"));
        }
        answered.await.map_err(io::Error::other)?
    }
}

impl std::fmt::Debug for SpawnRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Request").finish_non_exhaustive()
    }
}

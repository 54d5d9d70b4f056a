//! Background tasks: each runs until its role stops, whatever happens to it.
//!
//! Limits: a task that ended starts again after [`RESTART_DELAY_MIN`], doubled each time up to [`RESTART_DELAY_MAX`], with
//! equal jitter; one that ran for [`STABLE`] begins with the shortest delay again.

use std::{
    fmt::Display,
    future::Future,
    panic::AssertUnwindSafe,
    time::{Duration, Instant},
};

use futures::FutureExt;
use tokio_util::sync::CancellationToken;

use crate::{Bus, BusError, ProcessHealth, Role, backoff::backoff_delay};

/// Pause before the first restart.
const RESTART_DELAY_MIN: Duration = Duration::from_millis(100);
/// Longest pause before a restart.
const RESTART_DELAY_MAX: Duration = Duration::from_secs(15);
/// A task that ran this long was sound.
const STABLE: Duration = Duration::from_secs(60);

/// What the end of a task says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TaskEnding {
    /// Something that others use, too, is away: it will come back.
    Outage,
    /// Anything else that trying again may mend.
    Fault,
    /// Somebody has to change a setting, credentials or the broker's topology first: the role ends.
    Configuration,
}

impl BusError {
    /// What a task that ended with this error has to do.
    pub const fn task_ending(&self) -> TaskEnding {
        match self {
            Self::Unavailable(_) | Self::Full { .. } => TaskEnding::Outage,
            Self::Credentials { .. } | Self::Topology { .. } | Self::Invalid { .. } => {
                TaskEnding::Configuration
            }
            _ => TaskEnding::Fault,
        }
    }
}

/// Starts tasks of one role again when they end. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Supervisor {
    role: Role,
    health: ProcessHealth,
    shutdown: CancellationToken,
}

impl Supervisor {
    /// For the tasks of `role`, until `shutdown`; `health` knows of them.
    pub const fn new(role: Role, health: ProcessHealth, shutdown: CancellationToken) -> Self {
        Self { role, health, shutdown }
    }

    /// Runs `work`, and again whenever it ends before the shutdown: by an error, by a panic, or without a word.
    ///
    /// # Errors
    /// The error of `work` that `ending` calls a configuration fault; nothing else ends a task.
    pub async fn keep_running<E, F, Fut>(
        &self,
        name: &'static str,
        ending: impl Fn(&E) -> TaskEnding,
        mut work: F,
    ) -> Result<(), E>
    where
        E: Display,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<(), E>>,
    {
        let mut delays = RestartDelays::default();
        loop {
            self.health.mark_task_up(self.role, name);
            let since = Instant::now();
            // Inside the block, so that a panic of `work` before it returns its future is caught, too.
            let ended = AssertUnwindSafe(async { work().await }).catch_unwind().await;
            if self.shutdown.is_cancelled() {
                self.health.forget_task(self.role, name);
                // What else went wrong on the way out is nobody's concern any more.
                return match ended {
                    Ok(Err(error)) if ending(&error) == TaskEnding::Configuration => Err(error),
                    _ => Ok(()),
                };
            }
            let (why, how) = match ended {
                Ok(Err(error)) if ending(&error) == TaskEnding::Configuration => {
                    self.health.forget_task(self.role, name);
                    return Err(error);
                }
                Ok(Err(error)) => (format!("{error:#}"), ending(&error)),
                Ok(Ok(())) => ("it had nothing more to do".to_owned(), TaskEnding::Fault),
                Err(_) => ("it panicked".to_owned(), TaskEnding::Fault),
            };
            self.health.mark_task_down(self.role, name, how == TaskEnding::Outage);
            let delay = delays.next_delay(since.elapsed());
            let delay_ms = delay.as_millis();
            tracing::warn!(
                why,
                role = self.role.name(),
                task = name,
                delay_ms,
                "a task ended and is started again"
            );
            tokio::select! {
                () = self.shutdown.cancelled() => {
                    self.health.forget_task(self.role, name);
                    return Ok(());
                }
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Tries `step` until it works, as long as only an outage stands in its way. `None` when the shutdown came first.
    ///
    /// # Errors
    /// The first error of `step` that is no outage: a start that fails for another reason is not tried again.
    pub async fn start_with_retry<T, E, F, Fut>(
        &self,
        name: &'static str,
        ending: impl Fn(&E) -> TaskEnding,
        mut step: F,
    ) -> Result<Option<T>, E>
    where
        E: Display,
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, E>>,
    {
        let mut delays = RestartDelays::default();
        loop {
            let done = tokio::select! {
                () = self.shutdown.cancelled() => return Ok(None),
                done = step() => done,
            };
            let error = match done {
                Ok(done) => {
                    self.health.forget_task(self.role, name);
                    return Ok(Some(done));
                }
                Err(error) => error,
            };
            if ending(&error) != TaskEnding::Outage {
                return Err(error);
            }
            self.health.mark_task_down(self.role, name, true);
            let delay = delays.next_delay(Duration::ZERO);
            let (why, delay_ms) = (format!("{error:#}"), delay.as_millis());
            tracing::warn!(
                why,
                role = self.role.name(),
                step = name,
                delay_ms,
                "the start waits for what is away"
            );
            tokio::select! {
                () = self.shutdown.cancelled() => return Ok(None),
                () = tokio::time::sleep(delay) => {}
            }
        }
    }
}

impl Bus {
    /// Starts tasks of this connection's role again when they end, until `shutdown`.
    pub fn supervisor(&self, shutdown: &CancellationToken) -> Supervisor {
        Supervisor::new(self.role(), self.health().clone(), shutdown.clone())
    }
}

/// Pauses that grow.
#[derive(Debug, Default)]
struct RestartDelays {
    count: u32,
}

impl RestartDelays {
    /// The pause after a run of this length.
    fn next_delay(&mut self, ran: Duration) -> Duration {
        self.count = if ran < STABLE { self.count.saturating_add(1) } else { 1 };
        backoff_delay(self.count, RESTART_DELAY_MIN, RESTART_DELAY_MAX)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU32, Ordering};

    use super::*;

    #[test]
    fn pauses_grow_and_begin_anew_after_a_sound_run() {
        let mut delays = RestartDelays::default();
        let mut last = Duration::ZERO;
        for _ in 0..20 {
            let delay = delays.next_delay(Duration::ZERO);
            assert!(delay >= last / 4 && delay <= RESTART_DELAY_MAX, "{delay:?} after {last:?}");
            last = delay;
        }
        assert!(last >= RESTART_DELAY_MAX / 2);
        assert!(delays.next_delay(STABLE) <= RESTART_DELAY_MIN);
    }

    #[tokio::test]
    async fn a_task_goes_on_after_an_error_a_panic_and_a_silent_end() {
        let (health, shutdown) = (ProcessHealth::new(), CancellationToken::new());
        let supervisor = Supervisor::new(Role::Ingress, health.clone(), shutdown.clone());
        let runs = AtomicU32::new(0);
        let work = || async {
            match runs.fetch_add(1, Ordering::Relaxed) {
                0 => Err(BusError::unavailable("away")),
                1 => panic!("a fault of ours"),
                2 => Ok(()),
                _ => {
                    shutdown.cancel();
                    Ok(())
                }
            }
        };
        supervisor.keep_running("events", BusError::task_ending, work).await.unwrap();
        assert_eq!(runs.load(Ordering::Relaxed), 4);
        assert_eq!(health.restart_count(Role::Ingress, "events"), 3);
        assert_eq!(health.problems(), []);
    }

    #[tokio::test]
    async fn only_a_configuration_fault_ends_a_task() {
        let supervisor = Supervisor::new(Role::Ingress, ProcessHealth::new(), CancellationToken::new());
        let work = || async { Err(BusError::Credentials { reason: "authorization violation".into() }) };
        let ended = supervisor.keep_running("events", BusError::task_ending, work).await;
        assert!(matches!(ended, Err(BusError::Credentials { .. })), "{ended:?}");
    }
}

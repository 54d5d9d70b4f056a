//! Starts the server again when it dies, and when it can't write any more.

use std::time::{Duration, Instant};

use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::{
    child::{BrokerLauncher, BrokerProcess},
    write_watchdog::WriteWatchdog,
};

/// Longest pause between two restarts.
pub const RESTART_DELAY_MAX: Duration = Duration::from_secs(5);
const RESTART_DELAY_MIN: Duration = Duration::from_millis(50);
/// A server that ran this long starts again at once; one that did not may be broken.
const STABLE: Duration = Duration::from_secs(10);

/// What is known of the server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BrokerState {
    pub(super) pid: Option<u32>,
    pub(super) starts: u64,
}

impl BrokerState {
    pub(super) const fn from_process(running: &BrokerProcess, starts: u64) -> Self {
        Self { pid: Some(running.pid), starts }
    }
}

/// Why a server does not run any more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum BrokerExit {
    Ended,
    Stopped,
    Broken,
}

/// Keeps a server running until `stop` fires, then ends it.
pub(super) async fn supervise_broker(
    launch: BrokerLauncher,
    mut running: BrokerProcess,
    mut watch: WriteWatchdog,
    state: watch::Sender<BrokerState>,
    stop: CancellationToken,
) {
    let port = i32::from(running.port);
    let stop_max = Duration::from_millis(launch.config.stop_ms_max);
    let mut delay = Duration::ZERO;
    loop {
        let (since, monitor) = (Instant::now(), running.monitor);
        let why = tokio::select! {
            ended = running.child.wait() => {
                tracing::error!(?ended, pid = running.pid, "the broker has ended and is started again");
                BrokerExit::Ended
            }
            () = stop.cancelled() => BrokerExit::Stopped,
            () = watch.wait_until_broken(monitor) => BrokerExit::Broken,
        };
        match why {
            BrokerExit::Ended => running.release_guard().await,
            BrokerExit::Stopped | BrokerExit::Broken => running.stop(stop_max).await,
        }
        state.send_modify(|state| state.pid = None);
        if why == BrokerExit::Stopped {
            return;
        }
        if since.elapsed() >= STABLE {
            delay = Duration::ZERO;
        }
        running = tokio::select! {
            running = restart_broker(&launch, port, &mut delay) => running,
            () = stop.cancelled() => return,
        };
        state.send_modify(|state| *state = BrokerState::from_process(&running, state.starts + 1));
        tracing::info!(pid = running.pid, "the broker is back");
    }
}

/// Starts on the same port, the only one that clients know, as often as it takes.
async fn restart_broker(launch: &BrokerLauncher, port: i32, delay: &mut Duration) -> BrokerProcess {
    loop {
        tokio::time::sleep(*delay).await;
        *delay = (*delay * 2).clamp(RESTART_DELAY_MIN, RESTART_DELAY_MAX);
        match launch.start_on_port(port).await {
            Ok(running) => return running,
            Err(error) => {
                tracing::error!(%error, delay_ms = delay.as_millis(), "the broker does not start; it is tried again");
            }
        }
    }
}

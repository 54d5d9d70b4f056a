//! What processes use and what the product says of itself, over the run.
//!
//! Limits: one look every second to every 15 seconds, about 240 of them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    block_buffers::memory_of_blocks,
    process,
    saturation::{Machine, Saturation},
    scene::Scene,
};

/// A process, and the folder of its data.
#[derive(Debug, Clone)]
pub(crate) struct Watched {
    pub(crate) pid: u32,
    pub(crate) folder: PathBuf,
}

/// Processes by name; one that is to be killed is taken out before.
pub(crate) type WatchedProcesses = Arc<Mutex<BTreeMap<String, Watched>>>;

/// What a process used at a time.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Uploads that had ended.
    pub(crate) ended: f64,
    /// Anonymous memory (`RssAnon`), without pages of files, in bytes.
    pub(crate) memory_bytes: f64,
    /// What of it a broker keeps of the blocks that it writes ([`memory_of_blocks`]).
    pub(crate) block_bytes: f64,
    pub(crate) descriptors: f64,
    pub(crate) disk_bytes: f64,
}

/// All that was seen.
#[derive(Debug, Default)]
pub(crate) struct Observations {
    /// Of each process, in order of time.
    pub(crate) usage: BTreeMap<String, Vec<Usage>>,
    /// Share of all processors that each process had, in percent.
    pub(crate) cpu_percent: BTreeMap<String, f64>,
    pub(crate) saturation: Saturation,
}

/// How often is looked.
fn interval(duration: Duration) -> Duration {
    (duration / 240).clamp(Duration::from_secs(1), Duration::from_secs(15))
}

/// Looks until `stop`.
pub(crate) async fn observe(
    scene: Arc<Scene>,
    processes: WatchedProcesses,
    (began, duration): (Instant, Duration),
    stop: CancellationToken,
) -> Observations {
    let (mut seen, mut machine) = (Observations::default(), Machine::look());
    let mut used = CpuShares::default();
    let mut ticks = tokio::time::interval(interval(duration));
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            () = stop.cancelled() => break,
        }
        let ended = scene.ledger.ended_count() as f64;
        for (name, watched) in &*processes.lock() {
            used.add(name, process::cpu_seconds(watched.pid));
            seen.usage.entry(name.clone()).or_default().push(look_at(watched, ended));
        }
        let at_s = began.elapsed().as_secs_f64();
        seen.saturation.note_machine(at_s, &mut machine, used.busiest());
        seen.saturation.note_clients(at_s, scene.gateway.tally.most_left_out());
        seen.saturation.note_metrics(at_s, &scene.gateway).await;
    }
    seen.cpu_percent = used.percents(began.elapsed());
    seen
}

fn look_at(watched: &Watched, ended: f64) -> Usage {
    let memory_bytes = process::status_field(watched.pid, "RssAnon:") * 1_024.0;
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", watched.pid)).unwrap().count();
    Usage {
        ended,
        memory_bytes,
        block_bytes: memory_of_blocks(&watched.folder) as f64,
        descriptors: descriptors as f64,
        disk_bytes: folder_bytes(&watched.folder) as f64,
    }
}

/// Bytes of all files below a folder; those that go meanwhile do not count.
fn folder_bytes(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let sizes = entries.map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => folder_bytes(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}

/// CPU time by process; that of one that was started again goes on.
#[derive(Debug, Default)]
struct CpuShares {
    /// Seconds at the last look, in the last interval and in all.
    by_name: BTreeMap<String, (f64, f64, f64)>,
}

impl CpuShares {
    fn add(&mut self, name: &str, seconds: f64) {
        let (last, lately, all) = self.by_name.entry(name.to_owned()).or_insert((seconds, 0.0, 0.0));
        *lately = if seconds < *last { seconds } else { seconds - *last };
        *all += *lately;
        *last = seconds;
    }

    /// The process that used most lately.
    fn busiest(&self) -> &str {
        let most = self.by_name.iter().max_by(|(_, a), (_, b)| a.1.total_cmp(&b.1));
        most.map_or("none", |(name, _)| name)
    }

    fn percents(&self, over: Duration) -> BTreeMap<String, f64> {
        let all_s = over.as_secs_f64() * processors();
        self.by_name.iter().map(|(name, (_, _, used_s))| (name.clone(), 100.0 * used_s / all_s)).collect()
    }
}

/// Processors of this machine.
fn processors() -> f64 {
    std::thread::available_parallelism().map_or(1.0, |count| count.get() as f64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_was_started_again_goes_on() {
        let mut shares = CpuShares::default();
        for seconds in [10.0, 12.0, 1.0, 4.0] {
            shares.add("index", seconds);
        }
        shares.add("audit", 1.0);
        assert_eq!((shares.by_name["index"].2, shares.busiest()), (6.0, "index"));
    }
}

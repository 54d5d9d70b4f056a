//! Room for what is new: requests that create something are refused, with the limit and what is free, before a stream, a bucket or
//! a disk is full. What was acknowledged goes on in the rest.
//!
//! Limits are looked at in the background; a request asks for nothing but what was found.
//!
//! Limits: [`CapacityConfig`]; one question for each stream in `needs` every [`CapacityConfig::poll_ms`], each with the time of any
//! request.

mod needs;
#[cfg(test)]
mod tests;

use std::{fmt, path::PathBuf, sync::Arc, time::Duration};

use axum::extract::Request;
use nats::{
    Bus,
    metrics::{
        Collector, DescriptorEncoder, MetricDeclaration, encode_gauges,
        table::{CAPACITY_FULL, CAPACITY_LIMIT_BYTES, CAPACITY_USED_BYTES},
    },
};
use parking_lot::RwLock;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use store::Store;
use tokio_util::sync::CancellationToken;

use super::uploads;
use web::{
    error::{NO_ROOM_RETRY_AFTER_S, Problem},
    filter::RequestFilter,
    operation::{RoomNeed, matched_operation},
    problem_code::ProblemCode,
};

pub(crate) use needs::{
    CACHED, CAPTIONS, CHALLENGE, ENCODE, HOOK, JOB, KEY, LINK, PLAYBACK, SCHEDULE, SIGN_IN, UPLOAD,
};

/// From where on nothing new is taken.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct CapacityConfig {
    /// Share of a limit, in percent, from which on requests that create something are refused.
    #[schemars(range(min = 1, max = 100))]
    pub percent_max: u64,
    /// Free room on a disk that is enough whatever share of it that is, in bytes.
    pub disk_free_bytes_enough: u64,
    /// How often limits are looked at, in milliseconds.
    pub poll_ms: u64,
    /// Folder of this machine's broker, whose disk is looked at, too.
    #[serde(skip)]
    pub broker_folder: Option<PathBuf>,
}

impl Default for CapacityConfig {
    fn default() -> Self {
        Self {
            percent_max: 95,
            disk_free_bytes_enough: 4 * 1024 * 1024 * 1024,
            poll_ms: 2_000,
            broker_folder: None,
        }
    }
}

/// Name of the disk of a local store among the limits.
pub const STORE_DISK: &str = "store_disk";
/// Name of the disk of this machine's broker.
pub const BROKER_DISK: &str = "broker_disk";

/// A limit as it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CapacityLimit {
    /// A stream, such as `EVENTS` or `KV_uploads`, or a disk.
    pub name: String,
    /// What it may hold, in bytes.
    pub limit_bytes: u64,
    /// What it holds, in bytes.
    pub used_bytes: u64,
    /// What may come until nothing new is taken, in bytes.
    pub room_bytes: u64,
}

impl CapacityLimit {
    /// What is left of it, in bytes.
    pub const fn free_bytes(&self) -> u64 {
        self.limit_bytes.saturating_sub(self.used_bytes)
    }

    /// True when nothing new is taken.
    pub const fn is_full(&self) -> bool {
        self.room_bytes == 0
    }

    fn from_fill(fill: nats::StreamUsage, config: &CapacityConfig) -> Self {
        let taken_max = percent_of(fill.limit_bytes, config.percent_max);
        Self {
            room_bytes: taken_max.saturating_sub(fill.used_bytes),
            name: fill.stream,
            limit_bytes: fill.limit_bytes,
            used_bytes: fill.used_bytes,
        }
    }

    /// What the space of a disk means: full at its share, unless what is left is enough; never less than `free_bytes_min`.
    pub fn from_disk_space(
        name: &str,
        space: store::DiskSpace,
        config: &CapacityConfig,
        free_bytes_min: u64,
    ) -> Self {
        let rest = space.total_bytes.saturating_sub(percent_of(space.total_bytes, config.percent_max));
        let kept = rest.min(config.disk_free_bytes_enough).max(free_bytes_min);
        Self {
            name: name.to_owned(),
            limit_bytes: space.total_bytes,
            used_bytes: space.total_bytes.saturating_sub(space.free_bytes),
            room_bytes: space.free_bytes.saturating_sub(kept),
        }
    }

    /// The code of what is refused while it is full.
    pub fn problem_code(&self) -> ProblemCode {
        if self.is_disk() { ProblemCode::StoreFull } else { ProblemCode::BrokerFull }
    }

    pub(crate) fn to_problem(&self) -> Problem {
        let kind = self.problem_code();
        let (name, free) = (&self.name, self.free_bytes());
        let detail = format!("{name} may hold {} bytes, and {free} of them are free", self.limit_bytes);
        self.add_members(Problem::new(kind).with_detail(detail))
    }

    fn add_members(&self, problem: Problem) -> Problem {
        problem
            .with_member("limit", self.name.as_str())
            .with_member("limit_bytes", self.limit_bytes)
            .with_member("free_bytes", self.free_bytes())
            .with_member("room_bytes", self.room_bytes)
            .with_retry_after_s(NO_ROOM_RETRY_AFTER_S)
    }

    fn is_disk(&self) -> bool {
        self.name == STORE_DISK || self.name == BROKER_DISK
    }
}

/// So many percent, without a sum that is too large.
const fn percent_of(bytes: u64, percent: u64) -> u64 {
    (bytes / 100).saturating_mul(percent).saturating_add((bytes % 100) * percent / 100)
}

/// A metric and its value.
type CapacityMetricFamily = (&'static MetricDeclaration, fn(&CapacityLimit) -> u64);

/// What was found of all limits. Cheap to clone; all clones share it.
#[derive(Debug, Clone)]
pub struct CapacityMonitor {
    shared: Arc<CapacityMonitorState>,
}

#[derive(Debug)]
struct CapacityMonitorState {
    bus: Bus,
    store: Store,
    config: CapacityConfig,
    /// Room that must stay free on the disk of a local store, in bytes.
    free_bytes_min: u64,
    /// What no upload may exceed, whatever room there is, in bytes.
    upload_bytes_max: u64,
    limits: RwLock<Arc<[CapacityLimit]>>,
}

impl CapacityMonitor {
    /// Nothing is known yet, and nothing is full.
    pub fn new(bus: Bus, store: Store, config: CapacityConfig, uploads: &uploads::UploadConfig) -> Self {
        let limits = RwLock::new(Arc::from([]));
        let (free_bytes_min, upload_bytes_max) = (uploads.free_bytes_min, uploads.size_bytes_max);
        let shared = CapacityMonitorState { bus, store, config, free_bytes_min, upload_bytes_max, limits };
        Self { shared: Arc::new(shared) }
    }

    /// Looks at the limits until `shutdown`.
    pub async fn run(&self, shutdown: CancellationToken) {
        let period = Duration::from_millis(self.shared.config.poll_ms.max(100));
        loop {
            tokio::select! {
                () = shutdown.cancelled() => return,
                () = tokio::time::sleep(period) => {}
            }
            self.poll_limits().await;
        }
    }

    /// Looks at the limits once. What can't be looked at stays as it was found before.
    pub async fn poll_limits(&self) {
        let shared = &self.shared;
        let before = self.limits();
        let mut limits = Vec::new();
        match shared.bus.stream_usage(&needs::required_streams()).await {
            Ok(fills) => {
                limits.extend(fills.into_iter().map(|fill| CapacityLimit::from_fill(fill, &shared.config)));
            }
            Err(error) => {
                tracing::debug!(%error, "how full the broker is can't be asked");
                limits.extend(before.iter().filter(|limit| !limit.is_disk()).cloned());
            }
        }
        let broker_space = shared.config.broker_folder.as_deref().map(store::read_disk_space).transpose();
        let disks =
            [(STORE_DISK, shared.store.disk_space(), shared.free_bytes_min), (BROKER_DISK, broker_space, 0)];
        for (name, space, free_bytes_min) in disks {
            match space {
                Ok(Some(space)) => {
                    limits.push(CapacityLimit::from_disk_space(name, space, &shared.config, free_bytes_min));
                }
                Ok(None) => {}
                Err(error) => {
                    tracing::debug!(%error, disk = name, "how full a disk is can't be asked");
                    limits.extend(before.iter().find(|limit| limit.name == name).cloned());
                }
            }
        }
        log_changes(&before, &limits);
        *shared.limits.write() = limits.into();
    }

    /// The first of the limits of `need` that is full.
    pub(crate) fn find_full(&self, need: &RoomNeed) -> Option<CapacityLimit> {
        find_full_limit(&self.limits(), need).cloned()
    }

    /// All limits as they were found last.
    pub fn limits(&self) -> Arc<[CapacityLimit]> {
        Arc::clone(&self.shared.limits.read())
    }

    /// Names of the limits from which nothing new is taken.
    pub fn full_limits(&self) -> Vec<String> {
        self.limits().iter().filter(|limit| limit.is_full()).map(|limit| limit.name.clone()).collect()
    }
}

impl Collector for CapacityMonitor {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let limits = self.limits();
        let families: [CapacityMetricFamily; 3] = [
            (&CAPACITY_LIMIT_BYTES, |limit| limit.limit_bytes),
            (&CAPACITY_USED_BYTES, |limit| limit.used_bytes),
            (&CAPACITY_FULL, |limit| limit.is_full().into()),
        ];
        for (family, value) in families {
            let series = limits.iter().map(|limit| ([("limit", limit.name.as_str())], value(limit)));
            encode_gauges(&mut encoder, family, series)?;
        }
        Ok(())
    }
}

/// Refuses a request that creates something for which there is no room.
impl RequestFilter for CapacityMonitor {
    fn check_request(&self, request: &Request) -> Result<(), Problem> {
        let Some(need) = matched_operation(request).map(|operation| operation.room) else { return Ok(()) };
        let needed = need.limits;
        if needed.is_empty() {
            return Ok(());
        }
        let limits = self.limits();
        if let Some(full) = find_full_limit(&limits, &need) {
            return Err(full.to_problem());
        }
        // What is too large for any disk is refused as that by the handlers of uploads.
        let allowed = |size_bytes: &u64| *size_bytes <= self.shared.upload_bytes_max;
        let Some(size_bytes) = needs::declared_size_bytes(&need, request).filter(allowed) else {
            return Ok(());
        };
        let disk = limits.iter().find(|limit| limit.name == STORE_DISK && needed.contains(&STORE_DISK));
        match disk.filter(|disk| disk.room_bytes < size_bytes) {
            Some(disk) => Err(upload_too_large(disk, size_bytes)),
            None => Ok(()),
        }
    }
}

/// The first of the limits of `need` that is full.
fn find_full_limit<'a>(limits: &'a [CapacityLimit], need: &RoomNeed) -> Option<&'a CapacityLimit> {
    limits.iter().find(|limit| limit.is_full() && need.limits.contains(&limit.name.as_str()))
}

/// 507 for a declared length that the disk of the store has no room for.
fn upload_too_large(disk: &CapacityLimit, size_bytes: u64) -> Problem {
    let room = disk.room_bytes;
    let detail = format!("the upload has {size_bytes} bytes, and there is room for {room}");
    disk.add_members(Problem::new(ProblemCode::StoreFull).with_detail(detail))
        .with_member("size_bytes", size_bytes)
}

fn log_changes(before: &[CapacityLimit], now: &[CapacityLimit]) {
    for limit in now {
        let was_full = before.iter().any(|other| other.name == limit.name && other.is_full());
        let (name, used_bytes, limit_bytes) = (&limit.name, limit.used_bytes, limit.limit_bytes);
        if limit.is_full() && !was_full {
            tracing::error!(limit = name, used_bytes, limit_bytes, "full: nothing new is taken");
        } else if was_full && !limit.is_full() {
            tracing::info!(limit = name, used_bytes, limit_bytes, "there is room again");
        }
    }
}

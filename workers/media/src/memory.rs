//! Memory that the children share.
//!
//! A child starts only when its limit fits beside those of the children that run, so that all together never need more than there
//! is.
//!
//! Limits: counted in MiB, rounded up.

use std::fs;

use tokio::sync::{Semaphore, SemaphorePermit};

use crate::error::MediaTaskError;

const MIB: u64 = 1 << 20;
/// Assumed where the machine does not say how much it has, in bytes.
const MACHINE_BYTES_ASSUMED: u64 = 4 << 30;

/// The memory of all children.
#[derive(Debug)]
pub(crate) struct ChildMemoryBudget {
    total_mib: u32,
    free: Semaphore,
}

/// A child's part, until it is dropped.
#[derive(Debug)]
pub(crate) struct MemoryReservation<'a> {
    /// What the child may use, in bytes.
    pub(crate) bytes: u64,
    _permit: SemaphorePermit<'a>,
}

impl ChildMemoryBudget {
    /// So many bytes, or half of what the machine has.
    pub(crate) fn new(bytes_max: Option<u64>) -> Self {
        let bytes = bytes_max.unwrap_or_else(|| machine_memory_bytes() / 2);
        let total_mib = to_mib(bytes).max(1);
        Self { total_mib, free: Semaphore::new(usize::try_from(total_mib).unwrap_or(usize::MAX)) }
    }

    /// Waits for `bytes`, or for everything there is when that is less. In the order of asking, so that nobody waits for ever.
    pub(crate) async fn reserve_bytes(&self, bytes: u64) -> Result<MemoryReservation<'_>, MediaTaskError> {
        let part_mib = to_mib(bytes).min(self.total_mib);
        let permit = self.free.acquire_many(part_mib).await.map_err(|_closed| MediaTaskError::Cancelled)?;
        Ok(MemoryReservation { bytes: bytes.min(u64::from(part_mib) * MIB), _permit: permit })
    }
}

fn to_mib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(MIB)).unwrap_or(u32::MAX)
}

/// What this machine has, or what its container may use, in bytes.
fn machine_memory_bytes() -> u64 {
    let total = fs::read_to_string("/proc/meminfo").ok().and_then(|text| parse_mem_total(&text));
    let limits = ["/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"];
    let limits = limits.iter().filter_map(|path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok());
    // In a container the kernel shows the memory of the whole machine; the limit of its group is what kills.
    total.into_iter().chain(limits).min().unwrap_or(MACHINE_BYTES_ASSUMED)
}

fn parse_mem_total(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use futures::poll;

    use super::*;

    #[test]
    fn half_of_the_machine_is_found() {
        assert_eq!(parse_mem_total("MemTotal:       24576000 kB\nMemFree: 1 kB\n"), Some(24_576_000 * 1024));
        assert_eq!(parse_mem_total("MemTotal: 1\n"), None);
        assert!(machine_memory_bytes() > 64 * MIB);
    }

    #[tokio::test]
    async fn children_wait_until_their_limits_fit_together() {
        let memory = ChildMemoryBudget::new(Some(3 * MIB));
        let one = memory.reserve_bytes(2 * MIB).await.unwrap();
        let second = memory.reserve_bytes(2 * MIB);
        tokio::pin!(second);
        assert!(poll!(&mut second).is_pending());
        let third = memory.reserve_bytes(MIB);
        tokio::pin!(third);
        assert!(poll!(&mut third).is_pending(), "who asked first is served first");
        drop(one);
        let (second, third) = (second.await.unwrap(), third.await.unwrap());
        drop((second, third));
        assert_eq!(memory.reserve_bytes(100 * MIB).await.unwrap().bytes, 3 * MIB, "more than all is all");
    }
}

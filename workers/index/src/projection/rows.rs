//! How rows lie on disk: revision first, then the record.

use schemas::job::JobPartStatus;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::IndexError;

fn damaged_error(what: &str) -> IndexError {
    IndexError::Damaged { what: what.to_owned() }
}

/// Revision and record as one value.
pub(super) fn encode_row<R: Serialize>(revision: u64, record: &R) -> Result<Vec<u8>, IndexError> {
    let mut row = revision.to_be_bytes().to_vec();
    rmp_serde::encode::write_named(&mut row, record)
        .map_err(|_| damaged_error("a record that can't be encoded"))?;
    Ok(row)
}

/// Revision and record of a value.
pub(super) fn decode_row<R: DeserializeOwned>(row: &[u8]) -> Result<(u64, R), IndexError> {
    let (revision, record) =
        row.split_first_chunk::<8>().ok_or_else(|| damaged_error("a row without revision"))?;
    let record = rmp_serde::from_slice(record).map_err(|_| damaged_error("a row that can't be decoded"))?;
    Ok((u64::from_be_bytes(*revision), record))
}

/// One part of a job, as far as lists need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartRow {
    pub(crate) status: JobPartStatus,
    pub(crate) cpu_ms: u64,
    /// Milliseconds that the media child ran.
    pub(crate) work_ms: u64,
}

impl PartRow {
    pub(super) fn to_bytes(self) -> Vec<u8> {
        let status = match self.status {
            JobPartStatus::Claimed => 1,
            JobPartStatus::Done => 2,
            JobPartStatus::Failed => 3,
        };
        [&[status][..], &self.cpu_ms.to_be_bytes(), &self.work_ms.to_be_bytes()].concat()
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, IndexError> {
        let damaged = || damaged_error("a part's row");
        let (status, rest) = bytes.split_first().ok_or_else(damaged)?;
        let (cpu, work) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
        let work: [u8; 8] = work.try_into().map_err(|_| damaged())?;
        let status = match status {
            1 => JobPartStatus::Claimed,
            2 => JobPartStatus::Done,
            3 => JobPartStatus::Failed,
            _ => return Err(damaged_error("a part's status")),
        };
        Ok(Self { status, cpu_ms: u64::from_be_bytes(*cpu), work_ms: u64::from_be_bytes(work) })
    }
}

/// Bytes of the row of a job's counts: three numbers and two sums.
const COUNTS_BYTES: usize = 3 * 4 + 2 * 8;

/// The parts of a job, added up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PartCounts {
    pub(super) claimed: u32,
    pub(super) done: u32,
    pub(super) failed: u32,
    pub(super) cpu_ms: u64,
    #[serde(default)]
    pub(super) work_ms: u64,
}

impl PartCounts {
    /// The counts after a part went from `old` to `new`.
    pub(super) fn with_transition(mut self, old: Option<PartRow>, new: Option<PartRow>) -> Self {
        if let Some(part) = old {
            let count = self.count_mut(part.status);
            *count = count.saturating_sub(1);
            self.cpu_ms = self.cpu_ms.saturating_sub(part.cpu_ms);
            self.work_ms = self.work_ms.saturating_sub(part.work_ms);
        }
        if let Some(part) = new {
            let count = self.count_mut(part.status);
            *count = count.saturating_add(1);
            self.cpu_ms = self.cpu_ms.saturating_add(part.cpu_ms);
            self.work_ms = self.work_ms.saturating_add(part.work_ms);
        }
        self
    }

    const fn count_mut(&mut self, status: JobPartStatus) -> &mut u32 {
        match status {
            JobPartStatus::Claimed => &mut self.claimed,
            JobPartStatus::Done => &mut self.done,
            JobPartStatus::Failed => &mut self.failed,
        }
    }

    pub(super) fn is_empty(self) -> bool {
        self == Self::default()
    }

    pub(super) fn to_bytes(self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(COUNTS_BYTES);
        for count in [self.claimed, self.done, self.failed] {
            bytes.extend_from_slice(&count.to_be_bytes());
        }
        for sum_ms in [self.cpu_ms, self.work_ms] {
            bytes.extend_from_slice(&sum_ms.to_be_bytes());
        }
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, IndexError> {
        let count = |from: usize| -> Option<u32> {
            bytes.get(from..from + 4)?.try_into().ok().map(u32::from_be_bytes)
        };
        let sum = |from: usize| -> Option<u64> {
            bytes.get(from..from + 8)?.try_into().ok().map(u64::from_be_bytes)
        };
        match (count(0), count(4), count(8), sum(12), sum(20)) {
            (Some(claimed), Some(done), Some(failed), Some(cpu_ms), Some(work_ms))
                if bytes.len() == COUNTS_BYTES =>
            {
                Ok(Self { claimed, done, failed, cpu_ms, work_ms })
            }
            _ => Err(damaged_error("a job's counts")),
        }
    }
}

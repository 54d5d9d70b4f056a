//! Whether memory, descriptors and disk per upload stay the same: least squares over the second half of a run, against the uploads that had
//! ended by then.
//!
//! - Memory and descriptors do not depend on how many uploads there were: what they grow by for each is bounded. What a broker keeps of
//!   the blocks that it writes is left out (`block_buffers`); what is shown at the end is all of it.
//! - Each upload stays on disk: what it takes there must not grow with those before it, so that the second half is compared with the first.
//!
//! Limits: growth below what the half has of noise ([`MEMORY_NOISE_BYTES`] and others) counts for nothing; a run with fewer than
//! [`UPLOADS_MIN`] uploads in its second half says nothing.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::observe::Usage;

/// Most memory that may stay of each upload.
const MEMORY_BYTES_MAX: f64 = 16.0 * 1_024.0;
/// What memory goes up and down by anyhow.
const MEMORY_NOISE_BYTES: f64 = 16.0 * 1_024.0 * 1_024.0;
/// Most descriptors that may stay of each upload.
const DESCRIPTORS_MAX: f64 = 0.01;
const DESCRIPTORS_NOISE: f64 = 8.0;
/// What an upload of the second half may take on disk, as a multiple of one of the first.
const DISK_RATIO_MAX: f64 = 1.25;
const DISK_NOISE_BYTES: f64 = 8.0 * 1_024.0 * 1_024.0;
/// Fewest uploads that end in the second half, for a verdict.
const UPLOADS_MIN: f64 = 100.0;

/// What was concluded.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Verdict {
    Flat,
    Grows,
    /// The run was too short.
    TooShort,
}

impl Verdict {
    /// For people.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Flat => "flat",
            Self::Grows => "GROWS",
            Self::TooShort => "too short to say",
        }
    }
}

/// A process and what of it was measured.
#[derive(Debug, Serialize)]
pub(crate) struct FlatnessRow {
    pub(crate) process: String,
    /// `memory_bytes`, `descriptors` or `disk_bytes`.
    pub(crate) what: &'static str,
    pub(crate) last: f64,
    /// Growth by ended upload, over the second half.
    pub(crate) per_upload: f64,
    /// Most that it may be.
    pub(crate) per_upload_max: f64,
    pub(crate) verdict: Verdict,
}

/// What is measured of each process.
struct Measure {
    what: &'static str,
    of: fn(&Usage) -> f64,
    /// What of it is shown at the end.
    shown: fn(&Usage) -> f64,
    noise: f64,
    /// The most by upload, of the growth by upload in the first half.
    most: fn(f64) -> f64,
}

const MEASURES: [Measure; 3] = [
    Measure {
        what: "memory_bytes",
        of: |usage| usage.memory_bytes - usage.block_bytes,
        shown: |usage| usage.memory_bytes,
        noise: MEMORY_NOISE_BYTES,
        most: |_| MEMORY_BYTES_MAX,
    },
    Measure {
        what: "descriptors",
        of: |usage| usage.descriptors,
        shown: |usage| usage.descriptors,
        noise: DESCRIPTORS_NOISE,
        most: |_| DESCRIPTORS_MAX,
    },
    Measure {
        what: "disk_bytes",
        of: |usage| usage.disk_bytes,
        shown: |usage| usage.disk_bytes,
        noise: DISK_NOISE_BYTES,
        most: |first| first.max(0.0) * DISK_RATIO_MAX,
    },
];

/// Each process by each measure.
pub(crate) fn judge(usage: &BTreeMap<String, Vec<Usage>>) -> Vec<FlatnessRow> {
    let rows = usage.iter().flat_map(|(process, looks)| {
        MEASURES.iter().filter_map(|measure| judge_one(process, looks, measure))
    });
    rows.collect()
}

fn judge_one(process: &str, looks: &[Usage], measure: &Measure) -> Option<FlatnessRow> {
    let (first, second) = looks.split_at(looks.len() / 2);
    let points = |half: &[Usage]| -> Vec<(f64, f64)> {
        half.iter().map(|usage| (usage.ended, (measure.of)(usage))).collect()
    };
    let uploads = second.last()?.ended - second.first()?.ended;
    let per_upload = slope(&points(second)).unwrap_or(0.0);
    let per_upload_max =
        (measure.most)(slope(&points(first)).unwrap_or(0.0)).max(measure.noise / uploads.max(1.0));
    let verdict = match () {
        () if uploads < UPLOADS_MIN => Verdict::TooShort,
        () if per_upload <= per_upload_max => Verdict::Flat,
        () => Verdict::Grows,
    };
    let last = (measure.shown)(second.last()?);
    Some(FlatnessRow {
        process: process.to_owned(),
        what: measure.what,
        last,
        per_upload,
        per_upload_max,
        verdict,
    })
}

/// Slope of the line that fits best; `None` where all points have one abscissa.
fn slope(points: &[(f64, f64)]) -> Option<f64> {
    let count = points.len() as f64;
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / count;
    let (mean_x, mean_y) = (mean(|point| point.0), mean(|point| point.1));
    let (mut together, mut alone) = (0.0, 0.0);
    for (x, y) in points {
        together += (x - mean_x) * (y - mean_y);
        alone += (x - mean_x).powi(2);
    }
    (alone > 0.0).then(|| together / alone)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A run of 400 looks with an upload between each two.
    fn run(of: impl Fn(f64) -> (f64, f64, f64)) -> Vec<Verdict> {
        let looks = (0..400).map(|number| {
            let ended = f64::from(number);
            let (memory_bytes, descriptors, disk_bytes) = of(ended);
            Usage { ended, memory_bytes, block_bytes: 0.0, descriptors, disk_bytes }
        });
        let usage = BTreeMap::from([("index".to_owned(), looks.collect())]);
        judge(&usage).into_iter().map(|row| row.verdict).collect()
    }

    #[test]
    fn what_grows_by_upload_is_found() {
        use Verdict::{Flat, Grows, TooShort};
        let mib = 1_024.0 * 1_024.0;
        // Memory that fills up at first and goes up and down later; a disk that takes the same for each.
        let calm = run(|ended| ((ended.min(100.0) + (ended % 7.0)) * mib, 20.0, ended * mib));
        assert_eq!(calm, [Flat, Flat, Flat]);
        assert_eq!(run(|ended| (ended * 0.2 * mib, 20.0, 0.0)), [Grows, Flat, Flat]);
        assert_eq!(run(|ended| (0.0, 20.0 + ended, 0.0)), [Flat, Grows, Flat]);
        assert_eq!(run(|ended| (0.0, 20.0, ended * ended * mib)), [Flat, Flat, Grows]);
        assert_eq!(run(|ended| (ended * mib, ended, ended)).len(), 3);
        let short = BTreeMap::from([(
            "index".to_owned(),
            vec![
                Usage { ended: 1.0, memory_bytes: 1.0, block_bytes: 0.0, descriptors: 1.0, disk_bytes: 1.0 };
                60
            ],
        )]);
        assert!(judge(&short).iter().all(|row| row.verdict == TooShort));
    }

    #[test]
    fn a_line_has_its_slope() {
        assert_eq!(slope(&[(0.0, 1.0), (1.0, 3.0), (2.0, 5.0)]), Some(2.0));
        assert_eq!(slope(&[(1.0, 1.0), (1.0, 3.0)]), None);
    }
}

//! Encodes.

use super::{WORK_SECONDS_BOUNDS, metric_table};
use crate::{
    Counter, CounterFamily, FloatCounterFamily, HistogramFamily, KeyedFamily, LabelDeclaration,
    MetricDeclaration,
    labels::{JobOutcome, PartOutcome, PartWorkKind},
};

/// Bounds of the time of jobs, in seconds.
pub const JOB_SECONDS_BOUNDS: &[f64] =
    &[1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1_800.0, 3_600.0, 14_400.0];

metric_table! { Transcoder;
    JOB_WALL_SECONDS: MetricDeclaration = histogram(Performance, "streamgate_job_wall_seconds", "Time from planning to the end of succeeded jobs")
        with_buckets(JOB_SECONDS_BOUNDS);
    JOB_CPU_SECONDS: MetricDeclaration = histogram(Performance, "streamgate_job_cpu_seconds", "CPU time of the media children of succeeded jobs")
        with_buckets(JOB_SECONDS_BOUNDS);
    MEDIA_PLAYABLE_SECONDS: MetricDeclaration = histogram(Performance, "streamgate_media_playable_seconds", "Time from the end of an upload until its medium can be played, as the monitor saw both; without uploads whose encode was to wait")
        with_buckets(JOB_SECONDS_BOUNDS) used_by(&["StreamGatePlayableBurn"]);
    TRANSCODE_PARTS: CounterFamily<(PartWorkKind, PartOutcome)> = declare(Operation, "streamgate_transcode_parts", "Tries of parts of encodes, by work and outcome");
    TRANSCODE_PART_SECONDS: HistogramFamily<PartWorkKind> = declare(Performance, "streamgate_transcode_part_seconds", "Time of a try of a part, by work")
        with_buckets(WORK_SECONDS_BOUNDS);
    TRANSCODE_MEDIA_SECONDS: FloatCounterFamily<PartWorkKind> = declare(Operation, "streamgate_transcode_media_seconds", "Playing time of the parts that were made: its rate over that of the time of parts is the speed");
    TRANSCODE_CPU_SECONDS: FloatCounterFamily<()> = declare(Operation, "streamgate_transcode_cpu_seconds", "CPU time of the media children that made parts");
    TRANSCODE_FRAMES: CounterFamily<()> = declare(Operation, "streamgate_transcode_frames", "Pictures that media children have encoded");
    TRANSCODE_OBJECTS: CounterFamily<()> = declare(Operation, "streamgate_transcode_objects", "Segments, pictures and init segments of encodes that were stored");
    TRANSCODE_BYTES: CounterFamily<()> = declare(Operation, "streamgate_transcode_bytes", "Bytes of encodes that were stored");
    TRANSCODE_STORE_SECONDS: HistogramFamily<()> = declare(Performance, "streamgate_transcode_store_seconds", "Time of storing one object of an encode")
        with_buckets(super::REQUEST_SECONDS_BOUNDS);
    TRANSCODE_FAULTS: KeyedFamily<Counter> = declare(Operation, "streamgate_transcode_faults", "Tries of parts that failed, by code; a crash of the media child is one",
        &[LabelDeclaration::bounded("code", 64, "codes of faults")]);
    ENCODES: CounterFamily<JobOutcome> = declare(Operation, "streamgate_encodes", "Encodes that this process has ended, by outcome")
        used_by(&["StreamGateEncodeBurn"]);
}

//! Queues and those who work on them.

use super::metric_table;
use crate::{
    Counter, CounterFamily, Gauge, Histogram, HistogramFamily, KeyedFamily, LabelDeclaration,
    MetricDeclaration, TracedHistogram, labels::JobOutcome,
};

/// Bounds of the time that a message waits, and of the work on it, in seconds.
pub const WORK_SECONDS_BOUNDS: &[f64] = &[0.01, 0.1, 0.5, 1.0, 5.0, 30.0, 60.0, 300.0, 1_800.0, 7_200.0];

const QUEUES: &[LabelDeclaration] = &[LabelDeclaration::fixed("queue", &["transcode", "tasks"])];
const STAGE: LabelDeclaration = LabelDeclaration::bounded("stage", 16, "stages");
const STAGE_OUTCOME: LabelDeclaration = LabelDeclaration::fixed(
    "outcome",
    &["done", "later", "lost", "fault", "outage", "reject", "undecodable"],
);
const KIND: LabelDeclaration = LabelDeclaration::bounded("kind", 16, "kinds of jobs");

metric_table! { Worker;
    DISPATCH_LEADING: MetricDeclaration = gauge(Service, "streamgate_dispatch_leading", "Whether this process lets parts into the queue: one keeper does")
        with_labels(QUEUES) used_by(&["StreamGateNobodyDispatches", "StreamGateNobodyDispatchesTasks"]);
    DISPATCH_WAITING_JOBS: MetricDeclaration = gauge(Operation, "streamgate_dispatch_waiting_jobs", "Jobs that have parts to be let into the queue")
        with_labels(QUEUES) used_by(&["StreamGateNoWorker"]);
    DISPATCH_QUEUE_PARTS: MetricDeclaration = gauge(Operation, "streamgate_dispatch_queue_parts", "Parts that lie in the queue or are worked on")
        with_labels(QUEUES);
    DISPATCH_WORKERS: MetricDeclaration = gauge(Service, "streamgate_dispatch_workers", "Workers that showed themselves lately")
        with_labels(QUEUES);
    DISPATCH_SLOTS: MetricDeclaration = gauge(Service, "streamgate_dispatch_slots", "Parts that those workers run at once")
        with_labels(QUEUES) used_by(&["StreamGateNoWorker"]);
    DISPATCH_PARTS: MetricDeclaration = counter(Operation, "streamgate_dispatch_parts", "Parts that were let into the queue")
        with_labels(QUEUES);
    STAGE_MESSAGES: KeyedFamily<Counter> = declare(Operation, "streamgate_stage_messages", "Messages that a stage has handled, by outcome",
        &[STAGE, STAGE_OUTCOME]);
    STAGE_SECONDS: KeyedFamily<TracedHistogram> = declare(Performance, "streamgate_stage_seconds", "Time in which a stage handled a message",
        &[STAGE]) with_buckets(WORK_SECONDS_BOUNDS);
    STAGE_WAIT_SECONDS: KeyedFamily<Histogram> = declare(Performance, "streamgate_stage_wait_seconds", "Time from the storing of a message to its first delivery to a stage",
        &[STAGE]) with_buckets(WORK_SECONDS_BOUNDS);
    STAGE_BUSY: KeyedFamily<Gauge> = declare(Operation, "streamgate_stage_busy", "Messages that a stage handles now",
        &[STAGE]);
    DEAD_LETTERS: KeyedFamily<Counter> = declare(Operation, "streamgate_stage_dead_letters", "Messages that a stage gave up",
        &[STAGE]);
    PARTS_CLAIMED: CounterFamily<()> = declare(Operation, "streamgate_parts_claimed", "Parts that a worker of this process took");
    WORKERS_LOST: CounterFamily<()> = declare(Operation, "streamgate_part_workers_lost", "Workers that were missed while they had a part");
    TASK_SECONDS: KeyedFamily<Histogram> = declare(Performance, "streamgate_task_seconds", "Time of a try at a job that makes no encode",
        &[KIND]) with_buckets(WORK_SECONDS_BOUNDS);
    TASKS_ENDED: KeyedFamily<Counter> = declare(Operation, "streamgate_tasks_ended", "Jobs that make no encode and came to an end, by kind and outcome",
        &[KIND, LabelDeclaration::fixed("outcome", &["succeeded", "failed"])]);
    PLANS: CounterFamily<JobOutcome> = declare(Operation, "streamgate_encode_plans", "Encodes that were planned, or could not be");
    PLAN_SECONDS: HistogramFamily<()> = declare(Performance, "streamgate_encode_plan_seconds", "Time of planning an encode")
        with_buckets(WORK_SECONDS_BOUNDS);
}

//! The process itself.

use super::metric_table;
use crate::{
    CounterFamily, GaugeFamily, LabelDeclaration, MetricDeclaration,
    labels::{LogLevel, PublishOutcome, SpanOutcome},
};

const ROLE: LabelDeclaration = LabelDeclaration::bounded("role", 10, "roles");

metric_table! { Process;
    READY: MetricDeclaration = gauge(Service, "streamgate_ready", "1 while this process can do its work, else 0")
        used_by(&["StreamGateNotReady"]);
    TASK_RESTARTS: MetricDeclaration = counter(Service, "streamgate_task_restarts", "Background tasks that ended and were started again")
        with_labels(&[ROLE, LabelDeclaration::bounded("task", 64, "tasks")]) used_by(&["StreamGateTaskRestarts"]);
    BROKER_WRITE_AGE_SECONDS: MetricDeclaration = gauge(Service, "streamgate_broker_write_age_seconds", "Time since the broker confirmed a write of the role")
        with_labels(&[ROLE]) used_by(&["StreamGateWritesUnconfirmed"]);
    STREAM_UNCONFIRMED_SECONDS: MetricDeclaration = gauge(Service, "streamgate_stream_unconfirmed_seconds", "Time for which writes to the stream have not been confirmed")
        with_labels(&[LabelDeclaration::bounded("stream", 64, "streams and buckets")]) used_by(&["StreamGateLimiterStoreLost", "StreamGateStreamUnconfirmed"]);
    BROKER_WRITE_BROKEN: MetricDeclaration = gauge(Service, "streamgate_broker_write_broken", "1 while the broker says that it can't write a stream any more")
        used_by(&["StreamGateBrokerCannotWrite"]);
    BROKER_WRITE_ERRORS: MetricDeclaration = counter(Service, "streamgate_broker_write_errors", "Times the broker began to say so");
    CLOCK_OFFSET_SECONDS: MetricDeclaration = gauge(Service, "streamgate_clock_offset_seconds", "This host's clock minus the broker's; 0 before it was measured")
        used_by(&["StreamGateClockSkew"]);
    BUILD_INFO: MetricDeclaration = gauge(Service, "streamgate_build_info", "1, with the version of this process")
        with_labels(&[LabelDeclaration::bounded("version", 1, "versions of one process")]);
    PROCESS_CPU_SECONDS: MetricDeclaration = counter(Performance, "process_cpu_seconds", "CPU time of this process, without its media children");
    PROCESS_RESIDENT_MEMORY_BYTES: MetricDeclaration = gauge(Service, "process_resident_memory_bytes", "Memory of this process that is resident");
    PROCESS_THREADS: MetricDeclaration = gauge(Service, "process_threads", "Threads of this process");
    PROCESS_OPEN_FDS: MetricDeclaration = gauge(Service, "process_open_fds", "Files, sockets and pipes that this process has open")
        used_by(&["StreamGateFilesFull"]);
    PROCESS_MAX_FDS: MetricDeclaration = gauge(Service, "process_max_fds", "Most that it may have open")
        used_by(&["StreamGateFilesFull"]);
    PROCESS_START_TIME_SECONDS: MetricDeclaration = gauge(Service, "process_start_time_seconds", "Unix time at which this process began to count");
    LOG_RECORDS: CounterFamily<LogLevel> = declare(Service, "streamgate_log_records", "Records that this process wrote into its log, by level");
    TRACE_SPANS: CounterFamily<SpanOutcome> = declare(Service, "streamgate_trace_spans", "Spans of this process that were to be sent, by what became of them");
    TRACE_QUEUE_SPANS: GaugeFamily<()> = declare(Service, "streamgate_trace_queue_spans", "Spans that wait to be sent");
    REPORTS: CounterFamily<PublishOutcome> = declare(Service, "streamgate_metric_reports", "Reports of the metrics of this process to the monitor, by what became of them");
}

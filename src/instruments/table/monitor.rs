//! The bus as the monitor sees it, and the log.

use super::metric_table;
use crate::{
    CounterFamily, LabelDeclaration, MetricDeclaration,
    labels::{AuditLogFault, ReportOutcome},
};

const CLASS: &[LabelDeclaration] = &[LabelDeclaration::bounded("class", 17, "classes of messages")];
const STREAM: LabelDeclaration = LabelDeclaration::bounded("stream", 128, "streams and buckets");
const STREAMS: &[LabelDeclaration] = &[STREAM];
const DURABLES: &[LabelDeclaration] =
    &[STREAM, LabelDeclaration::bounded("durable", 64, "durables of a stream")];

metric_table! { Monitor;
    BUS_MESSAGES: MetricDeclaration = counter(Request, "streamgate_bus_messages", "Messages received on the bus, deliveries not counted")
        with_labels(CLASS);
    BUS_PAYLOAD_BYTES: MetricDeclaration = counter(Request, "streamgate_bus_payload_bytes", "Payload bytes received on the bus, deliveries not counted")
        with_labels(CLASS);
    EVENTS: MetricDeclaration = counter(Operation, "streamgate_events", "Events received on the bus, by type; a repeated publish counts again")
        with_labels(&[LabelDeclaration::bounded("type", 128, "types of events")]) used_by(&["StreamGateChainDisagreement", "StreamGateJobsFailing"]);
    QUEUED_TASKS: MetricDeclaration = counter(Operation, "streamgate_queued_tasks", "Parts of jobs seen being queued, by kind of job")
        with_labels(&[LabelDeclaration::bounded("kind", 16, "kinds of jobs")]);
    ADVISORIES: MetricDeclaration = counter(Service, "streamgate_advisories", "JetStream advisories received, by kind")
        with_labels(&[LabelDeclaration::bounded("kind", 32, "kinds of advisories")]) used_by(&["StreamGateQuorumLost"]);
    POLLS: MetricDeclaration = counter(Service, "streamgate_polls", "Polls of stream and durable state, by result")
        with_labels(&[LabelDeclaration::fixed("result", &["answered", "failed", "partial", "other"])]) used_by(&["StreamGateStateUnread"]);
    DROPPED_MESSAGES: MetricDeclaration = counter(Service, "streamgate_dropped_messages", "Messages this monitor was too slow to receive, a lower bound")
        used_by(&["StreamGateMonitorDropping"]);
    STREAM_APPENDS: MetricDeclaration = counter(Operation, "streamgate_stream_appends", "Messages ever appended to a stream or bucket, from its sequence")
        with_labels(STREAMS);
    STREAM_MESSAGES: MetricDeclaration = gauge(Service, "streamgate_stream_messages", "Messages in a stream or bucket")
        with_labels(STREAMS);
    STREAM_BYTES: MetricDeclaration = gauge(Service, "streamgate_stream_bytes", "Bytes in a stream or bucket")
        with_labels(STREAMS);
    STREAM_LIMIT_BYTES: MetricDeclaration = gauge(Service, "streamgate_stream_limit_bytes", "Limit of a stream or bucket in bytes, 0 for none")
        with_labels(STREAMS);
    STREAM_FILL_RATIO: MetricDeclaration = gauge(Service, "streamgate_stream_fill_ratio", "Share of the byte limit that is used")
        with_labels(STREAMS) used_by(&["StreamGateStreamFilling"]);
    STREAM_ROOM_SECONDS: MetricDeclaration = gauge(Performance, "streamgate_stream_room_seconds", "Time until a stream or bucket is full if it goes on to grow as in the last hour, at most ten years")
        with_labels(STREAMS) used_by(&["StreamGateStreamFullSoon"]);
    DURABLE_PENDING_MESSAGES: MetricDeclaration = gauge(Operation, "streamgate_durable_pending_messages", "Messages not yet delivered to a durable")
        with_labels(DURABLES) used_by(&["StreamGateQueueNotServed"]);
    DURABLE_UNACKNOWLEDGED_MESSAGES: MetricDeclaration = gauge(Operation, "streamgate_durable_unacknowledged_messages", "Messages delivered and not yet acknowledged")
        with_labels(DURABLES) used_by(&["StreamGateAckPendingFull", "StreamGateQueueNotServed"]);
    DURABLE_UNACKNOWLEDGED_LIMIT: MetricDeclaration = gauge(Operation, "streamgate_durable_unacknowledged_limit", "Messages that a durable may have delivered and not yet acknowledged, 0 for any number")
        with_labels(DURABLES) used_by(&["StreamGateAckPendingFull"]);
    DURABLE_REDELIVERED_MESSAGES: MetricDeclaration = gauge(Operation, "streamgate_durable_redelivered_messages", "Unacknowledged messages that were delivered more than once")
        with_labels(DURABLES) used_by(&["StreamGateRedeliveryStorm"]);
    DURABLE_WAITING_PULLS: MetricDeclaration = gauge(Operation, "streamgate_durable_waiting_pulls", "Pull requests that wait for a message")
        with_labels(DURABLES);
    DURABLE_OLDEST_AGE_SECONDS: MetricDeclaration = gauge(Performance, "streamgate_durable_oldest_age_seconds", "Age of the oldest message that is not acknowledged, 0 for none")
        with_labels(DURABLES) used_by(&["StreamGateWorkStalled"]);
    DEAD_LETTER_MESSAGES: MetricDeclaration = gauge(Operation, "streamgate_dead_letter_messages", "Dead letters about which nobody did anything yet, by stage")
        with_labels(&[LabelDeclaration::bounded("stage", 32, "stages")]) used_by(&["StreamGateDeadLetters"]);
    AUDIT_LAG_EVENTS: MetricDeclaration = gauge(Performance, "streamgate_audit_lag_events", "Events that are not audited yet");
    AUDIT_LAG_SECONDS: MetricDeclaration = gauge(Performance, "streamgate_audit_lag_seconds", "Age of the oldest event that is not audited yet, 0 for none")
        used_by(&["StreamGateAuditBehind"]);
    BROKER_UP: MetricDeclaration = gauge(Service, "streamgate_broker_up", "1 when the last poll was answered")
        used_by(&["StreamGateBrokerDown", "StreamGateMonitorMissing"]);
    POLL_TIMESTAMP_SECONDS: MetricDeclaration = gauge(Service, "streamgate_poll_timestamp_seconds", "Unix time of the last answered poll")
        used_by(&["StreamGateMonitorStale"]);
    ROLE_REPORTS: CounterFamily<ReportOutcome> = declare(Service, "streamgate_role_reports", "Reports of metrics that the monitor received from roles, by what it did with them")
        used_by(&["StreamGateReportsRefused"]);
    REPORTING_INSTANCES: MetricDeclaration = gauge(Service, "streamgate_reporting_instances", "Processes whose metrics the monitor shows, by role")
        with_labels(&[LabelDeclaration::bounded("role", 10, "roles")]);
    ROLE_REPORT_AGE_SECONDS: MetricDeclaration = gauge(Service, "streamgate_role_report_age_seconds", "Age of the last report of metrics of each process, until it is an hour old")
        with_labels(&[LabelDeclaration::bounded("role", 10, "roles"), LabelDeclaration::bounded("process", 200, "processes")]) used_by(&["StreamGateRoleSilent"]);
    AUDIT_RECORDS: CounterFamily<()> = declare(Operation, "streamgate_audit_records", "Records that this process appended to the log");
    AUDIT_FAULTS: CounterFamily<AuditLogFault> = declare(Service, "streamgate_audit_faults", "Faults of the log that this process found, by kind")
        used_by(&["StreamGateAuditFault"]);
}

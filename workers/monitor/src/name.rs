//! Every metric's name and help: `streamgate_<noun>_<unit>`, counters with `_total` behind (added when encoded).

/// A metric.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MetricName {
    BusMessages,
    BusPayloadBytes,
    Events,
    QueuedTasks,
    Advisories,
    Polls,
    DroppedMessages,
    JobWallSeconds,
    JobCpuSeconds,
    StreamAppends,
    StreamMessages,
    StreamBytes,
    StreamLimitBytes,
    StreamFillRatio,
    DurablePendingMessages,
    DurableUnacknowledgedMessages,
    DurableRedeliveredMessages,
    DurableWaitingPulls,
    DurableOldestAgeSeconds,
    DeadLetterMessages,
    AuditLagEvents,
    AuditLagSeconds,
    BrokerUp,
    PollTimestampSeconds,
}

impl MetricName {
    /// The name without `_total`.
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::BusMessages => "streamgate_bus_messages",
            Self::BusPayloadBytes => "streamgate_bus_payload_bytes",
            Self::Events => "streamgate_events",
            Self::QueuedTasks => "streamgate_queued_tasks",
            Self::Advisories => "streamgate_advisories",
            Self::Polls => "streamgate_polls",
            Self::DroppedMessages => "streamgate_dropped_messages",
            Self::JobWallSeconds => "streamgate_job_wall_seconds",
            Self::JobCpuSeconds => "streamgate_job_cpu_seconds",
            Self::StreamAppends => "streamgate_stream_appends",
            Self::StreamMessages => "streamgate_stream_messages",
            Self::StreamBytes => "streamgate_stream_bytes",
            Self::StreamLimitBytes => "streamgate_stream_limit_bytes",
            Self::StreamFillRatio => "streamgate_stream_fill_ratio",
            Self::DurablePendingMessages => "streamgate_durable_pending_messages",
            Self::DurableUnacknowledgedMessages => "streamgate_durable_unacknowledged_messages",
            Self::DurableRedeliveredMessages => "streamgate_durable_redelivered_messages",
            Self::DurableWaitingPulls => "streamgate_durable_waiting_pulls",
            Self::DurableOldestAgeSeconds => "streamgate_durable_oldest_age_seconds",
            Self::DeadLetterMessages => "streamgate_dead_letter_messages",
            Self::AuditLagEvents => "streamgate_audit_lag_events",
            Self::AuditLagSeconds => "streamgate_audit_lag_seconds",
            Self::BrokerUp => "streamgate_broker_up",
            Self::PollTimestampSeconds => "streamgate_poll_timestamp_seconds",
        }
    }

    /// What it says, for people; without a full stop, the encoder adds one.
    pub(crate) const fn help(self) -> &'static str {
        match self {
            Self::BusMessages => "Messages received on the bus, deliveries not counted",
            Self::BusPayloadBytes => "Payload bytes received on the bus, deliveries not counted",
            Self::Events => "Events received on the bus, by type; a repeated publish counts again",
            Self::QueuedTasks => "Parts of jobs seen being queued, by kind of job",
            Self::Advisories => "JetStream advisories received, by kind",
            Self::Polls => "Polls of stream and durable state, by result",
            Self::DroppedMessages => "Messages this monitor was too slow to receive, a lower bound",
            Self::JobWallSeconds => "Time from planning to the end of succeeded jobs",
            Self::JobCpuSeconds => "CPU time of the media children of succeeded jobs",
            Self::StreamAppends => "Messages ever appended to a stream or bucket, from its sequence",
            Self::StreamMessages => "Messages in a stream or bucket",
            Self::StreamBytes => "Bytes in a stream or bucket",
            Self::StreamLimitBytes => "Limit of a stream or bucket in bytes, 0 for none",
            Self::StreamFillRatio => "Share of the byte limit that is used",
            Self::DurablePendingMessages => "Messages not yet delivered to a durable",
            Self::DurableUnacknowledgedMessages => "Messages delivered and not yet acknowledged",
            Self::DurableRedeliveredMessages => "Unacknowledged messages that were delivered more than once",
            Self::DurableWaitingPulls => "Pull requests that wait for a message",
            Self::DurableOldestAgeSeconds => "Age of the oldest message that is not acknowledged, 0 for none",
            Self::DeadLetterMessages => "Dead letters about which nobody did anything yet, by stage",
            Self::AuditLagEvents => "Events that are not audited yet",
            Self::AuditLagSeconds => "Age of the oldest event that is not audited yet, 0 for none",
            Self::BrokerUp => "1 when the last poll was answered",
            Self::PollTimestampSeconds => "Unix time of the last answered poll",
        }
    }
}

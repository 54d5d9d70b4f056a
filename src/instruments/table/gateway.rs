//! Connections, rates, room.

use super::metric_table;
use crate::{
    CounterFamily, GaugeFamily, LabelDeclaration, MetricDeclaration,
    labels::{ConnectionOutcome, SumOutcome},
};

const GROUPS: LabelDeclaration = LabelDeclaration::fixed(
    "group",
    &[
        "api",
        "upload",
        "streaming",
        "metadata",
        "cache",
        "auth",
        "worker",
        "transcoder",
        "monitor",
        "credential",
    ],
);
const SCOPES: LabelDeclaration = LabelDeclaration::bounded("scope", 4, "whose requests a limit counts");
const OUTCOMES: LabelDeclaration = LabelDeclaration::fixed("outcome", &["passed", "denied"]);
const LIMITS: &[LabelDeclaration] = &[LabelDeclaration::bounded("limit", 64, "streams, buckets and disks")];

metric_table! { Gateway;
    LIMIT_REQUESTS: MetricDeclaration = counter(Request, "streamgate_limit_requests", "Requests by the rate limit that let them pass or refused them")
        with_labels(&[GROUPS, SCOPES, OUTCOMES]);
    LIMIT_REPLICAS: MetricDeclaration = gauge(Service, "streamgate_limit_replicas", "Replicas that share the rates");
    LIMIT_KEYS: MetricDeclaration = gauge(Service, "streamgate_limit_keys", "Clients and principals whose rates are kept");
    CAPACITY_LIMIT_BYTES: MetricDeclaration = gauge(Service, "streamgate_capacity_limit_bytes", "What a stream, bucket or disk may hold")
        with_labels(LIMITS) used_by(&["StreamGateCapacityFilling"]);
    CAPACITY_USED_BYTES: MetricDeclaration = gauge(Service, "streamgate_capacity_used_bytes", "What it holds")
        with_labels(LIMITS) used_by(&["StreamGateCapacityFilling"]);
    CAPACITY_FULL: MetricDeclaration = gauge(Service, "streamgate_capacity_full", "1 when nothing new is taken for want of room")
        with_labels(LIMITS) used_by(&["StreamGateCapacityFull"]);
    CONNECTIONS: CounterFamily<ConnectionOutcome> = declare(Request, "streamgate_http_connections", "Connections to this process by what became of them")
        used_by(&["StreamGateConnectionsRefused"]);
    SUMMED_REQUESTS: CounterFamily<SumOutcome> = declare(Operation, "streamgate_summed_requests", "Requests that the audit log has as sums, by whether their sum says what was asked for");
    CONNECTIONS_OPEN: GaugeFamily<()> = declare(Service, "streamgate_http_connections_open", "Connections that are open now");
}

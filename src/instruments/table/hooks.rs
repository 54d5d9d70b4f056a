//! Webhooks.

use super::metric_table;
use crate::{LabelDeclaration, MetricDeclaration};

metric_table! { Hooks;
    WEBHOOK_DELIVERIES: MetricDeclaration = counter(Operation, "streamgate_webhook_deliveries", "Tries to deliver something to the receiver of a webhook")
        with_labels(&[LabelDeclaration::fixed("outcome", &["delivered", "failed", "gone"])]);
    WEBHOOK_SKIPPED_EVENTS: MetricDeclaration = counter(Operation, "streamgate_webhook_skipped_events", "Events that webhooks left out: they were tried for too long, or are not there any more");
    WEBHOOKS: MetricDeclaration = gauge(Service, "streamgate_webhooks", "Webhooks that this process runs")
        with_labels(&[LabelDeclaration::fixed("state", &["active", "failing", "full", "paused"])]);
    WEBHOOK_LAG_SECONDS: MetricDeclaration = gauge(Performance, "streamgate_webhook_lag_seconds", "How long the oldest event waits that a webhook has to deliver");
}

//! Listening: every message on the bus, counted once.

use futures::StreamExt;
use schemas::subjects::DELIVERY_REPLY_PREFIX;
use tokio_util::sync::CancellationToken;

use crate::MonitorMetrics;

/// Counts what is received until `shutdown`, or until the connection is closed.
pub(crate) async fn count_messages(
    mut messages: async_nats::Subscriber,
    metrics: MonitorMetrics,
    shutdown: CancellationToken,
) {
    loop {
        let message = tokio::select! {
            () = shutdown.cancelled() => return,
            message = messages.next() => message,
        };
        let Some(message) = message else { return };
        let reply = message.reply.as_ref().map_or("", |reply| reply.as_str());
        // A delivery of a consumer has the subject of its message: it would be counted a second time.
        if !reply.starts_with(DELIVERY_REPLY_PREFIX) {
            metrics.count_message(&message.subject, &message.payload);
        }
    }
}

//! Events about requests that were refused for who asked: each is counted by the code it was answered with, and published as
//! `evt.auth.denied` together with the others of its code.
//!
//! Limits: one event for each code in [`PAUSE`]; codes are those of problems, of which there are few. What can't be published stays
//! counted for the next time.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use axum::{http::StatusCode, response::Response};
use nats::Bus;
use parking_lot::Mutex;
use schemas::{ids::RequestId, session::AuthDenied};
use tokio_util::sync::CancellationToken;

use super::problem_code::ProblemCode;

/// Time between two events with the same code.
pub const PAUSE: Duration = Duration::from_secs(10);

/// The refusals of one replica that wait to be published. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct DeniedEvents {
    // A panic in between leaves counts that are complete enough.
    waiting: Arc<Mutex<BTreeMap<&'static str, PendingDenials>>>,
}

#[derive(Debug, Clone, Copy)]
struct PendingDenials {
    first: RequestId,
    count: u64,
}

impl DeniedEvents {
    /// Counts an answer that refuses its caller: a problem with status 401 or 403.
    pub(super) fn count_response(&self, response: &Response, request_id: RequestId) {
        if !matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return;
        }
        if let Some(kind) = response.extensions().get::<ProblemCode>() {
            let mut waiting = self.waiting.lock();
            waiting.entry(kind.code()).or_insert(PendingDenials { first: request_id, count: 0 }).count += 1;
        }
    }

    /// Publishes them until `shutdown`, and once more then.
    pub async fn run(&self, bus: &Bus, shutdown: CancellationToken) {
        loop {
            let stops = tokio::select! {
                () = shutdown.cancelled() => true,
                () = tokio::time::sleep(PAUSE) => false,
            };
            self.publish_events(bus).await;
            if stops {
                return;
            }
        }
    }

    async fn publish_events(&self, bus: &Bus) {
        let waiting = std::mem::take(&mut *self.waiting.lock());
        for (code, PendingDenials { first, count }) in waiting {
            let event = AuthDenied { request_id: first, code: code.to_owned(), denied_count: count };
            if let Err(error) = bus.publish_event(&event, &format!("denied {first} {code} {count}")).await {
                tracing::warn!(%error, code, "refusals could not be published yet");
                let mut again = self.waiting.lock();
                let later = again.entry(code).or_insert(PendingDenials { first, count: 0 });
                (later.first, later.count) = (first, later.count + count);
            }
        }
    }
}

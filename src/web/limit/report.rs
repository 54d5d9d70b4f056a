//! Reports of refused requests: counters always, and events, of which there are only so many a minute over all replicas.
//!
//! Limits: [`WAITING_MAX`] refusals wait to be published, more are only counted; one write a second; `events_per_min_max` events.

use std::{
    collections::BTreeMap,
    fmt,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use nats::{
    Bus, Outbox,
    metrics::{
        DescriptorEncoder, encode_counters, encode_gauge,
        table::{LIMIT_KEYS, LIMIT_REPLICAS, LIMIT_REQUESTS},
    },
};
use parking_lot::Mutex;
use schemas::{
    fault::FailureClass,
    ids::RequestId,
    limit::{RateLimitEventCounter, RateLimitExceeded},
};
use tokio_util::sync::CancellationToken;

use super::{fields::RateLimitScope, group::RateLimitGroup};

/// Refusals that wait to be published.
pub(super) const WAITING_MAX: usize = 256;
const PAUSE: Duration = Duration::from_secs(1);
const MINUTE_MS: u64 = 60_000;

/// One refused request.
#[derive(Debug, Clone)]
pub(super) struct RateLimitDenial {
    pub(super) request_id: RequestId,
    pub(super) group: RateLimitGroup,
    pub(super) scope: RateLimitScope,
    pub(super) owner: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct RateLimitReporter {
    waiting: Mutex<Vec<RateLimitDenial>>,
    counts: [[PolicyCounters; RateLimitScope::ALL.len()]; RateLimitGroup::ALL.len()],
}

#[derive(Debug, Default)]
struct PolicyCounters {
    passed: AtomicU64,
    denied: AtomicU64,
}

/// How often a policy let pass and refused since the start of this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyCount {
    /// The group.
    pub group: RateLimitGroup,
    /// Whose requests.
    pub scope: RateLimitScope,
    /// Passed.
    pub passed: u64,
    /// Refused.
    pub denied: u64,
}

impl RateLimitReporter {
    pub(super) fn count_request(&self, group: RateLimitGroup, scope: RateLimitScope, passed: bool) {
        if let Some(counts) = self.counts.get(group.index()).and_then(|scopes| scopes.get(scope as usize)) {
            let counter = if passed { &counts.passed } else { &counts.denied };
            counter.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn counts(&self) -> Vec<PolicyCount> {
        let mut all = Vec::new();
        for (group, scopes) in RateLimitGroup::ALL.into_iter().zip(&self.counts) {
            for (scope, counts) in RateLimitScope::ALL.into_iter().zip(scopes) {
                let passed = counts.passed.load(Ordering::Relaxed);
                let denied = counts.denied.load(Ordering::Relaxed);
                all.push(PolicyCount { group, scope, passed, denied });
            }
        }
        all
    }

    pub(super) fn add_denial(&self, denial: RateLimitDenial) {
        let mut waiting = self.waiting.lock();
        if waiting.len() < WAITING_MAX {
            waiting.push(denial);
        }
    }

    fn take_waiting(&self) -> Vec<RateLimitDenial> {
        std::mem::take(&mut *self.waiting.lock())
    }

    /// What could not be published waits again, before what came since.
    fn return_waiting(&self, mut denials: Vec<RateLimitDenial>) {
        let mut waiting = self.waiting.lock();
        denials.append(&mut waiting);
        denials.truncate(WAITING_MAX);
        *waiting = denials;
    }

    /// Refusals joined by policy and principal. A request id of each stands for all.
    fn join_denials(denials: &[RateLimitDenial]) -> Vec<RateLimitExceeded> {
        let mut joined: BTreeMap<(&str, &str, Option<String>), RateLimitExceeded> = BTreeMap::new();
        for RateLimitDenial { request_id, group, scope, owner } in denials {
            let event = joined.entry((group.name(), scope.name(), owner.clone())).or_insert_with(|| {
                RateLimitExceeded {
                    request_id: *request_id,
                    group: group.name().to_owned(),
                    scope: scope.name().to_owned(),
                    owner: owner.clone(),
                    denied_count: 0,
                }
            });
            event.denied_count += 1;
        }
        joined.into_values().collect()
    }

    /// Publishes refusals until `shutdown`.
    pub(super) async fn run(&self, bus: &Bus, events_per_min_max: u32, shutdown: &CancellationToken) {
        loop {
            let stops = tokio::select! {
                () = shutdown.cancelled() => true,
                () = tokio::time::sleep(PAUSE) => false,
            };
            let denials = self.take_waiting();
            let events = Self::join_denials(&denials);
            if !events.is_empty()
                && let Err(error) = publish_events(bus, &events, events_per_min_max, nats::now_ms()).await
            {
                tracing::debug!(%error, events = events.len(), "refusals are counted, but not published yet");
                if error.failure_class() == FailureClass::Outage {
                    self.return_waiting(denials);
                }
            }
            if stops {
                return;
            }
        }
    }
}

/// Writes how many events this minute has had, with those that still fit into it.
async fn publish_events(
    bus: &Bus,
    events: &[RateLimitExceeded],
    per_min_max: u32,
    now_ms: u64,
) -> Result<(), nats::BusError> {
    let change = bus.change_record::<RateLimitEventCounter>(RateLimitEventCounter::KEY, |found| {
        let (next, fitting) = plan_events(found, events, per_min_max, now_ms);
        let outbox = fitting.iter().fold(Outbox::new(), Outbox::with_event);
        Some((next, outbox))
    });
    Box::pin(change).await?;
    Ok(())
}

/// The record afterwards, and the events that fit.
fn plan_events<'a>(
    found: Option<&RateLimitEventCounter>,
    events: &'a [RateLimitExceeded],
    per_min_max: u32,
    now_ms: u64,
) -> (RateLimitEventCounter, &'a [RateLimitExceeded]) {
    let mut next = found
        .filter(|found| now_ms.saturating_sub(found.minute_started_at_ms) < MINUTE_MS)
        .cloned()
        .unwrap_or(RateLimitEventCounter { minute_started_at_ms: now_ms, events_count: 0, untold_count: 0 });
    let room = usize::try_from(per_min_max.saturating_sub(next.events_count)).unwrap_or(0);
    let (fitting, dropped) = events.split_at(room.min(events.len()));
    next.events_count += u32::try_from(fitting.len()).unwrap_or(0);
    next.untold_count += dropped.iter().map(|event| event.denied_count).sum::<u64>();
    (next, fitting)
}

/// Writes the counters as metrics.
pub(super) fn encode_metrics(
    encoder: &mut DescriptorEncoder<'_>,
    counts: &[PolicyCount],
    replicas: u32,
    keys: usize,
) -> fmt::Result {
    let outcomes = counts.iter().flat_map(|count| {
        [("passed", count.passed), ("denied", count.denied)].map(|(outcome, requests)| {
            let (group, scope) = (count.group.name(), count.scope.name());
            ([("group", group), ("scope", scope), ("outcome", outcome)], requests)
        })
    });
    encode_counters(encoder, &LIMIT_REQUESTS, outcomes)?;
    encode_gauge(encoder, &LIMIT_REPLICAS, replicas)?;
    encode_gauge(encoder, &LIMIT_KEYS, keys)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn denial(group: RateLimitGroup, owner: Option<&str>) -> RateLimitDenial {
        let request_id = RequestId::from_bytes(nats::new_id_bytes());
        RateLimitDenial {
            request_id,
            group,
            scope: RateLimitScope::Client,
            owner: owner.map(ToOwned::to_owned),
        }
    }

    #[test]
    fn refusals_of_one_kind_are_one_event_and_a_flood_is_bounded() {
        let report = RateLimitReporter::default();
        for _ in 0..WAITING_MAX * 2 {
            report.add_denial(denial(RateLimitGroup::Auth, None));
        }
        let events = RateLimitReporter::join_denials(&report.take_waiting());
        assert_eq!(events.len(), 1);
        assert_eq!(events[0].denied_count, WAITING_MAX as u64);
        report.add_denial(denial(RateLimitGroup::Auth, Some("ann")));
        report.add_denial(denial(RateLimitGroup::Auth, Some("bob")));
        report.add_denial(denial(RateLimitGroup::Api, Some("bob")));
        let denials = report.take_waiting();
        assert_eq!(RateLimitReporter::join_denials(&denials).len(), 3);
        assert!(report.take_waiting().is_empty());
        // The broker was away: they wait again with what came since, and no more than may wait.
        report.add_denial(denial(RateLimitGroup::Api, Some("bob")));
        report.return_waiting(denials);
        let events = RateLimitReporter::join_denials(&report.take_waiting());
        let counts: Vec<u64> = events.iter().map(|event| event.denied_count).collect();
        assert_eq!(counts, [2, 1, 1]);
        (0..WAITING_MAX).for_each(|_| report.add_denial(denial(RateLimitGroup::Auth, None)));
        report.return_waiting(vec![denial(RateLimitGroup::Api, None)]);
        let denials = report.take_waiting();
        assert_eq!((denials.len(), denials[0].group), (WAITING_MAX, RateLimitGroup::Api));
    }

    #[test]
    fn a_minute_has_only_so_many_events() {
        let report = RateLimitReporter::default();
        for i in 0..10 {
            report.add_denial(denial(RateLimitGroup::Auth, Some(&i.to_string())));
        }
        let events = RateLimitReporter::join_denials(&report.take_waiting());
        let (first, fitting) = plan_events(None, &events, 6, 1_000);
        assert_eq!((fitting.len(), first.events_count, first.untold_count), (6, 6, 4));
        let (second, fitting) = plan_events(Some(&first), &events, 6, 60_999);
        assert_eq!((fitting.len(), second.events_count, second.untold_count), (0, 6, 14));
        let (third, fitting) = plan_events(Some(&second), &events[..1], 6, 61_000);
        assert_eq!((fitting.len(), third.events_count, third.untold_count), (1, 1, 0));
    }
}

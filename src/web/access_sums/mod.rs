//! Requests that leave no event of their own, summed for the audit log and published as `evt.access.summed`.
//!
//! A request is in the log either by the events of its operation, which it caused, or in a sum: what was read, asked or refused, by the
//! operation, the role and how it was answered. Who had a role over others, was refused a right, or showed an API key that opens nothing
//! is named, as far as there is room: most of it is kept for what is summed without a name, so that nobody who invents keys takes it all.
//! Not summed are connections that were closed before a head was read, and what browsers ask before a request of a foreign origin.
//!
//! An event that could not be published is sent again as it is, before the next: a lost confirmation counts nothing twice.
//!
//! Limits: of each class [`AccessClass::sums_max`] sums in a window of [`AccessClass::window_s`] seconds, the rest in one of its own;
//! names of at most [`WHO_BYTES_MAX`] bytes. So a process adds about a kilobyte a minute to EVENTS and to AUDIT, and at most 100 whatever it
//! is asked. One event of each window waits to be published while the next is summed. What a process that is killed had not published
//! is lost.

use std::{collections::HashMap, fmt, sync::Arc, time::Duration};

use axum::{
    http::{Method, StatusCode},
    response::Response,
};
use nats::{
    Bus, BusError,
    metrics::{labels::SumOutcome, table::SUMMED_REQUESTS},
};
use parking_lot::Mutex;
use schemas::{
    access::PrincipalRole,
    access_sum::{AccessClass, AccessSum, AccessSummed, NO_OPERATION, OTHERS},
    ids::{KeyId, RequestId, UploadGrantId},
};
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::{operation::Operation, problem_code::ProblemCode};

/// Longest name in a sum, in bytes; of a longer one the role alone is summed.
pub const WHO_BYTES_MAX: usize = 128;

/// The shorter window, in seconds.
const SHORT_S: u64 = AccessClass::Refusal.window_s();
/// Short windows in a long one.
const SHORT_COUNT: u64 = AccessClass::Read.window_s() / SHORT_S;

/// The part of the sums of a class, one in so many, in which those are named who have no role over others.
const NAMES_PART: usize = 4;

/// Outcome of a request whose client left before it was answered.
const ABANDONED: &str = "abandoned";

/// Outcome of a sum of several outcomes.
const ANY: &str = "any";

/// Who sent a request, among the extensions of its answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RequestSender {
    /// Somebody who was signed in.
    Known {
        /// What the account may do.
        role: PrincipalRole,
        /// The account.
        account: String,
    },
    /// Somebody whose credential opens nothing.
    Refused(ShownCredential),
}

impl RequestSender {
    fn role(&self) -> Option<PrincipalRole> {
        match self {
            Self::Known { role, .. } => Some(*role),
            Self::Refused(_) => None,
        }
    }

    /// The name that stands in a sum of `class`. Owners are not named for what they do with their own.
    fn name_in(&self, class: AccessClass) -> Option<String> {
        let name = match self {
            Self::Known { role: PrincipalRole::Owner, .. } if class != AccessClass::Refusal => None,
            Self::Known { account, .. } => Some(account.clone()),
            Self::Refused(shown) => shown.public_half(),
        };
        name.filter(|name| name.len() <= WHO_BYTES_MAX)
    }
}

/// What a refused request showed, without anything secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ShownCredential {
    /// No credential.
    None,
    /// Text that is no credential of ours.
    Unknown,
    /// Text in the form of an access token.
    Token,
    /// Text in the form of an API key, with its public half.
    ApiKey(KeyId),
    /// Text in the form of an upload grant, with its public half.
    UploadGrant(UploadGrantId),
}

impl ShownCredential {
    const fn kind(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Unknown => "unknown",
            Self::Token => "token",
            Self::ApiKey(_) => "api_key",
            Self::UploadGrant(_) => "upload_grant",
        }
    }

    fn public_half(self) -> Option<String> {
        match self {
            Self::None | Self::Unknown | Self::Token => None,
            Self::ApiKey(key_id) => Some(format!("sg_{key_id}")),
            Self::UploadGrant(grant_id) => Some(format!("sgu_{grant_id}")),
        }
    }
}

/// What came of a request where its status does not say it: a fixed word, among the extensions of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AccessOutcome(pub &'static str);

/// Among the extensions of an answer of an operation with events: it caused none, such as one that is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CausedNoEvent;

/// The rate limit that refused a request, among the extensions of its answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RefusingLimit {
    /// Group of the limit.
    pub(crate) group: &'static str,
    /// Whose requests it counts.
    pub(crate) scope: &'static str,
}

/// What was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum SumSubject {
    Named(&'static str),
    Operation(Method, &'static str),
}

impl SumSubject {
    fn of_operation(operation: Option<&Operation>) -> Self {
        operation.map_or(Self::Named(NO_OPERATION), |operation| {
            Self::Operation(operation.method.clone(), operation.path)
        })
    }
}

impl fmt::Display for SumSubject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Named(name) => f.write_str(name),
            Self::Operation(method, path) => write!(f, "{method} {path}"),
        }
    }
}

/// What requests of one sum have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct SumKey {
    what: SumSubject,
    role: Option<PrincipalRole>,
    who: Option<String>,
    outcome: &'static str,
}

impl SumKey {
    const fn new(what: SumSubject, outcome: &'static str) -> Self {
        Self { what, role: None, who: None, outcome }
    }

    fn into_sum(self, class: AccessClass, count: u64) -> AccessSum {
        let Self { what, role, who, outcome } = self;
        AccessSum { class, what: what.to_string(), role, who, outcome: outcome.to_owned(), count }
    }
}

/// The class of what was asked, whatever came of it.
fn class_of_operation(operation: Option<&Operation>) -> AccessClass {
    operation.map_or(AccessClass::Probe, Operation::access_class)
}

/// The sum that an answered request belongs to; `None` where the events of its operation report it.
fn classify(operation: Option<&'static Operation>, response: &Response) -> Option<(AccessClass, SumKey)> {
    let found = response.extensions();
    if let Some(limit) = found.get::<RefusingLimit>() {
        return Some((AccessClass::Limit, SumKey::new(SumSubject::Named(limit.group), limit.scope)));
    }
    let (status, sender) = (response.status(), found.get::<RequestSender>());
    let is_failure = status.is_client_error() || status.is_server_error();
    let class = match operation {
        _ if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) => AccessClass::Refusal,
        Some(operation) if !is_failure && reports_itself(operation, response) => return None,
        _ => class_of_operation(operation),
    };
    let what = match (class, sender) {
        (AccessClass::Refusal, Some(RequestSender::Refused(shown))) => SumSubject::Named(shown.kind()),
        _ => SumSubject::of_operation(operation),
    };
    let code = found.get::<AccessOutcome>().map(|outcome| outcome.0);
    let code = code.or_else(|| found.get::<ProblemCode>().map(|code| code.code()));
    let outcome = code.unwrap_or(if is_failure { "failed" } else { "ok" });
    let (role, who) = (sender.and_then(RequestSender::role), sender.and_then(|sender| sender.name_in(class)));
    Some((class, SumKey { what, role, who, outcome }))
}

/// Whether events report what an operation did.
fn reports_itself(operation: &Operation, response: &Response) -> bool {
    !operation.events.is_empty() && response.extensions().get::<CausedNoEvent>().is_none()
}

/// The sums of one class in one window.
#[derive(Debug, Default)]
struct ClassSums {
    named: HashMap<SumKey, u64>,
    others: u64,
}

/// What is summed for the next event.
#[derive(Debug)]
struct CollectedSums {
    from_ms: u64,
    classes: HashMap<AccessClass, ClassSums>,
}

impl CollectedSums {
    fn new(from_ms: u64) -> Self {
        Self { from_ms, classes: HashMap::new() }
    }

    fn add(&mut self, class: AccessClass, key: SumKey) -> SumOutcome {
        let sums = self.classes.entry(class).or_default();
        let is_trusted = matches!(key.role, Some(PrincipalRole::Operator | PrincipalRole::Admin));
        if let Some(count) = sums.named.get_mut(&key) {
            *count += 1;
        } else if key.who.is_some() && !is_trusted && sums.named.len() >= class.sums_max() / NAMES_PART {
            return self.add(class, SumKey { who: None, ..key });
        } else if sums.named.len() < class.sums_max() {
            sums.named.insert(key, 1);
        } else {
            sums.others += 1;
            return SumOutcome::Others;
        }
        SumOutcome::Named
    }

    /// The event of the window that ends now; `None` when nothing was summed in it.
    fn take_event(&mut self, now_ms: u64) -> Option<AccessSummed> {
        let Self { from_ms, classes } = std::mem::replace(self, Self::new(now_ms));
        let mut sums = Vec::new();
        for (class, ClassSums { named, others }) in classes {
            sums.extend(named.into_iter().map(|(key, count)| key.into_sum(class, count)));
            if others > 0 {
                sums.push(SumKey::new(SumSubject::Named(OTHERS), ANY).into_sum(class, others));
            }
        }
        // In an order that people can read, the largest first.
        sums.sort_by(|a, b| {
            (a.class, std::cmp::Reverse(a.count), &a.what).cmp(&(
                b.class,
                std::cmp::Reverse(b.count),
                &b.what,
            ))
        });
        let request_id = RequestId::from_bytes(nats::new_id_bytes());
        (!sums.is_empty()).then_some(AccessSummed { request_id, from_ms, until_ms: now_ms, sums })
    }
}

/// Classes that are summed and published together.
#[derive(Debug)]
struct SumWindow {
    collected: Mutex<CollectedSums>,
    /// An event that is not confirmed yet. Held while it is published, so that there is one at a time.
    unsent: tokio::sync::Mutex<Option<AccessSummed>>,
}

impl SumWindow {
    fn new() -> Self {
        let collected = Mutex::new(CollectedSums::new(nats::now_ms()));
        Self { collected, unsent: tokio::sync::Mutex::default() }
    }

    /// Publishes what was left, and what was summed since.
    async fn publish(&self, bus: &Bus) -> Result<(), BusError> {
        let mut unsent = self.unsent.lock().await;
        for _ in 0..=usize::from(unsent.is_some()) {
            if unsent.is_none() {
                *unsent = self.collected.lock().take_event(nats::now_ms());
            }
            let Some(event) = unsent.as_ref() else { return Ok(()) };
            // Its subject holds one event: one that was stored and not confirmed is not stored again.
            bus.publish_event(event, "summed").await?;
            *unsent = None;
        }
        Ok(())
    }

    /// Requests that are in no published event.
    async fn count_unsent(&self) -> u64 {
        let left = self.unsent.lock().await.take();
        let last = self.collected.lock().take_event(nats::now_ms());
        left.into_iter().chain(last).flat_map(|event| event.sums).map(|sum| sum.count).sum()
    }
}

/// The sums of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AccessSums {
    /// Of 10 and of 60 seconds.
    windows: Arc<[SumWindow; 2]>,
}

impl Default for AccessSums {
    fn default() -> Self {
        Self { windows: Arc::new([SumWindow::new(), SumWindow::new()]) }
    }
}

impl AccessSums {
    /// Counts an answered request.
    pub(crate) fn count_response(&self, operation: Option<&'static Operation>, response: &Response) {
        if let Some((class, key)) = classify(operation, response) {
            self.add(class, key);
        }
    }

    /// A request that is to be counted as abandoned unless it is answered.
    pub(crate) fn expect_response(&self, operation: Option<&'static Operation>) -> ExpectedResponse<'_> {
        ExpectedResponse { sums: self, operation, is_answered: false }
    }

    /// Counts a credential that was refused with `code` in a message of a connection.
    pub fn count_refused_message(&self, shown: ShownCredential, code: &'static str) {
        let sender = RequestSender::Refused(shown);
        let who = sender.name_in(AccessClass::Refusal);
        let key = SumKey { who, ..SumKey::new(SumSubject::Named(shown.kind()), code) };
        self.add(AccessClass::Refusal, key);
    }

    fn add(&self, class: AccessClass, key: SumKey) {
        let [short, long] = &*self.windows;
        let window = if class.window_s() == SHORT_S { short } else { long };
        SUMMED_REQUESTS.increment(window.collected.lock().add(class, key));
    }

    /// Publishes the sums of each window that is over, until `shutdown`. The last ones are left to [`AccessSums::publish_rest`].
    pub async fn run(&self, bus: &Bus, shutdown: CancellationToken) {
        let pause = Duration::from_secs(SHORT_S);
        let mut ends = interval_at(Instant::now() + pause, pause);
        ends.set_missed_tick_behavior(MissedTickBehavior::Delay);
        for number in 1_u64.. {
            tokio::select! {
                () = shutdown.cancelled() => return,
                _ = ends.tick() => {}
            }
            let over = if number.is_multiple_of(SHORT_COUNT) { 2 } else { 1 };
            for window in self.windows.iter().take(over) {
                tokio::select! {
                    () = shutdown.cancelled() => return,
                    published = window.publish(bus) => if let Err(error) = published {
                        tracing::warn!(%error, "sums of requests could not be published yet");
                    },
                }
            }
        }
    }

    /// Publishes all that was summed, once nothing is answered any more, in `time_max`; what does not go is counted as lost.
    pub async fn publish_rest(&self, bus: &Bus, time_max: Duration) {
        let end = Instant::now() + time_max;
        for window in self.windows.iter() {
            let published = tokio::time::timeout_at(end, window.publish(bus)).await;
            let timed_out = |_| BusError::unavailable(std::io::Error::from(std::io::ErrorKind::TimedOut));
            if let Err(error) = published.map_err(timed_out).flatten() {
                let requests = window.count_unsent().await;
                SUMMED_REQUESTS.add(SumOutcome::Lost, requests);
                tracing::error!(%error, requests, "sums of requests are lost: they could not be published before the end");
            }
        }
    }
}

/// A request that is being answered.
#[derive(Debug)]
pub(crate) struct ExpectedResponse<'a> {
    sums: &'a AccessSums,
    operation: Option<&'static Operation>,
    is_answered: bool,
}

impl ExpectedResponse<'_> {
    /// Counts its answer.
    pub(crate) fn count(mut self, response: &Response) {
        self.is_answered = true;
        self.sums.count_response(self.operation, response);
    }
}

impl Drop for ExpectedResponse<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        let key = SumKey::new(SumSubject::of_operation(self.operation), ABANDONED);
        self.sums.add(class_of_operation(self.operation), key);
    }
}

#[cfg(test)]
mod tests;

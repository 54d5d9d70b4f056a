//! What one request has taken from which buckets. All must have room: when one has not, what was taken from the others goes back,
//! so a refused request costs nothing.

use std::{
    convert::Infallible,
    net::IpAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, request::Parts},
};

use super::{
    Limits,
    fields::{self, Line, Scope},
    gcra::Share,
    group::Group,
    report::Denial,
    table::Key,
};
use crate::ingress::{error::Problem, request};

/// Of one request; handlers find it among the request's extensions and may [`Ticket::charge`] it further.
#[derive(Debug, Clone, Default)]
pub struct Ticket {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    client: IpAddr,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    owner: Option<String>,
    buckets: Vec<Bucket>,
    refused: bool,
}

#[derive(Debug, Clone, Copy)]
struct Bucket {
    group: Group,
    scope: Scope,
    key: Key,
    share: Share,
}

impl Bucket {
    /// Lets `change` see and set when it is full again.
    fn with<T>(&self, limits: &Limits, now_ns: u64, change: impl FnOnce(&mut u64) -> T) -> T {
        let table = &limits.shared.table;
        let overflow = || table.key((self.group, self.scope, "overflow"));
        table.with(self.key, overflow, now_ns, change)
    }
}

impl Ticket {
    pub(super) fn new(limits: Limits, client: IpAddr) -> Self {
        let inner = Inner { limits, client, taken: Mutex::default() };
        Self { inner: Some(Arc::new(inner)) }
    }

    /// Counts the request in `group`, too, for its client and its principal; for work whose kind only its body tells.
    ///
    /// # Errors
    /// 429 when either has no room; then nothing is counted.
    pub fn charge(&self, group: Group) -> Result<(), Problem> {
        self.take(group, Scope::Client)?;
        self.take(group, Scope::Principal)
    }

    /// Names the principal, and counts for it in the group in which the request counts for its client.
    ///
    /// # Errors
    /// 429 when there is no room; then nothing is counted.
    pub fn admit(&self, owner: &str) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        let group = {
            let mut taken = inner.taken();
            taken.owner = Some(owner.to_owned());
            taken.buckets.first().map(|bucket| bucket.group)
        };
        group.map_or(Ok(()), |group| self.take(group, Scope::Principal))
    }

    /// Counts the request in `group` for its client or its principal.
    ///
    /// # Errors
    /// 429 when there is no room; then nothing is counted.
    pub fn take(&self, group: Group, scope: Scope) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        match inner.take(group, scope) {
            Ok(()) => Ok(()),
            Err(wait) => Err(fields::problem(group, scope, wait)),
        }
    }

    /// Tells on the answer how the caller stands.
    pub fn tell(&self, status: StatusCode, headers: &mut HeaderMap) {
        let Some(inner) = &self.inner else { return };
        let now_ns = inner.limits.now_ns();
        let taken = inner.taken();
        let lines = taken.buckets.iter().map(|bucket| {
            let full_at = bucket.with(&inner.limits, now_ns, |at| *at);
            let standing = bucket.share.standing(full_at, now_ns);
            Line { group: bucket.group, scope: bucket.scope, share: bucket.share, standing }
        });
        fields::set(headers, status, lines.collect());
    }
}

impl Inner {
    fn taken(&self) -> std::sync::MutexGuard<'_, Taken> {
        // A panic in between leaves a list that is complete enough to count by.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take(&self, group: Group, scope: Scope) -> Result<(), Duration> {
        let shared = &self.limits.shared;
        let now_ns = self.limits.now_ns();
        let mut taken = self.taken();
        let key = match (scope, &taken.owner) {
            (Scope::Client, _) => shared.table.key((group, "client", self.client)),
            (Scope::Principal, Some(owner)) => shared.table.key((group, "principal", owner)),
            // Nobody signed in: the address is all there is.
            (Scope::Principal, None) => return Ok(()),
        };
        if taken.buckets.iter().any(|bucket| bucket.key == key) {
            return Ok(());
        }
        let bucket = Bucket { group, scope, key, share: self.limits.share(group) };
        let outcome = bucket.with(&self.limits, now_ns, |full_at| {
            *full_at = bucket.share.take(*full_at, now_ns)?;
            Ok(())
        });
        let refund = outcome.is_err() && !taken.refused;
        if refund {
            for earlier in &taken.buckets {
                earlier.with(&self.limits, now_ns, |full_at| *full_at = earlier.share.give_back(*full_at));
            }
            taken.refused = true;
            let owner = taken.owner.clone();
            shared.report.denied(Denial { request_id: request::id(), group, scope, owner });
        }
        taken.buckets.push(bucket);
        shared.report.count(group, scope, outcome.is_ok());
        outcome
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Ticket {
    type Rejection = Infallible;

    /// Without the layer in front nothing is counted.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

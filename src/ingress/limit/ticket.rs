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
    refused: Option<Refused>,
}

/// Why a request does not go on: from the moment it was refused, whatever else it asks for is refused alike.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    /// The policies without room.
    pub(super) policies: Vec<(Group, Scope)>,
    /// Time after which all of them have room.
    pub(super) wait: Duration,
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

    /// The same without making a place for it.
    fn full_at_ns(&self, limits: &Limits) -> u64 {
        let table = &limits.shared.table;
        table.time(self.key, || table.key((self.group, self.scope, "overflow")))
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
        self.take(group, &[Scope::Client, Scope::Principal])
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
        group.map_or(Ok(()), |group| self.take(group, &[Scope::Principal]))
    }

    /// Counts the request in `group` for its client, its principal, or both.
    ///
    /// # Errors
    /// 429 when there is no room in one of them; then nothing is counted.
    pub fn take(&self, group: Group, scopes: &[Scope]) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.take(group, scopes).map_err(|refused| fields::problem(&refused))
    }

    /// Refuses the request when its client has no room in `group`, and counts nothing when it has.
    ///
    /// # Errors
    /// 429.
    pub(super) fn require(&self, group: Group) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.require(group).map_err(|refused| fields::problem(&refused))
    }

    /// Tells on the answer how the caller stands.
    pub fn tell(&self, status: StatusCode, headers: &mut HeaderMap) {
        let Some(inner) = &self.inner else { return };
        let now_ns = inner.limits.now_ns();
        let taken = inner.taken();
        let lines = taken.buckets.iter().map(|bucket| {
            let standing = bucket.share.standing(bucket.full_at_ns(&inner.limits), now_ns);
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

    /// `None` for a principal that nobody is: the address is all there is.
    fn bucket(&self, group: Group, scope: Scope, owner: Option<&str>) -> Option<Bucket> {
        let table = &self.limits.shared.table;
        let key = match (scope, owner) {
            (Scope::Client, _) => table.key((group, "client", self.client)),
            (Scope::Principal, Some(owner)) => table.key((group, "principal", owner)),
            (Scope::Principal, None) => return None,
        };
        Some(Bucket { group, scope, key, share: self.limits.share(group) })
    }

    fn take(&self, group: Group, scopes: &[Scope]) -> Result<(), Refused> {
        let now_ns = self.limits.now_ns();
        let mut taken = self.taken();
        if let Some(refused) = &taken.refused {
            return Err(refused.clone());
        }
        let mut without_room = Vec::new();
        for scope in scopes {
            let Some(bucket) = self.bucket(group, *scope, taken.owner.as_deref()) else { continue };
            if taken.buckets.iter().any(|earlier| earlier.key == bucket.key) {
                continue;
            }
            let outcome = bucket.with(&self.limits, now_ns, |full_at| {
                *full_at = bucket.share.take(*full_at, now_ns)?;
                Ok(())
            });
            self.limits.shared.report.count(group, *scope, outcome.is_ok());
            match outcome {
                Ok(()) => taken.buckets.push(bucket),
                Err(wait) => without_room.push((bucket, wait)),
            }
        }
        self.refuse(&mut taken, &without_room, now_ns)
    }

    fn require(&self, group: Group) -> Result<(), Refused> {
        let now_ns = self.limits.now_ns();
        let Some(bucket) = self.bucket(group, Scope::Client, None) else { return Ok(()) };
        match bucket.share.take(bucket.full_at_ns(&self.limits), now_ns) {
            Ok(_) => Ok(()),
            Err(wait) => {
                self.limits.shared.report.count(group, Scope::Client, false);
                self.refuse(&mut self.taken(), &[(bucket, wait)], now_ns)
            }
        }
    }

    /// Gives back what was taken when there are buckets without room.
    fn refuse(
        &self,
        taken: &mut Taken,
        without_room: &[(Bucket, Duration)],
        now_ns: u64,
    ) -> Result<(), Refused> {
        let Some((first, _)) = without_room.first() else { return Ok(()) };
        for earlier in &taken.buckets {
            earlier.with(&self.limits, now_ns, |full_at| *full_at = earlier.share.give_back(*full_at));
        }
        let refused = Refused {
            policies: without_room.iter().map(|(bucket, _)| (bucket.group, bucket.scope)).collect(),
            wait: without_room.iter().map(|(_, wait)| *wait).max().unwrap_or_default(),
        };
        taken.buckets.extend(without_room.iter().map(|(bucket, _)| *bucket));
        taken.refused = Some(refused.clone());
        let request_id = request::id();
        let (group, scope, owner) = (first.group, first.scope, taken.owner.clone());
        self.limits.shared.report.denied(Denial { request_id, group, scope, owner });
        Err(refused)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Ticket {
    type Rejection = Infallible;

    /// Without the layer in front nothing is counted.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

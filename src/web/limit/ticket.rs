//! What one request has taken from which buckets. All must have room: when one has not, what was taken from the others goes back,
//! so a refused request costs nothing.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, request::Parts},
};
use parking_lot::Mutex;

use super::{
    Limits,
    fields::{self, Line, Scope},
    gcra::Share,
    group::Group,
    lookup::Turn,
    report::Denial,
    table::Key,
};
use crate::{error::Problem, request};

/// Of one request; handlers find it among the request's extensions and may [`Ticket::charge`] it further.
#[derive(Debug, Clone, Default)]
pub struct Ticket {
    inner: Option<Arc<Inner>>,
}

#[derive(Debug)]
struct Inner {
    limits: Limits,
    client: IpAddr,
    /// The group of the request; `None` when it does not count.
    group: Option<Group>,
    /// A panic in between leaves a list that is complete enough to count by.
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    owner: Option<String>,
    session: Option<String>,
    buckets: Vec<Bucket>,
    refused: Option<Refused>,
}

/// Why a request does not go on: from the moment it was refused, whatever else it asks for is refused alike.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    /// The policy without room.
    pub(super) policy: (Group, Scope),
    /// Time after which it has room.
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
    pub(super) fn new(limits: Limits, client: IpAddr, group: Option<Group>) -> Self {
        let inner = Inner { limits, client, group, taken: Mutex::default() };
        Self { inner: Some(Arc::new(inner)) }
    }

    /// Counts the request in `group`, too, for its principal, or for its client while nobody is known; for work whose kind only
    /// its body tells.
    ///
    /// # Errors
    /// 429 when there is no room; then nothing is counted.
    pub fn charge(&self, group: Group) -> Result<(), Problem> {
        let is_known = self.inner.as_ref().is_some_and(|inner| inner.taken.lock().owner.is_some());
        self.take(group, if is_known { Scope::Principal } else { Scope::Client })
    }

    /// Names the principal, for whom the request counts from now on.
    ///
    /// # Errors
    /// 429 when there is no room; then nothing is counted.
    pub fn admit(&self, owner: &str) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.taken.lock().owner = Some(owner.to_owned());
        inner.group.map_or(Ok(()), |group| self.take(group, Scope::Principal))
    }

    /// Names the session whose token the request carries, for which it counts from now on.
    ///
    /// # Errors
    /// 429 when there is no room; then nothing is counted.
    pub fn admit_session(&self, session: &str) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.taken.lock().session = Some(session.to_owned());
        inner.group.map_or(Ok(()), |group| self.take(group, Scope::Session))
    }

    /// Counts the request for its client.
    ///
    /// # Errors
    /// 429 when there is no room; then nothing is counted.
    pub(super) fn admit_client(&self) -> Result<(), Problem> {
        let group = self.inner.as_ref().and_then(|inner| inner.group);
        group.map_or(Ok(()), |group| self.take(group, Scope::Client))
    }

    /// Waits until a credential of this client may be looked up.
    ///
    /// # Errors
    /// 503 when too many of them are waiting.
    pub async fn look_up(&self) -> Result<Turn, Problem> {
        match &self.inner {
            Some(inner) => inner.limits.shared.lookups.turn(inner.client).await,
            None => Ok(Turn::free()),
        }
    }

    /// Counts a request that was to prove something, once it is answered with `status`: for its client, unless it was counted for
    /// whoever it proved to be. What was refused counts as a guess, too.
    ///
    /// # Errors
    /// 429 in the place of that answer.
    pub(super) fn settle(&self, status: StatusCode) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        let is_settled = {
            let taken = inner.taken.lock();
            taken.owner.is_some() || taken.session.is_some() || taken.refused.is_some()
        };
        if status == StatusCode::UNAUTHORIZED {
            self.take(Group::Credential, Scope::Client)?;
        }
        if is_settled || status.is_success() { Ok(()) } else { self.admit_client() }
    }

    fn take(&self, group: Group, scope: Scope) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.take(group, scope).map_err(|refused| fields::problem(&refused))
    }

    /// Tells on the answer how the caller stands.
    pub fn tell(&self, status: StatusCode, headers: &mut HeaderMap) {
        let Some(inner) = &self.inner else { return };
        let now_ns = inner.limits.now_ns();
        let taken = inner.taken.lock();
        let lines = taken.buckets.iter().map(|bucket| {
            let standing = bucket.share.standing(bucket.full_at_ns(&inner.limits), now_ns);
            Line { group: bucket.group, scope: bucket.scope, share: bucket.share, standing }
        });
        fields::set(headers, status, lines.collect());
    }
}

impl Inner {
    /// `None` for a principal or session that is not known.
    fn bucket(&self, group: Group, scope: Scope, taken: &Taken) -> Option<Bucket> {
        let table = &self.limits.shared.table;
        let key = match scope {
            Scope::Client => table.key((group, scope, self.client)),
            Scope::Principal => table.key((group, scope, taken.owner.as_ref()?)),
            Scope::Session => table.key((group, scope, taken.session.as_ref()?)),
        };
        Some(Bucket { group, scope, key, share: self.limits.share(group) })
    }

    fn take(&self, group: Group, scope: Scope) -> Result<(), Refused> {
        let now_ns = self.limits.now_ns();
        let mut taken = self.taken.lock();
        if let Some(refused) = &taken.refused {
            return Err(refused.clone());
        }
        let Some(bucket) = self.bucket(group, scope, &taken) else { return Ok(()) };
        if taken.buckets.iter().any(|earlier| earlier.key == bucket.key) {
            return Ok(());
        }
        let outcome = bucket.with(&self.limits, now_ns, |full_at| {
            *full_at = bucket.share.take(*full_at, now_ns)?;
            Ok(())
        });
        self.limits.shared.report.count(group, scope, outcome.is_ok());
        match outcome {
            Ok(()) => {
                taken.buckets.push(bucket);
                Ok(())
            }
            Err(wait) => Err(self.refuse(&mut taken, bucket, wait, now_ns)),
        }
    }

    /// Gives back what was taken before.
    fn refuse(&self, taken: &mut Taken, without_room: Bucket, wait: Duration, now_ns: u64) -> Refused {
        for earlier in &taken.buckets {
            earlier.with(&self.limits, now_ns, |full_at| *full_at = earlier.share.give_back(*full_at));
        }
        let Bucket { group, scope, .. } = without_room;
        let refused = Refused { policy: (group, scope), wait };
        taken.buckets.push(without_room);
        taken.refused = Some(refused.clone());
        let (request_id, owner) = (request::id(), taken.owner.clone());
        self.limits.shared.report.denied(Denial { request_id, group, scope, owner });
        refused
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Ticket {
    type Rejection = Infallible;

    /// Without the layer in front nothing is counted.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

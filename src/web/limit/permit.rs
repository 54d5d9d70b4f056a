//! What one request has taken from which buckets. All must have room: when one has not, what was taken from the others goes back,
//! so a refused request costs nothing.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use axum::{
    extract::FromRequestParts,
    http::{HeaderMap, StatusCode, request::Parts},
};
use parking_lot::Mutex;

use super::{
    RateLimiter,
    fields::{self, RateLimitPolicyStatus, RateLimitRefusal, RateLimitScope},
    gcra::ReplicaBucketRate,
    group::RateLimitGroup,
    lookup::LookupPermit,
    report::RateLimitDenial,
    table::BucketKey,
};
use crate::{access_sums::RefusingLimit, error::Problem, request};

/// Of one request; handlers find it among the request's extensions and may [`RateLimitPermit::charge_group`] it further.
#[derive(Debug, Clone, Default)]
pub struct RateLimitPermit {
    inner: Option<Arc<RateLimitPermitState>>,
}

#[derive(Debug)]
struct RateLimitPermitState {
    limits: RateLimiter,
    client: IpAddr,
    /// The group of the request; `None` when it does not count.
    group: Option<RateLimitGroup>,
    /// A panic in between leaves a list that is complete enough to count by.
    taken: Mutex<TakenUnits>,
}

#[derive(Debug, Default)]
struct TakenUnits {
    owner: Option<String>,
    session: Option<String>,
    buckets: Vec<ChargedBucket>,
    refused: Option<RateLimitRefusal>,
}

impl TakenUnits {
    /// For whom a request counts whose kind only its body says.
    const fn known_scope(&self) -> RateLimitScope {
        if self.owner.is_some() { RateLimitScope::Principal } else { RateLimitScope::Client }
    }
}

#[derive(Debug, Clone, Copy)]
struct ChargedBucket {
    group: RateLimitGroup,
    scope: RateLimitScope,
    key: BucketKey,
    share: ReplicaBucketRate,
}

impl ChargedBucket {
    /// Lets `change` see and set when it is full again.
    fn full_at<T>(&self, limits: &RateLimiter, now_ns: u64, change: impl FnOnce(&mut u64) -> T) -> T {
        let table = &limits.shared.table;
        let overflow = || table.hash_key((self.group, self.scope, "overflow"));
        table.with_bucket(self.key, overflow, now_ns, change)
    }

    /// The same without making a place for it.
    fn full_at_ns(&self, limits: &RateLimiter) -> u64 {
        let table = &limits.shared.table;
        table.peek_full_at(self.key, || table.hash_key((self.group, self.scope, "overflow")))
    }
}

impl RateLimitPermit {
    pub(super) fn new(limits: RateLimiter, client: IpAddr, group: Option<RateLimitGroup>) -> Self {
        let inner = RateLimitPermitState { limits, client, group, taken: Mutex::default() };
        Self { inner: Some(Arc::new(inner)) }
    }

    /// Counts the request in `group`, too, for its principal, or for its client while nobody is known; for work whose kind only
    /// its body says.
    ///
    /// # Errors
    /// 429 when there is no room; then nothing is counted.
    pub fn charge_group(&self, group: RateLimitGroup) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        let scope = inner.taken.lock().known_scope();
        self.take_unit(group, scope)
    }

    /// Counts one of several things that the request asks for in `group`, for its principal, or for its client while nobody is known.
    /// Unlike [`RateLimitPermit::charge_group`], each call counts, and one that finds no room leaves the request and what was counted
    /// before as they are.
    ///
    /// # Errors
    /// 429 when there is no room for this one.
    pub fn charge_item(&self, group: RateLimitGroup) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.take_item(group).map_err(|refused| fields::rate_limited(&refused))
    }

    /// Names the principal, for whom the request counts from now on.
    ///
    /// # Errors
    /// 429 when there is no room; then nothing is counted.
    pub fn admit_principal(&self, owner: &str) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.taken.lock().owner = Some(owner.to_owned());
        inner.group.map_or(Ok(()), |group| self.take_unit(group, RateLimitScope::Principal))
    }

    /// Names the session whose token the request carries, for which it counts from now on.
    ///
    /// # Errors
    /// 429 when there is no room; then nothing is counted.
    pub fn admit_session(&self, session: &str) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.taken.lock().session = Some(session.to_owned());
        inner.group.map_or(Ok(()), |group| self.take_unit(group, RateLimitScope::Session))
    }

    /// Counts the request for its client.
    ///
    /// # Errors
    /// 429 when there is no room; then nothing is counted.
    pub(super) fn admit_client(&self) -> Result<(), Problem> {
        let group = self.inner.as_ref().and_then(|inner| inner.group);
        group.map_or(Ok(()), |group| self.take_unit(group, RateLimitScope::Client))
    }

    /// Waits until a credential of this client may be looked up.
    ///
    /// # Errors
    /// 503 when too many of them are waiting.
    pub async fn wait_for_lookup(&self) -> Result<LookupPermit, Problem> {
        match &self.inner {
            Some(inner) => inner.limits.shared.lookups.acquire_permit(inner.client).await,
            None => Ok(LookupPermit::unlimited()),
        }
    }

    /// Counts a request that was to prove something, once it is answered with `status`: for its client, unless it was counted for
    /// the principal or session that it proved. What was refused counts as a guess, too.
    ///
    /// # Errors
    /// 429 in the place of that answer.
    pub fn settle_response(&self, status: StatusCode) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        let is_settled = {
            let taken = inner.taken.lock();
            taken.owner.is_some() || taken.session.is_some() || taken.refused.is_some()
        };
        // A credential that was refused counts for the client: guesses must not be free.
        if status == StatusCode::UNAUTHORIZED {
            self.take_unit(RateLimitGroup::Credential, RateLimitScope::Client)?;
        }
        if is_settled || status.is_success() { Ok(()) } else { self.admit_client() }
    }

    fn take_unit(&self, group: RateLimitGroup, scope: RateLimitScope) -> Result<(), Problem> {
        let Some(inner) = &self.inner else { return Ok(()) };
        inner.take_unit(group, scope).map_err(|refused| fields::rate_limited(&refused))
    }

    /// The limit that refused the request, if one did.
    pub(super) fn refusing_limit(&self) -> Option<RefusingLimit> {
        let (group, scope) = self.inner.as_ref()?.taken.lock().refused.as_ref()?.policy;
        Some(RefusingLimit { group: group.name(), scope: scope.name() })
    }

    /// Writes the limits of the caller into the headers of its answer.
    pub fn set_headers(&self, status: StatusCode, headers: &mut HeaderMap) {
        let Some(inner) = &self.inner else { return };
        let now_ns = inner.limits.now_ns();
        let taken = inner.taken.lock();
        let lines = taken.buckets.iter().map(|bucket| {
            let standing = bucket.share.status_at(bucket.full_at_ns(&inner.limits), now_ns);
            RateLimitPolicyStatus { group: bucket.group, scope: bucket.scope, share: bucket.share, standing }
        });
        fields::set_fields(headers, status, lines.collect());
    }
}

impl RateLimitPermitState {
    /// `None` for a principal or session that is not known.
    fn bucket_for(
        &self,
        group: RateLimitGroup,
        scope: RateLimitScope,
        taken: &TakenUnits,
    ) -> Option<ChargedBucket> {
        let table = &self.limits.shared.table;
        let key = match scope {
            RateLimitScope::Client => table.hash_key((group, scope, self.client)),
            RateLimitScope::Principal => table.hash_key((group, scope, taken.owner.as_ref()?)),
            RateLimitScope::Session => table.hash_key((group, scope, taken.session.as_ref()?)),
        };
        Some(ChargedBucket { group, scope, key, share: self.limits.group_share(group) })
    }

    fn take_unit(&self, group: RateLimitGroup, scope: RateLimitScope) -> Result<(), RateLimitRefusal> {
        let now_ns = self.limits.now_ns();
        let mut taken = self.taken.lock();
        if let Some(refused) = &taken.refused {
            return Err(refused.clone());
        }
        let Some(bucket) = self.bucket_for(group, scope, &taken) else { return Ok(()) };
        // Each bucket once a request, however many layers and handlers ask.
        if taken.buckets.iter().any(|earlier| earlier.key == bucket.key) {
            return Ok(());
        }
        match self.take_from(&bucket, now_ns) {
            Ok(()) => {
                taken.buckets.push(bucket);
                Ok(())
            }
            Err(wait) => Err(self.refuse_and_refund(&mut taken, bucket, wait, now_ns)),
        }
    }

    /// Takes a unit, or says how long there is none, and reports which of both.
    fn take_from(&self, bucket: &ChargedBucket, now_ns: u64) -> Result<(), Duration> {
        let outcome = bucket.full_at(&self.limits, now_ns, |full_at| {
            *full_at = bucket.share.take_unit(*full_at, now_ns)?;
            Ok(())
        });
        self.limits.shared.report.count_request(bucket.group, bucket.scope, outcome.is_ok());
        outcome
    }

    fn take_item(&self, group: RateLimitGroup) -> Result<(), RateLimitRefusal> {
        let now_ns = self.limits.now_ns();
        let mut taken = self.taken.lock();
        let scope = taken.known_scope();
        let Some(bucket) = self.bucket_for(group, scope, &taken) else { return Ok(()) };
        let outcome = self.take_from(&bucket, now_ns);
        if taken.buckets.iter().all(|earlier| earlier.key != bucket.key) {
            taken.buckets.push(bucket);
        }
        outcome.map_err(|wait| RateLimitRefusal { policy: (group, scope), wait })
    }

    /// Gives back what was taken before.
    fn refuse_and_refund(
        &self,
        taken: &mut TakenUnits,
        without_room: ChargedBucket,
        wait: Duration,
        now_ns: u64,
    ) -> RateLimitRefusal {
        // A refused request costs nothing: a client that waits as it was asked to must find room then.
        for earlier in &taken.buckets {
            earlier.full_at(&self.limits, now_ns, |full_at| *full_at = earlier.share.return_unit(*full_at));
        }
        let ChargedBucket { group, scope, .. } = without_room;
        let refused = RateLimitRefusal { policy: (group, scope), wait };
        taken.buckets.push(without_room);
        taken.refused = Some(refused.clone());
        let (request_id, owner) = (request::current_or_fresh_id(), taken.owner.clone());
        self.limits.shared.report.add_denial(RateLimitDenial { request_id, group, scope, owner });
        refused
    }
}

impl<S: Send + Sync> FromRequestParts<S> for RateLimitPermit {
    type Rejection = Infallible;

    /// Without the layer in front nothing is counted.
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Self>().cloned().unwrap_or_default())
    }
}

//! Leases: who of several processes does a singleton's work. Not exclusive by itself; whatever the holder writes is fenced
//! by its own compare-and-set.
//!
//! The broker ends a lease that is not renewed, by its own clock: nobody compares times of two machines.
//!
//! Limits: a lease lasts [`Lease::TTL`] past its last renewal, and a moment until the broker has noticed; it is renewed at a
//! third of that. Giving one back takes at most [`RELEASE_MAX`].

use std::{future::Future, time::Duration};

use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::{Bus, BusError, publish};

const BUCKET: &str = "leases";
/// Longest time that giving a lease back may take; it ends by itself.
const RELEASE_MAX: Duration = Duration::from_secs(1);

#[derive(Debug, Serialize, Deserialize)]
struct LeaseHolder {
    holder: String,
    /// By the holder's clock, for people; 0 means given back.
    expires_at_ms: u64,
}

/// A held lease.
#[derive(Debug)]
pub struct Lease {
    name: String,
    holder: String,
    revision: u64,
}

impl Lease {
    /// How long a lease lasts past its last renewal.
    pub const TTL: Duration = Duration::from_secs(3);

    /// The revision of the last renewal.
    pub const fn revision(&self) -> u64 {
        self.revision
    }
}

impl Bus {
    /// Takes the lease if nobody holds it.
    ///
    /// # Errors
    /// [`BusError::Unavailable`] when the broker does not answer.
    pub async fn acquire_lease(&self, name: &str, holder: &str) -> Result<Option<Lease>, BusError> {
        let found = self.read_value(BUCKET, name).await?;
        // Also of a marker: the broker compares with the newest entry, whether it has a value or not.
        let revision = found.as_ref().map_or(0, |raw| raw.revision);
        if let Some(value) = found.and_then(|raw| raw.value) {
            let other: LeaseHolder = publish::decode_message(name, &value)?;
            if other.holder != holder && other.expires_at_ms != 0 {
                return Ok(None);
            }
        }
        let mut lease = Lease { name: name.to_owned(), holder: holder.to_owned(), revision };
        match self.renew_lease(&mut lease).await {
            Ok(()) => Ok(Some(lease)),
            Err(BusError::Conflict { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Extends a held lease.
    ///
    /// # Errors
    /// [`BusError::Conflict`] when somebody else has it now.
    pub async fn renew_lease(&self, lease: &mut Lease) -> Result<(), BusError> {
        let expires_at_ms = crate::now_ms() + u64::try_from(Lease::TTL.as_millis()).unwrap_or(0);
        let value = LeaseHolder { holder: lease.holder.clone(), expires_at_ms };
        let payload = publish::encode_message(&lease.name, &value)?.into();
        lease.revision =
            self.put_value(BUCKET, &lease.name, lease.revision, payload, Some(Lease::TTL)).await?;
        Ok(())
    }

    /// Gives a lease back, so that the next holder need not wait.
    ///
    /// # Errors
    /// [`BusError::Conflict`] when somebody else has it now.
    pub async fn release_lease(&self, lease: Lease) -> Result<(), BusError> {
        let value = LeaseHolder { holder: lease.holder, expires_at_ms: 0 };
        let payload = publish::encode_message(&lease.name, &value)?.into();
        self.put_value(BUCKET, &lease.name, lease.revision, payload, Some(Lease::TTL)).await?;
        Ok(())
    }

    /// Runs `work` whenever this process holds the lease, until `shutdown`. The token given to `work` fires when the lease
    /// is lost or `shutdown` fires; `work` then has to return. A panic of `work` is one end of it, and it is started again.
    pub async fn run_with_lease<F, Fut>(&self, name: &'static str, shutdown: CancellationToken, work: F)
    where
        F: FnMut(CancellationToken) -> Fut + Send,
        Fut: Future<Output = ()> + Send,
    {
        let holder = data_encoding::HEXLOWER.encode(&crate::new_id_bytes());
        // Each run takes it; there is one at a time.
        let work = tokio::sync::Mutex::new(work);
        let holding = || async {
            let mut work = work.lock().await;
            self.run_lease_terms(name, &holder, &shutdown, &mut *work).await;
            Ok::<(), BusError>(())
        };
        if let Err(error) =
            self.supervisor(&shutdown).keep_running(name, BusError::task_ending, holding).await
        {
            tracing::error!(%error, lease = name, "the lease is not asked for any more");
        }
    }

    /// One term after the other.
    async fn run_lease_terms<F, Fut>(
        &self,
        name: &str,
        holder: &str,
        shutdown: &CancellationToken,
        work: &mut F,
    ) where
        F: FnMut(CancellationToken) -> Fut + Send,
        Fut: Future<Output = ()> + Send,
    {
        while !shutdown.is_cancelled() {
            let asked = tokio::select! {
                () = shutdown.cancelled() => return,
                asked = self.acquire_lease(name, holder) => asked,
            };
            match asked {
                Ok(Some(lease)) => self.run_lease_term(lease, shutdown, work).await,
                Ok(None) => {}
                Err(error) => tracing::warn!(%error, lease = name, "the lease can't be asked for"),
            }
            tokio::select! {
                () = shutdown.cancelled() => {}
                () = tokio::time::sleep(Lease::TTL / 3) => {}
            }
        }
    }

    async fn run_lease_term<F, Fut>(&self, mut lease: Lease, shutdown: &CancellationToken, work: &mut F)
    where
        F: FnMut(CancellationToken) -> Fut + Send,
        Fut: Future<Output = ()> + Send,
    {
        let name = lease.name.clone();
        tracing::debug!(lease = name, "lease taken");
        let held = shutdown.child_token();
        let renewing = async {
            loop {
                tokio::time::sleep(Lease::TTL / 3).await;
                // A holder whose renewal was not answered for so long has it no more.
                match tokio::time::timeout(Lease::TTL / 3 * 2, self.renew_lease(&mut lease)).await {
                    Ok(Ok(())) => {}
                    Ok(Err(error)) => {
                        tracing::warn!(%error, lease = lease.name, "lease lost");
                        return;
                    }
                    Err(_) => {
                        tracing::warn!(lease = lease.name, "lease lost: the broker does not answer");
                        return;
                    }
                }
            }
        };
        let working = work(held.clone());
        tokio::pin!(working);
        let kept = tokio::select! {
            () = &mut working => true,
            () = renewing => false,
        };
        if !kept {
            // Waited for, not dropped: the work may be in the middle of a write, and must not overlap our own next
            // term.
            held.cancel();
            working.await;
            return;
        }
        match tokio::time::timeout(RELEASE_MAX, self.release_lease(lease)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, lease = name, "the lease runs out by itself"),
            Err(_) => {
                tracing::debug!(lease = name, "the lease runs out by itself: the broker does not answer");
            }
        }
    }
}

//! How many credentials of one client are looked up at a time.
//!
//! A look-up asks the broker, and nobody knows before it whether the credential is good. So they wait for each other in the order
//! in which they came: a flood of guesses delays who is behind the same address by milliseconds, and takes nothing from others.
//!
//! Limits: [`LOOKUPS_PER_CLIENT_MAX`] at a time, [`WAIT_MAX`] for one's turn; [`LANES`] lanes, so that clients may share one.

use std::{
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    sync::Arc,
    time::Duration,
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::error::Problem;

/// Look-ups of one client at a time.
pub const LOOKUPS_PER_CLIENT_MAX: usize = 8;
/// Longest wait for one's turn.
pub(super) const WAIT_MAX: Duration = Duration::from_secs(5);
/// Lanes over which clients are spread, by a seed of this process.
const LANES: usize = 1_024;

/// The lanes.
#[derive(Debug)]
pub(super) struct CredentialLookups {
    seed: RandomState,
    lanes: Vec<Arc<Semaphore>>,
}

/// The right to look a credential up, until it is dropped.
#[derive(Debug)]
pub struct LookupPermit(#[expect(dead_code, reason = "held, not read")] Option<OwnedSemaphorePermit>);

impl LookupPermit {
    /// Where nothing is limited.
    pub(super) const fn unlimited() -> Self {
        Self(None)
    }
}

impl CredentialLookups {
    pub(super) fn new() -> Self {
        let lane = || Arc::new(Semaphore::new(LOOKUPS_PER_CLIENT_MAX));
        Self { seed: RandomState::new(), lanes: (0..LANES).map(|_| lane()).collect() }
    }

    /// Waits for the client's turn.
    pub(super) async fn acquire_permit(&self, client: IpAddr) -> Result<LookupPermit, Problem> {
        let index = usize::try_from(self.seed.hash_one(client) % (LANES as u64)).unwrap_or(0);
        let Some(lane) = self.lanes.get(index) else { return Ok(LookupPermit::unlimited()) };
        match tokio::time::timeout(WAIT_MAX, Arc::clone(lane).acquire_owned()).await {
            Ok(Ok(permit)) => Ok(LookupPermit(Some(permit))),
            _ => Err(Problem::busy("too many credentials of this address are being looked up")),
        }
    }
}

//! The claims that this process holds, by queue subject: for the fence check before each progress ping, and for what the worker says
//! that it holds.

use std::{collections::HashMap, sync::Arc};

use parking_lot::Mutex;
use schemas::ids::JobId;

use crate::{PartClaim, WorkerStatus};

/// The claims of a process.
#[derive(Debug, Default)]
pub struct ActiveClaims {
    claims: Mutex<HashMap<String, Arc<PartClaim>>>,
}

/// Takes a claim off the list when its handling ends, however it ends.
#[derive(Debug)]
pub struct ActiveClaimGuard<'a> {
    claims: &'a ActiveClaims,
    status: &'a WorkerStatus,
    subject: &'a str,
}

impl Drop for ActiveClaimGuard<'_> {
    fn drop(&mut self) {
        self.claims.claims.lock().remove(self.subject);
        self.status.release_part(self.subject);
    }
}

impl ActiveClaims {
    /// Lists the claim of a part for as long as the answer lives. A finish in the place of a part takes the part's place, too.
    pub fn register<'a>(
        &'a self,
        status: &'a WorkerStatus,
        (subject, claim): (&'a str, &Arc<PartClaim>),
        (job_id, part): (JobId, &str),
    ) -> ActiveClaimGuard<'a> {
        self.claims.lock().insert(subject.to_owned(), Arc::clone(claim));
        status.hold_part(subject, job_id, part);
        ActiveClaimGuard { claims: self, status, subject }
    }

    /// Shows that the holder of the part in a message lives; false when the part is lost. Where that can't be found out, it is held on.
    pub async fn renew(&self, subject: &str) -> bool {
        let claim = self.claims.lock().get(subject).cloned();
        let Some(claim) = claim else { return true };
        match claim.renew(|_| {}).await {
            Ok(is_ours) => is_ours,
            Err(error) => {
                tracing::warn!(error = error.describe(), subject, "the fence could not be checked");
                true
            }
        }
    }
}

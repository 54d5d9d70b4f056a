//! Who may have which priority: one rule for all that begins or changes jobs.

use auth::Principal;
use schemas::subjects::JobPriority;
use web::error::Problem;

/// Refuses a priority that `who` may not give to a job.
pub(crate) fn require_priority(who: &Principal, priority: JobPriority) -> Result<(), Problem> {
    if priority == JobPriority::P0 {
        who.require_operator("p0 goes before the jobs of everybody")?;
    }
    Ok(())
}

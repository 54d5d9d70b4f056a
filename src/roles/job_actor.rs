//! What actions on jobs do with each, for the tasks stage: the rules are those of the HTTP surface.

use futures::{FutureExt as _, future::BoxFuture};
use ingress::jobs::act_on_job::{ActionOutage, JobActionContext};
use schemas::{
    ids::JobId,
    job::JobRecord,
    job_action::{JobActionOrder, JobActionOutcome},
};
use tasks::{JobActor, TaskError};

/// Acts by the rules of the HTTP surface.
#[derive(Debug)]
pub(super) struct IngressJobActor(pub(super) JobActionContext);

impl JobActor for IngressJobActor {
    fn act<'a>(
        &'a self,
        job_id: JobId,
        order: &'a JobActionOrder,
        by: &'a JobRecord,
    ) -> BoxFuture<'a, Result<Option<JobActionOutcome>, TaskError>> {
        async move {
            self.0.act_on_job(job_id, order, by).await.map_err(|away| match away {
                ActionOutage::Bus(error) => error.into(),
                ActionOutage::Store(error) => error.into(),
            })
        }
        .boxed()
    }
}

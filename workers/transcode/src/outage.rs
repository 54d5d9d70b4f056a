//! Saying what a job waits for, in the record of its medium, and that it goes on.

use nats::{Bus, Outbox, StageFault};
use schemas::{
    ids::{JobId, MediaId},
    job, media,
};

use crate::{KIND, PLAN_DURABLE};

/// Says that a job waits, and for what. Not being able to say so is no harm.
pub(crate) async fn report_job_delay(bus: &Bus, job_id: JobId, fault: &StageFault) {
    let said = async {
        let Some(held) = bus.load_record::<job::JobRecord>(&job_id.to_string()).await? else { return Ok(()) };
        record_delay(bus, held.record.media_id, Some(job_id), fault.code).await
    };
    log_unreported_delay(said.await);
}

/// Says that planning waits, and for what.
pub(crate) async fn report_planning_delay(bus: &Bus, media_id: MediaId, fault: &StageFault) {
    log_unreported_delay(record_delay(bus, media_id, None, fault.code).await);
}

async fn record_delay(
    bus: &Bus,
    media_id: MediaId,
    job_id: Option<JobId>,
    code: &str,
) -> Result<(), nats::BusError> {
    let stage = if job_id.is_some() { KIND } else { PLAN_DURABLE };
    bus.change_record::<media::MediaRecord>(&media_id.to_string(), |found| {
        let (record, event) = found?.with_delay(stage, job_id, code, nats::now_ms())?;
        Some((record, Outbox::new().with_event(&event)))
    })
    .await?;
    Ok(())
}

fn log_unreported_delay(said: Result<(), nats::BusError>) {
    if let Err(error) = said {
        tracing::debug!(%error, "what the work waits for could not be written");
    }
}

/// Says that the work on a medium goes on, if it was said to wait.
pub(crate) async fn clear_delay(bus: &Bus, media_id: MediaId) {
    let changed = bus
        .change_record::<media::MediaRecord>(&media_id.to_string(), |found| {
            Some((found?.with_work_resumed(nats::now_ms())?, Outbox::new()))
        })
        .await;
    log_unreported_delay(changed.map(|_| ()));
}

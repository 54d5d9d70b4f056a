//! Saying what a job waits for, in the record of its medium, and that it goes on.

use nats::{Bus, Fault, Outbox};
use schemas::{
    ids::{JobId, MediaId},
    job, media,
};

use crate::{KIND, PLAN_DURABLE};

/// Says that a job waits, and for what. Not being able to say so is no harm.
pub(crate) async fn say(bus: &Bus, job_id: JobId, fault: &Fault) {
    let said = async {
        let Some(held) = bus.load::<job::Record>(&job_id.to_string()).await? else { return Ok(()) };
        write(bus, held.record.media_id, Some(job_id), fault.code).await
    };
    not_said(said.await);
}

/// Says that planning waits, and for what.
pub(crate) async fn say_planning(bus: &Bus, media_id: MediaId, fault: &Fault) {
    not_said(write(bus, media_id, None, fault.code).await);
}

async fn write(bus: &Bus, media_id: MediaId, job_id: Option<JobId>, code: &str) -> Result<(), nats::Error> {
    let stage = if job_id.is_some() { KIND } else { PLAN_DURABLE };
    bus.change::<media::Record>(&media_id.to_string(), |found| {
        let (record, event) = found?.delayed(stage, job_id, code, nats::now_ms())?;
        Some((record, Outbox::new().event(&event)))
    })
    .await?;
    Ok(())
}

fn not_said(said: Result<(), nats::Error>) {
    if let Err(error) = said {
        tracing::debug!(%error, "what the work waits for could not be written");
    }
}

/// Says that the work on a medium goes on, if it was said to wait.
pub(crate) async fn over(bus: &Bus, media_id: MediaId) {
    let changed = bus
        .change::<media::Record>(&media_id.to_string(), |found| {
            Some((found?.resumed(nats::now_ms())?, Outbox::new()))
        })
        .await;
    not_said(changed.map(|_| ()));
}

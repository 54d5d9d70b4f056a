//! What admins ask this worker to do: pause, resume, drain. It answers where it stands then.
//!
//! Limits: one command at a time; one that can't be read, or has more than [`COMMAND_BYTES_MAX`] bytes, is not answered.

use std::convert::Infallible;

use futures::StreamExt;
use nats::{Bus, BusError};
use schemas::{
    fault::error_chain,
    subjects,
    worker::{WorkerCommand, WorkerCommandReply},
};

use crate::WorkerStatus;

/// Largest command in bytes.
const COMMAND_BYTES_MAX: usize = 1_024;

/// Answers commands for as long as it is polled. Without a subscription the work goes on, and nobody can steer it.
pub async fn answer_commands(bus: &Bus, status: &WorkerStatus) -> Infallible {
    let subject = subjects::worker_command_subject(status.worker());
    match bus.subscribe_core(subject).await {
        Ok(mut commands) => {
            while let Some(command) = commands.next().await {
                if let Err(error) = answer_command(bus, status, &command).await {
                    tracing::warn!(error = error_chain(&error), "a command was not answered");
                }
            }
        }
        Err(error) => tracing::warn!(error = error_chain(&error), "this worker can't be paused or drained"),
    }
    std::future::pending().await
}

async fn answer_command(
    bus: &Bus,
    status: &WorkerStatus,
    message: &async_nats::Message,
) -> Result<(), BusError> {
    let Some(reply) = message.reply.clone() else { return Ok(()) };
    if message.payload.len() > COMMAND_BYTES_MAX {
        return Err(BusError::TooLarge {
            what: message.subject.to_string(),
            size_bytes: message.payload.len(),
            size_bytes_max: COMMAND_BYTES_MAX,
        });
    }
    let command: WorkerCommand = nats::decode_message(&message.subject, &message.payload)?;
    let state = status.apply_action(command.action);
    tracing::info!(action = ?command.action, ?state, "asked by an admin");
    let answer = nats::encode_message(&message.subject, &WorkerCommandReply { state })?;
    bus.client().publish(reply, answer.into()).await.map_err(BusError::unavailable)
}

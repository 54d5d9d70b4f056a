//! Answers questions about jobs that wait, and looks anew at jobs that others changed, while parts are let in by this process.

use futures::StreamExt;
use nats::BusError;
use schemas::{
    dispatch_query::{self, DispatchPositionQuery},
    fault::error_chain,
    subjects,
};
use tokio_util::sync::CancellationToken;

use crate::dispatcher::Dispatcher;

/// Answers until `held` fires.
pub(crate) async fn answer_questions(dispatcher: &Dispatcher, held: &CancellationToken) {
    while !held.is_cancelled() {
        let Err(error) = answer_until_stopped(dispatcher, held).await else { return };
        tracing::warn!(error = error_chain(&error), "questions about waiting jobs can't be answered for now");
        tokio::select! {
            () = held.cancelled() => {}
            () = tokio::time::sleep(crate::QUIET_PERIOD) => {}
        }
    }
}

async fn answer_until_stopped(dispatcher: &Dispatcher, held: &CancellationToken) -> Result<(), BusError> {
    let bus = dispatcher.bus();
    let positions = subjects::dispatch_request_subject(dispatch_query::position_verb(dispatcher.queue()));
    let mut questions = bus.subscribe_core(positions).await?;
    let mut looks = bus.subscribe_core(subjects::CONTROL_DISPATCH.to_owned()).await?;
    loop {
        tokio::select! {
            () = held.cancelled() => return Ok(()),
            Some(question) = questions.next() => answer_question(dispatcher, &question).await?,
            Some(look) = looks.next() => {
                if let Some(job_id) = subjects::parse_dispatch_look(&look.subject) {
                    dispatcher.look_anew(job_id);
                }
            }
            else => return Err(BusError::unavailable("the subscriptions ended")),
        }
    }
}

async fn answer_question(dispatcher: &Dispatcher, question: &async_nats::Message) -> Result<(), BusError> {
    let Some(reply) = question.reply.clone() else { return Ok(()) };
    if question.payload.len() > dispatch_query::QUESTION_BYTES_MAX {
        return Ok(());
    }
    let Ok(wanted) = nats::decode_message::<DispatchPositionQuery>(&question.subject, &question.payload)
    else {
        tracing::debug!("a question that can't be read");
        return Ok(());
    };
    let answer = nats::encode_message(&question.subject, &dispatcher.position(wanted.job_id))?;
    dispatcher.bus().publish_core(reply.to_string(), answer).await
}

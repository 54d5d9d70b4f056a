//! Answers what operators ask of the monitor: `ask.monitor.<verb>`.
//!
//! Limits: a question of [`monitor_query::QUESTION_BYTES_MAX`] bytes; one is answered at a time.

use std::time::{Duration, Instant};

use futures::StreamExt;
use nats::{Bus, BusError};
use schemas::{
    fault::error_chain,
    monitor_query::{self, LogQuery, MetricQuery},
    subjects,
};
use tokio_util::sync::CancellationToken;

use crate::{MetricsDocument, metric_page, process_log::ProcessLog};

/// Those who answer share their questions.
const QUEUE_GROUP: &str = "monitor";

/// How soon the subscription is made again.
const FAULT_PERIOD: Duration = Duration::from_secs(1);

/// Answers until `stop` fires; `render` gives the document of all metrics.
pub(crate) async fn answer_questions(
    bus: Bus,
    log: ProcessLog,
    render: MetricsDocument,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        let answering = answer_until_ended(&bus, &log, &render);
        let ended = tokio::select! {
            () = stop.cancelled() => return,
            ended = answering => ended,
        };
        if let Err(error) = ended {
            tracing::warn!(error = error_chain(&error), "questions of operators can't be answered for now");
        }
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(FAULT_PERIOD) => {}
        }
    }
}

async fn answer_until_ended(bus: &Bus, log: &ProcessLog, render: &MetricsDocument) -> Result<(), BusError> {
    let mut connection = bus.watch_connection();
    connection.mark_unchanged();
    let questions = bus.client().queue_subscribe(subjects::MONITOR_REQUESTS, QUEUE_GROUP.to_owned()).await;
    let mut questions = questions.map_err(BusError::unavailable)?;
    // Who goes on behind a line asks the monitor that numbered it.
    let own_verb = monitor_query::logs_of_verb(log.monitor());
    let mut own_questions = bus.subscribe_core(subjects::monitor_request_subject(&own_verb)).await?;
    log.begin_listening(Instant::now());
    loop {
        let question = tokio::select! {
            question = questions.next() => question,
            question = own_questions.next() => question,
            // What was said until the connection was there again, it did not receive.
            changed = connection.changed() => {
                changed.map_err(BusError::unavailable)?;
                log.begin_listening(Instant::now());
                continue;
            }
        };
        let Some(question) = question else { return Ok(()) };
        let Some(reply) = question.reply.clone() else { continue };
        if question.payload.len() > monitor_query::QUESTION_BYTES_MAX {
            continue;
        }
        let verb = question.subject.rsplit('.').next().unwrap_or_default();
        let verb = if verb == own_verb { monitor_query::LOGS } else { verb };
        match encode_answer(verb, &question.payload, log, render) {
            Ok(Some(answer)) => bus.publish_core(reply.to_string(), answer).await?,
            Ok(None) => {}
            Err(error) => tracing::debug!(error = error_chain(&error), "a question that can't be read"),
        }
    }
}

/// The answer to a question; `None` where this version knows no such question.
fn encode_answer(
    verb: &str,
    question: &[u8],
    log: &ProcessLog,
    render: &MetricsDocument,
) -> Result<Option<Vec<u8>>, BusError> {
    let now = Instant::now();
    Ok(match verb {
        monitor_query::PROCESSES => Some(nats::encode_message(verb, &log.list_processes(now))?),
        monitor_query::LOGS => {
            let wanted = nats::decode_message::<LogQuery>(verb, question)?;
            Some(nats::encode_message(verb, &log.find_lines(&wanted, now))?)
        }
        monitor_query::METRICS => {
            let wanted = nats::decode_message::<MetricQuery>(verb, question)?;
            Some(nats::encode_message(verb, &metric_page::select_families(&render(), &wanted))?)
        }
        _ => None,
    })
}

//! Reading the metrics of this process and of others, and asking which conditions hold.
//!
//! Limits: a document of [`LINES_MAX`] samples; what is beyond is not looked at.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use ::alerts::{Evaluator, MetricPoint, RuleSet};
use tokio::{
    sync::watch,
    time::{Instant, MissedTickBehavior, interval},
};
use tokio_util::sync::CancellationToken;

use super::{AlertObservation, MetricsDocument};
use crate::sample;

/// Most samples that are looked at.
const LINES_MAX: usize = 200_000;

/// Evaluates every `period` until `shutdown`. Before `quiet` is over, in which each process has the time to report once, nothing is said: what is not there yet
/// would look like what is gone.
pub(super) async fn observe_metrics(
    set: Arc<RuleSet>,
    document: MetricsDocument,
    period: Duration,
    (observed, quiet): (watch::Sender<AlertObservation>, Duration),
    shutdown: CancellationToken,
) {
    let mut evaluator = Evaluator::new((*set).clone());
    let mut is_omitting = false;
    let began = Instant::now();
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = ticks.tick() => {}
        }
        let document = Arc::clone(&document);
        let stepping = tokio::task::spawn_blocking(move || {
            let points = read_points(&document());
            let at_ms = nats::estimated_broker_now_ms();
            let holding = evaluator.observe(&points, at_ms);
            let uncovered = evaluator.uncovered_rules(at_ms);
            log_omitted(evaluator.omitted_series_count(), &mut is_omitting);
            (evaluator, is_omitting, AlertObservation { holding, uncovered, at_ms })
        });
        let observation;
        (evaluator, is_omitting, observation) = match stepping.await {
            Ok(stepped) => stepped,
            Err(error) => {
                tracing::error!(%error, "alerts can't be evaluated");
                evaluator = Evaluator::new((*set).clone());
                continue;
            }
        };
        if began.elapsed() >= quiet {
            observed.send_replace(observation);
        }
    }
}

/// Says once that counters are left out, and once that they are not any more.
fn log_omitted(omitted_count: u64, is_omitting: &mut bool) {
    if std::mem::replace(is_omitting, omitted_count > 0) == *is_omitting {
        return;
    }
    if *is_omitting {
        tracing::error!(
            omitted_count,
            "there are more series of counters than alerts can follow: shares of them are not evaluated"
        );
    } else {
        tracing::info!("alerts follow all series of counters again");
    }
}

/// The samples of a document; what is none is left out.
pub(super) fn read_points(document: &str) -> Vec<MetricPoint> {
    let samples = document.lines().filter(|line| !line.starts_with('#')).take(LINES_MAX);
    samples.filter_map(read_point).collect()
}

fn read_point(line: &str) -> Option<MetricPoint> {
    let sample = sample::parse_sample(line)?;
    let value = match sample.value {
        "+Inf" | "inf" => f64::INFINITY,
        "-Inf" | "-inf" => f64::NEG_INFINITY,
        number => number.parse().ok()?,
    };
    let unescape = |text: &str| {
        if text.contains('\\') {
            text.replace("\\n", "\n").replace("\\\"", "\"").replace("\\\\", "\\")
        } else {
            text.to_owned()
        }
    };
    let labels: BTreeMap<String, String> =
        sample.labels.iter().map(|(name, value)| ((*name).to_owned(), unescape(value))).collect();
    Some(MetricPoint { name: sample.name.to_owned(), labels, value })
}

//! The one consume loop: pull, decode, handle, acknowledge.
//!
//! Each slot pulls one message at a time, only when it is free, so nothing is prefetched and a stopped worker leaves
//! nothing behind. Queues of several priorities are looked at in weighted turns: of 16 pulls 14 look at the first
//! priority first, one at the second, one at the third, so the lower ones do not starve. An idle slot waits for a core
//! message on the queue's subject, with a slow poll behind it.
//!
//! Handling a message is a span of the trace that its headers name, and so is all that is done meanwhile: one trace leads from a
//! request through all stages. A message that comes again has a span of its own in that trace, with a link to the one before where this
//! process had it.
//!
//! Limits: [`ConsumeConfig`] names slots, attempts, waits and the grace time.

use std::{
    collections::{BTreeMap, HashMap},
    panic::AssertUnwindSafe,
    sync::Arc,
    time::Duration,
};

use async_nats::{
    HeaderMap,
    client::RequestErrorKind,
    jetstream::{self, stream::ConsumerErrorKind},
};
use futures::{FutureExt, StreamExt};
use parking_lot::Mutex;
use schemars::JsonSchema;
use schemas::{
    fault::{FailureClass, error_chain},
    job::JobQueue,
    subjects::{self, JobPriority},
};
use serde::{Deserialize, Serialize};
use spans::{Span, SpanAttribute, SpanKind, TraceContext};
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::{
    Bus, BusError, backoff,
    backoff::backoff_delay,
    clock, message_span,
    metrics::table::{DEAD_LETTERS, STAGE_BUSY, STAGE_MESSAGES, STAGE_SECONDS, STAGE_WAIT_SECONDS},
    stage::{MessageDelivery, PipelineStage, StageFault, StageMessage, StageOutcome},
};

/// Limits of one consume loop.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
pub struct ConsumeConfig {
    /// Messages handled at once by this process.
    pub slots: usize,
    /// Failed tries before a message is given up, from 1. An outage is none.
    pub attempts_max: u32,
    /// First delay before another try, in milliseconds; doubles each time, with equal jitter.
    pub retry_delay_ms: u64,
    /// Longest delay before another try, in milliseconds.
    pub retry_delay_ms_max: u64,
    /// First delay of a message that an outage stopped, in milliseconds; doubles each time, with equal jitter.
    pub outage_delay_ms: u64,
    /// Longest delay of a message that an outage stopped, in milliseconds: how late work may go on after it.
    pub outage_delay_ms_max: u64,
    /// How often an idle slot looks without being woken, in milliseconds.
    pub poll_ms: u64,
    /// How long running work may go on after a stop was asked for, in milliseconds.
    pub grace_ms: u64,
}

impl Default for ConsumeConfig {
    fn default() -> Self {
        Self {
            slots: 4,
            attempts_max: 5,
            retry_delay_ms: 500,
            retry_delay_ms_max: 60_000,
            outage_delay_ms: 500,
            outage_delay_ms_max: 15_000,
            poll_ms: 1_000,
            grace_ms: 8_000,
        }
    }
}

impl ConsumeConfig {
    fn retry_delay(&self, attempt: u32) -> Duration {
        backoff_delay(
            attempt,
            Duration::from_millis(self.retry_delay_ms),
            Duration::from_millis(self.retry_delay_ms_max),
        )
    }

    fn outage_delay(&self, times: u32) -> Duration {
        backoff_delay(
            times,
            Duration::from_millis(self.outage_delay_ms),
            Duration::from_millis(self.outage_delay_ms_max),
        )
    }
}

/// A queue: durables of one stream, the one served first in front, and the subject that wakes an idle slot.
#[derive(Debug, Clone)]
pub struct StageQueue {
    /// Stream name.
    pub stream: String,
    /// Durable names by priority.
    pub durables: Vec<String>,
    /// Core subjects that announce new messages.
    pub wake: Vec<String>,
}

impl StageQueue {
    /// The work queue with the parts of the jobs of one queue.
    pub fn of_jobs(queue: JobQueue) -> Self {
        let durable = |priority: &JobPriority| format!("{}-{}", queue.name(), priority.subject_token());
        Self {
            stream: subjects::JOBS.to_owned(),
            durables: JobPriority::ALL.iter().map(durable).collect(),
            wake: vec![subjects::job_filter(queue.name())],
        }
    }
}

/// Messages whose tries are remembered at once; beyond them counting begins anew.
const TRIES_KEPT_MAX: usize = 10_000;

/// How often this process failed at a message.
#[derive(Debug, Default, Clone, Copy)]
struct FailureCounts {
    faults: u32,
    outages: u32,
    /// The span of the last time.
    last: Option<TraceContext>,
}

struct ConsumeLoop<S> {
    bus: Bus,
    queue: StageQueue,
    stage: Arc<S>,
    config: ConsumeConfig,
    ack_wait: Duration,
    wake: Arc<Notify>,
    gate: watch::Receiver<bool>,
    /// By stream sequence, until the message is off the queue.
    tries: Mutex<HashMap<u64, FailureCounts>>,
    shutdown: CancellationToken,
    abort: CancellationToken,
}

/// Runs a stage until `shutdown` fires, then lets running work finish within the grace time.
///
/// # Errors
/// [`BusError::Topology`] when a durable is not there at start; a broker that is away is waited for.
pub async fn run_stage<S: PipelineStage>(
    bus: Bus,
    queue: StageQueue,
    stage: Arc<S>,
    config: ConsumeConfig,
    shutdown: CancellationToken,
) -> Result<(), BusError> {
    run_gated_stage(bus, queue, stage, config, watch::channel(true).1, shutdown).await
}

/// The same, pulling only while `gate` is true: what a slot holds when it becomes false goes on, and a message that is just being
/// pulled still comes. A gate whose sender is gone stays as it is.
///
/// # Errors
/// As [`run_stage`].
pub async fn run_gated_stage<S: PipelineStage>(
    bus: Bus,
    queue: StageQueue,
    stage: Arc<S>,
    config: ConsumeConfig,
    gate: watch::Receiver<bool>,
    shutdown: CancellationToken,
) -> Result<(), BusError> {
    let Some(ack_wait) = wait_for_durables(&bus, &queue, &shutdown).await? else { return Ok(()) };
    // Subscribed before the first pull: the announcement of a message stored in between would be missed.
    let mut wakeups = Vec::with_capacity(queue.wake.len());
    for subject in &queue.wake {
        wakeups.push(bus.subscribe_core(subject.clone()).await?);
    }
    let mut wakeups = futures::stream::select_all(wakeups);
    let wake = Arc::new(Notify::new());
    let abort = CancellationToken::new();
    let slots = config.slots.max(1);
    let grace = Duration::from_millis(config.grace_ms);
    let (clocks, stream) = (bus.clone(), queue.stream.clone());
    let work = Arc::new(ConsumeLoop {
        bus,
        queue,
        stage,
        config,
        ack_wait,
        wake: Arc::clone(&wake),
        gate,
        tries: Mutex::default(),
        shutdown: shutdown.clone(),
        abort: abort.clone(),
    });
    let mut tasks = JoinSet::new();
    let supervisor = work.bus.supervisor(&shutdown);
    for slot in 0..slots {
        let (work, supervisor) = (Arc::clone(&work), supervisor.clone());
        tasks.spawn(async move {
            let turns = || async {
                Arc::clone(&work).run_slot(slot).await;
                Ok(())
            };
            supervisor.keep_running(S::NAME, BusError::task_ending, turns).await
        });
    }
    let waker = async {
        while wakeups.next().await.is_some() {
            wake.notify_one();
        }
        // The wake-ups end with the connection's client; that is no reason to leave the slots.
        std::future::pending::<()>().await;
    };
    let drained = async {
        while let Some(ended) = tasks.join_next().await {
            if let Err(source) = ended {
                tracing::error!(%source, stage = S::NAME, "a slot ended unexpectedly");
            }
        }
    };
    let deadline = async {
        shutdown.cancelled().await;
        tokio::time::sleep(grace).await;
        abort.cancel();
        // The slots still end by themselves: their handlers see the token and clean up.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = drained => Ok(()),
        () = waker => Ok(()),
        () = compare_clocks(&clocks, &stream) => Ok(()),
        () = deadline => Ok(()),
    }
}

/// The shortest ack wait of the queue's durables, once the broker answers; `None` when `shutdown` fires first.
async fn wait_for_durables(
    bus: &Bus,
    queue: &StageQueue,
    shutdown: &CancellationToken,
) -> Result<Option<Duration>, BusError> {
    let mut times = 0;
    loop {
        let error = match shortest_ack_wait(bus, queue).await {
            Ok(shortest) => return Ok(Some(shortest)),
            Err(error @ BusError::Unavailable(_)) => error,
            Err(error) => return Err(error),
        };
        times += 1;
        if times == 1 {
            tracing::warn!(error = error_chain(&error), stream = queue.stream, "waiting for the durables");
        }
        tokio::select! {
            () = tokio::time::sleep(backoff::retry_delay(times)) => {}
            () = shutdown.cancelled() => return Ok(None),
        }
    }
}

/// The shortest ack wait of the queue's durables, which also proves that they exist.
async fn shortest_ack_wait(bus: &Bus, queue: &StageQueue) -> Result<Duration, BusError> {
    let mut shortest = Duration::from_secs(3_600);
    for durable in &queue.durables {
        let consumer: jetstream::consumer::PullConsumer = bus
            .retry_request(
                || bus.context().get_consumer_from_stream(durable, &queue.stream),
                |error| {
                    let reason = error_chain(&error);
                    match error.kind() {
                        ConsumerErrorKind::JetStream(answer) if answer.code() == 404 => BusError::Topology {
                            reason: format!(
                                "durable {durable} of {}: {reason}; `nats apply` makes it",
                                queue.stream
                            ),
                        },
                        _ => BusError::unavailable(error),
                    }
                },
            )
            .await?;
        shortest = shortest.min(consumer.cached_info().config.ack_wait);
    }
    Ok(shortest)
}

/// Counts a message that a stage has handled, and how long it waited before its first delivery.
fn count_handling(
    stage: &str,
    delivery: &MessageDelivery,
    started: Instant,
    result: &Result<StageOutcome, StageFault>,
) {
    STAGE_MESSAGES.increment(&[stage, outcome_name(result)]);
    let took = started.elapsed();
    STAGE_SECONDS.series(&[stage]).observe(took.as_secs_f64());
    if delivery.delivered <= 1 {
        let now_ms = clock::estimated_broker_now_ms();
        let waited = Duration::from_millis(now_ms.saturating_sub(delivery.stored_at_ms)).saturating_sub(took);
        STAGE_WAIT_SECONDS.series(&[stage]).observe(waited.as_secs_f64());
    }
}

fn outcome_name(result: &Result<StageOutcome, StageFault>) -> &'static str {
    match result {
        Ok(StageOutcome::Done) => "done",
        Ok(StageOutcome::Later { .. }) => "later",
        Ok(StageOutcome::Lost) => "lost",
        Err(fault) => match fault.class {
            FailureClass::Outage => "outage",
            FailureClass::Fault => "fault",
            FailureClass::Reject => "reject",
        },
    }
}

/// Says of a span how handling its message ended.
fn describe_outcome(span: &Span, result: &Result<StageOutcome, StageFault>) {
    span.set(|| SpanAttribute::Outcome(outcome_name(result)));
    if let Err(fault) = result {
        span.fail(fault.code);
    }
}

/// What a handler that panicked says about its message.
fn handler_panic_fault() -> StageFault {
    StageFault::new(FailureClass::Fault, "handler_panicked", "the handler panicked; the log has where")
}

/// Says when the clock of this host and the broker's differ. Never ends.
async fn compare_clocks(bus: &Bus, stream: &str) {
    loop {
        if let Err(error) = bus.broker_now_ms(stream).await {
            tracing::debug!(error = error_chain(&error), "the broker's clock could not be read");
        }
        tokio::time::sleep(clock::PERIOD).await;
    }
}

/// In which order the priorities are looked at in this turn: of 16 turns 14 begin with the first, one with the second, one with the
/// last, so that none starves.
pub fn priority_order(turn: u64, priorities: usize) -> Vec<usize> {
    let first = match (turn % 16, turn % 8) {
        (15, _) => priorities.saturating_sub(1),
        (_, 7) => 1.min(priorities.saturating_sub(1)),
        _ => 0,
    };
    if first == priorities.saturating_sub(1) && turn % 16 == 15 {
        return (0..priorities).rev().collect();
    }
    (0..priorities).map(|i| (i + first) % priorities).collect()
}

/// Pause before the pull that follows an empty one after a wake-up; [`EARLY_PULL_GROWTH`] times as long after each further empty one,
/// up to the slow poll. A wake-up overtakes its message: subscribers get it when it passes the server, the durable when the stream, on
/// all of its servers, has stored it. So a message that comes late by some time is taken after at most six times that.
const EARLY_PULL_PAUSE: Duration = Duration::from_millis(5);

const EARLY_PULL_GROWTH: u32 = 5;

impl<S: PipelineStage> ConsumeLoop<S> {
    async fn run_slot(self: Arc<Self>, slot: usize) {
        // Slots begin at different turns, so that they do not all look at the lower priority at once.
        let mut turn = slot as u64;
        let poll = Duration::from_millis(self.config.poll_ms);
        // Something may have been announced just before this process listened, and not be stored yet.
        let mut pause = EARLY_PULL_PAUSE.min(poll);
        while self.wait_for_gate().await {
            // Registered before the pull: a wake-up between an empty answer and the wait would be lost.
            let woken = self.wake.notified();
            tokio::pin!(woken);
            woken.as_mut().enable();
            turn += 1;
            match self.pull_message(turn).await {
                Ok(Some(message)) => {
                    // Not awaited while it works: a wake-up for an idle slot would wait with this one.
                    woken.set(self.wake.notified());
                    // A task that got one wakes the next, so that one wake-up for a burst is enough.
                    self.wake.notify_one();
                    self.process_message(message).await;
                }
                Ok(None) => {
                    tokio::select! {
                        () = woken => pause = EARLY_PULL_PAUSE.min(poll),
                        () = tokio::time::sleep(pause) => pause = (pause * EARLY_PULL_GROWTH).min(poll),
                        () = self.shutdown.cancelled() => {}
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, stage = S::NAME, "nothing could be pulled");
                    tokio::select! {
                        () = tokio::time::sleep(backoff::retry_delay(3)) => {}
                        () = self.shutdown.cancelled() => {}
                    }
                }
            }
        }
    }

    /// Waits until messages may be pulled; false once the process has to stop.
    async fn wait_for_gate(&self) -> bool {
        let mut gate = self.gate.clone();
        let opened = async {
            if gate.wait_for(|is_open| *is_open).await.is_err() {
                // Closed, and nobody can open it any more.
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            () = self.shutdown.cancelled() => false,
            () = opened => true,
        }
    }

    /// Takes one message without waiting: each priority in turn.
    async fn pull_message(&self, turn: u64) -> Result<Option<jetstream::Message>, BusError> {
        for index in priority_order(turn, self.queue.durables.len()) {
            let Some(durable) = self.queue.durables.get(index) else { continue };
            let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{}.{durable}", self.queue.stream);
            let ask = || {
                let request = async_nats::Request::new()
                    .payload(r#"{"batch":1,"no_wait":true}"#.into())
                    .inbox(self.bus.client().new_inbox());
                self.bus.client().send_request(subject.clone(), request)
            };
            // A message whose delivery was lost with its connection comes again after the ack wait.
            let message = self.bus.retry_request(ask, BusError::unavailable).await?;
            // A status is no message: 404 says that nothing waits, 409 that the durable hands out no more for now.
            if message.status.is_none() && message.reply.is_some() {
                return Ok(Some(jetstream::Message { message, context: self.bus.context().clone() }));
            }
        }
        Ok(None)
    }

    async fn process_message(&self, raw: jetstream::Message) {
        let Some(delivery) = self.parse_delivery(&raw) else { return };
        let span = self.begin_span(&raw, &delivery);
        span.scope(self.process_delivery(&raw, delivery, &span)).await;
    }

    fn begin_span(&self, raw: &jetstream::Message, delivery: &MessageDelivery) -> Span {
        let name = || format!("process {}", subjects::subject_template(&delivery.subject)).into();
        let span = match message_span::message_context(&delivery.headers) {
            Some(sent) => Span::child(sent, SpanKind::Consumer, name),
            None => Span::root(SpanKind::Consumer, true, name),
        };
        if span.is_kept() {
            span.link(self.tries.lock().get(&delivery.sequence).and_then(|tries| tries.last));
            span.set(|| SpanAttribute::Messaging("process"));
            span.set(|| SpanAttribute::DestinationTemplate(subjects::subject_template(&delivery.subject)));
            span.set(|| SpanAttribute::Stream(delivery.stream.clone()));
            span.set(|| SpanAttribute::StreamSequence(delivery.sequence));
            span.set(|| SpanAttribute::DeliveryCount(u64::from(delivery.delivered)));
            if let Ok(info) = raw.info() {
                span.set(|| SpanAttribute::ConsumerGroup(info.consumer.to_owned()));
            }
            message_span::describe_entities(&span, &delivery.headers);
        }
        span
    }

    async fn process_delivery(&self, raw: &jetstream::Message, delivery: MessageDelivery, span: &Span) {
        let _busy = STAGE_BUSY.hold(&[S::NAME]);
        let message = match S::Message::decode(&delivery, &raw.payload) {
            Ok(message) => message,
            Err(error) => {
                STAGE_MESSAGES.increment(&[S::NAME, "undecodable"]);
                span.fail("undecodable");
                return self.send_to_dead_letters(raw, None, &delivery, StageFault::from(error)).await;
            }
        };
        let started = Instant::now();
        let result = {
            // A panic is one failed try of this message, not the end of a slot.
            let handling = AssertUnwindSafe(self.stage.handle(&message, &delivery)).catch_unwind();
            let handling = handling.map(|ended| ended.unwrap_or_else(|_| Err(handler_panic_fault())));
            let pinging = self.send_progress(raw, &message, &delivery);
            tokio::pin!(handling);
            tokio::pin!(pinging);
            tokio::select! {
                result = &mut handling => result,
                () = &mut pinging => {
                    // The fence is lost: the handler is cancelled and may clean up, but its result counts no more.
                    delivery.cancel.cancel();
                    if let Err(fault) = handling.await {
                        tracing::debug!(fault = fault.describe(), stage = S::NAME, "work stopped after its fence was lost");
                    }
                    Ok(StageOutcome::Lost)
                }
            }
        };
        count_handling(S::NAME, &delivery, started, &result);
        describe_outcome(span, &result);
        let duration_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
        match result {
            Ok(StageOutcome::Done) => self.acknowledge_message(raw, &delivery, duration_ms).await,
            Ok(StageOutcome::Later { delay_ms }) => {
                self.note_try(&delivery, |_| ());
                self.redeliver_after(raw, Duration::from_millis(delay_ms)).await;
            }
            Ok(StageOutcome::Lost) => {
                tracing::info!(
                    stage = S::NAME,
                    subject = delivery.subject,
                    "work left to the worker that holds it"
                );
            }
            Err(fault) => self.handle_failure(raw, &message, &delivery, fault).await,
        }
    }

    fn parse_delivery(&self, raw: &jetstream::Message) -> Option<MessageDelivery> {
        let info = match raw.info() {
            Ok(info) => info,
            Err(error) => {
                tracing::error!(%error, stage = S::NAME, "a message without delivery facts");
                return None;
            }
        };
        let mut headers = BTreeMap::new();
        for (name, values) in raw.headers.iter().flat_map(HeaderMap::iter) {
            if let Some(value) = values.last() {
                headers.insert(name.to_string(), value.to_string());
            }
        }
        Some(MessageDelivery {
            subject: raw.subject.to_string(),
            stream: info.stream.to_owned(),
            sequence: info.stream_sequence,
            delivered: u32::try_from(info.delivered).unwrap_or(u32::MAX),
            stored_at_ms: u64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).unwrap_or(0),
            headers,
            cancel: self.abort.child_token(),
        })
    }

    /// Reports progress to the broker every third of the ack wait, or as often as the stage has to show itself, after the stage
    /// confirmed its fence. Ends when that is lost.
    async fn send_progress(
        &self,
        raw: &jetstream::Message,
        message: &S::Message,
        delivery: &MessageDelivery,
    ) {
        // A third: one report may be lost before the broker hands the message to another worker.
        let mut ticks = tokio::time::interval((self.ack_wait / 3).min(S::RENEW_PERIOD_MAX));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        // The first tick of an interval comes at once, and the delivery has just begun the ack wait.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            if !self.stage.renew_claim(message, delivery).await {
                return;
            }
            if let Err(error) = raw.ack_with(jetstream::AckKind::Progress).await {
                tracing::warn!(%error, stage = S::NAME, "progress could not be reported");
            }
        }
    }

    async fn acknowledge_message(
        &self,
        raw: &jetstream::Message,
        delivery: &MessageDelivery,
        duration_ms: u64,
    ) {
        match self.confirm_ack(raw, "+ACK").await {
            Ok(()) => {
                self.clear_failures(delivery);
                tracing::debug!(stage = S::NAME, subject = delivery.subject, duration_ms, "done");
            }
            Err(error) => {
                tracing::warn!(%error, stage = S::NAME, subject = delivery.subject, "done, but the ack was not confirmed; it will be repeated");
            }
        }
    }

    /// A confirmed ack. Not `double_ack`: that takes the "nobody there" reply for success.
    async fn confirm_ack(&self, raw: &jetstream::Message, kind: &str) -> Result<(), BusError> {
        let Some(reply) = raw.reply.clone() else {
            return Err(BusError::Invalid { what: "message without reply".into() });
        };
        let ask = || self.bus.client().request(reply.clone(), kind.to_owned().into());
        let refused = |error: async_nats::client::RequestError| match error.kind() {
            // `retry_request` has asked again several times, so this is no election: the durable itself is gone.
            RequestErrorKind::NoResponders => {
                BusError::Refused { what: "ack".into(), reason: "the durable is gone".into() }
            }
            _ => BusError::unavailable(error),
        };
        self.bus.retry_request(ask, refused).await.map(drop)
    }

    async fn redeliver_after(&self, raw: &jetstream::Message, delay: Duration) {
        if let Err(error) = raw.ack_with(jetstream::AckKind::Nak(Some(delay))).await {
            tracing::warn!(%error, stage = S::NAME, "a message could not be handed back; it comes again after the ack wait");
        }
    }

    async fn handle_failure(
        &self,
        raw: &jetstream::Message,
        message: &S::Message,
        delivery: &MessageDelivery,
        fault: StageFault,
    ) {
        match fault.class {
            FailureClass::Outage => self.delay_for_outage(raw, message, delivery, &fault).await,
            FailureClass::Fault => {
                let counted = self.count_failure(delivery, |tries| &mut tries.faults);
                let attempt = fault.attempt.unwrap_or(counted);
                // Work that a stop broke off fails in many ways: none of them gives the message up.
                if attempt >= self.config.attempts_max && !self.shutdown.is_cancelled() {
                    return self
                        .send_to_dead_letters(raw, Some(message), delivery, fault.with_attempt(attempt))
                        .await;
                }
                let delay = self.config.retry_delay(attempt);
                tracing::warn!(
                    fault = fault.describe(),
                    stage = S::NAME,
                    subject = delivery.subject,
                    attempt,
                    delay_ms = delay.as_millis(),
                    "failed, will be tried again"
                );
                self.redeliver_after(raw, delay).await;
            }
            FailureClass::Reject => self.send_to_dead_letters(raw, Some(message), delivery, fault).await,
        }
    }

    /// Something is away: the message comes again later, as often as it takes. Only the first time is worth a warning.
    async fn delay_for_outage(
        &self,
        raw: &jetstream::Message,
        message: &S::Message,
        delivery: &MessageDelivery,
        fault: &StageFault,
    ) {
        let times = self.count_failure(delivery, |tries| &mut tries.outages);
        let delay = self.config.outage_delay(times);
        let (text, delay_ms) = (fault.describe(), delay.as_millis());
        if times == 1 {
            tracing::warn!(
                fault = text,
                stage = S::NAME,
                subject = delivery.subject,
                "waiting for an outage to end"
            );
        } else {
            tracing::debug!(
                fault = text,
                stage = S::NAME,
                subject = delivery.subject,
                times,
                delay_ms,
                "still waiting"
            );
        }
        // The record first: once handed back, the message may be with a worker that writes it, too.
        self.stage.on_outage(message, delivery, fault).await;
        self.redeliver_after(raw, delay).await;
    }

    /// Counts one more of what `which` picks; answers how many that are now.
    fn count_failure(
        &self,
        delivery: &MessageDelivery,
        which: impl Fn(&mut FailureCounts) -> &mut u32,
    ) -> u32 {
        self.note_try(delivery, |counts| {
            let count = which(counts);
            *count = count.saturating_add(1);
            *count
        })
    }

    /// Remembers the span of this try for the next one, and what `change` makes of its counts.
    fn note_try<T>(&self, delivery: &MessageDelivery, change: impl FnOnce(&mut FailureCounts) -> T) -> T {
        let mut tries = self.tries.lock();
        if tries.len() >= TRIES_KEPT_MAX && !tries.contains_key(&delivery.sequence) {
            tries.clear();
        }
        let counts = tries.entry(delivery.sequence).or_default();
        counts.last = spans::current();
        change(counts)
    }

    fn clear_failures(&self, delivery: &MessageDelivery) {
        self.tries.lock().remove(&delivery.sequence);
    }

    /// Dead letter first, state second, off the queue last: a crash or an outage in between repeats it. The letter's subject
    /// may hold one letter only, so a repeat adds none.
    async fn send_to_dead_letters(
        &self,
        raw: &jetstream::Message,
        message: Option<&S::Message>,
        delivery: &MessageDelivery,
        fault: StageFault,
    ) {
        tracing::error!(
            fault = fault.describe(),
            stage = S::NAME,
            subject = delivery.subject,
            "given up, moved to the dead letters"
        );
        let buried = async {
            self.bus.store_dead_letter(S::NAME, delivery, &fault, &raw.payload).await?;
            if let Some(message) = message {
                self.stage.on_dead_letter(message, delivery, &fault).await?;
            }
            self.confirm_ack(raw, &format!("+TERM {}", fault.code)).await.map_err(StageFault::from)
        };
        let Err(other) = buried.await else {
            DEAD_LETTERS.increment(&[S::NAME]);
            return self.clear_failures(delivery);
        };
        let times = self.count_failure(delivery, |tries| &mut tries.outages);
        tracing::error!(
            fault = other.describe(),
            stage = S::NAME,
            subject = delivery.subject,
            "the dead letter could not be completed; it will be repeated"
        );
        self.redeliver_after(raw, self.config.outage_delay(times)).await;
    }
}

#[cfg(test)]
mod tests {
    use super::priority_order;

    #[test]
    fn weighted_turns_starve_nobody() {
        let mut first = [0_u32; 3];
        for turn in 0..160 {
            let order = priority_order(turn, 3);
            assert_eq!(
                {
                    let mut sorted = order.clone();
                    sorted.sort_unstable();
                    sorted
                },
                [0, 1, 2]
            );
            first[order[0]] += 1;
        }
        assert_eq!(first, [140, 10, 10]);
        assert_eq!(priority_order(15, 1), [0]);
        assert_eq!(priority_order(7, 1), [0]);
    }
}

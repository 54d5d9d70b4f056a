//! A slot goes on after a handler that panics, and after a broker that dies under its pull.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use nats::{
    MessageDelivery, PipelineStage, Role, StageFault, StageOutcome,
    consume::{self, ConsumeConfig, StageQueue},
    testing::TestBroker,
};
use schemas::{subjects, upload::UploadReceived};
use tokio_util::sync::CancellationToken;

/// Panics at the first message it sees.
struct Clumsy {
    runs: AtomicU32,
    done: CancellationToken,
}

/// Whatever its bytes are.
struct Any;

impl nats::StageMessage for Any {
    fn decode(_: &MessageDelivery, _: &[u8]) -> Result<Self, nats::BusError> {
        Ok(Self)
    }
}

impl PipelineStage for Clumsy {
    const NAME: &'static str = "upload";
    type Message = Any;

    async fn handle(&self, _: &Any, _: &MessageDelivery) -> Result<StageOutcome, StageFault> {
        assert_ne!(self.runs.fetch_add(1, Ordering::Relaxed), 0, "a fault of ours");
        self.done.cancel();
        Ok(StageOutcome::Done)
    }
}

/// Works until it may end.
struct Held {
    runs: AtomicU32,
    may_end: Arc<tokio::sync::Notify>,
}

impl PipelineStage for Held {
    const NAME: &'static str = "upload";
    type Message = Any;

    async fn handle(&self, _: &Any, _: &MessageDelivery) -> Result<StageOutcome, StageFault> {
        self.runs.fetch_add(1, Ordering::Relaxed);
        self.may_end.notified().await;
        Ok(StageOutcome::Done)
    }
}

fn uploads() -> StageQueue {
    StageQueue {
        stream: subjects::EVENTS.into(),
        durables: vec!["upload".into()],
        wake: vec![subjects::event_filter::<UploadReceived>()],
    }
}

#[tokio::test]
async fn a_handler_that_panics_costs_one_try_and_no_slot() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Upload).await;
    let admin = broker.bus(Role::Admin).await;
    let done = CancellationToken::new();
    let stage = Arc::new(Clumsy { runs: AtomicU32::new(0), done: done.clone() });
    let config = ConsumeConfig {
        slots: 1,
        retry_delay_ms: 10,
        poll_ms: 50,
        grace_ms: 100,
        ..ConsumeConfig::default()
    };
    admin.context().publish("evt.upload.received.X", "x".into()).await.unwrap().await.unwrap();
    let run = consume::run_stage(bus, uploads(), Arc::clone(&stage), config, done);
    tokio::time::timeout(crate::WAIT_MAX, run).await.expect("the slot goes on").unwrap();
    assert_eq!(stage.runs.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_pull_that_died_with_the_broker_is_repeated_when_it_is_back() {
    let broker = TestBroker::start().await;
    let bus = broker.bus(Role::Upload).await;
    let admin = broker.bus(Role::Admin).await;
    let done = CancellationToken::new();
    // Its first run is behind it.
    let stage = Arc::new(Clumsy { runs: AtomicU32::new(1), done: done.clone() });
    let config = ConsumeConfig { slots: 1, poll_ms: 10, ..ConsumeConfig::default() };
    let run = consume::run_stage(bus.clone(), uploads(), stage, config, done);
    let sent = || bus.client().statistics().out_messages.load(Ordering::Relaxed);
    let dies = async {
        let started = sent();
        crate::until("the slot pulls", || async { sent() > started + 4 }).await;
        broker.freeze();
        let before = sent();
        // Whatever was answered before, this pull is not.
        crate::until("a pull in flight", || async { sent() > before }).await;
        bus.client().flush().await.unwrap();
        broker.kill_and_wait().await;
        let began = Instant::now();
        admin.context().publish("evt.upload.received.X", "x".into()).await.unwrap().await.unwrap();
        began
    };
    let (ran, began) = tokio::join!(run, dies);
    ran.unwrap();
    assert!(
        began.elapsed() < Duration::from_secs(4),
        "{:?}; a pull alone would wait for 5 s",
        began.elapsed()
    );
}

#[tokio::test]
async fn a_closed_gate_holds_the_slots_and_lets_what_is_held_go_on() {
    let broker = TestBroker::start().await;
    let (bus, admin) = (broker.bus(Role::Upload).await, broker.bus(Role::Admin).await);
    let (gate, is_open) = tokio::sync::watch::channel(true);
    let (shutdown, may_end) = (CancellationToken::new(), Arc::new(tokio::sync::Notify::new()));
    let stage = Arc::new(Held { runs: AtomicU32::new(0), may_end: Arc::clone(&may_end) });
    let config = ConsumeConfig { slots: 1, poll_ms: 10, ..ConsumeConfig::default() };
    let work = Arc::clone(&stage);
    let run = consume::run_gated_stage(bus.clone(), uploads(), work, config, is_open, shutdown.clone());
    let publish = async |subject: &'static str| {
        admin.context().publish(subject, "x".into()).await.unwrap().await.unwrap();
    };
    let waiting = async || {
        let stream = admin.context().get_stream(subjects::EVENTS).await.unwrap();
        let info = stream.consumer_info("upload").await.unwrap();
        (info.num_pending, info.num_ack_pending)
    };
    let runs = || stage.runs.load(Ordering::Relaxed);
    let story = async {
        publish("evt.upload.received.A").await;
        crate::until("the first is held", || async { runs() == 1 }).await;
        gate.send_replace(false);
        publish("evt.upload.received.B").await;
        may_end.notify_one();
        // What was held is acknowledged, and its slot takes nothing new, though it is woken.
        crate::until("the first is done", || async { waiting().await == (1, 0) }).await;
        let sent = bus.client().statistics().out_messages.load(Ordering::Relaxed);
        publish("evt.upload.received.C").await;
        crate::until("the wake-up came", || async { waiting().await == (2, 0) }).await;
        assert_eq!((runs(), bus.client().statistics().out_messages.load(Ordering::Relaxed)), (1, sent));
        gate.send_replace(true);
        for count in [2, 3] {
            crate::until("it goes on", || async { runs() == count }).await;
            may_end.notify_one();
        }
        crate::until("all are done", || async { waiting().await == (0, 0) }).await;
        // A closed gate keeps nobody from stopping.
        gate.send_replace(false);
        shutdown.cancel();
    };
    let ((), ended) = tokio::join!(story, tokio::time::timeout(crate::WAIT_MAX, run));
    ended.expect("it stops").unwrap();
}

#[tokio::test]
async fn an_idle_slot_takes_each_message_without_waiting_for_its_next_poll() {
    let broker = TestBroker::start().await;
    let (bus, admin) = (broker.bus(Role::Upload).await, broker.bus(Role::Admin).await);
    let (shutdown, may_end) = (CancellationToken::new(), Arc::new(tokio::sync::Notify::new()));
    let stage = Arc::new(Held { runs: AtomicU32::new(0), may_end: Arc::clone(&may_end) });
    // A message whose wake-up came too early would be taken after this test.
    let poll_ms = u64::try_from(2 * crate::WAIT_MAX.as_millis()).unwrap();
    let config = ConsumeConfig { slots: 1, poll_ms, ..ConsumeConfig::default() };
    let run = consume::run_stage(bus, uploads(), Arc::clone(&stage), config, shutdown.clone());
    let story = async {
        for number in 1..=300 {
            may_end.notify_one();
            let publish = admin.context().publish("evt.upload.received.X", "x".into());
            publish.await.unwrap().await.unwrap();
            let taken = || async { stage.runs.load(Ordering::Relaxed) == number };
            crate::until("the message is taken", taken).await;
        }
        shutdown.cancel();
    };
    let (ran, ()) = tokio::join!(run, story);
    ran.unwrap();
}

#[tokio::test]
async fn a_message_that_comes_long_after_its_wake_up_is_taken_soon() {
    let broker = TestBroker::start().await;
    let (bus, admin) = (broker.bus(Role::Upload).await, broker.bus(Role::Admin).await);
    let (shutdown, may_end) = (CancellationToken::new(), Arc::new(tokio::sync::Notify::new()));
    let stage = Arc::new(Held { runs: AtomicU32::new(0), may_end: Arc::clone(&may_end) });
    let poll_ms = u64::try_from(2 * crate::WAIT_MAX.as_millis()).unwrap();
    let config = ConsumeConfig { slots: 1, poll_ms, ..ConsumeConfig::default() };
    // Only one of the subjects of the durable wakes: what comes over the other is announced by what came before.
    let queue = StageQueue { wake: vec!["evt.upload.received.*".into()], ..uploads() };
    let run = consume::run_stage(bus, queue, Arc::clone(&stage), config, shutdown.clone());
    let story = async {
        for (number, subject, late_ms) in [(1, "evt.upload.received.X", 0), (2, "evt.media.reopened.X", 300)]
        {
            // As a store that takes that long to write it.
            tokio::time::sleep(Duration::from_millis(late_ms)).await;
            may_end.notify_one();
            admin.context().publish(subject, "x".into()).await.unwrap().await.unwrap();
            let taken = || async { stage.runs.load(Ordering::Relaxed) == number };
            crate::until("the message is taken", taken).await;
        }
        shutdown.cancel();
    };
    let (ran, ()) = tokio::join!(run, story);
    ran.unwrap();
}

//! With a real broker: workers that only note what they were given stand for those that encode.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use nats::{
    Bus, MessageDelivery, Outbox, PipelineStage, Role, StageFault, StageOutcome, VersionedRecord,
    consume::{ConsumeConfig, StageQueue},
    testing::TestBroker,
};
use parking_lot::Mutex;
use schemas::{
    KvRecord as _,
    dispatch_query::{self, DispatchPosition, DispatchPositionQuery},
    examples,
    ids::{JobId, MediaId},
    job::{self, JobPartRecord, JobPartStatus, JobPartTask, JobQueue, JobRecord, JobStatus},
    pause::{QueuePause, QueuePauses},
    subjects::{self, JobPriority},
    worker::WorkerState,
};
use tokio::{sync::watch, task::JoinHandle};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    DispatchConfig, DispatchMetrics, QUEUED_PARTS_MIN, QUEUED_PARTS_PER_SLOT, WaitingJob,
    dispatcher::Dispatcher, run_dispatcher,
};

const LIMIT: Duration = Duration::from_secs(60);

/// Notes parts in the order in which they were begun, and says in their records that they are done.
struct NotingWorker {
    bus: Bus,
    begun: Arc<Mutex<Vec<(JobId, String)>>>,
    /// Most parts beside finishes that the queue held when one was begun.
    queue_max: Arc<AtomicUsize>,
    /// Parts are begun while it is true.
    gate: watch::Receiver<bool>,
}

impl PipelineStage for NotingWorker {
    const NAME: &'static str = "transcode";
    type Message = JobPartTask;

    async fn handle(&self, task: &JobPartTask, _: &MessageDelivery) -> Result<StageOutcome, StageFault> {
        self.gate.clone().wait_for(|is_open| *is_open).await.unwrap();
        let job = self.bus.load_record::<JobRecord>(&task.job_id.to_string()).await?;
        if !job.is_some_and(|job| job.record.is_to_be_run()) {
            return Ok(StageOutcome::Done);
        }
        let queued = self.bus.stream_subjects(subjects::JOBS, subjects::JOBS_ALL).await?;
        let parts = queued.iter().filter(|subject| !subject.ends_with(job::FINISH)).count();
        self.queue_max.fetch_max(parts, Ordering::Relaxed);
        self.begun.lock().push((task.job_id, task.part.clone()));
        finish_part(&self.bus, task.job_id, &task.part).await;
        if task.part == job::FINISH {
            end_job(&self.bus, task.job_id, JobStatus::Succeeded).await;
        }
        Ok(StageOutcome::Done)
    }
}

/// A broker with dispatchers and noting workers.
struct Site {
    broker: TestBroker,
    admin: Bus,
    begun: Arc<Mutex<Vec<(JobId, String)>>>,
    queue_max: Arc<AtomicUsize>,
    gate: watch::Sender<bool>,
    metrics: DispatchMetrics,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

impl Site {
    async fn start() -> Self {
        let broker = TestBroker::start().await;
        let admin = broker.bus(Role::Admin).await;
        Self {
            broker,
            admin,
            begun: Arc::default(),
            queue_max: Arc::default(),
            gate: watch::Sender::new(true),
            metrics: DispatchMetrics::default(),
            tasks: Vec::new(),
        }
    }

    async fn dispatcher(&self) -> JoinHandle<()> {
        self.dispatcher_with(DispatchConfig::default()).await
    }

    async fn dispatcher_with(&self, config: DispatchConfig) -> JoinHandle<()> {
        let bus = self.broker.bus(Role::Keeper).await;
        let metrics = self.metrics.clone();
        tokio::spawn(run_dispatcher(bus, JobQueue::Transcode, config, metrics, CancellationToken::new()))
    }

    /// A worker with so many slots; the bus of the admin, which may read how full the queue is.
    fn worker(&mut self, slots: usize) {
        let durables = JobPriority::ALL.iter().map(|p| format!("transcode-{}", p.subject_token())).collect();
        let queue = StageQueue {
            stream: subjects::JOBS.into(),
            durables,
            wake: vec![subjects::job_filter(job::TRANSCODE)],
        };
        let stage = Arc::new(NotingWorker {
            bus: self.admin.clone(),
            begun: Arc::clone(&self.begun),
            queue_max: Arc::clone(&self.queue_max),
            gate: self.gate.subscribe(),
        });
        let config = ConsumeConfig { slots, poll_ms: 200, ..ConsumeConfig::default() };
        let (bus, stop) = (self.admin.clone(), CancellationToken::new());
        self.tasks.push(tokio::spawn(async move {
            nats::consume::run_stage(bus, queue, stage, config, stop).await.unwrap();
        }));
    }

    async fn wait(&self, what: &str, mut holds: impl AsyncFnMut() -> bool) {
        let waited = tokio::time::timeout(LIMIT, async {
            while !holds().await {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        assert!(waited.await.is_ok(), "never came: {what}; begun: {:?}", self.begun.lock().len());
    }

    async fn wait_begun(&self, count: usize) {
        self.wait(&format!("{count} parts"), async || self.begun.lock().len() >= count).await;
    }

    async fn queued(&self) -> BTreeSet<String> {
        self.admin.stream_subjects(subjects::JOBS, subjects::JOBS_ALL).await.unwrap()
    }

    async fn position(&self, job_id: JobId) -> Result<DispatchPosition, nats::BusError> {
        let ingress = self.broker.bus(Role::Ingress).await;
        let subject = subjects::dispatch_request_subject(dispatch_query::position_verb(JobQueue::Transcode));
        ingress.request(subject, &DispatchPositionQuery { job_id }, Duration::from_secs(2)).await
    }

    /// The numbers of the jobs whose parts were begun, in order.
    fn order(&self) -> Vec<u32> {
        self.begun.lock().iter().map(|(job_id, _)| number_of(*job_id)).collect()
    }
}

fn job_id(number: u32) -> JobId {
    let mut bytes = [7; 16];
    bytes[..4].copy_from_slice(&number.to_be_bytes());
    JobId::from_bytes(bytes)
}

fn number_of(job_id: JobId) -> u32 {
    u32::from_be_bytes(job_id.as_bytes()[..4].try_into().unwrap())
}

/// A job of so many parts, created in the order of its number.
fn record(number: u32, owner: &str, priority: JobPriority, parts: usize) -> JobRecord {
    JobRecord {
        job_id: job_id(number),
        media_id: MediaId::from_bytes([8; 16]),
        owner: owner.into(),
        priority,
        status: JobStatus::Active,
        parts: (0..parts).map(|part| format!("v{part:04}")).collect(),
        created_at_ms: 1_000_000 + u64::from(number),
        ended_at_ms: None,
        kept_until_ms: None,
        ..examples::job_record()
    }
}

async fn store(bus: &Bus, record: JobRecord) {
    bus.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
}

async fn finish_part(bus: &Bus, job_id: JobId, part: &str) {
    change_part(bus, job_id, part, |part| part.status = JobPartStatus::Done).await;
}

async fn change_part(
    bus: &Bus,
    job_id: JobId,
    part: &str,
    change: impl Fn(&mut JobPartRecord) + Send + Sync,
) {
    bus.change_record::<JobPartRecord>(&subjects::part_key(job_id, part), |found| {
        let mut record = found.cloned().unwrap_or_else(|| JobPartRecord::new(job_id, part));
        change(&mut record);
        Some((record, Outbox::new()))
    })
    .await
    .unwrap();
}

async fn change_job(bus: &Bus, job_id: JobId, change: impl Fn(&JobRecord) -> JobRecord + Send + Sync) {
    bus.change_record::<JobRecord>(&job_id.to_string(), |found| Some((change(found?), Outbox::new())))
        .await
        .unwrap();
}

async fn end_job(bus: &Bus, job_id: JobId, status: JobStatus) {
    change_job(bus, job_id, |job| JobRecord { status, ended_at_ms: Some(1), ..job.clone() }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_one_owner_keeps_no_other_waiting_and_loses_nothing() {
    let mut site = Site::start().await;
    site.gate.send_replace(false);
    for number in 0..60 {
        store(&site.admin, record(number, "flood", JobPriority::P1, 3)).await;
    }
    let _dispatcher = site.dispatcher().await;
    site.worker(1);
    site.wait("a full queue", async || site.queued().await.len() == QUEUED_PARTS_MIN).await;
    // Behind the flood: another owner, then a third, then something urgent.
    store(&site.admin, record(100, "olga", JobPriority::P1, 3)).await;
    store(&site.admin, record(200, "otto", JobPriority::P1, 3)).await;
    store(&site.admin, record(300, "flood", JobPriority::P0, 1)).await;
    let is_known = async |number| site.position(job_id(number)).await.is_ok_and(|place| place.is_waiting);
    site.wait("waiting jobs", async || is_known(100).await && is_known(200).await && is_known(300).await)
        .await;
    site.gate.send_replace(true);
    // Each job has its parts and a finish.
    site.wait_begun(60 * 4 + 2 * 4 + 2).await;
    // Finishes are no parts that wait for turns.
    let begun = site.begun.lock().clone();
    let parts = begun.iter().filter(|(_, part)| part != job::FINISH);
    let order: Vec<u32> = parts.map(|(job_id, _)| number_of(*job_id)).collect();
    let first = |number| order.iter().position(|found| *found == number).unwrap();
    // The queue is full of the flood's parts, and the urgent one goes first; the worker may be at a turn of another priority.
    assert!(first(300) <= QUEUED_PARTS_MIN + 1, "{order:?}");
    // With S slots and N owners: 2 S + N - 1, beside the urgent part.
    for number in [100, 200] {
        assert!(first(number) <= QUEUED_PARTS_MIN + 3 - 1 + 1, "{number}: {order:?}");
    }
    let mut begun = BTreeMap::new();
    for part in site.begun.lock().iter() {
        *begun.entry(part.clone()).or_insert(0) += 1;
    }
    assert!(begun.values().all(|count| *count == 1), "every part once: {begun:?}");
    assert!(site.queue_max.load(Ordering::Relaxed) <= QUEUED_PARTS_MIN, "{:?}", site.queue_max);
    site.wait("an empty queue", async || site.queued().await.is_empty()).await;
    let text = nats::metrics::render_collector(site.metrics.clone());
    for line in [
        "streamgate_dispatch_leading{queue=\"transcode\"} 1",
        "streamgate_dispatch_parts_total{queue=\"transcode\"} 250",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_an_owner_end_one_after_another() {
    let mut site = Site::start().await;
    for number in 0..5 {
        store(&site.admin, record(number, "olga", JobPriority::P1, 4)).await;
    }
    let _dispatcher = site.dispatcher().await;
    site.worker(1);
    site.wait_begun(5 * 5).await;
    let order = site.order();
    // The finish of the first is begun before the parts of the third.
    let finish =
        site.begun.lock().iter().position(|(id, part)| *id == job_id(0) && part == job::FINISH).unwrap();
    let third = order.iter().position(|number| *number == 2).unwrap();
    assert!(finish < third, "{order:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn dispatchers_that_are_killed_or_doubled_lose_nothing() {
    let mut site = Site::start().await;
    for number in 0..40 {
        store(&site.admin, record(number, if number % 2 == 0 { "olga" } else { "otto" }, JobPriority::P1, 3))
            .await;
    }
    site.worker(2);
    let mut running = site.dispatcher().await;
    for killed_at in [10, 40, 80] {
        site.wait_begun(killed_at).await;
        // The next one has to wait until the lease of the killed one is over.
        running.abort();
        running = site.dispatcher().await;
    }
    // One that knows nothing of the lease stands for one that was frozen and goes on.
    let bus = site.broker.bus(Role::Keeper).await;
    let double = crate::dispatcher::Dispatcher::new(
        bus,
        JobQueue::Transcode,
        DispatchConfig::default(),
        DispatchMetrics::default(),
    );
    let (following, letting) = (double.clone(), double.clone());
    site.tasks.push(tokio::spawn(async move { crate::follow::follow_jobs(&following).await }));
    site.tasks.push(tokio::spawn(async move { letting.run_term(CancellationToken::new()).await }));
    site.wait_begun(40 * 4).await;
    site.wait("ended jobs and an empty queue", async || {
        let mut ended = 0;
        for number in 0..40 {
            let job =
                site.admin.load_record::<JobRecord>(&job_id(number).to_string()).await.unwrap().unwrap();
            ended += u32::from(job.record.status == JobStatus::Succeeded);
        }
        ended == 40 && site.queued().await.is_empty()
    })
    .await;
    let begun: BTreeSet<(JobId, String)> = site.begun.lock().iter().cloned().collect();
    assert_eq!(begun.len(), 40 * 4, "every part was begun");
    // Each of the two leaves room for what it let in itself: together they overfill the queue at most twofold.
    assert!(site.queue_max.load(Ordering::Relaxed) <= 2 * QUEUED_PARTS_MIN, "{:?}", site.queue_max);
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_left_the_queue_without_an_end_is_let_in_again() {
    let site = Site::start().await;
    let _dispatcher = site.dispatcher().await;
    store(&site.admin, record(1, "olga", JobPriority::P1, 1)).await;
    let part = subjects::job_part_subject(job::TRANSCODE, JobPriority::P1, job_id(1), "v0000");
    site.wait("the part", async || site.queued().await.contains(&part)).await;
    // The queue is emptied by hand.
    let jobs = site.admin.context().get_stream(subjects::JOBS).await.unwrap();
    let last = async || jobs.get_info().await.unwrap().state.last_sequence;
    let before = last().await;
    jobs.purge().await.unwrap();
    site.wait("the part once more", async || last().await > before && site.queued().await.contains(&part))
        .await;
    // It is done, and the worker that was to finish the job is gone.
    finish_part(&site.admin, job_id(1), "v0000").await;
    jobs.purge().await.unwrap();
    let finish = subjects::job_part_subject(job::TRANSCODE, JobPriority::P0, job_id(1), job::FINISH);
    site.wait("the finish, before all others", async || {
        site.queued().await == BTreeSet::from([finish.clone()])
    })
    .await;
    // A worker is at it: it is left alone for as long as that worker shows itself.
    change_part(&site.admin, job_id(1), job::FINISH, |part| part.last_seen_ms = nats::now_ms()).await;
    let before = last().await;
    jobs.purge().await.unwrap();
    // Behind what the dispatcher does at once; a job that comes later is let in, and the finish is not.
    store(&site.admin, record(3, "olga", JobPriority::P1, 1)).await;
    site.wait("a later job", async || last().await > before && !site.queued().await.is_empty()).await;
    assert!(!site.queued().await.contains(&finish), "{:?}", site.queued().await);
    end_job(&site.admin, job_id(3), JobStatus::Cancelled).await;
    change_part(&site.admin, job_id(1), job::FINISH, |part| part.last_seen_ms = 0).await;
    site.wait("the finish, since nobody is at it", async || site.queued().await.contains(&finish)).await;
    // Of an ended job nothing comes again.
    end_job(&site.admin, job_id(1), JobStatus::Succeeded).await;
    jobs.purge().await.unwrap();
    store(&site.admin, record(2, "olga", JobPriority::P1, 1)).await;
    site.wait("the next job", async || !site.queued().await.is_empty()).await;
    assert_eq!(site.queued().await.len(), 1, "{:?}", site.queued().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_that_can_t_be_read_when_a_term_begins_is_read_later() {
    let site = Site::start().await;
    let bus = site.broker.bus(Role::Keeper).await;
    let dispatcher =
        Dispatcher::new(bus.clone(), JobQueue::Transcode, DispatchConfig::default(), site.metrics.clone());
    let begin_term = || {
        let (held, dispatcher) = (CancellationToken::new(), dispatcher.clone());
        (held.clone(), tokio::spawn(async move { dispatcher.run_term(held).await }))
    };
    let job = record(1, "olga", JobPriority::P1, QUEUED_PARTS_MIN + 2);
    store(&site.admin, job.clone()).await;
    dispatcher.let_wait(&WaitingJob::of(&job).unwrap());
    dispatcher.note_followed();
    let (held, term) = begin_term();
    site.wait("a full queue", async || site.queued().await.len() == QUEUED_PARTS_MIN).await;
    held.cancel();
    term.await.unwrap();

    // The broker answers nobody while the next term begins: what was asked for behind its look has failed by now.
    site.broker.freeze();
    let (_held, _term) = begin_term();
    site.wait("the term", async || site.metrics.is_leading(JobQueue::Transcode)).await;
    bus.load_record::<JobRecord>(&job.key()).await.expect_err("it is frozen");
    site.broker.thaw();
    for part in &job.parts[..QUEUED_PARTS_MIN] {
        finish_part(&site.admin, job.job_id, part).await;
    }
    site.admin.context().get_stream(subjects::JOBS).await.unwrap().purge().await.unwrap();
    let rest: BTreeSet<String> =
        job.parts[QUEUED_PARTS_MIN..].iter().map(|part| job.part_subject(part)).collect();
    site.wait("its other parts", async || site.queued().await == rest).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_job_is_let_in_once_it_is_resumed() {
    let mut site = Site::start().await;
    site.gate.send_replace(false);
    store(&site.admin, record(1, "olga", JobPriority::P1, 6)).await;
    let _dispatcher = site.dispatcher().await;
    site.worker(1);
    site.wait("a full queue", async || site.queued().await.len() == QUEUED_PARTS_MIN).await;
    change_job(&site.admin, job_id(1), |job| job.with_pause("olga", 5).unwrap().0).await;
    site.gate.send_replace(true);
    site.wait("an empty queue", async || site.queued().await.is_empty()).await;
    store(&site.admin, record(2, "olga", JobPriority::P1, 1)).await;
    site.wait_begun(2).await;
    assert!(site.order().iter().all(|number| *number == 2), "{:?}", site.order());
    let place = site.position(job_id(1)).await.unwrap();
    assert!(!place.is_waiting && place.queued_parts == 0, "{place:?}");
    change_job(&site.admin, job_id(1), |job| job.with_resumption("olga").unwrap().0).await;
    site.wait_begun(2 + 7).await;
    let begun: BTreeSet<(JobId, String)> = site.begun.lock().iter().cloned().collect();
    assert_eq!(begun.len(), 2 + 7, "every part once");
}

async fn pause_queue(bus: &Bus, change: impl Fn(&mut QueuePauses) + Send + Sync) {
    bus.change_record::<QueuePauses>(QueuePauses::KEY, |found| {
        let mut pauses = found.cloned().unwrap_or_default();
        change(&mut pauses);
        Some((pauses, Outbox::new()))
    })
    .await
    .unwrap();
}

fn paused_by_admin() -> QueuePause {
    QueuePause { paused_at_ms: 1, paused_by: "admin".into(), reason: None }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_jobs_of_a_paused_owner_wait_and_those_of_others_go_on() {
    let mut site = Site::start().await;
    site.gate.send_replace(false);
    store(&site.admin, record(1, "olga", JobPriority::P1, 8)).await;
    let first = site.dispatcher().await;
    site.worker(1);
    site.wait("a full queue", async || site.queued().await.len() == QUEUED_PARTS_MIN).await;
    pause_queue(&site.admin, |pauses| _ = pauses.owners.insert("olga".into(), paused_by_admin())).await;
    // Asked for while its owner is paused, and before another one's.
    store(&site.admin, record(2, "olga", JobPriority::P0, 1)).await;
    store(&site.admin, record(3, "otto", JobPriority::P1, 2)).await;
    site.wait("the pause", async || !site.position(job_id(1)).await.unwrap().is_waiting).await;
    site.gate.send_replace(true);
    // What lay in the queue is made to its end.
    site.wait_begun(QUEUED_PARTS_MIN + 3).await;
    site.wait("an empty queue", async || site.queued().await.is_empty()).await;
    // A dispatcher that comes new knows of it, too.
    first.abort();
    let _second = site.dispatcher().await;
    store(&site.admin, record(4, "otto", JobPriority::P2, 1)).await;
    site.wait_begun(QUEUED_PARTS_MIN + 5).await;
    let of = |wanted: u32| site.order().iter().filter(|number| **number == wanted).count();
    assert_eq!((of(1), of(2), of(3), of(4)), (QUEUED_PARTS_MIN, 0, 3, 2));
    pause_queue(&site.admin, |pauses| pauses.owners.clear()).await;
    site.wait_begun(9 + 2 + 5).await;
    assert_eq!((of(1), of(2)), (9, 2), "every part once");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_at_its_limit_waits_and_leaves_its_turns_to_others() {
    let mut site = Site::start().await;
    site.gate.send_replace(false);
    let config = DispatchConfig {
        owner_parts_max: Some(2),
        owner_parts_max_of: BTreeMap::from([("otto".to_owned(), 1)]),
        ..DispatchConfig::default()
    };
    let first = site.dispatcher_with(config.clone()).await;
    let worker =
        schemas::worker::WorkerRecord { slots: 4, state: WorkerState::Running, ..examples::worker_record() };
    site.admin.put_live_record(&worker, Duration::from_secs(120)).await.unwrap();
    store(&site.admin, record(1, "olga", JobPriority::P1, 5)).await;
    store(&site.admin, record(2, "olga", JobPriority::P1, 1)).await;
    store(&site.admin, record(3, "otto", JobPriority::P1, 5)).await;
    // There is room for more.
    let queued_of = async |number: u32| {
        let id = job_id(number).to_string();
        site.queued().await.iter().filter(|subject| subject.contains(&id)).count()
    };
    site.wait("what may be let in", async || {
        (queued_of(1).await + queued_of(2).await, queued_of(3).await) == (2, 1)
    })
    .await;
    let limits = async || {
        let of = async |number| site.position(job_id(number)).await.unwrap().owner_parts_max;
        (of(1).await, of(3).await)
    };
    site.wait("the reason", async || limits().await == (Some(2), Some(1))).await;
    let place = site.position(job_id(1)).await.unwrap();
    assert!(place.queue_parts < place.queue_parts_max, "they wait though the queue has room: {place:?}");
    // What was let in counts, also where its job is paused, and for a dispatcher that comes new.
    change_job(&site.admin, job_id(1), |job| job.with_pause("olga", 5).unwrap().0).await;
    first.abort();
    let _second = site.dispatcher_with(config).await;
    site.wait("an answer", async || site.position(job_id(2)).await.is_ok_and(|place| place.is_waiting)).await;
    // An urgent one goes before everybody's, also before what its owner has too many of.
    store(&site.admin, record(4, "olga", JobPriority::P0, 1)).await;
    site.wait("the urgent part", async || queued_of(4).await == 1).await;
    assert_eq!((queued_of(1).await, queued_of(2).await, queued_of(3).await), (2, 0, 1));
    change_job(&site.admin, job_id(1), |job| job.with_resumption("olga").unwrap().0).await;
    site.worker(4);
    site.gate.send_replace(true);
    site.wait_begun(6 + 2 + 6 + 2).await;
    site.wait("an empty queue", async || site.queued().await.is_empty()).await;
    let begun: BTreeSet<(JobId, String)> = site.begun.lock().iter().cloned().collect();
    assert_eq!(begun.len(), 6 + 2 + 6 + 2, "every part");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_has_the_priority_that_is_set_for_it_where_its_jobs_say_nothing() {
    let site = Site::start().await;
    site.gate.send_replace(false);
    let config = DispatchConfig {
        owner_priorities: BTreeMap::from([
            ("olga".to_owned(), JobPriority::P2),
            ("otto".to_owned(), JobPriority::P0),
        ]),
        kind_priorities: BTreeMap::from([("transcode".to_owned(), JobPriority::P2)]),
        ..DispatchConfig::default()
    };
    let first = site.dispatcher_with(config.clone()).await;
    let worker =
        schemas::worker::WorkerRecord { slots: 4, state: WorkerState::Running, ..examples::worker_record() };
    site.admin.put_live_record(&worker, Duration::from_secs(120)).await.unwrap();
    let said = [
        (1, "olga", JobPriority::P1, "p2"),
        (2, "olga", JobPriority::P0, "p0"),
        (3, "otto", JobPriority::P1, "p0"),
        (4, "otto", JobPriority::P2, "p2"),
        (5, "oscar", JobPriority::P1, "p2"),
    ];
    let has_place = async |site: &Site, number: u32, priority: &str| {
        let id = format!(".{priority}.{}.", job_id(number));
        site.queued().await.iter().any(|subject| subject.contains(&id))
    };
    for (number, owner, priority, _) in said {
        store(&site.admin, record(number, owner, priority, 1)).await;
    }
    for _ in 0..2 {
        for (number, owner, _, wanted) in said {
            site.wait(owner, async || has_place(&site, number, wanted).await).await;
        }
        assert_eq!(site.queued().await.len(), 5, "each once");
        // One that comes new finds them where they are.
        first.abort();
        _ = site.dispatcher_with(config.clone()).await;
        site.wait("an answer", async || site.position(job_id(5)).await.is_ok()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kind_is_paused_for_everybody_until_it_is_resumed() {
    let mut site = Site::start().await;
    pause_queue(&site.admin, |pauses| _ = pauses.kinds.insert("transcode".into(), paused_by_admin())).await;
    // Of another queue: it concerns nobody here.
    pause_queue(&site.admin, |pauses| _ = pauses.kinds.insert("verify".into(), paused_by_admin())).await;
    let _dispatcher = site.dispatcher().await;
    site.worker(1);
    store(&site.admin, record(1, "olga", JobPriority::P1, 1)).await;
    store(&site.admin, record(2, "otto", JobPriority::P0, 1)).await;
    site.wait("an answer", async || site.position(job_id(2)).await.is_ok()).await;
    change_job(&site.admin, job_id(1), |job| job.with_priority(JobPriority::P0, "olga").unwrap().0).await;
    end_job(&site.admin, job_id(2), JobStatus::Cancelled).await;
    pause_queue(&site.admin, |pauses| _ = pauses.kinds.remove("transcode")).await;
    site.wait_begun(2).await;
    assert_eq!(site.order(), [1, 1], "what ended while it was kept out is not let in");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_was_put_aside_is_let_in_once_somebody_resumes_it() {
    let site = Site::start().await;
    let _dispatcher = site.dispatcher().await;
    let park = |is_parked: bool| {
        move |part: &mut JobPartRecord| {
            let lost = job::LostWorkers {
                workers: 3,
                first_at_ms: 1,
                last_at_ms: 2,
                parked_at_ms: Some(2),
                retry_at_ms: None,
            };
            part.lost = is_parked.then_some(lost);
        }
    };
    change_part(&site.admin, job_id(1), "v0000", park(true)).await;
    let made = JobRecord { made: vec!["v0002".into()], ..record(1, "olga", JobPriority::P1, 3) };
    store(&site.admin, made).await;
    let subject = |part: &str| subjects::job_part_subject(job::TRANSCODE, JobPriority::P1, job_id(1), part);
    // The one that is put aside stays away, and so does what an earlier job has made.
    site.wait("the other part", async || site.queued().await == BTreeSet::from([subject("v0001")])).await;
    assert_eq!(site.position(job_id(1)).await.unwrap().parked_parts, 1);
    change_part(&site.admin, job_id(1), "v0000", park(false)).await;
    let look = subjects::dispatch_look_subject(job_id(1));
    site.broker.bus(Role::Ingress).await.publish_core(look, Vec::new()).await.unwrap();
    site.wait("both parts", async || {
        site.queued().await == BTreeSet::from([subject("v0000"), subject("v0001")])
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_lost_workers_stays_out_of_the_queue_until_it_is_due() {
    let site = Site::start().await;
    let retry_at_ms = nats::now_ms() + 3_000;
    change_part(&site.admin, job_id(1), "v0000", |part| {
        part.lost = Some(job::LostWorkers {
            workers: 3,
            first_at_ms: 1,
            last_at_ms: 2,
            parked_at_ms: None,
            retry_at_ms: Some(retry_at_ms),
        });
    })
    .await;
    store(&site.admin, record(1, "olga", JobPriority::P1, 1)).await;
    let _dispatcher = site.dispatcher().await;
    site.wait("a part that is held back", async || {
        site.position(job_id(1)).await.is_ok_and(|place| place.delayed_parts == 1)
    })
    .await;
    assert_eq!(site.position(job_id(1)).await.unwrap().retry_at_ms, Some(retry_at_ms));
    assert_eq!(site.queued().await, BTreeSet::new(), "it takes nobody's room");
    site.wait("the part", async || site.queued().await.len() == 1).await;
    assert!(nats::now_ms() >= retry_at_ms);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_is_not_finished_while_a_kept_part_is_tried_later() {
    let site = Site::start().await;
    let retry_at_ms = nats::now_ms() + 3_000;
    let lost = job::LostWorkers {
        workers: 3,
        first_at_ms: 1,
        last_at_ms: 2,
        parked_at_ms: None,
        retry_at_ms: Some(retry_at_ms),
    };
    change_part(&site.admin, job_id(1), "v0001", |part| part.lost = Some(lost)).await;
    finish_part(&site.admin, job_id(1), "v0000").await;
    store(&site.admin, JobRecord { made: vec!["v0001".into()], ..record(1, "olga", JobPriority::P1, 2) })
        .await;
    let _dispatcher = site.dispatcher().await;
    site.wait("something", async || !site.queued().await.is_empty()).await;
    let part = subjects::job_part_subject(job::TRANSCODE, JobPriority::P1, job_id(1), "v0001");
    assert_eq!(site.queued().await, BTreeSet::from([part]), "the part, and no finish");
    assert!(nats::now_ms() >= retry_at_ms);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_job_of_another_priority_takes_its_new_place_and_nothing_twice() {
    let mut site = Site::start().await;
    site.gate.send_replace(false);
    store(&site.admin, record(1, "olga", JobPriority::P1, 4)).await;
    store(&site.admin, record(2, "olga", JobPriority::P1, 2)).await;
    let _dispatcher = site.dispatcher().await;
    site.worker(1);
    site.wait("a full queue", async || site.queued().await.len() == QUEUED_PARTS_MIN).await;
    // One of which two parts lie in the queue goes behind, the other one before.
    change_job(&site.admin, job_id(1), |job| job.with_priority(JobPriority::P2, "olga").unwrap().0).await;
    change_job(&site.admin, job_id(2), |job| job.with_priority(JobPriority::P0, "olga").unwrap().0).await;
    store(&site.admin, record(3, "otto", JobPriority::P1, 1)).await;
    let is_known = async || site.position(job_id(3)).await.is_ok_and(|place| place.is_waiting);
    site.wait("what was stored last", is_known).await;
    site.gate.send_replace(true);
    site.wait_begun(4 + 2 + 1 + 3).await;
    let begun = site.begun.lock().clone();
    assert_eq!(begun.iter().collect::<BTreeSet<_>>().len(), begun.len(), "every part once: {begun:?}");
    let first = |job: u32, part: &str| {
        begun.iter().position(|(id, name)| *id == job_id(job) && name == part).unwrap()
    };
    assert!(first(2, "v0001") < first(1, "v0002"), "{begun:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_part_that_can_t_be_let_in_stops_no_other() {
    let site = Site::start().await;
    let odd = JobRecord { parts: vec!["no subject".into()], ..record(1, "olga", JobPriority::P1, 1) };
    store(&site.admin, odd).await;
    store(&site.admin, record(2, "olga", JobPriority::P1, 1)).await;
    let _dispatcher = site.dispatcher().await;
    site.wait("the other job", async || !site.queued().await.is_empty()).await;
    assert_eq!(site.position(job_id(1)).await.unwrap().parked_parts, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_whose_version_no_worker_makes_stay_out_of_the_queue_until_one_comes() {
    let site = Site::start().await;
    // As often as a worker shows itself, so that none is forgotten meanwhile.
    let show = |name: &str, version: &str| {
        let worker = schemas::worker::WorkerRecord {
            worker: name.into(),
            options_version: version.into(),
            other_version_wait_ms: 600_000,
            started_at_ms: nats::now_ms(),
            ..examples::worker_record()
        };
        let bus = site.admin.clone();
        AbortOnDropHandle::new(tokio::spawn(async move {
            loop {
                bus.put_live_record(&worker, Duration::from_secs(60)).await.unwrap();
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        }))
    };
    let _new = show("new", "transcode/8");
    for (number, version) in [(1, "transcode/7"), (2, "transcode/7"), (3, "transcode/8")] {
        let mut job =
            JobRecord { created_at_ms: nats::now_ms(), ..record(number, "olga", JobPriority::P1, 9) };
        job.plan.options_version = version.into();
        store(&site.admin, job).await;
    }
    let _dispatcher = site.dispatcher().await;
    let numbers = async || -> BTreeSet<bool> {
        let queued = site.queued().await;
        queued.iter().map(|subject| subject.contains(&job_id(3).to_string())).collect()
    };
    site.wait("the job that can be made", async || !numbers().await.is_empty()).await;
    site.wait("jobs that wait for their version", async || {
        let place = async |number| site.position(job_id(number)).await.unwrap();
        place(1).await.lacks_version && place(2).await.lacks_version
    })
    .await;
    assert_eq!(numbers().await, BTreeSet::from([true]), "only the job that can be made");
    end_job(&site.admin, job_id(3), JobStatus::Cancelled).await;
    let jobs = site.admin.context().get_stream(subjects::JOBS).await.unwrap();
    jobs.purge().await.unwrap();
    let _old = show("old", "transcode/7");
    site.wait("the others", async || numbers().await.contains(&false)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_job_says_of_itself_goes_before_its_parts() {
    let site = Site::start().await;
    let _dispatcher = site.dispatcher().await;
    // What it says can't be published for now.
    let events = site.admin.context().get_stream(subjects::EVENTS).await.unwrap();
    let config = events.cached_info().config.clone();
    let full = async_nats::jetstream::stream::Config { max_bytes: 1, ..config.clone() };
    site.admin.context().update_stream(&full).await.unwrap();
    let job = record(1, "olga", JobPriority::P1, 1);
    let (_, event) = job.with_pause("olga", 1).unwrap();
    let mut held = VersionedRecord::new(job);
    site.admin.commit_record(&mut held, Outbox::new().with_event(&event)).await.unwrap();
    store(&site.admin, record(2, "olga", JobPriority::P1, 1)).await;
    site.wait("the later job", async || !site.queued().await.is_empty()).await;
    assert!(!site.queued().await.iter().any(|subject| subject.contains(&job_id(1).to_string())));
    site.admin.context().update_stream(&config).await.unwrap();
    assert!(site.admin.sweep_record("jobs", &job_id(1).to_string()).await.unwrap());
    site.wait("both jobs", async || site.queued().await.len() == 2).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_queue_that_takes_nothing_is_waited_for() {
    let mut site = Site::start().await;
    let jobs = site.admin.context().get_stream(subjects::JOBS).await.unwrap();
    let config = jobs.cached_info().config.clone();
    let full = async_nats::jetstream::stream::Config { max_bytes: 1, ..config.clone() };
    site.admin.context().update_stream(&full).await.unwrap();
    let _dispatcher = site.dispatcher().await;
    store(&site.admin, record(1, "olga", JobPriority::P1, 2)).await;
    site.wait("a job that waits", async || {
        site.position(job_id(1)).await.is_ok_and(|place| place.is_waiting)
    })
    .await;
    site.admin.context().update_stream(&config).await.unwrap();
    site.worker(1);
    site.wait_begun(3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_keeper_nobody_answers() {
    let site = Site::start().await;
    let error = site.position(job_id(1)).await.unwrap_err();
    assert_eq!(error.code(), "broker_unavailable", "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_queue_takes_two_parts_for_each_slot_of_the_workers_that_live() {
    let site = Site::start().await;
    let _dispatcher = site.dispatcher().await;
    let (slots, job) = (5, record(1, "olga", JobPriority::P1, 40));
    store(&site.admin, job).await;
    site.wait("a few parts", async || site.queued().await.len() == QUEUED_PARTS_MIN).await;
    assert_eq!(site.position(job_id(1)).await.unwrap().workers, 0);
    let worker =
        schemas::worker::WorkerRecord { slots, state: WorkerState::Running, ..examples::worker_record() };
    let ttl = Duration::from_secs(60);
    site.admin.put_live_record(&worker, ttl).await.unwrap();
    let full = QUEUED_PARTS_PER_SLOT * slots as usize;
    site.wait("as many as it works through", async || site.queued().await.len() == full).await;
    let place = site.position(job_id(1)).await.unwrap();
    assert_eq!((place.workers, place.slots, place.queue_parts_max as usize), (1, slots, full));
    // One that takes nothing new counts no slots, and the part that it holds takes nobody's room.
    let paused = schemas::worker::WorkerRecord { state: WorkerState::Paused, ..worker };
    assert_eq!(paused.held.len(), 1);
    site.admin.put_live_record(&paused, ttl).await.unwrap();
    site.wait("no slots", async || site.position(job_id(1)).await.unwrap().slots == 0).await;
    let jobs = site.admin.context().get_stream(subjects::JOBS).await.unwrap();
    jobs.purge().await.unwrap();
    site.wait("a few parts again", async || site.queued().await.len() == QUEUED_PARTS_MIN + 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_that_nobody_takes_do_not_keep_the_others_out() {
    let site = Site::start().await;
    let worker = schemas::worker::WorkerRecord {
        slots: 1,
        held: Vec::new(),
        state: WorkerState::Running,
        ..examples::worker_record()
    };
    site.admin.put_live_record(&worker, Duration::from_secs(60)).await.unwrap();
    store(&site.admin, record(1, "delayed", JobPriority::P1, 40)).await;
    let _dispatcher = site.dispatcher().await;
    site.wait("a full queue", async || site.queued().await.len() == 2).await;
    // Its slot is free, and says so again and again.
    let showing = site.broker.bus(Role::Transcode).await;
    let shown = tokio::spawn(async move {
        loop {
            showing.put_live_record(&worker, Duration::from_secs(60)).await.unwrap();
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
    });
    store(&site.admin, record(2, "olga", JobPriority::P1, 1)).await;
    site.wait("the other part", async || {
        site.queued().await.iter().any(|subject| subject.contains(&job_id(2).to_string()))
    })
    .await;
    shown.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn kept_parts_whose_records_never_come_are_made_anew_before_the_finish() {
    let mut site = Site::start().await;
    let _dispatcher = site.dispatcher().await;
    site.worker(1);
    // Long ago: its planner will not come back.
    let made = JobRecord { made: vec!["v0001".into()], ..record(1, "olga", JobPriority::P1, 3) };
    store(&site.admin, made).await;
    site.wait_begun(4).await;
    let parts: Vec<String> = site.begun.lock().iter().map(|(_, part)| part.clone()).collect();
    assert_eq!(parts, ["v0000", "v0002", "v0001", job::FINISH]);
    // Of a new one they are waited for.
    let young = JobRecord {
        made: vec!["v0001".into()],
        created_at_ms: nats::now_ms(),
        ..record(2, "olga", JobPriority::P1, 2)
    };
    store(&site.admin, young).await;
    site.wait_begun(5).await;
    finish_part(&site.admin, job_id(2), "v0001").await;
    site.wait_begun(6).await;
    let last = site.begun.lock()[4..].to_vec();
    assert_eq!(last, [(job_id(2), "v0000".into()), (job_id(2), job::FINISH.into())]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dispatcher_that_stops_gives_its_lease_back() {
    let site = Site::start().await;
    let bus = site.broker.bus(Role::Keeper).await;
    let stop = CancellationToken::new();
    let stopped = tokio::spawn(run_dispatcher(
        bus,
        JobQueue::Transcode,
        DispatchConfig::default(),
        site.metrics.clone(),
        stop.clone(),
    ));
    site.wait("an answer", async || site.position(job_id(1)).await.is_ok()).await;
    stop.cancel();
    stopped.await.unwrap();
    let taken = site
        .broker
        .bus(Role::Keeper)
        .await
        .acquire_lease(crate::lease_name(JobQueue::Transcode), "next")
        .await
        .unwrap();
    assert!(taken.is_some(), "the next one need not wait");
}

#[tokio::test]
async fn why_the_next_jobs_wait_is_published_once_and_nothing_of_those_behind_them() {
    let mut site = Site::start().await;
    for number in 0..200 {
        store(&site.admin, record(number, "olga", JobPriority::P1, 2)).await;
    }
    store(&site.admin, record(500, "ann", JobPriority::P1, 2)).await;
    let settings = nats::reader::ReaderConfig::new(
        subjects::EVENTS.to_owned(),
        vec![subjects::event_filter::<job::JobWaiting>()],
        nats::ReaderStart::All,
    );
    let dispatching = site.dispatcher().await;
    site.tasks.push(dispatching);
    let said = async || {
        let mut reader = site.admin.open_reader(settings.clone()).await.unwrap();
        let mut found: BTreeMap<u32, Vec<job::JobWaiting>> = BTreeMap::new();
        while let Some(entry) = reader.next_pending().await.unwrap() {
            let event: job::JobWaiting = nats::decode_message(&entry.subject, &entry.payload).unwrap();
            found.entry(number_of(event.job_id)).or_default().push(event);
        }
        found
    };
    site.wait("why jobs wait", async || !said().await.is_empty()).await;
    // Looks behind that one say nothing of those again.
    store(&site.admin, record(600, "zoe", JobPriority::P1, 2)).await;
    site.wait("why another owner's job waits", async || said().await.contains_key(&600)).await;
    let later = said().await;
    assert!(later.values().all(|events| events.len() == 1), "{later:?}");
    assert!(later.len() <= QUEUED_PARTS_MIN + 3, "{} jobs", later.len());
    let event = &later.values().next().unwrap()[0];
    assert_eq!(event.reason, "no_worker");
    assert_eq!(event.sentence, "No worker of its queue shows itself: start `streamgate worker transcode`.");
    assert!(later.keys().all(|number| *number < 100 || *number >= 500), "{:?}", later.keys());
}

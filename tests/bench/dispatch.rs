//! The dispatcher: how soon a job is begun on an idle system, how fast parts are let in, and what waiting jobs cost.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use dispatch::{DispatchConfig, DispatchMetrics, run_dispatcher};
use futures::StreamExt;
use nats::{
    Bus, MessageDelivery, Outbox, PipelineStage, Role, StageFault, StageOutcome, VersionedRecord,
    consume::{ConsumeConfig, StageQueue, run_stage},
    testing::TestBroker,
};
use schemas::{
    dispatch_query::{self, DispatchPosition, DispatchPositionQuery},
    envelope::RecordEnvelope,
    examples,
    ids::{JobId, MediaId},
    job::{self, JobPartRecord, JobPartStatus, JobPartTask, JobQueue, JobRecord, JobStatus},
    subjects::{self, JobPriority},
    worker::{WorkerRecord, WorkerState},
};
use serde_bytes::ByteBuf;
use tokio::{sync::mpsc, task::JoinHandle};
use tokio_util::sync::CancellationToken;

use crate::{Aim, Row, median, process, size};

/// Jobs that are begun one after another on an idle system.
const IDLE_JOBS: usize = 300;

/// Parts of the job that is let in as fast as workers take it.
const FLOOD_PARTS: usize = 800;

/// Slots of the worker that takes them.
const FLOOD_SLOTS: u32 = 16;

/// Records that are stored at once.
const IN_FLIGHT: usize = 512;

/// Owners among whom the waiting jobs are spread.
const OWNERS: usize = 1_000;

/// A worker whose parts take no time.
struct InstantWorker {
    bus: Bus,
    begun: mpsc::UnboundedSender<BegunPart>,
}

/// A part as it was begun.
struct BegunPart {
    job_id: JobId,
    at: Instant,
}

impl PipelineStage for InstantWorker {
    const NAME: &'static str = "transcode";
    type Message = JobPartTask;

    async fn handle(&self, task: &JobPartTask, _: &MessageDelivery) -> Result<StageOutcome, StageFault> {
        let begun = Instant::now();
        let done =
            JobPartRecord { status: JobPartStatus::Done, ..JobPartRecord::new(task.job_id, &*task.part) };
        // A part that comes twice is no matter here.
        self.bus.commit_record(&mut VersionedRecord::new(done), Outbox::new()).await.ok();
        if task.part == job::FINISH {
            let end = |found: Option<&JobRecord>| {
                let mut job = found.filter(|job| job.status == JobStatus::Active)?.clone();
                job.mark_ended(JobStatus::Succeeded, nats::now_ms(), schemas::ENDED_KEPT_MS);
                Some((job, Outbox::new()))
            };
            self.bus.change_record::<JobRecord>(&task.job_id.to_string(), end).await.ok();
        } else {
            self.begun.send(BegunPart { job_id: task.job_id, at: begun }).ok();
        }
        Ok(StageOutcome::Done)
    }
}

/// A broker with a worker, whose parts are noted as they begin.
struct Site {
    broker: TestBroker,
    admin: Bus,
    begun: mpsc::UnboundedReceiver<BegunPart>,
    tasks: Vec<JoinHandle<()>>,
}

impl Drop for Site {
    fn drop(&mut self) {
        self.tasks.iter().for_each(JoinHandle::abort);
    }
}

async fn bus(broker: &TestBroker, role: Role) -> Bus {
    let seed = Some(broker.seed(role).to_owned());
    Bus::connect(&nats::BusConfig::new(vec![broker.url().to_owned()], role, seed)).await.unwrap()
}

impl Site {
    /// Without slots there is no worker.
    async fn start(slots: u32) -> Self {
        let broker = TestBroker::start().await;
        let admin = bus(&broker, Role::Admin).await;
        let (noting, begun) = mpsc::unbounded_channel();
        let mut site = Self { admin: admin.clone(), begun, tasks: Vec::new(), broker };
        if slots == 0 {
            return site;
        }
        let queue = StageQueue {
            stream: subjects::JOBS.into(),
            durables: JobPriority::ALL.iter().map(|p| format!("transcode-{}", p.subject_token())).collect(),
            wake: vec![subjects::job_filter(job::TRANSCODE)],
        };
        let worker = Arc::new(InstantWorker { bus: admin.clone(), begun: noting });
        let config = ConsumeConfig { slots: slots as usize, ..ConsumeConfig::default() };
        let worker_bus = admin.clone();
        site.tasks.push(tokio::spawn(async move {
            run_stage(worker_bus, queue, worker, config, CancellationToken::new()).await.unwrap();
        }));
        let shown = WorkerRecord {
            slots,
            held: Vec::new(),
            state: WorkerState::Running,
            ..examples::worker_record()
        };
        site.tasks.push(tokio::spawn(async move {
            loop {
                admin.put_live_record(&shown, Duration::from_secs(60)).await.unwrap();
                tokio::time::sleep(Duration::from_secs(3)).await;
            }
        }));
        site
    }

    /// A dispatcher that ends without a word when the task is aborted.
    async fn start_dispatcher(&self) -> JoinHandle<()> {
        let keeper = bus(&self.broker, Role::Keeper).await;
        tokio::spawn(run_dispatcher(
            keeper,
            JobQueue::Transcode,
            DispatchConfig::default(),
            DispatchMetrics::default(),
            CancellationToken::new(),
        ))
    }

    async fn dispatch(&mut self) {
        let dispatcher = self.start_dispatcher().await;
        self.tasks.push(dispatcher);
        wait_for_leader(&self.admin).await;
    }
}

/// Waits until a dispatcher answers: it leads.
async fn wait_for_leader(bus: &Bus) {
    while jobs_waiting(bus).await.is_none() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// Jobs that wait, once the dispatcher answers.
async fn jobs_waiting(bus: &Bus) -> Option<u32> {
    let question = DispatchPositionQuery { job_id: JobId::from_bytes([0; 16]) };
    let subject = subjects::dispatch_request_subject(dispatch_query::position_verb(JobQueue::Transcode));
    let answer = bus.request::<_, DispatchPosition>(subject, &question, Duration::from_secs(2)).await;
    answer.ok().map(|position| position.jobs_waiting)
}

fn job(number: usize, parts: usize) -> JobRecord {
    JobRecord {
        job_id: JobId::from_bytes((number as u128 + 1).to_be_bytes()),
        media_id: MediaId::from_bytes([8; 16]),
        owner: format!("owner-{}", number % OWNERS),
        status: JobStatus::Active,
        parts: (0..parts).map(|part| format!("v{part:04}")).collect(),
        created_at_ms: 1_000_000 + number as u64,
        ..examples::job_record()
    }
}

/// From storing a job to its first part in the hands of a worker, while nothing else happens.
pub(crate) async fn queued_to_begun() -> Row {
    let mut site = Site::start(2).await;
    site.dispatch().await;
    let mut times_ms = Vec::new();
    for number in 0..IDLE_JOBS {
        let stored = Instant::now();
        let record = job(number, 1);
        let mut held = VersionedRecord::new(record);
        site.admin.commit_record(&mut held, Outbox::new()).await.unwrap();
        let begun = site.begun.recv().await.unwrap();
        times_ms.push(begun.at.duration_since(stored).as_secs_f64() * 1_000.0);
        // Unless its finish was first.
        held.record.status = JobStatus::Succeeded;
        site.admin.commit_record(&mut held, Outbox::new()).await.ok();
    }
    times_ms.sort_by(f64::total_cmp);
    Row {
        name: "queued to begun, p99 of 300 jobs",
        ours: times_ms[IDLE_JOBS * 99 / 100],
        baseline: 0.0,
        unit: "ms",
        against: "none",
        aim: Aim::Most(50.0),
    }
}

/// Parts that are begun in a second, against the same parts that all lie in the queue from the beginning.
pub(crate) async fn parts_per_second() -> Row {
    let (mut ours, mut plain) = (Vec::new(), Vec::new());
    for _ in 0..3 {
        for is_dispatched in [true, false] {
            let mut site = Site::start(FLOOD_SLOTS).await;
            let record = job(0, FLOOD_PARTS);
            if is_dispatched {
                site.dispatch().await;
            }
            let started = Instant::now();
            if is_dispatched {
                site.admin.commit_record(&mut VersionedRecord::new(record), Outbox::new()).await.unwrap();
            } else {
                futures::stream::iter(&record.parts)
                    .for_each_concurrent(IN_FLIGHT, |part| async {
                        let task = JobPartTask { job_id: record.job_id, part: part.clone() };
                        let subject = record.part_subject(part);
                        site.admin.publish_once(subjects::JOBS, &subject, &task).await.unwrap();
                    })
                    .await;
            }
            for _ in 0..FLOOD_PARTS {
                site.begun.recv().await.unwrap();
            }
            let rate = FLOOD_PARTS as f64 / started.elapsed().as_secs_f64();
            if is_dispatched { &mut ours } else { &mut plain }.push(rate);
        }
    }
    Row {
        name: "parts begun, 16 slots",
        ours: median(ours),
        baseline: median(plain),
        unit: "/s",
        against: "all queued at once",
        aim: Aim::RatioLeast(0.2),
    }
}

/// Stores jobs as fast as the broker takes them.
async fn store_jobs(bus: &Bus, jobs: impl Iterator<Item = JobRecord>) {
    let context = bus.context().clone();
    futures::stream::iter(jobs)
        .for_each_concurrent(IN_FLIGHT, |record| {
            let context = context.clone();
            async move {
                let subject = subjects::kv_subject("jobs", &record.job_id.to_string());
                let bytes = nats::encode_message("job", &record).unwrap();
                let envelope = RecordEnvelope {
                    record: ByteBuf::from(bytes),
                    unsent: Vec::new(),
                    changed_at_ms: 1,
                    expires_at_ms: None,
                    trace: None,
                };
                let bytes = nats::encode_message("job", &envelope).unwrap();
                context.publish(subject, bytes.into()).await.unwrap().await.unwrap();
            }
        })
        .await;
}

/// Lets the bucket of the jobs take as many as there are: its limit is meant for fewer.
async fn lift_limit(bus: &Bus) {
    let name = subjects::kv_stream_name("jobs");
    let mut config = bus.context().get_stream(&name).await.unwrap().cached_info().config.clone();
    config.max_bytes = -1;
    bus.context().update_stream(config).await.unwrap();
}

fn figure(name: &'static str, ours: f64, unit: &'static str, most: f64) -> Row {
    Row { name, ours, baseline: 0.0, unit, against: "none", aim: Aim::Most(most) }
}

/// Longest wait for a part: what does not come by then is lost.
const PART_WAIT_MAX: Duration = Duration::from_secs(60);

impl Site {
    /// The next parts that are begun, until there are `count`, or none comes any more.
    async fn take_begun(&mut self, begun: &mut Vec<BegunPart>, count: usize) {
        while begun.len() < count {
            match tokio::time::timeout(PART_WAIT_MAX, self.begun.recv()).await {
                Ok(Some(part)) => begun.push(part),
                Ok(None) | Err(_) => return,
            }
        }
    }
}

/// How many jobs of which there are `count` were begun twice, or never.
fn count_odd(begun: &[BegunPart], count: usize) -> f64 {
    let mut ids: Vec<JobId> = begun.iter().map(|part| part.job_id).collect();
    ids.sort_unstable();
    ids.dedup();
    ((begun.len() - ids.len()) + count.saturating_sub(ids.len())) as f64
}

/// A flood of jobs of one owner, then ten jobs of another and an urgent one: how many parts go before their first, and whether anything is
/// lost or begun twice.
pub(crate) async fn flood() -> [Row; 3] {
    let count = usize::try_from(size("BENCH_FLOOD", 10_000)).unwrap();
    let mut site = Site::start(FLOOD_SLOTS).await;
    let flood = |number| JobRecord { owner: "flood".into(), ..job(number, 1) };
    let other = |number| JobRecord { owner: "other".into(), ..job(count + number, 1) };
    let urgent = JobRecord { owner: "urgent".into(), priority: JobPriority::P0, ..job(count + 100, 1) };
    store_jobs(&site.admin, (0..count).map(flood)).await;
    site.dispatch().await;
    let mut begun: Vec<BegunPart> = Vec::new();
    site.take_begun(&mut begun, count / 10).await;
    let stored = Instant::now();
    store_jobs(&site.admin, (0..10).map(other).chain([urgent.clone()])).await;
    site.take_begun(&mut begun, count + 11).await;
    let odd = count_odd(&begun, count + 11);
    begun.sort_by_key(|part| part.at);
    let late: Vec<JobId> = begun.iter().filter(|part| part.at > stored).map(|part| part.job_id).collect();
    let first = |wanted: &dyn Fn(JobId) -> bool| {
        late.iter().position(|id| wanted(*id)).map_or(f64::INFINITY, |position| position as f64)
    };
    let others: Vec<JobId> = (0..10).map(|number| other(number).job_id).collect();
    let slots = f64::from(FLOOD_SLOTS);
    let before_other = first(&|id| others.contains(&id));
    let before_urgent = first(&|id| id == urgent.job_id);
    [
        figure(
            "flood (BENCH_FLOOD), parts before another owner's first",
            before_other,
            "parts",
            2.0 * slots + 1.0,
        ),
        figure("flood, parts before an urgent one", before_urgent, "parts", 2.0 * slots + 1.0),
        figure("flood, jobs begun twice or never", odd, "jobs", 0.0),
    ]
}

/// A dispatcher that is killed while many jobs wait: how soon a standby lets parts in, and whether anything is begun twice.
pub(crate) async fn killed_dispatcher() -> [Row; 2] {
    let count = usize::try_from(size("BENCH_WAITING", 100_000)).unwrap();
    let mut site = Site::start(FLOOD_SLOTS).await;
    store_jobs(&site.admin, (0..count).map(|number| job(number, 1))).await;
    let leader = site.start_dispatcher().await;
    wait_for_leader(&site.admin).await;
    let standby = site.start_dispatcher().await;
    site.tasks.push(standby);
    let mut begun = Vec::new();
    site.take_begun(&mut begun, 1_000.min(count / 2)).await;
    leader.abort();
    let (killed, mut slowest_s) = (Instant::now(), 0.0_f64);
    let mut last = killed;
    for wanted in begun.len() + 1..=2_000.min(count) {
        site.take_begun(&mut begun, wanted).await;
        slowest_s = slowest_s.max(last.elapsed().as_secs_f64());
        last = Instant::now();
        if begun.len() < wanted {
            break;
        }
    }
    [
        figure("dispatcher killed (BENCH_WAITING), longest pause", slowest_s, "s", 10.0),
        figure(
            "dispatcher killed, jobs begun twice or not of 2,000",
            count_odd(&begun, 2_000.min(count)),
            "jobs",
            0.0,
        ),
    ]
}

/// What waiting jobs cost a dispatcher: the time until it knows them all, and its memory.
pub(crate) async fn waiting_jobs() -> [Row; 2] {
    let count = usize::try_from(size("BENCH_JOBS", 1_000_000)).unwrap();
    let mut site = Site::start(0).await;
    lift_limit(&site.admin).await;
    store_jobs(&site.admin, (0..count).map(|number| job(number, 4))).await;
    let memory_kb = || process::resident_kb(std::process::id());
    let (before_kb, started) = (memory_kb(), Instant::now());
    site.dispatch().await;
    // What is let in stays in the queue: there is no worker.
    while (jobs_waiting(&site.admin).await.unwrap_or(0) as usize) + 8 < count {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let seconds = started.elapsed().as_secs_f64();
    let memory_mib = (memory_kb() - before_kb) / 1_024.0;
    [
        figure("waiting jobs (BENCH_JOBS), until all are known", seconds, "s", 10.0),
        figure("waiting jobs (BENCH_JOBS), memory", memory_mib, "MiB", 300.0),
    ]
}

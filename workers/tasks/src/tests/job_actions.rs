//! Actions on jobs, with a list that is answered here, and an actor that notes what it was given.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use parking_lot::Mutex;
use schemas::{
    examples,
    index_query::{self, IndexReply, JobIndexItem, JobIndexPage, JobIndexQuery},
    job_action::{JobAction, JobActionRefusal, JobActionReport, JobFilter},
};
use tokio::sync::Semaphore;

use super::*;

/// Jobs of the list, in pages of four.
const JOBS: u8 = 10;
const PAGE: u8 = 4;

fn listed(number: u8) -> JobId {
    JobId::from_bytes([number; 16])
}

/// Notes jobs, and waits for a permit with each.
#[derive(Debug)]
struct NotingActor {
    given: Mutex<Vec<JobId>>,
    permits: Semaphore,
    is_broker_away: AtomicBool,
}

impl NotingActor {
    fn new(permits: usize) -> Arc<Self> {
        let given = Mutex::default();
        Arc::new(Self { given, permits: Semaphore::new(permits), is_broker_away: AtomicBool::new(false) })
    }

    fn numbers(&self) -> Vec<u8> {
        let mut numbers: Vec<u8> = self.given.lock().iter().map(|job_id| job_id.as_bytes()[0]).collect();
        numbers.sort_unstable();
        numbers
    }
}

impl JobActor for NotingActor {
    fn act<'a>(
        &'a self,
        job_id: JobId,
        order: &'a JobActionOrder,
        by: &'a JobRecord,
    ) -> BoxFuture<'a, Result<Option<JobActionOutcome>, TaskError>> {
        Box::pin(async move {
            self.permits.acquire().await.unwrap().forget();
            if self.is_broker_away.swap(false, Ordering::SeqCst) {
                return Err(nats::BusError::unavailable("the broker is away").into());
            }
            assert_eq!((order.action, order.asked_by.as_str()), (JobAction::Pause {}, "olga"));
            assert_eq!(by.action.as_ref(), Some(order));
            let mut given = self.given.lock();
            let is_new = !given.contains(&job_id);
            given.push(job_id);
            Ok(match job_id.as_bytes()[0] % 4 {
                // As one that was cancelled: it is none of the filter any more.
                _ if !is_new => None,
                0 => None,
                1 => Some(JobActionOutcome::Changed),
                2 => Some(JobActionOutcome::Unchanged),
                _ => {
                    let (code, detail) = ("job_publishing".into(), "too late".into());
                    Some(JobActionOutcome::Refused { code, detail })
                }
            })
        })
    }
}

/// Answers as the index does; with `INDEX_BEHIND` at first. Answers how often it was asked.
async fn answer_as_index(site: &mut Site) -> Arc<AtomicUsize> {
    let bus = site.broker.bus(Role::Index).await;
    let mut questions = bus.subscribe_core(subjects::index_request_subject(index_query::JOBS)).await.unwrap();
    nats::testing::wait_until_taken(&bus).await;
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    site.tasks.push(AbortOnDropHandle::new(tokio::spawn(async move {
        while let Some(question) = questions.next().await {
            let wanted: JobIndexQuery = nats::decode_message(&question.subject, &question.payload).unwrap();
            assert_eq!((wanted.owner.as_deref(), wanted.status), (Some("olga"), Some(JobStatus::Active)));
            assert!(wanted.min_revision.is_some(), "what was there when it was asked for is in the list");
            let reply = if count.fetch_add(1, Ordering::SeqCst) == 0 {
                let (code, detail) = (index_query::INDEX_BEHIND.to_owned(), "it reads".to_owned());
                IndexReply::Refused { code, detail }
            } else {
                IndexReply::Page(page_behind(wanted.cursor.as_deref()))
            };
            let answer = nats::encode_message(&question.subject, &reply).unwrap();
            bus.publish_core(question.reply.unwrap().to_string(), answer).await.unwrap();
        }
    })));
    asked
}

fn page_behind(cursor: Option<&str>) -> JobIndexPage {
    let first = cursor.map_or(0, |cursor| cursor.parse::<u8>().unwrap());
    let end = (first + PAGE).min(JOBS);
    let item = |number| JobIndexItem { job_id: listed(number), ..examples::job_index_item() };
    let next = (end < JOBS).then(|| end.to_string());
    JobIndexPage { items: (first..end).map(item).collect(), next, revision: 1 }
}

async fn begin_action(site: &Site) -> JobId {
    let job_id = JobId::from_bytes(nats::new_id_bytes());
    let order = JobActionOrder {
        action: JobAction::Pause {},
        filter: JobFilter { kind: Some("transcode".into()), ..JobFilter::default() },
        is_dry_run: false,
        asked_by: "olga".into(),
        only_owner: Some("olga".into()),
    };
    let about = (MediaId::NONE, "olga");
    let plan = (job::EncodePlan::default(), JobPriority::P1);
    let record = JobRecord::new_task(job_id, job::JOB_ACTION, about, plan, nats::now_ms());
    site.put(JobRecord { action: Some(order), ..record }).await;
    job_id
}

fn whole_report() -> JobActionReport {
    let refusal = |number| JobActionRefusal {
        job_id: listed(number),
        code: "job_publishing".into(),
        detail: "too late".into(),
    };
    JobActionReport {
        matched: 7,
        changed: 3,
        unchanged: 2,
        refused: 2,
        first_refusals: vec![refusal(3), refusal(7)],
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn every_job_of_the_list_is_acted_on_and_counted() {
    let mut site = Site::start().await;
    let asked = answer_as_index(&mut site).await;
    let actor = NotingActor::new(100);
    site.worker_with(config(), Arc::<NotingActor>::clone(&actor)).await;
    let job_id = begin_action(&site).await;
    let job = site.ended(job_id).await;
    assert_eq!((job.status, job.acted), (JobStatus::Succeeded, Some(whole_report())));
    assert_eq!(actor.numbers(), (0..JOBS).collect::<Vec<_>>(), "each once");
    assert_eq!(asked.load(Ordering::SeqCst), 4, "it was behind, and has three pages");
    assert_eq!(site.part(job_id).await.unwrap().faults, 0, "an index that is behind is no try");
    assert_eq!(site.events(job_id).await, ["started", "succeeded"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_takes_over_goes_on_behind_the_last_page() {
    let mut site = Site::start().await;
    answer_as_index(&mut site).await;
    let first = NotingActor::new(usize::from(PAGE) + 1);
    site.worker_with(config(), Arc::<NotingActor>::clone(&first)).await;
    let job_id = begin_action(&site).await;
    site.wait("the second page", async || first.given.lock().len() > usize::from(PAGE)).await;
    // Without a word: its claim has to run out.
    drop(site.tasks.pop());
    let second = NotingActor::new(100);
    second.is_broker_away.store(true, Ordering::SeqCst);
    site.worker_with(config(), Arc::<NotingActor>::clone(&second)).await;
    let job = site.ended(job_id).await;
    assert_eq!(job.acted, Some(whole_report()), "what the first one counted is kept");
    assert_eq!(second.numbers(), (PAGE..JOBS).collect::<Vec<_>>(), "each once, also behind the outage");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_is_cancelled_says_what_it_had_done() {
    let mut site = Site::start().await;
    answer_as_index(&mut site).await;
    // The second page is cut off behind two jobs, of which one is none of the filter.
    let actor = NotingActor::new(usize::from(PAGE) + 2);
    site.worker_with(config(), Arc::<NotingActor>::clone(&actor)).await;
    let job_id = begin_action(&site).await;
    site.wait("a part of the second page", async || actor.given.lock().len() == usize::from(PAGE) + 2).await;
    let cancel = |found: Option<&JobRecord>| {
        let (record, event) =
            found?.with_cancellation(Some("olga"), nats::now_ms(), schemas::ENDED_KEPT_MS)?;
        Some((record, Outbox::new().with_event(&event)))
    };
    site.admin.change_record::<JobRecord>(&job_id.to_string(), cancel).await.unwrap();
    let job = site.ended(job_id).await;
    let report = job.acted.unwrap();
    assert_eq!((job.status, report.matched, report.changed), (JobStatus::Cancelled, 4, 2), "{report:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_action_that_nobody_holds_says_what_was_done_when_it_is_cancelled() {
    let mut site = Site::start().await;
    answer_as_index(&mut site).await;
    let actor = NotingActor::new(usize::from(PAGE) + 1);
    site.worker_with(config(), Arc::<NotingActor>::clone(&actor)).await;
    let job_id = begin_action(&site).await;
    site.wait("a part of the second page", async || actor.given.lock().len() > usize::from(PAGE)).await;
    // It is cut off between two pages, by a worker that has to stop, and cancelled before another one takes it.
    drop(site.tasks.pop());
    let cancel = |found: Option<&JobRecord>| {
        let (record, event) =
            found?.with_cancellation(Some("olga"), nats::now_ms(), schemas::ENDED_KEPT_MS)?;
        Some((record, Outbox::new().with_event(&event)))
    };
    site.admin.change_record::<JobRecord>(&job_id.to_string(), cancel).await.unwrap();
    site.worker(config()).await;
    let job = site.ended(job_id).await;
    assert_eq!(job.acted.map(|report| report.matched), Some(3), "of its first page");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_without_an_action_is_given_up() {
    let mut site = Site::start().await;
    site.worker(config()).await;
    let about = (MediaId::NONE, "olga");
    let plan = (job::EncodePlan::default(), JobPriority::P1);
    let job_id = JobId::from_bytes(nats::new_id_bytes());
    site.put(JobRecord::new_task(job_id, job::JOB_ACTION, about, plan, nats::now_ms())).await;
    let job = site.ended(job_id).await;
    assert_eq!((job.status, job.code.as_deref()), (JobStatus::Failed, Some("job_unknown")));
}

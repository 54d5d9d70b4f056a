//! The jobs there are: follows their records, not those of their parts, which have a longer key.

use nats::{
    BusError, ReaderStart, StreamReader,
    reader::{ReaderConfig, StreamEntry},
};
use schemars::JsonSchema;
use schemas::{
    KvRecord,
    ids::JobId,
    job::{JobKind, JobQueue, JobRecord, JobStatus},
    subjects::{self, JobPriority},
};
use serde::{Deserialize, Serialize};

use crate::{dispatcher::Dispatcher, queue::WaitingJob};

/// What waiting needs of a job's record: of a million waiting jobs nobody needs the plans.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct JobHeader {
    job_id: JobId,
    kind: String,
    owner: String,
    priority: JobPriority,
    status: JobStatus,
    created_at_ms: u64,
    #[serde(default)]
    paused_at_ms: Option<u64>,
    #[serde(default)]
    plan: PlanHeader,
}

/// What waiting needs of a job's plan.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
struct PlanHeader {
    #[serde(default)]
    options_version: String,
}

impl JobHeader {
    /// What waits for a turn in `queue`, if parts of it are to be let in there. Those of a kind that no worker takes would fill it for
    /// ever.
    fn into_waiting(self, queue: JobQueue) -> Option<WaitingJob> {
        let kind = JobKind::parse(&self.kind).filter(|kind| kind.queue() == queue)?;
        (self.status == JobStatus::Active && self.paused_at_ms.is_none()).then(|| WaitingJob {
            job_id: self.job_id,
            kind,
            owner: self.owner.into(),
            priority: self.priority,
            created_at_ms: self.created_at_ms,
            options_version: self.plan.options_version.into(),
        })
    }
}

impl KvRecord for JobHeader {
    const BUCKET: &'static str = JobRecord::BUCKET;
    fn key(&self) -> String {
        self.job_id.to_string()
    }
}

/// Follows the jobs, for as long as it is waited for.
pub(crate) async fn follow_jobs(dispatcher: &Dispatcher) {
    let bucket = JobRecord::BUCKET;
    loop {
        let settings = ReaderConfig::new(
            subjects::kv_stream_name(bucket),
            vec![subjects::kv_subject(bucket, "*")],
            ReaderStart::LastPerSubject,
        );
        dispatcher.begin_following();
        let mut reader = dispatcher.bus().follow_stream("dispatch-jobs", settings);
        if follow_entries(dispatcher, &mut reader).await.is_err() {
            tracing::warn!("the jobs are read anew");
        }
        // Another bucket of the same name: its jobs are others.
    }
}

/// Reads the jobs that there are, then what changes, until the bucket is another one.
async fn follow_entries(dispatcher: &Dispatcher, reader: &mut StreamReader) -> Result<(), BusError> {
    // Not counted down: a record that expires meanwhile never comes.
    while let Some(entry) = reader.next_pending().await? {
        apply_entry(dispatcher, &entry);
    }
    dispatcher.note_followed();
    loop {
        apply_entry(dispatcher, &reader.next().await?);
    }
}

fn apply_entry(dispatcher: &Dispatcher, entry: &StreamEntry) {
    let prefix = subjects::kv_subject(JobRecord::BUCKET, "");
    let key = entry.subject.strip_prefix(&prefix).unwrap_or_default();
    let Ok(job_id) = key.parse::<JobId>() else { return };
    let queue = dispatcher.queue();
    let found = nats::decode_record::<JobHeader>(key, &entry.payload).ok();
    match found.and_then(|(envelope, header)| Some((envelope, header.into_waiting(queue)?))) {
        // What it says of itself is not published yet, and goes before what workers say of it: the write that clears it comes.
        Some((envelope, _)) if !envelope.unsent.is_empty() => {}
        Some((_, job)) => dispatcher.let_wait(&job),
        // Ended, paused, removed, of another queue, or of a newer version that this one can't read.
        None => dispatcher.forget_job(job_id),
    }
}

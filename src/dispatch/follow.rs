//! The jobs there are: follows their records, not those of their parts, which have a longer key.

use nats::{ReaderStart, reader::ReaderConfig};
use schemars::JsonSchema;
use schemas::{
    KvRecord,
    ids::JobId,
    job::{JobRecord, JobStatus},
    subjects::{self, JobPriority},
};
use serde::{Deserialize, Serialize};

use crate::{dispatcher::Dispatcher, queue::WaitingJob};

/// What waiting needs of a job's record: of a million waiting jobs nobody needs the plans.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct JobHeader {
    job_id: JobId,
    owner: String,
    priority: JobPriority,
    status: JobStatus,
    created_at_ms: u64,
    #[serde(default)]
    paused_at_ms: Option<u64>,
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
    let prefix = subjects::kv_subject(bucket, "");
    loop {
        let settings = ReaderConfig::new(
            subjects::kv_stream_name(bucket),
            vec![subjects::kv_subject(bucket, "*")],
            ReaderStart::LastPerSubject,
        );
        dispatcher.begin_following();
        let mut reader = dispatcher.bus().follow_stream("dispatch-jobs", settings);
        if reader.wait_until_open().await.is_ok_and(|opened| opened.pending == 0) {
            dispatcher.note_followed();
        }
        while let Ok(entry) = reader.next().await {
            let key = entry.subject.strip_prefix(&prefix).unwrap_or_default();
            apply_entry(dispatcher, key, &entry.payload);
            if entry.pending == 0 {
                dispatcher.note_followed();
            }
        }
        // Another bucket of the same name: its jobs are others.
    }
}

fn apply_entry(dispatcher: &Dispatcher, key: &str, payload: &[u8]) {
    let Ok(job_id) = key.parse::<JobId>() else { return };
    let header = nats::decode_record::<JobHeader>(key, payload).map(|(_, header)| header);
    match header {
        Ok(header) if header.status == JobStatus::Active && header.paused_at_ms.is_none() => {
            dispatcher.let_wait(WaitingJob {
                job_id: header.job_id,
                owner: header.owner.into(),
                priority: header.priority,
                created_at_ms: header.created_at_ms,
            });
        }
        // Ended, paused, removed, or of a newer version that this one can't read.
        _ => dispatcher.forget_job(job_id),
    }
}

//! Writing: a batch of bucket entries becomes rows, order entries and the cursor, all in one transaction.

use schemas::{
    document,
    ids::{JobId, MediaId},
    job::{self, PartStatus},
    media,
    subjects::Priority,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sled::{
    Transactional,
    transaction::{ConflictableTransactionError, TransactionError, TransactionalTree},
};

use super::{
    Bucket, Projection,
    rows::{Counts, PartRow, from_row, to_row},
};
use crate::{Error, order};

/// What one bucket entry means; `None` is a deletion.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Change {
    /// A document.
    Document(MediaId, Option<Box<document::Record>>),
    /// Technical metadata.
    Asset(MediaId, Option<Box<media::Record>>),
    /// A job.
    Job(JobId, Option<Box<JobFacts>>),
    /// A part of a job.
    Part(JobId, String, Option<PartFacts>),
    /// An entry that is none of ours or can't be read; it is skipped, but the cursor moves on.
    Other,
}

/// A job as far as lists need it: without plan and parts, which may be large.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct JobFacts {
    pub(crate) job_id: JobId,
    pub(crate) kind: String,
    pub(crate) priority: Priority,
    pub(crate) media_id: MediaId,
    pub(crate) owner: String,
    pub(crate) status: job::Status,
    pub(crate) encode: u32,
    pub(crate) duration_ms: u64,
    pub(crate) parts_total: u32,
    pub(crate) code: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) created_at_ms: u64,
    pub(crate) ended_at_ms: Option<u64>,
    /// What its parts add up to, once their own records are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) folded: Option<Counts>,
}

impl From<job::Record> for JobFacts {
    fn from(record: job::Record) -> Self {
        Self {
            job_id: record.job_id,
            kind: record.kind,
            priority: record.priority,
            media_id: record.media_id,
            owner: record.owner,
            status: record.status,
            encode: record.encode,
            duration_ms: record.plan.duration_ms,
            parts_total: u32::try_from(record.parts.len() + 1).unwrap_or(u32::MAX),
            code: record.code,
            detail: record.detail,
            created_at_ms: record.created_at_ms,
            ended_at_ms: record.ended_at_ms,
            folded: record.folded.map(|parts| {
                let rows = parts.iter().map(|part| PartRow { status: part.status, cpu_ms: part.cpu_ms });
                rows.fold(Counts::default(), |counts, row| counts.after(None, Some(row)))
            }),
        }
    }
}

/// A part as far as lists need it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PartFacts {
    pub(crate) status: PartStatus,
    pub(crate) cpu_ms: u64,
}

/// One entry of a bucket.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Step {
    /// Its sequence, which is the revision of the record.
    pub(crate) sequence: u64,
    /// What it means.
    pub(crate) change: Change,
}

type Aborted = ConflictableTransactionError<Error>;

/// The trees inside one transaction.
struct Transaction<'a> {
    documents: &'a TransactionalTree,
    assets: &'a TransactionalTree,
    jobs: &'a TransactionalTree,
    parts: &'a TransactionalTree,
    counts: &'a TransactionalTree,
    order: &'a TransactionalTree,
}

impl Projection {
    /// Writes `steps` of one bucket, which are in order, together with its new cursor. Blocks.
    ///
    /// # Errors
    /// [`Error::Database`] or [`Error::Damaged`]; nothing is written then.
    pub(crate) fn apply(&self, bucket: Bucket, steps: &[Step]) -> Result<(), Error> {
        let Some(last) = steps.last() else { return Ok(()) };
        let trees =
            (&self.meta, &self.documents, &self.assets, &self.jobs, &self.parts, &self.counts, &self.order);
        let result = trees.transaction(|(meta, documents, assets, jobs, parts, counts, order)| {
            let transaction = Transaction { documents, assets, jobs, parts, counts, order };
            for step in steps {
                transaction.step(step)?;
            }
            meta.insert(bucket.cursor_key(), &last.sequence.to_be_bytes())?;
            Ok(())
        });
        match result {
            Ok(()) => Ok(()),
            Err(TransactionError::Abort(error)) => Err(error),
            Err(TransactionError::Storage(error)) => Err(error.into()),
        }
    }
}

impl Transaction<'_> {
    fn step(&self, step: &Step) -> Result<(), Aborted> {
        match &step.change {
            Change::Document(id, value) => self
                .replace_medium(id, || put(self.documents, id.as_bytes(), step.sequence, value.as_deref())),
            Change::Asset(id, value) => {
                self.replace_medium(id, || put(self.assets, id.as_bytes(), step.sequence, value.as_deref()))
            }
            Change::Job(id, value) => {
                let before = self.job_keys(id)?;
                put(self.jobs, id.as_bytes(), step.sequence, value.as_deref())?;
                self.reorder(&before, &self.job_keys(id)?)
            }
            Change::Part(id, part, value) => self.part(id, part, *value),
            Change::Other => Ok(()),
        }
    }

    /// Lets `write` change document or asset, and moves the medium in its lists.
    fn replace_medium(
        &self,
        id: &MediaId,
        write: impl FnOnce() -> Result<(), Aborted>,
    ) -> Result<(), Aborted> {
        let before = self.media_keys(id)?;
        write()?;
        self.reorder(&before, &self.media_keys(id)?)
    }

    fn media_keys(&self, id: &MediaId) -> Result<Vec<Vec<u8>>, Aborted> {
        let document = get::<document::Record>(self.documents, id.as_bytes())?.map(|(_, record)| record);
        let asset = get::<media::Record>(self.assets, id.as_bytes())?.map(|(_, record)| record);
        let status = asset.as_ref().map_or(media::Status::Uploading, |asset| asset.status);
        let Some((owner, created_at_ms)) = document
            .map(|document| (document.owner, document.created_at_ms))
            .or_else(|| asset.map(|asset| (asset.owner, asset.created_at_ms)))
        else {
            return Ok(Vec::new());
        };
        let position = order::media_position(created_at_ms, id);
        let lists = order::media_lists(&owner, status);
        Ok(lists.iter().map(|name| order::key(name, &position).to_vec()).collect())
    }

    fn job_keys(&self, id: &JobId) -> Result<Vec<Vec<u8>>, Aborted> {
        let Some((_, job)) = get::<JobFacts>(self.jobs, id.as_bytes())? else { return Ok(Vec::new()) };
        let position = order::job_position(job.created_at_ms, id);
        let lists = order::job_lists(&job.owner, &job.media_id, job.status);
        Ok(lists.iter().map(|name| order::key(name, &position).to_vec()).collect())
    }

    fn reorder(&self, before: &[Vec<u8>], after: &[Vec<u8>]) -> Result<(), Aborted> {
        for key in before.iter().filter(|key| !after.contains(key)) {
            self.order.remove(key.as_slice())?;
        }
        for key in after.iter().filter(|key| !before.contains(key)) {
            self.order.insert(key.as_slice(), &[])?;
        }
        Ok(())
    }

    fn part(&self, id: &JobId, part: &str, value: Option<PartFacts>) -> Result<(), Aborted> {
        let key = [id.as_bytes().as_slice(), part.as_bytes()].concat();
        let old = self.parts.get(&key)?.map(|row| PartRow::from_bytes(&row)).transpose().map_err(abort)?;
        let new = value.map(|facts| PartRow { status: facts.status, cpu_ms: facts.cpu_ms });
        match new {
            Some(row) => self.parts.insert(key, &row.to_bytes())?,
            None => self.parts.remove(key)?,
        };
        let counts = self.counts.get(id.as_bytes())?;
        let counts = counts.map(|row| Counts::from_bytes(&row)).transpose().map_err(abort)?;
        let counts = counts.unwrap_or_default().after(old, new);
        if counts.is_empty() {
            self.counts.remove(id.as_bytes())?;
        } else {
            self.counts.insert(id.as_bytes(), counts.to_bytes())?;
        }
        Ok(())
    }
}

const fn abort(error: Error) -> Aborted {
    ConflictableTransactionError::Abort(error)
}

fn get<R: DeserializeOwned>(tree: &TransactionalTree, key: &[u8; 16]) -> Result<Option<(u64, R)>, Aborted> {
    tree.get(key)?.map(|row| from_row(&row)).transpose().map_err(abort)
}

fn put<R: Serialize>(
    tree: &TransactionalTree,
    key: &[u8; 16],
    revision: u64,
    value: Option<&R>,
) -> Result<(), Aborted> {
    match value {
        Some(record) => tree.insert(key, to_row(revision, record).map_err(abort)?)?,
        None => tree.remove(key)?,
    };
    Ok(())
}

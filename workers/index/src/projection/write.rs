//! Writing: a batch of bucket entries becomes rows, order entries and the cursor, all in one transaction.

use schemas::{
    document,
    ids::{JobId, MediaId},
    job, media,
    subjects::JobPriority,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use sled::{
    Transactional,
    transaction::{ConflictableTransactionError, TransactionError, TransactionalTree},
};

use super::{
    IndexBucket, IndexProjection,
    rows::{PartCounts, PartRow, decode_row, encode_row},
};
use crate::{IndexError, order};

/// What one bucket entry means; `None` is a deletion.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum IndexChange {
    /// A document.
    Document(MediaId, Option<Box<document::MediaDocumentRecord>>),
    /// Technical metadata.
    Asset(MediaId, Option<Box<media::MediaRecord>>),
    /// A job.
    Job(JobId, Option<Box<IndexedJob>>),
    /// A part of a job.
    Part(JobId, String, Option<PartRow>),
    /// An entry that is none of ours or can't be read; it is skipped, but the cursor moves on.
    Other,
}

/// A job as far as lists need it: without plan and parts, which may be large.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct IndexedJob {
    pub(crate) job_id: JobId,
    pub(crate) kind: String,
    pub(crate) priority: JobPriority,
    pub(crate) media_id: MediaId,
    pub(crate) owner: String,
    pub(crate) status: job::JobStatus,
    pub(crate) encode: u32,
    pub(crate) duration_ms: u64,
    pub(crate) parts_total: u32,
    pub(crate) code: Option<String>,
    pub(crate) detail: Option<String>,
    pub(crate) created_at_ms: u64,
    pub(crate) ended_at_ms: Option<u64>,
    /// Name of the profile by which it encodes; empty where it does not.
    #[serde(default)]
    pub(crate) profile: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) paused_at_ms: Option<u64>,
    /// What its parts add up to, once their own records are gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) folded: Option<PartCounts>,
}

impl IndexedJob {
    /// Since when it is paused, as Unix time in milliseconds; one that has ended waits for nobody.
    pub(crate) fn paused_since_ms(&self) -> Option<u64> {
        self.paused_at_ms.filter(|_| self.status == job::JobStatus::Active)
    }
}

impl From<job::JobRecord> for IndexedJob {
    fn from(record: job::JobRecord) -> Self {
        // The one that finishes an encode stands behind those that its record names.
        let parts_total = record.parts.len() + usize::from(record.is_encode());
        Self {
            job_id: record.job_id,
            kind: record.kind,
            priority: record.priority,
            media_id: record.media_id,
            owner: record.owner,
            status: record.status,
            encode: record.encode,
            duration_ms: record.plan.duration_ms,
            profile: record.plan.profile,
            parts_total: u32::try_from(parts_total).unwrap_or(u32::MAX),
            code: record.code,
            detail: record.detail,
            created_at_ms: record.created_at_ms,
            ended_at_ms: record.ended_at_ms,
            paused_at_ms: record.paused_at_ms,
            folded: record.folded.map(|parts| {
                let rows = parts.iter().map(|part| PartRow {
                    status: part.status,
                    cpu_ms: part.cpu_ms,
                    work_ms: part.wall_ms,
                });
                rows.fold(PartCounts::default(), |counts, row| counts.with_transition(None, Some(row)))
            }),
        }
    }
}

/// One entry of a bucket.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct IndexEntry {
    /// Its sequence, which is the revision of the record.
    pub(crate) sequence: u64,
    /// What it means.
    pub(crate) change: IndexChange,
}

type IndexTransactionError = ConflictableTransactionError<IndexError>;

/// The trees inside one transaction.
struct IndexTransaction<'a> {
    documents: &'a TransactionalTree,
    assets: &'a TransactionalTree,
    jobs: &'a TransactionalTree,
    parts: &'a TransactionalTree,
    counts: &'a TransactionalTree,
    order: &'a TransactionalTree,
}

impl IndexProjection {
    /// Writes `steps` of one bucket, which are in order, together with its new cursor. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Database`] or [`IndexError::Damaged`]; nothing is written then.
    pub(crate) fn apply_entries(&self, bucket: IndexBucket, steps: &[IndexEntry]) -> Result<(), IndexError> {
        let Some(last) = steps.last() else { return Ok(()) };
        let trees =
            (&self.meta, &self.documents, &self.assets, &self.jobs, &self.parts, &self.counts, &self.order);
        let result = trees.transaction(|(meta, documents, assets, jobs, parts, counts, order)| {
            let transaction = IndexTransaction { documents, assets, jobs, parts, counts, order };
            for step in steps {
                transaction.apply_entry(step)?;
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

impl IndexTransaction<'_> {
    fn apply_entry(&self, step: &IndexEntry) -> Result<(), IndexTransactionError> {
        match &step.change {
            IndexChange::Document(id, value) => self
                .update_media(id, || put_row(self.documents, id.as_bytes(), step.sequence, value.as_deref())),
            IndexChange::Asset(id, value) => {
                self.update_media(id, || put_row(self.assets, id.as_bytes(), step.sequence, value.as_deref()))
            }
            IndexChange::Job(id, value) => {
                // Read before the row is replaced: the lists to leave follow from the old one.
                let before = self.job_keys(id)?;
                put_row(self.jobs, id.as_bytes(), step.sequence, value.as_deref())?;
                self.update_order(&before, &self.job_keys(id)?)
            }
            IndexChange::Part(id, part, value) => self.update_part(id, part, *value),
            IndexChange::Other => Ok(()),
        }
    }

    /// Lets `write` change document or asset, and moves the medium in its lists.
    fn update_media(
        &self,
        id: &MediaId,
        write: impl FnOnce() -> Result<(), IndexTransactionError>,
    ) -> Result<(), IndexTransactionError> {
        let before = self.media_keys(id)?;
        write()?;
        self.update_order(&before, &self.media_keys(id)?)
    }

    fn media_keys(&self, id: &MediaId) -> Result<Vec<Vec<u8>>, IndexTransactionError> {
        let document = get_row::<document::MediaDocumentRecord>(self.documents, id.as_bytes())?
            .map(|(_, record)| record);
        let asset = get_row::<media::MediaRecord>(self.assets, id.as_bytes())?.map(|(_, record)| record);
        let status = asset.as_ref().map_or(media::MediaStatus::Uploading, |asset| asset.status);
        let is_public = document.as_ref().is_some_and(document::MediaDocumentRecord::is_listed);
        let removed_at_ms = document.as_ref().and_then(|document| document.removed_at_ms);
        let Some((owner, created_at_ms)) = document
            .map(|document| (document.owner, document.created_at_ms))
            // What is left of one that is removed for good is in no list.
            .or_else(|| {
                asset
                    .filter(|asset| asset.removed_at_ms.is_none())
                    .map(|asset| (asset.owner, asset.created_at_ms))
            })
        else {
            return Ok(Vec::new());
        };
        if let Some(removed_at_ms) = removed_at_ms {
            let position = order::media_position(removed_at_ms, id);
            let keys = [None, Some(owner.as_str())]
                .map(|owner| order::order_key(&order::removed_media_list_id(owner), &position).to_vec());
            return Ok(keys.into());
        }
        let position = order::media_position(created_at_ms, id);
        let lists = order::media_list_ids(&owner, status, is_public);
        Ok(lists.iter().map(|name| order::order_key(name, &position).to_vec()).collect())
    }

    fn job_keys(&self, id: &JobId) -> Result<Vec<Vec<u8>>, IndexTransactionError> {
        let Some((_, job)) = get_row::<IndexedJob>(self.jobs, id.as_bytes())? else { return Ok(Vec::new()) };
        let position = order::job_position(job.created_at_ms, id);
        let stands = (job.status, job.paused_since_ms().is_some());
        let lists = order::job_list_ids(&job.owner, &job.media_id, stands);
        let mut keys: Vec<Vec<u8>> =
            lists.iter().map(|name| order::order_key(name, &position).to_vec()).collect();
        if let Some(ended_at_ms) = job.ended_at_ms.filter(|_| job.kind == job::TRANSCODE) {
            let position = order::job_position(ended_at_ms, id);
            for owner in [None, Some(job.owner.as_str())] {
                keys.push(order::order_key(&order::ended_encodes_list_id(owner), &position).to_vec());
            }
        }
        Ok(keys)
    }

    fn update_order(&self, before: &[Vec<u8>], after: &[Vec<u8>]) -> Result<(), IndexTransactionError> {
        for key in before.iter().filter(|key| !after.contains(key)) {
            self.order.remove(key.as_slice())?;
        }
        for key in after.iter().filter(|key| !before.contains(key)) {
            self.order.insert(key.as_slice(), &[])?;
        }
        Ok(())
    }

    fn update_part(&self, id: &JobId, part: &str, new: Option<PartRow>) -> Result<(), IndexTransactionError> {
        let key = [id.as_bytes().as_slice(), part.as_bytes()].concat();
        let old = self
            .parts
            .get(&key)?
            .map(|row| PartRow::from_bytes(&row))
            .transpose()
            .map_err(abort_transaction)?;
        match new {
            Some(row) => self.parts.insert(key, row.to_bytes())?,
            None => self.parts.remove(key)?,
        };
        let counts = self.counts.get(id.as_bytes())?;
        let counts = counts.map(|row| PartCounts::from_bytes(&row)).transpose().map_err(abort_transaction)?;
        let counts = counts.unwrap_or_default().with_transition(old, new);
        if counts.is_empty() {
            self.counts.remove(id.as_bytes())?;
        } else {
            self.counts.insert(id.as_bytes(), counts.to_bytes())?;
        }
        Ok(())
    }
}

const fn abort_transaction(error: IndexError) -> IndexTransactionError {
    ConflictableTransactionError::Abort(error)
}

fn get_row<R: DeserializeOwned>(
    tree: &TransactionalTree,
    key: &[u8; 16],
) -> Result<Option<(u64, R)>, IndexTransactionError> {
    tree.get(key)?.map(|row| decode_row(&row)).transpose().map_err(abort_transaction)
}

fn put_row<R: Serialize>(
    tree: &TransactionalTree,
    key: &[u8; 16],
    revision: u64,
    value: Option<&R>,
) -> Result<(), IndexTransactionError> {
    match value {
        Some(record) => tree.insert(key, encode_row(revision, record).map_err(abort_transaction)?)?,
        None => tree.remove(key)?,
    };
    Ok(())
}

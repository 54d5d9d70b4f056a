//! Reading: a list is one range of the order tree, joined with its rows.

use std::collections::BTreeSet;

use schemas::{
    ids::{JobId, MediaId},
    index_query::{
        IDS_MAX, ITEMS_MAX, JobCounts, JobCountsQuery, JobIndexItem, JobIndexPage, JobIndexQuery,
        LOOKED_AT_MAX, MediaIndexItem, MediaIndexPage, MediaIndexQuery, PublicMediaIndexQuery,
    },
    job,
    media::MediaStatus,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::{
    IndexBucket, IndexProjection,
    rows::{PartCounts, decode_row},
    write::IndexedJob,
};
use crate::{
    IndexError,
    facts::{AssetFacts, DocumentFacts, MediaFacts},
    order::{self, ListId, ListPosition},
};

impl IndexProjection {
    /// A page of media, newest first; it ends early when its items have more than `bytes_max`. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Cursor`] when the cursor is none of ours; [`IndexError::Database`] or [`IndexError::Damaged`].
    pub fn list_media(
        &self,
        question: &MediaIndexQuery,
        bytes_max: usize,
    ) -> Result<MediaIndexPage, IndexError> {
        let (owner, status) = (question.owner.as_deref(), question.status);
        let page = (question.cursor.as_deref(), question.limit);
        // Removed ones have one list, wherever they stood.
        let (name, only) = if question.removed {
            (order::removed_media_list_id(owner), status)
        } else {
            (order::media_list_id(owner, status), None)
        };
        if question.ids.is_empty() {
            return self.read_media_page(&name, page, bytes_max, only);
        }
        let revision = self.read_cursor(IndexBucket::Media)?;
        let positions = self.find_positions(&name, question)?;
        let (items, next) =
            read_items(positions.into_iter().map(Ok), question.limit, bytes_max, |position| {
                self.listed_medium(position, only)
            })?;
        Ok(MediaIndexPage { items, next, revision })
    }

    /// Where the media that a question names stand in a list, newest first, from its cursor on.
    fn find_positions(
        &self,
        name: &ListId,
        question: &MediaIndexQuery,
    ) -> Result<Vec<ListPosition>, IndexError> {
        let before = question.cursor.as_deref().map(ListPosition::from_cursor).transpose()?;
        let mut positions = BTreeSet::new();
        for media_id in question.ids.iter().take(IDS_MAX) {
            let Some(item) = self.media_item(*media_id)? else { continue };
            let listed_at_ms = if question.removed { item.removed_at_ms } else { Some(item.created_at_ms) };
            let position = order::media_position(listed_at_ms.unwrap_or_default(), media_id);
            if before.is_none_or(|before| position < before)
                && self.order.contains_key(order::order_key(name, &position))?
            {
                positions.insert(position);
            }
        }
        Ok(positions.into_iter().rev().collect())
    }

    /// The medium at a position, if it stands where it is asked for.
    fn listed_medium(
        &self,
        position: &ListPosition,
        only: Option<MediaStatus>,
    ) -> Result<Option<MediaIndexItem>, IndexError> {
        let item = self.media_item(MediaId::from_bytes(position.id()))?;
        Ok(item.filter(|item| only.is_none_or(|status| item.status == status)))
    }

    /// A page of media that everybody may watch and that play, newest first; it ends early when its items have more than
    /// `bytes_max`. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Cursor`] when the cursor is none of ours; [`IndexError::Database`] or [`IndexError::Damaged`].
    pub fn list_public_media(
        &self,
        question: &PublicMediaIndexQuery,
        bytes_max: usize,
    ) -> Result<MediaIndexPage, IndexError> {
        let name = order::public_media_list_id();
        self.read_media_page(&name, (question.cursor.as_deref(), question.limit), bytes_max, None)
    }

    fn read_media_page(
        &self,
        name: &ListId,
        (cursor, limit): (Option<&str>, u32),
        bytes_max: usize,
        only: Option<MediaStatus>,
    ) -> Result<MediaIndexPage, IndexError> {
        let revision = self.read_cursor(IndexBucket::Media)?;
        let (items, next) =
            self.read_page(name, cursor, limit, bytes_max, |position| self.listed_medium(position, only))?;
        Ok(MediaIndexPage { items, next, revision })
    }

    /// A page of jobs, newest first; it ends early when its items have more than `bytes_max`, or when [`LOOKED_AT_MAX`] were looked at.
    /// Owner, medium, status and that they are paused are one range; whether they are of the rest, the jobs themselves say. Blocks.
    ///
    /// # Errors
    /// [`IndexError::Cursor`] when the cursor is none of ours; [`IndexError::Database`] or [`IndexError::Damaged`].
    pub fn list_jobs(&self, question: &JobIndexQuery, bytes_max: usize) -> Result<JobIndexPage, IndexError> {
        let revision = self.read_cursor(IndexBucket::Jobs)?;
        let (owner, media_id) = (question.owner.as_deref(), question.media_id.as_ref());
        let name = match question.paused {
            Some(true) => order::paused_job_list_id(owner, media_id),
            Some(false) | None => order::job_list_id(owner, media_id, question.status),
        };
        let (items, next) =
            self.read_page(&name, question.cursor.as_deref(), question.limit, bytes_max, |position| {
                let item = self.job_item(JobId::from_bytes(position.id()))?;
                Ok(item.filter(|item| question.matches(item)))
            })?;
        Ok(JobIndexPage { items, next, revision })
    }

    /// How many jobs stand where. Reads the key of each of them; blocks.
    ///
    /// # Errors
    /// [`IndexError::Database`] or [`IndexError::Damaged`].
    pub fn count_jobs(&self, question: &JobCountsQuery) -> Result<JobCounts, IndexError> {
        let revision = self.read_cursor(IndexBucket::Jobs)?;
        let owner = question.owner.as_deref();
        let count_list = |name: ListId| -> Result<u64, IndexError> {
            let mut count = 0;
            for key in self.order.scan_prefix(name).keys() {
                key?;
                count += 1;
            }
            Ok(count)
        };
        let count = |status| count_list(order::job_list_id(owner, None, Some(status)));
        Ok(JobCounts {
            active: count(job::JobStatus::Active)?,
            paused: count_list(order::paused_job_list_id(owner, None))?,
            succeeded: count(job::JobStatus::Succeeded)?,
            failed: count(job::JobStatus::Failed)?,
            cancelled: count(job::JobStatus::Cancelled)?,
            revision,
        })
    }

    /// Reads one list backwards from `cursor`. An item that vanished between order and row is left out.
    fn read_page<T: Serialize>(
        &self,
        name: &ListId,
        cursor: Option<&str>,
        limit: u32,
        bytes_max: usize,
        item: impl Fn(&ListPosition) -> Result<Option<T>, IndexError>,
    ) -> Result<(Vec<T>, Option<String>), IndexError> {
        let lowest = name.to_vec();
        let range = match cursor {
            Some(cursor) => {
                let end = order::order_key(name, &ListPosition::from_cursor(cursor)?).to_vec();
                self.order.range(lowest..end)
            }
            None => self.order.scan_prefix(name),
        };
        let positions = range.rev().map(|row| {
            let (key, _) = row?;
            ListPosition::from_order_key(&key)
                .ok_or_else(|| IndexError::Damaged { what: "a key of the order tree".into() })
        });
        read_items(positions, limit, bytes_max, item)
    }

    /// One medium as lists show it, joined of document and asset; `None` when there is neither.
    ///
    /// # Errors
    /// [`IndexError::Database`] or [`IndexError::Damaged`].
    pub fn media_item(&self, media_id: MediaId) -> Result<Option<MediaIndexItem>, IndexError> {
        let document = read_row(&self.documents, media_id.as_bytes())?;
        let asset = read_row(&self.assets, media_id.as_bytes())?;
        let facts = MediaFacts {
            document: document.map(|(revision, record)| DocumentFacts::new(revision, record)),
            asset: asset.map(|(revision, record)| AssetFacts::new(revision, record)),
            is_removed: false,
        };
        Ok(facts.into_item(media_id))
    }

    /// What the parts of a job add up to.
    pub(super) fn part_counts(&self, job: &IndexedJob) -> Result<PartCounts, IndexError> {
        if let Some(counts) = job.folded {
            return Ok(counts);
        }
        let row = self.counts.get(job.job_id.as_bytes())?;
        Ok(row.map(|row| PartCounts::from_bytes(&row)).transpose()?.unwrap_or_default())
    }

    /// One job as lists show it; `None` when there is none.
    ///
    /// # Errors
    /// [`IndexError::Database`] or [`IndexError::Damaged`].
    pub fn job_item(&self, job_id: JobId) -> Result<Option<JobIndexItem>, IndexError> {
        let Some((revision, job)) = read_row::<IndexedJob>(&self.jobs, job_id.as_bytes())? else {
            return Ok(None);
        };
        let counts = self.part_counts(&job)?;
        let paused_at_ms = job.paused_since_ms();
        Ok(Some(JobIndexItem {
            job_id,
            kind: job.kind,
            priority: job.priority,
            media_id: job.media_id,
            owner: job.owner,
            status: job.status,
            encode: job.encode,
            duration_ms: job.duration_ms,
            parts_total: job.parts_total,
            parts_done: counts.done,
            // Nobody works on what has ended.
            parts_claimed: if job.ended_at_ms.is_some() { 0 } else { counts.claimed },
            parts_failed: counts.failed,
            cpu_ms: counts.cpu_ms,
            code: job.code,
            detail: job.detail,
            created_at_ms: job.created_at_ms,
            ended_at_ms: job.ended_at_ms,
            paused_at_ms,
            revision,
        }))
    }
}

/// The items at positions, until there are `limit`, they have more than `bytes_max` or [`LOOKED_AT_MAX`] positions were looked at, and
/// where the next page begins.
fn read_items<T: Serialize>(
    positions: impl Iterator<Item = Result<ListPosition, IndexError>>,
    limit: u32,
    bytes_max: usize,
    item: impl Fn(&ListPosition) -> Result<Option<T>, IndexError>,
) -> Result<(Vec<T>, Option<String>), IndexError> {
    let limit = usize::try_from(limit.clamp(1, ITEMS_MAX)).unwrap_or(1);
    let mut items = Vec::new();
    let mut size_bytes = 0;
    let mut last = None;
    for (looked_at, position) in positions.enumerate() {
        let position = position?;
        if items.len() == limit || size_bytes > bytes_max || looked_at == LOOKED_AT_MAX {
            return Ok((items, last.map(ListPosition::to_cursor)));
        }
        if let Some(item) = item(&position)? {
            size_bytes += rmp_serde::to_vec_named(&item).map_or(0, |bytes| bytes.len());
            items.push(item);
        }
        // Also of a row that shows nothing: the next page must not begin before it again.
        last = Some(position);
    }
    Ok((items, None))
}

pub(super) fn read_row<R: DeserializeOwned>(
    tree: &sled::Tree,
    key: &[u8; 16],
) -> Result<Option<(u64, R)>, IndexError> {
    tree.get(key)?.map(|row| decode_row(&row)).transpose()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_ends_where_enough_was_looked_at_and_the_next_one_goes_on_behind() {
        let at = |number: usize| ListPosition::new(number as u64, &[0; 16]);
        let read = |first: usize, count: usize| {
            let positions = (first..first + count).map(|number| Ok(at(number)));
            read_items(positions, 10, 1_000, |position| {
                Ok((position.at_ms() > LOOKED_AT_MAX as u64).then_some(position.at_ms()))
            })
            .unwrap()
        };
        let (items, next) = read(1, LOOKED_AT_MAX + 1);
        assert_eq!((items, next), (Vec::new(), Some(at(LOOKED_AT_MAX).to_cursor())), "none of them fits");
        let (items, next) = read(LOOKED_AT_MAX + 1, 1);
        assert_eq!((items, next), (vec![LOOKED_AT_MAX as u64 + 1], None));
        assert_eq!(read(1, LOOKED_AT_MAX), (Vec::new(), None), "that was all");
    }
}

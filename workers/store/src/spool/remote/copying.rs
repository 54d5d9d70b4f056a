//! Parts of a remote spool that the store makes of a stored object itself, where it can.
//!
//! A part is copied where it lies inside one object; one that reaches into the next is read and sent. So no more than one part
//! for each border of two objects passes through this process.

use std::ops::Range;

use tokio_util::task::AbortOnDropHandle;

use super::{InFlightPart, PartOutcome, RemoteSpool};
use crate::{
    PART_BYTES_FLOOR, PARTS_MAX, StoreError,
    config::PART_BYTES_CEILING,
    part_copy::{CopiedPart, PartCopyOutcome},
};

impl RemoteSpool {
    /// The first part of a range of an object that the store may copy.
    pub(in crate::spool) fn copyable_part(&self, range_bytes: &Range<u64>) -> Option<Range<u64>> {
        if !self.is_copying || self.rest_bytes() > 0 {
            return None;
        }
        let length = range_bytes.end.saturating_sub(range_bytes.start);
        let size_bytes = length.min(self.state.part_bytes);
        let is_last = self.offset_bytes().saturating_add(length) == self.place.length_bytes_max;
        let fits = size_bytes == self.state.part_bytes || is_last;
        // S3 copies no range of an object below 5 MB (AWS docs, "UploadPartCopy").
        let is_legal = (PART_BYTES_FLOOR..=PART_BYTES_CEILING).contains(&size_bytes);
        (fits && is_legal).then(|| range_bytes.start..range_bytes.start + size_bytes)
    }

    /// Bytes until the next part begins, which may be a copied one.
    pub(in crate::spool) fn bytes_to_next_part(&self) -> u64 {
        self.state.part_bytes.saturating_sub(self.rest_bytes()).max(1)
    }

    /// Makes the next part of a range that [`RemoteSpool::copyable_part`] returned.
    pub(in crate::spool) async fn copy_part(
        &mut self,
        key: &str,
        range_bytes: Range<u64>,
    ) -> Result<(), StoreError> {
        let step = self.start_copy(key, range_bytes).await;
        self.revert_on_error(step)
    }

    async fn start_copy(&mut self, key: &str, range_bytes: Range<u64>) -> Result<(), StoreError> {
        while self.putting.len() >= self.in_flight_max {
            self.await_first_part().await?;
        }
        let Some(copier) = self.store.state().backend().part_copier().cloned() else { return Ok(()) };
        // What was taken back from a slow store comes first: the caller looks again where the spool is.
        if self.rest_bytes() > 0 {
            return Ok(());
        }
        self.store.verify_marker().await?;
        let multipart_id = self.ensure_multipart_id().await?;
        let size_bytes = range_bytes.end.saturating_sub(range_bytes.start);
        let part = CopiedPart {
            source: self.store.object_path(key)?,
            range_bytes,
            target: self.multipart.path.clone(),
            multipart_id,
            index: self.state.parts.len() + self.putting.len(),
        };
        let store = self.store.clone();
        let task = tokio::task::spawn(async move {
            Ok(match store.with_deadline(size_bytes, copier.copy_part(&part)).await? {
                PartCopyOutcome::Copied(entity_tag) => PartOutcome::Stored(entity_tag),
                PartCopyOutcome::Refused => PartOutcome::CopyRefused,
            })
        });
        let (chunks, task) = (Vec::new(), AbortOnDropHandle::new(task));
        self.putting.push_back(InFlightPart { size_bytes, is_copy: true, tail: None, chunks, task });
        Ok(())
    }

    /// Chooses the size of parts by the objects that follow, while no part was begun.
    pub(in crate::spool) fn align_parts(&mut self, object_bytes: &[u64]) {
        let is_new = self.state.multipart_id.is_none() && self.offset_bytes() == 0;
        if self.is_copying
            && is_new
            && let Some(part_bytes) = find_aligned_part_bytes(object_bytes, self.state.part_bytes)
        {
            self.state.part_bytes = part_bytes;
        }
    }
}

/// A size of parts that ends each of the objects with a part, when all but the last have one size, as clients cut a file. The
/// nearest to `usual_bytes`, and at most twice that, which bounds what is in memory.
fn find_aligned_part_bytes(object_bytes: &[u64], usual_bytes: u64) -> Option<u64> {
    let (_, whole) = object_bytes.split_last()?;
    let size_bytes = *whole.first()?;
    if size_bytes < PART_BYTES_FLOOR || whole.iter().any(|other| *other != size_bytes) {
        return None;
    }
    let total = object_bytes.iter().fold(0_u64, |sum, size| sum.saturating_add(*size));
    let fewest = size_bytes.div_ceil(usual_bytes.saturating_mul(2));
    let most = (size_bytes / usual_bytes).max(1);
    (fewest..=most)
        .rev()
        .filter(|count| size_bytes.is_multiple_of(*count))
        .map(|count| size_bytes / count)
        .find(|part_bytes| *part_bytes <= PART_BYTES_CEILING && total.div_ceil(*part_bytes) <= PARTS_MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MIB: u64 = 1024 * 1024;

    #[test]
    fn parts_end_with_the_objects_that_clients_cut() {
        let usual = 16 * MIB;
        for (sizes, wanted) in [
            // One part each.
            (vec![10 * MIB, 10 * MIB, 3], Some(10 * MIB)),
            (vec![32 * MIB - 1, 32 * MIB - 1, 5], Some(32 * MIB - 1)),
            // Several each.
            (vec![64 * MIB, 64 * MIB], Some(16 * MIB)),
            (vec![33 * MIB, 1], Some(33 * MIB / 2)),
            // Sizes that differ, too small ones, and one that no count divides.
            (vec![10 * MIB, 11 * MIB, 3], None),
            (vec![5 * MIB - 1, 5 * MIB - 1], None),
            (vec![100_000_007, 5], None),
            (vec![64 * MIB], None),
            (vec![], None),
        ] {
            assert_eq!(find_aligned_part_bytes(&sizes, usual), wanted, "{sizes:?}");
        }
    }

    proptest! {
        #[test]
        fn aligned_parts_are_legal(size in 1..1_u64 << 42, count in 1..128_usize, last in 0..1_u64 << 30) {
            let mut sizes = vec![size; count];
            sizes.push(last);
            let total: u64 = sizes.iter().sum();
            let usual = crate::StoreConfig::default().part_bytes(total);
            if let Some(found) = find_aligned_part_bytes(&sizes, usual) {
                prop_assert!((PART_BYTES_FLOOR..=2 * usual).contains(&found));
                prop_assert!(total.div_ceil(found) <= PARTS_MAX && size % found == 0);
            }
        }
    }
}

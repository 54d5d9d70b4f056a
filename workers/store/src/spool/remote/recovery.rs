//! What a remote spool does after a failure: it goes back to a state that can be continued from.

use super::{RemoteSpool, tail::tail_bytes};
use crate::StoreError;

impl RemoteSpool {
    /// Puts the bytes of the parts on their way back in front of those that wait. Of a copied part there are none, and so what is
    /// behind it goes: its place would be another.
    pub(super) fn requeue_parts(&mut self) {
        while let Some(part) = self.putting.pop_back() {
            if part.is_copy {
                self.batch.clear();
                self.state.tail = None;
                continue;
            }
            self.batch.push_front(part.chunks);
            self.state.tail = part.tail.or_else(|| self.state.tail.take());
        }
    }

    /// The store no longer knows the multipart upload.
    pub(super) fn handle_unknown_multipart(&mut self) -> StoreError {
        if self.safe.multipart.as_ref().is_none_or(|m| m.parts.is_empty()) {
            // No byte was lost with it: the next part begins another.
            self.state.multipart_id = None;
            if let Some(multipart) = &mut self.safe.multipart {
                multipart.multipart_id = None;
            }
            return StoreError::unavailable("the store has ended the multipart upload");
        }
        StoreError::Damaged("the store no longer has the multipart upload".into())
    }

    /// After a failure, goes back to the newest state that can be continued from. Bytes that the store was only too slow for stay
    /// in memory, as many as a tail may hold: there is less of them than of a part, and nothing beside them on the way.
    pub(super) fn revert_on_error(&mut self, step: Result<(), StoreError>) -> Result<(), StoreError> {
        let Err(error) = &step else { return step };
        if matches!(error, StoreError::Slow { .. }) {
            self.requeue_parts();
            // Less than a part, so that the next flush parks it as a tail instead of sending a part that is too slow
            // again.
            let tail_max = self.state.part_bytes.saturating_sub(1 + tail_bytes(&self.state));
            let kept = self.batch.split_front(usize::try_from(tail_max).unwrap_or(usize::MAX));
            self.batch.clear();
            self.batch.push_front(kept);
        } else {
            self.batch.clear();
        }
        self.putting.clear();
        let part_bytes = self.state.part_bytes;
        self.state = self.safe.multipart.clone().unwrap_or_default();
        self.state.part_bytes = part_bytes;
        self.stored = self.safe.offset_bytes - tail_bytes(&self.state);
        step
    }

    /// The store does not make a copy that is on its way: it and all behind it are discarded, and no other is asked for.
    pub(super) async fn give_up_copies(&mut self) -> StoreError {
        self.is_copying = false;
        self.is_refused = true;
        // One that the store still makes could take the place of the part that is sent instead.
        while let Some(mut part) = self.putting.pop_front() {
            (&mut part.task).await.ok();
        }
        StoreError::unavailable("the store does not copy")
    }

    /// A refused copy is no failure: the caller goes on from [`RemoteSpool::offset_bytes`], by other means.
    pub(in crate::spool) fn forgive_refusal(
        &mut self,
        step: Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        if std::mem::take(&mut self.is_refused) { Ok(()) } else { step }
    }
}

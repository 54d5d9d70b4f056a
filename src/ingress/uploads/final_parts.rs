//! The parts that a final upload names (tus 1.0, concatenation): whether it may have them, and giving them to it.
//!
//! Limits: a part is given to its final upload at most [`ASSIGN_TRIES_MAX`] times while its writer goes on.

use std::collections::BTreeSet;

use auth::Principal;
use schemas::ids::UploadId;

use super::{
    UploadContext, concat, concat_field::ConcatRequest, fenced_record::FencedUploadRecord,
    refusal::UploadRefusal,
};

/// How often a part is given to its final upload while its writer goes on.
const ASSIGN_TRIES_MAX: u32 = 16;

/// The parts that a final upload names, once each, as they stand.
#[derive(Debug)]
pub(super) struct FinalParts {
    /// In the order of their first place.
    records: Vec<FencedUploadRecord>,
    /// The final upload that every one of them belongs to already.
    pub(super) final_upload_id: Option<UploadId>,
    /// Final uploads that some of them belonged to, and that came to nothing.
    abandoned: BTreeSet<UploadId>,
    /// Sum of their lengths in bytes, one that is named twice counted twice.
    pub(super) length_bytes: u64,
}

impl FinalParts {
    /// Reads them; each has to be a partial upload of the caller's own, and free or of the same final upload as the others.
    pub(super) async fn load(
        shared: &UploadContext,
        who: &Principal,
        part_ids: &[UploadId],
    ) -> Result<Self, UploadRefusal> {
        let mut records = Vec::new();
        let mut seen = BTreeSet::new();
        for part_id in part_ids.iter().filter(|id| seen.insert(**id)) {
            match FencedUploadRecord::load(shared, *part_id, who).await {
                // An operator may change everybody's, and yet makes no medium of two owners.
                Ok(part) if part.record().owner != who.owner => {
                    return Err(ConcatRequest::refusal("names another owner's upload"));
                }
                Ok(part) if part.record().is_partial() => records.push(part),
                Ok(_) => return Err(ConcatRequest::refusal("names an upload that is not partial")),
                Err(UploadRefusal::NotFound) => {
                    return Err(ConcatRequest::refusal("names an upload that is not there"));
                }
                Err(refusal) => return Err(refusal),
            }
        }
        // Some may be free still: who gave them away did not come to the end of it.
        let mut finals: BTreeSet<UploadId> =
            records.iter().filter_map(|part| part.record().final_upload_id()).collect();
        let mut abandoned = BTreeSet::new();
        for id in &finals {
            if concat::has_failed(&shared.bus, *id).await? {
                abandoned.insert(*id);
            }
        }
        finals.retain(|id| !abandoned.contains(id));
        if finals.len() > 1 {
            return Err(ConcatRequest::refusal("names a part of another upload"));
        }
        let final_upload_id = finals.first().copied();
        // Of a final upload that is there the parts may have ended: its client asks again since it missed the answer.
        if final_upload_id.is_none() {
            records.iter().try_for_each(FencedUploadRecord::check_not_ended)?;
        }
        let length_of =
            |id: &UploadId| records.iter().find(|part| part.upload_id() == *id)?.record().length_bytes;
        // The limit of an upload holds for the whole, so its length has to be known before a byte of it is joined.
        let length_bytes = part_ids
            .iter()
            .try_fold(0_u64, |sum, id| Some(sum.saturating_add(length_of(id)?)))
            .ok_or(ConcatRequest::refusal("names a part whose length is not known yet"))?;
        Ok(Self { records, final_upload_id, abandoned, length_bytes })
    }

    /// Gives them to a final upload, those that it does not have. Refused when another one was faster, or one has ended.
    pub(super) async fn assign(self, final_upload_id: UploadId) -> Result<(), UploadRefusal> {
        for mut part in self.records {
            let mut tries_left = ASSIGN_TRIES_MAX;
            while part.record().final_upload_id() != Some(final_upload_id) {
                part.check_not_ended()?;
                if part.record().final_upload_id().is_some_and(|other| !self.abandoned.contains(&other)) {
                    return Err(ConcatRequest::refusal("names a part of another upload"));
                }
                match part.assign_to_final(final_upload_id).await {
                    // Its writer recorded bytes meanwhile; the record was read again.
                    Err(UploadRefusal::Displaced { .. }) if tries_left > 0 => tries_left -= 1,
                    outcome => outcome?,
                }
            }
        }
        Ok(())
    }
}

//! Changes of a document by compare-and-set, with the event that says which members changed.

use axum::http::HeaderMap;
use nats::{
    Bus, Outbox, VersionedRecord,
    metrics::{
        labels::MetadataWrite,
        table::{METADATA_CONFLICTS, METADATA_WRITES},
    },
};
use schemas::{
    document::{MediaChanged, MediaDocumentRecord},
    ids::MediaId,
};

use super::MediumRecords;
use crate::{AppState, play::encryption};
use auth::Principal;
use web::{conditional, error::Problem, json_document::JsonDocument, problem_code::ProblemCode};

/// Most rounds of reading and compare-and-set of one change.
pub(super) const CHANGE_ATTEMPTS_MAX: u32 = 4;

/// The medium, if `who` may change it and has seen what is there.
pub(super) async fn load_changeable(
    bus: &Bus,
    media_id: MediaId,
    who: &Principal,
    headers: &HeaderMap,
) -> Result<MediumRecords, Problem> {
    let medium = load_owned(bus, media_id, who).await?;
    check_seen(headers, &medium.render_document(media_id)?)?;
    Ok(medium)
}

/// Lets a change pass only when its sender has seen what is there.
pub(super) fn check_seen(headers: &HeaderMap, document: &JsonDocument) -> Result<(), Problem> {
    let seen = conditional::check_if_match(headers, Some(document.tag()));
    if seen.as_ref().is_err_and(|problem| problem.code() == ProblemCode::PreconditionFailed.code()) {
        METADATA_CONFLICTS.increment(());
    }
    seen
}

/// The medium, if `who` may change it.
pub(crate) async fn load_owned(
    bus: &Bus,
    media_id: MediaId,
    who: &Principal,
) -> Result<MediumRecords, Problem> {
    let medium = MediumRecords::load_for(bus, media_id, who).await?;
    medium.require_changeable(who)?;
    Ok(medium)
}

/// Changes the document of a medium for one who has seen what `render` shows of it (`If-Match`).
///
/// # Errors
/// 404 and 403 where it is not theirs; 428 and 412 where they have not seen it; what `apply` refuses.
pub(super) async fn change_seen(
    app: &AppState,
    (media_id, who, headers): (MediaId, &Principal, &HeaderMap),
    render: impl Fn(&MediumRecords) -> Result<JsonDocument, Problem>,
    apply: impl Fn(&MediaDocumentRecord) -> Result<MediaDocumentRecord, Problem>,
) -> Result<ChangedMedium, Problem> {
    let mut attempt = 0;
    loop {
        let mut medium = load_owned(&app.bus, media_id, who).await?;
        check_seen(headers, &render(&medium)?)?;
        attempt += 1;
        let held = medium.to_document(media_id, nats::now_ms());
        let before = held.record.clone();
        let next = (apply(&held.record)?, Outbox::new());
        match commit_change(&app.bus, &mut medium, held, next, who).await {
            Ok(()) => {
                METADATA_WRITES.increment(MetadataWrite::Change);
                app.known.forget(media_id);
                return Ok(ChangedMedium { before, medium });
            }
            // The precondition is looked at again: a named version is gone, `*` still fits.
            Err(nats::BusError::Conflict { .. }) if attempt < CHANGE_ATTEMPTS_MAX => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A medium that was changed.
#[derive(Debug)]
pub(super) struct ChangedMedium {
    /// Its document as it was.
    pub(super) before: MediaDocumentRecord,
    /// As it is now.
    pub(super) medium: MediumRecords,
}

/// The members in which two documents of a medium differ.
fn changed_fields(before: &MediaDocumentRecord, after: &MediaDocumentRecord) -> Vec<&'static str> {
    let (said, says) = (&before.details, &after.details);
    let members = [
        ("title", before.title != after.title),
        ("description", before.description != after.description),
        ("tags", said.tags != says.tags),
        ("language", said.language != says.language),
        ("links", said.links != says.links),
        ("contact_email", said.contact_email != says.contact_email),
        ("attributes", said.attributes != says.attributes),
        ("mint_tx", before.mint_tx != after.mint_tx),
        ("visibility", before.visibility() != after.visibility()),
        ("encryption", before.encryption != after.encryption),
        ("downloads", before.downloads != after.downloads),
        ("captions", before.captions != after.captions),
        ("chapters", before.chapters != after.chapters),
        ("poster", before.poster != after.poster),
    ];
    members.into_iter().filter_map(|(name, differs)| differs.then_some(name)).collect()
}

/// Writes the document as it is to be, if anything of it is new.
pub(super) async fn commit_change(
    bus: &Bus,
    medium: &mut MediumRecords,
    mut held: VersionedRecord<MediaDocumentRecord>,
    (next, outbox): (MediaDocumentRecord, Outbox),
    who: &Principal,
) -> Result<(), nats::BusError> {
    let fields = changed_fields(&held.record, &next);
    if fields.is_empty() {
        return Ok(());
    }
    if !next.encryption.is_none() {
        // Before anybody can see that there should be one.
        encryption::make_key(bus, next.media_id).await?;
    }
    held.record = MediaDocumentRecord { changed_at_ms: nats::now_ms(), ..next };
    let changed = MediaChanged::new(&held.record, &who.owner, &fields);
    bus.commit_record(&mut held, outbox.with_event(&changed)).await?;
    medium.document = Some(held);
    Ok(())
}

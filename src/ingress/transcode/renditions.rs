//! Renditions that were made elsewhere: the uploads that bring them, and the encode that they become.
//!
//! The bytes stay where their partial uploads have them. The request for the encode keeps them for the time of an upload from then on;
//! afterwards the keeper removes them, as other parts that no upload took.
//!
//! Limits: [`RENDITION_FILES_MAX`] files.

use nats::Outbox;
use schemas::{
    encode::EncodeSettings,
    ids::{MediaId, UploadId},
    keys,
    renditions::{RENDITION_FILES_MAX, RenditionFile},
    subjects::JobPriority,
    upload::{UploadRecord, UploadStatus},
};

use super::{TranscodeDocument, begin_encode, require_encodable};
use crate::{AppState, media};
use auth::Principal;
use web::{error::Problem, problem_code::ProblemCode};

/// Begins an encode of the files that uploads brought.
pub(super) async fn begin_own_ladder(
    app: &AppState,
    who: &Principal,
    (media_id, priority): (MediaId, JobPriority),
    upload_ids: &[UploadId],
) -> Result<TranscodeDocument, Problem> {
    let medium = media::load_owned(&app.bus, media_id, who).await?;
    if !(1..=RENDITION_FILES_MAX).contains(&upload_ids.len()) {
        let detail = format!("1 to {RENDITION_FILES_MAX} uploads");
        return Err(Problem::new(ProblemCode::RequestInvalid).with_pointer("/renditions", detail));
    }
    require_encodable(app, who, &medium, (priority, None, 0)).await?;
    let mut renditions = Vec::with_capacity(upload_ids.len());
    for (place, upload_id) in upload_ids.iter().enumerate() {
        let refuse = |why: &str| {
            Problem::new(ProblemCode::RenditionsInvalid).with_pointer(&format!("/renditions/{place}"), why)
        };
        if upload_ids.iter().take(place).any(|other| other == upload_id) {
            return Err(refuse("it is named twice"));
        }
        renditions.push(keep_file(app, *upload_id, medium.owner()).await?.map_err(refuse)?);
    }
    let profile = Some(app.config.profiles.default_name.clone());
    let settings = EncodeSettings { profile, priority, renditions, ..EncodeSettings::default() };
    begin_encode(app, who, media_id, settings).await
}

/// Why a part of a final upload is refused: its bytes go with that.
const TAKEN: &str = "it is part of a final upload: upload the file again";

/// True for what is whole and belongs to no final upload.
fn is_free(upload: &UploadRecord) -> bool {
    upload.status == UploadStatus::Received && upload.final_upload_id().is_none()
}

/// The file of a partial upload of `owner`, which is kept for the time of an upload from now on; the inner error says why it is none.
async fn keep_file(
    app: &AppState,
    upload_id: UploadId,
    owner: &str,
) -> Result<Result<RenditionFile, &'static str>, Problem> {
    let key = upload_id.to_string();
    let found = app.bus.load_record::<UploadRecord>(&key).await?.map(|held| held.record);
    let Some(upload) = found.filter(|upload| upload.owner == owner) else {
        return Ok(Err("there is no such upload of the owner of the medium"));
    };
    if !upload.is_partial() {
        return Ok(Err("it is no partial upload: it becomes a medium of its own"));
    }
    if upload.final_upload_id().is_some() {
        return Ok(Err(TAKEN));
    }
    match upload.status {
        UploadStatus::Received => {}
        UploadStatus::Open => return Ok(Err("bytes of it are missing")),
        _ => return Ok(Err("it has ended: upload the file again")),
    }
    let until_ms = app.config.uploads.expires_at_ms(nats::now_ms());
    let kept = app.bus.change_record::<UploadRecord>(&key, |found| {
        let record = found.filter(|upload| is_free(upload))?;
        let expires_at_ms = record.expires_at_ms.max(until_ms);
        Some((UploadRecord { expires_at_ms, ..record.clone() }, Outbox::new()))
    });
    match Box::pin(kept).await? {
        Some(held) if is_free(&held.record) => {}
        Some(held) if held.record.final_upload_id().is_some() => return Ok(Err(TAKEN)),
        _ => return Ok(Err("it has ended: upload the file again")),
    }
    Ok(Ok(RenditionFile {
        upload_id,
        key: keys::source_key(upload.media_id),
        size_bytes: upload.offset_bytes,
        name: upload.filename.unwrap_or_else(|| upload_id.to_string()),
    }))
}

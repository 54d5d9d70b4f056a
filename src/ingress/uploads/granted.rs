//! Uploads of those whom an owner gave a grant: each grant is for one, within its size and types.

use nats::{Bus, now_ms};
use schemas::{
    encode_settings::EncodeSettings,
    upload::UploadRecord,
    upload_grant::{UploadGrant, UploadGrantUse},
};

use super::refusal::UploadRefusal;
use auth::{
    Principal,
    upload_grant::{load_upload_grant, use_upload_grant},
};
use web::{error::Problem, problem_code::ProblemCode};

/// Whether a principal may go on with an upload of an owner: who has a grant, only with the upload that began with it.
pub(super) fn may_continue(who: &Principal, record: &UploadRecord) -> bool {
    who.may_change(&record.owner) && (who.upload_grant.is_none() || who.upload_grant == record.grant_id)
}

/// Uses up the grant of a new upload, if it has one, before anything is made of it.
pub(super) async fn claim_grant(bus: &Bus, record: &mut UploadRecord) -> Result<(), UploadRefusal> {
    let Some(grant_id) = record.grant_id else { return Ok(()) };
    let grant = load_upload_grant(bus, grant_id).await?.ok_or_else(grant_refused)?;
    check_bounds(&grant, record)?;
    let wanted = UploadGrantUse { upload_id: record.upload_id, until_ms: record.expires_at_ms.max(now_ms()) };
    if !use_upload_grant(bus, grant_id, wanted).await? {
        return Err(grant_refused());
    }
    record.title = grant.title.or_else(|| record.title.take());
    // How a medium is made, and from which transaction its token is, its owner says.
    (record.settings, record.mint_tx) = (EncodeSettings::default(), None);
    Ok(())
}

fn check_bounds(grant: &UploadGrant, record: &UploadRecord) -> Result<(), UploadRefusal> {
    if record.concat.is_some() {
        let why = "is not for a grant, which is for one upload";
        return Err(UploadRefusal::Header { name: "Upload-Concat", why });
    }
    let Some(length_bytes) = record.length_bytes else {
        let why = "has to say at the beginning how large the file is: a grant is for a file of a size";
        return Err(UploadRefusal::Header { name: "Upload-Length", why });
    };
    if length_bytes > grant.size_bytes_max {
        let detail = format!("the grant is for a file of at most {} bytes", grant.size_bytes_max);
        let problem = Problem::new(ProblemCode::UploadTooLarge).with_detail(detail);
        return Err(UploadRefusal::of_problem(problem.with_member("limit_bytes", grant.size_bytes_max)));
    }
    if !grant.takes_type(record.content_type.as_deref()) {
        let detail = format!("the grant is for a file of {}", grant.types.join(" or "));
        return Err(UploadRefusal::of_problem(Problem::new(ProblemCode::MediaType).with_detail(detail)));
    }
    Ok(())
}

/// An upload began with it, or its time is over.
fn grant_refused() -> UploadRefusal {
    UploadRefusal::of_problem(Problem::new(ProblemCode::UploadGrantRefused))
}

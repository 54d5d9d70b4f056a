//! `/v1/uploads/grants`: an owner gives somebody without a credential, such as the browser of a visitor, the right to bring one file.
//!
//! Limits: those of [`schemas::upload_grant`].

use axum::{
    Extension, Json,
    extract::{Path, State},
    http::{Method, StatusCode},
};
use schemars::JsonSchema;
use schemas::{
    access::ApiKeyScope,
    ids::{UploadGrantId, UploadId},
    upload_grant::{
        EXPIRES_S, EXPIRES_S_MAX, EXPIRES_S_MIN, GRANTS_MAX, TEXT_BYTES_MAX, TYPE_BYTES_MAX, TYPES_MAX,
        UploadGrant,
    },
};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::{
    creation::CREATE_UPLOAD,
    metadata::{TITLE_LENGTH_MAX, TITLE_PATTERN, clean_media_type, clean_title},
    whole_file::is_media_type,
};
use crate::{AppState, capacity};
use auth::{
    Principal,
    upload_grant::{self, NewUploadGrant},
};
use web::{
    body::JsonBody,
    error::Problem,
    idempotency::{IdempotencyClaim, ShownOnceResponse},
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    public_address::PublicAddress,
};

/// What a grant is for.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(rename = "UploadGrantWanted", example = json!({ "size_bytes_max": 1_073_741_824, "types": ["video/*"], "expires_in_s": 3_600 }))]
pub(super) struct UploadGrantRequest {
    /// Largest file, in bytes.
    #[schemars(range(min = 1))]
    size_bytes_max: u64,
    /// Media types that the file may have, as `video/mp4` or `video/*`; any that is taken here without them.
    #[serde(default)]
    #[schemars(length(max = TYPES_MAX), inner(length(max = TYPE_BYTES_MAX)))]
    types: Vec<String>,
    /// How long an upload may begin with it, in seconds; an hour unless said otherwise.
    #[serde(default)]
    #[schemars(range(min = EXPIRES_S_MIN, max = EXPIRES_S_MAX))]
    expires_in_s: Option<u64>,
    /// Title of the medium; what who brings it says without one.
    #[serde(default)]
    #[schemars(with = "Option<String>", regex(pattern = TITLE_PATTERN), length(max = TITLE_LENGTH_MAX))]
    title: Option<String>,
}

/// A new grant.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "UploadGrantMade", example = json!({
    "grant_id": "06db00820hg0303jc5mn0r355k", "grant": "sgu_06db00820hg0303jc5mn0r355k_...", "upload_url": "https://media.example.org/v1/uploads",
    "size_bytes_max": 1_073_741_824, "types": ["video/*"], "expires_at_ms": 1_763_904_414_467_u64,
}))]
pub(super) struct CreatedUploadGrantDocument {
    /// Its public half.
    grant_id: UploadGrantId,
    /// The grant itself, which is sent as `Authorization: Bearer`: shown this once, and kept nowhere.
    grant: String,
    /// Where tus clients open the upload; a whole file may be sent to `/v1/files/{filename}` instead.
    upload_url: String,
    /// Largest file, in bytes.
    size_bytes_max: u64,
    /// Media types that the file may have; any when empty.
    types: Vec<String>,
    /// Unix time in milliseconds from which on no upload begins with it.
    expires_at_ms: u64,
}

/// The grants of an account.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "UploadGrantList", example = json!({ "items": [{
    "grant_id": "06db00820hg0303jc5mn0r355k", "size_bytes_max": 1_073_741_824, "types": ["video/*"], "title": null,
    "created_at_ms": 1_763_900_814_467_u64, "expires_at_ms": 1_763_904_414_467_u64, "upload_id": null,
}] }))]
pub(super) struct UploadGrantListDocument {
    /// Oldest first, without those that were taken back or whose time is over.
    items: Vec<UploadGrantDocument>,
}

/// A grant; its secret is shown nowhere.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "UploadGrantItem")]
struct UploadGrantDocument {
    /// Its public half.
    grant_id: UploadGrantId,
    /// Largest file, in bytes.
    size_bytes_max: u64,
    /// Media types that the file may have; any when empty.
    types: Vec<String>,
    /// Title of the medium.
    title: Option<String>,
    /// Unix time in milliseconds.
    created_at_ms: u64,
    /// Unix time in milliseconds from which on no upload begins with it.
    expires_at_ms: u64,
    /// The upload that began with it; null while it waits.
    upload_id: Option<UploadId>,
}

impl UploadGrantDocument {
    fn new(grant: UploadGrant) -> Self {
        Self {
            grant_id: grant.grant_id,
            size_bytes_max: grant.size_bytes_max,
            types: grant.types,
            title: grant.title,
            created_at_ms: grant.created_at_ms,
            expires_at_ms: grant.expires_at_ms,
            upload_id: grant.used.map(|used| used.upload_id),
        }
    }
}

pub(super) static CREATE_GRANT: Operation = Operation::change(
    Method::POST,
    "/v1/uploads/grants",
    OperationAccess::Principal(ApiKeyScope::Upload),
    Some(RateLimitGroup::Upload),
    &["upload.grant_created"],
)
.with_room(capacity::KEY);

/// Give somebody the right to bring one file
///
/// A server asks for it with its credential and hands it to a page, whose scripts send it as `Authorization: Bearer` in place of one: to
/// `/v1/uploads` with any tus client, or with a whole file to `/v1/files/{filename}`. The medium is that of who gave it, and counts for its
/// quotas. It is good for one upload that begins in its time, of the size and types that it names, while the credential is good; and for
/// nothing else.
#[utoipa::path(
    post,
    path = CREATE_GRANT.path,
    tag = "upload",
    operation_id = "create_upload_grant",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/UploadGrantWanted"), content_type = "application/json"),
    responses(
        (status = 201, description = "The grant", body = ref("#/components/schemas/UploadGrantMade")),
        (status = 409, description = "The account has as many grants that wait as it may; or the grant was made and shown before"),
        (status = 422, description = "It can't be given like that: `pointer` says where"),
    ),
)]
pub(super) async fn create_grant(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    claim: Option<Extension<IdempotencyClaim>>,
    JsonBody(wanted): JsonBody<UploadGrantRequest>,
) -> Result<(StatusCode, Extension<ShownOnceResponse>, Json<CreatedUploadGrantDocument>), Problem> {
    // A grant gives no other.
    require_giver(&who)?;
    let credential = who.credential().ok_or_else(Problem::unauthorized)?;
    let new = check_wanted(&wanted, app.config.uploads.size_bytes_max)?;
    // Of one request there is one grant.
    let grant_id =
        UploadGrantId::from_bytes(claim.map_or_else(nats::new_id_bytes, |claim| claim.derive_id(0)));
    let once = ShownOnceResponse {
        detail: format!("the grant {grant_id} was made; if its text was lost, take it back and make another"),
    };
    let made = upload_grant::create_upload_grant(&app.bus, grant_id, (&who.owner, credential), new).await;
    let (grant, text) = match made {
        Ok(Some(made)) => made,
        Ok(None) => {
            let detail = format!(
                "at most {GRANTS_MAX} are kept that wait for their uploads, or whose uploads go on or ended just now"
            );
            return Err(Problem::new(ProblemCode::UploadGrantsTooMany).with_detail(detail));
        }
        Err(nats::BusError::Conflict { .. }) => return Err(once.to_problem()),
        Err(error) => return Err(error.into()),
    };
    let document = CreatedUploadGrantDocument {
        grant_id,
        grant: text,
        upload_url: format!("{}{}", address.absolute_prefix(), CREATE_UPLOAD.path),
        size_bytes_max: grant.size_bytes_max,
        types: grant.types,
        expires_at_ms: grant.expires_at_ms,
    };
    Ok((StatusCode::CREATED, Extension(once), Json(document)))
}

pub(super) static LIST_GRANTS: Operation = Operation::read(
    "/v1/uploads/grants",
    OperationAccess::Principal(ApiKeyScope::Upload),
    Some(RateLimitGroup::Upload),
);

/// List the grants that one gave
#[utoipa::path(
    get,
    path = LIST_GRANTS.path,
    tag = "upload",
    operation_id = "list_upload_grants",
    responses((status = 200, description = "The grants", body = ref("#/components/schemas/UploadGrantList"))),
)]
pub(super) async fn list_grants(
    State(app): State<AppState>,
    who: Principal,
) -> Result<Json<UploadGrantListDocument>, Problem> {
    require_giver(&who)?;
    let grants = upload_grant::list_upload_grants(&app.bus, &who.owner).await?;
    Ok(Json(UploadGrantListDocument { items: grants.into_iter().map(UploadGrantDocument::new).collect() }))
}

pub(super) static REVOKE_GRANT: Operation = Operation::change(
    Method::DELETE,
    "/v1/uploads/grants/{grant_id}",
    OperationAccess::Principal(ApiKeyScope::Upload),
    Some(RateLimitGroup::Upload),
    &["upload.grant_revoked"],
);

/// Take a grant back
///
/// No upload begins with it, and one that began does not go on. Taking it back again changes nothing.
#[utoipa::path(
    delete,
    path = REVOKE_GRANT.path,
    tag = "upload",
    operation_id = "revoke_upload_grant",
    params(("grant_id", Path)),
    responses((status = 204, description = "It is taken back")),
)]
pub(super) async fn revoke_grant(
    State(app): State<AppState>,
    who: Principal,
    Path(grant_id): Path<String>,
) -> Result<StatusCode, Problem> {
    require_giver(&who)?;
    let missing = || Problem::not_found("there is no such grant, or it is not yours");
    let grant_id = grant_id.parse().map_err(|_| missing())?;
    let may = |grant: &UploadGrant| who.may_change(&grant.owner);
    if upload_grant::revoke_upload_grant(&app.bus, grant_id, may, &who.owner).await? {
        Ok(StatusCode::NO_CONTENT)
    } else {
        Err(missing())
    }
}

/// Lets everybody pass but who has a grant.
fn require_giver(who: &Principal) -> Result<(), Problem> {
    if who.upload_grant.is_some() {
        return Err(Problem::new(ProblemCode::ScopeMissing).with_detail("a grant is for one upload alone"));
    }
    Ok(())
}

fn check_wanted(wanted: &UploadGrantRequest, size_bytes_max: u64) -> Result<NewUploadGrant, Problem> {
    let invalid = |pointer: &str, detail: String| {
        Problem::new(ProblemCode::UploadGrantInvalid).with_pointer(pointer, detail)
    };
    if !(1..=size_bytes_max).contains(&wanted.size_bytes_max) {
        return Err(invalid("/size_bytes_max", format!("1 to {size_bytes_max} bytes")));
    }
    let expires_in_s = wanted.expires_in_s.unwrap_or(EXPIRES_S);
    if !(EXPIRES_S_MIN..=EXPIRES_S_MAX).contains(&expires_in_s) {
        return Err(invalid("/expires_in_s", format!("{EXPIRES_S_MIN} to {EXPIRES_S_MAX} seconds")));
    }
    if wanted.types.len() > TYPES_MAX {
        return Err(invalid("/types", format!("at most {TYPES_MAX} media types")));
    }
    let mut types = Vec::with_capacity(wanted.types.len());
    for (position, text) in wanted.types.iter().enumerate() {
        let found = clean_type(text).ok_or_else(|| {
            let detail = "a media type such as `video/mp4`, or `video/*`, `audio/*` or `image/*`";
            invalid(&format!("/types/{position}"), detail.to_owned())
        })?;
        if !types.contains(&found) {
            types.push(found);
        }
    }
    let title = wanted.title.as_deref().map(|title| {
        let detail = format!("it needs something to be shown, and at most {TITLE_LENGTH_MAX} characters");
        clean_title(title).ok_or_else(|| invalid("/title", detail))
    });
    let title = title.transpose()?;
    let text_bytes = types.iter().chain(&title).fold(0_usize, |sum, text| sum.saturating_add(text.len()));
    if text_bytes > TEXT_BYTES_MAX {
        return Err(invalid(
            "",
            format!("title and media types have at most {TEXT_BYTES_MAX} bytes together"),
        ));
    }
    Ok(NewUploadGrant { size_bytes_max: wanted.size_bytes_max, types, title, expires_in_s })
}

/// A media type that a file may have, or a kind of them.
fn clean_type(text: &str) -> Option<String> {
    let text = text.trim().to_ascii_lowercase();
    if ["video/*", "audio/*", "image/*"].contains(&text.as_str()) {
        return Some(text);
    }
    clean_media_type(&text).filter(|found| !found.contains('*') && is_media_type(found))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wanted(change: impl FnOnce(&mut UploadGrantRequest)) -> UploadGrantRequest {
        let mut wanted =
            UploadGrantRequest { size_bytes_max: 5, types: Vec::new(), expires_in_s: None, title: None };
        change(&mut wanted);
        wanted
    }

    #[test]
    fn a_grant_has_bounds() {
        let good =
            wanted(|wanted| wanted.types = ["Video/*", "audio/flac", "video/*"].map(Into::into).into());
        let new = check_wanted(&good, 10).unwrap();
        assert_eq!((new.types, new.expires_in_s), (vec!["video/*".to_owned(), "audio/flac".into()], 3_600));
        let bad: [fn(&mut UploadGrantRequest); 9] = [
            |wanted| {
                wanted.types = (0..TYPES_MAX).map(|n| format!("video/{n}{}", "x".repeat(110))).collect();
            },
            |wanted| wanted.size_bytes_max = 0,
            |wanted| wanted.size_bytes_max = 11,
            |wanted| wanted.expires_in_s = Some(59),
            |wanted| wanted.expires_in_s = Some(EXPIRES_S_MAX + 1),
            |wanted| wanted.types = vec!["*/*".into()],
            |wanted| wanted.types = vec!["text/html".into()],
            |wanted| wanted.types = vec!["video/mp4".into(); TYPES_MAX + 1],
            |wanted| wanted.title = Some(" ".into()),
        ];
        for change in bad {
            assert!(check_wanted(&wanted(change), 10).is_err());
        }
    }
}

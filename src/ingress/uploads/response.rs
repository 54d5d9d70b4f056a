//! What answers of every protocol have in common.

use axum::{
    http::HeaderValue,
    response::{IntoResponse, Response},
};
use schemars::JsonSchema;
use schemas::ids::{MediaId, UploadId};
use serde::Serialize;
use serde_json::json;
use web::public_address::PublicAddress;

use super::refusal::UploadRefusal;

/// What a request opened or brought.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "MediaCreated", example = json!({ "media_id": "06db00820dt0303jc5mn0r355k", "upload_id": "06db008209t0303jc5mn0r355k" }))]
pub(super) struct MediaCreatedDocument {
    /// The medium.
    pub(super) media_id: MediaId,
    /// The upload that brought it, or is to bring it.
    pub(super) upload_id: UploadId,
    /// Where its bytes are to be sent: the address of a tus upload. Absent where the request was one of uploading.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) upload_url: Option<String>,
}

pub(super) fn outcome_response(outcome: Result<Response, UploadRefusal>) -> Response {
    outcome.unwrap_or_else(|refusal| refusal.into_problem().into_response())
}

/// The upload's URL, absolute: not every client resolves another one.
pub(super) fn upload_location(
    address: &PublicAddress,
    upload_id: UploadId,
) -> Result<HeaderValue, UploadRefusal> {
    HeaderValue::from_str(&format!("{}/v1/uploads/{upload_id}", address.absolute_prefix()))
        .map_err(|_| UploadRefusal::Header { name: "Host", why: "is no host" })
}

/// The medium's id as a header.
pub(super) fn media_id_header(media_id: MediaId) -> Result<HeaderValue, UploadRefusal> {
    HeaderValue::from_str(&media_id.to_string()).map_err(|_| UploadRefusal::NotFound)
}

//! Tokens for forms: a server asks for one with its credential and puts it into a form of its page.

use axum::{
    Extension, Json,
    extract::State,
    http::{Method, StatusCode},
};
use schemars::JsonSchema;
use schemas::access::ApiKeyScope;
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::SEND_FORM;
use crate::{AppState, capacity};
use auth::{Principal, upload_token};
use web::{
    body::OptionalJsonBody,
    error::Problem,
    idempotency::ShownOnceResponse,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
    problem_code::ProblemCode,
    public_address::PublicAddress,
    request,
};

/// Longest address to go to afterwards, in bytes.
const REDIRECT_BYTES_MAX: usize = 2_000;
/// What such an address is: what [`is_redirect`] takes.
const REDIRECT: &str = "^https?://[A-Za-z0-9.-]+(:[1-9][0-9]{0,4})?(/[A-Za-z0-9._~!$&'()*+,;=:@%/?-]*)?$";

/// A browser that sends a form goes there with `media_id` in the query.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(default, deny_unknown_fields)]
#[schemars(rename = "UploadTokenWanted", example = json!({ "redirect_url": "https://blog.example.org/thanks" }))]
pub(in super::super) struct UploadTokenRequest {
    /// Where the browser goes once the file is stored, with `media_id` added to the query; without it, it is shown a page that says so.
    #[schemars(length(max = REDIRECT_BYTES_MAX), pattern(REDIRECT))]
    redirect_url: Option<String>,
}

/// A right to upload one file by a form.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "UploadTokenMade", example = json!({
    "token": "3f0c9d1e5b7a2c4d6e8f0a1b2c3d4e5f60718293", "expires_at_ms": 1_763_904_414_467_u64, "form_url": "https://media.example.org/v1/forms",
}))]
pub(in super::super) struct UploadTokenDocument {
    /// The value of the field `upload_token`: shown this once, and kept nowhere.
    token: String,
    /// Unix time in milliseconds from which on it opens nothing.
    expires_at_ms: u64,
    /// The `action` of the form.
    form_url: String,
}

pub(in super::super) static CREATE_UPLOAD_TOKEN: Operation = Operation::change(
    Method::POST,
    "/v1/forms/tokens",
    OperationAccess::Principal(ApiKeyScope::Upload),
    Some(RateLimitGroup::Upload),
    &["auth.upload_token_created"],
)
.with_room(capacity::CHALLENGE);

/// Make a token for one upload by a form
///
/// A server asks for it with its credential and puts it into a form of its page, in a field `upload_token` before the field of the file:
/// whoever sends that form uploads one file for the owner of the credential. It is good once, for an hour, while the credential is.
#[utoipa::path(
    post,
    path = CREATE_UPLOAD_TOKEN.path,
    tag = "upload",
    operation_id = "create_upload_token",
    params(("Idempotency-Key", Header)),
    request_body(content = ref("#/components/schemas/UploadTokenWanted"), content_type = "application/json"),
    responses(
        (status = 201, description = "The token", body = ref("#/components/schemas/UploadTokenMade")),
        (status = 409, description = "The token was made and shown before"),
    ),
)]
pub(in super::super) async fn create_upload_token(
    State(app): State<AppState>,
    who: Principal,
    address: PublicAddress,
    OptionalJsonBody(wanted): OptionalJsonBody<UploadTokenRequest>,
) -> Result<(StatusCode, Extension<ShownOnceResponse>, Json<UploadTokenDocument>), Problem> {
    let redirect_url = wanted.redirect_url.map(check_redirect).transpose()?;
    let credential = who.credential().ok_or_else(Problem::unauthorized)?;
    let request_id = request::current_or_fresh_id();
    let by = (who.owner.as_str(), credential);
    let token = upload_token::create_upload_token(&app.bus, by, redirect_url, request_id).await?;
    let once =
        ShownOnceResponse { detail: "the token was made; if its text was lost, make another".to_owned() };
    let form_url = format!("{}{}", address.absolute_prefix(), SEND_FORM.path);
    let document = UploadTokenDocument { token: token.text, expires_at_ms: token.expires_at_ms, form_url };
    Ok((StatusCode::CREATED, Extension(once), Json(document)))
}

fn check_redirect(text: String) -> Result<String, Problem> {
    if text.len() <= REDIRECT_BYTES_MAX && is_redirect(&text) {
        return Ok(text);
    }
    let detail = format!("an address of the web without a fragment, of at most {REDIRECT_BYTES_MAX} bytes");
    Err(Problem::new(ProblemCode::JsonInvalid).with_pointer("/redirect_url", detail))
}

/// True for an address of the web whose query can be added to: it becomes a header, so only plain characters are in it (RFC 3986).
fn is_redirect(text: &str) -> bool {
    let rest = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://")).unwrap_or_default();
    let (authority, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    let (host, port) = authority.split_once(':').unwrap_or((authority, "80"));
    let is_host = !host.is_empty() && host.bytes().all(|b| b.is_ascii_alphanumeric() || b".-".contains(&b));
    let is_port = (1..=5).contains(&port.len())
        && !port.starts_with('0')
        && port.bytes().all(|byte| byte.is_ascii_digit());
    let is_plain = |b: u8| b.is_ascii_alphanumeric() || b"._~!$&'()*+,;=:@%/?-".contains(&b);
    is_host && is_port && path.bytes().all(is_plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_addresses_of_the_web_are_gone_to() {
        for (text, wanted) in [
            ("https://blog.example.org", true),
            ("http://localhost:3000/thanks?from=form&x=%20", true),
            ("https://", false),
            ("https:///path", false),
            ("https://a@b/", false),
            ("https://a:/", false),
            ("https://a/#x", false),
            ("https://a/\u{7f}", false),
            ("https://a/\r\nX: y", false),
            ("javascript:alert(1)", false),
            ("/thanks", false),
            ("", false),
        ] {
            assert_eq!(is_redirect(text), wanted, "{text:?}");
        }
    }
}

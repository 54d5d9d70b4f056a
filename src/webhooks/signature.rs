//! Signatures of Standard Webhooks 1.0: HMAC-SHA256 over id, time and body.
//!
//! What is signed is `<webhook-id>.<webhook-timestamp>.<body>`; `webhook-signature` has one `v1,<base64>` for each secret, separated by a
//! blank, so that a receiver may know either of two secrets. A secret is shown as `whsec_<base64>`.

use data_encoding::BASE64;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

/// Header with the id of an event: the same at each try.
pub const ID: &str = "webhook-id";
/// Header with the time of a try, in Unix seconds: receivers refuse one that is more than five minutes away.
pub const TIMESTAMP: &str = "webhook-timestamp";
/// Header with the signatures.
pub const SIGNATURE: &str = "webhook-signature";

/// Bytes of a secret, of 24 to 64 that the standard allows.
pub const SECRET_BYTES: usize = 32;

/// A secret as receivers are given it.
pub fn show_secret(secret: &[u8]) -> String {
    format!("whsec_{}", BASE64.encode(secret))
}

/// The value of `webhook-signature`.
pub fn sign<'a>(
    id: &str,
    timestamp_s: u64,
    body: &[u8],
    secrets: impl IntoIterator<Item = &'a [u8]>,
) -> String {
    let signatures = secrets.into_iter().filter_map(|secret| {
        // An HMAC takes a key of any length.
        let mut mac = Hmac::<Sha256>::new_from_slice(secret).ok()?;
        mac.update(format!("{id}.{timestamp_s}.").as_bytes());
        mac.update(body);
        Some(format!("v1,{}", BASE64.encode(&mac.finalize().into_bytes())))
    });
    signatures.collect::<Vec<_>>().join(" ")
}

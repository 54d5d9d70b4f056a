//! Which requests create something, and where it goes.

use axum::{
    extract::Request,
    http::{HeaderName, Method, header},
};

use super::{BROKER_DISK, STORE_DISK};

/// Streams that every event fills.
const EVENTS: [&str; 2] = ["EVENTS", "AUDIT"];

/// A medium on its way from its first byte to its last segment.
const UPLOAD: &[&str] = &[
    EVENTS[0],
    EVENTS[1],
    "KV_uploads",
    "KV_limits",
    "KV_media",
    "KV_assets",
    "KV_jobs",
    STORE_DISK,
    BROKER_DISK,
];
const CHALLENGE: &[&str] = &[EVENTS[0], EVENTS[1], "KV_nonces", BROKER_DISK];
const SIGN_IN: &[&str] = &[EVENTS[0], EVENTS[1], "KV_sessions", BROKER_DISK];
const KEY: &[&str] = &[EVENTS[0], EVENTS[1], "KV_apikeys", BROKER_DISK];
const PLAYBACK: &[&str] = &[EVENTS[0], EVENTS[1], "KV_grants", BROKER_DISK];

/// The limits that a request needs room below; none when it creates nothing. What ends, revokes or goes on needs none: it has to
/// work when everything is full.
pub(crate) fn required_limits(method: &Method, path: &str) -> &'static [&'static str] {
    if method != Method::POST {
        return &[];
    }
    match path {
        "/v1/uploads" | "/v1/media" => UPLOAD,
        "/v1/auth/challenge" => CHALLENGE,
        "/v1/auth/login" => SIGN_IN,
        "/v1/auth/keys" => KEY,
        _ if path.starts_with("/v1/media/") && path.ends_with("/playback") => PLAYBACK,
        _ => &[],
    }
}

/// Every stream and bucket that is needed, once.
pub(super) fn required_streams() -> Vec<&'static str> {
    let all = [UPLOAD, CHALLENGE, SIGN_IN, KEY, PLAYBACK].concat();
    let mut streams: Vec<&str> =
        all.into_iter().filter(|name| ![STORE_DISK, BROKER_DISK].contains(name)).collect();
    streams.sort_unstable();
    streams.dedup();
    streams
}

/// Bytes of the file that a request says it brings: the length of the upload, or of the body where that is the file.
pub(super) fn declared_size_bytes(request: &Request) -> Option<u64> {
    const UPLOAD_LENGTH: HeaderName = HeaderName::from_static("upload-length");
    let name = if request.uri().path() == "/v1/media" { header::CONTENT_LENGTH } else { UPLOAD_LENGTH };
    request.headers().get(name)?.to_str().ok()?.parse().ok()
}

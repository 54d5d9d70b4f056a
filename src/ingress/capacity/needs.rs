//! What operations create, and where it goes.

use axum::extract::Request;
use web::operation::RoomNeed;

use super::{BROKER_DISK, STORE_DISK};

/// Streams that every event fills.
const EVENTS: [&str; 2] = ["EVENTS", "AUDIT"];

/// A medium on its way from its first byte to its last segment.
const MEDIUM: &[&str] = &[
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
/// Of a file, whose length the request says, or that is the body.
pub(crate) const UPLOAD: RoomNeed =
    RoomNeed { limits: MEDIUM, size_headers: &["upload-length", "content-length"] };
/// Of another encode of a medium.
pub(crate) const ENCODE: RoomNeed =
    records_need(&[EVENTS[0], EVENTS[1], "KV_assets", "KV_jobs", STORE_DISK, BROKER_DISK]);
/// Of captions, or of a picture.
pub(crate) const CAPTIONS: RoomNeed = RoomNeed {
    limits: &[EVENTS[0], EVENTS[1], "KV_media", "KV_limits", STORE_DISK, BROKER_DISK],
    size_headers: &["content-length"],
};
/// Of a schedule.
pub(crate) const SCHEDULE: RoomNeed = records_need(&[EVENTS[0], EVENTS[1], "KV_schedules", BROKER_DISK]);
/// Of a webhook.
pub(crate) const HOOK: RoomNeed = records_need(&[EVENTS[0], EVENTS[1], "KV_hooks", BROKER_DISK]);
/// Of a job that begins now, or at a later time.
pub(crate) const JOB: RoomNeed =
    records_need(&[EVENTS[0], EVENTS[1], "KV_assets", "KV_jobs", "KV_schedules", STORE_DISK, BROKER_DISK]);
/// Of a challenge to sign.
pub(crate) const CHALLENGE: RoomNeed = records_need(&[EVENTS[0], EVENTS[1], "KV_nonces", BROKER_DISK]);
/// Of a session of a wallet.
pub(crate) const SIGN_IN: RoomNeed = records_need(&[EVENTS[0], EVENTS[1], "KV_sessions", BROKER_DISK]);
/// Of an API key, or a grant for an upload.
pub(crate) const KEY: RoomNeed = records_need(&[EVENTS[0], EVENTS[1], "KV_apikeys", BROKER_DISK]);
/// Of the API key of a sign-in link, which is marked as used.
pub(crate) const LINK: RoomNeed =
    records_need(&[EVENTS[0], EVENTS[1], "KV_nonces", "KV_apikeys", BROKER_DISK]);
/// Of a playback session.
pub(crate) const PLAYBACK: RoomNeed = records_need(&[EVENTS[0], EVENTS[1], "KV_grants", BROKER_DISK]);

/// Of an entry of the cache API.
pub(crate) const CACHED: RoomNeed = records_need(&["KV_cache", BROKER_DISK]);

const fn records_need(limits: &'static [&'static str]) -> RoomNeed {
    RoomNeed { limits, size_headers: &[] }
}

/// Every stream and bucket that is needed, once.
pub(super) fn required_streams() -> Vec<&'static str> {
    let all =
        [UPLOAD, ENCODE, SCHEDULE, HOOK, JOB, CHALLENGE, SIGN_IN, KEY, LINK, PLAYBACK, CACHED, CAPTIONS];
    let mut streams: Vec<&str> = all
        .iter()
        .flat_map(|need| need.limits)
        .copied()
        .filter(|name| ![STORE_DISK, BROKER_DISK].contains(name))
        .collect();
    streams.sort_unstable();
    streams.dedup();
    streams
}

/// Bytes of the file that a request says it brings.
pub(super) fn declared_size_bytes(need: &RoomNeed, request: &Request) -> Option<u64> {
    let declared = |name: &&str| request.headers().get(*name)?.to_str().ok()?.parse().ok();
    need.size_headers.iter().filter_map(declared).max()
}

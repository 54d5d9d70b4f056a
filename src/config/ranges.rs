//! What numbers settings take where their fields do not say it: at least 1, and at most what can be counted with.
//!
//! Most numbers of the settings are limits, times and sizes of which 0 leaves nothing to work with: every upload, request or part
//! would fail, long after the start. So 0 is taken only where it is listed in [`ZERO`], and a new setting needs a decision to take it.
//!
//! Limits: times of [`DAYS_MAX`], other numbers of [`NUMBER_MAX`].

use serde_json::Value as Json;

use super::units::SettingUnit;

/// Longest time that a setting takes, in days: brokers count nanoseconds in 64 bits, which end after 292 years.
pub const DAYS_MAX: u64 = 36_500;

/// Largest number that a setting without a unit of time takes: up to here every format and every queue counts exactly.
pub const NUMBER_MAX: u64 = 1 << 53;

/// Settings, by their paths in the code, that take 0: there it means none, at once or never, and works.
pub const ZERO: &[&str] = &[
    // No wait, no memory, no tolerance: what is asked is asked each time.
    "auth.issued_age_s_max",
    "auth.issued_ahead_s_max",
    "auth.proof_ms",
    "auth.recheck_ms",
    "auth.refresh_again_ms",
    "chains[].confirmations",
    "chains[].head_cache_ms",
    "chains[].quarantine_ms",
    "grants.renew_early_ms",
    "index.revision_wait_ms_max",
    "ingress.manners.preflight_s",
    "ingress.probe_kept_ms",
    "ingress.playback.cache_object_bytes_max",
    "ingress.playback.experience.sampled_per_million",
    "ingress.playback.media_age_seconds_max",
    "ingress.uploads.drain_bytes_max",
    "ingress.uploads.drain_ms",
    "ingress.uploads.finish_wait_ms",
    "ingress.uploads.release_ms",
    "ingress.uploads.takeover_ms",
    "telemetry.tracing.reads_per_million",
    "store.in_flight_wait_ms",
    "store.marker_ms",
    "store.retries_max",
    "store.retry_timeout_ms",
    "store.tail_interval_ms",
    // Nothing of it is made, kept or shown.
    "auth.keys_per_owner_max",
    "ingress.quotas.each.daily_encode_ms_max",
    "ingress.quotas.each.daily_upload_bytes_max",
    "ingress.quotas.each.open_jobs_max",
    "ingress.quotas.of.<name>.daily_encode_ms_max",
    "ingress.quotas.of.<name>.daily_upload_bytes_max",
    "ingress.quotas.of.<name>.open_jobs_max",
    "grants.denied_events_per_minute_max",
    "grants.denied_events_per_viewer_per_minute_max",
    "grants.live_max",
    "ingress.limit.events_per_min_max",
    "ingress.playback.media_count_max",
    "media.read_amplification_max",
    "monitor.dead_stages_max",
    "monitor.durables_max",
    "monitor.streams_max",
    "outbound.redirects_max",
    "transcode.profiles.<name>.audio_tracks_max",
    "transcode.profiles.<name>.single_part_segments_max",
    "upload.text_chars_max",
    // No least rate or room.
    "ingress.body.rate_bytes_per_s_min",
    "ingress.capacity.disk_free_bytes_enough",
    "ingress.uploads.free_bytes_min",
    "ingress.uploads.rate_bytes_per_s_min",
    // At once.
    "index.consume.grace_ms",
    "index.consume.outage_delay_ms",
    "index.consume.outage_delay_ms_max",
    "index.consume.retry_delay_ms",
    "index.consume.retry_delay_ms_max",
    "ingress.grace_ms",
    "keeper.fold_age_ms",
    "keeper.purge.grace_s",
    "keeper.purge.rejected_age_s",
    "retention.removed_ms",
    "keeper.unsent_age_ms",
    "transcode.crashes_before_safe",
    "transcode.lost_delay_ms",
    "transcode.lost_delay_ms_max",
    "transcode.lost_park_ms",
    "transcode.lost_workers_max",
    "transcode.other_version_wait_ms",
    "transcode.parts.grace_ms",
    "transcode.parts.outage_delay_ms",
    "transcode.parts.outage_delay_ms_max",
    "transcode.parts.retry_delay_ms",
    "transcode.parts.retry_delay_ms_max",
    "transcode.planner.grace_ms",
    "transcode.planner.outage_delay_ms",
    "transcode.planner.outage_delay_ms_max",
    "transcode.planner.retry_delay_ms",
    "transcode.planner.retry_delay_ms_max",
    "transcode.progress_interval_ms",
    "upload.consume.grace_ms",
    "upload.consume.outage_delay_ms",
    "upload.consume.outage_delay_ms_max",
    "upload.consume.retry_delay_ms",
    "upload.consume.retry_delay_ms_max",
];

/// Numbers that name something instead of counting it: as large as their type.
const NAMES: &[&str] = &["auth.chains[]", "chains[].chain_id"];

/// The largest number of a setting whose field says none.
pub fn general_maximum(field: &str) -> u64 {
    let days = |units_a_day: u64| DAYS_MAX * units_a_day;
    match SettingUnit::from_field(field) {
        Some(SettingUnit::Milliseconds) => days(86_400_000),
        Some(SettingUnit::Seconds) => days(86_400),
        Some(SettingUnit::Days) => days(1),
        Some(SettingUnit::Bytes) | None => NUMBER_MAX,
    }
}

/// Fills in the ranges of the settings below `node`, which is at `path` in the code.
pub(super) fn complete_ranges(node: &mut Json, path: &str) {
    if is_unsigned(node) && node.get("enum").is_none() {
        complete_number(node, path);
    }
    if let Some(fields) = node.get_mut("properties").and_then(Json::as_object_mut) {
        for (field, child) in fields {
            let path = if path.is_empty() { field.clone() } else { format!("{path}.{field}") };
            complete_ranges(child, &path);
        }
    }
    for (below, step) in [("items", "[]"), ("additionalProperties", ".<name>")] {
        if let Some(child) = node.get_mut(below) {
            complete_ranges(child, &format!("{path}{step}"));
        }
    }
}

fn is_unsigned(node: &Json) -> bool {
    node.get("format").and_then(Json::as_str).is_some_and(|format| format.starts_with("uint"))
}

fn complete_number(node: &mut Json, path: &str) {
    let Some(range) = node.as_object_mut() else { return };
    let has_least = range.get("minimum").and_then(Json::as_u64).is_some_and(|least| least > 0);
    if !has_least && !ZERO.contains(&path) {
        range.insert("minimum".into(), 1.into());
    }
    let field = path.rsplit('.').next().unwrap_or(path);
    if !NAMES.contains(&path) {
        range.entry("maximum").or_insert_with(|| general_maximum(field).into());
    }
}

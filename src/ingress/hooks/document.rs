//! A hook as people read it.

use outbound::{Networks, OutboundUrl};
use schemars::JsonSchema;
use schemas::{
    hook::{HookPause, HookProgress, HookRecord},
    ids::{HookId, JobId, MediaId},
};
use serde::Serialize;
use serde_json::{Value, json};

use crate::events::format_event_id;
use web::{conditional::EntityTag, error::Problem};

/// Where a hook stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "HookState")]
enum HookState {
    /// It sends.
    Active,
    /// Nothing but failures came of its last deliveries; they are tried again.
    Failing,
    /// So much waits for its receiver that it reads no further until some of it was delivered.
    Full,
    /// It sends nothing: `paused` says why.
    Paused,
}

/// A secret, which is not shown.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HookSecretItem")]
struct HookSecretItem {
    /// Unix time in milliseconds at which it was made.
    made_at_ms: u64,
    /// Unix time in milliseconds until which it signs beside the newest; null of the newest.
    signs_until_ms: Option<u64>,
}

/// How far a hook is.
#[derive(Debug, Default, Serialize, JsonSchema)]
#[schemars(rename = "HookProgress")]
struct HookProgressItem {
    /// Id of the newest event that was looked at, as `GET /v1/events` has it.
    position: Option<String>,
    /// Events that wait for their delivery, at most 1,024.
    waiting_events: usize,
    /// Media that they are about, at most 256.
    waiting_media: usize,
    /// Unix time in milliseconds since which the oldest of them waits.
    oldest_waiting_at_ms: Option<u64>,
    /// Unix time in milliseconds since which nothing but failures came of deliveries.
    failing_since_ms: Option<u64>,
}

/// One hook. Times are those of the broker.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HookDocument", example = example_document())]
pub(super) struct HookDocument {
    /// The hook.
    hook_id: HookId,
    /// Whose it is.
    owner: String,
    /// The account that made it.
    created_by: String,
    /// What people call it; may be empty.
    name: String,
    /// Where events are sent, without the query.
    url: String,
    /// True when the address has a query, which is not shown.
    has_query: bool,
    /// Kinds of events that are sent; empty for all.
    types: Vec<String>,
    /// Only events about this medium.
    media_id: Option<MediaId>,
    /// Only events about this job.
    job_id: Option<JobId>,
    /// True when it sends the events of all owners.
    all_owners: bool,
    /// Where it stands.
    state: HookState,
    /// Since when it sends nothing, and why; null while it sends.
    paused: Option<HookPause>,
    /// What signs, the newest first.
    secrets: Vec<HookSecretItem>,
    /// Unix time in milliseconds at which it was made.
    created_at_ms: u64,
    /// How far it is; its members are null or 0 until the keeper has begun.
    progress: HookProgressItem,
}

impl HookDocument {
    pub(super) fn new(record: &HookRecord, progress: Option<&HookProgress>) -> Self {
        let state = match progress {
            _ if record.paused.is_some() => HookState::Paused,
            Some(progress) if progress.is_full => HookState::Full,
            Some(progress) if progress.failing_since_ms.is_some() => HookState::Failing,
            _ => HookState::Active,
        };
        let secrets = record.secrets.iter().rev().map(|secret| HookSecretItem {
            made_at_ms: secret.made_at_ms,
            signs_until_ms: secret.signs_until_ms,
        });
        let progress = progress.map(|progress| HookProgressItem {
            position: Some(format_event_id(progress.position.created_at_ms, progress.position.sequence)),
            waiting_events: progress.waiting_count(),
            waiting_media: progress.lanes.len(),
            oldest_waiting_at_ms: progress.oldest_since_ms(),
            failing_since_ms: progress.failing_since_ms,
        });
        Self {
            hook_id: record.hook_id,
            owner: record.owner.clone(),
            created_by: record.created_by.clone(),
            name: record.name.clone(),
            url: shown_url(&record.url),
            has_query: record.url.contains('?'),
            types: record.types.clone(),
            media_id: record.media_id,
            job_id: record.job_id,
            all_owners: record.is_for_all,
            state,
            paused: record.paused.clone(),
            secrets: secrets.collect(),
            created_at_ms: record.created_at_ms,
            progress: progress.unwrap_or_default(),
        }
    }
}

/// A hook that was made.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "HookMade", example = json!({ "hook": example_document(), "secret": "whsec_..." }))]
pub(super) struct CreatedHookDocument {
    /// The hook.
    hook: HookDocument,
    /// What it signs by: shown this once.
    secret: String,
}

impl CreatedHookDocument {
    pub(super) fn new(record: &HookRecord, secret: String) -> Self {
        Self { hook: HookDocument::new(record, None), secret }
    }
}

/// An address without its query, whichever networks the operator lets through.
pub(super) fn shown_url(url: &str) -> String {
    let all = ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok()).collect();
    OutboundUrl::parse(url, &Networks::new(all)).map(|url| url.shown()).unwrap_or_default()
}

/// Scheme and host of an address, for what others read, too.
pub(super) fn shown_origin(url: &str) -> String {
    let all = ["0.0.0.0/0", "::/0"].iter().filter_map(|network| network.parse().ok()).collect();
    OutboundUrl::parse(url, &Networks::new(all)).map(|url| url.shown_origin()).unwrap_or_default()
}

/// The tag of what is set about a hook: what is delivered meanwhile does not change it.
pub(super) fn settings_tag(record: &HookRecord) -> Result<EntityTag, Problem> {
    let settings = serde_json::to_vec(record).map_err(|error| Problem::internal(&error))?;
    Ok(EntityTag::from_bytes(&settings))
}

pub(super) fn example_request() -> Value {
    json!({ "name": "Catalogue", "url": "https://films.example/hooks?key=1f3a", "types": ["media", "job.failed"] })
}

pub(super) fn example_document() -> Value {
    json!({
        "hook_id": "06db00840lt0303jc5mn0r355k", "owner": "admin", "created_by": "admin", "name": "Catalogue",
        "url": "https://films.example/hooks", "has_query": true, "types": ["media", "job.failed"], "media_id": null, "job_id": null,
        "all_owners": false, "state": "active", "paused": null,
        "secrets": [{ "made_at_ms": 1_763_900_814_467_u64, "signs_until_ms": null }], "created_at_ms": 1_763_900_814_467_u64,
        "progress": {
            "position": "1a2b3c-41", "waiting_events": 1, "waiting_media": 1, "oldest_waiting_at_ms": 1_763_900_814_467_u64,
            "failing_since_ms": null,
        },
    })
}

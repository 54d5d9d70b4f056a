//! What a stream says of itself: how things stand, that there is a gap, and that its reader was too slow.

use bytes::Bytes;
use schemars::JsonSchema;
use schemas::{access::ApiKeyScope, job::JobRecord};
use serde::Serialize;
use serde_json::{Value, json};

use super::{
    filter::EventFilter,
    frame::{EventFrame, LAGGED, RESYNC, SNAPSHOT},
};
use crate::{AppState, jobs, media};
use web::error::Problem;

/// `data` of `snapshot`, as JSON: how things stood when the stream began, or later.
#[derive(JsonSchema)]
#[schemars(rename = "SnapshotData", example = json!({ "cursor": "1a2b3c-7" }))]
#[expect(dead_code, reason = "the description of a text that is put together of documents")]
pub(super) struct SnapshotData {
    /// Id of the newest event that is in it for certain: what follows is behind it.
    cursor: String,
    /// The medium that was asked for, as `GET /v1/media/{media_id}` has it; null while it is removed. Absent for an API key that may not
    /// read it there.
    media: Option<Value>,
    /// The job that was asked for, as `GET /v1/jobs/{job_id}` has it. Absent for an API key that may not read it there.
    job: Option<Value>,
}

/// `data` of `resync`, as JSON: what was missed can't be given; a `snapshot` follows.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ResyncData", example = json!({ "reason": "dropped", "cursor": "1a2b3c-7" }))]
pub(super) struct ResyncData {
    /// Why.
    reason: ResyncReason,
    /// Id of the event behind which the stream goes on.
    cursor: String,
}

/// `data` of `lagged`, as JSON: more happened than is kept for a slow reader, and the stream ends.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "LaggedData", example = json!({ "cursor": "1a2b3c-7" }))]
pub(super) struct LaggedData {
    /// Id of the event behind which a new stream goes on.
    cursor: String,
}

/// Why there is a gap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum ResyncReason {
    /// The stream of events was made anew.
    StreamReplaced,
    /// Events behind that id were dropped by age.
    Dropped,
    /// The id is newer than the newest event.
    Unknown,
}

impl ResyncReason {
    /// Without an id: a client that is cut here comes back with the one that it had, and finds the gap again.
    pub(super) fn frame(self, cursor: String) -> EventFrame {
        EventFrame::new(RESYNC, None, json!(ResyncData { reason: self, cursor }).to_string())
    }
}

/// The last frame of a reader that was too slow.
pub(super) fn lagged_frame(cursor: String) -> EventFrame {
    let data = json!(LaggedData { cursor: cursor.clone() }).to_string();
    EventFrame::new(LAGGED, Some(cursor), data)
}

/// How things stand with what the filter names, from the records; 404 when that is not the follower's to see.
pub(super) async fn load_frame(
    app: &AppState,
    filter: &EventFilter,
    cursor: String,
) -> Result<EventFrame, Problem> {
    let mut data = format!("{{\"cursor\":{}", json!(cursor));
    let (sees_media, sees_jobs) =
        (filter.who.has_scope(ApiKeyScope::Metadata), filter.who.has_scope(ApiKeyScope::Worker));
    // A document that is left out has to be the follower's all the same.
    if !(sees_media && sees_jobs) {
        require_visible(app, filter).await?;
    }
    if let Some(media_id) = filter.media_id.filter(|_| sees_media) {
        push_member(&mut data, "media", media::load_current(app, &filter.who, media_id).await?.as_ref());
    }
    if let Some(job_id) = filter.job_id.filter(|_| sees_jobs) {
        push_member(&mut data, "job", Some(&jobs::load_current(app, &filter.who, job_id).await?));
    }
    data.push('}');
    Ok(EventFrame::new(SNAPSHOT, Some(cursor), data))
}

fn push_member(data: &mut String, name: &str, document: Option<&Bytes>) {
    let text = document.map_or("null".into(), |bytes| String::from_utf8_lossy(bytes));
    data.extend([",\"", name, "\":", text.as_ref()]);
}

/// 404 when what the filter names is not the follower's to see. A removed medium has a story, too.
pub(super) async fn require_visible(app: &AppState, filter: &EventFilter) -> Result<(), Problem> {
    if let Some(media_id) = filter.media_id {
        filter.load_medium(&app.bus, media_id).await?;
    }
    if let Some(job_id) = filter.job_id {
        let job = app.bus.load_record::<JobRecord>(&job_id.to_string()).await?;
        if !job.is_some_and(|held| filter.who.may_see(&held.record.owner)) {
            return Err(jobs::no_such_job());
        }
    }
    Ok(())
}

//! Reading many schedules: an account's, or everybody's.
//!
//! Limits: a list shows at most [`LISTED_MAX`], those that fire before those that ended.

use std::time::Duration;

use axum::{Json, extract::State};
use nats::{Bus, BusError, ReaderStart, reader};
use schemars::JsonSchema;
use schemas::{
    KvRecord as _,
    access::ApiKeyScope,
    schedule::{ScheduleRecord, schedule_key},
    subjects,
};
use serde::Serialize;

use super::{
    document::{self, ScheduleDocument},
    has_ended, owner_key,
};
use crate::AppState;
use auth::Principal;
use web::{
    error::Problem,
    limit::RateLimitGroup,
    operation::{Operation, OperationAccess},
};

/// Most schedules that one answer lists.
pub(super) const LISTED_MAX: usize = 1_000;

/// How long reading a list may take.
const READ_TIME_MAX: Duration = Duration::from_secs(5);

/// What lies in the bucket below some keys.
#[derive(Debug, Default)]
pub(super) struct FoundSchedules {
    /// Those that fire, or may be resumed; at most [`LISTED_MAX`].
    pub(super) active: Vec<ScheduleRecord>,
    /// Those without a time left; at most [`LISTED_MAX`].
    ended: Vec<ScheduleRecord>,
    /// All records, also tombstones.
    pub(super) record_count: usize,
    /// Those that are listed or would be.
    visible_count: usize,
}

/// Reads the schedules whose keys fit.
pub(super) async fn read_schedules(bus: &Bus, key_filter: &str) -> Result<FoundSchedules, Problem> {
    let reading = async {
        let settings = reader::ReaderConfig::new(
            subjects::kv_stream_name(ScheduleRecord::BUCKET),
            vec![subjects::kv_subject(ScheduleRecord::BUCKET, key_filter)],
            ReaderStart::LastPerSubject,
        );
        let mut entries = bus.open_reader(settings).await?;
        let mut found = FoundSchedules::default();
        while let Some(entry) = entries.next_pending().await? {
            // The mark of one that has expired has no bytes.
            if entry.payload.is_empty() {
                continue;
            }
            found.record_count += 1;
            let record = match nats::decode_record::<ScheduleRecord>(&entry.subject, &entry.payload) {
                Ok((_, record)) if record.is_removed() => continue,
                Ok((_, record)) => record,
                Err(error) => {
                    tracing::warn!(%error, subject = entry.subject, "a schedule can't be read");
                    continue;
                }
            };
            found.visible_count += 1;
            let list = if has_ended(&record) { &mut found.ended } else { &mut found.active };
            if list.len() < LISTED_MAX {
                list.push(record);
            }
        }
        Ok::<_, BusError>(found)
    };
    let read = tokio::time::timeout(READ_TIME_MAX, reading).await;
    Ok(read.map_err(|error| Problem::unavailable(&error))??)
}

/// Schedules.
#[derive(Debug, Serialize, JsonSchema)]
#[schemars(rename = "ScheduleList", example = document::example_list())]
pub(super) struct ScheduleList {
    /// The oldest first.
    items: Vec<ScheduleDocument>,
    /// Most schedules that are listed.
    limit: usize,
    /// True when there are more schedules than are listed.
    has_more: bool,
}

pub(super) static LIST_SCHEDULES: Operation = Operation::read(
    "/v1/schedules",
    OperationAccess::Principal(ApiKeyScope::Worker),
    Some(RateLimitGroup::Worker),
);

/// List schedules
///
/// An owner sees its own; operators and admins see everybody's. Those without a time left stand there for `retention.ended`, as far as
/// there is room beside the others.
#[utoipa::path(
    get,
    path = LIST_SCHEDULES.path,
    tag = "worker",
    operation_id = "list_schedules",
    responses((status = 200, description = "The schedules", body = ref("#/components/schemas/ScheduleList"))),
)]
pub(super) async fn list_schedules(
    State(app): State<AppState>,
    who: Principal,
) -> Result<Json<ScheduleList>, Problem> {
    let owner = who.list_owner_filter().map(|owner| owner_key(&owner));
    let filter = schedule_key(owner.as_deref().unwrap_or("*"), "*");
    let found = read_schedules(&app.bus, &filter).await?;
    let mut listed = found.active;
    listed.extend(found.ended);
    listed.truncate(LISTED_MAX);
    listed.sort_unstable_by_key(|record| record.schedule_id);
    let has_more = found.visible_count > listed.len();
    let items = listed.into_iter().map(ScheduleDocument::new).collect();
    Ok(Json(ScheduleList { items, limit: LISTED_MAX, has_more }))
}

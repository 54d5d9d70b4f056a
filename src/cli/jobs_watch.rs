//! `jobs watch`: the jobs that go on, as a table that changes with them, and a line for each that ends.
//!
//! The list of active jobs is what counts: it is asked for each [`REFRESH_PERIOD`]. Events fill the time between.
//!
//! Limits: the newest [`JOBS_MAX`] active jobs are watched.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use futures::StreamExt;
use serde_json::Value;
use tokio::time::MissedTickBehavior;

use super::{
    CommandOutcome, JobsWatchArgs,
    client::{ApiClient, ClientError},
    follow::{FollowTarget, FollowedEvent, SseFollower},
    job_rows::{JobDisplay, JobRow},
};

/// How often the list is asked for.
const REFRESH_PERIOD: Duration = Duration::from_secs(2);

/// Most active jobs that are watched: as many as one page of the list has.
const JOBS_MAX: usize = 200;

/// Looks at the list in a row that must find nothing before nothing goes on: a job that was asked for is there once it is planned.
const IDLE_LOOKS: u32 = 3;

/// The jobs that go on, as far as is known.
#[derive(Debug, Default)]
struct JobTable {
    /// By id, which is by age.
    rows: BTreeMap<String, JobRow>,
}

impl JobTable {
    /// Takes over a list of active jobs. Answers the rows that changed, and the ids of jobs that are not active any more.
    fn apply_list(&mut self, items: &[Value]) -> (Vec<JobRow>, Vec<String>) {
        let mut changed = Vec::new();
        for item in items {
            let Some(row) = JobRow::from_item(item) else { continue };
            let known = self.rows.get(&row.job_id);
            let row = row.with_percent_of(known);
            if known != Some(&row) {
                self.rows.insert(row.job_id.clone(), row.clone());
                changed.push(row);
            }
        }
        let listed: BTreeSet<&str> = items.iter().filter_map(|item| item["job_id"].as_str()).collect();
        let gone = self.rows.keys().filter(|job_id| !listed.contains(job_id.as_str())).cloned().collect();
        (changed, gone)
    }

    /// Takes over an event; answers the row that changed with it. A job that is not known yet comes with the next list.
    fn apply_event(&mut self, event: &FollowedEvent) -> Option<JobRow> {
        let job_id = event.data["data"]["job_id"].as_str().or_else(|| event.data["job_id"].as_str())?;
        let row = self.rows.get(job_id)?.after_event(event)?;
        if row.has_ended() {
            self.rows.remove(job_id);
        } else {
            self.rows.insert(job_id.to_owned(), row.clone());
        }
        Some(row)
    }

    /// Takes over how a job stands that the list does not have any more; answers its row if it has ended.
    fn apply_document(&mut self, job_id: &str, document: Option<&Value>) -> Option<JobRow> {
        let ended = match document {
            Some(document) if document["status"] == "active" => return None,
            Some(document) => JobRow::from_item(document),
            // Removed with its medium.
            None => self.rows.get(job_id).map(JobRow::removed),
        };
        self.rows.remove(job_id);
        ended
    }
}

/// Shows what goes on until somebody stops it, or, where that was asked for, until nothing does.
///
/// # Errors
/// When the server refuses, was never there, or stays away.
pub(super) async fn watch_jobs(args: &JobsWatchArgs, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let client = ApiClient::new(&args.client)?;
    let target = FollowTarget { media: args.media.clone(), ..FollowTarget::default() };
    let follower = SseFollower::new(ApiClient::new(&args.client)?, target);
    // Held across looks at the list: a connection that is being made must not begin anew with each.
    let events = futures::stream::unfold(follower, async |mut follower| {
        let event = follower.next_event().await;
        Some((event, follower))
    });
    tokio::pin!(events);
    let mut looks = tokio::time::interval(REFRESH_PERIOD);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut table, mut display) = (JobTable::default(), JobDisplay::new(as_json));
    let (mut idle_looks, mut outcome, mut is_known) = (0, CommandOutcome::Well, true);
    loop {
        let mut changed = Vec::new();
        tokio::select! {
            _ = looks.tick() => match look(&client, args, &mut table).await {
                Ok(found) => {
                    (changed, is_known) = (found, true);
                    idle_looks = if table.rows.is_empty() { idle_looks + 1 } else { 0 };
                }
                Err(error) if error.is_transient() => {
                    if std::mem::take(&mut is_known) {
                        display.print_message(&format!("streamgate: the list can't be read for now: {error}"));
                    }
                }
                Err(error) => return Err(error.into()),
            },
            Some(event) = events.next() => changed.extend(table.apply_event(&event?)),
        }
        for row in &changed {
            display.show(row)?;
            if row.has_failed() {
                outcome = CommandOutcome::Badly;
            }
        }
        display.show_count(table.rows.len());
        if args.until_idle && idle_looks >= IDLE_LOOKS {
            display.finish();
            return Ok(outcome);
        }
    }
}

/// Looks at the list, and at jobs that it does not have any more; answers what changed.
async fn look(
    client: &ApiClient,
    args: &JobsWatchArgs,
    table: &mut JobTable,
) -> Result<Vec<JobRow>, ClientError> {
    let limit = JOBS_MAX.to_string();
    let query =
        [("status", Some("active")), ("limit", Some(limit.as_str())), ("media_id", args.media.as_deref())];
    let list = client.get_json("v1/jobs", &query).await?;
    let items = list["items"].as_array().ok_or_else(|| ClientError::strange("the answer is no list"))?;
    let (mut changed, gone) = table.apply_list(items);
    for job_id in gone {
        match client.get_json(&format!("v1/jobs/{job_id}"), &[]).await {
            Ok(document) => changed.extend(table.apply_document(&job_id, Some(&document))),
            Err(ClientError::Refused(refusal)) if refusal.status == 404 => {
                changed.extend(table.apply_document(&job_id, None));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(changed)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(job_id: &str, done: u64, claimed: u64) -> Value {
        json!({
            "job_id": job_id, "kind": "transcode", "media_id": "m1", "status": "active", "code": null,
            "parts_total": 4, "parts_done": done, "parts_claimed": claimed,
        })
    }

    fn event(kind: &str, data: &Value) -> FollowedEvent {
        FollowedEvent { id: None, kind: kind.into(), data: json!({ "data": data }) }
    }

    fn states(rows: &[JobRow]) -> Vec<(&str, &str, u64)> {
        rows.iter().map(|row| (row.job_id.as_str(), row.state.as_str(), row.percent)).collect()
    }

    #[test]
    fn a_list_says_what_goes_on_and_what_does_not_any_more() {
        let mut table = JobTable::default();
        let (changed, gone) = table.apply_list(&[item("j1", 0, 0), item("j2", 1, 1)]);
        assert_eq!(states(&changed), [("j1", "queued", 0), ("j2", "running", 25)]);
        assert!(gone.is_empty());
        let (changed, gone) = table.apply_list(&[item("j1", 0, 0)]);
        assert!(changed.is_empty(), "what is as it was is not shown again: {changed:?}");
        assert_eq!(gone, ["j2"]);
        assert_eq!(table.apply_document("j2", Some(&item("j2", 1, 1))), None, "the list is behind");
        let mut ended = item("j2", 4, 0);
        ended["status"] = json!("succeeded");
        let row = table.apply_document("j2", Some(&ended)).unwrap();
        assert_eq!((row.state.as_str(), row.percent, row.has_failed()), ("succeeded", 100, false));
        let row = table.apply_document("j1", None).unwrap();
        assert_eq!((row.state.as_str(), row.has_ended(), row.has_failed()), ("removed", true, false));
        assert!(table.rows.is_empty());
    }

    #[test]
    fn events_fill_the_time_between_lists() {
        let mut table = JobTable::default();
        table.apply_list(&[item("j1", 0, 0)]);
        let progress = FollowedEvent {
            id: None,
            kind: "job.progress".into(),
            data: json!({ "job_id": "j1", "percent": 60 }),
        };
        let row = table.apply_event(&progress).unwrap();
        assert_eq!((row.state.as_str(), row.percent), ("running", 60));
        let (changed, _) = table.apply_list(&[item("j1", 1, 1)]);
        assert!(changed.is_empty(), "progress does not go back to what whole parts say: {changed:?}");
        let row = table.apply_event(&event("job.paused", &json!({ "job_id": "j1" }))).unwrap();
        assert_eq!(row.state, "paused");
        let failed = json!({ "job_id": "j1", "code": "media_damaged" });
        let row = table.apply_event(&event("job.failed", &failed)).unwrap();
        assert!(row.has_failed());
        assert_eq!((row.state.as_str(), row.code.as_str()), ("failed", "media_damaged"));
        assert_eq!(table.apply_event(&event("job.failed", &failed)), None, "an end is said once");
    }
}

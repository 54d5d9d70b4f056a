//! `jobs watch`: the jobs that go on, as a table that changes with them, and a line for each that ends.
//!
//! What counts is the list, which is asked for each [`REFRESH_PERIOD`]; events say that it is worth asking sooner, and how far a job is
//! between two parts. Without events it goes on by the list alone.
//!
//! Limits: the newest [`ACTIVE_MAX`] active jobs, and the newest [`RECENT_MAX`] of all, among which those are found that begin and end
//! between two looks; [`LOOKUPS_MAX`] jobs that the list does not have any more are read in one look, the others in the next ones.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use anyhow::Context as _;
use futures::{Stream, StreamExt};
use serde_json::Value;

use super::{
    CommandOutcome, JobsWatchArgs,
    client::{AWAY_MAX, ApiClient, ClientError},
    follow::{FollowTarget, FollowedEvent, SseFollower},
    job_rows::{JobDisplay, JobRow},
};

/// How often the list is asked for.
const REFRESH_PERIOD: Duration = Duration::from_secs(3);

/// Shortest time between two looks at it.
const REFRESH_PERIOD_MIN: Duration = Duration::from_secs(1);

/// Items of a page: the most that the server gives.
const PAGE_ITEMS: usize = 200;

/// Most active jobs that are watched.
const ACTIVE_MAX: usize = 5 * PAGE_ITEMS;

/// Newest jobs that are looked at, whatever became of them.
const RECENT_MAX: usize = 100;

/// Most jobs that are read one by one in one look.
const LOOKUPS_MAX: usize = 10;

/// Ended jobs that are remembered: of those an index that is behind must not say that they go on.
const ENDED_MAX: usize = 10_000;

/// How long nothing may go on before the command ends that waits for it.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// The jobs that go on, as far as is known.
#[derive(Debug, Default)]
struct JobTable {
    rows: BTreeMap<String, JobRow>,
    /// Jobs whose end is known.
    ended: BTreeSet<String>,
    /// True once there was a list: what had ended by then is no news.
    is_listed: bool,
}

impl JobTable {
    /// Takes over the active jobs, and the newest ones that were listed behind them; adds the rows that changed to `changed`.
    fn apply_lists(&mut self, active: &[Value], recent: &[Value], changed: &mut Vec<JobRow>) {
        for item in active.iter().chain(recent) {
            if let Some(row) = JobRow::from_item(item) {
                changed.extend(self.apply_row(row));
            }
        }
        self.is_listed = true;
    }

    /// Takes over how a job stands; answers its row if that is news.
    fn apply_row(&mut self, row: JobRow) -> Option<JobRow> {
        let known = self.rows.get(&row.job_id);
        if self.ended.contains(&row.job_id) {
            return None;
        }
        let row = row.with_percent_of(known);
        if !row.has_ended() {
            let before = self.rows.insert(row.job_id.clone(), row.clone());
            return (before.as_ref() != Some(&row)).then_some(row);
        }
        let is_news = self.rows.remove(&row.job_id).is_some() || self.is_listed;
        self.ended.insert(row.job_id.clone());
        while self.ended.len() > ENDED_MAX {
            self.ended.pop_first();
        }
        is_news.then_some(row)
    }

    /// Jobs that went on, and that a list of all active ones does not have.
    fn missing_from(&self, active: &[Value]) -> BTreeSet<String> {
        let listed: BTreeSet<&str> = active.iter().filter_map(|item| item["job_id"].as_str()).collect();
        self.rows.keys().filter(|job_id| !listed.contains(job_id.as_str())).cloned().collect()
    }

    /// Takes over how far a job is, if the event says so; answers its row if that is news.
    fn apply_progress(&mut self, event: &FollowedEvent) -> Option<JobRow> {
        let row = self.rows.get(event.data["job_id"].as_str()?)?;
        self.apply_row(row.with_progress(event.progress_percent()?))
    }

    fn has_only_paused(&self) -> bool {
        !self.rows.is_empty() && self.rows.values().all(|row| row.state == "paused")
    }
}

/// Shows what goes on until somebody stops it, or, where that was asked for, until nothing does.
///
/// # Errors
/// When the server refuses, was never there, or stays away.
pub(super) async fn watch_jobs(args: &JobsWatchArgs, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let client = ApiClient::new(&args.client)?;
    let mut events = Box::pin(follow_events(SseFollower::new(
        ApiClient::new(&args.client)?,
        // Of all jobs, also where one medium is watched: the story of a medium begins with what is over.
        FollowTarget::default(),
    )));
    let (mut table, mut display) = (JobTable::default(), JobDisplay::new(as_json));
    let (mut outcome, mut idle_since, mut away_since) = (CommandOutcome::Well, None, None);
    loop {
        let (mut changed, looked_at) = (Vec::new(), Instant::now());
        // What changed is shown also where the look fails half-way.
        let looked = look(&client, args.media.as_deref(), &mut table, &mut changed).await;
        show_changes(&mut display, &table, &changed, &mut outcome)?;
        match looked {
            Ok(()) => away_since = None,
            Err(error) if error.is_transient() && table.is_listed => {
                if away_since.is_none() {
                    display.print_message(&format!("streamgate: the list can't be read for now: {error}"));
                }
                if away_since.get_or_insert(looked_at).elapsed() >= AWAY_MAX {
                    return Err(error).context("the jobs go on without this command");
                }
            }
            Err(error) => return Err(error.into()),
        }
        let is_idle = table.rows.is_empty() && away_since.is_none();
        idle_since = is_idle.then(|| idle_since.unwrap_or(looked_at));
        if args.until_idle && idle_since.is_some_and(|since: Instant| since.elapsed() >= IDLE_TIME) {
            display.finish();
            return Ok(outcome);
        }
        if args.until_idle && table.has_only_paused() {
            display.print_once("Only paused jobs are left: they go on once somebody resumes them");
        }
        let mut next_look = looked_at + REFRESH_PERIOD;
        while let Ok(event) = tokio::time::timeout_at(next_look.into(), events.next()).await {
            match event {
                Some(Ok(event)) if event.kind == "job.progress" => {
                    let changed = Vec::from_iter(table.apply_progress(&event));
                    show_changes(&mut display, &table, &changed, &mut outcome)?;
                }
                Some(Ok(event)) if event.kind.starts_with("job.") => {
                    next_look = next_look.min(looked_at + REFRESH_PERIOD_MIN);
                }
                Some(Ok(_)) => {}
                Some(Err(error)) => {
                    display.print_message(&format!("streamgate: events can't be followed: {error}"));
                }
                None => {
                    tokio::time::sleep_until(next_look.into()).await;
                    break;
                }
            }
        }
    }
}

/// Events until there are none any more; a connection that is being made does not begin anew with each look.
fn follow_events(follower: SseFollower) -> impl Stream<Item = Result<FollowedEvent, ClientError>> {
    futures::stream::unfold(Some(follower), async |follower| {
        let mut follower = follower?;
        let event = follower.next_event().await;
        let rest = event.is_ok().then_some(follower);
        Some((event, rest))
    })
}

fn show_changes(
    display: &mut JobDisplay,
    table: &JobTable,
    changed: &[JobRow],
    outcome: &mut CommandOutcome,
) -> anyhow::Result<()> {
    for row in changed {
        display.show_change(row)?;
        if row.has_failed() {
            *outcome = CommandOutcome::Badly;
        }
    }
    display.show_table(&table.rows);
    Ok(())
}

/// Looks at the lists, and at jobs that they do not have any more; adds what changed to `changed`.
async fn look(
    client: &ApiClient,
    media_id: Option<&str>,
    table: &mut JobTable,
    changed: &mut Vec<JobRow>,
) -> Result<(), ClientError> {
    let (active, is_whole) = list_jobs(client, media_id, Some("active"), ACTIVE_MAX).await?;
    let (recent, _) = list_jobs(client, media_id, None, RECENT_MAX).await?;
    table.apply_lists(&active, &recent, changed);
    let missing = table.missing_from(&active);
    if !is_whole {
        // They may be behind the last page: too many go on to say.
        table.rows.retain(|job_id, _| !missing.contains(job_id));
        return Ok(());
    }
    for job_id in missing.into_iter().take(LOOKUPS_MAX) {
        match client.get_json(&format!("v1/jobs/{job_id}"), &[]).await {
            Ok(document) => {
                changed.extend(JobRow::from_item(&document).and_then(|row| table.apply_row(row)));
            }
            // Removed with its medium.
            Err(ClientError::Refused(refusal)) if refusal.status == 404 => {
                let removed = table.rows.get(&job_id).map(JobRow::removed);
                changed.extend(removed.and_then(|row| table.apply_row(row)));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// At most so many jobs, the newest first; whether those are all.
async fn list_jobs(
    client: &ApiClient,
    media_id: Option<&str>,
    status: Option<&str>,
    items_max: usize,
) -> Result<(Vec<Value>, bool), ClientError> {
    let limit = items_max.min(PAGE_ITEMS).to_string();
    let (mut items, mut cursor) = (Vec::new(), None::<String>);
    loop {
        let query = [
            ("status", status),
            ("media_id", media_id),
            ("limit", Some(limit.as_str())),
            ("cursor", cursor.as_deref()),
        ];
        let mut page = client.get_json("v1/jobs", &query).await?;
        let Value::Array(found) = page["items"].take() else {
            return Err(ClientError::strange("the answer is no list"));
        };
        items.extend(found);
        cursor = page["next_cursor"].as_str().map(str::to_owned);
        if cursor.is_none() || items.len() >= items_max {
            return Ok((items, cursor.is_none()));
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn item(job_id: &str, status: &str, done: u64, claimed: u64) -> Value {
        json!({
            "job_id": job_id, "kind": "transcode", "media_id": "m1", "status": status, "code": null,
            "parts_total": 4, "parts_done": done, "parts_claimed": claimed,
        })
    }

    /// What is news in these lists.
    fn apply(table: &mut JobTable, active: &[Value], recent: &[Value]) -> Vec<(String, String, u64)> {
        let mut changed = Vec::new();
        table.apply_lists(active, recent, &mut changed);
        changed.into_iter().map(|row| (row.job_id, row.state, row.percent)).collect()
    }

    fn news(job_id: &str, state: &str, percent: u64) -> (String, String, u64) {
        (job_id.to_owned(), state.to_owned(), percent)
    }

    #[test]
    fn lists_say_what_goes_on_and_what_ended_since() {
        let mut table = JobTable::default();
        let (one, two) = (item("j1", "active", 0, 0), item("j2", "active", 1, 1));
        let old = item("j0", "failed", 1, 0);
        let first = apply(&mut table, &[one.clone(), two.clone()], &[two, one.clone(), old.clone()]);
        assert_eq!(first, [news("j1", "queued", 0), news("j2", "running", 25)], "what was over is no news");
        // One has ended, and another began and ended between two looks.
        let recent = [item("j3", "failed", 0, 0), item("j2", "succeeded", 4, 0), one.clone(), old];
        let found = apply(&mut table, std::slice::from_ref(&one), &recent);
        assert_eq!(found, [news("j3", "failed", 0), news("j2", "succeeded", 100)]);
        // An index that is behind says that it goes on.
        assert_eq!(apply(&mut table, &[one, item("j2", "active", 3, 1)], &[]), []);
        assert_eq!(table.missing_from(&[]), BTreeSet::from(["j1".to_owned()]));
        let removed = table.rows["j1"].removed();
        assert!(removed.has_ended() && !removed.has_failed());
        assert_eq!(table.apply_row(removed.clone()), Some(removed.clone()));
        assert_eq!(table.apply_row(removed), None, "an end is said once");
        assert!(table.rows.is_empty());
    }

    #[test]
    fn progress_fills_the_time_between_lists_and_does_not_go_back() {
        let mut table = JobTable::default();
        apply(&mut table, &[item("j1", "active", 0, 0)], &[]);
        let data = json!({ "job_id": "j1", "percent": 60 });
        let progress = FollowedEvent { id: None, kind: "job.progress".into(), data };
        let row = table.apply_progress(&progress).unwrap();
        assert_eq!((row.state.as_str(), row.percent), ("running", 60));
        assert_eq!(apply(&mut table, &[item("j1", "active", 1, 1)], &[]), []);
        let mut paused = item("j1", "active", 1, 0);
        paused["paused_at_ms"] = json!(7);
        assert_eq!(apply(&mut table, &[paused], &[]), [news("j1", "paused", 60)]);
        assert!(table.has_only_paused());
        // As its document says, which knows how far it was.
        let failed = json!({
            "job_id": "j1", "kind": "verify", "media_id": "m1", "status": "failed", "code": "media_damaged",
            "progress": { "percent": 70 },
        });
        let row = table.apply_row(JobRow::from_item(&failed).unwrap()).unwrap();
        assert_eq!((row.state.as_str(), row.percent, row.code.as_str()), ("failed", 70, "media_damaged"));
        assert!(row.has_failed());
    }
}

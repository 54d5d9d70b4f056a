//! `schedules`: jobs that begin at set times.

use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use clap::Subcommand;
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{
    ClientArgs,
    client::{ApiClient, ClientError},
    each::act_on_each,
    output, render,
};

const HEADS: &[&str] = &["SCHEDULE", "STATE", "NEXT", "TIMES", "LAST RUN", "WHAT", "NAME"];

/// What to do with schedules.
#[derive(Debug, Subcommand)]
pub enum SchedulesCommand {
    /// List your schedules, with the next time of each and what its last run came to
    #[command(after_help = "Examples:
  streamgate schedules ls
  streamgate schedules ls --json               one line a schedule, with its next five times and its last twenty runs")]
    Ls {
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Show one schedule: its next times, and its newest runs with their jobs
    Show {
        /// Its id
        #[arg(value_name = "SCHEDULE_ID")]
        schedule_id: String,
        /// The server.
        #[command(flatten)]
        client: ClientArgs,
    },
    /// Have media encoded again at a time, or again and again
    #[command(after_help = "Examples:
  streamgate schedules transcode 068p... --at 2h                                  in two hours
  streamgate schedules transcode 068p... --at 2026-12-01T03:00:00+01:00 --profile small
  streamgate schedules transcode 068p... --cron '30 2 * * SUN' --time-zone Europe/Berlin
  streamgate schedules transcode 068p... --every 7d --missed skip

Each prints the id of its schedule. A cron expression has five fields: minute, hour, day of the month, month, day of the week. Around a
change of the clocks on the walls a fixed time comes exactly once. A time is missed when no keeper could begin it within a minute.")]
    Transcode(ScheduleTranscodeArgs),
    /// Have media compared with what was written down when they were stored, at a time, or again and again
    #[command(after_help = "Example:
  streamgate schedules verify 068p... --every 30d --name 'monthly check'

When something is lost or damaged, its job fails with the code `media_damaged`, and says what.")]
    Verify(ScheduleJobArgs),
    /// Have schedules fire no more until they are resumed; jobs that they began go on
    Pause(ScheduleIdsArgs),
    /// Have paused schedules fire again; times that passed meanwhile are let go
    Resume(ScheduleIdsArgs),
    /// Run schedules now, out of turn
    #[command(after_help = "Example:
  streamgate schedules run 068p...             prints the id of the job, or why there is none")]
    Run(ScheduleIdsArgs),
    /// Remove schedules; jobs that they began go on
    Rm(ScheduleIdsArgs),
}

/// Which schedules.
#[derive(Debug, clap::Args)]
pub struct ScheduleIdsArgs {
    /// Their ids
    #[arg(required = true, value_name = "SCHEDULE_ID")]
    schedule_ids: Vec<String>,
    /// The server.
    #[command(flatten)]
    client: ClientArgs,
}

/// Flags of `schedules transcode`.
#[derive(Debug, clap::Args)]
pub struct ScheduleTranscodeArgs {
    /// Which media, and when.
    #[command(flatten)]
    job: ScheduleJobArgs,
    /// Name of a profile; the one by which uploads are encoded unless said otherwise
    #[arg(long, value_name = "NAME")]
    profile: Option<String>,
}

/// What all jobs that begin at set times need.
#[derive(Debug, clap::Args)]
pub struct ScheduleJobArgs {
    /// Their ids
    #[arg(required = true, value_name = "MEDIA_ID")]
    media_ids: Vec<String>,
    /// When.
    #[command(flatten)]
    when: WhenArgs,
    /// What becomes of times that pass while no keeper runs: none, the last, or each is made up for
    #[arg(long, value_parser = ["skip", "once", "all"], default_value = "once")]
    missed: String,
    /// What people call it
    #[arg(long, default_value = "")]
    name: String,
    /// p0 (for keys of admins), p1 or p2; p1 unless said otherwise
    #[arg(long, value_parser = ["p0", "p1", "p2"])]
    priority: Option<String>,
    /// The server.
    #[command(flatten)]
    client: ClientArgs,
}

/// When a schedule fires.
#[derive(Debug, clap::Args)]
pub struct WhenArgs {
    /// Once: RFC 3339, or how long from now, such as 90m, 2h, 7d
    #[arg(long, value_name = "TIME", required_unless_present_any = ["cron", "every"], conflicts_with_all = ["cron", "every"])]
    at: Option<String>,
    /// At each time that a cron expression of five fields names
    #[arg(long, value_name = "EXPRESSION", conflicts_with = "every")]
    cron: Option<String>,
    /// Whose walls the times of --cron are on, by the IANA database
    #[arg(long, value_name = "NAME", requires = "cron")]
    time_zone: Option<String>,
    /// Again and again, such as 12h, 7d; the first time after one of them
    #[arg(long, value_name = "DURATION")]
    every: Option<String>,
}

impl WhenArgs {
    /// The timing as the server takes it.
    fn to_timing(&self, now: SystemTime) -> anyhow::Result<Value> {
        if let Some(expression) = &self.cron {
            let time_zone = self.time_zone.as_deref().unwrap_or("UTC");
            return Ok(json!({ "type": "cron", "expression": expression, "time_zone": time_zone }));
        }
        if let Some(interval) = &self.every {
            let interval = parse_duration(interval).context("--every")?;
            return Ok(json!({ "type": "every", "interval_ms": to_ms(interval)? }));
        }
        let at = self.at.as_deref().unwrap_or_default();
        let time = if let Ok(time) = at.parse::<jiff::Timestamp>() {
            u64::try_from(time.as_millisecond()).context("--at lies before 1970")?
        } else {
            let from_now =
                parse_duration(at).context("--at is no RFC 3339 time with an offset, nor a duration")?;
            to_ms(now.duration_since(SystemTime::UNIX_EPOCH)? + from_now)?
        };
        Ok(json!({ "type": "once", "at_ms": time }))
    }
}

fn parse_duration(text: &str) -> anyhow::Result<Duration> {
    humantime::parse_duration(text).with_context(|| format!("{text:?} is no duration such as 90m, 2h, 7d"))
}

fn to_ms(duration: Duration) -> anyhow::Result<u64> {
    Ok(u64::try_from(duration.as_millis())?)
}

/// Does it.
///
/// # Errors
/// When the server refuses, or a time makes no sense.
pub async fn run_schedules(command: SchedulesCommand, as_json: bool) -> anyhow::Result<()> {
    match command {
        SchedulesCommand::Ls { client } => list_schedules(&ApiClient::new(&client)?, as_json).await,
        SchedulesCommand::Show { schedule_id, client } => {
            show_schedule(&ApiClient::new(&client)?, &schedule_id, as_json).await
        }
        SchedulesCommand::Transcode(args) => {
            let profile = args.profile.iter().map(|profile| ("profile".to_owned(), json!(profile)));
            schedule_jobs("transcode", &args.job, profile.collect(), as_json).await
        }
        SchedulesCommand::Verify(args) => schedule_jobs("verify", &args, Map::new(), as_json).await,
        SchedulesCommand::Pause(args) => change_schedules(&args, "pause", "Paused", as_json).await,
        SchedulesCommand::Resume(args) => change_schedules(&args, "resume", "Resumed", as_json).await,
        SchedulesCommand::Run(args) => run_now(&args, as_json).await,
        SchedulesCommand::Rm(args) => remove_schedules(&args, as_json).await,
    }
}

/// Makes a schedule for each medium; `more` are members of the job beside its kind, medium and priority.
async fn schedule_jobs(
    kind: &str,
    args: &ScheduleJobArgs,
    more: Map<String, Value>,
    as_json: bool,
) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let timing = args.when.to_timing(SystemTime::now())?;
    let make = async |media_id: &str| {
        let mut job = more.clone();
        job.extend([("kind".to_owned(), json!(kind)), ("media_id".to_owned(), json!(media_id))]);
        job.extend(args.priority.iter().map(|priority| ("priority".to_owned(), json!(priority))));
        let wanted = json!({ "name": args.name, "timing": timing, "missed": args.missed, "job": job });
        let url = client.build_url("v1/schedules", &[]);
        let made: Value =
            client.send(client.build_request(Method::POST, url).json(&wanted)).await?.json().await?;
        if as_json {
            return Ok(output::print_json(&made)?);
        }
        let id = output::sanitize_text(made["schedule_id"].as_str().unwrap_or_default());
        output::print_message(format!("Scheduled: {id}, next at {}", format_next(&made)));
        Ok(())
    };
    act_on_each("medium", &args.media_ids, make).await
}

/// Sends an action to each schedule and shows the answer.
async fn act_on_schedules(
    args: &ScheduleIdsArgs,
    action: &str,
    show: impl Fn(&Value) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let act = async |schedule_id: &str| {
        let url = client.build_url(&format!("v1/schedules/{schedule_id}/{action}"), &[]);
        let changed: Value = client.send(client.build_request(Method::POST, url)).await?.json().await?;
        show(&changed)
    };
    act_on_each("schedule", &args.schedule_ids, act).await
}

async fn change_schedules(
    args: &ScheduleIdsArgs,
    action: &str,
    done: &str,
    as_json: bool,
) -> anyhow::Result<()> {
    let show = |changed: &Value| {
        if as_json {
            return Ok(output::print_json(changed)?);
        }
        let id = output::sanitize_text(changed["schedule_id"].as_str().unwrap_or_default());
        output::print_message(format!("{done}: {id}"));
        Ok(())
    };
    act_on_schedules(args, action, show).await
}

async fn run_now(args: &ScheduleIdsArgs, as_json: bool) -> anyhow::Result<()> {
    let show = |changed: &Value| {
        let run = &changed["runs"][0];
        let text = |name: &str| output::sanitize_text(run[name].as_str().unwrap_or_default());
        if as_json {
            output::print_json(run)?;
        }
        match run["state"].as_str() {
            Some("refused") => anyhow::bail!("{} ({})", text("detail"), text("code")),
            _ if as_json => {}
            Some("begun") => output::print_message(format!("Begun: job {}", text("job_id"))),
            _ => output::print_message("It ran: its job begins as soon as what it needs answers again"),
        }
        Ok(())
    };
    act_on_schedules(args, "run-now", show).await
}

async fn remove_schedules(args: &ScheduleIdsArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let remove = async |schedule_id: &str| {
        let url = client.build_url(&format!("v1/schedules/{schedule_id}"), &[]);
        client.send(client.build_request(Method::DELETE, url)).await?;
        if as_json {
            return Ok(output::print_json(&json!({ "schedule_id": schedule_id, "removed": true }))?);
        }
        output::print_message(format!("Removed: {}", output::sanitize_text(schedule_id)));
        Ok(())
    };
    act_on_each("schedule", &args.schedule_ids, remove).await
}

async fn list_schedules(client: &ApiClient, as_json: bool) -> anyhow::Result<()> {
    let list = client.get_json("v1/schedules", &[]).await?;
    let items = list["items"].as_array().ok_or_else(|| ClientError::strange("the answer is no list"))?;
    if as_json {
        items.iter().try_for_each(output::print_json)?;
    } else {
        let rows: Vec<Vec<String>> = items.iter().map(schedule_row).collect();
        output::print_line(render::format_table(HEADS, &rows))?;
    }
    if list["has_more"] == true {
        output::print_message(format!("There are more schedules than these {}", items.len()));
    }
    Ok(())
}

async fn show_schedule(client: &ApiClient, schedule_id: &str, as_json: bool) -> anyhow::Result<()> {
    let schedule = client.get_json(&format!("v1/schedules/{schedule_id}"), &[]).await?;
    if as_json {
        return Ok(output::print_json(&schedule)?);
    }
    Ok(output::print_line(render::format_document(&schedule))?)
}

fn format_next(schedule: &Value) -> String {
    schedule["upcoming_at_ms"][0].as_u64().map_or_else(String::new, render::format_time)
}

fn format_timing(timing: &Value) -> String {
    let text = |name: &str| output::sanitize_text(timing[name].as_str().unwrap_or_default());
    match timing["type"].as_str() {
        Some("cron") => format!("{} {}", text("expression"), text("time_zone")),
        Some("every") => {
            let interval = timing["interval_ms"].as_u64().map(Duration::from_millis).unwrap_or_default();
            format!("every {}", humantime::format_duration(interval))
        }
        _ => text("type"),
    }
}

fn schedule_row(schedule: &Value) -> Vec<String> {
    let text = |value: &Value| output::sanitize_text(value.as_str().unwrap_or_default());
    let (run, job) = (&schedule["runs"][0], &schedule["job"]);
    let last = match (run["job_id"].as_str(), run["code"].as_str()) {
        (Some(_), _) => format!("job {}", text(&run["job_id"])),
        (None, Some(_)) => format!("refused ({})", text(&run["code"])),
        (None, None) => text(&run["state"]),
    };
    vec![
        text(&schedule["schedule_id"]),
        text(&schedule["state"]),
        format_next(schedule),
        format_timing(&schedule["timing"]),
        last,
        format!("{} {}", text(&job["kind"]), text(&job["media_id"])),
        text(&schedule["name"]),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn when(at: Option<&str>, cron: Option<&str>, every: Option<&str>) -> anyhow::Result<Value> {
        let own = |text: Option<&str>| text.map(ToOwned::to_owned);
        let args = WhenArgs { at: own(at), cron: own(cron), time_zone: None, every: own(every) };
        args.to_timing(SystemTime::UNIX_EPOCH + Duration::from_secs(1_000))
    }

    #[test]
    fn times_are_given_as_people_say_them() {
        let once = |at_ms: u64| json!({ "type": "once", "at_ms": at_ms });
        assert_eq!(when(Some("2h"), None, None).unwrap(), once(8_200_000));
        assert_eq!(when(Some("1970-01-01T03:00:00+01:00"), None, None).unwrap(), once(7_200_000));
        let every = json!({ "type": "every", "interval_ms": 604_800_000 });
        assert_eq!(when(None, None, Some("7d")).unwrap(), every);
        let cron = json!({ "type": "cron", "expression": "30 2 * * *", "time_zone": "UTC" });
        assert_eq!(when(None, Some("30 2 * * *"), None).unwrap(), cron);
        for wrong in ["tomorrow", "2026-12-01", "", "-2h"] {
            assert!(when(Some(wrong), None, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_row_fits_its_heads_and_says_what_the_last_run_came_to() {
        let mut schedule = json!({
            "schedule_id": "s1", "state": "active", "upcoming_at_ms": [0], "name": "Nightly",
            "timing": { "type": "every", "interval_ms": 5_400_000 },
            "job": { "kind": "transcode", "media_id": "m1" }, "runs": [{ "state": "begun", "job_id": "j1" }],
        });
        let row = schedule_row(&schedule);
        assert_eq!(row.len(), HEADS.len());
        assert_eq!(row[3..], ["every 1h 30m", "job j1", "transcode m1", "Nightly"]);
        schedule["runs"] = json!([{ "state": "refused", "code": "not_encodable" }]);
        assert_eq!(schedule_row(&schedule)[4], "refused (not_encodable)");
        schedule["runs"] = json!([]);
        assert_eq!(schedule_row(&schedule)[4], "");
    }
}

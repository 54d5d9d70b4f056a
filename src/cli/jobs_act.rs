//! `jobs act`: one action on all jobs of a filter, and what came of it.

use std::time::{Duration, SystemTime};

use anyhow::{Context, bail};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::{ClientArgs, CommandOutcome, client::ApiClient, job_end::wait_for_end, output};

/// Flags of `jobs act`.
#[derive(Debug, clap::Args)]
pub struct JobsActArgs {
    /// What is done with each job
    #[arg(value_parser = ["cancel", "retry", "pause", "resume", "prioritize"])]
    pub action: String,
    /// The new priority, of `prioritize`
    #[arg(long, value_parser = ["p0", "p1", "p2"], required_if_eq("action", "prioritize"))]
    pub to: Option<String>,
    /// Which jobs.
    #[command(flatten)]
    pub filter: JobFilterArgs,
    /// Change nothing, and say what would be changed
    #[arg(long)]
    pub dry_run: bool,
    /// Print the id of the job that does it, and do not wait
    #[arg(long)]
    pub detach: bool,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Which jobs: those of which all that is named is true.
#[derive(Debug, Default, clap::Args)]
#[group(required = true, multiple = true)]
pub struct JobFilterArgs {
    /// Only jobs that stand there; without it, active ones, and failed ones for retry
    #[arg(long, value_parser = ["active", "failed", "cancelled"])]
    pub status: Option<String>,
    /// Only jobs of this kind, such as transcode
    #[arg(long)]
    pub kind: Option<String>,
    /// Only jobs that failed with this code
    #[arg(long)]
    pub code: Option<String>,
    /// Only jobs of this owner
    #[arg(long)]
    pub owner: Option<String>,
    /// Only jobs on this medium
    #[arg(long, value_name = "MEDIA_ID")]
    pub media: Option<String>,
    /// Only jobs of this priority
    #[arg(long, value_parser = ["p0", "p1", "p2"])]
    pub priority: Option<String>,
    /// Only jobs that were asked for since: a time as 2026-12-01T03:00:00Z, or how long ago, as 2h
    #[arg(long)]
    pub since: Option<String>,
    /// Only jobs that were asked for before: as --since
    #[arg(long)]
    pub until: Option<String>,
}

/// Asks for the action and waits for its end; badly when some jobs could not be changed.
///
/// # Errors
/// When the server refuses.
pub(super) async fn act_on_jobs(args: &JobsActArgs, as_json: bool) -> anyhow::Result<CommandOutcome> {
    let client = ApiClient::new(&args.client)?;
    let mut action = json!({ "type": args.action });
    if let Some(priority) = &args.to {
        action["priority"] = json!(priority);
    }
    let filter = build_filter(&args.filter, SystemTime::now())?;
    let body = json!({ "action": action, "filter": filter, "dry_run": args.dry_run });
    let request = client.build_request(Method::POST, client.build_url("v1/jobs/actions", &[])).json(&body);
    let begun: Value = client.send(request).await?.json().await?;
    let job_id = output::sanitize_text(begun["job_id"].as_str().unwrap_or_default());
    if args.detach {
        if as_json {
            output::print_json(&json!({ "job_id": job_id }))?;
        } else {
            output::print_line(job_id)?;
        }
        return Ok(CommandOutcome::Well);
    }
    let job = wait_for_end(&client, &args.action, &job_id).await?;
    if as_json {
        output::print_json(&job)?;
    }
    let report = &job["acted"];
    if !as_json && report.is_object() {
        print_report(report, args.dry_run)?;
    }
    if job["status"] != "succeeded" {
        let text = |name: &str| output::sanitize_text(job[name].as_str().unwrap_or_default());
        bail!("the action came to no end: {} {}", text("status"), text("detail"));
    }
    let refused = report["refused"].as_u64().unwrap_or_default();
    Ok(if refused > 0 { CommandOutcome::Badly } else { CommandOutcome::Well })
}

fn build_filter(args: &JobFilterArgs, now: SystemTime) -> anyhow::Result<Value> {
    let named = [
        ("status", &args.status),
        ("kind", &args.kind),
        ("code", &args.code),
        ("owner", &args.owner),
        ("media_id", &args.media),
        ("priority", &args.priority),
    ];
    let mut filter: Map<String, Value> =
        named.iter().filter_map(|(name, value)| Some(((*name).to_owned(), json!(value.as_ref()?)))).collect();
    for (name, flag, time) in
        [("created_from_ms", "--since", &args.since), ("created_until_ms", "--until", &args.until)]
    {
        if let Some(time) = time {
            filter.insert(name.to_owned(), json!(parse_past(time, now).context(flag)?));
        }
    }
    Ok(Value::Object(filter))
}

/// Unix time in milliseconds of a time with an offset, or of a duration before now.
fn parse_past(text: &str, now: SystemTime) -> anyhow::Result<u64> {
    if let Ok(time) = text.parse::<jiff::Timestamp>() {
        return u64::try_from(time.as_millisecond()).context("it lies before 1970");
    }
    let ago = humantime::parse_duration(text).with_context(|| {
        format!("{text:?} is no time with an offset, and no duration such as 90m, 2h, 7d")
    })?;
    let since = now.duration_since(SystemTime::UNIX_EPOCH)?.checked_sub(ago).unwrap_or(Duration::ZERO);
    Ok(u64::try_from(since.as_millis())?)
}

fn print_report(report: &Value, is_dry_run: bool) -> std::io::Result<()> {
    for refusal in report["first_refusals"].as_array().map_or(&[] as &[Value], Vec::as_slice) {
        let text = |name: &str| output::sanitize_text(refusal[name].as_str().unwrap_or_default());
        output::print_line(format!("{}  {}  {}", text("job_id"), text("code"), text("detail")))?;
    }
    let number = |name: &str| report[name].as_u64().unwrap_or_default();
    let would = if is_dry_run { "would be " } else { "" };
    output::print_line(format!(
        "{} jobs: {} {would}changed, {} as they should be, {} refused",
        number("matched"),
        number("changed"),
        number("unchanged"),
        number("refused")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_has_what_is_named_and_times_of_the_past() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(10_000);
        let args = JobFilterArgs {
            code: Some("time_exceeded".into()),
            since: Some("1h".into()),
            until: Some("1970-01-01T02:00:00Z".into()),
            ..JobFilterArgs::default()
        };
        let wanted =
            json!({ "code": "time_exceeded", "created_from_ms": 6_400_000, "created_until_ms": 7_200_000 });
        assert_eq!(build_filter(&args, now).unwrap(), wanted);
        let args = JobFilterArgs { since: Some("yesterday".into()), ..JobFilterArgs::default() };
        assert!(
            format!("{:#}", build_filter(&args, now).unwrap_err())
                .contains("--since: \"yesterday\" is no time")
        );
    }
}

//! `health` and `logs`: how the processes of an installation stand, and what they logged, as a monitor has it; `logs level` changes what they
//! log for a while.

use std::time::Duration;

use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};

use super::{ClientArgs, client::ApiClient, output, render};

/// How often new lines are asked for.
const FOLLOW_PERIOD: Duration = Duration::from_secs(1);

/// Flags of `health`.
#[derive(Debug, clap::Args)]
pub struct HealthArgs {
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// What to do with logs beside reading them.
#[derive(Debug, clap::Subcommand)]
pub enum LogsCommand {
    /// Have processes log more, or less, for a while; without a filter what is changed, and until when
    #[command(after_help = "Examples:
  streamgate logs level debug --role upload --for 15m
  streamgate logs level upload=debug,nats::consume=trace --reason 'files are rejected that play elsewhere'
  streamgate logs level                             what is changed, until when, and by whom
  streamgate logs level --role upload --for 0s      what is configured holds again

A filter names modules of this program; what libraries log stays as it is configured. Changing it is for admins, and audited.")]
    Level(LogLevelArgs),
}

/// Flags of `logs level`.
#[derive(Debug, clap::Args)]
pub struct LogLevelArgs {
    /// A level (error, warn, info, debug, trace), or directives such as `upload=debug`
    #[arg(value_name = "FILTER")]
    pub filter: Option<String>,
    /// Only processes that run this role
    #[arg(long, conflicts_with = "instance")]
    pub role: Option<String>,
    /// Only this process, as `streamgate health` names it
    #[arg(long)]
    pub instance: Option<String>,
    /// For how long from now on, such as 15m or 2h, a day at most; 0s takes it back
    #[arg(long = "for", value_name = "DURATION", default_value = "15m")]
    pub duration: String,
    /// For people who wonder
    #[arg(long)]
    pub reason: Option<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Flags of `logs`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct LogsArgs {
    /// What to do; shows lines where nothing is said.
    #[command(subcommand)]
    pub command: Option<LogsCommand>,
    /// Go on with what is logged from now on
    #[arg(long, short)]
    pub follow: bool,
    /// Only lines at least that bad: trace, debug, info, warn, error
    #[arg(long, value_parser = ["trace", "debug", "info", "warn", "error"])]
    pub severity: Option<String>,
    /// Only of processes of this role
    #[arg(long)]
    pub role: Option<String>,
    /// Only of modules whose name begins so, such as `upload::verify`
    #[arg(long)]
    pub target: Option<String>,
    /// Only about this medium
    #[arg(long, value_name = "MEDIA_ID")]
    pub media: Option<String>,
    /// Only about this job
    #[arg(long, value_name = "JOB_ID")]
    pub job: Option<String>,
    /// Only for this request, as `request_id` of a problem names it
    #[arg(long, value_name = "REQUEST_ID")]
    pub request: Option<String>,
    /// Only of this trace
    #[arg(long, value_name = "TRACE_ID")]
    pub trace: Option<String>,
    /// Most lines at the beginning
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    pub limit: u32,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Shows how everything stands; true when something does not work.
///
/// # Errors
/// When the server refuses.
pub(super) async fn show_health(args: &HealthArgs, as_json: bool) -> anyhow::Result<bool> {
    let health = ApiClient::new(&args.client)?.get_json("v1/monitor/health", &[]).await?;
    let is_degraded = health["state"] != "ok";
    if as_json {
        output::print_json(&health)?;
        return Ok(is_degraded);
    }
    let processes = health["processes"].as_array().map_or(&[][..], Vec::as_slice);
    let row = |process: &Value| {
        let roles = process["roles"].as_array().map_or(&[][..], Vec::as_slice);
        let roles: Vec<&str> = roles.iter().filter_map(Value::as_str).collect();
        vec![
            roles.join(" "),
            render::format_scalar("instance", &process["instance"]),
            render::format_scalar("state", &process["state"]),
            format!("{:.1} s", process["silent_ms"].as_f64().unwrap_or_default() / 1_000.0),
            render::format_scalar("version", &process["version"]),
            render::format_scalar("started_at_ms", &process["started_at_ms"]),
        ]
    };
    let rows: Vec<Vec<String>> = processes.iter().map(row).collect();
    output::print_line(render::format_table(
        &["ROLES", "INSTANCE", "STATE", "LAST WORD", "VERSION", "STARTED"],
        &rows,
    ))?;
    let degraded = health["degraded"].as_array().map_or(&[][..], Vec::as_slice);
    for line in degraded.iter().filter_map(Value::as_str) {
        output::print_line(output::sanitize_text(line))?;
    }
    if degraded.is_empty() {
        output::print_message("Everything works.");
    }
    Ok(is_degraded)
}

/// Does what is asked about logs.
///
/// # Errors
/// When the server refuses, or output can't be written.
pub(super) async fn run_logs(args: &LogsArgs, as_json: bool) -> anyhow::Result<()> {
    match &args.command {
        None => show_logs(args, as_json).await,
        Some(LogsCommand::Level(level)) => change_level(level, as_json).await,
    }
}

const LEVEL_HEADS: &[&str] = &["OF", "FILTER", "UNTIL", "SET BY", "REASON"];

/// Changes what is logged, or lists what is changed.
async fn change_level(args: &LogLevelArgs, as_json: bool) -> anyhow::Result<()> {
    let duration = humantime::parse_duration(&args.duration)
        .with_context(|| format!("--for: {:?} is no duration such as 15m, 2h", args.duration))?;
    let client = ApiClient::new(&args.client)?;
    let path = "v1/monitor/logs/level";
    let list = if args.filter.is_none() && !duration.is_zero() {
        client.get_json(path, &[]).await?
    } else {
        let for_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
        let LogLevelArgs { filter, role, instance, reason, .. } = args;
        let body = json!({
            "filter": filter, "role": role, "instance": instance, "for_ms": for_ms, "reason": reason,
        });
        client.send_json(client.build_request(Method::PUT, client.build_url(path, &[])).json(&body)).await?
    };
    let items = list["items"].as_array().map_or(&[][..], Vec::as_slice);
    if as_json {
        return Ok(items.iter().try_for_each(output::print_json)?);
    }
    let rows: Vec<Vec<String>> = items.iter().map(level_row).collect();
    output::print_line(render::format_table(LEVEL_HEADS, &rows))?;
    if items.is_empty() {
        output::print_message("All processes log what is configured.");
    }
    Ok(())
}

fn level_row(item: &Value) -> Vec<String> {
    let field = |name: &str| render::format_scalar(name, &item[name]);
    let of = match (&item["role"], &item["instance"]) {
        (Value::String(role), _) => format!("role {}", output::sanitize_text(role)),
        (_, Value::String(instance)) => format!("process {}", output::sanitize_text(instance)),
        _ => "all".to_owned(),
    };
    vec![of, field("filter"), field("until_ms"), field("set_by"), field("reason")]
}

/// Shows lines of the log, and goes on with new ones if that is asked for.
async fn show_logs(args: &LogsArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let limit = args.limit.to_string();
    let query: Vec<(&str, Option<&str>)> = vec![
        ("limit", Some(&limit)),
        ("severity", args.severity.as_deref()),
        ("role", args.role.as_deref()),
        ("target", args.target.as_deref()),
        ("media_id", args.media.as_deref()),
        ("job_id", args.job.as_deref()),
        ("request_id", args.request.as_deref()),
        ("trace_id", args.trace.as_deref()),
    ];
    let mut page = client.get_json("v1/monitor/logs", &query).await?;
    loop {
        print_lines(&page, as_json)?;
        if !args.follow {
            return Ok(());
        }
        let is_full = page["items"].as_array().is_some_and(|items| items.len() == args.limit as usize);
        if !is_full {
            tokio::time::sleep(FOLLOW_PERIOD).await;
        }
        let behind = page["next"].as_u64().unwrap_or_default().to_string();
        let place = [("behind", Some(behind.as_str())), ("monitor", page["monitor"].as_str())];
        let with_place: Vec<(&str, Option<&str>)> = query.iter().copied().chain(place).collect();
        page = match client.get_json("v1/monitor/logs", &with_place).await {
            Ok(next) => next,
            // It is gone: another one numbers lines anew, and its newest ones come.
            Err(error) if error.code() == "not_found" => client.get_json("v1/monitor/logs", &query).await?,
            Err(error) => return Err(error.into()),
        };
    }
}

fn print_lines(page: &Value, as_json: bool) -> anyhow::Result<()> {
    let lost = page["lost"].as_u64().unwrap_or_default();
    if lost > 0 && !as_json {
        output::print_message(format!("{lost} lines went before they were asked for"));
    }
    for item in page["items"].as_array().into_iter().flatten() {
        if as_json {
            output::print_json(item)?;
            continue;
        }
        let line = &item["line"];
        let fields = line["fields"].as_object().into_iter().flatten();
        let fields: Vec<String> =
            fields.map(|(name, value)| format!("{name}={}", value.as_str().unwrap_or_default())).collect();
        let text = format!(
            "{} {:>5} {} {}: {} {}",
            render::format_scalar("at_ms", &line["at_ms"]),
            line["severity"].as_str().unwrap_or_default(),
            item["role"].as_str().unwrap_or_default(),
            line["target"].as_str().unwrap_or_default(),
            line["message"].as_str().unwrap_or_default(),
            fields.join(" ")
        );
        output::print_line(output::sanitize_text(text.trim_end()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_says_whose_log_is_changed() {
        let item = |role: Value, instance: Value| json!({ "role": role, "instance": instance, "filter": "debug", "until_ms": 1, "set_by": "admin", "reason": "odd files" });
        for (item, of) in [
            (item(json!("upload"), Value::Null), "role upload"),
            (item(Value::Null, json!("0123456789abcdef")), "process 0123456789abcdef"),
            (item(Value::Null, Value::Null), "all"),
        ] {
            let row = level_row(&item);
            assert_eq!((row.len(), row[0].as_str(), row[1].as_str()), (LEVEL_HEADS.len(), of, "debug"));
        }
    }
}

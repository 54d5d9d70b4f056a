//! `health` and `logs`: how the processes of an installation stand, and what they logged, as a monitor has it.

use std::time::Duration;

use serde_json::Value;

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

/// Flags of `logs`.
#[derive(Debug, clap::Args)]
pub struct LogsArgs {
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

/// Shows lines of the log, and goes on with new ones if that is asked for.
///
/// # Errors
/// When the server refuses, or output can't be written.
pub(super) async fn show_logs(args: &LogsArgs, as_json: bool) -> anyhow::Result<()> {
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

//! `alerts`: what fires, keeping an alert quiet, and saying that one looks at it; and the rules as a file for Prometheus, and dashboards for
//! Grafana.

use std::{path::Path, time::Duration};

use ::alerts::{RenderOptions, RuleSet};
use anyhow::Context as _;
use reqwest::Method;
use serde_json::{Value, json};

use super::{
    ClientArgs,
    client::{ApiClient, ClientError},
    output, render,
};

/// What to do with alerts.
#[derive(Debug, clap::Subcommand)]
pub enum AlertsCommand {
    /// Inform nobody of an alert for a while
    #[command(after_help = "Examples:
  streamgate alerts silence StreamGateStreamFilling --for 2h --reason 'the disk is being replaced'
  streamgate alerts silence 5d5ba0a1b2c3d4e5 --for 30m      one alert of a rule, by its id
  streamgate alerts silence StreamGateStreamFilling --for 0s    no more")]
    Silence(AlertMarkArgs),
    /// Say that one looks at what fires: nobody is reminded of it for a while
    Acknowledge(AlertMarkArgs),
}

/// Flags of `alerts`.
#[derive(Debug, clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub struct AlertsArgs {
    /// What to do; lists them where nothing is said.
    #[command(subcommand)]
    pub command: Option<AlertsCommand>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

/// Which alert, for how long, and why.
#[derive(Debug, clap::Args)]
pub struct AlertMarkArgs {
    /// The name of a rule, or the id of an alert
    #[arg(value_name = "ALERT")]
    pub alert: String,
    /// For how long from now on, such as 90m or 2h; 0s takes it back
    #[arg(long = "for", value_name = "DURATION")]
    pub duration: String,
    /// For people who wonder
    #[arg(long)]
    pub reason: Option<String>,
    /// The server.
    #[command(flatten)]
    pub client: ClientArgs,
}

const HEADS: &[&str] = &["PHASE", "SEVERITY", "ALERT", "SINCE", "ID", "NOTE", "SUMMARY"];

/// Lists alerts, or marks one.
///
/// # Errors
/// When the server refuses.
pub async fn run_alerts(args: AlertsArgs, as_json: bool) -> anyhow::Result<()> {
    match args.command {
        None => list_alerts(&ApiClient::new(&args.client)?, as_json).await,
        Some(AlertsCommand::Silence(mark)) => mark_alert(&mark, "silence", as_json).await,
        Some(AlertsCommand::Acknowledge(mark)) => mark_alert(&mark, "acknowledge", as_json).await,
    }
}

async fn mark_alert(args: &AlertMarkArgs, action: &str, as_json: bool) -> anyhow::Result<()> {
    let duration: Duration = humantime::parse_duration(&args.duration)
        .with_context(|| format!("--for: {:?} is no duration such as 90m, 2h, 7d", args.duration))?;
    let client = ApiClient::new(&args.client)?;
    let mut url = client.build_url("v1/monitor/alerts", &[]);
    // What was given may hold what has a meaning in paths.
    url.path_segments_mut()
        .map_err(|()| ClientError::strange("the address has no path"))?
        .extend([args.alert.as_str(), action]);
    let for_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let body = json!({ "for_ms": for_ms, "reason": args.reason });
    let mark: Value = client.send(client.build_request(Method::POST, url).json(&body)).await?.json().await?;
    if as_json {
        return Ok(output::print_json(&mark)?);
    }
    let until = render::format_scalar("until_ms", &mark["until_ms"]);
    let alert = output::sanitize_text(&args.alert);
    output::print_message(match (for_ms, action) {
        (0, _) => format!("Taken back: {alert}"),
        (_, "silence") => format!("Silenced until {until}: {alert}"),
        _ => format!("Acknowledged until {until}: {alert}"),
    });
    Ok(())
}

async fn list_alerts(client: &ApiClient, as_json: bool) -> anyhow::Result<()> {
    let list = client.get_json("v1/monitor/alerts", &[]).await?;
    let items = list["items"].as_array().ok_or_else(|| ClientError::strange("the answer is no list"))?;
    if as_json {
        items.iter().try_for_each(output::print_json)?;
    }
    for warning in list_warnings(&list) {
        output::print_message(warning);
    }
    if as_json {
        return Ok(());
    }
    let rows: Vec<Vec<String>> = items.iter().map(alert_row).collect();
    output::print_line(render::format_table(HEADS, &rows))?;
    for silence in list["silences"].as_array().into_iter().flatten() {
        let field = |name: &str| render::format_scalar(name, &silence[name]);
        output::print_message(format!(
            "Silenced until {} by {}: {}",
            field("until_ms"),
            field("made_by"),
            field("alert")
        ));
    }
    Ok(())
}

/// Why the list may not be all there is.
fn list_warnings(list: &Value) -> Vec<String> {
    let mut warnings = Vec::new();
    if list["evaluated_at_ms"].as_u64().unwrap_or(0) == 0 {
        warnings.push("No monitor has evaluated anything yet: start `streamgate worker monitor`".to_owned());
    } else if list["is_stale"].as_bool().unwrap_or(false) {
        let since = render::format_scalar("evaluated_at_ms", &list["evaluated_at_ms"]);
        warnings.push(format!(
            "No monitor has evaluated anything since {since}, so this list is old: start `streamgate worker monitor`, or see its log"
        ));
    }
    let omitted_count = list["omitted_count"].as_u64().unwrap_or(0);
    if omitted_count > 0 {
        warnings
            .push(format!("Alerts that are not listed, since there is no place for them: {omitted_count}"));
    }
    warnings
}

fn alert_row(alert: &Value) -> Vec<String> {
    let field = |name: &str| render::format_scalar(name, &alert[name]);
    let note = match (&alert["silence"], &alert["acknowledgement"]) {
        (Value::Object(_), _) => "silenced",
        (_, Value::Object(_)) => "acknowledged",
        _ => "",
    };
    let since = if alert["fired_at_ms"].is_null() { "since_ms" } else { "fired_at_ms" };
    vec![
        field("phase"),
        field("severity"),
        field("name"),
        field(since),
        field("alert_id"),
        note.to_owned(),
        field("summary"),
    ]
}

/// Prints the rules as a file for Prometheus; durations are divided by `time_scale`.
///
/// # Errors
/// When the output can't be written.
pub fn print_rules(base_url: Option<&str>, time_scale: u64) -> anyhow::Result<()> {
    let set = RuleSet::built_in()?.shortened(time_scale, 1_000);
    let text = ::alerts::render_rules(&set, &render_options(base_url));
    Ok(output::print_line(text.trim_end())?)
}

/// Writes the dashboards into a folder, which is made if it is not there; other files in it are left alone.
///
/// # Errors
/// When the folder can't be written.
pub fn write_dashboards(folder: &Path, base_url: Option<&str>) -> anyhow::Result<()> {
    let unusable = || format!("{} can't be written; name a folder that can", folder.display());
    std::fs::create_dir_all(folder).with_context(unusable)?;
    let files = ::alerts::render_dashboards(&RuleSet::built_in()?, &render_options(base_url));
    for file in &files {
        std::fs::write(folder.join(&file.name), &file.text).with_context(unusable)?;
    }
    output::print_message(format!("{} dashboards are in {}", files.len(), folder.display()));
    Ok(())
}

fn render_options(base_url: Option<&str>) -> RenderOptions {
    RenderOptions { base_url: base_url.unwrap_or_default().trim_end_matches('/').to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_that_is_old_or_not_whole_says_so() {
        let list = json!({ "evaluated_at_ms": 1, "is_stale": true, "omitted_count": 3 });
        let warnings = list_warnings(&list);
        assert!(warnings[0].contains("this list is old") && warnings[1].ends_with(": 3"), "{warnings:?}");
        let list = json!({ "evaluated_at_ms": 0, "is_stale": true, "omitted_count": 0 });
        assert!(list_warnings(&list)[0].contains("yet"));
        let list = json!({ "evaluated_at_ms": 1, "is_stale": false, "omitted_count": 0 });
        assert!(list_warnings(&list).is_empty());
    }

    #[test]
    fn a_row_fits_its_heads_and_says_who_looks_at_it() {
        let alert = json!({
            "phase": "firing", "severity": "page", "name": "StreamGateBrokerDown", "since_ms": 1, "fired_at_ms": 2, "alert_id": "a",
            "silence": null, "acknowledgement": { "made_by": "admin" }, "summary": "away",
        });
        let row = alert_row(&alert);
        assert_eq!(row.len(), HEADS.len());
        assert_eq!((row[0].as_str(), row[5].as_str(), row[6].as_str()), ("firing", "acknowledged", "away"));
    }
}

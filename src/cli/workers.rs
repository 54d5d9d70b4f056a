//! `workers`: the processes that encode, for operators.

use reqwest::Method;
use serde_json::Value;

use super::{
    WorkerNameArgs, WorkersCommand,
    client::{ApiClient, ClientError},
    output, render,
};

const HEADS: &[&str] = &["WORKER", "QUEUE", "STATE", "HELD", "SPEED", "STARTED", "HOST", "VERSION", "PARTS"];

const LOAD_HEADS: &[&str] =
    &["PROFILE", "SUCCEEDED", "FAILED", "CANCELLED", "OUTPUT", "SPEED", "MEDIAN", "P95"];

/// Lists the live workers.
///
/// # Errors
/// When the server refuses.
pub async fn run_workers(command: WorkersCommand, as_json: bool) -> anyhow::Result<()> {
    match command {
        WorkersCommand::Ls { client } => list_workers(&ApiClient::new(&client)?, as_json).await,
        WorkersCommand::Load { client } => show_load(&ApiClient::new(&client)?, as_json).await,
        WorkersCommand::Pause(args) => change_worker(&args, "pause", as_json).await,
        WorkersCommand::Resume(args) => change_worker(&args, "resume", as_json).await,
        WorkersCommand::Drain(args) => change_worker(&args, "drain", as_json).await,
    }
}

async fn change_worker(args: &WorkerNameArgs, action: &str, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let url = client.build_url(&format!("v1/workers/{}/{action}", args.worker), &[]);
    let changed: Value = client.send(client.build_request(Method::POST, url)).await?.json().await?;
    if as_json {
        return Ok(output::print_json(&changed)?);
    }
    let state = output::sanitize_text(changed["state"].as_str().unwrap_or_default());
    output::print_message(format!("{}: {state}", output::sanitize_text(&args.worker)));
    Ok(())
}

async fn list_workers(client: &ApiClient, as_json: bool) -> anyhow::Result<()> {
    let list = client.get_json("v1/workers", &[]).await?;
    let items = list["items"].as_array().ok_or_else(|| ClientError::strange("the answer is no list"))?;
    if as_json {
        items.iter().try_for_each(output::print_json)?;
    } else {
        let rows: Vec<Vec<String>> = items.iter().map(worker_row).collect();
        output::print_line(render::format_table(HEADS, &rows))?;
        if items.is_empty() {
            output::print_message(
                "No worker runs; start them with `streamgate worker transcode` and `worker tasks`",
            );
        }
    }
    if list["has_more"] == true {
        output::print_message(format!("There are more workers than these {}", items.len()));
    }
    Ok(())
}

async fn show_load(client: &ApiClient, as_json: bool) -> anyhow::Result<()> {
    let metrics = client.get_json("v1/transcode/metrics", &[]).await?;
    if as_json {
        return Ok(output::print_json(&metrics)?);
    }
    output::print_line(describe_load(&metrics))?;
    let profiles = metrics["profiles"].as_array().map_or(&[] as &[Value], Vec::as_slice);
    if profiles.is_empty() {
        output::print_message("Nothing was encoded in the last hour");
        return Ok(());
    }
    let rows: Vec<Vec<String>> = profiles.iter().map(profile_row).collect();
    Ok(output::print_line(render::format_table(LOAD_HEADS, &rows))?)
}

fn describe_load(metrics: &Value) -> String {
    let (slots, queue) = (&metrics["slots"], &metrics["queue"]);
    let number = |of: &Value, name: &str| of[name].as_u64().unwrap_or_default();
    let workers = match number(slots, "workers") {
        1 => "1 worker".to_owned(),
        count => format!("{count} workers"),
    };
    let workers =
        format!("{} of {} slots work, of {workers}", number(slots, "slots_held"), number(slots, "slots"));
    if queue.is_null() {
        return format!("{workers}; no keeper answers, and nothing is let into the queue");
    }
    format!(
        "{workers}; {} jobs wait, the queue holds {} of {} parts",
        number(queue, "jobs_waiting"),
        number(queue, "queue_parts"),
        number(queue, "queue_parts_max")
    )
}

fn profile_row(profile: &Value) -> Vec<String> {
    let field = |name: &str| render::format_scalar(name, &profile[name]);
    let time = |name: &str| profile[name].as_u64().map_or_else(String::new, render::format_duration);
    vec![
        field("profile"),
        field("succeeded"),
        field("failed"),
        field("cancelled"),
        time("output_ms"),
        profile["speed"].as_u64().map_or_else(String::new, format_speed),
        time("job_ms_median"),
        time("job_ms_p95"),
    ]
}

fn worker_row(worker: &Value) -> Vec<String> {
    let field = |name: &str| render::format_scalar(name, &worker[name]);
    let held: &[Value] = worker["held"].as_array().map_or(&[], Vec::as_slice);
    let part = |held: &Value| {
        let text = |name: &str| output::sanitize_text(held[name].as_str().unwrap_or_default());
        format!("{}/{}", text("job_id"), text("part"))
    };
    vec![
        field("worker"),
        field("queue"),
        field("state"),
        format!("{}/{}", held.len(), field("slots")),
        worker["speed"].as_u64().map_or_else(String::new, format_speed),
        field("started_at_ms"),
        field("host"),
        field("version"),
        held.iter().map(part).collect::<Vec<_>>().join(" "),
    ]
}

/// Milliseconds of output for each 1,000 milliseconds, as a multiple of real time.
fn format_speed(speed: u64) -> String {
    format!("{}.{}x", speed / 1_000, speed % 1_000 / 100)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn the_load_says_what_works_and_what_was_made() {
        let profile = json!({
            "profile": "default", "succeeded": 2, "failed": 0, "cancelled": 1, "output_ms": 61_000, "speed": 1_500,
            "job_ms_median": 2_000, "job_ms_p95": null,
        });
        let row = profile_row(&profile);
        assert_eq!(row.len(), LOAD_HEADS.len());
        assert_eq!(row.join("|"), "default|2|0|1|1:01 min|1.5x|2.0 s|");
        let slots = json!({ "slots_held": 1, "slots": 4, "workers": 2 });
        let queue = json!({ "jobs_waiting": 3, "queue_parts": 8, "queue_parts_max": 8 });
        assert_eq!(
            describe_load(&json!({ "slots": slots, "queue": queue })),
            "1 of 4 slots work, of 2 workers; 3 jobs wait, the queue holds 8 of 8 parts"
        );
        let silent = describe_load(&json!({ "slots": slots, "queue": null }));
        assert!(silent.ends_with("no keeper answers, and nothing is let into the queue"), "{silent}");
    }

    #[test]
    fn a_row_fits_its_heads_and_names_what_is_held() {
        let held = [
            json!({ "job_id": "j1", "part": "v0001", "since_ms": 1 }),
            json!({ "job_id": "j2", "part": "a0" }),
        ];
        let worker = json!({ "worker": "ab", "queue": "tasks", "state": "paused", "slots": 4, "held": held, "speed": 2_450, "host": "east" });
        let row = worker_row(&worker);
        assert_eq!(row.len(), HEADS.len());
        assert_eq!(row[1..5].join(" "), "tasks paused 2/4 2.4x");
        assert_eq!(row[8], "j1/v0001 j2/a0");
        assert_eq!(worker_row(&json!({ "slots": 1, "speed": null }))[3..5], ["0/1", ""]);
    }
}

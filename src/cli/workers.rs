//! `workers`: the processes that encode, for operators.

use reqwest::Method;
use serde_json::Value;

use super::{
    WorkerNameArgs, WorkersCommand,
    client::{ApiClient, ClientError},
    output, render,
};

const HEADS: &[&str] = &["WORKER", "QUEUE", "STATE", "HELD", "SPEED", "STARTED", "HOST", "VERSION", "PARTS"];

/// Lists the live workers.
///
/// # Errors
/// When the server refuses.
pub async fn run_workers(command: WorkersCommand, as_json: bool) -> anyhow::Result<()> {
    match command {
        WorkersCommand::Ls { client } => list_workers(&ApiClient::new(&client)?, as_json).await,
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

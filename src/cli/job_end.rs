//! Waiting for the end of a job, with a bar.

use std::time::{Duration, Instant};

use anyhow::Context;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::Value;

use super::{
    client::{AWAY_MAX, ApiClient},
    output,
};

/// How often a job is looked at until it has ended.
pub(super) const LOOK_PERIOD: Duration = Duration::from_millis(500);

/// The job once it has ended; `name` stands before the bar. Of a job without a known length the state alone is shown.
pub(super) async fn wait_for_end(client: &ApiClient, name: &str, job_id: &str) -> anyhow::Result<Value> {
    let bar = ProgressBar::new(100);
    let name = output::sanitize_text(name);
    bar.set_message(name.clone());
    let (mut failed_since, mut state) = (None, Value::Null);
    loop {
        match client.get_json(&format!("v1/jobs/{job_id}"), &[]).await {
            Ok(job) if job["status"] != "active" => {
                bar.finish_and_clear();
                return Ok(job);
            }
            Ok(job) => {
                failed_since = None;
                show_progress(&bar, &job);
                if job["state"] != state {
                    state = job["state"].clone();
                    if state == "paused" {
                        output::print_message(format!(
                            "The job {job_id} is paused until somebody resumes it"
                        ));
                    }
                    let state = output::sanitize_text(state.as_str().unwrap_or_default());
                    bar.set_message(format!("{name} {state}"));
                }
            }
            // A server that is started anew, or a proxy before it.
            Err(error) if error.is_transient() => {
                if failed_since.get_or_insert_with(Instant::now).elapsed() >= AWAY_MAX {
                    return Err(error)
                        .with_context(|| format!("the job {job_id} goes on without this command"));
                }
            }
            Err(error) => return Err(error.into()),
        }
        tokio::time::sleep(LOOK_PERIOD).await;
    }
}

fn show_progress(bar: &ProgressBar, job: &Value) {
    let has_length = job["progress"]["total_ms"].as_u64().is_some_and(|total_ms| total_ms > 0);
    let template = if has_length { "{msg} {bar:40} {percent} %" } else { "{msg} {elapsed}" };
    if let Ok(style) = ProgressStyle::with_template(template) {
        bar.set_style(style);
    }
    bar.set_position(job["progress"]["percent"].as_u64().unwrap_or_default());
}

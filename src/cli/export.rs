//! `jobs export`: has a file of a medium sent to an address, and says what was sent.

use anyhow::bail;
use reqwest::Method;
use serde_json::{Value, json};

use super::{ExportArgs, client::ApiClient, job_end::wait_for_end, output, render};

/// Begins the job, and with `--wait` says what came of it.
///
/// # Errors
/// When the server refuses, or the host that takes the file does: the code says which.
pub(super) async fn export_medium(args: &ExportArgs, as_json: bool) -> anyhow::Result<()> {
    let client = ApiClient::new(&args.client)?;
    let request = client.build_request(Method::POST, client.build_url("v1/jobs", &[]));
    let begun = client.send_json(request.json(&json!({ "job": describe_job(args) }))).await?;
    let job_id = output::sanitize_text(begun["job_id"].as_str().unwrap_or_default());
    if !args.wait {
        if as_json {
            output::print_json(&begun)?;
        } else {
            output::print_line(job_id)?;
        }
        return Ok(());
    }
    if !as_json {
        output::print_message(format!("Exporting {}: job {job_id}", output::sanitize_text(&args.media_id)));
    }
    let job = wait_for_end(&client, &args.media_id, &job_id).await?;
    if as_json {
        output::print_json(&job)?;
    }
    if job["status"] != "succeeded" {
        bail!("{}", explain_end(&job));
    }
    if !as_json {
        output::print_line(describe_end(&job["exported"]))?;
    }
    Ok(())
}

/// What the command line asks for.
fn describe_job(args: &ExportArgs) -> Value {
    let mut job = json!({
        "kind": "export", "media_id": args.media_id, "target_url": args.to, "file": args.what,
    });
    if let Some(height) = args.height {
        job["height"] = json!(height);
    }
    for (name, value) in [("audio", &args.audio), ("priority", &args.priority)] {
        if let Some(value) = value {
            job[name] = json!(value);
        }
    }
    job
}

fn describe_end(report: &Value) -> String {
    let size = render::format_size(report["size_bytes"].as_u64().unwrap_or_default());
    let sha256 = output::sanitize_text(report["sha256"].as_str().unwrap_or_default());
    format!("sent {size}, SHA-256 {sha256}")
}

/// Why a job came to nothing.
fn explain_end(job: &Value) -> String {
    let text = |name: &str| output::sanitize_text(job[name].as_str().unwrap_or_default());
    match job["status"].as_str() {
        Some("cancelled") => "its job was cancelled".to_owned(),
        _ => format!("it was not sent: {} ({})", text("detail"), text("code")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_sent_is_said() {
        let report = json!({ "size_bytes": 2_048, "sha256": "ab" });
        assert_eq!(describe_end(&report), "sent 2.00 KiB, SHA-256 ab");
        let job = json!({ "status": "failed", "code": "export_refused", "detail": "a answered 403" });
        assert_eq!(explain_end(&job), "it was not sent: a answered 403 (export_refused)");
        assert_eq!(explain_end(&json!({ "status": "cancelled" })), "its job was cancelled");
    }
}
